//! Texts, ticks and spreading of schedules; what clocks do in London, New York, on Lord Howe and in Samoa.

use super::*;

fn read(text: &str) -> Schedule {
    text.parse().unwrap_or_else(|error: Error| panic!("{text}: {}", error.message()))
}

#[track_caller]
fn check_grid(now: i64, every: Duration, phase: u64) {
    let schedule = Schedule::every(every);
    let step = millis(every);
    let tick = schedule.following(Timestamp(now), phase).millis();
    assert!(tick - now >= step / 2, "{tick} comes too soon after {now}");
    assert!(tick - now < step + step / 2 + 1, "{tick} comes too late after {now}");
    assert_eq!((tick - offset(every, phase)).rem_euclid(step), 0, "ticks lie on the connection's own grid");
    assert_eq!(schedule.following(Timestamp(tick), phase).millis(), tick + step, "the grid goes on");
    assert_eq!(schedule.next_after(Timestamp(tick), phase), Some(Timestamp(tick + step)), "strictly after");
    assert_eq!(schedule.next_after(Timestamp(tick - 1), phase), Some(Timestamp(tick)));
}

/// Fails when the phase is left out, or the half interval.
#[test]
fn a_connections_runs_keep_their_place_in_the_interval() {
    for phase in [0, 1, 899_999, 900_000, u64::MAX] {
        for now in [0, 1, 450_000, 899_999, -5, 1_700_000_000_123] {
            check_grid(now, Duration::from_secs(900), phase);
            check_grid(now, Duration::from_secs(7 * 86_400), phase);
        }
    }
    let forever = Schedule::every(Duration::MAX);
    assert_eq!(forever.following(Timestamp(i64::MAX), 3), Timestamp(i64::MAX));
}

#[track_caller]
fn check_spread(schedule: &Schedule, window: i64) {
    let mut tenths = [0_u32; 10];
    for n in 0..1_000 {
        let tick = schedule.next_after(Timestamp(1), phase(&format!("connection-{n}"))).unwrap();
        let place = tick.millis().rem_euclid(86_400_000) % window / (window / 10);
        tenths[usize::try_from(place).unwrap()] += 1;
    }
    assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
}

#[test]
fn connections_are_spread_over_the_interval() {
    check_spread(&Schedule::every(Duration::from_secs(900)), 900_000);
}

#[track_caller]
fn check_text(text: &str, canonical: &str, words: &str) {
    let schedule = read(text);
    assert_eq!(schedule.to_string(), canonical, "{text}");
    assert_eq!(read(canonical), schedule, "{canonical} is read back as it was");
    assert_eq!(schedule.words(), words, "{text}");
}

#[track_caller]
fn check_refused(text: &str, hint: &str) {
    let error = text.parse::<Schedule>().expect_err(text);
    assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
    assert!(error.message().contains(hint), "{text}: {}", error.message());
}

#[test]
fn intervals_are_read_and_written() {
    check_text("15m", "15m", "every 15 minutes");
    check_text(" 3600s ", "1h", "every hour");
    check_text("7d skip", "7d skip", "every 7 days, missed ones left out");
    check_text("90s once", "90s", "every 90 seconds");
    for text in ["", " ", "15", "1w", "-1m", "15m 15m", "15m Europe/London", "1.5h", "15m extra"] {
        check_refused(text, "a schedule is");
    }
    for text in ["0s", "999ms", "99999d"] {
        check_refused(text, "an interval lies between");
    }
    check_refused("15m ~5m", "the whole of it");
    check_refused(&"0".repeat(201), "at most 200 bytes");
}

#[cfg(feature = "cron")]
mod cron {
    use chrono::{DateTime, TimeZone};

    use super::*;

    #[test]
    fn expressions_are_read_and_written() {
        check_text("0 3 * * *", "0 3 * * * UTC", "at 03:00 (UTC)");
        let nightly = "at 03:00 (Europe/London), spread over 30 minutes";
        check_text("0 3 * * *  Europe/London ~30m", "0 3 * * * Europe/London ~30m", nightly);
        let skipped = "at 03:00 (America/New_York), spread over 1 hour, missed ones left out";
        let text = "0 3 * * * skip ~60m America/New_York";
        check_text(text, "0 3 * * * America/New_York ~1h skip", skipped);
        check_text("@daily", "@daily UTC", "at 00:00 (UTC)");
        check_text("*/15 * * * *", "*/15 * * * * UTC", "every 15 minutes (UTC)");
        check_refused("0 3 * *", "a schedule is");
        check_refused("61 3 * * *", "61 3 * * *");
        check_refused("0 3 * * * Europe/Londn", "no time zone");
        check_refused("0 0 3 * * *", "no time zone");
        check_refused("0 3 * * * UTC UTC", "a schedule is");
        check_refused("0 3 * * * ~8d", "at most 7d");
        check_refused("0 3 * * * ~", "at most 7d");
        // Fails when an expression that never comes is taken, and searched for at every look.
        check_refused("0 0 30 2 *", "no such day");
        check_refused("@often", "@often");
        // Fails when a field that no time meets is searched for through all hours there are.
        check_refused(", 0,0 * * *", "an item of a list is empty");
        check_refused("1,,2 0 * * *", "an item of a list is empty");
    }

    /// Fails when a schedule is taken whose own text is longer than any that is read: set for a stream it would not count.
    #[test]
    fn what_is_taken_can_be_read_back() {
        let minutes = |number: usize| format!("{}0 3 * * *", "0,".repeat(number));
        let longest = read(&minutes(93));
        assert_eq!(read(&longest.to_string()), longest);
        check_refused(&minutes(94), "its time zone");
    }

    #[test]
    fn a_cron_expression_is_spread_over_its_window_and_no_further() {
        check_spread(&read("0 3 * * * ~30m"), 1_800_000);
        let (alone, spread) = (read("0 3 * * * Europe/London"), read("0 3 * * * Europe/London ~30m"));
        for now in (0..2_000_000_000_000).step_by(77_777_777_777) {
            for phase in [0, 1, 1_799_999, 12_345_678_901] {
                let place = i64::try_from(phase % 1_800_000).unwrap();
                let (now, later) = (Timestamp(now), Timestamp(now + place));
                let wanted = alone.next_after(now, phase).map(|tick| Timestamp(tick.millis() + place));
                assert_eq!(spread.next_after(later, phase), wanted);
            }
        }
    }

    /// Walks `expression` from a moment on and compares the wall clock of each tick.
    #[track_caller]
    fn check_zone(zone: &str, expression: &str, from: &str, wanted: &[&str]) {
        let schedule = read(&format!("{expression} {zone}"));
        let tz: chrono_tz::Tz = zone.parse().unwrap();
        let mut at = Timestamp(DateTime::parse_from_rfc3339(from).unwrap().timestamp_millis());
        let mut found = Vec::new();
        for _ in wanted {
            let next = schedule.next_after(at, 0).unwrap();
            assert!(next > at, "it goes on");
            // From any moment between two ticks the next one is the same.
            let between = Timestamp(at.millis() + (next.millis() - at.millis()) / 2);
            assert_eq!(schedule.next_after(between, 0), Some(next), "{zone} {expression} between");
            at = next;
            found.push(tz.timestamp_millis_opt(at.millis()).unwrap().format("%d %H:%M %z").to_string());
        }
        assert_eq!(found, wanted, "{zone} {expression}");
    }

    /// Fails when the expression is read in UTC, or the zone's offset of one season is kept for the other.
    #[test]
    fn clocks_that_are_put_forward_leave_no_run_out_and_make_none_twice() {
        let (london, york, howe) = ("Europe/London", "America/New_York", "Australia/Lord_Howe");
        let before = "2026-03-28T02:00:00Z";
        check_zone(london, "30 1 * * *", before, &["29 02:00 +0100", "30 01:30 +0100", "31 01:30 +0100"]);
        check_zone(london, "0 0 * * *", before, &["29 00:00 +0000", "30 00:00 +0100", "31 00:00 +0100"]);
        let halves = ["29 00:30 +0000", "29 02:00 +0100", "29 02:30 +0100"];
        check_zone(london, "*/30 * * * *", "2026-03-29T00:15:00Z", &halves);
        let before = "2026-03-07T12:00:00Z";
        check_zone(york, "30 2 * * *", before, &["08 03:00 -0400", "09 02:30 -0400", "10 02:30 -0400"]);
        check_zone(york, "30 1 * * *", before, &["08 01:30 -0500", "09 01:30 -0400"]);
        check_zone(howe, "15 2 * * *", "2026-10-02T16:00:00Z", &["04 02:30 +1100", "05 02:15 +1100"]);
    }

    #[test]
    fn clocks_that_are_put_back_repeat_what_repeats_and_nothing_else() {
        let (london, york, howe) = ("Europe/London", "America/New_York", "Australia/Lord_Howe");
        check_zone(london, "30 1 * * *", "2026-10-24T02:00:00Z", &["25 01:30 +0100", "26 01:30 +0000"]);
        let hours = ["25 01:00 +0100", "25 01:00 +0000", "25 02:00 +0000"];
        check_zone(london, "0 * * * *", "2026-10-24T23:30:00Z", &hours);
        let halves = ["01 01:00 -0400", "01 01:30 -0400", "01 01:00 -0500", "01 01:30 -0500", "01 02:00 -0500"];
        check_zone(york, "*/30 * * * *", "2026-11-01T04:45:00Z", &halves);
        check_zone(york, "30 1 * * *", "2026-10-31T12:00:00Z", &["01 01:30 -0400", "02 01:30 -0500"]);
        // Lord Howe's clocks are put back by half an hour.
        let quarters = ["05 01:30 +1100", "05 01:45 +1100", "05 01:30 +1030", "05 01:45 +1030", "05 02:00 +1030"];
        check_zone(howe, "*/15 * * * *", "2026-04-04T14:20:00Z", &quarters);
        check_zone(howe, "45 1 * * *", "2026-04-03T16:00:00Z", &["05 01:45 +1100", "06 01:45 +1030"]);
    }

    /// Samoa had no 30 December 2011. Fails when a search that finds nothing in a day ends the schedule.
    #[test]
    fn a_day_that_was_left_out_ends_no_schedule() {
        check_zone("Pacific/Apia", "0 12 * * *", "2011-12-29T20:00:00Z", &["29 12:00 -1000", "31 12:00 +1400"]);
        check_zone("Pacific/Apia", "0 0 * * *", "2011-12-29T05:17:00Z", &["29 00:00 -1000", "31 00:00 +1400"]);
    }

    #[test]
    fn a_leap_day_comes_and_the_end_of_the_calendar_is_no_panic() {
        check_zone("UTC", "0 0 29 2 *", "2026-01-01T00:00:00Z", &["29 00:00 +0000"]);
        for now in [i64::MIN, i64::MAX, i64::MAX - 1, 253_402_000_000_000] {
            assert_eq!(read("0 3 * * * ~1h").next_after(Timestamp(now), 7), None, "{now}");
            assert_eq!(read("0 3 * * *").following(Timestamp(now), 7), Timestamp(i64::MAX));
        }
    }

    #[test]
    fn what_was_missed_is_left_out_only_where_that_is_wanted() {
        let hour = 3_600_000;
        let three = Timestamp(86_400_000 * 20_000 + 3 * hour);
        for (text, late, left_out) in [
            ("0 3 * * *", 9 * hour, false),
            ("0 3 * * * skip", 0, false),
            ("0 3 * * * skip", hour, false),
            ("0 3 * * * skip", hour + 1, true),
            ("0 * * * * skip", hour / 2, false),
            ("0 * * * * skip", hour / 2 + 1, true),
            ("15m skip", 8 * 60_000, true),
            ("15m", 900 * hour, false),
            // A clock that was put back is not late.
            ("0 3 * * * skip", -5 * hour, false),
        ] {
            let now = Timestamp(three.millis() + late);
            assert_eq!(read(text).leaves_out(three, now, 0), left_out, "{text} {late} ms late");
        }
    }

    /// Fails when what is late is judged by the gap between two ticks, which says nothing of nights and weekends.
    #[test]
    fn three_ticks_must_pass_before_anything_is_late() {
        // Wednesday, 2026-04-01, 09:59:30 UTC.
        let since = Timestamp::from_seconds(1_775_037_570);
        for (text, seconds) in [
            ("15m", 45 * 60),
            ("*/10 * * * *", 20 * 60 + 30),
            // The next morning at 08:02, though a minute lies between two ticks.
            ("* 8-9 * * *", 22 * 3_600 + 2 * 60 + 30),
            ("* 8-9 * * * ~30m", 22 * 3_600 + 32 * 60 + 30),
            ("0 10 * * *", 2 * 86_400 + 30),
            ("0 9 * * MON-FRI", 86_400 * 5 - 3_600 + 30),
        ] {
            assert_eq!(read(text).late_at(since).since(since), Duration::from_secs(seconds), "{text}");
        }
        assert_eq!(read("15m").late_at(Timestamp(i64::MAX)), Timestamp(i64::MAX));
    }
}

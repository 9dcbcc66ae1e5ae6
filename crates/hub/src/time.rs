//! Moments as people and machines read them. Pure.

use palisade_core::Timestamp;

/// Writes a moment as `2026-01-31T12:00:00Z`.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    at.rfc3339()
}

/// Reads a moment such as `2026-01-31T12:00:00.5+01:00`.
pub(crate) fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let at = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at_checked(at)?;
    let numbers = |text: &str, by: char, widths: [usize; 3]| -> Option<[i64; 3]> {
        let mut parts = text.split(by);
        let mut found = [0; 3];
        for (place, width) in found.iter_mut().zip(widths) {
            let part = parts.next()?;
            let plain = part.len() == width && part.bytes().all(|c| c.is_ascii_digit());
            *place = if plain { part.parse().ok()? } else { return None };
        }
        parts.next().is_none().then_some(found)
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(whole, ':', [2, 2, 2])?;
    let offset = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign, rest) => {
            let [hours, minutes, _] = numbers(&format!("{rest}:00"), ':', [2, 2, 2])?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * 60 * if sign == "-" { -1 } else { 1 }
        }
    };
    if fraction.is_empty() || !fraction.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    // Days from 1970-01-01 (Howard Hinnant's `days_from_civil`).
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let (era, of_era) = (y.div_euclid(400), y.rem_euclid(400));
    let of_year = (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    // A day the calendar does not have would be written as another one.
    let day_of = || Timestamp(days * 86_400_000).rfc3339();
    let real = (1..=12).contains(&month) && (1..=31).contains(&day) && day_of().get(..10) == Some(date);
    if !real || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(Timestamp(((days * 86_400 + hour * 3_600 + minute * 60 + second - offset) * 1_000).saturating_add(millis)))
}

/// Writes the time of day as `12:00:00`.
pub(crate) fn clock(at: Timestamp) -> String {
    let of_day = at.seconds().rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", of_day / 3_600, of_day / 60 % 60, of_day % 60)
}

/// Writes how long ago a moment was, or how far ahead.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.millis().saturating_sub(at.millis()).div_euclid(1_000);
    let span = |n: i64| match n {
        n if n < 60 => format!("{n} s"),
        n if n < 3_600 => format!("{} min", n / 60),
        n if n < 86_400 => format!("{} h", n / 3_600),
        n => format!("{} days", n / 86_400),
    };
    match seconds {
        0..=1 => "just now".to_owned(),
        n if n < 0 => format!("in {}", span(n.saturating_neg())),
        n => format!("{} ago", span(n)),
    }
}

/// Writes a duration in microseconds with two or three digits that matter.
pub(crate) fn took(us: u64) -> String {
    match us {
        us if us < 10_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        us if us < 1_000_000 => format!("{} ms", us / 1_000),
        us if us < 10_000_000 => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
        us => format!("{} s", us / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a month's length, a zone's sign or a fraction is read wrongly.
    #[test]
    fn moments_are_read_as_they_are_written() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-01-01T00:00:00Z", Some(1_767_225_600_000)),
            ("2026-01-01T01:30:00.25+01:30", Some(1_767_225_600_250)),
            ("2025-12-31t23:00:00.123456-01:00", Some(1_767_225_600_123)),
            ("2024-02-29T00:00:00Z", Some(1_709_164_800_000)),
            ("2023-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01T00:00:00+1:00", None),
            ("2026-01-01", None),
            ("tomorrow", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc3339(text), millis.map(Timestamp), "{text}");
        }
        for seconds in [0, 951_868_800, 1_767_225_599, 4_102_444_800] {
            let at = Timestamp::from_seconds(seconds);
            assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        }
    }

    #[test]
    fn durations_keep_the_digits_that_matter() {
        for (us, expected) in [
            (0, "0.0 ms"),
            (9_999, "9.9 ms"),
            (10_000, "10 ms"),
            (999_999, "999 ms"),
            (5_925_000, "5.9 s"),
            (61_000_000, "61 s"),
            (u64::MAX, "18446744073709 s"),
        ] {
            assert_eq!(took(us), expected);
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(Timestamp::from_seconds(seconds)), expected);
        }
        // Nothing a store could hold makes it panic.
        let _ = (rfc3339(Timestamp(i64::MAX)), rfc3339(Timestamp(i64::MIN)));
    }

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        let now = Timestamp::from_seconds(1_000_000);
        for (age, expected) in [
            (0, "just now"),
            (5, "5 s ago"),
            (119, "1 min ago"),
            (7_200, "2 h ago"),
            (200_000, "2 days ago"),
            (-90, "in 1 min"),
        ] {
            assert_eq!(ago(Timestamp::from_seconds(1_000_000 - age), now), expected);
        }
        let _ = (ago(Timestamp(i64::MIN), Timestamp(i64::MAX)), ago(Timestamp(i64::MAX), Timestamp(i64::MIN)));
    }
}

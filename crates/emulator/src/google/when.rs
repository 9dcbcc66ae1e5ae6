//! Times as Google writes and reads them: RFC 3339, dates, and the compact form in the ids of instances.

const DAY: i64 = 86_400_000;

/// Days since 1970 of a date (Howard Hinnant's algorithm).
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// The parts of a moment: year, month, day, hour, minute, second, millisecond.
fn parts(millis: i64) -> [i64; 7] {
    let (year, month, day) = civil(millis.div_euclid(DAY));
    let rest = millis.rem_euclid(DAY);
    [year, month, day, rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60, rest % 1_000]
}

/// Writes `2026-01-01T10:00:00.123Z`.
pub(crate) fn stamp(millis: i64) -> String {
    let [year, month, day, hour, minute, second, milli] = parts(millis);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Writes `2026-01-01T10:00:00Z`.
pub(crate) fn seconds(millis: i64) -> String {
    let [year, month, day, hour, minute, second, _] = parts(millis);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Writes `2026-01-01`.
pub(crate) fn date(millis: i64) -> String {
    let [year, month, day, ..] = parts(millis);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Writes what stands behind the `_` of an instance's id: `20260101T100000Z`, or `20260101` for a whole day.
pub(crate) fn compact(millis: i64, whole_day: bool) -> String {
    let text = if whole_day { date(millis) } else { seconds(millis) };
    text.replace(['-', ':'], "")
}

/// Reads the form of [`compact`].
pub(crate) fn read_compact(text: &str) -> Option<i64> {
    let digits = |from: usize, to: usize| -> Option<i64> {
        let part = text.get(from..to).filter(|part| part.bytes().all(|c| c.is_ascii_digit()))?;
        part.parse().ok()
    };
    let day = days_of(digits(0, 4)?, digits(4, 6)?, digits(6, 8)?) * DAY;
    match text.len() {
        8 => Some(day),
        16 if text.get(8..9) == Some("T") && text.ends_with('Z') => {
            Some(day + digits(9, 11)? * 3_600_000 + digits(11, 13)? * 60_000 + digits(13, 15)? * 1_000)
        }
        _ => None,
    }
}

/// Reads a date.
pub(crate) fn read_date(text: &str) -> Option<i64> {
    let mut numbers = text.split('-').map(|part| part.parse::<i64>().ok().filter(|number| *number >= 0));
    let (year, month, day) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let right = numbers.next().is_none() && (1..=12).contains(&month) && (1..=31).contains(&day) && year <= 9_999;
    right.then(|| days_of(year, month, day) * DAY)
}

/// Reads RFC 3339; a time without an offset counts as UTC, as an event's with a `timeZone` beside it.
pub(crate) fn read(text: &str) -> Option<i64> {
    let (day, time) = text.split_once(['T', 't'])?;
    let day = read_date(day)?;
    let (time, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 0),
        None => match time.rfind(['+', '-']) {
            Some(at) => {
                let (time, offset) = time.split_at_checked(at)?;
                let (hours, minutes) = offset.get(1..)?.split_once(':')?;
                let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
                (time, if offset.starts_with('-') { -minutes } else { minutes })
            }
            None => (time, 0),
        },
    };
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut numbers = whole.split(':').map(|part| part.parse::<i64>().ok().filter(|number| (0..=60).contains(number)));
    let (hour, minute, second) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if numbers.next().is_some() || hour > 23 || !fraction.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let milli = fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    Some(day + ((hour * 60 + minute - offset) * 60 + second) * 1_000 + milli)
}

/// Gives the day of the week, Monday first.
pub(crate) fn weekday(millis: i64) -> i64 {
    (millis.div_euclid(DAY) + 3).rem_euclid(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_back() {
        let at = 1_767_261_600_123;
        assert_eq!(stamp(at), "2026-01-01T10:00:00.123Z");
        assert_eq!((seconds(at).as_str(), date(at).as_str()), ("2026-01-01T10:00:00Z", "2026-01-01"));
        assert_eq!(read(&stamp(at)), Some(at));
        assert_eq!(read("2026-01-01T12:00:00.123+02:00"), Some(at));
        assert_eq!(read("2026-01-01T10:00:00"), Some(at - 123));
        for whole in [false, true] {
            let text = compact(at, whole);
            assert_eq!(compact(read_compact(&text).unwrap(), whole), text);
        }
        for bad in ["", "T", "2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T25:00:00Z", "2026-01-01T00:00:00+x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        for bad in ["", "2026", "20260101T10", "2026010aT100000Z", "20260101T100000X"] {
            assert_eq!(read_compact(bad), None, "{bad}");
        }
        assert_eq!(weekday(at), 3, "a Thursday");
    }
}

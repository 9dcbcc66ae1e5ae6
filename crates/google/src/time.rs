//! Reading the times Google writes: RFC 3339 in bodies, milliseconds as text in expirations.

use palisade_core::Timestamp;
use serde_json::Value;

/// Reads `2026-08-26T10:11:12.345Z` and offsets such as `+02:00`.
pub(crate) fn rfc3339(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let number = |text: &str, digits: usize, max: i64| -> Option<i64> {
        let plain = text.len() == digits && text.bytes().all(|c| c.is_ascii_digit());
        plain.then(|| text.parse().ok())?.filter(|value| *value <= max)
    };
    let (time, offset) = match rest.strip_suffix(['Z', 'z']) {
        Some(time) => (time, 0),
        None => {
            let at = rest.rfind(['+', '-'])?;
            let (time, offset) = rest.split_at_checked(at)?;
            let (hours, minutes) = offset.get(1..)?.split_once(':')?;
            let minutes = number(hours, 2, 23)? * 60 + number(minutes, 2, 59)?;
            (time, if offset.starts_with('-') { -minutes } else { minutes })
        }
    };
    let mut date = date.split('-');
    let (year, month, day) =
        (number(date.next()?, 4, 9_999)?, number(date.next()?, 2, 12)?, number(date.next()?, 2, 31)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.split(':');
    let (hour, minute, second) =
        (number(time.next()?, 2, 23)?, number(time.next()?, 2, 59)?, number(time.next()?, 2, 60)?);
    let rest = date.next().is_some() || time.next().is_some();
    if rest || month < 1 || day < 1 || !fraction.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let millis = fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    // Days since 1970-01-01 of a proleptic Gregorian date (Howard Hinnant, days_from_civil).
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some(Timestamp((((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1_000 + millis))
}

/// Reads milliseconds since 1970, as a number or as text: Google writes 64-bit numbers as text, and not always.
pub(crate) fn millis(value: &Value) -> Option<Timestamp> {
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok())?;
    (number > 0).then_some(Timestamp(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_googles_forms() {
        assert_eq!(rfc3339("1970-01-01T00:00:00Z"), Some(Timestamp(0)));
        assert_eq!(rfc3339("2026-01-01T00:00:00.5Z"), Some(Timestamp(1_767_225_600_500)));
        assert_eq!(rfc3339("2026-01-01T02:00:00+02:00"), Some(Timestamp(1_767_225_600_000)));
        assert_eq!(rfc3339("2025-12-31T18:30:00-05:30"), Some(Timestamp(1_767_225_600_000)));
        assert_eq!(rfc3339("2024-02-29T23:59:59.123456Z"), Some(Timestamp(1_709_251_199_123)));
        for bad in [
            "",
            "T",
            "2026-01-01",
            "2026-13-01T00:00:00Z",
            "26-1-1T0:0:0Z",
            "2026-01-01T00:00:00.x1Z",
            "2026-01-01T00:00:00+2:00",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00+é0:00",
            "2026-00-01T00:00:00Z",
        ] {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
        assert_eq!(millis(&Value::from("1767225600000")), Some(Timestamp(1_767_225_600_000)));
        assert_eq!(millis(&Value::from(1_767_225_600_000_i64)), Some(Timestamp(1_767_225_600_000)));
        assert_eq!(
            (millis(&Value::from("-1")), millis(&Value::from("soon")), millis(&Value::Null)),
            (None, None, None)
        );
    }
}

//! The times Twilio writes and reads: RFC 2822 in answers, RFC 3339 in parameters and CloudEvents.

use palisade_core::Timestamp;

/// Reads `Thu, 30 Jul 2015 20:12:31 +0000`, the one form the 2010 API writes.
pub(crate) fn from_rfc2822(text: &str) -> Option<Timestamp> {
    let text = text.strip_suffix("+0000").map_or_else(|| text.to_owned(), |text| format!("{text}GMT"));
    httpdate::parse_http_date(&text).ok().map(Timestamp::from)
}

/// Writes `2015-07-30T20:12:31Z`, as the official SDKs do.
pub(crate) fn to_rfc3339(at: Timestamp) -> String {
    let (days, second) = (at.seconds().div_euclid(86_400), at.seconds().rem_euclid(86_400));
    // A date of days since 1970-01-01 (Howard Hinnant, civil_from_days).
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Reads `2015-07-30T20:12:31.123Z`.
pub(crate) fn from_rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str, digits: usize, max: i64| -> Option<i64> {
        let plain = text.len() == digits && text.bytes().all(|c| c.is_ascii_digit());
        plain.then(|| text.parse().ok())?.filter(|value| *value <= max)
    };
    let mut date = date.split('-');
    let year = number(date.next()?, 4, 9_999)?;
    let (month, day) = (number(date.next()?, 2, 12)?, number(date.next()?, 2, 31)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.split(':');
    let hour = number(time.next()?, 2, 23)?;
    let (minute, second) = (number(time.next()?, 2, 59)?, number(time.next()?, 2, 60)?);
    let whole = date.next().is_none() && time.next().is_none() && month >= 1 && day >= 1;
    if !whole || !fraction.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let millis = fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    // Days since 1970-01-01 of a date (Howard Hinnant, days_from_civil).
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some(Timestamp((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_their_one_form() {
        assert_eq!(from_rfc2822("Thu, 01 Jan 2026 00:00:00 +0000"), Some(Timestamp(1_767_225_600_000)));
        assert_eq!(from_rfc2822("Thu, 30 Jul 2015 20:12:31 +0000"), Some(Timestamp(1_438_287_151_000)));
        for bad in ["", "+0000", "2026-01-01T00:00:00Z", "Thu, 01 Jan 2026 00:00:00 +0200", "soon"] {
            assert_eq!(from_rfc2822(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_written_moment_is_read_back() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (4_102_444_799_000, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(to_rfc3339(Timestamp(millis)), text);
            assert_eq!(from_rfc3339(text), Some(Timestamp(millis)));
        }
        assert_eq!(from_rfc3339("2026-01-01T00:00:00.5Z"), Some(Timestamp(1_767_225_600_500)));
        for bad in ["", "2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00+02:00", "26-1-1T0:0:0Z"] {
            assert_eq!(from_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_moment_makes_a_panic() {
        for millis in [i64::MIN, i64::MIN + 1, -1, i64::MAX - 1, i64::MAX] {
            assert!(!to_rfc3339(Timestamp(millis)).is_empty());
        }
    }
}

//! Reads how long an answer asks to wait: `retry-after-ms`, `Retry-After` in seconds, `Retry-After` as a date.
//!
//! A date is read relative to the answer's own `Date`, so that a wrong clock on either side does not matter. What
//! cannot be read is no hint at all; what is absurdly long is cut to [`HINT_MAX`].

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, HeaderValue, RETRY_AFTER};

use crate::clock::{Clock, Timestamp};

/// The longest hint that is believed. Daily quotas are the longest real ones; beyond it a header is a mistake or an
/// attack, and must not stop a lane for years.
pub const HINT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns the wait an answer's headers ask for, at most [`HINT_MAX`]. `clock` is read only for a date in an answer
/// that has no readable `Date` of its own.
///
/// Source: RFC 9110 section 10.2.3; `retry-after-ms` and `x-ms-retry-after-ms` are what Azure, `OpenAI` and Stripe's
/// SDKs read.
#[must_use]
pub fn retry_after(headers: &HeaderMap, clock: &dyn Clock) -> Option<Duration> {
    for name in ["retry-after-ms", "x-ms-retry-after-ms"] {
        if let Some(millis) = headers.get(name).and_then(number) {
            return Some(bounded(millis / 1_000.0));
        }
    }
    let value = headers.get(RETRY_AFTER)?;
    if let Some(seconds) = number(value) {
        return Some(bounded(seconds));
    }
    let until = date(value)?;
    let now = headers.get(DATE).and_then(date).unwrap_or_else(|| clock.now());
    Some(until.since(now).min(HINT_MAX))
}

/// Returns the wait until a moment the provider gives as epoch seconds (`X-RateLimit-Reset`), relative to the
/// answer's own `Date` where it has one; at most [`HINT_MAX`], and zero when the moment has passed.
#[must_use]
pub fn until_epoch(seconds: i64, headers: &HeaderMap, clock: &dyn Clock) -> Duration {
    let now = headers.get(DATE).and_then(date).unwrap_or_else(|| clock.now());
    Timestamp::from_seconds(seconds).since(now).min(HINT_MAX)
}

/// Reads a header as [`decimal`].
pub(super) fn number(value: &HeaderValue) -> Option<f64> {
    decimal(value.to_str().ok()?)
}

/// Reads a plain non-negative decimal: digits with at most one point. No sign, exponent, `inf` or `nan`.
pub(super) fn decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain { text.parse().ok() } else { None }
}

fn date(value: &HeaderValue) -> Option<Timestamp> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok().map(Timestamp::from)
}

fn bounded(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(HINT_MAX).min(HINT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[track_caller]
    fn check(headers: &[(&'static str, &str)], expected: Option<Duration>) {
        // The machine's clock is a week off: it must not matter where the answer has a date of its own.
        let clock = ManualClock::starting_at(Timestamp::from_seconds(1_700_000_000));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        assert_eq!(retry_after(&map, &clock), expected, "{headers:?}");
    }

    #[test]
    fn hints_are_read_in_every_form_and_hostile_ones_do_no_harm() {
        let seconds = |s| Some(Duration::from_secs(s));
        check(&[], None);
        check(&[("retry-after", "2")], seconds(2));
        check(&[("retry-after", " 2 ")], seconds(2));
        check(&[("retry-after", "0")], seconds(0));
        check(&[("retry-after", "1.5")], Some(Duration::from_millis(1_500)));
        check(&[("retry-after-ms", "250")], Some(Duration::from_millis(250)));
        check(&[("retry-after-ms", "250"), ("retry-after", "9")], Some(Duration::from_millis(250)));
        check(&[("retry-after-ms", "soon"), ("retry-after", "9")], seconds(9));
        check(&[("x-ms-retry-after-ms", "70")], Some(Duration::from_millis(70)));
        let date = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
        check(&[("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT"), date], seconds(30));
        check(&[("retry-after", "Wed, 21 Oct 2026 07:27:00 GMT"), date], seconds(0));
        check(&[("retry-after", "Tue, 14 Nov 2023 22:13:25 GMT")], seconds(5));
        check(&[("retry-after", "Tue, 14 Nov 2023 22:13:25 GMT"), ("date", "rubbish")], seconds(5));
        check(&[("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT"), date], Some(HINT_MAX));
        check(&[("retry-after", "99999999999999999999999999")], Some(HINT_MAX));
        check(&[("retry-after", &"9".repeat(400))], Some(HINT_MAX));
        for garbage in ["-1", "+1", "1e9", "inf", "NaN", "", " ", "soon", "1.2.3", ".", "0x10", "\u{e9}", "2, 3"] {
            check(&[("retry-after", garbage)], None);
        }
    }

    #[test]
    fn an_epoch_is_read_against_the_answers_own_date() {
        let clock = ManualClock::starting_at(Timestamp::from_seconds(1_000));
        let mut headers = HeaderMap::new();
        assert_eq!(until_epoch(1_030, &headers, &clock), Duration::from_secs(30));
        assert_eq!(until_epoch(-5, &headers, &clock), Duration::ZERO);
        assert_eq!(until_epoch(i64::MAX, &headers, &clock), HINT_MAX);
        headers.insert(DATE, HeaderValue::from_static("Thu, 01 Jan 1970 00:17:00 GMT"));
        assert_eq!(until_epoch(1_030, &headers, &clock), Duration::from_secs(10));
    }
}

//! Limits learned from what answers say of them: `X-RateLimit-…` in any spelling, and the IETF's `RateLimit` and
//! `RateLimit-Policy` in the forms their drafts have had. Off unless a [`super::Profile`] asks for it.
//!
//! What cannot be read, or cannot be meant (a limit of nothing, a reset that has passed or is more than a day away),
//! is as if it were not there: a header must not stop or open a lane by being wrong.

use std::time::Duration;

use http::header::{HeaderMap, HeaderValue};

use super::retry_after::{HINT_MAX, decimal, number, until_epoch};
use crate::call::Scope;
use crate::clock::Clock;

/// Limits over longer periods are quotas, not rates: they stop a lane when they are used up, and do not slow it.
const WINDOW_MAX: Duration = Duration::from_secs(60 * 60);

/// How a provider's answers tell its limits.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "settings; checked by the builder")]
pub struct Learned {
    /// The headers.
    pub headers: LimitHeaders,
    /// Which of an operation's limits they speak of.
    pub scope: Scope,
    /// The period the limit is for, where the headers do not say it. Without any, only a limit that is used up is
    /// heeded. Above an hour it is a quota, and as if it were not given.
    pub window: Option<Duration>,
    /// Whether a limit above the bucket's is believed, too: then the bucket is where a lane begins. Otherwise it is
    /// the most.
    pub may_raise: bool,
}

/// The headers that tell a limit.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is read in one place")]
pub enum LimitHeaders {
    /// Three numbers in headers of the provider's own names.
    Named {
        /// What is granted in a period.
        limit: &'static str,
        /// What is left of it.
        remaining: &'static str,
        /// When the next period begins.
        reset: &'static str,
        /// How that is written.
        reset_as: Reset,
    },
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers 07 and later), or `RateLimit-Limit`,
    /// `-Remaining` and `-Reset` as until draft 06. Several limits at once are all heeded.
    Ietf,
}

/// How the beginning of the next period is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is read in one place")]
pub enum Reset {
    /// Seconds since 1970 (SendGrid, GitHub).
    Epoch,
    /// Seconds from the answer.
    Delta,
}

impl LimitHeaders {
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`.
    #[must_use]
    pub const fn x_rate_limit(reset_as: Reset) -> Self {
        Self::Named {
            limit: "x-ratelimit-limit",
            remaining: "x-ratelimit-remaining",
            reset: "x-ratelimit-reset",
            reset_as,
        }
    }
}

impl LimitHeaders {
    /// Returns the names that can be wrong.
    pub(super) fn names(&self) -> Vec<&'static str> {
        match self {
            Self::Named { limit, remaining, reset, .. } => vec![limit, remaining, reset],
            Self::Ietf => Vec::new(),
        }
    }
}

/// What one answer tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The limit is used up: nothing may be sent for as long.
    pub(super) used_up: Option<Duration>,
    /// How long until the next period, whatever is left of this one.
    pub(super) reset: Option<Duration>,
    /// How long one unit takes to come back.
    pub(super) unit: Option<Duration>,
}

/// One limit of an answer.
#[derive(Default)]
struct Line {
    limit: Option<f64>,
    remaining: Option<f64>,
    reset: Option<Duration>,
    window: Option<Duration>,
}

impl Learned {
    /// Reads an answer's headers. The clock is asked only for an epoch in an answer without a date.
    pub(super) fn read(&self, headers: &HeaderMap, clock: &dyn Clock) -> Told {
        let mut told = Told::default();
        let mut add = |line: Line| {
            let reset = line.reset.filter(|reset| !reset.is_zero() && *reset <= HINT_MAX);
            told.reset = told.reset.max(reset);
            if line.remaining.is_some_and(|remaining| remaining < 1.0) {
                told.used_up = told.used_up.max(reset);
            }
            told.unit = told.unit.max(unit(line.limit, line.window.or(self.window)));
        };
        match &self.headers {
            LimitHeaders::Named { limit, remaining, reset, reset_as } => {
                let value = |name| number(one(headers, name)?);
                let reset = value(reset).and_then(|reset| match reset_as {
                    Reset::Delta => Duration::try_from_secs_f64(reset).ok(),
                    // Beyond the years that can be dated the cast stops at the largest number, which is too far.
                    Reset::Epoch => epoch(reset.ceil() as i64, headers, clock),
                });
                add(Line { limit: value(limit), remaining: value(remaining), reset, window: None });
            }
            LimitHeaders::Ietf => read_ietf(headers, add),
        }
        told
    }
}

/// Reads a moment that is at most so far ahead that it can be meant.
fn epoch(seconds: i64, headers: &HeaderMap, clock: &dyn Clock) -> Option<Duration> {
    let wait = until_epoch(seconds, headers, clock);
    (wait < HINT_MAX).then_some(wait)
}

/// The only value of a header: of two that differ neither can be believed.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.all(|other| other == value).then_some(value)
}

/// Returns the time of one unit, for a limit and a period that make a rate.
fn unit(limit: Option<f64>, window: Option<Duration>) -> Option<Duration> {
    let window = window.filter(|window| *window <= WINDOW_MAX)?;
    let limit = limit.filter(|limit| *limit >= 1.0)?;
    Duration::try_from_secs_f64(window.as_secs_f64() / limit).ok().filter(|unit| !unit.is_zero())
}

/// Reads every form the drafts have had; an answer has one of them.
fn read_ietf(headers: &HeaderMap, mut add: impl FnMut(Line)) {
    let texts = |name: &'static str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let mut whole = Line::default();
    for member in texts("ratelimit").flat_map(|text| split(text, ',')) {
        match member.trim().split_once('=').filter(|(name, _)| !name.contains(['"', ';'])) {
            // Draft 07: limit=100, remaining=50, reset=5.
            Some(("limit", text)) => whole.limit = decimal(text),
            Some(("remaining", text)) => whole.remaining = decimal(text),
            Some(("reset", text)) => whole.reset = seconds(text),
            Some(_) => {}
            // Draft 08 and later: "burst";r=50;t=5, "daily";r=900;t=36000.
            None => add(Line {
                remaining: parameter(member, "r").and_then(decimal),
                reset: parameter(member, "t").and_then(seconds),
                ..Line::default()
            }),
        }
    }
    for member in texts("ratelimit-policy").flat_map(|text| split(text, ',')) {
        policy(member, &mut add);
    }
    // Until draft 06: three headers, of which the first may go on with policies.
    let mut limits = one(headers, "ratelimit-limit")
        .and_then(|value| value.to_str().ok())
        .into_iter()
        .flat_map(|text| split(text, ','));
    if let Some(limit) = limits.next() {
        whole.limit = decimal(limit);
    }
    limits.for_each(|member| policy(member, &mut add));
    if let Some(remaining) = one(headers, "ratelimit-remaining") {
        whole.remaining = number(remaining);
    }
    if let Some(reset) = one(headers, "ratelimit-reset") {
        whole.reset = reset.to_str().ok().and_then(seconds);
    }
    add(whole);
}

/// Reads a policy: `"burst";q=100;w=60`, or `100;w=60` as until draft 07. Policies of anything but requests are not
/// about how many may be sent.
fn policy(member: &str, add: &mut impl FnMut(Line)) {
    if parameter(member, "qu").is_some_and(|unit| unit.trim_matches('"') != "requests") {
        return;
    }
    let limit = parameter(member, "q").or_else(|| split(member, ';').next()).and_then(decimal);
    let window = parameter(member, "w").and_then(seconds);
    if window.is_some() {
        add(Line { limit, window, ..Line::default() });
    }
}

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(decimal(text)?).ok()
}

/// Returns a parameter of a structured field's member (RFC 9651).
fn parameter<'a>(member: &'a str, name: &str) -> Option<&'a str> {
    let pairs = split(member, ';').skip(1).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).last()
}

/// Splits at a character outside of quoted strings.
fn split(text: &str, at: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match c {
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => return c == at && !quoted,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    const NOTHING: Told = Told { used_up: None, reset: None, unit: None };

    fn learned(headers: LimitHeaders) -> Learned {
        Learned { headers, scope: Scope::Operation, window: Some(Duration::from_secs(60)), may_raise: false }
    }

    #[track_caller]
    fn check(learned: &Learned, headers: &[(&'static str, &str)], expected: Told) {
        // The machine's clock is a week off: it must not matter where the answer has a date of its own.
        let clock = ManualClock::starting_at(Timestamp::from_seconds(1_700_000_000));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        assert_eq!(learned.read(&map, &clock), expected, "{headers:?}");
    }

    fn seconds(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    fn millis(n: u64) -> Option<Duration> {
        Some(Duration::from_millis(n))
    }

    #[test]
    fn x_rate_limit_is_read_with_an_epoch_or_a_delta() {
        const L: &str = "x-ratelimit-limit";
        const M: &str = "x-ratelimit-remaining";
        const R: &str = "x-ratelimit-reset";
        let delta = learned(LimitHeaders::x_rate_limit(Reset::Delta));
        check(&delta, &[], NOTHING);
        check(
            &delta,
            &[(L, "600"), (M, "599"), (R, "30")],
            Told { used_up: None, reset: seconds(30), unit: millis(100) },
        );
        check(
            &delta,
            &[(L, "600"), (M, "0"), (R, "30")],
            Told { used_up: seconds(30), reset: seconds(30), unit: millis(100) },
        );
        check(&delta, &[(M, "0"), (R, "1.5")], Told { used_up: millis(1_500), reset: millis(1_500), unit: None });
        check(&delta, &[(M, "0")], NOTHING);
        let quota = Learned { window: seconds(86_400), ..delta.clone() };
        check(&quota, &[(L, "10"), (M, "9"), (R, "5")], Told { reset: seconds(5), ..NOTHING });
        let without = Learned { window: None, ..delta.clone() };
        check(&without, &[(L, "10"), (M, "9"), (R, "5")], Told { reset: seconds(5), ..NOTHING });

        let epoch = learned(LimitHeaders::x_rate_limit(Reset::Epoch));
        let date = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
        check(
            &epoch,
            &[(M, "0"), (R, "1792567710"), date],
            Told { used_up: seconds(30), reset: seconds(30), unit: None },
        );
        check(
            &epoch,
            &[(M, "0"), (R, "1792567709.2"), date],
            Told { used_up: seconds(30), reset: seconds(30), unit: None },
        );
        check(&epoch, &[(M, "0"), (R, "1700000007")], Told { used_up: seconds(7), reset: seconds(7), unit: None });
        check(&epoch, &[(M, "0"), (R, "1792567680"), date], NOTHING);
        check(&epoch, &[(M, "0"), (R, "1792567670"), date], NOTHING);
    }

    // Fails when a wrong header stops, slows or opens a lane.
    #[test]
    fn hostile_values_are_as_if_they_were_not_there() {
        let huge = "9".repeat(400);
        for reset_as in [Reset::Epoch, Reset::Delta] {
            let learned = learned(LimitHeaders::x_rate_limit(reset_as));
            for bad in [
                "-1",
                "+1",
                "NaN",
                "nan",
                "inf",
                "-inf",
                "1e9",
                "",
                " ",
                "soon",
                "1,2",
                "0x10",
                "\u{e9}",
                "1.2.3",
                ".",
                huge.as_str(),
            ] {
                check(&learned, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", bad)], NOTHING);
                check(&learned, &[("x-ratelimit-limit", bad)], NOTHING);
                if bad != huge {
                    let reset = ("x-ratelimit-reset", if reset_as == Reset::Delta { "5" } else { "1700000005" });
                    check(&learned, &[("x-ratelimit-remaining", bad), reset], Told { reset: seconds(5), ..NOTHING });
                }
            }
            for absurd in ["0", "86401", "99999999999", "9223372036854775807", "18446744073709551615"] {
                check(&learned, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", absurd)], NOTHING);
            }
            check(&learned, &[("x-ratelimit-limit", "0")], NOTHING);
            check(&learned, &[("x-ratelimit-limit", "0.5")], NOTHING);
            check(&learned, &[("x-ratelimit-limit", "99999999999999999999")], NOTHING);
            check(&learned, &[("x-ratelimit-limit", "600"), ("x-ratelimit-limit", "1")], NOTHING);
            check(
                &learned,
                &[("x-ratelimit-limit", "600"), ("x-ratelimit-limit", "600")],
                Told { unit: millis(100), ..NOTHING },
            );
        }
        let ietf = learned(LimitHeaders::Ietf);
        for bad in [
            "",
            ";",
            ",",
            "=",
            "\"",
            "\"a",
            "\"a\\",
            "r=0;t=5",
            ";r=0;t=",
            "a;r=-1;t=5",
            "a;r=0;t=-5",
            "a;r=0;t=99999999",
        ] {
            check(&ietf, &[("ratelimit", bad)], told_of(bad));
            check(&ietf, &[("ratelimit-policy", bad)], NOTHING);
        }
        for bad in [
            "a;q=0;w=1",
            "a;q=-5;w=60",
            "a;q=5;w=-60",
            "a;q=5;w=86400",
            "a;q=5",
            "0;w=60",
            "\"a\";q=NaN;w=60",
            "a;q=1;w=0",
        ] {
            check(&ietf, &[("ratelimit-policy", bad)], NOTHING);
        }
    }

    /// All that is left of a bad line is a reset that can be read.
    fn told_of(text: &str) -> Told {
        Told { reset: if text == "a;r=-1;t=5" { seconds(5) } else { None }, ..NOTHING }
    }

    #[test]
    fn the_ietfs_headers_are_read_in_all_their_forms() {
        let learned = learned(LimitHeaders::Ietf);
        let both = |text: &str, policy: &str, expected| {
            check(&learned, &[("ratelimit", text), ("ratelimit-policy", policy)], expected)
        };
        // Draft 10.
        both(
            "\"default\";r=50;t=30",
            "\"default\";q=100;w=10",
            Told { used_up: None, reset: seconds(30), unit: millis(100) },
        );
        both(
            "\"default\";r=0;t=30",
            "\"default\";q=100;w=10",
            Told { used_up: seconds(30), reset: seconds(30), unit: millis(100) },
        );
        // Several at once: the one that is used up stops, the slowest rate counts, a daily quota is none.
        both(
            "\"burst\";r=0;t=1, \"daily\";r=7;t=3600",
            "\"burst\";q=100;w=10,\"minute\";q=60;w=60, \"daily\";q=1000;w=86400",
            Told { used_up: seconds(1), reset: seconds(3_600), unit: seconds(1) },
        );
        both(
            "default;r=0;t=5;pk=:sdfjLJUOUH==:",
            "default;q=10;w=1;qu=\"content-bytes\"",
            Told { used_up: seconds(5), reset: seconds(5), unit: None },
        );
        both(
            "\"a,b;r=0;t=9\";r=1;t=5",
            "\"a;q=1;w=60\";q=10;w=1",
            Told { used_up: None, reset: seconds(5), unit: millis(100) },
        );
        // Draft 07.
        both(
            "limit=100, remaining=0, reset=5",
            "100;w=10",
            Told { used_up: seconds(5), reset: seconds(5), unit: millis(600) },
        );
        // Until draft 06.
        let three = [("ratelimit-limit", "600, 10;w=1"), ("ratelimit-remaining", "0"), ("ratelimit-reset", "7")];
        check(&learned, &three, Told { used_up: seconds(7), reset: seconds(7), unit: millis(100) });
    }
}

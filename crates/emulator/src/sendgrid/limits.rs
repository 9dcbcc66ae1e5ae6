//! SendGrid's limits: so many requests of an endpoint in a period, told in every answer.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What each endpoint takes in a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests of an endpoint in a period.
    pub requests: u32,
    /// Mails in a period.
    pub mails: u32,
    /// The period. Periods begin at whole multiples of it, by the provider's clock.
    pub period: Duration,
    /// Whether answers tell the limits.
    pub told: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: 600, mails: 600_000, period: Duration::from_secs(60), told: true }
    }
}

/// What was decided about one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) admitted: bool,
    pub(crate) wait: Duration,
    limit: u32,
    remaining: u32,
    /// When the next period begins, in seconds since 1970.
    reset: i64,
    told: bool,
}

impl Told {
    /// Gives the headers every answer has.
    pub(crate) fn headers(self) -> Vec<(&'static str, i64)> {
        if !self.told {
            return Vec::new();
        }
        vec![
            ("x-ratelimit-limit", i64::from(self.limit)),
            ("x-ratelimit-remaining", i64::from(self.remaining)),
            ("x-ratelimit-reset", self.reset),
        ]
    }
}

/// Counts by endpoint.
#[derive(Debug)]
pub(crate) struct Meter {
    limits: Limits,
    /// By endpoint: the period it was counted in, and how many.
    used: HashMap<String, (i64, u32)>,
}

impl Meter {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, used: HashMap::new() }
    }

    pub(crate) fn set(&mut self, limits: Limits) {
        *self = Self::new(limits);
    }

    /// Counts a request of an endpoint at a moment, in milliseconds.
    pub(crate) fn admit(&mut self, route: &str, now: i64) -> Told {
        let period = i64::try_from(self.limits.period.as_millis()).unwrap_or(i64::MAX).max(1_000);
        let limit = if route == "POST /v3/mail/send" { self.limits.mails } else { self.limits.requests };
        let current = now.div_euclid(period);
        let used = self.used.entry(route.to_owned()).or_insert((current, 0));
        if used.0 != current {
            *used = (current, 0);
        }
        let admitted = used.1 < limit;
        used.1 += u32::from(admitted);
        let end = (current + 1) * period;
        Told {
            admitted,
            wait: Duration::from_millis(u64::try_from(end - now).unwrap_or(0)),
            limit,
            remaining: limit - used.1,
            reset: end.div_euclid(1_000) + i64::from(end % 1_000 != 0),
            told: self.limits.told,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_takes_its_number_and_tells_what_is_left() {
        let mut meter = Meter::new(Limits { requests: 2, ..Limits::default() });
        let now = 1_767_225_630_500;
        let told: Vec<(bool, u32)> =
            (0..3).map(|_| meter.admit("GET /a", now)).map(|t| (t.admitted, t.remaining)).collect();
        assert_eq!(told, [(true, 1), (true, 0), (false, 0)]);
        let refused = meter.admit("GET /a", now);
        assert_eq!((refused.reset, refused.wait), (1_767_225_660, Duration::from_millis(29_500)));
        assert!(meter.admit("GET /b", now).admitted, "each endpoint has its own");
        assert!(meter.admit("GET /a", now + 29_500).admitted);
    }
}

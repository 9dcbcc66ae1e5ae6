//! The hub's own counts, read from its metrics as an operator would.

use palisade_core::metrics::Metrics;

use super::report::Calls;

const CALLS: &str = "palisade_call_duration_seconds_count";

/// The counts at one moment.
pub(super) struct Counts(String);

impl Counts {
    /// Reads them.
    pub(super) fn of(metrics: &Metrics) -> Self {
        Self(metrics.encode())
    }

    /// Adds up the series of a name that have all these labels.
    pub(super) fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        self.0
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label)))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Counts deliveries to a provider's endpoint, which bears its name, by what became of them.
    pub(super) fn delivered(&self, provider: &str, result: &str) -> u64 {
        let (endpoint, result) = (format!("endpoint=\"{provider}\""), format!("result=\"{result}\""));
        self.sum("palisade_webhook_deliveries_total", &[&endpoint, &result])
    }

    /// Counts the calls to a provider that ended, whatever came of them.
    pub(super) fn ended(&self, provider: &str) -> u64 {
        self.sum(CALLS, &[&of(provider)])
    }

    /// Counts the calls to a provider that its open breaker refused.
    pub(super) fn refused(&self, provider: &str) -> u64 {
        self.sum(CALLS, &[&of(provider), "error_type=\"circuit_open\""])
    }

    /// Counts how often a provider's breaker opened.
    pub(super) fn trips(&self, provider: &str) -> u64 {
        self.sum("palisade_breaker_trips_total", &[&of(provider)])
    }

    /// Tells whether a provider's breaker is closed.
    pub(super) fn is_closed(&self, provider: &str) -> bool {
        self.sum("palisade_breaker_state", &[&of(provider)]) == 0
    }

    /// Counts the calls to a provider. Attempts are told from those to others by the port it listens at.
    pub(super) fn calls(&self, provider: &str, port: &str) -> Calls {
        let of = of(provider);
        let calls = self.sum(CALLS, &[&of]);
        let refused = self.refused(provider);
        let at = format!("server_port=\"{port}\"");
        Calls {
            calls,
            attempts: self.sum("http_client_request_duration_seconds_count", &[&at]),
            failed: calls.saturating_sub(self.sum(CALLS, &[&of, "error_type=\"\""])).saturating_sub(refused),
            refused,
            rate_limit_waits: self.sum("palisade_call_wait_seconds_count", &[&of]),
            breaker_trips: self.trips(provider),
        }
    }
}

fn of(provider: &str) -> String {
    format!("provider=\"{provider}\"")
}

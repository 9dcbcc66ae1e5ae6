//! What the hub itself counts, beside the drivers' metrics and in the same registry. Labels are bounded: endpoints are
//! configured ones, results and reasons are words of ours.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use palisade_core::Result;
use palisade_core::forward::Standing;
use palisade_core::metrics::{Counter, Histogram, Metrics};
use palisade_core::store::{CallState, EventState, Queue};

use crate::hub::Shared;
use crate::overview;

/// Runs under way that are looked at; those first that have not moved for longest.
const LIVE_RUNS_MAX: u32 = 1_000;

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    /// Stored.
    Accepted,
    /// Every event of it was already there.
    Duplicate,
    /// Stored, and none of its events is of an account that somebody connected.
    NoConnection,
    /// Signed and stored, but its body could not be read.
    Unreadable,
    /// Refused for its signature.
    Refused,
    /// Larger than the cap.
    TooLarge,
    /// The body did not arrive.
    Broken,
    /// The store was busy or failed.
    Unstored,
}

const DELIVERIES: (&str, &str) = ("palisade_webhook_deliveries", "Deliveries by endpoint and result");
const REFUSALS: (&str, &str) = ("palisade_webhook_refusals", "Refused deliveries by endpoint and reason");
const ANSWER: (&str, &str) = ("palisade_webhook_answer_seconds", "Time from a delivery's head to its answer");
/// From 250 µs to about 4 s in steps of four: a durable commit takes some milliseconds.
const ANSWER_BOUNDS: [f64; 8] = [0.000_25, 0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096];

/// The counters of one endpoint, resolved once.
#[derive(Debug)]
struct EndpointMetrics {
    accepted: Counter,
    duplicate: Counter,
    no_connection: Counter,
    unreadable: Counter,
    refused: Counter,
    too_large: Counter,
    broken: Counter,
    unstored: Counter,
    answer: Histogram,
}

/// The hub's own counters.
#[derive(Debug)]
pub(crate) struct HubMetrics {
    metrics: Metrics,
    endpoints: BTreeMap<String, EndpointMetrics>,
}

impl HubMetrics {
    pub(crate) fn new<'n>(metrics: Metrics, endpoints: impl Iterator<Item = &'n String>) -> Self {
        let endpoints = endpoints
            .map(|name| {
                let counter =
                    |result| metrics.counter(DELIVERIES.0, DELIVERIES.1, &[("endpoint", name), ("result", result)]);
                let one = EndpointMetrics {
                    accepted: counter("accepted"),
                    duplicate: counter("duplicate"),
                    no_connection: counter("no_connection"),
                    unreadable: counter("unreadable"),
                    refused: counter("refused"),
                    too_large: counter("too_large"),
                    broken: counter("broken"),
                    unstored: counter("unstored"),
                    answer: metrics.histogram(ANSWER.0, ANSWER.1, &ANSWER_BOUNDS, &[("endpoint", name)]),
                };
                (name.clone(), one)
            })
            .collect();
        Self { metrics, endpoints }
    }

    /// Counts a delivery and how long its answer took.
    pub(crate) fn delivered(&self, endpoint: &str, result: Delivered, took: Duration) {
        let Some(one) = self.endpoints.get(endpoint) else { return };
        match result {
            Delivered::Accepted => one.accepted.inc(),
            Delivered::Duplicate => one.duplicate.inc(),
            Delivered::NoConnection => one.no_connection.inc(),
            Delivered::Unreadable => one.unreadable.inc(),
            Delivered::Refused => one.refused.inc(),
            Delivered::TooLarge => one.too_large.inc(),
            Delivered::Broken => one.broken.inc(),
            Delivered::Unstored => one.unstored.inc(),
        }
        one.answer.observe(took);
    }

    /// Counts why a delivery was refused.
    pub(crate) fn refused(&self, endpoint: &str, reason: &str) {
        self.metrics.counter(REFUSALS.0, REFUSALS.1, &[("endpoint", endpoint), ("reason", reason)]).inc();
    }

    /// Takes the store's counts and writes everything in the OpenMetrics text form.
    pub(crate) async fn render(&self, shared: &Shared) -> Result<String> {
        let events = shared.store.event_counts().await?;
        let jobs = shared.store.job_counts().await?;
        let set = |name, help, label: &'static str, value: &str, count: u64| {
            self.metrics.gauge(name, help, &[(label, value)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        for (state, word) in [
            (EventState::Pending, "pending"),
            (EventState::Done, "done"),
            (EventState::Ignored, "ignored"),
            (EventState::Dead, "dead"),
        ] {
            let count = events.get(&state).copied().unwrap_or(0);
            set("palisade_events", "Stored events by state", "state", word, count);
        }
        for (word, count) in [("waiting", jobs.waiting), ("running", jobs.running), ("dead", jobs.dead)] {
            set("palisade_jobs", "Jobs by state", "state", word, count);
        }
        let outbox = shared.store.outbox_counts().await?;
        for state in CallState::ALL {
            let count = outbox.get(&state).copied().unwrap_or(0);
            set("palisade_outbox_calls", "Calls of the outbox by state", "state", state.as_str(), count);
        }
        let now = shared.clock.now();
        for queue in Queue::ALL {
            let since = shared.store.oldest_due(queue, now).await?;
            let age = since.map_or(0, |since| now.since(since).as_secs());
            set(
                "palisade_job_oldest_seconds",
                "How long the job that waits longest has been due",
                "queue",
                queue.as_str(),
                age,
            );
        }
        for (row, standing) in overview::destinations(shared).await? {
            let is_tried = !matches!(standing, Standing::Disabled | Standing::Paused);
            let since = row.health.failing_since.filter(|_| is_tried);
            let failing = since.map_or(0, |since| now.since(since).as_secs());
            let help = "How long a destination has been failing";
            set("palisade_destination_failing_seconds", help, "destination", &row.name, failing);
            let help = "Whether a destination was disabled";
            let disabled = u64::from(standing == Standing::Disabled);
            set("palisade_destination_disabled", help, "destination", &row.name, disabled);
            let help = "Whether a destination is paused";
            let paused = u64::from(row.paused_at.is_some());
            set("palisade_destination_paused", help, "destination", &row.name, paused);
        }
        let live = shared.store.live_runs(LIVE_RUNS_MAX).await?;
        let patience = crate::routes::runs::patience(shared);
        let stalled = live.iter().filter(|run| run.is_stalled(now, patience)).count();
        for (word, count) in [("moving", live.len() - stalled), ("stalled", stalled)] {
            set("palisade_runs_live", "Runs under way, by whether they move", "state", word, count as u64);
        }
        let alive = shared.workers_alive.load(Ordering::SeqCst) as u64;
        set("palisade_workers", "Worker tasks by state", "state", "alive", alive);
        let dropped = shared.calls.dropped();
        set("palisade_call_log_lost", "Finished calls that could not be logged", "cause", "full_or_refused", dropped);
        Ok(self.encode())
    }

    /// Writes everything in the OpenMetrics text form, with the store's counts as they were taken last.
    pub(crate) fn encode(&self) -> String {
        self.metrics.encode()
    }
}

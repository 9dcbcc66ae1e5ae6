//! What the worker counts: attempts of jobs by how they ended, runs and what they did. Labels are words of ours and
//! names from adapters' tables; a tenant or connection is none.

use crate::metrics::{Counter, Metrics};
use crate::store::{JobEnd, Queue, Run, RunMode, RunState};

const ATTEMPTS: (&str, &str) = ("palisade_job_attempts", "Attempts of jobs by queue and how they ended");
const RUNS: (&str, &str) = ("palisade_runs", "Runs that ended");
const RUN_SECONDS: (&str, &str) = ("palisade_run_duration_seconds", "Time from a run's beginning to its end");
const RUN_PAGES: (&str, &str) = ("palisade_run_pages", "Pages of runs that ended");
const RUN_RECORDS: (&str, &str) = ("palisade_run_records", "Records of runs that ended, by what became of them");
/// From a second to a day: an incremental run takes a second, a full one of millions of records hours.
const RUN_BOUNDS: [f64; 9] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];

/// The worker's counters; those of attempts are resolved once.
#[derive(Debug)]
pub(super) struct WorkerMetrics {
    metrics: Metrics,
    events: Attempts,
    background: Attempts,
}

/// Attempts in one queue.
#[derive(Debug)]
struct Attempts {
    done: Counter,
    again: Counter,
    released: Counter,
    dead: Counter,
    lost: Counter,
}

impl Attempts {
    fn new(metrics: &Metrics, queue: &str) -> Self {
        let counter = |end| metrics.counter(ATTEMPTS.0, ATTEMPTS.1, &[("queue", queue), ("end", end)]);
        Self {
            done: counter("done"),
            again: counter("again"),
            released: counter("released"),
            dead: counter("dead"),
            lost: counter("lost"),
        }
    }
}

impl WorkerMetrics {
    pub(super) fn new(metrics: Metrics) -> Self {
        let (events, background) = (Attempts::new(&metrics, "events"), Attempts::new(&metrics, "background"));
        Self { metrics, events, background }
    }

    fn of(&self, queue: Queue) -> &Attempts {
        match queue {
            Queue::Events => &self.events,
            Queue::Background => &self.background,
        }
    }

    /// Counts an attempt that was settled.
    pub(super) fn settled(&self, queue: Queue, end: &JobEnd) {
        let of = self.of(queue);
        match end {
            JobEnd::Done => of.done.inc(),
            JobEnd::Retry { .. } => of.again.inc(),
            JobEnd::Release => of.released.inc(),
            JobEnd::Dead { .. } => of.dead.inc(),
        }
    }

    /// Counts an attempt whose job another worker has by now.
    pub(super) fn lost(&self, queue: Queue) {
        self.of(queue).lost.inc();
    }

    /// Counts a run that ended, with its job.
    pub(super) fn ended(&self, provider: &str, run: &Run) {
        let stream = run.key.stream.as_str();
        let mode = match run.mode {
            RunMode::Full => "full",
            RunMode::Incremental => "incremental",
        };
        let end = match run.state {
            RunState::Done => "done",
            RunState::Review { .. } => "review",
            RunState::Failed { .. } => "failed",
            RunState::Running => return,
        };
        let of = [("provider", provider), ("stream", stream)];
        let [provider, stream] = of;
        let runs = self.metrics.counter(RUNS.0, RUNS.1, &[provider, stream, ("mode", mode), ("end", end)]);
        runs.inc();
        if let Some(finished) = run.finished_at {
            let labels = [provider, stream, ("mode", mode)];
            let seconds = self.metrics.histogram(RUN_SECONDS.0, RUN_SECONDS.1, &RUN_BOUNDS, &labels);
            seconds.observe(finished.since(run.started_at));
        }
        self.metrics.counter(RUN_PAGES.0, RUN_PAGES.1, &of).add(run.pages);
        for (change, count) in [
            ("added", run.counts.added),
            ("updated", run.counts.updated),
            ("deleted", run.counts.deleted),
            ("unchanged", run.counts.unchanged),
            ("older", run.counts.older),
        ] {
            self.metrics.counter(RUN_RECORDS.0, RUN_RECORDS.1, &[provider, stream, ("change", change)]).add(count);
        }
    }
}

//! What the worker counts: attempts of jobs by how they ended, runs and what they did. Labels are words of ours and
//! names from adapters' tables; a tenant or connection is none.

use crate::metrics::{Counter, Metrics};
use crate::store::{JobEnd, MergeCounts, Queue, Run, RunMode, RunState};

const ATTEMPTS: (&str, &str) = ("palisade_job_attempts", "Attempts of jobs by queue and how they ended");
const RUNS: (&str, &str) = ("palisade_runs", "Runs that ended");
const RUN_SECONDS: (&str, &str) = ("palisade_run_duration_seconds", "Time from a run's beginning to its end");
const RUN_PAGES: (&str, &str) = ("palisade_run_pages", "Pages of runs, as they are committed");
const RUN_RECORDS: (&str, &str) = ("palisade_run_records", "Records of runs by what became of them, as committed");
const CALLS: (&str, &str) = ("palisade_outbox_attempts", "Attempts of outbox calls by provider and what they came to");
/// From a second to a day: an incremental run takes a second, a full one of millions of records hours.
const RUN_BOUNDS: [f64; 9] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];

/// The worker's counters; those of attempts are resolved once.
#[derive(Debug)]
pub(super) struct WorkerMetrics {
    metrics: Metrics,
    events: Attempts,
    background: Attempts,
    calls: Attempts,
    forwards: Attempts,
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

/// What runs of one stream do.
#[derive(Debug)]
pub(super) struct RunMeters {
    pages: Counter,
    added: Counter,
    updated: Counter,
    deleted: Counter,
    unchanged: Counter,
    older: Counter,
}

impl RunMeters {
    /// Counts what was committed.
    pub(super) fn committed(&self, pages: u64, counts: &MergeCounts) {
        self.pages.add(pages);
        self.added.add(counts.added);
        self.updated.add(counts.updated);
        self.deleted.add(counts.deleted);
        self.unchanged.add(counts.unchanged);
        self.older.add(counts.older);
    }
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
        let [events, background, calls, forwards] = Queue::ALL.map(|queue| Attempts::new(&metrics, queue.as_str()));
        Self { metrics, events, background, calls, forwards }
    }

    fn of(&self, queue: Queue) -> &Attempts {
        match queue {
            Queue::Events => &self.events,
            Queue::Background => &self.background,
            Queue::Calls => &self.calls,
            Queue::Forwards => &self.forwards,
        }
    }

    /// Counts an attempt that was settled.
    pub(super) fn settled(&self, queue: Queue, end: &JobEnd) {
        let of = self.of(queue);
        match end {
            JobEnd::Done | JobEnd::Ignored => of.done.inc(),
            JobEnd::Retry { .. } | JobEnd::Wait { .. } => of.again.inc(),
            JobEnd::Release => of.released.inc(),
            JobEnd::Dead { .. } => of.dead.inc(),
        }
    }

    /// Counts an attempt whose job another worker has by now.
    pub(super) fn lost(&self, queue: Queue) {
        self.of(queue).lost.inc();
    }

    /// Counts what an attempt of an outbox call came to.
    pub(super) fn called(&self, provider: &str, came_to: &str) {
        self.metrics.counter(CALLS.0, CALLS.1, &[("provider", provider), ("state", came_to)]).inc();
    }

    /// Resolves the counters of what runs of a stream do.
    pub(super) fn run(&self, provider: &str, stream: &str) -> RunMeters {
        let of = [("provider", provider), ("stream", stream)];
        let [provider, stream] = of;
        let records =
            |change| self.metrics.counter(RUN_RECORDS.0, RUN_RECORDS.1, &[provider, stream, ("change", change)]);
        RunMeters {
            pages: self.metrics.counter(RUN_PAGES.0, RUN_PAGES.1, &of),
            added: records("added"),
            updated: records("updated"),
            deleted: records("deleted"),
            unchanged: records("unchanged"),
            older: records("older"),
        }
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
        let [provider, stream] = [("provider", provider), ("stream", stream)];
        let runs = self.metrics.counter(RUNS.0, RUNS.1, &[provider, stream, ("mode", mode), ("end", end)]);
        runs.inc();
        if let Some(finished) = run.finished_at {
            let labels = [provider, stream, ("mode", mode)];
            let seconds = self.metrics.histogram(RUN_SECONDS.0, RUN_SECONDS.1, &RUN_BOUNDS, &labels);
            seconds.observe(finished.since(run.started_at));
        }
    }
}

//! Runs: executions of a sync, committed page by page, taken up where a lost worker left them.
//!
//! A full run is a *generation* of its stream. It notes the stream's commit counter when it is first started
//! ([`Run::began`]); every write or confirmation of a record carries the counter of its commit. So a record was seen in
//! this generation if its counter is greater than `began`, and in an earlier one if it is not: the counter is the
//! generation number, finer than one a run would give, so that what events and fetches saw meanwhile counts too, and no
//! record is written only to move it from one generation to the next.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Lease, MergeCounts, NewDelivery, NewJob, StreamKey};
use crate::clock::Timestamp;
use crate::error::ErrorKind;
use crate::id::{ConnectionId, EndpointId, RecordId, StreamName};
use crate::sync::{BadRecord, Change, Cursor, Span, Stop};

/// Why a run ended whose connection was disconnected.
pub const ACCOUNT_DISCONNECTED: &str = "its account was disconnected";

/// Identifies a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub i64);

/// Full or incremental.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the driver decides on each")]
pub enum RunMode {
    /// From the beginning; what it does not see is deleted at its end.
    Full,
    /// From the stream's cursor.
    Incremental,
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages show each")]
pub enum RunState {
    /// At work, or to be resumed by the next claim of its job.
    Running,
    /// Complete.
    Done,
    /// Complete but for its deletions, which are more than the guard allows: somebody must look.
    Review {
        /// How many records it would delete.
        deletions: u64,
    },
    /// Stopped by an error.
    Failed {
        /// The error's kind.
        kind: ErrorKind,
        /// The error in one phrase.
        reason: String,
    },
}

/// The name of a run's state, without what it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: one for each state")]
pub enum RunStateName {
    /// [`RunState::Running`].
    Running,
    /// [`RunState::Done`].
    Done,
    /// [`RunState::Review`].
    Review,
    /// [`RunState::Failed`].
    Failed,
}

impl RunState {
    /// Returns the state's name.
    #[must_use]
    pub fn name(&self) -> RunStateName {
        match self {
            Self::Running => RunStateName::Running,
            Self::Done => RunStateName::Done,
            Self::Review { .. } => RunStateName::Review,
            Self::Failed { .. } => RunStateName::Failed,
        }
    }
}

/// Which runs to find: those that meet all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct RunFilter {
    /// Of this connection.
    pub connection: Option<ConnectionId>,
    /// Of this stream, of any connection unless one is given.
    pub stream: Option<StreamName>,
    /// In this state.
    pub state: Option<RunStateName>,
    /// With a lower number.
    pub before: Option<RunId>,
}

impl RunFilter {
    /// Tells whether a run meets the filter.
    #[must_use]
    pub fn meets(&self, run: &Run) -> bool {
        self.connection.as_ref().is_none_or(|wanted| run.key.connection == *wanted)
            && self.stream.as_ref().is_none_or(|wanted| run.key.stream == *wanted)
            && self.state.is_none_or(|wanted| run.state.name() == wanted)
            && self.before.is_none_or(|before| run.id < before)
    }
}

/// One execution of a sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// The stream.
    pub key: StreamKey,
    /// Full or incremental.
    pub mode: RunMode,
    /// How it stands.
    pub state: RunState,
    /// Where it goes on.
    pub cursor: Option<Cursor>,
    /// Pages committed.
    pub pages: u64,
    /// What its pages did.
    pub counts: MergeCounts,
    /// How often a worker took it up again after another was gone.
    pub resumed: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// When its last page was committed.
    pub progressed_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why it ended before its end, or why it waits; told anew by each attempt, forgotten with the next page.
    pub stop: Option<Stop>,
    /// The stream's commit counter when it was first started: what it and others have seen since has a greater one.
    pub began: u64,
    /// Records it could not read and set aside.
    pub bad: u64,
    /// How many records the provider says the list holds.
    pub total: Option<u64>,
    /// The feed's newest number when it was first started, and when it ended: its changes lie between them (with
    /// those that events brought meanwhile). `None` for runs of before this was noted.
    pub feed_from: Option<u64>,
    /// The feed's newest number when it ended.
    pub feed_to: Option<u64>,
    /// What webhooks should have brought by then and had not.
    pub missed: Missed,
}

/// What a run found that webhooks should have brought before, and brought: events, which handlers see, or records where
/// the provider's list shows no more of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Missed {
    /// How many.
    pub count: u64,
    /// How many of them are records no event tells of.
    pub records: u64,
    /// When the first of them happened.
    pub from: Option<Timestamp>,
    /// When the last of them happened.
    pub to: Option<Timestamp>,
}

impl Missed {
    /// Counts one more event.
    pub fn add(&mut self, created: Timestamp) {
        self.count += 1;
        self.from = Some(self.from.map_or(created, |from| from.min(created)));
        self.to = self.to.max(Some(created));
    }

    /// Counts one more record.
    pub fn add_record(&mut self, at: Timestamp) {
        self.add(at);
        self.records += 1;
    }

    /// Returns how many of them are events.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.count.saturating_sub(self.records)
    }

    /// Counts others too.
    pub fn join(&mut self, others: Self) {
        self.count += others.count;
        self.records += others.records;
        self.from = [self.from, others.from].into_iter().flatten().min();
        self.to = self.to.max(others.to);
    }
}

impl Run {
    /// Tells whether the run is under way and has made no progress for longer than patience allows. What it waits for
    /// by the provider's own word does not count before that time has come.
    #[must_use]
    pub fn is_stalled(&self, now: Timestamp, patience: Duration) -> bool {
        let until = self.stop.as_ref().and_then(Stop::until);
        let due = until.map_or(self.progressed_at, |until| until.max(self.progressed_at));
        self.state == RunState::Running && self.stop != Some(Stop::Paused) && now.since(due) > patience
    }

    /// Returns how many records its pages have held.
    #[must_use]
    pub fn seen(&self) -> u64 {
        let MergeCounts { added, updated, unchanged, older, deleted: _ } = self.counts;
        added + updated + unchanged + older + self.bad
    }

    /// Returns how long it has been at work: to its end, or to its last page.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.finished_at.unwrap_or(self.progressed_at).since(self.started_at)
    }

    /// Returns the records a second it has read so far, waits included; `None` before its first second.
    #[must_use]
    pub fn per_second(&self) -> Option<f64> {
        let seconds = self.progressed_at.since(self.started_at).as_secs_f64();
        (seconds >= 1.0).then(|| self.seen() as f64 / seconds)
    }

    /// Returns how long the rest will take at the pace so far, where the provider tells how much there is.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        let left = self.total?.saturating_sub(self.seen()) as f64;
        let pace = self.per_second().filter(|pace| *pace > 0.0)?;
        (self.state == RunState::Running).then(|| Duration::try_from_secs_f64(left / pace).unwrap_or(Duration::MAX))
    }
}

/// One page of a run to commit: records, events, cursor, feed and progress in one transaction.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct PageCommit {
    /// The proof of holding the run's job.
    pub lease: Lease,
    /// The run.
    pub run: RunId,
    /// The stream's commit counter when the page's read started.
    pub read_since: u64,
    /// The page's changes.
    pub changes: Vec<Change>,
    /// The page's events and those it shows were missed, as deliveries to append in the same commit.
    pub deliveries: Vec<NewDelivery>,
    /// All endpoints the connection's webhooks arrive at: an event of the page that is here under any of them is a
    /// duplicate, wherever it would be kept.
    pub endpoints: Vec<EndpointId>,
    /// Events created no later than this that are new here were missed: younger ones may be on their way, and of one
    /// that does not say when it was created nobody can tell.
    pub missed_before: Timestamp,
    /// Types of the page's events that no webhook ever brought: they may not be subscribed to, and none of them is
    /// missed.
    pub unheard: BTreeSet<String>,
    /// Records of the page that webhooks should have told of by then and had not, and of which no event is among its
    /// deliveries.
    pub missed: Missed,
    /// Records of the page that could not be read, to set aside.
    pub bad: Vec<BadRecord>,
    /// Those of the page's records that were read by themselves, because they could not be ordered.
    pub fetched: Vec<FetchedRecord>,
    /// How many records the whole list holds, where the provider tells it.
    pub total: Option<u64>,
    /// Where a resumed run goes on. For the last page it is the page's own cursor, so that a worker lost before
    /// [`Records::end_run`](super::Records::end_run) costs the reading of one page and never the position behind it.
    pub next: Option<Cursor>,
    /// When.
    pub now: Timestamp,
}

/// A record of a page that was read by itself.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct FetchedRecord {
    /// The stream's commit counter when its own read started.
    pub read_since: u64,
    /// What the read showed.
    pub change: Change,
}

/// What a committed page did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct PageCommitted {
    /// What the merges did.
    pub counts: MergeCounts,
    /// Records that could not be ordered, each once. When there are any, *nothing* of the page was committed, the
    /// cursor included: fetch them, then commit the page again with what came ([`PageCommit::fetched`]) in place of their
    /// changes. (Were the rest committed, a worker lost before the fetch would forget them; were what came committed before
    /// the rest, one lost in between would forget what of it was missed.)
    pub fetch: Vec<RecordId>,
    /// Events that were new here: what a gap healing found missing.
    pub events_new: u64,
    /// Events that were already there.
    pub events_duplicate: u64,
}

/// A record that could not be read, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StoredBad {
    /// The record as it came, and what is wrong with it.
    pub record: BadRecord,
    /// The run that met it last.
    pub run: RunId,
    /// How many pages it has stood on.
    pub times: u64,
    /// When it was first met.
    pub first_seen: Timestamp,
    /// When it was last met.
    pub last_seen: Timestamp,
}

/// How a run ends.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct RunEnd {
    /// The proof of holding the run's job.
    pub lease: Lease,
    /// The run.
    pub run: RunId,
    /// `Done` or `Failed`. `Done` of a full run deletes every live record whose `observed` is not greater than the
    /// stream's commit counter when the run was first started ([`Run::began`]): everything a page, an event or a fetch
    /// wrote or confirmed since then has a greater one. What the run set aside by its name is not deleted either, and
    /// records it set aside without a name make it wait for a review, since any of the others may be one of them.
    /// A full run that is done forgets what was set aside and that it did not meet. `Failed` with
    /// [`ErrorKind::CursorExpired`] forgets the stream's cursor.
    pub state: RunState,
    /// Why, for one that failed.
    pub stop: Option<Stop>,
    /// When the run's last page was read, by the provider's clock. A tombstone of a record the run did not see spans
    /// from the record's own earliest moment to the latest of this one: it was deleted somewhere in between.
    pub span: Option<Span>,
    /// Jobs to add in the same commit, after the run's job has ended (its own unique key is free by then).
    pub follow: Vec<NewJob>,
    /// Where the next incremental run starts, also when the deletions of a full run wait for a review; `None` leaves the
    /// stream's cursor.
    pub resume: Option<Cursor>,
    /// How many deletions somebody has looked at and approved; zero when nobody has. Deletions beyond the guard (over
    /// 20 % of the live records and over 50) are lawful up to a tenth more than that. Otherwise the run ends in
    /// [`RunState::Review`] with nothing deleted.
    pub deletions_approved: u64,
    /// How many records one commit deletes at most; at least one. A run with more to delete stays
    /// [`RunState::Running`], counts those that are gone, and is to be ended again with the same answer: each commit
    /// looks anew for what is unseen, behind the last name it looked at. Whether the deletions are lawful is judged
    /// before the first of them, and anew after a page.
    pub at_once: u32,
    /// When.
    pub now: Timestamp,
}

impl RunEnd {
    /// Returns how many deletions are lawful beyond the guard: those that were approved, and a tenth more for what has
    /// happened since.
    #[must_use]
    pub fn deletions_lawful(&self) -> u64 {
        self.deletions_approved.saturating_add(self.deletions_approved / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a rest is told without a total, of a run that is over, or by a pace that counts nothing.
    #[test]
    fn a_run_tells_its_pace_and_its_rest() {
        let run = |state: RunState, seconds: i64, counts: MergeCounts, total: Option<u64>| Run {
            id: RunId(1),
            key: StreamKey { connection: "c".into(), stream: "s".into() },
            mode: RunMode::Full,
            state,
            cursor: None,
            pages: 1,
            counts,
            resumed: 0,
            started_at: Timestamp(0),
            progressed_at: Timestamp(seconds * 1_000),
            finished_at: None,
            stop: None,
            began: 0,
            bad: 10,
            total,
            feed_from: None,
            feed_to: None,
            missed: Missed::default(),
        };
        let counts = MergeCounts { added: 50, updated: 20, unchanged: 19, older: 1, deleted: 7 };
        let minute = run(RunState::Running, 60, counts, Some(1_000));
        assert_eq!((minute.seen(), minute.elapsed()), (100, Duration::from_secs(60)));
        assert_eq!(minute.remaining(), Some(Duration::from_secs(540)));
        assert_eq!(run(RunState::Running, 60, counts, Some(7)).remaining(), Some(Duration::ZERO), "more than was told");
        assert_eq!(run(RunState::Running, 60, counts, None).remaining(), None);
        assert_eq!(run(RunState::Done, 60, counts, Some(1_000)).remaining(), None);
        assert_eq!(run(RunState::Running, 0, counts, Some(1_000)).per_second(), None);
        assert_eq!(run(RunState::Running, -5, counts, Some(1_000)).per_second(), None, "the clock went back");
        let huge = MergeCounts { added: u64::MAX / 2, ..MergeCounts::default() };
        assert!(run(RunState::Running, 60, huge, Some(u64::MAX)).remaining().is_some());
    }
}

//! Random sequences of operations, run step by step on [`MemoryStore`] and on the store under test. Every answer and,
//! after every step, everything that can be read must be the same.

use std::fmt::{Debug, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    CallId, CallRecord, CallState, Claim, Connection, ConnectionState, Decision, Effect, EventRow, EventState,
    FetchedRecord, GrantLease, Halt, JobEnd, KeptCall, Lease, Merge, NewDelivery, NewEvent, NewJob, OutboxChange,
    PageCommit, Pause, PrunePlace, Queue, ReplayFilter, Room, RunEnd, RunFilter, RunId, RunMode, RunState,
    RunStateName, SealedCredential, Settled, Settlement, Store, StreamKey, Transacted, Value, Work, forward_key,
};
use palisade_core::sync::{BadRecord, Change, Cursor, Span, State, Stop};
use palisade_core::{ErrorKind, Outcome, Random, Result, Timestamp};

use super::{EFFECT_BAD, EFFECT_GOOD, StoreUnderTest};

/// Runs `steps` random operations of a seed on both stores.
///
/// # Panics
/// When an answer or the readable state differs; the message has the seed, the last steps and `repeat`, the command
/// that runs this seed again.
pub async fn model(subject: &dyn StoreUnderTest, seed: u64, steps: usize, repeat: &str) {
    let reference = Arc::new(MemoryStore::new());
    reference.fail_effects(|effect| (effect.sql == EFFECT_BAD).then(|| "no such table".to_owned()));
    let store = subject.fresh().await;
    let mut run = Model {
        random: SeededRandom::new(seed),
        now: 1_000_000,
        reference: reference.clone(),
        store,
        leases: Vec::new(),
        held: Vec::new(),
        runs: Vec::new(),
        holds: Vec::new(),
        effects: 0,
        trace: Vec::new(),
    };
    for step in 0..steps {
        let answers = run.step(subject).await;
        let (wanted, found) = match &answers {
            Some((wanted, found)) if wanted != found => (wanted.clone(), found.clone()),
            _ => (run.state(&*run.reference, step).await, run.state(&*run.store, step).await),
        };
        if wanted != found {
            let mut text = String::new();
            for (number, line) in run.trace.iter().enumerate().rev().take(12) {
                let _ = writeln!(text, "  {number}: {line}");
            }
            panic!(
                "the store differs from the model at step {step} of seed {seed}; repeat with\n  {repeat}\n\
                 last steps, newest first:\n{text}difference:\n{}",
                difference(&wanted, &found)
            );
        }
    }
    if let Some(rows) = subject.effects().await {
        assert_eq!(rows, reference.effects().len() as u64, "seed {seed}: effects committed; repeat with {repeat}");
    }
}

fn difference(wanted: &str, found: &str) -> String {
    let mut text = String::new();
    for (wanted, found) in wanted.lines().zip(found.lines()) {
        if wanted != found {
            let _ = writeln!(text, "  model: {wanted}\n  store: {found}");
        }
    }
    if wanted.lines().count() != found.lines().count() {
        let _ = writeln!(text, "  model: {wanted}\n  store: {found}");
    }
    text
}

pub(super) struct Model {
    random: SeededRandom,
    now: i64,
    pub(super) reference: Arc<MemoryStore>,
    pub(super) store: Arc<dyn Store>,
    /// Holds of grants ever given.
    pub(super) holds: Vec<GrantLease>,
    /// Every lease ever given, and those not settled yet.
    leases: Vec<Lease>,
    held: Vec<Lease>,
    runs: Vec<(RunId, StreamKey)>,
    effects: i64,
    trace: Vec<String>,
}

/// Calls both stores and gives both answers as text.
macro_rules! both {
    ($model:ident, $store:ident => $call:expr) => {{
        let wanted = {
            let $store: &dyn Store = &*$model.reference;
            $call
        };
        let found = {
            let $store: &dyn Store = &*$model.store;
            $call
        };
        (wanted, found)
    }};
}

pub(super) fn told<T: Debug>(answer: &Result<T>) -> String {
    match answer {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("error {}", error.kind().as_str()),
    }
}

pub(super) use both;

const STREAMS: [&str; 2] = ["customers", "invoices"];
pub(super) const CONNECTIONS: [&str; 2] = ["acme", "beta"];
const RECORDS: [&str; 6] = ["a", "b", "c", "d", "é", "Z"];

impl Model {
    pub(super) fn below(&self, limit: u64) -> u64 {
        self.random.bits() % limit
    }

    pub(super) fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Clone>(&self, from: &[T]) -> Option<T> {
        let place = usize::try_from(self.below((from.len() as u64).max(1))).ok()?;
        from.get(place).cloned()
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp(self.now)
    }

    pub(super) fn near(&self) -> Timestamp {
        Timestamp(self.now + i64::try_from(self.below(300)).unwrap_or(0) - 150)
    }

    pub(super) fn key(&self) -> StreamKey {
        StreamKey {
            connection: self.pick(&CONNECTIONS).unwrap_or_default().into(),
            stream: self.pick(&STREAMS).unwrap_or_default().into(),
        }
    }

    pub(super) fn lease(&self) -> Lease {
        // Mostly one that is held; now and then one of the past, or one that never was.
        let from = if self.one_in(8) { &self.leases } else { &self.held };
        match self.pick(from) {
            Some(lease) if !self.one_in(40) => lease,
            _ => Lease { job: palisade_core::store::JobId(i64::try_from(self.below(9)).unwrap_or(0)), fence: 1 },
        }
    }

    fn delivery(&self) -> NewDelivery {
        let events = (0..self.below(4)).map(|_| NewEvent {
            id: format!("evt_{}", self.below(14)).into(),
            kind: self.pick(&["invoice.paid", "customer.updated"]).unwrap_or_default().to_owned(),
            subscription: None,
            account: self.one_in(3).then(|| "acct_1".to_owned()),
            created: self.one_in(2).then(|| self.near()),
            ordering_key: self.pick(&[None, None, Some("k1".to_owned()), Some("k2".to_owned())]).flatten(),
            payload: self.one_in(2).then(|| Bytes::from(format!("{{\"n\":{}}}", self.below(100)))),
            wanted: !self.one_in(4),
            priority: if self.one_in(5) { 1 } else { 0 },
        });
        NewDelivery {
            endpoint: self.pick(&["e1", "e2"]).unwrap_or_default().into(),
            connection: self.pick(&CONNECTIONS).unwrap_or_default().into(),
            provider: self.pick(&["stripe", "slack"]).unwrap_or_default().to_owned(),
            events: events.collect(),
            received_at: self.near(),
            headers: if self.one_in(2) { vec![("x".to_owned(), "y".to_owned())] } else { Vec::new() },
            body: if self.one_in(3) { Bytes::new() } else { Bytes::from(format!("body {}", self.below(100))) },
        }
    }

    fn job(&self) -> NewJob {
        let mode = if self.one_in(2) { RunMode::Full } else { RunMode::Incremental };
        let row = EventRow(i64::try_from(self.below(12)).unwrap_or(0));
        NewJob {
            work: self
                .pick(&[
                    Work::Retention,
                    Work::Watch { key: self.key(), open: None },
                    Work::Chore { name: "one".to_owned(), at: self.one_in(2).then(|| "acme".to_owned()) },
                    Work::Reschedule { key: self.key() },
                    Work::Sync { key: self.key(), mode },
                    Work::Event { row },
                    Work::Forward { row, destination: "app".to_owned() },
                ])
                .unwrap_or(Work::Retention),
            lane: self.pick(&[None, Some("l1".to_owned()), Some("event/acme/k1".to_owned())]).flatten(),
            group: self.pick(&[None, Some(String::new()), Some("g1".to_owned()), Some("stripe".to_owned())]).flatten(),
            tenant: self.pick(&[None, Some("t1".into()), Some("t2".into())]).flatten(),
            unique: self
                .pick(&[None, None, Some("u1".to_owned()), Some("u2".to_owned()), Some(forward_key("app", row))])
                .flatten(),
            priority: self.pick(&[0, 0, 1, -1]).unwrap_or(0),
            run_at: self.near(),
            attempts_max: self.pick(&[0, 1, 2, 3, 20]).unwrap_or(1),
        }
    }

    fn change(&self, key: &StreamKey) -> Change {
        let earliest = self.now + i64::try_from(self.below(200)).unwrap_or(0) - 150;
        let latest = earliest + i64::try_from(self.below(20)).unwrap_or(0);
        Change {
            stream: key.stream.clone(),
            id: self.pick(&RECORDS).unwrap_or_default().into(),
            span: Span { earliest, latest },
            state: match self.below(12) {
                0..=1 => State::Deleted,
                2 if self.one_in(3) => State::Unclear,
                _ => State::Present(Bytes::from(format!("{{\"v\":{}}}", self.below(3)))),
            },
        }
    }

    async fn merge(&self) -> Merge {
        let key = self.key();
        let commits = self.commits(&key).await;
        let changes = (0..self.below(3)).map(|_| self.change(&key)).collect();
        Merge { key, read_since: self.one_in(2).then_some(commits.saturating_sub(self.below(3))), changes }
    }

    async fn step(&mut self, subject: &dyn StoreUnderTest) -> Option<(String, String)> {
        self.now += i64::try_from(self.below(80)).unwrap_or(0) - 8;
        match self.below(107) {
            0..=16 => self.append().await,
            17..=26 => self.enqueue().await,
            27..=44 => self.claim().await,
            45..=58 => self.settle().await,
            59..=60 => self.outbox().await,
            61..=78 => self.runs().await,
            79..=83 => self.merges().await,
            84..=86 => self.prune().await,
            87 => self.extend_or_replay().await,
            88 if self.one_in(2) => self.replay_some().await,
            88 if self.one_in(3) => self.dismiss_forwards().await,
            88 => self.halts().await,
            89..=91 => self.accounts().await,
            92..=95 => super::secrets::step(self).await,
            96 => self.calls().await,
            97 => super::destinations::step(self).await,
            98..=101 => self.schedules().await,
            102..=104 => self.outbox().await,
            _ => {
                self.trace.push("crash and open again".to_owned());
                self.store = subject.reopened(self.store.clone()).await;
                None
            }
        }
    }

    pub(super) fn note(&mut self, what: String, answers: (String, String)) -> Option<(String, String)> {
        self.trace.push(format!("{what} -> {}", answers.0));
        Some(answers)
    }

    async fn append(&mut self) -> Option<(String, String)> {
        let deliveries: Vec<NewDelivery> = (0..=self.below(2)).map(|_| self.delivery()).collect();
        let answers = both!(self, store => told(&store.append(deliveries.clone()).await));
        self.note(format!("append {deliveries:?}"), answers)
    }

    async fn enqueue(&mut self) -> Option<(String, String)> {
        let jobs: Vec<NewJob> = (0..=self.below(2)).map(|_| self.job()).collect();
        let answers = both!(self, store => told(&store.enqueue(jobs.clone()).await));
        self.note(format!("enqueue {jobs:?}"), answers)
    }

    async fn claim(&mut self) -> Option<(String, String)> {
        let claim = Claim {
            now: self.now(),
            hold: Duration::from_millis(self.below(200)),
            max: u32::try_from(self.below(5)).unwrap_or(0),
            queue: self
                .pick(&[Queue::Events, Queue::Background, Queue::Calls, Queue::Forwards])
                .unwrap_or(Queue::Events),
            room: self.room(),
        };
        let (wanted, found) = both!(self, store => store.claim(claim.clone()).await);
        if let Ok(claimed) = &found {
            self.leases.extend(claimed.iter().map(|one| one.lease));
            self.held.extend(claimed.iter().map(|one| one.lease));
        }
        self.note(format!("{claim:?}"), (told(&wanted), told(&found)))
    }

    fn room(&self) -> Room {
        if self.one_in(2) {
            return Room::default();
        }
        let some = || u32::try_from(self.below(3)).unwrap_or(0);
        Room { each: some(), of: [("stripe".to_owned(), some())].into(), others: some() }
    }

    async fn halts(&mut self) -> Option<(String, String)> {
        let connection = self.pick(&CONNECTIONS).unwrap_or_default();
        let halts = [Halt::All, Halt::Provider("stripe".to_owned()), Halt::Connection(connection.into())];
        let halt = self.pick(&halts).unwrap_or(Halt::All);
        // Resumed more often than halted: otherwise nothing is ever claimed.
        if self.below(5) < 3 {
            let answers = both!(self, store => told(&store.resume(halt.clone()).await));
            return self.note(format!("resume {halt:?}"), answers);
        }
        let now = self.now();
        let answers = both!(self, store => told(&store.halt(halt.clone(), now).await));
        self.note(format!("halt {halt:?}"), answers)
    }

    async fn replay_some(&mut self) -> Option<(String, String)> {
        let filter = ReplayFilter {
            state: self
                .pick(&[None, Some(EventState::Dead), Some(EventState::Done), Some(EventState::Ignored)])
                .flatten(),
            provider: self.one_in(3).then(|| "stripe".to_owned()),
            reason: self.one_in(4).then(|| "dismissed: a reason".to_owned()),
            from: self.one_in(3).then(|| self.near()),
            ..ReplayFilter::default()
        };
        let (after, looked) = (EventRow(i64::try_from(self.below(8)).unwrap_or(0)), 1 + self.below(3));
        let (looked, dry_run, now) = (u32::try_from(looked).unwrap_or(1), self.one_in(2), self.now());
        if self.one_in(3) {
            let filter = ReplayFilter { reason: None, ..filter };
            let answers =
                both!(self, store => told(&store.dismiss_some(filter.clone(), after, looked, dry_run, now).await));
            return self.note(format!("dismiss_some {filter:?} {after:?} {looked} {dry_run}"), answers);
        }
        let answers = both!(self, store => told(&store.replay_some(filter.clone(), after, looked, dry_run, now).await));
        self.note(format!("replay_some {filter:?} {after:?} {looked} {dry_run}"), answers)
    }

    async fn dismiss_forwards(&mut self) -> Option<(String, String)> {
        let rows: Vec<_> = (0..2).map(|_| EventRow(i64::try_from(self.below(12)).unwrap_or(0))).collect();
        let answers = both!(self, store => told(&store.dismiss_forwards("app".to_owned(), rows.clone()).await));
        self.note(format!("dismiss_forwards {rows:?}"), answers)
    }

    async fn settle(&mut self) -> Option<(String, String)> {
        let mut settlements = Vec::new();
        for _ in 0..=self.below(3) {
            let mut merges = Vec::new();
            if self.one_in(3) {
                merges.extend([self.merge().await, self.merge().await]);
            }
            let reason = "a reason".to_owned();
            settlements.push(Settlement {
                lease: self.lease(),
                end: match self.below(7) {
                    0..=2 => JobEnd::Done,
                    3 => JobEnd::Retry { at: self.near(), reason },
                    4 if self.one_in(2) => JobEnd::Ignored,
                    4 => JobEnd::Release,
                    5 => JobEnd::Wait { at: self.near(), reason, anew: self.one_in(3) },
                    _ => JobEnd::Dead { reason },
                },
                now: self.now(),
                effects: self.some_effects(),
                merges,
                follow: if self.one_in(4) { vec![self.job()] } else { Vec::new() },
                outbox: self.outbox_change(),
            });
        }
        let (wanted, found) = both!(self, store => store.settle(settlements.clone()).await);
        for (one, settled) in settlements.iter().zip(found.as_deref().unwrap_or_default()) {
            if matches!(settled, Settled::Committed(_) | Settled::LeaseLost) {
                self.held.retain(|held| *held != one.lease);
            }
        }
        let answers = (told(&wanted.map(without_phrases)), told(&found.map(without_phrases)));
        self.note(format!("settle {settlements:?}"), answers)
    }

    fn some_effects(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for _ in 0..self.below(3) {
            self.effects += 1;
            let sql = if self.one_in(5) { EFFECT_BAD } else { EFFECT_GOOD };
            effects.push(Effect { sql: sql.to_owned(), values: vec![Value::Integer(self.effects)] });
        }
        effects
    }

    async fn commits(&self, key: &StreamKey) -> u64 {
        let reference: &dyn Store = &*self.reference;
        reference.stream(key.clone()).await.map_or(0, |status| status.commits)
    }

    async fn runs(&mut self) -> Option<(String, String)> {
        let (lease, now) = (self.lease(), self.now());
        let newest = self.runs.iter().rev().take(3).cloned().collect::<Vec<_>>();
        let (run, of) = self.pick(&newest).unwrap_or((RunId(1), self.key()));
        match self.below(6) {
            5 => self.streams(lease, run).await,
            0 => {
                let key = self.key();
                let mode = if self.one_in(3) { RunMode::Incremental } else { RunMode::Full };
                let (wanted, found) = both!(self, store => store.start_run(lease, key.clone(), mode, now).await);
                if let Ok(run) = &found {
                    self.runs.push((run.id, run.key.clone()));
                }
                self.note(format!("start_run {lease:?} {key:?} {mode:?}"), (told(&wanted), told(&found)))
            }
            1 => {
                let state = match self.below(8) {
                    0 => RunState::Failed { kind: ErrorKind::CursorExpired, reason: "old".to_owned() },
                    1 => RunState::Failed { kind: ErrorKind::Provider, reason: "down".to_owned() },
                    2 => RunState::Review { deletions: 1 },
                    _ => RunState::Done,
                };
                let end = RunEnd {
                    lease,
                    run,
                    state,
                    stop: self.one_in(2).then(|| Stop::Refused { why: "no".to_owned() }),
                    span: self.one_in(2).then(|| Span { earliest: self.now - 50, latest: self.now }),
                    follow: if self.one_in(3) { vec![self.job()] } else { Vec::new() },
                    resume: self.one_in(2).then(|| Cursor::new(format!("c{}", self.below(9)))),
                    deletions_approved: self.pick(&[0, 1, 9, u64::MAX]).unwrap_or(0),
                    at_once: self.pick(&[0, 1, 2, 500]).unwrap_or(1),
                    now,
                };
                let answers = both!(self, store => told(&store.end_run(end.clone()).await));
                self.note(format!("{end:?}"), answers)
            }
            _ => {
                let commits = self.commits(&of).await;
                let page = PageCommit {
                    lease,
                    run,
                    read_since: commits.saturating_sub(self.below(2)),
                    changes: (0..self.below(5)).map(|_| self.change(&of)).collect(),
                    deliveries: if self.one_in(4) { vec![self.delivery()] } else { Vec::new() },
                    missed: Default::default(),
                    missed_before: self.near(),
                    unheard: Default::default(),
                    endpoints: if self.one_in(3) { vec!["e1".into(), "e2".into()] } else { Vec::new() },
                    bad: self.some_bad(),
                    fetched: (0..self.below(2)).map(|_| self.fetched(&of, commits)).collect(),
                    total: self.one_in(3).then(|| self.below(99)),
                    next: self.one_in(2).then(|| Cursor::new(format!("p{}", self.below(9)))),
                    now,
                };
                let answers = both!(self, store => told(&store.commit_page(page.clone()).await));
                self.note(format!("{page:?}"), answers)
            }
        }
    }

    fn fetched(&self, of: &StreamKey, commits: u64) -> FetchedRecord {
        FetchedRecord { read_since: commits.saturating_sub(self.below(2)), change: self.change(of) }
    }

    fn some_bad(&self) -> Vec<BadRecord> {
        let one = |_| {
            let id = if self.one_in(5) { None } else { self.pick(&RECORDS) };
            BadRecord::new(id, format!("[{}]", self.below(3)).as_bytes(), "broken")
        };
        let some = if self.one_in(3) { self.below(3) } else { 0 };
        (0..some).map(one).collect()
    }

    /// What people do to runs and streams.
    async fn streams(&mut self, lease: Lease, run: RunId) -> Option<(String, String)> {
        let (key, now) = (self.key(), self.now());
        let (what, answers) = match self.below(9) {
            8 => {
                let bad = self.some_bad();
                ("set aside", both!(self, store => told(&store.set_aside(lease, run, bad.clone(), now).await)))
            }
            0 => ("dismiss", both!(self, store => told(&store.dismiss_run(run, "no".to_owned(), now).await))),
            1 => {
                let since = self.one_in(2).then_some(now);
                ("pause", both!(self, store => told(&store.pause_stream(key.clone(), since).await)))
            }
            2 => ("reset", both!(self, store => told(&store.reset_stream(key.clone(), now).await))),
            3 => {
                let limit = u32::try_from(self.below(4)).unwrap_or(0);
                ("erase", both!(self, store => told(&store.erase_records(key.clone(), limit, now).await)))
            }
            _ => {
                let stop = Stop::RateLimited { until: self.one_in(2).then_some(now) };
                ("hold", both!(self, store => told(&store.hold_run(lease, run, stop.clone()).await)))
            }
        };
        self.note(format!("{what} {run:?} {key:?}"), answers)
    }

    async fn merges(&mut self) -> Option<(String, String)> {
        let mut merges = Vec::new();
        for _ in 0..=self.below(3) {
            merges.push(self.merge().await);
        }
        let now = self.now();
        let answers = both!(self, store => told(&store.merge(merges.clone(), now).await));
        self.note(format!("merge {merges:?}"), answers)
    }

    async fn prune(&mut self) -> Option<(String, String)> {
        let before = self.near();
        let limit = u32::try_from(self.below(4)).unwrap_or(0);
        if self.one_in(4) {
            // All or none: which goes first of those of one moment is the store's.
            let limit = self.pick(&[0, u32::MAX]).unwrap_or(0);
            let answers = both!(self, store => told(&store.compact_feed(before, limit).await));
            return self.note(format!("compact_feed {before:?} {limit}"), answers);
        }
        let place = PrunePlace { received_at: self.near(), row: EventRow(i64::try_from(self.below(12)).unwrap_or(0)) };
        let after = self.one_in(2).then_some(place);
        let forget = self.near();
        let (what, answers) = match self.below(11) {
            10 => {
                // All or none, as above.
                let limit = self.pick(&[0, u32::MAX]).unwrap_or(0);
                let answers = both!(self, store => told(&store.prune_bad_records(before, limit).await));
                return self.note(format!("prune_bad_records {before:?} {limit}"), answers);
            }
            8..=9 => ("prune_runs", both!(self, store => told(&store.prune_runs(before, limit).await))),
            7 => ("prune_outbox", both!(self, store => told(&store.prune_outbox(before, limit).await))),
            4 => ("roll_up_calls", both!(self, store => told(&store.roll_up_calls(before, limit).await))),
            5 => ("prune_call_days", both!(self, store => told(&store.prune_call_days(before, limit).await))),
            6 => {
                let most = self.below(20_000);
                ("prune_inbox", both!(self, store => told(&store.prune_inbox(most, forget, after, limit).await)))
            }
            0 => ("prune_events", both!(self, store => told(&store.prune_events(before, forget, after, limit).await))),
            3 => ("forget_events", both!(self, store => told(&store.forget_events(before, limit).await))),
            1 => ("prune_jobs", both!(self, store => told(&store.prune_jobs(before, limit).await))),
            2 => ("prune_pauses", both!(self, store => told(&store.prune_pauses(before, limit).await))),
            _ => ("prune_calls", both!(self, store => told(&store.prune_calls(before, limit).await))),
        };
        self.note(format!("{what} {before:?} {forget:?} {after:?} {limit}"), answers)
    }

    async fn extend_or_replay(&mut self) -> Option<(String, String)> {
        if self.one_in(2) {
            let leases = vec![self.lease(), self.lease()];
            let until = self.near();
            let answers = both!(self, store => told(&store.extend(leases.clone(), until).await));
            return self.note(format!("extend {leases:?} {until:?}"), answers);
        }
        let row = EventRow(i64::try_from(self.below(12)).unwrap_or(0));
        let now = self.now();
        let answers = both!(self, store => told(&store.replay(row, now).await));
        self.note(format!("replay {row:?}"), answers)
    }

    async fn accounts(&mut self) -> Option<(String, String)> {
        let id: palisade_core::ConnectionId = self.pick(&CONNECTIONS).unwrap_or_default().into();
        let states = [
            ConnectionState::Active,
            ConnectionState::Paused,
            ConnectionState::Disconnected,
            ConnectionState::NeedsReconnect { reason: "revoked".to_owned() },
        ];
        match self.below(3) {
            0 => {
                let account = Connection {
                    id,
                    tenant: if self.one_in(3) { "t1".into() } else { "t".into() },
                    provider: "stripe".to_owned(),
                    environment: if self.one_in(2) { "sandbox".into() } else { Default::default() },
                    account: self.one_in(2).then(|| "acct".to_owned()),
                    base_url: self.one_in(2).then(|| "http://127.0.0.1".to_owned()),
                    state: self.pick(&states).unwrap_or(ConnectionState::Active),
                    created_at: self.now(),
                };
                let answers = both!(self, store => told(&store.put_connection(account.clone()).await));
                self.note(format!("put {account:?}"), answers)
            }
            1 => {
                let state = |model: &Self| model.pick(&states).unwrap_or(ConnectionState::Active);
                let (seen, to) = (state(self), state(self));
                let halted = self.one_in(2).then_some(self.now());
                let turn = (id.clone(), seen.clone(), to.clone());
                let answers = both!(self, store => {
                    let (id, seen, to) = turn.clone();
                    told(&store.turn_connection(id, seen, to, halted).await)
                });
                self.note(format!("turn_connection {id} {seen:?} {to:?} {halted:?}"), answers)
            }
            _ => {
                let expected = self.below(3);
                let mark = if self.one_in(2) { vec![0xff, 0] } else { Vec::new() };
                let credential = SealedCredential { generation: expected + 1, blob: vec![0, 159, 146, 150], mark };
                let answers =
                    both!(self, store => told(&store.put_credential(id.clone(), expected, credential.clone()).await));
                self.note(format!("put_credential {id} {expected}"), answers)
            }
        }
    }

    async fn calls(&mut self) -> Option<(String, String)> {
        if self.one_in(2) {
            let pauses: Vec<Pause> = (0..self.below(4)).map(|_| self.pause()).collect();
            let answers = both!(self, store => told(&store.put_pauses(pauses.clone()).await));
            return self.note(format!("pause {pauses:?}"), answers);
        }
        let calls: Vec<CallRecord> = (0..=self.below(3)).map(|_| self.call()).collect();
        let answers = both!(self, store => told(&store.log_calls(calls.clone()).await));
        self.note(format!("log {calls:?}"), answers)
    }

    fn call_id(&self) -> CallId {
        CallId(i64::try_from(self.below(8)).unwrap_or(0))
    }

    fn kept_call(&self) -> KeptCall {
        let unique = self.pick(&[None, Some("u1"), Some("u2")]).flatten();
        let text = self.pick(&["x", "y"]).unwrap_or_default();
        let call = super::outbox::call(self.pick(&CONNECTIONS).unwrap_or_default(), unique, text);
        KeptCall { run_at: self.near(), created_at: self.now(), priority: self.pick(&[0, 10]).unwrap_or(0), ..call }
    }

    fn outbox_change(&self) -> OutboxChange {
        let states = [CallState::Waiting, CallState::Done, CallState::Failed, CallState::Review];
        let sent_at = self.one_in(2).then(|| self.near());
        let result = self.pick(&states).map(|state| super::outbox::result(self.call_id(), state, sent_at));
        OutboxChange {
            add: if self.one_in(5) { vec![self.kept_call(), self.kept_call()] } else { Vec::new() },
            result: result.filter(|_| self.one_in(2)),
        }
    }

    async fn outbox(&mut self) -> Option<(String, String)> {
        let (id, now) = (self.call_id(), self.now());
        match self.below(4) {
            0..=1 => {
                let (effects, calls) = (self.some_effects(), vec![self.kept_call(), self.kept_call()]);
                let plain = |answer: Result<Transacted>| {
                    told(&answer.map(|one| match one {
                        Transacted::EffectFailed(_) => Transacted::EffectFailed(String::new()),
                        other @ (Transacted::Committed(_) | Transacted::Clash { .. }) => other,
                    }))
                };
                let answers = both!(self, store => plain(store.transact(effects.clone(), calls.clone()).await));
                self.note(format!("transact {effects:?} {calls:?}"), answers)
            }
            2 => {
                let lease = self.lease();
                let answers = both!(self, store => told(&store.note_departure(lease, id, now).await));
                self.note(format!("note_departure {lease:?} {id}"), answers)
            }
            _ => {
                let all = [Decision::Retry, Decision::Cancel, Decision::Happened, Decision::NotHappened];
                let decision = self.pick(&all).unwrap_or(Decision::Retry);
                let answers = both!(self, store => told(&store.decide_call(id, decision, now).await));
                self.note(format!("{decision:?} {id}"), answers)
            }
        }
    }

    fn pause(&self) -> Pause {
        Pause {
            provider: self.pick(&["stripe", "slack"]).unwrap_or_default().to_owned(),
            lane: self.pick(&["operation reads acme", "account all é", "client * *"]).unwrap_or_default().to_owned(),
            at: self.near(),
            until: self.near(),
        }
    }

    fn call(&self) -> CallRecord {
        let failed = self.one_in(2);
        let kinds = [ErrorKind::Timeout, ErrorKind::Invalid, ErrorKind::Provider, ErrorKind::Declined];
        CallRecord {
            // Some in another hour.
            at: if self.one_in(3) { Timestamp(self.now - 3_600_000) } else { self.near() },
            provider: "stripe".to_owned(),
            operation: "customers.list".to_owned(),
            connection: self.pick(&CONNECTIONS).unwrap_or_default().into(),
            status: self.one_in(2).then_some(503),
            error: if failed { self.pick(&kinds) } else { None },
            outcome: failed.then_some(Outcome::Unknown),
            attempts: 2,
            duration_us: self.pick(&[5, u64::MAX]).unwrap_or(0),
            waited_us: 1,
            request_id: self.one_in(2).then(|| "req_1".to_owned()),
            correlation_id: None,
        }
    }

    /// Everything that can be read, as text of one fact a line. The narrower readings of the same facts (a state, a
    /// page, one record) take turns: `turn` says whose it is.
    async fn state(&self, store: &dyn Store, turn: usize) -> String {
        let mut text = String::new();
        let mut put = |what: &str, fact: String| {
            let _ = writeln!(text, "{what}: {fact}");
        };
        let all = u32::MAX;
        put("event counts", told(&store.event_counts().await));
        put("inbox bytes", told(&store.inbox_bytes().await));
        put("dead letters", told(&store.dead_letters(all).await));
        put("halts", told(&store.halts(all).await));
        put("oldest", told(&store.oldest_due(Queue::Events, self.now()).await));
        put("oldest of others", told(&store.oldest_due(Queue::Background, self.now()).await));
        put("job counts", told(&store.job_counts().await));
        put("live jobs", told(&store.live_jobs(["u1", "u2"].map(str::to_owned).to_vec()).await));
        put("dead counts", told(&store.dead_counts(CONNECTIONS.map(Into::into).to_vec()).await));
        for endpoint in ["e1", "e2"] {
            put("heard", told(&store.heard(endpoint.into()).await));
        }
        let listed = store.events(None, None, all).await;
        let rows = listed.as_ref().map(|page| page.events.iter().map(|event| event.row).collect());
        put("events", told(&listed));
        put("whole events", told(&store.events_to_handle(rows.unwrap_or_default()).await));
        put("heads", told(&store.event_heads((turn as i64..turn as i64 + 3).map(EventRow).collect()).await));
        put("runs", told(&store.runs(None, all).await));
        put("live runs", told(&store.live_runs(all).await));
        put("outbox counts", told(&store.outbox_counts().await));
        put("outbox reviews", told(&store.review_counts(CONNECTIONS.map(Into::into).to_vec()).await));
        put("outbox", told(&store.outbox(None, None, all).await));
        put("a page of the outbox", told(&store.outbox(Some(CallState::Waiting), Some(CallId(7)), 2).await));
        put("calls", told(&store.calls(None, all).await));
        put("pauses", told(&store.pauses(Timestamp(0), all).await));
        put("destinations", told(&store.destinations().await));
        put("forwards", told(&store.forward_counts(["app", "none"].map(str::to_owned).to_vec()).await));
        put("dead forwards", told(&store.dead_forwards("app".to_owned(), None, all).await));
        put("a page of dead forwards", told(&store.dead_forwards("app".to_owned(), Some(EventRow(3)), 2).await));
        put("pauses under way", told(&store.pauses(self.now(), 2).await));
        for connection in CONNECTIONS {
            put("streams", told(&store.streams(connection.into()).await));
            put("call counts", told(&store.call_counts(connection.into(), Timestamp(0)).await));
            put("call days", told(&store.call_days(connection.into(), 9).await));
            put("newest runs", told(&store.newest_runs(connection.into()).await));
            put("healings", told(&store.healings(connection.into(), all).await));
            for stream in STREAMS {
                let key = StreamKey { connection: connection.into(), stream: stream.into() };
                put("feed", told(&store.feed(key.clone(), 0, all).await));
                put("set aside", told(&store.bad_records(key.clone(), all).await));
                let ids = RECORDS.map(Into::into).to_vec();
                put("stored", told(&store.stored(key.clone(), ids).await));
            }
        }
        let at = |from: &[&'static str]| from.get(turn % from.len()).copied().unwrap_or_default();
        let connection = at(&CONNECTIONS);
        let key = StreamKey { connection: connection.into(), stream: at(&STREAMS).into() };
        let states = [
            None,
            Some(EventState::Pending),
            Some(EventState::Done),
            Some(EventState::Ignored),
            Some(EventState::Dead),
        ];
        let state = states.get(turn % states.len()).copied().flatten();
        let names = [RunStateName::Running, RunStateName::Done, RunStateName::Review, RunStateName::Failed];
        let filter = RunFilter {
            connection: turn.is_multiple_of(2).then(|| connection.into()),
            stream: turn.is_multiple_of(3).then(|| key.stream.clone()),
            state: names.get(turn % 5).copied(),
            before: turn.is_multiple_of(4).then_some(RunId(7)),
        };
        put("found runs", told(&store.find_runs(filter, 3).await));
        match turn % 9 {
            0 => put("some events", told(&store.events(state, None, all).await)),
            1 => put("a page of events", told(&store.events(state, Some(EventRow(7)), 2).await)),
            2 => put("an event", told(&store.event(EventRow(3)).await)),
            3 => put("runs of one", told(&store.runs(Some(connection.into()), 3).await)),
            4 => put("calls of one", told(&store.calls(Some(connection.into()), 3).await)),
            5 => put("counts since", told(&store.call_counts(connection.into(), self.now()).await)),
            6 => put("a stream", told(&store.stream(key.clone()).await)),
            7 => put("a page of the feed", told(&store.changes(key.clone(), 2, 2).await)),
            _ => put("a page of connections", told(&store.connections(Some("acme".into()), 1).await)),
        }
        if let Some((run, of)) = self.runs.get(turn % self.runs.len().max(1)) {
            put("a run", told(&store.run(*run).await));
            put("to retry", told(&store.bad_to_retry(of.clone(), *run, 3).await));
            put("unseen", told(&store.unseen(*run, None, all).await));
            put("unseen behind", told(&store.unseen(*run, Some("b".into()), 2).await));
        }
        put("a record", told(&store.record(key, at(&RECORDS).into()).await));
        put("a connection", told(&store.connection(connection.into()).await));
        put("a credential", told(&store.credential(connection.into()).await));
        put("connections", told(&store.connections(None, all).await));
        super::secrets::read(store, connection, &mut put).await;
        super::schedules::read(store, &mut put).await;
        text
    }
}

fn without_phrases(settled: Vec<Settled>) -> Vec<Settled> {
    let plain = |one| match one {
        Settled::EffectFailed(_) => Settled::EffectFailed(String::new()),
        other @ (Settled::Committed(_) | Settled::LeaseLost | Settled::Fetch(_)) => other,
    };
    settled.into_iter().map(plain).collect()
}

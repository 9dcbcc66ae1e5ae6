//! The loop of a worker: claim, run, settle in batches, renew; one queue, no hidden tasks.
//!
//! Everything under way is a future in one set, so that dropping the loop drops all of it, and a handler that waits
//! holds up nobody. At most one claim, one settling and one renewal are under way at a time; jobs that finish
//! meanwhile share the next settling.
//!
//! What a job comes to goes by its lease, never by its id: whoever claims a job again whose lease ran out may be this
//! loop itself, and what is left of the first claim must not touch the second.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::RecordId;
use crate::store::{
    CallState, Claim, Claimed, JobEnd, JobId, Lease, Queue, Room, Settled, Settlement, StreamKey, ToHandle, tell_buried,
};
use crate::sync::driver::FETCH_ROUNDS_MAX;

use super::Inner;
use super::job::{Attempt, Prepared, phrase};

/// How often chores are seen to, and the clock looked at.
const SCHEDULES_EVERY: Duration = Duration::from_secs(60);
/// The longest wait after an error of the store.
const STORE_WAIT_MAX: Duration = Duration::from_secs(30);
/// A moment that does not come.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// Why a job comes again whose code panicked. The panic's own text may hold data.
const PANICKED: &str = "the adapter panicked";

/// Something under way has come to its end.
enum Step {
    Claimed(u32, Room, Result<Vec<(Claimed, Option<ToHandle>)>>),
    Prepared(Lease, Prepared),
    Settled(Vec<Settlement>, Result<Vec<Settled>>),
    Extended(Vec<Lease>, Result<Vec<bool>>),
    Ensured(Result<()>),
}

/// A job this loop holds.
struct Held {
    lease: Lease,
    attempt: Attempt,
    group: Option<String>,
    abort: AbortHandle,
    rounds: u32,
    /// The store would not have its settlement.
    refused: bool,
    /// What it came to is known, and waits to be settled: nothing of it is under way.
    ended: bool,
}

pub(super) struct Engine<'a> {
    worker: &'a Inner,
    queue: Queue,
    stop: watch::Receiver<bool>,
    steps: FuturesUnordered<BoxFuture<'a, Step>>,
    held: BTreeMap<JobId, Held>,
    ready: Vec<Settlement>,
    /// To be settled one at a time: one of them is refused, and nobody knows which.
    alone: VecDeque<Settlement>,
    claiming: bool,
    settling: bool,
    /// How many renewals are under way: one, or more when the wall clock was set meanwhile.
    extending: u32,
    /// Nothing was due at the last look.
    idle_until: Option<Instant>,
    /// The last look took all of a group that there was room for: more of it may be due.
    full: bool,
    extend_at: Instant,
    /// What both clocks said when the leases held were renewed last, or none was held.
    renewed_at: (Instant, Timestamp),
    ensure_at: Option<Instant>,
    /// The store failed: nothing is asked of it before.
    store_again_at: Instant,
    store_failures: u32,
    /// Until when running jobs may finish.
    stopping: Option<Instant>,
    gave_back: bool,
    /// For one step: how many claims are left.
    claims_left: Option<u32>,
    claimed: usize,
    claim_error: Option<Error>,
}

impl<'a> Engine<'a> {
    fn new(worker: &'a Inner, queue: Queue, stop: watch::Receiver<bool>) -> Self {
        let now = Instant::now();
        Self {
            worker,
            queue,
            stop,
            steps: FuturesUnordered::new(),
            held: BTreeMap::new(),
            ready: Vec::new(),
            alone: VecDeque::new(),
            claiming: false,
            settling: false,
            extending: 0,
            idle_until: None,
            full: false,
            extend_at: now,
            renewed_at: (now, worker.clock.now()),
            ensure_at: (queue == Queue::Background).then_some(now),
            store_again_at: now,
            store_failures: 0,
            stopping: None,
            gave_back: false,
            claims_left: None,
            claimed: 0,
            claim_error: None,
        }
    }

    /// Works until the stop, then finishes or gives back what is held.
    pub(super) async fn run(worker: &'a Inner, queue: Queue, stop: watch::Receiver<bool>) {
        Self::new(worker, queue, stop).drive().await;
    }

    /// Claims once and finishes what was claimed.
    pub(super) async fn step(worker: &'a Inner, queue: Queue) -> Result<usize> {
        let (_never, stop) = watch::channel(false);
        let mut engine = Self::new(worker, queue, stop);
        engine.claims_left = Some(1);
        engine.ensure_at = None;
        engine.drive().await;
        engine.claim_error.map_or(Ok(engine.claimed), Err)
    }

    async fn drive(&mut self) {
        loop {
            // A job sees the stop as soon as it is asked for, and may be given back before this waits for anything: were
            // it claimed again, this would never wait.
            if self.stopping.is_none() && *self.stop.borrow() {
                self.stopping = Some(Instant::now() + self.worker.settings.grace);
            }
            while let Some(Some(step)) = self.steps.next().now_or_never() {
                self.take(step);
            }
            if self.begin() {
                continue;
            }
            if self.steps.is_empty() && self.nothing_to_settle() && self.is_over() {
                return;
            }
            let (idle, stopping) = (self.idle_until, self.stopping);
            let claims = idle.is_some() && stopping.is_none() && self.claims_left.is_none();
            let store_again = self.store_again_at;
            // Not while nothing is asked of the store: it would be due all the time.
            let ensures = self.ensure_at.filter(|_| stopping.is_none()).map(|at| at.max(store_again));
            let waits_for_store = store_again > Instant::now();
            let far = Instant::now() + NEVER;
            tokio::select! {
                // In this order, so that a seed repeats what it did. Moments that have come are seen by `begin` too.
                biased;
                () = asked(&mut self.stop), if stopping.is_none() => {
                    self.stopping = Some(Instant::now() + self.worker.settings.grace);
                }
                () = sleep_until(stopping.unwrap_or(far)), if stopping.is_some() => {
                    if self.gave_back {
                        // The store does not even take back what is held: the leases run out by themselves.
                        return;
                    }
                    self.give_back();
                }
                Some(step) = self.steps.next() => self.take(step),
                () = self.worker.store.wait_for_work(self.queue), if claims => self.idle_until = None,
                () = sleep_until(idle.unwrap_or(far)), if claims => self.idle_until = None,
                () = sleep_until(ensures.unwrap_or(far)), if ensures.is_some() => {}
                () = sleep_until(self.extend_at), if !self.held.is_empty() && self.extending == 0 => {}
                () = sleep_until(store_again), if waits_for_store => {}
            }
        }
    }

    /// Whether nothing new will be begun.
    fn is_over(&self) -> bool {
        let no_claims = self.stopping.is_some() || self.claims_left == Some(0);
        no_claims && self.held.is_empty() && !self.claiming && !self.settling
    }

    fn nothing_to_settle(&self) -> bool {
        self.ready.is_empty() && self.alone.is_empty()
    }

    /// Begins what can begin. Returns whether anything did.
    fn begin(&mut self) -> bool {
        let (now, wall) = (Instant::now(), self.worker.clock.now());
        let mut begun = false;
        if self.held.is_empty() {
            self.renewed_at = (now, wall);
        } else if self.was_set(now, wall) || (self.extending == 0 && self.extend_at <= now) {
            // Before a claim: what this loop holds may look expired to it.
            self.begin_extend(now, wall);
            begun = true;
        }
        if self.store_again_at > now {
            return begun;
        }
        if !self.settling && !self.nothing_to_settle() {
            self.begin_settle();
            begun = true;
        }
        if self.stopping.is_some() {
            return begun;
        }
        if self.ensure_at.is_some_and(|at| at <= now) {
            self.ensure_at = Some(now + SCHEDULES_EVERY);
            let worker = self.worker;
            self.steps.push(async move { Step::Ensured(worker.ensure_schedules().await) }.boxed());
            begun = true;
        }
        let may = self.claims_left != Some(0) && self.idle_until.is_none();
        if !self.claiming
            && may
            && let Some(free) = self.free()
        {
            self.begin_claim(free, wall);
            begun = true;
        }
        begun
    }

    /// Returns how many more jobs may be begun. One that has ended takes no place while it is settled, so that the next
    /// ones are claimed in the commit that settles it; but never are more held than twice the places.
    fn free(&self) -> Option<usize> {
        let places = self.worker.settings.concurrency as usize;
        let room = places.saturating_mul(2).saturating_sub(self.held.len());
        let under_way = self.held.values().filter(|held| !held.ended).count();
        Some(places.saturating_sub(under_way).min(room)).filter(|free| *free > 0)
    }

    /// Tells whether the wall clock went so far ahead of the time that has passed that the leases held may end before
    /// their next renewal. Leases end by the wall clock; renewals come by the time that passes.
    fn was_set(&self, now: Instant, wall: Timestamp) -> bool {
        let (then, wall_then) = self.renewed_at;
        let passed = now.saturating_duration_since(then);
        wall.since(wall_then) > passed.saturating_add(self.worker.settings.hold / 3)
    }

    fn begin_claim(&mut self, free: usize, wall: Timestamp) {
        self.claiming = true;
        let (worker, queue) = (self.worker, self.queue);
        let max = worker.settings.batch.min(u32::try_from(free).unwrap_or(u32::MAX));
        let under_way = self.held.values().filter(|held| !held.ended).filter_map(|held| held.group.clone()).collect();
        let claim = async move {
            let room = match worker.room(queue, under_way).await {
                Ok(room) => room,
                Err(error) => return Step::Claimed(max, Room::default(), Err(error)),
            };
            let claim = Claim { now: wall, hold: worker.settings.hold, max, queue, room: room.clone() };
            Step::Claimed(max, room, worker.claim(claim).await)
        };
        self.steps.push(claim.boxed());
    }

    fn begin_settle(&mut self) {
        self.settling = true;
        let worker = self.worker;
        let settlements = match self.alone.pop_front() {
            Some(one) => vec![one],
            None => std::mem::take(&mut self.ready),
        };
        let settle = async move {
            let settled = worker.store.settle(settlements.clone()).await;
            Step::Settled(settlements, settled)
        };
        self.steps.push(settle.boxed());
    }

    fn begin_extend(&mut self, now: Instant, wall: Timestamp) {
        self.extending += 1;
        self.renewed_at = (now, wall);
        let worker = self.worker;
        self.extend_at = now + worker.settings.hold / 3;
        let leases: Vec<Lease> = self.held.values().map(|held| held.lease).collect();
        let until = wall.plus(worker.settings.hold);
        let extend = async move {
            let kept = worker.store.extend(leases.clone(), until).await;
            Step::Extended(leases, kept)
        };
        self.steps.push(extend.boxed());
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Claimed(max, room, claimed) => self.take_claimed(max, &room, claimed),
            // It was claimed again: the store would not have what comes of the first claim.
            Step::Prepared(lease, _) if self.held(lease).is_none() => self.lost(lease),
            Step::Prepared(_, Prepared::Settle(settlement)) => {
                self.ended(settlement.lease);
                self.ready.push(*settlement);
            }
            Step::Prepared(lease, Prepared::Ended) => {
                self.let_go(lease);
                self.worker.metrics.settled(self.queue, &JobEnd::Done);
                self.store_answered();
                self.idle_until = None;
            }
            Step::Prepared(lease, Prepared::Lost) => self.lost(lease),
            Step::Settled(settlements, settled) => self.take_settled(settlements, settled),
            Step::Extended(leases, kept) => self.take_extended(&leases, kept),
            Step::Ensured(Ok(())) => self.idle_until = None,
            Step::Ensured(Err(error)) => {
                tracing::warn!(%error, "the schedules could not be looked over");
                self.ensure_at = Some(Instant::now() + STORE_WAIT_MAX);
            }
        }
    }

    fn take_claimed(&mut self, max: u32, room: &Room, claimed: Result<Vec<(Claimed, Option<ToHandle>)>>) {
        self.claiming = false;
        if let Some(left) = &mut self.claims_left {
            *left -= 1;
        }
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                self.store_failed(&error);
                self.claim_error = Some(error);
                return;
            }
        };
        self.store_answered();
        if claimed.len() < max as usize {
            // Nothing more is due, or the rest waits for what is held: in its lane, or because its group has no room.
            self.idle_until = Some(Instant::now() + self.worker.settings.poll);
            self.full = is_full(room, claimed.iter().map(|(one, _)| one));
        }
        if self.held.is_empty() {
            self.extend_at = Instant::now() + self.worker.settings.hold / 3;
        }
        self.claimed += claimed.len();
        for (one, event) in claimed {
            if self.stopping.is_some() {
                // Claimed while the stop came: not started, so given back.
                let (abort, _) = AbortHandle::new_pair();
                let (lease, attempt, group) = (one.lease, self.worker.attempt(&one), one.group);
                self.keep(Held { lease, attempt, group, abort, rounds: 0, refused: false, ended: true });
                self.ready.push(self.worker.settlement(lease, JobEnd::Release));
            } else {
                self.start(one, event);
            }
        }
    }

    fn start(&mut self, claimed: Claimed, event: Option<ToHandle>) {
        let (worker, stop) = (self.worker, self.stop.clone());
        let (lease, attempt, group) = (claimed.lease, worker.attempt(&claimed), claimed.group.clone());
        self.hold(lease, attempt, group, 0, async move { worker.work(claimed, event, attempt, stop).await }.boxed());
    }

    /// Returns what is held by this lease.
    fn held(&self, lease: Lease) -> Option<&Held> {
        self.held.get(&lease.job).filter(|held| held.lease == lease)
    }

    /// Notes that what a job came to is known, so that another may take its place.
    fn ended(&mut self, lease: Lease) {
        let Some(held) = self.held.get_mut(&lease.job).filter(|held| held.lease == lease) else { return };
        held.ended = true;
        if self.full {
            self.idle_until = None;
        }
    }

    /// Lets go of a job if it is this lease that holds it.
    fn let_go(&mut self, lease: Lease) -> Option<Held> {
        self.held(lease)?;
        self.held.remove(&lease.job)
    }

    /// Keeps what is held of a job, and drops what was under way by an earlier lease.
    fn keep(&mut self, held: Held) {
        let lease = held.lease;
        if let Some(before) = self.held.insert(lease.job, held).filter(|before| before.lease != lease) {
            before.abort.abort();
        }
    }

    /// Puts a job's future into the set, so that it can be aborted by its job.
    fn hold(
        &mut self,
        lease: Lease,
        attempt: Attempt,
        group: Option<String>,
        rounds: u32,
        job: BoxFuture<'a, Prepared>,
    ) {
        let (abort, registration) = AbortHandle::new_pair();
        self.keep(Held { lease, attempt, group, abort, rounds, refused: false, ended: false });
        let worker = self.worker;
        let job = Abortable::new(AssertUnwindSafe(job).catch_unwind(), registration).map(move |prepared| {
            let prepared = match prepared {
                Ok(Ok(prepared)) => prepared,
                Ok(Err(_)) => Prepared::Settle(Box::new(worker.retry(lease, attempt, None, PANICKED.to_owned()))),
                Err(_) => Prepared::Settle(Box::new(worker.settlement(lease, JobEnd::Release))),
            };
            Step::Prepared(lease, prepared)
        });
        self.steps.push(job.boxed());
    }

    fn take_settled(&mut self, settlements: Vec<Settlement>, settled: Result<Vec<Settled>>) {
        self.settling = false;
        let settled = match settled {
            Ok(settled) => settled,
            Err(error) => {
                self.store_failed(&error);
                if error.is_retryable() {
                    self.ready.extend(settlements);
                } else {
                    self.take_refused(settlements, &error);
                }
                return;
            }
        };
        self.store_answered();
        // A lane may be free now, or a job that follows be due.
        self.idle_until = None;
        for (settlement, settled) in settlements.into_iter().zip(settled) {
            let lease = settlement.lease;
            match settled {
                Settled::Committed(_) => {
                    self.let_go(lease);
                    if settlement.outbox.result.is_some() {
                        self.worker.calls_settled.notify_waiters();
                    }
                    self.worker.metrics.settled(self.queue, &settlement.end);
                    tell(&settlement, self.queue);
                }
                Settled::LeaseLost => self.lost(lease),
                Settled::Fetch(ids) => self.resolve(settlement, ids),
                Settled::EffectFailed(why) => {
                    let Some(attempt) = self.held(lease).map(|held| held.attempt) else {
                        self.lost(lease);
                        continue;
                    };
                    let reason = format!("an effect failed: {why}");
                    self.ready.push(self.worker.retry(lease, attempt, None, reason));
                }
            }
        }
    }

    /// The store will never have these settlements together: each is sent alone, and one that was alone ends as a
    /// failed attempt. A job whose failed attempt is refused as well is let go: its lease runs out.
    fn take_refused(&mut self, settlements: Vec<Settlement>, error: &Error) {
        if settlements.len() > 1 {
            self.alone.extend(settlements);
            return;
        }
        for lease in settlements.into_iter().map(|one| one.lease) {
            let Some(held) = self.held.get_mut(&lease.job).filter(|held| held.lease == lease && !held.refused) else {
                tracing::warn!(
                    job = lease.job.0,
                    "the job cannot be settled: it comes again when its lease has run out"
                );
                self.worker.metrics.lost(self.queue);
                self.let_go(lease);
                continue;
            };
            held.refused = true;
            let reason = format!("it could not be settled: {}", phrase(error));
            self.alone.push_back(self.worker.retry(lease, held.attempt, None, reason));
        }
    }

    fn lost(&mut self, lease: Lease) {
        self.let_go(lease);
        self.worker.metrics.lost(self.queue);
        tracing::warn!(job = lease.job.0, "the lease was lost: the job was claimed again");
    }

    /// Fetches what a settlement could not order, and settles again.
    fn resolve(&mut self, settlement: Settlement, ids: Vec<(StreamKey, RecordId)>) {
        let lease = settlement.lease;
        let Some(held) = self.held(lease) else { return self.lost(lease) };
        let (attempt, group, rounds) = (held.attempt, held.group.clone(), held.rounds + 1);
        if rounds > FETCH_ROUNDS_MAX {
            let reason = "its records kept changing while they were fetched".to_owned();
            self.ready.push(self.worker.retry(lease, attempt, None, reason));
            return;
        }
        let worker = self.worker;
        let fetch = async move { Prepared::Settle(Box::new(worker.resolve(settlement, attempt, ids).await)) };
        self.hold(lease, attempt, group, rounds, fetch.boxed());
    }

    fn take_extended(&mut self, leases: &[Lease], kept: Result<Vec<bool>>) {
        self.extending = self.extending.saturating_sub(1);
        match kept {
            Ok(kept) => {
                for (lease, kept) in leases.iter().zip(kept) {
                    // One settled meanwhile is not held any more, and its lease is lost by right.
                    let Some(held) = self.held(*lease).filter(|_| !kept) else { continue };
                    tracing::warn!(job = lease.job.0, "the lease was lost: its work is dropped");
                    held.abort.abort();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "leases could not be renewed");
                self.extend_at = self.extend_at.min(Instant::now() + self.worker.settings.hold / 12);
            }
        }
    }

    /// The grace is over: what still runs is dropped and given back.
    fn give_back(&mut self) {
        for held in self.held.values() {
            held.abort.abort();
        }
        self.gave_back = true;
        self.stopping = Some(Instant::now() + self.worker.settings.grace);
    }

    fn store_answered(&mut self) {
        self.store_failures = 0;
        self.worker.note_progress(self.queue);
    }

    fn store_failed(&mut self, error: &Error) {
        tracing::warn!(%error, "the store did not answer");
        let wait = Duration::from_millis(100).saturating_mul(1 << self.store_failures.min(12)).min(STORE_WAIT_MAX);
        self.store_failures += 1;
        self.store_again_at = Instant::now() + wait;
    }
}

impl Inner {
    /// Returns how many more of each group may be begun beside those that are under way. What is forwarded goes by the
    /// destinations as they stand by now: none may be begun of one that is paused, also right after a start.
    async fn room(&self, queue: Queue, under_way: Vec<String>) -> Result<Room> {
        let settings = &self.settings;
        let mut of = settings.group_overrides.clone();
        if queue == Queue::Forwards
            && let Some(forwarder) = &self.forwarder
        {
            forwarder.look().await?;
            of.extend(forwarder.room());
        }
        for group in under_way {
            let each = settings.concurrency_of(&group);
            let room = of.entry(group).or_insert(each);
            *room = room.saturating_sub(1);
        }
        let each = settings.group_concurrency.unwrap_or_else(|| settings.concurrency.div_ceil(2));
        Ok(Room { each, of, others: u32::MAX })
    }
}

/// Tells whether a claim took all that there was room for of some group.
fn is_full<'c>(room: &Room, claimed: impl Iterator<Item = &'c Claimed>) -> bool {
    let mut taken: BTreeMap<&str, u32> = BTreeMap::new();
    for one in claimed {
        *taken.entry(one.group.as_deref().unwrap_or_default()).or_default() += 1;
    }
    taken.into_iter().any(|(group, taken)| taken >= room.of(group)) || room.of.values().any(|room| *room == 0)
}

/// Waits until the stop is asked for, or nobody is left to ask.
async fn asked(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Logs a settlement that is not simply done.
fn tell(settlement: &Settlement, queue: Queue) {
    let job = settlement.lease.job.0;
    match &settlement.end {
        JobEnd::Done | JobEnd::Ignored | JobEnd::Release => tracing::debug!(job, "settled"),
        JobEnd::Retry { reason, .. } | JobEnd::Wait { reason, .. } => tracing::info!(job, reason, "comes again"),
        JobEnd::Dead { reason } => tell_buried(settlement.lease.job, queue, reason),
    }
    let Some(result) = &settlement.outbox.result else { return };
    let (call, reason) = (result.call.0, result.error.as_deref().unwrap_or_default());
    match result.state {
        CallState::Failed => tracing::warn!(call, reason, "a call of the outbox is given up: retry it or let it be"),
        CallState::Review => tracing::warn!(call, reason, "a call of the outbox waits for review"),
        CallState::Waiting | CallState::Running | CallState::Done | CallState::Cancelled => {}
    }
}

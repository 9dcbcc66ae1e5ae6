//! The reference model of a store: everything in maps behind one lock. What it does is what a durable store must do.
//!
//! It is the store of tests and of products that keep nothing. Effects are not executed: it keeps the committed ones
//! ([`MemoryStore::effects`]), and a test may let one fail ([`MemoryStore::fail_effects`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::Notify;

use super::outbox::{CALL_WAITS, clash as outbox_clash};
use super::{
    Appended, CallCounts, CallDay, CallId, CallLog, CallRecord, CallState, Claim, Claimed, Connection, ConnectionState,
    Connections, DeadForward, DeadLetters, Decided, Decision, Effect, EventPage, EventRow, EventState, FeedBells,
    FeedEntry, FeedPage, FetchedRecord, Halt, Heard, Inbox, JobCounts, JobEnd, JobId, Jobs, KeptCall, Lease, LiveJob,
    Merge, MergeCounts, NewDelivery, NewEvent, NewJob, Outbox, OutboxCall, PageCommit, PageCommitted, PrunePlace,
    PruneStep, Queue, Record, Records, ReplayFilter, ReplayStep, Run, RunEnd, RunFilter, RunId, RunMode, RunState,
    SealedCredential, Settled, Settlement, Store, StoredBad, StoredEvent, StreamKey, StreamStatus, ToHandle,
    Transacted, Work, counts_as_error, forward_key,
};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, EndpointId, RecordId, StreamName};
use crate::sync::merge::Stored;
use crate::sync::{BadRecord, Stop};

mod authorizations;
mod destinations;
mod grants;
mod inbox;
mod jobs;
mod keys;
mod outbox;
mod pauses;
mod records;
mod schedules;

use authorizations::AuthorizationsModel;
use destinations::DestinationsModel;
use grants::GrantsModel;
use inbox::InboxModel;
use jobs::JobsModel;
use keys::KeysModel;
use outbox::OutboxModel;
use pauses::PausesModel;
use records::RecordsModel;
use schedules::SchedulesModel;

/// Says why an effect fails, or lets it pass.
type EffectHook = Arc<dyn Fn(&Effect) -> Option<String> + Send + Sync>;

/// The in-memory store.
#[derive(Default)]
pub struct MemoryStore {
    model: Mutex<Model>,
    /// One per queue, as they are declared.
    wakes: [Notify; Queue::ALL.len()],
    bells: FeedBells,
}

#[derive(Default)]
struct Model {
    inbox: InboxModel,
    jobs: JobsModel,
    records: RecordsModel,
    effects: Vec<Effect>,
    effect_hook: Option<EffectHook>,
    connections: BTreeMap<ConnectionId, Connection>,
    credentials: HashMap<ConnectionId, SealedCredential>,
    grants: GrantsModel,
    keys: KeysModel,
    authorizations: AuthorizationsModel,
    calls: BTreeMap<u64, CallRecord>,
    calls_logged: u64,
    call_hours: BTreeMap<(ConnectionId, i64), CallCounts>,
    call_days: BTreeMap<(ConnectionId, i64), CallCounts>,
    pauses: PausesModel,
    schedules: SchedulesModel,
    destinations: DestinationsModel,
    halts: BTreeMap<Halt, Timestamp>,
    outbox: OutboxModel,
}

const HOUR_MILLIS: i64 = 3_600_000;
const DAY_HOURS: i64 = 24;

/// The keys of counts before a time, oldest first.
fn oldest(counts: &BTreeMap<(ConnectionId, i64), CallCounts>, before: i64, limit: u32) -> Vec<(i64, ConnectionId)> {
    let mut old: Vec<_> = counts.keys().filter(|(_, at)| *at < before).map(|(of, at)| (*at, of.clone())).collect();
    old.sort();
    old.truncate(limit as usize);
    old
}

impl MemoryStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the effects committed so far, in order.
    #[must_use]
    pub fn effects(&self) -> Vec<Effect> {
        self.lock().effects.clone()
    }

    /// Lets effects fail from now on: those for which `hook` gives a phrase. For tests.
    pub fn fail_effects(&self, hook: impl Fn(&Effect) -> Option<String> + Send + Sync + 'static) {
        self.lock().effect_hook = Some(Arc::new(hook));
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, queue: Queue) -> &Notify {
        let [events, background, calls, forwards] = &self.wakes;
        match queue {
            Queue::Events => events,
            Queue::Background => background,
            Queue::Calls => calls,
            Queue::Forwards => forwards,
        }
    }

    fn wake_all(&self) {
        self.wakes.iter().for_each(Notify::notify_one);
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = self.lock();
        f.debug_struct("MemoryStore")
            .field("events", &model.inbox.len())
            .field("jobs", &model.jobs.counts())
            .field("streams", &model.records.len())
            .field("connections", &model.connections.len())
            .finish_non_exhaustive()
    }
}

impl Model {
    fn check_lease(&self, lease: Lease) -> Result<()> {
        if self.jobs.holds(lease) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::LeaseLost, "another worker has the job by now"))
    }

    fn append(&mut self, deliveries: Vec<NewDelivery>) -> Vec<Vec<Appended>> {
        deliveries
            .into_iter()
            .map(|delivery| {
                let now = delivery.received_at;
                let (appended, jobs) = self.inbox.append(delivery);
                for job in jobs {
                    let job = self.of_tenant(job);
                    self.enqueue(job, Some(now));
                }
                appended
            })
            .collect()
    }

    /// Gives an event's job, which names its connection, to that one's tenant.
    fn of_tenant(&self, job: NewJob) -> NewJob {
        let id = job.tenant.as_ref().map(|name| ConnectionId::new(name.as_str()));
        let known = id.and_then(|id| self.connections.get(&id)).map(|connection| connection.tenant.clone());
        NewJob { tenant: known.or(job.tenant), ..job }
    }

    /// Adds a job. An event that is forwarded again is given up no more.
    fn enqueue(&mut self, job: NewJob, now: Option<Timestamp>) -> JobId {
        if let Work::Forward { row, destination } = &job.work
            && !job.unique.as_ref().is_some_and(|key| self.jobs.is_live(key))
            && let Some(died) = self.destinations.dismiss(destination, *row)
        {
            self.jobs.seen(died);
        }
        self.jobs.enqueue(job, now)
    }

    fn put_connection(&mut self, connection: Connection) {
        let id = connection.id.clone();
        let before = self.connections.get(&id).map(|before| &before.state);
        if before.is_some_and(|before| connection.state.ends_halt(before)) {
            self.halts.remove(&Halt::Connection(id.clone()));
        }
        self.connections.insert(id, connection);
    }

    /// Lets events and runs follow the jobs that ended.
    fn follow(&mut self, ended: Vec<jobs::Followed>, now: Timestamp) {
        for one in ended {
            match one {
                jobs::Followed::Event { row, state, reason } => self.inbox.set_state(row, state, reason, now),
                jobs::Followed::DeadSync { key, mode, reason } => self.records.fail_run(&key, mode, reason, now),
                jobs::Followed::DeadCall { call, reason } => self.outbox.job_died(call, reason, now),
                jobs::Followed::DeadForward { row, destination, job, reason } => {
                    if self.inbox.event(row).is_some() {
                        self.destinations.gave_up(destination, job, DeadForward { row, at: now, reason });
                    }
                }
            }
        }
    }

    /// Ends a held job with what follows. The job of a call that waits by now is not done: it comes again at once.
    fn end(&mut self, lease: Lease, end: JobEnd, now: Timestamp) {
        let end = match (end, self.jobs.call_of(lease)) {
            (JobEnd::Done, Some(call)) if self.outbox.is_waiting(call) => {
                JobEnd::Retry { at: now, reason: CALL_WAITS.to_owned() }
            }
            (end, _) => end,
        };
        let ended = self.jobs.end(lease, end, now);
        self.follow(ended.into_iter().collect(), now);
    }

    fn settle(&mut self, settlement: Settlement) -> Settled {
        let Settlement { lease, end, now, effects, merges, follow, outbox } = settlement;
        if !self.jobs.holds(lease) {
            return Settled::LeaseLost;
        }
        let staged = self.records.stage(&merges, now);
        if !staged.fetch.is_empty() {
            return Settled::Fetch(staged.fetch);
        }
        if let Some(hook) = &self.effect_hook
            && let Some(why) = effects.iter().find_map(|effect| hook(effect))
        {
            return Settled::EffectFailed(why);
        }
        let calls = match self.outbox.add(outbox.add) {
            Ok((_, jobs)) => jobs,
            Err(clash) => return Settled::EffectFailed(outbox_clash(clash.known)),
        };
        let counts = self.records.commit(staged);
        self.effects.extend(effects);
        for (job, now) in calls {
            self.enqueue(job, Some(now));
        }
        if let Some(result) = outbox.result {
            self.outbox.settle(result, now);
        }
        self.end(lease, end, now);
        for job in follow {
            self.enqueue(job, Some(now));
        }
        Settled::Committed(counts)
    }

    /// Removes events but those that are still forwarded.
    fn prune_events(
        &mut self,
        prune: impl FnOnce(&mut InboxModel, (usize, &dyn Fn(EventRow) -> bool)) -> PruneStep,
    ) -> PruneStep {
        let Self { inbox, jobs, destinations, .. } = self;
        let needed = |row| destinations.names().any(|name| jobs.is_live(&forward_key(name, row)));
        let step = prune(inbox, (destinations.names().count(), &needed));
        if step.gone > 0 {
            destinations.forget(|row| inbox.event(row).is_none());
        }
        step
    }

    fn claim(&mut self, claim: &Claim) -> Vec<Claimed> {
        let halts: BTreeSet<Halt> = self.halts.keys().cloned().collect();
        let Self { inbox, jobs, .. } = self;
        let (claimed, dead) = jobs.claim(claim, &halts, |row| inbox.connection(row));
        self.follow(dead, claim.now);
        claimed
    }

    fn replay(&mut self, row: EventRow, now: Timestamp) -> bool {
        let Some(job) = self.inbox.replay(row, now) else { return false };
        let job = self.of_tenant(job);
        self.jobs.seen_to(row);
        self.enqueue(job, Some(now));
        true
    }

    fn dismiss(&mut self, row: EventRow, now: Timestamp) -> bool {
        let dismissed = self.inbox.dismiss(row, now);
        if dismissed {
            self.jobs.seen_to(row);
        }
        dismissed
    }
}

#[async_trait]
impl Inbox for MemoryStore {
    async fn append(&self, deliveries: Vec<NewDelivery>) -> Result<Vec<Vec<Appended>>> {
        let appended = self.lock().append(deliveries);
        self.wake(Queue::Events).notify_one();
        Ok(appended)
    }

    async fn event(&self, row: EventRow) -> Result<Option<StoredEvent>> {
        Ok(self.lock().inbox.event(row))
    }

    async fn events_to_handle(&self, rows: Vec<EventRow>) -> Result<Vec<Option<ToHandle>>> {
        let data = self.lock();
        let found = rows.into_iter().map(|row| {
            let event = data.inbox.event(row)?;
            let connection = data.connections.get(&event.connection).cloned();
            Some(ToHandle { event, connection })
        });
        Ok(found.collect())
    }

    async fn events(&self, state: Option<EventState>, before: Option<EventRow>, limit: u32) -> Result<EventPage> {
        Ok(self.lock().inbox.events(state, before, limit))
    }

    async fn event_heads(&self, rows: Vec<EventRow>) -> Result<Vec<Option<StoredEvent>>> {
        let model = self.lock();
        Ok(rows.into_iter().map(|row| model.inbox.head(row)).collect())
    }

    async fn replay(&self, row: EventRow, now: Timestamp) -> Result<bool> {
        let replayed = self.lock().replay(row, now);
        self.wake(Queue::Events).notify_one();
        Ok(replayed)
    }

    async fn replay_some(
        &self,
        filter: ReplayFilter,
        after: EventRow,
        looked: u32,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<ReplayStep> {
        let step = {
            let mut model = self.lock();
            let step = model.inbox.replayable(&filter, after, looked);
            for row in step.met.iter().filter(|_| !dry_run) {
                model.replay(*row, now);
            }
            step
        };
        self.wake(Queue::Events).notify_one();
        Ok(step)
    }

    async fn dismiss(&self, row: EventRow, now: Timestamp) -> Result<bool> {
        Ok(self.lock().dismiss(row, now))
    }

    async fn dismiss_some(
        &self,
        filter: ReplayFilter,
        after: EventRow,
        looked: u32,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<ReplayStep> {
        let Some(filter) = filter.of_dead() else { return Ok(ReplayStep { met: Vec::new(), next: None }) };
        let mut model = self.lock();
        let step = model.inbox.replayable(&filter, after, looked);
        for row in step.met.iter().filter(|_| !dry_run) {
            model.dismiss(*row, now);
        }
        Ok(step)
    }

    async fn halt(&self, halt: Halt, now: Timestamp) -> Result<bool> {
        let mut model = self.lock();
        let new = !model.halts.contains_key(&halt);
        model.halts.entry(halt).or_insert(now);
        Ok(new)
    }

    async fn resume(&self, halt: Halt) -> Result<bool> {
        let ended = self.lock().halts.remove(&halt).is_some();
        self.wake(Queue::Events).notify_one();
        Ok(ended)
    }

    async fn halts(&self, limit: u32) -> Result<Vec<(Halt, Timestamp)>> {
        Ok(self.lock().halts.iter().take(limit as usize).map(|(halt, at)| (halt.clone(), *at)).collect())
    }

    async fn dead_letters(&self, limit: u32) -> Result<Vec<DeadLetters>> {
        Ok(self.lock().inbox.dead_letters(limit))
    }

    async fn event_counts(&self) -> Result<BTreeMap<EventState, u64>> {
        Ok(self.lock().inbox.counts())
    }

    async fn dead_counts(&self, connections: Vec<ConnectionId>) -> Result<BTreeMap<ConnectionId, u64>> {
        Ok(self.lock().inbox.dead_counts(&connections))
    }

    async fn heard(&self, endpoint: EndpointId) -> Result<Vec<Heard>> {
        Ok(self.lock().inbox.heard(&endpoint))
    }

    async fn prune_events(
        &self,
        before: Timestamp,
        forget: Timestamp,
        after: Option<PrunePlace>,
        limit: u32,
    ) -> Result<PruneStep> {
        Ok(self.lock().prune_events(|inbox, needed| inbox.prune(before, forget, (after, limit), needed)))
    }

    async fn forget_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(self.lock().inbox.forget(before, limit))
    }

    async fn inbox_bytes(&self) -> Result<u64> {
        Ok(self.lock().inbox.bytes())
    }

    async fn prune_inbox(
        &self,
        bytes_max: u64,
        forget: Timestamp,
        after: Option<PrunePlace>,
        limit: u32,
    ) -> Result<PruneStep> {
        Ok(self.lock().prune_events(|inbox, needed| inbox.prune_to(bytes_max, forget, (after, limit), needed)))
    }
}

#[async_trait]
impl Jobs for MemoryStore {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<JobId>> {
        let ids = {
            let mut model = self.lock();
            jobs.into_iter().map(|job| model.enqueue(job, None)).collect()
        };
        self.wake_all();
        Ok(ids)
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>> {
        Ok(self.lock().claim(&claim))
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>> {
        let settled = {
            let mut model = self.lock();
            settlements.into_iter().map(|settlement| model.settle(settlement)).collect()
        };
        self.wake_all();
        self.bells.ring_all();
        Ok(settled)
    }

    async fn extend(&self, leases: Vec<Lease>, until: Timestamp) -> Result<Vec<bool>> {
        let mut model = self.lock();
        Ok(leases.into_iter().map(|lease| model.jobs.extend(lease, until)).collect())
    }

    async fn oldest_due(&self, queue: Queue, now: Timestamp) -> Result<Option<Timestamp>> {
        Ok(self.lock().jobs.oldest_due(queue, now))
    }

    async fn live_jobs(&self, unique: Vec<String>) -> Result<Vec<Option<LiveJob>>> {
        let model = self.lock();
        Ok(unique.iter().map(|key| model.jobs.live_of(key)).collect())
    }

    async fn job_counts(&self) -> Result<JobCounts> {
        Ok(self.lock().jobs.counts())
    }

    async fn wait_for_work(&self, queue: Queue) {
        self.wake(queue).notified().await;
    }

    async fn prune_jobs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(self.lock().jobs.prune(before, limit))
    }
}

#[async_trait]
impl Records for MemoryStore {
    async fn stream(&self, key: StreamKey) -> Result<StreamStatus> {
        Ok(self.lock().records.status(&key))
    }

    async fn streams(&self, connection: ConnectionId) -> Result<Vec<(StreamName, StreamStatus)>> {
        Ok(self.lock().records.streams(&connection))
    }

    async fn start_run(&self, lease: Lease, key: StreamKey, mode: RunMode, now: Timestamp) -> Result<Run> {
        let mut model = self.lock();
        model.check_lease(lease)?;
        Ok(model.records.start_run(key, mode, now))
    }

    async fn commit_page(&self, mut page: PageCommit) -> Result<PageCommitted> {
        let committed = {
            let mut model = self.lock();
            model.check_lease(page.lease)?;
            let key = model.records.running(page.run)?;
            let changes = std::mem::take(&mut page.changes);
            let mut reads = vec![Merge { key: key.clone(), read_since: Some(page.read_since), changes }];
            reads.extend(std::mem::take(&mut page.fetched).into_iter().map(|one| {
                let FetchedRecord { read_since, change } = one;
                Merge { key: key.clone(), read_since: Some(read_since), changes: vec![change] }
            }));
            let staged = model.records.stage(&reads, page.now);
            if !staged.fetch.is_empty() {
                let fetch = staged.fetch.into_iter().map(|(_, id)| id).collect();
                return Ok(PageCommitted { fetch, ..PageCommitted::default() });
            }
            let counts = model.records.commit(staged);
            let mut deliveries = std::mem::take(&mut page.deliveries);
            let elsewhere = model.inbox.leave_out(&mut deliveries, &page.endpoints);
            let heard = |event: &NewEvent| !page.unheard.contains(&event.kind);
            let created = deliveries.iter().flat_map(|one| &one.events);
            let created: Vec<_> = created.map(|event| event.created.filter(|_| heard(event))).collect();
            let (mut events_new, mut events_duplicate, mut missed): (_, _, Vec<Timestamp>) = (0, elsewhere, Vec::new());
            for (appended, created) in model.append(deliveries).into_iter().flatten().zip(created) {
                match appended {
                    Appended::New(_) => {
                        events_new += 1;
                        missed.extend(created.filter(|at| *at <= page.missed_before));
                    }
                    Appended::Duplicate(_) => events_duplicate += 1,
                }
            }
            model.records.progress(&page, counts, &missed);
            PageCommitted { counts, fetch: Vec::new(), events_new, events_duplicate }
        };
        self.wake(Queue::Events).notify_one();
        self.bells.ring_all();
        Ok(committed)
    }

    async fn merge(&self, merges: Vec<Merge>, now: Timestamp) -> Result<(MergeCounts, Vec<(StreamKey, RecordId)>)> {
        let merged = {
            let mut model = self.lock();
            let mut staged = model.records.stage(&merges, now);
            let fetch = std::mem::take(&mut staged.fetch);
            (model.records.commit(staged), fetch)
        };
        self.bells.ring_all();
        Ok(merged)
    }

    async fn end_run(&self, end: RunEnd) -> Result<Run> {
        let run = {
            let mut model = self.lock();
            model.check_lease(end.lease)?;
            model.records.running(end.run)?;
            let (lease, now, follow) = (end.lease, end.now, end.follow.clone());
            let run = model.records.end_run(end)?;
            if run.state != RunState::Running {
                model.end(lease, JobEnd::Done, now);
                for job in follow {
                    model.enqueue(job, Some(now));
                }
            }
            run
        };
        self.wake_all();
        self.bells.ring_all();
        Ok(run)
    }

    async fn runs(&self, connection: Option<ConnectionId>, limit: u32) -> Result<Vec<Run>> {
        Ok(self.lock().records.runs(connection.as_ref(), limit))
    }

    async fn find_runs(&self, filter: RunFilter, limit: u32) -> Result<Vec<Run>> {
        Ok(self.lock().records.find_runs(&filter, limit))
    }

    async fn live_runs(&self, limit: u32) -> Result<Vec<Run>> {
        Ok(self.lock().records.live_runs(limit))
    }

    async fn newest_runs(&self, connection: ConnectionId) -> Result<Vec<Run>> {
        Ok(self.lock().records.newest_runs(&connection))
    }

    async fn run(&self, run: RunId) -> Result<Option<Run>> {
        Ok(self.lock().records.run(run))
    }

    async fn hold_run(&self, lease: Lease, run: RunId, stop: Stop) -> Result<()> {
        let mut model = self.lock();
        model.check_lease(lease)?;
        model.records.running(run)?;
        model.records.hold(run, stop);
        Ok(())
    }

    async fn unseen(&self, run: RunId, after: Option<RecordId>, limit: u32) -> Result<Vec<Record>> {
        Ok(self.lock().records.unseen(run, after.as_ref(), limit))
    }

    async fn dismiss_run(&self, run: RunId, reason: String, now: Timestamp) -> Result<bool> {
        Ok(self.lock().records.dismiss(run, &reason, now))
    }

    async fn healings(&self, connection: ConnectionId, limit: u32) -> Result<Vec<Run>> {
        Ok(self.lock().records.healings(&connection, limit))
    }

    async fn bad_records(&self, key: StreamKey, limit: u32) -> Result<Vec<StoredBad>> {
        Ok(self.lock().records.bad_records(&key, limit))
    }

    async fn bad_to_retry(&self, key: StreamKey, run: RunId, limit: u32) -> Result<Vec<StoredBad>> {
        Ok(self.lock().records.bad_to_retry(&key, run, limit))
    }

    async fn set_aside(&self, lease: Lease, run: RunId, bad: Vec<BadRecord>, now: Timestamp) -> Result<()> {
        let mut model = self.lock();
        model.check_lease(lease)?;
        let key = model.records.running(run)?;
        model.records.set_aside(&key, run, &bad, now);
        Ok(())
    }

    async fn pause_stream(&self, key: StreamKey, since: Option<Timestamp>) -> Result<()> {
        self.lock().records.pause(key, since);
        Ok(())
    }

    async fn reset_stream(&self, key: StreamKey, now: Timestamp) -> Result<bool> {
        Ok(self.lock().records.reset(&key, now))
    }

    async fn erase_records(&self, key: StreamKey, limit: u32, now: Timestamp) -> Result<u64> {
        let erased = self.lock().records.erase(&key, limit, now);
        self.bells.ring_all();
        Ok(erased)
    }

    async fn stored(&self, key: StreamKey, ids: Vec<RecordId>) -> Result<Vec<Option<Stored>>> {
        Ok(self.lock().records.stored(&key, &ids))
    }

    async fn record(&self, key: StreamKey, id: RecordId) -> Result<Option<Record>> {
        Ok(self.lock().records.record(&key, &id))
    }

    async fn changes(&self, key: StreamKey, after: u64, limit: u32) -> Result<Vec<FeedEntry>> {
        Ok(self.lock().records.changes(&key, after, limit))
    }

    async fn feed(&self, key: StreamKey, after: u64, limit: u32) -> Result<FeedPage> {
        Ok(self.lock().records.feed(&key, after, limit))
    }

    fn scan(&self, key: StreamKey, page: u32) -> BoxStream<'static, Result<FeedPage>> {
        let whole = self.lock().records.feed(&key, 0, u32::MAX);
        futures_util::stream::iter(whole.pages(page as usize).into_iter().map(Ok)).boxed()
    }

    async fn wait_for_change(&self, key: StreamKey, after: u64) {
        let mut listener = self.bells.listen(&key);
        while self.lock().records.status(&key).head <= after {
            listener.rung().await;
        }
    }

    async fn compact_feed(&self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(self.lock().records.compact(before, limit))
    }

    async fn prune_runs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(self.lock().records.prune_runs(before, limit))
    }

    async fn prune_bad_records(&self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(self.lock().records.prune_bad(before, limit))
    }
}

#[async_trait]
impl Connections for MemoryStore {
    async fn put_connection(&self, connection: Connection) -> Result<()> {
        self.lock().put_connection(connection);
        Ok(())
    }

    async fn turn_connection(
        &self,
        id: ConnectionId,
        seen: ConnectionState,
        to: ConnectionState,
        halted: Option<Timestamp>,
    ) -> Result<bool> {
        let mut model = self.lock();
        let found = model.connections.get(&id).filter(|found| found.state == seen).cloned();
        let Some(found) = found else { return Ok(false) };
        model.put_connection(Connection { state: to, ..found });
        if let Some(at) = halted {
            model.halts.entry(Halt::Connection(id)).or_insert(at);
        }
        drop(model);
        // Events that waited for its halt to end go on.
        self.wake(Queue::Events).notify_one();
        Ok(true)
    }

    async fn connection(&self, id: ConnectionId) -> Result<Option<Connection>> {
        Ok(self.lock().connections.get(&id).cloned())
    }

    async fn connections(&self, after: Option<ConnectionId>, limit: u32) -> Result<Vec<Connection>> {
        let model = self.lock();
        let all = model.connections.values();
        Ok(all.filter(|one| after.as_ref().is_none_or(|after| one.id > *after)).take(limit as usize).cloned().collect())
    }

    async fn credential(&self, id: ConnectionId) -> Result<Option<SealedCredential>> {
        Ok(self.lock().credentials.get(&id).cloned())
    }

    async fn put_credential(&self, id: ConnectionId, expected: u64, credential: SealedCredential) -> Result<bool> {
        let mut model = self.lock();
        let stored = model.credentials.get(&id).map_or(0, |stored| stored.generation);
        if stored != expected {
            return Ok(false);
        }
        model.credentials.insert(id, credential);
        Ok(true)
    }

    async fn refuse_credential(&self, id: ConnectionId, seen: u64, reason: String) -> Result<bool> {
        let mut model = self.lock();
        let of_key = model.credentials.get(&id).is_some_and(|stored| stored.generation == seen);
        let of_grant = model.grants.values().any(|grant| grant.key.connection == id && grant.generation == seen);
        let active = |connection: &&mut Connection| connection.state == ConnectionState::Active;
        let Some(connection) = model.connections.get_mut(&id).filter(active) else { return Ok(false) };
        if of_key || of_grant {
            connection.state = ConnectionState::NeedsReconnect { reason };
        }
        Ok(of_key || of_grant)
    }
}

#[async_trait]
impl CallLog for MemoryStore {
    async fn log_calls(&self, calls: Vec<CallRecord>) -> Result<()> {
        let mut model = self.lock();
        for call in calls {
            let hour = call.at.millis().div_euclid(HOUR_MILLIS);
            let counts = model.call_hours.entry((call.connection.clone(), hour)).or_default();
            counts.calls += 1;
            counts.errors += u64::from(call.error.is_some_and(counts_as_error));
            model.calls_logged += 1;
            let number = model.calls_logged;
            model.calls.insert(number, call);
        }
        Ok(())
    }

    async fn calls(&self, connection: Option<ConnectionId>, limit: u32) -> Result<Vec<CallRecord>> {
        let model = self.lock();
        let newest_first = model.calls.values().rev();
        Ok(newest_first
            .filter(|call| connection.as_ref().is_none_or(|wanted| call.connection == *wanted))
            .take(limit as usize)
            .cloned()
            .collect())
    }

    async fn call_counts(&self, connection: ConnectionId, since: Timestamp) -> Result<CallCounts> {
        let first = since.millis().div_euclid(HOUR_MILLIS);
        let model = self.lock();
        let mut sum = CallCounts::default();
        for counts in model.call_hours.range((connection.clone(), first)..=(connection.clone(), i64::MAX)) {
            sum += *counts.1;
        }
        let first = first.div_euclid(DAY_HOURS);
        for counts in model.call_days.range((connection.clone(), first)..=(connection, i64::MAX)) {
            sum += *counts.1;
        }
        Ok(sum)
    }

    async fn prune_calls(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let mut model = self.lock();
        let mut old: Vec<_> =
            model.calls.iter().filter(|(_, call)| call.at < before).map(|(n, c)| (c.at, *n)).collect();
        old.sort_unstable();
        old.truncate(limit as usize);
        for (_, number) in &old {
            model.calls.remove(number);
        }
        let first_kept = before.millis().div_euclid(HOUR_MILLIS);
        model.call_hours.retain(|(_, hour), _| *hour >= first_kept);
        Ok(old.len() as u64)
    }

    async fn roll_up_calls(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let model = &mut *self.lock();
        let first_kept = before.millis().div_euclid(HOUR_MILLIS);
        let old = oldest(&model.call_hours, first_kept, limit);
        for (hour, connection) in &old {
            if let Some(counts) = model.call_hours.remove(&(connection.clone(), *hour)) {
                *model.call_days.entry((connection.clone(), hour.div_euclid(DAY_HOURS))).or_default() += counts;
            }
        }
        Ok(old.len() as u64)
    }

    async fn prune_call_days(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let model = &mut *self.lock();
        let first_kept = before.millis().div_euclid(HOUR_MILLIS * DAY_HOURS);
        let old = oldest(&model.call_days, first_kept, limit);
        for (day, connection) in &old {
            model.call_days.remove(&(connection.clone(), *day));
        }
        Ok(old.len() as u64)
    }

    async fn call_days(&self, connection: ConnectionId, limit: u32) -> Result<Vec<CallDay>> {
        let model = self.lock();
        let mut days: BTreeMap<i64, CallCounts> = BTreeMap::new();
        for ((_, hour), counts) in model.call_hours.iter().filter(|((of, _), _)| *of == connection) {
            *days.entry(hour.div_euclid(DAY_HOURS)).or_default() += *counts;
        }
        for ((_, day), counts) in model.call_days.iter().filter(|((of, _), _)| *of == connection) {
            *days.entry(*day).or_default() += *counts;
        }
        let newest = days.into_iter().rev().take(limit as usize);
        Ok(newest.map(|(day, counts)| CallDay { day: Timestamp(day * DAY_HOURS * HOUR_MILLIS), counts }).collect())
    }
}

#[async_trait]
impl Outbox for MemoryStore {
    async fn transact(&self, effects: Vec<Effect>, calls: Vec<KeptCall>) -> Result<Transacted> {
        let enqueued = {
            let mut model = self.lock();
            if let Some(hook) = &model.effect_hook
                && let Some(why) = effects.iter().find_map(|effect| hook(effect))
            {
                return Ok(Transacted::EffectFailed(why));
            }
            let (enqueued, jobs) = match model.outbox.add(calls) {
                Ok(added) => added,
                Err(clash) => return Ok(Transacted::Clash { at: clash.at, known: clash.known }),
            };
            model.effects.extend(effects);
            for (job, now) in jobs {
                model.enqueue(job, Some(now));
            }
            enqueued
        };
        self.wake(Queue::Calls).notify_one();
        Ok(Transacted::Committed(enqueued))
    }

    async fn note_departure(&self, lease: Lease, call: CallId, now: Timestamp) -> Result<bool> {
        let mut model = self.lock();
        Ok(model.jobs.works_on(lease, &Work::Call { call }) && model.outbox.depart(call, now))
    }

    async fn outbox_call(&self, id: CallId) -> Result<Option<OutboxCall>> {
        Ok(self.lock().outbox.one(id))
    }

    async fn outbox(&self, state: Option<CallState>, before: Option<CallId>, limit: u32) -> Result<Vec<OutboxCall>> {
        Ok(self.lock().outbox.list(state, before, limit))
    }

    async fn outbox_counts(&self) -> Result<BTreeMap<CallState, u64>> {
        Ok(self.lock().outbox.counts())
    }

    async fn review_counts(&self, connections: Vec<ConnectionId>) -> Result<BTreeMap<ConnectionId, u64>> {
        Ok(self.lock().outbox.reviews(&connections))
    }

    async fn decide_call(&self, id: CallId, decision: Decision, now: Timestamp) -> Result<Decided> {
        let decided = {
            let mut model = self.lock();
            let (decided, job) = model.outbox.decide(id, decision, now);
            if let Some(job) = job {
                model.enqueue(job, Some(now));
            }
            decided
        };
        self.wake(Queue::Calls).notify_one();
        Ok(decided)
    }

    async fn prune_outbox(&self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(self.lock().outbox.prune(before, limit))
    }
}

impl Store for MemoryStore {}

#[cfg(test)]
mod tests;

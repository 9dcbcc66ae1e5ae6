//! A store with something around every call: faults, waits, measurements.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::*;
use crate::id::{ConnectionId, EndpointId, GrantName, RecordId, StreamName, TenantId};
use crate::sync::merge::Stored;
use crate::sync::{BadRecord, Stop};

/// What happens around every call of a store.
///
/// # Examples
/// A store whose every call is timed has a layer that notes the time, awaits `call`, and notes the time again under
/// `name`.
pub trait StoreLayer: Send + Sync + std::fmt::Debug + 'static {
    /// Runs `call`, the store's method `name`, or answers without it.
    fn around<T: Send>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> impl Future<Output = Result<T>> + Send;
}

/// A store with a layer around each of its calls but [`Jobs::wait_for_work`] and [`Records::wait_for_change`], which only
/// wait, and [`Records::scan`], which goes on for long.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a pair; any two are valid")]
pub struct LayeredStore<S, L> {
    /// The store.
    pub inner: S,
    /// What happens around its calls.
    pub layer: L,
}

#[async_trait]
impl<S: Store, L: StoreLayer> Store for LayeredStore<S, L> {
    async fn probe(&self, now: Timestamp) -> Result<()> {
        self.layer.around("probe", self.inner.probe(now)).await
    }
}

macro_rules! delegate {
    ($trait:ident { $(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)* $(forward $wait:ident($($warg:ident: $wty:ty),*);)*
        $(plain fn $plain:ident($($parg:ident: $pty:ty),*) -> $pret:ty;)* }) => {
        #[async_trait]
        impl<S: Store, L: StoreLayer> $trait for LayeredStore<S, L> {
            $(async fn $name(&self, $($arg: $ty),*) -> Result<$ret> {
                self.layer.around(stringify!($name), self.inner.$name($($arg),*)).await
            })*
            $(async fn $wait(&self, $($warg: $wty),*) {
                self.inner.$wait($($warg),*).await;
            })*
            $(fn $plain(&self, $($parg: $pty),*) -> $pret {
                self.inner.$plain($($parg),*)
            })*
        }
    };
}

delegate!(Inbox {
    fn append(deliveries: Vec<NewDelivery>) -> Vec<Vec<Appended>>;
    fn event(row: EventRow) -> Option<StoredEvent>;
    fn events_to_handle(rows: Vec<EventRow>) -> Vec<Option<ToHandle>>;
    fn events(state: Option<EventState>, before: Option<EventRow>, limit: u32) -> EventPage;
    fn event_heads(rows: Vec<EventRow>) -> Vec<Option<StoredEvent>>;
    fn replay(row: EventRow, now: Timestamp) -> bool;
    fn replay_some(filter: ReplayFilter, after: EventRow, looked: u32, dry_run: bool, now: Timestamp) -> ReplayStep;
    fn dismiss(row: EventRow, now: Timestamp) -> bool;
    fn dismiss_some(filter: ReplayFilter, after: EventRow, looked: u32, dry_run: bool, now: Timestamp) -> ReplayStep;
    fn halt(halt: Halt, now: Timestamp) -> bool;
    fn resume(halt: Halt) -> bool;
    fn halts(limit: u32) -> Vec<(Halt, Timestamp)>;
    fn dead_letters(limit: u32) -> Vec<DeadLetters>;
    fn event_counts() -> BTreeMap<EventState, u64>;
    fn dead_counts(connections: Vec<ConnectionId>) -> BTreeMap<ConnectionId, u64>;
    fn heard(endpoint: EndpointId) -> Vec<Heard>;
    fn prune_events(before: Timestamp, forget: Timestamp, after: Option<PrunePlace>, limit: u32) -> PruneStep;
    fn forget_events(before: Timestamp, limit: u32) -> u64;
    fn inbox_bytes() -> u64;
    fn prune_inbox(bytes_max: u64, forget: Timestamp, after: Option<PrunePlace>, limit: u32) -> PruneStep;
});
delegate!(Jobs {
    fn enqueue(jobs: Vec<NewJob>) -> Vec<JobId>;
    fn claim(claim: Claim) -> Vec<Claimed>;
    fn settle(settlements: Vec<Settlement>) -> Vec<Settled>;
    fn extend(leases: Vec<Lease>, until: Timestamp) -> Vec<bool>;
    fn job_counts() -> JobCounts;
    fn oldest_due(queue: Queue, now: Timestamp) -> Option<Timestamp>;
    fn live_jobs(unique: Vec<String>) -> Vec<Option<LiveJob>>;
    fn prune_jobs(before: Timestamp, limit: u32) -> u64;
    forward wait_for_work(queue: Queue);
});
delegate!(Records {
    fn stream(key: StreamKey) -> StreamStatus;
    fn streams(connection: ConnectionId) -> Vec<(StreamName, StreamStatus)>;
    fn start_run(lease: Lease, key: StreamKey, mode: RunMode, now: Timestamp) -> Run;
    fn commit_page(page: PageCommit) -> PageCommitted;
    fn merge(merges: Vec<Merge>, now: Timestamp) -> (MergeCounts, Vec<(StreamKey, RecordId)>);
    fn end_run(end: RunEnd) -> Run;
    fn runs(connection: Option<ConnectionId>, limit: u32) -> Vec<Run>;
    fn find_runs(filter: RunFilter, limit: u32) -> Vec<Run>;
    fn live_runs(limit: u32) -> Vec<Run>;
    fn newest_runs(connection: ConnectionId) -> Vec<Run>;
    fn run(run: RunId) -> Option<Run>;
    fn hold_run(lease: Lease, run: RunId, stop: Stop) -> ();
    fn unseen(run: RunId, after: Option<RecordId>, limit: u32) -> Vec<Record>;
    fn dismiss_run(run: RunId, reason: String, now: Timestamp) -> bool;
    fn healings(connection: ConnectionId, limit: u32) -> Vec<Run>;
    fn bad_records(key: StreamKey, limit: u32) -> Vec<StoredBad>;
    fn bad_to_retry(key: StreamKey, run: RunId, limit: u32) -> Vec<StoredBad>;
    fn set_aside(lease: Lease, run: RunId, bad: Vec<BadRecord>, now: Timestamp) -> ();
    fn pause_stream(key: StreamKey, since: Option<Timestamp>) -> ();
    fn reset_stream(key: StreamKey, now: Timestamp) -> bool;
    fn erase_records(key: StreamKey, limit: u32, now: Timestamp) -> u64;
    fn stored(key: StreamKey, ids: Vec<RecordId>) -> Vec<Option<Stored>>;
    fn record(key: StreamKey, id: RecordId) -> Option<Record>;
    fn changes(key: StreamKey, after: u64, limit: u32) -> Vec<FeedEntry>;
    fn feed(key: StreamKey, after: u64, limit: u32) -> FeedPage;
    fn compact_feed(before: Timestamp, limit: u32) -> u64;
    fn prune_runs(before: Timestamp, limit: u32) -> u64;
    fn prune_bad_records(before: Timestamp, limit: u32) -> u64;
    forward wait_for_change(key: StreamKey, after: u64);
    plain fn scan(key: StreamKey, page: u32) -> BoxStream<'static, Result<FeedPage>>;
});
delegate!(Connections {
    fn put_connection(connection: Connection) -> ();
    fn turn_connection(id: ConnectionId, seen: ConnectionState, to: ConnectionState, halted: Option<Timestamp>) -> bool;
    fn connection(id: ConnectionId) -> Option<Connection>;
    fn connections(after: Option<ConnectionId>, limit: u32) -> Vec<Connection>;
    fn connections_of(account: AccountKey, after: Option<ConnectionId>, limit: u32) -> Vec<Connection>;
    fn credential(id: ConnectionId) -> Option<SealedCredential>;
    fn put_credential(id: ConnectionId, expected: u64, credential: SealedCredential) -> bool;
    fn refuse_credential(id: ConnectionId, seen: u64, reason: String) -> bool;
});
delegate!(Keys {
    fn data_keys(tenant: TenantId) -> Vec<WrappedKey>;
    fn add_data_key(tenant: TenantId, key: WrappedKey) -> WrappedKey;
    fn reserve_seals(tenant: TenantId, key: u64, count: u32, max: u32) -> Option<u32>;
    fn active_master(proposed: String) -> String;
    fn activate_master(id: String) -> ();
    fn retire_master(id: String) -> Retirement;
    fn masters() -> Vec<MasterStatus>;
    fn data_keys_not_under(master: String, after: Option<(TenantId, u64)>, limit: u32) -> Vec<(TenantId, WrappedKey)>;
    fn rewrap(keys: Vec<Rewrapped>) -> u64;
});
delegate!(Grants {
    fn connect(connection: Connection, grants: Vec<NewGrant>) -> bool;
    fn grant(key: GrantKey) -> Option<StoredGrant>;
    fn grants(connection: ConnectionId) -> Vec<StoredGrant>;
    fn claim_grant(key: GrantKey, generation: u64, now: Timestamp, until: Timestamp) -> GrantClaim;
    fn extend_grant(lease: GrantLease, until: Timestamp) -> bool;
    fn note_intent(lease: GrantLease, at: Option<Timestamp>) -> bool;
    fn renew_grant(key: GrantKey, tokens: NewTokens) -> bool;
    fn release_grant(lease: GrantLease, rest_until: Option<Timestamp>) -> bool;
    fn end_grant(key: GrantKey, generation: u64, reason: EndReason, serves: bool) -> bool;
    fn disconnect(connection: ConnectionId, revocations: Vec<(GrantName, Revocation)>, now: Timestamp) -> bool;
    fn grants_due(now: Timestamp, limit: u32) -> Vec<GrantKey>;
});
delegate!(Authorizations {
    fn put_pending(row: PendingRow) -> bool;
    fn take_pending(state: TokenHash) -> Option<PendingRow>;
    fn put_session(row: SessionRow) -> bool;
    fn take_session(token: TokenHash) -> Option<SessionRow>;
    fn prune_authorizations(before: Timestamp, limit: u32) -> u64;
});
delegate!(CallLog {
    fn log_calls(calls: Vec<CallRecord>) -> ();
    fn calls(connection: Option<ConnectionId>, limit: u32) -> Vec<CallRecord>;
    fn call_counts(connection: ConnectionId, since: Timestamp) -> CallCounts;
    fn prune_calls(before: Timestamp, limit: u32) -> u64;
    fn roll_up_calls(before: Timestamp, limit: u32) -> u64;
    fn prune_call_days(before: Timestamp, limit: u32) -> u64;
    fn call_days(connection: ConnectionId, limit: u32) -> Vec<CallDay>;
});
delegate!(Destinations {
    fn put_destination(destination: NewDestination, expected: u64, now: Timestamp) -> bool;
    fn destinations() -> Vec<StoredDestination>;
    fn remove_destination(name: String) -> bool;
    fn note_forward(name: String, failed: Option<String>, of: u64, now: Timestamp) -> Option<Noted>;
    fn disable_destination(name: String, disabled: Option<Disabled>, of: Option<u64>) -> bool;
    fn pause_destination(name: String, paused_at: Option<Timestamp>) -> bool;
    fn forward_counts(destinations: Vec<String>) -> BTreeMap<String, ForwardCounts>;
    fn dead_forwards(destination: String, after: Option<EventRow>, limit: u32) -> Vec<DeadForward>;
    fn dismiss_forwards(destination: String, rows: Vec<EventRow>) -> u64;
});
delegate!(Outbox {
    fn transact(effects: Vec<Effect>, calls: Vec<KeptCall>) -> Transacted;
    fn note_departure(lease: Lease, call: CallId, now: Timestamp) -> bool;
    fn outbox_call(id: CallId) -> Option<OutboxCall>;
    fn outbox(state: Option<CallState>, before: Option<CallId>, limit: u32) -> Vec<OutboxCall>;
    fn outbox_counts() -> BTreeMap<CallState, u64>;
    fn review_counts(connections: Vec<ConnectionId>) -> BTreeMap<ConnectionId, u64>;
    fn decide_call(id: CallId, decision: Decision, now: Timestamp) -> Decided;
    fn prune_outbox(before: Timestamp, limit: u32) -> u64;
});
delegate!(Pauses {
    fn put_pauses(pauses: Vec<Pause>) -> ();
    fn pauses(now: Timestamp, limit: u32) -> Vec<Pause>;
    fn prune_pauses(before: Timestamp, limit: u32) -> u64;
});
delegate!(Schedules {
    fn scheduled(connection: ConnectionId) -> Option<Scheduled>;
    fn scheduled_after(after: Option<ConnectionId>, limit: u32) -> Vec<Scheduled>;
    fn set_schedule(key: StreamKey, mode: RunMode, schedule: Option<String>) -> ();
    fn move_job(unique: String, to: Timestamp, now: Timestamp) -> Moved;
    fn held_job(lease: Lease) -> Option<HeldJob>;
    fn chore_ended(report: ChoreReport) -> ();
    fn chore_reports() -> Vec<ChoreReport>;
});

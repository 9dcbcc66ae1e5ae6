//! A store that stands in a paused clock's way: while one of its operations runs, the clock stands still.
//!
//! A durable store works in threads of its own. To a paused runtime a task that waits for them looks idle, so its clock
//! would jump to the next timer during every commit: leases would run out by the dozen, and a seed would tell nothing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use palisade_core::store::{
    Appended, Authorizations, CallCounts, CallLog, CallRecord, Claim, Claimed, Connection, Connections, EndReason,
    EventRow, EventState, FeedEntry, GrantClaim, GrantKey, GrantLease, Grants, Heard, Inbox, JobCounts, JobId, Jobs,
    Keys, Lease, MasterStatus, Merge, MergeCounts, NewDelivery, NewGrant, NewJob, NewTokens, PageCommit, PageCommitted,
    PendingRow, Queue, Record, Records, Retirement, Revocation, Rewrapped, Run, RunEnd, RunMode, SealedCredential,
    SessionRow, Settled, Settlement, Store, StoredEvent, StoredGrant, StreamKey, StreamStatus, TokenHash, WrappedKey,
};
use palisade_core::{ConnectionId, EndpointId, GrantName, RecordId, Result, StreamName, TenantId, Timestamp};

/// Wraps a store; see the module.
#[derive(Debug)]
pub struct Still<S> {
    inner: S,
}

impl<S: Store> Still<S> {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

/// Runs `work` with a blocking task beside it: tokio does not advance a paused clock while there is one.
async fn still<T>(work: impl Future<Output = T>) -> T {
    let (done, held) = std::sync::mpsc::channel::<()>();
    drop(tokio::task::spawn_blocking(move || held.recv()));
    let result = work.await;
    drop(done);
    result
}

#[async_trait]
impl<S: Store> Store for Still<S> {
    async fn probe(&self, now: Timestamp) -> Result<()> {
        still(self.inner.probe(now)).await
    }
}

macro_rules! delegate {
    ($trait:ident { $(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)* $(forward $wait:ident($warg:ident: $wty:ty);)* }) => {
        #[async_trait]
        impl<S: Store> $trait for Still<S> {
            $(async fn $name(&self, $($arg: $ty),*) -> Result<$ret> {
                still(self.inner.$name($($arg),*)).await
            })*
            $(async fn $wait(&self, $warg: $wty) {
                self.inner.$wait($warg).await;
            })*
        }
    };
}

delegate!(Inbox {
    fn append(deliveries: Vec<NewDelivery>) -> Vec<Vec<Appended>>;
    fn event(row: EventRow) -> Option<StoredEvent>;
    fn events(state: Option<EventState>, before: Option<EventRow>, limit: u32) -> Vec<StoredEvent>;
    fn replay(row: EventRow, now: Timestamp) -> bool;
    fn event_counts() -> BTreeMap<EventState, u64>;
    fn dead_counts(connections: Vec<ConnectionId>) -> BTreeMap<ConnectionId, u64>;
    fn heard(endpoint: EndpointId) -> Vec<Heard>;
    fn prune_events(before: Timestamp, limit: u32) -> u64;
});
delegate!(Jobs {
    fn enqueue(jobs: Vec<NewJob>) -> Vec<JobId>;
    fn claim(claim: Claim) -> Vec<Claimed>;
    fn settle(settlements: Vec<Settlement>) -> Vec<Settled>;
    fn extend(leases: Vec<Lease>, until: Timestamp) -> Vec<bool>;
    fn job_counts() -> JobCounts;
    fn oldest_due(queue: Queue, now: Timestamp) -> Option<Timestamp>;
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
    fn live_runs(limit: u32) -> Vec<Run>;
    fn record(key: StreamKey, id: RecordId) -> Option<Record>;
    fn changes(key: StreamKey, after: u64, limit: u32) -> Vec<FeedEntry>;
});
delegate!(Connections {
    fn put_connection(connection: Connection) -> ();
    fn connection(id: ConnectionId) -> Option<Connection>;
    fn connections(after: Option<ConnectionId>, limit: u32) -> Vec<Connection>;
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
});

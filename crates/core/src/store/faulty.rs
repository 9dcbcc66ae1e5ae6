//! The in-memory store with faults: for tests of what stands on a store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::memory::MemoryStore;
use super::*;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, GrantName, RecordId, StreamName, TenantId};

/// When a call of the store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Before it does anything.
    Before,
    /// After it is done: the caller cannot know.
    After,
}

type FaultHook = Box<dyn FnMut(&str) -> Option<Fault> + Send>;
type DelayHook = Box<dyn FnMut(&str) -> Duration + Send>;

/// The in-memory store with faults, and a yield around every call, so that a future may be dropped there.
#[derive(Default)]
pub(crate) struct Faulty {
    pub(crate) inner: MemoryStore,
    faults: Mutex<Option<FaultHook>>,
    yields: AtomicBool,
    delays: Mutex<Option<DelayHook>>,
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Faulty {
    pub(crate) fn yielding(&self) {
        self.yields.store(true, Ordering::SeqCst);
    }

    pub(crate) fn failing(&self, hook: impl FnMut(&str) -> Option<Fault> + Send + 'static) {
        *self.faults.lock().unwrap() = Some(Box::new(hook));
    }

    /// Lets every call take a while, before and after it is done.
    pub(crate) fn slowed(&self, hook: impl FnMut(&str) -> Duration + Send + 'static) {
        *self.delays.lock().unwrap() = Some(Box::new(hook));
    }

    async fn delay(&self, name: &str) {
        let delay = self.delays.lock().unwrap().as_mut().map(|hook| hook(name));
        if let Some(delay) = delay.filter(|delay| !delay.is_zero()) {
            tokio::time::sleep(delay).await;
        }
    }

    pub(crate) fn healed(&self) {
        *self.faults.lock().unwrap() = None;
    }

    async fn around<T>(&self, name: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        let broken = || Err(Error::new(ErrorKind::Store, "the disk is gone"));
        let fault = self.faults.lock().unwrap().as_mut().and_then(|hook| hook(name));
        if self.yields.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        self.delay(name).await;
        if fault == Some(Fault::Before) {
            return broken();
        }
        let result = call.await;
        self.delay(name).await;
        if self.yields.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        if fault == Some(Fault::After) { broken() } else { result }
    }
}

macro_rules! delegate {
    ($trait:ident { $(fn $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)* $(forward $wait:ident($warg:ident: $wty:ty);)* }) => {
        #[async_trait]
        impl $trait for Faulty {
            $(async fn $name(&self, $($arg: $ty),*) -> Result<$ret> {
                self.around(stringify!($name), self.inner.$name($($arg),*)).await
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
impl Store for Faulty {}

//! A store that stands in a paused clock's way: while one of its operations runs, the clock stands still.
//!
//! A durable store works in threads of its own. To a paused runtime a task that waits for them looks idle, so its clock
//! would jump to the next timer during every commit: leases would run out by the dozen, and a seed would tell nothing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use palisade_core::store::{
    Appended, CallCounts, CallLog, CallRecord, Claim, Claimed, Connection, Connections, EventRow, EventState,
    FeedEntry, Inbox, JobCounts, JobId, Jobs, Lease, Merge, MergeCounts, NewDelivery, NewJob, PageCommit,
    PageCommitted, Queue, Record, Records, Run, RunEnd, RunMode, SealedCredential, Settled, Settlement, Store,
    StoredEvent, StreamKey, StreamStatus, WrappedKey,
};
use palisade_core::{ConnectionId, RecordId, Result, StreamName, TenantId, Timestamp};

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

#[async_trait]
impl<S: Store> Inbox for Still<S> {
    async fn append(&self, deliveries: Vec<NewDelivery>) -> Result<Vec<Vec<Appended>>> {
        still(self.inner.append(deliveries)).await
    }

    async fn event(&self, row: EventRow) -> Result<Option<StoredEvent>> {
        still(self.inner.event(row)).await
    }

    async fn events(
        &self,
        state: Option<EventState>,
        before: Option<EventRow>,
        limit: u32,
    ) -> Result<Vec<StoredEvent>> {
        still(self.inner.events(state, before, limit)).await
    }

    async fn replay(&self, row: EventRow, now: Timestamp) -> Result<bool> {
        still(self.inner.replay(row, now)).await
    }

    async fn event_counts(&self) -> Result<BTreeMap<EventState, u64>> {
        still(self.inner.event_counts()).await
    }

    async fn dead_counts(&self, connections: Vec<ConnectionId>) -> Result<BTreeMap<ConnectionId, u64>> {
        still(self.inner.dead_counts(connections)).await
    }

    async fn prune_events(&self, before: Timestamp, limit: u32) -> Result<u64> {
        still(self.inner.prune_events(before, limit)).await
    }
}

#[async_trait]
impl<S: Store> Jobs for Still<S> {
    async fn enqueue(&self, jobs: Vec<NewJob>) -> Result<Vec<JobId>> {
        still(self.inner.enqueue(jobs)).await
    }

    async fn claim(&self, claim: Claim) -> Result<Vec<Claimed>> {
        still(self.inner.claim(claim)).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<Vec<Settled>> {
        still(self.inner.settle(settlements)).await
    }

    async fn extend(&self, leases: Vec<Lease>, until: Timestamp) -> Result<Vec<bool>> {
        still(self.inner.extend(leases, until)).await
    }

    async fn job_counts(&self) -> Result<JobCounts> {
        still(self.inner.job_counts()).await
    }

    async fn wait_for_work(&self, queue: Queue) {
        self.inner.wait_for_work(queue).await;
    }

    async fn prune_jobs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        still(self.inner.prune_jobs(before, limit)).await
    }
}

#[async_trait]
impl<S: Store> Records for Still<S> {
    async fn stream(&self, key: StreamKey) -> Result<StreamStatus> {
        still(self.inner.stream(key)).await
    }

    async fn streams(&self, connection: ConnectionId) -> Result<Vec<(StreamName, StreamStatus)>> {
        still(self.inner.streams(connection)).await
    }

    async fn start_run(&self, lease: Lease, key: StreamKey, mode: RunMode, now: Timestamp) -> Result<Run> {
        still(self.inner.start_run(lease, key, mode, now)).await
    }

    async fn commit_page(&self, page: PageCommit) -> Result<PageCommitted> {
        still(self.inner.commit_page(page)).await
    }

    async fn merge(&self, merges: Vec<Merge>, now: Timestamp) -> Result<(MergeCounts, Vec<(StreamKey, RecordId)>)> {
        still(self.inner.merge(merges, now)).await
    }

    async fn end_run(&self, end: RunEnd) -> Result<Run> {
        still(self.inner.end_run(end)).await
    }

    async fn runs(&self, connection: Option<ConnectionId>, limit: u32) -> Result<Vec<Run>> {
        still(self.inner.runs(connection, limit)).await
    }

    async fn record(&self, key: StreamKey, id: RecordId) -> Result<Option<Record>> {
        still(self.inner.record(key, id)).await
    }

    async fn changes(&self, key: StreamKey, after: u64, limit: u32) -> Result<Vec<FeedEntry>> {
        still(self.inner.changes(key, after, limit)).await
    }
}

#[async_trait]
impl<S: Store> Connections for Still<S> {
    async fn put_connection(&self, connection: Connection) -> Result<()> {
        still(self.inner.put_connection(connection)).await
    }

    async fn connection(&self, id: ConnectionId) -> Result<Option<Connection>> {
        still(self.inner.connection(id)).await
    }

    async fn connections(&self, after: Option<ConnectionId>, limit: u32) -> Result<Vec<Connection>> {
        still(self.inner.connections(after, limit)).await
    }

    async fn credential(&self, id: ConnectionId) -> Result<Option<SealedCredential>> {
        still(self.inner.credential(id)).await
    }

    async fn put_credential(&self, id: ConnectionId, expected: u64, credential: SealedCredential) -> Result<bool> {
        still(self.inner.put_credential(id, expected, credential)).await
    }

    async fn data_keys(&self, tenant: TenantId) -> Result<Vec<WrappedKey>> {
        still(self.inner.data_keys(tenant)).await
    }

    async fn add_data_key(&self, tenant: TenantId, key: WrappedKey) -> Result<WrappedKey> {
        still(self.inner.add_data_key(tenant, key)).await
    }
}

#[async_trait]
impl<S: Store> CallLog for Still<S> {
    async fn log_calls(&self, calls: Vec<CallRecord>) -> Result<()> {
        still(self.inner.log_calls(calls)).await
    }

    async fn calls(&self, connection: Option<ConnectionId>, limit: u32) -> Result<Vec<CallRecord>> {
        still(self.inner.calls(connection, limit)).await
    }

    async fn call_counts(&self, connection: ConnectionId, since: Timestamp) -> Result<CallCounts> {
        still(self.inner.call_counts(connection, since)).await
    }

    async fn prune_calls(&self, before: Timestamp, limit: u32) -> Result<u64> {
        still(self.inner.prune_calls(before, limit)).await
    }
}

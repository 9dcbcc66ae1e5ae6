//! What the hub holds at the end, against what the provider knows to be true.

use std::collections::{BTreeMap, BTreeSet};

use palisade_core::store::{ChangeKind, EventState, Run, RunMode, RunState, Store, StoredEvent, StreamKey};
use palisade_core::sync::{Source, StreamKind};
use palisade_core::{ConnectionId, Provider, RecordId, StreamName};
use palisade_emulator::stripe::Stripe;
use palisade_stripe::StripeProvider;
use serde_json::Value;

use crate::stage::CONNECTION;

/// Entries read at once: small, so that the seams between reads are part of every check.
const PAGE: u32 = 37;

/// Live records by id.
pub type Copy = BTreeMap<String, Value>;

/// Names a stream of the stage's connection.
#[must_use]
pub fn key(stream: &str) -> StreamKey {
    StreamKey { connection: ConnectionId::new(CONNECTION), stream: StreamName::new(stream) }
}

/// Returns the names of the streams of records.
///
/// # Panics
/// When the adapter has no streams.
#[must_use]
pub fn record_streams() -> Vec<&'static str> {
    let provider = StripeProvider::new();
    let streams = provider.source().map(Source::streams).expect("Stripe has streams");
    streams.iter().filter(|spec| spec.kind == StreamKind::Records).map(|spec| spec.name).collect()
}

/// Follows one stream's feed and keeps a copy from it alone.
#[derive(Debug, Default)]
pub struct Follower {
    /// The copy.
    pub copy: Copy,
    /// The number of the last entry read.
    pub at: u64,
}

impl Follower {
    /// Reads what is new.
    ///
    /// # Panics
    /// When the feed goes backwards, stands still, or shows an entry that is not what it says.
    pub async fn read(&mut self, store: &dyn Store, stream: &str) {
        self.read_key(store, key(stream)).await;
    }

    /// Reads what is new of a stream of any connection.
    ///
    /// # Panics
    /// As [`Follower::read`].
    pub async fn read_key(&mut self, store: &dyn Store, key: StreamKey) {
        let stream = key.stream.clone();
        loop {
            let entries = store.changes(key.clone(), self.at, PAGE).await.expect("the feed can be read");
            if entries.is_empty() {
                return;
            }
            for entry in entries {
                let (id, seq) = (entry.record.id.as_str().to_owned(), entry.record.seq);
                assert!(seq > self.at, "{stream}: the feed shows {id} as {seq} after {}", self.at);
                self.at = seq;
                match (entry.kind, entry.record.data) {
                    (ChangeKind::Deleted, None) => {
                        self.copy.remove(&id);
                    }
                    (ChangeKind::Added | ChangeKind::Updated, Some(data)) => {
                        self.copy.insert(id, serde_json::from_slice(&data).expect("a record is JSON"));
                    }
                    (kind, data) => panic!("{stream}: {id} is {kind:?} with data: {}", data.is_some()),
                }
            }
        }
    }
}

/// Asserts that every stream equals the provider's truth: read record by record, and as the feed tells it from 0.
///
/// # Panics
/// When they differ: with the stream, the record and both sides.
pub async fn assert_records_equal_truth(store: &dyn Store, emulator: &Stripe) {
    for stream in record_streams() {
        let truth = emulator.truth(stream);
        let mut follower = Follower::default();
        follower.read(store, stream).await;
        assert_same(stream, "the feed from 0", &follower.copy, &truth);
        let status = store.stream(key(stream)).await.expect("the stream can be read");
        assert_eq!(status.records, truth.len() as u64, "{stream}: the count of live records");
        assert_eq!(status.head, follower.at, "{stream}: the feed ends before its head");
        for (id, value) in &truth {
            let record = store.record(key(stream), RecordId::new(id.as_str())).await.expect("a record can be read");
            let data = record.and_then(|record| record.data).expect("a live record has data");
            assert_eq!(&serde_json::from_slice::<Value>(&data).expect("a record is JSON"), value, "{stream} {id}");
        }
    }
}

/// Asserts that a copy equals the truth.
///
/// # Panics
/// When it does not.
pub fn assert_same(stream: &str, what: &str, copy: &Copy, truth: &Copy) {
    let missing: Vec<&String> = truth.keys().filter(|id| !copy.contains_key(*id)).collect();
    let surplus: Vec<&String> = copy.keys().filter(|id| !truth.contains_key(*id)).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "{stream}: {what} lacks {missing:?} and has {surplus:?}, which the provider does not"
    );
    for (id, value) in truth {
        assert_eq!(&copy[id], value, "{stream} {id}: {what} (left) and the provider's truth (right)");
    }
}

/// Reads all events, oldest first.
///
/// # Panics
/// When the store cannot be read.
pub async fn all_events(store: &dyn Store) -> Vec<StoredEvent> {
    let mut events = Vec::new();
    let mut before = None;
    loop {
        let page = store.events(None, before, 500).await.expect("events can be read");
        events.extend(page.events);
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    events.reverse();
    events
}

/// Returns the provider's ids of the events the inbox holds.
///
/// # Panics
/// When the store cannot be read.
pub async fn event_ids(store: &dyn Store) -> BTreeSet<String> {
    all_events(store).await.into_iter().map(|event| event.event.id.as_str().to_owned()).collect()
}

/// Asserts that each event the store holds was handled, and that its effect happened exactly once.
///
/// # Panics
/// When an event waits, is dead, is there twice, or its effect is missing or happened more than once.
pub async fn assert_effects_once(store: &dyn Store, effects: &[String]) {
    let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
    for event in effects {
        *counted.entry(event).or_default() += 1;
    }
    let events = all_events(store).await;
    let mut seen = BTreeSet::new();
    for event in &events {
        let id = event.event.id.as_str();
        assert!(seen.insert(id), "{id} is in the inbox twice");
        assert_eq!(event.state, EventState::Done, "{id} ({}): {:?}", event.event.kind, event.reason);
        let times = counted.remove(id).unwrap_or(0);
        assert_eq!(times, 1, "the effect of {id} ({}) happened {times} times", event.event.kind);
    }
    assert!(counted.is_empty(), "effects of events nobody sent: {counted:?}");
}

/// Reads the runs of the stage's connection, newest first.
///
/// # Panics
/// When the store cannot be read.
pub async fn runs(store: &dyn Store) -> Vec<Run> {
    store.runs(Some(ConnectionId::new(CONNECTION)), 10_000).await.expect("runs can be read")
}

/// Counts the finished walks of the provider's list of events.
#[must_use]
pub fn walks(runs: &[Run]) -> usize {
    let of_events = |run: &&Run| run.key.stream.as_str() == palisade_stripe::sync::EVENTS;
    runs.iter().filter(of_events).filter(|run| run.state == RunState::Done).count()
}

/// Tells whether every stream of records was listed wholly at least once and nothing runs.
#[must_use]
pub fn listed(runs: &[Run]) -> bool {
    let whole = |stream: &str| {
        runs.iter()
            .any(|run| run.key.stream.as_str() == stream && run.mode == RunMode::Full && run.state == RunState::Done)
    };
    record_streams().into_iter().all(whole) && runs.iter().all(|run| run.state != RunState::Running)
}

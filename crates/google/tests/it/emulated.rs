//! Whole stories against the emulated Google, under the real pipeline, worker and merge, in memory. Time is tokio's,
//! paused: weeks take milliseconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::{FixedCredential, Scheme};
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    Connection, ConnectionState, Connections, Queue, Records, Run, RunMode, RunState, StreamKey,
};
use palisade_core::worker::{Worker, WorkerBuilder, WorkerSettings};
use palisade_core::{Client, ConnectionId, Error, Provider, Timestamp, Transport};
use palisade_emulator::google::{Google as Emulator, GoogleConfig, rules};
use palisade_emulator::oauth::Rules;
use palisade_emulator::{Fault, RetryAfter};
use palisade_google::sync::{EVENTS, MESSAGES, MailDepth};
use palisade_google::{Google, GoogleProvider, GoogleSource};
use palisade_testkit::EmulatorTransport;
use serde_json::{Value, json};

pub(crate) const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
pub(crate) const ADA: &str = "ada@example.com";
pub(crate) const SCOPES: &[&str] = &["https://mail.google.com/", "https://www.googleapis.com/auth/calendar"];
const CONNECTION: &str = "conn_1";

/// The emulator behind a door that can be shut after so many requests: what comes later waits for ever.
#[derive(Clone)]
pub(crate) struct Door {
    inner: EmulatorTransport,
    left: Arc<AtomicUsize>,
}

impl Door {
    fn shut_after(&self, requests: usize) {
        self.left.store(requests, Ordering::SeqCst);
    }

    fn open(&self) {
        self.shut_after(usize::MAX);
    }

    fn is_shut(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }
}

#[async_trait]
impl Transport for Door {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        if self.is_shut() {
            return std::future::pending().await;
        }
        self.left.fetch_sub(1, Ordering::SeqCst);
        self.inner.send(request).await
    }
}

pub(crate) struct World {
    pub(crate) emulator: Emulator,
    pub(crate) door: Door,
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) worker: Worker,
    pub(crate) google: Google,
    source: GoogleSource,
    page_size: u32,
}

impl World {
    pub(crate) fn with(config: GoogleConfig, page_size: u32, source: GoogleSource, scopes: &[&str]) -> Self {
        let origin = tokio::time::Instant::now();
        let begin = Duration::from_millis(BEGIN.0.unsigned_abs());
        let clock = Arc::new(move || UNIX_EPOCH + begin + origin.elapsed());
        let emulator = Emulator::offline(GoogleConfig { seed: 7, clock, ..config });
        // Stories last for weeks; what becomes of tokens meanwhile is told elsewhere.
        emulator.oauth().set_rules(Rules { access_life: None, ..rules() });
        let door =
            Door { inner: EmulatorTransport::new(emulator.clone()), left: Arc::new(AtomicUsize::new(usize::MAX)) };
        let clock = Arc::new(TokioClock::starting_at(BEGIN));
        let store = Arc::new(MemoryStore::new());
        let client = client(&emulator, &door, &clock, scopes);
        let worker = worker(&store, &clock, client.clone(), source.clone(), page_size);
        let google = Google::new(client, CONNECTION, "tenant_1").clock(clock.clone());
        let google = google.random(Arc::new(SeededRandom::new(11)));
        Self { emulator, door, clock, store, worker, google, source, page_size }
    }

    pub(crate) fn new(page_size: u32) -> Self {
        Self::with(GoogleConfig::default(), page_size, GoogleSource::new(), SCOPES)
    }

    /// Connects the account and copies it.
    pub(crate) async fn connect(&self) {
        let connection = Connection {
            id: CONNECTION.into(),
            tenant: "tenant_1".into(),
            provider: "google".into(),
            environment: Default::default(),
            account: Some(ADA.to_owned()),
            base_url: None,
            state: ConnectionState::Active,
            created_at: BEGIN,
        };
        self.store.put_connection(connection.clone()).await.unwrap();
        self.worker.connect(&connection).await.unwrap();
    }

    /// Works until nothing is due.
    pub(crate) async fn settle(&self) {
        while self.worker.step(Queue::Background).await.unwrap() > 0 {}
    }

    async fn connected(page_size: u32, messages: usize, events: usize) -> Self {
        let world = Self::new(page_size);
        world.emulator.populate(ADA, messages, events);
        world.connect().await;
        world.settle().await;
        world
    }

    async fn incremental(&self) {
        for stream in [MESSAGES, EVENTS] {
            let mode = RunMode::Incremental;
            self.worker.sync_now(&ConnectionId::new(CONNECTION), &stream.into(), mode).await.unwrap();
        }
        self.settle().await;
    }

    /// A worker that knows nothing of the one before it.
    fn another_worker(&mut self) {
        let client = client(&self.emulator, &self.door, &self.clock, SCOPES);
        self.worker = worker(&self.store, &self.clock, client, self.source.clone(), self.page_size);
    }

    async fn copy(&self, stream: &str) -> BTreeMap<String, Value> {
        let key = StreamKey { connection: CONNECTION.into(), stream: stream.into() };
        let changes = self.store.changes(key, 0, 10_000).await.unwrap();
        let live = changes.iter().filter_map(|entry| Some((entry, entry.record.data.as_ref()?)));
        live.map(|(entry, data)| (entry.record.id.as_str().to_owned(), serde_json::from_slice(data).unwrap())).collect()
    }

    /// The highest number of the feed: how many changes were ever written.
    async fn written(&self, stream: &str) -> u64 {
        let key = StreamKey { connection: CONNECTION.into(), stream: stream.into() };
        let changes = self.store.changes(key, 0, 10_000).await.unwrap();
        changes.iter().map(|entry| entry.record.seq).max().unwrap_or(0)
    }

    pub(crate) async fn is_in_step(&self, why: &str) {
        assert_eq!(self.copy(MESSAGES).await, self.emulator.messages(ADA), "{why}");
        assert_eq!(self.copy(EVENTS).await, self.emulator.events(ADA), "{why}");
    }

    async fn runs(&self, stream: &str) -> Vec<Run> {
        let mut runs = self.store.runs(Some(CONNECTION.into()), 1_000).await.unwrap();
        runs.retain(|run| run.key.stream.as_str() == stream);
        runs
    }
}

pub(crate) fn client(emulator: &Emulator, door: &Door, clock: &Arc<TokioClock>, scopes: &[&str]) -> Arc<Client> {
    let scheme = Scheme::Bearer(emulator.access_token(ADA, scopes).into());
    let credential = Arc::new(FixedCredential::new(&scheme).unwrap());
    let client = Client::builder(GoogleProvider::new().profile(), Arc::new(door.clone()), credential)
        .clock(clock.clone())
        .random(Arc::new(SeededRandom::new(7)))
        .build();
    Arc::new(client.unwrap())
}

fn worker(
    store: &Arc<MemoryStore>,
    clock: &Arc<TokioClock>,
    client: Arc<Client>,
    source: GoogleSource,
    page_size: u32,
) -> Worker {
    let settings = WorkerSettings { page_size, ..WorkerSettings::default() };
    builder(store, clock, client, source).settings(settings).build().unwrap()
}

pub(crate) fn builder(
    store: &Arc<MemoryStore>,
    clock: &Arc<TokioClock>,
    client: Arc<Client>,
    source: GoogleSource,
) -> WorkerBuilder {
    let provider = Arc::new(GoogleProvider::new().keeping(source));
    Worker::builder(store.clone(), clock.clone(), Arc::new(SeededRandom::new(7))).provider(provider, client)
}

/// Fails when an item is passed over, given twice, or written again although nothing changed.
#[tokio::test(start_paused = true)]
async fn every_item_is_copied_once_whatever_the_page_size() {
    for size in [1, 2, 7, 2_500] {
        let world = World::connected(size, 15, 16).await;
        world.is_in_step(&format!("pages of {size}")).await;
        assert_eq!((world.written(MESSAGES).await, world.written(EVENTS).await), (15, 16), "pages of {size}");
        world.worker.sync_now(&CONNECTION.into(), &MESSAGES.into(), RunMode::Full).await.unwrap();
        world.worker.sync_now(&CONNECTION.into(), &EVENTS.into(), RunMode::Full).await.unwrap();
        world.settle().await;
        assert_eq!(
            (world.written(MESSAGES).await, world.written(EVENTS).await),
            (15, 16),
            "read again, pages of {size}"
        );
    }
}

/// Fails when a run that was cut off behind any of its requests does not come to what an uninterrupted one comes to.
#[tokio::test(start_paused = true)]
async fn a_crash_behind_any_request_changes_nothing() {
    for size in [2, 7] {
        let mut crashes = 0;
        for requests in 0.. {
            let mut world = World::new(size);
            world.emulator.populate(ADA, 9, 9);
            world.connect().await;
            world.door.shut_after(requests);
            let cut = tokio::time::timeout(Duration::from_secs(20), world.settle()).await.is_err();
            if !cut {
                break;
            }
            crashes += 1;
            world.door.open();
            world.another_worker();
            tokio::time::advance(Duration::from_secs(61)).await;
            world.settle().await;
            let why = format!("pages of {size}, cut off behind {requests} requests");
            world.is_in_step(&why).await;
            assert_eq!((world.written(MESSAGES).await, world.written(EVENTS).await), (9, 9), "{why}");
        }
        assert!(crashes >= 12, "it was cut off {crashes} times only");
    }
}

/// Fails when history or sync token leaves something of what happened out.
#[tokio::test(start_paused = true)]
async fn incremental_runs_keep_the_copy_in_step() {
    for seed in 0..12 {
        let world = World::connected([1, 2, 7, 100][seed as usize % 4], 12, 8).await;
        for round in 0..4 {
            tokio::time::advance(Duration::from_secs(30)).await;
            world.emulator.mutate(ADA, 12, seed * 100 + round);
            tokio::time::advance(Duration::from_secs(30)).await;
            world.incremental().await;
            world
                .is_in_step(&format!(
                    "seed {seed}, round {round}: cargo test -p palisade-google --test it incremental_runs_keep"
                ))
                .await;
        }
        let modes = [world.runs(MESSAGES).await, world.runs(EVENTS).await].concat();
        let full = modes.iter().filter(|run| run.mode == RunMode::Full).count();
        assert_eq!(full, 2, "only the first runs read everything");
        assert!(modes.iter().all(|run| run.state == RunState::Done), "{modes:?}");
    }
}

/// Fails when what changes between two pages of a run is lost.
#[tokio::test(start_paused = true)]
async fn what_happens_while_pages_are_read_is_not_lost() {
    for requests in (1..40).step_by(3) {
        let mut world = World::new(2);
        world.emulator.populate(ADA, 9, 9);
        world.connect().await;
        world.door.shut_after(requests);
        let cut = tokio::time::timeout(Duration::from_secs(20), world.settle()).await.is_err();
        world.emulator.mutate(ADA, 15, requests as u64);
        world.door.open();
        world.another_worker();
        tokio::time::advance(Duration::from_secs(61)).await;
        world.settle().await;
        tokio::time::advance(Duration::from_secs(1)).await;
        world.incremental().await;
        world.is_in_step(&format!("changed behind {requests} requests ({cut})")).await;
    }
}

/// Fails when a position Google has forgotten stops the copy instead of starting it anew.
#[tokio::test(start_paused = true)]
async fn a_forgotten_position_reads_everything_again_by_itself() {
    let world = World::connected(2, 9, 9).await;
    world.emulator.mutate(ADA, 10, 1);
    world.emulator.forget_history(ADA);
    world.emulator.forget_sync_tokens(ADA);
    tokio::time::advance(Duration::from_secs(60)).await;
    world.incremental().await;
    world.is_in_step("after 404 and 410").await;
    for stream in [MESSAGES, EVENTS] {
        let runs = world.runs(stream).await;
        let full = runs.iter().filter(|run| run.mode == RunMode::Full && run.state == RunState::Done).count();
        assert_eq!(full, 2, "{stream}: {runs:?}");
        let expired = |run: &&Run| matches!(&run.state, RunState::Failed { kind, .. } if *kind == palisade_core::ErrorKind::CursorExpired);
        assert_eq!(runs.iter().filter(expired).count(), 1, "{stream}: {runs:?}");
    }
    // Weeks later both have aged by themselves.
    tokio::time::advance(Duration::from_secs(8 * 86_400)).await;
    world.emulator.mutate(ADA, 5, 2);
    world.incremental().await;
    world.is_in_step("after eight days").await;
}

/// Fails when an expired token of a page ends the run, or makes it begin at something else than its list.
#[tokio::test(start_paused = true)]
async fn an_expired_page_token_goes_back_to_the_beginning_of_its_list() {
    for requests in 2..14 {
        let mut world = World::new(2);
        world.emulator.populate(ADA, 7, 7);
        world.connect().await;
        world.door.shut_after(requests);
        let _ = tokio::time::timeout(Duration::from_secs(20), world.settle()).await;
        world.emulator.forget_page_tokens(ADA);
        world.door.open();
        world.another_worker();
        tokio::time::advance(Duration::from_secs(61)).await;
        world.settle().await;
        world.is_in_step(&format!("tokens ended behind {requests} requests")).await;
        for stream in [MESSAGES, EVENTS] {
            let runs = world.runs(stream).await;
            assert!(runs.iter().all(|run| run.state == RunState::Done), "{requests}: {runs:?}");
        }
    }
    // And in the midst of incremental runs.
    let mut world = World::connected(1, 5, 5).await;
    for requests in 1..9 {
        world.emulator.mutate(ADA, 12, requests);
        world.door.shut_after(requests as usize);
        let _ = tokio::time::timeout(Duration::from_secs(20), world.incremental()).await;
        world.emulator.forget_page_tokens(ADA);
        world.door.open();
        world.another_worker();
        tokio::time::advance(Duration::from_secs(61)).await;
        world.settle().await;
        world.incremental().await;
        world.is_in_step(&format!("tokens ended behind {requests} requests of an incremental run")).await;
    }
}

fn series() -> Value {
    json!({
        "summary": "Standup", "recurrence": ["RRULE:FREQ=DAILY;COUNT=5"],
        "start": { "dateTime": "2026-01-02T09:00:00Z" }, "end": { "dateTime": "2026-01-02T09:15:00Z" },
    })
}

/// Fails when an instance that was called off vanishes from the copy, so that the series seems to have it.
#[tokio::test(start_paused = true)]
async fn a_series_is_one_master_with_its_exceptions() {
    let world = World::connected(1, 0, 0).await;
    let id = world.emulator.event(ADA, Some("standup"), &series()).unwrap();
    let (moved, off) = (format!("{id}_20260103T090000Z"), format!("{id}_20260104T090000Z"));
    let later = json!({
        "start": { "dateTime": "2026-01-03T11:00:00Z" }, "end": { "dateTime": "2026-01-03T11:15:00Z" },
    });
    world.emulator.event(ADA, Some(&moved), &later).unwrap();
    world.emulator.cancel_event(ADA, &off).unwrap();
    world.incremental().await;
    let copy = world.copy(EVENTS).await;
    assert_eq!(copy.keys().collect::<Vec<_>>(), [&id, &moved, &off]);
    assert_eq!((&copy[&off]["status"], &copy[&off]["recurringEventId"]), (&json!("cancelled"), &json!(id)));
    assert_eq!(copy[&moved]["originalStartTime"]["dateTime"], "2026-01-03T09:00:00Z");
    world.is_in_step("incremental").await;
    world.worker.sync_now(&CONNECTION.into(), &EVENTS.into(), RunMode::Full).await.unwrap();
    world.settle().await;
    assert_eq!(world.copy(EVENTS).await, copy, "a full run keeps what the incremental one kept");
    world.emulator.cancel_event(ADA, &id).unwrap();
    world.incremental().await;
    assert!(!world.copy(EVENTS).await.contains_key(&id), "the master is gone");
}

/// Fails when a run does not go on over what passes.
#[tokio::test(start_paused = true)]
async fn a_run_goes_on_over_throttles_and_failures() {
    let world = World::new(2);
    world.emulator.populate(ADA, 9, 9);
    let faults = [
        Fault::Throttle(RetryAfter::Seconds(3)),
        Fault::Status(503),
        Fault::ResetBefore,
        Fault::CutBody,
        Fault::Html,
        Fault::Refuse("userRateLimitExceeded".to_owned()),
        Fault::Refuse("rateLimitExceeded".to_owned()),
    ];
    for route in [
        "GET /gmail/v1/users/{user}/messages",
        "GET /gmail/v1/users/{user}/messages/{id}",
        "GET /calendar/v3/calendars/{calendar}/events",
    ] {
        world.emulator.faults().next(route, faults.iter().flat_map(|fault| [fault.clone(), Fault::Pass]));
    }
    world.connect().await;
    for _ in 0..40 {
        world.settle().await;
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    world.is_in_step("after the faults").await;
    assert_eq!(world.emulator.ledger().early_after_retry_after, 0);
    let runs = [world.runs(MESSAGES).await, world.runs(EVENTS).await].concat();
    assert!(runs.iter().all(|run| run.state == RunState::Done), "{runs:?}");
}

/// Fails when the same message is other bytes each time it is read: Gmail names its attachments anew in every answer.
#[tokio::test(start_paused = true)]
async fn a_whole_message_is_the_same_however_often_it_is_read() {
    let source = GoogleSource::new().keeping(MailDepth::Whole);
    let world = World::with(GoogleConfig::default(), 10, source, SCOPES);
    let mail = "From: b@x.example\r\nTo: ada@example.com\r\nSubject: with a file\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n\
        --b\r\nContent-Type: text/plain\r\n\r\nsee there\r\n--b\r\nContent-Type: application/pdf\r\n\
        Content-Disposition: attachment; filename=x.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nAQID\r\n--b--\r\n";
    let id = world.emulator.receive_raw(ADA, mail).unwrap();
    world.connect().await;
    world.settle().await;
    let first = world.copy(MESSAGES).await;
    assert_eq!(first[&id]["payload"]["parts"][1]["filename"], "x.pdf");
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(60)).await;
        world.worker.sync_now(&CONNECTION.into(), &MESSAGES.into(), RunMode::Full).await.unwrap();
        world.settle().await;
    }
    assert_eq!((world.copy(MESSAGES).await, world.written(MESSAGES).await), (first, 1));
}

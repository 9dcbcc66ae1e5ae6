//! What the log says of work that is given up, whoever gives it up.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Once};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use palisade_core::Transport;
use palisade_core::clock::ManualClock;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    CallId, Claim, EventRow, Jobs, NewJob, Queue, Room, RunMode, Store, StreamKey, WORKER_LOST, Work,
};
use palisade_core::worker::NewCall;
use palisade_hub::Access;
use palisade_store::{SqliteConfig, SqliteStore};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;

use crate::fixtures::{NOW, builder, connection, settings};

thread_local! {
    /// What this thread has logged since it listens: a test runs on one thread.
    static HEARD: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Keeps what the thread that writes to it logs.
struct Own;

impl io::Write for Own {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        HEARD.with_borrow_mut(|heard| heard.iter_mut().for_each(|heard| heard.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps what this thread logs from now on. The subscriber is the process's own, so that no other test's thread can be the
/// first at a line and have it remembered as wanted by nobody.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let layer = tracing_subscriber::fmt::layer().with_writer(|| Own).with_ansi(false).without_time();
        let registry = tracing_subscriber::registry().with(layer.with_filter(LevelFilter::INFO));
        tracing::subscriber::set_global_default(registry).unwrap();
    });
    HEARD.set(Some(Vec::new()));
}

/// Returns the warnings of this thread since the last look.
fn warnings() -> Vec<String> {
    let heard = HEARD.with_borrow_mut(|heard| heard.as_mut().map(std::mem::take)).unwrap();
    let text = String::from_utf8(heard).unwrap();
    text.lines().map(str::trim_start).filter(|line| line.starts_with("WARN")).map(str::to_owned).collect()
}

fn job(work: Work) -> NewJob {
    NewJob { work, lane: None, group: None, tenant: None, unique: None, priority: 0, run_at: NOW, attempts_max: 1 }
}

fn claim(queue: Queue, seconds: u64) -> Claim {
    let now = NOW.plus(Duration::from_secs(seconds));
    Claim { now, hold: Duration::from_secs(1), max: 9, queue, room: Room::default() }
}

/// One job for each queue but that of the inbox.
fn of_each_queue() -> [(Queue, Work); 4] {
    let key = || StreamKey { connection: "nobody".into(), stream: "customers".into() };
    [
        (Queue::Background, Work::Sync { key: key(), mode: RunMode::Full }),
        (Queue::Background, Work::Chore { name: "sweep".to_owned(), at: None }),
        (Queue::Calls, Work::Call { call: CallId(7) }),
        (Queue::Forwards, Work::Forward { row: EventRow(7), destination: "app".to_owned() }),
    ]
}

async fn lost_workers(store: &dyn Store) {
    for (queue, work) in of_each_queue() {
        let id = store.enqueue(vec![job(work.clone())]).await.unwrap();
        assert_eq!(store.claim(claim(queue, 0)).await.unwrap().len(), 1, "{work:?}");
        assert_eq!(warnings(), Vec::<String>::new(), "{work:?}: it is at work");
        for seconds in [2, 4] {
            assert!(store.claim(claim(queue, seconds)).await.unwrap().is_empty(), "{work:?}");
        }
        let told = warnings();
        let [line] = &told[..] else { panic!("{work:?}: {told:?} of {id:?}") };
        for word in ["a job is given up", WORKER_LOST, &format!("queue=\"{}\"", queue.as_str())] {
            assert!(line.contains(word), "{work:?}: {word} in {line}");
        }
    }
}

/// Fails when a job that a store gives up at a claim is told to nobody, or more than once, in any queue of either store.
#[tokio::test]
async fn what_is_given_up_with_its_worker_is_logged_once() {
    listen();
    lost_workers(&MemoryStore::new()).await;
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteConfig::at(folder.path().join("lost.db"))).unwrap();
    lost_workers(&store).await;
    store.close().await.unwrap();
}

/// Fails when a job that nobody can read is buried in silence, or what stands in it is logged.
#[tokio::test]
async fn what_nobody_can_read_is_logged_without_what_stands_in_it() {
    listen();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("unreadable.db");
    let store = SqliteStore::open(SqliteConfig::at(&path)).unwrap();
    store.enqueue(vec![job(Work::Chore { name: "sweep".to_owned(), at: None })]).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    assert_eq!(other.execute("UPDATE palisade_job SET work = 'canary'", []).unwrap(), 1);
    assert!(store.claim(claim(Queue::Background, 0)).await.unwrap().is_empty());
    let told = warnings();
    assert!(told.len() == 1 && told[0].contains("cannot be read") && !told[0].contains("canary"), "{told:?}");
    store.close().await.unwrap();
}

/// A provider that refuses, and says more than anybody should read.
struct Refuses;

#[async_trait]
impl Transport for Refuses {
    async fn send(&self, _request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        let body = r#"{"error":{"type":"invalid_request_error","message":"canary of the answer"}}"#;
        let mut response = Response::new(Bytes::from_static(body.as_bytes()));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        Ok(response)
    }
}

/// Fails when a worker gives up a run, a forward or a call without a word, without its cause, or with a secret, an answer
/// or a request in it.
#[tokio::test]
async fn what_a_worker_gives_up_is_logged_with_its_cause() {
    listen();
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(store.clone(), clock).transport(Arc::new(Refuses)).settings(settings(Access::Trusted));
    let hub = hub.build().unwrap();
    hub.connect(&connection()).await.unwrap();
    warnings();
    let mut call = NewCall::new("acme-stripe", Method::POST, "/v1/customers");
    call.body = "email=canary%40example.com".into();
    hub.enqueue(call).await.unwrap();
    let [(_, sync), _, _, (_, forward)] = of_each_queue();
    store.enqueue(vec![NewJob { priority: 9, ..job(sync) }, job(forward)]).await.unwrap();
    let mut told = BTreeMap::new();
    for queue in [Queue::Calls, Queue::Background, Queue::Forwards] {
        hub.worker().step(queue).await.unwrap();
        told.insert(queue.as_str(), warnings());
    }
    for (queue, words) in [
        ("calls", ["a call of the outbox is given up", "call=1"]),
        ("background", ["a job is given up", "the connection nobody is not known"]),
        ("forwards", ["a job is given up", "there is no destination app any more"]),
    ] {
        let ours: Vec<_> = told[queue].iter().filter(|line| line.contains("is given up")).collect();
        assert!(ours.len() == 1 && words.iter().all(|word| ours[0].contains(word)), "{queue}: {told:?}");
    }
    let all = format!("{told:?}");
    assert!(!all.contains("canary") && !all.contains("sk_test"), "{all}");
}

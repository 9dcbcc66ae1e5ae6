//! The change feed: long-polls that wait and free their place, cursors that are too old, and a consumer that crashes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, poll};
use palisade_core::clock::ManualClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::{ChangeKind, Merge, Records, Store, StreamKey};
use palisade_core::sync::{Change, Span, State};
use palisade_core::{ErrorKind, Random, Timestamp};
use palisade_hub::feed::{FeedChange, FeedCursor};
use palisade_hub::{Access, Hub, Settings};
use palisade_store::{SqliteConfig, SqliteStore};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fixtures::{NOW, builder, connection, fixture, fixture_with, settings};

const PATH: &str = "/api/v1/records/acme-stripe/customers";

fn key() -> StreamKey {
    StreamKey { connection: "acme-stripe".into(), stream: "customers".into() }
}

/// Merges one record as it was read at a moment.
async fn put(store: &dyn Store, id: &str, data: Option<String>, at: i64, now: Timestamp) {
    let state = data.map_or(State::Deleted, |data| State::Present(data.into()));
    let change = Change { stream: "customers".into(), id: id.into(), span: Span::exact(at), state };
    let (_, fetch) =
        store.merge(vec![Merge { key: key(), read_since: Some(0), changes: vec![change] }], now).await.unwrap();
    assert!(fetch.is_empty(), "the moments of a test are in order");
}

async fn there(store: &dyn Store, id: &str, at: i64) {
    put(store, id, Some(format!(r#"{{"id":"{id}","at":{at}}}"#)), at, NOW).await;
}

fn waiters(seats: usize) -> Settings {
    Settings { feed_waiters_max: seats, ..settings(Access::Trusted) }
}

// Fails when a waiting request sleeps through a commit, or does not come back at its end.
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_is_answered_by_the_next_change_or_at_its_end() {
    let fixture = fixture().with_connection().await;
    let began = Instant::now();
    let page = fixture.get(&format!("{PATH}?wait=5s")).await.json();
    assert_eq!((page["records"].as_array().unwrap().len(), began.elapsed().as_secs()), (0, 5));
    let cursor = page["next_cursor"].as_str().unwrap().to_owned();

    let began = Instant::now();
    let path = format!("{PATH}?wait=20s&cursor={cursor}");
    let commits = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        there(&*fixture.store, "cus_1", 1).await;
    };
    let (answer, ()) = tokio::join!(fixture.get(&path), commits);
    let page = answer.json();
    assert_eq!((&page["records"][0]["id"], &page["records"][0]["seq"]), (&"cus_1".into(), &1.into()));
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());

    // What is there already is not waited for, and no wait is longer than a request may take.
    let began = Instant::now();
    assert_eq!(fixture.get(&path).await.json()["records"].as_array().unwrap().len(), 1);
    assert_eq!(began.elapsed(), Duration::ZERO);
    let last = page["next_cursor"].as_str().unwrap();
    let answer = fixture.get(&format!("{PATH}?wait=1d&cursor={last}")).await;
    assert_eq!((answer.status.as_u16(), began.elapsed().as_secs()), (200, 29));
    for wrong in ["30", "x", "-1s", ""] {
        fixture.get(&format!("{PATH}?wait={wrong}")).await.is_error(400, "invalid");
    }
}

// Fails when a record goes through a map of values: its fields are sorted then, and a large number is rounded.
#[tokio::test(start_paused = true)]
async fn records_are_told_as_the_provider_wrote_them() {
    let fixture = fixture().with_connection().await;
    let data = r#"{"z":12345678901234567890123,"a":1.10,"m":{"b":1e2,"a":"\u00e9"}}"#;
    put(&*fixture.store, "cus_1", Some(data.to_owned()), 1, NOW).await;
    for path in [PATH.to_owned(), format!("{PATH}/cus_1")] {
        let text = fixture.get(&path).await.text();
        assert!(text.contains(data), "{path}: {text}");
    }
}

// Fails when a client that went away keeps its place, or more may wait than there are places.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_frees_its_place() {
    let fixture = fixture_with(waiters(2)).with_connection().await;
    let path = format!("{PATH}?wait=20s");
    let mut first = Box::pin(fixture.get(&path));
    let mut second = Box::pin(fixture.get(&path));
    for _ in 0..20 {
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        tokio::task::yield_now().await;
    }
    let third = fixture.get(&path).await;
    third.is_error(503, "overloaded");
    assert_eq!(third.header("retry-after"), Some("1"));
    assert_eq!(fixture.get(PATH).await.status, 200, "who does not wait needs no place");
    drop(first);
    let answer = fixture.get(&path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(second.await.status, 200);
}

// Fails when those who wait hold up a stop until their time is over.
#[tokio::test(start_paused = true)]
async fn a_stop_answers_everybody_who_waits() {
    let fixture = fixture().with_connection().await;
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(fixture.hub.runner().run(stopped));
    let began = Instant::now();
    let path = format!("{PATH}?wait=20s");
    let stops = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        stop.send(true).unwrap();
    };
    let (answer, ()) = tokio::join!(fixture.get(&path), stops);
    assert_eq!((answer.status.as_u16(), began.elapsed().as_secs()), (200, 2));
    running.await.unwrap().unwrap();
}

// Fails when a consumer that missed a deletion is not told, or one that only began is sent back.
#[tokio::test]
async fn a_cursor_from_before_removed_deletions_is_gone() {
    let fixture = fixture().with_connection().await;
    let store = &*fixture.store;
    for (at, id) in (1..).zip(["a", "b", "c", "d"]) {
        there(store, id, at).await;
    }
    let page = fixture.get(&format!("{PATH}?limit=2")).await.json();
    let slow = page["next_cursor"].as_str().unwrap().to_owned();
    let end = fixture.get(PATH).await.json()["next_cursor"].as_str().unwrap().to_owned();
    put(store, "a", None, 10, NOW).await;
    put(store, "b", None, 11, NOW).await;
    assert_eq!(fixture.get(&format!("{PATH}?cursor={slow}")).await.status, 200, "while deletions are kept");
    let later = NOW.plus(Duration::from_secs(30 * 86_400));
    assert_eq!(store.compact_feed(later, 1).await.unwrap(), 1);
    let begun = fixture.get(&format!("{PATH}?limit=1")).await.json()["next_cursor"].as_str().unwrap().to_owned();
    for cursor in [&slow, &end] {
        let answer = fixture.get(&format!("{PATH}?cursor={cursor}&wait=10s")).await;
        answer.is_error(410, "cursor_expired");
        assert!(answer.text().contains("begin without a cursor"), "{}", answer.text());
    }
    let page = fixture.get(&format!("{PATH}?cursor={begun}")).await.json();
    let read: Vec<_> = page["records"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(read, ["d", "b"], "one that began afterwards goes on");

    // A restored database has fewer changes than the consumer has seen.
    let mut ahead = fixture.hub.changes_so_far(&"acme-stripe".into(), &"customers".into(), None).boxed();
    let mut last = None;
    while let Some(change) = ahead.next().await {
        last = Some(change.unwrap().cursor);
    }
    let restored = crate::fixtures::fixture().with_connection().await;
    there(&*restored.store, "a", 1).await;
    restored.get(&format!("{PATH}?cursor={}", last.unwrap())).await.is_error(410, "cursor_expired");
}

#[tokio::test]
async fn a_single_record_is_read_by_its_id() {
    let fixture = fixture().with_connection().await;
    there(&*fixture.store, "cus/1 é", 1).await;
    let record = fixture.get(&format!("{PATH}/cus%2F1%20%C3%A9")).await.json();
    assert_eq!(
        (&record["id"], &record["change"], &record["data"]["at"]),
        (&"cus/1 é".into(), &"added".into(), &1.into())
    );
    put(&*fixture.store, "cus/1 é", None, 2, NOW).await;
    let record = fixture.get(&format!("{PATH}/cus%2F1%20%C3%A9")).await.json();
    assert_eq!((&record["change"], &record["data"]), (&"deleted".into(), &serde_json::Value::Null));
    fixture.get(&format!("{PATH}/nothing")).await.is_error(404, "not_found");
    fixture.get("/api/v1/records/acme-stripe/nothing/cus_1").await.is_error(404, "not_found");
}

#[tokio::test]
async fn the_stream_says_why_it_ends() {
    let fixture = fixture().with_connection().await;
    let first = async |connection: &str, stream: &str, cursor: Option<FeedCursor>| {
        let mut changes = fixture.hub.changes(&connection.into(), &stream.into(), cursor).boxed();
        let first = changes.next().await.unwrap();
        assert!(changes.next().await.is_none(), "an error ends it");
        first.unwrap_err().kind()
    };
    assert_eq!(first("nobody", "customers", None).await, ErrorKind::NotFound);
    assert_eq!(first("acme-stripe", "nothing", None).await, ErrorKind::NotFound);
    let foreign = FeedCursor::start(&"acme-stripe".into(), &"prices".into());
    assert_eq!(first("acme-stripe", "customers", Some(foreign)).await, ErrorKind::Invalid);
    let none = fixture.hub.changes_so_far(&"acme-stripe".into(), &"customers".into(), None).count().await;
    assert_eq!(none, 0, "the bounded one ends where there is nothing");
}

/// A hub on one handle of a database; whoever writes has another, as another process would.
fn hub_on(store: &SqliteStore) -> Hub {
    let clock = Arc::new(ManualClock::starting_at(NOW));
    builder(Arc::new(store.clone()), clock).settings(settings(Access::Trusted)).build().unwrap()
}

/// What a consumer keeps in its own database: its copy and its cursor, in one commit.
#[derive(Default)]
struct Kept {
    copy: BTreeMap<String, String>,
    cursor: Option<FeedCursor>,
    seq: u64,
    crashes: u32,
    begun_anew: u32,
}

impl Kept {
    /// Reads the feed until it crashes, before or after the commit of some change; tells whether it came to an end.
    async fn follow(
        &mut self,
        changes: impl Stream<Item = palisade_core::Result<FeedChange>>,
        random: &SeededRandom,
        again: &str,
    ) -> bool {
        let mut changes = std::pin::pin!(changes);
        for _ in 0..random.bits() % 40 {
            // The writers may have ended meanwhile.
            let Ok(change) = tokio::time::timeout(Duration::from_secs(2), changes.next()).await else { return false };
            let change = match change {
                Some(Ok(change)) => change,
                Some(Err(error)) => {
                    assert_eq!(error.kind(), ErrorKind::CursorExpired, "{error:?}: {again}");
                    *self = Self { crashes: self.crashes, begun_anew: self.begun_anew + 1, ..Self::default() };
                    return false;
                }
                None => return true,
            };
            assert!(change.record.seq > self.seq, "{} after {}: {again}", change.record.seq, self.seq);
            if random.bits().is_multiple_of(8) {
                break;
            }
            let id = change.record.id.to_string();
            match (&change.record.data, change.kind) {
                (Some(data), ChangeKind::Added | ChangeKind::Updated) => {
                    self.copy.insert(id, String::from_utf8(data.to_vec()).unwrap());
                }
                (None, ChangeKind::Deleted) => drop(self.copy.remove(&id)),
                odd => panic!("{odd:?}: {again}"),
            }
            self.seq = change.record.seq;
            // Through its text, as a database would keep it.
            self.cursor = Some(change.cursor.to_string().parse().unwrap());
        }
        self.crashes += 1;
        false
    }
}

// Fails when a change is skipped under concurrent commits or by a crash of the consumer, when one is told again beyond the
// last cursor, or when removed deletions go unnoticed: then its copy differs from what is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_crashes_has_no_gap_and_no_repeat_beyond_its_cursor() {
    const WRITERS: u64 = 4;
    const COMMITS: u64 = 120;
    let seed = std::env::var("PALISADE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let again = format!("repeat with PALISADE_SEED={seed} cargo test -p palisade-hub --test it feed::");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("palisade.db");
    let ours = SqliteStore::open(SqliteConfig::at(&path)).unwrap();
    let theirs = SqliteStore::open(SqliteConfig::at(&path)).unwrap();
    let hub = hub_on(&ours);
    hub.connect(&connection()).await.unwrap();

    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            // Two write through the hub's own handle, two as another process does.
            let store = if writer % 2 == 0 { ours.clone() } else { theirs.clone() };
            tokio::spawn(async move {
                let random = SeededRandom::new(seed * 100 + writer);
                for commit in 0..COMMITS {
                    let id = format!("cus_{writer}_{}", random.bits() % 12);
                    let at = i64::try_from(commit).unwrap() + 1;
                    let data =
                        (!random.bits().is_multiple_of(4)).then(|| format!(r#"{{"n":{}}}"#, random.bits() % 1_000));
                    put(&store, &id, data, at, Timestamp(at)).await;
                    if random.bits().is_multiple_of(40) {
                        store.compact_feed(Timestamp(at - 20), 5).await.unwrap();
                    }
                }
            })
        })
        .collect();
    let random = SeededRandom::new(seed);
    let mut kept = Kept::default();
    let (acme, customers) = ("acme-stripe".into(), "customers".into());
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        kept.follow(hub.changes(&acme, &customers, kept.cursor), &random, &again).await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    while !kept.follow(hub.changes_so_far(&acme, &customers, kept.cursor), &random, &again).await {}
    let stored: BTreeMap<String, String> = ours
        .changes(key(), 0, 10_000)
        .await
        .unwrap()
        .into_iter()
        .filter_map(|entry| {
            Some((entry.record.id.to_string(), String::from_utf8(entry.record.data?.to_vec()).unwrap()))
        })
        .collect();
    assert_eq!(kept.copy, stored, "after {} crashes, {} times anew: {again}", kept.crashes, kept.begun_anew);
    assert!(kept.crashes > 5, "it hardly crashed: {again}");
    ours.close().await.unwrap();
    theirs.close().await.unwrap();
}

// Fails when a waiting reader is woken by commits of its own process only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_another_process_is_seen_within_the_next_look() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("palisade.db");
    let ours = SqliteStore::open(SqliteConfig::at(&path)).unwrap();
    let theirs = SqliteStore::open(SqliteConfig::at(&path)).unwrap();
    let hub = hub_on(&ours);
    hub.connect(&connection()).await.unwrap();
    let router = hub.router();
    let began = Instant::now();
    let request = http::Request::get(format!("{PATH}?wait=20s")).body(axum::body::Body::empty()).unwrap();
    let waiting = tokio::spawn(async move { crate::fixtures::ask(&router, request).await });
    there(&theirs, "cus_1", 1).await;
    let page = waiting.await.unwrap().json();
    assert_eq!(page["records"][0]["id"], "cus_1");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    ours.close().await.unwrap();
    theirs.close().await.unwrap();
}

//! Names of records and events in their two tables: each row has one name, and each is found, wherever it stands.
//! (In a debug build 16 new names are kept apart and 4 are moved at once.)

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use palisade_core::Timestamp;
use palisade_core::random::{Random, SeededRandom};
use palisade_core::store::{Appended, EventRow, Inbox, Merge, NewDelivery, NewEvent, Records, StreamKey};
use palisade_core::sync::{Change, Span, State};
use palisade_store::SqliteStore;

use crate::subject::{crash_image, delivery, open};

/// Many times what is kept apart.
const ROWS: u64 = 300;
/// Names go with their events.
const FORGET_ALL: Timestamp = Timestamp(i64::MAX);

/// An id in no order.
fn scattered(n: u64) -> String {
    format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn key(stream: &str) -> StreamKey {
    StreamKey { connection: "acme".into(), stream: stream.into() }
}

/// Puts records into two streams that share their ids.
async fn put(store: &SqliteStore, ids: impl Iterator<Item = u64> + Clone) -> u64 {
    let change = |stream: &str, n: u64| Change {
        stream: stream.into(),
        id: scattered(n).into(),
        span: Span::exact(10),
        state: State::Present(format!("{stream} {n}").into()),
    };
    let merge = |stream: &str| Merge {
        key: key(stream),
        read_since: Some(u64::MAX >> 1),
        changes: ids.clone().map(|n| change(stream, n)).collect(),
    };
    store.merge(vec![merge("a"), merge("b")], Timestamp(1)).await.unwrap().0.added
}

async fn append(store: &SqliteStore, ids: impl Iterator<Item = u64>) -> Vec<Appended> {
    let one =
        |n: u64| NewEvent { id: scattered(n).into(), wanted: false, ..delivery("", Bytes::new()).events.remove(0) };
    let events = ids.map(one).collect();
    let delivery = NewDelivery { events, ..delivery("", Bytes::new()) };
    store.append(vec![delivery]).await.unwrap().remove(0)
}

/// Fails when a row has no name, two, or another's. Returns how many names of records and events are new.
#[track_caller]
fn check(path: &Path) -> (i64, i64) {
    let reader = rusqlite::Connection::open(path).unwrap();
    let list = |sql: String| -> Vec<String> {
        let mut statement = reader.prepare(&sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let count = |sql: &str| reader.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let same = |names: &str, rows: &str| {
        assert_eq!(list(format!("{names} ORDER BY 1")), list(format!("{rows} ORDER BY 1")));
    };
    let records = "stream || ' ' || ext_id || ' ' || id FROM palisade_record";
    same(&format!("SELECT {records}_name UNION ALL SELECT {records}_new"), &format!("SELECT {records}"));
    let events = "CAST(id AS TEXT) FROM palisade_event";
    same(&format!("SELECT {events}_name UNION ALL SELECT {events}_new"), &format!("SELECT {events}"));
    (count("SELECT count(*) FROM palisade_record_new"), count("SELECT count(*) FROM palisade_event_new"))
}

/// Fails when a name is lost or doubled on its way from one table to the other, when more stay apart than may, when what
/// is there is stored again, by another process or after a crash either, or when a removal leaves a name.
#[tokio::test]
async fn each_row_has_one_name_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let (path, after) = (folder.path().join("names.db"), folder.path().join("after.db"));
    let stores = [open(&path), open(&path)];
    let random = SeededRandom::new(7);
    let mut next = 0;
    while next < ROWS {
        let store = &stores[(next % 2) as usize];
        let until = (next + 1 + random.bits() % 9).min(ROWS);
        // Some of before once more.
        let ids = next.saturating_sub(random.bits() % 40)..until;
        let new = until - next;
        assert_eq!(put(store, ids.clone()).await, 2 * new);
        let appended = append(store, ids.clone()).await;
        for (n, appended) in ids.zip(&appended) {
            let row = EventRow(n.cast_signed() + 1);
            assert_eq!(*appended, if n < next { Appended::Duplicate(row) } else { Appended::New(row) });
        }
        next = until;
        let (records, events) = check(&path);
        // Each process looks after as many as it moves at once.
        assert!(records <= 16 + 2 * 18 && events <= 16 + 2 * 9, "{records} and {events} are new");
        assert!(next < 100 || (records > 4 && events > 4), "lots are moved, not all");
    }
    crash_image(&path, &after);
    drop(stores);
    let store = open(&after);
    check(&after);
    assert_eq!(put(&store, 0..ROWS).await, 0, "all are there");
    assert!(append(&store, 0..ROWS).await.iter().all(|one| matches!(one, Appended::Duplicate(_))));
    for n in [0, 150, ROWS - 1] {
        let found = store.record(key("b"), scattered(n).into()).await.unwrap().unwrap();
        assert_eq!(found.data.unwrap(), format!("b {n}"));
        let facts = store.stored(key("a"), vec![scattered(n).into(), "none".into()]).await.unwrap();
        assert_eq!((facts[0].is_some(), facts[1].is_some()), (true, false));
    }
    // By id, from both tables together.
    assert_eq!(store.erase_records(key("a"), 100, Timestamp(5)).await.unwrap(), 100);
    let sorted: BTreeSet<String> = (0..ROWS).map(scattered).collect();
    for (id, gone) in sorted.iter().zip((0..).map(|n| n < 100)) {
        let record = store.record(key("a"), id.as_str().into()).await.unwrap().unwrap();
        assert_eq!(record.data.is_none(), gone, "{id}");
    }
    assert_eq!(store.compact_feed(Timestamp(9), 1_000).await.unwrap(), 100);
    assert_eq!(store.prune_events(Timestamp(1), FORGET_ALL, None, 200).await.unwrap().gone, 200);
    check(&after);
    assert_eq!(put(&store, 0..ROWS).await, 100, "what was removed is new");
    assert_eq!(append(&store, 199..201).await, [Appended::New(EventRow(301)), Appended::Duplicate(EventRow(201))]);
    check(&after);
    store.close().await.unwrap();
}

/// Fails when a row is taken for the next record's because it is the next in the file and has its id, though it is of
/// another stream.
#[tokio::test]
async fn neighbours_in_the_file_may_be_of_another_stream() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("beside.db"));
    let merge = |stream: &str, ids: &[&str]| {
        let change = |id: &&str| Change {
            stream: stream.into(),
            id: (*id).into(),
            span: Span::exact(10),
            state: State::Present("x".into()),
        };
        vec![Merge { key: key(stream), read_since: Some(9), changes: ids.iter().map(change).collect() }]
    };
    for (stream, ids, added) in [
        ("a", &["1", "2"][..], 2),
        ("b", &["3"], 1),
        ("a", &["1", "2", "3", "4"], 2),
        ("a", &["4", "3", "2", "1", "1", "2", "3", "4"], 0),
    ] {
        assert_eq!(store.merge(merge(stream, ids), Timestamp(1)).await.unwrap().0.added, added, "{stream} {ids:?}");
    }
    assert!(store.record(key("a"), "3".into()).await.unwrap().is_some());
}

/// Fails when an event is taken for another because the numbers they are named by are the same.
#[tokio::test]
async fn events_may_share_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.db");
    let store = open(&path);
    assert_eq!(append(&store, 1..2).await, [Appended::New(EventRow(1))]);
    // From now on the first event's name is that of another.
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute("UPDATE palisade_event SET event_id = 'another' WHERE id = 1", []).unwrap();
    assert_eq!(append(&store, 1..2).await, [Appended::New(EventRow(2))]);
    assert_eq!(append(&store, 1..2).await, [Appended::Duplicate(EventRow(2))]);
    let shared = "SELECT count(*) FROM palisade_event_new GROUP BY name";
    assert_eq!(other.query_row(shared, [], |row| row.get::<_, i64>(0)).unwrap(), 2);
    store.close().await.unwrap();
}

/// Fails when the lots stop at the last name, or when fewer are moved than are entered.
#[tokio::test]
async fn lots_go_round() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("round.db");
    let store = open(&path);
    for n in 0..ROWS {
        put(&store, n..n + 1).await;
        append(&store, n..n + 1).await;
    }
    let (records, events) = check(&path);
    assert!(records <= 16 + 8 && events <= 16 + 4, "{records} and {events} are new");
    store.close().await.unwrap();
}

/// Fails when a row that is not found by its name is called sound.
#[tokio::test]
async fn a_check_tells_of_lost_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lost.db");
    let store = open(&path);
    put(&store, 0..3).await;
    append(&store, 0..3).await;
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
    let other = rusqlite::Connection::open(&path).unwrap();
    for table in ["record", "event"] {
        other.execute(&format!("DELETE FROM palisade_{table}_new WHERE id = 1"), []).unwrap();
    }
    let told = store.check().await.unwrap();
    for expected in ["1 records are not found by their names", "1 events are not found by their names"] {
        assert!(told.iter().any(|one| one == expected), "{told:?}");
    }
    store.close().await.unwrap();
}

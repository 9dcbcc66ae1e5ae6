//! A replay looks for its rows where nobody waits for it.

use std::time::Duration;

use bytes::Bytes;
use palisade_core::Timestamp;
use palisade_core::store::{EventRow, EventState, Inbox, NewDelivery, NewEvent, REPLAY_WALKED, ReplayFilter};
use palisade_store::{SqliteConfig, SqliteStore};

use crate::subject::delivery;

/// Puts ignored events into the inbox.
async fn ignored(store: &SqliteStore, from: i64, count: i64) {
    let event = |n: i64| NewEvent {
        id: format!("ignored-{n}").into(),
        wanted: false,
        ..delivery("", Bytes::new()).events.remove(0)
    };
    let events = (from..from + count).map(event).collect();
    store.append(vec![NewDelivery { events, ..delivery("", Bytes::new()) }]).await.unwrap();
}

fn every() -> ReplayFilter {
    ReplayFilter { from: Some(Timestamp(0)), ..ReplayFilter::default() }
}

/// Fails when a dry run, or a step that finds nothing to replay, takes a turn of the writer: deliveries would wait for it,
/// and it for whoever holds the file.
#[tokio::test]
async fn looking_for_rows_takes_no_turn_of_the_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("held.db");
    let config = SqliteConfig { busy_timeout: Duration::ZERO, ..SqliteConfig::at(&path) };
    let store = SqliteStore::open(config).unwrap();
    ignored(&store, 0, 10).await;
    store.append(vec![delivery("wanted", Bytes::new())]).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    // As a delivery's job is done, in few words.
    other.execute("UPDATE palisade_event SET state = 1 WHERE event_id = 'wanted'", []).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let step = async |filter, dry_run| store.replay_some(filter, EventRow(0), 9, dry_run, Timestamp(9)).await;
    let counted = step(every(), true).await.unwrap();
    assert_eq!((counted.met, counted.next), (vec![EventRow(11)], None));
    let none = step(ReplayFilter { state: Some(EventState::Dead), ..every() }, false).await.unwrap();
    assert_eq!((none.met, none.next), (vec![], None));
    assert!(step(every(), false).await.is_err(), "what is found is written, and the file is held");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(step(every(), false).await.unwrap().met, [EventRow(11)]);
}

/// Fails when what was found is replayed though it meets the filter no more when its turn of the writer comes.
#[tokio::test]
async fn what_changed_since_it_was_found_is_not_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.db");
    let store = crate::subject::open(&path);
    ignored(&store, 0, 2_000).await;
    store.append(vec![delivery("one", Bytes::new()), delivery("other", Bytes::new())]).await.unwrap();
    let second = rusqlite::Connection::open(&path).unwrap();
    second.execute("UPDATE palisade_event SET state = 1 WHERE event_id IN ('one', 'other')", []).unwrap();
    second.execute_batch("BEGIN IMMEDIATE; UPDATE palisade_event SET kind = 'new' WHERE event_id = 'one'").unwrap();
    let before = store.read_steps();
    let replay = tokio::spawn({
        let store = store.clone();
        let filter = ReplayFilter { kind: Some("invoice.paid".to_owned()), ..every() };
        async move { store.replay_some(filter, EventRow(0), 9, false, Timestamp(9)).await }
    });
    // It sees the file as it was before; the writer waits for the file.
    while store.read_steps() == before {
        tokio::task::yield_now().await;
    }
    second.execute_batch("COMMIT").unwrap();
    assert_eq!(replay.await.unwrap().unwrap().met, [EventRow(2_002)]);
}

/// Fails when a step walks past all there is until it finds something, or reads what it passes over otherwise than by the
/// way.
#[tokio::test]
async fn a_step_costs_the_same_however_much_it_passes_over() {
    let folder = tempfile::tempdir().unwrap();
    let store = crate::subject::open(&folder.path().join("many.db"));
    let costs = async || {
        let before = store.read_steps();
        let step = store.replay_some(every(), EventRow(0), 500, false, Timestamp(9)).await.unwrap();
        assert_eq!(step.met, []);
        (store.read_steps() - before, step.next)
    };
    ignored(&store, 0, REPLAY_WALKED).await;
    let (few, end) = costs().await;
    assert_eq!(end, None);
    ignored(&store, REPLAY_WALKED, 2 * REPLAY_WALKED).await;
    let (many, next) = costs().await;
    assert_eq!(next, Some(EventRow(REPLAY_WALKED)));
    assert!(many <= few + few / 10 && few > 0, "{few} steps past one lot, {many} past the first of three");
}

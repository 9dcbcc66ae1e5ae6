//! Content that did not change costs no write of its record, and counts as seen all the same: in this run, in one taken
//! up after a crash, and against a change that is older.

use std::path::Path;
use std::time::Duration;

use palisade_core::Timestamp;
use palisade_core::store::{
    Claim, Jobs, Lease, Merge, MergeCounts, NewJob, PageCommit, Queue, Records, Room, Run, RunEnd, RunMode, RunState,
    StreamKey, Work,
};
use palisade_core::sync::{Change, Span, State};
use palisade_store::SqliteStore;

use crate::subject::{crash_image, job, open};

/// More than one block of notes, and not a whole number of them.
const RECORDS: usize = 1_000;
/// Records a page.
const PAGE: usize = 100;

fn key() -> StreamKey {
    StreamKey { connection: "acme".into(), stream: "things".into() }
}

fn change(n: usize, span: Span) -> Change {
    Change { stream: key().stream, id: format!("r{n:04}").into(), span, state: State::Present(format!("{n}").into()) }
}

async fn begin(store: &SqliteStore, now: i64) -> (Lease, Run) {
    let work = Work::Sync { key: key(), mode: RunMode::Full };
    store.enqueue(vec![NewJob { work, ..job() }]).await.unwrap();
    let lease = claim(store, now).await;
    (lease, store.start_run(lease, key(), RunMode::Full, Timestamp(now)).await.unwrap())
}

async fn claim(store: &SqliteStore, now: i64) -> Lease {
    let hold = Duration::from_secs(60);
    let claim = Claim { now: Timestamp(now), hold, max: 1, queue: Queue::Background, room: Room::default() };
    store.claim(claim).await.unwrap()[0].lease
}

async fn commit(store: &SqliteStore, lease: Lease, run: &Run, changes: Vec<Change>) -> MergeCounts {
    let page = PageCommit {
        lease,
        run: run.id,
        read_since: store.stream(key()).await.unwrap().commits,
        changes,
        deliveries: Vec::new(),
        missed_before: Timestamp(0),
        unheard: Default::default(),
        endpoints: Vec::new(),
        missed: Default::default(),
        bad: Vec::new(),
        fetched: Vec::new(),
        total: None,
        next: None,
        now: Timestamp(1),
    };
    store.commit_page(page).await.unwrap().counts
}

async fn end(store: &SqliteStore, lease: Lease, run: &Run, latest: i64) -> Run {
    step(store, lease, run, latest, 500).await
}

async fn step(store: &SqliteStore, lease: Lease, run: &Run, latest: i64, at_once: u32) -> Run {
    let end = RunEnd {
        lease,
        run: run.id,
        state: RunState::Done,
        stop: None,
        span: Some(Span::exact(latest)),
        follow: Vec::new(),
        resume: None,
        deletions_approved: 0,
        at_once,
        now: Timestamp(1),
    };
    store.end_run(end).await.unwrap()
}

/// A stream that was listed in full once, at the moment 10.
async fn listed(path: &Path) -> SqliteStore {
    let store = open(path);
    let changes = (0..RECORDS).map(|n| change(n, Span::exact(10))).collect();
    let merge = Merge { key: key(), read_since: Some(0), changes };
    assert_eq!(store.merge(vec![merge], Timestamp(1)).await.unwrap().0.added, RECORDS as u64);
    store
}

/// From now on a record's row that is written fails the commit.
fn forbid_writes(path: &Path) {
    let sql = "CREATE TRIGGER none BEFORE UPDATE ON palisade_record BEGIN SELECT RAISE(ABORT, 'written'); END";
    rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

fn noted(path: &Path) -> (i64, i64) {
    let sql = "SELECT count(*), sum(length(notes)) FROM palisade_seen";
    rusqlite::Connection::open(path).unwrap().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

/// Fails when a confirmation writes the record's row, in whatever order the pages bring the records, or takes more room
/// than a stretch a page and block where they come in the order in which they lie.
#[tokio::test]
async fn unchanged_records_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    for (name, step, most) in [("forward", 1, 20), ("scattered", 371, RECORDS as i64)] {
        let path = folder.path().join(name);
        let store = listed(&path).await;
        forbid_writes(&path);
        let (lease, run) = begin(&store, 1).await;
        let order: Vec<_> = (0..RECORDS).map(|n| n * step % RECORDS).collect();
        for (number, page) in (20..).zip(order.chunks(PAGE)) {
            let changes = page.iter().map(|n| change(*n, Span::exact(number))).collect();
            assert_eq!(commit(&store, lease, &run, changes).await.unchanged, PAGE as u64);
        }
        let ended = end(&store, lease, &run, 40).await;
        assert_eq!((ended.state, ended.counts.deleted), (RunState::Done, 0), "{name}");
        assert_eq!(store.stream(key()).await.unwrap().head, RECORDS as u64, "nothing in the feed");
        let (rows, bytes) = noted(&path);
        assert!(rows <= 9 && bytes <= 26 * most, "{name}: {rows} rows of {bytes} bytes");
    }
}

/// Fails when what a page confirmed before a crash is not seen by the run that is taken up behind it, or when what it
/// had not read yet is.
#[tokio::test]
async fn what_was_confirmed_before_a_crash_counts_as_seen() {
    let folder = tempfile::tempdir().unwrap();
    let (path, after) = (folder.path().join("before.db"), folder.path().join("after.db"));
    let store = listed(&path).await;
    let (lease, run) = begin(&store, 1).await;
    for first in (0..RECORDS / 2).step_by(PAGE) {
        let changes = (first..first + PAGE).map(|n| change(n, Span::exact(20))).collect();
        commit(&store, lease, &run, changes).await;
    }
    crash_image(&path, &after);
    drop(store);
    let store = open(&after);
    // The lease of the lost worker ends.
    let lease = claim(&store, 100_000).await;
    let resumed = store.start_run(lease, key(), RunMode::Full, Timestamp(100_000)).await.unwrap();
    assert_eq!((resumed.id, resumed.resumed), (run.id, 1));
    // Two of what is left are gone at the provider.
    let left: Vec<_> = (RECORDS / 2..RECORDS).filter(|n| *n != 700 && *n != 999).collect();
    for page in left.chunks(PAGE) {
        commit(&store, lease, &resumed, page.iter().map(|n| change(*n, Span::exact(30))).collect()).await;
    }
    let unseen = store.unseen(run.id, None, 9).await.unwrap();
    let names: Vec<_> = unseen.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(names, ["r0700", "r0999"]);
    let ended = end(&store, lease, &resumed, 40).await;
    assert_eq!((ended.state, ended.counts.deleted), (RunState::Done, 2));
    let tombstone = store.stored(key(), vec!["r0700".into()]).await.unwrap()[0].unwrap();
    assert_eq!((tombstone.deleted, tombstone.span), (true, Span { earliest: 10, latest: 40 }));
}

/// Fails when a run that was killed between two steps of its end loses count, deletes anything twice or what was seen again
/// since, or leaves any of it.
#[tokio::test]
async fn a_kill_between_two_steps_of_an_end_costs_none() {
    let folder = tempfile::tempdir().unwrap();
    let (path, after) = (folder.path().join("before.db"), folder.path().join("after.db"));
    let store = listed(&path).await;
    let (lease, run) = begin(&store, 1).await;
    let seen = RECORDS - 180;
    for first in (0..seen).step_by(PAGE) {
        let changes = (first..(first + PAGE).min(seen)).map(|n| change(n, Span::exact(20))).collect();
        commit(&store, lease, &run, changes).await;
    }
    let first = step(&store, lease, &run, 40, 70).await;
    assert_eq!((first.state, first.counts.deleted), (RunState::Running, 70));
    crash_image(&path, &after);
    drop(store);
    let store = open(&after);
    let lease = claim(&store, 100_000).await;
    let resumed = store.start_run(lease, key(), RunMode::Full, Timestamp(100_000)).await.unwrap();
    assert_eq!((resumed.id, resumed.resumed, resumed.counts.deleted), (run.id, 1, 70));
    // The last page again, and a webhook that tells of one that is missing.
    commit(&store, lease, &resumed, (800..seen).map(|n| change(n, Span::exact(50))).collect()).await;
    let heard = Merge { key: key(), read_since: None, changes: vec![change(950, Span::exact(50))] };
    assert_eq!(store.merge(vec![heard], Timestamp(1)).await.unwrap().0.unchanged, 1);
    let mut steps = Vec::new();
    loop {
        let run = step(&store, lease, &resumed, 60, 70).await;
        steps.push(run.counts.deleted);
        if run.state != RunState::Running {
            assert_eq!(run.state, RunState::Done);
            break;
        }
    }
    assert_eq!(steps, [140, 179]);
    let status = store.stream(key()).await.unwrap();
    assert_eq!((status.records, status.head), (RECORDS as u64 - 179, RECORDS as u64 + 179));
    let gone = store.changes(key(), RECORDS as u64, 999).await.unwrap();
    let gone: Vec<_> = gone.iter().map(|entry| entry.record.id.to_string()).collect();
    let wanted: Vec<_> = (seen..RECORDS).filter(|n| *n != 950).map(|n| format!("r{n:04}")).collect();
    assert_eq!(gone, wanted, "each once, in the order of their ids");
    assert_eq!(store.check().await.unwrap(), Vec::<String>::new());
}

/// Fails when the writer deletes what was found missing without looking whether it still is: what is confirmed between the
/// look and the commit would be deleted.
#[tokio::test]
async fn what_is_confirmed_while_it_is_looked_for_is_not_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("race.db"));
    let all = |at| (0..20).map(move |n| change(n, Span::exact(at)));
    let merge = Merge { key: key(), read_since: Some(0), changes: all(10).collect() };
    store.merge(vec![merge], Timestamp(1)).await.unwrap();
    let mut heard_first = 0;
    for round in 1..60 {
        let (lease, run) = begin(&store, 1).await;
        let missing = (round % 20) as usize;
        let seen =
            all(1_000 * round - 100).enumerate().filter(|(n, _)| *n != missing).map(|(_, change)| change).collect();
        commit(&store, lease, &run, seen).await;
        let heard = Merge { key: key(), read_since: None, changes: vec![change(missing, Span::exact(1_000 * round))] };
        let (ended, merged) =
            tokio::join!(end(&store, lease, &run, 1_000 * round), store.merge(vec![heard], Timestamp(1)));
        assert_eq!(ended.state, RunState::Done);
        let lives = store.record(key(), change(missing, Span::exact(0)).id).await.unwrap().unwrap().data.is_some();
        if merged.unwrap().0.unchanged == 1 {
            heard_first += 1;
            assert!(lives && ended.counts.deleted == 0, "round {round}: it was confirmed before it was deleted");
        }
        // It is there again for the next round.
        let read_since = Some(store.stream(key()).await.unwrap().commits);
        let back = Merge { key: key(), read_since, changes: vec![change(missing, Span::exact(1_000 * round + 500))] };
        store.merge(vec![back], Timestamp(1)).await.unwrap();
    }
    assert!(heard_first > 0, "the webhook never came first");
}

/// Fails when the merge looks at the row alone: an event from before the confirmation would be written over it.
#[tokio::test]
async fn what_is_older_than_a_confirmation_does_not_pass_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = listed(&folder.path().join("older.db")).await;
    let (lease, run) = begin(&store, 1).await;
    commit(&store, lease, &run, (0..PAGE).map(|n| change(n, Span::exact(20))).collect()).await;
    let event = |n: usize, at: i64| {
        let changed = Change { state: State::Present("new".into()), ..change(n, Span::exact(at)) };
        vec![Merge { key: key(), read_since: None, changes: vec![changed] }]
    };
    let between = store.merge(event(7, 15), Timestamp(1)).await.unwrap();
    assert_eq!((between.0.older, between.1.len()), (1, 0), "the confirmation is newer");
    let tied = store.merge(event(7, 20), Timestamp(1)).await.unwrap();
    assert_eq!(tied.1.len(), 1, "of one moment: it must be fetched");
    let unread = store.merge(event(PAGE, 15), Timestamp(1)).await.unwrap();
    assert_eq!(unread.0.updated, 1, "of a record that was not confirmed");
    let later = store.merge(event(7, 21), Timestamp(1)).await.unwrap();
    assert_eq!(later.0.updated, 1);
    let facts = store.stored(key(), vec!["r0007".into(), "r0008".into()]).await.unwrap();
    assert_eq!(facts[0].unwrap().span, Span::exact(21), "the row is newer than its note");
    assert_eq!(facts[1].unwrap().span, Span::exact(20));
}

/// Fails when what came is taken for what is stored because it is as long, or not because it is long.
#[tokio::test]
async fn content_is_compared_whatever_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("sizes.db"));
    let sizes = [0, 1, 8_191, 8_192, 8_193, 40_000];
    let page = |now: i64, last: Option<u8>| {
        let one = |(n, size): (usize, &usize)| {
            let mut content = vec![b'x'; *size];
            if let Some((byte, last)) = content.last_mut().zip(last) {
                *byte = last;
            }
            Change { state: State::Present(content.into()), ..change(n, Span::exact(now)) }
        };
        vec![Merge { key: key(), read_since: None, changes: sizes.iter().enumerate().map(one).collect() }]
    };
    let told = |counts: MergeCounts| (counts.added, counts.unchanged, counts.updated);
    assert_eq!(told(store.merge(page(10, None), Timestamp(1)).await.unwrap().0), (6, 0, 0));
    assert_eq!(told(store.merge(page(20, None), Timestamp(1)).await.unwrap().0), (0, 6, 0));
    let other = told(store.merge(page(30, Some(b'y')), Timestamp(1)).await.unwrap().0);
    assert_eq!(other, (0, 1, 5), "but for the empty one");
    for (n, size) in sizes.iter().enumerate().skip(1) {
        let record = store.record(key(), format!("r{n:04}").into()).await.unwrap().unwrap();
        assert_eq!(record.data.unwrap().last(), Some(&b'y'), "{size} bytes");
    }
}

/// Fails when the notes of records that are gone stay, or those beside them go too.
#[tokio::test]
async fn notes_go_with_their_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone.db");
    let store = listed(&path).await;
    let (lease, run) = begin(&store, 1).await;
    commit(&store, lease, &run, (0..PAGE).map(|n| change(n, Span::exact(20))).collect()).await;
    assert_eq!(noted(&path).0, 1);
    assert_eq!(store.erase_records(key(), 50, Timestamp(5)).await.unwrap(), 50);
    assert_eq!(store.compact_feed(Timestamp(9), 1_000).await.unwrap(), 50);
    let facts = store.stored(key(), vec!["r0049".into(), "r0050".into()]).await.unwrap();
    assert_eq!((facts[0], facts[1].unwrap().span), (None, Span::exact(20)));
    assert_eq!(noted(&path), (1, 26));
    while store.erase_records(key(), 1_000, Timestamp(5)).await.unwrap() > 0 {}
    assert_eq!(store.compact_feed(Timestamp(9), 1_000).await.unwrap(), 950);
    let rows: i64 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM palisade_seen", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 0);
}

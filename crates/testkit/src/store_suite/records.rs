//! Promises of records, runs and the change feed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use palisade_core::store::{
    Appended, ChangeKind, JobEnd, Lease, Merge, MergeCounts, NewJob, PageCommit, PageCommitted, Queue, Run, RunEnd,
    RunMode, RunState, Settled, Settlement, Store, StreamKey, StreamStatus, Work,
};
use palisade_core::sync::{Change, Cursor, Span, State};
use palisade_core::{ErrorKind, Timestamp};

use super::inbox::{delivery, event, settle_done};
use super::jobs::{claim, hold, job, key, settlement};
use super::{ok, same};

/// An observation at an exact moment.
fn seen(id: &str, at: i64, state: State) -> Change {
    Change { stream: key().stream, id: id.into(), span: Span::exact(at), state }
}

fn present(id: &str, at: i64, data: &'static str) -> Change {
    seen(id, at, State::Present(Bytes::from_static(data.as_bytes())))
}

async fn merge(store: &dyn Store, read_since: Option<u64>, now: i64, changes: Vec<Change>) -> (MergeCounts, usize) {
    let merges = vec![Merge { key: key(), read_since, changes }];
    let (counts, fetch) = ok(store.merge(merges, Timestamp(now)).await);
    (counts, fetch.len())
}

async fn feed(store: &dyn Store, after: u64) -> Vec<(u64, String, ChangeKind)> {
    let entries = ok(store.changes(key(), after, 10_000).await);
    entries.into_iter().map(|entry| (entry.record.seq, entry.record.id.to_string(), entry.kind)).collect()
}

fn sync(mode: RunMode) -> NewJob {
    NewJob { work: Work::Sync { key: key(), mode }, ..job(0) }
}

async fn begin(store: &dyn Store, mode: RunMode) -> (Lease, Run) {
    let lease = hold(store, sync(mode), 0).await;
    let run = ok(store.start_run(lease, key(), mode, Timestamp(5)).await);
    (lease, run)
}

fn page(lease: Lease, run: &Run, read_since: u64, changes: Vec<Change>) -> PageCommit {
    PageCommit {
        lease,
        run: run.id,
        read_since,
        changes,
        deliveries: Vec::new(),
        next: Some(Cursor::new("next")),
        now: Timestamp(6),
    }
}

fn done(lease: Lease, run: &Run) -> RunEnd {
    RunEnd {
        lease,
        run: run.id,
        state: RunState::Done,
        span: None,
        follow: Vec::new(),
        resume: None,
        allow_mass_delete: false,
        now: Timestamp(7),
    }
}

async fn status(store: &dyn Store) -> StreamStatus {
    ok(store.stream(key()).await)
}

/// The feed shows each record once with its latest state, in the order of the changes; the same content again changes
/// nothing in it.
pub async fn the_feed_shows_each_record_once_with_its_latest_state(store: &dyn Store) {
    same(status(store).await, StreamStatus::default(), "a stream never seen");
    let (counts, _) = merge(store, Some(0), 1, vec![present("a", 10, "1"), present("b", 10, "1")]).await;
    same(counts, MergeCounts { added: 2, ..MergeCounts::default() }, "new records");
    let (counts, _) = merge(store, Some(1), 2, vec![present("a", 11, "2"), present("b", 11, "1")]).await;
    same(counts, MergeCounts { updated: 1, unchanged: 1, ..MergeCounts::default() }, "one changed");
    let gone = vec![seen("b", 12, State::Deleted), seen("never", 12, State::Deleted)];
    let (counts, _) = merge(store, Some(2), 3, gone).await;
    same(counts, MergeCounts { deleted: 2, ..MergeCounts::default() }, "tombstones");
    let wanted = vec![
        (3, "a".to_owned(), ChangeKind::Updated),
        (4, "b".to_owned(), ChangeKind::Deleted),
        (5, "never".to_owned(), ChangeKind::Deleted),
    ];
    same(feed(store, 0).await, wanted.clone(), "the feed");
    same(feed(store, 3).await, wanted.get(1..).unwrap_or_default().to_vec(), "from a number on");
    same(feed(store, u64::MAX).await, Vec::new(), "behind the end");
    same(ok(store.changes(key(), 0, 1).await).len(), 1, "bounded");
    let found = status(store).await;
    same((found.commits, found.head, found.records), (3, 5, 1), "status");
    let a = ok(store.record(key(), "a".into()).await);
    let times = a.map(|a| (a.data, a.first_seen, a.changed_at));
    same(times, Some((Some("2".into()), Timestamp(1), Timestamp(2))), "a record");
    let b = ok(store.record(key(), "b".into()).await);
    same(b.map(|b| (b.data, b.first_seen)), Some((None, Timestamp(1))), "a tombstone");
    let (counts, _) = merge(store, Some(3), 9, vec![present("b", 13, "back")]).await;
    same(counts.added, 1, "a record that comes back is added");
    same(feed(store, 5).await, vec![(6, "b".to_owned(), ChangeKind::Added)], "and shown so");
    same(status(store).await.records, 2, "live records");
}

/// What is older is dropped; what cannot be ordered is named, each record once, and nothing of a settlement that
/// names any is written.
pub async fn changes_that_cannot_be_ordered_are_named(store: &dyn Store) {
    merge(store, Some(0), 1, vec![present("a", 10, "1"), present("b", 10, "1")]).await;
    let (counts, fetch) = merge(store, None, 2, vec![present("a", 9, "0"), seen("b", 9, State::Deleted)]).await;
    same((counts.older, fetch), (2, 0), "older");
    let tied = vec![
        present("a", 10, "2"),
        present("a", 10, "3"),
        seen("new", 10, State::Unclear),
        present("b", 11, "2"),
        present("b", 12, "3"),
    ];
    let lease = hold(store, job(0), 0).await;
    let merges = vec![Merge { key: key(), read_since: None, changes: tied.clone() }];
    let settled = settle_done(store, Settlement { merges, ..settlement(lease, JobEnd::Done, 3) }).await;
    let named = vec![(key(), "a".into()), (key(), "new".into())];
    same(settled, Settled::Fetch(named), "a settlement names what it needs");
    same(status(store).await.head, 2, "and writes nothing");
    let (counts, fetch) = merge(store, None, 4, tied).await;
    same((counts.updated, fetch), (2, 2), "a merge commits the others, one after another");
    let found = status(store).await;
    same((found.head, found.commits), (4, 3), "two changes in one commit");
    let settled = settle_done(store, settlement(lease, JobEnd::Done, 5)).await;
    same(settled, Settled::Committed(MergeCounts::default()), "the lease is still good");
}

/// Records, events, cursor and progress of a page are one commit; with a record that cannot be ordered nothing of it
/// is written.
///
/// Fails when the rest of a page is committed beside a record to fetch.
pub async fn a_page_is_committed_whole_or_not_at_all(store: &dyn Store) {
    let (lease, run) = begin(store, RunMode::Full).await;
    let mut full = page(lease, &run, 0, vec![present("a", 10, "1"), present("b", 10, "1")]);
    full.deliveries = vec![delivery(6, vec![event("e1"), event("e1"), event("e2")])];
    let committed = ok(store.commit_page(full.clone()).await);
    let wanted = PageCommitted {
        counts: MergeCounts { added: 2, ..MergeCounts::default() },
        fetch: Vec::new(),
        events_new: 2,
        events_duplicate: 1,
    };
    same(committed, wanted, "what a page did");
    same(claim(store, Queue::Events, 6).await.len(), 2, "its events have jobs");

    merge(store, None, 7, vec![present("a", 20, "2")]).await;
    let before = (status(store).await, ok(store.runs(None, 1).await));
    // Read before the event came: neither order nor content says which is newer.
    let mut tied = page(lease, &run, 1, vec![present("c", 20, "1"), present("a", 20, "1"), present("a", 20, "3")]);
    tied.deliveries = vec![delivery(6, vec![event("e3")])];
    let committed = ok(store.commit_page(tied).await);
    same(committed, PageCommitted { fetch: vec!["a".into()], ..PageCommitted::default() }, "named once");
    same((status(store).await, ok(store.runs(None, 1).await)), before, "nothing else is written");
    same(claim(store, Queue::Events, 6).await.len(), 0, "also no event");

    let run_now = ok(store.runs(Some("acme".into()), 1).await);
    let progress = run_now.first().map(|run| (run.pages, run.counts.added, run.cursor.clone(), run.progressed_at));
    same(progress, Some((1, 2, Some(Cursor::new("next")), Timestamp(6))), "progress");
    let late = Lease { fence: lease.fence + 1, ..lease };
    let refused = store.commit_page(PageCommit { lease: late, ..full.clone() }).await;
    same(refused.map_err(|error| error.kind()), Err(ErrorKind::LeaseLost), "a lost lease");
    ok(store.end_run(done(lease, &run)).await);
    let refused = store.commit_page(full).await;
    same(refused.map_err(|error| error.kind()), Err(ErrorKind::LeaseLost), "a run that has ended");
}

/// A run is taken up by the next worker where its last page left it, and ends its job with itself; a run of the other
/// mode takes its place.
pub async fn a_run_is_taken_up_where_it_was(store: &dyn Store) {
    let (lease, run) = begin(store, RunMode::Full).await;
    same((run.cursor.clone(), run.resumed, run.state.clone()), (None, 0, RunState::Running), "a new full run");
    ok(store.commit_page(page(lease, &run, 0, vec![present("a", 10, "1")])).await);
    let again = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(9)).await);
    same((again.id, again.cursor, again.resumed), (run.id, Some(Cursor::new("next")), 1), "taken up");
    same(again.started_at, Timestamp(5), "it began when it began");
    let resume = Some(Cursor::new("resume"));
    let ended = ok(store.end_run(RunEnd { resume: resume.clone(), ..done(lease, &run) }).await);
    same((ended.state, ended.finished_at), (RunState::Done, Some(Timestamp(7))), "ended");
    let found = status(store).await;
    let wanted = (resume.clone(), Some(Timestamp(7)), Some(Timestamp(7)));
    same((found.cursor, found.full_at, found.fresh_at), wanted, "the stream moved on");
    let refused = store.start_run(lease, key(), RunMode::Incremental, Timestamp(11)).await;
    same(refused.map_err(|error| error.kind()).err(), Some(ErrorKind::LeaseLost), "its job has ended with it");
    let lease = hold(store, sync(RunMode::Incremental), 11).await;
    let next = ok(store.start_run(lease, key(), RunMode::Incremental, Timestamp(11)).await);
    same((next.id.0, next.cursor), (run.id.0 + 1, resume), "an incremental run begins at the cursor");
    let full = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(12)).await);
    let runs = ok(store.runs(None, 9).await);
    let kinds: Vec<_> = runs.iter().map(|run| (run.id.0, kind(&run.state))).collect();
    let wanted = vec![(full.id.0, "running"), (next.id.0, "cancelled"), (run.id.0, "done")];
    same(kinds, wanted, "the other mode takes the place");
    let odd = RunEnd { state: RunState::Running, ..done(lease, &full) };
    let refused = store.end_run(odd).await;
    same(refused.map_err(|error| error.kind()).err(), Some(ErrorKind::Invalid), "a run ends as done or failed");
}

fn kind(state: &RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Done => "done",
        RunState::Review { .. } => "review",
        RunState::Failed { kind, .. } => kind.as_str(),
    }
}

/// A full run deletes every live record it did not see, but none that an event or a fetch wrote or confirmed since it
/// began; the tombstones follow in the order of their ids.
///
/// Fails when records confirmed by an event since the run began are deleted with the others.
pub async fn a_full_run_deletes_what_it_did_not_see(store: &dyn Store) {
    let old = ["z", "seen", "confirmed", "y", "written"].map(|id| present(id, 10, "1"));
    merge(store, Some(0), 1, old.to_vec()).await;
    merge(store, Some(1), 1, vec![seen("gone", 10, State::Deleted)]).await;
    let (lease, run) = begin(store, RunMode::Full).await;
    ok(store.commit_page(page(lease, &run, 2, vec![present("seen", 20, "1")])).await);
    merge(store, None, 6, vec![present("confirmed", 15, "1"), present("written", 15, "2")]).await;
    let read = Span { earliest: 30, latest: 40 };
    let follow = vec![job(0)];
    let ended = ok(store.end_run(RunEnd { span: Some(read), follow, ..done(lease, &run) }).await);
    same((ended.state, ended.counts.deleted), (RunState::Done, 2), "two were not seen");
    same(ok(store.job_counts().await).waiting, 1, "the following job is added");
    let tail: Vec<_> = feed(store, 7).await;
    let wanted = vec![(8, "y".to_owned(), ChangeKind::Deleted), (9, "z".to_owned(), ChangeKind::Deleted)];
    same(tail, wanted, "in the order of their ids");
    let found = status(store).await;
    same((found.records, found.commits), (3, 5), "live records and one commit more");
    let (counts, fetch) = merge(store, None, 8, vec![present("z", 9, "late"), present("y", 35, "between")]).await;
    same((counts.older, fetch), (1, 1), "a late event does not revive: it is older, or must be fetched");
}

/// A full run that would delete over a fifth and over fifty live records stops for a review and deletes nothing,
/// unless that is allowed.
pub async fn many_deletions_wait_for_a_review(store: &dyn Store) {
    let names: Vec<String> = (0..251).map(|n| format!("{n:03}")).collect();
    let all = |from: usize| -> Vec<Change> {
        names.iter().skip(from).map(|id| seen(id, 10, State::Present("1".into()))).collect()
    };
    merge(store, Some(0), 1, all(0)).await;
    let (lease, run) = begin(store, RunMode::Full).await;
    ok(store.commit_page(page(lease, &run, 1, all(51))).await);
    let ended = ok(store.end_run(done(lease, &run)).await);
    same(ended.state, RunState::Review { deletions: 51 }, "51 of 251 are more than a fifth");
    let found = status(store).await;
    same((found.records, found.full_at, found.fresh_at), (251, None, None), "nothing is deleted, nothing moves on");

    let lease = hold(store, sync(RunMode::Full), 8).await;
    let run = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(8)).await);
    ok(store.commit_page(page(lease, &run, 2, all(50))).await);
    let ended = ok(store.end_run(done(lease, &run)).await);
    same((ended.state, status(store).await.records), (RunState::Done, 201), "50 are always lawful");

    let lease = hold(store, sync(RunMode::Full), 9).await;
    let run = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(9)).await);
    let ended = ok(store.end_run(RunEnd { allow_mass_delete: true, ..done(lease, &run) }).await);
    same((ended.state, status(store).await.records), (RunState::Done, 0), "allowed");
}

/// A run that failed because its cursor is too old makes the stream forget it; other failures change nothing.
pub async fn an_old_cursor_is_forgotten(store: &dyn Store) {
    let (lease, run) = begin(store, RunMode::Incremental).await;
    ok(store.end_run(RunEnd { resume: Some(Cursor::new("c")), ..done(lease, &run) }).await);
    let failed = |kind| RunState::Failed { kind, reason: String::new() };
    for (kind, cursor) in [(ErrorKind::Provider, Some(Cursor::new("c"))), (ErrorKind::CursorExpired, None)] {
        let lease = hold(store, sync(RunMode::Incremental), 8).await;
        let run = ok(store.start_run(lease, key(), RunMode::Incremental, Timestamp(8)).await);
        let state = failed(kind);
        ok(store
            .end_run(RunEnd { state, resume: Some(Cursor::new("x")), now: Timestamp(9), ..done(lease, &run) })
            .await);
        let found = status(store).await;
        same((found.cursor, found.fresh_at), (cursor, Some(Timestamp(7))), "after a failure");
    }
    same(ok(store.streams("acme".into()).await).len(), 1, "streams are listed by connection");
    same(ok(store.streams("other".into()).await).len(), 0, "and only its own");
}

/// Whoever reads the feed while others write sees every change: what comes later in it never stands below what was
/// already read.
///
/// Fails when a change's number is taken before its commit is in order with the others.
pub async fn the_feed_has_no_gap_under_concurrent_commits(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const COMMITS: u64 = 30;
    let over = Arc::new(AtomicBool::new(false));
    let reader = {
        let (store, over) = (store.clone(), over.clone());
        tokio::spawn(async move {
            let (mut after, mut read) = (0, Vec::new());
            loop {
                let last = over.load(Ordering::SeqCst);
                let entries = ok(store.changes(key(), after, 7).await);
                if entries.is_empty() && last {
                    return read;
                }
                for entry in entries {
                    assert!(entry.record.seq > after, "the feed only goes forward");
                    after = entry.record.seq;
                    read.push(entry.record.id.to_string());
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            for number in 0..COMMITS {
                let changes =
                    (0..3).map(|n| seen(&format!("{writer}-{number}-{n}"), 1, State::Present("1".into()))).collect();
                ok(store.merge(vec![Merge { key: key(), read_since: None, changes }], Timestamp(1)).await);
                ok(store.append(vec![delivery(1, vec![event(&format!("{writer}-{number}"))])]).await)
                    .iter()
                    .flatten()
                    .for_each(|one| assert!(matches!(one, Appended::New(_)), "each event is new"));
            }
        }));
    }
    for writer in writers {
        assert!(writer.await.is_ok(), "a writer");
    }
    over.store(true, Ordering::SeqCst);
    let read = reader.await.unwrap_or_default();
    let all = usize::try_from(WRITERS * COMMITS * 3).unwrap_or(0);
    same((read.len(), super::distinct(read).len()), (all, all), "each change was read once");
    let found: StreamStatus = ok(store.stream(StreamKey { ..key() }).await);
    same((found.head, found.commits), (WRITERS * COMMITS * 3, WRITERS * COMMITS), "numbers without gaps");
}

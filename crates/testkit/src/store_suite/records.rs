//! Promises of records, runs and the change feed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use palisade_core::store::{
    ACCOUNT_DISCONNECTED, Appended, BAD_KEPT_MAX, ChangeKind, FeedPage, FetchedRecord, JobEnd, Lease, Merge,
    MergeCounts, Missed, NewJob, PageCommit, PageCommitted, Queue, Run, RunEnd, RunFilter, RunId, RunMode, RunState,
    RunStateName, Settled, Settlement, Store, StreamKey, StreamStatus, Work,
};
use palisade_core::sync::{BadRecord, Change, Cursor, Span, State, Stop};
use palisade_core::{ErrorKind, Timestamp};

use super::inbox::{delivery, event, settle_done};
use super::jobs::{claim, hold, job, key, settlement};
use super::{ok, same};
use palisade_core::store::{NewDelivery, NewEvent};

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
        missed: Default::default(),
        missed_before: Timestamp(6),
        unheard: Default::default(),
        endpoints: Vec::new(),
        bad: Vec::new(),
        fetched: Vec::new(),
        total: None,
        next: Some(Cursor::new("next")),
        now: Timestamp(6),
    }
}

fn done(lease: Lease, run: &Run) -> RunEnd {
    RunEnd {
        lease,
        run: run.id,
        state: RunState::Done,
        stop: None,
        span: None,
        follow: Vec::new(),
        resume: None,
        deletions_approved: 0,
        at_once: 500,
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
/// Fails when the rest of a page is committed beside a record to fetch, or what was fetched without the rest.
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
    same((status(store).await, ok(store.runs(None, 1).await)), before.clone(), "nothing else is written");
    same(claim(store, Queue::Events, 6).await.len(), 0, "also no event");

    let run_now = ok(store.runs(Some("acme".into()), 1).await);
    let progress = run_now.first().map(|run| (run.pages, run.counts.added, run.cursor.clone(), run.progressed_at));
    same(progress, Some((1, 2, Some(Cursor::new("next")), Timestamp(6))), "progress");
    // What was read by itself goes with its page, if it can be ordered by then.
    let mut whole = page(lease, &run, 1, vec![present("c", 20, "1")]);
    whole.deliveries = vec![delivery(6, vec![event("e3")])];
    whole.fetched = vec![FetchedRecord { read_since: 1, change: present("a", 20, "1") }];
    let committed = ok(store.commit_page(whole.clone()).await);
    same(committed, PageCommitted { fetch: vec!["a".into()], ..PageCommitted::default() }, "it changed again");
    same(status(store).await, before.0.clone(), "nothing is written");
    whole.fetched = vec![FetchedRecord { read_since: before.0.commits, change: present("a", 20, "1") }];
    let committed = ok(store.commit_page(whole).await);
    let counts = MergeCounts { added: 1, updated: 1, ..MergeCounts::default() };
    let wanted = PageCommitted { counts, events_new: 1, ..PageCommitted::default() };
    same(committed, wanted, "a page with what was read by itself");
    same(status(store).await.commits, before.0.commits + 1, "in one commit");
    let mut elsewhere = page(lease, &run, 9, Vec::new());
    elsewhere.deliveries =
        vec![NewDelivery { endpoint: "other".into(), ..delivery(6, vec![event("e3"), event("e4")]) }];
    elsewhere.endpoints = vec!["other".into(), "hook".into()];
    let committed = ok(store.commit_page(elsewhere.clone()).await);
    let told = (committed.events_new, committed.events_duplicate);
    same(told, (1, 1), "what is here under another endpoint of its connection is a duplicate");
    elsewhere.deliveries = vec![delivery(6, vec![event("e4"), event("e5")])];
    elsewhere.endpoints = vec!["hook".into()];
    let committed = ok(store.commit_page(elsewhere).await);
    same((committed.events_new, committed.events_duplicate), (2, 0), "under another connection's it is not");

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

/// A full run that would delete over a fifth and over fifty live records stops for a review and deletes nothing, unless
/// as many were approved, or nearly.
pub async fn many_deletions_wait_for_a_review(store: &dyn Store) {
    let names: Vec<String> = (0..251).map(|n| format!("{n:03}")).collect();
    let all = |from: usize| -> Vec<Change> {
        names.iter().skip(from).map(|id| seen(id, 10, State::Present("1".into()))).collect()
    };
    merge(store, Some(0), 1, all(0)).await;
    let (lease, run) = begin(store, RunMode::Full).await;
    ok(store.commit_page(page(lease, &run, 1, all(51))).await);
    let behind = Some(Cursor::new("behind"));
    let ended = ok(store.end_run(RunEnd { resume: behind.clone(), ..done(lease, &run) }).await);
    same(ended.state, RunState::Review { deletions: 51 }, "51 of 251 are more than a fifth");
    let found = status(store).await;
    same(
        (found.records, found.full_at, found.fresh_at),
        (251, None, None),
        "nothing is deleted, nothing counts as fresh",
    );
    same(found.cursor, behind, "what comes later is read from behind it");

    let lease = hold(store, sync(RunMode::Full), 8).await;
    let run = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(8)).await);
    ok(store.commit_page(page(lease, &run, 2, all(50))).await);
    let ended = ok(store.end_run(done(lease, &run)).await);
    same((ended.state, status(store).await.records), (RunState::Done, 201), "50 are always lawful");

    // The 201 that are left: a tenth more than was approved, and one more than that.
    for (number, (approved, expected)) in (9..).zip([(182, RunState::Review { deletions: 201 }), (183, RunState::Done)])
    {
        let lease = hold(store, sync(RunMode::Full), number).await;
        let run = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(number)).await);
        let ended = ok(store.end_run(RunEnd { deletions_approved: approved, ..done(lease, &run) }).await);
        let left = if expected == RunState::Done { 0 } else { 201 };
        same(
            (ended.state, status(store).await.records),
            (expected, left),
            "as many as were approved, and a tenth more",
        );
    }
}

/// The end of a full run deletes no more in one commit than it is told to, in the order of ids, and is over with the last
/// of them and not before; what is written or confirmed between two of them stays, and whoever takes the run up goes on.
///
/// Fails when a step deletes more, when the job ends or the stream moves on before the last, or when what was seen
/// between two of them is deleted because it had been found missing before.
pub async fn the_end_of_a_full_run_goes_in_steps(store: &dyn Store) {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    merge(store, Some(0), 1, names.map(|id| present(id, 10, "1")).to_vec()).await;
    let (lease, run) = begin(store, RunMode::Full).await;
    ok(store.commit_page(page(lease, &run, 1, vec![present("d", 20, "1")])).await);
    let follow = vec![job(0)];
    let span = Some(Span { earliest: 30, latest: 40 });
    let end = |now| RunEnd { at_once: 2, follow: follow.clone(), span, now: Timestamp(now), ..done(lease, &run) };
    let step = ok(store.end_run(end(7)).await);
    same((step.state, step.counts.deleted, step.finished_at), (RunState::Running, 2, None), "two went, more are left");
    same((step.progressed_at, step.feed_to), (Timestamp(7), None), "it comes on");
    let found = status(store).await;
    same((found.records, found.full_at, found.fresh_at), (6, None, None), "the stream has not moved on");
    same(ok(store.job_counts().await).waiting, 0, "nothing follows yet");
    let late = Lease { fence: lease.fence + 1, ..lease };
    let refused = store.end_run(RunEnd { lease: late, ..end(8) }).await;
    same(refused.map_err(|error| error.kind()).err(), Some(ErrorKind::LeaseLost), "each step is under the lease");
    // Seen again by webhooks: the next in line is confirmed, and one behind it written.
    merge(store, None, 8, vec![present("c", 15, "1"), present("f", 15, "2")]).await;
    let missing = ok(store.unseen(run.id, None, 9).await);
    let missing: Vec<_> = missing.iter().map(|record| record.id.as_str()).collect();
    same(missing, vec!["e", "g", "h"], "what is left");
    let again = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(9)).await);
    same((again.id, again.counts.deleted), (run.id, 2), "taken up, with what it has deleted");
    let step = ok(store.end_run(end(10)).await);
    same((step.state, step.counts.deleted), (RunState::Running, 4), "two more");
    let ended = ok(store.end_run(end(11)).await);
    same((ended.state, ended.counts.deleted, ended.feed_to), (RunState::Done, 5, Some(14)), "all in all");
    let found = status(store).await;
    same((found.records, found.full_at, found.head), (3, Some(Timestamp(11)), 14), "the stream moved on");
    same(ok(store.job_counts().await).waiting, 1, "what follows was added once");
    let tail: Vec<_> = feed(store, 8).await.into_iter().map(|(seq, id, _)| (seq, id)).collect();
    let wanted = [(9, "a"), (10, "b"), (11, "f"), (12, "e"), (13, "g"), (14, "h")];
    same(tail, wanted.map(|(seq, id)| (seq, id.to_owned())).to_vec(), "in the order of the commits, and of their ids");
    let (counts, fetch) = merge(store, None, 12, vec![present("h", 9, "late"), present("g", 35, "between")]).await;
    same((counts.older, fetch), (1, 1), "each tombstone spans what the run read");
    let refused = store.end_run(end(13)).await;
    same(refused.map_err(|error| error.kind()).err(), Some(ErrorKind::LeaseLost), "it is over");

    // None left where a step took as many as it may.
    merge(store, Some(9), 14, vec![present("x", 50, "1")]).await;
    let lease = hold(store, sync(RunMode::Full), 15).await;
    let run = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(15)).await);
    for (deleted, state) in [
        (1, RunState::Running),
        (2, RunState::Running),
        (3, RunState::Running),
        (4, RunState::Running),
        (4, RunState::Done),
    ] {
        let step = ok(store.end_run(RunEnd { at_once: 0, ..done(lease, &run) }).await);
        same((step.counts.deleted, step.state), (deleted, state), "at least one at a time");
    }
}

/// Whether a full run's deletions are lawful is judged by all of them and all records, before the first; not by what is left
/// between two steps, and anew after a page.
///
/// Fails when each step is judged by itself, or when what a page has shown since then is not heeded.
pub async fn deletions_are_judged_before_the_first_of_them(store: &dyn Store) {
    let names: Vec<String> = (0..400).map(|n| format!("{n:03}")).collect();
    let some = |from: usize, to: usize, at: i64, state: State| -> Vec<Change> {
        names.iter().take(to).skip(from).map(|id| seen(id, at, state.clone())).collect()
    };
    let here = State::Present("1".into());
    merge(store, Some(0), 1, some(0, 400, 10, here.clone())).await;
    let (lease, run) = begin(store, RunMode::Full).await;
    ok(store.commit_page(page(lease, &run, 1, some(80, 400, 20, here.clone()))).await);
    let end = RunEnd { at_once: 10, ..done(lease, &run) };
    let step = ok(store.end_run(end.clone()).await);
    same((step.state, step.counts.deleted), (RunState::Running, 10), "80 of 400 are a fifth");
    merge(store, None, 6, some(300, 400, 30, State::Deleted)).await;
    let step = ok(store.end_run(end.clone()).await);
    same((step.state, step.counts.deleted), (RunState::Running, 20), "70 of 290 would be more");
    ok(store.commit_page(page(lease, &run, 4, some(80, 90, 40, here))).await);
    let ended = ok(store.end_run(end).await);
    same((ended.state, ended.counts.deleted), (RunState::Review { deletions: 60 }, 20), "60 of 280 are");
    same((status(store).await.records, status(store).await.full_at), (280, None), "no more are deleted");
}

/// Why a run waits is noted under its lease and forgotten by its next page; why it failed stays, and one that is done
/// has no cause.
pub async fn a_run_tells_why_it_waits_or_ended(store: &dyn Store) {
    let (lease, run) = begin(store, RunMode::Full).await;
    same((run.stop.clone(), run.feed_from, run.feed_to), (None, Some(0), None), "a new run");
    let late = Lease { fence: lease.fence + 1, ..lease };
    let refused = store.hold_run(late, run.id, Stop::Unsettled).await;
    same(refused.map_err(|error| error.kind()), Err(ErrorKind::LeaseLost), "a lost lease");
    let wait = Stop::RateLimited { until: Some(Timestamp(99)) };
    ok(store.hold_run(lease, run.id, wait.clone()).await);
    let stop = async || ok(store.run(run.id).await).and_then(|run| run.stop);
    same(stop().await, Some(wait), "why it waits");
    let mut next = page(lease, &run, 0, vec![present("a", 10, "1")]);
    next.total = Some(12);
    next.fetched = vec![FetchedRecord { read_since: 0, change: present("b", 10, "1") }];
    ok(store.commit_page(next).await);
    same(stop().await, None, "a page forgets it");
    let found = ok(store.run(run.id).await);
    let counts = found.as_ref().map(|run| (run.counts.added, run.counts.updated, run.total));
    same(counts, Some((2, 0, Some(12))), "what was fetched for the page counts with it");
    ok(store.commit_page(page(lease, &run, 1, vec![])).await);
    let state = RunState::Failed { kind: ErrorKind::Permission, reason: "no".to_owned() };
    let missing = Stop::ScopeMissing { scope: Some("s".to_owned()) };
    let ended = ok(store.end_run(RunEnd { state, stop: Some(missing.clone()), ..done(lease, &run) }).await);
    same((ended.stop, ended.total, ended.feed_to), (Some(missing), Some(12), Some(2)), "why it failed, and its feed");
    let lease = hold(store, sync(RunMode::Full), 8).await;
    let run = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(8)).await);
    same((run.began, run.feed_from), (1, Some(2)), "where it began");
    let ended = ok(store
        .end_run(RunEnd { stop: Some(Stop::Unsettled), deletions_approved: u64::MAX, ..done(lease, &run) })
        .await);
    same((ended.stop, ended.feed_to), (None, Some(4)), "one that is done has no cause");
    same(ok(store.run(RunId(77)).await), None, "no such run");
}

/// What a page could not read is set aside in its commit, under its name or what it is; a full run deletes none of it
/// as unseen, and nothing at all without a review when something has no name. It is forgotten when the record is read,
/// or no full run meets it any more.
pub async fn what_cannot_be_read_is_set_aside(store: &dyn Store) {
    let all = ["a", "b", "c"].map(|id| present(id, 10, "1")).to_vec();
    merge(store, Some(0), 1, all).await;
    let (lease, run) = begin(store, RunMode::Full).await;
    let mut broken = page(lease, &run, 1, vec![present("a", 20, "1")]);
    broken.bad = vec![BadRecord::new(Some("b"), b"{", "cut"), BadRecord::new(Some("new"), b"[]", "odd")];
    ok(store.commit_page(broken.clone()).await);
    ok(store.commit_page(PageCommit { read_since: 2, now: Timestamp(7), ..broken }).await);
    let aside = ok(store.bad_records(key(), 9).await);
    let told: Vec<_> = aside.iter().map(|one| (one.record.clone(), one.run, one.times, one.first_seen)).collect();
    let wanted = vec![
        (BadRecord::new(Some("b"), b"{", "cut"), run.id, 2, Timestamp(6)),
        (BadRecord::new(Some("new"), b"[]", "odd"), run.id, 2, Timestamp(6)),
    ];
    same(told, wanted, "by name, each once");
    same(ok(store.bad_records(key(), 1).await).len(), 1, "bounded");
    let unseen = |records: Vec<palisade_core::store::Record>| -> Vec<String> {
        records.into_iter().map(|record| record.id.to_string()).collect()
    };
    same(unseen(ok(store.unseen(run.id, None, 9).await)), vec!["c".to_owned()], "what its end deletes");
    let ended = ok(store.end_run(done(lease, &run)).await);
    same((ended.state, ended.counts.deleted, ended.bad), (RunState::Done, 1, 4), "not what was set aside");
    same((status(store).await.records, status(store).await.bad), (2, 2), "counted");
    merge(store, None, 8, vec![present("b", 30, "2")]).await;
    same(status(store).await.bad, 1, "what is read after all is forgotten");

    let lease = hold(store, sync(RunMode::Full), 9).await;
    let run = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(9)).await);
    let mut nameless = page(lease, &run, status(store).await.commits, vec![present("a", 40, "1")]);
    nameless.bad = vec![BadRecord::new(None, b"{}", "no id")];
    ok(store.commit_page(nameless).await);
    let ended = ok(store.end_run(done(lease, &run)).await);
    same(ended.state, RunState::Review { deletions: 1 }, "any of them may be the one without a name");
    same(unseen(ok(store.unseen(run.id, None, 9).await)), vec!["b".to_owned()], "what is to be reviewed");
    same(unseen(ok(store.unseen(run.id, Some("b".into()), 9).await)), vec![], "behind it");
    same(status(store).await.bad, 2, "nothing is forgotten by a run that is not done");
    same(ok(store.dismiss_run(run.id, "they stay".to_owned(), Timestamp(10)).await), true, "dismissed");
    same(ok(store.dismiss_run(run.id, "again".to_owned(), Timestamp(11)).await), false, "once");
    let dismissed = ok(store.run(run.id).await).map(|run| (kind(&run.state), run.stop, run.finished_at));
    same(dismissed, Some(("cancelled", Some(Stop::Superseded), Some(Timestamp(10)))), "it is over");
    let why = ok(store.run(run.id).await).map(|run| run.state);
    let said = RunState::Failed { kind: ErrorKind::Cancelled, reason: "they stay".to_owned() };
    same(why, Some(said), "for the reason that was given");

    let lease = hold(store, sync(RunMode::Full), 12).await;
    let run = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(12)).await);
    ok(store.end_run(RunEnd { deletions_approved: u64::MAX, ..done(lease, &run) }).await);
    same(status(store).await.bad, 0, "what no full run meets any more is forgotten");
}

/// What a run asks for again is what other runs set aside by its name, that first that was met longest ago; what is set
/// aside again is met now, and under the run's lease.
pub async fn what_was_asked_for_in_vain_waits_behind_the_others(store: &dyn Store) {
    let (lease, first) = begin(store, RunMode::Incremental).await;
    let mut broken = page(lease, &first, 0, Vec::new());
    let named = |name| BadRecord::new(Some(name), b"{", "cut");
    broken.bad = vec![named("b"), BadRecord::new(None, b"{}", "no id"), named("a"), named("c")];
    ok(store.commit_page(broken).await);
    let names = |list: Vec<palisade_core::store::StoredBad>| -> Vec<String> {
        list.into_iter().filter_map(|one| one.record.id).map(|id| id.to_string()).collect()
    };
    same(names(ok(store.bad_to_retry(key(), first.id, 9).await)), vec![], "it has met them itself");
    ok(store.end_run(done(lease, &first)).await);

    let lease = hold(store, sync(RunMode::Incremental), 8).await;
    let run = ok(store.start_run(lease, key(), RunMode::Incremental, Timestamp(8)).await);
    same(names(ok(store.bad_to_retry(key(), run.id, 2).await)), vec!["a".to_owned(), "b".to_owned()], "bounded");
    ok(store.set_aside(lease, run.id, vec![named("a")], Timestamp(9)).await);
    same(names(ok(store.bad_to_retry(key(), run.id, 9).await)), vec!["b".to_owned(), "c".to_owned()], "met by it now");
    let found = ok(store.bad_records(key(), 9).await);
    let last = found.last().map(|one| (one.record.clone(), one.run, one.times, one.last_seen));
    same(last, Some((named("a"), run.id, 2, Timestamp(9))), "behind the others, and counted");
    same((found.len(), status(store).await.bad), (4, 4), "each once");
    same(ok(store.end_run(done(lease, &run)).await).bad, 0, "its pages held none of them");
    let late = store.set_aside(lease, run.id, vec![named("b")], Timestamp(10)).await;
    same(late.map_err(|error| error.kind()), Err(ErrorKind::LeaseLost), "the run is over");
    let stranger = StreamKey { stream: "never".into(), ..key() };
    same(ok(store.bad_to_retry(stranger, RunId(99), 9).await).len(), 0, "of a stream never seen");
}

/// Of a stream as many records are kept set aside as there is room for, those met longest ago go first, and how many these
/// were is told until a full run is done; none goes that the run at hand has met.
///
/// Fails when they only grow in number, when the newest go, or when the count says that there were no more.
pub async fn what_is_set_aside_is_bounded(store: &dyn Store) {
    let half = 600;
    let named = |name: &str| BadRecord::new(Some(name), b"{", "cut");
    let some = |of: char| -> Vec<BadRecord> { (0..half).map(|n| named(&format!("{of}{n:03}"))).collect() };
    let counted = async || {
        let found = status(store).await;
        let kept = ok(store.bad_records(key(), 9_999).await);
        same(found.bad, kept.len() as u64, "the count is of those that are kept");
        (found.bad, found.bad_older, kept.first().and_then(|one| one.record.id.clone()).map(|id| id.to_string()))
    };
    let (lease, first) = begin(store, RunMode::Incremental).await;
    ok(store.commit_page(PageCommit { bad: some('a'), ..page(lease, &first, 0, vec![]) }).await);
    same(counted().await, (600, 0, Some("a000".to_owned())), "there is room");
    ok(store.end_run(done(lease, &first)).await);
    let lease = hold(store, sync(RunMode::Incremental), 8).await;
    let run = ok(store.start_run(lease, key(), RunMode::Incremental, Timestamp(8)).await);
    let next = |bad, now| PageCommit { bad, now: Timestamp(now), ..page(lease, &run, 0, vec![]) };
    ok(store.commit_page(next(some('b'), 8)).await);
    same(counted().await, (BAD_KEPT_MAX, 200, Some("a200".to_owned())), "those met longest ago went");
    ok(store.set_aside(lease, run.id, vec![named("a300"), named("b001")], Timestamp(9)).await);
    same(counted().await, (BAD_KEPT_MAX, 200, Some("a200".to_owned())), "met again, none is more");
    ok(store.commit_page(next(some('c'), 10)).await);
    same(counted().await, (1_201, 599, Some("b000".to_owned())), "none that the run has met");
    merge(store, None, 11, vec![present("c000", 30, "2")]).await;
    same(counted().await, (1_200, 599, Some("b000".to_owned())), "but one that can be read");
    ok(store.end_run(done(lease, &run)).await);

    let lease = hold(store, sync(RunMode::Full), 12).await;
    let full = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(12)).await);
    let last = PageCommit { bad: vec![named("d")], now: Timestamp(12), ..page(lease, &full, 1, vec![]) };
    ok(store.commit_page(last).await);
    same(counted().await, (BAD_KEPT_MAX, 800, Some("b202".to_owned())), "the next run's room: b001 was met later");
    ok(store.end_run(done(lease, &full)).await);
    same(
        counted().await,
        (1, 0, Some("d".to_owned())),
        "a full run forgets what it did not meet, also what was dropped",
    );
}

/// What was set aside and not met since a moment goes in steps, and with it that there were older ones; not what a run
/// has met that is under way or waits for a review: it would be taken for deleted.
///
/// Fails when the records of a stream that has no full runs stay for ever, or a run deletes what it has met.
pub async fn what_was_set_aside_long_ago_is_pruned(store: &dyn Store) {
    let counts = async || (status(store).await.bad, status(store).await.bad_older);
    let prune = async |before, limit| ok(store.prune_bad_records(Timestamp(before), limit).await);
    merge(store, Some(0), 1, ["a", "b"].map(|id| present(id, 10, "1")).to_vec()).await;
    let (lease, run) = begin(store, RunMode::Incremental).await;
    let many = (0..BAD_KEPT_MAX).map(|n| BadRecord::new(None, n.to_string().as_bytes(), "no id")).collect();
    ok(store.commit_page(PageCommit { bad: many, ..page(lease, &run, 1, vec![]) }).await);
    same((prune(99, 9).await, counts().await), (0, (BAD_KEPT_MAX, 0)), "its run is under way");
    ok(store.end_run(done(lease, &run)).await);

    let lease = hold(store, sync(RunMode::Full), 8).await;
    let run = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(8)).await);
    let bad = vec![BadRecord::new(Some("b"), b"{", "cut"), BadRecord::new(None, b"{", "cut")];
    ok(store.commit_page(PageCommit { bad, now: Timestamp(8), ..page(lease, &run, 1, vec![]) }).await);
    same(counts().await, (BAD_KEPT_MAX, 2), "two were dropped");
    same(
        (prune(6, 9).await, prune(7, 0).await, counts().await),
        (0, 0, (BAD_KEPT_MAX, 2)),
        "none is older, or none to go",
    );
    same((prune(7, 9).await, counts().await), (9, (BAD_KEPT_MAX - 9, 0)), "a step, and what was dropped is older");
    same((prune(99, 5_000).await, counts().await), (BAD_KEPT_MAX - 11, (2, 0)), "all but those of the run under way");
    same(ok(store.end_run(done(lease, &run)).await).state, RunState::Review { deletions: 1 }, "it asks");
    same((prune(99, 9).await, counts().await), (0, (2, 0)), "what is to be looked at stays as it is");
    same(ok(store.dismiss_run(run.id, "they stay".to_owned(), Timestamp(9)).await), true, "dismissed");
    same((prune(99, 9).await, counts().await), (2, (0, 0)), "nobody needs it any more");
}

/// A stream is paused and let go by name, also before it is known; a reset forgets its position and its unfinished run
/// and nothing else; records are erased in steps, in the order of their ids, and come back with the next read.
pub async fn a_stream_is_paused_and_reset(store: &dyn Store) {
    ok(store.pause_stream(key(), Some(Timestamp(3))).await);
    same(status(store).await.paused_at, Some(Timestamp(3)), "paused");
    ok(store.pause_stream(key(), None).await);
    same(status(store).await, StreamStatus::default(), "let go");
    let (lease, run) = begin(store, RunMode::Full).await;
    let all = ["c", "a", "b"].map(|id| present(id, 10, "1")).to_vec();
    ok(store.commit_page(page(lease, &run, 0, all.clone())).await);
    ok(store.end_run(RunEnd { resume: Some(Cursor::new("c")), ..done(lease, &run) }).await);
    let lease = hold(store, sync(RunMode::Full), 8).await;
    let run = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(8)).await);
    same(ok(store.reset_stream(key(), Timestamp(9)).await), true, "reset");
    let found = status(store).await;
    same((found.cursor, found.full_at, found.records, found.head), (None, None, 3, 3), "records and feed stay");
    let refused = store.commit_page(page(lease, &run, 1, vec![])).await;
    same(refused.map_err(|error| error.kind()), Err(ErrorKind::LeaseLost), "its run is over");
    let ended = ok(store.run(run.id).await).map(|run| (kind(&run.state), run.stop));
    same(ended, Some(("cancelled", Some(Stop::Superseded))), "and says so");
    same(ok(store.erase_records(key(), 2, Timestamp(10)).await), 2, "in steps");
    same(ok(store.erase_records(key(), 2, Timestamp(10)).await), 1, "until there is none");
    same(ok(store.erase_records(key(), 2, Timestamp(10)).await), 0, "left");
    let wanted: Vec<_> =
        [(4, "a"), (5, "b"), (6, "c")].map(|(seq, id)| (seq, id.to_owned(), ChangeKind::Deleted)).to_vec();
    same(feed(store, 3).await, wanted, "the feed tells each");
    let since = status(store).await.commits;
    let (counts, fetch) = merge(store, Some(since), 11, all).await;
    same((counts.added, fetch, status(store).await.records), (3, 0, 3), "a read that starts later brings them back");
    let stranger = StreamKey { stream: "nothing".into(), ..key() };
    same(ok(store.reset_stream(stranger.clone(), Timestamp(9)).await), false, "no such stream");
    same(ok(store.erase_records(stranger.clone(), 9, Timestamp(9)).await), 0, "nothing to erase");
    let facts = ok(store.stored(key(), vec!["a".into(), "never".into()]).await);
    let facts: Vec<_> =
        facts.into_iter().map(|fact| fact.map(|fact| (fact.span, fact.observed, fact.deleted))).collect();
    same(facts, vec![Some((Span::exact(10), since + 1, false)), None], "what the merge rule needs, in order");
    same(ok(store.stored(stranger, vec!["a".into()]).await), vec![None], "of a stream never seen");
}

/// Events a page brings that are new here and old enough to have come are kept with its run as missed, with when the
/// first and the last happened, but for types that never came; and so is what the page itself counts; the runs that found any are listed by connection.
pub async fn missed_events_are_kept_with_their_run(store: &dyn Store) {
    let at = |id: &str, created: Option<i64>| NewEvent { created: created.map(Timestamp), ..event(id) };
    ok(store.append(vec![delivery(5, vec![at("told", Some(100))])]).await);
    let (lease, run) = begin(store, RunMode::Incremental).await;
    let mut walk = page(lease, &run, 0, vec![]);
    let found =
        [at("told", Some(100)), at("e3", Some(300)), at("e2", Some(200)), at("young", Some(901)), at("e", None)];
    let unheard = NewEvent { kind: "never heard".to_owned(), ..at("e8", Some(50)) };
    walk.deliveries = vec![delivery(6, found.into_iter().chain([unheard]).collect())];
    walk.unheard = ["never heard".to_owned()].into();
    walk.missed_before = Timestamp(900);
    ok(store.commit_page(walk.clone()).await);
    walk.deliveries = vec![delivery(6, vec![at("e9", Some(900))])];
    // What the page says of itself counts beside them.
    walk.missed = Missed { count: 2, records: 2, from: Some(Timestamp(150)), to: Some(Timestamp(950)) };
    ok(store.commit_page(walk).await);
    ok(store.end_run(done(lease, &run)).await);
    let lease = hold(store, sync(RunMode::Incremental), 8).await;
    let other = ok(store.start_run(lease, key(), RunMode::Incremental, Timestamp(8)).await);
    ok(store.end_run(done(lease, &other)).await);
    let healed = ok(store.healings("acme".into(), 9).await);
    let told: Vec<_> = healed.iter().map(|run| (run.id, run.missed)).collect();
    let missed = Missed { count: 5, records: 2, from: Some(Timestamp(150)), to: Some(Timestamp(950)) };
    same(told, vec![(run.id, missed)], "what was missed");
    same(ok(store.healings("other".into(), 9).await).len(), 0, "of one connection");
    same(ok(store.healings("acme".into(), 0).await).len(), 0, "bounded");
}

/// Runs that ended before a moment are removed, those first that ended longest ago; the newest of each mode of a
/// stream, one that waits for a review and one under way stay. What was set aside stays too.
///
/// Fails when a stream forgets how its last run went, a review goes before anybody decided on it, or a run's number is
/// given twice.
pub async fn old_runs_are_removed_but_for_the_newest(store: &dyn Store) {
    let other = StreamKey { stream: "other".into(), ..key() };
    let ended = async |of: &StreamKey, mode: RunMode, at: i64| {
        let lease = hold(store, NewJob { work: Work::Sync { key: of.clone(), mode }, ..job(0) }, at).await;
        let run = ok(store.start_run(lease, of.clone(), mode, Timestamp(at)).await);
        ok(store.end_run(RunEnd { now: Timestamp(at), ..done(lease, &run) }).await).id
    };
    let left = async || ok(store.runs(None, 99).await).into_iter().rev().map(|run| run.id).collect::<Vec<_>>();
    // One that waits for a review: it saw none of many records, and set one aside.
    let many: Vec<_> = (0..51).map(|n| present(&format!("r{n}"), 1, "1")).collect();
    merge(store, Some(0), 1, many).await;
    let (lease, run) = begin(store, RunMode::Full).await;
    let aside = vec![BadRecord::new(Some("bad"), b"[]", "broken")];
    ok(store.commit_page(PageCommit { bad: aside, ..page(lease, &run, 1, vec![]) }).await);
    let review = ok(store.end_run(done(lease, &run)).await);
    same(review.state, RunState::Review { deletions: 51 }, "it waits");
    let review = review.id;
    // The clock went back between the first two.
    let second = ended(&key(), RunMode::Incremental, 40).await;
    let first = ended(&key(), RunMode::Incremental, 30).await;
    let newest = ended(&key(), RunMode::Incremental, 50).await;
    let alone = ended(&other, RunMode::Incremental, 20).await;
    let lease = hold(store, sync(RunMode::Full), 60).await;
    let under_way = ok(store.start_run(lease, key(), RunMode::Full, Timestamp(60)).await);
    let live = under_way.id;
    let found = async |filter: RunFilter, limit: u32| {
        ok(store.find_runs(filter, limit).await).into_iter().map(|run| run.id).collect::<Vec<_>>()
    };
    let in_state = |state| RunFilter { state: Some(state), ..RunFilter::default() };
    same(found(in_state(RunStateName::Review), 9).await, vec![review], "the oldest of them");
    same(found(in_state(RunStateName::Running), 9).await, vec![live], "under way");
    same(found(in_state(RunStateName::Failed), 9).await, vec![], "none failed");
    same(found(in_state(RunStateName::Done), 2).await, vec![alone, newest], "newest first, and no more");
    let before = RunFilter { before: Some(newest), ..in_state(RunStateName::Done) };
    same(found(before, 9).await, vec![first, second], "then the next");
    let of = RunFilter { connection: Some("acme".into()), stream: Some("other".into()), ..RunFilter::default() };
    same(found(of.clone(), 9).await, vec![alone], "of a stream");
    let none = RunFilter { connection: Some("beta".into()), ..of };
    same(found(none, 9).await, vec![], "of another connection");
    let all = vec![review, second, first, newest, alone, live];
    same((ok(store.prune_runs(Timestamp(30), 9).await), left().await), (0, all), "none is older");
    same(ok(store.prune_runs(Timestamp(99), 0).await), 0, "a step of none");
    let rest = vec![review, second, newest, alone, live];
    same((ok(store.prune_runs(Timestamp(99), 1).await), left().await), (1, rest), "longest ago first");
    let kept = vec![review, newest, alone, live];
    same((ok(store.prune_runs(Timestamp(99), 9).await), left().await), (1, kept.clone()), "then the next");
    same((ok(store.prune_runs(Timestamp(i64::MAX), 9).await), left().await), (0, kept), "what stays however old");
    same(ok(store.run(first).await), None, "one removed is as one never seen");
    // Decided on, the review may go. The one under way ends, and none has followed it.
    same(ok(store.dismiss_run(review, "they stay".to_owned(), Timestamp(70)).await), true, "dismissed");
    let failed = RunState::Failed { kind: ErrorKind::Provider, reason: "down".to_owned() };
    ok(store.end_run(RunEnd { state: failed, now: Timestamp(71), ..done(lease, &under_way) }).await);
    let kept = vec![newest, alone, live];
    same((ok(store.prune_runs(Timestamp(99), 9).await), left().await), (1, kept), "the review that was decided on");
    let aside = ok(store.bad_records(key(), 9).await);
    same(aside.iter().map(|bad| bad.run).collect::<Vec<_>>(), vec![review], "what it set aside stays");
    let next = ended(&key(), RunMode::Full, 80).await;
    same(next > live, true, "no number comes again");
}

/// What waits for a review or is under way is over when its account is disconnected: nobody follows the stream, an approval
/// would begin no run, and no job takes the other up.
pub async fn a_disconnect_ends_the_runs_of_its_connection(store: &dyn Store) {
    for id in ["acme", "beta"] {
        ok(store.put_connection(super::grants::connection(id)).await);
    }
    let (mut reviews, mut live) = (Vec::new(), Vec::new());
    for connection in ["acme", "beta"] {
        let of = StreamKey { connection: connection.into(), ..key() };
        let changes = (0..51).map(|n| present(&format!("r{n}"), 1, "1")).collect();
        ok(store.merge(vec![Merge { key: of.clone(), read_since: Some(0), changes }], Timestamp(1)).await);
        let work = Work::Sync { key: of.clone(), mode: RunMode::Full };
        let lease = hold(store, NewJob { work, ..job(0) }, 2).await;
        let run = ok(store.start_run(lease, of, RunMode::Full, Timestamp(2)).await);
        let run = ok(store.end_run(done(lease, &run)).await);
        same(run.state, RunState::Review { deletions: 51 }, "it waits");
        reviews.push(run.id);
        let of = StreamKey { connection: connection.into(), stream: "events".into() };
        let work = Work::Sync { key: of.clone(), mode: RunMode::Incremental };
        let lease = hold(store, NewJob { work, ..job(0) }, 3).await;
        live.push((lease, ok(store.start_run(lease, of, RunMode::Incremental, Timestamp(3)).await)));
    }
    same(ok(store.disconnect("acme".into(), Vec::new(), Timestamp(9)).await), true, "disconnected");
    let filter = RunFilter { state: Some(RunStateName::Review), ..RunFilter::default() };
    let waits = ok(store.find_runs(filter, 9).await).into_iter().map(|run| run.id).collect::<Vec<_>>();
    same(waits, reviews.iter().skip(1).copied().collect(), "the other's waits");
    let others = ok(store.live_runs(9).await).into_iter().map(|run| run.key.connection).collect::<Vec<_>>();
    same(others, vec!["beta".into()], "the other's is under way");
    let (Some(review), Some((lease, run))) = (reviews.first(), live.first()) else { panic!("they were noted") };
    let why = RunState::Failed { kind: ErrorKind::Cancelled, reason: ACCOUNT_DISCONNECTED.to_owned() };
    for over in [*review, run.id] {
        let over = ok(store.run(over).await).map(|run| (run.state, run.stop, run.finished_at));
        same(over, Some((why.clone(), Some(Stop::Superseded), Some(Timestamp(9)))), "this one is over");
    }
    let late = store.end_run(done(*lease, run)).await.map_err(|error| error.kind());
    same(late.err(), Some(ErrorKind::LeaseLost), "and is ended by nobody else");
}

/// An event of a record that is not stored, from before tombstones may be forgotten, is asked for; what is younger, and what a
/// read shows, is taken as it is.
pub async fn an_old_event_of_an_unknown_record_is_fetched(store: &dyn Store) {
    const DAY: i64 = 86_400_000;
    let now = 30 * DAY;
    let young = MergeCounts { added: 1, ..MergeCounts::default() };
    let old = merge(store, None, now, vec![present("old", 23 * DAY, "1")]).await;
    same(old, (MergeCounts::default(), 1), "its tombstone may be gone");
    same(
        merge(store, None, now, vec![present("young", 25 * DAY, "1")]).await,
        (young, 0),
        "its tombstone would be there",
    );
    same(merge(store, Some(9), now, vec![present("old", 23 * DAY, "1")]).await, (young, 0), "a read tells what is");
    let known = merge(store, None, now, vec![present("old", 22 * DAY, "2")]).await;
    same(known, (MergeCounts { older: 1, ..MergeCounts::default() }, 0), "what is stored is newer");
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

/// A page of the feed tells head and horizon of its own snapshot; a whole reading is one snapshot in pages, whatever is
/// committed while it lasts.
///
/// Fails when a whole reading sees what was committed after it began.
pub async fn a_whole_reading_of_the_feed_is_one_snapshot(store: &dyn Store) {
    same(ok(store.feed(key(), 0, 5).await), FeedPage::default(), "a stream never seen");
    let pages: Vec<_> = store.scan(key(), 5).collect().await;
    same(pages.into_iter().map(ok).collect::<Vec<_>>(), vec![FeedPage::default()], "has one empty page");
    let names: Vec<String> = (0..7).map(|n| format!("r{n}")).collect();
    let all = |at: i64, data: &'static str| -> Vec<Change> {
        names.iter().map(|id| seen(id, at, State::Present(Bytes::from_static(data.as_bytes())))).collect()
    };
    merge(store, Some(0), 1, all(10, "1")).await;
    let page = ok(store.feed(key(), 2, 3).await);
    same((page.entries.len(), page.head, page.horizon, page.more), (3, 7, 0, true), "a page");
    same(page.entries, ok(store.changes(key(), 2, 3).await), "of the same changes");
    same(ok(store.feed(key(), 2, 5).await).more, false, "the last page");
    same(ok(store.feed(key(), u64::MAX, 5).await).head, 7, "behind the end");

    let mut pages = store.scan(key(), 3);
    let first = pages.next().await.map(ok).unwrap_or_default();
    merge(store, Some(1), 2, all(11, "2")).await;
    same(status(store).await.head, 14, "committed while it lasts");
    let mut read: Vec<(u64, Option<Bytes>)> = Vec::new();
    let mut page = Some(first);
    while let Some(FeedPage { entries, head, more, .. }) = page {
        same((entries.len() <= 3, head, more), (true, 7, read.len() + entries.len() < 7), "a page of the snapshot");
        read.extend(entries.into_iter().map(|entry| (entry.record.seq, entry.record.data)));
        page = pages.next().await.map(ok);
    }
    let wanted: Vec<_> = (1..=7).map(|seq| (seq, Some(Bytes::from_static(b"1")))).collect();
    same(read, wanted, "every record as it was at the beginning");
    drop(store.scan(key(), 1).next().await);
    same(ok(store.feed(key(), 7, 9).await).entries.len(), 7, "one that was given up holds nobody back");
}

/// Old tombstones are removed in steps, the oldest first, and each step raises the horizon of its stream: whoever
/// stands below it is not told of a deletion. Young ones and live records stay.
///
/// Fails when the horizon stays below a tombstone that was removed, or a live record goes.
pub async fn old_tombstones_are_removed_and_leave_a_horizon(store: &dyn Store) {
    let live = ["a", "b", "c", "d"].map(|id| present(id, 10, "1"));
    merge(store, Some(0), 1, live.to_vec()).await;
    for (at, id) in [(5, "b"), (6, "a"), (20, "c")] {
        merge(store, None, at, vec![seen(id, at + 10, State::Deleted)]).await;
    }
    let horizon = async || ok(store.feed(key(), 0, 9).await).horizon;
    same(ok(store.compact_feed(Timestamp(5), 9).await), 0, "none is older");
    same((ok(store.compact_feed(Timestamp(20), 0).await), horizon().await), (0, 0), "a step of none");
    same((ok(store.compact_feed(Timestamp(20), 1).await), horizon().await), (1, 5), "the oldest first");
    same((ok(store.compact_feed(Timestamp(20), 9).await), horizon().await), (1, 6), "then the next");
    same((ok(store.compact_feed(Timestamp(20), 9).await), horizon().await), (0, 6), "a young one stays");
    let wanted = vec![(4, "d".to_owned(), ChangeKind::Added), (7, "c".to_owned(), ChangeKind::Deleted)];
    same(feed(store, 0).await, wanted, "the feed");
    let found = status(store).await;
    same((found.head, found.records), (7, 1), "head and live records are as they were");
    same(ok(store.record(key(), "a".into()).await), None, "one removed is as one never seen");
    let (counts, _) = merge(store, None, 30, vec![present("a", 30, "back")]).await;
    same((counts.added, feed(store, 7).await.len()), (1, 1), "and may come again");
    let other = StreamKey { stream: "other".into(), ..key() };
    same(ok(store.feed(other, 0, 9).await).horizon, 0, "another stream's horizon is its own");
}

/// Whoever waits for a stream's next change is woken by each way it may be committed, and not before.
pub async fn whoever_waits_for_a_change_is_woken(store: Arc<dyn Store>) {
    let wait = |after: u64| {
        let store = store.clone();
        let mut waiting = Box::pin(async move { store.wait_for_change(key(), after).await });
        async move {
            let soon = tokio::time::timeout(std::time::Duration::from_millis(50), &mut waiting).await.is_ok();
            (soon, waiting)
        }
    };
    let (woken, waiting) = wait(0).await;
    same(woken, false, "nothing to be woken for");
    merge(&*store, Some(0), 1, vec![present("a", 10, "1")]).await;
    waiting.await;
    same(wait(0).await.0, true, "what is there already is told at once");

    let (_, waiting) = wait(1).await;
    let lease = hold(&*store, job(0), 0).await;
    let merges = vec![Merge { key: key(), read_since: None, changes: vec![present("a", 11, "2")] }];
    settle_done(&*store, Settlement { merges, ..settlement(lease, JobEnd::Done, 3) }).await;
    waiting.await;
    let (_, waiting) = wait(2).await;
    let (lease, run) = begin(&*store, RunMode::Full).await;
    ok(store.commit_page(page(lease, &run, 2, vec![present("b", 12, "1")])).await);
    waiting.await;
    let (_, waiting) = wait(3).await;
    ok(store.end_run(done(lease, &run)).await);
    waiting.await;
    same(status(&*store).await.head, 4, "by a merge, a settlement, a page and a run's end");
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

//! Several processes on one file.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use bytes::Bytes;
use palisade_core::Timestamp;
use palisade_core::store::{
    Appended, Claim, Claimed, EventRow, Inbox, JobEnd, Jobs, NewJob, Queue, Records as _, Room, RunMode, Settled,
    Settlement, StreamKey, Work,
};
use palisade_core::sync::Cursor;
use palisade_store::SqliteStore;

use crate::child;
use crate::subject::{delivery, job, open};

/// Fails when a claim's transaction begins without the write lock (`BEGIN` for `BEGIN IMMEDIATE`).
#[tokio::test]
async fn two_processes_never_hold_the_same_job() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.db");
    let store = open(&path);
    store.enqueue((0..300).map(|_| job()).collect()).await.unwrap();
    let mut workers = [child::start("claim", &path, ""), child::start("claim", &path, "")];
    let mut given = Vec::new();
    for worker in &mut workers {
        let lines = BufReader::new(worker.stdout.take().unwrap()).lines();
        given.extend(lines.map_while(Result::ok).filter_map(|line| child::number(&line)));
        assert!(worker.wait().unwrap().success());
    }
    let distinct: BTreeSet<i64> = given.iter().copied().collect();
    assert_eq!((given.len(), distinct.len()), (300, 300), "each job was given once");
    let counts = store.job_counts().await.unwrap();
    assert_eq!((counts.waiting, counts.running), (0, 300), "the counters saw the other processes");
    store.close().await.unwrap();
}

async fn claim(store: &SqliteStore, now: i64) -> Vec<Claimed> {
    let claim = Claim {
        now: Timestamp(now),
        hold: Duration::from_secs(1),
        max: 9,
        queue: Queue::Background,
        room: Room::default(),
    };
    store.claim(claim).await.unwrap()
}

/// Reads a child's numbers up to one that ends them.
fn numbers(lines: &mut impl Iterator<Item = std::io::Result<String>>, count: usize) -> Vec<i64> {
    lines.map_while(Result::ok).filter_map(|line| child::number(&line)).take(count).collect()
}

/// Workers that are stopped (SIGSTOP) while they hold jobs and wake after their leases, while somebody else holds the
/// same jobs and is in the middle of their runs: whatever they do then is refused, and each job is done once.
///
/// Fails when the fence is left out of the condition of an extension, of a page's commit, or of a settlement: nothing
/// else tells the two holders apart, since the jobs are held and the runs go on.
#[cfg(unix)]
async fn stopped_workers_are_refused_when_they_wake(workers: usize) {
    use rustix::process::{Pid, Signal, kill_process};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.db");
    let store = open(&path);
    let effect = |sql: &str| palisade_core::store::Effect { sql: sql.to_owned(), values: Vec::new() };
    store.execute(effect("CREATE TABLE done (job INTEGER, by TEXT)")).await.unwrap();
    let stopped = workers - 1;
    let jobs = 3 * stopped;
    store.enqueue((0..jobs).map(|number| if number % 2 == 0 { sync(number) } else { job() }).collect()).await.unwrap();
    let mut children = Vec::new();
    for _ in 0..stopped {
        let mut child = child::start("stall", &path, "");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let held = numbers(&mut lines, 4);
        assert_eq!((held.len(), held.last()), (4, Some(&-1)), "it holds three jobs");
        let id = Pid::from_child(&child);
        kill_process(id, Signal::STOP).unwrap();
        children.push((child, lines, id));
    }
    assert!(claim(&store, 999).await.is_empty(), "all are held");
    let mut taken = Vec::new();
    while let claimed = claim(&store, 1_000).await
        && !claimed.is_empty()
    {
        taken.extend(claimed);
    }
    assert_eq!(taken.len(), jobs, "their leases have run out");
    for one in &taken {
        if let Some(run) = child::begin(&store, one).await {
            assert_eq!((run.pages, run.resumed), (1, 1), "it goes on where the stopped one was");
            store.commit_page(child::page(one.lease, &run, "parent")).await.unwrap();
        }
    }
    for (mut child, mut lines, id) in children {
        drop(child.stdin.take());
        kill_process(id, Signal::CONT).unwrap();
        assert_eq!(numbers(&mut lines, 3), [0, 0, 0], "what comes late is refused");
        // To its end, so that it is not cut off while it prints.
        lines.for_each(drop);
        assert!(child.wait().unwrap().success());
    }
    let runs = store.runs(None, 100).await.unwrap();
    assert_eq!(runs.len(), jobs.div_ceil(2));
    for run in runs {
        assert_eq!((run.pages, run.cursor), (2, Some(Cursor::new("parent"))), "nobody moved what another reads");
    }
    assert!(claim(&store, 1_999).await.is_empty(), "nobody let go of what another holds");
    let settlements = taken.into_iter().map(|one| child::done(one.lease, "parent")).collect();
    let settled = store.settle(settlements).await.unwrap();
    assert!(settled.iter().all(|one| matches!(one, Settled::Committed(_))), "{settled:?}");
    let rows = store.query("SELECT count(*), count(DISTINCT job), min(by) FROM done", Vec::new()).await.unwrap();
    let all = i64::try_from(jobs).unwrap();
    assert_eq!(rows, [vec![all.into(), all.into(), "parent".into()]], "each effect happened once");
    store.close().await.unwrap();
}

/// A job of a run of a stream of its own.
#[cfg(unix)]
fn sync(number: usize) -> NewJob {
    let key = StreamKey { connection: "acme".into(), stream: format!("stream-{number}").into() };
    NewJob { work: Work::Sync { key, mode: RunMode::Full }, ..job() }
}

#[cfg(unix)]
#[tokio::test]
async fn of_two_workers_one_that_was_stopped_is_refused_when_it_wakes() {
    stopped_workers_are_refused_when_they_wake(2).await;
}

#[cfg(unix)]
#[tokio::test]
async fn of_eight_workers_seven_that_were_stopped_are_refused_when_they_wake() {
    stopped_workers_are_refused_when_they_wake(8).await;
}

/// Processes that append and one that claims: turns hold across them, also in a new process.
///
/// Fails when a process forgets at its start who stands in line.
#[tokio::test]
async fn turns_are_taken_across_processes_and_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.db");
    let of = |connection: &str, ids: std::ops::Range<u32>| {
        let one = |n: u32| palisade_core::store::NewDelivery {
            connection: connection.into(),
            ..delivery(&format!("{connection} {n}"), Bytes::new())
        };
        ids.map(one).collect::<Vec<_>>()
    };
    let first = open(&path);
    first.append(of("many", 0..50)).await.unwrap();
    first.close().await.unwrap();
    let (one, two) = (open(&path), open(&path));
    one.append(of("many", 50..60)).await.unwrap();
    two.append(of("few", 0..2)).await.unwrap();
    two.append(of("many", 60..61)).await.unwrap();
    let claim = |max: u32| Claim {
        now: Timestamp(0),
        hold: Duration::from_secs(60),
        max,
        queue: Queue::Events,
        room: Room::default(),
    };
    let rows = async |store: &SqliteStore, max: u32| {
        let claimed = store.claim(claim(max)).await.unwrap();
        let row = |work: &Work| {
            let Work::Event { row } = work else { panic!("{work:?}") };
            row.0
        };
        claimed.iter().map(|one| row(&one.work)).collect::<Vec<_>>()
    };
    assert_eq!(rows(&one, 4).await, [1, 61, 2, 62], "one of each in turn");
    assert_eq!(rows(&two, 99).await, (3..=60).chain([63]).collect::<Vec<_>>(), "the last came last");
    one.append(of("late", 0..1)).await.unwrap();
    one.append(of("many", 70..72)).await.unwrap();
    assert_eq!(rows(&two, 99).await, [64, 65, 66], "nobody has credit");
    one.close().await.unwrap();
    two.close().await.unwrap();
}

#[tokio::test]
async fn what_one_process_commits_the_other_sees_and_the_late_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.db");
    let (one, two) = (open(&path), open(&path));
    one.enqueue(vec![job()]).await.unwrap();
    let first = claim(&two, 0).await;
    assert_eq!(first.len(), 1, "a job of the other process");
    assert!(claim(&one, 999).await.is_empty(), "held by the other process");
    let second = claim(&one, 1_000).await;
    let settle = |lease| Settlement {
        lease,
        end: JobEnd::Done,
        now: Timestamp(1_001),
        effects: Vec::new(),
        merges: Vec::new(),
        follow: Vec::new(),
        outbox: Default::default(),
    };
    assert_eq!(two.settle(vec![settle(first[0].lease)]).await.unwrap(), [Settled::LeaseLost]);
    assert!(matches!(one.settle(vec![settle(second[0].lease)]).await.unwrap()[..], [Settled::Committed(_)]));

    for number in 0..20 {
        let (new, other) = if number % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let id = number.to_string();
        let row = EventRow(number + 1);
        let appended = new.append(vec![delivery(&id, Bytes::new())]).await.unwrap();
        assert_eq!(appended, [[Appended::New(row)]], "numbers go on across processes");
        assert!(other.event(row).await.unwrap().is_some(), "read at once");
        let again = other.append(vec![delivery(&id, Bytes::new())]).await.unwrap();
        assert_eq!(again, [[Appended::Duplicate(row)]], "deduplicated across processes");
    }
    one.close().await.unwrap();
    two.append(vec![delivery("after", Bytes::new())]).await.expect("one closing does not disturb the other");
    two.close().await.unwrap();
}

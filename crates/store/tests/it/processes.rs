//! Several processes on one file.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use bytes::Bytes;
use palisade_core::Timestamp;
use palisade_core::store::{Appended, Claim, EventRow, Inbox, JobEnd, Jobs, Queue, Settled, Settlement};
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

async fn claim(store: &SqliteStore, now: i64) -> Vec<palisade_core::store::Lease> {
    let claim = Claim { now: Timestamp(now), hold: Duration::from_secs(1), max: 9, queue: Queue::Background };
    store.claim(claim).await.unwrap().iter().map(|one| one.lease).collect()
}

#[tokio::test]
async fn what_one_process_commits_the_other_sees_and_the_late_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.db");
    let (one, two) = (open(&path), open(&path));
    one.enqueue(vec![job()]).await.unwrap();
    let first = claim(&two, 0).await;
    assert_eq!(first.len(), 1, "a job of the other process");
    assert_eq!(claim(&one, 999).await, [], "held by the other process");
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
    assert_eq!(two.settle(vec![settle(first[0])]).await.unwrap(), [Settled::LeaseLost]);
    assert!(matches!(one.settle(vec![settle(second[0])]).await.unwrap()[..], [Settled::Committed(_)]));

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

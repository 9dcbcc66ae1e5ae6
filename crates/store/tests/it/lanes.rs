//! What the store knows of lanes: in mind for the newest jobs, in a table for older ones that are not finished.
//! (In a debug build 16 jobs are kept in mind.)

use std::path::Path;
use std::time::Duration;

use palisade_core::Timestamp;
use palisade_core::store::{Claim, Claimed, JobEnd, JobId, Jobs, NewJob, Queue, Room, Settlement};
use palisade_store::SqliteStore;

use crate::subject::{job, open};

fn of(lane: impl Into<String>) -> NewJob {
    NewJob { lane: Some(lane.into()), ..job() }
}

async fn claim(store: &SqliteStore) -> Vec<Claimed> {
    let claim = Claim {
        now: Timestamp(1_000),
        hold: Duration::from_secs(60),
        max: 100,
        queue: Queue::Background,
        room: Room::default(),
    };
    store.claim(claim).await.unwrap()
}

async fn end(store: &SqliteStore, claimed: &[Claimed], how: impl Fn() -> JobEnd) {
    let settle = |one: &Claimed| Settlement {
        lease: one.lease,
        end: how(),
        now: Timestamp(1_000),
        effects: Vec::new(),
        merges: Vec::new(),
        follow: Vec::new(),
        outbox: Default::default(),
    };
    store.settle(claimed.iter().map(settle).collect()).await.unwrap();
}

fn ids(claimed: &[Claimed]) -> Vec<JobId> {
    claimed.iter().map(|one| one.lease.job).collect()
}

/// Counts the jobs in the table, and those the tally says are there.
fn entered(path: &Path) -> (i64, i64) {
    let reader = rusqlite::Connection::open(path).unwrap();
    let sql = "SELECT (SELECT count(*) FROM palisade_lane), lane_jobs FROM palisade_tally";
    reader.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

/// Fails when jobs are entered that are finished by then, or when one that waits long keeps all later ones in mind.
#[tokio::test]
async fn only_jobs_that_stay_are_entered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lanes.db");
    let store = open(&path);
    let later = NewJob { run_at: Timestamp(9_000), ..of("later") };
    let stays = store.enqueue(vec![later]).await.unwrap();
    for round in 0..20 {
        let added = store.enqueue((0..5).map(|n| of(format!("{round}/{n}"))).collect()).await.unwrap();
        let claimed = claim(&store).await;
        assert_eq!(ids(&claimed), added);
        end(&store, &claimed, || JobEnd::Done).await;
    }
    assert_eq!(entered(&path), (1, 1), "the one that waits");
    let last = Claim {
        now: Timestamp(9_000),
        hold: Duration::from_secs(60),
        max: 9,
        queue: Queue::Background,
        room: Room::default(),
    };
    let claimed = store.claim(last).await.unwrap();
    assert_eq!(ids(&claimed), stays);
    end(&store, &claimed, || JobEnd::Done).await;
    assert_eq!(entered(&path), (0, 0));
    store.close().await.unwrap();
}

/// Fails when a lane is forgotten where it goes from mind to the table, by a new process, by another process on the file,
/// or by a transaction that is rolled back.
#[tokio::test]
async fn a_lane_holds_over_the_table_a_restart_and_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lanes.db");
    let first = open(&path);
    let others = |from: usize| (from..from + 20).map(|n| of(n.to_string()));
    let one = [of("a")].into_iter().chain(others(0)).chain([of("a"), of("b")]).collect();
    let one = first.enqueue(one).await.unwrap();
    assert!(entered(&path).0 > 0, "older than what is kept in mind");
    first.close().await.unwrap();

    let (second, third) = (open(&path), open(&path));
    let two = second.enqueue(vec![of("a"), of("b")]).await.unwrap();
    // There is no room for the last of these: all of them are rolled back.
    second.set_size_max(Some(1)).await.unwrap();
    let large = NewJob { unique: Some("x".repeat(200_000)), ..of("large") };
    second.enqueue(vec![of("b"), of("c"), large]).await.unwrap_err();
    second.set_size_max(None).await.unwrap();
    let three = third.enqueue([of("c"), of("b")].into_iter().chain(others(100)).collect()).await.unwrap();
    assert_eq!(three[0], JobId(two[1].0 + 1), "what was rolled back has left no number");

    // Of every lane the lowest: neither the second a nor any later b.
    let lowest: Vec<JobId> = [&one[..21], &one[22..], &three[..1], &three[2..]].concat();
    let claimed = claim(&third).await;
    assert_eq!(ids(&claimed), lowest);
    assert_eq!(ids(&claim(&second).await), [], "the other process holds them all");
    end(&third, &claimed[..1], || JobEnd::Done).await;
    assert_eq!(ids(&claim(&second).await), [one[21]], "the next of the lane whose lowest is done");
    second.close().await.unwrap();
    third.close().await.unwrap();
}

//! The laws a worker leans on most. All of them are in the suite that every store passes.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::store::{EVENT_ATTEMPTS_MAX, JobEnd, NewEvent, Room, RunState, Work};
use crate::sync::{Change, Span, State};

const HOLD: Duration = Duration::from_secs(60);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn key() -> StreamKey {
    StreamKey { connection: "conn".into(), stream: "things".into() }
}

fn sync(lane: Option<&str>, run_at: Timestamp, attempts_max: u32) -> NewJob {
    let work = Work::Sync { key: key(), mode: RunMode::Full };
    NewJob {
        work,
        lane: lane.map(str::to_owned),
        group: None,
        tenant: None,
        unique: None,
        priority: 0,
        run_at,
        attempts_max,
    }
}

async fn claim(store: &MemoryStore, now: Timestamp) -> Vec<Claimed> {
    store.claim(Claim { now, hold: HOLD, max: 10, queue: Queue::Background, room: Room::default() }).await.unwrap()
}

async fn settle(store: &MemoryStore, lease: Lease, end: JobEnd, now: Timestamp) -> Settled {
    let settlement = Settlement {
        lease,
        end,
        now,
        effects: Vec::new(),
        merges: Vec::new(),
        follow: Vec::new(),
        outbox: Default::default(),
    };
    store.settle(vec![settlement]).await.unwrap().remove(0)
}

/// Fails when a write asks only whether the job is held, not whether it is held under this fence.
#[tokio::test]
async fn a_stale_lease_writes_nothing_while_another_holds_the_job() {
    let store = MemoryStore::new();
    store.enqueue(vec![sync(None, at(0), 5)]).await.unwrap();
    let stale = claim(&store, at(0)).await.remove(0).lease;
    let run = store.start_run(stale, key(), RunMode::Full, at(1)).await.unwrap();
    let held = claim(&store, at(60)).await.remove(0).lease;
    assert_eq!((held.job, held.fence), (stale.job, stale.fence + 1));
    let change = Change {
        stream: "things".into(),
        id: "t1".into(),
        span: Span::second(at(0)),
        state: State::Present(Bytes::from_static(b"{}")),
    };
    let page = |lease| PageCommit {
        lease,
        run: run.id,
        read_since: 0,
        changes: vec![change.clone()],
        deliveries: Vec::new(),
        missed: Default::default(),
        missed_before: at(0),
        unheard: Default::default(),
        endpoints: Vec::new(),
        bad: Vec::new(),
        fetched: Vec::new(),
        total: None,
        next: None,
        now: at(61),
    };
    let end = |lease| RunEnd {
        lease,
        run: run.id,
        state: RunState::Done,
        stop: None,
        span: None,
        follow: vec![sync(None, at(0), 1)],
        resume: None,
        deletions_approved: u64::MAX,
        at_once: 500,
        now: at(62),
    };
    let lost = ErrorKind::LeaseLost;
    assert_eq!(store.start_run(stale, key(), RunMode::Full, at(61)).await.unwrap_err().kind(), lost);
    assert_eq!(store.commit_page(page(stale)).await.unwrap_err().kind(), lost);
    assert_eq!(store.end_run(end(stale)).await.unwrap_err().kind(), lost);
    assert_eq!(settle(&store, stale, JobEnd::Done, at(61)).await, Settled::LeaseLost);
    assert_eq!(store.extend(vec![stale, held], at(200)).await.unwrap(), [false, true]);
    assert_eq!(store.stream(key()).await.unwrap().commits, 0);
    assert_eq!(store.commit_page(page(held)).await.unwrap().counts.added, 1);
    assert_eq!(store.end_run(end(held)).await.unwrap().state, RunState::Done);
    assert_eq!(store.job_counts().await.unwrap(), JobCounts { waiting: 1, running: 0, dead: 0 });
    assert_eq!(settle(&store, held, JobEnd::Done, at(63)).await, Settled::LeaseLost, "the run's end ended it");
}

/// Fails when a worker that dies over and over is given the job for ever.
#[tokio::test]
async fn a_job_whose_attempts_are_used_up_is_dead_and_its_run_failed() {
    let store = MemoryStore::new();
    store.enqueue(vec![sync(None, at(0), 2)]).await.unwrap();
    let first = claim(&store, at(0)).await.remove(0);
    store.start_run(first.lease, key(), RunMode::Full, at(0)).await.unwrap();
    assert_eq!(claim(&store, at(60)).await.remove(0).attempt, 2);
    assert_eq!(claim(&store, at(119)).await.len(), 0);
    assert_eq!(claim(&store, at(120)).await.len(), 0);
    assert_eq!(store.job_counts().await.unwrap(), JobCounts { waiting: 0, running: 0, dead: 1 });
    let run = store.runs(None, 1).await.unwrap().remove(0);
    let reason = super::super::WORKER_LOST.to_owned();
    assert_eq!(run.state, RunState::Failed { kind: ErrorKind::Cancelled, reason });
}

/// Fails when a schedule blocks its lane, or a repeat does not.
#[tokio::test]
async fn a_lane_is_blocked_by_what_runs_or_comes_again_and_not_by_what_is_scheduled() {
    let store = MemoryStore::new();
    let lane = Some("lane");
    store.enqueue(vec![sync(lane, at(1_000), 5), sync(lane, at(0), 5), sync(lane, at(0), 5)]).await.unwrap();
    let second = claim(&store, at(0)).await;
    assert_eq!(second.iter().map(|one| one.lease.job.0).collect::<Vec<_>>(), [2], "one of a lane at a time");
    assert_eq!(claim(&store, at(1)).await.len(), 0);
    let again = JobEnd::Retry { at: at(500), reason: "busy".to_owned() };
    settle(&store, second[0].lease, again, at(2)).await;
    assert_eq!(claim(&store, at(400)).await.len(), 0, "the third waits for the second's next attempt");
    let second = claim(&store, at(500)).await.remove(0).lease;
    assert_eq!(second.job.0, 2);
    settle(&store, second, JobEnd::Done, at(501)).await;
    assert_eq!(claim(&store, at(1_000)).await.remove(0).lease.job.0, 1, "due now, and the lowest number");
    assert_eq!(claim(&store, at(1_000)).await.len(), 0, "also one with a higher number is held up");
}

#[tokio::test]
async fn an_event_has_a_job_of_its_own_and_follows_it() {
    let store = MemoryStore::new();
    let event = NewEvent {
        id: "evt_1".into(),
        kind: "thing.updated".to_owned(),
        subscription: None,
        account: None,
        created: None,
        ordering_key: None,
        payload: None,
        wanted: true,
        priority: 0,
    };
    let delivery = NewDelivery {
        endpoint: "main".into(),
        connection: "conn".into(),
        provider: "fake".to_owned(),
        received_at: at(5),
        headers: Vec::new(),
        body: Bytes::from_static(b"{}"),
        events: vec![event.clone(), event],
    };
    let appended = store.append(vec![delivery.clone(), delivery]).await.unwrap();
    let row = EventRow(1);
    assert_eq!(appended[0], [Appended::New(row), Appended::Duplicate(row)]);
    assert_eq!(appended[1], [Appended::Duplicate(row), Appended::Duplicate(row)]);
    let claimed = store
        .claim(Claim { now: at(5), hold: HOLD, max: 9, queue: Queue::Events, room: Room::default() })
        .await
        .unwrap()
        .remove(0);
    assert_eq!((claimed.attempt, claimed.attempts_max), (1, EVENT_ATTEMPTS_MAX));
    settle(&store, claimed.lease, JobEnd::Dead { reason: "no".to_owned() }, at(6)).await;
    let stored = store.event(row).await.unwrap().unwrap();
    assert_eq!((stored.state, stored.reason.as_deref()), (EventState::Dead, Some("no")));
    assert_eq!(stored.event.payload, "{}");
    assert!(store.replay(row, at(7)).await.unwrap());
    assert!(!store.replay(row, at(7)).await.unwrap(), "it waits already");
}

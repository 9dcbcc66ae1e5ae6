//! Promises of the job table.

use std::sync::Arc;
use std::time::Duration;

use palisade_core::store::{
    Claim, Claimed, Connection, ConnectionState, Effect, EventRow, EventState, Halt, JobCounts, JobEnd, LINED_UP_MAX,
    Lease, LiveJob, Merge, Moved, NewDelivery, NewEvent, NewJob, Queue, Room, RunMode, RunState, Settled, Settlement,
    Store, StreamKey, Value, WORKER_LOST, Work,
};
use palisade_core::sync::watch::Watch;
use palisade_core::sync::{Change, Span, State};
use palisade_core::{ErrorKind, Timestamp};

use super::inbox::{claim_of, delivery, event, settle_done};
use super::{EFFECT_BAD, EFFECT_GOOD, ok, same, tally};

/// Claims everything that is due, for a second.
pub(super) async fn claim(store: &dyn Store, queue: Queue, now: i64) -> Vec<Claimed> {
    ok(store.claim(claim_of(queue, now)).await)
}

/// A settlement without effects.
pub(super) fn settlement(lease: Lease, end: JobEnd, now: i64) -> Settlement {
    Settlement {
        lease,
        end,
        now: Timestamp(now),
        effects: Vec::new(),
        merges: Vec::new(),
        follow: Vec::new(),
        outbox: Default::default(),
    }
}

/// Ends a job; panics when the lease is lost.
pub(super) async fn end(store: &dyn Store, lease: Lease, how: JobEnd, now: i64) {
    let settled = settle_done(store, settlement(lease, how, now)).await;
    assert!(matches!(settled, Settled::Committed(_)), "the job is ended: {settled:?}");
}

/// A background job due at a moment.
pub(super) fn job(run_at: i64) -> NewJob {
    NewJob {
        work: Work::Retention,
        lane: None,
        group: None,
        tenant: None,
        unique: None,
        priority: 0,
        run_at: Timestamp(run_at),
        attempts_max: 3,
    }
}

/// Enqueues a job and claims it.
pub(super) async fn hold(store: &dyn Store, new: NewJob, now: i64) -> Lease {
    let ids = ok(store.enqueue(vec![new]).await);
    let claimed = claim(store, Queue::Background, now).await;
    let held = claimed.iter().find(|one| ids.contains(&one.lease.job)).map(|one| one.lease);
    match held {
        Some(lease) => lease,
        None => panic!("the job is claimed"),
    }
}

fn counts(waiting: u64, running: u64, dead: u64) -> JobCounts {
    JobCounts { waiting, running, dead }
}

/// The job that has been due for longest is told for each queue; one that is held, ended or not yet due is not.
pub async fn the_oldest_due_job_is_told(store: &dyn Store) {
    let oldest = async |queue, now| ok(store.oldest_due(queue, Timestamp(now)).await);
    same(oldest(Queue::Background, i64::MAX).await, None, "there is none");
    let jobs = [(0, 30), (0, 20), (5, 40), (-1, 10), (9, 41)];
    let new = jobs.map(|(priority, run_at)| NewJob { priority, ..job(run_at) });
    ok(store.enqueue(new.to_vec()).await);
    ok(store.append(vec![delivery(25, vec![event("other queue")])]).await);
    for (now, background, events) in
        [(9, None, None), (10, Some(10), None), (24, Some(10), None), (50, Some(10), Some(25))]
    {
        same(oldest(Queue::Background, now).await, background.map(Timestamp), "in one queue");
        same(oldest(Queue::Events, now).await, events.map(Timestamp), "in the other");
    }
    let held = claim(store, Queue::Background, 20).await;
    same(held.len(), 2, "two are due");
    same(oldest(Queue::Background, 50).await, Some(Timestamp(30)), "what is held does not wait");
    for (job, how) in held.iter().zip([JobEnd::Done, JobEnd::Retry { at: Timestamp(35), reason: "later".to_owned() }]) {
        end(store, job.lease, how, 21).await;
    }
    same(oldest(Queue::Background, 50).await, Some(Timestamp(30)), "nor what has ended");
    claim(store, Queue::Background, 30).await;
    same(oldest(Queue::Background, 34).await, None, "one that comes again waits for its new moment");
    same(oldest(Queue::Background, 50).await, Some(Timestamp(35)), "and has been due since then");
}

/// The unfinished job of a unique key is read with its work, its moment and why it comes again; an ended one is not.
pub async fn a_live_job_is_read_by_its_key(store: &dyn Store) {
    let open = Watch { stream: "s".into(), channel: Some("c".into()), resource: None, expires_at: Some(Timestamp(9)) };
    let work = Work::Watch { key: key(), open: Some(open) };
    let keys = || ["a", "none", "b"].map(str::to_owned).to_vec();
    let new = |unique: &str, run_at| NewJob { unique: Some(unique.to_owned()), ..job(run_at) };
    let watch = NewJob { work: work.clone(), ..new("a", 10) };
    ok(store.enqueue(vec![watch, new("b", 20)]).await);
    let live = |work, run_at, reason: Option<&str>| {
        Some(LiveJob { work, run_at: Timestamp(run_at), reason: reason.map(str::to_owned) })
    };
    let b = live(Work::Retention, 20, None);
    same(ok(store.live_jobs(keys()).await), vec![live(work.clone(), 10, None), None, b.clone()], "waiting");
    let a = async || ok(store.live_jobs(vec!["a".to_owned()]).await);
    let take = async |now| match claim(store, Queue::Background, now).await.first() {
        Some(one) => one.lease,
        None => panic!("the job is claimed"),
    };
    let lease = take(10).await;
    same(a().await, vec![live(work.clone(), 10, None)], "held");
    end(store, lease, JobEnd::Retry { at: Timestamp(15), reason: "later".to_owned() }, 11).await;
    same(a().await, vec![live(work.clone(), 15, Some("later"))], "comes again");
    let lease = take(15).await;
    end(store, lease, JobEnd::Release, 16).await;
    same(a().await, vec![live(work, 15, Some("later"))], "given back");
    let lease = take(15).await;
    end(store, lease, JobEnd::Done, 17).await;
    same(ok(store.live_jobs(keys()).await), vec![None, None, b], "ended");
}

/// A claim gives due jobs of its queue by priority, then due time, then number, at most as many as asked for.
pub async fn a_claim_gives_the_most_urgent_due_jobs(store: &dyn Store) {
    ok(store.append(vec![delivery(0, vec![event("other queue")])]).await);
    let jobs = [(0, 30), (0, 20), (5, 40), (0, 20), (-1, 10), (9, 41)];
    let new = jobs.map(|(priority, run_at)| NewJob { priority, ..job(run_at) });
    let ids = ok(store.enqueue(new.to_vec()).await);
    let number = |claimed: &[Claimed]| -> Vec<usize> {
        claimed.iter().filter_map(|one| ids.iter().position(|id| *id == one.lease.job)).collect()
    };
    let two = ok(store.claim(Claim { max: 2, ..claim_of(Queue::Background, 40) }).await);
    same(number(&two), vec![2, 1], "the two most urgent");
    same(two.iter().map(|one| one.until.0).collect(), vec![1_040, 1_040], "held until now and the hold");
    same(number(&claim(store, Queue::Background, 40).await), vec![3, 0, 4], "then the others that are due");
    same(claim(store, Queue::Background, 40).await.len(), 0, "what is held is not given again");
    same(ok(store.job_counts().await), counts(2, 5, 0), "counts");
    let none = ok(store.claim(Claim { max: 0, ..claim_of(Queue::Background, 99) }).await);
    same(none.len(), 0, "a claim of nothing");
}

/// A tenant with a hundred times the work delays another's by one of its jobs a turn; rest gives no credit, and each
/// group and priority has its own turns.
///
/// Fails when jobs are claimed in the order they came.
pub async fn tenants_take_turns(store: &dyn Store) {
    let of = |tenant: &str, count: usize| {
        let one = NewJob { group: Some("g".to_owned()), tenant: Some(tenant.into()), ..job(0) };
        vec![one; count]
    };
    let many = ok(store.enqueue(of("many", 300)).await);
    // Of the first claim on, the jobs stand in line.
    let take = async |max: u32| {
        let claimed = ok(store.claim(Claim { max, ..claim_of(Queue::Background, 0) }).await);
        claimed.iter().map(|one| one.lease.job).collect::<Vec<_>>()
    };
    same(take(100).await, many.get(..100).unwrap_or_default().to_vec(), "alone, in order");
    let few = ok(store.enqueue(of("few", 3)).await);
    let claimed = take(10).await;
    let places: Vec<_> = few.iter().map(|job| claimed.iter().position(|one| one == job)).collect();
    same(places, vec![Some(1), Some(3), Some(5)], "one of each in turn");
    same(take(100).await.len(), 100, "the rest is alone again");
    let late = ok(store.enqueue(of("late", 200)).await);
    let claimed = take(8).await;
    same(claimed.iter().filter(|one| late.contains(one)).count(), 4, "whoever rested has no credit");

    let events = |connection: &str, from: usize, count: usize| {
        let events = (from..from + count).map(|n| event(&format!("{connection} {n}"))).collect();
        NewDelivery { connection: connection.into(), ..delivery(5, events) }
    };
    ok(store.append(vec![events("many", 0, 200), events("few", 0, 2)]).await);
    let claimed = ok(store.claim(Claim { max: 4, ..claim_of(Queue::Events, 5) }).await);
    let rows: Vec<_> = claimed.iter().map(|one| one.work.clone()).collect();
    let wanted = [1, 201, 2, 202].map(|row| Work::Event { row: EventRow(row) });
    same(rows, wanted.to_vec(), "connections nobody knows take turns with their events");
    same(claimed.iter().all(|one| one.group.as_deref() == Some("stripe")), true, "whose group is the provider");
}

/// A tenant with fifty connections has the turns of one, however its events come and whether they are replayed.
///
/// Fails when events take the turns of their connections, or of whom a connection was before.
pub async fn events_take_the_turns_of_their_tenant(store: &dyn Store) {
    let of = |id: &str, tenant: &str| Connection { tenant: tenant.into(), ..super::grants::connection(id) };
    for n in 0..50 {
        ok(store.put_connection(of(&format!("many{n}"), "many")).await);
    }
    ok(store.put_connection(of("moved", "many")).await);
    ok(store.put_connection(of("few", "few")).await);
    let one =
        |connection: &str, id: &str| NewDelivery { connection: connection.into(), ..delivery(5, vec![event(id)]) };
    ok(store.append(vec![one("moved", "before")]).await);
    ok(store.put_connection(of("moved", "late")).await);
    let mut deliveries: Vec<_> = (0..50).map(|n| one(&format!("many{n}"), &format!("m{n}"))).collect();
    deliveries.extend((0..3).map(|n| one("few", &format!("f{n}"))));
    deliveries.push(one("moved", "l"));
    ok(store.append(deliveries).await);
    let take = async |max: u32, now: i64| {
        let claimed = ok(store.claim(Claim { max, ..claim_of(Queue::Events, now) }).await);
        let row = |one: &Claimed| if let Work::Event { row } = one.work { row.0 } else { 0 };
        claimed.iter().map(|one| (row(one), one.lease)).collect::<Vec<_>>()
    };
    let rows = |claimed: &[(i64, Lease)]| claimed.iter().map(|(row, _)| *row).collect::<Vec<_>>();
    let claimed = take(7, 5).await;
    same(rows(&claimed), vec![1, 52, 55, 2, 53, 3, 54], "one of each tenant in turn");
    for (_, lease) in claimed.into_iter().chain(take(99, 5).await) {
        end(store, lease, JobEnd::Done, 6).await;
    }
    for row in [2, 3, 4, 52] {
        same(ok(store.replay(EventRow(row), Timestamp(7)).await), true, "replayed");
    }
    same(rows(&take(9, 7).await), vec![2, 52, 3, 4], "also again");
}

/// No more jobs of a group are claimed than there is room for, and a group without room holds up no other.
///
/// Fails when a claim ends at a group without room.
pub async fn a_group_without_room_holds_up_no_other(store: &dyn Store) {
    let of = |group: Option<&str>, priority| NewJob { group: group.map(str::to_owned), priority, ..job(0) };
    let mut jobs = vec![of(Some("full"), 9); 50];
    jobs.extend([of(Some("half"), 0), of(Some("half"), 0), of(Some("half"), 0), of(None, 0), of(Some(""), -1)]);
    ok(store.enqueue(jobs).await);
    let room = Room { each: 2, of: [("full".to_owned(), 0)].into(), others: 1 };
    let take = async |room: Room| {
        let claimed = ok(store.claim(Claim { room, ..claim_of(Queue::Background, 0) }).await);
        claimed.into_iter().map(|one| one.group.unwrap_or_default()).collect::<Vec<_>>()
    };
    let wanted = |groups: &[&str]| groups.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    same(take(room.clone()).await, wanted(&["half", "", "half"]), "what there is room for");
    same(
        take(Room { of: [("full".to_owned(), 1)].into(), ..room }).await,
        wanted(&["full", "half", ""]),
        "then the rest",
    );
    same(take(Room { each: 0, ..Room::default() }).await, wanted(&[]), "no room at all");
    same(take(Room::default()).await.len(), 49, "room for all");
}

/// More jobs than a claim lets into line come with the next claims.
pub async fn a_crowd_enters_the_line_in_steps(store: &dyn Store) {
    let crowd = i64::from(LINED_UP_MAX) + 10;
    ok(store.enqueue((0..crowd).map(job).collect()).await);
    let all = async || {
        let claim = Claim { max: u32::MAX, ..claim_of(Queue::Background, crowd) };
        ok(store.claim(claim).await).len()
    };
    same((all().await, all().await, all().await), (LINED_UP_MAX as usize, 10, 0), "in steps");
}

/// Halted events wait without losing their order or an attempt; what is under way ends; others go on; resumed, all come.
///
/// Fails when a halt is not heeded by a claim, or when jobs of its lane overtake those that wait.
pub async fn halted_events_wait_and_go_on_in_order(store: &dyn Store) {
    let keyed = |id: &str| NewEvent { ordering_key: Some("k".to_owned()), ..event(id) };
    let of = |provider: &str, connection: &str, ids: &[&str]| NewDelivery {
        provider: provider.to_owned(),
        connection: connection.into(),
        ..delivery(0, ids.iter().map(|id| keyed(id)).collect())
    };
    let rows = async |now: i64| {
        let claimed = claim(store, Queue::Events, now).await;
        for one in &claimed {
            same(one.attempt, 1, "a halt costs no attempt");
        }
        let row = |one: &Claimed| if let Work::Event { row } = one.work { row.0 } else { 0 };
        claimed.iter().map(|one| (row(one), one.lease)).collect::<Vec<_>>()
    };
    let done = async |held: &[(i64, Lease)]| {
        for (_, lease) in held {
            end(store, *lease, JobEnd::Done, 5).await;
        }
        held.iter().map(|(row, _)| *row).collect::<Vec<_>>()
    };
    let acme = || Halt::Connection("acme".into());
    ok(store.append(vec![of("stripe", "acme", &["a", "b"]), of("stripe", "beta", &["c"])]).await);
    same(ok(store.halt(acme(), Timestamp(7)).await), true, "halted");
    same(ok(store.halt(acme(), Timestamp(8)).await), false, "once");
    same(ok(store.halts(9).await), vec![(acme(), Timestamp(7))], "since when");
    ok(store.append(vec![of("stripe", "acme", &["d"]), of("slack", "gamma", &["e"])]).await);
    let others = rows(10).await;
    same(done(&others).await, vec![3, 5], "the others' are handled");
    same(rows(11).await.len(), 0, "the halted one's wait");
    same(ok(store.job_counts().await), counts(3, 0, 0), "and are kept");
    same(ok(store.resume(acme()).await), true, "resumed");
    same(ok(store.resume(acme()).await), false, "once");
    for row in [1, 2, 4] {
        let next = rows(12).await;
        same(done(&next).await, vec![row], "in order, one by one");
    }

    ok(store.append(vec![of("stripe", "acme", &["f"]), of("slack", "gamma", &["g"])]).await);
    ok(store.halt(Halt::Provider("stripe".to_owned()), Timestamp(20)).await);
    same(done(&rows(21).await).await, vec![7], "a provider's");
    ok(store.halt(Halt::All, Timestamp(22)).await);
    ok(store.append(vec![of("slack", "gamma", &["h"])]).await);
    same(rows(23).await.len(), 0, "everybody's");
    let all = vec![(Halt::All, Timestamp(22)), (Halt::Provider("stripe".to_owned()), Timestamp(20))];
    same(ok(store.halts(9).await), all, "all are listed, in order");
    ok(store.resume(Halt::All).await);
    ok(store.resume(Halt::Provider("stripe".to_owned())).await);
    same(done(&rows(24).await).await, vec![6, 8], "then all go on, in turn");
    any_name_can_be_resumed(store).await;
}

/// Fails when what is halted under a name that is empty, or begins as another does, never comes again.
async fn any_name_can_be_resumed(store: &dyn Store) {
    let names = ["", "a", "a\u{1}", "aa"];
    for name in names {
        ok(store.halt(Halt::Connection(name.into()), Timestamp(13)).await);
        let event = event(&format!("of {name}"));
        ok(store.append(vec![NewDelivery { connection: name.into(), ..delivery(0, vec![event]) }]).await);
    }
    same(claim(store, Queue::Events, 14).await.len(), 0, "they wait");
    for name in names {
        same(ok(store.resume(Halt::Connection(name.into())).await), true, name);
    }
    let resumed = claim(store, Queue::Events, 15).await;
    same(resumed.len(), names.len(), "all of them come");
    for one in resumed {
        end(store, one.lease, JobEnd::Done, 16).await;
    }
}

/// A connection that was paused or disconnected and is active again is halted no more, also by a connect; one that only
/// had to be reconnected keeps the halt of its events.
///
/// Fails when a pause outlives the connection it was of.
pub async fn a_connection_in_use_again_is_halted_no_more(store: &dyn Store) {
    let lost = || ConnectionState::NeedsReconnect { reason: "revoked".to_owned() };
    let of = |id: &str, state: ConnectionState| Connection { state, ..super::grants::connection(id) };
    let cases = [
        ("paused", ConnectionState::Paused, true),
        ("gone", ConnectionState::Disconnected, true),
        ("lost", lost(), false),
        ("active", ConnectionState::Active, false),
    ];
    for (id, before, ends) in cases {
        ok(store.put_connection(of(id, before.clone())).await);
        ok(store.halt(Halt::Connection(id.into()), Timestamp(7)).await);
        ok(store.append(vec![NewDelivery { connection: id.into(), ..delivery(0, vec![event(id)]) }]).await);
        same(claim(store, Queue::Events, 10).await.len(), 0, "it waits");
        ok(store.put_connection(of(id, before)).await);
        same(ok(store.halts(9).await).len(), 1, "the same again changes nothing");
        if id == "gone" {
            same(ok(store.connect(of(id, ConnectionState::Active), Vec::new()).await), true, "connected");
        } else {
            ok(store.put_connection(of(id, ConnectionState::Active)).await);
        }
        same(ok(store.halts(9).await).is_empty(), ends, id);
        same(claim(store, Queue::Events, 10).await.len(), usize::from(ends), id);
        ok(store.resume(Halt::Connection(id.into())).await);
        for one in claim(store, Queue::Events, 10_000).await {
            end(store, one.lease, JobEnd::Done, 10_000).await;
        }
    }
}

/// A job whose worker went away is given again when its lease ran out, as another attempt; when its attempts are used
/// up it is dead instead, and its event with it.
pub async fn a_lost_worker_costs_one_attempt(store: &dyn Store) {
    ok(store.enqueue(vec![NewJob { work: Work::Event { row: EventRow(1) }, attempts_max: 2, ..job(0) }]).await);
    let first = claim(store, Queue::Events, 0).await;
    ok(store.append(vec![delivery(0, vec![NewEvent { wanted: false, ..event("a") }])]).await);
    same(claim(store, Queue::Events, 999).await.len(), 0, "still held");
    let second = claim(store, Queue::Events, 1_000).await;
    let seen = |claimed: &[Claimed]| claimed.iter().map(|one| (one.attempt, one.lease.fence)).collect::<Vec<_>>();
    same((seen(&first), seen(&second)), (vec![(1, 1)], vec![(2, 2)]), "attempt and fence grow with each claim");
    same(claim(store, Queue::Events, 2_000).await.len(), 0, "the attempts are used up");
    same(ok(store.job_counts().await), counts(0, 0, 1), "the job is dead");
    let stored = ok(store.event(EventRow(1)).await);
    same(
        stored.map(|stored| (stored.state, stored.reason)),
        Some((EventState::Dead, Some(WORKER_LOST.to_owned()))),
        "and its event",
    );
}

/// A worker whose job another one has taken can neither settle nor extend it; one that is late but not replaced can.
///
/// Fails when the fence is left out of a settlement's condition.
pub async fn a_late_worker_is_refused(store: &dyn Store) {
    let first = hold(store, job(0), 0).await;
    same(ok(store.extend(vec![first], Timestamp(5_000)).await), vec![true], "an extension");
    same(claim(store, Queue::Background, 4_999).await.len(), 0, "holds as long as it says");
    let second = claim(store, Queue::Background, 5_000).await;
    let Some(second) = second.first() else { panic!("claimed again when the lease ran out") };
    same(settle_done(store, settlement(first, JobEnd::Done, 5_001)).await, Settled::LeaseLost, "late settlement");
    let leases = vec![first, second.lease];
    same(ok(store.extend(leases, Timestamp(6_000)).await), vec![false, true], "late extension");
    let refused = store.start_run(first, key(), RunMode::Full, Timestamp(5_001)).await;
    same(refused.map_err(|error| error.kind()).err(), Some(ErrorKind::LeaseLost), "late run");
    // Long after its end, but nobody else has it.
    end(store, second.lease, JobEnd::Done, 99_999).await;
    same(settle_done(store, settlement(second.lease, JobEnd::Done, 1)).await, Settled::LeaseLost, "settled once");
}

pub(super) fn key() -> StreamKey {
    StreamKey { connection: "acme".into(), stream: "customers".into() }
}

/// Jobs of a lane run one at a time in order of their numbers, also when the first waits for another attempt; one
/// that was never tried and waits for a later moment holds nobody up.
///
/// Fails when a job may overtake a lower one of its lane that waits for another attempt.
pub async fn jobs_of_a_lane_run_one_by_one_in_order(store: &dyn Store) {
    let laned = |run_at, priority| NewJob { lane: Some("l".to_owned()), priority, ..job(run_at) };
    let ids = ok(store.enqueue(vec![laned(50, 0), laned(10, 0), laned(10, 9), laned(5, 0), job(10)]).await);
    let number = |claimed: &[Claimed]| -> Vec<usize> {
        claimed.iter().filter_map(|one| ids.iter().position(|id| *id == one.lease.job)).collect()
    };
    let lease = |claimed: &[Claimed]| match claimed.first() {
        Some(one) => one.lease,
        None => panic!("a job is claimed"),
    };
    same(number(&claim(store, Queue::Background, 9).await), vec![3], "a schedule for later blocks nothing");
    let claimed = claim(store, Queue::Background, 10).await;
    same(number(&claimed), vec![4], "one at a time; another lane is not concerned");
    let expired = claim(store, Queue::Background, 1_009).await;
    same(number(&expired), vec![0], "the lowest that is due goes before one whose worker was lost");
    let retry = JobEnd::Retry { at: Timestamp(9_000), reason: "later".to_owned() };
    end(store, lease(&expired), retry, 1_010).await;
    same(number(&claim(store, Queue::Background, 8_999).await), vec![4], "it holds the lane until it has ended");
    let again = claim(store, Queue::Background, 9_000).await;
    same(number(&again), vec![0], "and comes first");
    end(store, lease(&again), JobEnd::Done, 9_001).await;
    let mut order = Vec::new();
    for now in 9_002..9_010 {
        for one in claim(store, Queue::Background, now).await {
            order.extend(number(std::slice::from_ref(&one)));
            end(store, one.lease, JobEnd::Done, now).await;
        }
    }
    same(order, vec![1, 2, 3], "in order of their numbers, whatever their priority");

    let other = |run_at| NewJob { lane: Some("m".to_owned()), ..job(run_at) };
    // The job outside the lane has lost its worker again.
    let alone = claim(store, Queue::Background, 10_000).await;
    end(store, lease(&alone), JobEnd::Done, 10_000).await;
    let ids = ok(store.enqueue(vec![other(10), other(50_000), other(20_000)]).await);
    let given = |claimed: &[Claimed]| claimed.iter().map(|one| one.lease.job).collect::<Vec<_>>();
    let wanted = |place: usize| ids.get(place).copied().into_iter().collect::<Vec<_>>();
    let first = claim(store, Queue::Background, 10_000).await;
    same(given(&first), wanted(0), "the first holds the others up");
    end(store, lease(&first), JobEnd::Done, 10_001).await;
    let next = claim(store, Queue::Background, 30_000).await;
    same(given(&next), wanted(2), "then each is due as if it stood alone");
    end(store, lease(&next), JobEnd::Done, 30_001).await;

    let keyed = |id: &str| NewEvent { ordering_key: Some("sub_1".to_owned()), ..event(id) };
    let mut other = delivery(0, vec![keyed("c")]);
    other.connection = "beta".into();
    ok(store.append(vec![delivery(0, vec![keyed("a"), keyed("b")]), other]).await);
    let claimed = claim(store, Queue::Events, 1).await;
    let rows: Vec<_> = claimed.iter().map(|one| one.work.clone()).collect();
    let wanted = [1, 3].map(|row| Work::Event { row: EventRow(row) });
    same(rows, wanted.to_vec(), "an ordering key is a lane of its connection");
}

/// A job of a lane that could not be tried keeps its place, though it has no attempt: nothing goes before it, added before
/// or after. One that nobody ever claimed is moved or waits by its moment, one that was claimed is not.
///
/// Fails when a lane goes by attempts and not by claims.
pub async fn a_job_that_could_not_be_tried_keeps_its_place(store: &dyn Store) {
    let laned = |run_at| NewJob { lane: Some("l".to_owned()), unique: Some(format!("u{run_at}")), ..job(run_at) };
    let mut ids = ok(store.enqueue(vec![laned(10), laned(20)]).await);
    let given = async |now| claim(store, Queue::Background, now).await;
    let first = given(30).await;
    same(
        first.iter().map(|one| one.lease.job).collect::<Vec<_>>(),
        ids.iter().take(1).copied().collect(),
        "one at a time",
    );
    for one in first {
        end(store, one.lease, JobEnd::Wait { at: Timestamp(900), reason: "later".to_owned(), anew: false }, 31).await;
    }
    ids.extend(ok(store.enqueue(vec![laned(5)]).await));
    same(given(899).await.len(), 0, "it keeps its place");
    same(ok(store.move_job("u10".into(), Timestamp(50), Timestamp(40)).await), Moved::Busy, "and its moment");
    let live = ok(store.live_jobs(vec!["u10".into()]).await);
    let told = live.into_iter().flatten().next().map(|live| (live.run_at, live.reason));
    same(told, Some((Timestamp(900), Some("later".to_owned()))), "and tells why it waits");
    let mut order = Vec::new();
    for now in 900..903 {
        for one in given(now).await {
            order.push((one.lease.job, one.attempt));
            end(store, one.lease, JobEnd::Done, now).await;
        }
    }
    same(order, ids.into_iter().map(|id| (id, 1)).collect(), "then all go in their order");
}

/// While a job with a unique key waits or runs, another is not added: a waiting one is pulled forward. Once it has
/// ended, its key is free, already for the jobs that follow it in the same settlement.
pub async fn a_unique_key_is_one_job_and_is_pulled_forward(store: &dyn Store) {
    let unique = |run_at| NewJob { unique: Some("sync".to_owned()), ..job(run_at) };
    let ids = ok(store.enqueue(vec![unique(100), unique(50), unique(200)]).await);
    same(tally(&ids).len(), 1, "one job");
    same(claim(store, Queue::Background, 49).await.len(), 0, "not before the earliest");
    let claimed = claim(store, Queue::Background, 50).await;
    same(ok(store.enqueue(vec![unique(0)]).await).first(), ids.first(), "a running job counts");
    let Some(held) = claimed.first() else { panic!("pulled forward") };
    let follow = Settlement { follow: vec![unique(70)], ..settlement(held.lease, JobEnd::Done, 60) };
    assert!(matches!(settle_done(store, follow).await, Settled::Committed(_)), "settled");
    let next = claim(store, Queue::Background, 70).await;
    same(next.len(), 1, "the follower is another job");
    assert!(next.iter().all(|one| Some(&one.lease.job) > ids.last()), "with a new number");
    for one in next {
        let retry = JobEnd::Retry { at: Timestamp(500), reason: "later".to_owned() };
        let settled = Settlement { follow: vec![unique(90)], ..settlement(one.lease, retry, 80) };
        assert!(matches!(settle_done(store, settled).await, Settled::Committed(_)), "settled");
    }
    same(
        claim(store, Queue::Background, 90).await.len(),
        1,
        "a job that waits again is pulled forward by its follower",
    );
    same(ok(store.job_counts().await), counts(0, 1, 0), "nothing else was added");
}

/// The event of a job is handled, dead or pending as the job ended, with the reason; a release leaves no trace, and a
/// retry of the last attempt is the end.
pub async fn the_state_of_an_event_follows_its_job(store: &dyn Store) {
    let reason = || "said no".to_owned();
    ok(store.append(vec![delivery(0, ["a", "b", "c", "d"].map(event).to_vec())]).await);
    let claimed = claim(store, Queue::Events, 0).await;
    let retry = JobEnd::Retry { at: Timestamp(10), reason: reason() };
    for (job, how) in claimed.iter().zip([JobEnd::Done, JobEnd::Dead { reason: reason() }, retry, JobEnd::Release]) {
        end(store, job.lease, how, 1).await;
    }
    let mut states = Vec::new();
    for row in 1..=4 {
        states.extend(ok(store.event(EventRow(row)).await).map(|stored| (stored.state, stored.reason)));
    }
    let wanted = vec![
        (EventState::Done, None),
        (EventState::Dead, Some(reason())),
        (EventState::Pending, Some(reason())),
        (EventState::Pending, None),
    ];
    same(states, wanted, "states and reasons");
    same(ok(store.job_counts().await), counts(2, 0, 1), "two wait again");
    let released = claim(store, Queue::Events, 9).await;
    same(released.iter().map(|one| one.attempt).collect(), vec![1], "a release costs no attempt");
    for (n, one) in (0..).zip(&released) {
        end(store, one.lease, JobEnd::Wait { at: Timestamp(10 + n), reason: reason(), anew: false }, 9).await;
    }
    let waited = ok(store.event(EventRow(4)).await).map(|stored| (stored.state, stored.reason));
    same(waited, Some((EventState::Pending, Some(reason()))), "one that could not be tried says why");
    let retried = claim(store, Queue::Events, 10).await;
    same(retried.iter().map(|one| one.attempt).collect(), vec![2, 1], "a retry does, and a wait does not");
    for one in &retried {
        end(store, one.lease, JobEnd::Release, 11).await;
    }
    for now in 20..50 {
        let again = claim(store, Queue::Events, now).await;
        same(again.iter().map(|one| one.attempt).collect(), vec![2, 1], "however often it waits");
        let waits = |before: u32, from: i64| match u32::try_from(now - 20).unwrap_or(0) + before {
            0 => (0, None),
            waits => (waits, Some(Timestamp(from))),
        };
        let counted = again.iter().map(|one| (one.waits, one.waits_from)).collect();
        same(counted, vec![waits(0, 20), waits(1, 9)], "waits are counted, from the first on; releases are none");
        for one in again {
            end(store, one.lease, JobEnd::Wait { at: Timestamp(now + 1), reason: reason(), anew: false }, now).await;
        }
    }
    for one in claim(store, Queue::Events, 50).await {
        end(store, one.lease, JobEnd::Retry { at: Timestamp(60), reason: reason() }, 50).await;
    }
    let tried = claim(store, Queue::Events, 60).await;
    let counted = tried.iter().map(|one| (one.attempt, one.waits, one.waits_from)).collect();
    let wanted = vec![(3, 30, Some(Timestamp(20))), (2, 31, Some(Timestamp(9)))];
    same(counted, wanted, "an attempt between them does not change that");
    for one in tried {
        end(store, one.lease, JobEnd::Wait { at: Timestamp(70), reason: reason(), anew: true }, 65).await;
    }
    let anew = claim(store, Queue::Events, 70).await;
    let counted = anew.iter().map(|one| (one.attempt, one.waits, one.waits_from)).collect();
    same(counted, vec![(1, 1, Some(Timestamp(65))); 2], "what came on has all of both again");
    for one in anew {
        end(store, one.lease, JobEnd::Release, 71).await;
    }
    same(ok(store.job_counts().await), counts(2, 0, 1), "beyond all the attempts they have");

    let last = hold(store, NewJob { work: Work::Retention, attempts_max: 1, ..job(0) }, 0).await;
    end(store, last, JobEnd::Retry { at: Timestamp(0), reason: reason() }, 1).await;
    same(ok(store.job_counts().await).dead, 2, "a retry of the last attempt is the end");
}

/// A settlement whose effect fails writes nothing at all and leaves the others of its batch alone.
///
/// Fails when a settlement is not undone as a whole: its merges are made before its effects.
pub async fn a_failed_effect_undoes_its_settlement_alone(store: &dyn Store) {
    let effect = |sql: &str| Effect { sql: sql.to_owned(), values: vec![Value::Integer(1)] };
    ok(store.enqueue(vec![job(0), job(0), job(0)]).await);
    let claimed = claim(store, Queue::Background, 0).await;
    let added = |id: i64| Change {
        stream: key().stream,
        id: id.to_string().into(),
        span: Span::exact(1),
        state: State::Present("{}".into()),
    };
    let batch: Vec<Settlement> = claimed
        .iter()
        .zip([EFFECT_GOOD, EFFECT_BAD, EFFECT_GOOD])
        .map(|(one, sql)| Settlement {
            effects: vec![effect(EFFECT_GOOD), effect(sql)],
            merges: vec![Merge { key: key(), read_since: None, changes: vec![added(one.lease.job.0)] }],
            follow: vec![job(1)],
            ..settlement(one.lease, JobEnd::Done, 1)
        })
        .collect();
    let settled = ok(store.settle(batch).await);
    let committed: Vec<bool> = settled.iter().map(|one| matches!(one, Settled::Committed(_))).collect();
    if committed == [true, true, true] {
        // A store without a database has nothing that can fail.
        return;
    }
    same(committed, vec![true, false, true], "the others are committed");
    assert!(matches!(settled.get(1), Some(Settled::EffectFailed(_))), "the failure is named: {settled:?}");
    same(ok(store.job_counts().await), counts(2, 1, 0), "the failed one is still held and its follower not added");
    let feed = ok(store.changes(key(), 0, 9).await);
    let ids = feed.iter().map(|entry| (entry.record.seq, entry.record.id.to_string())).collect();
    same(ids, vec![(1, "1".to_owned()), (2, "3".to_owned())], "nor is its record");
}

/// A sync job that dies fails the unfinished run of its stream and mode.
pub async fn a_dead_sync_fails_its_run(store: &dyn Store) {
    let sync = NewJob { work: Work::Sync { key: key(), mode: RunMode::Full }, ..job(0) };
    let lease = hold(store, sync, 0).await;
    ok(store.start_run(lease, key(), RunMode::Full, Timestamp(1)).await);
    end(store, lease, JobEnd::Dead { reason: "gave up".to_owned() }, 2).await;
    let runs = ok(store.runs(None, 9).await);
    let wanted = RunState::Failed { kind: ErrorKind::Cancelled, reason: "gave up".to_owned() };
    same(
        runs.into_iter().map(|run| (run.state, run.finished_at)).collect(),
        vec![(wanted, Some(Timestamp(2)))],
        "the run has failed",
    );
}

/// Dead jobs are pruned in bounded steps, those that ended first before others; live ones stay, and of one that is done
/// nothing is kept.
pub async fn finished_jobs_are_pruned(store: &dyn Store) {
    ok(store.enqueue((0..5).map(job).collect()).await);
    let claimed = claim(store, Queue::Background, 3).await;
    for (at, one) in (10..).zip(&claimed).take(3) {
        let how = if at == 12 { JobEnd::Done } else { JobEnd::Dead { reason: String::new() } };
        end(store, one.lease, how, at).await;
    }
    same(ok(store.prune_jobs(Timestamp(10), 9).await), 0, "ended before, not at");
    same(ok(store.prune_jobs(Timestamp(12), 1).await), 1, "one at a time");
    same(ok(store.job_counts().await), counts(1, 1, 1), "the other dead one is the next");
    same(ok(store.prune_jobs(Timestamp(12), 9).await), 1, "the other");
    same(ok(store.prune_jobs(Timestamp(99), 9).await), 0, "of the one that is done there is nothing");
    same(ok(store.job_counts().await), counts(1, 1, 0), "what stays");
    same(ok(store.enqueue(vec![job(0)]).await).iter().map(|id| id.0).collect(), vec![6], "numbers are never reused");
}

/// Claims from many tasks never give one job to two of them.
pub async fn two_claims_never_hold_the_same_job(store: Arc<dyn Store>) {
    ok(store.enqueue((0..200).map(|_| job(0)).collect()).await);
    let mut workers = Vec::new();
    for _ in 0..8 {
        let store = store.clone();
        workers.push(tokio::spawn(async move {
            let mut held = Vec::new();
            loop {
                let claim = Claim { max: 7, ..claim_of(Queue::Background, 0) };
                let claimed = ok(store.claim(claim).await);
                if claimed.is_empty() {
                    return held;
                }
                held.extend(claimed.into_iter().map(|one| one.lease.job));
            }
        }));
    }
    let mut held = Vec::new();
    for worker in workers {
        held.extend(worker.await.unwrap_or_default());
    }
    same((held.len(), tally(held).len()), (200, 200), "each job once");
}

/// A worker that waits for work is woken by a job that becomes ready in this process, also one that came just before
/// it began to wait.
pub async fn enqueued_work_wakes_a_waiter(store: Arc<dyn Store>) {
    ok(store.append(vec![delivery(0, vec![event("a")])]).await);
    let woken = tokio::time::timeout(Duration::from_secs(30), store.wait_for_work(Queue::Events)).await;
    assert!(woken.is_ok(), "the wake-up is kept for the next waiter");
    let waiting = store.clone();
    let waiter = tokio::spawn(async move { waiting.wait_for_work(Queue::Background).await });
    ok(store.enqueue(vec![job(0)]).await);
    let woken = tokio::time::timeout(Duration::from_secs(30), waiter).await;
    assert!(woken.is_ok(), "a waiter is woken");
}

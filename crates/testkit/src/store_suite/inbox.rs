//! Promises of the inbox.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use palisade_core::Timestamp;
use palisade_core::store::{
    Appended, CAUSES_MAX, CLOCK_MARGIN, Claim, DISMISSED, EVENT_ATTEMPTS_MAX, EVENT_BYTES, EventRow, EventState,
    HEARD_EVERY_MS, HEARD_KINDS_MAX, JobCounts, JobEnd, LIST_WALKED, NO_CONNECTION, NewDelivery, NewEvent, NewJob,
    OTHER_CAUSES, PENDING_FOUND, PRUNE_BYTES, PRUNE_LOOKED, PrunePlace, PruneStep, Queue, REPLAY_WALKED, ReplayFilter,
    Room, Settled, Settlement, Store, Work, forward_key,
};

use super::jobs::{claim, end, settlement};
use super::{distinct, ok, same, tally};

/// Names go with their events.
const FORGET_ALL: Timestamp = Timestamp(i64::MAX);

/// Makes an event worth a job.
pub(super) fn event(id: &str) -> NewEvent {
    NewEvent {
        id: id.into(),
        kind: "invoice.paid".to_owned(),
        subscription: None,
        account: None,
        created: None,
        ordering_key: None,
        payload: None,
        wanted: true,
        priority: 0,
    }
}

/// Makes a delivery received at `at`.
pub(super) fn delivery(at: i64, events: Vec<NewEvent>) -> NewDelivery {
    NewDelivery {
        endpoint: "hook".into(),
        connection: "acme".into(),
        provider: "stripe".to_owned(),
        received_at: Timestamp(at),
        headers: vec![("stripe-version".to_owned(), "2026-01-01".to_owned())],
        body: Bytes::from_static(b"{\"whole\":true}"),
        events,
    }
}

/// The job of an event has the event's priority, but not within its lane; that of a replayed one has none.
///
/// Fails when an append or a replay gives a job another priority.
pub async fn an_events_priority_goes_before_its_turn(store: &dyn Store) {
    let of = |id: &str, priority: i32| NewEvent { priority, ..event(id) };
    let in_lane = |id: &str, priority: i32| NewEvent { ordering_key: Some("key".to_owned()), ..of(id, priority) };
    let events = vec![of("low", -1), of("first", 0), of("high", 5), in_lane("before", 0), in_lane("after", 9)];
    ok(store.append(vec![delivery(0, events)]).await);
    let claimed = async |at: i64| {
        let mut rows = Vec::new();
        for one in claim(store, Queue::Events, at).await {
            let Work::Event { row } = one.work else { panic!("an event's job: {one:?}") };
            rows.push(row.0);
            ok(store.settle(vec![settlement(one.lease, JobEnd::Done, at)]).await);
        }
        rows
    };
    same(claimed(1).await, vec![3, 2, 4, 1], "the highest first, and none before those of its lane");
    same(claimed(2).await, vec![5], "then what waited for its lane");
    ok(store.append(vec![delivery(3, vec![of("new", 1)])]).await);
    same(ok(store.replay(EventRow(3), Timestamp(3)).await), true, "a replay");
    same(claimed(3).await, vec![6, 3], "goes behind what has a priority");
}

/// An event with the same endpoint and id is stored once, within a delivery, a batch and ever after, with one job.
pub async fn a_repeated_event_is_stored_once(store: &dyn Store) {
    let batch = vec![delivery(10, vec![event("a"), event("a")]), delivery(10, vec![event("a"), event("b")])];
    let first = ok(store.append(batch.clone()).await);
    let (a, b) = (EventRow(1), EventRow(2));
    let wanted = vec![vec![Appended::New(a), Appended::Duplicate(a)], vec![Appended::Duplicate(a), Appended::New(b)]];
    same(first, wanted, "the answer has one entry per delivery and event, in order");
    let again = ok(store.append(batch).await);
    same(
        tally(again.iter().flatten().map(|one| matches!(one, Appended::Duplicate(_)))),
        [(true, 4)].into(),
        "a repeated delivery is all duplicates",
    );
    let mut elsewhere = delivery(10, vec![event("a")]);
    elsewhere.endpoint = "other".into();
    same(ok(store.append(vec![elsewhere]).await), vec![vec![Appended::New(EventRow(3))]], "another endpoint");
    same(ok(store.append(Vec::new()).await), Vec::new(), "an empty batch");
    same(ok(store.append(vec![delivery(10, Vec::new())]).await), vec![Vec::new()], "a delivery without events");

    same(claim(store, Queue::Events, 10).await.len(), 3, "each event has one job, due when it was received");
    let claimed = claim(store, Queue::Events, 10_000_000).await;
    same(distinct(claimed.iter().map(|one| one.attempts_max)), [EVENT_ATTEMPTS_MAX].into(), "attempts of an event");
}

/// The payload of an event is its own JSON, or the whole body of its delivery, byte by byte.
pub async fn a_body_is_kept_for_every_event(store: &dyn Store) {
    let raw = Bytes::from_static(b"{ \"b\" : 1,\n \"a\":\xc3\xa9 }\0");
    let mut whole = delivery(10, vec![event("whole")]);
    whole.body = raw.clone();
    let own = NewEvent { payload: Some(Bytes::from_static(b"own")), ..event("own") };
    let mut many = delivery(10, vec![own.clone(), event("shared")]);
    many.body = raw.clone();
    let polled = NewEvent { payload: Some(Bytes::from_static(b"polled")), ..event("polled") };
    let mut bodiless = delivery(10, vec![polled]);
    (bodiless.body, bodiless.headers) = (Bytes::new(), Vec::new());
    let empty = NewEvent { payload: Some(Bytes::new()), ..event("empty") };
    ok(store.append(vec![whole, many, bodiless, delivery(10, vec![empty])]).await);
    let mut payloads = Vec::new();
    for row in 1..=5 {
        let stored = ok(store.event(EventRow(row)).await);
        payloads.extend(stored.map(|stored| stored.event.payload));
    }
    same(payloads, vec![raw.clone(), "own".into(), raw, "polled".into(), Bytes::new()], "payloads");
    assert!(ok(store.event(EventRow(6)).await).is_none(), "an event that is not there");
}

/// How events come is noted by type: when one was heard, and what was found since that was not.
pub async fn what_is_heard_is_noted_by_type(store: &dyn Store) {
    let minute = HEARD_EVERY_MS;
    let heard = |at: i64, id: &str, kind: &str| delivery(at, vec![NewEvent { kind: kind.to_owned(), ..event(id) }]);
    let found = |at: i64, id: &str, kind: &str| {
        let payload = Some(Bytes::from_static(b"{}"));
        let events = vec![NewEvent { kind: kind.to_owned(), payload, ..event(id) }];
        NewDelivery { body: Bytes::new(), headers: Vec::new(), ..delivery(at, events) }
    };
    type Row<'a> = (&'a str, Option<i64>, u64, Option<(i64, i64)>);
    let noted = async |wanted: &[Row<'_>], when: &str| {
        let rows = ok(store.heard("hook".into()).await);
        let rows: Vec<_> = rows
            .iter()
            .map(|one| {
                let span = one.found_from.zip(one.found_to).map(|(from, to)| (from.0, to.0));
                (one.kind.as_str(), one.heard_at.map(|at| at.0), one.found, span)
            })
            .collect();
        same(rows, wanted.to_vec(), when);
    };
    noted(&[], "nothing came").await;
    ok(store.append(vec![heard(10, "a", "x"), heard(20, "b", "x"), heard(10, "c", "y")]).await);
    noted(&[("x", Some(10), 0, None), ("y", Some(10), 0, None)], "once a minute at most").await;
    ok(store.append(vec![heard(10 + minute, "b", "x")]).await);
    noted(&[("x", Some(10 + minute), 0, None), ("y", Some(10), 0, None)], "a repeated event was heard").await;
    let begin = 20 + minute;
    let unwanted = NewEvent { wanted: false, ..found(0, "u", "y").events.remove(0) };
    let unwanted = NewDelivery { events: vec![unwanted], ..found(begin, "u", "y") };
    ok(store.append(vec![found(begin, "a", "x"), unwanted, found(begin, "d", "y"), found(begin + 5, "e", "y")]).await);
    let y = ("y", Some(10), 2, Some((begin, begin + 5)));
    noted(&[("x", Some(10 + minute), 0, None), y], "new ones that somebody wants were found").await;
    ok(store.append(vec![heard(begin + 6, "e", "y")]).await);
    ok(store.append(vec![found(begin + 7, "f", "y"), found(begin + 7, "g", "z")]).await);
    let y = ("y", Some(begin + 6), 1, Some((begin + 7, begin + 7)));
    let z = ("z", None, 1, Some((begin + 7, begin + 7)));
    noted(&[("x", Some(10 + minute), 0, None), y, z], "what was found before it was heard again is forgotten").await;
    same(ok(store.heard("other".into()).await), Vec::new(), "another endpoint");
    let many = (0..2 * HEARD_KINDS_MAX).map(|n| heard(10, &format!("many {n}"), &format!("kind {n}"))).collect();
    ok(store.append(many).await);
    same(ok(store.heard("hook".into()).await).len(), HEARD_KINDS_MAX, "types without end");
}

/// An event nobody wants is kept as ignored, and no job is made for it.
pub async fn an_unwanted_event_is_kept_without_a_job(store: &dyn Store) {
    let unwanted = NewEvent { wanted: false, account: Some("acct".to_owned()), ..event("x") };
    ok(store.append(vec![delivery(10, vec![unwanted])]).await);
    let stored = ok(store.event(EventRow(1)).await);
    same(
        stored.map(|stored| (stored.state, stored.event.account)),
        Some((EventState::Ignored, Some("acct".into()))),
        "state",
    );
    same(claim(store, Queue::Events, 10).await.len(), 0, "no job");
    same(ok(store.event_counts().await), [(EventState::Ignored, 1)].into(), "only states that occur are counted");
    let again = || ReplayFilter { kind: Some("invoice.paid".to_owned()), ..ReplayFilter::default() };
    let step = ok(store.replay_some(again(), EventRow(0), 9, false, Timestamp(10)).await);
    same(step.met, Vec::new(), "nobody handles by accident what nobody wanted");
}

/// An ignored event is replayed when it is named, or ignored ones are asked for; it is ignored again when nobody wants it
/// then, and what belongs to no connection stays.
pub async fn an_ignored_event_is_replayed_when_asked_for(store: &dyn Store) {
    let unwanted = |id: &str| NewEvent { wanted: false, ..event(id) };
    let nobodys = NewDelivery { connection: NO_CONNECTION.into(), endpoint: "app".into(), ..delivery(10, Vec::new()) };
    let nobodys = NewDelivery { events: vec![unwanted("n")], ..nobodys };
    ok(store.append(vec![delivery(10, vec![unwanted("a"), unwanted("b")]), nobodys]).await);
    let ignored = || ReplayFilter { state: Some(EventState::Ignored), ..ReplayFilter::default() };
    assert!(ok(store.replay(EventRow(1), Timestamp(20)).await), "one that is named");
    same(ok(store.event_counts().await), [(EventState::Pending, 1), (EventState::Ignored, 2)].into(), "it waits");
    let step = ok(store.replay_some(ignored(), EventRow(0), 9, true, Timestamp(20)).await);
    same((step.met, step.next), (vec![EventRow(2)], None), "the other one; what belongs to nobody is passed over");
    let step = ok(store.replay_some(ignored(), EventRow(0), 9, false, Timestamp(20)).await);
    same(step.met, vec![EventRow(2)], "replayed");
    assert!(!ok(store.replay(EventRow(3), Timestamp(20)).await), "there is nobody to handle it for");
    let due = claim(store, Queue::Events, 20).await;
    let wanted = [1, 2].map(|row| Work::Event { row: EventRow(row) });
    same(due.iter().map(|one| one.work.clone()).collect(), wanted.to_vec(), "each has a job");
    for (job, how) in due.iter().zip([JobEnd::Ignored, JobEnd::Done]) {
        end(store, job.lease, how, 21).await;
    }
    let counts = [(EventState::Done, 1), (EventState::Ignored, 2)];
    same(ok(store.event_counts().await), counts.into(), "nobody wanted the first one");
    same(ok(store.job_counts().await), JobCounts::default(), "and its job has ended");
    same(ok(store.prune_events(Timestamp(11), Timestamp(0), None, 9).await).gone, 3, "all go with the others");
    assert!(!ok(store.replay(EventRow(1), Timestamp(30)).await), "nothing but its name is left");
    same(ok(store.replay_some(ignored(), EventRow(0), 9, false, Timestamp(30)).await).next, None, "nor of the others");
}

/// A dead event that is dismissed counts as dead no more, nor does the job it died with; it keeps what it died of, is replayed
/// only when it is named or its reason is, and goes with the others.
pub async fn a_dead_event_is_dismissed(store: &dyn Store) {
    let kinds = ["x", "x", "y", "y"];
    let events = (0..).zip(kinds).map(|(n, kind)| NewEvent { kind: kind.to_owned(), ..event(&format!("e{n}")) });
    ok(store.append(vec![delivery(0, events.collect())]).await);
    for job in claim(store, Queue::Events, 10).await {
        let lives = job.work == Work::Event { row: EventRow(4) };
        end(store, job.lease, if lives { JobEnd::Done } else { JobEnd::Dead { reason: "no".to_owned() } }, 11).await;
    }
    assert!(!ok(store.dismiss(EventRow(4), Timestamp(20)).await), "one that is not dead");
    assert!(ok(store.dismiss(EventRow(1), Timestamp(20)).await), "a dead one");
    assert!(!ok(store.dismiss(EventRow(1), Timestamp(20)).await), "once");
    let dismissed = ok(store.event(EventRow(1)).await).map(|event| (event.state, event.reason));
    same(dismissed, Some((EventState::Ignored, Some(format!("{DISMISSED}no")))), "with what it died of");
    let counts = ok(store.dead_counts(vec!["acme".into()]).await);
    same(counts, [("acme".into(), 2)].into(), "two are left");
    same(ok(store.dead_letters(9).await).iter().map(|one| one.events).collect(), vec![1, 1], "by cause as well");
    same(ok(store.job_counts().await).dead, 2, "and their jobs");

    let of = |kind: &str| ReplayFilter { kind: Some(kind.to_owned()), ..ReplayFilter::default() };
    let step = async |filter: ReplayFilter, after: i64, looked: u32, dry_run: bool| {
        let step = ok(store.dismiss_some(filter, EventRow(after), looked, dry_run, Timestamp(30)).await);
        (step.met.len(), step.next.map(|row| row.0))
    };
    same(step(of("*"), 0, 9, true).await, (2, None), "a dry run only counts");
    same(step(of("y"), 0, 1, false).await, (0, Some(2)), "of those looked at");
    same(step(of("y"), 2, 9, false).await, (1, None), "then the others");
    let handled = ReplayFilter { state: Some(EventState::Done), ..of("*") };
    same(step(handled, 0, 9, false).await, (0, None), "none that is not dead");
    same(ok(store.event_counts().await).get(&EventState::Dead).copied(), Some(1), "one is left");

    let ignored = || ReplayFilter { state: Some(EventState::Ignored), ..ReplayFilter::default() };
    let why = || ReplayFilter { reason: Some(format!("{DISMISSED}no")), ..ignored() };
    let met =
        async |filter, dry_run| ok(store.replay_some(filter, EventRow(0), 9, dry_run, Timestamp(40)).await).met.len();
    same((met(ignored(), true).await, met(why(), true).await), (0, 2), "by their reason only");
    assert!(ok(store.replay(EventRow(3), Timestamp(40)).await), "or by its row");
    for job in claim(store, Queue::Events, 41).await {
        end(store, job.lease, JobEnd::Dead { reason: "again".to_owned() }, 42).await;
    }
    same(ok(store.dead_counts(vec!["acme".into()]).await), [("acme".into(), 2)].into(), "it died again");
    same(
        ok(store.prune_events(Timestamp(1), FORGET_ALL, None, 9).await).gone,
        2,
        "the dismissed and the handled one go",
    );
}

/// Events are listed newest first, by state, from a row on, without payloads.
///
/// Fails when a list gives a payload, or says that it goes on where it does not.
pub async fn events_are_listed_newest_first(store: &dyn Store) {
    let own = |n: u32| n.is_multiple_of(3).then(|| Bytes::from_static(b"own"));
    let events = (0..6).map(|n| NewEvent { wanted: n % 2 == 0, payload: own(n), ..event(&n.to_string()) });
    ok(store.append(vec![delivery(10, events.collect())]).await);
    for (state, before, limit, wanted) in [
        (None, None, 3, vec![6, 5, 4]),
        (None, Some(3), 9, vec![2, 1]),
        (Some(EventState::Ignored), None, 9, vec![6, 4, 2]),
        (Some(EventState::Pending), Some(5), 1, vec![3]),
        (Some(EventState::Dead), None, 9, vec![]),
        (None, None, 0, vec![]),
    ] {
        let found = ok(store.events(state, before.map(EventRow), limit).await);
        let rows: Vec<i64> = found.events.iter().map(|one| one.row.0).collect();
        let full = !rows.is_empty() && rows.len() == limit as usize;
        same(found.next.map(|row| row.0), rows.last().copied().filter(|_| full), "where a full page goes on");
        same(rows, wanted, &format!("events {state:?} {before:?} {limit}"));
        assert!(found.events.iter().all(|one| one.event.payload.is_empty()), "no payload is listed");
    }
    let heads = ok(store.event_heads(vec![EventRow(4), EventRow(9), EventRow(1)]).await);
    let heads = heads.into_iter().map(|one| one.map(|one| (one.row.0, one.event.id, one.event.payload.len())));
    same(heads.collect(), vec![Some((4, "3".into(), 0)), None, Some((1, "0".into(), 0))], "heads by their rows");
}

/// A page goes past no more than [`LIST_WALKED`] rows looking for a state that is rare, and says where the list goes on; up to
/// [`PENDING_FOUND`] pending events, dead and ignored ones are found by themselves, whatever came after them.
///
/// Fails when a list walks on for a rare state, ends where there is more behind, or leaves an event out.
pub async fn a_list_goes_past_a_bounded_number_of_rows(store: &dyn Store) {
    let some = |name: &str, count: i64, wanted: bool| {
        let events = (0..count).map(|n| NewEvent { wanted, ..event(&format!("{name}{n}")) });
        NewDelivery { body: Bytes::new(), headers: Vec::new(), ..delivery(0, events.collect()) }
    };
    let waiting = i64::try_from(PENDING_FOUND).unwrap_or(i64::MAX) + 1;
    ok(store.append(vec![some("done", 1, true)]).await);
    for job in claim(store, Queue::Events, 0).await {
        end(store, job.lease, JobEnd::Done, 0).await;
    }
    ok(store.append(vec![some("waits", waiting, true), some("ignored", LIST_WALKED, false)]).await);
    let newest = 1 + waiting + LIST_WALKED;
    let page = async |state: EventState, before: Option<i64>, limit: u32| {
        let page = ok(store.events(Some(state), before.map(EventRow), limit).await);
        (page.events.into_iter().map(|one| one.row.0).collect::<Vec<_>>(), page.next.map(|row| row.0))
    };
    let (second, third) = (newest + 1 - LIST_WALKED, newest + 1 - 2 * LIST_WALKED);
    same(page(EventState::Done, None, 9).await, (vec![], Some(second)), "as far as a page goes");
    same(page(EventState::Done, Some(second), 9).await, (vec![], Some(third)), "and on");
    same(page(EventState::Done, Some(third), 9).await, (vec![1], None), "to the end");
    same(page(EventState::Ignored, Some(second + 2), 9).await, (vec![second + 1, second], None), "found by itself");
    same(page(EventState::Pending, None, 9).await, (vec![], Some(second)), "too many wait");
    same(
        page(EventState::Pending, Some(second), 2).await,
        (vec![second - 1, second - 2], Some(second - 2)),
        "a full page",
    );
    for (number, job) in claim(store, Queue::Events, 0).await.into_iter().enumerate() {
        let how = if number == 0 { JobEnd::Dead { reason: "no".to_owned() } } else { JobEnd::Release };
        end(store, job.lease, how, 0).await;
    }
    same(page(EventState::Dead, None, 9).await, (vec![2], None), "found by itself");
    same(page(EventState::Pending, None, 2).await, (vec![second - 1, second - 2], Some(second - 2)), "no longer");
    same(page(EventState::Pending, Some(5), 9).await, (vec![4, 3], None), "to the end");
}

/// A dead or handled event is put back to pending with a job that is due now; one that waits is left alone.
pub async fn a_replayed_event_gets_a_fresh_job(store: &dyn Store) {
    ok(store.append(vec![delivery(10, vec![event("a"), event("b")])]).await);
    assert!(!ok(store.replay(EventRow(1), Timestamp(11)).await), "a waiting event");
    let claimed = claim(store, Queue::Events, 12).await;
    let ends = [JobEnd::Done, JobEnd::Dead { reason: "no".to_owned() }];
    for (job, how) in claimed.iter().zip(ends) {
        end(store, job.lease, how, 13).await;
    }
    same(ok(store.job_counts().await).dead, 1, "a dead job");
    for row in [1, 2] {
        assert!(ok(store.replay(EventRow(row), Timestamp(20)).await), "event {row} is replayed");
        assert!(!ok(store.replay(EventRow(row), Timestamp(20)).await), "once");
    }
    same(ok(store.event_counts().await), [(EventState::Pending, 2)].into(), "both wait again");
    same(ok(store.job_counts().await), JobCounts { waiting: 2, running: 0, dead: 0 }, "nothing is dead any more");
    // Also with a clock that was set back.
    let again = claim(store, Queue::Events, 19).await;
    same(
        again.iter().map(|one| (one.attempt, one.work.clone())).collect(),
        vec![(1, Work::Event { row: EventRow(1) }), (1, Work::Event { row: EventRow(2) })],
        "fresh attempts",
    );
    assert!(!ok(store.replay(EventRow(99), Timestamp(20)).await), "an event that is not there");
}

/// Dead events are counted for each connection, however many there are, until they are replayed; the job an event died
/// with counts as dead as long, also when it dies again.
pub async fn dead_events_are_counted_by_connection(store: &dyn Store) {
    /// More than a page of anything.
    const MANY: u64 = 1_100;
    let events = (0..MANY).map(|n| event(&n.to_string())).collect();
    let other = NewDelivery { connection: "other".into(), endpoint: "there".into(), ..delivery(10, vec![event("x")]) };
    ok(store.append(vec![delivery(10, events), other]).await);
    let kill = async |now: i64| {
        let held = Claim { max: u32::MAX, ..claim_of(Queue::Events, now) };
        for job in ok(store.claim(held).await) {
            end(store, job.lease, JobEnd::Dead { reason: "no".to_owned() }, now).await;
        }
    };
    let counts = async || ok(store.dead_counts(vec!["acme".into(), "other".into(), "none".into()]).await);
    same(counts().await, BTreeMap::new(), "none is dead yet");
    kill(20).await;
    same(counts().await, [("acme".into(), MANY), ("other".into(), 1)].into(), "all are dead");
    same(ok(store.job_counts().await).dead, MANY + 1, "and their jobs");
    assert!(ok(store.replay(EventRow(2), Timestamp(30)).await), "one is replayed");
    same(counts().await, [("acme".into(), MANY - 1), ("other".into(), 1)].into(), "one less");
    same(ok(store.job_counts().await), JobCounts { waiting: 1, running: 0, dead: MANY }, "and its job");
    kill(31).await;
    same(counts().await, [("acme".into(), MANY), ("other".into(), 1)].into(), "it died again");
    same(ok(store.job_counts().await).dead, MANY + 1, "once");
    same(ok(store.prune_jobs(Timestamp(25), u32::MAX).await), MANY, "all jobs that died before then and count");
    same(ok(store.job_counts().await).dead, 1, "the one that died later");
    same(counts().await, [("acme".into(), MANY), ("other".into(), 1)].into(), "events stay");
    assert!(ok(store.replay(EventRow(1), Timestamp(40)).await), "an event whose job is pruned is replayed");
    same(ok(store.job_counts().await).dead, 1, "nothing is counted twice");
    same(ok(store.dead_counts(vec!["other".into()]).await), [("other".into(), 1)].into(), "only what was asked for");
}

/// Handled and ignored events received before a moment are pruned, lowest rows first; waiting and dead ones stay, and
/// a pruned event that comes again is new.
pub async fn only_finished_events_are_pruned(store: &dyn Store) {
    let ignored = NewEvent { wanted: false, ..event("ignored") };
    let events = vec![event("done"), event("dead"), ignored, event("waiting")];
    ok(store.append(vec![delivery(10, events), delivery(50, vec![event("late")])]).await);
    let jobs = claim(store, Queue::Events, 60).await;
    for job in &jobs {
        let of = |row| job.work == Work::Event { row: EventRow(row) };
        let how = if of(1) || of(5) {
            JobEnd::Done
        } else if of(2) {
            JobEnd::Dead { reason: "no".to_owned() }
        } else {
            JobEnd::Release
        };
        end(store, job.lease, how, 61).await;
    }
    same(ok(store.prune_events(Timestamp(10), FORGET_ALL, None, 9).await).gone, 0, "nothing was received before then");
    same(ok(store.prune_events(Timestamp(50), FORGET_ALL, None, 1).await).gone, 1, "in bounded steps");
    assert!(ok(store.event(EventRow(1)).await).is_none(), "received first");
    same(ok(store.prune_events(Timestamp(50), FORGET_ALL, None, 9).await).gone, 1, "the ignored one");
    same(ok(store.prune_events(Timestamp(50), FORGET_ALL, None, 9).await).gone, 0, "then there is none");
    let left = [(EventState::Pending, 1), (EventState::Done, 1), (EventState::Dead, 1)];
    same(ok(store.event_counts().await), left.into(), "what stays");
    let again = ok(store.append(vec![delivery(70, vec![event("done"), event("dead")])]).await);
    same(again, vec![vec![Appended::New(EventRow(6)), Appended::Duplicate(EventRow(2))]], "rows are never reused");
    let shared = ok(store.event(EventRow(2)).await).map(|stored| stored.event.payload);
    same(shared, Some(Bytes::from_static(b"{\"whole\":true}")), "a shared body lives as long as one of its events");
}

/// A handled event that is still to be forwarded stays, however old it is and however much there is, and holds nothing
/// else back; once its forwards have ended it goes.
pub async fn an_event_stays_until_it_is_forwarded(store: &dyn Store) {
    let put = super::destinations::new("app", "https://app.example/", &[]);
    same(ok(store.put_destination(put, 0, Timestamp(0)).await), true, "a destination");
    let ignored = NewEvent { wanted: false, ..event("ignored") };
    ok(store.append(vec![delivery(10, vec![event("a"), ignored, event("c")]), delivery(20, vec![event("d")])]).await);
    for (row, one) in (1..).zip(claim(store, Queue::Events, 30).await) {
        let follow = NewJob {
            work: Work::Forward { row: EventRow(row), destination: "app".to_owned() },
            unique: Some(forward_key("app", EventRow(row))),
            ..super::jobs::job(50)
        };
        let Work::Event { row: EventRow(row) } = one.work else { panic!("an event") };
        let follow = if row == 1 { vec![follow] } else { Vec::new() };
        settle_done(store, Settlement { follow, ..settlement(one.lease, JobEnd::Done, 31) }).await;
    }
    let again = NewJob {
        work: Work::Forward { row: EventRow(2), destination: "app".to_owned() },
        unique: Some(forward_key("app", EventRow(2))),
        ..super::jobs::job(50)
    };
    ok(store.enqueue(vec![again]).await);
    same(
        ok(store.prune_events(Timestamp(15), FORGET_ALL, None, 1).await).gone,
        1,
        "what is forwarded does not use the step up",
    );
    assert!(ok(store.event(EventRow(3)).await).is_none(), "the one that is not forwarded went");
    same(ok(store.prune_events(Timestamp(15), FORGET_ALL, None, 9).await).gone, 0, "the others stay");
    same(
        ok(store.prune_inbox(0, FORGET_ALL, None, 2).await).gone,
        1,
        "also where there is too much; they do not use the step up",
    );
    assert!(ok(store.event(EventRow(4)).await).is_none(), "the one that is not forwarded went");
    let due = claim(store, Queue::Forwards, 60).await;
    same(due.len(), 2, "both are forwarded");
    same(
        ok(store.prune_events(Timestamp(99), FORGET_ALL, None, 9).await).gone,
        0,
        "while they are forwarded they stay",
    );
    let of = |row| due.iter().find(|one| matches!(&one.work, Work::Forward { row: of, .. } if of.0 == row));
    for row in [1, 2] {
        let how = if row == 1 { JobEnd::Done } else { JobEnd::Dead { reason: "no".to_owned() } };
        let Some(one) = of(row) else { panic!("its job is claimed") };
        end(store, one.lease, how, 61).await;
    }
    same(ok(store.prune_events(Timestamp(99), FORGET_ALL, None, 9).await).gone, 2, "then they go");

    // Each takes two looks: there is a destination.
    let looked = i64::from(PRUNE_LOOKED / 2);
    let ignored = |n: i64| NewEvent { wanted: false, ..event(&format!("more {n}")) };
    ok(store.append(vec![delivery(100, (0..=looked).map(ignored).collect())]).await);
    let forward = |row: i64| NewJob {
        work: Work::Forward { row: EventRow(row), destination: "app".to_owned() },
        unique: Some(forward_key("app", EventRow(row))),
        ..super::jobs::job(110)
    };
    ok(store.enqueue((5..5 + looked).map(forward).collect()).await);
    let last = |row| Some(PrunePlace { received_at: Timestamp(100), row: EventRow(row) });
    let looked_at = PruneStep { gone: 0, next: last(4 + looked) };
    same(
        ok(store.prune_events(Timestamp(200), FORGET_ALL, None, 1).await),
        looked_at,
        "a step has a bound, also of what it looks at",
    );
    same(ok(store.prune_inbox(0, FORGET_ALL, None, 1).await), looked_at, "also where there is too much");
    same(
        ok(store.prune_events(Timestamp(100), FORGET_ALL, last(0), 1).await),
        PruneStep { gone: 0, next: None },
        "not so young",
    );
    same(
        ok(store.prune_events(Timestamp(200), FORGET_ALL, last(5 + looked), 1).await).gone,
        0,
        "what stands before the place stays",
    );

    // Two more behind them, of which the second was received first.
    ok(store.append(vec![delivery(102, vec![ignored(-1)]), delivery(101, vec![ignored(-2)])]).await);
    let step = ok(store.prune_events(Timestamp(200), FORGET_ALL, looked_at.next, 1).await);
    same(step, PruneStep { gone: 1, next: last(5 + looked) }, "the next step goes on behind what has to stay");
    let step = ok(store.prune_inbox(0, FORGET_ALL, step.next, 1).await);
    let second = PrunePlace { received_at: Timestamp(101), row: EventRow(7 + looked) };
    same(step, PruneStep { gone: 1, next: Some(second) }, "in the order they were received");
    assert!(ok(store.event(second.row).await).is_none(), "it went");
    same(
        ok(store.prune_inbox(0, FORGET_ALL, step.next, 2).await),
        PruneStep { gone: 1, next: None },
        "then there is none behind",
    );
    same(
        ok(store.prune_events(Timestamp(200), FORGET_ALL, None, 2).await),
        PruneStep { gone: 0, next: None },
        "the others stay",
    );
}

/// Of an event that goes before its name does nothing is read, listed, counted, kept in bytes or replayed; when it comes
/// again it is a duplicate, until its name is forgotten.
pub async fn a_name_outlives_its_event(store: &dyn Store) {
    let ignored = |id: &str| NewEvent { wanted: false, ..event(id) };
    let received = || [(10, "a"), (20, "b"), (40, "c")].map(|(at, id)| delivery(at, vec![ignored(id)]));
    ok(store.append(received().into()).await);
    same(ok(store.prune_events(Timestamp(30), Timestamp(15), None, 9).await).gone, 2, "those of age");
    same(ok(store.prune_inbox(0, Timestamp(15), None, 9).await).gone, 1, "and all there is too much of");
    for row in [1, 2, 3] {
        assert!(ok(store.event(EventRow(row)).await).is_none(), "it is not read");
        same(ok(store.replay(EventRow(row), Timestamp(50)).await), false, "nor replayed");
    }
    assert!(ok(store.events_to_handle(vec![EventRow(2)]).await).iter().all(Option::is_none), "nor handled");
    assert!(ok(store.events(None, None, 9).await).events.is_empty(), "nor listed");
    same(ok(store.event_counts().await), BTreeMap::new(), "nor counted");
    same(ok(store.inbox_bytes().await), 0, "nor kept");
    same(ok(store.prune_events(Timestamp(99), FORGET_ALL, None, 9).await).gone, 0, "nor removed again");
    same(
        ok(store.append(received().into()).await).concat(),
        vec![Appended::New(EventRow(4)), Appended::Duplicate(EventRow(2)), Appended::Duplicate(EventRow(3))],
        "only what was received before the names that are kept is new",
    );
    same(ok(store.forget_events(Timestamp(40), 9).await), 1, "names of age");
    same(ok(store.forget_events(Timestamp(99), 0).await), 0, "in bounded steps");
    same(
        ok(store.append(received().into()).await).concat(),
        vec![Appended::Duplicate(EventRow(4)), Appended::New(EventRow(5)), Appended::Duplicate(EventRow(3))],
        "what is forgotten is new",
    );
    same(ok(store.forget_events(Timestamp(99), 9).await), 1, "the rest");
    same(ok(store.forget_events(Timestamp(99), 9).await), 0, "events that are here keep their names");
}

/// A step of pruning ends once more than its bytes went, and is gone on with behind them.
pub async fn a_step_of_pruning_is_bounded_in_bytes(store: &dyn Store) {
    let third = usize::try_from(PRUNE_BYTES / 3).unwrap_or(usize::MAX);
    let ignored = |id: &str| NewEvent { wanted: false, ..event(id) };
    for (at, id) in (1..).zip(["a", "b", "c", "d", "e"]) {
        let large = NewDelivery { body: vec![b'x'; third].into(), ..delivery(at, vec![ignored(id)]) };
        ok(store.append(vec![large]).await);
    }
    let after = |n| Some(PrunePlace { received_at: Timestamp(n), row: EventRow(n) });
    let step = ok(store.prune_events(Timestamp(9), Timestamp(0), None, 9).await);
    same(step, PruneStep { gone: 3, next: after(3) }, "a third each, and what every event counts for");
    same(ok(store.prune_inbox(0, FORGET_ALL, step.next, 1).await).gone, 1, "it goes on behind them");
    let step = ok(store.prune_events(Timestamp(9), FORGET_ALL, step.next, 9).await);
    same(step, PruneStep { gone: 1, next: None }, "to the end");
}

/// Dead events are counted by cause; causes without end are counted together, and what is replayed counts no more.
pub async fn dead_events_are_counted_by_cause(store: &dyn Store) {
    let kinds = ["x", "x", "y"];
    let events = (0..).zip(kinds).map(|(n, kind)| NewEvent { kind: kind.to_owned(), ..event(&format!("e{n}")) });
    ok(store.append(vec![delivery(0, events.collect())]).await);
    let kill = async |reasons: &mut dyn Iterator<Item = String>, now: i64| {
        let held = Claim { max: u32::MAX, ..claim_of(Queue::Events, now) };
        for (job, reason) in ok(store.claim(held).await).into_iter().zip(reasons) {
            end(store, job.lease, JobEnd::Dead { reason }, now).await;
        }
    };
    let counted = async |limit: u32| {
        let letters = ok(store.dead_letters(limit).await);
        letters
            .into_iter()
            .map(|one| (one.kind, one.reason, one.events, one.first_at.0, one.last_at.0))
            .collect::<Vec<_>>()
    };
    same(counted(9).await, Vec::new(), "none is dead yet");
    kill(&mut std::iter::repeat("no".to_owned()), 20).await;
    let of = |kind: &str, reason: &str, events, first, last| (kind.to_owned(), reason.to_owned(), events, first, last);
    same(counted(9).await, vec![of("x", "no", 2, 20, 20), of("y", "no", 1, 20, 20)], "those with the most first");
    same(counted(1).await.len(), 1, "as many as asked for");
    assert!(ok(store.replay(EventRow(1), Timestamp(25)).await), "one is replayed");
    same(counted(9).await, vec![of("x", "no", 1, 20, 20), of("y", "no", 1, 20, 20)], "and counts no more");
    kill(&mut ["never".to_owned()].into_iter(), 30).await;
    same(counted(1).await, vec![of("x", "never", 1, 30, 30)], "it died of another cause");

    let more = (0..2 * CAUSES_MAX).map(|n| event(&format!("m{n}"))).collect();
    ok(store.append(vec![delivery(40, more)]).await);
    kill(&mut (0..).map(|n| format!("cause {n}")), 50).await;
    let letters = ok(store.dead_letters(u32::MAX).await);
    same(letters.len(), CAUSES_MAX + 1, "causes without end");
    let other = letters.first().map(|one| (one.reason.clone(), one.events));
    same(other, Some((OTHER_CAUSES.to_owned(), CAUSES_MAX as u64 + 3)), "the others are counted together");
    same(letters.iter().map(|one| one.events).sum(), 2 * CAUSES_MAX as u64 + 3, "none is forgotten");
}

/// Events are replayed by what they are, in bounded steps; a dry run only counts.
pub async fn events_are_replayed_by_filter(store: &dyn Store) {
    let kinds = ["x", "y", "x", "x", "x"];
    let events = (0..).zip(kinds).map(|(n, kind)| NewEvent { kind: kind.to_owned(), ..event(&format!("e{n}")) });
    ok(store.append(vec![delivery(0, events.collect()), delivery(100, vec![event("late")])]).await);
    for job in claim(store, Queue::Events, 100).await {
        let dead = job.work != Work::Event { row: EventRow(4) };
        let how = if dead { JobEnd::Dead { reason: "no".to_owned() } } else { JobEnd::Done };
        end(store, job.lease, how, 101).await;
    }
    let x = || ReplayFilter { kind: Some("x".to_owned()), ..ReplayFilter::default() };
    let dead = || ReplayFilter { state: Some(EventState::Dead), ..x() };
    let step = async |filter: ReplayFilter, after: i64, looked: u32, dry_run: bool| {
        let step = ok(store.replay_some(filter, EventRow(after), looked, dry_run, Timestamp(200)).await);
        (step.met.into_iter().map(|row| row.0).collect::<Vec<_>>(), step.next.map(|row| row.0))
    };
    same(step(x(), 0, 9, true).await, (vec![1, 3, 4, 5], None), "dead and handled ones");
    same(step(dead(), 0, 2, true).await, (vec![1], Some(2)), "of those looked at");
    same(step(dead(), 2, 9, true).await, (vec![3, 5], None), "then the others");
    let none = |filter| async move { step(filter, 0, 9, true).await.0.len() };
    same(none(ReplayFilter { provider: Some("slack".to_owned()), ..x() }).await, 0, "another provider");
    same(none(ReplayFilter { connection: Some("beta".into()), ..x() }).await, 0, "another connection");
    same(none(ReplayFilter { reason: Some("maybe".to_owned()), ..x() }).await, 0, "another reason");
    same(none(ReplayFilter { state: Some(EventState::Pending), ..x() }).await, 0, "what waits is not replayed");
    let of = async |kind: &str| none(ReplayFilter { kind: Some(kind.to_owned()), ..ReplayFilter::default() }).await;
    same((of("in*").await, of("inx*").await, of("*").await), (1, 0, 6), "types that begin so");
    same((of("in").await, of("x*").await, of("*x").await), (0, 4, 0), "a type is meant whole, and the star at its end");
    let span = |from, to| ReplayFilter { from: Some(Timestamp(from)), to: Some(Timestamp(to)), ..Default::default() };
    same((none(span(0, 100)).await, none(span(100, 101)).await), (5, 1), "from a moment on, up to another");
    same(ok(store.event_counts().await).get(&EventState::Pending).copied(), None, "a dry run changes nothing");
    same(step(dead(), 0, 3, false).await, (vec![1, 3], Some(3)), "replayed");
    same(step(dead(), 3, 9, false).await, (vec![5], None), "to the end");
    same(step(dead(), 0, 9, false).await, (vec![], None), "once");
    let again = claim(store, Queue::Events, 200).await;
    let wanted = [1, 3, 5].map(|row| Work::Event { row: EventRow(row) });
    same(again.iter().map(|one| one.work.clone()).collect(), wanted.to_vec(), "each has a fresh job");
}

/// A range of time begins and ends where its rows do, also when the clock was set back in between; a step goes past no
/// more than [`REPLAY_WALKED`] rows, whatever stands there.
pub async fn a_replay_goes_past_a_bounded_number_of_rows(store: &dyn Store) {
    let hour = i64::try_from(CLOCK_MARGIN.as_millis()).unwrap_or(i64::MAX);
    let ignored = |from: i64, count: i64| {
        let events = (from..from + count).map(|n| NewEvent { wanted: false, ..event(&format!("i{n}")) });
        NewDelivery { body: Bytes::new(), headers: Vec::new(), ..delivery(8 * hour, events.collect()) }
    };
    let one = |id: &str, at: i64| delivery(at, vec![event(id)]);
    // Two rows, then as many as a step goes past and half as many, then one, four by a clock that was set back, and one.
    ok(store.append(vec![one("a", 0), one("b", hour)]).await);
    ok(store.append(vec![ignored(0, REPLAY_WALKED), ignored(REPLAY_WALKED, REPLAY_WALKED / 2)]).await);
    let back = (0..4).map(|n| one(&format!("d{n}"), 9 * hour + 1));
    let last = std::iter::once(one("c", 10 * hour)).chain(back).chain([one("e", 20 * hour)]);
    ok(store.append(last.collect()).await);
    for job in claim(store, Queue::Events, 20 * hour).await {
        end(store, job.lease, JobEnd::Done, 20 * hour).await;
    }
    let first = 3 + REPLAY_WALKED * 3 / 2;
    let step = async |from: Option<i64>, to: Option<i64>, after: i64| {
        let filter = ReplayFilter { from: from.map(Timestamp), to: to.map(Timestamp), ..Default::default() };
        let step = ok(store.replay_some(filter, EventRow(after), 9, true, Timestamp(20 * hour)).await);
        (step.met.into_iter().map(|row| row.0).collect::<Vec<_>>(), step.next.map(|row| row.0))
    };
    let rows = |from: i64, to: i64| (first + from..=first + to).collect::<Vec<_>>();
    same(step(None, None, 0).await, (vec![1, 2], Some(REPLAY_WALKED)), "as far as a step goes");
    same(step(None, None, REPLAY_WALKED).await, (rows(0, 5), None), "and the rest");
    same(step(Some(20 * hour), None, 0).await, (rows(5, 5), None), "from where the range begins");
    same(step(Some(10 * hour), Some(20 * hour), 0).await, (rows(0, 0), None), "before the clock was set back");
    same(step(Some(9 * hour), Some(10 * hour), REPLAY_WALKED).await, (rows(1, 4), None), "and after");
    same(step(None, Some(hour), 0).await, (vec![1], None), "and no further than where it ends");
}

/// What the inbox keeps is counted in bytes, and the events received first go until it is no more than it may be.
pub async fn the_inbox_is_pruned_to_its_bytes(store: &dyn Store) {
    same(ok(store.inbox_bytes().await), 0, "empty");
    let of = |at: i64, id: &str, bytes: usize| NewDelivery {
        body: Bytes::from(vec![b'x'; bytes]),
        headers: Vec::new(),
        ..delivery(at, vec![event(id)])
    };
    ok(store.append(vec![of(30, "a", 1_000), of(10, "b", 2_000), of(20, "c", 4_000), of(5, "waits", 8_000)]).await);
    let own = NewEvent { payload: Some(Bytes::from_static(b"own")), wanted: false, ..event("own") };
    let two = NewDelivery { body: Bytes::from_static(b"shared"), ..delivery(40, vec![own, event("d")]) };
    ok(store.append(vec![two.clone(), two]).await);
    let headers = serde_json::to_string(&delivery(0, Vec::new()).headers).map_or(0, |json| json.len() as u64);
    let all = 15_000 + 6 * EVENT_BYTES + 9 + headers;
    same(ok(store.inbox_bytes().await), all, "bodies, own payloads and headers, once");
    for job in claim(store, Queue::Events, 40).await {
        let waits = job.work == Work::Event { row: EventRow(4) };
        end(store, job.lease, if waits { JobEnd::Release } else { JobEnd::Done }, 41).await;
    }
    same(ok(store.prune_inbox(all, FORGET_ALL, None, 9).await).gone, 0, "no more than it may be");
    same(ok(store.prune_inbox(all - 1, FORGET_ALL, None, 9).await).gone, 1, "as few as will do");
    assert!(ok(store.event(EventRow(2)).await).is_none(), "received first");
    same(ok(store.prune_inbox(0, FORGET_ALL, None, 1).await).gone, 1, "in bounded steps");
    assert!(ok(store.event(EventRow(3)).await).is_none(), "received next");
    same(ok(store.prune_inbox(0, FORGET_ALL, None, 9).await).gone, 3, "all that are handled or ignored");
    same(ok(store.inbox_bytes().await), 8_000 + EVENT_BYTES, "what waits stays");
    same(ok(store.event_counts().await), [(EventState::Pending, 1)].into(), "and is counted");
}

/// Settles one lease as done, at once.
pub(super) async fn settle_done(store: &dyn Store, settlement: Settlement) -> Settled {
    let settled = ok(store.settle(vec![settlement]).await);
    settled.into_iter().next().unwrap_or(Settled::LeaseLost)
}

/// A claim that holds for a second.
pub(super) fn claim_of(queue: Queue, now: i64) -> Claim {
    Claim { now: Timestamp(now), hold: Duration::from_secs(1), max: 100, queue, room: Room::default() }
}

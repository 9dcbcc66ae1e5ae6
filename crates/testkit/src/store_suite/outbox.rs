//! The outbox: a call and its job are one, departures are noted under a lease, results come with settlements.

use std::sync::Arc;
use std::time::Duration;

use palisade_core::Timestamp;
use palisade_core::store::{
    CallAnswer, CallId, CallRequest, CallResult, CallState, Claim, Claimed, Decided, Decision, Effect, Enqueued,
    JobEnd, KeptCall, Lease, OutboxCall, OutboxChange, Queue, Settled, Settlement, Store, Transacted, Value, Work,
};

use super::jobs::settlement;
use super::{EFFECT_BAD, EFFECT_GOOD, distinct, ok, same};

/// A call of a connection that says `text`.
pub(super) fn call(connection: &str, unique: Option<&str>, text: &str) -> KeptCall {
    KeptCall {
        connection: connection.into(),
        tenant: "tenant".into(),
        provider: "stripe".to_owned(),
        operation: "customers.create".to_owned(),
        replay: "keyed".to_owned(),
        request: CallRequest {
            method: "POST".to_owned(),
            target: "/v1/customers?a=b".to_owned(),
            headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
            body: text.to_owned().into(),
            grant: Some("user".into()),
            lane: Some("C1".to_owned()),
        },
        idempotency_key: format!("key-{text}"),
        unique: unique.map(str::to_owned),
        content: text.as_bytes().to_vec(),
        priority: 0,
        created_at: Timestamp(0),
        run_at: Timestamp(0),
    }
}

/// What an attempt came to.
pub(super) fn result(call: CallId, state: CallState, sent_at: Option<Timestamp>) -> CallResult {
    let done = state == CallState::Done;
    CallResult {
        call,
        state,
        next_at: (state == CallState::Waiting).then_some(Timestamp(500)),
        attempts: 1,
        sent_at,
        error: (!done).then(|| "a reason".to_owned()),
        answer: done.then(|| CallAnswer {
            status: 200,
            headers: vec![("etag".to_owned(), "e".to_owned())],
            body: "{}".into(),
            cut: false,
            request_id: Some("req_1".to_owned()),
        }),
    }
}

fn effect(sql: &str) -> Effect {
    Effect { sql: sql.to_owned(), values: vec![Value::Integer(1)] }
}

async fn keep(store: &dyn Store, calls: Vec<KeptCall>) -> Vec<Enqueued> {
    match ok(store.transact(Vec::new(), calls).await) {
        Transacted::Committed(enqueued) => enqueued,
        other @ (Transacted::EffectFailed(_) | Transacted::Clash { .. }) => panic!("calls are kept: {other:?}"),
    }
}

async fn claim(store: &dyn Store, now: i64) -> Vec<Claimed> {
    let claim = Claim {
        now: Timestamp(now),
        hold: Duration::from_millis(100),
        max: 10,
        queue: Queue::Calls,
        room: Default::default(),
    };
    ok(store.claim(claim).await)
}

async fn claim_one(store: &dyn Store, now: i64) -> Claimed {
    let mut claimed = claim(store, now).await;
    assert_eq!(claimed.len(), 1, "one call is due");
    claimed.remove(0)
}

async fn read(store: &dyn Store, id: CallId) -> OutboxCall {
    ok(store.outbox_call(id).await).unwrap_or_else(|| panic!("call {id} is kept"))
}

async fn settle(store: &dyn Store, lease: Lease, end: JobEnd, now: i64, result: CallResult) -> Settled {
    let outbox = OutboxChange { add: Vec::new(), result: Some(result) };
    let settled = ok(store.settle(vec![Settlement { outbox, ..settlement(lease, end, now) }]).await);
    settled.into_iter().next().unwrap_or(Settled::LeaseLost)
}

/// A call is read back as it was kept, and its job, due when the call is, waits in the queue of calls.
pub async fn a_kept_call_has_its_job(store: &dyn Store) {
    let later = KeptCall { run_at: Timestamp(50), priority: 3, ..call("acme", None, "b") };
    let enqueued = keep(store, vec![call("acme", None, "a"), later.clone()]).await;
    same(enqueued, vec![Enqueued::New(CallId(1)), Enqueued::New(CallId(2))], "calls are numbered from 1");
    let kept = read(store, CallId(2)).await;
    same(kept.call, later, "a call is read back as it was kept");
    same((kept.state, kept.next_at, kept.attempts), (CallState::Waiting, Some(Timestamp(50)), 0), "it waits");
    let first = claim_one(store, 10).await;
    same(first.work, Work::Call { call: CallId(1) }, "what is due is claimed");
    same(claim_one(store, 50).await.work, Work::Call { call: CallId(2) }, "and what is due later, later");
    same(ok(store.outbox_call(CallId(9)).await), None, "one that was never kept");
}

/// Effects and calls are committed together or not at all.
pub async fn calls_and_effects_are_one_commit(store: &dyn Store) {
    let failed = ok(store.transact(vec![effect(EFFECT_GOOD), effect(EFFECT_BAD)], vec![call("a", None, "x")]).await);
    if matches!(failed, Transacted::Committed(_)) {
        // A store that executes no effects cannot let one fail.
        return;
    }
    assert!(matches!(failed, Transacted::EffectFailed(_)), "the effect fails: {failed:?}");
    same(ok(store.outbox(None, None, 10).await), Vec::new(), "no call without its effect");
    assert!(claim(store, 10).await.is_empty(), "and no job");
    keep(store, vec![call("a", Some("u"), "x")]).await;
    let clash =
        ok(store.transact(vec![effect(EFFECT_GOOD)], vec![call("b", None, "n"), call("a", Some("u"), "y")]).await);
    same(clash, Transacted::Clash { at: 1, known: CallId(1) }, "another call stands under the key");
    same(ok(store.outbox(None, None, 10).await).len(), 1, "and nothing of it is written");
    let done = ok(store.transact(vec![effect(EFFECT_GOOD)], vec![call("b", None, "n")]).await);
    same(done, Transacted::Committed(vec![Enqueued::New(CallId(2))]), "numbers are not used up by what is refused");
}

/// A connection has one call of a unique key, also within a batch; another connection has its own.
pub async fn a_unique_key_is_one_call_of_a_connection(store: &dyn Store) {
    let batch = vec![call("a", Some("u"), "x"), call("a", Some("u"), "x"), call("b", Some("u"), "z")];
    let expected = vec![Enqueued::New(CallId(1)), Enqueued::Known(CallId(1)), Enqueued::New(CallId(2))];
    same(keep(store, batch).await, expected, "one call of a key");
    same(keep(store, vec![call("a", Some("u"), "x")]).await, vec![Enqueued::Known(CallId(1))], "later as well");
    let within = vec![call("c", None, "1"), call("c", Some("v"), "2"), call("c", Some("v"), "3")];
    let clash = ok(store.transact(Vec::new(), within).await);
    same(clash, Transacted::Clash { at: 2, known: CallId(4) }, "other content in one batch");
    same(claim(store, 10).await.len(), 2, "one job a call");
}

/// However many put a call of one key there at once, it is one call.
pub async fn a_unique_key_is_one_call_under_concurrency(store: Arc<dyn Store>) {
    let mut asks = Vec::new();
    for n in 0..32 {
        let store = Arc::clone(&store);
        // Each with a key of its own, as each process makes one.
        let new = KeptCall { idempotency_key: format!("key-{n}"), ..call("a", Some("u"), "x") };
        asks.push(tokio::spawn(async move { keep(&*store, vec![new]).await.remove(0) }));
    }
    let mut answers = Vec::new();
    for ask in asks {
        answers.push(ask.await.unwrap_or_else(|error| panic!("{error}")));
    }
    same(answers.iter().filter(|one| matches!(one, Enqueued::New(_))).count(), 1, "one is new");
    same(distinct(answers.into_iter().map(Enqueued::id)).len(), 1, "and all are told the same call");
    same(claim(&*store, 10).await.len(), 1, "with one job");
}

/// A departure is noted for whoever holds the job of a call that is to be made, and for nobody else.
pub async fn a_departure_is_noted_under_the_lease(store: &dyn Store) {
    keep(store, vec![call("a", None, "x"), KeptCall { run_at: Timestamp(900), ..call("a", None, "y") }]).await;
    let first = claim_one(store, 0).await;
    assert!(!ok(store.note_departure(first.lease, CallId(2), Timestamp(1)).await), "the lease is of another call");
    assert!(ok(store.note_departure(first.lease, CallId(1), Timestamp(2)).await));
    let kept = read(store, CallId(1)).await;
    same((kept.state, kept.sent_at), (CallState::Running, Some(Timestamp(2))), "it may have been made");
    // The worker dies; another takes over, and the first one wakes.
    let second = claim_one(store, 200).await;
    assert!(!ok(store.note_departure(first.lease, CallId(1), Timestamp(201)).await), "the lease is lost");
    assert!(ok(store.note_departure(second.lease, CallId(1), Timestamp(202)).await));
    same(read(store, CallId(1)).await.sent_at, Some(Timestamp(2)), "since the first time it left");
    let late = settle(store, first.lease, JobEnd::Done, 203, result(CallId(1), CallState::Done, None)).await;
    same(late, Settled::LeaseLost, "a late result is refused");
    same(read(store, CallId(1)).await.state, CallState::Running, "and writes nothing");
    settle(store, second.lease, JobEnd::Done, 204, result(CallId(1), CallState::Done, None)).await;
    let lease = claim_one(store, 900).await.lease;
    same(
        ok(store.decide_call(CallId(2), Decision::Cancel, Timestamp(901)).await),
        Decided::Now(CallState::Cancelled),
        "",
    );
    assert!(!ok(store.note_departure(lease, CallId(2), Timestamp(902)).await), "it was called back");
}

/// What an attempt came to is written with the end of its job, to a call that waits or is on its way only.
pub async fn a_result_comes_with_its_settlement(store: &dyn Store) {
    keep(store, vec![call("a", None, "x"), call("a", None, "y")]).await;
    let held = claim(store, 0).await;
    let [first, second] = held.as_slice() else { panic!("two are due") };
    let again = JobEnd::Retry { at: Timestamp(500), reason: "a reason".to_owned() };
    let waiting = result(CallId(1), CallState::Waiting, Some(Timestamp(3)));
    assert!(matches!(settle(store, first.lease, again, 10, waiting).await, Settled::Committed(_)));
    let kept = read(store, CallId(1)).await;
    same((kept.state, kept.next_at, kept.attempts), (CallState::Waiting, Some(Timestamp(500)), 1), "it comes again");
    same((kept.sent_at, kept.error.as_deref()), (Some(Timestamp(3)), Some("a reason")), "with what is known of it");
    let done = result(CallId(2), CallState::Done, None);
    settle(store, second.lease, JobEnd::Done, 20, done.clone()).await;
    let kept = read(store, CallId(2)).await;
    same((kept.state, kept.finished_at), (CallState::Done, Some(Timestamp(20))), "it is done");
    same(kept.answer, done.answer, "and its answer is kept");
    let lease = claim_one(store, 500).await.lease;
    settle(store, lease, JobEnd::Done, 501, result(CallId(2), CallState::Failed, None)).await;
    same(read(store, CallId(2)).await.state, CallState::Done, "what has ended stays");
}

/// A call whose job dies without a result is for review if it may have been made, else failed.
pub async fn a_dead_job_leaves_its_call_decided(store: &dyn Store) {
    keep(store, vec![call("a", None, "x"), call("a", None, "y")]).await;
    let held = claim(store, 0).await;
    let [first, second] = held.as_slice() else { panic!("two are due") };
    assert!(ok(store.note_departure(second.lease, CallId(2), Timestamp(1)).await));
    for one in [first, second] {
        let dead = JobEnd::Dead { reason: "why".to_owned() };
        ok(store.settle(vec![settlement(one.lease, dead, 9)]).await);
    }
    let (failed, review) = (read(store, CallId(1)).await, read(store, CallId(2)).await);
    same((failed.state, failed.finished_at), (CallState::Failed, Some(Timestamp(9))), "it was not made");
    same((review.state, review.finished_at), (CallState::Review, None), "nobody knows");
    same((failed.error.as_deref(), review.error.as_deref()), (Some("why"), Some("why")), "with the reason");
    let of = ok(store.review_counts(vec!["a".into(), "b".into()]).await);
    same(of.into_iter().collect::<Vec<_>>(), vec![("a".into(), 1)], "a review counts for its connection");
}

/// Somebody's decision changes a call by the rule, with a job where it is made again.
pub async fn a_decision_follows_the_rule(store: &dyn Store) {
    let decide = async |id: i64, decision, now| ok(store.decide_call(CallId(id), decision, Timestamp(now)).await);
    same(decide(1, Decision::Retry, 1).await, Decided::Missing, "there is none");
    keep(store, vec![call("a", None, "x"), KeptCall { run_at: Timestamp(900), ..call("a", None, "y") }]).await;
    same(decide(2, Decision::Happened, 5).await, Decided::Refused(CallState::Waiting), "nothing to find out");
    same(decide(2, Decision::Retry, 5).await, Decided::Now(CallState::Waiting), "brought forward");
    let held = claim(store, 6).await;
    same(held.len(), 2, "so both are due");
    for (one, state) in held.iter().zip([CallState::Review, CallState::Failed]) {
        let Work::Call { call } = one.work else { panic!("a call") };
        ok(store.note_departure(one.lease, call, Timestamp(7)).await);
        settle(store, one.lease, JobEnd::Done, 8, result(call, state, Some(Timestamp(7)))).await;
    }
    same(decide(1, Decision::Retry, 9).await, Decided::Refused(CallState::Review), "not before somebody found out");
    same(decide(1, Decision::NotHappened, 10).await, Decided::Now(CallState::Waiting), "it was not made");
    let kept = read(store, CallId(1)).await;
    same((kept.sent_at, kept.attempts, kept.next_at), (None, 0, Some(Timestamp(10))), "so it begins anew");
    same(kept.call.idempotency_key, "key-x".to_owned(), "under its own key");
    same(decide(2, Decision::Retry, 11).await, Decided::Now(CallState::Waiting), "one that failed");
    same(read(store, CallId(2)).await.sent_at, Some(Timestamp(7)), "what may have happened stays");
    same(claim(store, 12).await.len(), 2, "each has a job again");
    let of = ok(store.review_counts(vec!["a".into()]).await);
    same(of.len(), 0, "no review is left");
    let counts = ok(store.outbox_counts().await);
    same(counts.into_iter().collect::<Vec<_>>(), vec![(CallState::Waiting, 2)], "and the counters say so");
}

/// A call that failed and certainly was not made is retried under a new key, each time another; one that may have been
/// made keeps its key. Its unique key names the same call all the while.
pub async fn a_certain_refusal_is_retried_under_a_new_key(store: &dyn Store) {
    let fail = async |now: i64, sent_at| {
        let one = claim_one(store, now).await;
        let Work::Call { call } = one.work else { panic!("a call") };
        ok(store.note_departure(one.lease, call, Timestamp(now)).await);
        settle(store, one.lease, JobEnd::Done, now, result(call, CallState::Failed, sent_at)).await;
    };
    let retry = async |id: i64, now| {
        same(
            ok(store.decide_call(CallId(id), Decision::Retry, Timestamp(now)).await),
            Decided::Now(CallState::Waiting),
            "one that failed is made again",
        );
        read(store, CallId(id)).await.call.idempotency_key
    };
    keep(store, vec![call("a", Some("u"), "x")]).await;
    for (now, key) in [(10, "key-x~2"), (20, "key-x~3")] {
        fail(now, None).await;
        same(read(store, CallId(1)).await.call.idempotency_key == key, false, "not before somebody decides");
        same(retry(1, now).await, key.to_owned(), "what the provider refused is asked for anew");
        same(retry(1, now + 1).await, key.to_owned(), "and bringing it forward changes nothing");
    }
    same(keep(store, vec![call("a", Some("u"), "x")]).await, vec![Enqueued::Known(CallId(1))], "it is the same call");
    fail(30, None).await;
    keep(store, vec![call("a", None, "y")]).await;
    fail(40, Some(Timestamp(40))).await;
    same(retry(2, 41).await, "key-y".to_owned(), "what may have been made keeps its key");
}

/// A decision that comes while the job of an attempt before it is held is not lost with that job's end.
pub async fn a_decision_is_not_lost_with_the_end_of_a_job(store: &dyn Store) {
    let decide = async |decision, now| ok(store.decide_call(CallId(1), decision, Timestamp(now)).await);
    keep(store, vec![call("a", None, "x")]).await;
    let first = claim_one(store, 0).await;
    ok(store.note_departure(first.lease, CallId(1), Timestamp(1)).await);
    let again = JobEnd::Retry { at: Timestamp(500), reason: "a reason".to_owned() };
    settle(store, first.lease, again, 10, result(CallId(1), CallState::Waiting, Some(Timestamp(1)))).await;
    same(decide(Decision::Cancel, 20).await, Decided::Now(CallState::Review), "it may have been made");
    let second = claim_one(store, 500).await;
    same(decide(Decision::NotHappened, 501).await, Decided::Now(CallState::Waiting), "it was not");
    // Its worker read that it is for review, so there was nothing to do.
    ok(store.settle(vec![settlement(second.lease, JobEnd::Done, 502)]).await);
    same(read(store, CallId(1)).await.state, CallState::Waiting, "it is to be made");
    same(claim(store, 501).await.len(), 1, "and has its job, in line at once");
    let lease = claim_one(store, 700).await.lease;
    settle(store, lease, JobEnd::Done, 701, result(CallId(1), CallState::Done, None)).await;
    same(claim(store, 9_999).await.len(), 0, "which ends with it");
}

/// The job of a call that is due when it is kept stands in line at once, and so has its turn before what is found due
/// later; one that is decided on as well.
pub async fn a_due_call_stands_in_line_at_once(store: &dyn Store) {
    let at = |created: i64, due: i64, text: &str| KeptCall {
        created_at: Timestamp(created),
        run_at: Timestamp(due),
        ..call("a", None, text)
    };
    let is_in_line = async |now| ok(store.oldest_due(Queue::Calls, Timestamp(now)).await);
    keep(store, vec![at(50, 90, "later"), at(50, 50, "now")]).await;
    same(is_in_line(50).await, Some(Timestamp(50)), "it is due");
    // What stands in line stays there, also when the clock is set back.
    same(claim_one(store, 10).await.work, Work::Call { call: CallId(2) }, "the one that is due");
    ok(store.decide_call(CallId(1), Decision::Retry, Timestamp(60)).await);
    same(claim_one(store, 20).await.work, Work::Call { call: CallId(1) }, "the one that was brought forward");
}

/// Calls are listed newest first by state, and only those that ended are pruned; a key is free afterwards.
pub async fn calls_are_listed_and_pruned(store: &dyn Store) {
    keep(store, (0..4).map(|n| call("a", Some(&format!("u{n}")), &n.to_string())).collect()).await;
    let held = claim(store, 0).await;
    for (one, state) in held.iter().zip([CallState::Done, CallState::Review, CallState::Failed]) {
        let Work::Call { call } = one.work else { panic!("a call") };
        settle(store, one.lease, JobEnd::Done, 10, result(call, state, None)).await;
    }
    let ids = |calls: Vec<OutboxCall>| calls.into_iter().map(|call| call.id.0).collect::<Vec<_>>();
    same(ids(ok(store.outbox(None, None, 3).await)), vec![4, 3, 2], "newest first");
    same(ids(ok(store.outbox(None, Some(CallId(3)), 3).await)), vec![2, 1], "before one");
    assert!(ok(store.outbox(None, None, 9).await).iter().all(|one| one.call.request.body.is_empty()), "without bodies");
    same(ids(ok(store.outbox(Some(CallState::Review), None, 3).await)), vec![2], "by state");
    same(ok(store.prune_outbox(Timestamp(10), 9).await), 0, "none ended before");
    same(ok(store.prune_outbox(Timestamp(11), 1).await), 1, "one at a time");
    same(ok(store.prune_outbox(Timestamp(11), 9).await), 1, "and the other");
    same(ids(ok(store.outbox(None, None, 9).await)), vec![4, 2], "what nobody has decided stays");
    same(keep(store, vec![call("a", Some("u0"), "other")]).await, vec![Enqueued::New(CallId(5))], "the key is free");
}

/// Calls a handler asks for are kept with the settling of its event's job, or not at all.
pub async fn calls_of_a_settlement_are_kept_with_it(store: &dyn Store) {
    keep(store, vec![call("a", Some("u"), "x"), call("a", None, "y")]).await;
    let held = claim(store, 0).await;
    let [first, second] = held.as_slice() else { panic!("two are due") };
    let adding = |one: &Claimed, calls| {
        let Work::Call { call } = one.work else { panic!("a call") };
        let outbox = OutboxChange { add: calls, result: Some(result(call, CallState::Done, None)) };
        let lease = one.lease;
        Settlement { outbox, effects: vec![effect(EFFECT_GOOD)], ..settlement(lease, JobEnd::Done, 5) }
    };
    let clash = adding(first, vec![call("b", None, "n"), call("a", Some("u"), "other")]);
    let fine = adding(second, vec![call("b", None, "m"), call("a", Some("u"), "x")]);
    let settled = ok(store.settle(vec![clash, fine]).await);
    assert!(matches!(settled.as_slice(), [Settled::EffectFailed(_), Settled::Committed(_)]), "{settled:?}");
    let said: Vec<_> = ok(store.outbox(None, None, 9).await).into_iter().map(|one| one.call.content).collect();
    same(said, vec![b"m".to_vec(), b"y".to_vec(), b"x".to_vec()], "of the settlement that was committed only");
    same(claim(store, 6).await.len(), 1, "with its job");
}

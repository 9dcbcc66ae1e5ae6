//! Events: handled once, in order, with effects that happen once, and reasons when they are not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::world::*;
use crate::error::{Error, ErrorKind};
use crate::store::*;
use crate::webhook::Event;
use crate::worker::*;

/// A handler that writes the event's id as an effect.
fn writes() -> impl Handler {
    handler(|event, context| {
        Box::pin(async move {
            tokio::task::yield_now().await;
            context.effect("INSERT INTO seen (event) VALUES (?1)", vec![event.event.id.as_str().into()]);
            tokio::task::yield_now().await;
            Handled::Done
        })
    })
}

fn answers(what: Handled) -> impl Handler {
    handler(move |_, _| {
        let what = what.clone();
        Box::pin(async move { what })
    })
}

async fn world(kind: &str, handler: impl Handler) -> World {
    World::with(settings(), |builder| builder.on("fake", kind, handler)).await
}

fn written(world: &World) -> Vec<Value> {
    world.store.inner.effects().into_iter().flat_map(|effect| effect.values).collect()
}

async fn first(world: &World) -> (EventState, String) {
    let (state, reason) = world.event_states().await.remove(0);
    (state, reason.unwrap_or_default())
}

/// Fails when the event's change or the handler's effect is not committed, or what the event says is fetched as well.
#[tokio::test(start_paused = true)]
async fn an_event_changes_its_record_and_calls_its_handlers_in_one_commit() {
    let world = world("thing.*", writes()).await;
    let n = world.fake.put("t1", Some(1));
    world.deliver(&[n]).await;
    world.quiet().await;
    world.check_equal(&world.held().await);
    assert_eq!(written(&world), [Value::from("evt_0")]);
    assert_eq!(first(&world).await.0, EventState::Done);
    assert_eq!(world.requests(), 0, "an event that says all needs no call");
}

/// Fails when streams or handlers are given the notice while the whole event is to be had, when a passing error is taken for
/// there being none, or when one that is gone or forbidden stops the event.
#[tokio::test(start_paused = true)]
async fn an_event_of_which_a_notice_came_is_fetched_before_anybody_sees_it() {
    let told = || {
        handler(|event, context| {
            Box::pin(async move {
                let payload = String::from_utf8(event.event.payload.to_vec()).unwrap();
                context.effect("INSERT INTO told VALUES (?1)", vec![payload.as_str().into()]);
                Handled::Done
            })
        })
    };
    let (notice, whole) = (r#"{"id":"t1"}"#, r#"{"id":"t1","value":5}"#);
    for (failure, seen, requests) in [
        (None, whole, vec!["/whole/t1"]),
        (Some(ErrorKind::Timeout), whole, vec!["/whole/t1", "/whole/t1"]),
        (Some(ErrorKind::NotFound), notice, vec!["/whole/t1", "/things/t1"]),
        (Some(ErrorKind::Permission), notice, vec!["/whole/t1", "/things/t1"]),
    ] {
        let world = world("*", told()).await;
        world.fake.put("t1", Some(5));
        world.fake.truth().failures.extend(failure.map(|kind| Error::new(kind, "not now")));
        let event = Event {
            id: "evt_notice".into(),
            kind: NOTICE.to_owned(),
            account: None,
            created: Some(world.clock.now()),
            ordering_key: Some("t1".to_owned()),
            payload: Bytes::from(notice),
        };
        world.deliver_raw("conn", vec![event]).await;
        world.quiet().await;
        world.wait(Duration::from_secs(3_600)).await;
        world.quiet().await;
        assert_eq!(written(&world), [Value::from(seen)], "{failure:?}");
        assert_eq!(world.fake.truth().requests, requests, "{failure:?}");
        world.check_equal(&world.held().await);
        let kept = world.store.inner.events(None, None, 9).await.unwrap().events.remove(0);
        let kept = world.store.inner.event(kept.row).await.unwrap().unwrap();
        assert_eq!(kept.event.payload, notice, "the inbox keeps what came");
    }
}

/// Fails when a repeat, in the same delivery or after the first was handled, runs the handlers again.
#[tokio::test(start_paused = true)]
async fn a_delivery_that_comes_again_is_handled_once() {
    let world = world("*", writes()).await;
    let n = world.fake.put("t1", Some(1));
    for _ in 0..3 {
        world.deliver(&[n, n]).await;
        world.quiet().await;
    }
    assert_eq!(written(&world), [Value::from("evt_0")]);
}

/// Fails when effects are committed apart from the job's end, or a job is settled under a stale lease.
#[tokio::test(start_paused = true)]
async fn an_effect_happens_once_wherever_the_worker_is_killed() {
    for times in 0.. {
        let world = world("thing.updated", writes()).await;
        let events = [world.fake.put("t1", Some(1)), world.fake.put("t2", Some(2)), world.fake.put("t1", Some(3))];
        world.deliver(&events).await;
        world.store.layer.yielding();
        let whole = killed_after(times, world.quiet()).await.is_some();
        world.wait(Duration::from_secs(61)).await;
        world.quiet().await;
        let mut written: Vec<_> = written(&world).into_iter().map(|value| format!("{value:?}")).collect();
        written.sort();
        assert_eq!(written, [r#"Text("evt_0")"#, r#"Text("evt_1")"#, r#"Text("evt_2")"#], "after {times} yields");
        world.check_equal(&world.held().await);
        if whole {
            assert!(times > 10);
            break;
        }
    }
}

/// Fails when a panic's text is kept, its attempts have no end, or what was done beside it is committed.
#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_is_tried_again_and_then_dead() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let panics = handler(|event, _| {
        Box::pin(async move {
            CALLS.fetch_add(1, Ordering::SeqCst);
            panic!("the payload is {:?}", event.event.payload);
        })
    });
    let world = World::with(settings(), |b| b.on("fake", "*", writes()).on("fake", "*", panics)).await;
    let n = world.fake.put("t1", Some(1));
    world.deliver(&[n]).await;
    world.quiet().await;
    assert_eq!(first(&world).await, (EventState::Pending, "the handler panicked".to_owned()));
    for _ in 0..10 {
        world.wait(Duration::from_secs(3_600)).await;
        world.quiet().await;
    }
    assert_eq!(first(&world).await, (EventState::Dead, "the handler panicked".to_owned()));
    assert_eq!(CALLS.load(Ordering::SeqCst), settings().attempts_max);
    assert_eq!(written(&world), [], "what another handler wrote goes with it");
    assert_eq!(world.stream(THINGS).await.records, 0, "and so does the record's change");
}

/// Fails when a handler may hang for ever, or one that hung is not called again.
#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_finish_is_dropped_and_tried_again() {
    let hangs = handler(|_, context| {
        let attempt = context.attempt();
        Box::pin(async move {
            if attempt == 1 {
                std::future::pending::<()>().await;
            }
            Handled::Done
        })
    });
    let world = world("*", hangs).await;
    let n = world.fake.put("t1", Some(1));
    world.deliver(&[n]).await;
    world.quiet().await;
    assert_eq!(first(&world).await, (EventState::Pending, "the handler did not finish in 30 s".to_owned()));
    world.wait(Duration::from_secs(6)).await;
    world.quiet().await;
    assert_eq!(first(&world).await, (EventState::Done, String::new()));
}

/// Fails when a retry is earlier or later than the handler's wait, or what it rejects is tried again or lost to replay.
#[tokio::test(start_paused = true)]
async fn a_retry_comes_when_the_handler_says_and_a_reject_never() {
    let after = Duration::from_secs(1_000);
    let world = world("*", answers(Handled::Retry { after: Some(after), reason: "not yet".to_owned() })).await;
    let n = world.fake.put("t1", Some(1));
    world.deliver(&[n]).await;
    world.quiet().await;
    world.wait(after - Duration::from_millis(1)).await;
    assert_eq!(world.worker.step(Queue::Events).await.unwrap(), 0);
    world.wait(Duration::from_millis(1)).await;
    assert_eq!(world.worker.step(Queue::Events).await.unwrap(), 1);

    let world = self::world("*", answers(Handled::Reject { reason: "not ours".to_owned() })).await;
    world.deliver_raw("conn", vec![world.fake.event(world.fake.put("t1", Some(1)))]).await;
    world.quiet().await;
    assert_eq!(first(&world).await, (EventState::Dead, "not ours".to_owned()));
    // It is kept, and a replay brings it back.
    assert!(world.store.inner.replay(EventRow(1), world.clock.now()).await.unwrap());
    assert_eq!(world.worker.step(Queue::Events).await.unwrap(), 1);
}

/// Fails when the wait does not grow, is not spread, or grows beyond its bound.
#[tokio::test(start_paused = true)]
async fn waits_between_attempts_double_with_jitter_up_to_a_bound() {
    let settings = WorkerSettings { attempts_max: 20, retry_max: Duration::from_secs(60), ..settings() };
    let never = answers(Handled::Retry { after: None, reason: "no".to_owned() });
    let world = World::with(settings, |builder| builder.on("fake", "*", never)).await;
    let n = world.fake.put("t1", Some(1));
    world.deliver(&[n]).await;
    let mut waits = Vec::new();
    for _ in 0..8 {
        let mut waited = 0;
        while world.worker.step(Queue::Events).await.unwrap() == 0 {
            world.wait(Duration::from_millis(100)).await;
            waited += 1;
        }
        waits.push(waited);
    }
    let mut shorter = 0;
    for (n, waited) in waits.into_iter().enumerate().skip(1) {
        let whole = (50 << (n - 1)).min(600);
        shorter += u32::from(waited < whole - 1);
        assert!((whole / 2..=whole + 1).contains(&waited), "wait {n} was {waited} of {whole} tenths");
    }
    assert!(shorter > 3, "waits are spread");
}

/// Fails when what no repeat can mend is tried again, or nobody is told why it is dead.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_handled_is_dead_with_a_clear_reason() {
    let world = World::new().await;
    let event = |world: &World| world.fake.event(world.fake.put("t1", Some(1)));
    world.deliver_raw("nobody", vec![event(&world)]).await;
    let mut stranger = connection("stranger");
    stranger.provider = "acme".to_owned();
    world.store.put_connection(stranger).await.unwrap();
    world.deliver_raw("stranger", vec![event(&world)]).await;
    let mut broken = event(&world);
    broken.payload = Bytes::from_static(b"{");
    world.deliver_raw("conn", vec![broken]).await;
    world.quiet().await;
    let reasons: Vec<_> = world.event_states().await;
    let expected = [
        "the connection nobody is not known: connect it and replay",
        "the provider acme is not built in: add it and replay",
        "the event cannot be read: the event is not JSON (decode)",
    ];
    assert_eq!(reasons, expected.map(|reason| (EventState::Dead, Some(reason.to_owned()))));
}

/// Fails when a tie is written or dropped, or when the fetch's counter is taken after it was sent.
#[tokio::test(start_paused = true)]
async fn events_of_one_second_out_of_order_are_settled_by_a_fetch() {
    let world = world("*", writes()).await;
    let events = [world.fake.put("t1", Some(1)), world.fake.put("t1", Some(2)), world.fake.put("t1", Some(3))];
    // The newest event is not even there yet when the tie of the others is settled by what the provider has.
    for n in [events[1], events[0]] {
        world.deliver(&[n]).await;
        world.quiet().await;
    }
    world.check_equal(&world.held().await);
    world.deliver(&[events[2]]).await;
    world.quiet().await;
    world.check_equal(&world.held().await);
    assert_eq!(world.fake.truth().requests, ["/things/t1"], "an event that says what is known needs no fetch");
    // A deleted one is found deleted, and an older event does not bring it back.
    let (late, gone) = (world.fake.put("t1", Some(4)), world.fake.put("t1", None));
    for n in [gone, late] {
        world.deliver(&[n]).await;
        world.quiet().await;
    }
    world.check_equal(&world.held().await);
    assert_eq!(written(&world).len(), 5, "each was handled once");
}

/// Fails when a failed fetch ends its event, is repeated at once, or waits longer than the provider asked.
#[tokio::test(start_paused = true)]
async fn a_fetch_that_fails_brings_the_event_back_later() {
    let world = World::new().await;
    let events = [world.fake.put("t1", Some(1)), world.fake.put("t1", Some(2))];
    world.deliver(&[events[1]]).await;
    world.quiet().await;
    let refusal = Error::new(ErrorKind::Throttled, "wait").with_retry_after(Some(Duration::from_secs(90)));
    world.fake.truth().failures.push_back(refusal);
    world.deliver(&[events[0]]).await;
    world.quiet().await;
    assert_eq!(world.event_states().await[1], (EventState::Pending, Some("wait (throttled)".to_owned())));
    world.wait(Duration::from_secs(90)).await;
    world.quiet().await;
    assert_eq!(world.event_states().await[1], (EventState::Done, None));
    world.check_equal(&world.held().await);
}

/// Fails when an event overtakes one of its key that waits for a retry, or that one holds up other keys.
#[tokio::test(start_paused = true)]
async fn events_of_one_key_are_handled_in_order_also_when_one_fails() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    let notes = handler(move |event, context| {
        let (seen, first) = (seen.clone(), context.attempt() == 1);
        Box::pin(async move {
            tokio::task::yield_now().await;
            seen.lock().unwrap().push(event.event.id.to_string());
            match event.event.id.as_str() {
                "evt_0" if first => Handled::Retry { after: Some(Duration::from_secs(5)), reason: "busy".to_owned() },
                _ => Handled::Done,
            }
        })
    });
    let world = world("*", notes).await;
    let events = [
        world.fake.put("t1", Some(1)),
        world.fake.put("t2", Some(1)),
        world.fake.put("t1", Some(2)),
        world.fake.put("t1", None),
    ];
    world.deliver(&events).await;
    world.quiet().await;
    order.lock().unwrap().sort();
    assert_eq!(*order.lock().unwrap(), ["evt_0", "evt_1"], "the key of the failed one waits, others go on");
    world.wait(Duration::from_secs(5)).await;
    world.quiet().await;
    assert_eq!(*order.lock().unwrap(), ["evt_0", "evt_1", "evt_0", "evt_2", "evt_3"]);
}

/// Fails when the record's change is committed without the effect, or an effect that fails ends the event.
#[tokio::test(start_paused = true)]
async fn an_effect_that_fails_takes_everything_back_and_is_tried_again() {
    let world = world("*", writes()).await;
    world.store.inner.fail_effects(|_| Some("no such table: seen".to_owned()));
    let n = world.fake.put("t1", Some(1));
    world.deliver(&[n]).await;
    world.quiet().await;
    assert_eq!(first(&world).await, (EventState::Pending, "an effect failed: no such table: seen".to_owned()));
    assert_eq!(world.stream(THINGS).await.records, 0);
    world.store.inner.fail_effects(|_| None);
    world.wait(Duration::from_secs(6)).await;
    world.quiet().await;
    assert_eq!(written(&world).len(), 1);
    world.check_equal(&world.held().await);
}

/// Fails when a pattern is compared without its dot, an adapter's own types are left out, or a stray `*` is taken.
#[tokio::test(start_paused = true)]
async fn event_types_are_wanted_exactly_by_prefix_or_all() {
    let done = || answers(Handled::Done);
    let world = World::with(settings(), |b| b.on("fake", "invoice.paid", done()).on("fake", "cart.*", done())).await;
    for (provider, kind, wanted) in [
        ("fake", "invoice.paid", true),
        ("fake", "invoice.paid.late", false),
        ("fake", "invoice", false),
        ("fake", "cart.opened", true),
        ("fake", "cart", false),
        ("fake", "cartoon.opened", false),
        ("fake", "thing.updated", true),
        ("acme", "invoice.paid", false),
    ] {
        assert_eq!(world.worker.wants(provider, kind), wanted, "{provider} {kind}");
    }
    let all = World::with(settings(), |b| b.on("fake", "*", done())).await;
    assert!(all.worker.wants("fake", "anything"));
    for wrong in ["", "**", "in*", "*.paid", "invoice*"] {
        let random = Arc::new(crate::random::SystemRandom);
        let worker = Worker::builder(world.store.clone(), world.clock.clone(), random);
        assert_eq!(worker.on("fake", wrong, done()).build().unwrap_err().kind(), ErrorKind::Config, "{wrong:?}");
    }
}

/// Fails when an event that nobody wants is dropped, or is given to the worker.
#[tokio::test(start_paused = true)]
async fn an_unwanted_event_is_kept_as_ignored() {
    let world = World::new().await;
    let mut event = world.fake.event(world.fake.put("t1", Some(1)));
    event.kind = "weather.changed".to_owned();
    world.deliver_raw("conn", vec![event]).await;
    world.quiet().await;
    assert_eq!(world.event_states().await, [(EventState::Ignored, None)]);
}

/// Fails when what came before there was a handler for it cannot be handled by it, is handled when it was not asked for, or
/// is dead or done where there still is none.
#[tokio::test(start_paused = true)]
async fn what_was_ignored_is_handled_by_a_newer_handler() {
    let world = World::new().await;
    let events = ["evt_a", "evt_b"].map(|id| Event {
        kind: "weather.changed".to_owned(),
        id: id.into(),
        ..world.fake.event(world.fake.put("t1", Some(1)))
    });
    world.deliver_raw("conn", events.to_vec()).await;
    world.deliver_raw("nobody", vec![Event { id: "evt_c".into(), ..events[0].clone() }]).await;
    let replay = async |worker: &Worker, state| {
        worker.replay(ReplayFilter { state, ..ReplayFilter::default() }).await.unwrap();
        while worker.step(Queue::Background).await.unwrap() + worker.step(Queue::Events).await.unwrap() > 0 {}
    };
    let ignored = (EventState::Ignored, None);
    replay(&world.worker, Some(EventState::Ignored)).await;
    assert_eq!(world.event_states().await, [ignored.clone(), ignored.clone(), ignored], "nobody wants them yet");

    let newer = world.other(|builder| builder.on("fake", "weather.*", writes()));
    replay(&newer, None).await;
    assert_eq!(written(&world), Vec::<Value>::new(), "not unless they are asked for");
    replay(&newer, Some(EventState::Ignored)).await;
    assert_eq!(written(&world), ["evt_a", "evt_b"].map(Value::from));
    let unknown = Some("the connection nobody is not known: connect it and replay".to_owned());
    let done = (EventState::Done, None);
    assert_eq!(world.event_states().await, [done.clone(), done, (EventState::Dead, unknown)]);
}

/// Fails when a filter dismisses what it does not name, stops short, or does more than it may at once.
#[tokio::test(start_paused = true)]
async fn dead_letters_are_dismissed_in_steps() {
    let world = world("*", answers(Handled::Reject { reason: "no".to_owned() })).await;
    for round in 0..12 {
        let event = |n: usize| Event {
            id: format!("evt_{round}_{n}").into(),
            ordering_key: None,
            kind: if n.is_multiple_of(10) { "rare" } else { "usual" }.to_owned(),
            ..world.fake.event(world.fake.put("t1", Some(1)))
        };
        world.deliver_raw("conn", (0..100).map(event).collect()).await;
    }
    world.quiet().await;
    let dead = async || world.store.event_counts().await.unwrap().get(&EventState::Dead).copied().unwrap_or(0);
    let of = |kind: &str| ReplayFilter { kind: Some(kind.to_owned()), ..ReplayFilter::default() };
    assert_eq!(dead().await, 1_200);
    let counted = world.worker.dismiss_dead(&of("usual"), EventRow(0), u64::MAX, true).await.unwrap();
    assert_eq!((counted.events, dead().await), (1_080, 1_200));
    let first = world.worker.dismiss_dead(&of("rare"), EventRow(0), 700, false).await.unwrap();
    assert_eq!((first.events, dead().await), (70, 1_130));
    let rest = world.worker.dismiss_dead(&of("rare"), first.next.unwrap(), 700, false).await.unwrap();
    assert_eq!((rest.events, rest.next, dead().await), (50, None, 1_080));
}

/// Fails when the key depends on the attempt, or two names or events share one.
#[tokio::test(start_paused = true)]
async fn an_idempotency_key_belongs_to_one_event_and_name() {
    static KEYS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
    let keys = handler(|_, context| {
        let pair = (context.idempotency_key("mail"), context.idempotency_key("invoice"));
        let again = context.attempt() == 1;
        Box::pin(async move {
            KEYS.lock().unwrap().push(pair);
            if again {
                Handled::Retry { after: Some(Duration::ZERO), reason: "again".to_owned() }
            } else {
                Handled::Done
            }
        })
    });
    let world = world("*", keys).await;
    let events = [world.fake.put("t1", Some(1)), world.fake.put("t1", Some(2))];
    world.deliver(&events).await;
    world.quiet().await;
    let keys = KEYS.lock().unwrap();
    assert_eq!(keys.len(), 4);
    assert_eq!(keys[0], keys[1]);
    assert_eq!(keys[2], keys[3]);
    let different: std::collections::BTreeSet<_> = keys.iter().flat_map(|(a, b)| [a, b]).collect();
    assert_eq!(different.len(), 4);
    assert!(different.iter().all(|key| key.len() == "palisade-".len() + 32));
}

fn told(id: &str, kind: &str, payload: &'static str, created: Timestamp) -> Event {
    Event {
        id: id.into(),
        kind: kind.to_owned(),
        account: None,
        created: Some(created),
        ordering_key: None,
        payload: Bytes::from_static(payload.as_bytes()),
    }
}

/// Fails when the event is not handled because nobody asked for its type, or ends the connection before its handlers.
#[tokio::test(start_paused = true)]
async fn an_event_that_ends_the_grant_disconnects_after_its_handlers() {
    let later = START.plus(Duration::from_secs(1));
    let world = World::new().await;
    assert!(world.worker.wants("fake", GOODBYE));
    world.deliver_raw("conn", vec![told("e1", GOODBYE, "one person", later)]).await;
    world.quiet().await;
    assert_eq!(world.state().await, ConnectionState::Active);
    let other = Event { account: Some("other".into()), ..told("e2", GOODBYE, "all", later) };
    world.store.put_connection(Connection { account: Some("ours".into()), ..connection("conn") }).await.unwrap();
    world.deliver_raw("conn", vec![other]).await;
    world.deliver_raw("conn", vec![told("e3", GOODBYE, "all", START.minus(Duration::from_secs(1)))]).await;
    world.quiet().await;
    assert_eq!(world.state().await, ConnectionState::Active, "of another account, and from before the connection");
    world.deliver_raw("conn", vec![told("e4", GOODBYE, "all", later)]).await;
    world.quiet().await;
    assert_eq!(world.state().await, ConnectionState::Disconnected);

    let world = self::world(GOODBYE, answers(Handled::Retry { after: None, reason: "not yet".into() })).await;
    world.deliver_raw("conn", vec![told("e1", GOODBYE, "all", later)]).await;
    world.worker.step(Queue::Events).await.unwrap();
    assert_eq!(world.state().await, ConnectionState::Active, "its handler has not finished with it");
}

/// Fails when the streams an event asks for are not read anew.
#[tokio::test(start_paused = true)]
async fn an_event_that_tells_less_than_happened_has_its_streams_read_anew() {
    let world = World::new().await;
    world.connect().await;
    world.quiet().await;
    world.fake.put("t1", Some(1));
    world.fake.put("t2", Some(2));
    world.deliver_raw("conn", vec![told("e1", MANY, "", START)]).await;
    world.quiet().await;
    world.check_equal(&world.held().await);
}

/// A delivery of a provider's events, each of a type, that belong to the world's connection.
pub(super) fn of_provider(world: &World, provider: &str, kinds: &[&str]) -> NewDelivery {
    let events = (0..).zip(kinds).map(|(n, kind)| NewEvent {
        id: format!("{provider} {n}").into(),
        kind: (*kind).to_owned(),
        subscription: None,
        account: None,
        created: None,
        ordering_key: None,
        payload: None,
        wanted: true,
        priority: world.worker.priority(kind),
    });
    NewDelivery {
        endpoint: "conn".into(),
        connection: "conn".into(),
        provider: provider.to_owned(),
        received_at: world.clock.now(),
        headers: Vec::new(),
        body: Bytes::from_static(b"{}"),
        events: events.collect(),
    }
}

/// Fails when an event of a higher priority waits for one of a lower, or a less specific type counts.
#[tokio::test(start_paused = true)]
async fn events_go_by_the_priority_of_their_type() {
    let priorities = [("invoice.*", 5), ("invoice.paid", 9), ("*", -1), ("invoice.paid.late.*", 7)];
    let event_priorities = priorities.map(|(kind, priority)| (kind.to_owned(), priority)).into();
    let settings = WorkerSettings { batch: 1, event_priorities, ..settings() };
    let world = World::with(settings, |b| b.on("fake", "*", writes())).await;
    let kinds = ["quick", "invoice.sent", "invoice.paid", "invoice.paid.late.again", "invoice.paid"];
    assert_eq!(kinds.map(|kind| world.worker.priority(kind)), [-1, 5, 9, 7, 9]);
    world.store.inner.append(vec![of_provider(&world, "fake", &kinds)]).await.unwrap();
    while world.worker.step(Queue::Events).await.unwrap() > 0 {}
    assert_eq!(written(&world), ["fake 2", "fake 4", "fake 3", "fake 1", "fake 0"].map(Value::from));
    let wrong = WorkerSettings { event_priorities: [("in*".to_owned(), 1)].into(), ..WorkerSettings::default() };
    let random = Arc::new(crate::random::SeededRandom::new(1));
    let refused = Worker::builder(world.store.clone(), world.clock.clone(), random);
    assert_eq!(refused.settings(wrong).build().unwrap_err().kind(), ErrorKind::Config);
}

/// Fails when one group's handlers that hang take every place.
#[tokio::test(start_paused = true)]
async fn handlers_that_hang_leave_places_to_other_groups() {
    static UNDER_WAY: AtomicU32 = AtomicU32::new(0);
    let hangs = handler(|_, _| {
        Box::pin(async {
            UNDER_WAY.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        })
    });
    let settings = WorkerSettings { concurrency: 4, ..settings() };
    assert_eq!((settings.concurrency_of("hung"), settings.concurrency_of("")), (2, 2));
    let world = World::with(settings, |b| b.on("fake", "slow", hangs).on("fake", "quick", writes())).await;
    let hung = of_provider(&world, "hung", &["slow"; 20]);
    let other = of_provider(&world, "other", &["quick"; 20]);
    world.store.inner.append(vec![hung, other]).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    tokio::join!(world.worker.run(Queue::Events, stopped), async {
        world.wait(Duration::from_secs(5)).await;
        assert_eq!(UNDER_WAY.load(Ordering::SeqCst), 2, "half of the places");
        assert_eq!(written(&world).len(), 20, "the others are handled meanwhile");
        stop.send(true).unwrap();
    });
    let named = WorkerSettings { group_overrides: [("one".to_owned(), 7)].into(), ..WorkerSettings::default() };
    assert_eq!((named.concurrency_of("one"), named.concurrency_of("two")), (7, 32));
    let none = WorkerSettings { group_concurrency: Some(0), ..WorkerSettings::default() };
    assert_eq!(none.check().unwrap_err().kind(), ErrorKind::Config);
}

/// Fails when the inbox grows beyond its bytes, or what is not handled goes.
#[tokio::test(start_paused = true)]
async fn the_inbox_keeps_to_its_bytes() {
    let most = 3 * (EVENT_BYTES + 100);
    let settings = WorkerSettings { inbox_bytes_max: Some(most), ..settings() };
    let world = World::with(settings, |b| b.on("fake", "quick", writes())).await;
    world.store.inner.append(vec![of_provider(&world, "fake", &["quick"; 20])]).await.unwrap();
    world.quiet().await;
    world.store.inner.append(vec![of_provider(&world, "more", &["quick"])]).await.unwrap();
    assert!(world.store.inbox_bytes().await.unwrap() > most);
    world.store.enqueue(vec![world.worker.inner.retention_job()]).await.unwrap();
    world.wait(Duration::from_secs(61)).await;
    assert_eq!(world.worker.step(Queue::Background).await.unwrap(), 1, "it is looked at every minute");
    assert!(world.store.inbox_bytes().await.unwrap() <= most);
    let counts = world.store.event_counts().await.unwrap();
    assert_eq!(counts.get(&EventState::Pending), Some(&1), "{counts:?}");
    assert!(counts.get(&EventState::Done).is_some_and(|done| *done > 0), "no more than is needed: {counts:?}");
}

//! Gap healing: what webhooks should have brought is found by runs, told, and handled as if it had come.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::syncs::{filled, filled_with};
use super::world::*;
use crate::store::*;
use crate::worker::*;

/// Delivers an event with the body a webhook has.
async fn hear(world: &World, n: usize) {
    hear_at(world, "conn", n).await;
}

async fn hear_at(world: &World, endpoint: &str, n: usize) {
    let event = world.fake.event(n);
    let delivery = NewDelivery {
        endpoint: endpoint.into(),
        connection: "conn".into(),
        provider: "fake".to_owned(),
        received_at: world.clock.now(),
        headers: Vec::new(),
        body: event.payload.clone(),
        events: vec![NewEvent {
            id: event.id,
            kind: event.kind,
            subscription: None,
            account: None,
            created: event.created,
            ordering_key: event.ordering_key,
            payload: None,
            wanted: true,
            priority: 0,
        }],
    };
    world.store.inner.append(vec![delivery]).await.unwrap();
}

/// How a record comes to be found by a run.
#[derive(Clone, Copy)]
struct Finding {
    /// A webhook was heard before at all.
    heard: bool,
    mode: RunMode,
    /// The record's time lies before the last run.
    old: bool,
    /// Seconds from what happened to the run.
    waits: u64,
    /// The webhook told of it.
    held: bool,
    /// Something changed in it afterwards that no webhook tells of.
    changed: bool,
    /// Webhooks say only that something happened, and one came since.
    notice: Option<bool>,
}

/// Fails when a run over records tells nothing of what webhooks should have brought, or calls missed what came, what may be on
/// its way, what another run was to find, what a later notice tells of, or what nobody listens for.
#[tokio::test(start_paused = true)]
async fn a_run_over_records_tells_what_webhooks_should_have_brought() {
    const LOST: Finding = Finding {
        heard: true,
        mode: RunMode::Incremental,
        old: false,
        waits: 600,
        held: false,
        changed: false,
        notice: None,
    };
    let cases = [
        ("lost", true, LOST),
        ("nobody listens", false, Finding { heard: false, ..LOST }),
        ("a full run", true, Finding { mode: RunMode::Full, ..LOST }),
        ("of before the last run", false, Finding { old: true, ..LOST }),
        ("it may be on its way", false, Finding { waits: 60, ..LOST }),
        ("it came", false, Finding { held: true, ..LOST }),
        ("it came and changed in silence", false, Finding { held: true, changed: true, ..LOST }),
        ("no notice since", true, Finding { notice: Some(false), ..LOST }),
        ("a notice since", false, Finding { notice: Some(true), ..LOST }),
    ];
    for (name, expected, finding) in cases {
        let world = filled_with(3, seldom()).await;
        world.fake.truth().lists_no_events = true;
        world.fake.truth().things_have_position = true;
        world.connect().await;
        world.quiet().await;
        if finding.heard {
            let told = world.fake.put("t000", Some(50));
            hear(&world, told).await;
        }
        world.wait(Duration::from_secs(600)).await;
        let happened = world.clock.now();
        let lost = world.fake.put("t009", Some(9));
        let at = if finding.old { START.minus(Duration::from_secs(300)) } else { happened };
        world.fake.truth().told.insert("t009".to_owned(), (at, finding.notice.is_some()));
        if finding.held {
            hear(&world, lost).await;
        }
        if finding.changed {
            world.quiet().await;
            world.fake.put("t009", Some(10));
        }
        if finding.notice == Some(true) {
            let other = world.fake.put("t001", Some(51));
            hear(&world, other).await;
        }
        world.quiet().await;
        world.wait(Duration::from_secs(finding.waits)).await;
        world.worker.sync_now(&"conn".into(), &THINGS.into(), finding.mode).await.unwrap();
        world.quiet().await;
        world.check_equal(&world.held().await);
        let healed = world.store.healings("conn".into(), 9).await.unwrap();
        let missed: Vec<_> = healed.iter().map(|run| run.missed).collect();
        let one = Missed { count: 1, records: 1, from: Some(at), to: Some(at) };
        assert_eq!(missed, if expected { vec![one] } else { Vec::new() }, "{name}");
    }
}

/// Fails when what was healed is not kept, or an event that is on its way, or of a type nobody is sent, is called missed.
#[tokio::test(start_paused = true)]
async fn a_walk_keeps_what_it_found_missing() {
    let world = filled(5).await;
    world.connect().await;
    world.quiet().await;
    // Where nothing was ever delivered, nothing is missed.
    world.fake.put("t003", Some(7));
    world.wait(Duration::from_secs(3_600)).await;
    world.quiet().await;
    assert_eq!(world.store.healings("conn".into(), 9).await.unwrap(), []);
    let told = world.fake.put("t004", Some(8));
    hear(&world, told).await;
    let first = world.clock.now();
    world.fake.put("t000", Some(100));
    world.wait(Duration::from_secs(300)).await;
    let last = world.clock.now();
    world.fake.put("t001", Some(101));
    // Of a type that never came: it may not be subscribed to.
    world.fake.put("t002", None);
    world.wait(Duration::from_secs(1_000)).await;
    world.fake.put("t002", Some(102));
    world.worker.sync_now(&"conn".into(), &EVENTS.into(), RunMode::Incremental).await.unwrap();
    world.quiet().await;
    world.check_equal(&world.held().await);
    let healed = world.store.healings("conn".into(), 9).await.unwrap();
    assert_eq!(healed.len(), 1);
    let seconds = |at: Timestamp| Timestamp::from_seconds(at.seconds());
    let missed = Missed { count: 2, records: 0, from: Some(seconds(first)), to: Some(seconds(last)) };
    assert_eq!(healed[0].missed, missed);
}

/// Fails when the name of an event goes with its content, where the inbox may hold little or keeps it for a short time:
/// a walk would find it new and have it handled again.
#[tokio::test(start_paused = true)]
async fn what_was_handled_is_not_handled_again_though_its_content_is_gone() {
    let hour = Duration::from_secs(3_600);
    for short in
        [WorkerSettings { inbox_bytes_max: Some(0), ..settings() }, WorkerSettings { retention: hour, ..settings() }]
    {
        let handled: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = handled.clone();
        let sees = handler(move |event, _| {
            seen.lock().unwrap().push(event.event.id.to_string());
            Box::pin(async { Handled::Done })
        });
        let world = World::with(short, |builder| builder.on("fake", "*", sees)).await;
        world.fake.put("t000", Some(1));
        world.connect().await;
        world.quiet().await;
        // The walk stands while webhooks go on.
        let key = schedule::stream_key(&"conn".into(), EVENTS);
        world.worker.pause_stream(&"conn".into(), &EVENTS.into()).await.unwrap();
        let told = world.fake.put("t000", Some(2));
        hear(&world, told).await;
        world.quiet().await;
        assert_eq!(handled.lock().unwrap().len(), 1);
        world.wait(2 * hour).await;
        world.store.enqueue(vec![world.worker.inner.retention_job()]).await.unwrap();
        world.wait(2 * hour).await;
        world.quiet().await;
        assert_eq!(world.event_states().await, [], "its content is gone");
        world.worker.resume_stream(&"conn".into(), &EVENTS.into()).await.unwrap();
        world.quiet().await;
        assert!(world.store.stream(key).await.unwrap().fresh_at > Some(world.clock.now().minus(hour)), "it walked");
        assert_eq!(handled.lock().unwrap().len(), 1, "once");
    }
}

/// No run comes but those that are asked for.
fn seldom() -> WorkerSettings {
    let never = Duration::from_secs(365 * 86_400);
    WorkerSettings { incremental_every: never, full_every: never, ..settings() }
}

/// A world whose provider lists records only, of which events can be made, and what a handler of theirs was given.
async fn made(notices: bool) -> (World, Arc<Mutex<Vec<String>>>) {
    made_at(notices, &["conn"]).await
}

/// The same of a connection with these endpoints, heard at the last of them.
async fn made_at(notices: bool, endpoints: &'static [&str]) -> (World, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let sees = seen.clone();
    let sees = handler(move |event, _| {
        sees.lock().unwrap().push(event.event.ordering_key.clone().unwrap());
        Box::pin(async { Handled::Done })
    });
    let world = World::with(seldom(), |builder| {
        let ids = |_: &Connection| endpoints.iter().map(|id| (*id).into()).collect();
        builder.on("fake", "thing.*", sees).endpoints(ids)
    })
    .await;
    world.fake.truth().things_have_position = true;
    for n in 0..3 {
        world.fake.put(&format!("t{n:03}"), Some(n));
    }
    world.fake.truth().lists_no_events = true;
    world.fake.truth().makes_events = true;
    world.connect().await;
    world.quiet().await;
    let told = world.fake.put("t000", Some(50));
    hear_at(&world, endpoints.last().unwrap(), told).await;
    world.quiet().await;
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), ["t000"]);
    world.wait(Duration::from_secs(600)).await;
    for id in ["t007", "t008"] {
        let at = world.clock.now();
        world.fake.put(id, Some(9));
        world.fake.truth().told.insert(id.to_owned(), (at, notices));
        world.wait(Duration::from_secs(10)).await;
    }
    (world, seen)
}

async fn healed(world: &World) -> Vec<(u64, u64)> {
    let runs = world.store.healings("conn".into(), 9).await.unwrap();
    runs.iter().map(|run| (run.missed.events(), run.missed.records)).collect()
}

async fn run_now(world: &World) {
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Incremental).await.unwrap();
    world.quiet().await;
}

/// Fails when no event is made of what was missed, when its own webhook, coming late, is handled a second time, or when
/// an event that is here and waits for its turn is called missed.
#[tokio::test(start_paused = true)]
async fn what_was_missed_is_handled_once_whether_its_webhook_comes_late_or_not() {
    let (world, seen) = made(false).await;
    // This one came, and is not handled yet.
    let waiting = world.fake.truth().log.iter().position(|(_, id, _)| id == "t007").unwrap();
    hear(&world, waiting).await;
    world.wait(Duration::from_secs(600)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Incremental).await.unwrap();
    while world.worker.step(Queue::Background).await.unwrap() > 0 {}
    assert_eq!(healed(&world).await, [(1, 0)]);
    world.check_equal(&world.held().await);
    world.quiet().await;
    assert_eq!(*seen.lock().unwrap(), ["t007", "t008"]);

    let late = world.fake.truth().log.iter().position(|(_, id, _)| id == "t008").unwrap();
    hear(&world, late).await;
    world.quiet().await;
    assert_eq!(*seen.lock().unwrap(), ["t007", "t008"]);
}

/// Fails when a connection's second endpoint is not listened to, when what was missed goes to another than its webhook would
/// have come to, so that both are handled, or when what came to the one is told again at the other.
#[tokio::test(start_paused = true)]
async fn what_is_heard_at_any_endpoint_counts_and_what_was_missed_goes_where_it_was_heard_last() {
    let (world, seen) = made_at(false, &["first", "second"]).await;
    let of = |id: &str| world.fake.truth().log.iter().position(|(_, of, _)| of == id).unwrap();
    // This one came to the other endpoint, and is not handled yet.
    hear_at(&world, "first", of("t007")).await;
    world.wait(Duration::from_secs(120)).await;
    hear_at(&world, "second", world.fake.put("t001", Some(60))).await;
    world.wait(Duration::from_secs(600)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Incremental).await.unwrap();
    while world.worker.step(Queue::Background).await.unwrap() > 0 {}
    assert_eq!(healed(&world).await, [(1, 0)]);
    let made = world.store.events(None, None, 1).await.unwrap().events.remove(0);
    assert_eq!((made.event.id, made.endpoint), (world.fake.event(of("t008")).id, "second".into()));
    hear_at(&world, "second", of("t008")).await;
    world.quiet().await;
    assert_eq!(*seen.lock().unwrap(), ["t007", "t001", "t008"]);
}

/// Fails when a walk over events looks for what came at one endpoint of the connection only, and finds it missing.
#[tokio::test(start_paused = true)]
async fn an_event_of_the_list_is_not_told_again_at_another_endpoint() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let sees = seen.clone();
    let sees = handler(move |event, _| {
        sees.lock().unwrap().push(event.event.ordering_key.clone().unwrap());
        Box::pin(async { Handled::Done })
    });
    let endpoints = |_: &Connection| vec!["first".into(), "second".into()];
    let world = World::with(settings(), |builder| builder.on("fake", "thing.*", sees).endpoints(endpoints)).await;
    world.connect().await;
    world.quiet().await;
    for (endpoint, id) in [("first", "t000"), ("second", "t001"), ("first", "t002"), ("second", "t003")] {
        hear_at(&world, endpoint, world.fake.put(id, Some(1))).await;
        world.wait(Duration::from_secs(120)).await;
    }
    world.fake.put("t004", Some(1));
    world.wait(Duration::from_secs(600)).await;
    world.worker.sync_now(&"conn".into(), &EVENTS.into(), RunMode::Incremental).await.unwrap();
    world.quiet().await;
    assert_eq!(*seen.lock().unwrap(), ["t000", "t001", "t002", "t003", "t004"]);
    let found = world.store.events(None, None, 1).await.unwrap().events.remove(0);
    assert_eq!((found.endpoint, healed(&world).await), ("second".into(), vec![(1, 0)]));
}

/// Fails when each record makes a notice of its own, when the notice counts as one more that was missed, or when the run it
/// prompts makes another.
#[tokio::test(start_paused = true)]
async fn of_what_a_notice_should_have_told_one_is_made_for_a_page() {
    let (world, seen) = made(true).await;
    world.wait(Duration::from_secs(600)).await;
    for _ in 0..2 {
        run_now(&world).await;
        assert_eq!(*seen.lock().unwrap(), ["t008"], "the newest");
        assert_eq!(healed(&world).await, [(0, 2)]);
    }
}

/// Fails when a run brings what is too young to be judged and no later one tells of it, or tells of it twice.
#[tokio::test(start_paused = true)]
async fn what_a_run_brought_too_early_is_told_by_the_next() {
    let (world, seen) = made(false).await;
    // The youngest happened ten seconds ago, the other twenty.
    for (waits, told) in [(0, 0), (600, 2), (600, 2)] {
        world.wait(Duration::from_secs(waits)).await;
        run_now(&world).await;
        world.check_equal(&world.held().await);
        assert_eq!(seen.lock().unwrap().len(), told);
    }
    assert_eq!(healed(&world).await, [(2, 0)]);
}

/// Fails when records that are read one by one are committed without what they show was missed: after a crash, or an error as
/// here, they would be here as if a webhook had told of them.
#[tokio::test(start_paused = true)]
async fn what_was_missed_of_records_read_one_by_one_is_told_though_their_page_fails_at_first() {
    let (world, seen) = made(false).await;
    world.fake.truth().lists_names_only = true;
    world.wait(Duration::from_secs(600)).await;
    // Each page is refused with what must be read, and then fails once with what was.
    let mut commits = 0;
    world.store.layer.failing(move |call| {
        commits += u32::from(call == "commit_page");
        (call == "commit_page" && [2, 6].contains(&commits)).then_some(Fault::Before)
    });
    run_now(&world).await;
    for _ in 0..3 {
        world.wait(Duration::from_secs(600)).await;
        world.quiet().await;
    }
    world.check_equal(&world.held().await);
    let mut told = seen.lock().unwrap().clone();
    told.sort();
    assert_eq!(told, ["t007", "t008"]);
    assert_eq!(healed(&world).await, [(2, 0)]);
}

/// Fails when what happened while nobody listened is handed to handlers: weeks of it, as if it had just come.
#[tokio::test(start_paused = true)]
async fn what_happened_while_the_connection_was_disconnected_is_told_to_nobody() {
    let (world, seen) = made(false).await;
    world.store.inner.disconnect("conn".into(), Vec::new(), world.clock.now()).await.unwrap();
    world.wait(Duration::from_secs(20 * 86_400)).await;
    world.store.inner.put_connection(connection("conn")).await.unwrap();
    world.connect().await;
    let told = world.fake.put("t000", Some(60));
    hear(&world, told).await;
    world.quiet().await;
    world.wait(Duration::from_secs(600)).await;
    run_now(&world).await;
    world.check_equal(&world.held().await);
    assert_eq!(healed(&world).await, []);
    assert_eq!(*seen.lock().unwrap(), ["t000"]);
}

/// Fails when events are made where the webhook may long have been unsubscribed from.
#[tokio::test(start_paused = true)]
async fn where_nothing_was_heard_for_a_month_records_are_counted() {
    for (days, expected) in [(29, (1, 0)), (31, (0, 1))] {
        let (world, seen) = made(false).await;
        world.fake.truth().told.clear();
        for _ in 0..days {
            world.wait(Duration::from_secs(86_400)).await;
            world.quiet().await;
        }
        let at = world.clock.now();
        world.fake.put("t009", Some(9));
        world.fake.truth().told.insert("t009".to_owned(), (at, false));
        world.wait(Duration::from_secs(600)).await;
        run_now(&world).await;
        assert_eq!(healed(&world).await, [expected], "{days} days");
        assert_eq!(seen.lock().unwrap().len() as u64, expected.0);
    }
}

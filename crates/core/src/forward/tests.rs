//! Forwarding by a worker: wanted, signed, tried again, given up, in order, once, apart from each other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde_json::Value as Json;
use tokio::sync::watch;

use super::*;
use crate::auth::vault::LocalMasterKey;
use crate::clock::TokioClock;
use crate::error::{Error, ErrorKind, Outcome};
use crate::net::Reach;
use crate::random::{SeededRandom, SystemRandom};
use crate::store::memory::MemoryStore;
use crate::store::{
    Claim, Connection, ConnectionState, Connections, DestinationSpec, Destinations, EventState, Filter, ForwardCounts,
    Inbox, Jobs, NewDelivery, NewDestination, NewEvent, Queue, Room, RunMode, StreamKey,
};
use crate::transport::DiscardBody;
use crate::webhook::standard::{ID, StandardWebhook};
use crate::webhook::{RawDelivery, Verified};
use crate::worker::{Handled, Worker, WorkerSettings, handler};

const START: Timestamp = Timestamp(1_767_225_600_000);
const OLD: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const NEW: &str = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY=";

/// What a receiver does with a message.
#[derive(Clone, Debug)]
enum Does {
    Answers(u16),
    Says(u16, &'static str, String),
    Hangs,
    Breaks,
}

/// Receivers by host, and what came to them.
#[derive(Default)]
struct Net {
    plans: Mutex<BTreeMap<String, VecDeque<Does>>>,
    /// What a host does that has no plan left.
    otherwise: Mutex<BTreeMap<String, Does>>,
    came: Mutex<Vec<(Duration, Request<Bytes>)>>,
}

impl Net {
    fn plan(&self, host: &str, plan: impl IntoIterator<Item = Does>) {
        self.plans.lock().unwrap().entry(host.to_owned()).or_default().extend(plan);
    }

    fn always(&self, host: &str, does: Does) {
        self.otherwise.lock().unwrap().insert(host.to_owned(), does);
    }

    fn came(&self, host: &str) -> Vec<(Duration, Request<Bytes>)> {
        let came = self.came.lock().unwrap();
        came.iter().filter(|(_, request)| request.uri().host() == Some(host)).cloned().collect()
    }

    fn ids(&self, host: &str) -> Vec<String> {
        let id = |request: &Request<Bytes>| request.headers()[&ID].to_str().unwrap().to_owned();
        self.came(host).iter().map(|(_, request)| id(request)).collect()
    }
}

struct Wire {
    net: Arc<Net>,
    clock: Arc<TokioClock>,
}

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let host = request.uri().host().unwrap().to_owned();
        self.net.came.lock().unwrap().push((self.clock.now().since(START), request));
        // On the way there, and on the way back: a hub may die at either.
        tokio::task::yield_now().await;
        let planned = self.net.plans.lock().unwrap().get_mut(&host).and_then(VecDeque::pop_front);
        let usual = self.net.otherwise.lock().unwrap().get(&host).cloned();
        tokio::task::yield_now().await;
        match planned.or(usual).unwrap_or(Does::Answers(204)) {
            Does::Answers(status) => Ok(answer(status)),
            Does::Says(status, header, value) => {
                let mut response = answer(status);
                response.headers_mut().insert(header, value.parse().unwrap());
                Ok(response)
            }
            Does::Hangs => std::future::pending().await,
            Does::Breaks => Err(Error::new(ErrorKind::Transport, "broke").with_outcome(Outcome::Unknown)),
        }
    }
}

fn answer(status: u16) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(b"canary: the receiver's own words"));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<TokioClock>,
    net: Arc<Net>,
    forwarder: Forwarder,
    worker: Worker,
    metrics: Metrics,
}

fn spec(url: &str) -> DestinationSpec {
    DestinationSpec {
        url: url.to_owned(),
        filter: Filter { types: vec!["*".to_owned()], ..Filter::default() },
        concurrency: 4,
        timeout: Duration::from_secs(15),
        headers: vec![("x-team".to_owned(), "billing".to_owned())],
        order: Order::None,
        reach: Reach::default(),
    }
}

impl World {
    async fn new() -> Self {
        let (store, clock) = (Arc::new(MemoryStore::new()), Arc::new(TokioClock::starting_at(START)));
        let net = Arc::new(Net::default());
        let world = Self::on(store, clock, net);
        for (id, tenant) in [("acme", "t-acme"), ("globex", "t-globex")] {
            let connection = Connection {
                id: id.into(),
                tenant: tenant.into(),
                provider: "fake".to_owned(),
                environment: Default::default(),
                account: None,
                base_url: None,
                state: ConnectionState::Active,
                created_at: START,
            };
            world.store.put_connection(connection).await.unwrap();
        }
        world
    }

    /// Another hub on the same store.
    fn other(&self) -> Self {
        Self::on(Arc::clone(&self.store), Arc::clone(&self.clock), Arc::clone(&self.net))
    }

    fn on(store: Arc<MemoryStore>, clock: Arc<TokioClock>, net: Arc<Net>) -> Self {
        let bytes = "0123456789abcdef".repeat(4);
        let master = LocalMasterKey::parse(bytes.as_bytes(), Arc::new(SystemRandom)).unwrap();
        let vault = Arc::new(Vault::new(Arc::clone(&store) as _, Arc::new(master), Arc::new(SystemRandom)));
        let metrics = Metrics::default();
        let wire = Wire { net: Arc::clone(&net), clock: Arc::clone(&clock) };
        let random = Arc::new(SeededRandom::new(7));
        let forwarder = Forwarder::new(
            Arc::clone(&store) as _,
            vault,
            Arc::new(wire),
            Arc::clone(&clock) as _,
            Arc::clone(&random) as _,
            ForwardSettings::default(),
            metrics.clone(),
        );
        let fake = crate::worker::tests::world::Fake::at(Arc::clone(&clock));
        let worker = Worker::builder(Arc::clone(&store) as _, Arc::clone(&clock) as _, random)
            .provider(Arc::new(fake.clone()), Arc::new(fake))
            .forwarder(forwarder.clone())
            .settings(WorkerSettings::default())
            .build()
            .unwrap();
        Self { store, clock, net, forwarder, worker, metrics }
    }

    async fn add(&self, name: &str, spec: DestinationSpec) {
        self.forwarder.create(name, spec, Some(OLD.into())).await.unwrap();
    }

    async fn deliver(&self, connection: &str, id: &str, kind: &str, key: Option<&str>) {
        self.forwarder.look().await.unwrap();
        let event = NewEvent {
            id: id.into(),
            kind: kind.to_owned(),
            subscription: None,
            account: Some("acct_1".to_owned()),
            created: Some(START),
            ordering_key: key.map(str::to_owned),
            payload: Some(format!(r#"{{"id":"{id}","deep":{{"is":[1,2]}}}}"#).into()),
            wanted: self.worker.wants("fake", kind),
            priority: 0,
        };
        let delivery = NewDelivery {
            endpoint: "hook".into(),
            connection: connection.into(),
            provider: "fake".to_owned(),
            received_at: self.clock.now(),
            headers: Vec::new(),
            body: Bytes::new(),
            events: vec![event],
        };
        self.store.append(vec![delivery]).await.unwrap();
    }

    /// Works until nothing is due.
    async fn quiet(&self) {
        while self.worker.step(Queue::Events).await.unwrap() + self.worker.step(Queue::Forwards).await.unwrap() > 0 {}
    }

    async fn wait(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.quiet().await;
    }

    async fn row(&self, name: &str) -> StoredDestination {
        self.forwarder.destination(name).await.unwrap()
    }

    async fn states(&self) -> Vec<EventState> {
        self.store.events(None, None, 1_000).await.unwrap().events.into_iter().rev().map(|event| event.state).collect()
    }

    async fn dead(&self) -> u64 {
        self.store.job_counts().await.unwrap().dead
    }
}

/// Checks a message as a receiver does.
fn verified(request: &Request<Bytes>, secrets: &[&str], now: Timestamp) -> bool {
    let raw = RawDelivery {
        method: request.method().clone(),
        url: request.uri().to_string(),
        headers: request.headers().clone(),
        body: request.body().clone(),
    };
    let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::from(*secret)).collect();
    Verified::check(&StandardWebhook, raw, &secrets, now).is_ok()
}

/// Fails when an event that only a destination wants is left ignored, when the message is not signed as it is sent, or when
/// something of the event is not told.
#[tokio::test(start_paused = true)]
async fn an_event_only_a_destination_wants_arrives_signed_with_all_that_is_known_of_it() {
    let world = World::new().await;
    world.deliver("acme", "evt_0", "invoice.paid", None).await;
    world.add("app", spec("https://app.example/hooks?a=b")).await;
    world.deliver("acme", "evt_1", "invoice.paid", Some("sub_1")).await;
    world.quiet().await;
    assert_eq!(world.states().await, [EventState::Ignored, EventState::Done]);
    let came = world.net.came("app.example");
    assert_eq!(came.len(), 1);
    let request = &came[0].1;
    assert_eq!(
        (request.method().as_str(), request.uri().to_string().as_str()),
        ("POST", "https://app.example/hooks?a=b")
    );
    assert!(verified(request, &[OLD], world.clock.now()));
    assert!(!verified(request, &[NEW], world.clock.now()));
    assert_eq!(request.headers()["content-type"], "application/json");
    assert_eq!(request.headers()["x-team"], "billing");
    assert!(request.extensions().get::<DiscardBody>().is_some() && request.extensions().get::<Reach>().is_some());
    let body: Json = serde_json::from_slice(request.body()).unwrap();
    assert_eq!(body["type"], "invoice.paid");
    assert_eq!(body["timestamp"], "2026-01-01T00:00:00Z");
    assert_eq!(body["data"]["deep"]["is"][1], 2);
    let origin = &body["palisade"];
    for (field, value) in [
        ("provider", "fake"),
        ("connection", "acme"),
        ("tenant", "t-acme"),
        ("account", "acct_1"),
        ("event", "evt_1"),
        ("ordering_key", "sub_1"),
    ] {
        assert_eq!(origin[field], value, "{body}");
    }
    let id = request.headers()[&ID].to_str().unwrap();
    assert!(id.starts_with("msg_") && !id.contains('.') && id.len() == 36, "{id}");
    assert!(world.metrics.encode().contains(r#"palisade_forwards_total{destination="app",result="delivered"} 1"#));
}

/// Fails when a part of the filter is not looked at.
#[tokio::test(start_paused = true)]
async fn a_destination_gets_what_fits_its_filter() {
    let world = World::new().await;
    let of = |host: &str, filter: Filter| DestinationSpec { filter, ..spec(&format!("https://{host}.example/")) };
    let types = |types: &[&str]| types.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let all = Filter { types: types(&["*"]), ..Filter::default() };
    world.add("exact", of("exact", Filter { types: types(&["invoice.paid"]), ..all.clone() })).await;
    world.add("prefix", of("prefix", Filter { types: types(&["x", "invoice.*"]), ..all.clone() })).await;
    world.add("tenant", of("tenant", Filter { tenant: Some("t-globex".into()), ..all.clone() })).await;
    world.add("connection", of("connection", Filter { connection: Some("acme".into()), ..all.clone() })).await;
    world.add("stranger", of("stranger", Filter { provider: Some("other".to_owned()), ..all.clone() })).await;
    world.add("provider", of("provider", Filter { provider: Some("fake".to_owned()), ..all })).await;
    for (id, connection, kind) in [
        ("e1", "acme", "invoice.paid"),
        ("e2", "globex", "invoice.sent"),
        ("e3", "acme", "invoice"),
        ("e4", "globex", "a"),
    ] {
        world.deliver(connection, id, kind, None).await;
    }
    world.quiet().await;
    for (name, wanted) in
        [("exact", 1), ("prefix", 2), ("tenant", 2), ("connection", 2), ("stranger", 0), ("provider", 4)]
    {
        assert_eq!(world.net.came(&format!("{name}.example")).len(), wanted, "{name}");
    }
}

/// Fails when a wait is shorter than the schedule, much longer, or the schedule has no end; when the id changes; when the
/// time that is signed is the first attempt's; or when the receiver's own words are kept.
#[tokio::test(start_paused = true)]
async fn a_failing_receiver_is_tried_on_the_published_schedule_and_then_given_up() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    let kinds = [Does::Answers(500), Does::Breaks, Does::Answers(302), Does::Answers(404), Does::Answers(503)];
    world.net.plan("app.example", kinds.into_iter().cycle().take(10));
    world.deliver("acme", "evt_1", "a", None).await;
    world.quiet().await;
    for _ in 0..200 {
        world.wait(Duration::from_secs(1_800)).await;
    }
    let came = world.net.came("app.example");
    assert_eq!(came.len(), 10, "the first and nine more");
    let mut due = Duration::ZERO;
    for (i, wait) in SCHEDULE.iter().enumerate() {
        let gap = came[i + 1].0 - came[i].0;
        due += *wait;
        // The test looks every half hour.
        assert!(gap >= *wait && gap <= wait.mul_f64(1.1) + Duration::from_secs(1_800), "{i}: {gap:?} for {wait:?}");
    }
    assert_eq!(due, Duration::from_secs(75 * 3_600 + 35 * 60 + 5), "as the specification has it");
    assert_eq!(world.net.ids("app.example").iter().collect::<BTreeSet<_>>().len(), 1, "one id");
    for (at, request) in &came {
        assert!(verified(request, &[OLD], START.plus(*at)), "signed anew each time");
    }
    assert_eq!(world.dead().await, 1);
    let health = world.row("app").await.health;
    assert_eq!((health.failures, health.reason.as_deref()), (10, Some("the receiver answered 503")));
    assert!(health.disabled.is_none(), "three days are not five");
    assert!(world.metrics.encode().contains(r#"palisade_forwards_total{destination="app",result="dead"} 1"#));
}

/// Fails when a claim whose worker died counts as an attempt at the receiver, when such claims go on for ever, or when an
/// event is given up by them and nobody is told.
#[tokio::test(start_paused = true)]
async fn a_hub_that_keeps_dying_uses_up_nothing_of_the_schedule() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    let lose = async |times: u32| {
        while world.worker.step(Queue::Events).await.unwrap() > 0 {}
        for _ in 0..times {
            let (now, hold) = (world.clock.now(), Duration::from_secs(60));
            let claim = Claim { now, hold, max: 9, queue: Queue::Forwards, room: Room::default() };
            assert_eq!(world.store.claim(claim).await.unwrap().len(), 1);
            tokio::time::sleep(hold).await;
        }
    };
    world.deliver("acme", "evt_1", "a", None).await;
    lose(LOST_MAX - 1).await;
    world.net.plan("app.example", [Does::Answers(500)]);
    world.quiet().await;
    world.wait(Duration::from_secs(6)).await;
    let came = world.net.came("app.example");
    assert_eq!((came.len(), world.dead().await), (2, 0), "the second attempt of the schedule");
    assert!(came[1].0 - came[0].0 <= Duration::from_secs(6), "after its first wait");

    world.deliver("acme", "evt_2", "a", None).await;
    lose(LOST_MAX).await;
    world.quiet().await;
    assert_eq!((world.net.came("app.example").len(), world.dead().await), (2, 1), "it is not begun once more");
    let dead = world.forwarder.dead("app", None, 9).await.unwrap();
    assert_eq!(dead.iter().map(|one| one.row.0).collect::<Vec<_>>(), [2]);
    assert!(dead[0].reason.contains("worker died"), "{dead:?}");
    assert!(world.metrics.encode().contains(r#"palisade_forwards_total{destination="app",result="dead"} 1"#));
    assert_eq!(world.row("app").await.health.failures, 0, "it says nothing of the receiver");
}

/// Fails when an event that was given up is not to be found, when one is sent again or dismissed that was not meant, or when
/// one is still listed that somebody has seen to.
#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_listed_and_sent_again_or_dismissed() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    world.net.always("app.example", Does::Answers(500));
    for n in 1..=4 {
        world.deliver("acme", &format!("evt_{n}"), "a", None).await;
    }
    world.quiet().await;
    let counts = async || world.forwarder.counts(vec!["app".to_owned()]).await.unwrap()["app"];
    assert_eq!(counts().await, ForwardCounts { waiting: 4, dead: 0 });
    for _ in 0..200 {
        world.wait(Duration::from_secs(1_800)).await;
    }
    assert_eq!(counts().await, ForwardCounts { waiting: 0, dead: 4 });
    let rows = async || {
        let dead = world.forwarder.dead("app", None, 9).await.unwrap();
        dead.into_iter().map(|one| one.row.0).collect::<Vec<_>>()
    };
    assert_eq!(rows().await, [1, 2, 3, 4]);
    let page = world.forwarder.dead("app", Some(EventRow(2)), 1).await.unwrap();
    assert_eq!((page[0].row.0, page[0].reason.as_str()), (3, "the receiver answered 500"));

    world.net.always("app.example", Does::Answers(204));
    let before = world.net.came("app.example").len();
    let named = Some(vec![EventRow(2), EventRow(99)]);
    let resent = world.forwarder.resend("app", named.clone()).await.unwrap();
    assert_eq!((resent.events, resent.left, counts().await.waiting), (1, 3, 1));
    assert_eq!(world.forwarder.resend("app", named).await.unwrap().events, 0, "it waits already");
    world.quiet().await;
    assert_eq!((world.net.came("app.example").len(), rows().await), (before + 1, vec![1, 3, 4]));
    assert_eq!(world.forwarder.dismiss("app", Some(vec![EventRow(1), EventRow(2)])).await.unwrap(), 1);
    assert_eq!((rows().await, world.dead().await), (vec![3, 4], 2));
    world.forwarder.enable("app", false).await.unwrap();
    assert_eq!(world.forwarder.resend("app", None).await.unwrap_err().kind(), ErrorKind::Conflict);
    world.forwarder.enable("app", true).await.unwrap();
    let all = world.forwarder.resend("app", None).await.unwrap();
    assert_eq!((all.events, all.left), (2, 0));
    world.quiet().await;
    assert_eq!((world.net.came("app.example").len(), world.dead().await), (before + 3, 0));
    assert_eq!((world.forwarder.dismiss("app", None).await.unwrap(), counts().await), (0, ForwardCounts::default()));
    let missing = world.forwarder.dead("nobody", None, 9).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

/// Fails when something is sent to a destination that is paused, also by a hub that starts meanwhile or was not told; when
/// what waits is given up, or uses up an attempt; when it goes out in another order; or when the others wait too.
#[tokio::test(start_paused = true)]
async fn what_is_for_a_paused_destination_waits_and_goes_out_in_order() {
    let world = World::new().await;
    let one_by_one = |host: &str| DestinationSpec { concurrency: 1, ..spec(&format!("https://{host}.example/")) };
    world.add("app", one_by_one("app")).await;
    world.add("other", one_by_one("other")).await;
    let events = |host: &str| {
        let event = |(_, request): &(_, Request<Bytes>)| {
            let body: Json = serde_json::from_slice(request.body()).unwrap();
            body["palisade"]["event"].as_str().map(str::to_owned)
        };
        world.net.came(host).iter().filter_map(event).collect::<Vec<_>>()
    };
    world.net.plan("app.example", [Does::Answers(500)]);
    world.deliver("acme", "e0", "a", None).await;
    world.quiet().await;
    assert_eq!(events("app.example"), ["e0"], "it failed, and waits for its next attempt");

    let second = world.other();
    second.forwarder.look().await.unwrap();
    let asked_at = world.clock.now();
    assert!(world.forwarder.pause("app", true).await.unwrap());
    assert!(!world.forwarder.pause("app", true).await.unwrap(), "it is paused already");
    for n in 1..=5 {
        world.deliver("acme", &format!("e{n}"), "a", None).await;
    }
    world.quiet().await;
    let standing = |row: &StoredDestination| ForwardSettings::default().standing(row, world.clock.now());
    let row = world.row("app").await;
    assert_eq!((row.paused_at, standing(&row)), (Some(asked_at), Standing::Paused));
    // For longer than the whole schedule; one hub knew the destination before, one is started anew.
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        world.quiet().await;
        second.quiet().await;
        world.other().quiet().await;
    }
    let counts = world.forwarder.counts(vec!["app".to_owned()]).await.unwrap()["app"];
    assert_eq!((events("app.example").len(), counts), (1, ForwardCounts { waiting: 6, dead: 0 }));
    assert_eq!(events("other.example"), ["e0", "e1", "e2", "e3", "e4", "e5"]);
    let tried = world.forwarder.test("app").await.unwrap();
    assert_eq!(tried.answer, Answer::Delivered { status: 204 }, "somebody who asks is answered");

    assert!(world.forwarder.pause("app", false).await.unwrap());
    assert_eq!(standing(&world.row("app").await), Standing::Active, "what failed before counts no more");
    world.quiet().await;
    let (again, sent): (Vec<_>, Vec<_>) = events("app.example").into_iter().partition(|event| event == "e0");
    assert_eq!((again.len(), sent), (2, ["e1", "e2", "e3", "e4", "e5"].map(str::to_owned).to_vec()));
    assert_eq!(world.forwarder.counts(vec!["app".to_owned()]).await.unwrap()["app"], ForwardCounts::default());
    assert_eq!(world.forwarder.pause("nobody", true).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Fails when the time of a pause counts as one in which the destination failed, so that the first failure behind it disables
/// it; or when what it asked for before (`Retry-After`) keeps it waiting once it is resumed, by another process too.
#[tokio::test(start_paused = true)]
async fn a_resumed_destination_begins_anew() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    let revision = world.row("app").await.revision;
    for _ in 0..9 {
        let why = Some("it answered 500".to_owned());
        world.store.note_forward("app".to_owned(), why, revision, world.clock.now()).await.unwrap().unwrap();
    }
    world.forwarder.pause("app", true).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6 * 86_400)).await;
    world.net.plan("app.example", [Does::Says(429, "retry-after", "21600".to_owned())]);
    world.deliver("acme", "e0", "a", None).await;
    world.forwarder.pause("app", false).await.unwrap();
    world.quiet().await;
    let health = world.row("app").await.health;
    assert_eq!((health.failures, health.disabled), (1, None));

    world.deliver("acme", "e1", "a", None).await;
    world.quiet().await;
    assert_eq!(world.net.came("app.example").len(), 1, "it asked for six hours");
    let other = world.other();
    for paused in [true, false] {
        other.forwarder.pause("app", paused).await.unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        world.quiet().await;
    }
    assert_eq!(world.net.came("app.example").len(), 2, "somebody said that it may be asked again");
}

/// Fails when a pause and a disabling are one thing: when enabling resumes, resuming enables, or what waited for a paused
/// destination is given up because it was disabled for a while.
#[tokio::test(start_paused = true)]
async fn a_paused_destination_that_is_disabled_is_both() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    world.deliver("acme", "e1", "a", None).await;
    world.forwarder.pause("app", true).await.unwrap();
    // Put in line while it is paused.
    world.quiet().await;
    world.forwarder.enable("app", false).await.unwrap();
    world.deliver("acme", "e2", "a", None).await;
    world.quiet().await;
    let row = world.row("app").await;
    assert_eq!(ForwardSettings::default().standing(&row, world.clock.now()), Standing::Disabled);
    assert!(row.paused_at.is_some() && row.health.disabled.is_some());
    assert_eq!((world.net.came("app.example").len(), world.dead().await), (0, 0));
    world.forwarder.enable("app", true).await.unwrap();
    world.quiet().await;
    assert_eq!((world.net.came("app.example").len(), world.dead().await), (0, 0), "it is paused still");
    world.forwarder.pause("app", false).await.unwrap();
    world.quiet().await;
    assert_eq!((world.net.came("app.example").len(), world.dead().await), (1, 0), "the one that waited");
    world.forwarder.enable("app", false).await.unwrap();
    world.forwarder.pause("app", true).await.unwrap();
    world.forwarder.pause("app", false).await.unwrap();
    assert!(world.row("app").await.health.disabled.is_some(), "nobody has enabled it");
}

/// Fails when a replay of a time leaves an event listed as given up that waits to be sent by it.
#[tokio::test(start_paused = true)]
async fn a_replay_takes_up_what_was_given_up() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    world.net.plan("app.example", [Does::Answers(410)]);
    world.deliver("acme", "evt_1", "a", None).await;
    world.quiet().await;
    assert_eq!(world.forwarder.dead("app", None, 9).await.unwrap().len(), 1);
    world.forwarder.enable("app", true).await.unwrap();
    let all = Replay { since: START, until: Timestamp(i64::MAX), before: None, limit: 1_000, dry_run: false };
    world.forwarder.replay("app", all).await.unwrap();
    world.quiet().await;
    assert_eq!((world.forwarder.dead("app", None, 9).await.unwrap(), world.dead().await), (Vec::new(), 0));
}

/// Fails when a success is judged by what was known before a failure was noted: five failures among hundreds of successes
/// are not five in a row.
#[tokio::test(start_paused = true)]
async fn failures_scattered_among_successes_are_not_in_a_row() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    for n in 0..20 {
        if n % 4 == 1 {
            world.net.plan("app.example", [Does::Answers(500)]);
        }
        world.deliver("acme", &format!("evt_{n}"), "a", None).await;
        world.quiet().await;
    }
    assert_eq!(world.clock.now(), START, "within the time for which it goes on with what it knows");
    let row = world.row("app").await;
    assert_eq!((row.health.failures, row.health.failing_since), (0, None), "each was followed by a success");
    assert_eq!(ForwardSettings::default().standing(&row, world.clock.now()), Standing::Active);
}

/// Fails when `Retry-After` is not heeded in one of its forms, shortens a wait, or is believed without end.
#[tokio::test(start_paused = true)]
async fn a_receiver_that_asks_for_time_gets_it_within_bounds() {
    let date = httpdate::fmt_http_date(START.plus(Duration::from_secs(900)).to_system_time());
    for (header, at_least, at_most) in [
        ("600".to_owned(), 600, 660),
        (date, 899, 990),
        ("1".to_owned(), 5, 6),
        ("999999999".to_owned(), 86_400, 95_040),
        ("soon".to_owned(), 5, 6),
    ] {
        let world = World::new().await;
        world.add("app", spec("https://app.example/")).await;
        world.net.plan("app.example", [Does::Says(429, "retry-after", header.clone())]);
        world.deliver("acme", "evt_1", "a", None).await;
        world.quiet().await;
        let step = Duration::from_secs(if at_least > 3_600 { 60 } else { 1 });
        for _ in 0..3_600 {
            if world.net.came("app.example").len() > 1 {
                break;
            }
            world.wait(step).await;
        }
        let came = world.net.came("app.example");
        let gap = (came[1].0 - came[0].0).as_secs();
        assert!((at_least..=at_most + step.as_secs()).contains(&gap), "{header}: {gap} s");
        assert_eq!(world.row("app").await.health.failures, 0, "it took it then");
    }
}

/// Fails when a receiver that asks for time in one answer is asked again by the other events that wait for it, when it
/// holds up another destination, or when a changed address inherits the wait.
#[tokio::test(start_paused = true)]
async fn a_receiver_that_asks_for_time_gets_it_from_all_its_events() {
    for status in [429, 503] {
        let world = World::new().await;
        world.add("app", spec("https://app.example/")).await;
        world.add("other", spec("https://other.example/")).await;
        world.net.plan("app.example", [Does::Says(status, "retry-after", "600".to_owned())]);
        world.deliver("acme", "evt_0", "a", None).await;
        world.quiet().await;
        for n in 1..=20 {
            world.deliver("acme", &format!("evt_{n}"), "a", None).await;
        }
        for _ in 0..59 {
            world.wait(Duration::from_secs(10)).await;
        }
        let came = |host: &str| world.net.came(host).len();
        assert_eq!((came("app.example"), came("other.example")), (1, 21), "{status}");
        world.wait(Duration::from_secs(75)).await;
        assert_eq!((came("app.example"), world.dead().await), (22, 0), "{status}: then all of them, the first again");

        world.net.plan("app.example", [Does::Says(status, "retry-after", "99999".to_owned())]);
        world.deliver("acme", "evt_21", "a", None).await;
        world.quiet().await;
        world.deliver("acme", "evt_22", "a", None).await;
        world.quiet().await;
        assert_eq!((came("app.example"), came("new.example")), (23, 0), "{status}");
        world.forwarder.change("app", spec("https://new.example/")).await.unwrap();
        world.wait(Duration::from_secs(1)).await;
        assert_eq!((came("app.example"), came("new.example")), (23, 1), "{status}: another address");
    }
}

/// Fails when 410 does not disable, when anything is sent to what is disabled, when what waited comes to life by itself, or
/// when a replay leaves out what came meanwhile.
#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_gone_is_disabled_and_gets_what_it_missed_when_it_is_back() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    world.net.plan("app.example", [Does::Answers(500), Does::Answers(410)]);
    world.deliver("acme", "evt_1", "a", None).await;
    world.quiet().await;
    world.deliver("acme", "evt_2", "a", None).await;
    world.quiet().await;
    let disabled = world.row("app").await.health.disabled.unwrap();
    assert_eq!(disabled.by, DisabledBy::Receiver);
    world.deliver("acme", "evt_3", "a", None).await;
    world.wait(Duration::from_secs(600)).await;
    assert_eq!(world.net.came("app.example").len(), 2, "nothing is sent any more");
    assert_eq!(world.states().await, [EventState::Done, EventState::Done, EventState::Ignored]);
    assert_eq!(world.dead().await, 2, "the one that was refused and the one that waited");
    let all = Replay { since: START, until: Timestamp(i64::MAX), before: None, limit: 100, dry_run: false };
    let error = world.forwarder.replay("app", all).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "it is disabled");
    let counted = world.forwarder.replay("app", Replay { dry_run: true, ..all }).await.unwrap();
    assert_eq!((counted.looked_at, counted.wanted, counted.next_before), (3, 3, None));
    assert!(world.forwarder.enable("app", true).await.unwrap());
    assert!(!world.forwarder.enable("app", true).await.unwrap());
    assert_eq!(world.forwarder.settings().standing(&world.row("app").await, world.clock.now()), Standing::Active);
    world.quiet().await;
    assert_eq!(world.net.came("app.example").len(), 2);
    let done = world.forwarder.replay("app", all).await.unwrap();
    let again = world.forwarder.replay("app", all).await.unwrap();
    assert_eq!((done.wanted, again.wanted), (3, 3));
    world.quiet().await;
    let ids = world.net.ids("app.example");
    assert_eq!(ids.len(), 5, "each once more: two replays at a time are one");
    assert!(ids[2..].contains(&ids[0]) && ids[2..].contains(&ids[1]), "under the ids they had");
}

/// Fails when a replay takes what arrived at another time, or cannot be gone on with where its limit ended it.
#[tokio::test(start_paused = true)]
async fn a_replay_takes_the_events_of_a_time_in_steps() {
    let world = World::new().await;
    for n in 0..10 {
        world.deliver("acme", &format!("evt_{n}"), "a", None).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    world.add("app", spec("https://app.example/")).await;
    let minute = |n: u64| START.plus(Duration::from_secs(60 * n));
    let mut replay = Replay { since: minute(2), until: minute(7), before: None, limit: 3, dry_run: false };
    let (mut wanted, mut steps) = (0, 0);
    loop {
        let done = world.forwarder.replay("app", replay).await.unwrap();
        assert!(done.looked_at <= 3);
        wanted += done.wanted;
        steps += 1;
        match done.next_before {
            Some(next) => replay.before = Some(next),
            None => break,
        }
    }
    assert!(steps > 2);
    world.quiet().await;
    assert_eq!((wanted, world.net.came("app.example").len()), (5, 5));
}

/// Fails when failures do not tell somebody, when a destination is disabled too soon or never, or by failures that were
/// made good.
#[tokio::test(start_paused = true)]
async fn a_destination_that_fails_for_days_is_told_and_then_disabled() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    world.net.always("app.example", Does::Answers(500));
    let standing = async || world.forwarder.settings().standing(&world.row("app").await, world.clock.now());
    world.deliver("acme", "evt_0", "a", None).await;
    world.quiet().await;
    assert_eq!(standing().await, Standing::Retrying);
    world.wait(Duration::from_secs(400)).await;
    world.wait(Duration::from_secs(3_300)).await;
    assert_eq!(standing().await, Standing::Failing, "for an hour");
    let mut days = 0;
    while world.row("app").await.health.disabled.is_none() {
        assert!(days <= 6, "never disabled");
        world.deliver("acme", &format!("day_{days}"), "a", None).await;
        for _ in 0..24 {
            world.wait(Duration::from_secs(3_600)).await;
        }
        days += 1;
    }
    assert!(days >= 5, "disabled after {days} days");
    let row = world.row("app").await;
    assert_eq!(row.health.disabled.as_ref().unwrap().by, DisabledBy::Failures);
    assert_eq!(standing().await, Standing::Disabled);
    assert!(world.dead().await > 0);

    // One success forgets it all.
    world.add("other", spec("https://other.example/")).await;
    world.net.plan("other.example", [Does::Answers(500), Does::Answers(200)]);
    world.deliver("acme", "evt_9", "a", None).await;
    world.quiet().await;
    assert_eq!(world.row("other").await.health.failures, 1);
    world.wait(Duration::from_secs(60)).await;
    let health = world.row("other").await.health;
    assert_eq!((health.failures, health.failing_since), (0, None));
    assert!(health.delivered_at.is_some());
}

/// Fails when a receiver that hangs holds the one beside it, has more attempts under way than it may, or is waited for
/// longer than its timeout.
#[tokio::test(start_paused = true)]
async fn a_receiver_that_hangs_does_not_delay_another() {
    let world = World::new().await;
    world.net.always("hangs.example", Does::Hangs);
    world.add("hangs", spec("https://hangs.example/")).await;
    world.add("works", spec("https://works.example/")).await;
    for n in 0..200 {
        world.deliver("acme", &format!("evt_{n}"), "a", None).await;
    }
    while world.worker.step(Queue::Events).await.unwrap() > 0 {}
    let (stop, stopped) = watch::channel(false);
    let worker = world.worker.clone();
    let running = tokio::spawn(async move { worker.run(Queue::Forwards, stopped).await });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.net.came("works.example").len(), 200, "within seconds");
    assert_eq!(world.net.came("hangs.example").len(), 4, "as many as it may have under way");
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(world.row("hangs").await.health.failures > 0, "given up after its timeout");
    let reason = world.row("hangs").await.health.reason.unwrap();
    assert_eq!(reason, "the receiver did not answer within 15 s");
    stop.send(true).unwrap();
    running.await.unwrap();
}

/// Fails when a job of two hubs is run by both, or two hubs make two.
#[tokio::test(start_paused = true)]
async fn two_hubs_forward_an_event_once() {
    let one = World::new().await;
    one.add("app", spec("https://app.example/")).await;
    let two = one.other();
    for n in 0..20 {
        one.deliver("acme", &format!("evt_{n}"), "a", None).await;
    }
    for _ in 0..50 {
        for queue in [Queue::Events, Queue::Forwards] {
            let (a, b) = tokio::join!(one.worker.step(queue), two.worker.step(queue));
            a.unwrap();
            b.unwrap();
        }
    }
    let mut ids = one.net.ids("app.example");
    assert_eq!(ids.len(), 20);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

/// Fails when a hub that has not heard of a destination yet, or not of its being enabled, gives up what another one added.
#[tokio::test(start_paused = true)]
async fn a_hub_that_knows_a_destination_from_before_gives_nothing_up_by_that() {
    let one = World::new().await;
    let two = one.other();
    two.forwarder.look().await.unwrap();
    one.add("app", spec("https://app.example/")).await;
    one.deliver("acme", "evt_1", "a", None).await;
    while one.worker.step(Queue::Events).await.unwrap() > 0 {}
    assert_eq!(two.worker.step(Queue::Forwards).await.unwrap(), 1);
    assert_eq!(one.net.came("app.example").len(), 1, "it was made a moment ago");
    one.forwarder.enable("app", false).await.unwrap();
    tokio::time::sleep(KNOWN_FOR).await;
    two.forwarder.look().await.unwrap();
    one.forwarder.enable("app", true).await.unwrap();
    one.deliver("acme", "evt_2", "a", None).await;
    while one.worker.step(Queue::Events).await.unwrap() > 0 {}
    assert_eq!(two.worker.step(Queue::Forwards).await.unwrap(), 1);
    assert_eq!((one.net.came("app.example").len(), one.dead().await), (2, 0), "it was enabled a moment ago");
}

/// Fails when a job is settled before the receiver has answered, or an event that was sent and not settled is lost or comes
/// under another id.
#[tokio::test(start_paused = true)]
async fn a_hub_killed_between_the_answer_and_the_settling_sends_again_under_the_same_id() {
    let mut twice = 0;
    for times in 0.. {
        let world = World::new().await;
        world.add("app", spec("https://app.example/")).await;
        world.deliver("acme", "evt_1", "a", None).await;
        while world.worker.step(Queue::Events).await.unwrap() > 0 {}
        let whole =
            crate::worker::tests::world::killed_after(times, world.worker.step(Queue::Forwards)).await.is_some();
        let before = world.net.came("app.example").len();
        let next = world.other();
        tokio::time::sleep(Duration::from_secs(61)).await;
        next.quiet().await;
        let ids = world.net.ids("app.example");
        assert!(!ids.is_empty() && ids.iter().all(|id| *id == ids[0]), "after {times} polls: {ids:?}");
        assert_eq!(ids.len(), before + usize::from(!whole), "after {times} polls");
        twice += usize::from(ids.len() == 2);
        assert_eq!(world.store.job_counts().await.unwrap().running, 0);
        if whole {
            break;
        }
    }
    assert!(twice > 1, "it was killed with the message out");
}

/// Fails when events of one key overtake each other while the first fails, or those of another wait for it.
#[tokio::test(start_paused = true)]
async fn events_of_one_key_arrive_in_order_where_that_is_asked_for() {
    for (order, wanted) in [(Order::ByKey, ["k1", "k2", "k3"]), (Order::None, ["k2", "k3", "k1"])] {
        let world = World::new().await;
        world.add("app", DestinationSpec { order, ..spec("https://app.example/") }).await;
        world.net.plan("app.example", [Does::Answers(500)]);
        for id in ["k1", "k2", "k3"] {
            world.deliver("acme", id, "a", Some("key")).await;
            world.quiet().await;
        }
        world.deliver("acme", "free", "a", Some("another")).await;
        world.quiet().await;
        world.wait(Duration::from_secs(10)).await;
        let body = |request: &Request<Bytes>| serde_json::from_slice::<Json>(request.body()).unwrap();
        let came: Vec<String> = world
            .net
            .came("app.example")
            .iter()
            .map(|(_, request)| body(request)["palisade"]["event"].as_str().unwrap().to_owned())
            .collect();
        assert!(came.iter().position(|id| id == "free") < came.iter().rposition(|id| id == "k1"), "{order:?} {came:?}");
        let of_key: Vec<&str> = came.iter().skip(1).map(String::as_str).filter(|id| *id != "free").collect();
        assert_eq!(of_key, wanted, "{order:?}");
    }
}

/// Fails when a replay puts events of one key in line as it finds them, newest first.
#[tokio::test(start_paused = true)]
async fn a_replay_of_one_key_arrives_in_order() {
    let world = World::new().await;
    for n in 0..450 {
        world.deliver("acme", &format!("evt_{n:03}"), "a", Some("key")).await;
    }
    world.add("app", DestinationSpec { order: Order::ByKey, ..spec("https://app.example/") }).await;
    let all = Replay { since: START, until: Timestamp(i64::MAX), before: None, limit: 1_000, dry_run: true };
    assert_eq!(world.forwarder.replay("app", all).await.unwrap().wanted, 450);
    world.quiet().await;
    assert_eq!(world.net.came("app.example").len(), 0, "they were counted only");
    let done = world.forwarder.replay("app", Replay { dry_run: false, ..all }).await.unwrap();
    assert_eq!((done.looked_at, done.wanted, done.next_before), (450, 450, None));
    world.quiet().await;
    let body = |request: &Request<Bytes>| serde_json::from_slice::<Json>(request.body()).unwrap();
    let came = world.net.came("app.example");
    let came = came.iter().map(|(_, request)| body(request)["palisade"]["event"].as_str().unwrap().to_owned());
    assert_eq!(came.collect::<Vec<_>>(), (0..450).map(|n| format!("evt_{n:03}")).collect::<Vec<_>>());
}

/// Fails when what an old address answered is noted of the new one, or its 410 disables that or gives the event up.
#[tokio::test(start_paused = true)]
async fn what_an_old_address_answers_is_not_held_against_the_new_one() {
    for does in [410, 500] {
        let world = World::new().await;
        world.add("app", spec("https://old.example/")).await;
        world.net.always("old.example", Does::Answers(does));
        world.deliver("acme", "evt_1", "a", None).await;
        while world.worker.step(Queue::Events).await.unwrap() > 0 {}
        let repair = async {
            // The message is out, and its answer is on its way.
            while world.net.came("old.example").is_empty() {
                tokio::task::yield_now().await;
            }
            let spec = spec("https://new.example/");
            let keys = world.row("app").await.keys;
            let new = NewDestination { name: "app".to_owned(), configured: false, spec, keys };
            assert!(world.store.put_destination(new, 1, world.clock.now()).await.unwrap());
        };
        let (_, ()) = tokio::join!(world.worker.step(Queue::Forwards), repair);
        let health = world.row("app").await.health;
        assert_eq!((health.disabled, health.failures), (None, 0), "{does}");
        world.wait(Duration::from_secs(10)).await;
        assert_eq!(world.net.came("new.example").len(), 1, "{does}: it arrives at the new address");
        assert_eq!(world.dead().await, 0, "{does}");
    }
}

/// Fails when a run leaves an event because its hub has not heard yet of the destination that wants it.
#[tokio::test(start_paused = true)]
async fn an_event_that_a_run_finds_is_wanted_by_a_new_destination() {
    let one = World::new().await;
    let two = one.other();
    two.forwarder.look().await.unwrap();
    let filter = Filter { types: vec!["thing.updated".to_owned()], ..Filter::default() };
    tokio::time::sleep(KNOWN_FOR).await;
    one.add("app", DestinationSpec { filter, ..spec("https://app.example/") }).await;
    let key = StreamKey { connection: "acme".into(), stream: "events".into() };
    two.worker.sync_now(&key.connection, &key.stream, RunMode::Incremental).await.unwrap();
    while two.worker.step(Queue::Background).await.unwrap() > 0 {}
    assert!(two.forwarder.is_up_to_date(), "it has looked");
    assert!(two.forwarder.wants("fake", "thing.updated"));
}

/// Fails when only one key signs while two are live, when the old one signs after its time, or when a new key is not
/// another one.
#[tokio::test(start_paused = true)]
async fn both_keys_sign_while_a_key_is_replaced() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    let send = async |id: &str| {
        world.deliver("acme", id, "a", None).await;
        world.quiet().await;
        world.net.came("app.example").pop().unwrap().1
    };
    let rotated = world.forwarder.rotate("app", Some(NEW.into()), None).await.unwrap();
    assert_eq!(rotated.row.keys.iter().map(|key| key.version).collect::<Vec<_>>(), [2, 1]);
    let both = send("evt_1").await;
    for secret in [OLD, NEW] {
        assert!(verified(&both, &[secret], world.clock.now()), "{secret}");
    }
    tokio::time::sleep(Duration::from_secs(86_400 - 60)).await;
    assert!(verified(&send("evt_2").await, &[OLD], world.clock.now()), "for a day");
    tokio::time::sleep(Duration::from_secs(120)).await;
    let after = send("evt_3").await;
    assert!(!verified(&after, &[OLD], world.clock.now()));
    assert!(verified(&after, &[NEW], world.clock.now()));
    // Twice in a row: the oldest does not sign any more.
    let drawn = world.forwarder.rotate("app", None, Some(Duration::from_secs(600))).await.unwrap().secret.unwrap();
    let third = world.forwarder.rotate("app", None, Some(Duration::from_secs(600))).await.unwrap();
    assert!(crate::webhook::standard::is_key(&drawn));
    assert_eq!(third.row.keys.len(), 2);
    let last = send("evt_4").await;
    let newest = third.secret.unwrap();
    for (secret, signs) in [(NEW, false), (drawn.expose(), true), (newest.expose(), true)] {
        assert_eq!(verified(&last, &[secret], world.clock.now()), signs);
    }
    // Sealed: neither the row nor its debug print has them.
    let row = world.store.destinations().await.unwrap().remove(0);
    for key in &row.keys {
        assert!(!key.blob.windows(8).any(|part| newest.expose().as_bytes().windows(8).any(|other| part == other)));
    }
    assert!(!format!("{row:?} {:?}", world.forwarder).contains("whsec"));
}

/// What the first receiver does, how often each host is asked, and why it failed.
type Redirected = (Vec<Does>, &'static [(&'static str, usize)], Option<&'static str>);

/// Fails when a redirect that changes the method is followed, when a header of the owner's goes to another host, when the
/// scheme is left, or when a circle has no end.
#[tokio::test(start_paused = true)]
async fn redirects_are_followed_within_bounds_and_carry_nothing_of_the_owners_elsewhere() {
    let to = |status, to: &str| Does::Says(status, "location", to.to_owned());
    let cases: [Redirected; 6] = [
        (vec![to(307, "/next")], &[("app.example", 2)], None),
        (vec![to(308, "https://two.example/x")], &[("app.example", 1), ("two.example", 1)], None),
        (
            vec![to(302, "https://two.example/x")],
            &[("app.example", 1), ("two.example", 0)],
            Some("the receiver answered 302"),
        ),
        (vec![to(301, "/next")], &[("app.example", 1)], Some("the receiver answered 301")),
        (
            vec![Does::Answers(307)],
            &[("app.example", 1)],
            Some("the receiver answered 307 Temporary Redirect without an address"),
        ),
        (
            (0..9).map(|n| to(307, &format!("/{n}"))).collect(),
            &[("app.example", 4)],
            Some("the receiver redirected more than 3 times"),
        ),
    ];
    for (plan, wanted, reason) in cases {
        let world = World::new().await;
        world.add("app", spec("https://app.example/")).await;
        world.net.plan("app.example", plan.clone());
        world.deliver("acme", "evt_1", "a", None).await;
        world.quiet().await;
        for (host, count) in wanted {
            let came = world.net.came(host);
            assert_eq!(came.len(), *count, "{host} of {plan:?}");
            for (_, request) in came {
                assert_eq!(request.headers().contains_key("x-team"), *host == "app.example");
                assert!(verified(&request, &[OLD], world.clock.now()));
                assert_eq!(request.method(), "POST");
            }
        }
        assert_eq!(world.row("app").await.health.reason.as_deref(), reason, "{plan:?}");
    }
}

/// Fails when a change of somebody else is written over, when one of the configuration can be changed by hand, or when one
/// that left the configuration is still sent to.
#[tokio::test(start_paused = true)]
async fn destinations_of_the_configuration_are_what_it_says() {
    let world = World::new().await;
    let configured = |secrets: &[&str], url: &str| Configured {
        name: "conf".to_owned(),
        spec: spec(url),
        secrets: secrets.iter().map(|secret| Secret::from(*secret)).collect(),
    };
    let first = [configured(&[OLD], "https://app.example/")];
    for _ in 0..3 {
        world.forwarder.configure(&first).await.unwrap();
        assert_eq!(world.row("conf").await.revision, 1, "done twice it is done once");
    }
    world.forwarder.configure(&[configured(&[NEW, OLD], "https://app.example/")]).await.unwrap();
    world.deliver("acme", "evt_1", "a", None).await;
    world.quiet().await;
    let request = world.net.came("app.example").pop().unwrap().1;
    assert!(verified(&request, &[OLD], world.clock.now()) && verified(&request, &[NEW], world.clock.now()));
    let kind = |result: Result<()>| result.unwrap_err().kind();
    let forwarder = &world.forwarder;
    assert_eq!(kind(forwarder.change("conf", spec("https://b.example/")).await.map(drop)), ErrorKind::Conflict);
    assert_eq!(kind(forwarder.rotate("conf", None, None).await.map(drop)), ErrorKind::Conflict);
    assert_eq!(kind(forwarder.remove("conf").await), ErrorKind::Conflict);
    assert_eq!(kind(forwarder.create("conf", spec("https://b.example/"), None).await.map(drop)), ErrorKind::Conflict);
    assert!(forwarder.enable("conf", false).await.unwrap(), "it may be disabled");
    assert!(forwarder.enable("conf", true).await.unwrap());
    world.add("hand", spec("https://hand.example/")).await;
    forwarder.configure(&[]).await.unwrap();
    let left: Vec<String> = forwarder.destinations().await.unwrap().into_iter().map(|row| row.name).collect();
    assert_eq!(left, ["hand"]);
    world.deliver("acme", "evt_2", "a", None).await;
    world.quiet().await;
    assert_eq!((world.net.came("app.example").len(), world.net.came("hand.example").len()), (1, 1));
    let taken = Configured { name: "hand".to_owned(), ..configured(&[OLD], "https://x.example/") };
    assert_eq!(kind(forwarder.configure(&[taken]).await), ErrorKind::Config);
}

/// Fails when something that cannot work, is not safe or would put a secret where it is not sealed is taken.
#[tokio::test(start_paused = true)]
async fn what_a_destination_may_not_be_is_refused() {
    let world = World::new().await;
    let good = spec("https://app.example/");
    let with = |change: fn(&mut DestinationSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec
    };
    let bad: Vec<DestinationSpec> = vec![
        with(|spec| spec.url = "http://app.example/".to_owned()),
        with(|spec| spec.url = "ftp://app.example/".to_owned()),
        with(|spec| spec.url = "app.example".to_owned()),
        with(|spec| spec.url = "https://user:pass@app.example/".to_owned()),
        with(|spec| spec.url = "https://app.example/#top".to_owned()),
        with(|spec| spec.url = "https://127.0.0.1/".to_owned()),
        with(|spec| spec.url = "https://0x7f.1/".to_owned()),
        with(|spec| spec.url = "https://2130706433/".to_owned()),
        with(|spec| spec.url = "https://[::ffff:10.0.0.1]/".to_owned()),
        with(|spec| spec.url = "https://169.254.169.254/latest".to_owned()),
        with(|spec| spec.filter.types = Vec::new()),
        with(|spec| spec.filter.types = vec!["in*voice".to_owned()]),
        with(|spec| spec.concurrency = 0),
        with(|spec| spec.concurrency = 65),
        with(|spec| spec.timeout = Duration::from_secs(61)),
        with(|spec| spec.headers = vec![("Authorization".to_owned(), "Bearer canary".to_owned())]),
        with(|spec| spec.headers = vec![("Webhook-Id".to_owned(), "canary".to_owned())]),
        with(|spec| spec.headers = vec![("x y".to_owned(), "canary".to_owned())]),
        with(|spec| spec.headers = vec![("x".to_owned(), "can\r\nary: x".to_owned())]),
    ];
    for spec in bad {
        let error = world.forwarder.create("app", spec.clone(), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{spec:?}");
        assert!(!error.message().contains("canary"), "{error}");
    }
    for name in ["", ".hidden", "a/b", "a b", &"n".repeat(65)] {
        assert!(world.forwarder.create(name, good.clone(), None).await.is_err(), "{name}");
    }
    for secret in ["whsec_", "whsec_c2hvcnQ=", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", "whsec_!!"] {
        assert!(world.forwarder.create("app", good.clone(), Some(secret.into())).await.is_err(), "{secret}");
    }
    let made = world
        .forwarder
        .create(
            "app",
            with(|spec| {
                spec.url = "http://127.0.0.1:8080/".to_owned();
                spec.reach = Reach { private: true, plain: true, ..Reach::default() };
            }),
            None,
        )
        .await
        .unwrap();
    assert!(crate::webhook::standard::is_key(&made.secret.unwrap()), "and a key of its own");
}

/// Fails when a forward is made though the event's own work did not end well.
#[tokio::test(start_paused = true)]
async fn an_event_is_forwarded_once_its_handlers_are_done() {
    let world = World::new().await;
    world.add("app", spec("https://app.example/")).await;
    let fake = crate::worker::tests::world::Fake::at(Arc::clone(&world.clock));
    let refuses = handler(|event, _| {
        let rejected = event.event.id.as_str() == "bad";
        Box::pin(async move { if rejected { Handled::Reject { reason: "no".to_owned() } } else { Handled::Done } })
    });
    let random = Arc::new(SeededRandom::new(7));
    let worker = Worker::builder(Arc::clone(&world.store) as _, Arc::clone(&world.clock) as _, random)
        .provider(Arc::new(fake.clone()), Arc::new(fake))
        .forwarder(world.forwarder.clone())
        .on("fake", "*", refuses)
        .build()
        .unwrap();
    for id in ["bad", "good"] {
        world.deliver("acme", id, "a", None).await;
    }
    while worker.step(Queue::Events).await.unwrap() + worker.step(Queue::Forwards).await.unwrap() > 0 {}
    assert_eq!(world.states().await, [EventState::Dead, EventState::Done]);
    assert_eq!(world.net.came("app.example").len(), 1);
}

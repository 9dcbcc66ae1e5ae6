//! A provider that is away for an hour: nothing dies, nothing is lost, it is left alone, and all is done soon after.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use tokio::sync::watch;

use super::world::*;
use crate::auth::vault::{LocalMasterKey, Vault};
use crate::auth::{FixedCredential, Scheme};
use crate::call::{Bucket, Call, Operation, Replay};
use crate::client::{Client, Profile, StatusClassifier};
use crate::clock::TokioClock;
use crate::error::Outcome;
use crate::forward::{ForwardSettings, Forwarder};
use crate::id::RecordId;
use crate::metrics::Metrics;
use crate::net::Reach;
use crate::provider::Manifest;
use crate::random::{SeededRandom, SystemRandom};
use crate::store::*;
use crate::sync::{Change, Cursor, Page, Site, Source, Span, StreamSpec};
use crate::webhook::Event;
use crate::worker::*;

const HOUR: Duration = Duration::from_secs(3_600);
/// How long after the provider is back everything is done: the longest wait, the breaker's, and some for the work.
const SOON: Duration = Duration::from_secs(8 * 60);
const KEY: &str = "idempotency-key";
static BUCKET: Bucket = Bucket { name: "all", units: 100, per: Duration::from_secs(1), burst: 100 };
static READ: Operation = Operation {
    provider: "fake",
    name: "things.read",
    url_template: "/things",
    replay: Replay::Safe,
    bucket: &BUCKET,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(10),
    overall_timeout: Duration::from_secs(30),
    body_bytes_max: 1 << 20,
};
static CHARGE: Operation =
    Operation { name: "charges.create", url_template: "/charges", replay: Replay::Keyed(KEY), ..READ };

/// How the provider is away.
#[derive(Clone, Copy, Debug)]
enum Away {
    /// It answers 503.
    Unavailable,
    /// It answers 503 and says when to come again.
    UntilThen,
    /// Nobody listens.
    Unreachable,
    /// It answers nothing.
    Silent,
}

/// The way to the provider.
struct Net {
    fake: Fake,
    how: Away,
    away: AtomicBool,
    /// Attempts that came while it was away.
    knocks: AtomicU32,
    charged: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl Transport for Net {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        if !self.away.load(Ordering::SeqCst) {
            if request.uri().path() != "/charges" {
                return self.fake.send(request).await;
            }
            let key = request.headers()[KEY].to_str().unwrap().to_owned();
            assert!(self.charged.lock().unwrap().insert(key), "nothing was charged while it was away");
            return Ok(Response::new("{}".into()));
        }
        self.knocks.fetch_add(1, Ordering::SeqCst);
        let unavailable = Response::builder().status(503);
        match self.how {
            Away::Unavailable => Ok(unavailable.body(Bytes::new()).unwrap()),
            Away::UntilThen => Ok(unavailable.header("retry-after", "30").body(Bytes::new()).unwrap()),
            Away::Unreachable => Err(Error::new(ErrorKind::Connect, "nobody listens").with_outcome(Outcome::NotSent)),
            Away::Silent => std::future::pending().await,
        }
    }
}

/// The provider in a map, with calls that pass a pipeline.
#[derive(Debug)]
struct Piped(Fake);

impl Piped {
    fn call(request: Request<Bytes>, site: &Site) -> Request<Bytes> {
        let mut request = request;
        request.extensions_mut().insert(Call::new(&READ, site.connection.clone(), site.tenant.clone()));
        request
    }
}

impl Provider for Piped {
    fn manifest(&self) -> &'static Manifest {
        self.0.manifest()
    }

    fn profile(&self) -> Profile {
        Profile::new("fake", &["fake.example"], Arc::new(StatusClassifier))
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(self)
    }

    fn operations(&self, method: &Method, path: &str) -> Vec<&'static Operation> {
        if (method.as_str(), path) == ("POST", "/charges") { vec![&CHARGE] } else { Vec::new() }
    }
}

impl Source for Piped {
    fn streams(&self) -> &'static [StreamSpec] {
        self.0.streams()
    }

    fn request(&self, site: &Site, stream: &StreamName, cursor: Option<&Cursor>) -> Result<Request<Bytes>> {
        Ok(Self::call(self.0.request(site, stream, cursor)?, site))
    }

    fn page(&self, stream: &StreamName, at: Option<&Cursor>, response: &Response<Bytes>, span: Span) -> Result<Page> {
        self.0.page(stream, at, response, span)
    }

    fn fetch(&self, site: &Site, stream: &StreamName, id: &RecordId) -> Result<Request<Bytes>> {
        Ok(Self::call(self.0.fetch(site, stream, id)?, site))
    }

    fn fetched(&self, of: &StreamName, id: &RecordId, response: &Response<Bytes>, span: Span) -> Result<Change> {
        self.0.fetched(of, id, response, span)
    }

    fn concerns(&self, kind: &str) -> bool {
        self.0.concerns(kind)
    }

    fn apply(&self, event: &Event) -> Result<Vec<Change>> {
        self.0.apply(event)
    }
}

/// A receiver that takes everything, and the ids of what it took.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Transport for Receiver {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let id = request.headers()["webhook-id"].to_str().unwrap().to_owned();
        self.0.lock().unwrap().push(id);
        Ok(Response::new(Bytes::new()))
    }
}

struct Storm {
    world: World,
    net: Arc<Net>,
    received: Receiver,
}

impl Storm {
    async fn new(how: Away) -> Self {
        let clock = Arc::new(TokioClock::starting_at(START));
        let (fake, store) = (Fake::at(clock.clone()), Arc::new(Faulty::default()));
        let random = Arc::new(SeededRandom::new(1));
        let (away, knocks) = (AtomicBool::new(false), AtomicU32::new(0));
        let net = Arc::new(Net { fake: fake.clone(), how, away, knocks, charged: Mutex::default() });
        let key = "0123456789abcdef".repeat(4);
        let master = LocalMasterKey::parse(key.as_bytes(), Arc::new(SystemRandom)).unwrap();
        let vault = Arc::new(Vault::new(store.clone(), Arc::new(master), Arc::new(SystemRandom)));
        let received = Receiver::default();
        let (way, settings) = (Arc::new(received.clone()), ForwardSettings::default());
        let forwarder =
            Forwarder::new(store.clone(), vault, way, clock.clone(), random.clone(), settings, Metrics::default());
        let spec = DestinationSpec {
            url: "https://app.example/hook".to_owned(),
            filter: Filter { types: vec!["*".to_owned()], ..Filter::default() },
            concurrency: 4,
            timeout: Duration::from_secs(15),
            headers: Vec::new(),
            order: Order::None,
            reach: Reach::default(),
        };
        forwarder.create("app", spec, None).await.unwrap();
        let secret = Arc::new(FixedCredential::new(&Scheme::Bearer("secret".into())).unwrap());
        let client = Client::builder(Piped(fake.clone()).profile(), net.clone(), secret);
        let client = client.clock(clock.clone()).random(random.clone()).build().unwrap();
        let builder = Worker::builder(store.clone(), clock.clone(), random);
        let builder = builder.provider(Arc::new(Piped(fake.clone())), Arc::new(client)).forwarder(forwarder);
        let base_url = Some("https://fake.example".to_owned());
        store.put_connection(Connection { base_url, ..connection("conn") }).await.unwrap();
        let worker = builder.build().unwrap();
        Self { world: World { fake, store, clock, worker }, net, received }
    }

    /// Things change twice within a second, so that each must be fetched; and as many charges are asked for.
    async fn happen(&self, wave: u32) {
        for n in 0..20 {
            let id = format!("thing-{n}");
            let events = [1, 2].map(|value| self.world.fake.put(&id, Some(u64::from(wave * 10 + value))));
            self.world.deliver(&events).await;
            let key = format!("{wave}-{n}");
            let call = NewCall::new("conn", Method::POST, "/charges").with_idempotency_key(&key);
            self.world.worker.enqueue_calls(Vec::new(), vec![call]).await.unwrap();
        }
    }

    async fn check(&self) {
        let (world, how) = (&self.world, self.net.how);
        let store = &world.store.inner;
        world.worker.connect(&store.connection("conn".into()).await.unwrap().unwrap()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        self.happen(0).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(store.event_counts().await.unwrap(), [(EventState::Done, 40)].into(), "{how:?}: it works");
        self.net.away.store(true, Ordering::SeqCst);
        for wave in 1..=3 {
            self.happen(wave).await;
            tokio::time::sleep(HOUR / 3).await;
        }
        let counts = store.event_counts().await.unwrap();
        assert_eq!(counts.get(&EventState::Dead), None, "{how:?}: nothing dies");
        assert!(counts[&EventState::Pending] >= 60, "{how:?}: what must be fetched waits: {counts:?}");
        let knocks = self.net.knocks.load(Ordering::SeqCst);
        assert!(knocks < 400, "{how:?}: it is left alone: {knocks}");
        self.net.away.store(false, Ordering::SeqCst);
        tokio::time::sleep(SOON).await;
        let left = store.event_counts().await.unwrap();
        assert_eq!(left, [(EventState::Done, 160)].into(), "{how:?}: every event is handled, after {knocks} attempts");
        assert_eq!(self.net.charged.lock().unwrap().len(), 80, "{how:?}: every call is made");
        assert_eq!(self.received.0.lock().unwrap().len(), 160, "{how:?}: every event is forwarded, once");
        assert_eq!(store.job_counts().await.unwrap().dead, 0, "{how:?}");
        world.check_equal(&world.held().await);
        let fresh = world.stream(THINGS).await.full_at.unwrap();
        assert!(fresh >= START, "{how:?}: it was read whole");
        let ran = world.stream(EVENTS).await.fresh_at.unwrap();
        assert!(world.clock.now().since(ran) < SOON, "{how:?}: syncs go on");
    }
}

/// Fails when an attempt that never reached the provider counts, when the breaker's hint stands in the place of the wait
/// that grows, or when what waits comes too late or all at once.
#[tokio::test(start_paused = true)]
async fn an_hour_without_the_provider_loses_nothing() {
    for how in [Away::Unavailable, Away::UntilThen, Away::Unreachable, Away::Silent] {
        let storm = Storm::new(how).await;
        let (_stop, stopped) = watch::channel(false);
        let queues = Queue::ALL.map(|queue| storm.world.worker.run(queue, stopped.clone()));
        tokio::select! {
            _ = futures_util::future::join_all(queues) => unreachable!("nobody stops them"),
            () = storm.check() => {}
        }
    }
}

/// Fails when what never reaches its provider lives for ever, or for long because it is told to wait for long: an hour
/// each, as often as it may wait, are 41 days.
#[tokio::test(start_paused = true)]
async fn an_event_that_can_never_be_tried_dies_at_last() {
    for told in [None, Some(HOUR)] {
        never_tried(told).await;
    }
}

async fn never_tried(told: Option<Duration>) {
    let world = World::with(settings(), |builder| {
        let error = move || Error::new(ErrorKind::CircuitOpen, "the breaker is open").with_retry_after(told);
        builder.on("fake", "thing.*", handler(move |_, _| Box::pin(async move { error().into() })))
    })
    .await;
    let n = world.fake.put("t1", Some(1));
    world.deliver(&[n]).await;
    let state = async || world.event_states().await.remove(0).0;
    for days in 0..7 {
        if state().await == EventState::Dead {
            assert!(days >= 2, "dead after {days} days, told to wait {told:?}");
            return;
        }
        for _ in 0..24 * 60 {
            world.worker.step(Queue::Events).await.unwrap();
            world.wait(Duration::from_secs(60)).await;
        }
    }
    panic!("it lives for ever, told to wait {told:?}");
}

/// Fails when an error that says nothing of the event that met it costs an attempt, when one that does costs none, or when
/// a wait of more than an hour is as free as a short one.
#[tokio::test(start_paused = true)]
async fn what_an_error_costs_goes_by_what_it_says() {
    let minute = Some(Duration::from_secs(60));
    let cases = [
        (ErrorKind::CircuitOpen, None, EventState::Done),
        (ErrorKind::Throttled, None, EventState::Done),
        (ErrorKind::Overloaded, None, EventState::Done),
        (ErrorKind::Connect, None, EventState::Done),
        (ErrorKind::Provider, minute, EventState::Done),
        (ErrorKind::Provider, Some(HOUR), EventState::Done),
        (ErrorKind::Provider, Some(HOUR * 2), EventState::Dead),
        (ErrorKind::Provider, None, EventState::Dead),
        (ErrorKind::Timeout, None, EventState::Dead),
    ];
    for (kind, after, expected) in cases {
        let met = Arc::new(AtomicU32::new(0));
        let counted = met.clone();
        let fails = handler(move |_, _| {
            // More often than it has attempts.
            let fails = counted.fetch_add(1, Ordering::SeqCst) < 8;
            let error = Error::new(kind, "not now").with_retry_after(after);
            Box::pin(async move { if fails { error.into() } else { Handled::Done } })
        });
        let world = World::with(settings(), |builder| builder.on("fake", "thing.*", fails)).await;
        let n = world.fake.put("t1", Some(1));
        world.deliver(&[n]).await;
        for _ in 0..24 * 10 {
            world.worker.step(Queue::Events).await.unwrap();
            world.wait(HOUR / 10).await;
        }
        let state = world.event_states().await.remove(0).0;
        assert_eq!(state, expected, "{kind:?} {after:?}, met {} times", met.load(Ordering::SeqCst));
    }
}

//! The outbox: a call is made under one key, never twice when nobody knows, and crashes anywhere change nothing of that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};

use super::world::{Fault, Faulty, START, killed_after};
use crate::auth::{FixedCredential, Scheme};
use crate::call::{Bucket, Call, Operation, Replay};
use crate::client::{Client, Profile, StatusClassifier};
use crate::clock::TokioClock;
use crate::error::Outcome;
use crate::provider::Manifest;
use crate::random::SeededRandom;
use crate::store::*;
use crate::worker::*;

const KEY: &str = "idempotency-key";
static BUCKET: Bucket = Bucket { name: "all", units: 1_000, per: Duration::from_secs(1), burst: 1_000 };
static WRITE: Operation = Operation {
    provider: "acme",
    name: "letters.send",
    url_template: "/letters",
    replay: Replay::Never,
    bucket: &BUCKET,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(10),
    overall_timeout: Duration::from_secs(30),
    body_bytes_max: 1 << 20,
};
static CHARGE: Operation =
    Operation { name: "charges.create", url_template: "/charges", replay: Replay::Keyed(KEY), ..WRITE };
static SET: Operation = Operation { name: "names.set", url_template: "/names", replay: Replay::Idempotent, ..WRITE };
static READ: Operation = Operation { name: "names.list", url_template: "/names", replay: Replay::Safe, ..WRITE };
const PATHS: [&str; 3] = ["/letters", "/charges", "/names"];

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mishap {
    /// No connection: provably not sent.
    Refused,
    /// It is lost on its way.
    LostRequest,
    /// The provider acts, and the answer is lost.
    LostAnswer,
    /// The provider answers so, and does nothing.
    Status(u16),
    /// As [`Mishap::Status`], and answers so whenever the key comes again, as Stripe does.
    Remembered(u16),
}

#[derive(Default)]
struct Book {
    /// Path, key and body of each request that arrived.
    arrived: Vec<(String, Option<String>, Bytes)>,
    /// What the provider did: by key where it knows keys, else each.
    effects: u32,
    keys: BTreeSet<String>,
    /// What it refused by key.
    refused: BTreeMap<String, u16>,
    /// What happens to the next requests.
    next: VecDeque<Mishap>,
    answer: Bytes,
}

/// A provider that counts what it does, and the network before it.
#[derive(Clone, Default)]
struct Acme(Arc<Mutex<Book>>);

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acme")
    }
}

impl Acme {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }

    fn act(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let mut book = self.book();
        let key = request.headers().get(KEY).map(|value| value.to_str().unwrap().to_owned());
        let path = request.uri().path().to_owned();
        assert_eq!(request.headers()["authorization"], "Bearer secret", "the pipeline adds the credential");
        book.arrived.push((path.clone(), key.clone(), request.body().clone()));
        let again = path == "/charges" && !book.keys.insert(key.expect("a charge has its key"));
        if request.method() != Method::GET && !again {
            book.effects += 1;
        }
        let answer = Response::builder().status(201).header("x-request-id", "req_1").header("etag", "e");
        answer.header("set-cookie", "s").body(book.answer.clone()).unwrap()
    }
}

#[async_trait]
impl Transport for Acme {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        tokio::task::yield_now().await;
        let key = request.headers().get(KEY).and_then(|key| key.to_str().ok()).unwrap_or_default();
        let refused = self.book().refused.get(key).copied();
        let mishap = refused.map(Mishap::Status).or_else(|| self.book().next.pop_front());
        if let Some(Mishap::Remembered(status)) = mishap {
            self.book().refused.insert(key.to_owned(), status);
        }
        let unknown = || Error::new(ErrorKind::Transport, "the connection broke").with_outcome(Outcome::Unknown);
        match mishap {
            Some(Mishap::Refused) => {
                Err(Error::new(ErrorKind::Connect, "nobody listens").with_outcome(Outcome::NotSent))
            }
            Some(Mishap::LostRequest) => Err(unknown()),
            Some(Mishap::Status(status) | Mishap::Remembered(status)) => {
                Ok(Response::builder().status(status).body("secret words".into()).unwrap())
            }
            Some(Mishap::LostAnswer) => {
                self.act(&request);
                tokio::task::yield_now().await;
                Err(unknown())
            }
            None => {
                let answer = self.act(&request);
                tokio::task::yield_now().await;
                Ok(answer)
            }
        }
    }
}

impl Provider for Acme {
    fn manifest(&self) -> &'static Manifest {
        static MANIFEST: Manifest = Manifest {
            name: "acme",
            title: "Acme",
            base_url: "https://acme.test",
            hosts: &["acme.test"],
            api_version: None,
        };
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        Profile::new("acme", &["acme.test"], Arc::new(StatusClassifier))
    }

    fn operations(&self, method: &Method, path: &str) -> Vec<&'static Operation> {
        match (method.as_str(), path) {
            ("POST", "/letters") => vec![&WRITE],
            ("POST", "/charges") => vec![&CHARGE],
            ("POST", "/names") => vec![&SET],
            ("GET", "/names") => vec![&READ],
            _ => Vec::new(),
        }
    }
}

struct World {
    acme: Acme,
    store: Arc<Faulty>,
    clock: Arc<TokioClock>,
    worker: Worker,
}

impl World {
    async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    async fn with(more: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Self {
        let acme = Acme::default();
        let store = Arc::new(Faulty::default());
        let clock = Arc::new(TokioClock::starting_at(START));
        let worker = Self::worker(&acme, &store, &clock, 1, more);
        let world = Self { acme, store, clock, worker };
        world.connect(ConnectionState::Active).await;
        world
    }

    fn worker(
        acme: &Acme,
        store: &Arc<Faulty>,
        clock: &Arc<TokioClock>,
        seed: u64,
        more: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> Worker {
        let random = Arc::new(SeededRandom::new(seed));
        let secret = Arc::new(FixedCredential::new(&Scheme::Bearer("secret".into())).unwrap());
        let client = Client::builder(acme.profile(), Arc::new(acme.clone()), secret);
        let client = client.clock(clock.clone()).random(random.clone()).build().unwrap();
        let builder = Worker::builder(store.clone(), clock.clone(), random);
        more(builder.provider(Arc::new(acme.clone()), Arc::new(client))).build().unwrap()
    }

    /// Another worker, as in another process.
    fn other(&self, seed: u64) -> Worker {
        Self::worker(&self.acme, &self.store, &self.clock, seed, |builder| builder)
    }

    async fn connect(&self, state: ConnectionState) {
        let connection = Connection {
            id: "conn".into(),
            tenant: "tenant".into(),
            provider: "acme".to_owned(),
            environment: Default::default(),
            account: None,
            base_url: None,
            state,
            created_at: START,
        };
        self.store.inner.put_connection(connection).await.unwrap();
    }

    async fn keep(&self, call: NewCall) -> CallId {
        self.worker.enqueue_calls(Vec::new(), vec![call]).await.unwrap()[0].id()
    }

    async fn read(&self, id: CallId) -> OutboxCall {
        self.store.inner.outbox_call(id).await.unwrap().unwrap()
    }

    async fn step(&self) -> usize {
        self.worker.step(Queue::Calls).await.unwrap()
    }

    /// Works until the call has come to its end; the clock moves on.
    async fn settle(&self, id: CallId) -> OutboxCall {
        for _ in 0..500 {
            let call = self.read(id).await;
            if !matches!(call.state, CallState::Waiting | CallState::Running) {
                return call;
            }
            let _ = self.worker.step(Queue::Calls).await;
            tokio::time::sleep(Duration::from_secs(61)).await;
        }
        panic!("the call came to no end: {:?}", self.read(id).await);
    }
}

fn post(path: &str) -> NewCall {
    let mut call = NewCall::new("conn", Method::POST, path);
    call.body = "dear sir".into();
    call
}

/// Fails when the answer, the request id or the attempts are not kept, or a cookie is.
#[tokio::test(start_paused = true)]
async fn a_call_is_made_and_its_answer_is_kept() {
    let world = World::new().await;
    world.acme.book().answer = Bytes::from(vec![b'x'; 70_000]);
    let id = world.keep(post("/charges?a=b").with_idempotency_key("mine")).await;
    assert_eq!(world.step().await, 1);
    let call = world.worker.call_result(id).await.unwrap().unwrap();
    assert_eq!((call.state, call.attempts, call.sent_at, call.error), (CallState::Done, 1, None, None));
    let answer = call.answer.unwrap();
    assert_eq!((answer.status, answer.request_id.as_deref()), (201, Some("req_1")));
    assert_eq!(answer.headers, [("etag".to_owned(), "e".to_owned())]);
    assert_eq!((answer.body.len(), answer.cut), (64 * 1024, true));
    let arrived = world.acme.book().arrived.clone();
    assert_eq!(arrived, [("/charges".to_owned(), Some("mine".to_owned()), Bytes::from("dear sir"))]);
    assert_eq!(world.store.inner.job_counts().await.unwrap(), JobCounts::default(), "and its job is done");
}

/// What one mishap after another makes of a call.
async fn check(path: &str, mishaps: &[Mishap], state: CallState, arrived: usize) {
    let world = World::new().await;
    world.acme.book().next.extend(mishaps);
    let method = if path == "read" { Method::GET } else { Method::POST };
    let target = if path == "read" { "/names" } else { path };
    let id = world.keep(NewCall::new("conn", method, target)).await;
    let call = world.settle(id).await;
    let what = format!("{path} {mishaps:?}: {:?}", call.error);
    assert_eq!(call.state, state, "{what}");
    let book = world.acme.book();
    assert_eq!(book.arrived.len(), arrived, "{what}");
    let keys: BTreeSet<_> = book.arrived.iter().map(|(_, key, _)| key).collect();
    assert!(keys.len() <= 1, "one key for all attempts: {what}");
    assert!(call.error.is_none_or(|error| !error.contains("secret")), "{what}");
    assert_eq!(call.sent_at.is_some(), state == CallState::Review, "{what}");
}

/// Fails when a call that may have been made is repeated without a key or a promise, when one that was not is lost, or
/// when a refusal is repeated.
#[tokio::test(start_paused = true)]
async fn what_may_have_been_made_is_repeated_only_where_that_is_safe() {
    use CallState::{Done, Failed, Review};
    use Mishap::{LostAnswer, LostRequest, Refused, Status};
    let lost: &[Mishap] = &[LostAnswer; 4];
    for (path, mishaps, state, arrived) in [
        ("/letters", &[][..], Done, 1),
        ("/letters", &[Refused; 4], Done, 1),
        ("/letters", &[LostRequest], Review, 0),
        ("/letters", &[LostAnswer], Review, 1),
        ("/letters", &[Status(500)], Review, 0),
        ("/letters", &[Status(429); 4], Done, 1),
        ("/letters", &[Status(422)], Failed, 0),
        ("/letters", &[Refused; 60], Done, 1),
        ("/charges", lost, Done, 5),
        ("/charges", &[Status(503); 4], Done, 1),
        ("/charges", &[Status(400)], Failed, 0),
        ("/charges", &[LostRequest; 99], Review, 0),
        ("/charges", &[LostRequest, LostRequest, LostRequest, LostRequest, Status(402)], Failed, 0),
        ("/charges", &[LostRequest, Status(422)], Failed, 0),
        // Refused at the door: an attempt before, also inside the pipeline, may have come in.
        ("/charges", &[LostAnswer, LostAnswer, LostAnswer, LostAnswer, Status(409)], Review, 4),
        ("/charges", &[LostAnswer, Status(403)], Review, 1),
        ("/charges", &[Refused, Status(403)], Review, 0),
        ("/charges", &[Status(403)], Failed, 0),
        ("/names", lost, Done, 5),
        ("/names", &[LostAnswer, LostAnswer, LostAnswer, Status(404)], Review, 3),
        ("/names", &[LostRequest; 99], Review, 0),
        ("read", lost, Done, 5),
        ("read", &[LostRequest; 99], Failed, 0),
    ] {
        check(path, mishaps, state, arrived).await;
    }
}

/// Fails when `note_departure` is left out, comes after the request, or is not looked at by whoever claims next:
/// a letter would be sent twice, or a charge made under two keys.
#[tokio::test(start_paused = true)]
async fn a_crash_anywhere_makes_nothing_twice() {
    let seeds = match option_env!("PALISADE_SEED").and_then(|text| text.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => 1..121,
    };
    let mut ends = BTreeMap::new();
    for seed in seeds {
        let world = World::new().await;
        world.store.layer.yielding();
        let random = SeededRandom::new(seed);
        let path = PATHS[usize::try_from(random.bits() % 3).unwrap()];
        if random.bits().is_multiple_of(3) {
            let mishap = if random.bits().is_multiple_of(2) { Mishap::LostAnswer } else { Mishap::Refused };
            world.acme.book().next.push_back(mishap);
        }
        let id = world.keep(post(path)).await;
        // A few processes in a row die somewhere in the work.
        for life in 0..3 {
            let times = usize::try_from(random.bits() % 24).unwrap();
            let worker = world.other(seed * 10 + life);
            let _ = killed_after(times, worker.step(Queue::Calls)).await;
            tokio::time::sleep(Duration::from_secs(61)).await;
        }
        let call = world.settle(id).await;
        let book = world.acme.book();
        let what = format!(
            "seed {seed} {path} {:?} {:?}; repeat with PALISADE_SEED={seed} cargo test -p palisade-core a_crash_anywhere",
            call.state, call.error
        );
        let keys: BTreeSet<_> = book.arrived.iter().map(|(_, key, _)| key).collect();
        assert!(keys.len() <= 1, "one key: {what}");
        match path {
            "/names" => assert!(book.effects >= 1 && call.state == CallState::Done, "{what}"),
            "/charges" => assert!(book.effects == 1 && call.state == CallState::Done, "{what}"),
            _ => {
                assert!(book.effects <= 1, "sent twice: {what}");
                assert!(
                    call.state == CallState::Review || (call.state == CallState::Done && book.effects == 1),
                    "{what}"
                );
            }
        }
        *ends.entry((path, call.state)).or_insert(0) += 1;
    }
    if option_env!("PALISADE_SEED").is_none() {
        assert!(ends[&("/letters", CallState::Review)] > 3 && ends[&("/letters", CallState::Done)] > 3, "{ends:?}");
    }
}

/// Fails when a claim is taken for a departure: a letter that never left would go to review.
#[tokio::test(start_paused = true)]
async fn a_worker_that_died_before_the_departure_leaves_nothing_to_review() {
    let world = World::new().await;
    let id = world.keep(post("/letters")).await;
    let claim = Claim {
        now: world.clock.now(),
        hold: Duration::from_secs(60),
        max: 1,
        queue: Queue::Calls,
        room: Default::default(),
    };
    assert_eq!(world.store.inner.claim(claim).await.unwrap().len(), 1, "it dies with the claim");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(world.settle(id).await.state, CallState::Done);
}

/// Fails when two workers of one database make a call each, or the one that slept past its lease still sends.
#[tokio::test(start_paused = true)]
async fn two_workers_make_each_call_once() {
    let world = World::new().await;
    world.store.layer.yielding();
    let ids: Vec<CallId> = {
        let mut ids = Vec::new();
        for _ in 0..20 {
            ids.push(world.keep(post("/letters")).await);
        }
        ids
    };
    let other = world.other(2);
    let work = |worker: Worker| async move { while worker.step(Queue::Calls).await.unwrap() > 0 {} };
    tokio::join!(work(world.worker.clone()), work(other));
    assert_eq!(world.acme.book().effects, 20);
    for id in ids {
        assert_eq!(world.read(id).await.state, CallState::Done);
    }
}

/// Fails when the store's failure to note a departure lets the request leave, or counts against the call.
#[tokio::test(start_paused = true)]
async fn nothing_leaves_without_its_note() {
    let world = World::new().await;
    let id = world.keep(post("/letters")).await;
    world.store.layer.failing(|name| (name == "note_departure").then_some(Fault::Before));
    for _ in 0..20 {
        world.step().await;
        tokio::time::sleep(Duration::from_secs(61)).await;
    }
    assert_eq!(world.acme.book().arrived.len(), 0);
    assert_eq!((world.read(id).await.state, world.read(id).await.attempts), (CallState::Waiting, 0));
    world.store.layer.healed();
    assert_eq!(world.settle(id).await.state, CallState::Done);
    assert_eq!(world.acme.book().effects, 1);
}

/// Fails when a repeat inside the pipeline leaves without asking, though another worker has the call by then.
#[tokio::test(start_paused = true)]
async fn a_repeat_leaves_under_the_lease_only() {
    let world = World::new().await;
    world.acme.book().next.extend([Mishap::Refused, Mishap::Refused]);
    let id = world.keep(post("/letters")).await;
    let taken = async {
        while world.acme.book().next.len() == 2 {
            tokio::task::yield_now().await;
        }
        // Its clock stood still, and its lease ran out for everybody else.
        let now = world.clock.now().plus(Duration::from_secs(86_400));
        let claim =
            Claim { now, hold: Duration::from_secs(86_400), max: 9, queue: Queue::Calls, room: Room::default() };
        assert_eq!(world.store.inner.claim(claim).await.unwrap().len(), 1);
    };
    tokio::join!(world.step(), taken);
    assert_eq!(world.acme.book().next.len(), 1, "the repeat stayed here");
    let arrived = world.acme.book().arrived.len();
    assert_eq!((arrived, world.read(id).await.state), (0, CallState::Running));
}

/// Fails when waiting for a pause, a reconnect or a limit costs attempts, or never ends.
#[tokio::test(start_paused = true)]
async fn waiting_costs_no_attempt_and_has_an_end() {
    let world = World::new().await;
    world.connect(ConnectionState::Paused).await;
    let id = world.keep(post("/letters")).await;
    for _ in 0..50 {
        world.step().await;
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    let call = world.read(id).await;
    assert_eq!((call.state, call.attempts), (CallState::Waiting, 0));
    assert!(call.error.unwrap().contains("paused"));
    world.connect(ConnectionState::Active).await;
    world.acme.book().next.extend([Mishap::Status(429); 30]);
    let call = world.settle(id).await;
    assert_eq!((call.state, call.attempts), (CallState::Done, 1), "{:?}", call.error);

    world.connect(ConnectionState::NeedsReconnect { reason: "revoked".to_owned() }).await;
    let id = world.keep(post("/letters")).await;
    tokio::time::sleep(Duration::from_secs(3 * 86_400)).await;
    let call = world.settle(id).await;
    assert_eq!((call.state, call.attempts), (CallState::Failed, 0));
    assert!(call.error.unwrap().contains("waited too long"));
}

/// Fails when a call that waited for its connection waits on after that was mended, or when one that is to be made later is
/// made with it.
#[tokio::test(start_paused = true)]
async fn what_waited_for_a_connection_is_made_when_it_is_mended() {
    for broken in [ConnectionState::Paused, ConnectionState::NeedsReconnect { reason: "revoked".to_owned() }] {
        let world = World::new().await;
        world.connect(broken).await;
        let later = world.keep(post("/letters").due(world.clock.now().plus(Duration::from_secs(86_400)))).await;
        let mut ids = Vec::new();
        for n in 0..3 {
            ids.push(world.keep(post("/charges").with_idempotency_key(format!("k{n}"))).await);
        }
        // Often enough that it is looked at seldom by now.
        for _ in 0..20 {
            while world.step().await > 0 {}
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
        while world.step().await > 0 {}
        world.connect(ConnectionState::Active).await;
        assert_eq!(world.step().await, 0, "each waits for its moment");
        let connection = world.store.inner.connection("conn".into()).await.unwrap().unwrap();
        world.worker.connect(&connection).await.unwrap();
        while world.step().await > 0 {}
        for id in ids {
            assert_eq!(world.read(id).await.state, CallState::Done);
        }
        let later = world.read(later).await;
        assert_eq!((later.state, later.attempts), (CallState::Waiting, 0));
        assert!(later.next_at.unwrap() > world.clock.now());
    }
}

/// Fails when a key is used after the provider may have forgotten it.
#[tokio::test(start_paused = true)]
async fn a_key_the_provider_may_have_forgotten_is_not_relied_on() {
    let world = World::new().await;
    world.acme.book().next.extend([Mishap::LostAnswer; 3]);
    let id = world.keep(post("/charges")).await;
    world.step().await;
    assert_eq!((world.read(id).await.state, world.acme.book().arrived.len()), (CallState::Waiting, 3));
    tokio::time::sleep(Duration::from_secs(23 * 3_600)).await;
    let call = world.settle(id).await;
    assert_eq!((call.state, world.acme.book().arrived.len()), (CallState::Review, 3), "{:?}", call.error);
    // Somebody looks: it was made. Another was not, and is made under its own key.
    assert_eq!(world.worker.decide_call(id, Decision::Happened).await.unwrap(), Decided::Now(CallState::Done));
    world.acme.book().next.push_back(Mishap::LostRequest);
    let letter = world.keep(post("/letters").with_idempotency_key("k")).await;
    assert_eq!(world.settle(letter).await.state, CallState::Review);
    world.worker.decide_call(letter, Decision::NotHappened).await.unwrap();
    assert_eq!(world.settle(letter).await.state, CallState::Done);
    assert_eq!(world.acme.book().arrived.last().unwrap().0, "/letters");
}

/// Fails when a charge that was declined is asked for under the key the decline is remembered by, when an automatic repeat
/// takes a new key, or when one that may have been made does.
#[tokio::test(start_paused = true)]
async fn what_was_certainly_refused_is_retried_under_a_new_key() {
    let world = World::new().await;
    world.acme.book().next.extend([Mishap::Status(503), Mishap::Status(429), Mishap::Remembered(402)]);
    let id = world.keep(post("/charges").with_idempotency_key("mine").unique("order-17")).await;
    assert_eq!(world.settle(id).await.state, CallState::Failed);
    assert_eq!(world.read(id).await.call.idempotency_key, "mine");
    for key in ["mine~2", "mine~3"] {
        // The cause is mended, or is not yet.
        if key == "mine~2" {
            world.acme.book().next.push_back(Mishap::Remembered(402));
        }
        assert_eq!(world.worker.decide_call(id, Decision::Retry).await.unwrap(), Decided::Now(CallState::Waiting));
        let call = world.settle(id).await;
        assert_eq!(call.call.idempotency_key, key);
        assert_eq!(call.state, if key == "mine~2" { CallState::Failed } else { CallState::Done }, "{:?}", call.error);
    }
    let again = world.worker.enqueue_calls(Vec::new(), vec![post("/charges").unique("order-17")]).await.unwrap();
    assert_eq!(again, [Enqueued::Known(id)], "it is the same call");

    world.acme.book().next.extend([Mishap::LostRequest; 99]);
    let unknown = world.keep(post("/charges").with_idempotency_key("other")).await;
    assert_eq!(world.settle(unknown).await.state, CallState::Review);
    world.acme.book().next.clear();
    world.worker.decide_call(unknown, Decision::NotHappened).await.unwrap();
    assert_eq!(world.settle(unknown).await.call.idempotency_key, "other");
    let keys: Vec<_> = world.acme.book().arrived.iter().filter_map(|(_, key, _)| key.clone()).collect();
    assert_eq!(keys, ["mine~3", "other"], "what was made, each once");
}

/// Fails when a call that was called back is made, also while it waits in the pipeline.
#[tokio::test(start_paused = true)]
async fn a_call_can_be_called_back_until_it_leaves() {
    let world = World::new().await;
    let id = world.keep(post("/letters").due(world.clock.now().plus(Duration::from_secs(60)))).await;
    assert_eq!(world.step().await, 0, "it is not due");
    assert_eq!(world.worker.decide_call(id, Decision::Cancel).await.unwrap(), Decided::Now(CallState::Cancelled));
    tokio::time::sleep(Duration::from_secs(61)).await;
    world.step().await;
    // Refused once, it waits in the pipeline for its next attempt; that was let go, so it cannot be called back.
    world.acme.book().next.push_back(Mishap::Refused);
    let second = world.keep(post("/letters")).await;
    let cancel = async {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        world.worker.decide_call(second, Decision::Cancel).await.unwrap()
    };
    let (_, cancelled) = tokio::join!(world.step(), cancel);
    assert_eq!(cancelled, Decided::Refused(CallState::Running));
    assert_eq!(world.read(id).await.state, CallState::Cancelled);
    assert_eq!(world.acme.book().effects, 1, "the second only");
}

/// Fails when what authenticates is kept, when another host is called, or when a name that is not the operation's is
/// believed: a caller could call a letter a read, and it would be repeated.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_is_refused_in_one_sentence() {
    let world = World::new().await;
    let refuse = async |call: NewCall, kind: ErrorKind| {
        let error = world.worker.enqueue_calls(Vec::new(), vec![call]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    };
    for header in ["authorization", "cookie", "proxy-authorization"] {
        let mut call = post("/letters");
        call.headers.insert(header, "hunter2".parse().unwrap());
        refuse(call, ErrorKind::Invalid).await;
    }
    let mut named = post("/letters");
    named.operation = Some("names.list".to_owned());
    refuse(named, ErrorKind::Invalid).await;
    for target in [
        "https://evil.test/letters",
        "http://acme.test/letters",
        "//evil.test/letters",
        "/a/../letters",
        "x y",
        "/nothing",
    ] {
        refuse(post(target), ErrorKind::Invalid).await;
    }
    for key in ["", "a\nb", "é", &"k".repeat(256)] {
        refuse(post("/charges").with_idempotency_key(key), ErrorKind::Invalid).await;
        refuse(post("/charges").unique(key), ErrorKind::Invalid).await;
    }
    refuse(NewCall { connection: "nobody".into(), ..post("/letters") }, ErrorKind::NotFound).await;
    world.keep(post("https://acme.test/letters").unique("one")).await;
    refuse(post("/charges").unique("one"), ErrorKind::Conflict).await;
    let kept = world.store.inner.outbox(None, None, 9).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].call.request.target, "/letters", "an address of the connection's is kept as a path");
}

/// Fails when a failed effect leaves its call, or a refused call its effect.
#[tokio::test(start_paused = true)]
async fn effects_and_calls_are_written_together_or_not_at_all() {
    let world = World::new().await;
    world.store.inner.fail_effects(|effect| effect.sql.contains("bad").then(|| "no such table".to_owned()));
    let effect = |sql: &str| vec![Effect { sql: sql.to_owned(), values: Vec::new() }];
    let kept =
        async || (world.store.inner.effects().len(), world.store.inner.outbox(None, None, 9).await.unwrap().len());
    assert!(world.worker.enqueue_calls(effect("bad"), vec![post("/letters")]).await.is_err());
    assert_eq!(kept().await, (0, 0));
    assert!(world.worker.enqueue_calls(effect("good"), vec![post("/letters"), post("/nothing")]).await.is_err());
    assert_eq!(kept().await, (0, 0));
    world.worker.enqueue_calls(effect("good"), vec![post("/letters").unique("u")]).await.unwrap();
    assert_eq!(kept().await, (1, 1));
    assert!(world.worker.enqueue_calls(effect("good"), vec![post("/charges").unique("u")]).await.is_err());
    assert_eq!(kept().await, (1, 1));
}

async fn deliver(world: &World) -> EventRow {
    let event = NewEvent {
        id: "evt_1".into(),
        kind: "order".to_owned(),
        subscription: None,
        account: None,
        created: None,
        ordering_key: None,
        payload: None,
        wanted: true,
        priority: 0,
    };
    let delivery = NewDelivery {
        endpoint: "hook".into(),
        connection: "conn".into(),
        provider: "acme".to_owned(),
        received_at: world.clock.now(),
        headers: Vec::new(),
        body: "{}".into(),
        events: vec![event],
    };
    match world.store.inner.append(vec![delivery]).await.unwrap()[0][0] {
        Appended::New(row) | Appended::Duplicate(row) => row,
    }
}

/// Fails when a handler's call is kept though its event is not handled, or twice when the event is replayed.
#[tokio::test(start_paused = true)]
async fn a_handlers_call_is_kept_with_its_event_once() {
    let asks = handler(|_, context| {
        Box::pin(async move {
            context.effect("INSERT INTO orders", Vec::new());
            context.enqueue("thanks", post("/letters"));
            Handled::Done
        })
    });
    let world = World::with(|builder| builder.on("acme", "order", asks)).await;
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let hook = Arc::clone(&broken);
    world
        .store
        .inner
        .fail_effects(move |_| hook.load(std::sync::atomic::Ordering::SeqCst).then(|| "no table".to_owned()));
    let row = deliver(&world).await;
    world.worker.step(Queue::Events).await.unwrap();
    assert_eq!(world.store.inner.outbox(None, None, 9).await.unwrap().len(), 0, "its effect failed");
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.worker.step(Queue::Events).await.unwrap();
    assert_eq!(world.store.inner.event(row).await.unwrap().unwrap().state, EventState::Done);
    world.store.inner.replay(row, world.clock.now()).await.unwrap();
    world.worker.step(Queue::Events).await.unwrap();
    assert_eq!(world.store.inner.event(row).await.unwrap().unwrap().state, EventState::Done);
    let kept = world.store.inner.outbox(None, None, 9).await.unwrap();
    assert_eq!(kept.len(), 1, "a replayed event asks for the same call");
    assert_eq!(world.settle(kept[0].id).await.state, CallState::Done);
    assert_eq!(world.acme.book().effects, 1);
}

/// Fails when a draft sends anything, or loses the operation, the lane or the key.
#[tokio::test(start_paused = true)]
async fn a_draft_is_what_would_have_been_sent() {
    let call = draft(|transport| async move {
        let mut call = Call::new(&CHARGE, "conn".into(), "tenant".into()).with_idempotency_key("k");
        call.lane = Some("C1".into());
        let request = Request::post("https://acme.test/charges").header("x-a", "b").extension(call);
        transport.send(request.body("dear sir".into()).unwrap()).await.map(drop)
    });
    let call = call.await.unwrap();
    let told = (call.operation.as_deref(), call.replay, call.lane.as_deref(), call.idempotency_key.as_deref());
    assert_eq!(told, (Some("charges.create"), Some(CHARGE.replay), Some("C1"), Some("k")));
    assert_eq!((call.headers["x-a"].as_bytes(), &call.body[..]), (&b"b"[..], &b"dear sir"[..]));
    let wrong = draft(|_| async { Err::<(), _>(Error::new(ErrorKind::Invalid, "the address is none")) }).await;
    assert_eq!(wrong.unwrap_err().message(), "the address is none");
    assert!(draft(|_| async { Ok::<_, Error>(()) }).await.is_err(), "nothing was sent");
}

/// Fails when finished calls stay for ever, or one in review goes.
#[tokio::test(start_paused = true)]
async fn retention_removes_what_has_ended() {
    let world = World::new().await;
    world.acme.book().next.push_back(Mishap::LostRequest);
    let review = world.keep(post("/letters")).await;
    world.settle(review).await;
    let done = world.keep(post("/letters")).await;
    world.settle(done).await;
    tokio::time::sleep(Duration::from_secs(31 * 86_400)).await;
    let retention = NewJob {
        work: Work::Retention,
        lane: None,
        group: None,
        tenant: None,
        unique: None,
        priority: 0,
        run_at: world.clock.now(),
        attempts_max: 1,
    };
    world.store.inner.enqueue(vec![retention]).await.unwrap();
    world.worker.step(Queue::Background).await.unwrap();
    assert!(world.store.inner.outbox_call(done).await.unwrap().is_none());
    assert_eq!(world.read(review).await.state, CallState::Review);
}

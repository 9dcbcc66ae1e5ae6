//! The behaviour of the whole pipeline over an in-memory provider, in simulated time, counted at the provider.

mod attempts;
mod grants;
mod learned;
mod limits;
mod pauses;
mod refusals;
mod secrecy;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use tokio::time::{Instant, sleep};

use super::*;
use crate::auth::{Credential, FixedCredential, Scheme};
use crate::call::{Bucket, Call, Replay};
use crate::clock::TokioClock;
use crate::error::Outcome;
use crate::random::SeededRandom;

pub(super) const KEY: &str = "idempotency-key";

static WIDE: Bucket = Bucket { name: "wide", units: 1_000_000, per: Duration::from_secs(1), burst: 1_000_000 };
static FIVE: Bucket = Bucket { name: "five", units: 5, per: Duration::from_secs(1), burst: 5 };

const fn operation(name: &'static str, replay: Replay, bucket: &'static Bucket) -> Operation {
    Operation {
        provider: "acme",
        name,
        url_template: "/v1/things/{id}",
        replay,
        bucket,
        also: &[],
        cost: 1,
        attempt_timeout: Duration::from_secs(10),
        overall_timeout: Duration::from_secs(30),
        body_bytes_max: 1_000,
    }
}

pub(super) static READ: Operation = operation("things.read", Replay::Safe, &WIDE);
pub(super) static PUT: Operation = operation("things.put", Replay::Idempotent, &WIDE);
pub(super) static KEYED: Operation = operation("things.create", Replay::Keyed(KEY), &WIDE);
pub(super) static BLIND: Operation = operation("things.send", Replay::Never, &WIDE);
pub(super) static SLOW_LANE: Operation = operation("things.list", Replay::Safe, &FIVE);

/// What the provider does with one attempt.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    Status(u16),
    With(u16, Vec<(&'static str, String)>, Bytes),
    Refused,
    Reset,
    Hang,
    After(Duration, Box<Reply>),
}

/// What the provider saw of one attempt.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) headers: HeaderMap,
    pub(super) call: Option<Call>,
    pub(super) uri: String,
}

type Script = dyn Fn(usize, &Request<Bytes>) -> Reply + Send + Sync;

/// A provider in memory. It counts what reaches it, refused connections excepted.
pub(super) struct Provider {
    script: Box<Script>,
    tries: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    under_way: AtomicUsize,
    peak: AtomicUsize,
}

impl Provider {
    pub(super) fn new(script: impl Fn(usize, &Request<Bytes>) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            tries: AtomicUsize::new(0),
            seen: Mutex::default(),
            under_way: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        })
    }

    pub(super) fn always(reply: Reply) -> Arc<Self> {
        Self::new(move |_, _| reply.clone())
    }

    pub(super) fn in_turn(replies: Vec<Reply>) -> Arc<Self> {
        Self::new(move |n, _| replies.get(n).or(replies.last()).unwrap().clone())
    }

    pub(super) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn peak(&self) -> usize {
        self.peak.load(SeqCst)
    }
}

struct Inside<'a>(&'a AtomicUsize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl Transport for Provider {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let mut reply = (self.script)(self.tries.fetch_add(1, SeqCst), &request);
        let refused = || Error::new(ErrorKind::Connect, "refused").with_outcome(Outcome::NotSent);
        if matches!(reply, Reply::Refused) {
            return Err(refused());
        }
        self.seen.lock().unwrap().push(Seen {
            at: Instant::now(),
            headers: request.headers().clone(),
            call: request.extensions().get::<Call>().cloned(),
            uri: request.uri().to_string(),
        });
        self.peak.fetch_max(self.under_way.fetch_add(1, SeqCst) + 1, SeqCst);
        let _inside = Inside(&self.under_way);
        loop {
            reply = match reply {
                Reply::After(wait, then) => {
                    sleep(wait).await;
                    *then
                }
                Reply::Status(status) => Reply::With(status, Vec::new(), Bytes::from_static(b"{}")),
                Reply::With(status, headers, body) => {
                    let mut response = Response::builder().status(status);
                    for (name, value) in headers {
                        response = response.header(name, value);
                    }
                    return Ok(response.body(body).unwrap());
                }
                Reply::Reset => return Err(Error::new(ErrorKind::Transport, "reset").with_outcome(Outcome::Unknown)),
                Reply::Refused => return Err(refused()),
                Reply::Hang => std::future::pending().await,
            };
        }
    }
}

/// Credentials with versions; a refresh takes a moment and is counted.
pub(super) struct Rotating {
    version: AtomicU64,
    pub(super) refreshes: AtomicUsize,
    pub(super) dead: bool,
}

impl Rotating {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { version: AtomicU64::new(1), refreshes: AtomicUsize::new(0), dead: false })
    }

    fn now(&self) -> Credential {
        let version = self.version.load(SeqCst);
        Credential::new(&Scheme::Bearer(format!("token-{version}").into()), version, None).unwrap()
    }
}

#[async_trait]
impl CredentialSource for Rotating {
    async fn credential(&self, _connection: ConnectionId) -> Result<Credential> {
        Ok(self.now())
    }

    async fn refresh(&self, _connection: ConnectionId, seen: u64) -> Result<Credential> {
        self.refreshes.fetch_add(1, SeqCst);
        sleep(Duration::from_millis(50)).await;
        if self.dead {
            return Err(Error::new(ErrorKind::Auth, "the grant is gone: reconnect"));
        }
        let _ = self.version.compare_exchange(seen, seen + 1, SeqCst, SeqCst);
        Ok(self.now())
    }
}

/// Keeps what it observes.
#[derive(Default)]
pub(super) struct Log(pub(super) Mutex<Vec<CallRecord>>);

impl Observer for Log {
    fn observe(&self, call: CallRecord) {
        self.0.lock().unwrap().push(call);
    }
}

impl Log {
    pub(super) fn take(&self) -> Vec<CallRecord> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A client over a provider in memory.
pub(super) struct Scene {
    pub(super) client: Client,
    pub(super) log: Arc<Log>,
    pub(super) metrics: Metrics,
}

pub(super) fn profile() -> Profile {
    Profile::new("acme", &["api.acme.test"], Arc::new(StatusClassifier))
}

/// A breaker that never opens, for tests of what the budget and the replay rule do without its help.
pub(super) fn without_breaker() -> Profile {
    let mut profile = profile();
    profile.breaker.calls_min = u32::MAX;
    profile
}

pub(super) fn fixed() -> Arc<dyn CredentialSource> {
    Arc::new(FixedCredential::new(&Scheme::Bearer("canary-token".into())).unwrap())
}

impl Scene {
    pub(super) fn new(provider: &Arc<Provider>) -> Self {
        Self::with(profile(), provider, fixed())
    }

    pub(super) fn with(profile: Profile, provider: &Arc<Provider>, credentials: Arc<dyn CredentialSource>) -> Self {
        let log = Arc::new(Log::default());
        let metrics = Metrics::default();
        let client = Client::builder(profile, Arc::clone(provider) as Arc<dyn Transport>, credentials)
            .clock(Arc::new(TokioClock::starting_at(Timestamp::from_seconds(1_800_000_000))))
            .random(Arc::new(SeededRandom::new(42)))
            .observer(Arc::clone(&log) as Arc<dyn Observer>)
            .metrics(metrics.clone())
            .build()
            .unwrap();
        Self { client, log, metrics }
    }

    pub(super) async fn send(&self, operation: &'static Operation) -> Result<Response<Bytes>> {
        self.client.send(request(call(operation))).await
    }
}

pub(super) fn call(operation: &'static Operation) -> Call {
    Call::new(operation, "connection-1".into(), "tenant-1".into())
}

pub(super) fn request(call: Call) -> Request<Bytes> {
    Request::builder()
        .method(if call.operation.replay == Replay::Safe { Method::GET } else { Method::POST })
        .uri("https://api.acme.test/v1/things/7?secret=canary-query")
        .header("content-type", "application/json")
        .extension(call)
        .body(Bytes::from_static(b"{\"body\":\"canary-body\"}"))
        .unwrap()
}

/// Runs calls at once and gives their results in order.
pub(super) async fn together<F: Future + Send + 'static>(calls: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F::Output: Send,
{
    let tasks: Vec<_> = calls.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

//! The way of one request, alike for every provider: count, judge, wait, answer, and go wrong as the dials ask.
//!
//! Stripe walks its own way (its idempotency keys need one) and shares only what goes wrong after the change.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::Value;
use tokio::time::Instant;

use crate::dice::Dice;
use crate::faults::{Fault, Faults, RetryAfter, Verdict};
use crate::ledger::{Book, Breach, Ledger};
use crate::memory::Memory;
use crate::oauth::{Authority, Flight};
use crate::post::{Parcel, PostRoom, Poster};
use crate::wire::{self, Answer, Cut, Door, Served};
use crate::{Clock, control};

/// What every emulator is set up with.
#[derive(Clone)]
pub struct Setup {
    pub(crate) listen: SocketAddr,
    pub(crate) seed: u64,
    pub(crate) clock: Clock,
    pub(crate) control: bool,
    /// Posts what the provider sends by itself; a plain HTTP client when absent.
    pub(crate) poster: Option<Poster>,
    /// How long a receiver may take.
    pub(crate) patience: Duration,
}

/// What every emulator has: a door, dials, a ledger, a clock.
#[derive(Debug)]
pub struct House {
    pub(crate) door: Door,
    pub(crate) faults: Faults,
    pub(crate) dice: Mutex<Dice>,
    pub(crate) post: PostRoom,
    book: Mutex<Book>,
    setup: Setup,
    skew: AtomicI64,
    /// None for a provider that forgets.
    memory: Mutex<Option<Memory>>,
    name: &'static str,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("listen", &self.listen).field("seed", &self.seed).finish_non_exhaustive()
    }
}

impl House {
    fn new(name: &'static str, setup: Setup) -> Self {
        Self {
            door: Door::default(),
            faults: Faults::default(),
            dice: Mutex::new(Dice(setup.seed ^ 0x5EED_FA17)),
            post: PostRoom::new(setup.poster.clone(), setup.patience),
            book: Mutex::new(Book::new()),
            skew: AtomicI64::new(0),
            memory: Mutex::new(None),
            setup,
            name,
        }
    }

    /// Gives the provider's own milliseconds since 1970, with skew.
    pub(crate) fn now(&self) -> i64 {
        let since = (self.setup.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX).saturating_add(self.skew.load(Ordering::Acquire))
    }

    /// Gives the base URL, or a name that no resolver knows while nothing listens.
    pub(crate) fn base_url(&self) -> String {
        self.door.base_url().map_or_else(|| format!("http://{}.invalid", self.name), str::to_owned)
    }

    /// Gives the ledger to write in.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives what it remembers in. Its lock comes before the world's.
    pub(crate) fn memory(&self) -> &Mutex<Option<Memory>> {
        &self.memory
    }

    /// Shifts the provider's clock, by milliseconds.
    pub(crate) fn shift(&self, skew: i64, further: bool) {
        if further {
            self.skew.fetch_add(skew, Ordering::AcqRel);
        } else {
            self.skew.store(skew, Ordering::Release);
        }
    }

    fn date(&self, ahead: u64) -> String {
        let seconds = u64::try_from(self.now() / 1000).unwrap_or(0).saturating_add(ahead);
        httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799)))
    }
}

/// Why the gate lets nothing through to the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Barred {
    /// A fault with this status.
    Status(u16),
    /// A limit; the header is set by the gate.
    Throttled,
    /// The provider's own refusal.
    Code(String),
}

/// A 429 that a provider's own limits ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    pub(crate) reason: &'static str,
    pub(crate) wait: Duration,
}

/// What is particular to one provider.
pub trait Provider: std::fmt::Debug + Send + Sync + Sized + 'static {
    /// How it is set up.
    type Config: Default;

    /// Its name in URLs and messages.
    const NAME: &'static str;

    /// Builds it.
    fn build(config: Self::Config) -> (Self, Setup);

    /// Gives the route a request counts under: method and path, identifiers replaced.
    fn route(&self, request: &Request<Bytes>) -> String;

    /// Counts secrets as they arrive.
    fn arrived(&self, request: &Request<Bytes>) -> Option<Flight>;

    /// Gives the lane a request is limited in, where that is narrower than its route.
    fn lane(&self, _house: &House, _request: &Request<Bytes>) -> Option<String> {
        None
    }

    /// Says whether one of the provider's own limits is used up.
    fn limit(&self, _house: &House, _request: &Request<Bytes>, _lane: Option<&str>) -> Option<Limit> {
        None
    }

    /// Answers.
    fn answer(&self, house: &House, request: &Request<Bytes>) -> Response<Bytes>;

    /// Words a refusal of the gate.
    fn barred(&self, request: &Request<Bytes>, why: &Barred) -> Response<Bytes>;

    /// Gives the authorisation server.
    fn authority(&self) -> &Authority;

    /// Obeys what only this provider's control plane knows.
    fn control(&self, house: &House, method: &str, path: &str, body: &Bytes) -> Option<Result<Value, String>>;

    /// Writes everything that is to survive the process; nothing for a provider that forgets.
    fn remembered(&self) -> Option<serde_json::Result<Vec<u8>>> {
        None
    }

    /// Takes up what an earlier process wrote.
    ///
    /// # Errors
    /// When it is not what [`Provider::remembered`] writes.
    fn recall(&self, _kept: &[u8]) -> serde_json::Result<()> {
        Ok(())
    }

    /// Makes the request that delivers a parcel, signed for this moment; nothing when nobody wants it any more.
    fn stamp(&self, _house: &House, _parcel: &Parcel) -> Option<Request<Bytes>> {
        None
    }

    /// Tells whether a receiver's answer acknowledges.
    fn acknowledges(&self, status: u16) -> bool {
        (200..300).contains(&status)
    }

    /// Names an acknowledged delivery in the ledger: as whoever took it tells it from others.
    fn known_as(&self, parcel: &Parcel) -> String {
        parcel.id.clone()
    }

    /// Gives the wait before the next attempt of a delivery that was not acknowledged; nothing to give it up.
    fn gap(&self, _parcel: &Parcel, _answer: Option<&Response<Bytes>>) -> Option<Duration> {
        None
    }
}

/// What all handles of an emulator share.
#[derive(Debug)]
pub(crate) struct Inner<P> {
    pub(crate) provider: P,
    pub(crate) house: House,
}

/// An emulated provider. Clones are handles to the same one.
pub struct Emulated<P> {
    pub(crate) inner: Arc<Inner<P>>,
}

impl<P> Clone for Emulated<P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<P: Provider> std::fmt::Debug for Emulated<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emulated").field("provider", &P::NAME).field("base_url", &self.base_url()).finish()
    }
}

impl<P: Provider> Emulated<P> {
    /// Makes a provider that opens no socket; use [`Emulated::handle`].
    #[must_use]
    pub fn offline(config: P::Config) -> Self {
        let (provider, setup) = P::build(config);
        Self { inner: Arc::new(Inner { provider, house: House::new(P::NAME, setup) }) }
    }

    /// Makes a provider and serves it on loopback.
    ///
    /// # Errors
    /// Gives the socket's error when it cannot listen.
    pub async fn start(config: P::Config) -> std::io::Result<Self> {
        let emulated = Self::offline(config);
        wire::serve(&emulated.inner, emulated.inner.house.setup.listen).await?;
        Ok(emulated)
    }

    /// Gives `http://127.0.0.1:PORT`, or a name that no resolver knows for an offline one.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.inner.house.base_url()
    }

    /// Gives the authorisation server: its clients, rules, dials and counts.
    #[must_use]
    pub fn oauth(&self) -> Authority {
        self.inner.provider.authority().clone()
    }

    /// Gives the fault dials.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.inner.house.faults.clone()
    }

    /// Gives everything counted until now.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        self.inner.house.book().snapshot()
    }

    /// Sets the provider's clock off against the configured one: expiry, `Date` and signatures follow.
    pub fn clock_skew(&self, by: Duration, forward: bool) {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.inner.house.shift(if forward { millis } else { -millis }, false);
    }

    /// Moves the provider's clock on: codes and tokens expire as if so much time had passed.
    pub fn advance(&self, by: Duration) {
        self.inner.house.shift(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), true);
    }

    /// Waits until no delivery is queued or in flight, retries included.
    pub async fn drain_webhooks(&self) {
        self.inner.drained().await;
    }

    /// Counts deliveries that are queued or in flight.
    #[must_use]
    pub fn webhooks_waiting(&self) -> usize {
        self.inner.house.post.len()
    }

    /// Stops serving and delivering. Open connections are closed.
    pub async fn shutdown(&self) {
        self.inner.house.door.shut();
        self.inner.house.post.close();
        tokio::task::yield_now().await;
    }

    /// Answers a request in memory, exactly as the socket would.
    ///
    /// Runs without waiting unless a latency was dialled; then it waits with tokio's clock, and the provider goes on
    /// even if the caller drops the future, as a real one would.
    ///
    /// # Errors
    /// Gives what the connection did instead of answering.
    pub async fn handle(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Cut> {
        let inner = &self.inner;
        if inner.house.setup.control && request.uri().path().starts_with("/_emulator/") {
            let answer = control::answer(&**inner, &request);
            inner.flush();
            return Ok(answer);
        }
        let way = inner.arrive(request);
        let (before, after) = (way.verdict.latency, way.verdict.latency_after);
        if before.is_zero() && after.is_zero() {
            let answer = inner.finish(&way);
            inner.flush();
            return answer;
        }
        let inner = inner.clone();
        let work = tokio::spawn(async move {
            wait(before).await;
            let answer = inner.finish(&way);
            inner.flush();
            wait(after).await;
            drop(way);
            answer
        });
        work.await.unwrap_or(Err(Cut::Reset))
    }
}

impl<P: Provider> Served for Inner<P> {
    fn door(&self) -> &Door {
        &self.house.door
    }

    async fn serve(self: Arc<Self>, request: Request<Bytes>) -> Answer {
        Emulated { inner: self }.handle(request).await
    }
}

#[allow(clippy::disallowed_methods, reason = "a dialled latency is a wait on tokio's clock and nothing else")]
async fn wait(latency: Duration) {
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}

/// One request on its way.
#[derive(Debug)]
struct Way {
    request: Request<Bytes>,
    route: String,
    lane: Option<String>,
    verdict: Verdict,
    /// Held until the answer leaves, so that refreshes that overlap are seen.
    _flight: Option<Flight>,
}

impl<P: Provider> Inner<P> {
    fn arrive(&self, request: Request<Bytes>) -> Way {
        let route = self.provider.route(&request);
        let lane = self.provider.lane(&self.house, &request);
        let now = Instant::now();
        {
            let mut book = self.house.book();
            let early = book.arrived(&route, None, now);
            if lane.as_deref().map_or(early, |lane| book.arrived_in(lane, now)) {
                book.breach(Breach::Early);
            }
        }
        let flight = self.provider.arrived(&request);
        let verdict = {
            let mut dice = self.house.dice.lock().unwrap_or_else(PoisonError::into_inner);
            self.house.faults.judge(&route, now, &mut dice)
        };
        if let Some(fault) = verdict.fault.as_ref().filter(|fault| **fault != Fault::Pass) {
            self.house.book().fault(fault.name());
        }
        Way { request, route, lane, verdict, _flight: flight }
    }

    fn finish(&self, way: &Way) -> Answer {
        let answer = self.run(way);
        self.house.book().answered(match &answer {
            Ok(response) => Some(response.status().as_u16()),
            Err(Cut::CutBody { status, .. }) => Some(status.as_u16()),
            Err(Cut::Reset | Cut::Hang) => None,
        });
        answer
    }

    fn run(&self, way: &Way) -> Answer {
        let fault = way.verdict.fault.as_ref();
        let response = match fault {
            Some(Fault::ResetBefore) => return Err(Cut::Reset),
            Some(Fault::HangBefore) => return Err(Cut::Hang),
            Some(Fault::Status(status)) => self.provider.barred(&way.request, &Barred::Status(*status)),
            Some(Fault::Outage) => self.provider.barred(&way.request, &Barred::Status(503)),
            Some(Fault::Refuse(code)) => self.provider.barred(&way.request, &Barred::Code(code.clone())),
            Some(Fault::Throttle(after)) => self.throttle(way, "injected", *after),
            Some(Fault::LockTimeout) => self.throttle(way, "lock_timeout", RetryAfter::None),
            Some(
                Fault::Pass
                | Fault::Latency(_)
                | Fault::LatencyAfter(_)
                | Fault::StatusAfter(_)
                | Fault::ResetAfter
                | Fault::CutBody
                | Fault::Garbage
                | Fault::Html
                | Fault::HangAfter,
            )
            | None => self.judge(way),
        };
        let response = match fault {
            Some(Fault::StatusAfter(status)) if response.status().as_u16() < 400 => {
                self.provider.barred(&way.request, &Barred::Status(*status))
            }
            _ => response,
        };
        after(fault, self.sealed(response))
    }

    fn judge(&self, way: &Way) -> Response<Bytes> {
        if let Some((reason, after)) = way.verdict.over {
            return self.throttle(way, reason, after);
        }
        if let Some(limit) = self.provider.limit(&self.house, &way.request, way.lane.as_deref()) {
            return self.throttle(way, limit.reason, RetryAfter::Seconds(limit.wait.as_secs().max(1)));
        }
        self.provider.answer(&self.house, &way.request)
    }

    fn throttle(&self, way: &Way, reason: &str, after: RetryAfter) -> Response<Bytes> {
        let place = way.lane.as_deref().unwrap_or(&way.route);
        self.house.book().throttled(place, reason, after.wait(), Instant::now());
        let mut response = self.provider.barred(&way.request, &Barred::Throttled);
        let value = match after {
            RetryAfter::None => return response,
            RetryAfter::Seconds(seconds) => seconds.to_string(),
            RetryAfter::Date(seconds) => self.house.date(seconds),
        };
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert("retry-after", value);
        }
        response
    }

    /// Adds what every answer has.
    fn sealed(&self, mut response: Response<Bytes>) -> Response<Bytes> {
        let length = response.body().len();
        let headers = response.headers_mut();
        headers.insert("content-length", HeaderValue::from(length));
        if let Ok(date) = HeaderValue::from_str(&self.house.date(0)) {
            headers.insert("date", date);
        }
        response
    }
}

/// Answers with JSON.
pub(crate) fn json(status: u16, value: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(serde_json::to_vec(value).unwrap_or_default()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

/// Answers as the infrastructure in front of a provider does when it fails: a page, whatever was due.
pub(crate) fn front(status: u16) -> Response<Bytes> {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let words = code.canonical_reason().unwrap_or("Error");
    let page = format!(
        "<html><head><title>{status} {words}</title></head><body><center><h1>{status} {words}</h1></center></body></html>"
    );
    let mut response = Response::new(Bytes::from(page));
    *response.status_mut() = code;
    response.headers_mut().insert("content-type", HeaderValue::from_static("text/html"));
    response
}

/// Applies what goes wrong after the change was made.
pub(crate) fn after(fault: Option<&Fault>, mut response: Response<Bytes>) -> Answer {
    match fault {
        Some(Fault::ResetAfter) => Err(Cut::Reset),
        Some(Fault::HangAfter) => Err(Cut::Hang),
        Some(Fault::CutBody) => {
            let (parts, body) = response.into_parts();
            Err(Cut::CutBody { status: parts.status, headers: parts.headers, partial: body.slice(..body.len() / 2) })
        }
        Some(Fault::Garbage) => {
            let body = response.body();
            // Half of the true answer, declared as if it were whole.
            let mut broken = body.slice(..body.len() / 2).to_vec();
            broken.extend_from_slice(b"\x00{");
            response.headers_mut().insert("content-length", HeaderValue::from(broken.len()));
            *response.body_mut() = Bytes::from(broken);
            Ok(response)
        }
        Some(Fault::Html) => {
            let (status, page) = (response.status(), front(200).into_body());
            let headers = response.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("text/html"));
            headers.insert("content-length", HeaderValue::from(page.len()));
            *response.status_mut() = status;
            *response.body_mut() = page;
            Ok(response)
        }
        Some(
            Fault::Pass
            | Fault::Latency(_)
            | Fault::LatencyAfter(_)
            | Fault::Status(_)
            | Fault::StatusAfter(_)
            | Fault::Throttle(_)
            | Fault::LockTimeout
            | Fault::ResetBefore
            | Fault::HangBefore
            | Fault::Refuse(_)
            | Fault::Outage,
        )
        | None => Ok(response),
    }
}

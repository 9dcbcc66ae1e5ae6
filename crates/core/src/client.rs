//! The pipeline every outbound call passes: deadline, admission, breaker, limits, credential, attempts, repeats.
//!
//! [`Client`] is a [`Transport`] that wraps another. What it must know of a call travels as one [`crate::Call`] in
//! `request.extensions()`; what it must know of a provider is the [`Profile`]. The files follow the order a call
//! passes them in: `hosts`, `admission`, `way` through the `lanes`, each a `lane` with its `turnstile`s, `breaker`, `outgoing`, then
//! `replay`, `backoff`, `retry_after` and `budget` for what comes after a failure; `engine` is the loop that asks them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::auth::{Credential, CredentialSource};
use crate::call::{Call, Operation, Scope};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, GrantName};
use crate::metrics::Metrics;
use crate::random::{Random, SystemRandom};
use crate::store::{CallRecord, Pause};
use crate::transport::Transport;

mod accounts;
mod admission;
mod backoff;
mod breaker;
mod budget;
mod engine;
mod flights;
mod held;
mod hosts;
mod lane;
mod lanes;
mod learned;
mod ongoing;
mod outgoing;
mod pausing;
mod replay;
mod retry_after;
mod status;
mod telemetry;
#[cfg(test)]
mod tests;
mod turnstile;
mod way;

#[cfg(feature = "mock")]
pub use accounts::MockAccountSource;
pub use accounts::{AccountSource, Accounts};
pub use learned::{Learned, LimitHeaders, Reset};
pub use retry_after::{HINT_MAX, retry_after, until_epoch};
pub use status::{StatusClassifier, error_of_status};

use admission::Admission;
use engine::Engine;
use flights::Flights;
use held::Held;
use hosts::Host;
use lanes::Lanes;
use telemetry::ClientMeters;
use turnstile::Turnstile;

/// What the pipeline must know of a provider.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by `Profile::new` and changed field by field")]
pub struct Profile {
    /// The provider's name.
    pub provider: &'static str,
    /// The hosts a credential may be sent to, with an optional port. Loopback may be plain http, all others need https.
    pub hosts: Vec<String>,
    /// Reads answers.
    pub classifier: Arc<dyn Classifier>,
    /// When and how often to repeat.
    pub retry: RetrySettings,
    /// When to stop sending to a host that fails.
    pub breaker: BreakerSettings,
    /// How much may be under way and waiting.
    pub limits: LimitSettings,
    /// Learns limits from what answers say of them; `None` heeds the buckets and throttles only.
    pub learned: Option<Learned>,
    /// Tells classes of credentials apart where limits differ by them (a sandbox's key from a live one); see
    /// [`crate::call::Limit::class`]. Pure: it is asked for every call that has such a limit.
    pub class: Option<fn(&Credential) -> &'static str>,
    /// The longest an attempt may take, whatever its operation allows; `None` leaves it to the operation.
    pub attempt_timeout_max: Option<Duration>,
    /// The header the provider names its request id in, for errors and the call log.
    pub request_id_header: &'static str,
}

/// Reads an answer: success, or an [`Error`] with the word on repeating. Pure.
///
/// The engine adds to the error what it knows itself: provider, operation, status, request id, attempts, key. It
/// reads the wait from `retry-after-ms` and `Retry-After`; a classifier gives only what stands elsewhere. Redirects
/// and bodies over the cap never get here.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait Classifier: Send + Sync + 'static {
    /// Classifies the answer to an attempt of `operation`.
    fn classify(&self, operation: &'static Operation, response: &http::Response<Bytes>) -> Verdict;
}

/// What an answer means.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the engine decides on each")]
pub enum Verdict {
    /// The call succeeded.
    Success,
    /// The credential was refused: refresh once and repeat once, at no attempt's cost.
    Unauthorized(Error),
    /// The provider did nothing and asks to wait; the wait is read from the headers, or is `after`.
    Throttled {
        /// The error should repeating not be possible.
        error: Error,
        /// The wait when the provider says it in the body.
        after: Option<Duration>,
        /// Which of the operation's limits it was: all calls that share it are held back. A scope the operation has
        /// no limit of stands for its own.
        scope: Scope,
    },
    /// The call failed.
    Failed {
        /// The error, with kind, code, request id and outcome.
        error: Error,
        /// Whether it may be repeated.
        repeat: Repeat,
    },
}

/// Whether a failed attempt may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the replay rule decides on each")]
pub enum Repeat {
    /// No: the answer is final.
    Never,
    /// Only where the operation's [`crate::Replay`] allows it: the provider may have acted.
    IfSafe,
    /// Yes, any operation: the provider says it did nothing.
    Always,
}

/// When and how often to repeat.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "settings; checked by the builder")]
pub struct RetrySettings {
    /// Attempts in all.
    pub attempts_max: u32,
    /// Attempts in all when attempts time out (a timeout repeats once).
    pub timeouts_max: u32,
    /// The base of the full-jitter backoff.
    pub base: Duration,
    /// The base after a throttle without a hint.
    pub throttled_base: Duration,
    /// The longest backoff.
    pub max: Duration,
    /// The longest server hint that is waited for inside a call; a longer one is returned to the caller at once.
    pub hint_max: Duration,
    /// Tokens of the retry budget per host.
    pub budget: u32,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            timeouts_max: 2,
            base: Duration::from_millis(100),
            throttled_base: Duration::from_secs(1),
            max: Duration::from_secs(20),
            hint_max: Duration::from_secs(60),
            budget: 100,
        }
    }
}

/// When to stop sending to a host that fails.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "settings; checked by the builder")]
pub struct BreakerSettings {
    /// The share of failures that opens it, in `(0, 1]`.
    pub failure_rate: f64,
    /// Calls in the window before the rate counts.
    pub calls_min: u32,
    /// The window, kept in ten buckets.
    pub window: Duration,
    /// How long it stays open the first time; doubles up to `open_max`.
    pub open: Duration,
    /// The longest it stays open.
    pub open_max: Duration,
    /// Probes let through at once when half open.
    pub probes: u32,
    /// Attempts slower than this count as failures; `None` switches it off.
    pub slow: Option<Duration>,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failure_rate: 0.5,
            calls_min: 20,
            window: Duration::from_secs(30),
            open: Duration::from_secs(5),
            open_max: Duration::from_secs(60),
            probes: 3,
            slow: None,
        }
    }
}

/// How much may be under way and waiting.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "settings; checked by the builder")]
pub struct LimitSettings {
    /// Calls admitted at once; beyond it a call is refused as overloaded.
    pub admission_max: usize,
    /// Attempts under way at once.
    pub concurrency: usize,
    /// Share of a lane's burst that only interactive calls may spend, in `[0, 1)`. Counted in whole units, rounded up: a
    /// share above 0 keeps at least one unit of any burst above 1, and background calls are always left one.
    pub interactive_reserve: f64,
    /// Lanes kept; beyond it idle ones are evicted first.
    pub lanes_max: usize,
    /// A lane unused for this long may be evicted.
    pub lane_idle: Duration,
    /// Calls waiting in one lane; beyond it a call is refused as throttled.
    pub waiting_max: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            admission_max: 10_000,
            concurrency: 256,
            interactive_reserve: 0.1,
            lanes_max: 10_000,
            lane_idle: Duration::from_secs(600),
            waiting_max: 1_000,
        }
    }
}

impl Profile {
    /// Makes a profile with default settings.
    #[must_use]
    pub fn new(provider: &'static str, hosts: &[&str], classifier: Arc<dyn Classifier>) -> Self {
        Self {
            provider,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            classifier,
            retry: RetrySettings::default(),
            breaker: BreakerSettings::default(),
            limits: LimitSettings::default(),
            learned: None,
            class: None,
            attempt_timeout_max: None,
            request_id_header: "x-request-id",
        }
    }

    /// Adds the host of a base URL (a sandbox, an emulator) to those a credential may be sent to.
    #[must_use]
    pub fn allowing(mut self, base_url: &str) -> Self {
        if let Some(authority) = base_url.parse::<http::Uri>().ok().and_then(|uri| uri.into_parts().authority) {
            self.hosts.push(authority.to_string());
        }
        self
    }
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("provider", &self.provider).field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// Watches finished calls: succeeded, failed, refused here, or cancelled by a caller that went away. Called on the
/// caller's task: it must be quick and must not block.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait Observer: Send + Sync + 'static {
    /// Sees one finished call.
    fn observe(&self, call: CallRecord);
}

/// The shortest pause a [`PauseObserver`] is told of: a shorter one is over before it could be written down and heeded.
pub const PAUSE_TOLD_MIN: Duration = Duration::from_secs(5);

/// Watches pauses: what a provider asked to leave alone for at least [`PAUSE_TOLD_MIN`], so that it is left alone by
/// other processes and by those that come after this one, too ([`Client::restore`]). Called on the task of the call that
/// was turned away: it must be quick and must not block. It is told again when a pause grows.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait PauseObserver: Send + Sync + 'static {
    /// Sees one lane that was paused.
    fn paused(&self, pause: Pause);
}

/// Answers in the provider's place after the engine has given up. The call log and the metrics still show the failure.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Fallback: Send + Sync + 'static {
    /// Gives an answer of its own, or hands the error back.
    ///
    /// # Errors
    /// The given error, when there is nothing to fall back on.
    async fn answer(&self, request: &http::Request<Bytes>, error: Error) -> Result<http::Response<Bytes>>;
}

/// The pipeline. Cheap to clone; all clones share limits, breakers and budgets.
///
/// A request must carry a [`crate::Call`] in its extensions and an absolute address at one of the profile's hosts.
///
/// # Errors
/// What the provider said, completed with operation, attempts, request id, idempotency key and outcome; or a refusal
/// of our own, before anything was sent: [`ErrorKind::Config`] (no call, a host outside the profile, a description
/// that cannot work), [`ErrorKind::Overloaded`], [`ErrorKind::CircuitOpen`], [`ErrorKind::Throttled`] (with
/// [`Error::retry_after`]), [`ErrorKind::Timeout`].
#[derive(Clone)]
pub struct Client {
    engine: Arc<Engine>,
    /// The grant of calls that name none.
    grant: Option<GrantName>,
}

/// Builds a [`Client`].
pub struct ClientBuilder {
    profile: Profile,
    transport: Arc<dyn Transport>,
    credentials: Arc<dyn CredentialSource>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    observer: Option<Arc<dyn Observer>>,
    pause_observer: Option<Arc<dyn PauseObserver>>,
    fallback: Option<Arc<dyn Fallback>>,
    metrics: Metrics,
    accounts: Accounts,
}

/// The state of a host's breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set")]
pub enum BreakerState {
    /// Attempts go through.
    Closed,
    /// Attempts are refused at once.
    Open,
    /// A few probes find out whether the host is back.
    HalfOpen,
}

/// An operator's hand on the breaker of one host.
#[derive(Clone)]
pub struct BreakerHandle {
    engine: Arc<Engine>,
    host: usize,
}

impl Client {
    /// Begins a client of a provider over a transport, with the source of its credentials.
    #[must_use]
    pub fn builder(
        profile: Profile,
        transport: Arc<dyn Transport>,
        credentials: Arc<dyn CredentialSource>,
    ) -> ClientBuilder {
        ClientBuilder {
            profile,
            transport,
            credentials,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            observer: None,
            pause_observer: None,
            fallback: None,
            metrics: Metrics::default(),
            accounts: Accounts::default(),
        }
    }

    /// Returns this client for another grant of the connections (Slack's `user` beside its `bot`): for calls that name
    /// none themselves ([`crate::Call::grant`]). Limits, breakers and budgets stay shared: they are the account's.
    #[must_use]
    pub fn grant(&self, name: impl Into<GrantName>) -> Self {
        Self { engine: Arc::clone(&self.engine), grant: Some(name.into()) }
    }

    /// Returns until when calls of a connection are held back: by the longest pause this process knows of, of any of the
    /// limits of the connection's account, or by the open breaker of the host of `base_url`. `None` when nothing holds
    /// them, or only an operator's hand. By the client's clock.
    pub async fn held_until(&self, connection: &ConnectionId, base_url: &str) -> Option<Timestamp> {
        self.engine.held_until(connection, base_url).await
    }

    /// Holds back what a process before this one, or beside it, was asked to leave alone ([`PauseObserver`]). What is
    /// over, is another provider's or names no lane is passed over. Whatever the clocks say, a pause lasts no longer than
    /// it did where it was asked for, nor than this process would take for true itself ([`HINT_MAX`] and a tenth); one
    /// that is known already never gets shorter.
    pub fn restore(&self, pauses: &[Pause]) {
        self.engine.restore(pauses);
    }

    /// Returns the breaker of a host, named as in [`Profile::hosts`].
    #[must_use]
    pub fn breaker(&self, host: &str) -> Option<BreakerHandle> {
        let at = self.engine.hosts.iter().position(|known| known.is_named(host))?;
        Some(BreakerHandle { engine: Arc::clone(&self.engine), host: at })
    }
}

impl BreakerHandle {
    /// Returns the state.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.host().map_or(BreakerState::Closed, |host| host.breaker.state())
    }

    /// Refuses every attempt until [`BreakerHandle::release`], for maintenance or an incident.
    pub fn force_open(&self) {
        self.host().inspect(|host| host.breaker.force(true));
    }

    /// Lets every attempt through until [`BreakerHandle::release`], whatever fails.
    pub fn force_closed(&self) {
        self.host().inspect(|host| host.breaker.force(false));
    }

    /// Gives the breaker back to itself: closed, with an empty window.
    pub fn release(&self) {
        self.host().inspect(|host| host.breaker.release());
    }

    fn host(&self) -> Option<&Host> {
        self.engine.hosts.get(self.host)
    }
}

impl ClientBuilder {
    /// Sets the wall clock (for HTTP dates and the call log). Waiting goes by tokio's time.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the randomness.
    #[must_use]
    pub fn random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// Sets who watches finished calls.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Sets who watches pauses.
    #[must_use]
    pub fn pause_observer(mut self, observer: Arc<dyn PauseObserver>) -> Self {
        self.pause_observer = Some(observer);
        self
    }

    /// Sets who answers when the engine has given up.
    #[must_use]
    pub fn fallback(mut self, fallback: Arc<dyn Fallback>) -> Self {
        self.fallback = Some(fallback);
        self
    }

    /// Sets where metrics are counted.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Says which account at the provider a connection is: connections of one account share its limits and pauses, as
    /// the provider counts them together. The account of a connection of which nothing is said is its own.
    #[must_use]
    pub fn account(mut self, connection: ConnectionId, account: &str) -> Self {
        self.accounts.put(connection, account);
        self
    }

    /// Sets who knows the accounts of the other connections.
    #[must_use]
    pub fn accounts(mut self, accounts: Accounts) -> Self {
        self.accounts.ask_as(accounts);
        self
    }

    /// Checks the settings and makes the client.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting that cannot work.
    pub fn build(self) -> Result<Client> {
        self.profile.check()?;
        let meters = ClientMeters::new(self.metrics, self.profile.provider);
        let hosts = Host::all(&self.profile, &meters)?;
        let limits = &self.profile.limits;
        let (gauge, forgotten) = meters.lanes();
        let request_id_header = http::HeaderName::from_bytes(self.profile.request_id_header.as_bytes())
            .map_err(|_| Error::new(ErrorKind::Config, "request_id_header must be a header name"))?;
        let engine = Engine {
            accounts: self.accounts,
            lanes: Lanes::new(limits, gauge, forgotten),
            request_id_header,
            places: Turnstile::new(limits.concurrency),
            admission: Admission::new(limits.admission_max),
            flights: Flights::default(),
            held: Held::default(),
            origin: Instant::now(),
            hosts,
            meters,
            profile: self.profile,
            transport: self.transport,
            credentials: self.credentials,
            clock: self.clock,
            random: self.random,
            observer: self.observer,
            pause_observer: self.pause_observer,
            fallback: self.fallback,
        };
        Ok(Client { engine: Arc::new(engine), grant: None })
    }
}

fn is_header(name: &str) -> bool {
    http::HeaderName::from_bytes(name.as_bytes()).is_ok()
}

impl Profile {
    fn check(&self) -> Result<()> {
        let (retry, breaker, limits) = (&self.retry, &self.breaker, &self.limits);
        let rules = [
            (retry.attempts_max >= 1, "retry.attempts_max must be at least 1"),
            (retry.timeouts_max >= 1, "retry.timeouts_max must be at least 1"),
            (!retry.base.is_zero(), "retry.base must be longer than nothing"),
            (!retry.throttled_base.is_zero(), "retry.throttled_base must be longer than nothing"),
            (retry.base <= retry.max, "retry.base must be at most retry.max"),
            (retry.throttled_base <= retry.max, "retry.throttled_base must be at most retry.max"),
            (breaker.failure_rate > 0.0 && breaker.failure_rate <= 1.0, "breaker.failure_rate must be in (0, 1]"),
            (breaker.calls_min >= 1, "breaker.calls_min must be at least 1"),
            (breaker.window >= Duration::from_millis(10), "breaker.window must be at least 10 ms"),
            (!breaker.open.is_zero(), "breaker.open must be longer than nothing"),
            (breaker.open <= breaker.open_max, "breaker.open must be at most breaker.open_max"),
            (breaker.probes >= 1, "breaker.probes must be at least 1"),
            (breaker.slow.is_none_or(|slow| !slow.is_zero()), "breaker.slow must be longer than nothing"),
            (limits.admission_max >= 1, "limits.admission_max must be at least 1"),
            (limits.concurrency >= 1, "limits.concurrency must be at least 1"),
            ((0.0..1.0).contains(&limits.interactive_reserve), "limits.interactive_reserve must be in [0, 1)"),
            (limits.lanes_max >= 1, "limits.lanes_max must be at least 1"),
            (!limits.lane_idle.is_zero(), "limits.lane_idle must be longer than nothing"),
            (limits.waiting_max >= 1, "limits.waiting_max must be at least 1"),
            (
                self.attempt_timeout_max.is_none_or(|max| !max.is_zero()),
                "attempt_timeout_max must be longer than nothing",
            ),
            (is_header(self.request_id_header), "request_id_header must be a header name"),
            (
                self.learned.as_ref().is_none_or(|learned| learned.window.is_none_or(|window| !window.is_zero())),
                "learned.window must be longer than nothing",
            ),
            (
                self.learned.as_ref().is_none_or(|learned| learned.headers.names().into_iter().all(is_header)),
                "learned.headers must be header names",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Error::new(ErrorKind::Config, format!("{}: {rule}", self.provider))),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("profile", &self.engine.profile).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder").field("profile", &self.profile).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for BreakerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BreakerHandle").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// Sends a call through the pipeline. Unlike an inner transport, `Ok` is only an answer the provider's
/// [`Classifier`] calls a success; everything else is an [`Error`] with its kind, outcome and attempts.
///
/// Written out and not by `async_trait`, whose own future would hold the request and the engine's once more.
impl Transport for Client {
    fn asks_leave(&self) -> bool {
        true
    }

    fn send<'life, 'future>(
        &'life self,
        mut request: http::Request<Bytes>,
    ) -> BoxFuture<'future, Result<http::Response<Bytes>>>
    where
        'life: 'future,
        Self: 'future,
    {
        if let Some(grant) = &self.grant
            && let Some(call) = request.extensions_mut().get_mut::<Call>()
        {
            call.grant.get_or_insert_with(|| grant.clone());
        }
        self.engine.call(request)
    }
}

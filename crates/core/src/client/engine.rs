//! The engine: one visible loop, no hidden tasks. Everything the pipeline promises is decided here, in this order:
//!
//! ```text
//! CALL  deadline · host · admission · lanes · key and correlation id, once
//! LOOP  breaker peek → lanes (pause, turn, units) → place → breaker permit → credential → attempt → judge → decide
//! ```
//!
//! Where limits differ by the class of the credential, this is looked at before the lanes are found, and taken again
//! after a wait.
//!
//! A place and a permit are held for one attempt and never while waiting. What this process refuses by itself is
//! never repeated here and takes nothing from the retry budget.

use std::future::poll_fn;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderName, Request, Response, StatusCode};
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::Instrument;

use super::accounts::Accounts;
use super::admission::Admission;
use super::backoff;
use super::breaker::Health;
use super::budget::Cost;
use super::flights::Flights;
use super::held::Held;
use super::hosts::Host;
use super::lane::{Passage, nanos_since};
use super::lanes::Lanes;
use super::ongoing::Ongoing;
use super::outgoing::Outgoing;
use super::replay::{Evidence, may_repeat};
use super::retry_after::retry_after;
use super::telemetry::{ClientMeters, OperationMeters, call_span};
use super::turnstile::{Place, Turnstile};
use super::way::{Refusal, Way};
use super::{Fallback, Observer, PauseObserver, Profile, Repeat, Verdict};
use crate::auth::{Credential, CredentialSource};
use crate::call::{Call, Leave, Scope};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::id::ConnectionId;
use crate::random::Random;
use crate::transport::Transport;

/// Everything the clones of a client share.
pub(super) struct Engine {
    pub(super) profile: Profile,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) credentials: Arc<dyn CredentialSource>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) observer: Option<Arc<dyn Observer>>,
    pub(super) pause_observer: Option<Arc<dyn PauseObserver>>,
    pub(super) fallback: Option<Arc<dyn Fallback>>,
    pub(super) meters: ClientMeters,
    pub(super) hosts: Vec<Host>,
    /// Whose calls share lanes.
    pub(super) accounts: Accounts,
    pub(super) lanes: Lanes,
    /// The profile's, read once.
    pub(super) request_id_header: HeaderName,
    pub(super) places: Turnstile,
    pub(super) admission: Admission,
    pub(super) flights: Flights,
    pub(super) held: Held,
    /// Where the engine's monotonic scale begins.
    pub(super) origin: Instant,
}

/// Where a call goes: resolved once, used by every attempt.
pub(super) struct Route<'a> {
    host: &'a Host,
    pub(super) way: Way,
    meters: &'a OperationMeters,
    cost: NonZeroU32,
}

/// What an attempt came to: the answer of a success, or what is wrong.
type Judged = std::result::Result<Response<Bytes>, Failed>;

enum Failed {
    /// The credential of this version was refused.
    Unauthorized(Error, u64),
    Otherwise(Failure),
}

struct Failure {
    error: Error,
    evidence: Evidence,
    health: Health,
    /// Who should keep away for a while, if the provider asks for it.
    throttled: Option<Scope>,
    timed_out: bool,
    /// The wait the server asks for.
    hint: Option<Duration>,
}

impl Engine {
    /// Sends a call through the pipeline. The request is taken apart at once, so that the future holds it once; nothing
    /// else is done before it is polled.
    ///
    /// It comes as two boxes, this one and that of the attempts, and what few calls need is in boxes of its own: each
    /// of the two is then small enough for what an allocator hands out quickly (glibc: 1,032 bytes).
    pub(super) fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>>> {
        boxed(|| {
            let mut outgoing = Outgoing::new(request);
            async move {
                let mut ongoing = Ongoing::new(self, outgoing.call()?);
                let error = match self.conduct(&mut ongoing, &mut outgoing).await {
                    Ok(response) => {
                        ongoing.finish(&outgoing);
                        return Ok(response);
                    }
                    Err(error) => error,
                };
                let error = ongoing.close(error, &outgoing);
                ongoing.failed(&error);
                let result = match &self.fallback {
                    Some(fallback) => Box::pin(resort(&**fallback, &ongoing, &outgoing, error)).await,
                    None => Err(error),
                };
                ongoing.finish(&outgoing);
                result
            }
        })
    }

    async fn conduct<'e>(&'e self, on: &mut Ongoing<'e>, out: &mut Outgoing) -> Result<Response<Bytes>> {
        let host = Host::of(&self.hosts, out.uri())?;
        let operation = on.call.operation;
        let meters = host.operation(operation, out.method(), out.uri(), &self.meters)?;
        on.meters = Some(meters);
        out.identify(&on.call, meters.key.as_ref(), &*self.random)?;
        if on.deadline <= on.started {
            return Err(Error::new(ErrorKind::Timeout, "the caller's deadline had passed before the call began"));
        }
        let Some(_slot) = self.admission.enter(&on.call.tenant) else {
            return Err(Error::new(ErrorKind::Overloaded, "too many calls to this provider are under way already")
                .with_retry_after(Some(Duration::from_secs(1))));
        };
        let (account, now) = match self.accounts.known(&on.call.connection, on.started) {
            Some(account) => (account, on.started),
            // Boxed, so that the usual way carries none of its size.
            None => Box::pin(self.account(on)).await,
        };
        let (class, now) = match &self.profile.class {
            Some(class) if on.call.operation.also.iter().any(|limit| limit.class.is_some()) => {
                Box::pin(self.class(*class, on, host, now)).await?
            }
            _ => (None, now),
        };
        let moment = if now == on.started { on.began } else { self.moment(now) };
        let way = Way::find(&self.lanes, &on.call, account, class, moment)?;
        let cost = NonZeroU32::new(operation.cost).unwrap_or(NonZeroU32::MIN);
        let route = Route { host, way, meters, cost };
        on.span = call_span(&on.call, out);
        let span = on.span.clone();
        boxed(|| async move { self.attempts(on, out, &route, (now, moment)).await }.instrument(span)).await
    }

    /// Asks which account the call's connection is; when the deadline passes meanwhile, it is what it was.
    async fn account(&self, on: &Ongoing<'_>) -> (ConnectionId, Instant) {
        let connection = &on.call.connection;
        let account = timeout_at(on.deadline, self.accounts.of(connection)).await;
        (account.unwrap_or_else(|_| self.accounts.last(connection)), Instant::now())
    }

    /// Returns the class of the call's credential, for limits that differ by it.
    async fn class(
        &self,
        class: fn(&Credential) -> &'static str,
        on: &mut Ongoing<'_>,
        host: &Host,
        now: Instant,
    ) -> Result<(Option<&'static str>, Instant)> {
        host.breaker.peek(self.moment(now)).map_err(circuit_open)?;
        let (credential, now) = self.credential(on, now).await?;
        let class = class(&credential);
        on.fetched = Some(Box::new((credential, now)));
        Ok((Some(class), now))
    }

    /// The loop.
    async fn attempts(
        &self,
        on: &mut Ongoing<'_>,
        out: &mut Outgoing,
        to: &Route<'_>,
        begin: (Instant, u64),
    ) -> Result<Response<Bytes>> {
        let mut at = begin;
        loop {
            let failed = match self.attempt(on, out, to, at).await {
                Err(refused) => return Err(on.refuse(refused)),
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(failed)) => failed,
            };
            match failed {
                Failed::Unauthorized(error, version) => Box::pin(self.refresh(on, error, version)).await?,
                Failed::Otherwise(failure) => {
                    let delay = self.decide(on, to, failure)?;
                    on.waited += delay;
                    Box::pin(sleep(delay)).await;
                }
            }
            let now = Instant::now();
            at = (now, self.moment(now));
        }
    }

    /// One attempt at a moment on both scales, or the error of a refusal before it.
    async fn attempt(
        &self,
        on: &mut Ongoing<'_>,
        out: &mut Outgoing,
        to: &Route<'_>,
        begin: (Instant, u64),
    ) -> Result<Judged> {
        // What is used up before the answer comes stays in this block: the future need not hold it then.
        let (place, permit, span, flight, sending, version, until, moment) = {
            let (now, mut moment) = begin;
            let asked = now;
            to.host.breaker.peek(moment).map_err(circuit_open)?;
            let passage = Passage {
                tenant: &on.call.tenant,
                priority: on.call.priority,
                cost: to.cost,
                deadline: on.deadline,
                origin: self.origin,
                waiting_max: self.profile.limits.waiting_max,
            };
            let (units, now) = to.way.pass(passage, now, moment).await.map_err(lane_refused)?;
            let (place, now) = self.place(on, now).await?;
            if now != asked {
                on.waited += now - asked;
                moment = self.moment(now);
            }
            let permit = to.host.breaker.acquire(moment).map_err(circuit_open)?;
            let (request, version, now) = {
                let (credential, leaves) = match (on.credential.take(), on.fetched.take()) {
                    (Some(refreshed), _) => (*refreshed, now),
                    (None, Some(fetched)) if fetched.1 == now => (fetched.0, now),
                    (None, _) => self.credential(on, now).await?,
                };
                if leaves != now {
                    moment = self.moment(leaves);
                }
                if leaves >= on.deadline {
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        "the call's deadline passed before the attempt could leave",
                    ));
                }
                if credential.audience().is_some_and(|audience| !audience.permits(out.uri())) {
                    return Err(crossing());
                }
                let mut request = out.attempt(&on.call, to.meters.key.as_ref(), &*self.random);
                credential.apply(&mut request)?;
                (request, credential.version(), leaves)
            };
            // Most requests carry nothing beside their call, and are not asked for more. A request that waits does so
            // in a box of its own: the future of all others need not hold it then.
            let request = if out.carries_more() { Box::pin(let_go(request, on.deadline)).await? } else { request };
            let span = to.meters.attempt_span(on.attempts);
            let attempt = on.call.operation.attempt_timeout;
            let attempt = self.profile.attempt_timeout_max.map_or(attempt, |longest| attempt.min(longest));
            let until = on.deadline.min(now + attempt);
            on.attempts += 1;
            units.spend();
            let flight = on.depart(&to.meters.active);
            let sending = self.transport.send(request).instrument(span.clone());
            (place, permit, span, flight, sending, version, until, moment)
        };
        let answer = before(until, sending).await;
        drop(flight);
        let ended = self.moment(Instant::now());
        on.arrive(ended);
        drop(place);

        let took = Duration::from_nanos(ended.saturating_sub(moment));
        let judged = match answer {
            Some(Ok(response)) => self.judge(on, to, &response, version).map(|()| response),
            Some(Err(error)) => Err(Failed::Otherwise(Failure::of_transport(error))),
            None => Err(Failed::Otherwise(Failure::of_transport(timed_out(until == on.deadline)))),
        };
        let (health, error) = match &judged {
            Ok(_) => (Health::Good, None),
            Err(Failed::Unauthorized(error, _)) => (Health::Silent, Some(error.kind())),
            Err(Failed::Otherwise(failure)) => (failure.health, Some(failure.error.kind())),
        };
        let unit = if health == Health::Bad { self.random.unit() } else { 0.0 };
        permit.settle(health, took, ended, unit);
        if health == Health::Good && error.is_none() {
            to.host.budget.deposit();
        }
        to.meters.attempt(on.answered, error, took);
        if let Some(status) = on.answered {
            span.record("http.response.status_code", status);
        }
        if let Some(kind) = error {
            span.record("error.type", kind.as_str());
        }
        Ok(judged)
    }

    /// Takes a place among the attempts under way, at most until the deadline.
    async fn place(&self, on: &Ongoing<'_>, now: Instant) -> Result<(Place<'_>, Instant)> {
        if let Some(place) = self.places.try_enter() {
            return Ok((place, now));
        }
        // The guard borrows the turnstile only: the tenant is lent for the time of waiting.
        let entered = self.places.enter(&on.call.tenant, on.call.priority);
        match Box::pin(timeout_at(on.deadline, entered)).await {
            Ok(place) => Ok((place, Instant::now())),
            Err(_) => Err(Error::new(ErrorKind::Overloaded, "no place came free before the deadline")),
        }
    }

    async fn credential(&self, on: &Ongoing<'_>, now: Instant) -> Result<(Credential, Instant)> {
        let other;
        let source = match &on.call.grant {
            None => &self.credentials,
            Some(_) => {
                other = self.source(&on.call)?;
                &other
            }
        };
        let mut asked = source.credential(on.call.connection.clone());
        // A cached credential is there at the first look, and no time has passed.
        if let Poll::Ready(credential) = poll_once(&mut asked).await {
            return Ok((credential?, now));
        }
        match Box::pin(timeout_at(on.deadline, asked)).await {
            Ok(credential) => Ok((credential?, Instant::now())),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the deadline passed while waiting for the credential")),
        }
    }

    /// Returns the source of the grant a call names.
    fn source(&self, call: &Call) -> Result<Arc<dyn CredentialSource>> {
        let Some(name) = &call.grant else { return Ok(Arc::clone(&self.credentials)) };
        self.credentials.of_grant(name.clone()).ok_or_else(|| {
            let why = format!("the call names the grant {name}, and connections have one credential only here");
            Error::new(ErrorKind::Config, why)
        })
    }

    /// Reads an answer: the engine's own rules first, then the adapter's classifier.
    fn judge(
        &self,
        on: &mut Ongoing<'_>,
        to: &Route<'_>,
        response: &Response<Bytes>,
        version: u64,
    ) -> std::result::Result<(), Failed> {
        let status = response.status();
        on.note_answer(status.as_u16(), response.headers().get(&self.request_id_header));
        let operation = on.call.operation;
        let reset = self.profile.learned.as_ref().and_then(|learned| self.learn(learned, to, response.headers()));
        if status.is_success() && response.body().len() > operation.body_bytes_max {
            return Err(Failed::Otherwise(Failure::of_answer(too_large(), Evidence::Final)));
        }
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            return Err(Failed::Otherwise(Failure::of_answer(redirected(), Evidence::Final)));
        }
        let hint = |error: &Error| retry_after(response.headers(), &*self.clock).or(error.retry_after());
        match self.profile.classifier.classify(operation, response) {
            Verdict::Success => Ok(()),
            Verdict::Unauthorized(error) => Err(Failed::Unauthorized(error, version)),
            Verdict::Throttled { error, after, scope } => {
                let hint = match (hint(&error), after) {
                    (Some(header), Some(body)) => Some(header.max(body)),
                    (header, body) => header.or(body).or(reset),
                };
                let failure = Failure::of_answer(error, Evidence::NotProcessed);
                let health = Health::Silent;
                Err(Failed::Otherwise(Failure { hint, throttled: Some(scope), health, ..failure }))
            }
            Verdict::Failed { error, repeat } => {
                let evidence = match repeat {
                    Repeat::Never => Evidence::Final,
                    Repeat::IfSafe => Evidence::Ambiguous,
                    Repeat::Always => Evidence::NotProcessed,
                };
                let hint = hint(&error);
                // Unavailable until then says the same as throttled: nobody should come earlier.
                let unavailable = status == StatusCode::SERVICE_UNAVAILABLE && hint.is_some();
                let throttled = unavailable.then_some(Scope::Operation);
                Err(Failed::Otherwise(Failure { hint, throttled, ..Failure::of_answer(error, evidence) }))
            }
        }
    }

    /// Gives the wait before the next attempt, or the error to give up with.
    fn decide(&self, on: &mut Ongoing<'_>, to: &Route<'_>, failure: Failure) -> Result<Duration> {
        let settings = &self.profile.retry;
        let Failure { error, evidence, health, throttled, timed_out, hint } = failure;
        on.failures += 1;
        on.timeouts += u32::from(timed_out);
        on.ambiguous |= evidence == Evidence::Ambiguous;
        on.final_word = evidence == Evidence::Final && error.outcome() != Outcome::NotSent;
        let delay = backoff::delay(settings, throttled.is_some(), on.failures, hint, self.random.unit());
        let now = Instant::now();
        if let Some(scope) = throttled {
            self.pause(to, scope, delay, now);
        }
        let error = if hint.is_some() || throttled.is_some() {
            error.with_retry_after(Some(hint.unwrap_or(delay)))
        } else {
            error
        };
        let cost = match (timed_out, hint) {
            (true, _) => Cost::Timeout,
            (false, Some(_)) if throttled.is_some() => Cost::Hinted,
            (false, _) => Cost::Failure,
        };
        let goes_on = may_repeat(on.call.operation.replay, evidence)
            && on.failures < settings.attempts_max
            && (!timed_out || on.timeouts < settings.timeouts_max)
            && hint.is_none_or(|hint| hint <= settings.hint_max)
            && delay < on.deadline.saturating_duration_since(now)
            && to.host.budget.withdraw(cost, self.moment(now));
        if !goes_on {
            // Whoever comes again sooner is refused by the breaker.
            let open = to.host.breaker.open_until().saturating_sub(self.moment(now));
            let wait = (health == Health::Bad && open > 0).then(|| Duration::from_nanos(open));
            let told = error.retry_after().max(wait);
            return Err(error.with_retry_after(told));
        }
        on.last = Some(error);
        Ok(delay)
    }

    /// Replaces a refused credential, once per call; the second refusal is final.
    async fn refresh(&self, on: &mut Ongoing<'_>, error: Error, version: u64) -> Result<()> {
        let error = if error.kind() == ErrorKind::Auth {
            error
        } else {
            Error::new(ErrorKind::Auth, "the provider refused the credential").with_source(error)
        };
        let error = error.with_outcome(Outcome::Rejected).with_credential_version(version);
        if std::mem::replace(&mut on.refreshed, true) {
            return Err(error);
        }
        let now = self.moment(Instant::now());
        let source = self.source(&on.call)?;
        let whose = (on.call.connection.clone(), on.call.grant.clone());
        let flight = self.flights.refresh(&source, whose, version, now);
        let fresh = match timeout_at(on.deadline, flight).await {
            Ok(fresh) => fresh,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the deadline passed while the credential was refreshed")
                .with_outcome(Outcome::Rejected)),
        };
        self.meters.refresh(fresh.is_ok());
        on.credential = Some(Box::new(fresh.map_err(|error| error.with_credential_version(version))?));
        Ok(())
    }

    /// Returns until when calls of a connection to an address are held back, by a pause or by the breaker, if they are.
    pub(super) async fn held_until(&self, connection: &ConnectionId, base_url: &str) -> Option<Timestamp> {
        let account = self.accounts.of(connection).await;
        let now = self.moment(Instant::now());
        let host = base_url.parse().ok().and_then(|uri| Host::of(&self.hosts, &uri).ok());
        let open = host.map_or(0, |host| host.breaker.open_until());
        let until = self.held.until(&account).max(open);
        (until > now).then(|| self.clock.now().plus(Duration::from_nanos(until - now)))
    }

    /// Returns a moment on the engine's own monotonic scale.
    pub(super) fn moment(&self, instant: Instant) -> u64 {
        nanos_since(self.origin, instant)
    }
}

impl Failure {
    fn of_answer(error: Error, evidence: Evidence) -> Self {
        let health = Health::of(&error);
        let error = match evidence {
            Evidence::Ambiguous => error.with_outcome(Outcome::Unknown),
            Evidence::NotProcessed => error.with_outcome(Outcome::Rejected),
            Evidence::NotSent | Evidence::Final => error,
        };
        Self { error, evidence, health, throttled: None, timed_out: false, hint: None }
    }

    /// A transport's own error: what the provider may have done is in its outcome, and the kind tells what failed.
    fn of_transport(error: Error) -> Self {
        let broke = matches!(error.kind(), ErrorKind::Connect | ErrorKind::Timeout | ErrorKind::Transport);
        let evidence = match error.outcome() {
            Outcome::NotSent if broke => Evidence::NotSent,
            Outcome::Unknown => Evidence::Ambiguous,
            Outcome::NotSent | Outcome::Rejected | Outcome::Processed => Evidence::Final,
        };
        let timed_out = error.kind() == ErrorKind::Timeout && evidence == Evidence::Ambiguous;
        let health = if broke { Health::Bad } else { Health::Silent };
        Self { error, evidence, health, throttled: None, timed_out, hint: None }
    }
}

impl Health {
    /// An answer with a failure of the provider's own is bad; any other answer shows that it lives.
    fn of(error: &Error) -> Self {
        if matches!(error.kind(), ErrorKind::Provider | ErrorKind::Timeout) { Self::Bad } else { Self::Good }
    }
}

/// Makes a future in the box it will live in. `Box::pin` would make it elsewhere and move all of it.
fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}

/// Asks whether a request may leave, where somebody wants to be asked.
async fn let_go(request: Request<Bytes>, deadline: Instant) -> Result<Request<Bytes>> {
    if let Some(leave) = request.extensions().get::<Leave>().cloned() {
        let late = || Error::new(ErrorKind::Timeout, "the deadline passed before the attempt was let go");
        timeout_at(deadline, leave.ask()).await.map_err(|_| late())??;
    }
    Ok(request)
}

/// Awaits a future until a deadline; `None` when that passes first. A future that is ready at once costs no timer.
async fn before<F: Future + Unpin>(deadline: Instant, mut future: F) -> Option<F::Output> {
    let mut end = pin!(None);
    poll_fn(|context| {
        if let Poll::Ready(value) = future.poll_unpin(context) {
            return Poll::Ready(Some(value));
        }
        if end.is_none() {
            // Whatever the future took of the task's budget, the deadline is heeded.
            end.set(Some(unconstrained(sleep_until(deadline))));
        }
        match end.as_mut().as_pin_mut() {
            Some(end) => end.poll(context).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

/// Asks the product's fallback for an answer in place of an error.
async fn resort(fallback: &dyn Fallback, on: &Ongoing<'_>, out: &Outgoing, error: Error) -> Result<Response<Bytes>> {
    fallback.answer(&out.bare(&on.call), error).await
}

async fn poll_once<T>(future: &mut BoxFuture<'_, T>) -> Poll<T> {
    poll_fn(|context| Poll::Ready(future.poll_unpin(context))).await
}

fn timed_out(overall: bool) -> Error {
    let message = if overall { "no answer before the call's deadline" } else { "no answer within the attempt's time" };
    Error::new(ErrorKind::Timeout, message).with_outcome(Outcome::Unknown)
}

fn too_large() -> Error {
    Error::new(ErrorKind::BodyTooLarge, "the answer is larger than the operation allows")
        .with_outcome(Outcome::Processed)
}

fn crossing() -> Error {
    let why = "the address of the call is of another environment than the connection's credential; where the base_url of \
               its flow was changed, reconnect it";
    Error::new(ErrorKind::Config, why).with_outcome(Outcome::NotSent)
}

fn redirected() -> Error {
    Error::new(ErrorKind::Invalid, "the provider redirected, and redirects are not followed")
        .with_outcome(Outcome::Rejected)
}

fn circuit_open(wait: Duration) -> Error {
    Error::new(ErrorKind::CircuitOpen, "the breaker is open: the provider has been failing")
        .with_retry_after(Some(wait))
}

fn lane_refused(refusal: Refusal) -> Error {
    let message = if refusal.full {
        "too many calls wait for this account's rate limit already"
    } else {
        "the wait for this account's rate limit is longer than the deadline leaves"
    };
    Error::new(ErrorKind::Throttled, message).with_retry_after(Some(refusal.wait))
}

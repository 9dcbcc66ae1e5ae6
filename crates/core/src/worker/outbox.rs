//! Makes the calls of the outbox: each through its provider's pipeline, under the key it was given when it was put
//! there, and never again blindly when it may have happened.
//!
//! ```text
//! claim ─▶ may it have been made? ─▶ send ─(the pipeline lets an attempt leave only after `note_departure`)─▶ settle
//!              │ and a repeat could do it twice            │ nobody knows
//!              └────────────▶ review ◀────────────────────-┘
//! ```
//!
//! The note of departure is durable before the request leaves, so a call of a worker that died is one of two: it has no
//! note and was not made, or it has one and may have been. The number of claims could not tell them apart: a worker
//! that died waiting for a rate limit has claimed too.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};

use crate::call::{Call, Leave, Operation, Priority, Replay};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::id::ConnectionId;
use crate::provider::Found;
use crate::store::{
    CallAnswer, CallId, CallResult, CallState, ConnectionState, Decided, Decision, Effect, Enqueued, JobEnd, KeptCall,
    Lease, OutboxCall, Transacted,
};

use super::job::{Attempt, Finish, Place, Stop, WAIT_MAX, is_everybodys, phrase};
use super::{Inner, Worker};

mod new;

pub use new::{NewCall, draft};

/// The most of an answer's body that is kept, in bytes: what providers say of one object fits.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The most of a header's value that is kept.
const ANSWER_HEADER_BYTES_MAX: usize = 1_024;
/// Headers of an answer that are kept, besides the provider's request id.
const ANSWER_HEADERS: [&str; 6] = ["content-type", "date", "etag", "idempotent-replayed", "location", "x-message-id"];
/// How much earlier than the provider's word a key counts as forgotten: clocks differ, and an attempt takes its time.
const KEY_MARGIN: Duration = Duration::from_secs(3_600);
/// The shortest wait before a call that waits for others is looked at again.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest where nobody says until when: a connection may be mended at any moment.
const MENDED_WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// Waiting calls read at once to find those of a connection that was mended, and how many such reads there are at most:
/// what is beyond them comes by itself.
const FOUND_AT_ONCE: u32 = 1_000;
const FINDS_MAX: u32 = 100;
/// Calls brought forward at once: they share commits.
const FORWARD_AT_ONCE: usize = 64;
/// How often to look for a result that another process may have written.
const RESULT_EVERY: Duration = Duration::from_millis(500);

impl Worker {
    /// Runs effects and puts calls into the outbox, in one durable commit: all of it or nothing. One answer per call.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a call cannot be what it says (an operation the adapter does not have, a header that
    /// authenticates) or an effect fails; [`ErrorKind::NotFound`] for a connection nobody knows;
    /// [`ErrorKind::Conflict`] when another call stands under a unique key; [`ErrorKind::Config`] for a provider that
    /// is not built in; [`ErrorKind::Store`], [`ErrorKind::Overloaded`]. Nothing was written.
    pub async fn enqueue_calls(&self, effects: Vec<Effect>, calls: Vec<NewCall>) -> Result<Vec<Enqueued>> {
        let mut kept = Vec::with_capacity(calls.len());
        for call in calls {
            kept.push(self.inner.keep(call).await?);
        }
        match self.inner.store.transact(effects, kept).await? {
            Transacted::Committed(enqueued) => Ok(enqueued),
            Transacted::EffectFailed(why) => {
                Err(Error::new(ErrorKind::Invalid, format!("an effect failed, and nothing was written: {why}")))
            }
            Transacted::Clash { known, .. } => {
                let why = format!("call {known} stands under this unique key and asks for something else");
                Err(Error::new(ErrorKind::Conflict, why))
            }
        }
    }

    /// Reads a call of the outbox.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn outbox_call(&self, id: CallId) -> Result<Option<OutboxCall>> {
        self.inner.store.outbox_call(id).await
    }

    /// Waits until a call of the outbox neither waits nor is on its way, and returns it; `None` when there is none.
    /// It waits as long as the call does: put a timeout around it. A result of this process is seen at once, another's
    /// within half a second.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn call_result(&self, id: CallId) -> Result<Option<OutboxCall>> {
        loop {
            // Before the look, so that nothing is settled between the two unheard.
            let rung = self.inner.calls_settled.notified();
            let call = self.inner.store.outbox_call(id).await?;
            let pending = |call: &OutboxCall| matches!(call.state, CallState::Waiting | CallState::Running);
            if !call.as_ref().is_some_and(pending) {
                return Ok(call);
            }
            tokio::select! {
                () = rung => {}
                () = tokio::time::sleep(RESULT_EVERY) => {}
            }
        }
    }

    /// Puts somebody's decision about a call into effect.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn decide_call(&self, id: CallId, decision: Decision) -> Result<Decided> {
        let decided = self.inner.store.decide_call(id, decision, self.inner.clock.now()).await?;
        self.inner.calls_settled.notify_waiters();
        Ok(decided)
    }
}

impl Worker {
    /// Asks the provider whether a call in review was made, and ends the review where that is certain. The second value
    /// is how the call stands afterwards.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such call in review; [`ErrorKind::Invalid`] when the provider cannot be
    /// asked about it; the pipeline's; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn reconcile_call(&self, id: CallId) -> Result<(Found, CallState)> {
        let inner = &self.inner;
        let call = inner.store.outbox_call(id).await?.filter(|call| call.state == CallState::Review);
        let Some(call) = call else {
            return Err(Error::new(ErrorKind::NotFound, "there is no such call in review"));
        };
        let place = inner.place(&call.call.connection).await.map_err(|stop| match stop {
            Stop::Dead(reason) | Stop::Retry { reason, .. } | Stop::Wait { reason, .. } => {
                Error::new(ErrorKind::Invalid, reason)
            }
        })?;
        let Some(finder) = place.plugged.provider.finder() else {
            return Err(Error::new(ErrorKind::Invalid, "this provider cannot be asked about a call"));
        };
        let since = call.sent_at.unwrap_or(call.call.created_at);
        let age = inner.clock.now().since(since);
        let found = finder.find(Arc::clone(&place.plugged.transport), &place.site, &call, age).await?;
        let decision = match found {
            Found::Made => Decision::Happened,
            Found::NotMade => Decision::NotHappened,
            Found::Later(_) | Found::Unclear(_) => return Ok((found, call.state)),
        };
        match self.decide_call(id, decision).await? {
            Decided::Now(state) | Decided::Refused(state) => Ok((found, state)),
            Decided::Missing => Err(Error::new(ErrorKind::NotFound, "there is no such call in review")),
        }
    }
}

/// What an attempt may say of a call: it and what the adapter knows of it.
struct Case<'a> {
    inner: &'a Inner,
    id: CallId,
    call: &'a OutboxCall,
    /// `None` when the adapter does not have it any more.
    operation: Option<&'static Operation>,
    claims: u32,
}

impl Inner {
    /// Brings forward the calls of a connection that wait though they are due, now that it is mended: a person may wait for
    /// one. Those that are to be made later stay as they are.
    pub(super) async fn bring_calls_forward(&self, connection: &ConnectionId) -> Result<()> {
        let (now, mut before) = (self.clock.now(), None);
        for _ in 0..FINDS_MAX {
            let waiting = self.store.outbox(Some(CallState::Waiting), before, FOUND_AT_ONCE).await?;
            before = waiting.last().map(|call| call.id);
            let more = waiting.len() == FOUND_AT_ONCE as usize;
            let is_held_up = |call: &OutboxCall| {
                let at = call.next_at.is_some_and(|at| at > now);
                call.call.connection == *connection && call.call.run_at <= now && at
            };
            let held_up: Vec<CallId> = waiting.iter().filter(|call| is_held_up(call)).map(|call| call.id).collect();
            stream::iter(held_up)
                .map(|id| self.store.decide_call(id, Decision::Retry, now))
                .buffer_unordered(FORWARD_AT_ONCE)
                .try_for_each(|_| future::ready(Ok(())))
                .await?;
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Makes a claimed call up to its settlement.
    pub(super) async fn call(&self, lease: Lease, id: CallId, attempt: Attempt) -> Result<Finish, Stop> {
        let Some(call) = self.store.outbox_call(id).await? else {
            return Err(Stop::Dead("the call was removed".to_owned()));
        };
        if !matches!(call.state, CallState::Waiting | CallState::Running) {
            // Called back.
            return Ok(Finish::followed_by(Vec::new()));
        }
        let mut case = Case { inner: self, id, call: &call, operation: None, claims: attempt.number };
        let place = match self.place(&call.call.connection).await {
            Ok(place) => place,
            Err(Stop::Dead(reason)) => return Ok(case.given_up(reason)),
            Err(later @ (Stop::Retry { .. } | Stop::Wait { .. })) => return Err(later),
        };
        let url = new::url_of(&call.call.request.target, &place.site.base_url);
        case.operation = new::operation_of(&place, &call.call, &url);
        let Some(operation) = case.operation else {
            return Ok(case.given_up(format!("the adapter has no operation {} of this path", call.call.operation)));
        };
        if let Some(reason) = case.must_be_reviewed(operation, place.plugged.provider.keys_kept_for()) {
            return Ok(case.review(reason));
        }
        match &place.connection.state {
            ConnectionState::Active => {}
            ConnectionState::Paused => return Ok(case.wait(None, "the connection is paused".to_owned())),
            ConnectionState::NeedsReconnect { .. } => {
                return Ok(case.wait(None, "the connection must be reconnected".to_owned()));
            }
            ConnectionState::Disconnected => {
                return Ok(case.given_up("the connection was disconnected".to_owned()));
            }
        }
        let left = Arc::new(Mutex::new(None));
        let leave = self.leave(lease, id, &left);
        let request = match request(&call.call, &url, operation) {
            Ok(request) => request,
            Err(error) => return Ok(case.given_up(phrase(&error))),
        };
        let transport = &place.plugged.transport;
        let sent = if transport.asks_leave() {
            let mut request = request;
            request.extensions_mut().insert(leave);
            transport.send(request).await
        } else {
            match leave.ask().await {
                Ok(()) => transport.send(request).await,
                Err(error) => Err(error),
            }
        };
        let left = *left.lock().unwrap_or_else(PoisonError::into_inner);
        case.judge(&place, operation, sent, left).await
    }

    /// Makes the leave an attempt of a call asks for: the durable note that it may have been made from now on.
    fn leave(&self, lease: Lease, id: CallId, left: &Arc<Mutex<Option<Timestamp>>>) -> Leave {
        let (store, clock, left) = (Arc::clone(&self.store), Arc::clone(&self.clock), Arc::clone(left));
        Leave::new(move || {
            let (store, clock, left) = (Arc::clone(&store), Arc::clone(&clock), Arc::clone(&left));
            Box::pin(async move {
                // A repeat inside the pipeline asks again: by then the lease may be another worker's.
                let now = clock.now();
                if !store.note_departure(lease, id, now).await? {
                    return Err(Error::new(ErrorKind::LeaseLost, "the call was called back, or is another worker's"));
                }
                left.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
                Ok(())
            })
        })
    }
}

impl Case<'_> {
    /// Says why a call that may have been made must be looked at before it is sent again, if it must.
    fn must_be_reviewed(&self, operation: &Operation, keys_kept_for: Duration) -> Option<String> {
        let since = self.call.sent_at?;
        match operation.replay {
            Replay::Safe | Replay::Idempotent => None,
            Replay::Never => Some("it may have been made, and a repeat could do it twice".to_owned()),
            Replay::Keyed(_) => {
                let known = keys_kept_for.saturating_sub(KEY_MARGIN);
                let forgotten = self.inner.clock.now().since(since) >= known;
                forgotten.then(|| "it may have been made, and the provider may have forgotten its key".to_owned())
            }
        }
    }

    async fn judge(
        self,
        place: &Place<'_>,
        operation: &'static Operation,
        sent: Result<Response<Bytes>>,
        left: Option<Timestamp>,
    ) -> Result<Finish, Stop> {
        let error = match sent {
            Ok(response) => {
                let request_id = place.plugged.provider.profile().request_id_header;
                return Ok(self.done(Some(answer(&response, request_id)), None));
            }
            Err(error) => error,
        };
        self.inner.note_refusal(&place.connection.id, &error).await?;
        let said = self.said(&error);
        match error.outcome() {
            Outcome::Processed => {
                let why = format!("it was made; {}", phrase(&error));
                Ok(self.done(said, Some(why)))
            }
            Outcome::Unknown => {
                let sent_at = self.call.sent_at.or(left).or_else(|| Some(self.inner.clock.now()));
                Ok(self.unknown(operation, place, &error, sent_at, said))
            }
            Outcome::NotSent | Outcome::Rejected => Ok(self.refused(operation, &error, left, said)),
        }
    }

    /// Nobody knows whether this attempt did it.
    fn unknown(
        self,
        operation: &Operation,
        place: &Place<'_>,
        error: &Error,
        sent_at: Option<Timestamp>,
        said: Option<CallAnswer>,
    ) -> Finish {
        let attempts = self.call.attempts + 1;
        let forgotten = sent_at.is_some_and(|since| {
            self.inner.clock.now().since(since) >= place.plugged.provider.keys_kept_for().saturating_sub(KEY_MARGIN)
        });
        let repeats = match operation.replay {
            Replay::Safe | Replay::Idempotent => true,
            Replay::Keyed(_) => !forgotten,
            Replay::Never => false,
        };
        if !repeats {
            return self.result(CallState::Review, attempts, sent_at, Some(phrase(error)), said);
        }
        if attempts >= self.inner.settings.call_attempts_max {
            let state = if operation.replay == Replay::Safe { CallState::Failed } else { CallState::Review };
            return self.result(state, attempts, sent_at, Some(phrase(error)), said);
        }
        let wait = self.wait_after(attempts, error);
        self.again(attempts, sent_at, wait, phrase(error))
    }

    /// This attempt did nothing; one before it may have.
    fn refused(
        self,
        operation: &Operation,
        error: &Error,
        left: Option<Timestamp>,
        said: Option<CallAnswer>,
    ) -> Finish {
        let reason = phrase(error);
        let before = self.call.sent_at;
        // Waiting is nobody's fault and costs no attempt.
        let ours = matches!(error.kind(), ErrorKind::Auth | ErrorKind::Store | ErrorKind::LeaseLost);
        if ours || (is_everybodys(error) && error.is_retryable()) {
            return self.wait(error.retry_after(), reason);
        }
        let attempts = self.call.attempts + 1;
        if error.is_retryable() && attempts < self.inner.settings.call_attempts_max {
            let wait = self.wait_after(attempts, error);
            return self.again(attempts, before, wait, reason);
        }
        let certain = match (before, operation.replay) {
            (_, Replay::Safe) => true,
            (None, Replay::Keyed(_)) if error.attempts() <= 1 || error.outcome() == Outcome::NotSent => true,
            // Under the same key the provider answers for the attempts before too, those inside the pipeline as well.
            (_, Replay::Keyed(_)) => is_of_the_key(error),
            // Deleting what is gone is refused because it was deleted.
            (before, Replay::Idempotent | Replay::Never) => before.is_none(),
        };
        if certain {
            self.result(CallState::Failed, attempts, None, Some(reason), said)
        } else {
            self.result(CallState::Review, attempts, before.or(left), Some(reason), said)
        }
    }

    /// Comes again without an attempt, as long as the call's patience lasts.
    fn wait(self, after: Option<Duration>, reason: String) -> Finish {
        let now = self.inner.clock.now();
        if now.since(self.call.call.run_at) >= self.inner.settings.call_patience {
            return self.given_up(format!("it waited too long: {reason}"));
        }
        let longest = if after.is_some() { WAIT_MAX } else { MENDED_WAIT_MAX };
        let wait = after.unwrap_or_default().max(self.inner.backoff(self.claims, longest));
        let (attempts, sent_at) = (self.call.attempts, self.call.sent_at);
        self.again(attempts, sent_at, wait, reason)
    }

    /// Returns the wait after an attempt that was made: the schedule's, or longer where everybody is to come later.
    fn wait_after(&self, attempts: u32, error: &Error) -> Duration {
        let wait = self.inner.backoff(attempts.max(1), self.inner.settings.retry_max);
        wait.max(error.retry_after().unwrap_or_default())
    }

    /// Not made, for good; one that may have been made is for somebody to look at.
    fn given_up(self, reason: String) -> Finish {
        let safe = self.operation.is_some_and(|operation| operation.replay == Replay::Safe);
        let (attempts, before) = (self.call.attempts, self.call.sent_at);
        let state = if before.is_none() || safe { CallState::Failed } else { CallState::Review };
        self.result(state, attempts, before, Some(reason), None)
    }

    fn review(self, reason: String) -> Finish {
        let (attempts, sent_at) = (self.call.attempts.max(1), self.call.sent_at);
        self.result(CallState::Review, attempts, sent_at, Some(reason), None)
    }

    fn done(self, answer: Option<CallAnswer>, error: Option<String>) -> Finish {
        let attempts = self.call.attempts + 1;
        self.result(CallState::Done, attempts, None, error, answer)
    }

    /// What a provider's refusal said that is worth keeping: never its body.
    fn said(&self, error: &Error) -> Option<CallAnswer> {
        Some(CallAnswer {
            status: error.status()?,
            headers: Vec::new(),
            body: Bytes::new(),
            cut: false,
            request_id: error.request_id().map(str::to_owned),
        })
    }

    fn again(self, attempts: u32, sent_at: Option<Timestamp>, wait: Duration, reason: String) -> Finish {
        let at = self.inner.clock.now().plus(wait.max(WAIT_MIN));
        self.inner.metrics.called(&self.call.call.provider, CallState::Waiting.as_str());
        let result = CallResult {
            call: self.id,
            state: CallState::Waiting,
            next_at: Some(at),
            attempts,
            sent_at,
            error: Some(reason.clone()),
            answer: None,
        };
        Finish::Called(JobEnd::Retry { at, reason }, Box::new(result))
    }

    fn result(
        self,
        state: CallState,
        attempts: u32,
        sent_at: Option<Timestamp>,
        error: Option<String>,
        answer: Option<CallAnswer>,
    ) -> Finish {
        self.inner.metrics.called(&self.call.call.provider, state.as_str());
        match state {
            CallState::Failed | CallState::Review => {
                let (call, provider, operation) = (self.id.0, &self.call.call.provider, &self.call.call.operation);
                tracing::warn!(
                    call,
                    provider,
                    operation,
                    state = state.as_str(),
                    reason = error,
                    "an outbox call ended"
                );
            }
            CallState::Done | CallState::Waiting | CallState::Running | CallState::Cancelled => {}
        }
        let result = CallResult { call: self.id, state, next_at: None, attempts, sent_at, error, answer };
        Finish::Called(JobEnd::Done, Box::new(result))
    }
}

/// Tells whether a refusal is the answer to all that was sent under one key, and not only to the last of it: the provider
/// looked at what is asked for. One that lacks a permission by now, clashes with another request or comes from a proxy is
/// refused at the door, and what was sent before may have come in.
fn is_of_the_key(error: &Error) -> bool {
    error.outcome() == Outcome::Rejected
        && !error.is_retryable()
        && matches!(error.kind(), ErrorKind::Declined | ErrorKind::Invalid | ErrorKind::NotFound)
}

/// Makes the request of an attempt; its key is the one of the call, whichever attempt it is.
fn request(call: &KeptCall, url: &str, operation: &'static Operation) -> Result<Request<Bytes>> {
    let wrong = |_| Error::new(ErrorKind::Config, "the kept call does not make a request");
    let method = Method::from_bytes(call.request.method.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    let mut headers = HeaderMap::with_capacity(call.request.headers.len());
    for (name, value) in &call.request.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        headers.append(name, HeaderValue::from_str(value).map_err(|error| wrong(error.to_string()))?);
    }
    let mut of = Call::new(operation, call.connection.clone(), call.tenant.clone());
    of.grant = call.request.grant.clone();
    of.lane = call.request.lane.as_deref().map(Into::into);
    of.priority = if call.priority > 0 { Priority::Interactive } else { Priority::Background };
    of.idempotency_key = Some(call.idempotency_key.as_str().into());
    let mut request = Request::new(call.request.body.clone());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request.extensions_mut().insert(of);
    Ok(request)
}

/// Takes what is kept of an answer.
fn answer(response: &Response<Bytes>, request_id: &str) -> CallAnswer {
    let text = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        (value.len() <= ANSWER_HEADER_BYTES_MAX).then(|| value.to_owned())
    };
    let headers = ANSWER_HEADERS.iter().filter_map(|name| Some(((*name).to_owned(), text(name)?))).collect();
    let body = response.body();
    CallAnswer {
        status: response.status().as_u16(),
        headers,
        body: body.slice(..body.len().min(ANSWER_BYTES_MAX)),
        cut: body.len() > ANSWER_BYTES_MAX,
        request_id: text(request_id),
    }
}

/// Names the connection a refusal is about.
fn unknown_connection(id: &ConnectionId) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no connection {id}"))
}

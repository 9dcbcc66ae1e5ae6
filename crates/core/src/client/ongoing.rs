//! The book of one call: what has happened so far, and what is told about it at the end, also when the caller goes
//! away in the middle.

use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;
use tracing::Span;

use super::engine::Engine;
use super::outgoing::Outgoing;
use super::telemetry::OperationMeters;
use crate::auth::Credential;
use crate::call::{Call, Replay};
use crate::error::{Error, ErrorKind, Outcome};
use crate::metrics::Gauge;
use crate::store::CallRecord;

/// The longest a call may take, whatever its description says: far enough ahead that adding to it cannot overflow.
const OVERALL_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// One call under way.
pub(super) struct Ongoing<'a> {
    engine: &'a Engine,
    pub(super) call: Call,
    pub(super) span: Span,
    pub(super) meters: Option<&'a OperationMeters>,
    pub(super) started: Instant,
    /// The same on the engine's scale.
    pub(super) began: u64,
    pub(super) deadline: Instant,
    /// Attempts sent.
    pub(super) attempts: u32,
    /// Attempts that failed, without the one a refresh repeats.
    pub(super) failures: u32,
    pub(super) timeouts: u32,
    pub(super) waited: Duration,
    /// An attempt ended without a word on what the provider did.
    pub(super) ambiguous: bool,
    /// The last answer is final, whatever came before.
    pub(super) final_word: bool,
    pub(super) refreshed: bool,
    /// The credential a refresh gave, for the next attempt. Boxed, as all that few calls have.
    pub(super) credential: Option<Box<Credential>>,
    /// The credential that was looked at to find the lanes, and when: as good as new while no time has passed.
    pub(super) fetched: Option<Box<(Credential, Instant)>>,
    /// The error of the last attempt that failed.
    pub(super) last: Option<Error>,
    /// The status of the last attempt, if it was answered.
    pub(super) answered: Option<u16>,
    status: Option<u16>,
    request_id: Option<HeaderValue>,
    error: Option<(ErrorKind, Outcome)>,
    /// When the last attempt ended, on the engine's scale.
    ended: u64,
    in_flight: bool,
    told: bool,
}

/// An attempt on its way: counted as active until it arrives or is dropped.
pub(super) struct Flight<'a> {
    active: &'a Gauge,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.active.dec();
    }
}

impl<'a> Ongoing<'a> {
    pub(super) fn new(engine: &'a Engine, call: Call) -> Self {
        let started = Instant::now();
        let began = engine.moment(started);
        let overall = started + call.operation.overall_timeout.min(OVERALL_MAX);
        Self {
            deadline: call.deadline.map_or(overall, |deadline| deadline.min(overall)),
            engine,
            call,
            span: Span::none(),
            meters: None,
            started,
            began,
            attempts: 0,
            failures: 0,
            timeouts: 0,
            waited: Duration::ZERO,
            ambiguous: false,
            final_word: false,
            refreshed: false,
            credential: None,
            fetched: None,
            last: None,
            answered: None,
            status: None,
            request_id: None,
            error: None,
            ended: began,
            in_flight: false,
            told: false,
        }
    }

    /// Notes that an attempt leaves.
    pub(super) fn depart<'g>(&mut self, active: &'g Gauge) -> Flight<'g> {
        active.inc();
        self.in_flight = true;
        Flight { active }
    }

    /// Notes that an attempt came to an end, answered or not.
    pub(super) fn arrive(&mut self, at: u64) {
        self.in_flight = false;
        self.answered = None;
        self.ended = at;
    }

    /// Notes the answer to an attempt.
    pub(super) fn note_answer(&mut self, status: u16, request_id: Option<&HeaderValue>) {
        self.answered = Some(status);
        self.status = Some(status);
        self.request_id = request_id.cloned();
    }

    /// Turns a refusal of our own into the error of the call: what the provider said last, if it said anything, with
    /// the time to wait.
    pub(super) fn refuse(&mut self, refusal: Error) -> Error {
        match self.last.take() {
            Some(last) if last.retry_after() < refusal.retry_after() => last.with_retry_after(refusal.retry_after()),
            Some(last) => last,
            None => {
                self.answered = None;
                refusal
            }
        }
    }

    /// Completes the error the call ends with: who, what, how often, and what the provider may have done.
    pub(super) fn close(&self, error: Error, out: &Outgoing) -> Error {
        let operation = self.call.operation;
        let mut error = error.during(operation.provider, operation.name).with_attempts(self.attempts);
        if let Some(status) = self.answered {
            if error.status().is_none() {
                error = error.with_status(status);
            }
            if error.request_id().is_none()
                && let Some(id) = self.request_id()
            {
                error = error.with_request_id(id);
            }
        }
        if let Some(key) = out.key() {
            error = error.with_idempotency_key(key);
        }
        if self.ambiguous && !self.final_word {
            error = error.with_outcome(Outcome::Unknown);
        }
        match (operation.replay, error.outcome()) {
            // Reading does nothing, so nothing can be unknown about it.
            (Replay::Safe, Outcome::Unknown) => error.with_outcome(Outcome::Rejected),
            (Replay::Idempotent, Outcome::Unknown) => {
                let passing = matches!(
                    error.kind(),
                    ErrorKind::Timeout
                        | ErrorKind::Transport
                        | ErrorKind::Provider
                        | ErrorKind::Throttled
                        | ErrorKind::Connect
                        | ErrorKind::CircuitOpen
                        | ErrorKind::Overloaded
                );
                error.with_retryable(passing)
            }
            (Replay::Safe | Replay::Idempotent | Replay::Keyed(_) | Replay::Never, _) => error,
        }
    }

    /// Notes the error the engine gave up with.
    pub(super) fn failed(&mut self, error: &Error) {
        self.error = Some((error.kind(), error.outcome()));
    }

    /// Tells what became of the call.
    pub(super) fn finish(&mut self, out: &Outgoing) {
        self.tell(Some(out));
    }

    fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref().and_then(|id| id.to_str().ok())
    }

    fn tell(&mut self, out: Option<&Outgoing>) {
        self.told = true;
        // A success ends with its last attempt: no need to read the clock again.
        let ended = if self.error.is_none() { self.ended } else { self.engine.moment(Instant::now()) };
        let took = Duration::from_nanos(ended.saturating_sub(self.began));
        let kind = self.error.map(|(kind, _)| kind);
        if let Some(meters) = self.meters {
            meters.call(kind, self.attempts, took, self.waited);
        }
        if !self.span.is_disabled() {
            self.span.record("palisade.attempts", self.attempts);
            if let Some(kind) = kind {
                self.span.record("error.type", kind.as_str());
            }
        }
        let Some(observer) = &self.engine.observer else { return };
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        observer.observe(CallRecord {
            at: self.engine.clock.now(),
            provider: self.call.operation.provider.to_owned(),
            operation: self.call.operation.name.to_owned(),
            connection: self.call.connection.clone(),
            status: self.status,
            error: kind,
            outcome: self.error.map(|(_, outcome)| outcome),
            attempts: self.attempts,
            duration_us: micros(took),
            waited_us: micros(self.waited),
            request_id: self.request_id().map(str::to_owned),
            correlation_id: out
                .and_then(Outgoing::correlation)
                .or(self.call.correlation_id.as_deref())
                .map(str::to_owned),
        });
    }
}

impl Drop for Ongoing<'_> {
    /// The caller went away: an attempt under way may have reached the provider.
    fn drop(&mut self) {
        if !self.told {
            let safe = self.call.operation.replay == Replay::Safe;
            let unknown = !safe && (self.in_flight || self.ambiguous);
            let outcome = match (unknown, self.attempts) {
                (true, _) => Outcome::Unknown,
                (false, 0) => Outcome::NotSent,
                (false, _) => Outcome::Rejected,
            };
            self.error.get_or_insert((ErrorKind::Cancelled, outcome));
            self.tell(None);
        }
    }
}

//! The outbox: calls kept until they are made, with what became of them.
//!
//! A call and its job are one commit, with whatever else the product wrote in it; so are the end of the job and the
//! result of the call. Bodies and headers are kept as they were given, so nothing that authenticates belongs into them:
//! the pipeline adds the credential to each attempt.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Effect, Lease, NewJob, Work};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, GrantName, TenantId};

/// Attempts of the job of a call. The worker ends it long before, by the call's own attempts and age.
const JOB_ATTEMPTS_MAX: u32 = 1_000_000;

/// Identifies a call of the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(pub i64);

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a call of the outbox stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages and counts show each")]
pub enum CallState {
    /// To be made, now or at its moment.
    Waiting,
    /// On its way: it may have reached the provider.
    Running,
    /// Made: the provider did it.
    Done,
    /// Not made, and given up.
    Failed,
    /// Nobody knows whether it was made: somebody must find out.
    Review,
    /// Called back before it was made.
    Cancelled,
}

impl CallState {
    /// Every state.
    pub const ALL: [Self; 6] = [Self::Waiting, Self::Running, Self::Done, Self::Failed, Self::Review, Self::Cancelled];

    /// Returns the state as it is written in metrics and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Review => "review",
            Self::Cancelled => "cancelled",
        }
    }

    /// Tells whether nothing follows by itself and nobody is asked for anything: what retention may remove.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// The request of a call, as it is kept.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct CallRequest {
    /// The HTTP method.
    pub method: String,
    /// Path and query under the connection's base URL; or a whole URL, for a provider with several hosts.
    pub target: String,
    /// Headers, without credentials and without the idempotency key.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// Which of the connection's grants authenticates it; `None` is the main one.
    pub grant: Option<GrantName>,
    /// Part of its limit lane's key besides account and bucket ([`crate::Call::lane`]).
    pub lane: Option<String>,
}

impl fmt::Debug for CallRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither query nor header values nor body: any of them may be somebody's data.
        let path = self.target.split(['?', '#']).next().unwrap_or_default();
        f.debug_struct("CallRequest")
            .field("method", &self.method)
            .field("path", &path)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// A call to keep: checked and complete.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by the worker from a `NewCall`")]
pub struct KeptCall {
    /// The connection it is made for.
    pub connection: ConnectionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its provider.
    pub provider: String,
    /// The operation's name in the adapter's table.
    pub operation: String,
    /// The operation's replay rule in one word ([`crate::Replay::word`]); tells operations of one name apart.
    pub replay: String,
    /// What is sent.
    pub request: CallRequest,
    /// The key every attempt of it carries, in every process. A decision to make it again after the provider certainly
    /// did not changes it ([`key_of_decision`]); nothing else does.
    pub idempotency_key: String,
    /// The caller's own key: one connection has one call of it.
    pub unique: Option<String>,
    /// A digest of what is asked for, which tells a repetition from another call under the same unique key.
    pub content: Vec<u8>,
    /// Higher goes first.
    pub priority: i32,
    /// When it was put here.
    pub created_at: Timestamp,
    /// Not before this moment. Its patience begins here, so a decision to make it anew moves it.
    pub run_at: Timestamp,
}

impl KeptCall {
    /// Makes the job that makes the call.
    #[must_use]
    pub fn job(&self, call: CallId, run_at: Timestamp) -> NewJob {
        NewJob {
            work: Work::Call { call },
            lane: None,
            group: Some(format!("call/{}", self.provider)),
            tenant: Some(self.tenant.clone()),
            unique: Some(format!("call/{call}")),
            priority: self.priority,
            run_at,
            attempts_max: JOB_ATTEMPTS_MAX,
        }
    }
}

/// What a provider answered, as far as it is kept.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct CallAnswer {
    /// The status.
    pub status: u16,
    /// The headers worth keeping.
    pub headers: Vec<(String, String)>,
    /// The body, or its beginning.
    pub body: Bytes,
    /// Whether the body went on beyond what is kept.
    pub cut: bool,
    /// The provider's request id.
    pub request_id: Option<String>,
}

impl fmt::Debug for CallAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallAnswer")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .field("cut", &self.cut)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

/// A call of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct OutboxCall {
    /// Its number.
    pub id: CallId,
    /// What was asked for.
    pub call: KeptCall,
    /// How it stands.
    pub state: CallState,
    /// When its next attempt is due, while it waits.
    pub next_at: Option<Timestamp>,
    /// Attempts that counted.
    pub attempts: u32,
    /// Since when it may have been made: when the first attempt left of which nobody knows what became of it.
    pub sent_at: Option<Timestamp>,
    /// When it ended; `None` before, and while it waits for a review.
    pub finished_at: Option<Timestamp>,
    /// Why it waits again, failed or must be looked at; one phrase of ours.
    pub error: Option<String>,
    /// What the provider answered, if it did.
    pub answer: Option<CallAnswer>,
}

/// What an attempt came to, written with the settling of its job ([`super::Settlement::outbox`]).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct CallResult {
    /// The call.
    pub call: CallId,
    /// How it stands now.
    pub state: CallState,
    /// When it is due, if it comes again.
    pub next_at: Option<Timestamp>,
    /// Attempts that counted so far.
    pub attempts: u32,
    /// Since when it may have been made; `None` when it provably was not, or is done.
    pub sent_at: Option<Timestamp>,
    /// Why, in one phrase of ours.
    pub error: Option<String>,
    /// What the provider answered.
    pub answer: Option<CallAnswer>,
}

/// What the settling of a job does to the outbox, in the same commit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct OutboxChange {
    /// Calls to keep: what a handler asked for.
    pub add: Vec<KeptCall>,
    /// What the job's own call came to. It is written to a call that waits or is on its way, and to no other.
    pub result: Option<CallResult>,
}

/// A call that is in the outbox now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: callers decide on each")]
pub enum Enqueued {
    /// Put there now.
    New(CallId),
    /// There already under the same unique key, with the same content.
    Known(CallId),
}

impl Enqueued {
    /// Returns the call.
    #[must_use]
    pub fn id(self) -> CallId {
        match self {
            Self::New(id) | Self::Known(id) => id,
        }
    }
}

/// What became of calls and the effects they came with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: callers decide on each")]
pub enum Transacted {
    /// All of it is committed; one answer per call, in order.
    Committed(Vec<Enqueued>),
    /// An effect failed: nothing was written. The phrase names the statement's error without its values.
    EffectFailed(String),
    /// Another call stands under the unique key of one: nothing was written.
    Clash {
        /// Which of the calls, from 0.
        at: usize,
        /// The call that stands there.
        known: CallId,
    },
}

/// What somebody decides about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: stores decide on each")]
pub enum Decision {
    /// Make it now: one that failed, from its first attempt, under a new key where it certainly was not made; or one that
    /// waits.
    Retry,
    /// Do not make it: one that waits. One that may have been made already goes to review.
    Cancel,
    /// It was made: ends a review as done.
    Happened,
    /// It was not made: ends a review, and it is made now, under the same key.
    NotHappened,
}

/// What became of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: callers decide on each")]
pub enum Decided {
    /// The call stands so now.
    Now(CallState),
    /// The call stands so, and the decision is none for it.
    Refused(CallState),
    /// There is no such call.
    Missing,
}

/// What a call is after somebody decided: its state and why, or nothing when the decision is none for its state. The
/// rule of all stores.
#[must_use]
pub fn decide(call: CallState, sent: bool, decision: Decision) -> Option<(CallState, Option<&'static str>)> {
    match (decision, call, sent) {
        (Decision::Retry, CallState::Failed | CallState::Waiting, _) => Some((CallState::Waiting, None)),
        (Decision::Cancel, CallState::Waiting, false) => Some((CallState::Cancelled, Some("called back"))),
        (Decision::Cancel, CallState::Waiting, true) => {
            Some((CallState::Review, Some("called back after an attempt of which nobody knows what became of it")))
        }
        (Decision::Happened, CallState::Review, _) => Some((CallState::Done, Some("somebody found that it was made"))),
        (Decision::NotHappened, CallState::Review, _) => Some((CallState::Waiting, None)),
        (Decision::Retry | Decision::Cancel | Decision::Happened | Decision::NotHappened, _, _) => None,
    }
}

/// The longest key that is lengthened, in bytes: no provider takes more than this and a few characters.
const KEY_BYTES_MAX: usize = 240;

/// Returns the key under which a call is made after a decision, where that is another than before. The rule of all
/// stores.
///
/// A provider that remembers keys remembers refusals under them too: Stripe answers a declined charge with the same
/// decline for 24 hours, whatever has been mended. So a call that failed and certainly was not made is retried under a
/// key of its own: the key before with a number behind it. One that may have been made keeps its key, whoever decides.
#[must_use]
pub fn key_of_decision(call: CallState, sent: bool, decision: Decision, key: &str) -> Option<String> {
    if sent || call != CallState::Failed || decision != Decision::Retry {
        return None;
    }
    let numbered = key.rsplit_once('~').and_then(|(base, number)| Some((base, number.parse::<u32>().ok()?)));
    let (base, number) = numbered.unwrap_or((key, 1));
    let number = number.saturating_add(1);
    if base.len() <= KEY_BYTES_MAX {
        return Some(format!("{base}~{number}"));
    }
    // Too long to be lengthened: told apart by a digest of all of it.
    Some(format!("palisade-{:016x}~{number}", crate::sync::merge::content_hash(base.as_bytes())))
}

/// Why the job of a call comes again that ended while somebody decided that the call is to be made.
pub const CALL_WAITS: &str = "somebody decided meanwhile that the call is to be made";

/// Says why a settlement is refused that would keep a call under the unique key of another.
#[must_use]
pub fn clash(known: CallId) -> String {
    format!("a call of the outbox has the unique key of call {known}, which asks for something else")
}

/// Keeps calls until they are made.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Runs effects and then keeps calls, each with its job ([`KeptCall::job`]), in one durable commit: all of it or
    /// nothing. Calls are numbered from 1 in the order they are kept; one whose connection has its unique key already,
    /// also within the batch, is not kept again: with the same content it is answered as known, with another nothing
    /// is written.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded), also when
    /// there are calls and the disk is nearly full.
    async fn transact(&self, effects: Vec<Effect>, calls: Vec<KeptCall>) -> Result<Transacted>;

    /// Notes, durably, that an attempt of a held job's call leaves now: from here on it may have been made. `false`
    /// when the lease is lost or the call neither waits nor is on its way: then it must not leave. The call is running
    /// afterwards; a moment that was noted before and not taken back stays.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn note_departure(&self, lease: Lease, call: CallId, now: Timestamp) -> Result<bool>;

    /// Reads a call.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn outbox_call(&self, id: CallId) -> Result<Option<OutboxCall>>;

    /// Lists calls, newest first, those before one; without their bodies and those of their answers.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn outbox(&self, state: Option<CallState>, before: Option<CallId>, limit: u32) -> Result<Vec<OutboxCall>>;

    /// Counts calls by state, from counters; states without any are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn outbox_counts(&self) -> Result<BTreeMap<CallState, u64>>;

    /// Counts the calls of connections that wait for a review, from counters; connections without any are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn review_counts(&self, connections: Vec<ConnectionId>) -> Result<BTreeMap<ConnectionId, u64>>;

    /// Puts a decision about a call into effect, by the rule of [`decide`], with its job in the same commit. One that
    /// is made after this is due at `now`, has no attempts behind it, the key of [`key_of_decision`], and after
    /// [`Decision::NotHappened`] nothing that may have happened; one that waits already is only due at `now`.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn decide_call(&self, id: CallId, decision: Decision, now: Timestamp) -> Result<Decided>;

    /// Removes up to `limit` calls that ended before `before` ([`CallState::is_final`]), those that ended first before
    /// others. Returns how many went. Their unique keys are free afterwards.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn prune_outbox(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a call that may have been made is called back or made again without a review, or a final one changes.
    #[test]
    fn what_may_have_happened_is_never_decided_without_a_review() {
        use CallState::{Cancelled, Done, Failed, Review, Running, Waiting};
        let table = [
            (Decision::Retry, [Some(Waiting), None, None, Some(Waiting), None, None]),
            (Decision::Cancel, [Some(Cancelled), None, None, None, None, None]),
            (Decision::Happened, [None, None, None, None, Some(Done), None]),
            (Decision::NotHappened, [None, None, None, None, Some(Waiting), None]),
        ];
        for (decision, row) in table {
            for (state, expected) in [Waiting, Running, Done, Failed, Review, Cancelled].into_iter().zip(row) {
                assert_eq!(decide(state, false, decision).map(|to| to.0), expected, "{decision:?} {state:?}");
            }
        }
        assert_eq!(decide(Waiting, true, Decision::Cancel).map(|to| to.0), Some(Review));
    }

    /// Fails when a call that may have been made gets another key, when one that certainly was not keeps the key its
    /// refusal is remembered under, or when two decisions give the same key or one no provider takes.
    #[test]
    fn only_what_was_certainly_not_made_gets_a_new_key() {
        for state in CallState::ALL {
            for sent in [false, true] {
                for decision in [Decision::Retry, Decision::Cancel, Decision::Happened, Decision::NotHappened] {
                    let certain = state == CallState::Failed && !sent && decision == Decision::Retry;
                    let key = key_of_decision(state, sent, decision, "k");
                    assert_eq!(key.as_deref(), certain.then_some("k~2"), "{state:?} {sent} {decision:?}");
                }
            }
        }
        let next = |key: &str| key_of_decision(CallState::Failed, false, Decision::Retry, key).unwrap();
        for (key, expected) in [("k~2", "k~3"), ("k~", "k~~2"), ("~9", "~10"), ("a~b", "a~b~2")] {
            assert_eq!(next(key), expected);
        }
        let long = ["a", "b"].map(|end| next(&format!("{}{end}", "k".repeat(254))));
        assert!(long[0] != long[1] && long.iter().all(|key| key.len() <= 255), "{long:?}");
        assert_ne!(next(&long[0]), long[0]);
    }

    /// Fails when a body, a query or a header of a call is printed.
    #[test]
    fn a_kept_call_is_printed_without_its_content() {
        let request = CallRequest {
            method: "POST".to_owned(),
            target: "/v1/customers?token=hidden-1".to_owned(),
            headers: vec![("x-one".to_owned(), "hidden-2".to_owned())],
            body: Bytes::from_static(b"hidden-3"),
            grant: None,
            lane: None,
        };
        let answer = CallAnswer {
            status: 200,
            headers: vec![("location".to_owned(), "hidden-4".to_owned())],
            body: Bytes::from_static(b"hidden-5"),
            cut: false,
            request_id: None,
        };
        let text = format!("{request:?} {answer:?}");
        assert!(!text.contains("hidden") && text.contains("/v1/customers"), "{text}");
    }
}

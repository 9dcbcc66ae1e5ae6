//! One error type for the whole workspace. It says what failed, whether the provider may have acted, and what a
//! person should do next; it never holds a body, a header value, a token or a query value.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The result of everything in Palisade that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what kind of thing went wrong. Few on purpose; a provider's own code stays in [`Error::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// Our side is set up wrongly: a missing secret, an unknown key, an address outside the manifest.
    Config,
    /// The provider understood the request and found it wrong.
    Invalid,
    /// The credential is missing, wrong, expired or revoked.
    Auth,
    /// The credential is good and lacks a permission or scope.
    Permission,
    /// The object does not exist at the provider.
    NotFound,
    /// The request clashes with the object's state or with another request.
    Conflict,
    /// A payment was declined by the bank or the provider.
    Declined,
    /// The provider's limit, or our own limiter in front of it, asks to wait.
    Throttled,
    /// Our own admission queue is full; nothing was sent.
    Overloaded,
    /// The breaker is open; nothing was sent.
    CircuitOpen,
    /// A connect, attempt or overall deadline passed.
    Timeout,
    /// No connection could be made: name, address, TLS.
    Connect,
    /// The connection broke after the request may have left.
    Transport,
    /// The provider answered with its own failure (5xx).
    Provider,
    /// The answer could not be read as what it should be.
    Decode,
    /// The answer was larger than the operation's cap.
    BodyTooLarge,
    /// A sync cursor is too old at the provider; a full resync is due.
    CursorExpired,
    /// A lease or fencing number is no longer ours; another worker has the job.
    LeaseLost,
    /// The store could not do what was asked.
    Store,
    /// The caller went away or the process is shutting down.
    Cancelled,
}

impl ErrorKind {
    /// Returns the kind as it is written in metrics, logs and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Invalid => "invalid",
            Self::Auth => "auth",
            Self::Permission => "permission",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Declined => "declined",
            Self::Throttled => "throttled",
            Self::Overloaded => "overloaded",
            Self::CircuitOpen => "circuit_open",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Transport => "transport",
            Self::Provider => "provider",
            Self::Decode => "decode",
            Self::BodyTooLarge => "body_too_large",
            Self::CursorExpired => "cursor_expired",
            Self::LeaseLost => "lease_lost",
            Self::Store => "store",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Says what the provider may have done with the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: callers must decide on each")]
pub enum Outcome {
    /// Nothing left this process, or it provably did not arrive.
    NotSent,
    /// The provider answered and did nothing.
    Rejected,
    /// The provider may or may not have acted. Reconcile before repeating.
    Unknown,
    /// The provider acted; only the answer could not be used.
    Processed,
}

/// The error of a call, a delivery, a run or a store operation.
#[derive(Debug)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    provider: Option<&'static str>,
    operation: Option<&'static str>,
    status: Option<u16>,
    code: Option<String>,
    request_id: Option<String>,
    idempotency_key: Option<String>,
    attempts: u32,
    retry_after: Option<Duration>,
    outcome: Outcome,
    retryable: Option<bool>,
    credential_version: Option<u64>,
    user_message: Option<Cow<'static, str>>,
    scope: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// Makes an error of a kind. `message` is a lower-case phrase for engineers without any payload in it.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                provider: None,
                operation: None,
                status: None,
                code: None,
                request_id: None,
                idempotency_key: None,
                attempts: 0,
                retry_after: None,
                outcome: Outcome::NotSent,
                retryable: None,
                credential_version: None,
                user_message: None,
                scope: None,
                source: None,
            }),
        }
    }

    /// Names the provider and operation the error belongs to, if none is named yet.
    #[must_use]
    pub fn during(mut self, provider: &'static str, operation: &'static str) -> Self {
        self.inner.provider.get_or_insert(provider);
        self.inner.operation.get_or_insert(operation);
        self
    }

    /// Sets the HTTP status the provider answered with.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.inner.status = Some(status);
        self
    }

    /// Sets the provider's own error code (`card_declined`, `resource_missing`).
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.inner.code = Some(code.into());
        self
    }

    /// Sets the provider's request id, for its support.
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<String>) -> Self {
        self.inner.request_id = Some(id.into());
        self
    }

    /// Sets the idempotency key under which the call can be repeated or reconciled.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.inner.idempotency_key = Some(key.into());
        self
    }

    /// Sets how many attempts were made.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.inner.attempts = attempts;
        self
    }

    /// Sets the earliest sensible time for another try.
    #[must_use]
    pub fn with_retry_after(mut self, after: Option<Duration>) -> Self {
        self.inner.retry_after = after;
        self
    }

    /// Sets what the provider may have done.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.inner.outcome = outcome;
        self
    }

    /// Overrides whether the same call may succeed later ([`Error::is_retryable`]).
    #[must_use]
    pub fn with_retryable(mut self, retryable: bool) -> Self {
        self.inner.retryable = Some(retryable);
        self
    }

    /// Sets the version of the credential the provider refused.
    #[must_use]
    pub fn with_credential_version(mut self, version: u64) -> Self {
        self.inner.credential_version = Some(version);
        self
    }

    /// Sets the text a product may show to its own user.
    #[must_use]
    pub fn with_user_message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.inner.user_message = Some(message.into());
        self
    }

    /// Names the scope or permission the credential lacks, as the provider calls it.
    #[must_use]
    pub fn with_scope(mut self, scope: impl Into<String>) -> Self {
        self.inner.scope = Some(scope.into());
        self
    }

    /// Keeps the cause. It is reached through [`StdError::source`] and never printed in our own text.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// Returns the phrase for engineers.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// Returns the provider, if the error belongs to one.
    #[must_use]
    pub fn provider(&self) -> Option<&'static str> {
        self.inner.provider
    }

    /// Returns the operation's name, if the error belongs to a call.
    #[must_use]
    pub fn operation(&self) -> Option<&'static str> {
        self.inner.operation
    }

    /// Returns the HTTP status, if the provider answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.inner.status
    }

    /// Returns the provider's own error code.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.inner.code.as_deref()
    }

    /// Returns the provider's request id.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.inner.request_id.as_deref()
    }

    /// Returns the idempotency key to reconcile or repeat with.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.inner.idempotency_key.as_deref()
    }

    /// Returns how many attempts were made (0: refused before the first).
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.inner.attempts
    }

    /// Returns how long to wait before another try makes sense.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// Returns what the provider may have done.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.inner.outcome
    }

    /// Returns the scope or permission the credential lacks, if the provider named it.
    #[must_use]
    pub fn scope(&self) -> Option<&str> {
        self.inner.scope.as_deref()
    }

    /// Returns the version of the credential the provider refused ([`crate::auth::Credential::version`]), if it refused
    /// one: whoever marks its connection compares it with what is stored by then.
    #[must_use]
    pub fn credential_version(&self) -> Option<u64> {
        self.inner.credential_version
    }

    /// Tells whether the same call may succeed later without anybody changing anything. An unknown outcome is
    /// never retryable blindly: it needs reconciling, or the same idempotency key.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        if let Some(known) = self.inner.retryable {
            return known;
        }
        if self.inner.outcome == Outcome::Unknown && self.inner.idempotency_key.is_none() {
            return false;
        }
        matches!(
            self.inner.kind,
            ErrorKind::Throttled
                | ErrorKind::Overloaded
                | ErrorKind::CircuitOpen
                | ErrorKind::Timeout
                | ErrorKind::Connect
                | ErrorKind::Transport
                | ErrorKind::Provider
                | ErrorKind::Store
        )
    }

    /// Says in plain words what happened and what comes next, without codes, ids or the provider's own text.
    /// Safe to show to the user of a product.
    #[must_use]
    pub fn user_message(&self) -> Cow<'_, str> {
        if let Some(message) = &self.inner.user_message {
            return Cow::Borrowed(message);
        }
        Cow::Borrowed(match (self.inner.kind, self.inner.outcome) {
            (_, Outcome::Unknown) => {
                "We could not confirm whether this went through. Please check before trying again."
            }
            (ErrorKind::Auth, _) => "The connection to this service has expired. Please reconnect it.",
            (ErrorKind::Permission, _) => {
                "The connected account does not allow this. Please reconnect it with the missing permission."
            }
            (ErrorKind::NotFound, _) => "This item no longer exists at the service.",
            (ErrorKind::Conflict, _) => "Someone else changed this at the same time. Please try again.",
            (ErrorKind::Declined, _) => "The payment was declined. Please use another payment method.",
            (ErrorKind::Invalid, _) => "The service did not accept these details. Please check them and try again.",
            (ErrorKind::Throttled | ErrorKind::Overloaded, _) => {
                "The service is busy right now. Please try again in a moment."
            }
            (
                ErrorKind::CircuitOpen
                | ErrorKind::Timeout
                | ErrorKind::Connect
                | ErrorKind::Transport
                | ErrorKind::Provider,
                _,
            ) => "The service is not answering right now. We keep trying; please come back in a few minutes.",
            (ErrorKind::Cancelled, _) => "This was stopped before it finished. Please try again.",
            (
                ErrorKind::Config
                | ErrorKind::Decode
                | ErrorKind::BodyTooLarge
                | ErrorKind::CursorExpired
                | ErrorKind::LeaseLost
                | ErrorKind::Store,
                _,
            ) => "Something went wrong on our side. We have been told and are looking into it.",
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.inner;
        if let (Some(provider), Some(operation)) = (e.provider, e.operation) {
            write!(f, "{provider} {operation}: ")?;
        }
        write!(f, "{} ({}", e.message, e.kind.as_str())?;
        if let Some(status) = e.status {
            write!(f, ", status {status}")?;
        }
        if let Some(code) = &e.code {
            write!(f, ", code {code}")?;
        }
        if let Some(id) = &e.request_id {
            write!(f, ", request {id}")?;
        }
        if e.attempts > 1 {
            write!(f, ", {} attempts", e.attempts)?;
        }
        if e.outcome == Outcome::Unknown {
            write!(f, ", outcome unknown")?;
        }
        write!(f, ")")
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

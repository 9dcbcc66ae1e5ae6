//! What the pipeline must know of a call: the static description of its operation and the values of this one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::error::Result;
use crate::id::{ConnectionId, GrantName, TenantId};

/// Says whether repeating a request after an ambiguous failure is safe. Written down per operation; never guessed
/// from the HTTP method alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the replay rule decides on each")]
pub enum Replay {
    /// Reads; repeating changes nothing.
    Safe,
    /// Writes whose repetition has the same effect (PUT of a whole object, DELETE by id).
    Idempotent,
    /// Writes the provider deduplicates by a key in this header. The pipeline makes the key once per call.
    Keyed(&'static str),
    /// Writes that must not be repeated unless the provider provably did nothing.
    Never,
}

impl Replay {
    /// Returns the rule in one word, as it is stored and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Idempotent => "idempotent",
            Self::Keyed(_) => "keyed",
            Self::Never => "never",
        }
    }
}

/// Asked before each attempt of a call leaves, when it stands in `request.extensions()` beside the [`Call`]: whoever
/// must know of a departure before it happens, as the outbox does. An error keeps the attempt here: it was not sent,
/// and the call ends with it.
#[derive(Clone)]
pub struct Leave(Arc<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>);

impl Leave {
    /// Makes it of what is to be done before a departure.
    pub fn new(ask: impl Fn() -> BoxFuture<'static, Result<()>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// Asks whether an attempt may leave.
    ///
    /// # Errors
    /// Those of whoever is asked.
    pub async fn ask(&self) -> Result<()> {
        (self.0)().await
    }
}

impl fmt::Debug for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leave")
    }
}

/// Describes one operation of a provider. Adapters keep these in a `static` table.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "adapters write tables of it")]
pub struct Operation {
    /// The provider's name (`stripe`).
    pub provider: &'static str,
    /// The operation's name in metrics, spans and errors (`customers.create`). Low cardinality.
    pub name: &'static str,
    /// The path with ids replaced by placeholders (`/v1/customers/{id}`), for spans and metrics.
    pub url_template: &'static str,
    /// Whether an ambiguous failure may be repeated.
    pub replay: Replay,
    /// The operation's own rate limit; one lane per account and bucket.
    pub bucket: &'static Bucket,
    /// The wider limits it draws from as well, from narrow to wide: by scope, then by the bucket's name.
    pub also: &'static [Limit],
    /// How many units one attempt costs, of its own bucket and of each of the others.
    pub cost: u32,
    /// Time one attempt may take, from sending to the last byte of the body.
    pub attempt_timeout: Duration,
    /// Time the whole call may take, waits and repeats included.
    pub overall_timeout: Duration,
    /// The largest successful body accepted, in bytes.
    pub body_bytes_max: usize,
}

/// A rate limit as data: `units` per `per`, with bursts up to `burst` units.
#[derive(Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "adapters write tables of it")]
pub struct Bucket {
    /// The bucket's name (`reads`, `tier_3`), part of the lane's key.
    pub name: &'static str,
    /// Units granted per period.
    pub units: u32,
    /// The period.
    pub per: Duration,
    /// Units that may be spent at once after a rest.
    pub burst: u32,
}

/// A limit several operations share.
///
/// An attempt leaves when all its limits let it, and takes of all or of none. A shared limit is a lane of its own,
/// even where its bucket equals an operation's own one: an operation that shares it must name it here.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "adapters write tables of it")]
pub struct Limit {
    /// The limit.
    pub bucket: &'static Bucket,
    /// Who shares it: [`Scope::Account`] or [`Scope::Client`].
    pub scope: Scope,
    /// The class of credentials it is for, of those [`crate::client::Profile::class`] tells apart; `None` is all.
    pub class: Option<&'static str>,
}

/// Says who shares a limit, from narrow to wide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the limiter decides on each")]
pub enum Scope {
    /// One operation of an account, or the part of it that [`Call::lane`] names.
    #[default]
    Operation,
    /// All operations of an account.
    Account,
    /// All accounts of the client: the quota of an app or a project.
    Client,
}

/// The most limits an operation may name besides its own.
pub const ALSO_MAX: usize = 4;

/// Says who waits for the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the limiter decides on each")]
pub enum Priority {
    /// A person waits: may use the reserve of the lane and goes before background work.
    #[default]
    Interactive,
    /// Syncs, repairs, renewals: leaves the reserve alone.
    Background,
}

/// The values of one call. Put into `request.extensions()` by the adapter, read by the pipeline.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made by `Call::new` and changed field by field")]
pub struct Call {
    /// The operation's description.
    pub operation: &'static Operation,
    /// The connection whose account is called; with the buckets it makes the lanes, with the source the credential.
    pub connection: ConnectionId,
    /// The tenant, for fair turns and spans. Never a metric label.
    pub tenant: TenantId,
    /// Which of the connection's grants authenticates it, where it has several (Slack's `user`); `None` is the main one.
    /// Limits are the account's, whichever it is.
    pub grant: Option<GrantName>,
    /// Part of the own lane's key besides account and bucket (a channel, an object), if the provider limits by it.
    pub lane: Option<Arc<str>>,
    /// Who waits.
    pub priority: Priority,
    /// The caller's own deadline; the earlier of it and the operation's overall timeout counts.
    pub deadline: Option<Instant>,
    /// The idempotency key, when the caller has one. Otherwise the pipeline makes one for [`Replay::Keyed`].
    pub idempotency_key: Option<Arc<str>>,
    /// Links all attempts and log lines of one piece of work. Made by the pipeline when absent.
    pub correlation_id: Option<Arc<str>>,
}

impl Call {
    /// Makes a call of `operation` for a connection, interactive, without a deadline of its own.
    #[must_use]
    pub fn new(operation: &'static Operation, connection: ConnectionId, tenant: TenantId) -> Self {
        Self {
            operation,
            connection,
            tenant,
            grant: None,
            lane: None,
            priority: Priority::Interactive,
            deadline: None,
            idempotency_key: None,
            correlation_id: None,
        }
    }

    /// Chooses which of the connection's grants authenticates the call.
    #[must_use]
    pub fn with_grant(mut self, name: impl Into<GrantName>) -> Self {
        self.grant = Some(name.into());
        self
    }

    /// Marks the call as background work.
    #[must_use]
    pub fn background(mut self) -> Self {
        self.priority = Priority::Background;
        self
    }

    /// Sets the idempotency key.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Sets the caller's deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

//! The call log: finished calls, with hourly counts per connection.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{ErrorKind, Outcome, Result};
use crate::id::ConnectionId;

/// One finished call, as the observer saw it. No URL, no body, no header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct CallRecord {
    /// When it ended.
    pub at: Timestamp,
    /// The provider.
    pub provider: String,
    /// The operation's name.
    pub operation: String,
    /// The connection.
    pub connection: ConnectionId,
    /// The last status, if any attempt was answered.
    pub status: Option<u16>,
    /// The error's kind, if it failed.
    pub error: Option<ErrorKind>,
    /// What the provider may have done, if it failed.
    pub outcome: Option<Outcome>,
    /// Attempts made.
    pub attempts: u32,
    /// The whole call, in microseconds.
    pub duration_us: u64,
    /// Time spent waiting for limits and backoff, in microseconds.
    pub waited_us: u64,
    /// The provider's request id.
    pub request_id: Option<String>,
    /// The correlation id.
    pub correlation_id: Option<String>,
}

/// Calls and errors of a connection since a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct CallCounts {
    /// Calls that ended.
    pub calls: u64,
    /// Calls that failed for the provider's or the network's sake.
    pub errors: u64,
}

impl std::ops::AddAssign for CallCounts {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.errors += other.errors;
    }
}

/// Keeps finished calls, with hourly counts per connection.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait CallLog: Send + Sync {
    /// Appends calls.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    async fn log_calls(&self, calls: Vec<CallRecord>) -> Result<()>;

    /// Lists calls, newest first.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn calls(&self, connection: Option<ConnectionId>, limit: u32) -> Result<Vec<CallRecord>>;

    /// Counts a connection's calls since a moment, by the hour it lies in (the whole hour of `since` counts; where its day
    /// was rolled up, all that was). Of the errors those count that the provider or the network is to blame for: [`counts_as_error`].
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn call_counts(&self, connection: ConnectionId, since: Timestamp) -> Result<CallCounts>;

    /// Removes up to `limit` calls that ended before `before`, oldest first, and every hour of counts that was over by
    /// then. Returns how many calls went.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn prune_calls(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// Rolls up to `limit` hours of counts that were over before `before` into their days (UTC), oldest first, then by
    /// connection. Returns how many hours went.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    async fn roll_up_calls(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// Removes up to `limit` days of counts that were over before `before`, oldest first, then by connection. Returns how
    /// many went.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    async fn prune_call_days(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// Lists a connection's calls by day (UTC), the newest first: rolled up or not. Days without any are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    async fn call_days(&self, connection: ConnectionId, limit: u32) -> Result<Vec<CallDay>>;
}

/// Calls of a connection in one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct CallDay {
    /// When the day began (UTC).
    pub day: Timestamp,
    /// Its calls.
    pub counts: CallCounts,
}

/// Tells whether a failed call speaks against the provider or the network, rather than against the request, the
/// credential or our own limits.
#[must_use]
pub fn counts_as_error(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Throttled
            | ErrorKind::Timeout
            | ErrorKind::Connect
            | ErrorKind::Transport
            | ErrorKind::Provider
            | ErrorKind::Decode
            | ErrorKind::BodyTooLarge
            | ErrorKind::CircuitOpen
    )
}

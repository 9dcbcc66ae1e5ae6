//! Pauses: until when a lane must be left alone, so that a process that starts later knows it, too.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::Result;

/// The most pauses kept of one provider: as many as a client keeps lanes.
pub const PAUSES_MAX: u32 = 10_000;

/// A lane that a provider asked to leave alone for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Pause {
    /// The provider.
    pub provider: String,
    /// The lane's name: scope, bucket, account and part. It means something to the client of the provider only.
    pub lane: String,
    /// When it was asked for, by the clock of the process that was.
    pub at: Timestamp,
    /// When it is over, by the same clock.
    pub until: Timestamp,
}

/// Keeps pauses.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Pauses: Send + Sync {
    /// Keeps pauses, one a lane: a later end takes the place of an earlier one, with its `at`; an earlier or equal one
    /// changes nothing. Then, of each provider named, the [`PAUSES_MAX`] that end last are kept (by lane where they end
    /// together).
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn put_pauses(&self, pauses: Vec<Pause>) -> Result<()>;

    /// Lists pauses that end after `now`: those that end last come first, then by provider and lane.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn pauses(&self, now: Timestamp, limit: u32) -> Result<Vec<Pause>>;

    /// Removes up to `limit` pauses that ended before `before`: those that ended first, then by provider and lane.
    /// Returns how many went.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn prune_pauses(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

//! Grants: what a provider gave a connection, and the lease under which exactly one process renews it.
//!
//! The tokens of a grant are sealed before they come here. A row's generation grows with every write of its tokens and
//! is never used again, also not after an erasure: it is what the seal binds, what a compare-and-set compares, and the
//! version of the [`crate::auth::Credential`] made of it.
//!
//! # The order of a renewal
//! 1. [`Grants::claim_grant`] holds the row. A claim that finds an intent took over from a holder that never came back.
//! 2. [`Grants::note_intent`] is durable before the request leaves.
//! 3. [`Grants::renew_grant`] writes what the provider gave: compare-and-set on the generation, not on the lease. Whoever
//!    holds the successor of this generation's refresh token must be able to keep it, also when its lease was lost.
//! 4. Or [`Grants::release_grant`] when the provider provably kept the old one, or [`Grants::end_grant`] when it is over.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Connection;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, GrantName};

/// Names one grant of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a key; any value is valid")]
pub struct GrantKey {
    /// The connection.
    pub connection: ConnectionId,
    /// Which of its grants: [`crate::auth::grant::MAIN`] unless the provider gives several (`bot`, `user`).
    pub name: GrantName,
}

/// Whether a grant can be renewed and used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the token source decides on each")]
pub enum GrantState {
    /// In use.
    Live,
    /// It cannot be renewed any more; its access token serves until it expires or is refused.
    Ending {
        /// Why.
        reason: EndReason,
    },
    /// Nothing of it is used.
    Dead {
        /// Why.
        reason: EndReason,
    },
    /// Its tokens are erased.
    Erased {
        /// When.
        at: Timestamp,
        /// What the provider said to the revocation.
        revocation: Revocation,
    },
}

/// Why a grant is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages say each in words")]
pub enum EndReason {
    /// The provider answered `invalid_grant`: its owner withdrew it, or it lay unused for too long.
    Refused,
    /// A renewal left for the provider and its answer was lost: the single-use refresh token may be used up.
    MaybeLost,
    /// The provider refuses the access token, and there is nothing to renew it with.
    NotRenewable,
}

impl EndReason {
    /// Says it in one phrase, for a connection's state.
    #[must_use]
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Refused => "the provider no longer accepts the grant: reconnect",
            Self::MaybeLost => "the answer to a token renewal was lost, so the token may be lost: reconnect",
            Self::NotRenewable => "the provider refused the token, and it cannot be renewed: reconnect",
        }
    }
}

/// What a provider said when a grant was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages say each in words")]
pub enum Revocation {
    /// The provider confirmed it.
    Confirmed,
    /// The provider was asked and did not confirm it: its owner should look there.
    NotConfirmed,
    /// The provider has no way to revoke, or there was nothing to revoke.
    NotOffered,
}

/// A grant as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StoredGrant {
    /// Its name.
    pub key: GrantKey,
    /// What renews it: the name the flow is registered under (`slack`, `slack/sandbox`).
    pub flow: String,
    /// Grows with every write of the tokens, also with their erasure.
    pub generation: u64,
    /// The vault's bytes; empty when erased.
    pub blob: Vec<u8>,
    /// Whether it can be renewed and used.
    pub state: GrantState,
    /// When the tokens were issued.
    pub issued_at: Timestamp,
    /// When the access token expires, if it does.
    pub expires_at: Option<Timestamp>,
    /// When to renew it though nobody uses it.
    pub keep_alive_at: Option<Timestamp>,
    /// The scopes that were asked for.
    pub requested: Vec<String>,
    /// The scopes that were granted.
    pub granted: Vec<String>,
    /// Until when somebody holds it for a renewal.
    pub held_until: Option<Timestamp>,
    /// The number of the newest hold. Grows with every claim, never reset.
    pub fence: u64,
    /// When a request left, or was about to leave, whose answer has not been written.
    pub intent: Option<Timestamp>,
    /// No renewal before this moment, after a passing failure.
    pub rest_until: Option<Timestamp>,
    /// Passing failures since the last success.
    pub failures: u32,
}

/// The tokens of a grant to write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct NewTokens {
    /// The generation that must be stored (0: there is no row).
    pub expected: u64,
    /// The generation the blob was sealed for; higher than `expected`.
    pub generation: u64,
    /// The vault's bytes.
    pub blob: Vec<u8>,
    /// When they were issued.
    pub issued_at: Timestamp,
    /// When the access token expires, if it does.
    pub expires_at: Option<Timestamp>,
    /// When to renew though nobody uses it.
    pub keep_alive_at: Option<Timestamp>,
    /// The scopes that were granted.
    pub granted: Vec<String>,
}

/// A grant to write at a connect or reconnect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct NewGrant {
    /// Its name within the connection.
    pub name: GrantName,
    /// What renews it.
    pub flow: String,
    /// The scopes that were asked for.
    pub requested: Vec<String>,
    /// Its tokens.
    pub tokens: NewTokens,
}

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the token source decides on each")]
pub enum GrantClaim {
    /// It is ours.
    Held {
        /// The proof of holding it.
        lease: GrantLease,
        /// An intent that a lost holder left: its request may have reached the provider.
        intent: Option<Timestamp>,
    },
    /// Somebody else holds it.
    Busy {
        /// Until when, unless it is prolonged.
        until: Timestamp,
    },
    /// It rests after a passing failure.
    Resting {
        /// Until when.
        until: Timestamp,
    },
    /// The row is not a live one of that generation: read it again.
    Moved,
}

/// The proof of holding a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct GrantLease {
    /// The grant.
    pub key: GrantKey,
    /// The number of the hold.
    pub fence: u64,
}

/// Keeps grants.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Grants: Send + Sync {
    /// Writes a connection and grants of it in one commit, all or nothing: `false` when the stored generation of any
    /// is not the expected one. Each grant is live afterwards, without lease, intent and rest; grants of the connection
    /// that are not named stay.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn connect(&self, connection: Connection, grants: Vec<NewGrant>) -> Result<bool>;

    /// Reads one grant.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`].
    async fn grant(&self, key: GrantKey) -> Result<Option<StoredGrant>>;

    /// Lists the grants of a connection by name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`].
    async fn grants(&self, connection: ConnectionId) -> Result<Vec<StoredGrant>>;

    /// Holds a live grant of `generation` until `until` for a renewal, unless somebody holds it beyond `now` or it
    /// rests beyond `now`. An intent that is there stays until the grant is renewed, released or ended.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn claim_grant(&self, key: GrantKey, generation: u64, now: Timestamp, until: Timestamp)
    -> Result<GrantClaim>;

    /// Holds it longer. `false` when the hold is no longer ours.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn extend_grant(&self, lease: GrantLease, until: Timestamp) -> Result<bool>;

    /// Notes that a request is about to leave; `None` notes that the provider provably did nothing with it. `false`
    /// when the hold is no longer ours: nothing is written.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn note_intent(&self, lease: GrantLease, at: Option<Timestamp>) -> Result<bool>;

    /// Writes renewed tokens if the stored generation is the expected one and the grant is not erased; `false`
    /// otherwise. The grant is live afterwards, without lease, intent and rest. When it was ending or dead and no other
    /// grant of the connection is, a connection that needed to be reconnected is active again.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn renew_grant(&self, key: GrantKey, tokens: NewTokens) -> Result<bool>;

    /// Gives a hold back without a change: the intent is cleared. With `rest_until` it rests, and a failure is counted.
    /// `false` when the hold is no longer ours.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn release_grant(&self, lease: GrantLease, rest_until: Option<Timestamp>) -> Result<bool>;

    /// Ends a grant if the stored generation is `generation`: a live one becomes dead, or ending with `serves`; an
    /// ending one becomes dead without `serves`; anything else stays. Lease and intent are cleared, and an active
    /// connection needs to be reconnected from then on, with [`EndReason::phrase`]. `false` when the generation is
    /// another: nothing is written.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn end_grant(&self, key: GrantKey, generation: u64, reason: EndReason, serves: bool) -> Result<bool>;

    /// Erases every secret of a connection in one commit and marks it disconnected: each grant's tokens, with what the
    /// provider said (those not named: [`Revocation::NotOffered`]), and its stored key. Generations grow by one and
    /// stay, so that a late writer is refused. Runs of its that wait for a review or are under way end as by
    /// [`Records::dismiss_run`](super::Records::dismiss_run) with [`ACCOUNT_DISCONNECTED`](super::ACCOUNT_DISCONNECTED):
    /// nobody follows their streams any more, and none of them is [fresh](super::StreamStatus::fresh_at). `false` when there is no such connection.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn disconnect(
        &self,
        connection: ConnectionId,
        revocations: Vec<(GrantName, Revocation)>,
        now: Timestamp,
    ) -> Result<bool>;

    /// Lists live grants whose time to be kept alive has come and that do not rest, longest due first.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`].
    async fn grants_due(&self, now: Timestamp, limit: u32) -> Result<Vec<GrantKey>>;
}

//! Authorisations under way: a browser that was sent to a provider and is expected back, and the links that let a
//! product's front end begin one. Both are single use: reading one takes it.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, TenantId};

/// The SHA-256 of a random token. The token itself is never stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(pub [u8; 32]);

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "TokenHash({a:02x}{b:02x}{c:02x}{d:02x}…)")
    }
}

/// A browser sent to a provider, until it comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct PendingRow {
    /// Of the `state` parameter.
    pub state: TokenHash,
    /// Of the cookie that binds it to one browser.
    pub browser: TokenHash,
    /// The tenant it is for.
    pub tenant: TenantId,
    /// The connection it makes or renews.
    pub connection: ConnectionId,
    /// Everything else, sealed: the flow, the code verifier, the scopes, where to go afterwards.
    pub blob: Vec<u8>,
    /// When it is too late.
    pub expires_at: Timestamp,
}

/// A link that lets one tenant's user begin one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct SessionRow {
    /// Of the token in the link.
    pub token: TokenHash,
    /// The tenant the connection will belong to.
    pub tenant: TenantId,
    /// The flow it begins (`slack`, `slack/sandbox`).
    pub flow: String,
    /// The connection to reconnect; a new one without it.
    pub connection: Option<ConnectionId>,
    /// Scopes to ask for instead of the flow's own.
    pub scopes: Option<Vec<String>>,
    /// Where to go afterwards; checked against the allow-list when the session was made.
    pub return_to: Option<String>,
    /// When it is too late.
    pub expires_at: Timestamp,
}

/// Keeps authorisations under way.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Authorizations: Send + Sync {
    /// Keeps a browser sent to a provider. A second row of the same state replaces nothing: `false`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn put_pending(&self, row: PendingRow) -> Result<bool>;

    /// Takes it: of any number of takers one gets it, also when it has expired (the caller looks).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn take_pending(&self, state: TokenHash) -> Result<Option<PendingRow>>;

    /// Keeps a link. A second row of the same token replaces nothing: `false`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn put_session(&self, row: SessionRow) -> Result<bool>;

    /// Takes it: of any number of takers one gets it, also when it has expired (the caller looks).
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn take_session(&self, token: TokenHash) -> Result<Option<SessionRow>>;

    /// Removes up to `limit` of each that expired before `before`. Returns how many went.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn prune_authorizations(&self, before: Timestamp, limit: u32) -> Result<u64>;
}

//! Connections and their sealed credentials.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, Environment, TenantId};

/// Whether a connection works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: health decides on each")]
pub enum ConnectionState {
    /// In use.
    Active,
    /// The credential no longer works: its owner must reconnect.
    NeedsReconnect {
        /// Why, in one phrase.
        reason: String,
    },
    /// Paused by somebody.
    Paused,
    /// Disconnected; its data is kept until removed.
    Disconnected,
}

impl ConnectionState {
    /// Tells whether a connection in this state that was in another before is halted no more
    /// ([`Halt::Connection`](super::Halt::Connection)): it was paused as a whole or gone, and is in use again. One that
    /// was reconnected meanwhile keeps a halt of its events that somebody wanted.
    #[must_use]
    pub fn ends_halt(&self, before: &Self) -> bool {
        let in_use = match self {
            Self::Active => true,
            Self::NeedsReconnect { .. } | Self::Paused | Self::Disconnected => false,
        };
        in_use
            && match before {
                Self::Paused | Self::Disconnected => true,
                Self::Active | Self::NeedsReconnect { .. } => false,
            }
    }
}

/// One tenant's authorised account at a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Connection {
    /// Its identifier.
    pub id: ConnectionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// The provider.
    pub provider: String,
    /// The environment it belongs to, for good: no flow, credential or address of another is used for it.
    #[serde(default)]
    pub environment: Environment,
    /// The account at the provider, for people and for account headers.
    pub account: Option<String>,
    /// Another base URL than the manifest's (a sandbox, an emulator).
    pub base_url: Option<String>,
    /// Whether it works.
    pub state: ConnectionState,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The connection of events that belong to none: of accounts nobody connected. No connection is called so.
pub const NO_CONNECTION: &str = "";
/// Connections looked through at once by a store that finds those of an account by reading all.
const LOOKED_THROUGH: u32 = 500;

/// Names an account at a provider, in one environment of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a key; any value is valid")]
pub struct AccountKey {
    /// The provider.
    pub provider: String,
    /// The environment.
    pub environment: Environment,
    /// The account, as the provider writes it.
    pub account: String,
}

impl AccountKey {
    /// Tells whether a connection is of this account.
    #[must_use]
    pub fn is_of(&self, connection: &Connection) -> bool {
        connection.account.as_ref() == Some(&self.account)
            && connection.provider == self.provider
            && connection.environment == self.environment
    }
}

/// A credential as the store sees it: sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct SealedCredential {
    /// Grows with every write; part of what the seal binds.
    pub generation: u64,
    /// The vault's bytes; empty when it was erased ([`Grants::disconnect`](super::Grants::disconnect)).
    pub blob: Vec<u8>,
    /// What tells it from another one after it was erased: a digest, sealed too. It outlives the erasure. Empty when
    /// there is none.
    pub mark: Vec<u8>,
}

/// Keeps connections and sealed credentials.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Connections: Send + Sync {
    /// Adds or replaces a connection. One that was paused or disconnected and is active now is halted no more
    /// ([`Halt::Connection`](super::Halt::Connection)): whoever connects wants its events handled.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn put_connection(&self, connection: Connection) -> Result<()>;

    /// Changes the state of a connection and nothing else of it, if it is still in the state that was seen: what somebody
    /// else has written meanwhile stays. In the same commit its events are halted from `halted` on, if that is given, or
    /// else its halt ends as [`Connections::put_connection`] says. Returns whether it was.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn turn_connection(
        &self,
        id: ConnectionId,
        seen: ConnectionState,
        to: ConnectionState,
        halted: Option<Timestamp>,
    ) -> Result<bool>;

    /// Reads one connection.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn connection(&self, id: ConnectionId) -> Result<Option<Connection>>;

    /// Lists connections by id, after one if given.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn connections(&self, after: Option<ConnectionId>, limit: u32) -> Result<Vec<Connection>>;

    /// Lists the connections of one account by id, in any state, after one if given: several tenants may have connected
    /// it. A store that has many should find them without reading all, as this does.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn connections_of(
        &self,
        account: AccountKey,
        after: Option<ConnectionId>,
        limit: u32,
    ) -> Result<Vec<Connection>> {
        let (mut found, mut after) = (Vec::new(), after);
        while found.len() < limit as usize {
            let page = self.connections(after, LOOKED_THROUGH).await?;
            let Some(last) = page.last().map(|last| last.id.clone()) else { break };
            found.extend(page.into_iter().filter(|connection| account.is_of(connection)));
            after = Some(last);
        }
        found.truncate(limit as usize);
        Ok(found)
    }

    /// Reads a connection's sealed credential.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn credential(&self, id: ConnectionId) -> Result<Option<SealedCredential>>;

    /// Writes a sealed credential if the stored generation is `expected` (0: none is stored). `false` otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn put_credential(&self, id: ConnectionId, expected: u64, credential: SealedCredential) -> Result<bool>;

    /// Marks an active connection whose credential of generation `seen` was refused: only if its key, or a grant of it,
    /// still has that generation. `false` otherwise, and in any other state: nothing is written.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn refuse_credential(&self, id: ConnectionId, seen: u64, reason: String) -> Result<bool>;
}

/// Marks an active connection whose credential no longer works. Any other state stays, and so does an active one whose
/// credential is not the one of generation `seen` any more: it was reconnected meanwhile. Without a generation the
/// refusal counts whatever is stored now.
///
/// # Errors
/// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
pub async fn mark_needs_reconnect<S: Connections + ?Sized>(
    store: &S,
    id: &ConnectionId,
    seen: Option<u64>,
    reason: &str,
) -> Result<()> {
    if let Some(seen) = seen {
        return store.refuse_credential(id.clone(), seen, reason.to_owned()).await.map(drop);
    }
    let lost = ConnectionState::NeedsReconnect { reason: reason.to_owned() };
    store.turn_connection(id.clone(), ConnectionState::Active, lost, None).await.map(drop)
}

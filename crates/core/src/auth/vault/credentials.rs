//! The keys of connections that do not expire by themselves, out of the vault.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{Place, Vault};
use crate::auth::{Credential, CredentialSource, Scheme};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::id::ConnectionId;
use crate::store::{ConnectionState, Connections, SealedCredential};

/// The field a connection's credential is sealed as.
const CREDENTIAL_FIELD: &str = "credential";
/// The field its digest is sealed as.
const MARK_FIELD: &str = "credential mark";
/// Opened credentials kept.
pub(super) const CREDENTIALS_KEPT_MAX: usize = 10_000;
/// How long an opened credential is used before its row is looked at again: how long another process's disconnect
/// takes to reach this one.
pub(super) const CREDENTIAL_KEPT: Duration = Duration::from_secs(60);

/// Gives connections' credentials out of the vault, for keys that do not expire by themselves.
pub struct VaultCredentials {
    pub(super) vault: Arc<Vault>,
    connections: Arc<dyn Connections>,
    opened: Mutex<HashMap<ConnectionId, Opened>>,
}

/// What is stored, compared with a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// The very same.
    Same,
    /// The very same, by a version that wrote no mark.
    SameUnmarked,
    /// It was the same, or nobody knows, and it is erased.
    SameErased,
    /// Another one, or none.
    Another,
}

/// The digest that tells a credential from another one after it was erased. It is only ever stored sealed.
pub(super) fn mark(scheme: &Scheme) -> [u8; 32] {
    let mut digest = Sha256::new_with_prefix(b"palisade credential mark\0");
    digest.update(scheme.to_plaintext().as_slice());
    digest.finalize().into()
}

pub(super) struct Opened {
    credential: Credential,
    until: Instant,
}

impl VaultCredentials {
    /// Reads and writes through a vault.
    #[must_use]
    pub fn new(vault: Arc<Vault>, connections: Arc<dyn Connections>) -> Self {
        Self { vault, connections, opened: Mutex::default() }
    }

    /// Seals a connection's credential and stores it in the place of the one that is there. The connection's state
    /// is the caller's business.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such connection; [`ErrorKind::Conflict`] when another writer was
    /// faster; [`ErrorKind::Config`] when the secret cannot stand in a header, or from the master key;
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn store_credential(&self, connection: &ConnectionId, scheme: &Scheme) -> Result<u64> {
        let store = &self.connections;
        let Some(row) = store.connection(connection.clone()).await? else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no connection {connection}")));
        };
        let expected = store.credential(connection.clone()).await?.map_or(0, |stored| stored.generation);
        let generation = expected.saturating_add(1);
        // What could not be sent is refused before it is kept.
        Credential::new(scheme, generation, None)?;
        let place = Place { tenant: &row.tenant, connection, field: CREDENTIAL_FIELD, generation };
        let blob = self.vault.seal(place, &scheme.to_plaintext()).await?;
        let mark = self.vault.seal(Place { field: MARK_FIELD, ..place }, &mark(scheme)).await?;
        let sealed = SealedCredential { generation, blob, mark };
        if !store.put_credential(connection.clone(), expected, sealed).await? {
            return Err(Error::new(ErrorKind::Conflict, "the credential was replaced by somebody else meanwhile"));
        }
        self.forget(connection);
        Ok(generation)
    }

    /// As [`VaultCredentials::store_credential`], unless the very same credential is stored already, or was until its
    /// connection was disconnected: what somebody ended is not begun again by itself. Returns whether another one was
    /// written. A stored one that does not open any more is replaced; an erased one of which nothing is known counts as
    /// the same.
    ///
    /// # Errors
    /// As [`VaultCredentials::store_credential`]; [`ErrorKind::Config`] when the stored one is sealed under another
    /// master key.
    pub async fn store_if_changed(&self, connection: &ConnectionId, scheme: &Scheme) -> Result<bool> {
        let held = self.held(connection, scheme).await?;
        if matches!(held, Held::Same | Held::SameErased) {
            return Ok(false);
        }
        match self.store_credential(connection, scheme).await {
            // Processes that start together on one database store the very same credential: the first one did it.
            Err(error)
                if error.kind() == ErrorKind::Conflict && self.held(connection, scheme).await? != Held::Another =>
            {
                Ok(false)
            }
            stored => stored.map(|_| held == Held::Another),
        }
    }

    /// Compares a credential with the stored one.
    async fn held(&self, connection: &ConnectionId, scheme: &Scheme) -> Result<Held> {
        let store = &self.connections;
        let row = store.connection(connection.clone()).await?;
        let (Some(row), Some(sealed)) = (row, store.credential(connection.clone()).await?) else {
            return Ok(Held::Another);
        };
        let erased = sealed.blob.is_empty();
        if erased && sealed.mark.is_empty() {
            return Ok(Held::SameErased);
        }
        // An erasure adds one to the generation the mark was sealed for.
        let generation = sealed.generation.saturating_sub(u64::from(erased));
        let (field, blob, wanted) = if erased {
            (MARK_FIELD, &sealed.mark, mark(scheme).to_vec().into())
        } else {
            (CREDENTIAL_FIELD, &sealed.blob, scheme.to_plaintext())
        };
        let place = Place { tenant: &row.tenant, connection, field, generation };
        match self.vault.open(place, blob).await {
            Ok(plain) if *plain != *wanted => Ok(Held::Another),
            Ok(_) if erased => Ok(Held::SameErased),
            Ok(_) if sealed.mark.is_empty() => Ok(Held::SameUnmarked),
            Ok(_) => Ok(Held::Same),
            Err(error) if error.kind() == ErrorKind::Decode => Ok(Held::Another),
            Err(error) => Err(error),
        }
    }

    /// Forgets an opened credential, so that its row is read again.
    pub fn forget(&self, connection: &ConnectionId) {
        self.lock().remove(connection);
    }

    /// Reads and opens the row, whatever is kept in memory.
    pub(in crate::auth) async fn read(&self, connection: &ConnectionId) -> Result<Credential> {
        let store = &self.connections;
        let refused = |why: String| Err(Error::new(ErrorKind::Auth, why).with_outcome(Outcome::NotSent));
        let Some(row) = store.connection(connection.clone()).await? else {
            return refused(format!("there is no connection {connection}"));
        };
        match row.state {
            ConnectionState::Active | ConnectionState::Paused => {}
            ConnectionState::NeedsReconnect { reason } => {
                return refused(format!("the connection must be reconnected: {reason}"));
            }
            ConnectionState::Disconnected => return refused("the connection is disconnected".to_owned()),
        }
        let Some(sealed) = store.credential(connection.clone()).await?.filter(|sealed| !sealed.blob.is_empty()) else {
            return refused("the connection has no credential: connect it".to_owned());
        };
        let generation = sealed.generation;
        let place = Place { tenant: &row.tenant, connection, field: CREDENTIAL_FIELD, generation };
        let plain = self.vault.open(place, &sealed.blob).await?;
        Credential::new(&Scheme::from_plaintext(&plain)?, generation, None)
    }

    pub(super) fn keep(&self, connection: &ConnectionId, credential: &Credential) {
        let now = Instant::now();
        let mut opened = self.lock();
        if opened.len() >= CREDENTIALS_KEPT_MAX {
            opened.retain(|_, kept| kept.until > now);
        }
        if opened.len() >= CREDENTIALS_KEPT_MAX {
            let gone = opened.keys().next().cloned();
            gone.map(|gone| opened.remove(&gone));
        }
        let kept = Opened { credential: credential.clone(), until: now + CREDENTIAL_KEPT };
        opened.insert(connection.clone(), kept);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CredentialSource for VaultCredentials {
    async fn credential(&self, connection: ConnectionId) -> Result<Credential> {
        if let Some(kept) = self.lock().get(&connection).filter(|kept| kept.until > Instant::now()) {
            return Ok(kept.credential.clone());
        }
        let credential = self.read(&connection).await?;
        self.keep(&connection, &credential);
        Ok(credential)
    }

    /// A key cannot be refreshed: if the row has another one by now it is given, else its owner must reconnect.
    async fn refresh(&self, connection: ConnectionId, seen: u64) -> Result<Credential> {
        self.forget(&connection);
        let credential = self.read(&connection).await?;
        if credential.version() == seen {
            let why = "the provider refused the key: replace it";
            self.connections.refuse_credential(connection, seen, why.to_owned()).await?;
            return Err(Error::new(ErrorKind::Auth, why).with_outcome(Outcome::Rejected));
        }
        self.keep(&connection, &credential);
        Ok(credential)
    }
}

impl fmt::Debug for VaultCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultCredentials").field("vault", &self.vault).finish_non_exhaustive()
    }
}

//! Seals secrets with AES-256-GCM under a per-tenant data key that a master key wraps.
//!
//! Format of a sealed blob, version 1: `0x01 | data key id (u64, big endian) | nonce (12) | ciphertext and tag`.
//! Format of a wrapped data key, version 1: `0x01 | nonce (12) | ciphertext and tag`.
//! Associated data is the length-prefixed list of what the blob belongs to, so a row cannot be moved or swapped: each
//! item stands behind its length (u32, big endian), numbers as 8 bytes, big endian.
//! - of a blob: `palisade.secret.v1`, tenant, connection, field, generation, data key id;
//! - of a data key: `palisade.data-key.v1`, tenant, data key id, master key id.
//!
//! What this cannot see: a whole old row put back together with its generation. What it never does: print a key.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use tokio::time::Instant;
use zeroize::{Zeroize, Zeroizing};

use super::{Credential, CredentialSource, Scheme};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::id::{ConnectionId, TenantId};
use crate::random::Random;
use crate::store::{ConnectionState, Connections, SealedCredential, WrappedKey, mark_needs_reconnect};

/// The length of every key, in bytes.
pub const KEY_BYTES: usize = 32;

/// The first byte of blobs and wrapped keys.
const VERSION: u8 = 1;
/// Where a blob's nonce begins: after the version and the data key's id.
const BLOB_HEAD: usize = 1 + 8;
const SECRET_DOMAIN: &[u8] = b"palisade.secret.v1";
const DATA_KEY_DOMAIN: &[u8] = b"palisade.data-key.v1";
/// The field a connection's credential is sealed as.
const CREDENTIAL_FIELD: &str = "credential";

/// Seals one process makes under one data key before it makes a new one. Random 96-bit nonces are safe for 2³² seals
/// of a key (NIST SP 800-38D, 8.3); this leaves room for 4,096 lives of processes.
const SEALS_MAX: u64 = 1 << 20;
/// Tenants whose data keys are kept opened.
const TENANTS_KEPT_MAX: usize = 10_000;
/// Opened credentials kept.
const CREDENTIALS_KEPT_MAX: usize = 10_000;
/// How long an opened credential is used before its row is looked at again: how long another process's disconnect
/// takes to reach this one.
const CREDENTIAL_KEPT: Duration = Duration::from_secs(60);

/// A key in plain, wiped when dropped.
pub type PlainKey = Zeroizing<[u8; KEY_BYTES]>;

/// Wraps data keys. One master key serves all tenants; it never leaves its holder.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait MasterKey: Send + Sync + fmt::Debug + 'static {
    /// Returns the name of the key that wraps new data keys.
    fn id(&self) -> String;

    /// Wraps a data key, bound to `aad`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the holder cannot wrap.
    async fn wrap(&self, key: &PlainKey, aad: &[u8]) -> Result<Vec<u8>>;

    /// Opens a data key that the master key `master` wrapped, bound to `aad`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the holder does not have that master key, or it does not open with it.
    async fn unwrap(&self, master: &str, wrapped: &[u8], aad: &[u8]) -> Result<PlainKey>;
}

/// A master key in this process's memory, from a file or the environment.
pub struct LocalMasterKey {
    id: String,
    key: LessSafeKey,
    random: Arc<dyn Random>,
}

impl LocalMasterKey {
    /// Takes 32 random bytes. The key's name is made of a hash of it, so that a wrong key is told as such.
    ///
    /// `random` must be fit for nonces ([`crate::random::SystemRandom`]).
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when all bytes are the same: that is a placeholder, not a key.
    pub fn new(bytes: &PlainKey, random: Arc<dyn Random>) -> Result<Self> {
        if bytes.iter().all(|byte| Some(byte) == bytes.first()) {
            return Err(Error::new(ErrorKind::Config, "the master key is one byte repeated: make a random one"));
        }
        let name = {
            use sha2::Digest;
            let mut hash = sha2::Sha256::new();
            hash.update(b"palisade.master-key.id.v1");
            hash.update(bytes.as_slice());
            hash.finalize()
        };
        let name: String = name.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id: format!("local-{name}"), key: aead(bytes)?, random })
    }

    /// Reads a key as it stands in a file or variable: 32 raw bytes, or their hex or base64 (standard or URL-safe,
    /// padded or not), with white space around it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is none of these; the text is not in the error.
    pub fn parse(given: &[u8], random: Arc<dyn Random>) -> Result<Self> {
        let key = key_of(given).ok_or_else(|| {
            Error::new(ErrorKind::Config, "the master key must be 32 bytes, or the hex or base64 of 32 bytes")
        })?;
        Self::new(&key, random)
    }
}

fn key_of(given: &[u8]) -> Option<PlainKey> {
    if let Ok(raw) = <[u8; KEY_BYTES]>::try_from(given) {
        // 32 characters are a password or the hex of half a key: random bytes are never all printable.
        let is_text = raw.iter().all(u8::is_ascii_graphic);
        return (!is_text).then(|| Zeroizing::new(raw));
    }
    let text = std::str::from_utf8(given).ok()?.trim();
    let bytes = Zeroizing::new(if text.len() == 2 * KEY_BYTES {
        let pairs = text.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect::<Option<_>>()?
    } else {
        let text = Zeroizing::new(format!("{}=", text.trim_end_matches('=')));
        STANDARD.decode(text.as_bytes()).or_else(|_| URL_SAFE.decode(text.as_bytes())).ok()?
    });
    Some(Zeroizing::new(<[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok()?))
}

#[async_trait]
impl MasterKey for LocalMasterKey {
    fn id(&self) -> String {
        self.id.clone()
    }

    async fn wrap(&self, key: &PlainKey, aad: &[u8]) -> Result<Vec<u8>> {
        let mut wrapped = vec![VERSION];
        seal_onto(&mut wrapped, &self.key, self.random.as_ref(), aad, key.as_slice())?;
        Ok(wrapped)
    }

    async fn unwrap(&self, master: &str, wrapped: &[u8], aad: &[u8]) -> Result<PlainKey> {
        if master != self.id {
            let own = &self.id;
            return Err(Error::new(
                ErrorKind::Config,
                format!("the data is sealed under the master key {master}, and the one given is {own}"),
            ));
        }
        let opened = match wrapped.split_first() {
            Some((&VERSION, sealed)) => open_sealed(&self.key, aad, sealed),
            Some(_) | None => None,
        };
        let key = opened.and_then(|plain| <[u8; KEY_BYTES]>::try_from(plain.as_slice()).ok()).map(Zeroizing::new);
        key.ok_or_else(|| Error::new(ErrorKind::Config, "a data key does not open: its row was changed or moved"))
    }
}

impl fmt::Debug for LocalMasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalMasterKey({})", self.id)
    }
}

/// What a sealed blob belongs to. Another value in any part, and it does not open.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct Place<'a> {
    /// The tenant, whose data key seals it.
    pub tenant: &'a TenantId,
    /// The connection.
    pub connection: &'a ConnectionId,
    /// Which of the connection's secrets.
    pub field: &'a str,
    /// The generation of the row.
    pub generation: u64,
}

/// Seals and opens. Data keys are made on first use, and kept opened in memory.
pub struct Vault {
    connections: Arc<dyn Connections>,
    master: Arc<dyn MasterKey>,
    random: Arc<dyn Random>,
    seals_max: u64,
    keys: Mutex<HashMap<TenantId, Keys>>,
}

/// A tenant's opened data keys.
#[derive(Default)]
struct Keys {
    opened: BTreeMap<u64, Arc<LessSafeKey>>,
    /// The key that seals, and how often this process has used it.
    active: Option<(u64, u64)>,
}

impl Vault {
    /// Makes a vault over the store of the wrapped keys.
    ///
    /// `random` must be fit for keys and nonces ([`crate::random::SystemRandom`]).
    #[must_use]
    pub fn new(connections: Arc<dyn Connections>, master: Arc<dyn MasterKey>, random: Arc<dyn Random>) -> Self {
        Self { connections, master, random, seals_max: SEALS_MAX, keys: Mutex::default() }
    }

    /// Seals a secret for its place.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] from the master key; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn seal(&self, place: Place<'_>, secret: &[u8]) -> Result<Vec<u8>> {
        let (id, key) = self.sealing_key(place.tenant).await?;
        let mut blob = Vec::with_capacity(BLOB_HEAD + NONCE_LEN + secret.len() + AES_256_GCM.tag_len());
        blob.push(VERSION);
        blob.extend(id.to_be_bytes());
        seal_onto(&mut blob, &key, self.random.as_ref(), &secret_aad(place, id), secret)?;
        Ok(blob)
    }

    /// Opens what was sealed for a place.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when it is not a blob of this place, unchanged; [`ErrorKind::Config`] from the master
    /// key; [`ErrorKind::Store`].
    pub async fn open(&self, place: Place<'_>, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let closed = || Error::new(ErrorKind::Decode, "the sealed secret does not open: its row was changed or moved");
        let (head, sealed) = blob.split_at_checked(BLOB_HEAD).ok_or_else(closed)?;
        let id = match head.split_first() {
            Some((&VERSION, id)) => u64::from_be_bytes(id.try_into().map_err(|_| closed())?),
            Some(_) | None => return Err(closed()),
        };
        let key = self.opening_key(place.tenant, id).await?.ok_or_else(closed)?;
        open_sealed(&key, &secret_aad(place, id), sealed).ok_or_else(closed)
    }

    async fn sealing_key(&self, tenant: &TenantId) -> Result<(u64, Arc<LessSafeKey>)> {
        if let Some(key) = self.use_active(tenant) {
            return Ok(key);
        }
        // The newest, unless it is the one this process has used up.
        let used_up = self.lock().get(tenant).and_then(|keys| keys.active).map(|(id, _)| id);
        let newest = self.connections.data_keys(tenant.clone()).await?.into_iter().next();
        let chosen = match newest {
            Some(newest) if Some(newest.id) != used_up => newest,
            newest => self.make_key(tenant, newest.map_or(1, |newest| newest.id.saturating_add(1))).await?,
        };
        let id = chosen.id;
        let key = self.opened(tenant, chosen).await?;
        self.keep(tenant, |keys| {
            // Another task may have been here first; its count goes on.
            if keys.active.is_none_or(|(active, _)| active != id) {
                keys.active = Some((id, 0));
            }
        });
        Ok(self.use_active(tenant).unwrap_or((id, key)))
    }

    /// Takes one seal of the active key, if there is one with seals left.
    fn use_active(&self, tenant: &TenantId) -> Option<(u64, Arc<LessSafeKey>)> {
        let mut keys = self.lock();
        let Keys { opened, active } = keys.get_mut(tenant)?;
        let (id, seals) = active.as_mut().filter(|(_, seals)| *seals < self.seals_max)?;
        *seals += 1;
        Some((*id, opened.get(id)?.clone()))
    }

    async fn make_key(&self, tenant: &TenantId, id: u64) -> Result<WrappedKey> {
        let mut key = PlainKey::default();
        self.random.fill(key.as_mut_slice());
        let master = self.master.id();
        let wrapped = self.master.wrap(&key, &data_key_aad(tenant, id, &master)).await?;
        self.connections.add_data_key(tenant.clone(), WrappedKey { id, master, wrapped }).await
    }

    async fn opening_key(&self, tenant: &TenantId, id: u64) -> Result<Option<Arc<LessSafeKey>>> {
        if let Some(key) = self.lock().get(tenant).and_then(|keys| keys.opened.get(&id)).cloned() {
            return Ok(Some(key));
        }
        let stored = self.connections.data_keys(tenant.clone()).await?.into_iter().find(|key| key.id == id);
        match stored {
            Some(stored) => self.opened(tenant, stored).await.map(Some),
            None => Ok(None),
        }
    }

    async fn opened(&self, tenant: &TenantId, stored: WrappedKey) -> Result<Arc<LessSafeKey>> {
        let aad = data_key_aad(tenant, stored.id, &stored.master);
        let plain = self.master.unwrap(&stored.master, &stored.wrapped, &aad).await?;
        let key = Arc::new(aead(&plain)?);
        self.keep(tenant, |keys| {
            keys.opened.insert(stored.id, key.clone());
        });
        Ok(key)
    }

    fn keep(&self, tenant: &TenantId, change: impl FnOnce(&mut Keys)) {
        let mut keys = self.lock();
        if !keys.contains_key(tenant) && keys.len() >= TENANTS_KEPT_MAX {
            // Any tenant may go: its keys are opened again when they are needed.
            let gone = keys.keys().next().cloned();
            gone.map(|gone| keys.remove(&gone));
        }
        change(keys.entry(tenant.clone()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Keys>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("master", &self.master).finish_non_exhaustive()
    }
}

fn aead(key: &PlainKey) -> Result<LessSafeKey> {
    let unbound = UnboundKey::new(&AES_256_GCM, key.as_slice());
    unbound.map(LessSafeKey::new).map_err(|_| Error::new(ErrorKind::Config, "the key cannot be used"))
}

/// Appends nonce, ciphertext and tag.
fn seal_onto(out: &mut Vec<u8>, key: &LessSafeKey, random: &dyn Random, aad: &[u8], plain: &[u8]) -> Result<()> {
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce);
    let mut sealed = plain.to_vec();
    let done = key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut sealed);
    if done.is_err() {
        sealed.zeroize();
        return Err(Error::new(ErrorKind::Config, "the secret is too long to be sealed"));
    }
    out.extend(nonce);
    out.append(&mut sealed);
    Ok(())
}

/// Opens nonce, ciphertext and tag.
fn open_sealed(key: &LessSafeKey, aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let length = key.open_in_place(nonce, Aad::from(aad), buffer.as_mut_slice()).ok()?.len();
    buffer.truncate(length);
    Some(buffer)
}

fn secret_aad(place: Place<'_>, data_key: u64) -> Vec<u8> {
    let Place { tenant, connection, field, generation } = place;
    let (generation, data_key) = (generation.to_be_bytes(), data_key.to_be_bytes());
    list(&[
        SECRET_DOMAIN,
        tenant.as_str().as_bytes(),
        connection.as_str().as_bytes(),
        field.as_bytes(),
        &generation,
        &data_key,
    ])
}

fn data_key_aad(tenant: &TenantId, id: u64, master: &str) -> Vec<u8> {
    list(&[DATA_KEY_DOMAIN, tenant.as_str().as_bytes(), &id.to_be_bytes(), master.as_bytes()])
}

/// Writes items so that no two lists give the same bytes.
fn list(items: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        bytes.extend(u32::try_from(item.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(*item);
    }
    bytes
}

/// Gives connections' credentials out of the vault, for keys that do not expire by themselves.
pub struct VaultCredentials {
    vault: Arc<Vault>,
    opened: Mutex<HashMap<ConnectionId, Opened>>,
}

struct Opened {
    credential: Credential,
    until: Instant,
}

impl VaultCredentials {
    /// Reads and writes through a vault.
    #[must_use]
    pub fn new(vault: Arc<Vault>) -> Self {
        Self { vault, opened: Mutex::default() }
    }

    /// Seals a connection's credential and stores it in the place of the one that is there. The connection's state
    /// is the caller's business.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such connection; [`ErrorKind::Conflict`] when another writer was
    /// faster; [`ErrorKind::Config`] when the secret cannot stand in a header, or from the master key;
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn store_credential(&self, connection: &ConnectionId, scheme: &Scheme) -> Result<u64> {
        let store = &self.vault.connections;
        let Some(row) = store.connection(connection.clone()).await? else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no connection {connection}")));
        };
        let expected = store.credential(connection.clone()).await?.map_or(0, |stored| stored.generation);
        let generation = expected.saturating_add(1);
        // What could not be sent is refused before it is kept.
        Credential::new(scheme, generation, None)?;
        let place = Place { tenant: &row.tenant, connection, field: CREDENTIAL_FIELD, generation };
        let blob = self.vault.seal(place, &scheme.to_plaintext()).await?;
        let sealed = SealedCredential { generation, blob };
        if !store.put_credential(connection.clone(), expected, sealed).await? {
            return Err(Error::new(ErrorKind::Conflict, "the credential was replaced by somebody else meanwhile"));
        }
        self.forget(connection);
        Ok(generation)
    }

    /// As [`VaultCredentials::store_credential`], unless the very same credential is stored already. Returns whether
    /// it was written. A stored one that does not open any more is replaced.
    ///
    /// # Errors
    /// As [`VaultCredentials::store_credential`]; [`ErrorKind::Config`] when the stored one is sealed under another
    /// master key.
    pub async fn store_if_changed(&self, connection: &ConnectionId, scheme: &Scheme) -> Result<bool> {
        if self.holds(connection, scheme).await? {
            return Ok(false);
        }
        match self.store_credential(connection, scheme).await {
            // Processes that start together on one database store the very same credential: the first one did it.
            Err(error) if error.kind() == ErrorKind::Conflict && self.holds(connection, scheme).await? => Ok(false),
            stored => stored.map(|_| true),
        }
    }

    /// Tells whether this very credential is stored and opens.
    async fn holds(&self, connection: &ConnectionId, scheme: &Scheme) -> Result<bool> {
        let store = &self.vault.connections;
        let row = store.connection(connection.clone()).await?;
        let (Some(row), Some(sealed)) = (row, store.credential(connection.clone()).await?) else { return Ok(false) };
        let generation = sealed.generation;
        let place = Place { tenant: &row.tenant, connection, field: CREDENTIAL_FIELD, generation };
        match self.vault.open(place, &sealed.blob).await {
            Ok(plain) => Ok(*plain == *scheme.to_plaintext()),
            Err(error) if error.kind() == ErrorKind::Decode => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets an opened credential, so that its row is read again.
    pub fn forget(&self, connection: &ConnectionId) {
        self.lock().remove(connection);
    }

    /// Reads and opens the row, whatever is kept in memory.
    async fn read(&self, connection: &ConnectionId) -> Result<Credential> {
        let store = &self.vault.connections;
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
        let Some(sealed) = store.credential(connection.clone()).await? else {
            return refused("the connection has no credential: connect it".to_owned());
        };
        let generation = sealed.generation;
        let place = Place { tenant: &row.tenant, connection, field: CREDENTIAL_FIELD, generation };
        let plain = self.vault.open(place, &sealed.blob).await?;
        Credential::new(&Scheme::from_plaintext(&plain)?, generation, None)
    }

    fn keep(&self, connection: &ConnectionId, credential: &Credential) {
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

    fn lock(&self) -> MutexGuard<'_, HashMap<ConnectionId, Opened>> {
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
            mark_needs_reconnect(self.vault.connections.as_ref(), &connection, why).await?;
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

#[cfg(test)]
mod tests;

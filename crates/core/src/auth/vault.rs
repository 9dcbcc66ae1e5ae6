//! Seals secrets with AES-256-GCM under a per-tenant data key that a master key wraps.
//!
//! Format of a sealed blob, version 1: `0x01 | data key id (u64, big endian) | nonce (12) | ciphertext and tag`.
//! Format of a wrapped data key, version 1: `0x01 | nonce (12) | ciphertext and tag`, kept beside the name of the master
//! key that wraps it.
//!
//! Associated data is the length-prefixed list of what the blob belongs to, so a row cannot be moved or swapped: each
//! item stands behind its length (u32, big endian), numbers as 8 bytes, big endian.
//! - of a blob: `palisade.secret.v1`, tenant, connection, field, generation, data key id;
//! - of a data key: `palisade.data-key.v1`, tenant, data key id, master key id.
//!
//! # No nonce twice
//! The nonce of a blob is the number of the seal under its data key (u32, big endian) and 8 random bytes. Numbers are
//! set aside in the store, durably and in blocks, before one is used: of all processes on a store, no two are ever
//! given the same, and a number that was set aside and not used is lost. The random half is for the one case in which
//! numbers come again: a store that was put back to an older backup. A data key seals at most [`SEALS_MAX`] times,
//! counted over all processes; then a new one is made.
//!
//! The nonce of a wrapping is random: a master key wraps one data key of a tenant in [`SEALS_MAX`] seals, and 2³² random
//! nonces are safe (NIST SP 800-38D, 8.3).
//!
//! What this cannot see: a whole old row put back together with its generation. What it never does: print a key.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroize;

use super::hasher::QuickHash;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, TenantId};
use crate::random::Random;
use crate::store::{Keys, WrappedKey};

mod credentials;
mod grants;
mod master;
mod rotation;

pub use credentials::VaultCredentials;
pub(super) use grants::Issued;
pub use master::{KEY_BYTES, LocalMasterKey, MasterKey, MasterKeyFile, MasterKeyRing, PlainKey};
pub use rotation::{Progress, Rotation, Stuck};

#[cfg(feature = "mock")]
pub use master::MockMasterKey;

/// The first byte of blobs and wrapped keys.
const VERSION: u8 = 1;
/// Where a blob's nonce begins: after the version and the data key's id.
const BLOB_HEAD: usize = 1 + 8;
const SECRET_DOMAIN: &[u8] = b"palisade.secret.v1";
const DATA_KEY_DOMAIN: &[u8] = b"palisade.data-key.v1";

/// Seals made under one data key, by all processes together, before there is a new one.
pub const SEALS_MAX: u32 = 1 << 24;
/// Seals a process sets aside at once: what it costs a data key when a process ends, against a commit of the store for
/// every so many seals.
const SEALS_BLOCK: u32 = 64;
/// Tenants whose data keys are kept opened.
const TENANTS_KEPT_MAX: usize = 10_000;
/// How often a new data key is wrapped again because the active master key changed meanwhile.
const WRAPS_MAX: usize = 3;

/// An opened secret, wiped when dropped. It never grows, so that no copy of it is left behind.
///
/// Not a [`zeroize::Zeroizing`], which wipes byte by byte: a good part of what opening costs.
pub struct Opened(Vec<u8>);

impl Opened {
    /// Returns the secret.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl std::ops::Deref for Opened {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.fill(0);
        // What is never read again would not be written either.
        zeroize::optimization_barrier(self.0.as_slice());
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened({} bytes)", self.0.len())
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
    store: Arc<dyn Keys>,
    master: Arc<dyn MasterKey>,
    random: Arc<dyn Random>,
    seals_max: u32,
    seals_block: u32,
    tenants: Mutex<HashMap<TenantId, Tenant, QuickHash>>,
}

/// A tenant's opened data keys.
#[derive(Default)]
struct Tenant {
    opened: BTreeMap<u64, Arc<LessSafeKey>>,
    sealing: Option<Sealing>,
}

/// Seals of one data key that are set aside for this process: `next` to `end`.
struct Sealing {
    id: u64,
    key: Arc<LessSafeKey>,
    next: u32,
    end: u32,
}

/// One seal to make.
pub(super) struct Turn {
    id: u64,
    key: Arc<LessSafeKey>,
    number: u32,
}

impl Vault {
    /// Makes a vault over the store of the wrapped keys.
    ///
    /// `random` must be fit for keys and nonces ([`crate::random::SystemRandom`]).
    #[must_use]
    pub fn new(store: Arc<dyn Keys>, master: Arc<dyn MasterKey>, random: Arc<dyn Random>) -> Self {
        Self { store, master, random, seals_max: SEALS_MAX, seals_block: SEALS_BLOCK, tenants: Mutex::default() }
    }

    /// Seals a secret for its place.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] from the master key; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn seal(&self, place: Place<'_>, secret: &[u8]) -> Result<Vec<u8>> {
        let turn = self.take_turn(place.tenant).await?;
        self.seal_at(&turn, place, secret)
    }

    /// Sets one seal aside: what can fail of sealing is done by it.
    pub(super) async fn take_turn(&self, tenant: &TenantId) -> Result<Turn> {
        match self.turn(tenant) {
            Some(turn) => Ok(turn),
            // Boxed, so that the usual way carries none of its size.
            None => Box::pin(self.next_turn(tenant)).await,
        }
    }

    /// Seals with a turn of the place's tenant. A turn seals once.
    fn seal_at(&self, turn: &Turn, place: Place<'_>, secret: &[u8]) -> Result<Vec<u8>> {
        let mut blob = Vec::with_capacity(BLOB_HEAD + NONCE_LEN + secret.len() + AES_256_GCM.tag_len());
        blob.push(VERSION);
        blob.extend_from_slice(&turn.id.to_be_bytes());
        let mut nonce = [0; NONCE_LEN];
        let (number, random) = nonce.split_at_mut(4);
        number.copy_from_slice(&turn.number.to_be_bytes());
        self.random.fill(random);
        seal_onto(&mut blob, &turn.key, nonce, secret_aad(place, turn.id).as_ref(), secret)?;
        Ok(blob)
    }

    /// Opens what was sealed for a place.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when it is not a blob of this place, unchanged; [`ErrorKind::Config`] from the master
    /// key; [`ErrorKind::Store`].
    pub async fn open(&self, place: Place<'_>, blob: &[u8]) -> Result<Opened> {
        let closed = || Error::new(ErrorKind::Decode, "the sealed secret does not open: its row was changed or moved");
        let (head, sealed) = blob.split_at_checked(BLOB_HEAD).ok_or_else(closed)?;
        let id = match head.split_first() {
            Some((&VERSION, id)) => u64::from_be_bytes(id.try_into().map_err(|_| closed())?),
            Some(_) | None => return Err(closed()),
        };
        let kept = self.lock().get(place.tenant).and_then(|tenant| tenant.opened.get(&id)).cloned();
        let key = match kept {
            Some(key) => key,
            None => Box::pin(self.stored_key(place.tenant, id)).await?.ok_or_else(closed)?,
        };
        open_sealed(&key, secret_aad(place, id).as_ref(), sealed).ok_or_else(closed)
    }

    /// Takes one seal of those set aside, if there is one left.
    fn turn(&self, tenant: &TenantId) -> Option<Turn> {
        let mut tenants = self.lock();
        let sealing = tenants.get_mut(tenant)?.sealing.as_mut().filter(|sealing| sealing.next < sealing.end)?;
        let number = sealing.next;
        sealing.next += 1;
        Some(Turn { id: sealing.id, key: Arc::clone(&sealing.key), number })
    }

    /// Sets seals aside, under a new data key where the newest is used up, and takes the first of them.
    async fn next_turn(&self, tenant: &TenantId) -> Result<Turn> {
        let newest = self.store.data_keys(tenant.clone()).await?.into_iter().next();
        let mut chosen = match newest {
            Some(newest) => newest,
            None => self.make_key(tenant, 1).await?,
        };
        let block = self.seals_block.clamp(1, self.seals_max.max(1));
        let reserve = |id| self.store.reserve_seals(tenant.clone(), id, block, self.seals_max);
        let first = match reserve(chosen.id).await? {
            Some(first) => first,
            None => {
                chosen = self.make_key(tenant, chosen.id.saturating_add(1)).await?;
                let none = || Error::new(ErrorKind::Store, "a new data key has no seals left").with_retryable(true);
                reserve(chosen.id).await?.ok_or_else(none)?
            }
        };
        let id = chosen.id;
        let key = self.opened(tenant, chosen).await?;
        let end = first.saturating_add(block);
        self.keep(tenant, |kept| {
            // Numbers another task has set aside meanwhile are given up: there are many.
            kept.sealing = Some(Sealing { id, key: Arc::clone(&key), next: first.saturating_add(1), end });
        });
        Ok(Turn { id, key, number: first })
    }

    async fn make_key(&self, tenant: &TenantId, id: u64) -> Result<WrappedKey> {
        let mut key = PlainKey::default();
        self.random.fill(key.as_mut_slice());
        let mut tries = 0;
        loop {
            let master = self.store.active_master(self.master.id()).await?;
            let wrapped = self.master.wrap(&master, &key, data_key_aad(tenant, id, &master).as_ref()).await?;
            tries += 1;
            match self.store.add_data_key(tenant.clone(), WrappedKey { id, master, wrapped }).await {
                Err(error) if error.kind() == ErrorKind::Conflict && tries < WRAPS_MAX => {}
                added => return added,
            }
        }
    }

    async fn stored_key(&self, tenant: &TenantId, id: u64) -> Result<Option<Arc<LessSafeKey>>> {
        let stored = self.store.data_keys(tenant.clone()).await?.into_iter().find(|key| key.id == id);
        match stored {
            Some(stored) => self.opened(tenant, stored).await.map(Some),
            None => Ok(None),
        }
    }

    async fn opened(&self, tenant: &TenantId, stored: WrappedKey) -> Result<Arc<LessSafeKey>> {
        let aad = data_key_aad(tenant, stored.id, &stored.master);
        let plain = self.master.unwrap(&stored.master, &stored.wrapped, aad.as_ref()).await?;
        let key = Arc::new(aead(&plain)?);
        self.keep(tenant, |kept| {
            kept.opened.insert(stored.id, Arc::clone(&key));
        });
        Ok(key)
    }

    fn keep(&self, tenant: &TenantId, change: impl FnOnce(&mut Tenant)) {
        let mut tenants = self.lock();
        if !tenants.contains_key(tenant) && tenants.len() >= TENANTS_KEPT_MAX {
            // Any tenant may go: its keys are opened again when they are needed.
            let gone = tenants.keys().next().cloned();
            gone.map(|gone| tenants.remove(&gone));
        }
        change(tenants.entry(tenant.clone()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Tenant, QuickHash>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Appends nonce, ciphertext and tag. The plaintext is encrypted where it will stay: no copy of it is left.
fn seal_onto(out: &mut Vec<u8>, key: &LessSafeKey, nonce: [u8; NONCE_LEN], aad: &[u8], plain: &[u8]) -> Result<()> {
    out.reserve_exact(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(plain);
    let body = out.get_mut(start..).unwrap_or_default();
    match key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), body) {
        Ok(tag) => {
            out.extend_from_slice(tag.as_ref());
            Ok(())
        }
        Err(_) => {
            body.zeroize();
            Err(Error::new(ErrorKind::Config, "the secret is too long to be sealed"))
        }
    }
}

/// Opens nonce, ciphertext and tag. The secret is decrypted in the buffer that is given out, and never elsewhere.
fn open_sealed(key: &LessSafeKey, aad: &[u8], sealed: &[u8]) -> Option<Opened> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let (secret, tag) = sealed.split_at_checked(sealed.len().checked_sub(AES_256_GCM.tag_len())?)?;
    // A copy of the ciphertext, and no zeros under it: fresh zeroed memory costs more than the copy.
    let mut opened = Opened(secret.to_vec());
    key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, &mut opened.0).ok()?;
    Some(opened)
}

fn secret_aad(place: Place<'_>, data_key: u64) -> List {
    let Place { tenant, connection, field, generation } = place;
    let mut list = List::default();
    list.item(SECRET_DOMAIN);
    list.item(tenant.as_str().as_bytes());
    list.item(connection.as_str().as_bytes());
    list.item(field.as_bytes());
    list.number(generation);
    list.number(data_key);
    list
}

fn data_key_aad(tenant: &TenantId, id: u64, master: &str) -> List {
    let mut list = List::default();
    list.item(DATA_KEY_DOMAIN);
    list.item(tenant.as_str().as_bytes());
    list.number(id);
    list.item(master.as_bytes());
    list
}

/// The longest associated data kept on the stack: names of the usual length.
const LIST_BYTES: usize = 192;

/// Items, each behind its length, so that no two lists give the same bytes.
struct List {
    short: [u8; LIST_BYTES],
    length: usize,
    /// The whole, where it is longer.
    long: Vec<u8>,
}

impl Default for List {
    fn default() -> Self {
        Self { short: [0; LIST_BYTES], length: 0, long: Vec::new() }
    }
}

impl List {
    /// Adds an item.
    #[inline]
    fn item(&mut self, item: &[u8]) {
        let length = u32::try_from(item.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.part(&length);
        self.part(item);
    }

    /// Adds a number as an item of eight bytes.
    #[inline]
    fn number(&mut self, number: u64) {
        // Both in one: what is of a fixed length is written without a call.
        self.part(&((8_u128 << 64) | u128::from(number)).to_be_bytes()[4..]);
    }

    #[inline]
    fn part(&mut self, part: &[u8]) {
        let place = self.short.get_mut(self.length..).and_then(|rest| rest.get_mut(..part.len()));
        match place {
            Some(place) if self.long.is_empty() => {
                place.copy_from_slice(part);
                self.length += part.len();
            }
            Some(_) | None => self.spill(part),
        }
    }

    #[cold]
    fn spill(&mut self, part: &[u8]) {
        if self.long.is_empty() {
            self.long.extend_from_slice(self.short.get(..self.length).unwrap_or_default());
        }
        self.long.extend_from_slice(part);
    }
}

impl AsRef<[u8]> for List {
    fn as_ref(&self) -> &[u8] {
        if self.long.is_empty() { self.short.get(..self.length).unwrap_or_default() } else { &self.long }
    }
}

#[cfg(test)]
mod tests;

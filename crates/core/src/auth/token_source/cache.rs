//! Tokens in memory, found without a lock, and the renewals under way.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use crate::auth::Credential;
use crate::auth::hasher::QuickHash;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::ConnectionId;

/// Maps that are replaced whole when a connection comes new: small ones, so that this costs little.
const SHARDS: usize = 64;
/// Connections kept in one of them. Beyond it any other goes: its row is read again when it is needed.
const SHARD_MAX: usize = 256;

/// A renewal under way, for any number of waiters. The work itself is on a task of its own.
pub(super) type Flight = Shared<BoxFuture<'static, Result<Credential, Arc<Error>>>>;

/// A token in memory.
#[derive(Clone)]
pub(super) struct Kept {
    pub(super) credential: Credential,
    /// Served without a look until then.
    look_at: Timestamp,
    /// Not sent from then on.
    unusable_at: Option<Timestamp>,
    /// Renewed from then on.
    pub(super) renew_at: Option<Timestamp>,
}

impl Kept {
    /// A key that does not expire.
    pub(super) fn plain(credential: Credential, look_at: Timestamp) -> Self {
        Self { credential, look_at, unusable_at: None, renew_at: None }
    }

    /// A token, not served before it was looked at ([`Kept::until`]).
    pub(super) fn token(credential: Credential, unusable_at: Option<Timestamp>, renew_at: Option<Timestamp>) -> Self {
        Self { credential, look_at: Timestamp(i64::MIN), unusable_at, renew_at }
    }

    pub(super) fn until(&self, look_at: Timestamp) -> Self {
        let look_at = self.unusable_at.map_or(look_at, |end| end.min(look_at));
        Self { look_at, ..self.clone() }
    }

    pub(super) fn is_valid(&self, now: Timestamp) -> bool {
        self.unusable_at.is_none_or(|end| now < end)
    }
}

/// What is known of one connection.
#[derive(Default)]
pub(super) struct Entry {
    kept: ArcSwapOption<Kept>,
    state: Mutex<State>,
    pub(super) looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Grows when what is in memory is forgotten: what was read before is not kept afterwards.
    epoch: u64,
    flight: Option<(u64, Flight)>,
}

impl Entry {
    /// Returns the token if it may be served without a look.
    pub(super) fn hit(&self, now: Timestamp) -> Option<Credential> {
        let kept = self.kept.load();
        kept.as_ref().filter(|kept| now < kept.look_at).map(|kept| kept.credential.clone())
    }

    pub(super) fn valid(&self, now: Timestamp) -> Option<Arc<Kept>> {
        self.kept.load_full().filter(|kept| kept.is_valid(now))
    }

    pub(super) fn of_generation(&self, generation: u64) -> Option<Arc<Kept>> {
        self.kept.load_full().filter(|kept| kept.credential.version() == generation)
    }

    /// Returns the token if it has not expired, and serves it without a look until `look_at`.
    pub(super) fn still_valid(&self, now: Timestamp, look_at: Timestamp) -> Option<Credential> {
        let state = self.lock();
        let kept = self.valid(now)?;
        self.kept.store(Some(Arc::new(kept.until(look_at))));
        drop(state);
        Some(kept.credential.clone())
    }

    pub(super) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Keeps a token, unless what is in memory was forgotten since `epoch` or is newer.
    pub(super) fn keep(&self, epoch: u64, kept: Kept) {
        let state = self.lock();
        let newer =
            self.kept.load().as_ref().is_some_and(|known| known.credential.version() > kept.credential.version());
        if state.epoch == epoch && !newer {
            self.kept.store(Some(Arc::new(kept)));
        }
    }

    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.epoch += 1;
        self.kept.store(None);
    }

    /// Returns the flight that renews generation `seen`, or makes it.
    pub(super) fn join(&self, seen: u64, launch: impl FnOnce() -> Result<Flight>) -> Result<Flight> {
        let mut state = self.lock();
        if let Some((of, flight)) = &state.flight
            && *of == seen
            && flight.peek().is_none()
        {
            return Ok(flight.clone());
        }
        let flight = launch()?;
        state.flight = Some((seen, flight.clone()));
        Ok(flight)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Shard = HashMap<ConnectionId, Arc<Entry>, QuickHash>;

/// Tokens of one grant name, by connection.
pub(super) struct Cache {
    shards: Vec<(ArcSwap<Shard>, Mutex<()>)>,
}

impl Default for Cache {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Default::default()).collect() }
    }
}

impl Cache {
    /// Returns a connection's token if it may be served without a look.
    pub(super) fn hit(&self, connection: &ConnectionId, now: Timestamp) -> Option<Credential> {
        let (shard, _) = self.shard(connection)?;
        shard.load().get(connection)?.hit(now)
    }

    /// Returns what is known of a connection; something empty if nothing is.
    pub(super) fn entry(&self, connection: &ConnectionId) -> Arc<Entry> {
        let Some((shard, writing)) = self.shard(connection) else { return Arc::default() };
        if let Some(entry) = shard.load().get(connection) {
            return Arc::clone(entry);
        }
        let _turn = writing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = shard.load_full();
        if let Some(entry) = known.get(connection) {
            return Arc::clone(entry);
        }
        let mut grown = Shard::clone(&known);
        if grown.len() >= SHARD_MAX {
            let gone = grown.keys().next().cloned();
            gone.map(|gone| grown.remove(&gone));
        }
        let entry = Arc::<Entry>::default();
        grown.insert(connection.clone(), Arc::clone(&entry));
        shard.store(Arc::new(grown));
        entry
    }

    #[cfg(test)]
    pub(super) fn has(&self, connection: &ConnectionId) -> bool {
        self.shard(connection).is_some_and(|(shard, _)| shard.load().contains_key(connection))
    }

    pub(super) fn forget(&self, connection: &ConnectionId) {
        let Some((shard, _)) = self.shard(connection) else { return };
        if let Some(entry) = shard.load().get(connection) {
            entry.clear();
        }
    }

    fn shard(&self, connection: &ConnectionId) -> Option<&(ArcSwap<Shard>, Mutex<()>)> {
        let hash = QuickHash::default().hash_one(connection);
        self.shards.get((hash >> 32) as usize % SHARDS)
    }
}

/// Makes a flight of a result that comes from elsewhere.
pub(super) fn flight(result: impl Future<Output = Result<Credential, Arc<Error>>> + Send + 'static) -> Flight {
    result.boxed().shared()
}

/// The error of a flight, as one of those who shared it gets it.
pub(super) fn own(error: &Arc<Error>) -> Error {
    let mut own = Error::new(error.kind(), error.message().to_owned())
        .with_outcome(error.outcome())
        .with_retry_after(error.retry_after())
        .with_retryable(error.is_retryable());
    if let Some(code) = error.code() {
        own = own.with_code(code);
    }
    if let Some(status) = error.status() {
        own = own.with_status(status);
    }
    own.with_source(SharedError(Arc::clone(error)))
}

struct SharedError(Arc<Error>);

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

//! Tokens in memory, found without a lock, and the renewals under way.
//!
//! What is served without a look stands by itself: a hit is one hash, one load and one comparison of names. Each change
//! replaces the list it stands in, so lists are short and changes seldom (once a minute for a connection in use).

use std::collections::VecDeque;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use crate::auth::Credential;
use crate::auth::hasher::QuickHash;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::ConnectionId;

/// Lists that are replaced whole by every change in them.
const SHARDS: usize = 256;
/// Connections in one of them. Beyond it the one known longest goes: its row is read again when it is needed.
const SHARD_MAX: usize = 64;

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

/// A connection's name with its hash, which is made once.
#[derive(Clone)]
struct Name {
    hash: u64,
    connection: ConnectionId,
}

impl Name {
    fn is(&self, hash: u64, connection: &ConnectionId) -> bool {
        self.hash == hash && self.connection == *connection
    }
}

/// What is served without a look, of the connections of one shard.
type Served = ArcSwap<Vec<(Name, Arc<Kept>)>>;

/// What is known of one connection.
pub(super) struct Entry {
    name: Name,
    served: Arc<Served>,
    state: Mutex<State>,
    pub(super) looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    kept: Option<Arc<Kept>>,
    /// Grows when what is in memory is forgotten: what was read before is not kept afterwards.
    epoch: u64,
    flight: Option<(u64, Flight)>,
    /// Whether another entry may stand for the connection by now: then nothing is kept here any more, for nobody would
    /// forget it.
    gone: bool,
}

impl Entry {
    fn new(name: Name, served: Arc<Served>) -> Self {
        Self { name, served, state: Mutex::default(), looking: tokio::sync::Mutex::default() }
    }

    /// Returns the token if it may be served without a look.
    pub(super) fn hit(&self, now: Timestamp) -> Option<Credential> {
        self.lock().kept.as_ref().filter(|kept| now < kept.look_at).map(|kept| kept.credential.clone())
    }

    pub(super) fn valid(&self, now: Timestamp) -> Option<Arc<Kept>> {
        self.lock().kept.clone().filter(|kept| kept.is_valid(now))
    }

    pub(super) fn of_generation(&self, generation: u64) -> Option<Arc<Kept>> {
        self.lock().kept.clone().filter(|kept| kept.credential.version() == generation)
    }

    /// Returns the token if it has not expired, and serves it without a look until `look_at`.
    pub(super) fn still_valid(&self, now: Timestamp, look_at: Timestamp) -> Option<Credential> {
        let mut state = self.lock();
        let kept = state.kept.clone().filter(|kept| kept.is_valid(now))?;
        self.take(&mut state, Some(Arc::new(kept.until(look_at))));
        Some(kept.credential.clone())
    }

    pub(super) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Keeps a token, unless what is in memory was forgotten since `epoch` or is newer.
    pub(super) fn keep(&self, epoch: u64, kept: Kept) {
        let mut state = self.lock();
        let newer = state.kept.as_ref().is_some_and(|known| known.credential.version() > kept.credential.version());
        if state.epoch == epoch && !newer && !state.gone {
            self.take(&mut state, Some(Arc::new(kept)));
        }
    }

    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.epoch += 1;
        self.take(&mut state, None);
    }

    /// Leaves the memory for good.
    fn leave(&self) {
        let mut state = self.lock();
        state.gone = true;
        self.take(&mut state, None);
    }

    /// Sets what is kept and what is served.
    fn take(&self, state: &mut State, kept: Option<Arc<Kept>>) {
        state.kept.clone_from(&kept);
        self.served.rcu(|served| {
            let others = served.iter().filter(|(name, _)| !name.is(self.name.hash, &self.name.connection));
            let mut served: Vec<_> = others.cloned().collect();
            served.extend(kept.clone().map(|kept| (self.name.clone(), kept)));
            served
        });
    }

    /// Returns the flight that renews generation `seen`, or makes it.
    pub(super) fn join(&self, seen: u64, launch: impl FnOnce() -> Result<Flight>) -> Result<Flight> {
        let mut state = self.lock();
        if let Some((of, flight)) = &state.flight
            && *of == seen
            // Asked, not peeked at: one that nobody waits for does not know by itself that it is over.
            && flight.clone().now_or_never().is_none()
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

#[derive(Default)]
struct Shard {
    served: Arc<Served>,
    /// Those known longest first.
    known: Mutex<VecDeque<Arc<Entry>>>,
}

impl Shard {
    fn known(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens of one grant name, by connection.
pub(super) struct Cache {
    shards: Vec<Shard>,
}

impl Default for Cache {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

impl Cache {
    /// Returns a connection's token if it may be served without a look.
    pub(super) fn hit(&self, connection: &ConnectionId, now: Timestamp) -> Option<Credential> {
        let (hash, shard) = self.shard(connection)?;
        let served = shard.served.load();
        let (_, kept) = served.iter().find(|(name, _)| name.is(hash, connection))?;
        (now < kept.look_at).then(|| kept.credential.clone())
    }

    /// Returns what is known of a connection; something empty if nothing is.
    pub(super) fn entry(&self, connection: &ConnectionId) -> Arc<Entry> {
        let Some((hash, shard)) = self.shard(connection) else {
            return Arc::new(Entry::new(Name { hash: 0, connection: connection.clone() }, Arc::default()));
        };
        let mut known = shard.known();
        if let Some(entry) = known.iter().find(|entry| entry.name.is(hash, connection)) {
            return Arc::clone(entry);
        }
        if known.len() >= SHARD_MAX
            && let Some(gone) = known.pop_front()
        {
            gone.leave();
        }
        let entry = Arc::new(Entry::new(Name { hash, connection: connection.clone() }, Arc::clone(&shard.served)));
        known.push_back(Arc::clone(&entry));
        entry
    }

    #[cfg(test)]
    pub(super) fn has(&self, connection: &ConnectionId) -> bool {
        self.shard(connection)
            .is_some_and(|(hash, shard)| shard.known().iter().any(|entry| entry.name.is(hash, connection)))
    }

    pub(super) fn forget(&self, connection: &ConnectionId) {
        let Some((hash, shard)) = self.shard(connection) else { return };
        if let Some(entry) = shard.known().iter().find(|entry| entry.name.is(hash, connection)) {
            entry.clear();
        }
    }

    fn shard(&self, connection: &ConnectionId) -> Option<(u64, &Shard)> {
        let hash = QuickHash::default().hash_one(connection);
        Some((hash, self.shards.get((hash >> 32) as usize % SHARDS)?))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scheme;

    /// Fails when a hash is taken for a name: a connection would be given another's token.
    #[test]
    fn two_names_of_one_hash_are_two_connections() {
        let (one, other) = (ConnectionId::new("one"), ConnectionId::new("other"));
        let kept = |version| {
            let credential = Credential::new(&Scheme::Bearer("t".into()), version, None).unwrap();
            Kept::plain(credential, Timestamp(1))
        };
        let cache = Cache::default();
        let (hash, shard) = cache.shard(&one).unwrap();
        let of_other = Arc::new(Entry::new(Name { hash, connection: other }, Arc::clone(&shard.served)));
        shard.known().push_back(Arc::clone(&of_other));
        of_other.keep(0, kept(1));
        assert!(cache.hit(&one, Timestamp(0)).is_none());
        let of_one = cache.entry(&one);
        assert!(!Arc::ptr_eq(&of_one, &of_other));
        of_one.keep(0, kept(2));
        assert_eq!(cache.hit(&one, Timestamp(0)).unwrap().version(), 2);
        cache.forget(&one);
        assert!(of_other.hit(Timestamp(0)).is_some(), "forgotten with another's name");
        assert_eq!(shard.served.load().len(), 1);
    }
}

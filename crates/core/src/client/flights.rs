//! Refreshing a refused credential: one flight per grant of a connection, however many calls were refused at once.
//!
//! The flight is a shared future. A caller that goes away leaves it standing; the next one carries it on. A finished
//! flight is remembered for a moment, for those whose refusal arrives late.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use crate::auth::{Credential, CredentialSource};
use crate::error::{Error, Outcome, Result};
use crate::id::{ConnectionId, GrantName};

/// How long a finished flight answers refusals of the version it replaced: longer than an attempt usually takes.
const REMEMBERED: u64 = 30_000_000_000;
/// Beyond this many connections, finished and abandoned flights are forgotten.
const KEPT_MAX: usize = 1_024;

type Flight = Shared<BoxFuture<'static, Result<Credential, Arc<Error>>>>;

/// The refreshes under way. Times are nanoseconds on the engine's own monotonic scale.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Whose, Entry>>);

/// A connection, and which of its grants.
pub(super) type Whose = (ConnectionId, Option<GrantName>);

struct Entry {
    seen: u64,
    started_at: u64,
    flight: Flight,
}

/// The error of a flight, as one of those who shared it gets it.
struct SharedError(Arc<Error>);

impl Flights {
    /// Replaces the credential of which version `seen` was refused.
    ///
    /// # Errors
    /// As [`CredentialSource::refresh`].
    pub(super) async fn refresh(
        &self,
        source: &Arc<dyn CredentialSource>,
        whose: Whose,
        seen: u64,
        now: u64,
    ) -> Result<Credential> {
        let flight = self.join(source, whose, seen, now);
        flight.await.map_err(SharedError::into_error)
    }

    fn join(&self, source: &Arc<dyn CredentialSource>, whose: Whose, seen: u64, now: u64) -> Flight {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(&whose).filter(|entry| entry.serves(seen, now)) {
            return entry.flight.clone();
        }
        if entries.len() >= KEPT_MAX {
            entries.retain(|_, entry| entry.flight.strong_count().is_some_and(|holders| holders > 1));
        }
        let (source, owned) = (Arc::clone(source), whose.0.clone());
        let flight = async move { source.refresh(owned, seen).await.map_err(Arc::new) }.boxed().shared();
        entries.insert(whose, Entry { seen, started_at: now, flight: flight.clone() });
        flight
    }
}

impl Entry {
    /// A flight of the same version serves while it is under way, and for a moment after it succeeded.
    fn serves(&self, seen: u64, now: u64) -> bool {
        self.seen == seen
            && match self.flight.peek() {
                None => true,
                Some(Ok(fresh)) => fresh.version() != seen && now.saturating_sub(self.started_at) < REMEMBERED,
                Some(Err(_)) => false,
            }
    }
}

impl SharedError {
    fn into_error(error: Arc<Error>) -> Error {
        let mut own = Error::new(error.kind(), error.message().to_owned())
            .with_outcome(Outcome::Rejected)
            .with_retry_after(error.retry_after())
            .with_retryable(error.is_retryable());
        if let Some(code) = error.code() {
            own = own.with_code(code);
        }
        own.with_source(Self(error))
    }
}

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

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

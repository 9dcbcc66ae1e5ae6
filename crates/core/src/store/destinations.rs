//! Destinations: the URLs of a product that events are forwarded to, how each fares, and its sealed signing keys.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, TenantId};
use crate::net::Reach;
use crate::store::EventRow;

/// The most destinations of a hub: all of them are kept in memory.
pub const DESTINATIONS_MAX: u32 = 1_000;

/// Up to how many events are counted of a destination ([`ForwardCounts`]): a page costs the same however many wait.
pub const FORWARDS_COUNTED_MAX: u32 = 10_000;

/// Returns the unique key of the job that forwards an event to a destination. While that job is not finished the event
/// stays ([`Inbox::prune_events`](super::Inbox::prune_events)).
#[must_use]
pub fn forward_key(destination: &str, row: EventRow) -> String {
    format!("forward/{destination}/{}", row.0)
}

/// What is forwarded where, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked by the forwarder")]
pub struct DestinationSpec {
    /// Where it is posted to.
    pub url: String,
    /// What is forwarded.
    pub filter: Filter,
    /// Attempts under way at once.
    pub concurrency: u32,
    /// Time for one attempt, from its name's resolution to the answer's head, redirects included.
    pub timeout: Duration,
    /// More headers, none of them a secret.
    pub headers: Vec<(String, String)>,
    /// In which order events are sent.
    pub order: Order,
    /// Which addresses it may have beyond the public ones.
    pub reach: Reach,
}

/// Which events are forwarded: those that fit everything that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked by the forwarder")]
pub struct Filter {
    /// Of this provider.
    pub provider: Option<String>,
    /// Of this connection.
    pub connection: Option<ConnectionId>,
    /// Of this tenant.
    pub tenant: Option<TenantId>,
    /// Of one of these types: exact (`invoice.paid`), a prefix (`invoice.*`) or `*` for all.
    pub types: Vec<String>,
}

/// In which order events are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: jobs are made for each")]
pub enum Order {
    /// As they come; one that failed comes later than those after it.
    #[default]
    None,
    /// Events of one connection and ordering key one after another: while one of them fails, those after it wait.
    ByKey,
}

/// A sealed signing key.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct SealedKey {
    /// Its number at its destination: the newest is the highest. Part of what it is sealed for.
    pub version: u64,
    /// The sealed secret.
    pub blob: Vec<u8>,
    /// Until when it signs; `None` for as long as it stands here.
    pub until: Option<Timestamp>,
}

impl std::fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedKey").field("version", &self.version).field("until", &self.until).finish_non_exhaustive()
    }
}

/// A destination to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct NewDestination {
    /// Its name.
    pub name: String,
    /// Whether it stands in the configuration.
    pub configured: bool,
    /// What is forwarded where.
    pub spec: DestinationSpec,
    /// Its signing keys, newest first.
    pub keys: Vec<SealedKey>,
}

/// A destination as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StoredDestination {
    /// Its name.
    pub name: String,
    /// Whether it stands in the configuration.
    pub configured: bool,
    /// How often it was changed, from 1.
    pub revision: u64,
    /// What is forwarded where.
    pub spec: DestinationSpec,
    /// Its signing keys, newest first.
    pub keys: Vec<SealedKey>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when somebody has paused it, if somebody has: what is to be sent to it waits. That says nothing of how it
    /// fares, and stays when it is changed, disabled or enabled.
    pub paused_at: Option<Timestamp>,
    /// How it fares.
    pub health: DestinationHealth,
}

/// How a destination fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct DestinationHealth {
    /// Attempts that failed since the last one that did not.
    pub failures: u32,
    /// When the first of those failed.
    pub failing_since: Option<Timestamp>,
    /// When the last of those failed.
    pub failed_at: Option<Timestamp>,
    /// Why that one did, in one phrase without payload.
    pub reason: Option<String>,
    /// When one was last noted to succeed.
    pub delivered_at: Option<Timestamp>,
    /// Why nothing is sent, if nothing is.
    pub disabled: Option<Disabled>,
}

/// Why nothing is sent to a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Disabled {
    /// Since when.
    pub at: Timestamp,
    /// Who decided it.
    pub by: DisabledBy,
    /// Why, in one phrase.
    pub reason: String,
}

/// Who disabled a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages and logs name each")]
pub enum DisabledBy {
    /// Somebody.
    Person,
    /// The receiver, which answered 410.
    Receiver,
    /// The hub, because it failed for too long.
    Failures,
}

/// How a destination fared before and after something was noted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a pair; any two are valid")]
pub struct Noted {
    /// Before.
    pub before: DestinationHealth,
    /// After.
    pub after: DestinationHealth,
}

/// How many events stand for a destination; of more than [`FORWARDS_COUNTED_MAX`] no more are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ForwardCounts {
    /// Those that wait to be sent or are being sent.
    pub waiting: u64,
    /// Those that were given up.
    pub dead: u64,
}

/// An event that was given up for a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct DeadForward {
    /// The event.
    pub row: EventRow,
    /// When it was given up.
    pub at: Timestamp,
    /// Why, in one phrase without payload.
    pub reason: String,
}

impl DestinationHealth {
    /// Notes an attempt that succeeded, or failed with a reason.
    pub fn note(&mut self, failed: Option<&str>, now: Timestamp) {
        match failed {
            None => {
                let (delivered_at, disabled) = (Some(now), self.disabled.take());
                *self = Self { delivered_at, disabled, ..Self::default() };
            }
            Some(reason) => {
                self.failures = self.failures.saturating_add(1);
                self.failing_since = self.failing_since.or(Some(now));
                self.failed_at = Some(now);
                self.reason = Some(reason.to_owned());
            }
        }
    }
}

/// Keeps destinations.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Destinations: Send + Sync {
    /// Keeps a destination with all its keys in the place of what is there, if that has the revision `expected` (0: there
    /// is none of the name). Its revision is then one more; when it was made (`now` for a new one), how it fares and
    /// whether it is paused stay as they are. Returns whether it was kept.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn put_destination(&self, destination: NewDestination, expected: u64, now: Timestamp) -> Result<bool>;

    /// Lists all destinations by name, at most [`DESTINATIONS_MAX`].
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn destinations(&self) -> Result<Vec<StoredDestination>>;

    /// Removes a destination and its keys. Returns whether it was there.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn remove_destination(&self, name: String) -> Result<bool>;

    /// Notes an attempt at a destination of revision `of` that succeeded, or failed with a reason, as
    /// [`DestinationHealth::note`] says. `None`, and nothing is noted, when there is no such destination or it was changed
    /// since: an answer of its old address says nothing of the new one.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn note_forward(
        &self,
        name: String,
        failed: Option<String>,
        of: u64,
        now: Timestamp,
    ) -> Result<Option<Noted>>;

    /// Disables a destination (one that is disabled already stays as it is), or enables it: its failures are forgotten
    /// then. `of` is the revision that this is about: nothing happens when the destination was changed since (`None`: a
    /// person's word, whatever it is by now). Returns whether that changed anything.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn disable_destination(&self, name: String, disabled: Option<Disabled>, of: Option<u64>) -> Result<bool>;

    /// Pauses a destination from a moment on (one that is paused already keeps its own), or lets it go on: what failed
    /// before the pause counts no more then, since the time of a pause is none in which it failed. Returns whether that
    /// changed anything.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn pause_destination(&self, name: String, paused_at: Option<Timestamp>) -> Result<bool>;

    /// Counts what waits for each of the destinations, by the [`forward_key`] of its jobs, and what was given up.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn forward_counts(&self, destinations: Vec<String>) -> Result<BTreeMap<String, ForwardCounts>>;

    /// Lists up to `limit` events behind `after` that were given up for a destination, lowest row first: whose job
    /// ([`Work::Forward`](super::Work::Forward)) died while the event was there. One is listed until another job is added that forwards it
    /// there (the job that died counts as done from then on), it is dismissed, or the event is removed.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn dead_forwards(&self, destination: String, after: Option<EventRow>, limit: u32)
    -> Result<Vec<DeadForward>>;

    /// Dismisses events that were given up for a destination: the jobs that died count as done from then on. Returns how
    /// many there were.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn dismiss_forwards(&self, destination: String, rows: Vec<EventRow>) -> Result<u64>;
}

//! The inbox: deliveries with their events, kept once however often they come.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, EndpointId, EventId};
use crate::store::{Connection, NO_CONNECTION};
use crate::webhook::Event;

/// Attempts of the job an inbox gives every wanted event. A worker may give up earlier.
pub const EVENT_ATTEMPTS_MAX: u32 = 20;

/// What an event's row with its job and their places in the indexes is counted as in [`Inbox::inbox_bytes`], besides
/// its bodies: what was measured of small events, rounded up.
pub const EVENT_BYTES: u64 = 768;

/// How many causes of dead letters are counted apart; what comes beyond them counts as [`OTHER_CAUSES`].
pub const CAUSES_MAX: usize = 500;

/// The reason under which dead letters count whose cause found no room of its own; without provider and kind.
pub const OTHER_CAUSES: &str = "other causes";

/// How the reason of an event begins that was dead and that somebody dismissed ([`Inbox::dismiss`]): what it died of
/// follows.
pub const DISMISSED: &str = "dismissed: ";

/// Identifies a stored event (not the provider's id).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventRow(pub i64);

/// A verified delivery to keep.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct NewDelivery {
    /// The endpoint it came to.
    pub endpoint: EndpointId,
    /// The connection its events belong to.
    pub connection: ConnectionId,
    /// The provider.
    pub provider: String,
    /// When it arrived.
    pub received_at: Timestamp,
    /// The headers worth keeping for replay and support, without credentials.
    pub headers: Vec<(String, String)>,
    /// The exact body; empty when the event did not come by webhook.
    pub body: Bytes,
    /// Its events.
    pub events: Vec<NewEvent>,
}

/// One event of a delivery to keep.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct NewEvent {
    /// The provider's id; with the endpoint it is the dedupe key.
    pub id: EventId,
    /// The provider's type.
    pub kind: String,
    /// What it is heard as, where that is not its type ([`crate::webhook::Webhook::subscription`]).
    pub subscription: Option<Cow<'static, str>>,
    /// The provider account.
    pub account: Option<String>,
    /// When it happened at the provider.
    pub created: Option<Timestamp>,
    /// Jobs with the same key run one after another.
    pub ordering_key: Option<String>,
    /// The event's own JSON; `None` when it is the delivery's whole body.
    pub payload: Option<Bytes>,
    /// Whether anybody wants it: `false` stores it as [`EventState::Ignored`] without a job.
    pub wanted: bool,
    /// The priority of its job: higher goes first.
    pub priority: i32,
}

impl NewEvent {
    /// Returns what is noted of its coming ([`Heard::kind`]): its subscription, or its type.
    #[must_use]
    pub fn heard_as(&self) -> &str {
        self.subscription.as_deref().unwrap_or(&self.kind)
    }
}

/// What became of one event of an appended delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the hub decides on each")]
pub enum Appended {
    /// Stored, with a job if it was wanted.
    New(EventRow),
    /// Already there under the same endpoint and id.
    Duplicate(EventRow),
}

/// The state of a stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages and counts show each")]
pub enum EventState {
    /// Waiting for its job.
    Pending,
    /// Handled.
    Done,
    /// Wanted by nobody; or dead and dismissed, with a reason that says so ([`DISMISSED`]).
    Ignored,
    /// Given up after its attempts; kept until it is replayed or dismissed.
    Dead,
}

/// A stored event.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StoredEvent {
    /// Its row.
    pub row: EventRow,
    /// The endpoint it came to.
    pub endpoint: EndpointId,
    /// The connection.
    pub connection: ConnectionId,
    /// The provider.
    pub provider: String,
    /// The event.
    pub event: Event,
    /// When it arrived.
    pub received_at: Timestamp,
    /// Its state.
    pub state: EventState,
    /// Why it is dead, was dismissed or was last retried.
    pub reason: Option<String>,
}

impl StoredEvent {
    /// Tells whether [`Inbox::replay`] takes it: it is handled, dead, or ignored and of a connection. What belongs to
    /// nobody has nobody to handle it for.
    #[must_use]
    pub fn may_be_replayed(&self) -> bool {
        match self.state {
            EventState::Done | EventState::Dead => true,
            EventState::Ignored => self.connection.as_str() != NO_CONNECTION,
            EventState::Pending => false,
        }
    }
}

/// One page of a list of events.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct EventPage {
    /// The events, newest first, with empty payloads.
    pub events: Vec<StoredEvent>,
    /// Where the list goes on, older than this row; `None` at its end. There may be more behind a page that holds less than
    /// was asked for, or nothing.
    pub next: Option<EventRow>,
}

/// How many numbers of rows a page of a list goes past at most, looking for a state that is not found by itself: some
/// milliseconds of reading, whatever stands there.
pub const LIST_WALKED: i64 = 10_000;

/// How many pending events there may be for them to be listed by their jobs, without going past others.
pub const PENDING_FOUND: u64 = 10_000;

impl EventPage {
    /// Returns the lowest row a page looks at that begins before one: those of a state that is found by itself go past none
    /// of others. The rule of all stores.
    #[must_use]
    pub fn lowest(state: Option<EventState>, before: EventRow, pending: u64) -> EventRow {
        let by_itself = match state {
            Some(EventState::Dead | EventState::Ignored) => true,
            Some(EventState::Pending) => pending <= PENDING_FOUND,
            Some(EventState::Done) | None => false,
        };
        if by_itself { EventRow(i64::MIN) } else { EventRow(before.0.saturating_sub(LIST_WALKED)) }
    }

    /// Makes a page of up to `limit` events from those found down to its lowest row; `below` is the highest row there is
    /// under that.
    #[must_use]
    pub fn of(events: Vec<StoredEvent>, limit: u32, below: Option<EventRow>) -> Self {
        let full = events.len() as u64 >= u64::from(limit);
        let next = if full {
            events.last().map(|event| event.row)
        } else {
            below.map(|below| EventRow(below.0.saturating_add(1)))
        };
        Self { events, next }
    }
}

/// An event with the connection it came for, as both were at one moment.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ToHandle {
    /// The event.
    pub event: StoredEvent,
    /// Its connection, if there is one.
    pub connection: Option<Connection>,
}

/// How events of one type come to an endpoint: what [`crate::health::silence`] judges by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Heard {
    /// The provider's type.
    pub kind: String,
    /// When one last came by webhook; moved on once a minute at most.
    pub heard_at: Option<Timestamp>,
    /// How many the provider's own list has shown since that did not come by webhook before.
    pub found: u64,
    /// When the first of those was found.
    pub found_from: Option<Timestamp>,
    /// When the last of those was found.
    pub found_to: Option<Timestamp>,
}

/// Whose events are not handled for now. They are accepted and kept all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: stores decide on each")]
pub enum Halt {
    /// Everybody's.
    All,
    /// A provider's.
    Provider(String),
    /// A connection's.
    Connection(ConnectionId),
}

/// Dead events with one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct DeadLetters {
    /// The provider.
    pub provider: String,
    /// The provider's type.
    pub kind: String,
    /// Why they are dead.
    pub reason: String,
    /// How many there are.
    pub events: u64,
    /// When the first of them died; of those replayed since too.
    pub first_at: Timestamp,
    /// When the last one died.
    pub last_at: Timestamp,
}

/// Which events to replay or to dismiss: those that meet all that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ReplayFilter {
    /// Their state: [`EventState::Dead`], [`EventState::Done`] or [`EventState::Ignored`]; the first two without it, so that
    /// nobody handles by accident what nobody wanted.
    pub state: Option<EventState>,
    /// The provider.
    pub provider: Option<String>,
    /// The connection.
    pub connection: Option<ConnectionId>,
    /// The provider's type: one (`invoice.paid`), those that begin so (`invoice.*`), or all (`*`).
    pub kind: Option<String>,
    /// Why they are dead, were dismissed, or were last retried. Ignored ones that were dismissed are met by their reason
    /// only.
    pub reason: Option<String>,
    /// Received at or after this moment.
    pub from: Option<Timestamp>,
    /// Received before this moment.
    pub to: Option<Timestamp>,
}

impl ReplayFilter {
    /// Returns it for dead events; `None` when it is for others.
    #[must_use]
    pub fn of_dead(self) -> Option<Self> {
        let dead = Some(EventState::Dead);
        (self.state.is_none() || self.state == dead).then_some(Self { state: dead, ..self })
    }

    /// Returns it for what was received before a moment, if it does not end sooner.
    #[must_use]
    pub fn ending(self, ends: Timestamp) -> Self {
        Self { to: Some(self.to.map_or(ends, |to| to.min(ends))), ..self }
    }

    /// Tells whether an event may be replayed and meets the filter.
    #[must_use]
    pub fn meets(&self, event: &StoredEvent) -> bool {
        let same = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        event.may_be_replayed()
            && match self.state {
                Some(state) => state == event.state,
                None => event.state != EventState::Ignored,
            }
            && (event.state != EventState::Ignored || event.reason.is_none() || self.reason.is_some())
            && same(&self.provider, &event.provider)
            && self.kind.as_deref().is_none_or(|wanted| is_of_kind(&event.event.kind, wanted))
            && self.connection.as_ref().is_none_or(|wanted| *wanted == event.connection)
            && self.reason.as_ref().is_none_or(|wanted| event.reason.as_ref() == Some(wanted))
            && self.from.is_none_or(|from| event.received_at >= from)
            && self.to.is_none_or(|to| event.received_at < to)
    }
}

/// Returns a moment before which everything was received that is here by now: a replay that ends there follows nothing
/// that comes in while it runs. It is after `now`, and after the newest event where a clock was set back since.
///
/// # Errors
/// [`ErrorKind::Store`](crate::ErrorKind::Store).
pub async fn received_so_far<S: Inbox + ?Sized>(store: &S, now: Timestamp) -> Result<Timestamp> {
    let newest = store.events(None, None, 1).await?;
    let last = newest.events.first().map_or(now, |newest| newest.received_at.max(now));
    Ok(last.plus(Duration::from_millis(1)))
}

/// Tells whether a type is the wanted one, or begins as a wanted one that ends in `*`.
#[must_use]
pub fn is_of_kind(kind: &str, wanted: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => kind == wanted,
    }
}

/// How many numbers of rows one step of a replay goes past: some milliseconds of reading, whatever stands there.
pub const REPLAY_WALKED: i64 = 20_000;

/// How much earlier than one before it an event may have been received by the clock. Rows are numbered in the order in
/// which they were kept, so a range of time is a range of rows, as far as nobody set the clock back by more than this.
pub const CLOCK_MARGIN: Duration = Duration::from_secs(3_600);

/// The rows one step of a replay goes past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ReplayRows {
    /// Those behind this one,
    pub after: EventRow,
    /// up to and with this one.
    pub last: EventRow,
    /// Where the filter ends: nothing behind it meets it.
    pub end: EventRow,
}

impl ReplayRows {
    /// Returns where the next step begins, after one that found `found` rows of the `looked` it may look at; `None` when
    /// there is nothing left.
    #[must_use]
    pub fn next(&self, found: &[EventRow], looked: u32) -> Option<EventRow> {
        if found.len() as u64 >= u64::from(looked) {
            return found.last().copied();
        }
        (self.last < self.end).then_some(self.last)
    }
}

impl ReplayFilter {
    /// Finds the rows a step goes past that begins behind `after`, of the `newest` there are. A range of time is looked for
    /// by bisection, by what `first` tells: the first event at a row or behind it, with when it was received. The rule of
    /// all stores.
    ///
    /// # Errors
    /// Those of `first`.
    pub fn rows<E>(
        &self,
        after: EventRow,
        newest: EventRow,
        mut first: impl FnMut(EventRow) -> Result<Option<(EventRow, Timestamp)>, E>,
    ) -> Result<ReplayRows, E> {
        let after = match self.from {
            Some(from) => after.max(last_before(from.minus(CLOCK_MARGIN), newest, &mut first)?),
            None => after,
        };
        let end = match self.to {
            Some(to) => last_before(to.plus(CLOCK_MARGIN), newest, &mut first)?,
            None => newest,
        };
        // Dead and ignored events are found without going past others.
        let walked =
            if matches!(self.state, Some(EventState::Dead | EventState::Ignored)) { i64::MAX } else { REPLAY_WALKED };
        let last = end.min(EventRow(after.0.saturating_add(walked)));
        Ok(ReplayRows { after, last, end })
    }
}

/// Finds the last row before the first that was received at a moment or later, as if the clock had never been set.
fn last_before<E>(
    at: Timestamp,
    newest: EventRow,
    first: &mut impl FnMut(EventRow) -> Result<Option<(EventRow, Timestamp)>, E>,
) -> Result<EventRow, E> {
    let (mut from, mut to) = (1, newest.0.saturating_add(1));
    while from < to {
        let middle = from + (to - from) / 2;
        match first(EventRow(middle))? {
            Some((row, received_at)) if received_at < at => from = row.0 + 1,
            Some(_) | None => to = middle,
        }
    }
    Ok(EventRow(from - 1))
}

/// One step of a replay by filter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ReplayStep {
    /// The rows that met the filter, lowest first.
    pub met: Vec<EventRow>,
    /// The last row looked at; `None` when there is none left.
    pub next: Option<EventRow>,
}

/// How many times its limit a step of pruning the inbox looks at events.
pub const PRUNE_LOOKED: u32 = 20;

/// What one step of pruning removes of bodies, payloads and headers before it ends, in bytes: the writer is held for a
/// part of a second, whatever the size of bodies.
pub const PRUNE_BYTES: u64 = 8 << 20;

/// A place in the order in which events go: that of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct PrunePlace {
    /// When it was received.
    pub received_at: Timestamp,
    /// Its row.
    pub row: EventRow,
}

/// One step of pruning the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct PruneStep {
    /// How many events went.
    pub gone: u64,
    /// The last one looked at; `None` when there is none behind it, or nothing more has to go.
    pub next: Option<PrunePlace>,
}

/// How seldom [`Heard::heard_at`] is moved on, in milliseconds: a busy endpoint does not pay for it.
pub const HEARD_EVERY_MS: i64 = 60_000;

/// How many types are kept of an endpoint; what comes beyond them is not judged.
pub const HEARD_KINDS_MAX: usize = 500;

/// Keeps deliveries and their events.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Stores deliveries with their events and one job per new wanted event, in one durable commit shared with
    /// whatever else waits. Two events with the same endpoint and id are one, also within the batch. The answer has
    /// one entry per delivery and event, in order.
    ///
    /// The job of an event: [`Work::Event`](super::Work::Event), lane `event/{connection}/{ordering key}` if it has an
    /// ordering key, the provider as its group, the connection's tenant as its tenant (the connection's own name where
    /// none such is known), no unique key, the event's priority, due at `received_at`, [`EVENT_ATTEMPTS_MAX`] attempts.
    ///
    /// What is noted for [`Inbox::heard`], per endpoint and type (of no more than [`HEARD_KINDS_MAX`]): an event with
    /// a delivery's body, new or not, was heard at `received_at`, if that is [`HEARD_EVERY_MS`] later than noted or
    /// something was found since. A new and wanted event without one was found; the first that is found after
    /// anything was heard at the endpoint begins a new count.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded) when the queue to the writer is full: nothing is stored,
    /// answer 503; also when the disk is nearly full. [`ErrorKind::Store`](crate::ErrorKind::Store) when the commit
    /// failed: nothing is stored.
    async fn append(&self, deliveries: Vec<NewDelivery>) -> Result<Vec<Vec<Appended>>>;

    /// Reads one event.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn event(&self, row: EventRow) -> Result<Option<StoredEvent>>;

    /// Reads events that are to be handled, each with its connection if that is known: what was claimed together is read
    /// in one look. One entry per row, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn events_to_handle(&self, rows: Vec<EventRow>) -> Result<Vec<Option<ToHandle>>>;

    /// Lists up to `limit` events, newest first, of a state if given, older than `before` if given. No payload is read:
    /// [`Inbox::event`] reads one. A page has a bound ([`EventPage::lowest`]), so that a state that is rare costs no walk
    /// over all events: called again with [`EventPage::next`] until that is `None`, it goes through all there are.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn events(&self, state: Option<EventState>, before: Option<EventRow>, limit: u32) -> Result<EventPage>;

    /// Reads events as [`Inbox::events`] lists them, with empty payloads: one entry per row, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn event_heads(&self, rows: Vec<EventRow>) -> Result<Vec<Option<StoredEvent>>>;

    /// Puts an event that may be replayed ([`StoredEvent::may_be_replayed`]) back to pending with a fresh job, due `now`, of
    /// priority 0, and otherwise as by [`Inbox::append`]. `false` when there is none such. Its reason stays until the job
    /// ends. The job it died with counts as done from then on: somebody has seen to it.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn replay(&self, row: EventRow, now: Timestamp) -> Result<bool>;

    /// Replays as [`Inbox::replay`] what meets a filter, of the next `looked` rows that are of its state (or, without one,
    /// dead or done) among those of [`ReplayFilter::rows`], lowest first; with `dry_run` it only finds them. Called again
    /// with [`ReplayStep::next`] until that is `None`, it goes through all there are; no more than `looked` are replayed at
    /// once, which is how a caller keeps to a limit. What is committed meanwhile waits for none of the looking, and reads no
    /// payload.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn replay_some(
        &self,
        filter: ReplayFilter,
        after: EventRow,
        looked: u32,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<ReplayStep>;

    /// Dismisses a dead event: it is ignored from then on, with the reason it died of behind [`DISMISSED`], and kept as long
    /// as any other. `false` when there is no dead one of the row. The job it died with counts as done from then on.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn dismiss(&self, row: EventRow, now: Timestamp) -> Result<bool>;

    /// Dismisses as [`Inbox::dismiss`] what meets a filter, of the `looked` dead rows after `after`, lowest first; with
    /// `dry_run` it only counts. None meets a filter of another state. Called again as [`Inbox::replay_some`].
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn dismiss_some(
        &self,
        filter: ReplayFilter,
        after: EventRow,
        looked: u32,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<ReplayStep>;

    /// Halts events: they are accepted and kept, and their jobs wait, until they are resumed, in every process. What
    /// is under way goes on to its end. `false` when they were halted already. A connection's halt ends by itself when
    /// the connection is active after it was paused or disconnected. However many there are, claims cost the same.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn halt(&self, halt: Halt, now: Timestamp) -> Result<bool>;

    /// Ends a halt. Events of a lane go on in their order. `false` when there was none.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded).
    async fn resume(&self, halt: Halt) -> Result<bool>;

    /// Lists up to `limit` halts in order, with when they began.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn halts(&self, limit: u32) -> Result<Vec<(Halt, Timestamp)>>;

    /// Counts dead events by cause, up to `limit` causes, those with the most events first, then in order of provider,
    /// type and reason. Kept as counters, no more than [`CAUSES_MAX`] and one of all others.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn dead_letters(&self, limit: u32) -> Result<Vec<DeadLetters>>;

    /// Counts events per state. Kept as counters: costs the same for any number of events.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn event_counts(&self) -> Result<BTreeMap<EventState, u64>>;

    /// Counts the dead events of each of the connections; one without any is left out. Kept as counters: costs the
    /// same for any number of events.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn dead_counts(&self, connections: Vec<ConnectionId>) -> Result<BTreeMap<ConnectionId, u64>>;

    /// Tells how events come to an endpoint, by type in order. A store that does not note it tells nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn heard(&self, endpoint: EndpointId) -> Result<Vec<Heard>> {
        let _ = endpoint;
        Ok(Vec::new())
    }

    /// Removes up to `limit` handled and ignored events (and deliveries left without events) received before
    /// `before`, of those behind `after`, those received first before others. Of one received at `forget` or later the
    /// name stays: it is read, listed, counted and replayed no more, and it is a duplicate when it comes again
    /// ([`Inbox::forget_events`]). One that is still forwarded stays: whose [`forward_key`](super::forward_key) for a
    /// destination there is names an unfinished job.
    ///
    /// A step has bounds: [`PRUNE_LOOKED`] times `limit` looks, of which an event takes one and one more for each
    /// destination there is (and one event is looked at in any case), and nothing more goes once more than
    /// [`PRUNE_BYTES`] went. Called again with [`PruneStep::next`] until that is `None`, it goes once past all there are,
    /// however many have to stay.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn prune_events(
        &self,
        before: Timestamp,
        forget: Timestamp,
        after: Option<PrunePlace>,
        limit: u32,
    ) -> Result<PruneStep>;

    /// Removes the names of up to `limit` events that are gone, received before `before`, those received first before
    /// others, and returns how many. What comes again after that is new.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn forget_events(&self, before: Timestamp, limit: u32) -> Result<u64>;

    /// Tells how many bytes the inbox keeps: bodies, payloads of their own, headers (as JSON) and [`EVENT_BYTES`] for
    /// each event. What only has its name left does not count. Kept as a counter.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn inbox_bytes(&self) -> Result<u64>;

    /// Removes up to `limit` handled and ignored events as [`Inbox::prune_events`], received at any time, as long as the
    /// inbox keeps more than `bytes_max`.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store).
    async fn prune_inbox(
        &self,
        bytes_max: u64,
        forget: Timestamp,
        after: Option<PrunePlace>,
        limit: u32,
    ) -> Result<PruneStep>;
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::random::{Random, SeededRandom};

    /// What a step of a range goes past, of events with these rows and moments (in seconds), and how often it looked.
    fn rows(events: &[(i64, i64)], filter: &ReplayFilter, after: i64, newest: i64) -> (ReplayRows, u32) {
        let mut looked = 0;
        let first = |row: EventRow| {
            looked += 1;
            let found = events.get(events.partition_point(|(number, _)| *number < row.0));
            Ok::<_, Infallible>(found.map(|(number, at)| (EventRow(*number), Timestamp::from_seconds(*at))))
        };
        let Ok(rows) = filter.rows(EventRow(after), EventRow(newest), first);
        (rows, looked)
    }

    fn span(from: Option<i64>, to: Option<i64>) -> ReplayFilter {
        let moment = |at: Option<i64>| at.map(Timestamp::from_seconds);
        ReplayFilter { from: moment(from), to: moment(to), ..ReplayFilter::default() }
    }

    /// Fails when a range of time begins at the first row or ends at the newest, or when it takes more than a few looks to
    /// find among a million.
    #[test]
    fn a_range_of_time_is_a_range_of_rows() {
        // One every ten seconds; the first half is gone, and a hole.
        let events: Vec<_> = (500_000..1_000_000).filter(|row| row / 1_000 != 700).map(|row| (row, row * 10)).collect();
        let at = |row: i64| row * 10;
        let check = |filter: &ReplayFilter, after: i64, expected: (i64, i64)| {
            let (found, looked) = rows(&events, filter, after, 999_999);
            assert_eq!((found.after.0, found.end.0), expected, "{filter:?}");
            assert!(looked <= 42, "{looked} looks");
        };
        let margin = 360;
        check(&span(None, None), 0, (0, 999_999));
        check(&span(Some(at(900_000)), None), 0, (900_000 - margin - 1, 999_999));
        check(&span(Some(at(900_000)), None), 950_000, (950_000, 999_999));
        check(&span(None, Some(at(600_000))), 0, (0, 600_000 + margin - 1));
        check(&span(Some(at(900_000)), Some(at(900_010))), 0, (900_000 - margin - 1, 900_010 + margin - 1));
        check(&span(Some(at(700_500)), Some(at(700_600))), 0, (699_999, 699_999));
        check(&span(Some(at(2_000_000)), None), 0, (999_999, 999_999));
        check(&span(None, Some(0)), 0, (0, 0));
    }

    /// Fails when a range leaves out what was received in it while the clock stood up to an hour behind.
    #[test]
    fn a_clock_that_was_set_hides_nothing() {
        for seed in 1..200 {
            let random = SeededRandom::new(seed);
            let mut clock = 100_000;
            let events: Vec<_> = (1..200)
                .map(|row| {
                    clock += i64::try_from(random.bits() % 400).unwrap();
                    (row, clock - i64::try_from(random.bits() % 3_600).unwrap())
                })
                .collect();
            let from = 100_000 + i64::try_from(random.bits() % 40_000).unwrap();
            let filter = span(Some(from), Some(from + 5_000));
            let (found, _) = rows(&events, &filter, 0, 199);
            for (row, at) in events {
                let wanted = (from..from + 5_000).contains(&at);
                let walked = row > found.after.0 && row <= found.end.0;
                assert!(walked || !wanted, "seed {seed}: row {row} of {at} is left out of {filter:?}: {found:?}");
            }
        }
    }

    /// Fails when a step goes past more rows than it may, when it ends where there are more, or when dead events, which are
    /// found by themselves, are looked for in steps.
    #[test]
    fn a_step_goes_past_a_bounded_number_of_rows() {
        let of = |state| ReplayFilter { state, ..ReplayFilter::default() };
        let newest = 3 * REPLAY_WALKED;
        for state in [None, Some(EventState::Done)] {
            let (found, _) = rows(&[], &of(state), 5, newest);
            assert_eq!((found.after.0, found.last.0, found.end.0), (5, 5 + REPLAY_WALKED, newest));
            assert_eq!(found.next(&[EventRow(7)], 2), Some(found.last), "there are more");
            assert_eq!(found.next(&[EventRow(7), EventRow(9)], 2), Some(EventRow(9)), "no more were looked at");
        }
        let (found, _) = rows(&[], &of(Some(EventState::Dead)), 5, newest);
        assert_eq!((found.last.0, found.next(&[EventRow(7)], 2)), (newest, None));
    }
}

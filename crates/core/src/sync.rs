//! Keeping a local copy in step: what an adapter lists, how a change is merged, and the driver of a run.
//!
//! Full sync, incremental sync and webhooks are one path: [`Change`]s merged by [`merge`] into the record store.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, RecordId, StreamName, TenantId};
use crate::webhook::Event;

pub mod bad;
pub mod driver;
pub mod dry_run;
pub mod merge;
pub mod stop;
pub mod watch;

pub use bad::BadRecord;
pub use stop::Stop;

/// Describes one stream of a provider.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "adapters write tables of it")]
pub struct StreamSpec {
    /// The stream's name.
    pub name: &'static str,
    /// Whether it lists records or events.
    pub kind: StreamKind,
}

/// Says what a stream's pages hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the driver decides on each")]
pub enum StreamKind {
    /// Records: merged into the record store; a full run tells what was deleted.
    Records,
    /// The provider's list of what it sent (Stripe's `/v1/events`): each page's events go through the inbox, where
    /// those already received are duplicates and those that were missed are handled. This is the incremental feed
    /// and the gap healing of such a provider in one.
    Events,
}

/// An opaque position in a stream, made by the adapter and kept by the store.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(String);

impl Cursor {
    /// Takes the adapter's text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the adapter's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor({:?})", self.0)
    }
}

/// When a state was true at the provider, by the provider's clock: at some moment in `[earliest, latest]`.
///
/// - A read's span runs from when it was sent to when it was answered: the answer's `Date` less the time the request
///   took, to the end of the `Date`'s second. Our own clock does not matter, so it may jump.
/// - An event's span is its `created`, in the provider's precision (a whole second at Stripe).
/// - An exact version (a history id, a sequence number) is a span of one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; `earliest <= latest` is kept by its makers")]
pub struct Span {
    /// The earliest moment, in milliseconds or the provider's own version number.
    pub earliest: i64,
    /// The latest moment, inclusive.
    pub latest: i64,
}

impl Span {
    /// Makes the span of a moment known to the whole second.
    #[must_use]
    pub fn second(at: Timestamp) -> Self {
        let start = at.seconds().saturating_mul(1_000);
        Self { earliest: start, latest: start.saturating_add(999) }
    }

    /// Makes the span of an exact version.
    #[must_use]
    pub fn exact(version: i64) -> Self {
        Self { earliest: version, latest: version }
    }

    /// Makes the span of a read: answered at the provider's `date` (whole seconds) after `took`.
    #[must_use]
    pub fn read(date: Timestamp, took: Duration) -> Self {
        let second = Self::second(date);
        Self { earliest: Timestamp(second.earliest).minus(took).millis(), latest: second.latest }
    }

    /// Widens the span both ways, for clocks that may differ by as much.
    #[must_use]
    pub fn widened(self, by: Duration) -> Self {
        Self { earliest: Timestamp(self.earliest).minus(by).millis(), latest: Timestamp(self.latest).plus(by).millis() }
    }
}

/// One observation of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Change {
    /// The stream.
    pub stream: StreamName,
    /// The record.
    pub id: RecordId,
    /// When the state was true at the provider.
    pub span: Span,
    /// The state.
    pub state: State,
}

/// A record's state in an observation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the merge decides on each")]
pub enum State {
    /// The record exists; its JSON.
    Present(Bytes),
    /// The record was deleted at the provider. Where a provider can bring a record back within the precision of its
    /// times, an adapter tells its deletion as [`State::Unclear`]: a deletion told by an event wins a tie with what
    /// cannot be from behind its span. It is revived by an observation whose span is wholly later, or by a read that
    /// started after it was stored.
    Deleted,
    /// Something happened to the record and the observation does not say what: fetch it.
    Unclear,
}

/// What one page of a stream holds.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Page {
    /// The records ([`StreamKind::Records`]), in the provider's order.
    pub changes: Vec<Change>,
    /// The events ([`StreamKind::Events`]), oldest first.
    pub events: Vec<Event>,
    /// Records that could not be read. They are set aside and named, and the page goes on; [`bad::sorted`] sorts them
    /// from the others. An answer that is no page at all is an error instead.
    pub bad: Vec<BadRecord>,
    /// How many records the whole list holds, where the provider tells it: progress is shown by it.
    pub total: Option<u64>,
    /// Where to go on.
    pub next: Next,
}

impl Page {
    /// Makes a page of changes.
    #[must_use]
    pub fn of_changes(changes: Vec<Change>, next: Next) -> Self {
        Self { changes, events: Vec::new(), bad: Vec::new(), total: None, next }
    }

    /// Makes a page of records of which some may be unreadable ([`bad::sorted`]).
    #[must_use]
    pub fn of_records((changes, bad): (Vec<Change>, Vec<BadRecord>), next: Next) -> Self {
        Self { changes, events: Vec::new(), bad, total: None, next }
    }

    /// Makes a page of events.
    #[must_use]
    pub fn of_events(events: Vec<Event>, next: Next) -> Self {
        Self { changes: Vec::new(), events, bad: Vec::new(), total: None, next }
    }

    /// Tells whether it brings nothing but a position.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.events.is_empty() && self.bad.is_empty()
    }
}

/// Where a run goes on after a page.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the driver decides on each")]
pub enum Next {
    /// There is another page. A cursor equal to the one just used is an error of the adapter or provider.
    More(Cursor),
    /// The run is complete; `resume` is where the next incremental run starts, for streams that have one.
    Done {
        /// Where the next run starts.
        resume: Option<Cursor>,
    },
}

/// What a webhook should have told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Told {
    /// When it happened.
    pub at: Timestamp,
    /// The type of the event that tells of it, or what that is subscribed to by
    /// ([`crate::webhook::Webhook::subscription`]). Where none ever came to the connection's endpoints nothing was missed.
    pub by: Cow<'static, str>,
    /// Whether such an event says no more than that something happened ([`Source::due`]): one that came since tells of it.
    pub is_notice: bool,
}

/// A record of which a webhook should have told.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Missing<'a> {
    /// The record as a run found it.
    pub change: &'a Change,
    /// Its JSON in the copy before that; `None` for one that was not there. It may be the same, of what an earlier run brought
    /// before its webhook could be called missed.
    pub held: Option<&'a Bytes>,
    /// The JSON of the record it belongs to ([`Source::belongs_to`]), if the copy has it.
    pub place: Option<&'a Bytes>,
}

/// Where and for whom a source's requests go.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Site {
    /// The base URL without a trailing slash.
    pub base_url: String,
    /// The connection.
    pub connection: ConnectionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// The provider account to act for, where one credential serves many.
    pub account: Option<String>,
    /// How many records a page should hold; the adapter caps it at the provider's maximum.
    pub page_size: u32,
}

/// The streams side of an adapter. All pure: requests out, answers in; the driver does the sending.
///
/// Requests carry a [`crate::Call`] (background) in their extensions. A non-2xx answer never reaches these functions:
/// the pipeline has made it an error; an adapter whose provider says "cursor too old" classifies that answer as
/// [`crate::ErrorKind::CursorExpired`].
pub trait Source: Send + Sync {
    /// Returns the streams, records first in the order they should be synced.
    fn streams(&self) -> &'static [StreamSpec];

    /// Makes the request for the page at `cursor`; `None` is the stream's beginning. For an events stream the
    /// beginning is "from now on": its first page tells the newest position and holds no events.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] for an unknown stream or a base URL that is not one.
    fn request(&self, site: &Site, stream: &StreamName, cursor: Option<&Cursor>) -> Result<http::Request<Bytes>>;

    /// Reads a page. `span` is when the answer's states were true.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Decode`] when the answer is not what the provider documents.
    fn page(
        &self,
        stream: &StreamName,
        cursor: Option<&Cursor>,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Page>;

    /// Gives the position before `cursor`, when the provider refused it as expired although the stream is still there:
    /// a list that goes on behind an object cannot once the object is deleted. Each step goes further back, and what
    /// is read twice is merged as unchanged. `None` (also the default) ends the run as expired.
    fn step_back(&self, stream: &StreamName, cursor: &Cursor) -> Option<Cursor> {
        let _ = (stream, cursor);
        None
    }

    /// Tells whether pages of a stream that bring nothing are usual: a walk over conversations most of which are quiet.
    /// In any other stream a long row of empty pages is a run that makes no progress ([`Stop::Stalled`]).
    fn is_sparse(&self, stream: &StreamName) -> bool {
        let _ = stream;
        false
    }

    /// Makes the request for one record.
    ///
    /// # Errors
    /// As [`Source::request`].
    fn fetch(&self, site: &Site, stream: &StreamName, id: &RecordId) -> Result<http::Request<Bytes>>;

    /// Reads one record; a provider's "deleted" form gives [`State::Deleted`]. A 404 is turned into
    /// [`State::Deleted`] by the driver.
    ///
    /// # Errors
    /// As [`Source::page`].
    fn fetched(
        &self,
        stream: &StreamName,
        id: &RecordId,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Change>;

    /// Makes the request for the whole of an event of which no more than a notice was delivered (Stripe's thin events).
    /// `None`, the default, for one that came whole. What is fetched takes the notice's place before streams and handlers
    /// see it; the inbox keeps what came.
    ///
    /// # Errors
    /// As [`Source::request`].
    fn complete(&self, site: &Site, event: &Event) -> Result<Option<http::Request<Bytes>>> {
        let _ = (site, event);
        Ok(None)
    }

    /// Reads the whole event, asked for by [`Source::complete`].
    ///
    /// # Errors
    /// As [`Source::page`].
    fn completed(&self, event: &Event, response: &http::Response<Bytes>) -> Result<Event> {
        let _ = response;
        Ok(event.clone())
    }

    /// Tells when what a record of a page shows happened, and what tells of it, where a webhook tells of every such
    /// happening: what a run finds of it that is not here was missed, and is said to be. `None`, the default,
    /// where no webhook does, or where it cannot be told from what none tells. `place` is the JSON of the record it
    /// belongs to, if the copy has it.
    fn told(&self, change: &Change, place: Option<&Bytes>) -> Option<Told> {
        let _ = (change, place);
        None
    }

    /// Names the record another belongs to, a message's conversation, where [`Source::told`] or [`Source::event_of`]
    /// must know it. None by default.
    fn belongs_to(&self, stream: &StreamName, id: &RecordId) -> Option<(StreamName, RecordId)> {
        let _ = (stream, id);
        None
    }

    /// Makes the event that was missed out of what the list shows: it is put into the inbox with the page it stands on,
    /// for the same handlers. Its id must be the one the webhook's event would have ([`Event::id`]), so that of both only
    /// the first is handled; that of a notice ([`Told::is_notice`]) must be the same whenever it is made of the same
    /// record. A notice says no more than that something happened, and one is made for a page. `None`, the default, where
    /// the list does not show enough of it: the record is counted as missed, and no handler is told.
    fn event_of(&self, site: &Site, missing: &Missing<'_>) -> Option<Event> {
        let _ = (site, missing);
        None
    }

    /// Tells whether events of this type concern any of the streams. `false` lets the hub store such an event as
    /// ignored, when no handler wants it either.
    fn concerns(&self, kind: &str) -> bool;

    /// Turns an event into changes of records; empty when it concerns none of the streams.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Decode`] when the event is not what the provider documents.
    fn apply(&self, event: &Event) -> Result<Vec<Change>>;

    /// Names the streams of which an event says no more than that something changed (Gmail's and Google Calendar's
    /// notifications): an incremental run of each is due now. None by default.
    fn due(&self, event: &Event) -> Vec<StreamName> {
        let _ = event;
        Vec::new()
    }

    /// Names the streams of records that must be read anew after an event, because it says that more happened than it
    /// tells: each gets a full run.
    fn resyncs(&self, event: &Event) -> Vec<StreamName> {
        let _ = event;
        Vec::new()
    }
}

//! The walk over `/v1/events`: where a run reads next, and where the next run begins.
//!
//! Stripe lists events newest first and by `created`, in whole seconds; which of two writes of one second becomes
//! visible first is not promised. So a run does not resume behind the newest event it saw but behind the newest one
//! that was [`OVERLAP_SECONDS`] old when it was read: an event that appears late, in between, is still found. What is
//! read twice is a duplicate in the inbox. Time is the provider's `Date`, never our clock.
//!
//! Four positions, as text:
//! - none yet: the newest event is asked for; nothing older is of interest.
//! - `after:<event>@<created>`: everything newer than an event, forward, page by page.
//! - `walk:<event>:<anchor>`: in the middle of a run; the anchor is the position the run will end on.
//! - `since:<seconds>` and `dive:<seconds>:<event>`: by time, where there is no event to stand on: a quiet account, or
//!   an anchor about to leave the 30 days. Such a page cannot be walked forward, so pages are dived through to the
//!   oldest, which is the first to be shown, and walked forward from there.

use palisade_core::sync::{Cursor, Next};
use palisade_core::{Error, ErrorKind, Result};

use super::encode;

/// How far a run reads again behind what the last one saw. Late events appear within a few seconds; a minute of
/// duplicates every quarter of an hour costs one page at most for all but the largest accounts.
pub const OVERLAP_SECONDS: i64 = 60;
/// A position on an older event is turned into a time, so that a quiet account that is then not visited for weeks does
/// not come back to a position Stripe has forgotten.
const ANCHOR_AGE_MAX_SECONDS: i64 = 86_400;

/// Stripe keeps events for 30 days (Stripe API reference, events).
const KEPT_SECONDS: i64 = 30 * 86_400;

/// Where the next run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// Behind an event of that second.
    After(String, i64),
    /// At a second, inclusive.
    Since(i64),
}

/// An event of a page, as far as the walk goes by it: one that cannot be read has a place in the list too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: String,
    /// In seconds; `None` where it does not say.
    pub(super) created: Option<i64>,
}

/// Where a run reads next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// The newest event only.
    Beginning,
    /// The events newer than an event; the anchor as known so far.
    Forward { after: String, anchor: Anchor },
    /// A page of all events since a second, for the newest or behind an event already dived past.
    Dive { since: i64, behind: Option<String>, shown: bool },
}

impl Anchor {
    fn write(&self) -> String {
        match self {
            Self::After(id, created) => format!("after:{id}@{created}"),
            Self::Since(seconds) => format!("since:{seconds}"),
        }
    }

    fn read(text: &str) -> Option<Self> {
        if let Some(text) = text.strip_prefix("after:") {
            let (id, created) = text.rsplit_once('@')?;
            return Some(Self::After(encoded(id)?, created.parse().ok()?));
        }
        text.strip_prefix("since:")?.parse().ok().map(Self::Since)
    }

    /// Turns a position on an old event into a time. Everything up to `read_at` has been read.
    fn kept(self, read_at: i64) -> Self {
        match self {
            Self::After(_, created) if created < read_at.saturating_sub(ANCHOR_AGE_MAX_SECONDS) => Self::at(read_at),
            Self::After(..) | Self::Since(_) => self,
        }
    }

    fn at(read_at: i64) -> Self {
        Self::Since(read_at.saturating_sub(OVERLAP_SECONDS))
    }
}

impl Position {
    /// Reads a cursor of ours.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is not one.
    pub(super) fn read(cursor: Option<&Cursor>) -> Result<Self> {
        let Some(cursor) = cursor else { return Ok(Self::Beginning) };
        Self::parse(cursor.as_str()).ok_or_else(|| {
            Error::new(ErrorKind::Config, "the cursor is not one of the events stream").during("stripe", "sync")
        })
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(text) = text.strip_prefix("walk:") {
            let (after, anchor) = text.split_once(':')?;
            return Some(Self::Forward { after: encoded(after)?, anchor: Anchor::read(anchor)? });
        }
        if let Some(text) = text.strip_prefix("dive:") {
            let (since, behind) = text.split_once(':')?;
            return Some(Self::Dive { since: since.parse().ok()?, behind: Some(encoded(behind)?), shown: false });
        }
        Some(match Anchor::read(text)? {
            Anchor::After(id, created) => Self::Forward { after: id.clone(), anchor: Anchor::After(id, created) },
            Anchor::Since(since) => Self::Dive { since, behind: None, shown: false },
        })
    }

    /// Returns the query that reads this position.
    pub(super) fn query(&self, limit: u32) -> String {
        match self {
            Self::Beginning => "limit=1".to_owned(),
            Self::Forward { after, .. } => format!("limit={limit}&ending_before={after}"),
            Self::Dive { since, behind, .. } => {
                let behind = behind.as_ref().map_or_else(String::new, |id| format!("&starting_after={id}"));
                format!("limit={limit}&created%5Bgte%5D={since}{behind}")
            }
        }
    }

    /// Tells, after [`Position::advance`], whether the page's events are for the caller.
    pub(super) fn shows(&self) -> bool {
        match self {
            Self::Beginning => false,
            Self::Forward { .. } => true,
            Self::Dive { shown, .. } => *shown,
        }
    }

    /// Decides where to go after a page, given its events oldest first, whether more lie beyond, and when by the
    /// provider's clock it was read.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when the page contradicts itself.
    pub(super) fn advance(&mut self, events: &[Seen], more: bool, read_at: i64) -> Result<Next> {
        match self {
            Self::Beginning => Ok(done(newest_settled(events, read_at).unwrap_or(Anchor::at(read_at)), read_at)),
            Self::Forward { after, anchor } => {
                let anchor = newest_settled(events, read_at).unwrap_or_else(|| anchor.clone());
                Ok(match events.last() {
                    // A page that ends where it began would be asked for for ever.
                    Some(newest) if more && encode(&newest.id).to_string() != *after => walk(newest, &anchor),
                    Some(_) | None => done(anchor, read_at),
                })
            }
            Self::Dive { since, .. } if *since < read_at.saturating_sub(KEPT_SECONDS) => {
                // Stripe would list what it still has and not say that the rest is gone.
                Err(Error::new(ErrorKind::CursorExpired, "events older than Stripe keeps them are missing")
                    .during("stripe", "events.list"))
            }
            Self::Dive { since, shown, .. } if more => {
                *shown = false;
                let oldest = events.first().ok_or_else(contradiction)?;
                Ok(Next::More(Cursor::new(format!("dive:{since}:{}", encode(&oldest.id)))))
            }
            Self::Dive { since, behind, shown } => {
                *shown = true;
                match (events.last(), behind) {
                    // The only page: everything there is.
                    (_, None) => {
                        let since = read_at.saturating_sub(OVERLAP_SECONDS).max(*since);
                        Ok(done(newest_settled(events, read_at).unwrap_or(Anchor::Since(since)), read_at))
                    }
                    // The oldest page of several: shown now, the newer ones forward from here.
                    (Some(newest), Some(_)) => {
                        Ok(walk(newest, &newest_settled(events, read_at).unwrap_or(Anchor::Since(*since))))
                    }
                    // Stripe said that more lie beyond and showed none: those have expired in between, and the page
                    // dived past last was not shown. The next run dives again.
                    (None, Some(_)) => Err(contradiction()),
                }
            }
        }
    }
}

fn contradiction() -> Error {
    Error::new(ErrorKind::Decode, "the list of events says that more follow and shows none").during("stripe", "sync")
}

fn done(anchor: Anchor, read_at: i64) -> Next {
    Next::Done { resume: Some(Cursor::new(anchor.kept(read_at).write())) }
}

/// Returns the anchor behind the newest event that was old enough when it was read for nothing to appear before it any more.
fn newest_settled(events: &[Seen], read_at: i64) -> Option<Anchor> {
    events.iter().rev().find_map(|event| settled(event, read_at))
}

/// As [`newest_settled`], for one event.
fn settled(event: &Seen, read_at: i64) -> Option<Anchor> {
    let created = event.created?;
    (created <= read_at.saturating_sub(OVERLAP_SECONDS)).then(|| Anchor::After(encode(&event.id).to_string(), created))
}

fn walk(newest: &Seen, anchor: &Anchor) -> Next {
    Next::More(Cursor::new(format!("walk:{}:{}", encode(newest.id.as_str()), anchor.write())))
}

/// Takes an event id as it stands in our cursors and queries: percent-encoded, so that no id can look like a cursor.
fn encoded(text: &str) -> Option<String> {
    let fits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-%".contains(&c));
    fits.then(|| text.to_owned())
}

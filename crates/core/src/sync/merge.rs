//! The merge rule: one pure function that decides what an observation does to what is stored.
//!
//! Two orders are used. *Causal*: a read that started after the stored state was committed here saw that state or a
//! later one; no clock is involved. *By span*: otherwise the provider's own time decides, and where two spans overlap
//! nothing can be known from them, so the record is fetched (which is causal).
//!
//! What the rule promises, searched over all interleavings of a small world: when the provider is quiet and each of
//! its events was applied at least once, in any order, the stored state is the provider's. What no event told (a
//! deletion whose event is lost for good) is found by a full run, as far as no older event or fetch is merged while
//! it runs or after it; such a one is found by the full run after that.

use std::time::Duration;

use super::Span;
use crate::clock::Timestamp;
use crate::store::FEED_HORIZON_MIN;

/// What is stored of a record, as far as the rule needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct Stored {
    /// When the stored state was true at the provider.
    pub span: Span,
    /// The stream's commit counter when it was last confirmed or changed here.
    pub observed: u64,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// The hash of its content; zero for a tombstone.
    pub hash: u64,
}

/// An observation to merge, as far as the rule needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct Incoming {
    /// When its state was true at the provider.
    pub span: Span,
    /// For a read: the stream's commit counter when the read started. `None` for an event.
    pub read_since: Option<u64>,
    /// What it says.
    pub seen: Seen,
    /// Tombstones of before this moment (the provider's milliseconds) may be forgotten ([`forgotten_before`]).
    pub forgotten_before: i64,
}

/// What an observation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the rule decides on each")]
pub enum Seen {
    /// The record exists with content of this hash.
    Present {
        /// The content's hash.
        hash: u64,
    },
    /// The record is deleted.
    Deleted,
    /// Something happened; fetch it.
    Unclear,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: stores decide on each")]
pub enum Verdict {
    /// Store it; the feed gets a change.
    Write,
    /// The content is the same: move span and counter forward, no change in the feed.
    Confirm,
    /// It is older than what is stored: nothing changes.
    Older,
    /// It cannot be ordered against what is stored: fetch the record.
    Fetch,
}

/// Decides what `incoming` does to `stored`.
#[must_use]
pub fn merge(stored: Option<Stored>, incoming: Incoming) -> Verdict {
    let Some(stored) = stored else {
        let is_event = incoming.read_since.is_none();
        return match incoming.seen {
            Seen::Unclear => Verdict::Fetch,
            // The record may have been deleted since, and its tombstone be forgotten: an old event, replayed, would bring it
            // back.
            Seen::Present { .. } if is_event && incoming.span.latest < incoming.forgotten_before => Verdict::Fetch,
            Seen::Present { .. } | Seen::Deleted => Verdict::Write,
        };
    };
    let causal = incoming.read_since.is_some_and(|since| stored.observed <= since);
    let later = causal || incoming.span.earliest > stored.span.latest;
    let earlier = !causal && incoming.span.latest < stored.span.earliest;
    if earlier {
        return Verdict::Older;
    }
    match incoming.seen {
        Seen::Unclear => Verdict::Fetch,
        Seen::Deleted if stored.deleted => Verdict::Confirm,
        Seen::Present { hash } if !stored.deleted && hash == stored.hash => Verdict::Confirm,
        Seen::Present { .. } | Seen::Deleted if later => Verdict::Write,
        // A tie, and the provider tells a deletion: it is for good, so it is the last thing that happened in its span. What
        // is stored may be from behind that span, read when the record had come back. A read that only found nothing
        // (a 404) may be from before the record came back: it is a tie as any other.
        Seen::Deleted if incoming.read_since.is_none() && stored.span.latest <= incoming.span.latest => Verdict::Write,
        Seen::Deleted => Verdict::Fetch,
        // Also over a tombstone: it may come from a 404 or from a full run, and be older than this.
        Seen::Present { .. } => Verdict::Fetch,
    }
}

/// Returns the moment before which a tombstone may be forgotten at `now`: the change feed keeps each for a week at least,
/// less a day, by which clocks may differ and a deletion may have come late.
#[must_use]
pub fn forgotten_before(now: Timestamp) -> i64 {
    const MARGIN: Duration = Duration::from_secs(86_400);
    now.minus(FEED_HORIZON_MIN.saturating_sub(MARGIN)).millis()
}

/// Returns the span a record has after `incoming` was written or confirmed over `stored`.
///
/// What is stored then was true at the later of two moments, one in each span, so both ends move forward and never
/// back: a read answered by a machine whose clock is behind cannot open the door to an event older than what is
/// stored.
#[must_use]
pub fn span_after(stored: Option<Stored>, incoming: Incoming) -> Span {
    stored.map_or(incoming.span, |stored| Span {
        earliest: stored.span.earliest.max(incoming.span.earliest),
        latest: stored.span.latest.max(incoming.span.latest),
    })
}

/// Returns the hash of a record's content that stores keep and compare: the first eight bytes of its SHA-256.
#[must_use]
pub fn content_hash(content: &[u8]) -> u64 {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(content);
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;

//! The change feed as its consumers see it: a cursor to keep, pages that wait for the next change, and a stream that
//! follows for ever.
//!
//! Each record stands in the feed once, with its latest state, at the number of its last change. A consumer keeps the
//! cursor of what it has dealt with, in the same transaction as its own work where it can, and asks again from there.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{Stream, StreamExt, TryStreamExt};
use palisade_core::store::{ChangeKind, FeedEntry, FeedPage, Record, Store, StreamKey};
use palisade_core::webhook::hmac;
use palisade_core::{ConnectionId, Error, ErrorKind, Result, StreamName};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::hub::{Hub, Shared};
use crate::overview;

/// How often somebody who waits looks by itself: what another process commits rings no bell here.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pause after a bell that rang for nothing.
const BREATH: Duration = Duration::from_millis(20);
/// Changes a follower reads at once.
const PAGE: u32 = 1_000;

// ------------------------------------------------------------------------------------------------------ cursor

/// The form of a cursor's text.
const VERSION: u8 = 1;
/// Bytes of a cursor's mark.
const MARK_BYTES: usize = 6;
/// Bytes of a cursor: version, mark, two numbers.
const CURSOR_BYTES: usize = 1 + MARK_BYTES + 8 + 8;

/// A place in the feed of one stream, to be kept by a consumer. Its text is opaque and stays readable by later versions.
///
/// # Examples
/// ```
/// # use palisade_hub::feed::FeedCursor;
/// # fn kept() -> String { FeedCursor::start(&"acme".into(), &"customers".into()).to_string() }
/// let cursor: FeedCursor = kept().parse()?;
/// assert_eq!(cursor.to_string(), kept());
/// # Ok::<(), palisade_core::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FeedCursor {
    /// Binds it to its stream: taken to another one it would skip records unseen.
    mark: [u8; MARK_BYTES],
    /// Everything up to this number has been read.
    seq: u64,
    /// The head when the reading began: what was deleted by then was never seen alive, so its tombstones are not missed.
    base: u64,
}

impl FeedCursor {
    /// Returns the beginning of a stream's feed.
    #[must_use]
    pub fn start(connection: &ConnectionId, stream: &StreamName) -> Self {
        let (connection, stream) = (connection.as_str().as_bytes(), stream.as_str().as_bytes());
        let code = hmac::sha256(b"palisade feed cursor 1", &[connection, b"\0", stream]);
        let mut mark = [0; MARK_BYTES];
        mark.iter_mut().zip(code).for_each(|(to, from)| *to = from);
        Self { mark, seq: 0, base: 0 }
    }

    fn start_of(key: &StreamKey) -> Self {
        Self::start(&key.connection, &key.stream)
    }

    /// Returns the place behind a whole reading of a stream at a head.
    pub(crate) fn behind(key: &StreamKey, head: u64) -> Self {
        Self { seq: head, base: head, ..Self::start_of(key) }
    }

    /// Checks that a page of `key` read after this place continues it.
    fn check(&self, key: &StreamKey, page: &FeedPage) -> Result<()> {
        if self.mark != Self::start_of(key).mark {
            return Err(Error::new(ErrorKind::Invalid, "the cursor is one of another stream"));
        }
        if self.seq.max(self.base) > page.head {
            return Err(Error::new(
                ErrorKind::CursorExpired,
                "the cursor is ahead of this database, which was restored or made anew since",
            ));
        }
        let begins = self.seq == 0 && self.base == 0;
        if !begins && self.seq.max(self.base) < page.horizon {
            return Err(Error::new(
                ErrorKind::CursorExpired,
                "the cursor is too old: deletions after it are not kept any more",
            ));
        }
        Ok(())
    }

    /// Returns the place after a page that was read after this one.
    fn after(self, page: &FeedPage) -> Self {
        let base = if self.seq == 0 && self.base == 0 { page.head } else { self.base };
        let seq = match page.entries.last() {
            Some(last) if page.more => last.record.seq,
            // Everything up to the head of the snapshot was read.
            Some(_) | None => page.head,
        };
        Self { seq, base, ..self }
    }
}

impl fmt::Display for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(CURSOR_BYTES);
        bytes.push(VERSION);
        bytes.extend(self.mark);
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.base.to_be_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for FeedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedCursor").field("seq", &self.seq).field("base", &self.base).finish_non_exhaustive()
    }
}

impl FromStr for FeedCursor {
    type Err = Error;

    /// Reads a cursor's text.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is none, or one of a newer program.
    fn from_str(text: &str) -> Result<Self> {
        let broken = || Error::new(ErrorKind::Invalid, "this is no cursor of the change feed");
        // Longer than any: not worth decoding.
        if text.len() > 2 * CURSOR_BYTES {
            return Err(broken());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| broken())?;
        match bytes.split_first() {
            Some((&VERSION, _)) => {}
            Some((version, _)) if bytes.len() == CURSOR_BYTES && *version > VERSION => {
                return Err(Error::new(ErrorKind::Invalid, "the cursor was made by a newer program"));
            }
            Some(_) | None => return Err(broken()),
        }
        let parts = bytes.get(1..).and_then(|rest| rest.split_first_chunk::<MARK_BYTES>());
        let (mark, numbers) = parts.ok_or_else(broken)?;
        let (seq, base) = numbers.split_first_chunk::<8>().ok_or_else(broken)?;
        let base: [u8; 8] = base.try_into().map_err(|_| broken())?;
        Ok(Self { mark: *mark, seq: u64::from_be_bytes(*seq), base: u64::from_be_bytes(base) })
    }
}

impl TryFrom<String> for FeedCursor {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<FeedCursor> for String {
    fn from(cursor: FeedCursor) -> Self {
        cursor.to_string()
    }
}

// ----------------------------------------------------------------------------------------------------- reading

/// What was read after a cursor.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) entries: Vec<FeedEntry>,
    pub(crate) more: bool,
    /// The place after it; the same when nothing was read.
    pub(crate) next: FeedCursor,
}

/// Reads up to `limit` changes after a cursor.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a cursor of another stream, [`ErrorKind::CursorExpired`] for one that must begin anew,
/// [`ErrorKind::Store`].
pub(crate) async fn read(store: &dyn Store, key: &StreamKey, after: Option<FeedCursor>, limit: u32) -> Result<Read> {
    let cursor = after.unwrap_or_else(|| FeedCursor::start_of(key));
    let page = store.feed(key.clone(), cursor.seq, limit).await?;
    cursor.check(key, &page)?;
    let next = cursor.after(&page);
    Ok(Read { entries: page.entries, more: page.more, next })
}

/// Those who wait for the next change over HTTP.
#[derive(Debug)]
pub(crate) struct WaitingRoom {
    seats: Arc<Semaphore>,
    closed: watch::Sender<bool>,
}

impl WaitingRoom {
    pub(crate) fn new(seats: usize) -> Self {
        Self { seats: Arc::new(Semaphore::new(seats)), closed: watch::Sender::new(false) }
    }

    /// Answers everybody who waits, and lets nobody wait any more.
    pub(crate) fn close(&self) {
        self.closed.send_replace(true);
    }

    fn sit(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.seats).try_acquire_owned().map_err(|_| {
            Error::new(ErrorKind::Overloaded, "too many wait for changes already")
                .with_retry_after(Some(Duration::from_secs(1)))
        })
    }

    /// Reads as [`read`] does, and where there is nothing yet waits for the next change, up to `wait`.
    ///
    /// # Errors
    /// As [`read`]; [`ErrorKind::Overloaded`] when too many wait already.
    pub(crate) async fn read(
        &self,
        store: &dyn Store,
        key: &StreamKey,
        after: Option<FeedCursor>,
        limit: u32,
        wait: Duration,
    ) -> Result<Read> {
        let until = Instant::now() + wait;
        let mut found = read(store, key, after, limit).await?;
        if !found.entries.is_empty() || wait.is_zero() {
            return Ok(found);
        }
        let _seat = self.sit()?;
        let mut closed = self.closed.subscribe();
        while found.entries.is_empty() && Instant::now() < until {
            tokio::select! {
                () = changed(store, key, found.next.seq, until) => {}
                _ = closed.wait_for(|closed| *closed) => break,
            }
            found = read(store, key, Some(found.next), limit).await?;
        }
        Ok(found)
    }
}

/// Waits until there may be a change after a number: a bell of this process, or the time to look for those of others.
async fn changed(store: &dyn Store, key: &StreamKey, after: u64, until: Instant) {
    let look = (Instant::now() + LOOK_EVERY).min(until);
    tokio::select! {
        () = async { store.wait_for_change(key.clone(), after).await; sleep_breath(store, key, after).await } => {}
        () = sleep_until(look) => {}
    }
}

/// Holds back a bell that rang for nothing, so that no store makes its waiters spin.
async fn sleep_breath(store: &dyn Store, key: &StreamKey, after: u64) {
    let grown = store.stream(key.clone()).await.is_ok_and(|status| status.head > after);
    if !grown {
        sleep(BREATH).await;
    }
}

// --------------------------------------------------------------------------------------------------- following

/// One change of the feed with the cursor to keep once it is dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct FeedChange {
    /// What happened.
    pub kind: ChangeKind,
    /// The record, as it is now.
    pub record: Record,
    /// The place after it.
    pub cursor: FeedCursor,
}

impl Hub {
    /// Follows the changes of a stream after a cursor, or from the beginning, for ever: each record once with its
    /// latest state, in the order of the commits, then each further change as it is committed, by this process or
    /// another one. No more than a page is in memory. Whoever keeps the cursor of each change with what it does about
    /// it has no gap after a crash and no repeat beyond its last cursor.
    ///
    /// An error ends it; go on from the last cursor, or from the beginning where the kind says so:
    /// [`ErrorKind::Invalid`] for a cursor of another stream, [`ErrorKind::CursorExpired`] for one from before deletions
    /// were removed (by default 30 days) or ahead of a restored database, [`ErrorKind::NotFound`] for a connection or
    /// stream that is not there, [`ErrorKind::Store`].
    ///
    /// # Examples
    /// ```no_run
    /// # use futures_util::StreamExt;
    /// # use palisade_hub::{Hub, feed::FeedCursor};
    /// # async fn example(hub: Hub, kept: Option<FeedCursor>) -> palisade_core::Result<()> {
    /// let mut changes = std::pin::pin!(hub.changes(&"acme".into(), &"customers".into(), kept));
    /// while let Some(change) = changes.next().await {
    ///     let change = change?;
    ///     println!("{:?} {}", change.kind, change.record.id);
    ///     // Keep change.cursor with what was done about it.
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn changes(
        &self,
        connection: &ConnectionId,
        stream: &StreamName,
        after: Option<FeedCursor>,
    ) -> impl Stream<Item = Result<FeedChange>> + Send + use<> {
        follow(Arc::clone(&self.shared), key_of(connection, stream), after, true)
    }

    /// Reads the changes of a stream after a cursor as [`Hub::changes`] does, and ends where there are no more.
    pub fn changes_so_far(
        &self,
        connection: &ConnectionId,
        stream: &StreamName,
        after: Option<FeedCursor>,
    ) -> impl Stream<Item = Result<FeedChange>> + Send + use<> {
        follow(Arc::clone(&self.shared), key_of(connection, stream), after, false)
    }
}

fn key_of(connection: &ConnectionId, stream: &StreamName) -> StreamKey {
    StreamKey { connection: connection.clone(), stream: stream.clone() }
}

/// Checks that there are such a connection and such a stream.
///
/// # Errors
/// [`ErrorKind::NotFound`] in one phrase; [`ErrorKind::Store`].
pub(crate) async fn check_known(shared: &Shared, key: &StreamKey) -> Result<()> {
    let missing = |what| Err(Error::new(ErrorKind::NotFound, what));
    let Some(known) = shared.store.connection(key.connection.clone()).await? else {
        return missing("there is no such connection");
    };
    if !overview::stream_names(shared, &known.provider).contains(&key.stream.as_str()) {
        return missing("this connection's provider has no such stream");
    }
    Ok(())
}

fn follow(
    shared: Arc<Shared>,
    key: StreamKey,
    after: Option<FeedCursor>,
    for_ever: bool,
) -> impl Stream<Item = Result<FeedChange>> + Send {
    let begin = Follower { shared, key, place: Some(after), for_ever };
    let pages = futures_util::stream::try_unfold(begin, Follower::page);
    pages.map_ok(|changes| futures_util::stream::iter(changes).map(Ok)).try_flatten()
}

/// One who follows a feed.
struct Follower {
    shared: Arc<Shared>,
    key: StreamKey,
    /// The cursor it goes on from; nothing once it has ended.
    place: Option<Option<FeedCursor>>,
    for_ever: bool,
}

impl Follower {
    /// Reads the next page, waiting for one where it follows for ever.
    async fn page(mut self) -> Result<Option<(Vec<FeedChange>, Self)>> {
        let Some(after) = self.place else { return Ok(None) };
        if after.is_none_or(|cursor| cursor.seq == 0) {
            check_known(&self.shared, &self.key).await?;
        }
        let store = &*self.shared.store;
        let mut found = read(store, &self.key, after, PAGE).await?;
        while found.entries.is_empty() && self.for_ever {
            changed(store, &self.key, found.next.seq, Instant::now() + LOOK_EVERY).await;
            found = read(store, &self.key, Some(found.next), PAGE).await?;
        }
        self.place = (found.more || self.for_ever).then_some(Some(found.next));
        Ok(Some((changes_of(found), self)))
    }
}

/// Gives each change of a page the cursor after it.
fn changes_of(read: Read) -> Vec<FeedChange> {
    let Read { entries, next, .. } = read;
    let last = entries.len().saturating_sub(1);
    let change = |(number, entry): (usize, FeedEntry)| {
        let cursor = if number == last { next } else { FeedCursor { seq: entry.record.seq, ..next } };
        FeedChange { kind: entry.kind, record: entry.record, cursor }
    };
    entries.into_iter().enumerate().map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(connection: &str, stream: &str) -> StreamKey {
        StreamKey { connection: connection.into(), stream: stream.into() }
    }

    fn page(head: u64, horizon: u64) -> FeedPage {
        FeedPage { head, horizon, ..FeedPage::default() }
    }

    fn at(seq: u64, base: u64) -> FeedCursor {
        FeedCursor { seq, base, ..FeedCursor::start_of(&key("acme", "customers")) }
    }

    // Fails when the mark is left out (a cursor would be taken to another stream and skip its records) or when a broken
    // text is read as some cursor.
    #[test]
    fn a_cursor_is_read_back_and_is_good_for_its_stream_only() {
        let customers = key("acme", "customers");
        for (seq, base) in [(0, 0), (1, 7), (u64::MAX, u64::MAX)] {
            let cursor = at(seq, base);
            assert_eq!(cursor.to_string().parse::<FeedCursor>().unwrap(), cursor);
            let json = serde_json::to_string(&cursor).unwrap();
            assert_eq!(serde_json::from_str::<FeedCursor>(&json).unwrap(), cursor);
        }
        let cursor = at(7, 7);
        assert!(cursor.check(&customers, &page(7, 0)).is_ok());
        for other in [key("acme", "prices"), key("acmecustomers", ""), key("", "acmecustomers")] {
            assert_eq!(cursor.check(&other, &page(7, 0)).unwrap_err().kind(), ErrorKind::Invalid);
        }
        let text = cursor.to_string();
        let newer = format!("Ag{}", &text[2..]);
        for broken in
            ["", "0", "!!!", "AAAA", &format!("{text}A"), &text[1..], &text[..text.len() - 1], &"A".repeat(9_999)]
        {
            assert_eq!(broken.parse::<FeedCursor>().unwrap_err().kind(), ErrorKind::Invalid, "{broken}");
        }
        assert!(newer.parse::<FeedCursor>().unwrap_err().message().contains("newer"));
    }

    // Fails when a reader below the horizon goes on without the deletions it missed, or when one that began after them
    // is sent back: with a horizon that keeps rising it would never come to the end.
    #[test]
    fn a_cursor_is_too_old_when_it_may_have_missed_a_deletion() {
        let customers = key("acme", "customers");
        let cases = [
            ("the beginning is always lawful", at(0, 0), page(900, 500), true),
            ("began and read before the horizon", at(200, 300), page(900, 500), false),
            ("began before the horizon, has read past it", at(500, 300), page(900, 500), true),
            ("began after the horizon, has read little", at(1, 500), page(900, 500), true),
            ("at the head", at(900, 0), page(900, 900), true),
            ("ahead of a restored database", at(901, 0), page(900, 0), false),
            ("began ahead of a restored database", at(3, 901), page(900, 0), false),
        ];
        for (case, cursor, page, lawful) in cases {
            let kind = cursor.check(&customers, &page).err().map(|error| error.kind());
            assert_eq!(kind, (!lawful).then_some(ErrorKind::CursorExpired), "{case}");
        }
    }
}

//! The change feed: a page of it with what judges a reader's position, and the bells of those who wait for more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{FeedEntry, StreamKey};

/// Tombstones must be kept for at least this long. A provider repeats an event for days, and one that comes after its
/// record's tombstone is gone would bring the record back until the next full run.
pub const FEED_HORIZON_MIN: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// A page of a stream's feed, read in one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct FeedPage {
    /// The changes, in the order of their numbers.
    pub entries: Vec<FeedEntry>,
    /// The number of the newest change in the stream.
    pub head: u64,
    /// The greatest number of a tombstone that was removed; 0 when none was. A reader who began at a head below it and
    /// has read no further may have missed a deletion.
    pub horizon: u64,
    /// Whether there are more after these.
    pub more: bool,
}

impl FeedPage {
    /// Cuts a page that holds everything into pages of up to `size` changes; at least one.
    pub(crate) fn pages(self, size: usize) -> Vec<Self> {
        let Self { entries, head, horizon, more } = self;
        let count = entries.len().div_ceil(size.max(1)).max(1);
        let mut entries = entries.into_iter();
        let page = |number: usize| {
            let entries: Vec<_> = entries.by_ref().take(size.max(1)).collect();
            Self { entries, head, horizon, more: more || number + 1 < count }
        };
        (0..count).map(page).collect()
    }
}

/// Wakes those who wait for the next change of a stream. For stores: [`FeedBells::ring`] after a commit, and
/// [`FeedBells::listen`] for [`Records::wait_for_change`](super::Records::wait_for_change).
#[derive(Debug, Default)]
pub struct FeedBells {
    waiting: Mutex<HashMap<StreamKey, watch::Sender<()>>>,
}

impl FeedBells {
    fn lock(&self) -> MutexGuard<'_, HashMap<StreamKey, watch::Sender<()>>> {
        // Nothing that can panic runs under the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes everybody who listens for the stream.
    pub fn ring(&self, key: &StreamKey) {
        if let Some(bell) = self.lock().get(key) {
            bell.send_replace(());
        }
    }

    /// Wakes everybody who listens for any stream.
    pub fn ring_all(&self) {
        for bell in self.lock().values() {
            bell.send_replace(());
        }
    }

    /// Listens for a stream from now on: look for changes afterwards, and again after each
    /// [`FeedListener::rung`]; nothing is slept through then.
    pub fn listen<'b>(&'b self, key: &'b StreamKey) -> FeedListener<'b> {
        let rung = self.lock().entry(key.clone()).or_default().subscribe();
        FeedListener { bells: self, key, rung }
    }

    /// Counts those who listen, of all streams.
    #[must_use]
    pub fn listeners(&self) -> usize {
        self.lock().values().map(watch::Sender::receiver_count).sum()
    }
}

/// One who waits for changes of a stream; a dropped one leaves nothing behind.
#[derive(Debug)]
pub struct FeedListener<'b> {
    bells: &'b FeedBells,
    key: &'b StreamKey,
    rung: watch::Receiver<()>,
}

impl FeedListener<'_> {
    /// Waits for a ring since the last one that was waited for, or since it began to listen.
    pub async fn rung(&mut self) {
        // The bell is there for as long as somebody listens.
        let _ = self.rung.changed().await;
    }
}

impl Drop for FeedListener<'_> {
    fn drop(&mut self) {
        let mut waiting = self.bells.lock();
        // Ours is still counted.
        if waiting.get(self.key).is_some_and(|bell| bell.receiver_count() <= 1) {
            waiting.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(stream: &str) -> StreamKey {
        StreamKey { connection: "acme".into(), stream: stream.into() }
    }

    /// Fails when a bell that rings between the look and the wait is slept through, or when one of another stream wakes.
    #[tokio::test(start_paused = true)]
    async fn a_ring_before_the_wait_is_heard() {
        let bells = FeedBells::default();
        let (customers, prices) = (key("customers"), key("prices"));
        let mut listener = bells.listen(&customers);
        bells.ring(&customers);
        bells.ring(&customers);
        listener.rung().await;
        bells.ring(&prices);
        assert!(tokio::time::timeout(Duration::from_secs(1), listener.rung()).await.is_err());
        bells.ring_all();
        listener.rung().await;
    }

    /// Fails when a dropped listener stays in the map, or takes another's bell away.
    #[tokio::test]
    async fn a_dropped_listener_leaves_nothing_behind() {
        let bells = FeedBells::default();
        let customers = key("customers");
        let first = bells.listen(&customers);
        let mut second = bells.listen(&customers);
        assert_eq!(bells.listeners(), 2);
        drop(first);
        bells.ring(&customers);
        second.rung().await;
        drop(second);
        assert_eq!((bells.listeners(), bells.lock().len()), (0, 0));
    }
}

//! The pauses' way to the store and back: what a provider asked one process to leave alone, every process on the same
//! database leaves alone, also one that starts later.
//!
//! The pipeline pushes without waiting; the runner writes at once what has come, and looks every few seconds for what
//! other processes have written.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use palisade_core::client::PauseObserver;
use palisade_core::store::{PAUSES_MAX, Pause};
use palisade_core::{Result, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::hub::Shared;

/// Lanes whose pauses may wait to be written; what is beyond is heeded by this process only.
const WAITING_MAX: usize = PAUSES_MAX as usize;
/// Pauses written in one transaction.
const BATCH_MAX: usize = 512;
/// How long pauses gather before they are written: calls that were under way together are turned away together.
const GATHER: Duration = Duration::from_millis(50);
/// How often the pauses of other processes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long to wait after the store refused a batch.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// A lane of a provider.
type Lane = (String, String);

/// The pauses of this process that are not written yet, one a lane, and those it knows to be.
#[derive(Debug, Default)]
pub(crate) struct PauseBook {
    waiting: Mutex<BTreeMap<Lane, Pause>>,
    /// When the stored pauses end that this process heeds already.
    heeded: Mutex<HashMap<Lane, Timestamp>>,
    arrived: Notify,
}

impl PauseBook {
    /// Heeds what is stored and was not heeded before; returns how many lanes that holds back.
    ///
    /// # Errors
    /// As [`Pauses::pauses`](palisade_core::store::Pauses::pauses).
    pub(crate) async fn look(&self, shared: &Shared) -> Result<usize> {
        let limit = PAUSES_MAX.saturating_mul(u32::try_from(shared.clients.len()).unwrap_or(u32::MAX));
        let mut stored = shared.store.pauses(shared.clock.now(), limit).await?;
        let mut heeded = lock(&self.heeded);
        let known = std::mem::take(&mut *heeded);
        heeded.extend(stored.iter().map(|pause| (lane(pause), pause.until)));
        drop(heeded);
        // Once only: what a clock that jumps makes of a moment must not hold a lane back again and again.
        stored.retain(|pause| known.get(&lane(pause)).is_none_or(|until| *until < pause.until));
        if !stored.is_empty() {
            for client in shared.clients.values() {
                client.restore(&stored);
            }
        }
        Ok(stored.len())
    }

    /// Writes and looks until `stop` is true, then writes what is left, once.
    pub(crate) async fn run(&self, shared: &Shared, mut stop: watch::Receiver<bool>) {
        let mut round = interval(LOOK_EVERY);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is at once, and the runner has just looked.
        round.tick().await;
        while !*stop.borrow() {
            let due = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => false,
                () = self.gathered() => false,
                _ = round.tick() => true,
            };
            if due && let Err(error) = self.look(shared).await {
                tracing::warn!(%error, "the pauses of other processes could not be read");
            }
            if !self.write(shared).await {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = sleep(REFUSED_PAUSE) => {}
                }
            }
        }
        while !self.is_empty() && self.write(shared).await {}
    }

    fn is_empty(&self) -> bool {
        lock(&self.waiting).is_empty()
    }

    async fn gathered(&self) {
        if self.is_empty() {
            self.arrived.notified().await;
        }
        sleep(GATHER).await;
    }

    /// Writes one batch; a refused one waits on.
    async fn write(&self, shared: &Shared) -> bool {
        let batch: Vec<Pause> = lock(&self.waiting).values().take(BATCH_MAX).cloned().collect();
        if batch.is_empty() {
            return true;
        }
        if let Err(error) = shared.store.put_pauses(batch.clone()).await {
            tracing::warn!(%error, pauses = batch.len(), "pauses could not be written");
            return false;
        }
        let (mut waiting, mut heeded) = (lock(&self.waiting), lock(&self.heeded));
        for pause in batch {
            let lane = lane(&pause);
            // It may have grown meanwhile.
            if waiting.get(&lane) == Some(&pause) {
                waiting.remove(&lane);
            }
            heeded.insert(lane, pause.until);
        }
        true
    }
}

impl PauseObserver for PauseBook {
    fn paused(&self, pause: Pause) {
        let mut waiting = lock(&self.waiting);
        let full = waiting.len() >= WAITING_MAX;
        match waiting.entry(lane(&pause)) {
            Entry::Occupied(mut known) if known.get().until < pause.until => drop(known.insert(pause)),
            Entry::Occupied(_) => {}
            Entry::Vacant(_) if full => {}
            Entry::Vacant(new) => drop(new.insert(pause)),
        }
        drop(waiting);
        self.arrived.notify_one();
    }
}

fn lane(pause: &Pause) -> Lane {
    (pause.provider.clone(), pause.lane.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(lane: &str, until: i64) -> Pause {
        let provider = "slack".to_owned();
        Pause { provider, lane: lane.to_owned(), at: Timestamp(0), until: Timestamp(until) }
    }

    // Fails when a pause that is told again shrinks, or lanes without end wait to be written.
    #[test]
    fn a_lane_waits_once_with_its_latest_end_and_lanes_are_bounded() {
        let book = PauseBook::default();
        for until in [50, 70, 60] {
            book.paused(pause("a", until));
        }
        assert_eq!(lock(&book.waiting).values().cloned().collect::<Vec<_>>(), [pause("a", 70)]);
        (0..2 * WAITING_MAX).for_each(|n| book.paused(pause(&n.to_string(), 1)));
        book.paused(pause("a", 80));
        let waiting = lock(&book.waiting);
        assert_eq!((waiting.len(), waiting.get(&lane(&pause("a", 0))).unwrap().until), (WAITING_MAX, Timestamp(80)));
    }
}

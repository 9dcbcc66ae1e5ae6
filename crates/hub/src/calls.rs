//! The call log's way to the store: the pipeline pushes without waiting, the runner writes batches.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use palisade_core::client::Observer;
use palisade_core::store::{CallRecord, Store};
use tokio::sync::{Notify, watch};

/// Calls written in one transaction.
const BATCH_MAX: usize = 512;
/// How long calls gather before they are written: nobody waits for them.
const GATHER: Duration = Duration::from_millis(250);
/// How long to wait after the store refused a batch.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// A bounded queue of finished calls. When it is full new ones are dropped and counted, so that a slow store never
/// slows a call.
#[derive(Debug)]
pub(crate) struct CallQueue {
    waiting: Mutex<VecDeque<CallRecord>>,
    max: usize,
    dropped: AtomicU64,
    arrived: Notify,
}

impl CallQueue {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), max, dropped: AtomicU64::new(0), arrived: Notify::new() })
    }

    /// Returns how many calls were dropped because the queue was full.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn take(&self) -> Vec<CallRecord> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(BATCH_MAX);
        waiting.drain(..count).collect()
    }

    fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Writes batches until `stop` is true, then what is left, once.
    pub(crate) async fn run(&self, store: &dyn Store, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => {}
                () = self.gathered() => {}
            }
            if !self.write(store).await {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = tokio::time::sleep(REFUSED_PAUSE) => {}
                }
            }
        }
        while !self.is_empty() && self.write(store).await {}
    }

    async fn gathered(&self) {
        if self.is_empty() {
            self.arrived.notified().await;
        }
        tokio::time::sleep(GATHER).await;
    }

    /// Writes one batch. A refused one is counted as dropped: the log is for people, and waiting here would keep the
    /// newest calls, which they look for first, from being written.
    async fn write(&self, store: &dyn Store) -> bool {
        let batch = self.take();
        if batch.is_empty() {
            return true;
        }
        let count = batch.len();
        match store.log_calls(batch).await {
            Ok(()) => true,
            Err(error) => {
                self.dropped.fetch_add(count as u64, Ordering::Relaxed);
                tracing::warn!(%error, calls = count, "finished calls could not be logged");
                false
            }
        }
    }
}

impl Observer for CallQueue {
    fn observe(&self, call: CallRecord) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= self.max {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push_back(call);
        drop(waiting);
        self.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use palisade_core::Timestamp;
    use palisade_core::store::CallLog;
    use palisade_core::store::memory::MemoryStore;

    use super::*;

    fn call(n: i64) -> CallRecord {
        CallRecord {
            at: Timestamp(n),
            provider: "stripe".to_owned(),
            operation: "customers.list".to_owned(),
            connection: "acme".into(),
            status: Some(200),
            error: None,
            outcome: None,
            attempts: 1,
            duration_us: 1,
            waited_us: 0,
            request_id: None,
            correlation_id: None,
        }
    }

    // Fails when only one batch is written after the stop.
    #[tokio::test(start_paused = true)]
    async fn what_waits_at_a_stop_is_written() {
        let (store, queue) = (MemoryStore::new(), CallQueue::new(5_000));
        let count = BATCH_MAX * 3 + 1;
        (0..count).for_each(|n| queue.observe(call(n as i64)));
        let (_stop, stopped) = watch::channel(true);
        queue.run(&store, stopped).await;
        assert_eq!(store.calls(None, 5_000).await.unwrap().len(), count);
        assert_eq!(queue.dropped(), 0);
    }

    // Fails when the queue grows without bound, or when what is dropped is not counted.
    #[test]
    fn a_full_queue_drops_and_counts() {
        let queue = CallQueue::new(3);
        (0..10).for_each(|n| queue.observe(call(n)));
        assert_eq!((queue.take().len(), queue.dropped()), (3, 7));
    }
}

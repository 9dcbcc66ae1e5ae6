//! Old rows go in steps, and deliveries are taken between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use palisade_core::clock::ManualClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::{EventState, Inbox, Jobs, LayeredStore, NewDelivery, NewEvent, Queue, StoreLayer};
use palisade_core::worker::Worker;
use palisade_core::{Result, Timestamp};

use crate::subject::{delivery, job, open};

/// Deliveries are kept this long, and a day more has passed.
const LATER: Timestamp = Timestamp(31 * 86_400_000);

/// Counts the steps a retention has done.
#[derive(Clone, Debug, Default)]
struct Steps(Arc<AtomicU32>);

impl StoreLayer for Steps {
    async fn around<T: Send>(&self, name: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let done = call.await;
        if name == "prune_events" {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        done
    }
}

/// Fails when a retention holds the writer for more than a step, or a step has no bound: a provider would wait for its
/// answer until all that is old is gone, and send again.
#[tokio::test]
async fn deliveries_are_taken_between_the_steps_of_a_long_retention() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("old.db"));
    for batch in 0..12 {
        let old = |n: u32| NewEvent {
            id: format!("{batch}-{n}").into(),
            wanted: false,
            ..delivery("", Bytes::new()).events.remove(0)
        };
        let events = (0..1_000).map(old).collect();
        store.append(vec![NewDelivery { events, ..delivery("", Bytes::new()) }]).await.unwrap();
    }
    let steps = Steps::default();
    let layered = LayeredStore { inner: store.clone(), layer: steps.clone() };
    let clock = Arc::new(ManualClock::starting_at(LATER));
    let worker = Worker::builder(Arc::new(layered), clock, Arc::new(SeededRandom::new(1))).build().unwrap();
    store.enqueue(vec![job()]).await.unwrap();

    let over = AtomicBool::new(false);
    let retention = async {
        assert_eq!(worker.step(Queue::Background).await.unwrap(), 1);
        over.store(true, Ordering::SeqCst);
    };
    let deliveries = async {
        let mut taken = 0_u32;
        while !over.load(Ordering::SeqCst) {
            let before = steps.0.load(Ordering::SeqCst);
            let new = NewDelivery { received_at: LATER, ..delivery(&format!("new-{taken}"), Bytes::new()) };
            store.append(vec![new]).await.unwrap();
            // One is before it in the queue to the writer. A few more may be done before its answer is looked at: on a busy
            // machine this thread is the slower one.
            let meanwhile = steps.0.load(Ordering::SeqCst) - before;
            assert!(meanwhile <= 4, "it waited for {meanwhile} steps");
            taken += 1;
        }
        taken
    };
    let (patience, both) = (Duration::from_secs(300), async { tokio::join!(retention, deliveries) });
    let ((), taken) = tokio::time::timeout(patience, both).await.expect("the retention comes to its end");
    assert!(steps.0.load(Ordering::SeqCst) >= 12, "in steps of a thousand rows");
    assert!(taken >= 6, "{taken} deliveries were taken meanwhile");
    let kept = store.event_counts().await.unwrap();
    assert_eq!(kept, [(EventState::Pending, u64::from(taken))].into(), "what is old is gone, what is new stays");
    store.close().await.unwrap();
}

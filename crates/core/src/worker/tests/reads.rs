//! What a batch of events costs in looks into the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::events::of_provider;
use super::world::*;
use crate::error::{Error, ErrorKind, Result};
use crate::random::SeededRandom;
use crate::store::memory::MemoryStore;
use crate::store::*;
use crate::worker::*;

/// Counts calls by name; of the first that read events together it makes failures.
#[derive(Debug, Default)]
struct Counted {
    calls: Mutex<BTreeMap<&'static str, u32>>,
    failing: u32,
}

impl StoreLayer for Counted {
    async fn around<T: Send>(&self, name: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let count = {
            let mut calls = self.calls.lock().unwrap();
            let count = calls.entry(name).or_default();
            *count += 1;
            *count
        };
        if name == "events_to_handle" && count <= self.failing {
            return Err(Error::new(ErrorKind::Store, "the disk is slow today"));
        }
        call.await
    }
}

/// Handles 20 events by one claim; returns how often the store was asked for what, and how many are done.
async fn twenty(failing: u32) -> (BTreeMap<&'static str, u32>, u64) {
    let world = World::new().await;
    let layer = Counted { failing, ..Counted::default() };
    let store = Arc::new(LayeredStore { inner: MemoryStore::default(), layer });
    store.inner.put_connection(connection("conn")).await.unwrap();
    let handler = handler(|_, _| Box::pin(async { Handled::Done }));
    let random = Arc::new(SeededRandom::new(1));
    let worker = Worker::builder(store.clone(), world.clock.clone(), random)
        .settings(settings())
        .provider(Arc::new(world.fake.clone()), Arc::new(world.fake.clone()))
        .on("fake", "quick", handler)
        .build()
        .unwrap();
    store.inner.append(vec![of_provider(&world, "fake", &["quick"; 20])]).await.unwrap();
    assert_eq!(worker.step(Queue::Events).await.unwrap(), 20);
    let done = store.inner.event_counts().await.unwrap().get(&EventState::Done).copied().unwrap_or_default();
    let calls = store.layer.calls.lock().unwrap().clone();
    (calls, done)
}

/// Fails when each event, or its connection, is read by itself: on a thread of its own each, that cost more than all
/// else an event takes.
#[tokio::test(start_paused = true)]
async fn events_claimed_together_are_read_together() {
    let (calls, done) = twenty(0).await;
    assert_eq!((calls.get("events_to_handle"), calls.get("event"), calls.get("connection")), (Some(&1), None, None));
    assert_eq!((calls.get("claim"), done), (Some(&1), 20), "{calls:?}");
}

/// Fails when events that could not be read together are not handled, or cost an attempt.
#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_read_together_are_read_one_by_one() {
    let (calls, done) = twenty(1).await;
    assert_eq!((calls.get("events_to_handle"), done), (Some(&21), 20), "{calls:?}");
}

//! What a batch of events costs in looks into the store, and what happens while the store takes its time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

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

/// Takes its time before it erases.
#[derive(Debug, Default)]
struct Slow;

impl StoreLayer for Slow {
    async fn around<T: Send>(&self, name: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if name == "erase_records" {
            tokio::time::sleep(Duration::from_millis(2_500)).await;
        }
        call.await
    }
}

/// Fails when a full run that begins while a reset erases goes on behind it: what it had read by then was erased, and it
/// does not read it again.
#[tokio::test(start_paused = true)]
async fn a_reset_leaves_no_run_that_began_while_it_erased() {
    let world = World::new().await;
    for n in 0..10 {
        world.fake.put(&format!("t{n:03}"), Some(n));
    }
    let store = Arc::new(LayeredStore { inner: MemoryStore::default(), layer: Slow });
    store.inner.put_connection(connection("conn")).await.unwrap();
    let worker = Worker::builder(store.clone(), world.clock.clone(), Arc::new(SeededRandom::new(1)))
        .settings(settings())
        .provider(Arc::new(world.fake.clone()), Arc::new(world.fake.clone()))
        .build()
        .unwrap();
    worker.connect(&connection("conn")).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let key = StreamKey { connection: "conn".into(), stream: THINGS.into() };
    tokio::join!(worker.run(Queue::Background, stopped), async {
        world.wait(Duration::from_secs(60)).await;
        assert_eq!(store.stream(key.clone()).await.unwrap().records, 10);
        world.fake.truth().delay = Duration::from_secs(1);
        worker.sync_now(&key.connection, &key.stream, RunMode::Full).await.unwrap();
        world.wait(Duration::from_millis(1_500)).await;
        assert_eq!(worker.reset_stream(&key.connection, &key.stream, true).await.unwrap(), 10);
        world.wait(Duration::from_secs(60)).await;
        assert_eq!(store.stream(key.clone()).await.unwrap().records, 10, "all of them are read again");
        stop.send(true).unwrap();
    });
}

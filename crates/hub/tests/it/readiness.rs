//! `/healthz` and `/readyz`: ready means progress.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use palisade_core::clock::ManualClock;
use palisade_core::store::memory::MemoryStore;
use palisade_hub::Access;
use palisade_store::{SqliteConfig, SqliteStore};
use tokio::sync::watch;

use crate::fixtures::{NOW, ask, builder, fixture, settings};

// Fails when ready is answered because the process lives.
#[tokio::test]
async fn a_hub_without_a_runner_lives_and_is_not_ready() {
    let fixture = fixture();
    assert_eq!(fixture.get("/healthz").await.status, 200);
    let answer = fixture.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reasons"][0], "the runner is not running");
}

#[tokio::test(start_paused = true)]
async fn a_running_hub_becomes_ready_and_a_stalled_one_does_not_stay_so() {
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(store, clock.clone()).settings(settings(Access::Trusted)).build().unwrap();
    let router = hub.router();
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(hub.runner().run(stopped));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ready = || ask(&router, Request::get("/readyz").body(Body::empty()).unwrap());
    let answer = ready().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Time passes for everybody but the workers.
    clock.advance(Duration::from_secs(3_600));
    let answer = ready().await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("make no progress"), "{}", answer.text());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(ready().await.status, 200, "they work again");
    stop.send(true).unwrap();
    running.await.unwrap().unwrap();
    assert_eq!(ready().await.json()["reasons"][0], "the runner is not running");
}

// Fails when readiness does not ask the store for a write, or asks for one that needs no room.
#[tokio::test]
async fn a_store_that_does_not_write_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteConfig::at(folder.path().join("palisade.db"))).unwrap();
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(Arc::new(store.clone()), clock).settings(settings(Access::Trusted)).build().unwrap();
    let router = hub.router();
    let writes = async || {
        // The last answer is good for a second; only the time of the runtime moves.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        tokio::time::resume();
        let answer = ask(&router, Request::get("/readyz").body(Body::empty()).unwrap()).await.text();
        !answer.contains("does not write")
    };
    store.set_size_max(Some(1)).await.unwrap();
    assert!(!writes().await, "the disk is full");
    store.set_size_max(None).await.unwrap();
    assert!(writes().await, "there is room again");
    store.close().await.unwrap();
    assert!(!writes().await, "the store is closed");
}

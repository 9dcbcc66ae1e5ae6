//! The suite of every store, on the model itself and on SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use palisade_core::store::Store;
use palisade_core::store::memory::MemoryStore;
use palisade_testkit::store_suite::{self, StoreUnderTest};

use crate::subject::Sqlite;

struct Memory;

#[async_trait]
impl StoreUnderTest for Memory {
    async fn fresh(&self) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new())
    }
}

/// Fails when a check is added to the suite, or made stricter, and `MemoryStore` does not keep it.
#[tokio::test]
async fn the_model_keeps_every_promise() {
    store_suite::run_all(&Memory).await;
}

/// Fails when the fence is left out of a settlement, a repeated event is a new row, or a page is committed by halves.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sqlite_keeps_every_promise() {
    store_suite::run_all(&Sqlite::new()).await;
}

/// Seeds run by default; `PALISADE_SEED=n` runs one, `PALISADE_SEEDS=n` that many.
/// Fails when only one of the two stores is changed, and a step of a random walk is answered differently.
#[tokio::test]
async fn sqlite_equals_the_model_step_by_step() {
    let number = |name| variable(name).and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("PALISADE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("PALISADE_SEEDS").unwrap_or(8) + 1,
    };
    for seed in seeds {
        let repeat =
            format!("PALISADE_SEED={seed} cargo test -p palisade-store --test it sqlite_equals_the_model_step_by_step");
        store_suite::model(&Sqlite::new(), seed, 120, &repeat).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "a seed to repeat is given by hand")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

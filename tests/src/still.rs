//! A store that stands in a paused clock's way: while one of its operations runs, the clock stands still.
//!
//! A durable store works in threads of its own. To a paused runtime a task that waits for them looks idle, so its clock
//! would jump to the next timer during every commit: leases would run out by the dozen, and a seed would tell nothing.

use palisade_core::Result;
use palisade_core::store::StoreLayer;

/// Holds a paused clock while a call of the store runs; see the module.
#[derive(Clone, Copy, Debug)]
pub struct Still;

impl StoreLayer for Still {
    /// Runs `call` with a blocking task beside it: tokio does not advance a paused clock while there is one.
    async fn around<T: Send>(&self, _: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let (done, held) = std::sync::mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || held.recv()));
        let result = call.await;
        drop(done);
        result
    }
}

//! Runs a hub: connections put in place, worker tasks per queue, the call log written. Nothing runs before
//! [`Runner::run`] is awaited, and nothing it started outlives it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use palisade_core::Result;
use palisade_core::store::Queue;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::hub::{Hub, Shared};

/// The future to spawn beside the router.
#[derive(Debug)]
#[must_use = "a runner does nothing until it runs"]
pub struct Runner {
    hub: Hub,
}

impl Runner {
    pub(crate) fn new(hub: Hub) -> Self {
        Self { hub }
    }

    /// Puts the configured connections in place, then works until `stop` is true and everything held is finished or
    /// given back. Dropping the future stops all of it at once; what it held is claimed again when its leases run
    /// out.
    ///
    /// # Errors
    /// As [`Hub::connect`], before any work began.
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<()> {
        let shared = &self.hub.shared;
        for connection in &shared.connections {
            self.hub.connect(connection).await?;
        }
        let mut workers = JoinSet::new();
        for (queue, count) in
            [(Queue::Events, shared.settings.event_workers), (Queue::Background, shared.settings.background_workers)]
        {
            for _ in 0..count {
                let alive = Alive::new(Arc::clone(shared));
                let stop = stop.clone();
                workers.spawn(async move {
                    alive.0.worker.run(queue, stop).await;
                    drop(alive);
                });
            }
        }
        // The call log ends after the workers, so that their last calls are written too.
        let (drained, calls_stop) = watch::channel(false);
        let working = async {
            while let Some(ended) = workers.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a worker task ended by a panic");
                }
            }
            let _ = drained.send(true);
        };
        tokio::join!(working, shared.calls.run(&*shared.store, calls_stop));
        Ok(())
    }
}

/// Counts a worker task while it lives, also through a panic.
struct Alive(Arc<Shared>);

impl Alive {
    fn new(shared: Arc<Shared>) -> Self {
        shared.workers_alive.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.workers_alive.fetch_sub(1, Ordering::SeqCst);
    }
}

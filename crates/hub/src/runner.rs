//! Runs a hub: pauses of before heeded, connections put in place, worker tasks per queue, call log and pauses written.
//! Nothing runs before [`Runner::run`] is awaited, and nothing it started outlives it.

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

    /// Heeds the pauses that providers asked for before it began ([`Client::restore`](palisade_core::Client::restore)),
    /// puts the configured connections in place, then works until `stop` is true and everything held is finished or
    /// given back. Dropping the future stops all of it at once; what it held is claimed again when its leases run
    /// out.
    ///
    /// # Errors
    /// As [`Hub::connect`], and [`ErrorKind::Store`](palisade_core::ErrorKind::Store), before any work began.
    pub async fn run(self, stop: watch::Receiver<bool>) -> Result<()> {
        let shared = &self.hub.shared;
        self.hub.heed_pauses().await?;
        for connection in &shared.connections {
            self.hub.connect(connection).await?;
        }
        shared.know_destinations().await?;
        let mut workers = JoinSet::new();
        for queue in Queue::ALL {
            for _ in 0..shared.settings.workers_of(queue) {
                let alive = Alive::new(Arc::clone(shared));
                let stop = stop.clone();
                workers.spawn(async move {
                    alive.0.worker.run(queue, stop).await;
                    drop(alive);
                });
            }
        }
        workers.spawn(close_waiting(Arc::clone(shared), stop.clone()));
        // The call log and the pauses end after the workers, so that their last ones are written too.
        let (drained, workers_done) = watch::channel(false);
        let working = async {
            while let Some(ended) = workers.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a worker task ended by a panic");
                }
            }
            // Renewals may be under way that no worker waits for.
            shared.tokens.shutdown().await;
            let _ = drained.send(true);
        };
        tokio::join!(
            working,
            shared.calls.run(&*shared.store, workers_done.clone()),
            shared.pauses.run(shared, workers_done)
        );
        Ok(())
    }
}

impl Hub {
    /// Heeds what is stored of the providers that asked to be left alone.
    pub(crate) async fn heed_pauses(&self) -> Result<()> {
        match self.shared.pauses.look(&self.shared).await? {
            0 => {}
            lanes => tracing::info!(lanes, "providers asked to be left alone for a while: that is kept to"),
        }
        Ok(())
    }

    /// Writes what calls of a hub that does not run have left to be written, once, and waits for renewals under way.
    pub(crate) async fn wind_up(&self) {
        let shared = &self.shared;
        let (_stop, stopped) = watch::channel(true);
        shared.tokens.shutdown().await;
        tokio::join!(shared.calls.run(&*shared.store, stopped.clone()), shared.pauses.run(shared, stopped));
    }
}

/// Answers those who wait for changes once a stop is asked for, so that nobody holds it up.
async fn close_waiting(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
    shared.waiting.close();
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

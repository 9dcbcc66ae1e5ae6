//! Runs a hub: pauses of before heeded, connections put in place, worker tasks per queue, call log and pauses written.
//! Nothing runs before [`Runner::run`] is awaited, and nothing it started outlives it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use palisade_core::Result;
use palisade_core::store::Queue;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::hub::{Hub, Shared};

/// How often grants that nobody uses are looked at.
const GRANTS_EVERY: Duration = Duration::from_secs(5 * 60);
/// Grants renewed, and old flows removed, in one look.
const GRANTS_AT_ONCE: u32 = 100;

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
        match shared.pauses.look(shared).await? {
            0 => {}
            lanes => tracing::info!(lanes, "providers asked to be left alone for a while: that is kept to"),
        }
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
        workers.spawn(keep_grants(Arc::clone(shared), stop));
        // The call log and the pauses end after the workers, so that their last ones are written too.
        let (drained, workers_done) = watch::channel(false);
        let working = async {
            while let Some(ended) = workers.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a worker task ended by a panic");
                }
            }
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

/// Renews grants that would die unused and removes flows nobody came back to, until `stop`; then waits for renewals that
/// are under way.
async fn keep_grants(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut round = tokio::time::interval(GRANTS_EVERY);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = round.tick() => {}
        }
        match shared.tokens.keep_alive(GRANTS_AT_ONCE).await {
            Ok(kept) if kept.renewed + kept.failed > 0 => {
                tracing::info!(renewed = kept.renewed, failed = kept.failed, "grants that nobody used were renewed");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "grants that nobody uses could not be looked at"),
        }
        if let Err(error) = shared.connector.prune(GRANTS_AT_ONCE).await {
            tracing::warn!(%error, "old connect flows could not be removed");
        }
    }
    shared.tokens.shutdown().await;
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

//! What the hub does for itself besides the worker's own chores: grants kept alive, old connect flows removed.

use std::sync::Arc;
use std::time::Duration;

use palisade_core::auth::connect::Connector;
use palisade_core::auth::token_source::TokenSource;
use palisade_core::schedule::Schedule;
use palisade_core::worker::WorkerBuilder;
use palisade_core::{Error, ErrorKind};

/// The chore that renews grants nobody uses.
const GRANTS: &str = "grants";
/// The chore that removes flows nobody came back to.
const FLOWS: &str = "flows";
/// How often grants that nobody uses are looked at.
const GRANTS_EVERY: Duration = Duration::from_secs(5 * 60);
/// How often flows nobody came back to are removed.
const FLOWS_EVERY: Duration = Duration::from_secs(3_600);
/// Grants renewed, or flows removed, in one step.
const AT_ONCE: u32 = 100;
/// Steps of one removal: what is left is the next one's.
const STEPS_MAX: u32 = 100;

/// Gives the worker the hub's chores.
pub(crate) fn with(worker: WorkerBuilder, tokens: &Arc<TokenSource>, connector: &Connector) -> WorkerBuilder {
    let (tokens, connector) = (Arc::clone(tokens), connector.clone());
    let keep = move || {
        let tokens = Arc::clone(&tokens);
        async move {
            let kept = tokens.keep_alive(AT_ONCE).await?;
            Ok(format!("{} unused grants renewed, {} failed", kept.renewed, kept.failed))
        }
    };
    let prune = move || {
        let connector = connector.clone();
        async move {
            let mut gone = 0;
            for _ in 0..STEPS_MAX {
                let some = connector.prune(AT_ONCE).await?;
                gone += some;
                if some < u64::from(AT_ONCE) {
                    break;
                }
            }
            Ok(format!("{gone} old connect flows removed"))
        }
    };
    worker.chore(GRANTS, Schedule::every(GRANTS_EVERY), keep).chore(FLOWS, Schedule::every(FLOWS_EVERY), prune)
}

/// Gives a worker the hub's chores by name, to tell how they stand: it does none of them.
pub(crate) fn named(worker: WorkerBuilder) -> WorkerBuilder {
    let done = || async { Err(Error::new(ErrorKind::Config, "a hub that serves does this")) };
    worker.chore(GRANTS, Schedule::every(GRANTS_EVERY), done).chore(FLOWS, Schedule::every(FLOWS_EVERY), done)
}

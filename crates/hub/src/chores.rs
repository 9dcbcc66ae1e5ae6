//! What the hub does for itself besides the worker's own chores: grants kept alive, old connect flows removed.

use std::sync::Arc;
use std::time::Duration;

use palisade_core::auth::connect::Connector;
use palisade_core::auth::token_source::TokenSource;
use palisade_core::schedule::Schedule;
use palisade_core::worker::WorkerBuilder;

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
    worker.chore("grants", Schedule::every(GRANTS_EVERY), keep).chore("flows", Schedule::every(FLOWS_EVERY), prune)
}

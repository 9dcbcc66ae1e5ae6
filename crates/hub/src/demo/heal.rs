//! The end of the story's noise: what never arrived is read from the providers' lists, until nothing is missing, pending
//! or running.

use std::time::Duration;

use palisade_core::clock::SystemClock;
use palisade_core::store::{EventState, Run, RunMode, RunState, StreamKey};
use palisade_core::{Clock, Result};
use tokio::time::{Instant, sleep};

use super::progress::Progress;
use super::{LOOK, QUIET_WITHIN, RUNS, Stage};

/// How long a notification's run may take to come. The second look at a stream comes after ten seconds.
const PUSHED_WITHIN: Duration = Duration::from_secs(20);

/// Events stored and events still pending.
pub(super) async fn counts(stage: &Stage) -> Result<(u64, u64)> {
    let counts = stage.hub.store().event_counts().await?;
    let pending = counts.get(&EventState::Pending).copied().unwrap_or(0);
    Ok((counts.values().sum(), pending))
}

/// Waits until each stream was read on because a notification told of news. Returns how often each was: nobody else has
/// asked for it before this.
pub(super) async fn pushed(stage: &Stage, keys: &[StreamKey]) -> Result<Vec<usize>> {
    let deadline = Instant::now() + PUSHED_WITHIN;
    loop {
        let done = done(stage).await?;
        let of =
            |key: &StreamKey| done.iter().filter(|run| run.mode == RunMode::Incremental && run.key == *key).count();
        let counts: Vec<usize> = keys.iter().map(of).collect();
        if counts.iter().all(|count| *count > 0) || Instant::now() > deadline {
            return Ok(counts);
        }
        sleep(LOOK).await;
    }
}

/// Reads once more what webhooks may not have told, and Stripe's list of events twice: the second walk proves that the
/// first left nothing. Returns whether it became quiet.
pub(super) async fn heal(stage: &Stage, progress: &Progress, continued: bool) -> Result<bool> {
    let roles = stage.cast.roles();
    let all = roles.iter().flat_map(|role| {
        let streams = role.healing(continued).into_iter();
        streams.map(|(stream, mode)| (role.key(stream), mode))
    });
    let mut quiet = read_on(stage, progress, &all.collect::<Vec<_>>()).await?;
    if let Some(stripe) = roles.first() {
        let again = stripe.healing(continued).into_iter().map(|(stream, mode)| (stripe.key(stream), mode));
        quiet &= read_on(stage, progress, &again.collect::<Vec<_>>()).await?;
    }
    Ok(quiet)
}

/// Runs streams and waits until they were read by runs that began after this, nothing runs any more and no event is
/// pending.
async fn read_on(stage: &Stage, progress: &Progress, wanted: &[(StreamKey, RunMode)]) -> Result<bool> {
    let deadline = Instant::now() + QUIET_WITHIN;
    let asked = SystemClock.now();
    for (key, mode) in wanted {
        stage.hub.worker().sync_now(&key.connection, &key.stream, *mode).await?;
    }
    loop {
        let (stored, pending) = counts(stage).await?;
        progress.pending(stored, pending);
        if pending == 0 && stage.hub.store().live_runs(RUNS).await?.is_empty() {
            let done = done(stage).await?;
            let is_read = |key: &StreamKey, mode: RunMode| {
                done.iter().any(|run| run.key == *key && run.mode == mode && run.started_at >= asked)
            };
            let left: Vec<_> = wanted.iter().filter(|(key, mode)| !is_read(key, *mode)).collect();
            if left.is_empty() {
                return Ok(true);
            }
            // A run that was under way took the wish along when it ended: it is asked for once more.
            for (key, mode) in left {
                stage.hub.worker().sync_now(&key.connection, &key.stream, *mode).await?;
            }
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        sleep(LOOK).await;
    }
}

/// Lists the finished runs.
async fn done(stage: &Stage) -> Result<Vec<Run>> {
    let runs = stage.hub.store().runs(None, RUNS).await?;
    Ok(runs.into_iter().filter(|run| run.state == RunState::Done).collect())
}

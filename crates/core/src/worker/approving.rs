//! Approvals of mass deletions: the full run that may delete what somebody has looked at, and how other runs of its stream
//! keep out of its way.

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Lease, LiveJob, NewJob, Run, RunId, RunMode, RunState, StreamKey, Work};

use super::Inner;
use super::asking::{asked_key, is_unfinished};
use super::job::Stop;
use super::schedule::{Pace, When, unique};

impl Inner {
    /// Makes the job of a full run whose deletions are approved. It has a key of its own, so that the full run that
    /// waits for its week does not stand in its place.
    pub(super) fn approved_job(&self, key: StreamKey, deletions: u64) -> NewJob {
        let job = self.sync_job(&key, RunMode::Full, When::Now);
        NewJob { unique: Some(approved_key(&key)), work: Work::Approved { key, deletions }, ..job }
    }

    /// Finds the run whose deletions somebody approves, and how many they are.
    pub(super) async fn approvable(&self, run: RunId) -> Result<(Run, u64)> {
        let waits = |run: &Run| match run.state {
            RunState::Review { deletions } => Some(deletions),
            RunState::Running | RunState::Done | RunState::Failed { .. } => None,
        };
        let found = self.store.run(run).await?.and_then(|run| Some((waits(&run)?, run)));
        let Some((deletions, run)) = found else {
            return Err(Error::new(ErrorKind::NotFound, "this run does not wait for review"));
        };
        let newest = self.store.newest_runs(run.key.connection.clone()).await?;
        if newest.iter().any(|other| other.key == run.key && other.mode == run.mode && other.id != run.id) {
            return Err(Error::new(ErrorKind::Conflict, "a newer full run of this stream has begun since"));
        }
        let known = self.live_approval(&run.key).await?;
        if known.is_some_and(|(known, _)| known != deletions) {
            let why = "another number of deletions was approved before, and the full run that may delete them has not \
                       ended yet";
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        Ok((run, deletions))
    }

    /// Refuses when the deletions of a stream were approved, and the run that may delete them has not ended.
    pub(super) async fn require_unapproved(&self, key: &StreamKey) -> Result<()> {
        if self.live_approval(key).await?.is_none() {
            return Ok(());
        }
        let why = "its deletions were approved, and the full run that may delete them has not ended yet";
        Err(Error::new(ErrorKind::Conflict, why))
    }

    /// Reads how many deletions of a stream are approved and not made yet, with the job of the run that may make them.
    async fn live_approval(&self, key: &StreamKey) -> Result<Option<(u64, LiveJob)>> {
        let live = self.store.live_jobs(vec![approved_key(key)]).await?;
        Ok(live.into_iter().flatten().find_map(|job| {
            let Work::Approved { deletions, .. } = job.work else { return None };
            Some((deletions, job))
        }))
    }

    /// Returns what takes the place of a run that would cut off a full one of its stream, or take it up without the
    /// approval it has: `None` for one that is in nobody's way.
    ///
    /// In their lane runs go by the numbers of their jobs, so one that was added earlier and waited for its schedule comes
    /// before a full run that waits for its next page. As a job of its own it gets a number behind that one's.
    pub(super) async fn stands_back(
        &self,
        lease: Lease,
        key: &StreamKey,
        mode: RunMode,
        pace: &Pace,
    ) -> Result<Option<Vec<NewJob>>, Stop> {
        let approval = self.live_approval(key).await?;
        // One that was claimed before holds its lane up; one that was not (its stream was paused meanwhile) comes now.
        let approved = approval.as_ref().filter(|(_, job)| job.reason.is_none());
        let mut first: Vec<NewJob> =
            approved.map(|(deletions, _)| self.approved_job(key.clone(), *deletions)).into_iter().collect();
        if mode == RunMode::Full {
            // The approved one does all that this one would.
            first.push(self.sync_job(key, mode, pace.next(mode)));
            return Ok(approval.is_some().then_some(first));
        }
        let runs = self.store.newest_runs(key.connection.clone()).await?;
        if !runs.iter().any(|run| is_unfinished(run, key, RunMode::Full)) {
            return Ok(None);
        }
        let jobs = vec![unique(key, RunMode::Full), asked_key(key, RunMode::Full)];
        let tried = self.store.live_jobs(jobs).await?.into_iter().flatten().any(|job| job.reason.is_some());
        if approval.is_none() && !tried {
            // It waits for no attempt, but for its next turn, because its connection or stream was paused: it goes on now.
            first.push(self.taken_up(key, RunMode::Full).await?);
        }
        let held = self.store.held_job(lease).await?;
        let again = self.sync_job(key, mode, When::Now);
        first.push(NewJob { unique: held.and_then(|held| held.unique).or(again.unique.clone()), ..again });
        Ok(Some(first))
    }
}

/// The unique key of a stream's approved run.
fn approved_key(key: &StreamKey) -> String {
    format!("sync/approved/{}/{}", key.connection, key.stream)
}

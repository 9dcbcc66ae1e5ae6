//! The job that forwards one event to one destination.
//!
//! Its waits are the attempts at the receiver that failed, as the published schedule counts them. Its attempts are claims
//! that came to no end, because the worker died or the store did not take what became of it: they say nothing of the
//! receiver, use up none of the schedule, and have a bound of their own ([`LOST_MAX`]).

use crate::forward::{Forwarded, LOST_MAX};
use crate::store::{EventRow, NewJob, StoredEvent};

use super::Inner;
use super::job::{Attempt, Finish, Place, Stop, phrase};

impl Inner {
    /// Makes the jobs that forward an event.
    pub(super) async fn forwards(&self, event: &StoredEvent, place: &Place<'_>) -> Result<Vec<NewJob>, Stop> {
        match &self.forwarder {
            Some(forwarder) => Ok(forwarder.jobs(event, &place.connection.tenant).await?),
            None => Ok(Vec::new()),
        }
    }

    /// Sends an event to a destination.
    pub(super) async fn forward(&self, row: EventRow, destination: &str, attempt: Attempt) -> Result<Finish, Stop> {
        let Some(forwarder) = &self.forwarder else {
            return Err(Stop::Dead("this hub forwards nothing".to_owned()));
        };
        if attempt.number > LOST_MAX {
            let reason = format!("{LOST_MAX} times its worker died, or could not note what became of it");
            forwarder.gave_up(row, destination, &reason);
            return Err(Stop::Dead(reason));
        }
        match forwarder.forward(row, destination, attempt.waits.saturating_add(1)).await {
            Ok(Forwarded::Done) => Ok(Finish::followed_by(Vec::new())),
            Ok(Forwarded::Retry(after, reason)) => Ok(Finish::Later(self.clock.now().plus(after), reason)),
            Ok(Forwarded::Dead(reason)) => Err(Stop::Dead(reason)),
            // Not a wait: those are counted as attempts at the receiver.
            Err(error) => Err(Stop::Retry { after: error.retry_after(), reason: phrase(&error) }),
        }
    }
}

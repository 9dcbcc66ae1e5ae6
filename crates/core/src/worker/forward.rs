//! The job that forwards one event to one destination.

use crate::forward::Forwarded;
use crate::store::{EventRow, NewJob, StoredEvent};

use super::Inner;
use super::job::{Attempt, Finish, Place, Stop};

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
        let last = attempt.number >= attempt.max;
        match forwarder.forward(row, destination, attempt.number, last).await? {
            Forwarded::Done => Ok(Finish::followed_by(Vec::new())),
            Forwarded::Retry(after, reason) => Err(Stop::Retry { after: Some(after), reason }),
            Forwarded::Dead(reason) => Err(Stop::Dead(reason)),
        }
    }
}

//! The model of destinations.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::destinations::{
    DESTINATIONS_MAX, DeadForward, DestinationHealth, Destinations, Disabled, FORWARDS_COUNTED_MAX, ForwardCounts,
    NewDestination, Noted, StoredDestination,
};
use crate::store::{EventRow, JobId};

/// By name; and what was given up for each, with the job that died.
#[derive(Default)]
pub(super) struct DestinationsModel(
    BTreeMap<String, StoredDestination>,
    BTreeMap<(String, EventRow), (JobId, DeadForward)>,
);

impl DestinationsModel {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Notes that an event was given up.
    pub(super) fn gave_up(&mut self, destination: String, job: JobId, dead: DeadForward) {
        self.1.insert((destination, dead.row), (job, dead));
    }

    /// Forgets that an event was given up; gives the job that died.
    pub(super) fn dismiss(&mut self, destination: &str, row: EventRow) -> Option<JobId> {
        self.1.remove(&(destination.to_owned(), row)).map(|(job, _)| job)
    }

    /// Forgets what was given up of events that are gone.
    pub(super) fn forget(&mut self, gone: impl Fn(EventRow) -> bool) {
        self.1.retain(|(_, row), _| !gone(*row));
    }

    fn dead(&self, destination: &str) -> impl Iterator<Item = &DeadForward> {
        self.1.iter().filter(move |((of, _), _)| of == destination).map(|(_, (_, dead))| dead)
    }

    fn put(&mut self, new: NewDestination, expected: u64, now: Timestamp) -> bool {
        let known = self.0.get(&new.name);
        if known.map_or(0, |known| known.revision) != expected {
            return false;
        }
        let NewDestination { name, configured, spec, mut keys } = new;
        keys.sort_by_key(|key| std::cmp::Reverse(key.version));
        let created_at = known.map_or(now, |known| known.created_at);
        let paused_at = known.and_then(|known| known.paused_at);
        let health = known.map(|known| known.health.clone()).unwrap_or_default();
        let revision = expected.saturating_add(1);
        let row = StoredDestination { name, configured, revision, spec, keys, created_at, paused_at, health };
        self.0.insert(row.name.clone(), row);
        true
    }

    fn pause(&mut self, name: &str, paused_at: Option<Timestamp>) -> bool {
        let row = self.0.get_mut(name).filter(|row| row.paused_at.is_some() != paused_at.is_some());
        let Some(row) = row else { return false };
        row.paused_at = paused_at;
        if paused_at.is_none() {
            let (delivered_at, disabled) = (row.health.delivered_at, row.health.disabled.take());
            row.health = DestinationHealth { delivered_at, disabled, ..DestinationHealth::default() };
        }
        true
    }

    fn disable(&mut self, name: &str, disabled: Option<Disabled>, of: Option<u64>) -> bool {
        let row = self.0.get_mut(name).filter(|row| of.is_none_or(|of| of == row.revision));
        let Some(row) = row else { return false };
        match (disabled, row.health.disabled.is_some()) {
            (Some(_), true) | (None, false) => false,
            (Some(disabled), false) => {
                row.health.disabled = Some(disabled);
                true
            }
            (None, true) => {
                let delivered_at = row.health.delivered_at;
                row.health = DestinationHealth { delivered_at, ..DestinationHealth::default() };
                true
            }
        }
    }
}

#[async_trait]
impl Destinations for MemoryStore {
    async fn put_destination(&self, destination: NewDestination, expected: u64, now: Timestamp) -> Result<bool> {
        Ok(self.lock().destinations.put(destination, expected, now))
    }

    async fn destinations(&self) -> Result<Vec<StoredDestination>> {
        Ok(self.lock().destinations.0.values().take(DESTINATIONS_MAX as usize).cloned().collect())
    }

    async fn remove_destination(&self, name: String) -> Result<bool> {
        Ok(self.lock().destinations.0.remove(&name).is_some())
    }

    async fn note_forward(
        &self,
        name: String,
        failed: Option<String>,
        of: u64,
        now: Timestamp,
    ) -> Result<Option<Noted>> {
        let mut model = self.lock();
        let row = model.destinations.0.get_mut(&name).filter(|row| row.revision == of);
        let Some(row) = row else { return Ok(None) };
        let before = row.health.clone();
        row.health.note(failed.as_deref(), now);
        Ok(Some(Noted { before, after: row.health.clone() }))
    }

    async fn disable_destination(&self, name: String, disabled: Option<Disabled>, of: Option<u64>) -> Result<bool> {
        Ok(self.lock().destinations.disable(&name, disabled, of))
    }

    async fn pause_destination(&self, name: String, paused_at: Option<Timestamp>) -> Result<bool> {
        Ok(self.lock().destinations.pause(&name, paused_at))
    }

    async fn forward_counts(&self, destinations: Vec<String>) -> Result<BTreeMap<String, ForwardCounts>> {
        let model = self.lock();
        let most = u64::from(FORWARDS_COUNTED_MAX);
        let count = |name: String| {
            let waiting = model.jobs.count_keys(&format!("forward/{name}/")).min(most);
            let dead = (model.destinations.dead(&name).count() as u64).min(most);
            (name, ForwardCounts { waiting, dead })
        };
        Ok(destinations.into_iter().map(count).collect())
    }

    async fn dead_forwards(
        &self,
        destination: String,
        after: Option<EventRow>,
        limit: u32,
    ) -> Result<Vec<DeadForward>> {
        let model = self.lock();
        let behind = model.destinations.dead(&destination).filter(|dead| after.is_none_or(|after| dead.row > after));
        Ok(behind.take(limit as usize).cloned().collect())
    }

    async fn dismiss_forwards(&self, destination: String, rows: Vec<EventRow>) -> Result<u64> {
        let mut model = self.lock();
        let mut dismissed = 0;
        for row in rows {
            if let Some(died) = model.destinations.dismiss(&destination, row) {
                model.jobs.seen(died);
                dismissed += 1;
            }
        }
        Ok(dismissed)
    }
}

//! The model of destinations.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::destinations::{
    DESTINATIONS_MAX, DestinationHealth, Destinations, Disabled, NewDestination, Noted, StoredDestination,
};

/// By name.
#[derive(Default)]
pub(super) struct DestinationsModel(BTreeMap<String, StoredDestination>);

impl DestinationsModel {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    fn put(&mut self, new: NewDestination, expected: u64, now: Timestamp) -> bool {
        let known = self.0.get(&new.name);
        if known.map_or(0, |known| known.revision) != expected {
            return false;
        }
        let NewDestination { name, configured, spec, mut keys } = new;
        keys.sort_by_key(|key| std::cmp::Reverse(key.version));
        let created_at = known.map_or(now, |known| known.created_at);
        let health = known.map(|known| known.health.clone()).unwrap_or_default();
        let revision = expected.saturating_add(1);
        let row = StoredDestination { name, configured, revision, spec, keys, created_at, health };
        self.0.insert(row.name.clone(), row);
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
}

//! The model of pauses.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::pauses::{PAUSES_MAX, Pause, Pauses};

/// Beginning and end, by provider and lane.
#[derive(Default)]
pub(super) struct PausesModel(BTreeMap<(String, String), (Timestamp, Timestamp)>);

impl PausesModel {
    fn put(&mut self, pauses: Vec<Pause>) {
        let providers: BTreeSet<String> = pauses.iter().map(|pause| pause.provider.clone()).collect();
        for Pause { provider, lane, at, until } in pauses {
            let kept = self.0.entry((provider, lane)).or_insert((at, until));
            if until > kept.1 {
                *kept = (at, until);
            }
        }
        for provider in providers {
            let mut ends: Vec<_> = self.0.iter().filter(|((of, _), _)| *of == provider).collect();
            ends.sort_by(|(one, a), (other, b)| b.1.cmp(&a.1).then_with(|| one.cmp(other)));
            let gone: Vec<_> = ends.into_iter().skip(PAUSES_MAX as usize).map(|(key, _)| key.clone()).collect();
            for key in gone {
                self.0.remove(&key);
            }
        }
    }

    fn after(&self, now: Timestamp, limit: u32) -> Vec<Pause> {
        let mut found: Vec<Pause> = self
            .0
            .iter()
            .filter(|(_, (_, until))| *until > now)
            .map(|((provider, lane), (at, until))| Pause {
                provider: provider.clone(),
                lane: lane.clone(),
                at: *at,
                until: *until,
            })
            .collect();
        // Stable: by provider and lane where they end together.
        found.sort_by_key(|pause| std::cmp::Reverse(pause.until));
        found.truncate(limit as usize);
        found
    }

    fn prune(&mut self, before: Timestamp, limit: u32) -> u64 {
        let mut over: Vec<_> = self.0.iter().filter(|(_, (_, until))| *until < before).collect();
        over.sort_by_key(|(_, (_, until))| *until);
        let over: Vec<_> = over.into_iter().take(limit as usize).map(|(key, _)| key.clone()).collect();
        for key in &over {
            self.0.remove(key);
        }
        over.len() as u64
    }
}

#[async_trait]
impl Pauses for MemoryStore {
    async fn put_pauses(&self, pauses: Vec<Pause>) -> Result<()> {
        self.lock().pauses.put(pauses);
        Ok(())
    }

    async fn pauses(&self, now: Timestamp, limit: u32) -> Result<Vec<Pause>> {
        Ok(self.lock().pauses.after(now, limit))
    }

    async fn prune_pauses(&self, before: Timestamp, limit: u32) -> Result<u64> {
        Ok(self.lock().pauses.prune(before, limit))
    }
}

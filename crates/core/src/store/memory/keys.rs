//! The data keys and the register of master keys of the model.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::error::{Error, ErrorKind, Result};
use crate::id::TenantId;
use crate::store::{Keys, MasterState, MasterStatus, Retirement, Rewrapped, WrappedKey};

/// Data keys by tenant and number, with the seals given out; master keys by name.
#[derive(Default)]
pub(super) struct KeysModel {
    data_keys: BTreeMap<TenantId, BTreeMap<u64, (WrappedKey, u32)>>,
    masters: BTreeMap<String, MasterState>,
}

impl KeysModel {
    fn all(&self) -> impl Iterator<Item = (&TenantId, &WrappedKey)> {
        self.data_keys.iter().flat_map(|(tenant, keys)| keys.values().map(move |(key, _)| (tenant, key)))
    }

    fn active(&self) -> Option<&String> {
        self.masters.iter().find(|(_, state)| **state == MasterState::Active).map(|(id, _)| id)
    }

    fn check_active(&self, master: &str) -> Result<()> {
        if self.active().is_none_or(|active| active == master) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Conflict, "another master key wraps data keys by now"))
    }

    fn statuses(&self) -> BTreeMap<String, (MasterState, u64)> {
        let mut statuses: BTreeMap<String, (MasterState, u64)> =
            self.masters.iter().map(|(id, state)| (id.clone(), (*state, 0))).collect();
        for (_, key) in self.all() {
            statuses.entry(key.master.clone()).or_insert((MasterState::Old, 0)).1 += 1;
        }
        statuses
    }

    fn activate(&mut self, id: String) {
        for state in self.masters.values_mut().filter(|state| **state == MasterState::Active) {
            *state = MasterState::Old;
        }
        self.masters.insert(id, MasterState::Active);
    }
}

#[async_trait]
impl Keys for MemoryStore {
    async fn data_keys(&self, tenant: TenantId) -> Result<Vec<WrappedKey>> {
        let model = self.lock();
        let keys = model.keys.data_keys.get(&tenant);
        Ok(keys.map(|keys| keys.values().rev().map(|(key, _)| key.clone()).collect()).unwrap_or_default())
    }

    async fn add_data_key(&self, tenant: TenantId, key: WrappedKey) -> Result<WrappedKey> {
        let mut model = self.lock();
        model.keys.check_active(&key.master)?;
        let keys = model.keys.data_keys.entry(tenant).or_default();
        keys.entry(key.id).or_insert_with(|| (key.clone(), 0));
        Ok(keys.last_key_value().map_or(key, |(_, (newest, _))| newest.clone()))
    }

    async fn reserve_seals(&self, tenant: TenantId, key: u64, count: u32, max: u32) -> Result<Option<u32>> {
        let mut model = self.lock();
        let Some((_, seals)) = model.keys.data_keys.get_mut(&tenant).and_then(|keys| keys.get_mut(&key)) else {
            return Ok(None);
        };
        let Some(after) = seals.checked_add(count).filter(|after| *after <= max) else { return Ok(None) };
        Ok(Some(std::mem::replace(seals, after)))
    }

    async fn active_master(&self, proposed: String) -> Result<String> {
        let mut model = self.lock();
        if let Some(active) = model.keys.active() {
            return Ok(active.clone());
        }
        let most = model.keys.statuses().into_iter().filter(|(_, (_, rows))| *rows > 0);
        let most = most.min_by_key(|(id, (_, rows))| (Reverse(*rows), id.clone())).map(|(id, _)| id);
        let chosen = most.unwrap_or(proposed);
        model.keys.activate(chosen.clone());
        Ok(chosen)
    }

    async fn activate_master(&self, id: String) -> Result<()> {
        self.lock().keys.activate(id);
        Ok(())
    }

    async fn retire_master(&self, id: String) -> Result<Retirement> {
        let mut model = self.lock();
        match model.keys.statuses().get(&id) {
            None => return Ok(Retirement::Unknown),
            Some((MasterState::Active, _)) => return Ok(Retirement::Active),
            Some((_, rows @ 1..)) => return Ok(Retirement::Needed(*rows)),
            Some((MasterState::Old | MasterState::Retired, 0)) => {}
        }
        model.keys.masters.insert(id, MasterState::Retired);
        Ok(Retirement::Done)
    }

    async fn masters(&self) -> Result<Vec<MasterStatus>> {
        let statuses = self.lock().keys.statuses();
        Ok(statuses.into_iter().map(|(id, (state, data_keys))| MasterStatus { id, state, data_keys }).collect())
    }

    async fn data_keys_not_under(
        &self,
        master: String,
        after: Option<(TenantId, u64)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, WrappedKey)>> {
        let model = self.lock();
        let order = |tenant: &TenantId, id: u64| (tenant.clone(), id.cast_signed());
        let after = after.map(|(tenant, id)| order(&tenant, id));
        let others = model.keys.all().filter(|(_, key)| key.master != master);
        let mut others: Vec<_> = others.map(|(tenant, key)| (order(tenant, key.id), key)).collect();
        others.retain(|(at, _)| after.as_ref().is_none_or(|after| at > after));
        others.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(others.into_iter().take(limit as usize).map(|((tenant, _), key)| (tenant, key.clone())).collect())
    }

    async fn rewrap(&self, keys: Vec<Rewrapped>) -> Result<u64> {
        let mut model = self.lock();
        for new in &keys {
            model.keys.check_active(&new.key.master)?;
        }
        let mut replaced = 0;
        for new in keys {
            let stored = model.keys.data_keys.get_mut(&new.tenant).and_then(|keys| keys.get_mut(&new.key.id));
            if let Some((stored, _)) = stored.filter(|(stored, _)| stored.master == new.from) {
                *stored = new.key;
                replaced += 1;
            }
        }
        Ok(replaced)
    }
}

//! Changing the master key while everything runs: make the new one active, wrap every data key anew in steps, retire
//! the old one when nothing needs it.
//!
//! There is no progress to keep: a data key that is wrapped anew is no longer among those left. So a rotation that is
//! stopped at any row goes on from there, two at once do each row once, and a row that another process adds meanwhile
//! is refused by the store unless the new key wraps it. Data keys that are opened in memory are not touched by it.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{MasterKey, data_key_aad};
use crate::error::{Error, ErrorKind, Result};
use crate::id::TenantId;
use crate::store::{Keys, MasterState, MasterStatus, Retirement, Rewrapped, WrappedKey};

/// Stuck data keys kept to be shown: the rest has the same cause.
const STUCK_SHOWN_MAX: usize = 20;

/// A rotation of the master key over a store.
#[derive(Clone)]
pub struct Rotation {
    store: Arc<dyn Keys>,
    master: Arc<dyn MasterKey>,
}

/// How far a rotation is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Data keys wrapped anew by these steps.
    pub done: u64,
    /// Data keys that were changed by somebody else meanwhile.
    pub moved: u64,
    /// Data keys that cannot be opened: they stay under their key.
    pub stuck: u64,
    /// The first of them.
    pub first_stuck: Vec<Stuck>,
    /// Whether this walk has seen the last data key.
    pub over: bool,
    after: Option<(TenantId, u64)>,
}

/// A data key that cannot be wrapped anew.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Stuck {
    /// The tenant.
    pub tenant: TenantId,
    /// The data key's number.
    pub id: u64,
    /// The master key that wraps it.
    pub master: String,
    /// Why, in one phrase.
    pub reason: String,
}

impl Progress {
    fn stick(&mut self, tenant: TenantId, key: WrappedKey, error: &Error) {
        self.stuck += 1;
        if self.first_stuck.len() < STUCK_SHOWN_MAX {
            let reason = error.message().to_owned();
            self.first_stuck.push(Stuck { tenant, id: key.id, master: key.master, reason });
        }
    }
}

impl Rotation {
    /// Works on the data keys of a store with a holder of all the keys that wrap them.
    #[must_use]
    pub fn new(store: Arc<dyn Keys>, master: Arc<dyn MasterKey>) -> Self {
        Self { store, master }
    }

    /// Lists the master keys with the data keys each wraps.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn status(&self) -> Result<Vec<MasterStatus>> {
        self.store.masters().await
    }

    /// Counts the data keys that are left to wrap by the active master key.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn left(&self) -> Result<u64> {
        let masters = self.status().await?;
        Ok(masters.iter().filter(|one| one.state != MasterState::Active).map(|one| one.data_keys).sum())
    }

    /// Makes `id` the key that wraps from now on. The holder is asked to wrap with it first: a key it does not have
    /// never becomes active.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the holder does not have the key; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn activate(&self, id: &str) -> Result<()> {
        let probe = Zeroizing::new([0x5a; super::KEY_BYTES]);
        let wrapped = self.master.wrap(id, &probe, b"palisade.probe").await?;
        self.master.unwrap(id, &wrapped, b"palisade.probe").await?;
        self.store.activate_master(id.to_owned()).await
    }

    /// Wraps up to `limit` data keys anew by the active master key, in one commit, and moves `progress` on. Call it
    /// with [`Progress::default`] first and until [`Progress::over`].
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when another key became active meanwhile: begin again; [`ErrorKind::Config`] when the
    /// holder does not have the active key; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn step(&self, progress: &mut Progress, limit: u32) -> Result<()> {
        let active = self.store.active_master(self.master.id()).await?;
        let rows = self.store.data_keys_not_under(active.clone(), progress.after.clone(), limit.max(1)).await?;
        let Some((last_tenant, last)) = rows.last() else {
            progress.over = true;
            return Ok(());
        };
        let after = (last_tenant.clone(), last.id);
        let mut anew = Vec::with_capacity(rows.len());
        for (tenant, old) in rows {
            match self.rewrapped(&tenant, &old, &active).await {
                Ok(key) => anew.push(Rewrapped { tenant, from: old.master, key }),
                Err(error) if error.kind() == ErrorKind::Config => progress.stick(tenant, old, &error),
                Err(error) => return Err(error),
            }
        }
        let asked = anew.len() as u64;
        let done = if anew.is_empty() { 0 } else { self.store.rewrap(anew).await? };
        progress.done += done;
        progress.moved += asked.saturating_sub(done);
        progress.after = Some(after);
        Ok(())
    }

    /// Opens up to `limit` data keys that another master key than `target` wraps, changes nothing, and moves `progress`
    /// on: [`Progress::done`] counts those that [`Rotation::step`] would wrap anew once `target` is active. Call it as
    /// `step`.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn rehearse(&self, target: &str, progress: &mut Progress, limit: u32) -> Result<()> {
        let after = progress.after.clone();
        let rows = self.store.data_keys_not_under(target.to_owned(), after, limit.max(1)).await?;
        let Some((last_tenant, last)) = rows.last() else {
            progress.over = true;
            return Ok(());
        };
        let after = (last_tenant.clone(), last.id);
        for (tenant, old) in rows {
            let aad = data_key_aad(&tenant, old.id, &old.master);
            match self.master.unwrap(&old.master, &old.wrapped, aad.as_ref()).await {
                Ok(_) => progress.done += 1,
                Err(error) if error.kind() == ErrorKind::Config => progress.stick(tenant, old, &error),
                Err(error) => return Err(error),
            }
        }
        progress.after = Some(after);
        Ok(())
    }

    /// Retires a key that nothing needs any more.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn retire(&self, id: &str) -> Result<Retirement> {
        self.store.retire_master(id.to_owned()).await
    }

    async fn rewrapped(&self, tenant: &TenantId, old: &WrappedKey, active: &str) -> Result<WrappedKey> {
        let aad = data_key_aad(tenant, old.id, &old.master);
        let plain = self.master.unwrap(&old.master, &old.wrapped, aad.as_ref()).await?;
        let wrapped = self.master.wrap(active, &plain, data_key_aad(tenant, old.id, active).as_ref()).await?;
        Ok(WrappedKey { id: old.id, master: active.to_owned(), wrapped })
    }
}

impl std::fmt::Debug for Rotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rotation").field("master", &self.master).finish_non_exhaustive()
    }
}

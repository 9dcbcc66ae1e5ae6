//! Keys: every tenant's wrapped data keys, the register of the master keys that wrap them, and how often each data key
//! has sealed.
//!
//! Which master key wraps is decided here and not by a process: a data key wrapped by another than the active one is
//! refused in the transaction that would store it. So a process that has not heard of a rotation cannot add a row that
//! needs the old key after everything was re-wrapped.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::TenantId;

/// A tenant's data key, wrapped by a master key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct WrappedKey {
    /// Its number.
    pub id: u64,
    /// The master key that wraps it.
    pub master: String,
    /// The wrapped bytes.
    pub wrapped: Vec<u8>,
}

/// What a master key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: status shows each")]
pub enum MasterState {
    /// Wraps and opens. There is at most one.
    Active,
    /// Opens.
    Old,
    /// No row needs it any more; old backups do.
    Retired,
}

/// A master key in the register.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct MasterStatus {
    /// Its name.
    pub id: String,
    /// What it is used for.
    pub state: MasterState,
    /// The data keys it wraps.
    pub data_keys: u64,
}

/// What became of retiring a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the caller says each in words")]
pub enum Retirement {
    /// It is retired.
    Done,
    /// It still wraps this many data keys: nothing was changed.
    Needed(u64),
    /// It is the active one: nothing was changed.
    Active,
    /// It is not in the register.
    Unknown,
}

/// Keeps wrapped data keys and the register of master keys.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Keys: Send + Sync {
    /// Lists a tenant's wrapped data keys, newest first.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`].
    async fn data_keys(&self, tenant: TenantId) -> Result<Vec<WrappedKey>>;

    /// Adds a data key for a tenant if it has none with that number; returns the tenant's newest key (the highest
    /// number) afterwards, so that two processes agree on one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when the register has an active master key and this one is wrapped by another:
    /// nothing is written. [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn add_data_key(&self, tenant: TenantId, key: WrappedKey) -> Result<WrappedKey>;

    /// Sets `count` seals of a data key aside for one process: returns the number of the first, which nobody else is
    /// given. `None` when the key is not there or fewer than `count` are left of `max`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn reserve_seals(&self, tenant: TenantId, key: u64, count: u32, max: u32) -> Result<Option<u32>>;

    /// Returns the active master key. When the register has none, one is made active first: the one that wraps most of
    /// the data keys there are, else `proposed`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn active_master(&self, proposed: String) -> Result<String>;

    /// Makes a master key the active one; the one that was becomes old.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn activate_master(&self, id: String) -> Result<()>;

    /// Retires a master key, unless it is active or wraps a data key.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn retire_master(&self, id: String) -> Result<Retirement>;

    /// Lists the master keys by name: those registered, and as old those that wrap a data key without being registered.
    /// Counts the data keys of each: costs a walk over an index.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`].
    async fn masters(&self) -> Result<Vec<MasterStatus>>;

    /// Lists data keys that are wrapped by another master key than `master`, by tenant and number (as a signed one),
    /// after one if given.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Store`].
    async fn data_keys_not_under(
        &self,
        master: String,
        after: Option<(TenantId, u64)>,
        limit: u32,
    ) -> Result<Vec<(TenantId, WrappedKey)>>;

    /// Replaces the wrapping of data keys in one commit: each if it is still the one in `from`. Returns how many were
    /// replaced.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when a new wrapping is not by the active master key: nothing is written.
    /// [`crate::ErrorKind::Store`], [`crate::ErrorKind::Overloaded`].
    async fn rewrap(&self, keys: Vec<Rewrapped>) -> Result<u64>;
}

/// The new wrapping of a data key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Rewrapped {
    /// The tenant.
    pub tenant: TenantId,
    /// The master key it was wrapped by.
    pub from: String,
    /// The key as it is wrapped now.
    pub key: WrappedKey,
}

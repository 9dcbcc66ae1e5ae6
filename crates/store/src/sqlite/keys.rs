//! Wrapped data keys, the seals set aside under each, and the register of master keys.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use palisade_core::store::{MasterState, MasterStatus, Retirement, Rewrapped, WrappedKey};
use palisade_core::{Error, ErrorKind, TenantId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::writer::Tx;

const KEYS: &str = "SELECT id, master, wrapped FROM palisade_data_key WHERE tenant = ?1";

fn key(row: &Row<'_>) -> rusqlite::Result<WrappedKey> {
    Ok(WrappedKey { id: row.get::<_, i64>(0)?.cast_unsigned(), master: row.get(1)?, wrapped: row.get(2)? })
}

/// A tenant's keys, newest (highest number) first. They are few, and SQLite would order the numbers as signed.
fn newest_first(mut keys: Vec<WrappedKey>) -> Vec<WrappedKey> {
    keys.sort_by_key(|key| Reverse(key.id));
    keys
}

pub(super) fn of_tenant(connection: &Connection, tenant: &TenantId) -> Result<Vec<WrappedKey>, Fault> {
    let mut statement = connection.prepare_cached(KEYS)?;
    let keys = statement.query_map([tenant.as_str()], key)?.collect::<rusqlite::Result<_>>()?;
    Ok(newest_first(keys))
}

pub(super) fn add(tx: &Tx<'_>, tenant: &TenantId, new: &WrappedKey) -> Result<WrappedKey, Fault> {
    check_active(tx, &new.master)?;
    tx.prepare(
        "INSERT INTO palisade_data_key (tenant, id, master, wrapped) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (tenant, id) DO NOTHING",
    )?
    .execute(params![tenant.as_str(), new.id.cast_signed(), new.master, new.wrapped])?;
    let keys = of_tenant(tx.connection(), tenant)?;
    keys.into_iter().next().ok_or_else(|| unreadable("data key").into())
}

pub(super) fn reserve(tx: &Tx<'_>, tenant: &TenantId, id: u64, count: u32, max: u32) -> Result<Option<u32>, Fault> {
    let after: Option<u32> = tx
        .prepare(
            "UPDATE palisade_data_key SET seals = seals + ?3 WHERE tenant = ?1 AND id = ?2 AND seals + ?3 <= ?4 \
             RETURNING seals",
        )?
        .query_one(params![tenant.as_str(), id.cast_signed(), count, max], |row| row.get(0))
        .optional()?;
    Ok(after.map(|after| after.saturating_sub(count)))
}

// ------------------------------------------------------------------------------------------------- master keys

fn number(state: MasterState) -> i64 {
    match state {
        MasterState::Active => 0,
        MasterState::Old => 1,
        MasterState::Retired => 2,
    }
}

fn state(number: i64) -> Result<MasterState, Fault> {
    match number {
        0 => Ok(MasterState::Active),
        1 => Ok(MasterState::Old),
        2 => Ok(MasterState::Retired),
        _ => Err(unreadable("master key").into()),
    }
}

fn active(connection: &Connection) -> Result<Option<String>, Fault> {
    let mut statement = connection.prepare_cached("SELECT id FROM palisade_master_key WHERE state = 0")?;
    Ok(statement.query_one([], |row| row.get(0)).optional()?)
}

fn check_active(tx: &Tx<'_>, master: &str) -> Result<(), Fault> {
    if active(tx.connection())?.is_none_or(|active| active == master) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "another master key wraps data keys by now").into())
}

fn statuses(connection: &Connection) -> Result<BTreeMap<String, (MasterState, u64)>, Fault> {
    let mut statuses = BTreeMap::new();
    let mut registered = connection.prepare_cached("SELECT id, state FROM palisade_master_key")?;
    let mut rows = registered.query([])?;
    while let Some(row) = rows.next()? {
        statuses.insert(row.get::<_, String>(0)?, (state(row.get(1)?)?, 0));
    }
    let mut used = connection.prepare_cached("SELECT master, count(*) FROM palisade_data_key GROUP BY master")?;
    let mut rows = used.query([])?;
    while let Some(row) = rows.next()? {
        statuses.entry(row.get(0)?).or_insert((MasterState::Old, 0)).1 = row.get::<_, i64>(1)?.unsigned_abs();
    }
    Ok(statuses)
}

pub(super) fn masters(connection: &Connection) -> Result<Vec<MasterStatus>, Fault> {
    let statuses = statuses(connection)?;
    Ok(statuses.into_iter().map(|(id, (state, data_keys))| MasterStatus { id, state, data_keys }).collect())
}

pub(super) fn active_or(tx: &Tx<'_>, proposed: &str) -> Result<String, Fault> {
    if let Some(active) = active(tx.connection())? {
        return Ok(active);
    }
    let most = statuses(tx.connection())?.into_iter().filter(|(_, (_, rows))| *rows > 0);
    let most = most.min_by_key(|(id, (_, rows))| (Reverse(*rows), id.clone())).map(|(id, _)| id);
    let chosen = most.unwrap_or_else(|| proposed.to_owned());
    activate(tx, &chosen)?;
    Ok(chosen)
}

fn register(tx: &Tx<'_>, id: &str, state: MasterState) -> Result<(), Fault> {
    tx.prepare(
        "INSERT INTO palisade_master_key (id, state) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET state = ?2",
    )?
    .execute(params![id, number(state)])?;
    Ok(())
}

pub(super) fn activate(tx: &Tx<'_>, id: &str) -> Result<(), Fault> {
    tx.prepare("UPDATE palisade_master_key SET state = 1 WHERE state = 0")?.execute([])?;
    register(tx, id, MasterState::Active)
}

pub(super) fn retire(tx: &Tx<'_>, id: &str) -> Result<Retirement, Fault> {
    match statuses(tx.connection())?.get(id) {
        None => Ok(Retirement::Unknown),
        Some((MasterState::Active, _)) => Ok(Retirement::Active),
        Some((_, rows @ 1..)) => Ok(Retirement::Needed(*rows)),
        Some((MasterState::Old | MasterState::Retired, 0)) => {
            register(tx, id, MasterState::Retired)?;
            Ok(Retirement::Done)
        }
    }
}

// ---------------------------------------------------------------------------------------------------- rotation

pub(super) fn not_under(
    connection: &Connection,
    master: &str,
    after: Option<&(TenantId, u64)>,
    limit: u32,
) -> Result<Vec<(TenantId, WrappedKey)>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT id, master, wrapped, tenant FROM palisade_data_key \
         WHERE (tenant, id) > (?2, ?3) AND master <> ?1 ORDER BY tenant, id LIMIT ?4",
    )?;
    // No tenant and number stands before these.
    let (tenant, id) = after.map_or(("", i64::MIN), |(tenant, id)| (tenant.as_str(), id.cast_signed()));
    let rows = statement.query_map(params![master, tenant, id, limit], |row| {
        Ok((TenantId::from(row.get::<_, String>(3)?), key(row)?))
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn rewrap(tx: &Tx<'_>, keys: &[Rewrapped]) -> Result<u64, Fault> {
    if let Some(active) = active(tx.connection())?
        && keys.iter().any(|new| new.key.master != active)
    {
        return Err(Error::new(ErrorKind::Conflict, "another master key wraps data keys by now").into());
    }
    let mut update = tx.prepare(
        "UPDATE palisade_data_key SET master = ?4, wrapped = ?5 WHERE tenant = ?1 AND id = ?2 AND master = ?3",
    )?;
    let mut replaced = 0;
    for Rewrapped { tenant, from, key } in keys {
        let row = params![tenant.as_str(), key.id.cast_signed(), from, key.master, key.wrapped];
        replaced += update.execute(row)? as u64;
    }
    Ok(replaced)
}

/// Roughly how many bytes a new wrapping holds in memory.
pub(super) const REWRAPPED_BYTES: usize = 256;

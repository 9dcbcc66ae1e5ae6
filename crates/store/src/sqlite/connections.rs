//! Connections, sealed credentials and wrapped data keys. Secrets come sealed and are stored as they come.

use palisade_core::store::{Connection as Account, SealedCredential, WrappedKey};
use palisade_core::{ConnectionId, Error, ErrorKind, TenantId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::writer::Tx;

pub(super) fn put(tx: &Tx<'_>, account: &Account) -> Result<(), Fault> {
    let state = serde_json::to_string(&account.state).map_err(|error| {
        Error::new(ErrorKind::Store, "a connection's state cannot be written as JSON").with_source(error)
    })?;
    tx.prepare(
        "INSERT INTO palisade_connection (id, tenant, provider, account, base_url, state, created_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET tenant = ?2, provider = ?3, account = ?4, \
         base_url = ?5, state = ?6, created_at = ?7",
    )?
    .execute(params![
        account.id.as_str(),
        account.tenant.as_str(),
        account.provider,
        account.account,
        account.base_url,
        state,
        account.created_at.millis(),
    ])?;
    Ok(())
}

const SELECT: &str = "SELECT id, tenant, provider, account, base_url, state, created_at FROM palisade_connection";

fn account(row: &Row<'_>) -> Result<Account, Fault> {
    let text = |column: usize| row.get::<_, String>(column);
    Ok(Account {
        id: text(0)?.into(),
        tenant: text(1)?.into(),
        provider: text(2)?,
        account: row.get(3)?,
        base_url: row.get(4)?,
        state: serde_json::from_str(&text(5)?).map_err(|_| unreadable("connection state"))?,
        created_at: Timestamp(row.get(6)?),
    })
}

pub(super) fn one(connection: &Connection, id: &ConnectionId) -> Result<Option<Account>, Fault> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
    let mut rows = statement.query([id.as_str()])?;
    rows.next()?.map(account).transpose()
}

pub(super) fn list(connection: &Connection, after: Option<&ConnectionId>, limit: u32) -> Result<Vec<Account>, Fault> {
    let from = if after.is_some() { "WHERE id > ?1" } else { "WHERE ?1 IS NULL" };
    let mut statement = connection.prepare_cached(&format!("{SELECT} {from} ORDER BY id LIMIT ?2"))?;
    let mut rows = statement.query(params![after.map(ConnectionId::as_str), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(account(row)?);
    }
    Ok(found)
}

pub(super) fn credential(connection: &Connection, id: &ConnectionId) -> Result<Option<SealedCredential>, Fault> {
    let found = connection
        .prepare_cached("SELECT generation, blob FROM palisade_credential WHERE connection = ?1")?
        .query_one([id.as_str()], |row| {
            Ok(SealedCredential { generation: row.get::<_, i64>(0)?.cast_unsigned(), blob: row.get(1)? })
        })
        .optional()?;
    Ok(found)
}

pub(super) fn put_credential(
    tx: &Tx<'_>,
    id: &ConnectionId,
    expected: u64,
    credential: &SealedCredential,
) -> Result<bool, Fault> {
    let stored: Option<i64> = tx
        .prepare("SELECT generation FROM palisade_credential WHERE connection = ?1")?
        .query_one([id.as_str()], |row| row.get(0))
        .optional()?;
    if stored.unwrap_or(0).cast_unsigned() != expected {
        return Ok(false);
    }
    tx.prepare(
        "INSERT INTO palisade_credential (connection, generation, blob) VALUES (?1, ?2, ?3) \
         ON CONFLICT (connection) DO UPDATE SET generation = ?2, blob = ?3",
    )?
    .execute(params![id.as_str(), credential.generation.cast_signed(), credential.blob])?;
    Ok(true)
}

const KEYS: &str = "SELECT id, master, wrapped FROM palisade_data_key WHERE tenant = ?1";

fn key(row: &Row<'_>) -> rusqlite::Result<WrappedKey> {
    Ok(WrappedKey { id: row.get::<_, i64>(0)?.cast_unsigned(), master: row.get(1)?, wrapped: row.get(2)? })
}

/// A tenant's keys, newest (highest number) first. They are few, and SQLite would order the numbers as signed.
fn newest_first(mut keys: Vec<WrappedKey>) -> Vec<WrappedKey> {
    keys.sort_by_key(|key| std::cmp::Reverse(key.id));
    keys
}

pub(super) fn data_keys(connection: &Connection, tenant: &TenantId) -> Result<Vec<WrappedKey>, Fault> {
    let mut statement = connection.prepare_cached(KEYS)?;
    let keys = statement.query_map([tenant.as_str()], key)?.collect::<rusqlite::Result<_>>()?;
    Ok(newest_first(keys))
}

pub(super) fn add_data_key(tx: &Tx<'_>, tenant: &TenantId, new: &WrappedKey) -> Result<WrappedKey, Fault> {
    tx.prepare(
        "INSERT INTO palisade_data_key (tenant, id, master, wrapped) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (tenant, id) DO NOTHING",
    )?
    .execute(params![tenant.as_str(), new.id.cast_signed(), new.master, new.wrapped])?;
    let mut statement = tx.prepare(KEYS)?;
    let keys = statement.query_map([tenant.as_str()], key)?.collect::<rusqlite::Result<_>>()?;
    newest_first(keys).into_iter().next().ok_or_else(|| unreadable("data key").into())
}

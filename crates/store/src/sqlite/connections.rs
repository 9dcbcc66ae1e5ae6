//! Connections and sealed credentials. Secrets come sealed and are stored as they come.

use palisade_core::store::{AccountKey, Connection as Account, ConnectionState, Halt, Queue, SealedCredential};
use palisade_core::{ConnectionId, Error, ErrorKind, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::halts;
use super::writer::Tx;

/// Keeps a connection that may be another tenant's than it was.
pub(super) fn put_anew(tx: &mut Tx<'_>, account: &Account) -> Result<(), Fault> {
    tx.turns.forget_tenant(account.id.as_str());
    put(tx, account)
}

fn put(tx: &Tx<'_>, account: &Account) -> Result<(), Fault> {
    let state = serde_json::to_string(&account.state).map_err(|error| {
        Error::new(ErrorKind::Store, "a connection's state cannot be written as JSON").with_source(error)
    })?;
    let before = one(tx.connection(), &account.id)?.map(|before| before.state);
    if before.is_some_and(|before| account.state.ends_halt(&before)) {
        halts::end(tx, &Halt::Connection(account.id.clone()))?;
    }
    tx.prepare(
        "INSERT INTO palisade_connection (id, tenant, provider, account, base_url, state, created_at, environment) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (id) DO UPDATE SET tenant = ?2, provider = ?3, \
         account = ?4, base_url = ?5, state = ?6, created_at = ?7, environment = ?8",
    )?
    .execute(params![
        account.id.as_str(),
        account.tenant.as_str(),
        account.provider,
        account.account,
        account.base_url,
        state,
        account.created_at.millis(),
        account.environment.as_str(),
    ])?;
    Ok(())
}

const SELECT: &str =
    "SELECT id, tenant, provider, account, base_url, state, created_at, environment FROM palisade_connection";

fn account(row: &Row<'_>) -> Result<Account, Fault> {
    let text = |column: usize| row.get::<_, String>(column);
    Ok(Account {
        id: text(0)?.into(),
        tenant: text(1)?.into(),
        provider: text(2)?,
        environment: text(7)?.into(),
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

/// Lists the connections of one account.
pub(super) fn of_account(
    connection: &Connection,
    key: &AccountKey,
    after: Option<&ConnectionId>,
    limit: u32,
) -> Result<Vec<Account>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "{SELECT} WHERE account = ?1 AND provider = ?2 AND environment = ?3 AND id > ?4 ORDER BY id LIMIT ?5"
    ))?;
    // No id is less than the empty one, and no connection is called so.
    let after = after.map_or("", ConnectionId::as_str);
    let mut rows = statement.query(params![key.account, key.provider, key.environment.as_str(), after, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(account(row)?);
    }
    Ok(found)
}

pub(super) fn credential(connection: &Connection, id: &ConnectionId) -> Result<Option<SealedCredential>, Fault> {
    let found = connection
        .prepare_cached("SELECT generation, blob, mark FROM palisade_credential WHERE connection = ?1")?
        .query_one([id.as_str()], |row| {
            let generation = row.get::<_, i64>(0)?.cast_unsigned();
            Ok(SealedCredential { generation, blob: row.get(1)?, mark: row.get(2)? })
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
        "INSERT INTO palisade_credential (connection, generation, blob, mark) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (connection) DO UPDATE SET generation = ?2, blob = ?3, mark = ?4",
    )?
    .execute(params![id.as_str(), credential.generation.cast_signed(), credential.blob, credential.mark])?;
    Ok(true)
}

/// Changes the state of a connection that is still in the one that was seen, and halts its events if so asked.
pub(super) fn turn(
    tx: &mut Tx<'_>,
    id: &ConnectionId,
    seen: &ConnectionState,
    to: ConnectionState,
    halted: Option<Timestamp>,
) -> Result<bool, Fault> {
    let mut turned = false;
    change(tx, id, |state| {
        turned = state == seen;
        turned.then_some(to)
    })?;
    if turned {
        if let Some(at) = halted {
            halts::add(tx, &Halt::Connection(id.clone()), at)?;
        }
        // Events that waited for its halt to end go on.
        tx.wake(Queue::Events);
    }
    Ok(turned)
}

/// Marks an active connection if one of its credentials still has the generation that was refused.
pub(super) fn refuse(tx: &Tx<'_>, id: &ConnectionId, seen: u64, reason: &str) -> Result<bool, Fault> {
    let current = tx
        .prepare(
            "SELECT 1 FROM palisade_credential WHERE connection = ?1 AND generation = ?2 \
             UNION ALL SELECT 1 FROM palisade_grant WHERE connection = ?1 AND generation = ?2",
        )?
        .exists(params![id.as_str(), seen.cast_signed()])?;
    let active = one(tx.connection(), id)?.is_some_and(|account| account.state == ConnectionState::Active);
    if current && active {
        need_reconnect(tx, id, reason)?;
    }
    Ok(current && active)
}

/// Marks an active connection as one whose owner must reconnect it.
pub(super) fn need_reconnect(tx: &Tx<'_>, id: &ConnectionId, reason: &str) -> Result<(), Fault> {
    change(tx, id, |state| {
        let reason = reason.to_owned();
        (*state == ConnectionState::Active).then_some(ConnectionState::NeedsReconnect { reason })
    })?;
    Ok(())
}

/// Makes a connection active again that needed to be reconnected.
pub(super) fn restore(tx: &Tx<'_>, id: &ConnectionId) -> Result<(), Fault> {
    change(tx, id, |state| matches!(state, ConnectionState::NeedsReconnect { .. }).then_some(ConnectionState::Active))?;
    Ok(())
}

/// Marks a connection as disconnected and erases its key; what tells the key from another one stays. `false` when there is no such connection.
pub(super) fn disconnect(tx: &Tx<'_>, id: &ConnectionId) -> Result<bool, Fault> {
    if !change(tx, id, |_| Some(ConnectionState::Disconnected))? {
        return Ok(false);
    }
    tx.prepare(
        "UPDATE palisade_credential SET generation = generation + 1, blob = x'' \
         WHERE connection = ?1 AND length(blob) > 0",
    )?
    .execute([id.as_str()])?;
    Ok(true)
}

fn change(
    tx: &Tx<'_>,
    id: &ConnectionId,
    to: impl FnOnce(&ConnectionState) -> Option<ConnectionState>,
) -> Result<bool, Fault> {
    let Some(mut account) = one(tx.connection(), id)? else { return Ok(false) };
    if let Some(state) = to(&account.state) {
        account.state = state;
        put(tx, &account)?;
    }
    Ok(true)
}

//! Destinations, how they fare, and their sealed signing keys.

use palisade_core::store::{
    DESTINATIONS_MAX, DestinationHealth, Disabled, NewDestination, Noted, SealedKey, StoredDestination,
};
use palisade_core::{Error, ErrorKind, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::writer::Tx;

/// Roughly how many bytes a destination to keep holds in memory.
pub(super) const DESTINATION_BYTES: usize = 4 * 1024;

fn as_json(value: &impl serde::Serialize) -> Result<String, Fault> {
    let written = serde_json::to_string(value);
    Ok(written.map_err(|error| Error::new(ErrorKind::Store, "a destination cannot be written").with_source(error))?)
}

pub(super) fn put(tx: &Tx<'_>, new: &NewDestination, expected: u64, now: Timestamp) -> Result<bool, Fault> {
    let known: Option<i64> = tx
        .prepare("SELECT revision FROM palisade_destination WHERE name = ?1")?
        .query_one([&new.name], |row| row.get(0))
        .optional()?;
    if known.unwrap_or(0).cast_unsigned() != expected {
        return Ok(false);
    }
    let revision = expected.saturating_add(1).cast_signed();
    tx.prepare(
        "INSERT INTO palisade_destination (name, configured, revision, spec, created_at) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (name) DO UPDATE SET configured = ?2, revision = ?3, spec = ?4",
    )?
    .execute(params![new.name, new.configured, revision, as_json(&new.spec)?, now.millis()])?;
    tx.prepare("DELETE FROM palisade_destination_key WHERE destination = ?1")?.execute([&new.name])?;
    for key in &new.keys {
        tx.prepare("INSERT INTO palisade_destination_key (destination, version, blob, until) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![new.name, key.version.cast_signed(), key.blob, key.until.map(Timestamp::millis)])?;
    }
    Ok(true)
}

const HEALTH: &str = "failures, failing_since, failed_at, reason, delivered_at, disabled";

/// Reads [`HEALTH`] from a column on.
fn health(row: &Row<'_>, at: usize) -> Result<DestinationHealth, Fault> {
    let moment = |column: usize| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(at + column)?.map(Timestamp));
    let disabled: Option<String> = row.get(at + 5)?;
    let disabled = disabled.map(|text| serde_json::from_str(&text)).transpose();
    Ok(DestinationHealth {
        failures: row.get(at)?,
        failing_since: moment(1)?,
        failed_at: moment(2)?,
        reason: row.get(at + 3)?,
        delivered_at: moment(4)?,
        disabled: disabled.map_err(|_| unreadable("destination"))?,
    })
}

fn keys(connection: &Connection, name: &str) -> Result<Vec<SealedKey>, Fault> {
    let mut statement = connection
        .prepare_cached("SELECT version, blob, until FROM palisade_destination_key WHERE destination = ?1")?;
    let key = |row: &Row<'_>| {
        let version = row.get::<_, i64>(0)?.cast_unsigned();
        Ok(SealedKey { version, blob: row.get(1)?, until: row.get::<_, Option<i64>>(2)?.map(Timestamp) })
    };
    let mut keys: Vec<SealedKey> = statement.query_map([name], key)?.collect::<rusqlite::Result<_>>()?;
    // SQLite would order the numbers as signed.
    keys.sort_by_key(|key| std::cmp::Reverse(key.version));
    Ok(keys)
}

pub(super) fn list(connection: &Connection) -> Result<Vec<StoredDestination>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT name, configured, revision, spec, created_at, paused_at, {HEALTH} FROM palisade_destination ORDER BY name LIMIT ?1"
    ))?;
    let mut rows = statement.query([DESTINATIONS_MAX])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let spec: String = row.get(3)?;
        found.push(StoredDestination {
            keys: keys(connection, &name)?,
            name,
            configured: row.get(1)?,
            revision: row.get::<_, i64>(2)?.cast_unsigned(),
            spec: serde_json::from_str(&spec).map_err(|_| unreadable("destination"))?,
            created_at: Timestamp(row.get(4)?),
            paused_at: row.get::<_, Option<i64>>(5)?.map(Timestamp),
            health: health(row, 6)?,
        });
    }
    Ok(found)
}

pub(super) fn remove(tx: &Tx<'_>, name: &str) -> Result<bool, Fault> {
    tx.prepare("DELETE FROM palisade_destination_key WHERE destination = ?1")?.execute([name])?;
    Ok(tx.prepare("DELETE FROM palisade_destination WHERE name = ?1")?.execute([name])? > 0)
}

/// Reads how a destination fares, if it has the revision.
fn health_of(tx: &Tx<'_>, name: &str, of: Option<u64>) -> Result<Option<DestinationHealth>, Fault> {
    let mut statement = tx.prepare(&format!(
        "SELECT {HEALTH} FROM palisade_destination WHERE name = ?1 AND (?2 IS NULL OR revision = ?2)"
    ))?;
    let mut rows = statement.query(params![name, of.map(u64::cast_signed)])?;
    rows.next()?.map(|row| health(row, 0)).transpose()
}

fn put_health(tx: &Tx<'_>, name: &str, health: &DestinationHealth) -> Result<(), Fault> {
    let disabled = health.disabled.as_ref().map(as_json).transpose()?;
    tx.prepare(
        "UPDATE palisade_destination SET failures = ?2, failing_since = ?3, failed_at = ?4, reason = ?5, \
         delivered_at = ?6, disabled = ?7 WHERE name = ?1",
    )?
    .execute(params![
        name,
        health.failures,
        health.failing_since.map(Timestamp::millis),
        health.failed_at.map(Timestamp::millis),
        health.reason,
        health.delivered_at.map(Timestamp::millis),
        disabled,
    ])?;
    Ok(())
}

pub(super) fn note(
    tx: &Tx<'_>,
    name: &str,
    failed: Option<&str>,
    of: u64,
    now: Timestamp,
) -> Result<Option<Noted>, Fault> {
    let Some(before) = health_of(tx, name, Some(of))? else { return Ok(None) };
    let mut after = before.clone();
    after.note(failed, now);
    put_health(tx, name, &after)?;
    Ok(Some(Noted { before, after }))
}

pub(super) fn pause(tx: &Tx<'_>, name: &str, paused_at: Option<Timestamp>) -> Result<bool, Fault> {
    let sql = match paused_at {
        Some(_) => "UPDATE palisade_destination SET paused_at = ?2 WHERE name = ?1 AND paused_at IS NULL",
        None => {
            "UPDATE palisade_destination SET paused_at = ?2, failures = 0, failing_since = NULL, failed_at = NULL, \
             reason = NULL WHERE name = ?1 AND paused_at IS NOT NULL"
        }
    };
    Ok(tx.prepare(sql)?.execute(params![name, paused_at.map(Timestamp::millis)])? > 0)
}

pub(super) fn disable(tx: &Tx<'_>, name: &str, disabled: Option<&Disabled>, of: Option<u64>) -> Result<bool, Fault> {
    let Some(mut health) = health_of(tx, name, of)? else { return Ok(false) };
    match (disabled, health.disabled.is_some()) {
        (Some(_), true) | (None, false) => return Ok(false),
        (Some(disabled), false) => health.disabled = Some(disabled.clone()),
        (None, true) => {
            health = DestinationHealth { delivered_at: health.delivered_at, ..DestinationHealth::default() };
        }
    }
    put_health(tx, name, &health)?;
    Ok(true)
}

//! The call log and its hourly counts.

use palisade_core::store::{CallCounts, CallDay, CallRecord, counts_as_error};
use palisade_core::{ConnectionId, Timestamp};
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{Fault, unreadable};
use super::writer::Tx;

const HOUR_MILLIS: i64 = 3_600_000;
const DAY_HOURS: i64 = 24;

/// Roughly how many bytes one call holds in memory.
pub(super) const CALL_BYTES: usize = 512;

fn hour(at: Timestamp) -> i64 {
    at.millis().div_euclid(HOUR_MILLIS)
}

/// The name serde gives a plain enumeration's value.
fn name<T: Serialize>(value: Option<T>) -> Option<String> {
    match serde_json::to_value(value?) {
        Ok(serde_json::Value::String(name)) => Some(name),
        Ok(_) | Err(_) => None,
    }
}

fn named<T: DeserializeOwned>(name: Option<String>) -> Result<Option<T>, Fault> {
    let read = |name| serde_json::from_value(serde_json::Value::String(name));
    Ok(name.map(read).transpose().map_err(|_| unreadable("call"))?)
}

pub(super) fn log(tx: &Tx<'_>, calls: &[CallRecord]) -> Result<(), Fault> {
    let mut insert = tx.prepare(
        "INSERT INTO palisade_call (at, provider, operation, connection, status, error, outcome, attempts, \
         duration_us, waited_us, request_id, correlation_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    let mut count = tx.prepare(
        "INSERT INTO palisade_call_hour (connection, hour, calls, errors) VALUES (?1, ?2, 1, ?3) \
         ON CONFLICT (connection, hour) DO UPDATE SET calls = calls + 1, errors = errors + ?3",
    )?;
    for call in calls {
        insert.execute(params![
            call.at.millis(),
            call.provider,
            call.operation,
            call.connection.as_str(),
            call.status,
            name(call.error),
            name(call.outcome),
            call.attempts,
            call.duration_us.cast_signed(),
            call.waited_us.cast_signed(),
            call.request_id,
            call.correlation_id,
        ])?;
        let failed = call.error.is_some_and(counts_as_error);
        count.execute(params![call.connection.as_str(), hour(call.at), failed])?;
    }
    Ok(())
}

fn call(row: &Row<'_>) -> Result<CallRecord, Fault> {
    Ok(CallRecord {
        at: Timestamp(row.get(0)?),
        provider: row.get(1)?,
        operation: row.get(2)?,
        connection: row.get::<_, String>(3)?.into(),
        status: row.get(4)?,
        error: named(row.get(5)?)?,
        outcome: named(row.get(6)?)?,
        attempts: row.get(7)?,
        duration_us: row.get::<_, i64>(8)?.cast_unsigned(),
        waited_us: row.get::<_, i64>(9)?.cast_unsigned(),
        request_id: row.get(10)?,
        correlation_id: row.get(11)?,
    })
}

pub(super) fn list(connection: &Connection, of: Option<&ConnectionId>, limit: u32) -> Result<Vec<CallRecord>, Fault> {
    let only = if of.is_some() { "WHERE connection = ?1" } else { "WHERE ?1 IS NULL" };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT at, provider, operation, connection, status, error, outcome, attempts, duration_us, waited_us, \
         request_id, correlation_id FROM palisade_call {only} ORDER BY id DESC LIMIT ?2"
    ))?;
    let mut rows = statement.query(params![of.map(ConnectionId::as_str), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(call(row)?);
    }
    Ok(found)
}

pub(super) fn counts(connection: &Connection, of: &ConnectionId, since: Timestamp) -> Result<CallCounts, Fault> {
    let counts = connection
        .prepare_cached(
            "SELECT coalesce(sum(calls), 0), coalesce(sum(errors), 0) FROM \
             (SELECT calls, errors FROM palisade_call_hour WHERE connection = ?1 AND hour >= ?2 UNION ALL \
             SELECT calls, errors FROM palisade_call_day WHERE connection = ?1 AND day >= ?3)",
        )?
        .query_one(params![of.as_str(), hour(since), hour(since).div_euclid(DAY_HOURS)], |row| {
            Ok(CallCounts {
                calls: row.get::<_, i64>(0)?.cast_unsigned(),
                errors: row.get::<_, i64>(1)?.cast_unsigned(),
            })
        })?;
    Ok(counts)
}

pub(super) fn prune(tx: &Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let gone = tx
        .prepare(
            "DELETE FROM palisade_call WHERE id IN \
             (SELECT id FROM palisade_call WHERE at < ?1 ORDER BY at, id LIMIT ?2)",
        )?
        .execute(params![before.millis(), limit])?;
    tx.prepare("DELETE FROM palisade_call_hour WHERE hour < ?1")?.execute([hour(before)])?;
    Ok(gone as u64)
}

/// Adds hours to their days and removes them, oldest first.
pub(super) fn roll_up(tx: &Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let mut old = tx.prepare(
        "SELECT connection, hour, calls, errors FROM palisade_call_hour WHERE hour < ?1 \
         ORDER BY hour, connection LIMIT ?2",
    )?;
    let rows = old.query_map(params![hour(before), limit], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
    })?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut add = tx.prepare(
        "INSERT INTO palisade_call_day (connection, day, calls, errors) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (connection, day) DO UPDATE SET calls = calls + ?3, errors = errors + ?4",
    )?;
    let mut gone = tx.prepare("DELETE FROM palisade_call_hour WHERE connection = ?1 AND hour = ?2")?;
    for (connection, hour, calls, errors) in &rows {
        add.execute(params![connection, hour.div_euclid(DAY_HOURS), calls, errors])?;
        gone.execute(params![connection, hour])?;
    }
    Ok(rows.len() as u64)
}

pub(super) fn prune_days(tx: &Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let gone = tx
        .prepare(
            "DELETE FROM palisade_call_day WHERE (connection, day) IN \
             (SELECT connection, day FROM palisade_call_day WHERE day < ?1 ORDER BY day, connection LIMIT ?2)",
        )?
        .execute(params![hour(before).div_euclid(DAY_HOURS), limit])?;
    Ok(gone as u64)
}

/// Lists days, the newest first. Hours that are still told apart are those of a few days.
pub(super) fn days(connection: &Connection, of: &ConnectionId, limit: u32) -> Result<Vec<CallDay>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT day, sum(calls), sum(errors) FROM \
         (SELECT (hour - ((hour % 24) + 24) % 24) / 24 AS day, calls, errors FROM palisade_call_hour \
         WHERE connection = ?1 UNION ALL SELECT day, calls, errors FROM palisade_call_day WHERE connection = ?1) \
         GROUP BY day ORDER BY day DESC LIMIT ?2",
    )?;
    let found = statement.query_map(params![of.as_str(), limit], |row| {
        Ok(CallDay {
            day: Timestamp(row.get::<_, i64>(0)? * DAY_HOURS * HOUR_MILLIS),
            counts: CallCounts {
                calls: row.get::<_, i64>(1)?.cast_unsigned(),
                errors: row.get::<_, i64>(2)?.cast_unsigned(),
            },
        })
    })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

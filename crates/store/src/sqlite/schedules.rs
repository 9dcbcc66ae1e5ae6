//! Schedules that were set, what moments of runs depend on, and how chores ended.

use std::time::Duration;

use palisade_core::store::{
    ChoreReport, Connection as Account, HeldJob, Lease, Moved, RunMode, Scheduled, ScheduledStream, SetSchedule,
    StreamKey,
};
use palisade_core::{ConnectionId, StreamName, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Fault;
use super::writer::Tx;
use super::{connections, jobs, records, runs};

/// Reads one connection's row.
pub(super) fn one(reader: &Connection, id: &ConnectionId) -> Result<Option<Scheduled>, Fault> {
    connections::one(reader, id)?.map(|account| scheduled(reader, account)).transpose()
}

/// Reads the rows of connections after one: three looks into indexes each, and one per stream.
pub(super) fn after(reader: &Connection, after: Option<&ConnectionId>, limit: u32) -> Result<Vec<Scheduled>, Fault> {
    let accounts = connections::list(reader, after, limit)?;
    accounts.into_iter().map(|account| scheduled(reader, account)).collect()
}

fn scheduled(reader: &Connection, connection: Account) -> Result<Scheduled, Fault> {
    let streams = records::streams_changed(reader, &connection.id)?
        .into_iter()
        .map(|(name, status, changed_at)| ScheduledStream { name, status, changed_at })
        .collect();
    let mut set = reader.prepare_cached(
        "SELECT stream, mode, schedule FROM palisade_schedule WHERE connection = ?1 ORDER BY stream, mode",
    )?;
    let set = set.query_map([connection.id.as_str()], |row| {
        let mode = if row.get::<_, i64>(1)? == 0 { RunMode::Full } else { RunMode::Incremental };
        Ok(SetSchedule { stream: StreamName::from(row.get::<_, String>(0)?), mode, schedule: row.get(2)? })
    })?;
    let set = set.collect::<rusqlite::Result<_>>()?;
    Ok(Scheduled { connection, streams, set })
}

pub(super) fn set(tx: &Tx<'_>, key: &StreamKey, mode: RunMode, schedule: Option<&str>) -> Result<(), Fault> {
    let (connection, stream, mode) = (key.connection.as_str(), key.stream.as_str(), runs::mode_number(mode));
    match schedule {
        Some(schedule) => tx
            .prepare(
                "INSERT OR REPLACE INTO palisade_schedule (connection, stream, mode, schedule) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![connection, stream, mode, schedule])?,
        None => tx
            .prepare("DELETE FROM palisade_schedule WHERE connection = ?1 AND stream = ?2 AND mode = ?3")?
            .execute(params![connection, stream, mode])?,
    };
    Ok(())
}

/// Moves a job that was never claimed and is not due. It waits for its moment afterwards, whatever it was: a claim asks its
/// lane.
pub(super) fn move_job(tx: &mut Tx<'_>, unique: &str, to: Timestamp, now: Timestamp) -> Result<Moved, Fault> {
    let moved: Option<(Option<String>, i64)> = tx
        .prepare(
            "UPDATE palisade_job SET run_at = ?2, state = 5 WHERE unique_key = ?1 AND finished_at IS NULL \
             AND state IN (4, 5) AND fence = 0 AND run_at > ?3 RETURNING lane, queue",
        )?
        .query_row(params![unique, to.millis(), now.millis()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((lane, queue)) = moved else {
        let there =
            tx.prepare("SELECT 1 FROM palisade_job WHERE unique_key = ?1 AND finished_at IS NULL")?.exists([unique])?;
        return Ok(if there { Moved::Busy } else { Moved::Missing });
    };
    // Those behind it may be due before it now.
    if let Some(lane) = lane {
        jobs::promote(tx, &lane, None, now)?;
    }
    tx.wake(jobs::queue_of(queue));
    Ok(Moved::Moved)
}

pub(super) fn held(reader: &Connection, lease: Lease) -> Result<Option<HeldJob>, Fault> {
    let found = reader
        .prepare_cached(
            "SELECT unique_key, run_at, attempt FROM palisade_job WHERE id = ?1 AND fence = ?2 AND state = 1",
        )?
        .query_one(params![lease.job.0, lease.fence], |row| {
            Ok(HeldJob { unique: row.get(0)?, run_at: Timestamp(row.get(1)?), attempt: row.get(2)? })
        })
        .optional()?;
    Ok(found)
}

pub(super) fn chore_ended(tx: &Tx<'_>, report: &ChoreReport) -> Result<(), Fault> {
    tx.prepare(
        "INSERT OR REPLACE INTO palisade_chore (name, ended_at, took_ms, outcome, failed) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        report.name,
        report.ended_at.millis(),
        i64::try_from(report.took.as_millis()).unwrap_or(i64::MAX),
        report.outcome,
        report.failed,
    ])?;
    Ok(())
}

pub(super) fn chores(reader: &Connection) -> Result<Vec<ChoreReport>, Fault> {
    let mut statement =
        reader.prepare_cached("SELECT name, ended_at, took_ms, outcome, failed FROM palisade_chore ORDER BY name")?;
    let found = statement.query_map([], |row| {
        Ok(ChoreReport {
            name: row.get(0)?,
            ended_at: Timestamp(row.get(1)?),
            took: Duration::from_millis(row.get::<_, i64>(2)?.unsigned_abs()),
            outcome: row.get(3)?,
            failed: row.get(4)?,
        })
    })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

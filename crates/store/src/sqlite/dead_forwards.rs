//! Events that were given up for a destination. The contract is at
//! [`palisade_core::store::Destinations::dead_forwards`].

use std::collections::BTreeMap;

use palisade_core::Timestamp;
use palisade_core::store::{DeadForward, EventRow, FORWARDS_COUNTED_MAX, ForwardCounts};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Fault;
use super::jobs;
use super::writer::Tx;

/// Notes that a job died which forwards an event that is there.
pub(super) fn add(
    tx: &Tx<'_>,
    destination: &str,
    event: EventRow,
    job: i64,
    reason: &str,
    now: Timestamp,
) -> Result<(), Fault> {
    tx.prepare(
        "INSERT OR REPLACE INTO palisade_dead_forward SELECT ?1, id, ?3, ?4, ?5 FROM palisade_event \
         WHERE id = ?2 AND state <> 4",
    )?
    .execute(params![destination, event.0, job, now.millis(), reason])?;
    Ok(())
}

/// Forgets that an event was given up, as somebody has seen to it; the job that died counts as done.
pub(super) fn dismiss(tx: &mut Tx<'_>, destination: &str, event: EventRow) -> Result<bool, Fault> {
    let job: Option<i64> = tx
        .prepare("SELECT job FROM palisade_dead_forward WHERE destination = ?1 AND event = ?2")?
        .query_one(params![destination, event.0], |row| row.get(0))
        .optional()?;
    let Some(job) = job else { return Ok(false) };
    tx.prepare("DELETE FROM palisade_dead_forward WHERE destination = ?1 AND event = ?2")?
        .execute(params![destination, event.0])?;
    jobs::seen(tx, job)?;
    Ok(true)
}

/// Forgets an event that is removed.
pub(super) fn forget(tx: &Tx<'_>, event: i64) -> Result<(), Fault> {
    tx.prepare("DELETE FROM palisade_dead_forward WHERE event = ?1")?.execute([event])?;
    Ok(())
}

/// Counts the unfinished jobs of a range of unique keys, up to a number.
pub(super) const WAITING: &str = "SELECT count(*) FROM (SELECT 1 FROM palisade_job \
     WHERE unique_key > ?1 AND unique_key < ?2 AND finished_at IS NULL LIMIT ?3)";
/// Counts what was given up for a destination, up to a number.
pub(super) const DEAD: &str =
    "SELECT count(*) FROM (SELECT 1 FROM palisade_dead_forward WHERE destination = ?1 LIMIT ?2)";

pub(super) fn counts(reader: &Connection, destinations: Vec<String>) -> Result<BTreeMap<String, ForwardCounts>, Fault> {
    let (mut waiting, mut dead) = (reader.prepare_cached(WAITING)?, reader.prepare_cached(DEAD)?);
    let mut counts = BTreeMap::new();
    for name in destinations {
        // All keys that begin with "forward/NAME/": "0" comes right after "/".
        let (from, to) = (format!("forward/{name}/"), format!("forward/{name}0"));
        let waiting: i64 = waiting.query_one(params![from, to, FORWARDS_COUNTED_MAX], |row| row.get(0))?;
        let dead: i64 = dead.query_one(params![name, FORWARDS_COUNTED_MAX], |row| row.get(0))?;
        counts.insert(name, ForwardCounts { waiting: waiting.unsigned_abs(), dead: dead.unsigned_abs() });
    }
    Ok(counts)
}

pub(super) fn list(
    reader: &Connection,
    destination: &str,
    after: Option<EventRow>,
    limit: u32,
) -> Result<Vec<DeadForward>, Fault> {
    let mut statement = reader.prepare_cached(
        "SELECT event, at, reason FROM palisade_dead_forward WHERE destination = ?1 AND event > ?2 \
         ORDER BY event LIMIT ?3",
    )?;
    let after = after.map_or(i64::MIN, |after| after.0);
    let rows = statement.query_map(params![destination, after, limit], |row| {
        Ok(DeadForward { row: EventRow(row.get(0)?), at: Timestamp(row.get(1)?), reason: row.get(2)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

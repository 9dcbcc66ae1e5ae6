//! Dead events counted by cause. The contract is at [`palisade_core::store::Inbox::dead_letters`].

use palisade_core::Timestamp;
use palisade_core::store::{CAUSES_MAX, DeadLetters, OTHER_CAUSES};
use rusqlite::{Connection, params};

use super::error::Fault;
use super::writer::Tx;

/// Counts an event as dead for a reason, or as dead no more; without room for the cause under that of all others.
pub(super) fn count(tx: &Tx<'_>, event: i64, reason: &str, by: i64, now: Timestamp) -> Result<(), Fault> {
    let (provider, kind): (String, String) = tx
        .prepare("SELECT provider, kind FROM palisade_event WHERE id = ?1")?
        .query_row([event], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let changed = tx
        .prepare(
            "UPDATE palisade_dead_cause SET events = events + ?4, last_at = iif(?4 > 0, ?5, last_at) \
             WHERE provider = ?1 AND kind = ?2 AND reason = ?3",
        )?
        .execute(params![provider, kind, reason, by, now.millis()])?;
    if changed == 0 {
        let apart: i64 = tx
            .prepare(
                "SELECT count(*) FROM palisade_dead_cause WHERE NOT (provider = '' AND kind = '' AND reason = ?1)",
            )?
            .query_row([OTHER_CAUSES], |row| row.get(0))?;
        let of = if by > 0 && apart.unsigned_abs() < CAUSES_MAX as u64 {
            (provider.as_str(), kind.as_str(), reason)
        } else {
            ("", "", OTHER_CAUSES)
        };
        tx.prepare(
            "INSERT INTO palisade_dead_cause VALUES (?1, ?2, ?3, max(?4, 0), ?5, ?5) \
             ON CONFLICT DO UPDATE SET events = events + ?4, last_at = iif(?4 > 0, ?5, last_at)",
        )?
        .execute(params![of.0, of.1, of.2, by, now.millis()])?;
    }
    if by < 0 {
        tx.prepare("DELETE FROM palisade_dead_cause WHERE events <= 0")?.execute([])?;
    }
    Ok(())
}

pub(super) fn list(reader: &Connection, limit: u32) -> Result<Vec<DeadLetters>, Fault> {
    let mut statement = reader.prepare_cached(
        "SELECT provider, kind, reason, events, first_at, last_at FROM palisade_dead_cause \
         ORDER BY events DESC, provider, kind, reason LIMIT ?1",
    )?;
    let rows = statement.query_map([limit], |row| {
        Ok(DeadLetters {
            provider: row.get(0)?,
            kind: row.get(1)?,
            reason: row.get(2)?,
            events: row.get::<_, i64>(3)?.unsigned_abs(),
            first_at: Timestamp(row.get(4)?),
            last_at: Timestamp(row.get(5)?),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

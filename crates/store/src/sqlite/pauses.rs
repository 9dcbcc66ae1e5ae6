//! Pauses of lanes. There are few rows, and most of the time none.

use std::collections::BTreeSet;

use palisade_core::Timestamp;
use palisade_core::store::pauses::{PAUSES_MAX, Pause};
use rusqlite::{Connection, params};

use super::error::Fault;
use super::writer::Tx;

/// Roughly how many bytes one pause holds in memory.
pub(super) const PAUSE_BYTES: usize = 256;

pub(super) fn put(tx: &Tx<'_>, pauses: &[Pause]) -> Result<(), Fault> {
    let mut put = tx.prepare(
        "INSERT INTO palisade_pause (provider, lane, at, until) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (provider, lane) DO UPDATE SET at = ?3, until = ?4 WHERE ?4 > until",
    )?;
    for pause in pauses {
        put.execute(params![pause.provider, pause.lane, pause.at.millis(), pause.until.millis()])?;
    }
    let providers: BTreeSet<&str> = pauses.iter().map(|pause| pause.provider.as_str()).collect();
    for provider in providers {
        let kept: u32 = tx
            .prepare("SELECT count(*) FROM palisade_pause WHERE provider = ?1")?
            .query_one([provider], |row| row.get(0))?;
        if kept > PAUSES_MAX {
            tx.prepare(
                "DELETE FROM palisade_pause WHERE provider = ?1 AND lane IN \
                 (SELECT lane FROM palisade_pause WHERE provider = ?1 ORDER BY until DESC, lane LIMIT -1 OFFSET ?2)",
            )?
            .execute(params![provider, PAUSES_MAX])?;
        }
    }
    Ok(())
}

pub(super) fn list(connection: &Connection, now: Timestamp, limit: u32) -> Result<Vec<Pause>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT provider, lane, at, until FROM palisade_pause WHERE until > ?1 \
         ORDER BY until DESC, provider, lane LIMIT ?2",
    )?;
    let mut rows = statement.query(params![now.millis(), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Pause {
            provider: row.get(0)?,
            lane: row.get(1)?,
            at: Timestamp(row.get(2)?),
            until: Timestamp(row.get(3)?),
        });
    }
    Ok(found)
}

pub(super) fn prune(tx: &Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let gone = tx
        .prepare(
            "DELETE FROM palisade_pause WHERE (provider, lane) IN \
             (SELECT provider, lane FROM palisade_pause WHERE until < ?1 ORDER BY until, provider, lane LIMIT ?2)",
        )?
        .execute(params![before.millis(), limit])?;
    Ok(gone as u64)
}

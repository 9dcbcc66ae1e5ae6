//! How events come to an endpoint, by type. The contract is at [`palisade_core::store::Inbox::append`].

use palisade_core::Timestamp;
use palisade_core::store::{HEARD_EVERY_MS, HEARD_KINDS_MAX, Heard, NewDelivery, NewEvent};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Fault;
use super::writer::Tx;

/// What is kept of a type.
#[derive(Clone, Copy, Default)]
struct Noted {
    heard_at: Option<i64>,
    found: i64,
    found_from: Option<i64>,
    found_to: Option<i64>,
}

/// Notes how an event came.
pub(super) fn note(tx: &mut Tx<'_>, delivery: &NewDelivery, event: &NewEvent, new: bool) -> Result<(), Fault> {
    let (endpoint, kind, at) = (delivery.endpoint.as_str(), event.heard_as(), delivery.received_at.millis());
    let walked = delivery.body.is_empty();
    if walked && !(new && event.wanted) {
        return Ok(());
    }
    // Of many deliveries in one commit the first has noted it.
    if !walked && tx.knows(endpoint, kind, at) {
        return Ok(());
    }
    let there = tx
        .prepare("SELECT heard_at, found, found_from, found_to FROM palisade_heard WHERE endpoint = ?1 AND kind = ?2")?
        .query_row(params![endpoint, kind], |row| {
            Ok(Noted { heard_at: row.get(0)?, found: row.get(1)?, found_from: row.get(2)?, found_to: row.get(3)? })
        })
        .optional()?;
    let mut noted = there.unwrap_or_default();
    if !walked {
        let moves =
            |heard: i64| at.saturating_sub(heard) >= HEARD_EVERY_MS || (at > heard && noted.found_to >= Some(heard));
        let heard_at = noted.heard_at.filter(|heard| !moves(*heard)).unwrap_or(at);
        if noted.found_to < Some(heard_at) {
            tx.hear(endpoint, kind, heard_at);
        }
        if noted.heard_at == Some(heard_at) {
            return Ok(());
        }
        noted.heard_at = Some(heard_at);
    } else {
        let last: Option<i64> = tx
            .prepare("SELECT max(heard_at) FROM palisade_heard WHERE endpoint = ?1")?
            .query_one([endpoint], |row| row.get(0))?;
        if noted.found == 0 || noted.found_from <= last {
            (noted.found, noted.found_from) = (0, Some(at));
        }
        tx.unhear();
        noted.found += 1;
        noted.found_to = Some(at);
    }
    if there.is_none() {
        let kinds: i64 = tx
            .prepare("SELECT count(*) FROM palisade_heard WHERE endpoint = ?1")?
            .query_one([endpoint], |row| row.get(0))?;
        if kinds.unsigned_abs() >= HEARD_KINDS_MAX as u64 {
            return Ok(());
        }
    }
    tx.prepare(
        "INSERT INTO palisade_heard (endpoint, kind, heard_at, found, found_from, found_to) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE SET heard_at = excluded.heard_at, \
         found = excluded.found, found_from = excluded.found_from, found_to = excluded.found_to",
    )?
    .execute(params![endpoint, kind, noted.heard_at, noted.found, noted.found_from, noted.found_to])?;
    Ok(())
}

/// Reads what is noted of an endpoint.
pub(super) fn read(reader: &Connection, endpoint: &str) -> Result<Vec<Heard>, Fault> {
    let mut statement = reader.prepare_cached(
        "SELECT kind, heard_at, found, found_from, found_to FROM palisade_heard WHERE endpoint = ?1 ORDER BY kind",
    )?;
    let time = |millis: Option<i64>| millis.map(Timestamp);
    let rows = statement.query_map([endpoint], |row| {
        Ok(Heard {
            kind: row.get(0)?,
            heard_at: time(row.get(1)?),
            found: row.get::<_, i64>(2)?.unsigned_abs(),
            found_from: time(row.get(3)?),
            found_to: time(row.get(4)?),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

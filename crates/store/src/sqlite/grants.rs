//! Grants: tokens come sealed and are stored as they come.

use palisade_core::store::{
    Connection as Account, EndReason, GrantClaim, GrantKey, GrantLease, GrantState, NewGrant, NewTokens, Revocation,
    StoredGrant,
};
use palisade_core::{ConnectionId, Error, ErrorKind, GrantName, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::writer::Tx;
use super::{connections, runs};

const SELECT: &str = "SELECT connection, name, flow, generation, blob, state, issued_at, expires_at, keep_alive_at, \
     requested, granted, held_until, fence, intent, rest_until, failures FROM palisade_grant";

fn json<T: serde::Serialize>(value: &T) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| {
        Error::new(ErrorKind::Store, "a part of a grant cannot be written as JSON").with_source(error).into()
    })
}

fn grant(row: &Row<'_>) -> Result<StoredGrant, Fault> {
    let moment = |column: usize| row.get::<_, Option<i64>>(column).map(|at| at.map(Timestamp));
    let text = |column: usize| row.get::<_, String>(column);
    Ok(StoredGrant {
        key: GrantKey { connection: text(0)?.into(), name: text(1)?.into() },
        flow: text(2)?,
        generation: row.get::<_, i64>(3)?.cast_unsigned(),
        blob: row.get(4)?,
        state: serde_json::from_str(&text(5)?).map_err(|_| unreadable("grant"))?,
        issued_at: Timestamp(row.get(6)?),
        expires_at: moment(7)?,
        keep_alive_at: moment(8)?,
        requested: serde_json::from_str(&text(9)?).map_err(|_| unreadable("grant"))?,
        granted: serde_json::from_str(&text(10)?).map_err(|_| unreadable("grant"))?,
        held_until: moment(11)?,
        fence: row.get::<_, i64>(12)?.cast_unsigned(),
        intent: moment(13)?,
        rest_until: moment(14)?,
        failures: row.get(15)?,
    })
}

/// The two columns a state is searched by: whether it is live, and whether it is over without being erased.
fn searched(state: &GrantState) -> (bool, bool) {
    match state {
        GrantState::Live => (true, false),
        GrantState::Ending { .. } | GrantState::Dead { .. } => (false, true),
        GrantState::Erased { .. } => (false, false),
    }
}

/// Roughly how many bytes the grants hold in memory.
pub(super) fn bytes(grants: &[NewGrant]) -> usize {
    grants.iter().map(|grant| 512 + grant.tokens.blob.len()).sum()
}

pub(super) fn one(connection: &Connection, key: &GrantKey) -> Result<Option<StoredGrant>, Fault> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE connection = ?1 AND name = ?2"))?;
    let mut rows = statement.query([key.connection.as_str(), key.name.as_str()])?;
    rows.next()?.map(grant).transpose()
}

pub(super) fn of_connection(connection: &Connection, id: &ConnectionId) -> Result<Vec<StoredGrant>, Fault> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE connection = ?1 ORDER BY name"))?;
    let mut rows = statement.query([id.as_str()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(grant(row)?);
    }
    Ok(found)
}

pub(super) fn due(connection: &Connection, now: Timestamp, limit: u32) -> Result<Vec<GrantKey>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT connection, name FROM palisade_grant WHERE live = 1 AND keep_alive_at <= ?1 \
         AND (rest_until IS NULL OR rest_until <= ?1) ORDER BY keep_alive_at, connection, name LIMIT ?2",
    )?;
    let rows = statement.query_map(params![now.millis(), limit], |row| {
        Ok(GrantKey { connection: row.get::<_, String>(0)?.into(), name: row.get::<_, String>(1)?.into() })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

// ------------------------------------------------------------------------------------------------------- writes

pub(super) fn connect(tx: &mut Tx<'_>, account: &Account, grants: &[NewGrant]) -> Result<bool, Fault> {
    let mut stored = tx.prepare("SELECT generation FROM palisade_grant WHERE connection = ?1 AND name = ?2")?;
    for new in grants {
        let key = [account.id.as_str(), new.name.as_str()];
        let generation: Option<i64> = stored.query_one(key, |row| row.get(0)).optional()?;
        if generation.unwrap_or(0).cast_unsigned() != new.tokens.expected {
            return Ok(false);
        }
    }
    let mut put = tx.prepare(
        "INSERT INTO palisade_grant (connection, name, flow, generation, blob, state, live, over, issued_at, \
         expires_at, keep_alive_at, requested, granted) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, 0, ?7, ?8, ?9, ?10, ?11) \
         ON CONFLICT (connection, name) DO UPDATE SET flow = ?3, generation = ?4, blob = ?5, state = ?6, live = 1, \
         over = 0, issued_at = ?7, expires_at = ?8, keep_alive_at = ?9, requested = ?10, granted = ?11, \
         held_until = NULL, intent = NULL, rest_until = NULL, failures = 0",
    )?;
    for NewGrant { name, flow, requested, tokens } in grants {
        put.execute(params![
            account.id.as_str(),
            name.as_str(),
            flow,
            tokens.generation.cast_signed(),
            tokens.blob,
            json(&GrantState::Live)?,
            tokens.issued_at.millis(),
            tokens.expires_at.map(Timestamp::millis),
            tokens.keep_alive_at.map(Timestamp::millis),
            json(requested)?,
            json(&tokens.granted)?,
        ])?;
    }
    connections::put_anew(tx, account)?;
    Ok(true)
}

/// What stands in a row about being held: until when, resting until when, fence, intent.
type Hold = (Option<i64>, Option<i64>, i64, Option<i64>);

pub(super) fn claim(
    tx: &Tx<'_>,
    key: &GrantKey,
    generation: u64,
    now: Timestamp,
    until: Timestamp,
) -> Result<GrantClaim, Fault> {
    let stored: Option<Hold> = tx
        .prepare(
            "SELECT held_until, rest_until, fence, intent FROM palisade_grant \
             WHERE connection = ?1 AND name = ?2 AND generation = ?3 AND live = 1",
        )?
        .query_one(params![key.connection.as_str(), key.name.as_str(), generation.cast_signed()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((held_until, rest_until, fence, intent)) = stored else { return Ok(GrantClaim::Moved) };
    let later = |at: Option<i64>| at.map(Timestamp).filter(|at| *at > now);
    if let Some(until) = later(held_until) {
        return Ok(GrantClaim::Busy { until });
    }
    if let Some(until) = later(rest_until) {
        return Ok(GrantClaim::Resting { until });
    }
    let fence = fence + 1;
    tx.prepare("UPDATE palisade_grant SET held_until = ?3, fence = ?4 WHERE connection = ?1 AND name = ?2")?
        .execute(params![key.connection.as_str(), key.name.as_str(), until.millis(), fence])?;
    let lease = GrantLease { key: key.clone(), fence: fence.cast_unsigned() };
    Ok(GrantClaim::Held { lease, intent: intent.map(Timestamp) })
}

/// The rows a hold may write.
const HELD: &str = "WHERE connection = ?1 AND name = ?2 AND fence = ?3 AND held_until IS NOT NULL";

fn write_held(tx: &Tx<'_>, lease: &GrantLease, set: &str, at: Option<Timestamp>) -> Result<bool, Fault> {
    let key = &lease.key;
    let row = params![key.connection.as_str(), key.name.as_str(), lease.fence.cast_signed(), at.map(Timestamp::millis)];
    let changed = tx.prepare(&format!("UPDATE palisade_grant SET {set} {HELD}"))?.execute(row)?;
    Ok(changed == 1)
}

pub(super) fn extend(tx: &Tx<'_>, lease: &GrantLease, until: Timestamp) -> Result<bool, Fault> {
    write_held(tx, lease, "held_until = ?4", Some(until))
}

pub(super) fn note_intent(tx: &Tx<'_>, lease: &GrantLease, at: Option<Timestamp>) -> Result<bool, Fault> {
    write_held(tx, lease, "intent = ?4", at)
}

pub(super) fn release(tx: &Tx<'_>, lease: &GrantLease, rest_until: Option<Timestamp>) -> Result<bool, Fault> {
    let set = "held_until = NULL, intent = NULL, rest_until = coalesce(?4, rest_until), \
               failures = failures + (?4 IS NOT NULL)";
    write_held(tx, lease, set, rest_until)
}

pub(super) fn renew(tx: &Tx<'_>, key: &GrantKey, tokens: &NewTokens) -> Result<bool, Fault> {
    let stored: Option<(String, bool)> = tx
        .prepare("SELECT state, over FROM palisade_grant WHERE connection = ?1 AND name = ?2 AND generation = ?3")?
        .query_one(params![key.connection.as_str(), key.name.as_str(), tokens.expected.cast_signed()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((state, was_over)) = stored else { return Ok(false) };
    let state: GrantState = serde_json::from_str(&state).map_err(|_| unreadable("grant"))?;
    if matches!(state, GrantState::Erased { .. }) {
        return Ok(false);
    }
    tx.prepare(
        "UPDATE palisade_grant SET generation = ?3, blob = ?4, state = ?5, live = 1, over = 0, issued_at = ?6, \
         expires_at = ?7, keep_alive_at = ?8, granted = ?9, held_until = NULL, intent = NULL, rest_until = NULL, \
         failures = 0 WHERE connection = ?1 AND name = ?2",
    )?
    .execute(params![
        key.connection.as_str(),
        key.name.as_str(),
        tokens.generation.cast_signed(),
        tokens.blob,
        json(&GrantState::Live)?,
        tokens.issued_at.millis(),
        tokens.expires_at.map(Timestamp::millis),
        tokens.keep_alive_at.map(Timestamp::millis),
        json(&tokens.granted)?,
    ])?;
    if was_over {
        let mut others = tx.prepare("SELECT 1 FROM palisade_grant WHERE connection = ?1 AND over = 1")?;
        if !others.exists([key.connection.as_str()])? {
            connections::restore(tx, &key.connection)?;
        }
    }
    Ok(true)
}

pub(super) fn end(
    tx: &Tx<'_>,
    key: &GrantKey,
    generation: u64,
    reason: EndReason,
    serves: bool,
) -> Result<bool, Fault> {
    let row = [key.connection.as_str(), key.name.as_str()];
    let stored: Option<(String, i64)> = tx
        .prepare("SELECT state, generation FROM palisade_grant WHERE connection = ?1 AND name = ?2")?
        .query_one(row, |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((state, _)) = stored.filter(|(_, stored)| stored.cast_unsigned() == generation) else { return Ok(false) };
    let state: GrantState = serde_json::from_str(&state).map_err(|_| unreadable("grant"))?;
    let state = match (state, serves) {
        (GrantState::Live, true) => GrantState::Ending { reason },
        (GrantState::Live | GrantState::Ending { .. }, false) => GrantState::Dead { reason },
        (kept @ (GrantState::Ending { .. } | GrantState::Dead { .. } | GrantState::Erased { .. }), _) => kept,
    };
    let (live, over) = searched(&state);
    tx.prepare(
        "UPDATE palisade_grant SET state = ?3, live = ?4, over = ?5, held_until = NULL, intent = NULL \
         WHERE connection = ?1 AND name = ?2",
    )?
    .execute(params![key.connection.as_str(), key.name.as_str(), json(&state)?, live, over])?;
    if over {
        connections::need_reconnect(tx, &key.connection, reason.phrase())?;
    }
    Ok(true)
}

pub(super) fn disconnect(
    tx: &Tx<'_>,
    id: &ConnectionId,
    revocations: &[(GrantName, Revocation)],
    now: Timestamp,
) -> Result<bool, Fault> {
    if !connections::disconnect(tx, id)? {
        return Ok(false);
    }
    runs::end_all(tx, id, now)?;
    tx.prepare("UPDATE palisade_stream SET fresh_at = NULL WHERE connection = ?1")?.execute([id.as_str()])?;
    let mut erase = tx.prepare(
        "UPDATE palisade_grant SET generation = generation + 1, blob = x'', state = ?3, live = 0, over = 0, \
         keep_alive_at = NULL, held_until = NULL, intent = NULL WHERE connection = ?1 AND name = ?2",
    )?;
    for grant in of_connection(tx.connection(), id)? {
        if matches!(grant.state, GrantState::Erased { .. }) {
            continue;
        }
        let said = revocations.iter().rev().find(|(name, _)| *name == grant.key.name);
        let revocation = said.map_or(Revocation::NotOffered, |(_, revocation)| *revocation);
        let state = json(&GrantState::Erased { at: now, revocation })?;
        erase.execute(params![id.as_str(), grant.key.name.as_str(), state])?;
    }
    Ok(true)
}

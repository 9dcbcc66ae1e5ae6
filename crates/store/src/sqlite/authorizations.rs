//! Authorisations under way. Taking one is a single statement, so that of any number of takers one gets it.

use palisade_core::store::{PendingRow, SessionRow, TokenHash};
use palisade_core::{ConnectionId, Error, ErrorKind, Timestamp};
use rusqlite::{OptionalExtension, params};

use super::error::{Fault, unreadable};
use super::writer::Tx;

pub(super) fn put_pending(tx: &Tx<'_>, row: &PendingRow) -> Result<bool, Fault> {
    let added = tx
        .prepare(
            "INSERT INTO palisade_pending (state, browser, tenant, connection, blob, expires_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (state) DO NOTHING",
        )?
        .execute(params![
            row.state.0,
            row.browser.0,
            row.tenant.as_str(),
            row.connection.as_str(),
            row.blob,
            row.expires_at.millis(),
        ])?;
    Ok(added == 1)
}

pub(super) fn take_pending(tx: &Tx<'_>, state: TokenHash) -> Result<Option<PendingRow>, Fault> {
    let taken = tx
        .prepare(
            "DELETE FROM palisade_pending WHERE state = ?1 RETURNING browser, tenant, connection, blob, expires_at",
        )?
        .query_one([state.0], |row| {
            Ok(PendingRow {
                state,
                browser: TokenHash(row.get(0)?),
                tenant: row.get::<_, String>(1)?.into(),
                connection: row.get::<_, String>(2)?.into(),
                blob: row.get(3)?,
                expires_at: Timestamp(row.get(4)?),
            })
        })
        .optional()?;
    Ok(taken)
}

pub(super) fn put_session(tx: &Tx<'_>, row: &SessionRow) -> Result<bool, Fault> {
    let scopes = row.scopes.as_ref().map(serde_json::to_string).transpose().map_err(|error| {
        Error::new(ErrorKind::Store, "a session's scopes cannot be written as JSON").with_source(error)
    })?;
    let added = tx
        .prepare(
            "INSERT INTO palisade_session (token, tenant, flow, connection, scopes, return_to, expires_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (token) DO NOTHING",
        )?
        .execute(params![
            row.token.0,
            row.tenant.as_str(),
            row.flow,
            row.connection.as_ref().map(ConnectionId::as_str),
            scopes,
            row.return_to,
            row.expires_at.millis(),
        ])?;
    Ok(added == 1)
}

pub(super) fn take_session(tx: &Tx<'_>, token: TokenHash) -> Result<Option<SessionRow>, Fault> {
    let taken = tx
        .prepare(
            "DELETE FROM palisade_session WHERE token = ?1 \
             RETURNING tenant, flow, connection, scopes, return_to, expires_at",
        )?
        .query_one([token.0], |row| {
            let scopes: Option<String> = row.get(3)?;
            let session = SessionRow {
                token,
                tenant: row.get::<_, String>(0)?.into(),
                flow: row.get(1)?,
                connection: row.get::<_, Option<String>>(2)?.map(Into::into),
                scopes: None,
                return_to: row.get(4)?,
                expires_at: Timestamp(row.get(5)?),
            };
            Ok((session, scopes))
        })
        .optional()?;
    let Some((session, scopes)) = taken else { return Ok(None) };
    let scopes = scopes.map(|scopes| serde_json::from_str(&scopes)).transpose();
    Ok(Some(SessionRow { scopes: scopes.map_err(|_| unreadable("connect session"))?, ..session }))
}

pub(super) fn prune(tx: &Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let mut gone = 0;
    for sql in [
        "DELETE FROM palisade_pending WHERE state IN \
         (SELECT state FROM palisade_pending WHERE expires_at < ?1 ORDER BY expires_at, state LIMIT ?2)",
        "DELETE FROM palisade_session WHERE token IN \
         (SELECT token FROM palisade_session WHERE expires_at < ?1 ORDER BY expires_at, token LIMIT ?2)",
    ] {
        gone += tx.prepare(sql)?.execute(params![before.millis(), limit])? as u64;
    }
    Ok(gone)
}

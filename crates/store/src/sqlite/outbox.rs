//! The outbox: calls, their states and what they came to. Their jobs are in the one job table.

use std::collections::BTreeMap;

use palisade_core::store::outbox::{clash, decide, key_of_decision};
use palisade_core::store::{
    CallAnswer, CallId, CallRequest, CallResult, CallState, Decided, Decision, Effect, Enqueued, KeptCall, Lease,
    OutboxCall, OutboxChange, Transacted,
};
use palisade_core::{ConnectionId, Error, ErrorKind, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::writer::Tx;
use super::{inbox, jobs, product};

const REVIEW: i64 = 4;

fn number(state: CallState) -> i64 {
    match state {
        CallState::Waiting => 0,
        CallState::Running => 1,
        CallState::Done => 2,
        CallState::Failed => 3,
        CallState::Review => REVIEW,
        CallState::Cancelled => 5,
    }
}

fn state(number: i64) -> Result<CallState, Error> {
    CallState::ALL.into_iter().find(|state| self::number(*state) == number).ok_or_else(|| unreadable("call's state"))
}

fn of_call(call: &KeptCall) -> usize {
    let headers: usize = call.request.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    call.request.body.len() + call.request.target.len() + headers + inbox::COMMAND_BYTES
}

/// Roughly how many bytes effects and calls hold in memory.
pub(super) fn bytes(effects: &[Effect], calls: &[KeptCall]) -> usize {
    let effects: usize = effects.iter().map(product::bytes).sum();
    effects + calls.iter().map(of_call).sum::<usize>() + inbox::COMMAND_BYTES
}

/// Roughly how many bytes a change holds in memory.
pub(super) fn change_bytes(change: &OutboxChange) -> usize {
    let answer = change.result.as_ref().and_then(|result| result.answer.as_ref());
    change.add.iter().map(of_call).sum::<usize>() + answer.map_or(0, |answer| answer.body.len())
}

// ------------------------------------------------------------------------------------------------------ writing

pub(super) fn transact(tx: &mut Tx<'_>, effects: &[Effect], calls: &[KeptCall]) -> Result<Transacted, Fault> {
    if !calls.is_empty() {
        tx.has_room()?;
    }
    let commit = |tx: &mut Tx<'_>| {
        for effect in effects {
            if let Err(phrase) = product::run(tx, effect)? {
                return Ok(Transacted::EffectFailed(phrase));
            }
        }
        let mut enqueued = Vec::with_capacity(calls.len());
        for (at, call) in calls.iter().enumerate() {
            match add(tx, call)? {
                Ok(one) => enqueued.push(one),
                Err(known) => return Ok(Transacted::Clash { at, known }),
            }
        }
        Ok(Transacted::Committed(enqueued))
    };
    tx.nested(commit, |done| matches!(done, Transacted::Committed(_)))
}

/// Keeps the calls of a settlement and writes what its own came to; the inner error is why it is refused.
pub(super) fn settle(tx: &mut Tx<'_>, change: &OutboxChange, now: Timestamp) -> Result<Result<(), String>, Fault> {
    for call in &change.add {
        if let Err(known) = add(tx, call)? {
            return Ok(Err(clash(known)));
        }
    }
    if let Some(result) = &change.result {
        write(tx, result, now)?;
    }
    Ok(Ok(()))
}

const INSERT: &str = "INSERT INTO palisade_outbox (state, connection, tenant, provider, operation, replay, method, \
     target, headers, body, credential, lane, idempotency_key, unique_key, content, priority, created_at, run_at, next_at) \
     VALUES (0, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?17)";

/// Keeps a call with its job; the inner error is the call that stands under its unique key.
fn add(tx: &mut Tx<'_>, call: &KeptCall) -> Result<Result<Enqueued, CallId>, Fault> {
    if let Some(unique) = &call.unique {
        let there = tx
            .prepare("SELECT id, content FROM palisade_outbox WHERE connection = ?1 AND unique_key = ?2")?
            .query_one(params![call.connection.as_str(), unique], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)))
            .optional()?;
        if let Some((id, content)) = there {
            return Ok(if content == call.content { Ok(Enqueued::Known(CallId(id))) } else { Err(CallId(id)) });
        }
    }
    let request = &call.request;
    tx.prepare(INSERT)?.execute(params![
        call.connection.as_str(),
        call.tenant.as_str(),
        call.provider,
        call.operation,
        call.replay,
        request.method,
        request.target,
        headers_json(&request.headers)?,
        &request.body[..],
        request.grant.as_ref().map(|grant| grant.as_str()),
        request.lane,
        call.idempotency_key,
        call.unique,
        call.content,
        call.priority,
        call.created_at.millis(),
        call.run_at.millis(),
    ])?;
    let id = CallId(tx.last_rowid());
    count(tx, CallState::Waiting, 1)?;
    jobs::enqueue_at(tx, &call.job(id, call.run_at), Some(call.created_at))?;
    Ok(Ok(Enqueued::New(id)))
}

fn headers_json(headers: &[(String, String)]) -> Result<String, Error> {
    serde_json::to_string(headers)
        .map_err(|error| Error::new(ErrorKind::Store, "the headers cannot be written as JSON").with_source(error))
}

fn count(tx: &Tx<'_>, state: CallState, by: i64) -> Result<(), Fault> {
    tx.prepare(
        "INSERT INTO palisade_outbox_count (state, calls) VALUES (?1, ?2) \
         ON CONFLICT (state) DO UPDATE SET calls = calls + ?2",
    )?
    .execute(params![number(state), by])?;
    Ok(())
}

fn count_review(tx: &Tx<'_>, connection: &str, by: i64) -> Result<(), Fault> {
    tx.prepare(
        "INSERT INTO palisade_outbox_review (connection, calls) VALUES (?1, ?2) \
         ON CONFLICT (connection) DO UPDATE SET calls = calls + ?2",
    )?
    .execute(params![connection, by])?;
    tx.prepare("DELETE FROM palisade_outbox_review WHERE connection = ?1 AND calls <= 0")?.execute([connection])?;
    Ok(())
}

/// A call as far as changing its state needs.
struct Head {
    id: i64,
    state: CallState,
    sent: bool,
    connection: String,
    key: String,
}

fn head(tx: &Tx<'_>, id: CallId) -> Result<Option<Head>, Fault> {
    let mut statement = tx
        .prepare("SELECT state, sent_at IS NOT NULL, connection, idempotency_key FROM palisade_outbox WHERE id = ?1")?;
    let mut rows = statement.query([id.0])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (connection, key) = (row.get(2)?, row.get(3)?);
    Ok(Some(Head { id: id.0, state: state(row.get(0)?)?, sent: row.get(1)?, connection, key }))
}

/// Reads a call that waits or is on its way.
fn live(tx: &Tx<'_>, id: CallId) -> Result<Option<Head>, Fault> {
    Ok(head(tx, id)?.filter(|head| matches!(head.state, CallState::Waiting | CallState::Running)))
}

/// Tells whether a call waits.
pub(super) fn is_waiting(tx: &Tx<'_>, id: CallId) -> Result<bool, Fault> {
    Ok(head(tx, id)?.is_some_and(|head| head.state == CallState::Waiting))
}

/// Moves a call to a state, with the counters.
fn put_state(tx: &Tx<'_>, head: &Head, to: CallState, now: Timestamp) -> Result<(), Fault> {
    tx.prepare("UPDATE palisade_outbox SET state = ?2, finished_at = ?3 WHERE id = ?1")?.execute(params![
        head.id,
        number(to),
        to.is_final().then_some(now.millis())
    ])?;
    if head.state != to {
        count(tx, head.state, -1)?;
        count(tx, to, 1)?;
    }
    match (head.state == CallState::Review, to == CallState::Review) {
        (false, true) => count_review(tx, &head.connection, 1),
        (true, false) => count_review(tx, &head.connection, -1),
        (true, true) | (false, false) => Ok(()),
    }
}

pub(super) fn note_departure(tx: &Tx<'_>, lease: Lease, call: CallId, now: Timestamp) -> Result<bool, Fault> {
    if !jobs::works_on(tx, lease, call)? {
        return Ok(false);
    }
    let Some(head) = live(tx, call)? else { return Ok(false) };
    put_state(tx, &head, CallState::Running, now)?;
    tx.prepare("UPDATE palisade_outbox SET sent_at = coalesce(sent_at, ?2), next_at = NULL WHERE id = ?1")?
        .execute(params![call.0, now.millis()])?;
    Ok(true)
}

fn write(tx: &Tx<'_>, result: &CallResult, now: Timestamp) -> Result<(), Fault> {
    let Some(head) = live(tx, result.call)? else { return Ok(()) };
    put_state(tx, &head, result.state, now)?;
    let answer = result.answer.as_ref();
    let headers = answer.map(|answer| headers_json(&answer.headers)).transpose()?;
    tx.prepare(
        "UPDATE palisade_outbox SET attempts = ?2, sent_at = ?3, error = ?4, next_at = ?5, \
         status = ?6, answer_headers = ?7, answer = ?8, answer_cut = ?9, request_id = ?10 WHERE id = ?1",
    )?
    .execute(params![
        result.call.0,
        result.attempts,
        result.sent_at.map(Timestamp::millis),
        result.error,
        result.next_at.map(Timestamp::millis),
        answer.map(|answer| answer.status),
        headers,
        answer.map(|answer| &answer.body[..]),
        answer.map(|answer| answer.cut),
        answer.and_then(|answer| answer.request_id.as_deref()),
    ])?;
    Ok(())
}

/// Ends a call whose job died without telling what became of it.
pub(super) fn job_died(tx: &Tx<'_>, call: CallId, reason: &str, now: Timestamp) -> Result<(), Fault> {
    let Some(head) = live(tx, call)? else { return Ok(()) };
    put_state(tx, &head, if head.sent { CallState::Review } else { CallState::Failed }, now)?;
    tx.prepare("UPDATE palisade_outbox SET error = ?2, next_at = NULL WHERE id = ?1")?
        .execute(params![call.0, reason])?;
    Ok(())
}

pub(super) fn decide_call(tx: &mut Tx<'_>, id: CallId, decision: Decision, now: Timestamp) -> Result<Decided, Fault> {
    let Some(head) = head(tx, id)? else { return Ok(Decided::Missing) };
    let Some((to, why)) = decide(head.state, head.sent, decision) else { return Ok(Decided::Refused(head.state)) };
    put_state(tx, &head, to, now)?;
    if let Some(key) = key_of_decision(head.state, head.sent, decision, &head.key) {
        tx.prepare("UPDATE palisade_outbox SET idempotency_key = ?2 WHERE id = ?1")?.execute(params![id.0, key])?;
    }
    if let Some(why) = why {
        tx.prepare("UPDATE palisade_outbox SET error = ?2 WHERE id = ?1")?.execute(params![id.0, why])?;
    }
    if to != CallState::Waiting {
        tx.prepare("UPDATE palisade_outbox SET next_at = NULL WHERE id = ?1")?.execute([id.0])?;
        return Ok(Decided::Now(to));
    }
    if head.state == CallState::Waiting {
        tx.prepare("UPDATE palisade_outbox SET run_at = min(run_at, ?2), next_at = min(coalesce(next_at, ?2), ?2) WHERE id = ?1")?
            .execute(params![id.0, now.millis()])?;
    } else {
        let unsent = decision == Decision::NotHappened;
        tx.prepare(
            "UPDATE palisade_outbox SET run_at = ?2, next_at = ?2, attempts = 0, sent_at = CASE WHEN ?3 THEN NULL ELSE sent_at END \
             WHERE id = ?1",
        )?
        .execute(params![id.0, now.millis(), unsent])?;
    }
    if let Some(call) = one(tx.connection(), id)? {
        jobs::enqueue_at(tx, &call.call.job(id, now), Some(now))?;
    }
    Ok(Decided::Now(to))
}

pub(super) fn prune(tx: &Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let sql = "SELECT id FROM palisade_outbox INDEXED BY palisade_outbox_finished \
               WHERE finished_at IS NOT NULL AND finished_at < ?1 ORDER BY finished_at, id LIMIT ?2";
    let rows = inbox::prunable(tx, sql, before, limit)?;
    for row in &rows {
        let of: i64 = tx
            .prepare("DELETE FROM palisade_outbox WHERE id = ?1 RETURNING state")?
            .query_row([row], |row| row.get(0))?;
        count(tx, state(of)?, -1)?;
    }
    Ok(rows.len() as u64)
}

// ------------------------------------------------------------------------------------------------------ reading

const SELECT: &str = "SELECT id, state, connection, tenant, provider, operation, replay, method, target, headers, \
     body, credential, lane, idempotency_key, unique_key, content, priority, created_at, run_at, attempts, sent_at, \
     finished_at, error, status, answer_headers, answer, answer_cut, request_id, next_at FROM palisade_outbox";

fn headers(json: &str) -> Result<Vec<(String, String)>, Error> {
    serde_json::from_str(json).map_err(|_| unreadable("call's headers"))
}

fn stored(row: &Row<'_>) -> Result<OutboxCall, Fault> {
    let text = |column: usize| row.get::<_, String>(column);
    let moment = |column: usize| row.get::<_, Option<i64>>(column).map(|at| at.map(Timestamp));
    let answer = match row.get::<_, Option<u16>>(23)? {
        None => None,
        Some(status) => Some(CallAnswer {
            status,
            headers: headers(&row.get::<_, Option<String>>(24)?.unwrap_or_else(|| "[]".to_owned()))?,
            body: row.get::<_, Option<Vec<u8>>>(25)?.unwrap_or_default().into(),
            cut: row.get::<_, Option<bool>>(26)?.unwrap_or_default(),
            request_id: row.get(27)?,
        }),
    };
    let call = KeptCall {
        connection: text(2)?.into(),
        tenant: text(3)?.into(),
        provider: text(4)?,
        operation: text(5)?,
        replay: text(6)?,
        request: CallRequest {
            method: text(7)?,
            target: text(8)?,
            headers: headers(&text(9)?)?,
            body: row.get::<_, Vec<u8>>(10)?.into(),
            grant: row.get::<_, Option<String>>(11)?.map(Into::into),
            lane: row.get(12)?,
        },
        idempotency_key: text(13)?,
        unique: row.get(14)?,
        content: row.get(15)?,
        priority: row.get(16)?,
        created_at: Timestamp(row.get(17)?),
        run_at: Timestamp(row.get(18)?),
    };
    Ok(OutboxCall {
        id: CallId(row.get(0)?),
        call,
        state: state(row.get(1)?)?,
        next_at: moment(28)?,
        attempts: row.get(19)?,
        sent_at: moment(20)?,
        finished_at: moment(21)?,
        error: row.get(22)?,
        answer,
    })
}

pub(super) fn one(connection: &Connection, id: CallId) -> Result<Option<OutboxCall>, Fault> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
    let mut rows = statement.query([id.0])?;
    rows.next()?.map(stored).transpose()
}

pub(super) fn list(
    connection: &Connection,
    wanted: Option<CallState>,
    before: Option<CallId>,
    limit: u32,
) -> Result<Vec<OutboxCall>, Fault> {
    let before = before.map_or(i64::MAX, |id| id.0);
    let only = if wanted.is_some() { "state = ?3 AND" } else { "?3 IS NULL AND" };
    let select = SELECT.replace(" body,", " x'',").replace(" answer,", " NULL,");
    let sql = format!("{select} WHERE {only} id < ?1 ORDER BY id DESC LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![before, limit, wanted.map(number)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(stored(row)?);
    }
    Ok(found)
}

pub(super) fn counts(connection: &Connection) -> Result<BTreeMap<CallState, u64>, Fault> {
    let mut statement = connection.prepare_cached("SELECT state, calls FROM palisade_outbox_count WHERE calls > 0")?;
    let mut rows = statement.query([])?;
    let mut counts = BTreeMap::new();
    while let Some(row) = rows.next()? {
        counts.insert(state(row.get(0)?)?, row.get::<_, i64>(1)?.unsigned_abs());
    }
    Ok(counts)
}

pub(super) fn reviews(
    reader: &Connection,
    connections: Vec<ConnectionId>,
) -> Result<BTreeMap<ConnectionId, u64>, Fault> {
    let mut statement = reader.prepare_cached("SELECT calls FROM palisade_outbox_review WHERE connection = ?1")?;
    let mut counts = BTreeMap::new();
    for connection in connections {
        let calls: Option<i64> = statement.query_row([connection.as_str()], |row| row.get(0)).optional()?;
        if let Some(calls) = calls.filter(|calls| *calls > 0) {
            counts.insert(connection, calls.unsigned_abs());
        }
    }
    Ok(counts)
}

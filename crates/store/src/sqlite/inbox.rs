//! Deliveries and their events. The hot path of a webhook: two rows (event and job) per delivery.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use palisade_core::store::{
    Appended, DISMISSED, EVENT_ATTEMPTS_MAX, EVENT_BYTES, EventPage, EventRow, EventState, NO_CONNECTION, NewDelivery,
    NewEvent, PENDING_FOUND, PRUNE_BYTES, PRUNE_LOOKED, PrunePlace, PruneStep, Queue, ReplayFilter, ReplayStep,
    StoredEvent, ToHandle,
};
use palisade_core::webhook::Event;
use palisade_core::{ConnectionId, EndpointId, Error, ErrorKind, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::writer::{Tally, Tx};
use super::{causes, connections, dead_forwards, heard, jobs, names, turns};

/// Fixed bytes counted per queued command beside its payload.
pub(super) const COMMAND_BYTES: usize = 256;

const STATES: [EventState; 4] = [EventState::Pending, EventState::Done, EventState::Ignored, EventState::Dead];

/// The number a state is stored as. A fifth, 4, is that of an event of which only the name is left: nothing but what
/// enters and forgets names sees it.
pub(super) fn number(state: EventState) -> u8 {
    match state {
        EventState::Pending => 0,
        EventState::Done => 1,
        EventState::Ignored => 2,
        EventState::Dead => 3,
    }
}

fn state(number: u8) -> Result<EventState, Error> {
    STATES.get(usize::from(number)).copied().ok_or_else(|| unreadable("event state"))
}

/// Roughly how many bytes the deliveries hold in memory.
pub(super) fn bytes(deliveries: &[NewDelivery]) -> usize {
    deliveries
        .iter()
        .map(|delivery| {
            let events: usize =
                delivery.events.iter().map(|event| event.payload.as_ref().map_or(0, Bytes::len) + COMMAND_BYTES).sum();
            delivery.body.len() + events + COMMAND_BYTES
        })
        .sum()
}

pub(super) fn append(tx: &mut Tx<'_>, deliveries: &[NewDelivery]) -> Result<Vec<Vec<Appended>>, Fault> {
    if !deliveries.is_empty() {
        tx.has_room()?;
    }
    let mut appended = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        appended.push(append_one(tx, delivery)?);
    }
    Ok(appended)
}

/// Takes out of deliveries what is here under another of their connection's endpoints; returns how many those were.
pub(super) fn left_out<'d>(
    tx: &mut Tx<'_>,
    deliveries: &'d [NewDelivery],
    endpoints: &[EndpointId],
) -> Result<(Cow<'d, [NewDelivery]>, u64), Fault> {
    let mut here: Vec<(usize, usize)> = Vec::new();
    for (number, delivery) in deliveries.iter().enumerate() {
        for other in endpoints.iter().filter(|other| **other != delivery.endpoint) {
            for (place, event) in delivery.events.iter().enumerate() {
                let (endpoint, id) = (other.as_str(), event.id.as_str());
                if names::find_event(tx, names::event_name(endpoint, id), endpoint, id)?.is_some() {
                    here.push((number, place));
                }
            }
        }
    }
    if here.is_empty() {
        return Ok((Cow::Borrowed(deliveries), 0));
    }
    here.sort_unstable();
    here.dedup();
    let mut left = deliveries.to_vec();
    for (number, place) in here.iter().rev() {
        if let Some(delivery) = left.get_mut(*number) {
            delivery.events.remove(*place);
        }
    }
    Ok((Cow::Owned(left), here.len() as u64))
}

/// Where the bytes of an event are kept.
struct Kept<'d> {
    delivery: Option<i64>,
    headers: Option<&'d str>,
    payload: Option<&'d [u8]>,
}

fn append_one(tx: &mut Tx<'_>, delivery: &NewDelivery) -> Result<Vec<Appended>, Fault> {
    let headers = headers_json(&delivery.headers)?;
    // A delivery that is one event, or that has nothing of its own, needs no row of its own.
    let alone = match delivery.events.as_slice() {
        [only] => only.payload.is_none(),
        _ => delivery.body.is_empty() && delivery.headers.is_empty(),
    };
    let mut appended = Vec::with_capacity(delivery.events.len());
    if alone {
        for event in &delivery.events {
            let payload = event.payload.as_ref().unwrap_or(&delivery.body);
            let kept = Kept { delivery: None, headers: headers.as_deref(), payload: Some(payload) };
            appended.push(append_event(tx, delivery, event, &kept)?);
        }
        return Ok(appended);
    }
    if delivery.events.is_empty() {
        return Ok(appended);
    }
    tx.prepare("INSERT INTO palisade_delivery (headers, body) VALUES (?1, ?2)")?
        .execute(params![headers, &delivery.body[..]])?;
    let row = tx.last_rowid();
    let bytes = size(Some(&delivery.body), headers.as_deref());
    for event in &delivery.events {
        let kept = Kept { delivery: Some(row), headers: None, payload: event.payload.as_deref() };
        appended.push(append_event(tx, delivery, event, &kept)?);
    }
    if appended.iter().all(|one| matches!(one, Appended::Duplicate(_))) {
        tx.prepare("DELETE FROM palisade_delivery WHERE id = ?1")?.execute([row])?;
    } else {
        tx.tally.inbox_bytes += bytes;
    }
    Ok(appended)
}

/// Bytes of a payload or body with its headers.
fn size(payload: Option<&[u8]>, headers: Option<&str>) -> i64 {
    let bytes = payload.map_or(0, <[u8]>::len) + headers.map_or(0, str::len);
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

const EVENT_SIZE: i64 = EVENT_BYTES.cast_signed();

fn headers_json(headers: &[(String, String)]) -> Result<Option<String>, Error> {
    if headers.is_empty() {
        return Ok(None);
    }
    serde_json::to_string(headers)
        .map(Some)
        .map_err(|error| Error::new(ErrorKind::Store, "the headers cannot be written as JSON").with_source(error))
}

const INSERT: &str = "INSERT INTO palisade_event (id, state, received_at, created, delivery, endpoint, event_id, \
     connection, provider, kind, account, ordering_key, headers, payload) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

fn append_event(tx: &mut Tx<'_>, delivery: &NewDelivery, event: &NewEvent, kept: &Kept<'_>) -> Result<Appended, Fault> {
    let row = tx.tally.event_last + 1;
    let state = number(if event.wanted { EventState::Pending } else { EventState::Ignored });
    let (endpoint, id) = (delivery.endpoint.as_str(), event.id.as_str());
    let name = names::event_name(endpoint, id);
    let there = names::find_event(tx, name, endpoint, id)?;
    heard::note(tx, delivery, event, there.is_none())?;
    if let Some(there) = there {
        return Ok(Appended::Duplicate(EventRow(there)));
    }
    names::enter_event(tx, name, row)?;
    tx.hot(INSERT)?.execute(params![
        row,
        state,
        delivery.received_at.millis(),
        event.created.map(Timestamp::millis),
        kept.delivery,
        endpoint,
        id,
        delivery.connection.as_str(),
        delivery.provider,
        event.kind,
        event.account,
        event.ordering_key,
        kept.headers,
        kept.payload,
    ])?;
    tx.tally.event_last = row;
    count(&mut tx.tally, state, 1);
    tx.tally.inbox_bytes += EVENT_SIZE + size(kept.payload, kept.headers);
    if event.wanted {
        let owner = Owner { provider: &delivery.provider, connection: delivery.connection.as_str() };
        let key = event.ordering_key.as_deref();
        add_job(tx, row, owner, key, event.priority, delivery.received_at)?;
    }
    Ok(Appended::New(EventRow(row)))
}

/// Whose an event is.
#[derive(Clone, Copy)]
struct Owner<'d> {
    provider: &'d str,
    connection: &'d str,
}

fn add_job(
    tx: &mut Tx<'_>,
    row: i64,
    owner: Owner<'_>,
    ordering_key: Option<&str>,
    priority: i32,
    run_at: Timestamp,
) -> Result<(), Fault> {
    let Owner { provider, connection } = owner;
    let tenant = turns::tenant_of(tx, connection)?;
    let lane = ordering_key.map(|key| ["event/", connection, "/", key].concat());
    jobs::insert(
        tx,
        &jobs::Insert {
            queue: Queue::Events,
            event: Some(row),
            work: None,
            lane: lane.as_deref(),
            group: provider,
            tenant: tenant.as_deref().unwrap_or(connection),
            unique: None,
            priority,
            run_at,
            attempts_max: EVENT_ATTEMPTS_MAX,
        },
        Some(run_at),
    )?;
    Ok(())
}

fn count(tally: &mut Tally, state: u8, by: i64) {
    if let Some(counter) = tally.events.get_mut(usize::from(state)) {
        *counter += by;
    }
}

/// Moves an event to done, if it is still there. Nearly every one waits until then, and takes one statement.
pub(super) fn set_done(tx: &mut Tx<'_>, row: i64, now: Timestamp) -> Result<(), Fault> {
    let sql = "UPDATE palisade_event SET state = 1, reason = NULL WHERE id = ?1 AND state = 0";
    if tx.hot(sql)?.execute([row])? == 0 {
        return set_state(tx, row, EventState::Done, None, now);
    }
    count(&mut tx.tally, number(EventState::Pending), -1);
    count(&mut tx.tally, number(EventState::Done), 1);
    Ok(())
}

/// Moves an event to a state with its reason, if it is still there.
pub(super) fn set_state(
    tx: &mut Tx<'_>,
    row: i64,
    to: EventState,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<(), Fault> {
    let to = number(to);
    let before = tx
        .prepare("SELECT state, reason FROM palisade_event WHERE id = ?1 AND state <> 4")?
        .query_one([row], |row| Ok((row.get::<_, u8>(0)?, row.get::<_, Option<String>>(1)?)))
        .optional()?;
    let Some((from, was)) = before else { return Ok(()) };
    tx.prepare("UPDATE palisade_event SET state = ?2, reason = ?3 WHERE id = ?1")?.execute(params![row, to, reason])?;
    count(&mut tx.tally, from, -1);
    count(&mut tx.tally, to, 1);
    let dead = number(EventState::Dead);
    if from == dead {
        causes::count(tx, row, was.as_deref().unwrap_or_default(), -1, now)?;
    }
    if to == dead {
        causes::count(tx, row, reason.unwrap_or_default(), 1, now)?;
    }
    match (from == dead, to == dead) {
        (false, true) => count_dead(tx, row, 1),
        (true, false) => count_dead(tx, row, -1),
        (true, true) | (false, false) => Ok(()),
    }
}

/// Counts an event of its connection as dead, or as dead no more.
fn count_dead(tx: &Tx<'_>, row: i64, by: i64) -> Result<(), Fault> {
    tx.prepare(
        "INSERT INTO palisade_dead_count SELECT connection, ?2 FROM palisade_event WHERE id = ?1 \
         ON CONFLICT (connection) DO UPDATE SET events = events + excluded.events",
    )?
    .execute(params![row, by])?;
    Ok(())
}

pub(super) fn replay(tx: &mut Tx<'_>, row: i64, now: Timestamp) -> Result<bool, Fault> {
    let found = tx
        .prepare(
            "SELECT connection, ordering_key, state, provider, reason FROM palisade_event \
             WHERE id = ?1 AND (state IN (1, 3) OR (state = 2 AND connection <> ?2))",
        )?
        .query_one(params![row, NO_CONNECTION], |row| {
            let texts: (String, Option<String>, String) = (row.get(0)?, row.get(1)?, row.get(3)?);
            Ok((texts, row.get::<_, u8>(2)?, row.get::<_, Option<String>>(4)?))
        })
        .optional()?;
    let Some(((connection, ordering_key, provider), from, reason)) = found else { return Ok(false) };
    tx.prepare("UPDATE palisade_event SET state = 0 WHERE id = ?1")?.execute([row])?;
    count(&mut tx.tally, from, -1);
    count(&mut tx.tally, number(EventState::Pending), 1);
    if from == number(EventState::Dead) {
        count_dead(tx, row, -1)?;
        causes::count(tx, row, reason.as_deref().unwrap_or_default(), -1, now)?;
    }
    jobs::seen_to(tx, row)?;
    let owner = Owner { provider: &provider, connection: &connection };
    add_job(tx, row, owner, ordering_key.as_deref(), 0, now)?;
    Ok(true)
}

/// Dismisses a dead event.
pub(super) fn dismiss(tx: &mut Tx<'_>, row: i64, now: Timestamp) -> Result<bool, Fault> {
    let reason: Option<Option<String>> = tx
        .prepare("SELECT reason FROM palisade_event WHERE id = ?1 AND state = 3")?
        .query_one([row], |row| row.get(0))
        .optional()?;
    let Some(reason) = reason else { return Ok(false) };
    let reason = format!("{DISMISSED}{}", reason.unwrap_or_default());
    set_state(tx, row, EventState::Ignored, Some(&reason), now)?;
    jobs::seen_to(tx, row)?;
    Ok(true)
}

/// What a filter or a list looks at of an event: no payload, which nothing asks of, and no other table.
const HEADS: &str = "SELECT id, endpoint, connection, provider, event_id, kind, account, created, ordering_key, x'', \
     received_at, state, reason FROM palisade_event";

/// Reads the heads of the events of a state, behind a row and up to another; rare ones by their index.
pub(super) fn replayable_heads(state: Option<EventState>) -> Option<String> {
    let only = match state {
        Some(EventState::Dead) => "INDEXED BY palisade_event_dead WHERE state = 3",
        Some(EventState::Ignored) => "INDEXED BY palisade_event_ignored WHERE state = 2",
        Some(EventState::Done) => "NOT INDEXED WHERE state = 1",
        None => "NOT INDEXED WHERE state IN (1, 3)",
        Some(EventState::Pending) => return None,
    };
    Some(format!("{HEADS} {only} AND id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3"))
}

/// Finds what meets a filter among the next rows that are of its state.
pub(super) fn replayable(
    reader: &Connection,
    filter: &ReplayFilter,
    after: EventRow,
    looked: u32,
) -> Result<ReplayStep, Fault> {
    let Some(sql) = replayable_heads(filter.state) else { return Ok(ReplayStep { met: Vec::new(), next: None }) };
    let mut at =
        reader.prepare_cached("SELECT id, received_at FROM palisade_event WHERE id >= ?1 ORDER BY id LIMIT 1")?;
    let first =
        |row: EventRow| at.query_one([row.0], |row| Ok((EventRow(row.get(0)?), Timestamp(row.get(1)?)))).optional();
    let rows = filter.rows(after, EventRow(Tally::read(reader)?.event_last), first)?;
    let mut statement = reader.prepare_cached(&sql)?;
    let mut heads = statement.query(params![rows.after.0, rows.last.0, looked])?;
    let (mut found, mut met) = (Vec::new(), Vec::new());
    while let Some(head) = heads.next()? {
        let event = stored(head)?;
        found.push(event.row);
        if filter.meets(&event) {
            met.push(event.row);
        }
    }
    Ok(ReplayStep { met, next: rows.next(&found, looked) })
}

/// What is done with an event that was found: [`replay`] or [`dismiss`]. Tells whether it was.
pub(super) type Act = fn(&mut Tx<'_>, i64, Timestamp) -> Result<bool, Fault>;

/// Does something with those of the rows that meet the filter still; gives those it was done with.
pub(super) fn each(
    tx: &mut Tx<'_>,
    filter: &ReplayFilter,
    rows: &[EventRow],
    mut act: impl FnMut(&mut Tx<'_>, i64) -> Result<bool, Fault>,
) -> Result<Vec<EventRow>, Fault> {
    let mut met = Vec::with_capacity(rows.len());
    for row in rows {
        let event = {
            let mut statement = tx.prepare(&format!("{HEADS} WHERE id = ?1 AND state <> 4"))?;
            let mut heads = statement.query([row.0])?;
            heads.next()?.map(stored).transpose()?
        };
        if event.is_some_and(|event| filter.meets(&event)) && act(tx, row.0)? {
            met.push(*row);
        }
    }
    Ok(met)
}

/// Behind a place stand those of its moment and then those of later ones: as one comparison of both columns SQLite would
/// walk all of the moment again.
pub(super) const BEHIND: [&str; 2] = ["received_at = ?1 AND id > ?2", "received_at > ?1 AND ?2 = ?2"];

/// Reads the events that may go, in their order, and whether an unfinished job forwards each: one look into the index of
/// unique keys for each destination ([`forward_key`](palisade_core::store::forward_key)).
pub(super) fn settled(behind: &str) -> String {
    format!(
        "SELECT received_at, id, EXISTS (SELECT 1 FROM palisade_destination d CROSS JOIN palisade_job j \
         ON j.unique_key = 'forward/' || d.name || '/' || e.id AND j.finished_at IS NULL) \
         FROM palisade_event e INDEXED BY palisade_event_settled WHERE state IN (1, 2) AND {behind} \
         ORDER BY received_at, id"
    )
}

/// Finds events to remove, and the last one looked at if there may be more behind it. They are read one by one, so that no
/// more are looked at than have to be.
fn oldest(
    tx: &Tx<'_>,
    before: i64,
    after: Option<PrunePlace>,
    limit: u32,
) -> Result<(Vec<PrunePlace>, Option<PrunePlace>), Fault> {
    let destinations: i64 = tx.prepare("SELECT count(*) FROM palisade_destination")?.query_row([], |row| row.get(0))?;
    let looks = u64::from(limit) * u64::from(PRUNE_LOOKED) / (1 + destinations.unsigned_abs());
    let (at, row) = after.map_or((i64::MIN, i64::MIN), |after| (after.received_at.millis(), after.row.0));
    let (mut old, mut looked, mut last) = (Vec::new(), 0, None);
    for behind in BEHIND {
        let mut statement = tx.prepare(&settled(behind))?;
        let mut rows = statement.query([at, row])?;
        while let Some(row) = rows.next()? {
            if (looked >= looks && looked > 0) || old.len() as u64 == u64::from(limit) {
                return Ok((old, last));
            }
            let place = PrunePlace { received_at: Timestamp(row.get(0)?), row: EventRow(row.get(1)?) };
            if place.received_at.millis() >= before {
                return Ok((old, None));
            }
            if !row.get::<_, bool>(2)? {
                old.push(place);
            }
            looked += 1;
            last = Some(place);
        }
    }
    Ok((old, None))
}

pub(super) fn prune(
    tx: &mut Tx<'_>,
    before: Timestamp,
    forget: Timestamp,
    after: Option<PrunePlace>,
    limit: u32,
) -> Result<PruneStep, Fault> {
    let (old, next) = oldest(tx, before.millis(), after, limit)?;
    remove_some(tx, &old, next, forget, i64::MIN)
}

/// Removes events, those received first before others, as long as the inbox keeps more than it may.
pub(super) fn prune_to(
    tx: &mut Tx<'_>,
    bytes_max: u64,
    forget: Timestamp,
    after: Option<PrunePlace>,
    limit: u32,
) -> Result<PruneStep, Fault> {
    let most = i64::try_from(bytes_max).unwrap_or(i64::MAX);
    if tx.tally.inbox_bytes <= most {
        return Ok(PruneStep { gone: 0, next: None });
    }
    let (old, next) = oldest(tx, i64::MAX, after, limit)?;
    remove_some(tx, &old, next, forget, most)
}

/// Removes events until no more is kept than `most`, or as much as one step may went.
fn remove_some(
    tx: &mut Tx<'_>,
    old: &[PrunePlace],
    next: Option<PrunePlace>,
    forget: Timestamp,
    most: i64,
) -> Result<PruneStep, Fault> {
    let step = i64::try_from(PRUNE_BYTES).unwrap_or(i64::MAX);
    let kept = tx.tally.inbox_bytes;
    for (gone, place) in (1..).zip(old) {
        remove(tx, place.row.0, place.received_at < forget)?;
        if tx.tally.inbox_bytes <= most {
            return Ok(PruneStep { gone, next: None });
        }
        if kept - tx.tally.inbox_bytes > step && gone < old.len() as u64 {
            return Ok(PruneStep { gone, next: Some(*place) });
        }
    }
    Ok(PruneStep { gone: old.len() as u64, next })
}

/// Removes an event, and its delivery when it was the last of it. Unless its name is to be forgotten too, its row stays
/// with nothing but that.
fn remove(tx: &mut Tx<'_>, row: i64, forget: bool) -> Result<(), Fault> {
    let (state, delivery, bytes) = tx
        .prepare(
            "SELECT state, delivery, coalesce(length(payload), 0) + coalesce(octet_length(headers), 0) \
             FROM palisade_event WHERE id = ?1",
        )?
        .query_row([row], |row| Ok((row.get::<_, u8>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, i64>(2)?)))?;
    if forget {
        forget_one(tx, row)?;
    } else {
        tx.prepare(
            "UPDATE palisade_event SET state = 4, created = NULL, delivery = NULL, account = NULL, ordering_key = NULL, \
             reason = NULL, headers = NULL, payload = NULL WHERE id = ?1",
        )?
        .execute([row])?;
    }
    dead_forwards::forget(tx, row)?;
    count(&mut tx.tally, state, -1);
    tx.tally.inbox_bytes -= EVENT_SIZE + bytes;
    let Some(delivery) = delivery else { return Ok(()) };
    let bytes: Option<i64> = tx
        .prepare(
            "DELETE FROM palisade_delivery WHERE id = ?1 \
             AND NOT EXISTS (SELECT 1 FROM palisade_event WHERE delivery = ?1) \
             RETURNING length(body) + coalesce(octet_length(headers), 0)",
        )?
        .query_row([delivery], |row| row.get(0))
        .optional()?;
    tx.tally.inbox_bytes -= bytes.unwrap_or(0);
    Ok(())
}

fn forget_one(tx: &Tx<'_>, row: i64) -> Result<(), Fault> {
    let (endpoint, id): (String, String) = tx
        .prepare("DELETE FROM palisade_event WHERE id = ?1 RETURNING endpoint, event_id")?
        .query_row([row], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(names::forget_event(tx, names::event_name(&endpoint, &id), row)?)
}

/// Finds events of which only the name is left.
pub(super) const NAMED: &str = "SELECT id FROM palisade_event INDEXED BY palisade_event_named WHERE state = 4 \
     AND received_at < ?1 ORDER BY received_at, id LIMIT ?2";

pub(super) fn forget(tx: &mut Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let rows = prunable(tx, NAMED, before, limit)?;
    for row in &rows {
        forget_one(tx, *row)?;
    }
    Ok(rows.len() as u64)
}

/// Tells what the inbox keeps.
pub(super) fn kept_bytes(connection: &Connection) -> Result<u64, Fault> {
    Ok(u64::try_from(Tally::read(connection)?.inbox_bytes).unwrap_or(0))
}

/// Finds up to `limit` rows that ended before a moment, by an index of when they did: what has not ended is not walked.
pub(super) fn prunable(tx: &Tx<'_>, sql: &str, before: Timestamp, limit: u32) -> Result<Vec<i64>, Fault> {
    let mut statement = tx.prepare(sql)?;
    let found = statement.query_map(params![before.millis(), limit], |row| row.get(0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

// ------------------------------------------------------------------------------------------------------ reading

const SELECT: &str = "SELECT e.id, e.endpoint, e.connection, e.provider, e.event_id, e.kind, e.account, e.created, \
     e.ordering_key, coalesce(e.payload, d.body), e.received_at, e.state, e.reason \
     FROM palisade_event e LEFT JOIN palisade_delivery d ON d.id = e.delivery";

fn stored(row: &Row<'_>) -> Result<StoredEvent, Fault> {
    let text = |column: usize| row.get::<_, String>(column);
    Ok(StoredEvent {
        row: EventRow(row.get(0)?),
        endpoint: text(1)?.into(),
        connection: text(2)?.into(),
        provider: text(3)?,
        event: Event {
            id: text(4)?.into(),
            kind: text(5)?,
            account: row.get(6)?,
            created: row.get::<_, Option<i64>>(7)?.map(Timestamp),
            ordering_key: row.get(8)?,
            payload: row.get::<_, Option<Vec<u8>>>(9)?.unwrap_or_default().into(),
        },
        received_at: Timestamp(row.get(10)?),
        state: state(row.get(11)?)?,
        reason: row.get(12)?,
    })
}

pub(super) fn event(connection: &Connection, row: EventRow) -> Result<Option<StoredEvent>, Fault> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE e.id = ?1 AND e.state <> 4"))?;
    let mut rows = statement.query([row.0])?;
    rows.next()?.map(stored).transpose()
}

pub(super) fn to_handle(connection: &Connection, rows: &[EventRow]) -> Result<Vec<Option<ToHandle>>, Fault> {
    let mut accounts = HashMap::new();
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(event) = event(connection, *row)? else {
            found.push(None);
            continue;
        };
        let account = match accounts.entry(event.connection.clone()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(connections::one(connection, &event.connection)?),
        };
        found.push(Some(ToHandle { connection: account.clone(), event }));
    }
    Ok(found)
}

/// Reads an event without its payload.
fn head(connection: &Connection, row: i64) -> Result<Option<StoredEvent>, Fault> {
    let mut statement = connection.prepare_cached(&format!("{HEADS} WHERE id = ?1 AND state <> 4"))?;
    let mut rows = statement.query([row])?;
    rows.next()?.map(stored).transpose()
}

pub(super) fn heads(connection: &Connection, rows: &[EventRow]) -> Result<Vec<Option<StoredEvent>>, Fault> {
    rows.iter().map(|row| head(connection, row.0)).collect()
}

/// Reads the heads of the events of a state before a row and down to another, newest first; rare ones by their index.
pub(super) fn listed(state: Option<EventState>) -> String {
    let only = match state {
        Some(EventState::Dead) => "INDEXED BY palisade_event_dead WHERE state = 3",
        Some(EventState::Ignored) => "INDEXED BY palisade_event_ignored WHERE state = 2",
        Some(EventState::Done) => "NOT INDEXED WHERE state = 1",
        Some(EventState::Pending) => "NOT INDEXED WHERE state = 0",
        None => "NOT INDEXED WHERE state <> 4",
    };
    format!("{HEADS} {only} AND id < ?1 AND id >= ?2 ORDER BY id DESC LIMIT ?3")
}

pub(super) fn events(
    connection: &Connection,
    wanted: Option<EventState>,
    before: Option<EventRow>,
    limit: u32,
) -> Result<EventPage, Fault> {
    let tally = Tally::read(connection)?;
    let end = EventRow(tally.event_last + 1);
    let before = before.map_or(end, |before| before.min(end));
    let [pending, ..] = tally.events;
    let pending = pending.unsigned_abs();
    let lowest = EventPage::lowest(wanted, before, pending);
    let found = if wanted == Some(EventState::Pending) && pending <= PENDING_FOUND {
        self::pending(connection, before.0, limit)?
    } else {
        let mut statement = connection.prepare_cached(&listed(wanted))?;
        let mut rows = statement.query(params![before.0, lowest.0, limit])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(stored(row)?);
        }
        found
    };
    let mut below = connection.prepare_cached("SELECT max(id) FROM palisade_event WHERE id < ?1")?;
    let below = below.query_one([lowest.0], |row| row.get::<_, Option<i64>>(0))?;
    Ok(EventPage::of(found, limit, below.map(EventRow)))
}

/// Finds pending events by their jobs: each has an unfinished one. So a few old ones are found without walking all
/// the handled ones that came after them.
fn pending(connection: &Connection, before: i64, limit: u32) -> Result<Vec<StoredEvent>, Fault> {
    let mut waiting = jobs::events_at_work(connection)?;
    waiting.retain(|row| *row < before);
    waiting.sort_unstable_by_key(|row| std::cmp::Reverse(*row));
    waiting.dedup();
    let mut found = Vec::new();
    for row in waiting {
        if found.len() as u64 >= u64::from(limit) {
            break;
        }
        found.extend(head(connection, row)?.filter(|event| event.state == EventState::Pending));
    }
    Ok(found)
}

pub(super) fn dead_counts(
    reader: &Connection,
    connections: Vec<ConnectionId>,
) -> Result<BTreeMap<ConnectionId, u64>, Fault> {
    let mut statement = reader.prepare_cached("SELECT events FROM palisade_dead_count WHERE connection = ?1")?;
    let mut counts = BTreeMap::new();
    for connection in connections {
        let events: Option<i64> = statement.query_row([connection.as_str()], |row| row.get(0)).optional()?;
        if let Some(events) = events.filter(|events| *events > 0) {
            counts.insert(connection, events.unsigned_abs());
        }
    }
    Ok(counts)
}

pub(super) fn counts(connection: &Connection) -> Result<BTreeMap<EventState, u64>, Fault> {
    let tally = Tally::read(connection)?;
    let counts = STATES.into_iter().zip(tally.events).map(|(state, count)| (state, count.unsigned_abs()));
    Ok(counts.filter(|(_, count)| *count > 0).collect())
}

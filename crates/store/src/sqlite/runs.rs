//! Runs of syncs: their pages, and what the end of a full run deletes.

use std::collections::{BinaryHeap, HashSet};

use palisade_core::store::{
    ACCOUNT_DISCONNECTED, Appended, Lease, MergeCounts, Missed, NewEvent, PageCommit, PageCommitted, Record, Run,
    RunEnd, RunFilter, RunId, RunMode, RunState, RunStateName, StreamKey,
};
use palisade_core::sync::{BadRecord, Cursor, Span, Stop};
use palisade_core::{ConnectionId, Error, ErrorKind, RecordId, StreamName, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::records::{self, RECORD, Staged, record_of, stored, stream_row};
use super::seen::{Confirmed, Notes};
use super::writer::Tx;
use super::{entries, inbox, jobs, names};

/// Deletions up to this number are always lawful.
const GUARD_ROWS: u64 = 50;
/// Deletions up to one in this many live records are always lawful (20 %).
const GUARD_SHARE: u64 = 5;

/// The columns of [`run`].
const RUN: &str = "id, connection, name, mode, state, cursor, pages, added, updated, deleted, unchanged, older, \
     resumed, started_at, progressed_at, finished_at, stop, began, bad, total, feed_from, feed_to, missed, missed_from, \
     missed_to, missed_records";

pub(super) fn mode_number(mode: RunMode) -> i64 {
    match mode {
        RunMode::Full => 0,
        RunMode::Incremental => 1,
    }
}

fn state_json(state: &RunState) -> Result<String, Error> {
    serde_json::to_string(state)
        .map_err(|error| Error::new(ErrorKind::Store, "a run's state cannot be written as JSON").with_source(error))
}

fn stop_json(stop: &Stop) -> Result<String, Error> {
    serde_json::to_string(stop)
        .map_err(|error| Error::new(ErrorKind::Store, "a run's stop cannot be written as JSON").with_source(error))
}

fn run(row: &Row<'_>) -> Result<Run, Fault> {
    let text = |column: usize| row.get::<_, String>(column);
    let count = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let number = |column: usize| Ok::<_, Fault>(row.get::<_, Option<i64>>(column)?.map(i64::cast_unsigned));
    let time = |column: usize| Ok::<_, Fault>(row.get::<_, Option<i64>>(column)?.map(Timestamp));
    let stop: Option<String> = row.get(16)?;
    Ok(Run {
        id: RunId(row.get(0)?),
        key: StreamKey { connection: text(1)?.into(), stream: text(2)?.into() },
        mode: if row.get::<_, i64>(3)? == 0 { RunMode::Full } else { RunMode::Incremental },
        state: serde_json::from_str(&text(4)?).map_err(|_| unreadable("run state"))?,
        cursor: row.get::<_, Option<String>>(5)?.map(Cursor::new),
        pages: count(6)?,
        counts: MergeCounts {
            added: count(7)?,
            updated: count(8)?,
            deleted: count(9)?,
            unchanged: count(10)?,
            older: count(11)?,
        },
        resumed: row.get(12)?,
        started_at: Timestamp(row.get(13)?),
        progressed_at: Timestamp(row.get(14)?),
        finished_at: time(15)?,
        stop: stop.map(|text| serde_json::from_str(&text)).transpose().map_err(|_| unreadable("run's stop"))?,
        began: count(17)?,
        bad: count(18)?,
        total: number(19)?,
        feed_from: number(20)?,
        feed_to: number(21)?,
        missed: Missed { count: count(22)?, records: count(25)?, from: time(23)?, to: time(24)? },
    })
}

fn read_run(connection: &Tx<'_>, id: i64) -> Result<Run, Fault> {
    let mut statement = connection.prepare(&format!("SELECT {RUN} FROM palisade_run WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    run(rows.next()?.ok_or_else(|| unreadable("run"))?)
}

/// What a running run is bound to.
struct Running {
    stream: i64,
    key: StreamKey,
    full: bool,
    began: u64,
    /// Whether its deletions were found lawful.
    judged: bool,
}

fn running(tx: &Tx<'_>, id: RunId) -> Result<Running, Fault> {
    tx.prepare(
        "SELECT stream, connection, name, mode, began, swept IS NOT NULL FROM palisade_run \
         WHERE id = ?1 AND finished_at IS NULL",
    )?
    .query_one([id.0], |row| {
        let key = StreamKey { connection: row.get::<_, String>(1)?.into(), stream: row.get::<_, String>(2)?.into() };
        let (began, judged) = (row.get::<_, i64>(4)?.cast_unsigned(), row.get(5)?);
        Ok(Running { stream: row.get(0)?, key, full: row.get::<_, i64>(3)? == 0, began, judged })
    })
    .optional()?
    .ok_or_else(|| Error::new(ErrorKind::LeaseLost, "the run has ended by now: nothing was written").into())
}

pub(super) fn start_run(
    tx: &Tx<'_>,
    lease: Lease,
    key: &StreamKey,
    mode: RunMode,
    now: Timestamp,
) -> Result<Run, Fault> {
    jobs::require(tx, lease)?;
    let stream = stream_row(tx, key)?;
    let live = tx
        .prepare("SELECT id, mode FROM palisade_run WHERE stream = ?1 AND finished_at IS NULL")?
        .query_one([stream], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    if let Some((id, other)) = live {
        if other == mode_number(mode) {
            tx.prepare("UPDATE palisade_run SET resumed = resumed + 1 WHERE id = ?1")?.execute([id])?;
            return read_run(tx, id);
        }
        cancel(tx, id, "a run of the other mode took its place", Some(&Stop::Superseded), now)?;
    }
    tx.prepare("UPDATE palisade_run SET followed = 1 WHERE stream = ?1 AND mode = ?2 AND followed = 0")?
        .execute(params![stream, mode_number(mode)])?;
    tx.prepare(
        "INSERT INTO palisade_run (stream, connection, name, mode, state, cursor, started_at, progressed_at, moved_at, \
         began, feed_from) SELECT id, connection, name, ?2, ?3, CASE WHEN ?2 = 1 THEN cursor END, ?4, ?4, ?4, commits, \
         head FROM palisade_stream WHERE id = ?1",
    )?
    .execute(params![stream, mode_number(mode), state_json(&RunState::Running)?, now.millis()])?;
    read_run(tx, tx.last_rowid())
}

/// Fails a run; without a cause the one it waited for stays.
fn cancel(tx: &Tx<'_>, run: i64, reason: &str, stop: Option<&Stop>, now: Timestamp) -> Result<(), Fault> {
    let state = state_json(&RunState::Failed { kind: ErrorKind::Cancelled, reason: reason.to_owned() })?;
    let stop = stop.map(stop_json).transpose()?;
    tx.prepare(
        "UPDATE palisade_run SET state = ?2, finished_at = ?3, stop = coalesce(?4, stop), \
         feed_to = (SELECT head FROM palisade_stream WHERE id = stream) WHERE id = ?1",
    )?
    .execute(params![run, state, now.millis(), stop])?;
    Ok(())
}

/// Fails the unfinished run of a stream whose job is dead.
pub(super) fn fail_run(tx: &Tx<'_>, key: &StreamKey, mode: RunMode, reason: &str, now: Timestamp) -> Result<(), Fault> {
    let live = tx
        .prepare(
            "SELECT r.id FROM palisade_run r JOIN palisade_stream s ON s.id = r.stream \
             WHERE s.connection = ?1 AND s.name = ?2 AND r.finished_at IS NULL AND r.mode = ?3",
        )?
        .query_one(params![key.connection.as_str(), key.stream.as_str(), mode_number(mode)], |row| row.get(0))
        .optional()?;
    live.map_or(Ok(()), |run| cancel(tx, run, reason, None, now))
}

pub(super) fn commit_page(tx: &mut Tx<'_>, page: &PageCommit) -> Result<PageCommitted, Fault> {
    jobs::require(tx, page.lease)?;
    let run = running(tx, page.run)?;
    let staged = Staged::of_page(tx, &run.key, page)?;
    if !staged.fetch.is_empty() {
        let fetch = staged.fetch.iter().map(|(_, record)| (*record).clone()).collect();
        return Ok(PageCommitted { fetch, ..PageCommitted::default() });
    }
    let counts = staged.commit(tx)?;
    records::set_aside(tx, run.stream, page.run, &page.bad, page.now)?;
    let (deliveries, elsewhere) = inbox::left_out(tx, &page.deliveries, &page.endpoints)?;
    let heard = |event: &NewEvent| !page.unheard.contains(&event.kind);
    let created = deliveries.iter().flat_map(|one| &one.events);
    let created = created.map(|event| event.created.filter(|_| heard(event)));
    let (mut events_new, mut events_duplicate, mut missed) = (0, elsewhere, page.missed);
    for (appended, created) in inbox::append(tx, &deliveries)?.into_iter().flatten().zip(created) {
        match appended {
            Appended::New(_) => {
                events_new += 1;
                if let Some(created) = created.filter(|at| *at <= page.missed_before) {
                    missed.add(created);
                }
            }
            Appended::Duplicate(_) => events_duplicate += 1,
        }
    }
    let MergeCounts { added, updated, deleted, unchanged, older } = counts;
    tx.prepare(
        "UPDATE palisade_run SET cursor = ?2, pages = pages + 1, progressed_at = ?3, added = added + ?4, \
         updated = updated + ?5, deleted = deleted + ?6, unchanged = unchanged + ?7, older = older + ?8, stop = NULL, \
         bad = bad + ?9, total = coalesce(?10, total), swept = NULL WHERE id = ?1",
    )?
    .execute(params![
        page.run.0,
        page.next.as_ref().map(Cursor::as_str),
        page.now.millis(),
        added.cast_signed(),
        updated.cast_signed(),
        deleted.cast_signed(),
        unchanged.cast_signed(),
        older.cast_signed(),
        i64::try_from(page.bad.len()).unwrap_or(i64::MAX),
        page.total.map(u64::cast_signed),
    ])?;
    tx.prepare("UPDATE palisade_run SET moved_at = ?2 WHERE id = ?1 AND (moved_at > ?2 OR moved_at <= ?2 - ?3)")?
        .execute(params![page.run.0, page.now.millis(), MOVED_EVERY_MS])?;
    if missed.count > 0 {
        note_missed(tx, page.run, missed)?;
    }
    Ok(PageCommitted { counts, fetch: Vec::new(), events_new, events_duplicate })
}

fn note_missed(tx: &Tx<'_>, run: RunId, missed: Missed) -> Result<(), Fault> {
    tx.prepare(
        "UPDATE palisade_run SET missed = missed + ?2, missed_records = missed_records + ?5, \
         missed_from = min(coalesce(missed_from, ?3), coalesce(?3, missed_from)), \
         missed_to = max(coalesce(missed_to, ?4), coalesce(?4, missed_to)) WHERE id = ?1",
    )?
    .execute(params![
        run.0,
        missed.count.cast_signed(),
        missed.from.map(Timestamp::millis),
        missed.to.map(Timestamp::millis),
        missed.records.cast_signed(),
    ])?;
    Ok(())
}

pub(super) fn hold(tx: &Tx<'_>, lease: Lease, run: RunId, stop: &Stop) -> Result<(), Fault> {
    jobs::require(tx, lease)?;
    running(tx, run)?;
    tx.prepare("UPDATE palisade_run SET stop = ?2 WHERE id = ?1")?.execute(params![run.0, stop_json(stop)?])?;
    Ok(())
}

/// Sets aside what a run asked for again in vain.
pub(super) fn set_aside(tx: &Tx<'_>, lease: Lease, run: RunId, bad: &[BadRecord], now: Timestamp) -> Result<(), Fault> {
    jobs::require(tx, lease)?;
    let stream = running(tx, run)?.stream;
    records::set_aside(tx, stream, run, bad, now)
}

pub(super) fn dismiss(tx: &Tx<'_>, run: RunId, reason: &str, now: Timestamp) -> Result<bool, Fault> {
    let state: Option<String> =
        tx.prepare("SELECT state FROM palisade_run WHERE id = ?1")?.query_one([run.0], |row| row.get(0)).optional()?;
    let state = state.map(|text| serde_json::from_str(&text)).transpose().map_err(|_| unreadable("run state"))?;
    if !matches!(state, Some(RunState::Review { .. })) {
        return Ok(false);
    }
    cancel(tx, run.0, reason, Some(&Stop::Superseded), now)?;
    Ok(true)
}

/// Ends all runs of a connection that is disconnected: those that wait for a review, and those under way, which nobody will
/// take up.
pub(super) fn end_all(tx: &Tx<'_>, of: &ConnectionId, now: Timestamp) -> Result<(), Fault> {
    let mut found = Vec::new();
    for open in [IN_REVIEW, UNDER_WAY] {
        let mut runs = tx.prepare(&format!("SELECT id {open} AND connection = ?1"))?;
        for run in runs.query_map([of.as_str()], |row| row.get::<_, i64>(0))? {
            found.push(run?);
        }
    }
    for run in found {
        cancel(tx, run, ACCOUNT_DISCONNECTED, Some(&Stop::Superseded), now)?;
    }
    Ok(())
}

pub(super) fn reset(tx: &Tx<'_>, key: &StreamKey, now: Timestamp) -> Result<bool, Fault> {
    let names = params![key.connection.as_str(), key.stream.as_str()];
    let stream: Option<i64> = tx
        .prepare("SELECT id FROM palisade_stream WHERE connection = ?1 AND name = ?2")?
        .query_one(names, |row| row.get(0))
        .optional()?;
    let Some(stream) = stream else { return Ok(false) };
    let live = tx
        .prepare("SELECT id FROM palisade_run WHERE stream = ?1 AND finished_at IS NULL")?
        .query_one([stream], |row| row.get(0))
        .optional()?;
    if let Some(run) = live {
        cancel(tx, run, "the stream was reset", Some(&Stop::Superseded), now)?;
    }
    tx.prepare("DELETE FROM palisade_bad_record WHERE stream = ?1")?.execute([stream])?;
    tx.prepare("UPDATE palisade_stream SET cursor = NULL, full_at = NULL, fresh_at = NULL, bad = 0, bad_older = 0 WHERE id = ?1")?
        .execute([stream])?;
    Ok(true)
}

pub(super) fn erase(tx: &Tx<'_>, key: &StreamKey, limit: u32, now: Timestamp) -> Result<u64, Fault> {
    let names = params![key.connection.as_str(), key.stream.as_str()];
    let stream: Option<i64> = tx
        .prepare("SELECT id FROM palisade_stream WHERE connection = ?1 AND name = ?2")?
        .query_one(names, |row| row.get(0))
        .optional()?;
    let Some(stream) = stream else { return Ok(0) };
    let live = {
        let mut names = tx.prepare(names::RECORDS)?;
        let mut look = tx.prepare(
            "SELECT id, observed, earliest, latest, hash, deleted, seq FROM palisade_record \
             WHERE id = ?1 AND stream = ?2 AND deleted = 0",
        )?;
        let read = |row: &Row<'_>| Ok((stored(row)?, row.get::<_, i64>(6)?.cast_unsigned()));
        let mut notes = Notes::default();
        let mut rows = names.query(params![stream, ""])?;
        let mut live = Vec::new();
        while live.len() < limit as usize {
            let Some(row) = rows.next()? else { break };
            if let Some(((id, of_row), seq)) = look.query_one([row.get::<_, i64>(0)?, stream], read).optional()? {
                live.push(Live { id, seq, span: notes.over(tx.connection(), stream, id, of_row)?.span });
            }
        }
        live
    };
    delete(tx, stream, &live, None, now)?;
    Ok(live.len() as u64)
}

/// Ends a run, or deletes the next part of what it did not see.
pub(super) fn end_run(tx: &mut Tx<'_>, end: &RunEnd, unseen: &Unseen) -> Result<Run, Fault> {
    jobs::require(tx, end.lease)?;
    let run = running(tx, end.run)?;
    let (state, deleted) = match &end.state {
        RunState::Running | RunState::Review { .. } => {
            return Err(Error::new(ErrorKind::Invalid, "a run ends as done or failed").into());
        }
        RunState::Failed { kind, .. } => {
            if *kind == ErrorKind::CursorExpired {
                tx.prepare("UPDATE palisade_stream SET cursor = NULL WHERE id = ?1")?.execute([run.stream])?;
            }
            (end.state.clone(), 0)
        }
        RunState::Done => finish_run(tx, end, &run, unseen)?,
    };
    if deleted > 0 {
        tx.prepare("UPDATE palisade_run SET deleted = deleted + ?2 WHERE id = ?1")?
            .execute(params![end.run.0, deleted.cast_signed()])?;
    }
    if state == RunState::Running {
        return read_run(tx, end.run.0);
    }
    let failed = matches!(state, RunState::Failed { .. });
    let stop = end.stop.as_ref().filter(|_| failed).map(stop_json).transpose()?;
    tx.prepare(
        "UPDATE palisade_run SET state = ?2, finished_at = ?3, stop = ?4, \
         feed_to = (SELECT head FROM palisade_stream WHERE id = stream) WHERE id = ?1",
    )?
    .execute(params![end.run.0, state_json(&state)?, end.now.millis(), stop])?;
    jobs::done(tx, end.lease, end.now)?;
    for follow in &end.follow {
        jobs::enqueue_at(tx, follow, Some(end.now))?;
    }
    read_run(tx, end.run.0)
}

/// Deletes what a full run did not see, or the next part of it, unless that is too much, and at its end moves the stream
/// on.
fn finish_run(tx: &Tx<'_>, end: &RunEnd, run: &Running, unseen: &Unseen) -> Result<(RunState, u64), Fault> {
    if unseen.judged && !run.judged {
        // A page came between the look and this: what is unseen is counted again.
        return Ok((RunState::Running, 0));
    }
    let deletions = unseen.deletions;
    let records: i64 =
        tx.prepare("SELECT records FROM palisade_stream WHERE id = ?1")?.query_one([run.stream], |row| row.get(0))?;
    let many = deletions > GUARD_ROWS && deletions.saturating_mul(GUARD_SHARE) > records.cast_unsigned();
    // Any of the others may be one of those without a name.
    let unsure = deletions > 0
        && tx
            .prepare("SELECT 1 FROM palisade_bad_record WHERE stream = ?1 AND run = ?2 AND ext_id IS NULL")?
            .exists([run.stream, end.run.0])?;
    if !run.judged && (many || unsure) && deletions > end.deletions_lawful() {
        // All but the deletions is done: what comes after its last page is read from there.
        tx.prepare("UPDATE palisade_stream SET cursor = coalesce(?2, cursor) WHERE id = ?1")?
            .execute(params![run.stream, end.resume.as_ref().map(Cursor::as_str)])?;
        return Ok((RunState::Review { deletions }, 0));
    }
    let gone = still_unseen(tx, end.run, run, &unseen.rows)?;
    delete(tx, run.stream, &gone, end.span.map(|span| span.latest), end.now)?;
    let deleted = gone.len() as u64;
    if let Some(last) = &unseen.more_behind {
        tx.prepare("UPDATE palisade_run SET swept = ?2, progressed_at = ?3 WHERE id = ?1")?.execute(params![
            end.run.0,
            last,
            end.now.millis()
        ])?;
        return Ok((RunState::Running, deleted));
    }
    if run.full {
        records::forget_unmet(tx, run.stream, end.run)?;
    }
    tx.prepare(
        "UPDATE palisade_stream SET fresh_at = ?2, full_at = CASE WHEN ?3 THEN ?2 ELSE full_at END, \
         cursor = coalesce(?4, cursor) WHERE id = ?1",
    )?
    .execute(params![run.stream, end.now.millis(), run.full, end.resume.as_ref().map(Cursor::as_str)])?;
    Ok((RunState::Done, deleted))
}

/// A live record to make a tombstone of.
struct Live {
    id: i64,
    /// Where it stands in the feed.
    seq: u64,
    /// When it was last known to live.
    span: Span,
}

/// Returns the names of what a run set aside.
fn aside(connection: &Connection, stream: i64, id: RunId) -> Result<HashSet<String>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT ext_id FROM palisade_bad_record WHERE stream = ?1 AND run = ?2 AND ext_id IS NOT NULL",
    )?;
    let found = statement.query_map(params![stream, id.0], |row| row.get(0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// What a full run did not see, as a snapshot shows it. What is unseen only grows less: what a commit finds to be unseen
/// still was in every snapshot before it.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    /// How much there is; not counted of a run that was judged.
    deletions: u64,
    /// Whether the run's deletions had been found lawful.
    judged: bool,
    /// The rows of the next of them, by record id.
    rows: Vec<i64>,
    /// The name of the last of these, when there may be more behind it.
    more_behind: Option<String>,
}

impl Unseen {
    /// Roughly how many bytes it holds in memory.
    pub(super) fn bytes(&self) -> usize {
        self.rows.len() * size_of::<i64>()
    }
}

/// Finds the next `at_once` live records, by record id, that nothing wrote or confirmed since a full run was first started
/// and that it did not set aside; and how many there are, when its deletions were not judged yet.
pub(super) fn unseen(connection: &Connection, id: RunId, at_once: u32) -> Result<Unseen, Fault> {
    let of = connection
        .prepare_cached(
            "SELECT stream, began, feed_from, swept FROM palisade_run WHERE id = ?1 AND mode = 0 AND finished_at IS NULL",
        )?
        .query_one([id.0], |row| {
            let numbers = (row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<i64>>(2)?);
            Ok((numbers, row.get::<_, Option<String>>(3)?))
        })
        .optional()?;
    let Some(((stream, began, fed), swept)) = of else { return Ok(Unseen::default()) };
    let confirmed = Confirmed::since(connection, stream, began.cast_unsigned())?;
    let aside = aside(connection, stream, id)?;
    let mut look = connection.prepare_cached(
        "SELECT ext_id FROM palisade_record WHERE id = ?1 AND stream = ?2 AND deleted = 0 AND observed <= ?3 \
         AND seq = coalesce(?4, seq)",
    )?;
    let mut is_unseen = |row: i64, seq: Option<i64>| -> Result<bool, Fault> {
        if confirmed.holds(row) {
            return Ok(false);
        }
        let name: Option<String> = look.query_one(params![row, stream, began, seq], |row| row.get(0)).optional()?;
        Ok(name.is_some_and(|name| !aside.contains(&name)))
    };
    let mut found = Unseen { judged: swept.is_some(), ..Unseen::default() };
    if !found.judged {
        // What was written since then has a greater number in the feed, and its entries alone name the others. Of a run of
        // before this was noted any record may be old.
        entries::rows_until(connection, stream, fed.unwrap_or(i64::MAX), |row, seq| {
            found.deletions += u64::from(is_unseen(row, Some(seq))?);
            Ok(())
        })?;
        if found.deletions == 0 {
            return Ok(found);
        }
    }
    let mut names = connection.prepare_cached(names::RECORDS)?;
    let mut rows = names.query(params![stream, swept.unwrap_or_default()])?;
    while let Some(row) = rows.next()? {
        if is_unseen(row.get(0)?, None)? {
            found.rows.push(row.get(0)?);
            if found.rows.len() >= at_once as usize {
                found.more_behind = Some(row.get(1)?);
                break;
            }
        }
    }
    Ok(found)
}

/// Returns those of the rows that are unseen still.
fn still_unseen(tx: &Tx<'_>, id: RunId, run: &Running, rows: &[i64]) -> Result<Vec<Live>, Fault> {
    let mut look = tx.prepare(
        "SELECT id, observed, earliest, latest, hash, deleted, ext_id, seq FROM palisade_record \
         WHERE id = ?1 AND stream = ?2 AND deleted = 0",
    )?;
    let mut aside =
        tx.prepare("SELECT 1 FROM palisade_bad_record WHERE stream = ?1 AND key = '=' || ?2 AND run = ?3")?;
    let (mut found, mut notes) = (Vec::with_capacity(rows.len()), Notes::default());
    for row in rows {
        let read = |row: &Row<'_>| Ok((stored(row)?, row.get::<_, String>(6)?, row.get::<_, i64>(7)?));
        let Some(((id_of_row, of_row), name, seq)) = look.query_one(params![row, run.stream], read).optional()? else {
            continue;
        };
        let known = notes.over(tx.connection(), run.stream, id_of_row, of_row)?;
        if known.observed <= run.began && !aside.exists(params![run.stream, name, id.0])? {
            found.push(Live { id: id_of_row, seq: seq.cast_unsigned(), span: known.span });
        }
    }
    Ok(found)
}

/// Writes tombstones of live records; `read` is the end of the span in which they were found missing.
fn delete(tx: &Tx<'_>, stream: i64, gone: &[Live], read: Option<i64>, now: Timestamp) -> Result<(), Fault> {
    if gone.is_empty() {
        return Ok(());
    }
    // First: it may refuse, and then nothing may have been written.
    let mut entries = entries::new_of(tx.connection(), stream)?;
    let count = i64::try_from(gone.len()).unwrap_or(i64::MAX);
    let (observed, head): (i64, i64) = tx
        .prepare(
            "UPDATE palisade_stream SET commits = commits + 1, head = head + ?2, records = records - ?2 WHERE id = ?1 \
             RETURNING commits, head",
        )?
        .query_row(params![stream, count], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut tombstone = tx.prepare(
        "UPDATE palisade_record SET deleted = 1, data = NULL, hash = 0, seq = ?2, observed = ?3, earliest = ?4, \
         latest = ?5, changed_at = ?6 WHERE id = ?1",
    )?;
    for (seq, Live { id, span, .. }) in (head - count + 1..).zip(gone) {
        let latest = read.map_or(span.latest, |read| read.max(span.latest));
        tombstone.execute(params![id, seq, observed, span.earliest, latest, now.millis()])?;
    }
    let places = (head - count + 1..).zip(gone);
    entries.enter(places.map(|(seq, live)| (live.id, seq.cast_unsigned(), Some(live.seq))));
    entries::write(tx, stream, entries)?;
    Ok(())
}

/// Finds old runs that others of their stream and mode have followed. A followed run has ended, so the index holds
/// nothing else, and what is passed over is only what waits for a review.
pub(super) const OLD: &str = "SELECT id FROM palisade_run INDEXED BY palisade_run_followed WHERE followed = 1 \
     AND finished_at < ?1 AND state NOT LIKE '{\"state\":\"review\"%' ORDER BY finished_at, id LIMIT ?2";

pub(super) fn prune(tx: &Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let gone = tx
        .prepare(&format!("DELETE FROM palisade_run WHERE id IN ({OLD})"))?
        .execute(params![before.millis(), limit])?;
    Ok(gone as u64)
}

/// How exactly the index of runs under way tells when they last came on: `moved_at` is that moment, or one up to so much
/// before it. An entry that tells it exactly is written with every page.
const MOVED_EVERY_MS: i64 = 10_000;

/// Which runs are under way, those first that have stood still for longest, to [`MOVED_EVERY_MS`]: read off their index in
/// its order.
pub(super) const LIVE: &str =
    "FROM palisade_run INDEXED BY palisade_run_moved WHERE finished_at IS NULL ORDER BY moved_at, id";

pub(super) fn live(connection: &Connection, limit: u32) -> Result<Vec<Run>, Fault> {
    let mut statement = connection.prepare_cached(&format!("SELECT {RUN}, moved_at {LIVE}"))?;
    let mut rows = statement.query([])?;
    let (mut found, mut first) = (Vec::new(), BinaryHeap::new());
    while let Some(row) = rows.next()? {
        // It and those after it came on at its moment or later: they are read only while one may be among the first.
        let earliest = (Timestamp(row.get("moved_at")?), RunId(row.get(0)?));
        if first.len() == limit as usize && first.peek().is_none_or(|last| *last < earliest) {
            break;
        }
        let run = run(row)?;
        first.push((run.progressed_at, run.id));
        found.push(run);
        if first.len() > limit as usize {
            first.pop();
        }
    }
    found.sort_unstable_by_key(|run| (run.progressed_at, run.id));
    found.truncate(limit as usize);
    Ok(found)
}

pub(super) fn newest(connection: &Connection, of: &ConnectionId) -> Result<Vec<Run>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {RUN} FROM palisade_run INDEXED BY palisade_run_newest WHERE followed = 0 \
         AND stream IN (SELECT id FROM palisade_stream WHERE connection = ?1) ORDER BY name, mode"
    ))?;
    let mut rows = statement.query([of.as_str()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(run(row)?);
    }
    Ok(found)
}

pub(super) fn list(connection: &Connection, of: Option<&ConnectionId>, limit: u32) -> Result<Vec<Run>, Fault> {
    let only = if of.is_some() { "WHERE connection = ?1" } else { "WHERE ?1 IS NULL" };
    let mut statement =
        connection.prepare_cached(&format!("SELECT {RUN} FROM palisade_run {only} ORDER BY id DESC LIMIT ?2"))?;
    let mut rows = statement.query(params![of.map(ConnectionId::as_str), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(run(row)?);
    }
    Ok(found)
}

/// The runs that wait for a review, in the words of their index.
const IN_REVIEW: &str = r#"FROM palisade_run INDEXED BY palisade_run_review WHERE state GLOB '{"state":"review"*'"#;

/// The runs under way, by their index.
const UNDER_WAY: &str = "FROM palisade_run INDEXED BY palisade_run_live WHERE finished_at IS NULL";

/// Finds runs of a state, and of a connection (`?1`) and stream (`?2`) if given, below a number. What is rare is found by
/// its index, else a connection's runs by theirs.
pub(super) fn found(state: Option<RunStateName>, of_connection: bool) -> String {
    let of_state = match state {
        Some(RunStateName::Review) => Some(IN_REVIEW),
        Some(RunStateName::Running) => Some(UNDER_WAY),
        Some(RunStateName::Done | RunStateName::Failed) | None => None,
    };
    let all = if of_connection { "FROM palisade_run INDEXED BY palisade_run_connection" } else { "FROM palisade_run" };
    let and = match state {
        Some(RunStateName::Done) => r#"state GLOB '{"state":"done"*' AND "#,
        Some(RunStateName::Failed) => r#"state GLOB '{"state":"failed"*' AND "#,
        Some(RunStateName::Review | RunStateName::Running) | None => "",
    };
    let from = of_state.map_or_else(|| format!("{all} WHERE {and}"), |from| format!("{from} AND "));
    let connection = if of_connection { "connection = ?1" } else { "?1 IS NULL" };
    format!("SELECT {RUN} {from}{connection} AND (?2 IS NULL OR name = ?2) AND id < ?3 ORDER BY id DESC LIMIT ?4")
}

pub(super) fn find(connection: &Connection, filter: &RunFilter, limit: u32) -> Result<Vec<Run>, Fault> {
    let mut statement = connection.prepare_cached(&found(filter.state, filter.connection.is_some()))?;
    let mut rows = statement.query(params![
        filter.connection.as_ref().map(ConnectionId::as_str),
        filter.stream.as_ref().map(StreamName::as_str),
        filter.before.map_or(i64::MAX, |before| before.0),
        limit,
    ])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(run(row)?);
    }
    Ok(found)
}

pub(super) fn one(connection: &Connection, id: RunId) -> Result<Option<Run>, Fault> {
    let mut statement = connection.prepare_cached(&format!("SELECT {RUN} FROM palisade_run WHERE id = ?1"))?;
    let mut rows = statement.query([id.0])?;
    rows.next()?.map(run).transpose()
}

pub(super) fn healings(connection: &Connection, of: &ConnectionId, limit: u32) -> Result<Vec<Run>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {RUN} FROM palisade_run INDEXED BY palisade_run_missed WHERE connection = ?1 AND missed > 0 \
         ORDER BY id DESC LIMIT ?2"
    ))?;
    let mut rows = statement.query(params![of.as_str(), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(run(row)?);
    }
    Ok(found)
}

/// Lists, by id, what a full run did not see, as its end finds it ([`unseen`]).
pub(super) fn unseen_records(
    connection: &Connection,
    id: RunId,
    after: Option<&RecordId>,
    limit: u32,
) -> Result<Vec<Record>, Fault> {
    let of = connection
        .prepare_cached("SELECT stream, began FROM palisade_run WHERE id = ?1 AND mode = 0")?
        .query_one([id.0], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((stream, began)) = of else { return Ok(Vec::new()) };
    let confirmed = Confirmed::since(connection, stream, began.cast_unsigned())?;
    let aside = aside(connection, stream, id)?;
    let mut names = connection.prepare_cached(names::RECORDS)?;
    let mut read = connection.prepare_cached(&format!(
        "SELECT {RECORD} FROM palisade_record r WHERE r.id = ?1 AND r.stream = ?3 AND r.deleted = 0 \
         AND r.observed <= ?2"
    ))?;
    let mut rows = names.query(params![stream, after.map_or("", RecordId::as_str)])?;
    let mut found = Vec::new();
    while found.len() < limit as usize {
        let Some(row) = rows.next()? else { break };
        let row_id: i64 = row.get(0)?;
        let name = row.get_ref(1)?.as_str().map_err(|_| unreadable("record's name"))?;
        if !confirmed.holds(row_id) && !aside.contains(name) {
            found.extend(read.query_one([row_id, began, stream], record_of).optional()?);
        }
    }
    Ok(found)
}

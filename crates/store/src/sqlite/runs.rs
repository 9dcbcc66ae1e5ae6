//! Runs of syncs: their pages, and what the end of a full run deletes.

use palisade_core::store::{
    Appended, Lease, MergeCounts, PageCommit, PageCommitted, Run, RunEnd, RunId, RunMode, RunState, StreamKey,
};
use palisade_core::sync::Cursor;
use palisade_core::{ConnectionId, Error, ErrorKind, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::records::{Staged, stream_row};
use super::writer::Tx;
use super::{inbox, jobs};

/// Deletions up to this number are always lawful.
const GUARD_ROWS: u64 = 50;
/// Deletions up to one in this many live records are always lawful (20 %).
const GUARD_SHARE: u64 = 5;

/// The columns of [`run`].
const RUN: &str = "id, connection, name, mode, state, cursor, pages, added, updated, deleted, unchanged, older, \
     resumed, started_at, progressed_at, finished_at";

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

fn run(row: &Row<'_>) -> Result<Run, Fault> {
    let text = |column: usize| row.get::<_, String>(column);
    let count = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
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
        finished_at: row.get::<_, Option<i64>>(15)?.map(Timestamp),
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
    began: i64,
}

fn running(tx: &Tx<'_>, id: RunId) -> Result<Running, Fault> {
    tx.prepare("SELECT stream, connection, name, mode, began FROM palisade_run WHERE id = ?1 AND finished_at IS NULL")?
        .query_one([id.0], |row| {
            let key =
                StreamKey { connection: row.get::<_, String>(1)?.into(), stream: row.get::<_, String>(2)?.into() };
            Ok(Running { stream: row.get(0)?, key, full: row.get::<_, i64>(3)? == 0, began: row.get(4)? })
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
        cancel(tx, id, "a run of the other mode took its place", now)?;
    }
    tx.prepare(
        "INSERT INTO palisade_run (stream, connection, name, mode, state, cursor, started_at, progressed_at, began) \
         SELECT id, connection, name, ?2, ?3, CASE WHEN ?2 = 1 THEN cursor END, ?4, ?4, commits \
         FROM palisade_stream WHERE id = ?1",
    )?
    .execute(params![stream, mode_number(mode), state_json(&RunState::Running)?, now.millis()])?;
    read_run(tx, tx.last_rowid())
}

fn cancel(tx: &Tx<'_>, run: i64, reason: &str, now: Timestamp) -> Result<(), Fault> {
    let state = state_json(&RunState::Failed { kind: ErrorKind::Cancelled, reason: reason.to_owned() })?;
    tx.prepare("UPDATE palisade_run SET state = ?2, finished_at = ?3 WHERE id = ?1")?.execute(params![
        run,
        state,
        now.millis()
    ])?;
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
    live.map_or(Ok(()), |run| cancel(tx, run, reason, now))
}

pub(super) fn commit_page(tx: &mut Tx<'_>, page: &PageCommit) -> Result<PageCommitted, Fault> {
    jobs::require(tx, page.lease)?;
    let run = running(tx, page.run)?;
    let staged = Staged::read(tx, &run.key, page.read_since, &page.changes, page.now)?;
    if !staged.fetch.is_empty() {
        let fetch = staged.fetch.iter().map(|(_, record)| (*record).clone()).collect();
        return Ok(PageCommitted { fetch, ..PageCommitted::default() });
    }
    let counts = staged.commit(tx)?;
    let (mut events_new, mut events_duplicate) = (0, 0);
    for appended in inbox::append(tx, &page.deliveries)?.into_iter().flatten() {
        match appended {
            Appended::New(_) => events_new += 1,
            Appended::Duplicate(_) => events_duplicate += 1,
        }
    }
    let MergeCounts { added, updated, deleted, unchanged, older } = counts;
    tx.prepare(
        "UPDATE palisade_run SET cursor = ?2, pages = pages + 1, progressed_at = ?3, added = added + ?4, \
         updated = updated + ?5, deleted = deleted + ?6, unchanged = unchanged + ?7, older = older + ?8 WHERE id = ?1",
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
    ])?;
    Ok(PageCommitted { counts, fetch: Vec::new(), events_new, events_duplicate })
}

pub(super) fn end_run(tx: &mut Tx<'_>, end: &RunEnd) -> Result<Run, Fault> {
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
        RunState::Done => finish_run(tx, end, &run)?,
    };
    tx.prepare("UPDATE palisade_run SET state = ?2, finished_at = ?3, deleted = deleted + ?4 WHERE id = ?1")?
        .execute(params![end.run.0, state_json(&state)?, end.now.millis(), deleted.cast_signed()])?;
    jobs::done(tx, end.lease, end.now)?;
    for follow in &end.follow {
        jobs::enqueue_at(tx, follow, Some(end.now))?;
    }
    read_run(tx, end.run.0)
}

/// Deletes what a full run did not see, unless that is too much, and moves the stream on.
fn finish_run(tx: &Tx<'_>, end: &RunEnd, run: &Running) -> Result<(RunState, u64), Fault> {
    let unseen = if run.full { unseen(tx, run)? } else { Vec::new() };
    let deletions = unseen.len() as u64;
    let records: i64 =
        tx.prepare("SELECT records FROM palisade_stream WHERE id = ?1")?.query_one([run.stream], |row| row.get(0))?;
    let many = deletions > GUARD_ROWS && deletions.saturating_mul(GUARD_SHARE) > records.cast_unsigned();
    if many && !end.allow_mass_delete {
        return Ok((RunState::Review { deletions }, 0));
    }
    delete(tx, run.stream, &unseen, end)?;
    tx.prepare(
        "UPDATE palisade_stream SET fresh_at = ?2, full_at = CASE WHEN ?3 THEN ?2 ELSE full_at END, \
         cursor = coalesce(?4, cursor) WHERE id = ?1",
    )?
    .execute(params![run.stream, end.now.millis(), run.full, end.resume.as_ref().map(Cursor::as_str)])?;
    Ok((RunState::Done, deletions))
}

/// Returns the live records that nothing wrote or confirmed since the run was first started, by record id, each with
/// the end of its span.
fn unseen(tx: &Tx<'_>, run: &Running) -> Result<Vec<(i64, i64)>, Fault> {
    // By the feed's index the rows are met about in the order they lie in the file.
    let mut statement = tx.prepare(
        "SELECT id, latest FROM palisade_record INDEXED BY palisade_record_seq \
         WHERE stream = ?1 AND deleted = 0 AND observed <= ?2 ORDER BY ext_id",
    )?;
    let found = statement.query_map(params![run.stream, run.began], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn delete(tx: &Tx<'_>, stream: i64, unseen: &[(i64, i64)], end: &RunEnd) -> Result<(), Fault> {
    if unseen.is_empty() {
        return Ok(());
    }
    let count = i64::try_from(unseen.len()).unwrap_or(i64::MAX);
    let (observed, head): (i64, i64) = tx
        .prepare(
            "UPDATE palisade_stream SET commits = commits + 1, head = head + ?2, records = records - ?2 WHERE id = ?1 \
             RETURNING commits, head",
        )?
        .query_row(params![stream, count], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut tombstone = tx.prepare(
        "UPDATE palisade_record SET deleted = 1, data = NULL, hash = 0, seq = ?2, observed = ?3, latest = ?4, \
         changed_at = ?5 WHERE id = ?1",
    )?;
    for (seq, (id, latest)) in (head - count + 1..).zip(unseen) {
        let latest = end.span.map_or(*latest, |read| read.latest.max(*latest));
        tombstone.execute(params![id, seq, observed, latest, end.now.millis()])?;
    }
    Ok(())
}

pub(super) fn live(connection: &Connection, limit: u32) -> Result<Vec<Run>, Fault> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {RUN} FROM palisade_run INDEXED BY palisade_run_live WHERE finished_at IS NULL \
         ORDER BY progressed_at, id LIMIT ?1"
    ))?;
    let mut rows = statement.query([limit])?;
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

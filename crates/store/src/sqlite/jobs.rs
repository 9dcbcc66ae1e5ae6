//! The one job table.
//!
//! Of a lane's unfinished jobs only the one with the smallest number is ready or running; the others wait in a state
//! of their own until it has ended. So a claim never walks past blocked jobs, however long a lane is, and two jobs of
//! a lane cannot run at once.

use palisade_core::store::{
    Claim, Claimed, EventRow, EventState, JobCounts, JobEnd, JobId, LEASE_RAN_OUT, Lease, MergeCounts, NewJob, Queue,
    Settled, Settlement, Work,
};
use palisade_core::{Error, ErrorKind, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::{Fault, unreadable};
use super::writer::{Tally, Tx};
use super::{inbox, product, records};

const READY: i64 = 0;
const RUNNING: i64 = 1;
const DONE: i64 = 2;
const DEAD: i64 = 3;
/// Waits behind another job of its lane.
const BEHIND: i64 = 4;

/// Most expired leases one claim buries, so that a claim is bounded; the next claim takes the rest.
const BURY_MAX: u32 = 1_000;

fn queue_number(queue: Queue) -> i64 {
    match queue {
        Queue::Events => 0,
        Queue::Background => 1,
    }
}

fn queue_of(number: i64) -> Queue {
    if number == 0 { Queue::Events } else { Queue::Background }
}

/// A job to insert, borrowed.
pub(super) struct Insert<'j> {
    pub(super) queue: Queue,
    pub(super) event: Option<i64>,
    pub(super) work: Option<&'j str>,
    pub(super) lane: Option<&'j str>,
    pub(super) unique: Option<&'j str>,
    pub(super) priority: i32,
    pub(super) run_at: Timestamp,
    pub(super) attempts_max: u32,
}

pub(super) fn insert(tx: &mut Tx<'_>, job: &Insert<'_>) -> Result<JobId, Fault> {
    let blocked = match job.lane {
        None => false,
        Some(lane) => tx
            .prepare("SELECT 1 FROM palisade_job WHERE lane = ?1 AND finished_at IS NULL LIMIT 1")?
            .exists([lane])?,
    };
    let id = tx.tally.job_last + 1;
    tx.prepare(
        "INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, event, lane, unique_key, work) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        id,
        if blocked { BEHIND } else { READY },
        queue_number(job.queue),
        job.priority,
        job.run_at.millis(),
        job.attempts_max,
        job.event,
        job.lane,
        job.unique,
        job.work,
    ])?;
    tx.tally.job_last = id;
    tx.tally.jobs_waiting += 1;
    if !blocked {
        tx.wake(job.queue);
    }
    Ok(JobId(id))
}

/// Adds a job, or pulls the one with its unique key forward.
pub(super) fn enqueue(tx: &mut Tx<'_>, job: &NewJob) -> Result<JobId, Fault> {
    if let Some(key) = &job.unique {
        let there = tx
            .prepare("SELECT id, state, run_at, queue FROM palisade_job WHERE unique_key = ?1 AND finished_at IS NULL")?
            .query_one([key], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?))
            })
            .optional()?;
        if let Some((id, state, run_at, queue)) = there {
            if state != RUNNING && job.run_at.millis() < run_at {
                tx.prepare("UPDATE palisade_job SET run_at = ?2 WHERE id = ?1")?
                    .execute(params![id, job.run_at.millis()])?;
                tx.wake(queue_of(queue));
            }
            return Ok(JobId(id));
        }
    }
    let (event, work) = match &job.work {
        Work::Event { row } => (Some(row.0), None),
        other => (
            None,
            Some(serde_json::to_string(other).map_err(|error| {
                Error::new(ErrorKind::Store, "the work of a job cannot be written as JSON").with_source(error)
            })?),
        ),
    };
    insert(
        tx,
        &Insert {
            queue: job.work.queue(),
            event,
            work: work.as_deref(),
            lane: job.lane.as_deref(),
            unique: job.unique.as_deref(),
            priority: job.priority,
            run_at: job.run_at,
            attempts_max: job.attempts_max,
        },
    )
}

// -------------------------------------------------------------------------------------------------------- claim

#[derive(Clone, Copy)]
struct Due {
    priority: i64,
    run_at: i64,
    id: i64,
    expired: bool,
}

pub(super) fn claim(tx: &mut Tx<'_>, claim: &Claim) -> Result<Vec<Claimed>, Fault> {
    let queue = queue_number(claim.queue);
    bury_expired(tx, queue, claim.now)?;
    let mut due = expired(tx, queue, claim)?;
    ready(tx, queue, claim, &mut due)?;
    due.sort_by_key(|job| (std::cmp::Reverse(job.priority), job.run_at, job.id));
    due.truncate(usize::try_from(claim.max).unwrap_or(usize::MAX));
    due.into_iter().map(|job| take(tx, job, claim)).collect()
}

/// Buries jobs whose lease ran out in their last attempt.
fn bury_expired(tx: &mut Tx<'_>, queue: i64, now: Timestamp) -> Result<(), Fault> {
    let spent = tx
        .prepare(
            "SELECT id, queue, lane, event FROM palisade_job WHERE queue = ?1 AND state = 1 AND lease_until <= ?2 \
             AND attempt >= attempts_max ORDER BY id LIMIT ?3",
        )?
        .query_map(params![queue, now.millis(), BURY_MAX], |row| {
            Ok(Held { id: row.get(0)?, lane: row.get(2)?, event: row.get(3)?, attempt: 0, attempts_max: 0 })
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for job in spent {
        finish(tx, &job, Some(LEASE_RAN_OUT), now)?;
    }
    Ok(())
}

fn expired(tx: &Tx<'_>, queue: i64, claim: &Claim) -> Result<Vec<Due>, Fault> {
    let mut statement = tx.prepare(
        "SELECT priority, run_at, id FROM palisade_job WHERE queue = ?1 AND state = 1 AND lease_until <= ?2 \
         AND attempt < attempts_max ORDER BY priority DESC, run_at, id LIMIT ?3",
    )?;
    let found = statement.query_map(params![queue, claim.now.millis(), claim.max], |row| {
        Ok(Due { priority: row.get(0)?, run_at: row.get(1)?, id: row.get(2)?, expired: true })
    })?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Finds due jobs priority by priority, so that jobs of a later time are never walked.
fn ready(tx: &Tx<'_>, queue: i64, claim: &Claim, due: &mut Vec<Due>) -> Result<(), Fault> {
    let mut above = i64::MAX;
    let mut left = claim.max;
    while left > 0 {
        let priority: Option<i64> = tx
            .prepare("SELECT max(priority) FROM palisade_job WHERE queue = ?1 AND state = 0 AND priority < ?2")?
            .query_one(params![queue, above], |row| row.get(0))?;
        let Some(priority) = priority else { return Ok(()) };
        above = priority;
        let mut statement = tx.prepare(
            "SELECT run_at, id FROM palisade_job WHERE queue = ?1 AND state = 0 AND priority = ?2 AND run_at <= ?3 \
             ORDER BY run_at, id LIMIT ?4",
        )?;
        let mut rows = statement.query(params![queue, priority, claim.now.millis(), left])?;
        while let Some(row) = rows.next()? {
            due.push(Due { priority, run_at: row.get(0)?, id: row.get(1)?, expired: false });
            left -= 1;
        }
    }
    Ok(())
}

fn take(tx: &mut Tx<'_>, job: Due, claim: &Claim) -> Result<Claimed, Fault> {
    let until = claim.now.plus(claim.hold);
    let mut statement = tx.prepare(
        "UPDATE palisade_job SET state = 1, attempt = attempt + 1, fence = fence + 1, lease_until = ?2 \
         WHERE id = ?1 RETURNING fence, attempt, attempts_max, event, work",
    )?;
    let claimed = {
        let mut rows = statement.query(params![job.id, until.millis()])?;
        let row = rows.next()?.ok_or_else(|| unreadable("job"))?;
        let work = match row.get::<_, Option<i64>>(3)? {
            Some(event) => Work::Event { row: EventRow(event) },
            None => serde_json::from_str(row.get_ref(4)?.as_str().map_err(|_| unreadable("job"))?)
                .map_err(|_| unreadable("job"))?,
        };
        Claimed {
            lease: Lease { job: JobId(job.id), fence: row.get(0)? },
            attempt: row.get(1)?,
            attempts_max: row.get(2)?,
            work,
            until,
        }
    };
    // An UPDATE … RETURNING is done when its statement is reset.
    drop(statement);
    if !job.expired {
        tx.tally.jobs_waiting -= 1;
        tx.tally.jobs_running += 1;
    }
    Ok(claimed)
}

// ------------------------------------------------------------------------------------------------------- settle

/// A running job as far as ending it needs.
struct Held {
    id: i64,
    lane: Option<String>,
    event: Option<i64>,
    attempt: i64,
    attempts_max: i64,
}

/// Reads the job if the lease still holds it.
fn held(tx: &Tx<'_>, lease: Lease) -> Result<Option<Held>, Fault> {
    let found = tx
        .prepare(
            "SELECT id, lane, event, attempt, attempts_max FROM palisade_job \
             WHERE id = ?1 AND fence = ?2 AND state = 1",
        )?
        .query_one(params![lease.job.0, lease.fence], |row| {
            Ok(Held {
                id: row.get(0)?,
                lane: row.get(1)?,
                event: row.get(2)?,
                attempt: row.get(3)?,
                attempts_max: row.get(4)?,
            })
        })
        .optional()?;
    Ok(found)
}

/// Refuses when the lease is another worker's by now.
pub(super) fn require(tx: &Tx<'_>, lease: Lease) -> Result<(), Fault> {
    match held(tx, lease)? {
        Some(_) => Ok(()),
        None => Err(Error::new(ErrorKind::LeaseLost, "the job is another worker's by now: nothing was written").into()),
    }
}

pub(super) fn settle(tx: &mut Tx<'_>, settlement: &Settlement) -> Result<Settled, Fault> {
    let Some(job) = held(tx, settlement.lease)? else { return Ok(Settled::LeaseLost) };
    if settlement.effects.is_empty() && settlement.merges.is_empty() {
        // Nothing here can be refused half-way.
        return end_with(tx, &job, settlement, MergeCounts::default());
    }
    tx.nested(
        |tx| {
            for effect in &settlement.effects {
                if let Err(phrase) = product::run(tx, effect)? {
                    return Ok(Settled::EffectFailed(phrase));
                }
            }
            let (counts, fetch) = records::merge_all(tx, &settlement.merges, settlement.now)?;
            if !fetch.is_empty() {
                return Ok(Settled::Fetch(fetch));
            }
            end_with(tx, &job, settlement, counts)
        },
        |settled| matches!(settled, Settled::Committed(_)),
    )
}

fn end_with(tx: &mut Tx<'_>, job: &Held, settlement: &Settlement, counts: MergeCounts) -> Result<Settled, Fault> {
    end(tx, job, &settlement.end, settlement.now)?;
    for follow in &settlement.follow {
        enqueue(tx, follow)?;
    }
    Ok(Settled::Committed(counts))
}

fn end(tx: &mut Tx<'_>, job: &Held, how: &JobEnd, now: Timestamp) -> Result<(), Fault> {
    match how {
        JobEnd::Done => finish(tx, job, None, now),
        JobEnd::Dead { reason } => finish(tx, job, Some(reason), now),
        JobEnd::Retry { reason, .. } if job.attempt >= job.attempts_max => finish(tx, job, Some(reason), now),
        JobEnd::Retry { at, reason } => {
            if let Some(event) = job.event {
                inbox::set_reason(tx, event, reason)?;
            }
            tx.prepare(
                "UPDATE palisade_job SET state = 0, lease_until = NULL, run_at = ?2, reason = ?3 WHERE id = ?1",
            )?
            .execute(params![job.id, at.millis(), reason])?;
            waits_again(tx);
            Ok(())
        }
        JobEnd::Release => {
            let queue: i64 = tx
                .prepare(
                    "UPDATE palisade_job SET state = 0, lease_until = NULL, attempt = attempt - 1 WHERE id = ?1 \
                     RETURNING queue",
                )?
                .query_row([job.id], |row| row.get(0))?;
            waits_again(tx);
            tx.wake(queue_of(queue));
            Ok(())
        }
    }
}

fn waits_again(tx: &mut Tx<'_>) {
    tx.tally.jobs_running -= 1;
    tx.tally.jobs_waiting += 1;
}

/// Ends a running job for good (dead when there is a reason), its event with it, and lets the next of its lane go.
fn finish(tx: &mut Tx<'_>, job: &Held, dead: Option<&str>, now: Timestamp) -> Result<(), Fault> {
    tx.prepare(
        "UPDATE palisade_job SET state = ?2, lease_until = NULL, finished_at = ?3, reason = coalesce(?4, reason) \
         WHERE id = ?1",
    )?
    .execute(params![job.id, if dead.is_some() { DEAD } else { DONE }, now.millis(), dead])?;
    tx.tally.jobs_running -= 1;
    if dead.is_some() {
        tx.tally.jobs_dead += 1;
    }
    if let Some(event) = job.event {
        inbox::set_state(tx, event, if dead.is_some() { EventState::Dead } else { EventState::Done }, dead)?;
    }
    let Some(lane) = &job.lane else { return Ok(()) };
    let next = tx
        .prepare("SELECT id, queue FROM palisade_job WHERE lane = ?1 AND finished_at IS NULL ORDER BY id LIMIT 1")?
        .query_one([lane], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    if let Some((id, queue)) = next {
        tx.prepare("UPDATE palisade_job SET state = 0 WHERE id = ?1 AND state = 4")?.execute([id])?;
        tx.wake(queue_of(queue));
    }
    Ok(())
}

pub(super) fn extend(tx: &Tx<'_>, lease: Lease, until: Timestamp) -> Result<bool, Fault> {
    let extended = tx
        .prepare("UPDATE palisade_job SET lease_until = ?3 WHERE id = ?1 AND fence = ?2 AND state = 1")?
        .execute(params![lease.job.0, lease.fence, until.millis()])?;
    Ok(extended == 1)
}

/// Removes the dead jobs of an event that is replayed: they are no longer given up.
pub(super) fn forget_dead(tx: &mut Tx<'_>, event: i64) -> Result<(), Fault> {
    let gone = tx.prepare("DELETE FROM palisade_job WHERE event = ?1 AND state = 3")?.execute([event])?;
    tx.tally.jobs_dead -= i64::try_from(gone).unwrap_or(0);
    Ok(())
}

pub(super) fn prune(tx: &mut Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let mut statement = tx.prepare(
        "DELETE FROM palisade_job WHERE id IN (SELECT id FROM palisade_job WHERE finished_at IS NOT NULL \
         AND finished_at < ?1 ORDER BY finished_at, id LIMIT ?2) RETURNING state",
    )?;
    let mut rows = statement.query(params![before.millis(), limit])?;
    let mut gone = 0;
    while let Some(row) = rows.next()? {
        gone += 1;
        if row.get::<_, i64>(0)? == DEAD {
            tx.tally.jobs_dead -= 1;
        }
    }
    Ok(gone)
}

pub(super) fn counts(connection: &Connection) -> Result<JobCounts, Fault> {
    let tally = Tally::read(connection)?;
    Ok(JobCounts {
        waiting: tally.jobs_waiting.unsigned_abs(),
        running: tally.jobs_running.unsigned_abs(),
        dead: tally.jobs_dead.unsigned_abs(),
    })
}

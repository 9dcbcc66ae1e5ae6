//! The one job table.
//!
//! A job of a lane that is certain to be blocked whenever it is due waits in a state of its own ([`BEHIND`]), so that
//! a claim does not walk past it however long the lane is. It is certain when the lane's lowest unfinished job is due
//! no later, or was claimed before: both last until that job ends, and then [`promote`] looks again. Any other
//! job of a lane stands in line, and the claim asks the lane itself ([`is_blocked`]). Who stands in line and whose turn
//! it is: `turns`.

use palisade_core::store::outbox::CALL_WAITS;
use palisade_core::store::{
    CallId, Claim, Claimed, EventRow, EventState, JobCounts, JobEnd, JobId, Lease, LiveJob, NewJob, Queue, RunMode,
    Settled, Settlement, WORKER_LOST, Work,
};
use palisade_core::{Error, ErrorKind, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Fault, unreadable};
use super::halts::Halts;
use super::records::Staged;
use super::turns::{self, Due, Place};
use super::writer::{Tally, Tx};
use super::{dead_forwards, inbox, lanes, outbox, product, records, runs};

/// Stands in line.
pub(super) const READY: i64 = 0;
const RUNNING: i64 = 1;
const DEAD: i64 = 3;
/// Waits behind the lowest job of its lane.
const BEHIND: i64 = 4;
/// Waits for its moment.
pub(super) const LATER: i64 = 5;
/// Waits for its event's connection to be resumed.
pub(super) const PARKED: i64 = 6;

/// Why a job is dead that nobody can work on.
const UNREADABLE: &str = "what it is to do cannot be read: was the database changed by hand?";

pub(super) fn queue_number(queue: Queue) -> i64 {
    match queue {
        Queue::Events => 0,
        Queue::Background => 1,
        Queue::Calls => 2,
        Queue::Forwards => 3,
    }
}

pub(super) fn queue_of(number: i64) -> Queue {
    match number {
        0 => Queue::Events,
        2 => Queue::Calls,
        3 => Queue::Forwards,
        _ => Queue::Background,
    }
}

/// Roughly how many bytes a settlement holds in memory.
pub(super) fn bytes(settlement: &Settlement) -> usize {
    let merges: usize = settlement.merges.iter().map(|merge| records::bytes(&merge.changes)).sum();
    let effects: usize = settlement.effects.iter().map(product::bytes).sum();
    merges + effects + outbox::change_bytes(&settlement.outbox) + inbox::COMMAND_BYTES
}

/// A job to insert, borrowed.
pub(super) struct Insert<'j> {
    pub(super) queue: Queue,
    pub(super) event: Option<i64>,
    pub(super) work: Option<&'j str>,
    pub(super) lane: Option<&'j str>,
    pub(super) group: &'j str,
    pub(super) tenant: &'j str,
    pub(super) unique: Option<&'j str>,
    pub(super) priority: i32,
    pub(super) run_at: Timestamp,
    pub(super) attempts_max: u32,
}

const INSERT: &str = "INSERT INTO palisade_job (id, state, queue, priority, run_at, attempts_max, event, lane, \
     unique_key, work, grp, tenant, turn) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

/// Adds a job; `now` lets it into line at once if it is due.
pub(super) fn insert(tx: &mut Tx<'_>, job: &Insert<'_>, now: Option<Timestamp>) -> Result<JobId, Fault> {
    let behind = match job.lane {
        None => false,
        Some(lane) => {
            lanes::lowest(tx, lane)?.is_some_and(|lowest| lowest.tried || lowest.run_at <= job.run_at.millis())
        }
    };
    let queue = queue_number(job.queue);
    let (state, turn) = if behind {
        (BEHIND, 0)
    } else {
        let place = Place { queue, priority: job.priority.into(), group: job.group, tenant: job.tenant };
        turns::enter(tx, place, job.run_at.millis(), now.map(Timestamp::millis))?
    };
    let id = tx.tally.job_last + 1;
    tx.hot(INSERT)?.execute(params![
        id,
        state,
        queue,
        job.priority,
        job.run_at.millis(),
        job.attempts_max,
        job.event,
        job.lane,
        job.unique,
        job.work,
        job.group,
        job.tenant,
        turn,
    ])?;
    tx.tally.job_last = id;
    tx.tail.add(id, job.lane);
    tx.turns.added(id);
    tx.tally.jobs_waiting += 1;
    if !behind {
        tx.wake(job.queue);
    }
    Ok(JobId(id))
}

/// Lets jobs of a lane out of [`BEHIND`] after one of its jobs has `ended`, or was moved.
pub(super) fn promote(tx: &mut Tx<'_>, lane: &str, ended: Option<i64>, now: Timestamp) -> Result<(), Fault> {
    let Some(lowest) = lanes::lowest_but(tx, lane, ended)? else { return Ok(()) };
    turns::promote(tx, lane, lowest.id, lowest.run_at, now.millis())?;
    tx.wake(queue_of(lowest.queue));
    Ok(())
}

/// Tells whether another job of the lane keeps `id` from running at `now`.
fn is_blocked(tx: &Tx<'_>, lane: &str, id: i64, now: Timestamp) -> Result<bool, Fault> {
    // Looked for among those that run, of which there are as many as workers hold: an index over their lanes would be
    // written twice for each job, and asked for few.
    let held = tx
        .prepare(
            "SELECT 1 FROM palisade_job INDEXED BY palisade_job_leased WHERE queue IN (0, 1, 2, 3) AND state = 1 \
             AND lease_until > ?3 AND lane = ?1 AND id <> ?2 LIMIT 1",
        )?
        .exists(params![lane, id, now.millis()])?;
    Ok(held || lanes::has_lower(tx, lane, id, now.millis())?)
}

/// Adds a job, or pulls the one with its unique key forward. It enters the line by the claim that finds it due.
pub(super) fn enqueue(tx: &mut Tx<'_>, job: &NewJob) -> Result<JobId, Fault> {
    enqueue_at(tx, job, None)
}

/// Adds a job, or pulls the one with its unique key forward; it enters the line at once if it is due `now`.
pub(super) fn enqueue_at(tx: &mut Tx<'_>, job: &NewJob, now: Option<Timestamp>) -> Result<JobId, Fault> {
    if let Some(key) = &job.unique
        && let Some(there) = pull_forward(tx, key, job.run_at, now)?
    {
        return Ok(there);
    }
    if let Work::Forward { row, destination } = &job.work {
        dead_forwards::dismiss(tx, destination, *row)?;
    }
    let (event, work) = if let Work::Event { row } = job.work {
        (Some(row.0), None)
    } else {
        let json = serde_json::to_string(&job.work).map_err(|error| {
            Error::new(ErrorKind::Store, "the work of a job cannot be written as JSON").with_source(error)
        })?;
        (None, Some(json))
    };
    insert(
        tx,
        &Insert {
            queue: job.work.queue(),
            event,
            work: work.as_deref(),
            lane: job.lane.as_deref(),
            group: job.group.as_deref().unwrap_or_default(),
            tenant: job.tenant.as_ref().map_or("", |tenant| tenant.as_str()),
            unique: job.unique.as_deref(),
            priority: job.priority,
            run_at: job.run_at,
            attempts_max: job.attempts_max,
        },
        now,
    )
}

/// Finds the unfinished job of a unique key and lets it run earlier if it waits.
fn pull_forward(tx: &mut Tx<'_>, key: &str, run_at: Timestamp, now: Option<Timestamp>) -> Result<Option<JobId>, Fault> {
    let sql = format!("SELECT {HELD}, state, run_at FROM palisade_job WHERE unique_key = ?1 AND finished_at IS NULL");
    let there = tx
        .prepare(&sql)?
        .query_one([key], |row| Ok((Held::read(row)?, row.get::<_, i64>("state")?, row.get::<_, i64>("run_at")?)))
        .optional()?;
    let Some((job, state, before)) = there else { return Ok(None) };
    let run_at = run_at.millis();
    if state != RUNNING && run_at < before {
        let (state, turn) = match state {
            LATER | BEHIND => {
                let (state, turn) = turns::enter(tx, job.place(), run_at, now.map(Timestamp::millis))?;
                (state, Some(turn))
            }
            in_line => (in_line, None),
        };
        tx.prepare("UPDATE palisade_job SET run_at = ?2, state = ?3, turn = coalesce(?4, turn) WHERE id = ?1")?
            .execute(params![job.id, run_at, state, turn])?;
        tx.wake(queue_of(job.queue));
    }
    Ok(Some(JobId(job.id)))
}

// -------------------------------------------------------------------------------------------------------- claim

pub(super) fn claim(tx: &mut Tx<'_>, claim: &Claim) -> Result<Vec<Claimed>, Fault> {
    let queue = queue_number(claim.queue);
    let lost = expired(tx, queue, claim.now)?;
    let halts = if claim.queue == Queue::Events { Halts::read(tx)? } else { Halts::default() };
    if claim.max == 0 || halts.all {
        return Ok(Vec::new());
    }
    turns::gather(tx, claim.queue, claim.now.millis(), &halts)?;
    let chosen = turns::choose(tx, claim, &halts, lost)?;
    let mut claimed = Vec::with_capacity(chosen.len());
    for (job, group) in chosen {
        claimed.extend(take(tx, job, group, claim)?);
    }
    Ok(claimed)
}

/// Jobs whose lease ran out: the columns of [`Held::read`], then what else a claim needs.
const EXPIRED: &str = "SELECT id, lane, event, attempt, attempts_max, queue, priority, grp, tenant, turn, fence, waits, \
     waits_from, work FROM palisade_job WHERE queue = ?1 AND state = 1 AND lease_until <= ?2";

/// Buries jobs whose lease ran out in their last attempt, and returns the others whose lease ran out, by turn, with their
/// groups.
fn expired(tx: &mut Tx<'_>, queue: i64, now: Timestamp) -> Result<Vec<(Due, String)>, Fault> {
    let (mut spent, mut lost) = (Vec::new(), Vec::new());
    {
        let mut rows = tx.hot(EXPIRED)?.query(params![queue, now.millis()])?;
        while let Some(row) = rows.next()? {
            let held = Held::read(row)?;
            if held.attempt >= held.attempts_max {
                spent.push(held);
                continue;
            }
            let due = Due {
                id: held.id,
                expired: true,
                priority: held.priority,
                turn: row.get(9)?,
                lane: held.lane,
                fence: row.get(10)?,
                attempt: row.get(3)?,
                attempts_max: row.get(4)?,
                waits: row.get(11)?,
                waits_from: row.get(12)?,
                work: work_of(held.event, row.get_ref(13)?).ok(),
            };
            lost.push((due, held.group));
        }
    }
    spent.sort_unstable_by_key(|job| job.id);
    for job in spent {
        bury(tx, &job, WORKER_LOST, now)?;
    }
    lost.sort_unstable_by_key(|(due, _)| (due.turn, due.id));
    Ok(lost)
}

/// Gives up a job at a claim; whoever claims tells of it once that is committed.
fn bury(tx: &mut Tx<'_>, job: &Held, reason: &'static str, now: Timestamp) -> Result<(), Fault> {
    tx.buried.push((JobId(job.id), reason));
    finish(tx, job, Some(reason), now)
}

/// Tells whether a job's lane lets it run.
pub(super) fn is_free(tx: &mut Tx<'_>, lane: Option<&str>, id: i64, now: Timestamp) -> Result<bool, Fault> {
    match lane {
        Some(lane) => Ok(lanes::is_alone(tx, lane, id)? || !is_blocked(tx, lane, id, now)?),
        None => Ok(true),
    }
}

const REMOVE: &str = "DELETE FROM palisade_job WHERE id = ?1";
const TAKE: &str = "UPDATE palisade_job SET state = 1, attempt = attempt + 1, fence = fence + 1, lease_until = ?2 \
     WHERE id = ?1";

/// Takes a job, or buries one whose work cannot be read: it would keep all others of its queue from being claimed.
fn take(tx: &mut Tx<'_>, job: Due, group: String, claim: &Claim) -> Result<Option<Claimed>, Fault> {
    let until = claim.now.plus(claim.hold);
    // What it says was read when it was chosen. A statement with RETURNING keeps a journal of its own in SQLite.
    tx.hot(TAKE)?.execute(params![job.id, until.millis()])?;
    if !job.expired {
        tx.tally.jobs_waiting -= 1;
        tx.tally.jobs_running += 1;
    }
    let lease = Lease { job: JobId(job.id), fence: job.fence + 1 };
    let Some(work) = job.work else {
        if let Some(held) = held(tx, lease)? {
            bury(tx, &held, UNREADABLE, claim.now)?;
        }
        // A worker that was given fewer than it asked for takes it that no more are due.
        tx.wake(claim.queue);
        return Ok(None);
    };
    Ok(Some(Claimed {
        lease,
        attempt: job.attempt + 1,
        attempts_max: job.attempts_max,
        waits: job.waits,
        waits_from: job.waits_from.map(Timestamp),
        work,
        group: Some(group).filter(|group| !group.is_empty()),
        until,
    }))
}

/// Reads what a job does from its columns `event` and `work`.
pub(super) fn work_of(event: Option<i64>, work: ValueRef<'_>) -> Result<Work, Error> {
    let Some(event) = event else {
        let json = work.as_str().map_err(|_| unreadable("job"))?;
        return serde_json::from_str(json).map_err(|_| unreadable("job"));
    };
    Ok(Work::Event { row: EventRow(event) })
}

// ------------------------------------------------------------------------------------------------------- settle

/// A running job as far as ending it needs.
struct Held {
    id: i64,
    lane: Option<String>,
    event: Option<i64>,
    attempt: i64,
    attempts_max: i64,
    queue: i64,
    priority: i64,
    group: String,
    tenant: String,
}

/// The columns of [`Held::read`].
const HELD: &str = "id, lane, event, attempt, attempts_max, queue, priority, grp, tenant";

impl Held {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            lane: row.get(1)?,
            event: row.get(2)?,
            attempt: row.get(3)?,
            attempts_max: row.get(4)?,
            queue: row.get(5)?,
            priority: row.get(6)?,
            group: row.get(7)?,
            tenant: row.get(8)?,
        })
    }

    fn place(&self) -> Place<'_> {
        Place { queue: self.queue, priority: self.priority, group: &self.group, tenant: &self.tenant }
    }
}

/// Reads the job if the lease still holds it.
fn held(tx: &mut Tx<'_>, lease: Lease) -> Result<Option<Held>, Fault> {
    let sql = "SELECT id, lane, event, attempt, attempts_max, queue, priority, grp, tenant FROM palisade_job \
               WHERE id = ?1 AND fence = ?2 AND state = 1";
    Ok(tx.hot(sql)?.query_one([lease.job.0, lease.fence], Held::read).optional()?)
}

/// Refuses when the lease is another worker's by now.
pub(super) fn require(tx: &Tx<'_>, lease: Lease) -> Result<(), Fault> {
    let sql = "SELECT 1 FROM palisade_job WHERE id = ?1 AND fence = ?2 AND state = 1";
    if tx.prepare(sql)?.exists(params![lease.job.0, lease.fence])? { Ok(()) } else { Err(lost()) }
}

/// Tells whether the lease is good and of a call of the outbox.
pub(super) fn works_on(tx: &Tx<'_>, lease: Lease, call: CallId) -> Result<bool, Fault> {
    let mut statement =
        tx.prepare("SELECT event, work FROM palisade_job WHERE id = ?1 AND fence = ?2 AND state = 1")?;
    let mut rows = statement.query(params![lease.job.0, lease.fence])?;
    let Some(row) = rows.next()? else { return Ok(false) };
    Ok(work_of(row.get(0)?, row.get_ref(1)?)? == Work::Call { call })
}

fn lost() -> Fault {
    Error::new(ErrorKind::LeaseLost, "the job is another worker's by now: nothing was written").into()
}

pub(super) fn settle(tx: &mut Tx<'_>, settlement: &Settlement) -> Result<Settled, Fault> {
    let Some(job) = held(tx, settlement.lease)? else { return Ok(Settled::LeaseLost) };
    let staged = Staged::new(tx, &settlement.merges, settlement.now)?;
    if !staged.fetch.is_empty() {
        return Ok(Settled::Fetch(staged.fetch()));
    }
    let commit = |tx: &mut Tx<'_>| {
        let counts = staged.commit(tx)?;
        for effect in &settlement.effects {
            if let Err(phrase) = product::run(tx, effect)? {
                return Ok(Settled::EffectFailed(phrase));
            }
        }
        if let Err(phrase) = outbox::settle(tx, &settlement.outbox, settlement.now)? {
            return Ok(Settled::EffectFailed(phrase));
        }
        end(tx, &job, &settlement.end, settlement.now)?;
        for follow in &settlement.follow {
            enqueue_at(tx, follow, Some(settlement.now))?;
        }
        Ok(Settled::Committed(counts))
    };
    if settlement.effects.is_empty() && settlement.outbox.add.is_empty() {
        // Nothing is left that could be refused half-way.
        return commit(tx);
    }
    tx.nested(commit, |settled| matches!(settled, Settled::Committed(_)))
}

/// Ends a held job as done, for what ends together with it.
pub(super) fn done(tx: &mut Tx<'_>, lease: Lease, now: Timestamp) -> Result<(), Fault> {
    match held(tx, lease)? {
        Some(job) => end(tx, &job, &JobEnd::Done, now),
        None => Err(lost()),
    }
}

fn end(tx: &mut Tx<'_>, job: &Held, how: &JobEnd, now: Timestamp) -> Result<(), Fault> {
    match how {
        JobEnd::Done if waits_for(tx, job)? => {
            let reason = CALL_WAITS.to_owned();
            end(tx, job, &JobEnd::Retry { at: now, reason }, now)
        }
        JobEnd::Done => finish(tx, job, None, now),
        JobEnd::Ignored => {
            finish(tx, job, None, now)?;
            job.event.map_or(Ok(()), |event| inbox::set_state(tx, event, EventState::Ignored, None, now))
        }
        JobEnd::Dead { reason } => finish(tx, job, Some(reason), now),
        JobEnd::Retry { reason, .. } if job.attempt >= job.attempts_max => finish(tx, job, Some(reason), now),
        JobEnd::Retry { at, reason } => again(tx, job, *at, reason, now),
        JobEnd::Wait { at, reason, anew } => {
            let sql = if *anew {
                "UPDATE palisade_job SET attempt = 0, waits = 1, waits_from = ?2 WHERE id = ?1"
            } else {
                "UPDATE palisade_job SET attempt = attempt - 1, waits = waits + 1, \
                 waits_from = coalesce(waits_from, ?2) WHERE id = ?1"
            };
            tx.prepare(sql)?.execute(params![job.id, now.millis()])?;
            again(tx, job, *at, reason, now)
        }
        JobEnd::Release => {
            tx.prepare("UPDATE palisade_job SET state = 0, lease_until = NULL, attempt = attempt - 1 WHERE id = ?1")?
                .execute([job.id])?;
            waits_again(tx, job);
            Ok(())
        }
    }
}

/// Lets a held job come again.
fn again(tx: &mut Tx<'_>, job: &Held, at: Timestamp, reason: &str, now: Timestamp) -> Result<(), Fault> {
    if let Some(event) = job.event {
        inbox::set_state(tx, event, EventState::Pending, Some(reason), now)?;
    }
    let (state, turn) = turns::enter(tx, job.place(), at.millis(), Some(now.millis()))?;
    tx.prepare(
        "UPDATE palisade_job SET state = ?4, turn = ?5, lease_until = NULL, run_at = ?2, reason = ?3 WHERE id = ?1",
    )?
    .execute(params![job.id, at.millis(), reason, state, turn])?;
    waits_again(tx, job);
    Ok(())
}

/// Tells whether the job is that of a call which waits by now, so that it cannot be done.
fn waits_for(tx: &Tx<'_>, job: &Held) -> Result<bool, Fault> {
    if job.queue != queue_number(Queue::Calls) {
        return Ok(false);
    }
    let work: Option<String> =
        tx.prepare("SELECT work FROM palisade_job WHERE id = ?1")?.query_row([job.id], |row| row.get(0))?;
    let work = work.map(|work| serde_json::from_str(&work)).transpose().map_err(|_| unreadable("job"))?;
    if let Some(Work::Call { call }) = work { outbox::is_waiting(tx, call) } else { Ok(false) }
}

fn waits_again(tx: &mut Tx<'_>, job: &Held) {
    tx.tally.jobs_running -= 1;
    tx.tally.jobs_waiting += 1;
    tx.wake(queue_of(job.queue));
}

/// Ends a running job for good (dead when there is a reason) with what follows its end elsewhere. Of one that is done
/// no row is kept: nobody asks for it, and one that stays is written once more, grows the table that claims go to, and has
/// to be removed later.
fn finish(tx: &mut Tx<'_>, job: &Held, dead: Option<&str>, now: Timestamp) -> Result<(), Fault> {
    let work = match dead {
        Some(reason) => tx
            .prepare(
                "UPDATE palisade_job SET state = 3, lease_until = NULL, finished_at = ?2, reason = ?3 WHERE id = ?1 \
                 RETURNING event, work",
            )?
            // Of work that cannot be read nothing is known that would end with it.
            .query_row(params![job.id, now.millis(), reason], |row| Ok(work_of(row.get(0)?, row.get_ref(1)?).ok()))?,
        None => {
            tx.hot(REMOVE)?.execute([job.id])?;
            None
        }
    };
    tx.tally.jobs_running -= 1;
    if let Some(reason) = dead {
        tx.tally.jobs_dead += 1;
        if let Some(work) = work {
            match work {
                Work::Sync { key, mode } => runs::fail_run(tx, &key, mode, reason, now)?,
                Work::Approved { key, .. } => runs::fail_run(tx, &key, RunMode::Full, reason, now)?,
                Work::Call { call } => outbox::job_died(tx, call, reason, now)?,
                Work::Forward { row, destination } => {
                    dead_forwards::add(tx, &destination, row, job.id, reason, now)?;
                }
                Work::Event { .. } | Work::Watch { .. } | Work::Retention | Work::Replay { .. } | _ => {}
            }
        }
    }
    if let (Some(event), true) = (job.event, dead.is_some()) {
        tx.prepare("INSERT OR REPLACE INTO palisade_dead_letter VALUES (?1, ?2)")?.execute([event, job.id])?;
    }
    if let Some(event) = job.event {
        match dead {
            Some(_) => inbox::set_state(tx, event, EventState::Dead, dead, now)?,
            None => inbox::set_done(tx, event, now)?,
        }
    }
    let Some(lane) = &job.lane else { return Ok(()) };
    lanes::finished(tx, lane, job.id)?;
    promote(tx, lane, Some(job.id), now)
}

/// Forgets the job an event died with.
pub(super) fn seen_to(tx: &mut Tx<'_>, event: i64) -> Result<(), Fault> {
    let job: Option<i64> = tx
        .prepare("DELETE FROM palisade_dead_letter WHERE event = ?1 RETURNING job")?
        .query_row([event], |row| row.get(0))
        .optional()?;
    job.map_or(Ok(()), |job| seen(tx, job))
}

/// Removes a job that died.
pub(super) fn seen(tx: &mut Tx<'_>, job: i64) -> Result<(), Fault> {
    let gone = tx.prepare("DELETE FROM palisade_job WHERE id = ?1 AND state = 3")?.execute([job])?;
    tx.tally.jobs_dead -= i64::from(gone == 1);
    Ok(())
}

pub(super) fn extend(tx: &Tx<'_>, lease: Lease, until: Timestamp) -> Result<bool, Fault> {
    let extended = tx
        .prepare("UPDATE palisade_job SET lease_until = ?3 WHERE id = ?1 AND fence = ?2 AND state = 1")?
        .execute(params![lease.job.0, lease.fence, until.millis()])?;
    Ok(extended == 1)
}

pub(super) fn prune(tx: &mut Tx<'_>, before: Timestamp, limit: u32) -> Result<u64, Fault> {
    let sql = "SELECT id FROM palisade_job INDEXED BY palisade_job_finished \
               WHERE finished_at IS NOT NULL AND finished_at < ?1 ORDER BY finished_at, id LIMIT ?2";
    let rows = inbox::prunable(tx, sql, before, limit)?;
    for row in &rows {
        let state: i64 =
            tx.prepare("DELETE FROM palisade_job WHERE id = ?1 RETURNING state")?.query_row([row], |row| row.get(0))?;
        tx.tally.jobs_dead -= i64::from(state == DEAD);
    }
    Ok(rows.len() as u64)
}

/// Finds the jobs of events that are not finished: each term is a range of a partial index that holds few others. Only the
/// lanes of events begin with `event/` ([`Inbox::append`](palisade_core::store::Inbox::append)).
pub(super) const AT_WORK: &str = "SELECT event FROM palisade_job WHERE queue = 0 AND state = 0 AND event IS NOT NULL \
     UNION ALL SELECT event FROM palisade_job WHERE queue = 0 AND state = 1 AND event IS NOT NULL \
     UNION ALL SELECT event FROM palisade_job WHERE queue = 0 AND state = 5 AND event IS NOT NULL \
     UNION ALL SELECT event FROM palisade_job WHERE state = 6 AND event IS NOT NULL \
     UNION ALL SELECT event FROM palisade_job WHERE lane >= 'event/' AND lane < 'event0' AND state = 4 \
     AND event IS NOT NULL";

/// Returns the events of unfinished jobs, in no order, an event perhaps more than once.
pub(super) fn events_at_work(connection: &Connection) -> Result<Vec<i64>, Fault> {
    let mut statement = connection.prepare_cached(AT_WORK)?;
    let found = statement.query_map([], |row| row.get(0))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

/// Finds since when the job has been due that has waited longest.
pub(super) fn oldest_due(connection: &Connection, queue: Queue, now: Timestamp) -> Result<Option<Timestamp>, Fault> {
    let oldest = turns::oldest(connection, queue_number(queue))?;
    Ok(oldest.map(Timestamp).filter(|run_at| *run_at <= now))
}

/// Reads the unfinished job of a unique key.
pub(super) fn live(connection: &Connection, unique: &str) -> Result<Option<LiveJob>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT event, work, run_at, reason FROM palisade_job WHERE unique_key = ?1 AND finished_at IS NULL",
    )?;
    let mut rows = statement.query([unique])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let work = work_of(row.get(0)?, row.get_ref(1)?)?;
    Ok(Some(LiveJob { work, run_at: Timestamp(row.get(2)?), reason: row.get(3)? }))
}

pub(super) fn counts(connection: &Connection) -> Result<JobCounts, Fault> {
    let tally = Tally::read(connection)?;
    Ok(JobCounts {
        waiting: tally.jobs_waiting.unsigned_abs(),
        running: tally.jobs_running.unsigned_abs(),
        dead: tally.jobs_dead.unsigned_abs(),
    })
}

//! Which unfinished jobs are in a lane.
//!
//! Every job with a lane asks this when it is added, claimed and finished, and a lane is often one object of a provider:
//! as many lanes as jobs, in no order. An index of them costs each job a page of its own in the log. So the lanes of the
//! newest jobs are kept in mind ([`Tail`]) and entered in the table `palisade_lane` in large, sorted lots, and only those
//! of jobs that are still unfinished by then: with workers that keep up, none.
//!
//! `lane_to` in the tally divides the two: every unfinished job up to it is in the table, none after it. It is never more
//! than [`SPAN_MAX`] jobs back, which bounds the memory and what is read when the store is opened. The tail is only a
//! memory of rows: what it names is looked up, and after a rollback it is read anew. Another process's jobs are found by
//! the tally's newest job, which every transaction reads.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::iter;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::error::Fault;
use super::writer::{Tally, Tx};

/// Most jobs after `lane_to`. Few in a debug build, so that the tests' jobs get beyond it.
const SPAN_MAX: i64 = if cfg!(debug_assertions) { 16 } else { 16_384 };

/// The lanes of the jobs after `lane_to`, in ascending order in each lane.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The newest job this knows of.
    known_to: i64,
    /// In ascending order; without its lane where it was removed from the middle. The first and the last have theirs.
    jobs: VecDeque<(i64, Option<Arc<str>>)>,
    lanes: HashMap<Arc<str>, Lane>,
    /// Finished in the transaction under way.
    finished: Vec<i64>,
}

/// The jobs of a lane, lowest first. Most lanes have one.
#[derive(Debug)]
struct Lane {
    first: i64,
    later: VecDeque<i64>,
}

/// Where a tail stood.
#[derive(Clone, Copy)]
pub(super) struct Mark(usize);

impl Tail {
    /// Takes up what other processes have done since the last transaction.
    pub(super) fn catch_up(&mut self, connection: &Connection, tally: &Tally) -> rusqlite::Result<()> {
        self.drop_to(tally.lane_to);
        if self.known_to >= tally.job_last {
            return Ok(());
        }
        let mut newer = connection.prepare_cached(
            "SELECT id, lane FROM palisade_job WHERE id > ?1 AND lane IS NOT NULL AND finished_at IS NULL ORDER BY id",
        )?;
        let mut rows = newer.query([self.known_to.max(tally.lane_to)])?;
        while let Some(row) = rows.next()? {
            self.add(row.get(0)?, Some(&row.get::<_, String>(1)?));
        }
        self.known_to = tally.job_last;
        Ok(())
    }

    /// Notes a new job.
    pub(super) fn add(&mut self, job: i64, lane: Option<&str>) {
        self.known_to = job;
        let Some(lane) = lane else { return };
        let lane = match self.lanes.entry(Arc::from(lane)) {
            Entry::Vacant(new) => {
                let lane = Arc::clone(new.key());
                new.insert(Lane { first: job, later: VecDeque::new() });
                lane
            }
            Entry::Occupied(mut known) => {
                known.get_mut().later.push_back(job);
                Arc::clone(known.key())
            }
        };
        self.jobs.push_back((job, Some(lane)));
    }

    /// Returns a lane's jobs, lowest first; some may be finished.
    fn of(&self, lane: &str) -> impl Iterator<Item = i64> + use<'_> {
        self.lanes.get(lane).into_iter().flat_map(|Lane { first, later }| iter::once(first).chain(later).copied())
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.finished.len())
    }

    /// Forgets what was done since the mark, when `job_last` was the newest job.
    pub(super) fn back_to(&mut self, mark: Mark, job_last: i64) {
        self.finished.truncate(mark.0);
        while let Some(&(job, _)) = self.jobs.back().filter(|(job, _)| *job > job_last) {
            self.remove(job);
        }
        self.known_to = self.known_to.min(job_last);
    }

    /// Forgets the jobs that the transaction, which is committed, has finished.
    pub(super) fn committed(&mut self) {
        for job in std::mem::take(&mut self.finished) {
            self.remove(job);
        }
    }

    fn drop_to(&mut self, to: i64) {
        while let Some(&(job, _)) = self.jobs.front().filter(|(job, _)| *job <= to) {
            self.remove(job);
        }
    }

    fn remove(&mut self, job: i64) {
        let found = self.jobs.binary_search_by_key(&job, |(job, _)| *job).ok();
        let Some(lane) = found.and_then(|at| self.jobs.get_mut(at)?.1.take()) else { return };
        while self.jobs.pop_front_if(|(_, lane)| lane.is_none()).is_some() {}
        while self.jobs.pop_back_if(|(_, lane)| lane.is_none()).is_some() {}
        let Entry::Occupied(mut known) = self.lanes.entry(lane) else { return };
        let Lane { first, later } = known.get_mut();
        if *first != job {
            later.retain(|one| *one != job);
        } else if let Some(next) = later.pop_front() {
            *first = next;
        } else {
            known.remove();
        }
    }
}

/// The unfinished job of a lane with the smallest number.
pub(super) struct Lowest {
    pub(super) id: i64,
    pub(super) queue: i64,
    pub(super) run_at: i64,
    /// It waits after it was claimed.
    pub(super) tried: bool,
}

const ENTERED: &str = "SELECT j.id, j.queue, j.run_at, j.state <> 1 AND j.fence > 0 FROM palisade_lane l \
     CROSS JOIN palisade_job j ON j.id = l.job WHERE l.lane = ?1 ORDER BY l.job LIMIT 1";

/// Returns the lowest unfinished job of a lane, of which one may just have been finished.
pub(super) fn lowest_but(tx: &mut Tx<'_>, lane: &str, finished: Option<i64>) -> Result<Option<Lowest>, Fault> {
    // Most lanes have no other job: nothing is looked up then.
    if tx.tally.lane_jobs == 0 && tx.tail.of(lane).all(|job| Some(job) == finished) {
        return Ok(None);
    }
    lowest(tx, lane)
}

/// Tells whether the lane has no unfinished job but this one. `false` may also mean that it takes a longer look.
pub(super) fn is_alone(tx: &mut Tx<'_>, lane: &str, job: i64) -> Result<bool, Fault> {
    let entered = "SELECT 1 FROM palisade_lane WHERE lane = ?1 AND job <> ?2 LIMIT 1";
    Ok(tx.tail.of(lane).all(|other| other == job)
        && (tx.tally.lane_jobs == 0 || !tx.hot(entered)?.exists(params![lane, job])?))
}

pub(super) fn lowest(tx: &mut Tx<'_>, lane: &str) -> Result<Option<Lowest>, Fault> {
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Lowest { id: row.get(0)?, queue: row.get(1)?, run_at: row.get(2)?, tried: row.get(3)? })
    };
    if tx.tally.lane_jobs > 0 {
        let entered = tx.hot(ENTERED)?.query_one([lane], read).optional()?;
        if entered.is_some() {
            return Ok(entered);
        }
    }
    for job in tx.tail.of(lane) {
        let there = tx
            .prepare(
                "SELECT id, queue, run_at, state <> 1 AND fence > 0 FROM palisade_job \
                 WHERE id = ?1 AND finished_at IS NULL",
            )?
            .query_one([job], read)
            .optional()?;
        if there.is_some() {
            return Ok(there);
        }
    }
    Ok(None)
}

/// Tells whether a lower unfinished job of the lane is running, in line, halted, due at `now`, or was claimed
/// before.
pub(super) fn has_lower(tx: &Tx<'_>, lane: &str, id: i64, now: i64) -> Result<bool, Fault> {
    if tx.tally.lane_jobs > 0
        && tx
            .prepare(
                "SELECT 1 FROM palisade_lane l CROSS JOIN palisade_job j ON j.id = l.job \
                 WHERE l.lane = ?1 AND l.job < ?2 AND (j.state IN (0, 1, 6) OR j.run_at <= ?3 OR j.fence > 0) \
                 LIMIT 1",
            )?
            .exists(params![lane, id, now])?
    {
        return Ok(true);
    }
    for job in tx.tail.of(lane).take_while(|job| *job < id) {
        let holds = tx
            .prepare(
                "SELECT 1 FROM palisade_job WHERE id = ?1 AND finished_at IS NULL \
                 AND (state IN (0, 1, 6) OR run_at <= ?2 OR fence > 0)",
            )?
            .exists(params![job, now])?;
        if holds {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Notes that a job of a lane is finished.
pub(super) fn finished(tx: &mut Tx<'_>, lane: &str, job: i64) -> Result<(), Fault> {
    if job > tx.tally.lane_to {
        tx.tail.finished.push(job);
        return Ok(());
    }
    let gone = tx.prepare("DELETE FROM palisade_lane WHERE lane = ?1 AND job = ?2")?.execute(params![lane, job])?;
    tx.tally.lane_jobs -= i64::from(gone == 1);
    Ok(())
}

/// Moves `lane_to` on at the end of a transaction: past what is finished, and past the older half when the jobs after it
/// are too many.
pub(super) fn move_on(tx: &mut Tx<'_>) -> rusqlite::Result<()> {
    let job_last = tx.tally.job_last;
    let before_first = tx.tail.jobs.front().map_or(job_last, |(first, _)| first - 1);
    tx.tally.lane_to = tx.tally.lane_to.max(before_first.min(job_last));
    if job_last - tx.tally.lane_to <= SPAN_MAX {
        return Ok(());
    }
    let to = job_last - SPAN_MAX / 2;
    let entered = tx
        .prepare(
            "INSERT INTO palisade_lane SELECT lane, id FROM palisade_job \
             WHERE id > ?1 AND id <= ?2 AND lane IS NOT NULL AND finished_at IS NULL ORDER BY lane, id",
        )?
        .execute([tx.tally.lane_to, to])?;
    tx.tally.lane_jobs += i64::try_from(entered).unwrap_or(i64::MAX);
    tx.tally.lane_to = to;
    tx.tail.drop_to(to);
    Ok(())
}

#[cfg(test)]
mod tests {
    use palisade_core::random::{Random, SeededRandom};

    use super::*;

    /// Fails when a job is forgotten, kept or put into another lane, in whatever order jobs are removed.
    #[test]
    fn a_tail_knows_what_a_plain_list_knows() {
        for seed in 0..200 {
            let random = SeededRandom::new(seed);
            let below = |limit: u64| random.bits() % limit;
            let (mut tail, mut plain) = (Tail::default(), Vec::<(i64, String)>::new());
            for job in 1..=200_i64 {
                let lane = format!("lane {}", below(12));
                tail.add(job, (below(5) > 0).then_some(&lane));
                if tail.jobs.back().is_some_and(|(last, _)| *last == job) {
                    plain.push((job, lane));
                }
                for _ in 0..below(4) {
                    let gone = below(job.unsigned_abs() + 1).cast_signed();
                    tail.remove(gone);
                    plain.retain(|(one, _)| *one != gone);
                }
                if below(40) == 0 {
                    let to = job - 20;
                    tail.drop_to(to);
                    plain.retain(|(one, _)| *one > to);
                }
                let ends = (tail.jobs.front().map(|(one, _)| *one), tail.jobs.back().map(|(one, _)| *one));
                assert_eq!(ends, (plain.first().map(|one| one.0), plain.last().map(|one| one.0)), "seed {seed}");
                for number in 0..12 {
                    let lane = format!("lane {number}");
                    let wanted: Vec<i64> = plain.iter().filter(|one| one.1 == lane).map(|one| one.0).collect();
                    assert_eq!(tail.of(&lane).collect::<Vec<_>>(), wanted, "seed {seed}, job {job}, {lane}");
                }
                assert!(tail.lanes.len() <= 12, "seed {seed}");
            }
        }
    }
}

//! Whose turn it is: what stands in line, who enters it, and in what order it is claimed. The contract is at
//! [`palisade_core::store::Jobs::claim`].
//!
//! The turn given last to somebody matters only while it is not passed, and then the job that has it stands in line: so
//! these are a memory of rows ([`Turns`]), which is read anew when the store is opened and bounded by who waits. What
//! another process appends is taken up as it is found.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use palisade_core::store::{Claim, LINED_UP_MAX, Queue, Work};
use rusqlite::{Connection, OptionalExtension, params};

use super::error::Fault;
use super::halts::{self, Halts};
use super::jobs::{LATER, PARKED, READY, is_free, queue_number, queue_of, work_of};
use super::writer::{Tally, Tx};

/// Most connections whose tenants are kept in mind.
const TENANTS_MAX: usize = 10_000;
/// Least number of turns kept in mind before those that are passed are forgotten.
const FORGET_FROM: usize = 1_024;
/// Fewest rows of a group read at once.
const READ_MIN: u32 = 4;

/// Who takes turns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flow {
    queue: i64,
    priority: i64,
    group: Box<str>,
    tenant: Box<str>,
}

/// The turns given last.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// The newest job this knows of.
    known_to: i64,
    last: HashMap<Flow, i64>,
    /// What the transaction under way has changed, to be undone.
    undo: Vec<(Flow, Option<i64>)>,
    /// How many there were left when the passed ones were last forgotten.
    left: usize,
    /// The newest job when the transaction began.
    began: i64,
    /// Whose connections are that events came for. What another process changes of it is not seen, and costs a turn.
    tenants: HashMap<Box<str>, Arc<str>>,
}

/// Where turns stood.
#[derive(Clone, Copy)]
pub(super) struct Mark(usize);

impl Turns {
    /// Takes up what stands in line and is not known: all of it in a new process, then what other processes have added.
    pub(super) fn catch_up(&mut self, connection: &Connection, tally: &Tally) -> rusqlite::Result<()> {
        self.began = tally.job_last;
        if self.known_to >= tally.job_last {
            return Ok(());
        }
        let sql = if self.known_to == 0 {
            "SELECT queue, priority, grp, tenant, turn FROM palisade_job WHERE state = 0 AND id > ?1"
        } else {
            "SELECT queue, priority, grp, tenant, turn FROM palisade_job NOT INDEXED WHERE state = 0 AND id > ?1"
        };
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([self.known_to])?;
        while let Some(row) = rows.next()? {
            let flow = Flow { queue: row.get(0)?, priority: row.get(1)?, group: row.get(2)?, tenant: row.get(3)? };
            let last = self.last.entry(flow).or_insert(0);
            *last = row.get::<_, i64>(4)?.max(*last);
        }
        self.known_to = tally.job_last;
        Ok(())
    }

    /// Notes a job of this process.
    pub(super) fn added(&mut self, job: i64) {
        self.known_to = job;
    }

    fn give(&mut self, flow: Flow, passed: i64) -> i64 {
        let before = self.last.get(&flow).copied();
        let turn = passed.max(before.unwrap_or(0)) + 1;
        self.undo.push((flow.clone(), before));
        self.last.insert(flow, turn);
        turn
    }

    /// Forgets who has been passed, now and then.
    fn forget(&mut self, queue: i64, priority: i64, passed: i64) {
        if self.last.len() > FORGET_FROM.max(2 * self.left) {
            self.last.retain(|flow, turn| flow.queue != queue || flow.priority != priority || *turn > passed);
            self.left = self.last.len();
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark(self.undo.len())
    }

    /// Forgets whose a connection is: it may be another's by now.
    pub(super) fn forget_tenant(&mut self, connection: &str) {
        self.tenants.remove(connection);
    }

    /// Undoes what was given since the mark, when `job_last` was the newest job.
    pub(super) fn back_to(&mut self, mark: Mark, job_last: i64) {
        // Some may have been read of what is undone now.
        self.tenants.clear();
        while self.undo.len() > mark.0 {
            match self.undo.pop() {
                Some((flow, Some(turn))) => drop(self.last.insert(flow, turn)),
                Some((flow, None)) => drop(self.last.remove(&flow)),
                None => break,
            }
        }
        self.known_to = self.known_to.min(job_last);
    }

    /// Undoes what the transaction that failed has given.
    pub(super) fn failed(&mut self) {
        self.back_to(Mark(0), self.began);
    }

    pub(super) fn committed(&mut self) {
        self.undo.clear();
    }
}

/// Who a job belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'j> {
    pub(super) queue: i64,
    pub(super) priority: i64,
    pub(super) group: &'j str,
    pub(super) tenant: &'j str,
}

/// Returns the tenant of a connection, if that is known.
pub(super) fn tenant_of(tx: &mut Tx<'_>, connection: &str) -> Result<Option<Arc<str>>, Fault> {
    if let Some(tenant) = tx.turns.tenants.get(connection) {
        return Ok(Some(tenant.clone()));
    }
    let found: Option<Arc<str>> = tx
        .prepare("SELECT tenant FROM palisade_connection WHERE id = ?1")?
        .query_row([connection], |row| row.get(0))
        .optional()?;
    if let Some(tenant) = &found {
        if tx.turns.tenants.len() >= TENANTS_MAX {
            tx.turns.tenants.clear();
        }
        tx.turns.tenants.insert(connection.into(), tenant.clone());
    }
    Ok(found)
}

/// Gives the next turn.
pub(super) fn next(tx: &mut Tx<'_>, place: Place<'_>) -> Result<i64, Fault> {
    let passed = passed(tx, place.queue, place.priority)?;
    let Place { queue, priority, group, tenant } = place;
    Ok(tx.turns.give(Flow { queue, priority, group: group.into(), tenant: tenant.into() }, passed))
}

/// Returns the state and turn of a job that enters the line if it is due.
pub(super) fn enter(tx: &mut Tx<'_>, place: Place<'_>, run_at: i64, now: Option<i64>) -> Result<(i64, i64), Fault> {
    if now.is_some_and(|now| run_at <= now) { Ok((READY, next(tx, place)?)) } else { Ok((LATER, 0)) }
}

/// Returns the highest turn claimed; read once a transaction.
fn passed(tx: &mut Tx<'_>, queue: i64, priority: i64) -> Result<i64, Fault> {
    if let Some((_, _, turn)) = tx.passed.iter().find(|(of, at, _)| *of == queue && *at == priority) {
        return Ok(*turn);
    }
    let turn: Option<i64> = tx
        .hot("SELECT turn FROM palisade_turn WHERE queue = ?1 AND priority = ?2")?
        .query_row([queue, priority], |row| row.get(0))
        .optional()?;
    let turn = turn.unwrap_or(0);
    tx.passed.push((queue, priority, turn));
    Ok(turn)
}

/// Notes a claimed turn.
fn pass(tx: &mut Tx<'_>, queue: i64, priority: i64, turn: i64) -> Result<(), Fault> {
    if turn <= passed(tx, queue, priority)? {
        return Ok(());
    }
    for known in tx.passed.iter_mut().filter(|(of, at, _)| *of == queue && *at == priority) {
        known.2 = turn;
    }
    tx.hot(
        "INSERT INTO palisade_turn VALUES (?1, ?2, ?3) ON CONFLICT (queue, priority) DO UPDATE SET turn = excluded.turn",
    )?
    .execute([queue, priority, turn])?;
    tx.turns.forget(queue, priority, turn);
    Ok(())
}

// -------------------------------------------------------------------------------------------------- into line

/// A job that enters the line.
struct Entering {
    id: i64,
    queue: i64,
    priority: i64,
    group: String,
    tenant: String,
    run_at: i64,
}

/// A query of what [`Entering::read`] reads.
macro_rules! entering {
    ($which:literal) => {
        concat!("SELECT id, queue, priority, grp, tenant, run_at FROM palisade_job WHERE ", $which)
    };
}

impl Entering {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            queue: row.get(1)?,
            priority: row.get(2)?,
            group: row.get(3)?,
            tenant: row.get(4)?,
            run_at: row.get(5)?,
        })
    }
}

/// Lets the jobs a query finds (see [`Entering`]) into line, those of them that are due at `now`; tells how many there are.
fn line_up(tx: &mut Tx<'_>, sql: &'static str, values: impl rusqlite::Params, now: i64) -> Result<usize, Fault> {
    let found = tx.hot(sql)?.query_map(values, Entering::read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    for job in &found {
        let place = Place { queue: job.queue, priority: job.priority, group: &job.group, tenant: &job.tenant };
        let (state, turn) = enter(tx, place, job.run_at, Some(now))?;
        tx.prepare("UPDATE palisade_job SET state = ?2, turn = ?3, parked = NULL WHERE id = ?1")?
            .execute([job.id, state, turn])?;
        tx.wake(queue_of(job.queue));
    }
    Ok(found.len())
}

/// Lets jobs of a lane go on after one of them has ended: the lowest, and those due before it.
pub(super) fn promote(tx: &mut Tx<'_>, lane: &str, lowest: i64, run_at: i64, now: i64) -> Result<(), Fault> {
    line_up(tx, entering!("id = ?1 AND state = 4"), [lowest], now)?;
    line_up(tx, entering!("lane = ?1 AND state = 4 AND run_at < ?2 ORDER BY id"), params![lane, run_at], now)?;
    Ok(())
}

/// Lets jobs into line that have become due, and those whose connection was resumed.
pub(super) fn gather(tx: &mut Tx<'_>, queue: Queue, now: i64, halts: &Halts) -> Result<(), Fault> {
    let bound = i64::from(LINED_UP_MAX);
    if halts.resumed {
        unpark(tx)?;
    }
    let due = entering!("queue = ?1 AND state = 5 AND run_at <= ?2 ORDER BY run_at, id LIMIT ?3");
    let found = line_up(tx, due, params![queue_number(queue), now, bound], now)?;
    if found == LINED_UP_MAX as usize {
        // There may be more: the next claim comes at once.
        tx.wake(queue);
    }
    Ok(())
}

fn unpark(tx: &mut Tx<'_>) -> Result<(), Fault> {
    let (mut left, mut from) = (LINED_UP_MAX as usize, String::new());
    let sql = entering!("state = 6 AND parked = ?1 ORDER BY id LIMIT ?2");
    while left > 0 {
        let Some(connection) = halts::resumed(tx, &from)? else { return Ok(()) };
        let bound = i64::try_from(left).unwrap_or(i64::MAX);
        // It stood in line before, whatever the clock says by now.
        let found = line_up(tx, sql, params![connection, bound], i64::MAX)?;
        if found < left {
            halts::forget(tx, &connection)?;
        }
        left -= found;
        // The least name behind it.
        from = connection + "\0";
    }
    tx.wake(Queue::Events);
    Ok(())
}

// ----------------------------------------------------------------------------------------------------- claim

/// A job in line, or one whose lease ran out.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) id: i64,
    pub(super) expired: bool,
    pub(super) priority: i64,
    pub(super) turn: i64,
    pub(super) lane: Option<String>,
    pub(super) fence: i64,
    pub(super) attempt: u32,
    pub(super) attempts_max: u32,
    pub(super) waits: u32,
    pub(super) waits_from: Option<i64>,
    /// What it does, if that can be read.
    pub(super) work: Option<Work>,
}

/// What is left of a group of one priority: its next rows are read as they are wanted.
struct Group {
    name: String,
    room: u32,
    rows: VecDeque<Due>,
    /// The last row read.
    after: (i64, i64),
    /// There is nothing left to read.
    over: bool,
}

/// Walks the line and returns what may be taken, each with its group. `lost` are those whose lease ran out, by turn.
pub(super) fn choose(
    tx: &mut Tx<'_>,
    claim: &Claim,
    halts: &Halts,
    lost: Vec<(Due, String)>,
) -> Result<Vec<(Due, String)>, Fault> {
    let queue = queue_number(claim.queue);
    let mut line = Line { chosen: Vec::new(), taken: HashMap::new(), parked: 0 };
    // By priority, the highest first.
    let mut late: BTreeMap<i64, Grouped> = BTreeMap::new();
    for one in lost {
        late.entry(-one.0.priority).or_default().push_back(one);
    }
    let mut above = i64::MAX;
    while !line.is_over(claim) {
        let ready: Option<i64> = tx.hot(NEXT_PRIORITY)?.query_one(params![queue, above], |row| row.get(0))?;
        let Some(priority) = ready.max(late.first_key_value().map(|(priority, _)| -*priority)) else { break };
        above = priority;
        let late = late.remove(&-priority).unwrap_or_default();
        line.walk(tx, claim, halts, priority, late)?;
    }
    if line.parked >= LINED_UP_MAX {
        tx.wake(claim.queue);
    }
    let mut highest: BTreeMap<i64, i64> = BTreeMap::new();
    for (job, _) in &line.chosen {
        let turn = highest.entry(job.priority).or_insert(job.turn);
        *turn = job.turn.max(*turn);
    }
    for (priority, turn) in highest {
        pass(tx, queue, priority, turn)?;
    }
    Ok(line.chosen)
}

const NEXT_PRIORITY: &str = "SELECT max(priority) FROM palisade_job WHERE queue = ?1 AND state = 0 AND priority < ?2";
const FIRST_GROUP: &str = "SELECT min(grp) FROM palisade_job WHERE queue = ?1 AND state = 0 AND priority = ?2";
const NEXT_GROUP: &str =
    "SELECT min(grp) FROM palisade_job WHERE queue = ?1 AND state = 0 AND priority = ?2 AND grp > ?3";
const NEXT_ROWS: &str = "SELECT id, turn, lane, fence, attempt, attempts_max, waits, waits_from, event, work \
     FROM palisade_job WHERE queue = ?1 AND state = 0 AND priority = ?2 AND grp = ?3 AND (turn, id) > (?4, ?5) \
     ORDER BY turn, id LIMIT ?6";

/// Jobs with their groups.
type Grouped = VecDeque<(Due, String)>;

/// What a claim has come to so far.
struct Line {
    chosen: Vec<(Due, String)>,
    /// How many of each group.
    taken: HashMap<String, u32>,
    parked: u32,
}

impl Line {
    fn is_over(&self, claim: &Claim) -> bool {
        self.chosen.len() >= claim.max as usize || self.parked >= LINED_UP_MAX
    }

    /// Walks the jobs of one priority by turn, over the groups that have room.
    fn walk(
        &mut self,
        tx: &mut Tx<'_>,
        claim: &Claim,
        halts: &Halts,
        priority: i64,
        mut lost: Grouped,
    ) -> Result<(), Fault> {
        let mut groups = self.groups(tx, claim, halts, priority)?;
        let share = (claim.max / u32::try_from(groups.len()).unwrap_or(u32::MAX).max(1)).saturating_add(1);
        while !self.is_over(claim) {
            for group in &mut groups {
                group.fill(tx, claim.queue, priority, share.max(READ_MIN))?;
            }
            let first = groups.iter_mut().filter(|group| group.room > 0 && !group.rows.is_empty());
            let first = first.min_by_key(|group| group.rows.front().map(|due| (due.turn, due.id)));
            let ready = first.as_ref().and_then(|group| group.rows.front()).map(|due| (due.turn, due.id));
            let late = lost.front().map(|(due, _)| (due.turn, due.id));
            let is_late = match (late, ready) {
                (None, None) => return Ok(()),
                (Some(late), Some(ready)) => late < ready,
                (late, _) => late.is_some(),
            };
            if is_late {
                let Some((due, name)) = lost.pop_front() else { return Ok(()) };
                if !halts.providers.contains(&name)
                    && self.room(claim, &name) > 0
                    && self.take(tx, claim, halts, due, &name)?
                {
                    *self.taken.entry(name.clone()).or_default() += 1;
                    for group in groups.iter_mut().filter(|group| group.name == name) {
                        group.room -= 1;
                    }
                }
                continue;
            }
            let Some(group) = first else { return Ok(()) };
            let Some(due) = group.rows.pop_front() else { return Ok(()) };
            if self.take(tx, claim, halts, due, &group.name)? {
                group.room -= 1;
                *self.taken.entry(group.name.clone()).or_default() += 1;
            }
        }
        Ok(())
    }

    fn room(&self, claim: &Claim, group: &str) -> u32 {
        claim.room.of(group).saturating_sub(self.taken.get(group).copied().unwrap_or(0))
    }

    /// Finds the groups of a priority that have room, by one look into the index for each there is.
    fn groups(&self, tx: &mut Tx<'_>, claim: &Claim, halts: &Halts, priority: i64) -> Result<Vec<Group>, Fault> {
        let queue = queue_number(claim.queue);
        let first = tx.hot(FIRST_GROUP)?;
        let mut name: Option<String> = first.query_row(params![queue, priority], |row| row.get(0))?;
        let mut groups = Vec::new();
        while let Some(one) = name {
            let next = tx.hot(NEXT_GROUP)?;
            name = next.query_row(params![queue, priority, one], |row| row.get(0))?;
            let room = self.room(claim, &one);
            if room > 0 && !halts.providers.contains(&one) {
                let after = (i64::MIN, i64::MIN);
                groups.push(Group { name: one, room, rows: VecDeque::new(), after, over: false });
            }
        }
        Ok(groups)
    }

    /// Takes a job if it is free; one whose connection is halted leaves the line.
    fn take(&mut self, tx: &mut Tx<'_>, claim: &Claim, halts: &Halts, due: Due, group: &str) -> Result<bool, Fault> {
        if let Some(connection) = halts.of_job(tx, due.id)? {
            park(tx, &due, &connection)?;
            self.parked += 1;
            return Ok(false);
        }
        let free = is_free(tx, due.lane.as_deref(), due.id, claim.now)?;
        if free {
            self.chosen.push((due, group.to_owned()));
        }
        Ok(free)
    }
}

impl Group {
    /// Reads the next rows when there is none, and no more than there is room for.
    fn fill(&mut self, tx: &mut Tx<'_>, queue: Queue, priority: i64, count: u32) -> Result<(), Fault> {
        if self.over || self.room == 0 || !self.rows.is_empty() {
            return Ok(());
        }
        let count = count.min(self.room);
        let (turn, id) = self.after;
        let statement = tx.hot(NEXT_ROWS)?;
        let mut rows = statement.query(params![queue_number(queue), priority, self.name, turn, id, count])?;
        while let Some(row) = rows.next()? {
            let due = Due {
                id: row.get(0)?,
                expired: false,
                priority,
                turn: row.get(1)?,
                lane: row.get(2)?,
                fence: row.get(3)?,
                attempt: row.get(4)?,
                attempts_max: row.get(5)?,
                waits: row.get(6)?,
                waits_from: row.get(7)?,
                work: work_of(row.get(8)?, row.get_ref(9)?).ok(),
            };
            self.after = (due.turn, due.id);
            self.rows.push_back(due);
        }
        self.over = self.rows.len() < count as usize;
        Ok(())
    }
}

fn park(tx: &mut Tx<'_>, due: &Due, connection: &str) -> Result<(), Fault> {
    tx.prepare("UPDATE palisade_job SET state = ?2, lease_until = NULL, parked = ?3 WHERE id = ?1")?
        .execute(params![due.id, PARKED, connection])?;
    if due.expired {
        tx.tally.jobs_running -= 1;
        tx.tally.jobs_waiting += 1;
    }
    Ok(())
}

/// Finds the due moments of the first in line of each group and priority, and of the first that waits for its moment.
pub(super) fn oldest(connection: &Connection, queue: i64) -> Result<Option<i64>, Fault> {
    let prepare = |sql: &str| connection.prepare_cached(sql);
    let (mut lower, mut first, mut then) = (prepare(NEXT_PRIORITY)?, prepare(FIRST_GROUP)?, prepare(NEXT_GROUP)?);
    let mut of = prepare(
        "SELECT run_at FROM palisade_job WHERE queue = ?1 AND state = 0 AND priority = ?2 AND grp = ?3 \
         ORDER BY turn, id LIMIT 1",
    )?;
    let mut oldest: Option<i64> = prepare("SELECT min(run_at) FROM palisade_job WHERE queue = ?1 AND state = 5")?
        .query_row([queue], |row| row.get(0))?;
    let mut above = i64::MAX;
    while let Some(priority) = lower.query_row(params![queue, above], |row| row.get::<_, Option<i64>>(0))? {
        above = priority;
        let mut group: Option<String> = first.query_row(params![queue, priority], |row| row.get(0))?;
        while let Some(name) = group {
            let run_at: i64 = of.query_row(params![queue, priority, name], |row| row.get(0))?;
            oldest = Some(oldest.map_or(run_at, |oldest| oldest.min(run_at)));
            group = then.query_row(params![queue, priority, name], |row| row.get(0))?;
        }
    }
    Ok(oldest)
}

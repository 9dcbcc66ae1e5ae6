//! The way of one call through its lanes, from the narrow one of the operation to those it shares.
//!
//! A call takes of all its lanes or of none. It first learns how long it would have to wait in all of them, and is
//! refused at once when that would pass its deadline; only then it queues. Turns are taken in the order of the lanes,
//! which is the same for every call (each lane has one scope, and lanes of one scope are sorted by name), so that no
//! two callers wait for each other. A caller waits for a wide lane only while the narrower ones would let it go: one
//! operation that is paused does not hold up the account's others. Waiters go in fair turns between tenants. Nothing
//! runs by itself: whoever has the turns sleeps on tokio time and then lets the next one in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::lane::{BucketKey, Lane, LaneKey, Passage, nanos_since};
use super::lanes::Lanes;
use super::turnstile::Place;
use crate::call::{Bucket, Call, Scope};
use crate::error::Result;
use crate::id::ConnectionId;

/// The lanes of one call. Most have one, and for these nothing more is paid.
#[derive(Debug)]
pub(super) struct Way {
    own: Arc<Lane>,
    /// The own lane's.
    key: LaneKey,
    /// From narrow to wide.
    wider: Vec<Wider>,
}

#[derive(Debug)]
struct Wider {
    scope: Scope,
    bucket: &'static Bucket,
    lane: Arc<Lane>,
    /// What the attempt on its way was charged here.
    charged: AtomicU64,
}

/// Units taken for one attempt: given back when dropped, as far as the limiter allows, unless it was sent.
#[derive(Debug)]
pub(super) struct Units<'a> {
    way: &'a Way,
    /// What was charged in the own lane.
    charged: u64,
    /// How many of the wider lanes were charged.
    wider: usize,
    taken_at: u64,
    origin: Instant,
}

/// Why the lanes did not let a call through: the wait it would have needed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) wait: Duration,
    pub(super) full: bool,
}

impl Way {
    /// Finds or makes the lanes of a call of an account whose credential is of `class`.
    ///
    /// # Errors
    /// As [`Lanes::lane`].
    pub(super) fn find(
        lanes: &Lanes,
        call: &Call,
        account: ConnectionId,
        class: Option<&str>,
        now: u64,
    ) -> Result<Self> {
        let operation = call.operation;
        let key = LaneKey {
            connection: Some(account),
            part: call.lane.clone(),
            bucket: BucketKey(operation.bucket),
            scope: Scope::Operation,
        };
        let own = lanes.lane(&key, now)?;
        let mut wider = Vec::new();
        for limit in operation.also.iter().filter(|limit| limit.class.is_none() || limit.class == class) {
            let lane = lanes.lane(&wide_key(&key, limit.scope, limit.bucket), now)?;
            wider.push(Wider { scope: limit.scope, bucket: limit.bucket, lane, charged: AtomicU64::new(0) });
        }
        Ok(Self { own, key, wider })
    }

    /// Waits for pauses, turns and units, or refuses at once when that would pass the deadline. Refusing takes no
    /// units. Dropping the future leaves the queues. Gives the units and the moment they were taken.
    ///
    /// `moment` is `now` on the engine's scale.
    pub(super) async fn pass(
        &self,
        passage: Passage<'_>,
        now: Instant,
        moment: u64,
    ) -> Result<(Units<'_>, Instant), Refusal> {
        let is_idle = |lane: &Lane| {
            lane.touch(moment);
            lane.turnstile(passage.priority).is_idle()
        };
        let (mut idle, mut wait) = (is_idle(&self.own), 0);
        for wider in &self.wider {
            idle &= is_idle(&wider.lane);
        }
        if idle {
            match self.take(&passage, moment) {
                Ok(units) => return Ok((units, now)),
                Err((_, needed)) => wait = needed,
            }
        }
        Box::pin(self.queue(passage, now, wait)).await
    }

    /// Stops the lanes of a scope until `moment`, and gives the keys of those that would have gone before.
    pub(super) fn pause_until(&self, scope: Scope, moment: u64, mut paused: impl FnMut(&LaneKey)) {
        self.of(scope, |lane, wider| {
            if lane.pause_until(moment) {
                match wider {
                    Some(wider) => paused(&wide_key(&self.key, wider.scope, wider.bucket)),
                    None => paused(&self.key),
                }
            }
        });
    }

    /// Gives the lanes of a scope a learned rate, as [`Lane::learn`].
    pub(super) fn learn(&self, scope: Scope, unit: u64, may_raise: bool) {
        self.of(scope, |lane, _| lane.learn(unit, may_raise));
    }

    /// Does something with the lanes of a scope; with the own one when the call has none of it.
    fn of(&self, scope: Scope, mut act: impl FnMut(&Lane, Option<&Wider>)) {
        let mut found = false;
        for wider in self.wider.iter().filter(|wider| wider.scope == scope) {
            act(&wider.lane, Some(wider));
            found = true;
        }
        if !found {
            act(&self.own, None);
        }
    }

    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        std::iter::once(&*self.own).chain(self.wider.iter().map(|wider| &*wider.lane))
    }

    /// Takes of all lanes, or of none and returns which lane is to be waited for, and how long.
    fn take(&self, passage: &Passage<'_>, now: u64) -> Result<Units<'_>, (usize, u64)> {
        let charged = self.own.take(passage, now).map_err(|wait| (0, wait))?;
        let mut units = Units { way: self, charged, wider: 0, taken_at: now, origin: passage.origin };
        for wider in &self.wider {
            match wider.lane.take(passage, now) {
                Ok(charged) => wider.charged.store(charged, Relaxed),
                Err(wait) => {
                    let at = units.wider + 1;
                    units.give_back(now);
                    return Err((at, wait));
                }
            }
            units.wider += 1;
        }
        Ok(units)
    }

    /// Waits for the turn of every lane and then for the units. `wait` is what is known already.
    async fn queue(&self, passage: Passage<'_>, now: Instant, wait: u64) -> Result<(Units<'_>, Instant), Refusal> {
        let left = |now: Instant| passage.deadline.saturating_duration_since(now);
        let wait = Duration::from_nanos(wait.max(self.wait_ahead(&passage, nanos_since(passage.origin, now))));
        let full = self.lanes().any(|lane| lane.turnstile(passage.priority).waiting() >= passage.waiting_max);
        if full || wait > left(now) {
            return Err(Refusal { wait, full });
        }
        let mut turns: Vec<Place<'_>> = Vec::with_capacity(1 + self.wider.len());
        loop {
            let now = Instant::now();
            let moment = nanos_since(passage.origin, now);
            let lacking =
                |(at, lane): (usize, &Lane)| Some((at, lane.lack(&passage, moment))).filter(|(_, lack)| *lack > 0);
            let mut short = self.lanes().take(turns.len()).enumerate().find_map(lacking);
            if short.is_none() {
                if let Some(lane) = self.lanes().nth(turns.len()) {
                    let turn = lane.turnstile(passage.priority).enter(passage.tenant, passage.priority);
                    match timeout_at(passage.deadline, turn).await {
                        Ok(turn) => turns.push(turn),
                        Err(_) => return Err(Refusal { wait, full: false }),
                    }
                    continue;
                }
                // Somebody of the other priority may have been quicker.
                match self.take(&passage, moment) {
                    Ok(units) => return Ok((units, now)),
                    Err(lack) => short = Some(lack),
                }
            }
            if let Some((at, wait)) = short {
                let wait = Duration::from_nanos(wait);
                if wait > left(now) {
                    return Err(Refusal { wait, full: false });
                }
                turns.truncate(at + 1);
                sleep_until(now + wait).await;
            }
        }
    }

    /// Returns the least time until a new caller can have passed all lanes, as things stand. Whoever is ahead of it in
    /// a narrow lane must also pass the wider ones before it; the one that has the narrow lane's turn may be counted
    /// among those who wait for the wide one already.
    fn wait_ahead(&self, passage: &Passage<'_>, now: u64) -> u64 {
        let (mut wait, mut queued) = (0, 0);
        for lane in self.lanes() {
            let turnstile = lane.turnstile(passage.priority);
            let holder = usize::from(turnstile.is_taken());
            queued += turnstile.ahead(passage.tenant, passage.priority);
            wait = wait.max(lane.wait_behind(queued + holder, passage, now));
        }
        wait
    }
}

/// Returns the key of a lane that calls with an own lane of `own` share with others.
fn wide_key(own: &LaneKey, scope: Scope, bucket: &'static Bucket) -> LaneKey {
    let connection = own.connection.clone().filter(|_| scope != Scope::Client);
    LaneKey { connection, part: None, bucket: BucketKey(bucket), scope }
}

impl Units<'_> {
    /// Notes that the attempt leaves: from here on the units are spent.
    pub(super) fn spend(self) {
        std::mem::forget(self);
    }

    fn give_back(self, now: u64) {
        self.return_to_lanes(now);
        std::mem::forget(self);
    }

    fn return_to_lanes(&self, now: u64) {
        self.way.own.give_back(self.charged, self.taken_at, now);
        for wider in self.way.wider.iter().take(self.wider) {
            wider.lane.give_back(wider.charged.load(Relaxed), self.taken_at, now);
        }
    }
}

impl Drop for Units<'_> {
    fn drop(&mut self) {
        self.return_to_lanes(nanos_since(self.origin, Instant::now()));
    }
}

#[cfg(test)]
mod tests;

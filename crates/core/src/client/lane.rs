//! One lane: a rate limit of one account (or part of it, or all of them), its pause, and the queue of those who wait.
//!
//! The limit is a governor limiter over a state of ours, which can therefore be looked at and given back to. A pause
//! (the provider's `Retry-After`) only ever grows. Background calls leave a reserve of the burst to interactive ones.
//! How a call passes its lanes is in `way`.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use tokio::time::Instant;

use super::turnstile::Turnstile;
use crate::call::{Bucket, Priority, Scope};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, TenantId};

/// The most one call is charged at a learned rate, in nanoseconds: a day.
const CHARGE_MAX: u64 = 86_400_000_000_000;

/// What tells lanes apart. Two operations with equal buckets of their own share a lane of the same connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaneKey {
    /// The connection, or what stands for the account it shares with others; none where all connections share the lane.
    pub(super) connection: Option<ConnectionId>,
    pub(super) part: Option<Arc<str>>,
    pub(super) bucket: BucketKey,
    pub(super) scope: Scope,
}

/// What cannot stand in a field of a lane's name as it is.
const MARKED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'*');
/// Whom a lane of all connections is for.
const EVERYBODY: &str = "*";

/// The name a lane has wherever it is written down, the same in every process and release: scope, bucket, whose it is
/// (`*` for all) and the part if there is one, with blanks between. What it says of the bucket is its name: a pause
/// outlives a change of the numbers.
impl fmt::Display for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = match self.scope {
            Scope::Operation => "operation",
            Scope::Account => "account",
            Scope::Client => "client",
        };
        write!(f, "{scope} {} ", utf8_percent_encode(self.bucket.0.name, MARKED))?;
        match &self.connection {
            Some(connection) => write!(f, "{}", utf8_percent_encode(connection.as_str(), MARKED))?,
            None => f.write_str(EVERYBODY)?,
        }
        match &self.part {
            Some(part) => write!(f, " {}", utf8_percent_encode(part, MARKED)),
            None => Ok(()),
        }
    }
}

/// Reads whose a lane is from its name: the connection or what stands for its account, or nobody's in particular. `None`
/// when it is no lane's name.
pub(super) fn whose(name: &str) -> Option<Option<ConnectionId>> {
    let mut fields = name.split(' ');
    let scope = fields.next()?;
    let bucket = fields.next()?;
    let whose = fields.next()?;
    let (_part, more) = (fields.next(), fields.next());
    if !matches!(scope, "operation" | "account" | "client") || bucket.is_empty() || more.is_some() {
        return None;
    }
    if whose == EVERYBODY {
        return Some(None);
    }
    let whose = percent_decode_str(whose).decode_utf8().ok()?;
    Some(Some(ConnectionId::new(&*whose)))
}

/// A bucket compared by address first: adapters keep theirs in statics.
#[derive(Clone, Copy, Debug)]
pub(super) struct BucketKey(pub(super) &'static Bucket);

impl PartialEq for BucketKey {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0) || self.0 == other.0
    }
}

impl Eq for BucketKey {}

/// Few writes: the hasher's work is per write more than per byte, and equality looks at everything anyway.
impl std::hash::Hash for LaneKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        if let Some(connection) = &self.connection {
            state.write(connection.as_str().as_bytes());
        }
        if let Some(part) = &self.part {
            state.write(part.as_bytes());
        }
        let Bucket { name, units, burst, .. } = self.bucket.0;
        state.write_u64(u64::from(*units) << 32 | u64::from(*burst) ^ name.len() as u64);
    }
}

/// What the limiter goes by, both in nanoseconds on the engine's scale.
#[derive(Debug, Default)]
struct Times {
    /// What the callers, who read tokio's clock anyway, last told. It never goes back, costs no reading of its own,
    /// and stands still with a paused runtime.
    now: AtomicU64,
    /// When the bucket will be full again: all the state a GCRA limiter has.
    full_at: AtomicU64,
}

/// Governor's clock and state in one.
#[derive(Clone, Debug, Default)]
struct Dial(Arc<Times>);

impl GovernorClock for Dial {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.now.load(Relaxed))
    }
}

impl StateStore for Dial {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut seen = self.0.full_at.load(Relaxed);
        loop {
            let (outcome, next) = decide(Some(seen.into()))?;
            match self.0.full_at.compare_exchange_weak(seen, next.into(), Relaxed, Relaxed) {
                Ok(_) => return Ok(outcome),
                Err(other) => seen = other,
            }
        }
    }
}

type Limiter = RateLimiter<NotKeyed, Dial, Dial, NoOpMiddleware<Nanos>>;

/// One lane. Times are nanoseconds on the engine's own monotonic scale.
#[derive(Debug)]
pub(super) struct Lane {
    limit: Option<Limit>,
    /// Nothing may be sent before.
    paused_until: AtomicU64,
    used_at: AtomicU64,
    interactive: Turnstile,
    background: Turnstile,
}

#[derive(Debug)]
struct Limit {
    limiter: Limiter,
    times: Dial,
    /// Nanoseconds one unit takes to come back.
    unit: u64,
    /// The same as learned from answers; 0 before.
    learned: AtomicU64,
    burst: u32,
    /// Units background calls leave alone.
    reserve: u32,
}

/// What one call asks of its lanes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) priority: Priority,
    pub(super) cost: NonZeroU32,
    pub(super) deadline: Instant,
    pub(super) origin: Instant,
    pub(super) waiting_max: usize,
}

impl Lane {
    /// Makes a rested lane. `reserve` is the share of the burst background calls leave alone, in whole units: at least
    /// one where there is a share and the burst has room for it.
    pub(super) fn new(bucket: &Bucket, reserve: f64) -> Result<Self> {
        let wrong = |what| Err(Error::new(ErrorKind::Config, format!("the limit bucket {:?} {what}", bucket.name)));
        let (Some(units), Some(burst)) = (NonZeroU32::new(bucket.units), NonZeroU32::new(bucket.burst)) else {
            return wrong("must grant at least one unit and allow a burst of at least one");
        };
        let unit = bucket.per / units.get();
        let span = u64::try_from(unit.as_nanos()).ok().and_then(|unit| unit.checked_mul(u64::from(burst.get())));
        let Some(span) = span.filter(|span| *span < u64::MAX / 4) else {
            return wrong("has a period too long to count");
        };
        // Units that come back faster than a nanosecond each are no limit.
        let limit = Quota::with_period(unit).map(|quota| {
            let times = Dial::default();
            Limit {
                limiter: RateLimiter::new(quota.allow_burst(burst), times.clone(), times.clone()),
                times,
                unit: span / u64::from(burst.get()),
                learned: AtomicU64::new(0),
                burst: burst.get(),
                reserve: reserved(burst.get(), reserve),
            }
        });
        Ok(Self {
            limit,
            paused_until: AtomicU64::new(0),
            used_at: AtomicU64::new(0),
            interactive: Turnstile::new(1),
            background: Turnstile::new(1),
        })
    }

    /// Stops the lane until `moment`, and tells whether it would have gone before. An earlier moment than that already
    /// set changes nothing.
    pub(super) fn pause_until(&self, moment: u64) -> bool {
        self.paused_until.fetch_max(moment, Relaxed) < moment
    }

    /// Goes by a learned rate from now on: a unit comes back after `unit` nanoseconds. A quicker one than the bucket's
    /// is believed only if it may raise it. The burst stays what it is in time. A lane without a limit learns none.
    pub(super) fn learn(&self, unit: u64, may_raise: bool) {
        if let Some(limit) = &self.limit {
            limit.learned.store(if may_raise { unit } else { unit.max(limit.unit) }, Relaxed);
        }
    }

    /// Tells whether the lane is the same as a new one: not paused, its bucket full. (What it has learned the next
    /// answer tells again.)
    pub(super) fn is_rested(&self, now: u64) -> bool {
        self.paused_until.load(Relaxed) <= now && self.limit.as_ref().is_none_or(|limit| limit.full_at() <= now)
    }

    pub(super) fn is_paused(&self, now: u64) -> bool {
        self.paused_until.load(Relaxed) > now
    }

    /// Notes that a call came. Only to tell old lanes from new ones: a lost race may leave the slightly older time.
    pub(super) fn touch(&self, now: u64) {
        self.used_at.store(now, Relaxed);
    }

    pub(super) fn used_at(&self) -> u64 {
        self.used_at.load(Relaxed)
    }

    /// Returns where callers of a priority take turns.
    pub(super) fn turnstile(&self, priority: Priority) -> &Turnstile {
        match priority {
            Priority::Interactive => &self.interactive,
            Priority::Background => &self.background,
        }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.interactive.waiting() + self.background.waiting()
    }

    /// Takes the units and returns what was charged, or returns how long to wait (never zero).
    pub(super) fn take(&self, passage: &Passage<'_>, now: u64) -> Result<u64, u64> {
        let paused = self.paused_until.load(Relaxed);
        if paused > now {
            return Err(paused - now);
        }
        match &self.limit {
            Some(limit) => limit.take(passage.cost, self.leave(limit, passage), now),
            None => Ok(0),
        }
    }

    /// Gives back what was charged at `taken_at` for units that were not used.
    ///
    /// For as long as the units take to come back by themselves the bucket cannot have been full, so giving back
    /// leaves it as if they had never been taken. Later they may be there already, and giving them again would let
    /// more through than the bucket holds.
    pub(super) fn give_back(&self, charged: u64, taken_at: u64, now: u64) {
        if let Some(limit) = &self.limit
            && now.saturating_sub(taken_at) < charged
        {
            // Never below zero: it was added before, and nobody takes away what he did not add.
            limit.times.0.full_at.fetch_sub(charged, Relaxed);
        }
    }

    /// Returns how long a call would have to wait if it had the turn; 0 when it could go.
    pub(super) fn lack(&self, passage: &Passage<'_>, now: u64) -> u64 {
        let pause = self.paused_until.load(Relaxed).saturating_sub(now);
        let units = self.limit.as_ref().map_or(0, |limit| limit.lack(passage.cost, self.leave(limit, passage), now));
        pause.max(units)
    }

    /// Returns the units to leave alone: none for interactive calls; for background ones the reserve, and one more
    /// call's worth while interactive callers wait, so that these go first even where the burst has no room for it.
    fn leave(&self, limit: &Limit, passage: &Passage<'_>) -> u32 {
        match passage.priority {
            Priority::Interactive => 0,
            Priority::Background if self.interactive.is_idle() => {
                limit.reserve.min(limit.burst.saturating_sub(passage.cost.get()))
            }
            Priority::Background => limit.reserve.max(passage.cost.get()),
        }
    }

    /// Returns the least time until a caller with `ahead` turns before it can go, each of at least one unit.
    pub(super) fn wait_behind(&self, ahead: usize, passage: &Passage<'_>, now: u64) -> u64 {
        let pause = self.paused_until.load(Relaxed).saturating_sub(now);
        let units = self.limit.as_ref().map_or(0, |limit| {
            let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
            let before = limit.spent(now).saturating_add(ahead.saturating_mul(limit.charge(1)));
            before.saturating_add(limit.told(passage.cost.get())).saturating_sub(limit.capacity())
        });
        // Units come back while the lane is paused, too.
        pause.max(units)
    }
}

impl Limit {
    fn take(&self, cost: NonZeroU32, leave: u32, now: u64) -> Result<u64, u64> {
        // A lost race may set the clock back by the moment it took: units then come late, never early.
        if self.times.0.now.load(Relaxed) < now {
            self.times.0.now.store(now, Relaxed);
        }
        if leave > 0 {
            let lack = self.lack(cost, leave, now);
            if lack > 0 {
                return Err(lack);
            }
        }
        // More units than the burst are refused where the operation is first seen.
        match self.limiter.check_n(cost) {
            Ok(Ok(())) => Ok(self.charged(cost)),
            Ok(Err(_)) | Err(_) => Err(self.lack(cost, leave, now).max(1)),
        }
    }

    /// Corrects what governor has charged to what was learned, and returns it.
    fn charged(&self, cost: NonZeroU32) -> u64 {
        let (told, charge) = (self.told(cost.get()), self.charge(cost.get()));
        if charge > told {
            self.times.0.full_at.fetch_add(charge - told, Relaxed);
        } else if charge < told {
            self.times.0.full_at.fetch_sub(told - charge, Relaxed);
        }
        charge
    }

    /// Returns what units cost, in time.
    fn charge(&self, units: u32) -> u64 {
        match self.learned.load(Relaxed) {
            0 => self.told(units),
            unit => u64::from(units).saturating_mul(unit).min(CHARGE_MAX.max(self.told(units))),
        }
    }

    /// Returns what governor charges for units. Cannot overflow: no more are asked for than the burst has.
    fn told(&self, units: u32) -> u64 {
        u64::from(units) * self.unit
    }

    /// Returns how long until `cost` units are there and `leave` stay.
    fn lack(&self, cost: NonZeroU32, leave: u32, now: u64) -> u64 {
        let needed = (u64::from(leave) + u64::from(cost.get())).saturating_mul(self.unit);
        self.spent(now).saturating_add(needed).saturating_sub(self.capacity())
    }

    fn full_at(&self) -> u64 {
        self.times.0.full_at.load(Relaxed)
    }

    /// What lacks until the bucket is full, in time.
    fn spent(&self, now: u64) -> u64 {
        self.full_at().saturating_sub(now)
    }

    fn capacity(&self) -> u64 {
        self.told(self.burst)
    }
}

/// Returns how many units of a burst a share of it is: rounded up, so that a small burst has a reserve too, and one is
/// always left to those who may not use it.
fn reserved(burst: u32, share: f64) -> u32 {
    // What binary fractions are off: a tenth of 70 is 7.
    const OFF: f64 = 1e-6;
    let units = (f64::from(burst) * share - OFF).ceil().max(0.0) as u32;
    units.min(burst.saturating_sub(1))
}

/// Returns the nanoseconds from `origin` to `instant`; 0 before it.
pub(super) fn nanos_since(origin: Instant, instant: Instant) -> u64 {
    u64::try_from(instant.saturating_duration_since(origin).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_impossible_bucket_is_a_config_error() {
        let base = || Bucket { name: "b", units: 1, per: Duration::from_secs(1), burst: 1 };
        for bucket in [
            Bucket { units: 0, ..base() },
            Bucket { burst: 0, ..base() },
            Bucket { per: Duration::from_secs(86_400 * 365), burst: u32::MAX, ..base() },
            Bucket { per: Duration::MAX, ..base() },
        ] {
            assert_eq!(Lane::new(&bucket, 0.1).unwrap_err().kind(), ErrorKind::Config, "{bucket:?}");
        }
        assert!(Lane::new(&Bucket { units: u32::MAX, ..base() }, 0.1).unwrap().limit.is_none());
    }

    // Fails when a small burst has no reserve, or background calls are left none of it.
    #[test]
    fn a_share_of_the_burst_is_kept_in_whole_units() {
        for (burst, share, reserve) in [
            (1, 0.1, 0),
            (1, 0.9, 0),
            (2, 0.1, 1),
            (2, 0.9, 1),
            (5, 0.1, 1),
            (5, 0.4, 2),
            (9, 0.1, 1),
            (10, 0.1, 1),
            (11, 0.1, 2),
            (70, 0.1, 7),
            (100, 0.25, 25),
            (100, 0.999, 99),
            (100, 0.0, 0),
            (u32::MAX, 0.1, 429_496_730),
            (u32::MAX, 0.999_999_999_999, u32::MAX - 1),
        ] {
            assert_eq!(reserved(burst, share), reserve, "{share} of {burst}");
        }
    }

    // Fails when two lanes have one name, or a name changes: what is stored under it would be lost by an upgrade.
    #[test]
    fn a_lane_has_a_name_of_its_own_that_stays() {
        static READS: Bucket = Bucket { name: "reads", units: 1, per: Duration::from_secs(1), burst: 1 };
        #[track_caller]
        fn check(scope: Scope, connection: Option<&str>, part: Option<&str>, name: &str) {
            let connection = connection.map(ConnectionId::from);
            let key = LaneKey {
                connection: connection.clone(),
                part: part.map(Into::into),
                bucket: BucketKey(&READS),
                scope,
            };
            assert_eq!(key.to_string(), name);
            assert_eq!(whose(name), Some(connection), "{name}");
        }
        check(Scope::Operation, Some("con_1"), None, "operation reads con_1");
        check(Scope::Operation, Some("con_1"), Some("C 1"), "operation reads con_1 C%201");
        check(Scope::Operation, Some("con_1"), Some(""), "operation reads con_1 ");
        check(Scope::Account, Some("account T1 production "), None, "account reads account%20T1%20production%20");
        check(Scope::Client, None, None, "client reads *");
        check(Scope::Client, Some("*"), None, "client reads %2A");
        check(Scope::Operation, Some("é%20\n"), None, "operation reads %C3%A9%2520%0A");
        for broken in
            ["", "operation", "operation reads", "operation  x", "Account a b", "client a b c d", "client a %ff"]
        {
            assert_eq!(whose(broken), None, "{broken}");
        }
    }
}

//! One lane: the rate limit of one account's bucket, its pause, and the queue of those who wait for it.
//!
//! The limit is a governor limiter; what governor lacks stands around it. A pause (the provider's `Retry-After`) only
//! ever grows. Background calls leave a reserve of the burst to interactive ones. Waiters go in fair turns between
//! tenants, and a wait that ends after the deadline is refused at once. Nothing runs by itself: the caller whose turn
//! it is sleeps on tokio time and then lets the next one in.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use governor::clock::Clock as GovernorClock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::turnstile::Turnstile;
use crate::call::{Bucket, Priority};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, TenantId};

/// What tells lanes apart. Two operations with equal buckets share a lane of the same connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaneKey {
    pub(super) connection: ConnectionId,
    pub(super) part: Option<Arc<str>>,
    pub(super) bucket: BucketKey,
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
        state.write(self.connection.as_str().as_bytes());
        if let Some(part) = &self.part {
            state.write(part.as_bytes());
        }
        let Bucket { name, units, burst, .. } = self.bucket.0;
        state.write_u64(u64::from(*units) << 32 | u64::from(*burst) ^ name.len() as u64);
    }
}

/// The time the limiter goes by: what the callers, who read tokio's clock anyway, last told it. It never goes back,
/// costs no reading of its own, and stands still with a paused runtime.
#[derive(Clone, Debug, Default)]
struct LaneClock(Arc<AtomicU64>);

impl GovernorClock for LaneClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.load(Relaxed))
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, LaneClock, StateInformationMiddleware>;

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
    clock: LaneClock,
    /// Nanoseconds one unit takes to come back.
    unit: u64,
    burst: u32,
    /// Units background calls leave alone.
    reserve: u32,
    /// When the bucket will be full again.
    full_at: AtomicU64,
}

/// Why a lane did not let a call through: the wait it would have needed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) wait: Duration,
    pub(super) full: bool,
}

/// What one call asks of its lane.
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
    /// Makes a rested lane. `reserve` is the share of the burst background calls leave alone.
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
            let clock = LaneClock::default();
            let limiter = RateLimiter::direct_with_clock(quota.allow_burst(burst), clock.clone())
                .with_middleware::<StateInformationMiddleware>();
            Limit {
                limiter,
                clock,
                unit: span / u64::from(burst.get()),
                burst: burst.get(),
                reserve: (f64::from(burst.get()) * reserve) as u32,
                full_at: AtomicU64::new(0),
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

    /// Stops the lane until `moment`. An earlier moment than that already set changes nothing.
    pub(super) fn pause_until(&self, moment: u64) {
        self.paused_until.fetch_max(moment, Relaxed);
    }

    /// Waits for the pause, the turn and the units, or refuses at once when that would pass the deadline. Refusing
    /// takes no units. Dropping the future leaves the queue; units already taken are spent.
    ///
    /// `moment` is `now` on the engine's scale.
    pub(super) async fn pass(&self, passage: Passage<'_>, now: Instant, moment: u64) -> Result<Instant, Refusal> {
        // Only to tell old lanes from new ones: a lost race may leave the slightly older time.
        self.used_at.store(moment, Relaxed);
        let turnstile = self.turnstile(passage.priority);
        let mut wait = 0;
        if turnstile.is_idle() {
            match self.take(&passage, moment) {
                Ok(()) => return Ok(now),
                Err(needed) => wait = needed,
            }
        }
        self.queue(passage, now, wait).await
    }

    /// Tells whether the lane is the same as a new one: not paused, its bucket full, nobody waiting.
    pub(super) fn is_rested(&self, now: u64) -> bool {
        self.paused_until.load(Relaxed) <= now
            && self.limit.as_ref().is_none_or(|limit| limit.full_at.load(Relaxed) <= now)
    }

    pub(super) fn is_paused(&self, now: u64) -> bool {
        self.paused_until.load(Relaxed) > now
    }

    pub(super) fn used_at(&self) -> u64 {
        self.used_at.load(Relaxed)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.interactive.waiting() + self.background.waiting()
    }

    fn turnstile(&self, priority: Priority) -> &Turnstile {
        match priority {
            Priority::Interactive => &self.interactive,
            Priority::Background => &self.background,
        }
    }

    async fn queue(&self, passage: Passage<'_>, now: Instant, wait: u64) -> Result<Instant, Refusal> {
        let turnstile = self.turnstile(passage.priority);
        let holder = usize::from(turnstile.is_taken());
        let ahead = turnstile.ahead(passage.tenant, passage.priority) + holder;
        let wait = Duration::from_nanos(wait.max(self.wait_behind(ahead, &passage, nanos_since(passage.origin, now))));
        let full = turnstile.waiting() >= passage.waiting_max;
        if full || wait > passage.deadline.saturating_duration_since(now) {
            return Err(Refusal { wait, full });
        }
        let turn = timeout_at(passage.deadline, turnstile.enter(passage.tenant, passage.priority)).await;
        let Ok(_turn) = turn else {
            return Err(Refusal { wait, full: false });
        };
        loop {
            let now = Instant::now();
            let Err(wait) = self.take(&passage, nanos_since(passage.origin, now)) else { return Ok(now) };
            let wait = Duration::from_nanos(wait);
            if wait > passage.deadline.saturating_duration_since(now) {
                return Err(Refusal { wait, full: false });
            }
            sleep_until(now + wait).await;
        }
    }

    /// Takes the units, or returns how long to wait (never zero).
    fn take(&self, passage: &Passage<'_>, now: u64) -> Result<(), u64> {
        let paused = self.paused_until.load(Relaxed);
        if paused > now {
            return Err(paused - now);
        }
        match &self.limit {
            Some(limit) => limit.take(passage.cost, self.leave(limit, passage), now),
            None => Ok(()),
        }
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

    /// Returns the least time until a waiter with `ahead` turns before it can go, each of at least one unit.
    fn wait_behind(&self, ahead: usize, passage: &Passage<'_>, now: u64) -> u64 {
        let pause = self.paused_until.load(Relaxed).saturating_sub(now);
        let units = self.limit.as_ref().map_or(0, |limit| {
            let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
            let needed = ahead.saturating_add(u64::from(passage.cost.get())).saturating_mul(limit.unit);
            // What lacks until full is spent; what the burst holds beyond it is there already.
            let spent = limit.full_at.load(Relaxed).saturating_sub(now);
            needed.saturating_add(spent).saturating_sub(u64::from(limit.burst).saturating_mul(limit.unit))
        });
        // Units come back while the lane is paused, too.
        pause.max(units)
    }
}

impl Limit {
    fn take(&self, cost: NonZeroU32, leave: u32, now: u64) -> Result<(), u64> {
        // A lost race may set the clock back by the moment it took: units then come late, never early.
        if self.clock.0.load(Relaxed) < now {
            self.clock.0.store(now, Relaxed);
        }
        if leave > 0 {
            // Room for the cost and what must stay, seen from when the bucket is full.
            let room = u64::from(self.burst).saturating_sub(u64::from(leave) + u64::from(cost.get()));
            let short = (u64::from(leave) + u64::from(cost.get())).saturating_sub(u64::from(self.burst));
            let spent = self.full_at.load(Relaxed).saturating_sub(now);
            let lacking = (spent + short * self.unit).saturating_sub(room * self.unit);
            if lacking > 0 {
                return Err(lacking);
            }
        }
        match self.limiter.check_n(cost) {
            Ok(Ok(state)) => {
                let taken = u64::from(self.burst.saturating_sub(state.remaining_burst_capacity()));
                self.full_at.fetch_max(now + taken * self.unit, Relaxed);
                Ok(())
            }
            Ok(Err(not_until)) => {
                Err(u64::try_from(not_until.wait_time_from(Nanos::from(now)).as_nanos()).unwrap_or(u64::MAX).max(1))
            }
            // Checked where the operation is first seen.
            Err(_) => Err(u64::MAX),
        }
    }
}

/// Returns the nanoseconds from `origin` to `instant`; 0 before it.
pub(super) fn nanos_since(origin: Instant, instant: Instant) -> u64 {
    u64::try_from(instant.saturating_duration_since(origin).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static TEN: Bucket = Bucket { name: "ten", units: 10, per: Duration::from_secs(1), burst: 10 };
    static ONE: Bucket = Bucket { name: "one", units: 1, per: Duration::from_secs(1), burst: 1 };

    struct Scene {
        lane: Lane,
        origin: Instant,
    }

    impl Scene {
        fn new(bucket: &Bucket, reserve: f64) -> Arc<Self> {
            Arc::new(Self { lane: Lane::new(bucket, reserve).unwrap(), origin: Instant::now() })
        }

        async fn pass(&self, tenant: &str, priority: Priority, patience: Duration) -> Result<Duration, Refusal> {
            let now = Instant::now();
            let tenant = TenantId::from(tenant);
            let passage = Passage {
                tenant: &tenant,
                priority,
                cost: NonZeroU32::MIN,
                deadline: now + patience,
                origin: self.origin,
                waiting_max: 1_000,
            };
            self.lane.pass(passage, now, nanos_since(self.origin, now)).await.map(|at| at - now)
        }

        fn pause(&self, by: Duration) {
            self.lane.pause_until(nanos_since(self.origin, Instant::now() + by));
        }
    }

    const PATIENT: Duration = Duration::from_secs(3_600);

    // Fails when the limiter sleeps on a clock of its own, or grants more than the bucket.
    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_in_simulated_time() {
        let scene = Scene::new(&TEN, 0.1);
        let tasks: Vec<_> = (0..110)
            .map(|_| {
                let scene = Arc::clone(&scene);
                tokio::spawn(async move { scene.pass("t", Priority::Interactive, PATIENT).await.unwrap() })
            })
            .collect();
        let mut waits = Vec::new();
        for task in tasks {
            waits.push(task.await.unwrap());
        }
        waits.sort();
        assert_eq!(waits.iter().filter(|w| w.is_zero()).count(), 10);
        for (at, wait) in waits.iter().enumerate() {
            assert!(*wait + Duration::from_millis(1) >= Duration::from_millis(100) * (at as u32).saturating_sub(9));
        }
        assert!(*waits.last().unwrap() < Duration::from_millis(10_200), "{:?}", waits.last());
        assert_eq!(scene.lane.waiting(), 0);
    }

    // Fails when a wait past the deadline is slept before it is refused.
    #[tokio::test(start_paused = true)]
    async fn a_wait_longer_than_the_deadline_is_refused_at_once_and_takes_no_unit() {
        let scene = Scene::new(&ONE, 0.0);
        let start = Instant::now();
        scene.pass("t", Priority::Interactive, PATIENT).await.unwrap();
        let refusal = scene.pass("t", Priority::Interactive, Duration::from_millis(900)).await.unwrap_err();
        assert_eq!(refusal, Refusal { wait: Duration::from_secs(1), full: false });
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(
            scene.pass("t", Priority::Interactive, Duration::from_millis(1_000)).await,
            Ok(Duration::from_secs(1))
        );
        scene.pause(Duration::from_secs(30));
        let refusal = scene.pass("t", Priority::Interactive, Duration::from_secs(29)).await.unwrap_err();
        assert_eq!(refusal.wait, Duration::from_secs(30));
    }

    // Fails when the queue in front is not counted.
    #[tokio::test(start_paused = true)]
    async fn the_queue_in_front_counts_towards_the_wait() {
        let scene = Scene::new(&ONE, 0.0);
        scene.pass("t", Priority::Interactive, PATIENT).await.unwrap();
        for _ in 0..5 {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move { scene.pass("t", Priority::Interactive, PATIENT).await });
            tokio::task::yield_now().await;
        }
        // One holds the turn and four wait behind it.
        let refusal = scene.pass("t", Priority::Interactive, Duration::from_millis(5_900)).await.unwrap_err();
        assert_eq!(refusal.wait, Duration::from_secs(6));
        // Another tenant has its turn after the holder and one of the four.
        let refusal = scene.pass("u", Priority::Interactive, Duration::from_millis(2_900)).await.unwrap_err();
        assert_eq!(refusal.wait, Duration::from_secs(3));
        let waited = scene.pass("u", Priority::Interactive, Duration::from_millis(3_000)).await;
        assert_eq!(waited, Ok(Duration::from_secs(3)));
    }

    // Fails when a later, shorter pause replaces a longer one.
    #[tokio::test(start_paused = true)]
    async fn a_pause_never_shrinks() {
        let scene = Scene::new(&TEN, 0.0);
        scene.pause(Duration::from_secs(60));
        scene.pause(Duration::from_secs(1));
        assert_eq!(scene.pass("t", Priority::Interactive, PATIENT).await, Ok(Duration::from_secs(60)));
    }

    // Fails when background calls may spend the reserve.
    #[tokio::test(start_paused = true)]
    async fn background_leaves_the_reserve_to_interactive_calls() {
        let scene = Scene::new(&TEN, 0.3);
        let at_once = Duration::ZERO;
        for _ in 0..7 {
            assert!(scene.pass("t", Priority::Background, at_once).await.is_ok());
        }
        assert!(scene.pass("t", Priority::Background, at_once).await.is_err());
        for _ in 0..3 {
            assert!(scene.pass("t", Priority::Interactive, at_once).await.is_ok());
        }
        assert!(scene.pass("t", Priority::Interactive, at_once).await.is_err());
        // Four units must come back before background may take one and leave three.
        assert_eq!(scene.pass("t", Priority::Background, PATIENT).await, Ok(Duration::from_millis(400)));
    }

    // Fails when a background caller that waits is not overtaken.
    #[tokio::test(start_paused = true)]
    async fn interactive_calls_overtake_background_calls_that_wait() {
        let scene = Scene::new(&ONE, 0.1);
        scene.pass("t", Priority::Interactive, PATIENT).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for priority in [Priority::Background, Priority::Interactive, Priority::Interactive] {
            let (scene, order) = (Arc::clone(&scene), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                scene.pass("t", priority, PATIENT).await.unwrap();
                order.lock().unwrap().push(priority);
            }));
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [Priority::Interactive, Priority::Interactive, Priority::Background]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses() {
        let scene = Scene::new(&ONE, 0.0);
        scene.pass("t", Priority::Interactive, PATIENT).await.unwrap();
        for _ in 0..1_001 {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move { scene.pass("t", Priority::Interactive, PATIENT).await });
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(scene.pass("t", Priority::Interactive, PATIENT).await.unwrap_err().full);
    }

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
}

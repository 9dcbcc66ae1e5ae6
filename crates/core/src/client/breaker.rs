//! The breaker of a host: stops sending to a host that fails, and finds out with a few probes when it is back.
//!
//! Closed, it keeps a failure rate over ten buckets. Open, it refuses at once. After its time it is half open and
//! lets through at most `probes` attempts in all: when that many succeeded it closes, at the first failure it opens
//! again for twice as long. An attempt holds a [`Permit`] that carries the generation it was given in: a result that
//! arrives after the state has changed counts for nothing, and a dropped permit gives its place back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{BreakerSettings, BreakerState, backoff};
use crate::metrics::{Counter, Gauge};

const BUCKETS: usize = 10;

/// Closed, in [`Breaker::gate`]. Any other value is the time it may half open, or [`SHUT`].
const CLOSED: u64 = 0;
/// Half open or forced: the state must be read under the lock.
const SHUT: u64 = u64::MAX;

/// What an attempt says about the health of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It answered, whatever it thought of the request.
    Good,
    /// It timed out, broke or failed.
    Bad,
    /// It says nothing: throttled, refused credential, refused here, cancelled.
    Silent,
}

/// The breaker of one host. Times are nanoseconds on the engine's own monotonic scale.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: BreakerSettings,
    width: u64,
    gate: AtomicU64,
    generation: AtomicU64,
    inner: Mutex<Inner>,
    state_gauge: Gauge,
    trips: Counter,
}

#[derive(Debug)]
struct Inner {
    state: State,
    forced: bool,
    /// Times opened in a row without closing in between.
    streak: u32,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: u64 },
    HalfOpen { under_way: u32, succeeded: u32 },
}

#[derive(Debug, Default)]
struct Window {
    newest: u64,
    buckets: [(u32, u32); BUCKETS],
    calls: u32,
    failures: u32,
}

/// Permission for one attempt. Dropped without a result it counts for nothing.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    breaker: &'a Breaker,
    generation: u64,
    probe: bool,
    settled: bool,
}

impl Breaker {
    pub(super) fn new(settings: BreakerSettings, state_gauge: Gauge, trips: Counter) -> Self {
        let width = nanos(settings.window) / BUCKETS as u64;
        Self {
            settings,
            width: width.max(1),
            gate: AtomicU64::new(CLOSED),
            generation: AtomicU64::new(0),
            inner: Mutex::new(Inner { state: State::Closed, forced: false, streak: 0, window: Window::default() }),
            state_gauge,
            trips,
        }
    }

    /// Tells whether an attempt could go now, without taking anything; `Err` is how long to stay away.
    pub(super) fn peek(&self, now: u64) -> Result<(), Duration> {
        match self.gate.load(Ordering::Acquire) {
            CLOSED => Ok(()),
            SHUT => self.admits(&self.lock(), now).map(|_| ()),
            until if now < until => Err(Duration::from_nanos(until - now)),
            _ => Ok(()),
        }
    }

    /// Takes permission for one attempt; `Err` is how long to stay away.
    pub(super) fn acquire(&self, now: u64) -> Result<Permit<'_>, Duration> {
        let generation = self.generation.load(Ordering::Acquire);
        if self.gate.load(Ordering::Acquire) == CLOSED {
            return Ok(Permit { breaker: self, generation, probe: false, settled: false });
        }
        let mut inner = self.lock();
        let mut probe = self.admits(&inner, now)?;
        if matches!(inner.state, State::Open { .. }) && !inner.forced {
            self.enter(&mut inner, State::HalfOpen { under_way: 0, succeeded: 0 });
        }
        if let State::HalfOpen { under_way, .. } = &mut inner.state {
            *under_way += 1;
            probe = true;
        }
        Ok(Permit { breaker: self, generation: self.generation.load(Ordering::Acquire), probe, settled: false })
    }

    /// Returns until when an open breaker keeps attempts back; 0 when it is not open, or by hand and without an end.
    pub(super) fn open_until(&self) -> u64 {
        match self.gate.load(Ordering::Acquire) {
            CLOSED | SHUT => 0,
            until => until,
        }
    }

    /// Returns the state for people.
    pub(super) fn state(&self) -> BreakerState {
        match self.lock().state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Opens or closes it until [`Breaker::release`], whatever the attempts say.
    pub(super) fn force(&self, open: bool) {
        let mut inner = self.lock();
        inner.forced = true;
        let state = if open { State::Open { until: SHUT } } else { State::Closed };
        self.enter(&mut inner, state);
    }

    /// Ends a force: it starts over, closed.
    pub(super) fn release(&self) {
        let mut inner = self.lock();
        inner.forced = false;
        inner.streak = 0;
        self.enter(&mut inner, State::Closed);
    }

    /// Tells whether the state admits one more attempt; `Ok(false)` always, for the caller to refine.
    fn admits(&self, inner: &Inner, now: u64) -> Result<bool, Duration> {
        match inner.state {
            State::Closed => Ok(false),
            State::Open { until } if until == SHUT => Err(self.settings.open_max),
            State::Open { until } if now < until => Err(Duration::from_nanos(until - now)),
            State::Open { .. } => Ok(false),
            State::HalfOpen { under_way, succeeded } if under_way + succeeded < self.settings.probes => Ok(false),
            State::HalfOpen { .. } => Err(self.settings.open),
        }
    }

    fn record(&self, permit: &Permit<'_>, health: Health, now: u64, unit: f64) {
        if health == Health::Silent && !permit.probe {
            return;
        }
        let mut inner = self.lock();
        if permit.generation != self.generation.load(Ordering::Acquire) || inner.forced {
            return;
        }
        match (&mut inner.state, health) {
            (State::Closed, Health::Silent) | (State::Open { .. }, _) => {}
            (State::Closed, _) => {
                inner.window.add(now / self.width, health == Health::Bad);
                if inner.window.tripped(&self.settings) {
                    self.open(&mut inner, now, unit);
                }
            }
            (State::HalfOpen { under_way, .. }, Health::Silent) => *under_way = under_way.saturating_sub(1),
            (State::HalfOpen { .. }, Health::Bad) => self.open(&mut inner, now, unit),
            (State::HalfOpen { under_way, succeeded }, Health::Good) => {
                *under_way = under_way.saturating_sub(1);
                *succeeded += 1;
                if *succeeded >= self.settings.probes {
                    inner.streak = 0;
                    self.enter(&mut inner, State::Closed);
                }
            }
        }
    }

    fn open(&self, inner: &mut Inner, now: u64, unit: f64) {
        let doubled = self.settings.open.saturating_mul(1_u32.checked_shl(inner.streak).unwrap_or(u32::MAX));
        let time = backoff::lengthened(doubled.min(self.settings.open_max), unit);
        inner.streak = inner.streak.saturating_add(1);
        self.trips.inc();
        self.enter(inner, State::Open { until: now.saturating_add(nanos(time)).clamp(CLOSED + 1, SHUT - 1) });
    }

    /// Changes the state: a new generation, a fresh window, and what the fast path reads.
    fn enter(&self, inner: &mut Inner, state: State) {
        inner.state = state;
        inner.window = Window::default();
        self.generation.fetch_add(1, Ordering::AcqRel);
        let (gate, shown) = match state {
            State::Closed => (CLOSED, 0),
            State::HalfOpen { .. } => (SHUT, 1),
            State::Open { until } => (until, 2),
        };
        self.gate.store(gate, Ordering::Release);
        self.state_gauge.set(shown);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// Gives the result of the attempt. `took` is compared with the settings' slow limit; `unit` in `[0, 1)` spreads
    /// the end of an open time.
    pub(super) fn settle(mut self, health: Health, took: Duration, now: u64, unit: f64) {
        let slow = self.breaker.settings.slow.is_some_and(|limit| took > limit);
        let health = if slow && health == Health::Good { Health::Bad } else { health };
        self.settled = true;
        self.breaker.record(&self, health, now, unit);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.settled && self.probe {
            self.breaker.record(self, Health::Silent, 0, 0.0);
        }
    }
}

impl Window {
    fn add(&mut self, index: u64, failed: bool) {
        // A late arrival counts in the newest bucket: the index never goes back.
        let steps = index.saturating_sub(self.newest).min(BUCKETS as u64);
        for step in 1..=steps {
            let at = (self.newest + step) as usize % BUCKETS;
            if let Some(bucket) = self.buckets.get_mut(at) {
                let (calls, failures) = std::mem::take(bucket);
                self.calls -= calls;
                self.failures -= failures;
            }
        }
        if steps == BUCKETS as u64 {
            self.buckets = Default::default();
        }
        self.newest = self.newest.max(index);
        if let Some((calls, failures)) = self.buckets.get_mut((self.newest % BUCKETS as u64) as usize) {
            *calls += 1;
            *failures += u32::from(failed);
            self.calls += 1;
            self.failures += u32::from(failed);
        }
    }

    fn tripped(&self, settings: &BreakerSettings) -> bool {
        self.calls >= settings.calls_min && f64::from(self.failures) >= settings.failure_rate * f64::from(self.calls)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn breaker(settings: BreakerSettings) -> Breaker {
        Breaker::new(settings, Gauge::default(), Counter::default())
    }

    fn run(breaker: &Breaker, health: Health, times: u32, now: u64) -> u32 {
        (0..times)
            .filter(|_| match breaker.acquire(now) {
                Ok(permit) => {
                    permit.settle(health, Duration::ZERO, now, 0.0);
                    true
                }
                Err(_) => false,
            })
            .count() as u32
    }

    // Fails when it opens before `calls_min` calls, under the rate or one failure late, or tells a wait that stays.
    #[test]
    fn it_opens_at_the_rate_and_not_before_enough_calls() {
        let b = breaker(BreakerSettings::default());
        assert_eq!(run(&b, Health::Bad, 19, SECOND), 19);
        assert_eq!(b.state(), BreakerState::Closed);
        assert_eq!(run(&b, Health::Bad, 5, SECOND), 1);
        assert_eq!(b.state(), BreakerState::Open);
        assert_eq!(b.peek(SECOND), Err(Duration::from_secs(5)));
        assert_eq!(b.peek(3 * SECOND), Err(Duration::from_secs(3)));

        let b = breaker(BreakerSettings::default());
        assert_eq!(run(&b, Health::Good, 51, SECOND), 51);
        assert_eq!(run(&b, Health::Bad, 50, SECOND), 50);
        assert_eq!(run(&b, Health::Bad, 2, SECOND), 1);
    }

    // Fails when failures from before the window still count, or those inside it go with them.
    #[test]
    fn old_calls_leave_the_window() {
        let b = breaker(BreakerSettings::default());
        run(&b, Health::Bad, 19, 0);
        run(&b, Health::Bad, 1, 31 * SECOND);
        assert_eq!(b.state(), BreakerState::Closed);
        run(&b, Health::Bad, 18, 45 * SECOND);
        assert_eq!(b.state(), BreakerState::Closed);
        run(&b, Health::Bad, 1, 46 * SECOND);
        assert_eq!(b.state(), BreakerState::Open);
    }

    // Fails when a silent result counts as a failure, or one that arrives late is lost or empties the window.
    #[test]
    fn silent_results_and_other_peoples_clocks_do_not_count() {
        let b = breaker(BreakerSettings::default());
        assert_eq!(run(&b, Health::Silent, 1_000, SECOND), 1_000);
        run(&b, Health::Bad, 10, 60 * SECOND);
        run(&b, Health::Bad, 10, SECOND);
        assert_eq!(b.state(), BreakerState::Open);
    }

    // Fails when the open time does not grow, or closing does not reset it.
    #[test]
    fn reopening_doubles_the_time_up_to_the_longest_and_closing_resets_it() {
        let b = breaker(BreakerSettings::default());
        run(&b, Health::Bad, 20, 0);
        let mut now = 0;
        for expected in [5, 10, 20, 40, 60, 60] {
            assert_eq!(b.peek(now), Err(Duration::from_secs(expected)));
            now += expected * SECOND;
            assert_eq!(run(&b, Health::Bad, 10, now), 1);
        }
        now += 60 * SECOND;
        assert_eq!(run(&b, Health::Good, 10, now), 10);
        assert_eq!(b.state(), BreakerState::Closed);
        run(&b, Health::Bad, 20, now);
        run(&b, Health::Bad, 20, now);
        assert_eq!(b.peek(now), Err(Duration::from_secs(5)));
    }

    // Fails when probes are not capped, a dropped permit keeps its place, or an old result counts.
    #[test]
    fn half_open_lets_three_through_and_takes_back_what_was_dropped() {
        let b = breaker(BreakerSettings::default());
        let late = b.acquire(0).unwrap();
        run(&b, Health::Bad, 20, 0);
        let now = 5 * SECOND;
        let mut probes: Vec<_> = (0..1_000).filter_map(|_| b.acquire(now).ok()).collect();
        assert_eq!(probes.len(), 3);
        assert_eq!(b.state(), BreakerState::HalfOpen);
        probes.pop();
        assert_eq!((0..1_000).filter_map(|_| b.acquire(now).ok().map(|p| probes.push(p))).count(), 1);
        late.settle(Health::Bad, Duration::ZERO, now, 0.0);
        assert_eq!(b.state(), BreakerState::HalfOpen);
        probes.pop().unwrap().settle(Health::Bad, Duration::ZERO, now, 0.0);
        assert_eq!(b.state(), BreakerState::Open);
        for probe in probes {
            probe.settle(Health::Good, Duration::ZERO, now, 0.0);
        }
        assert_eq!(b.state(), BreakerState::Open);
        assert_eq!(b.peek(now), Err(Duration::from_secs(10)));
    }

    // Fails when an answer slower than `slow` counts as a good one.
    #[test]
    fn slow_answers_count_as_failures() {
        let b = breaker(BreakerSettings { slow: Some(Duration::from_secs(1)), ..Default::default() });
        for _ in 0..20 {
            b.acquire(0).unwrap().settle(Health::Good, Duration::from_millis(1_001), 0, 0.0);
        }
        assert_eq!(b.state(), BreakerState::Open);
    }

    // Fails when time or results end a force, or a released breaker does not trip again.
    #[test]
    fn a_force_holds_until_released() {
        let b = breaker(BreakerSettings::default());
        b.force(true);
        assert_eq!(run(&b, Health::Good, 5, u64::MAX - 5), 0);
        b.force(false);
        assert_eq!(run(&b, Health::Bad, 100, SECOND), 100);
        b.release();
        assert_eq!(run(&b, Health::Bad, 100, SECOND), 20);
    }

    proptest! {
        // Any order of attempts, drops and times: the counts stay sound and no more probes than allowed are out.
        // Fails when a dropped probe keeps its place, an old result counts, or sums and buckets of the window part.
        #[test]
        fn never_more_probes_than_allowed(steps in proptest::collection::vec((0_u8..4, 0_u64..8), 1..400)) {
            let b = breaker(BreakerSettings { calls_min: 3, ..Default::default() });
            let mut held: Vec<Permit<'_>> = Vec::new();
            let mut now = 0;
            for (what, seconds) in steps {
                now += seconds * SECOND / 4;
                match what {
                    0 | 1 => held.extend(b.acquire(now).ok()),
                    2 => if let Some(p) = held.pop() { p.settle(Health::Bad, Duration::ZERO, now, 0.5) },
                    _ => if let Some(p) = held.pop() {
                        if seconds % 2 == 0 { drop(p) } else { p.settle(Health::Good, Duration::ZERO, now, 0.5) }
                    },
                }
                let generation = b.generation.load(Ordering::Acquire);
                let out = held.iter().filter(|p| p.probe && p.generation == generation).count();
                prop_assert!(out <= 3);
                let inner = b.lock();
                let sum = inner.window.buckets.iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
                prop_assert_eq!(sum, (inner.window.calls, inner.window.failures));
                if let State::HalfOpen { under_way, succeeded } = inner.state {
                    prop_assert_eq!(under_way as usize, out);
                    prop_assert!(under_way + succeeded <= 3);
                }
            }
        }
    }
}

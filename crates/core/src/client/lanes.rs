//! All lanes of a client, in a sharded map of bounded size.
//!
//! A lane that has rested is the same as a new one, so forgetting it loses nothing: these go first. Only when more
//! accounts than [`super::LimitSettings::lanes_max`] are busy at once, the least recently used go with what they
//! remember of their burst. A lane that is paused or that a call holds is never forgotten; when nothing else is left,
//! the call is refused.
//!
//! Pauses another process was asked for wait here by name until their lanes are made.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::LimitSettings;
use super::lane::{Lane, LaneKey};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Counter, Gauge};

/// Enough that two cores seldom meet, few enough that a small bound still divides well.
const SHARDS_MAX: usize = 16;
/// The share of a full shard that is forgotten at once, so that the search for it is seldom.
const EVICTED_SHARE: usize = 8;

/// The lanes of a client.
#[derive(Debug)]
pub(super) struct Lanes {
    shards: Box<[Mutex<Shard>]>,
    shard_max: usize,
    reserve: f64,
    idle: u64,
    gauge: Gauge,
    forgotten: Counter,
    /// Until when lanes are paused that were not made yet when it was said, by their names.
    told: Mutex<HashMap<String, u64>>,
    /// Whether there are any.
    any_told: AtomicBool,
}

#[derive(Debug, Default)]
struct Shard {
    lanes: HashMap<LaneKey, Arc<Lane>>,
    swept_at: u64,
}

impl Lanes {
    pub(super) fn new(settings: &LimitSettings, gauge: Gauge, forgotten: Counter) -> Self {
        let shards = (settings.lanes_max / 64).clamp(1, SHARDS_MAX);
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            shard_max: settings.lanes_max / shards,
            reserve: settings.interactive_reserve,
            idle: u64::try_from(settings.lane_idle.as_nanos()).unwrap_or(u64::MAX),
            gauge,
            forgotten,
            told: Mutex::default(),
            any_told: AtomicBool::new(false),
        }
    }

    /// Finds or makes the lane of a key.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an impossible bucket; [`ErrorKind::Overloaded`] when every lane is in use.
    pub(super) fn lane(&self, key: &LaneKey, now: u64) -> Result<Arc<Lane>> {
        let overloaded = || Error::new(ErrorKind::Overloaded, "more accounts are in use at once than lanes are kept");
        let shard = self.shards.get(spread(key) % self.shards.len().max(1)).ok_or_else(overloaded)?;
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = shard.lanes.get(key) {
            return Ok(Arc::clone(lane));
        }
        let lane = Arc::new(Lane::new(key.bucket.0, self.reserve)?);
        self.make_room(&mut shard, now);
        if shard.lanes.len() >= self.shard_max {
            return Err(overloaded().with_retry_after(Some(Duration::from_secs(1))));
        }
        if self.any_told.load(Ordering::Acquire) {
            self.heed(key, &lane);
        }
        shard.lanes.insert(key.clone(), Arc::clone(&lane));
        self.gauge.inc();
        Ok(lane)
    }

    /// Pauses lanes by their names, those that are there and those that will be made. Beyond as many as lanes are kept,
    /// no more are remembered.
    pub(super) fn restore(&self, pauses: &HashMap<String, u64>, now: u64) {
        let mut told = self.told();
        told.retain(|_, until| *until > now);
        for (name, until) in pauses {
            if told.len() < self.shard_max * self.shards.len() || told.contains_key(name) {
                let kept = told.entry(name.clone()).or_default();
                *kept = (*kept).max(*until);
            }
        }
        self.any_told.store(!told.is_empty(), Ordering::Release);
        drop(told);
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, lane) in &shard.lanes {
                if let Some(until) = pauses.get(&key.to_string()) {
                    lane.pause_until(*until);
                }
            }
        }
    }

    /// Gives a new lane the pause it was told of.
    fn heed(&self, key: &LaneKey, lane: &Lane) {
        let mut told = self.told();
        if let Some(until) = told.remove(&key.to_string()) {
            lane.pause_until(until);
        }
        if told.is_empty() {
            self.any_told.store(false, Ordering::Release);
        }
    }

    fn told(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the lanes kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).lanes.len()).sum()
    }

    fn make_room(&self, shard: &mut Shard, now: u64) {
        let full = shard.lanes.len() >= self.shard_max;
        if !full && now.saturating_sub(shard.swept_at) < self.idle {
            return;
        }
        shard.swept_at = now;
        let before = shard.lanes.len();
        let idle_since = now.saturating_sub(self.idle);
        shard.lanes.retain(|_, lane| {
            let forgettable = Arc::strong_count(lane) == 1 && lane.is_rested(now);
            !(forgettable && (full || lane.used_at() <= idle_since))
        });
        if shard.lanes.len() >= self.shard_max {
            self.forget_oldest(shard, now);
        }
        let gone = before - shard.lanes.len();
        (0..gone).for_each(|_| self.gauge.dec());
    }

    /// Forgets the least recently used lanes that nobody holds and that are not paused.
    fn forget_oldest(&self, shard: &mut Shard, now: u64) {
        let free = |lane: &Arc<Lane>| Arc::strong_count(lane) == 1 && !lane.is_paused(now);
        let mut ages: Vec<u64> = shard.lanes.values().filter(|lane| free(lane)).map(|lane| lane.used_at()).collect();
        let quota = (self.shard_max / EVICTED_SHARE).max(1);
        if ages.is_empty() {
            return;
        }
        let last = quota.min(ages.len()) - 1;
        let (_, limit, _) = ages.select_nth_unstable(last);
        let limit = *limit;
        let mut left = quota;
        shard.lanes.retain(|_, lane| {
            let goes = left > 0 && free(lane) && lane.used_at() <= limit;
            left -= usize::from(goes);
            !goes
        });
        self.forgotten.add((quota - left) as u64);
    }
}

/// Chooses the shard by the end of the connection's id, where ids differ. It only spreads the locks; the map inside
/// hashes by itself, so nothing is lost when someone chooses ids badly on purpose but the bound of one shard.
fn spread(key: &LaneKey) -> usize {
    let id = key.connection.as_ref().map_or("", |connection| connection.as_str()).as_bytes();
    let end = id.iter().rev().take(8).fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    (end.wrapping_mul(0x9e37_79b9) >> 16) as usize
}

#[cfg(test)]
mod tests {
    use super::super::lane::BucketKey;
    use super::*;
    use crate::call::{Bucket, Scope};
    use crate::id::ConnectionId;

    static BUCKET: Bucket = Bucket { name: "b", units: 100, per: Duration::from_secs(1), burst: 100 };

    fn key(n: usize) -> LaneKey {
        LaneKey {
            connection: Some(ConnectionId::from(format!("c{n}"))),
            part: None,
            bucket: BucketKey(&BUCKET),
            scope: Scope::Operation,
        }
    }

    fn lanes(max: usize) -> Lanes {
        let settings = LimitSettings { lanes_max: max, ..Default::default() };
        Lanes::new(&settings, Gauge::default(), Counter::default())
    }

    // Fails when lanes are never forgotten.
    #[test]
    fn accounts_without_end_leave_a_bounded_number_of_lanes() {
        // A hundred times the bound shows the same as a million accounts over the default one, and quicker.
        let lanes = lanes(1_000);
        for n in 0..100_000 {
            lanes.lane(&key(n), n as u64).unwrap();
            assert!(n % 1_000 != 0 || lanes.len() <= 1_000);
        }
        assert!(lanes.len() <= 1_000);
        assert_eq!(lanes.gauge.value(), lanes.len() as i64);
        assert_eq!(lanes.forgotten.value(), 0, "unused lanes are rested: nothing was lost");
    }

    // Fails when a paused lane, or one that a call holds, is forgotten.
    #[test]
    fn paused_and_held_lanes_stay_whatever_comes() {
        let lanes = lanes(64);
        lanes.lane(&key(0), 0).unwrap().pause_until(1_000_000);
        let held = lanes.lane(&key(1), 0).unwrap();
        for n in 2..10_000 {
            lanes.lane(&key(n), n as u64).unwrap();
        }
        assert!(lanes.lane(&key(0), 10_000).unwrap().is_paused(10_000));
        assert!(Arc::ptr_eq(&held, &lanes.lane(&key(1), 10_000).unwrap()));
        assert!(lanes.len() <= 64);
    }

    // Fails when a pause reaches only the lanes that are there, or only those that are not; or when names without end are
    // remembered.
    #[test]
    fn pauses_are_restored_by_name_whenever_the_lane_is_made() {
        let lanes = lanes(64);
        let there = lanes.lane(&key(1), 0).unwrap();
        let pauses = |numbers: std::ops::Range<usize>, until| {
            numbers.map(|n| (key(n).to_string(), until)).collect::<HashMap<_, _>>()
        };
        lanes.restore(&pauses(1..3, 50), 0);
        lanes.restore(&pauses(1..3, 40), 10);
        let made = lanes.lane(&key(2), 10).unwrap();
        for lane in [&there, &made] {
            assert!(lane.is_paused(49) && !lane.is_paused(50));
        }
        assert!(!lanes.lane(&key(3), 10).unwrap().is_paused(10));
        lanes.restore(&pauses(100..1_000, 90), 60);
        assert_eq!(lanes.told().len(), 64, "and what is over went");
        lanes.restore(&HashMap::new(), 90);
        assert!(!lanes.any_told.load(Ordering::Acquire));
    }

    #[test]
    fn when_all_are_in_use_a_new_account_is_refused() {
        let lanes = lanes(8);
        let held: Vec<_> = (0..8).map(|n| lanes.lane(&key(n), 0).unwrap()).collect();
        assert_eq!(lanes.lane(&key(9), 0).unwrap_err().kind(), ErrorKind::Overloaded);
        drop(held);
        assert!(lanes.lane(&key(9), 0).is_ok());
    }

    #[test]
    fn idle_lanes_go_without_pressure() {
        let lanes = lanes(1_000);
        (0..500).for_each(|n| drop(lanes.lane(&key(n), 0).unwrap()));
        let later = 700_000_000_000;
        (500..1_000).for_each(|n| drop(lanes.lane(&key(n), later).unwrap()));
        assert!(lanes.len() <= 500, "{}", lanes.len());
    }

    #[test]
    fn equal_buckets_share_a_lane_and_parts_do_not() {
        static TWIN: Bucket = Bucket { name: "b", units: 100, per: Duration::from_secs(1), burst: 100 };
        let lanes = lanes(100);
        let one = lanes.lane(&key(1), 0).unwrap();
        let twin = lanes.lane(&LaneKey { bucket: BucketKey(&TWIN), ..key(1) }, 0).unwrap();
        let part = lanes.lane(&LaneKey { part: Some("channel".into()), ..key(1) }, 0).unwrap();
        assert!(Arc::ptr_eq(&one, &twin));
        assert!(!Arc::ptr_eq(&one, &part));
    }
}

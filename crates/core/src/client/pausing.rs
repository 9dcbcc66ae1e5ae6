//! What the engine does with a wait the provider asks for: the lanes it concerns are held back, whoever stores pauses is
//! told, and what was stored is heeded again after a start.

use std::collections::HashMap;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::backoff;
use super::engine::{Engine, Route};
use super::lane::{LaneKey, whose};
use super::retry_after::HINT_MAX;
use super::{Learned, PAUSE_TOLD_MIN, PauseObserver};
use crate::call::Scope;
use crate::store::Pause;

/// The longest name of a lane that is told of. A caller that names longer parts has pauses of this process only.
const LANE_BYTES_MAX: usize = 1_024;
/// What a pause that is told of is longer than the pause itself: whatever was cut off when the moments were rounded down.
const ROUNDED_OFF: Duration = Duration::from_millis(2);

impl Engine {
    /// Heeds what an answer tells of the limits, and returns how long until they begin anew.
    pub(super) fn learn(&self, learned: &Learned, to: &Route<'_>, headers: &HeaderMap) -> Option<Duration> {
        let told = learned.read(headers, &*self.clock);
        if let Some(unit) = told.unit {
            to.way.learn(learned.scope, nanos(unit), learned.may_raise);
        }
        if let Some(wait) = told.used_up {
            self.pause(to, learned.scope, wait, Instant::now());
        }
        told.reset
    }

    /// Holds back all who share what the provider has asked to leave alone for a while.
    pub(super) fn pause(&self, to: &Route<'_>, scope: Scope, wait: Duration, now: Instant) {
        let now = self.moment(now);
        let until = now.saturating_add(nanos(wait));
        let watched = self.pause_observer.as_ref().filter(|_| wait >= PAUSE_TOLD_MIN);
        to.way.pause_until(scope, until, |key| {
            self.held.note(key.connection.as_ref(), until, now);
            if let Some(observer) = watched {
                self.tell(&**observer, key, wait);
            }
        });
    }

    fn tell(&self, observer: &dyn PauseObserver, key: &LaneKey, wait: Duration) {
        let lane = key.to_string();
        if lane.len() > LANE_BYTES_MAX {
            return;
        }
        let at = self.clock.now();
        let until = at.plus(wait).plus(ROUNDED_OFF);
        observer.paused(Pause { provider: self.profile.provider.to_owned(), lane, at, until });
    }

    /// Holds back the lanes of pauses that a process was asked for, this one or another.
    pub(super) fn restore(&self, pauses: &[Pause]) {
        // As long as a pause of this process can get.
        let longest = backoff::lengthened(HINT_MAX, 1.0).saturating_add(ROUNDED_OFF);
        let (now, wall) = (self.moment(Instant::now()), self.clock.now());
        let mut lanes = HashMap::new();
        for pause in pauses.iter().filter(|pause| pause.provider == self.profile.provider) {
            let Some(whose) = whose(&pause.lane) else { continue };
            // A clock that was set back makes a pause no longer than it was.
            let left = pause.until.since(wall).min(pause.until.since(pause.at)).min(longest);
            if !left.is_zero() {
                let until = now.saturating_add(nanos(left));
                self.held.note(whose.as_ref(), until, now);
                let kept: &mut u64 = lanes.entry(pause.lane.clone()).or_default();
                *kept = until.max(*kept);
            }
        }
        if !lanes.is_empty() {
            self.lanes.restore(&lanes, now);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

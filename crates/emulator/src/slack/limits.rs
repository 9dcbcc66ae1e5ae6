//! Slack's limits as it publishes them: by method, workspace and app in tiers a minute, by channel for posting.
//!
//! Numbers from `rate_limit_tiers.json` of the official Java SDK and docs.slack.dev (rate limits), read November 2026.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::gate::Limit;

/// What limits by the minute are counted over: a second less, for requests that were on their way.
const WINDOW: Duration = Duration::from_secs(59);
/// How many lanes are measured; when there are more, the measure begins anew.
const LANES_MAX: usize = 100_000;

/// How a method is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rate {
    /// Tier 1 to 4.
    Tier(usize),
    /// Tier 3, or one a minute for commercial apps outside the Marketplace.
    History,
    /// By channel, with a ceiling for the workspace.
    Post,
    /// Some hundreds a minute.
    Special,
}

/// How much an app may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Whether they hold at all.
    pub enforced: bool,
    /// Calls a minute in tiers 1 to 4.
    pub tiers: [u32; 4],
    /// Calls a minute of methods with a special tier (`auth.test`).
    pub special: u32,
    /// Messages that may come at once in one channel; one a second after that.
    pub channel_burst: u32,
    /// Messages a minute in a whole workspace.
    pub workspace_posts: u32,
    /// Whether the app is commercial and outside the Marketplace: history and replies once a minute, 15 at a time.
    pub outside_marketplace: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            enforced: true,
            tiers: [1, 20, 50, 100],
            special: 600,
            channel_burst: 3,
            workspace_posts: 300,
            outside_marketplace: false,
        }
    }
}

impl Limits {
    /// Gives limits that never hold.
    #[must_use]
    pub fn none() -> Self {
        Self { enforced: false, ..Self::default() }
    }

    fn per_minute(&self, rate: Rate) -> u32 {
        match rate {
            Rate::Tier(tier) => self.tiers.get(tier.saturating_sub(1)).copied().unwrap_or(u32::MAX),
            Rate::History if self.outside_marketplace => 1,
            Rate::History => self.tiers.get(2).copied().unwrap_or(u32::MAX),
            Rate::Post => self.workspace_posts,
            Rate::Special => self.special,
        }
    }
}

/// What was admitted lately.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) limits: Limits,
    windows: HashMap<String, VecDeque<Instant>>,
    channels: HashMap<String, (f64, Instant)>,
}

impl Meter {
    /// Begins to measure against these limits.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Admits a call, or says how long to wait. `place` is method and workspace, `channel` where a message goes.
    pub(crate) fn admit(&mut self, rate: Rate, place: &str, channel: Option<&str>, now: Instant) -> Option<Limit> {
        if !self.limits.enforced {
            return None;
        }
        if self.windows.len() + self.channels.len() > LANES_MAX {
            self.windows.clear();
            self.channels.clear();
        }
        let most = self.limits.per_minute(rate) as usize;
        let window = self.windows.entry(place.to_owned()).or_default();
        while window.front().is_some_and(|at| now.saturating_duration_since(*at) >= WINDOW) {
            window.pop_front();
        }
        if let Some(oldest) = window.front().filter(|_| window.len() >= most) {
            let wait = WINDOW.saturating_sub(now.saturating_duration_since(*oldest));
            return Some(Limit { reason: if rate == Rate::Post { "workspace" } else { "tier" }, wait: whole(wait) });
        }
        if let Some(channel) = channel.filter(|_| rate == Rate::Post) {
            let room = f64::from(self.limits.channel_burst.max(1));
            let (tokens, at) = self.channels.entry(channel.to_owned()).or_insert((room, now));
            *tokens = (*tokens + now.saturating_duration_since(*at).as_secs_f64()).min(room);
            *at = now;
            // A hair under a whole token is a whole one: callers that space out exactly must pass.
            if *tokens < 0.98 {
                return Some(Limit { reason: "channel", wait: Duration::from_secs(1) });
            }
            *tokens = (*tokens - 1.0).max(0.0);
        }
        window.push_back(now);
        None
    }
}

/// Rounds up to whole seconds, which is all that `Retry-After` can say.
fn whole(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tier_is_so_many_in_any_minute() {
        let mut meter = Meter::default();
        let mut ask = |rate: Rate, place: &str| meter.admit(rate, place, None, Instant::now());
        for _ in 0..20 {
            assert_eq!(ask(Rate::Tier(2), "users.list T1"), None);
        }
        let over = ask(Rate::Tier(2), "users.list T1").unwrap();
        assert_eq!((over.reason, over.wait), ("tier", WINDOW));
        assert_eq!(ask(Rate::Tier(2), "users.list T2"), None, "another workspace has its own");
        assert_eq!(ask(Rate::Tier(1), "apps.uninstall T1"), None);
        assert!(ask(Rate::Tier(1), "apps.uninstall T1").is_some());
        tokio::time::advance(over.wait).await;
        assert_eq!(ask(Rate::Tier(2), "users.list T1"), None, "after the wait it was told");
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_takes_one_a_second() {
        let mut meter = Meter::default();
        let mut post = |channel: &str| meter.admit(Rate::Post, "chat.postMessage T1", Some(channel), Instant::now());
        for _ in 0..3 {
            assert_eq!(post("C1"), None);
        }
        assert_eq!(post("C1").unwrap().reason, "channel");
        assert_eq!(post("C2"), None, "another channel has its own");
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(post("C1"), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn history_is_scarce_outside_the_marketplace() {
        let mut meter = Meter { limits: Limits { outside_marketplace: true, ..Limits::default() }, ..Meter::default() };
        assert_eq!(meter.admit(Rate::History, "h", None, Instant::now()), None);
        assert!(meter.admit(Rate::History, "h", None, Instant::now()).is_some());
        meter.limits = Limits::none();
        assert_eq!(meter.admit(Rate::History, "h", None, Instant::now()), None);
    }
}

//! Google's quotas: units a minute for Gmail, requests a minute for Calendar, by user and by project.
//!
//! Numbers and costs from the APIs' usage-limits pages (read November 2026; Gmail's are those of projects made since
//! May 2026). Gmail answers 429 and writes into its message when to come back; Calendar answers 403.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::refusal::Refusal;
use super::when;

/// What limits by the minute are counted over: a second less, for requests that were on their way.
const WINDOW: Duration = Duration::from_secs(59);
/// How many users are measured; when there are more, the measure begins anew.
const USERS_MAX: usize = 100_000;

/// How much an app may ask for in a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quotas {
    /// Whether they hold at all.
    pub enforced: bool,
    /// Units of Gmail a user.
    pub gmail_user: u64,
    /// Units of Gmail in all.
    pub gmail_project: u64,
    /// Requests to Calendar a user.
    pub calendar_user: u64,
    /// Requests to Calendar in all.
    pub calendar_project: u64,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            enforced: true,
            gmail_user: 6_000,
            gmail_project: 1_200_000,
            calendar_user: 600,
            calendar_project: 10_000,
        }
    }
}

impl Quotas {
    /// Gives quotas that never hold.
    #[must_use]
    pub fn none() -> Self {
        Self { enforced: false, ..Self::default() }
    }
}

/// Which API a request is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Api {
    Gmail,
    Calendar,
}

/// What was spent lately.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) quotas: Quotas,
    windows: HashMap<(Api, Option<String>), Window>,
}

#[derive(Debug, Default)]
struct Window {
    spent: VecDeque<(Instant, u64)>,
    sum: u64,
    peak: u64,
    total: u64,
}

impl Window {
    fn clear(&mut self, now: Instant) {
        while let Some((at, units)) = self.spent.front().copied() {
            if now.saturating_duration_since(at) < WINDOW {
                break;
            }
            self.spent.pop_front();
            self.sum -= units;
        }
    }
}

impl Meter {
    /// Begins to measure against these quotas.
    pub(crate) fn new(quotas: Quotas) -> Self {
        Self { quotas, windows: HashMap::new() }
    }

    /// Gives the most units of any minute and all units, for a user or the project.
    pub(crate) fn spent(&self, api: Api, user: Option<&str>) -> (u64, u64) {
        let window = self.windows.get(&(api, user.map(str::to_owned)));
        window.map_or((0, 0), |window| (window.peak, window.total))
    }

    /// Takes the units of a request, or says which quota is used up and for how long.
    pub(crate) fn take(
        &mut self,
        api: Api,
        user: &str,
        units: u64,
        now: Instant,
    ) -> Result<(), (&'static str, Duration)> {
        if self.windows.len() > USERS_MAX {
            self.windows.clear();
        }
        let quotas = &self.quotas;
        let (of_user, of_project) = match api {
            Api::Gmail => (quotas.gmail_user, quotas.gmail_project),
            Api::Calendar => (quotas.calendar_user, quotas.calendar_project),
        };
        let enforced = quotas.enforced;
        let places = [(Some(user.to_owned()), of_user, "user"), (None, of_project, "project")];
        for (user, most, name) in &places {
            let window = self.windows.entry((api, user.clone())).or_default();
            window.clear(now);
            if enforced && window.sum + units > *most {
                let oldest = window.spent.front().map_or(now, |(at, _)| *at);
                return Err((name, WINDOW.saturating_sub(now.saturating_duration_since(oldest))));
            }
        }
        for (user, ..) in places {
            let window = self.windows.entry((api, user)).or_default();
            window.spent.push_back((now, units));
            window.sum += units;
            window.total += units;
            window.peak = window.peak.max(window.sum);
        }
        Ok(())
    }
}

/// Words a quota that is used up, as each API does.
pub(crate) fn refusal(api: Api, of: &str, wait: Duration, now: i64) -> Refusal {
    match (api, of) {
        (Api::Gmail, "user") => {
            let wait = i64::try_from(wait.as_millis()).unwrap_or(0);
            let message = format!("User-rate limit exceeded.  Retry after {}", when::stamp(now.saturating_add(wait)));
            Refusal::new(429, "rateLimitExceeded", message)
        }
        (Api::Gmail, _) => Refusal::new(429, "rateLimitExceeded", "Quota exceeded for quota metric 'Queries'"),
        (Api::Calendar, "user") => {
            Refusal::new(403, "userRateLimitExceeded", "User Rate Limit Exceeded").of("usageLimits")
        }
        (Api::Calendar, _) => Refusal::new(403, "rateLimitExceeded", "Rate Limit Exceeded").of("usageLimits"),
    }
}

/// Gives what a request to Gmail costs; `rest` is its path behind the user.
pub(crate) fn units(method: &Method, rest: &[&str]) -> u64 {
    match (method.as_str(), rest) {
        ("GET", ["profile"] | ["labels", ..]) => 1,
        ("GET", ["history"]) => 2,
        ("GET", ["messages"]) | ("POST", ["labels"] | ["messages", _, "modify" | "trash" | "untrash"]) => 5,
        ("DELETE", ["messages", _]) => 10,
        ("POST", ["messages", "batchModify" | "batchDelete"] | ["stop"]) => 50,
        ("GET", ["messages", ..]) => 20,
        _ => 100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minute_holds_so_many_units_and_another_user_has_its_own() {
        let mut meter = Meter::new(Quotas { gmail_project: 9_000, ..Quotas::default() });
        let mut take = |user: &str, units| meter.take(Api::Gmail, user, units, Instant::now()).map_err(|(of, _)| of);
        for _ in 0..60 {
            assert_eq!(take("a", 100), Ok(()));
        }
        assert_eq!((take("a", 1), take("b", 3_000), take("b", 1)), (Err("user"), Ok(()), Err("project")));
        tokio::time::advance(WINDOW).await;
        assert_eq!(take("a", 100), Ok(()));
        assert_eq!(meter.spent(Api::Gmail, Some("a")), (6_000, 6_100));
        meter.quotas = Quotas::none();
        assert_eq!(meter.take(Api::Gmail, "a", 100_000, Instant::now()), Ok(()));
    }

    #[test]
    fn requests_cost_what_google_says() {
        let post = |rest: &[&str]| units(&Method::POST, rest);
        let get = |rest: &[&str]| units(&Method::GET, rest);
        assert_eq!((post(&["messages", "send"]), post(&["watch"]), post(&["stop"])), (100, 100, 50));
        assert_eq!((post(&["messages", "m", "modify"]), post(&["messages", "batchModify"])), (5, 50));
        assert_eq!(
            (get(&["messages"]), get(&["messages", "m"]), get(&["messages", "m", "attachments", "a"])),
            (5, 20, 20)
        );
        assert_eq!((get(&["history"]), get(&["profile"]), get(&["labels"])), (2, 1, 1));
        assert_eq!(units(&Method::DELETE, &["messages", "m"]), 10);
    }
}

//! The fault dials: what goes wrong, where, how often; settable while requests run.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::dice::Dice;

/// One thing that can go wrong with one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// Nothing: the request passes, whatever the probabilities say.
    Pass,
    /// Waits, then goes on as usual.
    Latency(Duration),
    /// Answers this status before anything changed.
    Status(u16),
    /// Makes the change and then answers this status; the answer is kept for the idempotency key.
    StatusAfter(u16),
    /// Answers 429 before anything changed.
    Throttle(RetryAfter),
    /// Answers 429 `lock_timeout`, as for two writers on one object.
    LockTimeout,
    /// Resets the connection before anything changed.
    ResetBefore,
    /// Makes the change and resets the connection without an answer.
    ResetAfter,
    /// Makes the change, answers, and closes in the middle of the body.
    CutBody,
    /// Never answers; nothing changed.
    HangBefore,
    /// Makes the change and never answers.
    HangAfter,
    /// Makes the change and gives the answer only after a wait.
    LatencyAfter(Duration),
    /// Makes the change and answers with its status, its content type and a body that is not JSON.
    Garbage,
    /// Makes the change and answers with its status and an HTML page, as a proxy in between would.
    Html,
    /// Refuses in the provider's own form with this code (`invalid_client`, `invalid_grant`, …), nothing changed.
    Refuse(String),
    /// The provider is down ([`Faults::outage`]): 503 before anything changed, counted apart from other errors.
    Outage,
}

impl Fault {
    /// Gives the name the ledger counts it under.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Latency(_) => "latency",
            Self::Status(_) => "status",
            Self::StatusAfter(_) => "status_after",
            Self::Throttle(RetryAfter::None) => "throttle",
            Self::Throttle(RetryAfter::Seconds(_)) => "throttle_seconds",
            Self::Throttle(RetryAfter::Date(_)) => "throttle_date",
            Self::LockTimeout => "lock_timeout",
            Self::ResetBefore => "reset_before",
            Self::ResetAfter => "reset_after",
            Self::CutBody => "cut_body",
            Self::HangBefore => "hang_before",
            Self::HangAfter => "hang_after",
            Self::LatencyAfter(_) => "latency_after",
            Self::Garbage => "garbage",
            Self::Html => "html",
            Self::Refuse(_) => "refuse",
            Self::Outage => "outage",
        }
    }
}

/// How a 429 says when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RetryAfter {
    /// Not at all, as Stripe itself does.
    #[default]
    None,
    /// `Retry-After: <seconds>`.
    Seconds(u64),
    /// `Retry-After: <HTTP date>`, so many seconds from the emulator's now.
    Date(u64),
}

impl RetryAfter {
    /// Gives the wait it asks for.
    pub(crate) fn wait(self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::Seconds(seconds) | Self::Date(seconds) => Some(Duration::from_secs(seconds)),
        }
    }
}

/// The dials of one route. Probabilities are 0 to 1 and are drawn independently per request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteFaults {
    /// `*`, a route such as `POST /v1/customers` or `GET /v1/customers/{id}`, or a beginning such as `GET *`, `POST /v1/*`.
    pub route: String,
    /// The next requests get exactly these, before any probability.
    pub next: VecDeque<Fault>,
    /// Shortest and longest wait before the request runs.
    pub latency: Option<(Duration, Duration)>,
    /// Probability of an error status before the change.
    pub error: f64,
    /// Statuses an error chooses from, with weights.
    pub statuses: Vec<(u16, u32)>,
    /// Probability of 500 after the change was made.
    pub error_after: f64,
    /// Probability of a 429.
    pub throttle: f64,
    /// What a 429 says about when to come back.
    pub retry_after: RetryAfter,
    /// Requests a second that pass; more get a true 429. On `*` it is the account's limit, else the endpoint's.
    pub budget: Option<u32>,
    /// How many requests may come at once within the budget; the budget itself when absent.
    pub burst: Option<u32>,
    /// Probability of a 429 `lock_timeout`.
    pub lock_timeout: f64,
    /// Probability of a body cut in the middle.
    pub cut_body: f64,
    /// Probability of a reset before the change.
    pub reset_before: f64,
    /// Probability of a reset after the change.
    pub reset_after: f64,
    /// Probability of no answer, nothing changed.
    pub hang_before: f64,
    /// Probability of no answer after the change.
    pub hang_after: f64,
}

impl Default for RouteFaults {
    fn default() -> Self {
        Self {
            route: "*".to_owned(),
            next: VecDeque::new(),
            latency: None,
            error: 0.0,
            statuses: vec![(500, 1), (502, 1), (503, 1), (504, 1)],
            error_after: 0.0,
            throttle: 0.0,
            retry_after: RetryAfter::None,
            budget: None,
            burst: None,
            lock_timeout: 0.0,
            cut_body: 0.0,
            reset_before: 0.0,
            reset_after: 0.0,
            hang_before: 0.0,
            hang_after: 0.0,
        }
    }
}

impl RouteFaults {
    fn draw(&self, dice: &mut Dice) -> Option<Fault> {
        let table = [
            (self.reset_before, Fault::ResetBefore),
            (self.hang_before, Fault::HangBefore),
            (self.throttle, Fault::Throttle(self.retry_after)),
            (self.lock_timeout, Fault::LockTimeout),
            (self.error_after, Fault::StatusAfter(500)),
            (self.reset_after, Fault::ResetAfter),
            (self.hang_after, Fault::HangAfter),
            (self.cut_body, Fault::CutBody),
        ];
        if dice.chance(self.error) {
            return Some(Fault::Status(self.status(dice)));
        }
        table.into_iter().find_map(|(probability, fault)| dice.chance(probability).then_some(fault))
    }

    fn status(&self, dice: &mut Dice) -> u16 {
        let total: u64 = self.statuses.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut at = dice.below(total);
        for (status, weight) in &self.statuses {
            if at < u64::from(*weight) {
                return *status;
            }
            at -= u64::from(*weight);
        }
        500
    }
}

/// What webhooks suffer. Probabilities are 0 to 1, per delivery.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookFaults {
    /// Sends the same event twice.
    pub duplicate: f64,
    /// Holds a delivery back for a moment so that later ones overtake it.
    pub reorder: f64,
    /// Never sends the event: only `/v1/events` knows of it.
    pub drop: f64,
    /// Shortest and longest extra wait of every delivery.
    pub late: Option<(Duration, Duration)>,
    /// Sends, beside the true one, a forged delivery with a wrong signature.
    pub forge: f64,
    /// Sends, beside the true one, the true body with an old timestamp (a replay attack).
    pub replay: f64,
}

/// A token bucket: the budget of one route.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

#[derive(Debug, Default)]
struct Book {
    routes: Vec<RouteFaults>,
    webhooks: WebhookFaults,
    buckets: HashMap<String, Bucket>,
    outage: bool,
}

/// What was decided for one request.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) latency: Duration,
    /// How long the answer is held back once the change was made.
    pub(crate) latency_after: Duration,
    pub(crate) fault: Option<Fault>,
    /// Set when a budget ran out: the reason and what the 429 says.
    pub(crate) over: Option<(&'static str, RetryAfter)>,
}

/// A handle to the dials; clones turn the same dials.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    book: Arc<Mutex<Book>>,
}

impl Faults {
    fn with<T>(&self, work: impl FnOnce(&mut Book) -> T) -> T {
        work(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the dials of a route, replacing what it had.
    pub fn set(&self, faults: RouteFaults) {
        self.with(|book| {
            book.buckets.remove(&faults.route);
            book.routes.retain(|known| known.route != faults.route);
            book.routes.push(faults);
            // The most telling pattern is asked first: exact routes, then the longest beginning, `*` last.
            book.routes.sort_by_key(|known| (known.route.ends_with('*'), std::cmp::Reverse(known.route.len())));
        });
    }

    /// Appends exact faults for the next requests of a route, keeping its other dials.
    pub fn next(&self, route: &str, faults: impl IntoIterator<Item = Fault>) {
        let mut faults: VecDeque<Fault> = faults.into_iter().collect();
        let known = self.with(|book| {
            let slot = book.routes.iter_mut().find(|slot| slot.route == route);
            slot.map(|slot| slot.next.append(&mut faults)).is_some()
        });
        if !known {
            self.set(RouteFaults { route: route.to_owned(), next: faults, ..RouteFaults::default() });
        }
    }

    /// Removes the dials of a route.
    pub fn clear(&self, route: &str) {
        self.with(|book| {
            book.routes.retain(|known| known.route != route);
            book.buckets.remove(route);
        });
    }

    /// Removes all dials, webhooks' too.
    pub fn clear_all(&self) {
        self.with(|book| *book = Book::default());
    }

    /// Sets what webhooks suffer.
    pub fn webhooks(&self, faults: WebhookFaults) {
        self.with(|book| book.webhooks = faults);
    }

    /// Takes the provider down, or brings it back: while it is down, every request gets [`Fault::Outage`] and the other
    /// dials wait as they stand. Webhooks go on.
    pub fn outage(&self, on: bool) {
        self.with(|book| book.outage = on);
    }

    /// Gives the dials as they stand.
    #[must_use]
    pub fn current(&self) -> (Vec<RouteFaults>, WebhookFaults) {
        self.with(|book| (book.routes.clone(), book.webhooks.clone()))
    }

    /// Gives what webhooks suffer.
    pub(crate) fn of_webhooks(&self) -> WebhookFaults {
        self.with(|book| book.webhooks.clone())
    }

    /// Decides what happens to a request.
    pub(crate) fn judge(&self, route: &str, now: Instant, dice: &mut Dice) -> Verdict {
        self.with(|book| {
            let mut verdict = Verdict::default();
            if book.outage {
                verdict.fault = Some(Fault::Outage);
                return verdict;
            }
            if book.routes.is_empty() {
                return verdict;
            }
            let Book { routes, buckets, .. } = book;
            for faults in routes.iter_mut().filter(|faults| matches(&faults.route, route)) {
                if verdict.fault.is_none()
                    && let Some(next) = faults.next.pop_front()
                {
                    verdict.fault = Some(next);
                }
                if let Some((from, to)) = faults.latency.filter(|_| verdict.latency.is_zero()) {
                    verdict.latency = between(dice, from, to);
                }
                if verdict.over.is_none() && !admit(buckets, faults, now) {
                    let reason = if faults.route == "*" { "global-rate" } else { "endpoint-rate" };
                    verdict.over = Some((reason, faults.retry_after));
                }
                if verdict.fault.is_none() {
                    verdict.fault = faults.draw(dice);
                }
            }
            match verdict.fault {
                Some(Fault::Latency(wait)) => verdict.latency += wait,
                Some(Fault::LatencyAfter(wait)) => verdict.latency_after = wait,
                _ => {}
            }
            verdict
        })
    }
}

/// Draws a duration between two.
pub(crate) fn between(dice: &mut Dice, from: Duration, to: Duration) -> Duration {
    let span = u64::try_from(to.saturating_sub(from).as_micros()).unwrap_or(u64::MAX);
    from + Duration::from_micros(dice.below(span.saturating_add(1)))
}

fn matches(pattern: &str, route: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => route.starts_with(prefix),
        None => pattern == route,
    }
}

fn admit(buckets: &mut HashMap<String, Bucket>, faults: &RouteFaults, now: Instant) -> bool {
    let Some(budget) = faults.budget else { return true };
    let room = f64::from(faults.burst.unwrap_or(budget).max(1));
    let bucket = buckets.entry(faults.route.clone()).or_insert(Bucket { tokens: room, at: now });
    let gained = now.saturating_duration_since(bucket.at).as_secs_f64() * f64::from(budget);
    bucket.tokens = (bucket.tokens + gained).min(room);
    bucket.at = now;
    if bucket.tokens < 1.0 {
        return false;
    }
    bucket.tokens -= 1.0;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(faults: &Faults, route: &str) -> Option<Fault> {
        faults.judge(route, Instant::now(), &mut Dice(1)).fault
    }

    // Fails when a script or a budget lets something through while the provider is down, or is used up by it.
    #[test]
    fn an_outage_covers_everything_and_leaves_the_other_dials_as_they_are() {
        let faults = Faults::default();
        faults.next("GET /v1/customers", [Fault::Pass, Fault::CutBody]);
        faults.outage(true);
        for route in ["GET /v1/customers", "POST /v1/customers"] {
            assert_eq!(verdict(&faults, route), Some(Fault::Outage), "{route}");
        }
        faults.outage(false);
        assert_eq!(verdict(&faults, "GET /v1/customers"), Some(Fault::Pass));
        faults.outage(true);
        faults.clear_all();
        assert_eq!(verdict(&faults, "GET /v1/customers"), None, "calm is calm");
    }

    #[test]
    fn scripted_faults_come_first_and_in_order() {
        let faults = Faults::default();
        faults.set(RouteFaults { error: 1.0, statuses: vec![(503, 1)], ..RouteFaults::default() });
        faults.next("POST /v1/customers", [Fault::Pass, Fault::CutBody]);
        assert_eq!(verdict(&faults, "POST /v1/customers"), Some(Fault::Pass));
        assert_eq!(verdict(&faults, "POST /v1/customers"), Some(Fault::CutBody));
        assert_eq!(verdict(&faults, "POST /v1/customers"), Some(Fault::Status(503)));
        faults.clear_all();
        assert_eq!(verdict(&faults, "POST /v1/customers"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_refills_with_time() {
        let faults = Faults::default();
        faults.set(RouteFaults { route: "GET /v1/customers".to_owned(), budget: Some(2), ..RouteFaults::default() });
        let over = |faults: &Faults| faults.judge("GET /v1/customers", Instant::now(), &mut Dice(1)).over;
        assert_eq!([over(&faults), over(&faults)], [None, None]);
        assert_eq!(over(&faults), Some(("endpoint-rate", RetryAfter::None)));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(over(&faults), None);
        assert!(over(&faults).is_some());
    }

    #[test]
    fn patterns_match_beginnings() {
        assert!(matches("*", "GET /v1/x") && matches("GET *", "GET /v1/x") && !matches("GET *", "POST /v1/x"));
        assert!(matches("GET /v1/customers/{id}", "GET /v1/customers/{id}"));
    }
}

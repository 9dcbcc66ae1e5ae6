//! What the provider saw: counts that prove how a client behaved. Bounded whatever happens.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How many idempotency keys, event identifiers and pauses are remembered.
const REMEMBERED_MAX: usize = 200_000;

/// A snapshot of everything counted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Requests that arrived, refused ones too.
    pub requests: u64,
    /// Requests by route, such as `GET /v1/customers/{id}`.
    pub requests_by_route: BTreeMap<String, u64>,
    /// Requests by lane, where a provider limits something narrower than a route: a method in one workspace, a channel.
    pub requests_by_lane: BTreeMap<String, u64>,
    /// Most requests of a lane within any minute, those that were refused among them.
    pub peak_per_minute_by_lane: BTreeMap<String, u64>,
    /// Answers by status.
    pub responses_by_status: BTreeMap<u16, u64>,
    /// Attempts by idempotency key.
    pub attempts_by_key: BTreeMap<String, u64>,
    /// Answers replayed for a key.
    pub replays: u64,
    /// Keys that came again with other parameters.
    pub keys_reused: u64,
    /// Requests refused because their key's first request still ran.
    pub keys_in_use: u64,
    /// Requests refused for their credential.
    pub auth_failures: u64,
    /// 429 answers, true and injected.
    pub throttles: u64,
    /// 429 answers by reason.
    pub throttles_by_reason: BTreeMap<String, u64>,
    /// Faults injected by kind.
    pub faults: BTreeMap<String, u64>,
    /// Requests on a route that came before the `Retry-After` it was last told had passed. Those that came within
    /// half a second of the 429 may have been on their way and do not count.
    pub early_after_retry_after: u64,
    /// Most requests within one second, all routes.
    pub peak_per_second: u64,
    /// Most requests within one second, by route.
    pub peak_per_second_by_route: BTreeMap<String, u64>,
    /// Most requests in work at the same time.
    pub peak_in_flight: u64,
    /// Events created.
    pub events_created: u64,
    /// Webhook counts.
    pub webhooks: WebhookLedger,
}

/// What became of webhook deliveries.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WebhookLedger {
    /// True deliveries sent, every attempt.
    pub attempted: u64,
    /// Attempts answered 2xx.
    pub acked: u64,
    /// Attempts answered otherwise.
    pub refused: u64,
    /// Attempts with no answer: refused connection, reset, time-out.
    pub unreachable: u64,
    /// Deliveries the dials swallowed.
    pub dropped: u64,
    /// Deliveries sent a second time by the dials.
    pub duplicated: u64,
    /// Forged deliveries sent.
    pub forged: u64,
    /// Forged deliveries answered 2xx: each is a hole in the receiver.
    pub forged_accepted: u64,
    /// Old deliveries sent again by the dials.
    pub replayed: u64,
    /// Old deliveries answered 2xx.
    pub replayed_accepted: u64,
    /// Attempts after the first.
    pub retried: u64,
    /// Deliveries given up after the last attempt.
    pub abandoned: u64,
    /// Answers by status.
    pub responses_by_status: BTreeMap<u16, u64>,
    /// Events acknowledged with 2xx at least once.
    pub acked_events: BTreeSet<String>,
}

/// What speaks against a client or a receiver, in whichever process it happened.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Breach {
    /// A request before a `Retry-After` had passed.
    Early,
    /// An idempotency key with other parameters.
    KeyReused,
    /// A forged delivery answered 2xx.
    ForgedAccepted,
}

/// The counting side.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) ledger: Ledger,
    routes: HashMap<String, Seen>,
    lanes: HashMap<String, Lane>,
    keys: HashMap<String, u64>,
    key_order: VecDeque<String>,
    begun: Instant,
    second: Seen,
    in_flight: u64,
    acked_order: VecDeque<String>,
}

/// The span that limits by the minute are counted over.
const MINUTE: Duration = Duration::from_secs(60);

/// How long a request may have been on its way when the 429 left: generous, for a loaded machine.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

#[derive(Debug, Default, Clone)]
struct Seen {
    total: u64,
    second: u64,
    count: u64,
    peak: u64,
    pause: Option<(Instant, Instant)>,
}

/// One lane: its last minute, and until when it should be quiet.
#[derive(Debug, Default)]
struct Lane {
    total: u64,
    minute: VecDeque<Instant>,
    peak: u64,
    pause: Option<(Instant, Instant)>,
}

/// Tells whether a request comes too early, given when it was told to wait and until when.
fn is_early(pause: Option<(Instant, Instant)>, now: Instant) -> bool {
    pause.is_some_and(|(told, until)| now >= told + ON_ITS_WAY && now < until)
}

impl Seen {
    fn count(&mut self, second: u64) {
        if self.second != second {
            self.second = second;
            self.count = 0;
        }
        self.total += 1;
        self.count += 1;
        self.peak = self.peak.max(self.count);
    }
}

impl Book {
    /// Opens an empty ledger.
    pub(crate) fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            routes: HashMap::new(),
            lanes: HashMap::new(),
            keys: HashMap::new(),
            key_order: VecDeque::new(),
            begun: Instant::now(),
            second: Seen::default(),
            in_flight: 0,
            acked_order: VecDeque::new(),
        }
    }

    /// Counts a request as it arrives. Tells whether it came before a `Retry-After` had passed.
    pub(crate) fn arrived(&mut self, route: &str, key: Option<&str>, now: Instant) -> bool {
        let mut early = false;
        let second = now.saturating_duration_since(self.begun).as_secs();
        self.second.count(second);
        self.in_flight += 1;
        self.ledger.peak_in_flight = self.ledger.peak_in_flight.max(self.in_flight);
        if !self.routes.contains_key(route) && self.routes.len() < REMEMBERED_MAX {
            self.routes.insert(route.to_owned(), Seen::default());
        }
        if let Some(seen) = self.routes.get_mut(route) {
            seen.count(second);
            early = is_early(seen.pause, now);
        }
        if let Some(key) = key {
            if !self.keys.contains_key(key) {
                self.key_order.push_back(key.to_owned());
                if self.key_order.len() > REMEMBERED_MAX
                    && let Some(oldest) = self.key_order.pop_front()
                {
                    self.keys.remove(&oldest);
                }
            }
            *self.keys.entry(key.to_owned()).or_default() += 1;
        }
        early
    }

    /// Counts a request in its lane. Tells whether it came before a `Retry-After` had passed.
    pub(crate) fn arrived_in(&mut self, lane: &str, now: Instant) -> bool {
        if !self.lanes.contains_key(lane) && self.lanes.len() < REMEMBERED_MAX {
            self.lanes.insert(lane.to_owned(), Lane::default());
        }
        let Some(lane) = self.lanes.get_mut(lane) else { return false };
        lane.total += 1;
        lane.minute.push_back(now);
        while lane.minute.front().is_some_and(|at| now.saturating_duration_since(*at) >= MINUTE) {
            lane.minute.pop_front();
        }
        lane.peak = lane.peak.max(lane.minute.len() as u64);
        is_early(lane.pause, now)
    }

    /// Counts what speaks against a client.
    pub(crate) fn breach(&mut self, breach: Breach) {
        match breach {
            Breach::Early => self.ledger.early_after_retry_after += 1,
            Breach::KeyReused => self.ledger.keys_reused += 1,
            Breach::ForgedAccepted => self.ledger.webhooks.forged_accepted += 1,
        }
    }

    /// Counts an answer; `None` when the connection said nothing.
    pub(crate) fn answered(&mut self, status: Option<u16>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(status) = status {
            *self.ledger.responses_by_status.entry(status).or_default() += 1;
        }
    }

    /// Counts a 429 and remembers until when its route or lane should be quiet.
    pub(crate) fn throttled(&mut self, route: &str, reason: &str, wait: Option<Duration>, now: Instant) {
        self.ledger.throttles += 1;
        *self.ledger.throttles_by_reason.entry(reason.to_owned()).or_default() += 1;
        let lane = self.lanes.get_mut(route).map(|lane| &mut lane.pause);
        let pause = lane.or_else(|| self.routes.get_mut(route).map(|seen| &mut seen.pause));
        if let (Some(pause), Some(wait)) = (pause, wait) {
            let until = pause.map_or(now + wait, |(_, until)| until.max(now + wait));
            *pause = Some((now, until));
        }
    }

    /// Counts an injected fault.
    pub(crate) fn fault(&mut self, name: &str) {
        *self.ledger.faults.entry(name.to_owned()).or_default() += 1;
    }

    /// Counts an acknowledged event.
    pub(crate) fn acked(&mut self, event: &str) {
        self.ledger.webhooks.acked += 1;
        if self.ledger.webhooks.acked_events.insert(event.to_owned()) {
            self.acked_order.push_back(event.to_owned());
            if self.acked_order.len() > REMEMBERED_MAX
                && let Some(oldest) = self.acked_order.pop_front()
            {
                self.ledger.webhooks.acked_events.remove(&oldest);
            }
        }
    }

    /// Gives a copy of everything counted.
    pub(crate) fn snapshot(&self) -> Ledger {
        let mut ledger = self.ledger.clone();
        ledger.requests = self.second.total;
        ledger.peak_per_second = self.second.peak;
        ledger.requests_by_route = self.routes.iter().map(|(route, seen)| (route.clone(), seen.total)).collect();
        ledger.peak_per_second_by_route = self.routes.iter().map(|(route, seen)| (route.clone(), seen.peak)).collect();
        ledger.requests_by_lane = self.lanes.iter().map(|(name, lane)| (name.clone(), lane.total)).collect();
        ledger.peak_per_minute_by_lane = self.lanes.iter().map(|(name, lane)| (name.clone(), lane.peak)).collect();
        ledger.attempts_by_key = self.keys.iter().map(|(key, count)| (key.clone(), *count)).collect();
        ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn peaks_and_early_requests_are_seen() {
        let mut book = Book::new();
        for _ in 0..3 {
            book.arrived("GET /a", Some("k"), Instant::now());
        }
        book.throttled("GET /a", "injected", Some(Duration::from_secs(5)), Instant::now());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(book.arrived("GET /a", None, Instant::now()), "early");
        assert!(!book.arrived("GET /b", None, Instant::now()), "another route");
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(!book.arrived("GET /a", None, Instant::now()), "in time");
        let ledger = book.snapshot();
        assert_eq!((ledger.requests, ledger.peak_per_second), (6, 3));
        assert_eq!(ledger.attempts_by_key.get("k"), Some(&3));
        assert_eq!(ledger.requests_by_route.get("GET /a"), Some(&5));
    }
}

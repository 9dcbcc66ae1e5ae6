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
    keys: HashMap<String, u64>,
    key_order: VecDeque<String>,
    begun: Instant,
    second: Seen,
    in_flight: u64,
    acked_order: VecDeque<String>,
}

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
            if seen.pause.is_some_and(|(told, until)| now >= told + ON_ITS_WAY && now < until) {
                early = true;
            }
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

    /// Counts a 429 and remembers until when its route should be quiet.
    pub(crate) fn throttled(&mut self, route: &str, reason: &str, wait: Option<Duration>, now: Instant) {
        self.ledger.throttles += 1;
        *self.ledger.throttles_by_reason.entry(reason.to_owned()).or_default() += 1;
        if let (Some(seen), Some(wait)) = (self.routes.get_mut(route), wait) {
            let until = seen.pause.map_or(now + wait, |(_, until)| until.max(now + wait));
            seen.pause = Some((now, until));
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

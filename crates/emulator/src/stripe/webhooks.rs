//! Sends events to endpoints: signed, retried on anything but 2xx, with the faults the dials ask for.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, Request};
use sha2::Sha256;
use tokio::time::Instant;

use super::Inner;
use super::faults::between;
use super::state::{Dispatch, Endpoint};
use super::thin;
use crate::ledger::Breach;

/// How many deliveries are in flight at the same time.
const IN_FLIGHT_MAX: usize = 32;
/// How far a held-back delivery falls behind.
const REORDER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(60));
/// How old the signature of a replayed delivery is, in seconds; receivers accept 300.
const REPLAY_AGE: i64 = 3600;

/// Whether a delivery is what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    True,
    Forged,
    Replayed,
}

#[derive(Debug, Clone)]
struct Delivery {
    dispatch: Dispatch,
    attempt: usize,
    sort: Sort,
}

/// Deliveries that wait, by when they are due.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    due: BTreeMap<(Instant, u64), Delivery>,
    sequence: u64,
    in_flight: usize,
    worker: bool,
}

impl Queue {
    /// Tells whether nothing waits or flies.
    pub(crate) fn is_idle(&self) -> bool {
        self.due.is_empty() && self.in_flight == 0
    }

    /// Counts what waits or flies.
    pub(crate) fn len(&self) -> usize {
        self.due.len() + self.in_flight
    }

    fn push(&mut self, at: Instant, delivery: Delivery) {
        self.sequence += 1;
        self.due.insert((at, self.sequence), delivery);
    }
}

/// Signs a body as Stripe does: HMAC-SHA256 over `t.body`, the whole `whsec_` text as key.
#[must_use]
pub fn signature(secret: &str, timestamp: i64, body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut hex = String::with_capacity(64);
    for byte in mac.finalize().into_bytes() {
        hex.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        hex.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    hex
}

/// Gives the `Stripe-Signature` header; while a rolled secret lives there are two `v1`.
pub(crate) fn header(endpoint: &Endpoint, now: i64, body: &[u8]) -> String {
    let mut header = format!("t={now}");
    for (secret, until) in endpoint.secrets.iter().rev() {
        if until.is_none_or(|until| now < until) {
            header.push_str(",v1=");
            header.push_str(&signature(secret, now, body));
        }
    }
    header
}

impl Inner {
    /// Queues what an operation left in the outbox.
    pub(crate) fn dispatch(self: &Arc<Self>, outbox: Vec<Dispatch>) {
        if outbox.is_empty() {
            return;
        }
        let faults = self.faults.of_webhooks();
        let now = Instant::now();
        {
            let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            for dispatch in outbox {
                if dice.chance(faults.drop) {
                    book.ledger.webhooks.dropped += 1;
                    if let Some(journal) = self.journal.get() {
                        journal.dropped(&dispatch.event);
                    }
                    continue;
                }
                let mut at = now;
                if let Some((from, to)) = faults.late {
                    at += between(&mut dice, from, to);
                }
                if dice.chance(faults.reorder) {
                    at += between(&mut dice, REORDER.0, REORDER.1);
                }
                let delivery = Delivery { dispatch, attempt: 0, sort: Sort::True };
                if dice.chance(faults.duplicate) {
                    book.ledger.webhooks.duplicated += 1;
                    queue.push(at + between(&mut dice, Duration::ZERO, REORDER.1), delivery.clone());
                }
                if dice.chance(faults.forge) {
                    queue.push(at, forged(&delivery));
                }
                if dice.chance(faults.replay) {
                    queue.push(at, Delivery { sort: Sort::Replayed, ..delivery.clone() });
                }
                queue.push(at, delivery);
            }
        }
        self.wake_worker();
    }

    /// Starts the worker once there is a runtime, and tells it to look.
    pub(crate) fn wake_worker(self: &Arc<Self>) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if !queue.worker && !queue.due.is_empty() {
                queue.worker = true;
                drop(queue);
                runtime.spawn(work(Arc::downgrade(self), self.wake.clone()));
            }
        }
        self.wake.notify_one();
    }

    /// Starts what is due; gives when to look again.
    fn step(self: &Arc<Self>) -> Option<Instant> {
        loop {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.in_flight >= IN_FLIGHT_MAX {
                return None;
            }
            let now = Instant::now();
            let (at, _) = *queue.due.first_key_value()?.0;
            if at > now {
                return Some(at);
            }
            let (_, delivery) = queue.due.pop_first()?;
            queue.in_flight += 1;
            drop(queue);
            let inner = self.clone();
            tokio::spawn(async move {
                inner.deliver(delivery).await;
                inner.queue.lock().unwrap_or_else(PoisonError::into_inner).in_flight -= 1;
                inner.wake.notify_one();
                inner.idle.notify_waiters();
            });
        }
    }

    async fn deliver(self: &Arc<Self>, delivery: Delivery) {
        let Some(request) = self.request(&delivery) else { return };
        {
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            let webhooks = &mut book.ledger.webhooks;
            match delivery.sort {
                Sort::True => {
                    webhooks.attempted += 1;
                    webhooks.retried += u64::from(delivery.attempt > 0);
                }
                Sort::Forged => webhooks.forged += 1,
                Sort::Replayed => webhooks.replayed += 1,
            }
        }
        let sending = (self.sender)(request);
        let status = tokio::time::timeout(self.config.webhook_timeout, sending).await.ok().flatten();
        self.settle(delivery, status);
    }

    fn request(&self, delivery: &Delivery) -> Option<Request<Bytes>> {
        let now = self.now();
        let world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let endpoint = world.endpoints.get(&delivery.dispatch.endpoint).filter(|endpoint| endpoint.enabled)?;
        let body = delivery.dispatch.body.clone();
        let signed = match delivery.sort {
            Sort::True => header(endpoint, now, &body),
            Sort::Replayed => header(endpoint, now - REPLAY_AGE, &body),
            Sort::Forged => format!("t={now},v1={}", signature("whsec_not_the_secret", now, &body)),
        };
        Request::builder()
            .method(Method::POST)
            .uri(&endpoint.url)
            .header("content-type", "application/json; charset=utf-8")
            .header("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
            .header("accept", "*/*; q=0.5, application/xml")
            .header("stripe-signature", signed)
            .body(body)
            .ok()
    }

    fn settle(self: &Arc<Self>, delivery: Delivery, status: Option<u16>) {
        let accepted = status.is_some_and(|status| (200..300).contains(&status));
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let webhooks = &mut book.ledger.webhooks;
        match delivery.sort {
            Sort::Forged if accepted => {
                drop(book);
                self.breach(Breach::ForgedAccepted);
                return;
            }
            Sort::Forged => {}
            Sort::Replayed => webhooks.replayed_accepted += u64::from(accepted),
            Sort::True => {}
        }
        if delivery.sort != Sort::True {
            return;
        }
        match status {
            Some(status) => *webhooks.responses_by_status.entry(status).or_default() += 1,
            None => webhooks.unreachable += 1,
        }
        if accepted {
            book.acked(&delivery.dispatch.event);
            drop(book);
            if let Some(journal) = self.journal.get() {
                journal.acked(&delivery.dispatch.account, &delivery.dispatch.event);
            }
            let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(row) = world.account(&delivery.dispatch.account).events.row_mut(&delivery.dispatch.event) {
                row.pending = row.pending.saturating_sub(1);
            }
            return;
        }
        webhooks.refused += u64::from(status.is_some());
        let Some(gap) = self.config.webhook_retries.get(delivery.attempt).copied() else {
            webhooks.abandoned += 1;
            return;
        };
        drop(book);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push(Instant::now() + gap, Delivery { attempt: delivery.attempt + 1, ..delivery });
    }
}

/// Makes a delivery nobody sent: a new event identifier and a signature by another secret.
fn forged(delivery: &Delivery) -> Delivery {
    let mut forged = delivery.clone();
    forged.sort = Sort::Forged;
    let text = String::from_utf8_lossy(&delivery.dispatch.body)
        .replace(&delivery.dispatch.event, &format!("evt_forged{}", delivery.dispatch.event.len()))
        .replace(&thin::id_of(&delivery.dispatch.event), "evt_test_forged");
    forged.dispatch.body = Bytes::from(text);
    forged
}

/// Looks at the queue whenever told or due, until the emulator is gone.
async fn work(inner: Weak<Inner>, wake: Arc<tokio::sync::Notify>) {
    loop {
        let next = match inner.upgrade() {
            Some(inner) if !inner.is_stopped() => inner.step(),
            _ => return,
        };
        match next {
            Some(at) => {
                tokio::select! {
                    biased;
                    () = wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                }
            }
            None => wake.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_matches_the_vector() {
        // RFC 2104 over "1.{}" computed with Python's hmac module.
        assert_eq!(
            signature("whsec_test", 1, b"{}"),
            "7500d5d4be4b3ef07af1fe56f7d522d135cdaa7530de557e67cc1049c52de094"
        );
    }
}

//! The post room of an emulated provider: what it sends by itself, signed as it leaves, retried as the provider does,
//! duplicated, held back, dropped, forged or replayed as the dials ask.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::faults::between;
use crate::gate::{Inner, Provider};
use crate::ledger::Breach;

/// How many deliveries are in flight at the same time.
const IN_FLIGHT_MAX: usize = 32;
/// How far a held-back delivery falls behind.
const REORDER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(60));
/// Largest answer read from a receiver.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Posts a request and gives the answer, or nothing when none came. Tests give their own to open no socket.
pub type Poster =
    Arc<dyn Fn(Request<Bytes>) -> Pin<Box<dyn Future<Output = Option<Response<Bytes>>> + Send>> + Send + Sync>;

/// Posts over plain sockets, with kept connections; follows no redirect.
pub(crate) fn poster() -> Poster {
    let client: Arc<OnceLock<Option<reqwest::Client>>> = Arc::default();
    Arc::new(move |request| {
        let client = client
            .get_or_init(|| {
                reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().ok()
            })
            .clone();
        Box::pin(async move {
            let request = reqwest::Request::try_from(request).ok()?;
            let mut response = client?.execute(request).await.ok()?;
            let mut body = Vec::new();
            while let Some(part) = response.chunk().await.ok()? {
                if body.len() + part.len() > ANSWER_BYTES_MAX {
                    return None;
                }
                body.extend_from_slice(&part);
            }
            let mut answer = Response::new(Bytes::from(body));
            *answer.status_mut() = response.status();
            *answer.headers_mut() = response.headers().clone();
            Some(answer)
        })
    })
}

/// Whether a delivery is what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// The provider's own.
    True,
    /// Somebody else's, with a wrong signature.
    Forged,
    /// True once, sent again with its old timestamp.
    Replayed,
}

/// Why the last attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// No answer in time.
    Timeout,
    /// No connection, or one that broke.
    Connection,
    /// An answer that does not acknowledge.
    Status,
}

/// One thing to deliver.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// What the ledger knows it by.
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) body: Bytes,
    /// Whether the body is a form; else it is JSON.
    pub(crate) form: bool,
    /// Attempts before this one.
    pub(crate) attempt: usize,
    pub(crate) failed: Option<Failed>,
    pub(crate) sort: Sort,
}

impl Parcel {
    /// Wraps a JSON body up.
    pub(crate) fn json(id: &str, url: &str, body: Bytes) -> Self {
        Self { id: id.to_owned(), url: url.to_owned(), body, form: false, attempt: 0, failed: None, sort: Sort::True }
    }

    /// Makes a delivery nobody sent: another identifier, and a signature that the provider makes wrong.
    fn forged(&self) -> Self {
        let text = String::from_utf8_lossy(&self.body).replace(&self.id, &format!("{}FORGED", self.id));
        Self { sort: Sort::Forged, body: Bytes::from(text), ..self.clone() }
    }
}

/// Parcels that wait, by when they are due.
#[derive(Debug, Default)]
struct Queue {
    due: BTreeMap<(Instant, u64), Parcel>,
    sequence: u64,
    in_flight: usize,
    worker: bool,
}

impl Queue {
    fn push(&mut self, at: Instant, parcel: Parcel) {
        self.sequence += 1;
        self.due.insert((at, self.sequence), parcel);
    }
}

/// Everything on its way out.
pub(crate) struct PostRoom {
    queue: Mutex<Queue>,
    outbox: Mutex<Vec<Parcel>>,
    wake: Arc<Notify>,
    idle: Notify,
    pub(crate) poster: Poster,
    pub(crate) timeout: Duration,
}

impl std::fmt::Debug for PostRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostRoom").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Drop for PostRoom {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl PostRoom {
    /// Makes an empty post room.
    pub(crate) fn new(poster: Option<Poster>, timeout: Duration) -> Self {
        Self {
            queue: Mutex::default(),
            outbox: Mutex::default(),
            wake: Arc::default(),
            idle: Notify::new(),
            poster: poster.unwrap_or_else(self::poster),
            timeout,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves parcels to be fetched once the operation is over.
    pub(crate) fn leave(&self, parcels: impl IntoIterator<Item = Parcel>) {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).extend(parcels);
    }

    /// Counts what waits or flies.
    pub(crate) fn len(&self) -> usize {
        let queue = self.queue();
        queue.due.len() + queue.in_flight
    }

    /// Tells everybody that waits that it is over.
    pub(crate) fn close(&self) {
        self.wake.notify_one();
        self.idle.notify_waiters();
    }
}

impl<P: Provider> Inner<P> {
    /// Writes down what operations have changed, and sends what they left in the outbox.
    pub(crate) fn flush(self: &Arc<Self>) {
        self.remember();
        let post = &self.house.post;
        let parcels = std::mem::take(&mut *post.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        if parcels.is_empty() {
            return;
        }
        let faults = self.house.faults.of_webhooks();
        let now = Instant::now();
        {
            let mut dice = self.house.dice.lock().unwrap_or_else(PoisonError::into_inner);
            let mut queue = post.queue();
            let mut book = self.house.book();
            for parcel in parcels {
                if dice.chance(faults.drop) {
                    book.ledger.webhooks.dropped += 1;
                    continue;
                }
                let mut at = now;
                if let Some((from, to)) = faults.late {
                    at += between(&mut dice, from, to);
                }
                if dice.chance(faults.reorder) {
                    at += between(&mut dice, REORDER.0, REORDER.1);
                }
                if dice.chance(faults.duplicate) {
                    book.ledger.webhooks.duplicated += 1;
                    queue.push(at + between(&mut dice, Duration::ZERO, REORDER.1), parcel.clone());
                }
                if dice.chance(faults.forge) {
                    queue.push(at, parcel.forged());
                }
                if dice.chance(faults.replay) {
                    queue.push(at, Parcel { sort: Sort::Replayed, ..parcel.clone() });
                }
                queue.push(at, parcel);
            }
        }
        self.wake_worker();
    }

    /// Waits until nothing waits or flies, retries included.
    pub(crate) async fn drained(self: &Arc<Self>) {
        let post = &self.house.post;
        loop {
            let idle = post.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if post.len() == 0 || self.house.door.is_shut() {
                return;
            }
            self.wake_worker();
            idle.await;
        }
    }

    /// Starts the worker once there is a runtime, and tells it to look.
    fn wake_worker(self: &Arc<Self>) {
        let post = &self.house.post;
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let mut queue = post.queue();
            if !queue.worker && !queue.due.is_empty() {
                queue.worker = true;
                drop(queue);
                runtime.spawn(work(Arc::downgrade(self), post.wake.clone()));
            }
        }
        post.wake.notify_one();
    }

    /// Starts what is due; gives when to look again.
    fn step(self: &Arc<Self>) -> Option<Instant> {
        loop {
            let mut queue = self.house.post.queue();
            if queue.in_flight >= IN_FLIGHT_MAX {
                return None;
            }
            let (at, _) = *queue.due.first_key_value()?.0;
            if at > Instant::now() {
                return Some(at);
            }
            let (_, parcel) = queue.due.pop_first()?;
            queue.in_flight += 1;
            drop(queue);
            let inner = self.clone();
            tokio::spawn(async move {
                inner.deliver(parcel).await;
                let post = &inner.house.post;
                post.queue().in_flight -= 1;
                post.wake.notify_one();
                post.idle.notify_waiters();
            });
        }
    }

    async fn deliver(self: &Arc<Self>, parcel: Parcel) {
        let Some(request) = self.provider.stamp(&self.house, &parcel) else { return };
        {
            let mut book = self.house.book();
            let webhooks = &mut book.ledger.webhooks;
            match parcel.sort {
                Sort::True => {
                    webhooks.attempted += 1;
                    webhooks.retried += u64::from(parcel.attempt > 0);
                }
                Sort::Forged => webhooks.forged += 1,
                Sort::Replayed => webhooks.replayed += 1,
            }
        }
        let sending = (self.house.post.poster)(request);
        let (answer, failed) = match tokio::time::timeout(self.house.post.timeout, sending).await {
            Ok(Some(answer)) if self.provider.acknowledges(answer.status().as_u16()) => (Some(answer), None),
            Ok(Some(answer)) => (Some(answer), Some(Failed::Status)),
            Ok(None) => (None, Some(Failed::Connection)),
            Err(_) => (None, Some(Failed::Timeout)),
        };
        self.settle(parcel, answer.as_ref(), failed);
    }

    fn settle(self: &Arc<Self>, parcel: Parcel, answer: Option<&Response<Bytes>>, failed: Option<Failed>) {
        let mut book = self.house.book();
        let accepted = failed.is_none();
        match parcel.sort {
            Sort::True => {}
            Sort::Forged => {
                if accepted {
                    book.breach(Breach::ForgedAccepted);
                }
                return;
            }
            Sort::Replayed => {
                book.ledger.webhooks.replayed_accepted += u64::from(accepted);
                return;
            }
        }
        match answer {
            Some(answer) => {
                *book.ledger.webhooks.responses_by_status.entry(answer.status().as_u16()).or_default() += 1;
                book.ledger.webhooks.refused += u64::from(!accepted);
            }
            None => book.ledger.webhooks.unreachable += 1,
        }
        if accepted {
            book.acked(&self.provider.known_as(&parcel));
            return;
        }
        let parcel = Parcel { failed, ..parcel };
        let Some(gap) = self.provider.gap(&parcel, answer) else {
            book.ledger.webhooks.abandoned += 1;
            return;
        };
        drop(book);
        let next = Parcel { attempt: parcel.attempt + 1, ..parcel };
        self.house.post.queue().push(Instant::now() + gap, next);
    }
}

/// Looks at the queue whenever told or due, until the emulator is gone.
async fn work<P: Provider>(inner: Weak<Inner<P>>, wake: Arc<Notify>) {
    loop {
        let next = match inner.upgrade() {
            Some(inner) if !inner.house.door.is_shut() => inner.step(),
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

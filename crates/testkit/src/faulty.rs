//! A network that fails by a seeded plan: before a request leaves, on its way, or after the provider has acted.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use palisade_core::{Error, ErrorKind, Outcome, Random, Result, Transport};

use crate::transport::broken;

/// One thing the network does to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the transport decides on each")]
pub enum Mishap {
    /// No connection could be made: provably nothing was sent.
    Refused,
    /// The connection broke before the provider read the request; the sender cannot know that.
    LostRequest,
    /// The provider acted, and its answer was lost.
    LostAnswer,
    /// The provider acted and the answer never comes: the sender's own timeout must end it.
    StuckAnswer,
}

/// How often each mishap happens, as shares of all requests in `[0, 1]`; what is left passes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct Plan {
    /// The share of [`Mishap::Refused`].
    pub refused: f64,
    /// The share of [`Mishap::LostRequest`].
    pub lost_request: f64,
    /// The share of [`Mishap::LostAnswer`].
    pub lost_answer: f64,
    /// The share of [`Mishap::StuckAnswer`].
    pub stuck_answer: f64,
}

impl Plan {
    fn draw(&self, unit: f64) -> Option<Mishap> {
        let table = [
            (self.refused, Mishap::Refused),
            (self.lost_request, Mishap::LostRequest),
            (self.lost_answer, Mishap::LostAnswer),
            (self.stuck_answer, Mishap::StuckAnswer),
        ];
        let mut until = 0.0;
        table.into_iter().find_map(|(share, mishap)| {
            until += share;
            (unit < until).then_some(mishap)
        })
    }
}

/// Wraps a transport in a network that fails. Clones are the same network.
#[derive(Clone)]
pub struct FaultyTransport {
    inner: Arc<dyn Transport>,
    random: Arc<dyn Random>,
    book: Arc<Mutex<Book>>,
}

#[derive(Default)]
struct Book {
    plan: Plan,
    next: VecDeque<Option<Mishap>>,
    seen: BTreeMap<Mishap, u64>,
}

impl FaultyTransport {
    /// Wraps `inner`; what happens to which request follows from `random`.
    #[must_use]
    pub fn new(inner: Arc<dyn Transport>, random: Arc<dyn Random>, plan: Plan) -> Self {
        let book = Book { plan, ..Book::default() };
        Self { inner, random, book: Arc::new(Mutex::new(book)) }
    }

    /// Replaces the plan; `Plan::default()` lets everything pass.
    pub fn plan(&self, plan: Plan) {
        self.lock().plan = plan;
    }

    /// Says what happens to the next requests, before any plan; `None` lets one pass.
    pub fn next(&self, mishaps: impl IntoIterator<Item = Option<Mishap>>) {
        self.lock().next.extend(mishaps);
    }

    /// Returns how often each mishap happened.
    #[must_use]
    pub fn seen(&self) -> BTreeMap<Mishap, u64> {
        self.lock().seen.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self) -> Option<Mishap> {
        let mut book = self.lock();
        let mishap = match book.next.pop_front() {
            Some(scripted) => scripted,
            None => book.plan.draw(self.random.unit()),
        }?;
        *book.seen.entry(mishap).or_default() += 1;
        Some(mishap)
    }
}

impl fmt::Debug for FaultyTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let book = self.lock();
        f.debug_struct("FaultyTransport").field("plan", &book.plan).field("seen", &book.seen).finish_non_exhaustive()
    }
}

#[async_trait]
impl Transport for FaultyTransport {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        match self.decide() {
            None => self.inner.send(request).await,
            Some(Mishap::Refused) => {
                Err(Error::new(ErrorKind::Connect, "the connection was refused").with_outcome(Outcome::NotSent))
            }
            Some(Mishap::LostRequest) => Err(broken("the connection broke while the request was sent")),
            Some(Mishap::LostAnswer) => {
                let _lost = self.inner.send(request).await;
                Err(broken("the connection broke while the answer was read"))
            }
            Some(Mishap::StuckAnswer) => {
                let _stuck = self.inner.send(request).await;
                std::future::pending().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use palisade_core::random::SeededRandom;

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicU64);

    #[async_trait]
    impl Transport for Counting {
        async fn send(&self, _request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(http::Response::new(Bytes::new()))
        }
    }

    fn network(seed: u64, plan: Plan) -> (Arc<Counting>, FaultyTransport) {
        let provider = Arc::new(Counting::default());
        let random = Arc::new(SeededRandom::new(seed));
        (Arc::clone(&provider), FaultyTransport::new(provider, random, plan))
    }

    async fn send(network: &FaultyTransport) -> Result<http::Response<Bytes>> {
        network.send(http::Request::new(Bytes::new())).await
    }

    /// Fails when a mishap before the provider reaches it, one after it does not, or an outcome claims to know more.
    #[tokio::test(start_paused = true)]
    async fn each_mishap_does_what_it_says() {
        for (mishap, arrived, seen) in [
            (Mishap::Refused, 0, Some((ErrorKind::Connect, Outcome::NotSent))),
            (Mishap::LostRequest, 0, Some((ErrorKind::Transport, Outcome::Unknown))),
            (Mishap::LostAnswer, 1, Some((ErrorKind::Transport, Outcome::Unknown))),
            (Mishap::StuckAnswer, 1, None),
        ] {
            let (provider, network) = network(1, Plan::default());
            network.next([Some(mishap)]);
            let sent = tokio::time::timeout(std::time::Duration::from_secs(60), send(&network)).await.ok();
            let sent = sent.map(|sent| sent.err().map(|error| (error.kind(), error.outcome())));
            assert_eq!(sent.flatten(), seen, "{mishap:?}");
            assert_eq!(provider.0.load(Ordering::SeqCst), arrived, "{mishap:?}");
            assert!(send(&network).await.is_ok());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_seed_repeats_the_failures_in_their_shares() {
        let plan = Plan { refused: 0.1, lost_request: 0.1, lost_answer: 0.1, ..Plan::default() };
        let run = async |seed| {
            let (_, network) = network(seed, plan);
            let mut failed = Vec::new();
            for at in 0..1_000 {
                if send(&network).await.is_err() {
                    failed.push(at);
                }
            }
            failed
        };
        let first = run(7).await;
        assert_eq!(first, run(7).await);
        assert_ne!(first, run(8).await);
        assert!((200..400).contains(&first.len()), "{}", first.len());
    }
}

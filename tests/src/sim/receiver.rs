//! Where the simulation's events are forwarded to: a product in another language, which fails, is away, asks for time,
//! or says that it wants no more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use palisade_core::clock::TokioClock;
use palisade_core::forward::{Configured, Replay, message_id};
use palisade_core::random::SeededRandom;
use palisade_core::store::{DestinationSpec, Destinations as _, EventState, Filter, Order, StoredEvent};
use palisade_core::webhook::standard::{StandardWebhook, TIMESTAMP};
use palisade_core::webhook::{RawDelivery, Verified};
use palisade_core::{Clock, Error, ErrorKind, Outcome, Random, Result, Secret, Timestamp, Transport};
use palisade_hub::Hub;
use serde_json::Value;
use tokio::time::sleep;

use super::judge::all_events;
use super::world::World;

/// How long each way takes at most.
const ONE_WAY_MAX: Duration = Duration::from_millis(200);
/// How far a signature's time may be off: five minutes, as Standard Webhooks has it, and the way. So clocks may be wrong
/// by as much as they are here.
const TOLERANCE: Duration = Duration::from_secs(301);
/// The destinations: name, signing key, and what they want.
const ALL: (&str, &str) = ("everything", "whsec_c2ltdWxhdGlvbi1zaW11bGF0aW9uLW9uZS0x");
const SOME: (&str, &str) = ("customers", "whsec_c2ltdWxhdGlvbi1zaW11bGF0aW9uLXR3by0y");

/// The signing keys, which nothing may show.
pub(super) const SECRETS: [&str; 2] = [ALL.1, SOME.1];

/// What came of one event at one destination.
#[derive(Default)]
struct Came {
    times: u64,
    ids: BTreeSet<String>,
}

#[derive(Default)]
struct Book {
    /// By destination, provider and event.
    came: BTreeMap<(String, String, String), Came>,
    /// Whether it fails now and then.
    moody: bool,
    /// Whether nobody answers at all.
    away: bool,
    /// Which destination answers the next message with 410.
    gone: Option<&'static str>,
    /// How often one did.
    gone_times: u64,
}

/// The product that is forwarded to.
pub(super) struct Receiver {
    random: SeededRandom,
    clock: TokioClock,
    book: Mutex<Book>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

/// The destinations of every process's configuration.
pub(super) fn destinations() -> Vec<Configured> {
    let made = |(name, key): (&str, &str), provider: Option<&str>, kind: &str, order| Configured {
        name: name.to_owned(),
        secrets: vec![Secret::from(key)],
        spec: DestinationSpec {
            url: format!("https://{name}.product.test/hooks"),
            filter: Filter { provider: provider.map(str::to_owned), types: vec![kind.to_owned()], ..Filter::default() },
            concurrency: 8,
            timeout: Duration::from_secs(15),
            headers: Vec::new(),
            order,
            reach: Default::default(),
        },
    };
    vec![made(ALL, None, "*", Order::None), made(SOME, Some("stripe"), "customer.*", Order::ByKey)]
}

/// Tells whether a destination wants an event.
fn wants(destination: &str, event: &StoredEvent) -> bool {
    destination == ALL.0 || event.provider == "stripe" && event.event.kind.starts_with("customer.")
}

impl Receiver {
    pub(super) fn new(random: SeededRandom, clock: TokioClock) -> Self {
        Self { random, clock, book: Mutex::default() }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets it fail now and then, or no more.
    pub(super) fn moody(&self, on: bool) {
        self.book().moody = on;
    }

    /// Lets nobody answer, or again somebody.
    pub(super) fn away(&self, on: bool) {
        self.book().away = on;
    }

    /// Lets the next message be answered with 410.
    pub(super) fn gone_once(&self) {
        let which = if self.random.unit() < 0.5 { ALL.0 } else { SOME.0 };
        self.book().gone = Some(which);
    }

    /// Calms it.
    pub(super) fn calm(&self) {
        let mut book = self.book();
        (book.moody, book.away, book.gone) = (false, false, None);
    }

    /// Returns how often a destination said that it wants no more.
    pub(super) fn gone_times(&self) -> u64 {
        self.book().gone_times
    }

    /// Decides what becomes of a message: an answer, and whether it is kept.
    fn decide(&self, destination: &str) -> (Mood, Option<u16>) {
        let (draw, mut book) = (self.random.unit(), self.book());
        if book.away {
            return (Mood::Refused, None);
        }
        if book.gone == Some(ALL.0) && destination == ALL.0 || book.gone == Some(SOME.0) && destination == SOME.0 {
            book.gone = None;
            book.gone_times += 1;
            return (Mood::Answers, Some(410));
        }
        if !book.moody {
            return (Mood::Takes, Some(200));
        }
        match draw {
            draw if draw < 0.02 => (Mood::Answers, Some(500)),
            draw if draw < 0.03 => (Mood::Answers, Some(429)),
            draw if draw < 0.04 => (Mood::Refused, None),
            draw if draw < 0.05 => (Mood::Takes, None),
            draw if draw < 0.055 => (Mood::Hangs, None),
            _ => (Mood::Takes, Some(204)),
        }
    }

    /// Keeps a message, if its signature is good and of now.
    fn take(&self, destination: &str, request: Request<Bytes>) -> u16 {
        let key = if destination == ALL.0 { ALL.1 } else { SOME.1 };
        let (parts, body) = request.into_parts();
        let signed_at = parts.headers.get(&TIMESTAMP).and_then(|at| at.to_str().ok()?.parse().ok());
        let signed_at = Timestamp::from_seconds(signed_at.expect("a message says when it was signed"));
        let id = parts.headers["webhook-id"].to_str().expect("an id").to_owned();
        let said: Value = serde_json::from_slice(&body).expect("a message is JSON");
        let raw = RawDelivery { method: parts.method, url: parts.uri.to_string(), headers: parts.headers, body };
        let verified = Verified::check(&StandardWebhook, raw, &[Secret::from(key)], signed_at);
        assert!(verified.is_ok(), "{destination}: a message came with a wrong signature: {id}");
        let now = self.clock.now();
        if now.since(signed_at).max(signed_at.since(now)) > TOLERANCE {
            return 401;
        }
        let text = |name: &str| said["palisade"][name].as_str().unwrap_or_default().to_owned();
        let came = (destination.to_owned(), text("provider"), text("event"));
        let mut book = self.book();
        let came = book.came.entry(came).or_default();
        came.times += 1;
        came.ids.insert(id);
        200
    }

    /// Returns what a destination wants of what was handled and has not got.
    ///
    /// # Panics
    /// When one event came under two ids, under another's, or was not wanted.
    pub(super) fn missing(&self, events: &[StoredEvent]) -> Vec<String> {
        let book = self.book();
        let handled = events.iter().filter(|event| event.state == EventState::Done);
        let mut missing = Vec::new();
        for (event, (name, _)) in handled.flat_map(|event| [ALL, SOME].map(|one| (event, one))) {
            let key = (name.to_owned(), event.provider.clone(), event.event.id.as_str().to_owned());
            match book.came.get(&key) {
                None if wants(name, event) => missing.push(format!("{name}: {} {}", key.1, key.2)),
                None => {}
                Some(came) => {
                    assert!(wants(name, event), "{name} got {} {}, which it does not want", key.1, key.2);
                    let own = BTreeSet::from([message_id(event)]);
                    assert_eq!(came.ids, own, "{name}: {} {} came under these ids", key.1, key.2);
                }
            }
        }
        missing
    }

    /// Returns how many messages were kept, and how many of them were the same again.
    pub(super) fn counts(&self) -> (u64, u64) {
        let book = self.book();
        let times: u64 = book.came.values().map(|came| came.times).sum();
        (times, times - book.came.len() as u64)
    }
}

/// What it does with a message.
enum Mood {
    /// Nothing: no connection.
    Refused,
    /// Nothing but an answer.
    Answers,
    /// Keeps it; without a status the answer is lost.
    Takes,
    /// Nothing, and never answers.
    Hangs,
}

#[async_trait]
impl Transport for Receiver {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        sleep(ONE_WAY_MAX.mul_f64(self.random.unit())).await;
        let host = request.uri().host().unwrap_or_default();
        let destination = host.strip_suffix(".product.test").expect("a destination's host").to_owned();
        let status = match self.decide(&destination) {
            (Mood::Refused, _) => {
                return Err(Error::new(ErrorKind::Connect, "nobody listens").with_outcome(Outcome::NotSent));
            }
            (Mood::Hangs, _) => std::future::pending().await,
            (Mood::Answers, status) => status.unwrap_or(500),
            (Mood::Takes, status) => {
                let taken = self.take(&destination, request);
                if status.is_none() {
                    return Err(Error::new(ErrorKind::Transport, "the answer was lost").with_outcome(Outcome::Unknown));
                }
                taken
            }
        };
        sleep(ONE_WAY_MAX.mul_f64(self.random.unit())).await;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        if status == 429 {
            response.headers_mut().insert("retry-after", "10".parse().expect("a header"));
        }
        Ok(response)
    }
}

/// What an operator does about a destination that was disabled: enables it, and forwards what it missed a while later,
/// when every process knows that it is enabled ([`palisade_core::forward::KNOWN_FOR`]).
#[derive(Default)]
pub(super) struct Operator {
    enabled: Vec<String>,
}

impl Operator {
    /// Looks once. What the store refuses is tried again the next time.
    pub(super) async fn look(&mut self, world: &World, hub: &Hub) {
        let forwarder = hub.forwarder();
        let mut still = Vec::new();
        for name in std::mem::take(&mut self.enabled) {
            let (since, until) = (Timestamp(0), world.now().plus(Duration::from_secs(3_600)));
            let replay = Replay { since, until, before: None, limit: u32::MAX, dry_run: false };
            if forwarder.replay(&name, replay).await.is_err() {
                still.push(name);
            }
        }
        self.enabled = still;
        for row in world.store().destinations().await.expect("destinations") {
            if row.health.disabled.is_some() && forwarder.enable(&row.name, true).await.is_ok() {
                self.enabled.push(row.name);
            }
        }
    }

    /// Tells whether nothing is left to do.
    pub(super) async fn is_done(&self, world: &World) -> bool {
        let rows = world.store().destinations().await.expect("destinations");
        self.enabled.is_empty() && rows.iter().all(|row| row.health.disabled.is_none())
    }
}

/// Returns what the destinations lack of everything that was handled.
pub(super) async fn missing(world: &World) -> Vec<String> {
    world.receiver.missing(&all_events(world).await)
}

/// Makes a receiver shareable as a transport.
pub(super) fn carrier(receiver: &Arc<Receiver>) -> Arc<dyn Transport> {
    Arc::clone(receiver) as Arc<dyn Transport>
}

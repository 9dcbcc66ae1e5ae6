//! What the processes of a simulation stand on: clocks that are set wrong, a disk that is full, and the way to each
//! provider.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::StoreLayer;
use palisade_core::{Clock, Error, ErrorKind, Random, Result, Timestamp, Transport};
use palisade_testkit::{EmulatorTransport, FaultyTransport};
use tokio::time::sleep;
use url::form_urlencoded;

use super::actor::{Actor, number_of};

/// How long each call of the store takes at most, once before and once after it is done: a death in between falls
/// before or after the commit.
const STORE_MAX: Duration = Duration::from_millis(20);

/// A clock of one process, which can be set wrong.
#[derive(Clone, Debug)]
pub(super) struct Jumpy {
    pub(super) true_time: TokioClock,
    pub(super) off_ms: Arc<AtomicI64>,
}

impl Clock for Jumpy {
    fn now(&self) -> Timestamp {
        Timestamp(self.true_time.now().millis() + self.off_ms.load(Ordering::SeqCst))
    }
}

/// The disk under a process's store: slow, and full for a while.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) random: Arc<SeededRandom>,
    pub(super) full: Arc<AtomicBool>,
}

impl StoreLayer for Disk {
    async fn around<T: Send>(&self, name: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        const READS: [&str; 6] = ["event", "events", "stream", "streams", "changes", "record"];
        sleep(STORE_MAX.mul_f64(self.random.unit())).await;
        if self.full.load(Ordering::SeqCst) && !READS.contains(&name) {
            return Err(Error::new(ErrorKind::Store, "the disk is full"));
        }
        let result = call.await;
        sleep(STORE_MAX.mul_f64(self.random.unit())).await;
        result
    }
}

/// The keys each numbered write left under, in whichever process.
pub(super) type Keys = Arc<Mutex<BTreeMap<u64, BTreeSet<String>>>>;

/// The way to one provider.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) actor: Arc<dyn Actor>,
    /// The network that fails.
    pub(super) network: FaultyTransport,
    /// The same way without a mishap, for single-use tokens: what a lost answer costs is known (somebody must connect
    /// again), and a world of nothing else would tell little.
    pub(super) sure: EmulatorTransport,
}

/// Sends each request to the provider whose host it names.
pub(super) struct Switch {
    pub(super) ways: Vec<Way>,
    pub(super) keys: Keys,
}

impl Switch {
    /// Notes the key of a numbered write.
    fn note(&self, request: &Request<Bytes>) {
        let Some(key) = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()) else { return };
        let number = form_urlencoded::parse(request.body()).find_map(|(_, value)| number_of(&value));
        if let Some(number) = number {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.entry(number).or_default().insert(key.to_owned());
        }
    }
}

#[async_trait]
impl Transport for Switch {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let host = request.uri().host().unwrap_or_default();
        let found = self.ways.iter().find(|way| way.actor.answers(host));
        let way = found.unwrap_or_else(|| panic!("a request left for {host}, which is no provider's"));
        self.note(&request);
        if way.actor.token_path().is_some_and(|path| path == request.uri().path()) {
            return way.sure.send(request).await;
        }
        way.network.send(request).await
    }
}

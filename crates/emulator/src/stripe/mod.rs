//! Stripe: the emulator's public face and the way one request takes through it.

mod billing;
mod catalog;
mod checkout;
mod control;
mod desk;
mod error;
mod form;
mod idempotency;
mod invoices;
mod journal;
mod lists;
mod oauth;
mod objects;
mod payments;
mod pipeline;
mod routes;
mod seed;
mod shape;
mod state;
mod story;
mod thin;
mod webhooks;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::Notify;

pub use error::Failure;
pub use seed::Seed;
pub use webhooks::signature;

pub use crate::Clock;
pub use crate::faults::{Fault, Faults, RetryAfter, RouteFaults, WebhookFaults};
pub use crate::ledger::{Ledger, WebhookLedger};
pub use crate::wire::{Cut, WebhookSender};

use crate::oauth::{Authority, Client};
use crate::{faults, ledger, wire};
use idempotency::Keys;
use journal::Journal;
use state::{Announced, Dice, Place, World};

/// How an emulated Stripe account is set up.
#[derive(Clone)]
pub struct StripeConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// All identifiers and fault draws follow from this.
    pub seed: u64,
    /// The secret key that is accepted.
    pub api_key: String,
    /// The account the key belongs to.
    pub account: String,
    /// Connected accounts reachable with `Stripe-Account`.
    pub connected: Vec<String>,
    /// The platform as Connect's OAuth knows it: `ca_…`, name, redirect URIs. Its secret is `api_key`.
    pub platform: Client,
    /// The account's default API version, used when a request or an endpoint names none.
    pub api_version: String,
    /// Gives the time of day; waits use tokio's clock.
    pub clock: Clock,
    /// Gaps before each further try of a delivery; when used up the delivery is given up.
    pub webhook_retries: Vec<Duration>,
    /// How long a receiver may take.
    pub webhook_timeout: Duration,
    /// Posts webhooks; a plain HTTP client when absent.
    pub webhook_sender: Option<WebhookSender>,
    /// How long a rolled signing secret still signs beside the new one.
    pub secret_overlap: Duration,
    /// Whether a deleted object still works as a list cursor. At Stripe it does not (stripe-python #671).
    pub cursors_survive_deletion: bool,
    /// Whether `/_emulator/…` is served. It asks for no key: keep the emulator on loopback.
    pub control: bool,
}

impl Default for StripeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 0,
            api_key: "sk_test_emulator".to_owned(),
            account: "acct_1Emulator0000000".to_owned(),
            connected: Vec::new(),
            platform: Client { id: "ca_emulator".to_owned(), ..Client::default() },
            api_version: "2026-09-30.endive".to_owned(),
            clock: crate::system_clock(),
            webhook_retries: [50, 200, 1_000, 5_000, 30_000].map(Duration::from_millis).to_vec(),
            webhook_timeout: Duration::from_secs(10),
            webhook_sender: None,
            secret_overlap: Duration::from_secs(24 * 3600),
            cursors_survive_deletion: false,
            control: true,
        }
    }
}

impl std::fmt::Debug for StripeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StripeConfig")
            .field("listen", &self.listen)
            .field("seed", &self.seed)
            .field("account", &self.account)
            .field("api_version", &self.api_version)
            .finish_non_exhaustive()
    }
}

/// An emulated Stripe. Clones are handles to the same provider.
#[derive(Clone)]
pub struct Stripe {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Stripe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stripe").field("base_url", &self.base_url()).finish_non_exhaustive()
    }
}

/// What all handles share.
pub(crate) struct Inner {
    pub(crate) config: StripeConfig,
    pub(crate) door: wire::Door,
    pub(crate) world: Mutex<World>,
    pub(crate) oauth: Authority,
    pub(crate) keys: Mutex<Keys>,
    pub(crate) faults: Faults,
    pub(crate) dice: Mutex<Dice>,
    pub(crate) book: Mutex<ledger::Book>,
    pub(crate) queue: Mutex<webhooks::Queue>,
    pub(crate) journal: OnceLock<Journal>,
    /// Recalled events that no receiver has acknowledged.
    unheard: Mutex<HashMap<String, (Place, Announced)>>,
    pub(crate) wake: Arc<Notify>,
    pub(crate) idle: Notify,
    pub(crate) sender: WebhookSender,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Inner {
    /// Gives the world; a panic elsewhere does not make it unusable.
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the ledger to write in.
    pub(crate) fn book(&self) -> MutexGuard<'_, ledger::Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the recalled events nobody has acknowledged.
    pub(crate) fn unheard(&self) -> MutexGuard<'_, HashMap<String, (Place, Announced)>> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a breach, and keeps it in mind.
    pub(crate) fn breach(&self, breach: ledger::Breach) {
        self.book().breach(breach);
        if let Some(journal) = self.journal.get() {
            journal.breach(breach);
        }
    }

    /// Gives the configured clock's seconds, without skew.
    pub(crate) fn clock(&self) -> i64 {
        let since = (self.config.clock)().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// Gives the provider's own milliseconds, with skew.
    pub(crate) fn millis(&self) -> i64 {
        self.now().saturating_mul(1000)
    }

    /// Gives the provider's own seconds, with skew.
    pub(crate) fn now(&self) -> i64 {
        self.clock() + self.world().skew
    }

    /// Tells whether `shutdown` was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.door.is_shut()
    }
}

impl Stripe {
    /// Makes a provider that opens no socket; use [`Stripe::handle`].
    ///
    /// ```
    /// use palisade_emulator::stripe::{Stripe, StripeConfig};
    /// let emulator = Stripe::offline(StripeConfig { seed: 7, ..Default::default() });
    /// let customer = emulator.create_customer(&[("email", "ada@example.com")]).unwrap();
    /// assert_eq!(customer["email"], "ada@example.com");
    /// ```
    #[must_use]
    pub fn offline(config: StripeConfig) -> Self {
        let oauth = oauth::authority(config.seed, config.platform.clone());
        let mut world = World::new(config.seed, config.account.clone(), config.api_version.clone(), oauth.clone());
        world.keys.insert(config.api_key.clone());
        world.connected = config.connected.iter().cloned().collect();
        world.cursors_survive_deletion = config.cursors_survive_deletion;
        let sender = config.webhook_sender.clone().unwrap_or_else(wire::sender);
        let inner = Inner {
            door: wire::Door::default(),
            world: Mutex::new(world),
            oauth,
            keys: Mutex::new(Keys::default()),
            faults: Faults::default(),
            dice: Mutex::new(Dice(config.seed ^ 0x5EED_FA17)),
            book: Mutex::new(ledger::Book::new()),
            queue: Mutex::new(webhooks::Queue::default()),
            journal: OnceLock::new(),
            unheard: Mutex::default(),
            wake: Arc::new(Notify::new()),
            idle: Notify::new(),
            sender,
            config,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Makes a provider and serves it on loopback.
    ///
    /// # Errors
    /// Gives the socket's error when it cannot listen.
    pub async fn start(config: StripeConfig) -> std::io::Result<Self> {
        let stripe = Self::offline(config);
        wire::serve(&stripe.inner, stripe.inner.config.listen).await?;
        Ok(stripe)
    }

    /// Gives `http://127.0.0.1:PORT`, or a name that no resolver knows for an offline one.
    #[must_use]
    pub fn base_url(&self) -> &str {
        self.inner.door.base_url().unwrap_or("http://stripe.invalid")
    }

    /// Gives the key the emulator was started with.
    #[must_use]
    pub fn api_key(&self) -> &str {
        &self.inner.config.api_key
    }

    /// Gives Connect's authorisation server: its platform, rules, dials and counts.
    #[must_use]
    pub fn oauth(&self) -> Authority {
        self.inner.oauth.clone()
    }

    /// Gives the dials.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.inner.faults.clone()
    }

    /// Gives everything counted until now.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let created = self.inner.world().events_created;
        let mut ledger = self.inner.book().snapshot();
        ledger.events_created = created;
        ledger
    }

    /// Waits until no delivery is queued or in flight, retries included.
    pub async fn drain_webhooks(&self) {
        loop {
            let idle = self.inner.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner).is_idle() || self.inner.is_stopped() {
                return;
            }
            self.inner.wake_worker();
            idle.await;
        }
    }

    /// Counts deliveries that are queued or in flight.
    #[must_use]
    pub fn webhooks_waiting(&self) -> usize {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Shifts the provider's clock against the configured one: `created`, `Date` and signatures follow.
    pub fn clock_skew(&self, by: Duration, forward: bool) {
        let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
        let mut world = self.inner.world();
        world.skew = if forward { seconds } else { -seconds };
    }

    /// Freezes the second that new objects and events carry, or lets it run again.
    pub fn ties(&self, on: bool) {
        let now = self.inner.now();
        self.inner.world().frozen = on.then_some(now);
    }

    /// Revokes every key: requests get 401 `api_key_expired`.
    pub fn revoke_key(&self) {
        let mut world = self.inner.world();
        let keys: Vec<String> = world.keys.drain().collect();
        world.expired_keys.extend(keys);
    }

    /// Accepts this key and no other.
    pub fn set_api_key(&self, key: impl Into<String>) {
        let mut world = self.inner.world();
        let key = key.into();
        world.expired_keys.remove(&key);
        world.keys.clear();
        world.keys.insert(key);
    }

    /// Makes a connected account reachable with `Stripe-Account`.
    pub fn connect_account(&self, account: impl Into<String>) {
        self.inner.world().connected.insert(account.into());
    }

    /// Stops serving and delivering. Open connections are closed.
    pub async fn shutdown(&self) {
        self.inner.door.shut();
        self.inner.wake.notify_one();
        self.inner.idle.notify_waiters();
        tokio::task::yield_now().await;
    }
}

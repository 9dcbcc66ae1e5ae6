//! A valid token for every call, and one renewal of it at a time, however many tasks and processes want one.
//!
//! | what | how |
//! |---|---|
//! | a valid token | from memory: no lock, no store, nothing allocated but the caller's own future |
//! | ahead of expiry | a renewal begins by itself; until it is done, and also when it fails, the valid token is served |
//! | one in the process | a shared flight on a task of its own: a caller that goes away ends nothing |
//! | one of all processes | the row is held by a lease that is prolonged; see [`crate::store::grants`] |
//! | a crash in between | the intent is written before the request leaves: who finds one says "the token may be lost" |
//! | `invalid_grant` | the row is read again first: when another process was faster, that is no error |
//! | passing failures | the grant rests for a while that grows; all processes see it |
//!
//! Renewals must not end with the call that wanted them: an answer that nobody reads is a lost grant. So they run on
//! tasks that are spawned here, by a function that is an argument; [`TokenSource::shutdown`] waits for them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use self::cache::{Cache, Entry, Kept};
use self::renewal::{Renewing, Why};
use super::flow::Flow;
use super::grant::MAIN;
use super::vault::{Vault, VaultCredentials};
use super::{Audience, Credential, CredentialSource};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::id::{ConnectionId, GrantName, TenantId};
use crate::random::Random;
use crate::store::{Connection, ConnectionState, EndReason, GrantKey, GrantState, Store, StoredGrant};

mod cache;
mod renewal;
#[cfg(test)]
mod tests;

/// How long a token is served from memory before its row is looked at again: how long a disconnect in another process
/// takes to reach this one.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What is looked at again while a renewal is under way, or the store is out of reach.
const LOOK_SOON: Duration = Duration::from_secs(1);
/// A token this close to its end is not sent any more; less for tokens that live shortly.
const LEEWAY: Duration = Duration::from_secs(5);
/// The part of its life a token is renewed sooner by jitter, so that processes and tokens of one moment spread.
const JITTER: f64 = 0.1;
/// Renewals that a keep-alive has under way at once.
const KEEP_ALIVE_CONCURRENCY: usize = 8;

/// Runs a task to its end, whatever becomes of the one who asked.
pub type Spawner = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// Says to which hosts the key of a connection may be sent.
pub type KeyAudience = Arc<dyn Fn(&Connection) -> Audience + Send + Sync>;

/// Gives valid credentials of connections: tokens that are renewed, and keys that are not.
///
/// Give it to a [`crate::Client`] as its [`CredentialSource`]. Clones, and sources of other grants made by
/// [`TokenSource::grant`], share everything.
#[derive(Clone)]
pub struct TokenSource {
    shared: Arc<Shared>,
    cache: Arc<Cache>,
    /// The grant this source gives; `None`: the main one.
    name: Option<GrantName>,
}

pub(super) struct Shared {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    plain: VaultCredentials,
    flows: BTreeMap<String, Arc<dyn Flow>>,
    audiences: BTreeMap<String, Audience>,
    key_audience: Option<KeyAudience>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    spawner: Spawner,
    observer: Option<Arc<dyn RenewalObserver>>,
    caches: std::sync::Mutex<BTreeMap<Option<GrantName>, Arc<Cache>>>,
    closing: AtomicBool,
    under_way: watch::Sender<usize>,
}

/// Builds a [`TokenSource`].
pub struct TokenSourceBuilder {
    shared: Shared,
    twice: Option<String>,
}

/// Watches renewals that ended. Called on the renewal's task: it must be quick and must not block.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait RenewalObserver: Send + Sync + 'static {
    /// Sees one renewal that ended.
    fn observe(&self, record: RenewalRecord);
}

/// A renewal that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct RenewalRecord {
    /// The grant.
    pub key: GrantKey,
    /// The name of its flow.
    pub flow: String,
    /// When it ended.
    pub at: Timestamp,
    /// How it ended.
    pub end: RenewalEnd,
}

/// How a renewal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: alerts decide on each")]
pub enum RenewalEnd {
    /// The provider gave new tokens, and they are stored.
    Renewed,
    /// Another process had renewed it.
    Found,
    /// It failed and will be tried again.
    Failed(ErrorKind),
    /// The grant is over: its owner must reconnect.
    Ended(EndReason),
}

/// What a keep-alive did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct KeptAlive {
    /// Grants renewed, here or by another process.
    pub renewed: u32,
    /// Grants that could not be renewed.
    pub failed: u32,
}

impl TokenSourceBuilder {
    /// Adds what renews the grants of a flow.
    #[must_use]
    pub fn flow(mut self, name: &str, flow: Arc<dyn Flow>) -> Self {
        if self.shared.flows.insert(name.to_owned(), flow).is_some() {
            self.twice = Some(name.to_owned());
        }
        self
    }

    /// Lets grants of a flow be sent to these hosts only: those of its environment. Otherwise they go wherever the
    /// client may.
    #[must_use]
    pub fn audience(mut self, flow: &str, audience: Audience) -> Self {
        self.shared.audiences.insert(flow.to_owned(), audience);
        self
    }

    /// Says the same of keys that do not expire, by their connection.
    #[must_use]
    pub fn key_audience(mut self, audience: KeyAudience) -> Self {
        self.shared.key_audience = Some(audience);
        self
    }

    /// Sets what runs renewals; `tokio::spawn` otherwise.
    #[must_use]
    pub fn spawner(mut self, spawner: Spawner) -> Self {
        self.shared.spawner = spawner;
        self
    }

    /// Sets who watches renewals that ended.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn RenewalObserver>) -> Self {
        self.shared.observer = Some(observer);
        self
    }

    /// Makes the source.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a flow is given twice.
    pub fn build(self) -> Result<Arc<TokenSource>> {
        if let Some(name) = self.twice {
            return Err(Error::new(ErrorKind::Config, format!("the flow {name} is given twice")));
        }
        let shared = Arc::new(self.shared);
        let cache = shared.cache(None);
        Ok(Arc::new(TokenSource { shared, cache, name: None }))
    }
}

impl TokenSource {
    /// Begins a source over a store.
    #[must_use]
    pub fn builder(
        store: Arc<dyn Store>,
        vault: Arc<Vault>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> TokenSourceBuilder {
        let shared = Shared {
            plain: VaultCredentials::new(Arc::clone(&vault), Arc::clone(&store) as _),
            store,
            vault,
            flows: BTreeMap::new(),
            audiences: BTreeMap::new(),
            key_audience: None,
            clock,
            random,
            spawner: Arc::new(|task| drop(tokio::spawn(task))),
            observer: None,
            caches: std::sync::Mutex::default(),
            closing: AtomicBool::new(false),
            under_way: watch::Sender::new(0),
        };
        TokenSourceBuilder { shared, twice: None }
    }

    /// Returns the source of another grant of the same connections (Slack's `user` beside its `bot`).
    #[must_use]
    pub fn grant(&self, name: &str) -> Self {
        let name = Some(GrantName::from(name));
        Self { shared: Arc::clone(&self.shared), cache: self.shared.cache(name.clone()), name }
    }

    /// Returns where keys that do not expire are stored and read.
    #[must_use]
    pub fn keys(&self) -> &VaultCredentials {
        &self.shared.plain
    }

    /// Forgets what is in memory of a connection, so that its rows are read again: after a connect or disconnect.
    pub fn forget(&self, connection: &ConnectionId) {
        self.shared.plain.forget(connection);
        let caches: Vec<_> = self.shared.caches().values().cloned().collect();
        for cache in caches {
            cache.forget(connection);
        }
    }

    /// Renews up to `limit` grants that nobody used for so long that the provider might let them die. To be run every
    /// few minutes; any number of processes may.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn keep_alive(&self, limit: u32) -> Result<KeptAlive> {
        let due = self.shared.store.grants_due(self.shared.clock.now(), limit).await?;
        let renewals = futures_util::stream::iter(due).map(|key| async move {
            let source = self.grant(key.name.as_str());
            source.renew_unused(key).await.is_ok()
        });
        let mut kept = KeptAlive::default();
        let mut ended = std::pin::pin!(renewals.buffer_unordered(KEEP_ALIVE_CONCURRENCY));
        while let Some(renewed) = ended.next().await {
            *(if renewed { &mut kept.renewed } else { &mut kept.failed }) += 1;
        }
        Ok(kept)
    }

    /// Begins no renewal any more and waits for those under way. To be called before the process ends: a renewal that is
    /// cut off loses a grant that can only be connected anew.
    pub async fn shutdown(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let mut under_way = self.shared.under_way.subscribe();
        // The sender lives in `self`.
        let _ended = under_way.wait_for(|count| *count == 0).await;
    }

    async fn renew_unused(&self, key: GrantKey) -> Result<Credential> {
        let entry = self.cache.entry(&key.connection);
        let found = self.read(&key.connection).await?;
        let Found::Grant { tenant, grant } = found else { return Err(none()) };
        let renewing = Renewing {
            tenant,
            flow: grant.flow.clone(),
            key: grant.key.clone(),
            seen: grant.generation,
            why: Why::Unused,
        };
        Self::wait(self.fly(&entry, renewing)?).await
    }

    // ------------------------------------------------------------------------------------------ the slow way

    /// Looks at the row, and renews where it is time.
    async fn look(&self, connection: ConnectionId) -> Result<Credential> {
        let entry = self.cache.entry(&connection);
        // One look at a time: whoever waited finds its result in memory.
        let turn = entry.looking.lock().await;
        let now = self.shared.clock.now();
        if let Some(credential) = entry.hit(now) {
            return Ok(credential);
        }
        let epoch = entry.epoch();
        let found = match self.read(&connection).await {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::Auth => {
                entry.clear();
                return Err(error);
            }
            // The store is out of reach: what is known to be valid is still valid.
            Err(error) => {
                return entry.still_valid(now, now.plus(LOOK_SOON)).ok_or(error);
            }
        };
        let (tenant, grant) = match found {
            Found::Plain(credential) => {
                entry.keep(epoch, Kept::plain(credential.clone(), now.plus(LOOK_EVERY)));
                return Ok(credential);
            }
            Found::Grant { tenant, grant } => (tenant, grant),
        };
        let kept = match entry.of_generation(grant.generation) {
            Some(kept) => kept,
            None => Arc::new(self.shared.open(&tenant, &grant).await?),
        };
        let renewable = grant.state == GrantState::Live;
        if kept.is_valid(now) {
            let resting = grant.rest_until.filter(|until| *until > now);
            let due = renewable && kept.renew_at.is_some_and(|at| at <= now);
            let look_at = match resting {
                Some(until) if due => until.min(now.plus(LOOK_EVERY)),
                None if due => now.plus(LOOK_SOON),
                Some(_) | None => {
                    let late = now.plus(LOOK_EVERY);
                    kept.renew_at.filter(|_| renewable).map_or(late, |at| at.min(late))
                }
            };
            entry.keep(epoch, kept.until(look_at));
            if due && resting.is_none() {
                let renewing = Renewing {
                    tenant,
                    flow: grant.flow.clone(),
                    key: grant.key.clone(),
                    seen: grant.generation,
                    why: Why::Due,
                };
                // A renewal that cannot begin now is begun at the next look.
                let _begun = self.fly(&entry, renewing);
            }
            return Ok(kept.credential.clone());
        }
        if !renewable {
            return Err(over(&grant.state));
        }
        if let Some(until) = grant.rest_until.filter(|until| *until > now) {
            return Err(resting(until.since(now)));
        }
        let renewing = Renewing {
            tenant,
            flow: grant.flow.clone(),
            key: grant.key.clone(),
            seen: grant.generation,
            why: Why::Expired,
        };
        let flight = self.fly(&entry, renewing)?;
        drop(turn);
        Self::wait(flight).await
    }

    /// Reads what authenticates a connection now.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`] when nothing does; [`ErrorKind::Store`] and what [`VaultCredentials`] says otherwise.
    async fn read(&self, connection: &ConnectionId) -> Result<Found> {
        let store = &self.shared.store;
        let refused = |why: String| Err(Error::new(ErrorKind::Auth, why).with_outcome(Outcome::NotSent));
        let Some(row) = store.connection(connection.clone()).await? else {
            return refused(format!("there is no connection {connection}"));
        };
        if row.state == ConnectionState::Disconnected {
            return refused("the connection is disconnected".to_owned());
        }
        let grants = store.grants(connection.clone()).await?;
        let of_name = |name: &str| grants.iter().find(|grant| grant.key.name.as_str() == name);
        let chosen = match &self.name {
            Some(name) => of_name(name.as_str()),
            None => of_name(MAIN).or_else(|| grants.iter().find(|grant| !is_erased(grant))),
        };
        let Some(grant) = chosen.filter(|grant| !is_erased(grant)) else {
            if self.name.is_some() {
                return refused("the connection has no such grant: connect it".to_owned());
            }
            let key = self.shared.plain.read(connection).await?;
            let audience = self.shared.key_audience.as_ref().map(|audience| audience(&row));
            return Ok(Found::Plain(placed(key, audience)));
        };
        // A mark that no grant explains comes from somebody who saw the provider refuse: nothing is sent until the owner
        // has reconnected.
        if let ConnectionState::NeedsReconnect { reason } = &row.state
            && !grants.iter().any(is_over)
        {
            return refused(format!("the connection must be reconnected: {reason}"));
        }
        match &grant.state {
            GrantState::Live | GrantState::Ending { .. } => {}
            state @ (GrantState::Dead { .. } | GrantState::Erased { .. }) => return Err(over(state)),
        }
        Ok(Found::Grant { tenant: row.tenant, grant: Box::new(grant.clone()) })
    }

    /// Begins a renewal, or joins the one that is under way.
    fn fly(&self, entry: &Arc<Entry>, renewing: Renewing) -> Result<cache::Flight> {
        entry.join(renewing.seen, || {
            if self.shared.closing.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Cancelled, "the process is shutting down").with_retryable(true));
            }
            Ok(self.shared.launch(Arc::clone(entry), renewing))
        })
    }

    async fn wait(flight: cache::Flight) -> Result<Credential> {
        flight.await.map_err(|error| cache::own(&error))
    }

    async fn replace(&self, connection: ConnectionId, seen: u64) -> Result<Credential> {
        let entry = self.cache.entry(&connection);
        let now = self.shared.clock.now();
        if let Some(kept) = entry.valid(now).filter(|kept| kept.credential.version() != seen) {
            return Ok(kept.credential.clone());
        }
        let found = match self.read(&connection).await {
            Err(error) if error.kind() == ErrorKind::Auth => {
                entry.clear();
                return Err(error);
            }
            found => found?,
        };
        let (tenant, grant) = match found {
            Found::Plain(key) => {
                entry.clear();
                let fresh = self.shared.plain.refresh(connection, seen).await?;
                return Ok(placed(fresh, key.audience().cloned()));
            }
            Found::Grant { tenant, grant } => (tenant, grant),
        };
        if grant.generation != seen {
            entry.clear();
            return self.look(connection).await;
        }
        let key = grant.key.clone();
        let error = if grant.state == GrantState::Live {
            let renewing = Renewing { tenant, flow: grant.flow.clone(), key: key.clone(), seen, why: Why::Refused };
            match Self::wait(self.fly(&entry, renewing)?).await {
                Ok(fresh) if fresh.version() != seen => return Ok(fresh),
                Ok(_) => none(),
                Err(error) => error,
            }
        } else {
            over(&grant.state)
        };
        if error.kind() != ErrorKind::Auth {
            return Err(error);
        }
        // What is over and would still have served is refused: nothing of it is used any more.
        let still = self.shared.store.grant(key.clone()).await?.filter(|grant| grant.generation == seen);
        if let Some(GrantState::Ending { reason }) = still.map(|grant| grant.state) {
            self.shared.store.end_grant(key, seen, reason, false).await?;
        }
        entry.clear();
        Err(error.with_outcome(Outcome::Rejected))
    }
}

/// What authenticates a connection.
enum Found {
    Plain(Credential),
    Grant { tenant: TenantId, grant: Box<StoredGrant> },
}

/// Bounds where a credential goes, if it is to be.
fn placed(credential: Credential, audience: Option<Audience>) -> Credential {
    match audience {
        Some(audience) => credential.only_to(audience),
        None => credential,
    }
}

fn is_erased(grant: &StoredGrant) -> bool {
    matches!(grant.state, GrantState::Erased { .. })
}

fn is_over(grant: &StoredGrant) -> bool {
    matches!(grant.state, GrantState::Ending { .. } | GrantState::Dead { .. })
}

fn none() -> Error {
    Error::new(ErrorKind::Auth, "the connection has no token: connect it").with_outcome(Outcome::NotSent)
}

/// The error of a grant that is not live.
fn over(state: &GrantState) -> Error {
    let why = match state {
        GrantState::Live => "the token has expired",
        GrantState::Ending { reason } | GrantState::Dead { reason } => reason.phrase(),
        GrantState::Erased { .. } => "the connection is disconnected",
    };
    Error::new(ErrorKind::Auth, why).with_outcome(Outcome::NotSent)
}

fn resting(wait: Duration) -> Error {
    Error::new(ErrorKind::Provider, "the token has expired, and the provider's token endpoint failed a moment ago")
        .with_outcome(Outcome::NotSent)
        .with_retry_after(Some(wait))
}

impl Shared {
    fn caches(&self) -> std::sync::MutexGuard<'_, BTreeMap<Option<GrantName>, Arc<Cache>>> {
        self.caches.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn cache(&self, name: Option<GrantName>) -> Arc<Cache> {
        Arc::clone(self.caches().entry(name).or_default())
    }
}

#[async_trait]
impl CredentialSource for TokenSource {
    async fn credential(&self, connection: ConnectionId) -> Result<Credential> {
        if let Some(credential) = self.cache.hit(&connection, self.shared.clock.roughly_now()) {
            return Ok(credential);
        }
        // Boxed, so that the usual way carries none of its size.
        Box::pin(self.look(connection)).await
    }

    async fn refresh(&self, connection: ConnectionId, seen: u64) -> Result<Credential> {
        Box::pin(self.replace(connection, seen)).await
    }

    fn of_grant(&self, name: GrantName) -> Option<Arc<dyn CredentialSource>> {
        Some(Arc::new(self.grant(name.as_str())))
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource")
            .field("grant", &self.name)
            .field("flows", &self.shared.flows.keys())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for TokenSourceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSourceBuilder").field("flows", &self.shared.flows.keys()).finish_non_exhaustive()
    }
}

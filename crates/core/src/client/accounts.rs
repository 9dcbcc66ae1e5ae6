//! Which connections are one account at the provider, and so count together against its limits.
//!
//! What is not said when a client is built is asked of an [`AccountSource`]: when a connection is first called, every few
//! minutes after, and once what was known of it is forgotten. A connection whose account is known costs a call no lock.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::time::Instant;

use crate::auth::hasher::QuickHash;
use crate::error::Result;
use crate::id::ConnectionId;

/// Maps that are replaced whole when something in them changes: small ones, so that this costs little.
const SHARDS: usize = 64;
/// Connections kept in one of them. Beyond it any other goes: it is asked for again when it is needed.
const SHARD_MAX: usize = 256;
/// How long an account is taken for known. Another process may have connected it anew.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);

/// How soon is asked again after it could not be said.
const LOOK_SOON: Duration = Duration::from_secs(5);

/// Says which account at the provider a connection is.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait AccountSource: Send + Sync + 'static {
    /// Returns a name that all connections of the account have and no others at the provider; `None` for a connection
    /// that is an account of its own.
    ///
    /// # Errors
    /// Why it cannot be said: the connection goes by what was known of it, or counts by itself, and the next call asks
    /// again.
    async fn account(&self, connection: ConnectionId) -> Result<Option<String>>;
}

/// The accounts of connections, for any number of clients. Cheap to clone; clones know the same.
#[derive(Clone, Default)]
pub struct Accounts {
    /// Said for good, when the client was built.
    fixed: Arc<HashMap<ConnectionId, ConnectionId>>,
    asked: Option<Arc<Asked>>,
}

struct Asked {
    source: Arc<dyn AccountSource>,
    shards: Vec<Shard>,
}

#[derive(Default)]
struct Shard {
    known: ArcSwap<Known>,
    /// One question at a time: whoever waited finds its answer.
    turn: tokio::sync::Mutex<()>,
    /// Grows when something is forgotten: what was read before is not kept afterwards.
    epoch: Mutex<u64>,
}

type Known = HashMap<ConnectionId, Told, QuickHash>;

#[derive(Clone)]
struct Told {
    /// `None` is an account of its own.
    account: Option<ConnectionId>,
    look_at: Instant,
}

/// Returns what stands where a connection's id does. The blank keeps the two apart.
fn standing_for(account: &str) -> ConnectionId {
    ConnectionId::new(format!("account {account}"))
}

impl Accounts {
    /// Asks a source for what is not known.
    #[must_use]
    pub fn asking(source: Arc<dyn AccountSource>) -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { fixed: Arc::default(), asked: Some(Arc::new(Asked { source, shards })) }
    }

    /// Forgets what is known of a connection, so that the next call asks again: after a connect or disconnect.
    pub fn forget(&self, connection: &ConnectionId) {
        if let Some(shard) = self.shard(connection) {
            shard.forget(connection);
        }
    }

    /// Says for good which account a connection is.
    pub(super) fn put(&mut self, connection: ConnectionId, account: &str) {
        Arc::make_mut(&mut self.fixed).insert(connection, standing_for(account));
    }

    /// Takes over whom another one asks.
    pub(super) fn ask_as(&mut self, other: Self) {
        self.asked = other.asked;
    }

    /// Returns what stands for the account of a connection, if that need not be asked for.
    pub(super) fn known(&self, connection: &ConnectionId, now: Instant) -> Option<ConnectionId> {
        if let Some(account) = self.fixed.get(connection) {
            return Some(account.clone());
        }
        match self.shard(connection) {
            None => Some(connection.clone()),
            Some(shard) => shard.told(connection, Some(now)),
        }
    }

    /// Returns what stood for the account of a connection when it was last asked for; the connection itself before.
    pub(super) fn last(&self, connection: &ConnectionId) -> ConnectionId {
        let fixed = self.fixed.get(connection).cloned();
        let told = || self.shard(connection)?.told(connection, None);
        fixed.or_else(told).unwrap_or_else(|| connection.clone())
    }

    /// Returns what stands for the account of a connection, and asks where that is not known.
    pub(super) async fn of(&self, connection: &ConnectionId) -> ConnectionId {
        if let Some(account) = self.known(connection, Instant::now()) {
            return account;
        }
        let (Some(asked), Some(shard)) = (&self.asked, self.shard(connection)) else { return connection.clone() };
        let _turn = shard.turn.lock().await;
        let now = Instant::now();
        if let Some(account) = shard.told(connection, Some(now)) {
            return account;
        }
        let epoch = *shard.epoch();
        match asked.source.account(connection.clone()).await {
            Ok(account) => {
                let account = account.map(|account| standing_for(&account));
                let told = Told { account: account.clone(), look_at: now + LOOK_EVERY };
                shard.keep(connection, told, epoch);
                account.unwrap_or_else(|| connection.clone())
            }
            Err(error) => {
                tracing::debug!(%connection, %error, "the account of a connection could not be read");
                let last = self.last(connection);
                // Not asked again by each of the calls that wait for their turn.
                let account = (last != *connection).then(|| last.clone());
                shard.keep(connection, Told { account, look_at: Instant::now() + LOOK_SOON }, epoch);
                last
            }
        }
    }

    fn shard(&self, connection: &ConnectionId) -> Option<&Shard> {
        let asked = self.asked.as_ref()?;
        asked.shards.get((QuickHash::default().hash_one(connection) >> 32) as usize % SHARDS)
    }
}

impl Shard {
    /// Returns what is known of a connection, however old that is without a moment.
    fn told(&self, connection: &ConnectionId, now: Option<Instant>) -> Option<ConnectionId> {
        let known = self.known.load();
        let told = known.get(connection).filter(|told| now.is_none_or(|now| now < told.look_at))?;
        Some(told.account.as_ref().unwrap_or(connection).clone())
    }

    fn keep(&self, connection: &ConnectionId, told: Told, epoch: u64) {
        let current = self.epoch();
        if *current != epoch {
            return;
        }
        let mut grown = Known::clone(&self.known.load());
        if grown.len() >= SHARD_MAX && !grown.contains_key(connection) {
            let gone = grown.keys().next().cloned();
            gone.map(|gone| grown.remove(&gone));
        }
        grown.insert(connection.clone(), told);
        self.known.store(Arc::new(grown));
    }

    fn forget(&self, connection: &ConnectionId) {
        let mut epoch = self.epoch();
        *epoch += 1;
        if self.known.load().contains_key(connection) {
            let mut left = Known::clone(&self.known.load());
            left.remove(connection);
            self.known.store(Arc::new(left));
        }
    }

    fn epoch(&self) -> MutexGuard<'_, u64> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("fixed", &self.fixed.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::time::{advance, sleep};

    use super::*;
    use crate::error::{Error, ErrorKind};

    /// Answers from a list after a while, and counts the questions.
    #[derive(Default)]
    struct Book {
        accounts: Mutex<HashMap<&'static str, &'static str>>,
        broken: std::sync::atomic::AtomicBool,
        asked: AtomicUsize,
    }

    #[async_trait]
    impl AccountSource for Book {
        async fn account(&self, connection: ConnectionId) -> Result<Option<String>> {
            self.asked.fetch_add(1, SeqCst);
            let account = self.accounts.lock().unwrap().get(connection.as_str()).map(|account| (*account).to_owned());
            sleep(Duration::from_millis(10)).await;
            if self.broken.load(SeqCst) {
                return Err(Error::new(ErrorKind::Store, "the store is away"));
            }
            Ok(account)
        }
    }

    fn asking(book: &Arc<Book>) -> Accounts {
        Accounts::asking(Arc::clone(book) as _)
    }

    // Fails when what was read before a change is kept after it, or when a look is never repeated.
    #[tokio::test(start_paused = true)]
    async fn an_account_is_asked_for_once_until_it_may_have_changed() {
        let book = Arc::new(Book::default());
        book.accounts.lock().unwrap().insert("one", "T1");
        let accounts = asking(&book);
        let (one, other) = (ConnectionId::from("one"), ConnectionId::from("other"));
        let all = futures_util::future::join_all((0..50).map(|_| accounts.of(&one))).await;
        assert!(all.iter().all(|account| account.as_str() == "account T1"), "{all:?}");
        assert_eq!((accounts.of(&other).await, book.asked.load(SeqCst)), (other.clone(), 2), "asked once each");
        assert_eq!(accounts.known(&one, Instant::now()).unwrap().as_str(), "account T1");

        // It changes while somebody asks.
        let slow = {
            let accounts = accounts.clone();
            tokio::spawn(async move { accounts.of(&"late".into()).await })
        };
        sleep(Duration::from_millis(5)).await;
        book.accounts.lock().unwrap().insert("late", "T2");
        accounts.forget(&"late".into());
        slow.await.unwrap();
        assert_eq!(accounts.of(&"late".into()).await.as_str(), "account T2");

        book.accounts.lock().unwrap().insert("one", "T3");
        assert_eq!(accounts.of(&one).await.as_str(), "account T1", "nobody said that it changed");
        advance(LOOK_EVERY).await;
        assert_eq!(accounts.known(&one, Instant::now()), None);
        assert_eq!(accounts.last(&one).as_str(), "account T1");
        book.broken.store(true, SeqCst);
        assert_eq!(accounts.of(&one).await.as_str(), "account T1", "what was known is better than nothing");
        assert_eq!(accounts.of(&"never".into()).await.as_str(), "never");
        // Fails when every call of an outage asks a store that is slow to fail, one behind the other.
        let asked = book.asked.load(SeqCst);
        accounts.of(&one).await;
        assert_eq!(book.asked.load(SeqCst), asked, "it was asked a moment ago");
        book.broken.store(false, SeqCst);
        advance(LOOK_SOON).await;
        assert_eq!(accounts.of(&one).await.as_str(), "account T3");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_for_good_is_not_asked_for_and_the_rest_is_bounded() {
        let book = Arc::new(Book::default());
        let mut accounts = Accounts::default();
        assert_eq!(accounts.known(&"one".into(), Instant::now()).unwrap().as_str(), "one", "nobody to ask");
        accounts.put("one".into(), "acct");
        accounts.ask_as(asking(&book));
        assert_eq!((accounts.of(&"one".into()).await.as_str(), book.asked.load(SeqCst)), ("account acct", 0));
        for n in 0..3 * SHARDS * SHARD_MAX {
            let id = ConnectionId::from(format!("c{n}"));
            let shard = accounts.shard(&id).unwrap();
            shard.keep(&id, Told { account: None, look_at: Instant::now() + LOOK_EVERY }, 0);
        }
        let kept: usize = accounts.asked.as_ref().unwrap().shards.iter().map(|shard| shard.known.load().len()).sum();
        assert!(kept <= SHARDS * SHARD_MAX, "{kept}");
    }
}

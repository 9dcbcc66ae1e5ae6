//! A provider with single-use refresh tokens, any number of processes on one store, and what may happen to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;

use tokio::task::JoinSet;

use super::*;
use crate::auth::flow::{RenewalAsk, RenewalFailure, RenewalPolicy, RevocationAsk};
use crate::auth::grant::{Renewal, Tokens};
use crate::auth::vault::{Issued, LocalMasterKey};
use crate::clock::TokioClock;
use crate::random::{SeededRandom, SystemRandom};
use crate::store::faulty::{Fault, Faulty};
use crate::store::{Connection, Connections, Grants, NewGrant, NewTokens, Revocation};

mod crashes;
mod ends;
mod serving;
mod storms;

const START: Timestamp = Timestamp(1_700_000_000_000);
/// How long the provider's access tokens live.
const LIFE: Duration = Duration::from_secs(3_600);

/// What the provider, or the way to it, does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    /// It is answered as it should be.
    None,
    /// It never reaches the provider, and that is known.
    NotSent,
    /// The provider acts, and its answer is lost.
    Lost,
    /// It never reaches the provider, and that is not known.
    LostBefore,
    /// The provider says it is its own trouble.
    Passing(Option<Duration>),
    /// The provider says the grant is over.
    InvalidGrant,
    /// The provider refuses our client.
    Wrong,
    /// The answer never comes.
    Stuck,
}

#[derive(Default)]
struct Book {
    issued: u64,
    /// How often each refresh token reached the provider.
    uses: BTreeMap<String, u32>,
    live_refresh: BTreeSet<String>,
    live_access: BTreeMap<String, Timestamp>,
    revoked: Vec<String>,
    mishaps: VecDeque<Mishap>,
    /// What every request meets when none is planned.
    always: Option<Mishap>,
    requests: u64,
}

/// The provider, as all processes see it.
struct Provider {
    book: Mutex<Book>,
    clock: TokioClock,
    policy: Mutex<RenewalPolicy>,
    /// How long a request travels, and its answer.
    delay: Mutex<Duration>,
    yields: AtomicBool,
    rotates: AtomicBool,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Provider")
    }
}

impl Provider {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    fn plan(&self, mishaps: impl IntoIterator<Item = Mishap>) {
        self.book().mishaps.extend(mishaps);
    }

    /// Issues a pair.
    fn issue(&self) -> (String, String) {
        let mut book = self.book();
        book.issued += 1;
        let (access, refresh) = (format!("access-{}", book.issued), format!("refresh-{}", book.issued));
        let now = self.clock.now();
        book.live_access.insert(access.clone(), now.plus(LIFE));
        book.live_refresh.insert(refresh.clone());
        (access, refresh)
    }

    fn accepts(&self, access: &str) -> bool {
        self.book().live_access.get(access).is_some_and(|until| *until > self.clock.now())
    }

    fn requests(&self) -> u64 {
        self.book().requests
    }

    /// Fails when a refresh token reached the provider twice.
    #[track_caller]
    fn assert_single_use(&self, repeat: &str) {
        let twice: Vec<_> =
            self.book().uses.iter().filter(|(_, uses)| **uses > 1).map(|(t, n)| (t.clone(), *n)).collect();
        assert!(twice.is_empty(), "refresh tokens sent more than once: {twice:?}; {repeat}");
    }

    async fn travel(&self) {
        if self.yields.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        let delay = *self.delay.lock().unwrap();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
}

#[async_trait]
impl Flow for Provider {
    fn policy(&self) -> RenewalPolicy {
        self.policy.lock().unwrap().clone()
    }

    async fn renew(&self, asked: RenewalAsk) -> Result<Tokens, RenewalFailure> {
        let Renewal::RefreshToken(token) = &asked.renewal else { panic!("only refresh tokens here") };
        let token = token.expose().to_owned();
        let error = |kind, outcome| Error::new(kind, "as planned").with_outcome(outcome);
        let lost = || RenewalFailure::Lost(error(ErrorKind::Transport, Outcome::Unknown));
        let mishap = {
            let mut book = self.book();
            book.requests += 1;
            book.mishaps.pop_front().or(book.always).unwrap_or(Mishap::None)
        };
        if mishap == Mishap::NotSent {
            return Err(RenewalFailure::Passing { error: error(ErrorKind::Connect, Outcome::NotSent), after: None });
        }
        self.travel().await;
        match mishap {
            Mishap::LostBefore => return Err(lost()),
            Mishap::Passing(after) => {
                return Err(RenewalFailure::Passing { error: error(ErrorKind::Provider, Outcome::Rejected), after });
            }
            Mishap::Wrong => return Err(RenewalFailure::Wrong(error(ErrorKind::Config, Outcome::Rejected))),
            Mishap::None | Mishap::NotSent | Mishap::Lost | Mishap::InvalidGrant | Mishap::Stuck => {}
        }
        let known = {
            let mut book = self.book();
            *book.uses.entry(token.clone()).or_default() += 1;
            let rotates = self.rotates.load(Ordering::SeqCst);
            let known = if rotates { book.live_refresh.remove(&token) } else { book.live_refresh.contains(&token) };
            known && mishap != Mishap::InvalidGrant
        };
        if !known {
            self.travel().await;
            return Err(RenewalFailure::Over(error(ErrorKind::Auth, Outcome::Rejected)));
        }
        let (access, refresh) = self.issue();
        if mishap == Mishap::Stuck {
            std::future::pending::<()>().await;
        }
        if mishap == Mishap::Lost {
            return Err(lost());
        }
        self.travel().await;
        let renewal =
            if self.rotates.load(Ordering::SeqCst) { Renewal::RefreshToken(refresh.into()) } else { asked.renewal };
        Ok(Tokens {
            name: asked.name,
            access: access.into(),
            renewal,
            expires_in: Some(LIFE),
            requested: asked.requested,
            granted: asked.granted,
        })
    }

    async fn revoke(&self, asked: RevocationAsk) -> Result<Revocation, Error> {
        let access = asked.secrets.access.expose().to_owned();
        let mut book = self.book();
        book.live_access.remove(&access);
        book.revoked.push(access);
        Ok(Revocation::Confirmed)
    }
}

/// One process: a source with its own tasks, which die with it.
struct Process {
    source: Arc<TokenSource>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Process {
    /// Ends it as `kill -9` would.
    fn kill(&self) {
        self.tasks.lock().unwrap().abort_all();
    }

    async fn token(&self) -> Result<Credential> {
        self.source.credential("acme".into()).await
    }
}

struct World {
    store: Arc<Faulty>,
    provider: Arc<Provider>,
    clock: TokioClock,
}

impl World {
    fn new() -> Self {
        let clock = TokioClock::starting_at(START);
        let provider = Provider {
            book: Mutex::default(),
            clock,
            policy: Mutex::new(RenewalPolicy::default()),
            delay: Mutex::default(),
            yields: AtomicBool::new(false),
            rotates: AtomicBool::new(true),
        };
        Self { store: Arc::new(Faulty::default()), provider: Arc::new(provider), clock }
    }

    /// A world with `acme` connected, its token just issued.
    async fn connected() -> Self {
        let world = Self::new();
        world.connect("main", 0).await;
        world
    }

    fn vault(&self) -> Arc<Vault> {
        let random = Arc::new(SystemRandom);
        let master = LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), random.clone()).unwrap();
        Arc::new(Vault::new(self.store.clone(), Arc::new(master), random))
    }

    fn connection() -> Connection {
        Connection {
            id: "acme".into(),
            tenant: "t".into(),
            provider: "slack".to_owned(),
            environment: Default::default(),
            account: None,
            base_url: None,
            state: ConnectionState::Active,
            created_at: START,
        }
    }

    async fn sealed(
        &self,
        name: &str,
        expected: u64,
        renewal: Renewal,
        access: &str,
        life: Option<Duration>,
    ) -> NewTokens {
        let key = GrantKey { connection: "acme".into(), name: name.into() };
        let tokens = Tokens {
            name: name.into(),
            access: access.into(),
            renewal,
            expires_in: life,
            requested: vec!["read".to_owned()],
            granted: vec!["read".to_owned()],
        };
        let policy = self.provider.policy();
        let random = SeededRandom::new(1);
        let issued = Issued { at: self.clock.now(), policy: &policy, random: &random };
        self.vault().seal_tokens(&"t".into(), &key, (expected, expected + 1), &tokens, issued).await.unwrap()
    }

    /// Writes a grant as a connect does; returns its access token.
    async fn connect(&self, name: &str, expected: u64) -> String {
        let (access, refresh) = self.provider.issue();
        let renewal = Renewal::RefreshToken(refresh.into());
        let tokens = self.sealed(name, expected, renewal, &access, Some(LIFE)).await;
        self.put(name, tokens).await;
        access
    }

    async fn put(&self, name: &str, tokens: NewTokens) {
        let grant =
            NewGrant { name: name.into(), flow: "slack".to_owned(), requested: vec!["read".to_owned()], tokens };
        assert!(self.store.inner.connect(Self::connection(), vec![grant]).await.unwrap());
    }

    fn process(&self, seed: u64) -> Process {
        self.process_with(seed, |task| task)
    }

    /// A process whose tasks are wrapped first.
    fn process_with(
        &self,
        seed: u64,
        wrap: impl Fn(BoxFuture<'static, ()>) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Process {
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        let own = tasks.clone();
        let source = TokenSource::builder(
            self.store.clone(),
            self.vault(),
            Arc::new(self.clock),
            Arc::new(SeededRandom::new(seed)),
        )
        .flow("slack", self.provider.clone())
        .spawner(Arc::new(move |task| {
            own.lock().unwrap().spawn(wrap(task));
        }))
        .build()
        .unwrap();
        Process { source, tasks }
    }

    async fn row(&self) -> StoredGrant {
        let key = GrantKey { connection: "acme".into(), name: "main".into() };
        self.store.inner.grant(key).await.unwrap().unwrap()
    }

    async fn state(&self) -> ConnectionState {
        self.store.inner.connection("acme".into()).await.unwrap().unwrap().state
    }

    /// Fails when a credential that was given is not accepted by the provider.
    #[track_caller]
    fn assert_valid(&self, credential: &Credential, repeat: &str) {
        let sent = sent(credential);
        assert!(self.provider.accepts(&sent), "{sent} is not valid; {repeat}");
    }
}

/// The token a credential puts on a request.
fn sent(credential: &Credential) -> String {
    let mut request = http::Request::get("https://api.example/").body(()).unwrap();
    credential.apply(&mut request).unwrap();
    request.headers()["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned()
}

/// Lets background work go on until it waits for time or is done.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

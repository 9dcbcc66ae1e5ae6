//! The flow with a store in between: what a product or the hub mounts as routes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::pending::PendingAuthorization;
use super::refused::{Refused, RefusedKind};
use super::{Callback, Grant, ReturnTargets, Wanted, begin, clear_cookie, finish, hash, same, token};
use crate::auth::flow::{Flow, RenewalAsk, RenewalFailure, RevocationAsk};
use crate::auth::grant::{MAIN, Renewal, Tokens};
use crate::auth::oauth2::{OAuth2Config, OAuth2Flow};
use crate::auth::token_source::TokenSource;
use crate::auth::vault::{Issued, Vault};
use crate::client::Accounts;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::id::{ConnectionId, Environment, GrantName, TenantId};
use crate::random::Random;
use crate::secret::Secret;
use crate::store::{
    Connection, ConnectionState, GrantKey, GrantState, NewGrant, Revocation, SessionRow, Store, StoredGrant, TokenHash,
};

/// How long a link of a connect session works.
pub const SESSION_LIFE: Duration = Duration::from_secs(30 * 60);
/// Writes that lose against another one before it is said.
pub(super) const WRITES_MAX: usize = 3;
/// How often a provider is asked to revoke a grant before it is given up and said.
const REVOCATIONS_MAX: u32 = 3;
/// What lies between two of them.
const REVOCATION_PAUSE: Duration = Duration::from_secs(2);
/// The longest wait a provider may ask for in between: somebody has pressed a button.
const REVOCATION_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Connects, reconnects and disconnects accounts. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Connector {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) store: Arc<dyn Store>,
    pub(super) vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    browser_flows: BTreeMap<String, Arc<OAuth2Flow>>,
    flows: BTreeMap<String, Arc<dyn Flow>>,
    targets: ReturnTargets,
    pub(super) tokens: Option<Arc<TokenSource>>,
    accounts: Accounts,
}

/// Builds a [`Connector`].
pub struct ConnectorBuilder {
    inner: Inner,
    twice: Option<String>,
}

/// What to connect in a browser.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made by `ConnectAsk::new` and changed field by field")]
pub struct ConnectAsk {
    /// The name of the flow.
    pub flow: String,
    /// The tenant.
    pub tenant: TenantId,
    /// The connection to reconnect; a new one without it.
    pub connection: Option<ConnectionId>,
    /// Scopes to ask for instead of the flow's own.
    pub scopes: Option<Vec<String>>,
    /// Where to go afterwards; must be on the allow-list.
    pub return_to: Option<String>,
    /// More parameters of the authorize address (`login_hint`).
    pub params: Vec<(String, String)>,
}

impl ConnectAsk {
    /// Asks for a new connection of a tenant with the flow's own scopes.
    #[must_use]
    pub fn new(flow: &str, tenant: TenantId) -> Self {
        let flow = flow.to_owned();
        Self { flow, tenant, connection: None, scopes: None, return_to: None, params: Vec::new() }
    }
}

/// Where to send the browser.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Begun {
    /// The address at the provider, for a `Location` header and for no log.
    pub redirect_url: Secret,
    /// The value of the `Set-Cookie` header.
    pub set_cookie: Secret,
    /// The connection that is made or renewed.
    pub connection: ConnectionId,
    /// When it is too late.
    pub expires_at: Timestamp,
}

/// An account that was connected.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Connected {
    /// The connection, active.
    pub connection: Connection,
    /// Whether it was there before.
    pub reconnected: bool,
    /// The names of its grants that were written.
    pub grants: Vec<GrantName>,
    /// The scopes that were asked for and not granted.
    pub missing: Vec<String>,
    /// Where to send the browser; on the allow-list.
    pub return_to: Option<String>,
    /// The value of the `Set-Cookie` header that removes the flow's cookie, where there was a browser.
    pub clear_cookie: Option<String>,
}

/// What to connect without a browser: a service account, client credentials, a long-lived token.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct DirectAsk {
    /// The name of the flow.
    pub flow: String,
    /// The tenant.
    pub tenant: TenantId,
    /// The connection to reconnect; a new one without it.
    pub connection: Option<ConnectionId>,
    /// The account, for people and for account headers.
    pub account: Option<String>,
    /// What gets the tokens. It is tried before anything is stored.
    pub renewal: Renewal,
    /// The scopes to ask for.
    pub scopes: Vec<String>,
}

/// A link to make for a product's front end.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct SessionAsk {
    /// The tenant the connection will belong to.
    pub tenant: TenantId,
    /// The name of the flow.
    pub flow: String,
    /// The connection to reconnect; a new one without it.
    pub connection: Option<ConnectionId>,
    /// Scopes to ask for instead of the flow's own.
    pub scopes: Option<Vec<String>>,
    /// Where to go afterwards; must be on the allow-list.
    pub return_to: Option<String>,
}

/// A link that works once.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct SessionLink {
    /// What stands in the link.
    pub token: Secret,
    /// When it is too late.
    pub expires_at: Timestamp,
}

/// What a disconnect did at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Disconnected {
    /// What the provider said, for each grant.
    pub revocations: Vec<(GrantName, Revocation)>,
}

impl ConnectorBuilder {
    /// Adds a flow that goes through a browser.
    #[must_use]
    pub fn browser_flow(mut self, flow: Arc<OAuth2Flow>) -> Self {
        let name = flow.config().name.clone();
        if self.inner.browser_flows.insert(name.clone(), Arc::clone(&flow)).is_some() {
            self.twice = Some(name.clone());
        }
        self.flow(&name, flow)
    }

    /// Adds a flow that needs no browser: a service account, client credentials.
    #[must_use]
    pub fn flow(mut self, name: &str, flow: Arc<dyn Flow>) -> Self {
        if self.inner.flows.insert(name.to_owned(), flow).is_some() {
            self.twice = Some(name.to_owned());
        }
        self
    }

    /// Sets where a browser may be sent afterwards; nowhere otherwise.
    #[must_use]
    pub fn return_targets(mut self, targets: ReturnTargets) -> Self {
        self.inner.targets = targets;
        self
    }

    /// Sets the token source of this process, so that it forgets what a connect or disconnect replaces.
    #[must_use]
    pub fn token_source(mut self, tokens: Arc<TokenSource>) -> Self {
        self.inner.tokens = Some(tokens);
        self
    }

    /// Sets who knows the accounts of connections in this process, so that it forgets what a connect or disconnect
    /// replaces.
    #[must_use]
    pub fn accounts(mut self, accounts: Accounts) -> Self {
        self.inner.accounts = accounts;
        self
    }

    /// Makes the connector.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a flow is given twice.
    pub fn build(self) -> Result<Connector> {
        if let Some(name) = self.twice {
            return Err(Error::new(ErrorKind::Config, format!("the flow {name} is given twice")));
        }
        Ok(Connector { inner: Arc::new(self.inner) })
    }
}

impl Connector {
    /// Begins a connector. `random` must be fit for tokens ([`crate::random::SystemRandom`]).
    #[must_use]
    pub fn builder(
        store: Arc<dyn Store>,
        vault: Arc<Vault>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> ConnectorBuilder {
        let inner = Inner {
            store,
            vault,
            clock,
            random,
            browser_flows: BTreeMap::new(),
            flows: BTreeMap::new(),
            targets: ReturnTargets::none(),
            tokens: None,
            accounts: Accounts::default(),
        };
        ConnectorBuilder { inner, twice: None }
    }

    /// Returns the names of the flows that go through a browser.
    pub fn browser_flows(&self) -> impl Iterator<Item = &str> {
        self.inner.browser_flows.keys().map(String::as_str)
    }

    /// Begins a flow in a browser.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such flow, or no such connection of the tenant; [`ErrorKind::Invalid`]
    /// when the target is not on the allow-list, or the connection is of another flow; [`ErrorKind::Config`] from the
    /// master key; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn begin(&self, ask: ConnectAsk) -> Result<Begun> {
        let inner = &self.inner;
        let flow = self.browser_flow(&ask.flow)?;
        let tenant = ask.tenant;
        self.check_target(ask.return_to.as_deref())?;
        let connection = match ask.connection {
            Some(id) => self.reconnectable(&id, &tenant, &ask.flow).await?.id,
            None => self.new_id(),
        };
        let wanted = Wanted {
            tenant,
            connection: connection.clone(),
            scopes: flow.config().scopes_for(ask.scopes.as_deref()),
            return_to: ask.return_to,
            params: ask.params,
        };
        let (departure, pending) = begin(flow, wanted, inner.clock.now(), inner.random.as_ref());
        let row = pending.seal(&inner.vault).await?;
        if !inner.store.put_pending(row).await? {
            return Err(Error::new(ErrorKind::Conflict, "two flows were given the same state"));
        }
        let expires_at = pending.expires_at();
        Ok(Begun { redirect_url: departure.redirect_url, set_cookie: departure.set_cookie, connection, expires_at })
    }

    /// Finishes the flow that a browser came back from: `query` of the callback address and its `Cookie` header.
    ///
    /// # Errors
    /// Why it was refused, in words for a page. The log has the reason.
    pub async fn finish(&self, flow: &str, query: &str, cookies: Option<&str>) -> Result<Connected, Refused> {
        let finished = self.try_finish(flow, query, cookies).await;
        match &finished {
            Ok(connected) => tracing::info!(
                connection = %connected.connection.id, flow, reconnected = connected.reconnected,
                missing = connected.missing.len(), "connected"
            ),
            Err(refused) => {
                let error = refused.source_error().map(tracing::field::display);
                tracing::warn!(flow, reason = refused.kind().as_str(), error, "a connection was refused");
            }
        }
        finished
    }

    async fn try_finish(&self, name: &str, query: &str, cookies: Option<&str>) -> Result<Connected, Refused> {
        let inner = &self.inner;
        let flow = inner.browser_flows.get(name).ok_or(RefusedKind::UnknownState)?;
        let callback = Callback::parse(query)?;
        let state = callback.state().ok_or(RefusedKind::UnknownState)?;
        let row = inner.store.take_pending(state).await?.ok_or(RefusedKind::UnknownState)?;
        let pending = PendingAuthorization::open(row, &inner.vault).await?;
        let clear = clear_cookie(flow, &state);
        let return_to = pending.return_to().filter(|target| inner.targets.permits(target)).map(str::to_owned);
        let refuse = |refused: Refused| refused.returning(return_to.as_deref(), Some(clear.clone()));
        let now = inner.clock.now();
        let grant = finish(flow, pending, &callback, cookies, now).await.map_err(|kind| refuse(kind.into()))?;
        let connected = self.keep(grant, Some(flow.config()), now).await;
        let mut connected = connected.map_err(refuse)?;
        (connected.return_to, connected.clear_cookie) = (return_to, Some(clear));
        Ok(connected)
    }

    /// Connects an account without a browser. The tokens are asked for first: what does not work is not stored.
    ///
    /// # Errors
    /// As [`Connector::begin`]; [`ErrorKind::Auth`] when the provider refuses the credentials; what the provider's
    /// token endpoint said otherwise; [`ErrorKind::Conflict`] when the account is another than the connection's.
    pub async fn connect_directly(&self, ask: DirectAsk) -> Result<Connected> {
        let inner = &self.inner;
        let flow = self.flow(&ask.flow)?;
        let connection = match &ask.connection {
            Some(id) => self.reconnectable(id, &ask.tenant, &ask.flow).await?.id,
            None => self.new_id(),
        };
        let now = inner.clock.now();
        let renewal = RenewalAsk {
            name: MAIN.into(),
            renewal: ask.renewal,
            granted: ask.scopes.clone(),
            requested: ask.scopes,
            now,
        };
        let tokens = match flow.renew(renewal).await {
            Ok(tokens) => tokens,
            Err(
                RenewalFailure::Passing { error, .. }
                | RenewalFailure::Over(error)
                | RenewalFailure::Lost(error)
                | RenewalFailure::Wrong(error),
            ) => return Err(error),
        };
        let grant =
            Grant { tenant: ask.tenant, connection, flow: ask.flow, account: ask.account, tokens: vec![tokens] };
        let settings = self.settings(&grant.flow);
        self.keep(grant, settings, now).await.map_err(|refused| match refused {
            Refused { .. } if refused.kind() == RefusedKind::OtherAccount => {
                Error::new(ErrorKind::Conflict, "the connection is another account's")
            }
            refused => refused.into_error(),
        })
    }

    /// Keeps tokens somebody already has (an installation made elsewhere), as if a flow had just given them.
    ///
    /// # Errors
    /// As [`Connector::connect_directly`].
    pub async fn keep_tokens(&self, grant: Grant) -> Result<Connected> {
        self.flow(&grant.flow)?;
        if self.inner.store.connection(grant.connection.clone()).await?.is_some() {
            self.reconnectable(&grant.connection, &grant.tenant, &grant.flow).await?;
        }
        let settings = self.settings(&grant.flow);
        self.keep(grant, settings, self.inner.clock.now()).await.map_err(Refused::into_error)
    }

    // ------------------------------------------------------------------------------------------ sessions

    /// Makes a link with which a product's front end lets a user begin one connection of one tenant.
    ///
    /// # Errors
    /// As [`Connector::begin`].
    pub async fn open_session(&self, ask: SessionAsk) -> Result<SessionLink> {
        let inner = &self.inner;
        self.browser_flow(&ask.flow)?;
        self.check_target(ask.return_to.as_deref())?;
        if let Some(id) = &ask.connection {
            self.reconnectable(id, &ask.tenant, &ask.flow).await?;
        }
        let token = token(inner.random.as_ref());
        let expires_at = inner.clock.now().plus(SESSION_LIFE);
        let row = SessionRow {
            token: hash(&token),
            tenant: ask.tenant,
            flow: ask.flow,
            connection: ask.connection,
            scopes: ask.scopes,
            return_to: ask.return_to,
            expires_at,
        };
        if !inner.store.put_session(row).await? {
            return Err(Error::new(ErrorKind::Conflict, "two links were given the same token"));
        }
        Ok(SessionLink { token, expires_at })
    }

    /// Begins the flow of a link. The link is used up by it.
    ///
    /// # Errors
    /// [`RefusedKind::LinkUsed`], [`RefusedKind::LinkExpired`], [`RefusedKind::Gone`] when the connection or flow is not
    /// what it was, and our own failures.
    pub async fn begin_session(&self, token: &Secret) -> Result<Begun, Refused> {
        let inner = &self.inner;
        let wanted: TokenHash = hash(token);
        let row = inner.store.take_session(wanted).await?;
        let row = row.filter(|row| same(&row.token, &wanted)).ok_or(RefusedKind::LinkUsed)?;
        if inner.clock.now() >= row.expires_at {
            return Err(RefusedKind::LinkExpired.into());
        }
        let ask = ConnectAsk {
            flow: row.flow,
            tenant: row.tenant,
            connection: row.connection,
            scopes: row.scopes,
            return_to: row.return_to,
            params: Vec::new(),
        };
        self.begin(ask).await.map_err(|error| {
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) {
                return RefusedKind::Gone.into();
            }
            error.into()
        })
    }

    /// Removes up to `limit` each of the flows and links that nobody came back to.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn prune(&self, limit: u32) -> Result<u64> {
        // A page that says "too old" is better than "unknown": they are kept for a while.
        let before = self.inner.clock.now().minus(SESSION_LIFE);
        self.inner.store.prune_authorizations(before, limit).await
    }

    // ------------------------------------------------------------------------------------------ disconnect

    /// Ends a connection: its grants are revoked at the provider, then every secret is erased, whatever the provider
    /// said. What it said is kept with the grants.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such connection; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn disconnect(&self, id: &ConnectionId) -> Result<Disconnected> {
        let inner = &self.inner;
        let not_found = || Error::new(ErrorKind::NotFound, format!("there is no connection {id}"));
        let connection = inner.store.connection(id.clone()).await?.ok_or_else(not_found)?;
        let mut revocations = Vec::new();
        for grant in inner.store.grants(id.clone()).await? {
            if !matches!(grant.state, GrantState::Erased { .. }) {
                let revocation = self.revoke(&connection, &grant).await;
                revocations.push((grant.key.name, revocation));
            }
        }
        let now = inner.clock.now();
        if !inner.store.disconnect(id.clone(), revocations.clone(), now).await? {
            return Err(not_found());
        }
        self.forget(id);
        tracing::info!(connection = %id, ?revocations, "disconnected");
        Ok(Disconnected { revocations })
    }

    async fn revoke(&self, connection: &Connection, grant: &StoredGrant) -> Revocation {
        let inner = &self.inner;
        let Some(flow) = inner.flows.get(&grant.flow) else { return Revocation::NotConfirmed };
        let secrets = match inner.vault.open_grant(&connection.tenant, grant).await {
            Ok(secrets) => secrets,
            Err(error) => {
                tracing::warn!(connection = %connection.id, %error, "a grant that is to be revoked does not open");
                return Revocation::NotConfirmed;
            }
        };
        for attempt in 1..=REVOCATIONS_MAX {
            let asked = RevocationAsk {
                name: grant.key.name.clone(),
                secrets: secrets.clone(),
                account: connection.account.clone(),
            };
            match flow.revoke(asked).await {
                Ok(revocation) => return revocation,
                Err(error) if attempt < REVOCATIONS_MAX => {
                    let pause = error.retry_after().unwrap_or(REVOCATION_PAUSE).min(REVOCATION_PAUSE_MAX);
                    tokio::time::sleep(pause).await;
                }
                Err(error) => tracing::warn!(connection = %connection.id, %error, "a grant could not be revoked"),
            }
        }
        Revocation::NotConfirmed
    }

    // ------------------------------------------------------------------------------------------ keeping

    /// Writes what a flow gave: a new connection, or the old one in place. The base URL is the flow's, where it has
    /// settings: a grant is used against its environment's addresses only.
    async fn keep(&self, grant: Grant, flow: Option<&OAuth2Config>, now: Timestamp) -> Result<Connected, Refused> {
        let inner = &self.inner;
        let scopes_add_up = flow.is_some_and(|flow| flow.scopes_add_up);
        let (provider, environment) = Environment::of_flow(&grant.flow);
        for _ in 0..WRITES_MAX {
            let known = inner.store.connection(grant.connection.clone()).await?;
            let moved = |known: &Connection| {
                known.tenant != grant.tenant || known.provider != provider || known.environment != environment
            };
            if known.as_ref().is_some_and(moved) {
                return Err(RefusedKind::Gone.into());
            }
            let of_another = |known: &Connection| {
                known.account.is_some() && grant.account.is_some() && known.account != grant.account
            };
            // The tokens of the other account are left alone: revoking them could end another connection's grant.
            if known.as_ref().is_some_and(of_another) {
                return Err(RefusedKind::OtherAccount.into());
            }
            let kept = inner.store.grants(grant.connection.clone()).await?;
            let plain_key = inner.store.credential(grant.connection.clone()).await?.map_or(0, |key| key.generation);
            let mut missing = Vec::new();
            let mut new = Vec::with_capacity(grant.tokens.len());
            for tokens in &grant.tokens {
                let key = GrantKey { connection: grant.connection.clone(), name: tokens.name.clone() };
                let old = kept.iter().find(|old| old.key == key);
                let tokens = requested_before(tokens, old.filter(|_| scopes_add_up));
                missing.extend(tokens.missing());
                new.push(self.sealed(&grant, key, old, plain_key, &tokens, now).await?);
            }
            let reconnected = known.is_some();
            let connection = Connection {
                id: grant.connection.clone(),
                tenant: grant.tenant.clone(),
                provider: provider.to_owned(),
                environment: environment.clone(),
                account: grant.account.clone().or_else(|| known.as_ref().and_then(|known| known.account.clone())),
                base_url: match flow {
                    Some(flow) => flow.base_url.clone(),
                    None => known.as_ref().and_then(|known| known.base_url.clone()),
                },
                state: ConnectionState::Active,
                created_at: known.map_or(now, |known| known.created_at),
            };
            let grants = new.iter().map(|new| new.name.clone()).collect();
            if inner.store.connect(connection.clone(), new).await? {
                self.forget(&connection.id);
                return Ok(Connected { connection, reconnected, grants, missing, return_to: None, clear_cookie: None });
            }
        }
        Err(Error::new(ErrorKind::Conflict, "the connection was changed by somebody else again and again").into())
    }

    /// Lets this process forget what it knew of a connection.
    pub(super) fn forget(&self, id: &ConnectionId) {
        if let Some(tokens) = &self.inner.tokens {
            tokens.forget(id);
        }
        self.inner.accounts.forget(id);
    }

    async fn sealed(
        &self,
        grant: &Grant,
        key: GrantKey,
        old: Option<&StoredGrant>,
        plain_key: u64,
        tokens: &Tokens,
        now: Timestamp,
    ) -> Result<NewGrant> {
        let inner = &self.inner;
        let expected = old.map_or(0, |old| old.generation);
        // One line of generations for whatever authenticates a connection: a refusal of the one never ends the other.
        let generation = expected.max(plain_key).saturating_add(1);
        let policy = self.flow(&grant.flow)?.policy();
        let issued = Issued { at: now, policy: &policy, random: inner.random.as_ref() };
        let sealed = inner.vault.seal_tokens(&grant.tenant, &key, (expected, generation), tokens, issued).await?;
        let requested = tokens.requested.clone();
        Ok(NewGrant { name: key.name, flow: grant.flow.clone(), requested, tokens: sealed })
    }

    /// Reads a connection of the tenant that this flow may reconnect. Another tenant's is not there.
    async fn reconnectable(&self, id: &ConnectionId, tenant: &TenantId, flow: &str) -> Result<Connection> {
        let known = self.inner.store.connection(id.clone()).await?;
        let known = known.filter(|known| known.tenant == *tenant);
        let known = known.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no connection {id}")))?;
        let grants = self.inner.store.grants(id.clone()).await?;
        let (provider, environment) = Environment::of_flow(flow);
        let crosses = known.provider != provider || known.environment != environment;
        if crosses || grants.iter().any(|grant| grant.flow != flow) {
            let why = format!("the connection {id} is not of the flow {flow}: nothing crosses environments");
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Ok(known)
    }

    fn browser_flow(&self, name: &str) -> Result<&Arc<OAuth2Flow>> {
        self.inner.browser_flows.get(name).ok_or_else(|| no_flow(name))
    }

    fn settings(&self, name: &str) -> Option<&OAuth2Config> {
        self.inner.browser_flows.get(name).map(|flow| flow.config())
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(super) fn flow(&self, name: &str) -> Result<&Arc<dyn Flow>> {
        self.inner.flows.get(name).ok_or_else(|| no_flow(name))
    }

    fn check_target(&self, target: Option<&str>) -> Result<()> {
        if target.is_none_or(|target| self.inner.targets.permits(target)) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Invalid, "the address to return to is not on the allow-list"))
    }

    fn new_id(&self) -> ConnectionId {
        let (high, low) = (self.inner.random.bits(), self.inner.random.bits());
        ConnectionId::new(format!("con_{high:016x}{low:016x}"))
    }
}

/// Adds what was asked for before, where grants add up.
fn requested_before(tokens: &Tokens, old: Option<&StoredGrant>) -> Tokens {
    let mut tokens = tokens.clone();
    for scope in old.into_iter().flat_map(|old| &old.requested) {
        if !tokens.requested.contains(scope) {
            tokens.requested.push(scope.clone());
        }
    }
    tokens
}

fn no_flow(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no flow {name}"))
}

impl Refused {
    /// Gives our own failure behind it, or one that says why.
    pub(super) fn into_error(self) -> Error {
        let why = format!("the connection was refused ({})", self.kind().as_str());
        self.into_source().unwrap_or_else(|| Error::new(ErrorKind::Conflict, why).with_outcome(Outcome::Rejected))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("flows", &self.inner.flows.keys()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ConnectorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorBuilder").field("flows", &self.inner.flows.keys()).finish_non_exhaustive()
    }
}

//! What a product embeds: providers, a store and handlers put together into a router and a runner.
//!
//! Building a hub opens nothing, reads nothing and spawns nothing; [`Hub::runner`] gives the future that does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use palisade_core::auth::Audience;
use palisade_core::auth::connect::{Connector, ReturnTargets};
use palisade_core::auth::oauth2::{OAuth2Config, OAuth2Flow};
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::vault::{MasterKey, Vault};
use palisade_core::client::{Accounts, Client};
use palisade_core::clock::SystemClock;
use palisade_core::metrics::Metrics;
use palisade_core::random::SystemRandom;
use palisade_core::store::{Connection, ConnectionState, Store};
use palisade_core::worker::{Handler, Worker, WorkerSettings};
use palisade_core::{
    Clock, ConnectionId, Environment, Error, ErrorKind, Provider, Random, Result, Secret, TenantId, Transport,
};

use crate::accounts::StoredAccounts;
use crate::calls::CallQueue;
use crate::credential::{AccountFlow, ConnectionCredential, account_flows};
use crate::gate::{Gate, Network};
use crate::home::homes;
use crate::metrics::HubMetrics;
use crate::pauses::PauseBook;
use crate::routes;
use crate::routes::status::Probe;
use crate::routing::{self, AppEndpointConfig, Endpoint};
use crate::runner::Runner;
use crate::unreadable::{self, RejectUnreadable};
use crate::watching;

/// The shortest admin token accepted, in characters: long enough that guessing is hopeless.
pub const TOKEN_CHARS_MIN: usize = 16;

/// A URL a provider posts to: `POST /webhooks/{name}`.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked by the builder")]
pub struct EndpointConfig {
    /// The last part of its path.
    pub name: String,
    /// The provider that posts.
    pub provider: String,
    /// The connection its events belong to.
    pub connection: ConnectionId,
    /// The signing secrets; several while one is rotated, none answers 503.
    pub secrets: Vec<Secret>,
}

/// One tenant's account at a provider, put into the store when the hub starts.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked by the builder")]
pub struct ConnectionConfig {
    /// Its identifier.
    pub id: ConnectionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// The provider.
    pub provider: String,
    /// The environment it belongs to, for good.
    pub environment: Environment,
    /// The account at the provider, for account headers, people and limits: connections of one account at one provider
    /// are counted together against its limits.
    pub account: Option<String>,
    /// Another base URL than the provider's: a sandbox, an emulator.
    pub base_url: Option<String>,
    /// What authenticates it; sealed before it is stored. A [`palisade_core::auth::Scheme`] becomes one by `into()`.
    pub credential: ConnectionCredential,
}

/// Who may see the operations page and the API.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the guard decides on each")]
pub enum Access {
    /// Nobody: both answer 403.
    #[default]
    Closed,
    /// Whoever sends the token, or logged in with it.
    Token(Secret),
    /// Whoever names a loopback host: for a listener on loopback.
    Loopback,
    /// Everybody: the product that mounts the router has checked who asks.
    Trusted,
}

/// How the hub works. The defaults suit a small one.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "settings; checked by the builder")]
pub struct Settings {
    /// Who may see the operations page and the API.
    pub access: Access,
    /// Whether `/metrics` answers without the above.
    pub metrics_open: bool,
    /// Proxies that are believed when they say in `X-Forwarded-For` for whom they ask. Failed logins are bounded by the
    /// address they come from: the request's `ConnectInfo<SocketAddr>`, which [`mod@crate::serve`] gives and
    /// `axum::serve` where it is asked to.
    pub trusted_proxies: Vec<Network>,
    /// The URL the world reaches the router at, without a trailing slash; otherwise the `Host` header is taken.
    pub public_url: Option<String>,
    /// The largest body of a delivery, in bytes.
    pub body_bytes_max: usize,
    /// How long a request may take, from its head to the answer.
    pub request_timeout: Duration,
    /// Tasks that handle events.
    pub event_workers: usize,
    /// Tasks that run syncs and chores.
    pub background_workers: usize,
    /// How each of them works.
    pub worker: WorkerSettings,
    /// Finished calls that may wait to be logged; more are dropped and counted.
    pub call_log_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            access: Access::Closed,
            metrics_open: false,
            trusted_proxies: Vec::new(),
            public_url: None,
            body_bytes_max: 1024 * 1024,
            request_timeout: Duration::from_secs(30),
            event_workers: 2,
            background_workers: 2,
            worker: WorkerSettings::default(),
            call_log_max: 8_192,
        }
    }
}

/// The runtime of it all. Cheap to clone; clones are the same hub.
#[derive(Clone)]
pub struct Hub {
    pub(crate) shared: Arc<Shared>,
}

/// What routes and runner share.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) providers: BTreeMap<&'static str, Arc<dyn Provider>>,
    pub(crate) clients: BTreeMap<&'static str, Client>,
    /// Under every pipeline; what needs no credential goes over it as it is.
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    pub(crate) connections: Vec<ConnectionConfig>,
    pub(crate) tokens: Arc<TokenSource>,
    pub(crate) connector: Connector,
    /// On every answer. They let a browser go where accounts are connected: to the flows' authorize addresses.
    pub(crate) answer_headers: HeaderMap,
    pub(crate) worker: Worker,
    pub(crate) metrics: HubMetrics,
    pub(crate) calls: Arc<CallQueue>,
    pub(crate) pauses: Arc<PauseBook>,
    /// Whose connections share limits; forgets what a connect or disconnect changes.
    pub(crate) accounts: Accounts,
    pub(crate) settings: Settings,
    pub(crate) probe: Probe,
    pub(crate) gate: Gate,
    /// Worker tasks alive.
    pub(crate) workers_alive: AtomicUsize,
}

/// Builds a [`Hub`].
pub struct HubBuilder {
    store: Option<Arc<dyn Store>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    transport: Option<Arc<dyn Transport>>,
    master_key: Option<Arc<dyn MasterKey>>,
    providers: Vec<Arc<dyn Provider>>,
    endpoints: Vec<EndpointConfig>,
    app_endpoints: Vec<AppEndpointConfig>,
    connections: Vec<ConnectionConfig>,
    flows: Vec<OAuth2Config>,
    return_targets: ReturnTargets,
    handlers: Vec<(Option<String>, String, Arc<dyn Handler>)>,
    metrics: Metrics,
    settings: Settings,
}

impl HubBuilder {
    /// Adds a provider.
    #[must_use]
    pub fn provider(mut self, provider: impl Provider) -> Self {
        self.providers.push(Arc::new(provider));
        self
    }

    /// Adds a provider that is shared already.
    #[must_use]
    pub fn shared_provider(mut self, provider: Arc<dyn Provider>) -> Self {
        self.providers.push(provider);
        self
    }

    /// Sets the store. It must be given.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets the clock; the machine's otherwise.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the randomness of waits and correlation ids; the operating system's otherwise.
    #[must_use]
    pub fn random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// Sets the transport under every provider's pipeline. It must be given.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Sets the key that seals credentials. It must be given.
    #[must_use]
    pub fn master_key(mut self, key: Arc<dyn MasterKey>) -> Self {
        self.master_key = Some(key);
        self
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn endpoint(mut self, endpoint: EndpointConfig) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Adds an endpoint for every account that connects the product's app at a provider: each event goes to the
    /// connections of the account it names. Of providers whose events do ([`palisade_core::webhook::Webhook::names_account`]).
    #[must_use]
    pub fn app_endpoint(mut self, endpoint: AppEndpointConfig) -> Self {
        self.app_endpoints.push(endpoint);
        self
    }

    /// Adds a connection.
    #[must_use]
    pub fn connection(mut self, connection: ConnectionConfig) -> Self {
        self.connections.push(connection);
        self
    }

    /// Adds a way to connect accounts in a browser: `GET /connect/{name}` begins it and `GET /auth/{name}/callback`,
    /// which must be the flow's redirect address, ends it. Its name is a provider's, or `provider/environment`.
    #[must_use]
    pub fn flow(mut self, flow: OAuth2Config) -> Self {
        self.flows.push(flow);
        self
    }

    /// Sets where a browser may be sent after connecting; nowhere otherwise, so that it sees a page of the hub's.
    #[must_use]
    pub fn return_targets(mut self, targets: ReturnTargets) -> Self {
        self.return_targets = targets;
        self
    }

    /// Registers a handler for events of a type, of every provider: exact (`invoice.paid`), a prefix (`invoice.*`)
    /// or `*` for all. Every handler that matches is called, in order of registration.
    #[must_use]
    pub fn on(mut self, kind: impl Into<String>, handler: impl Handler) -> Self {
        self.handlers.push((None, kind.into(), Arc::new(handler)));
        self
    }

    /// Registers a handler for events of one provider only.
    #[must_use]
    pub fn on_provider(mut self, provider: impl Into<String>, kind: impl Into<String>, handler: impl Handler) -> Self {
        self.handlers.push((Some(provider.into()), kind.into(), Arc::new(handler)));
        self
    }

    /// Sets where the drivers' metrics are counted, to share them with the rest of the product.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Sets how the hub works.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Checks everything and makes the hub.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming what is missing, given twice or cannot work.
    pub fn build(self) -> Result<Hub> {
        check_settings(&self.settings)?;
        let store = self.store.ok_or_else(|| wrong("a hub needs a store"))?;
        let transport = self.transport.ok_or_else(|| wrong("a hub needs a transport"))?;
        let master_key = self.master_key.ok_or_else(|| wrong("a hub needs a master key to seal credentials with"))?;
        let providers = plug(self.providers)?;
        check_connections(&providers, &self.connections)?;
        let endpoints = routing::endpoints(&providers, &self.connections, self.endpoints, self.app_endpoints)?;
        // Keys and nonces come from the operating system, whatever the rest of the hub draws from.
        let vault = Arc::new(Vault::new(Arc::clone(&store) as _, master_key, Arc::new(SystemRandom)));
        let flows = browser_flows(&providers, self.flows, &transport)?;
        let connect_origins: Vec<String> =
            flows.iter().filter_map(|flow| origin(&flow.config().authorize_url)).collect();
        let mut tokens = TokenSource::builder(
            Arc::clone(&store),
            Arc::clone(&vault),
            Arc::clone(&self.clock),
            Arc::clone(&self.random),
        );
        let homes = homes(&providers);
        for flow in &flows {
            let OAuth2Config { name, base_url, .. } = flow.config();
            tokens = tokens.flow(name, Arc::clone(flow) as _);
            if let Some(home) = homes.get(Environment::of_flow(name).0) {
                tokens = tokens.audience(name, home.audience(base_url.as_deref()));
            }
        }
        let service_accounts = account_flows(&self.connections, &transport)?;
        for AccountFlow { name, flow, provider, base_url } in &service_accounts {
            tokens = tokens.flow(name, Arc::clone(flow) as _);
            if let Some(home) = homes.get(provider.as_str()) {
                tokens = tokens.audience(name, home.audience(base_url.as_deref()));
            }
        }
        let of_key = move |connection: &Connection| match homes.get(connection.provider.as_str()) {
            Some(home) => home.audience(connection.base_url.as_deref()),
            None => Audience::of([]),
        };
        let tokens = tokens.key_audience(Arc::new(of_key)).build()?;
        let accounts = Accounts::asking(Arc::new(StoredAccounts(Arc::clone(&store))));
        let mut connector =
            Connector::builder(Arc::clone(&store), vault, Arc::clone(&self.clock), Arc::new(SystemRandom))
                .return_targets(self.return_targets)
                .token_source(Arc::clone(&tokens))
                .accounts(accounts.clone());
        for flow in &flows {
            connector = connector.browser_flow(Arc::clone(flow));
        }
        for account in service_accounts {
            connector = connector.flow(&account.name, account.flow);
        }
        let metrics = HubMetrics::new(self.metrics.clone(), endpoints.keys());
        let calls = CallQueue::new(self.settings.call_log_max);
        let pauses = Arc::<PauseBook>::default();

        let mut clients = BTreeMap::new();
        let mut worker = Worker::builder(Arc::clone(&store), Arc::clone(&self.clock), Arc::clone(&self.random))
            .settings(self.settings.worker.clone())
            .metrics(self.metrics.clone())
            .endpoints(routing::endpoint_of(&endpoints))
            .watch_places(watching::places(&endpoints, self.settings.public_url.as_deref()));
        for (name, provider) in &providers {
            let mut profile = provider.profile();
            let connections = self.connections.iter().filter(|connection| connection.provider == *name);
            let of_flows =
                flows.iter().map(|flow| flow.config()).filter(|flow| Environment::of_flow(&flow.name).0 == *name);
            let elsewhere: BTreeSet<&String> = connections
                .filter_map(|connection| connection.base_url.as_ref())
                .chain(of_flows.filter_map(|flow| flow.base_url.as_ref()))
                .collect();
            for base_url in elsewhere {
                profile = profile.allowing(base_url);
            }
            let client = Client::builder(profile, Arc::clone(&transport), Arc::clone(&tokens) as _)
                .clock(Arc::clone(&self.clock))
                .random(Arc::clone(&self.random))
                .observer(Arc::clone(&calls) as _)
                .pause_observer(Arc::clone(&pauses) as _)
                .accounts(accounts.clone())
                .metrics(self.metrics.clone())
                .build()?;
            worker = worker.provider(Arc::clone(provider), Arc::new(client.clone())).on(
                *name,
                unreadable::KIND,
                RejectUnreadable,
            );
            clients.insert(*name, client);
        }
        for (provider, kind, handler) in self.handlers {
            let targets: Vec<&str> = match &provider {
                Some(provider) if !providers.contains_key(provider.as_str()) => {
                    return Err(wrong(format!(
                        "a handler names the provider {provider}, which is not part of the hub"
                    )));
                }
                Some(provider) => vec![provider],
                None => providers.keys().copied().collect(),
            };
            for target in targets {
                worker = worker.on(target, kind.as_str(), Arc::clone(&handler));
            }
        }
        let shared = Shared {
            store,
            clock: self.clock,
            providers,
            clients,
            transport,
            endpoints,
            connections: self.connections,
            tokens,
            connector: connector.build()?,
            answer_headers: routes::answer_headers(&connect_origins),
            worker: worker.build()?,
            metrics,
            calls,
            pauses,
            accounts,
            settings: self.settings,
            probe: Probe::default(),
            gate: Gate::default(),
            workers_alive: AtomicUsize::new(0),
        };
        Ok(Hub { shared: Arc::new(shared) })
    }
}

/// Makes the flows of the hub: each of a provider of it.
fn browser_flows(
    providers: &BTreeMap<&'static str, Arc<dyn Provider>>,
    flows: Vec<OAuth2Config>,
    transport: &Arc<dyn Transport>,
) -> Result<Vec<Arc<OAuth2Flow>>> {
    let mut made = Vec::with_capacity(flows.len());
    for flow in flows {
        let (provider, environment) = Environment::of_flow(&flow.name);
        if flow.name != environment.flow(provider) {
            return Err(wrong(format!("the flow {} is of production: call it {provider}", flow.name)));
        }
        if !providers.contains_key(provider) {
            return Err(wrong(format!("the flow {} is of a provider that is not part of the hub", flow.name)));
        }
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
        if !plain(provider) || !plain(environment.as_str()) {
            return Err(wrong("a flow is called as its provider, or provider/environment in letters, digits, - and _"));
        }
        made.push(Arc::new(OAuth2Flow::new(flow, Arc::clone(transport))?));
    }
    Ok(made)
}

/// Returns scheme, host and port of an address.
fn origin(address: &str) -> Option<String> {
    let uri: http::Uri = address.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}

pub(crate) fn wrong(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, what)
}

fn check_settings(settings: &Settings) -> Result<()> {
    if let Access::Token(token) = &settings.access
        && token.expose().chars().count() < TOKEN_CHARS_MIN
    {
        return Err(wrong(format!("the admin token must have at least {TOKEN_CHARS_MIN} characters")));
    }
    if settings.body_bytes_max == 0 || settings.request_timeout.is_zero() {
        return Err(wrong("body_bytes_max and request_timeout must be more than nothing"));
    }
    if settings.event_workers == 0 || settings.background_workers == 0 || settings.call_log_max == 0 {
        return Err(wrong("event_workers, background_workers and call_log_max must be at least 1"));
    }
    Ok(())
}

fn plug(list: Vec<Arc<dyn Provider>>) -> Result<BTreeMap<&'static str, Arc<dyn Provider>>> {
    let mut providers = BTreeMap::new();
    for provider in list {
        let name = provider.manifest().name;
        if providers.insert(name, provider).is_some() {
            return Err(wrong(format!("the provider {name} is given twice")));
        }
    }
    Ok(providers)
}

fn check_connections(
    providers: &BTreeMap<&'static str, Arc<dyn Provider>>,
    connections: &[ConnectionConfig],
) -> Result<()> {
    for (i, connection) in connections.iter().enumerate() {
        let id = &connection.id;
        if !providers.contains_key(connection.provider.as_str()) {
            return Err(wrong(format!("connection {id} names a provider that is not part of the hub")));
        }
        if connections.iter().take(i).any(|other| other.id == *id) {
            return Err(wrong(format!("connection {id} is given twice")));
        }
    }
    Ok(())
}

/// Refuses a configuration that would make another connection of a stored one. Its records and events stay under its id,
/// so whatever it was of, it is of that for good.
fn check_unmoved(known: &Connection, config: &ConnectionConfig) -> Result<()> {
    let id = &config.id;
    if known.tenant != config.tenant || known.provider != config.provider {
        return Err(wrong(format!(
            "connection {id} is stored for tenant {} at {}, with its records: give the other one an id of its own",
            known.tenant, known.provider
        )));
    }
    if known.environment != config.environment {
        let (was, now) = (&known.environment, &config.environment);
        let back = if was.is_production() {
            "leave environment out".to_owned()
        } else {
            format!("write environment = \"{was}\"")
        };
        return Err(wrong(format!(
            "connection {id} is stored in the environment {was}, with its records, and cannot become one of {now}: \
             {back} in its [[connection]] to go on with it, or give the one of {now} an id of its own and disconnect {id}"
        )));
    }
    Ok(())
}

impl Hub {
    /// Begins a hub.
    #[must_use]
    pub fn builder() -> HubBuilder {
        HubBuilder {
            store: None,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            transport: None,
            master_key: None,
            providers: Vec::new(),
            endpoints: Vec::new(),
            app_endpoints: Vec::new(),
            connections: Vec::new(),
            flows: Vec::new(),
            return_targets: ReturnTargets::none(),
            handlers: Vec::new(),
            metrics: Metrics::default(),
            settings: Settings::default(),
        }
    }

    /// Gives the routes, to be mounted anywhere: webhooks, health, metrics, the operations page and the API.
    pub fn router(&self) -> Router {
        routes::router(Arc::clone(&self.shared))
    }

    /// Gives the runner of workers and chores.
    pub fn runner(&self) -> Runner {
        Runner::new(self.clone())
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// Returns the pipeline to a provider, for calls of the product's own.
    #[must_use]
    pub fn client(&self, provider: &str) -> Option<&Client> {
        self.shared.clients.get(provider)
    }

    /// Returns the worker that knows the handlers.
    #[must_use]
    pub fn worker(&self) -> &Worker {
        &self.shared.worker
    }

    /// Writes every counter of drivers and hub in the OpenMetrics text form. The gauges of the store's counts are
    /// those of the last `GET /metrics`.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        self.shared.metrics.encode()
    }

    /// Puts a connection into the store, seals its credential if it changed, and enqueues its first runs if it is
    /// new. One that was waiting for a reconnect is tried again; one that somebody disconnected stays so until its
    /// credential is another one, or it is reconnected. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the connection's id is taken by another tenant, provider or environment, or the stored
    /// credentials are sealed under another master key; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn connect(&self, config: &ConnectionConfig) -> Result<()> {
        let shared = &self.shared;
        let id = &config.id;
        let known = shared.store.connection(id.clone()).await?;
        if let Some(known) = &known {
            check_unmoved(known, config)?;
        }
        let state = match known.as_ref().map(|known| &known.state) {
            Some(kept @ (ConnectionState::Paused | ConnectionState::Disconnected)) => kept.clone(),
            Some(ConnectionState::Active | ConnectionState::NeedsReconnect { .. }) | None => ConnectionState::Active,
        };
        let mut connection = Connection {
            id: id.clone(),
            tenant: config.tenant.clone(),
            provider: config.provider.clone(),
            environment: config.environment.clone(),
            account: config.account.clone(),
            base_url: config.base_url.clone(),
            state,
            created_at: known.as_ref().map_or_else(|| shared.clock.now(), |known| known.created_at),
        };
        let changed = known.as_ref() != Some(&connection);
        if changed {
            shared.store.put_connection(connection.clone()).await?;
            shared.accounts.forget(id);
        }
        let fresh = shared.place_credential(&connection, &config.credential, false).await?;
        if fresh && connection.state == ConnectionState::Disconnected {
            connection.state = ConnectionState::Active;
            shared.store.put_connection(connection.clone()).await?;
        }
        if connection.state == ConnectionState::Disconnected {
            tracing::warn!(
                connection = %id,
                "it was disconnected and stays so: reconnect it on the operations page, or change its credential"
            );
        }
        // A process that died between these steps left no run behind: that is as good as new.
        if connection.state == ConnectionState::Active
            && (changed || fresh || shared.store.streams(id.clone()).await?.is_empty())
        {
            tracing::info!(connection = %id, provider = connection.provider, "connected");
            shared.worker.connect(&connection).await?;
        }
        Ok(())
    }
}

impl Shared {
    /// Returns what the configuration says of a connection.
    pub(crate) fn configured(&self, id: &ConnectionId) -> Option<&ConnectionConfig> {
        self.connections.iter().find(|connection| connection.id == *id)
    }

    /// Connects a connection again with the credential of its configuration, because an operator wants it.
    pub(crate) async fn reconnect_configured(&self, config: &ConnectionConfig) -> Result<()> {
        let id = &config.id;
        let Some(mut connection) = self.store.connection(id.clone()).await? else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no connection {id}")));
        };
        self.place_credential(&connection, &config.credential, true).await?;
        connection.state = ConnectionState::Active;
        self.store.put_connection(connection.clone()).await?;
        self.tokens.forget(id);
        tracing::info!(connection = %id, "reconnected with the credential of the configuration");
        self.worker.connect(&connection).await
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("providers", &self.shared.providers.keys())
            .field("endpoints", &self.shared.endpoints.keys())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

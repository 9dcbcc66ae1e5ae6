//! Puts a hub together: everything is checked here, before anything runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use futures_util::future::BoxFuture;
use palisade_core::auth::Audience;
use palisade_core::auth::connect::{Connector, ReturnTargets};
use palisade_core::auth::oauth2::{OAuth2Config, OAuth2Flow};
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::vault::{MasterKey, Vault};
use palisade_core::client::{Accounts, Client, Profile};
use palisade_core::clock::SystemClock;
use palisade_core::forward::{Configured, ForwardSettings, Forwarder};
use palisade_core::metrics::Metrics;
use palisade_core::random::SystemRandom;
use palisade_core::store::{Connection, FEED_HORIZON_MIN, Store, StoredEvent};
use palisade_core::transport::{GuardedTransport, SystemResolver};
use palisade_core::worker::{Context, Handled, Handler, Typed, Worker, WorkerBuilder, typed};
use palisade_core::{Clock, Environment, Provider, Random, Result, Transport};

use super::{Access, ConnectionConfig, EndpointConfig, Hub, Settings, Shared, TOKEN_CHARS_MIN, wrong};
use crate::accounts::StoredAccounts;
use crate::calls::CallQueue;
use crate::chores;
use crate::credential::{AccountFlow, account_flows};
use crate::feed::WaitingRoom;
use crate::gate::Gate;
use crate::home::homes;
use crate::metrics::HubMetrics;
use crate::pauses::PauseBook;
use crate::routes;
use crate::routes::room::Rooms;
use crate::routes::status::Probe;
use crate::routing::{self, AppEndpointConfig};
use crate::senders::AllowFrom;
use crate::unreadable::{self, RejectUnreadable};
use crate::watching;

/// A handler, the type it is for, and the provider, if it is for one only.
type Wanted = (Option<String>, String, Arc<dyn Handler>);

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
    handlers: Vec<Wanted>,
    metrics: Metrics,
    settings: Settings,
    senders: BTreeMap<String, AllowFrom>,
    formerly: BTreeMap<String, String>,
    destinations: Vec<Configured>,
    forwarding: ForwardSettings,
    forward_transport: Option<Arc<dyn Transport>>,
}

impl Default for HubBuilder {
    fn default() -> Self {
        Self {
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
            senders: BTreeMap::new(),
            formerly: BTreeMap::new(),
            destinations: Vec::new(),
            forwarding: ForwardSettings::default(),
            forward_transport: None,
        }
    }
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

    /// Says from where the deliveries of an endpoint may come; from anywhere otherwise. The address is that of the
    /// request's `ConnectInfo<SocketAddr>`, seen through [`Settings::trusted_proxies`].
    #[must_use]
    pub fn allow_from(mut self, endpoint: impl Into<String>, from: AllowFrom) -> Self {
        self.senders.insert(endpoint.into(), from);
        self
    }

    /// Says which name an endpoint had before it was renamed: the first, if it was renamed more than once. Its events are
    /// kept under that still, so that what came before the rename and comes again is a repeat, and deliveries to the old
    /// address are taken as well.
    #[must_use]
    pub fn formerly(mut self, endpoint: impl Into<String>, name: impl Into<String>) -> Self {
        self.formerly.insert(endpoint.into(), name.into());
        self
    }

    /// Adds a destination that events are forwarded to. It is put in place when the hub runs, and removed when a later hub
    /// on the same store does not name it.
    #[must_use]
    pub fn destination(mut self, destination: Configured) -> Self {
        self.destinations.push(destination);
        self
    }

    /// Sets when somebody is told that a destination fails, and when it is given up.
    #[must_use]
    pub fn forwarding(mut self, settings: ForwardSettings) -> Self {
        self.forwarding = settings;
        self
    }

    /// Sets what carries forwarded events; a [`GuardedTransport`] otherwise, which connects to public addresses only.
    #[must_use]
    pub fn forward_transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.forward_transport = Some(transport);
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

    /// Registers a handler for one type of event, which it is given as a type of its own:
    /// `on_typed::<palisade_stripe::event::InvoicePaid>(…)`. See [`palisade_core::worker::typed`] for an event that
    /// cannot be read.
    #[must_use]
    pub fn on_typed<E: Typed>(
        self,
        handler: impl for<'a> Fn(E, &'a StoredEvent, &'a mut Context) -> BoxFuture<'a, Handled> + Send + Sync + 'static,
    ) -> Self {
        self.on_provider(E::PROVIDER, E::KIND, typed(handler))
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
    /// [`palisade_core::ErrorKind::Config`] naming what is missing, given twice or cannot work.
    pub fn build(self) -> Result<Hub> {
        check_settings(&self.settings)?;
        let store = self.store.ok_or_else(|| wrong("a hub needs a store"))?;
        let transport = self.transport.ok_or_else(|| wrong("a hub needs a transport"))?;
        let master_key = self.master_key.ok_or_else(|| wrong("a hub needs a master key to seal credentials with"))?;
        let providers = plug(self.providers)?;
        check_connections(&providers, &self.connections)?;
        let of_one = self.endpoints;
        let endpoints = routing::endpoints(
            &providers,
            &self.connections,
            of_one,
            self.app_endpoints,
            &self.senders,
            &self.formerly,
        )?;
        for (i, one) in self.destinations.iter().enumerate() {
            one.check()?;
            if self.destinations.iter().take(i).any(|other| other.name == one.name) {
                return Err(wrong(format!("destination {} is given twice", one.name)));
            }
        }
        // Keys and nonces come from the operating system, whatever the rest of the hub draws from.
        let vault = Arc::new(Vault::new(Arc::clone(&store) as _, master_key, Arc::new(SystemRandom)));
        let carrier =
            self.forward_transport.unwrap_or_else(|| Arc::new(GuardedTransport::new(Arc::new(SystemResolver))));
        let forwarder = Forwarder::new(
            Arc::clone(&store),
            Arc::clone(&vault),
            carrier,
            Arc::clone(&self.clock),
            Arc::clone(&self.random),
            self.forwarding,
            self.metrics.clone(),
        );
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
            .forwarder(forwarder.clone())
            .endpoints(routing::endpoints_of(&endpoints))
            .told(routing::told(&endpoints))
            .watch_places(watching::places(&endpoints, self.settings.public_url.as_deref()));
        for (name, provider) in &providers {
            let profile = profile_of(provider.as_ref(), &self.connections, &flows);
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
        let worker = with_handlers(worker, self.handlers, &providers)?;
        let waiting = WaitingRoom::new(self.settings.feed_waiters_max);
        let rooms = Rooms::new(self.settings.body_bytes_max);
        let connector = connector.build()?;
        let worker = chores::with(worker, &tokens, &connector);
        let shared = Shared {
            store,
            clock: self.clock,
            providers,
            clients,
            transport,
            endpoints,
            connections: self.connections,
            tokens,
            connector,
            answer_headers: routes::answer_headers(&connect_origins),
            worker: worker.build()?,
            metrics,
            calls,
            pauses,
            accounts,
            forwarder,
            destinations: self.destinations,
            placed: tokio::sync::OnceCell::new(),
            settings: self.settings,
            probe: Probe::default(),
            gate: Gate::default(),
            waiting,
            rooms,
            workers_alive: AtomicUsize::new(0),
        };
        Ok(Hub { shared: Arc::new(shared) })
    }
}

/// Returns a provider's profile with every address its connections and flows are at.
fn profile_of(provider: &dyn Provider, connections: &[ConnectionConfig], flows: &[Arc<OAuth2Flow>]) -> Profile {
    let name = provider.manifest().name;
    let configured = connections.iter().filter(|connection| connection.provider == name);
    let of_flows = flows.iter().map(|flow| flow.config()).filter(|flow| Environment::of_flow(&flow.name).0 == name);
    let elsewhere: BTreeSet<&String> = configured
        .filter_map(|connection| connection.base_url.as_ref())
        .chain(of_flows.filter_map(|flow| flow.base_url.as_ref()))
        .collect();
    elsewhere.into_iter().fold(provider.profile(), |profile, base_url| profile.allowing(base_url))
}

/// Gives the worker its handlers: each for one provider, or for all of them.
fn with_handlers(
    mut worker: WorkerBuilder,
    handlers: Vec<Wanted>,
    providers: &BTreeMap<&'static str, Arc<dyn Provider>>,
) -> Result<WorkerBuilder> {
    for (provider, kind, handler) in handlers {
        let targets: Vec<&str> = match &provider {
            Some(provider) if !providers.contains_key(provider.as_str()) => {
                return Err(wrong(format!("a handler names the provider {provider}, which is not part of the hub")));
            }
            Some(provider) => vec![provider],
            None => providers.keys().copied().collect(),
        };
        for target in targets {
            worker = worker.on(target, kind.as_str(), Arc::clone(&handler));
        }
    }
    Ok(worker)
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
    if settings.worker.feed_horizon < FEED_HORIZON_MIN {
        return Err(wrong("worker.feed_horizon must be at least 7 days: what comes late would bring records back"));
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

impl fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

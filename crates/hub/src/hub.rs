//! What a product embeds: providers, a store and handlers put together into a router and a runner.
//!
//! Building a hub opens nothing, reads nothing and spawns nothing; [`Hub::runner`] gives the future that does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use futures_util::future::BoxFuture;
use palisade_core::auth::connect::Connector;
use palisade_core::auth::token_source::TokenSource;
use palisade_core::client::{Accounts, Client};
use palisade_core::forward::{Configured, Forwarder};
use palisade_core::net::Network;
use palisade_core::store::{Connection, ConnectionState, Queue, Store};
use palisade_core::worker::{Worker, WorkerSettings};
use palisade_core::{
    Clock, ConnectionId, Environment, Error, ErrorKind, Provider, Result, Secret, TenantId, Transport,
};

use crate::calls::CallQueue;
use crate::credential::ConnectionCredential;
use crate::feed::WaitingRoom;
use crate::gate::Gate;
use crate::metrics::HubMetrics;
use crate::pauses::PauseBook;
use crate::routes;
use crate::routes::room::Rooms;
use crate::routes::status::Probe;
use crate::routing::Endpoint;
use crate::runner::Runner;

mod builder;

pub use builder::HubBuilder;

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
    /// Requests that may wait for the next change of a feed at once; more are answered 503.
    pub feed_waiters_max: usize,
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
            feed_waiters_max: 256,
        }
    }
}

impl Settings {
    /// Returns how many tasks work on a queue. One is enough for those that only wait for others to answer.
    pub(crate) fn workers_of(&self, queue: Queue) -> usize {
        match queue {
            Queue::Events => self.event_workers,
            Queue::Background => self.background_workers,
            Queue::Calls | Queue::Forwards => 1,
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
    pub(crate) forwarder: Forwarder,
    /// The destinations of the configuration.
    pub(crate) destinations: Vec<Configured>,
    /// Whether they were put in place.
    pub(crate) placed: tokio::sync::OnceCell<()>,
    pub(crate) settings: Settings,
    pub(crate) probe: Probe,
    pub(crate) gate: Gate,
    /// Who waits for changes over HTTP.
    pub(crate) waiting: WaitingRoom,
    /// Room for bodies that arrive.
    pub(crate) rooms: Rooms,
    /// Worker tasks alive.
    pub(crate) workers_alive: AtomicUsize,
}

pub(crate) fn wrong(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, what)
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
        HubBuilder::default()
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

    /// Returns what knows the destinations: to make them, change them and forward again.
    #[must_use]
    pub fn forwarder(&self) -> &Forwarder {
        &self.shared.forwarder
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
            shared.tokens.forget(id);
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
    /// What is to be awaited before it can be told who wants an event; most often nothing.
    pub(crate) fn unknown_destinations(&self) -> Option<BoxFuture<'_, Result<()>>> {
        let known = self.placed.initialized() && self.forwarder.is_up_to_date();
        (!known).then(|| Box::pin(self.know_destinations()) as BoxFuture<'_, Result<()>>)
    }

    /// Sees to it that the destinations are known, those of the configuration too.
    pub(crate) async fn know_destinations(&self) -> Result<()> {
        self.placed.get_or_try_init(|| self.forwarder.configure(&self.destinations)).await?;
        self.forwarder.look().await
    }

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

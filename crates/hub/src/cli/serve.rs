//! `palisade serve`: configuration, secrets, port, database, hub; then until a signal; then in the reverse order.

use std::collections::BTreeMap;
use std::io::ErrorKind as IoErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use palisade_core::auth::jwt::ServiceAccountKey;
use palisade_core::auth::oauth2::OAuth2Config;
use palisade_core::auth::vault::MasterKey;
use palisade_core::forward::Configured;
use palisade_core::schedule::{CatchUp, Schedule, Ticks};
use palisade_core::transport::HttpTransport;
use palisade_core::worker::{ScheduleRule, WorkerSettings};
use palisade_core::{ConnectionId, Error, ErrorKind, Secret, TenantId, Transport};
use palisade_store::{SqliteConfig, SqliteStore};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::keys;
use super::{Failure, runtime, say, signal};
use crate::builtin;
use crate::config::{Admin, Config, Connection, Credential, Destination, Log, SecretRef, Variables, process_variables};
use crate::credential::ConnectionCredential;
use crate::hub::{Access, ConnectionConfig, EndpointConfig, Hub, HubBuilder, Settings, TOKEN_CHARS_MIN};
use crate::plain::PlainProvider;
use crate::routing::AppEndpointConfig;
use crate::serve::{ServeSettings, serve};

/// How long after the grace the whole shutdown may take before it is cut off.
const GRACE_MARGIN: Duration = Duration::from_secs(5);

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade serve
  palisade serve --config /etc/palisade/palisade.toml --log info,palisade_core=debug";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration file; docs/palisade.example.toml documents every key.
    #[arg(long, value_name = "FILE", default_value = "palisade.toml")]
    config: PathBuf,
    /// What is logged, instead of log.filter of the configuration ("info,palisade_core=debug").
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = load(&arguments.config)?;
    start_log(&config.log, arguments.log.as_deref())?;
    keep_files_private();
    let secrets = Secrets::read(&config, folder_of(&arguments.config), &process_variables)
        .map_err(|problems| Failure::usage(problems.join("\n")))?;
    runtime()?.block_on(serve_until_stopped(&config, folder_of(&arguments.config), secrets))
}

/// Reads the configuration.
pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    builtin::with_known(|known| Config::load(path, known)).map_err(|error| Failure::usage(error.to_string()))
}

/// Returns the folder relative paths of a configuration begin at.
pub(super) fn folder_of(config: &Path) -> &Path {
    config.parent().unwrap_or_else(|| Path::new(""))
}

/// Targets of libraries that print bytes or headers when asked for everything. They are held at `info` unless they are
/// named, so that `trace` does not put a secret into the log.
const QUIET: [&str; 6] = ["h2", "hyper", "hyper_util", "reqwest", "rustls", "tower"];

fn start_log(log: &Log, flag: Option<&str>) -> Result<(), Failure> {
    let filter = flag.unwrap_or(&log.filter);
    let mut directives = filter.to_owned();
    for target in QUIET {
        if !filter.split(',').any(|part| part.trim().starts_with(target)) {
            directives.push_str(&format!(",{target}=info"));
        }
    }
    let filter: Targets = directives.parse().map_err(|_| {
        Failure::usage("log.filter is not a filter: write a level, or levels per target (\"info,palisade_core=debug\")")
    })?;
    let filtered = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = if log.json {
        filtered.with(lines.json()).try_init()
    } else {
        filtered.with(lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).try_init()
    };
    started.map_err(|_| Failure::machine("a log is already running in this process"))
}

/// Lets only this user read what the process makes from here on: the database holds the tenants' records.
fn keep_files_private() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Every secret the configuration names, read.
pub(super) struct Secrets {
    master_key: Arc<dyn MasterKey>,
    admin: Option<Secret>,
    connections: Vec<ConnectionCredential>,
    endpoints: Vec<Vec<Secret>>,
    flows: Vec<OAuth2Config>,
    destinations: Vec<Configured>,
}

impl Secrets {
    /// Reads all of them, in the order of the configuration; or returns everything that is wrong, one sentence each.
    pub(super) fn read(config: &Config, folder: &Path, variables: Variables<'_>) -> Result<Self, Vec<String>> {
        let mut problems = Vec::new();
        let mut read = |what: String, place: &SecretRef| match place.read(folder, variables) {
            Ok(secret) => Some(secret),
            Err(problem) => {
                problems.push(format!("{what}: {problem}"));
                None
            }
        };
        let admin = match &config.server.admin {
            Admin::Open => None,
            Admin::Token(place) => read("server.admin_token".to_owned(), place),
        };
        let keys: Vec<Option<Secret>> = config
            .connections
            .iter()
            .map(|connection| {
                let (what, place) = connection.credential.place();
                read(format!("{what} of connection {}", connection.id), place)
            })
            .collect();
        let endpoints: Vec<Vec<Option<Secret>>> = config
            .endpoints
            .iter()
            .map(|endpoint| {
                let what = || format!("secret of endpoint {}", endpoint.name);
                endpoint.secrets.iter().map(|place| read(what(), place)).collect()
            })
            .collect();
        let mut destinations = Vec::with_capacity(config.destinations.len());
        for Destination { name, spec, secrets } in &config.destinations {
            let what = || format!("secret of destination {name}");
            let secrets = secrets.iter().filter_map(|place| read(what(), place)).collect();
            destinations.push(Configured { name: name.clone(), spec: spec.clone(), secrets });
        }
        let client_secrets: Vec<Option<Secret>> = config
            .flows
            .iter()
            .map(|flow| {
                let place = flow.client_secret.as_ref()?;
                read(format!("client_secret of flow {}", flow.name()), place)
            })
            .collect();
        // One that could not be read is told already.
        if problems.is_empty() {
            let refused = destinations.iter().filter_map(|one| one.check().err());
            problems.extend(refused.map(|error| error.message().to_owned()));
        }
        let flows = make_flows(config, client_secrets, &mut problems);
        let mut connections = Vec::with_capacity(keys.len());
        for (connection, key) in config.connections.iter().zip(keys) {
            // The provider was checked when the file was read.
            let (Some(key), Some(one)) = (key, builtin::find(&connection.provider)) else { continue };
            match builtin::credential(one, connection, key) {
                Ok(credential) => connections.push(credential),
                Err(error) => {
                    let (what, _) = connection.credential.place();
                    problems.push(format!("{what} of connection {}: {}", connection.id, error.message()));
                }
            }
        }
        if admin.as_ref().is_some_and(|token| token.expose().chars().count() < TOKEN_CHARS_MIN) {
            problems.push(format!("server.admin_token: the token must have at least {TOKEN_CHARS_MIN} characters"));
        }
        let master_key = keys::holder(config, folder, variables)
            .map_err(|problem| problems.push(problem))
            .ok()
            .map(|holder| holder.master_key());
        match master_key {
            Some(master_key) if problems.is_empty() => Ok(Self {
                master_key,
                admin,
                connections,
                endpoints: endpoints.into_iter().map(|list| list.into_iter().flatten().collect()).collect(),
                flows,
                destinations,
            }),
            _ => Err(problems),
        }
    }
}

impl Secrets {
    /// Returns the secrets of the endpoints, in the order of the configuration.
    pub(super) fn endpoints(&self) -> &[Vec<Secret>] {
        &self.endpoints
    }

    /// Says of each connection with a service account who acts, for whom, and with which permissions: the facts an
    /// operator compares with the provider's console.
    pub(super) fn service_accounts(&self, config: &Config) -> Vec<(String, String)> {
        let told = |(connection, credential): (&Connection, &ConnectionCredential)| {
            let ConnectionCredential::ServiceAccount(account) = credential else { return None };
            // It was read with the secrets.
            let key = ServiceAccountKey::parse(&account.key).ok()?;
            let subject = account.subject.as_ref().map_or_else(String::new, |subject| format!(" for {subject}"));
            let scopes = account.scopes.join(", ");
            Some((
                connection.id.clone(),
                format!("its key can sign; {} acts{subject}, asking for {scopes}", key.email()),
            ))
        };
        config.connections.iter().zip(&self.connections).filter_map(told).collect()
    }
}

/// Makes the flows whose secrets could be read.
fn make_flows(config: &Config, secrets: Vec<Option<Secret>>, problems: &mut Vec<String>) -> Vec<OAuth2Config> {
    let mut flows = Vec::with_capacity(secrets.len());
    for (flow, secret) in config.flows.iter().zip(secrets) {
        // The file was refused where nobody knows the hub's address; a secret that is missing was told.
        let Some(redirect_url) = config.callback_url(flow) else { continue };
        if flow.client_secret.is_some() && secret.is_none() {
            continue;
        }
        match builtin::flow(flow, &redirect_url, secret) {
            Ok(made) => flows.push(made),
            Err(error) => problems.push(format!("flow {}: {}", flow.name(), error.message())),
        }
    }
    flows
}

/// Says why an address cannot be listened on.
pub(super) fn cannot_listen(address: SocketAddr, key: &str, error: &std::io::Error) -> Failure {
    let kind = error.kind();
    Failure::machine(if kind == IoErrorKind::AddrInUse {
        format!("{address} is in use: stop the other program or change {key}")
    } else if kind == IoErrorKind::PermissionDenied {
        format!("this user may not listen on {address}: take a port above 1023 in {key}")
    } else if kind == IoErrorKind::AddrNotAvailable {
        format!("{address} is no address of this machine: change {key}")
    } else {
        format!("cannot listen on {address} ({error}): change {key}")
    })
}

/// Opens the store on a thread that may block.
pub(super) async fn open_store(path: PathBuf, free_bytes_min: u64) -> Result<SqliteStore, Failure> {
    let config = SqliteConfig { free_bytes_min, ..SqliteConfig::at(path) };
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(config)).await;
    match opened {
        Ok(Ok(store)) => Ok(store),
        Ok(Err(error)) => Err(Failure::machine(format!("the database: {}", error.message()))),
        Err(_) => Err(Failure::machine("the database could not be opened: the thread that opens it died")),
    }
}

async fn serve_until_stopped(config: &Config, folder: &Path, secrets: Secrets) -> Result<(), Failure> {
    let server = &config.server;
    let listener = TcpListener::bind(server.listen)
        .await
        .map_err(|error| cannot_listen(server.listen, "server.listen", &error))?;
    let address = listener.local_addr().map_err(|error| cannot_listen(server.listen, "server.listen", &error))?;
    let store = open_store(folder.join(&config.store.path), config.store.free_bytes_min).await?;
    let hub = match assemble(config, secrets, &store) {
        Ok(hub) => hub,
        Err(failure) => {
            let _ = store.close().await;
            return Err(failure);
        }
    };
    for flow in &config.flows {
        let callback = config.callback_url(flow).unwrap_or_default();
        tracing::info!(flow = flow.name(), callback, "accounts can be connected; the callback is registered there");
    }
    for endpoint in config.endpoints.iter().filter(|endpoint| endpoint.secrets.is_empty()) {
        tracing::warn!(endpoint = endpoint.name, "this endpoint has no secret: every delivery is answered 503");
    }
    for (endpoint, text) in unreached(config) {
        tracing::warn!(endpoint, "{text}");
    }

    let asked = signal::stop();
    let (stop, stopped) = watch::channel(false);
    let settings = ServeSettings { connections_max: server.connections_max, grace: server.shutdown_grace };
    let mut serving = tokio::spawn(serve(listener, hub.router(), settings, stopped.clone()));
    let mut running = tokio::spawn(hub.runner().run(stopped));
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    say(json!({ "url": format!("http://{address}"), "version": env!("CARGO_PKG_VERSION") }));

    let mut outdated = None;
    // The runner ends by itself only when it could not begin.
    let ended_early = {
        let mut asked = asked;
        tokio::select! {
            _ = asked.wait_for(|stop| *stop) => None,
            ended = &mut running => Some(ended),
            error = store.outdated() => {
                tracing::error!(%error, "stopping");
                outdated = Some(error);
                None
            }
        }
    };
    let _ = stop.send(true);
    let finish = async {
        let left = (&mut serving).await.unwrap_or(0);
        if left > 0 {
            tracing::warn!(connections = left, "connections were closed before their requests ended");
        }
        match ended_early {
            Some(ended) => ended,
            None => (&mut running).await,
        }
    };
    let ended = tokio::time::timeout(server.shutdown_grace + GRACE_MARGIN, finish).await;
    let closed = store.close().await;
    if let Err(error) = closed {
        tracing::error!(%error, "the database was not closed cleanly; nothing committed is lost");
    }
    tracing::info!("stopped");
    if let Some(error) = outdated {
        return Err(Failure::machine(error.message()));
    }
    match ended {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(start_failure(&error)),
        Ok(Err(_)) => Err(Failure::machine("the workers ended by a panic; the log says where")),
        Err(_) => {
            tracing::warn!("the grace is over: what is still held is claimed again when its lease runs out");
            Ok(())
        }
    }
}

fn start_failure(error: &Error) -> Failure {
    if matches!(error.kind(), ErrorKind::Store | ErrorKind::Overloaded) {
        return Failure::machine(format!("the database: {}", error.message()));
    }
    Failure::usage(error.message())
}

/// Puts the hub together from the configuration.
pub(super) fn assemble(config: &Config, secrets: Secrets, store: &SqliteStore) -> Result<Hub, Failure> {
    let wrong = |error: Error| Failure::usage(error.message());
    let transport: Arc<dyn Transport> = Arc::new(HttpTransport::builder().build().map_err(wrong)?);
    let mut builder = Hub::builder()
        .store(Arc::new(store.clone()))
        .transport(transport)
        .master_key(secrets.master_key)
        .forwarding(config.forwarding.clone())
        .settings(settings(config, secrets.admin));
    for destination in secrets.destinations {
        builder = builder.destination(destination);
    }
    for one in builtin::BUILTIN {
        builder = builder.shared_provider((one.provider)(&config.apps));
    }
    builder = add_flows(builder, config, secrets.flows);
    builder = add_connections(builder, config, secrets.connections);
    for (endpoint, secrets) in config.endpoints.iter().zip(secrets.endpoints) {
        let (name, provider) = (endpoint.name.clone(), endpoint.provider.clone());
        if let Some(from) = &endpoint.allow_from {
            builder = builder.allow_from(name.as_str(), from.clone());
        }
        if let Some(before) = &endpoint.formerly {
            builder = builder.formerly(name.as_str(), before.as_str());
        }
        builder = match &endpoint.connection {
            Some(connection) => {
                let connection = ConnectionId::new(connection.as_str());
                builder.endpoint(EndpointConfig { name, provider, connection, secrets })
            }
            None => {
                let environment = endpoint.environment.clone();
                builder.app_endpoint(AppEndpointConfig { name, provider, environment, secrets })
            }
        };
    }
    builder.build().map_err(wrong)
}

/// Adds the flows, and the providers of those that have no adapter.
fn add_flows(mut builder: HubBuilder, config: &Config, flows: Vec<OAuth2Config>) -> HubBuilder {
    let mut plain = BTreeMap::new();
    for flow in config.flows.iter().filter(|flow| builtin::find(&flow.provider).is_none()) {
        // Where production has a flow, its address is the provider's own; those of others are theirs alone.
        let base_url = flow.base_url.as_deref().unwrap_or_default();
        let kept = plain.entry(flow.provider.as_str()).or_insert(base_url);
        if flow.environment.is_production() {
            *kept = base_url;
        }
    }
    for (name, base_url) in plain {
        builder = builder.provider(PlainProvider::new(name, base_url));
    }
    for flow in flows {
        builder = builder.flow(flow);
    }
    builder.return_targets(config.server.return_targets.clone())
}

fn add_connections(mut builder: HubBuilder, config: &Config, credentials: Vec<ConnectionCredential>) -> HubBuilder {
    for (connection, credential) in config.connections.iter().zip(credentials) {
        builder = builder.connection(ConnectionConfig {
            id: ConnectionId::new(connection.id.as_str()),
            tenant: TenantId::new(connection.tenant.as_str()),
            provider: connection.provider.clone(),
            environment: connection.environment.clone(),
            account: account_of(connection),
            base_url: connection.base_url.clone(),
            credential,
        });
    }
    builder
}

/// Returns a connection's account: a service account that acts for a user is that user's, unless it is said otherwise.
pub(super) fn account_of(connection: &Connection) -> Option<String> {
    let subject = match &connection.credential {
        Credential::ServiceAccount { subject, .. } => subject.as_ref(),
        Credential::Key(_) => None,
    };
    connection.account.as_ref().or(subject).cloned()
}

/// Says what keeps an app's endpoint from giving its events to connections of the configuration, one sentence each.
pub(super) fn unreached(config: &Config) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for endpoint in config.endpoints.iter().filter(|endpoint| endpoint.connection.is_none()) {
        let of_it = |connection: &&Connection| {
            connection.provider == endpoint.provider && connection.environment == endpoint.environment
        };
        for connection in config.connections.iter().filter(of_it) {
            let has_own = config.endpoints.iter().any(|other| other.connection.as_ref() == Some(&connection.id));
            if !has_own && account_of(connection).is_none() {
                let (name, id) = (&endpoint.name, &connection.id);
                let text = format!("no event reaches connection {id}: give that its account, as the provider names it");
                found.push((name.clone(), text));
            }
        }
    }
    found
}

/// Returns the interval of a schedule that is one. Of any other the default is kept, for what needs a length of time.
fn interval(schedule: &Schedule, otherwise: Duration) -> Duration {
    match schedule.ticks {
        Ticks::Every(every) => every,
        Ticks::Cron(_) => otherwise,
    }
}

/// Returns the rules of the configuration, after that of `[sync]` for all streams.
fn rules(config: &Config) -> Vec<ScheduleRule> {
    let special = |schedule: &Schedule| {
        let plain = schedule.catch_up == CatchUp::Once && matches!(schedule.ticks, Ticks::Every(_));
        (!plain).then(|| schedule.clone())
    };
    let (incremental, full) = (special(&config.sync.incremental), special(&config.sync.full));
    let all = ScheduleRule { incremental, full, ..ScheduleRule::default() };
    std::iter::once(all).chain(config.sync.rules.iter().cloned()).collect()
}

/// Returns how a hub of the configuration works.
pub(super) fn settings(config: &Config, token: Option<Secret>) -> Settings {
    let server = &config.server;
    Settings {
        access: token.map_or(Access::Loopback, Access::Token),
        metrics_open: server.metrics_open,
        trusted_proxies: server.trusted_proxies.clone(),
        public_url: server.public_url.clone(),
        body_bytes_max: server.body_bytes_max,
        request_timeout: server.request_timeout,
        event_workers: config.workers.events,
        background_workers: config.workers.background,
        worker: WorkerSettings {
            concurrency: config.workers.concurrency,
            group_concurrency: config.workers.group_concurrency,
            group_overrides: config.workers.groups.clone(),
            event_priorities: config.workers.priorities.clone(),
            attempts_max: config.workers.attempts_max,
            handler_timeout: config.workers.handler_timeout,
            call_attempts_max: config.outbox.attempts_max,
            call_patience: config.outbox.patience,
            full_every: interval(&config.sync.full, WorkerSettings::default().full_every),
            incremental_every: interval(&config.sync.incremental, WorkerSettings::default().incremental_every),
            idle_max: config.sync.idle_max,
            schedules: rules(config),
            page_size: config.sync.page_size,
            read_ahead: config.sync.read_ahead,
            grace: server.shutdown_grace,
            retention: config.store.retention,
            feed_horizon: config.store.feed_horizon,
            inbox_bytes_max: config.store.inbox_bytes_max,
            ..WorkerSettings::default()
        },
        ..Settings::default()
    }
}

//! Whose events an endpoint receives: those of one connection, or those of every connection of its provider and
//! environment, each by the account its event names.
//!
//! One app (of Slack, of Stripe Connect) is installed in many accounts, and all of them post to one URL. An event is
//! kept once for every connection of its account, under an endpoint id of that connection: two tenants that connected
//! one workspace each get it, once. An event of an account nobody connected is kept as ignored, under
//! [`NO_CONNECTION`]: it is acknowledged, because sending it again changes nothing, and it can be seen.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use palisade_core::net::Network;
use palisade_core::store::{AccountKey, Connection, ConnectionState, NO_CONNECTION, NewDelivery, NewEvent};
use palisade_core::{ConnectionId, EndpointId, Environment, Provider, Result, Secret};

use crate::hub::{ConnectionConfig, EndpointConfig, Shared, wrong};
use crate::senders::AllowFrom;
use crate::unreadable;

/// Connections of one account read at once.
const FOUND_AT_ONCE: u32 = 500;

/// A URL to which a provider posts the events of every account that connected the product's app:
/// `POST /webhooks/{name}`. Each event goes to the connections of the account it names.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked by the builder")]
pub struct AppEndpointConfig {
    /// The last part of its path.
    pub name: String,
    /// The provider that posts.
    pub provider: String,
    /// The environment whose connections are served.
    pub environment: Environment,
    /// The app's signing secrets; several while one is rotated, none answers 503. Whoever knows one can name any
    /// account: a secret that a customer has (of an endpoint of their own account) does not belong here.
    pub secrets: Vec<Secret>,
}

/// An endpoint as it works.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) provider: String,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) to: To,
    /// From where its deliveries may come, if not from anywhere.
    pub(crate) allow_from: Option<Vec<Network>>,
    /// The name it had before it was renamed.
    pub(crate) formerly: Option<String>,
}

/// Whom an endpoint's events belong to.
#[derive(Clone, Debug)]
pub(crate) enum To {
    /// One connection.
    Connection(ConnectionId),
    /// The connections of the account each event names, in one environment.
    Account(Environment),
}

impl Endpoint {
    /// Tells whether a connection's events come here.
    pub(crate) fn serves(&self, connection: &Connection) -> bool {
        match &self.to {
            To::Connection(id) => *id == connection.id && self.provider == connection.provider,
            To::Account(environment) => {
                let of_it = self.provider == connection.provider && *environment == connection.environment;
                of_it && connection.account.is_some()
            }
        }
    }

    /// Returns the name its events are kept under: the one it had, if it was renamed, so that what came before the rename
    /// and comes again after it is a repeat, and is heard as one.
    fn kept_as(&self) -> &str {
        self.formerly.as_deref().unwrap_or(&self.name)
    }

    /// Returns the id a connection's events are kept under: with the event's own id it says what is a repeat.
    pub(crate) fn id_for(&self, connection: &ConnectionId) -> EndpointId {
        match &self.to {
            To::Connection(_) => EndpointId::new(self.kept_as()),
            To::Account(_) => EndpointId::new(format!("{}/{connection}", self.kept_as())),
        }
    }

    /// Returns the id under which events are kept that belong to no connection.
    fn id_for_none(&self) -> EndpointId {
        EndpointId::new(self.kept_as())
    }
}

/// Checks the endpoints of a hub and gives them by name.
///
/// # Errors
/// [`palisade_core::ErrorKind::Config`] naming the endpoint and what is wrong with it.
pub(crate) fn endpoints(
    providers: &BTreeMap<&'static str, std::sync::Arc<dyn Provider>>,
    connections: &[ConnectionConfig],
    fixed: Vec<EndpointConfig>,
    of_apps: Vec<AppEndpointConfig>,
    senders: &BTreeMap<String, AllowFrom>,
    formerly: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Endpoint>> {
    let fixed = fixed.into_iter().map(|EndpointConfig { name, provider, connection, secrets }| Endpoint {
        name,
        provider,
        secrets,
        to: To::Connection(connection),
        allow_from: None,
        formerly: None,
    });
    let of_apps = of_apps.into_iter().map(|AppEndpointConfig { name, provider, environment, secrets }| Endpoint {
        name,
        provider,
        secrets,
        to: To::Account(environment),
        allow_from: None,
        formerly: None,
    });
    let mut endpoints: BTreeMap<String, Endpoint> = BTreeMap::new();
    for mut endpoint in fixed.chain(of_apps) {
        let name = endpoint.name.clone();
        let provider = providers.get(endpoint.provider.as_str());
        let Some(webhook) = provider.and_then(|provider| provider.webhook()) else {
            return Err(wrong(format!(
                "endpoint {name} names a provider that is not part of the hub or has no webhooks"
            )));
        };
        endpoint.formerly = formerly.get(&name).cloned();
        endpoint.allow_from = senders.get(&name).map(|from| from.networks(&name, webhook)).transpose()?;
        for secret in &endpoint.secrets {
            webhook
                .check_secret(secret)
                .map_err(|error| wrong(format!("a secret of endpoint {name} cannot be used: {}", error.message())))?;
        }
        match &endpoint.to {
            To::Connection(id) => {
                // A connection given at run time is not known here; one that is known must be of the same provider.
                let known = connections.iter().find(|connection| connection.id == *id);
                if known.is_some_and(|connection| connection.provider != endpoint.provider) {
                    return Err(wrong(format!("endpoint {name} and its connection are of different providers")));
                }
            }
            To::Account(_) if !webhook.names_account() => {
                let provider = &endpoint.provider;
                return Err(wrong(format!(
                    "endpoint {name} cannot serve many connections: events of {provider} cannot be given to \
                     connections by the account they name"
                )));
            }
            To::Account(_) if !endpoint.secrets.iter().all(|secret| webhook.vouches_for_accounts(secret)) => {
                return Err(wrong(format!(
                    "endpoint {name} cannot serve many connections with the secret of a single channel: whoever opened it \
                     could name any account"
                )));
            }
            To::Account(_) => {}
        }
        if endpoints.insert(name.clone(), endpoint).is_some() {
            return Err(wrong(format!("endpoint {name} is given twice")));
        }
    }
    if let Some(name) = senders.keys().find(|name| !endpoints.contains_key(*name)) {
        return Err(wrong(format!("there is no endpoint {name} whose senders could be named")));
    }
    check_formerly(&endpoints, formerly)?;
    // Events of an app's endpoint are kept under its name, a slash and the connection.
    let of_apps = endpoints.values().filter(|endpoint| matches!(endpoint.to, To::Account(_)));
    for app in of_apps {
        let within = |name: &&str| name.strip_prefix(app.kept_as()).is_some_and(|rest| rest.starts_with('/'));
        if let Some(inner) = endpoints.values().map(Endpoint::kept_as).find(within) {
            return Err(wrong(format!("the endpoints {} and {inner} cannot be told apart", app.kept_as())));
        }
    }
    Ok(endpoints)
}

/// Checks the names that endpoints had: each is one endpoint's own.
fn check_formerly(endpoints: &BTreeMap<String, Endpoint>, formerly: &BTreeMap<String, String>) -> Result<()> {
    for (name, before) in formerly {
        if !endpoints.contains_key(name) {
            return Err(wrong(format!("there is no endpoint {name} that could have had another name")));
        }
        if before.is_empty() || endpoints.contains_key(before) {
            return Err(wrong(format!("endpoint {name} cannot have been called {before}: an endpoint is called so")));
        }
        if formerly.iter().any(|(other, its)| other != name && its == before) {
            return Err(wrong(format!("two endpoints cannot both have been called {before}")));
        }
    }
    Ok(())
}

/// Finds an endpoint by its name, or the one it had: a provider that was not told yet posts there.
pub(crate) fn find<'e>(endpoints: &'e BTreeMap<String, Endpoint>, name: &str) -> Option<&'e Endpoint> {
    let had = |endpoint: &&Endpoint| endpoint.formerly.as_deref() == Some(name);
    endpoints.get(name).or_else(|| endpoints.values().find(had))
}

/// Says whether a connection's events come to one of the endpoints.
pub(crate) fn told(endpoints: &BTreeMap<String, Endpoint>) -> impl Fn(&Connection) -> bool + Send + Sync + use<> {
    let endpoints: Vec<Endpoint> = endpoints.values().cloned().collect();
    move |connection| endpoints.iter().any(|endpoint| endpoint.serves(connection))
}

/// Says where a connection's webhooks arrive: at its own endpoints, by name, then at those of its app; or, where it has
/// none, at one that bears its id.
pub(crate) fn endpoints_of(
    endpoints: &BTreeMap<String, Endpoint>,
) -> impl Fn(&Connection) -> Vec<EndpointId> + Send + Sync + use<> {
    let mut own: BTreeMap<ConnectionId, Vec<Endpoint>> = BTreeMap::new();
    let mut of_apps: Vec<Endpoint> = Vec::new();
    for endpoint in endpoints.values() {
        let endpoint = Endpoint { secrets: Vec::new(), ..endpoint.clone() };
        match &endpoint.to {
            To::Connection(id) => own.entry(id.clone()).or_default().push(endpoint),
            To::Account(_) => of_apps.push(endpoint),
        }
    }
    move |connection| {
        let all = own.get(&connection.id).into_iter().flatten().chain(&of_apps);
        let serving = all.filter(|endpoint| endpoint.serves(connection));
        let ids: Vec<EndpointId> = serving.map(|endpoint| endpoint.id_for(&connection.id)).collect();
        if ids.is_empty() { vec![EndpointId::new(connection.id.as_str())] } else { ids }
    }
}

/// What became of a delivery's events.
pub(crate) struct Routed {
    /// What is to be stored, in one commit.
    pub(crate) deliveries: Vec<NewDelivery>,
    /// Whether none of the events belongs to a connection.
    pub(crate) nobodys: bool,
}

/// What routing a delivery comes to: at once where the endpoint serves one connection.
pub(crate) enum Routing<'r> {
    Done(Routed),
    ByAccount(BoxFuture<'r, Result<Routed>>),
}

/// Gives each event of a delivery to the connections it belongs to.
pub(crate) fn route<'r>(shared: &'r Shared, endpoint: &'r Endpoint, delivery: Unrouted) -> Routing<'r> {
    match &endpoint.to {
        To::Connection(id) => {
            let deliveries = vec![delivery.whole(endpoint.id_for(id), id.clone())];
            Routing::Done(Routed { deliveries, nobodys: false })
        }
        To::Account(environment) => {
            Routing::ByAccount(Box::pin(route_by_account(shared, endpoint, environment, delivery)))
        }
    }
}

/// Gives each event to the connections of the account it names.
///
/// # Errors
/// [`palisade_core::ErrorKind::Store`] when they cannot be looked up: nothing may be acknowledged.
async fn route_by_account(
    shared: &Shared,
    endpoint: &Endpoint,
    environment: &Environment,
    delivery: Unrouted,
) -> Result<Routed> {
    let webhook = shared.providers.get(endpoint.provider.as_str()).and_then(|provider| provider.webhook());
    let named = |event: &NewEvent, body: &Bytes| Named {
        account: event.account.clone(),
        of_sandbox: webhook.is_some_and(|webhook| webhook.of_sandbox(event.payload.as_ref().unwrap_or(body))),
    };
    let mut found: BTreeMap<Named, Vec<ConnectionId>> = BTreeMap::new();
    for event in &delivery.events {
        if let Entry::Vacant(new) = found.entry(named(event, &delivery.body)) {
            let connections = connected(shared, endpoint, environment, new.key()).await?;
            new.insert(connections);
        }
    }
    let nobodys = found.values().all(Vec::is_empty);
    let parts = if found.len() > 1 { delivery.apart() } else { vec![delivery] };
    let mut deliveries = Vec::with_capacity(parts.len());
    for mut part in parts {
        let named = part.events.first().map(|event| named(event, &part.body));
        let connections = named.as_ref().and_then(|named| found.get(named)).map(Vec::as_slice).unwrap_or_default();
        if connections.is_empty() {
            let account = named.and_then(|named| named.account);
            tracing::debug!(endpoint = endpoint.name, account, "an event of an account nobody connected");
            for event in &mut part.events {
                // What cannot be read names nobody, and somebody must look at it.
                event.wanted = event.kind == unreadable::KIND;
            }
            deliveries.push(part.whole(endpoint.id_for_none(), ConnectionId::new(NO_CONNECTION)));
            continue;
        }
        deliveries.extend(connections.iter().map(|id| part.clone().whole(endpoint.id_for(id), id.clone())));
    }
    Ok(Routed { deliveries, nobodys })
}

/// Whom an event names.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    account: Option<String>,
    of_sandbox: bool,
}

/// Finds the connections of an account. What was disconnected gets nothing any more, and a connection to production, at
/// the provider's own address, nothing of the sandbox.
async fn connected(
    shared: &Shared,
    endpoint: &Endpoint,
    environment: &Environment,
    named: &Named,
) -> Result<Vec<ConnectionId>> {
    let Some(account) = &named.account else { return Ok(Vec::new()) };
    let key =
        AccountKey { provider: endpoint.provider.clone(), environment: environment.clone(), account: account.clone() };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = shared.store.connections_of(key.clone(), after, FOUND_AT_ONCE).await?;
        let full = page.len() >= FOUND_AT_ONCE as usize;
        after = page.last().map(|last| last.id.clone());
        let crosses =
            |connection: &Connection| named.of_sandbox && environment.is_production() && connection.base_url.is_none();
        let wanted = page
            .into_iter()
            .filter(|connection| connection.state != ConnectionState::Disconnected && !crosses(connection));
        found.extend(wanted.map(|connection| connection.id));
        if !full {
            return Ok(found);
        }
    }
}

/// A delivery whose events are read and belong to nobody yet.
#[derive(Clone)]
pub(crate) struct Unrouted {
    pub(crate) provider: String,
    pub(crate) received_at: palisade_core::Timestamp,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) events: Vec<NewEvent>,
}

impl Unrouted {
    /// Gives all of it to one connection.
    fn whole(self, endpoint: EndpointId, connection: ConnectionId) -> NewDelivery {
        let Self { provider, received_at, headers, body, events } = self;
        NewDelivery { endpoint, connection, provider, received_at, headers, body, events }
    }

    /// Takes it apart, each event with its own bytes as body: nobody is given what belongs to another.
    fn apart(self) -> Vec<Self> {
        let Self { provider, received_at, headers, body, events } = self;
        let alone = |mut event: NewEvent| {
            let body = event.payload.take().unwrap_or_else(|| body.clone());
            let (provider, headers) = (provider.clone(), headers.clone());
            Self { provider, received_at, headers, body, events: vec![event] }
        };
        events.into_iter().map(alone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, to: To) -> Endpoint {
        let (name, provider) = (name.to_owned(), "slack".to_owned());
        Endpoint { name, provider, secrets: Vec::new(), to, allow_from: None, formerly: None }
    }

    fn connection(id: &str, provider: &str, account: Option<&str>) -> Connection {
        Connection {
            id: id.into(),
            tenant: "tenant".into(),
            provider: provider.to_owned(),
            environment: Environment::default(),
            account: account.map(str::to_owned),
            base_url: None,
            state: ConnectionState::Active,
            created_at: palisade_core::Timestamp(0),
        }
    }

    /// Fails when one of a connection's endpoints is left out, or another connection's is not.
    #[test]
    fn a_connection_is_heard_at_all_its_endpoints() {
        let all = [
            endpoint("app", To::Account(Environment::default())),
            endpoint("zwei", To::Connection("c1".into())),
            endpoint("eins", To::Connection("c1".into())),
            endpoint("other", To::Connection("c2".into())),
        ];
        let of = endpoints_of(&all.into_iter().map(|one| (one.name.clone(), one)).collect());
        let ids = |id, provider, account| {
            let ids = of(&connection(id, provider, account));
            ids.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(ids("c1", "slack", Some("T1")), ["eins", "zwei", "app/c1"], "its own first");
        assert_eq!(ids("c1", "slack", None), ["eins", "zwei"], "an app's names accounts");
        assert_eq!(ids("c2", "slack", None), ["other"]);
        assert_eq!(ids("c3", "slack", Some("T1")), ["app/c3"]);
        assert_eq!(ids("c1", "stripe", Some("T1")), ["c1"], "of another provider");
    }
}

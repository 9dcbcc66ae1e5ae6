//! Where the notifications of push channels arrive: the endpoints of a connection, as the world reaches them.

use std::collections::BTreeMap;

use palisade_core::sync::watch::WatchPlace;
use palisade_core::{ConnectionId, Provider, Secret};

use crate::hub::EndpointConfig;

/// Returns the address providers can post to an endpoint at; none while the hub has no public `https` address.
pub(crate) fn address(public_url: Option<&str>, endpoint: &str) -> Option<String> {
    let origin = public_url.filter(|url| url.starts_with("https://"))?;
    Some(format!("{}/webhooks/{endpoint}", origin.trim_end_matches('/')))
}

/// Says where notifications for a connection may be posted to: its endpoints, by name.
pub(crate) fn places(
    endpoints: &BTreeMap<String, EndpointConfig>,
    public_url: Option<&str>,
) -> impl Fn(&ConnectionId) -> Vec<WatchPlace> + Send + Sync + use<> {
    let mut map: BTreeMap<ConnectionId, Vec<WatchPlace>> = BTreeMap::new();
    for endpoint in endpoints.values() {
        if let Some(address) = address(public_url, &endpoint.name) {
            let place = WatchPlace { address, secrets: endpoint.secrets.clone() };
            map.entry(endpoint.connection.clone()).or_default().push(place);
        }
    }
    move |connection| map.get(connection).cloned().unwrap_or_default()
}

/// Names the streams a provider tells of at an endpoint with these secrets, once the hub has a public address.
pub(crate) fn streams(provider: &dyn Provider, secrets: &[Secret]) -> Vec<&'static str> {
    let Some(watcher) = provider.watcher() else { return Vec::new() };
    let fits = |stream: &str| watcher.secret(&stream.into(), secrets).is_some();
    watcher.watches().iter().map(|spec| spec.stream).filter(|stream| fits(stream)).collect()
}

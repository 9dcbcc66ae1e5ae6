//! Where the notifications of push channels arrive: the endpoints of a connection, as the world reaches them.

use std::collections::BTreeMap;

use palisade_core::store::Connection;
use palisade_core::sync::watch::WatchPlace;
use palisade_core::{Provider, Secret};

use crate::routing::Endpoint;

/// Returns the address providers can post to an endpoint at; none while the hub has no public `https` address.
pub(crate) fn address(public_url: Option<&str>, endpoint: &str) -> Option<String> {
    let origin = public_url.filter(|url| url.starts_with("https://"))?;
    Some(format!("{}/webhooks/{endpoint}", origin.trim_end_matches('/')))
}

/// Says where notifications for a connection may be posted to: the endpoints its events come to, by name.
pub(crate) fn places(
    endpoints: &BTreeMap<String, Endpoint>,
    public_url: Option<&str>,
) -> impl Fn(&Connection) -> Vec<WatchPlace> + Send + Sync + use<> {
    let reached: Vec<(Endpoint, String)> = endpoints
        .values()
        .filter_map(|endpoint| Some((endpoint.clone(), address(public_url, &endpoint.name)?)))
        .collect();
    move |connection| {
        let serving = reached.iter().filter(|(endpoint, _)| endpoint.serves(connection));
        let place = |(endpoint, address): &(Endpoint, String)| WatchPlace {
            address: address.clone(),
            secrets: endpoint.secrets.clone(),
        };
        serving.map(place).collect()
    }
}

/// Names the streams a provider tells of at an endpoint with these secrets, once the hub has a public address.
pub(crate) fn streams(provider: &dyn Provider, secrets: &[Secret]) -> Vec<&'static str> {
    let Some(watcher) = provider.watcher() else { return Vec::new() };
    let fits = |stream: &str| watcher.secret(&stream.into(), secrets).is_some();
    watcher.watches().iter().map(|spec| spec.stream).filter(|stream| fits(stream)).collect()
}

//! From where an endpoint's deliveries may come: networks that are named, or those its provider publishes.
//!
//! An address is no proof of anything: signatures stay. It keeps the rest of the internet from trying.

use std::net::IpAddr;

use axum::http::{Extensions, HeaderMap};
use palisade_core::Result;
use palisade_core::net::Network;
use palisade_core::webhook::{Senders, Webhook};

use crate::hub::{Shared, wrong};
use crate::routes::admin;
use crate::routing::Endpoint;

/// From where deliveries may come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is resolved in one place")]
pub enum AllowFrom {
    /// From these networks; from nowhere if there is none.
    Networks(Vec<Network>),
    /// From those the provider publishes.
    Published,
}

impl AllowFrom {
    /// Returns the networks.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Config`] when the provider publishes none.
    pub(crate) fn networks(&self, endpoint: &str, webhook: &dyn Webhook) -> Result<Vec<Network>> {
        match (self, webhook.senders()) {
            (Self::Networks(networks), _) => Ok(networks.clone()),
            (Self::Published, Senders::Published { networks, .. }) => Ok(published(networks)),
            (Self::Published, Senders::Unpublished { why }) => Err(wrong(format!(
                "endpoint {endpoint}: allow_from = \"published\" cannot be: {why}; leave it out, or name networks"
            ))),
        }
    }
}

/// Reads a published list. The suite of each adapter that has one reads it too.
pub(crate) fn published(networks: &[&str]) -> Vec<Network> {
    networks.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Tells whether a delivery comes from where it may. The reason goes to the log; where the address cannot be told, it does
/// not.
pub(crate) fn admits(shared: &Shared, endpoint: &Endpoint, headers: &HeaderMap, extensions: &Extensions) -> bool {
    let Some(networks) = &endpoint.allow_from else { return true };
    let from: Option<IpAddr> = admin::client(shared, headers, admin::peer(extensions));
    let admitted = from.is_some_and(|from| networks.iter().any(|network| network.contains(from)));
    if !admitted {
        let name = &endpoint.name;
        match from {
            Some(from) => tracing::warn!(
                endpoint = name,
                %from,
                "a delivery from an address that allow_from does not name; behind a proxy, is it in trusted_proxies?"
            ),
            None => tracing::error!(
                endpoint = name,
                "allow_from cannot be kept: the server does not tell addresses (ConnectInfo<SocketAddr>)"
            ),
        }
    }
    admitted
}

//! Where credentials may go: the hosts of a provider, and those of one environment of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use palisade_core::Provider;
use palisade_core::auth::Audience;

/// Where a provider's credentials may go.
pub(crate) struct Home {
    /// The provider's own hosts.
    own: Vec<String>,
    /// What the product added to them by hand.
    added: Vec<String>,
}

impl Home {
    /// Says where credentials for a base URL may go: to the provider's own hosts without one, and to its own host with
    /// one. So nothing of one environment is sent to the address of another.
    pub(crate) fn audience(&self, base_url: Option<&str>) -> Audience {
        let host = base_url.and_then(|base_url| base_url.parse::<http::Uri>().ok()?.authority().cloned());
        let elsewhere =
            base_url.is_some() && host.as_ref().is_none_or(|host| !self.own.iter().any(|own| own == host.as_str()));
        let hosts = if elsewhere { host.iter().map(|host| host.as_str()).collect() } else { texts(&self.own) };
        Audience::of(hosts.into_iter().chain(texts(&self.added)))
    }
}

fn texts(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// Says of each provider where its credentials may go.
pub(crate) fn homes(providers: &BTreeMap<&'static str, Arc<dyn Provider>>) -> BTreeMap<&'static str, Home> {
    let home = |provider: &Arc<dyn Provider>| {
        let own = provider.manifest().hosts;
        let (own, added) = provider.profile().hosts.into_iter().partition(|host| own.contains(&host.as_str()));
        Home { own, added }
    };
    providers.iter().map(|(name, provider)| (*name, home(provider))).collect()
}

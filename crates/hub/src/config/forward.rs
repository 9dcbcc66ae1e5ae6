//! Reads `[[destination]]`, `[forwarding]` and `allow_from` of an endpoint.

use std::time::Duration;

use palisade_core::forward::{self, CONCURRENCY_MAX, ForwardSettings};
use palisade_core::net::{Network, Reach};
use palisade_core::store::{DestinationSpec, Filter, Order};

use super::SecretRef;
use super::reader::Section;
use super::sections::read_name;
use crate::senders::AllowFrom;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// Attempts under way at once at a destination that says nothing else.
pub(crate) const CONCURRENCY: u32 = 8;
/// Time for one attempt at a destination that says nothing else. Standard Webhooks recommends 15 to 30 s.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);
const NETWORKS: &str = "addresses or networks, for example [\"10.0.0.0/8\"]";

/// A URL of the product that events are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Destination {
    /// Its name.
    pub name: String,
    /// What is forwarded where.
    pub spec: DestinationSpec,
    /// Its signing keys: one, or two while one is replaced.
    pub secrets: Vec<SecretRef>,
}

pub(super) fn read_forwarding(mut section: Section<'_, '_>) -> ForwardSettings {
    let usual = ForwardSettings::default();
    let failures = section.number("warn_failures", 1..=1_000).and_then(|n| u32::try_from(n).ok());
    let settings = ForwardSettings {
        warn_failures: failures.unwrap_or(usual.warn_failures),
        warn_after: section.duration("warn_after", SECOND..=30 * DAY).unwrap_or(usual.warn_after),
        disable_after: section.duration("disable_after", 3_600 * SECOND..=365 * DAY).unwrap_or(usual.disable_after),
        key_overlap: section.duration("key_overlap", Duration::ZERO..=30 * DAY).unwrap_or(usual.key_overlap),
    };
    section.finish();
    settings
}

pub(super) fn read_destination(mut section: Section<'_, '_>, into: &mut Vec<Destination>) {
    let name = read_name(&mut section, "name", "\"app\"");
    let url = section.needed("url", "\"https://app.example.com/hooks/palisade\"");
    let text = |section: &mut Section<'_, '_>, key| section.text(key).map(|(_, text)| text);
    let has_types = section.has("types");
    let types: Vec<String> = section.values("types", "a list of event types, for example [\"invoice.*\"]");
    let filter = Filter {
        provider: text(&mut section, "provider"),
        connection: text(&mut section, "connection").map(Into::into),
        tenant: text(&mut section, "tenant").map(Into::into),
        types: if has_types { types } else { vec!["*".to_owned()] },
    };
    let concurrency = section.number("concurrency", 1..=u64::from(CONCURRENCY_MAX));
    let timeout = section.duration("timeout", SECOND..=60 * SECOND).unwrap_or(TIMEOUT);
    let headers = section.pairs("headers");
    let order = section.word("order", &[("none", Order::None), ("by_key", Order::ByKey)]);
    let reach = Reach {
        private: section.flag("allow_private").unwrap_or_default(),
        networks: section.values("allow_networks", NETWORKS),
        plain: section.flag("allow_http").unwrap_or_default(),
    };
    if !section.has("secrets") {
        section.lacks(
            "[[destination]] needs secrets: make one with `printf whsec_; openssl rand -base64 32`, give it to the \
             receiver, and write secrets = [{ env = \"NAME\" }]",
        );
    }
    let secrets = section.secrets("secrets");
    if let Some((offset, name)) = &name
        && into.iter().any(|other| other.name == *name)
    {
        section.problem(*offset, "this destination name stands twice: give each destination its own");
    }
    if let (Some((_, name)), Some((offset, url))) = (name, url) {
        let spec = DestinationSpec {
            url,
            filter,
            concurrency: concurrency.and_then(|n| u32::try_from(n).ok()).unwrap_or(CONCURRENCY),
            timeout,
            headers,
            order: order.map(|(_, order)| order).unwrap_or_default(),
            reach,
        };
        if let Err(error) = forward::check(&spec) {
            section.problem(offset, format!("[[destination]]: {}", error.message()));
        }
        into.push(Destination { name, spec, secrets });
    }
    section.finish();
}

/// Takes from where an endpoint's deliveries may come.
pub(super) fn read_allow_from(section: &mut Section<'_, '_>) -> Option<AllowFrom> {
    if !section.has("allow_from") {
        let _absent = section.text("allow_from");
        return None;
    }
    if section.is_list("allow_from") {
        let networks: Vec<Network> = section.values("allow_from", NETWORKS);
        return Some(AllowFrom::Networks(networks));
    }
    section.word("allow_from", &[("published", ())]).map(|_| AllowFrom::Published)
}

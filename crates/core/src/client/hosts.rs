//! The hosts a provider's calls may go to, each with its breaker and budget. A call to any other host, or one that
//! would carry a credential in the clear, is refused before anything is sent.
//!
//! The rule: an entry with a port matches that port, an entry without one matches the scheme's own (443, or 80 on
//! loopback). Plain `http` is for loopback hosts only. An address with user information is always refused.

use std::net::IpAddr;
use std::sync::OnceLock;

use http::uri::{Authority, Scheme};
use http::{Method, Uri};

use super::Profile;
use super::breaker::Breaker;
use super::budget::Budget;
use super::telemetry::{ClientMeters, OperationMeters};
use crate::call::Operation;
use crate::error::{Error, ErrorKind, Result};

/// One host of the profile.
#[derive(Debug)]
pub(super) struct Host {
    /// The entry as the profile writes it, in lower case.
    entry: String,
    name: String,
    port: Option<u16>,
    loopback: bool,
    pub(super) breaker: Breaker,
    pub(super) budget: Budget,
    operations: Operations,
}

impl Host {
    /// Reads the profile's hosts.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when there is none, or one is not a host with an optional port.
    pub(super) fn all(profile: &Profile, meters: &ClientMeters) -> Result<Vec<Self>> {
        if profile.hosts.is_empty() {
            return Err(Error::new(ErrorKind::Config, "the profile names no host a credential may be sent to"));
        }
        profile.hosts.iter().map(|entry| Self::parse(entry, profile, meters)).collect()
    }

    fn parse(entry: &str, profile: &Profile, meters: &ClientMeters) -> Result<Self> {
        let wrong = || {
            Error::new(ErrorKind::Config, format!("the profile's host {entry:?} is not a host with an optional port"))
        };
        let authority: Authority = entry.parse().map_err(|_| wrong())?;
        let name = authority.host().to_ascii_lowercase();
        let rest = entry.get(name.len()..).unwrap_or_default();
        if name.is_empty() || entry.contains('@') || (authority.port().is_none() && !rest.is_empty()) {
            return Err(wrong());
        }
        let (state, trips) = meters.breaker(entry);
        Ok(Self {
            loopback: is_loopback(&name),
            entry: entry.to_ascii_lowercase(),
            name,
            port: authority.port_u16(),
            breaker: Breaker::new(profile.breaker.clone(), state, trips),
            budget: Budget::new(profile.retry.budget),
            operations: Operations::default(),
        })
    }

    /// Finds the host an address belongs to.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the address is not absolute, not of the profile, carries user information, or is
    /// plain `http` to another machine. The address itself is not repeated in the error.
    pub(super) fn of<'a>(hosts: &'a [Self], uri: &Uri) -> Result<&'a Self> {
        let refused = |message: &'static str| Err(Error::new(ErrorKind::Config, message));
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return refused("the address of the call is not absolute");
        };
        let secure = *scheme == Scheme::HTTPS;
        // Nearly always the address is written as the entry is, and then there is nothing to take apart.
        let exact = |host: &&Self| host.entry == authority.as_str() && (secure || host.loopback);
        if (secure || *scheme == Scheme::HTTP)
            && let Some(host) = hosts.iter().find(exact)
        {
            return Ok(host);
        }
        if authority.as_str().contains('@') {
            return refused("the address of the call carries user information, which would leak");
        }
        if !secure && *scheme != Scheme::HTTP {
            return refused("the address of the call is neither https nor http");
        }
        // A port that is there but cannot be read (empty, too large) matches nothing.
        let default = if secure { 443 } else { 80 };
        let unreadable = authority.port().is_none() && authority.as_str().len() != authority.host().len();
        let port = authority.port_u16().unwrap_or(default);
        let found = hosts.iter().find(|host| {
            !unreadable && host.port.unwrap_or(default) == port && host.name.eq_ignore_ascii_case(authority.host())
        });
        let Some(host) = found else {
            return refused("the address of the call is not one of the provider's hosts");
        };
        if !secure && !host.loopback {
            return refused("a credential is sent over plain http to this machine only: use https");
        }
        Ok(host)
    }

    /// Returns the meters of an operation, made and checked at its first call.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a description that cannot work.
    pub(super) fn operation(
        &self,
        operation: &'static Operation,
        method: &Method,
        uri: &Uri,
        meters: &ClientMeters,
    ) -> Result<&OperationMeters> {
        let address = std::ptr::from_ref(operation).addr();
        self.operations.find_or_make(address, || {
            let port = uri.port_u16().unwrap_or(if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 });
            OperationMeters::new(&meters.metrics, operation, method, &self.name, port)
        })
    }

    /// Tells whether this is the host written as in the profile.
    pub(super) fn is_named(&self, entry: &str) -> bool {
        match self.port {
            Some(port) => entry
                .rsplit_once(':')
                .is_some_and(|(name, text)| name.eq_ignore_ascii_case(&self.name) && text.parse() == Ok(port)),
            None => entry.eq_ignore_ascii_case(&self.name),
        }
    }
}

/// The meters by the address of the operation's static: a table that only grows, so that reading it takes no lock and
/// counts no reference.
#[derive(Debug, Default)]
struct Operations {
    slots: [OnceLock<(usize, OperationMeters)>; SLOTS],
    /// Where those go that find the table full.
    more: OnceLock<Box<Operations>>,
}

/// More operations than most providers' clients use.
const SLOTS: usize = 32;

impl Operations {
    fn find_or_make(&self, address: usize, make: impl FnOnce() -> Result<OperationMeters>) -> Result<&OperationMeters> {
        match self.find(address) {
            Some(found) => Ok(found),
            None => Ok(self.insert(address, make()?)),
        }
    }

    fn find(&self, address: usize) -> Option<&OperationMeters> {
        let mut table = self;
        loop {
            for slot in table.probe(address) {
                let (key, meters) = slot.get()?;
                if *key == address {
                    return Some(meters);
                }
            }
            table = table.more.get()?;
        }
    }

    /// Puts the meters into the first free slot, unless someone else was quicker with the same operation.
    fn insert(&self, address: usize, meters: OperationMeters) -> &OperationMeters {
        let mut value = Some((address, meters));
        let mut table = self;
        loop {
            for slot in table.probe(address) {
                value = value.and_then(|value| slot.set(value).err());
                if let Some((key, meters)) = slot.get()
                    && *key == address
                {
                    return meters;
                }
            }
            table = table.more.get_or_init(Box::default);
        }
    }

    /// Goes round the slots from the one the address points at. Statics lie some words apart.
    fn probe(&self, address: usize) -> impl Iterator<Item = &OnceLock<(usize, OperationMeters)>> {
        let begin = address / 64 % SLOTS;
        self.slots.iter().skip(begin).chain(self.slots.iter().take(begin))
    }
}

/// Tells whether a host is this machine: `localhost`, `127.0.0.0/8`, `[::1]`.
fn is_loopback(name: &str) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::StatusClassifier;
    use super::*;
    use crate::call::{Bucket, Replay};
    use crate::metrics::Metrics;

    fn hosts(entries: &[&str]) -> Result<Vec<Host>> {
        let profile = Profile::new("p", entries, Arc::new(StatusClassifier));
        Host::all(&profile, &ClientMeters::new(Metrics::default(), "p"))
    }

    #[track_caller]
    fn check(entries: &[&str], url: &str, allowed: bool) {
        let found = url.parse().map_err(|_| ()).and_then(|uri: Uri| {
            Host::of(&hosts(entries).unwrap(), &uri).map(|_| ()).map_err(|error| {
                assert_eq!(error.kind(), ErrorKind::Config);
            })
        });
        assert_eq!(found.is_ok(), allowed, "{entries:?} {url}");
    }

    // Fails when any of the rules in the file's head is dropped.
    #[test]
    fn a_credential_goes_only_to_hosts_of_the_profile_and_never_in_the_clear() {
        let one = &["api.example.com"];
        check(one, "https://api.example.com/v1", true);
        check(one, "https://API.Example.com/v1", true);
        check(one, "https://api.example.com:443/v1", true);
        check(one, "https://api.example.com:8443/v1", false);
        check(one, "https://api.example.com:/v1", false);
        check(one, "http://api.example.com/v1", false);
        check(one, "http://api.example.com:443/v1", false);
        check(one, "https://api.example.com.evil.com/", false);
        check(one, "https://evil.com/?api.example.com", false);
        check(one, "https://api.example.com@evil.com/", false);
        check(one, "https://user:pass@api.example.com/", false);
        check(one, "https://evil@api.example.com/", false);
        check(one, "ftp://api.example.com/", false);
        check(one, "/v1", false);
        check(one, "https://localhost/", false);
        check(&["api.example.com:8443"], "https://api.example.com:8443/", true);
        check(&["api.example.com:8443"], "https://api.example.com/", false);
        check(&["api.example.com:443"], "https://api.example.com/", true);
        check(&["127.0.0.1:12111"], "http://127.0.0.1:12111/v1", true);
        check(&["127.0.0.1:12111"], "http://127.0.0.1:12112/v1", false);
        check(&["localhost"], "http://localhost/", true);
        check(&["[::1]:80"], "http://[::1]/", true);
        check(&["10.0.0.1"], "http://10.0.0.1/", false);
        check(&["localhost.evil.com"], "http://localhost.evil.com/", false);
    }

    // Fails when a full table, or two operations of one slot, lose or mix up meters.
    #[test]
    fn the_table_of_operations_keeps_them_apart_however_many_there_are() {
        static BUCKET: Bucket = Bucket { name: "b", units: 1, per: Duration::from_secs(1), burst: 1 };
        let (table, metrics) = (Operations::default(), Metrics::default());
        let mut made = 0;
        for round in 0..2 {
            for n in 0..200 {
                let operation: &'static Operation = Box::leak(Box::new(Operation {
                    provider: "p",
                    name: format!("operation-{n}").leak(),
                    url_template: "/",
                    replay: Replay::Safe,
                    bucket: &BUCKET,
                    also: &[],
                    cost: 1,
                    attempt_timeout: Duration::from_secs(1),
                    overall_timeout: Duration::from_secs(1),
                    body_bytes_max: 1,
                }));
                // Addresses of our own, many of them pointing at the same slot.
                let found = table.find_or_make(n * 1_024, || {
                    made += 1;
                    OperationMeters::new(&metrics, operation, &Method::GET, "h", 1)
                });
                assert!(format!("{:?}", found.unwrap()).contains(&format!("\"operation-{n}\"")), "{round}");
            }
        }
        assert_eq!(made, 200);
    }

    #[test]
    fn a_host_that_is_none_is_refused_when_building() {
        for entry in ["", "a/b", "https://a", "user@a", "a:", "a:b", "a:99999", "a b"] {
            assert_eq!(hosts(&[entry]).map(|_| ()).unwrap_err().kind(), ErrorKind::Config, "{entry:?}");
        }
        assert_eq!(hosts(&[]).map(|_| ()).unwrap_err().kind(), ErrorKind::Config);
        assert!(hosts(&["a", "b:1", "[::1]:2"]).is_ok());
    }
}

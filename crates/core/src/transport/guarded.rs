//! A transport for addresses that somebody outside the house has chosen: it connects to public ones only.
//!
//! Names are resolved by the resolver that makes the connection, and what it gives is checked there: the address that
//! was checked is the address that is connected to, whatever the name says a moment later. A literal address is never
//! asked of a resolver, so it is checked before; it is read as the connection reads it (`0x7f.1` is `127.0.0.1`).

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{HttpTransport, HttpTransportBuilder, Transport};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::net::{OutOfReach, Reach};

/// Transports kept, one for each reach: their connections must not be shared. More than that are made anew.
const KEPT_MAX: usize = 64;

/// Gives the addresses of a host name.
#[async_trait]
pub trait Resolver: Send + Sync + 'static {
    /// Resolves `host`. No address is an answer too.
    ///
    /// # Errors
    /// [`ErrorKind::Connect`] when nobody could be asked.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>>;
}

/// Asks the operating system.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing to set")]
pub struct SystemResolver;

#[async_trait]
impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((host, 0)).await.map_err(|error| {
            Error::new(ErrorKind::Connect, "the host name could not be resolved")
                .with_outcome(Outcome::NotSent)
                .with_source(error)
        })?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// Sends as [`HttpTransport`] does, to addresses within the [`Reach`] that is in the request's extensions; to public
/// ones over https where there is none. Refused is also a name of which any address is out of reach.
///
/// An address out of reach is an error with [`OutOfReach`] among its sources, [`ErrorKind::Config`] and
/// [`Outcome::NotSent`].
pub struct GuardedTransport {
    resolver: Arc<dyn Resolver>,
    base: Box<dyn Fn() -> HttpTransportBuilder + Send + Sync>,
    kept: Mutex<BTreeMap<Reach, HttpTransport>>,
}

impl GuardedTransport {
    /// Makes a transport that asks `resolver` for addresses.
    #[must_use]
    pub fn new(resolver: Arc<dyn Resolver>) -> Self {
        Self::over(resolver, HttpTransport::builder)
    }

    /// As [`GuardedTransport::new`], over transports that `base` begins: with another root certificate, another connect
    /// timeout. A proxy would connect in its stead and is not to be set.
    #[must_use]
    pub fn over(resolver: Arc<dyn Resolver>, base: impl Fn() -> HttpTransportBuilder + Send + Sync + 'static) -> Self {
        Self { resolver, base: Box::new(base), kept: Mutex::default() }
    }

    fn transport(&self, reach: &Reach) -> Result<HttpTransport> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(transport) = kept.get(reach) {
            return Ok(transport.clone());
        }
        let guard = Guard { resolver: Arc::clone(&self.resolver), reach: reach.clone() };
        let transport = (self.base)().resolver(Arc::new(guard)).build()?;
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(reach.clone(), transport.clone());
        Ok(transport)
    }
}

impl fmt::Debug for GuardedTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuardedTransport")
    }
}

/// Resolves names and gives only what may be connected to.
struct Guard {
    resolver: Arc<dyn Resolver>,
    reach: Reach,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, reach) = (Arc::clone(&self.resolver), self.reach.clone());
        Box::pin(async move {
            let found = resolver.resolve(name.as_str()).await?;
            // All or none: a name with a public and a private address is how a private one is smuggled in.
            for address in &found {
                reach.check(*address)?;
            }
            let addresses: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

/// Checks what an address says by itself: its scheme, and its host where that is literal.
fn check_literal(request: &Request<Bytes>, reach: &Reach) -> Result<()> {
    let url = Url::parse(&request.uri().to_string())
        .map_err(|error| refused("the address cannot be read").with_source(error))?;
    match url.scheme() {
        "https" => {}
        "http" if reach.plain => {}
        _ => return Err(refused("the address is not https")),
    }
    let host = url.host_str().ok_or_else(|| refused("the address has no host"))?;
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => reach.check(address).map_err(out_of_reach),
        Err(_) => Ok(()),
    }
}

fn refused(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, what).with_outcome(Outcome::NotSent)
}

fn out_of_reach(refused_address: OutOfReach) -> Error {
    refused(format!("the address is refused: {refused_address}")).with_source(refused_address)
}

/// Finds out whether it was the guard that broke a connection off.
fn named(error: Error) -> Error {
    let mut source: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<OutOfReach>() {
            return out_of_reach(*refused);
        }
        source = cause.source();
    }
    error
}

#[async_trait]
impl Transport for GuardedTransport {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let reach = request.extensions().get::<Reach>().cloned().unwrap_or_default();
        check_literal(&request, &reach)?;
        self.transport(&reach)?.send(request).await.map_err(named)
    }
}

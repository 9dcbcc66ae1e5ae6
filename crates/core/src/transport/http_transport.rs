//! The innermost transport: reqwest with rustls.
//!
//! It sends once. Redirects, implicit repeats, cookies, decompression and proxies of the environment are off, so that
//! what goes over the wire is what the pipeline decided. The answer's body is read piece by piece up to the call's cap.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Identity, Proxy, Url, retry};

use crate::call::Call;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::transport::Transport;

/// The cap of a request that carries no [`Call`], in bytes.
const BODY_BYTES_MAX: usize = 8 << 20;
/// An error's body is read up to here, in bytes; what follows is cut off, so that its status still counts.
const ERROR_BODY_BYTES_MAX: usize = 64 << 10;
/// Below the keep-alive of common servers (30 s and more): a connection the server has just closed is the main cause
/// of requests that break before an answer.
const POOL_IDLE: Duration = Duration::from_secs(25);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Hosts of which the address is kept as it was read. A client has few; those beyond are read anew each time.
const BASES_MAX: usize = 32;
/// What is set aside in advance for a body that says how long it is; more is set aside as it arrives.
const RESERVED_MAX: usize = 256 << 10;

/// Sends requests over reqwest. Cheap to clone; clones share the connections.
///
/// - No connection (name, address, TLS, connect timeout): [`ErrorKind::Connect`], [`Outcome::NotSent`].
/// - A connection that broke later, also in the middle of the body: [`ErrorKind::Transport`], [`Outcome::Unknown`].
/// - It knows no timeout but that of connecting: the pipeline drops the call when its time is over.
#[derive(Clone)]
pub struct HttpTransport {
    client: reqwest::Client,
    bases: Arc<Bases>,
}

/// Builds an [`HttpTransport`].
pub struct HttpTransportBuilder {
    inner: reqwest::ClientBuilder,
    wrong: Option<(&'static str, Option<reqwest::Error>)>,
}

impl HttpTransport {
    /// Makes a transport with the defaults: connect timeout 5 s, connections kept idle 25 s, no proxy, the trust
    /// store of the operating system.
    ///
    /// # Errors
    /// As [`HttpTransportBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Begins a transport.
    #[must_use]
    pub fn builder() -> HttpTransportBuilder {
        let inner = reqwest::Client::builder()
            .redirect(Policy::none())
            .referer(false)
            // None at all: else reqwest keeps a copy of each request for a repeat that never comes.
            .retry(retry::never().max_retries_per_request(0))
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE)
            .user_agent(concat!("palisade/", env!("CARGO_PKG_VERSION")));
        HttpTransportBuilder { inner, wrong: None }
    }
}

impl HttpTransportBuilder {
    /// Sets the time a connection may take, TLS included.
    #[must_use]
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.with(|inner| inner.connect_timeout(timeout))
    }

    /// Sets how long an unused connection is kept. Should be below the servers' own keep-alive.
    #[must_use]
    pub fn pool_idle(self, idle: Duration) -> Self {
        self.with(|inner| inner.pool_idle_timeout(idle))
    }

    /// Sends everything through a proxy (`http://proxy.internal:3128`). Without it no proxy is used, whatever the
    /// environment says.
    #[must_use]
    pub fn proxy(mut self, url: &str) -> Self {
        match Proxy::all(url) {
            Ok(proxy) => self.with(|inner| inner.proxy(proxy)),
            Err(error) => {
                self.wrong = Some(("the proxy's address cannot be read", Some(error.without_url())));
                self
            }
        }
    }

    /// Sets the `User-Agent` of requests that have none of their own. A text that cannot stand in a header is an error
    /// of [`HttpTransportBuilder::build`].
    #[must_use]
    pub fn user_agent(self, name: &str) -> Self {
        self.with(|inner| inner.user_agent(name))
    }

    /// Trusts one more root certificate (PEM), beside the operating system's: a private authority, a test server.
    #[must_use]
    pub fn root_certificate(mut self, pem: &[u8]) -> Self {
        match Certificate::from_pem_bundle(pem) {
            Ok(certificates) => self.with(|inner| inner.tls_certs_merge(certificates)),
            Err(error) => {
                self.wrong = Some(("the root certificate is not PEM", Some(error)));
                self
            }
        }
    }

    /// Trusts these root certificates (PEM) and no others: calls between services of one's own.
    #[must_use]
    pub fn only_root_certificate(mut self, pem: &[u8]) -> Self {
        match Certificate::from_pem_bundle(pem) {
            Ok(certificates) if !certificates.is_empty() => self.with(|inner| inner.tls_certs_only(certificates)),
            // An empty list would quietly trust nobody, or whom the system trusts.
            Ok(_) => {
                self.wrong = Some(("the root certificate is not PEM", None));
                self
            }
            Err(error) => {
                self.wrong = Some(("the root certificate is not PEM", Some(error)));
                self
            }
        }
    }

    /// Shows a client certificate (PEM of the certificate chain and the private key), for mutual TLS.
    #[must_use]
    pub fn client_identity(mut self, pem: &[u8]) -> Self {
        match Identity::from_pem(pem) {
            Ok(identity) => self.with(|inner| inner.identity(identity)),
            Err(error) => {
                self.wrong = Some(("the client certificate and key are not PEM", Some(error)));
                self
            }
        }
    }

    /// Makes the transport.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a proxy, certificate, key or user agent cannot be used, or TLS cannot be set up.
    pub fn build(self) -> Result<HttpTransport> {
        if let Some((what, error)) = self.wrong {
            let refused = Error::new(ErrorKind::Config, what);
            return Err(match error {
                Some(error) => refused.with_source(error),
                None => refused,
            });
        }
        let client = self.inner.build().map_err(|error| {
            Error::new(ErrorKind::Config, "the HTTP client cannot be set up").with_source(error.without_url())
        })?;
        Ok(HttpTransport { client, bases: Arc::default() })
    }

    fn with(mut self, change: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder) -> Self {
        self.inner = change(self.inner);
        self
    }
}

/// Written out and not by `async_trait`, so that its future holds what reqwest made of the request and not the request.
impl Transport for HttpTransport {
    fn send<'life, 'future>(&'life self, request: Request<Bytes>) -> BoxFuture<'future, Result<Response<Bytes>>>
    where
        'life: 'future,
        Self: 'future,
    {
        let success_max =
            request.extensions().get::<Call>().map_or(BODY_BYTES_MAX, |call| call.operation.body_bytes_max);
        // reqwest sends nothing before it is polled.
        let sending = self.readdressed(request).map(|request| self.client.execute(request));
        Box::pin(async move {
            let mut answer = sending?.await.map_err(not_answered)?;
            let body = if answer.status().is_success() {
                read(&mut answer, success_max, false).await?
            } else {
                read(&mut answer, ERROR_BODY_BYTES_MAX, true).await?
            };
            let mut response = Response::new(body);
            *response.status_mut() = answer.status();
            *response.version_mut() = answer.version();
            std::mem::swap(response.headers_mut(), answer.headers_mut());
            Ok(response)
        })
    }
}

impl HttpTransport {
    /// Makes reqwest's request. Extensions are ours alone and stay behind.
    fn readdressed(&self, request: Request<Bytes>) -> Result<reqwest::Request> {
        let (parts, body) = request.into_parts();
        let mut request = reqwest::Request::new(parts.method, self.bases.url(&parts.uri)?);
        *request.headers_mut() = parts.headers;
        *request.version_mut() = parts.version;
        if !body.is_empty() {
            *request.body_mut() = Some(body.into());
        }
        Ok(request)
    }
}

/// What all addresses of a host share, parsed once: scheme, name and port are most of the work of reading one.
#[derive(Default)]
struct Bases(ArcSwap<Vec<Base>>);

#[derive(Clone)]
struct Base {
    scheme: Scheme,
    authority: Authority,
    url: Url,
}

impl Bases {
    /// Reads an address as [`Url::parse`] would.
    fn url(&self, uri: &Uri) -> Result<Url> {
        let known = self.0.load();
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return parsed(uri) };
        let same = |base: &&Base| base.authority.as_str() == authority.as_str() && base.scheme == *scheme;
        if let Some(base) = known.iter().find(same) {
            let mut url = base.url.clone();
            url.set_path(uri.path());
            url.set_query(uri.query());
            return Ok(url);
        }
        let url = parsed(uri)?;
        // User information is nothing to keep.
        if known.len() < BASES_MAX && !authority.as_str().contains('@') {
            let base = Base { scheme: scheme.clone(), authority: authority.clone(), url: url.clone() };
            let grown = known.iter().cloned().chain([base]).collect();
            // Whoever loses a race is kept another time.
            self.0.store(Arc::new(grown));
        }
        Ok(url)
    }
}

fn parsed(uri: &Uri) -> Result<Url> {
    Url::parse(&uri.to_string())
        .map_err(|error| Error::new(ErrorKind::Config, "the address of the call cannot be read").with_source(error))
}

/// Reads a body up to `max` bytes. Beyond it the rest is cut off, or it is an error.
async fn read(answer: &mut reqwest::Response, max: usize, cut: bool) -> Result<Bytes> {
    let announced = answer.content_length().map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced > max && !cut {
        return Err(too_large());
    }
    // Most bodies come in one piece, which is then handed on as it is.
    let Some(mut first) = answer.chunk().await.map_err(cut_off)? else { return Ok(Bytes::new()) };
    let mut rest: Option<BytesMut> = None;
    loop {
        let read = rest.as_ref().map_or(first.len(), BytesMut::len);
        if read > max {
            if !cut {
                return Err(too_large());
            }
            return Ok(match rest {
                Some(mut all) => all.split_to(max).freeze(),
                None => first.split_to(max),
            });
        }
        if rest.is_none() && read == announced {
            return Ok(first);
        }
        let Some(chunk) = answer.chunk().await.map_err(cut_off)? else { break };
        let all = rest.get_or_insert_with(|| {
            let mut all = BytesMut::with_capacity(announced.min(RESERVED_MAX).max(first.len() + chunk.len()));
            all.extend_from_slice(&first);
            all
        });
        all.extend_from_slice(&chunk);
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

/// Reads an error from before the answer's head. Only a failure to connect proves that nothing was sent: reqwest
/// makes the connection first, and everything later may have reached the provider.
fn not_answered(error: reqwest::Error) -> Error {
    let (kind, message, outcome) = if error.is_connect() {
        let message = match (error.is_dns(), error.is_timeout()) {
            (true, _) => "the provider's host name could not be resolved",
            (false, true) => "no connection to the provider within the connect timeout",
            (false, false) => "no connection to the provider could be made",
        };
        (ErrorKind::Connect, message, Outcome::NotSent)
    } else if error.is_builder() {
        (ErrorKind::Config, "the request cannot be sent as it is", Outcome::NotSent)
    } else {
        (ErrorKind::Transport, "the connection broke before an answer came", Outcome::Unknown)
    };
    Error::new(kind, message).with_outcome(outcome).with_source(error.without_url())
}

fn cut_off(error: reqwest::Error) -> Error {
    Error::new(ErrorKind::Transport, "the connection broke in the middle of the answer")
        .with_outcome(Outcome::Unknown)
        .with_source(error.without_url())
}

fn too_large() -> Error {
    Error::new(ErrorKind::BodyTooLarge, "the answer is larger than the operation allows")
        .with_outcome(Outcome::Processed)
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpTransport")
    }
}

impl fmt::Debug for HttpTransportBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpTransportBuilder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when an address of a host that is known is read in another way than the first one.
    #[test]
    fn an_address_reads_the_same_whether_its_host_is_known_or_not() {
        let bases = Bases::default();
        for base in
            ["http://127.0.0.1:8080", "https://API.example.com", "https://api.example.com:8443", "http://[::1]:1"]
        {
            for rest in [
                "",
                "/",
                "/v1/customers",
                "?a=b",
                "/?",
                "/a/../b/./c",
                "//x",
                "/%7e~{}|^\"<>`",
                "/a?b={}|^'\"c%20d?e",
                "/a;b=c:d@e",
            ] {
                let text = format!("{base}{rest}");
                let Ok(uri) = text.parse::<Uri>() else { continue };
                for known in [false, true] {
                    let read = bases.url(&uri).unwrap();
                    assert_eq!(read.as_str(), Url::parse(&uri.to_string()).unwrap().as_str(), "{text}, {known}");
                }
            }
        }
        assert_eq!(bases.0.load().len(), 4);
    }

    // Fails when hosts are kept without end, or a password is kept.
    #[test]
    fn few_hosts_are_kept_and_no_user_information() {
        let bases = Bases::default();
        bases.url(&"http://user:pass@h/".parse().unwrap()).unwrap();
        assert_eq!(bases.0.load().len(), 0);
        for n in 0..3 * BASES_MAX {
            bases.url(&format!("http://h{n}/x").parse().unwrap()).unwrap();
        }
        assert_eq!(bases.0.load().len(), BASES_MAX);
        assert_eq!(bases.url(&"http://h90/y".parse().unwrap()).unwrap().as_str(), "http://h90/y");
        assert!(bases.url(&"/y".parse().unwrap()).is_err());
    }
}

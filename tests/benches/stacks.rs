//! The contenders of `call`: the same call through nothing, through Palisade, and through reqwest-middleware, each
//! over a terminal that answers from memory.

use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{HeaderValue, Method, Request, Response, Uri};
use palisade_core::auth::{FixedCredential, Scheme};
use palisade_core::call::Bucket;
use palisade_core::client::{Classifier, Profile, Repeat, Verdict};
use palisade_core::{Call, Client, ConnectionId, Error, ErrorKind, Operation, Replay, TenantId, Transport};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;
use tracing::Instrument;

/// The host of the calls over memory.
const HOST: &str = "api.example.com";
/// What a call sends: 216 bytes, a customer to create.
pub(crate) const BODY: &[u8] = &[b'a'; 216];
/// What it gets: 250 bytes of JSON.
pub(crate) fn answer_body() -> Bytes {
    let padding = "x".repeat(250 - r#"{"id":"cus_1","object":"customer","name":""}"#.len());
    format!(r#"{{"id":"cus_1","object":"customer","name":"{padding}"}}"#).into()
}

/// A limit that is asked but never waited for: a unit every 10 ns.
static AMPLE: Bucket = Bucket { name: "ample", units: 100_000_000, per: Duration::from_secs(1), burst: 100_000_000 };
/// A read.
pub(crate) static READ: Operation = Operation {
    provider: "example",
    name: "customers.retrieve",
    url_template: "/v1/customers/{id}",
    replay: Replay::Safe,
    bucket: &AMPLE,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(30),
    overall_timeout: Duration::from_secs(80),
    body_bytes_max: 1 << 20,
};
/// A write under an idempotency key.
pub(crate) static WRITE: Operation = Operation {
    provider: "example",
    name: "customers.create",
    url_template: "/v1/customers",
    replay: Replay::Keyed("idempotency-key"),
    bucket: &AMPLE,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(30),
    overall_timeout: Duration::from_secs(80),
    body_bytes_max: 1 << 20,
};

/// Answers from memory.
#[derive(Debug)]
pub(crate) struct Memory(Bytes);

impl Memory {
    pub(crate) fn new() -> Self {
        Self(answer_body())
    }
}

fn answer(body: &Bytes) -> Response<Bytes> {
    let mut response = Response::new(body.clone());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert("request-id", HeaderValue::from_static("req_1"));
    response
}

#[async_trait]
impl Transport for Memory {
    async fn send(&self, _request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        Ok(answer(&self.0))
    }
}

/// Calls 2xx a success.
#[derive(Debug)]
pub(crate) struct ByStatus;

impl Classifier for ByStatus {
    fn classify(&self, _operation: &'static Operation, response: &Response<Bytes>) -> Verdict {
        if response.status().is_success() {
            Verdict::Success
        } else {
            let error = Error::new(ErrorKind::Provider, "the provider failed");
            Verdict::Failed { error, repeat: Repeat::IfSafe }
        }
    }
}

/// Makes the pipeline with every policy on over a transport.
pub(crate) fn client(base_url: &str, transport: Arc<dyn Transport>) -> Client {
    over(Profile::new("example", &[HOST], Arc::new(ByStatus)).allowing(base_url), transport)
}

/// Makes the pipeline of a profile over a transport.
pub(crate) fn over(profile: Profile, transport: Arc<dyn Transport>) -> Client {
    let credential = FixedCredential::new(&Scheme::Bearer("sk_test_4eC39HqLyjWDarjtT1zdp7dc".into())).unwrap();
    Client::builder(profile, transport, Arc::new(credential)).build().unwrap()
}

/// Makes one request as an adapter would.
pub(crate) fn request(operation: &'static Operation, uri: &Uri, who: &(ConnectionId, TenantId)) -> Request<Bytes> {
    let keyed = matches!(operation.replay, Replay::Keyed(_));
    let mut request = Request::new(if keyed { Bytes::from_static(BODY) } else { Bytes::new() });
    *request.method_mut() = if keyed { Method::POST } else { Method::GET };
    *request.uri_mut() = uri.clone();
    if keyed {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(http::header::CONTENT_TYPE, form);
    }
    request.extensions_mut().insert(Call::new(operation, who.0.clone(), who.1.clone()));
    request
}

/// Sends `calls` calls one after another.
pub(crate) async fn send(transport: &Arc<dyn Transport>, operation: &'static Operation, calls: usize) {
    let uri: Uri = format!("https://{HOST}/v1/customers/cus_1").parse().unwrap();
    let who = (ConnectionId::new("con_1"), TenantId::new("ten_1"));
    for _ in 0..calls {
        let response = transport.send(request(operation, &uri, &who)).await.unwrap();
        assert_eq!(response.body().len(), 250);
    }
}

/// Opens a span around the call, with OpenTelemetry's names.
struct Spans;

#[async_trait]
impl Middleware for Spans {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut http::Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let span = tracing::info_span!(
            "http",
            http.request.method = %request.method(),
            server.address = request.url().host_str(),
            http.response.status_code = tracing::field::Empty,
        );
        next.run(request, extensions).instrument(span).await
    }
}

/// Asks a rate limiter before each attempt.
struct Limits(DefaultDirectRateLimiter);

#[async_trait]
impl Middleware for Limits {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut http::Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        if self.0.check().is_err() {
            return Err(reqwest_middleware::Error::middleware(std::io::Error::other("limited")));
        }
        next.run(request, extensions).await
    }
}

/// Answers from memory in the network's place.
struct Terminal(Bytes);

#[async_trait]
impl Middleware for Terminal {
    async fn handle(
        &self,
        _request: reqwest::Request,
        _extensions: &mut http::Extensions,
        _next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        Ok(answer(&self.0).map(reqwest::Body::from).into())
    }
}

/// Makes reqwest-middleware with a span, retries and a limit; over memory, or over the client's own network.
pub(crate) fn middleware(client: reqwest::Client, over_memory: bool) -> ClientWithMiddleware {
    let ample = NonZeroU32::new(100_000_000).unwrap();
    let built = ClientBuilder::new(client)
        .with(Spans)
        .with(RetryTransientMiddleware::new_with_policy(ExponentialBackoff::builder().build_with_max_retries(2)))
        .with(Limits(RateLimiter::direct(Quota::per_second(ample))));
    if over_memory { built.with(Terminal(answer_body())).build() } else { built.build() }
}

/// Makes one request of reqwest's as a user would: with the same address, headers and body as [`request`] has when it
/// leaves the pipeline, less what the pipeline alone adds.
pub(crate) fn reqwest_request(operation: &'static Operation, url: &str) -> reqwest::Request {
    let keyed = matches!(operation.replay, Replay::Keyed(_));
    let method = if keyed { Method::POST } else { Method::GET };
    let mut request = reqwest::Request::new(method, url.parse().unwrap());
    let token = HeaderValue::from_static("Bearer sk_test_4eC39HqLyjWDarjtT1zdp7dc");
    request.headers_mut().insert(http::header::AUTHORIZATION, token);
    if keyed {
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(http::header::CONTENT_TYPE, form);
        *request.body_mut() = Some(Bytes::from_static(BODY).into());
    }
    request
}

/// Sends `calls` calls one after another through reqwest-middleware over memory.
pub(crate) async fn send_middleware(client: &ClientWithMiddleware, operation: &'static Operation, calls: usize) {
    let url = format!("https://{HOST}/v1/customers/cus_1");
    for _ in 0..calls {
        let response = client.execute(reqwest_request(operation, &url)).await.unwrap();
        assert_eq!(response.bytes().await.unwrap().len(), 250);
    }
}

/// Names of the contenders over memory, as the counting program knows them.
pub(crate) const NAMES: &[&str] =
    &["bare-get", "bare-post", "palisade-get", "palisade-post", "middleware-get", "middleware-post"];

/// Makes what sends `calls` calls through the named contender.
pub(crate) fn sender(name: &str) -> impl Fn(usize) -> std::pin::Pin<Box<dyn Future<Output = ()>>> + use<> {
    let operation = if name.ends_with("post") { &WRITE } else { &READ };
    let memory: Arc<dyn Transport> = Arc::new(Memory::new());
    let transport: Arc<dyn Transport> =
        if name.starts_with("palisade") { Arc::new(client(&format!("https://{HOST}"), memory)) } else { memory };
    let over_middleware = name.starts_with("middleware").then(|| middleware(reqwest::Client::new(), true));
    move |calls| {
        let transport = Arc::clone(&transport);
        let over_middleware = over_middleware.clone();
        Box::pin(async move {
            match &over_middleware {
                Some(client) => send_middleware(client, operation, calls).await,
                None => send(&transport, operation, calls).await,
            }
        })
    }
}

//! slack-morphism's connector over our transport: every request of its API becomes one call of the pipeline.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response};
use palisade_core::call::{Call, Priority};
use palisade_core::client::Verdict;
use palisade_core::webhook::hmac;
use palisade_core::{ConnectionId, Error, ErrorKind, Operation, Outcome, Replay, Result, TenantId, Transport};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use slack_morphism::errors::{SlackClientError, SlackClientSystemError};
use slack_morphism::multipart_form::FileMultipartData;
use slack_morphism::{
    ClientResult, SlackClientApiCallContext, SlackClientHttpConnector, SlackClientId, SlackClientSecret,
};
use url::Url;

use super::{BASE_URL, FORM, HistoryRule, form, multipart};
use crate::error::{REQUEST_ID, judge, short};
use crate::operation::{HOOK, OTHER, UPLOAD, speaks_json};

const JSON: &str = "application/json; charset=utf-8";
/// What stands before the name of a method.
const API: &str = "/api/";

/// Sends slack-morphism's requests. The token of its session is not used: the pipeline adds the connection's.
#[derive(Clone)]
pub struct Connector {
    transport: Arc<dyn Transport>,
    pub(super) base_url: Arc<str>,
    connection: ConnectionId,
    tenant: TenantId,
    pub(super) priority: Priority,
    pub(super) history: HistoryRule,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slack")
            .field("base_url", &self.base_url)
            .field("connection", &self.connection)
            .field("history", &self.history)
            .finish_non_exhaustive()
    }
}

/// A request's body.
struct Content {
    kind: HeaderValue,
    body: Bytes,
}

impl Content {
    fn new(kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self { kind: HeaderValue::from_static(kind), body: body.into() }
    }
}

impl Connector {
    pub(super) fn new(transport: Arc<dyn Transport>, connection: ConnectionId, tenant: TenantId) -> Self {
        let (priority, history) = (Priority::Interactive, HistoryRule::Full);
        Self { transport, base_url: BASE_URL.into(), connection, tenant, priority, history }
    }

    /// Calls a method with a JSON body.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        arguments: &(impl Serialize + Sync),
    ) -> Result<T> {
        let request = json_of(arguments).and_then(|body| self.method_request(method, Content::new(JSON, body)))?;
        self.send(request).await
    }

    /// Calls a method with a form.
    pub(super) async fn ask<T: DeserializeOwned>(&self, method: &str, arguments: &[(&str, Option<&str>)]) -> Result<T> {
        let request = self.method_request(method, Content::new(FORM, form(arguments)))?;
        self.send(request).await
    }

    /// Posts a message to a `response_url` or an incoming webhook.
    pub(super) async fn post_to_hook(&self, url: &str, message: &impl Serialize) -> Result<()> {
        let url = Url::parse(url).map_err(|_| invalid("the response URL is not a URL"))?;
        let request = json_of(message).and_then(|body| self.request(&url, Content::new(JSON, body), &HOOK))?;
        self.send::<Nothing>(request).await.map(|_| ())
    }

    fn method_request(&self, method: &str, content: Content) -> Result<Request<Bytes>> {
        let plain = !method.is_empty() && method.bytes().all(|c| c.is_ascii_alphanumeric() || b"._".contains(&c));
        if !plain {
            return Err(invalid("this is not the name of a method"));
        }
        let url = Url::parse(&format!("{}{API}{method}", self.base_url)).map_err(|_| invalid("this is no URL"))?;
        self.request(&url, content, &HOOK)
    }

    /// Makes the request to an address: a method's, or one that Slack gave.
    fn request(&self, url: &Url, content: Content, foreign: &'static Operation) -> Result<Request<Bytes>> {
        let method = self.method_of(url);
        let operation = method.map_or(foreign, |method| self.history.operation(method));
        let mut call = Call::new(operation, self.connection.clone(), self.tenant.clone());
        call.priority = self.priority;
        call.lane = match method {
            Some("chat.postMessage") => Some(channel_of(&content.body)),
            Some(method) if std::ptr::eq(operation, &OTHER) => Some(method.into()),
            Some(_) => None,
            None => Some(address_of(url)),
        };
        let mut request = Request::post(url.as_str())
            .header(CONTENT_TYPE, content.kind)
            .body(content.body)
            .map_err(|_| invalid("this is no URL"))?;
        request.extensions_mut().insert(call);
        Ok(request)
    }

    /// Returns the method an address is of.
    fn method_of<'a>(&self, url: &'a Url) -> Option<&'a str> {
        let rest = url.as_str().strip_prefix(&*self.base_url)?.strip_prefix(API)?;
        Some(rest.split(['?', '#']).next().unwrap_or(rest))
    }

    async fn send<T: DeserializeOwned>(&self, request: Request<Bytes>) -> Result<T> {
        let operation = request.extensions().get::<Call>().map_or(&OTHER, |call| call.operation);
        let sent = self.transport.send(request).await;
        read(operation, &sent.map_err(|error| error.during("slack", operation.name))?)
    }

    fn send_theirs<'a, T>(&'a self, request: Result<Request<Bytes>>) -> BoxFuture<'a, ClientResult<T>>
    where
        T: for<'de> Deserialize<'de> + Send + 'a,
    {
        match request {
            Ok(request) => async move { self.send(request).await.map_err(theirs) }.boxed(),
            Err(error) => ready(Err(theirs(error))).boxed(),
        }
    }
}

/// An answer nothing is read of.
#[derive(Deserialize)]
struct Nothing {}

fn invalid(why: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, why).during("slack", "call")
}

fn json_of(arguments: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(arguments).map_err(|_| invalid("the arguments cannot be written as JSON"))
}

/// Returns where a message goes, which is what its limit is counted by.
fn channel_of(body: &[u8]) -> Arc<str> {
    #[derive(Deserialize)]
    struct Message {
        channel: String,
    }
    serde_json::from_slice(body).map_or_else(|_| "".into(), |message: Message| message.channel.into())
}

/// Returns what tells one such address from another without telling it: whoever knows it may write there.
fn address_of(url: &Url) -> Arc<str> {
    let code = hmac::sha256(b"slack address", &[url.path().as_bytes()]);
    hmac::to_lower_hex(code.first_chunk::<8>().unwrap_or(&[0; 8])).into()
}

/// Reads an answer the pipeline calls a success. Over a bare transport nobody has looked at `ok` yet.
fn read<T: DeserializeOwned>(operation: &'static Operation, response: &Response<Bytes>) -> Result<T> {
    match judge(operation, response) {
        Verdict::Success => {}
        Verdict::Unauthorized(error) | Verdict::Throttled { error, .. } | Verdict::Failed { error, .. } => {
            return Err(error.during("slack", operation.name));
        }
    }
    // These answer `ok` or `OK - 23` where the library's types expect an object without fields.
    let body = if speaks_json(operation) { response.body() } else { b"{}".as_slice() };
    serde_json::from_slice(body).map_err(|_| unreadable(operation, response))
}

/// The error of an answer that came and does not fit: what was asked for has happened.
fn unreadable(operation: &'static Operation, response: &Response<Bytes>) -> Error {
    let outcome = if operation.replay == Replay::Safe { Outcome::Rejected } else { Outcome::Processed };
    let error = Error::new(ErrorKind::Decode, "the answer does not have the shape this method's should have")
        .during("slack", operation.name)
        .with_status(response.status().as_u16())
        .with_outcome(outcome);
    match response.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).and_then(short) {
        Some(id) => error.with_request_id(id),
        None => error,
    }
}

/// Puts our error into slack-morphism's; [`crate::error::of`] takes it out again.
fn theirs(error: Error) -> SlackClientError {
    SlackClientError::SystemError(SlackClientSystemError::new().with_cause(Box::new(error)))
}

impl SlackClientHttpConnector for Connector {
    fn create_method_uri_path(&self, method: &str) -> ClientResult<Url> {
        Ok(Url::parse(&format!("{}{API}{method}", self.base_url))?)
    }

    fn http_get_uri<'a, RS>(&'a self, uri: Url, _: SlackClientApiCallContext<'a>) -> BoxFuture<'a, ClientResult<RS>>
    where
        RS: for<'de> Deserialize<'de> + Send + 'a,
    {
        let arguments = uri.query().unwrap_or_default().to_owned();
        let mut address = uri;
        address.set_query(None);
        self.send_theirs(self.request(&address, Content::new(FORM, arguments), &HOOK))
    }

    /// Refuses: installing an app is the connect flow's, which keeps the secret and stores what comes back.
    fn http_get_with_client_secret<'a, RS>(
        &'a self,
        _: Url,
        _: &'a SlackClientId,
        _: &'a SlackClientSecret,
    ) -> BoxFuture<'a, ClientResult<RS>>
    where
        RS: for<'de> Deserialize<'de> + Send + 'a,
    {
        let why = "an installation is finished by the connect flow, not by a call";
        self.send_theirs(Err(Error::new(ErrorKind::Config, why).during("slack", "oauth.v2.access")))
    }

    fn http_post_uri<'a, RQ, RS>(
        &'a self,
        uri: Url,
        body: &'a RQ,
        _: SlackClientApiCallContext<'a>,
    ) -> BoxFuture<'a, ClientResult<RS>>
    where
        RQ: Serialize + Send + Sync,
        RS: for<'de> Deserialize<'de> + Send + 'a,
    {
        self.send_theirs(json_of(body).and_then(|body| self.request(&uri, Content::new(JSON, body), &HOOK)))
    }

    fn http_post_uri_multipart_form<'a, 'p, RS, PT, TS>(
        &'a self,
        uri: Url,
        file: Option<FileMultipartData<'p>>,
        params: &'p PT,
        _: SlackClientApiCallContext<'a>,
    ) -> BoxFuture<'a, ClientResult<RS>>
    where
        RS: for<'de> Deserialize<'de> + Send + 'a,
        PT: IntoIterator<Item = (&'p str, Option<TS>)> + Clone,
        TS: AsRef<str> + 'p + Send,
    {
        let fields = params.clone().into_iter().filter_map(|(name, value)| Some((name, value?.as_ref().to_owned())));
        let (kind, body) = multipart::write(&fields.collect::<Vec<_>>(), file.as_ref());
        let kind = HeaderValue::from_str(&kind).map_err(|_| invalid("the form's boundary is no header"));
        self.send_theirs(kind.and_then(|kind| self.request(&uri, Content { kind, body: body.into() }, &UPLOAD)))
    }

    fn http_post_uri_binary<'a, 'p, RS>(
        &'a self,
        uri: Url,
        content_type: String,
        data: &'a [u8],
        _: SlackClientApiCallContext<'a>,
    ) -> BoxFuture<'a, ClientResult<RS>>
    where
        RS: for<'de> Deserialize<'de> + Send + 'a,
    {
        let kind = HeaderValue::from_str(&content_type).map_err(|_| invalid("the content type is no header"));
        let body = Bytes::copy_from_slice(data);
        self.send_theirs(kind.and_then(|kind| self.request(&uri, Content { kind, body }, &UPLOAD)))
    }
}

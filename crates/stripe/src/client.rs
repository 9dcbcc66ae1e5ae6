//! The typed client: async-stripe's requests over our transport, and the handful of calls most people want.
//!
//! Any request of any `async-stripe-*` crate runs over it (`ListProduct::new().send(&stripe)`), with the pipeline's
//! limits, repeats, breaker and spans: [`Stripe`] is async-stripe's `StripeClient`. Of its request strategy only an
//! idempotency key counts, because repeating is the pipeline's business.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response};
use palisade_core::call::{Call, Priority};
use palisade_core::{ConnectionId, Error, ErrorKind, Operation, Outcome, Replay, Result, TenantId, Transport};
use stripe_client_core::{
    CustomizedStripeRequest, RequestBuilder, RequestStrategy, StripeClient, StripeClientErr, StripeMethod,
    StripeRequest,
};
use tokio::time::Instant;

use crate::error::{REQUEST_ID, short};
use crate::operation;

mod calls;
mod lists;
mod new;
mod thin;

pub use calls::{CheckoutSession, Confirmation, Refund, StartedSubscription, SubscriptionState};
pub use new::{NewCheckout, NewCustomer, NewRefund, NewSubscription, RefundReason};

/// The API version the generated types were made from.
pub const API_VERSION: &str = "2026-09-30.endive";
/// Stripe's production address.
pub const BASE_URL: &str = "https://api.stripe.com";
pub(crate) const VERSION_HEADER: &str = "stripe-version";
pub(crate) const ACCOUNT_HEADER: &str = "stripe-account";
/// Names the account in v2; refused beside [`ACCOUNT_HEADER`].
pub(crate) const CONTEXT_HEADER: &str = "stripe-context";
/// Names the event that is why a call is made, as the official SDKs do.
const TRIGGER_HEADER: &str = "stripe-request-trigger";
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
/// Stripe refuses longer keys (Stripe API reference, idempotent requests).
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// Stripe for one connection. Cheap to clone.
#[derive(Clone)]
pub struct Stripe {
    transport: Arc<dyn Transport>,
    base_url: Arc<str>,
    connection: ConnectionId,
    tenant: TenantId,
    account: Option<HeaderValue>,
    api_version: HeaderValue,
    priority: Priority,
}

impl fmt::Debug for Stripe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stripe")
            .field("base_url", &self.base_url)
            .field("connection", &self.connection)
            .field("account", &self.account)
            .field("api_version", &self.api_version)
            .finish_non_exhaustive()
    }
}

impl Stripe {
    /// Makes the client of a connection over a transport, normally a [`palisade_core::Client`], which adds the
    /// connection's key. Speaks to [`BASE_URL`] in [`API_VERSION`] for the key's own account.
    #[must_use]
    pub fn new(
        transport: Arc<dyn Transport>,
        connection: impl Into<ConnectionId>,
        tenant: impl Into<TenantId>,
    ) -> Self {
        Self {
            transport,
            base_url: BASE_URL.into(),
            connection: connection.into(),
            tenant: tenant.into(),
            account: None,
            api_version: HeaderValue::from_static(API_VERSION),
            priority: Priority::Interactive,
        }
    }

    /// Speaks to another address: an emulator, a recording proxy.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is not an absolute URL without query.
    pub fn at(mut self, base_url: &str) -> Result<Self> {
        let trimmed = base_url.trim_end_matches('/');
        let uri: Option<http::Uri> = trimmed.parse().ok();
        if uri.is_none_or(|uri| uri.scheme().is_none() || uri.authority().is_none() || uri.query().is_some()) {
            return Err(Error::new(ErrorKind::Config, "the base URL is not a URL such as https://api.stripe.com"));
        }
        self.base_url = trimmed.into();
        Ok(self)
    }

    /// Acts for a connected account (`Stripe-Account`).
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the id cannot stand in a header.
    pub fn for_account(mut self, account: &str) -> Result<Self> {
        let value = HeaderValue::from_str(account);
        let value = value.map_err(|_| Error::new(ErrorKind::Config, "the account id cannot stand in a header"))?;
        self.account = Some(value);
        Ok(self)
    }

    /// Speaks another API version than [`API_VERSION`]. The methods of this type understand every version since 2022;
    /// the lists, [`Stripe::send`] and async-stripe's own requests parse with generated types and need theirs.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the text cannot be a version.
    pub fn speaking(mut self, api_version: &str) -> Result<Self> {
        self.api_version = version_header(api_version)?;
        Ok(self)
    }

    /// Marks this client's calls as background work, behind those a person waits for.
    #[must_use]
    pub fn in_background(mut self) -> Self {
        self.priority = Priority::Background;
        self
    }

    /// Returns the API version spoken.
    #[must_use]
    pub fn api_version(&self) -> &str {
        self.api_version.to_str().unwrap_or_default()
    }

    /// Sends any request of an async-stripe crate, with an idempotency key of the caller's if given.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::Decode`] with [`Outcome::Processed`] when Stripe acted and the answer does not
    /// fit the generated type.
    pub async fn send<R>(&self, request: &R, idempotency_key: Option<&str>) -> Result<R::Output>
    where
        R: StripeRequest + Sync,
        R::Output: miniserde::Deserialize,
    {
        let answer = self.call(request.build(), idempotency_key).await?;
        let text = std::str::from_utf8(&answer.body).map_err(|_| answer.unreadable())?;
        miniserde::json::from_str(text).map_err(|_| answer.unreadable())
    }

    /// Sends a request and parses the few fields of `T` from the answer's JSON, in whatever version it is.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        request: RequestBuilder,
        idempotency_key: Option<&str>,
    ) -> Result<T> {
        let answer = self.call(request, idempotency_key).await?;
        serde_json::from_slice(&answer.body).map_err(|_| answer.unreadable())
    }

    async fn call(&self, request: RequestBuilder, idempotency_key: Option<&str>) -> Result<Answer> {
        let idempotency_key = idempotency_key.map(checked_key).transpose()?;
        let overrides = Overrides { idempotency_key, ..Overrides::default() };
        self.execute_pieces(request, overrides).await
    }

    async fn execute_pieces(&self, request: RequestBuilder, overrides: Overrides) -> Result<Answer> {
        let operation = operation::find(request.method, &format!("{}{}", overrides.api.prefix(), request.path));
        let request = self.http_request(operation, request, overrides)?;
        let response = self.transport.send(request).await.map_err(|error| error.during("stripe", operation.name))?;
        Ok(Answer::of(operation, response))
    }

    fn http_request(
        &self,
        operation: &'static Operation,
        request: RequestBuilder,
        overrides: Overrides,
    ) -> Result<Request<Bytes>> {
        let refuse = |why: &'static str| Error::new(ErrorKind::Invalid, why).during("stripe", operation.name);
        // The generated requests put ids into the path as they are; an id with a slash would name another endpoint.
        let plain = request.path.split('/').skip(1).all(|part| {
            !part.is_empty()
                && !matches!(part, "." | "..")
                && part.bytes().all(|c| c.is_ascii_graphic() && !b"?#\\".contains(&c))
        });
        if !request.path.starts_with('/') || !plain {
            return Err(refuse("an id in the path is empty or holds a character no id of Stripe's has"));
        }
        let query =
            request.query.filter(|query| !query.is_empty()).map_or_else(String::new, |query| format!("?{query}"));
        let method = match request.method {
            StripeMethod::Get => Method::GET,
            StripeMethod::Post => Method::POST,
            StripeMethod::Delete => Method::DELETE,
        };
        let body = request.body.map_or_else(Bytes::new, Bytes::from);
        let has_body = !body.is_empty();
        let mut http = Request::builder()
            .method(&method)
            .uri(format!("{}{}{}{query}", self.base_url, overrides.api.prefix(), request.path))
            .body(body)
            .map_err(|_| refuse("the parameters do not make a URL"))?;
        let headers = http.headers_mut();
        headers.insert(HeaderName::from_static(VERSION_HEADER), self.api_version.clone());
        if method == Method::POST || has_body {
            headers.insert(CONTENT_TYPE, FORM);
        }
        let value = |text: String| {
            HeaderValue::from_str(&text).map_err(|_| refuse("the account or event id cannot stand in a header"))
        };
        let account = overrides.account.map(value).transpose()?.or_else(|| self.account.clone());
        if let Some(context) = overrides.context.map(value).transpose()? {
            headers.insert(HeaderName::from_static(CONTEXT_HEADER), context);
        } else if let Some(account) = account {
            let name = if overrides.api == Api::V2 { CONTEXT_HEADER } else { ACCOUNT_HEADER };
            headers.insert(HeaderName::from_static(name), account);
        }
        if let Some(trigger) = overrides.trigger.map(value).transpose()? {
            headers.insert(HeaderName::from_static(TRIGGER_HEADER), trigger);
        }
        let mut call = Call::new(operation, self.connection.clone(), self.tenant.clone());
        call.priority = self.priority;
        if let (Replay::Keyed(_), Some(key)) = (operation.replay, overrides.idempotency_key) {
            call.idempotency_key = Some(key.into());
        }
        if let Some(timeout) = overrides.timeout {
            call.deadline = Instant::now().checked_add(timeout.min(DEADLINE_MAX));
        }
        http.extensions_mut().insert(call);
        Ok(http)
    }
}

/// Longer deadlines are cut by the operation's own, and tokio's clock cannot hold every [`Duration`].
const DEADLINE_MAX: Duration = Duration::from_secs(86_400);

/// Checks an API version: a date, with a train's name since 2024.
pub(crate) fn version_header(text: &str) -> Result<HeaderValue> {
    let date = text.split_once('.').map_or(text, |(date, _)| date);
    let looks_like_one = date.len() == 10
        && date.bytes().enumerate().all(|(at, c)| if matches!(at, 4 | 7) { c == b'-' } else { c.is_ascii_digit() });
    HeaderValue::from_str(text).ok().filter(|_| looks_like_one).ok_or_else(|| {
        Error::new(ErrorKind::Config, "the Stripe API version is not one such as 2026-09-30.endive or 2022-11-15")
    })
}

fn checked_key(key: &str) -> Result<String> {
    let plain = key.bytes().all(|c| c.is_ascii_graphic() || c == b' ');
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX || !plain {
        return Err(Error::new(ErrorKind::Invalid, "an idempotency key is 1 to 255 printable ASCII characters"));
    }
    Ok(key.to_owned())
}

/// A part of Stripe's API with rules of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Api {
    #[default]
    V1,
    V2,
}

impl Api {
    fn prefix(self) -> &'static str {
        match self {
            Self::V1 => "/v1",
            Self::V2 => "/v2",
        }
    }
}

/// What one call has of its own.
#[derive(Default)]
struct Overrides {
    api: Api,
    account: Option<String>,
    /// Whose it is in the words of v2, in place of the account.
    context: Option<String>,
    /// Why it is made.
    trigger: Option<String>,
    idempotency_key: Option<String>,
    timeout: Option<Duration>,
}

/// A successful answer with what an error about it would have to name.
struct Answer {
    body: Bytes,
    context: Context,
}

/// What a decode error names.
#[derive(Clone)]
struct Context {
    operation: &'static Operation,
    status: u16,
    request_id: Option<String>,
}

impl Answer {
    fn of(operation: &'static Operation, response: Response<Bytes>) -> Self {
        let request_id = response.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()).and_then(short);
        let status = response.status().as_u16();
        Self { body: response.into_body(), context: Context { operation, status, request_id } }
    }

    fn unreadable(&self) -> Error {
        self.context.unreadable()
    }
}

impl Context {
    /// The error of an answer that came and does not fit: a write has happened.
    fn unreadable(&self) -> Error {
        let outcome = if self.operation.replay == Replay::Safe { Outcome::Rejected } else { Outcome::Processed };
        let error = Error::new(ErrorKind::Decode, "the answer does not have the shape this API version should have")
            .during("stripe", self.operation.name)
            .with_status(self.status)
            .with_outcome(outcome);
        match &self.request_id {
            Some(id) => error.with_request_id(id.clone()),
            None => error,
        }
    }
}

/// An error as async-stripe wants it: its own traits, our [`Error`] inside.
#[derive(Debug)]
pub struct Failure(Error);

impl Failure {
    /// Returns the error.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.0
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}

thread_local! {
    /// What the answer just returned by `execute` was. async-stripe parses it in the same poll, on the same thread,
    /// and reports a failure through a function that is given nothing but a fixed text; this is the only way to name
    /// the operation and Stripe's request id in that error. Every `execute` overwrites it before it returns.
    static LAST: RefCell<Option<Context>> = const { RefCell::new(None) };
}

impl StripeClientErr for Failure {
    fn deserialize_err(_: impl fmt::Display) -> Self {
        match LAST.take() {
            Some(context) => Self(context.unreadable()),
            None => Self(Error::new(ErrorKind::Decode, "the answer could not be read")),
        }
    }
}

impl StripeClient for Stripe {
    type Err = Failure;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, Failure> {
        let (request, given) = request.into_pieces();
        let idempotency_key = match given.request_strategy {
            Some(RequestStrategy::Idempotent(key)) => Some(checked_key(key.as_str())?),
            Some(RequestStrategy::Once | RequestStrategy::Retry(_) | RequestStrategy::ExponentialBackoff(_)) | None => {
                None
            }
        };
        let account = given.account_id.map(|account| account.as_str().to_owned());
        let overrides = Overrides { account, idempotency_key, timeout: given.timeout, ..Overrides::default() };
        let answer = self.execute_pieces(request, overrides).await?;
        LAST.set(Some(answer.context));
        Ok(answer.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_version_is_that_of_the_generated_types() {
        assert_eq!(API_VERSION, stripe_client_core::VERSION.as_str());
    }

    #[test]
    fn versions_are_dates() {
        for good in ["2022-11-15", "2025-03-31.basil", API_VERSION] {
            assert!(version_header(good).is_ok(), "{good}");
        }
        for bad in ["", "latest", "2022-11-1", "2022/11/15", "2022-11-15.\n", "é022-11-15"] {
            assert!(version_header(bad).is_err(), "{bad}");
        }
    }
}

//! Requests to an authorisation server over our own transport, and what their failures mean.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use oauth2::basic::{
    BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenResponse,
};
use oauth2::url::{Url, form_urlencoded};
use oauth2::{
    AsyncHttpClient, AuthType, AuthorizationCode, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest,
    HttpResponse, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope, StandardRevocableToken,
    TokenUrl,
};
use serde_json::Value;
use zeroize::Zeroizing;

use super::reply::{Asked, Reply, lenient};
use super::{ClientAuth, Dialect, OAuth2Config, ScopeJoint};
use crate::auth::flow::RenewalFailure;
use crate::client::retry_after;
use crate::clock::{ManualClock, Timestamp};
use crate::error::{Error, ErrorKind, Outcome};
use crate::secret::Secret;
use crate::transport::Transport;

/// The largest answer read, in bytes: tokens, never a document.
const BODY_BYTES_MAX: usize = 256 << 10;
/// The longest code of a failure that is kept.
const CODE_CHARS_MAX: usize = 64;

type Client = oauth2::Client<
    BasicErrorResponse,
    BasicTokenResponse,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// Why a token endpoint gave no tokens.
#[derive(Debug)]
pub(crate) enum TokenError {
    /// It answered with a failure.
    Refused(Refusal),
    /// No answer came; the error's outcome tells whether the request may have arrived.
    Unanswered(Error),
    /// It said yes, and what it gave cannot be read.
    Unreadable,
}

/// A failure an authorisation server answered with.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The code of RFC 6749, if there was one.
    pub(crate) error: Option<String>,
    /// The provider's own code.
    pub(crate) code: Option<String>,
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// Whether the server says that it is its own passing trouble. No code kills a grant on a status of 500 or more.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500..=599)
            || matches!(
                self.error.as_deref(),
                Some("temporarily_unavailable" | "server_error" | "internal_failure" | "slow_down")
            )
    }

    pub(crate) fn is_invalid_grant(&self) -> bool {
        !self.is_passing() && self.error.as_deref() == Some("invalid_grant")
    }

    pub(crate) fn into_error(self) -> Error {
        let (kind, message) = if self.status == 429 {
            (ErrorKind::Throttled, "the provider's token endpoint asks to wait")
        } else if self.is_passing() {
            (ErrorKind::Provider, "the provider's token endpoint failed")
        } else if self.is_invalid_grant() {
            (ErrorKind::Auth, "the provider no longer accepts the grant: reconnect")
        } else {
            (ErrorKind::Config, "the provider refused our client or its settings")
        };
        let error = Error::new(kind, message)
            .with_status(self.status)
            .with_outcome(Outcome::Rejected)
            .with_retry_after(self.retry_after);
        match self.code.or(self.error) {
            Some(code) => error.with_code(code),
            None => error,
        }
    }
}

impl TokenError {
    /// Says what it means for a grant that was to be renewed.
    pub(crate) fn into_failure(self) -> RenewalFailure {
        match self {
            Self::Refused(refusal) if refusal.is_passing() => {
                let after = refusal.retry_after;
                RenewalFailure::Passing { error: refusal.into_error(), after }
            }
            Self::Refused(refusal) if refusal.is_invalid_grant() => RenewalFailure::Over(refusal.into_error()),
            Self::Refused(refusal) => RenewalFailure::Wrong(refusal.into_error()),
            Self::Unanswered(error) => match error.outcome() {
                Outcome::NotSent | Outcome::Rejected => {
                    let after = error.retry_after();
                    RenewalFailure::Passing { error, after }
                }
                Outcome::Unknown | Outcome::Processed => RenewalFailure::Lost(error),
            },
            Self::Unreadable => RenewalFailure::Lost(unreadable()),
        }
    }
}

fn unreadable() -> Error {
    Error::new(ErrorKind::Decode, "the provider's token answer cannot be read").with_outcome(Outcome::Processed)
}

/// A token endpoint with the client's own credentials.
#[derive(Clone)]
pub(crate) struct Endpoint {
    client: Client,
    extra: Arc<[(String, String)]>,
    timeout: Duration,
    auth: ClientAuth,
    client_id: String,
    client_secret: Option<Secret>,
    joint: ScopeJoint,
    dialect: Arc<dyn Dialect>,
    transport: Arc<dyn Transport>,
}

type Answered = Result<Value, TokenError>;

impl Endpoint {
    pub(crate) fn new(config: &OAuth2Config, token_url: Url, transport: Arc<dyn Transport>) -> Self {
        Self {
            client: client(&config.client_id, config.client_secret.as_ref(), &config.client_auth, token_url),
            extra: config.token_params.clone().into(),
            timeout: config.policy.timeout,
            auth: config.client_auth.clone(),
            client_id: config.client_id.clone(),
            client_secret: config.client_secret.clone(),
            joint: config.scope_joint,
            dialect: Arc::clone(&config.dialect),
            transport,
        }
    }

    /// An endpoint that takes assertions: who asks stands in them.
    pub(crate) fn anonymous(token_url: Url, timeout: Duration, transport: Arc<dyn Transport>) -> Self {
        Self {
            client: client("", None, &ClientAuth::Body, token_url),
            extra: Arc::new([]),
            timeout,
            auth: ClientAuth::Body,
            client_id: String::new(),
            client_secret: None,
            joint: ScopeJoint::Space,
            dialect: Arc::new(super::Standard),
            transport,
        }
    }

    pub(super) async fn trade_code(&self, code: Secret, verifier: Option<Secret>, redirect: Option<&Url>) -> Answered {
        let wire = self.wire(Asked::Code);
        let mut request = self.client.exchange_code(AuthorizationCode::new(code.expose().to_owned()));
        for (name, value) in self.extra.iter() {
            request = request.add_extra_param(name, value);
        }
        if let Some(verifier) = verifier {
            request = request.set_pkce_verifier(PkceCodeVerifier::new(verifier.expose().to_owned()));
        }
        if let Some(redirect) = redirect {
            request = request.set_redirect_uri(Cow::Owned(RedirectUrl::from_url(redirect.clone())));
        }
        let answer = request.request_async(&wire).await;
        wire.read(answer)
    }

    pub(super) async fn refresh(&self, token: Secret) -> Answered {
        let wire = self.wire(Asked::Refresh);
        let token = RefreshToken::new(token.expose().to_owned());
        let mut request = self.client.exchange_refresh_token(&token);
        for (name, value) in self.extra.iter() {
            request = request.add_extra_param(name, value);
        }
        let answer = request.request_async(&wire).await;
        wire.read(answer)
    }

    pub(super) async fn client_credentials(&self, client: Option<(String, Secret)>, scope: Option<String>) -> Answered {
        let wire = self.wire(Asked::Credentials);
        let of_grant = client.map(|(id, secret)| self::client(&id, Some(&secret), &self.auth, self.token_url()));
        let client = of_grant.as_ref().unwrap_or(&self.client);
        let mut request = client.exchange_client_credentials();
        for (name, value) in self.extra.iter() {
            request = request.add_extra_param(name, value);
        }
        if let Some(scope) = scope {
            request = request.add_scope(Scope::new(scope));
        }
        let answer = request.request_async(&wire).await;
        wire.read(answer)
    }

    pub(super) async fn exchange(&self, url: &str, long_lived: &Secret) -> Answered {
        let mut form = vec![("client_id", self.client_id.as_str())];
        if let Some(secret) = &self.client_secret {
            form.push(("client_secret", secret.expose()));
        }
        self.post(Asked::Exchange, url, &form, Some(bearer(long_lived)?)).await?.into_body()
    }

    /// Posts a form and brings the answer into the form of RFC 6749, whatever its status.
    pub(crate) async fn post(
        &self,
        asked: Asked,
        url: &str,
        form: &[(&str, &str)],
        authorization: Option<HeaderValue>,
    ) -> Result<Normal, TokenError> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.parse().map_err(|_| unsendable("the address of the flow cannot be used"))?;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization);
        }
        self.send(asked, request).await
    }

    /// Posts a form with the client's own authentication.
    pub(super) async fn post_as_client(
        &self,
        asked: Asked,
        url: &str,
        form: &[(&str, &str)],
    ) -> Result<Normal, TokenError> {
        let mut form = form.to_vec();
        let authorization = match (&self.auth, &self.client_secret) {
            (ClientAuth::Basic, Some(secret)) => Some(basic(&self.client_id, secret)?),
            (ClientAuth::Bearer(key), _) => {
                form.push(("client_id", &self.client_id));
                Some(bearer(key)?)
            }
            (ClientAuth::Body, Some(secret)) => {
                form.extend([("client_id", self.client_id.as_str()), ("client_secret", secret.expose())]);
                None
            }
            (ClientAuth::Basic | ClientAuth::Body, None) => {
                form.push(("client_id", &self.client_id));
                None
            }
        };
        self.post(asked, url, &form, authorization).await
    }

    pub(crate) fn token_url(&self) -> Url {
        self.client.token_uri().url().clone()
    }

    fn wire(&self, asked: Asked) -> Wire<'_> {
        Wire { endpoint: self, asked, seen: Mutex::default() }
    }

    /// Sends once, within the flow's time.
    async fn send(&self, asked: Asked, request: Request<Bytes>) -> Result<Normal, TokenError> {
        let sent = tokio::time::timeout(self.timeout, self.transport.send(request)).await;
        let response = match sent {
            Ok(answer) => answer.map_err(TokenError::Unanswered)?,
            Err(_) => {
                let error = Error::new(ErrorKind::Timeout, "the token endpoint did not answer in time");
                return Err(TokenError::Unanswered(error.with_outcome(Outcome::Unknown)));
            }
        };
        if response.body().len() > BODY_BYTES_MAX {
            return Err(TokenError::Unreadable);
        }
        // A date without the answer's own is no hint: no clock is asked here.
        let retry_after = retry_after(response.headers(), &ManualClock::starting_at(Timestamp(i64::MAX)));
        let body = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
        let reply = Reply { status: response.status().as_u16(), body, code: None };
        let mut reply = self.dialect.normalise(asked, reply);
        lenient(&mut reply.body, self.joint);
        Ok(Normal { reply, retry_after })
    }
}

/// An answer in the form of RFC 6749.
#[derive(Debug)]
pub(crate) struct Normal {
    pub(crate) reply: Reply,
    pub(crate) retry_after: Option<Duration>,
}

impl Normal {
    /// Returns the body of a success.
    pub(crate) fn into_body(self) -> Answered {
        if (200..=299).contains(&self.reply.status) && self.reply.error().is_none() {
            return if self.reply.body.is_object() { Ok(self.reply.body) } else { Err(TokenError::Unreadable) };
        }
        Err(TokenError::Refused(self.into_refusal()))
    }

    pub(crate) fn into_refusal(self) -> Refusal {
        let error = self.reply.error().and_then(code);
        let code = self.reply.code.as_deref().and_then(code);
        Refusal { status: self.reply.status, error, code, retry_after: self.retry_after }
    }
}

/// Keeps a code as it may stand in a log: of the characters of RFC 6749, section 5.2, and short.
fn code(text: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    (!text.is_empty() && text.chars().count() <= CODE_CHARS_MAX && text.chars().all(plain)).then(|| text.to_owned())
}

fn client(id: &str, secret: Option<&Secret>, auth: &ClientAuth, token_url: Url) -> Client {
    let client = oauth2::Client::new(ClientId::new(id.to_owned())).set_token_uri(TokenUrl::from_url(token_url));
    let client = client.set_auth_type(match auth {
        ClientAuth::Basic => AuthType::BasicAuth,
        ClientAuth::Body | ClientAuth::Bearer(_) => AuthType::RequestBody,
    });
    match (auth, secret) {
        (ClientAuth::Basic | ClientAuth::Body, Some(secret)) => {
            client.set_client_secret(ClientSecret::new(secret.expose().to_owned()))
        }
        (ClientAuth::Bearer(_), _) | (_, None) => client,
    }
}

fn unsendable(why: &'static str) -> TokenError {
    TokenError::Unanswered(Error::new(ErrorKind::Config, why).with_outcome(Outcome::NotSent))
}

fn sensitive(text: &str) -> Result<HeaderValue, TokenError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| unsendable("a secret of the flow holds a character that cannot stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

pub(super) fn bearer(token: &Secret) -> Result<HeaderValue, TokenError> {
    sensitive(&Zeroizing::new(format!("Bearer {}", token.expose())))
}

/// RFC 6749, 2.3.1: both parts form-encoded before they are joined.
fn basic(id: &str, secret: &Secret) -> Result<HeaderValue, TokenError> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", encode(id), encode(secret.expose())));
    sensitive(&Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes()))))
}

// ------------------------------------------------------------------------------------------ the oauth2 crate's side

/// One request of the `oauth2` crate, and the answer as it was seen: the crate's own errors may hold tokens in plain
/// and are never kept.
struct Wire<'e> {
    endpoint: &'e Endpoint,
    asked: Asked,
    seen: Mutex<Option<Result<Normal, TokenError>>>,
}

/// Stands in for the error that was seen.
#[derive(Debug)]
struct Unanswered;

impl std::fmt::Display for Unanswered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no answer")
    }
}

impl std::error::Error for Unanswered {}

impl<'c> AsyncHttpClient<'c> for Wire<'_> {
    type Error = Unanswered;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Unanswered>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let mut request = request.map(Bytes::from);
            let authorization = match &self.endpoint.auth {
                ClientAuth::Bearer(key) => Some(bearer(key)),
                ClientAuth::Basic | ClientAuth::Body => None,
            };
            let sent = match authorization.transpose() {
                Ok(authorization) => {
                    if let Some(authorization) = authorization {
                        request.headers_mut().insert(AUTHORIZATION, authorization);
                    }
                    self.endpoint.send(self.asked, request).await
                }
                Err(error) => Err(error),
            };
            let response = sent.as_ref().ok().map(as_response);
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
            response.ok_or(Unanswered)
        })
    }
}

fn as_response(normal: &Normal) -> HttpResponse {
    let mut response = HttpResponse::new(serde_json::to_vec(&normal.reply.body).unwrap_or_default());
    // The crate takes nothing but 200 for a success.
    let status = if (200..=299).contains(&normal.reply.status) { 200 } else { normal.reply.status };
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    response
}

impl Wire<'_> {
    /// Decides by what was seen; the crate's word counts where it refuses what looked like a success.
    fn read(self, answer: Result<BasicTokenResponse, RequestTokenError<Unanswered, BasicErrorResponse>>) -> Answered {
        let seen = self.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let body = seen.unwrap_or_else(|| Err(unsendable("the token request cannot be made")))?.into_body()?;
        answer.map(|_| body).map_err(|_| TokenError::Unreadable)
    }
}

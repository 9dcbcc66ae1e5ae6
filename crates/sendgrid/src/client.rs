//! The typed client: the handful of calls most people want, over our transport.
//!
//! No well-kept Rust crate for SendGrid exists, so the calls are our own: JSON in and out (SendGrid OpenAPI, 2026-01;
//! requests compared with those of sendgrid-python 6.12).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use palisade_core::call::{Call, Priority};
use palisade_core::{ConnectionId, Error, ErrorKind, Operation, Outcome, Replay, Result, TenantId, Transport};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::operation;

mod check;
mod mail;
mod reconcile;
mod suppressions;

pub use mail::{Address, Attachment, Mail, Personalization};
pub use reconcile::{Activity, RECONCILE_AFTER, Reconciled};
pub use suppressions::ListSuppressions;
pub(crate) use suppressions::{list_path, one_path};

/// SendGrid's production address.
pub const BASE_URL: &str = "https://api.sendgrid.com";
/// SendGrid's address for subusers whose data stay in the European Union.
pub const EU_BASE_URL: &str = "https://api.eu.sendgrid.com";
/// The custom argument a mail's reference travels under; events carry it back.
pub const REFERENCE: &str = "palisade_ref";

pub(crate) const ON_BEHALF_OF: HeaderName = HeaderName::from_static("on-behalf-of");
/// SendGrid's id of a mail; its events' ids begin with it.
const MESSAGE_ID: &str = "x-message-id";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// SendGrid for one connection. Cheap to clone.
#[derive(Clone)]
pub struct SendGrid {
    transport: Arc<dyn Transport>,
    base_url: Arc<str>,
    connection: ConnectionId,
    tenant: TenantId,
    subuser: Option<HeaderValue>,
    priority: Priority,
}

impl fmt::Debug for SendGrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendGrid")
            .field("base_url", &self.base_url)
            .field("connection", &self.connection)
            .field("subuser", &self.subuser)
            .finish_non_exhaustive()
    }
}

/// What SendGrid said of a mail it took.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentMail {
    /// SendGrid's id of the mail. The `sg_message_id` of its events begins with it.
    pub message_id: Option<String>,
    /// Whether it was only checked and not sent ([`Mail::sandbox`]).
    pub sandbox: bool,
}

impl SendGrid {
    /// Makes the client of a connection over a transport, normally a [`palisade_core::Client`], which adds the
    /// connection's key. Speaks to [`BASE_URL`].
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
            subuser: None,
            priority: Priority::Interactive,
        }
    }

    /// Speaks to another address: [`EU_BASE_URL`], an emulator, a recording proxy.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is not an absolute URL without query.
    pub fn at(mut self, base_url: &str) -> Result<Self> {
        let trimmed = base_url.trim_end_matches('/');
        let uri: Option<http::Uri> = trimmed.parse().ok();
        if uri.is_none_or(|uri| uri.scheme().is_none() || uri.authority().is_none() || uri.query().is_some()) {
            return Err(Error::new(ErrorKind::Config, "the base URL is not a URL such as https://api.sendgrid.com"));
        }
        self.base_url = trimmed.into();
        Ok(self)
    }

    /// Acts for a subuser with its parent's key (`On-Behalf-Of`). SendGrid does not send mail this way: a client that
    /// acts for a subuser refuses to.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the name cannot stand in a header.
    pub fn on_behalf_of(mut self, subuser: &str) -> Result<Self> {
        self.subuser = Some(subuser_header(subuser)?);
        Ok(self)
    }

    /// Marks this client's calls as background work, behind those a person waits for.
    #[must_use]
    pub fn in_background(mut self) -> Self {
        self.priority = Priority::Background;
        self
    }

    /// Sends a mail. SendGrid cannot tell a repetition from a second mail, so nothing that may have happened is
    /// repeated: such an error has [`Outcome::Unknown`], and [`SendGrid::reconcile`] or the mail's events tell, by its
    /// [`Mail::reference`].
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with one sentence for the product's user, before anything is sent where that can be told
    /// here; otherwise the pipeline's.
    pub async fn send(&self, mail: &Mail) -> Result<SentMail> {
        if self.subuser.is_some() {
            let why = "mail cannot be sent on behalf of a subuser: use the subuser's own key";
            return Err(Error::new(ErrorKind::Config, why).during("sendgrid", operation::SEND_MAIL.name));
        }
        let body = mail.json()?;
        let response = self.call(&operation::SEND_MAIL, Method::POST, "/v3/mail/send", Some(body)).await?;
        let id = response.headers().get(MESSAGE_ID).and_then(|id| id.to_str().ok());
        let plain = |id: &&str| !id.is_empty() && id.len() <= 200 && id.bytes().all(|c| c.is_ascii_graphic());
        Ok(SentMail { message_id: id.filter(plain).map(str::to_owned), sandbox: response.status() == StatusCode::OK })
    }

    /// Reads the key's scopes: cheap, and it proves that the key works.
    ///
    /// # Errors
    /// The pipeline's.
    pub async fn scopes(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Scopes {
            scopes: Vec<String>,
        }
        let scopes: Scopes = self.ask(&operation::SCOPES, Method::GET, "/v3/scopes", None).await?;
        Ok(scopes.scopes)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        operation: &'static Operation,
        method: Method,
        path: &str,
        json: Option<Bytes>,
    ) -> Result<T> {
        let response = self.call(operation, method, path, json).await?;
        serde_json::from_slice(response.body()).map_err(|_| unreadable(operation, response.status()))
    }

    async fn call(
        &self,
        operation: &'static Operation,
        method: Method,
        path: &str,
        json: Option<Bytes>,
    ) -> Result<Response<Bytes>> {
        let mut call = Call::new(operation, self.connection.clone(), self.tenant.clone());
        call.priority = self.priority;
        let request = request(&self.base_url, call, self.subuser.as_ref(), method, path, json)?;
        self.transport.send(request).await.map_err(|error| error.during("sendgrid", operation.name))
    }
}

/// Checks a subuser's name.
pub(crate) fn subuser_header(subuser: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(subuser)
        .ok()
        .filter(|_| !subuser.trim().is_empty())
        .ok_or_else(|| Error::new(ErrorKind::Config, "the subuser's name cannot stand in a header"))
}

/// Makes a request that carries its call.
pub(crate) fn request(
    base_url: &str,
    call: Call,
    subuser: Option<&HeaderValue>,
    method: Method,
    path: &str,
    json: Option<Bytes>,
) -> Result<Request<Bytes>> {
    let operation = call.operation;
    let has_body = json.is_some();
    let mut request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", base_url.trim_end_matches('/')))
        .body(json.unwrap_or_default())
        .map_err(|_| {
            Error::new(ErrorKind::Config, "the base URL is not a URL such as https://api.sendgrid.com")
                .during("sendgrid", operation.name)
        })?;
    request.headers_mut().insert(ACCEPT, JSON);
    if has_body {
        request.headers_mut().insert(CONTENT_TYPE, JSON);
    }
    if let Some(subuser) = subuser {
        request.headers_mut().insert(ON_BEHALF_OF, subuser.clone());
    }
    request.extensions_mut().insert(call);
    Ok(request)
}

/// The error of an answer that came and does not fit: a write has happened.
fn unreadable(operation: &'static Operation, status: StatusCode) -> Error {
    let outcome = if operation.replay == Replay::Safe { Outcome::Rejected } else { Outcome::Processed };
    Error::new(ErrorKind::Decode, "the answer does not have the shape SendGrid documents")
        .during("sendgrid", operation.name)
        .with_status(status.as_u16())
        .with_outcome(outcome)
}

/// Encodes an address or query for a URL.
pub(crate) fn encode(text: &str) -> impl fmt::Display {
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, PLAIN)
}

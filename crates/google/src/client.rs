//! The typed client: Google's schema types over our transport, and the handful of calls most people want.
//!
//! The types are those of google-gmail1 and google-calendar3, re-exported as [`gmail`] and [`calendar`]. Their crates'
//! project is unmaintained (RUSTSEC-2025-0066) and there is no other for these APIs, so they stay behind this door: no
//! trait of ours knows them. With the feature `hub` the whole generated clients run over the same pipeline.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use google_apis_common::remove_json_null_values;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, IF_MATCH};
use http::{Method, Request, Response};
use palisade_core::call::{Call, Priority};
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::{
    Clock, ConnectionId, Error, ErrorKind, Operation, Outcome, Random, Replay, Result, TenantId, Transport,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) mod address;
mod events;
#[cfg(feature = "hub")]
pub mod hub;
pub mod mail;
mod messages;
mod token;

pub use address::{BASE_URL, GMAIL_URL, segment};
pub use events::{EventQuery, Inserted, NewChannel, SendUpdates};
pub use messages::{Format, MessageQuery, NewWatch};
pub use token::ConnectionToken;

/// Gmail's schema types.
pub mod gmail {
    pub use google_gmail1::api::*;
}

/// Calendar's schema types.
pub mod calendar {
    pub use google_calendar3::api::*;
}

/// What the schema crates have in common: the token seam and helpers.
pub mod common {
    pub use google_apis_common::{GetToken, NoToken};
}

/// Google for one connection. Cheap to clone.
#[derive(Clone)]
pub struct Google {
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    base_url: Arc<str>,
    connection: ConnectionId,
    tenant: TenantId,
    priority: Priority,
}

impl fmt::Debug for Google {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Google")
            .field("base_url", &self.base_url)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl Google {
    /// Makes the client of a connection over a transport, normally a [`palisade_core::Client`], which adds the
    /// connection's token. Speaks to Google's own addresses for the account the token belongs to.
    #[must_use]
    pub fn new(
        transport: Arc<dyn Transport>,
        connection: impl Into<ConnectionId>,
        tenant: impl Into<TenantId>,
    ) -> Self {
        Self {
            transport,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            base_url: BASE_URL.into(),
            connection: connection.into(),
            tenant: tenant.into(),
            priority: Priority::Interactive,
        }
    }

    /// Speaks to another address, which serves Gmail and Calendar both: an emulator, a recording proxy.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is not an absolute URL without query.
    pub fn at(mut self, base_url: &str) -> Result<Self> {
        let trimmed = base_url.trim_end_matches('/');
        let uri: Option<http::Uri> = trimmed.parse().ok();
        if uri.is_none_or(|uri| uri.scheme().is_none() || uri.authority().is_none() || uri.query().is_some()) {
            return Err(Error::new(ErrorKind::Config, "the base URL is not a URL such as https://www.googleapis.com"));
        }
        self.base_url = trimmed.into();
        Ok(self)
    }

    /// Sets the wall clock, for the date of a mail.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the randomness, for ids of events, channels and messages.
    #[must_use]
    pub fn random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// Marks this client's calls as background work, behind those a person waits for.
    #[must_use]
    pub fn in_background(mut self) -> Self {
        self.priority = Priority::Background;
        self
    }

    /// Sends a request and reads the answer's object.
    async fn ask<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T> {
        let operation = ask.operation;
        let response = self.send(ask).await?;
        serde_json::from_slice(response.body()).map_err(|_| unreadable(operation, response.status().as_u16()))
    }

    /// Sends a request whose answer says nothing.
    async fn tell(&self, ask: Ask<'_>) -> Result<()> {
        self.send(ask).await.map(|_| ())
    }

    async fn send(&self, ask: Ask<'_>) -> Result<Response<Bytes>> {
        let operation = ask.operation;
        let request = self.http_request(ask).map_err(|error| error.during("google", operation.name))?;
        self.transport.send(request).await.map_err(|error| error.during("google", operation.name))
    }

    fn http_request(&self, ask: Ask<'_>) -> Result<Request<Bytes>> {
        let base = address::base_of(&self.base_url, &ask.path);
        // As the official libraries do: a call that answers nothing has no `alt`.
        let alt = ask.answers.then_some(("alt", "json"));
        let query = address::query(ask.query.iter().map(|(name, value)| (*name, value.as_str())).chain(alt));
        let (body, kind) = match ask.body {
            Body::None => (Bytes::new(), None),
            Body::Json(json) => (json, Some(address::JSON)),
            Body::Other(bytes, kind) => (bytes, Some(kind)),
        };
        let mut request = Request::builder()
            .method(&ask.method)
            .uri(format!("{base}{}{query}", ask.path))
            .header(ACCEPT, if ask.answers { "application/json" } else { "*/*" })
            .body(body)
            .map_err(|_| Error::new(ErrorKind::Invalid, "the parameters do not make a URL"))?;
        if let Some(kind) = kind {
            request.headers_mut().insert(CONTENT_TYPE, kind);
        } else if ask.method == Method::POST {
            // Google answers 411 to a POST that does not say that it is empty.
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if let Some(etag) = ask.if_match {
            request.headers_mut().insert(IF_MATCH, etag);
        }
        let mut call = Call::new(ask.operation, self.connection.clone(), self.tenant.clone());
        call.priority = self.priority;
        request.extensions_mut().insert(call);
        Ok(request)
    }

    /// Makes a random name of `length` letters out of `letters`.
    fn name(&self, length: usize, letters: &[u8; 32]) -> String {
        let mut bytes = vec![0; length];
        self.random.fill(&mut bytes);
        bytes.iter().map(|byte| char::from(*letters.get(usize::from(byte & 31)).unwrap_or(&b'0'))).collect()
    }
}

/// The digits of base32hex (RFC 4648 section 7), which Calendar wants ids of events in.
const BASE32_HEX: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// One request, before it is one.
struct Ask<'a> {
    operation: &'static Operation,
    method: Method,
    path: String,
    query: Vec<(&'a str, String)>,
    body: Body,
    /// Whether the answer is an object.
    answers: bool,
    if_match: Option<HeaderValue>,
}

enum Body {
    None,
    Json(Bytes),
    Other(Bytes, HeaderValue),
}

impl<'a> Ask<'a> {
    fn new(operation: &'static Operation, method: Method, path: String) -> Self {
        Self { operation, method, path, query: Vec::new(), body: Body::None, answers: true, if_match: None }
    }

    fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    fn with_some(self, name: &'a str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Sends a schema type without the fields it does not set: the types write those as `null`, which would clear them.
    fn sending(mut self, body: &impl Serialize) -> Result<Self> {
        let wrong = |_| Error::new(ErrorKind::Invalid, "the object cannot be written as JSON");
        let mut value = serde_json::to_value(body).map_err(wrong)?;
        remove_json_null_values(&mut value);
        self.body = Body::Json(value.to_string().into());
        Ok(self)
    }

    /// Sends JSON as it is.
    fn sending_json(mut self, body: &serde_json::Value) -> Self {
        self.body = Body::Json(body.to_string().into());
        self
    }

    fn answering_nothing(mut self) -> Self {
        self.answers = false;
        self
    }
}

/// The error of an answer that came and does not fit: a write has happened.
fn unreadable(operation: &'static Operation, status: u16) -> Error {
    let outcome = if operation.replay == Replay::Safe { Outcome::Rejected } else { Outcome::Processed };
    Error::new(ErrorKind::Decode, "the answer does not have the shape Google documents")
        .during("google", operation.name)
        .with_status(status)
        .with_outcome(outcome)
}

fn invalid(why: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

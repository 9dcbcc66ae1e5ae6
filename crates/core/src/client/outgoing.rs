//! The request of a call, kept so that each attempt can be made from it: the caller's headers stay as they came, and
//! an attempt gets a copy with the credential, the key and the identifiers put on.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Extensions, HeaderMap, Method, Request, Uri};

use super::telemetry::{CORRELATION_HEADER, Identifiers, TRACE_HEADER};
use crate::auth::Credential;
use crate::call::{Call, Replay};
use crate::error::{Error, ErrorKind, Result};
use crate::random::Random;

/// Headers an attempt may get beyond the caller's.
const ADDED: usize = 4;

/// A call's request between attempts.
pub(super) struct Outgoing {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    /// The caller's extensions: moved into the first attempt.
    extensions: Option<Extensions>,
    /// A copy for later attempts, kept only when there is more than the [`Call`], which can be put back without one.
    spare: Option<Extensions>,
    key: Option<(HeaderName, HeaderValue)>,
    identifiers: Option<Identifiers>,
    attempts: u32,
}

impl Outgoing {
    pub(super) fn new(request: Request<Bytes>) -> Self {
        let (parts, body) = request.into_parts();
        let spare = (parts.extensions.len() > 1).then(|| parts.extensions.clone());
        Self {
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            body,
            extensions: Some(parts.extensions),
            spare,
            key: None,
            identifiers: None,
            attempts: 0,
        }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Makes the idempotency key and the correlation id, once for all attempts. What the caller gave is kept: in the
    /// [`Call`], else in a header of that name on the request.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a given key or id cannot stand in a header.
    pub(super) fn identify(&mut self, call: &Call, random: &dyn Random) -> Result<()> {
        let mut identifiers = Identifiers::new(random);
        if let Some(parent) = self.headers.get(TRACE_HEADER) {
            identifiers.follow(parent, random);
        }
        if let Some(given) = &call.correlation_id {
            identifiers.correlation = header_text(given, "correlation id")?;
        } else if let Some(given) = self.headers.get(CORRELATION_HEADER) {
            identifiers.correlation = given.clone();
        }
        if let Replay::Keyed(name) = call.operation.replay {
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Error::new(ErrorKind::Config, "the key header is not a header name"))?;
            let value = match (&call.idempotency_key, self.headers.get(&name)) {
                (Some(given), _) => header_text(given, "idempotency key")?,
                (None, Some(given)) if !given.is_empty() => given.clone(),
                (None, _) => identifiers.key.clone(),
            };
            self.key = Some((name, value));
        }
        self.identifiers = Some(identifiers);
        Ok(())
    }

    /// Returns the idempotency key all attempts carry.
    pub(super) fn key(&self) -> Option<&HeaderValue> {
        self.key.as_ref().map(|(_, value)| value)
    }

    /// Returns the correlation id all attempts carry.
    pub(super) fn correlation(&self) -> Option<&HeaderValue> {
        self.identifiers.as_ref().map(|identifiers| &identifiers.correlation)
    }

    /// Makes the request of the next attempt.
    ///
    /// # Errors
    /// As [`Credential::apply`].
    pub(super) fn attempt(
        &mut self,
        call: &Call,
        credential: &Credential,
        random: &dyn Random,
    ) -> Result<Request<Bytes>> {
        let mut request = self.bare(call);
        if let Some(identifiers) = &mut self.identifiers {
            if self.attempts > 0 {
                identifiers.next_traceparent(random);
            }
            let headers = request.headers_mut();
            headers.insert(CORRELATION, identifiers.correlation.clone());
            headers.insert(TRACEPARENT, identifiers.traceparent.clone());
            if let Some((name, value)) = &self.key {
                headers.insert(name.clone(), value.clone());
            }
        }
        self.attempts += 1;
        credential.apply(&mut request)?;
        Ok(request)
    }

    /// Makes the request as the caller gave it.
    pub(super) fn bare(&mut self, call: &Call) -> Request<Bytes> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        // Not a clone: that would have no room for what is added, and grow at once.
        let mut headers = HeaderMap::with_capacity(self.headers.len() + ADDED);
        for (name, value) in &self.headers {
            headers.append(name.clone(), value.clone());
        }
        *request.headers_mut() = headers;
        *request.extensions_mut() = match (self.extensions.take(), &self.spare) {
            (Some(first), _) => first,
            (None, Some(spare)) => spare.clone(),
            (None, None) => {
                let mut extensions = Extensions::new();
                extensions.insert(call.clone());
                extensions
            }
        };
        request
    }
}

const CORRELATION: HeaderName = HeaderName::from_static(CORRELATION_HEADER);
const TRACEPARENT: HeaderName = HeaderName::from_static(TRACE_HEADER);

fn header_text(text: &str, what: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text)
        .map_err(|_| Error::new(ErrorKind::Config, format!("the given {what} cannot stand in a header")))
}

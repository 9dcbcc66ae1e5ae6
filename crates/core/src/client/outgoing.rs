//! The request of a call, kept so that each attempt can be made from it. The first attempt takes the caller's own
//! headers and extensions; what a repeat needs is kept in the cheapest form, because most calls need none. Credential,
//! key and identifiers are put on each attempt anew.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Extensions, HeaderMap, Method, Request, Uri};

use super::telemetry::{CORRELATION_HEADER, Identifiers, TRACE_HEADER};
use crate::auth::Credential;
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::random::Random;

/// Headers an attempt gets from us: correlation id, trace, idempotency key, credential.
const OURS: usize = 4;
/// Headers an attempt may get in all: ours, and what a transport adds (`accept`, `user-agent`).
const ADDED: usize = OURS + 2;

/// A call's request between attempts.
pub(super) struct Outgoing {
    state: State,
    headers: SavedHeaders,
    /// A copy for later attempts, kept only when there is more than the [`Call`], which can be put back without one.
    spare: Option<Extensions>,
    identifiers: Option<Identifiers>,
    /// What the caller gave in place of a key or correlation id of ours.
    given_key: Option<HeaderValue>,
    given_correlation: Option<HeaderValue>,
    keyed: bool,
}

enum State {
    /// The next attempt's request: the caller's own for the first.
    Ready(Request<Bytes>),
    /// It left. What another one is made of, besides the saved headers.
    Left { method: Method, uri: Uri, body: Bytes },
}

impl State {
    fn method(&self) -> &Method {
        match self {
            Self::Ready(request) => request.method(),
            Self::Left { method, .. } => method,
        }
    }

    fn uri(&self) -> &Uri {
        match self {
            Self::Ready(request) => request.uri(),
            Self::Left { uri, .. } => uri,
        }
    }

    fn body(&self) -> &Bytes {
        match self {
            Self::Ready(request) => request.body(),
            Self::Left { body, .. } => body,
        }
    }
}

impl Outgoing {
    pub(super) fn new(request: Request<Bytes>) -> Self {
        Self {
            headers: SavedHeaders::save(request.headers()),
            spare: (request.extensions().len() > 1).then(|| request.extensions().clone()),
            state: State::Ready(request),
            identifiers: None,
            given_key: None,
            given_correlation: None,
            keyed: false,
        }
    }

    /// Returns what the request says of its call, before its first attempt.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it says nothing.
    pub(super) fn call(&self) -> Result<Call> {
        let call = match &self.state {
            State::Ready(request) => request.extensions().get::<Call>(),
            State::Left { .. } => None,
        };
        let unknown = || Error::new(ErrorKind::Config, "the request carries no `Call`: nothing says what it does");
        call.cloned().ok_or_else(unknown)
    }

    pub(super) fn method(&self) -> &Method {
        self.state.method()
    }

    pub(super) fn uri(&self) -> &Uri {
        self.state.uri()
    }

    /// Makes the idempotency key and the correlation id, once for all attempts. What the caller gave is kept: in the
    /// [`Call`], else in a header of that name on the request.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a given key or id cannot stand in a header.
    pub(super) fn identify(&mut self, call: &Call, key: Option<&HeaderName>, random: &dyn Random) -> Result<()> {
        let mut identifiers = Identifiers::new(random, key.is_some());
        // A walk over the few headers there are is cheaper than hashing the names.
        let given = |name: &HeaderName| {
            let State::Ready(request) = &self.state else { return None };
            let mut headers = request.headers().iter();
            headers.find(|(other, value)| *other == name && !value.is_empty()).map(|(_, value)| value)
        };
        if let Some(parent) = given(&TRACEPARENT) {
            identifiers.follow(parent);
        }
        let correlation = match &call.correlation_id {
            Some(text) => Some(header_text(text, "correlation id")?),
            None => given(&CORRELATION).cloned(),
        };
        let given_key = match (key, &call.idempotency_key) {
            (Some(_), Some(text)) => Some(header_text(text, "idempotency key")?),
            (Some(name), None) => given(name).cloned(),
            (None, _) => None,
        };
        self.given_correlation = correlation;
        self.given_key = given_key;
        self.keyed = key.is_some();
        self.identifiers = Some(identifiers);
        Ok(())
    }

    /// Returns the idempotency key all attempts carry.
    pub(super) fn key(&self) -> Option<&str> {
        match &self.given_key {
            Some(given) => given.to_str().ok(),
            None if self.keyed => self.identifiers.as_ref().and_then(Identifiers::key),
            None => None,
        }
    }

    /// Returns the correlation id all attempts carry.
    pub(super) fn correlation(&self) -> Option<&str> {
        match &self.given_correlation {
            Some(given) => given.to_str().ok(),
            None => self.identifiers.as_ref().map(Identifiers::correlation),
        }
    }

    /// Makes the request of the next attempt. `key` is the header the idempotency key stands in.
    ///
    /// # Errors
    /// As [`Credential::apply`].
    pub(super) fn attempt(
        &mut self,
        call: &Call,
        key: Option<&HeaderName>,
        credential: &Credential,
        random: &dyn Random,
    ) -> Result<Request<Bytes>> {
        if matches!(self.state, State::Left { .. }) {
            self.state = State::Ready(self.bare(call));
        }
        // Before the credential is there: it may stand in the address.
        let left =
            State::Left { method: self.method().clone(), uri: self.uri().clone(), body: self.state.body().clone() };
        // Worked on where it is: a request is large to move.
        if let State::Ready(request) = &mut self.state {
            let headers = request.headers_mut();
            // A map that holds ours as it is stays; one that must grow anyway grows once.
            if headers.capacity() - headers.len() < OURS {
                headers.reserve(ADDED);
            }
            if let Some(identifiers) = &self.identifiers {
                let made = identifiers.headers(random);
                headers.insert(CORRELATION, self.given_correlation.clone().unwrap_or(made.correlation));
                headers.insert(TRACEPARENT, made.traceparent);
                if let (Some(name), Some(value)) = (key, self.given_key.clone().or(made.key)) {
                    headers.insert(name, value);
                }
            }
            credential.apply(request)?;
        }
        match std::mem::replace(&mut self.state, left) {
            State::Ready(request) => Ok(request),
            State::Left { .. } => Ok(self.bare(call)),
        }
    }

    /// Makes the request as the caller gave it.
    pub(super) fn bare(&self, call: &Call) -> Request<Bytes> {
        let extensions = self.spare.clone().unwrap_or_else(|| {
            let mut extensions = Extensions::new();
            extensions.insert(call.clone());
            extensions
        });
        let mut request = Request::new(self.state.body().clone());
        *request.method_mut() = self.method().clone();
        *request.uri_mut() = self.uri().clone();
        *request.headers_mut() = self.headers.restore();
        *request.extensions_mut() = extensions;
        request
    }
}

/// Headers as one text, because copying a map costs two allocations and one more for each name or value that was
/// never copied before. Each entry is a mark of sensitivity, the lengths of name and value, and both.
struct SavedHeaders(Vec<u8>);

const LENGTHS: usize = 9;

impl SavedHeaders {
    fn save(headers: &HeaderMap) -> Self {
        let size = headers.iter().map(|(name, value)| LENGTHS + name.as_str().len() + value.len()).sum();
        let mut text = Vec::with_capacity(size);
        for (name, value) in headers {
            // A header beyond 4 GiB cannot be sent either; cut lengths only lose it from a repeat.
            let (Ok(name_len), Ok(value_len)) = (u32::try_from(name.as_str().len()), u32::try_from(value.len())) else {
                continue;
            };
            text.push(u8::from(value.is_sensitive()));
            text.extend_from_slice(&name_len.to_le_bytes());
            text.extend_from_slice(&value_len.to_le_bytes());
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(value.as_bytes());
        }
        Self(text)
    }

    fn restore(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut rest = self.0.as_slice();
        while let Some((name, value)) = next(&mut rest) {
            headers.append(name, value);
        }
        headers
    }
}

fn next(rest: &mut &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let (sensitive, tail) = rest.split_first()?;
    let (name_len, tail) = tail.split_first_chunk()?;
    let (value_len, tail) = tail.split_first_chunk()?;
    let (name, tail) = tail.split_at_checked(usize::try_from(u32::from_le_bytes(*name_len)).ok()?)?;
    let (value, tail) = tail.split_at_checked(usize::try_from(u32::from_le_bytes(*value_len)).ok()?)?;
    *rest = tail;
    let mut value = HeaderValue::from_bytes(value).ok()?;
    value.set_sensitive(*sensitive == 1);
    Some((HeaderName::from_bytes(name).ok()?, value))
}

const CORRELATION: HeaderName = HeaderName::from_static(CORRELATION_HEADER);
const TRACEPARENT: HeaderName = HeaderName::from_static(TRACE_HEADER);

fn header_text(text: &str, what: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text)
        .map_err(|_| Error::new(ErrorKind::Config, format!("the given {what} cannot stand in a header")))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when a repeat loses a second value, an odd byte or the mark of a secret.
    #[test]
    fn saved_headers_come_back_as_they_were() {
        let mut headers = HeaderMap::new();
        let mut secret = HeaderValue::from_static("secret");
        secret.set_sensitive(true);
        headers.append("x-key", secret);
        headers.append("accept", HeaderValue::from_static(""));
        headers.append("x-many", HeaderValue::from_bytes(b"a\xff\tb").unwrap());
        headers.append("x-many", HeaderValue::from_static("second"));
        let restored = SavedHeaders::save(&headers).restore();
        assert_eq!(restored, headers);
        assert!(restored["x-key"].is_sensitive() && !restored["accept"].is_sensitive());
        assert!(SavedHeaders::save(&HeaderMap::new()).restore().is_empty());
    }
}

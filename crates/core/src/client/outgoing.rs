//! The request of a call, kept so that each attempt can be made from it. The first attempt takes the caller's own
//! headers and extensions; what a repeat needs is kept in the cheapest form, because most calls need none. Credential,
//! key and identifiers are put on each attempt anew.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Extensions, HeaderMap, Method, Request, Uri, Version};

use super::telemetry::{CORRELATION, Identifiers, TRACEPARENT};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::random::Random;

/// Headers an attempt gets from us: correlation id, trace, idempotency key, credential.
const OURS: usize = 4;
/// Headers an attempt may get in all: ours, and what a transport adds (`accept`, `user-agent`).
const ADDED: usize = OURS + 2;

/// A call's request between attempts. It is kept in its parts, and each attempt's request is put together where it
/// leaves: a whole one is large to move.
pub(super) struct Outgoing {
    method: Method,
    uri: Uri,
    version: Version,
    body: Bytes,
    /// The caller's own headers and extensions, until the first attempt takes them.
    own: Option<(HeaderMap, Extensions)>,
    headers: SavedHeaders,
    /// A copy for later attempts, kept only when there is more than the [`Call`], which can be put back without one.
    spare: Option<Box<Extensions>>,
    identifiers: Option<Identifiers>,
    /// What the caller gave in place of identifiers of ours. Boxed, as all that few calls have.
    given: Option<Box<Given>>,
    keyed: bool,
}

/// A caller's own identifiers.
struct Given {
    key: Option<HeaderValue>,
    correlation: Option<HeaderValue>,
}

impl Outgoing {
    pub(super) fn new(request: Request<Bytes>) -> Self {
        let (parts, body) = request.into_parts();
        Self {
            headers: SavedHeaders::save(&parts.headers),
            spare: (parts.extensions.len() > 1).then(|| Box::new(parts.extensions.clone())),
            own: Some((parts.headers, parts.extensions)),
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            body,
            identifiers: None,
            given: None,
            keyed: false,
        }
    }

    /// Returns what the request says of its call, before its first attempt.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it says nothing.
    pub(super) fn call(&self) -> Result<Call> {
        let call = self.own.as_ref().and_then(|(_, extensions)| extensions.get::<Call>());
        let unknown = || Error::new(ErrorKind::Config, "the request carries no `Call`: nothing says what it does");
        call.cloned().ok_or_else(unknown)
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
    pub(super) fn identify(&mut self, call: &Call, key: Option<&HeaderName>, random: &dyn Random) -> Result<()> {
        let mut identifiers = Identifiers::new(random, key.is_some());
        // A walk over the few headers there are is cheaper than hashing the names.
        let given = |name: &HeaderName| {
            let (headers, _) = self.own.as_ref()?;
            headers.iter().find(|(other, value)| *other == name && !value.is_empty()).map(|(_, value)| value)
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
        if correlation.is_some() || given_key.is_some() {
            self.given = Some(Box::new(Given { key: given_key, correlation }));
        }
        self.keyed = key.is_some();
        self.identifiers = Some(identifiers);
        Ok(())
    }

    /// Tells whether the request says more than which call it is.
    pub(super) fn carries_more(&self) -> bool {
        self.spare.is_some()
    }

    /// Returns the idempotency key all attempts carry.
    pub(super) fn key(&self) -> Option<&str> {
        match self.given.as_ref().and_then(|given| given.key.as_ref()) {
            Some(given) => given.to_str().ok(),
            None if self.keyed => self.identifiers.as_ref().and_then(Identifiers::key),
            None => None,
        }
    }

    /// Returns the correlation id all attempts carry.
    pub(super) fn correlation(&self) -> Option<&str> {
        match self.given.as_ref().and_then(|given| given.correlation.as_ref()) {
            Some(given) => given.to_str().ok(),
            None => self.identifiers.as_ref().map(Identifiers::correlation),
        }
    }

    /// Makes the request of the next attempt, but for the credential. `key` is the header the idempotency key stands in.
    pub(super) fn attempt(&mut self, call: &Call, key: Option<&HeaderName>, random: &dyn Random) -> Request<Bytes> {
        let (mut headers, extensions) = self.own.take().unwrap_or_else(|| self.again(call));
        // A map that holds ours as it is stays; one that must grow anyway grows once.
        if headers.capacity() - headers.len() < OURS {
            headers.reserve(ADDED);
        }
        if let Some(identifiers) = &self.identifiers {
            identifiers.write(&mut headers, key, random);
        }
        if let Some(given) = &self.given {
            if let Some(correlation) = &given.correlation {
                headers.insert(CORRELATION, correlation.clone());
            }
            if let (Some(name), Some(value)) = (key, &given.key) {
                headers.insert(name, value.clone());
            }
        }
        self.request(headers, extensions)
    }

    /// Makes the request as the caller gave it.
    pub(super) fn bare(&self, call: &Call) -> Request<Bytes> {
        let (headers, extensions) = self.again(call);
        self.request(headers, extensions)
    }

    /// Makes the caller's headers and extensions anew.
    fn again(&self, call: &Call) -> (HeaderMap, Extensions) {
        let extensions = self.spare.as_deref().cloned().unwrap_or_else(|| {
            let mut extensions = Extensions::new();
            extensions.insert(call.clone());
            extensions
        });
        (self.headers.restore(), extensions)
    }

    fn request(&self, headers: HeaderMap, extensions: Extensions) -> Request<Bytes> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = headers;
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

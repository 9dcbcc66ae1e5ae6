//! What every authorisation and token endpoint does before its own rules: read the request, find the client, answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use percent_encoding::percent_decode_str;

use super::pkce::Challenge;
use super::{Authority, Client};
use crate::params::{Params, encode_all};

/// What keeps a page of ours harmless wherever it is shown.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'";

/// An authorisation request whose client and redirect URI are known to be good.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) client: Client,
    /// Where the answer goes.
    pub(crate) target: String,
    /// The redirect URI as the request had it.
    pub(crate) redirect_uri: Option<String>,
    pub(crate) state: Option<String>,
}

/// Why an authorisation request gets a page and is never redirected.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unsafe {
    /// A parameter came twice.
    Repeated(String),
    /// No or no known client.
    Client(Option<String>),
    /// No registered redirect URI, or not this one.
    Redirect(Option<String>),
}

impl Asked {
    /// Reads and checks what decides where an answer may go.
    pub(crate) fn read(authority: &Authority, params: &Params) -> Result<Self, Unsafe> {
        for name in ["client_id", "redirect_uri", "response_type", "scope", "state", "code_challenge"] {
            if params.all(name).nth(1).is_some() {
                return Err(Unsafe::Repeated(name.to_owned()));
            }
        }
        let id = params.get("client_id");
        let client = id.and_then(|id| authority.client(id)).ok_or_else(|| Unsafe::Client(id.map(str::to_owned)))?;
        let asked = params.get("redirect_uri");
        let target = match asked {
            Some(uri) => client.redirect_uris.iter().find(|known| *known == uri),
            None => client.redirect_uris.first(),
        };
        let target = target.cloned().ok_or_else(|| Unsafe::Redirect(asked.map(str::to_owned)))?;
        Ok(Self {
            client,
            target,
            redirect_uri: asked.map(str::to_owned),
            state: params.get("state").map(str::to_owned),
        })
    }

    /// Reads the PKCE challenge and holds it against the rules.
    pub(crate) fn challenge(&self, authority: &Authority, params: &Params) -> Result<Option<Challenge>, &'static str> {
        let challenge = Challenge::read(params.get("code_challenge"), params.get("code_challenge_method"))?;
        if !authority.state().admits(challenge.as_ref()) {
            return Err("code_challenge is required");
        }
        if self.client.secret.is_none() && challenge.is_none() {
            return Err("a public client must send code_challenge");
        }
        Ok(challenge)
    }

    /// Sends the browser back with these parameters and the caller's `state`.
    pub(crate) fn answer(&self, pairs: &[(&str, &str)]) -> Response<Bytes> {
        let state = self.state.as_deref().map(|state| ("state", state));
        redirect(&self.target, state.into_iter().chain(pairs.iter().copied()))
    }
}

/// Redirects to a registered URI, keeping the query it already has.
pub(crate) fn redirect<'a>(target: &str, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Response<Bytes> {
    let joint = if target.contains('?') { '&' } else { '?' };
    let location = format!("{target}{joint}{}", encode_all(pairs));
    let mut response = Response::new(Bytes::new());
    match HeaderValue::from_str(&location) {
        Ok(location) => {
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert("location", location);
        }
        // A registered URI that no header can carry; the configuration is at fault.
        Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}

/// Answers with a page.
pub(crate) fn html(status: u16, page: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(page));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    headers.insert("content-security-policy", HeaderValue::from_static(PAGE_POLICY));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    response
}

/// Splits a scope list at commas and white space, in order, each once.
pub(crate) fn scopes_of(text: Option<&str>) -> Vec<String> {
    let mut scopes: Vec<String> = Vec::new();
    for scope in text.unwrap_or_default().split([',', ' ']).filter(|scope| !scope.is_empty()) {
        if scopes.iter().all(|known| known != scope) {
            scopes.push(scope.to_owned());
        }
    }
    scopes
}

/// Tells whether a text may stand as a scope (RFC 6749 section 3.3).
pub(crate) fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E))
}

/// Client credentials as a token request presents them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Presented {
    pub(crate) id: Option<String>,
    pub(crate) secret: Option<String>,
}

/// Why a token request's client is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientRefusal {
    /// The form names no client and no header does, or nobody knows it.
    Unknown,
    /// Its secret is missing or wrong.
    Secret,
    /// Header and form contradict each other (RFC 6749 section 2.3).
    Twice,
}

impl Presented {
    /// Reads HTTP Basic, whose parts are form-encoded (RFC 6749 section 2.3.1), or the form.
    pub(crate) fn read(headers: &HeaderMap, params: &Params) -> Result<Self, ClientRefusal> {
        let form = Self {
            id: params.get("client_id").map(str::to_owned),
            secret: params.get("client_secret").map(str::to_owned),
        };
        let Some(basic) = basic(headers) else { return Ok(form) };
        if form.id.is_some_and(|id| Some(&id) != basic.id.as_ref())
            || form.secret.is_some_and(|secret| Some(&secret) != basic.secret.as_ref())
        {
            return Err(ClientRefusal::Twice);
        }
        Ok(basic)
    }

    /// Finds the client and checks its secret. A public client needs none.
    pub(crate) fn client(&self, authority: &Authority) -> Result<Client, ClientRefusal> {
        let client = self.id.as_deref().and_then(|id| authority.client(id)).ok_or(ClientRefusal::Unknown)?;
        match (&client.secret, &self.secret) {
            (Some(known), Some(given)) if known == given => Ok(client),
            (None, None) => Ok(client),
            (Some(_) | None, _) => Err(ClientRefusal::Secret),
        }
    }
}

fn basic(headers: &HeaderMap) -> Option<Presented> {
    let value = headers.get("authorization")?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (id, secret) = pair.split_once(':').unwrap_or((&pair, ""));
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    Some(Presented { id: Some(decode(id)), secret: Some(decode(secret)).filter(|secret| !secret.is_empty()) })
}

/// Gives the token of `Authorization: Bearer …`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, rest) = headers.get("authorization")?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}

/// A refresh on its way; its end is counted when this is dropped.
#[derive(Debug)]
pub struct Flight {
    authority: Authority,
    family: u64,
}

impl Flight {
    pub(crate) fn new(authority: Authority, family: u64) -> Self {
        Self { authority, family }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.authority.state().landed(self.family);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn credentials_come_by_header_or_form_but_not_as_two() {
        let basic = headers("Basic MS4yOnMlMkIx"); // 1.2:s%2B1
        let form = |text: &[u8]| Params::parse(text).unwrap();
        let known = Presented { id: Some("1.2".to_owned()), secret: Some("s+1".to_owned()) };
        assert_eq!(Presented::read(&basic, &form(b"")), Ok(known));
        assert!(Presented::read(&basic, &form(b"client_id=1.2")).is_ok(), "the same twice is one");
        assert_eq!(Presented::read(&basic, &form(b"client_id=1.3")), Err(ClientRefusal::Twice));
        assert_eq!(Presented::read(&headers("Bearer x"), &form(b"client_id=1")).unwrap().id.as_deref(), Some("1"));
        assert_eq!(bearer(&headers("bearer  x ")), Some("x"));
    }

    #[test]
    fn a_redirect_keeps_the_query_and_encodes() {
        let location = |target: &str| {
            redirect(target, [("state", "a&b"), ("code", "4/0A")]).headers()["location"].to_str().unwrap().to_owned()
        };
        assert_eq!(location("https://a/cb"), "https://a/cb?state=a%26b&code=4%2F0A");
        assert_eq!(location("https://a/cb?x=1"), "https://a/cb?x=1&state=a%26b&code=4%2F0A");
    }

    #[test]
    fn scopes_split_and_stay_in_order() {
        assert_eq!(scopes_of(Some("b,a b  c,")), ["b", "a", "c"]);
        assert!(scopes_of(None).is_empty());
        assert!(is_scope("chat:write") && !is_scope("a\"b") && !is_scope("a b") && !is_scope("é") && !is_scope(""));
    }
}

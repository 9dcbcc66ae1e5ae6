//! Who may see the operations page and the API: a bearer token, or a session cookie made from it.
//!
//! A session is a signed moment, kept nowhere: `expiry.code` under a key derived from the token, so a new token ends
//! every session. Actions from a browser must come from our own pages.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, OriginalUri, Request, State};
use axum::http::header::{
    AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderValue, LOCATION, ORIGIN, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE,
};
use axum::http::uri::Authority;
use axum::http::{Extensions, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, Limited};
use palisade_core::webhook::hmac;
use palisade_core::{Secret, Timestamp};

use super::{Problem, pages};
use crate::gate;
use crate::hub::{Access, Shared};

/// How long a login lasts.
const SESSION: Duration = Duration::from_secs(12 * 3_600);
/// The name of the session cookie.
const COOKIE_NAME: &str = "palisade_session";
/// What a client is told that tried too often.
const TOO_MANY: &str = "too many wrong admin tokens came from this address";
/// Where proxies write for whom they ask.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// The largest login form, in bytes.
const FORM_BYTES_MAX: usize = 4 * 1024;

/// Lets a request pass or answers in its place. A browser without a session is sent to the login page.
pub(crate) async fn guard(
    State(shared): State<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    request: Request,
    next: Next,
) -> Response {
    match check(&shared, request.method(), request.uri(), request.headers(), peer(request.extensions())) {
        Ok(()) => next.run(request).await,
        Err(Refused::Login) if request.method() == Method::GET && request.uri().path() == "/" => {
            redirect(&format!("{}/login", pages::base(&original, request.uri())))
        }
        Err(refused) => refused.into_response(),
    }
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No access is configured.
    Closed,
    /// The token or session is missing or wrong.
    Login,
    /// Too many wrong tokens: none is looked at for so many seconds.
    Later(u64),
    /// The request names a host that is not loopback.
    Host,
    /// An action that does not come from our own pages.
    Origin,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Closed => Problem::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                "this hub gives nobody access to its pages and API",
                "set an admin token",
            )
            .into_response(),
            Self::Login => {
                let problem = Problem::new(
                    StatusCode::UNAUTHORIZED,
                    "unauthorized",
                    "the admin token is missing or wrong",
                    "send it as `Authorization: Bearer …`, or log in at /login",
                );
                let mut response = problem.into_response();
                let challenge = HeaderValue::from_static("Bearer realm=\"palisade\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                response
            }
            Self::Later(seconds) => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "throttled",
                TOO_MANY,
                format!("wait {seconds} s, then send the right one"),
            )
            .retry_after(seconds)
            .into_response(),
            Self::Host => Problem::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                "without a token this hub answers only to a loopback host name",
                "use http://127.0.0.1 or http://localhost, or set an admin token",
            )
            .into_response(),
            Self::Origin => Problem::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                "this action does not come from the hub's own page",
                "use the operations page, or the API with a bearer token",
            )
            .into_response(),
        }
    }
}

/// Decides whether a request may pass.
pub(crate) fn check(
    shared: &Shared,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    peer: Option<IpAddr>,
) -> Result<(), Refused> {
    match &shared.settings.access {
        Access::Closed => Err(Refused::Closed),
        Access::Trusted => Ok(()),
        Access::Loopback => {
            // A page of a stranger may reach loopback under a name of its own (DNS rebinding), or post to it.
            if !names_loopback(uri, headers) {
                return Err(Refused::Host);
            }
            if changes(method) && headers.contains_key(ORIGIN) && !same_origin(uri, headers) {
                return Err(Refused::Origin);
            }
            Ok(())
        }
        Access::Token(token) => {
            if let Some(given) = bearer(headers) {
                return try_token(shared, token, given, client(shared, headers, peer));
            }
            let session = cookie(headers).is_some_and(|text| session_holds(token, text, shared.clock.now()));
            if !session {
                return Err(Refused::Login);
            }
            if changes(method) && !same_origin(uri, headers) {
                return Err(Refused::Origin);
            }
            Ok(())
        }
    }
}

/// Looks at a token, unless too many wrong ones came from its address.
fn try_token(shared: &Shared, token: &Secret, given: &str, client: Option<IpAddr>) -> Result<(), Refused> {
    let now = shared.clock.now();
    if let Err(wait) = shared.gate.admit(client, now) {
        return Err(Refused::Later(wait.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX)));
    }
    if token.matches(given) {
        shared.gate.passed(client, now);
        return Ok(());
    }
    shared.gate.failed(client, now);
    tracing::warn!(client = client.map(tracing::field::display), "a wrong admin token");
    Err(Refused::Login)
}

/// Returns the address the connection came from, where the server tells it.
pub(crate) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip())
}

/// Returns the address of whoever asks, seen through proxies that are believed.
pub(crate) fn client(shared: &Shared, headers: &HeaderMap, peer: Option<IpAddr>) -> Option<IpAddr> {
    let forwarded = headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok());
    peer.map(|peer| gate::client_of(peer, forwarded, &shared.settings.trusted_proxies))
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    cookies(headers)
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, _)| *name == COOKIE_NAME)
        .map(|(_, value)| value)
}

/// Returns the cookies of a request, each `name=value`. One that is no text, as another program of the same host may have
/// set it, hides no other.
pub(super) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    all.filter_map(|pair| std::str::from_utf8(pair).ok()).map(str::trim)
}

/// Returns the host and port the request was sent to.
fn authority<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    headers.get(HOST).and_then(|host| host.to_str().ok()).or_else(|| uri.authority().map(|a| a.as_str()))
}

fn same_origin(uri: &Uri, headers: &HeaderMap) -> bool {
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    let origin = origin.and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin.is_some() && origin == authority(uri, headers)
}

fn names_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let Some(authority) = authority(uri, headers).and_then(|text| text.parse::<Authority>().ok()) else {
        return false;
    };
    let host = authority.host();
    host.eq_ignore_ascii_case("localhost")
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Makes a session's text.
fn session(token: &Secret, until: Timestamp) -> String {
    let until = until.millis().to_string();
    format!("{until}.{}", hmac::to_lower_hex(&session_code(token, &until)))
}

fn session_code(token: &Secret, until: &str) -> [u8; hmac::CODE_BYTES] {
    hmac::sha256(token.expose().as_bytes(), &[b"palisade session\0", until.as_bytes()])
}

fn session_holds(token: &Secret, text: &str, now: Timestamp) -> bool {
    let Some((until, code)) = text.split_once('.') else { return false };
    let Some(code) = hmac::from_lower_hex(code) else { return false };
    hmac::equal(&code, &session_code(token, until)) && until.parse().is_ok_and(|until| now < Timestamp(until))
}

/// Shows the login form.
pub(crate) async fn login_page(
    State(shared): State<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    uri: Uri,
) -> Response {
    let base = pages::base(&original, &uri);
    match shared.settings.access {
        Access::Token(_) => pages::login(&base, None).into_response(),
        Access::Closed => Refused::Closed.into_response(),
        Access::Loopback | Access::Trusted => redirect(&format!("{base}/")),
    }
}

/// Checks the token of the login form and starts a session.
pub(crate) async fn login(
    State(shared): State<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    request: Request,
) -> Response {
    let base = pages::base(&original, request.uri());
    let Access::Token(token) = &shared.settings.access else { return Refused::Closed.into_response() };
    if request.headers().contains_key(ORIGIN) && !same_origin(request.uri(), request.headers()) {
        return Refused::Origin.into_response();
    }
    let client = client(&shared, request.headers(), peer(request.extensions()));
    let given = read_form(request.into_body()).await.unwrap_or_else(|| Secret::new(""));
    match try_token(&shared, token, given.expose(), client) {
        Ok(()) => {}
        Err(Refused::Later(seconds)) => {
            let text = format!("{TOO_MANY}. Wait {seconds} s, then enter the right one.");
            let page = pages::login(&base, Some(&text));
            return (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, seconds.to_string())], page).into_response();
        }
        Err(Refused::Login | Refused::Closed | Refused::Host | Refused::Origin) => {
            let text = "That is not the token. It stands where server.admin_token points.";
            return (StatusCode::UNAUTHORIZED, pages::login(&base, Some(text))).into_response();
        }
    }
    let text = session(token, shared.clock.now().plus(SESSION));
    with_cookie(&shared, &base, &text, SESSION.as_secs())
}

/// Ends the session in this browser.
pub(crate) async fn logout(
    State(shared): State<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    request: Request,
) -> Response {
    with_cookie(&shared, &pages::base(&original, request.uri()), "", 0)
}

fn with_cookie(shared: &Shared, base: &str, value: &str, seconds: u64) -> Response {
    let secure = shared.settings.public_url.as_ref().is_some_and(|url| url.starts_with("https://"));
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{COOKIE_NAME}={value}; Path={base}/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let mut response = redirect(&format!("{base}/"));
    if let Ok(mut value) = HeaderValue::from_str(&text) {
        value.set_sensitive(true);
        response.headers_mut().insert(SET_COOKIE, value);
    }
    response
}

/// Reads the field `token` of a URL-encoded form.
async fn read_form(body: Body) -> Option<Secret> {
    let bytes = Limited::new(body, FORM_BYTES_MAX).collect().await.ok()?.to_bytes();
    let text = std::str::from_utf8(&bytes).ok()?;
    let value = text.split('&').find_map(|pair| pair.strip_prefix("token="))?;
    let plain = value.replace('+', " ");
    let decoded = percent_encoding::percent_decode_str(&plain).decode_utf8().ok()?;
    Some(Secret::new(decoded.trim()))
}

/// Answers "look there instead".
pub(crate) fn redirect(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response(),
        Err(_) => Problem::unreadable_address().into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when the moment is not part of what is signed, or when it is not compared.
    #[test]
    fn a_session_ends_in_time_and_cannot_be_prolonged() {
        let token = Secret::new("a token long enough");
        let text = session(&token, Timestamp(1_000));
        assert!(session_holds(&token, &text, Timestamp(999)));
        assert!(!session_holds(&token, &text, Timestamp(1_000)));
        assert!(!session_holds(&Secret::new("another token, same"), &text, Timestamp(999)));
        let longer = text.replacen("1000", "9000", 1);
        assert!(!session_holds(&token, &longer, Timestamp(999)));
        for garbage in ["", ".", "1000", "1000.", "x.y", "9223372036854775808.00"] {
            assert!(!session_holds(&token, garbage, Timestamp(0)), "{garbage}");
        }
    }

    /// Fails when a cookie of another program on the host, which may be no text, or several headers of them hide the session's,
    /// or when one whose name only ends alike is taken for it.
    #[test]
    fn the_session_is_found_among_other_cookies() {
        let headers = |values: &[&[u8]]| {
            let value = |bytes: &&[u8]| (COOKIE, HeaderValue::from_bytes(bytes).unwrap());
            values.iter().map(value).collect::<HeaderMap>()
        };
        for (values, found) in [
            (&[&b"palisade_session=1.a"[..]][..], Some("1.a")),
            (&[b"theme=dark; palisade_session=1.a; b=2"], Some("1.a")),
            (&[b"name=J\xf6rg; palisade_session=1.a"], Some("1.a")),
            (&[b"\xaa;palisade_session=1.a;\xff=\xff"], Some("1.a")),
            (&[b"a=\xf6", b"palisade_session=1.a"], Some("1.a")),
            (&[b"not_palisade_session=1.a"], None),
            (&[b"palisade_session"], None),
            (&[], None),
        ] {
            assert_eq!(cookie(&headers(values)), found, "{values:?}");
        }
    }
}

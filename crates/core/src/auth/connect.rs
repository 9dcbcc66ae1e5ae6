//! Connecting an account, as values: [`begin`] says where to send the browser, [`finish`] makes tokens of what it comes
//! back with. [`Connector`] does both with a store in between, which is what a web framework mounts.
//!
//! # What is enforced
//! - `state`: 256 random bits, kept as a hash, taken from the store in one step (single use), ten minutes of life,
//!   compared in constant time.
//! - The browser: another 256 random bits in a cookie `Secure; HttpOnly; SameSite=Lax`, whose hash stands in the pending
//!   row. A callback in another browser is refused, so nobody can be made to finish a flow that somebody else began.
//! - PKCE with S256 where the provider takes it: a code of another session does not fit our verifier.
//! - The issuer, where the provider names it (RFC 9207).
//! - Afterwards the browser goes to a target of the allow-list or nowhere.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use oauth2::url::form_urlencoded;
use oauth2::{CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::address::is_loopback;
use super::grant::Tokens;
use super::oauth2::{OAuth2Flow, ScopeGroup, TokenError, join};
use crate::clock::Timestamp;
use crate::id::{ConnectionId, TenantId};
use crate::random::Random;
use crate::secret::Secret;
use crate::store::TokenHash;

mod configured;
mod desk;
mod pending;
mod refused;
#[cfg(test)]
mod tests;

pub use super::address::ReturnTargets;
pub use configured::ConfiguredGrant;
pub use desk::{
    Begun, ConnectAsk, Connected, Connector, ConnectorBuilder, DirectAsk, Disconnected, SESSION_LIFE, SessionAsk,
    SessionLink,
};
pub use pending::PendingAuthorization;
pub use refused::{Refused, RefusedKind};

/// How long a browser may stay at the provider.
pub const PENDING_LIFE: Duration = Duration::from_secs(10 * 60);
/// The longest callback query read, in bytes: codes are some hundred, and a header is rarely more.
const QUERY_BYTES_MAX: usize = 16 << 10;
const COOKIE: &str = "palisade-connect";

/// What to connect.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Wanted {
    /// The tenant the connection belongs to.
    pub tenant: TenantId,
    /// The connection that is made or renewed.
    pub connection: ConnectionId,
    /// The scopes to ask for ([`super::oauth2::OAuth2Config::scopes_for`]).
    pub scopes: Vec<ScopeGroup>,
    /// Where to go afterwards; already checked.
    pub return_to: Option<String>,
    /// More parameters of the authorize address (`login_hint`).
    pub params: Vec<(String, String)>,
}

/// Where to send the browser, and with which cookie.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Departure {
    /// The address at the provider. It carries the `state`: it belongs into a `Location` header and into no log.
    pub redirect_url: Secret,
    /// The value of the `Set-Cookie` header that binds the flow to this browser.
    pub set_cookie: Secret,
}

/// What came of a flow.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Grant {
    /// The tenant.
    pub tenant: TenantId,
    /// The connection.
    pub connection: ConnectionId,
    /// The name of the flow.
    pub flow: String,
    /// The account at the provider, where the answer names it.
    pub account: Option<String>,
    /// The tokens, one for each grant; the main one first.
    pub tokens: Vec<Tokens>,
}

impl Grant {
    /// Returns the scopes that were asked for and not granted.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.tokens.iter().flat_map(Tokens::missing).collect()
    }
}

/// Begins a flow.
#[must_use]
pub fn begin(
    flow: &OAuth2Flow,
    wanted: Wanted,
    now: Timestamp,
    random: &dyn Random,
) -> (Departure, PendingAuthorization) {
    let config = flow.config();
    let (state, browser) = (token(random), token(random));
    let client = oauth2::basic::BasicClient::new(oauth2::ClientId::new(config.client_id.clone()))
        .set_auth_uri(oauth2::AuthUrl::from_url(flow.authorize_url().clone()));
    let csrf = state.expose().to_owned();
    let redirect = RedirectUrl::from_url(flow.redirect_url().clone());
    let mut request = client.authorize_url(|| CsrfToken::new(csrf)).set_redirect_uri(std::borrow::Cow::Owned(redirect));
    for group in &wanted.scopes {
        request = request.add_extra_param(group.parameter.as_str(), join(&group.scopes, config.scope_joint));
    }
    for (name, value) in config.authorize_params.iter().chain(&wanted.params) {
        request = request.add_extra_param(name.as_str(), value.as_str());
    }
    let mut verifier = None;
    if config.pkce {
        let secret = token(random);
        let challenge =
            PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(secret.expose().to_owned()));
        request = request.set_pkce_challenge(challenge);
        verifier = Some(secret);
    }
    let (url, _) = request.url();
    let state = hash(&state);
    let set_cookie = cookie(flow, &state, browser.expose(), PENDING_LIFE);
    let pending = PendingAuthorization {
        flow: config.name.clone(),
        tenant: wanted.tenant,
        connection: wanted.connection,
        state,
        browser: hash(&browser),
        verifier,
        scopes: wanted.scopes,
        return_to: wanted.return_to,
        expires_at: now.plus(PENDING_LIFE),
    };
    (Departure { redirect_url: Secret::new(url.as_str()), set_cookie }, pending)
}

/// Finishes a flow: checks that the callback is the answer to it, in the same browser, and trades the code. The pending
/// authorisation is used up by it, whatever comes of it. `cookies` is the callback's `Cookie` header.
///
/// # Errors
/// Why it was refused, in words for the one in front of the browser and a reason for the log.
pub async fn finish(
    flow: &OAuth2Flow,
    pending: PendingAuthorization,
    callback: &Callback,
    cookies: Option<&str>,
    now: Timestamp,
) -> Result<Grant, RefusedKind> {
    let code = checked(flow, &pending, callback, cookies, now)?;
    let PendingAuthorization { flow: name, tenant, connection, verifier, scopes, .. } = pending;
    let (tokens, account) = flow.trade_code(code.clone(), verifier, &scopes).await.map_err(of_token_error)?;
    let asked = scopes.iter().any(|group| !group.scopes.is_empty());
    if asked && tokens.iter().all(|tokens| tokens.granted.is_empty()) {
        return Err(RefusedKind::NothingGranted);
    }
    Ok(Grant { tenant, connection, flow: name, account, tokens })
}

/// Gives the code of a callback that is the answer to the pending flow.
fn checked<'c>(
    flow: &OAuth2Flow,
    pending: &PendingAuthorization,
    callback: &'c Callback,
    cookies: Option<&str>,
    now: Timestamp,
) -> Result<&'c Secret, RefusedKind> {
    let state = callback.state.as_ref().map(hash).ok_or(RefusedKind::UnknownState)?;
    if !same(&state, &pending.state) || flow.config().name != pending.flow {
        return Err(RefusedKind::UnknownState);
    }
    if now >= pending.expires_at {
        return Err(RefusedKind::Expired);
    }
    if !is_bound(flow, &pending.state, &pending.browser, cookies.unwrap_or_default()) {
        return Err(RefusedKind::OtherBrowser);
    }
    if let Some(issuer) = &flow.config().issuer
        && callback.issuer.as_ref() != Some(issuer)
    {
        return Err(RefusedKind::WrongIssuer);
    }
    match &callback.answer {
        Answer::Code(code) => Ok(code),
        Answer::Error(code) => Err(of_callback_error(code)),
        Answer::Neither => Err(RefusedKind::Malformed),
    }
}

/// RFC 6749, 4.1.2.1, and what OpenID Connect adds (3.1.2.6).
fn of_callback_error(code: &str) -> RefusedKind {
    match code {
        "access_denied"
        | "consent_required"
        | "interaction_required"
        | "login_required"
        | "account_selection_required" => RefusedKind::Denied,
        "temporarily_unavailable" | "server_error" => RefusedKind::ProviderFailed,
        _ => RefusedKind::Misconfigured,
    }
}

fn of_token_error(error: TokenError) -> RefusedKind {
    match error {
        TokenError::Refused(refusal) if refusal.is_passing() => RefusedKind::ProviderFailed,
        TokenError::Refused(refusal) if refusal.is_invalid_grant() => RefusedKind::CodeRefused,
        TokenError::Refused(_) => RefusedKind::Misconfigured,
        TokenError::Unanswered(error) if error.outcome() == crate::Outcome::NotSent => RefusedKind::ProviderFailed,
        TokenError::Unanswered(_) | TokenError::Unreadable => RefusedKind::AnswerLost,
    }
}

/// What a browser came back with.
#[derive(Clone)]
pub struct Callback {
    state: Option<Secret>,
    issuer: Option<String>,
    answer: Answer,
}

#[derive(Clone)]
enum Answer {
    Code(Secret),
    Error(String),
    Neither,
}

impl Callback {
    /// Reads the query of the callback address.
    ///
    /// # Errors
    /// [`RefusedKind::Malformed`] when a parameter stands there twice (RFC 6749, 3.1) or it is too long to be one.
    pub fn parse(query: &str) -> Result<Self, RefusedKind> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(RefusedKind::Malformed);
        }
        let (mut state, mut issuer, mut code, mut error) = (None, None, None, None);
        for (name, value) in form_urlencoded::parse(query.trim_start_matches('?').as_bytes()) {
            let known = match &*name {
                "state" => &mut state,
                "iss" => &mut issuer,
                "code" => &mut code,
                "error" => &mut error,
                _ => continue,
            };
            if known.replace(value.into_owned()).is_some() {
                return Err(RefusedKind::Malformed);
            }
        }
        let answer = match (code.filter(|code| !code.is_empty()), error) {
            (Some(code), None) => Answer::Code(code.into()),
            (None, Some(error)) => Answer::Error(error),
            (None, None) | (Some(_), Some(_)) => Answer::Neither,
        };
        Ok(Self { state: state.map(Secret::from), issuer, answer })
    }

    /// Returns what the pending authorisation is found by.
    #[must_use]
    pub fn state(&self) -> Option<TokenHash> {
        self.state.as_ref().map(hash)
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answer = match &self.answer {
            Answer::Code(_) => "code",
            Answer::Error(_) => "error",
            Answer::Neither => "neither",
        };
        f.debug_struct("Callback").field("answer", &answer).finish_non_exhaustive()
    }
}

// ------------------------------------------------------------------------------------------ tokens and cookies

/// Makes a token of 256 random bits.
pub(super) fn token(random: &dyn Random) -> Secret {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill(bytes.as_mut_slice());
    Secret::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
}

pub(super) fn hash(token: &Secret) -> TokenHash {
    TokenHash(Sha256::digest(token.expose().as_bytes()).into())
}

pub(super) fn same(one: &TokenHash, other: &TokenHash) -> bool {
    one.0.ct_eq(&other.0).into()
}

/// Each flow has a cookie of its own, so that two begun in one browser do not end each other. The prefix `__Host-` keeps
/// other hosts of the domain from setting it; browsers take it with `Secure` only.
fn cookie_name(flow: &OAuth2Flow, state: &TokenHash) -> String {
    let [a, b, c, d, ..] = state.0;
    let prefix = if is_secure(flow) { "__Host-" } else { "" };
    format!("{prefix}{COOKIE}-{a:02x}{b:02x}{c:02x}{d:02x}")
}

fn is_secure(flow: &OAuth2Flow) -> bool {
    flow.redirect_url().scheme() == "https" || !is_loopback(flow.redirect_url())
}

fn cookie(flow: &OAuth2Flow, state: &TokenHash, value: &str, life: Duration) -> Secret {
    let name = cookie_name(flow, state);
    let secure = if is_secure(flow) { "; Secure" } else { "" };
    Secret::new(format!("{name}={value}; Path=/; Max-Age={}{secure}; HttpOnly; SameSite=Lax", life.as_secs()))
}

/// Returns the `Set-Cookie` header that removes a flow's cookie.
pub(super) fn clear_cookie(flow: &OAuth2Flow, state: &TokenHash) -> String {
    cookie(flow, state, "", Duration::ZERO).expose().to_owned()
}

/// Whether the cookies hold the one that this flow was bound to. Every cookie of the name is looked at.
fn is_bound(flow: &OAuth2Flow, state: &TokenHash, browser: &TokenHash, cookies: &str) -> bool {
    let name = cookie_name(flow, state);
    let of_name = cookies.split(';').filter_map(|pair| pair.trim().split_once('=')).filter(|(known, _)| *known == name);
    of_name.fold(false, |bound, (_, value)| bound | same(&hash(&Secret::new(value)), browser))
}

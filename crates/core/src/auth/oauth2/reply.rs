//! Reading the answers of an authorisation server, as lenient as is safe.

use std::fmt;
use std::time::Duration;

use oauth2::TokenResponse;
use oauth2::basic::BasicTokenResponse;
use serde_json::Value;

use super::wire::TokenError;
use super::{OAuth2Config, ScopeGroup, ScopeJoint};
use crate::auth::flow::RenewalAsk;
use crate::auth::grant::{Renewal, Tokens};
use crate::id::GrantName;
use crate::secret::Secret;
use crate::store::Revocation;

/// No token is believed to live longer: what is beyond it is as good as for ever, and must not overflow a date.
const LIFETIME_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// What an answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: a dialect decides on each")]
pub enum Asked {
    /// A code.
    Code,
    /// A refresh token.
    Refresh,
    /// The client's own credentials, or an assertion.
    Credentials,
    /// A long-lived token that is to be exchanged.
    Exchange,
    /// A revocation.
    Revocation,
}

/// An answer of an authorisation server.
#[derive(Clone, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The body, or null when it is not JSON.
    pub body: Value,
    /// The provider's own code of a failure.
    pub code: Option<String>,
}

impl Reply {
    /// Makes it a failure of RFC 6749 with the code `standard`, and keeps the provider's own.
    #[must_use]
    pub fn failed(mut self, standard: &str, own: &str) -> Self {
        self.status = self.status.max(400);
        self.body = serde_json::json!({ "error": standard });
        self.code = Some(own.to_owned());
        self
    }

    /// Returns the RFC 6749 code of a failure.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.body.get("error").and_then(Value::as_str)
    }
}

impl fmt::Debug for Reply {
    /// Never the body: it holds tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).field("code", &self.code).finish_non_exhaustive()
    }
}

/// Corrects what servers get wrong in ways that have one meaning only: a number as text, a scope as list or null, no
/// token type, commas between scopes.
pub(super) fn lenient(body: &mut Value, joint: ScopeJoint) {
    let Some(fields) = body.as_object_mut().filter(|fields| fields.contains_key("access_token")) else { return };
    if !fields.get("token_type").is_some_and(Value::is_string) {
        fields.insert("token_type".to_owned(), "bearer".into());
    }
    if let Some(lifetime) = fields.get("expires_in") {
        let seconds = match lifetime {
            Value::Number(number) => number.as_u64().or_else(|| number.as_f64().map(|seconds| seconds.max(0.0) as u64)),
            Value::String(text) => text.trim().parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        match seconds {
            Some(seconds) => fields.insert("expires_in".to_owned(), seconds.into()),
            None => fields.remove("expires_in"),
        };
    }
    if fields.get("refresh_token").is_some_and(|token| token.as_str().is_none_or(str::is_empty)) {
        fields.remove("refresh_token");
    }
    let scope = match fields.get("scope") {
        Some(Value::String(scope)) if joint == ScopeJoint::Comma => Some(scope.replace(',', " ")),
        Some(Value::Array(list)) => Some(list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        Some(Value::String(_)) | None => return,
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => None,
    };
    match scope {
        Some(scope) => fields.insert("scope".to_owned(), scope.into()),
        None => fields.remove("scope"),
    };
}

/// Reads the grants of a successful answer.
///
/// # Errors
/// [`TokenError::Unreadable`] when there is none, or one is no token answer.
pub(super) fn tokens(
    config: &OAuth2Config,
    body: &Value,
    renewed: Option<&GrantName>,
    groups: &[ScopeGroup],
) -> Result<Vec<Tokens>, TokenError> {
    let parts = config.dialect.grants(body, renewed);
    if parts.is_empty() {
        return Err(TokenError::Unreadable);
    }
    let read = |(name, part)| {
        let requested = requested(&name, groups);
        read(name, part, config.scope_joint, config.lifetime, requested)
    };
    parts.into_iter().map(read).collect()
}

/// The scopes that were asked for in a grant of that name.
fn requested(name: &GrantName, groups: &[ScopeGroup]) -> Vec<String> {
    let of_grant = groups.iter().filter(|group| group.grant == *name);
    let scopes: Vec<String> = of_grant.flat_map(|group| group.scopes.clone()).collect();
    match groups {
        // A provider that gives one grant gives it for everything that was asked.
        [only] if scopes.is_empty() => only.scopes.clone(),
        _ => scopes,
    }
}

/// Reads one token answer of RFC 6749, section 5.1.
///
/// # Errors
/// [`TokenError::Unreadable`] when it is none.
pub(in crate::auth) fn read(
    name: GrantName,
    mut part: Value,
    joint: ScopeJoint,
    otherwise: Option<Duration>,
    requested: Vec<String>,
) -> Result<Tokens, TokenError> {
    lenient(&mut part, joint);
    let reply: BasicTokenResponse = serde_json::from_value(part).map_err(|_| TokenError::Unreadable)?;
    if reply.access_token().secret().is_empty() {
        return Err(TokenError::Unreadable);
    }
    let named = reply.scopes().map(|scopes| scopes.iter().map(|scope| scope.to_string()));
    let granted = match named {
        Some(named) => named.filter(|scope| !scope.is_empty()).collect(),
        // Left out when it is what was asked for.
        None => requested.clone(),
    };
    Ok(Tokens {
        name,
        access: Secret::new(reply.access_token().secret().as_str()),
        renewal: match reply.refresh_token() {
            Some(token) => Renewal::RefreshToken(Secret::new(token.secret().as_str())),
            None => Renewal::Never,
        },
        expires_in: lifetime(reply.expires_in(), otherwise),
        requested,
        granted,
    })
}

/// Some servers say 0 for "does not expire": a token that is dead when it is born helps nobody.
fn lifetime(said: Option<Duration>, otherwise: Option<Duration>) -> Option<Duration> {
    said.filter(|said| !said.is_zero()).or(otherwise).map(|lifetime| lifetime.min(LIFETIME_MAX))
}

/// Reads the answer to a renewal: what it leaves out stays as it was.
pub(super) fn renewed(config: &OAuth2Config, body: &Value, asked: RenewalAsk) -> Result<Tokens, TokenError> {
    let mut tokens = only(tokens(config, body, Some(&asked.name), &[])?)?;
    if matches!(tokens.renewal, Renewal::Never) {
        tokens.renewal = asked.renewal;
    }
    if tokens.granted.is_empty() {
        tokens.granted = asked.granted;
    }
    tokens.name = asked.name;
    tokens.requested = asked.requested;
    Ok(tokens)
}

/// The one grant of an answer that is about one.
pub(super) fn only(tokens: Vec<Tokens>) -> Result<Tokens, TokenError> {
    tokens.into_iter().next().ok_or(TokenError::Unreadable)
}

/// Reads the answer to a revocation: any success, and a token that is not known (any more), count as confirmed.
pub(super) fn revoked(reply: &Reply) -> Option<Revocation> {
    match (reply.status, reply.error()) {
        (200..=299, None) => Some(Revocation::Confirmed),
        (400..=499, Some("invalid_token" | "invalid_grant")) => Some(Revocation::Confirmed),
        (408 | 425 | 429 | 500..=599, _) => None,
        (_, Some("temporarily_unavailable" | "server_error" | "internal_failure")) => None,
        _ => Some(Revocation::NotConfirmed),
    }
}

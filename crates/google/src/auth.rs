//! What authenticates a Google account: OAuth with a refresh token that stays, a service account's key, or for an hour an
//! access token as it is; each is sent as bearer.
//!
//! Google's ways are data (developers.google.com, identity protocols, OAuth 2.0; read 2026-11): a refresh token is given
//! with `access_type=offline` and `prompt=consent` only, comes once and stays; scopes are ticked one by one by the user,
//! so what was granted is compared with what was asked; the audience of a service account's assertion is Google's token
//! address whatever it is sent to.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use palisade_core::auth::Scheme;
use palisade_core::auth::grant::MAIN;
use palisade_core::auth::jwt::{SelfSigned, ServiceAccountConfig};
use palisade_core::auth::oauth2::{ClientAuth, Dialect, OAuth2Config, RevocationWay};
use palisade_core::id::GrantName;
use palisade_core::{Error, ErrorKind, Result, Secret};
use serde_json::Value;

mod service_account;

pub use service_account::service_account_key;

/// Where people give their consent.
pub const AUTHORIZE_URL: &str = "https://accounts.google.com/o/oauth2/v2/auth";
/// Where codes, refresh tokens and assertions are traded.
pub const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
/// Where a grant is ended.
pub const REVOKE_URL: &str = "https://oauth2.googleapis.com/revoke";

/// Reading mail with its labels, without changing any.
pub const GMAIL_READONLY: &str = "https://www.googleapis.com/auth/gmail.readonly";
/// Reading headers and labels only: no bodies, no search.
pub const GMAIL_METADATA: &str = "https://www.googleapis.com/auth/gmail.metadata";
/// Sending mail and nothing else.
pub const GMAIL_SEND: &str = "https://www.googleapis.com/auth/gmail.send";
/// Reading calendars.
pub const CALENDAR_READONLY: &str = "https://www.googleapis.com/auth/calendar.readonly";
/// Reading and writing events.
pub const CALENDAR_EVENTS: &str = "https://www.googleapis.com/auth/calendar.events";

/// Knowing the account's address.
const EMAIL: &str = "https://www.googleapis.com/auth/userinfo.email";
/// Knowing the person's name.
const PROFILE: &str = "https://www.googleapis.com/auth/userinfo.profile";

/// A refresh token dies after half a year unused; well before that an idle grant is renewed once.
const KEEP_ALIVE: Duration = Duration::from_secs(30 * 86_400);

/// The settings of Google's consent flow for an app. The account's address is asked for besides `scopes`, so that the
/// account is known by it. Scopes given at one connect stand in place of these; what was granted before is kept then
/// (incremental authorization), the address with it.
///
/// ```
/// use palisade_google::auth;
///
/// let config = auth::connect("1-x.apps.googleusercontent.com", "GOCSPX-x".into(), "https://app.example/google", &[auth::GMAIL_SEND]);
/// assert_eq!(config.name, "google");
/// assert!(config.policy.refresh_reusable);
/// ```
#[must_use]
pub fn connect(client_id: &str, client_secret: Secret, redirect_url: &str, scopes: &[&str]) -> OAuth2Config {
    let asked: Vec<&str> = ["openid", EMAIL].into_iter().chain(scopes.iter().map(|scope| long(scope))).collect();
    let mut config = OAuth2Config::new("google", AUTHORIZE_URL, TOKEN_URL, redirect_url, client_id)
        .secret(client_secret)
        .scopes(&asked);
    config.client_auth = ClientAuth::Body;
    config.authorize_params = [("access_type", "offline"), ("prompt", "consent"), ("include_granted_scopes", "true")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    config.scopes_add_up = true;
    config.revocation = RevocationWay::Token(REVOKE_URL.to_owned());
    config.policy.refresh_reusable = true;
    config.policy.keep_alive = Some(KEEP_ALIVE);
    config.dialect = Arc::new(GoogleDialect);
    config
}

/// Sends a flow to another address, which serves all of Google's: an emulator.
#[must_use]
pub fn at(mut flow: OAuth2Config, base_url: &str) -> OAuth2Config {
    let base_url = base_url.trim_end_matches('/');
    flow.authorize_url = format!("{base_url}/o/oauth2/v2/auth");
    flow.token_url = format!("{base_url}/token");
    flow.revocation = RevocationWay::Token(format!("{base_url}/revoke"));
    flow.base_url = Some(base_url.to_owned());
    flow
}

/// The settings of service accounts, with and without a user to act for. A service account has no mailbox: Gmail needs
/// one to act for, by domain-wide delegation; a calendar may also be shared with the account's address.
#[must_use]
pub fn service_accounts() -> ServiceAccountConfig {
    ServiceAccountConfig::new(TOKEN_URL)
}

/// The settings of service accounts whose own tokens the APIs take without a trade (a token signed for its scopes).
/// Whoever acts for a user still trades.
#[must_use]
pub fn service_accounts_self_signed() -> ServiceAccountConfig {
    ServiceAccountConfig { self_signed: Some(SelfSigned::Scopes), ..service_accounts() }
}

/// Sends assertions to another address: an emulator. Their audience stays Google's, as in Google's own libraries.
#[must_use]
pub fn service_accounts_at(mut config: ServiceAccountConfig, base_url: &str) -> ServiceAccountConfig {
    config.token_url = format!("{}/token", base_url.trim_end_matches('/'));
    config
}

/// Writes a scope as Google's answers name it: two have a short name that is taken and never given back.
fn long(scope: &str) -> &str {
    match scope {
        "email" => EMAIL,
        "profile" => PROFILE,
        _ => scope,
    }
}

/// What is particular to Google's answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct GoogleDialect;

impl Dialect for GoogleDialect {
    /// Names the scopes with a short name by both, so that whichever was asked for is found.
    fn grants(&self, body: &Value, renewed: Option<&GrantName>) -> Vec<(GrantName, Value)> {
        let mut body = body.clone();
        if let Some(Value::String(scopes)) = body.get_mut("scope") {
            let had: Vec<String> = scopes.split(' ').map(str::to_owned).collect();
            for (short, long) in [("email", EMAIL), ("profile", PROFILE)] {
                if had.iter().any(|scope| scope == long) && had.iter().all(|scope| scope != short) {
                    scopes.push(' ');
                    scopes.push_str(short);
                }
            }
        }
        vec![(renewed.cloned().unwrap_or_else(|| MAIN.into()), body)]
    }

    /// Reads the account's address from the ID token. It came from Google's token endpoint itself, over TLS, so its
    /// signature proves nothing more (OpenID Connect Core, 3.1.3.7). An address Google has not verified names nobody.
    fn account(&self, body: &Value) -> Option<String> {
        let claims = body.get("id_token")?.as_str()?.split('.').nth(1)?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let verified = claims.get("email_verified") == Some(&Value::Bool(true));
        let email = claims.get("email").and_then(Value::as_str).filter(|email| verified && email.contains('@'));
        email.map(str::to_owned)
    }
}

/// Takes an access token as the credential of a connection. It lives an hour: for tests, scripts and the emulator.
///
/// # Errors
/// [`ErrorKind::Config`] for an API key, a client secret, a refresh token, a service account's key file, and anything
/// with blanks or line breaks in it. The message never holds the token.
pub fn access_token(token: Secret) -> Result<Scheme> {
    let text = token.expose();
    let wrong = |why: &'static str| Err(Error::new(ErrorKind::Config, why).during("google", "auth"));
    if text.is_empty() {
        return wrong("the access token is empty");
    }
    if text.trim_start().starts_with('{') {
        return wrong(
            "this is the key file of a service account (give it as service_account) or of a client (for a [[flow]]), and no access token",
        );
    }
    if text.bytes().any(|c| !c.is_ascii_graphic()) {
        return wrong("the access token holds a blank or line break: was something copied with it?");
    }
    if text.starts_with("AIza") {
        return wrong("this is an API key (AIza…): mail and calendars need a user's access token");
    }
    if text.starts_with("GOCSPX-") {
        return wrong("this is a client secret (GOCSPX-…): connect with it, it is no access token");
    }
    if text.starts_with("1//") {
        return wrong("this is a refresh token (1//…): connect with it, it is no access token");
    }
    Ok(Scheme::Bearer(token))
}

#[cfg(test)]
mod tests {
    //! Each wrong kind of secret is refused, and none is told.
    use palisade_core::auth::oauth2::ScopeJoint;
    use serde_json::json;

    use super::*;

    /// Fails when Google would give no refresh token, or one that is thrown away.
    #[test]
    fn the_consent_asks_for_what_lasts() {
        let config = connect("id", "GOCSPX-x".into(), "https://app.example/google", &[GMAIL_SEND, "profile"]);
        let asked =
            |name: &str| config.authorize_params.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        assert_eq!((asked("access_type"), asked("prompt")), (Some("offline"), Some("consent")));
        assert_eq!(config.scopes[0].scopes, ["openid", EMAIL, GMAIL_SEND, PROFILE]);
        assert_eq!((config.scope_joint, config.pkce), (ScopeJoint::Space, true));
        assert!(config.policy.refresh_reusable && config.scopes_add_up);
        assert_eq!(config.revocation, RevocationWay::Token(REVOKE_URL.to_owned()));
        assert!(!format!("{config:?}").contains("GOCSPX-x"));
        assert_eq!(service_accounts().audience, TOKEN_URL);
        let moved = at(config, "http://127.0.0.1:7/");
        assert_eq!(
            (moved.token_url.as_str(), moved.base_url.as_deref()),
            ("http://127.0.0.1:7/token", Some("http://127.0.0.1:7"))
        );
        let moved = service_accounts_at(service_accounts_self_signed(), "http://127.0.0.1:7/");
        assert_eq!((moved.token_url.as_str(), moved.audience.as_str()), ("http://127.0.0.1:7/token", TOKEN_URL));
    }

    #[test]
    fn the_account_is_the_verified_address_of_the_id_token() {
        let token = |claims: &Value| format!("e30.{}.x", URL_SAFE_NO_PAD.encode(claims.to_string()));
        for (body, account) in [
            (
                json!({ "id_token": token(&json!({ "sub": "1", "email": "a@x.example", "email_verified": true })) }),
                Some("a@x.example"),
            ),
            (json!({ "id_token": token(&json!({ "email": "a@x.example", "email_verified": false })) }), None),
            (json!({ "id_token": token(&json!({ "email": "a@x.example" })) }), None),
            (json!({ "id_token": token(&json!({ "sub": "1" })) }), None),
            (json!({ "id_token": "a.b.c" }), None),
            (json!({ "id_token": 7 }), None),
            (json!({}), None),
        ] {
            assert_eq!(GoogleDialect.account(&body).as_deref(), account, "{body}");
        }
    }

    #[test]
    fn only_access_tokens_are_taken_and_none_is_told() {
        for (text, taken) in [
            ("ya29.NotARealToken0000000000000", true),
            ("opaque-token-of-the-emulator-NotARealToken0000000000000", true),
            ("AIzaNotARealToken0000000000000", false),
            ("GOCSPX-NotARealToken0000000000000", false),
            ("1//NotARealToken0000000000000", false),
            ("{\"type\":\"service_account\",\"private_key\":\"NotARealToken0000000000000\"}", false),
            ("ya29.NotARealToken0000000000000\n", false),
            ("", false),
        ] {
            let said = match access_token(text.into()) {
                Ok(scheme) => {
                    assert!(taken, "{text:?}");
                    format!("{scheme:?}")
                }
                Err(error) => {
                    assert!(!taken, "{text:?}");
                    assert_eq!(error.kind(), ErrorKind::Config);
                    format!("{error} {error:?} {}", error.user_message())
                }
            };
            assert!(!said.contains("NotARealToken0000000000000"), "{said}");
        }
    }
}

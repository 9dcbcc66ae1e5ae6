//! What authenticates a Stripe account: a secret or restricted API key, sent as bearer; or what Connect gives a platform
//! for somebody else's account.
//!
//! The kinds of key are told apart by their prefix (Stripe API reference, authentication; read 2026-11), so that the
//! wrong one is refused here, with a sentence that says which one is needed, instead of as a 401 later.
//!
//! Connect (Stripe API reference, OAuth; stripe-node 23.1, `resources/OAuth`; read 2026-11): the platform shows its own
//! secret key as bearer, refresh tokens may be used again, access tokens do not expire, there is no PKCE, and a
//! connection ends by `deauthorize`, which names the account.

use std::sync::Arc;

use palisade_core::auth::oauth2::{Asked, ClientAuth, Dialect, OAuth2Config, Reply, RevocationWay};
use palisade_core::auth::{Credential, Scheme};
use palisade_core::store::Revocation;
use palisade_core::{Error, ErrorKind, Result, Secret};
use serde_json::Value;

/// Where accounts are connected.
pub const CONNECT_URL: &str = "https://connect.stripe.com";

/// Takes an API key as the credential of a connection.
///
/// ```
/// use palisade_stripe::auth::api_key;
///
/// assert!(api_key("sk_test_NotARealKey".into()).is_ok());
/// assert!(api_key("pk_test_NotARealKey".into()).is_err(), "a publishable key cannot call the API");
/// ```
///
/// # Errors
/// [`ErrorKind::Config`] for a publishable key, a signing secret, a text with blanks or line breaks, and anything
/// else that is no key of Stripe's. The message never holds the key.
pub fn api_key(key: Secret) -> Result<Scheme> {
    let text = key.expose();
    let wrong = |why: &'static str| Err(Error::new(ErrorKind::Config, why).during("stripe", "auth"));
    if text.is_empty() {
        return wrong("the API key is empty");
    }
    if text.bytes().any(|c| !c.is_ascii_graphic()) {
        return wrong("the API key holds a blank or line break: was something copied with it?");
    }
    match text.split_once('_').map_or("", |(prefix, _)| prefix) {
        "sk" | "rk" | "rkcs" => Ok(Scheme::Bearer(key)),
        "pk" => {
            wrong("this is a publishable key (pk_…): the hub needs the secret key (sk_…) or a restricted one (rk_…)")
        }
        "whsec" => {
            wrong("this is a webhook's signing secret (whsec_…): the connection needs an API key (sk_… or rk_…)")
        }
        _ => wrong("this is no Stripe API key: it begins with sk_ or rk_"),
    }
}

/// The class of keys that call live accounts.
pub const LIVE: &str = "live";
/// The class of keys that call sandboxes (test mode), whose limits are lower.
pub const SANDBOX: &str = "sandbox";

/// Tells by the prefix of its key whether a credential calls a sandbox or a live account.
#[must_use]
pub fn class(credential: &Credential) -> &'static str {
    let sandbox = ["sk_test_", "rk_test_", "rkcs_test_", "sk_org_test_"];
    if sandbox.iter().any(|prefix| credential.begins_with(prefix)) { SANDBOX } else { LIVE }
}

/// Returns the settings of Connect's OAuth for standard accounts: a platform's client id (`ca_…`) and secret key, and
/// the address the browser comes back to. The scope is `read_write`; change it, or the name, in what is returned.
///
/// ```
/// use palisade_stripe::auth::connect;
///
/// let config = connect("ca_1", "sk_test_NotARealKey".into(), "https://app.example/auth/stripe/callback")?;
/// assert_eq!(config.authorize_url, "https://connect.stripe.com/oauth/authorize");
/// # Ok::<(), palisade_core::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Config`] as [`api_key`], and for a client id that is none.
pub fn connect(client_id: &str, platform_key: Secret, redirect_url: &str) -> Result<OAuth2Config> {
    connect_at(CONNECT_URL, client_id, platform_key, redirect_url)
}

/// As [`connect`], at another address: an emulator.
///
/// # Errors
/// As [`connect`].
pub fn connect_at(base_url: &str, client_id: &str, platform_key: Secret, redirect_url: &str) -> Result<OAuth2Config> {
    let Scheme::Bearer(platform_key) = api_key(platform_key)? else {
        return Err(Error::new(ErrorKind::Config, "the platform's key is no API key").during("stripe", "auth"));
    };
    if !client_id.starts_with("ca_") {
        let why = "this is no client id of Connect: it begins with ca_ (Settings, Connect, OAuth)";
        return Err(Error::new(ErrorKind::Config, why).during("stripe", "auth"));
    }
    let base_url = base_url.trim_end_matches('/');
    let at = |path: &str| format!("{base_url}/oauth/{path}");
    let mut config =
        OAuth2Config::new("stripe", &at("authorize"), &at("token"), redirect_url, client_id).scopes(&["read_write"]);
    config.client_auth = ClientAuth::Bearer(platform_key);
    config.redirect_url_at_token = false;
    config.pkce = false;
    config.revocation = RevocationWay::Account { url: at("deauthorize"), parameter: "stripe_user_id".to_owned() };
    config.policy.refresh_reusable = true;
    config.dialect = Arc::new(Connect);
    Ok(config)
}

/// How Connect answers: flat errors as RFC 6749 has them, and those of the API where the platform's key is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connect;

impl Dialect for Connect {
    fn normalise(&self, _asked: Asked, reply: Reply) -> Reply {
        let Some(error) = reply.body.get("error").filter(|error| error.is_object()) else { return reply };
        let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
        let own = text("code").or_else(|| text("type")).unwrap_or_else(|| "api_error".to_owned());
        let standard = if reply.status >= 500 { "server_error" } else { "invalid_client" };
        reply.failed(standard, &own)
    }

    fn account(&self, body: &Value) -> Option<String> {
        body.get("stripe_user_id").and_then(Value::as_str).map(str::to_owned)
    }

    /// An account that is not connected (any more) answers `invalid_client`, as a wrong client id does; only the text
    /// tells them apart.
    fn revoked(&self, reply: &Reply) -> Option<Revocation> {
        let text = reply.body.get("error_description").and_then(Value::as_str).unwrap_or_default();
        match (reply.status, reply.error()) {
            (200..=299, None) => Some(Revocation::Confirmed),
            (400..=499, Some("invalid_client")) if text.contains("not connected") => Some(Revocation::Confirmed),
            (408 | 409 | 429 | 500..=599, _) => None,
            _ => Some(Revocation::NotConfirmed),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Each wrong kind of key is refused, and none is told.
    use super::*;

    /// Fails when a sandbox's key is given a live account's limit.
    #[test]
    fn a_keys_prefix_tells_sandbox_from_live() {
        for (key, expected) in [
            ("sk_test_x", SANDBOX),
            ("rk_test_x", SANDBOX),
            ("rkcs_test_x", SANDBOX),
            ("sk_live_test_", LIVE),
            ("rk_live_x", LIVE),
            ("Bearer sk_test_", LIVE),
        ] {
            let credential = Credential::new(&Scheme::Bearer(key.into()), 1, None).unwrap();
            assert_eq!(class(&credential), expected, "{key}");
        }
        let basic = Scheme::Basic { user: "sk_test_x".to_owned(), password: "".into() };
        assert_eq!(class(&Credential::new(&basic, 1, None).unwrap()), LIVE);
    }

    #[test]
    fn only_secret_and_restricted_keys_are_taken_and_none_is_told() {
        for (text, taken) in [
            ("sk_test_NotARealKey0000000000000", true),
            ("sk_live_NotARealKey0000000000000", true),
            ("rk_live_NotARealKey0000000000000", true),
            ("rkcs_test_NotARealKey0000000000000", true),
            ("pk_live_NotARealKey0000000000000", false),
            ("whsec_NotARealKey0000000000000", false),
            ("sk_live_NotARealKey0000000000000\n", false),
            ("sk_live NotARealKey0000000000000", false),
            ("", false),
            ("NotARealKey0000000000000", false),
        ] {
            let said = match api_key(text.into()) {
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
            assert!(!said.contains("NotARealKey0000000000000"), "{said}");
        }
    }
}

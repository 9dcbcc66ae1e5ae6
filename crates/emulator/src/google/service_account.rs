//! Service accounts: assertions they sign for a token, and tokens they sign themselves.
//!
//! Facts from developers.google.com (using OAuth 2.0 for server to server applications, read November 2026) and from
//! google-auth for Python, which writes Google's own token address as `aud` whatever address it calls.

use serde_json::{Value, json};

use super::GoogleProvider;
use super::jwt::Unverified;
use crate::gate::House;

/// The built-in account.
const EMAIL: &str = "palisade@emulated-project.iam.gserviceaccount.com";
const KEY_ID: &str = "7d790d9f5524a8efc8d1ee27703c2b1e6b52cb87";
const PRIVATE: &str = include_str!("keys/service_account.pem");
const PUBLIC: &str = include_str!("keys/service_account.pub.pem");

/// Token addresses that Google's own libraries write as audience.
const AUDIENCES: [&str; 3] = [
    "https://oauth2.googleapis.com/token",
    "https://www.googleapis.com/oauth2/v4/token",
    "https://accounts.google.com/o/oauth2/token",
];
/// Longest life of an assertion, in seconds.
const LIFE_MAX: i64 = 3600;
/// How far a caller's clock may be ahead, in seconds.
const AHEAD_MAX: i64 = 300;

/// A service account the emulator knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its address.
    pub email: String,
    /// The `kid` its assertions carry.
    pub key_id: String,
    /// The public half of its key: PEM, `PUBLIC KEY`.
    pub public_key: String,
    /// Scopes it may use in the name of a person (domain-wide delegation).
    pub delegated: Vec<String>,
}

impl ServiceAccount {
    /// Gives the account whose key the emulator has, without delegation.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            email: EMAIL.to_owned(),
            key_id: KEY_ID.to_owned(),
            public_key: PUBLIC.to_owned(),
            delegated: Vec::new(),
        }
    }
}

/// Writes the built-in account's key file.
pub(crate) fn key_file(base_url: &str) -> Value {
    json!({
        "type": "service_account",
        "project_id": "emulated-project",
        "private_key_id": KEY_ID,
        "private_key": PRIVATE,
        "client_email": EMAIL,
        "client_id": "100000000000000000001",
        "auth_uri": format!("{base_url}/o/oauth2/v2/auth"),
        "token_uri": format!("{base_url}/token"),
        "auth_provider_x509_cert_url": format!("{base_url}/oauth2/v1/certs"),
        "universe_domain": "googleapis.com",
    })
}

/// Who asks, for whom, for what.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asserted {
    pub(crate) account: String,
    pub(crate) subject: String,
    pub(crate) scopes: Vec<String>,
}

/// Status, `error` and `error_description` of a refusal.
pub(crate) type Refused = (u16, &'static str, &'static str);

const BAD_TIME: &str = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.";
const UNAUTHORIZED: &str = "Client is unauthorized to retrieve access tokens using this method, or client not authorized for any of the scopes requested.";

/// Judges the assertion of a token request.
pub(crate) fn judge(google: &GoogleProvider, house: &House, assertion: &str) -> Result<Asserted, Refused> {
    let token = Unverified::read(assertion).ok_or((400, "invalid_grant", "Invalid JWT: malformed assertion."))?;
    let account = signer(google, &token)?;
    let own = format!("{}/token", house.base_url());
    if !token.text("aud").is_some_and(|aud| AUDIENCES.contains(&aud) || aud == own) {
        return Err((
            400,
            "invalid_grant",
            "Invalid JWT: Failed audience check. The right audience is https://oauth2.googleapis.com/token",
        ));
    }
    timely(&token, house.now() / 1000)?;
    let scopes = crate::oauth::scopes_of(token.text("scope"));
    let known = |scope: &String| scope.starts_with("https://") || ["openid", "email", "profile"].contains(&&**scope);
    if scopes.is_empty() || !scopes.iter().all(known) {
        return Err((400, "invalid_scope", "Invalid OAuth scope or ID token audience provided."));
    }
    let Some(subject) = token.text("sub").filter(|sub| *sub != account.email) else {
        return Ok(Asserted { account: account.email.clone(), subject: account.email.clone(), scopes });
    };
    if !scopes.iter().all(|scope| account.delegated.contains(scope)) {
        return Err((401, "unauthorized_client", UNAUTHORIZED));
    }
    let person = google.person(subject).ok_or((400, "invalid_grant", "Invalid email or User ID"))?;
    Ok(Asserted { account: account.email.clone(), subject: person.sub.clone(), scopes })
}

/// Judges a token that a service account signed itself, as an API accepts it in place of an access token: the
/// account speaks for itself alone, for an audience or for scopes.
pub(crate) fn self_signed(google: &GoogleProvider, house: &House, bearer: &str) -> Option<Asserted> {
    let token = Unverified::read(bearer)?;
    let account = signer(google, &token).ok()?;
    timely(&token, house.now() / 1000).ok()?;
    let scopes = crate::oauth::scopes_of(token.text("scope"));
    let purpose = token.text("aud").is_some() || !scopes.is_empty();
    (purpose && token.text("sub") == Some(&account.email)).then(|| Asserted {
        account: account.email.clone(),
        subject: account.email.clone(),
        scopes,
    })
}

fn signer<'a>(google: &'a GoogleProvider, token: &Unverified) -> Result<&'a ServiceAccount, Refused> {
    let issuer = token.text("iss").ok_or((400, "invalid_grant", "Invalid JWT: iss is missing."))?;
    let account = google.config.service_accounts.iter().find(|account| account.email == issuer);
    let account = account.ok_or((400, "invalid_grant", "Invalid grant: account not found"))?;
    let kid = token.key.as_deref().is_none_or(|kid| kid == account.key_id);
    if !kid || !token.is_signed_by(&account.public_key) {
        return Err((400, "invalid_grant", "Invalid JWT Signature."));
    }
    Ok(account)
}

fn timely(token: &Unverified, now: i64) -> Result<(), Refused> {
    let (Some(iat), Some(exp)) = (token.seconds("iat"), token.seconds("exp")) else {
        return Err((400, "invalid_grant", BAD_TIME));
    };
    let life = exp.saturating_sub(iat);
    if life <= 0 || life > LIFE_MAX || exp <= now || iat > now.saturating_add(AHEAD_MAX) {
        return Err((400, "invalid_grant", BAD_TIME));
    }
    Ok(())
}

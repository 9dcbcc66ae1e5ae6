//! The OIDC token of a push: a signed JSON Web Token, read as strictly as Google writes it.
//!
//! RS256 and nothing else (RFC 8725 section 3.1), however a token names another algorithm; no `crit`; base64url without
//! padding; audiences that are one text. What can be told without a key is told first, so that a forged token whose key
//! is unknown does not cause a fetch of keys unless all else in it is right.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use palisade_core::Timestamp;
use palisade_core::webhook::Refusal;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Jwks, PushTrust};

/// Google's tokens have about 900 bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// How far the clocks may differ, in seconds (google-auth: small skew; Google's tokens live an hour).
pub const SKEW_SECONDS: i64 = 30;
/// How Google names itself as the issuer (OpenID Connect, Google; both are in use).
const ISSUERS: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];

/// Checks a token against what an endpoint trusts.
///
/// # Errors
/// [`Refusal::UnknownScheme`] for another algorithm, [`Refusal::Untrusted`] for another issuer, audience or account,
/// [`Refusal::TooOld`] and [`Refusal::TooNew`] for the time, [`Refusal::UnknownKey`] when only the key is missing,
/// [`Refusal::Mismatch`] when the signature is not of that key.
pub fn verify(token: &str, trusts: &[&PushTrust], keys: &Jwks, now: Timestamp) -> Result<(), Refusal> {
    const MALFORMED: Refusal = Refusal::Malformed("the bearer token is not a signed JSON Web Token");
    if token.len() > TOKEN_BYTES_MAX {
        return Err(MALFORMED);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(MALFORMED)?;
    let (header, claims) = signed.split_once('.').ok_or(MALFORMED)?;
    let header = decoded(header).ok_or(MALFORMED)?;
    let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| MALFORMED)?;
    if text(header.alg).as_deref() != Some("RS256") || header.crit.is_some() {
        return Err(Refusal::UnknownScheme);
    }
    let key = text(header.kid).filter(|id| !id.is_empty()).ok_or(MALFORMED)?;
    let claims = decoded(claims).ok_or(MALFORMED)?;
    let claims: Claims<'_> = serde_json::from_slice(&claims).map_err(|_| MALFORMED)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| MALFORMED)?;
    check(&claims, trusts, now)?;
    match keys.verify(&key, signed.as_bytes(), &signature) {
        None => Err(Refusal::UnknownKey),
        Some(false) => Err(Refusal::Mismatch),
        Some(true) => Ok(()),
    }
}

/// What is read of a token's head. A field that is there twice refuses the token.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Option<&'a RawValue>,
    #[serde(borrow)]
    kid: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    crit: Option<&'a RawValue>,
}

fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What is read of its claims. A value of another type than it should have counts as absent.
#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Option<&'a RawValue>,
    #[serde(borrow)]
    aud: Option<&'a RawValue>,
    #[serde(borrow)]
    email: Option<&'a RawValue>,
    #[serde(borrow)]
    email_verified: Option<&'a RawValue>,
    #[serde(borrow)]
    exp: Option<&'a RawValue>,
    #[serde(borrow)]
    iat: Option<&'a RawValue>,
}

fn decoded(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

fn text(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

fn check(claims: &Claims<'_>, trusts: &[&PushTrust], now: Timestamp) -> Result<(), Refusal> {
    if !text(claims.iss).is_some_and(|issuer| ISSUERS.contains(&issuer.as_str())) {
        return Err(Refusal::Untrusted("the token was not issued by Google"));
    }
    let (audience, email) = (text(claims.aud), text(claims.email));
    let of_audience = |trust: &&&PushTrust| audience.as_ref() == Some(&trust.audience);
    if !trusts.iter().any(|trust| of_audience(&trust)) {
        return Err(Refusal::Untrusted("the token is for another audience than the endpoint's subscription"));
    }
    if !trusts.iter().filter(of_audience).any(|trust| email.as_ref() == Some(&trust.email)) {
        return Err(Refusal::Untrusted("the token is not of the subscription's service account"));
    }
    if claims.email_verified.map(RawValue::get) != Some("true") {
        return Err(Refusal::Untrusted("the service account's e-mail address is not verified"));
    }
    let seconds = |value: Option<&RawValue>| -> Option<i64> { serde_json::from_str(value?.get()).ok() };
    let (Some(expires), Some(issued)) = (seconds(claims.exp), seconds(claims.iat)) else {
        return Err(Refusal::Malformed("the token does not say when it was issued and when it expires"));
    };
    let now = now.seconds();
    if expires.saturating_add(SKEW_SECONDS) <= now {
        return Err(Refusal::TooOld { age_seconds: now.saturating_sub(issued) });
    }
    if issued.saturating_sub(SKEW_SECONDS) > now {
        return Err(Refusal::TooNew { ahead_seconds: issued.saturating_sub(now) });
    }
    Ok(())
}

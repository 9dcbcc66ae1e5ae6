//! The OIDC token of a push: a signed JSON Web Token, read as strictly as Google writes it.
//!
//! RS256 and nothing else (RFC 8725 section 3.1), however a token names another algorithm; no `crit`; base64url without
//! padding; audiences that are one text. What can be told without a key is told first, so that a forged token whose key
//! is unknown does not cause a fetch of keys unless all else in it is right.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::NO_PAD;
use palisade_core::Timestamp;
use palisade_core::webhook::Refusal;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Jwks, PushTrust};

/// Google's tokens have about 900 bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// How far the clocks may differ, in seconds (google-auth: small skew; Google's tokens live an hour).
pub const SKEW_SECONDS: i64 = 30;
/// How Google names itself as the issuer (OpenID Connect, Google; both are in use).
const ISSUERS: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];

/// Base64url without padding, by the processor's wide instructions where it has them. As strict as the plain one.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static BASE64URL: LazyLock<base64::engine::Simd> = LazyLock::new(|| base64::engine::Simd::url_safe(NO_PAD));
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static BASE64URL: LazyLock<base64::engine::GeneralPurpose> =
    LazyLock::new(|| base64::engine::GeneralPurpose::new(&base64::alphabet::URL_SAFE, NO_PAD));

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
    if header.alg.text() != Some("RS256") || header.crit.is_some() {
        return Err(Refusal::UnknownScheme);
    }
    let key = header.kid.text().filter(|id| !id.is_empty()).ok_or(MALFORMED)?;
    let claims = decoded(claims).ok_or(MALFORMED)?;
    let claims: Claims<'_> = serde_json::from_slice(&claims).map_err(|_| MALFORMED)?;
    let signature = BASE64URL.decode(signature).map_err(|_| MALFORMED)?;
    check(&claims, trusts, now)?;
    match keys.verify(key, signed.as_bytes(), &signature) {
        None => Err(Refusal::UnknownKey),
        Some(false) => Err(Refusal::Mismatch),
        Some(true) => Ok(()),
    }
}

/// What is read of a token's head. A field that is there twice refuses the token.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow, default)]
    alg: Field<'a>,
    #[serde(borrow, default)]
    kid: Field<'a>,
    #[serde(borrow, default, deserialize_with = "even_null")]
    crit: Option<Field<'a>>,
}

fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Field<'de>>, D::Error> {
    Field::deserialize(deserializer).map(Some)
}

/// What is read of its claims.
#[derive(Deserialize)]
struct Claims<'a> {
    #[serde(borrow, default)]
    iss: Field<'a>,
    #[serde(borrow, default)]
    aud: Field<'a>,
    #[serde(borrow, default)]
    email: Field<'a>,
    #[serde(default)]
    email_verified: Field<'a>,
    #[serde(borrow, default)]
    exp: Number<'a>,
    #[serde(borrow, default)]
    iat: Number<'a>,
}

/// A number of a token as it is written. Not read as a [`Field`]: how a number that is read as "anything" comes depends
/// on serde_json's version and on `arbitrary_precision`, which any crate of a build may turn on for all (1.0.154 still
/// has whole numbers come as such, and the rest as maps).
#[derive(Default, Deserialize)]
#[serde(transparent)]
struct Number<'a>(#[serde(borrow)] Option<&'a RawValue>);

impl Number<'_> {
    /// Returns it where it is a whole number; anything else counts as absent.
    fn whole(&self) -> Option<i64> {
        self.0?.get().parse().ok()
    }
}

/// A value of a token, read once and where it stands: a text, or true. Anything else counts as absent.
#[derive(Default)]
enum Field<'a> {
    Text(Cow<'a, str>),
    True,
    #[default]
    Other,
}

impl Field<'_> {
    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Field::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Field::Other)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(if truth { Field::True } else { Field::Other })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Field::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Field::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other)
    }
}

fn decoded(part: &str) -> Option<Vec<u8>> {
    BASE64URL.decode(part).ok()
}

fn check(claims: &Claims<'_>, trusts: &[&PushTrust], now: Timestamp) -> Result<(), Refusal> {
    if !claims.iss.text().is_some_and(|issuer| ISSUERS.contains(&issuer)) {
        return Err(Refusal::Untrusted("the token was not issued by Google"));
    }
    let (audience, email) = (claims.aud.text(), claims.email.text());
    let of_audience = |trust: &&&PushTrust| audience == Some(trust.audience.as_str());
    if !trusts.iter().any(|trust| of_audience(&trust)) {
        return Err(Refusal::Untrusted("the token is for another audience than the endpoint's subscription"));
    }
    if !trusts.iter().filter(of_audience).any(|trust| email == Some(trust.email.as_str())) {
        return Err(Refusal::Untrusted("the token is not of the subscription's service account"));
    }
    if !matches!(claims.email_verified, Field::True) {
        return Err(Refusal::Untrusted("the service account's e-mail address is not verified"));
    }
    let (Some(expires), Some(issued)) = (claims.exp.whole(), claims.iat.whole()) else {
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

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    // Fails when the quick way takes a text that the plain one refuses, or reads it differently.
    #[test]
    fn a_part_of_a_token_is_read_as_strictly_as_by_the_plain_decoder() {
        for length in [0, 1, 2, 3, 31, 32, 33, 96, 256] {
            let bytes: Vec<u8> = (0..length).map(|n: u32| (n * 151 + 7) as u8).collect();
            let text = URL_SAFE_NO_PAD.encode(&bytes);
            assert_eq!(decoded(&text), Some(bytes));
            for at in 0..text.len() {
                for other in ["+", "/", "=", " ", "\n", "_", "B", ".", "é", "", "=="] {
                    let changed = [&text[..at], other, &text[at + 1..]].concat();
                    assert_eq!(decoded(&changed), URL_SAFE_NO_PAD.decode(&changed).ok(), "{changed}");
                }
            }
            for end in ["=", "==", "A", "\n"] {
                let longer = format!("{text}{end}");
                assert_eq!(decoded(&longer), URL_SAFE_NO_PAD.decode(&longer).ok(), "{longer}");
            }
        }
    }

    #[track_caller]
    fn check(json: &str, expected: Option<(Option<&str>, Option<i64>)>) {
        let read = serde_json::from_str::<Claims<'_>>(json).ok();
        let found = read.as_ref().map(|claims| (claims.iss.text(), claims.exp.whole()));
        assert_eq!(found, expected, "{json}");
    }

    // Fails when a value of another type counts as one of the right type, or a field that is there twice is read.
    #[test]
    fn a_claim_of_another_type_counts_as_absent_and_one_that_is_there_twice_refuses() {
        check("{}", Some((None, None)));
        check(r#"{"iss":"a","exp":7}"#, Some((Some("a"), Some(7))));
        check(r#"{"iss":"\u0061","exp":-7}"#, Some((Some("a"), Some(-7))));
        for other in ["null", "true", "1.5", "[\"a\",[1]]", "{\"a\":{}}"] {
            check(&format!(r#"{{"iss":{other},"exp":{other},"more":{other}}}"#), Some((None, None)));
        }
        check(r#"{"iss":7,"exp":"7"}"#, Some((None, None)));
        check(r#"{"exp":9223372036854775808}"#, Some((None, None)));
        check(r#"{"exp":1e9}"#, Some((None, None)));
        check(r#"{"exp": 7 }"#, Some((None, Some(7))));
        // Fails when it is read as anything a value can be, and so by serde_json's features: as that, this is a fraction.
        check(r#"{"exp":-0}"#, Some((None, Some(0))));
        check(r#"{"iss":"a","iss":"a"}"#, None);
        check(r#"{"exp":1,"exp":1}"#, None);
    }
}

//! The signature of events and inbound mail: ECDSA over the curve P-256 with SHA-256.
//!
//! `X-Twilio-Email-Event-Webhook-Signature` is the signature (DER, in base64) of the text in
//! `X-Twilio-Email-Event-Webhook-Timestamp` followed by the exact body; the public key comes from the account's settings
//! (sendgrid-python 6.12, @sendgrid/eventwebhook 8.0). The official helpers check no time: the window is our own.
//!
//! A signature of this kind can be rewritten into another valid one by anybody, so nothing is ever told apart by it.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;
use http::header::CONTENT_TYPE;
use palisade_core::webhook::{RawDelivery, Refusal, TOLERANCE_SECONDS};
use palisade_core::{Secret, Timestamp};

/// The header with the signature.
pub static SIGNATURE: HeaderName = HeaderName::from_static("x-twilio-email-event-webhook-signature");
/// The header with the signed time, in seconds since 1970.
pub static TIMESTAMP: HeaderName = HeaderName::from_static("x-twilio-email-event-webhook-timestamp");
/// How old a delivery may be: SendGrid tries inbound mail again for three days and events for one, and says nothing of
/// whether a repetition is signed anew. A narrower window could refuse what is delivered after an outage; what is
/// repeated within this one is found to be a duplicate by its own identity, as long as the inbox keeps it (30 days
/// unless set otherwise). The future is bounded by [`TOLERANCE_SECONDS`].
pub const AGE_MAX_SECONDS: i64 = 3 * 86_400 + TOLERANCE_SECONDS;
/// What a secret begins with that is no verification key but a token in the endpoint's own URL.
pub const TOKEN_PREFIX: &str = "token:";
/// The query parameter the token stands in.
pub const TOKEN_PARAMETER: &str = "token";
/// Shorter tokens can be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;

/// Times of more digits are none of SendGrid's.
const TIME_DIGITS_MAX: usize = 12;
/// A signature of two numbers of 32 bytes is 72 bytes in DER at the most.
const SIGNATURE_CHARS_MAX: usize = 100;

/// Tells whether a delivery is a form with parts: inbound mail.
pub(super) fn is_multipart(delivery: &RawDelivery) -> bool {
    let kind = delivery.headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes()).unwrap_or_default();
    kind.get(..20).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/form-data;"))
        || kind.eq_ignore_ascii_case(b"multipart/form-data")
}

/// Checks a delivery: by its signature, or, for inbound mail that has none, by the token in its URL where one is set.
pub(super) fn verify(
    delivery: &RawDelivery,
    secrets: &[Secret],
    now: Timestamp,
    age_max_seconds: i64,
) -> Result<(), Refusal> {
    let signed = delivery.headers.contains_key(&SIGNATURE) || delivery.headers.contains_key(&TIMESTAMP);
    let mut tokens = secrets.iter().filter_map(|secret| secret.expose().strip_prefix(TOKEN_PREFIX)).peekable();
    if !signed && is_multipart(delivery) && tokens.peek().is_some() {
        return token(&delivery.url, tokens);
    }
    let signature = delivery.header(&SIGNATURE)?;
    let time = delivery.header(&TIMESTAMP)?;
    fresh(time, now, age_max_seconds)?;
    if signature.len() > SIGNATURE_CHARS_MAX {
        return Err(Refusal::Malformed("the signature is longer than any of this kind"));
    }
    let signature = STANDARD.decode(signature).map_err(|_| Refusal::Malformed("the signature is not base64"))?;
    let message = [time.as_bytes(), &delivery.body].concat();
    let mut readable = false;
    for secret in secrets.iter().filter(|secret| !secret.expose().starts_with(TOKEN_PREFIX)) {
        let Some(key) = public_key(secret.expose()) else { continue };
        readable = true;
        if UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(&message, &signature).is_ok() {
            return Ok(());
        }
    }
    if readable { Err(Refusal::Mismatch) } else { Err(Refusal::Malformed("no configured key is a verification key")) }
}

/// Reads a verification key as SendGrid shows it (base64 of a SubjectPublicKeyInfo), or in the same as PEM.
fn public_key(text: &str) -> Option<Vec<u8>> {
    let text = text.trim();
    let inner = match text.strip_prefix("-----BEGIN PUBLIC KEY-----") {
        Some(rest) => rest.strip_suffix("-----END PUBLIC KEY-----")?,
        None => text,
    };
    let plain: String = inner.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    // One layout of 91 bytes: the curve's name and an uncompressed point. Any other key is none of SendGrid's.
    STANDARD.decode(plain).ok().filter(|key| key.len() == SPKI.len() + 65 && key.starts_with(SPKI))
}

/// The head of a SubjectPublicKeyInfo of a point on P-256 (RFC 5480): id-ecPublicKey, prime256v1, bit string.
const SPKI: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Checks the signed time: whole seconds, not older than `age_max_seconds`, not ahead by more than the usual window.
fn fresh(time: &str, now: Timestamp, age_max_seconds: i64) -> Result<(), Refusal> {
    let digits = !time.is_empty() && time.len() <= TIME_DIGITS_MAX && time.bytes().all(|c| c.is_ascii_digit());
    let seconds: Option<i64> = if digits { time.parse().ok() } else { None };
    let seconds = seconds.ok_or(Refusal::Malformed("the signed time is not a number of seconds"))?;
    let age = now.seconds().saturating_sub(seconds);
    if age > age_max_seconds {
        return Err(Refusal::TooOld { age_seconds: age });
    }
    if age < -TOLERANCE_SECONDS {
        return Err(Refusal::TooNew { ahead_seconds: age.saturating_neg() });
    }
    Ok(())
}

/// Compares the token in the endpoint's URL.
fn token<'a>(url: &str, tokens: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    let query = url.split('#').next().and_then(|url| url.split_once('?')).map_or("", |(_, query)| query);
    let mut given = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut given = given.by_ref().filter(|(name, _)| *name == TOKEN_PARAMETER).map(|(_, value)| value);
    let token = given.next().ok_or(Refusal::Malformed("the URL carries no token"))?;
    if given.next().is_some() {
        return Err(Refusal::Malformed("the URL carries more than one token"));
    }
    let known = tokens.filter(|known| known.len() >= TOKEN_BYTES_MIN);
    let matches = known.fold(false, |matches, known| matches | Secret::from(known).matches(token));
    if matches { Ok(()) } else { Err(Refusal::Mismatch) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEPmQCyBuVI9Ehv+TVy7hgcGTpv2e+imNGffuGWw5RIG8rr2ApPGS1je4I9LvqB+gnXNP0KyKPtPh5lXnypc6dmw==";

    #[test]
    fn a_key_is_read_as_it_is_shown_and_as_pem() {
        let (head, tail) = KEY.split_at(64);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{head}\n{tail}\n-----END PUBLIC KEY-----\n");
        assert_eq!(public_key(KEY).unwrap().len(), 91);
        assert_eq!(public_key(&pem), public_key(KEY));
        assert_eq!(public_key(&pem.replace('\n', "\r\n")), public_key(KEY));
        for bad in ["", "x", "MFkw", &KEY[1..], &format!("{KEY}{KEY}"), "-----BEGIN PUBLIC KEY-----"] {
            assert_eq!(public_key(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_time_is_digits_within_the_window() {
        let now = Timestamp::from_seconds(1_767_225_600);
        let check = |time: &str| fresh(time, now, 60);
        for good in ["1767225600", "1767225540", "1767225900", "01767225600"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check("1767225539"), Err(Refusal::TooOld { age_seconds: 61 }));
        assert_eq!(check("1767225901"), Err(Refusal::TooNew { ahead_seconds: 301 }));
        for bad in ["", " 1767225600", "1767225600 ", "+1767225600", "-1", "1e9", "1767225600.0", "9999999999999"] {
            assert!(matches!(check(bad), Err(Refusal::Malformed(_))), "{bad}");
        }
        assert!(
            fresh("0", Timestamp(i64::MAX), 60).is_err() && fresh("999999999999", Timestamp(i64::MIN), 60).is_err()
        );
    }
}

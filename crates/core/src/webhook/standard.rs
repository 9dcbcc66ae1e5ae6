//! Standard Webhooks signatures (standardwebhooks.com): `v1,<base64 HMAC-SHA256 of id.timestamp.body>`.
//!
//! Used for what the hub forwards and for products that receive it; also a [`Webhook`] of its own for senders that
//! follow the standard.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;
use zeroize::Zeroizing;

use super::{
    Event, Parsed, RawDelivery, Refusal, Reply, TOLERANCE_SECONDS, Verified, Webhook, hmac, split, unreadable,
};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::EventId;
use crate::secret::Secret;

/// The header with the message's id.
pub static ID: HeaderName = HeaderName::from_static("webhook-id");
/// The header with the signed time in whole seconds.
pub static TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The header with one or more signatures, space separated.
pub static SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// A sender that follows Standard Webhooks.
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardWebhook;

/// Signs a message: the value for the [`SIGNATURE`] header. `None` when the secret is not `whsec_` + base64.
#[must_use]
pub fn sign(secret: &Secret, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
    let code = code(secret, id.as_bytes(), timestamp.to_string().as_bytes(), body)?;
    Some(format!("v1,{}", STANDARD.encode(code)))
}

/// Tells whether a secret is a key as Standard Webhooks has them: `whsec_` and 24 to 64 bytes in base64.
#[must_use]
pub fn is_key(secret: &Secret) -> bool {
    let encoded = secret.expose().strip_prefix("whsec_");
    let key = encoded.and_then(|text| STANDARD.decode(text).ok()).map(Zeroizing::new);
    key.is_some_and(|key| (24..=64).contains(&key.len()))
}

fn code(secret: &Secret, id: &[u8], timestamp: &[u8], body: &[u8]) -> Option<[u8; hmac::CODE_BYTES]> {
    Some(secret.decoded_hmac_key()?.code(&[id, b".", timestamp, b".", body]))
}

/// Checks a signed time in whole seconds against `now`, both ways, `tolerance` inclusive.
///
/// # Errors
/// [`Refusal::Malformed`] when it is not a plain number, [`Refusal::TooOld`] or [`Refusal::TooNew`] outside.
pub fn check_time(text: impl AsRef<[u8]>, now: Timestamp, tolerance_seconds: i64) -> std::result::Result<i64, Refusal> {
    let signed = whole_number(text.as_ref())
        .ok_or(Refusal::Malformed("the signed timestamp is not a whole number of seconds"))?;
    let age = now.seconds().saturating_sub(signed);
    if age > tolerance_seconds {
        return Err(Refusal::TooOld { age_seconds: age });
    }
    if age < -tolerance_seconds {
        return Err(Refusal::TooNew { ahead_seconds: -age });
    }
    Ok(signed)
}

/// Reads one to eighteen digits and nothing else: no more fit for sure, and a time has ten.
fn whole_number(digits: &[u8]) -> Option<i64> {
    let is_one = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_one.then(|| digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
}

impl Webhook for StandardWebhook {
    fn verify(&self, delivery: &RawDelivery, secrets: &[Secret], now: Timestamp) -> std::result::Result<(), Refusal> {
        let [id, timestamp, signatures] = delivery.header_bytes([&ID, &TIMESTAMP, &SIGNATURE])?;
        check_time(timestamp, now, TOLERANCE_SECONDS)?;
        // Read once more for every further secret: there is one signature and one secret, or two of each for a while.
        let given = || {
            let v1 = split(signatures, b' ').filter_map(|part| part.strip_prefix(b"v1,"));
            v1.filter(|text| text.len() == hmac::BASE64_BYTES)
        };
        for secret in secrets {
            let expected = code(secret, id, timestamp, &delivery.body)
                .ok_or(Refusal::Malformed("the configured secret is not whsec_ followed by base64"))?;
            if given().any(|text| hmac::matches_base64(&expected, text)) {
                return Ok(());
            }
        }
        if given().next().is_none() {
            return Err(Refusal::Malformed("the signature header has no v1 signature"));
        }
        Err(Refusal::Mismatch)
    }

    fn events(&self, verified: &Verified) -> Result<Parsed> {
        #[derive(serde::Deserialize)]
        struct Envelope {
            #[serde(rename = "type")]
            kind: String,
        }
        let envelope: Envelope = serde_json::from_slice(verified.body())
            .map_err(|_| unreadable("standard_webhooks", "the body is not a JSON object with a type"))?;
        let id = verified
            .delivery()
            .header(&ID)
            .map_err(|_| unreadable("standard_webhooks", "the message id is not readable"))?;
        let event = Event {
            id: EventId::new(id),
            kind: envelope.kind,
            account: None,
            created: verified
                .delivery()
                .header(&TIMESTAMP)
                .ok()
                .and_then(|t| t.parse().ok())
                .map(Timestamp::from_seconds),
            ordering_key: None,
            payload: verified.body().clone(),
        };
        Ok(Parsed { reply: Reply::ok(), events: vec![event] })
    }
}

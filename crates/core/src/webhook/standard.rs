//! Standard Webhooks signatures (standardwebhooks.com): `v1,<base64 HMAC-SHA256 of id.timestamp.body>`.
//!
//! Used for what the hub forwards and for products that receive it; also a [`Webhook`] of its own for senders that
//! follow the standard.

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeSliceError, Engine};
use http::HeaderName;
use zeroize::Zeroizing;

use super::{Event, Parsed, RawDelivery, Refusal, Reply, TOLERANCE_SECONDS, Verified, Webhook, hmac, unreadable};
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

/// The length of a code in base64.
const TEXT_BYTES: usize = hmac::CODE_BYTES.div_ceil(3) * 4;
/// Keys up to this length are decoded without the heap. The standard asks for 24 to 64 bytes.
const KEY_BYTES: usize = 72;

/// A sender that follows Standard Webhooks.
#[derive(Clone, Copy, Debug, Default)]
pub struct StandardWebhook;

/// Signs a message: the value for the [`SIGNATURE`] header. `None` when the secret is not `whsec_` + base64.
#[must_use]
pub fn sign(secret: &Secret, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
    let code = code(secret, id, &timestamp.to_string(), body)?;
    Some(format!("v1,{}", STANDARD.encode(code)))
}

fn code(secret: &Secret, id: &str, timestamp: &str, body: &[u8]) -> Option<[u8; hmac::CODE_BYTES]> {
    let text = secret.expose();
    let text = text.strip_prefix("whsec_").unwrap_or(text);
    let parts = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    match STANDARD.decode_slice(text, &mut *key) {
        Ok(length) => Some(hmac::sha256(key.get(..length)?, &parts)),
        Err(DecodeSliceError::OutputSliceTooSmall) => {
            let key = Zeroizing::new(STANDARD.decode(text).ok()?);
            Some(hmac::sha256(&key, &parts))
        }
        Err(DecodeSliceError::DecodeError(_)) => None,
    }
}

/// Checks a signed time in whole seconds against `now`, both ways, `tolerance` inclusive.
///
/// # Errors
/// [`Refusal::Malformed`] when it is not a plain number, [`Refusal::TooOld`] or [`Refusal::TooNew`] outside.
pub fn check_time(text: &str, now: Timestamp, tolerance_seconds: i64) -> std::result::Result<i64, Refusal> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(Refusal::Malformed("the signed timestamp is not a whole number of seconds"));
    }
    let signed: i64 =
        text.parse().map_err(|_| Refusal::Malformed("the signed timestamp is not a whole number of seconds"))?;
    let age = now.seconds().saturating_sub(signed);
    if age > tolerance_seconds {
        return Err(Refusal::TooOld { age_seconds: age });
    }
    if age < -tolerance_seconds {
        return Err(Refusal::TooNew { ahead_seconds: -age });
    }
    Ok(signed)
}

fn is_text(expected: &[u8; TEXT_BYTES], text: &str) -> bool {
    text.as_bytes().try_into().is_ok_and(|text| hmac::equal_texts(expected, text))
}

impl Webhook for StandardWebhook {
    fn verify(&self, delivery: &RawDelivery, secrets: &[Secret], now: Timestamp) -> std::result::Result<(), Refusal> {
        let id = delivery.header(&ID)?;
        let timestamp = delivery.header(&TIMESTAMP)?;
        let signatures = delivery.header(&SIGNATURE)?;
        check_time(timestamp, now, TOLERANCE_SECONDS)?;
        let given = || signatures.split(' ').filter_map(|part| part.strip_prefix("v1,"));
        if !given().any(|text| text.len() == TEXT_BYTES) {
            return Err(Refusal::Malformed("the signature header has no v1 signature"));
        }
        for secret in secrets {
            let expected = code(secret, id, timestamp, &delivery.body)
                .ok_or(Refusal::Malformed("the configured secret is not whsec_ followed by base64"))?;
            // A code has one text, so that comparing texts is comparing codes.
            let mut expected_text = [0; TEXT_BYTES];
            let written = STANDARD.encode_slice(expected, &mut expected_text);
            if written == Ok(TEXT_BYTES) && given().any(|text| is_text(&expected_text, text)) {
                return Ok(());
            }
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

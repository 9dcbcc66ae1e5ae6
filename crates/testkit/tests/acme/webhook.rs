//! Verify and events: pure.

use http::HeaderName;
use palisade_core::webhook::{
    Event, Parsed, RawDelivery, Refusal, Reply, TOLERANCE_SECONDS, Verified, Webhook, hmac, unreadable,
};
use palisade_core::{Result, Secret, Timestamp};
use serde_json::Value;

static SIGNATURE: HeaderName = HeaderName::from_static("acme-signature");

/// Acme's deliveries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcmeWebhook;

impl Webhook for AcmeWebhook {
    fn verify(&self, delivery: &RawDelivery, secrets: &[Secret], now: Timestamp) -> std::result::Result<(), Refusal> {
        let header = delivery.header(&SIGNATURE)?;
        let (time, code) = header.split_once('.').ok_or(Refusal::Malformed("the signature has no time"))?;
        let digits = !time.is_empty() && time.len() <= 12 && time.bytes().all(|byte| byte.is_ascii_digit());
        let signed: i64 = time.parse().ok().filter(|_| digits).ok_or(Refusal::Malformed("the time is no number"))?;
        let age_seconds = now.seconds().saturating_sub(signed);
        if age_seconds > TOLERANCE_SECONDS {
            return Err(Refusal::TooOld { age_seconds });
        }
        if age_seconds < -TOLERANCE_SECONDS {
            return Err(Refusal::TooNew { ahead_seconds: age_seconds.saturating_neg() });
        }
        let matches = secrets.iter().any(|secret| {
            let wanted = secret.hmac_key().code(&[time.as_bytes(), b".", &delivery.body]);
            hmac::matches_lower_hex(&wanted, code)
        });
        if matches { Ok(()) } else { Err(Refusal::Mismatch) }
    }

    fn events(&self, verified: &Verified) -> Result<Parsed> {
        let body = verified.body();
        let value: Value = serde_json::from_slice(body).map_err(|_| unreadable("acme", "the body is not JSON"))?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| (1..=100).contains(&text.len()));
        let kind = text("type").ok_or_else(|| unreadable("acme", "the event has no type"))?;
        if kind == "ping" {
            let reply = Reply { body: "pong".into(), ..Reply::ok() };
            return Ok(Parsed { reply, events: Vec::new() });
        }
        let id = text("id").ok_or_else(|| unreadable("acme", "the event has no id"))?;
        let parcel = value.get("parcel").and_then(|parcel| parcel.get("id")?.as_str()).map(str::to_owned);
        let event = Event {
            id: id.into(),
            kind: kind.to_owned(),
            account: None,
            created: None,
            ordering_key: parcel,
            payload: body.clone(),
        };
        Ok(Parsed { reply: Reply::ok(), events: vec![event] })
    }
}

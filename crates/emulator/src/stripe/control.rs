//! The control plane under `/_emulator/`: the story methods as JSON, for tests in other languages.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::bytes_of;
use super::error::Failure;
use super::{Seed, Stripe};

/// How many random changes one request may ask for.
const MUTATIONS_MAX: u64 = 100_000;

/// Answers a control request.
pub(crate) fn answer(stripe: &Stripe, parts: &Parts, body: &Bytes) -> Response<Bytes> {
    let answer = route(stripe, parts, body);
    let (status, value) = match answer {
        Ok(value) => (StatusCode::OK, value),
        Err(failure) => (StatusCode::from_u16(failure.status).unwrap_or(StatusCode::BAD_REQUEST), failure.body()),
    };
    let mut response = Response::new(bytes_of(&value));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}

fn read<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, Failure> {
    crate::control::read(body).map_err(Failure::invalid)
}

fn show(value: impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn route(stripe: &Stripe, parts: &Parts, body: &Bytes) -> Result<Value, Failure> {
    let query = super::form::parse(parts.uri.query().unwrap_or_default())?;
    let text = |name: &str| query[name].as_str().unwrap_or_default().to_owned();
    match (&parts.method, parts.uri.path()) {
        (_, "/_emulator/ledger") => Ok(show(stripe.ledger())),
        (&Method::GET, "/_emulator/faults") => Ok(crate::control::faults(&stripe.faults())),
        (&Method::POST, "/_emulator/faults") => crate::control::turn(&stripe.faults(), body).map_err(Failure::invalid),
        (method, "/_emulator/oauth") => {
            crate::control::oauth(&stripe.inner.oauth, method, body, stripe.inner.millis()).map_err(Failure::invalid)
        }
        (&Method::POST, "/_emulator/populate") => {
            stripe.populate(&read::<Seed>(body)?);
            Ok(json!({ "ok": true }))
        }
        (&Method::GET, "/_emulator/truth") => Ok(show(stripe.truth(&text("stream")))),
        (&Method::GET, "/_emulator/waiting") => Ok(json!({ "deliveries": stripe.webhooks_waiting() })),
        (&Method::GET, "/_emulator/signed") => {
            let (header, body) = stripe
                .signed(&text("endpoint"), &text("event"))
                .ok_or_else(|| Failure::missing(404, "event", &text("event"), "event"))?;
            Ok(json!({ "header": header, "body": String::from_utf8_lossy(&body) }))
        }
        (&Method::GET, "/_emulator/webhook_endpoints") => {
            stripe.call("GET", "/v1/webhook_endpoints", &[("limit", "100")])
        }
        (&Method::POST, "/_emulator/webhook_endpoints") => endpoints(stripe, &read::<Value>(body)?),
        (&Method::POST, "/_emulator/mutate") => mutate(stripe, &read::<Value>(body)?),
        (&Method::POST, "/_emulator/clock") => {
            let form: Value = read(body)?;
            if let Some(skew) = form["skew_seconds"].as_i64() {
                stripe.clock_skew(Duration::from_secs(skew.unsigned_abs()), skew >= 0);
            }
            if let Some(ties) = form["ties"].as_bool() {
                stripe.ties(ties);
            }
            Ok(json!({ "ok": true }))
        }
        (&Method::POST, "/_emulator/keys") => {
            let form: Value = read(body)?;
            match form["api_key"].as_str() {
                Some(key) => stripe.set_api_key(key),
                None => stripe.revoke_key(),
            }
            Ok(json!({ "ok": true }))
        }
        (method, path) => Err(Failure::unknown_url(method.as_str(), path)),
    }
}

/// Adds an endpoint, or rolls the secret of one when `roll` names it.
fn endpoints(stripe: &Stripe, form: &Value) -> Result<Value, Failure> {
    if let Some(id) = form["roll"].as_str() {
        let secret = stripe.roll_secret(id).ok_or_else(|| Failure::missing(404, "webhook endpoint", id, "roll"))?;
        return Ok(json!({ "id": id, "secret": secret }));
    }
    let url = form["url"].as_str().ok_or_else(|| Failure::required("url"))?;
    let secret = form["secret"].as_str().unwrap_or("whsec_emulator");
    let mut enabled: Vec<&str> =
        form["enabled_events"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if enabled.is_empty() {
        enabled.push("*");
    }
    let version = form["api_version"].as_str();
    let id = if form["connect"] == true {
        stripe.connect_endpoint(url, secret, version, &enabled)
    } else {
        stripe.webhook_endpoint(url, secret, version, &enabled)
    };
    Ok(json!({ "id": id, "secret": secret }))
}

/// Makes changes: one named call, a story by name, or so many random ones.
fn mutate(stripe: &Stripe, form: &Value) -> Result<Value, Failure> {
    if let Some(count) = form["random"].as_u64() {
        let mut rng = Source(super::state::Dice(form["seed"].as_u64().unwrap_or_default()));
        let events: Vec<String> = (0..count.min(MUTATIONS_MAX)).map(|_| stripe.random_mutation(&mut rng)).collect();
        return Ok(json!({ "events": events }));
    }
    let id = form["id"].as_str().unwrap_or_default();
    match form["story"].as_str() {
        Some("advance_subscription") => return stripe.advance_subscription(id),
        Some("complete_checkout") => return stripe.complete_checkout(id),
        Some("pay_invoice") => return stripe.pay_invoice(id),
        Some("delete_price") => return stripe.delete_price(id),
        Some(other) => return Err(Failure::invalid(format!("no such story: {other}")).param("story")),
        None => {}
    }
    let path = form["path"].as_str().ok_or_else(|| Failure::required("path"))?;
    let fields: Vec<(String, String)> = form["fields"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let own = stripe.inner.config.account.clone();
    stripe.call_on(form["account"].as_str().unwrap_or(&own), form["method"].as_str().unwrap_or("POST"), path, &fields)
}

/// Our own dice as a `rand` source.
struct Source(super::state::Dice);

impl rand::TryRng for Source {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok((self.0.next() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.0.next())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            *byte = self.0.next() as u8;
        }
        Ok(())
    }
}

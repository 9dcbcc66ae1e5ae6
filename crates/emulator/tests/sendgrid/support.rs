//! An account in memory: a request, its answer; and a receiver that writes down what it is sent.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use palisade_emulator::Cut;
use palisade_emulator::sendgrid::{SendGrid, SendGridConfig};
use serde_json::{Value, json};

pub(crate) use crate::slack::support::{Answer, Receiver, header};

pub(crate) const HOOK: &str = "https://app.invalid/sendgrid";
/// Seconds since 1970 when the tests begin: 2026-01-01.
pub(crate) const BEGIN: u64 = 1_767_225_600;

pub(crate) struct Account {
    pub(crate) sendgrid: SendGrid,
    pub(crate) receiver: Receiver,
}

impl Account {
    pub(crate) fn new() -> Self {
        Self::of(|config| config)
    }

    /// One whose events are posted.
    pub(crate) fn telling() -> Self {
        Self::of(|config| SendGridConfig { event_url: Some(HOOK.to_owned()), ..config })
    }

    pub(crate) fn of(change: impl FnOnce(SendGridConfig) -> SendGridConfig) -> Self {
        let begun = tokio::time::Instant::now();
        let origin = SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN);
        let receiver = Receiver::default();
        let config = SendGridConfig {
            seed: 7,
            poster: Some(receiver.poster()),
            clock: Arc::new(move || origin + begun.elapsed()),
            ..SendGridConfig::default()
        };
        Self { sendgrid: SendGrid::offline(change(config)), receiver }
    }

    pub(crate) async fn try_send(&self, method: &str, path: &str, body: Bytes) -> Result<Response<Bytes>, Cut> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.sendgrid.api_key()))
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        self.sendgrid.handle(request).await
    }

    /// Sends a request that gets an answer; nothing as body when the value is null.
    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Response<Bytes> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        self.try_send(method, path, body).await.unwrap()
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let response = self.send(method, path, body).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, &Value::Null).await
    }

    /// Sends a mail that must be taken; gives its id.
    pub(crate) async fn mail(&self, mail: &Value) -> String {
        let response = self.send("POST", "/v3/mail/send", mail).await;
        assert_eq!((response.status().as_u16(), response.body().len()), (202, 0), "{response:?}");
        response.headers()["x-message-id"].to_str().unwrap().to_owned()
    }

    /// Takes the events that were posted until now, in their order.
    pub(crate) async fn events(&self) -> Vec<Value> {
        self.sendgrid.drain_webhooks().await;
        let batches = self.receiver.take_raw();
        batches.iter().flat_map(|one| serde_json::from_slice::<Vec<Value>>(one.body()).unwrap()).collect()
    }

    /// Tells whether a delivery's signature is the account's, whatever its age.
    pub(crate) fn is_signed(&self, request: &Request<Bytes>) -> bool {
        let Ok(signature) = STANDARD.decode(header(request, "x-twilio-email-event-webhook-signature")) else {
            return false;
        };
        let key = STANDARD.decode(self.sendgrid.public_key()).unwrap();
        let time = header(request, "x-twilio-email-event-webhook-timestamp");
        let message = [time.as_bytes(), request.body()].concat();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(&message, &signature).is_ok()
    }
}

/// Makes a mail to some people.
pub(crate) fn mail(to: &[&str]) -> Value {
    let to: Vec<Value> = to.iter().map(|email| json!({ "email": email })).collect();
    json!({
        "personalizations": [{ "to": to }], "from": { "email": "shop@example.com" }, "subject": "Your order",
        "content": [{ "type": "text/plain", "value": "It is on its way" }],
    })
}

/// Gives a mail with one more or another field; null takes it out.
pub(crate) fn with(mut mail: Value, name: &str, value: Value) -> Value {
    let fields = mail.as_object_mut().unwrap();
    if value.is_null() {
        fields.remove(name);
    } else {
        fields.insert(name.to_owned(), value);
    }
    mail
}

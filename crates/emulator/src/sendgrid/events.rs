//! Events: what becomes of a mail, in batches, signed with ECDSA as SendGrid signs them.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request};
use serde_json::{Value, json};

use super::SendGridProvider;
use super::inbound::{self, BOUNDARY};
use super::world::{Copy, Entry, Mail, World};
use crate::dice::Dice;
use crate::gate::House;
use crate::post::{Parcel, Sort};

/// How old the signature of a replayed delivery is, in seconds: older than any delivery that is still tried again.
const REPLAY_AGE: i64 = 4 * 86_400;
/// The head of a SubjectPublicKeyInfo of a point on P-256 (RFC 5480).
const SPKI: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=";

/// Signs webhooks as SendGrid does.
#[derive(Debug)]
pub struct Signer {
    pair: EcdsaKeyPair,
}

impl Signer {
    /// Makes the key that follows from a seed. It protects nothing: whoever knows the seed knows the key.
    pub(crate) fn of_seed(seed: u64) -> Self {
        let mut dice = Dice(seed ^ 0x0519_2021_EC15_A000);
        loop {
            let number: Vec<u8> = (0..4).flat_map(|_| dice.next().to_be_bytes()).collect();
            // An ECPrivateKey (RFC 5915) of the number alone; the point follows from it. A number beyond the curve's
            // order, one in four thousand million, is none.
            let head = [0x30, 0x31, 0x02, 0x01, 0x01, 0x04, 0x20];
            let curve = [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
            let der = [&head[..], &number, &curve].concat();
            if let Ok(pair) = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &der) {
                return Self { pair };
            }
        }
    }

    /// Gives the verification key as SendGrid's settings show it: base64 of a SubjectPublicKeyInfo.
    #[must_use]
    pub fn public_key(&self) -> String {
        let head = STANDARD.decode(SPKI).unwrap_or_default();
        STANDARD.encode([head.as_slice(), self.pair.public_key().as_ref()].concat())
    }

    /// Signs a time and a body.
    #[must_use]
    pub fn sign(&self, time: i64, body: &[u8]) -> String {
        let message = [time.to_string().as_bytes(), body].concat();
        let signature = self.pair.sign(&SystemRandom::new(), &message);
        signature.map(|signature| STANDARD.encode(signature.as_ref())).unwrap_or_default()
    }
}

/// What becomes of a mail by its recipient's local part: so that any client can bring any event about.
fn fate(email: &str) -> &str {
    let local = email.split('@').next().unwrap_or_default();
    match local.split(['+', '.']).next().unwrap_or_default() {
        known @ ("bounce" | "block" | "defer" | "spam" | "unsubscribe" | "invalid" | "open" | "click") => known,
        _ => "deliver",
    }
}

impl SendGridProvider {
    /// Lets a mail go its way: puts addresses on lists, and gives the delivery of its events with their number.
    pub(super) fn tell(&self, world: &mut World, mail: &mut Mail, now: i64) -> (Option<Parcel>, u64) {
        let seconds = now / 1_000;
        let mut events = Vec::new();
        for copy in &mut mail.copies {
            let (steps, status) = steps(world, &copy.to, seconds);
            copy.status = status.into();
            for (kind, more) in steps {
                events.push(event(world, &mail.body, copy, kind, seconds, more));
            }
        }
        let count = u64::try_from(events.len()).unwrap_or(0);
        (Self::batch(world, &events), count)
    }

    /// Wraps events up for the endpoint, if there is one. The ledger knows the delivery by its first event.
    pub(super) fn batch(world: &World, events: &[Value]) -> Option<Parcel> {
        let url = world.event_url.clone()?;
        let mut body = serde_json::to_vec(events).unwrap_or_default();
        // Real batches end so, and the signature covers it.
        body.extend_from_slice(b"\r\n");
        let first = events.first().and_then(|event| event.get("sg_event_id")?.as_str());
        Some(Parcel::json(first.unwrap_or_default(), &url, Bytes::from(body)))
    }

    /// Signs a delivery for this moment.
    pub(super) fn sealed(&self, house: &House, parcel: &Parcel) -> Option<Request<Bytes>> {
        let now = house.now() / 1_000;
        let mail = parcel.id.starts_with(inbound::PREFIX);
        let kind =
            if mail { format!("multipart/form-data; boundary={BOUNDARY}") } else { "application/json".to_owned() };
        let request = Request::builder()
            .method(Method::POST)
            .uri(&parcel.url)
            .header("content-type", kind)
            .header("user-agent", "SendGrid Event API");
        if mail && parcel.id.starts_with(inbound::UNSIGNED) {
            // Nothing tells a forged or an old one from a true one but its address.
            return if parcel.sort == Sort::True { request.body(parcel.body.clone()).ok() } else { None };
        }
        let (signer, time) = match parcel.sort {
            Sort::True => (None, now),
            Sort::Forged => (Some(Signer::of_seed(self.config.seed ^ 1)), now),
            Sort::Replayed => (None, now - REPLAY_AGE),
        };
        let signature = signer.as_ref().unwrap_or(&self.signer).sign(time, &parcel.body);
        request
            .header("x-twilio-email-event-webhook-signature", signature)
            .header("x-twilio-email-event-webhook-timestamp", time.to_string())
            .body(parcel.body.clone())
            .ok()
    }
}

type Steps = Vec<(&'static str, Value)>;

/// Decides what happens to a mail to one address, in order, and where that ends; puts the address on a list where it
/// belongs on one.
fn steps(world: &mut World, to: &str, now: i64) -> (Steps, &'static str) {
    if let Some(reason) = world.dropped(to) {
        return (vec![("dropped", json!({ "reason": reason }))], "not_delivered");
    }
    let processed = ("processed", json!({}));
    let delivered = ("delivered", json!({ "response": "250 OK" }));
    let more: Steps = match fate(to) {
        "invalid" => {
            let reason = "Mail domain mentioned in email address is unknown";
            suppress(world, "invalid_emails", to, now, Some(reason), None);
            return (vec![("dropped", json!({ "reason": "Invalid" }))], "not_delivered");
        }
        "bounce" => {
            let (reason, status) = ("550 5.1.1 The email account that you tried to reach does not exist", "5.1.1");
            suppress(world, "bounces", to, now, Some(reason), Some(status));
            let bounce = json!({ "type": "bounce", "reason": reason, "status": status });
            return (vec![processed, ("bounce", bounce)], "not_delivered");
        }
        "block" => {
            let (reason, status) = ("unable to resolve MX record", "4.0.0");
            suppress(world, "blocks", to, now, Some(reason), Some(status));
            let bounce = json!({ "type": "blocked", "reason": reason, "status": status });
            return (vec![processed, ("bounce", bounce)], "not_delivered");
        }
        "defer" => {
            let deferred = json!({ "attempt": "1", "response": "400 try again later" });
            return (vec![processed, ("deferred", deferred), delivered], "delivered");
        }
        "open" => {
            vec![("open", json!({ "useragent": "Mozilla/5.0", "ip": "192.0.2.1", "sg_machine_open": false }))]
        }
        "click" => {
            vec![("click", json!({ "url": "https://example.com/", "url_offset": { "index": 0, "type": "html" } }))]
        }
        "spam" => {
            suppress(world, "spam_reports", to, now, None, None);
            vec![("spamreport", json!({}))]
        }
        "unsubscribe" => {
            suppress(world, "unsubscribes", to, now, None, None);
            vec![("unsubscribe", json!({}))]
        }
        _ => Vec::new(),
    };
    ([processed, delivered].into_iter().chain(more).collect(), "delivered")
}

fn suppress(world: &mut World, list: &str, email: &str, created: i64, reason: Option<&str>, status: Option<&str>) {
    let ip = (list == "spam_reports").then(|| "192.0.2.1".to_owned());
    let (email, reason, status) = (email.to_owned(), reason.map(str::to_owned), status.map(str::to_owned));
    world.suppress(list, Entry { email, created, reason, status, ip });
}

fn event(world: &mut World, mail: &Value, copy: &Copy, kind: &str, at: i64, more: Value) -> Value {
    let mut event = json!({
        "email": copy.to, "timestamp": at, "smtp-id": format!("<{}@emulator>", copy.id), "event": kind,
        "sg_event_id": world.name(22), "sg_message_id": copy.id,
    });
    if let (Value::Object(fields), Value::Object(more)) = (&mut event, more) {
        if let Some(categories) = mail.get("categories") {
            fields.insert("category".to_owned(), categories.clone());
        }
        fields.extend(more);
        for (name, value) in &copy.custom_args {
            fields.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_key_follows_from_its_seed_and_signs_time_and_body() {
        let signer = Signer::of_seed(7);
        assert_eq!(signer.public_key(), Signer::of_seed(7).public_key());
        assert_ne!(signer.public_key(), Signer::of_seed(8).public_key());
        let key = STANDARD.decode(signer.public_key()).unwrap();
        let signature = STANDARD.decode(signer.sign(1_767_225_600, b"[]\r\n")).unwrap();
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key);
        assert!(key.verify(b"1767225600[]\r\n", &signature).is_ok());
        assert!(key.verify(b"1767225601[]\r\n", &signature).is_err());
    }

    #[test]
    fn a_recipients_name_decides_what_becomes_of_a_mail() {
        for (email, expected) in
            [("bounce@x", "bounce"), ("spam+7@x", "spam"), ("bouncer@x", "deliver"), ("", "deliver")]
        {
            assert_eq!(fate(email), expected, "{email}");
        }
    }
}

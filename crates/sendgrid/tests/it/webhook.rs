//! Signatures, and batches of events.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use palisade_core::webhook::{Event, Parsed, RawDelivery, Refusal, Reply, Verified, Webhook};
use palisade_core::{ErrorKind, Secret, Timestamp};
use palisade_sendgrid::SendGridWebhook;
use palisade_sendgrid::webhook::AGE_MAX_SECONDS;

pub(crate) const NOW: Timestamp = Timestamp(1_767_225_600_000);
pub(crate) const URL: &str = "https://hooks.example.test/webhooks/sendgrid";
const BATCH: &str = "[{\"email\":\"a@x\",\"timestamp\":1767225599,\"event\":\"delivered\",\"sg_event_id\":\"e1\",\"sg_message_id\":\"m1.f\"}]\r\n";

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";

/// A key pair with its public key as SendGrid shows it.
pub(crate) struct Key {
    pair: EcdsaKeyPair,
    pub(crate) public: Secret,
}

impl Key {
    pub(crate) fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let head = STANDARD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=").unwrap();
        let public = STANDARD.encode([&head, pair.public_key().as_ref()].concat());
        Self { pair, public: Secret::from(public) }
    }

    pub(crate) fn sign(&self, time: &str, body: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), &[time.as_bytes(), body].concat()).unwrap().as_ref().to_vec()
    }

    pub(crate) fn deliver(&self, content_type: &str, body: &[u8]) -> RawDelivery {
        self.deliver_at(NOW, content_type, body)
    }

    pub(crate) fn deliver_at(&self, at: Timestamp, content_type: &str, body: &[u8]) -> RawDelivery {
        let time = at.seconds().to_string();
        let signature = STANDARD.encode(self.sign(&time, body));
        delivery(content_type, &signature, &time, body)
    }
}

pub(crate) fn delivery(content_type: &str, signature: &str, time: &str, body: &[u8]) -> RawDelivery {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_str(content_type).unwrap());
    headers.insert(SIGNATURE, HeaderValue::from_bytes(signature.as_bytes()).unwrap());
    headers.insert(TIMESTAMP, HeaderValue::from_bytes(time.as_bytes()).unwrap());
    RawDelivery { method: Method::POST, url: URL.into(), headers, body: Bytes::copy_from_slice(body) }
}

pub(crate) fn read(raw: RawDelivery, secrets: &[Secret]) -> palisade_core::Result<Parsed> {
    let verified = Verified::check(&SendGridWebhook::new(), raw, secrets, NOW).expect("a true signature");
    SendGridWebhook::new().events(&verified)
}

pub(crate) fn parse(body: &str) -> palisade_core::Result<Vec<Event>> {
    let key = Key::new();
    read(key.deliver("application/json", body.as_bytes()), &[key.public]).map(|parsed| parsed.events)
}

#[test]
fn the_window_is_our_own_and_can_be_narrowed() {
    let key = Key::new();
    let secrets = [key.public.clone()];
    let raw = key.deliver("application/json", BATCH.as_bytes());
    let at = |seconds: i64| Timestamp(NOW.millis() + seconds * 1_000);
    for (webhook, oldest) in
        [(SendGridWebhook::new(), AGE_MAX_SECONDS), (SendGridWebhook::new().accepting_for(300), 300)]
    {
        for (seconds, expected) in [
            (0, Ok(())),
            (oldest, Ok(())),
            (oldest + 1, Err(Refusal::TooOld { age_seconds: oldest + 1 })),
            (-300, Ok(())),
            (-301, Err(Refusal::TooNew { ahead_seconds: 301 })),
        ] {
            assert_eq!(webhook.verify(&raw, &secrets, at(seconds)), expected, "{seconds}");
        }
    }
}

#[test]
fn several_keys_live_at_once_and_what_is_no_key_says_so() {
    let (key, other) = (Key::new(), Key::new());
    let raw = key.deliver("application/json", BATCH.as_bytes());
    let check = |secrets: &[Secret]| Verified::check(&SendGridWebhook::new(), raw.clone(), secrets, NOW).map(|_| ());
    assert_eq!(check(&[other.public.clone(), key.public.clone()]), Ok(()));
    assert_eq!(check(&["no key".into(), key.public.clone()]), Ok(()));
    assert_eq!(check(&[other.public]), Err(Refusal::Mismatch));
    assert!(matches!(check(&["no key".into()]), Err(Refusal::Malformed(_))));
    assert!(matches!(check(&["token:0123456789abcdef".into()]), Err(Refusal::Malformed(_))), "a token signs nothing");
    assert_eq!(check(&[]), Err(Refusal::NoSecret));
    for signature in ["!!!!", "", &"A".repeat(200), "MEQ="] {
        let raw = delivery("application/json", signature, "1767225600", BATCH.as_bytes());
        assert!(SendGridWebhook::new().verify(&raw, std::slice::from_ref(&key.public), NOW).is_err(), "{signature}");
    }
}

/// Turns `(r, s)` into `(r, n - s)`, which verifies too.
fn malleated(der: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let r_end = 4 + usize::from(der[3]);
    let s = &der[r_end + 2..];
    let s = &s[s.len().saturating_sub(32)..];
    let mut padded = [0_u8; 32];
    padded[32 - s.len()..].copy_from_slice(s);
    let (mut negated, mut borrow) = ([0_u8; 32], 0_i16);
    for at in (0..32).rev() {
        let difference = i16::from(ORDER[at]) - i16::from(padded[at]) - borrow;
        borrow = i16::from(difference < 0);
        negated[at] = difference.rem_euclid(256) as u8;
    }
    let zeros = negated.iter().take_while(|byte| **byte == 0).count();
    let mut s: Vec<u8> = negated[zeros..].to_vec();
    if s[0] >= 0x80 {
        s.insert(0, 0);
    }
    let body = [&der[2..r_end], &[2, s.len() as u8], &s].concat();
    [&[0x30, body.len() as u8][..], &body].concat()
}

/// Fails when a delivery is told apart by its signature: anybody can make another valid one of it.
#[test]
fn a_rewritten_signature_makes_no_new_event() {
    let key = Key::new();
    let time = NOW.seconds().to_string();
    let one = key.sign(&time, BATCH.as_bytes());
    let ids = |signature: &[u8]| -> Vec<String> {
        let raw = delivery("application/json", &STANDARD.encode(signature), &time, BATCH.as_bytes());
        let parsed = read(raw, std::slice::from_ref(&key.public)).unwrap();
        parsed.events.iter().map(|event| event.id.as_str().to_owned()).collect()
    };
    let other = malleated(&one);
    assert_ne!(one, other);
    assert_eq!((ids(&one), ids(&other)), (vec!["e1".to_owned()], vec!["e1".to_owned()]));
}

#[test]
fn a_batch_is_split_into_its_events_in_order() {
    let body = r#"[
      {"email":"a@x","timestamp":1767225599,"event":"processed","sg_event_id":"e1","sg_message_id":"m1.f"},
      {"event":"new_type","sg_event_id":"e2","timestamp":"1767225598"},
      {"event":"open","sg_event_id":"e3"}
    ]"#;
    let key = Key::new();
    let raw = key.deliver("application/json", body.as_bytes());
    let bytes = raw.body.clone();
    let parsed = read(raw, &[key.public]).unwrap();
    assert_eq!(parsed.reply, Reply::ok());
    let seen: Vec<_> =
        parsed.events.iter().map(|e| (e.id.as_str(), e.kind.as_str(), e.created.map(Timestamp::seconds))).collect();
    assert_eq!(
        seen,
        [("e1", "processed", Some(1_767_225_599)), ("e2", "new_type", Some(1_767_225_598)), ("e3", "open", None)]
    );
    assert_eq!(parsed.events[0].ordering_key.as_deref(), Some("m1.f"));
    assert!(parsed.events.iter().all(|e| bytes.as_ptr_range().contains(&e.payload.as_ptr())), "no copy is made");
    assert_eq!(parse("[]").unwrap().len(), 0);
    assert_eq!(parse(BATCH).unwrap().len(), 1, "a line break at the end is part of it");
}

/// Fails when one custom argument with the name of a field loses a whole batch.
#[test]
fn custom_arguments_with_the_names_of_fields_do_no_harm() {
    let body = r#"[{"timestamp":"soon","event":"delivered","email":"a@x","email":"b@x","sg_event_id":"e1","timestamp":1767225599,"event":7,"sg_event_id":null}]"#;
    let events = parse(body).unwrap();
    assert_eq!((events[0].id.as_str(), events[0].kind.as_str()), ("e1", "delivered"));
    assert_eq!(events[0].created, Some(Timestamp::from_seconds(1_767_225_599)));
}

#[test]
fn an_event_without_an_id_is_known_by_its_bytes_and_broken_ones_are_refused() {
    let one = parse(r#"[{"event":"open","email":"a@x"}]"#).unwrap();
    let same = parse(r#"[{"event":"open","email":"b@x"},{"event":"open","email":"a@x"}]"#).unwrap();
    assert_eq!(one[0].id, same[1].id);
    assert_ne!(one[0].id, same[0].id);
    for bad in ["", "{}", "null", "[7]", "[{}]", r#"[{"event":""}]"#, r#"[{"event":"x"}"#, "[[]]", "\"x\""] {
        assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
    let long = format!(r#"[{{"event":"{}"}}]"#, "x".repeat(256));
    assert_eq!(parse(&long).unwrap_err().kind(), ErrorKind::Decode);
}

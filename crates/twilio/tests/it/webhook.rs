//! Signatures and deliveries.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use palisade_core::webhook::{Event, Parsed, RawDelivery, Refusal, Reply, Verified, Webhook};
use palisade_core::{ErrorKind, Secret, Timestamp};
use palisade_twilio::TwilioWebhook;
use palisade_twilio::webhook::{Algorithm, sign};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(crate) const NOW: Timestamp = Timestamp(1_767_225_600_000);
pub(crate) const URL: &str = "https://hooks.example.test/webhooks/twilio?a=1";
const FORM: &str = "application/x-www-form-urlencoded";
pub(crate) const STATUS: &str = "AccountSid=AC00000000000000000000000000000000&MessageSid=SM00000000000000000000000000000001&MessageStatus=sent&SmsStatus=sent&To=%2B15005550006&From=%2B15005550001";

pub(crate) fn secret() -> Secret {
    Secret::from("the_auth_token_of_this_test")
}

pub(crate) fn delivery(url: &str, content_type: &str, signature: &str, body: &[u8]) -> RawDelivery {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", content_type.parse().unwrap());
    headers.insert("x-twilio-signature", HeaderValue::from_bytes(signature.as_bytes()).unwrap());
    RawDelivery { method: Method::POST, url: url.into(), headers, body: Bytes::copy_from_slice(body) }
}

fn signed_form(body: &str) -> RawDelivery {
    delivery(URL, FORM, &sign(&secret(), Algorithm::Sha1, URL, body.as_bytes()), body.as_bytes())
}

fn signed_json(body: &str) -> RawDelivery {
    let digest = Sha256::digest(body.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let url = format!("{URL}&bodySHA256={hex}");
    delivery(&url, "application/json", &sign(&secret(), Algorithm::Sha1, &url, b""), body.as_bytes())
}

fn verify(raw: &RawDelivery) -> Result<(), Refusal> {
    TwilioWebhook::new().verify(raw, &[secret()], NOW)
}

fn read(raw: RawDelivery) -> palisade_core::Result<Parsed> {
    let verified = Verified::check(&TwilioWebhook::new(), raw, &[secret()], NOW).expect("a true signature");
    TwilioWebhook::new().events(&verified)
}

pub(crate) fn parse(body: &str) -> palisade_core::Result<Parsed> {
    read(signed_form(body))
}

pub(crate) fn only(body: &str) -> Event {
    let mut events = parse(body).unwrap().events;
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

#[test]
fn headers_are_single_and_there() {
    let mut raw = signed_form(STATUS);
    raw.headers.append("x-twilio-signature", raw.headers["x-twilio-signature"].clone());
    assert_eq!(verify(&raw), Err(Refusal::DuplicateHeader("x-twilio-signature")));
    raw.headers.remove("x-twilio-signature");
    assert_eq!(verify(&raw), Err(Refusal::MissingHeader("x-twilio-signature")));
    raw.headers.insert("x-twilio-signature", HeaderValue::from_static(""));
    assert_eq!(verify(&raw), Err(Refusal::Mismatch));
    raw.headers.insert("x-twilio-signature", HeaderValue::from_bytes(b"\xff").unwrap());
    assert!(matches!(verify(&raw), Err(Refusal::Malformed(_))));

    let mut raw = signed_form(STATUS);
    let settings = HeaderValue::from_static("key=webhooks_sharedkey_1,algorithm=HMAC_SHA1");
    raw.headers.insert("x-twilio-webhooks-signature-settings", settings.clone());
    assert_eq!(verify(&raw), Ok(()));
    raw.headers.append("x-twilio-webhooks-signature-settings", settings);
    assert_eq!(verify(&raw), Err(Refusal::DuplicateHeader("x-twilio-webhooks-signature-settings")));
}

/// The scheme signs no time: the same delivery is the same whenever it comes, and is told apart by its content.
#[test]
fn a_late_delivery_is_the_same_event() {
    let raw = signed_form(STATUS);
    for now in [Timestamp(i64::MIN), Timestamp(0), Timestamp(i64::MAX)] {
        assert_eq!(TwilioWebhook::new().verify(&raw, &[secret()], now), Ok(()));
    }
    let event = only(STATUS);
    assert_eq!(event.id.as_str(), "SM00000000000000000000000000000001:sent");
    assert_eq!(event.kind, "message.sent");
    assert_eq!(event.account.as_deref(), Some("AC00000000000000000000000000000000"));
    assert_eq!(event.ordering_key.as_deref(), Some("SM00000000000000000000000000000001"));
    assert_eq!(event.created, None);
}

/// Fails when the dedupe key contains the idempotency token: it is not signed, so a recorded delivery could be sent
/// again as a new event with every new token.
#[test]
fn an_unsigned_token_makes_no_new_event() {
    let with = |token: &'static str| {
        let mut raw = signed_form(STATUS);
        raw.headers.insert("i-twilio-idempotency-token", HeaderValue::from_static(token));
        read(raw).unwrap().events.remove(0).id
    };
    assert_eq!(with("a"), with("b"));
    let other = STATUS.replace("MessageStatus=sent", "MessageStatus=delivered");
    assert_ne!(only(STATUS).id, only(&other).id);
}

#[test]
fn inbound_messages_get_twiml_and_reports_a_plain_answer() {
    let inbound =
        "MessageSid=SM00000000000000000000000000000002&SmsStatus=received&Body=Hi&NumMedia=0&To=%2B1&From=%2B2";
    let parsed = parse(inbound).unwrap();
    assert_eq!(parsed.events[0].kind, "message.received");
    assert_eq!(parsed.events[0].id.as_str(), "SM00000000000000000000000000000002:received");
    assert_eq!((parsed.reply.status, parsed.reply.content_type), (200, Some("text/xml")));
    assert_eq!(&parsed.reply.body[..], b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response></Response>");
    assert_eq!(parse(STATUS).unwrap().reply, Reply::ok());

    let polite = TwilioWebhook::new().replying("Thanks & bye").unwrap();
    let verified = Verified::check(&polite, signed_form(inbound), &[secret()], NOW).unwrap();
    let reply = polite.events(&verified).unwrap().reply;
    assert!(std::str::from_utf8(&reply.body).unwrap().contains("<Message>Thanks &amp; bye</Message>"));
    let verified = Verified::check(&polite, signed_form(STATUS), &[secret()], NOW).unwrap();
    assert_eq!(polite.events(&verified).unwrap().reply, Reply::ok(), "a report is not talked to");
    assert_eq!(TwilioWebhook::new().replying("").unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn an_opt_out_is_told_beside_the_message() {
    let body =
        "MessageSid=SM00000000000000000000000000000003&SmsStatus=received&Body=STOP&OptOutType=STOP&To=%2B1&From=%2B2";
    let kinds: Vec<_> =
        parse(body).unwrap().events.iter().map(|e| (e.kind.clone(), e.id.as_str()[35..].to_owned())).collect();
    assert_eq!(kinds, [("message.received".into(), "received".into()), ("opt_out.stop".into(), "opt_out".into())]);
}

#[test]
fn calls_and_recordings_are_told_apart_from_requests_for_instructions() {
    let call = "CallSid=CA00000000000000000000000000000001&CallStatus=in-progress";
    let report = only(&format!("{call}&CallbackSource=call-progress-events&SequenceNumber=2"));
    assert_eq!(report.id.as_str(), "CA00000000000000000000000000000001:in-progress:2");
    assert_eq!(report.kind, "call.in-progress");
    let (one, two) = (only(&format!("{call}&Digits=1")), only(&format!("{call}&Digits=2")));
    assert_ne!(one.id, two.id, "each request of one call is an event of its own");
    assert_eq!(one.id, only(&format!("Digits=1&{call}")).id, "whatever the order of its parameters");
    assert_eq!(parse(call).unwrap().reply.content_type, Some("text/xml"));
    let recording = only(
        "RecordingSid=RE00000000000000000000000000000001&RecordingStatus=completed&CallSid=CA00000000000000000000000000000001",
    );
    assert_eq!((recording.kind.as_str(), &recording.id.as_str()[35..]), ("recording.completed", "completed"));
    assert_eq!(only("Payload=%7B%7D&Level=ERROR").kind, "other");
}

/// Fails when two different sets of parameters share an identity because their texts run together.
#[test]
fn an_identity_made_of_content_is_not_ambiguous() {
    assert_ne!(only("a=bc").id, only("ab=c").id);
    assert_ne!(only("a=b&c=d").id, only("a=bcd").id);
}

#[test]
fn parameters_are_kept_as_they_are_and_broken_ones_refused() {
    let event = only("Media=u2&Media=u1&Media=u2&Body=caf%C3%A9+%E2%98%83&Empty=");
    let payload: Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!(payload, serde_json::json!({ "Media": ["u1", "u2"], "Body": "café ☃", "Empty": "" }));
    for bad in [
        "MessageSid=SM1&MessageStatus=sent",
        "MessageSid=SM00000000000000000000000000000001&MessageStatus=se%0Ant",
        "MessageSid=SM00000000000000000000000000000001&MessageStatus=a:b",
        "CallSid=CA1&CallStatus=ringing",
        "Body=%ff",
    ] {
        assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
}

#[test]
fn an_event_stream_is_split_into_its_events() {
    let batch = r#"[
        {"specversion":"1.0","type":"com.twilio.messaging.message.delivered","id":"EZ1","time":"2026-01-01T00:00:00.123Z","data":{"messageSid":"SM00000000000000000000000000000001","accountSid":"AC00000000000000000000000000000000"}},
        {"type":"com.twilio.voice.insights.call-summary.complete","id":"EZ2","data":{}}
    ]"#;
    let events = read(signed_json(batch)).unwrap().events;
    assert_eq!(events.len(), 2);
    assert_eq!((events[0].id.as_str(), events[0].kind.as_str()), ("EZ1", "com.twilio.messaging.message.delivered"));
    assert_eq!(events[0].created, Some(Timestamp(1_767_225_600_123)));
    assert_eq!(events[0].ordering_key.as_deref(), Some("SM00000000000000000000000000000001"));
    assert_eq!(events[1].created, None);
    let nameless = read(signed_json(r#"{"x":1}"#)).unwrap().events;
    assert_eq!((nameless.len(), nameless[0].kind.as_str(), nameless[0].id.as_str().len()), (1, "other", 64));
    for bad in ["7", "\"x\"", "[7]", "{", "null"] {
        assert_eq!(read(signed_json(bad)).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
}

#[test]
fn a_get_is_signed_by_its_url_alone() {
    let url = format!("https://hooks.example.test/t?{STATUS}");
    let mut raw = delivery(&url, FORM, &sign(&secret(), Algorithm::Sha1, &url, b""), b"");
    raw.method = Method::GET;
    raw.headers.remove("content-type");
    assert_eq!(read(raw).unwrap().events[0].kind, "message.sent");
}

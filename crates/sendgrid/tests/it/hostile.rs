//! Whatever bytes arrive, nothing panics and nothing hangs.

use bytes::Bytes;
use http::Response;
use palisade_core::sync::{Cursor, Source};
use palisade_core::webhook::{Event, Webhook};
use palisade_core::{EventId, RecordId, Secret, Timestamp};
use palisade_sendgrid::{SendGridSource, SendGridWebhook, TypedEvent, operation};
use proptest::prelude::*;

use super::errors::classify;
use super::sync::{SPAN, site};
use super::webhook::{Key, delivery, read};

/// Bytes of any kind, those of JSON and of forms often.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\"email\":",
        "\"a@x\"",
        "\"event\":",
        "\"bounce\"",
        "\"timestamp\":",
        "\"errors\":",
        "\"message\":",
        "\"field\":",
        "\"sg_event_id\":",
        "--b\r\n",
        "--b--\r\n",
        "\r\n\r\n",
        "\r\n",
        "Content-Disposition: form-data; name=\"a\"",
        "; filename=\"f\"",
        "charsets",
        "{\"a\":\"latin1\"}",
        "null",
        "true",
        "1e999",
        "-1",
        "é",
        "\u{0}",
        "\"created\":",
    ]);
    let mixed = prop::collection::vec(word, 0..40).prop_map(|words| words.concat().into_bytes());
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), mixed]
}

proptest! {
    #[test]
    fn any_delivery_is_refused_without_a_panic(kind in "[ -~]{0,60}", signature in "[ -~]{0,120}", time in "[ -~]{0,20}", key in "[ -~]{1,120}", body in bodies(), now in any::<i64>()) {
        let raw = delivery(&kind, &signature, &time, &body);
        prop_assert!(SendGridWebhook::new().verify(&raw, &[Secret::from(key.as_str())], Timestamp(now)).is_err());
    }

    #[test]
    fn any_signed_body_is_read_or_refused(body in bodies(), kind in prop::sample::select(vec!["application/json", "multipart/form-data; boundary=b", "multipart/form-data"])) {
        let key = Key::new();
        if let Ok(parsed) = read(key.deliver(kind, &body), &[key.public]) {
            for event in parsed.events {
                let _ = TypedEvent::parse(&event);
                let _ = SendGridSource::new().apply(&event);
            }
        }
    }

    #[test]
    fn any_answer_is_classified_and_any_page_read_or_refused(status in 100_u16..1_000, body in bodies(), cursor in "(walk:|since:)?[ -~]{0,40}") {
        let _ = classify(&operation::SEND_MAIL, status, &body);
        let response = Response::new(Bytes::from(body));
        let source = SendGridSource::new();
        let cursor = Cursor::new(cursor);
        let _ = source.page(&"bounces".into(), None, &response, SPAN);
        let _ = source.page(&"bounces".into(), Some(&cursor), &response, SPAN);
        let _ = source.request(&site(), &"bounces".into(), Some(&cursor));
        let _ = source.fetched(&"bounces".into(), &RecordId::new("a@x"), &response, SPAN);
    }

    #[test]
    fn any_event_is_applied_or_refused(kind in "(bounce|dropped|inbound|open|deferred|x)", payload in bodies()) {
        let event = Event { id: EventId::new("e"), kind, account: None, created: Some(Timestamp(0)), ordering_key: None, payload: payload.into() };
        let _ = TypedEvent::parse(&event);
        let _ = SendGridSource::new().apply(&event);
    }
}

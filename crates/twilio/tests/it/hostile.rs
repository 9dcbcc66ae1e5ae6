//! Whatever bytes arrive, nothing panics and nothing hangs.

use bytes::Bytes;
use http::{HeaderValue, Response};
use palisade_core::sync::{Cursor, Source};
use palisade_core::webhook::{Event, RawDelivery, Verified, Webhook};
use palisade_core::{EventId, RecordId, Timestamp};
use palisade_twilio::webhook::{Algorithm, sign};
use palisade_twilio::{TwilioSource, TwilioWebhook, TypedEvent, operation};
use proptest::prelude::*;

use super::errors::classify;
use super::sync::{SPAN, site};
use super::webhook::{NOW, URL, delivery, secret};

/// Bytes of any kind, those of forms and JSON often.
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
        "&",
        "=",
        "%",
        "%2",
        "%ff",
        "+",
        "MessageSid",
        "SM00000000000000000000000000000001",
        "MessageStatus=",
        "sent",
        "CallSid=CA00000000000000000000000000000001",
        "CallStatus=ringing",
        "RecordingSid=",
        "OptOutType=STOP",
        "\"messages\":",
        "\"next_page_uri\":",
        "\"sid\":",
        "\"code\":21211",
        "null",
        "true",
        "1e999",
        "-1",
        "é",
        "\u{0}",
        "\"data\":",
        "\"type\":\"x\"",
        "NumMedia=9999999999",
    ]);
    let mixed = prop::collection::vec(word, 0..40).prop_map(|words| words.concat().into_bytes());
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), mixed]
}

proptest! {
    #[test]
    fn any_delivery_is_refused_without_a_panic(url in "[ -~]{0,80}", kind in "[ -~]{0,40}", signature in "[ -~]{0,60}", settings in prop::option::of("[ -~]{0,60}"), body in bodies()) {
        let mut raw = delivery(&url, "text/plain", &signature, &body);
        raw.headers.insert("content-type", HeaderValue::from_str(&kind).unwrap());
        if let Some(settings) = settings {
            raw.headers.insert("x-twilio-webhooks-signature-settings", HeaderValue::from_str(&settings).unwrap());
        }
        prop_assert!(TwilioWebhook::new().verify(&raw, &[secret()], NOW).is_err());
    }

    #[test]
    fn any_signed_form_is_read_or_refused(body in bodies()) {
        let raw = delivery(URL, "application/x-www-form-urlencoded", &sign(&secret(), Algorithm::Sha256, URL, &body), &body);
        let mut raw = RawDelivery { body: Bytes::from(body), ..raw };
        raw.headers.insert("x-twilio-webhooks-signature-settings", HeaderValue::from_static("algorithm=HMAC_SHA256"));
        let verified = Verified::check(&TwilioWebhook::new(), raw, &[secret()], Timestamp(0)).unwrap();
        if let Ok(parsed) = TwilioWebhook::new().events(&verified) {
            for event in parsed.events {
                let _ = TypedEvent::parse(&event);
                let _ = TwilioSource::new().apply(&event);
            }
        }
    }

    #[test]
    fn any_answer_is_classified_and_any_page_read_or_refused(status in 100_u16..1_000, body in bodies(), cursor in "[ -~]{0,40}") {
        let _ = classify(&operation::CREATE_MESSAGE, status, &body);
        let response = Response::new(Bytes::from(body));
        let source = TwilioSource::new();
        let cursor = Cursor::new(cursor);
        let _ = source.page(&"messages".into(), None, &response, SPAN);
        let _ = source.page(&"messages".into(), Some(&cursor), &response, SPAN);
        let _ = source.request(&site(), &"messages".into(), Some(&cursor));
        let _ = source.fetched(&"messages".into(), &RecordId::new("SM00000000000000000000000000000001"), &response, SPAN);
    }

    #[test]
    fn any_event_is_applied_or_refused(kind in "(message|opt_out|call|recording|com.twilio.messaging.message)\\.[a-z]{0,9}", payload in bodies()) {
        let event = Event { id: EventId::new("e"), kind, account: None, created: None, ordering_key: None, payload: payload.into() };
        let _ = TypedEvent::parse(&event);
        let _ = TwilioSource::new().apply(&event);
    }
}

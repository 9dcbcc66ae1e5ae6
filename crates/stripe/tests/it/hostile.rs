//! Whatever bytes arrive, nothing panics and nothing hangs.

use bytes::Bytes;
use http::Response;
use palisade_core::sync::{Cursor, Source, Span};
use palisade_core::webhook::{Verified, Webhook};
use palisade_core::{RecordId, Timestamp};
use palisade_stripe::{StripeSource, StripeWebhook, TypedEvent, event, webhook};
use proptest::prelude::*;

use super::errors::classify;
use super::sync::event as an_event;
use super::webhook::{NOW, delivery, secret};

/// Bytes of any kind, JSON-like ones often.
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
        "\"id\":",
        "\"data\":",
        "\"object\":",
        "\"has_more\":",
        "true",
        "false",
        "null",
        "1e999",
        "-1",
        "\"evt_1\"",
        "\"type\":\"customer.updated\"",
        "\"created\":",
        "\"error\":",
        " ",
        "\n",
        "é",
        "\"related_object\":",
        "\"cus_1\"",
        "\"v2.core.event\"",
        "\"customer\"",
        "\u{0}",
        "\"deleted\":true",
    ]);
    let jsonish = prop::collection::vec(word, 0..40).prop_map(|words| words.concat().into_bytes());
    let value = prop_oneof![
        Just("1"),
        Just("\"x\""),
        Just("null"),
        Just("{}"),
        Just("[]"),
        Just("99999999999999999999"),
        Just("true")
    ];
    let shaped = prop::collection::vec(value, 8).prop_map(|v| {
        format!(
            r#"{{"id":{},"type":{},"created":{},"api_version":{},"data":{{"object":{{"id":{},"object":{}}}}},"has_more":{},"account":{}}}"#,
            v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]
        )
        .into_bytes()
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), jsonish, shaped]
}

proptest! {
    #[test]
    fn any_header_and_body_is_verified_without_a_panic(header in "[ -~]{0,200}", body in bodies(), now in any::<i64>()) {
        let raw = delivery(&header, &body);
        prop_assert!(StripeWebhook.verify(&raw, &[secret()], Timestamp(now)).is_err());
    }

    #[test]
    fn any_signature_like_header_is_refused(time in any::<i64>(), code in "[0-9a-f]{64}", body in bodies()) {
        let raw = delivery(&format!("t={time},v1={code}"), &body);
        prop_assert!(StripeWebhook.verify(&raw, &[secret()], Timestamp::from_seconds(time)).is_err());
    }

    #[test]
    fn any_signed_body_gives_events_or_an_error(body in bodies()) {
        let header = webhook::sign(&secret(), NOW, &body);
        let verified = Verified::check(&StripeWebhook, delivery(&header, &body), &[secret()], NOW).unwrap();
        if let Ok(parsed) = StripeWebhook.events(&verified) {
            for event in &parsed.events {
                let _ = TypedEvent::parse(event);
                let _ = event::head(event);
                let _ = StripeSource::new().apply(event);
            }
        }
    }

    #[test]
    fn any_answer_is_classified(status in 100_u16..1_000, body in bodies(), retry in "[ -~]{0,8}") {
        let _ = classify(status, &[("Stripe-Should-Retry", &retry), ("Stripe-Rate-Limited-Reason", &retry)], &body);
    }

    #[test]
    fn any_page_and_record_is_read_or_refused(body in bodies(), cursor in "[ -~]{0,40}", earliest in any::<i64>()) {
        let response = Response::new(Bytes::from(body));
        let span = Span { earliest, latest: i64::MAX };
        let cursor = Cursor::new(cursor);
        for stream in ["customers", "events", "none"] {
            for cursor in [None, Some(&cursor)] {
                let _ = StripeSource::new().page(&stream.into(), cursor, &response, span);
            }
        }
        let _ = StripeSource::new().fetched(&"customers".into(), &RecordId::new("cus_1"), &response, span);
    }

    #[test]
    fn any_event_is_applied_or_refused(kind in "(v1\\.)?(customer|invoice|charge|price|refund)(\\.[a-z]{0,12}){0,3}", body in bodies()) {
        let mut event = an_event(&kind, "");
        event.payload = Bytes::from(body);
        let _ = StripeSource::new().apply(&event);
        let _ = StripeSource::new().concerns(&kind);
    }

    /// Fails when white space inside a string is taken out, or any outside left in.
    #[test]
    fn a_stored_record_is_the_same_json_however_it_was_indented(text in "[ -~éß\\n\\t]{0,30}", depth in 0_usize..4, number in any::<f64>()) {
        let mut value = serde_json::json!({"id": "cus_1", "t": text, "n": number, "l": [1, {"id": "no", "a b": [null, true]}]});
        for _ in 0..depth {
            value["l"] = serde_json::json!([value["l"].clone()]);
        }
        let fetched = |text: String| {
            let response = Response::new(Bytes::from(text));
            let span = Span { earliest: 0, latest: 0 };
            StripeSource::new().fetched(&"customers".into(), &RecordId::new("cus_1"), &response, span).unwrap().state
        };
        let compact = serde_json::to_string(&value).unwrap();
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(fetched(pretty), fetched(compact));
    }
}

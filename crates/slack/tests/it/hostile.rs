//! Whatever bytes arrive, nothing panics and nothing hangs.

use bytes::Bytes;
use http::Response;
use palisade_core::sync::{Cursor, Source, Span};
use palisade_core::webhook::{Verified, Webhook};
use palisade_core::{RecordId, Timestamp};
use palisade_slack::event::{full, full_interaction};
use palisade_slack::{SlackSource, SlackWebhook, TypedEvent, webhook};
use proptest::prelude::*;

use super::errors::classify;
use super::sync::event as an_event;
use super::webhook::{NOW, delivery, secret, signed};

/// Bytes of any kind, JSON-like and form-like ones often.
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
        "\"ok\":",
        "\"error\":",
        "\"event\":",
        "\"type\":",
        "\"ts\":",
        "true",
        "false",
        "null",
        "1e999",
        "-1",
        "\"event_callback\"",
        "\"message\"",
        "\"channel\":",
        "\"1.5\"",
        " ",
        "\n",
        "é",
        "\"messages\":",
        "\"members\":",
        "\"response_metadata\":",
        "\"next_cursor\":",
        "payload=",
        "command=%2F",
        "&",
        "=",
        "%",
        "+",
        "trigger_id=1",
        "\u{0}",
        "\"thread_ts\":",
    ]);
    let mixed = prop::collection::vec(word, 0..40).prop_map(|words| words.concat().into_bytes());
    let value = prop::sample::select(vec![
        "1",
        "\"x\"",
        "null",
        "{}",
        "[]",
        "99999999999999999999",
        "true",
        "\"1.5\"",
        "\"message\"",
        "\"message_changed\"",
        "\"message_deleted\"",
        "{\"id\":\"C1\"}",
        "[{\"ts\":\"1.5\",\"reply_count\":1}]",
        "{\"ts\":\"1.5\"}",
        "\"event_callback\"",
        "\"user_change\"",
    ]);
    let shaped = prop::collection::vec(value, 12).prop_map(|v| {
        format!(
            r#"{{"type":{},"event_id":{},"team_id":{},"event":{{"type":{},"subtype":{},"channel":{},"ts":{},"message":{},"user":{}}},"messages":{},"members":{},"channels":{}}}"#,
            v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11]
        )
        .into_bytes()
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), mixed, shaped]
}

proptest! {
    #[test]
    fn any_headers_and_body_are_refused_without_a_panic(signature in "[ -~]{0,200}", time in "[ -~]{0,30}", body in bodies(), now in any::<i64>()) {
        prop_assert!(SlackWebhook.verify(&delivery(&signature, &time, &body), &[secret()], Timestamp(now)).is_err());
    }

    #[test]
    fn any_signature_like_header_is_refused(code in "[0-9a-f]{64}", time in 0..i64::MAX, body in bodies()) {
        let raw = delivery(&format!("v0={code}"), &time.to_string(), &body);
        prop_assert!(SlackWebhook.verify(&raw, &[secret()], Timestamp::from_seconds(time)).is_err());
    }

    #[test]
    fn any_signed_body_gives_events_or_an_error(body in bodies()) {
        let verified = Verified::check(&SlackWebhook, signed(&body), &[secret()], NOW).unwrap();
        let _ = webhook::retry(verified.delivery());
        if let Ok(parsed) = SlackWebhook.events(&verified) {
            for event in &parsed.events {
                let _ = (TypedEvent::parse(event), full(event).is_ok(), full_interaction(event).is_ok());
                let _ = (SlackSource::new().apply(event), SlackSource::new().resyncs(event), SlackWebhook.ends_grant(event));
            }
        }
    }

    #[test]
    fn any_answer_is_classified(status in 100_u16..1_000, body in bodies()) {
        let _ = classify(status, &body);
    }

    #[test]
    fn any_page_and_record_is_read_or_refused(body in bodies(), cursor in "((walk|from|page):)?[ -~]{0,40}", earliest in any::<i64>()) {
        let response = Response::new(Bytes::from(body));
        let span = Span { earliest, latest: i64::MAX };
        let (cursor, source) = (Cursor::new(cursor), SlackSource::new());
        let walk = Cursor::new(r#"walk:{"l":"start","c":["C1"],"p":"start","t":["1.5"],"r":"start"}"#);
        for stream in ["users", "conversations", "messages", "none"] {
            for cursor in [None, Some(&cursor), Some(&walk)] {
                let _ = source.page(&stream.into(), cursor, &response, span);
                let _ = cursor.map(|cursor| source.step_back(&stream.into(), cursor));
            }
            let _ = source.fetched(&stream.into(), &RecordId::new("C1:1.5"), &response, span);
        }
    }

    #[test]
    fn any_event_is_applied_or_refused(kind in "(echo\\.)?(message|channel|user|reaction|tokens|slash_command|interaction)([._][a-z]{0,12}){0,3}", body in bodies()) {
        let mut event = an_event(&kind, "");
        event.payload = Bytes::from(body);
        let _ = (SlackSource::new().apply(&event), TypedEvent::parse(&event), SlackWebhook.ends_grant(&event));
        let _ = SlackSource::new().concerns(&kind);
    }
}

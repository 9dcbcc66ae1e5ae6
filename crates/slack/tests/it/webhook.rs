//! Signatures and deliveries.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use palisade_core::webhook::{Event, Parsed, RawDelivery, Refusal, Verified, Webhook};
use palisade_core::{ErrorKind, Secret, Timestamp};
use palisade_slack::webhook::Retry;
use palisade_slack::{SlackWebhook, webhook};
use serde_json::{Value, json};

pub(crate) const NOW: Timestamp = Timestamp(1_767_225_600_000);
const BODY: &str = r#"{"token":"z","team_id":"T1","api_app_id":"A1","event":{"type":"message","channel":"C1","user":"U1","text":"héllo ☃","ts":"1767225599.000100","event_ts":"1767225599.000100","channel_type":"channel"},"type":"event_callback","event_id":"Ev1","event_time":1767225599,"authorizations":[{"enterprise_id":null,"team_id":"T1","user_id":"UBOT","is_bot":true,"is_enterprise_install":false}]}"#;

pub(crate) fn secret() -> Secret {
    Secret::from("8f742231b10e8888abcd99yyyzzz85a5")
}

pub(crate) fn delivery(signature: &str, time: &str, body: &[u8]) -> RawDelivery {
    let mut headers = HeaderMap::new();
    headers.insert("x-slack-signature", HeaderValue::from_bytes(signature.as_bytes()).unwrap());
    headers.insert("x-slack-request-timestamp", HeaderValue::from_bytes(time.as_bytes()).unwrap());
    RawDelivery {
        method: Method::POST,
        url: "https://example.com/hook".into(),
        headers,
        body: Bytes::copy_from_slice(body),
    }
}

pub(crate) fn signed(body: &[u8]) -> RawDelivery {
    delivery(&webhook::sign(&secret(), NOW, body), &NOW.seconds().to_string(), body)
}

fn verify(signature: &str, time: &str, body: &[u8], now: Timestamp) -> Result<(), Refusal> {
    SlackWebhook.verify(&delivery(signature, time, body), &[secret()], now)
}

pub(crate) fn parse(body: &str) -> palisade_core::Result<Parsed> {
    let verified = Verified::check(&SlackWebhook, signed(body.as_bytes()), &[secret()], NOW).unwrap();
    SlackWebhook.events(&verified)
}

fn only(body: &str) -> Event {
    let mut parsed = parse(body).unwrap();
    assert_eq!((parsed.reply.status, parsed.events.len()), (200, 1), "{body}");
    parsed.events.remove(0)
}

/// The delivery of an event, as Slack wraps it.
pub(crate) fn callback(event: &Value) -> String {
    let bot = json!({"team_id": "T1", "enterprise_id": null, "user_id": "UBOT", "is_bot": true});
    json!({"type": "event_callback", "team_id": "T1", "api_app_id": "A1", "event_id": "Ev1", "event_time": 1_767_225_599,
        "authorizations": [bot], "event": event})
    .to_string()
}

/// Fails when white space is trimmed, upper-case hexadecimal read, or another scheme taken for this one.
#[test]
fn headers_that_are_not_exactly_slacks_are_refused() {
    let (good, time) = (webhook::sign(&secret(), NOW, BODY.as_bytes()), NOW.seconds().to_string());
    let code = good.strip_prefix("v0=").unwrap();
    for (signature, kind) in [
        (format!("v0={}", code.to_uppercase()), "mismatch"),
        (format!("v0={code} "), "mismatch"),
        (format!("v0={code}00"), "mismatch"),
        (format!("v0={}", &code[1..]), "mismatch"),
        ("v0=".to_owned(), "mismatch"),
        (format!("v1={code}"), "unknown_scheme"),
        (format!("V0={code}"), "unknown_scheme"),
        (format!(" v0={code}"), "unknown_scheme"),
        (code.to_owned(), "malformed"),
        (String::new(), "malformed"),
    ] {
        let refusal = verify(&signature, &time, BODY.as_bytes(), NOW).map_err(Refusal::as_str);
        assert_eq!(refusal, Err(kind), "{signature}");
    }
    for bad in ["", "+1767225600", "-1767225600", " 1767225600", "1767225600.0", "0x69559e80", "99999999999999999999"] {
        // Signed over exactly this text, so that only the form of the time can be what is refused.
        let code = palisade_core::webhook::hmac::sha256(
            secret().expose().as_bytes(),
            &[b"v0:", bad.as_bytes(), b":", BODY.as_bytes()],
        );
        let signature = format!("v0={}", palisade_core::webhook::hmac::to_lower_hex(&code));
        let refusal = verify(&signature, bad, BODY.as_bytes(), NOW).map_err(Refusal::as_str);
        assert_eq!(refusal, Err("malformed"), "{bad}");
    }
}

#[test]
fn the_handshake_is_answered_and_leaves_nothing() {
    let parsed = parse(r#"{"token":"z","challenge":"3eZbrw1a<script>","type":"url_verification"}"#).unwrap();
    assert!(parsed.events.is_empty());
    assert_eq!((parsed.reply.status, &parsed.reply.body[..]), (200, b"3eZbrw1a<script>".as_slice()));
    assert_eq!(parsed.reply.content_type, Some("text/plain; charset=utf-8"), "never a page");
    assert!(parse(r#"{"type":"url_verification"}"#).is_err());
    assert!(parse(&json!({"type": "url_verification", "challenge": "x".repeat(1_001)}).to_string()).is_err());
    assert!(parse("ssl_check=1&token=z").unwrap().events.is_empty());
}

#[test]
fn a_delivery_is_one_event_of_its_installation_and_conversation() {
    let event = only(BODY);
    assert_eq!((event.id.as_str(), event.kind.as_str()), ("message:C1:1767225599.000100", "message"));
    assert_eq!(event.created, Some(Timestamp(1_767_225_599_000)));
    assert_eq!((event.account.as_deref(), event.ordering_key.as_deref()), (Some("T1"), Some("C1")));
    assert_eq!(event.payload, BODY.as_bytes());

    for (inner, kind, key) in [
        (json!({"type": "message", "subtype": "message_changed", "channel": "C2"}), "message.message_changed", "C2"),
        (json!({"type": "reaction_added", "user": "U1", "item": {"channel": "C3"}}), "reaction_added", "C3"),
        (json!({"type": "channel_rename", "channel": {"id": "C4"}}), "channel_rename", "C4"),
        (json!({"type": "file_shared", "channel_id": "C5", "user_id": "U1"}), "file_shared", "C5"),
        (json!({"type": "user_change", "user": {"id": "U5"}}), "user_change", "U5"),
        (json!({"type": "app_uninstalled"}), "app_uninstalled", "T1"),
    ] {
        let event = only(&callback(&inner));
        assert_eq!((event.kind.as_str(), event.ordering_key.as_deref()), (kind, Some(key)));
        assert_eq!(event.created, Some(Timestamp::from_seconds(1_767_225_599)), "{kind}");
    }
}

/// Fails when an event in a shared channel is given to the workspace it happened in.
#[test]
fn an_event_belongs_to_the_installation_it_was_sent_for() {
    let of = |team: Value, authorization: Value| {
        let body = json!({"type": "event_callback", "team_id": team, "enterprise_id": "E1", "event_id": "Ev1",
            "event": {"type": "x"}, "authorizations": [authorization]});
        only(&body.to_string()).account
    };
    assert_eq!(of(json!("T_other"), json!({"team_id": "T1"})).as_deref(), Some("T1"));
    let organization = json!({"team_id": "T1", "enterprise_id": "E1", "is_enterprise_install": true});
    assert_eq!(of(json!("T1"), organization).as_deref(), Some("E1"));
    assert_eq!(of(Value::Null, json!({})).as_deref(), Some("E1"));
}

/// Fails when a command or a button of an app that is installed for a whole organization is given to one workspace, whose
/// connection there is none.
#[test]
fn what_a_person_does_belongs_to_the_installation_too() {
    let command = |more: &str| only(&format!("command=%2Fx&team_id=T1&enterprise_id=E1&trigger_id=1{more}")).account;
    assert_eq!(command("&is_enterprise_install=false").as_deref(), Some("T1"));
    assert_eq!(command("").as_deref(), Some("T1"));
    assert_eq!(command("&is_enterprise_install=true").as_deref(), Some("E1"));
    let pressed = |whole: bool, enterprise: Value| {
        let payload = json!({"type": "block_actions", "trigger_id": "1", "team": {"id": "T1"}, "enterprise": enterprise,
            "is_enterprise_install": whole});
        let payload = payload.to_string();
        let form = url::form_urlencoded::Serializer::new(String::new()).append_pair("payload", &payload).finish();
        only(&form).account
    };
    assert_eq!(pressed(false, json!({"id": "E1"})).as_deref(), Some("T1"));
    assert_eq!(pressed(true, json!({"id": "E1"})).as_deref(), Some("E1"));
    assert_eq!(pressed(true, Value::Null).as_deref(), Some("T1"), "what names no organization is the workspace's");
}

/// Fails when our own message comes back as news, or somebody else's does not.
#[test]
fn what_our_own_app_caused_is_no_news() {
    let kinds =
        |inner: Value| parse(&callback(&inner)).unwrap().events.into_iter().map(|event| event.kind).collect::<Vec<_>>();
    let message = |more: Value| {
        let mut message = json!({"type": "message", "channel": "C1", "ts": "1.0"});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        message
    };
    for own in [
        json!({"app_id": "A1", "bot_id": "B1"}),
        json!({"bot_id": "B1", "bot_profile": {"app_id": "A1"}}),
        json!({"user": "UBOT"}),
        json!({"user": "U1", "app_id": "A1"}),
    ] {
        assert_eq!(kinds(message(own.clone())), ["echo.message"], "{own}");
        let changed = message(json!({"subtype": "message_changed", "message": own.clone()}));
        assert_eq!(kinds(changed), ["echo.message.message_changed"], "{own}");
        let deleted = message(json!({"subtype": "message_deleted", "previous_message": own.clone()}));
        assert_eq!(kinds(deleted), ["echo.message.message_deleted"], "{own}");
    }
    for other in [json!({"app_id": "A2", "bot_id": "B2"}), json!({"user": "U1"}), json!({"bot_id": "B1"}), json!({})] {
        assert_eq!(kinds(message(other.clone())), ["message"], "{other}");
    }
    assert_eq!(kinds(json!({"type": "app_mention", "user": "UBOT", "channel": "C1"})), [""; 0], "no record needs it");
    assert_eq!(
        kinds(json!({"type": "member_joined_channel", "user": "UBOT", "channel": "C1"})),
        ["member_joined_channel"]
    );
}

#[test]
fn commands_are_events_that_happen_once() {
    let form = "token=xyzz&team_id=T1&channel_id=C1&user_id=U1&command=%2Fweb%2Fhook+it&text=a+b%21&response_url=https%3A%2F%2Fhooks.slack.com%2Fx&trigger_id=13.4.5";
    let event = only(form);
    assert_eq!((event.id.as_str(), event.kind.as_str()), ("slash_command:13.4.5", "slash_command.web/hook it"));
    assert_eq!((event.account.as_deref(), event.ordering_key.as_deref()), (Some("T1"), Some("C1")));
    assert_eq!(event.created, Some(NOW));
    let fields: Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!((&fields["text"], fields.get("token")), (&json!("a b!"), None), "the old token is not kept");
    let without = form.replace("&trigger_id=13.4.5", "");
    assert_eq!(only(&without).id, only(&without).id, "the same bytes are the same event");
    assert_ne!(only(&without).id, only(&without.replace("a+b", "a+c")).id);
    assert!(parse("command=%2Fx&command=%2Fy").is_err(), "a field that stands twice");
    assert!(parse("text=hello").is_err());
}

#[test]
fn interactions_are_events_by_their_type() {
    let form = |payload: &Value| {
        let payload = payload.to_string();
        url::form_urlencoded::Serializer::new(String::new()).append_pair("payload", &payload).finish()
    };
    let pressed = json!({"type": "block_actions", "team": {"id": "T1"}, "user": {"id": "U1"}, "channel": {"id": "C1"},
        "trigger_id": "7.8.9", "actions": [{"action_id": "a", "value": "v 1", "action_ts": "1767225601.5"}]});
    let event = only(&form(&pressed));
    assert_eq!((event.id.as_str(), event.kind.as_str()), ("interaction:7.8.9", "interaction.block_actions"));
    assert_eq!((event.account.as_deref(), event.ordering_key.as_deref()), (Some("T1"), Some("C1")));
    assert_eq!(serde_json::from_slice::<Value>(&event.payload).unwrap(), pressed);
    let closed =
        json!({"type": "view_closed", "team": {"id": "T1"}, "user": {"id": "U1"}, "view": {"callback_id": "c"}});
    let event = only(&form(&closed));
    assert_eq!((event.kind.as_str(), event.ordering_key.as_deref()), ("interaction.view_closed", Some("U1")));
    assert_eq!(event.id, only(&form(&closed)).id);
    assert_eq!(event.created, Some(NOW));
    for bad in ["payload=", "payload=%7B%7D", "payload=%5B%5D", "payload=x"] {
        assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
}

#[test]
fn what_slack_keeps_from_us_is_an_event_too() {
    let body =
        r#"{"token":"z","type":"app_rate_limited","team_id":"T1","minute_rate_limited":1518467820,"api_app_id":"A1"}"#;
    let event = only(body);
    assert_eq!((event.id.as_str(), event.kind.as_str()), ("app_rate_limited:A1:T1:1518467820", "app_rate_limited"));
    assert_eq!(event.account.as_deref(), Some("T1"));
    let event = only(r#"{"type":"something_new","team_id":"T1"}"#);
    assert_eq!(event.kind, "something_new");
    assert_eq!(event.id, only(r#"{"type":"something_new","team_id":"T1"}"#).id);
}

#[test]
fn repetitions_are_told_and_keep_their_id() {
    let mut raw = signed(BODY.as_bytes());
    assert_eq!(webhook::retry(&raw), None);
    raw.headers.insert("x-slack-retry-num", HeaderValue::from_static("2"));
    raw.headers.insert("x-slack-retry-reason", HeaderValue::from_static("http_timeout"));
    let Retry { number, reason, .. } = webhook::retry(&raw).unwrap();
    assert_eq!((number, reason.as_deref()), (2, Some("http_timeout")));
    let verified = Verified::check(&SlackWebhook, raw, &[secret()], NOW).unwrap();
    assert_eq!(SlackWebhook.events(&verified).unwrap().events[0].id, only(BODY).id);
    assert_eq!(SlackWebhook.kept_headers(), ["x-slack-retry-num", "x-slack-retry-reason"]);
}

/// Fails when a person who takes back a token of their own disconnects the workspace.
#[test]
fn the_end_of_the_grant_is_told() {
    for (inner, ends) in [
        (json!({"type": "app_uninstalled"}), true),
        (json!({"type": "tokens_revoked", "tokens": {"oauth": ["U1"], "bot": ["UBOT"]}}), true),
        (json!({"type": "tokens_revoked", "tokens": {"oauth": ["U1"], "bot": []}}), false),
        (json!({"type": "tokens_revoked", "tokens": {"oauth": ["U1"]}}), false),
        (json!({"type": "tokens_revoked"}), false),
        (json!({"type": "message", "channel": "C1", "ts": "1.0"}), false),
    ] {
        let event = only(&callback(&inner));
        assert_eq!(SlackWebhook.ends_grant(&event), ends, "{inner}");
        assert!(!ends || SlackWebhook.may_end_grant(&event.kind), "{inner}: or it would not be handled");
    }
}

#[test]
fn what_is_no_event_is_a_decode_error() {
    let deep = format!(r#"{{"type":"event_callback","event_id":"Ev1","event":{}"#, "[".repeat(100_000));
    let long = callback(&json!({"type": "e".repeat(256)}));
    for bad in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"type":1}"#,
        r#"{"type":"event_callback"}"#,
        r#"{"type":"event_callback","event_id":"Ev1"}"#,
        r#"{"type":"event_callback","event_id":"Ev1","event":{}}"#,
        r#"{"type":"event_callback","event_id":"","event":{"type":"x"}}"#,
        r#"{"type":"event_callback","event":{"type":"x"}}"#,
        r#"{"type":"app_rate_limited"}"#,
        "<html>",
        BODY.trim_end_matches('}'),
        &deep,
        &long,
    ] {
        let error = parse(bad).unwrap_err();
        assert_eq!((error.kind(), error.provider()), (ErrorKind::Decode, Some("slack")), "{bad:.80}");
        assert!(!error.to_string().contains("Ev1"), "an error holds nothing of a body");
    }
}

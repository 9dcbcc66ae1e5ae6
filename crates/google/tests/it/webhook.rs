//! Tokens, channels and what is in the deliveries.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use palisade_core::webhook::{Event, Parsed, RawDelivery, Refusal, Verified, Webhook};
use palisade_core::{ErrorKind, Secret, Timestamp};
use palisade_google::TypedEvent;
use palisade_google::webhook::{
    CALENDAR_CHANGED, ChannelTrust, GoogleWebhook, Jwks, MAIL_CHANGED, PushTrust, Trust, channel,
};
use serde_json::{Value, json};

use super::keys::{jwks, token};

const NOW: i64 = 1_767_225_610;
const AUDIENCE: &str = "https://hooks.example.test/google/pubsub";
const EMAIL: &str = "push-sa@test-project.iam.gserviceaccount.com";

fn file() -> Value {
    serde_json::from_str(include_str!("../fixtures/webhooks.json")).unwrap()
}

fn delivery(vector: &Value) -> RawDelivery {
    let mut headers = HeaderMap::new();
    for (name, value) in vector["headers"].as_object().unwrap() {
        headers.append(
            HeaderName::from_bytes(name.to_lowercase().as_bytes()).unwrap(),
            value.as_str().unwrap().parse().unwrap(),
        );
    }
    let body = STANDARD.decode(vector["body_b64"].as_str().unwrap()).unwrap();
    RawDelivery { method: Method::POST, url: String::new(), headers, body: body.into() }
}

fn push_trust(audience: &str, email: &str) -> Secret {
    Trust::Push(PushTrust { audience: audience.into(), email: email.into(), topic: None }).to_secret()
}

#[test]
fn every_recorded_push_gets_its_verdict() {
    let file = file();
    let group = &file["google_pubsub_push"];
    let keys = Jwks::parse(group["jwks"].to_string().as_bytes()).unwrap();
    let webhook = GoogleWebhook::with_keys(keys);
    let vectors = group["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 11);
    for vector in vectors {
        let text = |name: &str| vector[name].as_str().unwrap();
        let secrets = [push_trust(text("expected_aud"), text("expected_email"))];
        let now = Timestamp::from_seconds(vector["now"].as_i64().unwrap());
        let checked = Verified::check(&webhook, delivery(vector), &secrets, now);
        assert_eq!(checked.is_ok(), vector["expect"] == "ok", "{}: {checked:?}", vector["name"]);
        if let Ok(verified) = checked {
            let event = webhook.events(&verified).unwrap().events.remove(0);
            assert_eq!((event.kind.as_str(), event.account.as_deref()), (MAIL_CHANGED, Some("user@example.com")));
        }
    }
}

#[test]
fn every_recorded_channel_message_gets_its_verdict() {
    let file = file();
    let vectors = file["google_calendar_push"]["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 5);
    for vector in vectors {
        let text = |name: &str| vector["expected"][name].as_str().unwrap().to_owned();
        let trust = ChannelTrust {
            channel_id: text("channel_id"),
            resource_id: text("resource_id"),
            token: text("token").into(),
        };
        let secrets = [Trust::Channel(trust).to_secret()];
        let webhook = GoogleWebhook::new();
        let checked = Verified::check(&webhook, delivery(vector), &secrets, Timestamp::from_seconds(NOW));
        assert_eq!(checked.is_ok(), vector["expect"] == "ok", "{}: {checked:?}", vector["name"]);
        if let Ok(verified) = checked {
            let events = webhook.events(&verified).unwrap().events;
            assert_eq!(events.len(), usize::from(vector["name"] != "sync_first_message"), "sync is only acknowledged");
        }
    }
}

// ---------------------------------------------------------------------------------------------- tokens

fn header() -> Value {
    json!({ "alg": "RS256", "kid": "k1", "typ": "JWT" })
}

fn claims() -> Value {
    json!({
        "aud": AUDIENCE, "azp": "1", "email": EMAIL, "email_verified": true, "sub": "1",
        "iss": "https://accounts.google.com", "iat": NOW - 10, "exp": NOW + 3_590,
    })
}

fn push(token: &str) -> RawDelivery {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    let data = STANDARD.encode(json!({ "emailAddress": "user@example.com", "historyId": 77 }).to_string());
    let body = json!({
        "message": { "data": data, "messageId": "m-1", "publishTime": "2026-01-01T00:00:00.5Z" },
        "subscription": "projects/p/subscriptions/s",
    });
    RawDelivery { method: Method::POST, url: String::new(), headers, body: body.to_string().into() }
}

fn verify(token: &str, now: i64) -> Result<(), Refusal> {
    let webhook = GoogleWebhook::with_keys(jwks("k1"));
    webhook.verify(&push(token), &[push_trust(AUDIENCE, EMAIL)], Timestamp::from_seconds(now))
}

#[track_caller]
fn with_claim(name: &str, value: Value, expected: &str) {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    let refused = verify(&token(&header(), &claims), NOW).map_err(Refusal::as_str);
    assert_eq!(refused.err().unwrap_or("accepted"), expected, "{name}");
}

/// Fails when any claim goes unchecked. Every one of these tokens is signed by the right key.
#[test]
fn each_claim_is_checked() {
    with_claim("sub", Value::Null, "accepted");
    with_claim("iss", json!("accounts.google.com"), "accepted");
    for (name, bad) in [
        ("iss", vec![Value::Null, json!("https://evil.example"), json!("https://accounts.google.com/"), json!(1)]),
        ("aud", vec![Value::Null, json!("https://hooks.example.test/google"), json!([AUDIENCE]), json!("")]),
        ("email", vec![Value::Null, json!("other@test-project.iam.gserviceaccount.com"), json!("")]),
        ("email_verified", vec![Value::Null, json!(false), json!("true"), json!(1)]),
    ] {
        for value in bad {
            with_claim(name, value, "untrusted");
        }
    }
    for name in ["exp", "iat"] {
        with_claim(name, Value::Null, "malformed");
        with_claim(name, json!("soon"), "malformed");
        with_claim(name, json!(1.5e300), "malformed");
    }
    with_claim("exp", json!(i64::MAX), "accepted");
    with_claim("exp", json!(i64::MIN), "too_old");
    with_claim("iat", json!(i64::MAX), "too_new");
}

/// Fails when the window is a second wider or narrower.
#[test]
fn the_times_count_to_the_second_with_30_seconds_of_skew() {
    let token = token(&header(), &claims());
    for (now, expected) in [
        (NOW + 3_590, "accepted"),
        (NOW + 3_619, "accepted"),
        (NOW + 3_620, "too_old"),
        (NOW - 10, "accepted"),
        (NOW - 40, "accepted"),
        (NOW - 41, "too_new"),
    ] {
        assert_eq!(verify(&token, now).err().map_or("accepted", Refusal::as_str), expected, "{}", now - NOW);
    }
}

#[track_caller]
fn with_header(header: &Value, expected: &str) {
    assert_eq!(verify(&token(header, &claims()), NOW).err().map_or("accepted", Refusal::as_str), expected, "{header}");
}

/// Fails when a token may choose its algorithm.
#[test]
fn rs256_and_nothing_else() {
    with_header(&json!({ "alg": "RS256", "kid": "k1" }), "accepted");
    for alg in ["none", "None", "HS256", "RS384", "PS256", "ES256", "rs256", ""] {
        with_header(&json!({ "alg": alg, "kid": "k1" }), "unknown_scheme");
    }
    with_header(&json!({ "kid": "k1" }), "unknown_scheme");
    with_header(&json!({ "alg": "RS256", "kid": "k1", "crit": ["x"] }), "unknown_scheme");
    with_header(&json!({ "alg": "RS256" }), "malformed");
    with_header(&json!({ "alg": "RS256", "kid": "" }), "malformed");
    with_header(&json!(["RS256"]), "malformed");
    let unsigned =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(claims().to_string()));
    assert_eq!(verify(&unsigned, NOW), Err(Refusal::UnknownScheme));
}

/// Fails when a forged token causes a fetch of keys although something else is wrong with it.
#[test]
fn only_a_token_that_is_right_but_for_its_key_asks_for_the_key() {
    with_header(&json!({ "alg": "RS256", "kid": "k2" }), "unknown_key");
    let mut wrong = claims();
    wrong["aud"] = json!("https://elsewhere.example");
    let token = token(&json!({ "alg": "RS256", "kid": "k2" }), &wrong);
    assert_eq!(verify(&token, NOW).unwrap_err().as_str(), "untrusted");
    let webhook = GoogleWebhook::new();
    let good = super::keys::token(&header(), &claims());
    let now = Timestamp::from_seconds(NOW);
    assert_eq!(webhook.verify(&push(&good), &[push_trust(AUDIENCE, EMAIL)], now), Err(Refusal::UnknownKey));
}

/// Fails when any of header, claims or signature is left out of what is signed.
#[test]
fn every_single_changed_byte_is_refused() {
    let good = token(&header(), &claims());
    assert_eq!(verify(&good, NOW), Ok(()));
    for at in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[at] ^= if at % 2 == 0 { 1 } else { 0x20 };
        let Ok(changed) = String::from_utf8(changed) else { continue };
        if HeaderValue::from_str(&changed).is_ok() {
            assert!(verify(&changed, NOW).is_err(), "byte {at}");
        }
    }
    for bad in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "....",
        &good[..good.len() - 1],
        &format!("{good}="),
        &format!("{good}.x"),
        &format!(" {good}"),
        &"a".repeat(9_000),
    ] {
        assert!(verify(bad, NOW).is_err(), "{bad:.40}");
    }
}

#[test]
fn the_header_is_one_bearer_token() {
    let good = token(&header(), &claims());
    let webhook = GoogleWebhook::with_keys(jwks("k1"));
    let (now, secrets) = (Timestamp::from_seconds(NOW), [push_trust(AUDIENCE, EMAIL)]);
    let check = |values: &[String]| {
        let mut raw = push(&good);
        raw.headers.clear();
        for value in values {
            raw.headers.append("authorization", value.parse().unwrap());
        }
        webhook.verify(&raw, &secrets, now).map_err(Refusal::as_str)
    };
    assert_eq!(check(&[format!("Bearer {good}")]), Ok(()));
    assert_eq!(check(&[format!("bearer {good}")]), Ok(()));
    assert_eq!(check(&[]), Err("missing_header"));
    assert_eq!(check(&[format!("Bearer {good}"), format!("Bearer {good}")]), Err("duplicate_header"));
    assert_eq!(check(&[format!("Basic {good}")]), Err("unknown_scheme"));
    assert_eq!(check(std::slice::from_ref(&good)), Err("unknown_scheme"));
    assert_eq!(check(&[format!("Bearer  {good}")]), Err("malformed"));
}

/// Fails when the e-mail of one subscription goes with the audience of another.
#[test]
fn each_subscription_is_trusted_as_a_whole() {
    let webhook = GoogleWebhook::with_keys(jwks("k1"));
    let (now, good) = (Timestamp::from_seconds(NOW), push(&token(&header(), &claims())));
    let other = "other@test-project.iam.gserviceaccount.com";
    let check = |secrets: &[Secret]| webhook.verify(&good, secrets, now).map_err(Refusal::as_str);
    assert_eq!(check(&[push_trust("https://b.example", other), push_trust(AUDIENCE, EMAIL)]), Ok(()));
    assert_eq!(check(&[push_trust(AUDIENCE, other), push_trust(AUDIENCE, EMAIL)]), Ok(()));
    assert_eq!(check(&[push_trust(AUDIENCE, other), push_trust("https://b.example", EMAIL)]), Err("untrusted"));
    assert_eq!(check(&["0123456789abcdef".into()]), Err("unknown_scheme"), "a channel's key trusts no push");
    assert_eq!(check(&[push_trust(AUDIENCE, EMAIL), "short".into()]), Err("no_secret"), "a secret nobody can use");
}

// ---------------------------------------------------------------------------------------------- channels

const KEY: &str = "a key of 16 characters or more";

fn notification(channel: &str, token: &str) -> RawDelivery {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-goog-channel-id", channel),
        ("x-goog-channel-token", token),
        ("x-goog-channel-expiration", "Thu, 08 Jan 2026 00:00:00 GMT"),
        ("x-goog-message-number", "12"),
        ("x-goog-resource-id", "ret08u3rv24htgh289g"),
        ("x-goog-resource-state", "exists"),
        (
            "x-goog-resource-uri",
            "https://www.googleapis.com/calendar/v3/calendars/team%40group.example/events?alt=json",
        ),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    RawDelivery { method: Method::POST, url: String::new(), headers, body: Bytes::new() }
}

fn check(raw: &RawDelivery, secrets: &[&str]) -> Result<(), &'static str> {
    let secrets: Vec<Secret> = secrets.iter().map(|text| Secret::from(*text)).collect();
    GoogleWebhook::new().verify(raw, &secrets, Timestamp::from_seconds(NOW)).map_err(Refusal::as_str)
}

/// Fails when a token fits another channel, or only its beginning is compared.
#[test]
fn a_derived_token_proves_its_own_channel_only() {
    let token = channel::token(&KEY.into(), "c1");
    let good = notification("c1", token.expose());
    assert_eq!(check(&good, &[KEY]), Ok(()));
    assert_eq!(check(&good, &["another key, while one is rotated", KEY]), Ok(()));
    assert_eq!(check(&good, &["another key, while one is rotated"]), Err("mismatch"));
    assert_eq!(check(&notification("c2", token.expose()), &[KEY]), Err("mismatch"));
    for at in 0..token.expose().len() {
        let mut text = token.expose().to_owned().into_bytes();
        text[at] ^= 1;
        assert_eq!(
            check(&notification("c1", std::str::from_utf8(&text).unwrap()), &[KEY]),
            Err("mismatch"),
            "byte {at}"
        );
    }
    for bad in ["", &token.expose()[1..], &format!("{}0", token.expose()), &token.expose().to_uppercase()] {
        assert_eq!(check(&notification("c1", bad), &[KEY]), Err("mismatch"), "{bad}");
    }
    let push = push_trust(AUDIENCE, EMAIL);
    assert_eq!(check(&good, &[push.expose()]), Err("unknown_scheme"), "a subscription trusts no channel");
}

#[test]
fn a_notification_is_whole_and_empty() {
    let good = notification("c1", channel::token(&KEY.into(), "c1").expose());
    for name in ["x-goog-channel-token", "x-goog-resource-id", "x-goog-resource-state", "x-goog-message-number"] {
        let mut raw = good.clone();
        raw.headers.remove(name);
        assert_eq!(check(&raw, &[KEY]), Err("missing_header"), "{name}");
        let mut raw = good.clone();
        raw.headers.append(name, "x".parse().unwrap());
        assert_eq!(check(&raw, &[KEY]), Err("duplicate_header"), "{name}");
    }
    let mut raw = good.clone();
    raw.headers.append("x-goog-channel-id", "c1".parse().unwrap());
    assert_eq!(check(&raw, &[KEY]), Err("duplicate_header"));
    raw = RawDelivery { body: Bytes::from_static(b"{}"), ..good.clone() };
    assert_eq!(check(&raw, &[KEY]), Err("malformed"));
    raw = RawDelivery { method: Method::GET, ..good.clone() };
    assert_eq!(check(&raw, &[KEY]), Err("malformed"));
    // Without the header that names a channel it is taken for a push, and is none.
    raw = good;
    raw.headers.remove("x-goog-channel-id");
    assert_eq!(check(&raw, &[KEY]), Err("missing_header"));
}

// ---------------------------------------------------------------------------------------------- what is in them

fn parsed(raw: RawDelivery, secret: Secret) -> palisade_core::Result<Parsed> {
    let webhook = GoogleWebhook::with_keys(jwks("k1"));
    let verified = Verified::check(&webhook, raw, &[secret], Timestamp::from_seconds(NOW)).unwrap();
    webhook.events(&verified)
}

fn pushed(body: &str) -> palisade_core::Result<Parsed> {
    let raw = RawDelivery { body: body.to_owned().into(), ..push(&token(&header(), &claims())) };
    parsed(raw, push_trust(AUDIENCE, EMAIL))
}

#[test]
fn a_push_is_an_event_about_a_mailbox() {
    let event = parsed(push(&token(&header(), &claims())), push_trust(AUDIENCE, EMAIL)).unwrap().events.remove(0);
    assert_eq!((event.id.as_str(), event.kind.as_str()), ("m-1", MAIL_CHANGED));
    assert_eq!(event.account.as_deref(), Some("user@example.com"));
    assert_eq!(event.ordering_key, event.account);
    assert_eq!(event.created, Some(Timestamp(1_767_225_600_500)));
    let data = |data: &str| pushed(&json!({ "message": { "data": data, "message_id": "m" } }).to_string());
    for (inner, right) in [
        (r#"{"emailAddress":"a@x.example","historyId":"18446744073709551615"}"#, true),
        (r#"{"emailAddress":"a@x.example","historyId":7,"novel":{}}"#, true),
        (r#"{"emailAddress":"a@x.example","historyId":"x"}"#, false),
        (r#"{"emailAddress":"a@x.example","historyId":-7}"#, false),
        (r#"{"emailAddress":"a@x.example"}"#, false),
        (r#"{"emailAddress":"","historyId":7}"#, false),
        (r#"{"historyId":7}"#, false),
        ("7", false),
        ("", false),
    ] {
        for text in [STANDARD.encode(inner), URL_SAFE_NO_PAD.encode(inner)] {
            assert_eq!(data(&text).is_ok(), right, "{inner}");
        }
    }
    // Both alphabets: these bytes differ between them.
    let odd = r#"{"emailAddress":"ü?>~@x.example","historyId":1}"#;
    for text in [STANDARD.encode(odd), URL_SAFE_NO_PAD.encode(odd)] {
        assert_eq!(data(&text).unwrap().events[0].account.as_deref(), Some("ü?>~@x.example"));
    }
    for bad in [
        "",
        "[]",
        "{}",
        r#"{"message":{}}"#,
        r#"{"message":{"data":"e30="}}"#,
        r#"{"message":{"messageId":"m","data":"*"}}"#,
        r#"{"message":7}"#,
        "<html>",
    ] {
        let error = pushed(bad).unwrap_err();
        assert_eq!((error.kind(), error.provider()), (ErrorKind::Decode, Some("google")), "{bad}");
    }
}

#[test]
fn a_notification_is_an_event_about_a_calendar() {
    let good = || notification("c1", channel::token(&KEY.into(), "c1").expose());
    let event = parsed(good(), KEY.into()).unwrap().events.remove(0);
    assert_eq!((event.id.as_str(), event.kind.as_str()), ("c1/12", CALENDAR_CHANGED));
    assert_eq!(event.account.as_deref(), Some("team@group.example"));
    assert_eq!(event.ordering_key, event.account);
    let payload: Value = serde_json::from_slice(&event.payload).unwrap();
    assert_eq!(payload["expires_at"], 1_767_830_400_000_i64);
    assert!(!String::from_utf8_lossy(&event.payload).contains(channel::token(&KEY.into(), "c1").expose()));

    let mut sync = good();
    sync.headers.insert("x-goog-resource-state", HeaderValue::from_static("sync"));
    let parsed_sync = parsed(sync, KEY.into()).unwrap();
    assert_eq!((parsed_sync.reply.status, parsed_sync.events.len()), (200, 0));

    let mut gone = good();
    gone.headers.insert("x-goog-resource-state", HeaderValue::from_static("not_exists"));
    gone.headers.remove("x-goog-resource-uri");
    gone.headers.remove("x-goog-channel-expiration");
    let event = parsed(gone, KEY.into()).unwrap().events.remove(0);
    assert_eq!((event.account, event.ordering_key.as_deref()), (None, Some("ret08u3rv24htgh289g")));

    for number in ["", "-1", "x", "99999999999999999999999"] {
        let mut raw = good();
        raw.headers.insert("x-goog-message-number", number.parse().unwrap());
        assert_eq!(parsed(raw, KEY.into()).unwrap_err().kind(), ErrorKind::Decode, "{number}");
    }
}

/// Fails when a handler of a type is given another's event, or a field is read from where it does not stand.
#[test]
fn notifications_are_read_as_types() {
    let event = |kind: &str, payload: &str| Event {
        id: "1".into(),
        kind: kind.to_owned(),
        account: None,
        created: None,
        ordering_key: None,
        payload: payload.to_owned().into(),
    };
    // {"emailAddress":"ada@example.com","historyId":"17"}
    let data = "eyJlbWFpbEFkZHJlc3MiOiJhZGFAZXhhbXBsZS5jb20iLCJoaXN0b3J5SWQiOiIxNyJ9";
    let push = format!(r#"{{"message":{{"messageId":"1","publishTime":"2026-01-01T00:00:00Z","data":"{data}"}}}}"#);
    let TypedEvent::MailChanged(mail) = TypedEvent::parse(&event("gmail.changed", &push)).unwrap() else { panic!() };
    assert_eq!((mail.mailbox.as_str(), mail.history_id), ("ada@example.com", 17));
    assert_eq!(mail.published_at, Some(Timestamp::from_seconds(1_767_225_600)));
    let channel = r#"{"channel_id":"c","resource_id":"r","resource_state":"exists","message_number":3,"calendar":"primary","expires_at":5}"#;
    let typed = TypedEvent::parse(&event("calendar.changed", channel)).unwrap();
    let TypedEvent::CalendarChanged(calendar) = typed else { panic!() };
    assert_eq!((calendar.calendar.as_deref(), calendar.channel.as_str(), calendar.number), (Some("primary"), "c", 3));
    assert_eq!((calendar.state.as_str(), calendar.channel_expires_at), ("exists", Some(Timestamp(5))));
    assert!(matches!(TypedEvent::parse(&event("other", "x")).unwrap(), TypedEvent::Unknown { .. }));
    for (kind, wrong) in [("gmail.changed", channel), ("calendar.changed", push.as_str())] {
        assert_eq!(TypedEvent::parse(&event(kind, wrong)).unwrap_err().kind(), ErrorKind::Decode, "{kind}");
    }
}

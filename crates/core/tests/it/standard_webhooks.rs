//! Standard Webhooks as a receiver uses it: the recorded vectors, and what lies just outside each of their promises.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use palisade_core::webhook::standard::{ID, SIGNATURE, StandardWebhook, TIMESTAMP, sign};
use palisade_core::webhook::{RawDelivery, Refusal, Verified, Webhook};
use palisade_core::{Secret, Timestamp};
use serde_json::Value;

/// What the vectors are signed with, their message, and when it was signed.
const SECRET: &str = "whsec_c3RhbmRhcmQtd2ViaG9va3MtdGVzdC1rZXktMzJieXQ=";
const OTHER: &str = "whsec_YW5vdGhlciBrZXkgb2YgdGhlc2UgdGVzdHM=";
const BODY: &str = r#"{"type":"contact.created","timestamp":"2026-01-01T00:00:00Z","data":{"id":"c_1"}}"#;
const AT: i64 = 1_767_225_600;
const TIME: &str = "1767225600";

fn delivery(headers: &[(&HeaderName, &str)], body: &[u8]) -> RawDelivery {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    RawDelivery {
        method: Method::POST,
        url: "https://example.com/hook".to_owned(),
        headers: map,
        body: body.to_vec().into(),
    }
}

/// The vectors' message under a signature header.
fn message(signature: &str) -> RawDelivery {
    delivery(&[(&ID, "msg_1"), (&TIMESTAMP, TIME), (&SIGNATURE, signature)], BODY.as_bytes())
}

/// The vectors' message as one secret signs it.
fn signed(secret: &str) -> String {
    sign(&secret.into(), "msg_1", AT, BODY.as_bytes()).unwrap()
}

#[track_caller]
fn check(delivery: RawDelivery, secrets: &[&str], now: i64, wanted: Result<(), &str>) {
    let headers = delivery.headers.clone();
    let secrets: Vec<Secret> = secrets.iter().map(|secret| Secret::from(*secret)).collect();
    let found = Verified::check(&StandardWebhook, delivery, &secrets, Timestamp::from_seconds(now));
    assert_eq!(found.map(drop).map_err(Refusal::as_str), wanted, "{headers:?} at {now}");
}

/// Fails when the time is not checked, when a bare code is taken, when the id or the time is not signed, or when what a
/// sender's own library makes is refused.
#[test]
fn each_recorded_vector_is_taken_or_refused_for_its_reason() {
    let wanted = [
        ("plain", Ok(())),
        ("v1a_present_ignored", Ok(())),
        ("id_changed", Err("mismatch")),
        ("timestamp_changed", Err("mismatch")),
        ("too_old", Err("too_old")),
        ("no_version_prefix", Err("malformed")),
        ("missing_signature", Err("missing_header")),
    ];
    let file: Value = serde_json::from_str(include_str!("../fixtures/standard_webhooks.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), wanted.len());
    for (vector, (name, wanted)) in vectors.iter().zip(wanted) {
        assert_eq!((vector["name"].as_str(), vector["expect"] == "ok"), (Some(name), wanted.is_ok()));
        let headers = vector["headers"].as_object().unwrap().iter();
        let headers: Vec<(HeaderName, &str)> =
            headers.map(|(name, value)| (name.parse().unwrap(), value.as_str().unwrap())).collect();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name, *value)).collect();
        let body = STANDARD.decode(vector["body_b64"].as_str().unwrap()).unwrap();
        let (secret, now) = (vector["secret"].as_str().unwrap(), vector["now"].as_i64().unwrap());
        check(delivery(&headers, &body), &[secret], now, wanted);
    }
    // What the tests below sign is what the vectors' sender signed.
    assert_eq!(vectors[0]["headers"]["webhook-signature"], signed(SECRET).as_str());
}

/// Fails when the window is wider or narrower than five minutes, is open to one side, or a time is read loosely.
#[test]
fn a_signed_time_is_good_for_five_minutes_both_ways() {
    for (now, wanted) in [
        (AT, Ok(())),
        (AT + 300, Ok(())),
        (AT + 301, Err("too_old")),
        (AT - 300, Ok(())),
        (AT - 301, Err("too_new")),
        (i64::MAX / 1_000, Err("too_old")),
        (0, Err("too_new")),
    ] {
        check(message(&signed(SECRET)), &[SECRET], now, wanted);
    }
    for time in ["", "+1767225600", "-1767225600", " 1767225600", "1767225600.0", "0x69559e80", "9999999999999999999"] {
        let odd = delivery(&[(&ID, "msg_1"), (&TIMESTAMP, time), (&SIGNATURE, &signed(SECRET))], BODY.as_bytes());
        check(odd, &[SECRET], AT, Err("malformed"));
    }
}

/// Fails when `v1a`, another version or a bare code is taken for `v1`, when only the first signature is read, or when a
/// code is compared by a part of it.
#[test]
fn only_a_whole_code_under_v1_counts() {
    let v1 = signed(SECRET);
    let code = v1.strip_prefix("v1,").unwrap();
    let wrong = signed(OTHER);
    let unpadded = STANDARD_NO_PAD.encode(STANDARD.decode(code).unwrap());
    let hexadecimal: String = STANDARD.decode(code).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    for (signature, wanted) in [
        (format!("{wrong} {v1}"), Ok(())),
        (format!("v2,{code} {v1} v1a,{code}"), Ok(())),
        (wrong, Err("mismatch")),
        (format!("v1a,{code}"), Err("malformed")),
        (format!("v2,{code}"), Err("malformed")),
        (format!("V1,{code}"), Err("malformed")),
        (format!("v1={code}"), Err("malformed")),
        (format!("v1{code}"), Err("malformed")),
        (code.to_owned(), Err("malformed")),
        (format!(",{code}"), Err("malformed")),
        (format!("v2,{code},{v1}"), Err("malformed")),
        (format!("v1,{unpadded}"), Err("malformed")),
        (format!("v1,{hexadecimal}"), Err("malformed")),
        (format!("v1,{}", &code[..20]), Err("malformed")),
        ("v1,".to_owned(), Err("malformed")),
        (String::new(), Err("malformed")),
    ] {
        check(message(&signature), &[SECRET], AT, wanted);
    }
}

/// Fails when the id, the time or the body is not signed, or when a header is read that stands twice.
#[test]
fn what_is_signed_cannot_be_changed_doubled_or_left_out() {
    let v1 = signed(SECRET);
    let good = [(&ID, "msg_1"), (&TIMESTAMP, TIME), (&SIGNATURE, v1.as_str())];
    let at = |place: usize, value| {
        let mut headers = good;
        headers[place].1 = value;
        headers
    };
    check(delivery(&at(0, "msg_2"), BODY.as_bytes()), &[SECRET], AT, Err("mismatch"));
    check(delivery(&at(0, ""), BODY.as_bytes()), &[SECRET], AT, Err("mismatch"));
    check(delivery(&at(1, "1767225601"), BODY.as_bytes()), &[SECRET], AT, Err("mismatch"));
    // The same number, but not the text that was signed.
    check(delivery(&at(1, "01767225600"), BODY.as_bytes()), &[SECRET], AT, Err("mismatch"));
    for body in [BODY.replace("c_1", "c_2"), format!("{BODY}\n"), String::new()] {
        check(delivery(&good, body.as_bytes()), &[SECRET], AT, Err("mismatch"));
    }
    for place in 0..good.len() {
        let rest: Vec<_> =
            good.into_iter().enumerate().filter(|(i, _)| *i != place).map(|(_, header)| header).collect();
        let now = Timestamp::from_seconds(AT);
        let refusal = Verified::check(&StandardWebhook, delivery(&rest, BODY.as_bytes()), &[SECRET.into()], now);
        assert_eq!(refusal.unwrap_err(), Refusal::MissingHeader(good[place].0.as_str()));
        check(delivery(&[&good[..], &[good[place]]].concat(), BODY.as_bytes()), &[SECRET], AT, Err("duplicate_header"));
    }
}

/// Fails when only the first secret is tried, or when a secret that anyone could guess is used.
#[test]
fn a_rotated_secret_overlaps_on_either_side() {
    let (by_old, by_both) = (signed(OTHER), format!("{} {}", signed(SECRET), signed(OTHER)));
    for (signature, secrets, wanted) in [
        (&by_old, &[SECRET, OTHER][..], Ok(())),
        (&by_old, &[OTHER, SECRET], Ok(())),
        (&by_old, &[SECRET], Err("mismatch")),
        (&by_both, &[SECRET], Ok(())),
        (&by_both, &[OTHER], Ok(())),
        (&by_both, &["whsec_bm9uZSBvZiB0aGVt"], Err("mismatch")),
        // Without its prefix, as some senders show it.
        (&by_old, &[OTHER.strip_prefix("whsec_").unwrap()], Ok(())),
        (&by_old, &["whsec_!", OTHER], Err("malformed")),
        (&by_old, &["whsec_", OTHER], Err("malformed")),
        (&by_old, &[OTHER, ""], Err("no_secret")),
        (&by_old, &[], Err("no_secret")),
    ] {
        check(message(signature), secrets, AT, wanted);
    }
}

/// Fails when the event's id is not the signed one: a sender repeats it when it sends again.
#[test]
fn a_verified_message_is_one_event_by_its_signed_id_and_time() {
    let now = Timestamp::from_seconds(AT + 5);
    let verified = Verified::check(&StandardWebhook, message(&signed(SECRET)), &[SECRET.into()], now).unwrap();
    let parsed = StandardWebhook.events(&verified).unwrap();
    let [event] = parsed.events.as_slice() else { panic!("{parsed:?}") };
    assert_eq!((event.id.as_str(), event.kind.as_str(), parsed.reply.status), ("msg_1", "contact.created", 200));
    assert_eq!((event.created, &event.payload[..]), (Some(Timestamp::from_seconds(AT)), BODY.as_bytes()));
}

//! Signatures and deliveries.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use palisade_core::webhook::{Parsed, RawDelivery, Refusal, Verified, Webhook};
use palisade_core::{ErrorKind, Secret, Timestamp};
use palisade_stripe::{StripeWebhook, webhook};

pub(crate) const NOW: Timestamp = Timestamp(1_767_225_600_000);
const BODY: &str = r#"{"id":"evt_1","object":"event","api_version":"2026-09-30.endive","created":1767225599,"type":"customer.created","data":{"object":{"id":"cus_1","object":"customer"}}}"#;

pub(crate) fn secret() -> Secret {
    Secret::from("whsec_of_this_test")
}

pub(crate) fn delivery(header: &str, body: &[u8]) -> RawDelivery {
    let mut headers = HeaderMap::new();
    headers.insert("stripe-signature", HeaderValue::from_bytes(header.as_bytes()).unwrap());
    RawDelivery {
        method: Method::POST,
        url: "https://example.com/hook".into(),
        headers,
        body: Bytes::copy_from_slice(body),
    }
}

fn verify(header: &str, body: &[u8], now: Timestamp) -> Result<(), Refusal> {
    StripeWebhook.verify(&delivery(header, body), &[secret()], now)
}

pub(crate) fn parse(body: &str) -> palisade_core::Result<Parsed> {
    let header = webhook::sign(&secret(), NOW, body.as_bytes());
    let verified = Verified::check(&StripeWebhook, delivery(&header, body.as_bytes()), &[secret()], NOW).unwrap();
    StripeWebhook.events(&verified)
}

#[track_caller]
fn refused(header: &str, kind: &str) {
    assert_eq!(verify(header, BODY.as_bytes(), NOW).map_err(Refusal::as_str), Err(kind), "{header}");
}

/// Fails when a second `t` is accepted, white space trimmed or upper-case hexadecimal read.
#[test]
fn headers_that_are_not_exactly_stripes_are_refused() {
    let good = webhook::sign(&secret(), NOW, BODY.as_bytes());
    let (time, code) = good.split_once(",v1=").unwrap();
    let seconds = time.strip_prefix("t=").unwrap();
    refused(&format!("{time},v1={}", code.to_uppercase()), "mismatch");
    refused(&format!("{good},t={seconds}"), "malformed");
    refused(&format!("{time},{good}"), "malformed");
    refused(&format!("{time}, v1={code}"), "malformed");
    refused(&format!("{time},v0={code}"), "malformed");
    refused(&format!("{time},v2={code}"), "malformed");
    refused(&format!("{time},v1={code} "), "mismatch");
    refused(&format!("{time},v1={code}00"), "mismatch");
    refused(&format!("{time},v1="), "mismatch");
    refused(&format!("{good},"), "malformed");
    refused(&format!("{good},junk"), "malformed");
    refused("", "malformed");
    refused(&format!("v1={code}"), "malformed");
    for bad in
        ["", "+1767225600", "-1767225600", " 1767225600", "1767225600.0", "0x69559e80", "99999999999999999999", "１"]
    {
        if HeaderValue::from_bytes(bad.as_bytes()).is_ok() && bad.is_ascii() {
            refused(&format!("t={bad},v1={code}"), "malformed");
        }
    }
}

/// Fails when only the first signature or only the first secret is tried.
#[test]
fn a_rolled_secret_overlaps_on_either_side() {
    let (old, new) = (Secret::from("whsec_old"), Secret::from("whsec_new"));
    let by_old = webhook::sign(&old, NOW, BODY.as_bytes());
    let by_both = format!("{by_old},v1={}", webhook::sign(&new, NOW, BODY.as_bytes()).split_once("v1=").unwrap().1);
    let check =
        |header: &str, secrets: &[Secret]| StripeWebhook.verify(&delivery(header, BODY.as_bytes()), secrets, NOW);
    assert_eq!(check(&by_both, std::slice::from_ref(&new)), Ok(()));
    assert_eq!(check(&by_both, std::slice::from_ref(&old)), Ok(()));
    assert_eq!(check(&by_old, &[new.clone(), old.clone()]), Ok(()));
    assert_eq!(check(&by_old, &[new]), Err(Refusal::Mismatch));
    let raw = delivery(&by_old, BODY.as_bytes());
    assert_eq!(Verified::check(&StripeWebhook, raw.clone(), &[], NOW).unwrap_err(), Refusal::NoSecret);
    assert_eq!(Verified::check(&StripeWebhook, raw, &[old, Secret::from("")], NOW).unwrap_err(), Refusal::NoSecret);
}

#[test]
fn a_delivery_is_one_event_with_its_objects_id_as_ordering_key() {
    let parsed = parse(BODY).unwrap();
    assert_eq!((parsed.reply.status, parsed.events.len()), (200, 1));
    let event = &parsed.events[0];
    assert_eq!(event.id.as_str(), "evt_1");
    assert_eq!(event.kind, "customer.created");
    assert_eq!(event.created, Some(Timestamp::from_seconds(1_767_225_599)));
    assert_eq!(event.ordering_key.as_deref(), Some("cus_1"));
    assert_eq!(event.account, None);
    assert_eq!(event.payload, BODY.as_bytes());
}

#[test]
fn thin_and_connected_events_are_events_too() {
    let thin = r#"{"id":"evt_2","object":"v2.core.event","type":"v1.customer.subscription.updated",
        "created":"2026-01-01T00:00:00.500Z","context":"acct_9","livemode":true,
        "related_object":{"id":"sub_1","type":"subscription","url":"/v1/subscriptions/sub_1"}}"#;
    let event = parse(thin).unwrap().events.remove(0);
    assert_eq!(event.created, Some(Timestamp(1_767_225_600_500)));
    assert_eq!(event.ordering_key.as_deref(), Some("sub_1"));
    assert_eq!(event.account.as_deref(), Some("acct_9"));

    let connected =
        r#"{"id":"evt_3","type":"invoice.upcoming","account":"acct_7","data":{"object":{"object":"invoice"}}}"#;
    let event = parse(connected).unwrap().events.remove(0);
    assert_eq!((event.account.as_deref(), event.ordering_key, event.created), (Some("acct_7"), None, None));
}

/// Fails when an event is refused, or put into no lane or another, for how the id of its object stands.
#[test]
fn the_ordering_key_is_the_objects_own_id_however_it_stands() {
    let key = |data: &str| {
        let body = format!(r#"{{"id":"evt_1","data":{data},"type":"x.y","object":"ev\u0065nt"}}"#);
        parse(&body).unwrap_or_else(|error| panic!("{error}: {body}")).events.remove(0).ordering_key
    };
    for (data, wanted) in [
        (r#"{"object":{"id":"in_1","lines":[{"id":"il_1"}]}}"#, Some("in_1")),
        (r#"{"previous_attributes":{"id":"no"},"object":{"customer":{"id":"no"},"id":"in_1"}}"#, Some("in_1")),
        (r#"{"object":{"id":"in_\u0031"}}"#, Some("in_1")),
        (r#"{"object":{"id":"in_1","id":"in_2"}}"#, Some("in_1")),
        (r#"{"object":{"id":7,"amount":1e999}}"#, None),
        (r#"{"object":{"id":null}}"#, None),
        (r#"{"object":{}}"#, None),
        (r#"{"object":"in_1"}"#, None),
        (r#"{"object":null}"#, None),
        (r#"{}"#, None),
        ("[]", None),
        ("1e999", None),
        ("null", None),
    ] {
        assert_eq!(key(data).as_deref(), wanted, "{data}");
    }
}

#[test]
fn what_is_no_event_is_a_decode_error() {
    let deep = format!(r#"{{"id":"evt_1","type":"x","data":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&deep).is_ok(), "what is not read may nest as it likes, without a stack growing with it");
    let long = format!(r#"{{"id":"{}","type":"x"}}"#, "e".repeat(256));
    for bad in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"id":"evt_1"}"#,
        r#"{"id":1,"type":"x"}"#,
        r#"{"id":"","type":"x"}"#,
        "<html>",
        BODY.trim_end_matches('}'),
        &long,
    ] {
        let error = parse(bad).unwrap_err();
        assert_eq!((error.kind(), error.provider()), (ErrorKind::Decode, Some("stripe")), "{bad}");
        assert!(!error.to_string().contains("evt_1"), "an error holds nothing of a body");
    }
}

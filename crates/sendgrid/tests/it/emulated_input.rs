//! What is wrong with a mail, an answer or a delivery ends in one clear error with words for the product's user. Each
//! case goes through the real pipeline to the emulated SendGrid, or to a machine in between that speaks in its place.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use palisade_core::clock::TokioClock;
use palisade_core::webhook::{RawDelivery, Verified, Webhook};
use palisade_core::{Error, ErrorKind, Outcome, Result, Secret, Timestamp, Transport};
use palisade_emulator::Fault;
use palisade_emulator::sendgrid::{SendGrid as Emulator, SendGridConfig};
use palisade_sendgrid::client::{Attachment, Personalization};
use palisade_sendgrid::{Mail, SendGrid, SendGridProvider, SendGridWebhook, TypedEvent, auth};
use palisade_testkit::fake::{Fake, answer};
use palisade_testkit::words::{Expected, clear_error};
use palisade_testkit::{EmulatorTransport, PostBox, clock_from, pipeline};

const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const UNSURE: &str = "check before trying again";

fn over(transport: Arc<dyn Transport>, key: &str) -> SendGrid {
    let credential = auth::api_key(key.into()).unwrap();
    let clock = Arc::new(TokioClock::starting_at(BEGIN));
    let client = pipeline(&SendGridProvider::new(), transport, &credential, &clock, 7);
    SendGrid::new(client as Arc<dyn Transport>, "conn_1", "tenant_1")
}

fn account(config: SendGridConfig) -> (Emulator, SendGrid) {
    let emulator = Emulator::offline(config);
    let sendgrid = over(Arc::new(EmulatorTransport::new(emulator.clone())), &emulator.api_key());
    (emulator, sendgrid)
}

fn to(recipient: &str) -> Mail {
    Mail::from("shop@example.com").to(recipient).subject("secret words").text("secret words")
}

#[track_caller]
fn check<T: Debug>(name: &str, result: Result<T>, expected: Expected<'_>) -> Error {
    clear_error(name, result, expected, &["secret words", "@example"])
}

#[tokio::test(start_paused = true)]
async fn a_wrong_mail_has_one_clear_error() {
    use ErrorKind::Invalid;
    use Outcome::NotSent;
    let (emulator, sendgrid) = account(SendGridConfig::default());
    let good = || to("ada@example.com");
    let crowd =
        (0..1_001).fold(Personalization::to("p@example.com"), |one, at| one.and_to(format!("p{at}@example.com")));
    let twice = Personalization::to("ada@example.com").cc("ADA@example.com");
    let file = |bytes: usize| Attachment::new("a.bin", "application/octet-stream", vec![7; bytes]);
    let cases: Vec<(&str, Mail, Expected<'_>)> = vec![
        ("oversize", good().attach(file(23_000_000)), (Invalid, Some("too_large"), NotSent, "30 MB")),
        ("no address", to("nobody"), (Invalid, Some("address_invalid"), NotSent, "not valid")),
        (
            "two addresses in one",
            to("a@example.com,b@example.com"),
            (Invalid, Some("address_invalid"), NotSent, "not valid"),
        ),
        (
            "a header in an address",
            to("a@example.com\r\nBcc: b@example.com"),
            (Invalid, Some("address_invalid"), NotSent, "not valid"),
        ),
        (
            "a header in the subject",
            good().subject("x\r\nBcc: b@example.com"),
            (Invalid, Some("subject_invalid"), NotSent, "single line"),
        ),
        (
            "a header in a header",
            good().header("X-A", "x\nBcc: b@example.com"),
            (Invalid, Some("header_invalid"), NotSent, "settings"),
        ),
        ("a reserved header", good().header("Received", "x"), (Invalid, Some("header_reserved"), NotSent, "settings")),
        (
            "no subject",
            Mail::from("shop@example.com").to("a@example.com").text("x"),
            (Invalid, Some("subject_missing"), NotSent, "subject"),
        ),
        (
            "no text",
            Mail::from("shop@example.com").to("a@example.com").subject("x"),
            (Invalid, Some("content_missing"), NotSent, "empty"),
        ),
        (
            "nobody",
            Mail::from("shop@example.com").subject("x").text("x"),
            (Invalid, Some("recipient_missing"), NotSent, "recipient"),
        ),
        (
            "a crowd",
            Mail::from("shop@example.com").personalized(crowd).subject("x").text("x"),
            (Invalid, Some("recipients_many"), NotSent, "1,000"),
        ),
        (
            "somebody twice",
            Mail::from("shop@example.com").personalized(twice).subject("x").text("x"),
            (Invalid, Some("address_repeated"), NotSent, "once"),
        ),
        ("an empty file", good().attach(file(0)), (Invalid, Some("attachment_invalid"), NotSent, "attachment")),
    ];
    for (name, mail, expected) in cases {
        let error = check(name, sendgrid.send(&mail).await, expected);
        assert_eq!(error.attempts(), 0, "{name}: it did not leave");
    }
    assert!(emulator.mails().is_empty() && emulator.ledger().requests == 0);
}

/// Fails when a key that lost a right, or is no key any more, is told as something else.
#[tokio::test(start_paused = true)]
async fn revoked_scopes_and_keys_are_told_apart() {
    let lists = SendGridConfig { scopes: vec!["suppression.read".to_owned()], ..SendGridConfig::default() };
    let (_, sendgrid) = account(lists);
    let permission = (ErrorKind::Permission, None, Outcome::Rejected, "missing permission");
    check("scope", sendgrid.send(&to("ada@example.com")).await, permission);
    let (emulator, sendgrid) = account(SendGridConfig::default());
    emulator.set_api_key("SG.another");
    let auth = (ErrorKind::Auth, None, Outcome::Rejected, "reconnect");
    check("key", sendgrid.send(&to("ada@example.com")).await, auth);
    assert!(emulator.mails().is_empty());
}

/// Fails when an answer that is not SendGrid's passes for one, or when a mail that may have gone out is sent again.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_sendgrids_is_told_from_one_that_is() {
    use ErrorKind as K;
    use Outcome::{Rejected, Unknown};
    const PAGE: &str = "<html><body>secret words</body></html>";
    const ERRORS: &str = r#"{"errors":[{"message":"secret words","field":"from.email","help":null}]}"#;
    let cases: [(&str, u16, &str, Expected<'_>); 11] = [
        ("an error inside 200", 200, ERRORS, (K::Provider, None, Unknown, UNSURE)),
        ("an error inside 202", 202, ERRORS, (K::Provider, None, Unknown, UNSURE)),
        ("an unknown error", 400, ERRORS, (K::Invalid, None, Rejected, "check them")),
        ("an error inside 500", 500, ERRORS, (K::Provider, None, Unknown, UNSURE)),
        ("HTML", 202, PAGE, (K::Decode, None, Unknown, UNSURE)),
        ("a number", 202, "7", (K::Decode, None, Unknown, UNSURE)),
        ("a cut answer", 202, r#"{"id":"#, (K::Decode, None, Unknown, UNSURE)),
        ("too large", 413, PAGE, (K::Invalid, Some("too_large"), Rejected, "30 MB")),
        ("another's 404", 404, PAGE, (K::Config, None, Rejected, "our side")),
        ("a failing machine", 502, PAGE, (K::Provider, None, Unknown, UNSURE)),
        ("a redirect", 302, "", (K::Invalid, None, Rejected, "check them")),
    ];
    for (name, status, body, expected) in cases {
        let error =
            check(name, over(Fake::always(answer(status, body)), "SG.x").send(&to("ada@example.com")).await, expected);
        assert_eq!(error.attempts(), 1, "{name}: nothing is sent twice");
    }
}

/// Fails when a page in the place of a list is not asked for again, or is taken for an empty one.
#[tokio::test(start_paused = true)]
async fn a_read_is_repeated_and_then_says_what_came() {
    let (emulator, sendgrid) = account(SendGridConfig::default());
    emulator.faults().next("GET /v3/scopes", [Fault::Html, Fault::Garbage]);
    assert!(!sendgrid.scopes().await.unwrap().is_empty(), "the third answer is SendGrid's");
    emulator.faults().next("GET /v3/scopes", [Fault::Html, Fault::Html, Fault::Html]);
    let error = sendgrid.scopes().await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Decode, 3), "{error}");
}

/// Fails when an event of tomorrow is refused, handled as another one, or loses its fields; or when a broken batch
/// passes.
#[tokio::test(start_paused = true)]
async fn unknown_events_are_kept_and_broken_batches_are_told() {
    let token = "token:0123456789abcdef";
    let posted = PostBox::new();
    let emulator = Emulator::offline(SendGridConfig {
        event_url: Some("https://app.example/webhooks/sendgrid".to_owned()),
        clock: clock_from(BEGIN),
        poster: Some(posted.poster()),
        ..SendGridConfig::default()
    });
    emulator.emit("of_tomorrow", "ada@example.com", &serde_json::json!({ "x": 1 }));
    emulator.drain_webhooks().await;
    let raw = posted.take().remove(0);
    let webhook = SendGridWebhook::new();
    let verified = Verified::check(&webhook, raw, &[Secret::from(emulator.public_key())], BEGIN).unwrap();
    let event = webhook.events(&verified).unwrap().events.remove(0);
    assert_eq!(event.kind, "of_tomorrow");
    let TypedEvent::Unknown { kind, raw } = TypedEvent::parse(&event).unwrap() else { panic!("{}", event.kind) };
    assert!(kind == "of_tomorrow" && std::str::from_utf8(&raw).unwrap().contains("ada@example.com"));
    for (body, kind) in [("<html>", "application/json"), ("[7]", "application/json"), ("x", "multipart/form-data")] {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", kind.parse().unwrap());
        let url = "https://app.example/webhooks/sendgrid?token=0123456789abcdef".to_owned();
        let raw = RawDelivery { method: Method::POST, url, headers, body: Bytes::copy_from_slice(body.as_bytes()) };
        // Whatever is not an inbound mail needs a signature; what is taken as one and is none is told.
        if let Ok(verified) = Verified::check(&webhook, raw, &[Secret::from(token)], BEGIN) {
            let error = webhook.events(&verified).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{body}: {error}");
        }
    }
}

//! What is wrong with a request, an answer or a delivery ends in one clear error with words for the product's user. Each
//! case goes through the real pipeline to the emulated Twilio, or to a machine in between that speaks in its place.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use palisade_core::clock::TokioClock;
use palisade_core::webhook::{RawDelivery, Verified, Webhook};
use palisade_core::{Error, ErrorKind, Outcome, Result, Secret, Timestamp, Transport};
use palisade_emulator::Fault;
use palisade_emulator::twilio::{Algorithm, Twilio as Emulator, TwilioConfig, signature};
use palisade_testkit::fake::{Fake, answer};
use palisade_testkit::words::{Expected, clear_error};
use palisade_testkit::{EmulatorTransport, pipeline};
use palisade_twilio::client::NewMessage;
use palisade_twilio::sid::{AccountSid, ServiceSid};
use palisade_twilio::{Twilio, TwilioProvider, TwilioWebhook, TypedEvent, auth};

use super::fake::ACCOUNT;

const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const TO: &str = "+15005550010";
const FROM: &str = "+15005550006";
const UNSURE: &str = "check before trying again";

fn over(transport: Arc<dyn Transport>, token: &str) -> Twilio {
    let account = AccountSid::parse(ACCOUNT).unwrap();
    let credential = auth::auth_token(&account, token.into()).unwrap();
    let clock = Arc::new(TokioClock::starting_at(BEGIN));
    let client = pipeline(&TwilioProvider::new(), transport, &credential, &clock, 7);
    Twilio::new(client as Arc<dyn Transport>, "conn_1", "tenant_1", account)
}

fn account() -> (Emulator, Twilio) {
    let emulator = Emulator::offline(TwilioConfig { account_sid: ACCOUNT.to_owned(), ..TwilioConfig::default() });
    let twilio = over(Arc::new(EmulatorTransport::new(emulator.clone())), &emulator.auth_token());
    (emulator, twilio)
}

#[track_caller]
fn check<T: Debug>(name: &str, result: Result<T>, expected: Expected<'_>) -> Error {
    clear_error(name, result, expected, &["secret words", "+1500"])
}

#[tokio::test(start_paused = true)]
async fn a_wrong_request_has_one_clear_error() {
    use ErrorKind::{Invalid, Permission};
    use Outcome::{NotSent, Rejected};
    let (emulator, twilio) = account();
    let to = |to: &str| NewMessage::text(to, "secret words").from(FROM);
    let good = || to(TO);
    let eleven = (0..11).fold(good(), |message, _| message.media("https://example.com/a.jpg"));
    let unknown = ServiceSid::parse("MG99999999999999999999999999999999").unwrap();
    let cases: Vec<(&str, NewMessage, Expected<'_>)> = vec![
        (
            "oversize text",
            NewMessage::text(TO, "x".repeat(1_601)).from(FROM),
            (Invalid, Some("21617"), NotSent, "shorten"),
        ),
        ("no text", NewMessage::text(TO, "").from(FROM), (Invalid, Some("21619"), NotSent, "write something")),
        ("no number", to(""), (Invalid, Some("21604"), NotSent, "phone number")),
        (
            "a line break for a number",
            to("+1500\r\nBody=x"),
            (Invalid, Some("21211"), NotSent, "not a valid phone number"),
        ),
        ("wrong number", to("bad"), (Invalid, Some("21211"), Rejected, "not a valid phone number")),
        ("a number too short", to("+150"), (Invalid, Some("21211"), Rejected, "not a valid phone number")),
        ("a landline", to("+15005550009"), (Invalid, Some("21614"), Rejected, "mobile number")),
        ("a country not enabled", to("+15005550003"), (Permission, Some("21408"), Rejected, "country")),
        ("opted out", to("+15005550004"), (Invalid, Some("21610"), Rejected, "opted out")),
        ("no sender", NewMessage::text(TO, "secret words"), (Invalid, Some("21603"), NotSent, "")),
        ("somebody's sender", good().from("+15005550099"), (Invalid, Some("21606"), Rejected, "choose another")),
        ("unknown service", NewMessage::text(TO, "secret words").via(unknown), (Invalid, Some("21705"), Rejected, "")),
        ("eleven pictures", eleven, (Invalid, Some("21623"), NotSent, "")),
        ("no picture's address", good().media("nowhere"), (Invalid, Some("21620"), NotSent, "")),
        ("no callback's address", good().status_callback("nowhere"), (Invalid, Some("21609"), NotSent, "")),
        ("waits too long", good().valid_for(Duration::from_secs(36_001)), (Invalid, None, NotSent, "check them")),
        ("later without a service", good().at(BEGIN), (Invalid, Some("35118"), NotSent, "")),
    ];
    for (name, message, expected) in cases {
        let error = check(name, twilio.send(&message).await, expected);
        assert_eq!(error.attempts(), u32::from(expected.2 == Rejected), "{name}: a refusal is not repeated");
    }
    assert!(emulator.truth().is_empty());
    emulator.set_auth_token("another");
    check("a token taken back", twilio.send(&good()).await, (ErrorKind::Auth, None, Rejected, "reconnect"));
}

/// Fails when an answer that is not Twilio's passes for one, or when a message that may have gone out is sent again.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_twilios_is_told_from_one_that_is() {
    use ErrorKind as K;
    use Outcome::{Rejected, Unknown};
    const PAGE: &str = "<html><body>secret words</body></html>";
    let refusal = |code: u32, status: u16| {
        format!(
            r#"{{"code":{code},"message":"secret words","more_info":"https://www.twilio.com/docs/errors/{code}","status":{status}}}"#
        )
    };
    let cases: Vec<(&str, u16, String, Expected<'_>)> = vec![
        ("an error inside 200", 200, refusal(21211, 400), (K::Provider, Some("21211"), Unknown, UNSURE)),
        ("an error inside 201", 201, refusal(20003, 401), (K::Provider, Some("20003"), Unknown, UNSURE)),
        ("a right taken back", 403, refusal(20003, 403), (K::Permission, Some("20003"), Rejected, "")),
        ("an unknown code", 400, refusal(99999, 400), (K::Invalid, Some("99999"), Rejected, "check them")),
        ("an error inside 500", 500, refusal(20500, 500), (K::Provider, Some("20500"), Unknown, UNSURE)),
        ("HTML", 201, PAGE.to_owned(), (K::Decode, None, Unknown, UNSURE)),
        ("nothing", 201, String::new(), (K::Decode, None, Unknown, UNSURE)),
        ("a number", 201, "7".to_owned(), (K::Decode, None, Unknown, UNSURE)),
        ("a cut answer", 201, r#"{"sid":"SM00"#.to_owned(), (K::Decode, None, Unknown, UNSURE)),
        ("another's 404", 404, PAGE.to_owned(), (K::Config, None, Rejected, "our side")),
        ("another's 401", 401, PAGE.to_owned(), (K::Auth, None, Rejected, "reconnect")),
        ("a failing machine", 502, PAGE.to_owned(), (K::Provider, None, Unknown, UNSURE)),
        ("a redirect", 302, String::new(), (K::Invalid, None, Rejected, "check them")),
    ];
    for (name, status, body, expected) in cases {
        let twilio = over(Fake::always(answer(status, body)), "token");
        let error = check(name, twilio.send(&NewMessage::text(TO, "secret words").from(FROM)).await, expected);
        assert_eq!(error.attempts(), 1, "{name}: nothing is sent twice");
    }
}

/// Fails when a page in the place of a list is not asked for again, or is taken for an empty one.
#[tokio::test(start_paused = true)]
async fn a_read_is_repeated_and_then_says_what_came() {
    const ROUTE: &str = "GET /2010-04-01/Accounts/{sid}.json";
    let (emulator, twilio) = account();
    emulator.faults().next(ROUTE, [Fault::Html, Fault::Garbage]);
    assert_eq!(twilio.account().await.unwrap().status.as_deref(), Some("active"), "the third answer is Twilio's");
    emulator.faults().next(ROUTE, [Fault::Html, Fault::Html, Fault::Html]);
    let error = twilio.account().await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Decode, 3), "{error}");
}

/// Fails when a delivery of tomorrow is refused, handled as another one, or loses its fields; or when a broken one
/// passes.
#[test]
fn unknown_deliveries_are_kept_and_broken_ones_are_told() {
    const URL: &str = "https://app.example/webhooks/twilio";
    let received = |body: &[u8]| {
        let mut headers = HeaderMap::new();
        headers.insert("x-twilio-signature", signature(Algorithm::Sha1, "token", URL, body).parse().unwrap());
        headers.insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
        let raw =
            RawDelivery { method: Method::POST, url: URL.to_owned(), headers, body: Bytes::copy_from_slice(body) };
        Verified::check(&TwilioWebhook::new(), raw, &[Secret::from("token")], BEGIN).unwrap()
    };
    let webhook = TwilioWebhook::new();
    let unknown = received(b"Whatever=of+tomorrow&AccountSid=AC00000000000000000000000000000000");
    for event in webhook.events(&unknown).unwrap().events {
        let TypedEvent::Unknown { raw, .. } = TypedEvent::parse(&event).unwrap() else { panic!("{}", event.kind) };
        assert!(std::str::from_utf8(&raw).unwrap().contains("of tomorrow"));
    }
    let status = received(b"MessageSid=SM00000000000000000000000000000001&MessageStatus=of_tomorrow");
    let event = webhook.events(&status).unwrap().events.remove(0);
    assert_eq!(event.kind, "message.of_tomorrow");
    let TypedEvent::MessageStatus(report) = TypedEvent::parse(&event).unwrap() else { panic!("{}", event.kind) };
    assert_eq!(report.status.as_str(), "of_tomorrow", "the provider's word is kept");
    let broken = received(b"MessageSid=nonsense&MessageStatus=sent");
    let error = webhook.events(&broken).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
}

/// Fails when a 429 holds back only the operation it answered: what Twilio limits is the account.
#[tokio::test(start_paused = true)]
async fn a_throttle_holds_back_every_call_of_the_account() {
    let (emulator, twilio) = account();
    let throttle = Fault::Throttle(palisade_emulator::RetryAfter::Seconds(7));
    emulator.faults().next("POST /2010-04-01/Accounts/{sid}/Messages.json", [throttle]);
    let begin = tokio::time::Instant::now();
    let message = NewMessage::text(TO, "hi").from(FROM);
    let read = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        twilio.account().await.map(|_| begin.elapsed())
    };
    let (sent, read) = tokio::join!(twilio.send(&message), read);
    sent.unwrap();
    assert!(read.unwrap() >= Duration::from_secs(7), "a read within the pause waits for its end");
    assert_eq!(emulator.ledger().throttles, 1);
}

//! What is wrong with a request, an answer or an event ends in one clear error with words for the product's user. Each
//! case goes through the real pipeline to the emulated Slack, or to a machine in between that speaks in its place.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use palisade_core::clock::TokioClock;
use palisade_core::webhook::{RawDelivery, Verified, Webhook};
use palisade_core::{Error, ErrorKind, Outcome, Result, Secret, Timestamp, Transport};
use palisade_emulator::Fault;
use palisade_emulator::slack::{Limits, Slack as Emulator, SlackConfig, Workspace, signature};
use palisade_slack::client::{NewMessage, Posted};
use palisade_slack::error::detail;
use palisade_slack::{Slack, SlackProvider, SlackWebhook, TypedEvent, auth};
use palisade_testkit::fake::{Fake, answer};
use palisade_testkit::words::{Expected, clear_error};
use palisade_testkit::{EmulatorTransport, pipeline};
use serde_json::json;

const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const ALL: [&str; 3] = ["chat:write", "channels:read", "users:read"];
const UNSURE: &str = "check before trying again";

fn over(transport: Arc<dyn Transport>, token: &str) -> Slack {
    let credential = auth::token(token.into()).unwrap();
    let clock = Arc::new(TokioClock::starting_at(BEGIN));
    let client = pipeline(&SlackProvider::new(), transport, &credential, &clock, 7);
    Slack::new(client as Arc<dyn Transport>, "conn_1", "tenant_1")
}

fn workspace() -> Emulator {
    let config =
        SlackConfig { workspaces: vec![Workspace::new("T1", "Tea")], limits: Limits::none(), ..Default::default() };
    Emulator::offline(config)
}

fn app(emulator: &Emulator, scopes: &[&str]) -> Slack {
    over(Arc::new(EmulatorTransport::new(emulator.clone())), &emulator.install_forever(scopes))
}

#[track_caller]
fn check<T: Debug>(name: &str, result: Result<T>, expected: Expected<'_>) -> Error {
    clear_error(name, result, expected, &["secret words", "xoxb-"])
}

#[tokio::test(start_paused = true)]
async fn a_wrong_request_has_one_clear_error() {
    use ErrorKind as K;
    use Outcome::{NotSent, Rejected};
    let emulator = workspace();
    let slack = app(&emulator, &ALL);
    let open = emulator.create_channel("tea", false, &[&emulator.bot_user()]);
    let foreign = emulator.create_channel("coffee", false, &["U1"]);
    let shut = emulator.create_channel("old", false, &[&emulator.bot_user()]);
    assert!(emulator.archive_channel(&shut, true));
    let text = || NewMessage::new("secret words");
    let long = NewMessage::new("secret words".repeat(4_000));
    let blocks = (0..51).fold(text(), |message, _| message.block(json!({ "type": "divider" })));
    let cases: Vec<(&str, &str, NewMessage, Expected<'_>)> = vec![
        ("oversize text", &open, long, (K::Invalid, None, NotSent, "shorten it")),
        ("empty", &open, NewMessage::new(""), (K::Invalid, None, NotSent, "write something")),
        ("blank", &open, NewMessage::new("  "), (K::Invalid, Some("no_text"), Rejected, "write something")),
        ("51 blocks", &open, blocks, (K::Invalid, None, NotSent, "shorten it")),
        ("no block", &open, text().block(json!({})), (K::Invalid, Some("invalid_blocks"), Rejected, "check them")),
        ("no channel", "", text(), (K::Invalid, None, NotSent, "check them")),
        ("invalid channel", "C_NONE", text(), (K::NotFound, Some("channel_not_found"), Rejected, "does not exist")),
        (
            "hostile channel",
            "C1&text=x\r\n",
            text(),
            (K::NotFound, Some("channel_not_found"), Rejected, "does not exist"),
        ),
        ("not a member", &foreign, text(), (K::Permission, Some("not_in_channel"), Rejected, "Invite it")),
        ("archived", &shut, text(), (K::Conflict, Some("is_archived"), Rejected, "Unarchive it")),
        (
            "no thread",
            &open,
            text().in_thread("1.000001"),
            (K::NotFound, Some("thread_not_found"), Rejected, "no longer"),
        ),
    ];
    for (name, channel, message, expected) in cases {
        let error = check(name, slack.post(channel, &message).await, expected);
        assert_eq!(error.attempts(), u32::from(expected.2 == Rejected), "{name}: a refusal is not repeated");
    }
    assert!(emulator.truth("messages").is_empty());
}

/// Fails when a scope that was taken back is not named for the operator, or not asked for in words of the user.
#[tokio::test(start_paused = true)]
async fn a_revoked_scope_is_named_and_asked_for() {
    let emulator = workspace();
    let open = emulator.create_channel("tea", false, &[&emulator.bot_user()]);
    let slack = app(&emulator, &["channels:read"]);
    let expected = (ErrorKind::Permission, Some("missing_scope"), Outcome::Rejected, "missing permission");
    let error = check("scope", slack.post(&open, &NewMessage::new("x")).await, expected);
    let detail = detail(&error).unwrap();
    assert_eq!((detail.needed.join(" "), detail.provided.join(" ")), ("chat:write".into(), "channels:read".into()));
}

/// Fails when an answer that is not Slack's passes for one, or when a message that may have gone out is sent again.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_slacks_is_told_from_one_that_is() {
    use ErrorKind as K;
    use Outcome::{Rejected, Unknown};
    const PAGE: &str = "<html><body>secret words</body></html>";
    let cases: [(&str, u16, &str, Expected<'_>); 14] = [
        (
            "an error inside 200",
            200,
            r#"{"ok":false,"error":"msg_too_long"}"#,
            (K::Invalid, Some("msg_too_long"), Rejected, "shorten"),
        ),
        (
            "an unknown error",
            200,
            r#"{"ok":false,"error":"of_tomorrow"}"#,
            (K::Invalid, Some("of_tomorrow"), Rejected, "check them"),
        ),
        ("no error's name", 200, r#"{"ok":false}"#, (K::Invalid, Some("unknown_error"), Rejected, "check them")),
        (
            "words for a name",
            200,
            r#"{"ok":false,"error":"secret words"}"#,
            (K::Invalid, Some("unknown_error"), Rejected, "check them"),
        ),
        (
            "Slack failed",
            200,
            r#"{"ok":false,"error":"internal_error"}"#,
            (K::Provider, Some("internal_error"), Unknown, UNSURE),
        ),
        ("HTML", 200, PAGE, (K::Decode, None, Unknown, UNSURE)),
        ("nothing", 200, "", (K::Decode, None, Unknown, UNSURE)),
        ("a number", 200, "7", (K::Decode, None, Unknown, UNSURE)),
        ("another's JSON", 200, r#"{"id":1}"#, (K::Decode, None, Unknown, UNSURE)),
        ("a cut answer", 200, r#"{"ok":true,"channel":"C1","#, (K::Decode, None, Unknown, UNSURE)),
        ("another's 404", 404, PAGE, (K::Config, None, Rejected, "our side")),
        ("a failing machine", 502, PAGE, (K::Provider, None, Unknown, UNSURE)),
        ("an error inside 500", 500, r#"{"ok":false,"error":"no_text"}"#, (K::Provider, None, Unknown, UNSURE)),
        ("a redirect", 302, "", (K::Invalid, None, Rejected, "check them")),
    ];
    for (name, status, body, expected) in cases {
        let slack = over(Fake::always(answer(status, body)), "xoxb-1");
        let posted: Result<Posted> = slack.post("C1", &NewMessage::new("secret words")).await;
        let error = check(name, posted, expected);
        assert_eq!(error.attempts(), 1, "{name}: nothing is sent twice");
        assert!(!error.is_retryable(), "{name}");
    }
}

/// Fails when what an address for answers says is not heard: it speaks plain text or JSON.
#[tokio::test(start_paused = true)]
async fn an_address_for_answers_is_heard_in_text_and_json() {
    use ErrorKind as K;
    use Outcome::{Rejected, Unknown};
    let address = Secret::from("https://hooks.slack.com/commands/T1/1/secret");
    let cases: [(&str, u16, &str, Option<Expected<'_>>); 9] = [
        ("text", 200, "ok", None),
        ("JSON", 200, r#"{"ok":true}"#, None),
        ("nothing", 200, "", None),
        (
            "expired",
            404,
            r#"{"ok":false,"error":"expired_url"}"#,
            Some((K::NotFound, Some("expired_url"), Rejected, "too late")),
        ),
        (
            "used up",
            404,
            r#"{"ok":false,"error":"used_url"}"#,
            Some((K::Conflict, Some("used_url"), Rejected, "try again")),
        ),
        ("expired, in text", 404, "expired_url", Some((K::NotFound, Some("expired_url"), Rejected, "too late"))),
        (
            "an error inside 200",
            200,
            r#"{"ok":false,"error":"no_text"}"#,
            Some((K::Invalid, Some("no_text"), Rejected, "write something")),
        ),
        ("HTML", 200, "<!doctype html>", Some((K::Decode, None, Unknown, UNSURE))),
        ("another's 404", 404, "<html>", Some((K::Config, None, Rejected, "our side"))),
    ];
    for (name, status, body, expected) in cases {
        let slack = over(Fake::always(answer(status, body)), "xoxb-1");
        let answered = slack.respond(&address, &NewMessage::new("secret words"), true).await;
        match expected {
            Some(expected) => drop(check(name, answered, expected)),
            None => answered.unwrap_or_else(|error| panic!("{name}: {error}")),
        }
    }
}

/// Fails when a page in the place of a list is not asked for again, or is taken for an empty one.
#[tokio::test(start_paused = true)]
async fn a_read_is_repeated_and_then_says_what_came() {
    let emulator = workspace();
    let slack = app(&emulator, &ALL);
    emulator.faults().next("POST /api/auth.test", [Fault::Html, Fault::Garbage]);
    assert_eq!(slack.identity().await.unwrap().team_id.as_deref(), Some("T1"), "the third answer is Slack's");
    emulator.faults().next("POST /api/auth.test", [Fault::Html, Fault::Html, Fault::Html]);
    let error = slack.identity().await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Decode, 3), "{error}");
}

/// Fails when an event of tomorrow is refused, handled as another one, or loses its bytes; or when a broken one passes.
#[test]
fn unknown_events_are_kept_and_broken_ones_are_told() {
    let secret = Secret::from("8f742231b10e8888abcd99yyyzzz85a5");
    let received = |body: &str| {
        let at = BEGIN.seconds();
        let mut headers = HeaderMap::new();
        headers.insert("x-slack-request-timestamp", at.into());
        let sealed = signature(secret.expose(), at, body.as_bytes());
        headers.insert("x-slack-signature", sealed.parse().unwrap());
        headers.insert("content-type", "application/json".parse().unwrap());
        let url = "https://app.example/webhooks/slack".to_owned();
        let raw = RawDelivery { method: Method::POST, url, headers, body: Bytes::copy_from_slice(body.as_bytes()) };
        Verified::check(&SlackWebhook, raw, std::slice::from_ref(&secret), BEGIN).unwrap()
    };
    let unknown = received(
        r#"{"type":"event_callback","team_id":"T1","event_id":"Ev1","event_time":1767225600,"event":{"type":"of_tomorrow","x":1}}"#,
    );
    let event = SlackWebhook.events(&unknown).unwrap().events.remove(0);
    assert_eq!((event.kind.as_str(), event.id.as_str()), ("of_tomorrow", "Ev1"));
    assert!(matches!(TypedEvent::parse(&event).unwrap(), TypedEvent::Unknown { .. }));
    for body in ["<html>", "[]", "7", "", r#"{"type":"event_callback"}"#] {
        let broken = received(body);
        let outcome = SlackWebhook.events(&broken).map(|parsed| parsed.events.len());
        match outcome {
            Ok(count) => assert_eq!(count, 0, "{body}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Decode, "{body}: {error}"),
        }
    }
}

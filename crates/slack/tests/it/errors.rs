//! The table of answers.

use bytes::Bytes;
use http::Response;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use palisade_slack::error::{SlackClassifier, detail};
use palisade_slack::operation;
use palisade_testkit::fake::Said;

fn classify_as(operation: &'static Operation, status: u16, body: &[u8]) -> Verdict {
    let response = Response::builder().status(status).header("x-slack-req-id", "req_9");
    SlackClassifier.classify(operation, &response.body(Bytes::copy_from_slice(body)).unwrap())
}

pub(crate) fn classify(status: u16, body: &[u8]) -> Verdict {
    classify_as(operation::find("chat.postMessage"), status, body)
}

#[track_caller]
fn check(status: u16, body: &str, seen: Said, kind: ErrorKind, outcome: Outcome) -> Error {
    let (got, error) = Said::of(classify(status, body.as_bytes()));
    let error = error.expect("an error");
    assert_eq!((got, error.kind(), error.outcome()), (seen, kind, outcome), "{status} {body}");
    assert_eq!(error.status(), Some(status), "{body}");
    assert_eq!(error.request_id(), Some("req_9"), "{body}");
    error
}

fn refusal(code: &str) -> String {
    format!(r#"{{"ok":false,"error":"{code}","channel":"ada@example.com"}}"#)
}

/// Fails when a warning is taken for a failure.
#[test]
fn what_is_ok_is_a_success_whatever_stands_beside_it() {
    for body in [
        r#"{"ok":true}"#,
        r#"{"ok":true,"warning":"missing_charset","response_metadata":{"warnings":["missing_charset"]}}"#,
        " {\"ok\": true, \"error\": \"none\"}\n",
        r#"{"channel":"C1","ok":true}"#,
    ] {
        assert_eq!(Said::of(classify(200, body.as_bytes())).0, Said::Success, "{body}");
    }
}

#[test]
fn the_scope_and_field_that_were_wrong_are_told() {
    let body = r#"{"ok":false,"error":"missing_scope","needed":"chat:write:bot,chat:write","provided":"users:read,channels:read"}"#;
    let error = check(200, body, Said::Failed(Repeat::Never), ErrorKind::Permission, Outcome::Rejected);
    let found = detail(&error).unwrap();
    assert_eq!(
        (&found.needed[..], &found.provided[..]),
        (
            &["chat:write:bot".to_owned(), "chat:write".to_owned()][..],
            &["users:read".to_owned(), "channels:read".to_owned()][..]
        )
    );
    assert!(error.user_message().contains("permission"));

    let body = r#"{"ok":false,"error":"invalid_blocks","response_metadata":{"messages":["[ERROR] must be more than 0 characters [json-pointer:\/blocks\/0\/text\/text]","[ERROR] Ada [json-pointer:<Ada>]", 7]}}"#;
    let error = check(200, body, Said::Failed(Repeat::Never), ErrorKind::Invalid, Outcome::Rejected);
    assert_eq!(detail(&error).unwrap().fields, ["/blocks/0/text/text"]);
}

/// Fails when a piece of the provider's own text reaches an error, or a person is shown a code.
#[test]
fn nothing_of_the_body_is_told_and_every_refusal_has_words_for_people() {
    let codes = [
        "channel_not_found",
        "not_in_channel",
        "is_archived",
        "msg_too_long",
        "missing_scope",
        "account_inactive",
        "restricted_action",
        "user_not_found",
        "name_taken",
        "time_in_past",
        "invalid_auth",
        "ratelimited",
        "fatal_error",
    ];
    let mut texts = std::collections::HashSet::new();
    for code in codes {
        let (_, error) = Said::of(classify(200, refusal(code).as_bytes()));
        let error = error.unwrap();
        let shown = error.user_message().into_owned();
        assert!(shown.ends_with('.') && !shown.contains(code) && !shown.contains("Error"), "{shown}");
        assert!(!format!("{error} {error:?} {shown}").contains("ada@example.com"));
        texts.insert(shown);
    }
    assert!(texts.len() >= codes.len() - 1, "{texts:?}");
    let odd = r#"{"ok":false,"error":"Ada Lovelace <ada@example.com> was not found"}"#;
    let (_, error) = Said::of(classify(200, odd.as_bytes()));
    assert_eq!(error.as_ref().unwrap().code(), Some("unknown_error"));
    assert!(!format!("{:?}", error.unwrap()).contains("ada"));
}

#[test]
fn addresses_that_answer_in_plain_text_are_read_by_status() {
    for (status, body, seen, kind) in [
        (200, "ok", Said::Success, None),
        (200, "", Said::Success, None),
        (400, "invalid_payload", Said::Failed(Repeat::Never), Some(ErrorKind::Invalid)),
        (404, "no_service", Said::Failed(Repeat::Never), Some(ErrorKind::NotFound)),
        (404, "expired_url", Said::Failed(Repeat::Never), Some(ErrorKind::NotFound)),
        (410, "channel_is_archived", Said::Failed(Repeat::Never), Some(ErrorKind::Conflict)),
        (429, "rate_limited", Said::Throttled, Some(ErrorKind::Throttled)),
        (429, "<html>", Said::Throttled, Some(ErrorKind::Throttled)),
        (500, "rollup_error", Said::Failed(Repeat::IfSafe), Some(ErrorKind::Provider)),
    ] {
        let (got, error) = Said::of(classify_as(&operation::HOOK, status, body.as_bytes()));
        assert_eq!((got, error.map(|error| error.kind())), (seen, kind), "{status} {body}");
    }
}

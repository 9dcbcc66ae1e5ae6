//! The table of answers.

use bytes::Bytes;
use http::Response;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use palisade_slack::error::{SlackClassifier, detail};
use palisade_slack::operation;

/// What a verdict comes down to.
#[derive(Debug, PartialEq)]
enum Seen {
    Success,
    Unauthorized,
    Throttled,
    Failed(Repeat),
}

fn classify_as(operation: &'static Operation, status: u16, body: &[u8]) -> Verdict {
    let response = Response::builder().status(status).header("x-slack-req-id", "req_9");
    SlackClassifier.classify(operation, &response.body(Bytes::copy_from_slice(body)).unwrap())
}

pub(crate) fn classify(status: u16, body: &[u8]) -> Verdict {
    classify_as(operation::find("chat.postMessage"), status, body)
}

fn split(verdict: Verdict) -> (Seen, Option<Error>) {
    match verdict {
        Verdict::Success => (Seen::Success, None),
        Verdict::Unauthorized(error) => (Seen::Unauthorized, Some(error)),
        Verdict::Throttled { error, .. } => (Seen::Throttled, Some(error)),
        Verdict::Failed { error, repeat } => (Seen::Failed(repeat), Some(error)),
    }
}

#[track_caller]
fn check(status: u16, body: &str, seen: Seen, kind: ErrorKind, outcome: Outcome) -> Error {
    let (got, error) = split(classify(status, body.as_bytes()));
    let error = error.expect("an error");
    assert_eq!((got, error.kind(), error.outcome()), (seen, kind, outcome), "{status} {body}");
    assert_eq!(error.status(), Some(status), "{body}");
    assert_eq!(error.request_id(), Some("req_9"), "{body}");
    error
}

fn refusal(code: &str) -> String {
    format!(r#"{{"ok":false,"error":"{code}","channel":"ada@example.com"}}"#)
}

/// Fails when a code is given another meaning, or one that may have acted is repeated blindly.
#[test]
fn codes_have_one_meaning_each() {
    use ErrorKind as K;
    use Outcome::{Rejected, Unknown};
    use Repeat::{Always, IfSafe, Never};
    let refused = Seen::Failed(Never);
    for (code, seen, kind, outcome) in [
        ("token_expired", Seen::Unauthorized, K::Auth, Rejected),
        ("invalid_auth", Seen::Unauthorized, K::Auth, Rejected),
        ("token_revoked", Seen::Unauthorized, K::Auth, Rejected),
        ("not_authed", Seen::Unauthorized, K::Auth, Rejected),
        ("account_inactive", Seen::Failed(Never), K::Auth, Rejected),
        ("missing_scope", Seen::Failed(Never), K::Permission, Rejected),
        ("not_allowed_token_type", Seen::Failed(Never), K::Permission, Rejected),
        ("not_in_channel", Seen::Failed(Never), K::Permission, Rejected),
        ("restricted_action", Seen::Failed(Never), K::Permission, Rejected),
        ("restricted_action_thread_locked", Seen::Failed(Never), K::Permission, Rejected),
        ("posting_to_general_channel_denied", Seen::Failed(Never), K::Permission, Rejected),
        ("ekm_access_denied", Seen::Failed(Never), K::Permission, Rejected),
        ("cant_update_message", Seen::Failed(Never), K::Permission, Rejected),
        ("ratelimited", Seen::Throttled, K::Throttled, Rejected),
        ("rate_limited", Seen::Throttled, K::Throttled, Rejected),
        ("message_limit_exceeded", Seen::Throttled, K::Throttled, Rejected),
        ("channel_not_found", Seen::Failed(Never), K::NotFound, Rejected),
        ("user_not_found", Seen::Failed(Never), K::NotFound, Rejected),
        ("message_not_found", Seen::Failed(Never), K::NotFound, Rejected),
        ("team_not_found", Seen::Failed(Never), K::NotFound, Rejected),
        ("is_archived", Seen::Failed(Never), K::Conflict, Rejected),
        ("already_reacted", Seen::Failed(Never), K::Conflict, Rejected),
        ("name_taken", Seen::Failed(Never), K::Conflict, Rejected),
        ("invalid_cursor", Seen::Failed(Never), K::CursorExpired, Rejected),
        ("msg_too_long", Seen::Failed(Never), K::Invalid, Rejected),
        ("no_text", Seen::Failed(Never), K::Invalid, Rejected),
        ("invalid_blocks", Seen::Failed(Never), K::Invalid, Rejected),
        ("time_in_past", Seen::Failed(Never), K::Invalid, Rejected),
        ("a_code_of_tomorrow", Seen::Failed(Never), K::Invalid, Rejected),
        ("unknown_method", Seen::Failed(Never), K::Config, Rejected),
        ("request_timeout", Seen::Failed(Always), K::Transport, Rejected),
        ("team_added_to_org", Seen::Failed(Never), K::Provider, Rejected),
        ("internal_error", Seen::Failed(IfSafe), K::Provider, Unknown),
        ("fatal_error", Seen::Failed(IfSafe), K::Provider, Unknown),
        ("service_unavailable", Seen::Failed(IfSafe), K::Provider, Unknown),
    ] {
        let error = check(200, &refusal(code), seen, kind, outcome);
        assert_eq!(error.code(), Some(code));
    }
    assert!(check(200, &refusal("team_added_to_org"), refused, K::Provider, Rejected).is_retryable());
}

#[test]
fn statuses_are_those_of_machines_in_between() {
    use ErrorKind as K;
    use Outcome::{Processed, Rejected, Unknown};
    use Repeat::{IfSafe, Never};
    check(429, "", Seen::Throttled, K::Throttled, Rejected);
    check(429, &refusal("anything"), Seen::Throttled, K::Throttled, Rejected);
    check(429, "<html>", Seen::Throttled, K::Throttled, Rejected);
    check(500, &refusal("channel_not_found"), Seen::Failed(IfSafe), K::Provider, Unknown);
    check(503, r#"{"ok":true}"#, Seen::Failed(IfSafe), K::Provider, Unknown);
    check(502, "<html>", Seen::Failed(IfSafe), K::Provider, Unknown);
    check(408, "", Seen::Failed(IfSafe), K::Timeout, Unknown);
    check(404, "<html>", Seen::Failed(Never), K::Config, Rejected);
    check(407, "", Seen::Failed(Never), K::Config, Rejected);
    check(401, "", Seen::Unauthorized, K::Auth, Rejected);
    check(403, &refusal("invalid_auth"), Seen::Unauthorized, K::Auth, Rejected);
    check(403, "blocked", Seen::Failed(Never), K::Permission, Rejected);
    check(200, "<html>ok</html>", Seen::Failed(IfSafe), K::Decode, Unknown);
    check(200, "", Seen::Failed(IfSafe), K::Decode, Unknown);
    check(200, "[]", Seen::Failed(IfSafe), K::Decode, Unknown);
    check(200, r#"{"ok":"true"}"#, Seen::Failed(IfSafe), K::Decode, Unknown);
    check(200, r#"{"ok":true,"channel":"C1","ts"#, Seen::Failed(IfSafe), K::Decode, Processed);
    let deep = format!(r#"{{"ok":false,"x":{}"#, "[".repeat(100_000));
    check(200, &deep, Seen::Failed(IfSafe), K::Decode, Unknown);
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
        assert_eq!(split(classify(200, body.as_bytes())).0, Seen::Success, "{body}");
    }
}

#[test]
fn the_scope_and_field_that_were_wrong_are_told() {
    let body = r#"{"ok":false,"error":"missing_scope","needed":"chat:write:bot,chat:write","provided":"users:read,channels:read"}"#;
    let error = check(200, body, Seen::Failed(Repeat::Never), ErrorKind::Permission, Outcome::Rejected);
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
    let error = check(200, body, Seen::Failed(Repeat::Never), ErrorKind::Invalid, Outcome::Rejected);
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
        let (_, error) = split(classify(200, refusal(code).as_bytes()));
        let error = error.unwrap();
        let shown = error.user_message().into_owned();
        assert!(shown.ends_with('.') && !shown.contains(code) && !shown.contains("Error"), "{shown}");
        assert!(!format!("{error} {error:?} {shown}").contains("ada@example.com"));
        texts.insert(shown);
    }
    assert!(texts.len() >= codes.len() - 1, "{texts:?}");
    let odd = r#"{"ok":false,"error":"Ada Lovelace <ada@example.com> was not found"}"#;
    let (_, error) = split(classify(200, odd.as_bytes()));
    assert_eq!(error.as_ref().unwrap().code(), Some("unknown_error"));
    assert!(!format!("{:?}", error.unwrap()).contains("ada"));
}

#[test]
fn addresses_that_answer_in_plain_text_are_read_by_status() {
    for (status, body, seen, kind) in [
        (200, "ok", Seen::Success, None),
        (200, "", Seen::Success, None),
        (400, "invalid_payload", Seen::Failed(Repeat::Never), Some(ErrorKind::Invalid)),
        (404, "no_service", Seen::Failed(Repeat::Never), Some(ErrorKind::NotFound)),
        (404, "expired_url", Seen::Failed(Repeat::Never), Some(ErrorKind::NotFound)),
        (410, "channel_is_archived", Seen::Failed(Repeat::Never), Some(ErrorKind::Conflict)),
        (429, "rate_limited", Seen::Throttled, Some(ErrorKind::Throttled)),
        (429, "<html>", Seen::Throttled, Some(ErrorKind::Throttled)),
        (500, "rollup_error", Seen::Failed(Repeat::IfSafe), Some(ErrorKind::Provider)),
    ] {
        let (got, error) = split(classify_as(&operation::HOOK, status, body.as_bytes()));
        assert_eq!((got, error.map(|error| error.kind())), (seen, kind), "{status} {body}");
    }
}

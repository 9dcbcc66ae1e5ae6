//! The table of answers.

use bytes::Bytes;
use http::Response;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use palisade_sendgrid::error::{SendGridClassifier, detail};
use palisade_sendgrid::operation;

/// What a verdict comes down to.
#[derive(Debug, PartialEq)]
enum Seen {
    Success,
    Unauthorized,
    Throttled,
    Failed(Repeat),
}

pub(crate) fn classify(operation: &'static Operation, status: u16, body: &[u8]) -> Verdict {
    let response = Response::builder().status(status).body(Bytes::copy_from_slice(body)).unwrap();
    SendGridClassifier.classify(operation, &response)
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
fn check(status: u16, body: &str, seen: Seen, kind: ErrorKind, outcome: Outcome, code: Option<&str>) -> Error {
    let (got, error) = split(classify(&operation::SEND_MAIL, status, body.as_bytes()));
    let error = error.expect("an error");
    assert_eq!((got, error.kind(), error.outcome(), error.code()), (seen, kind, outcome, code), "{status} {body}");
    assert_eq!(error.status(), Some(status));
    let said = format!("{error} {error:?} {}", error.user_message());
    assert!(!said.contains("ada@example.com"), "{said}");
    error
}

fn body(message: &str, field: &str) -> String {
    format!(r#"{{"errors":[{{"message":"{message} ada@example.com","field":{field},"help":null}}],"id":"x"}}"#)
}

#[test]
fn statuses_and_sentences_have_one_meaning_each() {
    use ErrorKind as K;
    use Outcome::{Rejected, Unknown};
    use Repeat::{IfSafe, Never};
    let failed = || Seen::Failed(Never);
    check(400, &body("Bad Request", "null"), failed(), K::Invalid, Rejected, None);
    let wrong = body("Does not contain a valid address.", r#""personalizations.0.to.0.email""#);
    let error = check(400, &wrong, failed(), K::Invalid, Rejected, Some("address_invalid"));
    assert_eq!(detail(&error).unwrap().field.as_deref(), Some("personalizations.0.to.0.email"));
    assert!(error.user_message().contains("not valid"));
    check(
        400,
        &body(
            "Each email address in the personalization block should be unique between to, cc, and bcc.",
            r#""personalizations""#,
        ),
        failed(),
        K::Invalid,
        Rejected,
        Some("address_repeated"),
    );
    check(
        400,
        &body("The template_id must be a valid GUID", r#""template_id""#),
        failed(),
        K::Invalid,
        Rejected,
        Some("template_invalid"),
    );
    check(
        401,
        &body("The provided authorization grant is invalid, expired, or revoked", "null"),
        Seen::Unauthorized,
        K::Auth,
        Rejected,
        None,
    );
    check(401, "", Seen::Unauthorized, K::Auth, Rejected, None);
    check(403, &body("access forbidden", r#""null""#), failed(), K::Permission, Rejected, None);
    let sender = body("The from address does not match a verified Sender Identity.", r#""from""#);
    check(403, &sender, failed(), K::Permission, Rejected, Some("sender_unverified"));
    check(404, &body("not found", "null"), failed(), K::NotFound, Rejected, None);
    check(404, "<html>", failed(), K::Config, Rejected, None);
    check(405, &body("method not allowed", "null"), failed(), K::Invalid, Rejected, None);
    check(407, "", failed(), K::Config, Rejected, None);
    check(302, "", failed(), K::Config, Rejected, None);
    check(413, "<html>Request Entity Too Large</html>", failed(), K::Invalid, Rejected, Some("too_large"));
    check(429, &body("too many requests", "null"), Seen::Throttled, K::Throttled, Rejected, None);
    check(429, "", Seen::Throttled, K::Throttled, Rejected, None);
    check(408, "", Seen::Failed(IfSafe), K::Timeout, Unknown, None);
    for status in [500, 502, 503, 504] {
        let error = check(status, &body("template failure", "null"), Seen::Failed(IfSafe), K::Provider, Unknown, None);
        assert!(error.user_message().contains("check before trying again"), "it may have been sent");
        check(status, "<html>", Seen::Failed(IfSafe), K::Provider, Unknown, None);
    }
}

/// Fails when a plan that is used up makes the hub ask for a new key.
#[test]
fn a_used_up_plan_is_no_wrong_key() {
    let used = body("Maximum credits exceeded", "null");
    let kind = ErrorKind::Permission;
    let error = check(401, &used, Seen::Failed(Repeat::Never), kind, Outcome::Rejected, Some("credits_exceeded"));
    assert!(error.user_message().contains("used up"));
}

#[test]
fn fields_that_are_no_paths_are_left_out() {
    for field in [r#""null""#, "null", r#""<b>""#, r#""a b""#, &format!("\"{}\"", "x".repeat(101))] {
        let error =
            check(400, &body("x", field), Seen::Failed(Repeat::Never), ErrorKind::Invalid, Outcome::Rejected, None);
        assert_eq!(detail(&error).unwrap().field, None, "{field}");
    }
}

#[test]
fn a_success_must_look_like_sendgrids() {
    let seen = |operation, status, body: &str| split(classify(operation, status, body.as_bytes()));
    for (status, body) in [(202, ""), (200, ""), (204, ""), (200, "[]"), (200, " {\"scopes\":[]}\n"), (201, "{}")] {
        assert_eq!(seen(&operation::SEND_MAIL, status, body).0, Seen::Success, "{status} {body}");
    }
    for (status, body, outcome) in [
        (202, "<html>login</html>", Outcome::Unknown),
        (201, "", Outcome::Unknown),
        (200, "[{\"email\":", Outcome::Processed),
    ] {
        let (seen, error) = seen(&operation::SEND_MAIL, status, body);
        let error = error.unwrap();
        assert_eq!(
            (seen, error.kind(), error.outcome()),
            (Seen::Failed(Repeat::IfSafe), ErrorKind::Decode, outcome),
            "{body}"
        );
    }
}

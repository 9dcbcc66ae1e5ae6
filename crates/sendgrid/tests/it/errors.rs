//! The table of answers.

use bytes::Bytes;
use http::Response;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use palisade_sendgrid::error::{SendGridClassifier, detail};
use palisade_sendgrid::operation;
use palisade_testkit::fake::Said;

pub(crate) fn classify(operation: &'static Operation, status: u16, body: &[u8]) -> Verdict {
    let response = Response::builder().status(status).body(Bytes::copy_from_slice(body)).unwrap();
    SendGridClassifier.classify(operation, &response)
}

#[track_caller]
fn check(status: u16, body: &str, seen: Said, kind: ErrorKind, outcome: Outcome, code: Option<&str>) -> Error {
    let (got, error) = Said::of(classify(&operation::SEND_MAIL, status, body.as_bytes()));
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

/// Fails when a plan that is used up makes the hub ask for a new key.
#[test]
fn a_used_up_plan_is_no_wrong_key() {
    let used = body("Maximum credits exceeded", "null");
    let kind = ErrorKind::Permission;
    let error = check(401, &used, Said::Failed(Repeat::Never), kind, Outcome::Rejected, Some("credits_exceeded"));
    assert!(error.user_message().contains("used up"));
}

#[test]
fn fields_that_are_no_paths_are_left_out() {
    for field in [r#""null""#, "null", r#""<b>""#, r#""a b""#, &format!("\"{}\"", "x".repeat(101))] {
        let error =
            check(400, &body("x", field), Said::Failed(Repeat::Never), ErrorKind::Invalid, Outcome::Rejected, None);
        assert_eq!(detail(&error).unwrap().field, None, "{field}");
    }
}

#[test]
fn a_success_must_look_like_sendgrids() {
    let seen = |operation, status, body: &str| Said::of(classify(operation, status, body.as_bytes()));
    for (status, body) in [(202, ""), (200, ""), (204, ""), (200, "[]"), (200, " {\"scopes\":[]}\n"), (201, "{}")] {
        assert_eq!(seen(&operation::SEND_MAIL, status, body).0, Said::Success, "{status} {body}");
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
            (Said::Failed(Repeat::IfSafe), ErrorKind::Decode, outcome),
            "{body}"
        );
    }
}

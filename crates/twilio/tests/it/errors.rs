//! The table of answers.

use bytes::Bytes;
use http::Response;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use palisade_testkit::fake::Said;
use palisade_twilio::code::Retry;
use palisade_twilio::error::{TwilioClassifier, advice};
use palisade_twilio::operation;

pub(crate) fn classify(operation: &'static Operation, status: u16, body: &[u8]) -> Verdict {
    let response = Response::builder().status(status).header("twilio-request-id", "RQ9");
    TwilioClassifier.classify(operation, &response.body(Bytes::copy_from_slice(body)).unwrap())
}

#[track_caller]
fn check(status: u16, body: &str, seen: Said, kind: ErrorKind, outcome: Outcome) -> Error {
    let (got, error) = Said::of(classify(&operation::CREATE_MESSAGE, status, body.as_bytes()));
    let error = error.expect("an error");
    assert_eq!((got, error.kind(), error.outcome()), (seen, kind, outcome), "{status} {body}");
    assert_eq!((error.status(), error.request_id()), (Some(status), Some("RQ9")));
    let said = format!("{error} {error:?} {}", error.user_message());
    assert!(!said.contains("+1500"), "{said}");
    error
}

fn body(code: u32, status: u16) -> String {
    format!(
        r#"{{"code":{code},"message":"The 'To' number +15005550006 is not a valid phone number.","more_info":"https://www.twilio.com/docs/errors/{code}","status":{status}}}"#
    )
}

/// Fails when a queue that is full for hours stops all other messages of the account.
#[test]
fn one_senders_full_queue_does_not_pause_the_account() {
    for status in [400, 429] {
        let error =
            check(status, &body(21_611, status), Said::Failed(Repeat::Never), ErrorKind::Throttled, Outcome::Rejected);
        assert!(error.is_retryable(), "later");
        assert_eq!(advice(&error).unwrap().retry, Retry::Later);
    }
}

#[test]
fn a_person_reads_what_to_do() {
    let message = |code| {
        let (_, error) = Said::of(classify(&operation::CREATE_MESSAGE, 400, body(code, 400).as_bytes()));
        error.unwrap().user_message().into_owned()
    };
    assert!(message(21_211).contains("country code"));
    assert!(message(21_610).contains("opted out"));
    assert!(message(21_614).contains("mobile number"));
    let (_, error) = Said::of(classify(&operation::CREATE_MESSAGE, 500, body(20_500, 500).as_bytes()));
    assert!(error.unwrap().user_message().contains("check before trying again"), "an unknown outcome says so");
}

#[test]
fn a_success_must_look_like_twilios() {
    let seen = |operation, status, body: &str| Said::of(classify(operation, status, body.as_bytes()));
    assert_eq!(seen(&operation::CREATE_MESSAGE, 201, " {\"sid\":1}\n").0, Said::Success);
    assert_eq!(seen(&operation::DELETE_MESSAGE, 204, "").0, Said::Success);
    for (body, outcome) in [
        ("<html>login</html>", Outcome::Unknown),
        ("", Outcome::Unknown),
        ("[]", Outcome::Unknown),
        ("{\"sid\":\"SM", Outcome::Processed),
    ] {
        let (seen, error) = seen(&operation::CREATE_MESSAGE, 201, body);
        let error = error.unwrap();
        assert_eq!(
            (seen, error.kind(), error.outcome()),
            (Said::Failed(Repeat::IfSafe), ErrorKind::Decode, outcome),
            "{body}"
        );
    }
}

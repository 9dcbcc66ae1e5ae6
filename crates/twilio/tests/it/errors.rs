//! The table of answers.

use bytes::Bytes;
use http::Response;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use palisade_twilio::code::Retry;
use palisade_twilio::error::{TwilioClassifier, advice, detail};
use palisade_twilio::operation;

/// What a verdict comes down to.
#[derive(Debug, PartialEq)]
enum Seen {
    Success,
    Unauthorized,
    Throttled,
    Failed(Repeat),
}

pub(crate) fn classify(operation: &'static Operation, status: u16, body: &[u8]) -> Verdict {
    let response = Response::builder().status(status).header("twilio-request-id", "RQ9");
    TwilioClassifier.classify(operation, &response.body(Bytes::copy_from_slice(body)).unwrap())
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
    let (got, error) = split(classify(&operation::CREATE_MESSAGE, status, body.as_bytes()));
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

#[test]
fn statuses_and_codes_have_one_meaning_each() {
    use ErrorKind as K;
    use Outcome::{Rejected, Unknown};
    use Repeat::{IfSafe, Never};
    for (status, code, kind) in [
        (400, 21_211, K::Invalid),
        (400, 21_212, K::Invalid),
        (400, 21_408, K::Permission),
        (403, 21_408, K::Permission),
        (400, 21_606, K::Invalid),
        (400, 21_610, K::Invalid),
        (400, 21_614, K::Invalid),
        (400, 21_617, K::Invalid),
        (403, 20_003, K::Permission),
        (403, 20_005, K::Permission),
        (404, 20_404, K::NotFound),
        (400, 63_018, K::Throttled),
        (400, 99_999, K::Invalid),
        (404, 99_999, K::NotFound),
        (409, 99_999, K::Conflict),
    ] {
        let error = check(status, &body(code, status), Seen::Failed(Never), kind, Rejected);
        assert_eq!(error.code(), Some(code.to_string().as_str()));
        assert_eq!(detail(&error).unwrap().more(), format!("https://www.twilio.com/docs/errors/{code}"));
    }
    check(401, &body(20_003, 401), Seen::Unauthorized, K::Auth, Rejected);
    check(401, "", Seen::Unauthorized, K::Auth, Rejected);
    check(429, &body(20_429, 429), Seen::Throttled, K::Throttled, Rejected);
    check(429, "<html>", Seen::Throttled, K::Throttled, Rejected);
    check(403, "", Seen::Failed(Never), K::Permission, Rejected);
    check(400, "", Seen::Failed(Never), K::Invalid, Rejected);
    check(404, "<html>not found</html>", Seen::Failed(Never), K::Config, Rejected);
    check(407, "", Seen::Failed(Never), K::Config, Rejected);
    check(302, "", Seen::Failed(Never), K::Config, Rejected);
    check(408, "", Seen::Failed(IfSafe), K::Timeout, Unknown);
    for status in [500, 502, 503, 504] {
        check(status, &body(20_500, status), Seen::Failed(IfSafe), K::Provider, Unknown);
        check(status, "<html>", Seen::Failed(IfSafe), K::Provider, Unknown);
    }
}

/// Fails when a queue that is full for hours stops all other messages of the account.
#[test]
fn one_senders_full_queue_does_not_pause_the_account() {
    for status in [400, 429] {
        let error =
            check(status, &body(21_611, status), Seen::Failed(Repeat::Never), ErrorKind::Throttled, Outcome::Rejected);
        assert!(error.is_retryable(), "later");
        assert_eq!(advice(&error).unwrap().retry, Retry::Later);
    }
}

#[test]
fn a_person_reads_what_to_do() {
    let message = |code| {
        let (_, error) = split(classify(&operation::CREATE_MESSAGE, 400, body(code, 400).as_bytes()));
        error.unwrap().user_message().into_owned()
    };
    assert!(message(21_211).contains("country code"));
    assert!(message(21_610).contains("opted out"));
    assert!(message(21_614).contains("mobile number"));
    let (_, error) = split(classify(&operation::CREATE_MESSAGE, 500, body(20_500, 500).as_bytes()));
    assert!(error.unwrap().user_message().contains("check before trying again"), "an unknown outcome says so");
}

#[test]
fn a_success_must_look_like_twilios() {
    let seen = |operation, status, body: &str| split(classify(operation, status, body.as_bytes()));
    assert_eq!(seen(&operation::CREATE_MESSAGE, 201, " {\"sid\":1}\n").0, Seen::Success);
    assert_eq!(seen(&operation::DELETE_MESSAGE, 204, "").0, Seen::Success);
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
            (Seen::Failed(Repeat::IfSafe), ErrorKind::Decode, outcome),
            "{body}"
        );
    }
}

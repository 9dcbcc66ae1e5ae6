//! The table of answers.

use bytes::Bytes;
use http::Response;
use palisade_core::call::Scope;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Outcome};
use palisade_stripe::error::{StripeClassifier, detail};
use palisade_stripe::operation;
use stripe_client_core::StripeMethod;

/// What a verdict comes down to.
#[derive(Debug, PartialEq)]
enum Seen {
    Success,
    Unauthorized,
    Throttled(Scope),
    Failed(Repeat),
}

pub(crate) fn classify(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Verdict {
    let mut response = Response::builder().status(status).header("request-id", "req_9");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let operation = operation::find(StripeMethod::Post, "/v1/payment_intents");
    StripeClassifier.classify(operation, &response.body(Bytes::copy_from_slice(body)).unwrap())
}

fn split(verdict: Verdict) -> (Seen, Option<Error>) {
    match verdict {
        Verdict::Success => (Seen::Success, None),
        Verdict::Unauthorized(error) => (Seen::Unauthorized, Some(error)),
        Verdict::Throttled { error, after: None, scope } => (Seen::Throttled(scope), Some(error)),
        Verdict::Throttled { after: Some(_), .. } => panic!("Stripe gives no wait in a body"),
        Verdict::Failed { error, repeat } => (Seen::Failed(repeat), Some(error)),
    }
}

#[track_caller]
fn check(status: u16, headers: &[(&str, &str)], body: &str, seen: Seen, kind: ErrorKind, outcome: Outcome) -> Error {
    let (got, error) = split(classify(status, headers, body.as_bytes()));
    let error = error.expect("an error");
    assert_eq!((got, error.kind(), error.outcome()), (seen, kind, outcome), "{status} {headers:?} {body}");
    assert_eq!(error.status(), Some(status));
    assert_eq!(error.request_id(), Some("req_9"));
    error
}

fn body(kind: &str, code: &str, more: &str) -> String {
    format!(r#"{{"error":{{"type":"{kind}","code":"{code}","message":"No such customer: ada@example.com"{more}}}}}"#)
}

#[test]
fn what_another_writer_caused_may_be_tried_again() {
    let invalid = |code: &str| body("invalid_request_error", code, "");
    let (if_safe, always) = (Seen::Failed(Repeat::IfSafe), Seen::Failed(Repeat::Always));
    let in_use = check(409, &[], &invalid("idempotency_key_in_use"), if_safe, ErrorKind::Conflict, Outcome::Unknown);
    assert!(in_use.is_retryable(), "the same key gives the first request's answer once it is done");
    let lock = check(429, &[], &invalid("lock_timeout"), always, ErrorKind::Conflict, Outcome::Rejected);
    assert!(lock.is_retryable(), "somebody else held the object for a moment");
}

/// Fails when a missing record and a wrong address look alike: the driver would take records for deleted.
#[test]
fn a_404_that_is_not_stripes_is_no_missing_object() {
    for page in ["<html>404</html>", "", "{}", "[]", r#"{"error":7}"#] {
        check(404, &[], page, Seen::Failed(Repeat::Never), ErrorKind::Config, Outcome::Rejected);
    }
    let url = r#"{"error":{"type":"invalid_request_error","message":"Unrecognized request URL (GET: /v1/x)."}}"#;
    check(404, &[], url, Seen::Failed(Repeat::Never), ErrorKind::Invalid, Outcome::Rejected);
}

/// Fails when Stripe's own word does not go first, or when the reason of a 429 is not read or holds back more
/// than is meant.
#[test]
fn throttles_pause_the_lane_unless_one_object_or_lock_is_meant() {
    use Repeat::{IfSafe, Never};
    let limit = body("invalid_request_error", "rate_limit", "");
    let throttled =
        |headers: &[(&str, &str)], seen| check(429, headers, &limit, seen, ErrorKind::Throttled, Outcome::Rejected);
    throttled(&[], Seen::Throttled(Scope::Operation));
    for (reason, scope) in [
        ("global-rate", Scope::Account),
        ("global-concurrency", Scope::Account),
        ("endpoint-rate", Scope::Operation),
        ("endpoint-concurrency", Scope::Operation),
        ("new-one", Scope::Operation),
    ] {
        throttled(&[("Stripe-Rate-Limited-Reason", reason)], Seen::Throttled(scope));
    }
    let own = throttled(&[("Stripe-Rate-Limited-Reason", "resource-specific")], Seen::Failed(Never));
    assert!(own.is_retryable(), "later, by whoever asked");
    throttled(&[("Stripe-Should-Retry", "false")], Seen::Failed(Never));
    throttled(
        &[("Stripe-Rate-Limited-Reason", "resource-specific"), ("Stripe-Should-Retry", "true")],
        Seen::Failed(IfSafe),
    );
    check(400, &[], &limit, Seen::Throttled(Scope::Operation), ErrorKind::Throttled, Outcome::Rejected);
}

#[test]
fn stripes_word_on_repeating_goes_first() {
    let server = body("api_error", "", "");
    let check = |status, headers: &[(&str, &str)], body: &str, repeat| {
        assert_eq!(split(classify(status, headers, body.as_bytes())).0, Seen::Failed(repeat), "{status} {headers:?}");
    };
    check(500, &[("Stripe-Should-Retry", "false")], &server, Repeat::Never);
    check(409, &[("Stripe-Should-Retry", "false")], &body("invalid_request_error", "x", ""), Repeat::Never);
    check(400, &[("Stripe-Should-Retry", "true")], &body("invalid_request_error", "x", ""), Repeat::IfSafe);
    check(500, &[("Stripe-Should-Retry", "maybe")], &server, Repeat::IfSafe);
    check(500, &[("Idempotent-Replayed", "true")], &server, Repeat::Never);
    check(500, &[("Idempotent-Replayed", "true"), ("Stripe-Should-Retry", "true")], &server, Repeat::IfSafe);
}

#[test]
fn the_connect_token_endpoints_flat_errors_are_read() {
    let error = check(
        400,
        &[],
        r#"{"error":"invalid_grant","error_description":"used"}"#,
        Seen::Failed(Repeat::Never),
        ErrorKind::Auth,
        Outcome::Rejected,
    );
    assert_eq!(error.code(), Some("invalid_grant"));
    check(401, &[], r#"{"error":"invalid_client"}"#, Seen::Unauthorized, ErrorKind::Auth, Outcome::Rejected);
    check(400, &[], r#"{"error":"invalid_scope"}"#, Seen::Failed(Repeat::Never), ErrorKind::Invalid, Outcome::Rejected);
}

/// Fails when a proxy's page or a cut body counts as an answer.
#[test]
fn a_success_must_look_like_json() {
    for good in ["{}", " {\"id\":\"x\"}\n"] {
        assert_eq!(split(classify(200, &[], good.as_bytes())).0, Seen::Success);
    }
    for (bad, outcome) in [
        ("", Outcome::Unknown),
        ("<html></html>", Outcome::Unknown),
        ("[1]", Outcome::Unknown),
        (r#"{"id":"cus_1","na"#, Outcome::Processed),
    ] {
        check(200, &[], bad, Seen::Failed(Repeat::IfSafe), ErrorKind::Decode, outcome);
    }
}

/// Fails when any text of a body that is not a machine code gets into an error.
#[test]
fn errors_hold_codes_and_nothing_else_of_a_body() {
    let body = r#"{"error":{"type":"invalid_request_error","code":"has spaces ada@example.com","param":"items[0][price]",
        "decline_code":"ada@example.com","message":"ada@example.com","charge":"ch_1",
        "payment_intent":{"id":"pi_1","client_secret":"pi_1_secret_x"}}}"#;
    let (_, error) = split(classify(400, &[], body.as_bytes()));
    let error = error.unwrap();
    for text in [error.to_string(), format!("{error:?}"), error.user_message().into_owned()] {
        assert!(!text.contains("ada@") && !text.contains("_secret_"), "{text}");
    }
    let detail = detail(&error).unwrap();
    assert_eq!(detail.param.as_deref(), Some("items[0][price]"));
    assert_eq!((detail.charge.as_deref(), detail.payment_intent.as_deref()), (Some("ch_1"), Some("pi_1")));
    assert_eq!((detail.code.as_deref(), detail.decline_code.as_deref()), (None, None));
    assert_eq!(error.code(), Some("invalid_request_error"));
}

/// Fails when the parser of error bodies recurses without a limit: the test's thread would overflow its stack.
#[test]
fn bodies_that_nest_without_end_are_opaque() {
    let deep = format!(r#"{{"error":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    check(402, &[], &deep, Seen::Failed(Repeat::Never), ErrorKind::Invalid, Outcome::Rejected);
    check(
        500,
        &[],
        &"{\"error\":".repeat(100_000),
        Seen::Failed(Repeat::IfSafe),
        ErrorKind::Provider,
        Outcome::Unknown,
    );
}

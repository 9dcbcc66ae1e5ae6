//! Every reason, from the bodies Google answers with, to kind, outcome and repeat.

use bytes::Bytes;
use http::Response;
use palisade_core::call::Scope;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use palisade_google::error::{GoogleClassifier, detail};
use palisade_google::operation;
use serde_json::json;
use std::time::Duration;

#[derive(Debug, PartialEq)]
enum Said {
    Success,
    Unauthorized,
    Throttled(Option<u64>),
    Failed(Repeat),
}

fn classify(operation: &'static Operation, response: &Response<Bytes>) -> (Said, Option<Error>) {
    match GoogleClassifier.classify(operation, response) {
        Verdict::Success => (Said::Success, None),
        Verdict::Unauthorized(error) => (Said::Unauthorized, Some(error)),
        Verdict::Throttled { error, after, .. } => (Said::Throttled(after.map(|a| a.as_secs())), Some(error)),
        Verdict::Failed { error, repeat } => (Said::Failed(repeat), Some(error)),
    }
}

fn answer(status: u16, body: impl Into<Bytes>) -> Response<Bytes> {
    Response::builder().status(status).header("date", "Thu, 01 Jan 2026 00:00:00 GMT").body(body.into()).unwrap()
}

fn body(status: u16, domain: &str, reason: &str) -> String {
    json!({ "error": {
        "code": status, "message": "about person7@example.com", "status": "PERMISSION_DENIED",
        "errors": [{ "domain": domain, "reason": reason, "message": "about person7@example.com" }],
    } })
    .to_string()
}

#[track_caller]
fn check(operation: &'static Operation, status: u16, reason: &str, said: Said, kind: ErrorKind) -> Error {
    let (found, error) = classify(operation, &answer(status, body(status, "global", reason)));
    let error = error.unwrap();
    assert_eq!((found, error.kind()), (said, kind), "{status} {reason}");
    assert_eq!(error.status(), Some(status));
    assert_eq!(error.code(), Some(reason));
    assert_eq!(detail(&error).unwrap().reason.as_deref(), Some(reason));
    let told = format!("{error} {error:?} {}", error.user_message());
    assert!(!told.contains("person7"), "{told}");
    error
}

const NEVER: Said = Said::Failed(Repeat::Never);
const IF_SAFE: Said = Said::Failed(Repeat::IfSafe);

#[test]
fn every_reason_has_its_kind() {
    use ErrorKind as K;
    let any = &operation::EVENTS_GET;
    for status in [403, 429] {
        for reason in ["rateLimitExceeded", "userRateLimitExceeded"] {
            check(any, status, reason, Said::Throttled(None), K::Throttled);
        }
        for reason in ["dailyLimitExceeded", "quotaExceeded", "calendarUsageLimitsExceeded"] {
            let error = check(any, status, reason, NEVER, K::Throttled);
            assert!(error.is_retryable() && error.retry_after() == Some(Duration::from_secs(3_600)), "{reason}");
            assert_eq!(error.outcome(), Outcome::Rejected);
        }
    }
    check(any, 429, "somethingNew", Said::Throttled(None), K::Throttled);
    for (reason, kind, word) in [
        ("insufficientPermissions", K::Permission, "reconnect"),
        ("ACCESS_TOKEN_SCOPE_INSUFFICIENT", K::Permission, "reconnect"),
        ("domainPolicy", K::Permission, "administrator"),
        ("forbiddenForNonOrganizer", K::Permission, "organizer"),
        ("forbidden", K::Permission, "not allowed"),
        ("requiredAccessLevel", K::Permission, "not allowed"),
        ("accessNotConfigured", K::Config, "our side"),
        ("SERVICE_DISABLED", K::Config, "our side"),
        ("dailyLimitExceededUnreg", K::Config, "our side"),
        ("somethingNew", K::Permission, "permission"),
    ] {
        let error = check(any, 403, reason, NEVER, kind);
        assert!(error.user_message().contains(word), "{reason}: {}", error.user_message());
        assert!(!error.is_retryable(), "{reason}");
    }
    check(any, 401, "authError", Said::Unauthorized, K::Auth);
    check(any, 400, "invalidArgument", NEVER, K::Invalid);
    check(any, 400, "failedPrecondition", NEVER, K::Permission);
    check(any, 400, "channelIdNotUnique", NEVER, K::Conflict);
    check(any, 400, "push.webhookUrlNotHttps", NEVER, K::Config);
    // Fails when a connection is called broken because the hub's own address is not verified.
    check(any, 401, "push.webhookUrlUnauthorized", NEVER, K::Config);
    check(any, 404, "notFound", NEVER, K::NotFound);
    check(any, 408, "timeout", IF_SAFE, K::Timeout);
    check(any, 409, "duplicate", NEVER, K::Conflict);
    check(any, 409, "conflict", IF_SAFE, K::Conflict);
    check(any, 410, "deleted", NEVER, K::NotFound);
    check(any, 410, "fullSyncRequired", NEVER, K::CursorExpired);
    check(any, 410, "updatedMinTooLongAgo", NEVER, K::CursorExpired);
    check(any, 412, "conditionNotMet", NEVER, K::Conflict);
    check(any, 413, "uploadTooLarge", NEVER, K::Invalid);
    check(&operation::HISTORY_LIST, 404, "notFound", NEVER, K::CursorExpired);
    check(&operation::EVENTS_LIST, 410, "gone", NEVER, K::CursorExpired);
    for status in [500, 502, 503, 504] {
        let error = check(any, status, "backendError", IF_SAFE, K::Provider);
        assert_eq!(error.outcome(), Outcome::Unknown);
    }
}

/// Fails when a token that went stale in the middle of a list is called a mistake of the caller's.
#[test]
fn a_page_token_that_is_too_old_begins_the_list_again() {
    for parameter in ["pageToken", "syncToken"] {
        let body = json!({ "error": { "code": 400, "errors": [
            { "domain": "global", "reason": "invalid", "locationType": "parameter", "location": parameter },
        ] } });
        let (_, error) = classify(&operation::EVENTS_LIST, &answer(400, body.to_string()));
        assert_eq!(error.unwrap().kind(), ErrorKind::CursorExpired, "{parameter}");
    }
}

#[test]
fn newer_errors_tell_their_reason_in_the_details() {
    let body = json!({ "error": { "code": 403, "status": "PERMISSION_DENIED", "message": "m", "details": [
        { "@type": "type.googleapis.com/google.rpc.Help" },
        { "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "domain": "googleapis.com" },
    ] } });
    let (_, error) = classify(&operation::PROFILE, &answer(403, body.to_string()));
    let error = error.unwrap();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Permission, Some("ACCESS_TOKEN_SCOPE_INSUFFICIENT")));
    let exhausted = json!({ "error": { "code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m" } });
    let (said, error) = classify(&operation::PROFILE, &answer(429, exhausted.to_string()));
    assert_eq!((said, error.unwrap().code()), (Said::Throttled(None), Some("RESOURCE_EXHAUSTED")));
}

/// Fails when one user's limit holds up the whole project, or the project's only one user.
#[test]
fn a_throttle_holds_back_those_who_share_the_limit() {
    for (reason, message, scope) in [
        ("rateLimitExceeded", "Rate Limit Exceeded", Scope::Client),
        ("rateLimitExceeded", "User-rate limit exceeded.", Scope::Operation),
        (
            "rateLimitExceeded",
            "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute per user'",
            Scope::Operation,
        ),
        (
            "RATE_LIMIT_EXCEEDED",
            "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute'",
            Scope::Client,
        ),
        ("userRateLimitExceeded", "Rate Limit Exceeded", Scope::Operation),
        ("", "", Scope::Operation),
    ] {
        let body = json!({ "error": { "code": 429, "message": message, "errors": [{ "reason": reason }] } });
        let verdict = GoogleClassifier.classify(&operation::PROFILE, &answer(429, body.to_string()));
        assert!(matches!(verdict, Verdict::Throttled { scope: found, .. } if found == scope), "{reason} {message}");
    }
}

/// Gmail tells the end of a throttle as a moment in the message's text.
#[test]
fn a_moment_in_the_message_is_a_wait() {
    for (message, wait) in [
        ("User-rate limit exceeded.  Retry after 2026-01-01T00:15:00.000Z", Some(900)),
        ("User-rate limit exceeded.  Retry after 2026-01-01T00:15:00.000Z (Mail sending)", Some(900)),
        ("Retry after 2025-12-31T00:00:00Z", Some(0)),
        ("Retry after later", None),
        ("Retry after ", None),
        ("no", None),
    ] {
        let body =
            json!({ "error": { "code": 429, "message": message, "errors": [{ "reason": "rateLimitExceeded" }] } });
        assert_eq!(classify(&operation::PROFILE, &answer(429, body.to_string())).0, Said::Throttled(wait), "{message}");
    }
}

#[test]
fn tokens_endpoint_errors_are_told_by_their_code() {
    let (said, error) =
        classify(&operation::PROFILE, &answer(400, r#"{"error":"invalid_grant","error_description":"x"}"#));
    assert_eq!((said, error.unwrap().kind()), (NEVER, ErrorKind::Auth));
}

#[test]
fn what_is_not_googles_json_is_told_apart() {
    use ErrorKind as K;
    let deep = format!("{{\"error\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for (status, body, kind) in [
        (404, "<html>not here</html>", K::Config),
        (404, "", K::Config),
        (403, "<html>", K::Permission),
        (429, "<html>", K::Throttled),
        (502, "<html>Bad Gateway</html>", K::Provider),
        (400, deep.as_str(), K::Invalid),
        (302, "", K::Config),
        (407, "", K::Config),
        (418, "\u{0}\u{1}", K::Invalid),
        (401, "{}", K::Auth),
    ] {
        let (_, error) = classify(&operation::HISTORY_LIST, &answer(status, body.to_owned()));
        let error = error.unwrap();
        assert_eq!((error.kind(), error.code()), (kind, None), "{status} {body:.20}");
    }
    let long = body(403, "global", &"x".repeat(200));
    let (_, error) = classify(&operation::PROFILE, &answer(403, long));
    assert_eq!(error.unwrap().code(), Some("PERMISSION_DENIED"), "a reason no code of Google's is as long as");
}

/// Fails when a proxy's page with status 200 is taken for an answer.
#[test]
fn a_success_must_look_like_one() {
    for (operation, status, body, said) in [
        (&operation::PROFILE, 200, "{\"a\":1}", Said::Success),
        (&operation::PROFILE, 200, " \n{ } \n", Said::Success),
        (&operation::STOP, 204, "", Said::Success),
        (&operation::STOP, 200, "", Said::Success),
        (&operation::EVENTS_DELETE, 204, "", Said::Success),
        (&operation::PROFILE, 204, "", Said::Success),
        (&operation::PROFILE, 200, "", IF_SAFE),
        (&operation::PROFILE, 200, "<html>", IF_SAFE),
        (&operation::STOP, 200, "<html>", IF_SAFE),
        (&operation::PROFILE, 200, "{\"a\":", IF_SAFE),
        (&operation::PROFILE, 200, "[]", IF_SAFE),
    ] {
        assert_eq!(classify(operation, &answer(status, body)).0, said, "{} {status} {body:?}", operation.name);
    }
    let (_, cut) = classify(&operation::EVENTS_PATCH, &answer(200, "{\"a\":"));
    assert_eq!(cut.unwrap().outcome(), Outcome::Processed);
}

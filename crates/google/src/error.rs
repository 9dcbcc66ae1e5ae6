//! What Google's answers mean: status and reason to kind, outcome, repeat and user message. One table.
//!
//! Gmail and Calendar throttle with 403 as well as 429 and tell their reasons in the body; one status holds what passes
//! in a second, in a day, and never. Nothing of a body but short machine codes reaches an [`Error`]: Google's messages
//! name addresses and calendars.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use palisade_core::call::Scope;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome, Timestamp};
use serde_json::Value;

use crate::operation;
use crate::time::rfc3339;

/// Codes and parameters longer than this are not Google's.
const CODE_BYTES_MAX: usize = 100;
/// How long to leave a daily quota alone. Google does not say when it ends; it is renewed at midnight Pacific time.
const DAILY_WAIT: Duration = Duration::from_secs(3_600);

/// Reads Google's answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct GoogleClassifier;

/// The machine-readable part of a Google error. Holds codes only, never a message or a person's data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detail {
    /// The first reason (`userRateLimitExceeded`, `ACCESS_TOKEN_SCOPE_INSUFFICIENT`).
    pub reason: Option<String>,
    /// Its domain (`usageLimits`, `global`, `calendar`).
    pub domain: Option<String>,
    /// The canonical status (`PERMISSION_DENIED`), where there is one.
    pub status: Option<String>,
    /// The request's parameter that was found wrong.
    pub location: Option<String>,
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        write!(f, "google error reason {}, status {}", part(&self.reason), part(&self.status))?;
        if let Some(location) = &self.location {
            write!(f, ", parameter {location}")?;
        }
        Ok(())
    }
}

impl StdError for Detail {}

/// Returns Google's codes behind an error, where Google gave some.
#[must_use]
pub fn detail(error: &Error) -> Option<&Detail> {
    StdError::source(error)?.downcast_ref()
}

impl Classifier for GoogleClassifier {
    fn classify(&self, operation: &'static Operation, response: &http::Response<bytes::Bytes>) -> Verdict {
        if response.status().is_success() {
            return success(operation, response);
        }
        let body = Body::read(response.body());
        let said = message(response.body()).unwrap_or_default().to_ascii_lowercase();
        let (names_user, names_page) = (said.contains("user"), said.contains("pagetoken"));
        let answer =
            Answer { status: response.status(), operation, until: until(response), names_user, names_page, body };
        answer.verdict()
    }
}

/// A success must at least look like one JSON object, or be empty where Google answers 204: a proxy's page or a body
/// cut on its way is not an answer.
fn success(operation: &Operation, response: &http::Response<bytes::Bytes>) -> Verdict {
    let body = response.body().trim_ascii();
    if body.first() == Some(&b'{') && body.last() == Some(&b'}') {
        return Verdict::Success;
    }
    let no_content = response.status() == StatusCode::NO_CONTENT;
    let (message, outcome) = match body.first() {
        None if no_content || operation::may_be_empty(operation) => return Verdict::Success,
        Some(b'{') => ("the answer ends before its JSON does", Outcome::Processed),
        Some(_) => ("the answer is not Google's JSON: does a proxy answer in its place?", Outcome::Unknown),
        None => ("the answer is empty where Google sends JSON", Outcome::Unknown),
    };
    let error = Error::new(ErrorKind::Decode, message).with_status(response.status().as_u16()).with_outcome(outcome);
    Verdict::Failed { error, repeat: Repeat::IfSafe }
}

/// Reads the message, to look for words in it; it is kept nowhere.
fn message(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body.pointer("/error/message")?.as_str().map(str::to_owned)
}

/// Reads how long Gmail asks to wait: it writes a moment into the message of its 429 ("Retry after 2026-01-01T…Z"), to
/// be compared with the answer's own `Date`.
fn until(response: &http::Response<bytes::Bytes>) -> Option<Duration> {
    let message = message(response.body())?;
    let (_, rest) = message.split_once("Retry after ")?;
    let moment = rfc3339(rest.split([' ', '(', ')', ',']).next()?.trim_end_matches('.'))?;
    let date = header(response.headers(), "date").and_then(|date| httpdate::parse_http_date(date).ok())?;
    Some(moment.since(Timestamp::from(date)))
}

/// An unsuccessful answer, reduced to what the table decides by.
struct Answer {
    status: StatusCode,
    operation: &'static Operation,
    until: Option<Duration>,
    /// Whether the message speaks of a user: Gmail calls a user's limit `rateLimitExceeded` too ("User-rate limit
    /// exceeded", "… per minute per user"), and one user's must not hold up all the others.
    names_user: bool,
    /// Whether the message speaks of a token of a page: Gmail says so there only ("Invalid pageToken").
    names_page: bool,
    body: Body,
}

/// What the body of an unsuccessful answer is.
enum Body {
    /// `{"error": {"code": 403, "errors": [{"reason": …}], …}}`, as the APIs answer.
    Api(Detail),
    /// `{"error": "invalid_grant"}`, as the token endpoint answers.
    OAuth(String),
    /// Anything else: HTML, nothing, bytes that are not text, JSON nested too deep to be Google's.
    Other,
}

impl Body {
    fn read(body: &[u8]) -> Self {
        // serde_json stops at 128 levels, so a body that nests without end is refused here and not on the stack.
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return Self::Other };
        match value.get("error") {
            // Codes of RFC 6749 are words in lower case; what holds anything else may be somebody's data.
            Some(Value::String(code)) => {
                let word = code.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
                short(code).filter(|_| word).map_or(Self::Other, Self::OAuth)
            }
            Some(error @ Value::Object(_)) => {
                let text = |value: Option<&Value>| value.and_then(Value::as_str).and_then(short);
                let first = error.pointer("/errors/0");
                let informed = error.get("details").and_then(Value::as_array).into_iter().flatten();
                let info = informed.into_iter().find(|detail| detail.get("reason").is_some());
                Self::Api(Detail {
                    reason: text(first.and_then(|f| f.get("reason"))).or_else(|| text(info?.get("reason"))),
                    domain: text(first.and_then(|f| f.get("domain"))).or_else(|| text(info?.get("domain"))),
                    status: text(error.get("status")),
                    location: text(first.and_then(|f| f.get("location"))),
                })
            }
            _ => Self::Other,
        }
    }
}

/// One line of the table.
struct Row {
    kind: ErrorKind,
    message: &'static str,
    outcome: Outcome,
    repeat: Repeat,
    retryable: Option<bool>,
    user: Option<&'static str>,
    after: Option<Duration>,
    /// Whether the whole lane waits.
    pauses: bool,
    /// Which lane: the user's or the project's.
    scope: Scope,
}

impl Row {
    /// Google answered and did nothing; the answer is final.
    const fn refused(kind: ErrorKind, message: &'static str) -> Self {
        Self {
            kind,
            message,
            outcome: Outcome::Rejected,
            repeat: Repeat::Never,
            retryable: None,
            user: None,
            after: None,
            pauses: false,
            scope: Scope::Operation,
        }
    }

    /// Google may have acted.
    const fn ambiguous(kind: ErrorKind, message: &'static str) -> Self {
        Self { outcome: Outcome::Unknown, repeat: Repeat::IfSafe, ..Self::refused(kind, message) }
    }

    /// Google did nothing and asks to wait.
    const fn throttled(message: &'static str) -> Self {
        Self { repeat: Repeat::Always, pauses: true, ..Self::refused(ErrorKind::Throttled, message) }
    }

    const fn of(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    const fn telling(mut self, user: &'static str) -> Self {
        self.user = Some(user);
        self
    }

    const fn repeating(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    /// It passes, but not while a caller waits.
    const fn later(mut self, after: Duration) -> Self {
        self.retryable = Some(true);
        self.after = Some(after);
        self
    }
}

impl Answer {
    /// Returns the reason, else the canonical status.
    fn code(&self) -> &str {
        match &self.body {
            Body::Api(detail) => detail.reason.as_deref().or(detail.status.as_deref()).unwrap_or_default(),
            Body::OAuth(code) => code,
            Body::Other => "",
        }
    }

    /// The table. Reasons go before statuses, because Google uses 403 for nearly everything.
    fn row(&self) -> Row {
        use ErrorKind as K;
        match (self.status.as_u16(), self.code()) {
            (403 | 429, "rateLimitExceeded" | "RATE_LIMIT_EXCEEDED") if !self.names_user => {
                Row::throttled("too many requests of the whole project").of(Scope::Client)
            }
            (
                403 | 429,
                "rateLimitExceeded" | "userRateLimitExceeded" | "RATE_LIMIT_EXCEEDED" | "RESOURCE_EXHAUSTED",
            ) => Row::throttled("too many requests"),
            (403 | 429, "dailyLimitExceeded" | "quotaExceeded" | "calendarUsageLimitsExceeded" | "limitExceeded") => {
                Row::refused(K::Throttled, "a quota that lasts for hours is used up").later(DAILY_WAIT).telling(
                    "Google's limit for this account is reached for now. We go on as soon as Google lets us; there is \
                     nothing you need to do.",
                )
            }
            (429, _) => Row::throttled("too many requests"),
            // Also as 401 and 403: it is the address that is refused, and no token helps.
            (
                400 | 401 | 403,
                "push.webhookUrlNotHttps"
                | "push.webhookUrlUnauthorized"
                | "webhookUrlNotHttps"
                | "webhookUrlUnauthorized",
            ) => Row::refused(
                K::Config,
                "Google does not post to this address: it must be https, with a valid certificate, at a domain that is \
                 verified for the project",
            ),
            (403, code) => forbidden(code),
            (400 | 401, "invalid_grant" | "invalid_client" | "unauthorized_client") => {
                Row::refused(K::Auth, "the grant or client was refused")
            }
            (401, _) => Row::refused(K::Auth, "the access token was refused"),
            (400, "failedPrecondition" | "FAILED_PRECONDITION") => {
                Row::refused(K::Permission, "the account lacks the service, or the service account may not act for it")
                    .telling("This Google account has no access to this service. Please connect another account.")
            }
            (400, "channelIdNotUnique") => Row::refused(K::Conflict, "a channel of this id was opened before"),
            (400, _) if self.location() == "pageToken" || self.location() == "syncToken" || self.names_page => {
                Row::refused(K::CursorExpired, "the token to go on from is not valid any more")
            }
            (404, _) if self.is_of(&operation::HISTORY_LIST) && self.is_api() => {
                Row::refused(K::CursorExpired, "the history id is too old: a full sync is needed")
            }
            (404, _) if matches!(self.body, Body::Other) => {
                Row::refused(K::Config, "nothing like Google answers at this address: is the base URL right?")
            }
            (404, _) => Row::refused(K::NotFound, "no such object"),
            (409, "duplicate" | "alreadyExists" | "ALREADY_EXISTS") => {
                Row::refused(K::Conflict, "an object of this id exists already")
            }
            (409, _) => Row::refused(K::Conflict, "the request clashes with another one").repeating(Repeat::IfSafe),
            (410, "fullSyncRequired" | "updatedMinTooLongAgo") => {
                Row::refused(K::CursorExpired, "the sync token is too old: a full sync is needed")
            }
            (410, "deleted") => Row::refused(K::NotFound, "the object was deleted"),
            (410, _) if self.is_of(&operation::EVENTS_LIST) => {
                Row::refused(K::CursorExpired, "the sync token is too old: a full sync is needed")
            }
            (410, _) => Row::refused(K::NotFound, "the object is gone"),
            (412, _) => Row::refused(K::Conflict, "somebody else changed the object meanwhile")
                .telling("Someone else changed this at the same time. Please look at it again before changing it."),
            (413, _) | (400, "uploadTooLarge") => Row::refused(K::Invalid, "the message is larger than Google takes")
                .telling("This message is too large to be sent. Please remove an attachment and try again."),
            (407, _) => Row::refused(K::Config, "a proxy wants credentials of its own"),
            (408, _) => Row::ambiguous(K::Timeout, "the provider gave up waiting for the request"),
            (300..400, _) => Row::refused(K::Config, "the address answers with a redirect: is the base URL right?"),
            (400..500, _) => Row::refused(K::Invalid, "the request was found wrong"),
            _ => Row::ambiguous(K::Provider, "the provider failed"),
        }
    }

    fn location(&self) -> &str {
        match &self.body {
            Body::Api(detail) => detail.location.as_deref().unwrap_or_default(),
            Body::OAuth(_) | Body::Other => "",
        }
    }

    fn is_of(&self, operation: &Operation) -> bool {
        self.operation.name == operation.name
    }

    fn is_api(&self) -> bool {
        matches!(self.body, Body::Api(_))
    }

    fn verdict(self) -> Verdict {
        let row = self.row();
        let mut error = Error::new(row.kind, row.message).with_status(self.status.as_u16()).with_outcome(row.outcome);
        if let Some(retryable) = row.retryable {
            error = error.with_retryable(retryable);
        }
        if let Some(message) = row.user {
            error = error.with_user_message(message);
        }
        if row.after.is_some() {
            error = error.with_retry_after(row.after);
        }
        if !self.code().is_empty() {
            error = error.with_code(self.code().to_owned());
        }
        let unauthorized = self.status == StatusCode::UNAUTHORIZED && row.kind == ErrorKind::Auth;
        let until = self.until;
        if let Body::Api(detail) = self.body {
            error = error.with_source(detail);
        }
        if unauthorized {
            Verdict::Unauthorized(error)
        } else if row.pauses {
            Verdict::Throttled { error, after: until, scope: row.scope }
        } else {
            Verdict::Failed { error, repeat: row.repeat }
        }
    }
}

/// The 403s that are no limits.
fn forbidden(code: &str) -> Row {
    use ErrorKind as K;
    match code {
        "insufficientPermissions" | "ACCESS_TOKEN_SCOPE_INSUFFICIENT" | "insufficientScopes" => {
            Row::refused(K::Permission, "the grant lacks the scope for this").telling(
                "Google was not asked for this permission, or it was not given. Please reconnect the account and leave \
                 every box ticked.",
            )
        }
        "accessNotConfigured" | "SERVICE_DISABLED" => {
            Row::refused(K::Config, "the API is not switched on in the Google Cloud project: enable it there")
        }
        "dailyLimitExceededUnreg" | "keyInvalid" => {
            Row::refused(K::Config, "the request reached Google without a credential of the project")
        }
        "domainPolicy" => Row::refused(K::Permission, "the administrator of the domain has switched this off")
            .telling("Your organisation's administrator does not allow this app. Please ask them to allow it."),
        "forbiddenForNonOrganizer" => Row::refused(K::Permission, "only the organizer may change this")
            .telling("Only the organizer of this event can change it."),
        "requiredAccessLevel" | "forbidden" => Row::refused(K::Permission, "the account may not do this")
            .telling("The connected Google account is not allowed to do this. Please ask the owner for access."),
        "cannotChangeOrganizer" | "eventTypeRestriction" | "malformedWorkingLocationEvent" => {
            Row::refused(K::Invalid, "the event cannot be changed in this way")
        }
        _ => Row::refused(K::Permission, "the account may not do this"),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Takes a machine code: short, and made of the letters codes and parameter names are made of. Anything else is a
/// message or somebody's data and is left out.
pub(crate) fn short(text: &str) -> Option<String> {
    let fits = !text.is_empty()
        && text.len() <= CODE_BYTES_MAX
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.[]:/".contains(&c));
    fits.then(|| text.to_owned())
}

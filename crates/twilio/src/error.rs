//! What Twilio's answers mean: status and code to kind, outcome and repeat. One table of statuses, one of codes
//! ([`crate::code`]).
//!
//! Nothing of a body but the code reaches an [`Error`]: Twilio's own messages name phone numbers.

use std::error::Error as StdError;
use std::fmt;

use http::{HeaderMap, StatusCode};
use palisade_core::call::Scope;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use serde::Deserialize;

use crate::code::Advice;

/// Twilio's id of the request, for its support.
pub(crate) const REQUEST_ID: &str = "twilio-request-id";
/// Request ids longer than this are not Twilio's.
const REQUEST_ID_BYTES_MAX: usize = 100;

/// Twilio's refusals are shorter, and name the page that explains them.
const REFUSAL_BYTES_MAX: usize = 4 * 1024;
const MORE_INFO: &[u8] = b"\"more_info\"";

/// Reads Twilio's answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct TwilioClassifier;

/// The machine-readable part of a Twilio error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detail {
    /// Twilio's code (`21211`).
    pub code: u32,
}

impl Detail {
    /// Returns the page that explains the code.
    #[must_use]
    pub fn more(&self) -> String {
        format!("https://www.twilio.com/docs/errors/{}", self.code)
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "twilio error {}", self.code)
    }
}

impl StdError for Detail {}

/// Returns Twilio's code behind an error, where Twilio gave one.
#[must_use]
pub fn detail(error: &Error) -> Option<Detail> {
    StdError::source(error)?.downcast_ref().copied()
}

/// Returns what the code behind an error means, where this crate knows it.
#[must_use]
pub fn advice(error: &Error) -> Option<&'static Advice> {
    Advice::of(error.code()?.parse().ok()?)
}

/// Makes the error of a message that is refused before it leaves, with the code Twilio would have refused it with.
pub(crate) fn refusal(code: u32) -> Error {
    let advice = Advice::of(code);
    let reason = advice.map_or("the message cannot be sent", |advice| advice.reason);
    let error = Error::new(ErrorKind::Invalid, reason)
        .with_code(code.to_string())
        .with_source(Detail { code })
        .during("twilio", "messages.create");
    match advice {
        Some(advice) => error.with_user_message(advice.message),
        None => error,
    }
}

impl Classifier for TwilioClassifier {
    fn classify(&self, _operation: &'static Operation, response: &http::Response<bytes::Bytes>) -> Verdict {
        let status = response.status();
        let request_id = request_id(response.headers());
        if status.is_success() {
            return match unreadable(response).or_else(|| contradicted(response)) {
                None => Verdict::Success,
                Some(error) => Verdict::Failed { error: named(error, request_id), repeat: Repeat::IfSafe },
            };
        }
        let body: Option<Body> = serde_json::from_slice(response.body()).ok();
        Answer { status, body: body.filter(|body| body.code.is_some() || body.status.is_some()) }.verdict(request_id)
    }
}

pub(crate) fn request_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(REQUEST_ID)?.to_str().ok()?;
    let fits = !text.is_empty()
        && text.len() <= REQUEST_ID_BYTES_MAX
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c));
    fits.then(|| text.to_owned())
}

fn named(error: Error, request_id: Option<String>) -> Error {
    match request_id {
        Some(id) => error.with_request_id(id),
        None => error,
    }
}

/// Finds fault with a success that is no JSON object: a proxy's page, or a body cut on its way. A deletion has none.
fn unreadable(response: &http::Response<bytes::Bytes>) -> Option<Error> {
    let body = response.body().trim_ascii();
    let whole = body.first() == Some(&b'{') && body.last() == Some(&b'}');
    if whole || (response.status() == StatusCode::NO_CONTENT && body.is_empty()) {
        return None;
    }
    let (message, outcome) = match body.first() {
        Some(b'{') => ("the answer ends before its JSON does", Outcome::Processed),
        Some(_) => ("the answer is not Twilio's JSON: does a proxy answer in its place?", Outcome::Unknown),
        None => ("the answer is empty where Twilio sends JSON", Outcome::Unknown),
    };
    Some(Error::new(ErrorKind::Decode, message).with_status(response.status().as_u16()).with_outcome(outcome))
}

/// Finds a refusal under the status of a success, as a gateway in between may send it. Which of the two is true cannot
/// be told.
fn contradicted(response: &http::Response<bytes::Bytes>) -> Option<Error> {
    let body = response.body();
    if body.len() > REFUSAL_BYTES_MAX || !body.windows(MORE_INFO.len()).any(|part| part == MORE_INFO) {
        return None;
    }
    let refusal: Body = serde_json::from_slice(body).ok()?;
    let code = refusal.code.filter(|_| refusal.status.is_some_and(|status| status >= 400))?;
    let error = Error::new(ErrorKind::Provider, "a refusal came with the status of a success")
        .with_status(response.status().as_u16())
        .with_outcome(Outcome::Unknown)
        .with_code(code.to_string())
        .with_source(Detail { code });
    Some(error)
}

/// The body of an unsuccessful answer; its texts are not read.
#[derive(Deserialize)]
struct Body {
    code: Option<u32>,
    status: Option<u32>,
}

/// An unsuccessful answer, reduced to what the table decides by.
struct Answer {
    status: StatusCode,
    /// `None`: not Twilio's.
    body: Option<Body>,
}

/// What the table says.
struct Row {
    kind: ErrorKind,
    message: &'static str,
    outcome: Outcome,
    repeat: Repeat,
    retryable: Option<bool>,
}

impl Row {
    fn refused(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, message, outcome: Outcome::Rejected, repeat: Repeat::Never, retryable: None }
    }

    fn ambiguous(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, message, outcome: Outcome::Unknown, repeat: Repeat::IfSafe, retryable: None }
    }
}

impl Answer {
    fn row(&self, advice: Option<&Advice>) -> Row {
        use ErrorKind as K;
        let code = advice.map_or(0, |advice| advice.code);
        match self.status.as_u16() {
            // Ten hours of messages wait for this sender, or one number was written to too often: waiting seconds
            // cannot help, and pausing the lane would stop calls that are fine.
            _ if matches!(code, 14107 | 21611) => {
                let reason = advice.map_or("", |advice| advice.reason);
                Row { retryable: Some(true), ..Row::refused(K::Throttled, reason) }
            }
            // A 429 was never processed (Twilio, error 20429), so anything may be sent again.
            429 => Row { repeat: Repeat::Always, ..Row::refused(K::Throttled, "too many requests at once") },
            401 => Row::refused(K::Auth, "the credential was refused"),
            408 => Row::ambiguous(K::Timeout, "the provider gave up waiting for the request"),
            500.. => Row::ambiguous(K::Provider, "the provider failed"),
            status => match (advice, status) {
                // 20003 on a 403 is a good credential that lacks the right.
                (Some(advice), 403) if advice.kind == K::Auth => {
                    Row::refused(K::Permission, "the credential may not do this")
                }
                (Some(advice), _) => Row::refused(advice.kind, advice.reason),
                (None, 403) => Row::refused(K::Permission, "the credential may not do this"),
                (None, 404) if self.body.is_none() => {
                    Row::refused(K::Config, "nothing like Twilio answers at this address: is the base URL right?")
                }
                (None, 404) => Row::refused(K::NotFound, "no such resource"),
                (None, 407) => Row::refused(K::Config, "a proxy wants credentials of its own"),
                (None, 409) => Row::refused(K::Conflict, "the request clashes with another one"),
                (None, 300..400) => {
                    Row::refused(K::Config, "the address answers with a redirect: is the base URL right?")
                }
                (None, _) => Row::refused(K::Invalid, "the request was found wrong"),
            },
        }
    }

    fn verdict(self, request_id: Option<String>) -> Verdict {
        let code = self.body.as_ref().and_then(|body| body.code);
        let advice = code.and_then(Advice::of);
        let row = self.row(advice);
        let mut error = named(Error::new(row.kind, row.message), request_id)
            .with_status(self.status.as_u16())
            .with_outcome(row.outcome);
        if let Some(retryable) = row.retryable {
            error = error.with_retryable(retryable);
        }
        if let Some(code) = code {
            error = error.with_code(code.to_string()).with_source(Detail { code });
        }
        // An ambiguous failure keeps the general text: it says to check before trying again.
        if let (Some(advice), Outcome::Rejected) = (advice, row.outcome) {
            error = error.with_user_message(advice.message);
        }
        match (row.kind, row.repeat) {
            (ErrorKind::Auth, _) if self.status == StatusCode::UNAUTHORIZED => Verdict::Unauthorized(error),
            (ErrorKind::Throttled, Repeat::Always) => Verdict::Throttled { error, after: None, scope: Scope::Account },
            (_, repeat) => Verdict::Failed { error, repeat },
        }
    }
}

//! What SendGrid's answers mean: status, field and message to kind, outcome and repeat. One table.
//!
//! SendGrid has no error codes, only sentences. The few that mean more than their status are known here by a piece of
//! them; nothing of a sentence itself reaches an [`Error`], because they quote addresses. The field does.

use std::error::Error as StdError;
use std::fmt;

use http::StatusCode;
use palisade_core::call::Scope;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use serde::Deserialize;

/// Fields longer than this are not SendGrid's.
const FIELD_BYTES_MAX: usize = 100;
/// The most errors of one answer that are looked at.
const ERRORS_MAX: usize = 20;

/// How a list of errors begins.
const ERRORS: &[u8] = b"{\"errors\"";

/// Reads SendGrid's answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendGridClassifier;

/// The machine-readable part of a SendGrid error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detail {
    /// The request's field that was found wrong (`personalizations.0.to.0.email`), of the first error.
    pub field: Option<String>,
    /// How many errors the answer listed.
    pub count: usize,
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sendgrid errors, the first in field {}", self.count, self.field.as_deref().unwrap_or("-"))
    }
}

impl StdError for Detail {}

/// Returns the field behind an error, where SendGrid named one.
#[must_use]
pub fn detail(error: &Error) -> Option<&Detail> {
    StdError::source(error)?.downcast_ref()
}

/// A sentence of SendGrid's that means more than its status.
struct Known {
    /// A piece of the sentence, in lower case.
    piece: &'static str,
    code: &'static str,
    kind: ErrorKind,
    reason: &'static str,
    message: &'static str,
}

/// Asked in order. Sources: SendGrid's documentation of errors and its SDKs' issues, read 2026-11.
static KNOWN: &[Known] = &[
    Known {
        piece: "maximum credits exceeded",
        code: "credits_exceeded",
        kind: ErrorKind::Permission,
        reason: "the plan's mails are used up",
        message: "This account has used up its e-mails. Please wait for the next period or raise the plan.",
    },
    Known {
        piece: "verified sender identity",
        code: "sender_unverified",
        kind: ErrorKind::Permission,
        reason: "the sender's address is not verified",
        message: "E-mails cannot be sent from this address yet. Please verify it at the e-mail service first.",
    },
    Known {
        piece: "does not contain a valid address",
        code: "address_invalid",
        kind: ErrorKind::Invalid,
        reason: "an address is not valid",
        message: "One of the e-mail addresses is not valid. Please check it and try again.",
    },
    Known {
        piece: "should be unique between to, cc, and bcc",
        code: "address_repeated",
        kind: ErrorKind::Invalid,
        reason: "an address stands more than once among the recipients of one mail",
        message: "Someone stands more than once among the recipients. Please enter each address once.",
    },
    Known {
        piece: "template",
        code: "template_invalid",
        kind: ErrorKind::Invalid,
        reason: "the template does not exist or cannot be used",
        message: "This e-mail template cannot be used. Please choose another one.",
    },
    Known {
        piece: "attachment",
        code: "attachment_invalid",
        kind: ErrorKind::Invalid,
        reason: "an attachment is not valid",
        message: "An attachment cannot be sent. Please attach it again.",
    },
];

impl Classifier for SendGridClassifier {
    fn classify(&self, _operation: &'static Operation, response: &http::Response<bytes::Bytes>) -> Verdict {
        let status = response.status();
        if status.is_success() {
            return match unreadable(response).or_else(|| contradicted(response)) {
                None => Verdict::Success,
                Some(error) => Verdict::Failed { error, repeat: Repeat::IfSafe },
            };
        }
        Answer { status, errors: Errors::read(response.body()) }.verdict()
    }
}

/// Finds fault with a success that is neither empty nor JSON: a proxy's page, or a body cut on its way. Sending and
/// deleting are answered without a body.
fn unreadable(response: &http::Response<bytes::Bytes>) -> Option<Error> {
    let body = response.body().trim_ascii();
    let whole = matches!((body.first(), body.last()), (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')));
    let empty = body.is_empty() && matches!(response.status().as_u16(), 200 | 202 | 204);
    if whole || empty {
        return None;
    }
    let (message, outcome) = match body.first() {
        Some(b'{' | b'[') => ("the answer ends before its JSON does", Outcome::Processed),
        Some(_) => ("the answer is not SendGrid's JSON: does a proxy answer in its place?", Outcome::Unknown),
        None => ("the answer is empty where SendGrid sends JSON", Outcome::Unknown),
    };
    Some(Error::new(ErrorKind::Decode, message).with_status(response.status().as_u16()).with_outcome(outcome))
}

/// Finds errors under the status of a success, as a gateway in between may send them. Which of the two is true cannot be
/// told.
fn contradicted(response: &http::Response<bytes::Bytes>) -> Option<Error> {
    let body = response.body().trim_ascii();
    let errors = Some(body).filter(|body| body.starts_with(ERRORS)).and_then(Errors::read)?;
    let error = Error::new(ErrorKind::Provider, "errors came with the status of a success")
        .with_status(response.status().as_u16())
        .with_outcome(Outcome::Unknown)
        .with_source(errors.detail());
    Some(error)
}

/// The body of an unsuccessful answer.
#[derive(Deserialize)]
struct Errors {
    errors: Vec<One>,
}

#[derive(Deserialize)]
struct One {
    message: Option<String>,
    field: Option<String>,
}

impl Errors {
    fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok().filter(|read: &Self| !read.errors.is_empty())
    }

    fn known(&self) -> Option<&'static Known> {
        let texts = self.errors.iter().take(ERRORS_MAX).filter_map(|one| one.message.as_deref());
        let texts: Vec<String> = texts.map(str::to_ascii_lowercase).collect();
        KNOWN.iter().find(|known| texts.iter().any(|text| text.contains(known.piece)))
    }

    fn detail(&self) -> Detail {
        let field = self.errors.iter().find_map(|one| one.field.as_deref()).and_then(short);
        Detail { field: field.filter(|field| field != "null"), count: self.errors.len() }
    }
}

/// Takes a field's path: short, and made of the letters those are made of.
fn short(text: &str) -> Option<String> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"_.[]-".contains(&c);
    let fits = !text.is_empty() && text.len() <= FIELD_BYTES_MAX && text.bytes().all(plain);
    fits.then(|| text.to_owned())
}

/// An unsuccessful answer, reduced to what the table decides by.
struct Answer {
    status: StatusCode,
    /// `None`: not SendGrid's.
    errors: Option<Errors>,
}

/// What the table says.
struct Row {
    kind: ErrorKind,
    reason: &'static str,
    outcome: Outcome,
    repeat: Repeat,
}

impl Row {
    fn refused(kind: ErrorKind, reason: &'static str) -> Self {
        Self { kind, reason, outcome: Outcome::Rejected, repeat: Repeat::Never }
    }

    fn ambiguous(kind: ErrorKind, reason: &'static str) -> Self {
        Self { kind, reason, outcome: Outcome::Unknown, repeat: Repeat::IfSafe }
    }
}

impl Answer {
    fn row(&self, known: Option<&Known>) -> Row {
        use ErrorKind as K;
        match self.status.as_u16() {
            429 => Row { repeat: Repeat::Always, ..Row::refused(K::Throttled, "too many requests") },
            408 => Row::ambiguous(K::Timeout, "the provider gave up waiting for the request"),
            500.. => Row::ambiguous(K::Provider, "the provider failed"),
            // Also on a 401: a plan that is used up is no wrong key (sendgrid-nodejs #1032).
            status => match (known, status) {
                (Some(known), _) => Row::refused(known.kind, known.reason),
                (None, 401) => Row::refused(K::Auth, "the key was refused"),
                (None, 403) => Row::refused(K::Permission, "the key lacks the scope for this"),
                (None, 404 | 405) if self.errors.is_none() => {
                    Row::refused(K::Config, "nothing like SendGrid answers at this address: is the base URL right?")
                }
                (None, 404) => Row::refused(K::NotFound, "no such object"),
                (None, 407) => Row::refused(K::Config, "a proxy wants credentials of its own"),
                (None, 409) => Row::refused(K::Conflict, "the request clashes with another one"),
                (None, 413) => Row::refused(K::Invalid, "the mail is larger than 30 MB"),
                (None, 300..=399) => {
                    Row::refused(K::Config, "the address answers with a redirect: is the base URL right?")
                }
                (None, _) => Row::refused(K::Invalid, "the request was found wrong"),
            },
        }
    }

    fn verdict(self) -> Verdict {
        let known = self.errors.as_ref().and_then(Errors::known);
        let row = self.row(known);
        let mut error = Error::new(row.kind, row.reason).with_status(self.status.as_u16()).with_outcome(row.outcome);
        let refused = row.outcome == Outcome::Rejected;
        match known.filter(|_| refused && row.kind != ErrorKind::Throttled) {
            Some(known) => error = error.with_code(known.code).with_user_message(known.message),
            None if self.status == StatusCode::PAYLOAD_TOO_LARGE => {
                error = error.with_code("too_large").with_user_message(TOO_LARGE);
            }
            None => {}
        }
        if let Some(errors) = &self.errors {
            error = error.with_source(errors.detail());
        }
        match (row.kind, row.repeat) {
            (ErrorKind::Auth, _) => Verdict::Unauthorized(error),
            (ErrorKind::Throttled, _) => Verdict::Throttled { error, after: None, scope: Scope::Operation },
            (_, repeat) => Verdict::Failed { error, repeat },
        }
    }
}

/// What a person is told of a mail that is too large.
pub(crate) const TOO_LARGE: &str =
    "The e-mail is too large: 30 MB with all attachments are the most. Please remove some.";

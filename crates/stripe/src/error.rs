//! What Stripe's answers mean: status, error type and code, and two headers, to kind, outcome and repeat. One table.
//!
//! Nothing of a body but short machine codes reaches an [`Error`]: Stripe's own messages name e-mail addresses, card
//! endings and ids. The codes stay reachable as [`Detail`], the advice for a declined card as [`Decline`].

use std::error::Error as StdError;
use std::fmt;

use http::{HeaderMap, StatusCode};
use palisade_core::call::Scope;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use serde_json::Value;

use crate::decline::Decline;

/// Stripe's word on repeating; it goes before every other rule (stripe-node, stripe-python).
const SHOULD_RETRY: &str = "stripe-should-retry";
/// Why a 429 was given; absent on lock contention.
const LIMITED_REASON: &str = "stripe-rate-limited-reason";
/// Set when the answer is the stored one of the same idempotency key.
const REPLAYED: &str = "idempotent-replayed";
/// Stripe's id of the request, for its support.
pub(crate) const REQUEST_ID: &str = "request-id";
/// Codes, parameters and ids longer than this are not Stripe's.
const CODE_BYTES_MAX: usize = 100;

/// Reads Stripe's answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct StripeClassifier;

/// The machine-readable part of a Stripe error. Holds codes and ids only, never a message or a customer's data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detail {
    /// `card_error`, `invalid_request_error`, `idempotency_error`, `api_error` or one yet unknown.
    pub kind: Option<String>,
    /// Stripe's code (`card_declined`, `resource_missing`).
    pub code: Option<String>,
    /// The bank's reason (`insufficient_funds`). For engineers only: never show it to the card's holder.
    pub decline_code: Option<String>,
    /// The card network's advice: `confirm_card_data`, `do_not_try_again` or `try_again_later`.
    pub advice_code: Option<String>,
    /// The request's parameter that was found wrong.
    pub param: Option<String>,
    /// The charge that failed, to look it up.
    pub charge: Option<String>,
    /// The payment intent that failed, to confirm it again with another card or with the customer present.
    pub payment_intent: Option<String>,
    /// The setup intent that failed.
    pub setup_intent: Option<String>,
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        write!(f, "stripe error type {}, code {}", part(&self.kind), part(&self.code))?;
        if let Some(param) = &self.param {
            write!(f, ", parameter {param}")?;
        }
        Ok(())
    }
}

impl StdError for Detail {}

/// Returns Stripe's codes behind an error, where Stripe gave some.
#[must_use]
pub fn detail(error: &Error) -> Option<&Detail> {
    StdError::source(error)?.downcast_ref()
}

/// Returns what to tell the customer and whether another try makes sense, for a declined payment.
#[must_use]
pub fn advice(error: &Error) -> Option<Decline> {
    if error.kind() != ErrorKind::Declined {
        return None;
    }
    let detail = detail(error);
    let code = detail.and_then(|d| d.decline_code.as_deref().or(d.code.as_deref())).or(error.code());
    Some(Decline::of(code.unwrap_or_default(), detail.and_then(|d| d.advice_code.as_deref())))
}

impl Classifier for StripeClassifier {
    fn classify(&self, _operation: &'static Operation, response: &http::Response<bytes::Bytes>) -> Verdict {
        let headers = response.headers();
        if response.status().is_success() {
            return success(response);
        }
        let answer = Answer {
            status: response.status(),
            said: word(headers, SHOULD_RETRY),
            reason: header(headers, LIMITED_REASON),
            replayed: word(headers, REPLAYED) == Some(true),
            body: Body::read(response.body()),
        };
        let request_id = header(headers, REQUEST_ID).and_then(short);
        answer.verdict(request_id)
    }
}

/// A success must at least look like one JSON object: a proxy's page or a body cut on its way is not an answer.
fn success(response: &http::Response<bytes::Bytes>) -> Verdict {
    let body = response.body().trim_ascii();
    if body.first() == Some(&b'{') && body.last() == Some(&b'}') {
        return Verdict::Success;
    }
    let (message, outcome) = match body.first() {
        Some(b'{') => ("the answer ends before its JSON does", Outcome::Processed),
        Some(_) => ("the answer is not Stripe's JSON: does a proxy answer in its place?", Outcome::Unknown),
        None => ("the answer is empty where Stripe sends JSON", Outcome::Unknown),
    };
    let mut error =
        Error::new(ErrorKind::Decode, message).with_status(response.status().as_u16()).with_outcome(outcome);
    if let Some(id) = header(response.headers(), REQUEST_ID).and_then(short) {
        error = error.with_request_id(id);
    }
    Verdict::Failed { error, repeat: Repeat::IfSafe }
}

/// An unsuccessful answer, reduced to what the table decides by.
struct Answer<'a> {
    status: StatusCode,
    said: Option<bool>,
    reason: Option<&'a str>,
    replayed: bool,
    body: Body,
}

/// What the body of an unsuccessful answer is.
enum Body {
    /// `{"error": {…}}`, as v1 and v2 answer.
    Api(Detail),
    /// `{"error": "invalid_grant"}`, as the Connect token endpoint answers.
    OAuth(String),
    /// Anything else: HTML, nothing, bytes that are not text, JSON nested too deep to be Stripe's.
    Other,
}

impl Body {
    fn read(body: &[u8]) -> Self {
        // serde_json stops at 128 levels, so a body that nests without end is refused here and not on the stack.
        let Ok(value) = serde_json::from_slice::<Value>(body) else { return Self::Other };
        match value.get("error") {
            Some(Value::String(code)) => short(code).map_or(Self::Other, Self::OAuth),
            Some(error @ Value::Object(_)) => {
                let text = |name: &str| error.get(name).and_then(Value::as_str).and_then(short);
                let id = |name: &str| match error.get(name) {
                    Some(Value::Object(object)) => object.get("id").and_then(Value::as_str).and_then(short),
                    Some(Value::String(id)) => short(id),
                    _ => None,
                };
                Self::Api(Detail {
                    kind: text("type"),
                    code: text("code"),
                    decline_code: text("decline_code"),
                    advice_code: text("advice_code"),
                    param: text("param"),
                    charge: id("charge"),
                    payment_intent: id("payment_intent"),
                    setup_intent: id("setup_intent"),
                })
            }
            _ => Self::Other,
        }
    }
}

/// One line of the table, before Stripe's own word on repeating is applied.
struct Row {
    kind: ErrorKind,
    message: &'static str,
    outcome: Outcome,
    repeat: Repeat,
    retryable: Option<bool>,
}

impl Row {
    /// Stripe answered and did nothing; the answer is final.
    const fn refused(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, message, outcome: Outcome::Rejected, repeat: Repeat::Never, retryable: None }
    }

    /// Stripe may have acted.
    const fn ambiguous(kind: ErrorKind, message: &'static str) -> Self {
        Self { kind, message, outcome: Outcome::Unknown, repeat: Repeat::IfSafe, retryable: None }
    }

    const fn repeating(mut self, repeat: Repeat) -> Self {
        self.repeat = repeat;
        self
    }

    const fn retryable(mut self) -> Self {
        self.retryable = Some(true);
        self
    }
}

impl Answer<'_> {
    fn code(&self) -> &str {
        match &self.body {
            Body::Api(detail) => detail.code.as_deref().unwrap_or_default(),
            Body::OAuth(code) => code,
            Body::Other => "",
        }
    }

    fn kind(&self) -> &str {
        match &self.body {
            Body::Api(detail) => detail.kind.as_deref().unwrap_or_default(),
            Body::OAuth(_) | Body::Other => "",
        }
    }

    fn param(&self) -> &str {
        match &self.body {
            Body::Api(detail) => detail.param.as_deref().unwrap_or_default(),
            Body::OAuth(_) | Body::Other => "",
        }
    }

    /// The table. Codes go before statuses, because Stripe uses 400 for several things.
    fn row(&self) -> Row {
        use ErrorKind as K;
        match (self.status.as_u16(), self.kind(), self.code()) {
            (_, "card_error", _) => Row::refused(K::Declined, "the payment was declined"),
            (_, "idempotency_error", _) => {
                Row::refused(K::Invalid, "the idempotency key was already used with other parameters")
            }
            (409, _, "idempotency_key_in_use") => {
                Row::ambiguous(K::Conflict, "a request with the same idempotency key is still running").retryable()
            }
            (_, _, "lock_timeout") => {
                Row::refused(K::Conflict, "another request holds the object").repeating(Repeat::Always).retryable()
            }
            (429, ..) | (400, _, "rate_limit") => self.throttled(),
            (400 | 404, _, "resource_missing") if matches!(self.param(), "ending_before" | "starting_after") => {
                Row::refused(K::CursorExpired, "the object a list was to go on from is gone")
            }
            (403, _, "account_invalid") => {
                Row::refused(K::Auth, "the account does not exist or has revoked the platform's access")
            }
            (400 | 401, _, "invalid_grant" | "invalid_client") => {
                Row::refused(K::Auth, "the grant or client was refused")
            }
            (401, ..) => Row::refused(K::Auth, "the key was refused"),
            (403, ..) => Row::refused(K::Permission, "the key lacks the permission for this"),
            (404, _, "resource_missing" | "not_found") => Row::refused(K::NotFound, "no such object"),
            (404, ..) if matches!(self.body, Body::Other) => {
                Row::refused(K::Config, "nothing like Stripe answers at this address: is the base URL right?")
            }
            (408, ..) => Row::ambiguous(K::Timeout, "the provider gave up waiting for the request"),
            (409, ..) => Row::refused(K::Conflict, "the request clashes with another one").repeating(Repeat::IfSafe),
            (424, ..) => Row::ambiguous(K::Provider, "a service the provider depends on failed"),
            (407, ..) => Row::refused(K::Config, "a proxy wants credentials of its own"),
            (300..400, ..) => Row::refused(K::Config, "the address answers with a redirect: is the base URL right?"),
            (400..500, ..) => Row::refused(K::Invalid, "the request was found wrong"),
            // The stored answer of this key: the same request gives the same failure for a day.
            (500.., ..) if self.replayed => {
                Row::ambiguous(K::Provider, "the provider failed and keeps that answer for this idempotency key")
                    .repeating(Repeat::Never)
            }
            _ => Row::ambiguous(K::Provider, "the provider failed"),
        }
    }

    fn throttled(&self) -> Row {
        let row = Row::refused(ErrorKind::Throttled, "too many requests").repeating(Repeat::Always);
        // One object's own limit (invoices of a subscription per minute): waiting seconds cannot help, and pausing
        // the lane would stop calls that are fine.
        let own = self.reason == Some("resource-specific");
        if own { row.repeating(Repeat::Never).retryable() } else { row }
    }

    fn verdict(self, request_id: Option<String>) -> Verdict {
        let mut row = self.row();
        match self.said {
            Some(false) => row.repeat = Repeat::Never,
            Some(true) if row.repeat == Repeat::Never => row.repeat = Repeat::IfSafe,
            Some(true) | None => {}
        }
        let mut error = Error::new(row.kind, row.message).with_status(self.status.as_u16()).with_outcome(row.outcome);
        if let Some(retryable) = row.retryable {
            error = error.with_retryable(retryable);
        }
        if let Some(id) = request_id {
            error = error.with_request_id(id);
        }
        let code = if self.code().is_empty() { self.kind() } else { self.code() };
        if !code.is_empty() {
            error = error.with_code(code.to_owned());
        }
        let unauthorized = self.status == StatusCode::UNAUTHORIZED;
        let scope = match self.reason {
            Some("global-rate" | "global-concurrency") => Scope::Account,
            _ => Scope::Operation,
        };
        let pauses = row.kind == ErrorKind::Throttled && row.repeat == Repeat::Always;
        if let Body::Api(detail) = self.body {
            error = error.with_source(detail);
        }
        if let Some(decline) = advice(&error) {
            error = error.with_user_message(decline.message);
        }
        if unauthorized && row.kind == ErrorKind::Auth {
            Verdict::Unauthorized(error)
        } else if pauses {
            Verdict::Throttled { error, after: None, scope }
        } else {
            Verdict::Failed { error, repeat: row.repeat }
        }
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn word(headers: &HeaderMap, name: &str) -> Option<bool> {
    match header(headers, name)? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Takes a machine code: short, and made of the letters codes, ids and parameter names are made of. Anything else
/// is a message or somebody's data and is left out.
pub(crate) fn short(text: &str) -> Option<String> {
    let fits = !text.is_empty()
        && text.len() <= CODE_BYTES_MAX
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.[]:/".contains(&c));
    fits.then(|| text.to_owned())
}

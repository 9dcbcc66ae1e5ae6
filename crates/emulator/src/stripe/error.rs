//! What Stripe answers when it refuses: status and error object, as one value.

use serde_json::{Map, Value, json};

/// A refusal in Stripe's own form, also given by the story methods when the provider would have refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// HTTP status: 400, 401, 402, 403, 404, 409, 429 or 5xx.
    pub status: u16,
    /// The `error` object of the body (`type`, `code`, `message`, `param`, …).
    pub error: Value,
    /// Whether the operation had begun when it failed; only then is the answer kept for its idempotency key.
    pub(crate) began: bool,
}

impl Failure {
    /// Makes a refusal of the given status and type.
    pub(crate) fn new(status: u16, kind: &str, message: impl Into<String>) -> Self {
        Self { status, error: json!({ "type": kind, "message": message.into() }), began: false }
    }

    /// Makes a 400 `invalid_request_error`.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message)
    }

    /// Makes the answer for an object that does not exist: 404 when the path names it, 400 when a parameter does.
    pub(crate) fn missing(status: u16, noun: &str, id: &str, param: &str) -> Self {
        Self::new(status, "invalid_request_error", format!("No such {noun}: '{id}'"))
            .code("resource_missing")
            .param(param)
    }

    /// Makes the answer for an address nobody serves.
    pub(crate) fn unknown_url(method: &str, path: &str) -> Self {
        Self::new(
            404,
            "invalid_request_error",
            format!(
                "Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at https://support.stripe.com/."
            ),
        )
    }

    /// Makes the answer for a parameter that must be there.
    pub(crate) fn required(param: &str) -> Self {
        Self::invalid(format!("Missing required param: {param}.")).code("parameter_missing").param(param)
    }

    /// Sets `code` and the matching `doc_url`.
    pub(crate) fn code(self, code: &str) -> Self {
        let url = format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-"));
        self.with("code", code).with("doc_url", url)
    }

    /// Sets `param`.
    pub(crate) fn param(self, param: &str) -> Self {
        self.with("param", param)
    }

    /// Sets any field of the error object.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Value::Object(map) = &mut self.error {
            map.insert(name.to_owned(), value.into());
        }
        self
    }

    /// Marks that execution had begun, so that the answer is replayed for its key.
    pub(crate) fn begun(mut self) -> Self {
        self.began = true;
        self
    }

    /// Gives the whole response body.
    pub(crate) fn body(&self) -> Value {
        if self.error.get("error_description").is_some() {
            return self.error.clone(); // OAuth's errors are flat.
        }
        let mut map = Map::new();
        map.insert("error".to_owned(), self.error.clone());
        Value::Object(map)
    }

    /// Gives one text field of the error object, or an empty text.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        self.error.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stripe answered {} {} {}", self.status, self.field("type"), self.field("code"))
    }
}

impl std::error::Error for Failure {}

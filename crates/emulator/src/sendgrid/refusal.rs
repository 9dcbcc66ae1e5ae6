//! What SendGrid answers when it refuses: a status and a list of errors without codes.

use bytes::Bytes;
use http::Response;
use serde_json::json;

use crate::gate;

/// A refusal in SendGrid's own form, also given by the story methods when the provider would have refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// SendGrid's sentence.
    pub message: String,
    /// The field that was found wrong.
    pub field: Option<String>,
}

impl Refusal {
    pub(crate) fn new(status: u16, message: &str) -> Self {
        Self { status, message: message.to_owned(), field: None }
    }

    pub(crate) fn field(field: &str, message: &str) -> Self {
        Self { field: Some(field.to_owned()), ..Self::new(400, message) }
    }

    pub(crate) fn response(&self) -> Response<Bytes> {
        let error = json!({ "message": self.message, "field": self.field, "help": null });
        gate::json(self.status, &json!({ "errors": [error] }))
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sendgrid answered {}", self.status)
    }
}

impl std::error::Error for Refusal {}

//! What Twilio answers when it refuses: status and code.

use bytes::Bytes;
use http::Response;
use serde_json::json;

use crate::gate;

/// A refusal in Twilio's own form, also given by the story methods when the provider would have refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Twilio's code.
    pub code: u32,
    /// Twilio's sentence.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(status: u16, code: u32, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(crate) fn invalid(code: u32, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    pub(crate) fn missing(path: &str) -> Self {
        Self::new(404, 20404, format!("The requested resource {path} was not found"))
    }

    pub(crate) fn response(&self) -> Response<Bytes> {
        let body = json!({
            "code": self.code, "message": self.message, "status": self.status,
            "more_info": format!("https://www.twilio.com/docs/errors/{}", self.code),
        });
        gate::json(self.status, &body)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "twilio answered {} code {}", self.status, self.code)
    }
}

impl std::error::Error for Refusal {}

//! What Google's APIs answer when they refuse: status, canonical name, reason, and where it is wrong.

use bytes::Bytes;
use http::{HeaderValue, Response};
use serde_json::json;

use crate::gate;

/// A refusal in the form of Google's APIs, also given by the story methods when the provider would have refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The reason (`notFound`, `fullSyncRequired`).
    pub reason: String,
    /// Google's sentence.
    pub message: String,
    domain: &'static str,
    /// Where it is wrong: kind and name (`parameter`, `syncToken`).
    location: Option<(&'static str, &'static str)>,
    /// The reason in a detail of the newer form.
    detail: Option<&'static str>,
    /// Whether it is in Calendar's older form, without a canonical status.
    older: bool,
}

impl Refusal {
    pub(crate) fn new(status: u16, reason: &str, message: impl Into<String>) -> Self {
        let (reason, message) = (reason.to_owned(), message.into());
        Self { status, reason, message, domain: "global", location: None, detail: None, older: false }
    }

    /// Sets the domain.
    pub(crate) fn of(self, domain: &'static str) -> Self {
        Self { domain, ..self }
    }

    /// Puts it in Calendar's older form; what is refused in front of the API has the newer one everywhere.
    pub(crate) fn older(self) -> Self {
        Self { older: self.detail.is_none(), ..self }
    }

    /// Names the parameter that is wrong.
    pub(crate) fn at(self, parameter: &'static str) -> Self {
        Self { location: Some(("parameter", parameter)), ..self }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalidArgument", message)
    }

    pub(crate) fn missing() -> Self {
        Self::new(404, "notFound", "Requested entity was not found.")
    }

    pub(crate) fn unauthenticated() -> Self {
        let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or \
                       other valid authentication credential.";
        let location = Some(("header", "Authorization"));
        Self { location, ..Self::new(401, "authError", message) }
    }

    pub(crate) fn scope() -> Self {
        let detail = Some("ACCESS_TOKEN_SCOPE_INSUFFICIENT");
        let message = "Request had insufficient authentication scopes.";
        Self { detail, ..Self::new(403, "insufficientPermissions", message) }
    }

    /// The canonical name of the status (google.rpc.Code).
    fn name(&self) -> Option<&'static str> {
        if self.older || self.domain == "usageLimits" {
            return None;
        }
        Some(match self.status {
            400 if self.reason == "failedPrecondition" => "FAILED_PRECONDITION",
            400 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            409 => "ALREADY_EXISTS",
            429 => "RESOURCE_EXHAUSTED",
            503 => "UNAVAILABLE",
            500..=599 => "INTERNAL",
            _ => return None,
        })
    }

    pub(crate) fn response(&self) -> Response<Bytes> {
        let mut first = json!({ "message": self.message, "domain": self.domain, "reason": self.reason });
        if let (Some((kind, name)), Some(first)) = (self.location, first.as_object_mut()) {
            first.insert("locationType".to_owned(), json!(kind));
            first.insert("location".to_owned(), json!(name));
        }
        let mut error = json!({ "code": self.status, "message": self.message, "errors": [first] });
        if let Some(error) = error.as_object_mut() {
            if let Some(name) = self.name() {
                error.insert("status".to_owned(), json!(name));
            }
            if let Some(reason) = self.detail {
                let kind = "type.googleapis.com/google.rpc.ErrorInfo";
                let detail = json!([{ "@type": kind, "reason": reason, "domain": "googleapis.com" }]);
                error.insert("details".to_owned(), detail);
            }
        }
        let mut response = gate::json(self.status, &json!({ "error": error }));
        if self.status == 401 {
            let challenge = "Bearer realm=\"https://accounts.google.com/\", error=\"invalid_token\"";
            response.headers_mut().insert("www-authenticate", HeaderValue::from_static(challenge));
        }
        response
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "google answered {} {}", self.status, self.reason)
    }
}

impl std::error::Error for Refusal {}

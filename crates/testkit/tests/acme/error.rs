//! Status and code to kind, outcome and repeat: one table.

use bytes::Bytes;
use http::Response;
use palisade_core::call::Scope;
use palisade_core::client::{Classifier, Repeat, Verdict};
use palisade_core::{Error, ErrorKind, Operation, Outcome};
use serde_json::Value;

/// Reads Acme's answers.
pub(crate) struct AcmeClassifier;

impl Classifier for AcmeClassifier {
    fn classify(&self, _operation: &'static Operation, response: &Response<Bytes>) -> Verdict {
        let status = response.status().as_u16();
        let body: Option<Value> = serde_json::from_slice(response.body()).ok().filter(Value::is_object);
        let code = body.as_ref().and_then(|body| body.get("code")?.as_str()).filter(|code| is_code(code));
        let (kind, outcome, repeat) = match (status, code) {
            (200..300, _) if body.is_some() => return Verdict::Success,
            (200..300, _) => (ErrorKind::Decode, Outcome::Unknown, Repeat::IfSafe),
            (401, _) => (ErrorKind::Auth, Outcome::Rejected, Repeat::Never),
            (402, _) => (ErrorKind::Declined, Outcome::Rejected, Repeat::Never),
            (403, _) => (ErrorKind::Permission, Outcome::Rejected, Repeat::Never),
            // Without Acme's own code it is the address that is wrong, not the parcel that is gone.
            (404, Some(_)) => (ErrorKind::NotFound, Outcome::Rejected, Repeat::Never),
            (408, _) => (ErrorKind::Timeout, Outcome::Unknown, Repeat::IfSafe),
            (410, Some("since_too_old")) => (ErrorKind::CursorExpired, Outcome::Rejected, Repeat::Never),
            (429, _) => (ErrorKind::Throttled, Outcome::Rejected, Repeat::Always),
            (300..=399 | 404, _) => (ErrorKind::Config, Outcome::Rejected, Repeat::Never),
            (500.., _) => (ErrorKind::Provider, Outcome::Unknown, Repeat::IfSafe),
            _ => (ErrorKind::Invalid, Outcome::Rejected, Repeat::Never),
        };
        let mut error = Error::new(kind, "acme refused the call").with_status(status).with_outcome(outcome);
        if let Some(code) = code {
            error = error.with_code(code);
        }
        if kind == ErrorKind::Auth {
            Verdict::Unauthorized(error)
        } else if kind == ErrorKind::Throttled {
            Verdict::Throttled { error, after: None, scope: Scope::Account }
        } else {
            Verdict::Failed { error, repeat }
        }
    }
}

/// Whether a text is a machine's word, and not a sentence with somebody's name in it.
fn is_code(text: &str) -> bool {
    !text.is_empty() && text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

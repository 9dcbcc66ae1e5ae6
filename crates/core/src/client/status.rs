//! A classifier by status alone, for providers whose statuses mean what HTTP says, and the table adapters start from.

use bytes::Bytes;
use http::StatusCode;

use super::{Classifier, Repeat, Verdict};
use crate::call::{Operation, Scope};
use crate::error::{Error, ErrorKind, Outcome};

/// Classifies by status alone: 2xx succeeds, 401 refreshes, 429 waits, 408 and 5xx repeat where that is safe,
/// everything else is final.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "a unit value")]
pub struct StatusClassifier;

impl Classifier for StatusClassifier {
    fn classify(&self, _operation: &'static Operation, response: &http::Response<Bytes>) -> Verdict {
        let status = response.status();
        if status.is_success() {
            return Verdict::Success;
        }
        let error = error_of_status(status);
        match status.as_u16() {
            401 => Verdict::Unauthorized(error),
            429 => Verdict::Throttled { error, after: None, scope: Scope::Operation },
            408 | 500 | 502..=504 | 506..=599 => Verdict::Failed { error, repeat: Repeat::IfSafe },
            _ => Verdict::Failed { error, repeat: Repeat::Never },
        }
    }
}

/// Makes the error of a failure status as HTTP means it, with kind, status and outcome. An adapter adds its provider's
/// own code and request id.
#[must_use]
pub fn error_of_status(status: StatusCode) -> Error {
    let (kind, message) = match status.as_u16() {
        401 => (ErrorKind::Auth, "the provider refused the credential"),
        402 => (ErrorKind::Declined, "the provider declined"),
        403 => (ErrorKind::Permission, "the provider does not permit this"),
        404 | 410 => (ErrorKind::NotFound, "the provider has no such object"),
        408 => (ErrorKind::Timeout, "the provider gave up waiting for the request"),
        409 | 412 | 423 => (ErrorKind::Conflict, "the request clashes with the object's state"),
        429 => (ErrorKind::Throttled, "the provider's limit is reached"),
        500..=599 => (ErrorKind::Provider, "the provider failed"),
        _ => (ErrorKind::Invalid, "the provider did not accept the request"),
    };
    let outcome = if status.is_server_error() || status.as_u16() == 408 { Outcome::Unknown } else { Outcome::Rejected };
    Error::new(kind, message).with_status(status.as_u16()).with_outcome(outcome)
}

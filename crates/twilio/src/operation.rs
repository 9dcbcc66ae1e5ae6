//! What the pipeline must know of each Twilio operation: one static table.
//!
//! Replay: Twilio has no idempotency key for messages (Twilio OpenAPI, 2026-04: none of its operations has one), so
//! sending is never repeated after an ambiguous failure. Redacting and calling back set a value and are idempotent.

use std::time::Duration;

use palisade_core::call::{Bucket, Limit, Scope};
use palisade_core::{Operation, Replay};

/// Twilio publishes no rate for its API: it limits what an account has under way at once, whatever the operation, and
/// answers 429 with code 20429, which pauses the account's lane. This is our own bound, so that one runaway loop cannot
/// use an account up.
const ACCOUNT_RATE: u32 = 100;

/// What Twilio's own connection to a slow upstream is given; its messages answer within a second or two.
const ATTEMPT: Duration = Duration::from_secs(30);
const OVERALL: Duration = Duration::from_secs(60);
/// One message of 1,600 characters with its resources stays below 20 KiB; more than ten times that is a fault.
const OBJECT_BYTES_MAX: usize = 256 * 1024;
/// A page of a thousand such messages.
const PAGE_BYTES_MAX: usize = 20 * 1024 * 1024;

const fn bucket(name: &'static str) -> Bucket {
    Bucket { name, units: ACCOUNT_RATE, per: Duration::from_secs(1), burst: ACCOUNT_RATE }
}

static READS: Bucket = bucket("reads");
static WRITES: Bucket = bucket("writes");
static ACCOUNT: Bucket = bucket("account");
/// What all operations of an account share.
static SHARED: [Limit; 1] = [Limit { bucket: &ACCOUNT, scope: Scope::Account, class: None }];

const READ: Operation = Operation {
    provider: "twilio",
    name: "account.retrieve",
    url_template: "/2010-04-01/Accounts/{sid}.json",
    replay: Replay::Safe,
    bucket: &READS,
    also: &SHARED,
    cost: 1,
    attempt_timeout: ATTEMPT,
    overall_timeout: OVERALL,
    body_bytes_max: OBJECT_BYTES_MAX,
};

/// The account read by its own SID: cheap, and it proves that a credential works.
pub static FETCH_ACCOUNT: Operation = READ;
/// A message is sent.
pub static CREATE_MESSAGE: Operation = Operation {
    name: "messages.create",
    url_template: "/2010-04-01/Accounts/{sid}/Messages.json",
    replay: Replay::Never,
    bucket: &WRITES,
    ..READ
};
/// A page of messages is read.
pub static LIST_MESSAGES: Operation = Operation {
    name: "messages.list",
    url_template: "/2010-04-01/Accounts/{sid}/Messages.json",
    body_bytes_max: PAGE_BYTES_MAX,
    ..READ
};
/// A message is read.
pub static FETCH_MESSAGE: Operation =
    Operation { name: "messages.retrieve", url_template: "/2010-04-01/Accounts/{sid}/Messages/{sid}.json", ..READ };
/// A message's body is emptied, or a scheduled one is called back.
pub static UPDATE_MESSAGE: Operation = Operation {
    name: "messages.update",
    url_template: "/2010-04-01/Accounts/{sid}/Messages/{sid}.json",
    replay: Replay::Idempotent,
    bucket: &WRITES,
    ..READ
};
/// A message's record is deleted.
pub static DELETE_MESSAGE: Operation = Operation {
    name: "messages.delete",
    url_template: "/2010-04-01/Accounts/{sid}/Messages/{sid}.json",
    replay: Replay::Idempotent,
    bucket: &WRITES,
    ..READ
};

/// All of them.
pub static OPERATIONS: [&Operation; 6] =
    [&FETCH_ACCOUNT, &CREATE_MESSAGE, &LIST_MESSAGES, &FETCH_MESSAGE, &UPDATE_MESSAGE, &DELETE_MESSAGE];

/// Returns the operation of a request.
pub(crate) fn of_request(method: &http::Method, path: &str) -> Option<&'static Operation> {
    let parts: Vec<&str> = path.strip_prefix("/2010-04-01/Accounts/")?.split('/').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return None;
    }
    match (method.as_str(), parts.as_slice()) {
        ("GET", [account]) if account.ends_with(".json") => Some(&FETCH_ACCOUNT),
        ("POST", [_, "Messages.json"]) => Some(&CREATE_MESSAGE),
        ("GET", [_, "Messages.json"]) => Some(&LIST_MESSAGES),
        ("GET", [_, "Messages", message]) if message.ends_with(".json") => Some(&FETCH_MESSAGE),
        ("POST", [_, "Messages", message]) if message.ends_with(".json") => Some(&UPDATE_MESSAGE),
        ("DELETE", [_, "Messages", message]) if message.ends_with(".json") => Some(&DELETE_MESSAGE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when sending becomes repeatable: a text that may have gone out would go out twice.
    #[test]
    fn sending_is_never_repeated_and_reading_always() {
        let replay = |name: &str| OPERATIONS.iter().find(|row| row.name == name).map(|row| row.replay);
        assert_eq!(replay("messages.create"), Some(Replay::Never));
        assert_eq!(replay("messages.list"), Some(Replay::Safe));
        assert_eq!(replay("messages.delete"), Some(Replay::Idempotent));
        let names: std::collections::HashSet<_> = OPERATIONS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), OPERATIONS.len());
    }
}

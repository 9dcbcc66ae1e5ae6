//! What the pipeline must know of each SendGrid operation: one static table.
//!
//! Replay: a mail has no idempotency key (SendGrid OpenAPI, 2026-01), and a 5xx may have sent it, so sending is never
//! repeated after an ambiguous failure. Taking an address off a list, or putting one on, has one effect however often
//! it is done.

use std::time::Duration;

use palisade_core::call::{Bucket, Scope};
use palisade_core::client::{Learned, LimitHeaders, Reset};
use palisade_core::{Operation, Replay};

/// SendGrid publishes no numbers: each endpoint has a limit of its own per account and plan, told by the
/// `X-RateLimit-*` headers. Until they are known, what its knowledge base said of v3 for years: 600 a minute.
const ENDPOINT_PER_MINUTE: u32 = 600;
const ENDPOINT_BURST: u32 = 50;
/// Mail is limited far higher; this is our own bound, so that one runaway loop cannot use an account up.
const MAIL_PER_SECOND: u32 = 1_000;

/// Where SendGrid tells its limits: how many of an endpoint's period are left, and when the next one begins. How long a
/// period is it does not say; a minute is what its old number was for. A limit that is used up stops the lane until its
/// reset whatever the period is.
pub const LEARNED: Learned = Learned {
    headers: LimitHeaders::x_rate_limit(Reset::Epoch),
    scope: Scope::Operation,
    window: Some(Duration::from_secs(60)),
    may_raise: false,
};

const ATTEMPT: Duration = Duration::from_secs(30);
const OVERALL: Duration = Duration::from_secs(60);
/// Uploading the largest mail over a slow line.
const MAIL_ATTEMPT: Duration = Duration::from_secs(60);
const MAIL_OVERALL: Duration = Duration::from_secs(90);
/// One answer of a few fields.
const OBJECT_BYTES_MAX: usize = 1024 * 1024;
/// A page of five hundred addresses with what their servers said.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

const fn bucket(name: &'static str) -> Bucket {
    Bucket { name, units: ENDPOINT_PER_MINUTE, per: Duration::from_secs(60), burst: ENDPOINT_BURST }
}

const READ: Operation = Operation {
    provider: "sendgrid",
    name: "scopes.list",
    url_template: "/v3/scopes",
    replay: Replay::Safe,
    bucket: &bucket("scopes.list"),
    also: &[],
    cost: 1,
    attempt_timeout: ATTEMPT,
    overall_timeout: OVERALL,
    body_bytes_max: OBJECT_BYTES_MAX,
};
const LIST: Operation = Operation { body_bytes_max: PAGE_BYTES_MAX, ..READ };
const CHANGE: Operation = Operation { replay: Replay::Idempotent, ..READ };

/// The key's scopes: cheap, and it proves that a key works.
pub static SCOPES: Operation = READ;
/// A mail is sent.
pub static SEND_MAIL: Operation = Operation {
    name: "mail.send",
    url_template: "/v3/mail/send",
    replay: Replay::Never,
    bucket: &Bucket { name: "mail.send", units: MAIL_PER_SECOND, per: Duration::from_secs(1), burst: MAIL_PER_SECOND },
    attempt_timeout: MAIL_ATTEMPT,
    overall_timeout: MAIL_OVERALL,
    ..READ
};
/// Sent mails are looked for: an add-on of the account.
pub static FIND_MAIL: Operation = Operation {
    name: "messages.list",
    url_template: "/v3/messages",
    // SendGrid says nothing of this one either; users report six a minute.
    bucket: &Bucket { name: "messages.list", units: 6, per: Duration::from_secs(60), burst: 2 },
    ..LIST
};
/// Addresses are put on the list of those who want no mail at all.
pub static ADD_UNSUBSCRIBES: Operation = Operation {
    name: "unsubscribes.create",
    url_template: "/v3/asm/suppressions/global",
    bucket: &bucket("unsubscribes.create"),
    ..CHANGE
};

/// What can be done with one list of suppressed addresses.
#[derive(Debug)]
#[non_exhaustive]
pub struct Suppressions {
    /// A page is read.
    pub list: Operation,
    /// One address is read.
    pub retrieve: Operation,
    /// One address is taken off.
    pub delete: Operation,
}

macro_rules! suppressions {
    ($($(#[$doc:meta])* $name:ident: $word:literal, $one:literal, $off:literal;)*) => {
        $(
            $(#[$doc])*
            pub static $name: Suppressions = Suppressions {
                list: Operation {
                    name: concat!($word, ".list"),
                    url_template: concat!("/v3/suppression/", $word),
                    bucket: &bucket(concat!($word, ".list")),
                    ..LIST
                },
                retrieve: Operation {
                    name: concat!($word, ".retrieve"),
                    url_template: $one,
                    bucket: &bucket(concat!($word, ".retrieve")),
                    ..READ
                },
                delete: Operation {
                    name: concat!($word, ".delete"),
                    url_template: $off,
                    bucket: &bucket(concat!($word, ".delete")),
                    ..CHANGE
                },
            };
        )*
    };
}

suppressions! {
    /// What can be done with bounces.
    BOUNCES: "bounces", "/v3/suppression/bounces/{email}", "/v3/suppression/bounces/{email}";
    /// What can be done with blocks.
    BLOCKS: "blocks", "/v3/suppression/blocks/{email}", "/v3/suppression/blocks/{email}";
    /// What can be done with spam reports.
    SPAM_REPORTS: "spam_reports", "/v3/suppression/spam_reports/{email}", "/v3/suppression/spam_reports/{email}";
    /// What can be done with unsubscribes: one is read by a filter on the list, for what else there is tells no time.
    UNSUBSCRIBES: "unsubscribes", "/v3/suppression/unsubscribes", "/v3/asm/suppressions/global/{email}";
    /// What can be done with addresses that are none.
    INVALID_EMAILS: "invalid_emails", "/v3/suppression/invalid_emails/{email}", "/v3/suppression/invalid_emails/{email}";
}

/// Returns the operation of a request.
pub(crate) fn of_request(method: &http::Method, path: &str) -> Option<&'static Operation> {
    let lists = [&BOUNCES, &BLOCKS, &SPAM_REPORTS, &UNSUBSCRIBES, &INVALID_EMAILS];
    let fitting = |row: &&'static Operation| fits(row.url_template, path);
    match method.as_str() {
        "POST" => [&SEND_MAIL, &ADD_UNSUBSCRIBES].into_iter().find(fitting),
        "DELETE" => lists.into_iter().map(|list| &list.delete).find(fitting),
        "GET" => {
            let reads = lists.into_iter().flat_map(|list| [&list.list, &list.retrieve]);
            [&SCOPES, &FIND_MAIL].into_iter().chain(reads).find(fitting)
        }
        _ => None,
    }
}

fn fits(template: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(part), Some(text)) if text == part || (part.starts_with('{') && !text.is_empty()) => {}
            (Some(_), _) | (None, Some(_)) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suppression::List;

    /// Fails when sending becomes repeatable: a mail that may have gone out would go out twice.
    #[test]
    fn sending_is_never_repeated_and_every_endpoint_has_a_lane_of_its_own() {
        assert_eq!(SEND_MAIL.replay, Replay::Never);
        let mut names = std::collections::HashSet::new();
        let lists = List::ALL.map(List::operations);
        let of_lists = lists.iter().flat_map(|ops| [&ops.list, &ops.retrieve, &ops.delete]);
        for operation in of_lists.chain([&SCOPES, &SEND_MAIL, &FIND_MAIL, &ADD_UNSUBSCRIBES]) {
            assert!(names.insert(operation.name), "{}", operation.name);
            assert_eq!(operation.bucket.name, operation.name);
            assert_eq!(operation.provider, "sendgrid");
        }
        assert_eq!(names.len(), 19);
    }
}

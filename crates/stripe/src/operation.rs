//! What the pipeline must know of each Stripe operation: one static table, and honest rows for every other path.
//!
//! Replay: v1 keeps the first answer to a POST under its `Idempotency-Key` for at least 24 hours (Stripe API
//! reference, idempotent requests), a GET reads, a DELETE by id has one effect however often it is sent. The table is
//! matched by method and path, so requests built by any async-stripe crate find their row; what has no row of its own
//! is called `other.*` and is limited as one endpoint of its own.

use std::time::Duration;

use palisade_core::call::{Bucket, Limit, Scope};
use palisade_core::{Operation, Replay};
use stripe_client_core::StripeMethod;

use crate::auth::{LIVE, SANDBOX};

/// The header Stripe deduplicates POST requests by.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// What one live account takes in all: 100 requests a second (Stripe, rate limits, 2026). Every operation draws from
/// it beside its endpoint's own bucket.
///
/// As with every bucket here, rate and burst add up to what is published, so that no second of the account's clock
/// sees more, wherever it begins; and the burst is small, so that a long run still has 95 % of it.
pub static ACCOUNT_LIVE: Bucket = bucket("account_live", 96, 4);
/// What one sandbox takes in all: 25 requests a second (Stripe, rate limits, 2026).
pub static ACCOUNT_SANDBOX: Bucket = bucket("account_sandbox", 24, 1);
const ACCOUNT: &[Limit] = &[
    Limit { bucket: &ACCOUNT_LIVE, scope: Scope::Account, class: Some(LIVE) },
    Limit { bucket: &ACCOUNT_SANDBOX, scope: Scope::Account, class: Some(SANDBOX) },
];

/// One endpoint (method and path template, all ids together) takes 25 requests a second (Stripe, rate limits, 2026).
const ENDPOINT_RATE: u32 = 24;
const ENDPOINT_BURST: u32 = 1;
/// Search takes 20 requests a second (Stripe, rate limits, 2026): one at a time, 51.7 ms apart, so that no second holds
/// more than 20. (Of 19 a second less than 95 % would be left, for timers round each wait up to a millisecond.)
const SEARCHES: Bucket = Bucket { name: "", units: 58, per: Duration::from_secs(3), burst: 1 };

/// Stripe's slowest documented writes end well before this; its SDKs wait 80 seconds in all.
const ATTEMPT: Duration = Duration::from_secs(30);
const OVERALL: Duration = Duration::from_secs(80);
/// One object: an invoice with its first lines stays below 100 KiB; twenty times that is a fault.
const OBJECT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A page of a hundred such objects.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

const fn bucket(name: &'static str, units: u32, burst: u32) -> Bucket {
    Bucket { name, units, per: Duration::from_secs(1), burst }
}

const fn endpoint(name: &'static str) -> Bucket {
    bucket(name, ENDPOINT_RATE, ENDPOINT_BURST)
}

const fn searching(name: &'static str) -> Bucket {
    Bucket { name, ..SEARCHES }
}

/// The account read by `GET /v1/account`: cheap, and it proves that a key works.
const READ: Operation = Operation {
    provider: "stripe",
    name: "account.retrieve",
    url_template: "/v1/account",
    replay: Replay::Safe,
    bucket: &endpoint("account.retrieve"),
    also: ACCOUNT,
    cost: 1,
    attempt_timeout: ATTEMPT,
    overall_timeout: OVERALL,
    body_bytes_max: OBJECT_BYTES_MAX,
};
const LIST: Operation = Operation { body_bytes_max: PAGE_BYTES_MAX, ..READ };
const WRITE: Operation = Operation { replay: Replay::Keyed(IDEMPOTENCY_KEY), ..READ };
const DELETE: Operation = Operation { replay: Replay::Idempotent, ..READ };

/// The operations that are limited and named one by one.
#[rustfmt::skip]
pub static OPERATIONS: &[Operation] = &[
    READ,
    Operation { name: "customers.create", url_template: "/v1/customers", bucket: &endpoint("customers.create"), ..WRITE },
    Operation { name: "customers.list", url_template: "/v1/customers", bucket: &endpoint("customers.list"), ..LIST },
    Operation { name: "customers.search", url_template: "/v1/customers/search", bucket: &searching("customers.search"), ..LIST },
    Operation { name: "customers.retrieve", url_template: "/v1/customers/{id}", bucket: &endpoint("customers.retrieve"), ..READ },
    Operation { name: "customers.update", url_template: "/v1/customers/{id}", bucket: &endpoint("customers.update"), ..WRITE },
    Operation { name: "customers.delete", url_template: "/v1/customers/{id}", bucket: &endpoint("customers.delete"), ..DELETE },
    Operation { name: "products.create", url_template: "/v1/products", bucket: &endpoint("products.create"), ..WRITE },
    Operation { name: "products.list", url_template: "/v1/products", bucket: &endpoint("products.list"), ..LIST },
    Operation { name: "products.search", url_template: "/v1/products/search", bucket: &searching("products.search"), ..LIST },
    Operation { name: "products.retrieve", url_template: "/v1/products/{id}", bucket: &endpoint("products.retrieve"), ..READ },
    Operation { name: "products.update", url_template: "/v1/products/{id}", bucket: &endpoint("products.update"), ..WRITE },
    Operation { name: "products.delete", url_template: "/v1/products/{id}", bucket: &endpoint("products.delete"), ..DELETE },
    Operation { name: "prices.create", url_template: "/v1/prices", bucket: &endpoint("prices.create"), ..WRITE },
    Operation { name: "prices.list", url_template: "/v1/prices", bucket: &endpoint("prices.list"), ..LIST },
    Operation { name: "prices.search", url_template: "/v1/prices/search", bucket: &searching("prices.search"), ..LIST },
    Operation { name: "prices.retrieve", url_template: "/v1/prices/{id}", bucket: &endpoint("prices.retrieve"), ..READ },
    Operation { name: "prices.update", url_template: "/v1/prices/{id}", bucket: &endpoint("prices.update"), ..WRITE },
    Operation { name: "subscriptions.create", url_template: "/v1/subscriptions", bucket: &endpoint("subscriptions.create"), ..WRITE },
    Operation { name: "subscriptions.list", url_template: "/v1/subscriptions", bucket: &endpoint("subscriptions.list"), ..LIST },
    Operation { name: "subscriptions.search", url_template: "/v1/subscriptions/search", bucket: &searching("subscriptions.search"), ..LIST },
    Operation { name: "subscriptions.retrieve", url_template: "/v1/subscriptions/{id}", bucket: &endpoint("subscriptions.retrieve"), ..READ },
    Operation { name: "subscriptions.update", url_template: "/v1/subscriptions/{id}", bucket: &endpoint("subscriptions.update"), ..WRITE },
    Operation { name: "subscriptions.cancel", url_template: "/v1/subscriptions/{id}", bucket: &endpoint("subscriptions.cancel"), ..DELETE },
    Operation { name: "invoices.create", url_template: "/v1/invoices", bucket: &endpoint("invoices.create"), ..WRITE },
    Operation { name: "invoices.list", url_template: "/v1/invoices", bucket: &endpoint("invoices.list"), ..LIST },
    Operation { name: "invoices.search", url_template: "/v1/invoices/search", bucket: &searching("invoices.search"), ..LIST },
    Operation { name: "invoices.create_preview", url_template: "/v1/invoices/create_preview", bucket: &endpoint("invoices.create_preview"), ..WRITE },
    Operation { name: "invoices.retrieve", url_template: "/v1/invoices/{id}", bucket: &endpoint("invoices.retrieve"), ..READ },
    Operation { name: "invoices.update", url_template: "/v1/invoices/{id}", bucket: &endpoint("invoices.update"), ..WRITE },
    Operation { name: "invoices.delete", url_template: "/v1/invoices/{id}", bucket: &endpoint("invoices.delete"), ..DELETE },
    Operation { name: "invoices.finalize", url_template: "/v1/invoices/{id}/finalize", bucket: &endpoint("invoices.finalize"), ..WRITE },
    Operation { name: "invoices.pay", url_template: "/v1/invoices/{id}/pay", bucket: &endpoint("invoices.pay"), ..WRITE },
    Operation { name: "invoices.void", url_template: "/v1/invoices/{id}/void", bucket: &endpoint("invoices.void"), ..WRITE },
    Operation { name: "charges.list", url_template: "/v1/charges", bucket: &endpoint("charges.list"), ..LIST },
    Operation { name: "charges.search", url_template: "/v1/charges/search", bucket: &searching("charges.search"), ..LIST },
    Operation { name: "charges.retrieve", url_template: "/v1/charges/{id}", bucket: &endpoint("charges.retrieve"), ..READ },
    Operation { name: "payment_intents.create", url_template: "/v1/payment_intents", bucket: &endpoint("payment_intents.create"), ..WRITE },
    Operation { name: "payment_intents.list", url_template: "/v1/payment_intents", bucket: &endpoint("payment_intents.list"), ..LIST },
    Operation { name: "payment_intents.search", url_template: "/v1/payment_intents/search", bucket: &searching("payment_intents.search"), ..LIST },
    Operation { name: "payment_intents.retrieve", url_template: "/v1/payment_intents/{id}", bucket: &endpoint("payment_intents.retrieve"), ..READ },
    Operation { name: "payment_intents.update", url_template: "/v1/payment_intents/{id}", bucket: &endpoint("payment_intents.update"), ..WRITE },
    Operation { name: "payment_intents.confirm", url_template: "/v1/payment_intents/{id}/confirm", bucket: &endpoint("payment_intents.confirm"), ..WRITE },
    Operation { name: "payment_intents.capture", url_template: "/v1/payment_intents/{id}/capture", bucket: &endpoint("payment_intents.capture"), ..WRITE },
    Operation { name: "payment_intents.cancel", url_template: "/v1/payment_intents/{id}/cancel", bucket: &endpoint("payment_intents.cancel"), ..WRITE },
    Operation { name: "refunds.create", url_template: "/v1/refunds", bucket: &endpoint("refunds.create"), ..WRITE },
    Operation { name: "refunds.list", url_template: "/v1/refunds", bucket: &endpoint("refunds.list"), ..LIST },
    Operation { name: "refunds.retrieve", url_template: "/v1/refunds/{id}", bucket: &endpoint("refunds.retrieve"), ..READ },
    Operation { name: "checkout.sessions.create", url_template: "/v1/checkout/sessions", bucket: &endpoint("checkout.sessions.create"), ..WRITE },
    Operation { name: "checkout.sessions.list", url_template: "/v1/checkout/sessions", bucket: &endpoint("checkout.sessions.list"), ..LIST },
    Operation { name: "checkout.sessions.retrieve", url_template: "/v1/checkout/sessions/{id}", bucket: &endpoint("checkout.sessions.retrieve"), ..READ },
    Operation { name: "checkout.sessions.expire", url_template: "/v1/checkout/sessions/{id}/expire", bucket: &endpoint("checkout.sessions.expire"), ..WRITE },
    Operation { name: "events.list", url_template: "/v1/events", bucket: &endpoint("events.list"), ..LIST },
    Operation { name: "events.retrieve", url_template: "/v1/events/{id}", bucket: &endpoint("events.retrieve"), ..READ },
    Operation { name: "v2.core.events.retrieve", url_template: "/v2/core/events/{id}", bucket: &endpoint("v2.core.events.retrieve"), ..READ },
    Operation { name: "webhook_endpoints.create", url_template: "/v1/webhook_endpoints", bucket: &endpoint("webhook_endpoints.create"), ..WRITE },
    Operation { name: "webhook_endpoints.list", url_template: "/v1/webhook_endpoints", bucket: &endpoint("webhook_endpoints.list"), ..LIST },
    Operation { name: "webhook_endpoints.update", url_template: "/v1/webhook_endpoints/{id}", bucket: &endpoint("webhook_endpoints.update"), ..WRITE },
    Operation { name: "webhook_endpoints.delete", url_template: "/v1/webhook_endpoints/{id}", bucket: &endpoint("webhook_endpoints.delete"), ..DELETE },
];

/// Every GET without a row of its own. One lane for all of them: slower than Stripe allows, never faster.
pub static OTHER_READ: Operation =
    Operation { name: "other.read", url_template: "/v1/{other}", bucket: &endpoint("other.read"), ..LIST };
/// Every POST without a row of its own.
pub static OTHER_WRITE: Operation =
    Operation { name: "other.write", url_template: "/v1/{other}", bucket: &endpoint("other.write"), ..WRITE };
/// Every DELETE without a row of its own.
pub static OTHER_DELETE: Operation =
    Operation { name: "other.delete", url_template: "/v1/{other}", bucket: &endpoint("other.delete"), ..DELETE };
/// Every search without a row of its own.
pub static OTHER_SEARCH: Operation =
    Operation { name: "other.search", url_template: "/v1/{other}/search", bucket: &searching("other.search"), ..LIST };

/// Returns the operation of a method and a path, without a query, that begins with `/v1/` or is a row's of v2.
#[must_use]
pub fn find(method: StripeMethod, path: &str) -> &'static Operation {
    // A row without a placeholder comes before the row with one at the same place (`/search` before `/{id}`).
    if let Some(row) = OPERATIONS.iter().find(|row| is_of(row, method) && fits(row.url_template, path)) {
        return row;
    }
    match method {
        StripeMethod::Get if path.ends_with("/search") => &OTHER_SEARCH,
        StripeMethod::Get => &OTHER_READ,
        StripeMethod::Post => &OTHER_WRITE,
        StripeMethod::Delete => &OTHER_DELETE,
    }
}

/// Returns the operation of a request, if it is one of the first version of the API or has a row of its own.
pub(crate) fn of_request(method: &http::Method, path: &str) -> Option<&'static Operation> {
    let method = match method.as_str() {
        "GET" => StripeMethod::Get,
        "POST" => StripeMethod::Post,
        "DELETE" => StripeMethod::Delete,
        _ => return None,
    };
    let row = find(method, path);
    (path.starts_with("/v1/") || fits(row.url_template, path)).then_some(row)
}

/// In v1 the replay rule follows the method, so the table need not name it twice.
fn is_of(row: &Operation, method: StripeMethod) -> bool {
    match method {
        StripeMethod::Get => row.replay == Replay::Safe,
        StripeMethod::Post => row.replay == Replay::Keyed(IDEMPOTENCY_KEY),
        StripeMethod::Delete => row.replay == Replay::Idempotent,
    }
}

fn fits(template: &str, path: &str) -> bool {
    let mut given = path.split('/');
    let fitting = template.split('/').all(|part| match given.next() {
        Some(text) => text == part || (part.starts_with('{') && !text.is_empty()),
        None => false,
    });
    fitting && given.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: StripeMethod, path: &str, name: &str) {
        assert_eq!(find(method, path).name, name, "{path}");
    }

    #[test]
    fn paths_find_their_row_and_others_are_called_other() {
        check(StripeMethod::Get, "/v1/customers", "customers.list");
        check(StripeMethod::Post, "/v1/customers", "customers.create");
        check(StripeMethod::Get, "/v1/customers/search", "customers.search");
        check(StripeMethod::Get, "/v1/customers/cus_1", "customers.retrieve");
        check(StripeMethod::Delete, "/v1/customers/cus_1", "customers.delete");
        check(StripeMethod::Delete, "/v1/subscriptions/sub_1", "subscriptions.cancel");
        check(StripeMethod::Post, "/v1/invoices/create_preview", "invoices.create_preview");
        check(StripeMethod::Post, "/v1/checkout/sessions/cs_1/expire", "checkout.sessions.expire");
        check(StripeMethod::Get, "/v2/core/events/evt_1", "v2.core.events.retrieve");
        check(StripeMethod::Get, "/v1/customers/", "other.read");
        check(StripeMethod::Get, "/v1/customers/cus_1/sources", "other.read");
        check(StripeMethod::Get, "/v1/issuing/cards/search", "other.search");
        check(StripeMethod::Post, "/v1/quotes", "other.write");
        check(StripeMethod::Delete, "/v1/coupons/x", "other.delete");
    }

    /// Fails when a path of v2 that nothing is known of is sent in a lane of v1, or the one that is known is refused.
    #[test]
    fn of_v2_only_what_has_a_row_is_known() {
        let name = |path| of_request(&http::Method::GET, path).map(|row| row.name);
        assert_eq!(name("/v1/quotes"), Some("other.read"));
        assert_eq!(name("/v2/core/events/evt_1"), Some("v2.core.events.retrieve"));
        assert_eq!(name("/v2/core/events"), None);
        assert_eq!(of_request(&http::Method::POST, "/v2/core/events/evt_1").map(|row| row.name), None);
    }

    /// Fails when a second may see more than is published, or a long run has less than 95 % of it.
    #[track_caller]
    fn check_bucket(bucket: &Bucket, published: u128) {
        let (units, per) = (u128::from(bucket.units), bucket.per.as_millis());
        // In a second that begins with a full bucket: the burst at once, then one after each time a unit takes.
        let most = u128::from(bucket.burst) - 1 + (units * 1_000).div_ceil(per);
        assert!(most <= published, "{}: {most} in a second", bucket.name);
        // As slow as a timer that rounds every wait up to a millisecond makes it.
        let wait = (per * u128::from(bucket.burst)).div_ceil(units);
        assert!(u128::from(bucket.burst) * 100_000 >= published * 95 * wait, "{}: {wait} ms", bucket.name);
    }

    #[test]
    fn accounts_have_what_stripe_publishes() {
        check_bucket(&ACCOUNT_LIVE, 100);
        check_bucket(&ACCOUNT_SANDBOX, 25);
    }

    #[test]
    fn every_row_is_found_by_its_own_template_and_has_a_lane_of_its_own() {
        let mut lanes = std::collections::HashSet::new();
        for row in OPERATIONS {
            let method = match row.replay {
                Replay::Safe => StripeMethod::Get,
                Replay::Idempotent => StripeMethod::Delete,
                Replay::Keyed(_) | Replay::Never => StripeMethod::Post,
            };
            check(method, &row.url_template.replace("{id}", "x_1"), row.name);
            assert!(lanes.insert(row.bucket.name), "{} shares a lane", row.name);
            check_bucket(row.bucket, if row.name.ends_with(".search") { 20 } else { 25 });
            assert_eq!(row.provider, "stripe");
            assert_eq!(row.also.iter().filter_map(|limit| limit.class).collect::<Vec<_>>(), [LIVE, SANDBOX]);
        }
    }
}

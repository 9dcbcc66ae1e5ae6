//! Stripe as a subject of the kit.

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, Method};
use palisade_core::auth::Scheme;
use palisade_core::client::Repeat;
use palisade_core::webhook::{RawDelivery, hmac};
use palisade_core::{ErrorKind, Outcome, Result, Secret, Transport};
use palisade_emulator::Ledger;
use palisade_emulator::stripe::{Stripe as Emulator, StripeConfig};
use palisade_stripe::client::{NewCustomer, NewRefund, NewSubscription};
use palisade_stripe::{Stripe, StripeProvider, operation};
use palisade_testkit::conformance::{
    self, Ask, Counted, Counting, Hook, Meaning, NOW, Rate, Sample, Stream, Subject, Vector,
};
use palisade_testkit::fake::{Said, answer};
use palisade_testkit::{EmulatorTransport, clock_from};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use stripe_core::customer::ListCustomer;
use stripe_core::event::ListEvent;

use super::stage::StripeStage;

#[tokio::test(start_paused = true)]
async fn keeps_every_promise_of_the_kit() {
    conformance::prove(&subject(), option_env!("CARGO_TARGET_TMPDIR")).await;
}

const SECRETS: [&str; 2] = ["whsec_of_this_test", "whsec_rolled_in_this_test"];

/// Signs as Stripe's documentation says: `{time}.{body}` with HMAC-SHA256, in lower-case hexadecimal.
fn signed(ask: &Ask<'_>) -> RawDelivery {
    let time = ask.at.seconds().to_string();
    let code = hmac::sha256(SECRETS[ask.secret].as_bytes(), &[time.as_bytes(), b".", ask.content]);
    let mut headers = HeaderMap::new();
    headers.insert("stripe-signature", format!("t={time},v1={}", hmac::to_lower_hex(&code)).parse().unwrap());
    let body = Bytes::copy_from_slice(ask.content);
    RawDelivery { method: Method::POST, url: "https://hooks.example.test/stripe".into(), headers, body }
}

fn hook(name: &'static str, one: &'static str, other: &'static str) -> Hook {
    Hook::new(name, SECRETS.map(Secret::from), signed)
        .about(one, other)
        .signed_by(&["stripe-signature"])
        .window(300, 300)
}

const CREATED: &str = r#"{"id":"evt_1","object":"event","api_version":"2026-09-30.endive","created":1767225599,"type":"customer.created","data":{"object":{"id":"cus_1","object":"customer"}}}"#;
const DELETED: &str = r#"{"id":"evt_2","object":"event","api_version":"2026-09-30.endive","created":1767225599,"type":"customer.deleted","data":{"object":{"id":"cus_1","object":"customer","deleted":true}}}"#;
const THIN: &str = r#"{"id":"evt_3","object":"v2.core.event","type":"v1.customer.subscription.updated","created":"2026-01-01T00:00:00.500Z","context":"acct_9","livemode":true,"related_object":{"id":"sub_1","type":"subscription","url":"/v1/subscriptions/sub_1"}}"#;
const OTHER_THIN: &str = r#"{"id":"evt_4","object":"v2.core.event","type":"v1.customer.subscription.updated","created":"2026-01-01T00:00:00.500Z","related_object":{"id":"sub_1","type":"subscription","url":"/v1/subscriptions/sub_1"}}"#;

fn stripe(transport: Arc<dyn Transport>) -> Stripe {
    Stripe::new(transport, "conn_1", "tenant_1")
}

const CUSTOMER: &str =
    r#"{"id":"cus_1","object":"customer","created":1,"livemode":false,"shipping":null,"email":null,"metadata":{}}"#;
const SUBSCRIPTION: &str =
    r#"{"id":"sub_1","object":"subscription","status":"incomplete","cancel_at_period_end":true}"#;

fn calls() -> Vec<Sample> {
    let file: Value = serde_json::from_str(include_str!("../fixtures/sdk_wire.json")).unwrap();
    let wire = |name: &str| &file["requests"][name];
    let version = "the adapter speaks the version its model crates were made of";
    let ours = |sample: Sample| sample.differing_in(&["stripe-version"], version);
    vec![
        ours(Sample::new("customers.create", |transport| async move {
            let new = NewCustomer::new().email("a@example.com").metadata("k", "v");
            stripe(transport).for_account("acct_1")?.create_customer(new, Some("k-1")).await
        }))
        .answered(200, CUSTOMER)
        .recorded(wire("customers.create"))
        .refused(),
        Sample::new("customers.create", |transport| async move {
            stripe(transport).create_customer(NewCustomer::new(), None).await
        })
        .answered(200, CUSTOMER),
        ours(Sample::new("subscriptions.create", |transport| async move {
            stripe(transport).start_subscription(NewSubscription::new("cus_1").price("price_1"), None).await
        }))
        .answered(200, SUBSCRIPTION)
        .recorded(wire("subscriptions.create")),
        ours(Sample::new("subscriptions.update", |transport| async move {
            stripe(transport).cancel_at_period_end("sub_1", None).await
        }))
        .answered(200, SUBSCRIPTION)
        .recorded(wire("subscriptions.cancel_at_period_end")),
        ours(Sample::new(
            "subscriptions.cancel",
            |transport| async move { stripe(transport).cancel_now("sub_1").await },
        ))
        .answered(200, SUBSCRIPTION)
        .recorded(wire("subscriptions.cancel_now")),
        ours(Sample::new("events.list", |transport| async move {
            let since = stripe_types::RangeBoundsTs { gte: Some(1_700_000_000), ..Default::default() };
            let request = ListEvent::new()
                .created(stripe_types::RangeQueryTs::Bounds(since))
                .types(vec!["customer.created".to_owned(), "invoice.paid".to_owned()])
                .ending_before("evt_1");
            let all: Result<Vec<_>> = stripe(transport).list_events(request).try_collect().await;
            all
        }))
        .answered(200, r#"{"data":[],"has_more":false,"url":"/v1/events"}"#)
        .recorded(wire("events.list")),
        Sample::new("customers.list", |transport| async move {
            let all: Result<Vec<_>> = stripe(transport).list_customers(ListCustomer::new()).try_collect().await;
            all
        })
        .answered(200, format!(r#"{{"object":"list","url":"/v1/customers","has_more":false,"data":[{CUSTOMER}]}}"#)),
        Sample::new(
            "customers.retrieve",
            |transport| async move { stripe(transport).retrieve_customer("cus_1").await },
        )
        .answered(200, CUSTOMER),
        Sample::new("refunds.create", |transport| async move {
            stripe(transport).refund(NewRefund::of_payment("pi_1").amount(500), None).await
        })
        .answered(200, r#"{"id":"re_1","status":"succeeded","amount":500,"currency":"usd"}"#),
    ]
}

fn refusal(kind: &str, code: &str, more: &str) -> String {
    format!(r#"{{"error":{{"type":"{kind}","code":"{code}","message":"No such customer: ada@example.com"{more}}}}}"#)
}

/// The documented types and codes, Stripe's own word on repeating, and answers that are not Stripe's.
fn meanings() -> Vec<Meaning> {
    use ErrorKind as K;
    use Outcome::{Rejected, Unknown};
    let (never, if_safe) = (Said::Failed(Repeat::Never), Said::Failed(Repeat::IfSafe));
    let invalid = |code: &str| refusal("invalid_request_error", code, "");
    let cursor = refusal("invalid_request_error", "resource_missing", r#","param":"ending_before""#);
    let later = cursor.replace("ending_before", "starting_after");
    let table = [
        (400, invalid("parameter_missing"), never, K::Invalid, Rejected),
        (400, invalid("resource_missing"), never, K::Invalid, Rejected),
        (400, cursor, never, K::CursorExpired, Rejected),
        (404, later, never, K::CursorExpired, Rejected),
        (400, refusal("idempotency_error", "", ""), never, K::Invalid, Rejected),
        (401, invalid("api_key_expired"), Said::Unauthorized, K::Auth, Rejected),
        (402, refusal("card_error", "card_declined", ""), never, K::Declined, Rejected),
        (403, invalid("more_permissions_required"), never, K::Permission, Rejected),
        (403, invalid("account_invalid"), never, K::Auth, Rejected),
        (404, invalid("resource_missing"), never, K::NotFound, Rejected),
        (404, "{}".to_owned(), never, K::Config, Rejected),
        (409, invalid("other"), if_safe, K::Conflict, Rejected),
        (409, invalid("idempotency_key_in_use"), if_safe, K::Conflict, Unknown),
        (429, invalid("rate_limit"), Said::Throttled, K::Throttled, Rejected),
        (429, invalid("lock_timeout"), Said::Failed(Repeat::Always), K::Conflict, Rejected),
        (500, refusal("api_error", "", ""), if_safe, K::Provider, Unknown),
        (301, String::new(), never, K::Config, Rejected),
        (407, String::new(), never, K::Config, Rejected),
        (400, r#"{"error":"invalid_grant","error_description":"used"}"#.to_owned(), never, K::Auth, Rejected),
    ];
    let server = || refusal("api_error", "", "");
    let words = [
        Meaning::new(500, server(), never, K::Provider).header("stripe-should-retry", "false").outcome(Unknown),
        Meaning::new(500, server(), never, K::Provider).header("idempotent-replayed", "true").outcome(Unknown),
        Meaning::new(400, invalid("x"), if_safe, K::Invalid).header("stripe-should-retry", "true"),
        Meaning::new(429, invalid("rate_limit"), never, K::Throttled)
            .header("stripe-rate-limited-reason", "resource-specific"),
    ];
    let table = table
        .into_iter()
        .map(|(status, body, said, kind, outcome)| Meaning::new(status, body, said, kind).outcome(outcome));
    table.chain(words).map(|meaning| meaning.of("payment_intents.create")).collect()
}

/// "Each endpoint: 25 requests a second" (docs.stripe.com/rate-limits, read November 2026).
fn endpoint_rate() -> Rate {
    Rate::new("one endpoint", 25, Duration::from_secs(1), |transport, _| async move {
        stripe(transport).create_customer(NewCustomer::new(), None).await.map(drop)
    })
    .counted_by(|| {
        counting(|ledger| {
            let of = |counts: &BTreeMap<String, u64>| counts.get("POST /v1/customers").copied().unwrap_or(0);
            let (peak, total) = (of(&ledger.peak_per_second_by_route), of(&ledger.requests_by_route));
            Counted { peak, total, throttled: ledger.throttles }
        })
    })
}

/// An emulated Stripe, asked by what it has written down.
fn counting(count: fn(&Ledger) -> Counted) -> Counting {
    let emulator = Emulator::offline(StripeConfig { clock: clock_from(NOW), ..StripeConfig::default() });
    let (transport, credential) = (EmulatorTransport::new(emulator.clone()), emulator.api_key().into());
    Counting {
        transport: Arc::new(transport),
        credential: Scheme::Bearer(credential),
        counted: Box::new(move || count(&emulator.ledger())),
    }
}

/// "Sandbox: 25 requests a second" for all operations of an account together.
fn account_rate() -> Rate {
    Rate::new("a sandbox", 25, Duration::from_secs(1), |transport, number| async move {
        let stripe = stripe(transport);
        match number % 2 {
            0 => stripe.list_customers(ListCustomer::new()).try_next().await.map(drop),
            _ => stripe.create_customer(NewCustomer::new(), None).await.map(drop),
        }
    })
    .counted_by(|| {
        counting(|ledger| Counted { peak: ledger.peak_per_second, total: ledger.requests, throttled: ledger.throttles })
    })
}

fn subject() -> Subject {
    let subject = Subject::new(StripeProvider::new, Scheme::Bearer("sk_test_x".into()));
    let gone = refusal("invalid_request_error", "resource_missing", r#","param":"starting_after""#);
    let subject = ["customers", "products", "prices", "subscriptions", "invoices", "charges"].into_iter().fold(
        subject,
        |subject, name| {
            let stream = Stream::new(name, 100)
                .never_empty("a page that leads on has a last record: it is the cursor")
                .expired(400, &gone);
            subject.stream(match name {
                "customers" => stream,
                _ => stream.keeps_all("what is sold or paid is kept by Stripe"),
            })
        },
    );
    calls()
        .into_iter()
        .fold(subject, Subject::call)
        .operations(operation::OPERATIONS)
        .operations([
            &operation::OTHER_READ,
            &operation::OTHER_WRITE,
            &operation::OTHER_DELETE,
            &operation::OTHER_SEARCH,
        ])
        .meanings(meanings())
        .throttled_by(answer(429, refusal("invalid_request_error", "rate_limit", "")))
        .stage(StripeStage::new)
        .rate(endpoint_rate())
        .rate(account_rate())
        .vectors(Vector::file(include_str!("../fixtures/webhooks.json")))
        .hook(hook("events", CREATED, DELETED))
        .hook(hook("thin events", THIN, OTHER_THIN))
        .not_applicable("a_handshake_is_answered_and_makes_no_event", "Stripe asks nothing before it sends events")
}

//! The adapter under the real pipeline, against the emulated Stripe with its faults: what the static table and the
//! classifier promise is counted at the provider. Time is tokio's, paused: minutes of backoff take milliseconds.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use palisade_core::auth::{FixedCredential, Scheme};
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::{Client, ErrorKind, Outcome, Provider, Timestamp, Transport};
use palisade_emulator::stripe::{Fault, RetryAfter, RouteFaults, Stripe as Emulator, StripeConfig};
use palisade_stripe::client::{NewCustomer, NewRefund};
use palisade_stripe::{Stripe, StripeProvider};
use palisade_testkit::transport::EmulatorTransport;
use stripe_billing::subscription::ListSubscription;
use stripe_core::customer::ListCustomer;
use stripe_product::price::ListPrice;
use stripe_product::product::ListProduct;

const CUSTOMERS: &str = "POST /v1/customers";

fn setup() -> (Emulator, Stripe) {
    with_key("sk_test_emulator")
}

fn with_key(key: &str) -> (Emulator, Stripe) {
    let emulator = Emulator::offline(StripeConfig { api_key: key.to_owned(), ..StripeConfig::default() });
    let credential = FixedCredential::new(&Scheme::Bearer(emulator.api_key().into())).unwrap();
    let transport = Arc::new(EmulatorTransport::new(emulator.clone()));
    let client = Client::builder(StripeProvider::new().profile(), transport, Arc::new(credential))
        .clock(Arc::new(TokioClock::starting_at(Timestamp::from_seconds(1_767_225_600))))
        .random(Arc::new(SeededRandom::new(7)))
        .build()
        .unwrap();
    // The emulator answers for Stripe's own address: a credential goes nowhere else without being told to.
    let stripe = Stripe::new(Arc::new(client) as Arc<dyn Transport>, "conn_1", "tenant_1");
    (emulator, stripe)
}

/// Fails when a POST goes out without a key, or with a new one for each attempt.
#[tokio::test(start_paused = true)]
async fn a_write_that_was_made_and_not_answered_is_made_once() {
    for fault in [
        Fault::ResetAfter,
        Fault::CutBody,
        Fault::HangAfter,
        Fault::ResetBefore,
        Fault::Status(503),
        Fault::LockTimeout,
    ] {
        let (emulator, stripe) = setup();
        emulator.faults().next(CUSTOMERS, [fault.clone()]);
        let customer = stripe.create_customer(NewCustomer::new().email("a@x.example"), None).await.unwrap();
        let truth = emulator.truth("customers");
        assert_eq!(truth.keys().collect::<Vec<_>>(), [customer.id.as_str()], "{fault:?}");
        let ledger = emulator.ledger();
        assert_eq!(ledger.attempts_by_key.values().copied().collect::<Vec<_>>(), [2], "{fault:?}: one key for both");
        assert_eq!(ledger.keys_reused, 0, "{fault:?}");
    }
}

/// Fails when a stored failure is asked for again and again under the key it is stored for.
#[tokio::test(start_paused = true)]
async fn a_failure_stripe_keeps_for_a_key_is_not_asked_for_for_ever() {
    let (emulator, stripe) = setup();
    emulator.faults().next(CUSTOMERS, [Fault::StatusAfter(500)]);
    let error = stripe.create_customer(NewCustomer::new(), Some("mine")).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Provider, Outcome::Unknown));
    assert_eq!(error.idempotency_key(), Some("mine"), "what to look it up by");
    assert!(emulator.ledger().requests <= 2, "{}", emulator.ledger().requests);
}

#[tokio::test(start_paused = true)]
async fn throttles_are_waited_for_with_and_without_a_hint() {
    for hint in [RetryAfter::None, RetryAfter::Seconds(7)] {
        let (emulator, stripe) = setup();
        emulator.faults().next(CUSTOMERS, [Fault::Throttle(hint)]);
        stripe.create_customer(NewCustomer::new(), None).await.unwrap();
        let ledger = emulator.ledger();
        assert_eq!((ledger.requests, ledger.throttles, ledger.early_after_retry_after), (2, 1, 0), "{hint:?}");
    }
}

/// Fails when the table's buckets let more than 25 a second through to one endpoint.
#[tokio::test(start_paused = true)]
async fn one_endpoint_never_sees_more_than_its_25_a_second() {
    let (emulator, stripe) = setup();
    let customer = emulator.create_customer(&[]).unwrap();
    let id = customer["id"].as_str().unwrap();
    let reads = (0..200).map(|_| stripe.retrieve_customer(id));
    assert!(join_all(reads).await.iter().all(Result::is_ok));
    let ledger = emulator.ledger();
    let peak = ledger.peak_per_second_by_route.values().max().copied().unwrap_or(0);
    assert!((20..=25).contains(&peak), "{peak} in one second: {:?}", ledger.peak_per_second_by_route);
}

/// Fails when an endpoint's calls do not draw from the account's limit as well, or a sandbox's key gets that of a live
/// account.
#[tokio::test(start_paused = true)]
async fn an_account_never_sees_more_than_its_limit_from_all_operations_together() {
    for (key, limit) in [("sk_test_emulator", 25), ("rk_live_emulator", 100)] {
        let (emulator, stripe) = with_key(key);
        let background = stripe.clone().in_background();
        let customer = emulator.create_customer(&[]).unwrap();
        let id = customer["id"].as_str().unwrap();
        // Six endpoints at once, each for itself below its own limit and all of them far above the account's.
        let rounds = (0..60).map(|n| {
            let stripe = if n % 3 == 0 { &background } else { &stripe };
            async move {
                let (created, read, customers, products, prices, subscriptions) = tokio::join!(
                    stripe.create_customer(NewCustomer::new(), None),
                    stripe.retrieve_customer(id),
                    async { stripe.send(&ListCustomer::new(), None).await },
                    async { stripe.send(&ListProduct::new(), None).await },
                    async { stripe.send(&ListPrice::new(), None).await },
                    async { stripe.send(&ListSubscription::new(), None).await },
                );
                assert!(created.is_ok() && read.is_ok());
                assert!(customers.is_ok() && products.is_ok() && prices.is_ok() && subscriptions.is_ok());
            }
        });
        join_all(rounds).await;
        let ledger = emulator.ledger();
        let peak = ledger.peak_per_second;
        assert_eq!((ledger.requests, ledger.throttles), (360, 0), "{key}");
        assert!((limit * 4 / 5..=limit).contains(&peak), "{key}: {peak} in one second");
        let endpoint = ledger.peak_per_second_by_route.values().max().copied().unwrap_or(0);
        assert!(endpoint <= 25, "{key}: {endpoint} of one endpoint in one second");
    }
}

/// Fails when the reason of a 429 is not heeded: what is the account's must stop all, what is an endpoint's only that.
#[tokio::test(start_paused = true)]
async fn a_throttled_account_pauses_all_and_a_throttled_endpoint_only_itself() {
    for (route, others_wait) in [("*", true), ("GET /v1/customers", false)] {
        let (emulator, stripe) = with_key("sk_live_emulator");
        let dialled = RouteFaults {
            route: route.to_owned(),
            budget: Some(1),
            burst: Some(1),
            retry_after: RetryAfter::Seconds(20),
            ..RouteFaults::default()
        };
        emulator.faults().set(dialled);
        stripe.send(&ListCustomer::new(), None).await.unwrap();
        let begin = tokio::time::Instant::now();
        let (throttled, other) = tokio::join!(async { stripe.send(&ListCustomer::new(), None).await }, async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            emulator.faults().clear(route);
            stripe.send(&ListProduct::new(), None).await.map(|_| begin.elapsed())
        });
        throttled.unwrap();
        let waited = other.unwrap();
        assert_eq!(waited >= Duration::from_secs(20), others_wait, "{route}: {waited:?}");
        assert!(begin.elapsed() >= Duration::from_secs(20), "{route}");
        let ledger = emulator.ledger();
        let reason = if others_wait { "global-rate" } else { "endpoint-rate" };
        assert_eq!(ledger.throttles_by_reason.get(reason), Some(&1), "{route}: {:?}", ledger.throttles_by_reason);
        assert_eq!(ledger.early_after_retry_after, 0, "{route}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_succeed_is_not_repeated() {
    let (emulator, stripe) = setup();
    let missing = stripe.retrieve_invoice("in_none").await.unwrap_err();
    assert_eq!((missing.kind(), missing.attempts()), (ErrorKind::NotFound, 1));
    let refund = stripe.refund(NewRefund::of_charge("ch_none"), None).await.unwrap_err();
    assert_eq!((refund.kind(), refund.attempts()), (ErrorKind::Invalid, 1));
    assert_eq!(emulator.ledger().requests, 2);
    emulator.revoke_key();
    let revoked = stripe.retrieve_customer("cus_1").await.unwrap_err();
    assert_eq!(revoked.kind(), ErrorKind::Auth);
    assert!(emulator.ledger().requests <= 4);
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_in_an_error_that_says_so_in_time() {
    let (emulator, stripe) = setup();
    emulator.faults().next("*", [Fault::HangBefore, Fault::HangBefore, Fault::HangBefore]);
    let begin = tokio::time::Instant::now();
    let error = stripe.retrieve_customer("cus_1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(begin.elapsed() <= Duration::from_secs(80), "{:?}", begin.elapsed());
}

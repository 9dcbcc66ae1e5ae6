//! Deliveries: signatures, retries, versions and what the dials do to them. All in memory, with paused time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use palisade_emulator::stripe::{Stripe, StripeConfig, WebhookFaults, signature};
use serde_json::Value;

use super::support::{OLD, config, get, ids, shop};

/// A receiver: what it got, and what it answers next (200 when the script is empty).
#[derive(Debug, Default, Clone)]
struct Receiver {
    got: Arc<Mutex<Vec<(String, Bytes)>>>,
    script: Arc<Mutex<VecDeque<u16>>>,
}

impl Receiver {
    fn emulator(&self) -> Stripe {
        let receiver = self.clone();
        let sender = Arc::new(move |request: Request<Bytes>| {
            let receiver = receiver.clone();
            let answer: std::pin::Pin<Box<dyn Future<Output = Option<u16>> + Send>> = Box::pin(async move {
                let header = request.headers()["stripe-signature"].to_str().unwrap().to_owned();
                if !verify(&header, request.body(), "whsec_a") {
                    return Some(401);
                }
                receiver.got.lock().unwrap().push((header, request.into_body()));
                Some(receiver.script.lock().unwrap().pop_front().unwrap_or(200))
            });
            answer
        });
        Stripe::offline(StripeConfig { webhook_sender: Some(sender), ..config() })
    }

    fn events(&self) -> Vec<Value> {
        self.got.lock().unwrap().iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
    }

    fn ids(&self) -> Vec<String> {
        self.events().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn verify(header: &str, body: &[u8], secret: &str) -> bool {
    let at = header.split(',').find_map(|part| part.strip_prefix("t=")).unwrap().parse().unwrap();
    let now = 1_795_305_600;
    header.split(',').filter_map(|part| part.strip_prefix("v1=")).any(|mac| mac == signature(secret, at, body))
        && now - at < 600
}

#[tokio::test(start_paused = true)]
async fn events_arrive_signed_and_are_retried_until_acknowledged() {
    let receiver = Receiver::default();
    let stripe = receiver.emulator();
    receiver.script.lock().unwrap().extend([500, 404]);
    let endpoint = stripe.webhook_endpoint("http://receiver.invalid/hook", "whsec_a", None, &["*"]);
    let customer = stripe.create_customer(&[("name", "Ada")]).unwrap();
    let pending = get(&stripe, "/v1/events?delivery_success=false").await.ok();
    assert_eq!((ids(&pending).len(), pending["data"][0]["pending_webhooks"].as_u64()), (1, Some(1)));
    stripe.drain_webhooks().await;
    let events = receiver.events();
    assert_eq!(events.len(), 3);
    assert!(events.iter().all(|event| event["id"] == events[0]["id"] && event["data"]["object"] == customer));
    assert_eq!(get(&stripe, "/v1/events").await.ok()["data"][0]["pending_webhooks"], 0);
    let ledger = stripe.ledger().webhooks;
    assert_eq!((ledger.attempted, ledger.acked, ledger.refused, ledger.retried), (3, 1, 2, 2));
    assert!(ledger.acked_events.contains(events[0]["id"].as_str().unwrap()));
    let (header, body) = stripe.signed(&endpoint, events[0]["id"].as_str().unwrap()).unwrap();
    assert!(verify(&header, &body, "whsec_a"));
    let compact = serde_json::to_vec(&events[0]).unwrap();
    assert!(!verify(&header, &compact, "whsec_a"), "writing the JSON again breaks the signature");
}

#[tokio::test(start_paused = true)]
async fn a_rolled_secret_signs_twice_and_a_deaf_receiver_is_given_up() {
    let receiver = Receiver::default();
    let stripe = receiver.emulator();
    let endpoint = stripe.webhook_endpoint("http://receiver.invalid/", "whsec_a", None, &["customer.*"]);
    assert!(stripe.roll_secret(&endpoint).unwrap().starts_with("whsec_"));
    stripe.create_customer(&[]).unwrap();
    stripe.drain_webhooks().await;
    assert_eq!(receiver.got.lock().unwrap()[0].0.matches("v1=").count(), 2);
    receiver.script.lock().unwrap().extend([500; 6]);
    stripe.create_customer(&[]).unwrap();
    stripe.drain_webhooks().await;
    let ledger = stripe.ledger().webhooks;
    assert_eq!((ledger.abandoned, ledger.retried), (1, 5));
    assert_eq!(ids(&get(&stripe, "/v1/events?delivery_success=false").await.ok()).len(), 1);
    assert!(stripe.roll_secret("we_none").is_none());
}

#[tokio::test(start_paused = true)]
async fn the_shape_follows_the_endpoint() {
    let receiver = Receiver::default();
    let stripe = receiver.emulator();
    stripe.webhook_endpoint(
        "http://receiver.invalid/",
        "whsec_a",
        Some(OLD),
        &["customer.subscription.*", "invoice.paid"],
    );
    let (customer, price) = shop(&stripe);
    let subscription = stripe.create_subscription(&customer, &price).unwrap();
    stripe.advance_subscription(subscription["id"].as_str().unwrap()).unwrap();
    stripe.drain_webhooks().await;
    let events = receiver.events();
    assert!(events.iter().all(|event| event["api_version"] == OLD));
    let paid = events.iter().find(|event| event["type"] == "invoice.paid").unwrap();
    assert_eq!(paid["data"]["object"]["subscription"], subscription["id"]);
    assert!(paid["data"]["object"]["payment_intent"].is_string());
    let renewed = events.iter().find(|event| event["type"] == "customer.subscription.updated").unwrap();
    assert!(renewed["data"]["object"]["current_period_end"].is_i64());
    assert!(renewed["data"]["previous_attributes"]["current_period_end"].is_i64());
    assert!(stripe.events().iter().all(|event| event["api_version"] == "2026-09-30.endive"));
}

#[tokio::test(start_paused = true)]
async fn dials_duplicate_drop_delay_and_forge() {
    let receiver = Receiver::default();
    let stripe = receiver.emulator();
    stripe.webhook_endpoint("http://receiver.invalid/", "whsec_a", None, &["*"]);
    stripe.faults().webhooks(WebhookFaults { drop: 1.0, ..WebhookFaults::default() });
    stripe.create_customer(&[]).unwrap();
    stripe.drain_webhooks().await;
    assert!(receiver.ids().is_empty() && stripe.events().len() == 1);

    stripe.faults().webhooks(WebhookFaults { duplicate: 1.0, forge: 1.0, replay: 1.0, ..WebhookFaults::default() });
    stripe.create_customer(&[]).unwrap();
    stripe.drain_webhooks().await;
    assert_eq!(receiver.ids().len(), 2);
    let ledger = stripe.ledger().webhooks;
    assert_eq!((ledger.dropped, ledger.duplicated, ledger.forged, ledger.forged_accepted), (1, 1, 1, 0));
    assert_eq!((ledger.replayed, ledger.replayed_accepted), (1, 0));

    receiver.got.lock().unwrap().clear();
    let late = (Duration::from_secs(60), Duration::from_secs(120));
    stripe.faults().webhooks(WebhookFaults { reorder: 0.5, late: Some(late), ..WebhookFaults::default() });
    let before = tokio::time::Instant::now();
    for _ in 0..30 {
        stripe.create_customer(&[]).unwrap();
    }
    assert_eq!(stripe.webhooks_waiting(), 30);
    stripe.drain_webhooks().await;
    assert!(before.elapsed() >= Duration::from_secs(60));
    let made: Vec<String> =
        stripe.events().iter().skip(2).map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    let got = receiver.ids();
    assert_ne!(got, made, "order differs");
    assert_eq!(got.iter().collect::<std::collections::BTreeSet<_>>(), made.iter().collect());
}

#[tokio::test(start_paused = true)]
async fn connect_endpoints_hear_connected_accounts_only() {
    let receiver = Receiver::default();
    let stripe = receiver.emulator();
    stripe.connect_endpoint("http://receiver.invalid/", "whsec_a", None, &["*"]);
    stripe.create_customer(&[]).unwrap();
    stripe.call_on("acct_other", "POST", "/v1/customers", &[]).unwrap();
    stripe.drain_webhooks().await;
    let events = receiver.events();
    assert_eq!((events.len(), events[0]["account"].as_str()), (1, Some("acct_other")));
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_managed_over_the_api() {
    let receiver = Receiver::default();
    let stripe = receiver.emulator();
    let made = stripe
        .call("POST", "/v1/webhook_endpoints", &[("url", "http://receiver.invalid/"), ("enabled_events[]", "*")])
        .unwrap();
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    let path = format!("/v1/webhook_endpoints/{}", made["id"].as_str().unwrap());
    assert!(stripe.call("GET", &path, &[]).unwrap().get("secret").is_none());
    stripe.call("POST", &path, &[("disabled", "true")]).unwrap();
    stripe.create_customer(&[]).unwrap();
    assert_eq!(stripe.webhooks_waiting(), 0);
    stripe.call("DELETE", &path, &[]).unwrap();
    assert_eq!(stripe.call("GET", &path, &[]).unwrap_err().status, 404);
}

/// Fails when a destination is sent snapshots, or types of v1 without what stands before them, or when what a notice names
/// cannot be fetched.
#[tokio::test(start_paused = true)]
async fn a_destination_is_sent_notices_that_lead_to_event_and_object() {
    let receiver = Receiver::default();
    let stripe = receiver.emulator();
    stripe.event_destination("http://receiver.invalid/", "whsec_a", &["v1.customer.updated", "customer.created"]);
    let customer = stripe.create_customer(&[("name", "Ada")]).unwrap();
    let place = format!("/v1/customers/{}", customer["id"].as_str().unwrap());
    stripe.call("POST", &place, &[("name", "Grace")]).unwrap();
    stripe.drain_webhooks().await;
    let notices = receiver.events();
    assert_eq!(notices.len(), 1, "of what it asked for: {notices:?}");
    let notice = &notices[0];
    assert_eq!((&notice["object"], &notice["type"]), (&"v2.core.event".into(), &"v1.customer.updated".into()));
    assert_eq!(notice["related_object"]["url"], place);
    let event = get(&stripe, &format!("/v2/core/events/{}", notice["id"].as_str().unwrap())).await.ok();
    assert_eq!(event["changes"]["before"]["name"], "Ada");
    assert_eq!(event["changes"]["after"]["name"], "Grace");
    let snapshot = get(&stripe, &format!("/v1/events/{}", event["snapshot_event"].as_str().unwrap())).await.ok();
    assert_eq!(snapshot["type"], "customer.updated");
    get(&stripe, "/v2/core/events/evt_test_none").await.refused(404, "not_found");
    assert_eq!(stripe.ledger().webhooks.acked, 1);
}

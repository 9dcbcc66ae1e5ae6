//! The journal: a provider that dies goes on in the next process with everything anybody had heard of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use palisade_emulator::stripe::{Fault, Seed, Stripe, StripeConfig, WebhookFaults};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use super::support::{OLD, config, raw, request, seed};

const STREAMS: [&str; 8] =
    ["customers", "products", "prices", "subscriptions", "invoices", "charges", "payment_intents", "refunds"];

/// What a receiver got, by event: the exact bytes.
type Got = Arc<Mutex<Vec<Bytes>>>;

fn id_of(body: &Bytes) -> String {
    let event: Value = serde_json::from_slice(body).unwrap();
    event["id"].as_str().unwrap().to_owned()
}

/// A provider whose one receiver acknowledges the first `acks` deliveries and then is deaf.
fn provider(path: &Path, acks: usize) -> (Stripe, Got) {
    let got = Got::default();
    let kept = Arc::clone(&got);
    let sender = Arc::new(move |request: Request<Bytes>| {
        let kept = Arc::clone(&kept);
        let answer: std::pin::Pin<Box<dyn Future<Output = Option<u16>> + Send>> = Box::pin(async move {
            let mut kept = kept.lock().unwrap();
            kept.push(request.into_body());
            Some(if kept.len() <= acks { 200 } else { 500 })
        });
        answer
    });
    let stripe = Stripe::offline(StripeConfig { webhook_sender: Some(sender), webhook_retries: vec![], ..config() });
    stripe.keep_journal(path).unwrap();
    (stripe, got)
}

fn listen(stripe: &Stripe) {
    let _ = stripe.webhook_endpoint("http://receiver.invalid/hook", "whsec_a", Some(OLD), &["*"]);
}

type Truth = BTreeMap<&'static str, BTreeMap<String, Value>>;

fn truth(stripe: &Stripe) -> Truth {
    STREAMS.into_iter().map(|stream| (stream, stripe.truth(stream))).collect()
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("provider.jsonl");
    (folder, path)
}

/// Lives a while: is filled, changes at random, answers requests, sends webhooks.
async fn live(stripe: &Stripe, changes: usize) {
    stripe.populate(&Seed { customers: 40, ..seed(40) });
    listen(stripe);
    let mut dice = StdRng::seed_from_u64(3);
    for n in 0..changes {
        let _ = stripe.random_mutation(&mut dice);
        if n % 5 == 0 {
            let key = format!("key-{n}");
            let fault = [Fault::Pass, Fault::StatusAfter(500), Fault::ResetAfter][n % 3].clone();
            stripe.faults().next("POST /v1/customers", [fault]);
            let _ = raw(stripe, "POST", "/v1/customers", "name=Ada", &[("idempotency-key", &key)]).await;
        }
        if dice.random_bool(0.1) {
            let customer = stripe.truth("customers").keys().next().cloned().unwrap();
            let _ = raw(stripe, "DELETE", &format!("/v1/customers/{customer}"), "", &[]).await;
        }
    }
    stripe.drain_webhooks().await;
}

/// Fails when a change is not written down, is written after somebody heard of it, or comes back in another form.
#[tokio::test(start_paused = true)]
async fn a_provider_that_died_remembers_what_anybody_had_heard_of() {
    let (_folder, path) = file();
    let (first, _) = provider(&path, 60);
    live(&first, 120).await;
    let (was, events, ledger) = (truth(&first), first.events(), first.ledger());
    assert!(ledger.webhooks.acked_events.len() == 60 && ledger.events_created > 120, "the life shows something");
    drop(first);

    let (second, got) = provider(&path, usize::MAX);
    assert_eq!(truth(&second), was);
    assert_eq!(second.events(), events);
    assert_eq!(second.ledger().events_created, ledger.events_created);
    assert_eq!(second.ledger().webhooks.acked_events, ledger.webhooks.acked_events);

    // A key's answer is the first one, whatever became of it on the way.
    for n in [0, 5, 10] {
        let key = format!("key-{n}");
        let again = raw(&second, "POST", "/v1/customers", "name=Ada", &[("idempotency-key", &key)]).await.unwrap();
        assert_eq!(again.header("idempotent-replayed"), "true", "{key}");
    }
    let other = raw(&second, "POST", "/v1/customers", "name=Eve", &[("idempotency-key", "key-0")]).await.unwrap();
    assert_eq!((other.status, second.ledger().keys_reused), (400, 1));

    // What nobody acknowledged is sent again with the same bytes, once.
    listen(&second);
    let unheard: BTreeSet<String> = events
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .filter(|id| !ledger.webhooks.acked_events.contains(id))
        .collect();
    assert_eq!(second.redeliver(), unheard.len());
    assert_eq!(second.redeliver(), 0);
    second.drain_webhooks().await;
    let sent = got.lock().unwrap().clone();
    assert_eq!(sent.iter().map(id_of).collect::<BTreeSet<_>>(), unheard);
    assert!(sent.iter().all(|body| body.windows(OLD.len()).any(|part| part == OLD.as_bytes())), "in its own version");

    // It goes on, with identifiers nobody has.
    let fresh = second.create_customer(&[]).unwrap();
    assert!(!was["customers"].contains_key(fresh["id"].as_str().unwrap()));
    let (was, breaches) = (truth(&second), second.ledger().keys_reused);
    drop(second);
    let (third, _) = provider(&path, 0);
    assert_eq!((truth(&third), third.ledger().keys_reused), (was, breaches));
    listen(&third);
    assert_eq!(third.redeliver(), 1, "only the newest customer's event was not acknowledged");
}

/// Fails when a line that was cut off is taken, or keeps the provider from going on; or when an operation is
/// remembered by halves.
#[tokio::test(start_paused = true)]
async fn wherever_the_file_is_cut_the_provider_goes_on_with_whole_operations() {
    let (_folder, path) = file();
    let (first, _) = provider(&path, 10);
    live(&first, 30).await;
    drop(first);
    let whole = std::fs::read(&path).unwrap();
    let mut dice = StdRng::seed_from_u64(11);
    for _ in 0..25 {
        let at = dice.random_range(0..=whole.len());
        let (_folder, path) = file();
        std::fs::write(&path, &whole[..at]).unwrap();
        let (cut, _) = provider(&path, 0);
        assert_eq!(
            std::fs::read(&path).unwrap(),
            whole[..at]
                .split_inclusive(|b| *b == b'\n')
                .filter(|line| line.ends_with(b"\n"))
                .collect::<Vec<_>>()
                .concat(),
            "cut at {at}"
        );
        let truth = cut.truth("customers");
        for event in cut.events().iter().filter(|event| event["type"] == "customer.created") {
            let id = event.pointer("/data/object/id").and_then(Value::as_str).unwrap();
            let deleted = cut
                .events()
                .iter()
                .any(|event| event["type"] == "customer.deleted" && event.pointer("/data/object/id").unwrap() == id);
            assert_ne!(truth.contains_key(id), deleted, "cut at {at}: {id} and its events disagree");
        }
        let _ = cut.create_customer(&[]).unwrap();
        drop(cut);
        let (_again, _) = provider(&path, 0);
    }
}

/// Fails when deliveries the dials swallowed are sent after all, or a breach of an earlier life is forgotten.
#[tokio::test(start_paused = true)]
async fn what_was_lost_on_purpose_stays_lost_and_breaches_stay_known() {
    let (_folder, path) = file();
    let (first, _) = provider(&path, usize::MAX);
    listen(&first);
    first.faults().webhooks(WebhookFaults { drop: 1.0, ..WebhookFaults::default() });
    let _ = first.create_customer(&[]).unwrap();
    first.faults().webhooks(WebhookFaults { forge: 1.0, ..WebhookFaults::default() });
    let _ = first.create_customer(&[]).unwrap();
    first.drain_webhooks().await;
    assert_eq!((first.ledger().webhooks.dropped, first.ledger().webhooks.forged_accepted), (1, 1));
    drop(first);
    let (second, got) = provider(&path, usize::MAX);
    listen(&second);
    assert_eq!(second.redeliver(), 0);
    second.drain_webhooks().await;
    assert!(got.lock().unwrap().is_empty());
    assert_eq!((second.ledger().webhooks.dropped, second.ledger().webhooks.forged_accepted), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_kept_is_refused() {
    let (_folder, path) = file();
    let used = Stripe::offline(config());
    let _ = used.create_customer(&[]).unwrap();
    assert_eq!(used.keep_journal(&path).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    std::fs::write(&path, "{\"another\":\"program\"}\n").unwrap();
    let error = Stripe::offline(config()).keep_journal(&path).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("line 1"), "{error}");
    let _ = used.handle(request("GET", "/v1/customers", "", &[])).await.unwrap();
}

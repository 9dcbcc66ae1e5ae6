//! `/metrics`: every name is written down in docs/operating.md, and every name written down is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use palisade_core::Timestamp;
use palisade_core::clock::ManualClock;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{Claim, Inbox, Jobs, NewJob, Queue, Records, Room, RunMode, StreamKey, Work};
use palisade_core::worker::NewCall;
use palisade_hub::Access;

use crate::fixtures::{NOW, ask, builder, delivery, event, settings};
use crate::running::{Empty, run_for};

/// Names of series in the text form.
fn names(text: &str) -> BTreeSet<String> {
    let series = text.lines().filter(|line| !line.starts_with('#'));
    series
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(|name| {
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
        })
        .collect()
}

/// Names in the first column of the table in the document.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../../../../docs/operating.md");
    let first = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('|').next());
    let names = first.flat_map(|cell| cell.split('`')).map(str::trim);
    names.filter(|name| name.starts_with("palisade_") || name.starts_with("http_client_")).map(str::to_owned).collect()
}

// Fails when a metric is added, renamed or removed without a word to whoever watches it.
#[tokio::test(start_paused = true)]
async fn every_metric_is_documented_under_its_exact_name() {
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(store.clone(), clock.clone()).transport(Arc::new(Empty::default()));
    let forwards = Arc::new(Empty::default());
    let hub = hub.forward_transport(forwards).settings(settings(Access::Trusted)).build().unwrap();
    let app = r#"{"name":"app","url":"https://app.example.com/hooks"}"#;
    let made = http::Request::post("/api/v1/destinations").body(axum::body::Body::from(app)).unwrap();
    assert_eq!(ask(&hub.router(), made).await.status, 201);
    run_for(&hub, 5).await;
    for request in [delivery("stripe", event("evt_1", "invoice.paid")), delivery("stripe", "{}")] {
        let _ = ask(&hub.router(), request).await;
    }
    let _ = ask(&hub.router(), delivery("stripe", event("evt_3", "customer.created"))).await;
    // Both are of one object, and so handled one after the other.
    while hub.worker().step(Queue::Events).await.unwrap() > 0 {}
    let states = store.events(None, None, 9).await.unwrap().events;
    let states: Vec<_> = states.into_iter().map(|event| (event.event.kind, event.state, event.reason)).collect();
    assert!(hub.worker().step(Queue::Forwards).await.unwrap() > 0, "an event is forwarded: {states:?}");
    let call = NewCall::new("acme-stripe", http::Method::POST, "/v1/customers");
    hub.enqueue(call).await.unwrap();
    hub.worker().step(Queue::Calls).await.unwrap();
    let mut forged = delivery("stripe", event("evt_2", "invoice.paid"));
    forged.headers_mut().remove("stripe-signature");
    let _ = ask(&hub.router(), forged).await;
    let answer = ask(&hub.router(), http::Request::get("/metrics").body(axum::body::Body::empty()).unwrap()).await;
    let text = answer.text();
    let (found, documented) = (names(&text), documented());
    let unknown: Vec<_> = found.difference(&documented).collect();
    assert!(unknown.is_empty(), "not in docs/operating.md: {unknown:?}");
    // These stand there only once it has happened.
    let rare = ["palisade_call_repeats_total", "palisade_credential_refreshes_total", "palisade_lanes_forgotten_total"];
    let gone: Vec<_> = documented.difference(&found).filter(|name| !rare.contains(&name.as_str())).collect();
    assert!(gone.is_empty(), "only in docs/operating.md: {gone:?}\n{text}");
    assert!(!text.contains("acme"), "neither tenant nor connection is a label: {text}");
}

// Fails when the age is not that of the oldest, is of a job that is not due, or a run without progress goes unseen.
#[tokio::test]
async fn what_waits_too_long_and_what_does_not_move_is_seen() {
    let store = Arc::new(MemoryStore::new());
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(store.clone(), clock.clone()).settings(settings(Access::Trusted)).build().unwrap();
    let shows = async |lines: &[&str]| {
        let answer = ask(&hub.router(), http::Request::get("/metrics").body(axum::body::Body::empty()).unwrap()).await;
        let text = answer.text();
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} in\n{text}");
        }
    };
    shows(&[
        "palisade_job_oldest_seconds{queue=\"events\"} 0",
        "palisade_job_oldest_seconds{queue=\"background\"} 0",
        "palisade_runs_live{state=\"moving\"} 0",
        "palisade_runs_live{state=\"stalled\"} 0",
    ])
    .await;
    let key = |stream: &str| StreamKey { connection: "acme-stripe".into(), stream: stream.into() };
    let job = |stream: &str, run_at: Timestamp| NewJob {
        work: Work::Sync { key: key(stream), mode: RunMode::Full },
        lane: None,
        group: None,
        tenant: None,
        unique: None,
        priority: 0,
        run_at,
        attempts_max: 5,
    };
    let later = NOW.plus(Duration::from_secs(3_600));
    store.enqueue(vec![job("customers", NOW), job("invoices", NOW), job("prices", later)]).await.unwrap();
    let claim =
        Claim { now: NOW, hold: Duration::from_secs(60), max: 1, queue: Queue::Background, room: Room::default() };
    let held = store.claim(claim).await.unwrap().remove(0);
    store.start_run(held.lease, key("customers"), RunMode::Full, NOW).await.unwrap();
    clock.advance(Duration::from_secs(90));
    shows(&["palisade_job_oldest_seconds{queue=\"background\"} 90", "palisade_runs_live{state=\"moving\"} 1"]).await;
    clock.advance(Duration::from_secs(30 * 60));
    shows(&["palisade_runs_live{state=\"moving\"} 0", "palisade_runs_live{state=\"stalled\"} 1"]).await;
}

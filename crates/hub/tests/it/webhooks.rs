//! `POST /webhooks/{endpoint}`: what is accepted, what is refused, and that nothing acknowledged is lost.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use palisade_core::clock::ManualClock;
use palisade_core::store::{EventState, Inbox, Queue};
use palisade_hub::{Access, Settings, UNREADABLE};
use palisade_store::{SqliteConfig, SqliteStore};

use crate::fixtures::{HOOK_SECRET, NOW, ask, builder, delivery, event, fixture, fixture_with, settings};

// Fails when the answer is sent before the append, or when the append is left out.
#[tokio::test]
async fn a_signed_delivery_is_stored_then_acknowledged_and_a_repeat_is_a_duplicate() {
    let fixture = fixture();
    let answer = fixture.deliver(event("evt_1", "customer.updated")).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    let stored = fixture.store.events(None, None, 10).await.unwrap().events;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].event.id.as_str(), "evt_1");
    assert_eq!(stored[0].endpoint.as_str(), "stripe");
    assert_eq!(stored[0].connection.as_str(), "acme-stripe");
    assert_eq!(stored[0].state, EventState::Pending);
    let whole = fixture.store.event(stored[0].row).await.unwrap().unwrap();
    assert_eq!(whole.event.payload, event("evt_1", "customer.updated"));

    assert_eq!(fixture.deliver(event("evt_1", "customer.updated")).await.status, 200);
    assert_eq!(fixture.store.events(None, None, 10).await.unwrap().events.len(), 1);
    let metrics = fixture.get("/metrics").await.text();
    for line in [
        r#"palisade_webhook_deliveries_total{endpoint="stripe",result="accepted"} 1"#,
        r#"palisade_webhook_deliveries_total{endpoint="stripe",result="duplicate"} 1"#,
        r#"palisade_events{state="pending"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

// Fails when an event no handler wants is refused or dropped, or waits for one.
#[tokio::test]
async fn an_event_nobody_wants_is_stored_as_ignored_and_acknowledged() {
    let fixture = fixture();
    assert_eq!(fixture.deliver(event("evt_1", "something.unheard_of")).await.status, 200);
    assert_eq!(fixture.store.events(None, None, 10).await.unwrap().events[0].state, EventState::Ignored);
}

// Fails when large bodies of senders that have proven nothing fill the memory: all of these are one byte short of the cap
// and never end.
#[tokio::test(start_paused = true)]
async fn bodies_that_arrive_at_once_share_a_bounded_room() {
    let fixture = fixture();
    let endless = || {
        let most = futures_util::stream::iter([Ok::<_, std::io::Error>(vec![b'x'; (1 << 20) - 1])]);
        let body = Body::from_stream(futures_util::StreamExt::chain(most, futures_util::stream::pending()));
        fixture.ask(Request::post("/webhooks/stripe").body(body).unwrap())
    };
    let answers = futures_util::future::join_all((0..80).map(|_| endless())).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    // 64 MiB in units of 64 KiB, fifteen for each.
    assert_eq!(refused.len(), 80 - 1024 / 15);
    assert!(refused.iter().all(|answer| answer.headers["retry-after"] == "5"));
    assert_eq!(fixture.deliver(event("evt_1", "customer.updated")).await.status, 200, "and it is given back");
}

// Fails when verification is skipped, or when the answer tells the forger what was wrong.
#[tokio::test]
async fn every_bad_signature_gets_the_same_flat_refusal_and_reaches_nothing() {
    let fixture = fixture();
    let body = event("evt_1", "customer.updated");
    let good = palisade_stripe::webhook::sign(&HOOK_SECRET.into(), NOW, body.as_bytes());
    let other = palisade_stripe::webhook::sign(&"whsec_other".into(), NOW, body.as_bytes());
    let old = palisade_stripe::webhook::sign(
        &HOOK_SECRET.into(),
        NOW.minus(std::time::Duration::from_secs(301)),
        body.as_bytes(),
    );
    let mut answers = Vec::new();
    for signature in [
        None,
        Some(other),
        Some(old),
        Some(good.replace("v1=", "v0=")),
        Some(String::new()),
        Some("t=,v1=".repeat(500)),
    ] {
        let mut request = Request::post("/webhooks/stripe");
        if let Some(signature) = &signature {
            request = request.header("stripe-signature", signature);
        }
        let answer = fixture.ask(request.body(Body::from(body.clone())).unwrap()).await;
        answer.is_error(401, "bad_signature");
        answers.push(answer.body);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "a forger must not be able to tell the refusals apart");
    assert!(fixture.store.events(None, None, 10).await.unwrap().events.is_empty());
    let metrics = fixture.get("/metrics").await.text();
    for (reason, count) in [("missing_header", 1), ("mismatch", 1), ("too_old", 1)] {
        let line = format!(r#"palisade_webhook_refusals_total{{endpoint="stripe",reason="{reason}"}} {count}"#);
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

// Fails when a name that is unknown or no text, or a GET, is taken for a delivery.
#[tokio::test]
async fn an_endpoint_that_is_unknown_without_secret_or_asked_wrongly_says_so() {
    let fixture = fixture();
    fixture.ask(delivery("nobody", "{}")).await.is_error(404, "unknown_endpoint");
    fixture.ask(delivery("%ff%fe", "{}")).await.is_error(404, "unknown_endpoint");
    // Fails when an endpoint without a secret lets anything pass.
    let bare = fixture.ask(delivery("bare", event("evt_1", "customer.updated"))).await;
    bare.is_error(503, "no_secret");
    assert!(bare.header("retry-after").is_some());
    fixture.get("/webhooks/stripe").await.is_error(405, "method_not_allowed");
    fixture.get("/webhooks").await.is_error(404, "not_found");
    assert!(fixture.store.events(None, None, 10).await.unwrap().events.is_empty());
}

// Fails when an unreadable delivery is answered 4xx (the provider gives up), dropped, or retried blindly.
#[tokio::test]
async fn a_signed_delivery_that_cannot_be_read_is_kept_as_a_dead_letter() {
    let fixture = fixture().with_connection().await;
    let deep = format!(r#"{{"id":"evt_deep","x":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    let bodies: [Vec<u8>; 5] =
        [b"".to_vec(), b"not json".to_vec(), b"\xff\xfe\x00".to_vec(), b"[1,2]".to_vec(), deep.into_bytes()];
    let count = bodies.len();
    for body in bodies.clone() {
        let answer = fixture.deliver(body.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(fixture.deliver(body).await.status, 200, "a repeat is a duplicate");
    }
    let stored = fixture.store.events(None, None, 100).await.unwrap().events;
    assert_eq!(stored.len(), count);
    for (event, body) in stored.iter().rev().zip(&bodies) {
        assert_eq!(event.event.kind, UNREADABLE);
        let whole = fixture.store.event(event.row).await.unwrap().unwrap();
        assert_eq!(whole.event.payload, body.as_slice(), "the raw bytes are kept");
    }
    while fixture.hub.worker().step(Queue::Events).await.unwrap() > 0 {}
    let dead = fixture.store.events(Some(EventState::Dead), None, 100).await.unwrap().events;
    assert_eq!(dead.len(), count, "one attempt is enough");
    // The API shows it whatever it is.
    for event in dead {
        let answer = fixture.get(&format!("/api/v1/events/{}", event.row.0)).await;
        assert_eq!(answer.status, 200);
        let text = answer.text();
        assert!(text.contains(r#""state":"dead""#) && text.contains(r#""payload"#), "{}", &text[..200]);
    }
}

// Fails when the cap is off by one, goes by the announced length alone, or is looked at only behind the signature.
#[tokio::test]
async fn a_body_over_the_cap_is_refused_and_one_at_the_cap_is_not() {
    let fixture = fixture_with(Settings { body_bytes_max: 2_000, ..settings(Access::Trusted) });
    let padded = |size: usize| {
        let body = event("evt_1", "customer.updated");
        let pad = " ".repeat(size - body.len());
        body + &pad
    };
    assert_eq!(fixture.deliver(padded(2_000)).await.status, 200);
    fixture.deliver(padded(2_001)).await.is_error(413, "body_too_large");
    // Without a length to announce: the bytes are counted.
    let chunks = futures_util::stream::iter(
        padded(2_001).into_bytes().into_iter().map(|byte| Ok::<_, std::io::Error>(vec![byte])),
    );
    let request = Request::post("/webhooks/stripe").body(Body::from_stream(chunks)).unwrap();
    fixture.ask(request).await.is_error(413, "body_too_large");
    // A claim of length is refused before a byte is read.
    let request =
        Request::post("/webhooks/stripe").header("content-length", "999999999999").body(Body::empty()).unwrap();
    fixture.ask(request).await.is_error(413, "body_too_large");
    let metrics = fixture.get("/metrics").await.text();
    assert!(metrics.contains(r#"{endpoint="stripe",result="too_large"} 3"#), "{metrics}");
}

// Fails when parts of a body are lost, swapped or doubled, or an endpoint is found by one spelling of its path only.
#[tokio::test]
async fn a_delivery_in_parts_and_to_an_escaped_path_is_the_same_delivery() {
    let fixture = fixture();
    let body = event("evt_1", "customer.updated");
    for (path, size) in [("/webhooks/stripe", 1), ("/webhooks/%73tripe", 7), ("/webhooks/stripe", 10_000)] {
        let chunks: Vec<_> = body.as_bytes().chunks(size).map(|part| Ok::<_, std::io::Error>(part.to_vec())).collect();
        let (mut parts, _) = delivery("stripe", body.clone()).into_parts();
        parts.uri = path.parse().unwrap();
        let request = Request::from_parts(parts, Body::from_stream(futures_util::stream::iter(chunks)));
        assert_eq!(fixture.ask(request).await.status, 200, "{path} in parts of {size}");
    }
    let stored = fixture.store.events(None, None, 10).await.unwrap().events;
    assert_eq!(stored.len(), 1);
    let whole = fixture.store.event(stored[0].row).await.unwrap().unwrap();
    assert_eq!(whole.event.payload, body);
}

// Fails when a body that never ends holds a request open.
#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up_in_time() {
    let fixture = fixture();
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let request = Request::post("/webhooks/stripe").body(Body::from_stream(never)).unwrap();
    fixture.ask(request).await.is_error(408, "timeout");
    let broken = futures_util::stream::iter([Ok(b"{".to_vec()), Err(std::io::Error::other("gone"))]);
    let request = Request::post("/webhooks/stripe").body(Body::from_stream(broken)).unwrap();
    fixture.ask(request).await.is_error(400, "invalid");
}

// Fails when a failed commit is acknowledged.
#[tokio::test]
async fn a_store_that_fails_or_is_full_acknowledges_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let open = |queue_max| {
        let config = SqliteConfig { queue_max, ..SqliteConfig::at(folder.path().join(format!("{queue_max}.db"))) };
        SqliteStore::open(config).unwrap()
    };
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let closed = open(16);
    closed.close().await.unwrap();
    for (store, kind) in [(closed, "store"), (open(0), "overloaded")] {
        let hub = builder(Arc::new(store), clock.clone()).settings(settings(Access::Trusted)).build().unwrap();
        let router = hub.router();
        let answer = ask(&router, delivery("stripe", event("evt_1", "customer.updated"))).await;
        answer.is_error(503, kind);
        assert!(answer.header("retry-after").is_some_and(|after| after.parse::<u64>().unwrap() >= 1));
    }
}

// Fails when a link begins at the root of the host instead of where the router is mounted.
#[tokio::test]
async fn the_router_works_wherever_it_is_mounted() {
    let fixture = fixture();
    let mounted = axum::Router::new().nest("/ops/palisade", fixture.router.clone());
    let body = event("evt_1", "customer.updated");
    let (mut parts, body) = delivery("stripe", body).into_parts();
    parts.uri = "/ops/palisade/webhooks/stripe".parse().unwrap();
    assert_eq!(ask(&mounted, Request::from_parts(parts, body)).await.status, 200);
    let page = ask(&mounted, Request::get("/ops/palisade").body(Body::empty()).unwrap()).await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains(r#"href="/ops/palisade/style.css""#), "{}", page.text());
}

//! Schedules over the API: what is told, what is set, what is refused; chores and calls by day.

use axum::body::Body;
use http::{Method, Request};
use palisade_core::ErrorKind;
use palisade_core::store::CallRecord;
use palisade_core::{ConnectionId, Timestamp};
use serde_json::{Value, json};

use crate::fixtures::{Answer, Fixture, NOW, fixture};

const OF_EVENTS: &str = "/api/v1/connections/acme-stripe/streams/events/schedule";
const OF_CUSTOMERS: &str = "/api/v1/connections/acme-stripe/streams/customers/schedule";

async fn send(fixture: &Fixture, method: Method, path: &str, body: impl Into<Body>) -> Answer {
    fixture.ask(Request::builder().method(method).uri(path).body(body.into()).unwrap()).await
}

async fn stream(fixture: &Fixture, name: &str) -> Value {
    let shown = fixture.get("/api/v1/connections/acme-stripe").await.json();
    let streams = shown["streams"].as_array().unwrap();
    streams.iter().find(|stream| stream["name"] == name).unwrap().clone()
}

async fn connected() -> Fixture {
    let fixture = fixture().with_connection().await;
    let connection = fixture.hub.store().connection("acme-stripe".into()).await.unwrap().unwrap();
    fixture.hub.worker().connect(&connection).await.unwrap();
    fixture
}

// Fails when what is set is not stored, not heeded at once, not shown, or not taken back.
#[tokio::test]
async fn the_schedule_of_a_stream_is_set_shown_and_taken_back() {
    let fixture = connected().await;
    let before = stream(&fixture, "events").await;
    assert_eq!(
        (&before["incremental"]["said_by"], &before["incremental"]["words"]),
        (&json!("settings"), &json!("every 15 minutes"))
    );
    assert_eq!(before["incremental"]["next_at"], "2026-01-01T00:00:00Z", "due now");
    assert_eq!(before["full"], Value::Null, "a stream of events has none");

    let body = r#"{"mode":"full","schedule":"0 3 * * SUN Europe/London ~2h"}"#;
    let set = send(&fixture, Method::PUT, OF_CUSTOMERS, body).await;
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(set.json()["full"]["words"], "at 03:00, on Sunday (Europe/London), spread over 2 hours");
    assert_eq!(stream(&fixture, "customers").await["full"]["said_by"], "stream");
    let set = send(&fixture, Method::PUT, OF_EVENTS, r#"{"schedule":"90m"}"#).await.json();
    assert_eq!((&set["incremental"]["schedule"], &set["incremental"]["said_by"]), (&json!("90m"), &json!("stream")));
    let all = fixture.get("/api/v1/schedules").await.json();
    assert_eq!(all["connections"][0]["connection"], "acme-stripe");
    assert!(all["connections"][0]["streams"].as_array().unwrap().len() > 1 && all["next_after"].is_null());
    let names: Vec<_> = all["chores"].as_array().unwrap().iter().map(|chore| chore["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["schedules", "rollup", "flows", "grants", "retention"]);

    let back = send(&fixture, Method::DELETE, &format!("{OF_CUSTOMERS}?mode=full"), "").await.json();
    assert_eq!(back["full"]["said_by"], "settings");
    assert_eq!(send(&fixture, Method::DELETE, OF_EVENTS, "").await.json()["incremental"]["schedule"], "15m");
}

#[tokio::test]
async fn what_is_no_schedule_is_refused_with_what_to_write_instead() {
    let fixture = connected().await;
    for body in
        ["", "7", "{}", r#"{"schedule":7}"#, r#"{"schedule":"15m","x":1}"#, r#"{"schedule":"15m","mode":"half"}"#]
    {
        send(&fixture, Method::PUT, OF_EVENTS, body).await.is_error(400, "invalid");
    }
    for text in ["often", "0 3 * *", "0 0 30 2 *", "0 3 * * * Nowhere/City", "1ms", ""] {
        let body = json!({ "schedule": text }).to_string();
        send(&fixture, Method::PUT, OF_EVENTS, body).await.is_error(400, "invalid");
    }
    let body = r#"{"mode":"full","schedule":"1d"}"#;
    send(&fixture, Method::PUT, OF_EVENTS, body).await.is_error(400, "invalid");
    // The runs of events find what changed: none would come by this.
    let refused = send(&fixture, Method::PUT, OF_CUSTOMERS, r#"{"schedule":"5m"}"#).await;
    assert!(refused.text().contains("set the schedule of events"), "{}", refused.text());
    refused.is_error(400, "invalid");
    for path in ["connections/nobody/streams/events", "connections/acme-stripe/streams/nothing"] {
        let path = format!("/api/v1/{path}/schedule");
        send(&fixture, Method::PUT, &path, r#"{"schedule":"1d"}"#).await.is_error(404, "not_found");
        send(&fixture, Method::DELETE, &path, "").await.is_error(404, "not_found");
    }
    send(&fixture, Method::DELETE, &format!("{OF_EVENTS}?mode=x"), "").await.is_error(400, "invalid");
    for query in ["limit=0", "limit=201", "limit=x"] {
        fixture.get(&format!("/api/v1/schedules?{query}")).await.is_error(400, "invalid");
    }
}

#[tokio::test]
async fn the_page_says_when_runs_and_chores_come() {
    let fixture = connected().await;
    let page = fixture.get("/").await.text();
    for words in ["Next run", "every 15 minutes", "Chores", "retention", "rollup", "not yet"] {
        assert!(page.contains(words), "{words}");
    }
}

#[tokio::test]
async fn calls_are_told_by_day() {
    let fixture = connected().await;
    let call = |hours: i64, error| CallRecord {
        at: Timestamp(NOW.millis() - hours * 3_600_000),
        provider: "stripe".to_owned(),
        operation: "customers.list".to_owned(),
        connection: ConnectionId::from("acme-stripe"),
        status: None,
        error,
        outcome: None,
        attempts: 1,
        duration_us: 1,
        waited_us: 0,
        request_id: None,
        correlation_id: None,
    };
    let calls = vec![call(0, None), call(1, Some(ErrorKind::Timeout)), call(2, None)];
    fixture.hub.store().log_calls(calls).await.unwrap();
    let days = fixture.get("/api/v1/connections/acme-stripe/call-days").await.json();
    let wanted = json!({ "days": [
        { "day": "2026-01-01", "calls": 1, "errors": 0 },
        { "day": "2025-12-31", "calls": 2, "errors": 1 },
    ] });
    assert_eq!(days, wanted);
    fixture.get("/api/v1/connections/nobody/call-days").await.is_error(404, "not_found");
}

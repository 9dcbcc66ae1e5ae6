//! `GET /api/v1/…`: the facts, the feed with its opaque cursor, and the two actions.

use palisade_core::store::{EventRow, EventState, Inbox, Jobs, Merge, Queue, Records, StreamKey};
use palisade_core::sync::{Change, Span, State};

use crate::fixtures::{Fixture, NOW, event, fixture};

async fn merge(fixture: &Fixture, changes: &[(&str, Option<&str>, i64)]) {
    let key = StreamKey { connection: "acme-stripe".into(), stream: "customers".into() };
    let changes = changes
        .iter()
        .map(|(id, data, at)| Change {
            stream: "customers".into(),
            id: (*id).into(),
            span: Span::exact(*at),
            state: data.map_or(State::Deleted, |data| State::Present(data.to_owned().into())),
        })
        .collect();
    fixture.store.merge(vec![Merge { key, read_since: Some(0), changes }], NOW).await.unwrap();
}

// Fails when a page of the feed skips or repeats a record, or when a deletion is not told.
#[tokio::test]
async fn the_feed_is_read_to_its_end_by_its_cursor() {
    let fixture = fixture().with_connection().await;
    let path = "/api/v1/records/acme-stripe/customers";
    let empty = fixture.get(path).await.json();
    assert_eq!((empty["records"].as_array().unwrap().len(), &empty["has_more"]), (0, &false.into()));
    merge(
        &fixture,
        &[("cus_1", Some(r#"{"id":"cus_1"}"#), 1), ("cus_2", Some(r#"{"id":"cus_2"}"#), 1), ("cus_3", Some("{}"), 1)],
    )
    .await;

    let mut cursor = empty["next_cursor"].as_str().unwrap().to_owned();
    let mut seen = Vec::new();
    for expected_more in [true, false] {
        let page = fixture.get(&format!("{path}?limit=2&cursor={cursor}")).await.json();
        assert_eq!(page["has_more"], expected_more);
        cursor = page["next_cursor"].as_str().unwrap().to_owned();
        seen.extend(page["records"].as_array().unwrap().iter().map(|record| record["id"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen, ["cus_1", "cus_2", "cus_3"]);

    merge(&fixture, &[("cus_2", None, 2), ("cus_1", Some(r#"{"id":"cus_1","n":1}"#), 2)]).await;
    let page = fixture.get(&format!("{path}?cursor={cursor}")).await.json();
    let told: Vec<_> = page["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["id"].clone(), r["change"].clone(), r["data"].clone()))
        .collect();
    assert_eq!(told[0], ("cus_2".into(), "deleted".into(), serde_json::Value::Null));
    assert_eq!(told[1], ("cus_1".into(), "updated".into(), serde_json::json!({ "id": "cus_1", "n": 1 })));
    // The end stays where it is.
    let last = page["next_cursor"].as_str().unwrap();
    assert_eq!(fixture.get(&format!("{path}?cursor={last}")).await.json()["next_cursor"], last);

    for wrong in ["x", "AAAAAAAAAAAAAAAAAAA", "%ff"] {
        fixture.get(&format!("{path}?cursor={wrong}")).await.is_error(400, "invalid");
    }
    fixture.get(&format!("/api/v1/records/acme-stripe/prices?cursor={last}")).await.is_error(400, "invalid");
    fixture.get("/api/v1/records/acme-stripe/nothing").await.is_error(404, "not_found");
    fixture.get("/api/v1/records/nobody/customers").await.is_error(404, "not_found");
}

#[tokio::test]
async fn lists_are_bounded_and_odd_questions_get_a_clear_answer() {
    let fixture = fixture().with_connection().await;
    for path in ["events", "runs", "calls", "connections", "records/acme-stripe/customers"] {
        for query in ["limit=0", "limit=1001", "limit=99999999999", "limit=-1", "limit=x"] {
            fixture.get(&format!("/api/v1/{path}?{query}")).await.is_error(400, "invalid");
        }
        assert_eq!(fixture.get(&format!("/api/v1/{path}?limit=1")).await.status, 200, "{path}");
    }
    fixture.get("/api/v1/events?state=gone").await.is_error(400, "invalid");
    fixture.get("/api/v1/events/x").await.is_error(400, "invalid");
    fixture.get("/api/v1/events/99999999999999999999").await.is_error(400, "invalid");
    fixture.get("/api/v1/events/7").await.is_error(404, "not_found");
    fixture.get("/api/v1/connections/nobody").await.is_error(404, "not_found");
    fixture.get("/api/v1/connections/%ff").await.is_error(400, "invalid");
    fixture.get("/api/v1/nothing").await.is_error(404, "not_found");
    fixture.post("/api/v1/events").await.is_error(405, "method_not_allowed");
    fixture.post("/api/v1/events/7/replay").await.is_error(404, "not_found");
    fixture.post("/api/v1/connections/nobody/sync").await.is_error(404, "not_found");
    fixture.post("/api/v1/connections/acme-stripe/sync?mode=sideways").await.is_error(400, "invalid");
}

#[tokio::test]
async fn events_are_listed_shown_and_replayed() {
    let fixture = fixture().with_connection().await;
    for i in 1..=3 {
        fixture.deliver(event(&format!("evt_{i}"), "nobody.wants_this")).await;
    }
    let first = fixture.get("/api/v1/events?limit=2&state=ignored").await.json();
    let ids = |page: &serde_json::Value| -> Vec<String> {
        page["events"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&first), ["evt_3", "evt_2"]);
    let before = first["next_before"].as_i64().unwrap();
    let rest = fixture.get(&format!("/api/v1/events?limit=2&before={before}")).await.json();
    assert_eq!((ids(&rest), rest["next_before"].is_null()), (vec!["evt_1".to_owned()], true));

    fixture.deliver("unreadable").await;
    while fixture.hub.worker().step(Queue::Events).await.unwrap() > 0 {}
    let dead = fixture.get("/api/v1/events?state=dead").await.json();
    let row = dead["events"][0]["row"].as_i64().unwrap();
    let shown = fixture.get(&format!("/api/v1/events/{row}")).await.json();
    assert_eq!(shown["payload_base64"], "dW5yZWFkYWJsZQ==");
    assert!(shown["reason"].as_str().is_some_and(|reason| reason.contains("not what the provider documents")));
    assert_eq!(fixture.post(&format!("/api/v1/events/{row}/replay")).await.status, 202);
    let stored = fixture.store.event(EventRow(row)).await.unwrap().unwrap();
    assert_eq!(stored.state, EventState::Pending);
    fixture.post(&format!("/api/v1/events/{row}/replay")).await.is_error(409, "not_replayed");
}

#[tokio::test]
async fn a_sync_that_is_asked_for_is_a_job() {
    let fixture = fixture().with_connection().await;
    let answer = fixture.post("/api/v1/connections/acme-stripe/sync").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["streams"]), (202, &serde_json::json!(["events"])));
    let answer = fixture.post("/api/v1/connections/acme-stripe/sync?mode=full").await.json();
    assert_eq!(answer["streams"].as_array().unwrap().len(), 6);
    assert_eq!(fixture.store.job_counts().await.unwrap().waiting, 7);
    // Asked for twice it is still one job each.
    fixture.post("/api/v1/connections/acme-stripe/sync?mode=full").await;
    assert_eq!(fixture.get("/api/v1/jobs").await.json()["jobs"]["waiting"], 7);
}

#[tokio::test]
async fn a_connection_is_told_with_its_health_in_words() {
    let fixture = fixture().with_connection().await;
    let one = fixture.get("/api/v1/connections/acme-stripe").await.json();
    for key in ["id", "tenant", "provider", "health", "streams", "created_at", "calls_24h"] {
        assert!(!one[key].is_null(), "{key} in {one}");
    }
    for key in ["state", "status", "who_acts", "next_step"] {
        assert!(one["health"][key].as_str().is_some_and(|text| !text.is_empty()), "{key} in {one}");
    }
    let list = fixture.get("/api/v1/connections").await.json();
    assert_eq!(list["connections"][0], one);
    assert!(list["next_after"].is_null());
    let health = fixture.get("/api/v1/health").await.json();
    assert_eq!(health["connections"][0]["id"], "acme-stripe");
    assert_eq!(health["ready"], false, "no runner runs in this test");
}

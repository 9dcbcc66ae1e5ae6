//! Thin (v2) events: the notice a destination is sent, the whole event it is asked for, and the destinations.
//!
//! Each is another showing of a snapshot event, under an identifier of its own that is made of the snapshot's: nothing is
//! remembered for it, and `snapshot_event` leads back. Shapes as stripe-python 16 reads them (`v2.core.event`,
//! `v2.core.event_destination`).

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use serde_json::{Map, Value, json};

use super::desk::{Desk, civil};
use super::error::Failure;
use super::form;
use super::state::{Endpoint, Kind};

/// Under which the bodies of an event's receivers keep the notice; no API version is called so.
pub(crate) const THIN: &str = "thin";
/// What stands before a type of v1 (Stripe, since 2026-08-26).
const FAMILY: &str = "v1.";

/// Gives the type under which a snapshot event is told thin.
pub(crate) fn kind_of(kind: &str) -> String {
    format!("{FAMILY}{kind}")
}

/// Gives the identifier of the thin event beside a snapshot event.
pub(crate) fn id_of(snapshot: &str) -> String {
    format!("evt_test_{}", snapshot.strip_prefix("evt_").unwrap_or(snapshot))
}

/// Gives the snapshot event beside a thin one.
fn snapshot_of(id: &str) -> Option<String> {
    id.strip_prefix("evt_test_").map(|rest| format!("evt_{rest}"))
}

/// Gives what a destination is sent of a snapshot event.
pub(crate) fn notice(event: &Value) -> Value {
    let object = &event["data"]["object"];
    let mut notice = json!({
        "id": id_of(event["id"].as_str().unwrap_or_default()), "object": "v2.core.event",
        "type": kind_of(event["type"].as_str().unwrap_or_default()), "livemode": false,
        "created": written(event["created"].as_i64().unwrap_or_default()), "context": event["account"],
        "reason": null, "related_object": null,
    });
    if let Some(request) = event["request"]["id"].as_str() {
        let key = event["request"]["idempotency_key"].as_str().unwrap_or_default();
        notice["reason"] = json!({ "type": "request", "request": { "id": request, "idempotency_key": key } });
    }
    // A forecast, such as an upcoming invoice, is no object that could be fetched.
    if let (Some(id), Some(object)) = (object["id"].as_str(), object["object"].as_str()) {
        let path = Kind::ALL.into_iter().find(|kind| kind.facts().1 == object).map(Kind::path);
        let path = path.map_or_else(|| format!("{object}s"), str::to_owned);
        notice["related_object"] = json!({ "id": id, "type": object, "url": format!("/v1/{path}/{id}") });
    }
    notice
}

/// Gives the whole of a thin event.
fn whole(event: &Value) -> Value {
    let mut whole = notice(event);
    whole["snapshot_event"] = event["id"].clone();
    whole["data"] = json!({});
    if let Some(before) = event["data"]["previous_attributes"].as_object() {
        let now = |name: &String| (name.clone(), event["data"]["object"][name.as_str()].clone());
        let after: Map<String, Value> = before.keys().map(now).collect();
        whole["changes"] = json!({ "before": before, "after": after });
    }
    whole
}

/// Answers `GET /v2/core/events/{id}`.
pub(crate) fn retrieve(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    let now = desk.now;
    let events = &mut desk.data().events;
    events.expire(now);
    let snapshot = snapshot_of(id).and_then(|snapshot| events.json(&snapshot));
    let snapshot = snapshot.and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    snapshot.map(|event| whole(&event)).ok_or_else(|| {
        Failure::new(404, "invalid_request_error", format!("No such event: '{id}'")).with("code", "not_found")
    })
}

/// Answers `POST /v2/core/event_destinations`: the signing secret is shown where it is asked for.
pub(crate) fn create_destination(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    for (name, only) in [("type", "webhook_endpoint"), ("event_payload", THIN)] {
        match params[name].as_str() {
            Some(text) if text == only => {}
            Some(_) => return Err(Failure::invalid(format!("Only {name} {only} is emulated here.")).param(name)),
            None => return Err(Failure::required(name)),
        }
    }
    let name = form::text(params, "name").ok_or_else(|| Failure::required("name"))?.to_owned();
    let url = params["webhook_endpoint"]["url"].as_str().ok_or_else(|| Failure::required("webhook_endpoint.url"))?;
    let enabled = form::texts(params, "enabled_events");
    if enabled.is_empty() {
        return Err(Failure::required("enabled_events"));
    }
    let secret = desk.id("whsec_");
    let id = add_destination(desk, url, &secret, enabled.clone());
    let shows = form::texts(params, "include").iter().any(|name| name == "webhook_endpoint.signing_secret");
    Ok(json!({
        "id": id, "object": "v2.core.event_destination", "name": name, "type": "webhook_endpoint",
        "event_payload": THIN, "enabled_events": enabled, "events_from": ["self"], "status": "enabled",
        "livemode": false, "created": written(desk.now), "updated": written(desk.now), "description": "",
        "webhook_endpoint": { "url": url, "signing_secret": shows.then_some(secret) },
    }))
}

/// Adds a destination with a secret of the caller's choice, and gives its identifier.
pub(crate) fn add_destination(desk: &mut Desk<'_>, url: &str, secret: &str, enabled_events: Vec<String>) -> String {
    let id = desk.id("ed_test_61");
    let endpoint = Endpoint {
        id: id.clone(),
        account: desk.account.clone(),
        url: url.to_owned(),
        secrets: vec![(secret.to_owned(), None)],
        api_version: Some(THIN.to_owned()),
        enabled_events,
        connect: false,
        enabled: true,
    };
    desk.world.endpoints.insert(id.clone(), endpoint);
    id
}

/// Writes a second as v2 writes times.
fn written(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a notice carries what only the whole event has, or names no place to fetch its object from.
    #[test]
    fn a_notice_names_an_object_and_the_event_carries_its_changes() {
        let event = json!({
            "id": "evt_1A", "object": "event", "type": "customer.subscription.updated", "created": 1_767_225_600,
            "account": "acct_2", "request": { "id": "req_1", "idempotency_key": null },
            "data": { "object": { "id": "sub_1", "object": "subscription", "status": "active" }, "previous_attributes": { "status": "incomplete" } },
        });
        let notice = notice(&event);
        assert_eq!(notice["id"], "evt_test_1A");
        assert_eq!(notice["type"], "v1.customer.subscription.updated");
        assert_eq!(notice["created"], "2026-01-01T00:00:00.000Z");
        assert_eq!(notice["context"], "acct_2");
        assert_eq!(
            notice["related_object"],
            json!({ "id": "sub_1", "type": "subscription", "url": "/v1/subscriptions/sub_1" })
        );
        assert!(["data", "changes", "snapshot_event"].iter().all(|name| notice.get(*name).is_none()), "{notice}");
        let whole = whole(&event);
        assert_eq!(whole["changes"], json!({ "before": { "status": "incomplete" }, "after": { "status": "active" } }));
        assert_eq!(whole["snapshot_event"], "evt_1A");
        assert_eq!(snapshot_of(whole["id"].as_str().unwrap()).as_deref(), Some("evt_1A"));
        let forecast =
            json!({ "id": "evt_1B", "type": "invoice.upcoming", "data": { "object": { "object": "invoice" } } });
        assert_eq!(super::notice(&forecast)["related_object"], Value::Null);
    }
}

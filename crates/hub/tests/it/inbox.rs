//! What an operator does to the inbox: pausing, dead letters by cause, replays by filter, previews.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use palisade_core::clock::ManualClock;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    Connection, ConnectionState, Connections, EventState, Halt, Inbox, LIST_WALKED, LayeredStore, Merge, NO_CONNECTION,
    NewDelivery, NewEvent, Queue, Records, Store, StoreLayer, StreamKey,
};
use palisade_core::sync::{Change, Span, State};
use palisade_core::worker::{Handled, handler};
use palisade_hub::{Access, Hub};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::event::{CustomerCreated, InvoicePaid};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::fixtures::{Answer, Fixture, NOW, ask, builder, connection, event, fixture, settings};

async fn post(fixture: &Fixture, path: &str, body: &Value) -> Answer {
    fixture.ask(Request::post(path).body(Body::from(body.to_string())).unwrap()).await
}

/// Handles what is due; events of one object come one after another.
async fn work(hub: &Hub) -> usize {
    let mut handled = 0;
    loop {
        match hub.worker().step(Queue::Events).await.unwrap() {
            0 => return handled,
            some => handled += some,
        }
    }
}

/// A hub whose handler of customers rejects, until `mended`.
async fn broken(mended: bool) -> Fixture {
    let fixture = fixture().with_connection().await;
    rebuilt(fixture, mended)
}

fn rebuilt(fixture: Fixture, mended: bool) -> Fixture {
    let rejects = handler(move |_, context| {
        Box::pin(async move {
            context.effect("INSERT INTO seen VALUES (1)", Vec::new());
            if mended { Handled::Done } else { Handled::Reject { reason: "no such plan".to_owned() } }
        })
    });
    let hub = builder(fixture.store.clone(), fixture.clock.clone())
        .on("customer.created", rejects)
        .settings(settings(Access::Trusted))
        .build()
        .unwrap();
    Fixture { router: hub.router(), hub, ..fixture }
}

// Fails when a paused provider's, connection's or hub's events are handled, or deliveries are refused meanwhile.
#[tokio::test]
async fn events_are_kept_and_not_handled_while_they_are_paused() {
    let fixture = broken(true).await;
    for (body, wrong) in [
        (json!({ "provider": "nobody" }), (404, "not_found")),
        (json!({ "connection": "nobody" }), (404, "not_found")),
        (json!({ "provider": "stripe", "connection": "acme-stripe" }), (400, "invalid")),
        (json!({ "tenant": "acme" }), (400, "invalid")),
    ] {
        post(&fixture, "/api/v1/inbox/pause", &body).await.is_error(wrong.0, wrong.1);
    }
    for (n, scope) in
        [json!({ "provider": "stripe" }), json!({ "connection": "acme-stripe" }), json!({})].iter().enumerate()
    {
        let paused = post(&fixture, "/api/v1/inbox/pause", scope).await.json();
        assert_eq!(paused["changed"], true, "{scope}");
        assert_eq!(post(&fixture, "/api/v1/inbox/pause", scope).await.json()["changed"], false, "once");
        assert_eq!(fixture.deliver(event(&format!("evt_{n}"), "customer.created")).await.status, 200);
        assert_eq!(work(&fixture.hub).await, 0, "{scope}");
        let told = fixture.get("/api/v1/health").await.json()["paused"].clone();
        assert_eq!(told, fixture.get("/api/v1/inbox").await.json()["paused"]);
        assert_eq!(told[0]["since"], "2026-01-01T00:00:00Z", "{told}");
        assert!(fixture.get("/").await.text().contains("deliveries are kept"));
        assert_eq!(post(&fixture, "/api/v1/inbox/resume", scope).await.json()["changed"], true);
        assert_eq!(work(&fixture.hub).await, 1, "{scope}");
    }
    let counts = fixture.get("/api/v1/inbox").await.json();
    assert_eq!((&counts["events"]["done"], &counts["paused"]), (&json!(3), &json!([])));
    assert!(counts["bytes"].as_u64().unwrap() > 0);
}

// Fails when a paused connection is called or its events are handled, a resumed one is not brought up to date, or one is
// resumed by a word that nobody knows.
#[tokio::test]
async fn a_connection_is_paused_and_resumed_with_its_events() {
    let fixture = broken(true).await;
    let path = "/api/v1/connections/acme-stripe";
    fixture.post("/api/v1/connections/nobody/pause").await.is_error(404, "not_found");
    assert_eq!(fixture.post(&format!("{path}/pause")).await.json()["state"], json!({ "state": "paused" }));
    assert_eq!(fixture.get(path).await.json()["health"]["state"], "paused");
    assert_eq!(fixture.deliver(event("evt_1", "customer.created")).await.status, 200);
    assert_eq!(work(&fixture.hub).await, 0);
    let page = fixture.get("/").await.text();
    assert!(page.contains("/actions/connections/acme-stripe/turn/resume"), "{page}");
    fixture.post("/actions/connections/acme-stripe/turn/over").await.is_error(400, "invalid");
    assert_eq!(fixture.get(path).await.json()["health"]["state"], "paused", "by no other word");
    let resumed = fixture.post("/actions/connections/acme-stripe/turn/resume").await;
    assert_eq!(resumed.status, 303);
    assert_ne!(fixture.get(path).await.json()["health"]["state"], "paused");
    assert_eq!(work(&fixture.hub).await, 1);
    assert_eq!(fixture.store.halts(9).await.unwrap(), [], "nothing is left of it");
    let mut connection = fixture.store.connection("acme-stripe".into()).await.unwrap().unwrap();
    connection.state = ConnectionState::Disconnected;
    fixture.store.put_connection(connection).await.unwrap();
    fixture.post(&format!("{path}/pause")).await.is_error(409, "not_connected");
    assert_eq!(fixture.store.halts(9).await.unwrap(), Vec::<(Halt, _)>::new());
}

/// Lets somebody else do something right before a connection's state is written.
#[derive(Debug, Default)]
struct Meanwhile {
    reached: Notify,
    go_on: Notify,
}

impl StoreLayer for Meanwhile {
    async fn around<T: Send>(
        &self,
        name: &'static str,
        call: impl Future<Output = palisade_core::Result<T>> + Send,
    ) -> palisade_core::Result<T> {
        if name == "turn_connection" {
            self.reached.notify_one();
            self.go_on.notified().await;
        }
        call.await
    }
}

/// Pauses or resumes a connection of a store in a state while somebody else writes its row.
async fn turned_while<S: Store>(
    inner: S,
    word: &str,
    before: ConnectionState,
    meanwhile: impl Fn(Connection) -> Connection,
) -> (u16, Connection, Vec<Halt>) {
    let store = Arc::new(LayeredStore { inner, layer: Meanwhile::default() });
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(store.clone(), clock).settings(settings(Access::Trusted)).build().unwrap();
    let config = connection();
    let row = Connection {
        id: config.id.clone(),
        tenant: config.tenant,
        provider: config.provider,
        environment: Default::default(),
        account: Some("acct_before".to_owned()),
        base_url: None,
        state: before,
        created_at: NOW,
    };
    store.inner.put_connection(row.clone()).await.unwrap();
    let request = Request::post(format!("/api/v1/connections/acme-stripe/{word}")).body(Body::empty()).unwrap();
    let others = async {
        store.layer.reached.notified().await;
        store.inner.put_connection(meanwhile(row)).await.unwrap();
        store.layer.go_on.notify_one();
    };
    let router = hub.router();
    let (answer, ()) = tokio::join!(ask(&router, request), others);
    let row = store.inner.connection(config.id).await.unwrap().unwrap();
    let halts = store.inner.halts(9).await.unwrap();
    (answer.status.as_u16(), row, halts.into_iter().map(|(halt, _)| halt).collect())
}

/// Fails when of two who change a connection at once the later writes over what the earlier wrote: an account that was
/// given meanwhile is lost, or what was disconnected meanwhile is paused or active again.
#[tokio::test]
async fn a_pause_leaves_what_others_write_of_the_connection_meanwhile() {
    let account = |row: Connection| Connection { account: Some("acct_after".to_owned()), ..row };
    let gone = |row: Connection| Connection { state: ConnectionState::Disconnected, ..row };
    let folder = tempfile::tempdir().unwrap();
    let (active, paused) = (ConnectionState::Active, ConnectionState::Paused);
    for (n, (word, before)) in [("pause", &active), ("resume", &paused)].into_iter().enumerate() {
        for durable in [false, true] {
            let open = |name: &str| {
                let path = folder.path().join(format!("{n}{name}.db"));
                SqliteStore::open(SqliteConfig::at(path)).unwrap()
            };
            let (status, row, halts) = if durable {
                turned_while(open("account"), word, before.clone(), account).await
            } else {
                turned_while(MemoryStore::new(), word, before.clone(), account).await
            };
            let to = if word == "pause" { &paused } else { &active };
            assert_eq!((status, &row.state, row.account.as_deref()), (200, to, Some("acct_after")), "{word} {durable}");
            assert_eq!(halts.len(), usize::from(word == "pause"), "{word} {durable}");
            let (status, row, halts) = if durable {
                turned_while(open("gone"), word, before.clone(), gone).await
            } else {
                turned_while(MemoryStore::new(), word, before.clone(), gone).await
            };
            assert_eq!(
                (status, row.state, halts),
                (409, ConnectionState::Disconnected, Vec::new()),
                "{word} {durable}"
            );
        }
    }
}

// Fails when dead letters are not counted by cause, a dry run replays, or a replay takes what the filter leaves out.
#[tokio::test]
async fn dead_letters_are_counted_by_cause_and_replayed_by_filter() {
    let fixture = broken(false).await;
    for n in 0..3 {
        fixture.deliver(event(&format!("evt_{n}"), "customer.created")).await;
    }
    work(&fixture.hub).await;
    let letters = fixture.get("/api/v1/dead-letters").await.json();
    assert_eq!(letters["events"], 3);
    assert_eq!(letters["causes"][0]["reason"], "no such plan");
    assert_eq!(
        (&letters["causes"][0]["events"], &letters["causes"][0]["type"]),
        (&json!(3), &json!("customer.created"))
    );
    assert!(fixture.get("/").await.text().contains("Dead letters by cause"));

    let path = "/api/v1/events/replay";
    let filter = json!({ "state": "dead", "type": "customer.created", "from": "2026-01-01T00:00:00Z" });
    let counted = post(&fixture, path, &json!({ "filter": filter, "dry_run": true })).await.json();
    assert_eq!((&counted["events"], &counted["complete"]), (&json!(3), &json!(true)));
    for (kind, events) in [("customer.*", 3), ("*", 3), ("customer", 0), ("invoice.*", 0)] {
        let filter = json!({ "state": "dead", "type": kind });
        let counted = post(&fixture, path, &json!({ "filter": filter, "dry_run": true })).await.json();
        assert_eq!(counted["events"], events, "{kind}");
    }
    let later = json!({ "state": "dead", "from": "2026-01-01T00:00:01Z" });
    assert_eq!(post(&fixture, path, &json!({ "filter": later, "dry_run": true })).await.json()["events"], 0);
    for (filter, events) in [
        (json!({ "state": "dead", "to": "2026-01-01T00:00:00Z" }), 0),
        (json!({ "state": "dead", "to": "2026-01-01T00:00:01Z" }), 3),
        (json!({ "reason": "no such plan" }), 3),
        (json!({ "reason": "another" }), 0),
    ] {
        let counted = post(&fixture, path, &json!({ "filter": filter, "dry_run": true })).await.json();
        assert_eq!(counted["events"], events, "{filter}");
    }
    for wrong in [
        json!({}),
        json!({ "filter": {} }),
        json!({ "filter": { "state": "pending" } }),
        json!({ "filter": { "from": "now" } }),
        json!({ "filter": { "who": 1 } }),
        json!({ "filter": { "type": "*.paid" } }),
        json!({ "filter": { "state": "dead" }, "after": 1 }),
    ] {
        post(&fixture, path, &wrong).await.is_error(400, "invalid");
    }

    // The handler is mended and the hub started again.
    let fixture = rebuilt(fixture, true);
    let begun = post(&fixture, path, &json!({ "filter": filter })).await;
    assert_eq!(begun.status, 202);
    let key = begun.json()["replay"].as_str().unwrap().to_owned();
    let progress = fixture.get(&format!("/api/v1/replays/{key}")).await.json();
    assert_eq!((&progress["replayed"], &progress["state"]), (&json!(0), &json!("running")));
    assert_eq!(post(&fixture, path, &json!({ "filter": filter })).await.json()["replay"], key.as_str(), "the same one");
    fixture.hub.worker().step(Queue::Background).await.unwrap();
    fixture.get(&format!("/api/v1/replays/{key}")).await.is_error(404, "not_found");
    assert_eq!(work(&fixture.hub).await, 3);
    assert_eq!(fixture.store.event_counts().await.unwrap(), [(EventState::Done, 3)].into());
    assert_eq!(fixture.get("/api/v1/dead-letters").await.json()["causes"], json!([]));
}

// Fails when what came before there was a handler cannot be handed to it, is by a filter that does not name it, or when
// what belongs to nobody is put back or refused without a sentence.
#[tokio::test]
async fn what_was_ignored_is_replayed_when_it_is_asked_for() {
    const KIND: &str = "nobody.wants_this";
    let fixture = fixture().with_connection().await;
    for n in 0..3 {
        fixture.deliver(event(&format!("evt_{n}"), KIND)).await;
    }
    let unwanted = NewEvent {
        id: "evt_none".into(),
        kind: KIND.to_owned(),
        subscription: None,
        account: None,
        created: None,
        ordering_key: None,
        payload: None,
        wanted: false,
        priority: 0,
    };
    let nobodys = NewDelivery {
        endpoint: "app".into(),
        connection: NO_CONNECTION.into(),
        provider: "stripe".to_owned(),
        received_at: NOW,
        headers: Vec::new(),
        body: "{}".into(),
        events: vec![unwanted],
    };
    fixture.store.append(vec![nobodys]).await.unwrap();
    let hub = builder(fixture.store.clone(), fixture.clock.clone())
        .on(KIND, handler(|_, _| Box::pin(async { Handled::Done })))
        .settings(settings(Access::Trusted))
        .build()
        .unwrap();
    let fixture = Fixture { router: hub.router(), hub, ..fixture };
    let refused = fixture.post("/api/v1/events/4/replay").await;
    assert!(refused.text().contains("belongs to no connection"), "{}", refused.text());
    refused.is_error(409, "not_replayed");
    assert_eq!(fixture.post("/api/v1/events/2/replay").await.status, 202);
    fixture.post("/api/v1/events/2/replay").await.is_error(409, "not_replayed");
    fixture.post("/api/v1/events/99/replay").await.is_error(404, "not_found");
    let counted = async |filter: Value| {
        let counted = post(&fixture, "/api/v1/events/replay", &json!({ "filter": filter, "dry_run": true })).await;
        counted.json()["events"].clone()
    };
    assert_eq!(counted(json!({ "type": KIND })).await, 0);
    assert_eq!(counted(json!({ "type": KIND, "state": "ignored" })).await, 2);
    let shown = post(&fixture, "/api/v1/events/preview", &json!({ "filter": { "state": "ignored" } })).await.json();
    assert_eq!((&shown["events"], &shown["previews"][1]["row"]), (&json!(2), &json!(3)));
    let filter = json!({ "filter": { "type": KIND, "state": "ignored" } });
    assert_eq!(post(&fixture, "/api/v1/events/replay", &filter).await.status, 202);
    fixture.hub.worker().step(Queue::Background).await.unwrap();
    assert_eq!(work(&fixture.hub).await, 3);
    let counts = fixture.store.event_counts().await.unwrap();
    assert_eq!(counts, [(EventState::Done, 3), (EventState::Ignored, 1)].into());
}

// Fails when a dead letter keeps its connection in need of somebody for good, when more is dismissed than was named, or
// what was dismissed says no more why it died.
#[tokio::test]
async fn dead_letters_are_dismissed_by_row_by_filter_and_on_the_page() {
    let fixture = broken(false).await;
    for n in 0..4 {
        fixture.deliver(event(&format!("evt_{n}"), "customer.created")).await;
    }
    work(&fixture.hub).await;
    let path = "/api/v1/dead-letters/dismiss";
    for wrong in [
        json!({}),
        json!({ "rows": [1], "filter": { "type": "*" } }),
        json!({ "rows": [1], "dry_run": true }),
        json!({ "filter": {} }),
        json!({ "filter": { "state": "done" } }),
        json!({ "filter": { "type": "*.created" } }),
        json!({ "filter": { "state": "pending" } }),
        json!({ "filter": { "from": "yesterday" } }),
        json!({ "filter": { "tenant": "acme" } }),
        json!({ "rows": (0..1_001).collect::<Vec<_>>() }),
        json!({ "rows": "all" }),
    ] {
        post(&fixture, path, &wrong).await.is_error(400, "invalid");
    }
    let none = post(&fixture, path, &json!({ "rows": [] })).await.json();
    assert_eq!(none, json!({ "dismissed": 0, "refused": [] }));
    let health = async || fixture.get("/api/v1/connections/acme-stripe").await.json()["health"].clone();
    let dead = async || fixture.get("/api/v1/dead-letters").await.json()["events"].clone();
    assert_eq!((&health().await["state"], dead().await), (&json!("needs_attention"), json!(4)));
    let filter = json!({ "provider": "stripe", "type": "customer.created", "reason": "no such plan" });
    let counted = post(&fixture, path, &json!({ "filter": filter, "dry_run": true })).await.json();
    assert_eq!((&counted["events"], &counted["next_after"], dead().await), (&json!(4), &Value::Null, json!(4)));
    let other = json!({ "filter": { "reason": "another" } });
    assert_eq!(post(&fixture, path, &other).await.json()["dismissed"], 0);
    let one = post(&fixture, path, &json!({ "rows": [1, 1, 99] })).await.json();
    assert_eq!(one, json!({ "dismissed": 1, "refused": [1, 99] }));
    let shown = fixture.get("/api/v1/events/1").await.json();
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("ignored"), &json!("dismissed: no such plan")));

    let page = fixture.get("/").await.text();
    let button = "/actions/dead-letters/dismiss?provider=stripe&amp;type=customer.created&amp;reason=no%20such%20plan";
    assert!(page.contains(button) && page.contains("/actions/dead-letters/dismiss?row=2"), "{page}");
    fixture.post("/actions/dead-letters/dismiss").await.is_error(400, "invalid");
    assert_eq!(fixture.post("/actions/dead-letters/dismiss?row=2").await.status, 303);
    assert_eq!(dead().await, 2);
    assert_eq!(fixture.post(&button.replace("&amp;", "&")).await.status, 303);
    assert_eq!(dead().await, 0);
    assert_ne!(health().await["state"], "needs_attention", "nobody must act any more");
    assert_eq!(fixture.get("/api/v1/dead-letters").await.json()["causes"], json!([]));
    assert_eq!(fixture.post("/api/v1/events/3/replay").await.status, 202, "it is kept for whoever thinks better of it");
}

// Fails when a preview writes anything, or does not run the handler of this program.
#[tokio::test]
async fn a_preview_shows_what_a_newer_handler_would_do_and_does_nothing() {
    let fixture = broken(false).await;
    fixture.deliver(event("evt_1", "customer.created")).await;
    work(&fixture.hub).await;
    let path = "/api/v1/events/1/preview";
    let old = fixture.post(path).await.json();
    assert_eq!(old["refusal"], "it would be dead: no such plan");
    let fixture = rebuilt(fixture, true);
    let new = fixture.post(path).await.json();
    assert_eq!((&new["refusal"], &new["effects"]), (&Value::Null, &json!(["INSERT INTO seen VALUES (1)"])));
    let record = &new["records"][0];
    assert_eq!((&record["id"], &record["change"], &record["before"]), (&json!("cus_1"), &json!("added"), &Value::Null));
    assert_eq!(record["after"]["email"], "a@example.com");
    assert_eq!(fixture.store.effects().len(), 0, "nothing is written");
    let key = StreamKey { connection: "acme-stripe".into(), stream: "customers".into() };
    assert!(fixture.store.record(key.clone(), "cus_1".into()).await.unwrap().is_none());
    assert_eq!(fixture.store.event_counts().await.unwrap(), [(EventState::Dead, 1)].into());

    let state = State::Present(r#"{"id":"cus_1","email":"old@example.com"}"#.into());
    let change = Change { stream: key.stream.clone(), id: "cus_1".into(), span: Span::exact(1), state };
    fixture.store.merge(vec![Merge { key, read_since: Some(0), changes: vec![change] }], NOW).await.unwrap();
    let record = fixture.post(path).await.json()["records"][0].clone();
    assert_eq!((&record["change"], &record["before"]["email"]), (&json!("updated"), &json!("old@example.com")));
    fixture.post("/api/v1/events/99/preview").await.is_error(404, "not_found");

    // The copy goes on, and what the event says is older.
    let state = State::Present(r#"{"id":"cus_1","email":"new@example.com"}"#.into());
    let key = StreamKey { connection: "acme-stripe".into(), stream: "customers".into() };
    let change = Change { stream: key.stream.clone(), id: "cus_1".into(), span: Span::exact(i64::MAX / 2), state };
    fixture.store.merge(vec![Merge { key, read_since: None, changes: vec![change] }], NOW).await.unwrap();
    let record = fixture.post(path).await.json()["records"][0].clone();
    assert_eq!((&record["change"], &record["changed"]), (&json!("older"), &json!([])));
    assert_eq!(record["after"]["email"], "new@example.com", "it stays");
    let added_up = post(&fixture, "/api/v1/events/preview", &json!({})).await.json();
    assert_eq!((&added_up["totals"]["older"], &added_up["totals"]["updated"]), (&json!(1), &json!(0)));
}

// Fails when a typed handler is given another event, or one that cannot be read is not a dead letter.
#[tokio::test]
async fn a_typed_handler_is_given_its_event_or_the_event_is_a_dead_letter() {
    let fixture = fixture().with_connection().await;
    let hub = builder(fixture.store.clone(), fixture.clock.clone())
        .on_typed::<CustomerCreated>(|CustomerCreated(customer), event, context| {
            Box::pin(async move {
                let values = vec![event.event.id.as_str().into(), customer.customer.as_str().into()];
                context.effect("INSERT INTO seen VALUES (?1, ?2)", values);
                Handled::Done
            })
        })
        .on_typed::<InvoicePaid>(|_, _, _| Box::pin(async { panic!("an event that cannot be read") }))
        .settings(settings(Access::Trusted))
        .build()
        .unwrap();
    let fixture = Fixture { router: hub.router(), hub, ..fixture };
    fixture.deliver(event("evt_1", "customer.created")).await;
    // Its object is a customer.
    fixture.deliver(event("evt_2", "invoice.paid")).await;
    work(&fixture.hub).await;
    let effects = fixture.store.effects();
    assert_eq!(effects.len(), 1);
    assert_eq!(effects[0].values, vec!["evt_1".into(), "cus_1".into()]);
    let dead = fixture.store.events(Some(EventState::Dead), None, 9).await.unwrap().events;
    assert_eq!(dead[0].event.id.as_str(), "evt_2");
    assert!(dead[0].reason.as_deref().unwrap().contains("cannot be read"), "{:?}", dead[0].reason);
}

// Fails when a preview by filter takes what the filter leaves out or changes anything, counts wrongly, or has no bound.
#[tokio::test]
async fn a_replay_by_filter_is_previewed_by_its_first_events() {
    let fixture = broken(false).await;
    for n in 0..3 {
        fixture.deliver(event(&format!("evt_{n}"), "customer.created")).await;
    }
    fixture.deliver(event("evt_other", "nobody.wants_this")).await;
    work(&fixture.hub).await;
    let path = "/api/v1/events/preview";
    let filter = json!({ "state": "dead", "type": "customer.created" });
    let old = post(&fixture, path, &json!({ "filter": filter })).await.json();
    assert_eq!((&old["totals"]["refused"], &old["totals"]["added"]), (&json!(3), &json!(3)));
    let fixture = rebuilt(fixture, true);
    let new = post(&fixture, path, &json!({ "filter": filter, "limit": 2 })).await.json();
    assert_eq!((&new["events"], &new["complete"], &new["previewed"]), (&json!(3), &json!(true), &json!(2)));
    assert_eq!((&new["totals"]["refused"], &new["totals"]["added"]), (&json!(0), &json!(2)));
    assert_eq!(new["next"], 2, "and where the next ones are");
    let rest = post(&fixture, path, &json!({ "filter": filter, "after": 2 })).await.json();
    assert_eq!((&rest["events"], &rest["previews"][0]["row"], &rest["next"]), (&json!(1), &json!(3), &Value::Null));
    let counted = json!({ "filter": filter, "dry_run": true, "after": 1 });
    let counted = post(&fixture, "/api/v1/events/replay", &counted).await.json();
    assert_eq!((&counted["events"], &counted["complete"], &counted["next"]), (&json!(2), &json!(true), &Value::Null));
    let first = &new["previews"][0];
    assert_eq!(
        (&first["row"], &first["type"], &first["state"]),
        (&json!(1), &json!("customer.created"), &json!("dead"))
    );
    assert_eq!(first["preview"]["records"][0]["id"], "cus_1");
    assert_eq!(first["preview"]["effects"], json!(["INSERT INTO seen VALUES (1)"]));
    let later = json!({ "filter": { "from": "2026-01-01T00:00:01Z" } });
    let none = post(&fixture, path, &later).await.json();
    assert_eq!((&none["events"], &none["previews"]), (&json!(0), &json!([])));
    for wrong in [
        json!({ "limit": 0 }),
        json!({ "limit": 101 }),
        json!({ "filter": { "state": "pending" } }),
        json!({ "filter": { "who": 1 } }),
        json!({ "dry_run": true }),
    ] {
        post(&fixture, path, &wrong).await.is_error(400, "invalid");
    }
    assert_eq!(fixture.store.effects().len(), 0, "nothing is written");
    let counts = fixture.store.event_counts().await.unwrap();
    assert_eq!(counts.get(&EventState::Dead), Some(&3));

    let of_hub = fixture.hub.preview(&Default::default(), 1_000).await.unwrap();
    assert_eq!((of_hub.events, of_hub.list.len(), of_hub.totals().added), (3, 3, 3));
}

// Fails when a list of a rare state ends at a page that found nothing, or is answered by a walk past everything.
#[tokio::test]
async fn a_list_of_a_rare_state_goes_on_behind_an_empty_page() {
    let fixture = broken(true).await;
    assert_eq!(fixture.deliver(event("evt_done", "customer.created")).await.status, 200);
    assert_eq!(work(&fixture.hub).await, 1);
    let unwanted = |n: i64| NewEvent {
        id: format!("evt_{n}").into(),
        kind: "customer.created".to_owned(),
        subscription: None,
        account: None,
        created: None,
        ordering_key: None,
        payload: None,
        wanted: false,
        priority: 0,
    };
    let crowd = NewDelivery {
        endpoint: "stripe".into(),
        connection: "acme-stripe".into(),
        provider: "stripe".to_owned(),
        received_at: NOW,
        headers: Vec::new(),
        body: "{}".into(),
        events: (0..LIST_WALKED).map(unwanted).collect(),
    };
    fixture.store.append(vec![crowd]).await.unwrap();
    let first = fixture.get("/api/v1/events?state=done").await.json();
    assert_eq!(first, json!({ "events": [], "next_before": 2 }));
    let second = fixture.get("/api/v1/events?state=done&before=2").await.json();
    assert_eq!((&second["events"][0]["id"], &second["next_before"]), (&json!("evt_done"), &Value::Null));
    assert_eq!(second["events"][0].get("payload"), None);
}

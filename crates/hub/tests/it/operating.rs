//! What the command line changes: the outbox, destinations, schedules, pauses, streams, reviews; and what it shows before.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use palisade_core::clock::ManualClock;
use palisade_core::store::{
    CallId, CallRequest, CallResult, CallState, Claim, DestinationSpec, Destinations, EventState, Filter, Halt, Inbox,
    JobEnd, Jobs, KeptCall, NewDestination, Order, Outbox, OutboxChange, Queue, Records, Room, RunState, Schedules,
    Settlement,
};
use palisade_core::worker::{Handled, handler};
use palisade_emulator::stripe::{Stripe, StripeConfig};
use palisade_hub::Access;
use palisade_store::SqliteStore;
use serde_json::{Value, json};

use crate::binary::{ADMIN, KEY, Running, config, ends, get, palisade, until};
use crate::commands::{Place, key, merge, text};
use crate::fixtures::{NOW, ask, builder, connection, delivery, event, settings};

/// Reads something of a place's database.
async fn read<T>(place: &Place, read: impl AsyncFnOnce(&SqliteStore) -> T) -> T {
    let store = place.open();
    let found = read(&store).await;
    store.close().await.unwrap();
    found
}

fn kept(text: &str) -> KeptCall {
    KeptCall {
        connection: "acme-stripe".into(),
        tenant: "acme".into(),
        provider: "stripe".to_owned(),
        operation: "customers.create".to_owned(),
        replay: "keyed".to_owned(),
        request: CallRequest {
            method: "POST".to_owned(),
            target: "/v1/customers?expand=a".to_owned(),
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: format!(r#"{{"name":"{text}"}}"#).into(),
            grant: None,
            lane: None,
        },
        idempotency_key: format!("key-{text}"),
        unique: None,
        content: text.as_bytes().to_vec(),
        priority: 0,
        created_at: NOW,
        run_at: NOW,
    }
}

/// Keeps five calls: 1 failed, 2 and 3 in review, 4 and 5 waiting.
async fn with_calls(store: &SqliteStore) {
    store.transact(Vec::new(), ["a", "b", "c", "d", "e"].map(kept).into()).await.unwrap();
    let claim = Claim { now: NOW, hold: Duration::from_secs(1), max: 3, queue: Queue::Calls, room: Room::default() };
    let ends = store.claim(claim).await.unwrap().into_iter().zip(1..).map(|(claimed, id)| {
        let state = if id == 1 { CallState::Failed } else { CallState::Review };
        let result = CallResult {
            call: CallId(id),
            state,
            next_at: None,
            attempts: 1,
            sent_at: (id > 1).then_some(NOW),
            error: Some("the provider said no \u{1b}[2J".to_owned()),
            answer: None,
        };
        Settlement {
            lease: claimed.lease,
            end: JobEnd::Done,
            now: NOW,
            effects: Vec::new(),
            merges: Vec::new(),
            follow: Vec::new(),
            outbox: OutboxChange { add: Vec::new(), result: Some(result) },
        }
    });
    let ends: Vec<_> = ends.collect();
    assert_eq!(store.settle(ends).await.unwrap().len(), 3);
}

// Fails when a list leaves calls out or shows what they say, or a decision is put into effect that is none for the call's
// state, or one that is, is not.
#[tokio::test]
async fn calls_of_the_outbox_are_shown_and_decided_about() {
    let place = Place::filled().await;
    read(&place, async |store| with_calls(store).await).await;
    let cases: &[(&[&str], i32, &[&str])] = &[
        (
            &["outbox", "list"],
            0,
            &["customers.create", "failed", "review", "waiting", "the provider said no \u{fffd}[2J"],
        ),
        (&["outbox", "list", "--state", "failed"], 0, &["customers.create"]),
        (&["outbox", "list", "--state", "lost"], 2, &["waiting", "cancelled"]),
        (&["outbox", "show", "2"], 0, &["review", "key-b", "POST /v1/customers?expand=a", "\"name\": \"b\""]),
        (&["outbox", "show", "99"], 1, &["there is no call 99"]),
        (&["outbox", "list", "--limit", "4"], 0, &["more: --before 2"]),
        (&["outbox", "retry"], 2, &["<NUMBER>"]),
        (&["outbox", "retry", "2"], 1, &["call 2: only a call that waits or failed", "is review"]),
        (&["outbox", "retry", "1", "99"], 1, &["call 1: waiting", "call 99: there is no call 99"]),
        (&["outbox", "cancel", "4"], 0, &["call 4: cancelled"]),
        (&["outbox", "cancel", "4"], 1, &["this one is cancelled"]),
        (&["outbox", "resolve", "2"], 2, &["--happened", "--not-happened"]),
        (&["outbox", "resolve", "2", "--happened", "--not-happened"], 2, &["cannot be used with"]),
        (&["outbox", "resolve", "2", "--happened"], 0, &["call 2: done"]),
        (&["outbox", "resolve", "3", "--not-happened"], 0, &["call 3: waiting"]),
        (&["outbox", "reconcile", "3"], 2, &["NOT_SET"]),
    ];
    for (arguments, code, words) in cases {
        let output = place.run(arguments);
        ends(&output, *code, words);
        assert!(!text(&output).contains(['\u{1b}', '│']), "{arguments:?}");
    }
    assert!(!text(&place.run(&["outbox", "list"])).contains("\"name\""), "a list shows no bodies");
    let states = read(&place, async |store| {
        let calls = store.outbox(None, None, 9).await.unwrap();
        calls.iter().rev().map(|call| call.state).collect::<Vec<_>>()
    });
    let wanted = [CallState::Waiting, CallState::Done, CallState::Waiting, CallState::Cancelled, CallState::Waiting];
    assert_eq!(states.await, wanted);

    assert!(!text(&place.run(&["outbox", "list", "--limit", "5"])).contains("more:"), "that is all");
    let list = place.json(&["outbox", "list", "--limit", "2"]);
    let ids =
        |list: &Value| list["calls"].as_array().unwrap().iter().map(|call| call["id"].as_i64().unwrap()).collect();
    let (first, next): (Vec<i64>, _) = (ids(&list), list["next_before"].as_i64().unwrap().to_string());
    let rest: Vec<i64> = ids(&place.json(&["outbox", "list", "--before", &next]));
    assert_eq!((first, rest), (vec![5, 4], vec![3, 2, 1]));
    assert_eq!(list["counts"], json!({ "waiting": 3, "done": 1, "cancelled": 1 }));
    let one = place.json(&["outbox", "show", "5"]);
    assert_eq!((&one["request"]["body"]["name"], &one["state"]), (&json!("e"), &json!("waiting")));
    let told = place.json(&["outbox", "cancel", "5"]);
    assert_eq!(told, json!({ "calls": [{ "id": 5, "state": "cancelled" }], "refused": [] }));
}

/// A receiver that answers one request.
fn receiver(status: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut came = String::new();
        while !came.contains("palisade.test") {
            let mut some = [0_u8; 4_096];
            match stream.read(&mut some).unwrap() {
                0 => break,
                n => came.push_str(&String::from_utf8_lossy(&some[..n])),
            }
        }
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
        came
    });
    (url, thread)
}

const SEALED: &str = r#"
[server]
listen = "127.0.0.1:0"
admin_token = { env = "NOT_SET" }
[vault]
master_key = { env = "TEST_MASTER" }
"#;

// Fails when one of the things people do with destinations is not done, needs more than the master key, or shows a key
// twice.
#[tokio::test]
async fn destinations_are_made_tried_rotated_and_taken_out_of_service() {
    let place = Place::with(SEALED);
    place.open().close().await.unwrap();
    ends(&place.run(&["destinations", "list"]), 0, &["destination", "state"]);
    let refused = place.run(&["destinations", "add", "app", "http://127.0.0.1:9/hook"]);
    ends(&refused, 2, &["url is not https: --allow-http lets it be"]);
    let refused = place.run(&["destinations", "add", "app", "https://127.0.0.1:9/hook"]);
    ends(&refused, 2, &["--allow-private or --allow-network lets it be"]);
    ends(&place.run(&["destinations", "add", "app", "https://a.example", "--header", "x"]), 2, &["NAME=VALUE"]);
    ends(&place.run(&["destinations", "test", "app"]), 1, &["there is no destination app"]);

    let (url, came) = receiver("204 No Content");
    let add = ["destinations", "add", "app", &url, "--allow-http", "--allow-private", "--type", "invoice.*"];
    let made = place.json(&add);
    let first = made["secret"].as_str().unwrap().to_owned();
    assert!(first.starts_with("whsec_"), "{made}");
    assert_eq!(
        (&made["destination"]["state"], &made["destination"]["types"]),
        (&json!("active"), &json!(["invoice.*"]))
    );
    ends(&place.run(&add), 1, &["of that name already"]);
    ends(&place.run(&["destinations", "test", "app"]), 0, &["arrived", "204"]);
    let came = came.join().unwrap();
    assert!(came.contains("webhook-signature: v1,") && came.contains("palisade.test"), "{came}");
    ends(&place.run(&["destinations", "test", "app"]), 1, &["did not arrive"]);

    let rotated = place.json(&["destinations", "rotate", "app", "--overlap", "1h"]);
    let second = rotated["secret"].as_str().unwrap();
    assert_ne!(second, first);
    let keys = rotated["destination"]["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[0]["signs_until"]), (2, &Value::Null), "the old one signs beside it");
    ends(&place.run(&["destinations", "rotate", "app", "--overlap", "31d"]), 2, &["30 days at most"]);
    for arguments in [&["destinations", "show", "app"][..], &["destinations", "list"]] {
        let output = place.run(arguments);
        ends(&output, 0, &["app", "active", &url]);
        assert!(!text(&output).contains("whsec_"), "a key is shown once");
    }

    ends(&place.run(&["destinations", "disable", "app"]), 0, &["disabled app"]);
    ends(&place.run(&["destinations", "disable", "app"]), 0, &["was disabled already"]);
    ends(&place.run(&["destinations", "show", "app"]), 0, &["disabled", "somebody disabled it"]);
    ends(&place.run(&["destinations", "replay", "app", "--since", "3650d"]), 1, &["disabled: enable it first"]);
    assert_eq!(place.json(&["destinations", "enable", "app"])["state"], "active");
    ends(&place.run(&["destinations", "pause", "app"]), 0, &["paused app"]);
    ends(&place.run(&["destinations", "pause", "app"]), 0, &["was paused already"]);
    let paused = place.json(&["destinations", "show", "app"]);
    assert_eq!((&paused["state"], paused["paused_at"].is_string()), (&json!("paused"), true));
    ends(&place.run(&["destinations", "list"]), 0, &["paused"]);
    ends(&place.run(&["destinations", "resume", "app"]), 0, &["resumed app"]);
    ends(&place.run(&["destinations", "resume", "app"]), 0, &["was not paused"]);
    assert_eq!(place.json(&["destinations", "show", "app"])["paused_at"], Value::Null);
    ends(&place.run(&["destinations", "pause", "nobody"]), 1, &["there is no destination nobody"]);
    let counted = place.json(&["destinations", "replay", "app", "--since", "3650d", "--dry-run"]);
    let span = ["destinations", "replay", "app", "--since", "2026-01-01T00:00:00Z", "--until", "2025-01-01T00:00:00Z"];
    ends(&place.run(&span), 2, &["nothing lies in that time"]);
    assert_eq!((&counted["wanted"], &counted["looked_at"], &counted["dry_run"]), (&json!(0), &json!(0), &json!(true)));
    ends(&place.run(&["destinations", "remove", "app"]), 0, &["removed app"]);
    ends(&place.run(&["destinations", "remove", "app"]), 1, &["there is no destination app"]);

    let spec = DestinationSpec {
        url: "https://app.example.com".to_owned(),
        filter: Filter { types: vec!["*".to_owned()], ..Filter::default() },
        concurrency: 1,
        timeout: Duration::from_secs(1),
        headers: Vec::new(),
        order: Order::None,
        reach: Default::default(),
    };
    let configured = NewDestination { name: "file".to_owned(), configured: true, spec, keys: Vec::new() };
    read(&place, async |store| store.put_destination(configured, 0, NOW).await.unwrap()).await;
    ends(&place.run(&["destinations", "remove", "file"]), 1, &["stands in the configuration"]);
    ends(&place.run(&["destinations", "rotate", "file"]), 1, &["stands in the configuration"]);
}

// Fails when the next run or who says it is not told, or what is set does not count.
#[tokio::test]
async fn schedules_are_shown_set_and_unset() {
    let place = Place::filled().await;
    let words = ["chore", "retention", "grants", "acme-stripe", "customers", "full", "every 7 days", "[sync]"];
    ends(&place.run(&["schedules", "list"]), 0, &words);
    let only = place.run(&["schedules", "list", "--connection", "acme-stripe"]);
    assert!(text(&only).contains("customers") && !text(&only).contains("retention"), "{}", text(&only));
    ends(&place.run(&["schedules", "list", "--connection", "nobody"]), 1, &["there is no connection nobody"]);
    let set = ["schedules", "set", "acme-stripe", "customers", "0 3 * * SUN Europe/London ~2h", "--mode", "full"];
    ends(&place.run(&set), 0, &["at 03:00, on Sunday (Europe/London)", "set for it"]);
    ends(&place.run(&["schedules", "set", "acme-stripe", "customers", "often"]), 2, &["cron"]);
    ends(&place.run(&["schedules", "set", "acme-stripe", "nothing", "1h"]), 1, &["no stream nothing"]);
    ends(&place.run(&["schedules", "set", "acme-stripe", "events", "1d", "--mode", "full"]), 2, &["events"]);
    let without_effect = ["schedules", "set", "acme-stripe", "customers", "5m"];
    ends(&place.run(&without_effect), 2, &["changes of customers", "set the schedule of events"]);
    let stream = |list: &Value| {
        let streams = list["connections"][0]["streams"].as_array().unwrap().clone();
        streams.into_iter().find(|one| one["stream"] == "customers").unwrap()
    };
    let list = place.json(&["schedules", "list"]);
    assert_eq!(stream(&list)["full"]["said_by"], "stream");
    assert!(stream(&list)["full"]["next_at"].is_string(), "{list}");
    let names: Vec<_> = list["chores"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["schedules", "rollup", "flows", "grants", "retention"], "as the API lists them");
    let unset = place.json(&["schedules", "unset", "acme-stripe", "customers", "--mode", "full"]);
    assert_eq!(unset["full"]["said_by"], "settings");
    let left = read(&place, async |store| store.scheduled("acme-stripe".into()).await.unwrap().unwrap().set).await;
    assert_eq!(left, []);
}

// Fails when a pause is not kept, takes more than was named, or is not told.
#[tokio::test]
async fn events_connections_and_streams_are_paused_and_resumed() {
    let place = Place::filled().await;
    ends(&place.run(&["inbox", "pause", "--provider", "nobody"]), 1, &["there is no provider nobody"]);
    ends(&place.run(&["inbox", "pause", "--connection", "nobody"]), 1, &["there is no connection nobody"]);
    ends(&place.run(&["inbox", "pause", "--provider", "stripe", "--connection", "a"]), 2, &["cannot be used with"]);
    for (scope, halt, word) in [
        (&[][..], Halt::All, "all events"),
        (&["--provider", "stripe"], Halt::Provider("stripe".to_owned()), "the events of stripe"),
        (&["--connection", "acme-stripe"], Halt::Connection("acme-stripe".into()), "the connection acme-stripe"),
    ] {
        let pause = [&["inbox", "pause"], scope].concat();
        let resume = [&["inbox", "resume"], scope].concat();
        ends(&place.run(&pause), 0, &["paused", word, "deliveries are taken"]);
        ends(&place.run(&pause), 0, &[word, "paused already"]);
        let halts = read(&place, async |store| store.halts(9).await.unwrap()).await;
        assert_eq!(halts.into_iter().map(|(halt, _)| halt).collect::<Vec<_>>(), [halt]);
        ends(&place.run(&["inbox", "status"]), 0, &["pending", "dead     2", word]);
        assert_eq!(place.json(&resume)["changed"], true);
        assert_eq!(place.json(&resume)["changed"], false);
    }
    let status = place.json(&["inbox", "status"]);
    assert_eq!((&status["paused"], &status["events"]["dead"]), (&json!([]), &json!(2)));

    ends(&place.run(&["connections", "pause", "nobody"]), 1, &["there is no connection nobody"]);
    ends(&place.run(&["connections", "pause", "acme-stripe"]), 0, &["acme-stripe is paused"]);
    ends(&place.run(&["inbox", "status"]), 0, &["the connection acme-stripe"]);
    assert_eq!(place.json(&["connections", "resume", "acme-stripe"])["state"], json!({ "state": "active" }));
    assert_eq!(place.json(&["inbox", "status"])["paused"], json!([]), "its events go on too");

    ends(&place.run(&["sync", "pause", "acme-stripe", "nothing"]), 1, &["no stream nothing"]);
    ends(&place.run(&["sync", "pause", "acme-stripe", "customers"]), 0, &["paused customers of acme-stripe"]);
    let paused = async || read(&place, async |store| store.stream(key()).await.unwrap().paused_at.is_some()).await;
    assert!(paused().await);
    assert_eq!(place.json(&["sync", "resume", "acme-stripe", "customers"]), json!({ "paused": false }));
    assert!(!paused().await);
    ends(&place.run(&["sync"]), 2, &["<CONNECTION>"]);
}

// Fails when a reset forgets records it was not asked to delete, or the feed is not told of those it was.
#[tokio::test]
async fn a_stream_is_reset_with_or_without_its_records() {
    let place = Place::filled().await;
    let live = async || read(&place, async |store| store.stream(key()).await.unwrap().records).await;
    ends(&place.run(&["sync", "reset", "acme-stripe", "customers"]), 0, &["reset customers of acme-stripe:"]);
    assert_eq!(live().await, 2);
    let full = read(&place, async |store| store.stream(key()).await.unwrap().full_at).await;
    assert_eq!(full, None, "everything is to be read anew");
    let told = place.json(&["sync", "reset", "acme-stripe", "customers", "--records"]);
    assert_eq!(told, json!({ "reset": true, "records_deleted": 2 }));
    assert_eq!(live().await, 0);
    ends(&place.run(&["records", "acme-stripe", "customers", "cus_1"]), 0, &["deleted"]);
}

// Fails when a run that does not wait for a review is approved or dismissed, or one that does is not.
#[tokio::test]
async fn deletions_that_wait_for_a_review_are_approved_or_dismissed() {
    let place = Place::filled().await;
    // What the store makes of a full run that misses many records; here its row says so.
    let in_review = async || {
        let store = place.open();
        crate::commands::work(&store, "cus_7", RunState::Done).await;
        let run = store.runs(None, 1).await.unwrap()[0].id.0;
        store.close().await.unwrap();
        let review = serde_json::to_string(&RunState::Review { deletions: 9 }).unwrap();
        let database = rusqlite::Connection::open(place.database()).unwrap();
        database.execute("UPDATE palisade_run SET state = ?1 WHERE id = ?2", (review, run)).unwrap();
        run.to_string()
    };
    ends(&place.run(&["runs", "approve", "1"]), 1, &["run 1 does not wait for review"]);
    ends(&place.run(&["runs", "dismiss", "999"]), 1, &["there is no run 999"]);
    ends(&place.run(&["sync", "acme-stripe", "customers", "--full"]), 0, &[]);
    let run = in_review().await;
    ends(&place.run(&["runs", "dismiss", &run]), 0, &["dismissed the deletions of run", "its records stay"]);
    ends(&place.run(&["runs", "dismiss", &run]), 1, &["does not wait for review"]);
    ends(&place.run(&["sync", "acme-stripe", "customers", "--full"]), 0, &[]);
    let run = in_review().await;
    assert_eq!(place.json(&["runs", "approve", &run]), json!({ "approved": true }));
    let unique = vec!["sync/approved/acme-stripe/customers".to_owned()];
    let job = read(&place, async |store| store.live_jobs(unique).await.unwrap()).await;
    assert!(job[0].is_some(), "a full run is to come");
}

// Fails when a dry run writes, reads without the credential, or tells of a provider that refuses as of one that agrees.
#[test]
fn a_dry_run_tells_what_a_sync_would_do_and_writes_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let emulator =
        runtime.block_on(Stripe::start(StripeConfig { api_key: KEY.to_owned(), ..StripeConfig::default() })).unwrap();
    emulator.create_customer(&[("email", "ada@example.com")]).unwrap();
    let place = Place::with(&config(emulator.base_url()));
    let serving = Running::start(&mut palisade(&["serve", "--config", &crate::binary::path_of(&place.folder)]));
    let address = serving.address("url");
    until("the customer is synced", || {
        get(&address, "/api/v1/records/acme-stripe/customers", ADMIN).contains("ada@example.com")
    });
    assert_eq!(serving.stop(), Some(0));
    emulator.create_customer(&[("email", "new@example.com")]).unwrap();
    let status = || runtime.block_on(read(&place, async |store| store.stream(key()).await.unwrap()));
    let before = status();
    let arguments = ["sync", "acme-stripe", "customers", "--full", "--dry-run"];
    ends(&place.run(&arguments), 0, &["customers: 1 page, all there are: 1 added", "nothing was written"]);
    let told = place.json(&arguments);
    let customers = &told["streams"][0]["dry_run"];
    assert_eq!((&customers["counts"]["added"], &customers["unseen"]), (&json!(1), &json!(0)), "{told}");
    assert_eq!(status(), before);
    ends(&place.run(&[&arguments[..], &["--wait"]].concat()), 2, &["cannot be used with"]);
    ends(&place.run(&["sync", "acme-stripe", "--pages", "2"]), 2, &["--dry-run"]);
    runtime.block_on(emulator.shutdown());
    let gone = place.run(&arguments);
    ends(&gone, 1, &["customers: it could not be read"]);
}

/// Two events of a customer that the handler of their day rejects.
async fn rejected() -> Place {
    let place = Place::filled().await;
    let store = place.open();
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let rejects = || handler(|_, _| Box::pin(async { Handled::Reject { reason: "no such plan".to_owned() } }));
    let hub = builder(Arc::new(store.clone()), clock)
        .on("customer.*", rejects())
        .settings(settings(Access::Trusted))
        .build()
        .unwrap();
    hub.connect(&connection()).await.unwrap();
    for (id, kind) in [("evt_7", "customer.updated"), ("evt_8", "customer.deleted")] {
        assert!(ask(&hub.router(), delivery("stripe", event(id, kind))).await.status.is_success());
    }
    while hub.worker().step(Queue::Events).await.unwrap() > 0 {}
    merge(&store, &[("cus_1", Some(r#"{"id":"cus_1","object":"customer","email":"old@example.com"}"#), 2)]).await;
    store.close().await.unwrap();
    place
}

// Fails when a preview changes anything, leaves out what it would change, or takes what the filter does not name.
#[tokio::test]
async fn a_replay_by_filter_is_previewed_before_it_is_done() {
    let place = rejected().await;
    let by_reason = ["replay", "--preview", "--state", "dead", "--type", "customer.updated"];
    ends(&place.run(&by_reason), 0, &["customers cus_1", "updated", "email", "would replay 1 event: 1 updated"]);
    let told = place.json(&["replay", "--preview", "--state", "dead"]);
    assert_eq!((&told["events"], &told["complete"], &told["previewed"]), (&json!(4), &json!(true), &json!(4)));
    assert_eq!(
        told["totals"],
        json!({ "added": 0, "updated": 1, "deleted": 1, "unchanged": 0, "older": 0, "fetched": 0, "refused": 2 })
    );
    let rows: Vec<_> = told["previews"].as_array().unwrap().iter().map(|one| one["row"].as_i64().unwrap()).collect();
    assert_eq!(rows, [2, 3, 4, 5], "in the order they would be handled");
    let record = &told["previews"][2]["preview"]["records"][0];
    assert_eq!((&record["changed"], &record["before"]["email"]), (&json!(["email"]), &json!("old@example.com")));
    let first = place.json(&["replay", "--preview", "--state", "dead", "--limit", "1"]);
    assert_eq!((&first["events"], &first["previewed"], &first["next"]), (&json!(4), &json!(1), &json!(2)));
    ends(&place.run(&["replay", "--preview", "4", "99"]), 1, &["cus_1", "not replayed: 99"]);
    ends(&place.run(&["replay", "--preview", "--dry-run", "4"]), 2, &["cannot be used with"]);
    ends(&place.run(&["replay", "--preview", "--state", "dead", "--limit", "101"]), 2, &["100"]);
    let untouched = read(&place, async |store| {
        let counts = store.event_counts().await.unwrap();
        let record = store.record(key(), "cus_1".into()).await.unwrap().unwrap();
        (counts.get(&EventState::Dead).copied(), String::from_utf8_lossy(&record.data.unwrap()).into_owned())
    });
    let (dead, data) = untouched.await;
    assert_eq!(dead, Some(4));
    assert!(data.contains("old@example.com"), "{data}");

    ends(&place.run(&["replay", "--state", "dead", "--provider", "slack"]), 0, &["replayed 0 events"]);
    ends(&place.run(&["replay", "--state", "dead", "--limit", "3", "--dry-run"]), 0, &["would replay 3 events"]);
    let prefix = ["replay", "--state", "dead", "--type", "customer.*"];
    ends(&place.run(&[&prefix[..], &["--dry-run"]].concat()), 0, &["would replay 2 events"]);
    ends(&place.run(&[&prefix[..], &["--preview"]].concat()), 0, &["would replay 2 events: 1 updated, 1 deleted"]);
    ends(&place.run(&["replay", "--state", "dead", "--type", "customer.updated"]), 0, &["replayed 1 event:"]);
    let left = read(&place, async |store| store.event_counts().await.unwrap()).await;
    assert_eq!(left.get(&EventState::Pending), Some(&1));
}

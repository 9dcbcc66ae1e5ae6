//! `palisade connections | inbox | runs | records | sync | replay | completions` as processes over a database of the test:
//! what they show. What they change besides is tried in `operating.rs`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use palisade_core::clock::ManualClock;
use palisade_core::net::Reach;
use palisade_core::random::SeededRandom;
use palisade_core::store::{
    Claim, Claimed, ConnectionState, Connections, DestinationSpec, Destinations, EventRow, EventState, Filter, Inbox,
    JobEnd, Jobs, Merge, NewDestination, NewJob, Order, OutboxChange, PageCommit, Queue, Records, Room, RunEnd,
    RunState, Settlement, StreamKey, Work, forward_key,
};
use palisade_core::sync::{Change, Span, State};
use palisade_core::{ErrorKind, Random, Timestamp};
use palisade_hub::Access;
use palisade_store::{SqliteConfig, SqliteStore};
use serde_json::Value;
use tempfile::TempDir;

use crate::binary::{ends, folder_with, has_no_secret, palisade, path_of};
use crate::fixtures::{NOW, ask, builder, connection, delivery, event, settings};

pub(crate) const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:0"
admin_token = { env = "NOT_SET" }
[vault]
master_key = { env = "NOT_SET" }
"#;

pub(crate) fn key() -> StreamKey {
    StreamKey { connection: "acme-stripe".into(), stream: "customers".into() }
}

/// A folder with a configuration and its database.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with(CONFIG)
    }

    /// A folder with another configuration.
    pub(crate) fn with(config: &str) -> Self {
        Self { folder: folder_with(config) }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("palisade.db")
    }

    pub(crate) fn open(&self) -> SqliteStore {
        SqliteStore::open(SqliteConfig::at(self.database())).unwrap()
    }

    /// Fills the database: one connection with three customers (one deleted), events of every state, and runs.
    pub(crate) async fn filled() -> Self {
        let place = Self::new();
        let store = place.open();
        let clock = Arc::new(ManualClock::starting_at(NOW));
        let hub = builder(Arc::new(store.clone()), clock)
            .transport(Arc::new(crate::running::Empty::default()))
            .settings(settings(Access::Trusted))
            .build()
            .unwrap();
        hub.connect(&connection()).await.unwrap();
        // The position of the events, the lists that follow it: all of them empty.
        for _ in 0..20 {
            hub.worker().step(Queue::Background).await.unwrap();
        }
        merge(&store, &[("cus_1", Some("{\"id\":\"cus_1\",\n \"email\":\"=a@x\"}"), 1), ("cus_2", Some("{}"), 1)])
            .await;
        merge(&store, &[("cus_2", None, 2), ("cus_3", Some(r#"{"id":"cus_3","n":1.10}"#), 2)]).await;
        let router = hub.router();
        for body in
            [event("evt_1", "nobody.wants_this"), "unreadable \u{1b}[2J".to_owned(), "unreadable too".to_owned()]
        {
            assert!(ask(&router, delivery("stripe", body)).await.status.is_success());
        }
        while hub.worker().step(Queue::Events).await.unwrap() > 0 {}
        store.close().await.unwrap();
        place
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let config = path_of(&self.folder);
        palisade(&[arguments, &["--config", &config]].concat()).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        ends(&output, 0, &[]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1, "one document on one line: {text}");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

pub(crate) async fn merge(store: &SqliteStore, changes: &[(&str, Option<&str>, i64)]) {
    let changes = changes
        .iter()
        .map(|(id, data, at)| Change {
            stream: "customers".into(),
            id: (*id).into(),
            span: Span::exact(*at),
            state: data.map_or(State::Deleted, |data| State::Present(data.to_owned().into())),
        })
        .collect();
    store.merge(vec![Merge { key: key(), read_since: Some(0), changes }], NOW).await.unwrap();
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

// Fails when a command answers with other facts, another exit code, or with borders and colours into a pipe.
#[tokio::test]
async fn each_command_answers_with_its_facts_and_its_exit_code() {
    let place = Place::filled().await;
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["connections", "list"], 0, &["acme-stripe", "acme", "stripe", "production", "active"]),
        (&["connections", "show", "acme-stripe"], 0, &["tenant", "acme", "customers"]),
        (&["connections", "show", "nobody"], 1, &["there is no connection nobody"]),
        (&["inbox", "list"], 0, &["nobody.wants_this", "ignored", "dead", "not what the provider documents"]),
        (&["inbox", "list", "--state", "ignored"], 0, &["evt_1"]),
        (&["inbox", "list", "--type", "nobody.*", "--limit", "1"], 0, &["evt_1"]),
        (&["inbox", "list", "--since", "soon"], 2, &["30m, 2h or 7d", "2026-01-31T12:00:00Z"]),
        (&["inbox", "list", "--since", "1h", "--until", "2h"], 2, &["nothing lies in that time"]),
        (&["inbox", "list", "--type", "in*voice"], 2, &["prefix (invoice.*)"]),
        (&["inbox", "list", "--limit", "2"], 0, &["more: --before 2"]),
        (&["inbox", "list", "--state", "lost"], 2, &["pending", "dead"]),
        (&["inbox", "list", "--limit", "0"], 2, &["--limit"]),
        (&["inbox", "show", "1"], 0, &["evt_1", "nobody.wants_this", "\"livemode\": false"]),
        (&["inbox", "show", "99"], 1, &["there is no event 99"]),
        (&["inbox", "show", "x"], 2, &["invalid value"]),
        (&["inbox", "dead"], 0, &["2 ", "not what the provider documents"]),
        (&["runs", "list"], 0, &["acme-stripe", "customers", "full", "done"]),
        (&["runs", "list", "--stream", "customers", "--state", "failed"], 0, &[]),
        (&["runs", "show", "1"], 0, &["stream", "mode", "state"]),
        (&["runs", "show", "99"], 1, &["there is no run 99"]),
        (&["records", "acme-stripe", "customers"], 0, &["cus_1", "cus_2", "cus_3", "deleted"]),
        (&["records", "acme-stripe", "customers", "--limit", "2"], 0, &["more: --cursor "]),
        (&["runs", "list", "--limit", "1"], 0, &["more: --before "]),
        (&["records", "acme-stripe", "customers", "cus_1"], 0, &["cus_1", "\"email\": \"=a@x\""]),
        (&["records", "acme-stripe", "customers", "nobody"], 1, &["there is no record nobody"]),
        (&["records", "acme-stripe", "nothing"], 1, &["no stream nothing", "customers"]),
        (&["records", "nobody", "customers"], 1, &["there is no connection nobody"]),
        (&["records", "acme-stripe", "customers", "--cursor", "x"], 2, &["no cursor"]),
        (&["replay"], 2, &["say which"]),
        (&["replay", "99"], 1, &["not replayed: 99"]),
        (&["replay", "--state", "pending"], 2, &["what waits is handled anyway"]),
        (&["replay", "1", "--state", "dead"], 2, &["cannot be used with"]),
        (&["replay", "1", "--reason", "none"], 2, &["cannot be used with"]),
        (&["replay", "--type", "*.paid"], 2, &["prefix (invoice.*)"]),
        (&["replay", "--since", "1h", "--until", "1d"], 2, &["nothing lies in that time"]),
        (&["sync", "nobody"], 1, &["there is no connection nobody"]),
        (&["sync", "acme-stripe", "customers"], 2, &["--full"]),
        (&["sync", "acme-stripe", "nothing"], 1, &["no stream nothing", "customers"]),
        (&["sync", "acme-stripe", "--timeout", "1s"], 2, &["--wait"]),
    ];
    for (arguments, code, words) in cases {
        let output = place.run(arguments);
        ends(&output, *code, words);
        let text = text(&output);
        assert!(!text.contains(['\u{1b}', '│', '|', '┌']), "{arguments:?}: {text}");
        assert!(text.lines().all(|line| line.trim_end() == line), "{arguments:?}: {text:?}");
        if *code == 2 || *code == 3 {
            assert_eq!(text, "", "{arguments:?}");
        }
        if !matches!(code, 0 | 2) {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(told.lines().count(), 1, "one sentence: {told}");
        }
    }
    for whole in [
        &["connections", "list", "--limit", "1"][..],
        &["inbox", "list", "--limit", "3"],
        &["records", "acme-stripe", "customers", "--limit", "3"],
        &["runs", "list", "--limit", "1000"],
        &["schedules", "list", "--limit", "1"],
    ] {
        let output = place.run(whole);
        ends(&output, 0, &[]);
        assert!(!text(&output).contains("more:"), "{whole:?}: {}", text(&output));
    }
    for missing in [&["runs", "list"][..], &["export", "a", "b", "--format", "csv", "--out", "-"]] {
        let empty = Place::new();
        ends(&empty.run(missing), 3, &["is not there yet", "palisade serve"]);
        assert!(!empty.database().exists(), "it makes no database");
    }
    let nowhere = palisade(&["runs", "list", "--config", "/nowhere.toml"]).output().unwrap();
    ends(&nowhere, 2, &["/nowhere.toml: there is no such file", "--config", "palisade.example.toml"]);
}

// Fails when a list takes another moment than a replay by the same words, or one of its ends with another sense.
#[tokio::test]
async fn a_span_of_time_begins_with_its_first_moment_and_ends_before_its_last() {
    let place = Place::filled().await;
    for (since, until, listed, replayed) in [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", 3, 2),
        ("2025-12-31T23:00:00Z", "2026-01-01T00:00:00Z", 0, 0),
        ("2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00.001Z", 3, 2),
        ("2026-01-01T00:00:00.001Z", "0s", 0, 0),
        ("3650d", "0s", 3, 2),
    ] {
        let span = ["--since", since, "--until", until];
        let list = place.json(&[&["inbox", "list"][..], &span].concat());
        assert_eq!(list["events"].as_array().unwrap().len(), listed, "{span:?}");
        let replay = place.json(&[&["replay", "--dry-run"][..], &span].concat());
        assert_eq!(replay["replayed"], replayed, "{span:?}");
    }
    let dead = place.json(&["inbox", "dead"]);
    let reason = dead["causes"][0]["reason"].as_str().unwrap();
    assert_eq!(place.json(&["inbox", "list", "--reason", reason])["events"].as_array().unwrap().len(), 2);
    assert_eq!(place.json(&["replay", "--dry-run", "--reason", reason])["replayed"], 2);
    assert_eq!(place.json(&["replay", "--dry-run", "--reason", "another"])["replayed"], 0);
}

#[tokio::test]
async fn every_list_is_one_json_document_that_pages() {
    let place = Place::filled().await;
    let connections = place.json(&["connections", "list"]);
    assert_eq!(
        (&connections["connections"][0]["id"], &connections["next_after"]),
        (&"acme-stripe".into(), &Value::Null)
    );
    let shown = place.json(&["connections", "show", "acme-stripe"]);
    assert_eq!((&shown["state"], &shown["records"], &shown["dead_letters"]), (&"active".into(), &2.into(), &2.into()));
    assert!(place.json(&["connections", "list", "--after", "zzz"])["connections"].as_array().unwrap().is_empty());

    let (mut rows, mut before) = (Vec::new(), i64::MAX.to_string());
    loop {
        let page = place.json(&["inbox", "list", "--limit", "2", "--before", &before]);
        rows.extend(page["events"].as_array().unwrap().iter().map(|event| event["row"].as_i64().unwrap()));
        match page["next_before"].as_i64() {
            Some(next) => before = next.to_string(),
            None => break,
        }
    }
    assert_eq!(rows, [3, 2, 1]);
    assert_eq!(place.json(&["inbox", "list", "--since", "1h"])["events"], serde_json::json!([]));
    assert_eq!(place.json(&["inbox", "list", "--since", "3650d"])["events"].as_array().unwrap().len(), 3);
    assert_eq!(place.json(&["inbox", "list", "--connection", "other"])["events"], serde_json::json!([]));
    assert_eq!(place.json(&["inbox", "list", "--provider", "slack"])["events"], serde_json::json!([]));
    assert_eq!(place.json(&["inbox", "list", "--provider", "stripe"])["events"].as_array().unwrap().len(), 3);
    assert_eq!(place.json(&["inbox", "show", "3"])["payload_base64"], "dW5yZWFkYWJsZSB0b28=");
    let raw = place.run(&["inbox", "show", "2", "--raw"]);
    assert_eq!(raw.stdout, "unreadable \u{1b}[2J".as_bytes(), "byte by byte where it is asked for");
    let dead = place.json(&["inbox", "dead"]);
    assert_eq!((&dead["causes"][0]["events"], &dead["events"]), (&2.into(), &2.into()));
    assert_eq!((dead["causes"].as_array().unwrap().len(), &dead["causes"][0]["provider"]), (1, &"stripe".into()));

    let page = place.json(&["records", "acme-stripe", "customers", "--limit", "2"]);
    assert_eq!(page["has_more"], true);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = place.json(&["records", "acme-stripe", "customers", "--cursor", cursor]);
    let ids = |page: &Value| -> Vec<String> {
        page["records"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((ids(&page), ids(&rest)), (vec!["cus_1".to_owned(), "cus_2".to_owned()], vec!["cus_3".to_owned()]));
    assert_eq!(place.json(&["records", "acme-stripe", "customers", "cus_2"])["change"], "deleted");

    let runs = place.json(&["runs", "list"]);
    let newest = runs["runs"][0]["id"].as_i64().unwrap().to_string();
    assert_eq!(place.json(&["runs", "show", &newest])["id"], runs["runs"][0]["id"]);
    let older = place.json(&["runs", "list", "--before", &newest, "--limit", "1"]);
    assert_eq!(older["runs"][0]["id"].as_i64().unwrap(), newest.parse::<i64>().unwrap() - 1);
}

// Fails when a dry run changes something, or a filter takes what it does not name.
#[tokio::test]
async fn events_are_replayed_one_by_one_and_by_filter() {
    let place = Place::filled().await;
    let told = place.json(&["replay", "--state", "dead", "--dry-run"]);
    assert_eq!((&told["replayed"], &told["dry_run"]), (&2.into(), &true.into()));
    let state = async |row: i64| {
        let store = place.open();
        let event = store.event(EventRow(row)).await.unwrap().unwrap();
        store.close().await.unwrap();
        event.state
    };
    assert_eq!(state(2).await, EventState::Dead);
    ends(&place.run(&["replay", "--type", "nobody.*", "--since", "3650d"]), 0, &["replayed 0 events"]);
    ends(&place.run(&["replay", "2", "99"]), 1, &["replayed 1 event:", "not replayed: 99"]);
    assert_eq!((state(2).await, state(3).await), (EventState::Pending, EventState::Dead));
    ends(&place.run(&["replay", "--state", "dead", "--connection", "acme-stripe"]), 0, &["replayed 1 event:"]);
    assert_eq!(state(3).await, EventState::Pending);
}

// Fails when more is dismissed than was named, a dry run dismisses, or what was dismissed is replayed with what nobody wanted.
#[tokio::test]
async fn dead_letters_are_dismissed_by_row_and_by_filter() {
    let place = Place::filled().await;
    let dead = || place.json(&["inbox", "dead"])["events"].clone();
    ends(&place.run(&["inbox", "dismiss"]), 2, &["say which"]);
    let told = place.json(&["inbox", "dismiss", "--type", "unread*", "--dry-run"]);
    assert_eq!((&told["dismissed"], &told["dry_run"], dead()), (&2.into(), &true.into(), 2.into()));
    ends(&place.run(&["inbox", "dismiss", "2", "1"]), 1, &["dismissed 1 dead letter", "no dead letter with row 1"]);
    ends(&place.run(&["inbox", "dismiss", "--reason", "another"]), 0, &["dismissed 0 dead letters"]);
    ends(&place.run(&["inbox", "dismiss", "--since", "1h"]), 0, &["dismissed 0 dead letters"]);
    ends(&place.run(&["inbox", "dismiss", "--until", "2026-01-01T00:00:00Z"]), 0, &["dismissed 0 dead letters"]);
    ends(&place.run(&["inbox", "dismiss", "--since", "1h", "--until", "2h"]), 2, &["nothing lies in that time"]);
    ends(&place.run(&["inbox", "dismiss", "2", "--since", "1h"]), 2, &["cannot be used with"]);
    assert_eq!(dead(), 1);
    ends(&place.run(&["inbox", "dismiss", "--all"]), 0, &["dismissed 1 dead letter"]);
    assert_eq!(dead(), 0);
    let shown = place.json(&["inbox", "show", "2"]);
    assert_eq!(shown["state"], "ignored");
    assert!(shown["reason"].as_str().unwrap().starts_with("dismissed: "), "{shown}");
    ends(&place.run(&["replay", "--state", "ignored"]), 0, &["replayed 1 event:"]);
    ends(&place.run(&["replay", "2", "1"]), 1, &["replayed 1 event:", "not replayed: 1"]);
}

// Fails when what was given up for a destination is not counted or not to be found, or more is dismissed than was named.
#[tokio::test]
async fn what_was_given_up_for_a_destination_is_listed_and_dismissed() {
    let place = Place::filled().await;
    let store = place.open();
    let spec = DestinationSpec {
        url: "https://app.example.com/".to_owned(),
        filter: Filter { types: vec!["*".to_owned()], ..Filter::default() },
        concurrency: 1,
        timeout: Duration::from_secs(1),
        headers: Vec::new(),
        order: Order::None,
        reach: Reach::default(),
    };
    let new = NewDestination { name: "app".to_owned(), configured: false, spec, keys: Vec::new() };
    store.put_destination(new, 0, NOW).await.unwrap();
    let job = |row| NewJob {
        work: Work::Forward { row: EventRow(row), destination: "app".to_owned() },
        lane: None,
        group: None,
        tenant: None,
        unique: Some(forward_key("app", EventRow(row))),
        priority: 0,
        run_at: NOW,
        attempts_max: 9,
    };
    store.enqueue([1, 2, 3].map(job).to_vec()).await.unwrap();
    let claim =
        Claim { now: NOW, hold: Duration::from_secs(60), max: 2, queue: Queue::Forwards, room: Room::default() };
    for one in store.claim(claim).await.unwrap() {
        let settlement = Settlement {
            lease: one.lease,
            end: JobEnd::Dead { reason: "the receiver answered 500".to_owned() },
            now: NOW,
            effects: Vec::new(),
            merges: Vec::new(),
            follow: Vec::new(),
            outbox: OutboxChange::default(),
        };
        store.settle(vec![settlement]).await.unwrap();
    }
    store.close().await.unwrap();
    let counts = || {
        let shown = place.json(&["destinations", "show", "app"]);
        (shown["waiting"].clone(), shown["dead"].clone())
    };
    assert_eq!(counts(), (1.into(), 2.into()));
    assert_eq!(place.json(&["destinations", "list"])["destinations"][0]["dead"], 2);
    ends(&place.run(&["destinations", "dead", "app"]), 0, &["nobody.wants_this", "evt_1", "answered 500"]);
    let page = place.json(&["destinations", "dead", "app", "--limit", "1"]);
    assert_eq!((&page["events"][0]["row"], &page["next_after"]), (&1.into(), &1.into()));
    let rest = place.json(&["destinations", "dead", "app", "--after", "1"]);
    assert_eq!((&rest["events"][0]["row"], &rest["next_after"]), (&2.into(), &Value::Null));
    for (arguments, code, words) in [
        (&["destinations", "dead", "nobody"][..], 1, "no destination nobody"),
        (&["destinations", "dismiss", "nobody", "--all"], 1, "no destination nobody"),
        (&["destinations", "dismiss", "app"], 2, "required"),
        (&["destinations", "resend", "app", "1", "--all"], 2, "cannot be used with"),
        (&["destinations", "dismiss", "app", "2", "99"], 0, "dismissed 1 event; 1 still given up"),
        (&["destinations", "dismiss", "app", "--all"], 0, "dismissed 1 event; 0 still given up"),
    ] {
        ends(&place.run(arguments), code, &[words]);
    }
    assert_eq!(counts(), (1.into(), 0.into()));
}

/// Plays the part of a hub that serves: claims the next sync of customers, reads a record and ends the run.
pub(crate) async fn work(store: &SqliteStore, record: &str, state: RunState) {
    let claim =
        Claim { now: far(), hold: Duration::from_secs(60), max: 64, queue: Queue::Background, room: Room::default() };
    loop {
        let claimed = store.claim(claim.clone()).await.unwrap();
        let ours = |one: &&Claimed| matches!(&one.work, Work::Sync { key, .. } if key.stream.as_str() == "customers");
        if let Some(one) = claimed.iter().find(ours) {
            let Work::Sync { key, mode } = one.work.clone() else { unreachable!() };
            let run = store.start_run(one.lease, key.clone(), mode, NOW).await.unwrap();
            let span = Span::exact(5);
            let data = State::Present("{\"n\":1}".into());
            let changes = vec![Change { stream: key.stream.clone(), id: record.into(), span, state: data }];
            let page = PageCommit {
                lease: one.lease,
                run: run.id,
                read_since: u64::MAX,
                changes,
                deliveries: Vec::new(),
                missed: Default::default(),
                missed_before: NOW,
                unheard: Default::default(),
                endpoints: Vec::new(),
                bad: Vec::new(),
                fetched: Default::default(),
                total: None,
                next: None,
                now: NOW,
            };
            store.commit_page(page).await.unwrap();
            let end = RunEnd {
                lease: one.lease,
                run: run.id,
                state,
                stop: None,
                span: None,
                follow: Vec::new(),
                resume: None,
                deletions_approved: u64::MAX,
                at_once: 500,
                now: NOW,
            };
            store.end_run(end).await.unwrap();
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// A moment by which every job is due, whichever clock it was made by.
fn far() -> Timestamp {
    Timestamp(NOW.millis() * 2)
}

// Fails when a command that waits does not tell how the run ended, ends with success where it failed, or waits for what
// is paused.
#[tokio::test]
async fn a_sync_is_asked_for_and_waited_for() {
    let place = Place::filled().await;
    ends(&place.run(&["sync", "acme-stripe"]), 0, &["asked for events"]);
    let asked = place.json(&["sync", "acme-stripe", "customers", "--full"]);
    assert_eq!((&asked["mode"], &asked["streams"]), (&"full".into(), &serde_json::json!(["customers"])));
    ends(
        &place.run(&["sync", "acme-stripe", "customers", "--full", "--wait", "--timeout", "1s"]),
        1,
        &["has not ended in that time"],
    );
    let store = place.open();
    work(&store, "cus_8", RunState::Done).await;
    let failed = RunState::Failed { kind: ErrorKind::Permission, reason: "the key may not list customers".to_owned() };
    for (state, code, words) in [
        (RunState::Done, 0, &["customers: done", "1 added"][..]),
        (failed, 1, &["customers: failed: the key may not list customers (permission)"]),
    ] {
        let config = path_of(&place.folder);
        let arguments = ["sync", "acme-stripe", "customers", "--full", "--wait", "--config", &config];
        let child = palisade(&arguments).spawn().unwrap();
        work(&store, "cus_9", state).await;
        let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
        ends(&output, code, words);
    }
    // What is paused is refused: nobody would take it up.
    let waits = ["sync", "acme-stripe", "customers", "--full", "--wait", "--timeout", "1s"];
    store.pause_stream(key(), Some(NOW)).await.unwrap();
    ends(&place.run(&waits), 1, &["customers of acme-stripe is paused"]);
    ends(&place.run(&waits[..4]), 1, &["customers of acme-stripe is paused", "palisade sync resume"]);
    store.pause_stream(key(), None).await.unwrap();
    let mut acme = store.connection("acme-stripe".into()).await.unwrap().unwrap();
    for (state, word) in [
        (ConnectionState::Paused, "acme-stripe is paused"),
        (ConnectionState::NeedsReconnect { reason: "the key was revoked".to_owned() }, "must be connected again"),
    ] {
        acme.state = state;
        store.put_connection(acme.clone()).await.unwrap();
        ends(&place.run(&waits), 1, &[word]);
        ends(&place.run(&waits[..4]), 1, &[word]);
    }
    acme.state = ConnectionState::Disconnected;
    store.put_connection(acme).await.unwrap();
    store.close().await.unwrap();
    ends(&place.run(&["sync", "acme-stripe"]), 1, &["is disconnected"]);
}

// Fails when a command complains, or goes on for long, because whoever read its output went away.
#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    let store = place.open();
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let hub = builder(Arc::new(store.clone()), clock).settings(settings(Access::Trusted)).build().unwrap();
    hub.connect(&connection()).await.unwrap();
    // What cannot be made small: the pipe must be full before the reader goes away.
    let random = SeededRandom::new(1);
    for batch in 0..20 {
        let filling = || (0..60).map(|_| format!("{:016x}", random.bits())).collect::<String>();
        let records: Vec<_> =
            (0..500).map(|n| (format!("cus_{batch}_{n}"), format!(r#"{{"filling":"{}"}}"#, filling()))).collect();
        let changes: Vec<_> = records.iter().map(|(id, data)| (id.as_str(), Some(data.as_str()), 1)).collect();
        merge(&store, &changes).await;
    }
    store.close().await.unwrap();
    let config = path_of(&place.folder);
    for arguments in [
        &["export", "acme-stripe", "customers", "--format", "jsonl", "--out", "-", "--config", &config][..],
        &["export", "acme-stripe", "customers", "--format", "csv", "--out", "-", "--config", &config],
        &["export", "acme-stripe", "customers", "--format", "parquet", "--out", "-", "--config", &config],
        &["records", "acme-stripe", "customers", "--limit", "1000", "--json", "--config", &config],
    ] {
        let mut child = palisade(arguments).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut first = [0_u8; 100];
        out.read_exact(&mut first).unwrap();
        drop(out);
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!((child.wait().unwrap().code(), told.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

// Fails when a shell is given something that it cannot read, or commands are missing in it.
#[test]
fn completions_name_every_command() {
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef palisade"), ("fish", "complete -c palisade")] {
        let output = palisade(&["completions", shell]).output().unwrap();
        let words = [
            "connections",
            "inbox",
            "outbox",
            "destinations",
            "schedules",
            "runs",
            "records",
            "sync",
            "replay",
            "export",
            "completions",
            "reconcile",
            "rotate",
            "unset",
            "reset",
            "--preview",
            "--dry-run",
        ];
        // Fish names an option without its dashes.
        let words = words.map(|word| if shell == "fish" { word.trim_start_matches('-') } else { word });
        ends(&output, 0, &[&[mark][..], &words].concat());
        // Where the shell is there, it reads the script itself.
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, &output.stdout).unwrap();
        let checked = std::process::Command::new(shell).arg("-n").arg(&script).stderr(Stdio::piped()).output();
        if let Ok(checked) = checked {
            assert!(checked.status.success(), "{shell}: {}", String::from_utf8_lossy(&checked.stderr));
        }
    }
    ends(&palisade(&["completions", "cmd"]).output().unwrap(), 2, &["bash", "zsh", "fish"]);
}

// Fails when a command waits for the hub that serves from the same database, or reads what is sealed there.
#[tokio::test]
async fn commands_work_beside_a_hub_that_serves() {
    let place = Place::filled().await;
    let store = place.open();
    let serving = {
        let clock = Arc::new(ManualClock::starting_at(NOW));
        builder(Arc::new(store.clone()), clock).settings(settings(Access::Trusted)).build().unwrap()
    };
    serving.connect(&connection()).await.unwrap();
    merge(&store, &[("cus_4", Some("{}"), 9)]).await;
    let listed = place.run(&["records", "acme-stripe", "customers"]);
    ends(&listed, 0, &["cus_4"]);
    for arguments in [&["connections", "list"][..], &["inbox", "list"], &["runs", "list"]] {
        let output = place.run(arguments);
        ends(&output, 0, &[]);
        has_no_secret(&text(&output));
        assert!(!text(&output).contains("sk_test_fixture"));
        assert!(output.stdout.as_slice().lines().count() > 1, "{arguments:?}");
    }
    merge(&store, &[("cus_5", Some("{}"), 9)]).await;
    store.close().await.unwrap();
}

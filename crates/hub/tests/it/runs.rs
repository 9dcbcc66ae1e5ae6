//! `…/api/v1/runs` and what people do to streams.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use palisade_core::Timestamp;
use palisade_core::store::{
    BAD_KEPT_MAX, Claim, ConnectionState, Connections, Jobs, Lease, Merge, Missed, NewJob, PageCommit, Queue, Records,
    Run, RunEnd, RunMode, RunState, Store, StreamKey, Work,
};
use palisade_core::sync::{BadRecord, Change, Span, State, Stop};
use serde_json::Value;

use crate::fixtures::{Answer, Fixture, NOW, fixture};

const STREAM: &str = "/api/v1/connections/acme-stripe/streams/customers";

fn key() -> StreamKey {
    StreamKey { connection: "acme-stripe".into(), stream: "customers".into() }
}

fn change(n: usize) -> Change {
    let data = State::Present(format!("{{\"id\":\"cus_{n:02}\"}}").into());
    Change { stream: "customers".into(), id: format!("cus_{n:02}").into(), span: Span::exact(1), state: data }
}

/// Begins a run of a stream.
async fn begun(store: &dyn Store, key: StreamKey, mode: RunMode) -> (Lease, Run) {
    let job = NewJob {
        work: Work::Sync { key: key.clone(), mode },
        lane: None,
        group: None,
        tenant: None,
        unique: None,
        priority: 9,
        run_at: NOW,
        attempts_max: 5,
    };
    store.enqueue(vec![job]).await.unwrap();
    let claim =
        Claim { now: NOW, hold: Duration::from_secs(60), max: 1, queue: Queue::Background, room: Default::default() };
    let lease = store.claim(claim).await.unwrap().remove(0).lease;
    (lease, store.start_run(lease, key, mode, NOW).await.unwrap())
}

/// Ends a run of one page.
pub(crate) async fn ended(store: &dyn Store, mode: RunMode, fill: impl FnOnce(PageCommit) -> PageCommit) -> Run {
    let (lease, run) = begun(store, key(), mode).await;
    let now = NOW.plus(Duration::from_secs(10));
    let page = PageCommit {
        lease,
        run: run.id,
        read_since: 1,
        changes: Vec::new(),
        deliveries: Vec::new(),
        missed: Missed::default(),
        missed_before: Timestamp(0),
        unheard: Default::default(),
        endpoints: Vec::new(),
        bad: Vec::new(),
        fetched: Default::default(),
        total: None,
        next: None,
        now,
    };
    store.commit_page(fill(page)).await.unwrap();
    let end = RunEnd {
        lease,
        run: run.id,
        state: RunState::Done,
        stop: None,
        span: None,
        follow: Vec::new(),
        resume: None,
        deletions_approved: 0,
        at_once: 500,
        now,
    };
    store.end_run(end).await.unwrap()
}

/// Ends a full run of sixty records that saw none of them, met one it could not read, and was told of a total.
pub(crate) async fn run_in_review(store: &dyn Store) -> Run {
    let changes = (0..60).map(change).collect();
    store.merge(vec![Merge { key: key(), read_since: Some(0), changes }], NOW).await.unwrap();
    let broken = BadRecord::new(Some("cus_99"), br#"{"id":"cus_99"}"#, "it is broken");
    ended(store, RunMode::Full, |page| PageCommit { bad: vec![broken], total: Some(4), ..page }).await
}

// Fails when what webhooks should have brought is told by nobody, or records are called events.
#[tokio::test]
async fn what_a_run_healed_is_told_as_what_it_is() {
    let fixture = fixture().with_connection().await;
    let at = |minutes: u64| Some(NOW.minus(Duration::from_secs(60 * minutes)));
    let missed = |count, records| Missed { count, records, from: at(31), to: at(2) };
    ended(&*fixture.store, RunMode::Incremental, |page| PageCommit { missed: missed(12, 0), ..page }).await;
    let run = ended(&*fixture.store, RunMode::Incremental, |page| PageCommit { missed: missed(2, 2), ..page }).await;
    assert_eq!((run.missed.events(), run.missed.records), (0, 2));

    let told = fixture.get("/api/v1/connections/acme-stripe/healings").await.json();
    let [records, events] = &told["healings"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((&records["records"], &records["events"]), (&2.into(), &Value::Null));
    assert_eq!((&events["records"], &events["events"]), (&Value::Null, &12.into()));
    let words = records["words"].as_str().unwrap();
    assert!(words.starts_with("2 records missed ") && words.contains(", healed "), "{words}");
    assert!(events["words"].as_str().unwrap().starts_with("12 events missed "), "{events}");
    assert_eq!((&records["run"], &records["stream"]), (&run.id.0.into(), &"customers".into()));
    let shown = fixture.get("/api/v1/runs").await.json();
    assert_eq!(shown["runs"][0]["missed"]["words"], words);

    // On the page: the connection's card tells the newest, the table of runs each.
    let page = fixture.get("/").await.text();
    assert_eq!(page.matches(words).count(), 2, "{page}");
    assert_eq!(page.matches(events["words"].as_str().unwrap()).count(), 1, "{page}");
}

async fn post(fixture: &Fixture, path: &str, body: &str) -> Answer {
    let request = Request::post(path).body(Body::from(body.to_owned())).unwrap();
    fixture.ask(request).await
}

// Fails when somebody who is to approve cannot see what would go, all of it, or a dismissed run can be approved.
#[tokio::test]
async fn what_a_run_would_delete_is_listed_and_dismissed() {
    let fixture = fixture().with_connection().await;
    let run = run_in_review(&*fixture.store).await;
    assert_eq!(run.state, RunState::Review { deletions: 60 });
    let path = format!("/api/v1/runs/{}", run.id.0);
    let shown = fixture.get(&format!("{path}?limit=50")).await.json();
    assert_eq!((&shown["run"]["state"], &shown["run"]["deletions"]), (&"review".into(), &60.into()));
    assert_eq!((&shown["run"]["unreadable"], &shown["run"]["total"]), (&1.into(), &4.into()));
    assert_eq!((&shown["run"]["elapsed_seconds"], &shown["run"]["records_per_second"]), (&10.into(), &0.1.into()));
    assert_eq!((&shown["run"]["feed_from"], &shown["run"]["feed_to"]), (&60.into(), &60.into()));
    let first = shown["deletions"].as_array().unwrap();
    assert_eq!((first.len(), &first[0]["id"], &first[0]["data"]["id"]), (50, &"cus_00".into(), &"cus_00".into()));
    let after = shown["next_after"].as_str().unwrap();
    let rest = fixture.get(&format!("{path}?limit=50&after={after}")).await.json();
    assert_eq!((rest["deletions"].as_array().unwrap().len(), rest["next_after"].is_null()), (10, true));

    let page = fixture.get("/").await.text();
    assert!(page.contains(&format!("/actions/runs/{}/dismiss", run.id.0)) && page.contains("1 unreadable"), "{page}");
    let aside = fixture.get(&format!("{STREAM}/unreadable")).await.json();
    assert_eq!(
        (&aside["unreadable"][0]["id"], &aside["unreadable"][0]["why"]),
        (&"cus_99".into(), &"it is broken".into())
    );
    assert_eq!(aside["unreadable"][0]["raw"]["id"], "cus_99");

    assert_eq!(fixture.post(&format!("{path}/dismiss")).await.status, 200);
    fixture.post(&format!("{path}/dismiss")).await.is_error(404, "not_found");
    fixture.post(&format!("{path}/approve")).await.is_error(404, "not_found");
    let over = fixture.get(&path).await.json();
    assert_eq!((&over["run"]["state"], &over["run"]["stop"]["cause"]), (&"failed".into(), &"superseded".into()));
    assert_eq!((&over["run"]["who_acts"], over["deletions"].as_array().unwrap().len()), (&"nobody".into(), 0));
    fixture.get("/api/v1/runs/4711").await.is_error(404, "not_found");
    fixture.get("/api/v1/runs/x").await.is_error(400, "invalid");
}

// Fails when a run is looked for among the newest only, when a filter is passed over, or when an unknown one is taken.
#[tokio::test]
async fn runs_are_found_by_state_and_stream() {
    let fixture = fixture().with_connection().await;
    let review = run_in_review(&*fixture.store).await;
    for _ in 0..3 {
        ended(&*fixture.store, RunMode::Incremental, |page| page).await;
    }
    let found = async |query: &str| {
        let told = fixture.get(&format!("/api/v1/runs?{query}")).await.json();
        let ids = told["runs"].as_array().unwrap().iter().map(|run| run["id"].as_i64().unwrap()).collect::<Vec<_>>();
        (ids, told["next_before"].as_i64())
    };
    let id = review.id.0;
    assert_eq!(found("state=review&limit=2").await, (vec![id], None));
    assert_eq!(found("state=done&limit=2").await, (vec![id + 3, id + 2], Some(id + 2)));
    assert_eq!(found(&format!("state=done&before={}", id + 2)).await, (vec![id + 1], None));
    assert_eq!(found("connection=acme-stripe&stream=charges").await, (vec![], None));
    fixture.get("/api/v1/runs?state=forgotten").await.is_error(400, "invalid");
}

#[tokio::test]
async fn an_approved_run_is_a_job() {
    let fixture = fixture().with_connection().await;
    let run = run_in_review(&*fixture.store).await;
    let before = fixture.store.job_counts().await.unwrap().waiting;
    assert_eq!(fixture.post(&format!("/api/v1/runs/{}/approve", run.id.0)).await.status, 202);
    assert_eq!(fixture.store.job_counts().await.unwrap().waiting, before + 1);
}

/// Begins a run of a stream and ends it at once.
async fn another_run(fixture: &Fixture, key: StreamKey, mode: RunMode) -> Run {
    let store = &fixture.store;
    let (lease, run) = begun(&**store, key, mode).await;
    let end = RunEnd {
        lease,
        run: run.id,
        state: RunState::Done,
        stop: None,
        span: None,
        follow: Vec::new(),
        resume: None,
        deletions_approved: 0,
        at_once: 500,
        now: NOW,
    };
    store.end_run(end).await.unwrap()
}

// Fails when a connection is judged by its newest runs, and a review is hidden after hours of incremental ones.
#[tokio::test]
async fn a_review_is_seen_however_many_runs_came_after() {
    let fixture = fixture().with_connection().await;
    let run = run_in_review(&*fixture.store).await;
    for _ in 0..120 {
        another_run(&fixture, StreamKey { stream: "events".into(), ..key() }, RunMode::Incremental).await;
    }
    let shown = fixture.get("/api/v1/connections/acme-stripe").await.json();
    assert_eq!(shown["health"]["who_acts"], "operator", "{shown}");
    let waiting = fixture.store.job_counts().await.unwrap().waiting;
    let page = fixture.get("/").await.text();
    assert!(page.contains(&format!("/actions/runs/{}/approve", run.id.0)), "it is on the page: {page}");
    assert_eq!(fixture.post(&format!("/actions/runs/{}/approve", run.id.0)).await.status, 303);
    // From then on it is too late to dismiss it.
    fixture.post(&format!("/api/v1/runs/{}/dismiss", run.id.0)).await.is_error(409, "approved");
    assert_eq!(fixture.store.job_counts().await.unwrap().waiting, waiting + 1);
    // What was looked at in one run is not the word for a later one.
    let newer = another_run(&fixture, key(), RunMode::Full).await;
    assert_eq!(newer.state, RunState::Review { deletions: 60 });
    fixture.post(&format!("/api/v1/runs/{}/approve", run.id.0)).await.is_error(409, "superseded");
    assert_eq!(fixture.post(&format!("/api/v1/runs/{}/approve", newer.id.0)).await.status, 202);
}

// Fails when a stream is worked without its name being known, or a reset says nothing of what it deleted.
#[tokio::test]
async fn a_stream_is_paused_resumed_reset_and_run() {
    let fixture = fixture().with_connection().await;
    run_in_review(&*fixture.store).await;
    let stream = async || {
        let connection = fixture.get("/api/v1/connections/acme-stripe").await.json();
        let streams = connection["streams"].as_array().unwrap().clone();
        streams.into_iter().find(|stream| stream["name"] == "customers").unwrap()
    };
    assert_eq!(fixture.post(&format!("{STREAM}/pause")).await.status, 200);
    assert!(stream().await["paused_at"].is_string());
    let asked = post(&fixture, &format!("{STREAM}/run"), r#"{"mode":"full"}"#).await;
    assert_eq!((asked.status.as_u16(), &asked.json()["paused"]), (202, &true.into()));
    assert_eq!(fixture.post(&format!("{STREAM}/resume")).await.status, 202);
    assert!(stream().await["paused_at"].is_null());
    assert_eq!((&stream().await["unreadable"], &stream().await["unreadable_older"]), (&1.into(), &0.into()));
    // More than there is room for, of a run that is over, and one more.
    let broken = |n: u64| BadRecord::new(None, n.to_string().as_bytes(), "no id");
    for bad in [(0..BAD_KEPT_MAX + 6).map(broken).collect(), vec![broken(5_000)]] {
        let commits = fixture.store.stream(key()).await.unwrap().commits;
        ended(&*fixture.store, RunMode::Incremental, |page| PageCommit { bad, read_since: commits, ..page }).await;
    }
    assert_eq!((&stream().await["unreadable"], &stream().await["unreadable_older"]), (&1_000.into(), &8.into()));
    let aside = fixture.get(&format!("{STREAM}/unreadable?limit=1")).await.json();
    assert_eq!((&aside["kept"], &aside["older"]), (&1_000.into(), &8.into()));
    assert!(fixture.get("/").await.text().contains("1\u{2009}000 unreadable and 8 older"));
    let reset = post(&fixture, &format!("{STREAM}/reset"), r#"{"records":true}"#).await;
    assert_eq!((reset.status.as_u16(), &reset.json()["records_deleted"]), (202, &60.into()));
    let after = stream().await;
    assert_eq!((&after["records"], &after["changes"], &after["unreadable"]), (&0.into(), &120.into(), &0.into()));
    for (path, body) in [("run", r#"{"mode":"sideways"}"#), ("run", "{"), ("reset", r#"{"all":true}"#)] {
        post(&fixture, &format!("{STREAM}/{path}"), body).await.is_error(400, "invalid");
    }
    for action in ["run", "pause", "resume", "reset"] {
        let nothing = format!("/api/v1/connections/acme-stripe/streams/nothing/{action}");
        fixture.post(&nothing).await.is_error(404, "not_found");
        fixture
            .post(&format!("/api/v1/connections/nobody/streams/customers/{action}"))
            .await
            .is_error(404, "not_found");
    }
    let none = fixture.get("/api/v1/connections/acme-stripe/healings").await.json();
    assert_eq!(none["healings"].as_array().unwrap().len(), 0);
    // Its changes are found by the walk over events: listed as they are, it would be listed whole at every interval.
    for body in ["", r#"{"mode":"incremental"}"#, r#"{"dry_run":true}"#] {
        let refused = post(&fixture, &format!("{STREAM}/run"), body).await;
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains("by the runs of events"), "{body}");
        refused.is_error(400, "invalid");
    }
    let walk = "/api/v1/connections/acme-stripe/streams/events/run";
    let asked = fixture.post(walk).await;
    assert_eq!((asked.status.as_u16(), &asked.json()["mode"]), (202, &"incremental".into()));
    // What stops the reading of a dry run is said as a run says it.
    let dry = post(&fixture, &format!("{STREAM}/run"), r#"{"mode":"full","dry_run":true}"#).await;
    let cause = dry.json()["error"]["kind"].clone();
    assert_eq!((dry.status.as_u16(), cause), (502, Stop::AuthRevoked.as_str().into()), "there is no credential");
    // Nor is a run taken that would not begin.
    let mut connection = fixture.store.connection("acme-stripe".into()).await.unwrap().unwrap();
    for state in [ConnectionState::Paused, ConnectionState::Disconnected] {
        connection.state = state;
        fixture.store.put_connection(connection.clone()).await.unwrap();
        fixture.post(walk).await.is_error(409, "not_active");
        fixture.post("/api/v1/connections/acme-stripe/sync").await.is_error(409, "not_active");
    }
}

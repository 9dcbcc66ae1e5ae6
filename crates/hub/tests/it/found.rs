//! `palisade runs unreadable | healed | review` and the progress of `palisade sync --wait`, as processes over a database
//! of the test.

use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::Duration;

use palisade_core::Timestamp;
use palisade_core::store::{
    Claim, Connection, ConnectionState, Connections, Jobs, Lease, Missed, PageCommit, Queue, Records, Room, RunEnd,
    RunId, RunMode, RunState, Work,
};
use palisade_core::sync::{Change, Cursor, Span, State};
use palisade_store::SqliteStore;

use crate::binary::{ends, palisade, path_of};
use crate::commands::{Place, key, text};
use crate::fixtures::{NOW, connection};
use crate::runs::{ended, run_in_review};

/// A database of one connection, and nothing else.
async fn place() -> (Place, SqliteStore) {
    let place = Place::new();
    let (store, config) = (place.open(), connection());
    let connection = Connection {
        id: config.id,
        tenant: config.tenant,
        provider: config.provider,
        environment: Default::default(),
        account: None,
        base_url: None,
        state: ConnectionState::Active,
        created_at: NOW,
    };
    store.put_connection(connection).await.unwrap();
    (place, store)
}

/// Fails when somebody who is to approve a run cannot see from the command line what would go, all of it, or a run that
/// waits for nobody is shown as one that deletes nothing.
#[tokio::test]
async fn what_a_run_would_delete_is_listed_by_the_command() {
    let (place, store) = place().await;
    let run = run_in_review(&store).await.id.0.to_string();
    let table = place.run(&["runs", "review", &run, "--limit", "2"]);
    let words = ["cus_00", "cus_01", "more: --after cus_01", "would delete 60 records of customers in acme-stripe"];
    ends(&table, 0, &words);
    assert!(!text(&table).contains("cus_02"), "{}", text(&table));
    let (mut ids, mut after) = (Vec::new(), None);
    loop {
        let asked = ["runs", "review", &run, "--limit", "30"];
        let behind: Vec<&str> = after.iter().flat_map(|after: &String| ["--after", after.as_str()]).collect();
        let page = place.json(&[&asked[..], &behind].concat());
        assert_eq!((&page["run"]["state"], &page["run"]["deletions"]), (&"review".into(), &60.into()));
        let list = page["deletions"].as_array().unwrap();
        ids.extend(list.iter().map(|one| one["data"]["id"].as_str().unwrap().to_owned()));
        match page["next_after"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(ids, (0..60).map(|n| format!("cus_{n:02}")).collect::<Vec<_>>());
    ends(&place.run(&["runs", "dismiss", &run]), 0, &["its records stay"]);
    ends(&place.run(&["runs", "review", &run]), 1, &["does not wait for review"]);
    ends(&place.run(&["runs", "review", "4711"]), 1, &["there is no run 4711"]);
    store.close().await.unwrap();
}

/// Fails when a record that was set aside is not to be found from the command line, with what is wrong with it, or one
/// connection is told of another's.
#[tokio::test]
async fn what_cannot_be_read_and_what_was_healed_is_listed_by_the_command() {
    let (place, store) = place().await;
    run_in_review(&store).await;
    let at = |minutes: u64| Some(Timestamp(NOW.millis()).minus(Duration::from_secs(60 * minutes)));
    let missed = Missed { count: 12, records: 0, from: at(31), to: at(2) };
    let run = ended(&store, RunMode::Incremental, |page| PageCommit { missed, ..page }).await.id.0;

    let aside = ["runs", "unreadable", "acme-stripe", "customers"];
    ends(&place.run(&aside), 0, &["cus_99", "it is broken", r#"{"id":"cus_99"}"#]);
    let told = place.json(&aside);
    let one = &told["unreadable"][0];
    assert_eq!((&one["id"], &one["why"], &one["raw"]["id"]), (&"cus_99".into(), &"it is broken".into(), &one["id"]));
    assert_eq!((&told["kept"], &told["older"]), (&1.into(), &0.into()));
    let none = place.run(&["runs", "unreadable", "acme-stripe", "charges"]);
    ends(&none, 0, &[]);
    assert!(!text(&none).contains("cus_99"), "{}", text(&none));
    ends(&place.run(&["runs", "unreadable", "acme-stripe", "nothing"]), 1, &["no stream nothing"]);

    let words = "12 events missed 2025-12-31 23:29–2025-12-31 23:58, healed 00:00";
    ends(&place.run(&["runs", "healed", "acme-stripe"]), 0, &["customers", words]);
    let healed = place.json(&["runs", "healed", "acme-stripe"]);
    let list = healed["healings"].as_array().unwrap();
    assert_eq!((list.len(), &list[0]["run"], &list[0]["words"]), (1, &run.into(), &words.into()));
    ends(&place.run(&["runs", "healed", "nobody"]), 1, &["there is no connection nobody"]);
    store.close().await.unwrap();
}

/// Plays the part of a hub that serves: takes the sync up that was asked for, and commits a page of it.
async fn taken_up(store: &SqliteStore) -> (Lease, RunId) {
    let claim = Claim {
        now: Timestamp(NOW.millis() * 2),
        hold: Duration::from_secs(60),
        max: 1,
        queue: Queue::Background,
        room: Room::default(),
    };
    let claimed = loop {
        if let Some(one) = store.claim(claim.clone()).await.unwrap().pop() {
            break one;
        }
        tokio::task::yield_now().await;
    };
    let (lease, Work::Sync { mode, .. }) = (claimed.lease, &claimed.work) else { panic!("{claimed:?}") };
    let run = store.start_run(lease, key(), *mode, NOW).await.unwrap().id;
    let change = |n: u32| Change {
        stream: key().stream,
        id: format!("cus_{n}").into(),
        span: Span::exact(1),
        state: State::Present("{}".into()),
    };
    let page = PageCommit {
        lease,
        run,
        read_since: u64::MAX,
        changes: (0..100).map(change).collect(),
        deliveries: Vec::new(),
        missed: Missed::default(),
        missed_before: NOW,
        unheard: Default::default(),
        endpoints: Vec::new(),
        bad: Vec::new(),
        fetched: Default::default(),
        total: Some(700),
        next: Some(Cursor::new("next")),
        now: NOW.plus(Duration::from_secs(2)),
    };
    store.commit_page(page).await.unwrap();
    (lease, run)
}

/// Ends that run.
async fn over(store: &SqliteStore, (lease, run): (Lease, RunId)) {
    let end = RunEnd {
        lease,
        run,
        state: RunState::Done,
        stop: None,
        span: None,
        follow: Vec::new(),
        resume: None,
        deletions_approved: u64::MAX,
        at_once: 500,
        now: NOW,
    };
    store.end_run(end).await.unwrap();
}

/// Fails when whoever waits for a run is not told how far it is and how fast, a pipe is given anything but lines, or a
/// program is told more than why the command failed.
#[tokio::test]
async fn a_sync_that_is_waited_for_tells_its_pace() {
    let (place, store) = place().await;
    let config = path_of(&place.folder);
    let arguments = ["sync", "acme-stripe", "customers", "--full", "--wait", "--config", &config];
    let ended = |child: Child| tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());

    let child = palisade(&[&arguments[..], &["--json", "--timeout", "2s"]].concat()).spawn().unwrap();
    let run = taken_up(&store).await;
    let output = ended(child).await.unwrap();
    ends(&output, 1, &["has not ended in that time"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.lines().count(), 1, "one sentence: {told}");
    over(&store, run).await;

    let mut child = palisade(&arguments).spawn().unwrap();
    let run = taken_up(&store).await;
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let told = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        // The first may have come before the page was there.
        while !line.contains("records/s") {
            line.clear();
            assert!(told.read_line(&mut line).unwrap() > 0, "it ended without a word about the pace");
        }
        line
    });
    let line = told.await.unwrap();
    assert_eq!(line, "palisade: customers: running, 100 of 700 records, 50 records/s, 12 seconds left\n");
    over(&store, run).await;
    ends(&ended(child).await.unwrap(), 0, &["customers: done, 100 unchanged"]);
    store.close().await.unwrap();
}

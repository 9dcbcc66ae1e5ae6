//! Streams: requests, pages, the walk over messages, single records, and what an event says about a record.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use palisade_core::call::Priority;
use palisade_core::client::{Classifier, Verdict};
use palisade_core::sync::{Change, Cursor, Next, Page, Site, Source, Span, State};
use palisade_core::webhook::Event;
use palisade_core::{Error, ErrorKind, EventId, RecordId, StreamName, Timestamp, Transport};
use palisade_slack::error::SlackClassifier;
use palisade_slack::{HistoryRule, SlackSource};
use serde_json::{Value, json};

use super::fake::{answer, call, pairs};
use super::webhook::{callback, parse};
use super::workspace::{BEGIN, Workspace};

pub(crate) const SPAN: Span = Span { earliest: BEGIN * 1_000, latest: BEGIN * 1_000 + 999 };

pub(crate) fn site() -> Site {
    Site {
        base_url: "http://127.0.0.1:9".into(),
        connection: "conn_1".into(),
        tenant: "tenant_1".into(),
        account: None,
        page_size: 1_000,
    }
}

fn sent(source: &SlackSource, stream: &str, cursor: Option<&str>) -> (String, Vec<(String, String)>) {
    let request = source.request(&site(), &stream.into(), cursor.map(Cursor::new).as_ref()).unwrap();
    assert_eq!(call(&request).priority, Priority::Background);
    (request.uri().path().to_owned(), pairs(request.body()))
}

fn given(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn every_stream_asks_for_what_it_keeps() {
    let source = SlackSource::new();
    assert_eq!(
        source.streams().iter().map(|spec| spec.name).collect::<Vec<_>>(),
        ["users", "conversations", "messages"]
    );
    assert_eq!(source.clone().without_messages().streams().len(), 2);
    let all = ("types", "public_channel,private_channel,mpim,im");
    assert_eq!(sent(&source, "users", None), ("/api/users.list".into(), given(&[("limit", "200")])));
    assert_eq!(sent(&source, "users", Some("again")).1, given(&[("limit", "200")]));
    assert_eq!(sent(&source, "users", Some("page:a=")).1, given(&[("cursor", "a="), ("limit", "200")]));
    assert_eq!(
        sent(&source, "conversations", None),
        ("/api/conversations.list".into(), given(&[("limit", "200"), all]))
    );
    assert_eq!(sent(&source, "messages", None), ("/api/users.conversations".into(), given(&[("limit", "100"), all])));
    let few = source.clone().of_types(&["public_channel"]).unwrap();
    assert_eq!(sent(&few, "conversations", None).1[1].1, "public_channel");
    for bad in [&[][..], &["dm"], &["public_channel", ""]] {
        assert_eq!(source.clone().of_types(bad).unwrap_err().kind(), ErrorKind::Config);
    }
    let mut site = site();
    site.account = Some("T1".into());
    let request = source.request(&site, &"users".into(), None).unwrap();
    assert!(
        pairs(request.body()).contains(&("team_id".to_owned(), "T1".to_owned())),
        "an organization's token needs it"
    );
    for (base_url, stream, cursor) in [
        ("http://127.0.0.1:9", "files", None),
        ("not a url", "users", None),
        ("http://127.0.0.1:9", "users", Some("cus_1")),
        ("http://127.0.0.1:9", "messages", Some("again")),
    ] {
        site.base_url = base_url.into();
        let cursor = cursor.map(Cursor::new);
        assert_eq!(source.request(&site, &stream.into(), cursor.as_ref()).unwrap_err().kind(), ErrorKind::Config);
    }
}

#[test]
fn the_slow_rule_asks_seldom_and_for_little() {
    let source = SlackSource::new().reading(HistoryRule::Limited);
    let walk = r#"walk:{"s":"1.000000","b":5,"l":"over","c":["C1"],"p":"start","t":[],"r":"start"}"#;
    let request = source.request(&site(), &"messages".into(), Some(&Cursor::new(walk))).unwrap();
    let expected = given(&[("channel", "C1"), ("limit", "15"), ("oldest", "1.000000")]);
    assert_eq!((request.uri().path(), pairs(request.body())), ("/api/conversations.history", expected));
    assert_eq!((call(&request).operation.bucket.units, call(&request).operation.bucket.burst), (1, 1));
    let fast = SlackSource::new().request(&site(), &"messages".into(), Some(&Cursor::new(walk))).unwrap();
    assert_eq!(call(&fast).operation.bucket.units, 47);
}

/// Runs a stream to its end as the driver does, without its store.
async fn run(
    source: &SlackSource,
    workspace: &Workspace,
    stream: &str,
    size: u32,
    cursor: Option<Cursor>,
) -> Result<(Vec<Change>, Option<Cursor>), Error> {
    let (site, stream) = (Site { page_size: size, ..site() }, StreamName::new(stream));
    let (mut cursor, mut changes) = (cursor, Vec::new());
    for _ in 0..1_000 {
        let request = source.request(&site, &stream, cursor.as_ref())?;
        let operation = call(&request).operation;
        let response = workspace.send(request).await?;
        match SlackClassifier.classify(operation, &response) {
            Verdict::Success => {}
            Verdict::Failed { error, .. } if error.kind() == ErrorKind::CursorExpired => {
                cursor = Some(cursor.and_then(|at| source.step_back(&stream, &at)).ok_or(error)?);
                continue;
            }
            Verdict::Failed { error, .. } | Verdict::Throttled { error, .. } | Verdict::Unauthorized(error) => {
                return Err(error);
            }
        }
        let page = source.page(&stream, cursor.as_ref(), &response, SPAN)?;
        changes.extend(page.changes);
        match page.next {
            Next::More(next) => {
                assert_ne!(cursor.as_ref(), Some(&next), "the driver refuses a cursor that does not advance");
                cursor = Some(next);
            }
            Next::Done { resume } => return Ok((changes, resume)),
        }
    }
    panic!("the run does not end");
}

fn texts(changes: &[Change]) -> BTreeMap<String, String> {
    let text = |change: &Change| match &change.state {
        State::Present(json) => serde_json::from_slice::<Value>(json).unwrap()["text"].as_str().unwrap().to_owned(),
        State::Deleted | State::Unclear => panic!("{change:?}"),
    };
    changes.iter().map(|change| (change.id.as_str().to_owned(), text(change))).collect()
}

/// Fails when a message, a thread, a conversation or a page is left out, or one is read twice.
#[tokio::test]
async fn every_message_is_read_once_whatever_the_size_of_a_page() {
    for size in [1, 2, 7, 1_000] {
        for empty in [false, true] {
            let workspace = if empty { Workspace::peopled().with_empty_pages() } else { Workspace::peopled() };
            let (changes, resume) = run(&SlackSource::new(), &workspace, "messages", size, None).await.unwrap();
            assert_eq!(texts(&changes), workspace.truth(), "pages of {size}");
            assert_eq!(changes.len(), workspace.truth().len(), "each once, in pages of {size}");
            assert_eq!(resume, Some(Cursor::new(format!("from:{BEGIN}"))));
        }
        let workspace = Workspace::peopled().with_empty_pages();
        let (changes, resume) = run(&SlackSource::new(), &workspace, "users", size, None).await.unwrap();
        assert_eq!((changes.len(), resume), (9, Some(Cursor::new("again"))));
        let (changes, _) = run(&SlackSource::new(), &workspace, "conversations", size, None).await.unwrap();
        assert_eq!(changes.len(), 5);
    }
}

/// Fails when an incremental run reads everything again, or forgets a thread that somebody answered in.
#[tokio::test]
async fn an_incremental_run_reads_its_window_only() {
    let workspace = Workspace::peopled();
    let source = SlackSource::new().rescanning(Duration::from_secs(60));
    let cursor = Cursor::new("from:1700000760");
    let (changes, _) = run(&source, &workspace, "messages", 200, Some(cursor)).await.unwrap();
    let read = texts(&changes);
    let mut expected = workspace.truth();
    expected.retain(|id, _| id.split_once(':').unwrap().1 > "1700000700.000000");
    // The thread that began before the window is not seen: its replies come by events and by the next full run.
    expected.retain(|id, _| !id.contains(":170000200"));
    assert_eq!(read, expected);
    let first = SlackSource::new().since(Timestamp::from_seconds(1_700_000_500));
    let (changes, _) = run(&first, &workspace, "messages", 200, None).await.unwrap();
    assert!(texts(&changes).keys().all(|id| id.split_once(':').unwrap().1 > "1700000500.000000"));
}

/// Fails when one conversation that is gone stops the run for all others.
#[tokio::test]
async fn a_conversation_the_app_has_left_is_gone_and_the_rest_is_read() {
    for left in ["C1", "C4", "C5"] {
        let workspace = Workspace::peopled();
        workspace.leave(left);
        let (changes, resume) = run(&SlackSource::new(), &workspace, "messages", 2, None).await.unwrap();
        assert_eq!(texts(&changes), workspace.truth(), "without {left}");
        assert!(resume.is_some());
    }
    // Slack forgot a cursor in the middle of a conversation: it is read again from its beginning.
    let workspace = Workspace::peopled();
    let source = SlackSource::new();
    let walk = r#"walk:{"b":1700010000,"l":"over","c":["C1","C2"],"p":{"at":"7:next="},"t":[],"r":"start"}"#;
    workspace.script([answer(200, r#"{"ok":false,"error":"invalid_cursor"}"#)]);
    let (changes, _) = run(&source, &workspace, "messages", 2, Some(Cursor::new(walk))).await.unwrap();
    let mut expected = workspace.truth();
    expected.retain(|id, _| id.starts_with("C1") || id.starts_with("C2"));
    assert_eq!(texts(&changes), expected);
    // The list itself is forgotten: the run starts over.
    let workspace = Workspace::peopled();
    workspace.script([answer(200, r#"{"ok":false,"error":"invalid_cursor"}"#)]);
    let error = run(&source, &workspace, "users", 2, Some(Cursor::new("page:x"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CursorExpired);
    // A scope that is missing is no end of a list.
    let workspace = Workspace::peopled();
    workspace.script([answer(200, r#"{"ok":false,"error":"missing_scope","needed":"im:history"}"#)]);
    let error = run(&source, &workspace, "messages", 2, Some(Cursor::new(walk))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
}

fn page(stream: &str, cursor: Option<&str>, body: &Value) -> palisade_core::Result<Page> {
    let response = Response::new(Bytes::from(body.to_string()));
    SlackSource::new().page(&stream.into(), cursor.map(Cursor::new).as_ref(), &response, SPAN)
}

#[test]
fn a_page_that_is_none_is_never_read_as_empty() {
    let walk = r#"walk:{"b":5,"l":"over","c":["C1"],"p":{"at":"x"},"t":[],"r":"start"}"#;
    for (stream, cursor, body) in [
        ("users", None, json!({"ok": true})),
        ("users", None, json!({"ok": true, "members": {}})),
        ("users", None, json!([])),
        ("users", Some("page:x"), json!({"members": [], "response_metadata": {"next_cursor": "x"}})),
        ("conversations", None, json!({"ok": true, "members": []})),
        ("messages", None, json!({"channels": [{"name": "no id"}]})),
        ("messages", Some(walk), json!({"ok": true})),
        ("messages", Some(walk), json!({"messages": [], "has_more": true})),
        ("messages", Some(walk), json!({"messages": [], "response_metadata": {"next_cursor": "x"}})),
    ] {
        assert_eq!(page(stream, cursor, &body).unwrap_err().kind(), ErrorKind::Decode, "{stream} {body}");
    }
    // What has no name is set aside, and the page goes on.
    for (stream, cursor, body) in [
        ("users", None, json!({"ok": true, "members": [{"name": "no id"}, {"id": "U1"}]})),
        ("conversations", None, json!({"ok": true, "channels": [{"id": "C1"}, {"id": ""}]})),
        ("messages", Some(walk), json!({"messages": [{"ts": "1.000001"}, {"text": "no ts"}]})),
        ("messages", Some(walk), json!({"messages": [{"ts": "1.0&x=y"}, {"ts": "1.000001"}]})),
    ] {
        let page = page(stream, cursor, &body).unwrap();
        assert_eq!((page.changes.len(), page.bad.len()), (1, 1), "{stream} {body}");
        assert!(matches!(page.next, Next::Done { .. }));
    }
    let end = page("messages", Some(walk), &json!({"messages": []})).unwrap();
    assert_eq!(end.next, Next::Done { resume: Some(Cursor::new("from:5")) });
}

async fn fetched(workspace: &Workspace, stream: &str, id: &str) -> palisade_core::Result<State> {
    let (source, id) = (SlackSource::new(), RecordId::new(id));
    let request = source.fetch(&site(), &stream.into(), &id)?;
    let operation = call(&request).operation;
    let response = workspace.send(request).await?;
    match SlackClassifier.classify(operation, &response) {
        Verdict::Success => Ok(source.fetched(&stream.into(), &id, &response, SPAN)?.state),
        Verdict::Failed { error, .. } | Verdict::Throttled { error, .. } | Verdict::Unauthorized(error) => Err(error),
    }
}

/// Fails when the same object has other bytes in a list and by its id, or a reply is not found by its `ts`.
#[tokio::test]
async fn one_object_is_the_same_bytes_wherever_it_is_read() {
    let workspace = Workspace::peopled();
    for stream in ["users", "conversations", "messages"] {
        for change in run(&SlackSource::new(), &workspace, stream, 50, None).await.unwrap().0 {
            assert_eq!(
                fetched(&workspace, stream, change.id.as_str()).await.unwrap(),
                change.state,
                "{stream} {}",
                change.id
            );
        }
    }
    workspace.leave("C2");
    for (stream, id) in [
        ("users", "U99"),
        ("conversations", "C99"),
        ("messages", "C99:1.000000"),
        ("messages", "C1:1.000000"),
        ("messages", "C2:1700000100.000100"),
    ] {
        assert_eq!(fetched(&workspace, stream, id).await.unwrap_err().kind(), ErrorKind::NotFound, "{stream} {id}");
    }
    for (stream, id) in [("users", ""), ("messages", "C1"), ("messages", ":1.0"), ("messages", "C1:1"), ("files", "F1")]
    {
        assert_eq!(fetched(&workspace, stream, id).await.unwrap_err().kind(), ErrorKind::Config, "{stream} {id}");
    }
    let source = SlackSource::new();
    let other = answer(200, r#"{"ok":true,"user":{"id":"U2"}}"#);
    assert!(source.fetched(&"users".into(), &RecordId::new("U1"), &other, SPAN).is_err(), "not the one asked for");
    let parent = answer(200, r#"{"ok":true,"messages":[{"ts":"1.000000"}]}"#);
    let gone = source.fetched(&"messages".into(), &RecordId::new("C1:2.000000"), &parent, SPAN).unwrap();
    assert_eq!(gone.state, State::Deleted, "a reply that is gone leaves the message its thread begins with");
}

pub(crate) fn event(kind: &str, payload: &str) -> Event {
    Event {
        id: EventId::new("Ev1"),
        kind: kind.into(),
        account: None,
        created: Some(Timestamp::from_seconds(BEGIN)),
        ordering_key: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

fn apply(inner: &Value) -> palisade_core::Result<Vec<(String, String, String)>> {
    let mut events = parse(&callback(inner))?.events;
    let event = events.remove(0);
    assert!(SlackSource::new().concerns(&event.kind) || SlackSource::new().apply(&event)?.is_empty());
    let told = |change: Change| {
        let state = match change.state {
            State::Present(json) => String::from_utf8(json.to_vec()).unwrap(),
            State::Deleted => "deleted".to_owned(),
            State::Unclear => "fetch".to_owned(),
        };
        (change.stream.as_str().to_owned(), change.id.as_str().to_owned(), state)
    };
    Ok(SlackSource::new().apply(&event)?.into_iter().map(told).collect())
}

#[track_caller]
fn check(inner: Value, expected: &[(&str, &str, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned())).collect();
    assert_eq!(apply(&inner).unwrap(), expected, "{inner}");
}

#[test]
fn events_say_what_they_know_of_a_record() {
    let record = r#"{"text":"hi","ts":"1.5","type":"message","user":"U1"}"#;
    let message = json!({"type": "message", "channel": "C1", "channel_type": "channel", "user": "U1", "text": "hi", "ts": "1.5", "event_ts": "1.5"});
    check(message.clone(), &[("messages", "C1:1.5", record)]);
    let changed = json!({"type": "message", "subtype": "message_changed", "hidden": true, "channel": "C1", "ts": "9.0",
        "message": {"type": "message", "user": "U1", "text": "hi", "ts": "1.5", "source_team": "T1", "user_team": "T1"}});
    check(changed, &[("messages", "C1:1.5", record)]);
    check(
        json!({"type": "message", "subtype": "message_deleted", "hidden": true, "channel": "C1", "ts": "9.0", "deleted_ts": "1.5",
        "previous_message": {"ts": "1.5"}}),
        &[("messages", "C1:1.5", "deleted")],
    );
    check(
        json!({"type": "message", "subtype": "message_deleted", "channel": "C1", "ts": "9.0", "deleted_ts": "1.5",
            "previous_message": {"ts": "1.5", "thread_ts": "1.5"}}),
        &[("messages", "C1:1.5", "fetch")],
    );
    let mut own = message.clone();
    own["user"] = json!("UBOT");
    check(own, &[("messages", "C1:1.5", &record.replace("U1", "UBOT"))]);
    let mut shown_to_one = message.clone();
    shown_to_one["is_ephemeral"] = json!(true);
    check(shown_to_one, &[]);
    let topic = json!({"type": "message", "subtype": "channel_topic", "channel": "C1", "user": "U1", "topic": "x", "text": "y", "ts": "1.5"});
    let changes = apply(&topic).unwrap();
    assert_eq!((changes.len(), changes[1].0.as_str(), changes[1].2.as_str()), (2, "conversations", "fetch"));
    check(
        json!({"type": "reaction_added", "user": "U1", "reaction": "eyes", "item": {"type": "message", "channel": "C1", "ts": "1.5"}}),
        &[("messages", "C1:1.5", "fetch")],
    );
    check(
        json!({"type": "reaction_added", "user": "U1", "reaction": "eyes", "item": {"type": "file", "file": "F1"}}),
        &[],
    );
    check(
        json!({"type": "pin_added", "channel_id": "C1", "item": {"type": "message", "message": {"ts": "1.5"}}}),
        &[("messages", "C1:1.5", "fetch")],
    );
    check(json!({"type": "channel_rename", "channel": {"id": "C1", "name": "x"}}), &[("conversations", "C1", "fetch")]);
    check(
        json!({"type": "member_joined_channel", "channel": "C1", "user": "UBOT"}),
        &[("conversations", "C1", "fetch")],
    );
    check(json!({"type": "channel_deleted", "channel": "C1"}), &[("conversations", "C1", "deleted")]);
    check(
        json!({"type": "channel_id_changed", "old_channel_id": "G1", "new_channel_id": "C1"}),
        &[("conversations", "G1", "deleted"), ("conversations", "C1", "fetch")],
    );
    check(
        json!({"type": "user_change", "user": {"name": "a", "id": "U1", "deleted": true}}),
        &[("users", "U1", r#"{"deleted":true,"id":"U1","name":"a"}"#)],
    );
    check(json!({"type": "team_join", "user": {"id": "U1"}}), &[("users", "U1", r#"{"id":"U1"}"#)]);
    check(json!({"type": "user_change", "user": {"id": "U1", "is_stranger": true}}), &[]);
    check(json!({"type": "app_mention", "channel": "C1", "user": "U1", "ts": "1.5"}), &[]);
    for broken in [
        json!({"type": "message", "channel": "C1", "ts": "not one"}),
        json!({"type": "message", "ts": "1.5"}),
        json!({"type": "message", "subtype": "message_deleted", "channel": "C1"}),
        json!({"type": "user_change", "user": "U1"}),
        json!({"type": "channel_deleted"}),
        json!({"type": "channel_id_changed", "old_channel_id": "G1"}),
    ] {
        assert_eq!(apply(&broken).unwrap_err().kind(), ErrorKind::Decode, "{broken}");
    }
}

/// Fails when an edit is dated by the message it changes, or to the second only: two edits of one second would tie.
#[test]
fn an_event_is_dated_by_what_happened() {
    let changed = json!({"type": "message", "subtype": "message_changed", "channel": "C1", "ts": "1.5", "event_ts": "1700000001.234500",
        "message": {"ts": "1.5", "text": "x"}});
    let event = parse(&callback(&changed)).unwrap().events.remove(0);
    let changes = SlackSource::new().apply(&event).unwrap();
    assert_eq!(changes[0].span, Span::exact(1_700_000_001_234));
    let person = json!({"type": "user_change", "user": {"id": "U1"}, "event_ts": "1700000001.234500"});
    let event = parse(&callback(&person)).unwrap().events.remove(0);
    let changes = SlackSource::new().apply(&event).unwrap();
    assert_eq!(changes[0].span, Span::second(Timestamp(1_700_000_001_000)));
}

#[test]
fn events_that_tell_less_than_happened_have_streams_read_anew() {
    let source = SlackSource::new();
    let names = |source: &SlackSource, kind: &str| {
        let streams = source.resyncs(&event(kind, "{}"));
        streams.iter().map(|stream| stream.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&source, "channel_id_changed"), ["messages"]);
    assert_eq!(names(&source, "channel_history_changed"), ["messages"]);
    assert_eq!(names(&source, "app_rate_limited"), ["users", "conversations", "messages"]);
    assert_eq!(names(&source, "message"), [""; 0]);
    assert_eq!(names(&source.without_messages(), "channel_id_changed"), [""; 0]);
}

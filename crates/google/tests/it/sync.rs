//! Requests and pages of both streams, without a provider.

use bytes::Bytes;
use http::{Request, Response};
use palisade_core::sync::{Change, Cursor, Missing, Next, Page, Site, Source, Span, State};
use palisade_core::webhook::Event;
use palisade_core::{Call, ErrorKind, Priority, Result, StreamName};
use palisade_google::sync::{EVENTS, MESSAGES, MailDepth};
use palisade_google::{GoogleSource, TypedEvent};
use proptest::prelude::{any, proptest};
use serde_json::{Value, json};

use super::fake::pairs;

const SPAN: Span = Span { earliest: 1_000, latest: 2_000 };

pub(crate) fn site(account: Option<&str>, page_size: u32) -> Site {
    Site {
        base_url: "https://www.googleapis.com".into(),
        connection: "conn_1".into(),
        tenant: "tenant_1".into(),
        account: account.map(str::to_owned),
        page_size,
    }
}

fn request(stream: &str, cursor: Option<&str>) -> Result<Request<Bytes>> {
    let cursor = cursor.map(Cursor::new);
    GoogleSource::new().request(&site(None, 100), &stream.into(), cursor.as_ref())
}

fn page(stream: &str, cursor: Option<&str>, body: &str) -> Result<Page> {
    let cursor = cursor.map(Cursor::new);
    let response = Response::new(Bytes::copy_from_slice(body.as_bytes()));
    GoogleSource::new().page(&stream.into(), cursor.as_ref(), &response, SPAN)
}

#[track_caller]
fn asks(stream: &str, cursor: Option<&str>, host: &str, path: &str, query: &[(&str, &str)], operation: &str) {
    let request = request(stream, cursor).unwrap();
    assert_eq!((request.uri().host(), request.uri().path()), (Some(host), path), "{cursor:?}");
    let mut wanted: Vec<_> = query.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    wanted.sort();
    assert_eq!(pairs(request.uri().query().unwrap_or("")), wanted, "{cursor:?}");
    let call = request.extensions().get::<Call>().unwrap();
    assert_eq!((call.operation.name, call.priority), (operation, Priority::Background));
}

#[test]
fn each_position_asks_for_its_page() {
    let gmail = "gmail.googleapis.com";
    asks(MESSAGES, None, gmail, "/gmail/v1/users/me/profile", &[], "gmail.profile.get");
    let list = [("maxResults", "100"), ("includeSpamTrash", "true")];
    asks(MESSAGES, Some("list:7:"), gmail, "/gmail/v1/users/me/messages", &list, "gmail.messages.list");
    let second = [("maxResults", "100"), ("includeSpamTrash", "true"), ("pageToken", "a/b+c:d")];
    asks(MESSAGES, Some("list:7:a%2Fb%2Bc%3Ad"), gmail, "/gmail/v1/users/me/messages", &second, "gmail.messages.list");
    let history = [("maxResults", "100"), ("startHistoryId", "7")];
    asks(MESSAGES, Some("history:7:"), gmail, "/gmail/v1/users/me/history", &history, "gmail.history.list");
    let events = "/calendar/v3/calendars/primary/events";
    let google = "www.googleapis.com";
    asks(EVENTS, None, google, events, &[("maxResults", "100")], "calendar.events.list");
    asks(EVENTS, Some("list:p"), google, events, &[("maxResults", "100"), ("pageToken", "p")], "calendar.events.list");
    let sync = [("maxResults", "100"), ("syncToken", "CPDA="), ("pageToken", "p")];
    asks(EVENTS, Some("sync:CPDA%3D:p"), google, events, &sync, "calendar.events.list");
    for (stream, cursor) in
        [(MESSAGES, "sync:x"), (EVENTS, "history:1:"), (MESSAGES, ""), (EVENTS, "list:a:b:c"), (EVENTS, "list:%ff")]
    {
        assert_eq!(request(stream, Some(cursor)).unwrap_err().kind(), ErrorKind::Decode, "{stream} {cursor}");
    }
    assert_eq!(request("things", None).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn pages_are_as_large_as_asked_for_and_google_allows() {
    for (stream, asked, sent) in [
        (MESSAGES, 0, "1"),
        (MESSAGES, 7, "7"),
        (MESSAGES, 501, "500"),
        (EVENTS, 2_501, "2500"),
        (EVENTS, u32::MAX, "2500"),
    ] {
        let cursor = (stream == MESSAGES).then(|| Cursor::new("list:7:"));
        let request = GoogleSource::new().request(&site(None, asked), &stream.into(), cursor.as_ref()).unwrap();
        assert!(request.uri().query().unwrap().contains(&format!("maxResults={sent}")), "{stream} {asked}");
    }
}

#[test]
fn a_connections_account_is_the_calendar_that_is_kept() {
    let source = GoogleSource::new();
    let site = site(Some("en.usa#holiday@group.v.calendar.google.com"), 10);
    let encoded = "/calendar/v3/calendars/en.usa%23holiday%40group.v.calendar.google.com/events";
    assert_eq!(source.request(&site, &EVENTS.into(), None).unwrap().uri().path(), encoded);
    let one = source.fetch(&site, &EVENTS.into(), &"a_2026".into()).unwrap();
    assert_eq!(one.uri().path(), format!("{encoded}/a_2026"));
}

/// Fails when the position is kept before the last page, or what happens while pages are read is lost.
#[test]
fn a_mailbox_is_read_from_the_history_id_that_was_newest_before_its_list() {
    let first = page(MESSAGES, None, r#"{"emailAddress":"a@x.example","historyId":"700"}"#).unwrap();
    assert_eq!((first.changes.len(), first.next), (0, Next::More(Cursor::new("list:700:"))));
    let body = r#"{"messages":[{"id":"m1","threadId":"t"},{"id":"m2"}],"nextPageToken":"p/1"}"#;
    let second = page(MESSAGES, Some("list:700:"), body).unwrap();
    assert!(second.changes.iter().all(|change| change.state == State::Unclear && change.span == SPAN));
    assert_eq!(second.changes.iter().map(|change| change.id.as_str()).collect::<Vec<_>>(), ["m1", "m2"]);
    assert_eq!(second.next, Next::More(Cursor::new("list:700:p%2F1")));
    let last = page(MESSAGES, Some("list:700:p%2F1"), r#"{"resultSizeEstimate":2}"#).unwrap();
    assert_eq!(last.next, Next::Done { resume: Some(Cursor::new("history:700:")) });

    let more = page(MESSAGES, Some("history:700:"), r#"{"history":[],"historyId":"900","nextPageToken":"p"}"#).unwrap();
    assert_eq!(more.next, Next::More(Cursor::new("history:700:p")), "the old id until the last page");
    let done = page(MESSAGES, Some("history:700:p"), r#"{"historyId":"900"}"#).unwrap();
    assert_eq!(done.next, Next::Done { resume: Some(Cursor::new("history:900:")) });
    let behind = page(MESSAGES, Some("history:700:"), r#"{"historyId":"650"}"#).unwrap();
    assert_eq!(behind.next, Next::Done { resume: Some(Cursor::new("history:700:")) }, "never backwards");
}

#[test]
fn history_names_each_message_once_and_deletion_wins() {
    let of = |id: &str| json!({ "message": { "id": id, "threadId": "t" } });
    let body = json!({ "historyId": "9", "history": [
        { "id": "1", "messages": [{ "id": "ignored" }], "messagesAdded": [of("a"), of("b")] },
        { "id": "2", "labelsAdded": [{ "message": { "id": "a" }, "labelIds": ["TRASH"] }] },
        { "id": "3", "messagesDeleted": [of("a")], "labelsRemoved": [of("c")] },
        { "id": "4", "novel": [{ "x": 1 }] },
    ] });
    let changes = page(MESSAGES, Some("history:1:"), &body.to_string()).unwrap().changes;
    let seen: Vec<_> = changes.iter().map(|change| (change.id.as_str(), change.state.clone())).collect();
    assert_eq!(seen, [("a", State::Deleted), ("b", State::Unclear), ("c", State::Unclear)]);
}

/// Fails when a message without a name is passed over in silence: a full run would delete whatever it was.
#[test]
fn a_record_without_a_name_is_set_aside() {
    let page = page(MESSAGES, Some("list:7:"), r#"{"messages":[{}]}"#).unwrap();
    assert!(page.changes.is_empty());
    let bad: Vec<_> = page.bad.iter().map(|bad| (bad.id.clone(), &bad.raw[..])).collect();
    assert_eq!(bad, [(None, &b"{}"[..])]);
}

/// Fails when an answer that is no page is read as an empty one: a full run would delete everything.
#[test]
fn what_is_no_page_is_an_error() {
    for (stream, cursor, bodies) in [
        (MESSAGES, None, &["{}", "[]", "", "7", r#"{"historyId":"x"}"#][..]),
        (MESSAGES, Some("list:7:"), &["{}", "[]", "<html>", r#"{"messages":7}"#, r#"{"historyId":"7"}"#][..]),
        (MESSAGES, Some("history:7:"), &["{}", "[]", r#"{"history":[]}"#, r#"{"history":{},"historyId":"9"}"#][..]),
        (
            EVENTS,
            None,
            &["{}", "[]", r#"{"items":[]}"#, r#"{"nextSyncToken":"s"}"#, r#"{"items":{},"nextSyncToken":"s"}"#][..],
        ),
        (EVENTS, Some("sync:s:"), &["{}", r#"{"items":[]}"#][..]),
    ] {
        for body in bodies {
            assert_eq!(
                page(stream, cursor, body).map(|_| ()).unwrap_err().kind(),
                ErrorKind::Decode,
                "{cursor:?} {body}"
            );
        }
    }
}

/// Fails when a record without a name stops its page, or is dropped without a word.
#[test]
fn what_has_no_name_is_set_aside() {
    for (stream, cursor, body) in [
        (MESSAGES, Some("list:7:"), r#"{"messages":[{"id":"m1"},{"threadId":"t"}]}"#),
        (
            MESSAGES,
            Some("history:7:"),
            r#"{"history":[{"messagesAdded":[{},{"message":{"id":"m1"}}]}],"historyId":"9"}"#,
        ),
        (EVENTS, None, r#"{"items":[{},{"id":"e1"}],"nextSyncToken":"s"}"#),
    ] {
        let page = page(stream, cursor, body).unwrap();
        assert_eq!((page.changes.len(), page.bad.len()), (1, 1), "{stream} {body}");
        assert!(matches!(page.next, Next::Done { .. }));
    }
    let profile = page(MESSAGES, None, r#"{"historyId":"7","messagesTotal":12}"#).unwrap();
    assert_eq!(profile.total, Some(12));
}

#[test]
fn a_calendar_is_followed_by_its_sync_token() {
    let first = page(EVENTS, None, r#"{"items":[],"nextPageToken":"p:1"}"#).unwrap();
    assert_eq!(first.next, Next::More(Cursor::new("list:p%3A1")), "an empty page in the middle");
    let last = page(EVENTS, Some("list:p%3A1"), r#"{"items":[],"nextSyncToken":"s=="}"#).unwrap();
    assert_eq!(last.next, Next::Done { resume: Some(Cursor::new("sync:s%3D%3D")) });
    let more = page(EVENTS, Some("sync:s%3D%3D"), r#"{"items":[],"nextPageToken":"q"}"#).unwrap();
    assert_eq!(more.next, Next::More(Cursor::new("sync:s%3D%3D:q")), "token and page stay together");
    let done = page(EVENTS, Some("sync:s%3D%3D:q"), r#"{"items":[],"nextSyncToken":"t"}"#).unwrap();
    assert_eq!(done.next, Next::Done { resume: Some(Cursor::new("sync:t")) });
}

/// Fails when a cancelled instance is taken for a deletion, or a deleted event is kept.
#[test]
fn a_cancelled_instance_of_a_series_stays_as_an_exception() {
    let exception = json!({ "id": "a_20260101T100000Z", "status": "cancelled", "recurringEventId": "a",
        "originalStartTime": { "dateTime": "2026-01-01T10:00:00Z" } });
    let master = json!({ "id": "a", "status": "confirmed", "recurrence": ["RRULE:FREQ=DAILY"] });
    let body = json!({ "items": [master, exception, { "id": "b", "status": "cancelled" }], "nextSyncToken": "s" });
    let changes = page(EVENTS, None, &body.to_string()).unwrap().changes;
    assert!(matches!(&changes[0].state, State::Present(_)));
    let State::Present(kept) = &changes[1].state else { panic!("{:?}", changes[1]) };
    assert_eq!(serde_json::from_slice::<Value>(kept).unwrap(), exception);
    assert_eq!(changes[2].state, State::Deleted);
}

/// Fails when the same record read in two ways is two contents.
#[test]
fn a_record_is_the_same_bytes_however_it_was_read() {
    let spaced =
        "{\n  \"status\": \"confirmed\",\n  \"id\": \"a\",\n  \"z\": {\"b\": 1, \"a\": [1, {\"y\": 1, \"x\": 2}]}\n}";
    let response = Response::new(Bytes::from_static(spaced.as_bytes()));
    let fetched = GoogleSource::new().fetched(&EVENTS.into(), &"a".into(), &response, SPAN).unwrap();
    let listed = page(
        EVENTS,
        None,
        &json!({ "items": [serde_json::from_str::<Value>(spaced).unwrap()], "nextSyncToken": "s" }).to_string(),
    );
    assert_eq!(fetched.state, listed.unwrap().changes[0].state);
    assert_eq!(
        fetched.state,
        State::Present(r#"{"id":"a","status":"confirmed","z":{"a":[1,{"x":2,"y":1}],"b":1}}"#.into())
    );
    let other = GoogleSource::new().fetched(&EVENTS.into(), &"b".into(), &response, SPAN);
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Decode, "another record than the one asked for");
}

#[test]
fn a_message_is_fetched_as_deep_as_configured() {
    for (depth, format) in [(MailDepth::Headers, "metadata"), (MailDepth::Whole, "full")] {
        let request =
            GoogleSource::new().keeping(depth).fetch(&site(None, 1), &MESSAGES.into(), &"m/1".into()).unwrap();
        assert_eq!(request.uri().path(), "/gmail/v1/users/me/messages/m%2F1");
        assert_eq!(request.uri().query(), Some(format!("format={format}").as_str()));
    }
    for bad in ["", "..", "."] {
        assert!(GoogleSource::new().fetch(&site(None, 1), &MESSAGES.into(), &bad.into()).is_err(), "{bad}");
    }
}

fn event(kind: &str) -> Event {
    Event { id: "e".into(), kind: kind.into(), account: None, created: None, ordering_key: None, payload: Bytes::new() }
}

#[test]
fn an_event_names_the_stream_to_read() {
    let both = GoogleSource::new();
    let names = |source: &GoogleSource, kind: &str| {
        assert_eq!(source.apply(&event(kind)).unwrap(), []);
        let due: Vec<StreamName> = source.due(&event(kind));
        assert_eq!(source.concerns(kind), !due.is_empty());
        due.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&both, "gmail.changed"), [MESSAGES]);
    assert_eq!(names(&both, "calendar.changed"), [EVENTS]);
    assert!(names(&both, "drive.changed").is_empty());
    assert!(names(&GoogleSource::new().calendar_only(), "gmail.changed").is_empty());
    assert!(names(&GoogleSource::new().mail_only(), "calendar.changed").is_empty());
    assert_eq!(GoogleSource::new().mail_only().streams().len(), 1);
    assert!(GoogleSource::new().mail_only().request(&site(None, 1), &EVENTS.into(), None).is_err());
}

proptest! {
    /// Whatever Google puts into a token comes back as it was.
    #[test]
    fn any_token_survives_the_cursor(token in any::<String>()) {
        if !token.is_empty() {
            let body = json!({ "items": [], "nextPageToken": token }).to_string();
            let Next::More(cursor) = page(EVENTS, Some("sync:s"), &body).unwrap().next else { panic!() };
            let request = request(EVENTS, Some(cursor.as_str())).unwrap();
            let found = pairs(request.uri().query().unwrap());
            assert!(found.contains(&("pageToken".into(), token)), "{found:?}");
        }
    }

    /// Arbitrary bytes and arbitrary cursors never panic.
    #[test]
    fn nothing_panics(body in any::<Vec<u8>>(), cursor in any::<String>()) {
        let response = Response::new(Bytes::from(body));
        for stream in [MESSAGES, EVENTS] {
            let cursor = Cursor::new(cursor.clone());
            let _ = GoogleSource::new().page(&stream.into(), Some(&cursor), &response, SPAN);
            let _ = GoogleSource::new().page(&stream.into(), None, &response, SPAN);
            let _ = GoogleSource::new().fetched(&stream.into(), &"x".into(), &response, SPAN);
            let _ = GoogleSource::new().request(&site(Some(cursor.as_str()), 1), &stream.into(), Some(&cursor));
        }
    }
}

/// Fails when what no webhook tells of is called missed, or the time of what one tells of is read from elsewhere.
#[test]
fn a_notification_tells_of_all_before_it() {
    let told = |stream: &str, record: &str| {
        let state = State::Present(record.to_owned().into());
        let change = Change { stream: stream.into(), id: "1".into(), span: SPAN, state };
        let told = GoogleSource::new().told(&change, None)?;
        Some((told.at.millis(), told.by.into_owned(), told.is_notice))
    };
    let mail = r#"{"id":"1","internalDate":"1767225600123"}"#;
    let meeting = r#"{"id":"1","updated":"2026-01-01T00:00:00.123Z"}"#;
    assert_eq!(told(MESSAGES, mail), Some((1_767_225_600_123, "gmail.changed".to_owned(), true)));
    assert_eq!(told(EVENTS, meeting), Some((1_767_225_600_123, "calendar.changed".to_owned(), true)));
    assert_eq!((told(MESSAGES, meeting), told(EVENTS, mail), told("nothing", mail)), (None, None, None));
}

/// Fails when what is made of a change that no notification told of cannot be read as the notification, or is not the same
/// whenever it is made.
#[test]
fn a_notification_is_made_of_what_none_told_of() {
    let made = |stream: &str, id: &str, record: &str, account: Option<&str>| {
        let state = State::Present(record.to_owned().into());
        let change = Change { stream: stream.into(), id: id.into(), span: SPAN, state };
        let site = Site { account: account.map(str::to_owned), ..site(None, 10) };
        let event = GoogleSource::new().event_of(&site, &Missing { change: &change, held: None, place: None })?;
        assert_eq!(
            Some(&event),
            GoogleSource::new().event_of(&site, &Missing { change: &change, held: None, place: None }).as_ref()
        );
        Some((TypedEvent::parse(&event).unwrap(), event))
    };
    let mail = r#"{"id":"m1","historyId":"77","internalDate":"1767225600123"}"#;
    let (typed, event) = made(MESSAGES, "m1", mail, Some("ada@example.com")).unwrap();
    let TypedEvent::MailChanged(changed) = typed else { panic!("{typed:?}") };
    assert_eq!((changed.mailbox.as_str(), changed.history_id, changed.published_at), ("ada@example.com", 77, None));
    assert_eq!((event.account.as_deref(), event.created), (Some("ada@example.com"), None));
    assert!(made(MESSAGES, "m1", mail, None).is_none(), "a notification names its mailbox");

    let meeting = r#"{"id":"e1","updated":"2026-01-01T00:00:00.123Z"}"#;
    let (typed, event) = made(EVENTS, "e1", meeting, Some("ada@example.com")).unwrap();
    let TypedEvent::CalendarChanged(changed) = typed else { panic!("{typed:?}") };
    assert_eq!((changed.calendar.as_deref(), changed.channel.as_str()), (Some("ada@example.com"), ""));
    let again = r#"{"id":"e1","updated":"2026-01-02T00:00:00.123Z"}"#;
    assert_ne!(event.id, made(EVENTS, "e1", again, Some("ada@example.com")).unwrap().1.id, "changed again");
}

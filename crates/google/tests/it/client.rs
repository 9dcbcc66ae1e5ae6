//! Requests against those of Google's own client, and what the methods make of answers.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::Request;
use palisade_core::{Error, ErrorKind, Outcome, Replay};
use palisade_google::client::calendar::{Event, EventDateTime};
use palisade_google::client::gmail::Message;
use palisade_google::client::mail::{Mail, Reply};
use palisade_google::client::{EventQuery, Format, MessageQuery, NewChannel, NewWatch, SendUpdates};
use serde_json::{Value, json};

use super::fake::{Clients, Fake, answer, call, pairs};

/// Compares a request with the one Google's client for Python sent: method, host, path, parameters and JSON.
#[track_caller]
fn golden(name: &str, request: &Request<Bytes>, host: &str) {
    let file: Value = serde_json::from_str(include_str!("../fixtures/sdk_wire.json")).unwrap();
    let recorded = &file[name]["requests"][0];
    let path = recorded["path"].as_str().unwrap();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    assert_eq!(request.method().as_str(), recorded["method"].as_str().unwrap(), "{name}");
    assert_eq!(request.uri().host(), Some(host), "{name}");
    assert_eq!(request.uri().path(), path, "{name}");
    assert_eq!(pairs(request.uri().query().unwrap_or("")), pairs(query), "{name}");
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    assert_eq!(header("accept"), recorded["headers"]["accept"].as_str(), "{name}");
    assert_eq!(header("content-type"), recorded["headers"]["content-type"].as_str(), "{name}");
    let body = recorded["body"].as_str().unwrap();
    if body.is_empty() {
        assert!(request.body().is_empty(), "{name}");
    } else {
        let ours: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(ours, serde_json::from_str::<Value>(body).unwrap(), "{name}");
    }
    assert!(call(request).operation.name.starts_with(name.split('.').next().unwrap()), "{name}");
}

const GMAIL: &str = "gmail.googleapis.com";
const CALENDAR: &str = "www.googleapis.com";

#[tokio::test]
async fn requests_are_those_of_googles_own_client() {
    let fake = Fake::answering(&["{}"; 2]);
    let query = MessageQuery {
        search: Some("newer_than:1d".into()),
        labels: vec!["INBOX".into(), "UNREAD".into()],
        ..MessageQuery::default()
    };
    let page = r#"{"messages":[{"id":"m1","threadId":"t"}],"nextPageToken":"p"}"#;
    let list = Fake::answering(&[page, "{}"]);
    let listed: Vec<Message> = list.client().list_messages(query).try_collect().await.unwrap();
    assert_eq!(listed[0].id.as_deref(), Some("m1"));
    golden("gmail.messages.list", &list.seen()[1], GMAIL);

    fake.client().get_message("m1", Format::Metadata(vec!["From".into(), "Subject".into()])).await.unwrap();
    golden("gmail.messages.get", &fake.only(), GMAIL);

    let fake = Fake::answering(&[r#"{"historyId":"1","expiration":"1767830400000"}"#]);
    let watch = NewWatch { topic: "projects/p/topics/t".into(), labels: vec!["INBOX".into()], excluding: false };
    let watched = fake.client().watch_mailbox(&watch).await.unwrap();
    assert_eq!((watched.history_id, watched.expiration), (Some(1), Some(1_767_830_400_000)));
    golden("gmail.watch", &fake.only(), GMAIL);

    let fake = Fake::with(vec![Ok(answer(204, ""))]);
    fake.client().stop_mailbox().await.unwrap();
    golden("gmail.stop", &fake.only(), GMAIL);
    assert_eq!(fake.only().headers()["content-length"], "0", "Google answers 411 otherwise");

    let fake = Fake::answering(&[r#"{"items":[]}"#]);
    let query = EventQuery { single: true, deleted: true, ..EventQuery::default() };
    let events: Vec<Event> =
        fake.client().list_events("team@group.calendar.google.com", query).try_collect().await.unwrap();
    assert!(events.is_empty());
    golden("calendar.events.list_full", &fake.only(), CALENDAR);

    let fake = Fake::with(vec![Ok(answer(204, ""))]);
    fake.client().stop_channel("01234567-89ab", "r").await.unwrap();
    golden("calendar.channels.stop", &fake.only(), CALENDAR);
}

/// What Google's client sends in `raw` is the message in padded base64url; ours differs in being a whole one.
#[tokio::test]
async fn a_mail_goes_out_as_googles_client_sends_it() {
    let fake = Fake::answering(&[r#"{"id":"m1","threadId":"t1","labelIds":["SENT"]}"#]);
    let google = fake.client();
    let mime = google.prepare(&Mail::new().to("a@example.com").subject("hi").text("x")).unwrap();
    let sent = google.send_mail(&mime).await.unwrap();
    assert_eq!(sent.thread_id.as_deref(), Some("t1"));
    let request = fake.only();
    let mut recorded: Value = serde_json::from_str(include_str!("../fixtures/sdk_wire.json")).unwrap();
    let path = recorded["gmail.messages.send"]["requests"][0]["path"].take();
    assert_eq!(request.uri().path_and_query().unwrap().as_str(), path.as_str().unwrap());
    let body: Value = serde_json::from_slice(request.body()).unwrap();
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["raw"], "no field is null");
    assert_eq!(URL_SAFE.decode(body["raw"].as_str().unwrap()).unwrap(), mime.bytes()[..]);
    assert_eq!(call(&request).operation.replay, Replay::Never);
    assert_eq!(call(&request).operation.cost, 100);
}

#[tokio::test]
async fn large_mails_go_by_the_upload_route_with_their_thread() {
    let text = "0123456789abcdef\n".repeat(80_000);
    for reply in [None, Some(Reply { thread_id: "t1".into(), message_id: "1@x.example".into(), ..Reply::default() })] {
        let fake = Fake::answering(&[r#"{"id":"m1"}"#]);
        let google = fake.client();
        let mail = reply.clone().map_or_else(Mail::new, Mail::answering).to("a@x.example").text(text.as_str());
        let mime = google.prepare(&mail).unwrap();
        google.send_mail(&mime).await.unwrap();
        let request = fake.only();
        assert_eq!(request.uri().path(), "/upload/gmail/v1/users/me/messages/send");
        assert_eq!(request.uri().host(), Some(GMAIL));
        let kind = request.headers()["content-type"].to_str().unwrap();
        if reply.is_none() {
            assert_eq!((kind, request.body()), ("message/rfc822", mime.bytes()));
            assert!(request.uri().query().unwrap().contains("uploadType=media"));
            continue;
        }
        assert!(request.uri().query().unwrap().contains("uploadType=multipart"));
        let boundary = kind.strip_prefix("multipart/related; boundary=").unwrap();
        let body = request.body().clone();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let parts: Vec<&str> = text.split(&format!("--{boundary}")).collect();
        assert_eq!(parts.len(), 4, "a preamble, two parts and the end");
        let named = parts[1].split_once("\r\n\r\n").unwrap().1;
        assert_eq!(serde_json::from_str::<Value>(named).unwrap(), json!({ "threadId": "t1" }));
        let message = parts[2].split_once("\r\n\r\n").unwrap().1;
        assert_eq!(message.strip_suffix("\r\n").unwrap().as_bytes(), mime.bytes());
    }
}

fn meeting() -> Event {
    let at = |text: &str| serde_json::from_value::<EventDateTime>(json!({ "dateTime": text })).unwrap();
    Event {
        summary: Some("x".into()),
        start: Some(at("2026-01-01T10:00:00Z")),
        end: Some(at("2026-01-01T11:00:00Z")),
        ..Event::default()
    }
}

/// Fails when an event goes out without an id of ours, or the id is not one Calendar takes.
#[tokio::test]
async fn an_insert_differs_from_googles_client_by_its_id_only() {
    let fake = Fake::answering(&[r#"{"id":"e1"}"#]);
    let done = fake.client().insert_event("primary", meeting(), SendUpdates::All).await.unwrap();
    assert!(!done.was_there);
    let mut request = fake.only();
    let mut body: Value = serde_json::from_slice(request.body()).unwrap();
    let id = body.as_object_mut().unwrap().remove("id").unwrap();
    let id = id.as_str().unwrap();
    assert!(id.len() == 32 && id.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'v').contains(&c)), "{id}");
    assert_eq!(call(&request).operation.replay, Replay::Idempotent);
    *request.body_mut() = body.to_string().into();
    golden("calendar.events.insert", &request, CALENDAR);
}

fn refusal(status: u16, code: &str) -> Error {
    let kind = if status == 409 { ErrorKind::Conflict } else { ErrorKind::NotFound };
    Error::new(kind, "refused").with_status(status).with_code(code).with_outcome(Outcome::Rejected)
}

/// Fails when a duplicate is reported as a failure: the first attempt's success would look like one.
#[tokio::test]
async fn an_insert_that_is_a_duplicate_is_done() {
    let there = Ok(answer(200, r#"{"id":"mine0","status":"confirmed"}"#));
    let fake = Fake::with(vec![Err(refusal(409, "duplicate")), there]);
    let event = Event { id: Some("mine0".into()), ..meeting() };
    let done = fake.client().insert_event("primary", event.clone(), SendUpdates::Unsaid).await.unwrap();
    assert!(done.was_there);
    assert_eq!(fake.seen()[1].uri().path(), "/calendar/v3/calendars/primary/events/mine0");

    let gone = Ok(answer(200, r#"{"id":"mine0","status":"cancelled"}"#));
    let fake = Fake::with(vec![Err(refusal(409, "duplicate")), gone]);
    let error = fake.client().insert_event("primary", event.clone(), SendUpdates::Unsaid).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);

    let fake = Fake::with(vec![Err(refusal(409, "conflict"))]);
    let error = fake.client().insert_event("primary", event, SendUpdates::Unsaid).await.unwrap_err();
    assert_eq!((error.kind(), fake.seen().len()), (ErrorKind::Conflict, 1));
}

#[tokio::test]
async fn what_google_would_refuse_is_refused_before_it_leaves() {
    let fake = Fake::answering(&[]);
    let google = fake.client();
    for id in ["ab", "UPPER", "with-dash", "wxyz0", "", &"a".repeat(1_025)] {
        let event = Event { id: Some(id.to_owned()), ..meeting() };
        let error = google.insert_event("primary", event, SendUpdates::Unsaid).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{id}");
    }
    let event = Event { i_cal_uid: Some("1@x".into()), ..meeting() };
    assert_eq!(
        google.insert_event("primary", event, SendUpdates::Unsaid).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(google.get_message("..", Format::Full).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(google.get_event("", "e").await.unwrap_err().kind(), ErrorKind::Invalid);
    let patched = google.patch_event("primary", "e", &json!([]), None, SendUpdates::Unsaid).await;
    assert_eq!(patched.unwrap_err().kind(), ErrorKind::Invalid);
    let etag = google.patch_event("primary", "e", &json!({}), Some("\"1\"\n"), SendUpdates::Unsaid).await;
    assert_eq!(etag.unwrap_err().kind(), ErrorKind::Invalid);
    for topic in ["", "t", "projects/p/topics/", "projects/p/subscriptions/s", "projects/p/topics/t/x"] {
        let watch = NewWatch { topic: topic.into(), labels: Vec::new(), excluding: false };
        assert_eq!(google.watch_mailbox(&watch).await.unwrap_err().kind(), ErrorKind::Config, "{topic}");
    }
    let channel = NewChannel { address: "http://h.example.test/x".into(), key: "0123456789abcdef".into() };
    assert_eq!(google.watch_events("primary", &channel).await.unwrap_err().kind(), ErrorKind::Config);
    assert!(fake.seen().is_empty());
}

/// Fails when the token is anything but derived from the key and the channel's own id.
#[tokio::test]
async fn a_channel_is_opened_with_the_token_its_notifications_will_carry() {
    let fake = Fake::answering(&[r#"{"kind":"api#channel","id":"c","resourceId":"r","expiration":"1767830400000"}"#]);
    let key = palisade_core::Secret::from("0123456789abcdef");
    let channel = NewChannel { address: "https://h.example.test/x".into(), key: key.clone() };
    let opened = fake.client().watch_events("primary", &channel).await.unwrap();
    assert_eq!((opened.resource_id.as_deref(), opened.expiration), (Some("r"), Some(1_767_830_400_000)));
    let mut request = fake.only();
    let mut body: Value = serde_json::from_slice(request.body()).unwrap();
    let token = palisade_google::webhook::channel::token(&key, body["id"].as_str().unwrap());
    assert_eq!(body["token"].as_str(), Some(token.expose()));
    body["id"] = json!("01234567-89ab");
    body["token"] = json!("t");
    *request.body_mut() = body.to_string().into();
    golden("calendar.events.watch", &request, CALENDAR);
}

#[tokio::test]
async fn what_is_gone_already_counts_as_deleted_and_stopped() {
    let fake = Fake::with(vec![
        Err(refusal(410, "deleted")),
        Err(refusal(404, "notFound")),
        Err(refusal(404, "notFound")),
        Err(refusal(404, "notFound")),
    ]);
    let google = fake.client();
    google.delete_event("primary", "e1", SendUpdates::None).await.unwrap();
    google.stop_channel("c", "r").await.unwrap();
    google.stop_mailbox().await.unwrap();
    let missing = google.delete_event("primary", "e1", SendUpdates::None).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "404 is no proof that it was there");
    assert!(fake.seen()[0].uri().query().unwrap().contains("sendUpdates=none"));
}

#[tokio::test]
async fn a_conditional_patch_is_never_repeated_blindly() {
    let fake = Fake::answering(&[r#"{"id":"e1"}"#, r#"{"id":"e1"}"#]);
    let google = fake.client();
    let patch = json!({ "location": null, "summary": "y" });
    google.patch_event("primary", "e1", &patch, Some("\"33\""), SendUpdates::Unsaid).await.unwrap();
    google.patch_event("primary", "e1", &patch, None, SendUpdates::ExternalOnly).await.unwrap();
    let seen = fake.seen();
    assert_eq!(seen[0].headers()["if-match"], "\"33\"");
    assert_eq!(seen[0].body(), "{\"location\":null,\"summary\":\"y\"}", "null clears a field and must be sent");
    assert_eq!((call(&seen[0]).operation.replay, call(&seen[1]).operation.replay), (Replay::Never, Replay::Idempotent));
    assert!(!seen[1].headers().contains_key("if-match"));
}

/// Fails when a write whose answer cannot be read is called anything but done.
#[tokio::test]
async fn an_answer_that_does_not_fit_says_whether_something_happened() {
    for body in ["{", "[]", r#"{"id":7}"#, "<html>"] {
        let fake = Fake::answering(&[body, body]);
        let google = fake.client();
        let mime = google.prepare(&Mail::new().to("a@x.example")).unwrap();
        let error = google.send_mail(&mime).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Decode, Outcome::Processed), "{body}");
        let error = google.get_message("m", Format::Full).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Decode, Outcome::Rejected), "{body}");
        assert_eq!(error.operation(), Some("gmail.messages.get"));
    }
}

#[tokio::test]
async fn unknown_fields_are_no_failure() {
    let body = r#"{"id":"e1","novel":{"a":[1]},"status":"confirmed","start":{"date":"2026-01-01","novel":1}}"#;
    let event = Fake::answering(&[body]).client().get_event("primary", "e1").await.unwrap();
    assert_eq!(event.status.as_deref(), Some("confirmed"));
}

#[tokio::test]
async fn a_list_that_goes_round_is_an_error_and_an_empty_page_is_none() {
    let page = r#"{"messages":[{"id":"m1"}],"nextPageToken":"p"}"#;
    let fake = Fake::answering(&[page; 3]);
    let error = fake.client().list_messages(MessageQuery::default()).try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!((error.kind(), fake.seen().len()), (ErrorKind::Decode, 2));

    let fake = Fake::answering(&[r#"{"items":[],"nextPageToken":"a"}"#, r#"{"items":[{"id":"e1"}]}"#]);
    let events: Vec<Event> = fake.client().list_events("primary", EventQuery::default()).try_collect().await.unwrap();
    assert_eq!(events.len(), 1);
}

#[tokio::test]
async fn a_prepared_mail_is_looked_for_by_its_message_id() {
    let fake = Fake::answering(&[r#"{"messages":[{"id":"m9","threadId":"t"}]}"#, r#"{"resultSizeEstimate":0}"#]);
    let google = fake.client();
    let mime = google.prepare(&Mail::new().from("me@x.example").to("a@x.example")).unwrap();
    assert_eq!(google.find_sent(&mime).await.unwrap().unwrap().id.as_deref(), Some("m9"));
    assert!(google.find_sent(&mime).await.unwrap().is_none());
    let query = pairs(fake.seen()[0].uri().query().unwrap());
    assert!(query.contains(&("q".into(), format!("in:sent rfc822msgid:{}", mime.message_id()))), "{query:?}");
    assert!(mime.message_id().ends_with("@x.example"));
}

#[tokio::test]
async fn another_address_serves_both() {
    let fake = Fake::answering(&["{}", "{}"]);
    let google = fake.client().at("http://127.0.0.1:4010/").unwrap();
    google.profile().await.unwrap();
    google.get_event("primary", "e").await.unwrap();
    for request in fake.seen() {
        assert_eq!(request.uri().authority().unwrap(), "127.0.0.1:4010");
    }
    for bad in ["", "/x", "not a url", "http://h/?q"] {
        assert_eq!(fake.client().at(bad).unwrap_err().kind(), ErrorKind::Config, "{bad}");
    }
}

/// Any library that asks Google's way for a token is given the connection's.
#[tokio::test]
async fn a_connections_token_is_had_through_googles_seam() {
    use palisade_core::auth::{FixedCredential, Scheme};
    use palisade_google::client::ConnectionToken;
    use palisade_google::client::common::GetToken;
    use std::sync::Arc;

    let source = Arc::new(FixedCredential::new(&Scheme::Bearer("ya29.x".into())).unwrap());
    let token = ConnectionToken::new(source, "conn_1");
    assert_eq!(token.get_token(&["https://mail.google.com/"]).await.unwrap().as_deref(), Some("ya29.x"));
    assert!(!format!("{token:?}").contains("ya29"));

    let key = Scheme::Query { name: "key".into(), key: "AIza".into() };
    let token = ConnectionToken::new(Arc::new(FixedCredential::new(&key).unwrap()), "conn_1");
    let error = token.get_token(&[]).await.unwrap_err();
    assert_eq!(error.downcast_ref::<Error>().unwrap().kind(), ErrorKind::Config);
}

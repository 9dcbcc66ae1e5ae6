//! The typed calls against the emulated Google: what they send arrives as meant, and what goes wrong is told.

use std::time::Duration;

use futures_util::TryStreamExt;
use palisade_core::{ErrorKind, Outcome};
use palisade_emulator::google::{GoogleConfig, Quotas};
use palisade_emulator::{Fault, RetryAfter};
use palisade_google::client::calendar::{Event, EventDateTime};
use palisade_google::client::mail::{Mail, Reply};
use palisade_google::client::{EventQuery, Format, MessageQuery, SendUpdates};
use palisade_google::{GoogleSource, auth};
use serde_json::json;

use super::emulated::{ADA, SCOPES, World};

const SEND: &str = "POST /gmail/v1/users/{user}/messages/send";
const INSERT: &str = "POST /calendar/v3/calendars/{calendar}/events";

fn world(scopes: &[&str]) -> World {
    World::with(GoogleConfig::default(), 100, GoogleSource::new(), scopes)
}

fn lunch() -> Mail {
    Mail::new().from(ADA).to("bob@elsewhere.example").subject("Lunch?").text("At noon.")
}

fn meeting(id: Option<&str>) -> Event {
    let at = |text: &str| serde_json::from_value::<EventDateTime>(json!({ "dateTime": text })).unwrap();
    Event {
        id: id.map(str::to_owned),
        summary: Some("x".into()),
        start: Some(at("2026-01-01T10:00:00Z")),
        end: Some(at("2026-01-01T11:00:00Z")),
        ..Event::default()
    }
}

/// Fails when a mail that may have gone out is sent again, or is not found afterwards.
#[tokio::test(start_paused = true)]
async fn a_mail_is_sent_once_whatever_becomes_of_the_answer() {
    for fault in [Fault::ResetAfter, Fault::CutBody, Fault::HangAfter, Fault::StatusAfter(503), Fault::Html] {
        let world = world(SCOPES);
        world.emulator.faults().next(SEND, [fault.clone()]);
        let mime = world.google.prepare(&lunch()).unwrap();
        assert!(world.google.find_sent(&mime).await.unwrap().is_none());
        let error = world.google.send_mail(&mime).await.unwrap_err();
        assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "{fault:?}: {error}");
        let truth = world.emulator.messages(ADA);
        assert_eq!(truth.len(), 1, "{fault:?}: sent once");
        let found = world.google.find_sent(&mime).await.unwrap().expect("it went out");
        assert_eq!(truth.keys().next().map(String::as_str), found.id.as_deref(), "{fault:?}");
    }
    for fault in [Fault::Throttle(RetryAfter::None), Fault::Refuse("userRateLimitExceeded".to_owned())] {
        let world = world(SCOPES);
        world.emulator.faults().next(SEND, [fault.clone(), fault.clone()]);
        let mime = world.google.prepare(&lunch()).unwrap();
        world.google.send_mail(&mime).await.unwrap();
        assert_eq!(world.emulator.messages(ADA).len(), 1, "{fault:?}: a refusal did not send it, so it is repeated");
    }
}

/// Fails when a large mail, its thread or its files do not arrive as they were written.
#[tokio::test(start_paused = true)]
async fn mails_small_and_large_arrive_as_they_were_written() {
    let world = world(SCOPES);
    let first = world.google.prepare(&lunch()).unwrap();
    let sent = world.google.send_mail(&first).await.unwrap();
    let (id, thread) = (sent.id.unwrap(), sent.thread_id.unwrap());
    let raw = world.google.get_message(&id, Format::Raw).await.unwrap().raw.unwrap();
    assert_eq!(raw, first.bytes()[..], "byte for byte");
    let text = "0123456789abcdef\n".repeat(80_000);
    let mut threads = Vec::new();
    for thread in [None, Some(thread.clone())] {
        let mail = match thread.clone() {
            None => lunch().text(text.as_str()),
            Some(thread_id) => {
                let reply = Reply {
                    thread_id,
                    message_id: first.message_id().to_owned(),
                    subject: "Lunch?".into(),
                    ..Reply::default()
                };
                Mail::answering(reply).from(ADA).to("bob@elsewhere.example").text(text.as_str())
            }
        };
        let mime = world.google.prepare(&mail).unwrap();
        let sent = world.google.send_mail(&mime).await.unwrap();
        let raw = world.google.get_message(sent.id.as_deref().unwrap(), Format::Raw).await.unwrap().raw.unwrap();
        assert!(raw == mime.bytes()[..], "byte for byte by the upload route");
        threads.push(sent.thread_id.unwrap());
    }
    assert_ne!(threads[0], thread);
    assert_eq!(threads[1], thread, "the answer stays in its conversation");
    assert_eq!(world.emulator.ledger().requests_by_route["POST /upload/gmail/v1/users/{user}/messages/send"], 2);
}

#[tokio::test(start_paused = true)]
async fn lists_give_each_message_and_event_once_whatever_the_page_size() {
    let world = world(SCOPES);
    world.emulator.populate(ADA, 23, 23);
    for size in [1, 2, 7, 500] {
        let query = MessageQuery { page_size: Some(size), ..MessageQuery::default() };
        let listed: Vec<_> = world.google.list_messages(query).try_collect().await.unwrap();
        let mut ids: Vec<_> = listed.into_iter().filter_map(|message| message.id).collect();
        ids.sort();
        assert!(ids.iter().eq(world.emulator.messages(ADA).keys()), "pages of {size}");
        let query = EventQuery { page_size: Some(size), ..EventQuery::default() };
        let listed: Vec<_> = world.google.list_events("primary", query).try_collect().await.unwrap();
        let ids: Vec<_> = listed.into_iter().filter_map(|event| event.id).collect();
        assert!(ids.iter().eq(world.emulator.events(ADA).keys()), "pages of {size}");
    }
    let query = MessageQuery { search: Some("subject:\"Message 7\"".into()), ..MessageQuery::default() };
    let found: Vec<_> = world.google.list_messages(query).try_collect().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(world.google.profile().await.unwrap().messages_total, Some(23));
}

/// Fails when an event is made twice, or its duplicate is called a failure.
#[tokio::test(start_paused = true)]
async fn an_event_is_made_once_whatever_becomes_of_the_answer() {
    for fault in [Fault::ResetAfter, Fault::CutBody, Fault::HangAfter, Fault::StatusAfter(500), Fault::Html] {
        let world = world(SCOPES);
        world.emulator.faults().next(INSERT, [fault.clone()]);
        let made = world.google.insert_event("primary", meeting(None), SendUpdates::Unsaid).await.unwrap();
        assert!(made.was_there, "{fault:?}: the first attempt had made it");
        assert_eq!(world.emulator.events(ADA).len(), 1, "{fault:?}");
    }
    let world = world(SCOPES);
    let made = world.google.insert_event("primary", meeting(Some("mine0")), SendUpdates::Unsaid).await.unwrap();
    assert!(!made.was_there);
    let etag = made.event.etag.unwrap();
    let patch = json!({ "summary": "y", "location": "here" });
    let changed = world.google.patch_event("primary", "mine0", &patch, Some(&etag), SendUpdates::Unsaid).await.unwrap();
    assert_eq!((changed.summary.as_deref(), changed.location.as_deref()), (Some("y"), Some("here")));
    let stale =
        world.google.patch_event("primary", "mine0", &patch, Some(&etag), SendUpdates::Unsaid).await.unwrap_err();
    assert_eq!((stale.kind(), stale.code()), (ErrorKind::Conflict, Some("conditionNotMet")));
    let cleared = json!({ "location": null });
    let cleared = world.google.patch_event("primary", "mine0", &cleared, None, SendUpdates::Unsaid).await.unwrap();
    assert_eq!((cleared.summary.as_deref(), cleared.location), (Some("y"), None));
    world.google.delete_event("primary", "mine0", SendUpdates::Unsaid).await.unwrap();
    world.google.delete_event("primary", "mine0", SendUpdates::Unsaid).await.unwrap();
    let gone = world.google.insert_event("primary", meeting(Some("mine0")), SendUpdates::Unsaid).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Conflict, "the id of a deleted event is not free");
    let missing = world.google.get_event("primary", "nothere0").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(
        world.google.get_event("team@elsewhere.example", "mine0").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

/// Each refusal is one clear error, most with a sentence for the product's user.
#[tokio::test(start_paused = true)]
async fn what_google_refuses_is_told_in_plain_words() {
    let narrow = world(&[auth::GMAIL_SEND]);
    let error = narrow.google.get_event("primary", "x1234").await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Permission, Some("insufficientPermissions")));
    assert!(error.user_message().contains("reconnect"), "{}", error.user_message());
    assert_eq!(
        narrow.google.list_messages(MessageQuery::default()).try_next().await.unwrap_err().kind(),
        ErrorKind::Permission
    );
    let mime = narrow.google.prepare(&lunch()).unwrap();
    narrow.google.send_mail(&mime).await.unwrap();

    let looking = world(&[auth::GMAIL_METADATA]);
    let id = looking.emulator.receive(ADA, "s", "t").unwrap();
    let headers = looking.google.get_message(&id, Format::Metadata(vec!["Subject".into()])).await.unwrap();
    assert_eq!(headers.payload.unwrap().headers.unwrap().len(), 1);
    assert_eq!(looking.google.get_message(&id, Format::Full).await.unwrap_err().kind(), ErrorKind::Permission);

    let world = world(SCOPES);
    assert_eq!(world.emulator.oauth().revoke_all(), 1);
    let error = world.google.profile().await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Auth, Some(401)));
}

/// Fails when the wait Gmail writes into its message is not kept, or a quota is taken for a refusal.
#[tokio::test(start_paused = true)]
async fn a_quota_that_is_used_up_by_others_is_waited_for() {
    let quotas = Quotas { gmail_user: 200, calendar_user: 3, ..Quotas::default() };
    let world = World::with(GoogleConfig { quotas, ..GoogleConfig::default() }, 100, GoogleSource::new(), SCOPES);
    let id = world.emulator.receive(ADA, "s", "t").unwrap();
    let begin = tokio::time::Instant::now();
    let google = world.google.clone().in_background();
    for _ in 0..11 {
        google.get_message(&id, Format::Minimal).await.unwrap();
    }
    let waited = begin.elapsed();
    assert!((Duration::from_secs(55)..=Duration::from_secs(75)).contains(&waited), "{waited:?}");
    assert_eq!(world.emulator.ledger().throttles_by_reason["user"], 1, "one refusal, then the wait it names");
}

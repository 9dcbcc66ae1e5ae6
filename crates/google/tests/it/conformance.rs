//! Google as a subject of the kit.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, HeaderValue, Method};
use palisade_core::auth::Scheme;
use palisade_core::client::Repeat;
use palisade_core::clock::ManualClock;
use palisade_core::random::SeededRandom;
use palisade_core::webhook::RawDelivery;
use palisade_core::{ErrorKind, Operation, Outcome, Result, Secret, Timestamp, Transport};
use palisade_emulator::google::{Google as Emulator, GoogleConfig};
use palisade_google::client::calendar::{Event, EventDateTime};
use palisade_google::client::gmail::Message;
use palisade_google::client::mail::Mail;
use palisade_google::client::{EventQuery, Format, MessageQuery, NewWatch, SendUpdates};
use palisade_google::webhook::{ChannelTrust, GoogleWebhook, Jwks, PushTrust, Trust, channel};
use palisade_google::{Google, GoogleProvider, operation};
use palisade_testkit::conformance::{
    self, Ask, Counted, Counting, Handshake, Hook, Meaning, NOW, Rate, Sample, Stream, Subject, Vector,
};
use palisade_testkit::fake::{Said, answer};
use palisade_testkit::{EmulatorTransport, clock_from};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

use super::emulated::{ADA, SCOPES};
use super::keys::{jwks_document, token};
use super::stage::{GoogleStage, emulators_key};

#[tokio::test(start_paused = true)]
async fn keeps_every_promise_of_the_kit() {
    conformance::prove(&subject(), option_env!("CARGO_TARGET_TMPDIR")).await;
}

const AUDIENCES: [&str; 2] = ["https://hooks.example.test/google/one", "https://hooks.example.test/google/two"];
const EMAIL: &str = "push-sa@test-project.iam.gserviceaccount.com";
const KEYS: [&str; 2] = ["a key of 16 characters or more", "another key, while one is rotated"];

/// Google with the keys of both who sign in its name here: these tests and the emulator.
fn provider() -> GoogleProvider {
    let mut keys = jwks_document("k1");
    keys["keys"].as_array_mut().unwrap().push(emulators_key());
    let keys = Jwks::parse(keys.to_string().as_bytes()).unwrap();
    GoogleProvider::new().verifying(GoogleWebhook::with_keys(keys))
}

fn trust(audience: &str, email: &str) -> Secret {
    Trust::Push(PushTrust { audience: audience.into(), email: email.into(), topic: None }).to_secret()
}

/// A push with its OIDC token, good for an hour from when it was made.
fn push(ask: &Ask<'_>) -> RawDelivery {
    let made = ask.at.seconds();
    let header = json!({ "alg": "RS256", "kid": "k1", "typ": "JWT" });
    let claims = json!({
        "aud": AUDIENCES[ask.secret], "azp": "1", "email": EMAIL, "email_verified": true, "sub": "1",
        "iss": "https://accounts.google.com", "iat": made, "exp": made + 3_600,
    });
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {}", token(&header, &claims)).parse().unwrap());
    let body = Bytes::copy_from_slice(ask.content);
    RawDelivery { method: Method::POST, url: String::new(), headers, body }
}

/// The name of an authentication scheme has no case.
fn alike(good: &RawDelivery, changed: &RawDelivery) -> bool {
    let split = |raw: &RawDelivery| {
        let value = raw.headers["authorization"].as_bytes();
        let (scheme, rest) = value.split_at(value.len().min("Bearer ".len()));
        (scheme.to_ascii_lowercase(), rest.to_vec())
    };
    good.body == changed.body && changed.headers.contains_key("authorization") && split(good) == split(changed)
}

fn pushed(id: &str) -> String {
    let data = STANDARD.encode(json!({ "emailAddress": "user@example.com", "historyId": 77 }).to_string());
    let message = json!({ "data": data, "messageId": id, "publishTime": "2026-01-01T00:00:00.5Z" });
    json!({ "message": message, "subscription": "projects/p/subscriptions/s" }).to_string()
}

/// A channel's message: what differs is its number, the body is empty.
fn notification(ask: &Ask<'_>, state: &'static str) -> RawDelivery {
    let token = channel::token(&Secret::from(KEYS[ask.secret]), "c1");
    let number = HeaderValue::from_bytes(ask.content).unwrap_or(HeaderValue::from_static("no number"));
    let mut headers = HeaderMap::new();
    headers.insert("x-goog-message-number", number);
    for (name, value) in [
        ("x-goog-channel-id", "c1"),
        ("x-goog-channel-token", token.expose()),
        ("x-goog-channel-expiration", "Thu, 08 Jan 2026 00:00:00 GMT"),
        ("x-goog-resource-id", "ret08u3rv24htgh289g"),
        ("x-goog-resource-state", state),
        (
            "x-goog-resource-uri",
            "https://www.googleapis.com/calendar/v3/calendars/team%40group.example/events?alt=json",
        ),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    RawDelivery { method: Method::POST, url: String::new(), headers, body: Bytes::new() }
}

fn vectors() -> Vec<Vector> {
    let file: Value = serde_json::from_str(include_str!("../fixtures/webhooks.json")).unwrap();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    let group = &file["google_pubsub_push"];
    let keys = Jwks::parse(group["jwks"].to_string().as_bytes()).unwrap();
    let judge = Arc::new(GoogleProvider::new().verifying(GoogleWebhook::with_keys(keys)));
    let pushes =
        Vector::read(group, |vector| vec![trust(&text(vector, "expected_aud"), &text(vector, "expected_email"))]);
    let channels = Vector::read(&file["google_calendar_push"], |vector| {
        let expected = &vector["expected"];
        let trust = ChannelTrust {
            channel_id: text(expected, "channel_id"),
            resource_id: text(expected, "resource_id"),
            token: text(expected, "token").into(),
        };
        vec![Trust::Channel(trust).to_secret()]
    });
    pushes.into_iter().map(|vector| vector.judged_by(judge.clone())).chain(channels).collect()
}

fn google(transport: Arc<dyn Transport>) -> Google {
    Google::new(transport, "conn_1", "tenant_1")
        .clock(Arc::new(ManualClock::starting_at(NOW)))
        .random(Arc::new(SeededRandom::new(7)))
}

/// The rows of the calls by their names: an insert has one name and two rows, by whether it has an id.
fn operations() -> Vec<&'static Operation> {
    let rows = operation::named().map(|(_, row)| row);
    rows.into_iter().filter(|row| !std::ptr::eq(*row, &raw const operation::EVENTS_INSERT_ANY)).collect()
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

fn calls() -> Vec<Sample> {
    let file: Value = serde_json::from_str(include_str!("../fixtures/sdk_wire.json")).unwrap();
    let wire = |name: &str| &file[name]["requests"][0];
    vec![
        Sample::new("gmail.messages.list", |transport| async move {
            let query = MessageQuery {
                search: Some("newer_than:1d".into()),
                labels: vec!["INBOX".into(), "UNREAD".into()],
                ..MessageQuery::default()
            };
            let listed: Result<Vec<Message>> = google(transport).list_messages(query).try_collect().await;
            listed
        })
        .answered(200, r#"{"messages":[{"id":"m1","threadId":"t"}],"nextPageToken":"p"}"#)
        .answered(200, r#"{"messages":[{"id":"m2","threadId":"t"}]}"#)
        .recorded(wire("gmail.messages.list")),
        Sample::new("gmail.messages.get", |transport| async move {
            google(transport).get_message("m1", Format::Metadata(vec!["From".into(), "Subject".into()])).await
        })
        .answered(200, r#"{"id":"m1"}"#)
        .recorded(wire("gmail.messages.get")),
        Sample::new("gmail.messages.send", |transport| async move {
            let google = google(transport);
            let mime = google.prepare(&Mail::new().to("a@example.com").subject("hi").text("x"))?;
            google.send_mail(&mime).await
        })
        .answered(200, r#"{"id":"m1","threadId":"t1","labelIds":["SENT"]}"#)
        .recorded(wire("gmail.messages.send"))
        .differing_in(&["raw"], "ours is a whole message with its headers"),
        Sample::new("gmail.watch", |transport| async move {
            let watch =
                NewWatch { topic: "projects/p/topics/t".into(), labels: vec!["INBOX".into()], excluding: false };
            google(transport).watch_mailbox(&watch).await
        })
        .answered(200, r#"{"historyId":"1","expiration":"1767830400000"}"#)
        .recorded(wire("gmail.watch")),
        Sample::new("gmail.stop", |transport| async move { google(transport).stop_mailbox().await })
            .answered(204, "")
            .recorded(wire("gmail.stop")),
        Sample::new("calendar.events.list", |transport| async move {
            let query = EventQuery { single: true, deleted: true, ..EventQuery::default() };
            let listed: Result<Vec<Event>> =
                google(transport).list_events("team@group.calendar.google.com", query).try_collect().await;
            listed
        })
        .answered(200, r#"{"items":[{"id":"e1","status":"confirmed"}]}"#)
        .recorded(wire("calendar.events.list_full")),
        Sample::new("calendar.events.insert", |transport| async move {
            google(transport).insert_event("primary", meeting(), SendUpdates::All).await
        })
        .answered(200, r#"{"id":"e1"}"#)
        .recorded(wire("calendar.events.insert"))
        .differing_in(&["id"], "an event gets an id of ours, so that it can be inserted once"),
        Sample::new("calendar.channels.stop", |transport| async move {
            google(transport).stop_channel("01234567-89ab", "r").await
        })
        .answered(204, "")
        .recorded(wire("calendar.channels.stop")),
    ]
}

fn refusal(status: u16, reason: &str) -> String {
    json!({ "error": {
        "code": status, "message": "about ada@example.com", "status": "PERMISSION_DENIED",
        "errors": [{ "domain": "global", "reason": reason, "message": "about ada@example.com" }],
    } })
    .to_string()
}

/// The documented reasons; a 403 is told apart by them alone.
fn meanings() -> Vec<Meaning> {
    use ErrorKind as K;
    let (never, if_safe) = (Said::Failed(Repeat::Never), Said::Failed(Repeat::IfSafe));
    let any = "calendar.events.get";
    let table = [
        (403, "rateLimitExceeded", Said::Throttled, K::Throttled, any),
        (429, "userRateLimitExceeded", Said::Throttled, K::Throttled, any),
        (403, "dailyLimitExceeded", never, K::Throttled, any),
        (403, "quotaExceeded", never, K::Throttled, any),
        (403, "insufficientPermissions", never, K::Permission, any),
        (403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT", never, K::Permission, any),
        (403, "domainPolicy", never, K::Permission, any),
        (403, "forbiddenForNonOrganizer", never, K::Permission, any),
        (403, "accessNotConfigured", never, K::Config, any),
        (403, "somethingNew", never, K::Permission, any),
        (401, "authError", Said::Unauthorized, K::Auth, any),
        (400, "invalidArgument", never, K::Invalid, any),
        (400, "failedPrecondition", never, K::Permission, any),
        (400, "channelIdNotUnique", never, K::Conflict, any),
        (404, "notFound", never, K::NotFound, any),
        (404, "notFound", never, K::CursorExpired, "gmail.history.list"),
        (409, "duplicate", never, K::Conflict, any),
        (410, "deleted", never, K::NotFound, any),
        (410, "fullSyncRequired", never, K::CursorExpired, any),
        (410, "updatedMinTooLongAgo", never, K::CursorExpired, any),
        (410, "gone", never, K::CursorExpired, "calendar.events.list"),
        (412, "conditionNotMet", never, K::Conflict, any),
        (413, "uploadTooLarge", never, K::Invalid, any),
    ];
    let table = table.map(|(status, reason, said, kind, operation)| {
        Meaning::new(status, refusal(status, reason), said, kind).code(reason).of(operation)
    });
    let failed = [500, 502, 503, 504].map(|status| {
        Meaning::new(status, refusal(status, "backendError"), if_safe, K::Provider).outcome(Outcome::Unknown).of(any)
    });
    table.into_iter().chain(failed).collect()
}

/// A page whose records were all filtered out, and that leads on.
fn emptied(page: &Value, field: &str) -> Value {
    let mut page = page.clone();
    page[field] = json!([]);
    page
}

/// Google's two streams.
fn streams() -> [Stream; 2] {
    let gone = |status: u16, reason: &str| refusal(status, reason);
    [
        Stream::new("messages", 500).emptied(|page| emptied(page, "messages")).expired(404, gone(404, "notFound")),
        Stream::new("calendar_events", 2_500)
            .emptied(|page| emptied(page, "items"))
            .expired(410, gone(410, "fullSyncRequired")),
    ]
}

/// 6,000 units a minute and user; sending costs 100 (developers.google.com/workspace/gmail/api/reference/quota).
fn gmail_rate() -> Rate {
    Rate::new("a Gmail user", 6_000, Duration::from_secs(60), |transport, _| async move {
        let google = google(transport);
        let mime = google.prepare(&Mail::new().to("a@example.com").subject("hi").text("x"))?;
        google.send_mail(&mime).await.map(drop)
    })
    .costing(100)
    .counted_by(|| counting(Emulator::gmail_units))
}

/// An emulated Google, asked by what it has counted of a user.
fn counting(spent: fn(&Emulator, &str) -> (u64, u64)) -> Counting {
    let emulator = Emulator::offline(GoogleConfig { clock: clock_from(NOW), ..GoogleConfig::default() });
    Counting {
        transport: Arc::new(EmulatorTransport::new(emulator.clone())),
        credential: Scheme::Bearer(emulator.access_token(ADA, SCOPES).into()),
        counted: Box::new(move || {
            let (peak, total) = spent(&emulator, ADA);
            Counted { peak, total, throttled: emulator.ledger().throttles }
        }),
    }
}

/// 600 requests a minute and user (developers.google.com/workspace/calendar/api/guides/quota).
fn calendar_rate() -> Rate {
    Rate::new("a Calendar user", 600, Duration::from_secs(60), |transport, _| async move {
        let all: Result<Vec<Event>> =
            google(transport).list_events("primary", EventQuery::default()).try_collect().await;
        all.map(drop)
    })
    .counted_by(|| counting(Emulator::calendar_requests))
}

fn subject() -> Subject {
    let pushes = Hook::new("Pub/Sub pushes", AUDIENCES.map(|audience| trust(audience, EMAIL)), push)
        .about(pushed("m-1"), pushed("m-2"))
        .signed_by(&["authorization"])
        .not_signing_body("the token proves the sender, not the body, which says no more than that something changed")
        .alike(alike)
        .window(3_600 + 29, 30);
    let channels = Hook::new("calendar channels", KEYS.map(Secret::from), |ask| notification(ask, "exists"))
        .about("12", "13")
        .signed_by(&["x-goog-channel-token"])
        .not_signing_body("a notification has none; its token proves the channel")
        .without_window("a channel's token is good as long as the channel");
    let first = Ask { content: b"1", secret: 0, at: Timestamp(NOW.millis()) };
    let hello = Handshake { delivery: notification(&first, "sync"), secret: KEYS[0].into(), status: 200, body: b"" };
    let subject = Subject::new(provider, Scheme::Bearer("ya29.x".into()));
    let subject = streams().into_iter().fold(subject.stage(GoogleStage::new), Subject::stream);
    calls()
        .into_iter()
        .fold(subject, Subject::call)
        .operations(operations())
        .meanings(meanings())
        .throttled_by(answer(429, refusal(429, "userRateLimitExceeded")))
        .rate(gmail_rate())
        .rate(calendar_rate())
        .vectors(vectors())
        .hook(pushes)
        .hook(channels)
        .handshake(hello)
}

//! Messages no event told of: what is made of them is what Slack would have sent, and each is handled once.

use std::sync::Arc;
use std::time::Duration;

use palisade_core::Timestamp;
use palisade_core::auth::Scheme;
use palisade_core::clock::TokioClock;
use palisade_core::store::{RunMode, StoredEvent};
use palisade_core::sync::{Change, Missing, Source, State};
use palisade_core::webhook::{Event, Webhook};
use palisade_emulator::slack::{Seed, Slack as Emulator, SlackConfig, Workspace};
use palisade_slack::{SlackProvider, SlackSource, SlackWebhook, TypedEvent};
use palisade_testkit::{AccountCopy, EmulatorTransport, PostBox, clock_from};
use serde_json::{Value, json};

use super::sync::{SPAN, site};
use super::webhook::{callback, parse};

const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const SCOPES: [&str; 10] = [
    "channels:history",
    "channels:read",
    "chat:write",
    "groups:history",
    "groups:read",
    "im:history",
    "im:read",
    "mpim:history",
    "mpim:read",
    "users:read",
];

/// A message as a list has it, in a channel of a kind.
fn found(ts: &str, message: Value) -> Change {
    let data = message.to_string().into();
    Change { stream: "messages".into(), id: format!("C1:{ts}").into(), span: SPAN, state: State::Present(data) }
}

fn channel(fields: Value) -> bytes::Bytes {
    let mut channel = json!({ "id": "C1", "context_team_id": "T1" });
    channel.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    channel.to_string().into()
}

/// Fails when what no webhook tells of is called missed, when the time of what one tells of is read from elsewhere, or when
/// a kind of conversation is taken for one whose messages are subscribed to by another name.
#[test]
fn webhooks_tell_of_messages_written_and_edited_by_kind_of_conversation() {
    let written = found("1767225600.123456", json!({ "ts": "1767225600.123456" }));
    let by = |place: Option<Value>| {
        let told = SlackSource::new().told(&written, place.map(channel).as_ref())?;
        assert_eq!((told.at.millis(), told.is_notice), (1_767_225_600_123, false));
        Some(told.by.into_owned())
    };
    assert_eq!(by(Some(json!({ "is_private": false }))), Some("message.channels".to_owned()));
    assert_eq!(by(Some(json!({ "is_private": true }))), Some("message.groups".to_owned()));
    assert_eq!(by(Some(json!({ "is_private": true, "is_mpim": true }))), Some("message.mpim".to_owned()));
    assert_eq!(by(Some(json!({ "is_im": true }))), Some("message.im".to_owned()));
    assert_eq!(by(None), None, "a public channel and a private one may be named alike");

    let place = channel(json!({}));
    let edited = json!({ "ts": "1767225600.123456", "edited": { "user": "U1", "ts": "1767225700.000000" } });
    let told = SlackSource::new().told(&found("1767225600.123456", edited), Some(&place)).unwrap();
    assert_eq!(told.at.millis(), 1_767_225_700_000);
    assert_eq!(SlackSource::new().told(&found("1.0", json!({})), Some(&place)), None);
    let person = Change { stream: "users".into(), ..written };
    assert_eq!(SlackSource::new().told(&person, Some(&place)), None, "a list tells no times");
}

/// Fails when an event is heard as what did not bring it.
#[test]
fn a_message_is_heard_as_what_was_subscribed_to() {
    let heard = |event: Value| {
        let event = parse(&callback(&event)).unwrap().events.remove(0);
        SlackWebhook.subscription(&event)
    };
    let message = |kind: &str| json!({ "type": "message", "channel": "C1", "channel_type": kind, "ts": "1.000001" });
    for (kind, subscription) in [
        ("channel", Some("message.channels")),
        ("group", Some("message.groups")),
        ("im", Some("message.im")),
        ("mpim", Some("message.mpim")),
        ("app_home", None),
    ] {
        assert_eq!(heard(message(kind)).as_deref(), subscription, "{kind}");
    }
    let mut own = message("channel");
    own["app_id"] = "A1".into();
    assert_eq!(heard(own).as_deref(), Some("message.channels"), "our own too");
    assert_eq!(heard(json!({ "type": "messages", "channel_type": "channel" })), None);
    assert_eq!(heard(json!({ "type": "reaction_added", "user": "U1" })), None);
}

/// Fails when what is made of a message differs from its event in anything a handler goes by, or when a message is named
/// otherwise than its event.
#[test]
fn what_is_made_of_a_message_is_the_event_that_should_have_come() {
    let place = channel(json!({ "is_private": true }));
    let before = json!({ "type": "message", "user": "U1", "text": "x", "ts": "1.000001" });
    let mut after = before.clone();
    after["text"] = "y".into();
    after["edited"] = json!({ "user": "U1", "ts": "9.000002" });
    let mut with_file = before.clone();
    with_file["subtype"] = "file_share".into();
    let at = |ts: &str| json!({ "channel": "C1", "channel_type": "group", "event_ts": ts });
    let with = |mut one: Value, more: Value| {
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one
    };
    let changed = json!({ "type": "message", "subtype": "message_changed", "ts": "9.000002", "hidden": true,
        "message": after, "previous_message": before });
    let cases = [
        ("written", before.clone(), None, with(before.clone(), at("1.000001"))),
        ("with a file", with_file.clone(), None, with(with_file, at("1.000001"))),
        ("edited before it was ever seen", after.clone(), None, with(after.clone(), at("1.000001"))),
        ("edited", after, Some(before), with(changed, at("9.000002"))),
    ];
    for (name, message, held, event) in cases {
        let change = found("1.000001", message);
        let held = held.map(|held| held.to_string().into());
        let missing = Missing { change: &change, held: held.as_ref(), place: Some(&place) };
        let made = SlackSource::new().event_of(&site(), &missing).unwrap();
        let sent = parse(&callback(&event)).unwrap().events.remove(0);
        assert_eq!(made, Event { payload: made.payload.clone(), ..sent.clone() }, "{name}");
        let typed = |event: &Event| format!("{:?}", TypedEvent::parse(event).unwrap());
        assert_eq!(typed(&made), typed(&sent), "{name}");
        assert_eq!(SlackSource::new().apply(&made).unwrap(), SlackSource::new().apply(&sent).unwrap(), "{name}");
        assert_eq!(SlackWebhook.subscription(&made).as_deref(), Some("message.groups"), "{name}");
    }
}

/// Fails when an app's message is made an event of: it may be our own, and a product would answer itself.
#[test]
fn no_event_is_made_of_what_an_app_wrote_or_nobody_knows_the_place_of() {
    let place = channel(json!({}));
    let made = |more: Value, place: Option<&bytes::Bytes>| {
        let mut message = json!({ "type": "message", "text": "x", "ts": "1.000001" });
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let change = found("1.000001", message);
        SlackSource::new().event_of(&site(), &Missing { change: &change, held: None, place }).is_some()
    };
    assert!(made(json!({ "user": "U1" }), Some(&place)));
    for app in [json!({ "app_id": "A1" }), json!({ "bot_id": "B1" }), json!({ "bot_profile": { "app_id": "A1" } })] {
        assert!(!made(app.clone(), Some(&place)), "{app}");
    }
    assert!(!made(json!({ "user": "U1" }), None));
}

/// Fails when a handler is not told of a message whose event was lost, is told of it again when that comes late, or is told
/// of messages in kinds of conversations nobody subscribed to.
#[tokio::test(start_paused = true)]
async fn lost_messages_reach_the_handlers_once() {
    let clock = Arc::new(TokioClock::starting_at(BEGIN));
    let posted = PostBox::new();
    let config = SlackConfig {
        workspaces: vec![Workspace::new("T1", "Tea")],
        clock: clock_from(BEGIN),
        poster: Some(posted.poster()),
        ..SlackConfig::default()
    };
    let secret = config.signing_secret.as_str().into();
    let emulator = Emulator::offline(config);
    let token = emulator.install_forever(&SCOPES);
    emulator.populate(&Seed { users: 5, channels: 1, private_channels: 1, messages_per_channel: 4 });
    emulator.subscribe("https://app.example/webhooks/slack", &["*"]);
    let transport = Arc::new(EmulatorTransport::new(emulator.clone()));
    let scheme = Scheme::Bearer(token.into());
    let copy = AccountCopy::of(SlackProvider::new(), transport, &scheme, Some("T1"), &clock, 7).await;

    let channels = emulator.truth("conversations");
    let of = |private: bool| channels.iter().find(|(_, one)| one["is_private"] == private).unwrap().0.as_str();
    let person = emulator.truth("users").into_keys().find(|id| *id != emulator.bot_user()).unwrap();
    let say = |private: bool, text: &str| emulator.post(of(private), &person, text, None).unwrap();
    let wait = async |seconds| tokio::time::sleep(Duration::from_secs(seconds)).await;
    let said = async || -> Vec<(String, Option<String>)> {
        let text = |event: &StoredEvent| {
            let typed = TypedEvent::parse(&event.event).unwrap();
            if let TypedEvent::Message(message) | TypedEvent::MessageChanged(message) = typed {
                Some(message.text)
            } else {
                None
            }
        };
        copy.events().await.iter().map(|event| (event.event.kind.clone(), text(event))).collect()
    };
    let heard = say(false, "heard");
    wait(1).await;
    for raw in posted.take() {
        copy.receive(raw, &secret).await;
    }
    wait(3_600).await;
    copy.run(RunMode::Incremental).await;
    let first = said().await;
    wait(60).await;

    say(false, "lost");
    wait(1).await;
    assert!(emulator.edit(of(false), &heard, "edited"));
    wait(1).await;
    say(true, "never subscribed to");
    wait(200).await;
    let late = posted.take();
    assert_eq!(late.len(), 3);
    copy.run(RunMode::Incremental).await;
    let made = said().await.split_off(first.len());
    let text = |kind: &str, text: &str| (kind.to_owned(), Some(text.to_owned()));
    assert_eq!(made, [text("message", "lost"), text("message.message_changed", "edited")]);
    let [healed] = copy.healed().await[..] else { panic!("one run found them") };
    assert_eq!((healed.count, healed.records), (2, 0), "{healed:?}");

    for raw in late {
        copy.receive(raw, &secret).await;
    }
    assert_eq!(said().await.split_off(first.len() + 2), [text("message", "never subscribed to")]);
}

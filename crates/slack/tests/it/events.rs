//! Typed events: the fields they name, and nothing else, decide whether they are read.

use palisade_core::ErrorKind;
use palisade_core::webhook::Event;
use palisade_slack::TypedEvent;
use palisade_slack::event::{full, full_interaction};
use serde_json::{Value, json};
use slack_morphism::events::SlackPushEvent;

use super::webhook::{callback, parse};

fn event(inner: &Value) -> Event {
    parse(&callback(inner)).unwrap().events.remove(0)
}

fn typed(inner: &Value) -> TypedEvent {
    TypedEvent::parse(&event(inner)).unwrap()
}

#[test]
fn the_events_most_products_handle_have_types() {
    use TypedEvent as E;
    let message = json!({"type": "message", "channel": "C1", "channel_type": "im", "user": "U1", "text": "hi", "ts": "1.5",
        "thread_ts": "1.0", "blocks": [{"type": "of_tomorrow"}]});
    assert!(matches!(typed(&message), E::Message(m) if m.text == "hi" && m.thread_ts.as_deref() == Some("1.0")));
    let mut mention = message.clone();
    mention["type"] = json!("app_mention");
    assert!(matches!(typed(&mention), E::AppMention(m) if m.channel == "C1" && m.user.as_deref() == Some("U1")));
    let joined = json!({"type": "message", "subtype": "channel_join", "channel": "C1", "user": "U1", "ts": "1.5"});
    assert!(
        matches!(typed(&joined), E::Message(m) if m.subtype.as_deref() == Some("channel_join") && m.text.is_empty())
    );
    let changed = json!({"type": "message", "subtype": "message_changed", "channel": "C1", "channel_type": "channel", "ts": "9.0",
        "message": {"type": "message", "user": "U1", "text": "new", "ts": "1.5", "edited": {"ts": "8.0"}},
        "previous_message": {"text": "old", "ts": "1.5"}});
    assert!(
        matches!(typed(&changed), E::MessageChanged(m) if (m.ts.as_str(), m.text.as_str(), m.channel.as_str()) == ("1.5", "new", "C1"))
    );
    let deleted =
        json!({"type": "message", "subtype": "message_deleted", "channel": "C1", "deleted_ts": "1.5", "ts": "9.0"});
    assert!(matches!(typed(&deleted), E::MessageDeleted(m) if m.ts == "1.5"));
    let reaction = json!({"type": "reaction_added", "user": "U1", "reaction": "eyes", "item_user": "U2", "item": {"type": "message", "channel": "C1", "ts": "1.5"}});
    assert!(matches!(typed(&reaction), E::ReactionAdded(r) if r.reaction == "eyes" && r.ts.as_deref() == Some("1.5")));
    let of_file =
        json!({"type": "reaction_removed", "user": "U1", "reaction": "eyes", "item": {"type": "file", "file": "F1"}});
    assert!(matches!(typed(&of_file), E::ReactionRemoved(r) if r.ts.is_none()));
    assert!(
        matches!(typed(&json!({"type": "app_home_opened", "user": "U1", "channel": "D1", "tab": "home"})), E::AppHomeOpened(m) if m.channel == "D1")
    );
    assert!(
        matches!(typed(&json!({"type": "member_joined_channel", "user": "UBOT", "channel": "C1"})), E::MemberJoined(m) if m.user == "UBOT")
    );
    assert!(matches!(typed(&json!({"type": "member_left_channel", "user": "U1", "channel": "C1"})), E::MemberLeft(_)));
    assert!(
        matches!(typed(&json!({"type": "channel_created", "channel": {"id": "C9", "name": "new"}})), E::ChannelCreated(c) if c.name.as_deref() == Some("new"))
    );
    assert!(matches!(
        typed(&json!({"type": "channel_rename", "channel": {"id": "C9", "name": "x"}})),
        E::ChannelRenamed(_)
    ));
    assert!(
        matches!(typed(&json!({"type": "channel_archive", "channel": "C9", "user": "U1"})), E::ChannelArchived(c) if c.channel == "C9" && c.name.is_none())
    );
    assert!(matches!(typed(&json!({"type": "channel_deleted", "channel": "C9"})), E::ChannelDeleted(_)));
    assert!(
        matches!(typed(&json!({"type": "channel_id_changed", "old_channel_id": "G1", "new_channel_id": "C1"})), E::ChannelIdChanged(m) if (m.old.as_str(), m.new.as_str()) == ("G1", "C1"))
    );
    let person = json!({"id": "U1", "deleted": true, "profile": {"real_name": "Ada", "email": "a@x.example"}});
    assert!(
        matches!(typed(&json!({"type": "user_change", "user": person})), E::UserChanged(p) if p.deleted && p.real_name.as_deref() == Some("Ada"))
    );
    assert!(
        matches!(typed(&json!({"type": "team_join", "user": person})), E::TeamJoined(p) if p.email.as_deref() == Some("a@x.example"))
    );
    assert!(
        matches!(typed(&json!({"type": "file_shared", "file_id": "F1", "channel_id": "C1", "user_id": "U1"})), E::FileShared(f) if f.file == "F1")
    );
    let links = json!({"type": "link_shared", "channel": "C1", "user": "U1", "message_ts": "1.5", "links": [{"domain": "x.example", "url": "https://x.example/1"}]});
    assert!(matches!(typed(&links), E::LinkShared(l) if l.urls == ["https://x.example/1"]));
    assert!(matches!(typed(&json!({"type": "app_uninstalled"})), E::AppUninstalled));
    let revoked = json!({"type": "tokens_revoked", "tokens": {"oauth": ["U1"], "bot": ["UBOT"]}});
    assert!(matches!(typed(&revoked), E::TokensRevoked(r) if r.users == ["U1"] && r.bots == ["UBOT"]));
    let limited =
        parse(r#"{"type":"app_rate_limited","team_id":"T1","minute_rate_limited":60,"api_app_id":"A1"}"#).unwrap();
    assert!(matches!(TypedEvent::parse(&limited.events[0]).unwrap(), E::RateLimited { minute: 60 }));
    assert!(matches!(typed(&json!({"type": "of_tomorrow", "x": 1})), E::Unknown { kind, .. } if kind == "of_tomorrow"));
}

/// Fails when a handler that reads events by type takes our own message for somebody's.
#[test]
fn an_echo_is_no_message() {
    let own = json!({"type": "message", "channel": "C1", "ts": "1.5", "user": "UBOT", "text": "loop"});
    assert!(matches!(typed(&own), TypedEvent::Unknown { kind, .. } if kind == "echo.message"));
}

#[test]
fn commands_and_interactions_have_types_and_their_addresses_are_secrets() {
    let form = "team_id=T1&channel_id=C1&user_id=U1&command=%2Fdeploy&text=now&trigger_id=1.2.3&response_url=https%3A%2F%2Fhooks.slack.com%2Fhidden";
    let command = TypedEvent::parse(&parse(form).unwrap().events[0]).unwrap();
    assert!(!format!("{command:?}").contains("hidden"));
    assert!(
        matches!(command, TypedEvent::SlashCommand(c) if c.command == "/deploy" && c.text == "now" && c.response_url.as_ref().unwrap().expose() == "https://hooks.slack.com/hidden")
    );
    let payload = json!({"type": "block_actions", "user": {"id": "U1", "username": "ada", "team_id": "T1"}, "team": {"id": "T1", "domain": "x"},
        "api_app_id": "A1", "trigger_id": "1.2.3", "container": {"type": "message", "message_ts": "1.5", "channel_id": "C1", "is_ephemeral": false},
        "channel": {"id": "C1", "name": "general"}, "message": {"type": "message", "ts": "1.5", "text": "x"},
        "response_url": "https://hooks.slack.com/hidden", "actions": [{"type": "button", "action_id": "go", "block_id": "b", "value": "7", "action_ts": "1.6"}]});
    let form =
        url::form_urlencoded::Serializer::new(String::new()).append_pair("payload", &payload.to_string()).finish();
    let event = parse(&form).unwrap().events.remove(0);
    let TypedEvent::Interaction(pressed) = TypedEvent::parse(&event).unwrap() else { panic!("an interaction") };
    assert_eq!(
        (pressed.kind.as_str(), pressed.channel.as_deref(), pressed.message_ts.as_deref()),
        ("block_actions", Some("C1"), Some("1.5"))
    );
    assert_eq!(pressed.actions, [("go".to_owned(), Some("7".to_owned()))]);
    full_interaction(&event).unwrap();
}

#[test]
fn the_whole_event_is_a_second_step_that_can_fail() {
    let message = json!({"type": "message", "channel": "C1", "user": "U1", "text": "hi", "ts": "1.5", "event_ts": "1.5", "channel_type": "channel"});
    assert!(matches!(full(&event(&message)).unwrap(), SlackPushEvent::EventCallback(_)));
    let null = r#"{"type":"event_callback","team_id":null,"api_app_id":"A1","event_id":"Ev1","event_time":1,"event":{"type":"app_mention","channel":"C1","user":"U1","text":"x","ts":"1.5"}}"#;
    let event = parse(null).unwrap().events.remove(0);
    assert_eq!(full(&event).unwrap_err().kind(), ErrorKind::Decode);
    assert!(matches!(TypedEvent::parse(&event).unwrap(), TypedEvent::AppMention(_)));
}

#[test]
fn a_field_every_such_event_has_cannot_be_missing() {
    for inner in [
        json!({"type": "message", "channel": "C1"}),
        json!({"type": "message", "ts": "1.5"}),
        json!({"type": "message", "subtype": "message_changed", "channel": "C1", "message": "text"}),
        json!({"type": "message", "subtype": "message_deleted", "channel": "C1"}),
        json!({"type": "reaction_added", "user": "U1"}),
        json!({"type": "channel_id_changed", "old_channel_id": "G1"}),
        json!({"type": "link_shared", "channel": "C1", "links": {}}),
        json!({"type": "user_change", "user": 7}),
    ] {
        assert_eq!(TypedEvent::parse(&event(&inner)).unwrap_err().kind(), ErrorKind::Decode, "{inner}");
    }
}

//! Push channels: what is asked for, what is read, and when the next is due.

use bytes::Bytes;
use http::Response;
use palisade_core::sync::watch::{Watch, WatchAsk, WatchSpec, Watcher};
use palisade_core::{Call, ErrorKind, Secret, Timestamp};
use palisade_google::GoogleSource;
use palisade_google::sync::{EVENTS, MESSAGES};
use palisade_google::webhook::channel;
use serde_json::{Value, json};

use super::sync::site;

const KEY: &str = "a key of 16 characters or more";

fn ask(stream: &str, channel: &str, address: &str) -> WatchAsk {
    WatchAsk { stream: stream.into(), channel: channel.into(), address: address.into(), secret: KEY.into() }
}

fn source() -> GoogleSource {
    GoogleSource::new().notifying("projects/p/topics/t")
}

/// Fails when a channel is renewed less often than Google says, or after half its life.
#[test]
fn both_streams_are_watched_and_renewed_in_time() {
    let streams = |source: GoogleSource| source.watches().iter().map(|watch| watch.stream).collect::<Vec<_>>();
    assert_eq!(streams(source()), [MESSAGES, EVENTS]);
    assert_eq!(streams(source().mail_only()), [MESSAGES]);
    assert_eq!(streams(source().calendar_only()), [EVENTS]);
    let hours = |spec: &WatchSpec| (spec.lives_max.as_secs() / 3_600, spec.renew_every.as_secs() / 3_600);
    assert_eq!(source().watches().iter().map(hours).collect::<Vec<_>>(), [(168, 24), (168, 84)]);
}

/// Fails when a channel is opened whose notifications the endpoint would refuse.
#[test]
fn a_channel_is_opened_with_the_secret_that_its_notifications_are_verified_by() {
    #[track_caller]
    fn check(source: &GoogleSource, secrets: &[&str], mail: Option<usize>, calendar: Option<usize>) {
        let secrets: Vec<Secret> = secrets.iter().map(|secret| (*secret).into()).collect();
        for (stream, wanted) in [(MESSAGES, mail), (EVENTS, calendar)] {
            let picked = source.secret(&stream.into(), &secrets).map(Secret::expose);
            assert_eq!(picked, wanted.map(|at| secrets[at].expose()), "{stream}");
        }
    }
    let plain = r#"{"audience":"https://h.example/x","email":"a@b.example"}"#;
    let topic = r#"{"audience":"https://h.example/x","email":"a@b.example","topic":"projects/q/topics/u"}"#;
    let channel = r#"{"channel_id":"c","resource_id":"r","token":"t"}"#;
    check(&GoogleSource::new(), &[plain, channel, KEY, topic], Some(3), Some(2));
    check(&GoogleSource::new(), &[plain, channel], None, None);
    check(&source(), &[channel, plain, topic], Some(1), None);
    check(&source(), &[KEY], None, Some(0));
    check(&source().mail_only(), &[topic, KEY], Some(0), None);
    check(&source(), &[], None, None);
    let ask = WatchAsk { secret: topic.into(), ..ask(MESSAGES, "c1", "https://h.example.test/x") };
    let request = source().watch(&site(None, 1), &ask).unwrap();
    assert_eq!(request.body(), r#"{"topicName":"projects/q/topics/u"}"#, "the endpoint's own topic comes first");
    let nowhere = WatchAsk { secret: plain.into(), ..ask };
    assert_eq!(GoogleSource::new().watch(&site(None, 1), &nowhere).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn a_mailbox_is_watched_through_its_topic() {
    let ask = ask(MESSAGES, "c1", "https://h.example.test/x");
    let request = source().watch(&site(None, 1), &ask).unwrap();
    assert_eq!(request.uri(), "https://gmail.googleapis.com/gmail/v1/users/me/watch");
    assert_eq!(request.body(), r#"{"topicName":"projects/p/topics/t"}"#);
    assert_eq!(request.extensions().get::<Call>().unwrap().operation.cost, 100);
    let answer = |body: &str| Response::new(Bytes::copy_from_slice(body.as_bytes()));
    for expiration in [json!("1767830400000"), json!(1_767_830_400_000_i64)] {
        let body = json!({ "historyId": "7", "expiration": expiration }).to_string();
        let watch = source().watched(&ask, &answer(&body)).unwrap();
        assert_eq!(watch.expires_at, Some(Timestamp(1_767_830_400_000)));
        let stop = source().unwatch(&site(None, 1), &watch).unwrap();
        assert_eq!(stop.uri(), "https://gmail.googleapis.com/gmail/v1/users/me/stop");
        assert_eq!(stop.headers()["content-length"], "0");
    }
    for bad in ["{}", "", r#"{"expiration":"soon"}"#] {
        assert_eq!(source().watched(&ask, &answer(bad)).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
    let bad = GoogleSource::new().notifying("t").watch(&site(None, 1), &ask);
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn a_calendar_is_watched_through_a_channel_with_a_derived_token() {
    let ask1 = ask(EVENTS, "c1", "https://h.example.test/x");
    let request = source().watch(&site(Some("team@group.example"), 1), &ask1).unwrap();
    assert_eq!(request.uri(), "https://www.googleapis.com/calendar/v3/calendars/team%40group.example/events/watch");
    let body: Value = serde_json::from_slice(request.body()).unwrap();
    let token = channel::token(&KEY.into(), "c1");
    assert_eq!(
        body,
        json!({ "id": "c1", "type": "web_hook", "address": "https://h.example.test/x", "token": token.expose(), "params": { "ttl": "604800" } })
    );
    let answer = |body: &str| Response::new(Bytes::copy_from_slice(body.as_bytes()));
    let body = r#"{"id":"c1","resourceId":"r1","expiration":"1767830400000"}"#;
    let watch = source().watched(&ask1, &answer(body)).unwrap();
    assert_eq!((watch.channel.as_deref(), watch.resource.as_deref()), (Some("c1"), Some("r1")));
    let stop = source().unwatch(&site(None, 1), &watch).unwrap();
    assert_eq!(stop.uri(), "https://www.googleapis.com/calendar/v3/channels/stop");
    assert_eq!(stop.body(), r#"{"id":"c1","resourceId":"r1"}"#);
    for bad in ["{}", r#"{"id":"c2","resourceId":"r"}"#, r#"{"id":"c1"}"#] {
        assert_eq!(source().watched(&ask1, &answer(bad)).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
    let unknown = Watch { stream: EVENTS.into(), channel: None, resource: None, expires_at: None };
    assert_eq!(source().unwatch(&site(None, 1), &unknown).unwrap_err().kind(), ErrorKind::Config);
    for (channel, address) in [
        ("", "https://h.example.test/x"),
        ("a b", "https://h.example.test/x"),
        (&"a".repeat(65), "https://h.example.test/x"),
        ("c1", "http://h.example.test/x"),
        ("c1", "https://"),
        ("c1", ""),
    ] {
        let refused = source().watch(&site(None, 1), &ask(EVENTS, channel, address));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Config, "{channel} {address}");
    }
}

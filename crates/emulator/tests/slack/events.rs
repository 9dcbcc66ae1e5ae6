//! What Slack sends: signed, once per event, retried with its reason, and only to whom it concerns.

use std::time::Duration;

use palisade_emulator::WebhookFaults;
use palisade_emulator::slack::{Seed, Unverified};
use serde_json::{Value, json};

use super::support::{ALL, Answer, App, HOOK, header, is_signed};

fn kinds(events: &[Value]) -> Vec<String> {
    let kind = |event: &Value| {
        let inner = &event["event"];
        let name = inner["subtype"].as_str().or(inner["type"].as_str());
        name.or(event["type"].as_str()).unwrap().to_owned()
    };
    events.iter().map(kind).collect()
}

async fn subscribed(events: &[&str]) -> App {
    let app = App::with(ALL).await;
    app.slack.subscribe(HOOK, events);
    app
}

#[tokio::test(start_paused = true)]
async fn everything_that_happens_is_told_once() {
    let app = subscribed(&["*"]).await;
    let channel = app.channel("tea");
    let ts = app.slack.post(&channel, "U1", "hi", None).unwrap();
    assert!(app.slack.edit(&channel, &ts, "ho"));
    let answer = app.slack.post(&channel, "U1", "answer", Some(&ts)).unwrap();
    assert!(app.slack.erase(&channel, &answer) && app.slack.erase(&channel, &ts));
    let own = app.good("chat.postMessage", &[("channel", &channel), ("text", "own")]).await;
    assert!(app.slack.rename_channel(&channel, "milk") && app.slack.invite(&channel, "U2"));
    let bob = app.slack.add_user("Bob");
    assert!(app.slack.deactivate_user(&bob));
    let new = app.slack.change_channel_id(&channel).unwrap();
    assert!(app.slack.archive_channel(&new, true) && app.slack.archive_channel(&new, false));
    assert!(app.slack.delete_channel(&new));
    app.slack.drain_webhooks().await;
    let got = app.receiver.take();
    let expected = "channel_created message message_changed message message_deleted message_deleted message channel_rename member_joined_channel team_join user_change channel_id_changed channel_archive channel_unarchive channel_deleted";
    assert_eq!(kinds(&got).join(" "), expected);
    let mut ids: Vec<&str> = got.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), got.len(), "each has its own identifier");
    let first = &got[1];
    assert_eq!((first["type"].as_str(), first["team_id"].as_str()), (Some("event_callback"), Some("T1")));
    assert_eq!(first["authorizations"][0]["user_id"], json!(app.slack.bot_user()));
    assert_eq!(
        (first["event"]["channel_type"].as_str(), first["event"]["ts"].as_str()),
        (Some("channel"), Some(ts.as_str()))
    );
    assert_eq!(
        (got[2]["event"]["message"]["text"].as_str(), got[2]["event"]["previous_message"]["text"].as_str()),
        (Some("ho"), Some("hi"))
    );
    assert_eq!(got[5]["event"]["deleted_ts"], json!(ts));
    let echo = &got[6]["event"];
    assert_eq!((echo["ts"].as_str(), echo["user"].as_str()), (own["ts"].as_str(), Some(app.slack.bot_user().as_str())));
    assert_eq!(got[11]["event"]["new_channel_id"], json!(new));
    assert_eq!(app.slack.ledger().webhooks.acked, 15);
}

#[tokio::test(start_paused = true)]
async fn nobody_hears_what_does_not_concern_them() {
    let app = subscribed(&["message.channels"]).await;
    let (inside, outside) = (app.channel("tea"), app.slack.create_channel("other", false, &["U1"]));
    let secret = app.slack.create_channel("secret", true, &["U1", &app.slack.bot_user()]);
    for channel in [&inside, &outside, &secret] {
        assert!(app.slack.post(channel, "U1", "x", None).is_some());
    }
    app.slack.drain_webhooks().await;
    let got = app.receiver.take();
    assert_eq!(got.len(), 1, "subscribed to public channels, a member of one");
    assert_eq!(got[0]["event"]["channel"], json!(inside));
    assert_eq!(app.slack.oauth().revoke_all(), 1);
    assert!(app.slack.post(&inside, "U1", "x", None).is_some());
    app.slack.drain_webhooks().await;
    assert!(app.receiver.take().is_empty(), "an app that is not installed hears nothing");
    app.slack.populate(&Seed::default());
    app.slack.drain_webhooks().await;
    assert!(app.receiver.take().is_empty(), "populating is no news");
}

#[tokio::test(start_paused = true)]
async fn an_event_is_signed_and_retried_with_its_reason() {
    let app = subscribed(&["team_join"]).await;
    app.receiver.will(&[Answer::Status(500), Answer::Refuse, Answer::Hang]);
    let begun = tokio::time::Instant::now();
    let _ = app.slack.add_user("Bob");
    app.slack.drain_webhooks().await;
    let got = app.receiver.take_raw();
    assert_eq!(got.len(), 4);
    assert!(got.iter().all(is_signed), "every attempt is signed for its own time");
    assert!(got.iter().all(|request| request.body() == got[0].body()));
    let retries: Vec<(&str, &str)> = got
        .iter()
        .map(|request| (header(request, "x-slack-retry-num"), header(request, "x-slack-retry-reason")))
        .collect();
    assert_eq!(retries, [("", ""), ("1", "http_error"), ("2", "connection_failed"), ("3", "http_timeout")]);
    assert_eq!(begun.elapsed(), Duration::from_secs(60 + 300 + 3), "at once, a minute, five minutes, and the time-out");
    let ages: Vec<i64> =
        got.iter().map(|request| header(request, "x-slack-request-timestamp").parse().unwrap()).collect();
    assert!(ages[3] - ages[0] >= 360);
    let ledger = app.slack.ledger().webhooks;
    assert_eq!((ledger.attempted, ledger.retried, ledger.acked, ledger.abandoned), (4, 3, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn retries_end_when_used_up_or_unwanted() {
    let app = subscribed(&["team_join"]).await;
    app.receiver.will(&[Answer::StopRetrying]);
    let _ = app.slack.add_user("Bob");
    app.slack.drain_webhooks().await;
    assert_eq!(app.receiver.take_raw().len(), 1, "the receiver said not to");
    app.receiver.will(&vec![Answer::Status(302); 4]);
    let _ = app.slack.add_user("Cid");
    app.slack.drain_webhooks().await;
    assert_eq!(app.receiver.take_raw().len(), 4);
    assert_eq!(app.slack.ledger().webhooks.abandoned, 2);
}

#[tokio::test(start_paused = true)]
async fn dials_forge_replay_double_and_drop() {
    let app = subscribed(&["team_join"]).await;
    let with = async |faults: WebhookFaults| {
        app.slack.faults().webhooks(faults);
        let _ = app.slack.add_user("Bob");
        app.slack.drain_webhooks().await;
        app.receiver.take_raw()
    };
    let forged = with(WebhookFaults { forge: 1.0, ..WebhookFaults::default() }).await;
    assert_eq!(forged.iter().filter(|request| is_signed(request)).count(), 1, "one true, one not");
    let replayed = with(WebhookFaults { replay: 1.0, ..WebhookFaults::default() }).await;
    let ages: Vec<i64> =
        replayed.iter().map(|request| header(request, "x-slack-request-timestamp").parse().unwrap()).collect();
    assert!(replayed.iter().all(is_signed) && (ages[0] - ages[1]).abs() == 3600);
    assert_eq!(with(WebhookFaults { duplicate: 1.0, ..WebhookFaults::default() }).await.len(), 2);
    assert!(with(WebhookFaults { drop: 1.0, ..WebhookFaults::default() }).await.is_empty());
    let ledger = app.slack.ledger().webhooks;
    assert_eq!((ledger.forged, ledger.forged_accepted, ledger.replayed_accepted), (1, 1, 1));
    assert_eq!((ledger.duplicated, ledger.dropped), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_address_must_give_the_challenge_back() {
    let app = App::with(ALL).await;
    for (answer, expected) in [
        (Answer::Challenge, Ok(())),
        (Answer::Body("something else".to_owned()), Err(Unverified::Challenge)),
        (Answer::Status(401), Err(Unverified::Status(401))),
        (Answer::Refuse, Err(Unverified::NoAnswer)),
        (Answer::Hang, Err(Unverified::NoAnswer)),
    ] {
        app.receiver.will(&[answer]);
        assert_eq!(app.slack.subscribe_verified(HOOK, &["team_join"]).await, expected);
        let asked = app.receiver.take_raw();
        assert!(is_signed(&asked[0]), "the handshake is signed too");
        let body: Value = serde_json::from_slice(asked[0].body()).unwrap();
        assert_eq!(body["type"], "url_verification");
    }
    let _ = app.slack.add_user("Bob");
    app.slack.drain_webhooks().await;
    assert_eq!(app.receiver.take().len(), 1, "the one that passed is subscribed");
}

#[tokio::test(start_paused = true)]
async fn parting_is_told() {
    let app = subscribed(&["tokens_revoked", "app_uninstalled"]).await;
    app.good("auth.revoke", &[]).await;
    app.slack.drain_webhooks().await;
    let got = app.receiver.take();
    assert_eq!(got[0]["event"]["tokens"]["bot"], json!([app.slack.bot_user()]));
    let again = App { token: app.install("scope", ALL, "access_token").await, ..app.clone() };
    again.good("apps.uninstall", &[("client_id", "1.2"), ("client_secret", "s")]).await;
    app.slack.drain_webhooks().await;
    let mut got = kinds(&app.receiver.take());
    got.sort_unstable();
    assert_eq!(got, ["app_uninstalled", "tokens_revoked"]);
    app.slack.rate_limit_events();
    app.slack.emit("app_uninstalled", &json!({ "type": "app_uninstalled" }));
    app.slack.drain_webhooks().await;
    assert_eq!(kinds(&app.receiver.take()), ["app_rate_limited"], "no other event once it is uninstalled");
}

#[tokio::test(start_paused = true)]
async fn commands_and_buttons_are_forms_and_can_be_answered_later() {
    let app = App::with(ALL).await;
    let channel = app.channel("tea");
    let url = "http://app.invalid/slack/commands";
    app.receiver.will(&[Answer::Body("{\"text\":\"on it\"}".to_owned())]);
    let answer = app.slack.command(url, "/tea", "two sugars & <milk>", "U1", &channel).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"{\"text\":\"on it\"}"[..]));
    let asked = app.receiver.take_raw().remove(0);
    assert!(is_signed(&asked) && header(&asked, "content-type") == "application/x-www-form-urlencoded");
    let fields = form(std::str::from_utf8(asked.body()).unwrap());
    assert_eq!((fields["command"].as_str(), fields["text"].as_str()), ("/tea", "two sugars & <milk>"));

    let respond = async |url: &str, body: Value| {
        let path = url.split_once("invalid").unwrap().1.to_owned();
        let request = http::Request::post(path).body(bytes::Bytes::from(body.to_string())).unwrap();
        app.slack.handle(request).await.unwrap().status().as_u16()
    };
    let later = fields["response_url"].clone();
    assert_eq!(respond(&later, json!({ "text": "for you alone" })).await, 200);
    assert!(app.slack.truth("messages").is_empty());
    for _ in 0..4 {
        assert_eq!(respond(&later, json!({ "text": "done", "response_type": "in_channel" })).await, 200);
    }
    assert_eq!(respond(&later, json!({ "text": "a sixth" })).await, 404, "five answers and no more");
    assert_eq!((app.slack.truth("messages").len(), app.slack.responses().len()), (4, 5));

    let ts = app.slack.truth("messages").into_keys().next().unwrap().split_once(':').unwrap().1.to_owned();
    app.slack.press(url, &channel, &ts, "U1", "approve", "42").await.unwrap();
    let asked = app.receiver.take_raw().remove(0);
    assert!(is_signed(&asked));
    let payload: Value = serde_json::from_str(&form(std::str::from_utf8(asked.body()).unwrap())["payload"]).unwrap();
    assert_eq!(
        (payload["type"].as_str(), payload["actions"][0]["value"].as_str()),
        (Some("block_actions"), Some("42"))
    );
    assert_eq!(payload["message"]["ts"], json!(ts));
    let later = payload["response_url"].as_str().unwrap();
    assert_eq!(respond(later, json!({ "replace_original": true, "text": "approved" })).await, 200);
    assert_eq!(app.slack.truth("messages")[&format!("{channel}:{ts}")]["text"], "approved");
    assert_eq!(respond(later, json!({})).await, 400);
    assert_eq!(respond(later, json!({ "delete_original": true })).await, 200);
    assert_eq!(app.slack.truth("messages").len(), 3);
    app.slack.pass(Duration::from_secs(30 * 60));
    assert_eq!(respond(later, json!({ "text": "late" })).await, 404, "half an hour and no longer");
    assert_eq!(respond("http://slack.invalid/commands/T1/unknown", json!({ "text": "x" })).await, 404);
    app.receiver.will(&[Answer::Hang]);
    assert!(app.slack.command(url, "/tea", "", "U1", &channel).await.is_none(), "three seconds and no longer");
}

fn form(text: &str) -> std::collections::BTreeMap<String, String> {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
    text.split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

#[tokio::test]
async fn events_and_calls_cross_the_socket() {
    use palisade_emulator::slack::{Slack, SlackConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let receiver = tokio::spawn(async move {
        let mut bodies = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.trim_end().ends_with('}') {
                let read = stream.read(&mut buffer).await.unwrap();
                text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
            let body = text.split_once("\r\n\r\n").unwrap().1.to_owned();
            let said: Value = serde_json::from_str(&body).unwrap();
            let answer = said["challenge"].as_str().unwrap_or("ok").to_owned();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", answer.len());
            stream.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
            bodies.push(said);
        }
        bodies
    });
    let slack = Slack::start(SlackConfig::default()).await.unwrap();
    let token = slack.install_forever(&["chat:write"]);
    slack.subscribe_verified(&url, &["message.channels"]).await.unwrap();
    let channel = slack.create_channel("tea", false, &[&slack.bot_user()]);
    let http = crate::oauth_client();
    let sent = http
        .post(format!("{}/api/chat.postMessage", slack.base_url()))
        .bearer_auth(token)
        .header("content-type", "application/json; charset=utf-8")
        .body(json!({ "channel": channel, "text": "hi" }).to_string())
        .send()
        .await
        .unwrap();
    let sent: Value = serde_json::from_slice(&sent.bytes().await.unwrap()).unwrap();
    assert_eq!(sent["ok"], true, "{sent}");
    let got = receiver.await.unwrap();
    assert_eq!(got[1]["event"]["ts"], sent["ts"]);
    slack.drain_webhooks().await;
    slack.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_control_plane_tells_the_same_stories() {
    let app = App::with(ALL).await;
    let control = async |method: &str, path: &str, body: Value| {
        let request = http::Request::builder().method(method).uri(format!("/_emulator/{path}"));
        let request = request.body(bytes::Bytes::from(body.to_string())).unwrap();
        let answer = app.slack.handle(request).await.unwrap();
        serde_json::from_slice::<Value>(answer.body()).unwrap()
    };
    control("POST", "populate", json!({ "users": 4, "channels": 2, "messages_per_channel": 6 })).await;
    assert_eq!(app.slack.truth("messages").len(), 3 * 6, "two public channels and the default's one private");
    control("POST", "subscribe", json!({ "url": HOOK, "events": ["*"] })).await;
    let made = control("POST", "mutate", json!({ "random": 8, "seed": 3 })).await;
    assert_eq!(made["changes"].as_array().unwrap().len(), 8);
    assert_eq!(control("GET", "waiting", Value::Null).await["deliveries"], 8);
    app.slack.drain_webhooks().await;
    assert_eq!(app.receiver.take().len(), 8);
    control("POST", "limits", json!({ "limits": true })).await;
    let mut last = 200;
    for _ in 0..21 {
        last = app.raw("users.list", &[]).await.status().as_u16();
    }
    assert_eq!(last, 429);
    assert!(control("POST", "mutate", json!("x")).await["error"].is_string());
}

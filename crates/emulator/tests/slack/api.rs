//! The Web API: what each method gives, what it refuses, page by page.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use palisade_emulator::slack::Seed;
use palisade_emulator::{Cut, Fault, RetryAfter};
use serde_json::{Value, json};

use super::support::{ALL, App};

type Args<'a> = &'a [(&'a str, &'a str)];

fn ts(value: &Value) -> &str {
    value["ts"].as_str().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_message_lives_from_post_to_delete() {
    let app = App::with(ALL).await;
    let channel = app.channel("tea");
    let blocks = json!([{ "type": "section", "text": { "type": "mrkdwn", "text": "*x*" } }]).to_string();
    let posted = app
        .good(
            "chat.postMessage",
            &[("channel", &channel), ("text", "hi & <b>"), ("blocks", &blocks), ("client_msg_id", "c-1")],
        )
        .await;
    assert_eq!(posted["channel"], json!(channel));
    assert_eq!(
        (posted["message"]["text"].as_str(), posted["message"]["client_msg_id"].as_str()),
        (Some("hi & <b>"), Some("c-1"))
    );
    assert_eq!(posted["message"]["blocks"][0]["type"], "section");
    assert!(posted["message"]["bot_id"].is_string());
    let by_name = app.good("chat.postMessage", &[("channel", "#tea"), ("text", "second")]).await;
    assert!(ts(&by_name) > ts(&posted), "identifiers rise");

    let changed = app.good("chat.update", &[("channel", &channel), ("ts", ts(&posted)), ("text", "bye")]).await;
    assert_eq!((changed["text"].as_str(), ts(&changed)), (Some("bye"), ts(&posted)));
    let history = app.good("conversations.history", &[("channel", &channel)]).await;
    let texts: Vec<&str> =
        history["messages"].as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["second", "bye"], "newest first");
    assert!(history["messages"][1]["edited"]["ts"].is_string());

    app.good("chat.delete", &[("channel", &channel), ("ts", ts(&posted))]).await;
    assert_eq!(app.bad("chat.delete", &[("channel", &channel), ("ts", ts(&posted))]).await, "message_not_found");
    assert_eq!(app.slack.truth("messages").len(), 1);
    let link = app.good("chat.getPermalink", &[("channel", &channel), ("message_ts", ts(&by_name))]).await;
    assert!(link["permalink"].as_str().unwrap().contains(&channel));
}

#[tokio::test(start_paused = true)]
async fn posting_is_refused_as_slack_refuses_it() {
    let app = App::with(ALL).await;
    let (open, secret) = (app.channel("tea"), app.slack.create_channel("secret", true, &["U1"]));
    let foreign = app.slack.create_channel("coffee", false, &["U1"]);
    let shut = app.channel("old");
    assert!(app.slack.archive_channel(&shut, true));
    let long = "x".repeat(40_001);
    let fifty_one = Value::Array(vec![json!({ "type": "divider" }); 51]).to_string();
    let cases: [(&[(&str, &str)], &str); 15] = [
        (&[("text", "x")], "channel_not_found"),
        (&[("channel", "C0NOWHERE"), ("text", "x")], "channel_not_found"),
        (&[("channel", &secret), ("text", "x")], "channel_not_found"),
        (&[("channel", &foreign), ("text", "x")], "not_in_channel"),
        (&[("channel", &shut), ("text", "x")], "is_archived"),
        (&[("channel", &open)], "no_text"),
        (&[("channel", &open), ("text", "  ")], "no_text"),
        (&[("channel", &open), ("text", &long)], "msg_too_long"),
        (&[("channel", &open), ("blocks", "{")], "invalid_blocks_format"),
        (&[("channel", &open), ("blocks", "{}")], "invalid_blocks_format"),
        (&[("channel", &open), ("blocks", "[{}]")], "invalid_blocks"),
        (&[("channel", &open), ("blocks", &fifty_one)], "invalid_blocks"),
        (&[("channel", &open), ("text", "x"), ("thread_ts", "1.000001")], "thread_not_found"),
        (&[("channel", &open), ("text", "x"), ("thread_ts", "soon")], "invalid_thread_ts"),
        (&[("channel", &open), ("text", "x"), ("metadata", "{")], "invalid_metadata_format"),
    ];
    for (args, word) in cases {
        assert_eq!(app.bad("chat.postMessage", args).await, word, "{args:?}");
    }
    let why = app.call("chat.postMessage", &[("channel", &open), ("blocks", "[{}]")]).await;
    assert!(why["response_metadata"]["messages"][0].as_str().unwrap().starts_with("[ERROR] "), "{why}");
    let other = app.slack.post(&open, "U1", "mine", None).unwrap();
    assert_eq!(
        app.bad("chat.update", &[("channel", &open), ("ts", &other), ("text", "x")]).await,
        "cant_update_message"
    );
    assert_eq!(app.bad("chat.delete", &[("channel", &open), ("ts", &other)]).await, "cant_delete_message");
    assert!(app.slack.truth("messages").len() == 1, "nothing but the person's own was written");
    let everywhere = App::with("chat:write,chat:write.public").await;
    let foreign = everywhere.slack.create_channel("coffee", false, &["U1"]);
    everywhere.good("chat.postMessage", &[("channel", &foreign), ("text", "x")]).await;
}

#[tokio::test(start_paused = true)]
async fn scopes_are_asked_for() {
    let app = App::with("chat:write,channels:read").await;
    let channel = app.channel("tea");
    let cases: [(&str, Args<'_>, &str); 7] = [
        ("users.list", &[], "users:read"),
        ("users.lookupByEmail", &[("email", "ada@example.com")], "users:read.email"),
        ("team.info", &[], "team:read"),
        ("conversations.history", &[("channel", &channel)], "channels:history"),
        ("conversations.list", &[("types", "public_channel,private_channel")], "groups:read"),
        ("conversations.list", &[("types", "im")], "im:read"),
        ("conversations.join", &[("channel", &channel)], "channels:join"),
    ];
    for (method, args, needed) in cases {
        let refused = app.call(method, args).await;
        assert_eq!(
            (refused["error"].as_str(), refused["needed"].as_str()),
            (Some("missing_scope"), Some(needed)),
            "{method}"
        );
        assert_eq!(refused["provided"], "chat:write,channels:read");
    }
    assert_eq!(app.bad("conversations.list", &[("types", "rooms")]).await, "invalid_types");
    let raw = app.raw("chat.postMessage", &[("channel", &channel), ("text", "x")]).await;
    assert_eq!(raw.headers()["x-oauth-scopes"], "chat:write,channels:read");
    assert_eq!(raw.headers()["x-accepted-oauth-scopes"], "chat:write");
    assert_eq!(app.call_as("", "users.list", &[]).await["error"], "invalid_auth");
    let no_email = App::with("users:read").await;
    let user = no_email.good("users.info", &[("user", "U1")]).await;
    assert!(user["user"]["profile"]["email"].is_null(), "the address needs its own scope");
}

#[tokio::test(start_paused = true)]
async fn lists_give_each_row_once_whatever_the_page_size() {
    let app = App::with(ALL).await;
    app.slack.populate(&Seed { users: 23, channels: 9, private_channels: 4, messages_per_channel: 17 });
    let channel = app.slack.truth("conversations").into_keys().next().unwrap();
    let lists: [(&str, &str, Args<'_>, usize); 5] = [
        ("users.list", "members", &[], 25),
        ("conversations.list", "channels", &[("types", "public_channel,private_channel")], 13),
        ("conversations.list", "channels", &[("types", "private_channel")], 4),
        ("users.conversations", "channels", &[], 9),
        ("conversations.members", "members", &[("channel", &channel)], 11),
    ];
    for (method, field, args, count) in lists {
        for limit in ["1", "2", "7", "1000"] {
            let mut args = args.to_vec();
            args.push(("limit", limit));
            let (rows, pages) = app.all(method, field, &args).await;
            let mut ids: Vec<&str> = rows.iter().map(|row| row["id"].as_str().or(row.as_str()).unwrap()).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!((rows.len(), ids.len()), (count, count), "{method} {limit}");
            assert!(limit != "1" || pages >= count);
        }
    }
    let first = app.good("conversations.list", &[("types", "private_channel"), ("limit", "3")]).await;
    assert_eq!(first["channels"], json!([]), "an empty page in the middle, because types are filtered after the cut");
    assert!(first["response_metadata"]["next_cursor"].as_str().unwrap().len() > 4);
    for (name, value, word) in [
        ("cursor", "nonsense", "invalid_cursor"),
        ("cursor", "dXNlcjpVMQ==", "invalid_cursor"),
        ("limit", "-1", "invalid_limit"),
        ("limit", "1001", "invalid_limit"),
        ("limit", "many", "invalid_limit"),
    ] {
        assert_eq!(app.bad("conversations.list", &[(name, value)]).await, word, "{name}={value}");
    }
    let page = app.good("conversations.list", &[("limit", "2")]).await;
    let cursor = page["response_metadata"]["next_cursor"].as_str().unwrap();
    let third = app.good("conversations.list", &[("limit", "1"), ("cursor", cursor)]).await;
    assert!(app.slack.delete_channel(third["channels"][0]["id"].as_str().unwrap()));
    let after = app.good("conversations.list", &[("limit", "1"), ("cursor", cursor)]).await;
    assert_ne!(after["channels"][0]["id"], third["channels"][0]["id"], "a cursor outlives the row it points at");
}

#[tokio::test(start_paused = true)]
async fn history_is_windowed_and_paged() {
    let app = App::with(ALL).await;
    let channel = app.channel("tea");
    let mut stamps = Vec::new();
    for number in 0..20 {
        stamps.push(app.slack.post(&channel, "U1", &format!("m{number}"), None).unwrap());
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    for limit in ["1", "2", "7", "999"] {
        let args = [("channel", channel.as_str()), ("limit", limit)];
        let (rows, _) = app.all("conversations.history", "messages", &args).await;
        let seen: Vec<&str> = rows.iter().map(ts).collect();
        let expected: Vec<&str> = stamps.iter().rev().map(String::as_str).collect();
        assert_eq!(seen, expected, "{limit}");
    }
    // oldest, latest, inclusive, the numbers that are there
    let cases: [(&str, &str, &str, std::ops::Range<usize>); 7] = [
        (&stamps[5], "", "false", 6..20),
        (&stamps[5], "", "true", 5..20),
        ("", &stamps[5], "false", 0..5),
        ("", &stamps[5], "1", 0..6),
        (&stamps[5], &stamps[8], "0", 6..8),
        (&stamps[5], &stamps[5], "0", 0..0),
        ("0", "9999999999", "0", 0..20),
    ];
    for (oldest, latest, inclusive, range) in cases {
        let args = [("channel", channel.as_str()), ("oldest", oldest), ("latest", latest), ("inclusive", inclusive)];
        let page = app.good("conversations.history", &args).await;
        let seen: Vec<&str> = page["messages"].as_array().unwrap().iter().rev().map(ts).collect();
        assert_eq!(seen, stamps[range].iter().map(String::as_str).collect::<Vec<_>>(), "{oldest} {latest} {inclusive}");
    }
    let page = app.good("conversations.history", &[("channel", &channel), ("limit", "3")]).await;
    assert_eq!(page["has_more"], true);
    assert_eq!(app.bad("conversations.history", &[("channel", &channel), ("oldest", "x")]).await, "invalid_ts_oldest");
    assert_eq!(app.bad("conversations.history", &[("channel", &channel), ("latest", "x")]).await, "invalid_ts_latest");
    let foreign = app.slack.create_channel("coffee", false, &["U1"]);
    assert_eq!(app.bad("conversations.history", &[("channel", &foreign)]).await, "not_in_channel");
    assert_eq!(app.bad("conversations.history", &[("channel", "C0")]).await, "channel_not_found");
    assert_eq!(app.bad("conversations.history", &[]).await, "invalid_arguments");
}

#[tokio::test(start_paused = true)]
async fn answers_stand_in_their_thread() {
    let app = App::with(ALL).await;
    let channel = app.channel("tea");
    let parent = app.slack.post(&channel, "U1", "question", None).unwrap();
    let answer = app.slack.post(&channel, "U1", "answer", Some(&parent)).unwrap();
    let args = [("channel", channel.as_str()), ("text", "deep"), ("thread_ts", &answer)];
    assert_eq!(app.good("chat.postMessage", &args).await["message"]["thread_ts"], json!(parent), "an answer's answer");
    let args = [("channel", channel.as_str()), ("text", "loud"), ("thread_ts", &parent), ("reply_broadcast", "true")];
    assert_eq!(app.good("chat.postMessage", &args).await["message"]["subtype"], "thread_broadcast");
    let history = app.good("conversations.history", &[("channel", &channel)]).await;
    let shown: Vec<&str> =
        history["messages"].as_array().unwrap().iter().map(|m| m["text"].as_str().unwrap()).collect();
    assert_eq!(shown, ["loud", "question"], "answers are apart, unless broadcast");
    let top = &history["messages"][1];
    assert_eq!((top["reply_count"].as_u64(), top["thread_ts"].as_str()), (Some(3), Some(parent.as_str())));
    for limit in ["1", "2", "1000"] {
        let args = [("channel", channel.as_str()), ("ts", parent.as_str()), ("limit", limit)];
        let (rows, _) = app.all("conversations.replies", "messages", &args).await;
        let texts: Vec<&str> = rows.iter().map(|message| message["text"].as_str().unwrap()).collect();
        assert_eq!(texts, ["question", "answer", "deep", "loud"], "{limit}");
    }
    assert_eq!(app.bad("conversations.replies", &[("channel", &channel), ("ts", "1.0")]).await, "thread_not_found");
    assert_eq!(app.bad("conversations.replies", &[("channel", &channel)]).await, "invalid_arguments");
    assert!(app.slack.erase(&channel, &parent));
    let left = app.good("conversations.history", &[("channel", &channel)]).await["messages"][1].clone();
    assert_eq!((left["subtype"].as_str(), left["user"].as_str()), (Some("tombstone"), Some("USLACKBOT")));
}

#[tokio::test(start_paused = true)]
async fn scheduled_messages_wait_for_their_time() {
    let app = App::with(ALL).await;
    let channel = app.channel("tea");
    let now = 1_795_305_600_i64;
    let at = |seconds: i64| (now + seconds).to_string();
    for (when, word) in
        [(at(0), "time_in_past"), (at(121 * 86_400), "time_too_far"), ("soon".to_owned(), "invalid_time")]
    {
        let args = [("channel", channel.as_str()), ("text", "x"), ("post_at", &when)];
        assert_eq!(app.bad("chat.scheduleMessage", &args).await, word);
    }
    let mut ids = Vec::new();
    for seconds in [60, 120] {
        let args = [("channel", channel.as_str()), ("text", "later"), ("post_at", &at(seconds))];
        let made = app.good("chat.scheduleMessage", &args).await;
        ids.push(made["scheduled_message_id"].as_str().unwrap().to_owned());
    }
    let waiting = app.good("chat.scheduledMessages.list", &[]).await;
    assert_eq!(waiting["scheduled_messages"].as_array().unwrap().len(), 2);
    let gone = [("channel", channel.as_str()), ("scheduled_message_id", ids[1].as_str())];
    app.good("chat.deleteScheduledMessage", &gone).await;
    assert_eq!(app.bad("chat.deleteScheduledMessage", &gone).await, "invalid_scheduled_message_id");
    assert!(app.slack.truth("messages").is_empty());
    app.slack.pass(Duration::from_secs(300));
    let messages = app.slack.truth("messages");
    assert_eq!(messages.len(), 1);
    assert!(messages.keys().next().unwrap().ends_with(&format!("{}.000000", now + 60)), "posted when it was due");
}

#[tokio::test(start_paused = true)]
async fn people_and_direct_messages() {
    let app = App::with(ALL).await;
    let bob = app.slack.add_user("Bob Stone");
    let found = app.good("users.lookupByEmail", &[("email", "BOB.stone@example.com")]).await;
    assert_eq!(found["user"]["id"], json!(bob));
    let opened = app.good("conversations.open", &[("users", &bob)]).await;
    let direct = opened["channel"]["id"].as_str().unwrap().to_owned();
    assert!(direct.starts_with('D'));
    assert_eq!(app.good("conversations.open", &[("users", &bob)]).await["already_open"], true);
    let sent = app.good("chat.postMessage", &[("channel", &bob), ("text", "hi")]).await;
    assert_eq!(sent["channel"], json!(direct), "a person as channel means the direct conversation");
    let info = app.good("conversations.info", &[("channel", &direct)]).await;
    assert_eq!(
        (info["channel"]["is_im"].as_bool(), info["channel"]["user"].as_str()),
        (Some(true), Some(bob.as_str()))
    );
    assert!(app.slack.deactivate_user(&bob));
    assert_eq!(app.bad("users.lookupByEmail", &[("email", "bob.stone@example.com")]).await, "users_not_found");
    assert_eq!(app.bad("conversations.open", &[("users", &bob)]).await, "user_disabled");
    assert_eq!(app.bad("users.info", &[("user", "U0")]).await, "user_not_found");
    let (rows, _) = app.all("users.list", "members", &[("limit", "2")]).await;
    let row = rows.iter().find(|row| row["id"] == json!(bob)).unwrap();
    assert_eq!((row["deleted"].as_bool(), row["tz"].is_null()), (Some(true), true), "gone, but listed");
    assert_eq!(app.good("team.info", &[]).await["team"]["name"], "Tea");
}

#[tokio::test(start_paused = true)]
async fn channels_are_joined_and_known() {
    let app = App::with(ALL).await;
    let channel = app.slack.create_channel("coffee", false, &["U1"]);
    assert_eq!(app.good("conversations.info", &[("channel", &channel)]).await["channel"]["is_member"], false);
    app.good("conversations.join", &[("channel", &channel)]).await;
    assert_eq!(app.good("conversations.join", &[("channel", &channel)]).await["warning"], "already_in_channel");
    let info = app.good("conversations.info", &[("channel", &channel), ("include_num_members", "1")]).await;
    assert_eq!(
        (info["channel"]["is_member"].as_bool(), info["channel"]["num_members"].as_u64()),
        (Some(true), Some(2))
    );
    assert!(app.slack.rename_channel(&channel, "espresso"));
    assert_eq!(
        app.good("conversations.info", &[("channel", &channel)]).await["channel"]["previous_names"],
        json!(["coffee"])
    );
    let (live, _) = app.all("conversations.list", "channels", &[("exclude_archived", "true")]).await;
    assert!(app.slack.archive_channel(&channel, true));
    let (left, _) = app.all("conversations.list", "channels", &[("exclude_archived", "true")]).await;
    assert_eq!(live.len(), left.len() + 1);
    assert_eq!(app.bad("conversations.join", &[("channel", &channel)]).await, "is_archived");
    let new = app.slack.change_channel_id(&channel).unwrap();
    assert_eq!(app.bad("conversations.info", &[("channel", &channel)]).await, "channel_not_found");
    assert_eq!(app.good("conversations.info", &[("channel", &new)]).await["channel"]["name"], "espresso");
    let secret = app.slack.create_channel("secret", true, &["U1"]);
    assert_eq!(app.bad("conversations.join", &[("channel", &secret)]).await, "method_not_supported_for_channel_type");
}

#[tokio::test(start_paused = true)]
async fn a_persons_token_sees_what_the_person_sees() {
    let app = App::with(ALL).await;
    let secret = app.slack.create_channel("secret", true, &["U1"]);
    assert_eq!(app.bad("conversations.info", &[("channel", &secret)]).await, "channel_not_found");
    let person = app.install("user_scope", "groups:read,groups:history,chat:write", "access_token").await;
    let seen = app.call_as(&person, "conversations.info", &[("channel", &secret)]).await;
    assert_eq!(seen["channel"]["is_member"], true);
    let posted = app.call_as(&person, "chat.postMessage", &[("channel", &secret), ("text", "mine")]).await;
    assert_eq!((posted["message"]["user"].as_str(), posted["message"]["bot_id"].as_str()), (Some("U1"), None));
}

#[tokio::test(start_paused = true)]
async fn bodies_come_as_form_or_json() {
    let app = App::with(ALL).await;
    let channel = app.channel("tea");
    let send = async |kind: &str, body: String| {
        let request = Request::post("/api/chat.postMessage")
            .header("content-type", kind)
            .header("authorization", format!("Bearer {}", app.token));
        let answer = app.slack.handle(request.body(Bytes::from(body)).unwrap()).await.unwrap();
        serde_json::from_slice::<Value>(answer.body()).unwrap()
    };
    let body = json!({ "channel": channel, "text": "x", "blocks": [{ "type": "divider" }], "unfurl_links": false });
    let plain = send("application/json; charset=utf-8", body.to_string()).await;
    assert_eq!((plain["message"]["blocks"][0]["type"].as_str(), plain["warning"].as_str()), (Some("divider"), None));
    assert_eq!(send("application/json", body.to_string()).await["warning"], "missing_charset");
    assert_eq!(send("application/json", "[".to_owned()).await["error"], "invalid_json");
    assert_eq!(send("text/plain", "x".to_owned()).await["error"], "invalid_post_type");
}

#[tokio::test(start_paused = true)]
async fn dials_turn_here_too() {
    let app = App::with(ALL).await;
    let channel = app.channel("tea");
    let post = async || {
        let body = format!("channel={channel}&text=x");
        let request = Request::post("/api/chat.postMessage")
            .header("authorization", format!("Bearer {}", app.token))
            .body(Bytes::from(body))
            .unwrap();
        app.slack.handle(request).await
    };
    let count = || app.slack.truth("messages").len();
    let next = |fault: Fault| app.slack.faults().next("POST /api/chat.postMessage", [fault]);
    next(Fault::Throttle(RetryAfter::Seconds(30)));
    let over = post().await.unwrap();
    assert_eq!((over.status().as_u16(), over.headers()["retry-after"].to_str().unwrap()), (429, "30"));
    next(Fault::Refuse("ratelimited".to_owned()));
    let inside = post().await.unwrap();
    assert_eq!((inside.status().as_u16(), &inside.body()[..]), (200, &br#"{"error":"ratelimited","ok":false}"#[..]));
    next(Fault::Status(503));
    assert_eq!((post().await.unwrap().status().as_u16(), count()), (503, 0));
    next(Fault::ResetAfter);
    assert_eq!((post().await.unwrap_err(), count()), (Cut::Reset, 1), "posted although nobody heard of it");
    next(Fault::Html);
    assert!(post().await.unwrap().body().starts_with(b"<html>"));
    assert_eq!(count(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_world() {
    let run = async || {
        let app = App::with(ALL).await;
        app.slack.populate(&Seed::default());
        let mut dice = Counting(7);
        let changes: Vec<&str> = (0..50).map(|_| app.slack.random_mutation(&mut dice)).collect();
        (changes, app.slack.truth("messages"), app.slack.truth("users"), app.slack.truth("conversations"))
    };
    let (one, two) = (run().await, run().await);
    assert_eq!(one, two);
    for kind in ["message", "message_changed", "message_deleted", "reply", "user_change"] {
        assert!(one.0.contains(&kind), "{kind}: {:?}", one.0);
    }
}

/// A source of numbers that is the same in every run.
struct Counting(u64);

impl rand::TryRng for Counting {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|number| (number >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            *byte = (self.try_next_u64()? >> 56) as u8;
        }
        Ok(())
    }
}

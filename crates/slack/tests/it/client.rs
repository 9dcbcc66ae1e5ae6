//! The typed client: what goes out is what the official SDK sends, and what comes back is read field by field.

use futures_util::{StreamExt, TryStreamExt};
use palisade_core::call::Priority;
use palisade_core::{ErrorKind, Outcome, Replay, Secret, Timestamp};
use palisade_slack::client::NewMessage;
use palisade_slack::{Slack, error};
use serde_json::{Value, json};
use slack_morphism::prelude::*;

use super::fake::{Clients as _, Fake, answering, call, pairs};

const POSTED: &str = r#"{"ok":true,"channel":"C1","ts":"1.000001","message":{"blocks":[{"type":"from_the_future"}]}}"#;

#[tokio::test]
async fn the_other_calls_send_what_they_say() {
    #[track_caller]
    fn sent(fake: &Fake, method: &str, expected: Value) {
        let request = fake.only();
        assert_eq!(request.uri().path(), format!("/api/{method}"));
        assert_eq!(serde_json::from_slice::<Value>(request.body()).unwrap(), expected);
        assert_eq!(call(&request).operation.name, method);
    }
    let fake = answering(&[POSTED]);
    let to = palisade_slack::client::Posted::clone(
        &answering(&[POSTED]).client().post("C1", &NewMessage::new("a")).await.unwrap(),
    );
    let reply = NewMessage::new("b").broadcast().without_previews().metadata("deploy", &json!({"id": 7}));
    fake.client().reply(&to, &reply).await.unwrap();
    sent(
        &fake,
        "chat.postMessage",
        json!({"channel": "C1", "text": "b", "thread_ts": "1.000001", "reply_broadcast": true,
        "unfurl_links": false, "unfurl_media": false, "metadata": {"event_type": "deploy", "event_payload": {"id": 7}}}),
    );

    let fake = answering(&[POSTED]);
    fake.client().update("C1", "1.000001", &NewMessage::new("c").in_thread("0.5")).await.unwrap();
    sent(&fake, "chat.update", json!({"channel": "C1", "ts": "1.000001", "text": "c"}));

    let fake = answering(&[r#"{"ok":true}"#]);
    fake.client().delete("C1", "1.000001").await.unwrap();
    sent(&fake, "chat.delete", json!({"channel": "C1", "ts": "1.000001"}));

    let fake = answering(&[r#"{"ok":true,"channel":"C1","scheduled_message_id":"Q1","post_at":1767225600}"#]);
    let at = Timestamp::from_seconds(1_767_225_600);
    let scheduled = fake.client().schedule("C1", &NewMessage::new("d"), at).await.unwrap();
    assert_eq!((scheduled.id.as_str(), scheduled.post_at), ("Q1", 1_767_225_600));
    sent(&fake, "chat.scheduleMessage", json!({"channel": "C1", "text": "d", "post_at": 1_767_225_600}));

    let fake = answering(&[r#"{"ok":true}"#]);
    fake.client().unschedule("C1", "Q1").await.unwrap();
    sent(&fake, "chat.deleteScheduledMessage", json!({"channel": "C1", "scheduled_message_id": "Q1"}));

    let fake = answering(&[r#"{"ok":true,"channel":{"id":"D1"}}"#]);
    assert_eq!(fake.client().open_dm(&["U1", "U2"]).await.unwrap(), "D1");
    sent(&fake, "conversations.open", json!({"users": "U1,U2"}));

    let fake = answering(&[
        r#"{"ok":true,"url":"https://x.slack.com/","team":"X","team_id":"T1","user_id":"U1","bot_id":"B1"}"#,
    ]);
    let identity = fake.client().in_background().identity().await.unwrap();
    assert_eq!((identity.team_id.as_deref(), identity.bot_id.as_deref()), (Some("T1"), Some("B1")));
    assert_eq!(call(&fake.only()).priority, Priority::Background);

    let fake = answering(&[r#"{"ok":true,"user":{"id":"U1","deleted":false,"profile":{"email":"ada@x.example"}}}"#]);
    let user = fake.client().user_by_email("ada@x.example").await.unwrap();
    assert_eq!((user.id.as_str(), user.email.as_deref()), ("U1", Some("ada@x.example")));
    assert_eq!(pairs(fake.only().body()), [("email".to_owned(), "ada@x.example".to_owned())]);

    let fake = answering(&["ok"]);
    let url = Secret::from("https://hooks.slack.com/commands/T1/1/abc");
    fake.client().respond(&url, &NewMessage::new("done"), true).await.unwrap();
    let request = fake.only();
    assert_eq!((request.uri().to_string().as_str(), call(&request).operation.name), (url.expose(), "hook"));
    assert_eq!(
        serde_json::from_slice::<Value>(request.body()).unwrap(),
        json!({"text": "done", "response_type": "in_channel"})
    );
    assert!(!format!("{:?}", call(&request)).contains("abc"), "whoever knows the address may write there");
}

/// Fails when a message is sent that Slack is known to refuse, or when the person is not told why.
#[tokio::test]
async fn a_message_slack_would_refuse_is_refused_before_it_is_sent() {
    let fake = answering(&[]);
    let slack = fake.client();
    let long = NewMessage::new("ß".repeat(40_001));
    let many = (0..51).fold(NewMessage::new("x"), |message, _| message.block(json!({"type": "divider"})));
    for (channel, message, shown) in [
        ("C1", &long, true),
        ("C1", &many, true),
        ("C1", &NewMessage::new(""), true),
        ("", &NewMessage::new("x"), false),
    ] {
        let error = slack.post(channel, message).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Invalid, Outcome::NotSent));
        assert_eq!(error.user_message().contains("message"), shown, "{}", error.user_message());
    }
    assert!(fake.seen().is_empty());
    let fits = answering(&[POSTED]);
    fits.client().post("C1", &NewMessage::new("ß".repeat(40_000))).await.unwrap();
}

/// Fails when an answer that came and cannot be read hides that the message was sent.
#[tokio::test]
async fn a_write_whose_answer_cannot_be_read_has_happened() {
    for (body, outcome) in [
        (r#"{"ok":true,"channel":"C1"}"#, Outcome::Processed),
        (r#"{"ok":true,"channel":"C1","ts":1}"#, Outcome::Processed),
        (r#"{"ok":true,"channel":"C1","ts":"1.0"#, Outcome::Processed),
        (r#"{"ok":tr"#, Outcome::Unknown),
        ("<html>", Outcome::Unknown),
        ("", Outcome::Unknown),
    ] {
        let fake = answering(&[body]);
        let error = fake.client().post("C1", &NewMessage::new("secret text")).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Decode, outcome), "{body}");
        assert!(!format!("{error} {error:?}").contains("secret text"));
    }
    let fake = answering(&[r#"{"ok":true}"#]);
    let error = fake.client().identity().await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Decode, Outcome::Rejected), "a read did nothing");
}

fn page(key: &str, items: Value, cursor: Option<&str>) -> String {
    json!({"ok": true, key: items, "response_metadata": {"next_cursor": cursor.unwrap_or_default()}, "new_field": [1]})
        .to_string()
}

/// Fails when a short or empty page ends a list, or the second page forgets what the first asked for.
#[tokio::test]
async fn lists_are_streams_that_go_on_until_there_is_no_cursor() {
    let message = |ts: &str| json!({"ts": ts, "text": "x", "user": "U1", "edited": {"user": "U1", "ts": "9.0"}, "blocks": [{"type": "new"}]});
    let fake = answering(&[
        &page("messages", json!([message("3.000003")]), Some("a=")),
        &page("messages", json!([]), Some("b=")),
        &page("messages", json!([message("2.000002"), message("1.000001")]), None),
    ]);
    let slack = fake.client();
    let messages: Vec<_> = slack.history("C1", None, Some("4.0")).try_collect().await.unwrap();
    assert_eq!(
        messages.iter().map(|message| message.ts.as_str()).collect::<Vec<_>>(),
        ["3.000003", "2.000002", "1.000001"]
    );
    assert_eq!(messages[0].edited.as_deref(), Some("9.0"));
    assert!(messages[0].full().is_ok(), "a block yet unknown is kept as it is");
    let sent: Vec<_> = fake.seen().iter().map(|request| pairs(request.body())).collect();
    let own = |cursor: Option<&str>| {
        let mut own: Vec<_> = [("channel", "C1"), ("inclusive", "0"), ("latest", "4.0"), ("limit", "200")]
            .into_iter()
            .chain(cursor.map(|cursor| ("cursor", cursor)))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect();
        own.sort();
        own
    };
    assert_eq!(sent, [own(None), own(Some("a=")), own(Some("b="))]);

    let fake = answering(&[&page("members", json!([{"id": "U1"}]), Some("a")), &page("members", json!([]), Some("a"))]);
    let slack = fake.client();
    let mut users = slack.users();
    assert_eq!(users.next().await.unwrap().unwrap().id, "U1");
    assert_eq!(users.next().await.unwrap().unwrap_err().kind(), ErrorKind::Decode, "a list that does not advance");
    assert!(users.next().await.is_none(), "the first error ends it");
    assert_eq!(fake.seen().len(), 2);

    let fake = answering(&[r#"{"ok":true,"messages":[{"text":"no ts"}]}"#]);
    let slack = fake.client();
    assert_eq!(slack.replies("C1", "1.0").next().await.unwrap().unwrap_err().kind(), ErrorKind::Decode);
}

#[tokio::test]
async fn a_message_is_found_by_the_id_it_was_given() {
    let messages = json!([{"ts": "3.0", "text": "a"}, {"ts": "2.0", "text": "b", "client_msg_id": "mine"}]);
    let fake = answering(&[&page("messages", messages.clone(), None), &page("messages", messages, None)]);
    let slack = fake.client();
    let since = Timestamp::from_seconds(1);
    assert_eq!(slack.find_sent("C1", "mine", since).await.unwrap().unwrap().ts, "2.0");
    assert!(slack.find_sent("C1", "other", since).await.unwrap().is_none());
    assert!(pairs(fake.seen()[0].body()).contains(&("oldest".to_owned(), "1.000000".to_owned())));
}

/// Fails when one of slack-morphism's calls goes around the pipeline, or a name stands in an address.
#[tokio::test]
async fn the_whole_library_runs_over_the_transport() {
    let fake = answering(&[
        r#"{"ok":true,"user":{"id":"U1"}}"#,
        r#"{"ok":true,"channel":"C1","ts":"1.0","message":{"ts":"1.0"}}"#,
        r#"{"ok":false,"error":"already_reacted"}"#,
        r#"{"ok":true}"#,
        "OK - 2",
        "ok",
    ]);
    let slack = fake.client();
    let session = slack.session();
    session.users_info(&SlackApiUsersInfoRequest::new("U1".into())).await.unwrap();
    let content = SlackMessageContent::new().with_text("x".into());
    session.chat_post_message(&SlackApiChatPostMessageRequest::new("C1".into(), content.clone())).await.unwrap();
    let reaction = SlackApiReactionsAddRequest::new("C1".into(), "eyes".into(), "1.0".into());
    let refused = session.reactions_add(&reaction).await.map_err(error::of).unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (ErrorKind::Conflict, Some("already_reacted")));
    session.api_test(&SlackApiTestRequest::new()).await.unwrap();
    let upload = SlackApiFilesUploadViaUrlRequest::new(
        url::Url::parse("https://files.slack.com/upload/v1/abc").unwrap().into(),
        vec![1, 2],
        "text/plain".into(),
    );
    session.files_upload_via_url(&upload).await.unwrap();
    let hook = url::Url::parse("https://hooks.slack.com/services/T1/B1/abc").unwrap();
    session
        .http_session_api
        .client
        .post_webhook_message(&hook, &SlackApiPostWebhookMessageRequest::new(content))
        .await
        .unwrap();
    let seen = fake.seen();
    let told: Vec<_> = seen
        .iter()
        .map(|request| (call(request).operation.name, request.uri().path(), request.uri().query()))
        .collect();
    assert_eq!(
        told,
        [
            ("users.info", "/api/users.info", None),
            ("chat.postMessage", "/api/chat.postMessage", None),
            ("reactions.add", "/api/reactions.add", None),
            ("api.test", "/api/api.test", Some("")),
            ("upload", "/upload/v1/abc", None),
            ("hook", "/services/T1/B1/abc", None),
        ]
    );
    assert_eq!(pairs(seen[0].body()), [("user".to_owned(), "U1".to_owned())]);
    assert_eq!(call(&seen[1]).lane.as_deref(), Some("C1"), "messages are limited by channel");
    assert_eq!(call(&seen[0]).lane, None);
    assert!(seen.iter().all(|request| !request.headers().contains_key("authorization")));
}

#[tokio::test]
async fn a_session_cannot_install_an_app() {
    let slack = answering(&[]).client();
    let code = SlackOAuthV2AccessTokenRequest::new(
        "1.2".to_owned().into(),
        "secret".to_owned().into(),
        "code".to_owned().into(),
    );
    let error = error::of(slack.session().http_session_api.client.oauth2_access(&code).await.unwrap_err());
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent));
}

/// Fails when one unknown method waits for another, or when a name that is none reaches an address.
#[tokio::test]
async fn any_method_can_be_called_by_its_name() {
    let fake = answering(&[r#"{"ok":true,"x":1}"#]);
    let value: Value = fake.client().call("admin.users.list", &json!({"team_id": "T1"})).await.unwrap();
    assert_eq!(value["x"], 1);
    let request = fake.only();
    assert_eq!((call(&request).operation.name, call(&request).lane.as_deref()), ("other", Some("admin.users.list")));
    assert_eq!(call(&request).operation.replay, Replay::Never);
    for name in ["", "../x", "chat/delete", "a?b", "a#b", "a b", "é"] {
        let error = answering(&[]).client().call::<Value>(name, &json!({})).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Invalid, Outcome::NotSent), "{name}");
    }
}

#[tokio::test]
async fn an_address_of_its_own_keeps_the_methods() {
    let fake = answering(&[r#"{"ok":true,"members":[]}"#]);
    let slack: Slack = fake.client().at("http://127.0.0.1:7/").unwrap();
    assert!(slack.users().next().await.is_none());
    assert_eq!(fake.only().uri().to_string(), "http://127.0.0.1:7/api/users.list");
    assert_eq!(call(&fake.only()).operation.name, "users.list");
    for bad in ["", "slack.com", "/api", "https://slack.com/?x=1"] {
        assert_eq!(fake.client().at(bad).unwrap_err().kind(), ErrorKind::Config, "{bad}");
    }
    assert!(!format!("{:?}", fake.client()).contains("token"));
}

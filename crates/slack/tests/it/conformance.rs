//! Slack as a subject of the kit.

use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderMap, HeaderValue, Method};
use palisade_core::auth::Scheme;
use palisade_core::client::Repeat;
use palisade_core::webhook::{RawDelivery, hmac};
use palisade_core::{ErrorKind, Outcome, Result, Secret, Transport};
use palisade_slack::client::{HistoryRule, NewMessage};
use palisade_slack::{Slack, SlackProvider, operation};
use palisade_testkit::conformance::{
    self, Ask, Handshake, Hook, Meaning, NOW, Rate, Sample, Stage, Stream, Subject, Vector,
};
use palisade_testkit::fake::{Said, answer};
use serde_json::Value;
use slack_morphism::prelude::*;
use std::sync::Arc;
use std::time::Duration;

use super::stage::SlackStage;

#[tokio::test(start_paused = true)]
async fn keeps_every_promise_of_the_kit() {
    conformance::prove(&subject(), option_env!("CARGO_TARGET_TMPDIR")).await;
}

const SECRETS: [&str; 2] = ["8f742231b10e8888abcd99yyyzzz85a5", "another_signing_secret_of_32_let."];

/// Signs as Slack's documentation says: `v0:{time}:{body}` with HMAC-SHA256, in lower-case hexadecimal.
fn signed(ask: &Ask<'_>) -> RawDelivery {
    let time = ask.at.seconds().to_string();
    let code = hmac::sha256(SECRETS[ask.secret].as_bytes(), &[b"v0:", time.as_bytes(), b":", ask.content]);
    let mut headers = HeaderMap::new();
    headers.insert("x-slack-signature", format!("v0={}", hmac::to_lower_hex(&code)).parse().unwrap());
    headers.insert("x-slack-request-timestamp", HeaderValue::from_str(&time).unwrap());
    let body = Bytes::copy_from_slice(ask.content);
    RawDelivery { method: Method::POST, url: "https://hooks.example.test/slack".into(), headers, body }
}

fn hook(name: &'static str, one: &'static str, other: &'static str) -> Hook {
    Hook::new(name, SECRETS.map(Secret::from), signed)
        .about(one, other)
        .signed_by(&["x-slack-signature", "x-slack-request-timestamp"])
        .window(300, 300)
}

const EVENT: &str = r#"{"token":"z","team_id":"T1","api_app_id":"A1","event":{"type":"message","channel":"C1","user":"U1","text":"héllo ☃","ts":"1767225599.000100","event_ts":"1767225599.000100","channel_type":"channel"},"type":"event_callback","event_id":"Ev1","event_time":1767225599,"authorizations":[{"enterprise_id":null,"team_id":"T1","user_id":"UBOT","is_bot":true,"is_enterprise_install":false}]}"#;
const CHANGED: &str = r#"{"team_id":"T1","api_app_id":"A1","event":{"type":"message","subtype":"message_changed","channel":"C1","message":{"user":"U1","text":"b","ts":"1767225599.000100","edited":{"user":"U1","ts":"1767225600.000000"}},"ts":"1767225600.000200"},"type":"event_callback","event_id":"Ev2","event_time":1767225600}"#;
const COMMAND: &str = "team_id=T1&channel_id=C1&user_id=U1&command=%2Fdeploy&text=a+b%21&response_url=https%3A%2F%2Fhooks.slack.com%2Fx&trigger_id=13.4.5";
const OTHER_COMMAND: &str = "team_id=T1&channel_id=C1&user_id=U1&command=%2Fdeploy&text=a+b%21&response_url=https%3A%2F%2Fhooks.slack.com%2Fx&trigger_id=13.4.6";
const PRESSED: &str = "payload=%7B%22type%22%3A%22block_actions%22%2C%22team%22%3A%7B%22id%22%3A%22T1%22%7D%2C%22user%22%3A%7B%22id%22%3A%22U1%22%7D%2C%22trigger_id%22%3A%227.8.9%22%7D";
const OTHER_PRESSED: &str = "payload=%7B%22type%22%3A%22block_actions%22%2C%22team%22%3A%7B%22id%22%3A%22T1%22%7D%2C%22user%22%3A%7B%22id%22%3A%22U1%22%7D%2C%22trigger_id%22%3A%227.8.10%22%7D";
const VERIFICATION: &[u8] = br#"{"token":"z","challenge":"3eZbrw1a<script>","type":"url_verification"}"#;

fn handshake(content: &'static [u8], body: &'static [u8]) -> Handshake {
    let delivery = signed(&Ask { content, secret: 0, at: NOW });
    Handshake { delivery, secret: SECRETS[0].into(), status: 200, body }
}

fn slack(transport: Arc<dyn Transport>) -> Slack {
    Slack::new(transport, "conn_1", "tenant_1")
}

const POSTED: &str = r#"{"ok":true,"channel":"C1","ts":"1.000001","message":{"blocks":[{"type":"from_the_future"}]}}"#;

fn calls() -> Vec<Sample> {
    let file: Value = serde_json::from_str(include_str!("../fixtures/sdk_wire.json")).unwrap();
    let wire = |name: &str| &file["requests"][name];
    vec![
        Sample::new("chat.postMessage", |transport| async move {
            let blocks: Vec<SlackBlock> = slack_blocks![SlackSectionBlock::new().with_text(md!("*x*"))];
            let message = NewMessage::new("hi & <b>").client_msg_id("00000000-0000-4000-8000-000000000001");
            slack(transport).post("C1", &message.blocks(blocks)?).await
        })
        .answered(200, POSTED)
        .recorded(wire("chat_postMessage")),
        Sample::new(
            "chat.postMessage",
            |transport| async move { slack(transport).post("C0", &NewMessage::new("x")).await },
        )
        .answered(200, refusal("channel_not_found"))
        .recorded(wire("error_200"))
        .refused(),
        Sample::new("conversations.list", |transport| async move {
            let all: Result<Vec<_>> =
                slack(transport).conversations("public_channel,private_channel", false).try_collect().await;
            all
        })
        .answered(200, r#"{"ok":true,"channels":[],"response_metadata":{"next_cursor":"abc="}}"#)
        .answered(200, r#"{"ok":true,"channels":[{"id":"C1","name":"general"}]}"#)
        .recorded(wire("conversations_list")),
        Sample::new("users.list", |transport| async move {
            let all: Result<Vec<_>> = slack(transport).users().try_collect().await;
            all
        })
        .answered(200, r#"{"ok":true,"members":[{"id":"U1","name":"ada"}]}"#)
        .recorded(wire("users_list")),
        Sample::new("conversations.history", |transport| async move {
            let slack = slack(transport).reading(HistoryRule::Limited);
            let all: Result<Vec<_>> = slack.history("C1", Some("1700000000.000100"), None).try_collect().await;
            all
        })
        .answered(200, r#"{"ok":true,"messages":[]}"#)
        .recorded(wire("conversations_history"))
        .refused(),
        Sample::new("conversations.history", |transport| async move {
            let all: Result<Vec<_>> = slack(transport).history("C1", None, None).try_collect().await;
            all
        })
        .answered(200, r#"{"ok":true,"messages":[{"type":"message","ts":"1.000001","text":"x","user":"U1"}]}"#),
        Sample::new("chat.update", |transport| async move {
            slack(transport).update("C1", "1.000001", &NewMessage::new("c")).await
        })
        .answered(200, POSTED),
        Sample::new("chat.delete", |transport| async move { slack(transport).delete("C1", "1.000001").await })
            .answered(200, r#"{"ok":true,"channel":"C1","ts":"1.000001"}"#),
        Sample::new("auth.test", |transport| async move { slack(transport).identity().await }).answered(
            200,
            r#"{"ok":true,"url":"https://x.slack.com/","team":"X","team_id":"T1","user_id":"U1","bot_id":"B1"}"#,
        ),
    ]
}

fn refusal(code: &str) -> String {
    format!(r#"{{"ok":false,"error":"{code}","channel":"ada@example.com"}}"#)
}

/// The documented codes, which come with status 200, and what machines in between answer.
fn meanings() -> Vec<Meaning> {
    use ErrorKind as K;
    use Outcome::{Processed, Rejected, Unknown};
    let (always, if_safe) = (Said::Failed(Repeat::Always), Said::Failed(Repeat::IfSafe));
    let never = Said::Failed(Repeat::Never);
    let coded = [
        ("token_expired", Said::Unauthorized, K::Auth, Rejected),
        ("invalid_auth", Said::Unauthorized, K::Auth, Rejected),
        ("token_revoked", Said::Unauthorized, K::Auth, Rejected),
        ("not_authed", Said::Unauthorized, K::Auth, Rejected),
        ("account_inactive", never, K::Auth, Rejected),
        ("missing_scope", never, K::Permission, Rejected),
        ("not_allowed_token_type", never, K::Permission, Rejected),
        ("not_in_channel", never, K::Permission, Rejected),
        ("restricted_action", never, K::Permission, Rejected),
        ("restricted_action_thread_locked", never, K::Permission, Rejected),
        ("posting_to_general_channel_denied", never, K::Permission, Rejected),
        ("ekm_access_denied", never, K::Permission, Rejected),
        ("cant_update_message", never, K::Permission, Rejected),
        ("ratelimited", Said::Throttled, K::Throttled, Rejected),
        ("rate_limited", Said::Throttled, K::Throttled, Rejected),
        ("message_limit_exceeded", Said::Throttled, K::Throttled, Rejected),
        ("channel_not_found", never, K::NotFound, Rejected),
        ("user_not_found", never, K::NotFound, Rejected),
        ("message_not_found", never, K::NotFound, Rejected),
        ("team_not_found", never, K::NotFound, Rejected),
        ("is_archived", never, K::Conflict, Rejected),
        ("already_reacted", never, K::Conflict, Rejected),
        ("name_taken", never, K::Conflict, Rejected),
        ("invalid_cursor", never, K::CursorExpired, Rejected),
        ("msg_too_long", never, K::Invalid, Rejected),
        ("no_text", never, K::Invalid, Rejected),
        ("invalid_blocks", never, K::Invalid, Rejected),
        ("time_in_past", never, K::Invalid, Rejected),
        ("a_code_of_tomorrow", never, K::Invalid, Rejected),
        ("unknown_method", never, K::Config, Rejected),
        ("request_timeout", always, K::Transport, Rejected),
        ("team_added_to_org", never, K::Provider, Rejected),
        ("internal_error", if_safe, K::Provider, Unknown),
        ("fatal_error", if_safe, K::Provider, Unknown),
        ("service_unavailable", if_safe, K::Provider, Unknown),
    ];
    let coded = coded
        .map(|(code, said, kind, outcome)| Meaning::new(200, refusal(code), said, kind).outcome(outcome).code(code));
    let deep = format!(r#"{{"ok":false,"x":{}"#, "[".repeat(100_000));
    let others = [
        (429, refusal("anything"), Said::Throttled, K::Throttled, Rejected),
        (500, refusal("channel_not_found"), if_safe, K::Provider, Unknown),
        (503, r#"{"ok":true}"#.to_owned(), if_safe, K::Provider, Unknown),
        (404, "<html>".to_owned(), never, K::Config, Rejected),
        (407, String::new(), never, K::Config, Rejected),
        (403, refusal("invalid_auth"), Said::Unauthorized, K::Auth, Rejected),
        (403, "blocked".to_owned(), never, K::Permission, Rejected),
        (200, "<html>ok</html>".to_owned(), if_safe, K::Decode, Unknown),
        (200, String::new(), if_safe, K::Decode, Unknown),
        (200, "[]".to_owned(), if_safe, K::Decode, Unknown),
        (200, r#"{"ok":"true"}"#.to_owned(), if_safe, K::Decode, Unknown),
        (200, r#"{"ok":true,"channel":"C1","ts"#.to_owned(), if_safe, K::Decode, Processed),
        (200, deep, if_safe, K::Decode, Unknown),
    ];
    let others = others
        .into_iter()
        .map(|(status, body, said, kind, outcome)| Meaning::new(status, body, said, kind).outcome(outcome));
    coded.into_iter().chain(others).map(|meaning| meaning.of("chat.postMessage")).collect()
}

/// A list whose pages may be short or empty; of messages those with answers stay, or their threads would be lost too.
fn stream(name: &'static str, key: &'static str) -> Stream {
    let emptied: fn(&Value) -> Value = match key {
        "members" => |page| without(page, "members"),
        "channels" => |page| without(page, "channels"),
        _ => |page| without(page, "messages"),
    };
    let stream = Stream::new(name, 200).emptied(emptied).expired(200, refusal("invalid_cursor"));
    match key {
        "members" => stream.makes_no_events("a list of people does not say when they changed"),
        "channels" => stream.makes_no_events("a list of conversations does not say what changed when"),
        _ => stream,
    }
}

fn without(page: &Value, key: &str) -> Value {
    let mut page = page.clone();
    if let Some(items) = page[key].as_array_mut() {
        items.retain(|item| item["reply_count"].as_u64().is_some());
    }
    page
}

const MINUTE: Duration = Duration::from_secs(60);

/// A method of the first tier, which an emulated workspace would not survive.
fn rarest_rate() -> Rate {
    Rate::new("apps.uninstall", 1, MINUTE, |transport, _| async move {
        slack(transport).ask::<Value>("apps.uninstall", &[]).await.map(drop)
    })
    .answered(200, r#"{"ok":true}"#)
}

/// A method of a tier (docs.slack.dev, rate limits, read November 2026).
fn method_rate(method: &'static str, limit: u32) -> Rate {
    let somebody = SlackStage::new().truth("users").into_keys().next().unwrap();
    let rate = Rate::new(method, limit, MINUTE, move |transport, _| {
        let somebody = somebody.clone();
        async move { slack(transport).ask::<Value>(method, &[("user", Some(&somebody))]).await.map(drop) }
    });
    rate.counted_by(move || SlackStage::limited().counting(method))
}

/// "Several hundred messages a minute" to one workspace: three hundred is the least that can be called so.
fn messages_rate() -> Rate {
    Rate::new("messages to a workspace", 300, MINUTE, |transport, number| async move {
        slack(transport).post(&format!("C{number}"), &NewMessage::new("x")).await.map(drop)
    })
    .answered(200, POSTED)
}

/// "One message a second and channel."
fn channel_rate() -> Rate {
    Rate::new("messages to a channel", 1, Duration::from_secs(1), |transport, _| async move {
        slack(transport).post("C1", &NewMessage::new("x")).await.map(drop)
    })
    .answered(200, POSTED)
}

fn subject() -> Subject {
    let subject = Subject::new(SlackProvider::new, Scheme::Bearer("xoxb-1".into()));
    calls()
        .into_iter()
        .fold(subject, Subject::call)
        .operations(operation::OPERATIONS)
        .operations([&operation::OTHER])
        .meanings(meanings())
        .throttled_by(answer(429, refusal("ratelimited")))
        .stage(SlackStage::new)
        .stream(stream("users", "members").keeps_all("people are deactivated, never deleted"))
        .stream(stream("conversations", "channels"))
        .stream(stream("messages", "messages").deletions_untold("an incremental run reads a day again; events tell"))
        .rate(rarest_rate())
        .rate(method_rate("users.list", 20))
        .rate(method_rate("team.info", 50))
        .rate(method_rate("users.info", 100))
        .rate(method_rate("auth.test", 600))
        .rate(messages_rate())
        .rate(channel_rate())
        .vectors(Vector::file(include_str!("../fixtures/webhooks.json")))
        .hook(hook("events", EVENT, CHANGED))
        .hook(hook("slash commands", COMMAND, OTHER_COMMAND))
        .hook(hook("interactions", PRESSED, OTHER_PRESSED))
        .handshake(handshake(VERIFICATION, b"3eZbrw1a<script>"))
        .handshake(handshake(b"ssl_check=1&token=z", b""))
}

//! Mail: what is taken, what is refused and in which words, what the activity finds; and the dials.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use palisade_emulator::sendgrid::SendGridConfig;
use palisade_emulator::{Cut, Fault, RetryAfter};
use serde_json::{Value, json};

use super::support::{Account, BEGIN, mail, with};

const SEND: &str = "POST /v3/mail/send";
const ADA: &[&str] = &["ada@example.com"];

#[tokio::test(start_paused = true)]
async fn a_mail_is_taken_and_found_again() {
    let account = Account::new();
    let people = mail(&["ada@example.com", "bo@example.com"]);
    let mut sent = with(people, "custom_args", json!({ "order": "17", "a": "common" }));
    sent["personalizations"][0]["cc"] = json!([{ "email": "cc@example.com" }]);
    sent["personalizations"][0]["custom_args"] = json!({ "a": "own" });
    let id = account.mail(&sent).await;
    let stored = account.sendgrid.mails();
    assert_eq!(stored, [json!({ "id": id, "body": sent })]);
    let other = account.mail(&mail(&["bounce@example.com"])).await;
    let find = async |query: &str| {
        let query = percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        let (status, found) = account.get(&format!("/v3/messages?limit=10&query={query}")).await;
        assert_eq!(status, 200, "{found}");
        let of = |one: &Value| one["to_email"].as_str().unwrap().to_owned();
        let mut people: Vec<String> = found["messages"].as_array().unwrap().iter().map(of).collect();
        people.sort();
        (people, found["messages"][0]["status"].clone())
    };
    let all = ["ada@example.com", "bo@example.com", "cc@example.com"];
    assert_eq!(find("unique_args['order']=\"17\"").await, (all.map(str::to_owned).to_vec(), json!("delivered")));
    assert_eq!(find("(unique_args['a']=\"own\")").await.0.len(), 3, "the personalization's goes before the mail's");
    assert!(find("unique_args['order']=\"1\"").await.0.is_empty(), "a part is not it");
    assert_eq!(find("to_email=\"BO@example.com\"").await.0, ["bo@example.com"]);
    assert_eq!(
        find(&format!("msg_id LIKE '{other}%'")).await,
        (vec!["bounce@example.com".to_owned()], json!("not_delivered"))
    );
    for path in ["/v3/messages", "/v3/messages?query=x", "/v3/messages?limit=1001&query=to_email%3D%22a%22"] {
        assert_eq!(account.get(path).await.0, 400, "{path}");
    }
    let without = Account::of(|config| SendGridConfig { activity: false, ..config });
    assert_eq!(without.get("/v3/messages?query=to_email%3D%22a%22").await.0, 403, "the add-on was not bought");
}

/// Fails when a mail that must not go out is taken, or when its refusal names another field.
#[tokio::test(start_paused = true)]
async fn mail_is_refused_as_sendgrid_refuses_it() {
    let account = Account::new();
    let good = || mail(ADA);
    let crowd: Vec<String> = (0..1_001).map(|at| format!("p{at}@example.com")).collect();
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
    let text = |kind: &str, value: &str| json!({ "type": kind, "value": value });
    let file = |content: &str| json!([{ "content": content, "filename": "a.txt" }]);
    let cases: Vec<(Value, &str)> = vec![
        (with(good(), "personalizations", json!([])), "personalizations"),
        (with(good(), "from", Value::Null), "from.email"),
        (with(good(), "from", json!({ "email": "nobody" })), "from.email"),
        (with(good(), "from", json!({ "email": "a@b.example\r\nBcc: x@y.example" })), "from.email"),
        (with(good(), "personalizations", json!([{ "to": [] }])), "personalizations.0.to"),
        (mail(&["ada@example.com", "ada"]), "personalizations.0.to.1.email"),
        (mail(&["ada@example.com", "ADA@example.com"]), "personalizations"),
        (mail(&crowd), "personalizations"),
        (with(good(), "subject", Value::Null), "subject"),
        (with(good(), "subject", json!("")), "subject"),
        (with(good(), "content", Value::Null), "content"),
        (with(good(), "content", json!([text("text/plain", "")])), "content.0.value"),
        (with(good(), "content", json!([text("text/html", "<b>"), text("text/plain", "b")])), "content"),
        (with(good(), "attachments", file("not base64!")), "attachments.0.content"),
        (with(good(), "attachments", file("")), "attachments.0.content"),
        (with(good(), "send_at", json!(BEGIN + 72 * 3_600 + 1)), "send_at"),
        (with(good(), "custom_args", json!({ "a": "x".repeat(10_000) })), "custom_args"),
        (with(good(), "categories", json!(vec!["c"; 11])), "categories"),
    ];
    for (mail, field) in cases {
        let (status, why) = account.call("POST", "/v3/mail/send", &mail).await;
        assert_eq!((status, why["errors"][0]["field"].as_str()), (400, Some(field)), "{why}");
        assert!(why["errors"][0]["message"].as_str().is_some_and(|said| said.len() > 10), "{why}");
    }
    let garbage = account.try_send("POST", "/v3/mail/send", Bytes::from_static(b"{")).await.unwrap();
    assert_eq!(garbage.status(), 400);
    let huge = account.try_send("POST", "/v3/mail/send", Bytes::from(vec![b' '; (30 << 20) + 1])).await.unwrap();
    assert_eq!((huge.status().as_u16(), huge.headers()["content-type"].to_str().unwrap()), (413, "text/html"));
    assert!(account.sendgrid.mails().is_empty() && account.receiver.take_raw().is_empty(), "nothing went out");
    let template = with(with(good(), "subject", Value::Null), "content", Value::Null);
    account.mail(&with(template, "template_id", json!("d-1"))).await;
    account.mail(&with(good(), "send_at", json!(BEGIN + 72 * 3_600))).await;
    account.mail(&mail(&crowd[..1_000])).await;
}

/// Fails when a key does what it may not, or when somebody without one is let in.
#[tokio::test(start_paused = true)]
async fn keys_scopes_senders_and_credits_are_asked_for() {
    let account = Account::of(|config| SendGridConfig {
        scopes: vec!["mail.send".to_owned()],
        senders: vec!["Shop@example.com".to_owned()],
        subusers: vec!["tea".to_owned()],
        credits: Some(2),
        ..config
    });
    let ask = async |headers: &[(&str, &str)]| {
        let request =
            headers.iter().fold(Request::get("/v3/scopes"), |request, (name, value)| request.header(*name, *value));
        account.sendgrid.handle(request.body(Bytes::new()).unwrap()).await.unwrap().status().as_u16()
    };
    let key = ("authorization", "Bearer SG.emulator");
    let cases: [(&[(&str, &str)], u16); 6] = [
        (&[], 401),
        (&[("authorization", "Bearer SG.other")], 401),
        (&[("authorization", "Basic SG.emulator")], 401),
        (&[key], 200),
        (&[key, ("on-behalf-of", "tea")], 200),
        (&[key, ("on-behalf-of", "coffee")], 403),
    ];
    for (headers, status) in cases {
        assert_eq!(ask(headers).await, status, "{headers:?}");
    }
    assert_eq!(account.get("/v3/scopes").await.1["scopes"], json!(["mail.send"]));
    for (method, path) in [
        ("GET", "/v3/suppression/bounces"),
        ("DELETE", "/v3/suppression/bounces"),
        ("DELETE", "/v3/asm/suppressions/global/a@b.example"),
        ("GET", "/v3/messages?query=to_email%3D%22a%22"),
        ("GET", "/v3/user/webhooks/event/settings/signed"),
    ] {
        assert_eq!(account.call(method, path, &Value::Null).await.0, 403, "{method} {path}");
    }
    assert_eq!(account.get("/v3/templates").await.0, 404);
    let stranger = with(mail(ADA), "from", json!({ "email": "other@example.com" }));
    let (status, why) = account.call("POST", "/v3/mail/send", &stranger).await;
    assert_eq!((status, why["errors"][0]["field"].as_str()), (403, Some("from")));
    let checked = with(mail(ADA), "mail_settings", json!({ "sandbox_mode": { "enable": true } }));
    for _ in 0..3 {
        let answer = account.send("POST", "/v3/mail/send", &checked).await;
        assert_eq!((answer.status().as_u16(), answer.headers().contains_key("x-message-id")), (200, false));
    }
    account.mail(&mail(ADA)).await;
    account.mail(&mail(ADA)).await;
    let (status, why) = account.call("POST", "/v3/mail/send", &mail(ADA)).await;
    assert_eq!((status, why["errors"][0]["message"].as_str()), (401, Some("Maximum credits exceeded")));
    assert_eq!(account.sendgrid.mails().len(), 2, "what was only checked costs nothing and is not sent");
    account.sendgrid.set_api_key("SG.fresh");
    assert_eq!((ask(&[key]).await, account.get("/v3/scopes").await.0), (401, 200));
    assert_eq!(account.sendgrid.ledger().auth_failures, 5);
}

/// Fails when a fault before the change sends a mail, or one after it does not.
#[tokio::test(start_paused = true)]
async fn faults_fall_before_or_after_the_change_and_speak_sendgrids_language() {
    for (fault, made, status, json) in [
        (Fault::ResetBefore, 0, None, false),
        (Fault::HangBefore, 0, None, false),
        (Fault::ResetAfter, 1, None, false),
        (Fault::HangAfter, 1, None, false),
        (Fault::CutBody, 1, None, false),
        (Fault::Status(500), 0, Some(500), true),
        (Fault::Status(503), 0, Some(503), false),
        (Fault::Status(413), 0, Some(413), false),
        (Fault::StatusAfter(500), 1, Some(500), true),
        (Fault::Throttle(RetryAfter::Seconds(2)), 0, Some(429), true),
        (Fault::Refuse("Does not contain a valid address.".to_owned()), 0, Some(400), true),
        (Fault::Html, 1, Some(202), false),
        (Fault::Latency(Duration::from_secs(3)), 1, Some(202), false),
    ] {
        let account = Account::new();
        account.sendgrid.faults().next(SEND, [fault.clone()]);
        let answer = account.try_send("POST", "/v3/mail/send", Bytes::from(mail(ADA).to_string())).await;
        assert_eq!(account.sendgrid.mails().len(), made, "{fault:?}");
        match answer {
            Ok(answer) => {
                assert_eq!(Some(answer.status().as_u16()), status, "{fault:?}");
                let body = serde_json::from_slice::<Value>(answer.body());
                assert_eq!(body.is_ok(), json, "{fault:?}");
                assert!(body.is_err() || body.unwrap()["errors"][0]["message"].is_string(), "{fault:?}");
            }
            Err(Cut::Reset | Cut::Hang | Cut::CutBody { .. }) => assert_eq!(status, None, "{fault:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_makes_the_same_identifiers_and_key() {
    let mut made = Vec::new();
    for seed in [7, 7, 8] {
        let account = Account::of(|config| SendGridConfig { seed, ..config });
        made.push((account.mail(&mail(ADA)).await, account.sendgrid.public_key()));
    }
    assert!(made[0] == made[1] && made[1].0 != made[2].0 && made[1].1 != made[2].1);
    let account = Account::new();
    let (_, shown) = account.get("/v3/user/webhooks/event/settings/signed").await;
    assert_eq!(shown["public_key"], json!(account.sendgrid.public_key()));
}

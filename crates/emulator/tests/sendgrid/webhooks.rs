//! What SendGrid posts: events in batches and inbound mail, signed when they leave, tried again until it gives up.

use std::time::Duration;

use palisade_emulator::WebhookFaults;
use palisade_emulator::sendgrid::{InboundMail, SendGridConfig};
use serde_json::{Value, json};

use super::support::{Account, Answer, BEGIN, HOOK, header, mail, with};

fn kinds(events: &[Value]) -> String {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

/// Fails when a recipient's fate is another, or an address lands on a list it does not belong on.
#[tokio::test(start_paused = true)]
async fn a_recipients_name_decides_what_is_told_and_where_the_address_lands() {
    for (local, told, list, again) in [
        ("ada", "processed delivered", None, "processed delivered"),
        ("bounce+7", "processed bounce", Some("bounces"), "dropped"),
        ("block", "processed bounce", Some("blocks"), "processed bounce"),
        ("defer", "processed deferred delivered", None, "processed deferred delivered"),
        ("spam.me", "processed delivered spamreport", Some("spam_reports"), "dropped"),
        ("unsubscribe", "processed delivered unsubscribe", Some("unsubscribes"), "dropped"),
        ("invalid", "dropped", Some("invalid_emails"), "dropped"),
        ("open", "processed delivered open", None, "processed delivered open"),
        ("click", "processed delivered click", None, "processed delivered click"),
    ] {
        let account = Account::telling();
        let email = format!("{local}@example.com");
        let id = account.mail(&mail(&[&email])).await;
        let events = account.events().await;
        assert_eq!(kinds(&events), told, "{local}");
        for event in &events {
            assert_eq!((event["email"].as_str(), event["timestamp"].as_u64()), (Some(email.as_str()), Some(BEGIN)));
            assert!(event["sg_message_id"].as_str().unwrap().starts_with(&id), "{event}");
        }
        for name in ["bounces", "blocks", "spam_reports", "unsubscribes", "invalid_emails"] {
            assert_eq!(account.sendgrid.truth(name).contains_key(&email), Some(name) == list, "{local}: {name}");
        }
        account.mail(&mail(&[&email])).await;
        assert_eq!(kinds(&account.events().await), again, "{local}, a second time");
    }
}

/// Fails when an event loses what the mail carries, or two events share an identifier.
#[tokio::test(start_paused = true)]
async fn an_event_carries_what_the_mail_carries() {
    let account = Account::telling();
    let sent = with(mail(&["ada@example.com", "bounce@example.com"]), "categories", json!(["orders"]));
    account.mail(&with(sent, "custom_args", json!({ "order": "17", "event": "mine" }))).await;
    let events = account.events().await;
    assert_eq!(events.len(), 4);
    let mut ids: Vec<&str> = events.iter().map(|event| event["sg_event_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each has its own identifier");
    for event in &events {
        assert_eq!((event["order"].as_str(), &event["category"]), (Some("17"), &json!(["orders"])));
        assert_ne!(event["event"], "mine", "an argument does not overwrite a field");
    }
    let bounce = events.iter().find(|event| event["event"] == "bounce").unwrap();
    assert_eq!((bounce["type"].as_str(), bounce["status"].as_str()), (Some("bounce"), Some("5.1.1")));
    account.sendgrid.emit("group_unsubscribe", "ada@example.com", &json!({ "asm_group_id": 3 }));
    let [group] = account.events().await.try_into().unwrap();
    assert_eq!((group["event"].as_str(), group["asm_group_id"].as_u64()), (Some("group_unsubscribe"), Some(3)));
    account.sendgrid.set_event_url(None);
    account.mail(&mail(&["ada@example.com"])).await;
    assert_eq!(account.sendgrid.webhooks_waiting(), 0, "without an address nothing is told");
}

/// Fails when a try is signed for another moment, when the schedule is not kept, or when it never ends.
#[tokio::test(start_paused = true)]
async fn a_delivery_is_signed_anew_for_each_try_until_it_is_given_up() {
    let gaps = [1, 10, 100].map(Duration::from_secs);
    let account = Account::of(|config| SendGridConfig {
        event_url: Some(HOOK.to_owned()),
        webhook_retries: gaps.to_vec(),
        ..config
    });
    account.receiver.will(&[
        Answer::Status(500),
        Answer::Hang,
        Answer::Refuse,
        Answer::Status(404),
        Answer::Status(500),
    ]);
    let begun = tokio::time::Instant::now();
    account.mail(&mail(&["ada@example.com"])).await;
    account.sendgrid.drain_webhooks().await;
    assert_eq!(begun.elapsed(), Duration::from_secs(1 + 10 + 10 + 100), "the gaps, and the ten seconds it waited");
    let got = account.receiver.take_raw();
    let times: Vec<u64> =
        got.iter().map(|one| header(one, "x-twilio-email-event-webhook-timestamp").parse().unwrap()).collect();
    assert_eq!(times, [0, 1, 21, 121].map(|after| BEGIN + after));
    for one in &got {
        assert!(account.is_signed(one) && one.body() == got[0].body());
        assert_eq!((header(one, "content-type"), one.uri().to_string().as_str()), ("application/json", HOOK));
        assert!(one.body().ends_with(b"]\r\n"), "real batches end so");
    }
    let webhooks = account.sendgrid.ledger().webhooks;
    assert_eq!((webhooks.attempted, webhooks.retried, webhooks.abandoned, webhooks.acked), (4, 3, 1, 0));
    account.receiver.will(&[Answer::Status(500)]);
    account.mail(&mail(&["ada@example.com"])).await;
    account.sendgrid.drain_webhooks().await;
    assert_eq!((account.receiver.take_raw().len(), account.sendgrid.ledger().webhooks.acked), (2, 1));
}

/// Fails when a forged delivery verifies, or an old one is signed for now.
#[tokio::test(start_paused = true)]
async fn webhooks_are_forged_replayed_repeated_and_dropped_as_the_dials_ask() {
    let account = Account::telling();
    let all = WebhookFaults { duplicate: 1.0, forge: 1.0, replay: 1.0, ..WebhookFaults::default() };
    account.sendgrid.faults().webhooks(all);
    account.mail(&mail(&["ada@example.com"])).await;
    account.sendgrid.drain_webhooks().await;
    let got = account.receiver.take_raw();
    let (own, forged): (Vec<_>, Vec<_>) = got.iter().partition(|one| account.is_signed(one));
    assert_eq!((own.len(), forged.len()), (3, 1), "itself, once more, an old one, and a forged one");
    let mut times: Vec<i64> =
        own.iter().map(|one| header(one, "x-twilio-email-event-webhook-timestamp").parse().unwrap()).collect();
    times.sort_unstable();
    assert_eq!(times.iter().map(|at| at - i64::try_from(BEGIN).unwrap()).collect::<Vec<_>>(), [-4 * 86_400, 0, 0]);
    let webhooks = account.sendgrid.ledger().webhooks;
    assert_eq!((webhooks.forged_accepted, webhooks.replayed_accepted), (1, 1), "the receiver took them all");
    account.sendgrid.faults().webhooks(WebhookFaults { drop: 1.0, ..WebhookFaults::default() });
    account.mail(&mail(&["ada@example.com"])).await;
    account.sendgrid.drain_webhooks().await;
    assert!(account.receiver.take_raw().is_empty());
    assert_eq!(account.sendgrid.ledger().webhooks.dropped, 1);
}

/// Fails when inbound mail loses a field or an attachment, or is signed other than was asked for.
#[tokio::test(start_paused = true)]
async fn inbound_mail_is_a_form_with_parts_signed_or_not() {
    let account = Account::new();
    let written = InboundMail {
        from: "Ada <ada@example.com>".to_owned(),
        to: "in@example.com".to_owned(),
        subject: "Grüße".to_owned(),
        text: "Two lines\r\nand more".to_owned(),
        attachments: vec![("a \"b\".txt".to_owned(), "text/plain".to_owned(), "inside".to_owned())],
    };
    for signed in [true, false] {
        account.sendgrid.set_inbound_url(Some(HOOK), signed);
        account.sendgrid.receive(&written);
        account.sendgrid.drain_webhooks().await;
        let [request] = account.receiver.take_raw().try_into().unwrap();
        assert_eq!(account.is_signed(&request), signed);
        assert_eq!(request.headers().contains_key("x-twilio-email-event-webhook-signature"), signed);
        let kind = header(&request, "content-type");
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        let text = std::str::from_utf8(request.body()).unwrap();
        let part = |name: &str, value: &str| {
            assert!(text.contains(&format!("name=\"{name}\"\r\n\r\n{value}\r\n--{boundary}")), "{name}: {text}");
        };
        part("subject", "Grüße");
        part("text", "Two lines\r\nand more");
        part("from", "Ada <ada@example.com>");
        part("attachments", "1");
        assert!(
            text.contains(
                "name=\"attachment1\"; filename=\"a \\\"b\\\".txt\"\r\nContent-Type: text/plain\r\n\r\ninside"
            )
        );
        assert!(text.ends_with(&format!("--{boundary}--\r\n")));
    }
    account.sendgrid.faults().webhooks(WebhookFaults { forge: 1.0, replay: 1.0, ..WebhookFaults::default() });
    account.sendgrid.receive(&written);
    account.sendgrid.drain_webhooks().await;
    assert_eq!(account.receiver.take_raw().len(), 1, "nothing tells an unsigned forgery from the true one, so none");
    account.sendgrid.set_inbound_url(None, false);
    account.sendgrid.receive(&written);
    assert_eq!(account.sendgrid.webhooks_waiting(), 0);
}

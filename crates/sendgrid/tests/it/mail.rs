//! A mail is checked before it leaves, and written as SendGrid wants it.

use palisade_core::{ErrorKind, Outcome, Timestamp};
use palisade_sendgrid::Mail;
use palisade_sendgrid::client::{Address, Attachment, Personalization};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fake::{self, Clients as _, accepted, answering};

fn mail() -> Mail {
    Mail::from("a@example.com").to("b@example.com").subject("s").text("t")
}

async fn sent(mail: Mail) -> Value {
    let fake = answering([accepted()]);
    fake.client().send(&mail).await.unwrap();
    fake::json(&fake.only())
}

#[tokio::test]
async fn every_part_of_a_mail_goes_out_under_its_name() {
    let mail = Mail::from(Address::new("a@example.com").named("Ann"))
        .personalized(
            Personalization::to("b@example.com")
                .and_to(Address::new("c@example.com").named("Cy"))
                .cc("d@example.com")
                .bcc("e@example.com")
                .subject("own")
                .value("n", 7)
                .custom_arg("k", "own")
                .at(Timestamp::from_seconds(1_767_225_600)),
        )
        .subject("s")
        .html("<p>h</p>")
        .text("t")
        .template("d-1")
        .attach(Attachment::new("a.txt", "text/plain; charset=utf-8", "hi").inline("cid1"))
        .attach(Attachment::new("b.bin", "application/octet-stream", vec![0, 255]))
        .reply_to("r@example.com")
        .header("In-Reply-To", "<x@example.com>")
        .category("c1")
        .custom_arg("k", "v")
        .reference("order-1")
        .at(Timestamp::from_seconds(1_767_225_601))
        .batch("batch1")
        .unsubscribe_group(5)
        .ip_pool("pool")
        .track_clicks(false)
        .track_opens(true);
    let expected = json!({
        "from": { "email": "a@example.com", "name": "Ann" },
        "personalizations": [{
            "to": [{ "email": "b@example.com" }, { "email": "c@example.com", "name": "Cy" }],
            "cc": [{ "email": "d@example.com" }], "bcc": [{ "email": "e@example.com" }],
            "subject": "own", "dynamic_template_data": { "n": 7 }, "custom_args": { "k": "own" }, "send_at": 1_767_225_600,
        }],
        "subject": "s",
        "content": [{ "type": "text/plain", "value": "t" }, { "type": "text/html", "value": "<p>h</p>" }],
        "template_id": "d-1",
        "attachments": [
            { "content": "aGk=", "filename": "a.txt", "type": "text/plain; charset=utf-8", "disposition": "inline", "content_id": "cid1" },
            { "content": "AP8=", "filename": "b.bin", "type": "application/octet-stream", "disposition": "attachment" },
        ],
        "reply_to": { "email": "r@example.com" },
        "headers": { "In-Reply-To": "<x@example.com>" },
        "categories": ["c1"],
        "custom_args": { "k": "v", "palisade_ref": "order-1" },
        "send_at": 1_767_225_601, "batch_id": "batch1", "asm": { "group_id": 5 }, "ip_pool_name": "pool",
        "tracking_settings": { "click_tracking": { "enable": false }, "open_tracking": { "enable": true } },
    });
    assert_eq!(sent(mail).await, expected);
    let two = sent(self::mail().reply_to("r@example.com").reply_to("q@example.com")).await;
    assert_eq!(two["reply_to_list"].as_array().unwrap().len(), 2);
    assert!(two.get("reply_to").is_none());
}

#[track_caller]
fn refused(mail: &Mail, code: &str) {
    let error = mail.check().expect_err(code);
    assert_eq!(
        (error.kind(), error.code(), error.outcome()),
        (ErrorKind::Invalid, Some(code), Outcome::NotSent),
        "{mail:?}"
    );
    let message = error.user_message();
    assert!(message.ends_with('.') && message.len() < 120, "one clear sentence or two: {message}");
    assert!(!error.is_retryable());
}

/// Each wrong mail is refused with one code and one sentence before anything leaves.
#[test]
fn what_sendgrid_would_surely_refuse_does_not_leave() {
    let to = |one: Personalization| Mail::from("a@example.com").subject("s").text("t").personalized(one);
    refused(&Mail::from("a@example.com").subject("s").text("t"), "recipient_missing");
    refused(&to(Personalization::default().cc("b@example.com")), "recipient_missing");
    refused(&(0..1_000).fold(mail(), |mail, n| mail.to(format!("p{n}@example.com"))), "recipients_many");
    let crowd = (0..1_000).fold(Personalization::to("x@example.com"), |one, n| one.bcc(format!("p{n}@example.com")));
    refused(&to(crowd), "recipients_many");
    (0..999).fold(mail(), |mail, n| mail.to(format!("p{n}@example.com"))).check().unwrap();
    refused(&to(Personalization::to("b@example.com").cc("B@Example.com")), "address_repeated");
    mail().to("b@example.com").check().unwrap();

    for bad in [
        "",
        "b",
        "@example.com",
        "b@",
        "b@@example.com",
        "b c@example.com",
        "b@exa mple.com",
        "b@example..com",
        "b@.com",
        "<b@example.com>",
        "b@example.com,c@example.com",
        "b\r\n@example.com",
        "b@example.com\r\nBcc: x@y.z",
        "Ann <b@example.com>",
        &format!("{}@example.com", "x".repeat(65)),
        &format!("b@{}", "x".repeat(256)),
    ] {
        refused(&mail().to(bad), "address_invalid");
        refused(&Mail::from(bad).to("b@example.com").subject("s").text("t"), "address_invalid");
        refused(&mail().reply_to(bad), "address_invalid");
    }
    for good in ["b+c.d_e-f@sub.example.co", "é@exämple.com", "o'neil@example.com", "b@localhost"] {
        mail().to(good).check().unwrap();
    }
    refused(&(0..1_001).fold(mail(), |mail, n| mail.reply_to(format!("p{n}@example.com"))), "reply_to_many");

    refused(&Mail::from("a@example.com").to("b@example.com").text("t"), "subject_missing");
    refused(&mail().subject(" "), "subject_missing");
    to(Personalization::to("b@example.com").subject("own")).check().unwrap();
    refused(&Mail::from("a@example.com").to("b@example.com").subject("s"), "content_missing");
    refused(&mail().text(""), "content_missing");
    refused(&mail().html(""), "content_missing");
    Mail::from("a@example.com").to("b@example.com").template("d-1").check().unwrap();
    refused(&mail().template(""), "id_invalid");

    refused(&mail().attach(Attachment::new("a", "text/plain", "")), "attachment_invalid");
    refused(&mail().attach(Attachment::new("", "text/plain", "x")), "attachment_invalid");
    refused(&mail().attach(Attachment::new("a", "text", "x")), "attachment_invalid");
    refused(&mail().attach(Attachment::new("a", "text/plain", "x").inline("<x>")), "attachment_invalid");

    refused(&(0..11).fold(mail(), |mail, n| mail.category(format!("c{n}"))), "category_invalid");
    refused(&mail().category("c").category("c"), "category_invalid");
    refused(&mail().category("x".repeat(256)), "category_invalid");
    refused(&mail().custom_arg("k", "x".repeat(10_000)), "custom_args_large");
    refused(&to(Personalization::to("b@example.com").custom_arg("k", "x".repeat(10_000))), "custom_args_large");
    refused(&mail().reference("a b"), "reference_invalid");
    refused(&mail().reference(""), "reference_invalid");

    for reserved in ["To", "bcc", "Subject", "X-SG-EID", "content-type", "DKIM-Signature"] {
        refused(&mail().header(reserved, "x"), "header_reserved");
    }
    for bad in ["", "a b", "a:b", "é", "a\r\nb"] {
        refused(&mail().header(bad, "x"), "header_invalid");
    }
}

#[tokio::test]
async fn a_mail_of_more_than_thirty_megabytes_does_not_leave() {
    let fake = answering([accepted()]);
    // Base64 makes four bytes of three.
    let large = |bytes: usize| mail().attach(Attachment::new("a", "text/plain", vec![7; bytes]));
    let error = fake.client().send(&large(22_500_000)).await.unwrap_err();
    assert_eq!((error.kind(), error.code(), fake.seen().len()), (ErrorKind::Invalid, Some("too_large"), 0));
    assert!(error.user_message().contains("30 MB"));
    fake.client().send(&large(22_499_000)).await.unwrap();
}

proptest! {
    /// Fails when a control character passes anywhere it would become a part of a header.
    #[test]
    fn nothing_breaks_out_of_a_header(at in 0..9_usize, before in "[a-z]{0,5}", c in prop::sample::select(vec!['\r', '\n', '\0', '\u{b}', '\u{85}', '\u{7f}']), after in "[a-z: ]{0,9}") {
        let text = format!("{before}{c}{after}");
        let mail = mail();
        let bad = match at {
            0 => mail.subject(text),
            1 => mail.to(Address::new("c@example.com").named(text)),
            2 => mail.header("X-Own", text),
            3 => mail.header(text, "x"),
            4 => mail.attach(Attachment::new(text, "text/plain", "x")),
            5 => mail.attach(Attachment::new("a", format!("text/plain;{text}"), "x")),
            6 => mail.attach(Attachment::new("a", "text/plain", "x").inline(text)),
            7 => mail.category(text),
            _ => mail.personalized(Personalization::to("c@example.com").subject(text)),
        };
        prop_assert_eq!(bad.check().unwrap_err().kind(), ErrorKind::Invalid);
    }
}

//! Was it sent? Twilio is asked for what looks like it.

use palisade_core::Timestamp;
use palisade_twilio::client::{NewMessage, Reconciled};
use palisade_twilio::sid::{ContentSid, ServiceSid};

use super::fake::{ACCOUNT, Clients as _, answering, message, pairs};

const BEGUN: Timestamp = Timestamp(1_767_225_600_000);

fn page(messages: &[String]) -> String {
    format!(r#"{{"messages":[{}],"next_page_uri":null}}"#, messages.join(","))
}

fn text() -> NewMessage {
    NewMessage::text("+15005550006", "hi").from("+15005550001")
}

async fn look(new: &NewMessage, messages: &[String]) -> Reconciled {
    answering(&[&page(messages)]).client().reconcile(new, BEGUN).await.unwrap()
}

fn found(looked: &Reconciled) -> &str {
    let Reconciled::Sent(message) = looked else { panic!("{looked:?}") };
    message.sid.as_str()
}

#[tokio::test]
async fn the_message_is_asked_for_by_recipient_and_sender() {
    let fake = answering(&[&page(&[])]);
    let new = NewMessage::text("+1 (500) 555-0006", "hi").from("+1 500 555 0001");
    assert_eq!(fake.client().reconcile(&new, BEGUN).await.unwrap(), Reconciled::NotFound);
    assert_eq!(pairs(fake.only().uri().query().unwrap()), pairs("To=%2B15005550006&From=%2B15005550001&PageSize=100"));
}

/// Fails when a message that waits to be sent is overlooked: it has no `date_sent`.
#[tokio::test]
async fn one_that_looks_like_it_is_it() {
    assert_eq!(found(&look(&text(), &[message(1, "")]).await), format!("SM{:032}", 1));
    let trial = message(1, "").replace(r#""body":"hi""#, r#""body":"Sent from your Twilio trial account - hi""#);
    found(&look(&text(), &[trial]).await);
    let trimmed = NewMessage::text("+15005550006", " hi\n").from("+15005550001");
    found(&look(&trimmed, &[message(1, "")]).await);
    let service = ServiceSid::parse("MG00000000000000000000000000000000").unwrap();
    let by_service = message(1, r#","messaging_service_sid":"MG00000000000000000000000000000000""#)
        .replace(r#""from":"+15005550001""#, r#""from":null"#);
    found(&look(&NewMessage::text("+15005550006", "hi").via(service), &[by_service]).await);
}

#[tokio::test]
async fn what_differs_in_anything_is_not_it() {
    let one = message(1, "");
    for other in [
        one.replace(r#""body":"hi""#, r#""body":"hi!""#),
        one.replace(r#""body":"hi""#, r#""body":null"#),
        one.replace("+15005550006", "+15005550007"),
        one.replace("+15005550001", "+15005550002"),
        one.replace("outbound-api", "inbound"),
        one.replace("outbound-api", "outbound-reply"),
        one.replace("00:00:00", "00:06:01"),
        one.replace("Thu, 01 Jan 2026 00:00:00", "Wed, 31 Dec 2025 23:54:58"),
        one.replace(r#""Thu, 01 Jan 2026 00:00:00 +0000""#, "null"),
    ] {
        assert_eq!(look(&text(), std::slice::from_ref(&other)).await, Reconciled::NotFound, "{other}");
    }
    // It may have been made at the end of the second that is told.
    for edge in
        [one.replace("00:00:00", "00:06:00"), one.replace("Thu, 01 Jan 2026 00:00:00", "Wed, 31 Dec 2025 23:54:59")]
    {
        found(&look(&text(), &[edge]).await);
    }
}

/// Fails when a choice is made where a person must make it.
#[tokio::test]
async fn two_that_look_like_it_and_templates_are_unclear() {
    let Reconciled::Unclear(both) = look(&text(), &[message(2, ""), message(1, "")]).await else { panic!() };
    assert_eq!(both.len(), 2);
    let template = ContentSid::parse("HX00000000000000000000000000000000").unwrap();
    let new = NewMessage::template("+15005550006", template).from("+15005550001");
    let Reconciled::Unclear(one) = look(&new, &[message(1, "")]).await else { panic!() };
    assert_eq!(one.len(), 1);
    assert_eq!(look(&new, &[]).await, Reconciled::NotFound);
}

#[tokio::test]
async fn the_look_goes_on_until_the_window_is_behind_it() {
    let next = |n: u32| format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json?Page={n}");
    let page = |messages: &[String], n: u32| {
        format!(r#"{{"messages":[{}],"next_page_uri":"{}"}}"#, messages.join(","), next(n))
    };
    let newer = message(9, "").replace("00:00:00", "01:00:00");
    let older = message(8, "").replace("Thu, 01 Jan 2026", "Wed, 31 Dec 2025");
    let fake = answering(&[&page(&[newer], 1), &page(&[message(1, ""), older], 2), &page(&[message(2, "")], 3)]);
    found(&fake.client().reconcile(&text(), BEGUN).await.unwrap());
    assert_eq!(fake.seen().len(), 2, "what is older is not read");
}

//! The typed client: what goes out is what the official SDK sends, and what comes back is read leniently.

use std::time::Duration;

use futures_util::TryStreamExt;
use palisade_core::call::Priority;
use palisade_core::{ErrorKind, Outcome, Timestamp};
use palisade_twilio::client::{ListMessages, NewMessage};
use palisade_twilio::error::advice;
use palisade_twilio::sid::{ContentSid, MessageSid, ServiceSid};

use super::fake::{ACCOUNT, Clients as _, answering, call, message, pairs};

fn service() -> ServiceSid {
    ServiceSid::parse("MG00000000000000000000000000000000").unwrap()
}

#[tokio::test]
async fn every_part_of_a_message_goes_out_under_its_name() {
    let fake = answering(&[&message(1, ""), &message(2, "")]);
    let template = ContentSid::parse("HX00000000000000000000000000000000").unwrap();
    let new = NewMessage::template("whatsapp:+15005550006", template)
        .from("+15005550001")
        .via(service())
        .variable("1", "a \"b\"")
        .valid_for(Duration::from_secs(600))
        .at(Timestamp::from_seconds(1_767_225_600));
    fake.client().send(&new).await.unwrap();
    fake.client()
        .send(&NewMessage::whatsapp("+15005550006", "é&=+").from("+15005550001").media("https://m.example/a?b=c"))
        .await
        .unwrap();
    let sent: Vec<_> = fake.seen().iter().map(|r| pairs(std::str::from_utf8(r.body()).unwrap())).collect();
    let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(
        sent[0],
        own(&[
            ("ContentSid", "HX00000000000000000000000000000000"),
            ("ContentVariables", r#"{"1":"a \"b\""}"#),
            ("From", "whatsapp:+15005550001"),
            ("MessagingServiceSid", "MG00000000000000000000000000000000"),
            ("ScheduleType", "fixed"),
            ("SendAt", "2026-01-01T00:00:00Z"),
            ("To", "whatsapp:+15005550006"),
            ("ValidityPeriod", "600"),
        ])
    );
    assert_eq!(
        sent[1],
        own(&[
            ("Body", "é&=+"),
            ("From", "whatsapp:+15005550001"),
            ("MediaUrl", "https://m.example/a?b=c"),
            ("To", "whatsapp:+15005550006"),
        ])
    );
}

/// Each wrong message is refused with one code and one sentence before anything leaves.
#[tokio::test]
async fn what_twilio_would_surely_refuse_does_not_leave() {
    let text = |body: &str| NewMessage::text("+15005550006", body).from("+15005550001");
    let many = (0..11).fold(text("x"), |message, i| message.media(format!("https://m.example/{i}")));
    for (new, code) in [
        (text(""), "21619"),
        (text(&"x".repeat(1_601)), "21617"),
        (NewMessage::text("", "x").from("+15005550001"), "21604"),
        (NewMessage::text(" ", "x").from("+15005550001"), "21604"),
        (NewMessage::text("+1500\r\n5550006", "x").from("+15005550001"), "21211"),
        (NewMessage::whatsapp("", "x").from("+15005550001"), "21211"),
        (NewMessage::text("+15005550006", "x"), "21603"),
        (NewMessage::text("+15005550006", "x").from("a\nb"), "21212"),
        (many, "21623"),
        (text("x").media("file:///etc/passwd"), "21620"),
        (text("x").media("no url"), "21620"),
        (text("x").status_callback("no url"), "21609"),
        (text("x").at(Timestamp(0)), "35118"),
    ] {
        let fake = answering(&[]);
        let error = fake.client().send(&new).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.code(), error.outcome()),
            (ErrorKind::Invalid, Some(code), Outcome::NotSent),
            "{new:?}"
        );
        assert_eq!(error.user_message(), advice(&error).unwrap().message, "{code}");
        assert!(!error.is_retryable());
        assert_eq!(fake.seen().len(), 0);
    }
    for wrong in [Duration::ZERO, Duration::from_secs(36_001), Duration::MAX] {
        assert_eq!(text("x").valid_for(wrong).check().unwrap_err().kind(), ErrorKind::Invalid);
    }
    text(&"é".repeat(1_600)).check().unwrap();
}

#[tokio::test]
async fn a_message_is_read_called_back_redacted_and_deleted() {
    let sid = MessageSid::parse(&format!("SM{:032}", 7)).unwrap();
    let fake = answering(&[
        &message(7, ""),
        &message(7, ""),
        &message(7, ""),
        "",
        r#"{"sid":"AC00000000000000000000000000000000","status":"active"}"#,
    ]);
    let twilio = fake.client().in_background();
    twilio.message(&sid).await.unwrap();
    twilio.cancel(&sid).await.unwrap();
    twilio.redact(&sid).await.unwrap();
    twilio.delete(&sid).await.unwrap();
    assert_eq!(twilio.account().await.unwrap().status.as_deref(), Some("active"));
    let path = format!("/2010-04-01/Accounts/{ACCOUNT}/Messages/{sid}.json");
    let seen: Vec<_> = fake
        .seen()
        .iter()
        .map(|r| {
            (
                r.method().to_string(),
                r.uri().path().to_owned(),
                String::from_utf8(r.body().to_vec()).unwrap(),
                call(r).operation.name,
            )
        })
        .collect();
    assert_eq!(seen[0], ("GET".into(), path.clone(), String::new(), "messages.retrieve"));
    assert_eq!(seen[1], ("POST".into(), path.clone(), "Status=canceled".into(), "messages.update"));
    assert_eq!(seen[2], ("POST".into(), path.clone(), "Body=".into(), "messages.update"));
    assert_eq!(seen[3], ("DELETE".into(), path, String::new(), "messages.delete"));
    assert_eq!(seen[4].1, format!("/2010-04-01/Accounts/{ACCOUNT}.json"));
    assert!(fake.seen().iter().all(|r| call(r).priority == Priority::Background));
}

/// Fails when an answer that cannot be read hides that the message went out.
#[tokio::test]
async fn a_sent_message_with_an_unreadable_answer_counts_as_sent() {
    for body in ["{}", r#"{"sid":"SM1","status":"queued"}"#, r#"{"sid":7}"#, "[]"] {
        let fake = answering(&[body]);
        let error = fake.client().send(&NewMessage::text("+15005550006", "x").from("+15005550001")).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Decode, Outcome::Processed), "{body}");
        assert_eq!(error.request_id(), Some("RQ1"));
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn fields_that_are_new_missing_or_odd_do_not_hide_a_message() {
    let sid = MessageSid::parse(&format!("SM{:032}", 1)).unwrap();
    for body in [
        format!(r#"{{"sid":"{sid}","status":"beamed"}}"#),
        format!(r#"{{"sid":"{sid}","status":"sent","num_segments":null,"date_sent":"soon","new":{{"x":[1]}}}}"#),
        format!(r#"{{"sid":"{sid}","status":"sent","num_segments":3,"error_code":30003,"price":"-0.0075"}}"#),
    ] {
        let fake = answering(&[&body]);
        assert_eq!(fake.client().message(&sid).await.unwrap().sid, sid, "{body}");
    }
    let fake = answering(&[&format!(r#"{{"sid":"{sid}","status":"undelivered","error_code":30003}}"#)]);
    let failed = fake.client().message(&sid).await.unwrap();
    assert!(failed.advice().unwrap().message.contains("cannot be reached"));
}

fn page(sids: &[u32], next: Option<&str>) -> String {
    let messages: Vec<String> = sids.iter().map(|sid| message(*sid, "")).collect();
    let next = next.map_or("null".to_owned(), |next| format!("\"{next}\""));
    format!(r#"{{"messages":[{}],"next_page_uri":{next},"page":0}}"#, messages.join(","))
}

#[tokio::test]
async fn a_list_pages_by_itself_over_empty_pages_to_its_end() {
    let next = |n: u32| format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json?PageSize=2&Page={n}&PageToken=PASM{n}");
    let pages =
        [page(&[4, 3], Some(&next(1))), page(&[], Some(&next(2))), page(&[2], Some(&next(3))), page(&[1], None)];
    let fake = answering(&pages.each_ref().map(String::as_str));
    let filter = ListMessages::new().to("+15005550006").from("+15005550001").page_size(2);
    let twilio = fake.client();
    let listed: Vec<_> = twilio.list_messages(&filter).try_collect().await.unwrap();
    let sids: Vec<_> = listed.iter().map(|message| message.sid.as_str()[32..].to_owned()).collect();
    assert_eq!(sids, ["04", "03", "02", "01"]);
    let asked: Vec<_> = fake.seen().iter().map(|r| r.uri().path_and_query().unwrap().to_string()).collect();
    assert_eq!(asked[1..], [next(1), next(2), next(3)]);
    let filters = pairs(fake.seen()[0].uri().query().unwrap());
    assert!(
        filters.contains(&("To".into(), "+15005550006".into())) && filters.contains(&("PageSize".into(), "2".into()))
    );
}

/// Fails when an answer can send the next request, with its credential, to another account's path.
#[tokio::test]
async fn a_list_stays_with_its_own_account_and_ends() {
    let other = ACCOUNT.replace('0', "1");
    for next in [
        "https://evil.example/2010-04-01/Accounts/x",
        "//evil.example/x?y",
        &format!("/2010-04-01/Accounts/{other}/Messages.json?Page=1"),
        &format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json/../../x?Page=1"),
        &format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json"),
        &format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json?a b"),
        &format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json?a#b"),
    ] {
        let fake = answering(&[&page(&[1], Some(next)), &page(&[2], None)]);
        let twilio = fake.client();
        let listed: Result<Vec<_>, _> = twilio.list_messages(&ListMessages::new()).try_collect().await;
        assert_eq!(listed.unwrap_err().kind(), ErrorKind::Decode, "{next}");
        assert_eq!(fake.seen().len(), 1);
    }
    let own = format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json?Page=1");
    let fake = answering(&[&page(&[1], Some(&own)), &page(&[1], Some(&own)), &page(&[1], Some(&own))]);
    let twilio = fake.client();
    let listed: Result<Vec<_>, _> = twilio.list_messages(&ListMessages::new()).try_collect().await;
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Decode, "a page that leads to itself");
}

#[test]
fn addresses_are_checked() {
    let fake = answering(&[]);
    for good in ["http://127.0.0.1:9/", "https://api.sydney.au1.twilio.com"] {
        fake.client().at(good).unwrap();
    }
    for bad in ["", "api.twilio.com", "/x", "https://a.example?x=1"] {
        assert_eq!(fake.client().at(bad).unwrap_err().kind(), ErrorKind::Config, "{bad}");
    }
}

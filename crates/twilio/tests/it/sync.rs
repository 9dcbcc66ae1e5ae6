//! The stream: requests, pages, single records, and what an event says about a record.

use std::borrow::Cow;

use bytes::Bytes;
use http::Response;
use palisade_core::call::Priority;
use palisade_core::sync::{Change, Cursor, Next, Page, Site, Source, Span, State};
use palisade_core::webhook::{Event, Webhook};
use palisade_core::{ErrorKind, EventId, RecordId, Timestamp};
use palisade_twilio::{TwilioSource, TwilioWebhook};

use super::fake::{ACCOUNT, call, message, pairs};

pub(crate) const SPAN: Span = Span { earliest: 1_767_225_600_000, latest: 1_767_225_600_999 };

pub(crate) fn site() -> Site {
    Site {
        base_url: "http://127.0.0.1:9".into(),
        connection: "conn_1".into(),
        tenant: "tenant_1".into(),
        account: Some(ACCOUNT.into()),
        page_size: 10_000,
    }
}

fn query(source: &TwilioSource, cursor: Option<&str>) -> String {
    let request = source.request(&site(), &"messages".into(), cursor.map(Cursor::new).as_ref()).unwrap();
    assert_eq!(request.uri().path(), format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json"));
    assert_eq!((call(&request).operation.name, call(&request).priority), ("messages.list", Priority::Background));
    request.uri().query().unwrap().to_owned()
}

fn page(cursor: Option<&str>, body: &str) -> palisade_core::Result<Page> {
    let cursor = cursor.map(Cursor::new);
    TwilioSource::new().page(&"messages".into(), cursor.as_ref(), &Response::new(body.to_owned().into()), SPAN)
}

#[test]
fn a_full_run_reads_everything_and_a_later_one_its_window() {
    let all = TwilioSource::new();
    assert_eq!(query(&all, None), "PageSize=1000");
    let window = pairs(query(&all, Some("since:1767225600")));
    assert_eq!(window, pairs("DateSent%3E=2026-01-01T00%3A00%3A00Z&PageSize=1000"));
    let recent = TwilioSource::new().sent_since(Timestamp::from_seconds(1_767_225_600));
    assert_eq!(pairs(query(&recent, None)), window);
    assert_eq!(pairs(query(&recent, Some("since:0"))), window, "never before the beginning");
    assert_eq!(query(&recent, Some("page:1:PageSize=2&Page=1&PageToken=PASM1")), "PageSize=2&Page=1&PageToken=PASM1");
}

/// Fails when the next run begins where the last one ended: what changed later would not be seen.
#[test]
fn the_next_run_begins_72_hours_before_this_one_began() {
    let next = format!(r#""/2010-04-01/Accounts/{ACCOUNT}/Messages.json?PageSize=1&Page=1&PageToken=PASM1""#);
    let first = page(None, &format!(r#"{{"messages":[{}],"next_page_uri":{next}}}"#, message(2, ""))).unwrap();
    let Next::More(cursor) = first.next else { panic!() };
    assert_eq!(cursor.as_str(), "page:1767225600:PageSize=1&Page=1&PageToken=PASM1");
    // The last page is read an hour later: the beginning counts.
    let later = Span { earliest: SPAN.earliest + 3_600_000, latest: SPAN.latest + 3_600_000 };
    let body = Response::new(Bytes::from(format!(r#"{{"messages":[{}],"next_page_uri":null}}"#, message(1, ""))));
    let last = TwilioSource::new().page(&"messages".into(), Some(&cursor), &body, later).unwrap();
    let Next::Done { resume: Some(resume) } = last.next else { panic!() };
    assert_eq!(resume.as_str(), format!("since:{}", 1_767_225_600 - 72 * 3_600));
    assert_eq!(last.changes[0].span, later);
}

/// Fails when the same message from a list and from a single read is stored as two different ones.
#[test]
fn the_same_message_is_the_same_bytes_however_it_is_written() {
    let listed = page(None, &format!(r#"{{"messages":[{}]}}"#, message(1, ""))).unwrap();
    let other = r#"{ "status":"queued", "sid":"SM00000000000000000000000000000001" , "body":"hi","date_sent":null,
        "date_created":"Thu, 01 Jan 2026 00:00:00 +0000","num_media":"0","num_segments":"1","direction":"outbound-api",
        "from":"+15005550001","to":"+15005550006","account_sid":"AC00000000000000000000000000000000"}"#;
    let id = RecordId::new(format!("SM{:032}", 1));
    let fetched =
        |body: &str| TwilioSource::new().fetched(&"messages".into(), &id, &Response::new(body.to_owned().into()), SPAN);
    assert_eq!(fetched(other).unwrap(), listed.changes[0]);
    for bad in ["", "[]", "{}", &message(2, ""), r#"{"sid":7}"#] {
        assert_eq!(fetched(bad).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
    let request = TwilioSource::new().fetch(&site(), &"messages".into(), &id).unwrap();
    assert_eq!(request.uri().path(), format!("/2010-04-01/Accounts/{ACCOUNT}/Messages/SM{:032}.json", 1));
    assert_eq!(call(&request).operation.name, "messages.retrieve");
}

#[test]
fn pages_that_are_none_are_decode_errors_and_empty_ones_are_lawful() {
    for bad in [
        "",
        "null",
        "{}",
        "[]",
        "<html>",
        r#"{"messages":{}}"#,
        r#"{"messages":[],"next_page_uri":7}"#,
        r#"{"messages":[],"next_page_uri":"/elsewhere?x"}"#,
        r#"{"messages":[],"next_page_uri":"https://evil.example/2010-04-01/Accounts/AC00000000000000000000000000000000/Messages.json?x"}"#,
    ] {
        assert_eq!(page(None, bad).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
    // A message without a SID is set aside, and the page goes on.
    for bad in ["{}", "7", r#"{"sid":"AC00"}"#] {
        let page = page(None, &format!(r#"{{"messages":[{bad}]}}"#)).unwrap();
        assert_eq!((page.changes.len(), page.bad.len()), (0, 1), "{bad}");
        assert_eq!((&page.bad[0].id, &page.bad[0].raw[..]), (&None, bad.as_bytes()));
    }
    let next = format!("/2010-04-01/Accounts/{ACCOUNT}/Messages.json?Page=2");
    let empty = page(Some("page:5:Page=1"), &format!(r#"{{"messages":[],"next_page_uri":"{next}"}}"#)).unwrap();
    assert_eq!((empty.changes.len(), empty.next), (0, Next::More(Cursor::new("page:5:Page=2"))));
}

#[test]
fn a_connection_without_its_account_is_told_what_is_missing() {
    let source = TwilioSource::new();
    let kind = |site: &Site, stream: &str, cursor: Option<&str>| {
        source.request(site, &stream.into(), cursor.map(Cursor::new).as_ref()).map_err(|e| e.kind()).err()
    };
    assert_eq!(kind(&site(), "calls", None), Some(ErrorKind::Config));
    for cursor in ["", "since:", "since:x", "page:1", "page:1:", "page:x:a", "page:1:a b", "page:1:a#b"] {
        assert_eq!(kind(&site(), "messages", Some(cursor)), Some(ErrorKind::Config), "{cursor}");
    }
    for account in [None, Some("AC1/../x"), Some("acct_1")] {
        let site = Site { account: account.map(str::to_owned), ..site() };
        assert_eq!(kind(&site, "messages", None), Some(ErrorKind::Config), "{account:?}");
    }
    let bad = source.fetch(&site(), &"messages".into(), &RecordId::new("SM1/../x")).unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::Config);
}

fn event(kind: &str, payload: &str) -> Event {
    Event {
        id: EventId::new("e"),
        kind: kind.into(),
        account: None,
        created: None,
        ordering_key: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

#[test]
fn what_concerns_a_message_has_it_fetched() {
    let sid = "SM00000000000000000000000000000001";
    let source = TwilioSource::new();
    for (kind, payload) in [
        ("message.sent", format!(r#"{{"MessageSid":"{sid}","MessageStatus":"sent"}}"#)),
        ("message.received", format!(r#"{{"SmsSid":"{sid}"}}"#)),
        ("com.twilio.messaging.message.delivered", format!(r#"{{"id":"x","data":{{"messageSid":"{sid}"}}}}"#)),
        ("com.twilio.messaging.inbound-message.received", format!(r#"{{"data":{{"messageSid":"{sid}"}}}}"#)),
    ] {
        assert!(source.concerns(kind), "{kind}");
        let changes = source.apply(&event(kind, &payload)).unwrap();
        assert_eq!((changes.len(), changes[0].id.as_str(), &changes[0].state), (1, sid, &State::Unclear), "{kind}");
    }
    for kind in ["opt_out.stop", "call.completed", "recording.completed", "other", "", "messages"] {
        assert!(!source.concerns(kind), "{kind}");
        assert_eq!(source.apply(&event(kind, "no json")).unwrap(), []);
    }
    for payload in ["", "no json", "{}", r#"{"MessageSid":"SM1"}"#, r#"{"data":7}"#] {
        assert_eq!(source.apply(&event("message.sent", payload)).unwrap_err().kind(), ErrorKind::Decode, "{payload}");
    }
}

/// Fails when what no webhook tells of is called missed, the time of what one tells of is read from elsewhere, or a number is
/// heard by another name than its webhook has.
#[test]
fn the_webhook_of_a_number_tells_of_what_comes_to_it() {
    let told = |stream: &str, record: &str| {
        let state = State::Present(record.to_owned().into());
        let change = Change { stream: stream.into(), id: "1".into(), span: SPAN, state };
        let told = TwilioSource::new().told(&change, None)?;
        Some((told.at.millis(), told.by.into_owned(), told.is_notice))
    };
    const BEGUN: &str = r#""date_created":"Thu, 01 Jan 2026 00:00:00 +0000""#;
    let message =
        |direction: &str, to: &str| told("messages", &format!(r#"{{"direction":"{direction}",{BEGUN},"to":"{to}"}}"#));
    let heard = |to: &str| {
        let payload = format!(r#"{{"MessageSid":"SM1","To":"{to}"}}"#);
        TwilioWebhook::new().subscription(&event("message.received", &payload)).map(Cow::into_owned)
    };
    for number in ["+15005550006", "whatsapp:+15005550006", "12345"] {
        let by = heard(number);
        assert_eq!(by, Some(format!("message.received to {number}")));
        assert_eq!(message("inbound", number), by.map(|by| (1_767_225_600_000, by, false)));
    }
    assert_eq!(message("outbound-api", "+15005550006"), None);
    assert_eq!((message("inbound", ""), heard("")), (None, None));
    assert_eq!(told("messages", r#"{"direction":"inbound","to":"+15005550006"}"#), None);
    assert_eq!(TwilioWebhook::new().subscription(&event("message.sent", r#"{"To":"+15005550006"}"#)), None);
}

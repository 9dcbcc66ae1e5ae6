//! Streams: requests, pages, single records, and what an event says about a record.

use bytes::Bytes;
use http::Response;
use palisade_core::call::Priority;
use palisade_core::sync::{Change, Cursor, Next, Page, Site, Source, Span, State};
use palisade_core::webhook::Event;
use palisade_core::{ErrorKind, EventId, RecordId, Timestamp};
use palisade_sendgrid::SendGridSource;

use super::fake::call;

pub(crate) const SPAN: Span = Span { earliest: 1_767_225_600_000, latest: 1_767_225_600_999 };

pub(crate) fn site() -> Site {
    Site {
        base_url: "http://127.0.0.1:9".into(),
        connection: "conn_1".into(),
        tenant: "tenant_1".into(),
        account: None,
        page_size: 1_000,
    }
}

fn page(cursor: Option<&str>, body: &str) -> palisade_core::Result<Page> {
    let cursor = cursor.map(Cursor::new);
    SendGridSource::new().page(&"bounces".into(), cursor.as_ref(), &Response::new(body.to_owned().into()), SPAN)
}

#[test]
fn every_stream_asks_for_full_pages_and_for_its_subuser() {
    let source = SendGridSource::new();
    let names: Vec<_> = source.streams().iter().map(|spec| spec.name).collect();
    assert_eq!(names, ["bounces", "blocks", "spam_reports", "unsubscribes", "invalid_emails"]);
    for name in names {
        let request = source.request(&site(), &name.into(), None).unwrap();
        assert_eq!(
            request.uri().path_and_query().unwrap().as_str(),
            format!("/v3/suppression/{name}?limit=499&offset=0")
        );
        assert_eq!(call(&request).operation.name, format!("{name}.list"));
        assert_eq!(call(&request).priority, Priority::Background);
        assert!(!request.headers().contains_key("on-behalf-of"));
    }
    let sub = Site { account: Some("sub1".into()), ..site() };
    let request = source.request(&sub, &"blocks".into(), Some(&Cursor::new("since:7"))).unwrap();
    assert_eq!(request.headers()["on-behalf-of"], "sub1");
    assert_eq!(request.uri().query(), Some("limit=499&offset=0&start_time=7"));
    let kind = |site: &Site, stream: &str, cursor: Option<&str>| {
        source.request(site, &stream.into(), cursor.map(Cursor::new).as_ref()).map_err(|e| e.kind()).err()
    };
    assert_eq!(kind(&site(), "contacts", None), Some(ErrorKind::Config));
    assert_eq!(kind(&site(), "blocks", Some("x")), Some(ErrorKind::Config));
    assert_eq!(kind(&Site { account: Some("a\nb".into()), ..site() }, "blocks", None), Some(ErrorKind::Config));
}

#[test]
fn a_page_leads_on_and_the_next_run_begins_an_hour_before_this_one() {
    let first =
        page(None, r#"[{"created":2,"email":"A@x","status":"5.1.1","reason":"r"},{"created":1,"email":"b@x"}]"#)
            .unwrap();
    let ids: Vec<_> = first.changes.iter().map(|c| (c.id.as_str(), c.state.clone())).collect();
    assert_eq!(
        ids,
        [
            (
                "a@x",
                State::Present(Bytes::from_static(br#"{"created":2,"email":"A@x","reason":"r","status":"5.1.1"}"#))
            ),
            ("b@x", State::Present(Bytes::from_static(br#"{"created":1,"email":"b@x"}"#))),
        ],
        "an address is one whatever its case, and an entry one text whatever its order"
    );
    let Next::More(cursor) = first.next else { panic!() };
    assert!(!cursor.as_str().contains('@'), "a cursor holds nobody's address: {cursor:?}");
    let request = SendGridSource::new().request(&site(), &"bounces".into(), Some(&cursor)).unwrap();
    assert_eq!(request.uri().query(), Some("limit=500&offset=1&end_time=1767225600"));
    let last = page(Some(cursor.as_str()), r#"[{"created":1,"email":"B@x"}]"#).unwrap();
    assert_eq!(last.changes, []);
    assert_eq!(last.next, Next::Done { resume: Some(Cursor::new(format!("since:{}", 1_767_225_600 - 3_600))) });
    let empty = page(Some("since:7"), "[]").unwrap();
    assert_eq!(empty.next, Next::Done { resume: Some(Cursor::new(format!("since:{}", 1_767_225_600 - 3_600))) });
}

#[test]
fn of_an_address_that_stands_twice_the_newer_entry_counts() {
    let twice = r#"[{"created":1,"email":"a@x"},{"created":3,"email":"A@x"},{"created":2,"email":"a@x"}]"#;
    let changes = page(None, twice).unwrap().changes;
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].state, State::Present(Bytes::from_static(br#"{"created":3,"email":"A@x"}"#)));
}

#[test]
fn pages_that_are_none_are_decode_errors() {
    for bad in ["", "null", "{}", "7", "<html>", r#"{"errors":[]}"#] {
        assert_eq!(page(None, bad).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
    // An entry without an address is set aside, and the page goes on.
    for bad in ["7", "{}", r#"{"email":""}"#, r#"{"email":7}"#] {
        let page = page(None, &format!(r#"[{bad},{{"created":1,"email":"a@x"}}]"#)).unwrap();
        assert_eq!((page.changes.len(), page.bad.len()), (1, 1), "{bad}");
        assert_eq!(&page.bad[0].raw[..], bad.as_bytes());
    }
}

#[test]
fn one_address_is_fetched_and_its_absence_means_deleted() {
    let source = SendGridSource::new();
    let path = |stream: &str, id: &str| {
        let request = source.fetch(&site(), &stream.into(), &RecordId::new(id)).unwrap();
        assert_eq!(call(&request).operation.name, format!("{stream}.retrieve"));
        request.uri().path_and_query().unwrap().to_string()
    };
    assert_eq!(path("bounces", "a/b@x"), "/v3/suppression/bounces/a%2Fb%40x");
    assert_eq!(path("unsubscribes", "a@x"), "/v3/suppression/unsubscribes?email=a%40x&limit=100");
    assert_eq!(source.fetch(&site(), &"bounces".into(), &RecordId::new(" ")).unwrap_err().kind(), ErrorKind::Config);

    let fetched = |body: &str| {
        source.fetched(&"blocks".into(), &RecordId::new("a@x"), &Response::new(body.to_owned().into()), SPAN)
    };
    let found = fetched(r#"[{"email":"a@x.au","created":9},{"email":"A@x","created":1}]"#).unwrap();
    assert_eq!(
        (found.id.as_str(), found.state),
        ("a@x", State::Present(Bytes::from_static(br#"{"created":1,"email":"A@x"}"#)))
    );
    assert_eq!(fetched("[]").unwrap().state, State::Deleted);
    assert_eq!(fetched(r#"[{"email":"a@x.au"}]"#).unwrap().state, State::Deleted);
    assert_eq!(fetched("{}").unwrap_err().kind(), ErrorKind::Decode);
}

fn event(kind: &str, payload: &str) -> Event {
    Event {
        id: EventId::new("e"),
        kind: kind.into(),
        account: None,
        created: Some(Timestamp::from_seconds(1_767_225_000)),
        ordering_key: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

#[test]
fn an_event_has_its_address_fetched_from_the_list_it_is_now_on() {
    let source = SendGridSource::new();
    for (kind, payload, stream) in [
        ("bounce", r#"{"email":"A@x","type":"bounce"}"#, Some("bounces")),
        ("bounce", r#"{"email":"A@x"}"#, Some("bounces")),
        ("bounce", r#"{"email":"A@x","type":"blocked"}"#, Some("blocks")),
        ("spamreport", r#"{"email":"A@x"}"#, Some("spam_reports")),
        ("unsubscribe", r#"{"email":"A@x"}"#, Some("unsubscribes")),
        ("dropped", r#"{"email":"A@x","reason":"Invalid"}"#, Some("invalid_emails")),
        ("dropped", r#"{"email":"A@x","reason":"Bounced Address"}"#, None),
        ("delivered", "no json", None),
        ("group_unsubscribe", "no json", None),
        ("inbound", "no json", None),
    ] {
        let changes = source.apply(&event(kind, payload)).unwrap();
        let seen: Vec<_> = changes.iter().map(|c| (c.stream.as_str(), c.id.as_str(), c.state.clone())).collect();
        let expected: Vec<_> = stream.map(|stream| (stream, "a@x", State::Unclear)).into_iter().collect();
        assert_eq!(seen, expected, "{kind} {payload}");
        assert_eq!(source.concerns(kind), stream.is_some() || kind == "dropped", "{kind}");
    }
    for payload in ["", "no json", "{}", r#"{"email":""}"#] {
        assert_eq!(source.apply(&event("unsubscribe", payload)).unwrap_err().kind(), ErrorKind::Decode, "{payload}");
    }
}

/// Fails when what no webhook tells of is called missed, or the time of what one tells of is read from elsewhere.
#[test]
fn webhooks_tell_of_what_recipients_and_their_servers_did() {
    let told = |stream: &str, record: &str| {
        let state = State::Present(record.to_owned().into());
        let change = Change { stream: stream.into(), id: "1".into(), span: SPAN, state };
        let told = SendGridSource::new().told(&change, None)?;
        Some((told.at.millis(), told.by.into_owned(), told.is_notice))
    };
    let entry = r#"{"email":"a@x.example","created":1767225600}"#;
    assert_eq!(told("bounces", entry), Some((1_767_225_600_000, "bounce".to_owned(), false)));
    assert_eq!(told("blocks", entry), Some((1_767_225_600_000, "bounce".to_owned(), false)));
    assert_eq!(told("spam_reports", entry), Some((1_767_225_600_000, "spamreport".to_owned(), false)));
    for stream in ["unsubscribes", "invalid_emails", "nothing"] {
        assert_eq!(told(stream, entry), None, "{stream}");
    }
    assert_eq!(told("bounces", "{}"), None);
}

//! Streams: requests, pages, single records, and what an event says about a record.

use bytes::Bytes;
use http::Response;
use palisade_core::call::Priority;
use palisade_core::sync::{Change, Cursor, Next, Page, Site, Source, Span, State, StreamKind};
use palisade_core::webhook::Event;
use palisade_core::{ErrorKind, EventId, RecordId, StreamName, Timestamp};
use palisade_stripe::StripeSource;

use super::fake::{call, pairs};

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

pub(crate) fn ok(body: impl Into<Bytes>) -> Response<Bytes> {
    Response::new(body.into())
}

fn page(stream: &str, cursor: Option<&str>, body: &str) -> palisade_core::Result<Page> {
    let cursor = cursor.map(Cursor::new);
    StripeSource::new().page(&StreamName::new(stream), cursor.as_ref(), &ok(body.to_owned()), SPAN)
}

pub(crate) fn event(kind: &str, payload: &str) -> Event {
    Event {
        id: EventId::new("evt_1"),
        kind: kind.into(),
        account: None,
        created: Some(Timestamp::from_seconds(1_767_225_000)),
        ordering_key: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

#[test]
fn records_come_first_and_every_stream_asks_for_full_pages() {
    let source = StripeSource::new();
    let names: Vec<_> = source.streams().iter().map(|spec| spec.name).collect();
    assert_eq!(names, ["customers", "products", "prices", "subscriptions", "invoices", "charges", "events"]);
    for spec in source.streams().iter().filter(|spec| spec.kind == StreamKind::Records) {
        let request = source.request(&site(), &spec.name.into(), None).unwrap();
        assert_eq!(request.uri().path(), format!("/v1/{}", spec.name));
        let mut expected = vec![("limit".to_owned(), "100".to_owned())];
        if spec.name == "subscriptions" {
            expected.push(("status".to_owned(), "all".to_owned()));
        }
        assert_eq!(pairs(request.uri().query().unwrap()), expected);
        assert_eq!(request.headers()["stripe-version"], palisade_stripe::API_VERSION);
        let call = call(&request);
        assert_eq!(
            (call.operation.name, call.priority),
            (format!("{}.list", spec.name).as_str(), Priority::Background)
        );
    }
}

#[test]
fn a_request_goes_on_from_its_cursor_for_its_account() {
    let mut site = site();
    site.account = Some("acct_1".into());
    site.base_url = "http://127.0.0.1:9/".into();
    site.page_size = 0;
    let cursor = Cursor::new("cus_1&limit=7");
    let request = StripeSource::new().request(&site, &"customers".into(), Some(&cursor)).unwrap();
    assert_eq!(request.uri().to_string(), "http://127.0.0.1:9/v1/customers?limit=1&starting_after=cus_1%26limit%3D7");
    assert_eq!(request.headers()["stripe-account"], "acct_1");

    let kind =
        |site: &Site, stream: &str| StripeSource::new().request(site, &stream.into(), None).map_err(|e| e.kind()).err();
    assert_eq!(kind(&site, "coupons"), Some(ErrorKind::Config));
    site.account = Some("acct\n".into());
    assert_eq!(kind(&site, "customers"), Some(ErrorKind::Config));
    site.base_url = "not a url".into();
    assert_eq!(kind(&site, "customers"), Some(ErrorKind::Config));
    let bad = StripeSource::new().request(&self::site(), &"events".into(), Some(&Cursor::new("after:evt_1&x@1")));
    assert_eq!(bad.unwrap_err().kind(), ErrorKind::Config, "a cursor cannot smuggle a parameter in");
}

/// Fails when records are copied out of a compact page, or when a pretty one is stored as it stands.
#[test]
fn a_page_is_slices_of_the_answer_without_white_space() {
    let compact =
        ok(r#"{"object":"list","data":[{"id":"cus_2","name":"a b"},{"id":"cus_1","deleted":true}],"has_more":true}"#);
    let page = StripeSource::new().page(&"customers".into(), None, &compact, SPAN).unwrap();
    assert_eq!(page.next, Next::More(Cursor::new("cus_1,cus_2")));
    let Change { id, span, state: State::Present(bytes), .. } = &page.changes[0] else { panic!("{:?}", page.changes) };
    assert_eq!((id.as_str(), *span, &bytes[..]), ("cus_2", SPAN, br#"{"id":"cus_2","name":"a b"}"#.as_slice()));
    assert!(compact.body().as_ptr_range().contains(&bytes.as_ptr()), "the bytes are the answer's own");
    assert_eq!(page.changes[1].state, State::Deleted);

    let pretty = "{\n \"data\": [\n  {\n   \"id\": \"cus_2\",\n   \"name\": \"a b\"\n  }\n ],\n \"has_more\": false\n}";
    let page = self::page("customers", None, pretty).unwrap();
    assert_eq!(page.changes[0].state, State::Present(bytes.clone()), "the same object is the same bytes");
    assert_eq!(page.next, Next::Done { resume: None });
}

#[test]
fn pages_that_contradict_themselves_are_decode_errors() {
    for bad in [
        "",
        "null",
        "{}",
        "[]",
        "<html>",
        r#"{"data":[],"has_more":true}"#,
        r#"{"data":[{}],"has_more":true}"#,
        r#"{"data":[{"id":"a"}]}"#,
        r#"{"data":{"id":"a"},"has_more":false}"#,
        r#"{"data":[{"id":"a"}],"has_more":"no"}"#,
    ] {
        assert_eq!(page("customers", None, bad).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
    // An object without a name is set aside, and the page goes on behind the last one that has one.
    for bad in ["{}", r#"{"id":""}"#, r#"{"id":7}"#, "7"] {
        let body = format!(r#"{{"data":[{{"id":"cus_2"}},{bad}],"has_more":true}}"#);
        let page = page("customers", None, &body).unwrap();
        assert_eq!((page.changes.len(), page.bad.len(), &page.bad[0].id), (1, 1, &None), "{bad}");
        assert_eq!(&page.bad[0].raw[..], bad.as_bytes());
        assert_eq!(page.next, Next::More(Cursor::new("cus_2")));
    }
    let empty = page("customers", Some("cus_1"), r#"{"data":[],"has_more":false}"#).unwrap();
    assert_eq!((empty.changes.len(), empty.next), (0, Next::Done { resume: None }));
    let nameless = page("events", Some("after:evt_0@1"), r#"{"data":[{"id":7}],"has_more":true}"#);
    assert_eq!(nameless.unwrap_err().kind(), ErrorKind::Decode, "nothing to go on behind");
}

/// Fails when one unreadable event fails its page, is lost without a word, or holds up the walk where it stands last.
#[test]
fn an_unreadable_event_is_set_aside_by_its_name_and_the_walk_goes_on_behind_it() {
    let good = |n: u64| format!(r#"{{"id":"evt_{n}","type":"customer.updated","created":{n},"data":{{}}}}"#);
    for wrong in [r#"{"id":"evt_X"}"#, r#"{"id":"evt_X","type":7}"#, r#"{"id":"evt_X","type":""}"#] {
        for (order, shown, behind) in [
            (["3", "X", "1"], vec!["evt_1", "evt_3"], "evt_3"),
            (["X", "2", "1"], vec!["evt_1", "evt_2"], "evt_X"),
            (["3", "2", "X"], vec!["evt_2", "evt_3"], "evt_3"),
        ] {
            let data = order.map(|n| n.parse().map_or_else(|_| wrong.to_owned(), good)).join(",");
            let body = format!(r#"{{"data":[{data}],"has_more":true}}"#);
            let page = page("events", Some("after:evt_0@0"), &body).unwrap();
            let events: Vec<_> = page.events.iter().map(|event| event.id.as_str()).collect();
            assert_eq!(events, shown, "{body}");
            assert_eq!(page.bad.len(), 1, "{body}");
            assert_eq!((page.bad[0].id.as_ref().unwrap().as_str(), &page.bad[0].raw[..]), ("evt_X", wrong.as_bytes()));
            let Next::More(next) = page.next else { panic!("{body}") };
            assert!(next.as_str().starts_with(&format!("walk:{behind}:")), "{next:?}");
        }
        let alone = page("events", Some("after:evt_0@0"), &format!(r#"{{"data":[{wrong}],"has_more":true}}"#)).unwrap();
        assert!(matches!(alone.next, Next::More(_)), "{:?}", alone.next);
        // A page that is only dived past names nobody: it is read again on the way back.
        let dived =
            page("events", Some("since:1767225000"), &format!(r#"{{"data":[{wrong}],"has_more":true}}"#)).unwrap();
        assert_eq!((dived.events.len(), dived.bad.len()), (0, 0));
    }
}

#[test]
fn one_record_is_fetched_by_its_id_whatever_the_id_holds() {
    let source = StripeSource::new();
    let request = source.fetch(&site(), &"products".into(), &RecordId::new("our/own id?")).unwrap();
    assert_eq!(request.uri().path_and_query().unwrap().as_str(), "/v1/products/our%2Fown%20id%3F");
    assert_eq!(call(&request).operation.name, "products.retrieve");
    assert_eq!(source.fetch(&site(), &"products".into(), &RecordId::new("")).unwrap_err().kind(), ErrorKind::Config);

    let fetched = |body: &str| source.fetched(&"customers".into(), &RecordId::new("cus_1"), &ok(body.to_owned()), SPAN);
    let change = fetched("{\"id\": \"cus_1\", \"x\": [1, 2]}").unwrap();
    assert_eq!(change.state, State::Present(Bytes::from_static(br#"{"id":"cus_1","x":[1,2]}"#)));
    assert_eq!(fetched(r#"{"id":"cus_1","object":"customer","deleted":true}"#).unwrap().state, State::Deleted);
    for bad in [r#"{"id":"cus_2"}"#, "{}", "", "[]", r#"{"x":{"id":"cus_1"}}"#] {
        assert_eq!(fetched(bad).unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
}

fn snapshot(version: &str, object: &str) -> String {
    format!(
        r#"{{"id":"evt_1","object":"event","type":"x","created":1767225000,"livemode":false,"api_version":{version},"data":{{"object":{object}}}}}"#
    )
}

const OURS: &str = r#""2026-09-30.endive""#;

#[track_caller]
fn applies(kind: &str, payload: &str, expected: &[(&str, &str, State)]) {
    let changes = StripeSource::new().apply(&event(kind, payload)).unwrap();
    let seen: Vec<_> = changes.iter().map(|c| (c.stream.as_str(), c.id.as_str(), c.state.clone())).collect();
    assert_eq!(seen, expected, "{kind}");
    for change in &changes {
        assert_eq!(change.span, Span { earliest: 1_767_225_000_000, latest: 1_767_225_000_999 }, "{kind}");
    }
    assert_eq!(StripeSource::new().concerns(kind), !expected.is_empty(), "{kind}");
}

#[test]
fn an_event_of_our_version_carries_the_record() {
    for (kind, object, stream) in [
        ("customer.created", "customer", "customers"),
        ("customer.updated", "customer", "customers"),
        ("product.updated", "product", "products"),
        ("price.created", "price", "prices"),
        ("customer.subscription.updated", "subscription", "subscriptions"),
        ("customer.subscription.deleted", "subscription", "subscriptions"),
        ("customer.subscription.trial_will_end", "subscription", "subscriptions"),
        ("invoice.paid", "invoice", "invoices"),
        ("invoice.payment_failed", "invoice", "invoices"),
        ("charge.refunded", "charge", "charges"),
    ] {
        let record = format!(r#"{{"id":"x_1","object":"{object}"}}"#);
        applies(kind, &snapshot(OURS, &record), &[(stream, "x_1", State::Present(record.clone().into()))]);
        let spaced = format!("{{ \"id\": \"x_1\",\n  \"object\": \"{object}\" }}");
        applies(kind, &snapshot(OURS, &spaced), &[(stream, "x_1", State::Present(record.into()))]);
    }
}

/// Fails when an object in another version's shape is stored beside ours.
#[test]
fn an_event_of_another_version_only_says_which_record_to_fetch() {
    let record = r#"{"id":"cus_1","object":"customer"}"#;
    for version in [r#""2026-10-28.endive""#, r#""2022-11-15""#, "null"] {
        applies("customer.updated", &snapshot(version, record), &[("customers", "cus_1", State::Unclear)]);
        applies("customer.deleted", &snapshot(version, record), &[("customers", "cus_1", State::Deleted)]);
    }
    let old = StripeSource::new().speaking("2022-11-15").unwrap();
    let changes = old.apply(&event("customer.updated", &snapshot(r#""2022-11-15""#, record))).unwrap();
    assert_eq!(changes[0].state, State::Present(Bytes::from_static(record.as_bytes())));
}

#[test]
fn what_touches_a_record_from_outside_has_it_fetched() {
    let of_charge = r#"{"id":"dp_1","object":"dispute","charge":"ch_1"}"#;
    applies("charge.dispute.created", &snapshot(OURS, of_charge), &[("charges", "ch_1", State::Unclear)]);
    applies(
        "refund.failed",
        &snapshot(OURS, r#"{"id":"re_1","object":"refund","charge":{"id":"ch_2"}}"#),
        &[("charges", "ch_2", State::Unclear)],
    );
    let discount = r#"{"id":"di_1","object":"discount","customer":"cus_1","subscription":"sub_1"}"#;
    applies(
        "customer.discount.created",
        &snapshot(OURS, discount),
        &[("customers", "cus_1", State::Unclear), ("subscriptions", "sub_1", State::Unclear)],
    );
    let refund = snapshot(OURS, r#"{"id":"re_1","object":"refund","charge":null}"#);
    assert_eq!(StripeSource::new().apply(&event("refund.created", &refund)).unwrap(), []);
}

#[test]
fn thin_events_name_the_record_to_fetch() {
    let thin = |kind: &str| {
        format!(
            r#"{{"id":"evt_1","object":"v2.core.event","type":"x","created":"2026-01-01T00:00:00Z","related_object":{{"id":"sub_1","type":"{kind}"}}}}"#
        )
    };
    applies("v1.customer.subscription.updated", &thin("subscription"), &[("subscriptions", "sub_1", State::Unclear)]);
    let other = StripeSource::new().apply(&event("v1.customer.subscription.updated", &thin("coupon"))).unwrap();
    assert_eq!(other, []);
}

#[test]
fn events_of_no_concern_are_not_even_read() {
    for kind in
        ["invoice.upcoming", "customer.source.created", "plan.updated", "payment_intent.succeeded", "", "new.thing"]
    {
        applies(kind, "not json", &[]);
    }
    let broken = StripeSource::new().apply(&event("customer.updated", "not json"));
    assert_eq!(broken.unwrap_err().kind(), ErrorKind::Decode);
    for object in ["{}", r#"{"id":"x"}"#, r#"{"object":"customer"}"#, r#"{"id":"src_1","object":"card"}"#, "7"] {
        let result = StripeSource::new().apply(&event("customer.updated", &snapshot(OURS, object)));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Decode, "{object}");
    }
}

#[test]
fn events_of_the_other_mode_are_left_out_when_a_mode_is_set() {
    let payload = snapshot(OURS, r#"{"id":"cus_1","object":"customer"}"#);
    let applied = |source: StripeSource| source.apply(&event("customer.updated", &payload)).unwrap().len();
    assert_eq!(applied(StripeSource::new()), 1);
    assert_eq!(applied(StripeSource::new().in_mode(false)), 1);
    assert_eq!(applied(StripeSource::new().in_mode(true)), 0, "a test event has no place among live records");
}

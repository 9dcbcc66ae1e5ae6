//! The typed client: what goes out is what the official SDK sends, and what comes back is read in both shapes.

use futures_util::StreamExt;
use palisade_core::call::Priority;
use palisade_core::{Error, ErrorKind, Outcome};
use palisade_stripe::client::{Confirmation, NewCheckout, NewCustomer, NewRefund, NewSubscription, RefundReason};
use stripe_client_core::{IdempotencyKey, RequestStrategy, StripeRequest};
use stripe_core::customer::ListCustomer;

use super::fake::{Clients as _, answer, answering, call, pairs};

const SUBSCRIPTION: &str =
    r#"{"id":"sub_1","object":"subscription","status":"incomplete","cancel_at_period_end":true}"#;

#[tokio::test]
async fn the_other_calls_send_what_they_say() {
    #[track_caller]
    fn sent(request: &http::Request<bytes::Bytes>, path: &str, expected: &[(&str, &str)]) {
        assert_eq!(request.uri().path(), path);
        let body = pairs(std::str::from_utf8(request.body()).unwrap());
        let mut expected: Vec<_> = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        expected.sort();
        assert_eq!(body, expected);
    }
    let fake = answering(&[SUBSCRIPTION]);
    fake.client().undo_cancel("sub_1", Some("k")).await.unwrap();
    sent(&fake.only(), "/v1/subscriptions/sub_1", &[("cancel_at_period_end", "false")]);

    let fake = answering(&[r#"{"id":"re_1","status":"succeeded","amount":500,"currency":"usd"}"#]);
    let new = NewRefund::of_payment("pi_1").amount(500).reason(RefundReason::RequestedByCustomer);
    let refund = fake.client().refund(new, None).await.unwrap();
    assert_eq!((refund.id.as_str(), refund.amount), ("re_1", 500));
    sent(
        &fake.only(),
        "/v1/refunds",
        &[("payment_intent", "pi_1"), ("amount", "500"), ("reason", "requested_by_customer")],
    );

    let page = r#"{"id":"cs_1","url":"https://checkout.stripe.com/c/cs_1","status":"open"}"#;
    let fake = answering(&[page]);
    let new =
        NewCheckout::subscription("https://x.example/ok").price("price_1").customer("cus_1").client_reference("u1");
    let session = fake.client().checkout_session(new, None).await.unwrap();
    assert_eq!(session.url.as_deref(), Some("https://checkout.stripe.com/c/cs_1"));
    sent(
        &fake.only(),
        "/v1/checkout/sessions",
        &[
            ("mode", "subscription"),
            ("success_url", "https://x.example/ok"),
            ("line_items[0][price]", "price_1"),
            ("line_items[0][quantity]", "1"),
            ("customer", "cus_1"),
            ("client_reference_id", "u1"),
        ],
    );

    let fake = answering(&[page]);
    let new = NewCheckout::setup("https://x.example/ok", "eur").unwrap().cancel_url("https://x.example/no");
    fake.client().checkout_session(new, None).await.unwrap();
    sent(
        &fake.only(),
        "/v1/checkout/sessions",
        &[
            ("mode", "setup"),
            ("success_url", "https://x.example/ok"),
            ("cancel_url", "https://x.example/no"),
            ("currency", "eur"),
        ],
    );

    let fake = answering(&[page]);
    let new = NewCheckout::payment("https://x.example/ok")
        .price_times("price_2", 3)
        .customer_email("a@x.example")
        .metadata("a", "b");
    fake.client().checkout_session(new, None).await.unwrap();
    sent(
        &fake.only(),
        "/v1/checkout/sessions",
        &[
            ("mode", "payment"),
            ("success_url", "https://x.example/ok"),
            ("line_items[0][price]", "price_2"),
            ("line_items[0][quantity]", "3"),
            ("customer_email", "a@x.example"),
            ("metadata[a]", "b"),
        ],
    );
}

/// Fails when the expansion of the wrong era is asked for: Stripe refuses it.
#[tokio::test]
async fn a_subscription_starts_in_versions_before_and_since_basil() {
    let confirmation = async |version: &str, answer: &str| {
        let fake = answering(&[answer]);
        let stripe = fake.client().speaking(version).unwrap();
        let new = NewSubscription::new("cus_1").price_times("price_1", 2).trial_days(14).metadata("k", "v");
        let started = stripe.start_subscription(new, None).await.unwrap();
        let request = fake.only();
        assert_eq!(request.headers()["stripe-version"], version);
        let sent = pairs(std::str::from_utf8(request.body()).unwrap());
        let sent = move |name: &str| sent.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        assert_eq!(sent("items[0][quantity]").as_deref(), Some("2"));
        assert_eq!(sent("trial_period_days").as_deref(), Some("14"));
        assert_eq!(started.subscription_id, "sub_1");
        let secret = match started.confirmation {
            Some(Confirmation::Payment { client_secret }) => format!("payment {}", client_secret.expose()),
            Some(Confirmation::Setup { client_secret }) => format!("setup {}", client_secret.expose()),
            None => "none".to_owned(),
        };
        (sent("expand[0]").unwrap(), secret)
    };
    let with = |fields: &str| format!(r#"{{"id":"sub_1","status":"incomplete",{fields}}}"#);
    let classic = with(
        r#""latest_invoice":{"id":"in_1","payment_intent":{"id":"pi_1","status":"requires_payment_method","client_secret":"s1"}},"pending_setup_intent":null"#,
    );
    let basil = with(
        r#""latest_invoice":{"id":"in_1","confirmation_secret":{"client_secret":"s2","type":"payment_intent"}},"pending_setup_intent":null"#,
    );
    let setup = with(
        r#""latest_invoice":{"id":"in_1","confirmation_secret":null},"pending_setup_intent":{"id":"seti_1","status":"requires_payment_method","client_secret":"s3"}"#,
    );
    let free = with(r#""latest_invoice":"in_1","pending_setup_intent":null"#);
    let paid = with(r#""latest_invoice":{"id":"in_1","payment_intent":{"status":"succeeded","client_secret":"s4"}}"#);
    let (old, new) = ("latest_invoice.payment_intent", "latest_invoice.confirmation_secret");
    for (version, answer, expand, secret) in [
        ("2022-11-15", &classic, old, "payment s1"),
        ("2025-02-24.acacia", &classic, old, "payment s1"),
        ("2025-03-31.basil", &basil, new, "payment s2"),
        ("2026-09-30.endive", &basil, new, "payment s2"),
        ("2026-09-30.endive", &setup, new, "setup s3"),
        ("2022-11-15", &setup, old, "setup s3"),
        ("2026-09-30.endive", &free, new, "none"),
        ("2022-11-15", &paid, old, "none"),
    ] {
        assert_eq!(confirmation(version, answer).await, (expand.to_owned(), secret.to_owned()), "{version} {answer}");
    }
}

#[tokio::test]
async fn a_periods_end_is_read_in_both_shapes() {
    for (fields, end) in [
        (r#""current_period_end":7"#, Some(7)),
        (r#""items":{"data":[{"current_period_end":8},{"current_period_end":9},{}]}"#, Some(9)),
        (r#""items":{"data":[]}"#, None),
        (r#""cancel_at":5"#, None),
    ] {
        let fake = answering(&[&format!(r#"{{"id":"sub_1","status":"active",{fields}}}"#)]);
        assert_eq!(fake.client().cancel_now("sub_1").await.unwrap().current_period_end, end, "{fields}");
    }
}

fn customer(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","object":"customer","created":1,"livemode":false,"shipping":null,"email":null,"metadata":{{}}}}"#
    )
}

/// Fails when the second page forgets the filter or limit of the first.
#[tokio::test]
async fn lists_are_streams_that_page_with_their_filters() {
    let page = |ids: &[&str], more: bool| {
        let data: Vec<_> = ids.iter().map(|id| customer(id)).collect();
        format!(r#"{{"object":"list","url":"/v1/customers","has_more":{more},"data":[{}]}}"#, data.join(","))
    };
    let fake = answering(&[&page(&["cus_3", "cus_2"], true), &page(&["cus_1"], false)]);
    let stripe = fake.client().in_background();
    let ids: Vec<_> = stripe
        .list_customers(ListCustomer::new().email("a@x.example"))
        .map(|customer| customer.unwrap().id.to_string())
        .collect()
        .await;
    assert_eq!(ids, ["cus_3", "cus_2", "cus_1"]);
    let queries: Vec<_> = fake.seen().iter().map(|request| pairs(request.uri().query().unwrap())).collect();
    let own =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
    assert_eq!(queries[0], own(&[("email", "a@x.example"), ("limit", "100")]));
    assert_eq!(queries[1], own(&[("email", "a@x.example"), ("limit", "100"), ("starting_after", "cus_2")]));
    assert_eq!(call(&fake.seen()[1]).priority, Priority::Background);

    let fake = answering(&[&page(&["cus_3"], true)]);
    let stripe = fake.client();
    let mut customers = stripe.list_customers(ListCustomer::new());
    assert!(customers.next().await.unwrap().is_ok());
    assert_eq!(customers.next().await.unwrap().unwrap_err().kind(), ErrorKind::Connect);
    assert!(customers.next().await.is_none(), "a stream ends with its first error");
}

/// Fails when a write whose answer cannot be read looks as if it had not happened, or loses what to look it up by.
#[tokio::test]
async fn an_unreadable_answer_keeps_operation_request_id_and_outcome() {
    #[track_caller]
    fn check(error: &Error, operation: &str, outcome: Outcome) {
        assert_eq!(
            (error.kind(), error.operation(), error.request_id()),
            (ErrorKind::Decode, Some(operation), Some("req_1"))
        );
        assert_eq!((error.outcome(), error.provider(), error.is_retryable()), (outcome, Some("stripe"), false));
    }
    for body in ["{}", "[", "", "\u{0}", &"[".repeat(50_000), r#"{"id":7,"status":"x"}"#] {
        let stripe = answering(&[body, body, body, body]).client();
        let new = NewSubscription::new("cus_1").price("price_1");
        check(&stripe.start_subscription(new, None).await.unwrap_err(), "subscriptions.create", Outcome::Processed);
        check(
            &stripe.create_customer(NewCustomer::new(), None).await.unwrap_err(),
            "customers.create",
            Outcome::Processed,
        );
        check(&stripe.retrieve_invoice("in_1").await.unwrap_err(), "invoices.retrieve", Outcome::Rejected);
        // Through async-stripe's own door as well.
        let failure = stripe_core::refund::CreateRefund::new().charge("ch_1").send(&stripe).await.unwrap_err();
        check(&Error::from(failure), "refunds.create", Outcome::Processed);
    }
    let invalid = http::Response::builder().status(200).body(bytes::Bytes::from_static(b"\xff\xfe")).unwrap();
    assert!(answer(200, "").headers().contains_key("request-id") && !invalid.headers().contains_key("request-id"));
}

#[tokio::test]
async fn async_stripes_own_requests_run_with_their_overrides() {
    let fake = answering(&[&customer("cus_1"), "{}"]);
    let stripe = fake.client();
    let key = IdempotencyKey::new("mine").unwrap();
    stripe_core::customer::CreateCustomer::new()
        .email("a@x.example")
        .customize()
        .request_strategy(RequestStrategy::Idempotent(key))
        .account_id("acct_5".into())
        .timeout(std::time::Duration::MAX)
        .send(&stripe)
        .await
        .unwrap();
    let request = fake.only();
    assert_eq!(call(&request).idempotency_key.as_deref(), Some("mine"));
    assert_eq!(request.headers()["stripe-account"], "acct_5");
    assert!(call(&request).deadline.is_some());
    let failure = stripe_core::customer::CreateCustomer::new()
        .customize()
        .request_strategy(RequestStrategy::Retry(9))
        .send(&stripe)
        .await;
    assert!(failure.is_err());
    assert_eq!(call(&fake.seen()[1]).idempotency_key, None, "repeating is the pipeline's business, and so is its key");
}

/// Fails when an id reaches the path as it is: `x/../../v1/refunds` would name another endpoint.
#[tokio::test]
async fn ids_and_keys_that_are_none_are_refused_before_anything_is_sent() {
    let fake = answering(&[]);
    let stripe = fake.client();
    for id in ["", "sub_1/../x", "..", "sub_1?a=b", "sub_1#x", "sub 1", "sub\n", "süb", "a\\b"] {
        assert_eq!(stripe.cancel_now(id).await.unwrap_err().kind(), ErrorKind::Invalid, "{id:?}");
    }
    for key in ["", "a\nb", "ä", &"k".repeat(256)] {
        assert_eq!(stripe.undo_cancel("sub_1", Some(key)).await.unwrap_err().kind(), ErrorKind::Invalid, "{key:?}");
    }
    assert_eq!(fake.seen().len(), 0);
    assert_eq!(NewCheckout::setup("https://x", "").err().map(|error| error.kind()), Some(ErrorKind::Invalid));
}

#[test]
fn settings_are_checked_when_they_are_given() {
    let stripe = || answering(&[]).client();
    for bad in ["", "api.stripe.com", "/v1", "http://x?y=1"] {
        assert_eq!(stripe().at(bad).unwrap_err().kind(), ErrorKind::Config, "{bad}");
    }
    assert!(stripe().at("http://127.0.0.1:12111/").is_ok());
    assert_eq!(stripe().for_account("acct\n1").unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(stripe().speaking("newest").unwrap_err().kind(), ErrorKind::Config);
    assert!(!format!("{:?}", stripe()).contains("sk_"));
}

#[tokio::test]
async fn errors_of_the_transport_keep_their_kind_and_get_the_operation() {
    let error = answering(&[]).client().cancel_now("sub_1").await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Connect, Some("subscriptions.cancel")));
    let failure = ListCustomer::new().send(&answering(&[]).client()).await.unwrap_err();
    assert_eq!(failure.error().kind(), ErrorKind::Connect, "matchable through async-stripe's error too");
}

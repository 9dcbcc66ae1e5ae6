//! Credentials, accounts, idempotency, faults, limits, clock: how the provider treats its callers.

use std::time::Duration;

use palisade_emulator::stripe::{Cut, Fault, RetryAfter, RouteFaults};

use super::support::{get, id, offline, post, raw};

#[tokio::test]
async fn credentials_are_checked() {
    let stripe = offline();
    let with = async |value: &str| raw(&stripe, "GET", "/v1/customers", "", &[("authorization", value)]).await.unwrap();
    assert_eq!(with("Bearer sk_test_wrong").await.status, 401);
    assert_eq!(with("").await.status, 401);
    with("Bearer pk_test_x").await.refused(401, "secret_key_required");
    // Basic with the key as user name and no password.
    assert_eq!(with("Basic c2tfdGVzdF9lbXVsYXRvcjo=").await.status, 200);
    stripe.revoke_key();
    with("Bearer sk_test_emulator").await.refused(401, "api_key_expired");
    stripe.set_api_key("sk_test_second");
    assert_eq!(with("Bearer sk_test_second").await.status, 200);
    let ledger = stripe.ledger();
    assert_eq!((ledger.auth_failures, ledger.responses_by_status[&401]), (4, 4));
}

#[tokio::test]
async fn accounts_are_apart() {
    let stripe = offline();
    let on = async |account: &str| {
        raw(&stripe, "POST", "/v1/customers", "name=x", &[("stripe-account", account)]).await.unwrap()
    };
    let made = on("acct_other").await;
    assert_eq!(made.header("stripe-account"), "acct_other");
    let made = made.ok();
    get(&stripe, &format!("/v1/customers/{}", id(&made))).await.refused(404, "resource_missing");
    on("acct_unknown").await.refused(403, "account_invalid");
    assert_eq!(stripe.truth_on("acct_other", "customers").len(), 1);
    assert!(stripe.truth("customers").is_empty() && stripe.events().is_empty());
}

#[tokio::test]
async fn a_key_is_used_once() {
    let stripe = offline();
    let with = async |body: &str, key: &str| {
        raw(&stripe, "POST", "/v1/customers", body, &[("idempotency-key", key)]).await.unwrap()
    };
    let first = with("name=x", "k1").await;
    assert_eq!((first.header("idempotency-key"), first.header("idempotent-replayed")), ("k1", ""));
    let second = with("name=x", "k1").await;
    assert_eq!(second.header("idempotent-replayed"), "true");
    assert_eq!(second.header("original-request"), first.header("request-id"));
    assert_ne!(second.header("request-id"), first.header("request-id"));
    assert_eq!(first.json, second.json);
    let clash = with("name=y", "k1").await;
    assert_eq!((clash.status, clash.json["error"]["type"].as_str()), (400, Some("idempotency_error")));
    with("balance=x", "k2").await.refused(400, "parameter_invalid_integer");
    assert_eq!(with("balance=1", "k2").await.status, 200, "a validation failure is not kept");
    assert_eq!(with("name=x", &"k".repeat(256)).await.status, 400);
    let ledger = stripe.ledger();
    assert_eq!((ledger.attempts_by_key["k1"], ledger.replays), (3, 1));
    assert_eq!(stripe.truth("customers").len(), 2);
}

#[tokio::test]
async fn a_card_error_is_kept_for_its_key() {
    let stripe = offline();
    let with = async || {
        raw(
            &stripe,
            "POST",
            "/v1/payment_intents",
            "amount=900&currency=usd&confirm=true&payment_method=pm_card_chargeDeclined",
            &[("idempotency-key", "k")],
        )
        .await
        .unwrap()
    };
    let (first, second) = (with().await, with().await);
    assert_eq!((first.status, second.status), (402, 402));
    assert_eq!(first.json, second.json);
    assert_eq!(stripe.truth("payment_intents").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_in_use_is_a_conflict_and_the_first_goes_on() {
    let stripe = offline();
    stripe.faults().next("POST /v1/customers", [Fault::Latency(Duration::from_secs(5))]);
    let with = async || raw(&stripe, "POST", "/v1/customers", "name=x", &[("idempotency-key", "k")]).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_secs(1), with()).await;
    assert!(given_up.is_err());
    let conflict = with().await;
    assert_eq!(conflict.header("stripe-should-retry"), "true");
    conflict.refused(409, "idempotency_key_in_use");
    tokio::time::advance(Duration::from_secs(5)).await;
    tokio::task::yield_now().await;
    assert_eq!(with().await.header("idempotent-replayed"), "true");
    assert_eq!(stripe.truth("customers").len(), 1);
}

#[tokio::test]
async fn faults_before_and_after_the_change() {
    let stripe = offline();
    let post = async |key: &str| raw(&stripe, "POST", "/v1/customers", "name=x", &[("idempotency-key", key)]).await;
    let count = || stripe.truth("customers").len();
    let next = |fault: Fault| stripe.faults().next("POST /v1/customers", [fault]);

    next(Fault::Status(503));
    assert_eq!((post("a").await.unwrap().status, count()), (503, 0));
    next(Fault::ResetBefore);
    assert_eq!((post("a").await.unwrap_err(), count()), (Cut::Reset, 0));
    next(Fault::HangBefore);
    assert_eq!((post("a").await.unwrap_err(), count()), (Cut::Hang, 0));
    assert_eq!((post("a").await.unwrap().status, count()), (200, 1));

    next(Fault::StatusAfter(500));
    assert_eq!((post("b").await.unwrap().status, count()), (500, 2));
    let replay = post("b").await.unwrap();
    assert_eq!((replay.status, replay.header("idempotent-replayed"), count()), (500, "true", 2));
    next(Fault::ResetAfter);
    assert_eq!((post("c").await.unwrap_err(), count()), (Cut::Reset, 3));
    assert_eq!((post("c").await.unwrap().status, count()), (200, 3));
    next(Fault::HangAfter);
    assert_eq!((post("d").await.unwrap_err(), count()), (Cut::Hang, 4));
    next(Fault::CutBody);
    let Err(Cut::CutBody { status, headers, partial }) = post("e").await else { panic!("expected a cut body") };
    assert_eq!((status.as_u16(), count()), (200, 5));
    assert!(partial.len() < headers["content-length"].to_str().unwrap().parse().unwrap());
    let ledger = stripe.ledger();
    assert_eq!((ledger.faults["status"], ledger.faults["cut_body"], ledger.replays), (1, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn throttles_are_true_and_early_returns_are_seen() {
    let stripe = offline();
    stripe.faults().set(RouteFaults {
        route: "GET /v1/customers".to_owned(),
        budget: Some(2),
        retry_after: RetryAfter::Seconds(3),
        ..RouteFaults::default()
    });
    for _ in 0..2 {
        assert_eq!(get(&stripe, "/v1/customers").await.status, 200);
    }
    let over = get(&stripe, "/v1/customers").await;
    assert_eq!((over.header("retry-after"), over.header("stripe-rate-limited-reason")), ("3", "endpoint-rate"));
    over.refused(429, "rate_limit");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(get(&stripe, "/v1/customers").await.status, 200);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(get(&stripe, "/v1/customers").await.status, 200);
    let ledger = stripe.ledger();
    assert_eq!((ledger.throttles, ledger.early_after_retry_after, ledger.peak_per_second), (1, 1, 3));

    stripe.faults().clear_all();
    stripe.faults().next("*", [Fault::Throttle(RetryAfter::Date(10)), Fault::LockTimeout]);
    let dated = get(&stripe, "/v1/prices").await;
    let gap = |name: &str| httpdate::parse_http_date(dated.header(name)).unwrap();
    assert_eq!(gap("retry-after").duration_since(gap("date")).unwrap(), Duration::from_secs(10));
    let lock = get(&stripe, "/v1/prices").await;
    assert_eq!((lock.header("stripe-rate-limited-reason"), lock.header("stripe-should-retry")), ("", "true"));
    lock.refused(429, "lock_timeout");
    stripe.faults().set(RouteFaults { budget: Some(1), ..RouteFaults::default() });
    get(&stripe, "/v1/prices").await;
    assert_eq!(get(&stripe, "/v1/products").await.header("stripe-rate-limited-reason"), "global-rate");
}

#[tokio::test]
async fn probabilities_follow_the_seed() {
    let run = async || {
        let stripe = offline();
        stripe.faults().set(RouteFaults {
            error: 0.3,
            reset_before: 0.1,
            statuses: vec![(500, 3), (503, 1)],
            ..RouteFaults::default()
        });
        let mut seen = Vec::new();
        for _ in 0..200 {
            seen.push(raw(&stripe, "GET", "/v1/customers", "", &[]).await.map_or(0, |reply| reply.status));
        }
        seen
    };
    let (one, two) = (run().await, run().await);
    assert_eq!(one, two);
    let count = |status: u16| one.iter().filter(|seen| **seen == status).count();
    assert!(count(500) > count(503) && count(503) > 3 && count(0) > 5 && count(200) > 100, "{one:?}");
}

#[tokio::test]
async fn the_clock_skews_and_ties() {
    let stripe = offline();
    let plain = stripe.create_customer(&[]).unwrap()["created"].as_i64().unwrap();
    stripe.clock_skew(Duration::from_secs(600), true);
    let ahead = stripe.create_customer(&[]).unwrap()["created"].as_i64().unwrap();
    assert!((600..605).contains(&(ahead - plain)));
    tokio::time::pause();
    stripe.ties(true);
    let first = stripe.create_customer(&[]).unwrap();
    tokio::time::advance(Duration::from_secs(30)).await;
    let second = stripe.create_customer(&[]).unwrap();
    assert_eq!(first["created"], second["created"]);
    stripe.ties(false);
    assert_ne!(stripe.create_customer(&[]).unwrap()["created"], second["created"]);
    stripe.clock_skew(Duration::from_secs(600), false);
    let reply = post(&stripe, "/v1/customers", "").await;
    let date = httpdate::parse_http_date(reply.header("date"))
        .unwrap()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert_eq!(i64::try_from(date).unwrap(), reply.json["created"].as_i64().unwrap());
}

#[tokio::test]
async fn the_control_plane_turns_everything() {
    let stripe = offline();
    let control =
        async |method: &str, path: &str, body: &str| raw(&stripe, method, path, body, &[]).await.unwrap().ok();
    control("POST", "/_emulator/populate", r#"{"customers":5,"products":1,"prices":2}"#).await;
    assert_eq!(control("GET", "/_emulator/truth?stream=customers", "").await.as_object().unwrap().len(), 5);
    control("POST", "/_emulator/faults", r#"{"next":[{"route":"GET /v1/customers","faults":[{"status":503},"reset_before"]}],"routes":[{"route":"GET /v1/prices","budget":1}]}"#).await;
    assert_eq!(get(&stripe, "/v1/customers").await.status, 503);
    assert_eq!(raw(&stripe, "GET", "/v1/customers", "", &[]).await.unwrap_err(), Cut::Reset);
    let mutated = control("POST", "/_emulator/mutate", r#"{"random":4,"seed":9}"#).await;
    assert_eq!(mutated["events"].as_array().unwrap().len(), 4);
    let made = control("POST", "/_emulator/mutate", r#"{"path":"/v1/customers","fields":{"name":"Ada"}}"#).await;
    assert_eq!(made["name"], "Ada");
    let ledger = control("GET", "/_emulator/ledger", "").await;
    assert_eq!((ledger["requests"].as_u64(), ledger["faults"]["reset_before"].as_u64()), (Some(2), Some(1)));
    control("POST", "/_emulator/keys", "{}").await;
    assert_eq!(get(&stripe, "/v1/customers").await.status, 401);
    assert_eq!(raw(&stripe, "POST", "/_emulator/mutate", "{", &[]).await.unwrap().status, 400);
}

#[tokio::test]
async fn a_refused_expansion_leaves_no_write() {
    let stripe = offline();
    let (customer, price) = super::support::shop(&stripe);
    let form = format!(
        "customer={customer}&items[0][price]={price}&payment_behavior=default_incomplete&expand[]=latest_invoice.payment_intent"
    );
    assert_eq!(post(&stripe, "/v1/subscriptions", &form).await.status, 400);
    assert!(stripe.truth("subscriptions").is_empty());
}

#[tokio::test]
async fn any_event_can_be_told() {
    let stripe = offline();
    let event = stripe.emit("payout.paid", &serde_json::json!({ "id": "po_1", "object": "payout" }), None);
    assert_eq!(get(&stripe, &format!("/v1/events/{event}")).await.ok()["data"]["object"]["id"], "po_1");
}

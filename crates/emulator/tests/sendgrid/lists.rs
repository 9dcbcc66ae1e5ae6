//! The lists of suppressed addresses page by page, the limits, and the control plane.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use palisade_emulator::sendgrid::{Limits, SendGridConfig};
use serde_json::{Value, json};

use super::support::{Account, BEGIN, HOOK, mail};

const LISTS: [&str; 5] = ["bounces", "blocks", "spam_reports", "unsubscribes", "invalid_emails"];

fn emails(page: &Value) -> Vec<&str> {
    page.as_array().unwrap().iter().map(|entry| entry["email"].as_str().unwrap()).collect()
}

/// Fails when a page repeats an address or leaves one out.
#[tokio::test(start_paused = true)]
async fn every_address_is_listed_once_whatever_the_list_and_page_size() {
    let account = Account::new();
    for list in LISTS {
        account.sendgrid.populate(list, 23);
        for size in [1, 2, 7, 23, 500] {
            let mut all: Vec<Value> = Vec::new();
            loop {
                let (status, page) =
                    account.get(&format!("/v3/suppression/{list}?limit={size}&offset={}", all.len())).await;
                assert_eq!(status, 200);
                let rows = page.as_array().unwrap();
                all.extend(rows.iter().cloned());
                if rows.len() < size {
                    break;
                }
            }
            assert_eq!(all.len(), 23, "{list} in pages of {size}");
            assert!(
                all.windows(2).all(|pair| pair[0]["created"].as_i64() < pair[1]["created"].as_i64()),
                "oldest first"
            );
            let truth = account.sendgrid.truth(list);
            assert!(all.iter().all(|entry| truth[entry["email"].as_str().unwrap()] == *entry));
        }
    }
    for query in ["limit=0", "limit=501", "limit=x", "offset=-1", "start_time=soon"] {
        let (status, why) = account.get(&format!("/v3/suppression/bounces?{query}")).await;
        let field = query.split('=').next();
        assert_eq!((status, why["errors"][0]["field"].as_str()), (400, field), "{query}");
    }
    assert_eq!(account.get("/v3/suppression/nothing").await.0, 404);
}

#[tokio::test(start_paused = true)]
async fn times_and_beginnings_filter_a_list_inclusively() {
    let account = Account::new();
    account.sendgrid.populate("bounces", 20);
    for (query, count) in [
        (format!("start_time={}", BEGIN - 300), 5),
        (format!("end_time={}", BEGIN - 300), 16),
        (format!("start_time={0}&end_time={0}", BEGIN - 300), 1),
        (format!("start_time={BEGIN}"), 0),
        ("email=P1".to_owned(), 11),
        ("email=p1&offset=10".to_owned(), 1),
    ] {
        let (_, page) = account.get(&format!("/v3/suppression/bounces?{query}")).await;
        assert_eq!(emails(&page).len(), count, "{query}");
    }
}

/// Fails when an address stays where it was taken off, or leaves a list it was not taken off.
#[tokio::test(start_paused = true)]
async fn addresses_are_shown_and_taken_off_by_whole_lists_or_one_by_one() {
    let account = Account::new();
    for list in ["bounces", "blocks", "spam_reports", "invalid_emails"] {
        for email in ["A+x@example.com", "b@example.com", "c@example.com"] {
            account.sendgrid.suppress(list, email);
        }
        let one = format!("/v3/suppression/{list}/a%2BX%40example.com");
        let (status, shown) = account.get(&one).await;
        assert_eq!((status, emails(&shown)), (200, vec!["A+x@example.com"]));
        assert_eq!(account.call("DELETE", &one, &Value::Null).await.0, 204);
        assert_eq!(account.call("DELETE", &one, &Value::Null).await.0, 404);
        assert_eq!(account.get(&one).await, (200, json!([])), "nobody is an empty list");
        let path = format!("/v3/suppression/{list}");
        assert_eq!(account.call("DELETE", &path, &json!({})).await.0, 400);
        assert_eq!(account.call("DELETE", &path, &json!({ "emails": ["b@example.com"] })).await.0, 204);
        assert_eq!(emails(&account.get(&path).await.1), ["c@example.com"]);
        assert_eq!(account.call("DELETE", &path, &json!({ "delete_all": true })).await.0, 204);
        assert!(account.sendgrid.truth(list).is_empty());
    }
    let global = "/v3/asm/suppressions/global";
    let (status, _) = account.call("POST", global, &json!({ "recipient_emails": ["d@example.com"] })).await;
    assert_eq!((status, account.call("POST", global, &json!({})).await.0), (201, 400));
    let one = format!("{global}/D@example.com");
    assert_eq!(account.get(&one).await.1, json!({ "recipient_email": "d@example.com" }));
    assert_eq!(emails(&account.get("/v3/suppression/unsubscribes").await.1), ["d@example.com"]);
    assert_eq!(account.call("DELETE", &one, &Value::Null).await.0, 204);
    assert_eq!((account.get(&one).await.1, account.call("DELETE", &one, &Value::Null).await.0), (json!({}), 404));
}

fn told(response: &http::Response<Bytes>) -> [u64; 3] {
    ["limit", "remaining", "reset"]
        .map(|name| response.headers()[&format!("x-ratelimit-{name}")].to_str().unwrap().parse().unwrap())
}

/// Fails when an endpoint takes more than it says, says something else than it does, or holds another one back.
#[tokio::test(start_paused = true)]
async fn an_endpoint_takes_its_number_in_a_period_and_tells_what_is_left() {
    let limits = Limits { requests: 3, mails: 5, ..Limits::default() };
    let account = Account::of(|config| SendGridConfig { limits: limits.clone(), ..config });
    tokio::time::advance(Duration::from_millis(20_500)).await;
    for remaining in [2, 1, 0] {
        let answer = account.send("GET", "/v3/scopes", &Value::Null).await;
        assert_eq!((answer.status().as_u16(), told(&answer)), (200, [3, remaining, BEGIN + 60]));
    }
    let over = account.send("GET", "/v3/scopes", &Value::Null).await;
    assert_eq!((over.status().as_u16(), told(&over)), (429, [3, 0, BEGIN + 60]));
    assert_eq!(
        serde_json::from_slice::<Value>(over.body()).unwrap(),
        json!({ "errors": [{ "message": "too many requests", "field": null, "help": null }] })
    );
    assert_eq!(account.get("/v3/suppression/bounces").await.0, 200, "another endpoint has its own");
    for _ in 0..5 {
        account.mail(&mail(&["ada@example.com"])).await;
    }
    assert_eq!(account.call("POST", "/v3/mail/send", &mail(&["ada@example.com"])).await.0, 429);
    assert_eq!(account.sendgrid.mails().len(), 5, "a refused mail is not sent");
    tokio::time::advance(Duration::from_millis(39_499)).await;
    assert_eq!(account.get("/v3/scopes").await.0, 429);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(account.get("/v3/scopes").await.0, 200, "at the time it told");
    let ledger = account.sendgrid.ledger();
    assert_eq!((ledger.throttles, ledger.early_after_retry_after), (3, 1));
    account.sendgrid.set_limits(Limits { told: false, ..limits });
    let silent = account.send("GET", "/v3/scopes", &Value::Null).await;
    assert!(!silent.headers().contains_key("x-ratelimit-limit"));
}

/// Fails when the control plane does something else than the story methods.
#[tokio::test(start_paused = true)]
async fn the_control_plane_tells_the_same_stories() {
    let account = Account::new();
    let control = async |method: &str, path: &str, body: Value| {
        let request = Request::builder().method(method).uri(format!("/_emulator/{path}"));
        let answer = account.sendgrid.handle(request.body(Bytes::from(body.to_string())).unwrap()).await.unwrap();
        serde_json::from_slice::<Value>(answer.body()).unwrap()
    };
    control("POST", "populate", json!({ "list": "bounces", "addresses": 4 })).await;
    control("POST", "suppress", json!({ "list": "blocks", "email": "a@example.com" })).await;
    control("POST", "suppress", json!({ "list": "bounces", "email": "p0@bounces.example.com", "release": true })).await;
    let truth = control("GET", "truth", Value::Null).await;
    assert_eq!((truth["bounces"].as_object().unwrap().len(), truth["blocks"].as_object().unwrap().len()), (3, 1));
    control("POST", "endpoints", json!({ "event_url": HOOK, "inbound_url": HOOK, "inbound_signed": true })).await;
    account.mail(&mail(&["ada@example.com"])).await;
    control("POST", "inbound", json!({ "from": "a@example.com", "to": "in@example.com", "subject": "s", "text": "t" }))
        .await;
    assert_eq!(control("GET", "waiting", Value::Null).await["deliveries"], 2);
    account.sendgrid.drain_webhooks().await;
    let got = account.receiver.take_raw();
    assert!(got.len() == 2 && got.iter().all(|one| account.is_signed(one)));
    assert_eq!(control("GET", "mails", Value::Null).await.as_array().unwrap().len(), 1);
    assert_eq!(control("GET", "public_key", Value::Null).await["public_key"], json!(account.sendgrid.public_key()));
    control("POST", "limits", json!({ "requests": 1 })).await;
    assert_eq!((account.get("/v3/scopes").await.0, account.get("/v3/scopes").await.0), (200, 429));
    control("POST", "keys", json!({ "api_key": "SG.fresh" })).await;
    assert_eq!(account.sendgrid.api_key(), "SG.fresh");
    assert!(control("POST", "keys", json!("x")).await["error"].is_string());
}

//! The typed client: what goes out is what the official SDK sends, and what comes back is read leniently.

use bytes::Bytes;
use futures_util::TryStreamExt;
use palisade_core::call::Priority;
use palisade_core::{ErrorKind, Outcome, Timestamp};
use palisade_sendgrid::client::{ListSuppressions, Reconciled};
use palisade_sendgrid::{List, Mail};
use serde_json::{Value, json};

use super::fake::{self, Clients as _, answering, call, ok};

fn mail() -> Mail {
    Mail::from("a@example.com").to("b@example.com").subject("s").text("t")
}

#[tokio::test]
async fn a_sandbox_and_an_answer_without_an_id_are_told() {
    let fake = answering([ok(""), http::Response::builder().status(202).body(Bytes::new()).unwrap()]);
    let client = fake.client();
    assert!(client.send(&mail().sandbox()).await.unwrap().sandbox);
    assert_eq!(fake::json(&fake.only())["mail_settings"], json!({ "sandbox_mode": { "enable": true } }));
    assert_eq!(client.send(&mail()).await.unwrap().message_id, None);
}

/// Fails when a mail of a subuser would silently go out under its parent's name.
#[tokio::test]
async fn a_subusers_lists_are_read_and_no_mail_is_sent_for_it() {
    let fake = answering([ok("[]")]);
    let client = fake.client().on_behalf_of("sub 1").unwrap().in_background();
    assert_eq!(client.suppression(List::Bounces, "a@x.example").await.unwrap(), None);
    assert_eq!(fake.only().headers()["on-behalf-of"], "sub 1");
    assert_eq!(call(&fake.only()).priority, Priority::Background);
    let error = client.send(&mail()).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome(), fake.seen().len()), (ErrorKind::Config, Outcome::NotSent, 1));
    for bad in ["", " ", "a\nb"] {
        assert_eq!(fake.client().on_behalf_of(bad).unwrap_err().kind(), ErrorKind::Config);
    }
    for bad in ["", "api.sendgrid.com", "https://a.example?x"] {
        assert_eq!(fake.client().at(bad).unwrap_err().kind(), ErrorKind::Config);
    }
    fake.client().at(palisade_sendgrid::EU_BASE_URL).unwrap();
}

#[tokio::test]
async fn addresses_are_read_taken_off_and_put_on_at_their_own_paths() {
    let one = r#"[{"created":1443651125,"email":"Bounce1@test.com","reason":"550 5.1.1","status":"5.1.1"}]"#;
    let gone = || http::Response::builder().status(204).body(Bytes::new()).unwrap();
    let answers = [ok(one), ok(one), ok(r#"[{"created":1,"email":"bounce1@test.com.au"}]"#), gone(), gone(), ok("{}")];
    let fake = answering(answers.into_iter().chain([ok(r#"{"scopes":["mail.send"]}"#)]));
    let client = fake.client();
    let found = client.suppression(List::Bounces, "bounce1@test.com").await.unwrap().unwrap();
    assert_eq!((found.created, found.status.as_deref()), (Some(Timestamp::from_seconds(1_443_651_125)), Some("5.1.1")));
    assert!(client.suppression(List::Unsubscribes, "bounce1@test.com").await.unwrap().is_some());
    assert_eq!(client.suppression(List::Unsubscribes, "bounce1@test.com").await.unwrap(), None, "it only begins alike");
    client.unsuppress(List::SpamReports, "a/b?c@x.example").await.unwrap();
    client.unsuppress(List::Unsubscribes, "a@x.example").await.unwrap();
    client.unsubscribe(&["a@x.example", "b@x.example"]).await.unwrap();
    assert_eq!(client.scopes().await.unwrap(), ["mail.send"]);
    let seen: Vec<_> = fake
        .seen()
        .iter()
        .map(|r| (r.method().to_string(), r.uri().path_and_query().unwrap().to_string(), call(r).operation.name))
        .collect();
    let own = |method: &str, path: &str, name| (method.to_owned(), path.to_owned(), name);
    assert_eq!(
        seen,
        [
            own("GET", "/v3/suppression/bounces/bounce1%40test.com", "bounces.retrieve"),
            own("GET", "/v3/suppression/unsubscribes?email=bounce1%40test.com&limit=100", "unsubscribes.retrieve"),
            own("GET", "/v3/suppression/unsubscribes?email=bounce1%40test.com&limit=100", "unsubscribes.retrieve"),
            own("DELETE", "/v3/suppression/spam_reports/a%2Fb%3Fc%40x.example", "spam_reports.delete"),
            own("DELETE", "/v3/asm/suppressions/global/a%40x.example", "unsubscribes.delete"),
            own("POST", "/v3/asm/suppressions/global", "unsubscribes.create"),
            own("GET", "/v3/scopes", "scopes.list"),
        ]
    );
    assert_eq!(fake::json(&fake.seen()[5]), json!({ "recipient_emails": ["a@x.example", "b@x.example"] }));
}

/// Fails when an empty address reaches a path: it would name the whole list.
#[tokio::test]
async fn an_address_that_is_none_never_becomes_a_path() {
    let fake = answering([]);
    for bad in ["", " ", ".", "..", "a\nb"] {
        assert_eq!(
            fake.client().unsuppress(List::Bounces, bad).await.unwrap_err().kind(),
            ErrorKind::Invalid,
            "{bad:?}"
        );
        assert_eq!(fake.client().suppression(List::Blocks, bad).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(fake.client().unsubscribe(&[bad]).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(fake.seen().len(), 0);
}

fn page(numbers: &[u32]) -> http::Response<Bytes> {
    let entries: Vec<Value> =
        numbers.iter().map(|n| json!({ "created": 1, "email": format!("P{n}@x.example") })).collect();
    ok(&serde_json::to_string(&entries).unwrap())
}

#[tokio::test]
async fn a_list_pages_by_itself_and_passes_over_none() {
    let fake = answering([page(&[1, 2]), page(&[2, 3, 4]), page(&[5]), page(&[3, 4, 5]), page(&[5])]);
    let client = fake.client();
    let filter = ListSuppressions::of(List::Blocks).since(Timestamp::from_seconds(7)).page_size(2);
    let listed: Vec<_> = client.list_suppressions(filter).try_collect().await.unwrap();
    let emails: Vec<_> = listed.iter().map(|one| one.email.as_str()).collect();
    assert_eq!(emails, ["P1@x.example", "P2@x.example", "P3@x.example", "P4@x.example", "P5@x.example"]);
    let asked: Vec<_> = fake.seen().iter().map(|r| r.uri().query().unwrap().to_owned()).collect();
    assert_eq!(
        asked,
        [
            "limit=2&offset=0&start_time=7",
            "limit=3&offset=1&start_time=7&end_time=1767225600",
            "limit=3&offset=3&start_time=7&end_time=1767225600",
            "limit=3&offset=1&start_time=7&end_time=1767225600",
            "limit=3&offset=3&start_time=7&end_time=1767225600",
        ],
        "the third page did not begin on the address seen last, so the walk went back"
    );
}

#[tokio::test]
async fn a_page_that_is_none_is_an_error() {
    for bad in ["", "{}", "[7]", "[{}]", "<html>"] {
        let fake = answering([ok(bad)]);
        let client = fake.client();
        let listed: Result<Vec<_>, _> =
            client.list_suppressions(ListSuppressions::of(List::Bounces)).try_collect().await;
        assert_eq!(listed.unwrap_err().kind(), ErrorKind::Decode, "{bad}");
    }
}

#[tokio::test]
async fn a_mail_is_found_by_its_reference() {
    let found =
        r#"{"messages":[{"from_email":"a@x","msg_id":"14c5d75ce93.dfd","to_email":"b@x","status":"delivered"}]}"#;
    let fake = answering([ok(found), ok(r#"{"messages":[]}"#)]);
    let client = fake.client();
    let Reconciled::Sent(activity) = client.reconcile("order-4711").await.unwrap() else { panic!() };
    assert_eq!(activity[0].msg_id, "14c5d75ce93.dfd");
    assert_eq!(client.reconcile("order-4711").await.unwrap(), Reconciled::NotFound);
    let query = fake.seen()[0].uri().query().unwrap().to_owned();
    let decoded = percent_encoding::percent_decode_str(&query).decode_utf8().unwrap();
    assert_eq!(decoded, "limit=100&query=(unique_args['palisade_ref']=\"order-4711\")");
    for bad in ["", "a\" OR 1=1 --", "a b", &"x".repeat(101)] {
        assert_eq!(client.reconcile(bad).await.unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
    }
    assert_eq!(fake.seen().len(), 2);
}

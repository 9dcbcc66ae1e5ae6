//! The operations page: complete without script or style, and safe with hostile texts in it.

use palisade_core::store::{CallLog, CallRecord, ConnectionState, Connections, Queue};
use palisade_core::{ErrorKind, Outcome};

use crate::fixtures::{NOW, fixture};

#[tokio::test]
async fn an_empty_hub_says_what_to_do_first() {
    let page = fixture().get("/").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let text = page.text();
    assert!(text.contains("There is no connection yet") && text.contains("[[connection]]"), "{text}");
    assert!(text.contains(r#"<meta http-equiv="refresh""#));
}

// Fails when a text of a stranger is put into the page unescaped, or when a script appears on it.
#[tokio::test]
async fn everything_is_shown_in_words_and_nothing_hostile_gets_through() {
    let fixture = fixture().with_connection().await;
    fixture.deliver("<script>alert(1)</script>").await;
    while fixture.hub.worker().step(Queue::Events).await.unwrap() > 0 {}
    let call = CallRecord {
        at: NOW,
        provider: "stripe".to_owned(),
        operation: "customers.list".to_owned(),
        connection: "acme-stripe".into(),
        status: Some(500),
        error: Some(ErrorKind::Provider),
        outcome: Some(Outcome::Rejected),
        attempts: 3,
        duration_us: 1_234_567,
        waited_us: 0,
        request_id: Some("\"><img src=x onerror=alert(1)>".to_owned()),
        correlation_id: None,
    };
    fixture.store.log_calls(vec![call]).await.unwrap();
    let text = fixture.get("/").await.text();
    for hostile in ["<script", "<img", "acct_<b>", "onclick", "javascript:"] {
        assert!(!text.contains(hostile), "{hostile} in {text}");
    }
    for word in [
        "acme-stripe",
        "Stripe",
        "Who must act",
        "Next",
        "Fresh",
        "not complete yet",
        "dead letters",
        "Dead letters",
        "Replay",
        "Sync now",
        "customers.list",
        "1.2 s",
        "provider",
        "Runs",
        "Recent calls",
        "customers",
    ] {
        assert!(text.contains(word), "{word} in {text}");
    }
    // Whoever reads the page can stop it from moving.
    let still = fixture.get("/?refresh=off").await.text();
    assert!(!still.contains("http-equiv"), "{still}");
}

#[tokio::test]
async fn a_replay_from_the_page_returns_to_the_page() {
    let fixture = fixture().with_connection().await;
    fixture.deliver("unreadable").await;
    while fixture.hub.worker().step(Queue::Events).await.unwrap() > 0 {}
    let text = fixture.get("/").await.text();
    let start = text.find("/actions/events/").expect("a button for the dead letter");
    let path = text[start..].split('"').next().unwrap();
    let answer = fixture.post(path).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, Some("/")));
    assert_eq!(fixture.get("/api/v1/events?state=pending").await.json()["events"].as_array().unwrap().len(), 1);
}

// Fails when a button is shown that does nothing: what is not active is not synced.
#[tokio::test]
async fn only_an_active_connection_can_be_synced_from_the_page() {
    let fixture = fixture().with_connection().await;
    assert!(fixture.get("/").await.text().contains("Sync now"));
    let mut connection = fixture.store.connection("acme-stripe".into()).await.unwrap().unwrap();
    for state in [ConnectionState::Paused, ConnectionState::Disconnected] {
        connection.state = state;
        fixture.store.put_connection(connection.clone()).await.unwrap();
        assert!(!fixture.get("/").await.text().contains("Sync now"));
    }
}

//! The same provider over real sockets: resets, cut bodies, silence, deliveries.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use palisade_emulator::stripe::{Fault, Stripe, StripeConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::seed;

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn start() -> Stripe {
    Stripe::start(StripeConfig { seed: 7, ..StripeConfig::default() }).await.unwrap()
}

#[tokio::test]
async fn a_client_reads_and_writes() {
    let stripe = start().await;
    stripe.populate(&seed(300));
    let http = client();
    let url = |path: &str| format!("{}{path}", stripe.base_url());
    let form = [("email", "a@example.com"), ("metadata[k]", "v w&x")];
    let body: String =
        form.iter().map(|(name, value)| format!("{name}={}&", value.replace('&', "%26").replace(' ', "+"))).collect();
    let made =
        http.post(url("/v1/customers")).basic_auth(stripe.api_key(), None::<&str>).body(body).send().await.unwrap();
    assert!(made.headers()["request-id"].to_str().unwrap().starts_with("req_"));
    let made: Value = serde_json::from_slice(&made.bytes().await.unwrap()).unwrap();
    assert_eq!(made["metadata"]["k"], "v w&x");
    let (mut seen, mut after) = (0, String::new());
    loop {
        let page = http
            .get(url(&format!("/v1/customers?limit=100{after}")))
            .bearer_auth(stripe.api_key())
            .send()
            .await
            .unwrap();
        let page: Value = serde_json::from_slice(&page.bytes().await.unwrap()).unwrap();
        let data = page["data"].as_array().unwrap();
        seen += data.len();
        if page["has_more"] == false {
            break;
        }
        after = format!("&starting_after={}", data.last().unwrap()["id"].as_str().unwrap());
    }
    assert_eq!(seen, 301);
    stripe.shutdown().await;
}

#[tokio::test]
async fn connections_break_as_dialled() {
    let stripe = start().await;
    let url = format!("{}/v1/customers", stripe.base_url());
    let http = client();
    let post = async || {
        http.post(&url).bearer_auth(stripe.api_key()).body("name=x").timeout(Duration::from_millis(300)).send().await
    };
    let count = || stripe.truth("customers").len();
    stripe.faults().next("POST /v1/customers", [Fault::ResetBefore]);
    let error = post().await.unwrap_err();
    assert!(chain(&error).contains("reset"), "{}", chain(&error));
    assert_eq!(count(), 0);
    stripe.faults().next("POST /v1/customers", [Fault::ResetAfter]);
    assert!(post().await.is_err());
    assert_eq!(count(), 1);
    stripe.faults().next("POST /v1/customers", [Fault::CutBody]);
    let cut = post().await.unwrap();
    assert_eq!(cut.status(), 200);
    assert!(cut.bytes().await.is_err());
    assert_eq!(count(), 2);
    stripe.faults().next("POST /v1/customers", [Fault::HangAfter]);
    assert!(post().await.unwrap_err().is_timeout());
    assert_eq!(count(), 3);
    stripe.faults().next("POST /v1/customers", [Fault::Latency(Duration::from_millis(20)), Fault::Status(502)]);
    assert_eq!(post().await.unwrap().status(), 200);
    assert_eq!(post().await.unwrap().status(), 502);
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(&format!(": {error}"));
        next = error.source();
    }
    text
}

#[tokio::test]
async fn webhooks_cross_the_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}/hook", listener.local_addr().unwrap());
    let got: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = got.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut text = Vec::new();
                let mut buffer = [0; 4096];
                loop {
                    let read = stream.read(&mut buffer).await.unwrap_or(0);
                    text.extend_from_slice(&buffer[..read]);
                    if read == 0 || text.ends_with(b"\n}") {
                        break;
                    }
                }
                seen.lock().unwrap().push(String::from_utf8(text).unwrap());
                let first = seen.lock().unwrap().len() == 1;
                let status = if first { "500 Oops" } else { "200 OK" };
                let _ = stream
                    .write_all(
                        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes(),
                    )
                    .await;
            });
        }
    });
    let stripe = start().await;
    stripe.webhook_endpoint(&target, "whsec_a", None, &["customer.created"]);
    stripe.create_customer(&[("name", "Ada")]).unwrap();
    stripe.drain_webhooks().await;
    let got = got.lock().unwrap();
    assert_eq!(got.len(), 2, "one refused, one acknowledged");
    assert!(got[0].to_lowercase().contains("stripe-signature: t="));
    assert_eq!(stripe.ledger().webhooks.acked, 1);
}

#[tokio::test]
async fn a_dropped_or_stopped_emulator_closes_its_socket() {
    let stripe = start().await;
    let address = stripe.base_url().trim_start_matches("http://").to_owned();
    assert!(tokio::net::TcpStream::connect(&address).await.is_ok());
    stripe.shutdown().await;
    let closed = async {
        while tokio::net::TcpStream::connect(&address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed).await.unwrap();
}

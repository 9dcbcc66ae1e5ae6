//! A small client in memory: forms in, status, headers and JSON out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request};
use palisade_emulator::stripe::{Cut, Seed, Stripe, StripeConfig};
use serde_json::Value;

pub(crate) const OLD: &str = "2024-06-20";
pub(crate) const NEW: &str = "2026-10-28.endive";

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.json);
        self.json
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.json);
        assert_eq!(self.json["error"]["code"].as_str().unwrap_or_default(), code, "{}", self.json);
        self.json["error"].clone()
    }
}

/// Starts an offline emulator whose time of day follows tokio's clock from 2026-11-22.
pub(crate) fn offline() -> Stripe {
    Stripe::offline(config())
}

pub(crate) fn config() -> StripeConfig {
    let begun = tokio::time::Instant::now();
    let origin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_305_600);
    StripeConfig {
        seed: 7,
        connected: vec!["acct_other".to_owned()],
        clock: Arc::new(move || origin + begun.elapsed()),
        ..StripeConfig::default()
    }
}

pub(crate) fn seed(customers: usize) -> Seed {
    Seed {
        customers,
        products: 3,
        prices: 6,
        subscriptions: 8,
        invoices: 12,
        charges: 5,
        customer_bytes: 1024,
        ..Seed::default()
    }
}

pub(crate) fn request(method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = Request::builder().method(method).uri(format!("http://stripe.invalid{path}"));
    if headers.iter().all(|(name, _)| *name != "authorization") {
        request = request.header("authorization", "Bearer sk_test_emulator");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

pub(crate) async fn raw(
    stripe: &Stripe,
    method: &str,
    path: &str,
    body: &str,
    headers: &[(&str, &str)],
) -> Result<Reply, Cut> {
    let response = stripe.handle(request(method, path, body, headers)).await?;
    let json = serde_json::from_slice(response.body()).unwrap();
    Ok(Reply { status: response.status().as_u16(), headers: response.headers().clone(), json })
}

pub(crate) async fn get(stripe: &Stripe, path: &str) -> Reply {
    raw(stripe, "GET", path, "", &[]).await.unwrap()
}

pub(crate) async fn post(stripe: &Stripe, path: &str, body: &str) -> Reply {
    raw(stripe, "POST", path, body, &[]).await.unwrap()
}

pub(crate) async fn delete(stripe: &Stripe, path: &str) -> Reply {
    raw(stripe, "DELETE", path, "", &[]).await.unwrap()
}

/// Makes a customer and a monthly price.
pub(crate) fn shop(stripe: &Stripe) -> (String, String) {
    let customer = stripe.create_customer(&[("email", "ada@example.com")]).unwrap();
    let fields =
        [("currency", "usd"), ("unit_amount", "900"), ("recurring[interval]", "month"), ("product_data[name]", "Tea")];
    let price = stripe.call("POST", "/v1/prices", &fields).unwrap();
    (id(&customer), id(&price))
}

pub(crate) fn id(value: &Value) -> String {
    value["id"].as_str().unwrap().to_owned()
}

pub(crate) fn ids(list: &Value) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(id).collect()
}

pub(crate) fn types(stripe: &Stripe) -> Vec<String> {
    stripe.events().iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
}

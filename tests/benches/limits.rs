//! What a provider's limits do to the rest: memory of many tenants' lanes, and the other lanes while one is throttled.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use palisade_core::call::Bucket;
use palisade_core::client::{Classifier, Profile, Verdict};
use palisade_core::{Call, Client, ConnectionId, Error, ErrorKind, Operation, Replay, TenantId, Transport};
use tokio::time::Instant;

use crate::harness::{Child, Spread, number, resident, runtime};
use crate::report::{Row, Target};
use crate::stacks;

/// As many tenants as there may be lanes.
const FEW: usize = 10_000;
/// Far more.
const MANY: usize = 1_000_000;

/// A limit like a provider's: twenty a second, five at once.
static TIGHT: Bucket = Bucket { name: "tight", units: 20, per: Duration::from_secs(1), burst: 5 };
static CALLED: Operation = Operation {
    provider: "example",
    name: "messages.create",
    url_template: "/v1/messages",
    replay: Replay::Safe,
    bucket: &TIGHT,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(30),
    overall_timeout: Duration::from_secs(80),
    body_bytes_max: 1 << 20,
};

/// Measures both.
pub(crate) fn run(_count: usize) -> Vec<Row> {
    let peak = |tenants: usize| {
        let mut child = Child::start("limits-memory", &[&tenants.to_string()]);
        let peak = number(&child.json(), "peak_mib");
        child.end();
        peak
    };
    let (few, many) = (peak(FEW), peak(MANY));
    let (alone, beside) = (neighbours(false), neighbours(true));
    vec![
        Row::new("limits", "resident memory at its highest, a million tenants' lanes", Spread::exact(many), "MiB")
            .against(format!("10,000 tenants: {few:.0} MiB"), Spread::exact(many / few))
            .target(Target::AtMost(1.25)),
        Row::new("limits", "p99 of 20 lanes beside one that is throttled, simulated time", Spread::exact(beside), "ms")
            .against(format!("the same without it: {alone:.1} ms"), Spread::exact(beside / alone))
            .target(Target::AtMost(1.0)),
    ]
}

/// One client called once for each of many tenants, in a process of its own.
pub(crate) fn memory(args: &[String]) {
    let [tenants] = args else { panic!("one argument") };
    let tenants: usize = tenants.parse().expect("a number");
    runtime().block_on(async {
        let client = stacks::client("https://api.example.com", Arc::new(stacks::Memory::new()));
        let uri = Uri::from_static("https://api.example.com/v1/messages");
        for tenant in 0..tenants {
            let who = (ConnectionId::new(format!("con_{tenant}")), TenantId::new(format!("ten_{tenant}")));
            client.send(stacks::request(&CALLED, &uri, &who)).await.expect("an answer");
        }
    });
    let peak = resident().unwrap_or_default().1 as f64 / f64::from(1 << 20);
    println!("{}", serde_json::json!({ "peak_mib": peak }));
}

/// A provider that takes 50 ms and throttles one connection for good.
struct Provider;

/// The connection that is throttled.
const THROTTLED: &str = "con_throttled";

#[async_trait]
impl Transport for Provider {
    async fn send(&self, request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut response = Response::new(Bytes::from_static(b"{}"));
        let call = request.extensions().get::<Call>().expect("a call");
        if call.connection.as_str() == THROTTLED {
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        Ok(response)
    }
}

struct ThrottledBy429;

impl Classifier for ThrottledBy429 {
    fn classify(&self, _operation: &'static Operation, response: &Response<Bytes>) -> Verdict {
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            Verdict::Throttled {
                error: Error::new(ErrorKind::Throttled, "the provider asks to wait"),
                after: None,
                scope: palisade_core::call::Scope::Operation,
            }
        } else {
            Verdict::Success
        }
    }
}

/// Twenty tenants call ten times a second for a simulated minute, with or without 200 callers of a throttled one
/// beside them. The answer is the p99 of the twenty, in simulated milliseconds.
fn neighbours(with_throttled: bool) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    let mut took: Vec<Duration> = runtime.block_on(async {
        let profile = Profile::new("example", &["api.example.com"], Arc::new(ThrottledBy429));
        let client = stacks::over(profile, Arc::new(Provider));
        let end = Instant::now() + Duration::from_secs(60);
        if with_throttled {
            for caller in 0..200 {
                let client = client.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(caller)).await;
                    while Instant::now() < end {
                        // Whether it is told to wait or refused, it comes again: the worst of neighbours.
                        let _ = once(&client, THROTTLED).await;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                });
            }
        }
        let tenants: Vec<_> = (0..20_u64)
            .map(|tenant| {
                let client = client.clone();
                tokio::spawn(async move {
                    let connection = format!("con_{tenant}");
                    let mut took = Vec::new();
                    tokio::time::sleep(Duration::from_millis(tenant)).await;
                    while Instant::now() < end {
                        let start = Instant::now();
                        once(&client, &connection).await.expect("its own lane is free");
                        took.push(start.elapsed());
                        tokio::time::sleep_until(start + Duration::from_millis(100)).await;
                    }
                    took
                })
            })
            .collect();
        let mut all = Vec::new();
        for tenant in tenants {
            all.extend(tenant.await.expect("its calls end"));
        }
        all
    });
    took.sort();
    took[(took.len() - 1) * 99 / 100].as_secs_f64() * 1_000.0
}

async fn once(client: &Client, connection: &str) -> palisade_core::Result<Response<Bytes>> {
    let uri = Uri::from_static("https://api.example.com/v1/messages");
    client.send(stacks::request(&CALLED, &uri, &(ConnectionId::new(connection), TenantId::new(connection)))).await
}

//! What a call costs beyond the transport below: `cargo run --release -p palisade-core --example cost`.
//!
//! Every policy is on. The transport is in memory and ready at once, so that only our own work is measured; its own
//! cost and that of making the request are printed beside it, and taken off. Time is the thread's processor time, so
//! that a busy machine spoils it less.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement at the console"
)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::{FixedCredential, Scheme};
use palisade_core::call::Bucket;
use palisade_core::client::{Profile, StatusClassifier};
use palisade_core::{Call, Client, ConnectionId, Operation, Replay, Result, TenantId, Transport};

static BUCKET: Bucket = Bucket { name: "all", units: 100_000_000, per: Duration::from_secs(1), burst: 100_000_000 };
static CREATE: Operation = Operation {
    provider: "acme",
    name: "things.create",
    url_template: "/v1/things",
    replay: Replay::Keyed("idempotency-key"),
    bucket: &BUCKET,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(10),
    overall_timeout: Duration::from_secs(30),
    body_bytes_max: 1 << 20,
};
static READ: Operation = Operation { name: "things.read", replay: Replay::Safe, ..CREATE };

struct Memory;

#[async_trait]
impl Transport for Memory {
    async fn send(&self, _request: Request<Bytes>) -> Result<Response<Bytes>> {
        Ok(Response::new(Bytes::from_static(b"{\"id\":\"thing_1\"}")))
    }
}

struct Caller {
    connection: ConnectionId,
    tenant: TenantId,
    uri: http::Uri,
    body: Bytes,
}

impl Caller {
    fn request(&self, operation: &'static Operation) -> Request<Bytes> {
        Request::post(self.uri.clone())
            .header("content-type", "application/x-www-form-urlencoded")
            .header("acme-version", "2026-10-28")
            .extension(Call::new(operation, self.connection.clone(), self.tenant.clone()))
            .body(self.body.clone())
            .unwrap()
    }
}

/// Calls in a round, unless the first argument says otherwise (fewer under a profiler that counts instructions).
const CALLS: u32 = 50_000;

/// Nanoseconds this thread has run, as Linux counts them.
fn processor_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Gives the best nanoseconds of fifteen rounds, and the allocations of one call.
fn measure(runtime: &tokio::runtime::Runtime, calls: u32, mut once: impl AsyncFnMut()) -> (f64, u64) {
    runtime.block_on(async {
        for _ in 0..1_000 {
            once().await;
        }
    });
    let allocations = allocation_counter::measure(|| {
        runtime.block_on(async {
            for _ in 0..1_000 {
                once().await;
            }
        });
    });
    let best = (0..15)
        .map(|_| {
            let start = processor_nanos();
            runtime.block_on(async {
                for _ in 0..calls {
                    once().await;
                }
            });
            (processor_nanos() - start) as f64 / f64::from(calls)
        })
        .fold(f64::INFINITY, f64::min);
    (best, allocations.count_total / 1_000)
}

fn main() {
    let calls = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(CALLS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let credential = FixedCredential::new(&Scheme::Bearer("sk_test_1234567890".into())).unwrap();
    let profile = Profile::new("acme", &["api.acme.test"], Arc::new(StatusClassifier));
    let client = Client::builder(profile, Arc::new(Memory), Arc::new(credential)).build().unwrap();
    let memory: Arc<dyn Transport> = Arc::new(Memory);
    let caller = Caller {
        connection: "connection-0b9c3c4e".into(),
        tenant: "tenant-17".into(),
        uri: "https://api.acme.test/v1/things".parse().unwrap(),
        body: Bytes::from(vec![b'x'; 216]),
    };
    for operation in [&CREATE, &READ] {
        let (making, making_allocations) = measure(&runtime, calls, async || {
            std::hint::black_box(caller.request(operation));
        });
        let (below, below_allocations) = measure(&runtime, calls, async || {
            memory.send(caller.request(operation)).await.unwrap();
        });
        let (whole, whole_allocations) = measure(&runtime, calls, async || {
            client.send(caller.request(operation)).await.unwrap();
        });
        println!(
            "{:14} request {making:5.0} ns {making_allocations} allocations | transport {:5.0} ns {} | \
             our own {:5.0} ns {} allocations",
            operation.name,
            below - making,
            below_allocations - making_allocations,
            whole - below,
            whole_allocations - below_allocations,
        );
    }
}

//! What a call costs us on a real socket: client CPU per request over loopback, beside raw reqwest.
//!
//! The server is another process, so that the CPU counted is the client's alone. Every stack keeps 64 requests in
//! flight over keep-alive HTTP/1.1 on one thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use http::Uri;
use http::header::{HeaderName, HeaderValue};
use palisade_core::transport::HttpTransport;
use palisade_core::{ConnectionId, TenantId, Transport};

use crate::harness::{Child, Spread, instructions_each, process_cpu, rounds, runtime};
use crate::report::{Row, Target};
use crate::stacks::{self, WRITE};

const IN_FLIGHT: usize = 64;
/// Requests of one contender in one round.
const REQUESTS: usize = 6_400;
/// Requests of one contender when instructions are counted.
const COUNTED: usize = 25_600;
/// The contenders: what a client in a process of its own is called, and what a table calls it.
const CONTENDERS: [(&str, &str); 5] = [
    ("palisade", "Palisade"),
    ("same", "raw reqwest, the same request"),
    ("less", "raw reqwest, without key, trace and correlation id"),
    ("middleware", "reqwest-middleware"),
    ("limited", "raw reqwest with a time limit"),
];
const OURS: usize = 0;
const SAME: usize = 1;
const LESS: usize = 2;
const MIDDLEWARE: usize = 3;
const LIMITED: usize = 4;
/// What a call of ours carries beside what the raw request has, as constant text: the least such headers can cost.
static HEADERS: [(HeaderName, &str); 3] = [
    (HeaderName::from_static("idempotency-key"), "0af76519-16cd-43dd-8448-eb211c80319c"),
    (HeaderName::from_static("x-correlation-id"), "0af7651916cd43dd8448eb211c80319c"),
    (HeaderName::from_static("traceparent"), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
];

/// Measures the pipeline over `HttpTransport` beside raw reqwest and reqwest-middleware.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let mut server = Child::start("loopback-server", &[]);
    let base = server.line();
    let runtime = runtime();
    let stacks: Vec<Stack> = CONTENDERS.iter().map(|(name, _)| Stack::new(name, &base)).collect();
    let mut timed: Vec<_> = stacks
        .iter()
        .map(|stack| {
            || {
                let start = process_cpu();
                runtime.block_on(stack.send(REQUESTS));
                (process_cpu() - start).as_nanos() as f64 / REQUESTS as f64 / 1_000.0
            }
        })
        .collect();
    let mut contenders: Vec<&mut dyn FnMut() -> f64> =
        timed.iter_mut().map(|measure| measure as &mut dyn FnMut() -> f64).collect();
    let took = rounds(count, &mut contenders);
    let row = |what: &str, at: usize, beside: usize| {
        let peer = format!("{}: {:.1} µs", CONTENDERS[beside].1, Spread::of(took[beside].clone()).median);
        Row::new("loopback", what, Spread::of(took[at].clone()), "µs")
            .against(peer, Spread::ratio(&took[at], &took[beside]))
    };
    let mut rows = vec![
        row("Client over HttpTransport, CPU per request", OURS, SAME).target(Target::AtMost(1.12)),
        row("Client over HttpTransport, CPU per request", OURS, LESS),
        row("reqwest-middleware + retry + governor + span", MIDDLEWARE, LESS),
        row("raw reqwest with a time limit", LIMITED, LESS),
    ];
    rows.extend(instructions(&base));
    server.end();
    rows
}

/// The same in instructions, user and kernel, where the machine has `perf` and its counters: they repeat within 1 %.
fn instructions(base: &str) -> Vec<Row> {
    let counted: Option<Vec<f64>> =
        CONTENDERS.iter().map(|(name, _)| instructions_each("loopback-client", &[name, base], COUNTED)).collect();
    let Some(counted) = counted else { return Vec::new() };
    let row = |what: &str, at: usize, beside: usize| {
        Row::new("loopback", what, Spread::exact(counted[at]), "instructions").against(
            format!("{}: {:.0}", CONTENDERS[beside].1, counted[beside]),
            Spread::exact(counted[at] / counted[beside]),
        )
    };
    vec![
        row("Client over HttpTransport, instructions per request", OURS, SAME).target(Target::AtMost(1.12)),
        row("Client over HttpTransport, instructions per request", OURS, LESS),
        row("reqwest-middleware, instructions per request", MIDDLEWARE, LESS),
    ]
}

/// The client in a process of its own: `name base requests`.
pub(crate) fn client(args: &[String]) {
    let [name, base, requests] = args else { panic!("three arguments") };
    runtime().block_on(Stack::new(name, base).send(requests.parse().expect("a number")));
}

/// The server in a process of its own: prints its base URL and answers until its input ends.
pub(crate) fn server(_args: &[String]) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().lines().count();
        std::process::exit(0);
    });
    runtime().block_on(async {
        let body = stacks::answer_body();
        let customers = move |request: Bytes| async move {
            assert_eq!(request.len(), stacks::BODY.len());
            ([("content-type", "application/json"), ("request-id", "req_1")], body)
        };
        let app = axum::Router::new().route("/v1/customers", axum::routing::post(customers));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("http://{}", listener.local_addr().expect("an address"));
        axum::serve(listener, app).await.expect("serving goes on");
    });
}

/// A contender over the network.
#[derive(Clone)]
enum Stack {
    Palisade(Arc<dyn Transport>, Uri, (ConnectionId, TenantId)),
    Reqwest(reqwest::Client, String),
    Same(reqwest::Client, String),
    Middleware(reqwest_middleware::ClientWithMiddleware, String),
}

impl Stack {
    fn new(name: &str, base: &str) -> Self {
        let url = format!("{base}/v1/customers");
        // As `HttpTransport` sets its own.
        let plain = || {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .retry(reqwest::retry::never().max_retries_per_request(0))
                .no_proxy()
                .tcp_nodelay(true)
                .user_agent("palisade/0.1.0")
        };
        let built = |builder: reqwest::ClientBuilder| builder.build().expect("a client");
        match name {
            "palisade" => {
                let transport = Arc::new(HttpTransport::new().expect("a transport"));
                // As an adapter has them: made once, and named by every call.
                let who = (ConnectionId::new("con_1"), TenantId::new("ten_1"));
                Self::Palisade(Arc::new(stacks::client(base, transport)), url.parse().expect("an address"), who)
            }
            "middleware" => Self::Middleware(stacks::middleware(built(plain()), false), url),
            "less" => Self::Reqwest(built(plain()), url),
            "same" => Self::Same(built(plain()), url),
            "limited" => Self::Reqwest(built(plain().timeout(Duration::from_secs(30))), url),
            other => panic!("{other} is no contender"),
        }
    }

    /// Sends `requests` requests, 64 at a time.
    async fn send(&self, requests: usize) {
        let left = Arc::new(AtomicI64::new(i64::try_from(requests).expect("few enough")));
        let tasks: Vec<_> = (0..IN_FLIGHT)
            .map(|_| {
                let (stack, left) = (self.clone(), Arc::clone(&left));
                tokio::spawn(async move {
                    while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                        assert_eq!(stack.once().await, 250);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("every request is answered");
        }
    }

    async fn once(&self) -> usize {
        match self {
            Self::Palisade(transport, uri, who) => {
                let request = stacks::request(&WRITE, uri, who);
                transport.send(request).await.expect("an answer").body().len()
            }
            Self::Reqwest(client, url) => {
                let response = client.execute(stacks::reqwest_request(&WRITE, url)).await.expect("an answer");
                response.bytes().await.expect("a body").len()
            }
            Self::Same(client, url) => {
                let mut request = stacks::reqwest_request(&WRITE, url);
                for (name, value) in &HEADERS {
                    request.headers_mut().insert(name, HeaderValue::from_static(value));
                }
                let response = client.execute(request).await.expect("an answer");
                response.bytes().await.expect("a body").len()
            }
            Self::Middleware(client, url) => {
                let response = client.execute(stacks::reqwest_request(&WRITE, url)).await.expect("an answer");
                response.bytes().await.expect("a body").len()
            }
        }
    }
}

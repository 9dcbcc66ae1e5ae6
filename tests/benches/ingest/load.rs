//! The load: 64 keep-alive connections that post signed deliveries as fast as they are answered.
//!
//! Written by hand over TCP, so that it takes as little of the shared machine as it can. Requests are signed and
//! built before the clock starts.

use std::fmt::Write;
use std::time::Duration;

use palisade_core::{Clock, Secret, Timestamp, clock::SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{runtime, serve_lines};

/// Connections, each with one delivery under way.
const CONNECTIONS: usize = 64;
/// The size of a delivery's body.
const BODY_BYTES: usize = 1_024;
/// The endpoint's path, also the peers'.
pub(super) const PATH: &str = "/webhooks/stripe";
/// The endpoint's secret.
pub(super) const SECRET: &str = "whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH";
/// The type of an event that is handled, and so gets a job.
pub(super) const WANTED: &str = "invoice.paid";
/// The type of an event that nobody handles and no stream concerns.
pub(super) const UNWANTED: &str = "issuing_card.created";
/// The type of an event that only a handler wants.
pub(super) const HANDLED: &str = "issuing_card.updated";
/// Tells the peers, which read no body, the event's id.
pub(super) const ID_HEADER: &str = "x-event-id";

/// The load in a process of its own: each line is `address type deliveries first-number deliveries-per-second`, where 0
/// is as fast as they are answered; each answer the figures.
pub(crate) fn client(_args: &[String]) {
    let runtime = runtime();
    serve_lines(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [address, kind, deliveries, first, rate] = words.as_slice() else { panic!("five words") };
        let (deliveries, first): (usize, u64) = (deliveries.parse().unwrap(), first.parse().unwrap());
        let rate: f64 = rate.parse().unwrap();
        // Each connection has every 64th delivery.
        let apart = if rate > 0.0 { Duration::from_secs_f64(CONNECTIONS as f64 / rate) } else { Duration::ZERO };
        let now = SystemClock.now();
        let mut requests: Vec<Vec<Vec<u8>>> = vec![Vec::new(); CONNECTIONS];
        for number in 0..deliveries {
            requests[number % CONNECTIONS].push(request(kind, first + number as u64, now));
        }
        runtime.block_on(post(address, requests, apart))
    });
}

/// Makes one signed request. Ids are spread like Stripe's, so that the index is not filled at its end only.
fn request(kind: &str, number: u64, now: Timestamp) -> Vec<u8> {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let id = format!("evt_1{spread:023}");
    let head = format!(
        r#"{{"id":"{id}","object":"event","api_version":"2026-09-30.endive","created":{},"type":"{kind}","livemode":false,"pending_webhooks":1,"request":{{"id":null,"idempotency_key":null}},"data":{{"object":{{"id":"in_1{spread:023}","object":"invoice","customer":"cus_1","status":"paid","description":""#,
        now.seconds()
    );
    let tail = r#""}}}"#;
    let body = format!("{head}{}{tail}", "x".repeat(BODY_BYTES - head.len() - tail.len()));
    let signature = palisade_stripe::webhook::sign(&Secret::new(SECRET), now, body.as_bytes());
    let mut request = String::with_capacity(body.len() + 512);
    let _ = write!(
        request,
        "POST {PATH} HTTP/1.1\r\nhost: hooks.example.com\r\nuser-agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n\
         accept: */*; q=0.5, application/xml\r\ncontent-type: application/json; charset=utf-8\r\n\
         content-length: {BODY_BYTES}\r\nstripe-signature: {signature}\r\n{ID_HEADER}: {id}\r\n\r\n{body}"
    );
    request.into_bytes()
}

async fn post(address: &str, requests: Vec<Vec<Vec<u8>>>, apart: Duration) -> serde_json::Value {
    let mut connections = Vec::new();
    for requests in requests {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a socket option");
        connections.push((stream, requests));
    }
    let start = Instant::now();
    let tasks: Vec<_> = (0..)
        .zip(connections)
        .map(|(at, (stream, requests))| {
            let begin = start + apart * at / CONNECTIONS as u32;
            tokio::spawn(connection(stream, requests, begin, apart))
        })
        .collect();
    let (mut took, mut refused) = (Vec::new(), 0_u64);
    for task in tasks {
        let (times, not_accepted) = task.await.expect("the connection holds");
        took.extend(times);
        refused += not_accepted;
    }
    let seconds = start.elapsed().as_secs_f64();
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1_000.0;
    serde_json::json!({
        "per_second": took.len() as f64 / seconds,
        "refused": refused,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
    })
}

/// Posts its requests one after another, none before it is due; the answer is how long each took and how many were not
/// answered 2xx.
async fn connection(
    mut stream: TcpStream,
    requests: Vec<Vec<u8>>,
    begin: Instant,
    apart: Duration,
) -> (Vec<Duration>, u64) {
    let mut due = begin;
    let mut took = Vec::with_capacity(requests.len());
    let mut refused = 0;
    let mut buffer = Vec::with_capacity(4_096);
    for request in requests {
        if apart > Duration::ZERO {
            tokio::time::sleep_until(due).await;
            due += apart;
        }
        let start = Instant::now();
        stream.write_all(&request).await.expect("the server reads");
        buffer.clear();
        let status = loop {
            let read = stream.read_buf(&mut buffer).await.expect("the server answers");
            assert!(read > 0, "the server closed a connection it should keep");
            if let Some(status) = answered(&buffer) {
                break status;
            }
        };
        took.push(start.elapsed());
        refused += u64::from(!(200..300).contains(&status));
    }
    (took, refused)
}

/// Reads the status of an answer once the whole of it is there.
fn answered(buffer: &[u8]) -> Option<u16> {
    let head_bytes = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&buffer[..head_bytes]).expect("an answer's head is text");
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, length)| length.trim().parse().expect("a length"));
    (buffer.len() >= head_bytes + length).then(|| head[9..12].parse().expect("a status"))
}

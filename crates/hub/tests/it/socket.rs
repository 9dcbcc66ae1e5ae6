//! The server on a real socket: caps, timeouts, hostile bytes, and a shutdown that loses nothing.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use palisade_hub::{Access, ServeSettings, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fixtures::{fixture_with, settings};

struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<usize>,
}

async fn start(router: Router, settings: ServeSettings) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    Server { address, stop, task: tokio::spawn(serve(listener, router, settings, stopped)) }
}

async fn hub() -> Server {
    start(fixture_with(settings(Access::Trusted)).router, ServeSettings::default()).await
}

/// Sends bytes and reads until the server closes or has said a whole answer.
async fn say(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may refuse before everything is written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

// Fails when a stranger's bytes can end the server or make it keep what they send.
#[tokio::test]
async fn hostile_bytes_are_answered_or_dropped_and_the_server_goes_on() {
    let server = hub().await;
    let big = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(1_000));
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(100_000));
    let cases: [(&str, &[u8], &[&str]); 9] = [
        ("a head too large", big.as_bytes(), &["431", ""]),
        ("too many headers", many.as_bytes(), &["431", "400", ""]),
        ("a path too long", long_path.as_bytes(), &["414", "431", ""]),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", &["400", ""]),
        ("invalid UTF-8", b"GET /\xff\xfe HTTP/1.1\r\nhost: \xff\r\n\r\n", &["400", "404", ""]),
        (
            "two lengths",
            b"POST /webhooks/stripe HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
            &["400", ""],
        ),
        (
            "a length that is no number",
            b"POST /webhooks/stripe HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
            &["400", ""],
        ),
        (
            "a body that is shorter than said",
            b"POST /webhooks/stripe HTTP/1.1\r\nhost: a\r\ncontent-length: 500\r\n\r\n{",
            &["400", ""],
        ),
        (
            "a body larger than the cap",
            b"POST /webhooks/stripe HTTP/1.1\r\nhost: a\r\ncontent-length: 9999999999\r\n\r\n",
            &["413"],
        ),
    ];
    for (name, bytes, lawful) in cases {
        let answer = say(server.address, bytes).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(lawful.contains(&status), "{name}: {answer}");
        let healthy = say(server.address, b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(healthy.starts_with("HTTP/1.1 200"), "after {name}: {healthy}");
    }
    server.stop.send(true).unwrap();
    assert_eq!(server.task.await.unwrap(), 0);
}

// Fails when a request under way is cut off by a shutdown, or when new ones are still accepted.
#[tokio::test]
async fn a_shutdown_lets_requests_under_way_finish_and_accepts_no_more() {
    let (arrived, mut here) = watch::channel(false);
    let (go, gone) = watch::channel(false);
    let router = Router::new().route(
        "/slow",
        axum::routing::get(move || {
            let mut gone = gone.clone();
            let _ = arrived.send(true);
            async move {
                let _ = gone.wait_for(|go| *go).await;
                "done"
            }
        }),
    );
    let server = start(router, ServeSettings::default()).await;
    let address = server.address;
    let request = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    });
    here.wait_for(|here| *here).await.unwrap();
    server.stop.send(true).unwrap();
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.task.is_finished(), "it waits for the request");
    go.send(true).unwrap();
    let answer = request.await.unwrap();
    assert!(answer.ends_with("done"), "{answer}");
    assert_eq!(server.task.await.unwrap(), 0);
}

// Fails when a client that never finishes its request can hold up a shutdown.
#[tokio::test]
async fn a_shutdown_closes_what_does_not_end_within_the_grace() {
    let settings = ServeSettings { grace: Duration::from_millis(50), ..ServeSettings::default() };
    let server = start(fixture_with(crate::fixtures::settings(Access::Trusted)).router, settings).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"POST /webhooks/stripe HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    // A second request proves that the first connection was accepted: they are taken in order.
    say(server.address, b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    server.stop.send(true).unwrap();
    assert_eq!(server.task.await.unwrap(), 1);
    assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0, "the connection is closed");
}

// Fails when the number of connections is not bounded.
#[tokio::test]
async fn connections_beyond_the_bound_wait_their_turn() {
    let settings = ServeSettings { connections_max: 1, ..ServeSettings::default() };
    let server = start(fixture_with(crate::fixtures::settings(Access::Trusted)).router, settings).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut byte = [0; 1];
    first.read_exact(&mut byte).await.unwrap();
    let address = server.address;
    let second =
        tokio::spawn(
            async move { say(address, b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await },
        );
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished(), "one connection at a time");
    drop(first);
    assert!(second.await.unwrap().starts_with("HTTP/1.1 200"));
    server.stop.send(true).unwrap();
    server.task.await.unwrap();
}

// Fails when the server does not tell the router where a connection comes from.
#[tokio::test]
async fn wrong_tokens_over_a_socket_are_bounded_by_its_address() {
    let server =
        start(fixture_with(settings(Access::Token("the right one, long".into()))).router, ServeSettings::default())
            .await;
    let ask = async |token: &str| {
        let request = format!("GET /api/v1/jobs HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n\r\n");
        say(server.address, request.as_bytes()).await
    };
    for _ in 0..10 {
        assert!(ask("wrong").await.starts_with("HTTP/1.1 401"));
    }
    let refused = ask("the right one, long").await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after: 6"), "{refused}");
    server.stop.send(true).unwrap();
    server.task.await.unwrap();
}

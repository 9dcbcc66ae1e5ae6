//! `HttpTransport` against a server of our own on loopback that misbehaves on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::{FixedCredential, Scheme};
use palisade_core::call::Bucket;
use palisade_core::client::{Profile, StatusClassifier};
use palisade_core::transport::HttpTransport;
use palisade_core::{Call, Client, ErrorKind, Operation, Outcome, Replay, Result, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

static BUCKET: Bucket = Bucket { name: "b", units: 1_000, per: Duration::from_secs(1), burst: 1_000 };
static READ: Operation = Operation {
    provider: "acme",
    name: "read",
    url_template: "/v1",
    replay: Replay::Safe,
    bucket: &BUCKET,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_millis(200),
    overall_timeout: Duration::from_secs(5),
    body_bytes_max: 10_000,
};
static WRITE: Operation = Operation { name: "write", replay: Replay::Never, ..READ };

/// What the server does with each connection once it has read a request.
#[derive(Clone, Copy)]
enum Manner {
    Answer(&'static str),
    /// Closes with a reset before any byte of an answer.
    Reset,
    /// Sends a head that never ends.
    SlowHead,
    /// Sends a long body without a length, and then a wrong one in chunks.
    Endless(&'static str),
}

struct Server {
    base: String,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (opened, read) = (Arc::clone(&connections), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                opened.fetch_add(1, SeqCst);
                tokio::spawn(serve(socket, manner, Arc::clone(&read)));
            }
        });
        Self { base, connections, requests }
    }

    async fn send(&self, operation: &'static Operation) -> Result<Response<Bytes>> {
        transport().send(self.request(operation)).await
    }

    fn request(&self, operation: &'static Operation) -> Request<Bytes> {
        Request::post(format!("{}/v1?token=canary", self.base))
            .extension(Call::new(operation, "c".into(), "t".into()))
            .body(Bytes::from_static(b"hello"))
            .unwrap()
    }
}

async fn serve(mut socket: TcpStream, manner: Manner, requests: Arc<AtomicUsize>) {
    let mut buffer = vec![0; 65_536];
    let mut request = Vec::new();
    loop {
        while !request.ends_with(b"hello") {
            match socket.read(&mut buffer).await {
                Ok(n) if n > 0 => request.extend_from_slice(&buffer[..n]),
                Ok(_) | Err(_) => return,
            }
        }
        request.clear();
        requests.fetch_add(1, SeqCst);
        match manner {
            Manner::Answer(answer) => {
                let _ = socket.write_all(answer.as_bytes()).await;
                if answer.contains("cut") {
                    return;
                }
            }
            Manner::Reset => {
                socket.set_zero_linger().unwrap();
                return;
            }
            Manner::SlowHead => {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nx-slow: ").await;
                std::future::pending::<()>().await;
            }
            Manner::Endless(head) => {
                let _ = socket.write_all(head.as_bytes()).await;
                while socket.write_all(&[b'x'; 4_096]).await.is_ok() {}
                return;
            }
        }
    }
}

fn transport() -> HttpTransport {
    HttpTransport::builder().connect_timeout(Duration::from_secs(2)).build().unwrap()
}

fn client(server: &Server) -> Client {
    let profile = Profile::new("acme", &[], Arc::new(StatusClassifier)).allowing(&server.base);
    let credential = FixedCredential::new(&Scheme::Bearer("canary".into())).unwrap();
    Client::builder(profile, Arc::new(transport()), Arc::new(credential)).build().unwrap()
}

#[track_caller]
fn check(result: Result<Response<Bytes>>, kind: ErrorKind, outcome: Outcome) {
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (kind, outcome), "{error}");
    let shown = format!("{error} {error:?} {error:#?}");
    assert!(!shown.contains("canary"), "{shown}");
}

// Fails when no connection or no such name counts as sent, or the address (`without_url`) stands in the error.
#[tokio::test]
async fn a_refused_connection_was_not_sent() {
    let server = Server::start(Manner::Reset).await;
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let refused = Server { base, ..server };
    check(refused.send(&WRITE).await, ErrorKind::Connect, Outcome::NotSent);
    check(client(&refused).send(refused.request(&WRITE)).await, ErrorKind::Connect, Outcome::NotSent);
    let nowhere = Server { base: "http://no-such-host.invalid".into(), ..refused };
    check(nowhere.send(&WRITE).await, ErrorKind::Connect, Outcome::NotSent);
}

// Fails when an answer that never began counts as not sent: the write would be repeated.
#[tokio::test]
async fn a_reset_before_the_answer_is_unknown_and_a_write_arrives_once() {
    let server = Server::start(Manner::Reset).await;
    check(server.send(&WRITE).await, ErrorKind::Transport, Outcome::Unknown);
    assert_eq!(server.requests.load(SeqCst), 1, "reqwest repeats nothing by itself");
    check(client(&server).send(server.request(&WRITE)).await, ErrorKind::Transport, Outcome::Unknown);
    assert_eq!(server.requests.load(SeqCst), 2);
}

// Fails when what came of a body that broke off is handed on as the whole, or its status as the provider's answer.
#[tokio::test]
async fn a_body_that_is_cut_is_unknown() {
    for cut in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\ncut here",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\ncut h\r\n",
        "HTTP/1.1 500 Oops\r\ncontent-length: 100\r\n\r\ncut here",
    ] {
        let server = Server::start(Manner::Answer(cut)).await;
        check(server.send(&READ).await, ErrorKind::Transport, Outcome::Unknown);
    }
}

// Fails when the cap is only looked at after the body is in memory: the endless ones would never return.
#[tokio::test]
async fn a_body_over_the_cap_is_not_read_to_its_end() {
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nFFFFFFF\r\n",
    ] {
        let server = Server::start(Manner::Endless(head)).await;
        check(server.send(&READ).await, ErrorKind::BodyTooLarge, Outcome::Processed);
    }
    for head in ["HTTP/1.1 503 Busy\r\nretry-after: 9\r\n\r\n", "HTTP/1.1 400 No\r\ncontent-length: 9999999\r\n\r\n"] {
        let server = Server::start(Manner::Endless(head)).await;
        let response = server.send(&READ).await.unwrap();
        assert_eq!(response.body().len(), 64 << 10);
    }
}

// Fails when chunks are joined wrongly, or a body is not read to its end, so that each call connects anew.
#[tokio::test]
async fn whole_bodies_arrive_in_any_framing_and_connections_are_kept() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nworld",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nwo\r\n3\r\nrld\r\n0\r\n\r\n",
    ] {
        let server = Server::start(Manner::Answer(answer)).await;
        let transport = transport();
        for _ in 0..5 {
            let response = transport.send(server.request(&READ)).await.unwrap();
            assert_eq!(&response.body()[..], b"world");
        }
        assert_eq!(server.connections.load(SeqCst), 1);
    }
    let server = Server::start(Manner::Answer("HTTP/1.1 204 None\r\n\r\n")).await;
    assert!(server.send(&READ).await.unwrap().body().is_empty());
}

// Fails without the attempt timeout around head and body.
#[tokio::test]
async fn a_head_or_body_that_never_ends_is_an_attempt_timeout_repeated_once() {
    for manner in [Manner::SlowHead, Manner::Answer("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello")] {
        let server = Server::start(manner).await;
        check(client(&server).send(server.request(&READ)).await, ErrorKind::Timeout, Outcome::Rejected);
        assert_eq!(server.requests.load(SeqCst), 2);
        check(client(&server).send(server.request(&WRITE)).await, ErrorKind::Timeout, Outcome::Unknown);
        assert_eq!(server.requests.load(SeqCst), 3);
    }
}

// Fails when redirects are followed: the credential would go to another host.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let answer = "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    let server = Server::start(Manner::Answer(answer)).await;
    assert_eq!(server.send(&READ).await.unwrap().status(), 302);
    check(client(&server).send(server.request(&READ)).await, ErrorKind::Invalid, Outcome::Rejected);
    assert_eq!(server.requests.load(SeqCst), 2);
}

// Fails when a proxy, certificate, key or user agent that cannot be read is left out instead of refused.
#[tokio::test]
async fn settings_that_cannot_be_used_are_refused_when_building() {
    let kind = |result: Result<HttpTransport>| result.map(|_| ()).unwrap_err().kind();
    assert_eq!(
        kind(HttpTransport::builder().root_certificate(b"-----BEGIN CERTIFICATE-----\n!").build()),
        ErrorKind::Config
    );
    assert_eq!(kind(HttpTransport::builder().client_identity(b"no pem").build()), ErrorKind::Config);
    assert_eq!(kind(HttpTransport::builder().proxy("http://").build()), ErrorKind::Config);
    assert_eq!(kind(HttpTransport::builder().user_agent("a\nb").build()), ErrorKind::Config);
}

// Fails when a named proxy is passed by, or (where the environment names one) `no_proxy` is left out.
#[tokio::test]
async fn a_proxy_is_used_only_when_named() {
    let proxy = Server::start(Manner::Answer("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nproxied")).await;
    let target =
        Server { base: "http://palisade.invalid".into(), connections: Arc::default(), requests: Arc::default() };
    let through = HttpTransport::builder().proxy(&proxy.base).build().unwrap();
    assert_eq!(&through.send(target.request(&READ)).await.unwrap().body()[..], b"proxied");
    check(target.send(&READ).await, ErrorKind::Connect, Outcome::NotSent);
}

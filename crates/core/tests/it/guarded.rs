//! The guarded transport with real sockets: what it connects to is what was checked.
//!
//! A receiver of the tests can only be on loopback, so the tests name one loopback address as allowed and let the others
//! stand for what is private.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::vault::{LocalMasterKey, Vault};
use palisade_core::clock::TokioClock;
use palisade_core::forward::{Answer, ForwardSettings, Forwarder};
use palisade_core::metrics::Metrics;
use palisade_core::net::{OutOfReach, Reach};
use palisade_core::random::SystemRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{DestinationSpec, Filter, Order};
use palisade_core::transport::{DiscardBody, GuardedTransport, Resolver};
use palisade_core::{ErrorKind, Outcome, Result, Timestamp, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A name server that says something else each time.
#[derive(Default)]
struct Names {
    answers: Mutex<VecDeque<Vec<&'static str>>>,
    asked: AtomicUsize,
}

#[async_trait]
impl Resolver for Names {
    async fn resolve(&self, _host: &str) -> Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, SeqCst);
        let mut answers = self.answers.lock().unwrap();
        // The last answer stays.
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Ok(answer.unwrap_or_default().iter().map(|text| text.parse().unwrap()).collect())
    }
}

/// Answers every request and closes; counts the connections it got.
async fn receiver(address: &str, port: u16, answer: impl Into<String>) -> (u16, Arc<AtomicUsize>) {
    let answer = answer.into();
    let listener = TcpListener::bind((address, port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            count.fetch_add(1, SeqCst);
            let mut buffer = [0; 4_096];
            let _ = socket.read(&mut buffer).await;
            let _ = socket.write_all(answer.as_bytes()).await;
            if answer.ends_with("more") {
                std::future::pending::<()>().await;
            }
        }
    });
    (port, came)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

fn reach(networks: &[&str]) -> Reach {
    Reach { private: false, networks: networks.iter().map(|text| text.parse().unwrap()).collect(), plain: true }
}

async fn send(transport: &GuardedTransport, url: &str, reach: Option<Reach>) -> Result<Response<Bytes>> {
    let mut request = Request::post(url).body(Bytes::from_static(b"{}")).unwrap();
    if let Some(reach) = reach {
        request.extensions_mut().insert(reach);
    }
    transport.send(request).await
}

#[track_caller]
fn refused(result: Result<Response<Bytes>>, what: &str) {
    let error = result.expect_err("it must be refused");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent), "{error:?}");
    assert!(error.message().contains(what), "{what} in {error}");
}

fn names(answers: &[&[&'static str]]) -> Arc<Names> {
    let answers = answers.iter().map(|answer| answer.to_vec()).collect();
    Arc::new(Names { answers: Mutex::new(answers), asked: AtomicUsize::new(0) })
}

/// Fails when the name is resolved once for the check and once more for the connection, or when a later answer is not
/// checked.
#[tokio::test]
async fn a_name_that_changes_its_mind_is_connected_to_where_it_was_checked() {
    let (port, public) = receiver("127.0.0.1", 0, OK).await;
    let (_, private) = receiver("127.0.0.2", port, OK).await;
    let names = names(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let transport = GuardedTransport::new(Arc::clone(&names) as _);
    let url = format!("http://rebinds.example:{port}/");
    let reach = reach(&["127.0.0.1"]);
    assert_eq!(send(&transport, &url, Some(reach.clone())).await.unwrap().status(), 200);
    assert_eq!((names.asked.load(SeqCst), public.load(SeqCst)), (1, 1));
    refused(send(&transport, &url, Some(reach)).await, "127.0.0.2 is loopback");
    assert_eq!((public.load(SeqCst), private.load(SeqCst)), (1, 0), "the second answer was never connected to");
}

/// Fails when one lawful address of a name is enough, or an address of another reach's connections is used.
#[tokio::test]
async fn a_name_with_any_address_out_of_reach_is_refused() {
    let (port, came) = receiver("127.0.0.1", 0, OK).await;
    let url = format!("http://mixed.example:{port}/");
    let transport = GuardedTransport::new(names(&[&["127.0.0.1", "10.0.0.1"]]));
    refused(send(&transport, &url, Some(reach(&["127.0.0.1"]))).await, "10.0.0.1 is private");
    assert_eq!(came.load(SeqCst), 0);
    let none = GuardedTransport::new(names(&[&[]]));
    let error = send(&none, &url, Some(reach(&["127.0.0.1"]))).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connect, Outcome::NotSent), "a name without an address");

    // Keep-alive: what one destination may reach is not lent to another.
    let kept = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (port, came) = receiver("127.0.0.1", 0, kept).await;
    let url = format!("http://inside.example:{port}/");
    let transport = GuardedTransport::new(names(&[&["127.0.0.1"]]));
    assert_eq!(send(&transport, &url, Some(reach(&["127.0.0.1"]))).await.unwrap().status(), 200);
    refused(send(&transport, &url, Some(reach(&[]))).await, "127.0.0.1 is loopback");
    assert_eq!(came.load(SeqCst), 1);
}

/// Fails when a literal address passes because no resolver is asked for it, or one form of writing it is read otherwise
/// than the connection reads it; or when plain http is taken without being allowed.
#[tokio::test]
async fn literal_addresses_are_checked_in_every_form() {
    let (port, came) = receiver("127.0.0.1", 0, OK).await;
    let names = names(&[&["127.0.0.1"]]);
    let transport = GuardedTransport::new(Arc::clone(&names) as _);
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "127.0.0.1.",
        "127.0.0.2",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        let result = send(&transport, &format!("http://{host}:{port}/"), Some(reach(&[]))).await;
        refused(result, "the address is refused");
    }
    refused(send(&transport, &format!("http://127.0.0.1:{port}/"), None).await, "not https");
    refused(send(&transport, &format!("https://127.0.0.1:{port}/"), None).await, "127.0.0.1 is loopback");
    assert_eq!((came.load(SeqCst), names.asked.load(SeqCst)), (0, 0));
    for host in ["127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let result = send(&transport, &format!("http://{host}:{port}/"), Some(reach(&["127.0.0.1"]))).await;
        assert_eq!(result.unwrap().status(), 200, "{host}");
    }
    assert!(came.load(SeqCst) >= 1);
    // A source of the error says which address it was, for those who decide on it.
    let error = send(&transport, "http://localhost:1/", Some(reach(&[]))).await.unwrap_err();
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<OutOfReach>());
    assert_eq!(source.map(|refused| refused.what), Some("loopback"));
}

/// Fails when the body of an answer that nobody wants holds up or undoes what its head has said.
#[tokio::test]
async fn an_answers_head_is_enough() {
    let (port, _) = receiver("127.0.0.1", 0, "HTTP/1.1 202 Accepted\r\ncontent-length: 1000000\r\n\r\nand more").await;
    let transport = GuardedTransport::new(names(&[&["127.0.0.1"]]));
    let mut request = Request::post(format!("http://app.example:{port}/")).body(Bytes::new()).unwrap();
    request.extensions_mut().insert(reach(&["127.0.0.1"]));
    request.extensions_mut().insert(DiscardBody);
    let answer = tokio::time::timeout(Duration::from_secs(10), transport.send(request)).await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.body().len()), (202, 0));
}

/// A forwarder whose only way out is the transport.
fn forwarder(transport: GuardedTransport) -> Forwarder {
    let store = Arc::new(MemoryStore::new());
    let random = Arc::new(SystemRandom);
    let master = LocalMasterKey::parse("0123456789abcdef".repeat(4).as_bytes(), Arc::clone(&random) as _).unwrap();
    let vault = Vault::new(Arc::clone(&store) as _, Arc::new(master), Arc::clone(&random) as _);
    let clock = Arc::new(TokioClock::starting_at(Timestamp(0)));
    let (settings, metrics) = (ForwardSettings::default(), Metrics::default());
    Forwarder::new(store, Arc::new(vault), Arc::new(transport), clock, random, settings, metrics)
}

/// Posts to a destination on 127.0.0.1, which alone it may reach.
async fn forward(transport: GuardedTransport, port: u16) -> Answer {
    let forwarder = forwarder(transport);
    let spec = DestinationSpec {
        url: format!("http://127.0.0.1:{port}/hook"),
        filter: Filter { types: vec!["*".to_owned()], ..Filter::default() },
        concurrency: 1,
        timeout: Duration::from_secs(10),
        headers: Vec::new(),
        order: Order::None,
        reach: reach(&["127.0.0.1"]),
    };
    forwarder.create("app", spec, None).await.unwrap();
    forwarder.test("app").await.unwrap().answer
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

/// Fails when a hop of a forward is sent without the destination's reach, or only the first address is checked: whoever
/// answers a forward could send it, signed, to any service inside.
#[tokio::test]
async fn a_redirect_leads_nowhere_the_destination_may_not_reach() {
    let (inside, inside_came) = receiver("127.0.0.2", 0, OK).await;
    let (six, six_came) = receiver("::1", 0, OK).await;
    let (allowed, allowed_came) = receiver("127.0.0.1", 0, OK).await;
    let answer_of = async |to: String| {
        let (port, came) = receiver("127.0.0.1", 0, redirect(&to)).await;
        let answer = forward(GuardedTransport::new(names(&[&["127.0.0.2"]])), port).await;
        assert_eq!(came.load(SeqCst), 1, "{to}: the first hop was made, and once");
        answer
    };
    // That a redirect is followed at all.
    let twice = receiver("127.0.0.1", 0, redirect(&format!("http://127.0.0.1:{allowed}/"))).await.0;
    for first in [allowed, twice] {
        let answer = answer_of(format!("http://127.0.0.1:{first}/next")).await;
        assert_eq!(answer, Answer::Delivered { status: 200 });
    }
    assert_eq!(allowed_came.load(SeqCst), 2);
    let second = receiver("127.0.0.1", 0, redirect(&format!("http://127.0.0.2:{inside}/"))).await.0;
    for (to, what) in [
        (format!("http://127.0.0.2:{inside}/"), "127.0.0.2 is loopback"),
        (format!("//127.0.0.2:{inside}/"), "127.0.0.2 is loopback"),
        (format!("http://0x7f.2:{inside}/"), "127.0.0.2 is loopback"),
        (format!("http://[::1]:{six}/"), "::1 is loopback"),
        (format!("https://[::1]:{six}/"), "::1 is loopback"),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "169.254.169.254 is link-local"),
        // A name is checked by what it resolves to.
        (format!("http://inside.example:{inside}/"), "127.0.0.2 is loopback"),
        // The second hop as the first.
        (format!("http://127.0.0.1:{second}/"), "127.0.0.2 is loopback"),
    ] {
        let answer = answer_of(to.clone()).await;
        let reason = format!("the address is refused: {what}");
        assert_eq!(answer, Answer::Failed { status: None, reason, retry_after: None }, "{to}");
    }
    assert_eq!((inside_came.load(SeqCst), six_came.load(SeqCst)), (0, 0), "nothing connected");
}

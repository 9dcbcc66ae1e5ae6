//! Bad input against a hub that serves: each gets the right answer and nothing accepted is lost. (Promises 1 and 2.)

use std::net::SocketAddr;
use std::time::Duration;

use palisade_core::store::EventState;
use palisade_core::worker::WorkerSettings;
use palisade_emulator::stripe::{Fault, RouteFaults, signature};
use palisade_hub::{ServeSettings, Settings, UNREADABLE, serve};
use palisade_tests::stage::{ENDPOINT, Kept, Running, SECRET, Stage, one_effect, quick};
use palisade_tests::verdict;
use palisade_tests::victims::{WITHIN, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The hub's cap for bodies in these tests.
const CAP: usize = 512 * 1024;

/// A hub that serves on loopback; only `customer.updated` has a handler.
struct Served {
    stage: Stage,
    address: SocketAddr,
    running: Running,
    stop: watch::Sender<bool>,
    server: JoinHandle<usize>,
}

impl Served {
    async fn start(kept: Kept) -> Self {
        let stage = Stage::set_with(1, kept, Duration::ZERO, |hub| {
            hub.on("customer.updated", one_effect(Duration::ZERO)).settings(Settings {
                body_bytes_max: CAP,
                request_timeout: Duration::from_millis(400),
                worker: WorkerSettings { attempts_max: 2, ..quick(50).worker },
                ..quick(50)
            })
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(serve(listener, stage.hub.router(), ServeSettings::default(), stopped));
        let running = Running::start(&stage.hub);
        let served = Self { stage, address, running, stop, server };
        let ready = within(WITHIN, async || served.get("/readyz").await.0 == 200).await;
        assert!(ready, "{}", served.get("/readyz").await.1);
        served
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://{}{path}", self.address)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Posts a body under its true signature.
    async fn post(&self, endpoint: &str, body: impl Into<Vec<u8>>) -> u16 {
        let body = body.into();
        let request = reqwest::Client::new()
            .post(format!("http://{}/webhooks/{endpoint}", self.address))
            .header("stripe-signature", self.sign(&body))
            .body(body);
        request.send().await.unwrap().status().as_u16()
    }

    fn sign(&self, body: &[u8]) -> String {
        use palisade_core::Clock;
        let at = self.stage.clock.now().seconds();
        format!("t={at},v1={}", signature(SECRET, at, body))
    }

    async fn events(&self, state: EventState) -> Vec<palisade_core::store::StoredEvent> {
        let events = verdict::all_events(&*self.stage.kept.store()).await;
        events.into_iter().filter(|event| event.state == state).collect()
    }

    async fn end(self) {
        self.running.stop().await;
        self.stop.send(true).unwrap();
        self.server.await.unwrap();
    }
}

fn update(id: &str, object: &str) -> String {
    format!(
        r#"{{"id":"{id}","object":"event","type":"customer.updated","created":1795305600,"data":{{"object":{object}}}}}"#
    )
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// Fails when a signed delivery that cannot be read is refused or dropped, when depth is walked by recursion, or when
/// a type nobody wants is refused.
#[tokio::test]
async fn what_is_signed_is_kept_however_bad_it_is() {
    let served = Served::start(Kept::sqlite().await).await;
    let invalid_utf8 = [br#"{"id":"evt_utf8","object":"event","type":""#.as_slice(), b"\xff\xfe\"}"].concat();
    let unreadable: [(&str, Vec<u8>); 5] = [
        ("invalid UTF-8", invalid_utf8),
        ("not JSON", b"hello".to_vec()),
        ("JSON of another shape", b"[1,2,3]".to_vec()),
        ("100,000 levels", nested(100_000).into_bytes()),
        ("cut off", br#"{"id":"evt_cut","object":"ev"#.to_vec()),
    ];
    let count = unreadable.len();
    for (what, body) in unreadable {
        assert_eq!(served.post(ENDPOINT, body).await, 200, "{what}");
    }
    // Readable as an event, with an object no parser should walk into by recursion.
    assert_eq!(served.post(ENDPOINT, update("evt_deep", &nested(100_000))).await, 200);
    assert_eq!(
        served.post(ENDPOINT, r#"{"id":"evt_new","object":"event","type":"moon.landed","created":1}"#).await,
        200
    );
    let dead = within(WITHIN, async || served.events(EventState::Dead).await.len() > count).await;
    let events = verdict::all_events(&*served.stage.kept.store()).await;
    let states: Vec<_> = events.iter().map(|event| (event.event.id.as_str(), event.state, &event.reason)).collect();
    assert!(dead, "{states:?}");
    let dead = served.events(EventState::Dead).await;
    assert_eq!(dead.iter().filter(|event| event.event.kind == UNREADABLE).count(), count, "{states:?}");
    assert!(dead.iter().any(|event| event.event.id.as_str() == "evt_deep"), "{states:?}");
    let ignored = served.events(EventState::Ignored).await;
    assert_eq!(ignored.len(), 1);
    assert_eq!(ignored[0].event.id.as_str(), "evt_new");
    for event in &dead {
        let (status, _) = served.get(&format!("/api/v1/events/{}", event.row.0)).await;
        assert_eq!(status, 200, "{}", event.event.id);
    }
    // It goes on as if nothing had been.
    let (status, page) = served.get("/").await;
    assert_eq!(status, 200);
    assert!(page.contains("evt_deep") || page.contains("unreadable"), "the page names no dead letter");
    assert_eq!(served.get("/readyz").await.0, 200);
    served.end().await;
}

/// Fails when a body is read past the cap, an endpoint's name is not checked, or a signature is not.
#[tokio::test]
async fn what_is_not_acceptable_is_refused_and_leaves_nothing() {
    let served = Served::start(Kept::memory()).await;
    assert_eq!(served.post(ENDPOINT, vec![b' '; CAP + 1]).await, 413);
    assert_eq!(served.post("nobody", update("evt_1", "{}")).await, 404);
    assert_eq!(served.post("..%2f..%2fetc", update("evt_1", "{}")).await, 404);
    let body = update("evt_1", "{}");
    let at = {
        use palisade_core::Clock;
        served.stage.clock.now().seconds()
    };
    for (what, header) in [
        ("another secret", format!("t={at},v1={}", signature("whsec_other", at, body.as_bytes()))),
        ("another body", format!("t={at},v1={}", signature(SECRET, at, b"{}"))),
        ("too old", format!("t={0},v1={1}", at - 301, signature(SECRET, at - 301, body.as_bytes()))),
        ("too new", format!("t={0},v1={1}", at + 400, signature(SECRET, at + 400, body.as_bytes()))),
        ("another time", format!("t={at},v1={}", signature(SECRET, at - 1, body.as_bytes()))),
        ("no code", format!("t={at}")),
        ("nothing", String::new()),
    ] {
        let request = reqwest::Client::new().post(format!("http://{}/webhooks/{ENDPOINT}", served.address));
        let answer = request.header("stripe-signature", header).body(body.clone()).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 401, "{what}");
        assert!(!answer.text().await.unwrap().contains("v1="), "{what}: the answer tells the signature");
    }
    let chunked = format!("POST /webhooks/{ENDPOINT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(chunked.as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 65_536, "a".repeat(65_536));
    // The answer may come while we still write: a broken pipe is as good as a whole body.
    for _ in 0..=CAP / 65_536 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    assert_eq!(status_of(&mut stream).await, 413, "without an announced length");
    assert!(verdict::all_events(&*served.stage.kept.store()).await.is_empty());
    served.end().await;
}

/// Fails when a request may take any time: then a few slow senders hold every connection.
#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let served = Served::start(Kept::memory()).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let head = format!("POST /webhooks/{ENDPOINT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nonly this");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(status_of(&mut stream).await, 408);
    assert_eq!(served.post(ENDPOINT, update("evt_1", r#"{"id":"cus_1","object":"customer"}"#)).await, 200);
    served.end().await;
}

async fn status_of(stream: &mut TcpStream) -> u16 {
    let mut answer = Vec::new();
    let read = async {
        let mut buffer = [0; 1_024];
        while !answer.windows(2).any(|end| end == b"\r\n") {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(n) => answer.extend_from_slice(&buffer[..n]),
            }
        }
    };
    tokio::time::timeout(WITHIN, read).await.expect("an answer");
    let line = String::from_utf8_lossy(&answer);
    line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status in {line:?}"))
}

/// Fails when a delivery is acknowledged although its commit failed, or what was there before is lost by it.
#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_loses_nothing() {
    let kept = Kept::sqlite().await;
    let Kept::Sqlite(store, _) = &kept else { unreachable!() };
    let store = store.clone();
    let served = Served::start(kept.clone()).await;
    let big =
        |id: &str| update(id, &format!(r#"{{"id":"cus_1","object":"customer","name":"{}"}}"#, "x".repeat(100_000)));
    assert_eq!(served.post(ENDPOINT, big("evt_before")).await, 200);
    store.set_size_max(Some(1)).await.unwrap();
    let mut refused = 0;
    let mut acknowledged = vec!["evt_before".to_owned()];
    for n in 0..40 {
        let id = format!("evt_{n}");
        match served.post(ENDPOINT, big(&id)).await {
            200 => acknowledged.push(id),
            503 => refused += 1,
            other => panic!("{id} was answered {other}"),
        }
    }
    assert!(refused > 30, "only {refused} of 40 refused: the disk was not full");
    let unready = within(WITHIN, async || served.get("/readyz").await.0 == 503).await;
    println!("readiness on a full disk: {unready}");
    store.set_size_max(None).await.unwrap();
    assert_eq!(served.post(ENDPOINT, big("evt_after")).await, 200);
    acknowledged.push("evt_after".to_owned());
    let held = verdict::event_ids(&*served.stage.kept.store()).await;
    assert_eq!(held, acknowledged.into_iter().collect());
    assert!(within(WITHIN, async || served.get("/readyz").await.0 == 200).await);
    served.end().await;
}

/// Fails when an attempt has no timeout, the breaker does not open, or the page calls such a provider healthy.
#[tokio::test(start_paused = true)]
async fn a_provider_that_never_answers_is_told_and_holds_up_nobody() {
    let stage = Stage::set(3, Kept::memory(), Duration::ZERO);
    let silent = RouteFaults { route: "*".to_owned(), hang_before: 1.0, ..RouteFaults::default() };
    stage.emulator.faults().set(silent);
    let running = Running::start(&stage.hub);
    stage
        .until("calls are logged as failed", async |stage| stage.kept.store().calls(None, 10).await.unwrap().len() > 2)
        .await;
    let calls = stage.kept.store().calls(None, 100).await.unwrap();
    assert!(calls.iter().all(|call| call.error.is_some()), "{calls:?}");
    // Deliveries and their handlers do not wait for it: an event of no stream needs no call.
    let body = r#"{"id":"evt_1","object":"event","type":"payout.paid","created":1795305600,"data":{"object":{"id":"po_1","object":"payout"}}}"#;
    assert_eq!(stage.deliver(body).await, 200);
    stage.until("it is handled", async |stage| !stage.kept.effects().await.is_empty()).await;
    let health = get(&stage, "/api/v1/health").await;
    let health: serde_json::Value = serde_json::from_str(&health).unwrap();
    let connection = &health["connections"][0]["health"];
    assert_eq!(connection["status"], "down", "{health}");
    assert_eq!(connection["who_acts"], "provider", "{health}");
    let page = get(&stage, "/").await;
    assert!(page.contains(connection["next_step"].as_str().unwrap()), "the page does not say it");
    // It comes back, and so does everything.
    stage.emulator.faults().set(RouteFaults { route: "*".to_owned(), ..RouteFaults::default() });
    stage.emulator.faults().next("*", [Fault::Pass]);
    stage.heal().await;
    verdict::assert_records_equal_truth(&*stage.kept.store(), &stage.emulator).await;
    running.stop().await;
}

async fn get(stage: &Stage, path: &str) -> String {
    use tower::ServiceExt;
    let request = http::Request::get(path).header("host", "127.0.0.1").body(axum::body::Body::empty()).unwrap();
    let response = stage.hub.router().oneshot(request).await.unwrap();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

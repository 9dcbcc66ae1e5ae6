//! Requests to the hub with any path, query, headers and body: nothing is shown or done without the token, whoever claims to
//! have come for whom; forms, sessions, JSON bodies, destinations and cursors are refused in the one form errors have, or
//! read within their bounds. Never a panic, and never an answer that says the hub itself failed.
#![no_main]

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, SET_COOKIE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use palisade_core::auth::Scheme;
use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::clock::ManualClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{Connection, ConnectionState, Store};
use palisade_core::{Error, ErrorKind, Outcome, Transport};
use palisade_fuzz::{Cut, NOW};
use palisade_hub::feed::FeedCursor;
use palisade_hub::{Access, ConnectionConfig, EndpointConfig, Hub, Settings};
use palisade_stripe::StripeProvider;
use serde_json::Value;
use tower::ServiceExt;

/// The token; nobody guesses it.
const ADMIN: &str = "the adm1n token of the fuzz targets";
/// The provider's key, which no answer shows.
const KEY: &str = "sk_test_s3ntFuzzKey";
/// What secrets are sealed with: 32 bytes in hex.
const MASTER: &[u8] = b"0f1e2d3c4b5a69788796a5b4c3d2e1f00112233445566778899aabbccddeeff0";
/// Wrong tokens that are looked at before an address has to wait.
const TRIES: usize = 10;
/// Larger than any answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Nothing leaves.
struct NoNetwork;

#[async_trait]
impl Transport for NoNetwork {
    async fn send(&self, _: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        Err(Error::new(ErrorKind::Connect, "there is no network here").with_outcome(Outcome::NotSent))
    }
}

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(story(Cut::new(data)));
});

async fn story(mut cut: Cut<'_>) {
    let what = cut.byte() % 6;
    // What changes a hub has one of its own; the others leave it as it was, and to make one takes longer than they do.
    let asker = if what == 3 { Rc::new(Asker::new().await) } else { Asker::kept().await };
    match what {
        0 => strangers(&asker, cut).await,
        1 => guesses(&asker, cut).await,
        2 => sessions(&asker, cut).await,
        3 => calls_of_the_api(&asker, cut).await,
        4 => destinations(&asker, cut).await,
        _ => places(&asker, cut).await,
    }
}

// ----------------------------------------------------------------------------------------------------- the hub

struct Asker {
    router: axum::Router,
    clock: Arc<ManualClock>,
}

thread_local! {
    static KEPT: OnceCell<Rc<Asker>> = const { OnceCell::new() };
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Asker {
    /// Returns the one that is left as it was.
    async fn kept() -> Rc<Self> {
        if let Some(kept) = KEPT.with(|kept| kept.get().cloned()) {
            return kept;
        }
        let made = Rc::new(Self::new().await);
        KEPT.with(|kept| Rc::clone(kept.get_or_init(|| made)))
    }

    async fn new() -> Self {
        let clock = Arc::new(ManualClock::starting_at(NOW));
        let random = Arc::new(SeededRandom::new(1));
        let store = Arc::new(MemoryStore::new());
        let connection = ConnectionConfig {
            environment: Default::default(),
            id: "acme".into(),
            tenant: "acme".into(),
            provider: "stripe".to_owned(),
            account: None,
            base_url: None,
            credential: Scheme::Bearer(KEY.into()).into(),
        };
        let row = Connection {
            id: connection.id.clone(),
            tenant: connection.tenant.clone(),
            provider: connection.provider.clone(),
            environment: Default::default(),
            account: None,
            base_url: None,
            state: ConnectionState::Active,
            created_at: NOW,
        };
        let store: Arc<dyn Store> = store;
        store.put_connection(row).await.expect("a row");
        let endpoint = EndpointConfig {
            name: "stripe".to_owned(),
            provider: "stripe".to_owned(),
            connection: "acme".into(),
            secrets: vec!["whsec_8f742231b10e8888abcd99yyyzzz85a5".into()],
        };
        let settings = Settings {
            access: Access::Token(ADMIN.into()),
            trusted_proxies: vec!["10.0.0.0/8".parse().expect("a network")],
            ..Settings::default()
        };
        let hub = Hub::builder()
            .provider(StripeProvider::new())
            .store(store)
            .clock(Arc::clone(&clock) as _)
            .master_key(Arc::new(LocalMasterKey::parse(MASTER, Arc::clone(&random) as _).expect("a key")))
            .random(random)
            .transport(Arc::new(NoNetwork))
            .forward_transport(Arc::new(NoNetwork))
            .connection(connection)
            .endpoint(endpoint)
            .settings(settings)
            .build()
            .expect("a hub");
        Self { router: hub.router(), clock }
    }

    /// Sends a request from an address; `None` when it is none that a server would take.
    async fn send(&self, from: [u8; 4], method: &str, path: &str, headers: &HeaderMap, body: Bytes) -> Option<Answer> {
        let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).ok()?).uri(path);
        *request.headers_mut()? = headers.clone();
        let mut request = request.body(Body::from(body)).ok()?;
        // A server gives the router paths, and nothing else.
        if !request.uri().path().starts_with('/') {
            return None;
        }
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((from, 4_096))));
        let answer = self.router.clone().oneshot(request).await.expect("the router never fails");
        let (parts, body) = answer.into_parts();
        let body = to_bytes(body, ANSWER_BYTES_MAX).await.expect("an answer");
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        answer.is_in_order(method, path);
        Some(answer)
    }

    /// The same with the token.
    async fn admin(&self, method: &str, path: &str, body: Bytes) -> Option<Answer> {
        self.send([127, 0, 0, 1], method, path, &bearer(ADMIN), body).await
    }
}

impl Answer {
    /// What every answer keeps to.
    #[track_caller]
    fn is_in_order(&self, method: &str, path: &str) {
        let shown = String::from_utf8_lossy(&self.body);
        assert_ne!(self.status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}");
        assert!(!shown.contains(ADMIN) && !shown.contains(KEY), "{method} {path}: a secret is shown");
        let json = self.headers.get("content-type").is_some_and(|kind| kind == "application/json");
        if self.status.as_u16() >= 400 && json {
            let error = &self.json()["error"];
            let told =
                ["kind", "message", "next"].map(|part| error[part].as_str().is_some_and(|text| !text.is_empty()));
            assert!(told.iter().all(|told| *told), "{method} {path}: {shown}");
        }
        assert_eq!(self.headers.get("x-content-type-options").map(|it| it.as_bytes()), Some(&b"nosniff"[..]), "{path}");
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("it says that it is JSON")
    }
}

fn bearer(token: &str) -> HeaderMap {
    let value = format!("Bearer {token}").parse().expect("a header");
    HeaderMap::from_iter([(AUTHORIZATION, value)])
}

/// Tells whether a path is one that only the token opens.
fn is_guarded(path: &str) -> bool {
    ["/api/", "/actions/", "/connections/", "/metrics"].iter().any(|guarded| path.starts_with(guarded))
}

// ------------------------------------------------------------------------------------------------ without a token

/// Any request at all, with any headers and body, and without the token.
async fn strangers(asker: &Asker, mut cut: Cut<'_>) {
    let (method, path) = (cut.text(), cut.text());
    let (headers, body) = (cut.headers(), cut.rest());
    let Some(answer) = asker.send([192, 0, 2, 1], &method, &path, &headers, body).await else { return };
    if is_guarded(&path) {
        assert!(!answer.status.is_success(), "{method} {path} is answered {} to a stranger", answer.status);
    }
}

/// Wrong tokens in headers and forms: after ten of one address none is looked at, whatever the headers say of where they
/// come from, if no trusted proxy says it.
async fn guesses(asker: &Asker, mut cut: Cut<'_>) {
    let by_proxy = cut.byte().is_multiple_of(2);
    let from = if by_proxy { [10, 0, 0, 1] } else { [192, 0, 2, 1] };
    let form = cut.text();
    let mut looked_at = 0;
    for turn in 0..TRIES + 4 {
        let mut headers = cut.headers();
        let answer = if turn % 2 == 0 {
            headers.insert(AUTHORIZATION, "Bearer a wrong one".parse().expect("a header"));
            asker.send(from, "GET", "/api/v1/jobs", &headers, Bytes::new()).await
        } else {
            asker.send(from, "POST", "/login", &headers, form.clone().into()).await
        };
        let status = answer.expect("a request").status;
        assert!(!status.is_success() && !status.is_redirection(), "a wrong token opens");
        looked_at += usize::from(status == StatusCode::UNAUTHORIZED);
    }
    assert!(by_proxy || looked_at <= TRIES, "{looked_at} wrong tokens of one address were looked at");
    // By then all tries are forgotten.
    asker.clock.advance(Duration::from_secs(3_600));
}

/// Cookies: none opens but the one that a login gave, as it was given.
async fn sessions(asker: &Asker, mut cut: Cut<'_>) {
    let from = [192, 0, 2, 1];
    let form = format!("token={}", ADMIN.replace(' ', "+"));
    let login = asker.send(from, "POST", "/login", &HeaderMap::new(), form.into()).await.expect("a request");
    assert_eq!(login.status, StatusCode::SEE_OTHER);
    let cookie = login.headers[SET_COOKIE].to_str().expect("text").split(';').next().expect("a pair").to_owned();
    let opens = async |cookie: &[u8], headers: &HeaderMap| {
        let mut headers = headers.clone();
        headers.remove(AUTHORIZATION);
        headers.insert(COOKIE, http::HeaderValue::from_bytes(cookie).ok()?);
        Some(asker.send(from, "GET", "/api/v1/jobs", &headers, Bytes::new()).await?.status.is_success())
    };
    assert_eq!(opens(cookie.as_bytes(), &HeaderMap::new()).await, Some(true), "a session opens");
    // A byte of it is another one, or something stands before or behind it.
    let (at, byte) = (usize::from(cut.byte()), cut.byte());
    let (before, behind) = (cut.line().to_vec(), cut.line().to_vec());
    let mut changed = cookie.clone().into_bytes();
    let name = "palisade_session=".len();
    let at = name + at % (changed.len() - name);
    let same = changed[at] == byte;
    changed[at] = byte;
    let headers = cut.headers();
    if !same {
        assert_ne!(
            opens(&changed, &headers).await,
            Some(true),
            "{:?}: a changed session opens",
            changed.escape_ascii()
        );
    }
    let alone = [&before[..], b"=", &behind].concat();
    assert_ne!(opens(&alone, &headers).await, Some(true), "a session of nobody's opens");
    // Beside others it is still found, unless what stands before it has its name.
    if !before.contains(&b';') && !before.windows(name).any(|part| part == b"palisade_session=") {
        let beside = [&before[..], b"; ", cookie.as_bytes()].concat();
        assert_ne!(opens(&beside, &HeaderMap::new()).await, Some(false), "{:?} hides a session", before.escape_ascii());
    }
}

// --------------------------------------------------------------------------------------------------- with a token

/// The addresses of the API that take a body or parameters; `*` is what is put in.
const CALLS: [(&str, &str); 24] = [
    ("POST", "/api/v1/calls"),
    ("POST", "/api/v1/connect-sessions"),
    ("POST", "/api/v1/destinations"),
    ("PATCH", "/api/v1/destinations/app"),
    ("POST", "/api/v1/destinations/app/rotate"),
    ("POST", "/api/v1/destinations/app/replay"),
    ("POST", "/api/v1/destinations/app/resend"),
    ("POST", "/api/v1/destinations/app/dismiss"),
    ("POST", "/api/v1/events/preview"),
    ("POST", "/api/v1/events/replay"),
    ("POST", "/api/v1/inbox/pause"),
    ("POST", "/api/v1/inbox/resume"),
    ("POST", "/api/v1/dead-letters/dismiss"),
    ("POST", "/actions/dead-letters/dismiss?*"),
    ("POST", "/actions/inbox/*"),
    ("POST", "/api/v1/connections/*/pause"),
    ("POST", "/api/v1/connections/acme/streams/*/run"),
    ("POST", "/api/v1/connections/acme/streams/customers/reset"),
    ("PUT", "/api/v1/connections/acme/streams/customers/schedule"),
    ("DELETE", "/api/v1/connections/acme/streams/customers/schedule?*"),
    ("POST", "/api/v1/outbox/*/resolve"),
    ("POST", "/api/v1/outbox/1/resolve?*"),
    ("GET", "/api/v1/replays/*"),
    ("GET", "/*"),
];

async fn calls_of_the_api(asker: &Asker, mut cut: Cut<'_>) {
    let made =
        asker.admin("POST", "/api/v1/destinations", r#"{"name":"app","url":"https://app.example/"}"#.into()).await;
    assert_eq!(made.expect("a request").status, StatusCode::CREATED);
    let (method, path) = CALLS[usize::from(cut.byte()) % CALLS.len()];
    let path = path.replace('*', &cut.text());
    let body = cut.rest();
    let Some(answer) = asker.admin(method, &path, body.clone()).await else { return };
    // What is no JSON is nobody's order.
    let takes_json = ["/api/v1/calls", "/api/v1/connect-sessions", "/api/v1/destinations", "/api/v1/events/replay"];
    if takes_json.contains(&path.as_str()) && serde_json::from_slice::<Value>(&body).is_err() && !body.is_empty() {
        assert!(answer.status.is_client_error(), "{method} {path} takes what cannot be read: {}", answer.status);
    }
    // Whatever was said to it, it goes on.
    for path in ["/", "/api/v1/health", "/api/v1/destinations", "/api/v1/outbox", "/api/v1/schedules", "/metrics"] {
        let after = asker.admin("GET", path, Bytes::new()).await.expect("a request");
        assert_eq!(after.status, StatusCode::OK, "{path} after {method} {}", body.escape_ascii());
    }
}

/// A destination is kept only if it can be one: over TLS to a public host, without a user's name or password, within the
/// bounds of its other parts; and its key is shown once.
async fn destinations(asker: &Asker, mut cut: Cut<'_>) {
    let url = cut.text();
    let rest = cut.rest();
    let mut new = match serde_json::from_slice(&rest) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    for opening in ["allow_http", "allow_private", "allow_networks"] {
        new.remove(opening);
    }
    new.entry("name").or_insert("app".into());
    new.insert("url".to_owned(), url.clone().into());
    let body = Value::Object(new).to_string();
    let made = asker.admin("POST", "/api/v1/destinations", body.into()).await.expect("a request");
    let list = asker.admin("GET", "/api/v1/destinations", Bytes::new()).await.expect("a request");
    let kept = list.json()["destinations"].as_array().cloned().unwrap_or_default();
    if made.status != StatusCode::CREATED {
        assert!(made.status.is_client_error() && kept.is_empty(), "{url:?}: {} and {} kept", made.status, kept.len());
        return;
    }
    let made = made.json();
    let key = made["secret"].as_str().filter(|key| !key.is_empty());
    assert!(key.is_none_or(|key| !String::from_utf8_lossy(&list.body).contains(key)), "the key is shown again");
    let [one] = kept.as_slice() else { panic!("{} kept of one", kept.len()) };
    let url = one["url"].as_str().expect("a text");
    let scheme = url.trim_start().get(..6).unwrap_or_default();
    assert!(scheme.eq_ignore_ascii_case("https:"), "{url:?} is not over TLS");
    // In front of the path, behind the scheme; a backslash is as good as a slash there.
    let authority = url.trim_start()[6..].trim_start_matches(['/', '\\', '\t']).split(['/', '\\', '?', '#']).next();
    let authority = authority.unwrap_or_default();
    assert!(!authority.trim_start_matches('@').contains('@'), "{url:?} names a user");
    for private in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "192.168.0.1"] {
        let host = authority.strip_prefix(private);
        assert!(host.is_none_or(|port| !port.is_empty() && !port.starts_with(':')), "{url:?} is at home");
    }
    assert!(url.len() <= 2_048 && one["name"].as_str().is_some_and(|name| !name.is_empty() && name.len() <= 64));
    assert!(one["concurrency"].as_u64().is_some_and(|it| (1..=64).contains(&it)), "{one}");
    assert!(one["timeout_seconds"].as_f64().is_some_and(|it| (1.0..=60.0).contains(&it)), "{one}");
    assert!(one["headers"].as_object().is_some_and(|it| it.len() <= 16), "{one}");
    assert!(one["types"].as_array().is_some_and(|it| !it.is_empty() && it.len() <= 100), "{one}");
    let path = format!("/api/v1/destinations/{}", one["name"].as_str().unwrap_or_default());
    assert_eq!(asker.admin("DELETE", &path, Bytes::new()).await.expect("a request").status, StatusCode::OK);
}

/// The lists, with what tells where to go on, and how many at once.
const LISTS: [(&str, &str); 8] = [
    ("/api/v1/records/acme/customers", "cursor"),
    ("/api/v1/connections", "after"),
    ("/api/v1/schedules", "after"),
    ("/api/v1/events", "before"),
    ("/api/v1/runs", "before"),
    ("/api/v1/outbox", "before"),
    ("/api/v1/calls", "connection"),
    ("/api/v1/connections/acme/streams/customers/unreadable", "after"),
];

/// Places to go on from: refused, or taken with a list that is no longer than it was asked to be.
async fn places(asker: &Asker, mut cut: Cut<'_>) {
    let (path, parameter) = LISTS[usize::from(cut.byte()) % LISTS.len()];
    let (place, limit, more) = (cut.text(), cut.text(), cut.text());
    let path = format!("{path}?{parameter}={place}&limit={limit}&{more}");
    let Some(answer) = asker.admin("GET", &path, Bytes::new()).await else { return };
    let known = [StatusCode::OK, StatusCode::BAD_REQUEST, StatusCode::GONE, StatusCode::NOT_FOUND];
    assert!(known.contains(&answer.status), "{path}: {}", answer.status);
    if answer.status != StatusCode::OK {
        return;
    }
    let list = answer.json();
    if let Some(next) = list["next_cursor"].as_str() {
        let next = next.parse::<FeedCursor>().expect("the next place is one");
        let path = format!("/api/v1/records/acme/customers?cursor={next}");
        assert_eq!(asker.admin("GET", &path, Bytes::new()).await.expect("a request").status, StatusCode::OK);
    }
    let most = limit.parse().unwrap_or(1_000).min(1_000);
    for entries in list.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_array()) {
        assert!(entries.len() <= most, "{path}: {} entries", entries.len());
    }
}

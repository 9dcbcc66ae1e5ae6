//! Who may see pages and API, and the envelope around every answer but an empty one to a delivery, which needs none.

use axum::body::Body;
use http::{Method, Request};
use palisade_hub::{Access, Settings};

use crate::fixtures::{Answer, Fixture, TOKEN, fixture_with, settings};

const GUARDED: [&str; 9] = [
    "/",
    "/api/v1/health",
    "/api/v1/connections",
    "/api/v1/connections/acme-stripe",
    "/api/v1/events",
    "/api/v1/runs",
    "/api/v1/jobs",
    "/api/v1/calls",
    "/api/v1/records/acme-stripe/customers",
];

fn token() -> Settings {
    settings(Access::Token(TOKEN.into()))
}

fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

async fn get(fixture: &Fixture, path: &str, headers: &[(&str, &str)]) -> Answer {
    fixture.ask(request(Method::GET, path, headers)).await
}

// Fails when a route is added outside the guard, or when a prefix of the token passes.
#[tokio::test]
async fn without_the_token_no_page_and_no_fact_is_given() {
    let fixture = fixture_with(token()).with_connection().await;
    let bearer = format!("Bearer {TOKEN}");
    let near: String = TOKEN.chars().take(TOKEN.len() - 1).collect();
    let near = format!("Bearer {near}");
    for path in GUARDED.into_iter().chain(["/metrics", "/api/v1/events/1"]) {
        let refused: [&[(&str, &str)]; 6] = [
            &[],
            &[("authorization", "Bearer ")],
            &[("authorization", &near)],
            &[("authorization", TOKEN)],
            &[("cookie", "palisade_session=1.00")],
            &[("cookie", &bearer)],
        ];
        for headers in refused {
            let answer = get(&fixture, path, headers).await;
            if path == "/" {
                assert_eq!(answer.status, 303, "a browser is sent to the login");
                assert_eq!(answer.header("location"), Some("/login"));
            } else {
                answer.is_error(401, "unauthorized");
            }
        }
        let answer = get(&fixture, path, &[("authorization", &bearer)]).await;
        let expected = if path.ends_with("events/1") { 404 } else { 200 };
        assert_eq!(answer.status.as_u16(), expected, "{path}: {}", answer.text());
    }
    for path in [
        "/actions/events/1/replay",
        "/actions/connections/acme-stripe/sync",
        "/api/v1/events/1/replay",
        "/api/v1/connections/acme-stripe/sync",
    ] {
        fixture.post(path).await.is_error(401, "unauthorized");
    }
}

// Fails when the guard is put over what monitors ask, over open metrics, or over the login itself.
#[tokio::test]
async fn what_is_open_is_open_and_tells_nothing() {
    let fixture = fixture_with(Settings { metrics_open: true, ..token() });
    for path in ["/healthz", "/readyz", "/login", "/style.css", "/metrics"] {
        let status = get(&fixture, path, &[]).await.status.as_u16();
        assert!([200, 503].contains(&status), "{path}: {status}");
    }
}

// Fails when settings without an access let an empty token in, or offer a login.
#[tokio::test]
async fn a_hub_that_was_given_no_access_gives_none() {
    let fixture = fixture_with(Settings::default());
    for path in GUARDED {
        get(&fixture, path, &[("authorization", "Bearer ")]).await.is_error(403, "forbidden");
    }
    get(&fixture, "/login", &[]).await.is_error(403, "forbidden");
}

async fn login(fixture: &Fixture, form: &str) -> Answer {
    let request = Request::post("/login")
        .header("host", "hub.example.com")
        .header("origin", "https://hub.example.com")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()))
        .unwrap();
    fixture.ask(request).await
}

// Fails when the cookie can be read by a script, sent by another site, or outlives its time.
#[tokio::test]
async fn a_login_gives_a_session_that_ends() {
    let fixture = fixture_with(Settings { public_url: Some("https://hub.example.com".to_owned()), ..token() });
    for wrong in ["", "token=", "token=wrong", "nothing", "token=%ff", &"x".repeat(10_000)] {
        let answer = login(&fixture, wrong).await;
        assert_eq!(answer.status, 401);
        assert!(answer.header("set-cookie").is_none());
        assert!(!answer.text().contains("wrong\""), "what was typed is not repeated");
    }
    let answer = login(&fixture, &format!("token={}", TOKEN.replace(' ', "+"))).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, Some("/")));
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    for word in ["HttpOnly", "SameSite=Strict", "Secure", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(word), "{word} in {cookie}");
    }
    assert!(!cookie.contains(TOKEN));
    let session = cookie.split(';').next().unwrap();
    assert_eq!(get(&fixture, "/", &[("cookie", session)]).await.status, 200);
    assert_eq!(get(&fixture, "/api/v1/jobs", &[("cookie", &format!("a=b; {session}; c=d"))]).await.status, 200);
    fixture.clock.advance(std::time::Duration::from_secs(12 * 3_600));
    get(&fixture, "/api/v1/jobs", &[("cookie", session)]).await.is_error(401, "unauthorized");
}

// Fails when a stranger's page can act with the cookie of whoever visits it.
#[tokio::test]
async fn an_action_by_cookie_must_come_from_our_own_page() {
    let fixture = fixture_with(token()).with_connection().await;
    let answer = login(&fixture, &format!("token={}", TOKEN.replace(' ', "%20"))).await;
    let session = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let path = "/actions/connections/acme-stripe/sync";
    let act = |origin: Option<&'static str>| {
        let mut headers = vec![("cookie", session.as_str()), ("host", "hub.example.com")];
        headers.extend(origin.map(|origin| ("origin", origin)));
        request(Method::POST, path, &headers)
    };
    for origin in [None, Some("https://evil.example"), Some("null"), Some("https://hub.example.com.evil.example")] {
        fixture.ask(act(origin)).await.is_error(403, "forbidden");
    }
    let answer = fixture.ask(act(Some("https://hub.example.com"))).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, Some("/")));
}

// Fails when a name that a stranger points at loopback (DNS rebinding) is served.
#[tokio::test]
async fn open_on_loopback_answers_loopback_names_only() {
    let fixture = fixture_with(settings(Access::Loopback)).with_connection().await;
    for host in ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "127.9.9.9"] {
        assert_eq!(get(&fixture, "/api/v1/jobs", &[("host", host)]).await.status, 200, "{host}");
    }
    for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", ""] {
        get(&fixture, "/api/v1/jobs", &[("host", host)]).await.is_error(403, "forbidden");
    }
    get(&fixture, "/api/v1/jobs", &[]).await.is_error(403, "forbidden");
    let path = "/api/v1/connections/acme-stripe/sync";
    let post = |origin| request(Method::POST, path, &[("host", "127.0.0.1:8080"), ("origin", origin)]);
    fixture.ask(post("https://evil.example")).await.is_error(403, "forbidden");
    assert_eq!(fixture.ask(post("http://127.0.0.1:8080")).await.status, 202);
    assert_eq!(fixture.ask(request(Method::POST, path, &[("host", "127.0.0.1:8080")])).await.status, 202, "curl");
}

// Fails when a route answers outside the envelope, or the refusal of a delivery goes out bare.
#[tokio::test]
async fn every_answer_with_a_body_carries_the_security_headers() {
    let fixture = fixture_with(settings(Access::Trusted)).with_connection().await;
    let paths = GUARDED.into_iter().chain([
        "/healthz",
        "/readyz",
        "/metrics",
        "/style.css",
        "/nowhere",
        "/webhooks/stripe",
        "/api/v1/x",
    ]);
    let mut answers = Vec::new();
    for path in paths {
        answers.push((path, get(&fixture, path, &[]).await));
    }
    let refused = fixture.post("/webhooks/stripe").await;
    refused.is_error(401, "bad_signature");
    answers.push(("a refused delivery", refused));
    for (path, answer) in answers {
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert!(!policy.contains("script-src"), "there is no script on our pages");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        let cache = answer.header("cache-control");
        assert_eq!(cache == Some("no-store"), path != "/style.css", "{path}: {cache:?}");
    }
}

/// Sends a request as if it had come from an address.
async fn from(fixture: &Fixture, address: &str, mut request: Request<Body>) -> Answer {
    let peer: std::net::SocketAddr = format!("{address}:4711").parse().unwrap();
    request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
    fixture.ask(request).await
}

fn with_token(path: &str, token: &str, forwarded: Option<&str>) -> Request<Body> {
    let bearer = format!("Bearer {token}");
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(forwarded.map(|text| ("x-forwarded-for", text)));
    request(Method::GET, path, &headers)
}

fn form(token: &str) -> Request<Body> {
    Request::post("/login").body(Body::from(format!("token={}", token.replace(' ', "+")))).unwrap()
}

// Fails when wrong tokens are not counted on one of the three ways in, when the right one is looked at while too many
// wrong ones came, or when a session is held up by it.
#[tokio::test]
async fn wrong_tokens_are_bounded_for_each_address() {
    let fixture = fixture_with(token()).with_connection().await;
    let right = from(&fixture, "203.0.113.1", form(TOKEN)).await;
    let session = right.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for n in 0..10 {
        let wrong = match n % 3 {
            0 => from(&fixture, "203.0.113.1", form("guess")).await,
            1 => from(&fixture, "203.0.113.1", with_token("/api/v1/jobs", "guess", None)).await,
            _ => from(&fixture, "203.0.113.1", with_token("/metrics", "guess", Some("9.9.9.9"))).await,
        };
        assert_eq!(wrong.status, 401, "{n}");
    }
    for path in ["/api/v1/jobs", "/metrics", "/"] {
        for token in ["guess", TOKEN] {
            let answer = from(&fixture, "203.0.113.1", with_token(path, token, None)).await;
            answer.is_error(429, "throttled");
            assert_eq!(answer.header("retry-after"), Some("6"));
            assert!(answer.text().contains("wait 6 s, then send the right one"), "{}", answer.text());
        }
    }
    let page = from(&fixture, "203.0.113.1", form(TOKEN)).await;
    assert_eq!((page.status.as_u16(), page.header("retry-after")), (429, Some("6")));
    assert!(page.text().contains("Wait 6 s") && page.header("set-cookie").is_none(), "{}", page.text());

    let cookie = request(Method::GET, "/api/v1/jobs", &[("cookie", &session)]);
    assert_eq!(from(&fixture, "203.0.113.1", cookie).await.status, 200, "who is logged in goes on");
    let other = with_token("/api/v1/jobs", TOKEN, None);
    assert_eq!(from(&fixture, "203.0.113.2", other).await.status, 200, "another address is not held up");
    let unknown = with_token("/api/v1/jobs", TOKEN, None);
    assert_eq!(fixture.ask(unknown).await.status, 200, "nor one the server does not tell");

    fixture.clock.advance(std::time::Duration::from_secs(6));
    let again = with_token("/api/v1/jobs", TOKEN, None);
    assert_eq!(from(&fixture, "203.0.113.1", again).await.status, 200);
}

// Fails when many addresses may guess without end, or when a client behind a trusted proxy is taken for the proxy.
#[tokio::test]
async fn wrong_tokens_are_bounded_over_all_and_seen_through_trusted_proxies() {
    let settings = Settings { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..token() };
    let fixture = fixture_with(settings);
    let ask = async |token: &str, forwarded: &str| {
        from(&fixture, "10.0.0.1", with_token("/api/v1/jobs", token, Some(forwarded))).await.status.as_u16()
    };
    assert_eq!(ask(TOKEN, "198.51.100.200").await, 200);
    for _ in 0..10 {
        assert_eq!(ask("guess", "198.51.100.1").await, 401);
    }
    assert_eq!((ask(TOKEN, "198.51.100.1").await, ask(TOKEN, "198.51.100.2").await), (429, 200));
    assert_eq!(ask(TOKEN, "198.51.100.2, 198.51.100.1").await, 429, "what the client wrote itself is not believed");
    let mut looked = 0;
    for n in 0..200 {
        looked += u32::from(ask("guess", &format!("192.0.2.{n}")).await == 401);
    }
    assert_eq!(looked, 90, "100 in all");
    assert_eq!(
        (ask(TOKEN, "192.0.2.250").await, ask(TOKEN, "198.51.100.200").await),
        (429, 200),
        "who was in stays in"
    );
}

//! What is refused here, before anything is sent; and the breaker over the whole pipeline.

use super::*;
use crate::call::{Limit, Scope};

async fn fail(scene: &Scene, times: usize) {
    for _ in 0..times {
        scene.send(&BLIND).await.unwrap_err();
    }
}

// Fails when half open lets everybody through.
#[tokio::test(start_paused = true)]
async fn a_thousand_callers_at_half_open_cause_three_probes() {
    for (reply, state) in [(Reply::Status(500), BreakerState::Open), (Reply::Status(200), BreakerState::Closed)] {
        let after = Reply::After(Duration::from_millis(30), Box::new(reply));
        let provider = Provider::new(move |n, _| if n < 20 { Reply::Status(500) } else { after.clone() });
        let scene = Arc::new(Scene::new(&provider));
        fail(&scene, 30).await;
        assert_eq!(provider.count(), 20);
        sleep(Duration::from_millis(5_600)).await;
        let results = together((0..1_000).map(|_| {
            let scene = Arc::clone(&scene);
            async move { scene.send(&BLIND).await }
        }))
        .await;
        assert_eq!(provider.count(), 23);
        let refused = results.iter().filter(|r| r.as_ref().is_err_and(|e| e.kind() == ErrorKind::CircuitOpen)).count();
        assert_eq!(refused, 997);
        assert_eq!(scene.client.breaker("api.acme.test").unwrap().state(), state);
    }
}

// Fails when an open breaker sends or waits, does not tell the wait that is left, or what it refuses is not logged.
#[tokio::test(start_paused = true)]
async fn an_open_breaker_refuses_at_once_and_says_when_to_come_back() {
    let provider = Provider::always(Reply::Status(500));
    let credentials = Rotating::new();
    let scene = Scene::with(profile(), &provider, Arc::clone(&credentials) as Arc<dyn CredentialSource>);
    fail(&scene, 20).await;
    let start = Instant::now();
    let error = scene.send(&KEYED).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome(), error.attempts()), (ErrorKind::CircuitOpen, Outcome::NotSent, 0));
    assert!(error.retry_after().is_some_and(|wait| wait > Duration::from_secs(4) && wait < Duration::from_secs(6)));
    assert_eq!((provider.count(), start.elapsed()), (20, Duration::ZERO));
    let record = scene.log.take().pop().unwrap();
    assert_eq!((record.error, record.attempts, record.status), (Some(ErrorKind::CircuitOpen), 0, None));
}

// Fails when a throttle, a refused credential or a caller's mistake counts against the host.
#[tokio::test(start_paused = true)]
async fn only_failures_of_the_host_open_its_breaker() {
    for status in [400, 401, 403, 404, 409, 429] {
        let provider = Provider::always(Reply::Status(status));
        let scene = Scene::with(profile(), &provider, Rotating::new());
        let breaker = scene.client.breaker("api.acme.test").unwrap();
        for n in 0..60 {
            let call = Call::new(&BLIND, format!("c{n}").into(), "t".into());
            scene.client.send(request(call)).await.unwrap_err();
            assert_eq!(breaker.state(), BreakerState::Closed, "{status}");
        }
    }
    for reply in [Reply::Status(502), Reply::Reset, Reply::Refused, Reply::Hang] {
        let provider = Provider::always(reply.clone());
        let scene = Scene::new(&provider);
        let breaker = scene.client.breaker("api.acme.test").unwrap();
        let calls = (0..30).map(|_| {
            let client = scene.client.clone();
            async move { client.send(request(call(&BLIND))).await }
        });
        together(calls).await;
        assert_eq!(breaker.state(), BreakerState::Open, "{reply:?}");
    }
}

// Fails when a force does not reach the calls, a host is found in its exact case only, or any name has a breaker.
#[tokio::test(start_paused = true)]
async fn an_operator_can_open_and_close_it() {
    let provider = Provider::always(Reply::Status(200));
    let scene = Scene::new(&provider);
    assert!(scene.client.breaker("other.test").is_none());
    let breaker = scene.client.breaker("API.acme.test").unwrap();
    breaker.force_open();
    assert_eq!(scene.send(&READ).await.unwrap_err().kind(), ErrorKind::CircuitOpen);
    breaker.force_closed();
    assert!(scene.send(&READ).await.is_ok());
    breaker.release();
    assert_eq!(breaker.state(), BreakerState::Closed);
}

// Fails when a request without a `Call`, or to an address not of the profile, is sent; or the latter is not logged.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_safely_is_refused_and_logged() {
    let provider = Provider::always(Reply::Status(200));
    let scene = Scene::new(&provider);
    for url in [
        "https://evil.test/v1",
        "http://api.acme.test/v1",
        "https://api.acme.test:444/v1",
        "https://user:canary@api.acme.test/v1",
        "/v1",
    ] {
        let mut request = request(call(&READ));
        *request.uri_mut() = url.parse().unwrap();
        let error = scene.client.send(request).await.unwrap_err();
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::Config, Outcome::NotSent), "{url}");
        assert_eq!(scene.log.take().pop().unwrap().error, Some(ErrorKind::Config));
    }
    let bare = Request::builder().uri("https://api.acme.test/v1").body(Bytes::new()).unwrap();
    assert_eq!(scene.client.send(bare).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(provider.count(), 0);
}

// Fails when one check of an operation's description is left out, or is made at its first call only.
#[tokio::test(start_paused = true)]
async fn a_description_that_cannot_work_is_refused() {
    static BASE: Operation = operation("broken", Replay::Safe, &FIVE);
    static SLOW: Operation = Operation { attempt_timeout: Duration::from_secs(31), ..BASE };
    static NOTHING: Operation = Operation { attempt_timeout: Duration::ZERO, ..BASE };
    static DEAR: Operation = Operation { cost: 6, ..BASE };
    static FREE: Operation = Operation { cost: 0, ..BASE };
    const WIDER: Limit = Limit { bucket: &WIDE, scope: Scope::Account, class: None };
    static OWN: Operation = Operation { also: &[Limit { scope: Scope::Operation, ..WIDER }], ..BASE };
    static MANY: Operation = Operation { also: &[WIDER, WIDER, WIDER, WIDER, WIDER], ..BASE };
    static ORDER: Operation = Operation { also: &[Limit { scope: Scope::Client, ..WIDER }, WIDER], ..BASE };
    static NAMES: Operation = Operation { also: &[WIDER, Limit { bucket: &FIVE, ..WIDER }], ..BASE };
    static SHARED: Operation = Operation { bucket: &WIDE, cost: 6, also: &[Limit { bucket: &FIVE, ..WIDER }], ..BASE };
    static HEADER: Operation = Operation { replay: Replay::Keyed("no header"), ..BASE };
    let provider = Provider::always(Reply::Status(200));
    let scene = Scene::new(&provider);
    for broken in [&SLOW, &NOTHING, &DEAR, &FREE, &OWN, &MANY, &ORDER, &NAMES, &SHARED, &HEADER] {
        for _ in 0..2 {
            assert_eq!(scene.send(broken).await.unwrap_err().kind(), ErrorKind::Config);
        }
    }
    assert_eq!(provider.count(), 0);
}

fn learned(window: Duration, limit: &'static str) -> Learned {
    let headers = LimitHeaders::Named { limit, remaining: "x", reset: "x", reset_as: Reset::Delta };
    Learned { headers, scope: Scope::Operation, window: Some(window), may_raise: false }
}

// Fails when one of these checks is left out, lets NaN pass, or does not name the setting.
#[tokio::test]
async fn settings_that_cannot_work_are_refused_when_building() {
    type Change = fn(&mut Profile);
    let changes: [(&str, Change); 27] = [
        ("learned.window", |p| p.learned = Some(learned(Duration::ZERO, "x-limit"))),
        ("learned.headers", |p| p.learned = Some(learned(Duration::from_secs(1), "no header"))),
        ("attempt_timeout_max", |p| p.attempt_timeout_max = Some(Duration::ZERO)),
        ("attempts_max", |p| p.retry.attempts_max = 0),
        ("timeouts_max", |p| p.retry.timeouts_max = 0),
        ("retry.base", |p| p.retry.base = Duration::ZERO),
        ("retry.base", |p| p.retry.base = Duration::from_secs(60)),
        ("throttled_base", |p| p.retry.throttled_base = Duration::from_secs(60)),
        ("throttled_base", |p| p.retry.throttled_base = Duration::ZERO),
        ("failure_rate", |p| p.breaker.failure_rate = 0.0),
        ("failure_rate", |p| p.breaker.failure_rate = f64::NAN),
        ("failure_rate", |p| p.breaker.failure_rate = 1.1),
        ("calls_min", |p| p.breaker.calls_min = 0),
        ("window", |p| p.breaker.window = Duration::ZERO),
        ("breaker.open", |p| p.breaker.open = Duration::from_secs(61)),
        ("breaker.open", |p| p.breaker.open = Duration::ZERO),
        ("breaker.slow", |p| p.breaker.slow = Some(Duration::ZERO)),
        ("probes", |p| p.breaker.probes = 0),
        ("admission_max", |p| p.limits.admission_max = 0),
        ("concurrency", |p| p.limits.concurrency = 0),
        ("interactive_reserve", |p| p.limits.interactive_reserve = 1.0),
        ("lanes_max", |p| p.limits.lanes_max = 0),
        ("lane_idle", |p| p.limits.lane_idle = Duration::ZERO),
        ("waiting_max", |p| p.limits.waiting_max = 0),
        ("request_id_header", |p| p.request_id_header = "no header"),
        ("host", |p| p.hosts.clear()),
        ("host", |p| p.hosts.push("https://no".into())),
    ];
    for (word, change) in changes {
        let mut profile = profile();
        change(&mut profile);
        let provider = Provider::always(Reply::Status(200));
        let error = Client::builder(profile, provider, fixed()).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(word), "{word}: {error}");
    }
}

// Fails when a dropped call is not told, or is told as if nothing could have happened.
#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_is_logged_with_what_may_have_happened() {
    let waits = Duration::from_millis(10);
    for (operation, outcome) in [(&BLIND, Outcome::Unknown), (&READ, Outcome::Rejected)] {
        let provider = Provider::always(Reply::Hang);
        let scene = Scene::new(&provider);
        let _ = tokio::time::timeout(waits, scene.send(operation)).await;
        let record = scene.log.take().pop().unwrap();
        assert_eq!((record.error, record.outcome), (Some(ErrorKind::Cancelled), Some(outcome)));
        assert_eq!(record.attempts, 1);
    }
}

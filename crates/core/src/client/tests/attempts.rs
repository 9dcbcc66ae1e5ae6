//! Repeats: which, how often, how far apart, and what the caller is told.

use super::*;

/// Sends one call and checks how often it arrived and what the caller learned.
#[track_caller]
fn check_result(result: &Result<Response<Bytes>>, arrived: usize, count: usize, kind: ErrorKind, outcome: Outcome) {
    let error = result.as_ref().unwrap_err();
    assert_eq!(arrived, count, "{error}");
    assert_eq!((error.kind(), error.outcome()), (kind, outcome), "{error}");
}

// Fails when the replay rule lets an ambiguous failure of a plain POST be repeated.
#[tokio::test(start_paused = true)]
async fn a_write_without_a_key_arrives_once_whatever_happens_to_it() {
    for (reply, kind) in [
        (Reply::Status(500), ErrorKind::Provider),
        (Reply::Status(502), ErrorKind::Provider),
        (Reply::Status(503), ErrorKind::Provider),
        (Reply::Status(504), ErrorKind::Provider),
        (Reply::Reset, ErrorKind::Transport),
        (Reply::Hang, ErrorKind::Timeout),
        (Reply::With(503, vec![("retry-after", "1".into())], Bytes::new()), ErrorKind::Provider),
    ] {
        let provider = Provider::always(reply);
        let result = Scene::new(&provider).send(&BLIND).await;
        check_result(&result, provider.count(), 1, kind, Outcome::Unknown);
        let error = result.unwrap_err();
        assert_eq!((error.attempts(), error.idempotency_key(), error.is_retryable()), (1, None, false));
    }
}

// Fails when each attempt makes a key of its own, or attempts are not bounded.
#[tokio::test(start_paused = true)]
async fn a_write_with_a_key_arrives_at_most_three_times_under_one_key() {
    for (reply, arrivals) in
        [(Reply::Status(500), 3), (Reply::Status(502), 3), (Reply::Status(504), 3), (Reply::Reset, 3), (Reply::Hang, 2)]
    {
        let provider = Provider::always(reply.clone());
        let error = Scene::new(&provider).send(&KEYED).await.unwrap_err();
        assert_eq!(provider.count(), arrivals, "{reply:?}");
        let keys: Vec<_> = provider.seen().iter().map(|seen| seen.headers[KEY].clone()).collect();
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(error.idempotency_key(), keys[0].to_str().ok());
        assert_eq!((error.attempts() as usize, error.outcome()), (arrivals, Outcome::Unknown));
        assert!(error.is_retryable());
    }
}

// Fails when a refused connection or a 429 is not repeated for a write without a key.
#[tokio::test(start_paused = true)]
async fn what_provably_did_not_happen_is_repeated_for_any_operation() {
    for reply in [Reply::Refused, Reply::Status(429)] {
        for operation in [&READ, &PUT, &KEYED, &BLIND] {
            let provider = Provider::in_turn(vec![reply.clone(), reply.clone(), Reply::Status(200)]);
            assert!(Scene::new(&provider).send(operation).await.is_ok(), "{reply:?} {}", operation.name);
        }
    }
    let provider = Provider::always(Reply::Refused);
    let error = Scene::new(&provider).send(&BLIND).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome(), error.attempts()), (ErrorKind::Connect, Outcome::NotSent, 3));
}

// Fails when a refusal to connect after an ambiguous attempt hides that the first may have been done.
#[tokio::test(start_paused = true)]
async fn an_earlier_unknown_attempt_is_not_forgotten() {
    let provider = Provider::in_turn(vec![Reply::Reset, Reply::Refused]);
    let error = Scene::new(&provider).send(&KEYED).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connect, Outcome::Unknown));
    let provider = Provider::in_turn(vec![Reply::Reset, Reply::Status(400)]);
    let error = Scene::new(&provider).send(&KEYED).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Invalid, Outcome::Rejected));
    let provider = Provider::in_turn(vec![Reply::Reset, Reply::Status(401)]);
    let error = Scene::with(profile(), &provider, Rotating::new()).send(&KEYED).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Auth, Outcome::Unknown));
    let provider = Provider::always(Reply::Hang);
    let error = Scene::new(&provider).send(&READ).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Rejected, "reading leaves nothing unknown");
    assert!(error.is_retryable());
    let error = Scene::new(&provider).send(&PUT).await.unwrap_err();
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::Unknown, true));
}

// Fails when an answer that stays the same (a 4xx, a redirect, a 501, a body over the cap) is repeated.
#[tokio::test(start_paused = true)]
async fn final_answers_are_not_repeated() {
    for (status, kind) in [
        (400, ErrorKind::Invalid),
        (402, ErrorKind::Declined),
        (403, ErrorKind::Permission),
        (404, ErrorKind::NotFound),
        (409, ErrorKind::Conflict),
        (301, ErrorKind::Invalid),
        (302, ErrorKind::Invalid),
        (307, ErrorKind::Invalid),
        (501, ErrorKind::Provider),
    ] {
        let reply = Reply::With(status, vec![("location", "https://evil.test/".into())], Bytes::new());
        let provider = Provider::always(reply);
        let error = Scene::new(&provider).send(&READ).await.unwrap_err();
        assert_eq!((provider.count(), error.kind(), error.status()), (1, kind, Some(status)));
    }
    let provider = Provider::always(Reply::With(200, vec![], Bytes::from(vec![0; 1_001])));
    let error = Scene::new(&provider).send(&KEYED).await.unwrap_err();
    assert_eq!((provider.count(), error.kind(), error.outcome()), (1, ErrorKind::BodyTooLarge, Outcome::Processed));
}

// Fails when a hint is a ceiling, is jittered downwards, or one of its forms is not read.
#[tokio::test(start_paused = true)]
async fn no_attempt_before_the_server_allows_it() {
    let date = |s: i64| httpdate::fmt_http_date(Timestamp::from_seconds(1_700_000_000 + s).to_system_time());
    let hints = [
        (vec![("retry-after", "7".to_owned())], 7_000),
        (vec![("retry-after", date(9)), ("date", date(0))], 9_000),
        (vec![("retry-after-ms", "1250".to_owned())], 1_250),
        (vec![("retry-after-ms", "50".to_owned()), ("retry-after", "30".to_owned())], 50),
    ];
    for (headers, millis) in hints {
        for status in [429, 503] {
            for seed in 0..20 {
                let reply = Reply::With(status, headers.clone(), Bytes::new());
                let provider = Provider::in_turn(vec![reply, Reply::Status(200)]);
                let client = Client::builder(profile(), Arc::clone(&provider) as Arc<dyn Transport>, fixed())
                    .random(Arc::new(SeededRandom::new(seed)))
                    .build()
                    .unwrap();
                client.send(request(call(&READ))).await.unwrap();
                let [first, second] = provider.seen().try_into().unwrap();
                let gap = (second.at - first.at).as_millis() as u64;
                assert!(gap >= millis, "{headers:?} {status}: {gap} ms, seed {seed}");
                assert!(gap <= (millis + millis / 10).max(1_000) + 2, "{headers:?} {status}: {gap} ms, seed {seed}");
            }
        }
    }
}

// Fails when other calls of the lane do not keep the pause, or the call sleeps past what it may.
#[tokio::test(start_paused = true)]
async fn a_hint_beyond_the_deadline_returns_at_once_and_the_lane_stays_paused() {
    let throttle = |seconds: u64| Reply::With(429, vec![("retry-after", seconds.to_string())], Bytes::new());
    let provider = Provider::in_turn(vec![throttle(45), Reply::Status(200)]);
    let scene = Scene::new(&provider);
    let start = Instant::now();
    let error = scene.send(&READ).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Throttled, Some(Duration::from_secs(45))));
    assert_eq!(error.attempts(), 1);
    let error = scene.send(&READ).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts(), error.outcome()), (ErrorKind::Throttled, 0, Outcome::NotSent));
    assert!(error.retry_after().unwrap() >= Duration::from_secs(45));
    assert_eq!((provider.count(), start.elapsed()), (1, Duration::ZERO));
    // Another account is not affected.
    let other = Call::new(&READ, "connection-2".into(), "tenant-2".into());
    assert!(scene.client.send(request(other)).await.is_ok());
    sleep(Duration::from_secs(50)).await;
    assert!(scene.send(&READ).await.is_ok());
}

// Fails when a hint beyond `hint_max` is slept out because the deadline allows it, or is not told to the caller.
#[tokio::test(start_paused = true)]
async fn a_hint_longer_than_is_waited_for_returns_at_once() {
    let mut profile = profile();
    profile.retry.hint_max = Duration::from_secs(5);
    let provider = Provider::always(Reply::With(429, vec![("retry-after", "6".into())], Bytes::new()));
    let scene = Scene::with(profile, &provider, fixed());
    let start = Instant::now();
    assert_eq!(scene.send(&READ).await.unwrap_err().retry_after(), Some(Duration::from_secs(6)));
    assert_eq!((provider.count(), start.elapsed()), (1, Duration::ZERO));
}

// Fails without the budget: three times the requests.
#[tokio::test(start_paused = true)]
async fn a_total_outage_costs_at_most_a_quarter_more() {
    for reply in [Reply::Status(500), Reply::Reset, Reply::Hang, Reply::Status(503)] {
        for gap in [Duration::ZERO, Duration::from_millis(10), Duration::from_secs(1)] {
            let provider = Provider::always(reply.clone());
            let scene = Arc::new(Scene::with(without_breaker(), &provider, fixed()));
            let calls = (0..500_u32).map(|n| {
                let scene = Arc::clone(&scene);
                async move {
                    sleep(gap * n).await;
                    scene.send(&READ).await.unwrap_err()
                }
            });
            together(calls).await;
            let arrived = provider.count();
            assert!((500..=625).contains(&arrived), "{reply:?} every {gap:?}: {arrived}");
        }
    }
    // Connections refused are counted as tries: nothing arrives.
    let provider = Provider::always(Reply::Refused);
    let scene = Scene::with(without_breaker(), &provider, fixed());
    for _ in 0..500 {
        scene.send(&READ).await.unwrap_err();
    }
    assert!(provider.tries.load(SeqCst) <= 625);
    // With the breaker, an outage costs far less than the requests.
    let provider = Provider::always(Reply::Status(500));
    let scene = Scene::new(&provider);
    for _ in 0..500 {
        scene.send(&READ).await.unwrap_err();
    }
    assert!(provider.count() < 60, "{}", provider.count());
}

// Fails when a refresh is asked for by each caller, or a refused version is not compared.
#[tokio::test(start_paused = true)]
async fn a_thousand_refused_credentials_cause_one_refresh_and_a_thousand_successes() {
    let provider = Provider::new(|n, request| {
        let stale = request.headers()["authorization"] == "Bearer token-1";
        // Answers come apart, so that some refusals arrive while the refresh is under way and some after it.
        let wait = Duration::from_millis(n as u64 % 200);
        Reply::After(wait, Box::new(Reply::Status(if stale { 401 } else { 200 })))
    });
    let credentials = Rotating::new();
    let mut profile = profile();
    profile.limits.concurrency = 2_000;
    let scene = Arc::new(Scene::with(profile, &provider, Arc::clone(&credentials) as Arc<dyn CredentialSource>));
    let results = together((0..1_000).map(|_| {
        let scene = Arc::clone(&scene);
        async move { scene.send(&BLIND).await }
    }))
    .await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(credentials.refreshes.load(SeqCst), 1);
    assert_eq!(provider.count(), 2_000);
}

// Fails when the repeat after a refresh counts as an attempt or takes from the budget.
#[tokio::test(start_paused = true)]
async fn the_repeat_after_a_refresh_is_free_and_the_second_refusal_is_final() {
    let mut profile = profile();
    profile.retry.budget = 10;
    let replies = vec![Reply::Status(401), Reply::Status(500), Reply::Status(500), Reply::Status(200)];
    let provider = Provider::in_turn(replies);
    let credentials = Rotating::new();
    let scene = Scene::with(profile, &provider, Arc::clone(&credentials) as Arc<dyn CredentialSource>);
    assert!(scene.send(&READ).await.is_ok());
    assert_eq!(provider.count(), 4);

    let provider = Provider::always(Reply::Status(401));
    let scene = Scene::with(self::profile(), &provider, Rotating::new());
    let error = scene.send(&READ).await.unwrap_err();
    assert_eq!((error.kind(), error.status(), error.attempts()), (ErrorKind::Auth, Some(401), 2));
    assert_eq!(error.outcome(), Outcome::Rejected);
    // A refused credential says nothing about the host.
    for _ in 0..100 {
        assert_eq!(scene.send(&READ).await.unwrap_err().kind(), ErrorKind::Auth);
    }
}

// Fails when a refused credential that has been replaced is still what the caller hears of: it would ask people to
// reconnect an account that is well.
#[tokio::test(start_paused = true)]
async fn a_refusal_after_a_refresh_is_not_told_as_a_refused_credential() {
    let provider = Provider::always(Reply::Status(401));
    let scene = Scene::with(profile(), &provider, Rotating::new());
    let client = scene.client.clone();
    let calling = tokio::spawn(async move { client.send(request(call(&READ))).await });
    sleep(Duration::from_millis(10)).await;
    scene.client.breaker("api.acme.test").unwrap().force_open();
    let error = calling.await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.status(), error.attempts()), (ErrorKind::CircuitOpen, None, 1));
}

// Fails when each waiter refreshes for itself, one hears another error, or a failed refresh is remembered.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_is_told_to_everyone_who_waited_for_it() {
    let provider = Provider::always(Reply::Status(401));
    let credentials = Arc::new(Rotating { version: AtomicU64::new(1), refreshes: AtomicUsize::new(0), dead: true });
    let scene = Arc::new(Scene::with(profile(), &provider, Arc::clone(&credentials) as Arc<dyn CredentialSource>));
    let errors = together((0..100).map(|_| {
        let scene = Arc::clone(&scene);
        async move { scene.send(&READ).await.unwrap_err() }
    }))
    .await;
    assert_eq!(credentials.refreshes.load(SeqCst), 1);
    for error in errors {
        assert_eq!((error.kind(), error.message()), (ErrorKind::Auth, "the grant is gone: reconnect"));
        assert_eq!((error.provider(), error.operation()), (Some("acme"), Some("things.read")));
    }
    // The next refusal asks again: a dead flight is not remembered.
    scene.send(&READ).await.unwrap_err();
    assert_eq!(credentials.refreshes.load(SeqCst), 2);
}

// Fails when the flight dies with the caller that began it.
#[tokio::test(start_paused = true)]
async fn a_refresh_survives_the_caller_that_began_it() {
    let provider = Provider::new(|_, request| {
        Reply::Status(if request.headers()["authorization"] == "Bearer token-1" { 401 } else { 200 })
    });
    let credentials = Rotating::new();
    let scene = Arc::new(Scene::with(profile(), &provider, Arc::clone(&credentials) as Arc<dyn CredentialSource>));
    let hasty = Arc::clone(&scene);
    let _ = tokio::time::timeout(Duration::from_millis(10), async move { hasty.send(&READ).await }).await;
    assert!(scene.send(&READ).await.is_ok());
    assert_eq!(credentials.refreshes.load(SeqCst), 1);
}

// Fails when a repeat loses the call, the credential or the query, has other ids, or the span of the one before.
#[tokio::test(start_paused = true)]
async fn every_attempt_carries_the_call_the_ids_and_a_span_of_its_own() {
    let provider = Provider::always(Reply::Status(500));
    let scene = Scene::new(&provider);
    let mut sent = request(call(&KEYED));
    sent.extensions_mut().insert(7_u8);
    scene.client.send(sent).await.unwrap_err();
    let seen = provider.seen();
    assert_eq!(seen.len(), 3);
    let column = |name: &str| seen.iter().map(|s| s.headers[name].to_str().unwrap().to_owned()).collect::<Vec<_>>();
    let (ids, parents) = (column("x-correlation-id"), column("traceparent"));
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert!(parents.iter().all(|parent| parent[..35] == parents[0][..35]));
    assert!(parents[0] != parents[1] && parents[1] != parents[2]);
    assert!(seen.iter().all(|s| s.headers["authorization"] == "Bearer canary-token" && s.call.is_some()));
    assert!(seen.iter().all(|s| s.uri.ends_with("/v1/things/7?secret=canary-query")));
    let record = scene.log.take().pop().unwrap();
    assert_eq!((record.attempts, record.status, record.correlation_id), (3, Some(500), Some(ids[0].clone())));
}

// Fails when a key or id of the caller is replaced by one of ours, also one that cannot stand in a header.
#[tokio::test(start_paused = true)]
async fn given_keys_and_ids_are_kept_and_unusable_ones_refused() {
    let provider = Provider::always(Reply::Status(200));
    let scene = Scene::new(&provider);
    let mut given = call(&KEYED).with_idempotency_key("mine");
    given.correlation_id = Some("order-7".into());
    scene.client.send(request(given)).await.unwrap();
    let mut header = request(call(&KEYED));
    header.headers_mut().insert(KEY, "from the library".parse().unwrap());
    scene.client.send(header).await.unwrap();
    let seen = provider.seen();
    assert_eq!(
        (&seen[0].headers[KEY], &seen[0].headers["x-correlation-id"]),
        (&"mine".parse().unwrap(), &"order-7".parse().unwrap())
    );
    assert_eq!(seen[1].headers[KEY], "from the library");
    let broken = call(&KEYED).with_idempotency_key("a\nb");
    assert_eq!(scene.client.send(request(broken)).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(provider.count(), 2);
}

// Fails when waiting for anything ignores the deadline.
#[tokio::test(start_paused = true)]
async fn a_call_ends_by_its_deadline() {
    let tick = Duration::from_millis(2);
    for reply in [Reply::Hang, Reply::Status(500), Reply::Status(429), Reply::Refused, Reply::Status(401)] {
        for millis in [1, 150, 999, 10_001, 40_000] {
            let provider = Provider::always(reply.clone());
            let scene = Scene::with(profile(), &provider, Rotating::new());
            let start = Instant::now();
            let deadline = start + Duration::from_millis(millis);
            let result = scene.client.send(request(call(&READ).with_deadline(deadline))).await;
            assert!(result.is_err());
            let bound = Duration::from_millis(millis).min(READ.overall_timeout);
            assert!(start.elapsed() <= bound + tick, "{reply:?} {millis}: {:?}", start.elapsed());
        }
    }
    let provider = Provider::always(Reply::Status(200));
    let scene = Scene::new(&provider);
    let past = Instant::now();
    let error = scene.client.send(request(call(&READ).with_deadline(past))).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome(), provider.count()), (ErrorKind::Timeout, Outcome::NotSent, 0));
}

// Fails when the fallback is not asked or has no call, or its answer stands in the log for the provider's.
#[tokio::test(start_paused = true)]
async fn a_fallback_answers_when_the_engine_has_given_up() {
    struct Cached;
    #[async_trait]
    impl Fallback for Cached {
        async fn answer(&self, request: &Request<Bytes>, error: Error) -> Result<Response<Bytes>> {
            assert!(request.extensions().get::<Call>().is_some());
            if error.kind() == ErrorKind::Provider { Ok(Response::new("cached".into())) } else { Err(error) }
        }
    }
    for (status, answered) in [(500, true), (404, false)] {
        let provider = Provider::always(Reply::Status(status));
        let log = Arc::new(Log::default());
        let client = Client::builder(profile(), Arc::clone(&provider) as Arc<dyn Transport>, fixed())
            .fallback(Arc::new(Cached))
            .observer(Arc::clone(&log) as Arc<dyn Observer>)
            .build()
            .unwrap();
        assert_eq!(client.send(request(call(&READ))).await.is_ok(), answered);
        assert_eq!(log.take().pop().unwrap().status, Some(status), "the log shows what the provider said");
    }
}

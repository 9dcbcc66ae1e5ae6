//! Limits: places, lanes, fair turns, reserve, and what a caller that goes away leaves behind.

use super::*;
use crate::call::{Limit, Scope};
use crate::random::Random;

static SANDBOX: Bucket = Bucket { name: "account_sandbox", units: 2, per: Duration::from_secs(1), burst: 2 };
static LIVE: Bucket = Bucket { name: "account_live", units: 8, per: Duration::from_secs(1), burst: 8 };
static APP: Bucket = Bucket { name: "app", units: 100, per: Duration::from_secs(1), burst: 12 };
const SHARED: &[Limit] = &[
    Limit { bucket: &LIVE, scope: Scope::Account, class: Some("live") },
    Limit { bucket: &SANDBOX, scope: Scope::Account, class: Some("sandbox") },
    Limit { bucket: &APP, scope: Scope::Client, class: None },
];
static ONE: Operation = Operation { also: SHARED, ..operation("one", Replay::Safe, &FIVE) };
static OTHER: Operation = Operation {
    also: SHARED,
    bucket: &Bucket { name: "other", units: 9, per: Duration::from_secs(1), burst: 9 },
    ..ONE
};

/// Statuses mean what HTTP says; a header tells whom a 429 is for.
struct Scoped;

impl Classifier for Scoped {
    fn classify(&self, operation: &'static Operation, response: &Response<Bytes>) -> Verdict {
        match (StatusClassifier.classify(operation, response), response.headers().get("limit")) {
            (Verdict::Throttled { error, after, .. }, Some(limit)) => {
                let scope = if limit == "account" { Scope::Account } else { Scope::Client };
                Verdict::Throttled { error, after, scope }
            }
            (verdict, _) => verdict,
        }
    }
}

fn classed() -> Profile {
    let mut profile = without_breaker();
    profile.classifier = Arc::new(Scoped);
    profile.class = Some(|credential| if credential.begins_with("live_") { "live" } else { "sandbox" });
    profile
}

/// Keys by connection; counts how often it is asked.
#[derive(Default)]
struct Keys(AtomicUsize);

#[async_trait]
impl CredentialSource for Keys {
    async fn credential(&self, connection: ConnectionId) -> Result<Credential> {
        self.0.fetch_add(1, SeqCst);
        Credential::new(&Scheme::Bearer(connection.as_str().into()), 1, None)
    }

    async fn refresh(&self, _connection: ConnectionId, _seen: u64) -> Result<Credential> {
        Err(Error::new(ErrorKind::Auth, "a key cannot be refreshed"))
    }
}

/// Sends as many calls as go at once.
async fn at_once(scene: &Scene, operation: &'static Operation, connection: &str) -> usize {
    let mut sent = 0;
    loop {
        let call = Call::new(operation, connection.into(), "t".into())
            .with_deadline(Instant::now() + Duration::from_millis(1));
        match scene.client.send(request(call)).await {
            Ok(_) => sent += 1,
            Err(error) => {
                assert_eq!((error.kind(), error.attempts()), (ErrorKind::Throttled, 0));
                return sent;
            }
        }
    }
}

// Fails when an operation does not draw from what it shares, a class gets another's limit, or accounts share a lane.
#[tokio::test(start_paused = true)]
async fn operations_share_the_limit_of_their_account_and_of_the_app() {
    let provider = Provider::always(Reply::Status(200));
    let keys = Arc::new(Keys::default());
    let scene = Scene::with(classed(), &provider, Arc::clone(&keys) as Arc<dyn CredentialSource>);
    // Five of its own, and eight of the account in all; a sandbox has two; the app's twelve are shared by all.
    assert_eq!([at_once(&scene, &ONE, "live_1").await, at_once(&scene, &OTHER, "live_1").await], [5, 3]);
    assert_eq!([at_once(&scene, &OTHER, "test_1").await, at_once(&scene, &ONE, "test_1").await], [2, 0]);
    assert_eq!([at_once(&scene, &OTHER, "live_2").await, at_once(&scene, &ONE, "live_2").await], [2, 0]);
    // A shared limit is a lane of its own, even with the bucket of the operation's own one.
    static TWICE: Operation =
        Operation { also: &[Limit { bucket: &FIVE, scope: Scope::Account, class: None }], ..SLOW_LANE };
    assert_eq!(at_once(&Scene::new(&provider), &TWICE, "c").await, 5);
    // One look at the credential serves a call that waits for nothing, and one that is refused.
    assert_eq!((provider.count(), keys.0.load(SeqCst)), (17, 18));
    sleep(Duration::from_secs(10)).await;
    assert_eq!(at_once(&scene, &ONE, "live_1").await, 5);
    let call = Call::new(&ONE, "live_1".into(), "t".into());
    let before = keys.0.load(SeqCst);
    scene.client.send(request(call)).await.unwrap();
    assert_eq!(keys.0.load(SeqCst) - before, 2, "a credential from before the wait may have expired in it");
}

// Fails when a pause hits another scope than the provider meant.
#[tokio::test(start_paused = true)]
async fn a_throttle_holds_back_those_it_is_meant_for() {
    for (limit, own, account, others) in
        [(None, true, false, false), (Some("account"), true, true, false), (Some("client"), true, true, true)]
    {
        let provider = Provider::new(move |n, _| {
            let told = limit.map(|limit: &str| ("limit", limit.to_owned()));
            let headers = [("retry-after", "30".to_owned())].into_iter().chain(told).collect();
            if n == 0 { Reply::With(429, headers, Bytes::new()) } else { Reply::Status(200) }
        });
        let scene = Scene::with(classed(), &provider, Arc::new(Keys::default()));
        let soon = |operation, connection: &str| {
            Call::new(operation, connection.into(), "t".into()).with_deadline(Instant::now() + Duration::from_secs(1))
        };
        scene.client.send(request(soon(&ONE, "live_1"))).await.unwrap_err();
        for (operation, connection, held) in
            [(&ONE, "live_1", own), (&OTHER, "live_1", account), (&ONE, "live_2", others), (&OTHER, "live_2", others)]
        {
            let result = scene.client.send(request(soon(operation, connection))).await;
            assert_eq!(result.is_err(), held, "{limit:?}: {} of {connection}", operation.name);
            if let Err(error) = result {
                assert!(error.retry_after() > Some(Duration::from_secs(29)), "{error}");
            }
        }
    }
    // An operation that has no limit of that scope is held back itself.
    let replies = [Reply::With(429, vec![("retry-after", "30".into()), ("limit", "client".into())], Bytes::new())];
    let provider = Provider::in_turn(replies.into_iter().chain([Reply::Status(200)]).collect());
    let scene = Scene::with(classed(), &provider, fixed());
    let soon = |operation| call(operation).with_deadline(Instant::now() + Duration::from_secs(1));
    for (operation, held) in [(&SLOW_LANE, true), (&SLOW_LANE, true), (&READ, false)] {
        assert_eq!(scene.client.send(request(soon(operation))).await.is_err(), held, "{}", operation.name);
    }
    assert_eq!(provider.count(), 2);
}

// Fails when a pause or an open breaker cannot be seen from outside, or is told of a connection it does not hold.
#[tokio::test(start_paused = true)]
async fn what_holds_a_connection_back_can_be_seen() {
    const BASE: &str = "https://api.acme.test";
    let begin = Timestamp::from_seconds(1_800_000_000);
    let provider = Provider::new(|n, _| match n {
        0 => Reply::With(429, vec![("retry-after", "40".into())], Bytes::new()),
        1 => Reply::With(429, vec![("retry-after", "20".into()), ("limit", "client".into())], Bytes::new()),
        _ => Reply::Status(500),
    });
    let scene =
        Scene::with(Profile { breaker: BreakerSettings::default(), ..classed() }, &provider, Arc::new(Keys::default()));
    let held = async |connection: &str| {
        let until = scene.client.held_until(&connection.into(), BASE).await;
        until.map(|until| until.since(begin).as_secs())
    };
    let soon = |connection: &str| {
        Call::new(&ONE, connection.into(), "t".into()).with_deadline(Instant::now() + Duration::from_secs(1))
    };
    assert_eq!(held("live_1").await, None);
    scene.client.send(request(soon("live_1"))).await.unwrap_err();
    assert!(held("live_1").await.is_some_and(|s| (40..=44).contains(&s)));
    assert_eq!(held("live_2").await, None);
    scene.client.send(request(soon("live_2"))).await.unwrap_err();
    assert!(held("live_1").await > Some(39) && held("live_3").await.is_some_and(|s| (20..=22).contains(&s)));
    sleep(Duration::from_secs(45)).await;
    assert_eq!([held("live_1").await, held("live_3").await], [None, None]);
    // The breaker of the host holds everybody back; another host's does not.
    while scene.client.breaker("api.acme.test").unwrap().state() == BreakerState::Closed {
        let _ = scene.client.send(request(Call::new(&READ, "live_4".into(), "t".into()))).await;
    }
    let now = scene.client.engine.clock.now();
    let until = scene.client.held_until(&"live_9".into(), BASE).await.unwrap();
    assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&until.since(now)), "{:?}", until.since(now));
    assert_eq!(scene.client.held_until(&"live_9".into(), "https://other.test").await, None);
    scene.client.breaker("api.acme.test").unwrap().force_open();
    assert_eq!(scene.client.held_until(&"live_9".into(), BASE).await, None, "nobody knows when");
}

// Fails when units are lost by a call that was refused after it had taken them.
#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_leave_gives_its_units_back() {
    let provider = Provider::always(Reply::After(Duration::from_millis(100), Box::new(Reply::Status(200))));
    let scene = Arc::new(Scene::with(narrow(1), &provider, fixed()));
    let holder = Arc::clone(&scene);
    let holder = tokio::spawn(async move { holder.send(&READ).await });
    sleep(Duration::from_millis(1)).await;
    for _ in 0..20 {
        let impatient = call(&SLOW_LANE).with_deadline(Instant::now() + Duration::from_millis(1));
        assert_eq!(scene.client.send(request(impatient)).await.unwrap_err().kind(), ErrorKind::Overloaded);
    }
    holder.await.unwrap().unwrap();
    let start = Instant::now();
    together((0..5).map(|_| {
        let scene = Arc::clone(&scene);
        async move { scene.send(&SLOW_LANE).await.unwrap() }
    }))
    .await;
    assert_eq!(start.elapsed(), Duration::from_millis(500), "five places one after another, and no wait for units");
}

fn narrow(concurrency: usize) -> Profile {
    let mut profile = without_breaker();
    profile.limits.concurrency = concurrency;
    profile
}

fn percentile(mut times: Vec<Duration>, share: f64) -> Duration {
    times.sort();
    times[((times.len() - 1) as f64 * share) as usize]
}

/// Sends `count` calls of an account, one every 20 ms, and gives how long each took.
async fn traffic(scene: &Arc<Scene>, connection: &'static str, count: u32) -> Vec<Duration> {
    together((0..count).map(|n| {
        let scene = Arc::clone(scene);
        async move {
            sleep(Duration::from_millis(20) * n).await;
            let start = Instant::now();
            let call = Call::new(&READ, connection.into(), connection.into());
            let _ = scene.client.send(request(call)).await;
            start.elapsed()
        }
    }))
    .await
}

// Fails when a pause holds places, or stops more than its own lane.
#[tokio::test(start_paused = true)]
async fn one_throttled_lane_leaves_the_others_as_they_were() {
    let mut p99 = Vec::new();
    for throttled in [false, true] {
        let provider = Provider::new(move |n, request| {
            let own = request.extensions().get::<Call>().unwrap().connection.as_str() == "noisy";
            let answer = if own && throttled {
                Reply::With(429, vec![("retry-after", "5".into())], Bytes::new())
            } else {
                Reply::Status(200)
            };
            Reply::After(Duration::from_millis(20 + n as u64 % 7), Box::new(answer))
        });
        let scene = Arc::new(Scene::with(narrow(8), &provider, fixed()));
        let noisy = Arc::clone(&scene);
        let noise = tokio::spawn(async move { traffic(&noisy, "noisy", 300).await });
        let times = traffic(&scene, "quiet", 300).await;
        noise.await.unwrap();
        p99.push(percentile(times, 0.99));
    }
    assert!(p99[1] <= p99[0] + Duration::from_millis(1), "{p99:?}");
}

// Fails when places are given first come, first served.
#[tokio::test(start_paused = true)]
async fn a_tenant_with_a_hundred_times_the_calls_does_not_delay_another() {
    let provider = Provider::always(Reply::After(Duration::from_millis(50), Box::new(Reply::Status(200))));
    let scene = Arc::new(Scene::with(narrow(4), &provider, fixed()));
    let big = Arc::clone(&scene);
    let flood = tokio::spawn(async move {
        together((0..400).map(|_| {
            let scene = Arc::clone(&big);
            let call = Call { deadline: None, ..Call::new(&READ, "big".into(), "big".into()) };
            async move { scene.client.send(request(call)).await }
        }))
        .await
    });
    sleep(Duration::from_millis(10)).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..4 {
        let start = Instant::now();
        scene.client.send(request(Call::new(&READ, "small".into(), "small".into()))).await.unwrap();
        slowest = slowest.max(start.elapsed());
    }
    // At most one attempt of the other before its own.
    assert!(slowest <= Duration::from_millis(102), "{slowest:?}");
    assert!(flood.await.unwrap().iter().all(Result::is_ok));
}

// Fails when more attempts are under way than there are places, or a call that backs off keeps its place.
#[tokio::test(start_paused = true)]
async fn places_bound_what_is_under_way_and_are_not_held_while_backing_off() {
    let provider = Provider::always(Reply::After(Duration::from_millis(20), Box::new(Reply::Status(200))));
    let scene = Arc::new(Scene::with(narrow(5), &provider, fixed()));
    traffic(&scene, "a", 100).await;
    together((0..200).map(|_| {
        let scene = Arc::clone(&scene);
        async move { scene.send(&READ).await.unwrap() }
    }))
    .await;
    assert_eq!(provider.peak(), 5);

    let reply = Reply::With(503, vec![("retry-after", "4".into())], Bytes::new());
    let provider = Provider::new(move |n, _| if n == 0 { reply.clone() } else { Reply::Status(200) });
    let scene = Arc::new(Scene::with(narrow(1), &provider, fixed()));
    let waits = Arc::clone(&scene);
    let waiting = tokio::spawn(async move { waits.send(&READ).await });
    sleep(Duration::from_millis(1)).await;
    let start = Instant::now();
    let other = Call::new(&READ, "other".into(), "other".into());
    scene.client.send(request(other)).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(2));
    waiting.await.unwrap().unwrap();
}

// Fails when the pipeline sends more than the bucket allows in any window.
#[tokio::test(start_paused = true)]
async fn the_rate_of_a_lane_is_kept_at_the_provider() {
    let provider = Provider::always(Reply::Status(200));
    let scene = Arc::new(Scene::new(&provider));
    together((0..100).map(|_| {
        let scene = Arc::clone(&scene);
        async move { scene.send(&SLOW_LANE).await.unwrap() }
    }))
    .await;
    let times: Vec<_> = provider.seen().iter().map(|seen| seen.at).collect();
    for (at, time) in times.iter().enumerate() {
        let in_window = times[at..].iter().filter(|later| **later - *time < Duration::from_secs(1)).count();
        assert!(in_window <= 10, "{in_window} in the second after call {at}");
    }
    assert!(times[99] - times[0] >= Duration::from_millis(18_990));
    assert!(times[99] - times[0] <= Duration::from_millis(19_200));
}

// Fails when background calls take the reserve, or interactive ones may not.
#[tokio::test(start_paused = true)]
async fn background_work_leaves_the_reserve_and_interactive_calls_use_it() {
    let mut profile = profile();
    profile.limits.interactive_reserve = 0.4;
    let provider = Provider::always(Reply::Status(200));
    let scene = Scene::with(profile, &provider, fixed());
    let start = Instant::now();
    let soon = || Instant::now() + Duration::from_millis(1);
    for _ in 0..3 {
        scene.client.send(request(call(&SLOW_LANE).background().with_deadline(soon()))).await.unwrap();
    }
    let error = scene.client.send(request(call(&SLOW_LANE).background().with_deadline(soon()))).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Throttled, Some(Duration::from_millis(200))));
    for _ in 0..2 {
        scene.client.send(request(call(&SLOW_LANE).with_deadline(soon()))).await.unwrap();
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

// Fails when a lane is kept for every account there ever was, or a full map refuses the next account.
#[tokio::test(start_paused = true)]
async fn many_accounts_leave_a_bounded_number_of_lanes() {
    let mut profile = profile();
    profile.limits.lanes_max = 500;
    let provider = Provider::always(Reply::Status(200));
    let scene = Scene::with(profile, &provider, fixed());
    for n in 0..20_000 {
        let tenant = format!("tenant-{n}");
        scene.client.send(request(Call::new(&READ, tenant.as_str().into(), tenant.as_str().into()))).await.unwrap();
    }
    assert!(scene.client.engine.lanes.len() <= 500);
    assert_eq!(provider.count(), 20_000);
}

// Fails when any guard is not given back by a dropped future.
#[tokio::test(start_paused = true)]
async fn callers_that_go_away_leave_nothing_behind() {
    for seed in 0..10_u64 {
        let random = Arc::new(SeededRandom::new(seed));
        let of_provider = Arc::clone(&random);
        let provider = Provider::new(move |_, _| {
            let bits = of_provider.bits();
            let reply = match bits % 6 {
                0 => Reply::Status(401),
                1 => Reply::Status(500),
                2 => Reply::With(429, vec![("retry-after-ms", "30".into())], Bytes::new()),
                3 => Reply::Reset,
                _ => Reply::Status(200),
            };
            Reply::After(Duration::from_millis(bits >> 8 & 31), Box::new(reply))
        });
        let mut profile = narrow(3);
        profile.breaker = BreakerSettings { calls_min: 10, open: Duration::from_millis(50), ..Default::default() };
        profile.limits.admission_max = 100;
        let scene = Arc::new(Scene::with(profile, &provider, Rotating::new()));
        let sent = 300;
        together((0..sent).map(|n| {
            let (scene, random) = (Arc::clone(&scene), Arc::clone(&random));
            async move {
                sleep(Duration::from_millis(n % 50 * 7)).await;
                let operation = [&READ, &KEYED, &SLOW_LANE][(n % 3) as usize];
                let call = Call::new(operation, "c".into(), format!("t{}", n % 5).into());
                let patience = Duration::from_millis(random.bits() % 120);
                let _ = tokio::time::timeout(patience, scene.client.send(request(call))).await;
            }
        }))
        .await;
        let engine = &scene.client.engine;
        assert!(engine.places.is_idle(), "seed {seed}");
        let places: Vec<_> = (0..10).map_while(|_| engine.places.try_enter()).collect();
        assert_eq!(places.len(), 3, "seed {seed}");
        drop(places);
        assert_eq!(provider.under_way.load(SeqCst), 0, "seed {seed}");
        assert_eq!(scene.log.take().len(), sent as usize, "seed {seed}: every call is told once");
        let text = scene.metrics.encode();
        let active = text.lines().find(|line| line.starts_with("http_client_active_requests{")).unwrap();
        assert!(active.ends_with(" 0"), "seed {seed}: {active}");
        let slots: Vec<_> = (0..200).map_while(|n| engine.admission.enter(&format!("x{n}").into())).collect();
        assert_eq!(slots.len(), 100, "seed {seed}");
        // The breaker still finds its way back: no probe is lost.
        drop(slots);
        sleep(Duration::from_secs(120)).await;
        let breaker = scene.client.breaker("api.acme.test").unwrap();
        let healthy = Scene::new(&Provider::always(Reply::Status(200)));
        healthy.send(&READ).await.unwrap();
        assert!(engine.hosts[0].breaker.acquire(engine.moment(Instant::now())).is_ok(), "seed {seed} {breaker:?}");
    }
}

// Fails when `admission_max` is not heeded, a caller beyond it waits, or a finished call keeps its room.
#[tokio::test(start_paused = true)]
async fn a_full_room_refuses_at_once() {
    let mut profile = profile();
    profile.limits.admission_max = 4;
    let provider = Provider::always(Reply::After(Duration::from_millis(50), Box::new(Reply::Status(200))));
    let scene = Arc::new(Scene::with(profile, &provider, fixed()));
    let results = together((0..10).map(|_| {
        let scene = Arc::clone(&scene);
        async move { scene.send(&READ).await }
    }))
    .await;
    let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!((refused.len(), provider.count()), (6, 4));
    for error in refused {
        assert_eq!((error.kind(), error.outcome(), error.attempts()), (ErrorKind::Overloaded, Outcome::NotSent, 0));
    }
    assert!(scene.send(&READ).await.is_ok());
}

// Fails when a wait goes by the wall clock.
#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_jumps_changes_nothing() {
    let clock = Arc::new(crate::clock::ManualClock::starting_at(Timestamp::from_seconds(1_800_000_000)));
    let of_provider = Arc::clone(&clock);
    let provider = Provider::new(move |n, _| {
        of_provider.set(Timestamp(if n % 2 == 0 { i64::MAX } else { i64::MIN }));
        match n {
            0 => Reply::With(429, vec![("retry-after", "3".into())], Bytes::new()),
            1 => Reply::Status(500),
            _ => Reply::Status(200),
        }
    });
    let client = Client::builder(profile(), Arc::clone(&provider) as Arc<dyn Transport>, fixed())
        .clock(clock)
        .random(Arc::new(SeededRandom::new(1)))
        .build()
        .unwrap();
    let start = Instant::now();
    client.send(request(call(&READ))).await.unwrap();
    let gaps: Vec<_> = provider.seen().iter().map(|seen| seen.at - start).collect();
    assert!(gaps[1] >= Duration::from_secs(3) && gaps[2] < Duration::from_secs(4), "{gaps:?}");
}

/// Fails when two connections of one account have a limit each, when a pause of one is not the other's, or when a
/// connection of another account, or one that is called as an account is, shares them.
#[tokio::test(start_paused = true)]
async fn connections_of_one_account_share_its_limits_and_pauses() {
    let provider = Provider::new(|n, _| {
        let wait = || vec![("retry-after", "7".to_owned())];
        if n == 5 { Reply::With(429, wait(), Bytes::new()) } else { Reply::Status(200) }
    });
    let client = Client::builder(without_breaker(), Arc::clone(&provider) as Arc<dyn Transport>, fixed())
        .clock(Arc::new(TokioClock::starting_at(Timestamp::from_seconds(1_800_000_000))))
        .random(Arc::new(SeededRandom::new(42)))
        .account("key-1".into(), "acct_1")
        .account("key-2".into(), "acct_1")
        .account("other".into(), "acct_2")
        .build()
        .unwrap();
    let send = |connection: &str| {
        let deadline = Instant::now() + Duration::from_millis(100);
        let call = Call::new(&SLOW_LANE, connection.into(), "tenant-1".into()).with_deadline(deadline);
        client.send(request(call))
    };
    // Five are the burst: they are spent together.
    for connection in ["key-1", "key-2", "key-1", "key-2", "key-1"] {
        send(connection).await.unwrap();
    }
    for connection in ["key-1", "key-2"] {
        assert_eq!(send(connection).await.unwrap_err().kind(), ErrorKind::Throttled, "{connection}");
    }
    assert_eq!(provider.count(), 5);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(send("key-2").await.unwrap_err().status(), Some(429));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(send("key-1").await.unwrap_err().status(), None, "the other key's pause is this one's");
    for (connection, held) in [("key-1", true), ("key-2", true), ("other", false), ("acct_1", false), ("none", false)] {
        let until = client.held_until(&connection.into(), "https://api.acme.test").await;
        assert_eq!(until.is_some(), held, "{connection}");
    }
    for connection in ["other", "acct_1", "none"] {
        send(connection).await.unwrap();
    }
}

/// The accounts of connections, as whoever connects them writes them down.
#[derive(Default)]
struct Book(Mutex<std::collections::HashMap<String, String>>);

#[async_trait]
impl AccountSource for Book {
    async fn account(&self, connection: ConnectionId) -> Result<Option<String>> {
        Ok(self.0.lock().unwrap().get(connection.as_str()).cloned())
    }
}

/// Fails when connections made after the client was built have a limit each, when one that was connected to another
/// account keeps the old one's limits or takes them along, or when one that left gives its limits a fresh start.
#[tokio::test(start_paused = true)]
async fn connections_made_later_share_the_limits_of_their_account_and_move_with_it() {
    let book = Arc::new(Book::default());
    let accounts = Accounts::asking(Arc::clone(&book) as _);
    let connect = |connection: &str, account: Option<&str>| {
        let mut book = book.0.lock().unwrap();
        match account {
            Some(account) => drop(book.insert(connection.to_owned(), account.to_owned())),
            None => drop(book.remove(connection)),
        }
        drop(book);
        accounts.forget(&connection.into());
    };
    let provider = Provider::new(|n, _| match n {
        10 => Reply::With(429, vec![("retry-after", "7".to_owned())], Bytes::new()),
        _ => Reply::Status(200),
    });
    let client = Client::builder(without_breaker(), Arc::clone(&provider) as Arc<dyn Transport>, fixed())
        .random(Arc::new(SeededRandom::new(42)))
        .accounts(accounts.clone())
        .build()
        .unwrap();
    let send = |connection: &str| {
        let deadline = Instant::now() + Duration::from_millis(100);
        client.send(request(Call::new(&SLOW_LANE, connection.into(), "t".into()).with_deadline(deadline)))
    };
    let refused = async |connection: &str| {
        let error = send(connection).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Throttled, 0), "{connection}");
    };
    connect("first", Some("T1"));
    for connection in ["first", "first", "first"] {
        send(connection).await.unwrap();
    }
    // The second comes when the first has spent three of five.
    connect("second", Some("T1"));
    for connection in ["second", "first"] {
        send(connection).await.unwrap();
    }
    refused("first").await;
    refused("second").await;
    // Connected to another account, it has that one's limits, and has left its own as they were.
    connect("second", Some("T2"));
    for _ in 0..5 {
        send("second").await.unwrap();
    }
    refused("second").await;
    refused("first").await;
    connect("third", Some("T2"));
    refused("third").await;
    // A pause of one is the other's, also of one that comes back.
    sleep(Duration::from_secs(2)).await;
    assert_eq!(send("third").await.unwrap_err().status(), Some(429));
    sleep(Duration::from_secs(2)).await;
    refused("second").await;
    send("first").await.unwrap();
    connect("second", None);
    send("second").await.unwrap();
    connect("second", Some("T2"));
    refused("second").await;
    assert_eq!(provider.count(), 13);
}

/// Fails when what nobody uses any more is kept: accounts that come and go leave a bounded number of lanes.
#[tokio::test(start_paused = true)]
async fn the_limits_of_an_account_go_once_they_have_rested() {
    let book = Arc::new(Book::default());
    let accounts = Accounts::asking(Arc::clone(&book) as _);
    let client = Client::builder(profile(), Provider::always(Reply::Status(200)) as Arc<dyn Transport>, fixed())
        .accounts(accounts.clone())
        .build()
        .unwrap();
    let send = |n: usize| client.send(request(Call::new(&SLOW_LANE, format!("c{n}").into(), "t".into())));
    for n in 0..200 {
        book.0.lock().unwrap().insert(format!("c{n}"), format!("T{}", n / 2));
        send(n).await.unwrap();
    }
    assert_eq!(client.engine.lanes.len(), 100, "one for two");
    for n in 0..200 {
        book.0.lock().unwrap().remove(&format!("c{n}"));
        accounts.forget(&format!("c{n}").into());
    }
    sleep(Duration::from_secs(1_300)).await;
    // Old lanes go when new ones are made beside them.
    for n in 1..2_001 {
        send(n * 7_919).await.unwrap();
    }
    assert_eq!(client.engine.lanes.len(), 2_000, "theirs, and none of before");
}

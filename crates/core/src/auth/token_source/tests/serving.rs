//! What is served, from where, and when a renewal begins.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::auth::Scheme;

/// Counts the store's calls.
fn counted(store: &Faulty) -> Arc<AtomicU64> {
    let calls = Arc::new(AtomicU64::new(0));
    let seen = calls.clone();
    store.layer.failing(move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        None
    });
    calls
}

/// Fails when a valid token costs a read of the store, or when a row is never looked at again.
#[tokio::test(start_paused = true)]
async fn a_valid_token_is_served_from_memory_for_a_minute() {
    let world = World::connected().await;
    let process = world.process(1);
    let calls = counted(&world.store);
    assert_eq!(sent(&process.token().await.unwrap()), "access-1");
    let first = calls.load(Ordering::SeqCst);
    assert!((1..=4).contains(&first), "{first} calls for the first look");
    for _ in 0..1_000 {
        process.token().await.unwrap();
    }
    assert_eq!(calls.load(Ordering::SeqCst), first);
    tokio::time::advance(LOOK_EVERY - Duration::from_millis(1)).await;
    process.token().await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), first, "not yet");
    tokio::time::advance(Duration::from_millis(1)).await;
    for _ in 0..10 {
        process.token().await.unwrap();
    }
    assert!((1..=2).contains(&(calls.load(Ordering::SeqCst) - first)), "once a minute");
    assert_eq!(world.provider.requests(), 0);
}

/// Fails when a hit takes more than the caller's own future from the heap.
#[test]
fn a_hit_allocates_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::connected().await;
        let process = world.process(1);
        let id = ConnectionId::new("acme");
        for _ in 0..3 {
            process.source.credential(id.clone()).await.unwrap();
        }
        let mut hit = None;
        let info = allocation_counter::measure(|| {
            hit = futures_util::FutureExt::now_or_never(process.source.credential(id.clone()));
        });
        assert!(hit.unwrap().is_ok());
        assert_eq!(info.count_total, 1, "{info:?}");
    });
}

/// Fails when a caller waits for an early renewal, when two begin, or when the new token is not taken.
#[tokio::test(start_paused = true)]
async fn ahead_of_expiry_the_valid_token_is_served_while_one_renewal_runs() {
    let world = World::connected().await;
    *world.provider.delay.lock().unwrap() = Duration::from_secs(10);
    let process = world.process(1);
    process.token().await.unwrap();
    tokio::time::advance(LIFE.mul_f64(0.69)).await;
    assert_eq!(sent(&process.token().await.unwrap()), "access-1");
    settle().await;
    assert_eq!(world.provider.requests(), 0, "not before seven tenths of its life");
    tokio::time::advance(LIFE.mul_f64(0.115)).await;
    for _ in 0..50 {
        let before = tokio::time::Instant::now();
        assert_eq!(sent(&process.token().await.unwrap()), "access-1");
        assert_eq!(before.elapsed(), Duration::ZERO, "nobody waits");
    }
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(sent(&process.token().await.unwrap()), "access-2");
    assert_eq!(world.provider.requests(), 1);
    let row = world.row().await;
    assert_eq!((row.generation, row.held_until, row.intent, row.failures), (2, None, None, 0));
    world.provider.assert_single_use("");
}

/// Fails when processes renew at the same moment of a token's life: they would all come at once.
#[tokio::test(start_paused = true)]
async fn renewals_are_spread_by_a_seed() {
    let mut begun = BTreeSet::new();
    for seed in 0..12 {
        let world = World::connected().await;
        let process = world.process(seed);
        process.token().await.unwrap();
        let start = tokio::time::Instant::now();
        tokio::time::advance(LIFE.mul_f64(0.69)).await;
        while world.provider.requests() == 0 {
            tokio::time::advance(Duration::from_secs(5)).await;
            process.token().await.unwrap();
            settle().await;
        }
        let share = start.elapsed().as_secs_f64() / LIFE.as_secs_f64();
        assert!((0.69..0.82).contains(&share), "seed {seed}: {share}");
        begun.insert((share * 1_000.0) as u64);
    }
    assert!(begun.len() > 7, "{begun:?}");
}

/// Fails when a caller that goes away takes the renewal with it: its answer would be lost with the refresh token.
#[tokio::test(start_paused = true)]
async fn a_renewal_goes_on_when_every_caller_has_gone_away() {
    let world = World::connected().await;
    *world.provider.delay.lock().unwrap() = Duration::from_secs(10);
    let process = world.process(1);
    tokio::time::advance(LIFE).await;
    for _ in 0..20 {
        assert!(tokio::time::timeout(Duration::from_secs(1), process.token()).await.is_err());
    }
    // Twenty seconds of travel are over, and nobody has been waiting at the end.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sent(&process.token().await.unwrap()), "access-2");
    assert_eq!((world.provider.requests(), world.row().await.generation), (1, 2));
}

/// Fails when a key that does not expire needs another source, or is preferred to a grant.
#[tokio::test(start_paused = true)]
async fn keys_and_grants_come_from_one_source() {
    let world = World::new();
    world.store.inner.put_connection(World::connection()).await.unwrap();
    let process = world.process(1);
    let nothing = process.token().await.unwrap_err();
    assert_eq!((nothing.kind(), nothing.outcome()), (ErrorKind::Auth, Outcome::NotSent));
    let id = ConnectionId::new("acme");
    process.source.keys().store_credential(&id, &Scheme::Bearer("a-key".into())).await.unwrap();
    assert_eq!(sent(&process.token().await.unwrap()), "a-key");
    let user = process.source.grant("user");
    assert_eq!(
        user.credential(id.clone()).await.unwrap_err().kind(),
        ErrorKind::Auth,
        "a key is no grant of that name"
    );
    world.connect("user", 0).await;
    process.source.forget(&id);
    assert_eq!(sent(&process.token().await.unwrap()), "access-1", "the only grant there is");
    world.connect("bot", 0).await;
    process.source.forget(&id);
    assert_eq!(sent(&process.token().await.unwrap()), "access-2", "the first by name");
    world.connect("main", 0).await;
    process.source.forget(&id);
    assert_eq!(sent(&process.token().await.unwrap()), "access-3", "the main one");
    assert_eq!(sent(&user.credential(id).await.unwrap()), "access-1", "and each by its name");
}

/// Fails when a disconnect or reconnect by another process is not seen after a minute, or at once here.
#[tokio::test(start_paused = true)]
async fn what_another_process_changes_is_seen_after_a_minute() {
    let world = World::connected().await;
    let process = world.process(1);
    process.token().await.unwrap();
    world.connect("main", 1).await;
    assert_eq!(sent(&process.token().await.unwrap()), "access-1");
    tokio::time::advance(LOOK_EVERY).await;
    assert_eq!(sent(&process.token().await.unwrap()), "access-2");
    world.store.inner.disconnect("acme".into(), Vec::new(), world.clock.now()).await.unwrap();
    assert!(process.token().await.is_ok());
    process.source.forget(&"acme".into());
    assert_eq!(process.token().await.unwrap_err().kind(), ErrorKind::Auth);
    assert_eq!(process.source.refresh("acme".into(), 2).await.unwrap_err().kind(), ErrorKind::Auth);
    let mut row = World::connection();
    row.state = ConnectionState::NeedsReconnect { reason: "somebody saw it refused".to_owned() };
    world.connect("main", 3).await;
    assert!(process.token().await.is_ok());
    world.store.inner.put_connection(row).await.unwrap();
    process.source.forget(&"acme".into());
    let refused = process.token().await.unwrap_err();
    assert!(refused.message().contains("somebody saw it refused"), "{refused}");
}

/// Fails when a store that is out of reach takes a valid token from its callers, or is asked for every call.
#[tokio::test(start_paused = true)]
async fn a_valid_token_outlives_the_store() {
    let world = World::connected().await;
    let process = world.process(1);
    process.token().await.unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let seen = calls.clone();
    world.store.layer.failing(move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        Some(Fault::Before)
    });
    tokio::time::advance(LOOK_EVERY).await;
    for _ in 0..100 {
        assert_eq!(sent(&process.token().await.unwrap()), "access-1");
    }
    assert!(calls.load(Ordering::SeqCst) <= 2);
    tokio::time::advance(LIFE).await;
    assert_eq!(process.token().await.unwrap_err().kind(), ErrorKind::Store, "but not its end");
    world.store.layer.healed();
    assert_eq!(sent(&process.token().await.unwrap()), "access-2");
}

/// Fails when a token is handed out that would die on its way to the provider, out of memory or after a look; or when as
/// much is cut off a token that lives seconds as off one that lives an hour.
#[tokio::test(start_paused = true)]
async fn a_token_about_to_die_is_not_handed_out() {
    for (life, leeway) in [(LIFE, LEEWAY), (Duration::from_secs(20), Duration::from_secs(2))] {
        let world = World::new();
        let (access, refresh) = world.provider.issue();
        let tokens = world.sealed("main", 0, Renewal::RefreshToken(refresh.into()), &access, Some(life)).await;
        world.put("main", tokens).await;
        // No new one comes meanwhile.
        world.provider.book().always = Some(Mishap::Passing(Some(LIFE)));
        let process = world.process(1);
        let tick = Duration::from_millis(1);
        tokio::time::advance(life - leeway - tick).await;
        for _ in 0..2 {
            assert_eq!(sent(&process.token().await.unwrap()), access, "{life:?}: it has {leeway:?} left");
            settle().await;
        }
        tokio::time::advance(tick).await;
        for process in [process, world.process(2)] {
            let error = process.token().await.unwrap_err();
            assert!(error.retry_after().is_some(), "{life:?}: {error}");
        }
        assert_eq!(world.provider.requests(), 1);
    }
}

/// Fails when what was read or renewed before a disconnect or reconnect comes into memory after it: a revoked token would
/// be served for another minute.
#[tokio::test(start_paused = true)]
async fn what_was_on_its_way_when_it_was_forgotten_is_not_kept() {
    // A look that has read the rows, and a renewal that has written its tokens: five seconds before, and five after.
    for (slow, age) in [("grants", Duration::ZERO), ("renew_grant", LIFE)] {
        for reconnects in [false, true] {
            let world = World::connected().await;
            let process = world.process(1);
            tokio::time::advance(age).await;
            world.store.layer.slowed(move |name| if name == slow { Duration::from_secs(5) } else { Duration::ZERO });
            let asking = tokio::spawn({
                let source = process.source.clone();
                async move { source.credential("acme".into()).await }
            });
            tokio::time::sleep(Duration::from_secs(7)).await;
            let generation = world.row().await.generation;
            let reconnected = if reconnects {
                Some(world.connect("main", generation).await)
            } else {
                world.store.inner.disconnect("acme".into(), Vec::new(), world.clock.now()).await.unwrap();
                None
            };
            process.source.forget(&"acme".into());
            asking.await.unwrap().expect("it was asked for before");
            world.store.layer.slowed(|_| Duration::ZERO);
            let now = process.token().await;
            let case = format!("{slow}, reconnects {reconnects}");
            match reconnected {
                Some(access) => assert_eq!(sent(&now.unwrap()), access, "{case}"),
                None => assert_eq!(now.unwrap_err().kind(), ErrorKind::Auth, "{case}"),
            }
        }
    }
}

/// Fails when a look that read its row before a renewal was written puts the older token back when it ends after it: one
/// that the provider has refused would be served for another minute.
#[tokio::test(start_paused = true)]
async fn a_slow_look_does_not_put_an_older_token_back() {
    let world = World::connected().await;
    *world.provider.delay.lock().unwrap() = Duration::from_secs(10);
    let process = world.process(1);
    let first = process.token().await.unwrap();
    tokio::time::advance(LOOK_EVERY).await;
    let renewing = tokio::spawn({
        let source = process.source.clone();
        async move { source.refresh("acme".into(), first.version()).await }
    });
    // Twenty seconds of travel. The look reads at the nineteenth, and ends at the twenty-third.
    tokio::time::sleep(Duration::from_secs(15)).await;
    world.store.layer.slowed(|name| if name == "grants" { Duration::from_secs(4) } else { Duration::ZERO });
    assert_eq!(sent(&process.token().await.unwrap()), "access-1", "what it has read");
    world.store.layer.slowed(|_| Duration::ZERO);
    assert_eq!(sent(&process.token().await.unwrap()), "access-2");
    assert_eq!(sent(&renewing.await.unwrap().unwrap()), "access-2");
}

/// Fails when a task begins a renewal of its own beside the one its process has under way. The row's hold would still keep
/// it from the provider, so renewals are counted where they begin, and claims at the store.
#[tokio::test(start_paused = true)]
async fn a_thousand_tasks_of_a_process_share_one_renewal() {
    for refused in [false, true] {
        let world = World::connected().await;
        *world.provider.delay.lock().unwrap() = Duration::from_secs(10);
        let (begun, claims) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (begins, claimed) = (begun.clone(), claims.clone());
        world.store.layer.failing(move |name| {
            claimed.fetch_add(u64::from(name == "claim_grant"), Ordering::SeqCst);
            None
        });
        let process = world.process_with(1, move |task| {
            begins.fetch_add(1, Ordering::SeqCst);
            task
        });
        process.token().await.unwrap();
        tokio::time::advance(if refused { LIFE / 2 } else { LIFE }).await;
        let mut tasks = JoinSet::new();
        for _ in 0..1_000 {
            let source = process.source.clone();
            tasks.spawn(async move {
                if refused { source.refresh("acme".into(), 1).await } else { source.credential("acme".into()).await }
            });
        }
        while let Some(given) = tasks.join_next().await {
            assert_eq!(sent(&given.unwrap().unwrap()), "access-2");
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        assert_eq!((count(&begun), count(&claims), world.provider.requests()), (1, 1, 1), "refused {refused}");
    }
}

fn kept(version: u64) -> Kept {
    Kept::plain(Credential::new(&Scheme::Bearer("t".into()), version, None).unwrap(), START.plus(LOOK_EVERY))
}

/// Fails when memory grows with the connections, or when one is served what is another's.
#[tokio::test(start_paused = true)]
async fn what_is_kept_in_memory_is_bounded() {
    let cache = Cache::default();
    let id = |n: u64| ConnectionId::new(format!("con_{n}"));
    for n in 0..40_000 {
        let entry = cache.entry(&id(n));
        entry.keep(entry.epoch(), kept(n));
    }
    let known = (0..40_000).filter(|n| cache.has(&id(*n))).count();
    assert!((8_000..=16_384).contains(&known), "{known}");
    let served: Vec<_> = (0..40_000).filter_map(|n| Some((n, cache.hit(&id(n), START)?.version()))).collect();
    assert_eq!(served.len(), known);
    assert!(served.iter().all(|(n, version)| n == version));
}

/// Fails when what has left the memory is served again by somebody who still holds it: nobody could forget it.
#[tokio::test(start_paused = true)]
async fn what_has_left_the_memory_keeps_nothing() {
    let cache = Cache::default();
    let first = ConnectionId::new("first");
    let entry = cache.entry(&first);
    entry.keep(entry.epoch(), kept(1));
    assert!(cache.hit(&first, START).is_some());
    for n in 0..40_000 {
        cache.entry(&ConnectionId::new(format!("con_{n}")));
    }
    assert!(!cache.has(&first) && cache.hit(&first, START).is_none());
    entry.keep(entry.epoch(), kept(2));
    assert!(cache.hit(&first, START).is_none());
    let again = cache.entry(&first);
    again.keep(again.epoch(), kept(3));
    assert_eq!(cache.hit(&first, START).unwrap().version(), 3);
    cache.forget(&first);
    assert!(cache.hit(&first, START).is_none() && again.hit(START).is_none());
}

/// Fails when a grant that nobody uses is left to die, or is renewed by every process.
#[tokio::test(start_paused = true)]
async fn unused_grants_are_kept_alive_once() {
    let world = World::new();
    world.provider.policy.lock().unwrap().keep_alive = Some(Duration::from_secs(7 * 24 * 3_600));
    world.connect("main", 0).await;
    let processes: Vec<_> = (0..3).map(|seed| world.process(seed)).collect();
    let mut renewed_at = Vec::new();
    for day in 1..=20 {
        tokio::time::advance(Duration::from_secs(24 * 3_600)).await;
        let ran = futures_util::future::join_all(processes.iter().map(|one| one.source.keep_alive(10))).await;
        for kept in ran {
            assert_eq!(kept.unwrap().failed, 0);
        }
        if world.provider.requests() > renewed_at.len() as u64 {
            renewed_at.push(day);
        }
    }
    assert_eq!(renewed_at.len(), 2, "{renewed_at:?}");
    assert_eq!(world.provider.requests(), 2);
    world.provider.assert_single_use("");
}

/// Fails when the end of the process cuts a renewal off, or when another begins.
#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_what_is_under_way() {
    let world = World::connected().await;
    *world.provider.delay.lock().unwrap() = Duration::from_secs(10);
    let process = world.process(1);
    tokio::time::advance(LIFE).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), process.token()).await.is_err());
    let start = tokio::time::Instant::now();
    process.source.shutdown().await;
    assert!(start.elapsed() >= Duration::from_secs(18), "{:?}", start.elapsed());
    assert_eq!(world.row().await.generation, 2);
    assert_eq!(sent(&process.token().await.unwrap()), "access-2", "what is valid is served to the end");
    tokio::time::advance(LIFE).await;
    assert_eq!(process.token().await.unwrap_err().kind(), ErrorKind::Cancelled);
    process.source.shutdown().await;
    assert_eq!(world.provider.requests(), 1);
}

/// Fails when a token, a renewed one or a key may leave the hosts of its environment.
#[tokio::test(start_paused = true)]
async fn what_is_given_is_for_the_hosts_of_its_environment() {
    use crate::auth::Audience;
    let world = World::connected().await;
    let sandbox = Audience::of(["sandbox.slack.test"]);
    let of_key = |connection: &Connection| Audience::of_base_url(connection.base_url.as_deref().unwrap_or_default());
    let random = Arc::new(SeededRandom::new(5));
    let source = TokenSource::builder(world.store.clone(), world.vault(), Arc::new(world.clock), random)
        .flow("slack", world.provider.clone())
        .audience("slack", sandbox.clone())
        .key_audience(Arc::new(of_key))
        .build()
        .unwrap();
    let given = source.credential("acme".into()).await.unwrap();
    assert_eq!(given.audience(), Some(&sandbox));
    tokio::time::advance(Duration::from_secs(60)).await;
    let renewed = source.refresh("acme".into(), given.version()).await.unwrap();
    assert!(renewed.version() > given.version());
    assert_eq!(renewed.audience(), Some(&sandbox));

    let base_url = Some("https://key.slack.test/api".to_owned());
    let keyed = Connection { id: "keyed".into(), base_url, ..World::connection() };
    world.store.inner.put_connection(keyed).await.unwrap();
    let store =
        async |key: &str| source.keys().store_credential(&"keyed".into(), &Scheme::Bearer(key.into())).await.unwrap();
    let seen = store("one").await;
    let home = Audience::of(["key.slack.test"]);
    assert_eq!(source.credential("keyed".into()).await.unwrap().audience(), Some(&home));
    store("two").await;
    assert_eq!(source.refresh("keyed".into(), seen).await.unwrap().audience(), Some(&home));
}

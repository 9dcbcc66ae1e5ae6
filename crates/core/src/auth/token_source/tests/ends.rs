//! Failures: what passes, what is the end, and who hears of it.

use super::*;

const SOON: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Ends(Mutex<Vec<RenewalEnd>>);

impl RenewalObserver for Ends {
    fn observe(&self, record: RenewalRecord) {
        assert_eq!((record.flow.as_str(), record.key.connection.as_str()), ("slack", "acme"));
        self.0.lock().unwrap().push(record.end);
    }
}

impl Ends {
    /// A source of another process, watched.
    fn watching(self: &Arc<Self>, world: &World) -> Arc<TokenSource> {
        TokenSource::builder(world.store.clone(), world.vault(), Arc::new(world.clock), Arc::new(SeededRandom::new(1)))
            .flow("slack", world.provider.clone())
            .observer(self.clone())
            .build()
            .unwrap()
    }

    fn seen(&self) -> Vec<RenewalEnd> {
        self.0.lock().unwrap().clone()
    }
}

/// Fails when a status, a lost connection or a code other than `invalid_grant` kills a grant, or when a lost answer to a
/// single-use token is taken for a passing trouble.
#[tokio::test(start_paused = true)]
async fn each_failure_means_what_it_means() {
    use Mishap::{InvalidGrant, Lost, LostBefore, NotSent, Passing, Stuck, Wrong};
    let refused = GrantState::Dead { reason: EndReason::Refused };
    let lost = GrantState::Dead { reason: EndReason::MaybeLost };
    // What happens to all requests, whether refresh tokens may be sent again, and what is left.
    for (mishap, reusable, kind, state, requests) in [
        (NotSent, false, ErrorKind::Connect, GrantState::Live, 3),
        (Passing(None), false, ErrorKind::Provider, GrantState::Live, 3),
        (Passing(Some(Duration::from_secs(3_000))), false, ErrorKind::Provider, GrantState::Live, 1),
        (Wrong, false, ErrorKind::Config, GrantState::Live, 1),
        (InvalidGrant, false, ErrorKind::Auth, refused.clone(), 1),
        (InvalidGrant, true, ErrorKind::Auth, refused, 1),
        (Lost, false, ErrorKind::Auth, lost.clone(), 1),
        (LostBefore, false, ErrorKind::Auth, lost.clone(), 1),
        (Stuck, false, ErrorKind::Auth, lost, 1),
        (LostBefore, true, ErrorKind::Transport, GrantState::Live, 3),
        (Stuck, true, ErrorKind::Timeout, GrantState::Live, 3),
    ] {
        let world = World::connected().await;
        world.provider.policy.lock().unwrap().refresh_reusable = reusable;
        world.provider.rotates.store(!reusable, Ordering::SeqCst);
        world.provider.book().always = Some(mishap);
        let process = world.process(1);
        tokio::time::advance(LIFE).await;
        let case = format!("{mishap:?}, reusable {reusable}");
        let error = process.token().await.unwrap_err();
        assert_eq!(error.kind(), kind, "{case}: {error}");
        let row = world.row().await;
        assert_eq!((&row.state, row.intent, row.held_until), (&state, None, None), "{case}");
        assert_eq!(world.provider.requests(), requests, "{case}");
        let marked = matches!(world.state().await, ConnectionState::NeedsReconnect { .. });
        assert_eq!(marked, state != GrantState::Live, "{case}");
        if state == GrantState::Live {
            assert!(error.retry_after().is_some(), "{case}");
            // It rests, for every process, and then it works.
            let again = world.process(2).token().await.unwrap_err();
            assert!(again.retry_after().is_some(), "{case}");
            assert_eq!(world.provider.requests(), requests, "{case}");
            world.provider.book().always = None;
            tokio::time::advance(row.rest_until.unwrap().since(world.clock.now())).await;
            world.assert_valid(&process.token().await.unwrap(), &case);
            assert_eq!(world.row().await.failures, 0, "{case}");
        } else {
            let again = world.process(2).token().await.unwrap_err();
            assert_eq!(again.kind(), ErrorKind::Auth, "{case}");
            assert_eq!(world.provider.requests(), requests, "a dead grant is not tried again: {case}");
        }
        if !reusable {
            world.provider.assert_single_use(&case);
        }
    }
}

/// Fails when a failed early renewal displaces a token that is still valid, or when the owner is not told in time.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_still_valid_is_served_to_its_end_whatever_its_renewal_says() {
    for (mishap, over) in [
        (Mishap::Passing(None), None),
        (Mishap::InvalidGrant, Some(EndReason::Refused)),
        (Mishap::Lost, Some(EndReason::MaybeLost)),
    ] {
        let world = World::connected().await;
        world.provider.book().always = Some(mishap);
        let process = world.process(1);
        tokio::time::advance(LIFE.mul_f64(0.85)).await;
        process.token().await.unwrap();
        settle().await;
        assert_eq!(world.provider.requests(), 1, "{mishap:?}: one try, for nobody waits");
        let end = world.clock.now().plus(LIFE.mul_f64(0.147));
        let mut served = 0;
        while world.clock.now() < end {
            assert_eq!(sent(&process.token().await.unwrap()), "access-1", "{mishap:?}");
            served += 1;
            tokio::time::advance(Duration::from_secs(5)).await;
            settle().await;
        }
        assert!(served > 50);
        let state = over.map_or(GrantState::Live, |reason| GrantState::Ending { reason });
        assert_eq!(world.row().await.state, state);
        assert_eq!(matches!(world.state().await, ConnectionState::NeedsReconnect { .. }), over.is_some());
        tokio::time::advance(SOON).await;
        let error = process.token().await.unwrap_err();
        match over {
            Some(reason) => assert_eq!((error.kind(), error.message()), (ErrorKind::Auth, reason.phrase())),
            None => assert!(error.retry_after().is_some(), "{error}"),
        }
        world.provider.assert_single_use("");
    }
}

/// Fails when an early renewal that failed is the last one before the token ends, because nobody waited for its end; or when
/// its old failure is told to whoever asks when the token has ended.
#[tokio::test(start_paused = true)]
async fn a_failed_early_renewal_is_begun_again_and_its_failure_told_to_nobody() {
    let world = World::connected().await;
    let process = world.process(1);
    world.provider.plan([Mishap::Passing(None), Mishap::Passing(Some(LIFE / 5))]);
    tokio::time::advance(LIFE.mul_f64(0.82)).await;
    for asked in [1, 2] {
        assert_eq!(sent(&process.token().await.unwrap()), "access-1");
        settle().await;
        assert_eq!(world.provider.requests(), asked, "it is asked again after its rest");
        tokio::time::advance(SOON).await;
    }
    tokio::time::advance(LIFE / 5).await;
    assert_eq!(sent(&process.token().await.expect("the provider is well again")), "access-2");
    world.provider.assert_single_use("");
}

/// Fails when failures come as fast as calls: the provider in trouble would be asked for every one of them.
#[tokio::test(start_paused = true)]
async fn failing_renewals_are_backed_off_ever_longer() {
    let world = World::connected().await;
    world.provider.book().always = Some(Mishap::Passing(None));
    let processes: Vec<_> = (0..3).map(|seed| world.process(seed)).collect();
    tokio::time::advance(LIFE).await;
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_secs(3_600) {
        for process in &processes {
            process.token().await.unwrap_err();
        }
        tokio::time::advance(Duration::from_millis(500)).await;
    }
    let requests = world.provider.requests();
    assert!((20..90).contains(&requests), "{requests} requests in an hour of trouble, three processes together");
}

/// Fails when a token the provider refuses is not renewed at once, or when a refusal of an old one is.
#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_once_and_an_old_refusal_finds_the_new_one() {
    let world = World::connected().await;
    let (one, two) = (world.process(1), world.process(2));
    let first = one.token().await.unwrap();
    two.token().await.unwrap();
    tokio::time::advance(SOON).await;
    let refreshes = (0..50).map(|_| one.source.refresh("acme".into(), first.version()));
    for fresh in futures_util::future::join_all(refreshes).await {
        assert_eq!(sent(&fresh.unwrap()), "access-2");
    }
    assert_eq!(world.provider.requests(), 1);
    assert_eq!(sent(&one.token().await.unwrap()), "access-2");
    // The other process hears the refusal later.
    let fresh = two.source.refresh("acme".into(), first.version()).await.unwrap();
    assert_eq!((sent(&fresh).as_str(), world.provider.requests()), ("access-2", 1));
    // A refusal of what was issued a moment ago is not answered with another renewal.
    let loops = one.source.refresh("acme".into(), 2).await.unwrap_err();
    assert_eq!((loops.kind(), world.provider.requests()), (ErrorKind::Auth, 1));
    assert_eq!(world.row().await.state, GrantState::Live, "and is not the end either");
    tokio::time::advance(SOON).await;
    assert_eq!(sent(&one.source.refresh("acme".into(), 2).await.unwrap()), "access-3");
}

/// Fails when what cannot be renewed is tried, or when it is not said that it is over.
#[tokio::test(start_paused = true)]
async fn a_refused_token_without_renewal_is_the_end() {
    let world = World::new();
    let tokens = world.sealed("main", 0, Renewal::Never, "long-lived", None).await;
    world.put("main", tokens).await;
    let process = world.process(1);
    tokio::time::advance(Duration::from_secs(400 * 24 * 3_600)).await;
    assert_eq!(sent(&process.token().await.unwrap()), "long-lived");
    let error = process.source.refresh("acme".into(), 1).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Auth, Outcome::Rejected));
    assert_eq!(world.row().await.state, GrantState::Dead { reason: EndReason::NotRenewable });
    assert_eq!(process.token().await.unwrap_err().kind(), ErrorKind::Auth);
    // One that expires and cannot be renewed is announced before its end.
    let world = World::new();
    let tokens = world.sealed("main", 0, Renewal::Never, "one-hour", Some(LIFE)).await;
    world.put("main", tokens).await;
    let process = world.process(1);
    tokio::time::advance(LIFE.mul_f64(0.9)).await;
    process.token().await.unwrap();
    settle().await;
    assert!(matches!(world.state().await, ConnectionState::NeedsReconnect { .. }));
    assert_eq!(sent(&process.token().await.unwrap()), "one-hour");
}

/// Fails when the end of a grant is written over a reconnect that came in between: the owner would be asked again.
#[tokio::test(start_paused = true)]
async fn a_late_end_does_not_undo_a_reconnect() {
    for mishap in [Mishap::InvalidGrant, Mishap::Lost, Mishap::None] {
        let world = World::connected().await;
        *world.provider.delay.lock().unwrap() = Duration::from_secs(5);
        world.provider.plan([mishap]);
        let process = world.process(1);
        tokio::time::advance(LIFE).await;
        assert!(tokio::time::timeout(Duration::from_secs(1), process.token()).await.is_err());
        let reconnected = world.connect("main", 1).await;
        tokio::time::sleep(SOON).await;
        assert_eq!(world.state().await, ConnectionState::Active, "{mishap:?}");
        assert_eq!(sent(&process.token().await.unwrap()), reconnected, "{mishap:?}");
        assert_eq!(world.row().await.generation, 2);
        assert!(world.provider.book().revoked.is_empty(), "a grant of the same account may live on: {mishap:?}");
    }
}

/// Fails when `invalid_grant` is believed though another process was faster.
#[tokio::test(start_paused = true)]
async fn invalid_grant_after_another_process_renewed_is_no_error() {
    let world = World::connected().await;
    *world.provider.delay.lock().unwrap() = Duration::from_secs(20);
    let process = world.process(1);
    tokio::time::advance(LIFE).await;
    let waiting = tokio::spawn({
        let source = process.source.clone();
        async move { source.credential("acme".into()).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Somebody without our manners took the token, and wrote what it got.
    world.provider.book().live_refresh.clear();
    let taken = world.connect("main", 1).await;
    assert_eq!(sent(&waiting.await.unwrap().unwrap()), taken);
    assert_eq!((world.row().await.state, world.state().await), (GrantState::Live, ConnectionState::Active));
}

/// Fails when a token that was renewed during a disconnect lives on at the provider.
#[tokio::test(start_paused = true)]
async fn a_token_renewed_during_a_disconnect_is_revoked() {
    let world = World::connected().await;
    *world.provider.delay.lock().unwrap() = Duration::from_secs(5);
    let process = world.process(1);
    tokio::time::advance(LIFE).await;
    assert!(tokio::time::timeout(Duration::from_secs(1), process.token()).await.is_err());
    world.store.inner.disconnect("acme".into(), Vec::new(), world.clock.now()).await.unwrap();
    tokio::time::sleep(SOON).await;
    assert_eq!(world.provider.book().revoked, ["access-2"]);
    assert_eq!(process.token().await.unwrap_err().kind(), ErrorKind::Auth);
    assert!(world.row().await.blob.is_empty());
}

/// Fails when new tokens are given up because the store stumbles, or when our own write is taken for somebody else's.
#[tokio::test(start_paused = true)]
async fn new_tokens_are_written_however_the_store_stumbles() {
    for fault in [Fault::Before, Fault::After] {
        let world = World::connected().await;
        let process = world.process(1);
        tokio::time::advance(LIFE).await;
        let mut stumbles = 7;
        world.store.layer.failing(move |name| {
            let hit = name == "renew_grant" && stumbles > 0;
            stumbles -= u32::from(hit);
            hit.then_some(fault)
        });
        assert_eq!(sent(&process.token().await.unwrap()), "access-2", "{fault:?}");
        assert_eq!((world.provider.requests(), world.row().await.generation), (1, 2));
        world.provider.assert_single_use("");
    }
    // A store that never comes back: it is said, and later it is said that the token may be lost.
    let world = World::connected().await;
    let process = world.process(1);
    tokio::time::advance(LIFE).await;
    world.store.layer.failing(|name| (name == "renew_grant").then_some(Fault::Before));
    assert_eq!(process.token().await.unwrap_err().kind(), ErrorKind::Store);
    world.store.layer.healed();
    tokio::time::advance(SOON).await;
    let error = world.process(2).token().await.unwrap_err();
    assert_eq!(error.message(), EndReason::MaybeLost.phrase());
    assert_eq!(world.provider.requests(), 1);
}

/// Fails when a request leaves before its intent is written.
#[tokio::test(start_paused = true)]
async fn without_an_intent_no_request_leaves() {
    for fault in [Fault::Before, Fault::After] {
        let world = World::connected().await;
        let process = world.process(1);
        tokio::time::advance(LIFE).await;
        world.store.layer.failing(move |name| (name == "note_intent").then_some(fault));
        assert_eq!(process.token().await.unwrap_err().kind(), ErrorKind::Store);
        assert_eq!(world.provider.requests(), 0, "{fault:?}");
        world.store.layer.healed();
        assert_eq!(world.row().await.intent, None, "{fault:?}: and none is left that would say it may be lost");
        assert_eq!(sent(&process.token().await.unwrap()), "access-2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_is_not_set_up_here_is_said_and_costs_nothing() {
    let world = World::connected().await;
    let source =
        TokenSource::builder(world.store.clone(), world.vault(), Arc::new(world.clock), Arc::new(SeededRandom::new(1)))
            .build()
            .unwrap();
    assert!(source.credential("acme".into()).await.is_ok(), "what is valid needs no flow");
    tokio::time::advance(LIFE).await;
    let error = source.credential("acme".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("slack"), "{error}");
    let row = world.row().await;
    assert_eq!((row.held_until, row.intent, row.state), (None, None, GrantState::Live));
    let twice = TokenSource::builder(world.store.clone(), world.vault(), Arc::new(world.clock), Arc::new(SystemRandom))
        .flow("slack", world.provider.clone())
        .flow("slack", world.provider.clone());
    assert_eq!(twice.build().unwrap_err().kind(), ErrorKind::Config);
}

/// Fails when our own write, whose answer alone was lost, is told as another process's.
#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_known_as_our_own() {
    let world = World::connected().await;
    let ends = Arc::new(Ends::default());
    let source = ends.watching(&world);
    tokio::time::advance(LIFE).await;
    let mut lost = 1;
    world.store.layer.failing(move |name| {
        let hit = name == "renew_grant" && lost > 0;
        lost -= u32::from(hit);
        hit.then_some(Fault::After)
    });
    assert_eq!(sent(&source.credential("acme".into()).await.unwrap()), "access-2");
    assert_eq!(ends.seen(), [RenewalEnd::Renewed]);
}

/// Fails when a grant that is ending outlives the refusal of its last token, or when what is over is renewed for it.
#[tokio::test(start_paused = true)]
async fn the_last_token_of_an_ending_grant_ends_with_its_refusal() {
    let world = World::connected().await;
    world.provider.book().always = Some(Mishap::InvalidGrant);
    let ends = Arc::new(Ends::default());
    let source = ends.watching(&world);
    tokio::time::advance(LIFE.mul_f64(0.85)).await;
    let last = source.credential("acme".into()).await.unwrap();
    settle().await;
    assert_eq!(world.row().await.state, GrantState::Ending { reason: EndReason::Refused });
    assert!(source.credential("acme".into()).await.is_ok(), "it serves to its end");
    for _ in 0..2 {
        let error = source.refresh("acme".into(), last.version()).await.unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Auth, EndReason::Refused.phrase()));
        assert_eq!(world.row().await.state, GrantState::Dead { reason: EndReason::Refused });
    }
    assert_eq!(source.credential("acme".into()).await.unwrap_err().kind(), ErrorKind::Auth);
    assert_eq!(world.process(2).token().await.unwrap_err().kind(), ErrorKind::Auth, "nor does another process send it");
    assert_eq!((world.provider.requests(), ends.seen()), (1, vec![RenewalEnd::Ended(EndReason::Refused)]));
}

/// Fails when a refused token serves on because the call that heard the refusal has gone away.
#[tokio::test(start_paused = true)]
async fn a_refused_token_does_not_serve_on_when_its_caller_has_gone_away() {
    let world = World::connected().await;
    *world.provider.delay.lock().unwrap() = Duration::from_secs(5);
    world.provider.book().always = Some(Mishap::InvalidGrant);
    let process = world.process(1);
    process.token().await.unwrap();
    tokio::time::advance(SOON).await;
    let refresh = process.source.refresh("acme".into(), 1);
    assert!(tokio::time::timeout(Duration::from_secs(1), refresh).await.is_err());
    tokio::time::sleep(SOON).await;
    assert_eq!(world.row().await.state, GrantState::Dead { reason: EndReason::Refused });
    assert_eq!(world.process(2).token().await.unwrap_err().kind(), ErrorKind::Auth);
}

/// Fails when a renewal ends unseen.
#[tokio::test(start_paused = true)]
async fn every_end_is_observed() {
    let world = World::connected().await;
    let ends = Arc::new(Ends::default());
    let (one, two) = (ends.watching(&world), ends.watching(&world));
    world.provider.plan([Mishap::None, Mishap::Passing(Some(Duration::from_secs(60))), Mishap::InvalidGrant]);
    *world.provider.delay.lock().unwrap() = Duration::from_secs(1);
    tokio::time::advance(LIFE).await;
    let both = tokio::join!(one.credential("acme".into()), two.credential("acme".into()));
    assert_eq!((sent(&both.0.unwrap()), sent(&both.1.unwrap())), ("access-2".to_owned(), "access-2".to_owned()));
    for _ in 0..2 {
        tokio::time::advance(LIFE).await;
        one.credential("acme".into()).await.unwrap_err();
    }
    assert_eq!(
        ends.seen(),
        [
            RenewalEnd::Renewed,
            RenewalEnd::Found,
            RenewalEnd::Failed(ErrorKind::Provider),
            RenewalEnd::Ended(EndReason::Refused)
        ]
    );
}

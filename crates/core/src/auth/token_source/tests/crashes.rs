//! A process that dies at every point where it can.

use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use super::*;
use crate::store::GrantClaim;

/// Runs a task until it has been polled so often, and drops it then and there: a process that dies at its n-th await,
/// also at one that nothing would have ended for long.
struct Fuse {
    task: Option<BoxFuture<'static, ()>>,
    left: Arc<AtomicUsize>,
    died: Arc<AtomicBool>,
}

impl Fuse {
    fn burns_out(&mut self) -> Poll<()> {
        self.task = None;
        self.died.store(true, Ordering::SeqCst);
        Poll::Ready(())
    }
}

impl Future for Fuse {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            return self.burns_out();
        }
        self.left.store(left - 1, Ordering::SeqCst);
        let polled = self.task.as_mut().map_or(Poll::Ready(()), |task| task.as_mut().poll(context));
        if polled.is_pending() && left == 1 { self.burns_out() } else { polled }
    }
}

/// What the next process must say, by where the first one died.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Said {
    Token,
    MaybeLost,
}

/// Fails when a crash between the provider's answer and our write is guessed to be harmless, when one before the intent
/// is called a loss, when a token is sent twice, or when anything is called a success that is none.
#[tokio::test(start_paused = true)]
async fn a_crash_at_each_await_is_a_valid_token_or_said_to_be_a_loss() {
    let mut said = Vec::new();
    for n in 0.. {
        let world = World::connected().await;
        world.store.layer.yielding();
        world.provider.yields.store(true, Ordering::SeqCst);
        tokio::time::advance(LIFE).await;
        let left = Arc::new(AtomicUsize::new(n));
        let died = Arc::new(AtomicBool::new(false));
        let dies = {
            let (left, died) = (left.clone(), died.clone());
            world.process_with(1, move |task| {
                let (left, died) = (left.clone(), died.clone());
                Box::pin(Fuse { task: Some(task), left, died })
            })
        };
        let first = tokio::time::timeout(Duration::from_secs(5), dies.token()).await;
        let has_died = died.load(Ordering::SeqCst);
        let repeat = format!("died at poll {n}: cargo test -p palisade-core a_crash_at_each_await");
        let intent_was_there = world.row().await.intent.is_some();
        let before = world.row().await.generation;
        // Another process comes, and has to wait for the hold at most.
        let next = tokio::time::timeout(Duration::from_secs(60), world.process(2).token()).await.expect(&repeat);
        world.provider.assert_single_use(&repeat);
        match next {
            Ok(credential) => {
                world.assert_valid(&credential, &repeat);
                assert!(!intent_was_there, "{repeat}: an intent was found and passed over");
                said.push(Said::Token);
            }
            Err(error) => {
                assert_eq!(
                    (error.kind(), error.message()),
                    (ErrorKind::Auth, EndReason::MaybeLost.phrase()),
                    "{repeat}"
                );
                assert!(intent_was_there, "{repeat}: a loss without an intent");
                assert_eq!(before, 1, "{repeat}");
                assert!(matches!(world.state().await, ConnectionState::NeedsReconnect { .. }), "{repeat}");
                said.push(Said::MaybeLost);
            }
        }
        if !has_died {
            assert!(first.unwrap().is_ok(), "{repeat}");
            break;
        }
        if let Ok(Ok(credential)) = first {
            world.assert_valid(&credential, &repeat);
        }
    }
    // First nothing had left, then it may be lost, then it is written.
    let phases: Vec<Said> = {
        let mut phases = said.clone();
        phases.dedup();
        phases
    };
    assert_eq!(phases, [Said::Token, Said::MaybeLost, Said::Token], "{said:?}");
    assert!(said.len() > 15, "{} points", said.len());
    let lost = said.iter().filter(|one| **one == Said::MaybeLost).count();
    assert!(lost >= 3, "{said:?}");
}

/// A way a renewal can go, beside the straight one.
struct Path {
    name: &'static str,
    /// What the provider's next requests meet.
    mishaps: &'static [Mishap],
    /// How often the store stumbles, before and after it has done its work, when the new tokens are written.
    stumbles: u32,
    /// How long the request travels, and its answer: holds are prolonged meanwhile.
    delay: Duration,
    /// Whether the row is held by a process that is gone, so that it must be waited for.
    held: bool,
    /// How the renewal ends when nobody dies.
    end: Result<(), EndReason>,
}

const PATHS: [Path; 6] = [
    Path {
        name: "two passing failures, and the waits between",
        mishaps: &[Mishap::Passing(None), Mishap::NotSent],
        ..Path::STRAIGHT
    },
    Path { name: "a store that stumbles over the new tokens", stumbles: 4, ..Path::STRAIGHT },
    Path { name: "a slow provider, and a hold prolonged", delay: Duration::from_secs(12), ..Path::STRAIGHT },
    Path { name: "a row that is held by one who is gone", held: true, ..Path::STRAIGHT },
    Path {
        name: "a provider that refuses",
        mishaps: &[Mishap::InvalidGrant],
        end: Err(EndReason::Refused),
        ..Path::STRAIGHT
    },
    Path { name: "an answer that is lost", mishaps: &[Mishap::Lost], end: Err(EndReason::MaybeLost), ..Path::STRAIGHT },
];

impl Path {
    const STRAIGHT: Self =
        Self { name: "", mishaps: &[], stumbles: 0, delay: Duration::ZERO, held: false, end: Ok(()) };

    async fn world(&self) -> World {
        let world = World::connected().await;
        world.provider.plan(self.mishaps.iter().copied());
        *world.provider.delay.lock().unwrap() = self.delay;
        tokio::time::advance(LIFE).await;
        if self.held {
            let now = world.clock.now();
            let until = now.plus(Duration::from_secs(8));
            let key = GrantKey { connection: "acme".into(), name: "main".into() };
            let claim = world.store.inner.claim_grant(key, 1, now, until).await.unwrap();
            assert!(matches!(claim, GrantClaim::Held { .. }), "{claim:?}");
        }
        let mut stumbles = self.stumbles;
        world.store.layer.failing(move |name| {
            let hit = name == "renew_grant" && stumbles > 0;
            stumbles -= u32::from(hit);
            hit.then_some(if stumbles.is_multiple_of(2) { Fault::Before } else { Fault::After })
        });
        world.store.layer.yielding();
        world.provider.yields.store(true, Ordering::SeqCst);
        world
    }

    /// Lets the first process die at its n-th poll, and asks a second one. Whether the first one died.
    async fn dies_at(&self, n: usize) -> bool {
        let repeat = format!("{}, died at poll {n}: cargo test -p palisade-core at_each_await_of_each_way", self.name);
        let world = self.world().await;
        let (left, died) = (Arc::new(AtomicUsize::new(n)), Arc::new(AtomicBool::new(false)));
        let dies = {
            let (left, died) = (left.clone(), died.clone());
            world.process_with(1, move |task| {
                Box::pin(Fuse { task: Some(task), left: left.clone(), died: died.clone() })
            })
        };
        let first = tokio::time::timeout(Duration::from_secs(200), dies.token()).await.expect(&repeat);
        let has_died = died.load(Ordering::SeqCst);
        let found = world.row().await;
        let spent = !world.provider.book().uses.is_empty();
        let asked = world.provider.requests();
        match &first {
            Ok(credential) => world.assert_valid(credential, &repeat),
            // Cut off, or told how it ended before it died.
            Err(error) if error.kind() == ErrorKind::Cancelled => assert!(has_died, "{repeat}"),
            Err(error) => assert_eq!(Some(error.message()), self.end.err().map(EndReason::phrase), "{repeat}"),
        }
        let next = tokio::time::timeout(Duration::from_secs(200), world.process(2).token()).await.expect(&repeat);
        world.provider.assert_single_use(&repeat);
        let asked_again = world.provider.requests() > asked;
        match next {
            Ok(credential) => {
                world.assert_valid(&credential, &repeat);
                assert!(!spent || found.generation == 2, "{repeat}: a spent token is called a success");
                assert!(found.intent.is_none(), "{repeat}: an intent was found and passed over");
            }
            Err(error) => {
                let over = |reason: EndReason| error.message() == reason.phrase();
                let told = found.state != GrantState::Live || asked_again;
                let lost = found.intent.is_some() && found.generation == 1;
                assert!(
                    (lost && over(EndReason::MaybeLost)) || (told && self.end.is_err_and(over)),
                    "{repeat}: {error}, found {found:?}"
                );
                assert!(matches!(world.state().await, ConnectionState::NeedsReconnect { .. }), "{repeat}");
            }
        }
        has_died
    }
}

/// Every await of every way a renewal can go, not of the straight one alone: waiting for another's hold, waiting between
/// requests, prolonging the hold, writing again and again, ending the grant.
///
/// Fails when a spent token is sent again or its loss called a success, when an intent that is found is passed over, or
/// when what ended the grant is told as something else.
#[tokio::test(start_paused = true)]
async fn a_crash_at_each_await_of_each_way_is_said_to_be_what_it_is() {
    for path in &PATHS {
        let mut points = 0;
        while path.dies_at(points).await {
            points += 1;
        }
        assert!(points > 10, "{}: {points} points", path.name);
    }
}

/// Fails when a refresh token that may be sent again is called lost.
#[tokio::test(start_paused = true)]
async fn where_refresh_tokens_are_reusable_no_crash_loses_one() {
    for n in 0.. {
        let world = World::connected().await;
        world.provider.policy.lock().unwrap().refresh_reusable = true;
        world.provider.rotates.store(false, Ordering::SeqCst);
        world.store.layer.yielding();
        world.provider.yields.store(true, Ordering::SeqCst);
        tokio::time::advance(LIFE).await;
        let (left, died) = (Arc::new(AtomicUsize::new(n)), Arc::new(AtomicBool::new(false)));
        let dies = {
            let (left, died) = (left.clone(), died.clone());
            world.process_with(1, move |task| {
                Box::pin(Fuse { task: Some(task), left: left.clone(), died: died.clone() })
            })
        };
        let _first = tokio::time::timeout(Duration::from_secs(5), dies.token()).await;
        let next = tokio::time::timeout(Duration::from_secs(60), world.process(2).token()).await.unwrap();
        world.assert_valid(&next.unwrap(), &format!("died at poll {n}"));
        if !died.load(Ordering::SeqCst) {
            assert!(n > 10, "{n} points");
            break;
        }
    }
}

/// Fails when a process that slept past its hold (a paused machine) loses the only successor it has.
#[tokio::test(start_paused = true)]
async fn a_process_that_comes_back_with_the_answer_still_keeps_it() {
    let world = World::connected().await;
    *world.provider.delay.lock().unwrap() = Duration::from_secs(25);
    // Its prolongations never arrive.
    world.store.layer.failing(|name| (name == "extend_grant").then_some(Fault::Before));
    let (slow, other) = (world.process(1), world.process(2));
    tokio::time::advance(LIFE).await;
    let waiting = tokio::spawn({
        let source = slow.source.clone();
        async move { source.credential("acme".into()).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let early = other.token().await.unwrap_err();
    assert_eq!(early.message(), EndReason::MaybeLost.phrase(), "nobody can know better at that moment");
    assert!(matches!(world.state().await, ConnectionState::NeedsReconnect { .. }));
    let credential = waiting.await.unwrap().unwrap();
    world.assert_valid(&credential, "");
    assert_eq!((world.row().await.state, world.state().await), (GrantState::Live, ConnectionState::Active));
    assert_eq!(sent(&other.token().await.unwrap()), sent(&credential));
    world.provider.assert_single_use("");
}

/// Fails when a hold is not prolonged, or too late, while a renewal takes longer than it lasts: the next process would find
/// an intent whose holder seems gone, and call a token lost that is on its way.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_takes_longer_than_its_hold_keeps_it() {
    // A provider that takes fifty seconds, and a store that takes no new tokens for ninety.
    for (travel, away) in [(25, 0), (0, 90)] {
        let world = World::connected().await;
        *world.provider.delay.lock().unwrap() = Duration::from_secs(travel);
        tokio::time::advance(LIFE).await;
        let back = world.clock.now().plus(Duration::from_secs(away));
        let clock = world.clock;
        world.store.layer.failing(move |name| (name == "renew_grant" && clock.now() < back).then_some(Fault::Before));
        let processes = [world.process(1), world.process(2)];
        let mut asking = JoinSet::new();
        for process in &processes {
            let source = process.source.clone();
            asking.spawn(async move { source.credential("acme".into()).await });
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let case = format!("{travel} s each way, the store away for {away} s");
        loop {
            let row = world.row().await;
            if row.generation > 1 {
                break;
            }
            let left = row.held_until.expect(&case).since(world.clock.now());
            assert!(left >= Duration::from_secs(15), "{case}: one stumble of the store and it is lost: {left:?} left");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        while let Some(given) = asking.join_next().await {
            assert_eq!(sent(&given.unwrap().expect(&case)), "access-2", "{case}");
        }
        assert_eq!((world.provider.requests(), world.row().await.state), (1, GrantState::Live), "{case}");
    }
}

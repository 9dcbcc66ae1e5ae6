//! What a worker holds, and how it lets go: a clock that is set while jobs run, and settlements the store refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use super::world::*;
use crate::clock::TokioClock;
use crate::metrics::Metrics;
use crate::random::SeededRandom;
use crate::store::*;
use crate::worker::*;

const SECOND: Duration = Duration::from_secs(1);

// ------------------------------------------------------------------------------------------- a clock that is set

/// Moves with tokio's time, and is set by hand.
#[derive(Debug)]
struct SetClock {
    moves: TokioClock,
    ahead_ms: AtomicI64,
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.moves.now().0 + self.ahead_ms.load(Ordering::SeqCst))
    }
}

/// How often a handler was begun, and how often it came to its end.
#[derive(Default)]
struct Counts {
    begun: AtomicU32,
    ended: AtomicU32,
}

impl Counts {
    fn of(&self) -> (u32, u32) {
        (self.begun.load(Ordering::SeqCst), self.ended.load(Ordering::SeqCst))
    }
}

/// Sets the clock by `ahead_ms` while six jobs of 100 seconds run, and lets a seventh come. Whether the leases can be
/// renewed at that moment is `renews`. Returns how often handlers were begun and ended, how many effects there were
/// 110 seconds later, and what the worker lost.
async fn set_while_working(ahead_ms: i64, renews: bool) -> ((u32, u32), usize, u64) {
    let world = World::new().await;
    let clock = Arc::new(SetClock { moves: *world.clock, ahead_ms: AtomicI64::new(0) });
    let counts = Arc::new(Counts::default());
    let counted = counts.clone();
    let slow = handler(move |event, context| {
        let counts = counted.clone();
        Box::pin(async move {
            counts.begun.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(100 * SECOND).await;
            counts.ended.fetch_add(1, Ordering::SeqCst);
            context.effect("INSERT", vec![event.event.id.as_str().into()]);
            Handled::Done
        })
    });
    let metrics = Metrics::default();
    let worker = Worker::builder(world.store.clone(), clock.clone(), Arc::new(SeededRandom::new(1)))
        .settings(WorkerSettings { handler_timeout: 200 * SECOND, ..settings() })
        .metrics(metrics.clone())
        .provider(Arc::new(world.fake.clone()), Arc::new(world.fake.clone()))
        .on("fake", "*", slow)
        .build()
        .unwrap();
    let put = |n: u32| world.fake.put(&format!("t{n}"), Some(1));
    let (stop, stopped) = watch::channel(false);
    tokio::join!(worker.run(Queue::Events, stopped), async {
        for n in 0..6 {
            world.deliver(&[put(n)]).await;
        }
        world.wait(SECOND).await;
        clock.ahead_ms.store(ahead_ms, Ordering::SeqCst);
        if !renews {
            world.store.layer.failing(|name| (name == "extend").then_some(Fault::Before));
        }
        world.deliver(&[put(6)]).await;
        world.wait(SECOND).await;
        world.store.layer.healed();
        world.wait(110 * SECOND).await;
        stop.send(true).unwrap();
    });
    assert_eq!(world.store.inner.job_counts().await.unwrap(), JobCounts { waiting: 0, running: 0, dead: 0 });
    let lost = [("queue", "events"), ("end", "lost")];
    let lost = metrics.counter("palisade_job_attempts", "", &lost).value();
    (counts.of(), world.store.inner.effects().len(), lost)
}

/// Fails when the leases are not renewed before the next claim (take `was_set` away, or begin the claim first): all six
/// are begun again.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_takes_no_job_from_its_worker() {
    for ahead in [0, 19 * 1_000, 61 * 1_000, 5 * 60 * 1_000, 400 * 86_400 * 1_000, -3_600 * 1_000] {
        assert_eq!(set_while_working(ahead, true).await, ((7, 7), 7, 0), "set by {ahead} ms");
    }
}

/// Fails when what was under way by the first lease is not dropped (no abort in `keep`: 13 end), or its end lets go of
/// the second (`let_go` by the job's id: nobody renews that, and the job is begun a third time).
#[tokio::test(start_paused = true)]
async fn a_job_claimed_again_by_its_own_worker_runs_once_from_then_on() {
    assert_eq!(set_while_working(5 * 60 * 1_000, false).await, ((13, 7), 7, 6));
}

// ----------------------------------------------------------------------------------------- refused settlements

/// A world of `events` events that are handled at once, whose calls of `settle` end as `hook` says of their numbers.
async fn refusing(
    events: u32,
    settings: WorkerSettings,
    mut hook: impl FnMut(u32) -> bool + Send + 'static,
) -> (World, Arc<AtomicU32>) {
    let writes = handler(|event, context| {
        Box::pin(async move {
            tokio::time::sleep(SECOND / 100).await;
            context.effect("INSERT", vec![event.event.id.as_str().into()]);
            Handled::Done
        })
    });
    let world = World::with(settings, |builder| builder.on("fake", "*", writes)).await;
    for n in 0..events {
        let n = world.fake.put(&format!("t{n}"), Some(1));
        world.deliver(&[n]).await;
    }
    let settles = Arc::new(AtomicU32::new(0));
    let counted = settles.clone();
    world.store.layer.failing(move |name| {
        let refused = name == "settle" && hook(counted.fetch_add(1, Ordering::SeqCst));
        refused.then_some(Fault::Refused)
    });
    (world, settles)
}

async fn works(world: &World, check: impl Future<Output = ()>) {
    let (stop, stopped) = watch::channel(false);
    tokio::join!(world.worker.run(Queue::Events, stopped), async {
        check.await;
        stop.send(true).unwrap();
    });
}

const UNSETTLED: &str = "it could not be settled: the disk is gone (store)";

/// Fails when a batch that is refused is sent whole again, or its settlements are dropped or all tried again: of six that
/// end together only the one that is refused alone comes again.
#[tokio::test(start_paused = true)]
async fn one_settlement_that_is_refused_holds_up_no_other() {
    // The six together, and then the third by itself.
    let (world, settles) = refusing(6, settings(), |n| n == 0 || n == 3).await;
    works(&world, async {
        world.wait(SECOND / 2).await;
        assert_eq!(world.store.inner.effects().len(), 5, "after {} calls", settles.load(Ordering::SeqCst));
        let states = world.event_states().await;
        let pending: Vec<_> = states.iter().filter(|(state, _)| *state == EventState::Pending).collect();
        assert_eq!(pending, [&(EventState::Pending, Some(UNSETTLED.to_owned()))]);
        assert_eq!(settles.load(Ordering::SeqCst), 1 + 6 + 1, "together, each alone, and the one's retry");
        world.wait(600 * SECOND).await;
        assert_eq!(world.store.inner.effects().len(), 6, "and in the end that one too");
    })
    .await;
    assert_eq!(world.store.inner.job_counts().await.unwrap(), JobCounts { waiting: 0, running: 0, dead: 0 });
}

/// Fails when a refused settlement does not count as an attempt: it would come again for ever.
#[tokio::test(start_paused = true)]
async fn a_job_that_can_never_be_settled_is_dead_in_the_end() {
    // Whatever a job comes to is refused, and its retry is not.
    let (world, settles) = refusing(1, settings(), |n| n % 2 == 0).await;
    works(&world, world.wait(3_600 * SECOND)).await;
    assert_eq!(world.event_states().await, [(EventState::Dead, Some(UNSETTLED.to_owned()))]);
    assert_eq!(settles.load(Ordering::SeqCst), 2 * settings().attempts_max);
}

/// Fails when a job whose retry is refused as well is held for ever: its lease must run out, and be claimed again.
#[tokio::test(start_paused = true)]
async fn a_job_of_which_nothing_can_be_settled_is_let_go() {
    let (world, settles) = refusing(1, settings(), |n| n < 4).await;
    works(&world, async {
        world.wait(30 * SECOND).await;
        assert_eq!(settles.load(Ordering::SeqCst), 2, "what it came to and its retry, and no more");
        world.wait(200 * SECOND).await;
    })
    .await;
    assert_eq!(settles.load(Ordering::SeqCst), 5);
    assert_eq!(world.store.inner.effects().len(), 1);
    assert_eq!(world.event_states().await, [(EventState::Done, None)]);
}

//! Replays by filter: their jobs, and what is told of them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::world::*;
use crate::store::*;
use crate::worker::*;

/// A world whose handler was given three events so far, and how often it was given any.
async fn handled() -> (World, Arc<AtomicU32>) {
    let given = Arc::new(AtomicU32::new(0));
    let counts = Arc::clone(&given);
    let counting = handler(move |_, _| {
        counts.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Handled::Done })
    });
    let world = World::with(settings(), |builder| builder.on("fake", "*", counting)).await;
    let events: Vec<usize> = (0..3).map(|n| world.fake.put(&format!("t{n}"), Some(1))).collect();
    world.deliver(&events).await;
    world.quiet().await;
    assert_eq!(given.swap(0, Ordering::SeqCst), 3);
    (world, given)
}

/// A delivery of events that no handler wants.
fn unwanted(received_at: Timestamp, numbers: std::ops::Range<i64>) -> NewDelivery {
    let event = |n: i64| NewEvent {
        id: format!("unwanted-{n}").into(),
        kind: "nobody.asked".to_owned(),
        subscription: None,
        account: None,
        created: None,
        ordering_key: None,
        payload: None,
        wanted: false,
        priority: 0,
    };
    NewDelivery {
        endpoint: "conn".into(),
        connection: "conn".into(),
        provider: "fake".to_owned(),
        received_at,
        headers: Vec::new(),
        body: Default::default(),
        events: numbers.map(event).collect(),
    }
}

fn done() -> ReplayFilter {
    ReplayFilter { state: Some(EventState::Done), ..ReplayFilter::default() }
}

/// Works until the replay is told as given up.
async fn died(world: &World, key: &str) -> ReplayStatus {
    for _ in 0..200 {
        world.worker.step(Queue::Background).await.unwrap();
        let status = world.worker.replay_progress(key).await.unwrap().expect("it is told until it has come to its end");
        if status.died {
            return status;
        }
        world.wait(Duration::from_secs(3_600)).await;
    }
    panic!("it goes on for ever");
}

/// Fails when a replay that was given up is told as one that came to its end, when it is lost, begins anew or stays given
/// up when it is asked for again, when it leaves out what came in meanwhile, or when its error is not told.
#[tokio::test(start_paused = true)]
async fn a_replay_that_was_given_up_says_so_and_goes_on_when_asked_again() {
    let (world, given) = handled().await;
    let key = world.worker.replay(done()).await.unwrap();
    world.store.layer.failing(|name| (name == "replay_some").then_some(Fault::Before));
    let status = died(&world, &key).await;
    assert_eq!(status.progress, ReplayProgress { after: EventRow(0), replayed: 0 });
    assert!(status.error.as_deref().is_some_and(|error| error.contains("the disk is gone")), "{status:?}");
    world.store.layer.healed();
    world.wait(Duration::from_secs(86_400)).await;
    world.quiet().await;
    assert_eq!(given.load(Ordering::SeqCst), 0, "not by itself");
    // What comes in before it is asked for again is meant too.
    let later = world.fake.put("t000", Some(1));
    world.deliver(&[later]).await;
    world.quiet().await;
    assert_eq!(given.swap(0, Ordering::SeqCst), 1);
    assert_eq!(world.worker.replay(done()).await.unwrap(), key);
    let again = world.worker.replay_progress(&key).await.unwrap().unwrap();
    assert!(!again.died, "{again:?}");
    world.quiet().await;
    assert_eq!(given.load(Ordering::SeqCst), 4);
    assert_eq!(world.worker.replay_progress(&key).await.unwrap(), None, "it has come to its end");
}

/// Fails when a replay whose workers were lost dies untold, or one that was given up is told, or done, for ever.
#[tokio::test(start_paused = true)]
async fn what_was_given_up_is_told_as_long_as_ended_jobs_are_kept() {
    let (world, given) = handled().await;
    let key = world.worker.replay(done()).await.unwrap();
    for _ in 0..20 {
        let hold = Duration::from_secs(1);
        let claim = Claim { now: world.clock.now(), hold, max: 9, queue: Queue::Background, room: Default::default() };
        world.store.inner.claim(claim).await.unwrap();
        world.wait(Duration::from_secs(2)).await;
    }
    let status = died(&world, &key).await;
    assert_eq!(status.error.as_deref(), Some(WORKER_LOST));
    world.wait(settings().retention - Duration::from_secs(7_200)).await;
    assert!(world.worker.replay_progress(&key).await.unwrap().is_some_and(|status| status.died));
    world.wait(Duration::from_secs(10_800)).await;
    world.quiet().await;
    assert_eq!(world.worker.replay_progress(&key).await.unwrap(), None);
    assert_eq!(given.load(Ordering::SeqCst), 0, "nothing was replayed");
}

/// Fails when a replay that names no end follows what comes in while it runs, leaves out what was here when it was asked
/// for, also where the clock was set back since, or is another one when it is asked for twice.
#[tokio::test(start_paused = true)]
async fn a_replay_ends_with_what_was_here_when_it_was_asked_for() {
    let (world, given) = handled().await;
    let ignored = ReplayFilter { state: Some(EventState::Ignored), ..ReplayFilter::default() };
    let now = world.clock.now();
    // More than one job of a replay takes; the newest came while the clock was ahead.
    world.store.inner.append(vec![unwanted(now, 0..2_400)]).await.unwrap();
    world.store.inner.append(vec![unwanted(now.plus(Duration::from_secs(60)), 2_400..2_500)]).await.unwrap();
    let key = world.worker.replay(ignored.clone()).await.unwrap();
    world.worker.step(Queue::Background).await.unwrap();
    let status = world.worker.replay_progress(&key).await.unwrap().expect("it is not at its end");
    assert_eq!(status.progress.replayed, 2_000);
    world.wait(Duration::from_secs(61)).await;
    world.store.inner.append(vec![unwanted(world.clock.now(), 2_500..2_700)]).await.unwrap();
    assert_eq!(world.worker.replay(ignored.clone()).await.unwrap(), key, "it is under way");
    world.quiet().await;
    assert_eq!(world.worker.replay_progress(&key).await.unwrap(), None, "it has come to its end");
    assert_eq!(given.swap(0, Ordering::SeqCst), 2_500);
    let left = world.worker.count_replay(&ignored, EventRow(0), u64::MAX).await.unwrap();
    assert_eq!(left.events, 200, "they came later");
    // What is asked for by then has them; a sooner end stays.
    let sooner = ReplayFilter { to: Some(now), ..ignored.clone() };
    world.worker.replay(sooner).await.unwrap();
    world.quiet().await;
    assert_eq!(given.load(Ordering::SeqCst), 0);
    world.worker.replay(ignored).await.unwrap();
    world.quiet().await;
    assert_eq!(given.load(Ordering::SeqCst), 200);
}

/// Fails when a replay ends where there is nothing to replay for longer than a step, or a job of it reads without end.
#[tokio::test(start_paused = true)]
async fn a_replay_goes_on_behind_what_it_passes_over() {
    let (world, given) = handled().await;
    let delivery = unwanted(world.clock.now(), 0..REPLAY_WALKED * 5 / 2);
    world.store.inner.append(vec![delivery]).await.unwrap();
    let last = world.fake.put("t9", Some(1));
    world.deliver(&[last]).await;
    world.quiet().await;
    given.store(0, Ordering::SeqCst);
    let key = world.worker.replay(done()).await.unwrap();
    world.quiet().await;
    assert_eq!(given.load(Ordering::SeqCst), 4);
    assert_eq!(world.worker.replay_progress(&key).await.unwrap(), None);
    let counted = world.worker.count_replay(&done(), EventRow(0), 1).await.unwrap();
    assert_eq!(counted, Counted { events: 3, next: Some(EventRow(REPLAY_WALKED)) }, "one step, and where it ended");
    let rest = world.worker.count_replay(&done(), EventRow(REPLAY_WALKED), u64::MAX).await.unwrap();
    assert_eq!(rest, Counted { events: 1, next: None });
}

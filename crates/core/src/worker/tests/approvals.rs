//! Approved deletions whose run is interrupted: no other run of the stream takes its place, or its approval.

use std::time::Duration;

use super::world::*;
use crate::error::ErrorKind;
use crate::store::*;
use crate::worker::*;

const MANY: u64 = 40;

/// A world of which a run waits for the review of a hundred deletions; `MANY` things are left.
async fn in_review() -> (World, Run) {
    let world = World::new().await;
    world.fake.truth().things_have_position = true;
    for n in 0..100 + MANY {
        world.fake.put(&format!("t{n:03}"), Some(n));
    }
    // Older than every other job of the stream, and not due before it is asked for.
    let key = schedule::stream_key(&"conn".into(), THINGS);
    let later = NewJob {
        unique: Some("sync/incremental/conn/things".to_owned()),
        run_at: world.clock.now().plus(Duration::from_secs(999 * 86_400)),
        ..job(Work::Sync { key, mode: RunMode::Incremental })
    };
    world.store.enqueue(vec![later]).await.unwrap();
    world.connect().await;
    world.quiet().await;
    world.fake.truth().things.retain(|id, _| id.as_str() >= "t100");
    world.wait(Duration::from_secs(10)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.quiet().await;
    let run = world.runs().await.remove(0);
    assert_eq!(run.state, RunState::Review { deletions: 100 });
    (world, run)
}

/// A job in the lane of the runs of things.
fn job(work: Work) -> NewJob {
    NewJob {
        work,
        lane: Some("sync/conn/things".to_owned()),
        group: None,
        tenant: None,
        unique: None,
        priority: 0,
        run_at: START,
        attempts_max: 9,
    }
}

/// Works until nothing waits that was asked for, a few seconds at a time.
async fn works(world: &World) {
    for _ in 0..200 {
        world.worker.step(Queue::Background).await.unwrap();
        world.wait(Duration::from_secs(5)).await;
    }
    world.fake.truth().every_other = None;
    world.quiet().await;
}

/// The runs of things that are newer than one, oldest first.
async fn since(world: &World, run: &Run) -> Vec<Run> {
    let mut runs = world.runs().await;
    runs.retain(|newer| newer.id > run.id && newer.key == run.key);
    runs.reverse();
    runs
}

/// Fails when a run that was added before the approved one, and whose turn comes while that waits for its next page, cuts
/// it off, or ends it without its approval; or when what was asked for meanwhile does not come at all.
#[tokio::test(start_paused = true)]
async fn no_run_overtakes_an_approved_one() {
    for mode in [RunMode::Incremental, RunMode::Full] {
        let (world, run) = in_review().await;
        world.fake.truth().every_other =
            Some(|| Error::new(ErrorKind::Throttled, "slow down").with_retry_after(Some(Duration::from_secs(30))));
        world.worker.approve(run.id).await.unwrap();
        for _ in 0..3 {
            world.worker.step(Queue::Background).await.unwrap();
            world.wait(Duration::from_secs(31)).await;
        }
        let begun = since(&world, &run).await;
        assert_eq!((begun.len(), &begun[0].state), (1, &RunState::Running), "{mode:?}");
        // Its job is older than the approved one's, and would come first.
        world.worker.sync_now(&"conn".into(), &THINGS.into(), mode).await.unwrap();
        world.wait(Duration::from_secs(1)).await;
        works(&world).await;
        let runs = since(&world, &run).await;
        assert_eq!((runs[0].id, &runs[0].state), (begun[0].id, &RunState::Done), "{mode:?}: it went on to its end");
        assert_eq!(runs[0].counts.deleted, 100, "{mode:?}");
        assert_eq!(world.stream(THINGS).await.records, MANY, "{mode:?}");
        // The scheduled one that follows may be at work.
        let goes_well = |run: &Run| matches!(run.state, RunState::Done | RunState::Running);
        assert!(runs.iter().all(goes_well), "{mode:?}: none was cut off: {runs:?}");
        let asked = mode == RunMode::Incremental;
        assert!(
            !asked || runs.iter().skip(1).any(|run| run.mode == mode),
            "{mode:?}: what was asked for came after it"
        );
    }
}

/// Fails when an approved run that was paused goes on without its approval when it is resumed, and waits for another.
#[tokio::test(start_paused = true)]
async fn an_approved_run_that_was_paused_keeps_its_approval() {
    let (world, run) = in_review().await;
    world.fake.truth().delay = Duration::from_secs(1);
    world.worker.approve(run.id).await.unwrap();
    let worker = world.worker.clone();
    let (done, ()) = tokio::join!(worker.step(Queue::Background), async {
        world.wait(Duration::from_millis(2_500)).await;
        world.worker.pause_stream(&"conn".into(), &THINGS.into()).await.unwrap();
    });
    done.unwrap();
    world.fake.truth().delay = Duration::ZERO;
    let begun = since(&world, &run).await;
    assert_eq!((begun.len(), &begun[0].state), (1, &RunState::Running));
    world.worker.resume_stream(&"conn".into(), &THINGS.into()).await.unwrap();
    world.quiet().await;
    let runs = since(&world, &run).await;
    assert_eq!((runs[0].id, &runs[0].state, runs[0].counts.deleted), (begun[0].id, &RunState::Done, 100));
    assert!(runs.iter().all(|run| run.state == RunState::Done), "none waits for a review: {runs:?}");
}

/// Fails when an approval of another number is taken and not heeded, or when the same one cannot be repeated.
#[tokio::test(start_paused = true)]
async fn an_approval_that_cannot_be_heeded_is_refused() {
    for (known, refused) in [(100, None), (7, Some(ErrorKind::Conflict))] {
        let (world, run) = in_review().await;
        let approved = NewJob {
            unique: Some("sync/approved/conn/things".to_owned()),
            run_at: world.clock.now(),
            ..job(Work::Approved { key: run.key.clone(), deletions: known })
        };
        world.store.enqueue(vec![approved]).await.unwrap();
        let approved = world.worker.approve(run.id).await;
        assert_eq!(approved.err().map(|error| error.kind()), refused, "{known}");
        world.quiet().await;
        let records = if refused.is_none() { MANY } else { 100 + MANY };
        assert_eq!(world.stream(THINGS).await.records, records, "{known}");
    }
}

/// Fails when an incremental run that comes behind a full one is asked for again and again meanwhile, or never comes.
#[tokio::test(start_paused = true)]
async fn an_incremental_run_waits_for_a_full_one_that_is_interrupted() {
    let (world, run) = in_review().await;
    world.fake.truth().every_other =
        Some(|| Error::new(ErrorKind::Throttled, "slow down").with_retry_after(Some(Duration::from_secs(30))));
    world.worker.dismiss(run.id).await.unwrap();
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.worker.step(Queue::Background).await.unwrap();
    world.wait(Duration::from_secs(10)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Incremental).await.unwrap();
    let mut worked = 0;
    for _ in 0..10 {
        worked += world.worker.step(Queue::Background).await.unwrap();
    }
    assert!(worked <= 2, "it stood back once: {worked} jobs while nothing was due");
    works(&world).await;
    let runs = since(&world, &run).await;
    let modes: Vec<_> = runs.iter().map(|run| run.mode).collect();
    assert_eq!(modes[..2], [RunMode::Full, RunMode::Incremental], "{runs:?}");
    assert_eq!(runs[0].state, RunState::Review { deletions: 100 });
}

/// Fails when the review of a stream that is no longer copied stays for ever, when its records go with it, or when that of a
/// stream that is copied ends by itself.
#[tokio::test(start_paused = true)]
async fn a_review_ends_with_its_stream() {
    let (world, run) = in_review().await;
    let look = async || {
        world.worker.inner.look_over(None, 100).await.unwrap();
        world.store.run(run.id).await.unwrap().unwrap()
    };
    assert_eq!(look().await.state, RunState::Review { deletions: 100 });
    world.fake.truth().lists_no_things = true;
    let ended = look().await;
    let RunState::Failed { kind: ErrorKind::Cancelled, reason } = &ended.state else { panic!("{:?}", ended.state) };
    assert!(reason.contains("no longer copied"), "{reason}");
    assert_eq!(ended.finished_at, Some(world.clock.now()));
    let status = world.store.stream(run.key.clone()).await.unwrap();
    assert_eq!(status.records, 100 + MANY);
}

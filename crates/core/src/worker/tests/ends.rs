//! The end of a full run with more to delete than one commit may: what happens between two of them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::syncs::filled;
use super::world::*;
use crate::store::*;
use crate::sync::Stop;
use crate::sync::driver::DELETED_AT_ONCE;
use crate::worker::*;

const SECOND: Duration = Duration::from_secs(1);

/// Things the provider has no more: three commits' worth.
const GONE: u64 = 36;

/// A world with a full run to come that finds all but four of its things missing.
async fn about_to_end() -> World {
    assert!(GONE > u64::from(DELETED_AT_ONCE) * 2 && GONE < u64::from(DELETED_AT_ONCE) * 3, "three commits");
    let world = filled(GONE + 4).await;
    world.connect().await;
    world.quiet().await;
    world.fake.truth().things.retain(|id, _| id.as_str() >= "t036");
    world.wait(10 * SECOND).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world
}

/// The newest full run of things.
async fn full_run(world: &World) -> Run {
    world.runs().await.into_iter().find(|run| run.mode == RunMode::Full).unwrap()
}

/// Each commit of a run's end takes two seconds, the first of which it has not begun.
fn slow(world: &World) {
    world.store.layer.slowed(|name| if name == "end_run" { SECOND } else { Duration::ZERO });
}

/// Fails when whoever takes a run up deletes none of what is left, counts what was deleted once more, shows the feed other
/// tombstones, or reads more than the page at hand again.
#[tokio::test(start_paused = true)]
async fn a_worker_killed_between_two_deletions_costs_none_of_them() {
    let entry = |entry: FeedEntry| (entry.record.id, entry.record.seq, entry.kind);
    let undisturbed = about_to_end().await;
    undisturbed.quiet().await;
    let feed: Vec<_> = undisturbed.feed().await.into_iter().map(entry).collect();
    let requests = undisturbed.requests();
    let mut between = BTreeSet::new();
    for times in 0.. {
        let world = about_to_end().await;
        world.store.layer.yielding();
        let whole = killed_after(times, world.quiet()).await.is_some();
        let killed = full_run(&world).await;
        if killed.state == RunState::Running {
            between.insert(killed.counts.deleted);
            assert_eq!(world.stream(THINGS).await.records, GONE + 4 - killed.counts.deleted);
        }
        world.wait(61 * SECOND).await;
        world.quiet().await;
        let run = full_run(&world).await;
        assert_eq!((run.state, run.counts.deleted), (RunState::Done, GONE), "after {times} yields");
        assert_eq!(world.feed().await.into_iter().map(entry).collect::<Vec<_>>(), feed, "after {times} yields");
        let again = world.requests() - requests;
        assert!(again <= 2, "after {times} yields it read {again} pages again");
        if whole {
            break;
        }
    }
    assert_eq!(between, [0, 16, 32].into(), "it was killed before, between and after its deletions");
}

/// Fails when the lease is not renewed between two deletions: another worker would take the run from one that is well.
#[tokio::test(start_paused = true)]
async fn an_end_that_takes_longer_than_a_lease_keeps_it() {
    let world = about_to_end().await;
    world.store.layer.slowed(|name| if name == "end_run" { 20 * SECOND } else { Duration::ZERO });
    let (stop, stopped) = watch::channel(false);
    tokio::join!(world.worker.run(Queue::Background, stopped), async {
        world.wait(300 * SECOND).await;
        stop.send(true).unwrap();
    });
    let run = full_run(&world).await;
    assert_eq!((&run.state, run.resumed, run.counts.deleted), (&RunState::Done, 0, GONE));
    assert!(run.elapsed() > settings().hold, "{:?}", run.elapsed());
    world.check_equal(&world.held().await);
}

/// Fails when a run goes on deleting though its stream was paused or the worker asked to stop, or does not go on with what
/// is left.
#[tokio::test(start_paused = true)]
async fn an_end_stops_between_two_deletions_and_goes_on_there() {
    for pauses in [true, false] {
        let world = about_to_end().await;
        slow(&world);
        let (stop, stopped) = watch::channel(false);
        tokio::join!(world.worker.run(Queue::Background, stopped), async {
            world.wait(SECOND / 2).await;
            if pauses {
                world.worker.pause_stream(&"conn".into(), &THINGS.into()).await.unwrap();
                world.wait(10 * SECOND).await;
            }
            stop.send(true).unwrap();
        });
        let run = full_run(&world).await;
        assert_eq!((&run.state, run.counts.deleted), (&RunState::Running, 16), "paused: {pauses}");
        assert_eq!(run.stop, pauses.then_some(Stop::Paused));
        if pauses {
            world.worker.resume_stream(&"conn".into(), &THINGS.into()).await.unwrap();
        }
        world.quiet().await;
        let run = full_run(&world).await;
        assert_eq!((&run.state, run.counts.deleted), (&RunState::Done, GONE), "paused: {pauses}");
        world.check_equal(&world.held().await);
    }
}

/// Fails when what was missing when the end began is deleted though a webhook told of it since.
#[tokio::test(start_paused = true)]
async fn what_is_heard_of_between_two_deletions_is_not_deleted() {
    let world = about_to_end().await;
    slow(&world);
    let worker = world.worker.clone();
    let (done, ()) = tokio::join!(worker.step(Queue::Background), async {
        world.wait(SECOND * 5 / 2).await;
        let back = [world.fake.put("t020", Some(20)), world.fake.put("t030", Some(99))];
        world.deliver(&back).await;
        world.worker.step(Queue::Events).await.unwrap();
    });
    assert!(done.unwrap() > 0);
    let run = full_run(&world).await;
    assert_eq!((run.state, run.counts.deleted), (RunState::Done, GONE - 2), "one confirmed and one changed");
    world.check_equal(&world.held().await);
}

//! Push channels: opened, renewed in time, kept through failures and crashes, and no more of them than needed.

use super::super::*;
use super::world::*;
use crate::store::{Claim, ConnectionState, Connections, JobEnd, Jobs, Room, Work};
use crate::sync::watch::WatchPlace;

const HOUR: Duration = Duration::from_secs(3_600);

fn place(secret: &str) -> WatchPlace {
    WatchPlace { address: "https://us.example/hook".to_owned(), secrets: vec!["wrong".into(), secret.into()] }
}

fn placed(builder: WorkerBuilder) -> WorkerBuilder {
    let elsewhere = WatchPlace { address: "https://us.example/other".to_owned(), secrets: Vec::new() };
    builder.watch_places(move |_| vec![elsewhere.clone(), place("right")])
}

async fn watched() -> World {
    let world = World::with(settings(), placed).await;
    world.connect().await;
    world.quiet().await;
    world
}

impl World {
    /// The channels that live.
    fn live(&self) -> Vec<String> {
        let now = self.clock.now();
        let live = |(name, end): (&String, &Timestamp)| (*end > now).then(|| name.clone());
        self.fake.truth().channels.iter().filter_map(live).collect()
    }

    /// What was asked about channels, without their names.
    fn asked(&self) -> Vec<String> {
        let of_channels = |path: &String| path.split_once("watch?").map(|(before, _)| format!("{before}watch"));
        self.fake.truth().requests.iter().filter_map(of_channels).collect()
    }

    async fn watch(&self) -> WatchStatus {
        let statuses = self.worker.watches(&connection("conn")).await.unwrap();
        let [status] = <[WatchStatus; 1]>::try_from(statuses).unwrap();
        status
    }
}

/// Fails when the channel is renewed at its end, the old one is ended before the new one is open, or the schedules'
/// look-over asks for channels that are there.
#[tokio::test(start_paused = true)]
async fn a_channel_is_followed_by_another_at_half_its_life() {
    let world = watched().await;
    let first = world.live();
    assert_eq!((first.len(), world.asked()), (1, vec!["/watch".to_owned()]));
    let status = world.watch().await;
    assert_eq!(status.open.unwrap().channel, first.first().cloned());
    assert_eq!((status.failing, status.next_at.unwrap() <= START.plus(CHANNEL_LIFE / 2)), (None, true));
    for _ in 0..7 * 24 {
        world.wait(HOUR).await;
        world.worker.inner.look_over(None, 100).await.unwrap();
        assert!(!world.live().is_empty());
        world.quiet().await;
    }
    let (second, asked) = (world.live(), world.asked());
    assert!(second.len() == 1 && second != first);
    assert_eq!(asked, ["/watch", "/watch", "/unwatch", "/watch", "/unwatch"]);
}

/// Fails when a failure is not tried again soon, ends the old channel, is not told, or is told after it has passed.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_tried_again_while_the_old_channel_lives() {
    let world = watched().await;
    let first = world.live();
    world.wait(world.watch().await.next_at.unwrap().since(world.clock.now())).await;
    world.fake.truth().requests.clear();
    world.fake.truth().opens_no_channel = true;
    for _ in 0..40 {
        world.quiet().await;
        world.wait(Duration::from_secs(15 * 60)).await;
    }
    assert_eq!(world.live(), first);
    let status = world.watch().await;
    assert_eq!(status.failing.as_deref(), Some("the topic is not ours (permission)"));
    let tries = world.asked().len();
    assert!((20..=48).contains(&tries), "{tries} tries in ten hours");
    world.fake.truth().opens_no_channel = false;
    world.wait(Duration::from_secs(15 * 60)).await;
    world.quiet().await;
    assert_eq!((world.watch().await.failing, world.live() == first), (None, false));
}

/// Fails when what happened while no channel was open waits for the next scheduled run.
#[tokio::test(start_paused = true)]
async fn what_happened_without_a_channel_is_read_at_once() {
    let rarely = CHANNEL_LIFE * 8;
    let settings = WorkerSettings { incremental_every: rarely, full_every: rarely, ..settings() };
    let world = World::with(settings, placed).await;
    world.connect().await;
    world.quiet().await;
    // Nobody works for two lives of a channel.
    world.wait(CHANNEL_LIFE * 2).await;
    world.fake.put("a", Some(1));
    world.quiet().await;
    world.check_equal(&world.held().await);
}

/// Fails when a worker lost between the provider's answer and its commit leaves the stream without a channel, or the
/// one before it open.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_await_of_a_renewal_leaves_a_channel_that_is_known() {
    for times in 0..400 {
        let world = watched().await;
        world.store.layer.yielding();
        let first = world.live();
        world.wait(CHANNEL_LIFE / 2).await;
        let done = killed_after(times, world.quiet()).await.is_some();
        assert!(!world.live().is_empty(), "after {times}");
        world.wait(Duration::from_secs(61)).await;
        world.quiet().await;
        let open = world.watch().await.open.unwrap().channel.unwrap();
        let live = world.live();
        assert!(live.contains(&open) && !live.contains(&first[0]) && live.len() <= 2, "after {times}: {live:?}");
        if done {
            assert_eq!(live, [open]);
            assert!(times > 3, "it was never killed");
            return;
        }
    }
    panic!("a renewal without end");
}

/// Fails when channels are opened for what nobody works on, or a reconnected account keeps the old one.
#[tokio::test(start_paused = true)]
async fn only_an_active_connection_with_a_place_is_watched() {
    let nowhere = World::new().await;
    nowhere.connect().await;
    nowhere.quiet().await;
    assert_eq!((nowhere.asked(), nowhere.worker.watches(&connection("conn")).await.unwrap()), (vec![], vec![]));
    let unfit = World::with(settings(), |builder| builder.watch_places(|_| vec![place("another")])).await;
    unfit.connect().await;
    unfit.quiet().await;
    assert!(unfit.asked().is_empty(), "no secret fits");

    let world = watched().await;
    let first = world.live();
    world.connect().await;
    world.quiet().await;
    let second = world.live();
    assert!(second.len() == 1 && second != first, "connected again, opened anew");
    let put = async |state| world.store.put_connection(Connection { state, ..connection("conn") }).await.unwrap();
    put(ConnectionState::Paused).await;
    world.wait(CHANNEL_LIFE).await;
    world.quiet().await;
    assert!(world.live().is_empty());
    put(ConnectionState::Active).await;
    world.wait(HOUR).await;
    world.quiet().await;
    assert_eq!(world.live().len(), 1, "active again, watched again");
    put(ConnectionState::Disconnected).await;
    world.wait(CHANNEL_LIFE).await;
    world.quiet().await;
    world.worker.inner.look_over(None, 100).await.unwrap();
    world.quiet().await;
    assert_eq!((world.live(), world.watch().await.next_at), (vec![], None));
    let disconnected = Connection { state: ConnectionState::Disconnected, ..connection("conn") };
    let status = world.worker.watches(&disconnected).await.unwrap().remove(0);
    assert_eq!(status.failing, None, "nobody should ask for one");
}

/// Fails when a channel whose job was given up looks as if all were well, or is not asked for again.
#[tokio::test(start_paused = true)]
async fn a_channel_that_was_given_up_is_told_until_it_is_asked_for_again() {
    let world = watched().await;
    world.wait(world.watch().await.next_at.unwrap().since(world.clock.now())).await;
    let (now, room) = (world.clock.now(), Room::default());
    let claim = Claim { now, hold: Duration::from_secs(1), max: 64, queue: Queue::Background, room };
    for claimed in world.store.inner.claim(claim).await.unwrap() {
        let dead = matches!(claimed.work, Work::Watch { .. });
        let end = if dead { JobEnd::Dead { reason: "too often".to_owned() } } else { JobEnd::Release };
        let settlement = world.worker.inner.settlement(claimed.lease, end);
        world.store.inner.settle(vec![settlement]).await.unwrap();
    }
    let status = world.watch().await;
    assert!(status.next_at.is_none() && status.failing.is_some(), "{status:?}");
    world.worker.inner.look_over(None, 100).await.unwrap();
    world.quiet().await;
    let status = world.watch().await;
    assert!(status.open.is_some() && status.failing.is_none(), "{status:?}");
}

/// Fails when a channel goes on telling a hub that does not listen any more, or a lost job is not made again.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_gone_ends_its_channel_and_one_that_comes_is_watched() {
    let world = watched().await;
    let deaf = world.other(|builder| builder);
    world.wait(CHANNEL_LIFE / 2).await;
    while deaf.step(Queue::Background).await.unwrap() > 0 {}
    assert!(world.live().is_empty());
    assert_eq!(world.store.inner.live_jobs(vec!["watch/conn/events".to_owned()]).await.unwrap(), [None]);
    world.worker.inner.look_over(None, 100).await.unwrap();
    world.quiet().await;
    assert_eq!(world.live().len(), 1);
}

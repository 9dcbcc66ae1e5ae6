//! Schedules at work: set and heeded at once, growing while nothing changes, missed, lost, under clocks that are set.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use bytes::Bytes;

use super::super::*;
use super::world::*;
use crate::clock::TokioClock;
use crate::random::SeededRandom;
use crate::store::faulty::Faulty;
use crate::store::*;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

impl World {
    async fn timing(&self, stream: &str, mode: RunMode) -> Timing {
        let timings = self.worker.schedules(&connection("conn")).await.unwrap();
        let timings = timings.into_iter().find(|one| one.stream.as_str() == stream).unwrap();
        let timing = if mode == RunMode::Full { timings.full } else { timings.incremental };
        timing.unwrap()
    }

    async fn next_in(&self, stream: &str, mode: RunMode) -> Duration {
        self.timing(stream, mode).await.next_at.unwrap().since(self.clock.now())
    }

    async fn set(&self, stream: &str, mode: RunMode, text: Option<&str>) -> Result<()> {
        let schedule: Option<Schedule> = text.map(|text| text.parse().unwrap());
        self.worker.set_schedule(&connection("conn"), &stream.into(), mode, schedule.as_ref()).await
    }

    async fn synced(more: impl FnOnce(WorkerBuilder) -> WorkerBuilder, settings: WorkerSettings) -> Self {
        let world = Self::with(settings, more).await;
        world.fake.put("a", Some(1));
        world.connect().await;
        world.quiet().await;
        world
    }
}

/// Fails when the waiting job is left where it was, or is only pulled forward.
#[tokio::test(start_paused = true)]
async fn a_schedule_that_is_set_moves_the_run_that_waits_both_ways() {
    let world = World::synced(|builder| builder, settings()).await;
    let timing = world.timing(EVENTS, RunMode::Incremental).await;
    assert_eq!((timing.said_by, timing.schedule.to_string()), (SaidBy::Settings, "15m".to_owned()));
    assert!(world.next_in(EVENTS, RunMode::Incremental).await < 23 * MINUTE);
    world.set(EVENTS, RunMode::Incremental, Some("6h")).await.unwrap();
    let timing = world.timing(EVENTS, RunMode::Incremental).await;
    assert_eq!((timing.said_by, timing.schedule.words()), (SaidBy::Stream, "every 6 hours".to_owned()));
    assert!(world.next_in(EVENTS, RunMode::Incremental).await >= 3 * HOUR, "later");
    world.set(EVENTS, RunMode::Incremental, Some("1m")).await.unwrap();
    assert!(world.next_in(EVENTS, RunMode::Incremental).await < 2 * MINUTE, "earlier");
    let runs = world.runs().await.len();
    for _ in 0..240 {
        world.wait(MINUTE / 12).await;
        world.quiet().await;
    }
    assert!((18..=21).contains(&(world.runs().await.len() - runs)), "it comes again by what is set");
    world.set(EVENTS, RunMode::Incremental, None).await.unwrap();
    assert_eq!(world.timing(EVENTS, RunMode::Incremental).await.said_by, SaidBy::Settings);
    assert!(world.next_in(EVENTS, RunMode::Incremental).await >= 7 * MINUTE, "and by the settings again");

    #[cfg(feature = "cron")]
    {
        world.set(THINGS, RunMode::Full, Some("0 3 * * * Europe/London")).await.unwrap();
        let at = world.timing(THINGS, RunMode::Full).await.next_at.unwrap();
        assert_eq!(at.seconds() % 86_400, 3 * 3_600, "London is at UTC in November");
    }
    let kind = |result: Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(world.set(EVENTS, RunMode::Full, Some("1h")).await), ErrorKind::Invalid);
    assert_eq!(kind(world.set("nothing", RunMode::Full, Some("1h")).await), ErrorKind::NotFound);
}

/// Fails when a run under way, which has chosen its next moment already, is not waited for.
#[tokio::test(start_paused = true)]
async fn a_schedule_set_while_a_run_is_under_way_is_heeded_at_its_end() {
    let world = World::synced(|builder| builder, settings()).await;
    world.fake.truth().delay = 30 * Duration::from_secs(1);
    let (stop, stopped) = watch::channel(false);
    let worker = world.worker.clone();
    tokio::join!(worker.run(Queue::Background, stopped), async {
        world.worker.sync_now(&"conn".into(), &EVENTS.into(), RunMode::Incremental).await.unwrap();
        world.wait(Duration::from_secs(5)).await;
        assert_eq!(world.store.inner.job_counts().await.unwrap().running, 1);
        world.set(EVENTS, RunMode::Incremental, Some("5h")).await.unwrap();
        world.wait(MINUTE).await;
        assert!(world.next_in(EVENTS, RunMode::Incremental).await >= 2 * HOUR, "the next one is by what was set");
        stop.send(true).unwrap();
    });
}

/// Fails when the most general rule counts, or the last of unequal ones.
#[tokio::test(start_paused = true)]
async fn of_the_rules_the_most_specific_counts() {
    let rule = |connection: Option<&str>, provider: Option<&str>, stream: Option<&str>, every: u64| ScheduleRule {
        connection: connection.map(Into::into),
        provider: provider.map(str::to_owned),
        stream: stream.map(Into::into),
        incremental: Some(Schedule::every(Duration::from_secs(every))),
        full: None,
    };
    let schedules = vec![
        rule(Some("conn"), None, Some(THINGS), 70),
        rule(Some("other"), None, Some(EVENTS), 60),
        rule(None, Some("fake"), Some(EVENTS), 50),
        rule(None, Some("another"), Some(EVENTS), 40),
        rule(None, Some("fake"), None, 30),
        rule(None, None, None, 20),
    ];
    let world = World::synced(|builder| builder, WorkerSettings { schedules: schedules.clone(), ..settings() }).await;
    let timing = world.timing(EVENTS, RunMode::Incremental).await;
    assert_eq!((timing.schedule.to_string().as_str(), timing.said_by), ("50s", SaidBy::Rule));
    assert_eq!(world.timing(THINGS, RunMode::Full).await.said_by, SaidBy::Settings, "no rule speaks of full runs");
    let own = std::iter::once(rule(Some("conn"), None, None, 45)).chain(schedules.clone()).collect();
    let owned = world.other(|builder| builder.settings(WorkerSettings { schedules: own, ..settings() }));
    let timings = owned.schedules(&connection("conn")).await.unwrap();
    let of_events = timings.into_iter().find(|one| one.stream.as_str() == EVENTS).unwrap();
    assert_eq!(of_events.incremental.unwrap().schedule.to_string(), "45s", "the connection before stream and provider");
    let other =
        world.other(|builder| builder.settings(WorkerSettings { schedules: schedules[3..].to_vec(), ..settings() }));
    let timings = other.schedules(&connection("conn")).await.unwrap();
    let of_events = timings.into_iter().find(|one| one.stream.as_str() == EVENTS).unwrap();
    assert_eq!(of_events.incremental.unwrap().schedule.to_string(), "30s");
}

/// Fails when the interval does not grow, grows beyond its bound or where a webhook tells, or stays grown after a change.
#[tokio::test(start_paused = true)]
async fn the_interval_grows_while_nothing_changes_and_comes_back_at_the_first_change() {
    let settings = || WorkerSettings { idle_max: 4 * HOUR, ..settings() };
    let told = World::synced(|builder| builder, settings()).await;
    let world = World::synced(|builder| builder.told(|_| false), settings()).await;
    let mut gaps = Vec::new();
    for world in [&told, &world] {
        let (mut runs, mut last) = (world.runs().await.len(), world.clock.now());
        gaps.clear();
        for _ in 0..30 * 60 {
            world.wait(MINUTE).await;
            world.quiet().await;
            if world.runs().await.len() > runs {
                gaps.push(world.clock.now().since(last).as_secs() / 60);
                (runs, last) = (world.runs().await.len(), world.clock.now());
            }
        }
        if std::ptr::eq(world, &told) {
            assert!(gaps.len() >= 118, "{gaps:?}");
        }
    }
    assert!(gaps.len() < 20, "{gaps:?}");
    assert!(gaps.windows(2).skip(1).all(|pair| pair[1] + 1 >= pair[0]), "it grows: {gaps:?}");
    assert!(gaps.iter().rev().take(4).all(|gap| (239..=241).contains(gap)), "up to its bound: {gaps:?}");
    let timing = world.timing(EVENTS, RunMode::Incremental).await;
    assert_eq!((timing.grown, timing.late_at(START)), (Some(4 * HOUR), START.plus(12 * HOUR)));

    world.fake.put("a", Some(2));
    let runs = world.runs().await.len();
    while world.runs().await.len() == runs {
        world.wait(MINUTE).await;
        world.quiet().await;
    }
    assert!(world.next_in(EVENTS, RunMode::Incremental).await < 23 * MINUTE, "the first change brings it back");
    assert_eq!(world.timing(EVENTS, RunMode::Incremental).await.grown, None);
    // What is set for the stream is meant as it is written.
    world.wait(DAY).await;
    world.quiet().await;
    world.set(EVENTS, RunMode::Incremental, Some("10m")).await.unwrap();
    assert_eq!(world.timing(EVENTS, RunMode::Incremental).await.grown, None);
}

/// Fails when a missed run is made up for though it is to be left out, or the other way round; or when one that somebody
/// asks for is left out.
#[cfg(feature = "cron")]
#[tokio::test(start_paused = true)]
async fn what_was_missed_comes_once_or_is_left_out() {
    for (text, made_up) in [("0 3 * * *", 1), ("0 3 * * * skip", 0)] {
        let world = World::synced(|builder| builder, settings()).await;
        world.set(THINGS, RunMode::Full, Some(text)).await.unwrap();
        let full = async || world.runs().await.iter().filter(|run| run.mode == RunMode::Full).count();
        let before = full().await;
        // Nobody works for three days and some hours.
        world.wait(3 * DAY + 5 * HOUR).await;
        world.quiet().await;
        assert_eq!(full().await - before, made_up, "{text}");
        let next = world.timing(THINGS, RunMode::Full).await.next_at.unwrap();
        assert!(next > world.clock.now() && next.seconds() % 86_400 == 3 * 3_600, "{text}");
        world.wait(world.next_in(THINGS, RunMode::Full).await + MINUTE).await;
        world.quiet().await;
        assert_eq!(full().await - before, made_up + 1, "the next tick is heeded");
        world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
        world.quiet().await;
        assert_eq!(full().await - before, made_up + 2, "what is asked for is done");
    }
}

/// Chores are done by one of many workers, and how they ended is told. Fails when each worker does them, or a failed one
/// is not tried again.
#[tokio::test(start_paused = true)]
async fn a_chore_is_done_by_one_of_many_and_its_end_is_told() {
    let done = Arc::new(AtomicUsize::new(0));
    let chore = |done: &Arc<AtomicUsize>| {
        let done = done.clone();
        move || {
            let count = done.fetch_add(1, Ordering::SeqCst);
            async move {
                if count == 1 {
                    return Err(Error::new(ErrorKind::Provider, "not now"));
                }
                Ok(format!("{count} swept"))
            }
        }
    };
    let world = World::with(settings(), |builder| builder.chore("sweep", Schedule::every(HOUR), chore(&done))).await;
    let other = world.other(|builder| builder.chore("sweep", Schedule::every(HOUR), chore(&done)));
    let (stop, stopped) = watch::channel(false);
    let (one, two, three) = (world.worker.clone(), world.worker.clone(), other.clone());
    tokio::join!(
        one.run(Queue::Background, stopped.clone()),
        two.run(Queue::Background, stopped.clone()),
        three.run(Queue::Background, stopped),
        async {
            // Each of the two processes does it at its start; the second time it fails, and comes again soon.
            let mut seen = Vec::new();
            for _ in 0..60 {
                world.wait(Duration::from_secs(1)).await;
                let statuses = world.worker.chores().await.unwrap();
                let last = statuses[2].last.clone().map(|last| (last.outcome, last.failed));
                if last.is_some() && seen.last() != last.as_ref() {
                    seen.extend(last);
                }
            }
            let wanted = [("not now".to_owned(), true), ("2 swept".to_owned(), false)];
            assert!(seen.ends_with(&wanted), "{seen:?}");
            let statuses = world.worker.chores().await.unwrap();
            let names: Vec<_> = statuses.iter().map(|status| status.name.as_str()).collect();
            assert_eq!(names, ["schedules", "rollup", "sweep", "retention"]);
            assert!(statuses.iter().all(|status| status.next_at.is_some()), "{statuses:?}");
            assert!(statuses[0].last.is_some(), "schedules were looked over");
            world.wait(10 * HOUR).await;
            stop.send(true).unwrap();
        }
    );
    assert!((12..=15).contains(&done.load(Ordering::SeqCst)), "{done:?}");
}

#[tokio::test]
async fn two_chores_of_one_name_are_refused() {
    let builder = |name: &'static str| {
        let clock = Arc::new(TokioClock::starting_at(START));
        let store: Arc<dyn Store> = Arc::new(memory::MemoryStore::new());
        Worker::builder(store, clock, Arc::new(SeededRandom::new(1)))
            .chore("mine", Schedule::every(HOUR), || async { Ok(String::new()) })
            .chore(name, Schedule::every(HOUR), || async { Ok(String::new()) })
            .build()
            .map(drop)
    };
    for name in ["mine", "retention", "schedules"] {
        assert_eq!(builder(name).unwrap_err().kind(), ErrorKind::Config, "{name}");
    }
    builder("yours").unwrap();
}

// ---------------------------------------------------------------------------------------------- many connections

/// A clock that goes with the runtime's and can be set.
#[derive(Debug)]
struct SetClock {
    under: Arc<TokioClock>,
    by: AtomicI64,
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.under.now().millis() + self.by.load(Ordering::SeqCst))
    }
}

/// Many connections of the fake provider, whose requests take a while and are counted.
struct Crowd {
    world: World,
    clock: Arc<SetClock>,
    worker: Worker,
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct Slow {
    fake: Fake,
    took: Duration,
    under_way: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl Transport for Slow {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.took).await;
        let answer = self.fake.send(request).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

impl Crowd {
    async fn new(connections: usize, concurrency: u32, took: Duration) -> Self {
        let world = World::new().await;
        let clock = Arc::new(SetClock { under: world.clock.clone(), by: AtomicI64::new(0) });
        let (under_way, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let slow = Slow { fake: world.fake.clone(), took, under_way: under_way.clone(), most: most.clone() };
        let store: Arc<Faulty> = world.store.clone();
        let worker = Worker::builder(store, clock.clone(), Arc::new(SeededRandom::new(2)))
            .settings(WorkerSettings {
                concurrency,
                poll: Duration::from_secs(20),
                retention: 10 * 365 * DAY,
                ..settings()
            })
            .provider(Arc::new(world.fake.clone()), Arc::new(slow))
            .build()
            .unwrap();
        for n in 1..connections {
            world.store.inner.put_connection(connection(&format!("conn{n:04}"))).await.unwrap();
        }
        Self { world, clock, worker, under_way, most }
    }

    /// Works for a time by the runtime's clock; calls `seen` every minute.
    async fn live(&self, time: Duration, mut seen: impl AsyncFnMut()) {
        let (stop, stopped) = watch::channel(false);
        let background = self.worker.clone();
        tokio::join!(background.run(Queue::Background, stopped), async {
            let mut left = time;
            while left > Duration::ZERO {
                let step = left.min(MINUTE);
                tokio::time::sleep(step).await;
                left -= step;
                seen().await;
            }
            stop.send(true).unwrap();
        });
    }

    async fn runs_of(&self, id: &str) -> usize {
        self.world.store.inner.runs(Some(id.into()), 10_000).await.unwrap().len()
    }

    fn set_clock(&self, by: i64) {
        self.clock.by.fetch_add(by, Ordering::SeqCst);
    }
}

/// 1,000 connections that are due at once, because a hub was down for a day: no more are under way than may be, each runs
/// once, and afterwards they are spread over the interval again. Fails when the phase is left out, or runs are made up for
/// one by one.
#[tokio::test(start_paused = true)]
async fn a_thousand_connections_due_at_once_make_no_stampede() {
    let crowd = Crowd::new(1_000, 64, Duration::from_millis(100)).await;
    crowd.live(25 * MINUTE, async || {}).await;
    let ids: Vec<String> = (1..1_000).map(|n| format!("conn{n:04}")).collect();
    let before = crowd.runs_of(&ids[0]).await;
    assert!(before > 1, "the look over the schedules has begun them: {before}");
    crowd.set_clock(i64::try_from(DAY.as_millis()).unwrap());
    crowd.most.store(0, Ordering::SeqCst);
    let mut counts = Vec::new();
    for id in &ids {
        counts.push(crowd.runs_of(id).await);
    }
    // Long enough for a thousand requests of two streams, 32 at a time, shorter than half an interval.
    crowd.live(2 * MINUTE, async || {}).await;
    let most = crowd.most.load(Ordering::SeqCst);
    // Half of the 64 places are one provider's at most.
    assert!((24..=32).contains(&most), "about as many as may be beside the chores, and no more: {most}");
    assert_eq!(crowd.under_way.load(Ordering::SeqCst), 0);
    let mut tenths = [0_u32; 10];
    for (id, before) in ids.iter().zip(counts) {
        let now = crowd.runs_of(id).await;
        assert_eq!(now - before, 1, "{id} ran once");
        let job = crowd.world.store.inner.live_jobs(vec![format!("sync/incremental/{id}/events")]).await.unwrap();
        let at = job[0].as_ref().unwrap().run_at;
        assert!(at > crowd.clock.now(), "{id}");
        tenths[usize::try_from(at.millis().rem_euclid(900_000) / 90_000).unwrap()] += 1;
    }
    assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
}

/// Clocks that are set by five minutes, by an hour or by a year, forward and back: no connection waits for longer than two
/// intervals by the time that really passes, and none runs more often than it should but once per step of the clock.
/// Fails when jobs that wait for another year are left where they are.
#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_stops_no_schedule_and_doubles_none() {
    const MINUTES: i64 = 60_000;
    const YEAR: i64 = 365 * 86_400_000;
    for steps in
        [vec![5 * MINUTES, -5 * MINUTES], vec![60 * MINUTES, -60 * MINUTES], vec![YEAR, -YEAR], vec![-YEAR, YEAR]]
    {
        let crowd = Crowd::new(20, 4, Duration::from_millis(100)).await;
        crowd.live(HOUR, async || {}).await;
        for step in &steps {
            let before = crowd.runs_of("conn0007").await;
            crowd.set_clock(*step);
            let (mut quiet, mut longest, mut seen) = (0, 0, before);
            crowd
                .live(3 * HOUR, async || {
                    let now = crowd.runs_of("conn0007").await;
                    quiet = if now > seen { 0 } else { quiet + 1 };
                    longest = longest.max(quiet);
                    seen = now;
                })
                .await;
            assert!(longest <= 31, "after {step} ms no run for {longest} minutes");
            let runs = seen - before;
            assert!(
                (10..=14).contains(&runs),
                "after {step} ms {runs} runs in three hours, one is due every 15 minutes"
            );
        }
    }
}

/// Fails when a look costs by the number of connections, forgets its place, or adds what is there.
#[tokio::test(start_paused = true)]
async fn a_look_over_many_connections_goes_in_steps_and_changes_nothing_that_is_well() {
    let crowd = Crowd::new(250, 16, Duration::from_millis(10)).await;
    let inner = &crowd.worker.inner;
    let first = inner.look_over(None, 100).await.unwrap();
    let second = inner.look_over(first.clone(), 100).await.unwrap();
    assert!(first.is_some() && second > first);
    assert_eq!(inner.look_over(second, 100).await.unwrap(), None);
    let jobs = async || crowd.world.store.inner.job_counts().await.unwrap().waiting;
    assert_eq!(jobs().await, 250, "each connection's position is read first");
    inner.look_over(None, 1_000).await.unwrap();
    assert_eq!(jobs().await, 250);
}

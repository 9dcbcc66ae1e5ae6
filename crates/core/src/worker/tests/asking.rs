//! Runs that somebody asks for, streams without a position, and runs that were begun when their connection was paused or
//! disconnected.

use std::time::Duration;

use super::syncs::filled;
use super::world::*;
use crate::error::{Error, ErrorKind};
use crate::schedule::Schedule;
use crate::store::*;
use crate::sync::Stop;
use crate::worker::*;

const HOUR: Duration = Duration::from_secs(3_600);

impl World {
    async fn ask(&self, stream: &str, mode: RunMode) -> Result<RunMode> {
        self.worker.sync_now(&"conn".into(), &stream.into(), mode).await
    }

    /// Says how the connection stands, as the hub does when it is paused or connected again.
    async fn turn(&self, state: ConnectionState) {
        self.store.put_connection(Connection { state, ..connection("conn") }).await.unwrap();
    }

    fn lists(&self) -> usize {
        self.fake.truth().requests.iter().filter(|path| path.starts_with("/things?")).count()
    }

    async fn of_things(&self) -> Vec<Run> {
        self.runs().await.into_iter().filter(|run| run.key.stream.as_str() == THINGS).collect()
    }
}

/// Fails when a stream whose changes are found by the walk over events is listed by an incremental run: because somebody
/// asks for one, or because such a job is there.
#[tokio::test(start_paused = true)]
async fn a_stream_without_a_position_is_never_listed_by_an_incremental_run() {
    let world = filled(10).await;
    world.connect().await;
    world.quiet().await;
    let error = world.ask(THINGS, RunMode::Incremental).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains(EVENTS), "{}", error.message());
    // One that an older program has left.
    let key = schedule::stream_key(&"conn".into(), THINGS);
    let job = world.worker.inner.sync_job(&key, RunMode::Incremental, When::Now);
    world.store.enqueue(vec![job]).await.unwrap();
    let lists = world.lists();
    for _ in 0..20 {
        world.quiet().await;
        world.wait(HOUR / 4).await;
    }
    assert_eq!(world.lists(), lists, "no run lists it");
    assert_eq!(world.of_things().await.len(), 1, "and none is kept");
    let unique = vec!["sync/incremental/conn/things".to_owned()];
    assert_eq!(world.store.live_jobs(unique).await.unwrap(), [None], "nor waits");
    assert_eq!(world.ask(EVENTS, RunMode::Incremental).await.unwrap(), RunMode::Incremental);
    assert_eq!(world.ask(THINGS, RunMode::Full).await.unwrap(), RunMode::Full);
}

/// Where no events are listed, what was never listed is listed in full. Fails when it is listed by an incremental run,
/// which sees no deletion.
#[tokio::test(start_paused = true)]
async fn what_was_never_listed_is_listed_in_full() {
    let world = filled(10).await;
    world.fake.truth().lists_no_events = true;
    world.fake.truth().things_have_position = true;
    assert_eq!(world.ask(THINGS, RunMode::Incremental).await.unwrap(), RunMode::Full);
    // The same, where a notice prompted it.
    let key = schedule::stream_key(&"conn".into(), THINGS);
    world.store.enqueue(world.worker.inner.prompted_jobs(&key).to_vec()).await.unwrap();
    world.quiet().await;
    let modes: Vec<_> = world.runs().await.iter().rev().map(|run| run.mode).collect();
    assert_eq!(modes[0], RunMode::Full);
    world.check_equal(&world.held().await);
    // From then on it has a position, and goes on from there.
    assert_eq!(world.ask(THINGS, RunMode::Incremental).await.unwrap(), RunMode::Incremental);
}

/// Fails when a run is taken that would not begin.
#[tokio::test(start_paused = true)]
async fn a_run_of_a_connection_that_is_not_active_is_refused() {
    let lost = ConnectionState::NeedsReconnect { reason: "revoked".to_owned() };
    for state in [ConnectionState::Paused, lost, ConnectionState::Disconnected] {
        let world = filled(3).await;
        world.connect().await;
        world.quiet().await;
        world.turn(state.clone()).await;
        let waiting = world.store.inner.job_counts().await.unwrap();
        for (stream, mode) in [(EVENTS, RunMode::Incremental), (THINGS, RunMode::Full)] {
            let error = world.ask(stream, mode).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{state:?}");
            assert!(error.message().contains("first"), "it says what to do: {}", error.message());
        }
        assert_eq!(world.store.inner.job_counts().await.unwrap(), waiting, "{state:?}");
    }
}

/// Fails when what changed behind the page that a run has read waits for the next schedule, though somebody asked for a
/// run after it had changed; or when one that asks twice gets two.
#[tokio::test(start_paused = true)]
async fn a_run_asked_for_while_one_is_under_way_comes_after_it() {
    let world = filled(10).await;
    world.connect().await;
    world.quiet().await;
    world.wait(Duration::from_secs(10)).await;
    world.fake.truth().delay = Duration::from_secs(1);
    world.ask(THINGS, RunMode::Full).await.unwrap();
    let worker = world.worker.clone();
    let (done, ()) = tokio::join!(worker.step(Queue::Background), async {
        world.wait(Duration::from_millis(2_500)).await;
        // On the first page, which is read, and told by no event.
        world.fake.truth().things.insert("t000".to_owned(), 77);
        world.ask(THINGS, RunMode::Full).await.unwrap();
        world.ask(THINGS, RunMode::Full).await.unwrap();
    });
    assert_eq!(done.unwrap(), 1);
    world.fake.truth().delay = Duration::ZERO;
    world.quiet().await;
    world.check_equal(&world.held().await);
    assert_eq!(world.of_things().await.len(), 3, "the first one, the one under way, and the one asked for");
    // While that one is at work the other key is free.
    world.fake.truth().delay = Duration::from_secs(1);
    world.ask(THINGS, RunMode::Full).await.unwrap();
    for value in [88, 99] {
        let worker = world.worker.clone();
        let (done, ()) = tokio::join!(worker.step(Queue::Background), async {
            world.wait(Duration::from_millis(2_500)).await;
            world.fake.truth().things.insert("t000".to_owned(), value);
            world.ask(THINGS, RunMode::Full).await.unwrap();
        });
        assert_eq!(done.unwrap(), 1);
    }
    world.fake.truth().delay = Duration::ZERO;
    world.quiet().await;
    world.check_equal(&world.held().await);
}

/// A full run that waits is claimed while its connection is paused, or its credential refused, so that its job waits for
/// its next turn, days off. Fails when it is not taken up at once when the connection is active again, is begun anew, or
/// is ended by an incremental run that comes first, also where nobody called [`Worker::connect`].
#[tokio::test(start_paused = true)]
async fn a_full_run_goes_on_where_it_stopped_when_its_connection_does() {
    let lost = ConnectionState::NeedsReconnect { reason: "revoked".to_owned() };
    for (state, has_position, connects) in [
        (ConnectionState::Paused, false, true),
        (ConnectionState::Paused, true, true),
        (lost.clone(), true, true),
        (lost, true, false),
    ] {
        let world = filled(10).await;
        world.fake.truth().things_have_position = has_position;
        world.connect().await;
        world.quiet().await;
        world.wait(Duration::from_secs(10)).await;
        world.ask(THINGS, RunMode::Full).await.unwrap();
        let limited = Error::new(ErrorKind::Throttled, "slow down").with_retry_after(Some(Duration::from_secs(60)));
        let plan = Mutex::new([None, Some(limited)].into_iter());
        let fake = world.fake.clone();
        world.store.layer.failing(move |name| {
            if name == "stream"
                && let Some(Some(error)) = plan.lock().unwrap().next()
            {
                fake.truth().failures.push_back(error);
            }
            None
        });
        world.quiet().await;
        world.store.layer.failing(|_| None);
        let begun = world.of_things().await.remove(0);
        assert_eq!((&begun.state, begun.mode), (&RunState::Running, RunMode::Full));
        assert!(begun.pages < 4, "{} pages", begun.pages);
        world.turn(state.clone()).await;
        world.wait(2 * HOUR).await;
        world.quiet().await;
        let lists = world.lists();
        world.turn(ConnectionState::Active).await;
        if connects {
            world.connect().await;
        } else {
            // A grant that lives again makes it active; the next incremental run comes by schedule.
            world.wait(HOUR / 2).await;
        }
        world.quiet().await;
        let runs = world.of_things().await;
        let ended = runs.iter().find(|run| run.id == begun.id).unwrap();
        assert_eq!((&ended.state, ended.pages), (&RunState::Done, 4), "{state:?}, position {has_position}");
        let pages = usize::try_from(4 - begun.pages).unwrap();
        let again = if has_position { 4 } else { 0 };
        assert_eq!(world.lists() - lists, pages + again, "{state:?}: it goes on, then the incremental run");
        world.check_equal(&world.held().await);
    }
}

/// Fails when a run of a connection that is disconnected stays under way: one that waits, or one that began just before.
#[tokio::test(start_paused = true)]
async fn no_run_outlives_its_connection() {
    for late in [false, true] {
        let world = filled(10).await;
        world.connect().await;
        world.quiet().await;
        world.ask(THINGS, RunMode::Full).await.unwrap();
        let hour = Error::new(ErrorKind::Throttled, "slow down").with_retry_after(Some(HOUR / 2));
        world.fake.truth().failures.push_back(hour);
        world.quiet().await;
        assert_eq!(world.store.inner.live_runs(9).await.unwrap().len(), 1);
        if late {
            // As if the run had begun behind it.
            world.turn(ConnectionState::Disconnected).await;
        } else {
            world.store.inner.disconnect("conn".into(), Vec::new(), world.clock.now()).await.unwrap();
            assert_eq!(world.store.inner.live_runs(9).await.unwrap(), [], "in the same commit");
        }
        let requests = world.requests();
        world.wait(HOUR).await;
        world.quiet().await;
        assert_eq!(world.requests(), requests);
        assert_eq!(world.store.inner.live_runs(9).await.unwrap(), []);
        let run = world.of_things().await.remove(0);
        let RunState::Failed { kind: ErrorKind::Cancelled, reason } = &run.state else { panic!("{:?}", run.state) };
        assert!(reason.contains("disconnected") && run.stop == Some(Stop::Superseded), "{reason}");
        let jobs = world.store.inner.job_counts().await.unwrap();
        assert_eq!(jobs, JobCounts::default(), "nothing comes again, and nothing is dead");
    }
}

/// A position expires, and the full run that follows would delete too much. Fails when the position that run leaves is
/// forgotten with its deletions: everything would be read once more.
#[tokio::test(start_paused = true)]
async fn a_run_in_review_leaves_its_position() {
    let world = filled(200).await;
    world.fake.truth().lists_no_events = true;
    world.fake.truth().things_have_position = true;
    world.connect().await;
    world.quiet().await;
    world.fake.truth().things.retain(|id, _| id.as_str() >= "t100");
    world.fake.truth().failures.push_back(Error::new(ErrorKind::CursorExpired, "too old"));
    world.wait(Duration::from_secs(10)).await;
    world.ask(THINGS, RunMode::Incremental).await.unwrap();
    world.quiet().await;
    let runs = world.runs().await;
    assert!(matches!(runs[1].state, RunState::Failed { kind: ErrorKind::CursorExpired, .. }));
    assert_eq!((runs[0].mode, &runs[0].state), (RunMode::Full, &RunState::Review { deletions: 100 }));
    assert!(world.stream(THINGS).await.cursor.is_some(), "what comes later is read from there");
}

/// Fails when a schedule is kept by which no run ever comes, or one that was kept cannot be taken back.
#[tokio::test(start_paused = true)]
async fn a_schedule_without_effect_is_refused() {
    let world = filled(3).await;
    world.connect().await;
    world.quiet().await;
    let every = Schedule::every(HOUR);
    let set = async |stream: &str, mode, schedule| {
        world.worker.set_schedule(&connection("conn"), &stream.into(), mode, schedule).await
    };
    let error = set(THINGS, RunMode::Incremental, Some(&every)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().ends_with(&format!("set the schedule of {EVENTS}")), "{}", error.message());
    assert!(world.store.scheduled("conn".into()).await.unwrap().unwrap().set.is_empty());
    for (stream, mode, schedule) in [
        (THINGS, RunMode::Full, Some(&every)),
        (EVENTS, RunMode::Incremental, Some(&every)),
        (THINGS, RunMode::Incremental, None),
    ] {
        set(stream, mode, schedule).await.unwrap();
    }
    // Where nothing lists events, a stream has incremental runs from its first full one on.
    let world = filled(3).await;
    world.fake.truth().lists_no_events = true;
    let (connection, things) = (connection("conn"), THINGS.into());
    world.worker.set_schedule(&connection, &things, RunMode::Incremental, Some(&every)).await.unwrap();
}

/// Fails when the interval of runs that come seldom is also the wait of one that broke off.
#[tokio::test(start_paused = true)]
async fn a_run_that_breaks_off_comes_again_within_a_quarter_of_an_hour() {
    let quarter = Duration::from_secs(15 * 60);
    for (every, most) in [(24 * HOUR, quarter), (quarter, quarter), (quarter / 5, quarter / 5)] {
        let settings = WorkerSettings { incremental_every: every, ..settings() };
        assert_eq!(settings.run_wait_max(), most);
        let world = World::with(settings, |builder| builder).await;
        world.fake.put("t000", Some(1));
        world.connect().await;
        for _ in 0..30 {
            world.fake.truth().failures.push_back(Error::new(ErrorKind::Timeout, "no answer"));
            world.worker.step(Queue::Background).await.unwrap();
            let live = world.store.live_jobs(vec!["sync/incremental/conn/events".to_owned()]).await.unwrap();
            let wait = live[0].as_ref().unwrap().run_at.since(world.clock.now());
            assert!(wait <= most, "it waits {wait:?}");
            world.wait(wait + Duration::from_secs(1)).await;
        }
    }
}

/// A dead letter is replayed when the tombstone of its record is gone. Fails when the record comes back.
#[tokio::test(start_paused = true)]
async fn an_old_event_brings_no_forgotten_record_back() {
    for lives in [false, true] {
        let world = filled(3).await;
        world.connect().await;
        world.quiet().await;
        let old = world.fake.put("t009", Some(9));
        world.wait(Duration::from_secs(10)).await;
        if lives {
            world.fake.put("t009", Some(10));
        } else {
            world.fake.put("t009", None);
        }
        // Whatever was told of it is forgotten by now.
        world.wait(Duration::from_secs(8 * 86_400)).await;
        let requests = world.requests();
        world.deliver(&[old]).await;
        while world.worker.step(Queue::Events).await.unwrap() > 0 {}
        let asked = world.fake.truth().requests[requests..].to_vec();
        assert_eq!(asked, ["/things/t009"], "the provider is asked");
        world.check_equal(&world.held().await);
    }
    // What is young enough is believed.
    let world = filled(3).await;
    world.connect().await;
    world.quiet().await;
    let young = world.fake.put("t009", Some(9));
    world.wait(Duration::from_secs(5 * 86_400)).await;
    let requests = world.requests();
    world.deliver(&[young]).await;
    while world.worker.step(Queue::Events).await.unwrap() > 0 {}
    assert_eq!(world.requests(), requests);
    world.check_equal(&world.held().await);
}

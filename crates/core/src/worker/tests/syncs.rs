//! Runs: the first sync, resuming after a loss anywhere, errors that wait and errors that stop.

use std::collections::BTreeSet;
use std::time::Duration;

use super::world::*;
use crate::error::{Error, ErrorKind};
use crate::store::*;
use crate::sync::Stop;
use crate::worker::*;

pub(super) async fn filled(things: u64) -> World {
    filled_with(things, settings()).await
}

pub(super) async fn filled_with(things: u64, settings: WorkerSettings) -> World {
    let world = World::with(settings, |builder| builder).await;
    for n in 0..things {
        world.fake.put(&format!("t{n:03}"), Some(n));
    }
    world
}

fn states(runs: &[Run]) -> Vec<(&str, RunMode, &RunState)> {
    runs.iter().rev().map(|run| (run.key.stream.as_str(), run.mode, &run.state)).collect()
}

/// Fails when the full run goes before the position, or a stream's next run is not made, or not for its time.
#[tokio::test(start_paused = true)]
async fn a_first_sync_reads_the_position_then_everything_and_goes_on_by_schedule() {
    let world = filled(10).await;
    world.connect().await;
    world.quiet().await;
    world.check_equal(&world.held().await);
    let runs = world.runs().await;
    let expected = [(EVENTS, RunMode::Incremental, &RunState::Done), (THINGS, RunMode::Full, &RunState::Done)];
    assert_eq!(states(&runs), expected);
    assert_eq!(runs[0].pages, 4);
    assert_eq!(runs[0].counts.added, 10);
    assert_eq!(world.stream(THINGS).await.records, 10);
    assert!(world.stream(EVENTS).await.cursor.is_some());
    // The next runs wait: the events' in 15 minutes, the full one in a week.
    assert_eq!(world.store.inner.job_counts().await.unwrap().waiting, 2);
    world.fake.put("t003", Some(99));
    world.wait(Duration::from_secs(25 * 60)).await;
    world.quiet().await;
    world.check_equal(&world.held().await);
    world.wait(Duration::from_secs(11 * 86_400)).await;
    world.quiet().await;
    let full = world.runs().await.iter().filter(|run| run.mode == RunMode::Full).count();
    assert_eq!(full, 2, "a full run once a week");
}

/// Fails when the feed repeats, a page is lost, or more pages are read again than were at hand: when the cursor is
/// committed apart from its page, or the last page's cursor is dropped before the run ends.
#[tokio::test(start_paused = true)]
async fn a_worker_killed_anywhere_costs_the_page_at_hand_and_the_one_read_ahead() {
    check_killed_anywhere(true, 2).await;
}

/// Fails as the one before does, or when a page is read ahead though that is switched off.
#[tokio::test(start_paused = true)]
async fn without_reading_ahead_a_worker_killed_anywhere_costs_one_page() {
    check_killed_anywhere(false, 1).await;
}

/// Kills the worker at each of its steps, and at each tenth of a second while pages take long to read and longer to
/// commit; a run may read so many pages again, and at some moment it does read as many.
async fn check_killed_anywhere(read_ahead: bool, pages: usize) {
    let filled = |things| filled_with(things, WorkerSettings { read_ahead, ..settings() });
    let undisturbed = filled(10).await;
    undisturbed.connect().await;
    undisturbed.quiet().await;
    let (feed, requests) = (undisturbed.feed().await, undisturbed.requests());
    let key = |entry: &FeedEntry| (entry.record.id.clone(), entry.record.data.clone(), entry.record.seq, entry.kind);
    let feed: Vec<_> = feed.iter().map(key).collect();
    // Another worker goes on; returns how many pages it read again.
    let taken_up = async |world: &World, when: &str| {
        world.wait(Duration::from_secs(61)).await;
        world.quiet().await;
        let again: Vec<_> = world.feed().await.iter().map(key).collect();
        assert_eq!(again, feed, "killed {when}");
        assert!(world.runs().await.iter().all(|run| run.state == RunState::Done));
        let more = world.requests() - requests;
        assert!(more <= pages, "killed {when}, it read {more} pages again");
        more
    };
    let mut killed = 0;
    for times in 0.. {
        let world = filled(10).await;
        world.store.layer.yielding();
        world.connect().await;
        let whole = killed_after(times, world.quiet()).await.is_some();
        taken_up(&world, &format!("after {times} yields")).await;
        if whole {
            break;
        }
        killed += 1;
    }
    assert!(killed > 50, "the worker was killed at {killed} places only");
    let (tenth, mut most) = (Duration::from_millis(100), 0);
    for times in 0.. {
        let world = filled(10).await;
        world.fake.truth().delay = tenth * 3;
        world.store.layer.slowed(move |name| if name == "commit_page" { tenth * 10 } else { Duration::ZERO });
        world.connect().await;
        let whole = tokio::time::timeout(tenth * times, world.quiet()).await.is_ok();
        most = most.max(taken_up(&world, &format!("after {times} tenths of a second")).await);
        if whole {
            break;
        }
    }
    assert_eq!(most, pages, "read ahead: {read_ahead}");
}

/// Fails when a page or an end is committed under a stale lease.
#[tokio::test(start_paused = true)]
async fn a_worker_that_lost_its_lease_commits_nothing_more() {
    let world = filled(10).await;
    world.connect().await;
    world.worker.step(Queue::Background).await.unwrap();
    // The first worker hangs in a request for longer than its lease, and cannot renew it either.
    world.fake.truth().delay = Duration::from_secs(100);
    world.store.layer.failing(|name| (name == "extend").then_some(Fault::Before));
    let slow = world.worker.clone();
    let (done, ()) = tokio::join!(slow.step(Queue::Background), async {
        world.wait(Duration::from_secs(70)).await;
        world.fake.truth().delay = Duration::ZERO;
        assert_eq!(world.other(|b| b).step(Queue::Background).await.unwrap(), 1);
        world.check_equal(&world.held().await);
    });
    assert_eq!(done.unwrap(), 1);
    let runs = world.runs().await;
    assert_eq!((runs[0].resumed, runs[0].pages, &runs[0].state), (1, 4, &RunState::Done));
    assert_eq!(world.feed().await.last().unwrap().record.seq, 10, "nothing was written twice");
}

/// Fails when a lease is not renewed while a run works.
#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_as_long_as_its_run_works() {
    let world = filled(10).await;
    world.connect().await;
    world.worker.step(Queue::Background).await.unwrap();
    world.fake.truth().delay = Duration::from_secs(100);
    let (slow, other) = (world.worker.clone(), world.other(|b| b));
    let (done, ()) = tokio::join!(slow.step(Queue::Background), async {
        for _ in 0..35 {
            world.wait(Duration::from_secs(10)).await;
            assert_eq!(other.step(Queue::Background).await.unwrap(), 0);
        }
    });
    assert_eq!(done.unwrap(), 1);
    assert_eq!(world.runs().await[0].resumed, 0);
    world.check_equal(&world.held().await);
}

/// Fails when a list that stands still or goes round is read for ever, or is taken for one that ended.
#[tokio::test(start_paused = true)]
async fn a_cursor_that_does_not_advance_fails_the_run() {
    for round in [false, true] {
        let world = filled(10).await;
        world.fake.truth().list_is_stuck = !round;
        world.fake.truth().list_goes_round = round;
        world.connect().await;
        world.quiet().await;
        let run = &world.runs().await[0];
        let RunState::Failed { kind, reason } = &run.state else { panic!("{:?}", run.state) };
        assert_eq!(*kind, ErrorKind::Decode);
        assert!(reason.contains("t002"), "{reason}");
        assert!(world.requests() < 20);
        // Nothing that was there is taken for deleted.
        assert_eq!(world.stream(THINGS).await.records, 3);
    }
}

/// Fails when a refusal is read as an empty list, does not mark the connection, or lets later runs send.
#[tokio::test(start_paused = true)]
async fn a_refused_credential_stops_the_run_and_asks_to_reconnect() {
    let world = filled(10).await;
    world.connect().await;
    world.quiet().await;
    world.fake.truth().failures.push_back(Error::new(ErrorKind::Auth, "the key was revoked"));
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.quiet().await;
    assert!(matches!(world.state().await, ConnectionState::NeedsReconnect { .. }));
    assert!(matches!(world.runs().await[0].state, RunState::Failed { kind: ErrorKind::Auth, .. }));
    assert_eq!(world.stream(THINGS).await.records, 10, "a refusal is never read as an empty list");
    // Nothing is sent until it is reconnected; then it goes on by itself.
    let requests = world.requests();
    world.wait(Duration::from_secs(86_400)).await;
    world.quiet().await;
    assert_eq!(world.requests(), requests);
    world.store.put_connection(connection("conn")).await.unwrap();
    world.fake.put("t004", None);
    world.connect().await;
    world.quiet().await;
    world.check_equal(&world.held().await);
}

/// Fails when the wait is not the provider's, when the run begins again, or when it is failed.
#[tokio::test(start_paused = true)]
async fn what_passes_is_waited_out_and_the_run_goes_on_at_its_cursor() {
    for kind in [
        ErrorKind::Throttled,
        ErrorKind::CircuitOpen,
        ErrorKind::Timeout,
        ErrorKind::Connect,
        ErrorKind::Provider,
        ErrorKind::Overloaded,
    ] {
        let world = filled(10).await;
        world.connect().await;
        world.worker.step(Queue::Background).await.unwrap();
        let ok = |n| (0..n).map(|_| None);
        // The second page fails once.
        let mut plan: Vec<Option<Error>> = ok(1).collect();
        plan.push(Some(Error::new(kind, "later").with_retry_after(Some(Duration::from_secs(40)))));
        let plan = Mutex::new(plan.into_iter());
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
        let run = world.runs().await.remove(0);
        assert_eq!((run.state, run.pages), (RunState::Running, 1), "{kind:?}");
        world.wait(Duration::from_millis(39_900)).await;
        let before = world.requests();
        world.quiet().await;
        assert_eq!(world.requests(), before, "{kind:?}: not before the provider's time");
        world.wait(Duration::from_millis(200)).await;
        world.quiet().await;
        let run = world.runs().await.remove(0);
        assert_eq!((run.state, run.pages, run.resumed), (RunState::Done, 4, 1), "{kind:?}");
        assert_eq!(world.requests(), 1 + 5, "{kind:?}: only the failed page is asked for again");
        world.check_equal(&world.held().await);
    }
}

/// Fails when the position is not read anew before the full runs, or the full runs are left out.
#[tokio::test(start_paused = true)]
async fn an_expired_position_leads_to_a_new_one_and_a_full_run() {
    let world = filled(10).await;
    world.connect().await;
    world.quiet().await;
    for n in 0..5 {
        world.fake.put(&format!("t{n:03}"), None);
    }
    world.fake.truth().events_from = 100;
    world.wait(Duration::from_secs(25 * 60)).await;
    let before = world.requests();
    world.quiet().await;
    let requests = world.fake.truth().requests[before..].to_vec();
    assert_eq!(requests[..2], ["/events?limit=3&after=10", "/events?limit=3&after="]);
    assert!(requests[2].starts_with("/things?"), "{requests:?}");
    world.check_equal(&world.held().await);
    let runs = world.runs().await;
    assert!(matches!(runs[2].state, RunState::Failed { kind: ErrorKind::CursorExpired, .. }));
    assert_eq!(world.stream(EVENTS).await.cursor.unwrap().as_str(), "15");
}

/// The crash between an expired position and what follows it loses nothing. Fails when `follow` of a run's end is
/// left to the settlement.
#[tokio::test(start_paused = true)]
async fn an_expired_position_is_healed_wherever_the_worker_is_killed() {
    for times in 0.. {
        let world = filled(4).await;
        world.connect().await;
        world.quiet().await;
        world.fake.put("t001", None);
        world.fake.truth().events_from = 100;
        world.wait(Duration::from_secs(25 * 60)).await;
        world.store.layer.yielding();
        let whole = killed_after(times, world.quiet()).await.is_some();
        world.wait(Duration::from_secs(61)).await;
        world.quiet().await;
        world.check_equal(&world.held().await);
        if whole {
            assert!(times > 20);
            break;
        }
    }
}

/// Fails when the guard is off by one, or a run that waits for review deletes or counts as a full one.
#[tokio::test(start_paused = true)]
async fn too_many_deletions_wait_for_review() {
    let world = filled(200).await;
    world.connect().await;
    world.quiet().await;
    let full_at = world.stream(THINGS).await.full_at;
    for n in 0..51 {
        world.fake.truth().things.remove(&format!("t{n:03}"));
    }
    world.wait(Duration::from_secs(10)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.quiet().await;
    assert_eq!(world.runs().await[0].state, RunState::Review { deletions: 51 });
    assert_eq!(world.stream(THINGS).await.records, 200);
    assert_eq!(world.stream(THINGS).await.full_at, full_at);
    // Neither the events' runs nor time go over it.
    world.wait(Duration::from_secs(3_600)).await;
    world.quiet().await;
    assert_eq!(world.stream(THINGS).await.records, 200);
    // One deletion fewer is lawful.
    world.fake.put("t050", Some(1));
    world.wait(Duration::from_secs(10)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.quiet().await;
    assert_eq!(world.runs().await[0].state, RunState::Done);
    assert_eq!(world.runs().await[0].counts.deleted, 50);
    world.check_equal(&world.held().await);
}

/// Fails when an approved run stops at the guard all the same, or one that is not approved passes it.
#[tokio::test(start_paused = true)]
async fn approved_deletions_happen() {
    let world = filled(200).await;
    world.connect().await;
    world.quiet().await;
    world.fake.truth().things.clear();
    for approved in [false, true] {
        world.wait(Duration::from_secs(10)).await;
        if approved {
            world.worker.approve(world.runs().await[0].id).await.unwrap();
        } else {
            world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
        }
        world.quiet().await;
        assert_eq!(world.stream(THINGS).await.records, if approved { 0 } else { 200 });
    }
}

/// Lists everything and returns the run.
async fn full_run(world: &World) -> Run {
    world.wait(Duration::from_secs(10)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.quiet().await;
    world.runs().await.remove(0)
}

/// Fails when an approval of a hundred deletions lets all that is missing by then be deleted, or when one more stops it.
#[tokio::test(start_paused = true)]
async fn an_approval_is_for_the_deletions_that_were_looked_at() {
    for (more, expected) in [(10, RunState::Done), (11, RunState::Review { deletions: 111 })] {
        let world = filled(200).await;
        world.connect().await;
        world.quiet().await;
        world.fake.truth().things.retain(|id, _| id.as_str() >= "t100");
        let run = full_run(&world).await;
        assert_eq!(run.state, RunState::Review { deletions: 100 });
        world.fake.truth().things.retain(|id, _| id.as_str() >= &*format!("t{}", 100 + more));
        world.worker.approve(run.id).await.unwrap();
        world.quiet().await;
        let approved = world.runs().await.remove(0);
        assert_eq!((approved.id > run.id, &approved.state), (true, &expected), "{more} more");
        let left = if expected == RunState::Done { 200 - 100 - more } else { 200 };
        assert_eq!(world.stream(THINGS).await.records, left);
    }
}

/// Fails when what was looked at in one run is taken as the word for another, or a run without a review is approved.
#[tokio::test(start_paused = true)]
async fn only_the_newest_run_of_a_stream_is_approved() {
    let world = filled(200).await;
    world.fake.truth().things_have_position = true;
    world.connect().await;
    world.quiet().await;
    let done = world.runs().await.remove(0);
    world.fake.truth().things.retain(|id, _| id.as_str() >= "t100");
    let (older, newer) = (full_run(&world).await, full_run(&world).await);
    assert_eq!(older.state, newer.state);
    for (run, refused) in [(done.id, ErrorKind::NotFound), (older.id, ErrorKind::Conflict)] {
        assert_eq!(world.worker.approve(run).await.unwrap_err().kind(), refused);
    }
    assert_eq!(world.worker.approve(RunId(99)).await.unwrap_err().kind(), ErrorKind::NotFound);
    world.quiet().await;
    assert_eq!(world.stream(THINGS).await.records, 200);
    // A run of the other mode does not take its place.
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Incremental).await.unwrap();
    world.quiet().await;
    assert_eq!(world.runs().await[0].mode, RunMode::Incremental);
    world.worker.approve(newer.id).await.unwrap();
    world.quiet().await;
    assert_eq!(world.stream(THINGS).await.records, 100);
}

/// A walk over the events adds the full run of a stream that was never whole, unless somebody must look at its last one.
/// Fails when that one is looked for among the newest runs only.
#[tokio::test(start_paused = true)]
async fn a_review_is_not_passed_over_however_many_runs_came_after() {
    let world = filled(10).await;
    world.connect().await;
    world.quiet().await;
    world.worker.reset_stream(&"conn".into(), &THINGS.into(), false).await.unwrap();
    world.fake.truth().broken.insert("t004".to_owned(), false);
    world.quiet().await;
    let run = world.runs().await.remove(0);
    assert_eq!(run.state, RunState::Review { deletions: 1 });
    world.fake.truth().broken.clear();
    for n in 0..120 {
        world.fake.put("t003", Some(100 + n));
        world.wait(Duration::from_secs(15 * 60)).await;
        world.worker.sync_now(&"conn".into(), &EVENTS.into(), RunMode::Incremental).await.unwrap();
        world.quiet().await;
    }
    let runs = world.runs().await;
    assert!(runs.iter().filter(|newer| newer.id > run.id).count() > 110, "{} runs", runs.len());
    let newest = world.store.newest_runs("conn".into()).await.unwrap();
    let told: Vec<_> = newest.iter().map(|run| (run.key.stream.as_str(), run.mode)).collect();
    assert_eq!(told, [(EVENTS, RunMode::Incremental), (THINGS, RunMode::Full)]);
    assert_eq!((newest[1].id, &newest[1].state), (run.id, &run.state), "it still waits");
}

/// Fails when a page read ahead waits for the commit before it, or when two are read ahead.
#[tokio::test(start_paused = true)]
async fn the_next_page_is_read_while_one_commits() {
    let second = Duration::from_secs(1);
    // Four pages of a second each to read and to commit: one after another, or side by side but for both ends.
    for (read_ahead, seconds) in [(false, 8), (true, 5)] {
        let settings = WorkerSettings { read_ahead, ..settings() };
        let world = World::with(settings, |builder| builder).await;
        for n in 0..10 {
            world.fake.put(&format!("t{n:03}"), Some(n));
        }
        world.connect().await;
        world.worker.step(Queue::Background).await.unwrap();
        world.fake.truth().delay = second;
        // Half of it before the commit and half behind it.
        world.store.layer.slowed(move |name| if name == "commit_page" { second / 2 } else { Duration::ZERO });
        let began = world.clock.now();
        world.worker.step(Queue::Background).await.unwrap();
        assert_eq!(world.clock.now().since(began).as_secs(), seconds, "read ahead: {read_ahead}");
        assert_eq!((world.runs().await[0].pages, world.requests()), (4, 5));
        world.check_equal(&world.held().await);
    }
}

/// What was read ahead is committed with the counter it was read at: a change that came between is not taken back.
/// Fails when the counter of a page read ahead is taken when it is committed.
#[tokio::test(start_paused = true)]
async fn a_page_read_ahead_never_takes_a_newer_event_back() {
    let world = filled(6).await;
    world.connect().await;
    world.worker.step(Queue::Background).await.unwrap();
    let second = Duration::from_secs(1);
    world.store.layer.slowed(move |name| if name == "commit_page" { second * 10 } else { Duration::ZERO });
    let worker = world.worker.clone();
    let (done, ()) = tokio::join!(worker.step(Queue::Background), async {
        // Both pages are read by now; the first is about to be committed.
        world.wait(second * 5).await;
        let changed = world.fake.put("t005", Some(99));
        world.deliver(&[changed]).await;
        world.worker.step(Queue::Events).await.unwrap();
    });
    assert_eq!(done.unwrap(), 1);
    assert_eq!(world.requests(), 3, "nothing had to be fetched: the page is older");
    world.check_equal(&world.held().await);
}

/// Fails when an unreadable record stops its page, is deleted as unseen, is forgotten, or is not asked for again.
#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_is_set_aside_and_named() {
    let world = filled(10).await;
    world.connect().await;
    world.quiet().await;
    let key = schedule::stream_key(&"conn".into(), THINGS);
    world.fake.truth().broken.insert("t004".to_owned(), true);
    world.fake.put("t004", Some(44));
    world.fake.put("t005", Some(55));
    world.fake.truth().things.remove("t009");
    world.wait(Duration::from_secs(600)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.worker.step(Queue::Background).await.unwrap();
    let run = world.runs().await.remove(0);
    assert_eq!((&run.state, run.bad, run.counts.updated, run.counts.deleted), (&RunState::Done, 1, 1, 1));
    let held = world.held().await;
    assert!(held.contains_key("t004") && !held.contains_key("t009"), "{held:?}");
    let aside = world.store.bad_records(key.clone(), 9).await.unwrap();
    assert_eq!(aside.len(), 1);
    assert_eq!(
        (&aside[0].record.id, &*aside[0].record.why, aside[0].run),
        (&Some("t004".into()), "it is broken", run.id)
    );
    assert_eq!(&aside[0].record.raw[..], br#"{"bad":true,"id":"t004"}"#);
    assert_eq!(world.stream(THINGS).await.bad, 1);
    // It is met again, and then it can be read.
    world.wait(Duration::from_secs(10)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.quiet().await;
    assert_eq!(world.store.bad_records(key.clone(), 9).await.unwrap()[0].times, 2);
    world.fake.truth().broken.clear();
    world.wait(Duration::from_secs(10)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.quiet().await;
    assert_eq!(world.stream(THINGS).await.bad, 0);
    world.check_equal(&world.held().await);
}

/// Any record a run did not see may be the one without a name. Fails when it is deleted all the same.
#[tokio::test(start_paused = true)]
async fn behind_a_record_without_a_name_nothing_is_deleted_unseen() {
    let world = filled(10).await;
    world.connect().await;
    world.quiet().await;
    world.fake.truth().broken.insert("t004".to_owned(), false);
    world.fake.truth().things.remove("t009");
    world.wait(Duration::from_secs(10)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.quiet().await;
    let run = world.runs().await.remove(0);
    assert_eq!(run.state, RunState::Review { deletions: 2 });
    assert_eq!(world.stream(THINGS).await.records, 10);
    let ids = |records: Vec<Record>| records.into_iter().map(|record| record.id.to_string()).collect::<Vec<_>>();
    assert_eq!(
        ids(world.store.unseen(run.id, None, 9).await.unwrap()),
        ["t004", "t009"],
        "what somebody is to look at"
    );
    assert_eq!(ids(world.store.unseen(run.id, Some("t004".into()), 9).await.unwrap()), ["t009"]);
    assert!(world.worker.dismiss(run.id).await.unwrap() && !world.worker.dismiss(run.id).await.unwrap());
    let run = world.runs().await.remove(0);
    assert!(matches!(run.state, RunState::Failed { kind: ErrorKind::Cancelled, .. }));
    assert_eq!(run.stop, Some(Stop::Superseded));
    assert_eq!(world.stream(THINGS).await.records, 10);
}

/// Fails when a stream that changed its form is taken for one with a few bad records.
#[tokio::test(start_paused = true)]
async fn a_page_of_which_nothing_can_be_read_stops_the_run() {
    let world = World::with(WorkerSettings { page_size: 20, ..settings() }, |builder| builder).await;
    for n in 0..12 {
        world.fake.put(&format!("t{n:03}"), Some(n));
        world.fake.truth().broken.insert(format!("t{n:03}"), true);
    }
    world.connect().await;
    world.quiet().await;
    let run = world.runs().await.remove(0);
    assert!(matches!(run.state, RunState::Failed { kind: ErrorKind::Decode, .. }), "{:?}", run.state);
    let Some(Stop::BadData { stream, record, why }) = run.stop else { panic!("{:?}", run.stop) };
    assert_eq!((stream.as_str(), record, &*why), (THINGS, Some("t000".into()), "it is broken"));
}

/// Fails when pages that bring nothing are read for ever, or such a run ends well.
#[tokio::test(start_paused = true)]
async fn a_run_that_makes_no_progress_is_stalled_and_never_done() {
    let world = filled(3).await;
    world.connect().await;
    world.quiet().await;
    world.fake.truth().list_is_empty = true;
    world.wait(Duration::from_secs(10)).await;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.quiet().await;
    let run = world.runs().await.remove(0);
    assert!(matches!(run.state, RunState::Failed { .. }), "{:?}", run.state);
    assert!(matches!(run.stop, Some(Stop::Stalled { .. })), "{:?}", run.stop);
    assert!(run.pages < 1_001);
    assert_eq!(world.stream(THINGS).await.records, 3);
}

/// Fails when a cause is not noted while a run waits, when it stays behind the next page, or when a wait that the
/// provider asked for counts as a stall.
#[tokio::test(start_paused = true)]
async fn a_run_that_waits_says_why() {
    let world = filled(10).await;
    world.connect().await;
    world.worker.step(Queue::Background).await.unwrap();
    let hour = Duration::from_secs(3_600);
    let limited = Error::new(ErrorKind::Throttled, "slow down").with_retry_after(Some(hour));
    world.fake.truth().failures.push_back(limited);
    let until = world.clock.now().plus(hour);
    world.quiet().await;
    let run = world.runs().await.remove(0);
    assert_eq!((&run.state, &run.stop), (&RunState::Running, &Some(Stop::RateLimited { until: Some(until) })));
    let patience = Duration::from_secs(1_800);
    assert!(!run.is_stalled(until.plus(patience), patience));
    assert!(run.is_stalled(until.plus(patience * 2), patience));
    world.wait(hour + Duration::from_secs(1)).await;
    world.quiet().await;
    let run = world.runs().await.into_iter().find(|known| known.id == run.id).unwrap();
    assert_eq!((run.state, run.stop, run.total), (RunState::Done, None, Some(10)));
    world.fake.truth().failures.push_back(Error::new(ErrorKind::Permission, "no").with_scope("things:read"));
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.quiet().await;
    let scope = Some("things:read".to_owned());
    assert_eq!(world.runs().await.remove(0).stop, Some(Stop::ScopeMissing { scope }));
}

/// Fails when a run that comes on by a page between two waits, or two attempts, uses them up all the same: beyond its
/// thousandth wait, and with every attempt, it would come ever more seldom.
#[tokio::test(start_paused = true)]
async fn a_run_that_comes_on_has_all_its_waits_and_attempts_again() {
    let limited = || Error::new(ErrorKind::Throttled, "slow down").with_retry_after(Some(Duration::from_secs(1)));
    let timeout = || Error::new(ErrorKind::Timeout, "no answer");
    for (things, fails) in [(1_050, limited as fn() -> Error), (40, timeout)] {
        let world = World::with(WorkerSettings { page_size: 1, ..settings() }, |builder| builder).await;
        for n in 0..things {
            world.fake.put(&format!("t{n:04}"), Some(n));
        }
        world.fake.truth().every_other = Some(fails);
        world.connect().await;
        // For each page one attempt that commits it and fails behind it.
        for _ in 0..things + 50 {
            world.worker.step(Queue::Background).await.unwrap();
            world.wait(Duration::from_secs(10)).await;
        }
        let runs = world.runs().await;
        let run = runs.iter().find(|run| run.mode == RunMode::Full).unwrap();
        assert_eq!((&run.state, run.pages), (&RunState::Done, things), "{:?}", fails().kind());
    }
}

/// Fails when a page that is committed again and again counts as coming on: the last one, while the run cannot be ended.
/// The provider would be asked for it every few seconds.
#[tokio::test(start_paused = true)]
async fn a_run_that_stays_at_its_last_page_comes_ever_more_seldom() {
    let world = filled(2).await;
    world.connect().await;
    world.quiet().await;
    let before = world.requests();
    world.store.layer.failing(|name| (name == "end_run").then_some(Fault::Before));
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    for _ in 0..2 * 3_600 {
        world.worker.step(Queue::Background).await.unwrap();
        world.wait(Duration::from_secs(1)).await;
    }
    let asked = world.fake.truth().requests.iter().skip(before).filter(|path| path.starts_with("/things?")).count();
    assert!((5..100).contains(&asked), "{asked} times in two hours");
}

/// Fails when a paused stream is read, loses its place, or does not go on when it is resumed.
#[tokio::test(start_paused = true)]
async fn a_paused_stream_stops_behind_its_page_and_goes_on_there() {
    let world = filled(10).await;
    world.connect().await;
    world.worker.step(Queue::Background).await.unwrap();
    world.fake.truth().delay = Duration::from_secs(1);
    let worker = world.worker.clone();
    let (done, ()) = tokio::join!(worker.step(Queue::Background), async {
        world.wait(Duration::from_millis(1_500)).await;
        world.worker.pause_stream(&"conn".into(), &THINGS.into()).await.unwrap();
    });
    assert_eq!(done.unwrap(), 1);
    let run = world.runs().await.remove(0);
    assert_eq!((&run.state, &run.stop), (&RunState::Running, &Some(Stop::Paused)));
    assert!((1..=2).contains(&run.pages), "{}", run.pages);
    let requests = world.requests();
    // It is not one of the schedule's either.
    world.fake.truth().delay = Duration::ZERO;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.worker.step(Queue::Background).await.unwrap();
    assert_eq!(world.requests(), requests);
    world.worker.resume_stream(&"conn".into(), &THINGS.into()).await.unwrap();
    world.quiet().await;
    let resumed = world.runs().await.into_iter().find(|other| other.id == run.id).unwrap();
    assert_eq!((resumed.state, resumed.pages), (RunState::Done, 4));
    world.check_equal(&world.held().await);
}

/// Fails when the job of a paused stream comes back without its owner, so that its provider's cap does not hold it.
#[tokio::test(start_paused = true)]
async fn what_a_paused_stream_leaves_for_later_counts_for_its_provider() {
    for midway in [false, true] {
        let world = filled(10).await;
        world.connect().await;
        if !midway {
            world.quiet().await;
            world.worker.pause_stream(&"conn".into(), &THINGS.into()).await.unwrap();
            world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
            world.worker.step(Queue::Background).await.unwrap();
        } else {
            world.worker.step(Queue::Background).await.unwrap();
            paused_midway(&world).await;
        }
        world.wait(Duration::from_secs(30 * 86_400)).await;
        let claim = Claim {
            now: world.clock.now(),
            hold: Duration::from_secs(60),
            max: 10,
            queue: Queue::Background,
            room: Room::default(),
        };
        let claimed = world.store.inner.claim(claim).await.unwrap();
        let things = |one: &&Claimed| matches!(&one.work, Work::Sync { key, .. } if key.stream.as_str() == THINGS);
        let found = claimed.iter().find(things).unwrap();
        assert_eq!(found.group.as_deref(), Some("fake"), "midway: {midway}");
    }
}

/// Fails when deletions that somebody approved are forgotten because the stream or its connection is paused just then.
#[tokio::test(start_paused = true)]
async fn an_approval_outlasts_a_pause() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Paused {
        Stream,
        Midway,
        Connection,
    }
    for paused in [Paused::Stream, Paused::Midway, Paused::Connection] {
        let world = filled(200).await;
        let (id, stream) = ("conn".into(), THINGS.into());
        world.connect().await;
        world.quiet().await;
        world.fake.truth().things.retain(|id, _| id.as_str() < "t010");
        let review = full_run(&world).await.id;
        if paused == Paused::Connection {
            let halted = Connection { state: ConnectionState::Paused, ..connection("conn") };
            world.store.put_connection(halted).await.unwrap();
        }
        if paused == Paused::Stream {
            world.worker.pause_stream(&id, &stream).await.unwrap();
        }
        world.worker.approve(review).await.unwrap();
        if paused == Paused::Midway {
            paused_midway(&world).await;
        }
        world.quiet().await;
        assert_eq!(world.stream(THINGS).await.records, 200, "{paused:?}");
        world.wait(Duration::from_secs(40 * 60)).await;
        world.quiet().await;
        world.store.put_connection(connection("conn")).await.unwrap();
        // Not by `resume_stream`, whose own run would stand in the way.
        world.store.pause_stream(schedule::stream_key(&id, THINGS), None).await.unwrap();
        world.wait(Duration::from_secs(16 * 60)).await;
        world.quiet().await;
        assert_eq!(world.stream(THINGS).await.records, 10, "{paused:?}");
        world.check_equal(&world.held().await);
    }
}

/// Fails when a full run that fails is followed by nothing for a week, though nothing else brings its stream up to date.
#[tokio::test(start_paused = true)]
async fn a_full_run_that_fails_comes_again_soon_where_nothing_makes_up_for_it() {
    let refused = || Error::new(ErrorKind::Permission, "not allowed to list things");
    for whole_before in [false, true] {
        let world = filled(10).await;
        world.fake.truth().lists_no_events = true;
        if whole_before {
            world.connect().await;
            world.quiet().await;
            world.fake.put("t003", Some(77));
            world.wait(Duration::from_secs(10)).await;
        }
        world.fake.truth().failures.push_back(refused());
        world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
        world.quiet().await;
        let failed = world.runs().await.remove(0);
        assert!(matches!(failed.state, RunState::Failed { kind: ErrorKind::Permission, .. }), "{:?}", failed.state);
        // Not at once: what was refused is not hammered.
        let requests = world.requests();
        world.wait(Duration::from_secs(14 * 60)).await;
        world.quiet().await;
        assert_eq!(world.requests(), requests);
        world.wait(Duration::from_secs(2 * 60)).await;
        world.quiet().await;
        assert_eq!(world.runs().await[0].state, RunState::Done);
        world.check_equal(&world.held().await);
    }
}

/// Pauses the stream of things in the middle of the run that is due, and returns that.
async fn paused_midway(world: &World) -> Run {
    world.fake.truth().delay = Duration::from_secs(1);
    let worker = world.worker.clone();
    let (done, ()) = tokio::join!(worker.step(Queue::Background), async {
        world.wait(Duration::from_millis(1_500)).await;
        world.worker.pause_stream(&"conn".into(), &THINGS.into()).await.unwrap();
    });
    world.fake.truth().delay = Duration::ZERO;
    assert_eq!(done.unwrap(), 1);
    let run = world.runs().await.remove(0);
    assert_eq!((run.key.stream.as_str(), &run.state), (THINGS, &RunState::Running));
    run
}

/// Fails when an unfinished run is looked for among the newest only: it would be begun again on every walk, or a run of
/// the other mode would take its place when it is resumed.
#[tokio::test(start_paused = true)]
async fn an_unfinished_run_is_found_however_many_came_after() {
    for mode in [RunMode::Full, RunMode::Incremental] {
        let world = filled(10).await;
        world.fake.truth().things_have_position = mode == RunMode::Incremental;
        world.connect().await;
        if mode == RunMode::Incremental {
            world.quiet().await;
            world.worker.sync_now(&"conn".into(), &THINGS.into(), mode).await.unwrap();
        } else {
            // The walk over the events goes before it.
            world.worker.step(Queue::Background).await.unwrap();
        }
        let run = paused_midway(&world).await;
        assert_eq!(run.mode, mode);
        let (mut steps, mut walks) = (0, 0);
        while walks < 120 {
            world.fake.put("t003", Some(walks));
            world.wait(Duration::from_secs(15 * 60)).await;
            while world.worker.step(Queue::Background).await.unwrap() > 0 {
                steps += 1;
            }
            walks = world.runs().await.iter().filter(|newer| newer.id > run.id).count() as u64;
        }
        assert!(mode == RunMode::Incremental || steps <= walks, "it came up {steps} times in {walks} walks");
        world.worker.resume_stream(&"conn".into(), &THINGS.into()).await.unwrap();
        world.quiet().await;
        let resumed = world.runs().await.into_iter().find(|other| other.id == run.id).unwrap();
        assert_eq!((resumed.state, resumed.pages), (RunState::Done, 4), "{mode:?}");
    }
}

/// Fails when a reset keeps the position, leaves records out of the feed, or does not read everything anew.
#[tokio::test(start_paused = true)]
async fn a_reset_forgets_and_reads_anew() {
    for records in [false, true] {
        let world = filled(10).await;
        world.connect().await;
        world.quiet().await;
        world.wait(Duration::from_secs(10)).await;
        let head = world.stream(THINGS).await.head;
        let erased = world.worker.reset_stream(&"conn".into(), &THINGS.into(), records).await.unwrap();
        assert_eq!(erased, if records { 10 } else { 0 });
        let status = world.stream(THINGS).await;
        assert_eq!((status.records, status.head), (10 - erased, head + erased));
        assert_eq!((status.full_at, status.cursor), (None, None));
        world.quiet().await;
        let run = world.runs().await.remove(0);
        assert_eq!((run.mode, &run.state, run.counts.added), (RunMode::Full, &RunState::Done, erased));
        assert_eq!((run.feed_from, run.feed_to), (Some(head + erased), Some(head + 2 * erased)));
        world.check_equal(&world.held().await);
    }
}

/// Fails when the job of a run that a reset has ended keeps its stream until its lease is over, or the reset's own run is
/// lost because it was in the way.
#[tokio::test(start_paused = true)]
async fn a_reset_in_the_middle_of_a_run_begins_anew_at_once() {
    let world = filled(10).await;
    world.connect().await;
    world.worker.step(Queue::Background).await.unwrap();
    world.fake.truth().delay = Duration::from_secs(1);
    let worker = world.worker.clone();
    let (done, ()) = tokio::join!(worker.step(Queue::Background), async {
        world.wait(Duration::from_millis(1_500)).await;
        world.worker.reset_stream(&"conn".into(), &THINGS.into(), false).await.unwrap();
    });
    assert_eq!(done.unwrap(), 1);
    let began = world.clock.now();
    world.quiet().await;
    assert!(world.clock.now().since(began) < Duration::from_secs(10));
    let runs = world.runs().await;
    assert_eq!((runs[0].mode, &runs[0].state, runs[0].pages), (RunMode::Full, &RunState::Done, 4));
    assert_eq!(runs[1].stop, Some(Stop::Superseded));
    assert!(world.stream(THINGS).await.full_at.is_some());
    world.check_equal(&world.held().await);
}

/// Fails when the records that were met longest ago are asked for again by every run, and the others by none.
#[tokio::test(start_paused = true)]
async fn every_record_set_aside_is_asked_for_again_in_its_turn() {
    let world = filled(50).await;
    world.fake.truth().things_have_position = true;
    let names: BTreeSet<String> = (0..50).map(|n| format!("t{n:03}")).collect();
    world.fake.truth().broken =
        names.iter().filter(|name| name.as_str() < "t025").map(|name| (name.clone(), true)).collect();
    world.connect().await;
    world.quiet().await;
    assert_eq!(world.stream(THINGS).await.bad, 25);
    // Later runs do not meet them, as those do that only list what is new.
    world.fake.truth().unlisted = names;
    for _ in 0..2 {
        world.wait(Duration::from_secs(10)).await;
        world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Incremental).await.unwrap();
        world.quiet().await;
    }
    let asked: BTreeSet<_> =
        world.fake.truth().requests.iter().filter(|path| path.starts_with("/things/")).cloned().collect();
    assert_eq!(asked.len(), 25, "{asked:?}");
    assert_eq!(world.stream(THINGS).await.bad, 25);
    // One that is too large waits its turn like the others, and what can be read by then is not set aside any more.
    world.fake.truth().broken.clear();
    world.fake.truth().too_large.insert("t003".to_owned());
    for _ in 0..2 {
        world.wait(Duration::from_secs(10)).await;
        world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Incremental).await.unwrap();
        world.quiet().await;
    }
    let left = world.store.bad_records(schedule::stream_key(&"conn".into(), THINGS), 99).await.unwrap();
    let left: Vec<_> = left.iter().map(|bad| (bad.record.id.clone().unwrap(), &*bad.record.why)).collect();
    assert_eq!(left, [("t003".into(), "the answer is too large")]);
}

/// A page that cannot be ordered needs a fetch of its record. Fails when one whose answer is too large stops its stream.
#[tokio::test(start_paused = true)]
async fn a_record_too_large_to_fetch_is_set_aside() {
    let world = filled(6).await;
    world.connect().await;
    world.worker.step(Queue::Background).await.unwrap();
    world.fake.truth().too_large.insert("t005".to_owned());
    let second = Duration::from_secs(1);
    world.store.layer.slowed(move |name| if name == "commit_page" { second * 10 } else { Duration::ZERO });
    let worker = world.worker.clone();
    let (done, ()) = tokio::join!(worker.step(Queue::Background), async {
        // Both pages are read by now, in the second in which the record changes.
        world.wait(Duration::from_millis(100)).await;
        let changed = world.fake.put("t005", Some(99));
        world.deliver(&[changed]).await;
        world.worker.step(Queue::Events).await.unwrap();
    });
    assert_eq!(done.unwrap(), 1);
    let run = world.runs().await.remove(0);
    assert_eq!((&run.state, run.bad, run.pages), (&RunState::Done, 1, 2));
    let aside = world.store.bad_records(schedule::stream_key(&"conn".into(), THINGS), 9).await.unwrap();
    assert_eq!((aside.len(), &aside[0].record.id), (1, &Some("t005".into())));
    world.check_equal(&world.held().await);
}

/// Fails when a dry run writes, or tells something else than the run then does.
#[tokio::test(start_paused = true)]
async fn a_dry_run_tells_what_a_run_does_and_writes_nothing() {
    let world = filled(10).await;
    world.connect().await;
    world.quiet().await;
    world.wait(Duration::from_secs(600)).await;
    world.fake.put("t001", Some(100));
    world.fake.put("t010", Some(10));
    world.fake.truth().things.remove("t002");
    world.fake.truth().broken.insert("t003".to_owned(), true);
    let before = (world.stream(THINGS).await, world.feed().await, world.runs().await.len());
    let (id, stream) = ("conn".into(), THINGS.into());
    let preview = world.worker.dry_run(&id, &stream, RunMode::Full, 9).await.unwrap();
    assert_eq!((world.stream(THINGS).await, world.feed().await, world.runs().await.len()), before);
    assert_eq!((preview.pages, preview.complete, preview.unseen, preview.bad), (4, true, Some(1), 1));
    assert_eq!((preview.added, preview.updated), (vec!["t010".into()], vec!["t001".into()]));
    assert_eq!(preview.unreadable, ["t003: it is broken"]);
    let part = world.worker.dry_run(&id, &stream, RunMode::Full, 2).await.unwrap();
    assert_eq!((part.pages, part.complete, part.unseen), (2, false, None));
    world.worker.sync_now(&id, &stream, RunMode::Full).await.unwrap();
    world.worker.step(Queue::Background).await.unwrap();
    let run = world.runs().await.remove(0);
    let told = MergeCounts { deleted: 1, ..preview.counts };
    assert_eq!((run.mode, run.counts, run.bad), (RunMode::Full, told, 1));
    let nowhere = world.worker.dry_run(&id, &"nothing".into(), RunMode::Full, 2).await.unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::NotFound);
}

/// Fails when one unreadable event stops the walk over a provider's list, is lost without a word, or is fetched as if it
/// were a record.
#[tokio::test(start_paused = true)]
async fn an_unreadable_event_of_the_list_is_set_aside_by_its_name() {
    let world = filled(5).await;
    world.connect().await;
    world.quiet().await;
    for (n, id) in ["t000", "t001", "t002"].into_iter().enumerate() {
        world.fake.put(id, Some(100 + n as u64));
    }
    let last = world.fake.truth().log.len() as u64 - 1;
    world.fake.truth().broken_events.push(last - 1);
    for _ in 0..2 {
        world.wait(Duration::from_secs(25 * 60)).await;
        world.quiet().await;
    }
    let held = world.held().await;
    assert_eq!(
        (&held["t000"][..], &held["t002"][..]),
        (&br#"{"id":"t000","value":100}"#[..], &br#"{"id":"t002","value":102}"#[..])
    );
    let key = schedule::stream_key(&"conn".into(), EVENTS);
    let aside = world.store.inner.bad_records(key, 9).await.unwrap();
    let named: Vec<_> = aside.iter().map(|bad| bad.record.id.as_ref().unwrap().to_string()).collect();
    assert_eq!(named, [format!("evt_{}", last - 1)]);
    assert!(world.fake.truth().requests.iter().all(|path| !path.starts_with("/events/")), "an event is no record");
    assert!(world.runs().await.iter().all(|run| run.state == RunState::Done));
}

/// What a webhook lost is found in the provider's own list, through the same inbox.
/// Fails when an event of the list is not put into the inbox, or one a webhook told is put there again.
#[tokio::test(start_paused = true)]
async fn lost_webhooks_are_found_in_the_list_of_events() {
    let world = filled(5).await;
    world.connect().await;
    world.quiet().await;
    let (lost, told) = (world.fake.put("t000", Some(100)), world.fake.put("t001", None));
    world.deliver(&[told]).await;
    world.quiet().await;
    world.wait(Duration::from_secs(25 * 60)).await;
    world.quiet().await;
    world.check_equal(&world.held().await);
    let events = world.event_states().await;
    assert_eq!(events.len(), 2, "{lost} was added, {told} was there: {events:?}");
    assert!(events.iter().all(|(state, _)| *state == EventState::Done));
}

/// Fails when a job that no repeat can mend is tried again, or a provider that is not built in can be connected.
#[tokio::test(start_paused = true)]
async fn a_job_for_what_is_not_there_is_dead_with_a_clear_reason() {
    let world = World::new().await;
    world.worker.sync_now(&"nobody".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.worker.sync_now(&"conn".into(), &"nothing".into(), RunMode::Full).await.unwrap();
    let mut stranger = connection("stranger");
    stranger.provider = "acme".to_owned();
    world.store.put_connection(stranger.clone()).await.unwrap();
    world.worker.sync_now(&"stranger".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    assert_eq!(world.worker.connect(&stranger).await.unwrap_err().kind(), ErrorKind::Config);
    world.quiet().await;
    assert_eq!(world.store.inner.job_counts().await.unwrap(), JobCounts { waiting: 0, running: 0, dead: 3 });
}

/// Fails when a job that is lost for good takes its schedule with it.
#[tokio::test(start_paused = true)]
async fn lost_schedules_come_back() {
    let world = filled(3).await;
    world.connect().await;
    world.quiet().await;
    // Somebody empties the job table.
    world.wait(Duration::from_secs(14 * 86_400)).await;
    let claim = Claim {
        now: world.clock.now(),
        hold: Duration::from_secs(60),
        max: 10,
        queue: Queue::Background,
        room: Room::default(),
    };
    for claimed in world.store.inner.claim(claim.clone()).await.unwrap() {
        let end = JobEnd::Dead { reason: "lost".to_owned() };
        let (effects, merges, follow) = (Vec::new(), Vec::new(), Vec::new());
        let settlement = Settlement {
            lease: claimed.lease,
            end,
            now: claim.now,
            effects,
            merges,
            follow,
            outbox: Default::default(),
        };
        world.store.inner.settle(vec![settlement]).await.unwrap();
    }
    assert_eq!(world.store.inner.job_counts().await.unwrap().waiting, 0);
    world.fake.put("t001", None);
    let (stop, stopped) = watch::channel(false);
    let (worker, clone) = (world.worker.clone(), world.worker.clone());
    tokio::join!(worker.run(Queue::Background, stopped.clone()), clone.run(Queue::Events, stopped), async {
        world.wait(Duration::from_secs(40 * 60)).await;
        stop.send(true).unwrap();
    });
    world.check_equal(&world.held().await);
    assert!(world.worker.progress().background.is_some() && world.worker.progress().events.is_some());
}

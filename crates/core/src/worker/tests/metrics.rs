//! What the worker counts, by its exact names.

use std::time::Duration;

use super::world::*;
use crate::metrics::Metrics;
use crate::store::*;
use crate::worker::*;

#[track_caller]
fn counts(metrics: &Metrics, lines: &[&str]) {
    let text = metrics.encode();
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "{line} in\n{text}");
    }
}

/// Fails when an attempt's end is not counted, is counted in the other queue or before it is settled.
#[tokio::test(start_paused = true)]
async fn attempts_are_counted_by_queue_and_end() {
    let metrics = Metrics::default();
    let handled = handler(|event, context| {
        let end = match (event.event.id.as_str(), context.attempt) {
            ("evt_0", _) => Handled::Done,
            ("evt_1", 1) => Handled::Retry { after: Some(Duration::from_secs(5)), reason: "busy".to_owned() },
            ("evt_1", _) => Handled::Done,
            _ => Handled::Reject { reason: "no".to_owned() },
        };
        Box::pin(async move { end })
    });
    let world = World::with(settings(), |builder| builder.on("fake", "*", handled).metrics(metrics.clone())).await;
    let events = ["a", "b", "c", "d"].map(|id| world.fake.put(id, Some(1)));
    counts(&metrics, &["palisade_job_attempts_total{queue=\"events\",end=\"done\"} 0"]);
    world.deliver(&events[..3]).await;
    world.quiet().await;
    world.wait(Duration::from_secs(6)).await;
    world.quiet().await;
    counts(
        &metrics,
        &[
            "palisade_job_attempts_total{queue=\"events\",end=\"done\"} 2",
            "palisade_job_attempts_total{queue=\"events\",end=\"again\"} 1",
            "palisade_job_attempts_total{queue=\"events\",end=\"dead\"} 1",
            "palisade_job_attempts_total{queue=\"events\",end=\"released\"} 0",
            "palisade_job_attempts_total{queue=\"events\",end=\"lost\"} 0",
            "palisade_job_attempts_total{queue=\"background\",end=\"done\"} 0",
        ],
    );
    // A job whose lease runs out while it is handled is another worker's.
    let slow = handler(|_, _| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            Handled::Done
        })
    });
    world.store.layer.failing(|name| (name == "extend").then_some(Fault::Before));
    let settings = WorkerSettings { hold: Duration::from_secs(5), ..settings() };
    let other = World::worker(&world.fake, &world.store, &world.clock, settings, |builder| {
        builder.on("fake", "*", slow).metrics(metrics.clone())
    });
    world.deliver(&events[3..]).await;
    let (held, taken) = tokio::join!(other.step(Queue::Events), async {
        world.wait(Duration::from_secs(10)).await;
        world.worker.step(Queue::Events).await
    });
    assert_eq!((held.unwrap(), taken.unwrap()), (1, 1));
    counts(&metrics, &["palisade_job_attempts_total{queue=\"events\",end=\"lost\"} 1"]);
}

/// Fails when a run's end is not counted, or what it did to the records, or only at its end, or twice when it is taken up
/// again, or when a tenant or connection is a label.
#[tokio::test(start_paused = true)]
async fn runs_are_counted_with_what_they_did() {
    let metrics = Metrics::default();
    let world = World::with(settings(), |builder| builder.metrics(metrics.clone())).await;
    for n in 0..10 {
        world.fake.put(&format!("t{n}"), Some(n));
    }
    world.connect().await;
    world.quiet().await;
    counts(
        &metrics,
        &[
            "palisade_runs_total{provider=\"fake\",stream=\"things\",mode=\"full\",end=\"done\"} 1",
            "palisade_runs_total{provider=\"fake\",stream=\"events\",mode=\"incremental\",end=\"done\"} 1",
            "palisade_run_pages_total{provider=\"fake\",stream=\"things\"} 4",
            "palisade_run_records_total{provider=\"fake\",stream=\"things\",change=\"added\"} 10",
            "palisade_run_records_total{provider=\"fake\",stream=\"things\",change=\"deleted\"} 0",
            "palisade_run_duration_seconds_count{provider=\"fake\",stream=\"things\",mode=\"full\"} 1",
            "palisade_job_attempts_total{queue=\"background\",end=\"done\"} 2",
        ],
    );
    // Two changes and a deletion that no event tells of: the next full run finds them.
    world.fake.truth().things.insert("t1".to_owned(), 99);
    world.fake.truth().things.remove("t2");
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.wait(Duration::from_secs(1)).await;
    world.quiet().await;
    counts(
        &metrics,
        &[
            "palisade_runs_total{provider=\"fake\",stream=\"things\",mode=\"full\",end=\"done\"} 2",
            "palisade_run_records_total{provider=\"fake\",stream=\"things\",change=\"updated\"} 1",
            "palisade_run_records_total{provider=\"fake\",stream=\"things\",change=\"deleted\"} 1",
            "palisade_run_records_total{provider=\"fake\",stream=\"things\",change=\"unchanged\"} 8",
            "palisade_run_records_total{provider=\"fake\",stream=\"things\",change=\"older\"} 0",
        ],
    );
    // What a page did is counted with the page: a run that goes on later is seen to move.
    let mut pages_left = 2;
    world.store.layer.failing(move |name| {
        let fails = name == "commit_page" && pages_left == 0;
        pages_left -= u32::from(name == "commit_page" && !fails);
        fails.then_some(Fault::Before)
    });
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.wait(Duration::from_secs(1)).await;
    world.worker.step(Queue::Background).await.unwrap();
    counts(
        &metrics,
        &[
            "palisade_runs_total{provider=\"fake\",stream=\"things\",mode=\"full\",end=\"done\"} 2",
            "palisade_run_pages_total{provider=\"fake\",stream=\"things\"} 9",
            "palisade_run_records_total{provider=\"fake\",stream=\"things\",change=\"unchanged\"} 14",
        ],
    );
    world.store.layer.failing(|_| None);
    world.wait(Duration::from_secs(600)).await;
    world.quiet().await;
    counts(
        &metrics,
        &[
            "palisade_runs_total{provider=\"fake\",stream=\"things\",mode=\"full\",end=\"done\"} 3",
            "palisade_run_records_total{provider=\"fake\",stream=\"things\",change=\"unchanged\"} 17",
        ],
    );
    // A run that cannot advance fails; what it committed before counts.
    world.fake.truth().list_is_stuck = true;
    world.worker.sync_now(&"conn".into(), &THINGS.into(), RunMode::Full).await.unwrap();
    world.wait(Duration::from_secs(1)).await;
    world.quiet().await;
    counts(&metrics, &["palisade_runs_total{provider=\"fake\",stream=\"things\",mode=\"full\",end=\"failed\"} 1"]);
    let text = metrics.encode();
    assert!(!text.contains("conn") && !text.contains("tenant"), "{text}");
}

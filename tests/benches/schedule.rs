//! What 100,000 connections cost that have nothing to do: a step of the look over their schedules, a claim that finds
//! nothing due, and memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use async_trait::async_trait;
use axum::body::Bytes;
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::{
    Claim, Connection, ConnectionState, Connections, Jobs, NewJob, Queue, Room, RunMode, Schedules, StreamKey, Work,
};
use palisade_core::worker::{Worker, WorkerSettings};
use palisade_core::{Clock, Timestamp, Transport};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::StripeProvider;
use tokio::sync::watch;

use crate::harness::{Child, Spread, number, process_cpu, resident, runtime};
use crate::report::{Row, Target};

/// Idle connections.
const MANY: usize = 100_000;
/// For the peer of the claim.
const FEW: usize = 200;
/// Jobs that wait for each.
const STREAMS: [&str; 5] = ["customers", "events", "invoices", "products", "subscriptions"];
/// Steps of the look in one job, and the pause between two of them: as the worker has them.
const STEPS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);
/// How long the workers idle.
const IDLE: Duration = Duration::from_secs(5);

/// Measures both sizes, each in processes of its own.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder beside the build");
    let files = [("many", MANY), ("few", FEW)].map(|(name, connections)| {
        let file = folder.path().join(format!("{name}.db")).display().to_string();
        let mut child = Child::start("schedule-fill", &[&file, &connections.to_string()]);
        child.json();
        child.end();
        file
    });
    let mut steps = Vec::new();
    let mut claims: [Vec<f64>; 2] = Default::default();
    let mut peaks = Vec::new();
    let mut idle = Vec::new();
    for _ in 0..count.min(5) {
        for (file, claims) in files.iter().zip(&mut claims) {
            let mut child = Child::start("schedule-idle", &[file]);
            let answer = child.json();
            child.end();
            claims.push(number(&answer, "claim_us"));
            if *file == files[0] {
                steps.push(number(&answer, "step_ms"));
                peaks.push(number(&answer, "peak_mib"));
                idle.push(number(&answer, "idle_cpu_ms"));
            }
        }
    }
    let [many, few] = &claims;
    let few_us = Spread::of(few.clone()).median;
    vec![
        Row::new("schedule", "one step of the look over schedules, 100,000 idle connections", Spread::of(steps), "ms")
            .target(Target::AtMost(10.0)),
        Row::new("schedule", "a claim that finds nothing due, 500,000 jobs waiting", Spread::of(many.clone()), "µs")
            .against(format!("1,000 jobs waiting: {few_us:.0} µs"), Spread::ratio(many, few))
            .target(Target::AtMost(1.5)),
        Row::new("schedule", "resident memory at its highest, 100,000 idle connections", Spread::of(peaks), "MiB")
            .target(Target::AtMost(143.0)),
        Row::new(
            "schedule",
            "CPU of four idle workers while the look is under way, 100,000 idle connections",
            Spread::of(idle),
            "ms/s",
        ),
    ]
}

/// Fills a database with connections, each with the waiting jobs of its streams. Prints how many.
pub(crate) fn fill(args: &[String]) {
    let [file, connections] = args else { panic!("two arguments") };
    let connections: usize = connections.parse().expect("a number");
    let later = SystemClock.now().plus(Duration::from_secs(86_400));
    runtime().block_on(async {
        let store = SqliteStore::open(SqliteConfig::at(Path::new(file))).expect("a store");
        for some in (0..connections).collect::<Vec<_>>().chunks(500) {
            let put = some.iter().map(|n| store.put_connection(connection(*n)));
            for put in futures_util::future::join_all(put).await {
                put.expect("a connection");
            }
            let jobs = some.iter().flat_map(|n| STREAMS.map(|stream| job(*n, stream, later)));
            store.enqueue(jobs.collect()).await.expect("jobs");
        }
        store.close().await.expect("the store closes");
    });
    println!("{}", serde_json::json!({ "jobs": connections * STREAMS.len() }));
}

fn connection(n: usize) -> Connection {
    Connection {
        id: format!("con_{n:06}").into(),
        tenant: format!("ten_{n:06}").into(),
        provider: "stripe".to_owned(),
        environment: Default::default(),
        account: Some(format!("acct_{n:06}")),
        base_url: None,
        state: ConnectionState::Active,
        created_at: Timestamp(0),
    }
}

/// The job of a stream's next run, as the worker makes it.
fn job(n: usize, stream: &str, at: Timestamp) -> NewJob {
    let key = StreamKey { connection: format!("con_{n:06}").into(), stream: stream.into() };
    NewJob {
        lane: Some(format!("sync/{}/{stream}", key.connection)),
        group: None,
        tenant: None,
        unique: Some(format!("sync/incremental/{}/{stream}", key.connection)),
        priority: 0,
        // Spread over a day that is not today.
        run_at: at.plus(Duration::from_secs(n as u64)),
        attempts_max: 1_000,
        work: Work::Sync { key, mode: RunMode::Incremental },
    }
}

/// Nobody is called: nothing is due.
struct Nobody;

#[async_trait]
impl Transport for Nobody {
    async fn send(&self, _: http::Request<Bytes>) -> palisade_core::Result<http::Response<Bytes>> {
        panic!("nothing is due")
    }
}

/// A worker over the database, in a process of its own: idle, then looking over schedules, then claiming.
pub(crate) fn idle(args: &[String]) {
    let [file] = args else { panic!("one argument") };
    let answer = runtime().block_on(async {
        let store = SqliteStore::open(SqliteConfig::at(Path::new(file))).expect("a store");
        let worker = Worker::builder(Arc::new(store.clone()), Arc::new(SystemClock), Arc::new(SystemRandom))
            .provider(Arc::new(StripeProvider::new()), Arc::new(Nobody))
            .settings(seldom())
            .build()
            .expect("a worker");
        let step_ms = look(&store, &worker).await;
        let idle_cpu_ms = rest(&worker).await;
        let claim_us = claim(&store).await;
        store.close().await.expect("the store closes");
        let peak = resident().unwrap_or_default().1 as f64 / f64::from(1 << 20);
        serde_json::json!({ "step_ms": step_ms, "claim_us": claim_us, "peak_mib": peak, "idle_cpu_ms": idle_cpu_ms })
    });
    println!("{answer}");
}

/// Schedules by which everything waits as it should: a look has nothing to mend.
fn seldom() -> WorkerSettings {
    let seldom = Duration::from_secs(60 * 86_400);
    WorkerSettings { incremental_every: seldom, full_every: seldom, ..WorkerSettings::default() }
}

/// Runs one job of the look, which takes some steps; returns what one of them takes.
async fn look(store: &SqliteStore, worker: &Worker) -> f64 {
    let job = NewJob {
        work: Work::Chore { name: "schedules".to_owned(), at: None },
        lane: None,
        unique: Some("chore/schedules".to_owned()),
        run_at: SystemClock.now(),
        ..job(0, "none", SystemClock.now())
    };
    let begun = SystemClock.now();
    store.enqueue(vec![job]).await.expect("a job");
    // Until it is this one that is told of: a look that was stopped has told of itself too.
    let took = loop {
        worker.step(Queue::Background).await.expect("a step");
        let reports = store.chore_reports().await.expect("a report");
        let report = reports.into_iter().find(|report| report.name == "schedules").filter(|one| one.ended_at >= begun);
        if let Some(report) = report {
            break report.took;
        }
    };
    // With few connections one step sees them all.
    let pauses = if took > PAUSE { PAUSE * (STEPS - 1) } else { Duration::ZERO };
    took.saturating_sub(pauses).as_secs_f64() * 1_000.0 / f64::from(if took > PAUSE { STEPS } else { 1 })
}

/// Lets two workers a queue wait for work; returns the CPU time they take a second.
async fn rest(worker: &Worker) -> f64 {
    let (stop, stopped) = watch::channel(false);
    let workers = [Queue::Events, Queue::Background].into_iter().flat_map(|queue| [queue, queue]);
    let workers: Vec<_> = workers
        .map(|queue| {
            let (worker, stopped) = (worker.clone(), stopped.clone());
            tokio::spawn(async move { worker.run(queue, stopped).await })
        })
        .collect();
    // What a start costs is not what is measured; the look over the schedules goes on for four minutes.
    tokio::time::sleep(IDLE).await;
    let before = process_cpu();
    tokio::time::sleep(IDLE).await;
    let used = process_cpu() - before;
    stop.send(true).expect("they listen");
    for worker in workers {
        worker.await.expect("it ends");
    }
    used.as_secs_f64() * 1_000.0 / IDLE.as_secs_f64()
}

/// Returns what a claim takes that finds nothing.
async fn claim(store: &SqliteStore) -> f64 {
    let mut took = Vec::new();
    for _ in 0..200 {
        let claim = Claim {
            now: SystemClock.now(),
            hold: Duration::from_secs(60),
            max: 64,
            queue: Queue::Background,
            room: Room::default(),
        };
        let begun = Instant::now();
        let claimed = store.claim(claim).await.expect("an answer");
        took.push(begun.elapsed().as_secs_f64() * 1e6);
        let chores = claimed.iter().all(|job| matches!(job.work, Work::Chore { .. }));
        assert!(chores, "nothing but chores is due");
    }
    Spread::of(took).median
}

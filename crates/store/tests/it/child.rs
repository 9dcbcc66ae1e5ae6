//! Child processes: the test binary runs itself with one test and a variable that says what to do.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use palisade_core::Timestamp;
use palisade_core::store::{
    Appended, Claim, Claimed, Effect, Inbox, JobEnd, Jobs, Lease, Missed, OutboxChange, PageCommit, Queue,
    Records as _, Room, Run, Settled, Settlement, Work,
};
use palisade_core::sync::Cursor;
use palisade_store::SqliteStore;

use crate::subject::{delivery, open};
use crate::suite::variable;

const VARIABLE: &str = "PALISADE_TEST_CHILD";
/// Appends under way at once in a writing child.
const WRITERS: u64 = 16;
/// What a child that stood still says was taken of what it did afterwards.
const EXTENDED: i64 = 1;
const PAGE: i64 = 2;
const SETTLED: i64 = 4;

/// Starts a child on a database. `prefix` is a shell's preparation, such as a limit.
pub(crate) fn start(what: &str, path: &Path, prefix: &str) -> Child {
    let script = format!("{prefix} exec \"$0\" --exact child::works_when_told --nocapture --test-threads=1");
    Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(VARIABLE, format!("{what}:{}", path.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Takes the numbers a child prints: lines of `#` and a number, whatever the test harness prints between them.
pub(crate) fn number(line: &str) -> Option<i64> {
    line.rsplit_once('#')?.1.trim().parse().ok()
}

/// Does nothing by itself; as a child, does what the variable says and prints what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_when_told() {
    let Some(task) = variable(VARIABLE) else { return };
    let (what, path) = task.split_once(':').expect("a task and a path");
    match what {
        "append" => append(Path::new(path)).await,
        "claim" => claim(Path::new(path)).await,
        "stall" => stall(Path::new(path)).await,
        other => panic!("unknown task {other}"),
    }
}

fn tell(number: i64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n#{number}").and_then(|()| out.flush()).expect("the parent listens");
}

/// Appends events until it is killed or an append fails; prints the rows acknowledged, and -1 at a failure.
async fn append(path: &Path) {
    let store = open(path);
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            for number in 0_u64.. {
                let body = Bytes::from(vec![b'x'; 700]);
                match store.append(vec![delivery(&format!("{writer}-{number}"), body)]).await {
                    Ok(appended) => {
                        let Appended::New(row) = appended[0][0] else { panic!("a new event") };
                        tell(row.0);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), palisade_core::ErrorKind::Store, "{error}");
                        tell(-1);
                        return;
                    }
                }
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Claims until nothing is left; prints the jobs it was given.
async fn claim(path: &Path) {
    let store = open(path);
    let claim = Claim {
        now: Timestamp(0),
        hold: Duration::from_secs(60),
        max: 3,
        queue: Queue::Background,
        room: Room::default(),
    };
    loop {
        let claimed = store.claim(claim.clone()).await.unwrap();
        if claimed.is_empty() {
            return store.close().await.unwrap();
        }
        for one in claimed {
            tell(one.lease.job.0);
        }
    }
}

/// Claims some jobs, commits a page of each run among them and prints the jobs, then -1. When it is told to go on, does
/// with each what its lease allowed, with an effect each, and prints for each job what was taken of it: [`EXTENDED`],
/// [`PAGE`] and [`SETTLED`], added up.
async fn stall(path: &Path) {
    let store = open(path);
    let (hold, room) = (Duration::from_secs(1), Room::default());
    let claim = Claim { now: Timestamp(0), hold, max: 3, queue: Queue::Background, room };
    let mut held = Vec::new();
    for one in store.claim(claim).await.unwrap() {
        let run = begin(&store, &one).await;
        if let Some(run) = &run {
            store.commit_page(page(one.lease, run, "child")).await.unwrap();
        }
        tell(one.lease.job.0);
        held.push((one.lease, run));
    }
    tell(-1);
    std::io::stdin().read_line(&mut String::new()).expect("the parent tells");
    let leases: Vec<Lease> = held.iter().map(|(lease, _)| *lease).collect();
    let extended = store.extend(leases, Timestamp(9_000)).await.unwrap();
    for ((lease, run), extended) in held.into_iter().zip(extended) {
        let mut taken = if extended { EXTENDED } else { 0 };
        if let Some(run) = run {
            match store.commit_page(page(lease, &run, "late")).await {
                Ok(_) => taken += PAGE,
                Err(error) => assert_eq!(error.kind(), palisade_core::ErrorKind::LeaseLost, "{error}"),
            }
        }
        if !matches!(store.settle(vec![done(lease, "child")]).await.unwrap()[..], [Settled::LeaseLost]) {
            taken += SETTLED;
        }
        tell(taken);
    }
    store.close().await.unwrap();
}

/// Begins or takes up the run of a claimed job, if it is one of a run.
pub(crate) async fn begin(store: &SqliteStore, claimed: &Claimed) -> Option<Run> {
    let Work::Sync { key, mode } = &claimed.work else { return None };
    Some(store.start_run(claimed.lease, key.clone(), *mode, Timestamp(1)).await.unwrap())
}

/// A page without changes that moves a run's cursor.
pub(crate) fn page(lease: Lease, run: &Run, next: &str) -> PageCommit {
    PageCommit {
        lease,
        run: run.id,
        read_since: 0,
        changes: Vec::new(),
        deliveries: Vec::new(),
        missed_before: Timestamp(0),
        unheard: BTreeSet::new(),
        missed: Missed::default(),
        bad: Vec::new(),
        fetched: Vec::new(),
        endpoints: Vec::new(),
        total: None,
        next: Some(Cursor::new(next)),
        now: Timestamp(1),
    }
}

/// A settlement that notes who did a job.
pub(crate) fn done(lease: Lease, by: &str) -> Settlement {
    let sql = "INSERT INTO done (job, by) VALUES (?1, ?2)".to_owned();
    Settlement {
        lease,
        end: JobEnd::Done,
        now: Timestamp(1_500),
        effects: vec![Effect { sql, values: vec![lease.job.0.into(), by.into()] }],
        merges: Vec::new(),
        follow: Vec::new(),
        outbox: OutboxChange::default(),
    }
}

//! Child processes: the test binary runs itself with one test and a variable that says what to do.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use palisade_core::Timestamp;
use palisade_core::store::{
    Appended, Claim, Effect, Inbox, JobEnd, Jobs, Lease, OutboxChange, Queue, Room, Settled, Settlement,
};

use crate::subject::{delivery, open};
use crate::suite::variable;

const VARIABLE: &str = "PALISADE_TEST_CHILD";
/// Appends under way at once in a writing child.
const WRITERS: u64 = 16;

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

/// Claims some jobs and prints them, then -1; when it is told to go on, settles them with an effect each and prints 1 for
/// what was committed and 0 for what was refused.
async fn stall(path: &Path) {
    let store = open(path);
    let (hold, room) = (Duration::from_secs(1), Room::default());
    let claim = Claim { now: Timestamp(0), hold, max: 3, queue: Queue::Background, room };
    let claimed = store.claim(claim).await.unwrap();
    for one in &claimed {
        tell(one.lease.job.0);
    }
    tell(-1);
    std::io::stdin().read_line(&mut String::new()).expect("the parent tells");
    let leases: Vec<Lease> = claimed.iter().map(|one| one.lease).collect();
    let extended = store.extend(leases.clone(), Timestamp(9_000)).await.unwrap();
    for (lease, extended) in leases.into_iter().zip(extended) {
        let settled = store.settle(vec![done(lease, "child")]).await.unwrap();
        tell(i64::from(extended || !matches!(settled[..], [Settled::LeaseLost])));
    }
    store.close().await.unwrap();
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

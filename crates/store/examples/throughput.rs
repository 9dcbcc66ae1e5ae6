//! How fast the SQLite store takes deliveries and pages, beside what it is compared with, in one run:
//!
//! ```sh
//! cargo run --release -p palisade-store --example throughput
//! ```
//!
//! A page size may be given in bytes (`… --example throughput 4096`). Rates depend on the disk's fsync; the ratios within one run are the result. Each figure is the median of the rounds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement that fails may panic"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use palisade_core::Timestamp;
use palisade_core::store::{
    Claim, Inbox, Jobs, NewDelivery, NewEvent, NewJob, PageCommit, Queue, Records, Room, RunMode, StreamKey, Work,
};
use palisade_core::sync::{Change, Span, State};
use palisade_store::{SqliteConfig, SqliteStore};
use rusqlite::{Connection, params};
use tokio::sync::oneshot;
use tokio::time::Instant;

const IN_FLIGHT: usize = 64;
const APPENDS: usize = 12_000;
const ROUNDS: usize = 3;
const BODY_BYTES: usize = 1_024;
const RECORDS: usize = 50_000;

/// CPU seconds of this process so far, from the kernel's count of 10 ms ticks.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

struct Measured {
    per_second: f64,
    cpu_micros: f64,
}

fn median(mut of: Vec<Measured>) -> Measured {
    of.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
    let middle = of.len() / 2;
    of.swap_remove(middle)
}

fn show(what: &str, measured: &Measured) {
    println!("{what:<44} {:>9.0} /s  {:>7.1} CPU us each", measured.per_second, measured.cpu_micros);
}

/// Opens a store, in a file made with the page size given on the command line, if any.
fn open(path: &Path) -> SqliteStore {
    if let Some(page) = std::env::args().nth(1) {
        let page: u32 = page.parse().expect("a page size in bytes");
        let made = Connection::open(path).unwrap();
        made.execute_batch(&format!("PRAGMA page_size = {page}; VACUUM;")).unwrap();
    }
    SqliteStore::open(SqliteConfig::at(path)).unwrap()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut appends: [Vec<Measured>; 3] = Default::default();
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir_in(".").unwrap();
        let store = open(&folder.path().join("a.db"));
        appends[0].push(load(Target::Store(store)).await);
        appends[1].push(load(Target::Bare(bare(&folder.path().join("b.db"), usize::MAX))).await);
        appends[2].push(load(Target::Bare(bare(&folder.path().join("c.db"), 1))).await);
    }
    let [store, bare, single] = appends.map(median);
    println!("deliveries of 1 KiB, {IN_FLIGHT} in flight, synchronous=FULL, page 16 KiB");
    show("  store: event and job, group commit", &store);
    show("  bare: the same row, group commit", &bare);
    show("  bare: the same row, a transaction each", &single);
    println!(
        "  store / bare group {:.2}, store / single {:.2}",
        store.per_second / bare.per_second,
        store.per_second / single.per_second
    );
    println!("\npages of 1 KiB records, {RECORDS} records");
    for per_page in [100, 1_000] {
        let mut rounds: [Vec<Measured>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (slot, measured) in rounds.iter_mut().zip(pages(per_page).await) {
                slot.push(measured);
            }
        }
        for (what, rounds) in ["new", "unchanged", "changed"].into_iter().zip(rounds) {
            show(&format!("  {per_page} a page, {what}"), &median(rounds));
        }
    }
}

fn delivery(number: usize) -> NewDelivery {
    NewDelivery {
        endpoint: "stripe-main".into(),
        connection: "acme".into(),
        provider: "stripe".to_owned(),
        received_at: Timestamp(number as i64),
        headers: vec![("stripe-version".to_owned(), "2026-01-01".to_owned())],
        body: Bytes::from(vec![b'x'; BODY_BYTES]),
        events: vec![NewEvent {
            id: format!("evt_{:016x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).into(),
            kind: "invoice.paid".to_owned(),
            subscription: None,
            account: None,
            created: Some(Timestamp(1)),
            ordering_key: None,
            payload: None,
            wanted: true,
            priority: 0,
        }],
    }
}

#[derive(Clone)]
enum Target {
    Store(SqliteStore),
    Bare(mpsc::Sender<(NewDelivery, oneshot::Sender<()>)>),
}

async fn load(target: Target) -> Measured {
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..IN_FLIGHT {
        let (target, next) = (target.clone(), next.clone());
        tasks.push(tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if number >= APPENDS {
                    return;
                }
                match &target {
                    Target::Store(store) => drop(store.append(vec![delivery(number)]).await.unwrap()),
                    Target::Bare(sender) => {
                        let (reply, answer) = oneshot::channel();
                        sender.send((delivery(number), reply)).unwrap();
                        answer.await.unwrap();
                    }
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let per_second = APPENDS as f64 / start.elapsed().as_secs_f64();
    let measured = Measured { per_second, cpu_micros: (cpu_seconds() - cpu) * 1e6 / APPENDS as f64 };
    if let Target::Store(store) = target {
        store.close().await.unwrap();
    }
    measured
}

/// One table with the row and its dedupe key, one thread, up to `most` rows a commit.
fn bare(path: &Path, most: usize) -> mpsc::Sender<(NewDelivery, oneshot::Sender<()>)> {
    let (sender, receiver) = mpsc::channel::<(NewDelivery, oneshot::Sender<()>)>();
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
             PRAGMA cache_size = -32768; CREATE TABLE event (id INTEGER PRIMARY KEY, endpoint TEXT, event_id TEXT, \
             kind TEXT, received_at INTEGER, body BLOB, UNIQUE (endpoint, event_id))",
        )
        .unwrap();
    std::thread::spawn(move || {
        while let Ok(first) = receiver.recv() {
            let mut batch = vec![first];
            while batch.len() < most
                && let Ok(more) = receiver.try_recv()
            {
                batch.push(more);
            }
            connection.prepare_cached("BEGIN IMMEDIATE").unwrap().execute([]).unwrap();
            for (delivery, _) in &batch {
                connection
                    .prepare_cached(
                        "INSERT INTO event (endpoint, event_id, kind, received_at, body) VALUES (?1, ?2, ?3, ?4, ?5) \
                         ON CONFLICT DO NOTHING",
                    )
                    .unwrap()
                    .execute(params![
                        delivery.endpoint.as_str(),
                        delivery.events[0].id.as_str(),
                        delivery.events[0].kind,
                        delivery.received_at.millis(),
                        &delivery.body[..]
                    ])
                    .unwrap();
            }
            connection.prepare_cached("COMMIT").unwrap().execute([]).unwrap();
            for (_, reply) in batch {
                reply.send(()).unwrap();
            }
        }
    });
    sender
}

/// A full run of new records, one of unchanged and one of changed ones.
async fn pages(per_page: usize) -> Vec<Measured> {
    let folder = tempfile::tempdir_in(".").unwrap();
    let store = open(&folder.path().join("r.db"));
    let key = StreamKey { connection: "acme".into(), stream: "customers".into() };
    let work = Work::Sync { key: key.clone(), mode: RunMode::Full };
    let job = NewJob {
        work,
        lane: None,
        group: None,
        tenant: None,
        unique: None,
        priority: 0,
        run_at: Timestamp(0),
        attempts_max: 9,
    };
    store.enqueue(vec![job]).await.unwrap();
    let hold = Duration::from_secs(1_000);
    let claim = Claim { now: Timestamp(0), hold, max: 1, queue: Queue::Background, room: Room::default() };
    let lease = store.claim(claim).await.unwrap()[0].lease;
    let run = store.start_run(lease, key.clone(), RunMode::Full, Timestamp(0)).await.unwrap();
    let mut measured = Vec::new();
    for (round, filler) in [(1, b'x'), (2, b'x'), (3, b'y')] {
        let batches: Vec<PageCommit> = (0..RECORDS / per_page)
            .map(|page| PageCommit {
                missed: Default::default(),
                missed_before: Timestamp(0),
                unheard: Default::default(),
                endpoints: Vec::new(),
                bad: Vec::new(),
                fetched: Default::default(),
                total: None,
                lease,
                run: run.id,
                read_since: u64::MAX >> 1,
                changes: (0..per_page).map(|n| change(&key, page * per_page + n, round, filler)).collect(),
                deliveries: Vec::new(),
                next: None,
                now: Timestamp(round),
            })
            .collect();
        let (start, cpu) = (Instant::now(), cpu_seconds());
        for page in batches {
            store.commit_page(page).await.unwrap();
        }
        measured.push(Measured {
            per_second: RECORDS as f64 / start.elapsed().as_secs_f64(),
            cpu_micros: (cpu_seconds() - cpu) * 1e6 / RECORDS as f64,
        });
    }
    store.close().await.unwrap();
    measured
}

fn change(key: &StreamKey, number: usize, round: i64, filler: u8) -> Change {
    let mut data = format!("{{\"n\":{number},\"pad\":\"").into_bytes();
    data.resize(1_022, filler);
    data.extend_from_slice(b"\"}");
    let id = format!("cus_{:014x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8);
    Change {
        stream: key.stream.clone(),
        id: id.into(),
        span: Span::exact(round),
        state: State::Present(Bytes::from(data)),
    }
}

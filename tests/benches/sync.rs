//! A full sync of many customers: how much CPU a record costs, and whether memory grows with their number.
//!
//! Provider and hub are processes of their own, so that what is counted is the hub's alone: all its threads, from the
//! socket to the commit with its feed.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Bytes;
use palisade_core::auth::{FixedCredential, Scheme};
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::{Connection, ConnectionState, Connections, Queue, Records, RunMode, StreamKey};
use palisade_core::transport::HttpTransport;
use palisade_core::worker::Worker;
use palisade_core::{Call, Client, Clock, Operation, Provider, StreamName, Transport};
use palisade_emulator::stripe::{Seed, Stripe as Emulator, StripeConfig};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::StripeProvider;
use rusqlite::params;

use crate::harness::{Child, Spread, number, process_cpu, resident, runtime};
use crate::report::{Row, Target};
use crate::stacks::READ;

/// The customers of the large account.
const MANY: usize = 100_000;
/// The customers of the small account, for the memory.
const FEW: usize = 10_000;
/// The size of each.
const CUSTOMER_BYTES: usize = 1_024;
/// Customers per page: Stripe's largest.
const PAGE: usize = 100;
/// The connection that is synced.
const CONNECTION: &str = "acme";
/// The stream that is synced.
const STREAM: &str = "customers";

/// Measures full syncs of both accounts beside what they cannot do without: fetching the bytes and storing the rows.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder beside the build");
    let mut many = Child::start("sync-provider", &[&MANY.to_string()]);
    let mut few = Child::start("sync-provider", &[&FEW.to_string()]);
    let (many_base, few_base) = (many.line(), few.line());
    let mut measured: [Vec<f64>; 4] = Default::default();
    let mut peaks: [Vec<f64>; 2] = Default::default();
    // A whole sync takes seconds: no round is thrown away, and five are enough.
    for round in 0..count.min(5) {
        for turn in 0..4 {
            let who = (round + turn) % 4;
            let file = folder.path().join(format!("{who}-{round}.db"));
            let (name, base, records) = match who {
                0 => ("sync-hub", &many_base, MANY),
                1 => ("sync-hub", &few_base, FEW),
                2 => ("sync-fetch", &many_base, MANY),
                _ => ("sync-store", &many_base, MANY),
            };
            let mut child = Child::start(name, &[base, &records.to_string(), &file.display().to_string()]);
            let answer = child.json();
            child.end();
            measured[who].push(number(&answer, "cpu_us") / records as f64);
            if let Some(peaks) = peaks.get_mut(who) {
                peaks.push(number(&answer, "peak_mib"));
            }
            for ending in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{ending}", file.display()));
            }
        }
    }
    many.end();
    few.end();
    let [ours, _, fetch, store] = &measured;
    let floor: Vec<f64> = fetch.iter().zip(store).map(|(fetch, store)| fetch + store).collect();
    let per_second = Spread::of(ours.iter().map(|us| 1e6 / us).collect());
    let median = |values: &[f64]| Spread::of(values.to_vec()).median;
    vec![
        Row::new("sync", "records per CPU second of the hub, 100,000 customers of 1 KiB", per_second, "")
            .against(
                format!(
                    "raw reqwest fetching ({:.1} µs) + bare rows into SQLite ({:.1} µs): {:.0}",
                    median(fetch),
                    median(store),
                    1e6 / median(&floor)
                ),
                Spread::ratio(&floor, ours),
            )
            .figure_target(Target::AtLeast(40_000.0)),
        Row::new("sync", "resident memory at its highest, 100,000 customers", Spread::of(peaks[0].clone()), "MiB")
            .against(format!("10,000 customers: {:.0} MiB", median(&peaks[1])), Spread::ratio(&peaks[0], &peaks[1]))
            .target(Target::AtMost(1.25)),
    ]
}

/// The provider in a process of its own: `customers`. Prints its base URL and answers until its input ends.
pub(crate) fn provider(args: &[String]) {
    let [customers] = args else { panic!("one argument") };
    let customers = customers.parse().expect("a number");
    std::thread::spawn(|| {
        let _ = std::io::stdin().lines().count();
        std::process::exit(0);
    });
    runtime().block_on(async {
        let emulator = Emulator::start(StripeConfig::default()).await.expect("a free port");
        emulator.populate(&Seed { customers, customer_bytes: CUSTOMER_BYTES, ..Seed::default() });
        println!("{}", emulator.base_url());
        std::future::pending::<()>().await;
    });
}

fn arguments(args: &[String]) -> (&str, usize, &Path) {
    let [base, records, file] = args else { panic!("three arguments") };
    (base, records.parse().expect("a number"), Path::new(file))
}

fn print_cost(start: std::time::Duration) {
    let peak = resident().unwrap_or_default().1 as f64 / f64::from(1 << 20);
    let cpu_us = (process_cpu() - start).as_micros() as f64;
    println!("{}", serde_json::json!({ "cpu_us": cpu_us, "peak_mib": peak }));
}

/// Lifts the provider's published limit, which would only make the clock on the wall run: the limiter is asked all
/// the same.
struct Ample(Client);

#[async_trait]
impl Transport for Ample {
    async fn send(&self, mut request: http::Request<Bytes>) -> palisade_core::Result<http::Response<Bytes>> {
        static LIST: Operation = Operation {
            provider: "stripe",
            name: "customers.list",
            url_template: "/v1/customers",
            body_bytes_max: 8 << 20,
            ..READ
        };
        if let Some(call) = request.extensions_mut().get_mut::<Call>() {
            call.operation = &LIST;
        }
        self.0.send(request).await
    }
}

/// The hub's part in a process of its own: a worker runs one full sync into a store.
pub(crate) fn hub(args: &[String]) {
    let (base, records, file) = arguments(args);
    let start = process_cpu();
    runtime().block_on(async {
        let store = SqliteStore::open(SqliteConfig::at(file)).expect("a store");
        let provider = StripeProvider::new().allowing(base);
        let credential =
            FixedCredential::new(&Scheme::Bearer(StripeConfig::default().api_key.into())).expect("a credential");
        let transport = Arc::new(HttpTransport::new().expect("a transport"));
        let client = Client::builder(provider.profile(), transport, Arc::new(credential)).build().expect("a client");
        let worker = Worker::builder(Arc::new(store.clone()), Arc::new(SystemClock), Arc::new(SystemRandom))
            .provider(Arc::new(provider), Arc::new(Ample(client)))
            .build()
            .expect("a worker");
        let connection = Connection {
            id: CONNECTION.into(),
            tenant: "acme".into(),
            provider: "stripe".to_owned(),
            environment: Default::default(),
            account: None,
            base_url: Some(base.to_owned()),
            state: ConnectionState::Active,
            created_at: SystemClock.now(),
        };
        store.put_connection(connection.clone()).await.expect("a connection");
        let stream = StreamName::new(STREAM);
        worker.sync_now(&connection.id, &stream, RunMode::Full).await.expect("a run");
        let key = StreamKey { connection: connection.id, stream };
        while store.stream(key.clone()).await.expect("a stream").full_at.is_none() {
            worker.step(Queue::Background).await.expect("a step");
        }
        let status = store.stream(key).await.expect("a stream");
        assert_eq!(status.records, records as u64, "every customer is stored");
        store.close().await.expect("the store closes");
    });
    print_cost(start);
}

/// Fetches the same pages with raw reqwest, and reads nothing of them but the last id.
pub(crate) fn fetch(args: &[String]) {
    let (base, records, _) = arguments(args);
    let start = process_cpu();
    runtime().block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut url = format!("{base}/v1/customers?limit={PAGE}");
        let mut pages = 0;
        loop {
            let request = client.get(&url).bearer_auth(StripeConfig::default().api_key);
            let body = request.send().await.expect("an answer").text().await.expect("a body");
            pages += 1;
            let last = body.rfind(r#""id":"cus_"#).map(|at| &body[at + 6..]).expect("a customer");
            let id = last.split('"').next().expect("an id");
            if pages * PAGE >= records {
                break;
            }
            url = format!("{base}/v1/customers?limit={PAGE}&starting_after={id}");
        }
    });
    print_cost(start);
}

/// Stores rows of the same size with the same indexes, a page a commit, and does nothing else.
pub(crate) fn store(args: &[String]) {
    let (_, records, file) = arguments(args);
    let document = vec![b'x'; CUSTOMER_BYTES];
    let start = process_cpu();
    let connection = rusqlite::Connection::open(file).expect("a database");
    connection
        .execute_batch(
            "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 1000; PRAGMA cache_size = -16384;
             CREATE TABLE record (id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, seq INTEGER NOT NULL,
                 hash INTEGER NOT NULL, ext_id TEXT NOT NULL, data BLOB) STRICT;
             CREATE UNIQUE INDEX record_key ON record (stream, ext_id);
             CREATE UNIQUE INDEX record_seq ON record (stream, seq);",
        )
        .expect("the table");
    for page in 0..records / PAGE {
        connection.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
        for row in 0..PAGE {
            let seq = page * PAGE + row;
            // Ids in no order, as a provider's are.
            let id = format!("cus_{:016x}", (seq as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            connection
                .prepare_cached("INSERT INTO record (stream, seq, hash, ext_id, data) VALUES (1, ?1, ?1, ?2, ?3)")
                .and_then(|mut insert| insert.execute(params![seq as i64, id, document]))
                .expect("a row");
        }
        connection.execute_batch("COMMIT").expect("a commit");
    }
    drop(connection);
    print_cost(start);
}

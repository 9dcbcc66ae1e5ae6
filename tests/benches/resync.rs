//! Syncs of a source in this process: what a record costs without a network, when it is new, when nothing changed and
//! when 1 % did, also where a webhook should have told of it and did not; whether memory stays flat up to a million; and how many pages are read again after a kill.

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use palisade_core::client::Profile;
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::{
    Connection, ConnectionState, Connections, Inbox, NewDelivery, NewEvent, Queue, Records, RunMode, StreamKey,
};
use palisade_core::sync::{Change, Cursor, Next, Page, Site, Source, Span, State, StreamKind, StreamSpec, Told};
use palisade_core::webhook::Event;
use palisade_core::worker::{Worker, WorkerSettings};
use palisade_core::{
    Clock, EndpointId, Error, ErrorKind, Manifest, Provider, RecordId, Result, StreamName, Timestamp, Transport,
};
use palisade_store::{SqliteConfig, SqliteStore};

use crate::harness::{Child, Spread, number, process_cpu, resident, runtime};
use crate::report::{Row, Target};
use crate::stacks::ByStatus;

/// Records of the account that is timed.
const RECORDS: usize = 100_000;
/// Records for the memory: a small account and a large one.
const FEW: usize = 10_000;
const MANY: usize = 1_000_000;
/// Records of the account whose sync is killed.
const KILLED: usize = 20_000;
/// Records of a page.
const PAGE: usize = 100;
/// The size of each.
const RECORD_BYTES: usize = 1_024;
/// One of so many changes between two runs, where some do.
const CHANGED: usize = 100;
/// After this much nobody holds what a killed process held.
const LATER: Duration = Duration::from_secs(600);
/// Syncs that are killed, with pages read ahead and without.
const KILLS: usize = 5;

/// Measures syncs and kills.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder beside the build");
    let [mut first, mut unchanged, mut some, mut missed]: [Vec<f64>; 4] = Default::default();
    let mut peaks: [Vec<f64>; 2] = Default::default();
    for round in 0..count.min(5) {
        let file = folder.path().join(format!("{round}.db"));
        let mut child = Child::start("resync-hub", &[&RECORDS.to_string(), &file.display().to_string(), "4"]);
        for measured in [&mut first, &mut unchanged, &mut some, &mut missed] {
            measured.push(number(&child.json(), "cpu_us") / RECORDS as f64);
        }
        child.end();
        let _ = std::fs::remove_file(file);
    }
    // Once: a million records are a gigabyte to write.
    for (peaks, records) in peaks.iter_mut().zip([FEW, MANY]) {
        let file = folder.path().join(format!("{records}.db"));
        let mut child = Child::start("resync-hub", &[&records.to_string(), &file.display().to_string(), "2"]);
        let _first = child.json();
        peaks.push(number(&child.json(), "peak_mib"));
        child.end();
        let _ = std::fs::remove_file(file);
    }
    let per_second = |each: &[f64]| Spread::of(each.iter().map(|us| 1e6 / us).collect());
    let share: Vec<f64> =
        first.iter().zip(&unchanged).map(|(first, unchanged)| unchanged + 1.3 * first / CHANGED as f64).collect();
    let [few, many] = &peaks;
    let mut rows = vec![
        Row::new("resync", "records per CPU second from memory, all new, 1 KiB", per_second(&first), "")
            .target(Target::AtLeast(60_000.0)),
        Row::new("resync", "records per CPU second from memory, none changed", per_second(&unchanged), "")
            .against(format!("all new: {:.0}", per_second(&first).median), Spread::ratio(&first, &unchanged))
            .target(Target::AtLeast(3.0)),
        Row::new("resync", "a record where 1 % changed", Spread::of(some.clone()), "µs")
            .against(
                format!("none changed + 1.3 × 1 % of all new: {:.2} µs", Spread::of(share.clone()).median),
                Spread::ratio(&some, &share),
            )
            .target(Target::AtMost(1.0)),
        Row::new("resync", "a record where 1 % changed and no webhook told of it", Spread::of(missed.clone()), "µs")
            .against(
                format!("1 % changed, webhooks never heard: {:.2} µs", Spread::of(some.clone()).median),
                Spread::ratio(&missed, &some),
            ),
        Row::new("resync", "resident memory at its highest, a million records, twice", Spread::of(many.clone()), "MiB")
            .against(format!("10,000 records: {:.0} MiB", few[0]), Spread::ratio(many, few))
            .target(Target::AtMost(1.25)),
    ];
    for (ahead, what, most) in [(false, "one page at a time", 1.0), (true, "pages read ahead", 2.0)] {
        let again: Vec<f64> = (0..KILLS).map(|kill| read_again(folder.path(), ahead, kill)).collect();
        rows.push(
            Row::new("resync", format!("pages read again after a kill at half-way, {what}"), Spread::of(again), "")
                .target(Target::AtMost(most)),
        );
    }
    rows
}

/// Kills a sync at half-way and lets another process go on; returns how many pages were asked for twice.
fn read_again(folder: &Path, ahead: bool, kill: usize) -> f64 {
    let pages = KILLED / PAGE;
    let file = folder.join(format!("killed-{ahead}-{kill}.db")).display().to_string();
    let records = KILLED.to_string();
    let mut child = Child::start("resync-killed", &[&records, &file, &ahead.to_string(), "0"]);
    let mut asked = 0;
    // Not at the same place of each page's life.
    while asked < pages / 2 + kill {
        let _page = child.line();
        asked += 1;
    }
    asked += child.kill();
    let later = LATER.as_secs().to_string();
    let mut child = Child::start("resync-killed", &[&records, &file, &ahead.to_string(), &later]);
    while child.line() != "done" {
        asked += 1;
    }
    child.end();
    (asked - pages) as f64
}

/// A provider in this process: records of a version that the one who asks may raise.
#[derive(Debug)]
struct Memory {
    records: usize,
    /// Runs so far: the content of one of a hundred records changes with every other.
    version: Arc<AtomicU64>,
    /// When it was raised last, in milliseconds.
    raised: Arc<AtomicI64>,
}

/// What webhooks tell of, where any is heard.
const TOLD: &str = "thing.updated";

const STREAM: &str = "things";
const STREAMS: &[StreamSpec] = &[StreamSpec { name: STREAM, kind: StreamKind::Records }];

impl Provider for Memory {
    fn manifest(&self) -> &'static Manifest {
        static MANIFEST: Manifest = Manifest {
            name: "memory",
            title: "Memory",
            base_url: "https://memory.example/",
            hosts: &["memory.example"],
            api_version: None,
        };
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        Profile::new("memory", &["memory.example"], Arc::new(ByStatus))
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(self)
    }
}

impl Source for Memory {
    fn streams(&self) -> &'static [StreamSpec] {
        STREAMS
    }

    fn request(&self, site: &Site, _: &StreamName, cursor: Option<&Cursor>) -> Result<http::Request<Bytes>> {
        let from = cursor.map_or("0", Cursor::as_str);
        let request = http::Request::get(format!("{}things?from={from}", site.base_url)).body(Bytes::new());
        request.map_err(|_| Error::new(ErrorKind::Invalid, "the address cannot be read"))
    }

    fn page(
        &self,
        stream: &StreamName,
        cursor: Option<&Cursor>,
        _: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Page> {
        let from: usize = cursor.map_or(Ok(0), |cursor| cursor.as_str().parse()).expect("a cursor of ours");
        let until = (from + PAGE).min(self.records);
        let version = self.version.load(Ordering::Relaxed);
        let change = |number: usize| Change {
            stream: stream.clone(),
            // Ids in no order, as a provider's are.
            id: RecordId::new(format!("thg_{:016x}", (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            span,
            state: State::Present(document(number, if number.is_multiple_of(CHANGED) { version } else { 0 })),
        };
        let next =
            if until < self.records { Next::More(Cursor::new(until.to_string())) } else { Next::Done { resume: None } };
        Ok(Page::of_changes((from..until).map(change).collect(), next))
    }

    fn fetch(&self, _: &Site, _: &StreamName, _: &RecordId) -> Result<http::Request<Bytes>> {
        panic!("nothing has to be fetched")
    }

    fn fetched(&self, _: &StreamName, _: &RecordId, _: &http::Response<Bytes>, _: Span) -> Result<Change> {
        panic!("nothing has to be fetched")
    }

    fn told(&self, change: &Change, _: Option<&Bytes>) -> Option<Told> {
        let State::Present(data) = &change.state else { return None };
        let digits = data.get(VERSION_AT..VERSION_AT + 10)?;
        let version = digits.iter().fold(0, |version, digit| version * 10 + u64::from(digit - b'0'));
        let is_new = version > 0 && version == self.version.load(Ordering::Relaxed);
        let at = Timestamp(if is_new { self.raised.load(Ordering::Relaxed) } else { 0 });
        Some(Told { at, by: TOLD.into(), is_notice: false })
    }

    fn concerns(&self, _: &str) -> bool {
        false
    }

    fn apply(&self, _: &Event) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }
}

/// Where a record's version stands in its content.
const VERSION_AT: usize = 30;

/// Makes a record's content as cheaply as can be: what is measured is what becomes of it.
fn document(number: usize, version: u64) -> Bytes {
    static TEMPLATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut text = br#"{"id":"0000000000","version":"0000000000","filling":""#.to_vec();
        text.resize(RECORD_BYTES - 2, b'x');
        text.extend_from_slice(b"\"}");
        text
    });
    let mut text = TEMPLATE.clone();
    for (at, mut value) in [(7, number as u64), (VERSION_AT, version)] {
        for digit in text[at..at + 10].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    text.into()
}

/// Answers every page at once; the page itself is made where it is read.
struct Answers {
    /// Whether each page that is asked for is printed.
    tell: bool,
}

#[async_trait]
impl Transport for Answers {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        if self.tell {
            println!("{}", request.uri().query().unwrap_or_default());
        }
        Ok(http::Response::new(Bytes::new()))
    }
}

/// The clock of a process that starts later, or goes on later: by so many seconds.
#[derive(Clone, Debug, Default)]
struct Late(Arc<AtomicU64>);

impl Clock for Late {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus(Duration::from_secs(self.0.load(Ordering::Relaxed)))
    }
}

/// A hub's worker over one such connection.
struct Setting {
    store: SqliteStore,
    worker: Worker,
    key: StreamKey,
    version: Arc<AtomicU64>,
    raised: Arc<AtomicI64>,
    clock: Late,
}

impl Setting {
    async fn new(file: &str, records: usize, answers: Answers, read_ahead: bool, late: Duration) -> Self {
        let store = SqliteStore::open(SqliteConfig::at(file)).expect("a store");
        let version = Arc::new(AtomicU64::new(0));
        let raised = Arc::new(AtomicI64::new(0));
        let provider = Memory { records, version: Arc::clone(&version), raised: Arc::clone(&raised) };
        let clock = Late(Arc::new(AtomicU64::new(late.as_secs())));
        let worker = Worker::builder(Arc::new(store.clone()), Arc::new(clock.clone()), Arc::new(SystemRandom))
            .provider(Arc::new(provider), Arc::new(answers))
            .settings(WorkerSettings { read_ahead, ..WorkerSettings::default() })
            .build()
            .expect("a worker");
        let connection = Connection {
            id: "acme".into(),
            tenant: "acme".into(),
            provider: "memory".to_owned(),
            environment: Default::default(),
            account: None,
            base_url: None,
            state: ConnectionState::Active,
            created_at: SystemClock.now(),
        };
        store.put_connection(connection.clone()).await.expect("a connection");
        let key = StreamKey { connection: connection.id, stream: STREAM.into() };
        Self { store, worker, key, version, raised, clock }
    }

    /// Changes some of the records at the provider.
    fn change(&self) {
        self.version.fetch_add(1, Ordering::Relaxed);
        self.raised.store(self.clock.now().millis(), Ordering::Relaxed);
    }

    /// Lets a webhook come, and then so much time pass that another that has not come by then was missed.
    async fn listen(&self) {
        let event = NewEvent {
            id: "evt_1".into(),
            kind: TOLD.to_owned(),
            subscription: None,
            account: None,
            created: None,
            ordering_key: None,
            payload: None,
            wanted: false,
            priority: 0,
        };
        let delivery = NewDelivery {
            endpoint: EndpointId::new(self.key.connection.as_str()),
            connection: self.key.connection.clone(),
            provider: "memory".to_owned(),
            received_at: self.clock.now(),
            headers: Vec::new(),
            // Without a body it would be taken for one that a run made.
            body: Bytes::from_static(b"{}"),
            events: vec![event],
        };
        self.store.append(vec![delivery]).await.expect("a delivery");
        self.clock.0.fetch_add(LATER.as_secs(), Ordering::Relaxed);
    }

    /// Returns how many records the newest run found that no webhook had told of.
    async fn missed(&self) -> u64 {
        let runs = self.store.runs(Some(self.key.connection.clone()), 1).await.expect("a run");
        runs.first().map_or(0, |run| run.missed.records)
    }

    /// Steps until the stream was read whole once more.
    async fn whole(&self, before: Option<Timestamp>) {
        while self.store.stream(self.key.clone()).await.expect("a stream").full_at == before {
            self.worker.step(Queue::Background).await.expect("a step");
        }
    }

    async fn sync(&self) {
        let before = self.store.stream(self.key.clone()).await.expect("a stream").full_at;
        self.worker.sync_now(&self.key.connection, &self.key.stream, RunMode::Full).await.expect("a run");
        self.whole(before).await;
    }
}

/// The hub in a process of its own: `records file runs`. Prints what each run cost: the first brings all records, the
/// second the same again, the third some that changed, the fourth some that changed while webhooks were heard and none
/// told of them.
pub(crate) fn hub(args: &[String]) {
    let [records, file, runs] = args else { panic!("three arguments") };
    let (records, runs): (usize, usize) = (records.parse().expect("a number"), runs.parse().expect("a number"));
    runtime().block_on(async {
        let setting = Setting::new(file, records, Answers { tell: false }, true, Duration::ZERO).await;
        for number in 0..runs {
            if number >= 2 {
                setting.change();
            }
            if number == 3 {
                setting.listen().await;
            }
            let start = process_cpu();
            setting.sync().await;
            let cpu_us = (process_cpu() - start).as_micros() as f64;
            let peak = resident().unwrap_or_default().1 as f64 / f64::from(1 << 20);
            let status = setting.store.stream(setting.key.clone()).await.expect("a stream");
            assert_eq!(status.records, records as u64, "every record is stored");
            let missed = if number == 3 { records / CHANGED } else { 0 };
            assert_eq!(setting.missed().await, missed as u64, "what was missed is found");
            println!("{}", serde_json::json!({ "cpu_us": cpu_us, "peak_mib": peak }));
        }
        setting.store.close().await.expect("the store closes");
    });
}

/// A sync in a process that may be killed: `records file read-ahead seconds-later`. Prints a line for every page that is
/// asked for, and `done`.
pub(crate) fn killed(args: &[String]) {
    let [records, file, ahead, later] = args else { panic!("four arguments") };
    let records = records.parse().expect("a number");
    let (ahead, later) = (ahead.parse().expect("true or false"), later.parse().expect("seconds"));
    runtime().block_on(async {
        let late = Duration::from_secs(later);
        let setting = Setting::new(file, records, Answers { tell: true }, ahead, late).await;
        if late.is_zero() {
            setting.sync().await;
        } else {
            setting.whole(None).await;
        }
        println!("done");
        setting.store.close().await.expect("the store closes");
    });
}

//! The webhook endpoint under load: verify, dedupe and a durable commit before the answer, beside handlers that do
//! less or commit worse.
//!
//! Servers and the load are processes of their own. Every server keeps its own database file on the same disk with
//! the same pragmas; `synchronous = FULL` everywhere.

use std::path::Path;

use crate::harness::{Child, Spread, number};
use crate::report::{Row, Target};

mod handled;
mod hub;
mod load;
mod peers;

pub(crate) use handled::run as handled;

pub(crate) use load::client;

use hub::Then;

/// Deliveries of one contender in one round.
const DELIVERIES: usize = 10_000;
/// Fewer for the one that commits each delivery by itself: it is several times slower.
const DELIVERIES_EACH: usize = 3_000;

/// The contenders, by the name of their server.
const HUB: usize = 0;
const HUB_WANTED: usize = 1;
const GROUPED: usize = 2;
const GROUPED_WITH_JOB: usize = 3;
const EACH: usize = 4;
const CHECKED_WITH_JOB: usize = 5;
const NAMES: [&str; 6] = ["hub", "hub-wanted", "grouped", "grouped-with-job", "each", "checked-with-job"];

/// Measures the hub's endpoint beside its peers.
pub(crate) fn run(count: usize) -> Vec<Row> {
    // Not the system's folder for temporary files, which may be memory: a commit there syncs nothing.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder beside the build");
    let mut servers: Vec<Server> = NAMES.iter().map(|name| Server::start(name, folder.path())).collect();
    let mut load = Child::start("ingest-load", &[]);
    let mut latencies = vec![Vec::new(); NAMES.len()];
    let mut measured = Vec::new();
    for round in 0..=count {
        let mut turn = Vec::new();
        for at in 0..NAMES.len() {
            let who = (round + at) % NAMES.len();
            let (server, deliveries) = (&mut servers[who], if who == EACH { DELIVERIES_EACH } else { DELIVERIES });
            let kind = if who == HUB { load::UNWANTED } else { load::WANTED };
            let before = number(&server.child.ask("stats"), "cpu_us");
            let answer = load.ask(&format!("{} {kind} {deliveries} {} 0", server.address, round * 1_000_000 + 1));
            assert_eq!(number(&answer, "refused"), 0.0, "{} refused deliveries", NAMES[who]);
            let cpu = number(&server.child.ask("stats"), "cpu_us") - before;
            turn.push((who, number(&answer, "per_second"), cpu / deliveries as f64));
            if round > 0 {
                latencies[who].push((number(&answer, "p50_ms"), number(&answer, "p99_ms")));
            }
        }
        if round > 0 {
            turn.sort_by_key(|(who, ..)| *who);
            measured.push(turn);
        }
    }
    let column = |who: usize, pick: fn(&(usize, f64, f64)) -> f64| -> Vec<f64> {
        measured.iter().map(|turn| pick(&turn[who])).collect()
    };
    let rate = |who: usize| column(who, |turn| turn.1);
    let cpu = |who: usize| column(who, |turn| turn.2);
    let peer = |what: &str, who: usize| format!("{what}: {:.0}/s", Spread::of(rate(who)).median);
    let against = |what: &str, who: usize, peer_name: &str, peer_at: usize| {
        Row::new("ingest", what, Spread::of(rate(who)), "req/s")
            .against(peer(peer_name, peer_at), Spread::ratio(&rate(who), &rate(peer_at)))
    };
    let mut rows = vec![
        against("event nobody handles", HUB, "bare axum, group commit of the same row", GROUPED)
            .target(Target::AtLeast(0.9)),
        against("event with its job", HUB_WANTED, "bare axum, group commit of the same two rows", GROUPED_WITH_JOB)
            .target(Target::AtLeast(0.9)),
        against("event with its job", HUB_WANTED, "bare axum, group commit of the event row alone", GROUPED),
        against(
            "event with its job",
            HUB_WANTED,
            "bare axum that checks the signature and reads id and type, same two rows",
            CHECKED_WITH_JOB,
        ),
        against("event nobody handles", HUB, "bare axum, one transaction per delivery", EACH)
            .target(Target::AtLeast(3.0)),
        against("event with its job", HUB_WANTED, "bare axum, one transaction per delivery", EACH)
            .target(Target::AtLeast(3.0)),
        Row::new("ingest", "event with its job, server CPU per delivery", Spread::of(cpu(HUB_WANTED)), "µs").against(
            format!("bare axum, same two rows: {:.0} µs", Spread::of(cpu(GROUPED_WITH_JOB)).median),
            Spread::ratio(&cpu(HUB_WANTED), &cpu(GROUPED_WITH_JOB)),
        ),
    ];
    for (what, pick) in [("p50", 0), ("p99", 1)] {
        let of = |who: usize| -> Vec<f64> {
            latencies[who].iter().map(|pair: &(f64, f64)| if pick == 0 { pair.0 } else { pair.1 }).collect()
        };
        rows.push(Row::new("ingest", format!("event with its job, {what}"), Spread::of(of(HUB_WANTED)), "ms").against(
            format!("bare axum, same two rows: {:.1} ms", Spread::of(of(GROUPED_WITH_JOB)).median),
            Spread::ratio(&of(HUB_WANTED), &of(GROUPED_WITH_JOB)),
        ));
    }
    let mut resident = |who: usize| number(&servers[who].child.ask("stats"), "peak_mib");
    let (ours, theirs) = (resident(HUB_WANTED), resident(GROUPED_WITH_JOB));
    rows.push(
        Row::new("ingest", "event with its job, resident memory at its highest", Spread::exact(ours), "MiB")
            .against(format!("bare axum, same two rows: {theirs:.0} MiB"), Spread::exact(ours / theirs)),
    );
    for server in servers {
        server.child.end();
    }
    load.end();
    rows
}

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(name: &str, folder: &Path) -> Self {
        Self::start_at(name, folder, name)
    }

    fn start_at(name: &str, folder: &Path, file: &str) -> Self {
        let file = folder.join(format!("{file}.db"));
        let mut child = Child::start("ingest-server", &[name, &file.display().to_string()]);
        let address = child.line();
        Self { child, address }
    }
}

/// A server in a process of its own: `name file`. Prints its address, then answers `stats`, `settled`, `handled` and
/// `clear DELIVERIES` until its input ends.
pub(crate) fn server(args: &[String]) {
    let [name, file] = args else { panic!("two arguments") };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let file = Path::new(file);
    let seen = hub::Seen::default();
    let handled = [load::HANDLED, load::WANTED];
    let address = match name.as_str() {
        "hub" | "hub-wanted" => runtime.block_on(hub::start(file, &seen, &[], Then::Keep)),
        "hub-keeping" => runtime.block_on(hub::start(file, &seen, &handled, Then::Keep)),
        "hub-handling" => runtime.block_on(hub::start(file, &seen, &handled, Then::Handle)),
        name => runtime.block_on(peers::start(name, file)),
    };
    println!("{address}");
    crate::harness::serve_lines(|line| {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["settled"] => return seen.settled(),
            ["handled"] => return seen.figures(),
            ["clear", wanted] => seen.clear(wanted.parse().expect("a number")),
            _ => {}
        }
        let (now, peak) = crate::harness::resident().unwrap_or_default();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let cpu_us = crate::harness::process_cpu().as_micros() as f64;
        serde_json::json!({ "cpu_us": cpu_us, "resident_mib": mib(now), "peak_mib": mib(peak) })
    });
}

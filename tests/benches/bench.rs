//! The measurements of Palisade: `cargo xtask bench [NAME…] [--json FILE] [--rounds N]`.
//!
//! Every figure is a count, or stands beside a peer or a physical limit measured in the same run. Nothing here
//! passes or fails: a target that is missed is printed as missed, and the exit code is 0.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement may panic, and speaks on standard output"
)]

use std::path::PathBuf;

use harness::Child;
use report::Row;

mod auth;
mod call;
mod feed;
mod harness;
mod ingest;
mod limits;
mod loopback;
mod report;
mod resync;
mod schedule;
mod signature;
mod stacks;
mod sync;
mod tokens;
mod typed;

/// Measures one thing; the argument is the number of rounds.
type Bench = fn(usize) -> Vec<Row>;

const BENCHES: &[(&str, Bench)] = &[
    ("call", call::run),
    ("typed", typed::run),
    ("loopback", loopback::run),
    ("signature", signature::run),
    ("ingest", ingest::run),
    ("handled", ingest::handled),
    ("sync", sync::run),
    ("resync", resync::run),
    ("feed", feed::run),
    ("limits", limits::run),
    ("schedule", schedule::run),
    ("auth", auth::run),
];

/// A part that runs in a process of its own: its name, and what it does with its arguments.
type Part = (&'static str, fn(&[String]));

/// What this program does as another process of itself.
const CHILDREN: &[Part] = &[
    ("call-client", call::client),
    ("loopback-server", loopback::server),
    ("loopback-client", loopback::client),
    ("ingest-server", ingest::server),
    ("ingest-load", ingest::client),
    ("limits-memory", limits::memory),
    ("resync-hub", resync::hub),
    ("resync-killed", resync::killed),
    ("schedule-fill", schedule::fill),
    ("schedule-idle", schedule::idle),
    ("sync-provider", sync::provider),
    ("sync-hub", sync::hub),
    ("sync-fetch", sync::fetch),
    ("sync-store", sync::store),
];

const ROUNDS: usize = 7;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, rest @ ..] = args.as_slice()
        && flag == "--child"
    {
        let (_, child) = CHILDREN.iter().find(|(known, _)| known == name).expect("a child this program has");
        return child(rest);
    }
    let Some(wanted) = Wanted::read(args) else {
        let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        println!("usage: bench [NAME…] [--json FILE] [--rounds N]\nnames: {}", names.join(" "));
        std::process::exit(2);
    };
    let mut rows = Vec::new();
    for (name, bench) in BENCHES {
        if wanted.names.is_empty() || wanted.names.iter().any(|wanted| wanted == name) {
            println!("measuring {name} …");
            rows.extend(bench(wanted.rounds));
            // At once, so that a later bench that fails takes nothing with it.
            if let Some(path) = &wanted.json {
                std::fs::write(path, format!("{:#}\n", report::json(&rows))).expect("the JSON file can be written");
            }
        }
    }
    report::print(&rows);
}

/// What the command line asks for.
struct Wanted {
    names: Vec<String>,
    json: Option<PathBuf>,
    rounds: usize,
}

impl Wanted {
    /// Reads the arguments; `None` when they are not understood.
    fn read(args: Vec<String>) -> Option<Self> {
        let mut wanted = Self { names: Vec::new(), json: None, rounds: ROUNDS };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                // Cargo says so to every bench.
                "--bench" => {}
                "--json" => wanted.json = Some(args.next()?.into()),
                "--rounds" => wanted.rounds = args.next()?.parse().ok().filter(|rounds| *rounds > 0)?,
                name if BENCHES.iter().any(|(known, _)| *known == name) => wanted.names.push(arg),
                _ => return None,
            }
        }
        Some(wanted)
    }
}

/// Counts allocations in the program that has the counting allocator.
fn allocations(stack: &str) -> f64 {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_allocations"));
    command.arg(stack);
    let mut child = Child::spawn(command);
    let counted = harness::number(&child.json(), "allocations");
    child.end();
    counted
}

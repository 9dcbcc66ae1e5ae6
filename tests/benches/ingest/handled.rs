//! Deliveries from the socket to their settling: what the endpoint still takes when workers claim, handle and settle
//! behind it, until the last of it is on the disk; and how long an event waits for the end of its handler at half of that.

use std::time::Duration;

use super::{Server, load};
use crate::harness::{Child, Spread, number, runtime};
use crate::report::{Row, Target};

/// Deliveries of one contender in one round.
const DELIVERIES: usize = 10_000;
/// Deliveries at half load in one round.
const HALF: usize = 5_000;

/// What is delivered, and what a row says of it.
const KINDS: [(&str, &str); 2] =
    [(load::HANDLED, "event with its handler"), (load::WANTED, "event with its handler and a record that it changes")];

/// Measures a hub whose workers run beside the same hub without any.
pub(crate) fn run(count: usize) -> Vec<Row> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder beside the build");
    let mut rows = Vec::new();
    for (at, (kind, what)) in KINDS.into_iter().enumerate() {
        let mut pair =
            ["hub-keeping", "hub-handling"].map(|name| Server::start_at(name, folder.path(), &format!("{name}-{at}")));
        let mut load = Child::start("ingest-load", &[]);
        let mut measured: [Vec<f64>; 2] = Default::default();
        let mut cpu: [Vec<f64>; 2] = Default::default();
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        for round in 0..=count {
            for turn in 0..2 {
                let who = (round + turn) % 2;
                let server = &mut pair[who];
                let before = number(&server.child.ask(&format!("clear {DELIVERIES}")), "cpu_us");
                let first = (round * 10 + turn) * 100_000 + 1;
                let sent = load.ask(&format!("{} {kind} {DELIVERIES} {first} 0", server.address));
                assert_eq!(number(&sent, "refused"), 0.0, "no delivery is refused");
                let per_second = if who == 1 { all_of(server, "per_second") } else { number(&sent, "per_second") };
                let used = number(&server.child.ask("stats"), "cpu_us") - before;
                if round > 0 {
                    measured[who].push(per_second);
                    cpu[who].push(used / DELIVERIES as f64);
                }
            }
            if let Some(sustained) = measured[1].last() {
                let server = &mut pair[1];
                server.child.ask(&format!("clear {HALF}"));
                let first = (round * 10 + 5) * 100_000 + 1;
                load.ask(&format!("{} {kind} {HALF} {first} {}", server.address, sustained / 2.0));
                p99.push(all_of(server, "p99_ms"));
                p50.push(all_of(server, "p50_ms"));
            }
        }
        let [keeping, handling] = &measured;
        let peer = format!("the same received only: {:.0}/s", Spread::of(keeping.clone()).median);
        let used = format!("received only: {:.0} µs", Spread::of(cpu[0].clone()).median);
        let rate = Row::new("handled", format!("{what}, sustained"), Spread::of(handling.clone()), "events/s")
            .against(peer, Spread::ratio(handling, keeping));
        let tail = Row::new("handled", format!("{what}, arrival to end at half of that, p99"), Spread::of(p99), "ms");
        let judged = kind == load::HANDLED;
        rows.push(if judged { rate.target(Target::AtLeast(0.6)) } else { rate });
        rows.push(
            Row::new("handled", format!("{what}, server CPU"), Spread::of(cpu[1].clone()), "µs")
                .against(used, Spread::ratio(&cpu[1], &cpu[0])),
        );
        rows.push(Row::new("handled", format!("{what}, arrival to end at half of that, p50"), Spread::of(p50), "ms"));
        rows.push(if judged { tail.target(Target::AtMost(50.0)) } else { tail });
        load.end();
        for server in pair {
            server.child.end();
        }
    }
    rows
}

/// Waits until every event was settled; returns a figure of them.
fn all_of(server: &mut Server, figure: &str) -> f64 {
    let runtime = runtime();
    for _ in 0..6_000 {
        if number(&server.child.ask("settled"), "settled") > 0.0 {
            return number(&server.child.ask("handled"), figure);
        }
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(10)).await });
    }
    panic!("not every event was settled within a minute");
}

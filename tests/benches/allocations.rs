//! Counts the allocations of one call, or of one token: `allocations <contender>` prints `{"allocations": …}`.
//!
//! A program of its own, because counting needs another global allocator, and what is timed should run on the plain
//! one.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a measurement may panic, speaks on standard output, and shares contenders it does not all use"
)]

use std::future::Future;
use std::pin::Pin;

mod stacks;
mod tokens;

/// Calls before counting, so that lanes, buckets and buffers exist.
const WARM: usize = 100;
/// Calls counted.
const COUNTED: usize = 1_000;

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let counted = if stacks::NAMES.contains(&name.as_str()) {
        count(&runtime, runtime.block_on(async { stacks::sender(&name) }))
    } else if tokens::NAMES.contains(&name.as_str()) {
        count(&runtime, runtime.block_on(tokens::asker(&name)))
    } else {
        println!("usage: allocations {}", [stacks::NAMES, tokens::NAMES].concat().join("|"));
        std::process::exit(2);
    };
    println!("{}", serde_json::json!({ "allocations": counted }));
}

fn count(runtime: &tokio::runtime::Runtime, work: impl Fn(usize) -> Pin<Box<dyn Future<Output = ()>>>) -> f64 {
    runtime.block_on(work(WARM));
    let counted = allocation_counter::measure(|| runtime.block_on(work(COUNTED)));
    counted.count_total as f64 / COUNTED as f64
}

//! Counts the allocations of one call: `allocations <contender>` prints `{"allocations": …}`.
//!
//! A program of its own, because counting needs another global allocator, and what is timed should run on the plain
//! one.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a measurement may panic, speaks on standard output, and shares contenders it does not all use"
)]

mod stacks;

/// Calls before counting, so that lanes, buckets and buffers exist.
const WARM: usize = 100;
/// Calls counted.
const COUNTED: usize = 1_000;

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    if !stacks::NAMES.contains(&name.as_str()) {
        println!("usage: allocations {}", stacks::NAMES.join("|"));
        std::process::exit(2);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let send = runtime.block_on(async { stacks::sender(&name) });
    runtime.block_on(send(WARM));
    let counted = allocation_counter::measure(|| runtime.block_on(send(COUNTED)));
    println!("{}", serde_json::json!({ "allocations": counted.count_total as f64 / COUNTED as f64 }));
}

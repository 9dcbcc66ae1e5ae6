//! What the stores of this crate promise: the suite every store passes, and what only a file on a disk can break.
#![cfg(feature = "sqlite")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may panic, and a child process tells its parent by printing"
)]

#[path = "it/child.rs"]
mod child;
#[path = "it/confirmed.rs"]
mod confirmed;
#[path = "it/crash.rs"]
mod crash;
#[path = "it/entries.rs"]
mod entries;
#[path = "it/faults.rs"]
mod faults;
#[path = "it/lanes.rs"]
mod lanes;
#[path = "it/names.rs"]
mod names;
#[path = "it/processes.rs"]
mod processes;
#[path = "it/product.rs"]
mod product;
#[path = "it/replays.rs"]
mod replays;
#[path = "it/retention.rs"]
mod retention;
#[path = "it/subject.rs"]
mod subject;
#[path = "it/suite.rs"]
mod suite;

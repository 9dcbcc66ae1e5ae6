//! Seeds: which ones a test runs, and the one command that repeats the one that failed.

use std::future::Future;
use std::ops::Range;

/// The variable that names the only seed to run.
const ONLY: &str = "PALISADE_SEED";
/// The variable that says how many seeds to run, where a test lets it.
const MANY: &str = "PALISADE_SEEDS";

/// Returns the seeds to run: those given, or the one in `PALISADE_SEED`.
///
/// # Panics
/// When the variable holds no number.
#[must_use]
pub fn seeds(usual: Range<u64>) -> Vec<u64> {
    #[expect(clippy::disallowed_methods, reason = "the command that repeats a failure names its seed here")]
    let only = std::env::var(ONLY).ok();
    match only {
        Some(text) => vec![text.parse().expect("PALISADE_SEED is a number")],
        None => usual.collect(),
    }
}

/// Returns the seeds from 1 to `usual`, or as many as `PALISADE_SEEDS` says, or the one in `PALISADE_SEED`.
///
/// # Panics
/// When a variable holds no number.
#[must_use]
pub fn seeds_up_to(usual: u64) -> Vec<u64> {
    #[expect(clippy::disallowed_methods, reason = "a longer run is asked for here")]
    let many = std::env::var(MANY).ok();
    let last = many.map_or(usual, |text| text.parse().expect("PALISADE_SEEDS is a number"));
    seeds(1..last + 1)
}

/// Says how to repeat a seed if the test panics while this lives.
#[derive(Debug)]
pub struct Repeat {
    test: &'static str,
    seed: u64,
}

impl Repeat {
    /// Begins to watch over a seed of a test, named as cargo names it.
    #[must_use]
    pub fn with(test: &'static str, seed: u64) -> Self {
        Self { test, seed }
    }
}

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { test, seed } = self;
            eprintln!("\nrepeat with: {ONLY}={seed} cargo test -p palisade-tests --test it -- --exact {test}");
        }
    }
}

/// Runs a story for each seed, each in a runtime of its own whose clock stands still while anything can be done.
///
/// # Panics
/// When a story does, or when no runtime can be made.
pub fn each_paused<F: Future<Output = ()>>(test: &'static str, usual: Range<u64>, story: impl Fn(u64) -> F) {
    for seed in seeds(usual) {
        let _repeat = Repeat::with(test, seed);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(story(seed));
    }
}

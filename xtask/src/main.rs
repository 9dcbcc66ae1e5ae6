//! Workspace checks and chores: `cargo xtask <command>`. A thin dispatcher over cargo; it builds nothing itself and
//! depends on std and serde_json only, so that it compiles in a moment.
#![expect(clippy::print_stdout, reason = "a command-line tool speaks on standard output")]
#![expect(clippy::disallowed_methods, reason = "CI and PATH are read from the environment here, and nowhere else")]

use std::process::ExitCode;

mod conformance;
mod fuzz;
mod new_adapter;
mod recorded;
mod sdks;
mod steps;
mod tests;
mod tidy;

const USAGE: &str = "\
usage: cargo xtask <command>

  check        formatting, tidy, clippy and rustdoc, all with warnings denied
  test         every test of the workspace, and the official SDKs against the emulator
  ci           check, test, each crate alone, and the demo's story: what .ci/run calls
  demo [ARGS]  the demo, in the profile the tests use
  bench [NAME] the measurements, in release, as ratios
  sim [ARGS]   the simulation: --seed N or --seeds FROM..TO, --minutes M of its own time, or --storm TENANTS; a failure is
               repeated by its seed. A night's worth: --seeds 1..10000 --minutes 120
  fuzz [NAME] [--seconds N]
               arbitrary bytes into every parser of what comes from outside, a minute each; needs nightly Rust and a
               C++ compiler. A night's worth on two cores: --seconds 7200
  conformance  the kit on every adapter: prints adapter by check, writes the table of docs/adapters.md
               (--join: of what the last tests left; --sdks: the providers' official SDKs against the emulators)
  new-adapter NAME
               the tree of a new adapter, its emulator's room, and a conformance run that says what to fill in
  tidy         the workspace rules alone";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let done = match command.as_str() {
        "check" => steps::check(),
        // Every adapter's test has just left its report: the table of the docs must be theirs.
        "test" => tests::run().and_then(|()| conformance::is_current()),
        "ci" => steps::ci().and_then(|()| conformance::is_current()),
        "conformance" => conformance::command(&rest),
        "new-adapter" => new_adapter::command(&rest),
        "demo" => steps::demo(&rest),
        "bench" => steps::bench(&rest),
        "sim" => steps::sim(&rest),
        "fuzz" => fuzz::command(&rest),
        "tidy" => tidy::run(),
        _ => {
            println!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("\nxtask {command}: {why}");
            ExitCode::FAILURE
        }
    }
}

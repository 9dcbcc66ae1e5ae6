//! Workspace checks and chores: `cargo xtask <command>`. A thin dispatcher over cargo; it builds nothing itself and
//! depends on std and serde_json only, so that it compiles in a moment.
#![expect(clippy::print_stdout, reason = "a command-line tool speaks on standard output")]
#![expect(clippy::disallowed_methods, reason = "CI and PATH are read from the environment here, and nowhere else")]

use std::process::ExitCode;

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
  tidy         the workspace rules alone";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let done = match command.as_str() {
        "check" => steps::check(),
        "test" => tests::run(),
        "ci" => steps::ci(),
        "demo" => steps::demo(&rest),
        "bench" => steps::bench(&rest),
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

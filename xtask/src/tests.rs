//! `cargo xtask test`: runs everything and says at the end what ran and what could not.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use crate::steps::{self, Step, cargo};

/// What ran and what did not.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    suites: Vec<Suite>,
    skipped: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Suite {
    name: String,
    passed: u64,
    failed: u64,
}

/// Runs all tests and prints the summary.
pub(crate) fn run() -> Step {
    run_tests()?.print()
}

/// Runs all tests and returns the summary, for a caller that prints it last.
pub(crate) fn run_tests() -> Result<Summary, String> {
    let mut summary = Summary { suites: cargo_test()?, skipped: Vec::new() };
    for outcome in crate::sdks::run() {
        match outcome {
            crate::sdks::Outcome::Ran { name, passed, failed } => summary.suites.push(Suite { name, passed, failed }),
            crate::sdks::Outcome::Skipped { name, why } => summary.skipped.push(format!("{name}: {why}")),
        }
    }
    Ok(summary)
}

impl Summary {
    /// Prints the table and the closing line; fails when a test failed, or when CI skipped something.
    pub(crate) fn print(&self) -> Step {
        println!("\n== what ran");
        for suite in &self.suites {
            let mark = if suite.failed == 0 { "ok  " } else { "FAIL" };
            println!("{mark} {:>5} passed {:>3} failed  {}", suite.passed, suite.failed, suite.name);
        }
        for skipped in &self.skipped {
            println!("skipped  {skipped}");
        }
        let passed: u64 = self.suites.iter().map(|s| s.passed).sum();
        let failed: u64 = self.suites.iter().map(|s| s.failed).sum();
        println!("{passed} passed, {failed} failed, {} skipped", self.skipped.len());
        if failed > 0 {
            return Err(format!("{failed} tests failed"));
        }
        if steps::is_ci() && !self.skipped.is_empty() {
            return Err("in CI nothing that can be installed may be skipped".to_owned());
        }
        Ok(())
    }
}

/// Runs `cargo test` over the workspace, passes its output through and reads the results from it.
fn cargo_test() -> Result<Vec<Suite>, String> {
    println!("\n== cargo test");
    let mut child = cargo(&["test", "--locked", "--workspace", "--no-fail-fast"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start cargo: {e}"))?;
    let (names, results) = (mpsc::channel(), mpsc::channel());
    let err = child.stderr.take().map(|pipe| tee(pipe, names.0, suite_name));
    let out = child.stdout.take().map(|pipe| tee(pipe, results.0, suite_result));
    for reader in [out, err].into_iter().flatten() {
        let _ = reader.join();
    }
    let status = child.wait().map_err(|e| format!("cargo test: {e}"))?;
    let mut names = in_crates(names.1.into_iter()).into_iter();
    let mut last = String::new();
    let suites: Vec<Suite> = results
        .1
        .into_iter()
        .map(|(passed, failed)| {
            // The examples of one crate may run in two parts under one name.
            last = names.next().unwrap_or_else(|| last.clone());
            Suite { name: last.clone(), passed, failed }
        })
        .collect();
    if suites.is_empty() {
        return Err("cargo test ran nothing: does the workspace build?".to_owned());
    }
    if !status.success() && suites.iter().all(|suite| suite.failed == 0) {
        return Err(format!(
            "cargo test failed without a failed test ({status}): a crate does not build, or a test binary died"
        ));
    }
    Ok(suites)
}

/// Prints a stream line by line and sends on what `read` finds.
fn tee<T: Send + 'static>(
    pipe: impl Read + Send + 'static,
    to: mpsc::Sender<T>,
    read: fn(&str) -> Option<T>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            println!("{line}");
            if let Some(found) = read(&line) {
                let _ = to.send(found);
            }
        }
    })
}

/// Reads cargo's line that names a test binary: `Running unittests src/lib.rs (target/debug/deps/x-0123)` or
/// `Doc-tests x`.
fn suite_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{name} (examples in the documentation)"));
    }
    let (what, binary) = line.strip_prefix("Running ")?.split_once(" (")?;
    let file = binary.trim_end_matches(')').rsplit(['/', '\\']).next()?;
    let krate = file.rsplit_once('-').map_or(file, |(name, _)| name);
    Some(format!("{krate} ({})", what.trim_start_matches("unittests ")))
}

/// Puts the crate's name before its integration tests, which cargo names by their file alone but runs right after the
/// crate's unit tests.
fn in_crates(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut current = String::new();
    names
        .map(|name| {
            if name.starts_with("it (") {
                return format!("{current} {}", name.trim_start_matches("it "));
            }
            current = name.split(' ').next().unwrap_or_default().to_owned();
            name
        })
        .collect()
}

/// Reads the line a test binary ends with: `test result: ok. 3 passed; 0 failed; …`.
fn suite_result(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?;
    let count =
        |word: &str| rest.split([';', '.']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<u64>().ok());
    Some((count("passed")?, count("failed")?))
}

#[cfg(test)]
mod cases {
    //! The summary is only as honest as its reading of cargo's output.
    use super::*;

    #[test]
    fn names_and_results_are_read_from_cargo_output() {
        assert_eq!(
            suite_name("     Running tests/it.rs (target/debug/deps/it-0a1b2c)").as_deref(),
            Some("it (tests/it.rs)")
        );
        assert_eq!(
            suite_name("   Doc-tests palisade_core").as_deref(),
            Some("palisade_core (examples in the documentation)")
        );
        assert_eq!(suite_name("   Compiling x v0.1.0"), None);
        let names = ["palisade_core (src/lib.rs)", "it (tests/it.rs)"].map(str::to_owned).into_iter();
        assert_eq!(in_crates(names), ["palisade_core (src/lib.rs)", "palisade_core (tests/it.rs)"]);
        assert_eq!(suite_result("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured"), Some((3, 2)));
        assert_eq!(suite_result("running 3 tests"), None);
    }

    #[test]
    fn a_failed_test_fails_the_command() {
        let suite = |failed| Suite { name: "x".to_owned(), passed: 1, failed };
        assert!(Summary { suites: vec![suite(0)], skipped: vec![] }.print().is_ok());
        assert!(Summary { suites: vec![suite(1)], skipped: vec![] }.print().is_err());
    }
}

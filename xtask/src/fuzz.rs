//! `cargo xtask fuzz`: builds the fuzz targets with the coverage that libFuzzer reads, and runs each for a while. Needs
//! nightly Rust and a C++ compiler, for libFuzzer itself; says so in one line where they are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::steps::{self, Step, root};

/// What cargo-fuzz instruments with, but for the sanitizers: there is no unsafe code here for them to judge.
const COVERAGE: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// What is instrumented: the parsers, and not the rest of the tree, which takes twice as long to build then.
const INSTRUMENTED: &[&str] = &[
    "palisade-core",
    "palisade-fuzz",
    "palisade-google",
    "palisade-hub",
    "palisade-sendgrid",
    "palisade-slack",
    "palisade-stripe",
    "palisade-twilio",
];
/// Bounds of one input: bytes, seconds, megabytes.
const BOUNDS: &[&str] = &["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"];
/// How long each target runs: in CI, and by hand.
const SECONDS: (u64, u64) = (5, 60);
/// From so many seconds on an optimised build is worth its time; it has the checks of the other.
const LONG: u64 = 600;
const USAGE: &str = "cargo xtask fuzz [NAME] [--seconds N]";

/// A short run of every target in CI: the same walk each time, as far as the seconds go, so that what it breaks was broken by
/// the change. Runs by hand go their own ways.
pub(crate) fn ci() -> Step {
    fuzz(None, SECONDS.0, Some(1))
}

/// `cargo xtask fuzz [NAME] [--seconds N]`.
pub(crate) fn command(args: &[String]) -> Step {
    let (mut only, mut seconds) = (None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = Some(args.next().and_then(|n| n.parse().ok()).ok_or(USAGE)?),
            flag if flag.starts_with('-') => return Err(USAGE.to_owned()),
            name => only = Some(name),
        }
    }
    fuzz(only, seconds.unwrap_or(SECONDS.1), None)
}

fn fuzz(only: Option<&str>, seconds: u64, walk: Option<u32>) -> Step {
    let names: Vec<String> = targets()?.into_iter().filter(|name| only.is_none_or(|only| only == name)).collect();
    if names.is_empty() {
        return Err(format!("there is no such target: {} (see fuzz/targets)", only.unwrap_or_default()));
    }
    let Some(host) = nightly() else {
        println!(
            "\n== fuzz\nskipped  fuzz: there is no nightly Rust here (rustup toolchain install nightly --profile minimal)"
        );
        return Ok(());
    };
    if !speaks_cxx() {
        let why = "there is no C++ compiler here (Debian: apt-get install g++)";
        if steps::is_ci() {
            return Err(format!("fuzz: {why}, and in CI nothing that can be installed may be skipped"));
        }
        println!("\n== fuzz\nskipped  fuzz: {why}");
        return Ok(());
    }
    let out = root().join("fuzz/target");
    follow_lock(&out)?;
    if !resolves(&["--offline"]) && !resolves(&[]) {
        let why = "what the targets need cannot be downloaded";
        if steps::is_ci() {
            return Err(format!("fuzz: {why}"));
        }
        println!("\n== fuzz\nskipped  fuzz: {why}");
        return Ok(());
    }
    let profile = if seconds < LONG { "dev" } else { "release" };
    build(&host, &out, profile, only)?;
    println!("\n== fuzz, {seconds} s each");
    let binaries = out.join(&host).join(if profile == "dev" { "debug" } else { profile });
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let (binaries, out) = (binaries.as_path(), out.as_path());
    let mut broke = Vec::new();
    for some in names.chunks(at_once) {
        thread::scope(|scope| {
            let start = |name| scope.spawn(move || try_one(name, &binaries.join(name), out, seconds, walk));
            let running: Vec<_> = some.iter().map(String::as_str).map(start).collect();
            for one in running {
                broke.extend(one.join().unwrap_or_else(|_| Err("fuzz: cannot run".to_owned())).err());
            }
        });
    }
    if broke.is_empty() { Ok(()) } else { Err(broke.join("\n")) }
}

/// Gives the targets the versions of the workspace: its lock file, from which cargo takes what they need. Copied when it
/// has changed since, so that an unchanged one asks no registry.
fn follow_lock(out: &Path) -> Step {
    let failed = |e: std::io::Error| format!("fuzz/Cargo.lock: {e}");
    let (theirs, seen) = (root().join("fuzz/Cargo.lock"), out.join("Cargo.lock.seen"));
    let lock = fs::read(root().join("Cargo.lock")).map_err(failed)?;
    if theirs.exists() && fs::read(&seen).is_ok_and(|seen| seen == lock) {
        return Ok(());
    }
    fs::create_dir_all(out).map_err(failed)?;
    fs::write(theirs, &lock).map_err(failed)?;
    fs::write(seen, lock).map_err(failed)
}

/// Tells whether cargo finds all that the targets need: libFuzzer's crate is in no other lock.
fn resolves(more: &[&str]) -> bool {
    let mut metadata = Command::new("cargo");
    metadata.args(["+nightly", "metadata", "--format-version", "1"]).args(more);
    metadata.current_dir(root().join("fuzz")).stdout(Stdio::null()).stderr(Stdio::null());
    metadata.status().is_ok_and(|status| status.success())
}

/// Names the targets: their files.
fn targets() -> Result<Vec<String>, String> {
    let files = fs::read_dir(root().join("fuzz/targets")).map_err(|e| format!("fuzz/targets: {e}"))?;
    let stem = |file: fs::DirEntry| Some(file.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = files.filter_map(Result::ok).filter_map(stem).collect();
    names.sort();
    Ok(names)
}

/// Returns the platform that nightly builds for, if it is there. The cargo on the path is rustup's, which knows
/// toolchains; the one that runs this is a toolchain's own.
fn nightly() -> Option<String> {
    let said =
        Command::new("cargo").args(["+nightly", "--version", "--verbose"]).stderr(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&said.stdout);
    said.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

fn speaks_cxx() -> bool {
    Command::new("c++").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn build(host: &str, out: &Path, profile: &str, only: Option<&str>) -> Step {
    let mut cargo = Command::new("cargo");
    // A target that is named keeps build scripts and macros as they are.
    cargo.args(["+nightly", "build", "--quiet", "--target", host, "--profile", profile, "-Zprofile-rustflags"]);
    match only {
        Some(name) => cargo.args(["--bin", name]),
        None => cargo.arg("--bins"),
    };
    for name in INSTRUMENTED {
        cargo.arg("--config").arg(format!("profile.{profile}.package.{name}.rustflags={COVERAGE:?}"));
    }
    cargo.current_dir(root().join("fuzz")).stdin(Stdio::null());
    cargo.env("CARGO_INCREMENTAL", "0").env("CARGO_TARGET_DIR", out);
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    steps::run("building the fuzz targets", &mut cargo)
}

/// Runs a target over its seeds and what earlier runs found worth keeping. Fails with the input that broke it.
fn try_one(name: &str, binary: &Path, out: &Path, seconds: u64, walk: Option<u32>) -> Step {
    let failed = |e: std::io::Error| format!("fuzz {name}: {e}");
    let (kept, broke) = (out.join("corpus").join(name), out.join("broke").join(name));
    fs::create_dir_all(out.join("broke")).and_then(|()| fs::create_dir_all(&kept)).map_err(failed)?;
    let _ = fs::remove_file(&broke);
    for seed in seeds(name).map_err(failed)? {
        fs::copy(&seed, kept.join(seed.file_name().unwrap_or_default())).map_err(failed)?;
    }
    let mut fuzzer = Command::new(binary);
    fuzzer
        .args(BOUNDS)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-exact_artifact_path={}", broke.display()));
    if let Some(walk) = walk {
        fuzzer.arg(format!("-seed={walk}"));
    }
    // Without a trace, so that what was asserted is among the last lines.
    fuzzer.env("RUST_BACKTRACE", "0");
    let output = fuzzer.arg(&kept).current_dir(out).stdin(Stdio::null()).output().map_err(failed)?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        // `#4096 DONE cov: 1 ft: 1 corp: 1/1b …`
        let done = said.lines().rfind(|line| line.contains("DONE")).unwrap_or_default();
        println!("ok   {name}: {}", done.split_whitespace().collect::<Vec<_>>().join(" "));
        return Ok(());
    }
    let tail = said.lines().count().saturating_sub(40);
    said.lines().skip(tail).for_each(|line| println!("{line}"));
    println!("FAIL {name}");
    Err(format!("fuzz {name} broke ({}); to repeat it: {} {}", output.status, binary.display(), broke.display()))
}

fn seeds(name: &str) -> std::io::Result<Vec<PathBuf>> {
    fs::read_dir(root().join("fuzz/seeds").join(name))?.map(|seed| Ok(seed?.path())).collect()
}

//! `cargo xtask fuzz`: builds the fuzz targets with the coverage that libFuzzer reads, and runs each for a while. Needs
//! nightly Rust and a C++ compiler, for libFuzzer itself; says so in one line where they are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::steps::{self, Step, root};

/// What cargo-fuzz instruments with, but for the sanitizers: there is no unsafe code here for them to judge.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Bounds of one input: bytes, seconds, megabytes.
const BOUNDS: &[&str] = &["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"];
/// How long each target runs: in CI, and by hand.
const SECONDS: (u64, u64) = (10, 60);
const USAGE: &str = "cargo xtask fuzz [NAME] [--seconds N]";

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
    fuzz(only, seconds.unwrap_or(if steps::is_ci() { SECONDS.0 } else { SECONDS.1 }))
}

fn fuzz(only: Option<&str>, seconds: u64) -> Step {
    let names: Vec<String> = targets()?.into_iter().filter(|name| only.is_none_or(|only| only == name)).collect();
    if names.is_empty() {
        return Err(format!("there is no such target: {} (see fuzz/targets)", only.unwrap_or_default()));
    }
    let host = match host() {
        Ok(host) => host,
        Err(why) => {
            println!("\n== fuzz\nskipped  fuzz: {why}");
            return Ok(());
        }
    };
    let out = root().join("target/fuzz");
    build(&host, &out)?;
    let found: Vec<String> = names
        .iter()
        .filter_map(|name| try_one(name, &out.join(&host).join("debug").join(name), &out, seconds).err())
        .collect();
    if found.is_empty() { Ok(()) } else { Err(found.join("\n")) }
}

/// Names the targets: their files.
fn targets() -> Result<Vec<String>, String> {
    let files = fs::read_dir(root().join("fuzz/targets")).map_err(|e| format!("fuzz/targets: {e}"))?;
    let stem = |file: fs::DirEntry| Some(file.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = files.filter_map(Result::ok).filter_map(stem).collect();
    names.sort();
    Ok(names)
}

/// Returns the platform that nightly builds for, or why nothing can be fuzzed here. The cargo on the path is rustup's,
/// which knows toolchains; the one that runs this is a toolchain's own.
fn host() -> Result<String, String> {
    let said = Command::new("cargo").args(["+nightly", "--version", "--verbose"]).stderr(Stdio::null()).output();
    let said = said.ok().filter(|output| output.status.success()).map(|output| output.stdout).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or("there is no nightly Rust here (rustup toolchain install nightly --profile minimal)")?;
    let there = Command::new("c++").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if there {
        Ok(host.to_owned())
    } else {
        Err("there is no C++ compiler here (Debian: apt-get install g++)".to_owned())
    }
}

fn build(host: &str, out: &Path) -> Step {
    let mut cargo = Command::new("cargo");
    // A target that is named keeps build scripts and macros as they are.
    cargo
        .args(["+nightly", "build", "--quiet", "--locked", "--bins", "--target", host])
        .current_dir(root().join("fuzz"));
    cargo.env("RUSTFLAGS", FLAGS).env("CARGO_INCREMENTAL", "0").env("CARGO_TARGET_DIR", out);
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").stdin(Stdio::null());
    steps::run("building the fuzz targets", &mut cargo).map_err(|why| {
        format!("{why}; where fuzz/Cargo.lock is behind Cargo.lock: cargo update --workspace --manifest-path fuzz/Cargo.toml")
    })
}

/// Runs a target over its seeds and what earlier runs found worth keeping. Fails with the input that broke it.
fn try_one(name: &str, binary: &Path, out: &Path, seconds: u64) -> Step {
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

//! The steps of `check`, `ci`, `demo` and `bench`: cargo commands with the same features everywhere, so that nothing
//! is built twice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A step that failed says why in one line.
pub(crate) type Step = Result<(), String>;

/// Returns the workspace's root: xtask is always run from a checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Tells whether this is a CI run, where nothing that can be installed may be skipped.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some()
}

/// Makes a cargo command in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs a command to its end and prints how long it took.
pub(crate) fn run(title: &str, command: &mut Command) -> Step {
    println!("\n== {title}");
    #[expect(clippy::disallowed_methods, reason = "xtask measures real time and has no runtime")]
    let start = Instant::now();
    let status = command.status().map_err(|e| format!("{title}: cannot start: {e}"))?;
    println!("== {title}: {}", seconds(start.elapsed()));
    if status.success() { Ok(()) } else { Err(format!("{title} failed ({status})")) }
}

/// Writes a duration as minutes and seconds.
pub(crate) fn seconds(took: Duration) -> String {
    let all = took.as_secs();
    if all < 60 { format!("{:.1} s", took.as_secs_f64()) } else { format!("{} min {:02} s", all / 60, all % 60) }
}

/// Formatting, tidy, clippy and rustdoc.
pub(crate) fn check() -> Step {
    run("formatting", &mut cargo(&["fmt", "--all", "--check"]))?;
    crate::tidy::run()?;
    same_features()?;
    run("clippy", &mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(
        "rustdoc",
        cargo(&["doc", "--locked", "--workspace", "--no-deps", "--document-private-items", "--lib"])
            .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"),
    )
}

/// Fails when a development dependency switches on a feature of a crate that the binaries need as well: it and all that
/// stands on it would be built once for the tests and once more for the binaries.
fn same_features() -> Step {
    let (plain, tested) = (features("normal,build")?, features("normal,build,dev")?);
    let differing = differing(&plain, &tested);
    if differing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "built twice, because tests have other features: {}; give the crate `tests` what switches them on as a plain \
         dependency",
        differing.join(", ")
    ))
}

/// Returns a line for every crate of the workspace and the features it is built with.
fn features(edges: &str) -> Result<String, String> {
    let tree = ["tree", "--locked", "--workspace", "--prefix", "none", "--format", "{p} {f}", "--edges", edges];
    let output = cargo(&tree).output().map_err(|e| format!("cargo tree: cannot start: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo tree failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Names the crates of `plain` that have no line of the same features in `tested`.
fn differing<'a>(plain: &'a str, tested: &str) -> Vec<&'a str> {
    // A line that stands again ends in a mark.
    fn once(line: &str) -> &str {
        line.trim_end_matches(" (*)").trim_end()
    }
    let tested: BTreeSet<&str> = tested.lines().map(once).collect();
    let differing: BTreeSet<&str> = plain.lines().filter(|line| !tested.contains(once(line))).collect();
    differing.into_iter().filter_map(|line| line.split(' ').next()).collect()
}

/// Each crate as somebody who picks it alone would build it. Checked, not built: the features differ from the
/// workspace's, and only names and types can break.
fn alone() -> Step {
    no_foreign_types()?;
    for (title, args) in [
        ("core without its transport", &["-p", "palisade-core", "--no-default-features"][..]),
        ("core with mocks", &["-p", "palisade-core", "--features", "mock"][..]),
        ("google alone", &["-p", "palisade-google"][..]),
        ("sendgrid alone", &["-p", "palisade-sendgrid"][..]),
        ("slack alone", &["-p", "palisade-slack"][..]),
        ("stripe alone", &["-p", "palisade-stripe"][..]),
        ("twilio alone", &["-p", "palisade-twilio"][..]),
        ("store without an engine", &["-p", "palisade-store", "--no-default-features"][..]),
        ("emulator alone", &["-p", "palisade-emulator"][..]),
    ] {
        let mut all = vec!["check", "--locked"];
        all.extend_from_slice(args);
        run(title, &mut cargo(&all))?;
    }
    // The one example that needs a feature nothing else here has.
    let mocked = ["test", "--locked", "-p", "palisade-core", "--features", "mock", "--doc", "transport"];
    run("core's example of a mock", &mut cargo(&mocked))
}

/// The adapters, each of which brings the types of its own provider only.
const ADAPTERS: [&str; 5] = ["google", "sendgrid", "slack", "stripe", "twilio"];

/// Fails when an adapter pulls in what is made for another provider.
fn no_foreign_types() -> Step {
    for adapter in ADAPTERS {
        let package = format!("palisade-{adapter}");
        let tree = ["tree", "--locked", "-p", &package, "--edges", "normal,build", "--prefix", "none"];
        let output = cargo(&tree).output().map_err(|e| format!("cargo tree: cannot start: {e}"))?;
        if !output.status.success() {
            return Err(format!("cargo tree failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let tree = String::from_utf8_lossy(&output.stdout);
        if let Some(foreign) = foreign(adapter, &tree).next() {
            return Err(format!("{package} pulls in {foreign}, which is another provider's"));
        }
    }
    Ok(())
}

/// Names the crates of an adapter's tree that are called after another adapter's provider.
fn foreign<'a>(adapter: &str, tree: &'a str) -> impl Iterator<Item = &'a str> {
    let others: Vec<&str> = ADAPTERS.into_iter().filter(|other| *other != adapter).collect();
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    names.filter(move |name| others.iter().any(|other| name.contains(other)))
}

/// Everything a change must pass.
pub(crate) fn ci() -> Step {
    #[expect(clippy::disallowed_methods, reason = "xtask measures real time and has no runtime")]
    let start = Instant::now();
    check()?;
    alone()?;
    let tested = crate::tests::run_tests()?;
    let fuzzed = crate::fuzz::ci();
    demo(&["--exit".to_owned()])?;
    println!("\n== ci: {}", seconds(start.elapsed()));
    tested.print().and(fuzzed)
}

/// The demo, with the binary the tests have built.
pub(crate) fn demo(args: &[String]) -> Step {
    let mut command = palisade()?;
    command.arg("demo").args(args).stdin(Stdio::inherit());
    run("demo", &mut command)
}

/// Returns the command that starts the hub's binary, which is built first.
pub(crate) fn palisade() -> Result<Command, String> {
    built("palisade")
}

/// The simulation of a seed: hubs and all emulated providers on one thread, where everything goes wrong.
pub(crate) fn sim(args: &[String]) -> Step {
    run("sim", built("sim")?.args(args))
}

/// Builds the workspace's binaries and returns the command that starts one of them. Built with the whole workspace, so
/// that features are those of the tests ([`same_features`]) and after them nothing is left to build; but for this
/// program itself, which the tests do not need and which is running.
fn built(binary: &str) -> Result<Command, String> {
    let build = ["build", "--locked", "--workspace", "--exclude", "xtask", "--bins"];
    run("building the binaries", &mut cargo(&build))?;
    let beside = std::env::current_exe().map_err(|e| format!("where am I? {e}"))?.with_file_name(binary);
    Ok(Command::new(beside.with_extension(std::env::consts::EXE_EXTENSION)))
}

/// The measurements.
pub(crate) fn bench(names: &[String]) -> Step {
    let mut command = cargo(&["bench", "--locked", "--package", "palisade-tests", "--bench", "bench", "--"]);
    command.args(names);
    run("bench", &mut command)
}

#[cfg(test)]
mod cases {
    use super::*;

    #[test]
    fn a_crate_with_other_features_in_the_tests_is_named() {
        let plain = "a v1.0.0 std\nb v1.0.0 \nb v1.0.0 (*)\nc v1.0.0 \nc v2.0.0 std\n";
        let tested = "a v1.0.0 alloc,std\nb v1.0.0 \nc v1.0.0 \nc v2.0.0 std (*)\nd v1.0.0 \n";
        assert_eq!(differing(plain, tested), ["a"]);
        assert_eq!(differing(plain, plain), [""; 0]);
    }

    #[test]
    fn a_crate_of_another_provider_is_named() {
        let tree = "palisade-slack v0.1.0\nslack-morphism v2.0.0\nhttp v1.0.0 (*)\ngoogle-apis-common v8.0.0\npalisade-core v0.1.0\n";
        assert_eq!(foreign("slack", tree).collect::<Vec<_>>(), ["google-apis-common"]);
        assert_eq!(foreign("google", tree).collect::<Vec<_>>(), ["palisade-slack", "slack-morphism"]);
    }
}

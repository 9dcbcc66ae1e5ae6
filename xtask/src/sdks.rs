//! The official SDKs as judges of the emulator: installed in a throw-away folder, pointed at `palisade emulate`, and
//! run unpatched. Skipped with one line where their registry is out of reach.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::steps::{self, root};

/// The versions the scripts were written against.
const PYTHON_SDK: &str = "stripe==16.1.0";
const NODE_SDK: &str = "stripe@23.1.0";

/// What became of one SDK.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Its script ran; each line it prints as `ok …` is one check.
    Ran {
        /// Which SDK.
        name: String,
        /// Checks that held.
        passed: u64,
        /// 1 when the script failed.
        failed: u64,
    },
    /// It could not run.
    Skipped {
        /// Which SDK.
        name: String,
        /// Why, in one line.
        why: String,
    },
}

/// Installs and runs each SDK against a fresh emulator.
pub(crate) fn run() -> Vec<Outcome> {
    let folder = std::env::temp_dir().join(format!("palisade-sdks-{}", std::process::id()));
    let outcomes = [
        ("official Stripe SDK for Python", "stripe_python.py", python as fn(&Path) -> Result<Command, String>),
        ("official Stripe SDK for Node", "stripe_node.mjs", node),
    ]
    .into_iter()
    .map(|(name, script, install)| {
        println!("\n== {name}");
        match std::fs::create_dir_all(&folder).map_err(|e| e.to_string()).and_then(|()| install(&folder)) {
            Ok(command) => drive(name, command, script),
            Err(why) => Outcome::Skipped { name: name.to_owned(), why },
        }
    })
    .collect();
    let _ = std::fs::remove_dir_all(&folder);
    outcomes
}

/// Makes sure a program is there; in CI, as root, from Debian's packages.
fn program(name: &str, packages: &[&str]) -> Result<(), String> {
    let there = || Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if there() {
        return Ok(());
    }
    if steps::is_ci() {
        let _ = quiet(Command::new("apt-get").args(["update", "-qq"]));
        let _ = quiet(Command::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages));
    }
    if there() {
        Ok(())
    } else {
        Err(format!("{name} is not installed (Debian: apt-get install {})", packages.join(" ")))
    }
}

fn quiet(command: &mut Command) -> Result<(), String> {
    let output = command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot start: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("failed").to_owned())
}

fn python(folder: &Path) -> Result<Command, String> {
    program("python3", &["python3", "python3-pip"])?;
    let packages = folder.join("python");
    let pip = |python: &str| {
        quiet(Command::new(python).args(["-m", "pip", "install", "--quiet", "--target"]).arg(&packages).arg(PYTHON_SDK))
    };
    pip("python3").map_err(|why| format!("{PYTHON_SDK} could not be installed: {why}"))?;
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", packages);
    Ok(command)
}

fn node(folder: &Path) -> Result<Command, String> {
    program("node", &["nodejs"])?;
    program("npm", &["npm"])?;
    let modules = folder.join("node");
    std::fs::create_dir_all(&modules).map_err(|e| e.to_string())?;
    quiet(
        Command::new("npm")
            .args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(&modules)
            .arg(NODE_SDK),
    )
    .map_err(|why| format!("{NODE_SDK} could not be installed: {why}"))?;
    let mut command = Command::new("node");
    command.env("NODE_MODULES", modules);
    Ok(command)
}

/// Starts an emulator, runs the script against it and counts its `ok` lines.
fn drive(name: &str, mut command: Command, script: &str) -> Outcome {
    let skipped = |why: String| Outcome::Skipped { name: name.to_owned(), why };
    let (mut emulator, base_url, api_key) = match emulator() {
        Ok(running) => running,
        Err(why) => return skipped(why),
    };
    let script: PathBuf = root().join("crates/emulator/tests/sdks").join(script);
    let output = command
        .arg(script)
        .env("BASE_URL", base_url)
        .env("API_KEY", api_key)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let _ = emulator.kill();
    let _ = emulator.wait();
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            print!("{said}");
            let passed = said.lines().filter(|line| line.starts_with("ok ")).count() as u64;
            let failed = u64::from(!output.status.success() || passed == 0);
            Outcome::Ran { name: name.to_owned(), passed, failed }
        }
        Err(e) => skipped(format!("the script cannot start: {e}")),
    }
}

/// Starts `palisade emulate stripe` and reads its first line.
fn emulator() -> Result<(Child, String, String), String> {
    let mut child = steps::palisade()?
        .args(["emulate", "stripe", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("the emulator cannot start: {e}"))?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = BufReader::new(out).read_line(&mut line);
    }
    let said: serde_json::Value = serde_json::from_str(&line)
        .map_err(|_| "the emulator did not print its address as JSON on its first line".to_owned())?;
    let text = |key: &str| said.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    match (text("base_url"), text("api_key")) {
        (Some(url), Some(key)) => Ok((child, url, key)),
        _ => Err("the emulator's first line has no base_url and api_key".to_owned()),
    }
}

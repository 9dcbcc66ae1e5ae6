//! Judges from outside, installed in a throw-away folder: the official SDKs, pointed at `palisade emulate` and run
//! unpatched; a certified OpenID provider that a hub connects to; a browser that clicks through a hub's pages; Apache Arrow's
//! reader of what was exported. Skipped with one line where their registry is out of reach.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::recorded::Routes;
use crate::steps::{self, root};

/// A judge and what is judged.
struct Sdk {
    name: &'static str,
    /// What the judge runs, from the root of the workspace.
    script: &'static str,
    /// Packages with the versions the script was written against.
    packages: &'static [&'static str],
    install: fn(&Path, &[&str]) -> Result<Command, String>,
    against: Against,
}

/// What a script is run against.
enum Against {
    /// `palisade emulate` with these arguments.
    Emulator(&'static [&'static str]),
    /// A binary of palisade-tests that says where it is and waits.
    Binary(&'static str),
    /// A binary of palisade-tests that starts the script itself, and judges.
    Itself(&'static str),
}

const SDKS: &[Sdk] = &[
    Sdk {
        name: "official Stripe SDK for Python",
        script: "crates/emulator/tests/sdks/stripe_python.py",
        packages: &["stripe==16.1.0"],
        install: python,
        against: STRIPE,
    },
    Sdk {
        name: "official Stripe SDK for Node",
        script: "crates/emulator/tests/sdks/stripe_node.mjs",
        packages: &["stripe@23.1.0"],
        install: node,
        against: STRIPE,
    },
    Sdk {
        name: "official Slack SDK for Python",
        script: "crates/emulator/tests/sdks/slack_python.py",
        packages: &["slack_sdk==3.47.0"],
        install: python,
        against: Against::Emulator(&["slack", "--redirect-uri", "http://127.0.0.1:9/slack/callback"]),
    },
    Sdk {
        name: "Google's auth library for Python",
        script: "crates/emulator/tests/sdks/google_python.py",
        packages: &["google-auth==2.62.2", "requests", "cryptography"],
        install: python,
        against: Against::Emulator(&["google", "--redirect-uri", "http://127.0.0.1:9/google/callback"]),
    },
    Sdk {
        name: "certified OpenID provider for Node",
        script: "crates/emulator/tests/sdks/oidc_provider.mjs",
        packages: &["oidc-provider@9.13.3"],
        install: node,
        against: Against::Itself("certified"),
    },
    Sdk {
        name: "headless Chromium on the hub's pages",
        script: "tests/clicks.mjs",
        packages: &["playwright-core@1.65.1"],
        install: browser,
        against: Against::Binary("clickable"),
    },
    Sdk {
        name: "Apache Arrow for Python on exported files",
        script: "tests/export.py",
        packages: &["pyarrow==26.0.1"],
        install: python,
        against: Against::Binary("exported"),
    },
    Sdk {
        name: "official Standard Webhooks library for Python",
        script: "tests/forwarded.py",
        packages: &["standardwebhooks==1.1.0"],
        install: python,
        against: Against::Binary("clickable"),
    },
    Sdk {
        name: "official Standard Webhooks library for Node",
        script: "tests/forwarded.mjs",
        packages: &["standardwebhooks@1.1.1"],
        install: node,
        against: Against::Binary("clickable"),
    },
    Sdk {
        name: "Google's API client for Python",
        script: "crates/emulator/tests/sdks/google_api_python.py",
        packages: &[
            "google-api-python-client==2.202.0",
            "google-auth==2.62.2",
            "google-auth-httplib2",
            "requests",
            "cryptography",
        ],
        install: python,
        against: Against::Emulator(&["google", "--redirect-uri", "http://127.0.0.1:9/google/callback"]),
    },
    Sdk {
        name: "official Slack SDK for Node",
        script: "crates/emulator/tests/sdks/slack_node.mjs",
        packages: &["@slack/web-api@8.2.0"],
        install: node,
        against: Against::Emulator(&["slack", "--redirect-uri", "http://127.0.0.1:9/slack/callback"]),
    },
    Sdk {
        name: "official Twilio SDK for Python",
        script: "crates/emulator/tests/sdks/twilio_python.py",
        packages: &["twilio==9.13.0"],
        install: python,
        against: Against::Emulator(&["twilio"]),
    },
    Sdk {
        name: "official Twilio SDK for Node",
        script: "crates/emulator/tests/sdks/twilio_node.mjs",
        packages: &["twilio@6.2.0"],
        install: node,
        against: Against::Emulator(&["twilio"]),
    },
    Sdk {
        name: "official SendGrid SDK for Python",
        script: "crates/emulator/tests/sdks/sendgrid_python.py",
        packages: &["sendgrid==6.12.5", "cryptography"],
        install: python,
        against: Against::Emulator(&["sendgrid"]),
    },
    Sdk {
        name: "official SendGrid SDK for Node",
        script: "crates/emulator/tests/sdks/sendgrid_node.mjs",
        packages: &["@sendgrid/mail@8.1.6", "@sendgrid/client@8.1.6", "@sendgrid/eventwebhook@8.0.0"],
        install: node,
        against: Against::Emulator(&["sendgrid"]),
    },
    Sdk {
        name: "Google's API client for Node",
        script: "crates/emulator/tests/sdks/google_node.mjs",
        // What `googleapis` is for these two APIs: that package holds all of them, and 200 MB.
        packages: &["@googleapis/gmail@18.0.0", "@googleapis/calendar@16.0.0"],
        install: node,
        against: Against::Emulator(&["google", "--redirect-uri", "http://127.0.0.1:9/google/callback"]),
    },
];
const STRIPE: Against = Against::Emulator(&["stripe", "--connected", "acct_connected"]);

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

/// Installs and runs each SDK against a fresh emulator, and tells whether every recorded call was driven by one of them.
pub(crate) fn run() -> Vec<Outcome> {
    let folder = std::env::temp_dir().join(format!("palisade-sdks-{}", std::process::id()));
    let mut routes = Routes::default();
    let mut all_ran = true;
    let mut outcomes: Vec<Outcome> = SDKS
        .iter()
        .map(|sdk| {
            println!("\n== {}", sdk.name);
            // A folder each: pip leaves out what stands in its way, such as another package's half of `google`.
            let folder = folder.join(sdk.name.replace(' ', "-"));
            let made = std::fs::create_dir_all(&folder).map_err(|e| e.to_string());
            let outcome = match made.and_then(|()| (sdk.install)(&folder, sdk.packages)) {
                Ok(command) => drive(sdk, command, &mut routes),
                Err(why) => Outcome::Skipped { name: sdk.name.to_owned(), why },
            };
            let counts = matches!(sdk.against, Against::Emulator(_));
            all_ran &= !counts || matches!(outcome, Outcome::Ran { .. });
            outcome
        })
        .collect();
    outcomes.push(routes.judged(all_ran));
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

fn python(folder: &Path, wanted: &[&str]) -> Result<Command, String> {
    program("python3", &["python3", "python3-pip"])?;
    let packages = folder.join("python");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(&packages).args(wanted);
    quiet(&mut pip).map_err(|why| format!("{} could not be installed: {why}", wanted.join(" ")))?;
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", packages);
    Ok(command)
}

fn node(folder: &Path, wanted: &[&str]) -> Result<Command, String> {
    program("node", &["nodejs"])?;
    program("npm", &["npm"])?;
    let modules = folder.join("node");
    std::fs::create_dir_all(&modules).map_err(|e| e.to_string())?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&modules).args(wanted);
    quiet(&mut npm).map_err(|why| format!("{} could not be installed: {why}", wanted.join(" ")))?;
    let mut command = Command::new("node");
    command.env("NODE_MODULES", modules);
    Ok(command)
}

/// A browser from Debian's packages, and what drives it from npm: that downloads none of its own.
fn browser(folder: &Path, wanted: &[&str]) -> Result<Command, String> {
    program("chromium", &["chromium"])?;
    node(folder, wanted)
}

/// Starts what is judged, runs the script against it and counts its `ok` lines; of an emulator it adds what it was asked.
fn drive(sdk: &Sdk, mut command: Command, routes: &mut Routes) -> Outcome {
    let skipped = |why: String| Outcome::Skipped { name: sdk.name.to_owned(), why };
    let script: PathBuf = root().join(sdk.script);
    let (mut judged, mut base_url) = (None, None);
    match started(sdk, &script, &command) {
        Ok(Started::Waiting(running, said)) => {
            if matches!(sdk.against, Against::Emulator(_)) {
                base_url = said.get("base_url").and_then(serde_json::Value::as_str).map(str::to_owned);
            }
            // What it says of itself is the script's environment: base_url as BASE_URL, and so on.
            for (key, value) in said {
                command.env(key.to_uppercase(), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            }
            command.arg(script);
            judged = Some(running);
        }
        Ok(Started::Judge(judge)) => command = judge,
        Err(why) => return skipped(why),
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let asked = base_url.map_or(Ok(()), |base_url| routes.ask(&base_url));
    if let Some(mut running) = judged {
        let _ = running.kill();
        let _ = running.wait();
    }
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            print!("{said}");
            let passed = said.lines().filter(|line| line.starts_with("ok ")).count() as u64;
            if let Err(why) = &asked {
                println!("FAILED {}: {why}", sdk.name);
            }
            let failed = u64::from(!output.status.success() || passed == 0 || asked.is_err());
            Outcome::Ran { name: sdk.name.to_owned(), passed, failed }
        }
        Err(e) => skipped(format!("the script cannot start: {e}")),
    }
}

enum Started {
    /// It runs, and said this of itself.
    Waiting(Child, serde_json::Map<String, serde_json::Value>),
    /// It starts the script itself.
    Judge(Command),
}

/// Starts what is judged. `runtime` is the command a script is run by.
fn started(sdk: &Sdk, script: &Path, runtime: &Command) -> Result<Started, String> {
    let palisade = steps::palisade()?;
    // The tests' binaries are built with it, beside it.
    let beside = |name: &str| Command::new(Path::new(palisade.get_program()).with_file_name(name));
    let mut command = match sdk.against {
        Against::Emulator(arguments) => {
            let mut command = beside("palisade");
            command.arg("emulate").args(arguments).args(["--listen", "127.0.0.1:0"]);
            command
        }
        Against::Binary(name) => beside(name),
        Against::Itself(name) => {
            let mut judge = beside(name);
            judge.arg(script).arg(runtime.get_program());
            judge.envs(runtime.get_envs().filter_map(|(key, value)| Some((key, value?))));
            return Ok(Started::Judge(judge));
        }
    };
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|e| format!("what is judged cannot start: {e}"))?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = BufReader::new(out).read_line(&mut line);
    }
    serde_json::from_str(&line)
        .map(|said| Started::Waiting(child, said))
        .map_err(|_| "what is judged did not print what it is as JSON on its first line".to_owned())
}

//! The binary `palisade` as a process: exit codes, one clear sentence, and no secret anywhere.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use palisade_emulator::stripe::{Stripe, StripeConfig};
use tempfile::TempDir;

pub(crate) const KEY: &str = "sk_test_canaryOfTheApiKey0000";
const HOOK: &str = "whsec_canaryOfTheHookSecret0000";
pub(crate) const ADMIN: &str = "canary of the admin token 0000";
/// 32 bytes in base64.
const MASTER: &str = "Y2FuYXJ5IG9mIHRoZSBtYXN0ZXIga2V5IDAwMDAwMDA=";

pub(crate) fn palisade(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command
        .args(arguments)
        .env_clear()
        .env("TEST_KEY", KEY)
        .env("TEST_HOOK", HOOK)
        .env("TEST_ADMIN", ADMIN)
        .env("TEST_MASTER", MASTER)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn config(base_url: &str) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
admin_token = {{ env = "TEST_ADMIN" }}
shutdown_grace = "5s"
[vault]
master_key = {{ env = "TEST_MASTER" }}
[[connection]]
id = "acme-stripe"
tenant = "acme"
provider = "stripe"
base_url = "{base_url}"
credential = {{ env = "TEST_KEY" }}
[[endpoint]]
name = "stripe"
provider = "stripe"
connection = "acme-stripe"
secrets = [{{ env = "TEST_HOOK" }}]
"#
    )
}

pub(crate) fn folder_with(config: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("palisade.toml"), config).unwrap();
    folder
}

pub(crate) fn path_of(folder: &TempDir) -> String {
    folder.path().join("palisade.toml").display().to_string()
}

#[track_caller]
pub(crate) fn ends(output: &Output, code: i32, words: &[&str]) {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word} in {text}");
    }
    has_no_secret(&text);
}

#[track_caller]
pub(crate) fn has_no_secret(text: &str) {
    for secret in [KEY, HOOK, ADMIN, MASTER, "canary of the master", "canaryOf", "sk_live_literal"] {
        assert!(!text.contains(secret), "a secret is shown: {text}");
    }
}

// Fails when a mistake ends with another code, or with a sentence that does not name it.
#[test]
fn each_mistake_of_the_set_up_is_one_sentence_with_its_exit_code() {
    let good = config("http://127.0.0.1:1");
    let cases: [(&str, String, i32, &[&str]); 8] = [
        (
            "unknown key",
            good.replace("listen =", "lisen ="),
            2,
            &["palisade.toml:3", "\"lisen\"", "did you mean \"listen\"?"],
        ),
        (
            "literal secret",
            good.replace("{ env = \"TEST_KEY\" }", "\"sk_live_literal\""),
            2,
            &["must not stand in this file"],
        ),
        ("missing variable", good.replace("TEST_MASTER", "NOT_SET"), 2, &["vault.master_key", "NOT_SET is not set"]),
        ("short master key", good.replace("TEST_MASTER", "TEST_KEY"), 2, &["vault.master_key", "base64 of 32 bytes"]),
        (
            "wrong kind of key",
            good.replace("TEST_KEY", "TEST_HOOK"),
            2,
            &["credential of connection acme-stripe", "signing secret"],
        ),
        (
            "port of somebody else",
            good.replace("127.0.0.1:0", "203.0.113.1:80"),
            3,
            &["203.0.113.1:80", "server.listen"],
        ),
        ("no folder", format!("{good}\n[store]\npath = \"nowhere/palisade.db\""), 3, &["database", "folder"]),
        ("no TOML", "[server".to_owned(), 2, &["not TOML"]),
    ];
    for (_, text, code, words) in cases {
        let folder = folder_with(&text);
        let output = palisade(&["serve", "--config", &path_of(&folder)]).output().unwrap();
        ends(&output, code, words);
    }
    ends(&palisade(&["serve", "--config", "/nowhere.toml"]).output().unwrap(), 2, &["/nowhere.toml", "--config"]);
    ends(&palisade(&["serve", "--nonsense"]).output().unwrap(), 2, &["--nonsense"]);
    ends(&palisade(&["--help"]).output().unwrap(), 0, &["serve", "emulate", "verify", "doctor"]);
}

#[test]
fn a_port_in_use_and_a_file_that_is_no_database_are_the_machines_fault() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let folder = folder_with(&config("http://127.0.0.1:1").replace("127.0.0.1:0", &address));
    ends(&palisade(&["serve", "--config", &path_of(&folder)]).output().unwrap(), 3, &[&address, "is in use"]);

    let folder = folder_with(&config("http://127.0.0.1:1"));
    fs::write(folder.path().join("palisade.db"), "this is a letter, not a database".repeat(100)).unwrap();
    ends(&palisade(&["serve", "--config", &path_of(&folder)]).output().unwrap(), 3, &["not a database"]);
    let doctor = palisade(&["doctor", "--offline", "--config", &path_of(&folder)]).output().unwrap();
    ends(&doctor, 1, &["fail  database", "not a database"]);
    let doctor = palisade(&["doctor", "--offline", "--json", "--config", &path_of(&folder)]).output().unwrap();
    ends(&doctor, 1, &[]);
    let told: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let checks = told["checks"].as_array().unwrap();
    let found = |what: &str| checks.iter().find(|one| one["check"] == what).unwrap()["found"].clone();
    assert_eq!((found("database"), found("configuration"), found("port")), ("fail".into(), "ok".into(), "ok".into()));
    assert_eq!((&told["ok"], &told["failed"]), (&false.into(), &1.into()));
    let none = palisade(&["doctor", "--json", "--config", "/nowhere.toml"]).output().unwrap();
    ends(&none, 1, &["\"ok\":false", "there is no such file"]);
}

// Fails when a hub goes on, or does not say what to do, after a newer program has upgraded its database.
#[test]
fn a_hub_whose_database_was_upgraded_under_it_ends_with_one_sentence() {
    let folder = folder_with(&config("http://127.0.0.1:1"));
    let running = Running::start(&mut palisade(&["serve", "--config", &path_of(&folder)]));
    let database = rusqlite::Connection::open(folder.path().join("palisade.db")).unwrap();
    database.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
    let own: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    database.execute_batch(&format!("PRAGMA user_version = {}", own + 1)).unwrap();
    let (code, said) = running.ended();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&format!("to version {}", own + 1)) && said.contains("start the newer one"), "{said}");
}

// Fails when the doctor makes, upgrades or writes the database it looks at.
#[test]
fn the_doctor_looks_at_the_database_and_leaves_it_alone() {
    let folder = folder_with(&config("http://127.0.0.1:1"));
    let path = folder.path().join("palisade.db");
    let examine = |code: i32, words: &[&str]| {
        let before = fs::read(&path).ok();
        let output = palisade(&["doctor", "--offline", "--config", &path_of(&folder)]).output().unwrap();
        ends(&output, code, words);
        assert_eq!(fs::read(&path).ok(), before, "the file is as it was");
        let names: Vec<_> = files(folder.path()).filter(|path| !path.ends_with("palisade.toml")).collect();
        assert_eq!(names.len(), usize::from(before.is_some()), "nothing beside it: {names:?}");
    };
    examine(0, &["ok    database", "is not there yet"]);
    let store = palisade_store::SqliteStore::open(palisade_store::SqliteConfig::at(&path)).unwrap();
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(store.close()).unwrap();
    // `user_version` stands at offset 60 of the header (SQLite file format, 1.3).
    let wanted = fs::read(&path).unwrap()[63];
    let versions = |found: u8| format!("version {found}, this program wants {wanted}");
    examine(0, &["ok    database", "is sound", &versions(wanted)]);
    let versioned = |version: u8| {
        let mut bytes = fs::read(&path).unwrap();
        bytes[60..64].copy_from_slice(&[0, 0, 0, version]);
        fs::write(&path, bytes).unwrap();
    };
    versioned(1);
    examine(0, &["warn  database", &versions(1), "`serve` upgrades it", "back it up"]);
    versioned(99);
    examine(1, &["fail  database", &versions(99), "run the newer program"]);
}

// Fails when a hub that cannot be told of changes does not say so, or one that can does not say where.
#[test]
fn the_doctor_says_where_changes_are_told_to() {
    let google = "[[endpoint]]\nname = \"google\"\nprovider = \"google\"\nconnection = \"con_1\"\n\
                  secrets = [{ env = \"TEST_ADMIN\" }]\n";
    let hidden = format!("{}{google}", config("http://127.0.0.1:1"));
    let plain = hidden.replace("listen =", "public_url = \"http://hooks.example.com\"\nlisten =");
    let public = plain.replace("http://hooks", "https://hooks");
    let unsaid = ["warn  notifications of con_1", "calendar_events", "by schedule only", "set server.public_url"];
    let said = ["ok    notifications of con_1", "calendar_events", "told to https://hooks.example.com/webhooks/google"];
    for (config, words) in [(hidden, &unsaid[..]), (plain, &unsaid), (public, &said)] {
        let folder = folder_with(&config);
        ends(&palisade(&["doctor", "--offline", "--config", &path_of(&folder)]).output().unwrap(), 0, words);
    }
}

// Fails when the mode of a secret file is not looked at.
#[test]
fn a_secret_file_that_others_can_read_is_refused() {
    let folder =
        folder_with(&config("http://127.0.0.1:1").replace("{ env = \"TEST_MASTER\" }", "{ file = \"master.key\" }"));
    let key = folder.path().join("master.key");
    fs::write(&key, format!("{MASTER}\n")).unwrap();
    for (mode, code) in [(0o644, 1), (0o660, 1), (0o600, 0), (0o640, 0), (0o400, 0)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let output = palisade(&["doctor", "--offline", "--config", &path_of(&folder)]).output().unwrap();
        ends(&output, code, if code == 0 { &["ok    secrets"] } else { &["fail  secrets", "chmod 600"] });
    }
}

struct Files(TempDir);

impl Files {
    fn new(body: &str, headers: &str, secret: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("body", body), ("headers", headers), ("secret", secret)] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn verify(&self, more: &[&str]) -> Output {
        let path = |name: &str| self.0.path().join(name).display().to_string();
        let (body, headers, secret) = (path("body"), path("headers"), path("secret"));
        let mut arguments = vec!["verify", "--body-file", &body, "--headers-file", &headers, "--secret-file", &secret];
        arguments.extend(more);
        palisade(&arguments).output().unwrap()
    }
}

// Fails when the verdict and the exit code disagree, or when the usual mistakes are not told.
#[test]
fn verify_says_why_a_signature_fails() {
    const AT: i64 = 1_767_225_600;
    let body = r#"{"id":"evt_1","object":"event","type":"customer.updated","created":1767225599,"data":{"object":{"id":"cus_1"}}}"#;
    let signature = |secret: &str, body: &str| {
        palisade_stripe::webhook::sign(&secret.into(), palisade_core::Timestamp::from_seconds(AT), body.as_bytes())
    };
    let good = format!("POST /webhooks/stripe HTTP/1.1\r\nHost: a\r\nStripe-Signature: {}\r\n", signature(HOOK, body));
    let json = format!(r#"{{"Stripe-Signature":"{}"}}"#, signature(HOOK, body));
    let with_break = format!("{body}\n");
    let bare = HOOK.strip_prefix("whsec_").unwrap();
    let check = |files: &Files, now: i64, code: i32, expected: &[(&str, &str)]| {
        let output = files.verify(&["--provider", "stripe", "--now", &now.to_string()]);
        ends(&output, code, &[]);
        let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for (key, value) in expected {
            assert!(verdict[key].to_string().contains(value), "{key}: {value} in {verdict}");
        }
    };
    check(&Files::new(body, &good, HOOK), AT, 0, &[("valid", "true"), ("events", "evt_1")]);
    check(&Files::new(body, &json, &format!("whsec_old\n{HOOK}\n")), AT, 0, &[("valid", "true")]);
    check(&Files::new(body, &good, "whsec_other"), AT, 1, &[("valid", "false"), ("reason", "mismatch")]);
    check(&Files::new(&with_break, &good, HOOK), AT, 1, &[("hint", "line break")]);
    check(&Files::new(body, &good, bare), AT, 1, &[("hint", "lacks its prefix")]);
    check(&Files::new(body, &good, HOOK), AT + 301, 1, &[("reason", "too_old"), ("hint", "apart from its time")]);
    check(&Files::new(body, &good, HOOK), AT - 301, 1, &[("reason", "too_new")]);
    check(&Files::new(body, "Host: a", HOOK), AT, 1, &[("reason", "missing_header")]);
    for (more, files) in [
        (vec!["--provider", "nobody"], Files::new(body, &good, HOOK)),
        (vec!["--provider", "stripe"], Files::new(body, "no header at all", HOOK)),
        (vec!["--provider", "stripe"], Files::new(body, &good, "\n")),
        (vec![], Files::new(body, &good, HOOK)),
    ] {
        ends(&files.verify(&more), 2, &[]);
    }
}

#[test]
fn verify_runs_a_file_of_cases_and_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cases.json").display().to_string();
    let case = |name: &str, expect: &str, body: &str| {
        serde_json::json!({
            "name": name, "expect": expect, "body_b64": body, "secret": "whsec_c3RhbmRhcmQtd2ViaG9va3MtdGVzdC1rZXktMzJieXQ=",
            "now": 1767225605, "tolerance": 300,
            "headers": { "webhook-id": "msg_1", "webhook-timestamp": "1767225600", "webhook-signature": "v1,XuzeDEfy59BQPFuCT+GutfJG37QpdVWFnvKwNXoe1Gc=" }
        })
    };
    let body =
        "eyJ0eXBlIjoiY29udGFjdC5jcmVhdGVkIiwidGltZXN0YW1wIjoiMjAyNi0wMS0wMVQwMDowMDowMFoiLCJkYXRhIjp7ImlkIjoiY18xIn19";
    let good = [case("plain", "ok", body), case("changed", "fail", "e30="), case("odd", "policy", "e30=")];
    let write = |vectors: &[serde_json::Value]| {
        let document = serde_json::json!({ "_meta": {}, "standard_webhooks": { "vectors": vectors }, "carrier_pigeon": { "vectors": [{}, {}] } });
        fs::write(&file, document.to_string()).unwrap();
        palisade(&["verify", "--cases", &file]).output().unwrap()
    };
    ends(
        &write(&good),
        0,
        &["standard_webhooks: passed 3, differs 0, skipped 0", "carrier_pigeon: passed 0, differs 0, skipped 2"],
    );
    let wrong = [case("lax", "policy", body), case("strict", "ok", "e30="), case("?", "perhaps", body)];
    ends(
        &write(&wrong),
        1,
        &[
            "standard_webhooks/lax: accepted, must be rejected",
            "standard_webhooks/strict: rejected (mismatch)",
            "differs 3",
        ],
    );
    fs::write(&file, "[").unwrap();
    ends(&palisade(&["verify", "--cases", &file]).output().unwrap(), 2, &["not JSON"]);
}

// Fails when a recorded case is skipped or judged otherwise than its file says: by what `--cases` reads of it, or by the
// scheme its group is given to.
#[test]
fn verify_agrees_with_every_recorded_case() {
    let mut groups = serde_json::Map::new();
    let (mut said, mut all) = (Vec::new(), 0);
    for (name, recorded) in [
        ("stripe", include_str!("../../../stripe/tests/fixtures/webhooks.json")),
        ("standard_webhooks", include_str!("../../../core/tests/fixtures/standard_webhooks.json")),
    ] {
        let group: serde_json::Value = serde_json::from_str(recorded).unwrap();
        let cases = group["vectors"].as_array().unwrap().len();
        assert!(cases > 0, "{name}");
        said.push(format!("{name}: passed {cases}, differs 0, skipped 0"));
        all += cases;
        groups.insert(name.to_owned(), group);
    }
    said.push(format!("all: passed {all}, differs 0, skipped 0"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cases.json");
    fs::write(&file, serde_json::Value::from(groups).to_string()).unwrap();
    let output = palisade(&["verify", "--cases", file.to_str().unwrap()]).output().unwrap();
    let words: Vec<&str> = said.iter().map(String::as_str).collect();
    ends(&output, 0, &words);
}

/// A process that is killed when the test ends early.
pub(crate) struct Running {
    child: Child,
    first: serde_json::Value,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let first = serde_json::from_str(&line).unwrap_or_else(|e| {
            let mut rest = String::new();
            let _ = child.stderr.take().unwrap().read_to_string(&mut rest);
            panic!("{e}: {line}{rest}")
        });
        Self { child, first }
    }

    pub(crate) fn said(&self, key: &str) -> String {
        self.first[key].as_str().unwrap().to_owned()
    }

    pub(crate) fn address(&self, key: &str) -> String {
        self.said(key).strip_prefix("http://").unwrap().to_owned()
    }

    /// Asks it to stop and returns its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Running {
    /// Waits until it has ended by itself; returns its exit code and what it said on standard error.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut code = None;
        until("it ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code.unwrap().code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(crate) fn get(address: &str, path: &str, token: &str) -> String {
    authorised(address, path, &format!("Bearer {token}"))
}

fn authorised(address: &str, path: &str, credential: &str) -> String {
    http(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: {credential}\r\nconnection: close\r\n\r\n"),
    )
}

#[test]
fn the_emulator_says_where_it_is_on_its_first_line_and_stops_when_asked() {
    let running = Running::start(&mut palisade(&[
        "emulate",
        "stripe",
        "--seed",
        "7",
        "--populate",
        "5",
        "--api-key",
        "sk_test_mine",
    ]));
    let address = running.address("base_url");
    let list = get(&address, "/v1/customers?limit=100", "sk_test_mine");
    assert!(list.starts_with("HTTP/1.1 200"), "{list}");
    assert_eq!(
        list.matches(r#""object":"customer""#).count() + list.matches(r#""object": "customer""#).count(),
        5,
        "{list}"
    );
    assert!(get(&address, "/v1/customers", "sk_test_other").starts_with("HTTP/1.1 401"));
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn emulated_oauth_providers_say_their_credentials_and_show_their_page() {
    for (provider, path) in [("slack", "/oauth/v2/authorize"), ("google", "/o/oauth2/v2/auth")] {
        let back = "http://127.0.0.1:9/cb";
        let running =
            Running::start(&mut palisade(&["emulate", provider, "--redirect-uri", back, "--app-name", "Tea"]));
        let client = running.said("client_id");
        assert!(!running.said("client_secret").is_empty());
        let address = running.address("base_url");
        let scope = if provider == "slack" { "chat:write" } else { "openid" };
        let ask = format!("{path}?client_id={client}&redirect_uri={back}&scope={scope}&response_type=code");
        let page = get(&address, &ask, "");
        assert!(page.starts_with("HTTP/1.1 200") && page.contains("Tea") && page.contains("<form"), "{page}");
        let elsewhere = get(&address, &ask.replace(":9/cb", ":9/other"), "");
        assert!(elsewhere.starts_with("HTTP/1.1 400") && !elsewhere.contains("location:"), "{elsewhere}");
        assert_eq!(running.stop(), Some(0));
    }
}

#[test]
fn emulated_senders_say_their_credentials_and_begin_with_what_was_asked_for() {
    let basic = |user: &str, password: &str| {
        use base64::Engine;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
    };
    let running = Running::start(&mut palisade(&["emulate", "twilio", "--seed", "7", "--populate", "3"]));
    let (address, sid) = (running.address("base_url"), running.said("account_sid"));
    let path = format!("/2010-04-01/Accounts/{sid}/Messages.json");
    for (user, secret) in [("account_sid", "auth_token"), ("api_key_sid", "api_key_secret")] {
        let list = authorised(&address, &path, &basic(&running.said(user), &running.said(secret)));
        assert!(list.starts_with("HTTP/1.1 200"), "{list}");
        assert_eq!(list.matches(r#""direction":"outbound-api""#).count(), 3, "{list}");
    }
    assert!(authorised(&address, &path, &basic(&sid, "another")).starts_with("HTTP/1.1 401"));
    assert_eq!(running.stop(), Some(0));

    let running = Running::start(&mut palisade(&["emulate", "sendgrid", "--populate", "4", "--api-key", "SG.mine"]));
    let address = running.address("base_url");
    assert!(running.said("public_key").starts_with("MFkwEwYHKoZIzj0"), "as SendGrid's settings show it");
    for list in ["bounces", "blocks", "invalid_emails", "spam_reports", "unsubscribes"] {
        let path = format!("/v3/suppression/{list}");
        let shown = get(&address, &path, &running.said("api_key"));
        assert_eq!(shown.matches(r#""email":"#).count(), 4, "{list}: {shown}");
        assert!(get(&address, &path, "SG.other").starts_with("HTTP/1.1 401"));
    }
    assert_eq!(running.stop(), Some(0));
}

/// Waits until an answer satisfies a condition; the process's own time decides how long that takes.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !holds() {
        assert!(begin.elapsed() < std::time::Duration::from_secs(60), "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

// Fails when a secret reaches a log line at any level, an answer, an error or a row in plain text.
#[test]
fn a_whole_life_at_trace_level_shows_no_secret() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let emulator =
        runtime.block_on(Stripe::start(StripeConfig { api_key: KEY.to_owned(), ..StripeConfig::default() })).unwrap();
    emulator.create_customer(&[("email", "ada@example.com")]).unwrap();
    let folder = folder_with(&config(emulator.base_url()));
    let log_path = folder.path().join("log");
    let log = fs::File::create(&log_path).unwrap();
    let mut command = palisade(&["serve", "--log", "trace", "--config", &path_of(&folder)]);
    let running = Running::start(command.stderr(log));
    let address = running.address("url");

    let body = crate::fixtures::event("evt_canary", "customer.updated");
    let now = palisade_core::Clock::now(&palisade_core::clock::SystemClock);
    let signature = palisade_stripe::webhook::sign(&HOOK.into(), now, body.as_bytes());
    let forged = palisade_stripe::webhook::sign(&"whsec_forged".into(), now, body.as_bytes());
    let post = |signature: &str| {
        let request = format!(
            "POST /webhooks/stripe HTTP/1.1\r\nhost: {address}\r\nstripe-signature: {signature}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        http(&address, &request)
    };
    let mut answers = vec![post(&signature), post(&forged)];
    assert!(answers[0].starts_with("HTTP/1.1 200"), "{}", answers[0]);
    assert!(answers[1].starts_with("HTTP/1.1 401"), "{}", answers[1]);
    until("the customer is synced", || {
        get(&address, "/api/v1/records/acme-stripe/customers", ADMIN).contains("ada@example.com")
    });
    until("it is ready", || get(&address, "/readyz", "").starts_with("HTTP/1.1 200"));
    for path in [
        "/",
        "/metrics",
        "/api/v1/health",
        "/api/v1/connections",
        "/api/v1/events",
        "/api/v1/events/1",
        "/api/v1/calls",
        "/api/v1/runs",
        "/api/v1/jobs",
    ] {
        let answer = get(&address, path, ADMIN);
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        answers.push(answer);
        let refused = get(&address, path, "wrong");
        assert!(refused.starts_with("HTTP/1.1 401") || refused.starts_with("HTTP/1.1 303"), "{path}: {refused}");
    }
    assert_eq!(running.stop(), Some(0));
    let log = fs::read_to_string(&log_path).unwrap();
    assert!(log.contains("listening") && log.contains("stopped") && log.contains("DEBUG"), "{log}");
    has_no_secret(&log);
    answers.iter().for_each(|answer| has_no_secret(answer));
    for file in files(folder.path()).filter(|path| !path.ends_with("palisade.toml")) {
        has_no_secret(&String::from_utf8_lossy(&fs::read(&file).unwrap()));
        // Fails when other users of the machine can read the tenants' records.
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert!(file.ends_with("log") || mode.trailing_zeros() >= 6, "{} has mode {mode:o}", file.display());
    }

    // Started again it goes on: the same data, no second copy of anything.
    let running = Running::start(&mut palisade(&["serve", "--config", &path_of(&folder)]));
    let address = running.address("url");
    let events = get(&address, "/api/v1/events", ADMIN);
    assert_eq!(events.matches("evt_canary").count(), 1, "{events}");
    assert!(get(&address, "/api/v1/records/acme-stripe/customers", ADMIN).contains("ada@example.com"));
    assert_eq!(running.stop(), Some(0));
    let doctor = palisade(&["doctor", "--config", &path_of(&folder)]).output().unwrap();
    ends(&doctor, 0, &["ok    database", "is sound", "answers"]);
    runtime.block_on(emulator.shutdown());
}

pub(crate) fn files(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
}

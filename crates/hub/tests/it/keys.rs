//! `palisade keys` as a process: master keys are rotated while a hub serves, stopped at any row, and never lost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use palisade_core::auth::vault::{LocalMasterKey, MasterKey, MasterKeyFile, MasterKeyRing, Place, Rotation, Vault};
use palisade_core::random::{SeededRandom, SystemRandom};
use palisade_core::store::MasterState;
use palisade_core::{ConnectionId, Random, TenantId};
use palisade_store::{SqliteConfig, SqliteStore};
use tempfile::TempDir;

const API_KEY: &str = "sk_test_canaryOfARotatedKey0000";
const ADMIN: &str = "canary of the admin token 0000";

/// A folder with a configuration whose master key is in the file `master.key`.
struct Folder {
    folder: TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"
[server]
listen = "127.0.0.1:0"
admin_token = { env = "TEST_ADMIN" }
shutdown_grace = "5s"
[vault]
master_key = { file = "master.key" }
[[connection]]
id = "acme-stripe"
tenant = "acme"
provider = "stripe"
base_url = "http://127.0.0.1:1"
credential = { env = "TEST_KEY" }
"#;
        fs::write(folder.path().join("palisade.toml"), text).unwrap();
        let this = Self { folder };
        ends(&this.run(&["keys", "init", &this.path("master.key")]), 0, &["made the master key local-"]);
        this
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("palisade.db")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("TEST_KEY", API_KEY)
            .env("TEST_ADMIN", ADMIN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn serve(&self) -> Serving {
        let mut child = self.command(&["serve"]).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let serving = Serving(child);
        let first: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = first["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        // It listens before it has sealed the credentials of its configuration, and is ready afterwards.
        let ready = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        while !super::binary::http(&address, ready).starts_with("HTTP/1.1 200") {
            std::thread::yield_now();
        }
        serving
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        ends(&output, 0, &[]);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn status(&self) -> serde_json::Value {
        self.json(&["keys", "status"])
    }

    /// Returns the name of the key in a state.
    fn key(&self, state: &str) -> String {
        let status = self.status();
        let keys = status["keys"].as_array().unwrap().clone();
        let found = keys.iter().find(|key| key["state"] == state).unwrap_or_else(|| panic!("no {state} in {status}"));
        found["id"].as_str().unwrap().to_owned()
    }
}

struct Serving(Child);

impl Serving {
    fn stop(mut self) {
        Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn ends(output: &Output, code: i32, words: &[&str]) {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word} in {text}");
    }
    for secret in [API_KEY, ADMIN] {
        assert!(!text.contains(secret), "a secret is shown: {text}");
    }
}

/// Opens a stored credential with the keys of a file; says why where it does not open.
fn opens(database: &Path, key_file: &Path) -> Result<bool, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let store = SqliteStore::open(SqliteConfig::at(database)).unwrap();
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let ring = MasterKeyRing::parse(&fs::read(key_file).unwrap(), &random).unwrap();
        let vault = Arc::new(Vault::new(Arc::new(store.clone()), Arc::new(ring), Arc::new(SystemRandom)));
        let source = palisade_core::auth::vault::VaultCredentials::new(vault, Arc::new(store.clone()));
        let opened = palisade_core::auth::CredentialSource::credential(&source, ConnectionId::new("acme-stripe")).await;
        store.close().await.unwrap();
        opened.map(|_| true).map_err(|error| error.message().to_string())
    })
}

// Fails when a rotation loses a row, when a hub that runs does not learn of the new key, when a key that is needed can
// be retired, or when an old backup no longer opens with the old key.
#[test]
fn a_key_is_rotated_under_a_running_hub_and_retired_when_nothing_needs_it() {
    let place = Folder::new();
    ends(&place.run(&["keys", "init", &place.path("master.key")]), 2, &["is there already"]);
    ends(&place.run(&["keys", "status"]), 3, &["is not there yet", "palisade serve"]);

    let serving = place.serve();
    let first = place.key("active");
    ends(
        &place.run(&["keys", "rotate", "--dry-run"]),
        0,
        &["would add a new key", "would wrap 1 data key anew", "nothing was changed"],
    );
    let rehearsed = place.json(&["keys", "rotate", "--dry-run"]);
    assert_eq!((&rehearsed["dry_run"], &rehearsed["data_keys"]), (&true.into(), &1.into()));
    assert_eq!(place.status()["keys"].as_array().unwrap().len(), 1, "a dry run changes nothing");
    ends(&place.run(&["keys", "retire", &first]), 1, &["is the active key", "rotate"]);
    // A copy made while nobody writes: the hub has sealed what it had to before it listened.
    let (old_database, old_keys) = (place.folder.path().join("backup.db"), place.folder.path().join("old.key"));
    let backup = format!("VACUUM INTO '{}'", old_database.display());
    rusqlite::Connection::open(place.database()).unwrap().execute_batch(&backup).unwrap();
    fs::copy(place.path("master.key"), &old_keys).unwrap();

    ends(
        &place.run(&["keys", "rotate"]),
        0,
        &[
            "added the master key",
            "is active",
            "wrapped 1 data key anew",
            "nothing is left",
            &format!("keys retire {first}"),
        ],
    );
    assert_ne!(place.key("active"), first);
    assert_eq!(place.key("old"), first);
    serving.stop();
    place.serve().stop();

    ends(&place.run(&["keys", "retire", &first, "--dry-run"]), 0, &["would retire", "nothing was changed"]);
    assert_eq!(place.key("old"), first);
    ends(&place.run(&["keys", "retire", &first]), 0, &["is retired", "backups"]);
    ends(&place.run(&["keys", "retire", "local-0000"]), 1, &["no master key is called"]);

    // The old key leaves the file: the new one alone opens everything, and the old one alone the old backup.
    let both = fs::read_to_string(place.path("master.key")).unwrap();
    fs::write(place.path("master.key"), both.lines().next().unwrap()).unwrap();
    place.serve().stop();
    let new_keys = place.folder.path().join("master.key");
    assert_eq!(opens(&place.database(), &new_keys), Ok(true));
    assert_eq!(opens(&old_database, &old_keys), Ok(true));
    let refused = opens(&place.database(), &old_keys).unwrap_err();
    assert!(refused.contains(&first) && refused.contains("give both"), "{refused}");

    // The wrong order in the file is told, not obeyed.
    let swapped: Vec<&str> = both.lines().rev().collect();
    fs::write(place.path("master.key"), swapped.join("\n")).unwrap();
    ends(&place.run(&["keys", "rotate"]), 2, &["was replaced by", "first"]);
}

// Fails when a key that data is still wrapped by can be retired, in earnest or in a dry run, or when a command about keys
// opens, and so upgrades, a database of another version under a running hub.
#[test]
fn a_key_that_is_needed_stays_and_a_database_of_another_version_is_left_alone() {
    let place = Folder::new();
    place.serve().stop();
    let (first, key_file) = (place.key("active"), place.folder.path().join("master.key"));
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let second = MasterKeyFile::add(&key_file, &random).unwrap();
    let activate = async {
        let store = SqliteStore::open(SqliteConfig::at(place.database())).unwrap();
        let ring = MasterKeyRing::parse(&fs::read(&key_file).unwrap(), &random).unwrap();
        Rotation::new(Arc::new(store.clone()), Arc::new(ring)).activate(&second).await.unwrap();
        store.close().await.unwrap();
    };
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(activate);
    for more in [&["--dry-run"][..], &[]] {
        let arguments: Vec<&str> = ["keys", "retire", &first].into_iter().chain(more.iter().copied()).collect();
        ends(&place.run(&arguments), 1, &["still wraps 1 data key:", "palisade keys rotate"]);
        assert_eq!(place.key("old"), first);
    }
    let told = place.json(&["keys", "rotate"]);
    let wanted = serde_json::json!({
        "dry_run": false, "active": second, "data_keys": 1, "can_be_retired": [first], "stuck": [],
    });
    assert_eq!(told, wanted);
    let told = place.json(&["keys", "retire", &first]);
    assert_eq!(told, serde_json::json!({ "key": first, "retired": true, "dry_run": false }));

    // `user_version` stands at offset 60 of the header (SQLite file format, 1.3).
    let mut bytes = fs::read(place.database()).unwrap();
    bytes[60..64].copy_from_slice(&[0, 0, 0, 1]);
    fs::write(place.database(), &bytes).unwrap();
    for command in [&["keys", "status"][..], &["keys", "rotate"], &["keys", "retire", &first]] {
        ends(&place.run(command), 3, &["schema version 1", "palisade serve"]);
        assert_eq!(fs::read(place.database()).unwrap(), bytes, "{command:?} changes nothing");
    }
}

// Fails when a walk that was stopped leaves rows behind, or when starting again makes one more key.
#[test]
fn a_rotation_killed_at_any_row_and_started_again_leaves_nothing_under_the_old_key() {
    const TENANTS: usize = 3_000;
    let place = Folder::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let fill = async {
        let store = SqliteStore::open(SqliteConfig::at(place.database())).unwrap();
        let key = fs::read(place.path("master.key")).unwrap();
        let master: Arc<dyn MasterKey> = Arc::new(LocalMasterKey::parse(&key, Arc::new(SystemRandom)).unwrap());
        let vault = Arc::new(Vault::new(Arc::new(store.clone()), Arc::clone(&master), Arc::new(SystemRandom)));
        let sealed = (0..TENANTS).map(|i| {
            let vault = Arc::clone(&vault);
            async move {
                let (tenant, connection) = (TenantId::new(format!("tenant-{i}")), ConnectionId::new("c"));
                let place = Place { tenant: &tenant, connection: &connection, field: "main", generation: 1 };
                let blob = vault.seal(place, b"a secret").await.unwrap();
                (tenant, blob)
            }
        });
        let sealed = futures_util::future::join_all(sealed).await;
        store.close().await.unwrap();
        (master.id(), sealed)
    };
    let (first, sealed) = runtime.block_on(fill);

    let seed = std::env::var("PALISADE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(11);
    let random = SeededRandom::new(seed);
    let again = format!("repeat with PALISADE_SEED={seed} cargo test -p palisade-hub --test it keys::");
    let mut kills = 0;
    loop {
        let mut child = place.command(&["keys", "rotate"]).spawn().unwrap();
        // Long enough to begin, seldom enough to end: the later rounds get more.
        let patience = Duration::from_millis(random.bits() % (20 + 10 * kills));
        let asked = std::time::Instant::now();
        let ended = loop {
            match child.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if asked.elapsed() >= patience => break None,
                None => std::thread::yield_now(),
            }
        };
        match ended {
            Some(status) => {
                let output = child.wait_with_output().unwrap();
                assert!(status.success(), "{}: {again}", String::from_utf8_lossy(&output.stderr));
                break;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                assert!(kills < 200, "it never ends: {again}");
                // Killed between its last commit and its last word: it is done, and one more run would be one more
                // rotation.
                let status = place.status();
                let newest = status["keys"].as_array().unwrap().iter().find(|key| key["state"] == "active").cloned();
                if newest.is_some_and(|key| key["id"] != first.as_str() && key["data_keys"] == TENANTS) {
                    break;
                }
            }
        }
    }

    let check = async {
        let store = SqliteStore::open(SqliteConfig::at(place.database())).unwrap();
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let keys = fs::read(place.path("master.key")).unwrap();
        let ring: Arc<dyn MasterKey> = Arc::new(MasterKeyRing::parse(&keys, &random).unwrap());
        let masters = Rotation::new(Arc::new(store.clone()), Arc::clone(&ring)).status().await.unwrap();
        let old = masters.iter().find(|one| one.id == first).unwrap();
        assert_eq!((old.state, old.data_keys), (MasterState::Old, 0), "{masters:?}: {again}");
        assert_eq!(masters.len(), 2, "one new key, however often it was started: {masters:?}: {again}");
        assert_eq!(masters.iter().map(|one| one.data_keys).sum::<u64>(), TENANTS as u64, "{again}");
        let vault = Vault::new(Arc::new(store.clone()), ring, random);
        let connection = ConnectionId::new("c");
        for (tenant, blob) in &sealed {
            let place = Place { tenant, connection: &connection, field: "main", generation: 1 };
            assert_eq!(vault.open(place, blob).await.unwrap().as_slice(), b"a secret", "{again}");
        }
        store.close().await.unwrap();
    };
    runtime.block_on(check);
}

//! The sentence of promise 1 a newcomer can try: `kill -9` the demo at any moment and start it again on its folder. The
//! real binary is killed at seeded moments of its story and then tells it to its end; the folder is judged by the demo
//! itself and, apart from it, by reading the file.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use palisade_core::store::Value as Cell;
use palisade_store::{SqliteConfig, SqliteStore};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How often the story is killed.
const KILLS: usize = 8;
/// The variable that names the only seed to run.
const ONLY: &str = "PALISADE_SEED";
const TEST: &str = "killed_demo::a_demo_killed_at_any_moment_goes_on_and_repeats_nothing";

fn demo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.arg("demo").arg("--data").arg(folder).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

const SMALL: [&str; 6] = ["--seed", "3", "--customers", "300", "--webhooks", "200"];

/// How long a life may take, in milliseconds: to the first lines of the folder, to the accounts and the listing, into
/// the outage, beyond it to the new master key. Where in its work the story dies is what the seed varies; nothing is
/// awaited by it.
fn lifetime(dice: &mut StdRng) -> Duration {
    let range = match dice.random_range(0..5) {
        0 => 0..60,
        1 => 60..600,
        2 => 600..2_000,
        3 => 2_000..7_000,
        _ => 7_000..13_000,
    };
    Duration::from_millis(dice.random_range(range))
}

/// Kills it after a while. Returns whether it still lived.
fn kill_after(mut child: Child, life: Duration) -> bool {
    let (_never, wait) = std::sync::mpsc::channel::<()>();
    let _ = wait.recv_timeout(life);
    let lived = child.try_wait().unwrap().is_none();
    // SIGKILL on Unix.
    let _ = child.kill();
    let _ = child.wait().unwrap();
    lived
}

struct Repeat(u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("\nrepeat with: {ONLY}={} cargo test -p palisade-hub --test it -- --exact {TEST}", self.0);
        }
    }
}

fn seed() -> u64 {
    let only = std::env::var(ONLY).ok();
    only.map_or(5, |text| text.parse().expect("PALISADE_SEED is a number"))
}

/// Effects in the file of a provider's events, and how many different events they are of.
async fn effects(folder: &Path, provider: &str) -> (i64, i64) {
    let store = SqliteStore::open(SqliteConfig::at(folder.join("palisade.db"))).unwrap();
    let sql = "SELECT count(*), count(DISTINCT event) FROM effect WHERE provider = ?1";
    let rows = store.query(sql, vec![Cell::Text(provider.to_owned())]).await.unwrap();
    store.close().await.unwrap();
    let [Cell::Integer(all), Cell::Integer(different)] = rows[0][..] else { panic!("{rows:?}") };
    (all, different)
}

/// Fails when the provider forgets what happened, when a delivery is acknowledged before its commit, when an effect
/// commits apart from its job, when deduplication is off, when the folder keeps no master key, when each life connects
/// accounts of its own or makes a master key of its own, or when the end is judged over the last process alone.
#[tokio::test]
async fn a_demo_killed_at_any_moment_goes_on_and_repeats_nothing() {
    let seed = seed();
    eprintln!("seed {seed}");
    let _repeat = Repeat(seed);
    let mut dice = StdRng::seed_from_u64(seed);
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("story");
    let mut killed = 0;
    for _ in 0..KILLS {
        let life = lifetime(&mut dice);
        let child = demo(&folder, &SMALL).arg("--exit").spawn().unwrap();
        let lived = kill_after(child, life);
        eprintln!("killed after {life:?}: {lived}");
        killed += u32::from(lived);
    }
    assert!(killed >= 3, "the story was over too soon: {killed}");

    let output = demo(&folder, &["--exit", "--json"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}\n{}", String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    eprintln!("{}\n{errors}", report["continued"]);
    assert!(report["held"] == true && report["promises"].as_array().unwrap().iter().all(|p| p["held"] == true));
    assert_eq!(report["seed"], 3, "the folder keeps what the story was begun with");
    assert!(report["continued"]["starts"].as_u64().unwrap() >= 3, "{}", report["continued"]);
    assert!(errors.contains("continued after a kill at step "), "{errors}");
    assert!(errors.contains("events were already handled"), "{errors}");
    for account in report["accounts"].as_array().unwrap() {
        assert_eq!(account["connected"], true, "connected once, reconnected in place in every later life: {account}");
    }
    let keys = &report["master_keys"];
    assert_eq!((&keys["keys"], &keys["data_keys"], &keys["left"]), (&2.into(), &5.into(), &0.into()), "{keys}");
    let happened = report["providers"]["stripe"]["deliveries"]["happened"].as_i64().unwrap();
    assert!(happened >= 200, "{happened}");
    assert_eq!(effects(&folder, "stripe").await, (happened, happened), "effects in the file, of different events");
    for provider in ["slack", "google", "twilio", "sendgrid"] {
        let (all, different) = effects(&folder, provider).await;
        assert!(all >= 1 && all == different, "{provider}: {all} effects of {different} events");
    }

    let forgetful = place.path().join("forgetful");
    copy(&folder, &forgetful);
    std::thread::scope(|both| {
        both.spawn(|| a_broken_promise_is_an_exit_code(&forgetful));
        both.spawn(|| the_page_stays_until_ctrl_c(&folder));
    });
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Takes one effect away from a story that was told, and has it judged again. Fails when the exit code ignores the
/// verdict.
fn a_broken_promise_is_an_exit_code(folder: &Path) {
    let database = Connection::open(folder.join("palisade.db")).unwrap();
    let sql = "DELETE FROM effect WHERE rowid = (SELECT min(rowid) FROM effect WHERE provider = 'stripe')";
    assert_eq!(database.execute(sql, []).unwrap(), 1);
    database.close().unwrap();
    let output = demo(folder, &["--exit", "--json"]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}\n{}", String::from_utf8_lossy(&output.stdout));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["held"], false);
    let broken = report["promises"].as_array().unwrap().iter().filter(|promise| promise["held"] == false);
    let broken: Vec<_> = broken.map(|promise| (&promise["provider"], &promise["promise"])).collect();
    let effects = "An effect in the same database happens once".into();
    assert_eq!(broken, [(&"Stripe".into(), &effects)], "this one and no other");
}

/// A process that dies with the test.
struct Mortal(Child);

impl Drop for Mortal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Leaves `--exit` out. Fails when the demo ends by itself, when its page is not at the address it printed, or when Ctrl-C
/// ends it otherwise than in order.
fn the_page_stays_until_ctrl_c(folder: &Path) {
    let mut command = demo(folder, &[]);
    // Nobody reads it here, and a full pipe would hold the demo up.
    command.stderr(Stdio::null());
    let mut demo = Mortal(command.spawn().unwrap());
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said =
        lines.find(|line| line.ends_with(" until Ctrl-C.")).expect("the demo ended before it said where its page is");
    let address = said.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).unwrap().0;
    let address: SocketAddr = address.parse().unwrap();
    // Each on a connection of its own: one that is about to end takes no more of them.
    for _ in 0..50 {
        let mut page = TcpStream::connect(address).unwrap();
        write!(page, "GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        page.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains("acme-stripe"), "the status page: {answer}");
    }
    assert_eq!(demo.0.try_wait().unwrap(), None, "it ended by itself");
    kill_process(Pid::from_child(&demo.0), Signal::INT).unwrap();
    assert_eq!(demo.0.wait().unwrap().code(), Some(0));
}

/// Fails when a folder's story is told with another seed, or by two processes at once.
#[test]
fn a_folder_keeps_its_story() {
    let place = tempfile::tempdir().unwrap();
    let first = demo(place.path(), &SMALL).spawn().unwrap();
    // The file stands from the first moment.
    while !place.path().join("provider.jsonl").exists() {
        std::thread::yield_now();
    }
    let refused = |arguments: &[&str], words: &[&str]| {
        let output = demo(place.path(), arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        for word in words {
            assert!(errors.contains(word), "{word} in {errors}");
        }
        assert_eq!(errors.lines().count(), 1, "one sentence: {errors}");
    };
    refused(&["--exit"], &["another demo is telling the story"]);
    let _ = kill_after(first, Duration::ZERO);
    refused(&["--exit", "--seed", "4"], &["--seed 3 --customers 300 --webhooks 200", "leave these out"]);
    refused(&["--exit", "--webhooks", "201"], &["--webhooks 200"]);
}

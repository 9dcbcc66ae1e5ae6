//! Hubs in processes of their own, and what their files hold once they are dead.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use palisade_core::Random;
use palisade_core::random::SeededRandom;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep};

use crate::stage::{self, Kept};

/// How long anything may take before a test calls it never.
pub const WITHIN: Duration = Duration::from_secs(60);
/// The argument of a victim that reads no page ahead.
pub const NO_READ_AHEAD: &str = "--no-read-ahead";
/// The signal's number.
const SIGKILL: i32 = 9;
/// How often a test looks.
const LOOK: Duration = Duration::from_millis(10);

/// A hub's process.
#[derive(Debug)]
pub struct Victim {
    child: Child,
    stdin: ChildStdin,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Victim {
    /// Starts the binary on a folder and port, and waits until it says where it listens. `None` when `before` ends
    /// first: then it was killed while it started.
    ///
    /// # Panics
    /// When it ends by itself or says something else.
    pub async fn start(
        binary: &str,
        folder: &Path,
        base_url: &str,
        listen: SocketAddr,
        before: impl Future<Output = ()>,
    ) -> Option<Self> {
        Self::start_with(binary, folder, base_url, listen, &[], before).await
    }

    /// The same with arguments of the binary's own. `None` also when one of them made it kill itself before it listened.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_with(
        binary: &str,
        folder: &Path,
        base_url: &str,
        listen: SocketAddr,
        more: &[String],
        before: impl Future<Output = ()>,
    ) -> Option<Self> {
        let mut child = Command::new(binary)
            .args([folder.as_os_str(), base_url.as_ref(), listen.to_string().as_ref()])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the victim starts");
        let stdin = child.stdin.take().expect("its standard input");
        let mut lines = BufReader::new(child.stdout.take().expect("its standard output")).lines();
        let line = tokio::select! {
            biased;
            () = before => {
                child.kill().await.expect("a kill");
                return None;
            }
            line = lines.next_line() => line.expect("a line"),
        };
        let Some(line) = line else {
            let ended = child.wait().await.expect("an exit");
            assert_eq!(ended.signal(), Some(SIGKILL), "the victim ended before it listened: {ended}");
            return None;
        };
        let ready: serde_json::Value = serde_json::from_str(&line).expect("the first line is JSON");
        let address = ready["address"].as_str().and_then(|text| text.parse().ok()).expect("an address");
        Some(Self { child, stdin, address })
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("a kill");
    }

    /// Waits until it has killed itself; `false` when it still lives after the bound.
    ///
    /// # Panics
    /// When it ends in another way.
    pub async fn dies_within(&mut self, bound: Duration) -> bool {
        let Ok(ended) = tokio::time::timeout(bound, self.child.wait()).await else { return false };
        let ended = ended.expect("an exit");
        assert_eq!(ended.signal(), Some(SIGKILL), "it ended by itself: {ended}");
        true
    }

    /// Returns the process's number.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id().expect("it lives")
    }

    /// Stops it in order.
    ///
    /// # Panics
    /// When it does not end, or ends with an error.
    pub async fn stop(mut self) {
        drop(self.stdin);
        let ended = tokio::time::timeout(WITHIN, self.child.wait()).await.expect("it stops in time");
        assert!(ended.expect("an exit").success(), "it did not stop cleanly");
    }

    /// Returns a number from its metrics; nothing while it does not answer.
    pub async fn metric(&self, name: &str) -> Option<u64> {
        let text = self.get("/metrics").await?;
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Returns what a path answers.
    pub async fn get(&self, path: &str) -> Option<String> {
        reqwest::get(format!("http://{}{path}", self.address)).await.ok()?.text().await.ok()
    }

    /// Returns a path's answer as JSON.
    pub async fn json(&self, path: &str) -> Option<serde_json::Value> {
        serde_json::from_str(&self.get(path).await?).ok()
    }
}

/// A process that reads a hub's feed: `consumer`.
#[derive(Debug)]
pub struct Reader(Child);

impl Reader {
    /// Starts the binary on a folder of its own and a hub's address. It dies when this is dropped.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(binary: &str, folder: &Path, hub: SocketAddr, more: &[String]) -> Self {
        let mut command = Command::new(binary);
        command.args([folder.as_os_str(), hub.to_string().as_ref()]).args(more);
        Self(command.stdin(Stdio::null()).kill_on_drop(true).spawn().expect("the reader starts"))
    }

    /// Waits until it has killed itself, and kills it after the bound.
    ///
    /// # Panics
    /// When it ends in another way.
    pub async fn is_killed_within(&mut self, bound: Duration) {
        match tokio::time::timeout(bound, self.0.wait()).await {
            Err(_) => self.0.kill().await.expect("a kill"),
            Ok(ended) => {
                let ended = ended.expect("an exit");
                assert_eq!(ended.signal(), Some(SIGKILL), "the reader ended by itself: {ended}");
            }
        }
    }

    /// Waits until it has read everything.
    ///
    /// # Panics
    /// When it does not end, or ends with an error.
    pub async fn ends_within(mut self, bound: Duration) {
        let ended = tokio::time::timeout(bound, self.0.wait()).await.expect("it reads to the end");
        assert!(ended.expect("an exit").success(), "the reader gave up");
    }
}

/// Looks until `holds`; `false` when the bound passed first.
pub async fn within(bound: Duration, mut holds: impl AsyncFnMut() -> bool) -> bool {
    let until = Instant::now() + bound;
    while !holds().await {
        if Instant::now() > until {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

/// Finds a port that nobody listens on, below those the system gives to outgoing connections: the provider's own
/// attempts to reach a dead hub must not take its port.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn quiet_port(seed: u64) -> SocketAddr {
    let random = SeededRandom::new(seed ^ u64::from(std::process::id()).rotate_left(32));
    let mut ports = (0..1_000).map(|_| 10_000 + (random.bits() % 22_000) as u16);
    let port = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port");
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Copies a dead hub's database with its log and opens the copy, as the next process would open the original.
///
/// # Panics
/// When it cannot be copied or opened, or SQLite finds fault with it.
pub async fn remains(folder: &Path) -> (Kept, TempDir) {
    let copy = tempfile::tempdir().expect("a folder");
    for name in ["palisade.db", "palisade.db-wal"] {
        let from: PathBuf = folder.join(name);
        if from.exists() {
            std::fs::copy(&from, copy.path().join(name)).expect("a copy");
        }
    }
    let path = copy.path().join("palisade.db");
    let store = stage::open(&path).await;
    let found = store.check().await.expect("the file can be checked");
    assert!(found.is_empty(), "SQLite finds: {found:?}");
    (Kept::Sqlite(store, std::sync::Arc::new(tempfile::tempdir().expect("a folder"))), copy)
}

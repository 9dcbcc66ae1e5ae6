//! Real processes under one time that costs nothing: it passes in steps, in all of them and in the test, and no step
//! begins before everybody has done what the last one brought.
//!
//! Each process runs on a paused clock that never moves by itself ([`hold`]). The test tells all of them to let so many
//! milliseconds pass and waits for each to say that it has, and that its store is at rest. So a provider that takes
//! twenty seconds is waited for in a few milliseconds, a machine that is busy makes nothing late, and what remains left
//! to chance is what should be: which of the processes reaches the file or the socket first.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use palisade_core::auth::oauth2::OAuth2Config;
use palisade_core::auth::vault::{LocalMasterKey, Vault};
use palisade_core::random::{SeededRandom, SystemRandom};
use palisade_core::store::{Keys, StoreLayer};
use palisade_core::{Random, Result, Transport};
use palisade_slack::auth;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, watch};

use crate::stage::MASTER_KEY;

/// The emulated app's secret.
pub const APP_SECRET: &str = "secret-of-the-emulated-app";
/// The emulated app's id.
pub const APP_ID: &str = "1111111111.2222222222";
/// Where the emulated app's browsers come back to; nobody listens there.
pub const BACK: &str = "http://127.0.0.1:9/auth/slack/callback";
/// How long the machine may take for one round before it is called stuck.
const STUCK: Duration = Duration::from_secs(240);
/// How often a process lets its tasks go on before it believes that nothing is left to do.
const SETTLE: usize = 24;

/// The flow all processes and the test share.
#[must_use]
pub fn flow(base_url: &str) -> OAuth2Config {
    auth::at(auth::with_pkce(auth::oauth2(BACK, APP_ID, APP_SECRET.into(), &["chat:write"], &[])), base_url)
}

/// The vault all processes and the test share.
///
/// # Panics
/// Never: the key is a good one.
#[must_use]
pub fn vault(store: Arc<dyn Keys>) -> Arc<Vault> {
    let random = Arc::new(SystemRandom);
    let master = LocalMasterKey::parse(MASTER_KEY.as_bytes(), random.clone()).expect("a key");
    Arc::new(Vault::new(store, Arc::new(master), random))
}

/// Keeps no connection open: an idle one would be closed by the steps' leaps, and its next request lost.
#[derive(Debug)]
pub struct Closing<T>(pub T);

#[async_trait]
impl<T: Transport + std::fmt::Debug> Transport for Closing<T> {
    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>> {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        self.0.send(request).await
    }
}

/// A slow store: every call takes a while of the paused clock's time, before and after it is done. Counts the calls that
/// are at work, the waiting not among them.
#[derive(Debug)]
pub struct Slow {
    longest: Duration,
    random: SeededRandom,
    at_work: watch::Sender<usize>,
}

impl Slow {
    /// Lets each wait be up to `longest`, drawn from `random`.
    #[must_use]
    pub fn up_to(longest: Duration, random: SeededRandom) -> Self {
        Self { longest, random, at_work: watch::Sender::new(0) }
    }

    /// Returns how many calls are at work.
    #[must_use]
    pub fn at_work(&self) -> watch::Receiver<usize> {
        self.at_work.subscribe()
    }

    async fn dawdle(&self) {
        tokio::time::sleep(self.longest.mul_f64(self.random.unit())).await;
    }
}

impl StoreLayer for Slow {
    async fn around<T: Send>(&self, _: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.dawdle().await;
        let working = Working::begin(&self.at_work);
        let result = call.await;
        drop(working);
        self.dawdle().await;
        result
    }
}

/// Counts a call until it ends in whatever way.
struct Working(watch::Sender<usize>);

impl Working {
    fn begin(counter: &watch::Sender<usize>) -> Self {
        counter.send_modify(|count| *count += 1);
        Self(counter.clone())
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Holds the paused clock of this runtime until it is dropped: it then moves by steps alone.
#[must_use]
pub fn hold() -> std::sync::mpsc::Sender<()> {
    let (hold, held) = std::sync::mpsc::channel();
    drop(tokio::task::spawn_blocking(move || held.recv()));
    hold
}

/// Lets time pass in this process, and everything that it brings happen.
pub async fn pass(step: Duration, stores: &mut [watch::Receiver<usize>]) {
    tokio::time::advance(step).await;
    loop {
        // Each turn looks at sockets and other threads, too.
        for _ in 0..SETTLE {
            tokio::task::yield_now().await;
        }
        let Some(busy) = stores.iter_mut().find(|store| *store.borrow() > 0) else { return };
        // A store that is gone has nothing under way.
        let _rested = busy.wait_for(|count| *count == 0).await;
    }
}

/// Says something to whoever started this process.
///
/// # Panics
/// When nobody listens any more.
pub fn say(what: &Value) {
    writeln!(std::io::stdout().lock(), "{what}").expect("somebody listens");
}

/// What a process hears: one JSON value a line on its standard input, until it closes.
#[must_use]
pub fn orders() -> mpsc::UnboundedReceiver<Value> {
    let (tell, orders) = mpsc::unbounded_channel();
    // A thread that ends with the process: the runtime waits for those of its own.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(std::result::Result::ok) {
            let order = serde_json::from_str(&line).unwrap_or(Value::Null);
            if tell.send(order).is_err() {
                return;
            }
        }
    });
    orders
}

/// Something a process said.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "only tests use it")]
pub struct News {
    /// Its number.
    pub from: usize,
    /// What it said.
    pub said: Value,
}

#[derive(Debug)]
struct Member {
    life: u64,
    child: Child,
    stdin: ChildStdin,
}

/// What was heard of a process: its number, which of its lives it was, and what it said; nothing when it has ended.
type Heard = (usize, u64, Option<Value>);

/// The processes, as the test holds them.
#[derive(Debug)]
pub struct Company {
    binary: &'static str,
    database: PathBuf,
    base_url: String,
    members: Vec<Option<Member>>,
    lives: u64,
    tell: mpsc::UnboundedSender<Heard>,
    heard: mpsc::UnboundedReceiver<Heard>,
    alarm: Alarm,
}

impl Company {
    /// Makes a company of `size` processes of a binary, none of them started.
    #[must_use]
    pub fn new(binary: &'static str, database: &Path, base_url: String, size: usize) -> Self {
        let (tell, heard) = mpsc::unbounded_channel();
        let members = std::iter::repeat_with(|| None).take(size).collect();
        let database = database.to_owned();
        Self { binary, database, base_url, members, lives: 0, tell, heard, alarm: Alarm::set() }
    }

    /// Starts those that are missing.
    ///
    /// # Panics
    /// When one does not start.
    pub async fn fill(&mut self) {
        self.alarm = Alarm::set();
        let missing: Vec<usize> =
            self.members.iter().enumerate().filter(|(_, member)| member.is_none()).map(|(n, _)| n).collect();
        for number in &missing {
            self.start(*number);
        }
        self.wait(&missing, "ready").await;
    }

    fn start(&mut self, number: usize) {
        let mut child = Command::new(self.binary)
            .args([self.database.as_os_str(), self.base_url.as_ref(), number.to_string().as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a process");
        let stdin = child.stdin.take().expect("its standard input");
        let mut lines = BufReader::new(child.stdout.take().expect("its standard output")).lines();
        self.lives += 1;
        let (tell, life) = (self.tell.clone(), self.lives);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let said = serde_json::from_str(&line).unwrap_or(Value::String(line));
                let _ = tell.send((number, life, Some(said)));
            }
            let _ = tell.send((number, life, None));
        });
        self.members[number] = Some(Member { life, child, stdin });
    }

    /// Returns the numbers of those that live.
    #[must_use]
    pub fn alive(&self) -> Vec<usize> {
        self.members.iter().enumerate().filter(|(_, member)| member.is_some()).map(|(n, _)| n).collect()
    }

    /// Tells all of them something, and waits until each has said `done`. Returns what else they said.
    ///
    /// # Panics
    /// When one has ended by itself, or does not answer.
    pub async fn order(&mut self, order: impl Fn(usize) -> Value, done: &str) -> Vec<News> {
        let alive = self.alive();
        self.tell(&alive, order).await;
        self.wait(&alive, done).await
    }

    /// Lets time pass in all of them and here, and kills one in the midst of it, if one is named: so much later, by the
    /// machine's own time. Returns what they said.
    ///
    /// # Panics
    /// As [`Company::order`].
    pub async fn pass(&mut self, step: Duration, kill: Option<(usize, Duration)>) -> Vec<News> {
        let alive = self.alive();
        self.tell(&alive, |_| json!({ "pass": step.as_millis() as u64 })).await;
        pass(step, &mut []).await;
        if let Some((number, later)) = kill {
            let waited = tokio::task::spawn_blocking(move || {
                #[expect(clippy::disallowed_methods, reason = "where in its work a process dies is left to chance")]
                std::thread::sleep(later);
            });
            waited.await.expect("a while");
            self.kill(number).await;
        }
        let alive = self.alive();
        self.wait(&alive, "passed").await
    }

    /// Kills one with SIGKILL and waits until it is gone.
    async fn kill(&mut self, number: usize) {
        if let Some(mut member) = self.members[number].take() {
            member.child.kill().await.expect("a kill");
        }
    }

    async fn tell(&mut self, to: &[usize], order: impl Fn(usize) -> Value) {
        for number in to {
            if let Some(member) = &mut self.members[*number] {
                let line = format!("{}\n", order(*number));
                member.stdin.write_all(line.as_bytes()).await.expect("it listens");
            }
        }
    }

    async fn wait(&mut self, on: &[usize], word: &str) -> Vec<News> {
        let (mut missing, mut rest) = (on.to_vec(), Vec::new());
        while !missing.is_empty() {
            let (from, life, said) = tokio::select! {
                biased;
                heard = self.heard.recv() => heard.expect("we hold a sender ourselves"),
                () = self.alarm.rings() => panic!("the processes {missing:?} never said {word}"),
            };
            let lives = self.members[from].as_ref().is_some_and(|member| member.life == life);
            match said {
                Some(said) if said[word] == true && lives => missing.retain(|number| *number != from),
                Some(said) => rest.push(News { from, said }),
                None => assert!(!lives, "the process {from} has ended by itself"),
            }
        }
        rest
    }
}

/// Rings when the machine has taken too long: the clock of the test stands still while nobody moves it.
#[derive(Debug)]
struct Alarm {
    ringing: watch::Receiver<bool>,
    _off: std::sync::mpsc::Sender<()>,
}

impl Alarm {
    fn set() -> Self {
        let (off, waits) = std::sync::mpsc::channel::<()>();
        let (ring, ringing) = watch::channel(false);
        std::thread::spawn(move || {
            if waits.recv_timeout(STUCK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                ring.send_replace(true);
            }
        });
        Self { ringing, _off: off }
    }

    async fn rings(&mut self) {
        let _rang = self.ringing.wait_for(|ringing| *ringing).await;
    }
}

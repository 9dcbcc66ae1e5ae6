//! Where a process ends or stops itself: at a passage of a call of its store, of its transport or of a handler. A moment
//! that nobody outside could hit, between a commit and the reply for instance, is hit every time.
//!
//! A fuse stands in a victim's arguments as `--fuse=place:side:nth:signal`, for instance `append:after:3:kill`.
//!
//! A process that stops while one of its threads is in a transaction keeps everybody else from writing for as long as it
//! stands still. So a victim does not stop itself: it starts itself a second time as `--stop=PROCESS DATABASE`, which
//! takes the database's write lock, stops the first and lets the lock go.

use std::fmt;
use std::future::poll_fn;
use std::hint::spin_loop;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::store::StoreLayer;
use palisade_core::{Result, Transport};
use rusqlite::{Connection, TransactionBehavior};
use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::time::Instant;

/// The place of a request to the provider.
pub const REQUEST: &str = "request";
/// The place of an event's handler.
pub const HANDLER: &str = "handler";
/// What the argument begins with.
const ARGUMENT: &str = "--fuse=";
/// What the argument of a process begins with that shall stop another.
const STOP: &str = "--stop=";
/// How long a transaction of a victim may take.
const IN_TRANSACTION_WITHIN: Duration = Duration::from_secs(30);

/// Where in a passage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::exhaustive_enums, reason = "only tests use it")]
pub enum Side {
    /// Before anything is done.
    Before,
    /// So many microseconds after it was handed on, done or not.
    During(u32),
    /// Once it is done, before anybody is told.
    After,
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "only tests use it")]
pub enum Ending {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, outside transactions: it goes on after SIGCONT, as if nothing had been.
    Stop,
}

/// One moment in a process's life.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "only tests use it")]
pub struct Moment {
    /// The name of the store's method, [`REQUEST`], [`HANDLER`] or a name of the victim's own.
    pub place: String,
    /// Where in it.
    pub side: Side,
    /// At which passage, from 1.
    pub nth: u64,
    /// What happens.
    pub ending: Ending,
}

impl Moment {
    /// Returns it as a victim's argument.
    #[must_use]
    pub fn argument(&self) -> String {
        format!("{ARGUMENT}{self}")
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, side, nth, ending } = self;
        let ending = match ending {
            Ending::Kill => "kill",
            Ending::Stop => "stop",
        };
        match side {
            Side::Before => write!(f, "{place}:before:{nth}:{ending}"),
            Side::During(micros) => write!(f, "{place}:{micros}:{nth}:{ending}"),
            Side::After => write!(f, "{place}:after:{nth}:{ending}"),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("{text:?} is no moment: place:before|MICROSECONDS|after:nth:kill|stop");
        let parts: Vec<&str> = text.split(':').collect();
        let [place, side, nth, ending] = parts[..] else { return Err(wrong()) };
        let side = match side {
            "before" => Side::Before,
            "after" => Side::After,
            micros => Side::During(micros.parse().map_err(|_| wrong())?),
        };
        let ending = match ending {
            "kill" => Ending::Kill,
            "stop" => Ending::Stop,
            _ => return Err(wrong()),
        };
        Ok(Self { place: place.to_owned(), side, nth: nth.parse().map_err(|_| wrong())?, ending })
    }
}

/// Counts passages, and ends the process at the one it was set for. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Fuse {
    moment: Option<Moment>,
    /// The database of which a process that stops must not hold the lock.
    database: Option<PathBuf>,
    passed: Arc<AtomicU64>,
}

impl Fuse {
    /// Sets a fuse.
    #[must_use]
    pub fn at(moment: Moment) -> Self {
        Self { moment: Some(moment), ..Self::default() }
    }

    /// Names the database whose write lock nobody may be left without when the process stops.
    #[must_use]
    pub fn leaving(self, database: &Path) -> Self {
        Self { database: Some(database.to_owned()), ..self }
    }

    /// Takes the fuse out of a victim's arguments; one that never burns when there is none.
    ///
    /// # Errors
    /// When it is none.
    pub fn take(arguments: &mut Vec<String>) -> std::result::Result<Self, String> {
        let Some(at) = arguments.iter().position(|argument| argument.starts_with(ARGUMENT)) else {
            return Ok(Self::default());
        };
        let argument = arguments.remove(at);
        argument.trim_start_matches(ARGUMENT).parse().map(Self::at)
    }

    /// Passes one side of a place.
    pub fn pass(&self, place: &str, side: Side) {
        if self.burns(place, |set| set == side).is_some() {
            self.end();
        }
    }

    /// Returns the side it was set for when this passage is the one.
    fn burns(&self, place: &str, on: impl FnOnce(Side) -> bool) -> Option<Side> {
        let moment = self.moment.as_ref().filter(|moment| moment.place == place && on(moment.side))?;
        (self.passed.fetch_add(1, Ordering::SeqCst) + 1 == moment.nth).then_some(moment.side)
    }

    /// Sends the signal. After SIGKILL no instruction of this thread follows; a stopped one goes on here.
    fn end(&self) {
        match (self.moment.as_ref().map(|moment| moment.ending), &self.database) {
            (Some(Ending::Stop), Some(database)) => {
                let this = std::env::current_exe().expect("the path of this program");
                let process = getpid().as_raw_nonzero();
                let stopped = Command::new(this).arg(format!("{STOP}{process}")).arg(database).status();
                assert!(stopped.expect("it starts once more").success(), "it was not stopped");
            }
            (Some(Ending::Stop), None) => signal(getpid(), Signal::STOP),
            (Some(Ending::Kill) | None, _) => signal(getpid(), Signal::KILL),
        }
    }

    /// Runs `call` as a passage of a place.
    pub async fn around<T>(&self, place: &str, call: impl Future<Output = T>) -> T {
        self.pass(place, Side::Before);
        let mut call = pin!(call);
        if let Some(Side::During(micros)) = self.burns(place, |set| matches!(set, Side::During(_))) {
            // Handed on, to the store's own thread for instance, which works while this one waits.
            let polled = poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context))).await;
            let until = Instant::now() + Duration::from_micros(micros.into());
            while Instant::now() < until {
                spin_loop();
            }
            self.end();
            if let std::task::Poll::Ready(done) = polled {
                return done;
            }
        }
        let done = call.await;
        self.pass(place, Side::After);
        done
    }
}

/// Stops another process if the arguments say so (`--stop=PROCESS DATABASE`), when it is in no transaction; `false` when
/// they do not.
///
/// # Errors
/// When the arguments are no such order, or the database cannot be locked.
pub fn stops_another(arguments: &[String]) -> std::result::Result<bool, Box<dyn std::error::Error>> {
    let [order, database] = arguments else { return Ok(false) };
    let Some(process) = order.strip_prefix(STOP) else { return Ok(false) };
    let process = Pid::from_raw(process.parse()?).ok_or("no process has the number 0")?;
    let mut connection = Connection::open(database)?;
    connection.busy_timeout(IN_TRANSACTION_WITHIN)?;
    let alone = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    signal(process, Signal::STOP);
    while !stands_still(process.as_raw_nonzero().get().unsigned_abs()) {
        spin_loop();
    }
    alone.rollback()?;
    Ok(true)
}

/// Tells whether a process stands still: its state is the first word behind its name in brackets.
#[must_use]
pub fn stands_still(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|behind| behind.starts_with('T'))
}

fn signal(process: Pid, signal: Signal) {
    kill_process(process, signal).expect("a process may signal its own kin");
}

impl StoreLayer for Fuse {
    async fn around<T: Send>(&self, name: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        Self::around(self, name, call).await
    }
}

/// A transport with a fuse in it, at [`REQUEST`].
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a pair; any two are valid")]
pub struct Fused<T> {
    /// The transport.
    pub inner: T,
    /// The fuse.
    pub fuse: Fuse,
}

#[async_trait]
impl<T: Transport> Transport for Fused<T> {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        self.fuse.around(REQUEST, self.inner.send(request)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_as_it_is_written() {
        for text in ["append:after:3:kill", "commit_page:250:1:kill", "handler:before:12:stop"] {
            assert_eq!(text.parse::<Moment>().unwrap().to_string(), text);
        }
        for text in ["", "append", "append:later:3:kill", "append:after:x:kill", "append:after:3:hup", "a:b:c:d:e"] {
            text.parse::<Moment>().unwrap_err();
        }
    }

    #[test]
    fn a_fuse_is_taken_out_of_the_arguments() {
        let mut arguments = vec!["folder".to_owned(), "--fuse=append:after:3:kill".to_owned(), "port".to_owned()];
        let fuse = Fuse::take(&mut arguments).unwrap();
        assert_eq!(arguments, ["folder", "port"]);
        assert_eq!(fuse.moment.map(|moment| moment.nth), Some(3));
        assert!(Fuse::take(&mut arguments).unwrap().moment.is_none());
    }

    /// Fails when another place, another side or an earlier passage counts.
    #[tokio::test]
    async fn only_the_passage_it_was_set_for_burns() {
        let fuse = Fuse::at("append:after:3:stop".parse().unwrap());
        let burns = |place: &str, side| fuse.burns(place, |set| set == side).is_some();
        assert!(!burns("settle", Side::After) && !burns("append", Side::Before));
        assert!(!burns("append", Side::After) && !burns("append", Side::After));
        assert!(burns("append", Side::After));
        assert!(!burns("append", Side::After), "it burns once");
        assert_eq!(fuse.around("append", async { 5 }).await, 5);
    }
}

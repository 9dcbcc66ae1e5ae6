//! An emulated provider with data, and the streams that are read from it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use palisade_core::auth::Scheme;
use palisade_core::webhook::RawDelivery;
use palisade_core::{Result, Secret, Transport};
use serde_json::Value;

use crate::fake::answer;

/// An emulated provider with some data in it, made anew for each case. Its clock is tokio's.
pub trait Stage: Send + Sync {
    /// Returns the way to it.
    fn transport(&self) -> Arc<dyn Transport>;

    /// Returns the credential it accepts.
    fn credential(&self) -> Scheme;

    /// Returns the account the streams are read of, where one credential serves many or a path names it.
    fn account(&self) -> Option<String> {
        None
    }

    /// Returns the live records of a stream as they should be kept, by the record's id. At least eight.
    fn truth(&self, stream: &str) -> BTreeMap<String, Value>;

    /// Changes something at the provider, as people do; each `step` something else: a new record, another state of one
    /// that is there, one that is deleted.
    fn change(&self, stream: &str, step: usize);

    /// Deletes a record. `false` where the provider deletes none of the stream.
    fn delete(&self, stream: &str, id: &str) -> bool;

    /// Takes what the provider has posted since it was last asked, in order; nothing where it posts nothing.
    fn deliveries(&self) -> Pin<Box<dyn Future<Output = Vec<RawDelivery>> + Send + '_>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// Returns the secrets of its deliveries.
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
    }
}

/// One stream of records, and what cannot be tried with it.
#[derive(Clone)]
pub struct Stream {
    pub(super) name: &'static str,
    pub(super) page_size_max: u32,
    pub(super) emptied: Option<Result<Emptied, &'static str>>,
    pub(super) expired: Option<Result<Response<Bytes>, &'static str>>,
    pub(super) undeletable: Option<&'static str>,
    pub(super) untold: Option<&'static str>,
    pub(super) no_increment: Option<&'static str>,
    pub(super) no_events: Option<&'static str>,
    pub(super) makes_no_events: Option<&'static str>,
}

type Emptied = fn(&Value) -> Value;

impl Stream {
    /// Begins a stream by its name and the largest page the provider gives.
    #[must_use]
    pub fn new(name: &'static str, page_size_max: u32) -> Self {
        Self {
            name,
            page_size_max,
            emptied: None,
            expired: None,
            undeletable: None,
            untold: None,
            no_increment: None,
            no_events: None,
            makes_no_events: None,
        }
    }

    /// Gives how a page looks whose records were all filtered out at the provider, and that still leads on.
    #[must_use]
    pub fn emptied(mut self, emptied: fn(&Value) -> Value) -> Self {
        self.emptied = Some(Ok(emptied));
        self
    }

    /// Says why no page in the middle can be empty.
    #[must_use]
    pub fn never_empty(mut self, reason: &'static str) -> Self {
        self.emptied = Some(Err(reason));
        self
    }

    /// Gives the answer to a cursor that is too old.
    #[must_use]
    pub fn expired(mut self, status: u16, body: impl AsRef<[u8]>) -> Self {
        self.expired = Some(Ok(answer(status, body)));
        self
    }

    /// Says why a cursor is never too old.
    #[must_use]
    pub fn never_expires(mut self, reason: &'static str) -> Self {
        self.expired = Some(Err(reason));
        self
    }

    /// Says why nothing is deleted while it is read.
    #[must_use]
    pub fn keeps_all(mut self, reason: &'static str) -> Self {
        self.undeletable = Some(reason);
        self
    }

    /// Says why only a full run tells of deletions.
    #[must_use]
    pub fn deletions_untold(mut self, reason: &'static str) -> Self {
        self.untold = Some(reason);
        self
    }

    /// Says why there are no incremental runs.
    #[must_use]
    pub fn only_full(mut self, reason: &'static str) -> Self {
        self.no_increment = Some(reason);
        self
    }

    /// Says why no delivery tells of its changes.
    #[must_use]
    pub fn silent(mut self, reason: &'static str) -> Self {
        self.no_events = Some(reason);
        self
    }

    /// Says why no event is made of a record its webhook did not tell of.
    #[must_use]
    pub fn makes_no_events(mut self, reason: &'static str) -> Self {
        self.makes_no_events = Some(reason);
        self
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("name", &self.name).finish_non_exhaustive()
    }
}

type Calling = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// An emulated provider that counts what arrives.
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Counting {
    /// The way to it.
    pub transport: Arc<dyn Transport>,
    /// The credential it accepts.
    pub credential: Scheme,
    /// Says what it has counted so far.
    pub counted: Box<dyn Fn() -> Counted + Send + Sync>,
}

/// What a provider has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Counted {
    /// The most units in one span of the limit's length.
    pub peak: u64,
    /// All units.
    pub total: u64,
    /// Requests it has refused because the limit was used up.
    pub throttled: u64,
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counting").field("counted", &(self.counted)()).finish_non_exhaustive()
    }
}

type MakeCounting = Arc<dyn Fn() -> Counting + Send + Sync>;

/// A published limit and a call that draws from it.
#[derive(Clone)]
pub struct Rate {
    pub(super) name: &'static str,
    pub(super) limit: u32,
    pub(super) per: Duration,
    pub(super) cost: u32,
    run: Arc<dyn Fn(Arc<dyn Transport>, usize) -> Calling + Send + Sync>,
    pub(super) answer: Response<Bytes>,
    pub(super) percent: (u32, Option<&'static str>),
    pub(super) counting: Option<MakeCounting>,
}

impl Rate {
    /// Begins a limit: so many units in any span of this length, as the provider's documentation has it, and a call
    /// that draws from it. The call gets its number, for what must differ.
    #[must_use]
    pub fn new<F>(
        name: &'static str,
        limit: u32,
        per: Duration,
        run: impl Fn(Arc<dyn Transport>, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let run = move |transport, number| -> Calling { Box::pin(run(transport, number)) };
        let (run, answer) = (Arc::new(run), answer(200, "{}"));
        Self { name, limit, per, cost: 1, run, answer, percent: (95, None), counting: None }
    }

    /// Gives what makes an emulated provider that counts for itself: the calls go there, and its own count must say the
    /// same as the times at which they left. Otherwise only those are counted.
    #[must_use]
    pub fn counted_by(mut self, make: impl Fn() -> Counting + Send + Sync + 'static) -> Self {
        self.counting = Some(Arc::new(make));
        self
    }

    /// Sets the true answer to the call; an emulated provider has its own.
    #[must_use]
    pub fn answered(mut self, status: u16, body: impl AsRef<[u8]>) -> Self {
        self.answer = answer(status, body);
        self
    }

    /// Sets how many units a call costs; one otherwise.
    #[must_use]
    pub fn costing(mut self, units: u32) -> Self {
        self.cost = units;
        self
    }

    /// Sets a lower share of the limit that must be reached than 95 %, and why.
    #[must_use]
    pub fn reaching(mut self, percent: u32, reason: &'static str) -> Self {
        self.percent = (percent, Some(reason));
        self
    }

    pub(super) async fn run(&self, transport: Arc<dyn Transport>, number: usize) -> Result<()> {
        (self.run)(transport, number).await
    }
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rate").field("name", &self.name).field("limit", &self.limit).finish_non_exhaustive()
    }
}

//! The driver of all stored work: claims jobs with a lease, runs handlers and syncs, settles them.
//!
//! A worker holds no state that matters: everything is in the store, so any number of workers in any number of
//! processes may run, and one may die at any moment. It spawns nothing; [`Worker::run`] is a future to spawn.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::forward::Forwarder;
use crate::id::{ConnectionId, EndpointId, StreamName};
use crate::metrics::Metrics;
use crate::provider::Provider;
use crate::random::Random;
use crate::schedule::Schedule;
use crate::store::{Connection, NewJob, Queue, RunId, RunMode, RunState, Store, StoredEvent};
use crate::sync::dry_run::DryRun;
use crate::sync::watch::WatchPlace;
use crate::transport::Transport;

mod approving;
mod asking;
mod chores;
mod engine;
mod forward;
mod handler;
mod job;
mod metrics;
mod outbox;
mod replaying;
mod schedule;
mod typed;
mod watching;

use chores::{Beat, Chore};
use metrics::WorkerMetrics;
use schedule::When;

pub use chores::ChoreStatus;
pub use handler::{Context, Handled, Handler, handler};
pub use outbox::{NewCall, draft};
pub use replaying::{Counted, Preview, PreviewChange, RecordPreview, ReplayProgress, ReplayStatus};
pub use schedule::{SaidBy, ScheduleRule, StreamTimings, Timing};
pub use typed::{Typed, TypedHandler, typed};
pub use watching::WatchStatus;

/// How a worker works. The defaults suit a small hub.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "settings; checked by the builder")]
pub struct WorkerSettings {
    /// How long a claim holds a job; renewed at a third of it while the job runs.
    pub hold: Duration,
    /// Jobs claimed at once.
    pub batch: u32,
    /// Jobs under way at once per [`Worker::run`]. One that only waits to be settled is not under way, but never are more
    /// than twice as many held.
    pub concurrency: u32,
    /// Jobs of one group under way at once per [`Worker::run`]: of one provider's events or syncs, of one destination.
    /// So a provider whose handlers hang never holds all places. `None` is half of `concurrency`.
    pub group_concurrency: Option<u32>,
    /// The same for groups that are named: a provider's events and syncs by the provider's name.
    pub group_overrides: BTreeMap<String, u32>,
    /// The priority of events by type, written as for [`WorkerBuilder::on`]: higher goes first, however many of a lower one
    /// wait; 0 otherwise. Of several that match the exact type counts, then the longest prefix. Events of one ordering key
    /// keep their order, and one that is replayed has none.
    pub event_priorities: BTreeMap<String, i32>,
    /// Time one handler may take for one event.
    pub handler_timeout: Duration,
    /// Attempts of an event before it is dead; at most what its job has.
    pub attempts_max: u32,
    /// The first wait before another attempt; doubles with every attempt, half of it is jitter.
    pub retry_base: Duration,
    /// The longest wait before another attempt.
    pub retry_max: Duration,
    /// How often to look for work when nothing announces it.
    pub poll: Duration,
    /// Time from one full run of a stream to the next.
    pub full_every: Duration,
    /// Time from one incremental run of a stream to the next.
    pub incremental_every: Duration,
    /// The longest time from one incremental run to the next: where nothing tells of changes ([`WorkerBuilder::told`])
    /// and none is found, the interval doubles up to this. The first change found brings it back.
    pub idle_max: Duration,
    /// What says otherwise of some streams.
    pub schedules: Vec<ScheduleRule>,
    /// Records asked for per page.
    pub page_size: u32,
    /// Whether the next page of a run is read while one commits, within the same rate budget. It is worth it where a
    /// commit takes long beside a request. A worker that is killed then asks for two pages again at most, instead of one.
    pub read_ahead: bool,
    /// Time running jobs may take to finish after a stop, before they are given back.
    pub grace: Duration,
    /// How long handled events, dead jobs and calls are kept.
    pub retention: Duration,
    /// How long deletions stay in the change feed: a consumer that reads it less often is told to begin anew. At least
    /// [`FEED_HORIZON_MIN`](crate::store::FEED_HORIZON_MIN).
    pub feed_horizon: Duration,
    /// How many bytes the inbox may keep ([`crate::store::Inbox::inbox_bytes`]): beyond it handled and ignored events go
    /// before their time, those received first before others. Looked at every minute. `None` sets no bound.
    pub inbox_bytes_max: Option<u64>,
    /// Attempts of a call of the outbox before it is given up; waiting for limits and reconnects is none.
    pub call_attempts_max: u32,
    /// How long a call of the outbox may wait beyond its moment before it is given up.
    pub call_patience: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(60),
            batch: 64,
            concurrency: 64,
            group_concurrency: None,
            group_overrides: BTreeMap::new(),
            event_priorities: BTreeMap::new(),
            handler_timeout: Duration::from_secs(30),
            attempts_max: crate::store::EVENT_ATTEMPTS_MAX,
            retry_base: Duration::from_secs(5),
            retry_max: Duration::from_secs(6 * 3_600),
            poll: Duration::from_secs(1),
            full_every: Duration::from_secs(7 * 86_400),
            incremental_every: Duration::from_secs(15 * 60),
            idle_max: Duration::from_secs(3_600),
            schedules: Vec::new(),
            page_size: 100,
            read_ahead: false,
            grace: Duration::from_secs(20),
            retention: Duration::from_secs(30 * 86_400),
            feed_horizon: Duration::from_secs(30 * 86_400),
            inbox_bytes_max: None,
            call_attempts_max: 12,
            call_patience: Duration::from_secs(3 * 86_400),
        }
    }
}

/// When each queue last made progress: a claim that was answered or a job that was settled, by any clone of the
/// worker in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain value; any value is valid")]
pub struct Progress {
    /// The queue of events.
    pub events: Option<Timestamp>,
    /// The queue of syncs and chores.
    pub background: Option<Timestamp>,
    /// The queue of the outbox.
    pub calls: Option<Timestamp>,
    /// The queue of forwarded events.
    pub forwards: Option<Timestamp>,
}

/// Runs the stored work. Cheap to clone; clones share handlers and progress.
#[derive(Clone)]
pub struct Worker {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    providers: BTreeMap<&'static str, Plugged>,
    routes: Vec<Route>,
    /// The priorities of events, the most specific type first.
    priorities: Vec<(Pattern, i32)>,
    endpoints_of: EndpointsOf,
    watch_places: WatchPlaces,
    told: Told,
    chores: BTreeMap<String, Chore>,
    beat: Beat,
    settings: WorkerSettings,
    metrics: WorkerMetrics,
    progress: Mutex<Progress>,
    forwarder: Option<Forwarder>,
    /// Rung when calls of the outbox have been settled or decided about in this process.
    calls_settled: Notify,
}

/// One provider with the pipeline to it.
struct Plugged {
    provider: Arc<dyn Provider>,
    transport: Arc<dyn Transport>,
}

/// One registered handler.
struct Route {
    provider: String,
    kind: Pattern,
    handler: Arc<dyn Handler>,
}

type EndpointsOf = Arc<dyn Fn(&Connection) -> Vec<EndpointId> + Send + Sync>;
type Told = Arc<dyn Fn(&Connection) -> bool + Send + Sync>;
type WatchPlaces = Arc<dyn Fn(&Connection) -> Vec<WatchPlace> + Send + Sync>;

/// Which event types somebody wants.
pub(crate) enum Pattern {
    Exact(String),
    Prefix(String),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text.strip_suffix('*') {
            None if !text.is_empty() && !text.contains('*') => Ok(Self::Exact(text.to_owned())),
            Some(prefix) if !prefix.contains('*') && (prefix.is_empty() || prefix.ends_with('.')) => {
                Ok(Self::Prefix(prefix.to_owned()))
            }
            None | Some(_) => Err(Error::new(
                ErrorKind::Config,
                "an event type is written exactly (invoice.paid), as a prefix (invoice.*) or as * for all",
            )),
        }
    }

    pub(crate) fn matches(&self, kind: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == kind,
            Self::Prefix(prefix) => kind.starts_with(prefix),
        }
    }
}

/// Builds a [`Worker`].
pub struct WorkerBuilder {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    providers: Vec<Plugged>,
    routes: Vec<(String, String, Arc<dyn Handler>)>,
    endpoints_of: EndpointsOf,
    watch_places: WatchPlaces,
    told: Told,
    chores: Vec<(String, Chore)>,
    settings: WorkerSettings,
    metrics: Metrics,
    forwarder: Option<Forwarder>,
}

impl WorkerBuilder {
    /// Adds a provider with the pipeline its calls go through.
    #[must_use]
    pub fn provider(mut self, provider: Arc<dyn Provider>, transport: Arc<dyn Transport>) -> Self {
        self.providers.push(Plugged { provider, transport });
        self
    }

    /// Registers a handler for a provider's events of a type: exact (`invoice.paid`), a prefix (`invoice.*`) or `*`
    /// for all. Every handler that matches is called, in order of registration; one settlement serves them all.
    #[must_use]
    pub fn on(mut self, provider: impl Into<String>, kind: impl Into<String>, handler: impl Handler) -> Self {
        self.routes.push((provider.into(), kind.into(), Arc::new(handler)));
        self
    }

    /// Says at which endpoints a connection's webhooks arrive, so that events found by a sync are deduplicated against
    /// those delivered; the first is where events are kept of which nothing was heard anywhere. Without any, and without
    /// this, the endpoint has the connection's id.
    #[must_use]
    pub fn endpoints(mut self, of: impl Fn(&Connection) -> Vec<EndpointId> + Send + Sync + 'static) -> Self {
        self.endpoints_of = Arc::new(of);
        self
    }

    /// Says where notifications of a connection's push channels may be posted to, the first place first. A stream is
    /// watched where its provider has channels and one of the places a secret that fits; without any place none is.
    #[must_use]
    pub fn watch_places(mut self, of: impl Fn(&Connection) -> Vec<WatchPlace> + Send + Sync + 'static) -> Self {
        self.watch_places = Arc::new(of);
        self
    }

    /// Says whether a connection's changes are told by webhook. Where they are not, the interval of incremental runs grows
    /// while nothing changes ([`WorkerSettings::idle_max`]). Without it every connection's are.
    #[must_use]
    pub fn told(mut self, of: impl Fn(&Connection) -> bool + Send + Sync + 'static) -> Self {
        self.told = Arc::new(of);
        self
    }

    /// Adds a chore: something to be done by schedule, by one process of all that share the store. What it answers (in
    /// one phrase without anything secret) is kept and shown; an error is shown and tried again. It may be done twice when
    /// a process dies at it.
    #[must_use]
    pub fn chore<F, D>(mut self, name: impl Into<String>, schedule: Schedule, run: F) -> Self
    where
        F: Fn() -> D + Send + Sync + 'static,
        D: Future<Output = Result<String>> + Send + 'static,
    {
        let run: chores::Do = Box::new(move || Box::pin(run()));
        self.chores.push((name.into(), Chore { schedule, run }));
        self
    }

    /// Forwards events to the forwarder's destinations, once their handlers are done.
    #[must_use]
    pub fn forwarder(mut self, forwarder: Forwarder) -> Self {
        self.forwarder = Some(forwarder);
        self
    }

    /// Registers a handler for one type of event, which it is given as a type of its own; see [`typed()`].
    #[must_use]
    pub fn on_typed<E: Typed>(
        self,
        handler: impl for<'a> Fn(E, &'a StoredEvent, &'a mut Context) -> BoxFuture<'a, Handled> + Send + Sync + 'static,
    ) -> Self {
        self.on(E::PROVIDER, E::KIND, typed(handler))
    }

    /// Sets how the worker works.
    #[must_use]
    pub fn settings(mut self, settings: WorkerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets where attempts and runs are counted.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Checks the settings and makes the worker.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting or the event type that cannot work.
    pub fn build(self) -> Result<Worker> {
        let Self {
            store,
            clock,
            random,
            providers,
            routes,
            endpoints_of,
            watch_places,
            told,
            chores,
            settings,
            metrics,
            forwarder,
        } = self;
        settings.check()?;
        let mut named = BTreeMap::new();
        for (name, chore) in chores {
            if [chores::RETENTION, chores::LOOK, chores::ROLL_UP].contains(&name.as_str()) || named.contains_key(&name)
            {
                return Err(Error::new(ErrorKind::Config, format!("the chore {name} is given twice")));
            }
            named.insert(name, chore);
        }
        let mut plugged = BTreeMap::new();
        for one in providers {
            let name = one.provider.manifest().name;
            if plugged.insert(name, one).is_some() {
                return Err(Error::new(ErrorKind::Config, format!("the provider {name} is given twice")));
            }
        }
        let routes = routes
            .into_iter()
            .map(|(provider, kind, handler)| Ok(Route { provider, kind: Pattern::parse(&kind)?, handler }))
            .collect::<Result<_>>()?;
        let priorities = priorities(&settings.event_priorities)?;
        let progress = Mutex::default();
        let providers = plugged;
        let metrics = WorkerMetrics::new(metrics);
        let (chores, beat) = (named, Beat::default());
        let inner = Inner {
            store,
            clock,
            random,
            providers,
            routes,
            priorities,
            endpoints_of,
            watch_places,
            told,
            chores,
            beat,
            settings,
            metrics,
            progress,
            forwarder,
            calls_settled: Notify::new(),
        };
        Ok(Worker { inner: Arc::new(inner) })
    }
}

impl WorkerSettings {
    /// Returns how many jobs of a group may be under way at once.
    #[must_use]
    pub fn concurrency_of(&self, group: &str) -> u32 {
        let each = self.group_concurrency.unwrap_or_else(|| self.concurrency.div_ceil(2));
        self.group_overrides.get(group).copied().unwrap_or(each)
    }

    /// Returns the longest wait between two attempts of a run or a push channel, but for one the provider asked for: the
    /// interval of incremental runs, 15 minutes at most, whatever the stream's own schedule is. A run without progress for
    /// twice as long is stalled ([`Run::is_stalled`](crate::store::Run::is_stalled)).
    #[must_use]
    pub fn run_wait_max(&self) -> Duration {
        /// However seldom runs come, one that broke off goes on soon.
        const LONGEST: Duration = Duration::from_secs(15 * 60);
        self.incremental_every.min(LONGEST)
    }

    fn check(&self) -> Result<()> {
        let wrong = |what: &'static str| Err(Error::new(ErrorKind::Config, what));
        let none = Duration::ZERO;
        if self.hold < Duration::from_secs(3) {
            return wrong("hold must be at least 3 seconds");
        }
        if self.batch == 0 || self.concurrency == 0 || self.attempts_max == 0 || self.page_size == 0 {
            return wrong("batch, concurrency, attempts_max and page_size must be at least 1");
        }
        if self.group_concurrency == Some(0) || self.group_overrides.values().any(|most| *most == 0) {
            return wrong("the concurrency of a group must be at least 1: pause a provider to stop its events");
        }
        if self.call_attempts_max == 0 {
            return wrong("call_attempts_max must be at least 1");
        }
        if self.handler_timeout == none || self.poll == none || self.retry_base == none {
            return wrong("handler_timeout, poll and retry_base must be more than nothing");
        }
        if self.full_every < Duration::from_secs(1) || self.incremental_every < Duration::from_secs(1) {
            return wrong("full_every and incremental_every must be at least 1 second");
        }
        Ok(())
    }
}

impl Worker {
    /// Begins a worker over a store.
    #[must_use]
    pub fn builder(store: Arc<dyn Store>, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> WorkerBuilder {
        WorkerBuilder {
            store,
            clock,
            random,
            providers: Vec::new(),
            routes: Vec::new(),
            endpoints_of: Arc::new(|_| Vec::new()),
            watch_places: Arc::new(|_| Vec::new()),
            told: Arc::new(|_| true),
            chores: Vec::new(),
            settings: WorkerSettings::default(),
            metrics: Metrics::default(),
            forwarder: None,
        }
    }

    /// Tells whether a handler, a destination or one of the provider's streams wants events of this type, or they may end a
    /// grant. Destinations are those known by the last [`Forwarder::look`].
    #[must_use]
    pub fn wants(&self, provider: &str, kind: &str) -> bool {
        self.inner.wants(provider, kind)
    }

    /// Returns the priority of events of a type ([`WorkerSettings::event_priorities`]).
    #[must_use]
    pub fn priority(&self, kind: &str) -> i32 {
        self.inner.priority(kind)
    }

    /// Works on a queue until `stop` is true or its sender is gone, then finishes or gives back what it holds. Store errors are waited
    /// out. Dropping the future is lawful at any moment: what it held is claimed again when its lease runs out.
    pub async fn run(&self, queue: Queue, stop: watch::Receiver<bool>) {
        engine::Engine::run(&self.inner, queue, stop).await;
    }

    /// Claims, runs and settles one batch; returns how many jobs it claimed. For tests and stories.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`] from the claim.
    pub async fn step(&self, queue: Queue) -> Result<usize> {
        engine::Engine::step(&self.inner, queue).await
    }

    /// Enqueues the first runs of a connection's streams, and opens their push channels. For a connection that was there
    /// before (a reconnect, or a pause that is over) it brings the next runs forward, those that were begun too, opens
    /// channels anew, and has the calls made that waited for it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a provider that is not built in; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn connect(&self, connection: &Connection) -> Result<()> {
        let inner = &self.inner;
        let Some(plugged) = inner.providers.get(connection.provider.as_str()) else {
            let provider = &connection.provider;
            return Err(Error::new(ErrorKind::Config, format!("the provider {provider} is not built in")));
        };
        if let Some(source) = plugged.provider.source() {
            let row = inner.scheduled(connection).await?;
            // What was begun goes on where it stopped, before others of its stream could take its place.
            let mut jobs = inner.unfinished_jobs(source, &connection.id).await?;
            jobs.extend(inner.connection_jobs(source, &row, true));
            jobs.extend(inner.watch_jobs(connection, true).await?);
            inner.store.enqueue(schedule::owned(jobs, connection)).await?;
        }
        inner.bring_calls_forward(&connection.id).await
    }

    /// Reads how the push channels of a connection's watched streams stand; empty where none is watched.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn watches(&self, connection: &Connection) -> Result<Vec<WatchStatus>> {
        self.inner.watch_statuses(connection).await
    }

    /// Enqueues a run of a stream for now, or brings forward the one that waits; while one is under way, another comes
    /// after it. Returns the mode it has: an incremental run of a stream that was never listed is a full one.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the connection is not active, so that the run would not begin;
    /// [`ErrorKind::Invalid`] for an incremental run where the changes of a stream are found by a walk over the provider's
    /// events: run that one; [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn sync_now(&self, connection: &ConnectionId, stream: &StreamName, mode: RunMode) -> Result<RunMode> {
        self.inner.run_asked(&schedule::stream_key(connection, stream.as_str()), mode).await
    }

    /// Approves the deletions of a run that waits for review: a full run is enqueued that may delete as many records,
    /// and a tenth more. Should it find more than that, it waits for a review as well.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the run does not wait for review; [`ErrorKind::Conflict`] when a newer full run of its
    /// stream has begun since, so that what was looked at is not what would be deleted, or when another number of
    /// deletions was approved before and the run that may make them has not ended; [`ErrorKind::Store`],
    /// [`ErrorKind::Overloaded`].
    pub async fn approve(&self, run: RunId) -> Result<()> {
        let (run, deletions) = self.inner.approvable(run).await?;
        let connection = run.key.connection.clone();
        self.inner.enqueue_of(&connection, self.inner.approved_job(run.key, deletions)).await
    }

    /// Reads how often the runs of a connection's streams come, and when the next ones do.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn schedules(&self, connection: &Connection) -> Result<Vec<StreamTimings>> {
        self.inner.timings(connection).await
    }

    /// Sets how often a stream's runs of one mode come, in place of what the settings say; `None` lets them count again.
    /// The run that waits is moved at once, one that is under way ends first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the provider has no such stream; [`ErrorKind::Invalid`] for full runs of a stream of
    /// events, and for incremental runs of a stream whose changes the walk over those finds, because none would come;
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn set_schedule(
        &self,
        connection: &Connection,
        stream: &StreamName,
        mode: RunMode,
        schedule: Option<&Schedule>,
    ) -> Result<()> {
        self.inner.set_schedule(connection, stream, mode, schedule).await
    }

    /// Reads how the chores stand.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn chores(&self) -> Result<Vec<ChoreStatus>> {
        self.inner.chore_statuses().await
    }

    /// Pauses a stream: a run under way stops behind the page at hand and goes on there when it is resumed. Events are
    /// merged all the same.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn pause_stream(&self, connection: &ConnectionId, stream: &StreamName) -> Result<()> {
        let key = schedule::stream_key(connection, stream.as_str());
        self.inner.store.pause_stream(key, Some(self.inner.clock.now())).await
    }

    /// Lets a paused stream run again, now: an unfinished run goes on where it stopped.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn resume_stream(&self, connection: &ConnectionId, stream: &StreamName) -> Result<()> {
        let key = schedule::stream_key(connection, stream.as_str());
        self.inner.store.pause_stream(key.clone(), None).await?;
        let runs = self.inner.store.newest_runs(connection.clone()).await?;
        let status = self.inner.store.stream(key.clone()).await?;
        let unfinished = runs.into_iter().find(|run| run.key == key && run.state == RunState::Running);
        let begin = if status.cursor.is_some() { RunMode::Incremental } else { RunMode::Full };
        let job = self.inner.sync_job(&key, unfinished.map_or(begin, |run| run.mode), When::Now);
        self.inner.enqueue_of(connection, job).await
    }

    /// Resets a stream: its cursor, its unfinished run and what was set aside of it are forgotten, and everything is read
    /// anew, beginning now. With `records` all its records become tombstones first, which the feed tells one by one.
    /// Returns how many did.
    ///
    /// # Errors
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`]: what was done so far stays done; reset it again.
    pub async fn reset_stream(&self, connection: &ConnectionId, stream: &StreamName, records: bool) -> Result<u64> {
        /// Tombstones of one commit.
        const ERASED_AT_ONCE: u32 = 1_000;
        let inner = &self.inner;
        let key = schedule::stream_key(connection, stream.as_str());
        inner.store.reset_stream(key.clone(), inner.clock.now()).await?;
        let mut erased = 0;
        let mut more = records;
        while more {
            let some = inner.store.erase_records(key.clone(), ERASED_AT_ONCE, inner.clock.now()).await?;
            erased += some;
            more = some == u64::from(ERASED_AT_ONCE);
        }
        if records {
            // A full run may have begun meanwhile: what it wrote was erased behind it, and it would not read it again.
            inner.store.reset_stream(key.clone(), inner.clock.now()).await?;
        }
        tracing::warn!(connection = %connection, stream = %stream, erased, "the stream was reset");
        inner.enqueue_of(connection, inner.sync_job(&key, RunMode::Full, When::Now)).await?;
        Ok(erased)
    }

    /// Tells what a run of a stream would do now, by its first pages and without writing anything.
    ///
    /// # Errors
    /// Those of the reading; [`ErrorKind::Invalid`] for a connection that is not known, and as [`Worker::sync_now`] has it;
    /// [`ErrorKind::NotFound`] for a stream that is not.
    pub async fn dry_run(
        &self,
        connection: &ConnectionId,
        stream: &StreamName,
        mode: RunMode,
        pages_max: u32,
    ) -> Result<DryRun> {
        self.inner.dry_run(&schedule::stream_key(connection, stream.as_str()), mode, pages_max).await
    }

    /// Dismisses the deletions of a run that waits for review: its records stay, and the next full run looks anew.
    /// Returns whether one waited.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when they were approved, and the full run that may delete them has not ended yet;
    /// [`ErrorKind::Store`], [`ErrorKind::Overloaded`].
    pub async fn dismiss(&self, run: RunId) -> Result<bool> {
        let store = &self.inner.store;
        if let Some(run) = store.run(run).await? {
            self.inner.require_unapproved(&run.key).await?;
        }
        store.dismiss_run(run, "its deletions were dismissed".to_owned(), self.inner.clock.now()).await
    }

    /// Tells when each queue last made progress.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.inner.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wants(&self, provider: &str, kind: &str) -> bool {
        let provider_of = self.providers.get(provider).map(|plugged| &plugged.provider);
        self.routes.iter().any(|route| route.wants(provider, kind))
            || self.forwarder.as_ref().is_some_and(|forwarder| forwarder.wants(provider, kind))
            || provider_of.and_then(|one| one.source()).is_some_and(|source| source.concerns(kind))
            || provider_of.and_then(|one| one.webhook()).is_some_and(|webhook| webhook.may_end_grant(kind))
    }

    fn priority(&self, kind: &str) -> i32 {
        self.priorities.iter().find(|(pattern, _)| pattern.matches(kind)).map_or(0, |(_, priority)| *priority)
    }

    /// Enqueues a job of a connection; one that is not known gets its job all the same, which says so.
    async fn enqueue_of(&self, connection: &ConnectionId, job: NewJob) -> Result<()> {
        let jobs = match self.store.connection(connection.clone()).await? {
            Some(connection) => schedule::owned([job], &connection),
            None => vec![job],
        };
        self.store.enqueue(jobs).await?;
        Ok(())
    }

    fn note_progress(&self, queue: Queue) {
        let now = Some(self.clock.now());
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match queue {
            Queue::Events => progress.events = now,
            Queue::Background => progress.background = now,
            Queue::Calls => progress.calls = now,
            Queue::Forwards => progress.forwards = now,
        }
    }
}

/// Tells whether a text names event types as handlers, destinations and priorities do: exactly (`invoice.paid`), as a
/// prefix (`invoice.*`) or as `*` for all.
#[must_use]
pub fn is_event_type(text: &str) -> bool {
    Pattern::parse(text).is_ok()
}

/// Reads the priorities of events by type, the most specific type first: exact ones, then the longer prefixes.
fn priorities(given: &BTreeMap<String, i32>) -> Result<Vec<(Pattern, i32)>> {
    let read = given.iter().map(|(kind, priority)| Ok((Pattern::parse(kind)?, *priority)));
    let mut read: Vec<_> = read.collect::<Result<_>>()?;
    read.sort_by_key(|(pattern, _)| match pattern {
        Pattern::Exact(_) => 0,
        Pattern::Prefix(prefix) => usize::MAX - prefix.len(),
    });
    Ok(read)
}

impl Route {
    fn wants(&self, provider: &str, kind: &str) -> bool {
        self.provider == provider && self.kind.matches(kind)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("providers", &self.inner.providers.keys())
            .field("handlers", &self.inner.routes.len())
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;

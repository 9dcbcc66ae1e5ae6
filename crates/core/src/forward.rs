//! Forwarding of events to destinations: URLs of a product in any language.
//!
//! | room | what stands there |
//! |---|---|
//! | [`Forwarder`] | which destinations there are, which of them wants an event, and what became of an attempt |
//! | `message` | what is sent: Standard Webhooks' body and headers |
//! | `attempt` | one attempt: signed, sent, redirects followed, its answer read |
//! | `spec` | what a destination may be |
//! | `desk` | what people do with destinations: make, change, enable, rotate, try, replay |
//! | `dead` | what was given up: sent again or dismissed |
//!
//! An event is forwarded once its own job is done: the jobs that forward it are added in the commit that settles that
//! one, so that nothing acknowledged is missing. It is sent at least once, under a `webhook-id` that is the same in every
//! attempt and replay. Secrets stand sealed in the store; they are opened when a destination is read, and kept in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::auth::vault::{Place, Vault};
use crate::clock::{Clock, Timestamp};
use crate::error::Result;
use crate::id::{ConnectionId, TenantId};
use crate::metrics::Metrics;
use crate::random::Random;
use crate::secret::Secret;
use crate::store::{
    Disabled, DisabledBy, EventRow, NewJob, Order, SealedKey, Store, StoredDestination, StoredEvent, Work, forward_key,
};
use crate::transport::Transport;
use crate::worker::Pattern;

mod attempt;
mod dead;
mod desk;
mod message;
mod spec;
#[cfg(test)]
mod tests;

pub use attempt::{Answer, REDIRECTS_MAX};
pub use dead::{DEAD_AT_ONCE, Resent, dismiss_dead};
pub use desk::{Changed, Configured, Replay, Replayed, Tested};
pub use message::{TEST_TYPE, message_id};
pub use spec::{CONCURRENCY_MAX, HEADERS_MAX, check};

/// The waits between attempts, as the specification of Standard Webhooks has them ("Deliverability and reliability"):
/// ten attempts within three days and a bit.
pub const SCHEDULE: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3_600),
    Duration::from_secs(5 * 3_600),
    Duration::from_secs(10 * 3_600),
    Duration::from_secs(14 * 3_600),
    Duration::from_secs(20 * 3_600),
    Duration::from_secs(24 * 3_600),
];
/// How often the worker of one event may die, or fail to note what became of it, before the event is given up: as many
/// leases, so that a hub that crashes all night takes no more with it than what makes it crash.
pub const LOST_MAX: u32 = 100;
/// The longest `Retry-After` that is believed: the longest wait of the schedule.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);
/// How much longer than said a wait may be, as a part of it.
const JITTER: f64 = 0.1;
/// How long a process goes on with the destinations it knows before it looks again.
pub const KNOWN_FOR: Duration = Duration::from_secs(5);
/// How often a success is noted of a destination that has nothing but.
const NOTED_EVERY: Duration = Duration::from_secs(30);
/// So many attempts in a row must have failed before a destination is disabled, however long the first is ago.
const DISABLING_FAILURES: u32 = 5;
/// Whose data key seals the signing keys: no tenant's, for a destination may serve many.
const SEALING_TENANT: &str = "palisade/destinations";
/// The field they are sealed as.
const KEY_FIELD: &str = "signing key";

/// When somebody is told that a destination fails, and when it is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "settings; any value is valid")]
pub struct ForwardSettings {
    /// Attempts in a row that fail before somebody is told.
    pub warn_failures: u32,
    /// How long a destination may fail before somebody is told.
    pub warn_after: Duration,
    /// How long it may fail before it is disabled.
    pub disable_after: Duration,
    /// How long the old key signs beside a new one.
    pub key_overlap: Duration,
}

impl Default for ForwardSettings {
    fn default() -> Self {
        Self {
            warn_failures: 5,
            warn_after: Duration::from_secs(3_600),
            disable_after: Duration::from_secs(5 * 86_400),
            key_overlap: Duration::from_secs(86_400),
        }
    }
}

/// Knows the destinations and forwards to them. Cheap to clone; clones know the same.
#[derive(Clone)]
pub struct Forwarder {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    vault: Arc<Vault>,
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    settings: ForwardSettings,
    metrics: Metrics,
    known: ArcSwapOption<Known>,
    reading: tokio::sync::Mutex<()>,
    /// Until when destinations asked to be left alone, by name and revision. Forgotten with the process: the next one
    /// asks once, and is told.
    rests: Mutex<BTreeMap<(String, u64), Timestamp>>,
    /// Destinations of which this process has noted a failure and no success since: what is known of them may be older.
    failed: Mutex<BTreeSet<String>>,
}

/// The destinations as they were read.
struct Known {
    at: Instant,
    list: Arc<[Arc<Live>]>,
}

/// A destination with its keys opened.
pub(crate) struct Live {
    row: StoredDestination,
    types: Vec<Pattern>,
    keys: Vec<(Secret, Option<Timestamp>)>,
    /// Whether one of its keys did not open.
    closed: bool,
}

/// How a destination stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages show each")]
pub enum Standing {
    /// Nothing failed since the last success.
    Active,
    /// The last attempts failed; not for so long that somebody must know.
    Retrying,
    /// They failed so often or for so long that somebody must know.
    Failing,
    /// Somebody has paused it: what is to be sent to it waits.
    Paused,
    /// Nothing is sent, whether or not it is paused: what comes due is given up.
    Disabled,
}

impl Standing {
    /// Returns the word for it in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retrying => "retrying",
            Self::Failing => "failing",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }
}

/// What became of a job that forwards.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Forwarded {
    /// It arrived.
    Done,
    /// It comes again.
    Retry(Duration, String),
    /// It never will.
    Dead(String),
}

impl ForwardSettings {
    /// Tells how a destination stands at a moment.
    #[must_use]
    pub fn standing(&self, row: &StoredDestination, now: Timestamp) -> Standing {
        let health = &row.health;
        match (health.disabled.is_some(), health.failing_since) {
            (true, _) => Standing::Disabled,
            (false, _) if row.paused_at.is_some() => Standing::Paused,
            (false, None) => Standing::Active,
            (false, Some(since)) if self.is_told(health.failures, since, now) => Standing::Failing,
            (false, Some(_)) => Standing::Retrying,
        }
    }

    fn is_told(&self, failures: u32, since: Timestamp, now: Timestamp) -> bool {
        failures >= self.warn_failures || (failures > 1 && now.since(since) >= self.warn_after)
    }
}

impl Forwarder {
    /// Makes a forwarder. `transport` carries what is forwarded and nothing else: where destinations are given by people
    /// who are not trusted with this machine's network, a [`crate::transport::GuardedTransport`]. `random` is for waits;
    /// keys are drawn from the operating system.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        vault: Arc<Vault>,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        settings: ForwardSettings,
        metrics: Metrics,
    ) -> Self {
        let (known, reading) = (ArcSwapOption::empty(), tokio::sync::Mutex::new(()));
        let (rests, failed) = (Mutex::default(), Mutex::default());
        let inner = Inner { store, vault, transport, clock, random, settings, metrics, known, reading, rests, failed };
        Self { inner: Arc::new(inner) }
    }

    /// Returns when somebody is told that a destination fails, and when it is given up.
    #[must_use]
    pub fn settings(&self) -> &ForwardSettings {
        &self.inner.settings
    }

    /// Reads the destinations, unless they were read within [`KNOWN_FOR`]. What [`Forwarder::wants`] says is by what was
    /// read last, so this comes before it.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store) while none could be read yet. Later ones are logged, and what is
    /// known stays.
    pub async fn look(&self) -> Result<()> {
        self.inner.list().await.map(drop)
    }

    /// Tells whether the destinations were read within [`KNOWN_FOR`], so that there is no need to look.
    #[must_use]
    pub fn is_up_to_date(&self) -> bool {
        self.inner.known.load().as_ref().is_some_and(|known| known.at.elapsed() < KNOWN_FOR)
    }

    /// Tells whether a destination may want events of this type.
    #[must_use]
    pub fn wants(&self, provider: &str, kind: &str) -> bool {
        let known = self.inner.known.load();
        known.as_ref().is_some_and(|known| known.list.iter().any(|one| one.takes(provider, kind)))
    }

    /// Returns how many attempts may be under way at once, by the group of a destination's jobs: none while the
    /// destination is paused or has asked to be left alone. It is by what was read last: [`Forwarder::look`] comes before
    /// it.
    #[must_use]
    pub fn room(&self) -> BTreeMap<String, u32> {
        let known = self.inner.known.load();
        let list = known.as_ref().map(|known| Arc::clone(&known.list));
        let held = |one: &Live| one.row.paused_at.is_some() || self.inner.rests(one);
        let room = |one: &Live| if held(one) { 0 } else { one.row.spec.concurrency };
        list.iter().flat_map(|list| list.iter()).map(|one| (group(&one.row.name), room(one))).collect()
    }

    /// Makes the jobs that forward an event, for the settlement of its own.
    ///
    /// # Errors
    /// As [`Forwarder::look`].
    pub(crate) async fn jobs(&self, event: &StoredEvent, tenant: &TenantId) -> Result<Vec<NewJob>> {
        let list = self.inner.list().await?;
        let now = self.inner.clock.now();
        let wanting = list.iter().filter(|one| one.wants(event, tenant));
        Ok(wanting.map(|one| one.job(event, tenant, now)).collect())
    }

    /// Counts and tells that an event is given up.
    pub(crate) fn gave_up(&self, row: EventRow, destination: &str, reason: &str) {
        self.inner.gave_up(row, destination, reason);
    }

    /// Sends an event to a destination, once, and notes what became of it. `attempt` counts from 1: the one after the last
    /// wait of [`SCHEDULE`] is the last.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](crate::ErrorKind::Store), [`ErrorKind::Overloaded`](crate::ErrorKind::Overloaded): the
    /// message may have been sent.
    pub(crate) async fn forward(&self, row: EventRow, name: &str, attempt: u32) -> Result<Forwarded> {
        let inner = &self.inner;
        let named = |list: Arc<[Arc<Live>]>| list.iter().find(|one| one.row.name == name).cloned();
        let works = |live: &Arc<Live>| live.row.health.disabled.is_none();
        let found = match named(inner.list().await?).filter(works) {
            Some(live) => Some(live),
            // Another process may have made or enabled it a moment ago: nothing is given up by what is known from before.
            None => named(inner.anew().await?),
        };
        let Some(live) = found.as_ref() else {
            return Ok(Forwarded::Dead(format!("there is no destination {name} any more")));
        };
        if let Some(disabled) = &live.row.health.disabled {
            let why = &disabled.reason;
            inner.count(name, "disabled");
            return Ok(Forwarded::Dead(format!("the destination is disabled ({why}): enable it and replay")));
        }
        let Some(event) = inner.store.event(row).await? else {
            return Ok(Forwarded::Dead("the event was removed".to_owned()));
        };
        let connection = inner.store.connection(event.connection.clone()).await?;
        let message = message::of_event(&event, connection.as_ref().map(|connection| &connection.tenant));
        let began = Instant::now();
        let answer = inner.post(live, &message).await;
        inner.took(name, began.elapsed());
        inner.decide(live, row, answer, attempt).await
    }
}

/// The group of a destination's jobs.
fn group(name: &str) -> String {
    format!("forward/{name}")
}

/// What a signing key is sealed for.
fn sealed_for<'p>(tenant: &'p TenantId, connection: &'p ConnectionId, version: u64) -> Place<'p> {
    Place { tenant, connection, field: KEY_FIELD, generation: version }
}

impl Live {
    fn takes(&self, provider: &str, kind: &str) -> bool {
        self.row.health.disabled.is_none() && self.fits(provider, kind)
    }

    fn fits(&self, provider: &str, kind: &str) -> bool {
        let of_it = self.row.spec.filter.provider.as_deref().is_none_or(|wanted| wanted == provider);
        of_it && self.types.iter().any(|pattern| pattern.matches(kind))
    }

    /// Tells whether an event fits the filter, whether or not anything is sent.
    fn filters(&self, event: &StoredEvent, tenant: &TenantId) -> bool {
        let filter = &self.row.spec.filter;
        self.fits(&event.provider, &event.event.kind)
            && filter.connection.as_ref().is_none_or(|wanted| *wanted == event.connection)
            && filter.tenant.as_ref().is_none_or(|wanted| wanted == tenant)
    }

    fn wants(&self, event: &StoredEvent, tenant: &TenantId) -> bool {
        self.row.health.disabled.is_none() && self.filters(event, tenant)
    }

    fn job(&self, event: &StoredEvent, tenant: &TenantId, now: Timestamp) -> NewJob {
        let name = &self.row.name;
        let key = event.event.ordering_key.as_ref().filter(|_| self.row.spec.order == Order::ByKey);
        NewJob {
            work: Work::Forward { row: event.row, destination: name.clone() },
            lane: key.map(|key| format!("forward/{name}/{}/{key}", event.connection)),
            group: Some(group(name)),
            tenant: Some(tenant.clone()),
            unique: Some(forward_key(name, event.row)),
            priority: 0,
            run_at: now,
            // The worker decides, so that somebody is told.
            attempts_max: u32::MAX,
        }
    }
}

impl Inner {
    /// Gives the destinations, read anew when it is time. While one reads, the others go on with what is known.
    async fn list(&self) -> Result<Arc<[Arc<Live>]>> {
        let known = self.known.load_full();
        if let Some(known) = known.as_ref().filter(|known| known.at.elapsed() < KNOWN_FOR) {
            return Ok(Arc::clone(&known.list));
        }
        let _turn = match &known {
            None => self.reading.lock().await,
            Some(known) => match self.reading.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(Arc::clone(&known.list)),
            },
        };
        match self.known.load_full() {
            Some(newer) if newer.at.elapsed() < KNOWN_FOR => Ok(Arc::clone(&newer.list)),
            known => self.read(known).await,
        }
    }

    /// Reads the destinations whatever is known, as somebody has just changed one.
    async fn anew(&self) -> Result<Arc<[Arc<Live>]>> {
        let _turn = self.reading.lock().await;
        self.read(self.known.load_full()).await
    }

    async fn read(&self, known: Option<Arc<Known>>) -> Result<Arc<[Arc<Live>]>> {
        let rows = match (self.store.destinations().await, &known) {
            (Ok(rows), _) => Some(rows),
            (Err(error), Some(_)) => {
                tracing::warn!(%error, "the destinations could not be read: those known before are used");
                None
            }
            (Err(error), None) => return Err(error),
        };
        let before = known.map_or_else(|| Arc::from([]), |known| Arc::clone(&known.list));
        let list = match rows {
            None => before,
            Some(rows) => {
                let is_there = |name: &String| rows.iter().any(|row| row.name == *name);
                self.failures_noted().retain(is_there);
                let mut list = Vec::with_capacity(rows.len());
                for row in rows {
                    list.push(self.live(row, &before).await);
                }
                list.into()
            }
        };
        self.known.store(Some(Arc::new(Known { at: Instant::now(), list: Arc::clone(&list) })));
        Ok(list)
    }

    /// Opens the keys of a destination, unless they were opened before.
    async fn live(&self, row: StoredDestination, before: &[Arc<Live>]) -> Arc<Live> {
        let resumed = |one: &Arc<Live>| one.row.name == row.name && one.row.paused_at.is_some();
        if row.paused_at.is_none() && before.iter().any(resumed) {
            // Somebody says that it may be asked again, here or in another process.
            self.wake(&row.name);
        }
        let same = |one: &&Arc<Live>| one.row.name == row.name && one.row.keys == row.keys && !one.closed;
        let (keys, closed) = match before.iter().find(same) {
            Some(one) if one.row == row => return Arc::clone(one),
            Some(one) => (one.keys.clone(), false),
            None => self.open(&row.name, &row.keys).await,
        };
        // What is stored was checked before; what a newer program wrote and this one cannot read wants nothing.
        let types = row.spec.filter.types.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        Arc::new(Live { row, types, keys, closed })
    }

    async fn open(&self, name: &str, keys: &[SealedKey]) -> (Vec<(Secret, Option<Timestamp>)>, bool) {
        let (tenant, of) = (TenantId::new(SEALING_TENANT), place_of(name));
        let (mut opened, mut closed) = (Vec::with_capacity(keys.len()), false);
        for key in keys {
            let plain = self.vault.open(sealed_for(&tenant, &of, key.version), &key.blob).await;
            match plain.map(|plain| std::str::from_utf8(plain.as_slice()).map(Secret::from)) {
                Ok(Ok(secret)) => opened.push((secret, key.until)),
                Ok(Err(_)) => closed = true,
                Err(error) => {
                    tracing::error!(destination = name, %error, "a signing key does not open");
                    closed = true;
                }
            }
        }
        (opened, closed)
    }

    /// Notes an answer and says what comes of its job.
    async fn decide(&self, live: &Live, row: EventRow, answer: Answer, attempt: u32) -> Result<Forwarded> {
        let name = &live.row.name;
        let now = self.clock.now();
        self.count(name, answer.as_str());
        match answer {
            Answer::Delivered { .. } => {
                let health = &live.row.health;
                let is_noted = health.delivered_at.is_some_and(|at| now.since(at) < NOTED_EVERY);
                // Forgotten before it is noted: what fails meanwhile is not.
                let has_failed = self.failures_noted().remove(name);
                if health.failures > 0 || !is_noted || has_failed {
                    let noted = self.store.note_forward(name.clone(), None, live.row.revision, now).await;
                    let noted = noted.inspect_err(|_| {
                        self.failures_noted().insert(name.clone());
                    })?;
                    if noted.is_some_and(|noted| noted.before.failures >= self.settings.warn_failures) {
                        tracing::info!(destination = name, "the destination takes events again");
                    }
                }
                Ok(Forwarded::Done)
            }
            Answer::Gone => {
                let reason = "the receiver answered 410: it wants no more events".to_owned();
                let disabled = Disabled { at: now, by: DisabledBy::Receiver, reason: reason.clone() };
                if !self.disable(live, disabled).await? && self.is_changed(live).await? {
                    // The address that is gone is not its address any more.
                    return Ok(self.again(live, row, attempt, None, reason));
                }
                Ok(Forwarded::Dead(reason))
            }
            Answer::Failed { reason, retry_after, status } => {
                // What it says to one event it says to all: none of them is sent before.
                if let (Some(429 | 503), Some(asked)) = (status, retry_after) {
                    self.rest(live, now.plus(asked.min(RETRY_AFTER_MAX)));
                }
                self.failed(live, &reason, now).await?;
                Ok(self.again(live, row, attempt, retry_after, reason))
            }
        }
    }

    /// Lets an event come again, or gives it up after the last attempt of the schedule.
    fn again(&self, live: &Live, row: EventRow, attempt: u32, after: Option<Duration>, reason: String) -> Forwarded {
        if usize::try_from(attempt).is_ok_and(|attempt| attempt <= SCHEDULE.len()) {
            return Forwarded::Retry(self.wait(attempt, after), reason);
        }
        self.gave_up(row, &live.row.name, &reason);
        Forwarded::Dead(reason)
    }

    fn gave_up(&self, row: EventRow, destination: &str, reason: &str) {
        self.count(destination, "dead");
        tracing::error!(destination, event = row.0, reason, "an event was given up: send it again or dismiss it");
    }

    /// Returns the destinations of which a failure was noted here and no success since.
    fn failures_noted(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the wait after an attempt: the schedule's, or longer where the receiver asks for it.
    fn wait(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let at = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        let scheduled = SCHEDULE.get(at).or(SCHEDULE.last()).copied().unwrap_or_default();
        let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        scheduled.max(asked).mul_f64(1.0 + JITTER * self.random.unit())
    }

    /// Leaves a destination alone until a moment, as it is now: one that is changed is another one.
    fn rest(&self, live: &Live, until: Timestamp) {
        let now = self.clock.now();
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.retain(|_, until| *until > now && *until <= now.plus(RETRY_AFTER_MAX));
        let rest = rests.entry((live.row.name.clone(), live.row.revision)).or_insert(until);
        *rest = until.max(*rest);
    }

    fn rests(&self, live: &Live) -> bool {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        let until = rests.get(&(live.row.name.clone(), live.row.revision));
        // None is longer than what is believed, also when the clock was set back.
        let now = self.clock.now();
        until.is_some_and(|until| *until > now && *until <= now.plus(RETRY_AFTER_MAX))
    }

    /// Ends the rest of a destination: somebody says that it may be asked again.
    fn wake(&self, name: &str) {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| of != name);
    }

    async fn failed(&self, live: &Live, reason: &str, now: Timestamp) -> Result<()> {
        let (name, of) = (live.row.name.as_str(), live.row.revision);
        self.failures_noted().insert(name.to_owned());
        let Some(noted) = self.store.note_forward(name.to_owned(), Some(reason.to_owned()), of, now).await? else {
            return Ok(());
        };
        let (before, after) = (noted.before, noted.after);
        let Some(since) = after.failing_since else { return Ok(()) };
        let told = match (before.failing_since, before.failed_at) {
            (Some(since), Some(at)) => self.settings.is_told(before.failures, since, at),
            _ => false,
        };
        let failures = after.failures;
        if !told && self.settings.is_told(failures, since, now) {
            let seconds = now.since(since).as_secs();
            tracing::warn!(destination = name, failures, seconds, reason, "a destination fails: events wait for it");
        }
        if after.disabled.is_none() && failures >= DISABLING_FAILURES && now.since(since) >= self.settings.disable_after
        {
            let days = now.since(since).as_secs() / 86_400;
            let reason = format!("it failed for {days} days, last because {reason}");
            self.disable(live, Disabled { at: now, by: DisabledBy::Failures, reason }).await?;
        }
        Ok(())
    }

    /// Disables a destination unless somebody has changed it since. Returns whether that changed anything.
    async fn disable(&self, live: &Live, disabled: Disabled) -> Result<bool> {
        let (name, reason) = (&live.row.name, disabled.reason.clone());
        let done = self.store.disable_destination(name.clone(), Some(disabled), Some(live.row.revision)).await?;
        if done {
            tracing::error!(
                destination = name,
                reason,
                "a destination was disabled: enable it and replay what it missed"
            );
            self.anew().await?;
        }
        Ok(done)
    }

    /// Tells whether somebody has changed a destination since, so that it is another one now.
    async fn is_changed(&self, live: &Live) -> Result<bool> {
        let list = self.anew().await?;
        let now = list.iter().find(|one| one.row.name == live.row.name);
        Ok(now.is_some_and(|now| now.row.revision != live.row.revision))
    }

    fn count(&self, destination: &str, result: &str) {
        let labels = [("destination", destination), ("result", result)];
        self.metrics.counter("palisade_forwards", "Attempts to forward by destination and result", &labels).inc();
    }

    fn took(&self, destination: &str, time: Duration) {
        let labels = [("destination", destination)];
        self.metrics.durations("palisade_forward_seconds", "Time of an attempt to forward", &labels).observe(time);
    }
}

/// What stands in the place of a connection where a destination's keys are sealed.
fn place_of(name: &str) -> ConnectionId {
    ConnectionId::new(format!("destination/{name}"))
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

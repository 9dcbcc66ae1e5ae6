//! What one job does, up to its settlement: an event through streams and handlers, a sync, the removal of old rows.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, EndpointId, RecordId, StreamName};
use crate::store::{
    CallResult, Claim, Claimed, Connection, ConnectionState, Effect, EventRow, FEED_HORIZON_MIN, JobEnd, KeptCall,
    Lease, Merge, NO_CONNECTION, NewJob, OutboxChange, Revocation, RunMode, Settlement, StoredEvent, StreamKey,
    ToHandle, Work, mark_needs_reconnect,
};
use crate::sync::driver::{Driver, Ended, HEARD_WITHIN, Task};
use crate::sync::dry_run::DryRun;
use crate::sync::{Change, Site, Source, StreamKind};
use crate::transport::Transport;
use crate::webhook::Event;

use super::asking::Reading;
use super::chores::RETENTION;
use super::replaying::{REPLAY_TRIES_MAX, ReplayProgress, Replaying};
use super::schedule::{When, owned, owned_one, stream_key};
use super::{Context, Handled, Inner, Plugged};

/// Rows removed in one commit.
pub(super) const PRUNED_AT_ONCE: u32 = 1_000;
/// How long the name of an event is kept at least, so that it is not handled again: as far back as a run makes events of
/// what was missed, and as a provider's list of events reaches.
const NAMES_KEPT: Duration = HEARD_WITHIN;

/// The longest wait of a job that was not tried, beyond what it was told: how late it comes when what it waited for is
/// there again.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5 * 60);
/// How often a job may wait without being tried: beyond it each wait costs an attempt, so that nothing lives for ever.
const WAITS_MAX: u32 = 1_000;
/// For how long, from its first wait on: as many as it may, each as long as it grows to by itself, take about as long.
const WAITS_FOR_MAX: Duration = Duration::from_secs(3 * 86_400);
/// A wait that is longer than this is an attempt: so few of them are too long already.
const FREE_WAIT_MAX: Duration = Duration::from_secs(3_600);

/// What a job has come to.
pub(super) enum Prepared {
    /// To be settled.
    Settle(Box<Settlement>),
    /// The job ended with its run: nothing to settle.
    Ended,
    /// Another worker has the job: nothing to settle.
    Lost,
}

/// Which attempt of a job this is.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    pub(super) number: u32,
    pub(super) max: u32,
    /// How often it has waited without being tried.
    pub(super) waits: u32,
    /// Since when.
    waits_from: Option<Timestamp>,
    /// It goes on where it was, so that what it did between two waits is done.
    goes_on: bool,
    /// It did come on by this attempt.
    came_on: bool,
    /// The longest wait before the next.
    wait_max: Duration,
}

/// Where a connection's work happens.
pub(super) struct Place<'a> {
    pub(super) connection: Connection,
    pub(super) plugged: &'a Plugged,
    pub(super) source: Option<&'a dyn Source>,
    pub(super) site: Site,
}

/// Why a job cannot go on.
pub(super) enum Stop {
    /// For good, with the reason.
    Dead(String),
    /// For now: it was tried and comes again, after this time or by the schedule.
    Retry { after: Option<Duration>, reason: String },
    /// For now: it could not be tried, and comes again no sooner than this.
    Wait { after: Option<Duration>, reason: String },
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        let reason = phrase(&error);
        if is_everybodys(&error) {
            Self::Wait { after: error.retry_after(), reason }
        } else {
            Self::Retry { after: None, reason }
        }
    }
}

/// Tells whether an error says nothing of the work that met it: nothing reached the provider, or everybody is to come
/// later. Only a provider that is away or asks for it, its breaker, a limit and a full queue say when to come again.
pub(super) fn is_everybodys(error: &Error) -> bool {
    let kind = error.kind();
    let refused =
        matches!(kind, ErrorKind::CircuitOpen | ErrorKind::Throttled | ErrorKind::Overloaded | ErrorKind::Connect);
    refused || error.retry_after().is_some()
}

/// The phrase of an error that is kept with a job: what we say, without the provider's own text.
pub(super) fn phrase(error: &Error) -> String {
    match error.operation() {
        Some(operation) => format!("{operation}: {} ({})", error.message(), error.kind().as_str()),
        None => format!("{} ({})", error.message(), error.kind().as_str()),
    }
}

impl Inner {
    /// Claims, and reads the events that were claimed: together, because one by one each would cost a read of its own.
    /// An event that could not be read, or not soon, comes without, and is read again where it is handled.
    pub(super) async fn claim(&self, claim: Claim) -> Result<Vec<(Claimed, Option<ToHandle>)>> {
        let claimed = self.store.claim(claim).await?;
        let rows: Vec<EventRow> = claimed.iter().filter_map(|one| one.work.event()).collect();
        let read = if rows.is_empty() {
            Vec::new()
        } else {
            // Until it is held, nobody renews the lease of what was claimed.
            let read = self.store.events_to_handle(rows);
            let read = tokio::time::timeout(self.settings.hold / 6, read).await;
            read.ok().and_then(Result::ok).unwrap_or_default()
        };
        let mut read = read.into_iter();
        let mut with_event = |one: Claimed| {
            let event = one.work.event().and_then(|_| read.next()).flatten();
            (one, event)
        };
        Ok(claimed.into_iter().map(&mut with_event).collect())
    }

    /// Runs a claimed job up to its settlement.
    pub(super) async fn work(
        &self,
        claimed: Claimed,
        event: Option<ToHandle>,
        attempt: Attempt,
        stop: watch::Receiver<bool>,
    ) -> Prepared {
        let Claimed { lease, work, .. } = claimed;
        let came_on = AtomicBool::new(false);
        let replay = Replaying::of(&work);
        let finish = match work {
            Work::Event { row } => self.event(row, event, attempt.number).await,
            Work::Forward { row, destination } => self.forward(row, &destination, attempt).await,
            Work::Sync { key, mode } => self.sync(lease, &key, mode, 0, &came_on, stop).await,
            Work::Approved { key, deletions } => self.sync(lease, &key, RunMode::Full, deletions, &came_on, stop).await,
            Work::Watch { key, open } => self.watch(key, open).await,
            Work::Call { call } => self.call(lease, call, attempt).await,
            Work::Retention => self.reported(RETENTION, self.retention(&stop)).await,
            Work::Replay { filter, after, replayed, ends, died } => {
                let progress = ReplayProgress { after, replayed };
                self.replay(Replaying { filter, progress, ends }, died, attempt, &stop).await
            }
            Work::Chore { name, at } => self.chore(&name, at, &stop).await,
            Work::Reschedule { key } => self.reschedule(&key).await,
        };
        let attempt = Attempt { came_on: came_on.into_inner(), ..attempt };
        let mut settlement = match finish {
            Ok(Finish::Done { effects, merges, follow, calls }) => {
                let outbox = OutboxChange { add: calls, result: None };
                Settlement { effects, merges, follow, outbox, ..self.settlement(lease, JobEnd::Done) }
            }
            Ok(Finish::Called(end, result)) => {
                let outbox = OutboxChange { add: Vec::new(), result: Some(*result) };
                Settlement { outbox, ..self.settlement(lease, end) }
            }
            Ok(Finish::Later(at, reason)) => self.settlement(lease, JobEnd::Wait { at, reason, anew: false }),
            Ok(Finish::Unwanted) => self.settlement(lease, JobEnd::Ignored),
            Ok(Finish::Stopped) => self.settlement(lease, JobEnd::Release),
            Ok(Finish::Ended) => return Prepared::Ended,
            Ok(Finish::Lost) => return Prepared::Lost,
            Err(Stop::Dead(reason)) => self.settlement(lease, JobEnd::Dead { reason }),
            Err(Stop::Retry { after, reason }) => self.retry(lease, attempt, after, reason),
            Err(Stop::Wait { after, reason }) => self.wait(lease, attempt, after, reason),
        };
        if let (JobEnd::Dead { reason }, Some(replay)) = (&settlement.end, replay) {
            settlement.follow.push(self.died(replay, reason));
        }
        Prepared::Settle(Box::new(settlement))
    }

    /// Makes a settlement that only ends the job.
    pub(super) fn settlement(&self, lease: Lease, end: JobEnd) -> Settlement {
        let now = self.clock.now();
        let outbox = OutboxChange::default();
        Settlement { lease, end, now, effects: Vec::new(), merges: Vec::new(), follow: Vec::new(), outbox }
    }

    /// Tells which attempt a claim is, and of how many.
    pub(super) fn attempt(&self, claimed: &Claimed) -> Attempt {
        let (max, wait_max) = match claimed.work {
            Work::Event { .. } => (self.settings.attempts_max, self.settings.retry_max),
            // Its waits are the schedule's: `forward` decides.
            Work::Forward { .. } => (u32::MAX, self.settings.retry_max),
            Work::Call { .. } => (u32::MAX, self.settings.retry_max),
            Work::Replay { .. } => (REPLAY_TRIES_MAX, self.settings.run_wait_max()),
            Work::Sync { .. }
            | Work::Approved { .. }
            | Work::Watch { .. }
            | Work::Retention
            | Work::Chore { .. }
            | Work::Reschedule { .. } => (u32::MAX, self.settings.run_wait_max()),
        };
        let (number, max) = (claimed.attempt, max.min(claimed.attempts_max));
        let goes_on = matches!(claimed.work, Work::Sync { .. } | Work::Approved { .. });
        let Claimed { waits, waits_from, .. } = *claimed;
        Attempt { number, max, waits, waits_from, goes_on, came_on: false, wait_max }
    }

    /// Makes the settlement of a job that comes again, after the given time or by the schedule; or that is dead when
    /// this was its last attempt. One that did come on has all of them again.
    pub(super) fn retry(&self, lease: Lease, attempt: Attempt, after: Option<Duration>, reason: String) -> Settlement {
        if attempt.came_on {
            return self.wait(lease, attempt, after, reason);
        }
        if attempt.number >= attempt.max {
            return self.settlement(lease, JobEnd::Dead { reason });
        }
        let wait = after.unwrap_or_else(|| self.backoff(attempt.number, attempt.wait_max));
        let at = self.clock.now().plus(wait);
        self.settlement(lease, JobEnd::Retry { at, reason })
    }

    /// Makes the settlement of a job that could not be tried: it comes again without an attempt, no sooner than it was
    /// told, and ever more seldom unless it goes on where it was. One that waits too often or too long comes again as any
    /// other, unless it did come on: then all is counted anew.
    fn wait(&self, lease: Lease, attempt: Attempt, after: Option<Duration>, reason: String) -> Settlement {
        let told = after.unwrap_or_default();
        let now = self.clock.now();
        let too_long = told > FREE_WAIT_MAX || attempt.waits_from.is_some_and(|from| now.since(from) >= WAITS_FOR_MAX);
        let anew = attempt.came_on;
        if !anew && (attempt.waits >= WAITS_MAX || too_long) {
            let wait = told.max(self.backoff(attempt.number, attempt.wait_max));
            return self.retry(lease, attempt, Some(wait), reason);
        }
        // The least there is: what a breaker says may be over within the same millisecond.
        let waits = if anew || (attempt.goes_on && after.is_some()) { 0 } else { attempt.waits };
        let wait = told.max(self.backoff(waits.saturating_add(1), WAIT_MAX));
        self.settlement(lease, JobEnd::Wait { at: now.plus(wait), reason, anew })
    }

    /// Returns the wait after the try of a number, from 1: doubled each time up to the longest, half of it jitter.
    pub(super) fn backoff(&self, number: u32, longest: Duration) -> Duration {
        let doubled = self.settings.retry_base.saturating_mul(1 << number.saturating_sub(1).min(30));
        doubled.min(longest).mul_f64(0.5 + self.random.unit() / 2.0)
    }

    pub(super) async fn place(&self, id: &ConnectionId) -> Result<Place<'_>, Stop> {
        let known = if id.as_str() == NO_CONNECTION { None } else { self.store.connection(id.clone()).await? };
        self.place_of(id, known)
    }

    /// Returns where the work of a connection happens that was looked up.
    fn place_of(&self, id: &ConnectionId, known: Option<Connection>) -> Result<Place<'_>, Stop> {
        if id.as_str() == NO_CONNECTION {
            return Err(Stop::Dead(
                "it belongs to no connection: what came names no account that can be told".to_owned(),
            ));
        }
        let Some(connection) = known else {
            return Err(Stop::Dead(format!("the connection {id} is not known: connect it and replay")));
        };
        let Some(plugged) = self.providers.get(connection.provider.as_str()) else {
            let provider = &connection.provider;
            return Err(Stop::Dead(format!("the provider {provider} is not built in: add it and replay")));
        };
        let base = connection.base_url.as_deref().unwrap_or(plugged.provider.manifest().base_url);
        let site = Site {
            base_url: base.trim_end_matches('/').to_owned(),
            connection: connection.id.clone(),
            tenant: connection.tenant.clone(),
            account: connection.account.clone(),
            page_size: self.settings.page_size,
        };
        Ok(Place { source: plugged.provider.source(), plugged, connection, site })
    }

    // ---------------------------------------------------------------------------------------------- events

    async fn event(&self, row: EventRow, read: Option<ToHandle>, attempt: u32) -> Result<Finish, Stop> {
        let read = match read {
            Some(read) => Some(read),
            None => self.store.events_to_handle(vec![row]).await?.into_iter().next().flatten(),
        };
        let Some(ToHandle { event, connection }) = read else {
            return Err(Stop::Dead("the event was removed".to_owned()));
        };
        if !self.is_wanted(&event, connection.as_ref()).await? {
            return Ok(Finish::Unwanted);
        }
        let place = self.place_of(&event.connection, connection)?;
        let event = self.whole(event, &place).await?;
        let merges = place.changes_of(&event)?;
        let (effects, calls) = self.handlers(&event, &place, attempt, None).await?;
        self.note_end_of_grant(&event, &place).await?;
        let active = place.connection.state == ConnectionState::Active;
        let follow = if active { self.runs_after(&event, place.source) } else { Vec::new() };
        let mut follow = owned(follow, &place.connection);
        follow.extend(self.forwards(&event, &place).await?);
        Ok(Finish::Done { effects, merges, follow, calls })
    }

    /// Tells whether anybody wants an event by now: what was ignored and is replayed may still be nobody's.
    async fn is_wanted(&self, event: &StoredEvent, connection: Option<&Connection>) -> Result<bool, Stop> {
        if let Some(forwarder) = self.forwarder.as_ref().filter(|forwarder| !forwarder.is_up_to_date()) {
            forwarder.look().await?;
        }
        // Handlers are asked by the connection's provider.
        let provider = connection.map_or(event.provider.as_str(), |connection| connection.provider.as_str());
        Ok(self.wants(provider, &event.event.kind) || self.wants(&event.provider, &event.event.kind))
    }

    /// Fetches an event of which no more than a notice came, where anybody here wants it. One that the provider no longer
    /// has, or that this credential may not read, stays its notice.
    async fn whole(&self, event: StoredEvent, place: &Place<'_>) -> Result<StoredEvent, Stop> {
        match self.retrieved(&event, place).await? {
            Ok(Some(whole)) => Ok(StoredEvent { event: whole, ..event }),
            Ok(None) => Ok(event),
            Err(error) => {
                self.note_refusal(&place.connection.id, &error).await?;
                Err(error.into())
            }
        }
    }

    /// Fetches an event as [`Inner::whole`] does and writes nothing: `None` where what came is all there is.
    pub(super) async fn retrieved(
        &self,
        event: &StoredEvent,
        place: &Place<'_>,
    ) -> Result<Result<Option<Event>, Error>, Stop> {
        let Some(source) = place.source else { return Ok(Ok(None)) };
        let (provider, kind) = (place.connection.provider.as_str(), event.event.kind.as_str());
        let wanted = source.concerns(kind) || self.routes.iter().any(|route| route.wants(provider, kind));
        if !wanted || place.connection.state == ConnectionState::Disconnected {
            return Ok(Ok(None));
        }
        let unread = |error: Error| Stop::Dead(format!("the whole event cannot be read: {}", phrase(&error)));
        let Some(request) = source.complete(&place.site, &event.event).map_err(unread)? else { return Ok(Ok(None)) };
        match self.driver(place, source).send(request).await {
            Ok((response, _)) => Ok(Ok(Some(source.completed(&event.event, &response).map_err(unread)?))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Permission) => {
                tracing::warn!(connection = %place.connection.id, kind, %error, "an event stays its notice");
                Ok(Ok(None))
            }
            // A refusal for another account says nothing of this connection's credential.
            Err(error)
                if error.kind() == ErrorKind::Auth
                    && error.status() == Some(403)
                    && event.event.account.is_some()
                    && event.event.account != place.connection.account =>
            {
                tracing::warn!(connection = %place.connection.id, kind, %error, "an event stays its notice");
                Ok(Ok(None))
            }
            Err(error) => Ok(Err(error)),
        }
    }

    /// Makes the runs an event asks for: of streams it says less of than happened.
    fn runs_after(&self, event: &StoredEvent, source: Option<&dyn Source>) -> Vec<NewJob> {
        let Some(source) = source else { return Vec::new() };
        let key = |stream: StreamName| stream_key(&event.connection, stream.as_str());
        let prompted = source.due(&event.event).into_iter().flat_map(|stream| self.prompted_jobs(&key(stream)));
        let anew = source.resyncs(&event.event).into_iter();
        prompted.chain(anew.map(|stream| self.sync_job(&key(stream), RunMode::Full, When::Now))).collect()
    }

    /// Disconnects a connection whose grant its owner ended at the provider: what is kept of it is dead and is erased.
    async fn note_end_of_grant(&self, event: &StoredEvent, place: &Place<'_>) -> Result<(), Stop> {
        let connection = &place.connection;
        let ends = place.plugged.provider.webhook().is_some_and(|webhook| webhook.ends_grant(&event.event));
        // An event about another account of the same endpoint is not about it, and of one whose account nobody knows
        // (a platform's own key) it cannot be told: the next call will.
        let others = event.event.account.is_some() && event.event.account != connection.account;
        if !ends || others || connection.state == ConnectionState::Disconnected {
            return Ok(());
        }
        // Nor is one from before it was connected, or connected again.
        let grants = self.store.grants(connection.id.clone()).await?;
        let since = grants.iter().map(|grant| grant.issued_at).fold(connection.created_at, Timestamp::max);
        if event.event.created.is_some_and(|created| created < since) {
            return Ok(());
        }
        let (id, kind) = (&connection.id, &event.event.kind);
        tracing::warn!(connection = %id, kind, "the provider says that the grant has ended");
        let ended = grants.into_iter().map(|grant| (grant.key.name, Revocation::Confirmed)).collect();
        self.store.disconnect(id.clone(), ended, self.clock.now()).await?;
        Ok(())
    }

    /// Calls every handler that wants the event, in order; the first that does not finish decides. For a preview their
    /// calls go elsewhere.
    pub(super) async fn handlers(
        &self,
        event: &StoredEvent,
        place: &Place<'_>,
        attempt: u32,
        preview: Option<Arc<dyn Transport>>,
    ) -> Result<(Vec<Effect>, Vec<KeptCall>), Stop> {
        let mut context = Context {
            attempt,
            key: format!("{}/{}/{}", event.provider, event.endpoint, event.event.id),
            effects: Vec::new(),
            calls: Vec::new(),
            preview: preview.is_some(),
            transport: preview.unwrap_or_else(|| place.plugged.transport.clone()),
            site: place.site.clone(),
        };
        let provider = place.connection.provider.as_str();
        for route in self.routes.iter().filter(|route| route.wants(provider, &event.event.kind)) {
            let handling = AssertUnwindSafe(async { route.handler.handle(event, &mut context).await }).catch_unwind();
            let handled = match tokio::time::timeout(self.settings.handler_timeout, handling).await {
                Ok(Ok(handled)) => handled,
                // The panic's own text may hold the event's data.
                Ok(Err(_)) => Handled::Retry { after: None, reason: "the handler panicked".to_owned() },
                Err(_) => {
                    let seconds = self.settings.handler_timeout.as_secs_f64();
                    Handled::Retry { after: None, reason: format!("the handler did not finish in {seconds} s") }
                }
            };
            match handled {
                Handled::Done => {}
                Handled::Retry { after, reason } => return Err(Stop::Retry { after, reason }),
                Handled::Wait { after, reason } => return Err(Stop::Wait { after, reason }),
                Handled::Reject { reason } => return Err(Stop::Dead(reason)),
            }
        }
        let mut calls = Vec::with_capacity(context.calls.len());
        for call in context.calls {
            let kept = self.keep(call).await;
            calls.push(kept.map_err(|error| {
                if matches!(error.kind(), ErrorKind::Store | ErrorKind::Overloaded) {
                    return Stop::from(error);
                }
                Stop::Dead(format!("a call it asks for cannot be made: {}", error.message()))
            })?);
        }
        Ok((context.effects, calls))
    }

    /// Fetches the records a settlement could not order, and puts their reads in the place of what the event said.
    pub(super) async fn resolve(
        &self,
        mut settlement: Settlement,
        attempt: Attempt,
        ids: Vec<(StreamKey, RecordId)>,
    ) -> Settlement {
        match self.fetch(&ids).await {
            Ok(fetched) => {
                for merge in &mut settlement.merges {
                    merge.changes.retain(|change| !ids.iter().any(|(key, id)| *key == merge.key && *id == change.id));
                }
                settlement.merges.retain(|merge| !merge.changes.is_empty());
                settlement.merges.extend(fetched);
                Settlement { now: self.clock.now(), ..settlement }
            }
            Err(Stop::Dead(reason)) => self.settlement(settlement.lease, JobEnd::Dead { reason }),
            Err(Stop::Retry { after, reason }) => self.retry(settlement.lease, attempt, after, reason),
            Err(Stop::Wait { after, reason }) => self.wait(settlement.lease, attempt, after, reason),
        }
    }

    async fn fetch(&self, ids: &[(StreamKey, RecordId)]) -> Result<Vec<Merge>, Stop> {
        let Some((key, _)) = ids.first() else { return Ok(Vec::new()) };
        let place = self.place(&key.connection).await?;
        let Some(source) = place.source else {
            return Err(Stop::Dead("the provider's records cannot be fetched".to_owned()));
        };
        match self.driver(&place, source).fetch(ids).await {
            Ok(merges) => Ok(merges),
            Err(error) => {
                self.note_refusal(&place.connection.id, &error).await?;
                Err(error.into())
            }
        }
    }

    fn driver<'a>(&'a self, place: &'a Place<'_>, source: &'a dyn Source) -> Driver<'a> {
        Driver {
            store: self.store.as_ref(),
            clock: self.clock.as_ref(),
            source,
            transport: place.plugged.transport.as_ref(),
            site: &place.site,
        }
    }

    /// Marks a connection whose credential the provider refused.
    pub(super) async fn note_refusal(&self, id: &ConnectionId, error: &Error) -> Result<()> {
        if error.kind() == ErrorKind::Auth {
            mark_needs_reconnect(self.store.as_ref(), id, error.credential_version(), error.message()).await?;
        }
        Ok(())
    }

    // ---------------------------------------------------------------------------------------------- syncs

    async fn sync(
        &self,
        lease: Lease,
        key: &StreamKey,
        mode: RunMode,
        deletions_approved: u64,
        came_on: &AtomicBool,
        stop: watch::Receiver<bool>,
    ) -> Result<Finish, Stop> {
        let place = self.place(&key.connection).await?;
        let spec = place.source.and_then(|source| {
            let spec = source.streams().iter().find(|spec| spec.name == key.stream.as_str())?;
            Some((source, spec))
        });
        let Some((source, spec)) = spec else {
            return Err(Stop::Dead(format!("the provider has no stream {}", key.stream)));
        };
        let mode = if spec.kind == StreamKind::Events { RunMode::Incremental } else { mode };
        let pace = self.pace(&place.connection, spec).await?;
        // What is paused keeps its turn, and an approval is not forgotten.
        let later = || {
            let mut job = self.sync_job(key, mode, pace.next(mode));
            if deletions_approved > 0 {
                let run_at = self.clock.now().plus(self.settings.run_wait_max());
                job = NewJob { run_at, ..self.approved_job(key.clone(), deletions_approved) };
            }
            Finish::followed_by(owned([job], &place.connection))
        };
        match place.connection.state {
            ConnectionState::Active => {}
            // Its turn comes again, in case it is active by then.
            ConnectionState::Paused | ConnectionState::NeedsReconnect { .. } => return Ok(later()),
            ConnectionState::Disconnected => return self.end_with_account(lease, key).await,
        }
        if let Some(next) = self.left_out(&pace, lease, mode).await? {
            return Ok(Finish::followed_by(owned([next], &place.connection)));
        }
        if pace.before.paused_at.is_some() {
            return Ok(later());
        }
        if spec.kind == StreamKind::Records
            && deletions_approved == 0
            && let Some(jobs) = self.stands_back(lease, key, mode, &pace).await?
        {
            return Ok(Finish::followed_by(owned(jobs, &place.connection)));
        }
        let reading = Reading::of(source, spec, &pace.before);
        if mode == RunMode::Incremental
            && reading != Reading::Own
            && let Some(jobs) = self.without_position(key, reading).await?
        {
            return Ok(Finish::followed_by(owned(jobs, &place.connection)));
        }
        let provider = place.connection.provider.as_str();
        let mut next = vec![self.sync_job(key, mode, pace.next(mode))];
        let mut again = self.sync_job(key, mode, When::Now);
        let resync = match spec.kind {
            StreamKind::Events => {
                next.extend(self.missing_full_runs(source, &key.connection).await?);
                self.full_runs(source, &key.connection)
            }
            StreamKind::Records => {
                // A full run whose own cursor went stale begins again, but not in a tight circle.
                again.run_at = self.clock.now().plus(self.settings.run_wait_max());
                vec![self.sync_job(key, RunMode::Full, When::Now)]
            }
        };
        let connection = &place.connection;
        let (next, resync, again) = (owned(next, connection), owned(resync, connection), owned_one(again, connection));
        let incremental = self.sync_job(key, RunMode::Incremental, pace.next(RunMode::Incremental));
        let incremental = Some(owned_one(incremental, connection));
        if let Some(forwarder) = self.forwarder.as_ref().filter(|forwarder| !forwarder.is_up_to_date()) {
            // Or an event that only a new destination wants would be found and left.
            forwarder.look().await?;
        }
        let meters = self.metrics.run(provider, key.stream.as_str());
        let mut endpoints = (self.endpoints_of)(connection);
        if endpoints.is_empty() {
            endpoints.push(EndpointId::new(connection.id.as_str()));
        }
        let task = Task {
            lease,
            key: key.clone(),
            kind: spec.kind,
            mode,
            provider,
            endpoints: &endpoints,
            wants: &|kind| self.wants(provider, kind),
            priority: &|kind| self.priority(kind),
            next,
            incremental,
            resync,
            again,
            deletions_approved,
            committed: &|pages, counts| meters.committed(pages, &counts),
            came_on: &|| came_on.store(true, Ordering::Relaxed),
            read_ahead: self.settings.read_ahead,
            stop,
        };
        match self.driver(&place, source).run(&task).await {
            Ended::Finished(run) => {
                self.metrics.ended(provider, &run);
                self.quicken(&pace, &run).await;
                Ok(Finish::Ended)
            }
            Ended::Failed(run, error) => {
                self.metrics.ended(provider, &run);
                tracing::warn!(connection = %key.connection, stream = %key.stream, %error, "the run failed");
                if let Err(error) = self.note_refusal(&key.connection, &error).await {
                    // The next run is refused again.
                    tracing::warn!(connection = %key.connection, %error, "the connection could not be marked");
                }
                Ok(Finish::Ended)
            }
            Ended::Later(error) => Err(error.into()),
            Ended::Stopped => Ok(Finish::Stopped),
            Ended::Paused => Ok(later()),
            Ended::LeaseLost => Ok(Finish::Lost),
            // Whoever ended it wants it anew, and could not say so while this job was in the way.
            Ended::Superseded => {
                let when = if mode == RunMode::Full { When::Now } else { pace.next(mode) };
                Ok(Finish::followed_by(owned([self.sync_job(key, mode, when)], &place.connection)))
            }
        }
    }

    /// Tells what a run of a stream would do now, without writing anything.
    pub(super) async fn dry_run(&self, key: &StreamKey, mode: RunMode, pages_max: u32) -> Result<DryRun> {
        let place = self.place(&key.connection).await.map_err(|stop| match stop {
            Stop::Dead(reason) => Error::new(ErrorKind::Invalid, reason),
            Stop::Retry { reason, after } | Stop::Wait { reason, after } => {
                Error::new(ErrorKind::Store, reason).with_retry_after(after)
            }
        })?;
        let streams = place.source.map(|source| (source, source.streams()));
        let spec = streams.and_then(|(source, specs)| {
            Some((source, specs.iter().find(|spec| spec.name == key.stream.as_str())?.kind))
        });
        let Some((source, kind)) = spec else {
            return Err(Error::new(ErrorKind::NotFound, "the provider has no such stream"));
        };
        if place.connection.state == ConnectionState::Disconnected {
            return Err(Error::new(ErrorKind::Auth, "the account is disconnected"));
        }
        let mode = self.readable(source, key, mode).await?;
        self.driver(&place, source).dry_run(key, kind, mode, pages_max).await
    }

    // ---------------------------------------------------------------------------------------------- chores

    async fn retention(&self, stop: &watch::Receiver<bool>) -> Result<Finish, Stop> {
        let before = self.clock.now().minus(self.settings.retention);
        let forget = self.clock.now().minus(NAMES_KEPT);
        let all = u64::from(PRUNED_AT_ONCE);
        // Once past all of them: what has to stay costs a look, and holds nothing back that stands behind it.
        let mut after = None;
        while !*stop.borrow() {
            after = self.store.prune_events(before, forget, after, PRUNED_AT_ONCE).await?.next;
            if after.is_none() {
                break;
            }
        }
        if let Some(most) = self.settings.inbox_bytes_max {
            let mut after = None;
            while !*stop.borrow() {
                after = self.store.prune_inbox(most, forget, after, PRUNED_AT_ONCE).await?.next;
                if after.is_none() {
                    break;
                }
            }
        }
        while self.store.forget_events(forget, PRUNED_AT_ONCE).await? == all && !*stop.borrow() {}
        while self.store.prune_jobs(before, PRUNED_AT_ONCE).await? == all && !*stop.borrow() {}
        while self.store.prune_calls(before, PRUNED_AT_ONCE).await? == all && !*stop.borrow() {}
        while self.store.prune_runs(before, PRUNED_AT_ONCE).await? == all && !*stop.borrow() {}
        // Each may be as large as a page of the database.
        let some = PRUNED_AT_ONCE / 10;
        while self.store.prune_bad_records(before, some).await? == u64::from(some) && !*stop.borrow() {}
        let gone = self.clock.now().minus(self.settings.feed_horizon.max(FEED_HORIZON_MIN));
        while self.store.compact_feed(gone, PRUNED_AT_ONCE).await? == all && !*stop.borrow() {}
        while self.store.prune_outbox(before, PRUNED_AT_ONCE).await? == all && !*stop.borrow() {}
        // What is over holds nobody back: there is nothing to keep it for.
        let now = self.clock.now();
        while self.store.prune_pauses(now, PRUNED_AT_ONCE).await? == all && !*stop.borrow() {}
        Ok(Finish::followed_by(vec![self.retention_job()]))
    }
}

/// How a job came to its end, other than with an error.
pub(super) enum Finish {
    /// Done, with what it brings to its settlement.
    Done { effects: Vec<Effect>, merges: Vec<Merge>, follow: Vec<NewJob>, calls: Vec<KeptCall> },
    /// An event that nobody wants.
    Unwanted,
    /// It comes again at this moment, whatever its waits were; no attempt is counted.
    Later(Timestamp, String),
    /// A call of the outbox, with what it came to.
    Called(JobEnd, Box<CallResult>),
    /// It ended with its run: nothing is left to settle.
    Ended,
    /// It was asked to stop before its end.
    Stopped,
    /// Another worker has it.
    Lost,
}

impl Finish {
    pub(super) fn followed_by(follow: Vec<NewJob>) -> Self {
        Self::Done { effects: Vec::new(), merges: Vec::new(), follow, calls: Vec::new() }
    }
}

/// Groups an event's changes by stream, in order.
pub(super) fn by_stream(connection: &ConnectionId, changes: Vec<Change>) -> Vec<Merge> {
    let mut merges: Vec<Merge> = Vec::new();
    for change in changes {
        let key = stream_key(connection, change.stream.as_str());
        match merges.iter_mut().find(|merge| merge.key == key) {
            Some(merge) => merge.changes.push(change),
            None => merges.push(Merge { key, read_since: None, changes: vec![change] }),
        }
    }
    merges
}

//! The facts behind the operations page and the API, read once for both. Every list is bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use palisade_core::forward::Standing;
use palisade_core::health::{Actor, Health, Observations, StreamObservation, WatchFailing, health, silence};
use palisade_core::store::{
    CallCounts, CallRecord, CallState, Connection, DeadLetters, DisabledBy, EventState, ForwardCounts, Halt, Heard,
    JobCounts, OutboxCall, Run, RunId, RunMode, RunState, StoredDestination, StoredEvent, StreamStatus,
};
use palisade_core::sync::{Source, StreamKind, StreamSpec};
use palisade_core::worker::{ChoreStatus, StreamTimings, Timing};
use palisade_core::{ConnectionId, ErrorKind, Result, StreamName, Timestamp};

use crate::hub::Shared;
use crate::routes::runs::{healed, not_run, patience};
use crate::routes::{Problem, status};

/// Connections on the page.
const CONNECTIONS_SHOWN: u32 = 50;
/// Runs, dead letters and calls on the page.
const ROWS_SHOWN: u32 = 20;
/// Pauses shorter than this are not told: they are over before anybody has read of them.
const HELD_TOLD: Duration = Duration::from_secs(2);
/// The window of the error rate.
const RATE_WINDOW: Duration = Duration::from_secs(24 * 3_600);

/// Everything the page shows.
#[derive(Debug)]
pub(crate) struct Overview {
    pub(crate) now: Timestamp,
    pub(crate) not_ready: Vec<&'static str>,
    pub(crate) connections: Vec<ConnectionView>,
    pub(crate) more_connections: bool,
    pub(crate) events: EventCounts,
    pub(crate) jobs: JobCounts,
    pub(crate) dead: Vec<StoredEvent>,
    /// Dead letters by cause.
    pub(crate) causes: Vec<DeadLetters>,
    /// Whose events are paused.
    pub(crate) halts: Vec<(Halt, Timestamp)>,
    pub(crate) runs: Vec<Run>,
    /// How long a run may make no progress.
    pub(crate) patience: Duration,
    pub(crate) calls: Vec<CallRecord>,
    /// What the hub does for itself, and when.
    pub(crate) chores: Vec<ChoreStatus>,
    pub(crate) outbox: BTreeMap<CallState, u64>,
    /// Calls nobody knows of, and those given up.
    pub(crate) outbox_review: Vec<OutboxCall>,
    pub(crate) outbox_failed: Vec<OutboxCall>,
    /// The names of the flows accounts can be connected by.
    pub(crate) flows: Vec<String>,
    pub(crate) destinations: Vec<(StoredDestination, Standing)>,
    /// What waits for each of them, and what was given up.
    pub(crate) forwards: BTreeMap<String, ForwardCounts>,
}

/// Events by state.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EventCounts {
    pub(crate) pending: u64,
    pub(crate) done: u64,
    pub(crate) ignored: u64,
    pub(crate) dead: u64,
}

/// One connection with what is known of it.
#[derive(Debug)]
pub(crate) struct ConnectionView {
    /// The runs that wait for somebody to decide.
    pub(crate) in_review: Vec<Run>,
    pub(crate) connection: Connection,
    /// The provider's name for people.
    pub(crate) title: &'static str,
    pub(crate) health: Health,
    /// Until when its calls are held back.
    pub(crate) held_until: Option<Timestamp>,
    /// When the stalest of its streams was last brought up to date; `None` while one never was.
    pub(crate) fresh_at: Option<Timestamp>,
    pub(crate) calls: CallCounts,
    pub(crate) dead_letters: u64,
    pub(crate) streams: Vec<StreamView>,
    /// What the newest walk that found events missing brought, in words.
    pub(crate) healed: Option<String>,
    /// How it can be connected again.
    pub(crate) reconnect: Reconnect,
}

/// How a connection can be connected again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reconnect {
    /// In a browser, at the provider.
    Flow,
    /// With the credential of its configuration.
    Configured,
    /// Not at all: there is neither.
    Nothing,
}

/// One stream with how it stands.
#[derive(Debug)]
pub(crate) struct StreamView {
    pub(crate) name: &'static str,
    pub(crate) kind: StreamKind,
    pub(crate) status: StreamStatus,
    /// How often its runs come.
    pub(crate) timings: Option<StreamTimings>,
}

impl Overview {
    /// Counts what somebody must look at.
    pub(crate) fn attention(&self) -> u64 {
        let ours = |view: &&ConnectionView| matches!(view.health.who_acts, Actor::User | Actor::Operator);
        let waiting = self.connections.iter().filter(ours).count() as u64;
        // Dead letters of a connection that is shown are told with it.
        let told = self.connections.iter().any(|view| view.dead_letters > 0);
        let gave_up = |row: &StoredDestination| self.forwards.get(&row.name).is_some_and(|counts| counts.dead > 0);
        let look = |(row, standing): &&(_, _)| is_worth_a_look(row, *standing) || gave_up(row);
        let failing = self.destinations.iter().filter(look).count() as u64;
        waiting + failing + u64::from(self.events.dead > 0 && !told)
    }
}

/// Tells whether somebody must look at a destination: it fails, or was disabled by somebody else than a person.
fn is_worth_a_look(row: &StoredDestination, standing: Standing) -> bool {
    match standing {
        Standing::Active | Standing::Retrying | Standing::Paused => false,
        Standing::Failing => true,
        Standing::Disabled => row.health.disabled.as_ref().is_some_and(|disabled| disabled.by != DisabledBy::Person),
    }
}

/// Reads the destinations with how they stand.
pub(crate) async fn destinations(shared: &Shared) -> Result<Vec<(StoredDestination, Standing)>> {
    let now = shared.clock.now();
    let rows = shared.forwarder.destinations().await?;
    let standing = |row: &StoredDestination| shared.forwarder.settings().standing(row, now);
    Ok(rows.into_iter().map(|row| (standing(&row), row)).map(|(standing, row)| (row, standing)).collect())
}

/// Reads everything the page shows.
pub(crate) async fn overview(shared: &Shared) -> Result<Overview> {
    let store = &shared.store;
    let (connections, more_connections) = connections(shared, None, CONNECTIONS_SHOWN).await?;
    let counts = store.event_counts().await?;
    let of = |state| counts.get(&state).copied().unwrap_or(0);
    let events = EventCounts {
        pending: of(EventState::Pending),
        done: of(EventState::Done),
        ignored: of(EventState::Ignored),
        dead: of(EventState::Dead),
    };
    let destinations = destinations(shared).await?;
    let names = destinations.iter().map(|(row, _)| row.name.clone()).collect();
    let mut runs = store.runs(None, ROWS_SHOWN).await?;
    // Those that somebody must decide on come first, however many have come since.
    let waiting = connections.iter().flat_map(|view| &view.in_review);
    let waiting: Vec<Run> = waiting.filter(|run| runs.iter().all(|shown| shown.id != run.id)).cloned().collect();
    runs.splice(0..0, waiting);
    Ok(Overview {
        now: shared.clock.now(),
        not_ready: status::reasons(shared).await,
        connections,
        more_connections,
        events,
        jobs: store.job_counts().await?,
        dead: store.events(Some(EventState::Dead), None, ROWS_SHOWN).await?.events,
        causes: store.dead_letters(ROWS_SHOWN).await?,
        halts: store.halts(ROWS_SHOWN).await?,
        runs,
        patience: patience(shared),
        calls: store.calls(None, ROWS_SHOWN).await?,
        chores: shared.worker.chores().await?,
        outbox: store.outbox_counts().await?,
        outbox_review: store.outbox(Some(CallState::Review), None, ROWS_SHOWN).await?,
        outbox_failed: store.outbox(Some(CallState::Failed), None, ROWS_SHOWN).await?,
        flows: shared.connector.browser_flows().map(str::to_owned).collect(),
        destinations,
        forwards: store.forward_counts(names).await?,
    })
}

/// Reads up to `limit` connections after one, and whether there are more.
pub(crate) async fn connections(
    shared: &Shared,
    after: Option<ConnectionId>,
    limit: u32,
) -> Result<(Vec<ConnectionView>, bool)> {
    let mut list = shared.store.connections(after, limit + 1).await?;
    let more = list.len() > limit as usize;
    list.truncate(limit as usize);
    let ids = list.iter().map(|connection| connection.id.clone()).collect();
    let dead = shared.store.dead_counts(ids).await?;
    let mut views = Vec::with_capacity(list.len());
    for connection in list {
        views.push(judge(shared, connection, &dead).await?);
    }
    Ok((views, more))
}

/// Reads what is known of one connection and judges it.
pub(crate) async fn view(shared: &Shared, connection: Connection) -> Result<ConnectionView> {
    let dead = shared.store.dead_counts(vec![connection.id.clone()]).await?;
    judge(shared, connection, &dead).await
}

async fn judge(shared: &Shared, connection: Connection, dead: &BTreeMap<ConnectionId, u64>) -> Result<ConnectionView> {
    let store = &shared.store;
    let now = shared.clock.now();
    let id = connection.id.clone();
    let known = store.streams(id.clone()).await?;
    let status_of = |name: &str| known.iter().find(|(known, _)| known.as_str() == name).map(|(_, s)| s.clone());
    let mut timings = shared.worker.schedules(&connection).await?.into_iter();
    let streams: Vec<StreamView> = specs(shared, &connection.provider)
        .iter()
        .map(|spec| StreamView {
            name: spec.name,
            kind: spec.kind,
            status: status_of(spec.name).unwrap_or_default(),
            timings: timings.next(),
        })
        .collect();
    let mut runs = store.newest_runs(id.clone()).await?;
    // Of a stream that is no longer kept nothing is to be seen to.
    runs.retain(|run| streams.iter().any(|stream| stream.name == run.key.stream.as_str()));
    let calls = store.call_counts(id.clone(), now.minus(RATE_WINDOW)).await?;
    let dead_letters = dead.get(&id).copied().unwrap_or(0);
    let counted = |judge: fn(&Run) -> bool| u32::try_from(runs.iter().filter(|run| judge(run)).count()).unwrap_or(0);
    let held_until = held_until(shared, &connection, now).await;
    let health = health(&Observations {
        now,
        state: connection.state.clone(),
        configured: shared.configured(&id).is_some(),
        calls,
        streams: observed(&streams, &runs),
        runs_failed: counted(
            |run| matches!(&run.state, RunState::Failed { kind, .. } if *kind != ErrorKind::Cancelled),
        ),
        runs_in_review: counted(|run| matches!(run.state, RunState::Review { .. })),
        runs_stalled: counted_stalled(&runs, now, patience(shared)),
        dead_letters,
        calls_in_review: store.review_counts(vec![id.clone()]).await?.values().sum(),
        endpoint_silent: silence(&heard(shared, &connection).await?, now),
        held_until,
        watch_failing: watch_failing(shared, &connection).await?,
    });
    let healed = store.healings(id.clone(), 1).await?.first().map(healed);
    let fresh_at = health.freshness.map(|age| now.minus(age));
    let title = shared.providers.get(connection.provider.as_str()).map_or("?", |provider| provider.manifest().title);
    let reconnect = reconnect(shared, &connection);
    let in_review = runs.into_iter().filter(|run| matches!(run.state, RunState::Review { .. })).collect();
    Ok(ConnectionView {
        in_review,
        connection,
        title,
        health,
        held_until,
        fresh_at,
        calls,
        dead_letters,
        streams,
        healed,
        reconnect,
    })
}

fn counted_stalled(runs: &[Run], now: Timestamp, patience: Duration) -> u32 {
    u32::try_from(runs.iter().filter(|run| run.is_stalled(now, patience)).count()).unwrap_or(u32::MAX)
}

/// Says how a connection can be connected again. One of the configuration has its credential there.
pub(crate) fn reconnect(shared: &Shared, connection: &Connection) -> Reconnect {
    let flow = connection.environment.flow(&connection.provider);
    if shared.configured(&connection.id).is_some() {
        return Reconnect::Configured;
    }
    if shared.connector.browser_flows().any(|known| known == flow) { Reconnect::Flow } else { Reconnect::Nothing }
}

/// Reads how events come to a connection's endpoints. One that has none is not waited for.
async fn heard(shared: &Shared, connection: &Connection) -> Result<Vec<Heard>> {
    let mut heard = Vec::new();
    for endpoint in shared.endpoints.values().filter(|endpoint| endpoint.serves(connection)) {
        heard.extend(shared.store.heard(endpoint.id_for(&connection.id)).await?);
    }
    Ok(heard)
}

/// Returns the push channel that ends first of those that could not be renewed; one that is not open ends before any.
async fn watch_failing(shared: &Shared, connection: &Connection) -> Result<Option<WatchFailing>> {
    let watches = shared.worker.watches(connection).await?;
    let failing = watches.into_iter().filter_map(|watch| {
        Some(WatchFailing { ends_at: watch.open.and_then(|open| open.expires_at), reason: watch.failing? })
    });
    Ok(failing.min_by_key(|failing| failing.ends_at))
}

/// Returns until when the connection's calls are held back, if that is worth a word.
async fn held_until(shared: &Shared, connection: &Connection, now: Timestamp) -> Option<Timestamp> {
    let client = shared.clients.get(connection.provider.as_str())?;
    let manifest = shared.providers.get(connection.provider.as_str())?.manifest();
    let base_url = connection.base_url.as_deref().unwrap_or(manifest.base_url);
    client.held_until(&connection.id, base_url).await.filter(|until| until.since(now) >= HELD_TOLD)
}

/// Says how fresh each stream is. Where the provider lists its events, a walk over them brings every stream up to date
/// that was once listed in full; otherwise a stream with a cursor has incremental runs, and one without only full ones.
fn observed(streams: &[StreamView], runs: &[Run]) -> Vec<StreamObservation> {
    fn incremental(stream: &StreamView) -> Option<&Timing> {
        stream.timings.as_ref()?.incremental.as_ref()
    }
    fn full(stream: &StreamView) -> Option<&Timing> {
        stream.timings.as_ref()?.full.as_ref()
    }
    let walks = streams.iter().filter(|stream| stream.kind == StreamKind::Events).find_map(incremental);
    let walk = streams.iter().filter(|stream| stream.kind == StreamKind::Events);
    let walked = walk.filter_map(|stream| stream.status.fresh_at).max();
    let one = |stream: &StreamView| {
        let listed = stream.status.fresh_at;
        let own = incremental(stream).filter(|_| stream.status.cursor.is_some());
        let timing = walks.or(own).or_else(|| full(stream));
        let fresh_at = listed.map(|at| walked.map_or(at, |walked| at.max(walked)));
        StreamObservation {
            fresh_at,
            late_at: timing.zip(fresh_at).map(|(timing, at)| timing.late_at(at)),
            running: runs.iter().any(|run| run.key.stream.as_str() == stream.name && run.state == RunState::Running),
        }
    };
    streams.iter().map(one).collect()
}

fn specs(shared: &Shared, provider: &str) -> &'static [StreamSpec] {
    let source = shared.providers.get(provider).and_then(|provider| provider.source());
    source.map_or(&[], Source::streams)
}

/// Returns the names of a provider's streams; none for one that is not part of the hub.
pub(crate) fn stream_names(shared: &Shared, provider: &str) -> Vec<&'static str> {
    specs(shared, provider).iter().map(|spec| spec.name).collect()
}

/// Enqueues the runs that bring a connection up to date, or that list everything anew; returns their streams. Where the
/// provider lists its events, the incremental run is one walk over them.
pub(crate) async fn sync_all(shared: &Shared, id: &ConnectionId, mode: RunMode) -> Result<Vec<&'static str>, Problem> {
    let connection = shared.store.connection(id.clone()).await?;
    let connection = connection.ok_or_else(|| Problem::missing("there is no such connection"))?;
    let specs = specs(shared, &connection.provider);
    let walks = mode == RunMode::Incremental && specs.iter().any(|spec| spec.kind == StreamKind::Events);
    let kind = if walks { StreamKind::Events } else { StreamKind::Records };
    let names: Vec<_> = specs.iter().filter(|spec| spec.kind == kind).map(|spec| spec.name).collect();
    for name in &names {
        shared.worker.sync_now(id, &StreamName::new(*name), mode).await.map_err(not_run)?;
    }
    Ok(names)
}

/// Approves the deletions of a run, if it waits for review and no newer one has taken its place.
pub(crate) async fn approve_run(shared: &Shared, run: RunId) -> Result<(), Problem> {
    let Err(error) = shared.worker.approve(run).await else { return Ok(()) };
    if error.kind() == ErrorKind::NotFound {
        return Err(Problem::missing("this run does not wait for review"));
    }
    if error.kind() == ErrorKind::Conflict {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "superseded",
            error.message().to_owned(),
            "look at the newest full run of the stream, once it has ended, and decide on that one",
        ));
    }
    Err(error.into())
}

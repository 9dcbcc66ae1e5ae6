//! The facts behind the operations page and the API, read once for both. Every list is bounded.

use std::time::Duration;

use crate::shim::health::{Health, Observations, Who, health};
use palisade_core::store::{
    CallCounts, CallRecord, Connection, EventState, JobCounts, Run, RunMode, StoredEvent, StreamStatus,
};
use palisade_core::sync::{Source, StreamKind, StreamSpec};
use palisade_core::{ConnectionId, Result, StreamName, Timestamp};

use crate::hub::Shared;
use crate::routes::Problem;
use crate::routes::status;

/// Connections on the page.
const CONNECTIONS_SHOWN: u32 = 50;
/// Runs, dead letters and calls on the page.
const ROWS_SHOWN: u32 = 20;
/// Runs read for a connection's health.
const RUNS_JUDGED: u32 = 50;
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
    pub(crate) runs: Vec<Run>,
    pub(crate) calls: Vec<CallRecord>,
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
    pub(crate) connection: Connection,
    /// The provider's name for people.
    pub(crate) title: &'static str,
    pub(crate) health: Health,
    /// When the stalest of its streams was last brought up to date; `None` while one never was.
    pub(crate) fresh_at: Option<Timestamp>,
    pub(crate) calls: CallCounts,
    pub(crate) streams: Vec<(StreamName, StreamStatus)>,
}

impl Overview {
    /// Counts what somebody must look at.
    pub(crate) fn attention(&self) -> u64 {
        let waiting = self.connections.iter().filter(|view| view.health.who != Who::Nobody).count() as u64;
        waiting + u64::from(self.events.dead > 0)
    }
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
    Ok(Overview {
        now: shared.clock.now(),
        not_ready: status::reasons(shared).await,
        connections,
        more_connections,
        events,
        jobs: store.job_counts().await?,
        dead: store.events(Some(EventState::Dead), None, ROWS_SHOWN).await?,
        runs: store.runs(None, ROWS_SHOWN).await?,
        calls: store.calls(None, ROWS_SHOWN).await?,
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
    let mut views = Vec::with_capacity(list.len());
    for connection in list {
        views.push(view(shared, connection).await?);
    }
    Ok((views, more))
}

/// Reads what is known of one connection and judges it.
pub(crate) async fn view(shared: &Shared, connection: Connection) -> Result<ConnectionView> {
    let store = &shared.store;
    let now = shared.clock.now();
    let id = connection.id.clone();
    let known = store.streams(id.clone()).await?;
    let streams: Vec<(StreamName, StreamStatus)> = stream_names(shared, &connection.provider)
        .into_iter()
        .map(|name| {
            let status = known.iter().find(|(known, _)| known.as_str() == name).map(|(_, status)| status.clone());
            (StreamName::new(name), status.unwrap_or_default())
        })
        .collect();
    let runs = store.runs(Some(id.clone()), RUNS_JUDGED).await?;
    let calls = store.call_counts(id, now.minus(RATE_WINDOW)).await?;
    let observed = Observations {
        now,
        connection: &connection,
        streams: &streams,
        runs: &runs,
        calls,
        incremental_every: shared.settings.worker.incremental_every,
    };
    let health = health(&observed);
    let fresh_at = fresh_at(shared, &connection.provider, &streams);
    let title = shared.providers.get(connection.provider.as_str()).map_or("?", |provider| provider.manifest().title);
    Ok(ConnectionView { connection, title, health, fresh_at, calls, streams })
}

/// Tells since when the records equal the provider's: the moment of its stalest stream, which is what a person can
/// rely on. Where the provider lists its events, a walk over them brings every stream up to date.
fn fresh_at(shared: &Shared, provider: &str, streams: &[(StreamName, StreamStatus)]) -> Option<Timestamp> {
    let specs = specs(shared, provider);
    let of_kind = |kind: StreamKind| {
        let named = move |name: &StreamName| specs.iter().any(|spec| spec.name == name.as_str() && spec.kind == kind);
        streams.iter().filter(move |(name, _)| named(name)).map(|(_, status)| status.fresh_at)
    };
    let walked = of_kind(StreamKind::Events).flatten().max();
    // `None` is smaller than any moment: one stream that never ended a run decides.
    let listed = of_kind(StreamKind::Records).min().unwrap_or(walked)?;
    Some(walked.map_or(listed, |walked| walked.max(listed)))
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
        shared.worker.sync_now(id, &StreamName::new(*name), mode).await?;
    }
    Ok(names)
}

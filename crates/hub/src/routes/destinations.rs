//! `/api/v1/destinations`: where events are forwarded to, and what people do with it. A signing key is shown once, in the
//! answer that makes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, Query, State as Of};
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use bytes::Bytes;
use maud::html;
use palisade_core::forward::{Answer, ForwardSettings, Replay};
use palisade_core::net::{Network, Reach};
use palisade_core::store::{
    DeadForward, DestinationSpec, DisabledBy, EventRow, Filter, ForwardCounts, Order, Store, StoredDestination,
    StoredEvent,
};
use palisade_core::{Error, ErrorKind, Secret, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use super::api::Asked;
use super::{Problem, admin, json, pages};
use crate::config::{CONCURRENCY, TIMEOUT};
use crate::hub::Shared;
use crate::time::{parse_rfc3339, rfc3339};

/// Events a replay looks at when it names no limit.
pub(crate) const REPLAY_LIMIT: u32 = 10_000;
/// The most events a replay looks at.
pub(crate) const REPLAY_LIMIT_MAX: u32 = 100_000;
/// The longest both keys may sign.
pub(crate) const OVERLAP_MAX: Duration = Duration::from_secs(30 * 86_400);

type Name = Result<Path<String>, PathRejection>;
type Done = Result<Response, Problem>;

fn named(name: Name) -> Result<String, Problem> {
    name.map(|Path(name)| name).map_err(|_| Problem::unreadable_address())
}

fn problem(error: &Error) -> Problem {
    let (kind, message) = (error.kind(), error.message().to_owned());
    if kind == ErrorKind::NotFound {
        return Problem::new(StatusCode::NOT_FOUND, "not_found", message, "GET /api/v1/destinations lists them");
    }
    if kind == ErrorKind::Conflict {
        return Problem::new(StatusCode::CONFLICT, "conflict", message, "look at the destination first");
    }
    if matches!(kind, ErrorKind::Invalid | ErrorKind::Config) {
        return Problem::invalid(message, "change the request");
    }
    Problem::store(error)
}

/// What a request says a destination is. What it leaves out stays, or is as usual.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecIn {
    name: Option<String>,
    secret: Option<String>,
    url: Option<String>,
    types: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    provider: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    connection: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    tenant: Option<Option<String>>,
    concurrency: Option<u32>,
    timeout_seconds: Option<u64>,
    headers: Option<BTreeMap<String, String>>,
    order: Option<Order>,
    allow_private: Option<bool>,
    allow_networks: Option<Vec<Network>>,
    allow_http: Option<bool>,
}

/// Tells `null` from nothing.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl SpecIn {
    fn read(body: &Bytes) -> Result<Self, Problem> {
        serde_json::from_slice(body).map_err(|_| {
            Problem::invalid(
                "the body is not a destination",
                "send {\"name\":…,\"url\":…} and perhaps types, provider, connection, tenant, secret, concurrency, \
                 timeout_seconds, headers, order, allow_private, allow_networks, allow_http",
            )
        })
    }

    fn onto(self, spec: DestinationSpec) -> DestinationSpec {
        let Filter { provider, connection, tenant, types } = spec.filter;
        DestinationSpec {
            url: self.url.unwrap_or(spec.url),
            filter: Filter {
                provider: self.provider.unwrap_or(provider),
                connection: self.connection.map_or(connection, |new| new.map(Into::into)),
                tenant: self.tenant.map_or(tenant, |new| new.map(Into::into)),
                types: self.types.unwrap_or(types),
            },
            concurrency: self.concurrency.unwrap_or(spec.concurrency),
            timeout: self.timeout_seconds.map_or(spec.timeout, Duration::from_secs),
            headers: self.headers.map_or(spec.headers, |new| new.into_iter().collect()),
            order: self.order.unwrap_or(spec.order),
            reach: Reach {
                private: self.allow_private.unwrap_or(spec.reach.private),
                networks: self.allow_networks.unwrap_or(spec.reach.networks),
                plain: self.allow_http.unwrap_or(spec.reach.plain),
            },
        }
    }
}

/// What a new destination is where its request says nothing.
pub(crate) fn usual() -> DestinationSpec {
    DestinationSpec {
        url: String::new(),
        filter: Filter { types: vec!["*".to_owned()], ..Filter::default() },
        concurrency: CONCURRENCY,
        timeout: TIMEOUT,
        headers: Vec::new(),
        order: Order::None,
        reach: Reach::default(),
    }
}

/// A destination as it is told outside.
#[derive(Serialize)]
pub(crate) struct DestinationOut<'a> {
    name: &'a str,
    configured: bool,
    url: &'a str,
    types: &'a [String],
    provider: Option<&'a str>,
    connection: Option<&'a str>,
    tenant: Option<&'a str>,
    concurrency: u32,
    timeout_seconds: f64,
    headers: BTreeMap<&'a str, &'a str>,
    order: Order,
    allow_private: bool,
    allow_networks: &'a [Network],
    allow_http: bool,
    keys: Vec<KeyOut>,
    created_at: String,
    state: &'static str,
    failures: u32,
    failing_since: Option<String>,
    failed_at: Option<String>,
    reason: Option<&'a str>,
    delivered_at: Option<String>,
    disabled: Option<DisabledOut<'a>>,
    paused_at: Option<String>,
    /// Events that wait for it, as far as they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<u64>,
    /// Events that were given up, as far as they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: Option<u64>,
}

#[derive(Serialize)]
struct KeyOut {
    version: u64,
    signs_until: Option<String>,
}

#[derive(Serialize)]
struct DisabledOut<'a> {
    at: String,
    by: DisabledBy,
    reason: &'a str,
}

impl<'a> DestinationOut<'a> {
    pub(crate) fn of(shared: &Shared, row: &'a StoredDestination) -> Self {
        Self::at(shared.forwarder.settings(), shared.clock.now(), row)
    }

    /// Shows it as it stands at a moment.
    pub(crate) fn at(settings: &ForwardSettings, now: Timestamp, row: &'a StoredDestination) -> Self {
        let (spec, health) = (&row.spec, &row.health);
        let live = row.keys.iter().filter(|key| key.until.is_none_or(|until| now < until));
        Self {
            name: &row.name,
            configured: row.configured,
            url: &spec.url,
            types: &spec.filter.types,
            provider: spec.filter.provider.as_deref(),
            connection: spec.filter.connection.as_ref().map(|id| id.as_str()),
            tenant: spec.filter.tenant.as_ref().map(|id| id.as_str()),
            concurrency: spec.concurrency,
            timeout_seconds: spec.timeout.as_secs_f64(),
            headers: spec.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            order: spec.order,
            allow_private: spec.reach.private,
            allow_networks: &spec.reach.networks,
            allow_http: spec.reach.plain,
            keys: live.map(|key| KeyOut { version: key.version, signs_until: key.until.map(rfc3339) }).collect(),
            created_at: rfc3339(row.created_at),
            state: settings.standing(row, now).as_str(),
            failures: health.failures,
            failing_since: health.failing_since.map(rfc3339),
            failed_at: health.failed_at.map(rfc3339),
            reason: health.reason.as_deref(),
            delivered_at: health.delivered_at.map(rfc3339),
            disabled: health.disabled.as_ref().map(|disabled| DisabledOut {
                at: rfc3339(disabled.at),
                by: disabled.by,
                reason: &disabled.reason,
            }),
            paused_at: row.paused_at.map(rfc3339),
            waiting: None,
            dead: None,
        }
    }

    /// Tells as well what waits for it and what was given up.
    pub(crate) fn counted(self, counts: Option<&ForwardCounts>) -> Self {
        let (waiting, dead) = (counts.map(|counts| counts.waiting), counts.map(|counts| counts.dead));
        Self { waiting, dead, ..self }
    }
}

/// Shows one with what stands for it.
async fn shown(shared: &Shared, row: &StoredDestination) -> Done {
    let counts = shared.forwarder.counts(vec![row.name.clone()]).await?;
    Ok(json(&DestinationOut::of(shared, row).counted(counts.get(&row.name))))
}

/// Lists the destinations.
pub(crate) async fn list(Of(shared): Of<Arc<Shared>>) -> Done {
    let rows = shared.forwarder.destinations().await?;
    let counts = shared.forwarder.counts(rows.iter().map(|row| row.name.clone()).collect()).await?;
    let out = |row| DestinationOut::of(&shared, row);
    let list: Vec<_> = rows.iter().map(|row| out(row).counted(counts.get(&row.name))).collect();
    Ok(json(&json!({ "destinations": list })))
}

/// Shows one.
pub(crate) async fn show(Of(shared): Of<Arc<Shared>>, name: Name) -> Done {
    let row = shared.forwarder.destination(&named(name)?).await.map_err(|error| problem(&error))?;
    shown(&shared, &row).await
}

/// Makes one. The answer shows its key, once.
pub(crate) async fn create(Of(shared): Of<Arc<Shared>>, body: Bytes) -> Done {
    let mut asked = SpecIn::read(&body)?;
    let name = asked.name.take().unwrap_or_default();
    let secret = asked.secret.take().map(Secret::from);
    let made = shared.forwarder.create(&name, asked.onto(usual()), secret).await.map_err(|error| problem(&error))?;
    let shown = json!({
        "destination": DestinationOut::of(&shared, &made.row),
        "secret": made.secret.as_ref().map(Secret::expose),
    });
    Ok((StatusCode::CREATED, json(&shown)).into_response())
}

/// Changes one: what the body leaves out stays.
pub(crate) async fn change(Of(shared): Of<Arc<Shared>>, name: Name, body: Bytes) -> Done {
    let (name, asked) = (named(name)?, SpecIn::read(&body)?);
    if asked.name.is_some() || asked.secret.is_some() {
        let next = "leave name out; for a new key POST …/rotate";
        return Err(Problem::invalid("a destination keeps its name, and its key until it is rotated", next));
    }
    let row = shared.forwarder.destination(&name).await.map_err(|error| problem(&error))?;
    let row = shared.forwarder.change(&name, asked.onto(row.spec)).await.map_err(|error| problem(&error))?;
    Ok(json(&DestinationOut::of(&shared, &row)))
}

/// Removes one.
pub(crate) async fn remove(Of(shared): Of<Arc<Shared>>, name: Name) -> Done {
    let name = named(name)?;
    shared.forwarder.remove(&name).await.map_err(|error| problem(&error))?;
    Ok(json(&json!({ "name": name, "removed": true })))
}

async fn set(shared: &Shared, name: &str, enabled: bool) -> Done {
    shared.forwarder.enable(name, enabled).await.map_err(|error| problem(&error))?;
    let row = shared.forwarder.destination(name).await.map_err(|error| problem(&error))?;
    shown(shared, &row).await
}

/// Enables one.
pub(crate) async fn enable(Of(shared): Of<Arc<Shared>>, name: Name) -> Done {
    set(&shared, &named(name)?, true).await
}

/// Disables one.
pub(crate) async fn disable(Of(shared): Of<Arc<Shared>>, name: Name) -> Done {
    set(&shared, &named(name)?, false).await
}

async fn hold(shared: &Shared, name: &str, paused: bool) -> Done {
    shared.forwarder.pause(name, paused).await.map_err(|error| problem(&error))?;
    let row = shared.forwarder.destination(name).await.map_err(|error| problem(&error))?;
    shown(shared, &row).await
}

/// Pauses one: what is to be sent to it waits.
pub(crate) async fn pause(Of(shared): Of<Arc<Shared>>, name: Name) -> Done {
    hold(&shared, &named(name)?, true).await
}

/// Lets a paused one go on.
pub(crate) async fn resume(Of(shared): Of<Arc<Shared>>, name: Name) -> Done {
    hold(&shared, &named(name)?, false).await
}

/// Sends one a message that says it is a trial.
pub(crate) async fn test(Of(shared): Of<Arc<Shared>>, name: Name) -> Done {
    let tested = shared.forwarder.test(&named(name)?).await.map_err(|error| problem(&error))?;
    let (delivered, status, reason) = told(&tested.answer);
    let millis = u64::try_from(tested.took.as_millis()).unwrap_or(u64::MAX);
    Ok(json(&json!({ "delivered": delivered, "status": status, "reason": reason, "took_ms": millis })))
}

/// Says whether a message arrived, with the status and why not.
pub(crate) fn told(answer: &Answer) -> (bool, Option<u16>, Option<&str>) {
    match answer {
        Answer::Delivered { status } => (true, Some(*status), None),
        Answer::Gone => (false, Some(410), Some("the receiver wants no events")),
        Answer::Failed { status, reason, .. } => (false, *status, Some(reason)),
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateIn {
    secret: Option<String>,
    overlap_seconds: Option<u64>,
}

/// Gives one a new key; the old one signs beside it for a while. The answer shows the new one, once.
pub(crate) async fn rotate(Of(shared): Of<Arc<Shared>>, name: Name, body: Bytes) -> Done {
    let name = named(name)?;
    let asked = if body.is_empty() { Ok(RotateIn::default()) } else { serde_json::from_slice(&body) };
    let asked = asked.map_err(|_| {
        Problem::invalid("the body is not a rotation", "send nothing, or secret and overlap_seconds or one of them")
    })?;
    let overlap = asked.overlap_seconds.map(Duration::from_secs);
    if overlap.is_some_and(|overlap| overlap > OVERLAP_MAX) {
        return Err(Problem::invalid("overlap_seconds is more than 30 days", "let the old key go sooner"));
    }
    let secret = asked.secret.map(Secret::from);
    let made = shared.forwarder.rotate(&name, secret, overlap).await.map_err(|error| problem(&error))?;
    Ok(json(&json!({
        "destination": DestinationOut::of(&shared, &made.row),
        "secret": made.secret.as_ref().map(Secret::expose),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayIn {
    since: String,
    until: Option<String>,
    before: Option<i64>,
    limit: Option<u32>,
    #[serde(default)]
    dry_run: bool,
}

/// Forwards stored events again.
pub(crate) async fn replay(Of(shared): Of<Arc<Shared>>, name: Name, body: Bytes) -> Done {
    let name = named(name)?;
    let wrong = || {
        Problem::invalid(
            "the body is not a replay",
            "send {\"since\":\"2026-01-31T12:00:00Z\"} and perhaps until, before, limit, dry_run",
        )
    };
    let asked: ReplayIn = serde_json::from_slice(&body).map_err(|_| wrong())?;
    let moment = |text: &str| parse_rfc3339(text).ok_or_else(wrong);
    let limit = asked.limit.unwrap_or(REPLAY_LIMIT);
    if !(1..=REPLAY_LIMIT_MAX).contains(&limit) {
        let message = format!("limit must lie between 1 and {REPLAY_LIMIT_MAX}");
        return Err(Problem::invalid(message, "go on with before = next_before"));
    }
    let replay = Replay {
        since: moment(&asked.since)?,
        until: asked.until.as_deref().map(moment).transpose()?.unwrap_or(Timestamp(i64::MAX)),
        before: asked.before.map(EventRow),
        limit,
        dry_run: asked.dry_run,
    };
    let done = shared.forwarder.replay(&name, replay).await.map_err(|error| problem(&error))?;
    let shown = json!({
        "dry_run": asked.dry_run,
        "looked_at": done.looked_at,
        "wanted": done.wanted,
        "next_before": done.next_before.map(|row| row.0),
    });
    Ok((if asked.dry_run { StatusCode::OK } else { StatusCode::ACCEPTED }, json(&shown)).into_response())
}

/// An event that was given up, as it is told outside.
#[derive(Serialize)]
pub(crate) struct DeadOut<'a> {
    row: i64,
    id: Option<&'a str>,
    #[serde(rename = "type")]
    kind: Option<&'a str>,
    connection: Option<&'a str>,
    received_at: Option<String>,
    given_up_at: String,
    reason: &'a str,
}

impl<'a> DeadOut<'a> {
    pub(crate) fn of(dead: &'a DeadForward, event: Option<&'a StoredEvent>) -> Self {
        Self {
            row: dead.row.0,
            id: event.map(|event| event.event.id.as_str()),
            kind: event.map(|event| event.event.kind.as_str()),
            connection: event.map(|event| event.connection.as_str()),
            received_at: event.map(|event| rfc3339(event.received_at)),
            given_up_at: rfc3339(dead.at),
            reason: &dead.reason,
        }
    }
}

/// Reads the events that were given up.
pub(crate) async fn with_events(
    store: &dyn Store,
    dead: Vec<DeadForward>,
) -> palisade_core::Result<Vec<(DeadForward, Option<StoredEvent>)>> {
    let events = store.event_heads(dead.iter().map(|one| one.row).collect()).await?;
    Ok(dead.into_iter().zip(events).collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeadQuery {
    after: Option<i64>,
    limit: Option<u32>,
}

/// Events that were given up in one answer when it names no number.
const DEAD_LIMIT: u32 = 50;
/// The most events that were given up in one answer, and that one request names by their rows.
const DEAD_LIMIT_MAX: u32 = 1_000;

/// Lists what was given up for one.
pub(crate) async fn dead(Of(shared): Of<Arc<Shared>>, name: Name, query: Asked<DeadQuery>) -> Done {
    let name = named(name)?;
    let Ok(Query(DeadQuery { after, limit })) = query else { return Err(Problem::unreadable_address()) };
    let limit = limit.unwrap_or(DEAD_LIMIT);
    if !(1..=DEAD_LIMIT_MAX).contains(&limit) {
        return Err(Problem::invalid(format!("limit must lie between 1 and {DEAD_LIMIT_MAX}"), "go on with after"));
    }
    let dead = shared.forwarder.dead(&name, after.map(EventRow), limit).await.map_err(|error| problem(&error))?;
    let full = dead.len() >= limit as usize;
    let list = with_events(&*shared.store, dead).await?;
    let next = list.last().filter(|_| full).map(|(dead, _)| dead.row.0);
    let list: Vec<_> = list.iter().map(|(dead, event)| DeadOut::of(dead, event.as_ref())).collect();
    Ok(json(&json!({ "destination": name, "events": list, "next_after": next })))
}

/// Which of what was given up.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WhichIn {
    rows: Option<Vec<i64>>,
    #[serde(default)]
    all: bool,
}

impl WhichIn {
    fn read(body: &Bytes) -> Result<Option<Vec<EventRow>>, Problem> {
        let wrong = || Problem::invalid("the body names no events", "send {\"rows\":[…]} or {\"all\":true}");
        match serde_json::from_slice(body).map_err(|_| wrong())? {
            Self { rows: Some(rows), all: false } if rows.len() <= DEAD_LIMIT_MAX as usize => {
                Ok(Some(rows.into_iter().map(EventRow).collect()))
            }
            Self { rows: None, all: true } => Ok(None),
            Self { .. } => Err(wrong()),
        }
    }
}

/// Sends again what was given up for one.
pub(crate) async fn resend(Of(shared): Of<Arc<Shared>>, name: Name, body: Bytes) -> Done {
    let (name, rows) = (named(name)?, WhichIn::read(&body)?);
    let done = shared.forwarder.resend(&name, rows).await.map_err(|error| problem(&error))?;
    let answer = json(&json!({ "resent": done.events, "dead": done.left }));
    Ok((StatusCode::ACCEPTED, answer).into_response())
}

/// Dismisses what was given up for one.
pub(crate) async fn dismiss(Of(shared): Of<Arc<Shared>>, name: Name, body: Bytes) -> Done {
    let (name, rows) = (named(name)?, WhichIn::read(&body)?);
    let dismissed = shared.forwarder.dismiss(&name, rows).await.map_err(|error| problem(&error))?;
    let counts = shared.forwarder.counts(vec![name.clone()]).await?;
    let left = counts.get(&name).map_or(0, |counts| counts.dead);
    Ok(json(&json!({ "dismissed": dismissed, "dead": left })))
}

/// Enables, disables, pauses or resumes one, tries it, or decides on what was given up for it, from the page.
pub(crate) async fn act(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
) -> Done {
    let Path((name, action)) = path.map_err(|_| Problem::unreadable_address())?;
    let base = pages::base(&original, &uri);
    match action.as_str() {
        "enable" | "disable" => {
            set(&shared, &name, action == "enable").await?;
            Ok(admin::redirect(&format!("{base}/")))
        }
        "pause" | "resume" => {
            hold(&shared, &name, action == "pause").await?;
            Ok(admin::redirect(&format!("{base}/")))
        }
        "resend" => {
            shared.forwarder.resend(&name, None).await.map_err(|error| problem(&error))?;
            Ok(admin::redirect(&format!("{base}/")))
        }
        "dismiss" => {
            shared.forwarder.dismiss(&name, None).await.map_err(|error| problem(&error))?;
            Ok(admin::redirect(&format!("{base}/")))
        }
        "test" => {
            let tested = shared.forwarder.test(&name).await.map_err(|error| problem(&error))?;
            let (delivered, status, reason) = told(&tested.answer);
            let body = html! {
                main.login {
                    h1 { (name) }
                    @if delivered { p role="status" { "The test event arrived: the receiver answered "
                        (status.unwrap_or_default()) " after " (tested.took.as_millis()) " ms." } }
                    @else { p.alert role="alert" { "The test event did not arrive: " (reason.unwrap_or("no answer")) "." } }
                    p { a href={ (base) "/" } { "Back to operations" } }
                }
            };
            Ok(Html(pages::document(&base, "Test event · Palisade", false, &body).into_string()).into_response())
        }
        _ => Err(Problem::missing("there is no such action")),
    }
}

//! What comes out of a simulation is searched for the secrets that went into it: the log, every answer of the API and
//! the pages, the metrics, and every row of the store.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, to_bytes};
use http::Request;
use palisade_core::store::{
    CallLog as _, ConnectionState, Connections as _, Destinations as _, Grants as _, Keys as _, Outbox as _,
    Records as _, StreamKey,
};
use palisade_core::{ConnectionId, StreamName, TenantId};
use tower::ServiceExt;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{DefaultGuard, Interest};
use tracing::{Event, Level, Metadata, Subscriber};

use super::errands::all_calls;
use super::judge::all_events;
use super::receiver;
use super::world::World;
use crate::ear::Words;
use crate::silence::Secrets;
use crate::stage::MASTER_KEY;

/// The token of whoever may see the API of the simulation's hubs.
pub(super) const ADMIN: &str = "the-admin-token-of-the-simulation";
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Entries of each list that are read.
const LISTED: u32 = 100_000;

/// What our own code logs on this thread while the guard lives. A simulation has one thread.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<String>>);

impl Log {
    /// Begins to listen.
    pub(super) fn listen() -> (Self, DefaultGuard) {
        let log = Self::default();
        let guard = tracing::subscriber::set_default(log.clone());
        (log, guard)
    }

    fn note(&self, metadata: &Metadata<'_>, write: impl FnOnce(&mut Words<'_>)) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = write!(heard, "{} {}", metadata.target(), metadata.name());
        write(&mut Words(&mut heard));
        heard.push('\n');
    }

    pub(super) fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG && metadata.target().starts_with("palisade")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.note(span.metadata(), |words| span.record(words));
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.record(&mut Words(&mut heard));
        heard.push('\n');
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.note(event.metadata(), |words| event.record(words));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }
}

/// Searches everything that came out of a world.
///
/// # Panics
/// When a secret stands in it, in whatever form.
pub(super) async fn search(world: &World, log: &Log) {
    let mut secrets = Secrets::default();
    secrets.add("the admin token", ADMIN);
    secrets.add("the master key", MASTER_KEY);
    for key in receiver::SECRETS {
        secrets.add("a destination's key", key);
    }
    for actor in &world.actors {
        for secret in actor.secrets() {
            secrets.add(actor.name(), secret);
        }
        for secret in actor.authority().map(|authority| authority.secrets()).unwrap_or_default() {
            secrets.add("a code or token", secret);
        }
    }
    let (heard, pages, rows) = (log.text(), pages(world).await, rows(world).await);
    for (expected, place) in [("palisade", &heard), ("/metrics 200", &pages), ("stripe", &rows)] {
        assert!(place.contains(expected), "{expected} is not in what came out: nothing was searched");
    }
    secrets.assert_silent("the log", heard.as_bytes());
    secrets.assert_silent("a page", pages.as_bytes());
    secrets.assert_silent("a row", rows.as_bytes());
}

/// Reads what the API, the pages and the metrics show, with the token and without.
async fn pages(world: &World) -> String {
    let hub = &world.processes[0].hub;
    let lists = ["health", "connections", "schedules", "destinations", "events", "inbox", "dead-letters"];
    let more = ["runs", "jobs", "calls", "outbox"];
    let mut paths: Vec<String> = ["/", "/metrics", "/healthz", "/readyz", "/nothing"].map(str::to_owned).to_vec();
    paths.extend(lists.iter().chain(&more).map(|list| format!("/api/v1/{list}")));
    for actor in &world.actors {
        paths.push(format!("/api/v1/connections/{}", actor.name()));
        let streams = actor.streams().into_iter();
        paths.extend(streams.map(|(stream, _)| format!("/api/v1/records/{}/{stream}?limit=1000", actor.name())));
    }
    let newest = all_events(world).await.into_iter().take(200);
    paths.extend(newest.map(|event| format!("/api/v1/events/{}", event.row.0)));
    paths.extend(all_calls(world).await.into_iter().map(|call| format!("/api/v1/outbox/{}", call.id)));
    let mut text = String::new();
    for token in [Some(ADMIN), None] {
        for path in &paths {
            let request = Request::get(path).header("host", "hub.test");
            let request = match token {
                Some(token) => request.header("authorization", format!("Bearer {token}")),
                None => request,
            };
            let request = request.body(Body::empty()).expect("a request");
            let answer = hub.router().oneshot(request).await.expect("an answer");
            let (head, body) = answer.into_parts();
            let body = to_bytes(body, ANSWER_BYTES_MAX).await.expect("a body");
            let body = String::from_utf8_lossy(&body);
            let shown = token.is_none() || head.status.is_success() || path == "/nothing";
            assert!(shown, "{path}: {} {body}", head.status);
            let _ = writeln!(text, "{path} {} {:?}\n{body}", head.status.as_u16(), head.headers);
        }
    }
    text
}

/// Writes down every row of the store: what it prints of itself, and what it keeps beside that.
async fn rows(world: &World) -> String {
    let (store, mut text) = (world.store(), String::new());
    let mut raw = |what: &str, bytes: &[u8]| {
        let _ = writeln!(text, "{what} {}", String::from_utf8_lossy(bytes));
    };
    for event in all_events(world).await {
        raw("event", format!("{event:?}").as_bytes());
        raw("payload", &event.event.payload);
    }
    for call in all_calls(world).await {
        raw("call", format!("{call:?} {:?}", call.call.request.headers).as_bytes());
        raw("target", call.call.request.target.as_bytes());
        let whole = store.outbox_call(call.id).await.expect("the outbox").expect("a call");
        raw("body", &whole.call.request.body);
        raw("answer", whole.answer.as_ref().map_or(&[][..], |answer| &answer.body));
    }
    for call in store.calls(None, LISTED).await.expect("the call log") {
        raw("logged", format!("{call:?}").as_bytes());
    }
    for run in store.runs(None, LISTED).await.expect("runs") {
        raw("run", format!("{run:?} {}", serde_json::to_string(&run).expect("JSON")).as_bytes());
    }
    for row in store.destinations().await.expect("destinations") {
        raw("destination", format!("{row:?}").as_bytes());
        row.keys.iter().for_each(|key| raw("key", &key.blob));
    }
    for effect in world.store().effects() {
        raw("effect", format!("{effect:?}").as_bytes());
    }
    for actor in &world.actors {
        let id = ConnectionId::new(actor.name());
        let row = store.connection(id.clone()).await.expect("a connection").expect("a connection");
        assert_eq!(row.state, ConnectionState::Active, "{id} at the end");
        raw("connection", format!("{row:?}").as_bytes());
        if let Some(credential) = store.credential(id.clone()).await.expect("a credential") {
            raw("credential", format!("{credential:?}").as_bytes());
            raw("blob", &credential.blob);
        }
        for grant in store.grants(id.clone()).await.expect("grants") {
            raw("grant", format!("{grant:?}").as_bytes());
            raw("blob", &grant.blob);
        }
        for key in store.data_keys(TenantId::new(actor.name())).await.expect("keys") {
            raw("data key", format!("{key:?}").as_bytes());
        }
        for (stream, _) in actor.streams() {
            let key = StreamKey { connection: id.clone(), stream: StreamName::new(stream) };
            for entry in store.changes(key, 0, u32::MAX).await.expect("the feed") {
                raw("record", format!("{:?}", entry.kind).as_bytes());
                raw("data", entry.record.data.as_deref().unwrap_or_default());
            }
        }
    }
    text
}

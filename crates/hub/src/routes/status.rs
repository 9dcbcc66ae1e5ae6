//! `GET /healthz`, `/readyz` and `/metrics`. Ready means progress: workers that claimed lately and a store that
//! writes, not a process that happens to be alive.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::http::{Extensions, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use palisade_core::Timestamp;
use palisade_core::metrics::Metrics;
use palisade_core::store::Queue;
use serde_json::json;
use tokio::time::Instant;

use super::{Problem, admin, json};
use crate::hub::Shared;

/// How long an answer of the store to the write probe is good for: `/readyz` is open to everybody and must not be a
/// way to make the store write.
const PROBE_FRESH: Duration = Duration::from_secs(1);
/// How long the store may take to answer the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// A queue without progress for this long beyond the longest lawful pause is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// The last answer of the store to a write; one probe at a time.
#[derive(Debug, Default)]
pub(crate) struct Probe(tokio::sync::Mutex<Option<(Instant, bool)>>);

impl Probe {
    async fn writes(&self, shared: &Shared) -> bool {
        let mut last = self.0.lock().await;
        if let Some((at, writes)) = *last
            && at.elapsed() < PROBE_FRESH
        {
            return writes;
        }
        let writes = match tokio::time::timeout(PROBE_TIMEOUT, shared.store.probe(shared.clock.now())).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "the store does not write");
                false
            }
            Err(_) => {
                tracing::error!("the store did not answer a write in {} s", PROBE_TIMEOUT.as_secs());
                false
            }
        };
        *last = Some((Instant::now(), writes));
        writes
    }
}

/// Tells that the process answers.
pub(crate) async fn healthz() -> Response {
    json(&json!({ "status": "ok" }))
}

/// Tells whether the hub makes progress; 503 with the reasons otherwise.
pub(crate) async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let reasons = reasons(&shared).await;
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if reasons.is_empty() { "ready" } else { "not ready" };
    (status, json(&json!({ "status": word, "reasons": reasons }))).into_response()
}

/// Returns why the hub is not ready; nothing when it is.
pub(crate) async fn reasons(shared: &Shared) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    let expected: usize = Queue::ALL.map(|queue| shared.settings.workers_of(queue)).iter().sum();
    let alive = shared.workers_alive.load(Ordering::SeqCst);
    if alive == 0 {
        reasons.push("the runner is not running");
    } else if alive < expected {
        reasons.push("some worker tasks have ended");
    }
    let worker = &shared.settings.worker;
    let patience = worker.handler_timeout.saturating_add(worker.poll).saturating_add(STALLED_AFTER);
    let now = shared.clock.now();
    let stalled = |at: Option<Timestamp>| at.is_none_or(|at| now.since(at) > patience);
    let progress = shared.worker.progress();
    let queues = [
        (progress.events, "the workers of events make no progress"),
        (progress.background, "the workers of syncs make no progress"),
        (progress.calls, "the workers of the outbox make no progress"),
        (progress.forwards, "the workers that forward events make no progress"),
    ];
    reasons.extend(queues.iter().filter(|(at, _)| alive > 0 && stalled(*at)).map(|(_, reason)| *reason));
    if !shared.probe.writes(shared).await {
        reasons.push("the store does not write: is the disk full?");
    }
    reasons
}

/// Writes all counters as Prometheus text.
pub(crate) async fn metrics(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    extensions: Extensions,
) -> Response {
    if !shared.settings.metrics_open
        && let Err(refusal) = admin::check(&shared, &Method::GET, &uri, &headers, admin::peer(&extensions))
    {
        return refusal.into_response();
    }
    match shared.metrics.render(&shared).await {
        Ok(text) => ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => Problem::store(&error).into_response(),
    }
}

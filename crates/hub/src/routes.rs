//! The hub's HTTP side: one router, one envelope around every answer, one form of error.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use serde::Serialize;

use crate::hub::Shared;

pub(crate) mod admin;
pub(crate) mod api;
pub(crate) mod connect;
pub(crate) mod destinations;
pub(crate) mod inbox;
pub(crate) mod outbox;
pub(crate) mod pages;
pub(crate) mod records;
pub(crate) mod room;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod status;
pub(crate) mod webhooks;

/// What a browser may load and do on our pages: our own style sheet and our own forms, no script at all. A form may end
/// at a provider, where somebody connects an account.
fn content_policy(origins: &[String]) -> HeaderValue {
    const OWN: &str = "default-src 'none'; style-src 'self'; img-src 'self'; frame-ancestors 'none'; base-uri 'none'; \
                       form-action 'self'";
    let text = origins.iter().fold(OWN.to_owned(), |text, origin| format!("{text} {origin}"));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(OWN))
}

/// Makes the router.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let guarded = Router::new()
        .route("/", get(pages::operations))
        .route("/actions/events/{row}/replay", post(pages::replay))
        .route("/actions/connections/{id}/sync", post(pages::sync))
        .route("/actions/connections/{id}/turn/{word}", post(inbox::turn_from_page))
        .route("/actions/inbox/{word}", post(inbox::halt_from_page))
        .route("/actions/runs/{id}/approve", post(runs::approve_from_page))
        .route("/connections/{id}/reconnect", post(connect::reconnect))
        .route("/connections/{id}", delete(connect::disconnect))
        .route("/connections/{id}/disconnect", get(connect::confirm).post(connect::disconnect_from_page))
        .route("/api/v1/connect-sessions", post(connect::open_session))
        .route("/api/v1/health", get(api::health))
        .route("/api/v1/connections", get(api::connections))
        .route("/api/v1/connections/{id}", get(api::connection))
        .route("/api/v1/connections/{id}/sync", post(api::sync))
        .route("/api/v1/connections/{id}/pause", post(inbox::pause_connection))
        .route("/api/v1/connections/{id}/resume", post(inbox::resume_connection))
        .route("/api/v1/connections/{id}/streams/{stream}/schedule", put(schedules::put).delete(schedules::delete))
        .route("/api/v1/connections/{id}/call-days", get(schedules::call_days))
        .route("/api/v1/schedules", get(schedules::schedules))
        .route("/actions/destinations/{name}/{action}", post(destinations::act))
        .route("/api/v1/destinations", get(destinations::list).post(destinations::create))
        .route(
            "/api/v1/destinations/{name}",
            get(destinations::show).patch(destinations::change).delete(destinations::remove),
        )
        .route("/api/v1/destinations/{name}/enable", post(destinations::enable))
        .route("/api/v1/destinations/{name}/disable", post(destinations::disable))
        .route("/api/v1/destinations/{name}/pause", post(destinations::pause))
        .route("/api/v1/destinations/{name}/resume", post(destinations::resume))
        .route("/api/v1/destinations/{name}/test", post(destinations::test))
        .route("/api/v1/destinations/{name}/rotate", post(destinations::rotate))
        .route("/api/v1/destinations/{name}/replay", post(destinations::replay))
        .route("/api/v1/destinations/{name}/dead", get(destinations::dead))
        .route("/api/v1/destinations/{name}/resend", post(destinations::resend))
        .route("/api/v1/destinations/{name}/dismiss", post(destinations::dismiss))
        .route("/api/v1/events", get(api::events))
        .route("/api/v1/events/preview", post(inbox::previews))
        .route("/api/v1/events/replay", post(inbox::replay))
        .route("/api/v1/events/{row}", get(api::event))
        .route("/api/v1/events/{row}/replay", post(api::replay))
        .route("/api/v1/events/{row}/preview", post(inbox::preview))
        .route("/api/v1/replays/{key}", get(inbox::replay_progress))
        .route("/api/v1/inbox", get(inbox::inbox))
        .route("/api/v1/inbox/pause", post(inbox::pause))
        .route("/api/v1/inbox/resume", post(inbox::resume))
        .route("/api/v1/dead-letters", get(inbox::dead_letters))
        .route("/api/v1/dead-letters/dismiss", post(inbox::dismiss))
        .route("/actions/dead-letters/dismiss", post(inbox::dismiss_from_page))
        .route("/actions/runs/{id}/dismiss", post(runs::dismiss_from_page))
        .route("/api/v1/runs", get(runs::runs))
        .route("/api/v1/runs/{id}", get(runs::run))
        .route("/api/v1/runs/{id}/approve", post(runs::approve))
        .route("/api/v1/runs/{id}/dismiss", post(runs::dismiss))
        .route("/api/v1/connections/{id}/healings", get(runs::healings))
        .route("/api/v1/connections/{id}/streams/{stream}/run", post(runs::run_stream))
        .route("/api/v1/connections/{id}/streams/{stream}/pause", post(runs::pause))
        .route("/api/v1/connections/{id}/streams/{stream}/resume", post(runs::resume))
        .route("/api/v1/connections/{id}/streams/{stream}/reset", post(runs::reset))
        .route("/api/v1/connections/{id}/streams/{stream}/unreadable", get(runs::unreadable))
        .route("/api/v1/jobs", get(api::jobs))
        .route("/api/v1/calls", get(api::calls).post(outbox::create))
        .route("/api/v1/outbox", get(outbox::list))
        .route("/api/v1/outbox/{id}", get(outbox::one))
        .route("/api/v1/outbox/{id}/retry", post(outbox::retry))
        .route("/api/v1/outbox/{id}/cancel", post(outbox::cancel))
        .route("/api/v1/outbox/{id}/resolve", post(outbox::resolve))
        .route("/api/v1/outbox/{id}/reconcile", post(outbox::reconcile))
        .route("/actions/outbox/{id}/reconcile", post(outbox::reconcile_from_page))
        .route("/actions/outbox/{id}/{decision}", post(outbox::act))
        .route("/api/v1/records/{connection}/{stream}", get(records::records))
        .route("/api/v1/records/{connection}/{stream}/{id}", get(records::record))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&shared), admin::guard));
    let deliveries = || post(webhooks::Receive).fallback(webhooks::wrong_method);
    let router = Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
        .route("/login", get(admin::login_page).post(admin::login))
        .route("/logout", post(admin::logout))
        .route("/connect/{provider}", get(connect::begin))
        .route("/connect/{provider}/{environment}", get(connect::begin))
        .route("/auth/{provider}/callback", get(connect::callback))
        .route("/auth/{provider}/{environment}/callback", get(connect::callback))
        .route("/style.css", get(pages::style))
        .merge(guarded)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), envelope))
        // Deliveries come by the thousand: they have the same bounds and headers without the boxes of a layer.
        .route("/webhooks/{endpoint}", deliveries());
    // A path of its own spares each delivery what is kept of a path's variable part.
    let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let named = shared.endpoints.keys().filter(|name| !name.is_empty() && plain(name));
    let router = named.fold(router, |router, name| router.route(&format!("/webhooks/{name}"), deliveries()));
    router.with_state(shared)
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address", "check the path")
}

async fn wrong_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this address does not take this method",
        "webhooks are POSTed, pages and the API are read with GET, actions are POSTed",
    )
}

/// Bounds every request in size and time and puts the security headers on every answer.
async fn envelope(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut response =
        if is_too_long(&shared, &request) { too_large(&shared) } else { in_time(&shared, next.run(request)).await };
    dress(&shared, &mut response);
    response
}

/// Tells whether a request announces a body over the cap.
fn is_too_long(shared: &Shared, request: &Request) -> bool {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length > shared.settings.body_bytes_max as u64)
}

/// Answers in the time a request may take.
async fn in_time(shared: &Shared, answer: impl Future<Output = Response>) -> Response {
    tokio::time::timeout(shared.settings.request_timeout, answer).await.unwrap_or_else(|_| timed_out())
}

/// The answer to a request that took longer than any may.
fn timed_out() -> Response {
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "timeout",
        "the request did not arrive or could not be answered in time",
        "send it again",
    )
    .retry_after(1)
    .into_response()
}

/// Makes the headers of every answer; what an answer says of its being cached stays.
pub(crate) fn answer_headers(connect_origins: &[String]) -> HeaderMap {
    let from = HeaderValue::from_static;
    HeaderMap::from_iter([
        (HeaderName::from_static("content-security-policy"), content_policy(connect_origins)),
        (HeaderName::from_static("x-content-type-options"), from("nosniff")),
        (HeaderName::from_static("x-frame-options"), from("DENY")),
        (HeaderName::from_static("referrer-policy"), from("same-origin")),
        (CACHE_CONTROL, from("no-store")),
    ])
}

/// Puts the headers of every answer on one.
fn dress(shared: &Shared, response: &mut Response) {
    let headers = response.headers_mut();
    if headers.is_empty() {
        headers.clone_from(&shared.answer_headers);
        return;
    }
    for (name, value) in &shared.answer_headers {
        if name != CACHE_CONTROL || !headers.contains_key(CACHE_CONTROL) {
            headers.insert(name, value.clone());
        }
    }
}

/// The answer to a body over the cap.
pub(crate) fn too_large(shared: &Shared) -> Response {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("the body is larger than {} bytes", shared.settings.body_bytes_max),
        "raise server.body_bytes_max if such bodies are expected",
    )
    .into_response()
}

/// An error as it is answered: `{"error":{"kind","message","next"}}`.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    message: Cow<'static, str>,
    next: Cow<'static, str>,
    retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        message: impl Into<Cow<'static, str>>,
        next: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, kind, message: message.into(), next: next.into(), retry_after: None }
    }

    /// Sets after how many seconds another try makes sense.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Makes the answer to a store that is busy or failed. The cause goes to the log.
    pub(crate) fn store(error: &palisade_core::Error) -> Self {
        tracing::error!(%error, "the store did not do what was asked");
        let after = error.retry_after().unwrap_or(Duration::from_secs(1)).as_secs().max(1);
        let busy = error.kind() == palisade_core::ErrorKind::Overloaded;
        let message = if busy { "the store is busy" } else { "the store could not do this; nothing was changed" };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.kind().as_str(), message, "send it again").retry_after(after)
    }

    /// Makes the answer to a request that is itself wrong.
    pub(crate) fn invalid(message: impl Into<Cow<'static, str>>, next: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message, next)
    }

    /// Makes the answer to a request for something that does not exist.
    pub(crate) fn missing(what: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", what, "check the identifier")
    }

    /// Makes the answer for a query or path that cannot be read.
    pub(crate) fn unreadable_address() -> Self {
        Self::invalid("the address cannot be read", "check the path and the query parameters")
    }
}

impl From<palisade_core::Error> for Problem {
    fn from(error: palisade_core::Error) -> Self {
        Self::store(&error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            kind: &'a str,
            message: &'a str,
            next: &'a str,
        }
        let body = Body { error: Inner { kind: self.kind, message: &self.message, next: &self.next } };
        let mut response = (self.status, json(&body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// Writes a value as a JSON answer.
pub(crate) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response(),
        Err(error) => {
            // Our own messages always serialise; kept as an answer rather than a panic.
            tracing::error!(%error, "an answer could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

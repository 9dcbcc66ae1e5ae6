//! `POST /api/v1/calls` and `/api/v1/outbox…`: calls to keep and make, what became of them, and what somebody decides.
//!
//! Bodies and headers of a call are shown with the call itself and in no list: they are the product's data.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{OriginalUri, Path, Query, State as Of};
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use maud::{Markup, html};
use palisade_core::store::{CallId, CallState, Decided, Decision, Enqueued, OutboxCall};
use palisade_core::worker::NewCall;
use palisade_core::{Error, ErrorKind, Found, Priority, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use super::admin::redirect;
use super::pages::{ago, base, figure, name};
use super::{Problem, json, too_large};
use crate::hub::Shared;
use crate::overview::Overview;
use crate::time::{parse_rfc3339, rfc3339};

/// Entries of a list when the request names no limit, and the most.
const LIMIT: (u32, u32) = (100, 1_000);
/// The longest a request waits for a result: shorter than what proxies allow.
const WAIT_MAX: Duration = Duration::from_secs(25);

type Answer = Result<Response, Problem>;

/// A call as it is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallIn {
    connection: String,
    operation: Option<String>,
    method: String,
    /// Path and query under the connection's base URL, or a whole URL of the provider.
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<BodyIn>,
    grant: Option<String>,
    lane: Option<String>,
    #[serde(default)]
    priority: PriorityIn,
    idempotency_key: Option<String>,
    unique: Option<String>,
    due_at: Option<String>,
}

/// The body of a call in the form that is easiest to write.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum BodyIn {
    Json(Box<RawValue>),
    Form(BTreeMap<String, String>),
    Text(String),
    Base64(String),
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PriorityIn {
    Interactive,
    #[default]
    Background,
}

fn unprocessable(message: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message, "mend the call and send it again")
}

impl CallIn {
    fn call(self) -> Result<NewCall, Problem> {
        let method = Method::from_bytes(self.method.to_ascii_uppercase().as_bytes())
            .map_err(|_| unprocessable("method is not an HTTP method"))?;
        let mut call = NewCall::new(self.connection, method, self.path);
        for (name, value) in self.headers {
            let (Ok(header), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value))
            else {
                return Err(unprocessable("headers holds what cannot be a header"));
            };
            call.headers.append(header, value);
        }
        let mut typed = |kind: &'static str| {
            call.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static(kind));
        };
        call.body = match self.body {
            None => Bytes::new(),
            Some(BodyIn::Json(json)) => {
                typed("application/json");
                json.get().to_owned().into()
            }
            Some(BodyIn::Form(pairs)) => {
                typed("application/x-www-form-urlencoded");
                form(&pairs).into()
            }
            Some(BodyIn::Text(text)) => text.into(),
            Some(BodyIn::Base64(text)) => {
                STANDARD.decode(text).map_err(|_| unprocessable("body.base64 is not Base64"))?.into()
            }
        };
        if let Some(due) = self.due_at {
            let due = parse_rfc3339(&due)
                .ok_or_else(|| unprocessable("due_at is not a moment such as 2026-01-31T12:00:00Z"))?;
            call.due = Some(due);
        }
        call.operation = self.operation;
        call.grant = self.grant.map(Into::into);
        call.lane = self.lane;
        call.priority = match self.priority {
            PriorityIn::Interactive => Priority::Interactive,
            PriorityIn::Background => Priority::Background,
        };
        call.idempotency_key = self.idempotency_key;
        call.unique = self.unique;
        Ok(call)
    }
}

fn form(pairs: &BTreeMap<String, String>) -> String {
    let pairs =
        pairs.iter().map(|(name, value)| format!("{}={}", super::pages::segment(name), super::pages::segment(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Keeps a call. The answer says where it is found.
pub(crate) async fn create(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Ok(body) = body else { return Ok(too_large(&shared)) };
    // The parser's own words may quote the body.
    let asked: CallIn = serde_json::from_slice(&body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Problem::invalid(
            format!("the body is not a call (line {line}, column {column})"),
            "send {\"connection\":…,\"method\":…,\"path\":…} and perhaps operation, headers, body, unique, due_at",
        )
    })?;
    let enqueued =
        shared.worker.enqueue_calls(Vec::new(), vec![asked.call()?]).await.map_err(|error| refused(&error))?;
    let Some(enqueued) = enqueued.first().copied() else { return Err(Problem::missing("no call was kept")) };
    let status = match enqueued {
        Enqueued::New(_) => StatusCode::ACCEPTED,
        Enqueued::Known(_) => StatusCode::OK,
    };
    let id = enqueued.id();
    let call = shared.store.outbox_call(id).await?;
    let body = match &call {
        Some(call) => json(&CallOut::of(call)),
        None => json(&json!({ "id": id })),
    };
    let mut response = (status, body).into_response();
    let place = format!("{}/api/v1/outbox/{id}", base(&original, &uri));
    if let Ok(place) = HeaderValue::try_from(place) {
        response.headers_mut().insert(LOCATION, place);
    }
    Ok(response)
}

/// Makes the answer to a call that was not kept.
#[expect(clippy::wildcard_enum_match_arm, reason = "the kinds told apart stand here; the others are the store's")]
fn refused(error: &Error) -> Problem {
    let message = error.message().to_owned();
    match error.kind() {
        ErrorKind::NotFound => Problem::new(StatusCode::NOT_FOUND, "not_found", message, "check the connection"),
        ErrorKind::Conflict => {
            Problem::new(StatusCode::CONFLICT, "conflict", message, "use another unique key, or send what stands there")
        }
        ErrorKind::Invalid | ErrorKind::Config => unprocessable(message),
        _ => Problem::store(error),
    }
}

/// A call as it is told outside.
#[derive(Serialize)]
pub(crate) struct CallOut<'a> {
    id: CallId,
    state: CallState,
    connection: &'a str,
    tenant: &'a str,
    provider: &'a str,
    operation: &'a str,
    /// Whether a repeat is safe: `safe`, `idempotent`, `keyed` or `never`.
    replay: &'a str,
    method: &'a str,
    path: &'a str,
    idempotency_key: &'a str,
    unique: Option<&'a str>,
    interactive: bool,
    created_at: String,
    due_at: String,
    next_at: Option<String>,
    attempts: u32,
    /// Since when it may have been made, while nobody knows.
    sent_at: Option<String>,
    finished_at: Option<String>,
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<ContentOut<'a>>,
    answer: Option<AnswerOut<'a>>,
}

#[derive(Serialize)]
struct AnswerOut<'a> {
    status: u16,
    request_id: Option<&'a str>,
    #[serde(flatten)]
    content: Option<ContentOut<'a>>,
    /// Whether the body went on beyond what is kept.
    cut: bool,
}

/// Headers and body, as JSON where the body is that, else as Base64.
#[derive(Serialize)]
struct ContentOut<'a> {
    headers: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl<'a> ContentOut<'a> {
    fn of(headers: &'a [(String, String)], body: &'a Bytes) -> Self {
        let raw: Option<&RawValue> = serde_json::from_slice(body).ok();
        Self {
            headers: headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
            body_base64: (raw.is_none() && !body.is_empty()).then(|| STANDARD.encode(body)),
            body: raw,
        }
    }
}

impl<'a> CallOut<'a> {
    /// Shows a call without what it says.
    pub(crate) fn of(one: &'a OutboxCall) -> Self {
        let call = &one.call;
        Self {
            id: one.id,
            state: one.state,
            connection: call.connection.as_str(),
            tenant: call.tenant.as_str(),
            provider: &call.provider,
            operation: &call.operation,
            replay: &call.replay,
            method: &call.request.method,
            path: call.request.target.split(['?', '#']).next().unwrap_or_default(),
            idempotency_key: &call.idempotency_key,
            unique: call.unique.as_deref(),
            interactive: call.priority > 0,
            created_at: rfc3339(call.created_at),
            due_at: rfc3339(call.run_at),
            next_at: one.next_at.map(rfc3339),
            attempts: one.attempts,
            sent_at: one.sent_at.map(rfc3339),
            finished_at: one.finished_at.map(rfc3339),
            error: one.error.as_deref(),
            request: None,
            answer: one.answer.as_ref().map(|answer| AnswerOut {
                status: answer.status,
                request_id: answer.request_id.as_deref(),
                content: None,
                cut: answer.cut,
            }),
        }
    }

    /// Shows it with all there is.
    pub(crate) fn whole(one: &'a OutboxCall) -> Self {
        let mut out = Self::of(one);
        let request = &one.call.request;
        out.path = &request.target;
        out.request = Some(ContentOut::of(&request.headers, &request.body));
        if let (Some(out), Some(answer)) = (&mut out.answer, &one.answer) {
            out.content = Some(ContentOut::of(&answer.headers, &answer.body));
        }
        out
    }
}

#[derive(Deserialize)]
pub(crate) struct ListQuery {
    state: Option<CallState>,
    before: Option<i64>,
    limit: Option<u32>,
}

/// Lists calls, newest first.
pub(crate) async fn list(Of(shared): Of<Arc<Shared>>, asked: Result<Query<ListQuery>, QueryRejection>) -> Answer {
    let Query(asked) = asked.map_err(|_| Problem::unreadable_address())?;
    let limit = asked.limit.unwrap_or(LIMIT.0);
    if !(1..=LIMIT.1).contains(&limit) {
        return Err(Problem::invalid(
            format!("limit must lie between 1 and {}", LIMIT.1),
            "ask for fewer entries at once",
        ));
    }
    let list = shared.store.outbox(asked.state, asked.before.map(CallId), limit).await?;
    let counts = shared.store.outbox_counts().await?;
    let next = if list.len() == limit as usize { list.last().map(|call| call.id) } else { None };
    let list: Vec<_> = list.iter().map(CallOut::of).collect();
    Ok(json(&json!({ "calls": list, "counts": counts, "next_before": next })))
}

#[derive(Deserialize)]
pub(crate) struct OneQuery {
    /// How many seconds to wait for its result.
    wait: Option<u64>,
}

/// Shows one call with what it says and what was answered; after its end, if it is asked to wait for that.
pub(crate) async fn one(
    Of(shared): Of<Arc<Shared>>,
    id: Result<Path<i64>, PathRejection>,
    asked: Result<Query<OneQuery>, QueryRejection>,
) -> Answer {
    let (Ok(Path(id)), Ok(Query(asked))) = (id, asked) else { return Err(Problem::unreadable_address()) };
    let id = CallId(id);
    if let Some(seconds) = asked.wait {
        let wait = Duration::from_secs(seconds).min(WAIT_MAX).min(shared.settings.request_timeout / 2);
        // What it has come to by then is read below either way.
        let _ = tokio::time::timeout(wait, shared.worker.call_result(id)).await;
    }
    let call = shared.store.outbox_call(id).await?;
    let call = call.ok_or_else(|| Problem::missing("there is no such call in the outbox"))?;
    Ok(json(&CallOut::whole(&call)))
}

async fn decide(shared: &Shared, id: i64, decision: Decision) -> Result<CallState, Problem> {
    match shared.worker.decide_call(CallId(id), decision).await? {
        Decided::Now(state) => Ok(state),
        Decided::Missing => Err(Problem::missing("there is no such call in the outbox")),
        Decided::Refused(state) => {
            Err(Problem::new(StatusCode::CONFLICT, "conflict", refusal(decision, state), "look at the call"))
        }
    }
}

/// Says why a decision is none for a call that stands so.
pub(crate) fn refusal(decision: Decision, state: CallState) -> String {
    let what = match decision {
        Decision::Retry => "only a call that waits or failed can be made now",
        Decision::Cancel => "only a call that waits can be called back",
        Decision::Happened | Decision::NotHappened => "only a call in review waits for somebody to find out",
    };
    format!("{what}, and this one is {}", state.as_str())
}

async fn decided(shared: &Shared, id: Result<Path<i64>, PathRejection>, decision: Decision) -> Answer {
    let Ok(Path(id)) = id else { return Err(Problem::unreadable_address()) };
    let state = decide(shared, id, decision).await?;
    Ok((StatusCode::ACCEPTED, json(&json!({ "id": id, "state": state }))).into_response())
}

/// Makes a call now: one that failed, or one that waits.
pub(crate) async fn retry(Of(shared): Of<Arc<Shared>>, id: Result<Path<i64>, PathRejection>) -> Answer {
    decided(&shared, id, Decision::Retry).await
}

/// Calls a call back.
pub(crate) async fn cancel(Of(shared): Of<Arc<Shared>>, id: Result<Path<i64>, PathRejection>) -> Answer {
    decided(&shared, id, Decision::Cancel).await
}

#[derive(Deserialize)]
pub(crate) struct ResolveQuery {
    happened: bool,
}

/// Ends the review of a call with what somebody found.
pub(crate) async fn resolve(
    Of(shared): Of<Arc<Shared>>,
    id: Result<Path<i64>, PathRejection>,
    asked: Result<Query<ResolveQuery>, QueryRejection>,
) -> Answer {
    let Ok(Query(asked)) = asked else {
        return Err(Problem::invalid(
            "the address does not say what was found",
            "add ?happened=true or ?happened=false",
        ));
    };
    let decision = if asked.happened { Decision::Happened } else { Decision::NotHappened };
    decided(&shared, id, decision).await
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what else is wrong is wrong at the provider")]
async fn look(shared: &Shared, id: i64) -> Result<(Found, CallState), Problem> {
    shared.worker.reconcile_call(CallId(id)).await.map_err(|error| {
        let message = error.message().to_owned();
        match error.kind() {
            ErrorKind::NotFound => Problem::new(StatusCode::NOT_FOUND, "not_found", message, "look at the call"),
            ErrorKind::Invalid => unprocessable(message),
            ErrorKind::Store | ErrorKind::Overloaded => Problem::store(&error),
            kind => {
                let next = "look at the provider yourself, or ask again later";
                Problem::new(StatusCode::BAD_GATEWAY, kind.as_str(), "the provider could not be asked", next)
            }
        }
    })
}

/// Asks the provider whether a call in review was made.
pub(crate) async fn reconcile(Of(shared): Of<Arc<Shared>>, id: Result<Path<i64>, PathRejection>) -> Answer {
    let Ok(Path(id)) = id else { return Err(Problem::unreadable_address()) };
    let (found, state) = look(&shared, id).await?;
    let (word, why) = found_out(&found);
    Ok(json(&json!({ "id": id, "found": word, "why": why, "state": state })))
}

/// Says in a word what the provider knew of a call, and why that is not certain.
pub(crate) fn found_out(found: &Found) -> (&'static str, Option<String>) {
    match found {
        Found::Made => ("made", None),
        Found::NotMade => ("not_made", None),
        Found::Later(after) => ("later", Some(format!("certain {} s after it was sent", after.as_secs()))),
        Found::Unclear(why) => ("unclear", Some((*why).to_owned())),
    }
}

/// Asks the provider and returns to the page.
pub(crate) async fn reconcile_from_page(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    id: Result<Path<i64>, PathRejection>,
    uri: Uri,
) -> Response {
    let Ok(Path(id)) = id else { return Problem::unreadable_address().into_response() };
    match look(&shared, id).await {
        Ok(_) => redirect(&format!("{}/", base(&original, &uri))),
        Err(problem) => problem.into_response(),
    }
}

/// Puts a decision of the page into effect and returns to it.
pub(crate) async fn act(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    path: Result<Path<(i64, Decision)>, PathRejection>,
    uri: Uri,
) -> Response {
    let Ok(Path((id, decision))) = path else { return Problem::unreadable_address().into_response() };
    match decide(&shared, id, decision).await {
        Ok(_) => redirect(&format!("{}/", base(&original, &uri))),
        Err(problem) => problem.into_response(),
    }
}

/// The outbox on the operations page; nothing where it was never used.
pub(crate) fn section(base: &str, overview: &Overview) -> Markup {
    let count = |state| overview.outbox.get(&state).copied().unwrap_or(0);
    let (review, failed) = (count(CallState::Review), count(CallState::Failed));
    html! {
        @if overview.outbox.values().any(|count| *count > 0) {
            section {
                h2 { "Outbox" }
                div.figures {
                    (figure("waiting", count(CallState::Waiting), false))
                    (figure("on their way", count(CallState::Running), false))
                    (figure("done", count(CallState::Done), false))
                    (figure("failed", failed, failed > 0))
                    (figure("in review", review, review > 0))
                }
                @if !overview.outbox_review.is_empty() {
                    h3 { "Was it made?" }
                    p.muted { "Nobody knows of these calls, and a repeat could do it twice. Look at the provider, then say." }
                    (table(base, &overview.outbox_review, overview.now, &[("happened", "It was made"), ("not_happened", "It was not: make it"), ("reconcile", "Ask the provider")]))
                }
                @if !overview.outbox_failed.is_empty() {
                    h3 { "Failed calls" }
                    p.muted { "Not made, and given up. Mend the cause, then make them again." }
                    (table(base, &overview.outbox_failed, overview.now, &[("retry", "Make it again")]))
                }
            }
        }
    }
}

fn table(base: &str, calls: &[OutboxCall], now: Timestamp, actions: &[(&str, &str)]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr { th { "Call" } th { "Why" } th { "Operation" } th { "Connection" } th { "Since" } th {} } }
            tbody { @for call in calls { tr {
                td.id.first { a href={ (base) "/api/v1/outbox/" (call.id) } { (call.id) } }
                td.reason { (call.error.as_deref().unwrap_or("–")) }
                td { (call.call.provider) " " (call.call.operation) }
                (name(&call.call.connection))
                td { (ago(call.sent_at.or(call.finished_at).unwrap_or(call.call.created_at), now)) }
                td.action { @for (decision, label) in actions {
                    form.inline method="post" action={ (base) "/actions/outbox/" (call.id) "/" (decision) } { button.quiet type="submit" { (label) } }
                } }
            } } }
        } }
    }
}

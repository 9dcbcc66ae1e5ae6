//! `POST /webhooks/{endpoint}`: verify, split, append durably, then acknowledge. In this order and no other.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{OriginalUri, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use palisade_core::store::{Appended, NewEvent};
use palisade_core::webhook::{
    Event, KeysWanted, Parsed, PublishedKeys, RawDelivery, Refusal, Reply, Verified, Webhook,
};
use tokio::time::Instant;

use super::{Problem, too_large};
use crate::hub::Shared;
use crate::metrics::Delivered;
use crate::routing::{self, Endpoint, Routed, Unrouted};
use crate::senders;
use crate::unreadable;

/// The headers kept with a delivery of any provider, for replay and support, besides its own. None of them is a credential or a signature.
const KEPT_HEADERS: [&str; 7] =
    ["content-type", "user-agent", "date", "x-request-id", "traceparent", "webhook-id", "webhook-timestamp"];
/// The longest header value kept, in bytes.
const KEPT_VALUE_BYTES_MAX: usize = 256;

/// How a delivery ended, for the answer and the count.
struct Ended {
    result: Delivered,
    response: Response,
}

impl Ended {
    fn new(result: Delivered, response: impl IntoResponse) -> Self {
        Self { result, response: response.into_response() }
    }
}

/// Receives one delivery, within the bounds and with the headers all requests have.
pub(crate) async fn receive(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let endpoint = endpoint_of(&shared, request.uri());
    let mut response = match endpoint {
        None => unknown_endpoint(),
        Some(endpoint) if super::is_too_long(&shared, &request) => {
            shared.metrics.delivered(&endpoint.name, Delivered::TooLarge, Duration::ZERO);
            too_large(&shared)
        }
        Some(endpoint) if !senders::admits(&shared, endpoint, request.headers(), request.extensions()) => {
            shared.metrics.refused(&endpoint.name, "sender");
            shared.metrics.delivered(&endpoint.name, Delivered::Refused, Duration::ZERO);
            not_from_there().into_response()
        }
        Some(endpoint) => super::in_time(&shared, answer_to(&shared, endpoint, request)).await,
    };
    // An empty answer, as nearly all of them are, has nothing that could be framed, sniffed or kept.
    if !response.body().is_end_stream() {
        super::dress(&shared, &mut response);
    }
    response
}

/// Answers what is not a delivery.
pub(crate) async fn wrong_method(State(shared): State<Arc<Shared>>) -> Response {
    let mut response = super::wrong_method().await.into_response();
    super::dress(&shared, &mut response);
    response
}

/// Finds the endpoint an address ends with.
fn endpoint_of<'s>(shared: &'s Shared, uri: &Uri) -> Option<&'s Endpoint> {
    let (_, name) = uri.path().rsplit_once('/')?;
    let name = percent_encoding::percent_decode_str(name).decode_utf8().ok()?;
    shared.endpoints.get(&*name)
}

async fn answer_to(shared: &Shared, endpoint: &Endpoint, request: Request) -> Response {
    let started = Instant::now();
    let (parts, body) = request.into_parts();
    let ended = match read(shared, endpoint, body).await {
        Err(ended) => ended,
        Ok(body) => {
            // As it was sent, also when the router is nested under a path.
            let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
            let url = url_of(shared, &parts.headers, uri.path_and_query().map_or("", |path| path.as_str()));
            let raw = RawDelivery { method: parts.method, url, headers: parts.headers, body };
            deliver(shared, endpoint, raw).await
        }
    };
    shared.metrics.delivered(&endpoint.name, ended.result, started.elapsed());
    ended.response
}

/// The answer to a sender that is not one of the endpoint's. It tells nothing: the reason stands in the log.
fn not_from_there() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", "this is not taken", "see the hub's log")
}

fn unknown_endpoint() -> Response {
    Problem::new(
        StatusCode::NOT_FOUND,
        "unknown_endpoint",
        "no endpoint has this name",
        "check the last part of the URL that is entered at the provider",
    )
    .into_response()
}

/// Reads the body under the cap. Endpoints without a secret are answered before it.
async fn read(shared: &Shared, endpoint: &Endpoint, body: Body) -> Result<Bytes, Ended> {
    if endpoint.secrets.is_empty() {
        return Err(refused(shared, endpoint, Refusal::NoSecret));
    }
    match Limited::new(body, shared.settings.body_bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            Err(Ended::new(Delivered::TooLarge, too_large(shared)))
        }
        Err(_) => {
            let problem = Problem::invalid("the body broke off", "send it again");
            Err(Ended::new(Delivered::Broken, problem))
        }
    }
}

fn refused(shared: &Shared, endpoint: &Endpoint, refusal: Refusal) -> Ended {
    // The reason goes to the log and the metrics; whoever forges a delivery learns nothing from the answer.
    tracing::warn!(endpoint = endpoint.name, reason = refusal.as_str(), detail = %refusal, "a delivery was refused");
    shared.metrics.refused(&endpoint.name, refusal.as_str());
    let problem = if refusal == Refusal::NoSecret {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_secret",
            "this endpoint has no signing secret yet",
            "configure the endpoint's secret; the provider sends the delivery again",
        )
        .retry_after(60)
    } else {
        Problem::new(
            StatusCode::UNAUTHORIZED,
            "bad_signature",
            "the signature is not valid",
            "see the hub's log, or try it with `palisade verify`",
        )
    };
    Ended::new(Delivered::Refused, problem)
}

/// Verifies a delivery. Where the provider publishes the keys, they are fetched first when it is time, and once more
/// when the delivery names one that is not there; whatever keeps them from being fetched refuses the delivery at worst,
/// and the provider sends it again.
async fn verify(
    shared: &Shared,
    endpoint: &Endpoint,
    webhook: &dyn Webhook,
    raw: RawDelivery,
) -> Result<Verified, Refusal> {
    let now = shared.clock.now();
    let Some(keys) = webhook.published_keys(&raw) else {
        return Verified::check(webhook, raw, &endpoint.secrets, now);
    };
    if keys.stale(now) {
        refresh(shared, endpoint, keys, KeysWanted::Stale).await;
    }
    match Verified::check(webhook, raw.clone(), &endpoint.secrets, now) {
        Err(Refusal::UnknownKey) if refresh(shared, endpoint, keys, KeysWanted::Missing).await => {
            Verified::check(webhook, raw, &endpoint.secrets, now)
        }
        checked => checked,
    }
}

/// Has published keys fetched; tells whether there are other ones now.
async fn refresh(shared: &Shared, endpoint: &Endpoint, keys: &dyn PublishedKeys, wanted: KeysWanted) -> bool {
    match keys.refresh(shared.transport.as_ref(), shared.clock.now(), wanted).await {
        Ok(changed) => changed,
        Err(error) => {
            tracing::warn!(endpoint = endpoint.name, %error, "the keys deliveries are signed with cannot be fetched");
            false
        }
    }
}

/// Verifies, splits and appends one delivery.
async fn deliver(shared: &Shared, endpoint: &Endpoint, raw: RawDelivery) -> Ended {
    let webhook = shared.providers.get(endpoint.provider.as_str()).and_then(|provider| provider.webhook());
    let Some(webhook) = webhook else { return Ended::new(Delivered::Refused, unknown_endpoint()) };
    let verified = match verify(shared, endpoint, webhook, raw).await {
        Ok(verified) => verified,
        Err(refusal) => return refused(shared, endpoint, refusal),
    };
    // Who wants an event is asked below, of what is known of destinations.
    if let Err(error) = shared.know_destinations().await {
        return Ended::new(Delivered::Unstored, Problem::store(&error));
    }
    let (result, reply, events) = match webhook.events(&verified) {
        Ok(Parsed { reply, events }) => {
            let events = events.into_iter().map(|event| new_event(shared, endpoint, verified.body(), event)).collect();
            (Delivered::Accepted, reply, events)
        }
        Err(error) => {
            tracing::error!(endpoint = endpoint.name, %error, "a signed delivery cannot be read; kept as a dead letter");
            (Delivered::Unreadable, Reply::ok(), vec![unreadable::event(verified.body())])
        }
    };
    if events.is_empty() {
        // A handshake: there is nothing to keep.
        return Ended::new(result, answer(reply));
    }
    let unrouted = Unrouted {
        provider: endpoint.provider.clone(),
        received_at: verified.at(),
        headers: kept(&verified.delivery().headers, webhook.kept_headers()),
        body: verified.body().clone(),
        events,
    };
    let Routed { deliveries, nobodys } = match routing::route(shared, endpoint, unrouted).await {
        Ok(routed) => routed,
        Err(error) => return Ended::new(Delivered::Unstored, Problem::store(&error)),
    };
    match shared.store.append(deliveries).await {
        Ok(appended) => {
            let count = appended.iter().flatten().count();
            let duplicates = appended.iter().flatten().filter(|one| matches!(one, Appended::Duplicate(_))).count();
            tracing::debug!(endpoint = endpoint.name, events = count, duplicates, "a delivery was stored");
            let result = if duplicates == count {
                Delivered::Duplicate
            } else if nobodys && result == Delivered::Accepted {
                Delivered::NoConnection
            } else {
                result
            };
            Ended::new(result, answer(reply))
        }
        Err(error) => Ended::new(Delivered::Unstored, Problem::store(&error)),
    }
}

fn new_event(shared: &Shared, endpoint: &Endpoint, body: &Bytes, event: Event) -> NewEvent {
    NewEvent {
        wanted: shared.worker.wants(&endpoint.provider, &event.kind),
        id: event.id,
        kind: event.kind,
        account: event.account,
        created: event.created,
        ordering_key: event.ordering_key,
        payload: (event.payload != *body).then_some(event.payload),
    }
}

/// Returns the headers to keep. One walk over all there are: few as they are, it takes less than looking up those that
/// may be kept, most of which are not there.
fn kept(headers: &HeaderMap, own: &[&str]) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        let is_kept = KEPT_HEADERS.iter().chain(own).any(|one| *one == name) && kept.iter().all(|(one, _)| one != name);
        if let Some(value) = value.to_str().ok().filter(|text| is_kept && text.len() <= KEPT_VALUE_BYTES_MAX) {
            kept.push((name.to_owned(), value.to_owned()));
        }
    }
    kept
}

/// Returns the URL as the provider signed it: the configured public address, or what the request names.
fn url_of(shared: &Shared, headers: &HeaderMap, path: &str) -> String {
    match &shared.settings.public_url {
        Some(base) => format!("{base}{path}"),
        None => {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
            format!("http://{host}{path}")
        }
    }
}

fn answer(reply: Reply) -> Response {
    let body = if reply.body.is_empty() { Body::empty() } else { Body::from(reply.body) };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    if let Some(kind) = reply.content_type {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}

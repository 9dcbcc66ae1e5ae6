//! `POST /webhooks/{endpoint}`: verify, split, append durably, then acknowledge. In this order and no other.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{OriginalUri, Request, State};
use axum::handler::Handler;
use axum::http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use palisade_core::store::{Appended, NewEvent};
use palisade_core::webhook::{
    Event, KeysWanted, Parsed, PublishedKeys, RawDelivery, Refusal, Reply, Verified, Webhook,
};
use tokio::time::Instant;

use super::room::Room;
use super::{Problem, too_large};
use crate::hub::Shared;
use crate::metrics::Delivered;
use crate::routing::{self, Endpoint, Routed, Routing, Unrouted};
use crate::senders;
use crate::unreadable;

/// The longest header value kept, in bytes.
const KEPT_VALUE_BYTES_MAX: usize = 256;

/// When whoever found no room may come again, in seconds.
const NO_ROOM_SECONDS: u64 = 5;

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

/// Receives deliveries, each within the bounds all requests have.
///
/// A delivery is one future, allocated once. It is kept small: what only few deliveries need (published keys, many
/// connections) is a future of its own, and the request is not moved from one to the next. As plain nested `async fn`
/// it was 4.6 KB, which was moved about and allocated beyond what the allocator keeps at hand.
#[derive(Clone, Copy)]
pub(crate) struct Receive;

impl Handler<(), Arc<Shared>> for Receive {
    type Future = BoxFuture<'static, Response>;

    fn call(self, mut request: Request, shared: Arc<Shared>) -> Self::Future {
        Box::pin(async move {
            let mut response = match endpoint_of(&shared, request.uri()) {
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
                Some(endpoint) => {
                    let answer = answer_to(&shared, endpoint, &mut request);
                    let answer = tokio::time::timeout(shared.settings.request_timeout, answer).await;
                    answer.unwrap_or_else(|_| super::timed_out())
                }
            };
            // An empty answer, as nearly all of them are, has nothing that could be framed, sniffed or kept.
            if !response.body().is_end_stream() {
                super::dress(&shared, &mut response);
            }
            response
        })
    }
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
    routing::find(&shared.endpoints, &name)
}

async fn answer_to(shared: &Shared, endpoint: &Endpoint, request: &mut Request) -> Response {
    let started = Instant::now();
    // Held until the delivery is stored, or refused.
    let mut room = shared.rooms.begin();
    let ended = match read(shared, endpoint, request.body_mut(), &mut room).await {
        Err(ended) => ended,
        Ok(body) => deliver(shared, endpoint, request, body).await,
    };
    shared.metrics.delivered(&endpoint.name, ended.result, started.elapsed());
    ended.response
}

/// The answer to a sender that is not one of the endpoint's. It tells nothing: the reason stands in the log.
fn not_from_there() -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", "this is not taken", "see the hub's log")
}

/// Takes the delivery out of its request.
fn raw(shared: &Shared, request: &mut Request, body: Bytes) -> RawDelivery {
    // As it was sent, also when the router is nested under a path.
    let uri = request.extensions().get::<OriginalUri>().map_or(request.uri(), |original| &original.0);
    let url = url_of(shared, request.headers(), uri.path_and_query().map_or("", |path| path.as_str()));
    let method = std::mem::take(request.method_mut());
    RawDelivery { method, url, headers: std::mem::take(request.headers_mut()), body }
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

/// Reads the body under the cap, as long as there is room. Endpoints without a secret are answered before it.
async fn read(shared: &Shared, endpoint: &Endpoint, body: &mut Body, room: &mut Room<'_>) -> Result<Bytes, Ended> {
    if endpoint.secrets.is_empty() {
        return Err(refused(shared, endpoint, Refusal::NoSecret));
    }
    let mut body = Limited::new(body, shared.settings.body_bytes_max);
    let (mut first, mut whole) = (Bytes::new(), BytesMut::new());
    // A body of known length says that it has ended with its last part, most often the only one.
    while !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) if !room.grow(first.len().max(whole.len()) + data.len()) => return Err(no_room()),
            Ok(Ok(data)) if first.is_empty() => first = data,
            Ok(Ok(data)) => {
                if whole.is_empty() {
                    whole.extend_from_slice(&first);
                }
                whole.extend_from_slice(&data);
            }
            // Trailers say nothing here.
            Ok(Err(_)) => {}
            Err(error) => return Err(unread(shared, error.as_ref())),
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

fn no_room() -> Ended {
    let problem = Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "overloaded",
        "too many large bodies arrive at once",
        "send it again",
    );
    Ended::new(Delivered::Unstored, problem.retry_after(NO_ROOM_SECONDS))
}

fn unread(shared: &Shared, error: &(dyn std::error::Error + Send + Sync + 'static)) -> Ended {
    if error.is::<LengthLimitError>() {
        return Ended::new(Delivered::TooLarge, too_large(shared));
    }
    Ended::new(Delivered::Broken, Problem::invalid("the body broke off", "send it again"))
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

/// What verifying a delivery comes to: most often at once.
enum Verifying<'v> {
    Done(Result<Verified, Refusal>),
    WithPublishedKeys(BoxFuture<'v, Result<Verified, Refusal>>),
}

/// Verifies a delivery.
fn verify<'v>(shared: &'v Shared, endpoint: &'v Endpoint, webhook: &'v dyn Webhook, raw: RawDelivery) -> Verifying<'v> {
    match webhook.published_keys(&raw) {
        None => Verifying::Done(Verified::check(webhook, raw, &endpoint.secrets, shared.clock.now())),
        Some(keys) => Verifying::WithPublishedKeys(Box::pin(verify_with(shared, endpoint, webhook, keys, raw))),
    }
}

/// Verifies a delivery where the provider publishes the keys. They are fetched first when it is time, and once more
/// when the delivery names one that is not there; whatever keeps them from being fetched refuses the delivery at worst,
/// and the provider sends it again.
async fn verify_with(
    shared: &Shared,
    endpoint: &Endpoint,
    webhook: &dyn Webhook,
    keys: &dyn PublishedKeys,
    raw: RawDelivery,
) -> Result<Verified, Refusal> {
    let now = shared.clock.now();
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
async fn deliver(shared: &Shared, endpoint: &Endpoint, request: &mut Request, body: Bytes) -> Ended {
    let webhook = shared.providers.get(endpoint.provider.as_str()).and_then(|provider| provider.webhook());
    let Some(webhook) = webhook else { return Ended::new(Delivered::Refused, unknown_endpoint()) };
    let verified = match verify(shared, endpoint, webhook, raw(shared, request, body)) {
        Verifying::Done(verified) => verified,
        Verifying::WithPublishedKeys(verifying) => verifying.await,
    };
    // Who wants an event is asked below, of what is known of destinations. Nobody else makes the store be read.
    if verified.is_ok()
        && let Some(learning) = shared.unknown_destinations()
        && let Err(error) = learning.await
    {
        return Ended::new(Delivered::Unstored, Problem::store(&error));
    }
    let Split { result, reply, unrouted } = match split(shared, endpoint, webhook, verified) {
        Ok(split) => split,
        Err(ended) => return ended,
    };
    let routed = match routing::route(shared, endpoint, unrouted) {
        Routing::Done(routed) => Ok(routed),
        Routing::ByAccount(routing) => routing.await,
    };
    let Routed { deliveries, nobodys } = match routed {
        Ok(routed) => routed,
        Err(error) => return Ended::new(Delivered::Unstored, Problem::store(&error)),
    };
    let appended = shared.store.append(deliveries).await;
    stored(endpoint, appended, result, nobodys, reply)
}

/// What a verified delivery holds.
struct Split {
    result: Delivered,
    reply: Reply,
    unrouted: Unrouted,
}

/// Splits a verified delivery into its events, or says how it ends before anything is stored.
fn split(
    shared: &Shared,
    endpoint: &Endpoint,
    webhook: &dyn Webhook,
    verified: Result<Verified, Refusal>,
) -> Result<Split, Ended> {
    let verified = verified.map_err(|refusal| refused(shared, endpoint, refusal))?;
    let (result, reply, events) = match webhook.events(&verified) {
        Ok(Parsed { reply, events }) => {
            let new = |event| new_event(shared, webhook, &endpoint.provider, verified.body(), event);
            let events = events.into_iter().map(new).collect();
            (Delivered::Accepted, reply, events)
        }
        Err(error) => {
            tracing::error!(endpoint = endpoint.name, %error, "a signed delivery cannot be read; kept as a dead letter");
            (Delivered::Unreadable, Reply::ok(), vec![unreadable::event(verified.body())])
        }
    };
    if events.is_empty() {
        // A handshake: there is nothing to keep.
        return Err(Ended::new(result, answer(reply)));
    }
    let unrouted = Unrouted {
        provider: endpoint.provider.clone(),
        received_at: verified.at(),
        headers: kept(&verified.delivery().headers, webhook.kept_headers()),
        body: verified.body().clone(),
        events,
    };
    Ok(Split { result, reply, unrouted })
}

/// Answers what was stored, or could not be.
fn stored(
    endpoint: &Endpoint,
    appended: palisade_core::Result<Vec<Vec<Appended>>>,
    result: Delivered,
    nobodys: bool,
    reply: Reply,
) -> Ended {
    let appended = match appended {
        Ok(appended) => appended,
        Err(error) => return Ended::new(Delivered::Unstored, Problem::store(&error)),
    };
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

fn new_event(shared: &Shared, webhook: &dyn Webhook, provider: &str, body: &Bytes, event: Event) -> NewEvent {
    NewEvent {
        subscription: webhook.subscription(&event),
        wanted: shared.worker.wants(provider, &event.kind),
        priority: shared.worker.priority(&event.kind),
        id: event.id,
        kind: event.kind,
        account: event.account,
        created: event.created,
        ordering_key: event.ordering_key,
        payload: (!is_same(&event.payload, body)).then_some(event.payload),
    }
}

/// Tells whether two texts are equal; most often they are one and the same.
fn is_same(one: &Bytes, other: &Bytes) -> bool {
    (one.as_ptr() == other.as_ptr() && one.len() == other.len()) || one == other
}

/// Tells whether a header is kept with a delivery of any provider, for replay and support. None of them is a credential
/// or a signature.
fn is_kept(name: &str) -> bool {
    matches!(
        name,
        "content-type" | "user-agent" | "date" | "x-request-id" | "traceparent" | "webhook-id" | "webhook-timestamp"
    )
}

/// Returns the headers to keep. One walk over all there are: few as they are, it takes less than looking up those that
/// may be kept, most of which are not there.
fn kept(headers: &HeaderMap, own: &[&str]) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        if !is_kept(name) && !own.contains(&name) || kept.iter().any(|(one, _)| one == name) {
            continue;
        }
        if let Some(value) = value.to_str().ok().filter(|text| text.len() <= KEPT_VALUE_BYTES_MAX) {
            kept.push((name.to_owned(), value.to_owned()));
        }
    }
    kept
}

/// Returns the URL as the provider signed it: the configured public address, or what the request names.
fn url_of(shared: &Shared, headers: &HeaderMap, path: &str) -> String {
    match &shared.settings.public_url {
        Some(base) => [base, path].concat(),
        None => {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
            ["http://", host, path].concat()
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

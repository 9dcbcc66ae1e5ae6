//! Connecting accounts in a browser, and ending connections.
//!
//! A browser begins with a link that works once (`POST /api/v1/connect-sessions`), or, if it may see the operations
//! page, without one. Everything that protects the flow is [`palisade_core::auth::connect`]'s; here are only addresses,
//! headers and pages.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, RawQuery, Request, State as Of};
use axum::http::header::{HOST, HeaderMap, HeaderValue, LOCATION, SET_COOKIE};
use axum::http::{StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use maud::html;
use palisade_core::auth::connect::{Begun, ConnectAsk, Connected, Disconnected, Refused, SessionAsk};
use palisade_core::store::{Connection, Revocation};
use palisade_core::{ConnectionId, Environment, Error, ErrorKind, Secret, TenantId};
use serde::Deserialize;
use serde_json::json;
use tracing::Instrument;

use super::{Problem, admin, json as answer, pages};
use crate::hub::Shared;
use crate::overview::{self, Reconnect};
use crate::time::rfc3339;

/// The query parameter a link's token stands in.
const SESSION: &str = "session";

type Named = Result<Path<HashMap<String, String>>, PathRejection>;

/// Returns the name of the flow an address is of.
fn flow_of(named: Named) -> Result<String, Problem> {
    let Ok(Path(parts)) = named else { return Err(Problem::unreadable_address()) };
    let provider = parts.get("provider").map(String::as_str).unwrap_or_default();
    let environment = parts.get("environment").map(|name| Environment::new(name.as_str()));
    Ok(environment.unwrap_or_default().flow(provider))
}

/// Runs to its end what must not be cut off by a browser that goes away, or by the bound on a request's time: what a
/// provider gave or ended would not be known here.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, Problem> {
    tokio::spawn(work.in_current_span()).await.map_err(|error| {
        tracing::error!(%error, "a connect or disconnect ended by a panic");
        let message = "something went wrong on our side";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, "look at the log, then try again")
    })
}

/// Reads the parameters of a query; the last of several with one name counts.
fn parameters(query: Option<&str>) -> HashMap<String, String> {
    let decode =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode(name), decode(value))).collect()
}

/// Sends the browser to the provider: `?session=` with a link's token, or, for whoever may see the operations page,
/// `?tenant=` and perhaps `return_to=`.
pub(crate) async fn begin(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    named: Named,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let base = pages::base(&original, request.uri());
    let flow = match flow_of(named) {
        Ok(flow) => flow,
        Err(problem) => return problem.into_response(),
    };
    let mut asked = parameters(query.as_deref());
    if let Some(token) = asked.remove(SESSION) {
        return match shared.connector.begin_session(&Secret::from(token)).await {
            Ok(begun) => depart(&begun),
            Err(refused) => refusal(&base, &refused),
        };
    }
    let peer = admin::peer(request.extensions());
    if let Err(refused) = admin::check(&shared, request.method(), request.uri(), request.headers(), peer) {
        return refused.into_response();
    }
    let Some(tenant) = asked.remove("tenant").filter(|tenant| !tenant.is_empty()) else {
        return Problem::invalid("the address names no tenant", "add ?tenant= with the tenant the account belongs to")
            .into_response();
    };
    let ask = ConnectAsk { return_to: asked.remove("return_to"), ..ConnectAsk::new(&flow, TenantId::new(tenant)) };
    begun(shared.connector.begin(ask).await)
}

fn begun(begun: palisade_core::Result<Begun>) -> Response {
    match begun {
        Ok(begun) => depart(&begun),
        Err(error) => problem(&error).into_response(),
    }
}

/// Sends the browser to the provider, bound to the flow by its cookie.
fn depart(begun: &Begun) -> Response {
    let (Ok(mut to), Ok(mut cookie)) =
        (HeaderValue::from_str(begun.redirect_url.expose()), HeaderValue::from_str(begun.set_cookie.expose()))
    else {
        return Problem::unreadable_address().into_response();
    };
    to.set_sensitive(true);
    cookie.set_sensitive(true);
    (StatusCode::SEE_OTHER, [(LOCATION, to), (SET_COOKIE, cookie)]).into_response()
}

/// Takes the browser back from the provider.
pub(crate) async fn callback(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    named: Named,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    uri: Uri,
) -> Response {
    let base = pages::base(&original, &uri);
    let flow = match flow_of(named) {
        Ok(flow) => flow,
        Err(problem) => return problem.into_response(),
    };
    let cookies = admin::cookies(&headers).collect::<Vec<_>>().join("; ");
    let finish = {
        let shared = Arc::clone(&shared);
        async move {
            let query = query.unwrap_or_default();
            let connected = shared.connector.finish(&flow, &query, Some(&cookies)).await?;
            // What it lists comes at once; a failure here is made up for by the next round of schedules.
            if let Err(error) = shared.worker.connect(&connected.connection).await {
                tracing::warn!(connection = %connected.connection.id, %error, "its first runs could not be enqueued");
            }
            Ok(connected)
        }
    };
    match to_its_end(finish).await {
        Ok(Ok(connected)) => arrival(&shared, &base, &connected),
        Ok(Err(refused)) => refusal(&base, &refused),
        Err(problem) => problem.into_response(),
    }
}

/// Sends the browser on to where the product wants it, or shows that it worked.
fn arrival(shared: &Shared, base: &str, connected: &Connected) -> Response {
    let mut response = match &connected.return_to {
        Some(target) => {
            let joint = if target.contains('?') { '&' } else { '?' };
            let id = percent_encoding::utf8_percent_encode(
                connected.connection.id.as_str(),
                percent_encoding::NON_ALPHANUMERIC,
            );
            admin::redirect(&format!("{target}{joint}connection={id}"))
        }
        None => {
            let title = title(shared, &connected.connection);
            let body = html! {
                main.login {
                    h1 { (title) " is connected" }
                    @if let Some(account) = &connected.connection.account { p.muted { (account) } }
                    @if connected.missing.is_empty() {
                        p { "You can close this page." }
                    } @else {
                        p.alert role="alert" {
                            "Not everything that was asked for was allowed: " (connected.missing.join(", "))
                            ". What needs it will not work until you connect again and allow it."
                        }
                    }
                }
            };
            Html(pages::document(base, "Connected", false, &body).into_string()).into_response()
        }
    };
    remove_cookie(&mut response, connected.clear_cookie.as_deref());
    response
}

/// Shows why nothing was connected: what happened and what to press.
fn refusal(base: &str, refused: &Refused) -> Response {
    let body = html! {
        main.login {
            h1 { (refused.title()) }
            p { (refused.happened()) }
            @match refused.return_to() {
                Some(target) => p { a.button href=(target) { (refused.press()) } },
                None => p.muted { (refused.press()) " from where you began: you can close this page." },
            }
        }
    };
    let status = StatusCode::from_u16(refused.kind().status()).unwrap_or(StatusCode::BAD_REQUEST);
    let page = Html(pages::document(base, refused.title(), false, &body).into_string());
    let mut response = (status, page).into_response();
    remove_cookie(&mut response, refused.clear_cookie());
    response
}

fn remove_cookie(response: &mut Response, cookie: Option<&str>) {
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::from_str(cookie).ok()) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

/// Words an error of the connector.
fn problem(error: &Error) -> Problem {
    let message = error.message().to_owned();
    if error.kind() == ErrorKind::NotFound {
        let next = "check the provider's and the connection's names";
        return Problem::new(StatusCode::NOT_FOUND, "not_found", message, next);
    }
    if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Config) {
        return Problem::invalid(message, "change the request or the configuration");
    }
    Problem::store(error)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionIn {
    tenant: String,
    provider: String,
    environment: Option<String>,
    connection: Option<String>,
    scopes: Option<Vec<String>>,
    return_to: Option<String>,
}

/// Makes a link that connects one account of one tenant, once, within 30 minutes.
pub(crate) async fn open_session(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    headers: HeaderMap,
    uri: Uri,
    body: Bytes,
) -> Result<Response, Problem> {
    let asked: SessionIn = serde_json::from_slice(&body).map_err(|_| {
        Problem::invalid(
            "the body is not a connect session",
            "send {\"tenant\":…,\"provider\":…} and perhaps environment, connection, scopes, return_to",
        )
    })?;
    let flow = asked.environment.map(Environment::from).unwrap_or_default().flow(&asked.provider);
    let ask = SessionAsk {
        tenant: TenantId::new(asked.tenant),
        flow: flow.clone(),
        connection: asked.connection.map(ConnectionId::new),
        scopes: asked.scopes,
        return_to: asked.return_to,
    };
    let link = shared.connector.open_session(ask).await.map_err(|error| problem(&error))?;
    let base = pages::base(&original, &uri);
    let public = match &shared.settings.public_url {
        Some(public) => public.clone(),
        None => {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            format!("http://{}{base}", host.unwrap_or("localhost"))
        }
    };
    let url = format!("{public}/connect/{flow}?{SESSION}={}", link.token.expose());
    let body = answer(&json!({ "url": url, "expires_at": rfc3339(link.expires_at) }));
    Ok((StatusCode::CREATED, body).into_response())
}

async fn stored(shared: &Shared, id: &str) -> Result<Connection, Problem> {
    let found = shared.store.connection(ConnectionId::new(id)).await?;
    found.ok_or_else(|| Problem::missing("there is no such connection"))
}

/// Connects the same account again, in place: the connection keeps its id and its records. Sends the browser to the
/// provider; or, where the configuration has the connection's credential, takes that and returns to the page.
pub(crate) async fn reconnect(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Problem> {
    let Ok(Path(id)) = id else { return Err(Problem::unreadable_address()) };
    let connection = stored(&shared, &id).await?;
    if let Some(config) = shared.configured(&connection.id) {
        shared.reconnect_configured(config).await.map_err(|error| problem(&error))?;
        return Ok(admin::redirect(&format!("{}/", pages::base(&original, &uri))));
    }
    let flow = connection.environment.flow(&connection.provider);
    let ask = ConnectAsk { connection: Some(connection.id), ..ConnectAsk::new(&flow, connection.tenant) };
    Ok(begun(shared.connector.begin(ask).await))
}

/// Ends a connection: revoked at the provider, every secret erased, its records kept.
pub(crate) async fn disconnect(
    Of(shared): Of<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Ok(Path(id)) = id else { return Err(Problem::unreadable_address()) };
    let (_, ended) = end(&shared, &id).await?;
    let grants: Vec<_> = ended
        .revocations
        .iter()
        .map(|(name, revocation)| json!({ "grant": name.as_str(), "revoked": revoked(*revocation) }))
        .collect();
    Ok(answer(&json!({ "id": id, "state": "disconnected", "grants": grants })))
}

async fn end(shared: &Arc<Shared>, id: &str) -> Result<(Connection, Disconnected), Problem> {
    let connection = stored(shared, id).await?;
    let (connector, id) = (shared.connector.clone(), connection.id.clone());
    let ended = to_its_end(async move { connector.disconnect(&id).await }).await?;
    Ok((connection, ended.map_err(|error| problem(&error))?))
}

fn revoked(revocation: Revocation) -> &'static str {
    match revocation {
        Revocation::Confirmed => "confirmed",
        Revocation::NotConfirmed => "not_confirmed",
        Revocation::NotOffered => "not_offered",
    }
}

// ------------------------------------------------------------------------------------------ from the operations page

/// Asks whether a connection is to be ended, and says what that does.
pub(crate) async fn confirm(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Problem> {
    let Ok(Path(id)) = id else { return Err(Problem::unreadable_address()) };
    let connection = stored(&shared, &id).await?;
    let base = pages::base(&original, &uri);
    let title = title(&shared, &connection);
    let after = match overview::reconnect(&shared, &connection) {
        Reconnect::Flow => "It can be connected again in the browser, in place.",
        Reconnect::Configured => {
            "It stays disconnected, also when the hub starts anew, until you reconnect it or its credential in the \
             configuration is another one."
        }
        Reconnect::Nothing => "Nothing in the configuration can connect it again: add a [[flow]] first if you want to.",
    };
    let body = html! {
        main.login {
            h1 { "Disconnect " (connection.id) "?" }
            p { "Its access is revoked at " (title) " as far as that can be done, and every secret of it is erased here. "
                "Its records and events are kept; nothing is synced any more." }
            p { (after) }
            form method="post" action={ (base) "/connections/" (pages::segment(connection.id.as_str())) "/disconnect" } {
                button.danger type="submit" { "Disconnect" }
            }
            p { a href={ (base) "/" } { "Keep it" } }
        }
    };
    Ok(Html(pages::document(&base, "Disconnect · Palisade", false, &body).into_string()).into_response())
}

/// Ends a connection and shows what its provider said.
pub(crate) async fn disconnect_from_page(
    Of(shared): Of<Arc<Shared>>,
    OriginalUri(original): OriginalUri,
    id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Problem> {
    let Ok(Path(id)) = id else { return Err(Problem::unreadable_address()) };
    let (connection, ended) = end(&shared, &id).await?;
    let base = pages::base(&original, &uri);
    let title = title(&shared, &connection);
    let open = ended.revocations.iter().any(|(_, revocation)| *revocation == Revocation::NotConfirmed);
    let confirmed = ended.revocations.iter().any(|(_, revocation)| *revocation == Revocation::Confirmed);
    let body = html! {
        main.login {
            h1 { (connection.id) " is disconnected" }
            p { "Every secret of it is erased here." }
            @if open {
                p.alert role="alert" {
                    (title) " did not confirm that the access is revoked. Its owner should remove the app there."
                }
            } @else if confirmed {
                p { (title) " confirmed that the access is revoked." }
            } @else {
                p { "There was nothing to revoke at " (title) ": a key that was entered by hand is revoked there by hand." }
            }
            p { a href={ (base) "/" } { "Back to the page" } }
        }
    };
    Ok(Html(pages::document(&base, "Disconnected · Palisade", false, &body).into_string()).into_response())
}

fn title(shared: &Shared, connection: &Connection) -> String {
    let provider = shared.providers.get(connection.provider.as_str());
    provider.map_or(connection.provider.as_str(), |provider| provider.manifest().title).to_owned()
}

//! The control plane under `/_emulator/` that every emulator has: dials, ledger, clock, authorisation server.

use bytes::Bytes;
use http::{Method, Request, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::faults::{Fault, Faults, RouteFaults, WebhookFaults};
use crate::gate::{self, Inner, Provider};
use crate::oauth::{Authority, ControlForm};

/// What `POST /_emulator/faults` takes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FaultForm {
    routes: Vec<RouteFaults>,
    next: Vec<NextForm>,
    webhooks: Option<WebhookFaults>,
    outage: Option<bool>,
    clear: bool,
}

#[derive(Debug, Deserialize)]
struct NextForm {
    route: String,
    faults: Vec<Fault>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClockForm {
    skew_seconds: Option<i64>,
    advance_seconds: Option<i64>,
}

/// Reads a control request's JSON; an empty body is an empty object.
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, String> {
    let text: &[u8] = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(text).map_err(|error| format!("control request: {error}"))
}

/// Shows the fault dials.
pub(crate) fn faults(faults: &Faults) -> Value {
    let (routes, webhooks) = faults.current();
    json!({ "routes": routes, "webhooks": webhooks })
}

/// Turns the fault dials.
pub(crate) fn turn(faults: &Faults, body: &Bytes) -> Result<Value, String> {
    let form: FaultForm = read(body)?;
    if form.clear {
        faults.clear_all();
    }
    form.routes.into_iter().for_each(|route| faults.set(route));
    form.next.into_iter().for_each(|next| faults.next(&next.route, next.faults));
    if let Some(webhooks) = form.webhooks {
        faults.webhooks(webhooks);
    }
    if let Some(outage) = form.outage {
        faults.outage(outage);
    }
    Ok(json!({ "ok": true }))
}

/// Shows or turns the authorisation server.
pub(crate) fn oauth(authority: &Authority, method: &Method, body: &Bytes, now: i64) -> Result<Value, String> {
    if method == Method::GET {
        return Ok(authority.show());
    }
    Ok(authority.turn(read::<ControlForm>(body)?, now))
}

/// Answers a control request.
pub(crate) fn answer<P: Provider>(inner: &Inner<P>, request: &Request<Bytes>) -> Response<Bytes> {
    match route(inner, request) {
        Ok(value) => gate::json(200, &value),
        Err(message) => gate::json(400, &json!({ "error": message })),
    }
}

fn route<P: Provider>(inner: &Inner<P>, request: &Request<Bytes>) -> Result<Value, String> {
    let (method, path, body) = (request.method(), request.uri().path(), request.body());
    let house = &inner.house;
    match (method.as_str(), path) {
        ("GET", "/_emulator/ledger") => Ok(serde_json::to_value(house.book().snapshot()).unwrap_or(Value::Null)),
        ("GET", "/_emulator/faults") => Ok(faults(&house.faults)),
        ("POST", "/_emulator/faults") => turn(&house.faults, body),
        ("GET" | "POST", "/_emulator/oauth") => oauth(inner.provider.authority(), method, body, house.now()),
        ("POST", "/_emulator/clock") => {
            let form: ClockForm = read(body)?;
            if let Some(skew) = form.skew_seconds {
                house.shift(skew.saturating_mul(1000), false);
            }
            if let Some(advance) = form.advance_seconds {
                house.shift(advance.saturating_mul(1000), true);
            }
            Ok(json!({ "ok": true }))
        }
        (method, path) => inner
            .provider
            .control(house, method, path, body)
            .unwrap_or_else(|| Err(format!("no such control request: {method} {path}"))),
    }
}

//! Stripe Connect's OAuth: authorise, trade a code, refresh, disconnect. Errors are flat, as Connect's are.

#![allow(clippy::indexing_slicing, reason = "reading a JSON value by name never panics")]

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::desk::Desk;
use super::error::Failure;
use super::{Stripe, form};

/// Makes a flat OAuth error.
fn refused(status: u16, code: &str, text: impl Into<String>) -> Failure {
    let mut failure = Failure::new(status, code, "");
    failure.error = json!({ "error": code, "error_description": text.into() });
    failure
}

/// Answers the browser's visit to `/oauth/authorize`: the user always agrees, or declines when `deny=true` is added.
///
/// `account=acct_…` chooses the account that connects; else a new one is made.
pub(crate) fn authorize(stripe: &Stripe, query: &str) -> Response<Bytes> {
    let params = form::parse(query).unwrap_or(Value::Null);
    let target = form::text(&params, "redirect_uri").unwrap_or("http://127.0.0.1/").to_owned();
    let own = stripe.inner.config.account.clone();
    let answer = if form::text(&params, "deny") == Some("true") {
        "error=access_denied&error_description=The+user+denied+your+request".to_owned()
    } else {
        stripe.at_desk(&own, |desk| {
            let account = form::text(&params, "account").map_or_else(|| desk.id("acct_1"), str::to_owned);
            let code = desk.id("ac_");
            desk.world.connected.insert(account.clone());
            desk.world.grants.insert(code.clone(), account);
            format!("scope=read_write&code={code}")
        })
    };
    let state =
        form::text(&params, "state").map(|state| format!("&state={}", utf8_percent_encode(state, NON_ALPHANUMERIC)));
    let joint = if target.contains('?') { '&' } else { '?' };
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::FOUND;
    if let Ok(location) = HeaderValue::from_str(&format!("{target}{joint}{answer}{}", state.unwrap_or_default())) {
        response.headers_mut().insert("location", location);
    }
    response
}

/// Answers `POST /oauth/token`.
pub(crate) fn token(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    let (name, noun) = match form::text(params, "grant_type") {
        Some("authorization_code") => ("code", "Authorization code"),
        Some("refresh_token") => ("refresh_token", "Refresh token"),
        Some(other) => {
            return Err(refused(400, "unsupported_grant_type", format!("Grant type is not supported: {other}")));
        }
        None => return Err(refused(400, "invalid_request", "No grant type specified")),
    };
    let given =
        form::text(params, name).ok_or_else(|| refused(400, "invalid_request", format!("No {name} provided")))?;
    let prefix = if name == "code" { "ac_" } else { "rt_" };
    // A code works once; a refresh token stays.
    let account = if name == "code" { desk.world.grants.remove(given) } else { desk.world.grants.get(given).cloned() };
    let account = account
        .filter(|_| given.starts_with(prefix))
        .ok_or_else(|| refused(400, "invalid_grant", format!("{noun} does not exist: {given}")))?;
    let (access, public) = (desk.id("sk_test_"), desk.id("pk_test_"));
    let refresh = if name == "code" { desk.id("rt_") } else { given.to_owned() };
    desk.world.keys.insert(access.clone());
    desk.world.grants.insert(access.clone(), account.clone());
    desk.world.grants.insert(refresh.clone(), account.clone());
    Ok(json!({
        "access_token": access, "livemode": false, "refresh_token": refresh, "scope": "read_write",
        "stripe_publishable_key": public, "stripe_user_id": account, "token_type": "bearer",
    }))
}

/// Answers `POST /oauth/deauthorize`: the account and its tokens are gone, and connected endpoints hear of it.
pub(crate) fn deauthorize(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    let account = form::text(params, "stripe_user_id")
        .ok_or_else(|| refused(400, "invalid_request", "No stripe_user_id provided"))?;
    if !desk.world.connected.remove(account) {
        return Err(refused(
            401,
            "invalid_client",
            format!("This application is not connected to stripe account {account}, or that account does not exist."),
        ));
    }
    let gone: Vec<String> =
        desk.world.grants.iter().filter(|(_, of)| *of == account).map(|(token, _)| token.clone()).collect();
    for token in gone {
        desk.world.grants.remove(&token);
        desk.world.keys.remove(&token);
    }
    let own = std::mem::replace(&mut desk.account, account.to_owned());
    let application = form::text(params, "client_id").unwrap_or("ca_emulator");
    desk.emit_row(
        "account.application.deauthorized",
        &json!({ "id": application, "object": "application", "name": "Emulated" }),
        &super::state::Links::new(),
        None,
    );
    desk.account = own;
    Ok(json!({ "stripe_user_id": account }))
}

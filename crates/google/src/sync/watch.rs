//! The channels Google tells of changes through: a Pub/Sub topic for a mailbox, a webhook for a calendar. Both end after
//! a week at the latest. A mailbox is asked for anew every day (Gmail API, push notifications: "call watch once per
//! day"), a calendar at half its channel's life.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use palisade_core::call::{Call, Operation};
use palisade_core::sync::Site;
use palisade_core::sync::watch::{Watch, WatchAsk, WatchSpec};
use palisade_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::{EVENTS, MESSAGES, calendar, config, decode, text};
use crate::client::address;
use crate::time::millis;
use crate::{operation, webhook};

const DAY: Duration = Duration::from_secs(86_400);
const WEEK: Duration = Duration::from_secs(7 * 86_400);
const HALF_A_WEEK: Duration = Duration::from_secs(7 * 43_200);

const MAILBOX: WatchSpec = WatchSpec { stream: MESSAGES, lives_max: WEEK, renew_every: DAY };
const CALENDAR: WatchSpec = WatchSpec { stream: EVENTS, lives_max: WEEK, renew_every: HALF_A_WEEK };

pub(super) static BOTH: [WatchSpec; 2] = [MAILBOX, CALENDAR];
pub(super) static MAIL_ONLY: [WatchSpec; 1] = [MAILBOX];
pub(super) static CALENDAR_ONLY: [WatchSpec; 1] = [CALENDAR];

/// Google takes channel ids of up to 64 characters (Calendar API, channels resource).
const CHANNEL_CHARS_MAX: usize = 64;

fn post(site: &Site, operation: &'static Operation, path: &str, body: Option<&Value>) -> Result<Request<Bytes>> {
    let base = address::base_of(&site.base_url, path);
    let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let mut request = Request::post(format!("{base}{path}"))
        .header("accept", "application/json")
        .header("content-length", bytes.len())
        .body(bytes)
        .map_err(|_| config("the base URL is not a URL"))?;
    if body.is_some() {
        request.headers_mut().insert("content-type", address::JSON);
    }
    let call = Call::new(operation, site.connection.clone(), site.tenant.clone()).background();
    request.extensions_mut().insert(call);
    Ok(request)
}

/// Checks `projects/P/topics/T`.
///
/// # Errors
/// [`ErrorKind::Config`] when it is none.
pub(crate) fn check_topic(topic: &str) -> Result<()> {
    let named =
        |part: Option<&str>| part.is_some_and(|name| !name.is_empty() && name.bytes().all(|c| c.is_ascii_graphic()));
    let mut parts = topic.split('/');
    let right = parts.next() == Some("projects")
        && named(parts.next())
        && parts.next() == Some("topics")
        && named(parts.next())
        && parts.next().is_none();
    if right { Ok(()) } else { Err(config("the Pub/Sub topic is not one such as projects/acme/topics/gmail")) }
}

/// Checks what a calendar's channel is asked for with.
///
/// # Errors
/// [`ErrorKind::Config`] for an id or address Google would refuse.
pub(crate) fn check_channel(id: &str, address: &str) -> Result<()> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_+/=".contains(&c);
    if id.is_empty() || id.len() > CHANNEL_CHARS_MAX || !id.bytes().all(plain) {
        return Err(config("a channel's id is 1 to 64 letters, digits or any of -_+/="));
    }
    let uri: Option<http::Uri> = address.parse().ok();
    if !address.starts_with("https://") || uri.is_none_or(|uri| uri.authority().is_none()) {
        return Err(config("Google posts to https addresses only: set the hub's public URL"));
    }
    Ok(())
}

/// The body of a watch on a calendar.
pub(crate) fn channel_body(id: &str, address: &str, token: &str) -> Value {
    json!({
        "id": id,
        "type": "web_hook",
        "address": address,
        "token": token,
        "params": { "ttl": WEEK.as_secs().to_string() },
    })
}

pub(super) fn mailbox(site: &Site, topic: &str) -> Result<Request<Bytes>> {
    check_topic(topic)?;
    post(site, &operation::WATCH, "/gmail/v1/users/me/watch", Some(&json!({ "topicName": topic })))
}

pub(super) fn calendar(site: &Site, ask: &WatchAsk) -> Result<Request<Bytes>> {
    check_channel(&ask.channel, &ask.address)?;
    let token = webhook::channel::token(&ask.secret, &ask.channel);
    let body = channel_body(&ask.channel, &ask.address, token.expose());
    post(site, &operation::EVENTS_WATCH, &format!("{}/watch", calendar::path(site)?), Some(&body))
}

pub(super) fn mailbox_watched(ask: &WatchAsk, value: &Value) -> Result<Watch> {
    let expires_at = value.get("expiration").and_then(millis);
    let expires_at = Some(expires_at.ok_or_else(|| decode("the watch does not say when it ends"))?);
    Ok(Watch { stream: ask.stream.clone(), channel: None, resource: None, expires_at })
}

pub(super) fn calendar_watched(ask: &WatchAsk, value: &Value) -> Result<Watch> {
    if text(value, "id") != Some(ask.channel.as_str()) {
        return Err(decode("the channel that came is not the one asked for"));
    }
    let resource = text(value, "resourceId").ok_or_else(|| decode("the channel has no resource id"))?;
    Ok(Watch {
        stream: ask.stream.clone(),
        channel: Some(ask.channel.clone()),
        resource: Some(resource.to_owned()),
        expires_at: value.get("expiration").and_then(millis),
    })
}

pub(super) fn stop_mailbox(site: &Site) -> Result<Request<Bytes>> {
    post(site, &operation::STOP, "/gmail/v1/users/me/stop", None)
}

pub(super) fn stop_channel(site: &Site, watch: &Watch) -> Result<Request<Bytes>> {
    let (Some(channel), Some(resource)) = (&watch.channel, &watch.resource) else {
        return Err(Error::new(ErrorKind::Config, "the channel has no ids to end it by").during("google", "sync"));
    };
    let body = json!({ "id": channel, "resourceId": resource });
    post(site, &operation::CHANNELS_STOP, "/calendar/v3/channels/stop", Some(&body))
}

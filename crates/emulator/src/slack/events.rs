//! What Slack sends: events, the handshake, slash commands and interactivity, all signed alike.
//!
//! Facts from docs.slack.dev (Events API, verifying requests, slash commands, handling interactivity, read November
//! 2026). The wait between attempts is the configuration's; Slack's own is none, one minute, five minutes.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method, Request, Response};
use serde_json::{Value, json};
use sha2::Sha256;

use super::SlackProvider;
use super::world::{Happened, Message};
use crate::gate::House;
use crate::params::encode_all;
use crate::post::{Failed, Parcel, Sort};

/// How old the signature of a replayed delivery is, in seconds; receivers accept 300.
const REPLAY_AGE: i64 = 3600;
/// How often and how long a `response_url` works (docs.slack.dev, handling interactivity).
const RESPONSES_MAX: u32 = 5;
const RESPONSE_LIFE: i64 = 30 * 60 * 1000;
/// How many `response_url`s are remembered.
const REMEMBERED_MAX: usize = 10_000;

/// Where events go, and which.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subscription {
    pub(crate) url: String,
    /// Event names such as `message.channels`, or beginnings such as `message.*`, or `*`.
    pub(crate) events: Vec<String>,
}

impl Subscription {
    fn wants(&self, kind: &str) -> bool {
        self.events.iter().any(|wanted| match wanted.strip_suffix('*') {
            Some(prefix) => kind.starts_with(prefix),
            None => wanted == kind,
        })
    }
}

/// A `response_url` that was given away.
#[derive(Debug, Clone)]
pub(crate) struct ResponseUrl {
    team: String,
    channel: String,
    left: u32,
    until: i64,
    /// The message the interaction came from, which an answer may replace or delete.
    message: Option<u64>,
}

/// Signs a body as Slack does: `v0=` and the HMAC-SHA256 of `v0:timestamp:body` in hexadecimal.
#[must_use]
pub fn signature(secret: &str, timestamp: i64, body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(format!("v0:{timestamp}:").as_bytes());
    mac.update(body);
    let mut out = String::from("v0=");
    for byte in mac.finalize().into_bytes() {
        out.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        out.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    out
}

impl SlackProvider {
    /// Makes the signed request that delivers something.
    pub(crate) fn sealed(&self, house: &House, parcel: &Parcel) -> Option<Request<Bytes>> {
        let now = house.now() / 1000;
        let (secret, at) = match parcel.sort {
            Sort::True => (self.config.signing_secret.as_str(), now),
            Sort::Replayed => (self.config.signing_secret.as_str(), now - REPLAY_AGE),
            Sort::Forged => ("not-the-signing-secret", now),
        };
        let kind = if parcel.form { "application/x-www-form-urlencoded" } else { "application/json" };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&parcel.url)
            .header("content-type", kind)
            .header("user-agent", "Slackbot 1.0 (+https://api.slack.com/robots)")
            .header("x-slack-request-timestamp", at)
            .header("x-slack-signature", signature(secret, at, &parcel.body));
        if let Some(failed) = parcel.failed {
            let reason = match failed {
                Failed::Timeout => "http_timeout",
                Failed::Connection => "connection_failed",
                Failed::Status => "http_error",
            };
            request = request.header("x-slack-retry-num", parcel.attempt).header("x-slack-retry-reason", reason);
        }
        request.body(parcel.body.clone()).ok()
    }

    /// Gives the wait before the next attempt, unless the receiver asked for none.
    pub(crate) fn wait(&self, parcel: &Parcel, answer: Option<&Response<Bytes>>) -> Option<Duration> {
        let refused = |headers: &HeaderMap| headers.get("x-slack-no-retry").is_some_and(|value| value == "1");
        if answer.is_some_and(|answer| refused(answer.headers())) {
            return None;
        }
        self.config.event_retries.get(parcel.attempt).copied()
    }

    /// Turns what happened into deliveries for the app, if it is installed, subscribed and a member.
    pub(crate) fn announce(&self, house: &House) {
        let happened = std::mem::take(&mut self.world().happened);
        house.book().ledger.events_created += happened.len() as u64;
        let Some(subscription) = self.subscription() else { return };
        let parcels: Vec<Parcel> = happened
            .into_iter()
            .filter(|news| subscription.wants(&news.kind))
            .filter_map(|news| self.wrap(house, &subscription.url, news))
            .collect();
        house.post.leave(parcels);
    }

    fn wrap(&self, house: &House, url: &str, news: Happened) -> Option<Parcel> {
        let client = self.config.clients.first()?.id.clone();
        if !news.parting && !self.is_installed(&client, &news.team) {
            return None;
        }
        let (bot_user, _) = self.bot(&client, &news.team);
        let present = |members: &BTreeSet<String>| members.contains(&bot_user);
        if !news.members.as_ref().is_none_or(present) {
            return None;
        }
        let id = self.world().id("Ev");
        let enterprise = self.config.enterprise.as_ref().map(|(id, _)| id.clone());
        let body = json!({
            "token": "verification-token-is-deprecated", "team_id": news.team, "enterprise_id": enterprise,
            "context_team_id": news.team, "context_enterprise_id": enterprise, "api_app_id": self.config.app_id,
            "event": news.event, "type": "event_callback", "event_id": id, "event_time": house.now() / 1000,
            "authorizations": [{
                "enterprise_id": enterprise, "team_id": news.team, "user_id": bot_user, "is_bot": true,
                "is_enterprise_install": false,
            }],
            "is_ext_shared_channel": false, "event_context": format!("4-{id}"),
        });
        Some(Parcel::json(&id, url, Bytes::from(body.to_string())))
    }

    /// Tells whether the app holds a live token for a workspace.
    pub(crate) fn is_installed(&self, client: &str, team: &str) -> bool {
        self.authority.state().has_live(|id, facts| {
            let place = facts.get("team").map(String::as_str);
            id == client && (place == Some(team) || (place.is_none() && self.config.enterprise.is_some()))
        })
    }

    /// Posts something at once, outside the queue, as Slack does when a person waits for the answer.
    pub(crate) async fn ask(&self, house: &House, parcel: &Parcel) -> Option<Response<Bytes>> {
        let request = self.sealed(house, parcel)?;
        let sending = (house.post.poster)(request);
        tokio::time::timeout(house.post.timeout, sending).await.ok().flatten()
    }

    /// Gives a new `response_url`.
    pub(crate) fn response_url(&self, house: &House, team: &str, channel: &str, message: Option<u64>) -> String {
        let token = self.world().dice.name("", 24);
        let given = ResponseUrl {
            team: team.to_owned(),
            channel: channel.to_owned(),
            left: RESPONSES_MAX,
            until: house.now().saturating_add(RESPONSE_LIFE),
            message,
        };
        let mut responses = self.responses();
        if responses.len() >= REMEMBERED_MAX {
            responses.clear();
        }
        responses.insert(token.clone(), given);
        format!("{}/commands/{team}/{token}", house.base_url())
    }

    /// Answers a post to a `response_url`.
    pub(crate) fn respond(&self, house: &House, token: &str, body: &[u8]) -> Result<Value, (u16, &'static str)> {
        let message: Value = serde_json::from_slice(body).map_err(|_| (400, "invalid_payload"))?;
        let given = {
            let mut responses = self.responses();
            let given = responses.get_mut(token).ok_or((404, "expired_url"))?;
            if house.now() >= given.until {
                return Err((404, "expired_url"));
            }
            if given.left == 0 {
                return Err((404, "used_url"));
            }
            given.left -= 1;
            given.clone()
        };
        let flag = |name: &str| message.get(name).and_then(Value::as_bool).unwrap_or_default();
        let text = message.get("text").and_then(Value::as_str).unwrap_or_default();
        let blocks = message.get("blocks").filter(|blocks| blocks.is_array()).cloned();
        if text.is_empty() && blocks.is_none() && !flag("delete_original") {
            return Err((400, "no_text"));
        }
        let client = self.config.clients.first().map(|client| client.id.clone()).unwrap_or_default();
        let (me, bot) = self.bot(&client, &given.team);
        let now = house.now();
        let mut world = self.world();
        match given.message {
            Some(ts) if flag("delete_original") => {
                world.erase(&given.team, &given.channel, ts, now);
            }
            Some(ts) if flag("replace_original") => {
                world.edit(&given.team, &given.channel, ts, &me, now, |original| {
                    original.text = text.to_owned();
                    original.blocks = blocks;
                });
            }
            Some(_) | None if message.get("response_type").and_then(Value::as_str) == Some("in_channel") => {
                let message = Message { bot: Some(bot), blocks, ..Message::plain(&me, text) };
                world.post(&given.team, &given.channel, message, now);
            }
            // For one person's eyes only: nothing is stored.
            Some(_) | None => {}
        }
        drop(world);
        self.said().push(message);
        Ok(json!({ "ok": true }))
    }
}

/// Writes a slash command as the form Slack sends.
pub(crate) fn command_form(fields: &[(&str, &str)]) -> Bytes {
    Bytes::from(encode_all(fields.iter().copied()))
}

/// Names what a delivery tells of a message's writing or edit by the workspace, the place and the time: a message that was
/// found in a list is told from others by the same.
pub(crate) fn message_name(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let told = |path: &str| body.pointer(path).and_then(Value::as_str);
    let channel = told("/event/channel").filter(|_| told("/event/type") == Some("message"))?;
    match told("/event/subtype") {
        Some("message_deleted") => None,
        Some("message_changed") => {
            let (ts, edited) = (told("/event/message/ts")?, told("/event/message/edited/ts")?);
            Some(format!("message.message_changed:{channel}:{ts}:{edited}"))
        }
        Some(_) | None => Some(format!("message:{channel}:{}", told("/event/ts")?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_matches_the_published_example() {
        // docs.slack.dev, verifying requests from Slack.
        let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        assert_eq!(
            signature("8f742231b10e8888abcd99yyyzzz85a5", 1_531_420_618, body),
            "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
        );
    }

    #[test]
    fn subscriptions_match_names_and_beginnings() {
        let wants = |pattern: &str, kind: &str| {
            Subscription { url: String::new(), events: vec![pattern.to_owned()] }.wants(kind)
        };
        assert!(wants("*", "team_join") && wants("message.*", "message.im") && wants("team_join", "team_join"));
        assert!(!wants("message.im", "message.channels") && !wants("message.*", "member_joined_channel"));
    }
}

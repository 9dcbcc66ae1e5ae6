//! Deliveries from Slack: the signature over the exact bytes, and the events inside. Pure; time is an argument.
//!
//! Signature: `X-Slack-Signature: v0=<hex>`, HMAC-SHA256 under the app's signing secret of `v0:<time>:<body>`, the time
//! from `X-Slack-Request-Timestamp` (docs.slack.dev, verifying requests; slack_sdk 3.47, @slack/bolt 5.1). Where the
//! official SDKs disagree the stricter reading is taken: the window counts both ways, a time that is no number is
//! refused before anything is computed.
//!
//! Four things arrive at one address: events (JSON), slash commands and interactions (forms), and what Slack says of
//! the app itself. What becomes of an event's name:
//!
//! | Slack sends | event type here |
//! |---|---|
//! | an event | its type: `app_mention`; a message's subtype behind it: `message.message_changed` |
//! | an event our own app caused | the same behind `echo.`, if it changes a record; otherwise none |
//! | a slash command `/deploy` | `slash_command.deploy`; its fields as a JSON object |
//! | an interaction | `interaction.block_actions`, `interaction.view_submission` and so on |
//! | `app_rate_limited` | `app_rate_limited` |
//!
//! An event's id is Slack's `event_id`, but for a message that was written or edited: that is named by its place and
//! time, so that the event and what a run finds of the same message are one.

use std::borrow::Cow;

use http::HeaderName;
use palisade_core::webhook::standard::check_time;
use palisade_core::webhook::{
    Event, Parsed, RawDelivery, Refusal, Reply, Senders, TOLERANCE_SECONDS, Verified, Webhook, hmac, unreadable,
};
use palisade_core::{Error, EventId, Result, Secret, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::json::{id, text, ts_millis};
use crate::sync::effect;

/// The header with the signature.
pub static SIGNATURE: HeaderName = HeaderName::from_static("x-slack-signature");
/// The header with the signed time, in seconds.
pub static TIMESTAMP: HeaderName = HeaderName::from_static("x-slack-request-timestamp");
/// The header that counts the repetitions of a delivery: absent at first, then 1 to 3.
pub static RETRY_NUM: HeaderName = HeaderName::from_static("x-slack-retry-num");
/// The header that says why a delivery is repeated (`http_timeout`, `http_error` and others).
pub static RETRY_REASON: HeaderName = HeaderName::from_static("x-slack-retry-reason");
/// What the types of events begin with that our own app caused.
pub const ECHO: &str = "echo.";
/// The type of a message that was written.
pub(crate) const MESSAGE: &str = "message";
/// The type of a message that was edited.
pub(crate) const MESSAGE_CHANGED: &str = "message.message_changed";
/// What messages are subscribed to by, for each `channel_type` (docs.slack.dev, events, `message.channels` and the like).
static SUBSCRIPTIONS: [(&str, &str); 4] =
    [("channel", "message.channels"), ("group", "message.groups"), ("im", "message.im"), ("mpim", "message.mpim")];
/// Slack's ids, types and commands are far shorter; longer ones would only fill rows.
const NAME_BYTES_MAX: usize = 255;
/// Slack's challenges have 52 characters.
const CHALLENGE_BYTES_MAX: usize = 1_000;
/// An app's own joining and leaving is news, though it is the one who did it (@slack/bolt 5.1, `ignoreSelf`).
const NEVER_ECHOES: [&str; 2] = ["member_joined_channel", "member_left_channel"];

/// Slack's deliveries.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlackWebhook;

/// Makes the value of the signature header for a body sent at a time: for tests and for products that send themselves
/// events. The time's seconds go into the other header.
#[must_use]
pub fn sign(secret: &Secret, at: Timestamp, body: &[u8]) -> String {
    format!("v0={}", hmac::to_lower_hex(&code(secret, at.seconds().to_string().as_bytes(), body)))
}

fn code(secret: &Secret, time: &[u8], body: &[u8]) -> [u8; hmac::CODE_BYTES] {
    secret.hmac_key().code(&[b"v0:", time, b":", body])
}

/// Why and for which time a delivery is repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// 1 to 3.
    pub number: u8,
    /// `http_timeout`, `too_many_redirects`, `connection_failed`, `ssl_error`, `http_error` or `unknown_error`.
    pub reason: Option<String>,
}

/// Tells whether Slack sent this delivery before. The events in it have the same ids each time.
#[must_use]
pub fn retry(delivery: &RawDelivery) -> Option<Retry> {
    let number = delivery.header(&RETRY_NUM).ok()?.parse().ok()?;
    let reason = delivery.header(&RETRY_REASON).ok().and_then(crate::error::short);
    Some(Retry { number, reason })
}

impl Webhook for SlackWebhook {
    fn senders(&self) -> Senders {
        Senders::Unpublished { why: "Slack publishes no addresses its requests come from, and signs them instead" }
    }

    fn verify(&self, delivery: &RawDelivery, secrets: &[Secret], now: Timestamp) -> Result<(), Refusal> {
        let [signature, time] = delivery.header_bytes([&SIGNATURE, &TIMESTAMP])?;
        check_time(time, now, TOLERANCE_SECONDS)?;
        let Some(given) = signature.strip_prefix(b"v0=") else {
            let is_another = signature.contains(&b'=');
            return Err(if is_another {
                Refusal::UnknownScheme
            } else {
                Refusal::Malformed("the signature header is not version=code")
            });
        };
        for secret in secrets {
            if hmac::matches_lower_hex(&code(secret, time, &delivery.body), given) {
                return Ok(());
            }
        }
        Err(Refusal::Mismatch)
    }

    /// Gives the one event of a delivery, or none for a handshake. Its ordering key is the conversation it happened in:
    /// what happens in one channel is handled in order of arrival, and no channel waits for another.
    fn events(&self, verified: &Verified) -> Result<Parsed> {
        let body = verified.body().trim_ascii();
        if body.first() == Some(&b'{') { of_json(verified) } else { of_form(verified) }
    }

    fn kept_headers(&self) -> &'static [&'static str] {
        &["x-slack-retry-num", "x-slack-retry-reason"]
    }

    /// One app has one URL for all workspaces: each event names the installation it is for.
    fn names_account(&self) -> bool {
        true
    }

    /// Messages of each kind of conversation are subscribed to by themselves.
    fn subscription(&self, event: &Event) -> Option<Cow<'static, str>> {
        #[derive(Deserialize)]
        struct Delivery<'a> {
            #[serde(borrow)]
            event: Place<'a>,
        }
        #[derive(Deserialize)]
        struct Place<'a> {
            #[serde(borrow)]
            channel_type: Cow<'a, str>,
        }
        let kind = event.kind.strip_prefix(ECHO).unwrap_or(&event.kind);
        if kind.strip_prefix(MESSAGE).is_none_or(|rest| !rest.is_empty() && !rest.starts_with('.')) {
            return None;
        }
        let delivery: Delivery<'_> = serde_json::from_slice(&event.payload).ok()?;
        subscription_of(&delivery.event.channel_type).map(Cow::Borrowed)
    }

    fn may_end_grant(&self, kind: &str) -> bool {
        matches!(kind, "app_uninstalled" | "tokens_revoked")
    }

    fn ends_grant(&self, event: &Event) -> bool {
        ends_grant(event)
    }
}

/// Tells whether the workspace took the app's bot token back. People take back their own tokens one by one, and the
/// bot stays.
fn ends_grant(event: &Event) -> bool {
    match event.kind.as_str() {
        "app_uninstalled" => true,
        "tokens_revoked" => {
            let Ok(envelope) = Envelope::read(&event.payload) else { return false };
            let bots = envelope.inner().ok().and_then(|inner| inner.pointer("/tokens/bot")?.as_array().map(Vec::len));
            bots.is_some_and(|count| count > 0)
        }
        _ => false,
    }
}

/// Returns what messages of a `channel_type` are subscribed to by.
pub(crate) fn subscription_of(channel_type: &str) -> Option<&'static str> {
    SUBSCRIPTIONS.iter().find(|(kind, _)| *kind == channel_type).map(|(_, subscription)| *subscription)
}

/// Names the event of a message's writing or edit by its place and time: whoever sees the message can make the same name.
/// `None` for every other event, and for changes that are no edits, as when a link's preview is added.
pub(crate) fn message_event_id(kind: &str, inner: &Value) -> Option<EventId> {
    let channel = id(inner, "channel")?;
    let edit = |message: &Value| message.get("edited").and_then(|edited| text(edited, "ts")).map(str::to_owned);
    let name = match kind {
        MESSAGE_CHANGED => {
            let (message, before) =
                (inner.get("message")?, inner.get("previous_message").filter(|one| one.is_object())?);
            let edited = edit(message).filter(|edited| edit(before).as_ref() != Some(edited))?;
            format!("{kind}:{channel}:{}:{edited}", text(message, "ts")?)
        }
        _ if inner.get("message").is_some() || inner.get("deleted_ts").is_some() => return None,
        _ => {
            let of_message = kind == MESSAGE || kind.strip_prefix(MESSAGE)?.starts_with('.');
            format!("{MESSAGE}:{channel}:{}", text(inner, "ts").filter(|_| of_message)?)
        }
    };
    (name.len() <= NAME_BYTES_MAX).then(|| EventId::new(name))
}

fn parsed(events: Vec<Event>) -> Parsed {
    Parsed { reply: Reply::ok(), events }
}

fn wrong(why: &'static str) -> Error {
    unreadable("slack", why)
}

/// Checks a name that is kept in a row.
fn name(text: &str) -> Result<&str> {
    let fits = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
    if fits { Ok(text) } else { Err(wrong("an id or type is empty or longer than any of Slack's")) }
}

/// A delivery of the Events API, as far as it is the same for all types.
#[derive(Deserialize)]
pub(crate) struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: String,
    team_id: Option<String>,
    enterprise_id: Option<String>,
    api_app_id: Option<String>,
    event_id: Option<String>,
    event_time: Option<i64>,
    challenge: Option<String>,
    minute_rate_limited: Option<i64>,
    #[serde(default)]
    authorizations: Vec<Authorization>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
}

/// The installation a delivery is for.
#[derive(Deserialize)]
struct Authorization {
    team_id: Option<String>,
    enterprise_id: Option<String>,
    user_id: Option<String>,
    #[serde(default)]
    is_bot: bool,
    #[serde(default)]
    is_enterprise_install: bool,
}

impl<'a> Envelope<'a> {
    /// Reads a delivery's JSON.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Decode`] when it is not an object with a type.
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self> {
        serde_json::from_slice(payload).map_err(|_| wrong("the delivery is not a JSON object with a type"))
    }

    /// Reads the event inside.
    pub(crate) fn inner(&self) -> Result<Value> {
        let event = self.event.ok_or_else(|| wrong("the delivery carries no event"))?;
        serde_json::from_str(event.get()).map_err(|_| wrong("the event cannot be read"))
    }

    /// Returns when the event happened: to the millisecond where Slack tells it.
    pub(crate) fn happened(&self, inner: &Value) -> Option<Timestamp> {
        let precise = text(inner, "event_ts").and_then(ts_millis).map(Timestamp);
        precise.or_else(|| self.event_time.map(Timestamp::from_seconds))
    }

    /// Returns whose installation it is for. In a shared channel `team_id` is where it happened, and that may be
    /// somebody else's workspace.
    fn account(&self) -> Option<String> {
        let installed = self.authorizations.first().and_then(|one| match one.is_enterprise_install {
            true => one.enterprise_id.clone(),
            false => one.team_id.clone().or_else(|| one.enterprise_id.clone()),
        });
        installed.or_else(|| self.team_id.clone()).or_else(|| self.enterprise_id.clone())
    }

    /// Tells whether our own app caused the event: by the app's id that messages carry, or as the bot the delivery is
    /// authorized for.
    fn is_own(&self, inner: &Value) -> bool {
        let app = self.api_app_id.as_deref();
        let bot = self.authorizations.iter().find(|one| one.is_bot).and_then(|one| one.user_id.as_deref());
        let by = |object: &Value| {
            let apps = [text(object, "app_id"), object.get("bot_profile").and_then(|bot| text(bot, "app_id"))];
            (app.is_some() && apps.contains(&app)) || (bot.is_some() && id(object, "user") == bot)
        };
        match inner.get("message").or_else(|| inner.get("previous_message")) {
            Some(message) => by(message),
            None => by(inner),
        }
    }
}

fn of_json(verified: &Verified) -> Result<Parsed> {
    let envelope = Envelope::read(verified.body())?;
    match envelope.kind.as_str() {
        "url_verification" => challenge(&envelope),
        "event_callback" => callback(verified, &envelope),
        "app_rate_limited" => Ok(parsed(vec![rate_limited(verified, &envelope)?])),
        other => {
            let id = EventId::new(own_id(verified));
            let kind = name(other)?.to_owned();
            let (account, payload) = (envelope.account(), verified.body().clone());
            Ok(parsed(vec![Event { id, kind, account, created: signed_at(verified), ordering_key: None, payload }]))
        }
    }
}

/// Answers the question whether this address is ours.
fn challenge(envelope: &Envelope<'_>) -> Result<Parsed> {
    let challenge = envelope.challenge.as_deref().filter(|text| text.len() <= CHALLENGE_BYTES_MAX);
    let challenge = challenge.ok_or_else(|| wrong("the handshake carries no challenge"))?;
    // As plain text, whatever it holds: nothing of it is ever read as a page.
    let reply =
        Reply { status: 200, content_type: Some("text/plain; charset=utf-8"), body: challenge.to_owned().into() };
    Ok(Parsed { reply, events: Vec::new() })
}

fn callback(verified: &Verified, envelope: &Envelope<'_>) -> Result<Parsed> {
    let inner = envelope.inner()?;
    let event_id = envelope.event_id.as_deref().ok_or_else(|| wrong("the event has no id"))?;
    let mut kind = name(text(&inner, "type").ok_or_else(|| wrong("the event has no type"))?)?.to_owned();
    if let Some(subtype) = text(&inner, "subtype").filter(|_| kind == "message") {
        kind = format!("{kind}.{}", name(subtype)?);
    }
    let account = envelope.account();
    let of_message = message_event_id(&kind, &inner);
    if !NEVER_ECHOES.contains(&kind.as_str()) && envelope.is_own(&inner) {
        if !effect::concerns(&kind) {
            return Ok(parsed(Vec::new()));
        }
        kind.insert_str(0, ECHO);
    }
    Ok(parsed(vec![Event {
        id: match of_message {
            Some(id) => id,
            None => EventId::new(name(event_id)?),
        },
        created: envelope.happened(&inner),
        ordering_key: ordering_key(&inner).map(str::to_owned).or_else(|| account.clone()),
        account,
        kind,
        payload: verified.body().clone(),
    }]))
}

fn ordering_key(inner: &Value) -> Option<&str> {
    let place = |object| id(object, "channel").or_else(|| text(object, "channel_id"));
    place(inner).or_else(|| place(inner.get("item")?)).or_else(|| id(inner, "user"))
}

/// Says that Slack kept events of a minute from us: 30,000 an hour and workspace are sent.
fn rate_limited(verified: &Verified, envelope: &Envelope<'_>) -> Result<Event> {
    let minute = envelope.minute_rate_limited.ok_or_else(|| wrong("the notice names no minute"))?;
    let account = envelope.account();
    let app = envelope.api_app_id.as_deref().unwrap_or_default();
    let id = format!("app_rate_limited:{app}:{}:{minute}", account.as_deref().unwrap_or_default());
    Ok(Event {
        id: EventId::new(name(&id)?),
        kind: envelope.kind.clone(),
        created: Some(Timestamp::from_seconds(minute)),
        ordering_key: account.clone(),
        account,
        payload: verified.body().clone(),
    })
}

/// A slash command or an interaction.
fn of_form(verified: &Verified) -> Result<Parsed> {
    let mut fields = Map::new();
    for (name, value) in form_urlencoded::parse(verified.body()) {
        if fields.insert(name.into_owned(), Value::from(value)).is_some() {
            return Err(wrong("a field of the form stands more than once"));
        }
    }
    // The app's old shared token: it proves nothing, and a record of it would only leak it.
    fields.remove("token");
    if fields.contains_key("ssl_check") {
        return Ok(parsed(Vec::new()));
    }
    let event = match fields.get("payload").and_then(Value::as_str) {
        Some(payload) => interaction(verified, payload)?,
        None => command(verified, Value::Object(fields))?,
    };
    Ok(parsed(vec![event]))
}

/// Returns whose installation a command or interaction is for: the workspace's, or the organization's where the app is
/// installed for all of it. As the accounts of connections are named.
fn installed(whole: bool, team: Option<&str>, enterprise: Option<&str>) -> Option<String> {
    enterprise.filter(|_| whole).or(team).or(enterprise).map(str::to_owned)
}

fn command(verified: &Verified, fields: Value) -> Result<Event> {
    let command = text(&fields, "command").ok_or_else(|| wrong("the form is neither a command nor an interaction"))?;
    let id = match text(&fields, "trigger_id") {
        Some(trigger) => format!("slash_command:{trigger}"),
        None => own_id(verified),
    };
    let field = |name| text(&fields, name).map(str::to_owned);
    let (team, enterprise) = (text(&fields, "team_id"), text(&fields, "enterprise_id"));
    let whole = text(&fields, "is_enterprise_install") == Some("true");
    Ok(Event {
        id: EventId::new(name(&id)?),
        kind: format!("slash_command.{}", name(command.trim_start_matches('/'))?),
        account: installed(whole, team, enterprise),
        created: signed_at(verified),
        ordering_key: field("channel_id").or_else(|| field("user_id")),
        payload: fields.to_string().into(),
    })
}

fn interaction(verified: &Verified, payload: &str) -> Result<Event> {
    let value: Value = serde_json::from_str(payload).map_err(|_| wrong("the interaction's payload is not JSON"))?;
    let kind = text(&value, "type").ok_or_else(|| wrong("the interaction has no type"))?;
    // A trigger belongs to one press of one button; what has none (a closed dialog) is told apart by its bytes.
    let event_id = match text(&value, "trigger_id") {
        Some(trigger) => format!("interaction:{trigger}"),
        None => own_id(verified),
    };
    let whole = value.get("is_enterprise_install") == Some(&Value::Bool(true));
    let container = value.get("container");
    let place = id(&value, "channel").or_else(|| text(container?, "channel_id")).or_else(|| id(&value, "user"));
    Ok(Event {
        id: EventId::new(name(&event_id)?),
        kind: format!("interaction.{}", name(kind)?),
        account: installed(whole, id(&value, "team"), id(&value, "enterprise")),
        created: text(&value, "action_ts").and_then(ts_millis).map(Timestamp).or_else(|| signed_at(verified)),
        ordering_key: place.map(str::to_owned),
        payload: payload.to_owned().into(),
    })
}

/// Returns an id of what Slack gives none: the same signed bytes are the same event.
fn own_id(verified: &Verified) -> String {
    let time = verified.delivery().header(&TIMESTAMP).unwrap_or_default();
    let code = hmac::sha256(b"slack delivery", &[time.as_bytes(), b":", verified.body()]);
    format!("body:{}", hmac::to_lower_hex(&code))
}

fn signed_at(verified: &Verified) -> Option<Timestamp> {
    verified.delivery().header(&TIMESTAMP).ok()?.parse().ok().map(Timestamp::from_seconds)
}

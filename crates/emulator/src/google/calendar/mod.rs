//! Calendar: events, lists with sync tokens, series and their exceptions, channels.

mod list;
pub(crate) mod store;

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Map, Value, json};

use self::list::Dialled;
use self::store::{Calendar, Event, missing};
use super::push;
use super::refusal::Refusal;
use super::service::{Service, body, done, empty, text};
use super::world::{Channel, World};
use crate::params::Params;

const ALL: &str = "https://www.googleapis.com/auth/calendar";
const EVENTS: &str = "https://www.googleapis.com/auth/calendar.events";
const READONLY: &str = "https://www.googleapis.com/auth/calendar.readonly";
const EVENTS_READONLY: &str = "https://www.googleapis.com/auth/calendar.events.readonly";
const LIST_READONLY: &str = "https://www.googleapis.com/auth/calendar.calendarlist.readonly";

const READ: &[&str] = &[ALL, EVENTS, READONLY, EVENTS_READONLY];
const WRITE: &[&str] = &[ALL, EVENTS];

/// How long a channel lives when nobody says, and at the most, in seconds.
const CHANNEL_LIFE: i64 = 604_800;
const CHANNEL_LIFE_MAX: i64 = 30 * 86_400;
/// Google takes channel ids of up to 64 characters, and tokens of up to 256.
const CHANNEL_ID_MAX: usize = 64;
const CHANNEL_TOKEN_MAX: usize = 256;

type Answer = Result<Response<Bytes>, Refusal>;

/// Answers a request to `/calendar/v3/…`; `rest` is what follows.
pub(super) fn answer(service: &Service<'_>, request: &Request<Bytes>, rest: &[&str]) -> Answer {
    let query = service.query(request)?;
    match (request.method(), rest) {
        (&Method::GET, ["users", "me", "calendarList"]) => calendars(service),
        (&Method::POST, ["channels", "stop"]) => stop(service, request),
        (method, ["calendars", id, rest @ ..]) => {
            let who = service.who();
            let id = if *id == "primary" { who.clone() } else { (*id).to_owned() };
            let asked = Asked { service, request, query, id, who };
            match (method, rest) {
                (&Method::GET, []) => asked.calendar(),
                (&Method::GET, ["events"]) => asked.list(),
                (&Method::POST, ["events"]) => asked.insert(),
                (&Method::POST, ["events", "watch"]) => asked.watch(),
                (&Method::GET, ["events", event]) => asked.get(event),
                (&Method::PUT, ["events", event]) => asked.change(event, true),
                (&Method::PATCH, ["events", event]) => asked.change(event, false),
                (&Method::DELETE, ["events", event]) => asked.delete(event),
                (&Method::GET, ["events", event, "instances"]) => asked.instances(event),
                _ => Err(missing()),
            }
        }
        _ => Err(missing()),
    }
}

fn calendars(service: &Service<'_>) -> Answer {
    service.allow(&[ALL, READONLY, LIST_READONLY])?;
    let who = service.who();
    let world = service.google.world();
    let items: Vec<Value> = world
        .calendars()
        .filter(|calendar| calendar.is_of(&who))
        .map(|calendar| {
            json!({
                "kind": "calendar#calendarListEntry", "id": calendar.id, "summary": calendar.id, "timeZone": "UTC",
                "accessRole": if calendar.owner == who { "owner" } else { "writer" }, "primary": calendar.id == who,
            })
        })
        .collect();
    Ok(done(&json!({ "kind": "calendar#calendarList", "items": items })))
}

/// Closes a channel: its id and resource id must both be right.
fn stop(service: &Service<'_>, request: &Request<Bytes>) -> Answer {
    service.allow(READ)?;
    let body = body(request)?;
    let text = |name: &str| text(&body, name).unwrap_or_default();
    let (id, now, who) = (text("id"), service.now(), service.who());
    let mut world = service.google.world();
    let own =
        |channel: &Channel| channel.resource == text("resourceId") && channel.owner == who && channel.expires > now;
    if !world.channels.get(id).is_some_and(own) {
        return Err(Refusal::new(404, "notFound", format!("Channel '{id}' not found for project '0'")));
    }
    world.channels.remove(id);
    world.closed.insert(id.to_owned());
    Ok(empty())
}

/// One request to one calendar.
struct Asked<'a> {
    service: &'a Service<'a>,
    request: &'a Request<Bytes>,
    query: Params,
    id: String,
    who: String,
}

impl Asked<'_> {
    /// Works on the calendar; whoever may not use it is told that there is none.
    fn with<T>(&self, scopes: &[&str], work: impl FnOnce(&mut Calendar) -> Result<T, Refusal>) -> Result<T, Refusal> {
        self.service.allow(scopes)?;
        let mut world = self.service.google.world();
        work(of(&mut world, &self.id, &self.who)?)
    }

    fn written(&self, event: &Event) -> Response<Bytes> {
        self.service.tell_of_calendar(&self.id);
        done(&Value::Object(event.value.clone()))
    }

    fn calendar(&self) -> Answer {
        self.with(&[ALL, READONLY], |calendar| {
            Ok(done(
                &json!({ "kind": "calendar#calendar", "id": calendar.id, "summary": calendar.id, "timeZone": "UTC" }),
            ))
        })
    }

    fn list(&self) -> Answer {
        let life = self.service.google.config.sync_token_life;
        let token_life = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
        let empty_pages = self.service.google.world().empty_pages;
        let dialled = Dialled { token_life, empty_pages };
        self.with(READ, |calendar| Ok(done(&list::page(calendar, &self.query, dialled, self.service.now())?)))
    }

    fn get(&self, event: &str) -> Answer {
        self.with(READ, |calendar| Ok(done(&Value::Object(calendar.find(event).ok_or_else(missing)?.value))))
    }

    fn object(&self) -> Result<Map<String, Value>, Refusal> {
        let Value::Object(given) = body(self.request)? else { return Err(Refusal::invalid("Parse Error")) };
        Ok(given)
    }

    fn insert(&self) -> Answer {
        let given = self.object()?;
        let made = {
            let world = &mut self.service.google.world();
            format!("{:016x}{:08x}", world.dice.next(), world.dice.next() >> 32)
        };
        let event = self.with(WRITE, |calendar| calendar.insert(&given, made, self.service.now()))?;
        Ok(self.written(&event))
    }

    fn change(&self, event: &str, replaces: bool) -> Answer {
        let given = self.object()?;
        let tag = self.request.headers().get("if-match").and_then(|tag| tag.to_str().ok());
        let event = self.with(WRITE, |calendar| calendar.change(event, &given, replaces, tag, self.service.now()))?;
        Ok(self.written(&event))
    }

    fn delete(&self, event: &str) -> Answer {
        self.with(WRITE, |calendar| calendar.cancel(event, self.service.now()))?;
        self.service.tell_of_calendar(&self.id);
        Ok(empty())
    }

    fn instances(&self, event: &str) -> Answer {
        let deleted = self.query.get("showDeleted") == Some("true");
        self.with(READ, |calendar| {
            let master = calendar.find(event).filter(|event| !event.is_cancelled()).ok_or_else(missing)?;
            let shown = calendar.instances(&master).into_iter().filter(|one| deleted || !one.is_cancelled());
            let items: Vec<Value> = shown.map(|one| one.shown()).collect();
            Ok(done(&json!({ "kind": "calendar#events", "summary": calendar.id, "timeZone": "UTC", "items": items })))
        })
    }

    /// Opens a channel; its first notification, `sync`, is on its way before the answer is.
    fn watch(&self) -> Answer {
        let body = body(self.request)?;
        let text = |name: &str| text(&body, name).filter(|text| !text.is_empty());
        let refused = |reason: &str, message: &str| Refusal::new(400, reason, message);
        let id = text("id").filter(|id| id.len() <= CHANNEL_ID_MAX);
        let id = id.ok_or_else(|| refused("channelIdInvalid", "Invalid channel id"))?;
        if !matches!(text("type"), Some("web_hook" | "webhook")) {
            return Err(refused("channelUnknownType", "Unknown channel type"));
        }
        let address = text("address").unwrap_or_default();
        let uri: Option<http::Uri> = address.parse().ok();
        let host = uri.as_ref().and_then(http::Uri::host);
        // The real one posts to https only; the emulator to this machine without it, too.
        let local = matches!(host, Some("127.0.0.1" | "localhost" | "[::1]"));
        if host.is_none() || !(address.starts_with("https://") || (local && address.starts_with("http://"))) {
            return Err(refused("push.webhookUrlNotHttps", &format!("WebHook callback must be HTTPS: {address}")));
        }
        let token = text("token");
        if token.is_some_and(|token| token.len() > CHANNEL_TOKEN_MAX) {
            return Err(refused("invalid", "Channel token is too long"));
        }
        let now = self.service.now();
        let expires = expiry(&body, now)?;
        self.with(READ, |_| Ok(()))?;
        let mut world = self.service.google.world();
        if world.channels.contains_key(id) || world.closed.contains(id) {
            return Err(refused("channelIdNotUnique", &format!("Channel id {id} not unique")));
        }
        // One resource has one id, whoever watches it through whichever channel.
        let hash = self
            .id
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
        let channel = Channel {
            id: id.to_owned(),
            resource: format!("{hash:016x}"),
            calendar: self.id.clone(),
            address: address.to_owned(),
            token: token.map(str::to_owned),
            expires,
            number: 1,
            owner: self.who.clone(),
        };
        let mut shown = json!({
            "kind": "api#channel", "id": channel.id, "resourceId": channel.resource,
            "resourceUri": push::resource_uri(&self.id), "expiration": expires.to_string(),
        });
        if let (Some(token), Some(shown)) = (token, shown.as_object_mut()) {
            shown.insert("token".to_owned(), json!(token));
        }
        let first = push::notification(&channel, "sync");
        world.channels.insert(id.to_owned(), channel);
        drop(world);
        self.service.house.post.leave([first]);
        Ok(done(&shown))
    }
}

/// Reads how long a channel is to live: a moment, or seconds from now.
fn expiry(body: &Value, now: i64) -> Result<i64, Refusal> {
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let asked = match (body.get("expiration"), body.pointer("/params/ttl")) {
        (Some(at), _) => number(at),
        (None, Some(ttl)) => number(ttl).map(|ttl| now.saturating_add(ttl.saturating_mul(1_000))),
        (None, None) => Some(now + CHANNEL_LIFE * 1_000),
    };
    let asked =
        asked.filter(|at| *at > now).ok_or_else(|| Refusal::new(400, "invalid", "Invalid channel expiration"))?;
    Ok(asked.min(now + CHANNEL_LIFE_MAX * 1_000))
}

/// Gives a calendar somebody may use.
fn of<'a>(world: &'a mut World, id: &str, who: &str) -> Result<&'a mut Calendar, Refusal> {
    world.calendar(id).filter(|calendar| calendar.is_of(who)).ok_or_else(missing)
}

//! The way of a request to one of the APIs: who asks, what it costs, whether its scopes suffice, and who is told.

use std::ops::RangeInclusive;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::time::Instant;

use super::quota::{self, Api};
use super::refusal::Refusal;
use super::token::{self, Caller};
use super::{GoogleProvider, calendar, gmail};
use crate::gate::{self, House};
use crate::params::Params;

/// One request, with who asks.
pub(super) struct Service<'a> {
    pub(super) google: &'a GoogleProvider,
    pub(super) house: &'a House,
    caller: Caller,
}

/// Splits a path, each part decoded.
fn parts(path: &str) -> Vec<String> {
    path.split('/').skip(1).map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect()
}

/// Tells whether a path is one of the APIs'.
pub(super) fn is_api(path: &str) -> bool {
    ["/gmail/v1/", "/upload/gmail/v1/", "/calendar/v3/"].iter().any(|begin| path.starts_with(begin))
}

/// Gives a path with its identifiers replaced, as routes are counted.
pub(super) fn route(path: &str) -> String {
    if !is_api(path) {
        return path.to_owned();
    }
    let parts: Vec<&str> = path.split('/').collect();
    let named = ["messages", "labels", "events", "attachments", "calendars", "users"];
    let actions = ["send", "batchModify", "batchDelete", "watch", "me"];
    let mut out: Vec<&str> = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        let before = parts.get(at.wrapping_sub(1)).copied().unwrap_or_default();
        let is_id = named.contains(&before) && !(actions.contains(part) && before != "users");
        out.push(match before {
            "users" if is_id => "{user}",
            "calendars" if is_id => "{calendar}",
            _ if is_id => "{id}",
            _ => part,
        });
    }
    out.join("/")
}

/// Answers a request to one of the APIs.
pub(super) fn answer(google: &GoogleProvider, house: &House, request: &Request<Bytes>) -> Response<Bytes> {
    let bare = request.method() == http::Method::POST && request.body().is_empty();
    if bare && !request.headers().contains_key("content-length") {
        return gmail::length_required();
    }
    run(google, house, request).unwrap_or_else(|refusal| refusal.response())
}

fn run(google: &GoogleProvider, house: &House, request: &Request<Bytes>) -> Result<Response<Bytes>, Refusal> {
    let caller = token::caller(google, house, request).ok_or_else(|| {
        house.book().ledger.auth_failures += 1;
        Refusal::unauthenticated()
    })?;
    let service = Service { google, house, caller };
    let parts = parts(request.uri().path());
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (api, units) = match parts.as_slice() {
        ["gmail", "v1", "users", _, rest @ ..] => (Api::Gmail, quota::units(request.method(), rest)),
        ["upload", ..] => (Api::Gmail, quota::units(request.method(), &["messages", "send"])),
        _ => (Api::Calendar, 1),
    };
    service.pay(api, units)?;
    match parts.as_slice() {
        ["gmail", "v1", "users", user, rest @ ..] => {
            service.own(user)?;
            gmail::answer(&service, request, rest)
        }
        ["upload", "gmail", "v1", "users", user, rest @ ..] => {
            service.own(user)?;
            gmail::upload(&service, request, rest)
        }
        ["calendar", "v3", rest @ ..] => calendar::answer(&service, request, rest).map_err(Refusal::older),
        _ => Err(Refusal::missing()),
    }
}

impl Service<'_> {
    /// Gives the present moment, in milliseconds since 1970.
    pub(super) fn now(&self) -> i64 {
        self.house.now()
    }

    fn pay(&self, api: Api, units: u64) -> Result<(), Refusal> {
        let taken = self.google.world().meter.take(api, &self.caller.subject, units, Instant::now());
        taken.map_err(|(of, wait)| {
            let name = if api == Api::Gmail { "gmail" } else { "calendar" };
            self.house.book().throttled(&format!("{name} {}", self.caller.subject), of, None, Instant::now());
            quota::refusal(api, of, wait, self.now())
        })
    }

    /// Tells whether the token has one of these scopes. A token signed for an audience has them all.
    pub(super) fn may(&self, scopes: &[&str]) -> bool {
        let held = &self.caller.scopes;
        held.is_empty() || held.iter().any(|scope| scopes.contains(&scope.as_str()))
    }

    pub(super) fn allow(&self, scopes: &[&str]) -> Result<(), Refusal> {
        if self.may(scopes) { Ok(()) } else { Err(Refusal::scope()) }
    }

    /// Gives the address of the person who asks; a service account by itself has no mailbox.
    pub(super) fn email(&self) -> Result<String, Refusal> {
        let person = self.google.person(&self.caller.subject);
        person
            .map(|person| person.email.clone())
            .ok_or_else(|| Refusal::new(400, "failedPrecondition", "Precondition check failed."))
    }

    /// Gives the address of whoever asks, person or service account.
    pub(super) fn who(&self) -> String {
        self.google
            .person(&self.caller.subject)
            .map_or_else(|| self.caller.subject.clone(), |person| person.email.clone())
    }

    fn own(&self, user: &str) -> Result<(), Refusal> {
        let own = self.email()?;
        if user == "me" || user == own {
            return Ok(());
        }
        Err(Refusal::new(403, "forbidden", format!("Delegation denied for {own}")))
    }

    pub(super) fn query(&self, request: &Request<Bytes>) -> Result<Params, Refusal> {
        Params::parse(request.uri().query().unwrap_or_default().as_bytes()).map_err(Refusal::invalid)
    }

    /// Tells who watches these mailboxes.
    pub(super) fn tell_of_mail(&self, emails: &[String]) {
        self.house.post.leave(self.google.mail_parcels(emails, self.now()));
    }

    /// Tells who watches a calendar.
    pub(super) fn tell_of_calendar(&self, calendar: &str) {
        self.house.post.leave(self.google.calendar_parcels(calendar, self.now()));
    }
}

/// Answers with an object.
pub(super) fn done(value: &Value) -> Response<Bytes> {
    gate::json(200, value)
}

/// Answers that there is nothing to say.
pub(super) fn empty() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Gives a text field.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// Gives a list field; nothing for what is none.
pub(super) fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// Reads a request's object.
pub(super) fn body(request: &Request<Bytes>) -> Result<Value, Refusal> {
    let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/json") {
        return Err(Refusal::invalid("Invalid JSON payload received. Unexpected token."));
    }
    let value: Option<Value> = serde_json::from_slice(request.body()).ok();
    value.filter(Value::is_object).ok_or_else(|| Refusal::new(400, "parseError", "Parse Error"))
}

/// Reads a number of the query within its bounds; more than the most is the most, as Google takes it.
pub(super) fn number(
    query: &Params,
    name: &'static str,
    otherwise: usize,
    bounds: RangeInclusive<usize>,
) -> Result<usize, Refusal> {
    let Some(text) = query.get(name) else { return Ok(otherwise) };
    let wrong = || Refusal::invalid(format!("Invalid value at '{name}'")).at(name);
    let number: usize = text.parse().map_err(|_| wrong())?;
    if number < *bounds.start() { Err(wrong()) } else { Ok(number.min(*bounds.end())) }
}

//! The desk an operation works at: one account, one moment, one request; it stores objects and announces changes.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::error::Failure;
use super::objects;
use super::shape::{self, Era};
use super::state::{Account, Announced, EventRow, Kind, Links, Row, World};
use super::thin;

/// Metadata bounds (Stripe API reference, metadata).
const METADATA_KEYS_MAX: usize = 50;
const METADATA_KEY_MAX: usize = 40;
const METADATA_VALUE_MAX: usize = 500;

/// Who caused a change, as events report it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    pub(crate) request: Option<String>,
    pub(crate) key: Option<String>,
}

/// Everything one operation may touch.
#[derive(Debug)]
pub(crate) struct Desk<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) account: String,
    pub(crate) now: i64,
    pub(crate) era: Era,
    pub(crate) origin: Origin,
    pub(crate) emitted: Vec<String>,
}

impl Desk<'_> {
    /// Gives this account's data to read.
    pub(crate) fn data(&mut self) -> &mut Account {
        self.world.account(&self.account)
    }

    /// Makes an identifier.
    pub(crate) fn id(&mut self, prefix: &str) -> String {
        self.world.id(prefix)
    }

    /// Reads an object in the newest shape; `param` names what pointed at it.
    pub(crate) fn read(&self, kind: Kind, id: &str, param: &str, status: u16) -> Result<Value, Failure> {
        self.world.find(&self.account, kind, id, param, status).map(Row::value)
    }

    /// Gives one link of an object.
    pub(crate) fn link(&self, kind: Kind, id: &str, name: &str) -> Option<String> {
        self.world.accounts.get(&self.account)?.row(kind, id)?.link(name).map(str::to_owned)
    }

    /// Stores a new object.
    pub(crate) fn insert(&mut self, kind: Kind, value: &Value, extra: Links) {
        let place = (value["created"].as_i64().unwrap_or(self.now), self.world.tick());
        let mut links = links_of(kind, value);
        links.extend(extra);
        let row = Row { json: bytes_of(value), links };
        let id = value["id"].as_str().unwrap_or_default().to_owned();
        self.data().table(kind).insert(&id, place, row);
        self.touched(kind, &id);
    }

    /// Notes for the journal that an object is another one now.
    fn touched(&mut self, kind: Kind, id: &str) {
        if let Some(trace) = &mut self.world.trace {
            trace.touched.insert((self.account.clone(), kind, id.to_owned()));
        }
    }

    /// Stores a changed object; links that its public shape hides stay.
    pub(crate) fn write(&mut self, kind: Kind, value: &Value) {
        let links = links_of(kind, value);
        let id = value["id"].as_str().unwrap_or_default().to_owned();
        if let Some(row) = self.data().table(kind).row_mut(&id) {
            row.json = bytes_of(value);
            row.links.extend(links);
            self.touched(kind, &id);
        }
    }

    /// Sets one hidden link.
    pub(crate) fn set_link(&mut self, kind: Kind, id: &str, name: &'static str, value: &str) {
        if let Some(row) = self.data().table(kind).row_mut(id) {
            row.links.insert(name.into(), value.to_owned());
            self.touched(kind, id);
        }
    }

    /// Stores a change and announces it, unless nothing changed.
    pub(crate) fn update(&mut self, kind: Kind, before: &Value, after: &Value, event: &str) {
        let changed = objects::changes(before, after);
        if changed.is_empty() {
            return;
        }
        self.write(kind, after);
        self.emit(event, kind, after, Some(Value::Object(changed)));
    }

    /// Takes an object away, leaves a tombstone and announces it.
    pub(crate) fn delete(&mut self, kind: Kind, id: &str, event: &str) -> Result<Value, Failure> {
        let gone = objects::deleted(id, kind.facts().1);
        let row = self.world.find(&self.account, kind, id, "id", 404)?.clone();
        self.emit_row(event, &row.value(), &row.links, None);
        self.data().table(kind).remove(id);
        self.touched(kind, id);
        Ok(gone)
    }

    /// Announces an object as it stands.
    pub(crate) fn emit(&mut self, event: &str, kind: Kind, value: &Value, previous: Option<Value>) {
        let id = value["id"].as_str().unwrap_or_default();
        let links = self
            .world
            .accounts
            .get(&self.account)
            .and_then(|account| account.row(kind, id))
            .map(|row| row.links.clone());
        self.emit_row(event, value, &links.unwrap_or_default(), previous);
    }

    /// Announces any object, with the links that shape it for old versions.
    pub(crate) fn emit_row(&mut self, event: &str, value: &Value, links: &Links, previous: Option<Value>) {
        let id = self.world.id("evt_1");
        let endpoints: Vec<(String, String)> = self
            .world
            .endpoints
            .values()
            .filter(|endpoint| endpoint.wants(&self.account, &self.world.own, event))
            .map(|endpoint| {
                (endpoint.id.clone(), endpoint.api_version.clone().unwrap_or_else(|| self.world.api_version.clone()))
            })
            .collect();
        let default_version = self.world.api_version.clone();
        let mut versions: Vec<(String, String)> = Vec::new();
        for version in endpoints.iter().map(|(_, version)| version).chain([&default_version]) {
            if versions.iter().all(|(known, _)| known != version) {
                let body = self.event_body(&id, event, value, links, previous.as_ref(), version, endpoints.len());
                versions.push((version.clone(), body));
            }
        }
        let body_of = |version: &str| {
            versions.iter().find(|(known, _)| known == version).map(|(_, body)| body.as_str()).unwrap_or_default()
        };
        let place = (self.now, self.world.tick());
        let pending = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let (head, tail) = split(body_of(&default_version), endpoints.len());
        let row = EventRow { kind: Arc::from(event), head, pending, tail };
        let now = self.now;
        let events = &mut self.data().events;
        events.insert(&id, place, row);
        events.expire(now);
        self.world.events_created += 1;
        let announced = Announced { account: self.account.clone(), event: id.clone(), bodies: versions };
        let outbox = self.world.addressed(&announced);
        self.world.outbox.extend(outbox);
        if let Some(trace) = &mut self.world.trace {
            trace.announced.push(announced);
        }
        self.emitted.push(id);
    }

    /// Writes the event as the provider writes it: indented, so that parsing and writing again breaks the signature.
    #[allow(clippy::too_many_arguments, reason = "one call site; the parts of an event")]
    fn event_body(
        &self,
        id: &str,
        event: &str,
        value: &Value,
        links: &Links,
        previous: Option<&Value>,
        version: &str,
        pending: usize,
    ) -> String {
        let mut object = value.clone();
        let is_thin = version == thin::THIN;
        let version = if is_thin { &self.world.api_version } else { version };
        let era = shape::era(version);
        if let Some(account) = self.world.accounts.get(&self.account) {
            shape::reshape(account, &mut object, links, era);
        }
        let mut data = json!({ "object": object });
        if let Some(previous) = previous {
            data["previous_attributes"] = classic_previous(previous.clone(), era);
        }
        let mut body = json!({
            "id": id, "object": "event", "api_version": version, "created": self.now, "data": data, "livemode": false,
            "pending_webhooks": pending, "request": { "id": self.origin.request, "idempotency_key": self.origin.key }, "type": event,
        });
        if self.account != self.world.own {
            body["account"] = json!(self.account);
        }
        if is_thin {
            body = thin::notice(&body);
        }
        serde_json::to_string_pretty(&body).unwrap_or_default()
    }
}

/// In old shapes a subscription's period is its own attribute, so a change of items names it there.
fn classic_previous(mut previous: Value, era: Era) -> Value {
    if era == Era::Classic {
        let first = previous.pointer("/items/data/0").cloned();
        if let Some(first) = first.filter(|first| first["current_period_end"].is_i64()) {
            previous["current_period_start"] = first["current_period_start"].clone();
            previous["current_period_end"] = first["current_period_end"].clone();
        }
    }
    previous
}

fn split(body: &str, pending: usize) -> (Bytes, Bytes) {
    // A raw newline never stands inside a JSON text, so the indented name is found at the top level only.
    let mark = "\n  \"pending_webhooks\": ";
    let at = body.find(mark).map_or(body.len(), |at| at + mark.len());
    let head = body.get(..at).unwrap_or_default();
    let tail = body.get(at + pending.to_string().len()..).unwrap_or_default();
    (Bytes::copy_from_slice(head.as_bytes()), Bytes::copy_from_slice(tail.as_bytes()))
}

/// Writes an object once; every later read copies these bytes.
pub(crate) fn bytes_of(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// Picks the fields that lists filter by. Customers have none: they are many and their filter is rare.
pub(crate) fn links_of(kind: Kind, value: &Value) -> Links {
    let names: &[&'static str] = match kind {
        Kind::Customer | Kind::Product | Kind::Endpoint | Kind::SetupIntent => &[],
        Kind::Price => &["product", "type", "currency", "lookup_key"],
        Kind::Subscription => &["customer", "status", "collection_method"],
        Kind::Invoice => &["customer", "status", "collection_method"],
        Kind::PaymentIntent => &["customer", "status"],
        Kind::PaymentMethod => &["customer", "type"],
        Kind::Charge => &["customer", "payment_intent", "status"],
        Kind::Refund => &["charge", "payment_intent"],
        Kind::Session => &["customer", "payment_intent", "subscription", "status"],
    };
    let mut links = Links::new();
    for name in names {
        if let Some(text) = value[*name].as_str() {
            links.insert((*name).into(), text.to_owned());
        }
    }
    if let Some(active) = value["active"].as_bool().filter(|_| kind == Kind::Price) {
        links.insert("active".into(), active.to_string());
    }
    links
}

/// Refuses parameters the operation does not know, as Stripe does.
pub(crate) fn known(params: &Value, names: &[&str]) -> Result<(), Failure> {
    let Value::Object(map) = params else { return Ok(()) };
    match map.keys().find(|name| *name != "expand" && !names.contains(&name.as_str())) {
        Some(name) => {
            Err(Failure::invalid(format!("Received unknown parameter: {name}")).code("parameter_unknown").param(name))
        }
        None => Ok(()),
    }
}

/// Sets plain text fields: an empty text unsets, an absent one leaves.
pub(crate) fn set_texts(object: &mut Value, params: &Value, names: &[&str]) {
    for name in names {
        match params.get(*name) {
            Some(Value::String(text)) if text.is_empty() => object[*name] = Value::Null,
            Some(Value::String(text)) => object[*name] = json!(text),
            _ => {}
        }
    }
}

/// Sets an object field such as an address: given fields, the others null.
pub(crate) fn set_object(object: &mut Value, params: &Value, name: &str, fields: &[&str]) {
    match params.get(name) {
        Some(Value::String(text)) if text.is_empty() => object[name] = Value::Null,
        Some(Value::Object(given)) => {
            let mut filled: Map<String, Value> =
                fields.iter().map(|field| ((*field).to_owned(), Value::Null)).collect();
            for (field, value) in given {
                filled.insert(field.clone(), if value == "" { Value::Null } else { value.clone() });
            }
            object[name] = Value::Object(filled);
        }
        _ => {}
    }
}

/// Merges metadata: an empty value removes a key, an empty `metadata` removes all.
///
/// # Errors
/// Refuses more than 50 keys, keys over 40 and values over 500 characters.
pub(crate) fn set_metadata(object: &mut Value, params: &Value) -> Result<(), Failure> {
    match params.get("metadata") {
        Some(Value::String(text)) if text.is_empty() => object["metadata"] = json!({}),
        Some(Value::Object(given)) => {
            if !object["metadata"].is_object() {
                object["metadata"] = json!({});
            }
            let Some(map) = object["metadata"].as_object_mut() else { return Ok(()) };
            for (key, value) in given {
                let text = value
                    .as_str()
                    .ok_or_else(|| Failure::invalid("Metadata values must be strings.").param("metadata"))?;
                if key.chars().count() > METADATA_KEY_MAX {
                    return Err(Failure::invalid(format!(
                        "Metadata keys can be no longer than {METADATA_KEY_MAX} characters."
                    ))
                    .param("metadata"));
                }
                if text.chars().count() > METADATA_VALUE_MAX {
                    let message = format!(
                        "Metadata values can have up to {METADATA_VALUE_MAX} characters, but you passed in a value that is {} characters.",
                        text.chars().count()
                    );
                    return Err(Failure::invalid(message).param("metadata"));
                }
                if text.is_empty() {
                    map.remove(key);
                } else {
                    map.insert(key.clone(), json!(text));
                }
            }
            if map.len() > METADATA_KEYS_MAX {
                return Err(Failure::invalid(format!("Metadata can have no more than {METADATA_KEYS_MAX} keys."))
                    .param("metadata"));
            }
        }
        Some(_) => return Err(Failure::invalid("Invalid hash: metadata.").param("metadata")),
        None => {}
    }
    Ok(())
}

/// Adds months by the calendar; a day the month lacks becomes its last one, as Stripe bills.
pub(crate) fn add_interval(at: i64, interval: &str, count: i64) -> i64 {
    const DAY: i64 = 86_400;
    let months = match interval {
        "day" => return at + DAY * count,
        "week" => return at + 7 * DAY * count,
        "year" => 12 * count,
        _ => count,
    };
    let (days, second) = (at.div_euclid(DAY), at.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    let total = year * 12 + (month - 1) + months;
    let (year, month) = (total.div_euclid(12), total.rem_euclid(12) + 1);
    let next = if month == 12 { days_of(year + 1, 1, 1) } else { days_of(year, month + 1, 1) };
    let last = next - days_of(year, month, 1);
    days_of(year, month, day.min(last)) * DAY + second
}

/// Days since 1970 of a date (Howard Hinnant's algorithm).
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Gives the year, month and day of so many days since 1970.
pub(crate) fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days - era * 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_the_calendar() {
        let jan31 = days_of(2026, 1, 31) * 86_400 + 10;
        assert_eq!(add_interval(jan31, "month", 1), days_of(2026, 2, 28) * 86_400 + 10);
        assert_eq!(add_interval(jan31, "year", 2), days_of(2028, 1, 31) * 86_400 + 10);
        assert_eq!(add_interval(0, "week", 1), 604_800);
        assert_eq!(civil(days_of(2024, 2, 29)), (2024, 2, 29));
    }

    #[test]
    fn metadata_merges_and_is_bounded() {
        let mut object = json!({ "metadata": { "a": "1", "b": "2" } });
        assert!(set_metadata(&mut object, &json!({ "metadata": { "a": "", "c": "3" } })).is_ok());
        assert_eq!(object["metadata"], json!({ "b": "2", "c": "3" }));
        assert!(set_metadata(&mut object, &json!({ "metadata": { "d": "x".repeat(501) } })).is_err());
        assert!(set_metadata(&mut object, &json!({ "metadata": { "k".repeat(41): "x" } })).is_err());
        assert!(set_metadata(&mut object, &json!({ "metadata": "" })).is_ok());
        assert_eq!(object["metadata"], json!({}));
    }
}

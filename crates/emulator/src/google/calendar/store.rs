//! One calendar: its events, the count that orders their changes, series and their instances.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::google::recurrence::Rule;
use crate::google::refusal::Refusal;
use crate::google::when;

const DAY: i64 = 86_400_000;

/// Fields that are the calendar's own: nobody writes them.
const OWN: [&str; 10] = [
    "kind",
    "etag",
    "id",
    "created",
    "updated",
    "creator",
    "organizer",
    "htmlLink",
    "recurringEventId",
    "originalStartTime",
];

/// One event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) value: Map<String, Value>,
    /// Where its last change stands among all changes of the calendar.
    pub(crate) change: u64,
    /// Milliseconds since 1970.
    pub(crate) updated: i64,
}

impl Event {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.value.get(name).and_then(Value::as_str)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.text("status") == Some("cancelled")
    }

    /// Names the series it is an exception of.
    pub(crate) fn master(&self) -> Option<&str> {
        self.text("recurringEventId")
    }

    /// Gives the rule of a series.
    pub(crate) fn rule(&self) -> Option<Rule> {
        let rules = self.value.get("recurrence")?.as_array()?;
        rules.iter().filter_map(Value::as_str).find_map(Rule::read)
    }

    pub(crate) fn is_series(&self) -> bool {
        self.value.get("recurrence").is_some()
    }

    pub(crate) fn start(&self) -> Option<(i64, bool)> {
        moment(self.value.get("start").or_else(|| self.value.get("originalStartTime"))?)
    }

    pub(crate) fn end(&self) -> Option<(i64, bool)> {
        moment(self.value.get("end")?)
    }

    /// Shows it: of what is cancelled only what Google guarantees (events resource, `status`).
    pub(crate) fn shown(&self) -> Value {
        if !self.is_cancelled() {
            return Value::Object(self.value.clone());
        }
        let kept = ["kind", "etag", "id", "status", "recurringEventId", "originalStartTime"];
        let fields = kept.iter().filter_map(|name| Some(((*name).to_owned(), self.value.get(*name)?.clone())));
        Value::Object(fields.collect())
    }
}

/// Reads `{"dateTime": …}` or `{"date": …}`: the moment, and whether it is a whole day.
pub(crate) fn moment(value: &Value) -> Option<(i64, bool)> {
    if let Some(text) = value.get("dateTime").and_then(Value::as_str) {
        return Some((when::read(text)?, false));
    }
    Some((when::read_date(value.get("date")?.as_str()?)?, true))
}

fn written((at, whole_day): (i64, bool)) -> Value {
    if whole_day {
        json!({ "date": when::date(at) })
    } else {
        json!({ "dateTime": when::seconds(at), "timeZone": "UTC" })
    }
}

/// Everything of one calendar.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Calendar {
    pub(crate) id: String,
    pub(crate) owner: String,
    /// Who else may use it.
    pub(crate) shared: BTreeSet<String>,
    pub(crate) events: BTreeMap<String, Event>,
    /// The number of the newest change.
    pub(crate) change: u64,
    /// Tokens from before this count are answered 410, and tokens of pages 400.
    pub(crate) epoch: u64,
    pub(crate) page_epoch: u64,
}

impl Calendar {
    pub(crate) fn new(id: &str, owner: &str) -> Self {
        let (id, owner) = (id.to_owned(), owner.to_owned());
        Self { id, owner, shared: BTreeSet::new(), events: BTreeMap::new(), change: 0, epoch: 0, page_epoch: 0 }
    }

    pub(crate) fn is_of(&self, email: &str) -> bool {
        self.owner == email || self.shared.contains(email)
    }

    /// Keeps an event as changed now; gives it as it is kept.
    fn keep(&mut self, mut value: Map<String, Value>, now: i64) -> Event {
        self.change += 1;
        value.insert("updated".to_owned(), json!(when::stamp(now)));
        value.insert("etag".to_owned(), json!(format!("\"{}{:06}\"", now, self.change % 1_000_000)));
        let id = value.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let event = Event { value, change: self.change, updated: now };
        self.events.insert(id, event.clone());
        event
    }

    /// Makes an event; `given` has been checked to be an object.
    pub(crate) fn insert(&mut self, given: &Map<String, Value>, otherwise: String, now: i64) -> Result<Event, Refusal> {
        let id = match given.get("id").and_then(Value::as_str) {
            Some(id) => checked_id(id)?.to_owned(),
            None => otherwise,
        };
        if given.contains_key("id") && given.contains_key("iCalUID") {
            return Err(refused(400, "invalid", "An event is inserted with an id or an iCalUID, not both."));
        }
        if self.events.contains_key(&id) {
            return Err(refused(409, "duplicate", "The requested identifier already exists."));
        }
        checked_times(given)?;
        let person = json!({ "email": self.owner, "self": true });
        let mut value = Map::new();
        for (name, own) in [
            ("kind", json!("calendar#event")),
            ("id", json!(id)),
            ("status", json!("confirmed")),
            ("htmlLink", json!(format!("https://www.google.com/calendar/event?eid={id}"))),
            ("created", json!(when::seconds(now))),
            ("creator", person.clone()),
            ("organizer", person),
            ("iCalUID", json!(format!("{id}@google.com"))),
            ("sequence", json!(0)),
            ("reminders", json!({ "useDefault": true })),
            ("eventType", json!("default")),
        ] {
            value.insert(name.to_owned(), own);
        }
        let taken = given.iter().filter(|(name, value)| !OWN.contains(&name.as_str()) && !value.is_null());
        value.extend(taken.map(|(name, value)| (name.clone(), value.clone())));
        Ok(self.keep(value, now))
    }

    /// Finds an event, or the instance of a series that is not an exception yet.
    pub(crate) fn find(&self, id: &str) -> Option<Event> {
        if let Some(event) = self.events.get(id) {
            return Some(event.clone());
        }
        let (master, at) = id.rsplit_once('_')?;
        let master = self.events.get(master).filter(|master| !master.is_cancelled())?;
        let at = when::read_compact(at)?;
        let (first, _) = master.start()?;
        master.rule()?.instances(first).contains(&at).then(|| instance(master, at))
    }

    /// Gives the instances of a series as they are now, exceptions in their place.
    pub(crate) fn instances(&self, master: &Event) -> Vec<Event> {
        let (Some(rule), Some((first, _))) = (master.rule(), master.start()) else { return Vec::new() };
        let made = rule.instances(first).into_iter().map(|at| instance(master, at));
        made.map(|made| self.events.get(made.text("id").unwrap_or_default()).cloned().unwrap_or(made)).collect()
    }

    /// Replaces or merges fields; `null` clears one. Only what `OWN` does not name is written.
    pub(crate) fn change(
        &mut self,
        id: &str,
        given: &Map<String, Value>,
        replaces: bool,
        if_match: Option<&str>,
        now: i64,
    ) -> Result<Event, Refusal> {
        let known = self.find(id).ok_or_else(missing)?;
        if if_match.is_some_and(|tag| tag != "*" && known.text("etag") != Some(tag)) {
            return Err(Refusal::new(412, "conditionNotMet", "Precondition Failed"));
        }
        let times = |value: &Map<String, Value>| (value.get("start").cloned(), value.get("end").cloned());
        let before = times(&known.value);
        let mut value = known.value.clone();
        if replaces {
            checked_times(given)?;
            let kept = ["iCalUID", "sequence", "status", "reminders", "eventType"];
            value.retain(|name, _| OWN.contains(&name.as_str()) || kept.contains(&name.as_str()));
        }
        for (name, new) in given.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
            merge(&mut value, name, new);
        }
        checked_times(&value)?;
        if times(&value) != before {
            let sequence = value.get("sequence").and_then(Value::as_i64).unwrap_or(0);
            value.insert("sequence".to_owned(), json!(sequence + 1));
        }
        Ok(self.keep(value, now))
    }

    /// Cancels an event, a series, or one instance of it.
    pub(crate) fn cancel(&mut self, id: &str, now: i64) -> Result<(), Refusal> {
        let known = self.find(id).ok_or_else(missing)?;
        if known.is_cancelled() {
            return Err(refused(410, "deleted", "Resource has been deleted"));
        }
        let mut value = known.value;
        value.insert("status".to_owned(), json!("cancelled"));
        self.keep(value, now);
        Ok(())
    }

    /// Tells whether an event is part of a full list without the deleted ones: a cancelled instance of a series that
    /// goes on is, and no exception of a series that is gone (events.list, `showDeleted`).
    pub(crate) fn is_listed(&self, event: &Event) -> bool {
        match event.master().map(|master| self.events.get(master)) {
            Some(master) => master.is_some_and(|master| !master.is_cancelled()),
            None => !event.is_cancelled(),
        }
    }
}

/// Makes an instance of a series.
fn instance(master: &Event, at: i64) -> Event {
    let mut value = master.value.clone();
    let (first, whole_day) = master.start().unwrap_or_default();
    let length = master.end().map_or(0, |(end, _)| end - first);
    let id = master.text("id").unwrap_or_default().to_owned();
    value.remove("recurrence");
    value.insert("id".to_owned(), json!(format!("{id}_{}", when::compact(at, whole_day))));
    value.insert("recurringEventId".to_owned(), json!(id));
    value.insert("originalStartTime".to_owned(), written((at, whole_day)));
    value.insert("start".to_owned(), written((at, whole_day)));
    value.insert("end".to_owned(), written((at + length, whole_day)));
    Event { value, change: master.change, updated: master.updated }
}

/// Merges a field as PATCH does: objects field by field, anything else as a whole.
fn merge(into: &mut Map<String, Value>, name: &str, new: &Value) {
    match new {
        Value::Null => {
            into.remove(name);
        }
        Value::Object(new) => {
            // A moment is one thing: a date takes the place of a time.
            let is_moment = name == "start" || name == "end";
            let old = into.get(name).and_then(Value::as_object).cloned().filter(|_| !is_moment);
            let mut merged = old.unwrap_or_default();
            for (name, new) in new {
                merge(&mut merged, name, new);
            }
            into.insert(name.to_owned(), Value::Object(merged));
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            into.insert(name.to_owned(), new.clone());
        }
    }
}

fn refused(status: u16, reason: &str, message: &str) -> Refusal {
    let domain = if reason == "deleted" { "calendar" } else { "global" };
    Refusal::new(status, reason, message).of(domain)
}

pub(crate) fn missing() -> Refusal {
    Refusal::new(404, "notFound", "Not Found")
}

/// 5 to 1,024 digits of base32hex in lower case (events resource, `id`).
fn checked_id(id: &str) -> Result<&str, Refusal> {
    let right = |c: u8| c.is_ascii_digit() || (b'a'..=b'v').contains(&c);
    if (5..=1_024).contains(&id.len()) && id.bytes().all(right) {
        return Ok(id);
    }
    Err(refused(400, "invalid", "Invalid resource id value."))
}

/// An event has a start and an end after it, both times or both dates; a series has a rule that can be read.
fn checked_times(value: &Map<String, Value>) -> Result<(), Refusal> {
    let read = |name: &str| value.get(name).and_then(moment);
    let start = read("start").ok_or_else(|| refused(400, "required", "Missing or invalid start time."))?;
    let end = read("end").ok_or_else(|| refused(400, "required", "Missing end time."))?;
    if start.1 != end.1 {
        return Err(refused(400, "invalid", "Start and end times must either both be date or both be dateTime."));
    }
    if end.0 < start.0 || end.0 - start.0 > 366 * 10 * DAY {
        return Err(refused(400, "timeRangeEmpty", "The specified time range is empty."));
    }
    if let Some(rules) = value.get("recurrence").and_then(Value::as_array) {
        let readable = rules.iter().filter_map(Value::as_str).any(|rule| Rule::read(rule).is_some());
        if !readable {
            return Err(refused(400, "invalid", "Invalid recurrence rule."));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_225_600_000;

    fn object(value: Value) -> Map<String, Value> {
        let Value::Object(value) = value else { panic!("{value}") };
        value
    }

    fn series() -> Calendar {
        let mut calendar = Calendar::new("a@x", "a@x");
        let given = json!({
            "id": "serie", "summary": "s", "recurrence": ["RRULE:FREQ=DAILY;COUNT=3"],
            "start": { "dateTime": "2026-01-01T10:00:00Z" }, "end": { "dateTime": "2026-01-01T11:00:00Z" },
        });
        calendar.insert(&object(given), "x".to_owned(), NOW).unwrap();
        calendar
    }

    #[test]
    fn an_instance_becomes_an_exception_when_it_is_changed() {
        let mut calendar = series();
        let second = "serie_20260102T100000Z";
        assert_eq!(calendar.find(second).unwrap().text("summary"), Some("s"));
        assert!(calendar.find("serie_20260105T100000Z").is_none(), "the series has ended");
        let changed = calendar.change(second, &object(json!({ "summary": "t" })), false, None, NOW).unwrap();
        assert_eq!((changed.master(), changed.is_series()), (Some("serie"), false));
        calendar.cancel("serie_20260103T100000Z", NOW).unwrap();
        let master = calendar.find("serie").unwrap();
        let shown: Vec<_> = calendar
            .instances(&master)
            .iter()
            .map(|one| (one.is_cancelled(), one.text("summary") == Some("t")))
            .collect();
        assert_eq!(shown, [(false, false), (false, true), (true, false)]);
        let gone = calendar.find("serie_20260103T100000Z").unwrap();
        assert!(
            calendar.is_listed(&gone)
                && gone.shown().get("start").is_none()
                && gone.shown()["originalStartTime"].is_object()
        );
        assert_eq!(calendar.cancel("serie_20260103T100000Z", NOW).unwrap_err().status, 410);
        calendar.cancel("serie", NOW).unwrap();
        assert!(!calendar.is_listed(&gone), "a series that is gone takes its exceptions with it");
    }

    #[test]
    fn a_patch_merges_and_an_update_replaces() {
        let mut calendar = series();
        let patch = json!({ "location": "here", "extendedProperties": { "private": { "a": "1" } } });
        calendar.change("serie", &object(patch), false, None, NOW).unwrap();
        let patch = json!({ "location": null, "extendedProperties": { "private": { "b": "2" } }, "id": "other" });
        let event = calendar.change("serie", &object(patch), false, None, NOW).unwrap();
        assert_eq!(event.value["extendedProperties"]["private"], json!({ "a": "1", "b": "2" }));
        assert!(event.value.get("location").is_none() && event.text("id") == Some("serie"));
        let tag = event.text("etag").map(str::to_owned);
        let update = object(json!({ "start": { "date": "2026-01-01" }, "end": { "date": "2026-01-02" } }));
        let event = calendar.change("serie", &update, true, tag.as_deref(), NOW).unwrap();
        assert_eq!((event.text("summary"), event.value["sequence"].as_i64()), (None, Some(1)));
        let stale = calendar.change("serie", &update, true, tag.as_deref(), NOW).unwrap_err();
        assert_eq!(stale.status, 412);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let mut calendar = series();
        let times = json!({ "start": { "date": "2026-01-01" }, "end": { "date": "2026-01-02" } });
        for (more, status, reason) in [
            (json!({ "id": "serie" }), 409, "duplicate"),
            (json!({ "id": "UPPER" }), 400, "invalid"),
            (json!({ "id": "abcde", "iCalUID": "x" }), 400, "invalid"),
            (json!({ "end": null }), 400, "required"),
            (json!({ "end": { "date": "2025-12-31" } }), 400, "timeRangeEmpty"),
            (json!({ "end": { "dateTime": "2026-01-02T00:00:00Z" } }), 400, "invalid"),
            (json!({ "recurrence": ["RRULE:FREQ=SECONDLY"] }), 400, "invalid"),
        ] {
            let mut given = object(times.clone());
            given.extend(object(more.clone()));
            let refusal = calendar.insert(&given, "made0".to_owned(), NOW).unwrap_err();
            assert_eq!((refusal.status, refusal.reason.as_str()), (status, reason), "{more}");
        }
    }
}

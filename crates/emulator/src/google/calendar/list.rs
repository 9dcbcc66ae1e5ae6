//! Lists of events: all of them, or with a sync token those that changed since; pages, and tokens that end.

use serde_json::{Value, json};

use super::store::{Calendar, Event};
use crate::google::gmail::mime::{decode, encode};
use crate::google::refusal::Refusal;
use crate::google::service::number;
use crate::google::when;
use crate::params::Params;

const PAGE_DEFAULT: usize = 250;
const PAGE_MAX: usize = 2_500;
/// How far back `updatedMin` may look.
const UPDATED_MIN_AGE_MAX: i64 = 28 * 86_400_000;
/// What a sync token cannot go with (events.list, `syncToken`).
const EXCLUDED: [&str; 8] = [
    "iCalUID",
    "orderBy",
    "privateExtendedProperty",
    "q",
    "sharedExtendedProperty",
    "timeMin",
    "timeMax",
    "updatedMin",
];
/// What keeps a list from ending with a sync token.
const WITHOUT_TOKEN: [&str; 4] = ["iCalUID", "orderBy", "q", "updatedMin"];

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The change that was the newest when the first page was made.
    from: u64,
    /// Behind which event: its id in a full list, its change in an incremental one.
    behind: String,
    /// Whether the page was given empty already.
    shown_empty: bool,
}

/// What a sync token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Since {
    change: u64,
    single: bool,
}

/// How the emulator is dialled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialled {
    /// How long a sync token is good, in milliseconds.
    pub(super) token_life: i64,
    pub(super) empty_pages: bool,
}

/// Gives a page.
pub(super) fn page(calendar: &Calendar, query: &Params, dialled: Dialled, now: i64) -> Result<Value, Refusal> {
    let size = number(query, "maxResults", PAGE_DEFAULT, 1..=PAGE_MAX)?;
    let single = query.get("singleEvents") == Some("true");
    let since = query.get("syncToken").map(|token| read_sync(calendar, token, dialled, now)).transpose()?;
    check(query, since, single, now)?;
    let place = query.get("pageToken").map(|token| read_place(calendar, token)).transpose()?;
    if let Some(place) = place.clone().filter(|place| dialled.empty_pages && !place.shown_empty) {
        let token = write_place(calendar, &Place { shown_empty: true, ..place });
        return Ok(listed(calendar, Vec::new(), "nextPageToken", &token, now));
    }
    let from = place.as_ref().map_or(calendar.change, |place| place.from);
    let behind = place.map(|place| place.behind);
    let mut found = match since {
        Some(since) => changed(calendar, since, behind.as_deref())?,
        None => all(calendar, query, single, behind.as_deref(), now),
    };
    // What has one key comes together: the instances of a series that changed.
    let same = |at: usize| found.get(at).map(|(key, _)| key) == found.get(at.wrapping_sub(1)).map(|(key, _)| key);
    let end = (size..found.len()).find(|at| !same(*at)).unwrap_or(found.len());
    let more = found.len() > end;
    found.truncate(end);
    let next = found.last().filter(|_| more).map(|(key, _)| key.clone());
    let items = found.into_iter().map(|(_, event)| event.shown()).collect();
    if let Some(behind) = next {
        let token = write_place(calendar, &Place { from, behind, shown_empty: false });
        return Ok(listed(calendar, items, "nextPageToken", &token, now));
    }
    if WITHOUT_TOKEN.iter().any(|name| query.get(name).is_some()) {
        return Ok(listed(calendar, items, "", "", now));
    }
    let token = encode(format!("{}/{from}/{}/{now}", calendar.epoch, u8::from(single)).as_bytes());
    Ok(listed(calendar, items, "nextSyncToken", &token, now))
}

fn listed(calendar: &Calendar, items: Vec<Value>, name: &str, token: &str, now: i64) -> Value {
    let mut out = json!({
        "kind": "calendar#events", "etag": format!("\"p{}\"", calendar.change), "summary": calendar.id,
        "updated": when::stamp(now), "timeZone": "UTC", "accessRole": "owner", "defaultReminders": [], "items": items,
    });
    if let (Some(out), false) = (out.as_object_mut(), name.is_empty()) {
        out.insert(name.to_owned(), json!(token));
    }
    out
}

fn wrong(message: &str) -> Refusal {
    Refusal::new(400, "badRequest", message)
}

fn check(query: &Params, since: Option<Since>, single: bool, now: i64) -> Result<(), Refusal> {
    if let Some(since) = since {
        if let Some(name) = EXCLUDED.iter().find(|name| query.get(name).is_some()) {
            return Err(wrong(&format!("Sync token cannot be used together with {name}.")));
        }
        if query.get("showDeleted") == Some("false") {
            return Err(wrong("Sync token cannot be used with showDeleted=false."));
        }
        // Google calls the outcome undefined; here it is an error, so that nobody relies on it.
        if since.single != single {
            return Err(wrong("The sync token was given for other parameters."));
        }
    }
    if query.get("orderBy") == Some("startTime") && !single {
        return Err(wrong("The requested ordering is not available for the particular query."));
    }
    for name in ["timeMin", "timeMax", "updatedMin"] {
        if query.get(name).is_some_and(|text| when::read(text).is_none()) {
            return Err(wrong("Bad Request"));
        }
    }
    let updated = query.get("updatedMin").and_then(when::read);
    if updated.is_some_and(|at| now - at > UPDATED_MIN_AGE_MAX) {
        let message = "The requested minimum modification time lies too far in the past.";
        return Err(Refusal::new(410, "updatedMinTooLongAgo", message).of("calendar").at("updatedMin"));
    }
    Ok(())
}

/// Gives what changed since a token, in the order of the changes: deleted events among them.
fn changed(calendar: &Calendar, since: Since, behind: Option<&str>) -> Result<Vec<(String, Event)>, Refusal> {
    let after = match behind {
        Some(behind) => behind.parse().map_err(|_| page_refusal())?,
        None => since.change,
    };
    let mut events: Vec<&Event> = calendar.events.values().filter(|event| event.change > after).collect();
    events.sort_by_key(|event| event.change);
    let key = |event: &Event| event.change.to_string();
    if !since.single {
        return Ok(events.into_iter().map(|event| (key(event), event.clone())).collect());
    }
    let mut out = Vec::new();
    for event in events {
        if event.is_series() && !event.is_cancelled() {
            out.extend(calendar.instances(event).into_iter().map(|one| (key(event), one)));
        } else {
            out.push((key(event), event.clone()));
        }
    }
    Ok(out)
}

/// Gives every event, in an order that stays.
fn all(calendar: &Calendar, query: &Params, single: bool, behind: Option<&str>, now: i64) -> Vec<(String, Event)> {
    let deleted = query.get("showDeleted") == Some("true");
    let time = |name: &str| query.get(name).and_then(when::read);
    let (from, until, updated) = (time("timeMin"), time("timeMax"), time("updatedMin"));
    let text = query.get("q").map(str::to_lowercase);
    let fits = |event: &Event| {
        let words = ["summary", "description", "location"].iter().filter_map(|name| event.text(name));
        let found = |text: &String| words.clone().any(|word| word.to_lowercase().contains(text));
        let whole = event.is_series();
        (deleted || !event.is_cancelled() || (!single && event.master().is_some()))
            && (whole || from.is_none_or(|from| event.end().is_none_or(|(end, _)| end > from)))
            && until.is_none_or(|until| event.start().is_none_or(|(start, _)| start < until))
            && updated.is_none_or(|updated| event.updated >= updated)
            && text.as_ref().is_none_or(found)
            && query.get("iCalUID").is_none_or(|uid| event.text("iCalUID") == Some(uid))
    };
    let mut out: Vec<(String, Event)> = Vec::new();
    for (id, event) in &calendar.events {
        if single && event.is_series() && !event.is_cancelled() {
            let key = |one: &Event| one.text("id").unwrap_or_default().to_owned();
            out.extend(calendar.instances(event).into_iter().map(|one| (key(&one), one)));
        } else if calendar.is_listed(event) && !(single && event.master().is_some())
            || (deleted && event.is_cancelled())
        {
            out.push((id.clone(), event.clone()));
        }
    }
    out.retain(|(_, event)| fits(event));
    if query.get("orderBy") == Some("startTime") {
        let at = |event: &Event| event.start().map_or(now, |(at, _)| at);
        // The key of a page is then time and id.
        out.iter_mut().for_each(|(key, event)| *key = format!("{:020}/{key}", at(event)));
    }
    out.sort_by(|one, other| one.0.cmp(&other.0));
    out.dedup_by(|one, other| one.0 == other.0);
    out.retain(|(key, _)| behind.is_none_or(|behind| key.as_str() > behind));
    out
}

fn gone() -> Refusal {
    let message = "Sync token is no longer valid, a full sync is required.";
    Refusal::new(410, "fullSyncRequired", message).of("calendar").at("syncToken")
}

fn read_sync(calendar: &Calendar, token: &str, dialled: Dialled, now: i64) -> Result<Since, Refusal> {
    let read = || {
        let text = String::from_utf8(decode(token)?).ok()?;
        let mut parts = text.split('/');
        let mut number = || parts.next()?.parse::<u64>().ok();
        Some((number()?, number()?, number()?, i64::try_from(number()?).ok()?))
    };
    let Some((epoch, change, single, made)) = read() else {
        return Err(Refusal::new(400, "invalid", "Invalid sync token value.").at("syncToken"));
    };
    if epoch != calendar.epoch || now.saturating_sub(made) > dialled.token_life {
        return Err(gone());
    }
    Ok(Since { change, single: single == 1 })
}

fn page_refusal() -> Refusal {
    Refusal::new(400, "invalid", "Invalid page token value.").at("pageToken")
}

fn read_place(calendar: &Calendar, token: &str) -> Result<Place, Refusal> {
    let read = || {
        let text = String::from_utf8(decode(token)?).ok()?;
        let (epoch, rest) = text.split_once('/')?;
        let (from, rest) = rest.split_once('/')?;
        let (empty, behind) = rest.split_once('/')?;
        let of_now = epoch.parse::<u64>().ok()? == calendar.page_epoch;
        let place = Place { from: from.parse().ok()?, behind: behind.to_owned(), shown_empty: empty == "1" };
        of_now.then_some(place)
    };
    read().ok_or_else(page_refusal)
}

fn write_place(calendar: &Calendar, place: &Place) -> String {
    let empty = u8::from(place.shown_empty);
    encode(format!("{}/{}/{empty}/{}", calendar.page_epoch, place.from, place.behind).as_bytes())
}

//! Lists, the event log and search: pages in list order, newest first.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use bytes::Bytes;
use serde_json::Value;

use super::error::Failure;
use super::form;
use super::shape::{self, Era};
use super::state::{Account, Kind, Place, Row, matches_pattern};

/// Page bounds (Stripe API reference, pagination).
const LIMIT_DEFAULT: usize = 10;
const LIMIT_MAX: usize = 100;
/// How many types one events request may name (Stripe API reference, events).
const TYPES_MAX: usize = 20;
/// Parameters that page and shape, not filter.
const PAGING: [&str; 6] = ["limit", "starting_after", "ending_before", "expand", "created", "include"];

/// Where a page begins and ends, and which way it grows.
#[derive(Debug, Default)]
struct Window {
    older: Option<Place>,
    newer: Option<Place>,
    limit: usize,
    backwards: bool,
}

fn limit(params: &Value) -> Result<usize, Failure> {
    let Some(limit) = form::integer(params, "limit")? else { return Ok(LIMIT_DEFAULT) };
    usize::try_from(limit).ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or_else(|| {
        let bound = if limit < 1 { "greater than or equal to 1" } else { "less than or equal to 100" };
        Failure::invalid(format!("Invalid integer: limit must be {bound}."))
            .code("parameter_invalid_integer")
            .param("limit")
    })
}

/// Reads the paging parameters; `place` finds the cursor object or refuses it.
fn window(params: &Value, place: impl Fn(&str, &str) -> Result<Place, Failure>) -> Result<Window, Failure> {
    let mut window = Window { limit: limit(params)?, ..Window::default() };
    match (form::text(params, "starting_after"), form::text(params, "ending_before")) {
        (Some(_), Some(_)) => {
            return Err(Failure::invalid(
                "You may only specify one of these parameters: starting_after, ending_before.",
            ));
        }
        (Some(id), None) => window.newer = Some(place(id, "starting_after")?),
        (None, Some(id)) => {
            window.older = Some(place(id, "ending_before")?);
            window.backwards = true;
        }
        (None, None) => {}
    }
    let Some(created) = params.get("created") else { return Ok(window) };
    let bound = |name: &str| form::integer(created, name);
    let (mut from, mut to) = (bound("gte")?, bound("lt")?);
    if let Some(gt) = bound("gt")? {
        from = from.max(Some(gt + 1));
    }
    if let Some(lte) = bound("lte")? {
        to = Some(to.unwrap_or(i64::MAX).min(lte + 1));
    }
    if let Some(exact) = created.as_str().and_then(|text| text.parse::<i64>().ok()) {
        (from, to) = (Some(exact), Some(exact + 1));
    }
    if let Some(from) = from {
        window.older = window.older.max(Some((from - 1, u64::MAX)));
    }
    if let Some(to) = to {
        window.newer = Some(window.newer.unwrap_or((i64::MAX, u64::MAX)).min((to, 0)));
    }
    Ok(window)
}

/// Takes a page out of rows that come oldest first; gives them newest first and whether more remain.
fn take<T>(rows: impl DoubleEndedIterator<Item = T>, window: &Window) -> (Vec<T>, bool) {
    let mut page: Vec<T> = if window.backwards {
        rows.take(window.limit + 1).collect()
    } else {
        rows.rev().take(window.limit + 1).collect()
    };
    let more = page.len() > window.limit;
    page.truncate(window.limit);
    if window.backwards {
        page.reverse();
    }
    (page, more)
}

fn envelope(url: &str, more: bool, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size + 128);
    out.extend_from_slice(b"{\"object\":\"list\",\"url\":\"");
    out.extend_from_slice(url.as_bytes());
    out.extend_from_slice(b"\",\"has_more\":");
    out.extend_from_slice(if more { b"true" } else { b"false" });
    out.extend_from_slice(b",\"data\":[");
    out
}

fn finish(mut out: Vec<u8>) -> Bytes {
    out.extend_from_slice(b"]}");
    Bytes::from(out)
}

/// Answers `GET /v1/<kind>`.
///
/// # Errors
/// Refuses bad limits, cursors that are no (longer) part of the list, unknown filters.
pub(crate) fn list(account: &Account, kind: Kind, params: &Value, era: Era, survive: bool) -> Result<Bytes, Failure> {
    let filters = filters(kind, params)?;
    let url = format!("/v1/{}", kind.path());
    let Some(table) = account.table_ref(kind) else {
        let window = window(params, |id, param| Err(Failure::missing(400, kind.noun(), id, param)))?;
        return Ok(finish(envelope(&url, false, window.limit)));
    };
    let window = window(params, |id, param| {
        // A cursor that left the list fails here as it does at Stripe (stripe-python #671, stripe-node #2368).
        let listed = survive || table.row(id).is_some_and(|row| status_shows(kind, row, params));
        table.place(id, survive).filter(|_| listed).ok_or_else(|| Failure::missing(400, kind.noun(), id, param))
    })?;
    let rows = table.between(window.older, window.newer);
    let rows = rows.filter(|row| status_shows(kind, row, params) && filters.iter().all(|filter| filter.keeps(row)));
    let (page, more) = take(rows, &window);
    let paths = list_paths(params)?;
    let size = page.iter().map(|row| row.json.len() + 1).sum();
    let mut out = envelope(&url, more, size);
    if paths.is_empty() && shape::is_stored_shape(kind, era) {
        for (at, row) in page.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&row.json);
        }
        return Ok(finish(out));
    }
    for (at, row) in page.iter().enumerate() {
        let mut value = shape::render(account, row, era);
        shape::expand(account, &mut value, &paths, era)?;
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&super::desk::bytes_of(&value));
    }
    Ok(finish(out))
}

/// Reads the expansions of a list, which all begin with `data.`.
fn list_paths(params: &Value) -> Result<Vec<String>, Failure> {
    let inner = |path: &String| {
        path.strip_prefix("data.").map(str::to_owned).ok_or_else(|| {
            let message = format!(
                "This property cannot be expanded ({path}). You may want to try expanding 'data.{path}' instead."
            );
            Failure::invalid(message).param("expand")
        })
    };
    form::texts(params, "expand").iter().map(inner).collect()
}

/// One filter a list was asked to apply.
#[derive(Debug)]
enum Filter {
    Link(String, String),
    Field(String, String),
}

impl Filter {
    fn keeps(&self, row: &Row) -> bool {
        match self {
            Self::Link(name, wanted) => row.link(name) == Some(wanted),
            Self::Field(name, wanted) => {
                let text = std::str::from_utf8(&row.json).unwrap_or_default();
                // The text is searched first, so that rows without it cost no parsing.
                text.contains(wanted.as_str()) && {
                    let value = row.value();
                    plain(&value[name.as_str()]).as_deref() == Some(wanted.as_str())
                }
            }
        }
    }
}

/// Gives a value as it stands in a query: texts bare, others as JSON, null not at all.
fn plain(value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn filters(kind: Kind, params: &Value) -> Result<Vec<Filter>, Failure> {
    let (links, fields): (&[&str], &[&str]) = match kind {
        Kind::Customer => (&[], &["email", "test_clock"]),
        Kind::Product => (&[], &["active", "shippable", "url", "type"]),
        Kind::Price => (&["product", "active", "type", "currency"], &[]),
        Kind::Subscription => (&["customer", "collection_method"], &["price"]),
        Kind::Invoice => (&["customer", "subscription", "status", "collection_method"], &["due_date"]),
        Kind::PaymentIntent | Kind::SetupIntent => (&["customer"], &[]),
        Kind::PaymentMethod => (&["customer", "type"], &[]),
        Kind::Charge => (&["customer", "payment_intent"], &["transfer_group"]),
        Kind::Refund => (&["charge", "payment_intent"], &[]),
        Kind::Session => (&["customer", "payment_intent", "subscription", "status"], &[]),
        Kind::Endpoint => (&[], &[]),
    };
    let Value::Object(map) = params else { return Ok(Vec::new()) };
    let mut filters = Vec::new();
    for (name, value) in map.iter().filter(|(name, _)| !PAGING.contains(&name.as_str())) {
        let text = value.as_str().unwrap_or_default().to_owned();
        match name.as_str() {
            "status" if kind == Kind::Subscription => {}
            "lookup_keys" if kind == Kind::Price => {}
            "ids" if kind == Kind::Product => {}
            "price" if kind == Kind::Subscription => filters.push(Filter::Field("id".to_owned(), text)),
            name if links.contains(&name) => filters.push(Filter::Link(name.to_owned(), text)),
            name if fields.contains(&name) => filters.push(Filter::Field(name.to_owned(), text)),
            name => {
                return Err(Failure::invalid(format!("Received unknown parameter: {name}"))
                    .code("parameter_unknown")
                    .param(name));
            }
        }
    }
    Ok(filters)
}

/// Subscription lists hide ended ones unless asked; prices and products can be asked for by key or identifier.
fn status_shows(kind: Kind, row: &Row, params: &Value) -> bool {
    match kind {
        Kind::Subscription => {
            let status = row.link("status").unwrap_or_default();
            match form::text(params, "status") {
                None | Some("") => !matches!(status, "canceled"),
                Some("all") => true,
                Some("ended") => matches!(status, "canceled" | "incomplete_expired"),
                Some(wanted) => status == wanted,
            }
        }
        Kind::Price => {
            let keys = form::texts(params, "lookup_keys");
            keys.is_empty() || row.link("lookup_key").is_some_and(|key| keys.iter().any(|wanted| wanted == key))
        }
        Kind::Product => {
            let ids = form::texts(params, "ids");
            ids.is_empty() || ids.iter().any(|id| row.value()["id"] == id.as_str())
        }
        Kind::Customer
        | Kind::Invoice
        | Kind::PaymentIntent
        | Kind::SetupIntent
        | Kind::PaymentMethod
        | Kind::Charge
        | Kind::Refund
        | Kind::Session
        | Kind::Endpoint => true,
    }
}

/// Answers `GET /v1/events`.
///
/// # Errors
/// Refuses a cursor that is unknown or older than the retention, and more than 20 types.
pub(crate) fn events(account: &mut Account, params: &Value, now: i64) -> Result<Bytes, Failure> {
    account.events.expire(now);
    let events = &account.events;
    super::desk::known(
        params,
        &["limit", "starting_after", "ending_before", "created", "type", "types", "delivery_success"],
    )?;
    let window = window(params, |id, param| {
        events.places.get(id).copied().ok_or_else(|| Failure::missing(400, "event", id, param))
    })?;
    let types = form::texts(params, "types");
    if types.len() > TYPES_MAX {
        return Err(Failure::invalid(format!("You may specify at most {TYPES_MAX} types.")).param("types"));
    }
    let kind = form::text(params, "type");
    if kind.is_some() && !types.is_empty() {
        return Err(Failure::invalid("You may only specify one of these parameters: type, types."));
    }
    let delivered = form::boolean(params, "delivery_success")?;
    let range = (
        window.older.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded),
        window.newer.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded),
    );
    let empty = matches!((window.older, window.newer), (Some(older), Some(newer)) if older >= newer);
    let rows =
        (!empty).then(|| events.rows.range(range)).into_iter().flatten().map(|(_, (_, row))| row).filter(|row| {
            kind.is_none_or(|pattern| matches_pattern(pattern, &row.kind))
                && (types.is_empty() || types.iter().any(|pattern| matches_pattern(pattern, &row.kind)))
                && delivered.is_none_or(|delivered| delivered == (row.pending == 0))
        });
    let (page, more) = take(rows, &window);
    let size = page.iter().map(|row| row.head.len() + row.tail.len() + 4).sum();
    let mut out = envelope("/v1/events", more, size);
    for (at, row) in page.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        row.write(&mut out);
    }
    Ok(finish(out))
}

/// Answers `GET /v1/<kind>/search`: clauses joined by AND, `field:"text"`, `field~"part"`, `metadata["k"]:"v"`.
///
/// # Errors
/// Refuses a query it cannot read and fields that are not searchable there.
pub(crate) fn search(account: &Account, kind: Kind, params: &Value, era: Era) -> Result<Bytes, Failure> {
    let query = form::text(params, "query").ok_or_else(|| Failure::required("query"))?;
    let clauses = query.split(" AND ").map(|text| clause(text.trim())).collect::<Result<Vec<_>, _>>()?;
    let limit = limit(params)?;
    let skip: usize = match form::text(params, "page") {
        None | Some("") => 0,
        Some(page) => page.parse().map_err(|_| Failure::invalid("Invalid page token.").param("page"))?,
    };
    let rows = account.table_ref(kind).into_iter().flat_map(|table| table.iter().rev()).map(|(_, row)| row);
    let found: Vec<Value> = rows
        .filter(|row| {
            let text = std::str::from_utf8(&row.json).unwrap_or_default();
            clauses.iter().all(|clause| clause.negated || clause.part || text.contains(&clause.wanted)) && {
                let value = row.value();
                clauses.iter().all(|clause| clause.keeps(&value))
            }
        })
        .skip(skip)
        .take(limit + 1)
        .map(|row| shape::render(account, row, era))
        .collect();
    let more = found.len() > limit;
    let mut data: Vec<Value> = found.into_iter().take(limit).collect();
    let paths = list_paths(params)?;
    for value in &mut data {
        shape::expand(account, value, &paths, era)?;
    }
    let next = if more { Value::String((skip + limit).to_string()) } else { Value::Null };
    let body = serde_json::json!({
        "object": "search_result", "url": format!("/v1/{}/search", kind.path()), "has_more": more, "next_page": next, "data": data,
    });
    Ok(super::desk::bytes_of(&body))
}

/// One condition of a search query.
#[derive(Debug)]
struct Clause {
    path: Vec<String>,
    wanted: String,
    part: bool,
    negated: bool,
}

impl Clause {
    fn keeps(&self, value: &Value) -> bool {
        let mut node = value;
        for name in &self.path {
            node = &node[name.as_str()];
        }
        let text = plain(node).unwrap_or_default();
        let hit = if self.part {
            text.to_lowercase().contains(&self.wanted.to_lowercase())
        } else if node.is_null() {
            self.wanted == "null"
        } else {
            text.eq_ignore_ascii_case(&self.wanted)
        };
        hit != self.negated
    }
}

fn clause(text: &str) -> Result<Clause, Failure> {
    let unreadable = || Failure::invalid("We were unable to parse your search query.").param("query");
    let (negated, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let at = text.find([':', '~']).ok_or_else(unreadable)?;
    let (name, rest) = text.split_at(at);
    let part = rest.starts_with('~');
    let wanted = rest.get(1..).unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned();
    let path = match name.split_once('[') {
        Some((head, key)) => vec![head.to_owned(), key.trim_end_matches(']').trim_matches(['"', '\'']).to_owned()],
        None => name.split('.').map(str::to_owned).collect(),
    };
    if name.is_empty() || wanted.is_empty() {
        return Err(unreadable());
    }
    Ok(Clause { path, wanted, part, negated })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn clauses_are_read_and_applied() {
        let value = json!({ "email": "A@x.org", "metadata": { "k": "v" }, "status": "active" });
        let keeps = |text: &str| clause(text).unwrap().keeps(&value);
        assert!(keeps("email:'a@x.org'"));
        assert!(keeps("metadata[\"k\"]:\"v\""));
        assert!(keeps("email~\"x.o\""));
        assert!(!keeps("-status:\"active\""));
        assert!(clause("nonsense").is_err());
    }

    #[test]
    fn windows_follow_created_and_cursor() {
        let place = |_: &str, _: &str| Ok((5, 5));
        let window = window(&json!({ "created": { "gte": "3", "lt": "9" }, "starting_after": "x" }), place).unwrap();
        assert_eq!((window.older, window.newer), (Some((2, u64::MAX)), Some((5, 5))));
        assert!(limit(&json!({ "limit": "101" })).is_err());
        assert!(limit(&json!({ "limit": "0" })).is_err());
    }
}

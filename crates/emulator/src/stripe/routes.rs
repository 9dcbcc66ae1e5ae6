//! Which operation a method and path name, and under which route limits and faults count it.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::desk::{Desk, bytes_of};
use super::error::Failure;
use super::form;
use super::state::Kind;
use super::{billing, catalog, checkout, invoices, lists, oauth, objects, payments, shape, thin};

/// Gives the route of a request: method and path with identifiers replaced, as Stripe counts its limits.
pub(crate) fn route(method: &Method, path: &str) -> String {
    let mut out = String::with_capacity(method.as_str().len() + path.len() + 1);
    out.push_str(method.as_str());
    out.push(' ');
    for segment in path.split('/').skip(1) {
        out.push('/');
        out.push_str(if is_identifier(segment) { "{id}" } else { segment });
    }
    out
}

fn is_identifier(segment: &str) -> bool {
    const WORDS: [&str; 4] = ["payment_intents", "payment_methods", "setup_intents", "webhook_endpoints"];
    let prefixed = Kind::of_id(segment).is_some()
        || ["evt_", "acct_", "si_", "il_"].iter().any(|prefix| segment.starts_with(prefix));
    (prefixed && !WORDS.contains(&segment))
        || segment.bytes().any(|byte| byte.is_ascii_digit()) && segment != "v1" && segment != "v2"
}

/// Runs the operation that method and path name.
///
/// # Errors
/// Gives Stripe's refusal.
pub(crate) fn run(desk: &mut Desk<'_>, method: &Method, path: &str, params: &Value) -> Result<Bytes, Failure> {
    let unknown = || Failure::unknown_url(method.as_str(), path);
    match (method.as_str(), path) {
        ("POST", "/oauth/token") => return oauth::token(desk, params).map(|value| bytes_of(&value)),
        ("POST", "/oauth/deauthorize") => return oauth::deauthorize(desk, params).map(|value| bytes_of(&value)),
        ("POST", "/v2/core/event_destinations") => {
            return thin::create_destination(desk, params).map(|value| bytes_of(&value));
        }
        _ => {}
    }
    if let ("GET", Some(id)) = (method.as_str(), path.strip_prefix("/v2/core/events/")) {
        return thin::retrieve(desk, id).map(|value| bytes_of(&value));
    }
    let rest = path.strip_prefix("/v1/").ok_or_else(unknown)?;
    let segments: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
    let expand = form::texts(params, "expand");
    let value = match (method.as_str(), segments.as_slice()) {
        ("GET", ["events"]) => {
            let now = desk.now;
            return lists::events(desk.data(), params, now);
        }
        ("GET", ["events", id]) => {
            let now = desk.now;
            let events = &mut desk.data().events;
            events.expire(now);
            return events.json(id).map(Bytes::from).ok_or_else(|| Failure::missing(404, "event", id, "id"));
        }
        ("GET", ["account"]) => objects::account(&desk.account),
        ("GET", ["accounts", id]) if *id == desk.account || desk.world.connected.contains(*id) => objects::account(id),
        ("GET", ["balance"]) => {
            json!({ "object": "balance", "available": [{ "amount": 0, "currency": "usd" }], "livemode": false, "pending": [{ "amount": 0, "currency": "usd" }] })
        }
        ("GET", [kind, "search"]) => {
            let kind = Kind::of_path(kind).ok_or_else(unknown)?;
            let era = desk.era;
            return lists::search(desk.data(), kind, params, era);
        }
        ("GET", ["customers", customer, "subscriptions"]) => {
            return under(desk, Kind::Customer, customer, Kind::Subscription, "customer", params);
        }
        ("GET", ["customers", customer, "payment_methods"]) => {
            return under(desk, Kind::Customer, customer, Kind::PaymentMethod, "customer", params);
        }
        ("GET", ["charges", charge, "refunds"]) => {
            return under(desk, Kind::Charge, charge, Kind::Refund, "charge", params);
        }
        ("GET", ["checkout", "sessions"]) => return list(desk, Kind::Session, params),
        ("GET", ["checkout", "sessions", id]) => return retrieve(desk, Kind::Session, id, "session", &expand),
        ("GET", ["checkout", "sessions", id, "line_items"]) => {
            desk.read(Kind::Session, id, "session", 404)?;
            let lines = desk
                .link(Kind::Session, id, "line_items")
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default();
            objects::list(&format!("/v1/checkout/sessions/{id}/line_items"), lines)
        }
        ("GET", ["subscription_items"]) => {
            let id = form::text(params, "subscription").ok_or_else(|| Failure::required("subscription"))?;
            desk.read(Kind::Subscription, id, "subscription", 400)?["items"].clone()
        }
        ("GET", ["invoices", id, "lines"]) => desk.read(Kind::Invoice, id, "invoice", 404)?["lines"].clone(),
        ("GET", [kind]) => return list(desk, Kind::of_path(kind).ok_or_else(unknown)?, params),
        ("GET", [kind, id]) => return retrieve(desk, Kind::of_path(kind).ok_or_else(unknown)?, id, "id", &expand),
        ("POST", _) => {
            let mut operands = params.clone();
            if let Value::Object(map) = &mut operands {
                map.remove("expand");
            }
            if let Some(object) = made_by(&segments) {
                shape::check_expand(object, &expand, desk.era)?;
            }
            let value = post(desk, &segments, &operands)?.ok_or_else(unknown)?;
            return show(desk, value, &expand).map_err(Failure::begun);
        }
        ("DELETE", ["customers", id]) => catalog::delete_customer(desk, id)?,
        ("DELETE", ["products", id]) => catalog::delete_product(desk, id)?,
        ("DELETE", ["webhook_endpoints", id]) => catalog::delete_endpoint(desk, id)?,
        ("DELETE", ["invoices", id]) => invoices::delete_invoice(desk, id)?,
        ("DELETE", ["subscriptions", id]) => {
            let mut operands = params.clone();
            if let Value::Object(map) = &mut operands {
                map.remove("expand");
            }
            let value = billing::cancel(desk, id, &operands)?;
            return show(desk, value, &expand);
        }
        _ => return Err(unknown()),
    };
    Ok(bytes_of(&value))
}

fn post(desk: &mut Desk<'_>, segments: &[&str], params: &Value) -> Result<Option<Value>, Failure> {
    let value = match segments {
        ["customers"] => catalog::create_customer(desk, params)?,
        ["customers", id] => catalog::update_customer(desk, id, params)?,
        ["products"] => catalog::create_product(desk, params)?,
        ["products", id] => catalog::update_product(desk, id, params)?,
        ["prices"] => catalog::create_price(desk, params)?,
        ["prices", id] => catalog::update_price(desk, id, params)?,
        ["webhook_endpoints"] => catalog::create_endpoint(desk, params)?,
        ["webhook_endpoints", id] => catalog::update_endpoint(desk, id, params)?,
        ["subscriptions"] => billing::create(desk, params)?,
        ["subscriptions", id] => billing::update(desk, id, params)?,
        ["invoices"] => invoices::create_invoice(desk, params)?,
        ["invoices", id] => invoices::update_invoice(desk, id, params)?,
        ["invoices", id, "finalize"] => invoices::finalize(desk, id)?,
        ["invoices", id, "pay"] => invoices::pay_invoice(desk, id, params)?,
        ["invoices", id, "void"] => invoices::void_invoice(desk, id)?,
        ["invoiceitems"] => invoices::create_invoice_item(desk, params)?,
        ["checkout", "sessions"] => checkout::create_session(desk, params)?,
        ["checkout", "sessions", id, "expire"] => checkout::expire_session(desk, id)?,
        ["payment_methods"] => payments::create_method(desk, params)?,
        ["payment_methods", id] => payments::annotate(desk, Kind::PaymentMethod, id, params, "payment_method.updated")?,
        ["payment_methods", id, "attach"] => payments::attach_method(desk, id, params, true)?,
        ["payment_methods", id, "detach"] => payments::attach_method(desk, id, params, false)?,
        ["payment_intents"] => payments::create_intent(desk, params)?,
        ["payment_intents", id] => payments::update_intent(desk, id, params)?,
        ["payment_intents", id, "confirm"] => payments::confirm_intent(desk, id, params)?,
        ["payment_intents", id, "capture"] => payments::capture_intent(desk, id, params)?,
        ["payment_intents", id, "cancel"] => payments::cancel_intent(desk, id, params)?,
        ["charges"] => payments::create_charge(desk, params)?,
        ["charges", id] => payments::annotate(desk, Kind::Charge, id, params, "charge.updated")?,
        ["refunds"] => payments::create_refund(desk, params)?,
        ["refunds", id] => payments::annotate(desk, Kind::Refund, id, params, "refund.updated")?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// Gives the kind of object a write answers with, so that its expansions are judged before anything changes.
fn made_by(segments: &[&str]) -> Option<&'static str> {
    match segments {
        ["checkout", "sessions", ..] => Some(Kind::Session.facts().1),
        [kind, ..] => Kind::of_path(kind).map(|kind| kind.facts().1),
        [] => None,
    }
}

/// Shows an object that was just written, in the caller's version, expanded as asked.
fn show(desk: &mut Desk<'_>, mut value: Value, expand: &[String]) -> Result<Bytes, Failure> {
    let era = desk.era;
    let account = desk.data();
    let id = value["id"].as_str().unwrap_or_default().to_owned();
    let kind = Kind::ALL.into_iter().find(|kind| value["object"] == kind.facts().1);
    if let Some(row) = kind.and_then(|kind| account.row(kind, &id)) {
        shape::reshape(account, &mut value, &row.links, era);
    }
    shape::expand(account, &mut value, expand, era)?;
    Ok(bytes_of(&value))
}

fn list(desk: &mut Desk<'_>, kind: Kind, params: &Value) -> Result<Bytes, Failure> {
    let (era, survive) = (desk.era, desk.world.cursors_survive_deletion);
    lists::list(desk.data(), kind, params, era, survive)
}

fn under(desk: &mut Desk<'_>, parent: Kind, id: &str, kind: Kind, by: &str, params: &Value) -> Result<Bytes, Failure> {
    desk.read(parent, id, parent.noun(), 404)?;
    let mut params = params.clone();
    params[by] = json!(id);
    list(desk, kind, &params)
}

fn retrieve(desk: &mut Desk<'_>, kind: Kind, id: &str, param: &str, expand: &[String]) -> Result<Bytes, Failure> {
    let era = desk.era;
    let account = desk.data();
    if let Some(row) = account.row(kind, id) {
        if expand.is_empty() && shape::is_stored_shape(kind, era) {
            return Ok(row.json.clone());
        }
        let mut value = shape::render(account, row, era);
        shape::expand(account, &mut value, expand, era)?;
        return Ok(bytes_of(&value));
    }
    let gone = account.table_ref(kind).is_some_and(|table| table.was_deleted(id));
    // Only customers answer for the deleted; products and invoices are simply gone.
    if gone && kind == Kind::Customer {
        return Ok(bytes_of(&objects::deleted(id, "customer")));
    }
    Err(Failure::missing(404, kind.noun(), id, param))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_drop_identifiers() {
        let check = |path: &str, expected: &str| assert_eq!(route(&Method::GET, path), expected);
        check("/v1/customers", "GET /v1/customers");
        check("/v1/customers/cus_A", "GET /v1/customers/{id}");
        check("/v1/checkout/sessions/cs_test_a1b", "GET /v1/checkout/sessions/{id}");
        check("/v1/payment_intents/pi_3x/confirm", "GET /v1/payment_intents/{id}/confirm");
        check("/v1/products/custom-7", "GET /v1/products/{id}");
        check("/v1/customers/search", "GET /v1/customers/search");
    }
}

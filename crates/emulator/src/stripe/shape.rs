//! Turns the stored newest shape into what an API version shows, and expands what the caller asked for.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use serde_json::{Value, json};

use super::error::Failure;
use super::objects;
use super::state::{Account, Kind, Links, Row};

/// The version that moved invoices and periods around (Stripe changelog, 2025-03-31.basil).
const BASIL: &str = "2025-03-31";
/// How deep one expansion may reach (Stripe API reference, expanding responses).
const EXPAND_DEPTH_MAX: usize = 4;

/// The two shapes a client can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// Before 2025-03-31: `invoice.payment_intent`, `subscription.current_period_end`.
    Classic,
    /// Since 2025-03-31.basil: `invoice.confirmation_secret`, periods on items.
    Basil,
}

/// Gives the shape of an API version such as `2026-09-30.endive`.
pub(crate) fn era(version: &str) -> Era {
    if version.get(..10).is_some_and(|date| date >= BASIL) { Era::Basil } else { Era::Classic }
}

/// Tells whether a text looks like an API version: a date and perhaps a train's name.
pub(crate) fn is_version(text: &str) -> bool {
    let bytes = text.as_bytes();
    let date = bytes.len() >= 10
        && bytes.iter().take(10).enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    date && (bytes.len() == 10 || bytes.get(10) == Some(&b'.'))
}

/// Gives an object as a version shows it, nothing expanded.
pub(crate) fn render(account: &Account, row: &Row, era: Era) -> Value {
    let mut value = row.value();
    reshape(account, &mut value, &row.links, era);
    value
}

/// Tells whether the stored bytes are what this version shows.
pub(crate) fn is_stored_shape(kind: Kind, era: Era) -> bool {
    era == Era::Basil || !matches!(kind, Kind::Subscription | Kind::Invoice | Kind::PaymentIntent | Kind::Charge)
}

/// Changes the newest shape into an older one, in place.
pub(crate) fn reshape(account: &Account, value: &mut Value, links: &Links, era: Era) {
    if era == Era::Basil {
        return;
    }
    let kind = value["object"].as_str().unwrap_or_default().to_owned();
    match kind.as_str() {
        "subscription" => classic_subscription(value),
        "invoice" => classic_invoice(account, value, links),
        "payment_intent" | "charge" => value["invoice"] = link(links, "invoice"),
        _ => {}
    }
}

fn link(links: &Links, name: &str) -> Value {
    links.get(name).map_or(Value::Null, |id| json!(id))
}

fn drop_fields(value: &mut Value, names: &[&str]) {
    if let Value::Object(map) = value {
        for name in names {
            map.remove(*name);
        }
    }
}

fn classic_subscription(value: &mut Value) {
    let first = value.pointer("/items/data/0").cloned().unwrap_or(Value::Null);
    value["current_period_start"] = first["current_period_start"].clone();
    value["current_period_end"] = first["current_period_end"].clone();
    value["plan"] = first["plan"].clone();
    value["quantity"] = first["quantity"].clone();
    value["discount"] = Value::Null;
    drop_fields(value, &["billing_mode", "billing_schedules", "customer_account"]);
    if let Some(items) = value.pointer_mut("/items/data").and_then(Value::as_array_mut) {
        for item in items {
            drop_fields(item, &["current_period_start", "current_period_end"]);
        }
    }
}

fn classic_invoice(account: &Account, value: &mut Value, links: &Links) {
    let paid = value["status"] == "paid";
    let subscription = link(links, "subscription");
    value["subscription_details"] = json!({ "metadata": if subscription.is_null() { Value::Null } else { json!({}) } });
    value["subscription"] = subscription;
    value["payment_intent"] = link(links, "payment_intent");
    value["charge"] = link(links, "charge");
    value["paid"] = json!(paid);
    value["paid_out_of_band"] = json!(false);
    value["total_tax_amounts"] = json!([]);
    for name in ["tax", "discount", "quote", "application_fee_amount", "transfer_data"] {
        value[name] = Value::Null;
    }
    drop_fields(
        value,
        &["parent", "confirmation_secret", "payments", "total_taxes", "amount_overpaid", "customer_account"],
    );
    if let Some(lines) = value.pointer_mut("/lines/data").and_then(Value::as_array_mut) {
        for line in lines {
            let price = line
                .pointer("/pricing/price_details/price")
                .and_then(Value::as_str)
                .and_then(|id| account.row(Kind::Price, id))
                .map_or(Value::Null, Row::value);
            line["plan"] = if price["recurring"].is_object() { objects::plan(&price) } else { Value::Null };
            line["price"] = price;
            let from_subscription = line["subscription"].is_string();
            line["type"] = json!(if from_subscription { "subscription" } else { "invoiceitem" });
            line["subscription_item"] =
                line.pointer("/parent/subscription_item_details/subscription_item").cloned().unwrap_or(Value::Null);
            line["proration"] = json!(false);
            line["tax_amounts"] = json!([]);
            line["tax_rates"] = json!([]);
            drop_fields(line, &["parent", "pricing", "taxes", "subtotal"]);
        }
    }
}

/// Expands every path the caller asked for.
///
/// # Errors
/// Refuses paths that reach too deep or name a field that cannot be expanded in this version.
pub(crate) fn expand(account: &Account, value: &mut Value, paths: &[String], era: Era) -> Result<(), Failure> {
    for path in paths {
        let parts: Vec<&str> = path.split('.').collect();
        let depth = parts.iter().filter(|part| **part != "data").count();
        if depth > EXPAND_DEPTH_MAX {
            return Err(Failure::invalid(format!(
                "You cannot expand more than {EXPAND_DEPTH_MAX} levels of a property (property: {path})."
            ))
            .param("expand"));
        }
        walk(account, value, &parts, path, era)?;
    }
    Ok(())
}

/// Judges expansions by type alone, before an operation runs: a refused one must not leave a write behind.
///
/// # Errors
/// Refuses a path that names a field which cannot be expanded in this version.
pub(crate) fn check_expand(object: &str, paths: &[String], era: Era) -> Result<(), Failure> {
    for path in paths {
        let mut object = object;
        for name in path.split('.') {
            if !is_expandable(object, name, era) {
                // Inner objects (`items`, `parent`, …) lead on to types that only the data shows.
                let inner = matches!(
                    name,
                    "data" | "items" | "lines" | "parent" | "invoice_settings" | "price" | "plan" | "payment"
                );
                if inner { break } else { return Err(refused(path)) }
            }
            object = match name {
                "latest_invoice" => "invoice",
                "latest_charge" => "charge",
                "default_payment_method" => "payment_method",
                "pending_setup_intent" => "setup_intent",
                "default_price" => "price",
                "subscriptions" | "refunds" | "payments" | "line_items" | "sources" => break,
                other => other,
            };
        }
    }
    Ok(())
}

fn refused(path: &str) -> Failure {
    let last = path.rsplit('.').next().unwrap_or(path);
    Failure::invalid(format!(
        "This property cannot be expanded ({last}). You may want to try expanding a parent of '{path}', or a newer or older API version."
    ))
    .param("expand")
}

fn walk(account: &Account, node: &mut Value, parts: &[&str], path: &str, era: Era) -> Result<(), Failure> {
    let Some((name, rest)) = parts.split_first() else { return Ok(()) };
    if let Value::Array(list) = node {
        return list.iter_mut().try_for_each(|item| walk(account, item, parts, path, era));
    }
    if !node.is_object() {
        return Ok(());
    }
    let object = node["object"].as_str().unwrap_or_default().to_owned();
    if *name == "data" && matches!(object.as_str(), "list" | "search_result") {
        return node.get_mut("data").map_or(Ok(()), |data| walk(account, data, rest, path, era));
    }
    include(account, node, &object, name, era);
    let expandable = object.is_empty() || is_expandable(&object, name, era);
    let Some(child) = node.get_mut(*name) else {
        return if expandable { Ok(()) } else { Err(refused(path)) };
    };
    match child {
        Value::String(id) if expandable => {
            let Some(row) = Kind::of_id(id).and_then(|kind| account.row(kind, id)) else {
                let gone =
                    Kind::of_id(id).filter(|kind| account.table_ref(*kind).is_some_and(|table| table.was_deleted(id)));
                if let Some(kind) = gone {
                    *child = objects::deleted(&id.clone(), kind.facts().1);
                }
                return Ok(());
            };
            *child = render(account, row, era);
            walk(account, child, rest, path, era)
        }
        Value::Object(_) | Value::Array(_) if !rest.is_empty() || expandable => walk(account, child, rest, path, era),
        Value::Null if expandable || !rest.is_empty() => Ok(()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
            Err(refused(path))
        }
    }
}

/// Adds fields that appear only when asked for.
fn include(account: &Account, node: &mut Value, object: &str, name: &str, era: Era) {
    let id = node["id"].as_str().unwrap_or_default().to_owned();
    match (object, name, era) {
        ("invoice", "confirmation_secret" | "payments", Era::Basil) => {
            let intent = account
                .row(Kind::Invoice, &id)
                .and_then(|row| row.link("payment_intent"))
                .and_then(|intent| account.row(Kind::PaymentIntent, intent))
                .map(Row::value);
            node[name] = match (name, intent) {
                ("confirmation_secret", Some(intent)) => {
                    json!({ "client_secret": intent["client_secret"], "type": "payment_intent" })
                }
                ("confirmation_secret", None) => Value::Null,
                (_, intent) => {
                    let payments = intent.iter().map(|intent| {
                        let payment = format!("inpay_{}", id.strip_prefix("in_").unwrap_or(&id));
                        objects::invoice_payment(&payment, node, intent["id"].as_str().unwrap_or_default())
                    });
                    objects::list("/v1/invoice_payments", payments.collect())
                }
            };
        }
        ("customer", "subscriptions", _) => {
            node[name] = objects::list(
                &format!("/v1/customers/{id}/subscriptions"),
                children(account, Kind::Subscription, "customer", &id, era),
            );
        }
        ("customer", "sources" | "tax_ids", _) => {
            node[name] = objects::list(&format!("/v1/customers/{id}/{name}"), Vec::new());
        }
        ("charge", "refunds", _) => {
            node[name] = objects::list(
                &format!("/v1/charges/{id}/refunds"),
                children(account, Kind::Refund, "charge", &id, era),
            );
        }
        ("checkout.session", "line_items", _) => {
            let lines = account
                .row(Kind::Session, &id)
                .and_then(|row| row.link("line_items"))
                .and_then(|text| serde_json::from_str(text).ok());
            node[name] = objects::list(&format!("/v1/checkout/sessions/{id}/line_items"), lines.unwrap_or_default());
        }
        _ => {}
    }
}

fn children(account: &Account, kind: Kind, by: &str, id: &str, era: Era) -> Vec<Value> {
    let table = account.table_ref(kind);
    let rows = table.into_iter().flat_map(|table| table.iter().rev());
    rows.filter(|(_, row)| row.link(by) == Some(id) && row.link("status") != Some("canceled"))
        .take(10)
        .map(|(_, row)| render(account, row, era))
        .collect()
}

fn is_expandable(object: &str, name: &str, era: Era) -> bool {
    let classic = era == Era::Classic;
    match object {
        "customer" => matches!(name, "default_source" | "subscriptions" | "sources" | "tax_ids" | "test_clock"),
        "product" => matches!(name, "default_price" | "tax_code"),
        "price" => matches!(name, "product"),
        "plan" => matches!(name, "product"),
        "subscription" => matches!(
            name,
            "customer"
                | "default_payment_method"
                | "default_source"
                | "latest_invoice"
                | "pending_setup_intent"
                | "schedule"
                | "application"
                | "on_behalf_of"
                | "discounts"
                | "test_clock"
        ),
        "invoice" => {
            matches!(
                name,
                "customer"
                    | "default_payment_method"
                    | "default_source"
                    | "account_tax_ids"
                    | "discounts"
                    | "on_behalf_of"
                    | "latest_revision"
                    | "application"
                    | "test_clock"
            ) || (classic && matches!(name, "payment_intent" | "subscription" | "charge" | "quote"))
                || (!classic && matches!(name, "confirmation_secret" | "payments"))
        }
        "payment_intent" => {
            matches!(
                name,
                "customer" | "latest_charge" | "payment_method" | "application" | "on_behalf_of" | "review" | "source"
            ) || (classic && name == "invoice")
        }
        "setup_intent" => matches!(
            name,
            "customer" | "payment_method" | "latest_attempt" | "mandate" | "application" | "on_behalf_of"
        ),
        "payment_method" => matches!(name, "customer"),
        "charge" => {
            matches!(
                name,
                "customer"
                    | "payment_intent"
                    | "balance_transaction"
                    | "application"
                    | "refunds"
                    | "review"
                    | "on_behalf_of"
            ) || (classic && name == "invoice")
        }
        "refund" => matches!(name, "charge" | "payment_intent" | "balance_transaction" | "transfer_reversal"),
        "checkout.session" => {
            matches!(
                name,
                "customer"
                    | "subscription"
                    | "invoice"
                    | "payment_intent"
                    | "setup_intent"
                    | "line_items"
                    | "payment_link"
            )
        }
        "line_item" => !classic && name == "subscription",
        "invoice_payment" => matches!(name, "invoice"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_era() {
        assert_eq!(era("2025-02-24.acacia"), Era::Classic);
        assert_eq!(era("2025-03-31.basil"), Era::Basil);
        assert_eq!(era("2026-10-28.endive"), Era::Basil);
        assert_eq!(era("2020-08-27"), Era::Classic);
        assert!(is_version("2020-08-27") && is_version("2026-10-28.endive"));
        assert!(!is_version("latest") && !is_version("2020-8-27"));
    }
}

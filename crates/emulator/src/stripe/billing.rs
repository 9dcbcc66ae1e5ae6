//! Subscriptions: how they start, change, renew and end. Their invoices are made in `invoices.rs`.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use serde_json::{Value, json};

use super::desk::{Desk, add_interval, known, set_metadata, set_texts};
use super::error::Failure;
use super::objects::{self, Bill};
use super::payments;
use super::shape::Era;
use super::state::{Kind, Links};
use super::{form, invoices};

const SUBSCRIPTION: [&str; 35] = [
    "add_invoice_items",
    "application_fee_percent",
    "automatic_tax",
    "backdate_start_date",
    "billing_cycle_anchor",
    "billing_cycle_anchor_config",
    "billing_mode",
    "billing_thresholds",
    "cancel_at",
    "cancel_at_period_end",
    "cancellation_details",
    "collection_method",
    "currency",
    "customer",
    "days_until_due",
    "default_payment_method",
    "default_source",
    "default_tax_rates",
    "description",
    "discounts",
    "invoice_settings",
    "items",
    "metadata",
    "off_session",
    "on_behalf_of",
    "pause_collection",
    "payment_behavior",
    "payment_settings",
    "pending_invoice_item_interval",
    "proration_behavior",
    "proration_date",
    "trial_end",
    "trial_from_plan",
    "trial_period_days",
    "trial_settings",
];

/// Whether one more parameter list applies: coupons left with basil.
fn known_subscription(desk: &Desk<'_>, params: &Value) -> Result<(), Failure> {
    if desk.era == Era::Classic {
        known(params, &[SUBSCRIPTION.as_slice(), &["coupon", "promotion_code"]].concat())
    } else {
        known(params, &SUBSCRIPTION)
    }
}

/// One element of `items`: the item it names, its price (null when unchanged), quantity, whether it goes.
type Chosen = (Option<String>, Value, i64, bool);

/// Reads `items`, checking each price.
fn read_items(desk: &mut Desk<'_>, params: &Value) -> Result<Vec<Chosen>, Failure> {
    let mut items = Vec::new();
    for (at, item) in params["items"].as_array().into_iter().flatten().enumerate() {
        let name = format!("items[{at}][price]");
        let price = match (form::text(item, "price").or_else(|| form::text(item, "plan")), item.get("price_data")) {
            (Some(price), _) => desk.read(Kind::Price, price, &name, 400)?,
            (None, Some(data)) => super::catalog::create_price(desk, data)?,
            (None, None) if form::text(item, "id").is_some() => Value::Null,
            (None, None) => return Err(Failure::required(&name)),
        };
        if !price.is_null() && price["recurring"].is_null() {
            let message = "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.";
            return Err(Failure::invalid(message).param(&name));
        }
        if price["active"] == false {
            return Err(Failure::invalid(format!(
                "The price specified is inactive. This field only accepts active prices: {}",
                price["id"].as_str().unwrap_or_default()
            ))
            .param(&name));
        }
        let quantity = form::integer(item, "quantity")?.unwrap_or(1);
        let deleted = form::boolean(item, "deleted")?.unwrap_or(false);
        items.push((form::text(item, "id").map(str::to_owned), price, quantity, deleted));
    }
    Ok(items)
}

fn trial_end(desk: &Desk<'_>, params: &Value) -> Result<Option<i64>, Failure> {
    if let Some(days) = form::integer(params, "trial_period_days")?.filter(|days| *days > 0) {
        return Ok(Some(desk.now + days * 86_400));
    }
    if form::text(params, "trial_end") == Some("now") {
        return Ok(None);
    }
    form::integer(params, "trial_end")
}

/// Creates a subscription with its first invoice.
pub(crate) fn create(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known_subscription(desk, params)?;
    let customer_id = form::text(params, "customer").ok_or_else(|| Failure::required("customer"))?.to_owned();
    let customer = desk.read(Kind::Customer, &customer_id, "customer", 400)?;
    let chosen = read_items(desk, params)?;
    let Some((_, first, _, _)) = chosen.first() else { return Err(Failure::required("items")) };
    let first = first.clone();
    let trial = trial_end(desk, params)?;
    let behavior = form::text(params, "payment_behavior").unwrap_or("allow_incomplete").to_owned();
    let sends = form::text(params, "collection_method") == Some("send_invoice");
    let method = match form::text(params, "default_payment_method") {
        Some(name) => Some(payments::resolve_method(desk, name, Some(&customer_id))?),
        None => match customer["invoice_settings"]["default_payment_method"].as_str() {
            Some(name) => Some(payments::resolve_method(desk, name, Some(&customer_id))?),
            None => None,
        },
    };
    let amount: i64 =
        chosen.iter().map(|(_, price, quantity, _)| price["unit_amount"].as_i64().unwrap_or_default() * quantity).sum();
    let due = if trial.is_some() { 0 } else { amount };
    if due > 0 && method.is_none() && !sends && behavior != "default_incomplete" {
        let message = "This customer has no attached payment source or default payment method. Please consider adding a default payment method.";
        return Err(Failure::invalid(message).code("resource_missing"));
    }
    let failing = method.as_ref().and_then(|(_, failing)| failing.clone()).filter(|_| due > 0);
    if let (Some(code), "error_if_incomplete") = (&failing, behavior.as_str()) {
        let currency = first["currency"].as_str().unwrap_or("usd").to_owned();
        let intent = payments::new_intent(desk, due, &currency, Some(&customer_id));
        let id = method.map(|(id, _)| id).unwrap_or_default();
        return Err(payments::fail_intent(desk, intent, &id, &payments::decline_for(code)).begun());
    }
    let waits = due > 0 && !sends && (behavior == "default_incomplete" || failing.is_some());
    let status = if trial.is_some() {
        "trialing"
    } else if waits {
        "incomplete"
    } else {
        "active"
    };
    let id = desk.id("sub_1");
    let period = match trial {
        Some(end) => (desk.now, end),
        None => (desk.now, period_end(&first, desk.now)),
    };
    let mut items = Vec::new();
    for (_, price, quantity, _) in &chosen {
        let item = desk.id("si_");
        items.push(objects::subscription_item(&item, &id, price, *quantity, period, desk.now));
    }
    let currency = first["currency"].as_str().unwrap_or("usd").to_owned();
    let mut subscription = objects::subscription(&id, &customer_id, &currency, items, status, desk.now);
    fill(&mut subscription, params)?;
    if let Some((method, _)) = &method
        && params.get("default_payment_method").is_some()
    {
        subscription["default_payment_method"] = json!(method);
    }
    if let Some(end) = trial {
        subscription["trial_start"] = json!(desk.now);
        subscription["trial_end"] = json!(end);
        if method.is_none() {
            let setup = desk.id("seti_1");
            let secret = desk.id("");
            let setup = objects::setup_intent(&setup, &secret, &customer_id, desk.now);
            desk.insert(Kind::SetupIntent, &setup, Links::new());
            subscription["pending_setup_intent"] = setup["id"].clone();
        }
    }
    if form::boolean(params, "cancel_at_period_end")? == Some(true) {
        subscription["cancel_at_period_end"] = json!(true);
        subscription["cancel_at"] = json!(period.1);
        subscription["canceled_at"] = json!(desk.now);
    }
    let invoice_id = desk.id("in_1");
    subscription["latest_invoice"] = json!(invoice_id);
    desk.insert(Kind::Subscription, &subscription, Links::new());
    desk.emit("customer.subscription.created", Kind::Subscription, &subscription, None);
    bill(desk, &subscription, &customer, &invoice_id, "subscription_create", period, trial.is_some());
    invoices::finalize(desk, &invoice_id)?;
    if due > 0
        && !sends
        && behavior != "default_incomplete"
        && let Some((method, _)) = method
    {
        // The subscription exists whatever the card says; with allow_incomplete its status tells.
        let _ = invoices::charge_invoice(desk, &invoice_id, &method, failing.as_deref());
    }
    desk.read(Kind::Subscription, &id, "id", 404)
}

fn period_end(price: &Value, from: i64) -> i64 {
    let interval = price["recurring"]["interval"].as_str().unwrap_or("month").to_owned();
    add_interval(from, &interval, price["recurring"]["interval_count"].as_i64().unwrap_or(1))
}

fn fill(subscription: &mut Value, params: &Value) -> Result<(), Failure> {
    set_metadata(subscription, params)?;
    set_texts(subscription, params, &["description"]);
    if let Some(method) = form::text(params, "collection_method") {
        subscription["collection_method"] = json!(method);
    }
    if let Some(days) = form::integer(params, "days_until_due")? {
        subscription["days_until_due"] = json!(days);
    }
    if let Some(save) =
        params.get("payment_settings").and_then(|settings| form::text(settings, "save_default_payment_method"))
    {
        subscription["payment_settings"]["save_default_payment_method"] = json!(save);
    }
    if let Some(details) = params.get("cancellation_details") {
        let mut inner = subscription["cancellation_details"].clone();
        set_texts(&mut inner, details, &["comment", "feedback"]);
        subscription["cancellation_details"] = inner;
    }
    if let Some(pause) = params.get("pause_collection") {
        subscription["pause_collection"] =
            if pause == "" { Value::Null } else { json!({ "behavior": pause["behavior"], "resumes_at": null }) };
    }
    Ok(())
}

/// Makes and announces the draft invoice of a period.
fn bill(
    desk: &mut Desk<'_>,
    subscription: &Value,
    customer: &Value,
    id: &str,
    reason: &str,
    period: (i64, i64),
    free: bool,
) {
    let mut lines = Vec::new();
    for item in subscription["items"]["data"].as_array().into_iter().flatten() {
        let amount = item["price"]["unit_amount"].as_i64().unwrap_or_default() * item["quantity"].as_i64().unwrap_or(1);
        let line = desk.id("il_1");
        lines.push(objects::invoice_line(&line, id, item, if free { 0 } else { amount }, period));
    }
    let subscription_id = subscription["id"].as_str().unwrap_or_default();
    let currency = subscription["currency"].as_str().unwrap_or("usd");
    let draft = Bill { customer, subscription: Some(subscription_id), reason, currency, lines, period };
    let mut invoice = objects::invoice(id, draft, desk.now);
    invoice["collection_method"] = subscription["collection_method"].clone();
    if let Some(days) = subscription["days_until_due"].as_i64() {
        invoice["due_date"] = json!(desk.now + days * 86_400);
    }
    let links = Links::from([("subscription".into(), subscription_id.to_owned())]);
    desk.insert(Kind::Invoice, &invoice, links);
    desk.emit("invoice.created", Kind::Invoice, &invoice, None);
}

/// Updates a subscription: items, cancellation at the end of the period, metadata.
pub(crate) fn update(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    let before = desk.read(Kind::Subscription, id, "id", 404)?;
    known_subscription(desk, params)?;
    if matches!(before["status"].as_str(), Some("canceled" | "incomplete_expired"))
        && params.as_object().is_some_and(|map| {
            map.keys().any(|name| name != "metadata" && name != "expand" && name != "cancellation_details")
        })
    {
        return Err(Failure::invalid("A canceled subscription can only update its cancellation_details and metadata."));
    }
    let mut after = before.clone();
    fill(&mut after, params)?;
    let end = before["items"]["data"].get(0).and_then(|item| item["current_period_end"].as_i64()).unwrap_or(desk.now);
    match form::boolean(params, "cancel_at_period_end")? {
        Some(true) => {
            after["cancel_at_period_end"] = json!(true);
            after["cancel_at"] = json!(end);
            after["canceled_at"] = json!(desk.now);
            after["cancellation_details"]["reason"] = json!("cancellation_requested");
        }
        Some(false) => {
            after["cancel_at_period_end"] = json!(false);
            after["cancel_at"] = Value::Null;
            after["canceled_at"] = Value::Null;
            after["cancellation_details"]["reason"] = Value::Null;
        }
        None => {}
    }
    let customer = before["customer"].as_str().unwrap_or_default().to_owned();
    match form::text(params, "default_payment_method") {
        Some("") => after["default_payment_method"] = Value::Null,
        Some(name) => after["default_payment_method"] = json!(payments::resolve_method(desk, name, Some(&customer))?.0),
        None => {}
    }
    if params.get("trial_end").is_some() {
        let end = trial_end(desk, params)?;
        after["trial_end"] = json!(end.unwrap_or(desk.now));
        after["status"] = json!(if end.is_some() { "trialing" } else { "active" });
    }
    let chosen = read_items(desk, params)?;
    change_items(desk, &mut after, chosen)?;
    desk.update(Kind::Subscription, &before, &after, "customer.subscription.updated");
    Ok(after)
}

fn change_items(desk: &mut Desk<'_>, subscription: &mut Value, chosen: Vec<Chosen>) -> Result<(), Failure> {
    let id = subscription["id"].as_str().unwrap_or_default().to_owned();
    let mut items = subscription["items"]["data"].as_array().cloned().unwrap_or_default();
    let period = items.first().map(|item| {
        (
            item["current_period_start"].as_i64().unwrap_or(desk.now),
            item["current_period_end"].as_i64().unwrap_or(desk.now),
        )
    });
    for (item, price, quantity, deleted) in chosen {
        match item {
            Some(item) => {
                let at = items.iter().position(|known| known["id"] == item.as_str());
                let at = at.ok_or_else(|| Failure::missing(400, "subscription item", &item, "items[0][id]"))?;
                if deleted {
                    items.remove(at);
                } else if let Some(known) = items.get_mut(at) {
                    if !price.is_null() {
                        known["plan"] = objects::plan(&price);
                        known["price"] = price;
                    }
                    known["quantity"] = json!(quantity);
                }
            }
            None => {
                let item = desk.id("si_");
                items.push(objects::subscription_item(
                    &item,
                    &id,
                    &price,
                    quantity,
                    period.unwrap_or((desk.now, desk.now)),
                    desk.now,
                ));
            }
        }
    }
    subscription["items"] = objects::list(&format!("/v1/subscription_items?subscription={id}"), items);
    Ok(())
}

/// Ends a subscription now.
pub(crate) fn cancel(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    known(params, &["cancellation_details", "invoice_now", "prorate"])?;
    let mut subscription = desk.read(Kind::Subscription, id, "id", 404)?;
    if matches!(subscription["status"].as_str(), Some("canceled" | "incomplete_expired")) {
        return Err(Failure::missing(404, "subscription", id, "id"));
    }
    fill(&mut subscription, params)?;
    end(desk, &mut subscription, "canceled", "cancellation_requested");
    Ok(subscription)
}

fn end(desk: &mut Desk<'_>, subscription: &mut Value, status: &str, reason: &str) {
    subscription["status"] = json!(status);
    subscription["ended_at"] = json!(desk.now);
    if subscription["canceled_at"].is_null() {
        subscription["canceled_at"] = json!(desk.now);
    }
    subscription["cancellation_details"]["reason"] = json!(reason);
    desk.write(Kind::Subscription, subscription);
    let event = if status == "canceled" { "customer.subscription.deleted" } else { "customer.subscription.updated" };
    let previous = (status != "canceled").then(|| json!({ "status": "incomplete" }));
    desk.emit(event, Kind::Subscription, subscription, previous);
}

/// Moves a subscription one period on: renews, ends or expires it, as its state asks.
pub(crate) fn advance(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    let before = desk.read(Kind::Subscription, id, "id", 404)?;
    let mut after = before.clone();
    match before["status"].as_str().unwrap_or_default() {
        "canceled" | "incomplete_expired" => return Ok(before),
        "incomplete" => {
            end(desk, &mut after, "incomplete_expired", "payment_failed");
            return Ok(after);
        }
        _ if before["cancel_at_period_end"] == true => {
            end(desk, &mut after, "canceled", "cancellation_requested");
            return Ok(after);
        }
        _ => {}
    }
    let invoice_id = desk.id("in_1");
    let mut period = (desk.now, desk.now);
    for item in after["items"]["data"].as_array_mut().into_iter().flatten() {
        let start = item["current_period_end"].as_i64().unwrap_or(desk.now);
        period = (start, period_end(&item["price"], start));
        item["current_period_start"] = json!(period.0);
        item["current_period_end"] = json!(period.1);
    }
    after["latest_invoice"] = json!(invoice_id);
    after["status"] = json!("active");
    desk.update(Kind::Subscription, &before, &after, "customer.subscription.updated");
    let customer_id = after["customer"].as_str().unwrap_or_default().to_owned();
    let customer =
        desk.read(Kind::Customer, &customer_id, "customer", 400).unwrap_or_else(|_| json!({ "id": customer_id }));
    bill(desk, &after, &customer, &invoice_id, "subscription_cycle", period, false);
    let invoice = invoices::finalize(desk, &invoice_id)?;
    if invoice["status"] == "open" && after["collection_method"] == "charge_automatically" {
        let stored = after["default_payment_method"]
            .as_str()
            .or_else(|| customer["invoice_settings"]["default_payment_method"].as_str());
        let (method, failing) = match stored {
            Some(name) => payments::resolve_method(desk, name, Some(&customer_id))?,
            None => payments::resolve_method(desk, "pm_card_visa", None)?,
        };
        // A failed renewal leaves the subscription past due; that is the outcome, not an error of the story.
        let _ = invoices::charge_invoice(desk, &invoice_id, &method, failing.as_deref());
    }
    desk.read(Kind::Subscription, id, "id", 404)
}

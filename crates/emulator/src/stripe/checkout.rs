//! Checkout sessions: opened by the merchant, completed by a story that plays the buyer.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use serde_json::{Value, json};

use super::desk::{Desk, known, set_metadata, set_texts};
use super::error::Failure;
use super::state::{Kind, Links};
use super::{billing, catalog, form, objects, payments};

const SESSION: [&str; 30] = [
    "after_expiration",
    "allow_promotion_codes",
    "automatic_tax",
    "billing_address_collection",
    "cancel_url",
    "client_reference_id",
    "consent_collection",
    "currency",
    "custom_fields",
    "custom_text",
    "customer",
    "customer_creation",
    "customer_email",
    "customer_update",
    "discounts",
    "expires_at",
    "invoice_creation",
    "line_items",
    "locale",
    "metadata",
    "mode",
    "payment_intent_data",
    "payment_method_collection",
    "payment_method_types",
    "phone_number_collection",
    "return_url",
    "submit_type",
    "subscription_data",
    "success_url",
    "ui_mode",
];

/// Opens a checkout session.
pub(crate) fn create_session(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(params, &SESSION)?;
    let mode = form::text(params, "mode").unwrap_or("payment").to_owned();
    if !matches!(mode.as_str(), "payment" | "subscription" | "setup") {
        return Err(Failure::invalid("Invalid mode: must be one of payment, setup, or subscription").param("mode"));
    }
    if form::text(params, "success_url").is_none() && form::text(params, "return_url").is_none() {
        return Err(Failure::required("success_url"));
    }
    if let Some(customer) = form::text(params, "customer") {
        desk.read(Kind::Customer, customer, "customer", 400)?;
    }
    let mut lines = Vec::new();
    let (mut total, mut currency) = (0, Value::Null);
    for (at, item) in params["line_items"].as_array().into_iter().flatten().enumerate() {
        let price = match (form::text(item, "price"), item.get("price_data")) {
            (Some(price), _) => desk.read(Kind::Price, price, &format!("line_items[{at}][price]"), 400)?,
            (None, Some(data)) => catalog::create_price(desk, data)?,
            (None, None) => return Err(Failure::required("line_items[0][price]")),
        };
        let quantity = form::integer(item, "quantity")?.unwrap_or(1);
        let amount = price["unit_amount"].as_i64().unwrap_or_default() * quantity;
        total += amount;
        currency = price["currency"].clone();
        let id = desk.id("li_1");
        lines.push(json!({
            "id": id, "object": "item", "adjustable_quantity": null, "amount_discount": 0, "amount_subtotal": amount, "amount_tax": 0,
            "amount_total": amount, "currency": price["currency"], "description": "Line", "metadata": {}, "price": price, "quantity": quantity,
        }));
    }
    if lines.is_empty() && mode != "setup" {
        return Err(Failure::required("line_items"));
    }
    let id = desk.id("cs_test_a1");
    let total = if lines.is_empty() { Value::Null } else { json!(total) };
    let mut session = objects::session(&id, &mode, currency, total, desk.now);
    set_metadata(&mut session, params)?;
    set_texts(
        &mut session,
        params,
        &["success_url", "cancel_url", "client_reference_id", "customer", "customer_email", "locale", "submit_type"],
    );
    if let Some(expires) = form::integer(params, "expires_at")? {
        session["expires_at"] = json!(expires);
    }
    let text = serde_json::to_string(&lines).unwrap_or_default();
    desk.insert(Kind::Session, &session, Links::from([("line_items".into(), text)]));
    Ok(session)
}

/// Completes a session as the buyer would: pays, subscribes, tells.
pub(crate) fn complete_session(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    let mut session = desk.read(Kind::Session, id, "id", 404)?;
    if session["status"] != "open" {
        return Err(Failure::invalid("This Checkout Session is no longer open."));
    }
    let email = session["customer_email"].as_str().unwrap_or("buyer@example.com").to_owned();
    let mode = session["mode"].as_str().unwrap_or_default().to_owned();
    if session["customer"].is_null() && mode != "payment" {
        let customer = catalog::create_customer(desk, &json!({ "email": email }))?;
        session["customer"] = customer["id"].clone();
    }
    if mode == "payment" {
        let currency = session["currency"].as_str().unwrap_or("usd").to_owned();
        let customer = session["customer"].as_str().map(str::to_owned);
        let mut intent = payments::new_intent(
            desk,
            session["amount_total"].as_i64().unwrap_or_default(),
            &currency,
            customer.as_deref(),
        );
        intent["payment_method"] = json!(payments::resolve_method(desk, "pm_card_visa", customer.as_deref())?.0);
        desk.insert(Kind::PaymentIntent, &intent, Links::new());
        desk.emit("payment_intent.created", Kind::PaymentIntent, &intent, None);
        session["payment_intent"] = payments::pay_intent(desk, intent, false)["id"].clone();
    }
    if mode == "subscription" {
        let lines: Vec<Value> = desk
            .link(Kind::Session, id, "line_items")
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let items: Vec<Value> = lines
            .iter()
            .map(|line| json!({ "price": line["price"]["id"], "quantity": line["quantity"].as_i64().unwrap_or(1).to_string() }))
            .collect();
        let form = json!({ "customer": session["customer"], "items": items, "default_payment_method": "pm_card_visa" });
        let subscription = billing::create(desk, &form)?;
        session["subscription"] = subscription["id"].clone();
        session["invoice"] = subscription["latest_invoice"].clone();
    }
    session["status"] = json!("complete");
    session["payment_status"] = json!(if mode == "setup" { "no_payment_required" } else { "paid" });
    session["url"] = Value::Null;
    session["customer_details"] =
        json!({ "address": null, "email": email, "name": "Buyer", "phone": null, "tax_exempt": "none", "tax_ids": [] });
    desk.write(Kind::Session, &session);
    desk.emit("checkout.session.completed", Kind::Session, &session, None);
    Ok(session)
}

/// Expires an open session.
pub(crate) fn expire_session(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    let mut session = desk.read(Kind::Session, id, "id", 404)?;
    if session["status"] != "open" {
        let message = "Only Checkout Sessions with a status in [\"open\"] can be expired.";
        return Err(Failure::invalid(message));
    }
    session["status"] = json!("expired");
    session["url"] = Value::Null;
    desk.write(Kind::Session, &session);
    desk.emit("checkout.session.expired", Kind::Session, &session, None);
    Ok(session)
}

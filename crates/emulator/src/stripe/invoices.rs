//! Invoices: drafted, finalised, paid or not, voided; and what that does to their subscription.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use serde_json::{Value, json};

use super::desk::{Desk, known, set_metadata, set_texts};
use super::error::Failure;
use super::objects::{self, Bill};
use super::state::{Kind, Links};
use super::{form, payments};

/// Finalises a draft: number, links, and a payment intent when something is due.
pub(crate) fn finalize(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    let mut invoice = desk.read(Kind::Invoice, id, "invoice", 404)?;
    if invoice["status"] != "draft" {
        return Err(Failure::invalid("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
            .code("invoice_not_editable"));
    }
    let account = desk.data();
    account.invoice_number += 1;
    let number = account.invoice_number;
    invoice["number"] = json!(format!("EMU-{number:06}"));
    invoice["status"] = json!("open");
    invoice["effective_at"] = json!(desk.now);
    invoice["status_transitions"]["finalized_at"] = json!(desk.now);
    invoice["hosted_invoice_url"] = json!(format!("https://invoice.stripe.com/i/{id}"));
    invoice["invoice_pdf"] = json!(format!("https://pay.stripe.com/invoice/{id}/pdf"));
    let due = invoice["amount_due"].as_i64().unwrap_or_default();
    if due > 0 {
        let currency = invoice["currency"].as_str().unwrap_or("usd").to_owned();
        let customer = invoice["customer"].as_str().map(str::to_owned);
        let intent = payments::new_intent(desk, due, &currency, customer.as_deref());
        let intent_id = intent["id"].as_str().unwrap_or_default().to_owned();
        desk.insert(Kind::PaymentIntent, &intent, Links::from([("invoice".into(), id.to_owned())]));
        desk.set_link(Kind::Invoice, id, "payment_intent", &intent_id);
        desk.write(Kind::Invoice, &invoice);
        desk.emit("payment_intent.created", Kind::PaymentIntent, &intent, None);
        desk.emit("invoice.finalized", Kind::Invoice, &invoice, None);
        return Ok(invoice);
    }
    desk.write(Kind::Invoice, &invoice);
    desk.emit("invoice.finalized", Kind::Invoice, &invoice, None);
    mark_paid(desk, id)
}

/// Marks an open invoice as paid and tells.
pub(crate) fn mark_paid(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    let mut invoice = desk.read(Kind::Invoice, id, "invoice", 404)?;
    invoice["status"] = json!("paid");
    invoice["attempted"] = json!(true);
    invoice["amount_paid"] = invoice["amount_due"].clone();
    invoice["amount_remaining"] = json!(0);
    invoice["status_transitions"]["paid_at"] = json!(desk.now);
    invoice["next_payment_attempt"] = Value::Null;
    desk.write(Kind::Invoice, &invoice);
    desk.emit("invoice.paid", Kind::Invoice, &invoice, None);
    desk.emit("invoice.payment_succeeded", Kind::Invoice, &invoice, None);
    if let Some(subscription) = desk.link(Kind::Invoice, id, "subscription") {
        let before = desk.read(Kind::Subscription, &subscription, "subscription", 400)?;
        if matches!(before["status"].as_str(), Some("incomplete" | "past_due" | "unpaid")) {
            let mut after = before.clone();
            after["status"] = json!("active");
            desk.update(Kind::Subscription, &before, &after, "customer.subscription.updated");
        }
    }
    Ok(invoice)
}

/// Follows a paid intent to its invoice, if it has one.
pub(crate) fn intent_paid(desk: &mut Desk<'_>, intent: &Value) -> Result<(), Failure> {
    let id = intent["id"].as_str().unwrap_or_default();
    if let Some(invoice) = desk.link(Kind::PaymentIntent, id, "invoice") {
        let open = desk.read(Kind::Invoice, &invoice, "invoice", 400)?["status"] == "open";
        if open && intent["status"] == "succeeded" {
            mark_paid(desk, &invoice)?;
        }
    }
    Ok(())
}

/// Tries a card on an open invoice.
pub(crate) fn charge_invoice(
    desk: &mut Desk<'_>,
    id: &str,
    method: &str,
    failing: Option<&str>,
) -> Result<Value, Failure> {
    let mut invoice = desk.read(Kind::Invoice, id, "invoice", 404)?;
    let intent_id = desk.link(Kind::Invoice, id, "payment_intent").unwrap_or_default();
    let mut intent = desk.read(Kind::PaymentIntent, &intent_id, "payment_intent", 400)?;
    invoice["attempted"] = json!(true);
    invoice["attempt_count"] = json!(invoice["attempt_count"].as_i64().unwrap_or_default() + 1);
    desk.write(Kind::Invoice, &invoice);
    if let Some(code) = failing {
        let failure = payments::fail_intent(desk, intent, method, &payments::decline_for(code));
        invoice["next_payment_attempt"] = json!(desk.now + 3 * 86_400);
        desk.write(Kind::Invoice, &invoice);
        desk.emit("invoice.payment_failed", Kind::Invoice, &invoice, None);
        if let Some(subscription) = desk.link(Kind::Invoice, id, "subscription") {
            let before = desk.read(Kind::Subscription, &subscription, "subscription", 400)?;
            if before["status"] == "active" {
                let mut after = before.clone();
                after["status"] = json!("past_due");
                desk.update(Kind::Subscription, &before, &after, "customer.subscription.updated");
            }
        }
        return Err(failure.begun());
    }
    intent["payment_method"] = json!(method);
    let intent = payments::pay_intent(desk, intent, false);
    intent_paid(desk, &intent)?;
    desk.read(Kind::Invoice, id, "invoice", 404)
}

const INVOICE: [&str; 24] = [
    "account_tax_ids",
    "auto_advance",
    "automatic_tax",
    "collection_method",
    "currency",
    "custom_fields",
    "customer",
    "days_until_due",
    "default_payment_method",
    "description",
    "discounts",
    "due_date",
    "effective_at",
    "footer",
    "issuer",
    "metadata",
    "number",
    "on_behalf_of",
    "payment_settings",
    "pending_invoice_items_behavior",
    "rendering",
    "shipping_cost",
    "statement_descriptor",
    "subscription",
];

/// Creates a draft invoice without lines.
pub(crate) fn create_invoice(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(params, &INVOICE)?;
    let customer_id = form::text(params, "customer").ok_or_else(|| Failure::required("customer"))?;
    let customer = desk.read(Kind::Customer, customer_id, "customer", 400)?;
    let id = desk.id("in_1");
    let currency = form::text(params, "currency").unwrap_or("usd");
    let draft = Bill {
        customer: &customer,
        subscription: None,
        reason: "manual",
        currency,
        lines: Vec::new(),
        period: (desk.now, desk.now),
    };
    let mut invoice = objects::invoice(&id, draft, desk.now);
    fill_invoice(&mut invoice, params)?;
    desk.insert(Kind::Invoice, &invoice, Links::new());
    desk.emit("invoice.created", Kind::Invoice, &invoice, None);
    Ok(invoice)
}

fn fill_invoice(invoice: &mut Value, params: &Value) -> Result<(), Failure> {
    set_metadata(invoice, params)?;
    set_texts(invoice, params, &["description", "footer", "statement_descriptor", "number", "default_payment_method"]);
    if let Some(method) = form::text(params, "collection_method") {
        invoice["collection_method"] = json!(method);
    }
    if let Some(advance) = form::boolean(params, "auto_advance")? {
        invoice["auto_advance"] = json!(advance);
    }
    if let Some(due) = form::integer(params, "due_date")? {
        invoice["due_date"] = json!(due);
    }
    Ok(())
}

/// Updates an invoice.
pub(crate) fn update_invoice(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    let before = desk.read(Kind::Invoice, id, "invoice", 404)?;
    known(params, &INVOICE)?;
    let mut after = before.clone();
    fill_invoice(&mut after, params)?;
    desk.update(Kind::Invoice, &before, &after, "invoice.updated");
    Ok(after)
}

/// Adds a line to a draft invoice.
pub(crate) fn create_invoice_item(desk: &mut Desk<'_>, params: &Value) -> Result<Value, Failure> {
    known(params, &["customer", "invoice", "amount", "currency", "description", "metadata", "quantity"])?;
    let id = form::text(params, "invoice").ok_or_else(|| Failure::required("invoice"))?;
    let amount = form::integer(params, "amount")?.ok_or_else(|| Failure::required("amount"))?;
    let before = desk.read(Kind::Invoice, id, "invoice", 400)?;
    if before["status"] != "draft" {
        return Err(Failure::invalid("Invoice items can be added to draft invoices only.").code("invoice_not_editable"));
    }
    let (item, line) = (desk.id("ii_1"), desk.id("il_1"));
    let currency = before["currency"].as_str().unwrap_or("usd").to_owned();
    let text = params.get("description").cloned().unwrap_or(Value::Null);
    let line = objects::invoice_item_line(&line, id, &item, amount, &currency, &text, desk.now);
    let mut after = before.clone();
    let mut lines = after["lines"]["data"].as_array().cloned().unwrap_or_default();
    lines.push(line);
    after["lines"] = objects::list(&format!("/v1/invoices/{id}/lines"), lines);
    let total = before["total"].as_i64().unwrap_or_default() + amount;
    for name in ["amount_due", "amount_remaining", "subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax"]
    {
        after[name] = json!(total);
    }
    desk.update(Kind::Invoice, &before, &after, "invoice.updated");
    Ok(json!({
        "id": item, "object": "invoiceitem", "amount": amount, "currency": currency, "customer": before["customer"], "date": desk.now,
        "description": text, "discountable": true, "discounts": [], "invoice": id, "livemode": false, "metadata": {}, "parent": null,
        "period": { "start": desk.now, "end": desk.now }, "pricing": null, "proration": false, "quantity": 1, "tax_rates": [], "test_clock": null,
    }))
}

/// Pays an open invoice with the given card, the stored one, or outside Stripe.
pub(crate) fn pay_invoice(desk: &mut Desk<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    known(params, &["payment_method", "paid_out_of_band", "off_session", "forgive", "source", "mandate"])?;
    let mut invoice = desk.read(Kind::Invoice, id, "invoice", 404)?;
    if invoice["status"] == "draft" {
        invoice = finalize(desk, id)?;
        if invoice["status"] == "paid" {
            return Ok(invoice);
        }
    }
    if invoice["status"] != "open" {
        let message =
            if invoice["status"] == "paid" { "Invoice is already paid" } else { "This invoice can no longer be paid" };
        return Err(Failure::invalid(message));
    }
    if form::boolean(params, "paid_out_of_band")? == Some(true) {
        return mark_paid(desk, id);
    }
    let customer_id = invoice["customer"].as_str().unwrap_or_default().to_owned();
    let customer = desk.read(Kind::Customer, &customer_id, "customer", 400).unwrap_or(Value::Null);
    let name = form::text(params, "payment_method")
        .or_else(|| invoice["default_payment_method"].as_str())
        .or_else(|| customer["invoice_settings"]["default_payment_method"].as_str())
        .ok_or_else(|| {
            Failure::invalid("There is no `default_payment_method` set on this Customer or Invoice.")
                .code("resource_missing")
        })?
        .to_owned();
    let (method, failing) = payments::resolve_method(desk, &name, None)?;
    charge_invoice(desk, id, &method, failing.as_deref())
}

/// Voids an open invoice.
pub(crate) fn void_invoice(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    let mut invoice = desk.read(Kind::Invoice, id, "invoice", 404)?;
    if !matches!(invoice["status"].as_str(), Some("open" | "uncollectible")) {
        return Err(Failure::invalid("You can only pass in open or uncollectible invoices to void.")
            .code("invoice_not_editable"));
    }
    invoice["status"] = json!("void");
    invoice["status_transitions"]["voided_at"] = json!(desk.now);
    desk.write(Kind::Invoice, &invoice);
    desk.emit("invoice.voided", Kind::Invoice, &invoice, None);
    Ok(invoice)
}

/// Deletes a draft invoice.
pub(crate) fn delete_invoice(desk: &mut Desk<'_>, id: &str) -> Result<Value, Failure> {
    let invoice = desk.read(Kind::Invoice, id, "invoice", 404)?;
    if invoice["status"] != "draft" {
        return Err(Failure::invalid("You can only delete draft invoices.").code("invoice_not_editable"));
    }
    desk.delete(Kind::Invoice, id, "invoice.deleted")
}

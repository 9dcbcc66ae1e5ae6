//! What each object looks like when new, in the newest API shape (2026-10-28.endive).
//!
//! Field lists follow what the official SDKs' type files name and what the strict Rust models of async-stripe
//! 1.0.0-rc.10 require; the unit tests hold the required lists. Older shapes are made from these in `shape.rs`.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use serde_json::{Map, Value, json};

/// Adds fields that are `null` until someone sets them.
fn nulls(mut object: Value, names: &[&str]) -> Value {
    if let Value::Object(map) = &mut object {
        for name in names {
            map.entry((*name).to_owned()).or_insert(Value::Null);
        }
    }
    object
}

/// Makes a list object as it stands inside other objects.
pub(crate) fn list(url: &str, data: Vec<Value>) -> Value {
    json!({ "object": "list", "total_count": data.len(), "data": data, "has_more": false, "url": url })
}

/// Makes a customer without any detail.
pub(crate) fn customer(id: &str, created: i64) -> Value {
    let prefix: String = id.bytes().skip(4).take(8).map(|byte| char::from(byte).to_ascii_uppercase()).collect();
    nulls(
        json!({
            "id": id, "object": "customer", "balance": 0, "created": created, "delinquent": false,
            "invoice_prefix": prefix,
            "invoice_settings": { "custom_fields": null, "default_payment_method": null, "footer": null, "rendering_options": null },
            "livemode": false, "metadata": {}, "next_invoice_sequence": 1, "preferred_locales": [], "tax_exempt": "none",
        }),
        &[
            "address",
            "currency",
            "default_source",
            "description",
            "discount",
            "email",
            "name",
            "phone",
            "shipping",
            "test_clock",
        ],
    )
}

/// Makes an active product.
pub(crate) fn product(id: &str, name: &str, created: i64) -> Value {
    nulls(
        json!({
            "id": id, "object": "product", "active": true, "created": created, "images": [], "livemode": false,
            "marketing_features": [], "metadata": {}, "name": name, "type": "service", "updated": created,
        }),
        &[
            "default_price",
            "description",
            "package_dimensions",
            "shippable",
            "statement_descriptor",
            "tax_code",
            "unit_label",
            "url",
        ],
    )
}

/// Makes a price; `recurring` is an object with interval and count, or null for one-time.
pub(crate) fn price(id: &str, product: &str, currency: &str, amount: i64, recurring: Value, created: i64) -> Value {
    let kind = if recurring.is_null() { "one_time" } else { "recurring" };
    nulls(
        json!({
            "id": id, "object": "price", "active": true, "billing_scheme": "per_unit", "created": created,
            "currency": currency, "livemode": false, "metadata": {}, "product": product, "recurring": recurring,
            "tax_behavior": "unspecified", "type": kind, "unit_amount": amount, "unit_amount_decimal": amount.to_string(),
        }),
        &["custom_unit_amount", "lookup_key", "nickname", "tiers_mode", "transform_quantity"],
    )
}

/// Makes the `recurring` part of a price.
pub(crate) fn recurring(interval: &str, count: i64) -> Value {
    json!({ "interval": interval, "interval_count": count, "meter": null, "trial_period_days": null, "usage_type": "licensed" })
}

/// Makes the legacy plan that mirrors a recurring price.
pub(crate) fn plan(price: &Value) -> Value {
    nulls(
        json!({
            "id": price["id"], "object": "plan", "active": price["active"], "amount": price["unit_amount"],
            "amount_decimal": price["unit_amount_decimal"], "billing_scheme": "per_unit", "created": price["created"],
            "currency": price["currency"], "interval": price["recurring"]["interval"],
            "interval_count": price["recurring"]["interval_count"], "livemode": false, "metadata": {},
            "product": price["product"], "usage_type": "licensed",
        }),
        &["meter", "nickname", "tiers_mode", "transform_usage", "trial_period_days"],
    )
}

/// Makes one item of a subscription.
pub(crate) fn subscription_item(
    id: &str,
    subscription: &str,
    price: &Value,
    quantity: i64,
    period: (i64, i64),
    created: i64,
) -> Value {
    json!({
        "id": id, "object": "subscription_item", "billing_thresholds": null, "created": created,
        "current_period_start": period.0, "current_period_end": period.1, "discounts": [], "metadata": {},
        "plan": plan(price), "price": price, "quantity": quantity, "subscription": subscription, "tax_rates": [],
    })
}

/// Makes a subscription with its items.
pub(crate) fn subscription(
    id: &str,
    customer: &str,
    currency: &str,
    items: Vec<Value>,
    status: &str,
    created: i64,
) -> Value {
    nulls(
        json!({
            "id": id, "object": "subscription",
            "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
            "billing_cycle_anchor": created, "billing_mode": { "type": "flexible", "flexible": { "proration_discounts": "included" } },
            "billing_schedules": [], "cancel_at_period_end": false,
            "cancellation_details": { "comment": null, "feedback": null, "reason": null },
            "collection_method": "charge_automatically", "created": created, "currency": currency, "customer": customer,
            "default_tax_rates": [], "discounts": [], "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
            "items": list(&format!("/v1/subscription_items?subscription={id}"), items),
            "livemode": false, "metadata": {},
            "payment_settings": { "payment_method_options": null, "payment_method_types": null, "save_default_payment_method": "off" },
            "start_date": created, "status": status,
            "trial_settings": { "end_behavior": { "missing_payment_method": "create_invoice" } },
        }),
        &[
            "application",
            "application_fee_percent",
            "billing_cycle_anchor_config",
            "billing_thresholds",
            "cancel_at",
            "canceled_at",
            "customer_account",
            "days_until_due",
            "default_payment_method",
            "default_source",
            "description",
            "ended_at",
            "latest_invoice",
            "next_pending_invoice_item_invoice",
            "on_behalf_of",
            "pause_collection",
            "pending_invoice_item_interval",
            "pending_setup_intent",
            "pending_update",
            "schedule",
            "test_clock",
            "transfer_data",
            "trial_end",
            "trial_start",
        ],
    )
}

/// What an invoice bills: amounts and where they come from.
#[derive(Debug, Clone)]
pub(crate) struct Bill<'a> {
    pub(crate) customer: &'a Value,
    pub(crate) subscription: Option<&'a str>,
    pub(crate) reason: &'a str,
    pub(crate) currency: &'a str,
    pub(crate) lines: Vec<Value>,
    pub(crate) period: (i64, i64),
}

/// Makes a draft invoice.
pub(crate) fn invoice(id: &str, bill: Bill<'_>, created: i64) -> Value {
    let total: i64 = bill.lines.iter().filter_map(|line| line["amount"].as_i64()).sum();
    let parent = bill.subscription.map_or(Value::Null, |subscription| {
        json!({ "quote_details": null, "subscription_details": { "metadata": {}, "subscription": subscription }, "type": "subscription_details" })
    });
    nulls(
        json!({
            "id": id, "object": "invoice", "account_country": "US", "account_name": "Emulated account",
            "amount_due": total, "amount_overpaid": 0, "amount_paid": 0, "amount_remaining": total, "amount_shipping": 0,
            "attempt_count": 0, "attempted": false, "auto_advance": true,
            "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null },
            "billing_reason": bill.reason, "collection_method": "charge_automatically", "created": created,
            "currency": bill.currency, "customer": bill.customer["id"], "customer_address": bill.customer["address"],
            "customer_email": bill.customer["email"], "customer_name": bill.customer["name"],
            "customer_phone": bill.customer["phone"], "customer_tax_exempt": "none", "customer_tax_ids": [],
            "default_tax_rates": [], "discounts": [], "ending_balance": 0, "issuer": { "type": "self" },
            "lines": list(&format!("/v1/invoices/{id}/lines"), bill.lines), "livemode": false, "metadata": {},
            "parent": parent,
            "payment_settings": { "default_mandate": null, "payment_method_options": null, "payment_method_types": null },
            "period_start": bill.period.0, "period_end": bill.period.1, "post_payment_credit_notes_amount": 0,
            "pre_payment_credit_notes_amount": 0, "starting_balance": 0, "status": "draft",
            "status_transitions": { "finalized_at": null, "marked_uncollectible_at": null, "paid_at": null, "voided_at": null },
            "subtotal": total, "subtotal_excluding_tax": total, "total": total, "total_discount_amounts": [],
            "total_excluding_tax": total, "total_pretax_credit_amounts": [], "total_taxes": [],
        }),
        &[
            "account_tax_ids",
            "application",
            "automatically_finalizes_at",
            "custom_fields",
            "customer_account",
            "customer_shipping",
            "default_payment_method",
            "default_source",
            "description",
            "due_date",
            "effective_at",
            "footer",
            "from_invoice",
            "hosted_invoice_url",
            "invoice_pdf",
            "last_finalization_error",
            "latest_revision",
            "next_payment_attempt",
            "number",
            "on_behalf_of",
            "receipt_number",
            "rendering",
            "shipping_cost",
            "shipping_details",
            "statement_descriptor",
            "test_clock",
            "webhooks_delivered_at",
        ],
    )
}

/// Makes one line of an invoice; `item` is the subscription item behind it.
pub(crate) fn invoice_line(id: &str, invoice: &str, item: &Value, amount: i64, period: (i64, i64)) -> Value {
    let price = &item["price"];
    json!({
        "id": id, "object": "line_item", "amount": amount, "currency": price["currency"],
        "description": format!("{} × subscription", item["quantity"].as_i64().unwrap_or(1)),
        "discount_amounts": [], "discountable": true, "discounts": [], "invoice": invoice, "livemode": false, "metadata": {},
        "parent": {
            "invoice_item_details": null, "type": "subscription_item_details",
            "subscription_item_details": {
                "invoice_item": null, "proration": false, "proration_details": { "credited_items": null },
                "subscription": item["subscription"], "subscription_item": item["id"],
            },
        },
        "period": { "start": period.0, "end": period.1 }, "pretax_credit_amounts": [],
        "pricing": {
            "price_details": { "price": price["id"], "product": price["product"] }, "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": item["quantity"], "subscription": item["subscription"], "subtotal": amount, "taxes": [],
    })
}

/// Makes a line that stands alone, billed by `POST /v1/invoiceitems`.
pub(crate) fn invoice_item_line(
    id: &str,
    invoice: &str,
    item: &str,
    amount: i64,
    currency: &str,
    text: &Value,
    at: i64,
) -> Value {
    json!({
        "id": id, "object": "line_item", "amount": amount, "currency": currency, "description": text,
        "discount_amounts": [], "discountable": true, "discounts": [], "invoice": invoice, "livemode": false, "metadata": {},
        "parent": {
            "invoice_item_details": { "invoice_item": item, "proration": false, "proration_details": { "credited_items": null }, "subscription": null },
            "subscription_item_details": null, "type": "invoice_item_details",
        },
        "period": { "start": at, "end": at }, "pretax_credit_amounts": [], "pricing": null, "quantity": 1,
        "subscription": null, "subtotal": amount, "taxes": [],
    })
}

/// Makes the record that joins an invoice and the payment intent that pays it.
pub(crate) fn invoice_payment(id: &str, invoice: &Value, intent: &str) -> Value {
    let paid = invoice["status"] == "paid";
    json!({
        "id": id, "object": "invoice_payment", "amount_paid": if paid { invoice["amount_paid"].clone() } else { Value::Null },
        "amount_requested": invoice["amount_due"], "created": invoice["created"], "currency": invoice["currency"],
        "invoice": invoice["id"], "is_default": true, "livemode": false,
        "payment": { "payment_intent": intent, "type": "payment_intent" }, "status": if paid { "paid" } else { "open" },
        "status_transitions": { "canceled_at": null, "paid_at": invoice["status_transitions"]["paid_at"] },
    })
}

/// Makes a payment intent that still needs a payment method.
pub(crate) fn payment_intent(
    id: &str,
    secret: &str,
    amount: i64,
    currency: &str,
    customer: Value,
    created: i64,
) -> Value {
    nulls(
        json!({
            "id": id, "object": "payment_intent", "amount": amount, "amount_capturable": 0, "amount_details": { "tip": {} },
            "amount_received": 0, "automatic_payment_methods": null, "capture_method": "automatic_async",
            "client_secret": format!("{id}_secret_{secret}"), "confirmation_method": "automatic", "created": created,
            "currency": currency, "customer": customer, "livemode": false, "metadata": {},
            "payment_method_options": { "card": { "installments": null, "mandate_options": null, "network": null, "request_three_d_secure": "automatic" } },
            "payment_method_types": ["card"], "status": "requires_payment_method",
        }),
        &[
            "application",
            "application_fee_amount",
            "canceled_at",
            "cancellation_reason",
            "customer_account",
            "description",
            "last_payment_error",
            "latest_charge",
            "next_action",
            "on_behalf_of",
            "payment_method",
            "payment_method_configuration_details",
            "processing",
            "receipt_email",
            "review",
            "setup_future_usage",
            "shipping",
            "source",
            "statement_descriptor",
            "statement_descriptor_suffix",
            "transfer_data",
            "transfer_group",
        ],
    )
}

/// Makes a setup intent, for subscriptions that start without a payment.
pub(crate) fn setup_intent(id: &str, secret: &str, customer: &str, created: i64) -> Value {
    nulls(
        json!({
            "id": id, "object": "setup_intent", "automatic_payment_methods": null, "client_secret": format!("{id}_secret_{secret}"),
            "created": created, "customer": customer, "livemode": false, "metadata": {},
            "payment_method_options": { "card": { "mandate_options": null, "network": null, "request_three_d_secure": "automatic" } },
            "payment_method_types": ["card"], "status": "requires_payment_method", "usage": "off_session",
        }),
        &[
            "application",
            "cancellation_reason",
            "customer_account",
            "description",
            "flow_directions",
            "last_setup_error",
            "latest_attempt",
            "mandate",
            "next_action",
            "on_behalf_of",
            "payment_method",
            "single_use_mandate",
        ],
    )
}

/// Makes a card payment method.
pub(crate) fn payment_method(id: &str, last4: &str, customer: Value, created: i64) -> Value {
    json!({
        "id": id, "object": "payment_method", "allow_redisplay": "unspecified", "billing_details": billing_details(),
        "card": {
            "brand": "visa", "checks": { "address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass" },
            "country": "US", "display_brand": "visa", "exp_month": 12, "exp_year": 2034, "fingerprint": "Xt5EWLLDS7FJjR1c",
            "funding": "credit", "generated_from": null, "last4": last4,
            "networks": { "available": ["visa"], "preferred": null }, "regulated_status": "unregulated",
            "three_d_secure_usage": { "supported": true }, "wallet": null,
        },
        "created": created, "customer": customer, "customer_account": null, "livemode": false, "metadata": {}, "type": "card",
    })
}

fn billing_details() -> Value {
    json!({
        "address": { "city": null, "country": null, "line1": null, "line2": null, "postal_code": null, "state": null },
        "email": null, "name": null, "phone": null, "tax_id": null,
    })
}

/// Makes a charge that went through.
pub(crate) fn charge(
    id: &str,
    intent: Value,
    amount: i64,
    currency: &str,
    customer: Value,
    method: Value,
    created: i64,
) -> Value {
    nulls(
        json!({
            "id": id, "object": "charge", "amount": amount, "amount_captured": amount, "amount_refunded": 0,
            "balance_transaction": format!("txn_{}", id.strip_prefix("ch_").unwrap_or(id)),
            "billing_details": billing_details(), "calculated_statement_descriptor": "EMULATED", "captured": true,
            "created": created, "currency": currency, "customer": customer, "disputed": false, "fraud_details": {},
            "livemode": false, "metadata": {},
            "outcome": {
                "advice_code": null, "network_advice_code": null, "network_decline_code": null,
                "network_status": "approved_by_network", "reason": null, "risk_level": "normal", "risk_score": 32,
                "seller_message": "Payment complete.", "type": "authorized",
            },
            "paid": true, "payment_intent": intent, "payment_method": method,
            "payment_method_details": {
                "card": {
                    "amount_authorized": amount, "brand": "visa",
                    "checks": { "address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass" },
                    "country": "US", "exp_month": 12, "exp_year": 2034, "fingerprint": "Xt5EWLLDS7FJjR1c", "funding": "credit",
                    "installments": null, "last4": "4242", "mandate": null, "network": "visa",
                    "network_token": { "used": false }, "three_d_secure": null, "wallet": null,
                },
                "type": "card",
            },
            "receipt_url": format!("https://pay.stripe.com/receipts/payment/{id}"), "refunded": false, "status": "succeeded",
        }),
        &[
            "application",
            "application_fee",
            "application_fee_amount",
            "description",
            "failure_balance_transaction",
            "failure_code",
            "failure_message",
            "on_behalf_of",
            "radar_options",
            "receipt_email",
            "receipt_number",
            "review",
            "shipping",
            "source",
            "source_transfer",
            "statement_descriptor",
            "statement_descriptor_suffix",
            "transfer_data",
            "transfer_group",
        ],
    )
}

/// Makes a refund that went through.
pub(crate) fn refund(id: &str, charge: &Value, amount: i64, reason: Value, created: i64) -> Value {
    nulls(
        json!({
            "id": id, "object": "refund", "amount": amount,
            "balance_transaction": format!("txn_{}", id.strip_prefix("re_").unwrap_or(id)),
            "charge": charge["id"], "created": created, "currency": charge["currency"],
            "destination_details": { "card": { "reference": null, "reference_status": "pending", "reference_type": "acquirer_reference_number", "type": "refund" }, "type": "card" },
            "metadata": {}, "payment_intent": charge["payment_intent"], "reason": reason, "status": "succeeded",
        }),
        &["description", "receipt_number", "source_transfer_reversal", "transfer_reversal"],
    )
}

/// Makes an open checkout session.
pub(crate) fn session(id: &str, mode: &str, currency: Value, total: Value, created: i64) -> Value {
    nulls(
        json!({
            "id": id, "object": "checkout.session", "amount_subtotal": total, "amount_total": total,
            "automatic_tax": { "enabled": false, "liability": null, "provider": null, "status": null }, "created": created,
            "currency": currency, "custom_fields": [],
            "custom_text": { "after_submit": null, "shipping_address": null, "submit": null, "terms_of_service_acceptance": null },
            "expires_at": created + 24 * 3600, "livemode": false, "metadata": {}, "mode": mode,
            "payment_method_options": { "card": { "request_three_d_secure": "automatic" } }, "payment_method_types": ["card"],
            "payment_status": "unpaid", "phone_number_collection": { "enabled": false }, "shipping_options": [], "status": "open",
            "total_details": { "amount_discount": 0, "amount_shipping": 0, "amount_tax": 0 }, "ui_mode": "hosted",
            "url": format!("https://checkout.stripe.com/c/pay/{id}"),
        }),
        &[
            "after_expiration",
            "allow_promotion_codes",
            "billing_address_collection",
            "cancel_url",
            "client_reference_id",
            "client_secret",
            "consent",
            "consent_collection",
            "currency_conversion",
            "customer",
            "customer_account",
            "customer_creation",
            "customer_details",
            "customer_email",
            "discounts",
            "invoice",
            "invoice_creation",
            "locale",
            "payment_intent",
            "payment_link",
            "payment_method_collection",
            "permissions",
            "recovered_from",
            "saved_payment_method_options",
            "setup_intent",
            "shipping_address_collection",
            "shipping_cost",
            "submit_type",
            "subscription",
            "success_url",
            "wallet_options",
        ],
    )
}

/// Makes a webhook endpoint; the secret is shown at creation only and is not part of it.
pub(crate) fn endpoint(id: &str, url: &str, enabled: &[String], version: Option<&str>, created: i64) -> Value {
    json!({
        "id": id, "object": "webhook_endpoint", "api_version": version, "application": null, "created": created,
        "description": null, "enabled_events": enabled, "livemode": false, "metadata": {}, "status": "enabled", "url": url,
    })
}

/// Makes the account that a key belongs to.
pub(crate) fn account(id: &str) -> Value {
    json!({
        "id": id, "object": "account", "business_profile": { "mcc": null, "name": "Emulated account", "support_email": null, "url": null },
        "business_type": "company", "capabilities": { "card_payments": "active", "transfers": "active" }, "charges_enabled": true,
        "controller": { "type": "account" }, "country": "US", "created": 1_700_000_000, "default_currency": "usd",
        "details_submitted": true, "email": "owner@example.com",
        "external_accounts": list(&format!("/v1/accounts/{id}/external_accounts"), Vec::new()),
        "metadata": {}, "payouts_enabled": true, "settings": {
            "branding": { "icon": null, "logo": null, "primary_color": null, "secondary_color": null },
            "card_payments": { "statement_descriptor_prefix": null, "statement_descriptor_prefix_kana": null, "statement_descriptor_prefix_kanji": null },
            "dashboard": { "display_name": "Emulated account", "timezone": "Etc/UTC" },
            "payments": { "statement_descriptor": null, "statement_descriptor_kana": null, "statement_descriptor_kanji": null },
        },
        "type": "standard",
    })
}

/// Makes what a deleted object leaves behind.
pub(crate) fn deleted(id: &str, object: &str) -> Value {
    json!({ "id": id, "object": object, "deleted": true })
}

/// Names what changed between two objects with the values before, as `previous_attributes` does.
///
/// Inner objects list only their own changed fields; arrays and lists appear whole.
pub(crate) fn changes(before: &Value, after: &Value) -> Map<String, Value> {
    let mut changed = Map::new();
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return changed };
    for (name, old) in before {
        let new = after.get(name).unwrap_or(&Value::Null);
        if old == new {
            continue;
        }
        match (old, new) {
            (Value::Object(old_map), Value::Object(_)) if old_map.get("object").is_none() => {
                changed.insert(name.clone(), Value::Object(changes(old, new)));
            }
            _ => {
                changed.insert(name.clone(), old.clone());
            }
        }
    }
    for name in after.keys().filter(|name| !before.contains_key(*name)) {
        changed.insert(name.clone(), Value::Null);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields without `Option` in async-stripe-shared 1.0.0-rc.10 (read 2026-11-22), `type_` as `type`.
    #[track_caller]
    fn check(object: &Value, required: &str) {
        for path in required.split_whitespace() {
            let pointer = format!("/{}", path.replace('.', "/"));
            let found = object.pointer(&pointer);
            assert!(found.is_some_and(|value| !value.is_null()), "{} lacks {path}", object["object"]);
        }
    }

    fn monthly() -> Value {
        price("price_1", "prod_1", "usd", 900, recurring("month", 1), 5)
    }

    #[test]
    fn every_object_has_what_strict_models_require() {
        let customer = customer("cus_1", 5);
        check(&customer, "id object created livemode");
        check(
            &product("prod_1", "Tea", 5),
            "active created id images livemode marketing_features metadata name type updated",
        );
        let price = monthly();
        check(
            &price,
            "active billing_scheme created currency id livemode metadata product type recurring.interval recurring.interval_count recurring.usage_type",
        );
        let item = subscription_item("si_1", "sub_1", &price, 1, (5, 9), 5);
        let subscription = subscription("sub_1", "cus_1", "usd", vec![item.clone()], "active", 5);
        check(
            &subscription,
            "automatic_tax.enabled billing_cycle_anchor billing_mode.type billing_schedules cancel_at_period_end collection_method created \
             currency customer discounts id invoice_settings.issuer.type items.data items.has_more items.url livemode metadata start_date status \
             items.data.0.created items.data.0.current_period_end items.data.0.current_period_start items.data.0.discounts items.data.0.id \
             items.data.0.metadata items.data.0.plan.active items.data.0.plan.billing_scheme items.data.0.plan.created \
             items.data.0.plan.currency items.data.0.plan.id items.data.0.plan.interval items.data.0.plan.interval_count \
             items.data.0.plan.livemode items.data.0.plan.usage_type items.data.0.price.id items.data.0.subscription",
        );
        let line = invoice_line("il_1", "in_1", &item, 900, (5, 9));
        let bill = Bill {
            customer: &customer,
            subscription: Some("sub_1"),
            reason: "manual",
            currency: "usd",
            lines: vec![line],
            period: (5, 9),
        };
        let invoice = invoice("in_1", bill, 5);
        check(
            &invoice,
            "amount_due amount_overpaid amount_paid amount_remaining amount_shipping attempt_count attempted automatic_tax.enabled \
             collection_method created currency default_tax_rates discounts issuer.type lines.data lines.has_more lines.url livemode \
             payment_settings period_end period_start post_payment_credit_notes_amount pre_payment_credit_notes_amount starting_balance \
             status_transitions subtotal total lines.data.0.amount lines.data.0.currency lines.data.0.discountable lines.data.0.discounts \
             lines.data.0.id lines.data.0.livemode lines.data.0.metadata lines.data.0.period.end lines.data.0.period.start \
             lines.data.0.subtotal lines.data.0.pricing.type lines.data.0.pricing.price_details.price lines.data.0.pricing.price_details.product \
             parent.type parent.subscription_details.subscription lines.data.0.parent.type \
             lines.data.0.parent.subscription_item_details.proration lines.data.0.parent.subscription_item_details.subscription_item",
        );
        check(
            &invoice_payment("inpay_1", &invoice, "pi_1"),
            "amount_requested created currency id invoice is_default livemode payment.type status status_transitions",
        );
        check(
            &payment_intent("pi_1", "s", 900, "usd", Value::Null, 5),
            "amount amount_capturable amount_received capture_method confirmation_method created currency id livemode metadata payment_method_types status",
        );
        check(&setup_intent("seti_1", "s", "cus_1", 5), "created id livemode payment_method_types status usage");
        check(
            &payment_method("pm_1", "4242", Value::Null, 5),
            "billing_details created id livemode type card.brand card.exp_month card.exp_year card.funding card.last4",
        );
        let charge = charge("ch_1", json!("pi_1"), 900, "usd", Value::Null, Value::Null, 5);
        check(
            &charge,
            "amount amount_captured amount_refunded billing_details captured created currency disputed id livemode metadata paid refunded \
             status outcome.type payment_method_details.type payment_method_details.card.exp_month payment_method_details.card.exp_year",
        );
        check(
            &refund("re_1", &charge, 900, Value::Null, 5),
            "amount created currency id destination_details.type destination_details.card.type",
        );
        check(
            &session("cs_1", "payment", json!("usd"), json!(900), 5),
            "automatic_tax.enabled created custom_fields custom_text expires_at id livemode mode payment_method_types payment_status \
             shipping_options total_details.amount_discount total_details.amount_tax",
        );
    }

    #[test]
    fn changes_name_what_was_before() {
        let before = json!({ "name": "a", "metadata": { "x": "1", "y": "2" }, "list": [1], "same": 1 });
        let after =
            json!({ "name": "b", "metadata": { "x": "1", "y": "3", "z": "4" }, "list": [1, 2], "same": 1, "new": 1 });
        let expected = json!({ "name": "a", "metadata": { "y": "2", "z": null }, "list": [1], "new": null });
        assert_eq!(Value::Object(changes(&before, &after)), expected);
    }
}

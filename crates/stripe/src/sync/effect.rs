//! Which events concern which streams, and how. One table.

use serde_json::Value;
use serde_json::value::RawValue;

/// What an event says about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The event carries the record as it stood.
    Shows {
        /// The record's stream.
        stream: &'static str,
        /// What Stripe calls such an object.
        object: &'static str,
    },
    /// The record is gone for good.
    Deletes {
        /// The record's stream.
        stream: &'static str,
    },
    /// The event carries another object whose change shows on the record too; the record must be fetched.
    Touches {
        /// The record's stream.
        stream: &'static str,
        /// The field of the event's object that names the record.
        field: &'static str,
    },
}

const fn shows(stream: &'static str, object: &'static str) -> Effect {
    Effect::Shows { stream, object }
}

const fn deletes(stream: &'static str) -> Effect {
    Effect::Deletes { stream }
}

const fn touches(stream: &'static str, field: &'static str) -> Effect {
    Effect::Touches { stream, field }
}

const CUSTOMER: &[Effect] = &[shows("customers", "customer")];
const PRODUCT: &[Effect] = &[shows("products", "product")];
const PRICE: &[Effect] = &[shows("prices", "price")];
const SUBSCRIPTION: &[Effect] = &[shows("subscriptions", "subscription")];
const INVOICE: &[Effect] = &[shows("invoices", "invoice")];
const CHARGE: &[Effect] = &[shows("charges", "charge")];
const DISCOUNT: &[Effect] = &[touches("customers", "customer"), touches("subscriptions", "subscription")];
const OF_CHARGE: &[Effect] = &[touches("charges", "charge")];
const OF_INVOICE: &[Effect] = &[touches("invoices", "invoice")];
/// A thin event: what it concerns stands in its `related_object`.
const THIN: &[Effect] = &[touches("", "")];

/// Returns what events of a type say about our records (Stripe API reference, event types, 2026-10).
pub(super) fn effects(kind: &str) -> &'static [Effect] {
    match kind {
        "customer.deleted" => const { &[deletes("customers")] },
        "product.deleted" => const { &[deletes("products")] },
        "price.deleted" => const { &[deletes("prices")] },
        "invoice.deleted" => const { &[deletes("invoices")] },
        "customer.created" | "customer.updated" => CUSTOMER,
        // An upcoming invoice is a forecast: it has no id and is no record.
        "invoice.upcoming" => &[],
        "charge.refund.updated" => OF_CHARGE,
        _ => match kind.rsplit_once('.').map(|(family, _)| family) {
            // `customer.subscription.deleted` means ended: the subscription stays readable, with status canceled.
            Some("customer.subscription") => SUBSCRIPTION,
            Some("customer.discount") => DISCOUNT,
            Some("product") => PRODUCT,
            Some("price") => PRICE,
            Some("invoice") => INVOICE,
            Some("charge") => CHARGE,
            Some("charge.dispute" | "refund") => OF_CHARGE,
            Some("credit_note" | "invoice_payment") => OF_INVOICE,
            // `v1.customer.updated`, `v1.customer.subscription.updated`: thin events of v1 objects, since 2026-08-26.
            Some(family) if family.strip_prefix("v1.").is_some_and(|family| thin_family(family).is_some()) => THIN,
            _ => &[],
        },
    }
}

fn thin_family(family: &str) -> Option<&'static str> {
    match family {
        "customer.subscription" => Some("subscriptions"),
        _ => stream_of(family),
    }
}

/// Returns the stream of an object type.
pub(super) fn stream_of(object: &str) -> Option<&'static str> {
    match object {
        "customer" => Some("customers"),
        "product" => Some("products"),
        "price" => Some("prices"),
        "subscription" => Some("subscriptions"),
        "invoice" => Some("invoices"),
        "charge" => Some("charges"),
        _ => None,
    }
}

/// Returns the id in a field that holds an id, an expanded object or null.
pub(super) fn reference(object: &RawValue, field: &str) -> Option<String> {
    let value: Value = serde_json::from_str(object.get()).ok()?;
    let named = value.get(field)?;
    let id = named.as_str().or_else(|| named.get("id")?.as_str())?;
    (!id.is_empty()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_only_begin_alike_are_told_apart() {
        assert_eq!(effects("customer.subscription.deleted"), SUBSCRIPTION);
        assert_eq!(effects("customer.subscription.pending_update_applied"), SUBSCRIPTION);
        assert_eq!(effects("charge.refunded"), CHARGE);
        assert_eq!(effects("charge.dispute.funds_withdrawn"), OF_CHARGE);
        assert_eq!(effects("refund.failed"), OF_CHARGE);
        assert_eq!(effects("v1.customer.subscription.updated"), THIN);
        assert_eq!(effects("v1.invoice.paid"), THIN);
        for kind in [
            "customer.source.created",
            "customer.tax_id.updated",
            "customer.card.updated",
            "invoice.upcoming",
            "invoiceitem.created",
            "plan.created",
            "payment_intent.succeeded",
            "v1.billing.meter.error_report_triggered",
            "customer",
            "",
            ".",
            "v1.",
            "charge.",
            "price",
        ] {
            let expected: &[Effect] = if kind == "charge." { CHARGE } else { &[] };
            assert_eq!(effects(kind), expected, "{kind}");
        }
    }
}

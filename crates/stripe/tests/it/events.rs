//! Typed events.

use palisade_core::ErrorKind;
use palisade_stripe::event::{TypedEvent, full, head};
use serde_json::{Value, json};

use super::sync::event;

fn payload(kind: &str, object: &Value) -> String {
    json!({"id": "evt_1", "object": "event", "type": kind, "api_version": "2022-11-15", "created": 1, "livemode": true,
        "pending_webhooks": 1, "data": {"object": object, "previous_attributes": {"status": "open", "email": null}}})
    .to_string()
}

fn parse(kind: &str, object: &Value) -> palisade_core::Result<TypedEvent> {
    TypedEvent::parse(&event(kind, &payload(kind, object)))
}

fn objects() -> Vec<(&'static str, Value)> {
    vec![
        (
            "checkout.session",
            json!({"id": "cs_1", "object": "checkout.session", "mode": "subscription", "payment_status": "paid",
            "customer": {"id": "cus_1"}, "subscription": "sub_1", "amount_total": 500, "currency": "usd", "client_reference_id": "u1"}),
        ),
        ("customer", json!({"id": "cus_1", "object": "customer", "email": "a@x.example"})),
        (
            "subscription",
            json!({"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active",
            "items": {"data": [{"price": {"id": "price_1"}, "current_period_end": 9}]}, "latest_invoice": {"id": "in_1"}}),
        ),
        (
            "invoice",
            json!({"id": "in_1", "object": "invoice", "customer": "cus_1", "amount_due": 5, "amount_paid": 5,
            "currency": "usd", "parent": {"subscription_details": {"subscription": "sub_1"}}}),
        ),
        (
            "payment_intent",
            json!({"id": "pi_1", "object": "payment_intent", "status": "requires_payment_method", "amount": 5,
            "currency": "usd", "last_payment_error": {"code": "card_declined", "decline_code": "insufficient_funds"}}),
        ),
        (
            "charge",
            json!({"id": "ch_1", "object": "charge", "amount": 5, "amount_refunded": 2, "refunded": false, "currency": "usd"}),
        ),
        (
            "dispute",
            json!({"id": "dp_1", "object": "dispute", "charge": "ch_1", "amount": 5, "currency": "usd", "status": "needs_response",
            "evidence_details": {"due_by": 77}}),
        ),
        (
            "payout",
            json!({"id": "po_1", "object": "payout", "amount": -5, "currency": "usd", "status": "paid", "arrival_date": 3}),
        ),
    ]
}

const KINDS: [(&str, &str); 20] = [
    ("checkout.session.completed", "checkout.session"),
    ("checkout.session.async_payment_succeeded", "checkout.session"),
    ("checkout.session.expired", "checkout.session"),
    ("customer.created", "customer"),
    ("customer.updated", "customer"),
    ("customer.deleted", "customer"),
    ("customer.subscription.created", "subscription"),
    ("customer.subscription.updated", "subscription"),
    ("customer.subscription.deleted", "subscription"),
    ("customer.subscription.trial_will_end", "subscription"),
    ("invoice.created", "invoice"),
    ("invoice.finalized", "invoice"),
    ("invoice.paid", "invoice"),
    ("invoice.payment_failed", "invoice"),
    ("invoice.payment_action_required", "invoice"),
    ("payment_intent.succeeded", "payment_intent"),
    ("payment_intent.payment_failed", "payment_intent"),
    ("charge.refunded", "charge"),
    ("charge.dispute.created", "dispute"),
    ("payout.paid", "payout"),
];

#[test]
fn twenty_types_are_typed_each_by_its_own_variant() {
    let objects = objects();
    let mut variants = Vec::new();
    for (kind, name) in KINDS {
        let (_, object) = objects.iter().find(|(of, _)| *of == name).unwrap();
        let typed = parse(kind, object).unwrap();
        assert!(!matches!(typed, TypedEvent::Unknown { .. }), "{kind}");
        let variant = std::mem::discriminant(&typed);
        assert!(!variants.contains(&variant), "{kind} shares its variant");
        variants.push(variant);
        for (_, other) in objects.iter().filter(|(of, _)| *of != name) {
            assert_eq!(parse(kind, other).unwrap_err().kind(), ErrorKind::Decode, "{kind} with another object");
        }
        assert_eq!(
            parse(kind, &json!({"object": name})).unwrap_err().kind(),
            ErrorKind::Decode,
            "{kind} without fields"
        );
    }
}

#[test]
fn both_shapes_of_invoice_and_subscription_are_read() {
    let base = json!({"id": "in_1", "object": "invoice", "amount_due": 5, "amount_paid": 4, "currency": "usd"});
    for (extra, expected) in [
        (json!({"subscription": "sub_1"}), Some("sub_1")),
        (json!({"subscription": {"id": "sub_2", "object": "subscription"}}), Some("sub_2")),
        (
            json!({"parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_3"}}}),
            Some("sub_3"),
        ),
        (json!({"parent": null, "subscription": null}), None),
        (json!({}), None),
    ] {
        let mut object = base.clone();
        object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let TypedEvent::InvoicePaid(invoice) = parse("invoice.paid", &object).unwrap() else { panic!("not paid") };
        assert_eq!(invoice.subscription.as_ref().map(AsRef::as_ref), expected, "{extra}");
        assert_eq!((invoice.invoice.as_str(), invoice.amount_due, invoice.amount_paid), ("in_1", 5, 4));
    }
    let classic = json!({"id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active", "current_period_end": 8, "items": {"data": []}});
    let TypedEvent::SubscriptionUpdated(subscription) = parse("customer.subscription.updated", &classic).unwrap()
    else {
        panic!("not updated")
    };
    assert_eq!(subscription.current_period_end, Some(8));
    let (_, basil) = objects().into_iter().nth(2).unwrap();
    let TypedEvent::SubscriptionUpdated(subscription) = parse("customer.subscription.updated", &basil).unwrap() else {
        panic!("not updated")
    };
    assert_eq!(subscription.current_period_end, Some(9));
    assert_eq!(subscription.prices.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["price_1"]);
    assert_eq!(subscription.latest_invoice.unwrap().as_str(), "in_1");
}

#[test]
fn a_failed_payment_tells_why_in_codes() {
    let (_, object) = objects().into_iter().nth(4).unwrap();
    let TypedEvent::PaymentFailed(payment) = parse("payment_intent.payment_failed", &object).unwrap() else {
        panic!("not failed")
    };
    let failure = payment.failure.unwrap();
    assert_eq!(
        (failure.code.as_deref(), failure.decline_code.as_deref()),
        (Some("card_declined"), Some("insufficient_funds"))
    );
}

#[test]
fn all_other_types_stay_raw() {
    for kind in ["invoice.overdue", "customer.source.created", "a.b.c", "charge.succeeded"] {
        let raw = payload(kind, &json!({"object": "x"}));
        let typed = TypedEvent::parse(&event(kind, &raw)).unwrap();
        assert_eq!(typed, TypedEvent::Unknown { kind: kind.to_owned(), raw: raw.into() });
    }
    let thin = r#"{"id":"evt_1","object":"v2.core.event","type":"v1.invoice.paid","created":"2026-01-01T00:00:00Z"}"#;
    assert!(matches!(TypedEvent::parse(&event("invoice.paid", thin)).unwrap(), TypedEvent::Thin(_)));
    assert_eq!(TypedEvent::parse(&event("invoice.paid", "nonsense")).unwrap_err().kind(), ErrorKind::Decode);
}

#[test]
fn the_head_tells_mode_version_and_what_changed() {
    let head = head(&event("invoice.paid", &payload("invoice.paid", &json!({})))).unwrap();
    assert_eq!((head.livemode, head.api_version.as_deref()), (Some(true), Some("2022-11-15")));
    assert_eq!(head.changed, ["email", "status"]);
}

/// Fails when async-stripe's parse is the only one: this event of an older version would be lost.
#[test]
fn the_full_parse_may_fail_where_the_typed_one_does_not() {
    let kind = "customer.subscription.updated";
    let (_, object) = objects().into_iter().nth(2).unwrap();
    let old = event(kind, &payload(kind, &object));
    assert!(TypedEvent::parse(&old).is_ok());
    assert_eq!(full(&old).unwrap_err().kind(), ErrorKind::Decode);

    let kind = "customer.created";
    let customer =
        json!({"id": "cus_1", "object": "customer", "created": 1, "livemode": false, "shipping": null, "metadata": {}});
    let whole = full(&event(kind, &payload(kind, &customer))).unwrap();
    assert_eq!(whole.id.as_str(), "evt_1");
    assert!(matches!(whole.data.object, stripe_webhook::EventObject::CustomerCreated(_)));
}

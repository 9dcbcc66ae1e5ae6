//! One type for each of the events most products handle, for handlers that are given nothing else:
//! [`palisade_core::worker::Typed`].

use palisade_core::Result;
use palisade_core::webhook::{Event, unreadable};
use palisade_core::worker::Typed;

use super::{Charge, CheckoutSession, Customer, Dispute, Invoice, PaymentIntent, Subscription, TypedEvent};

const PROVIDER: &str = "stripe";

/// `invoice.paid`: give or keep the access.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct InvoicePaid(pub Invoice);

impl Typed for InvoicePaid {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "invoice.paid";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::InvoicePaid(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `invoice.payment_failed`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct InvoicePaymentFailed(pub Invoice);

impl Typed for InvoicePaymentFailed {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "invoice.payment_failed";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::InvoicePaymentFailed(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `checkout.session.completed`: with a delayed method the money is yet to come.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct CheckoutSessionCompleted(pub CheckoutSession);

impl Typed for CheckoutSessionCompleted {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "checkout.session.completed";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::CheckoutSessionCompleted(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `customer.created`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct CustomerCreated(pub Customer);

impl Typed for CustomerCreated {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "customer.created";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::CustomerCreated(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `customer.subscription.created`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct SubscriptionCreated(pub Subscription);

impl Typed for SubscriptionCreated {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "customer.subscription.created";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::SubscriptionCreated(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `customer.subscription.updated`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct SubscriptionUpdated(pub Subscription);

impl Typed for SubscriptionUpdated {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "customer.subscription.updated";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::SubscriptionUpdated(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `customer.subscription.deleted`: take the access away.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct SubscriptionEnded(pub Subscription);

impl Typed for SubscriptionEnded {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "customer.subscription.deleted";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::SubscriptionEnded(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `payment_intent.succeeded`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct PaymentSucceeded(pub PaymentIntent);

impl Typed for PaymentSucceeded {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "payment_intent.succeeded";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::PaymentSucceeded(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `payment_intent.payment_failed`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct PaymentFailed(pub PaymentIntent);

impl Typed for PaymentFailed {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "payment_intent.payment_failed";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::PaymentFailed(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `charge.refunded`: wholly or in part.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct ChargeRefunded(pub Charge);

impl Typed for ChargeRefunded {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "charge.refunded";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::ChargeRefunded(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

/// `charge.dispute.created`: answer before the deadline.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a name for what it holds")]
pub struct DisputeCreated(pub Dispute);

impl Typed for DisputeCreated {
    const PROVIDER: &'static str = PROVIDER;
    const KIND: &'static str = "charge.dispute.created";

    fn parse(event: &Event) -> Result<Self> {
        let TypedEvent::DisputeCreated(it) = TypedEvent::parse(event)? else {
            return Err(unreadable(PROVIDER, "the event is of another type"));
        };
        Ok(Self(it))
    }
}

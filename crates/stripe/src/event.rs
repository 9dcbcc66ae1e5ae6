//! Events with types: the twenty that most products handle, with the ids and amounts they need, and all others raw.
//!
//! These types read the few fields named here from the event's own JSON, in both shapes of before and since
//! 2025-03-31.basil; nothing else of an event can make them fail. async-stripe's whole types are one step further
//! ([`full`]), and that step can fail: an event is rendered in the version of its endpoint, and one field that a newer
//! version added is then missing.

use bytes::Bytes;
use palisade_core::webhook::{Event, unreadable};
use palisade_core::{Error, ErrorKind, Result};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::id::{
    ChargeId, CheckoutSessionId, CustomerId, DisputeId, Id, InvoiceId, Object, PaymentIntentId, PayoutId, PriceId,
    SetupIntentId, SubscriptionId,
};
use crate::json;
use crate::webhook::Envelope;

mod thin;
mod typed;

pub use thin::{RelatedObject, ThinEvent};
pub use typed::{
    ChargeRefunded, CheckoutSessionCompleted, CustomerCreated, DisputeCreated, InvoicePaid, InvoicePaymentFailed,
    PaymentFailed, PaymentSucceeded, SubscriptionCreated, SubscriptionEnded, SubscriptionUpdated,
};

/// An event, by its type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TypedEvent {
    /// `checkout.session.completed`: the customer finished the page; with a delayed method the money is yet to come.
    CheckoutSessionCompleted(CheckoutSession),
    /// `checkout.session.async_payment_succeeded`: the delayed payment arrived.
    CheckoutSessionAsyncPaymentSucceeded(CheckoutSession),
    /// `checkout.session.expired`: the customer never finished.
    CheckoutSessionExpired(CheckoutSession),
    /// `customer.created`.
    CustomerCreated(Customer),
    /// `customer.updated`.
    CustomerUpdated(Customer),
    /// `customer.deleted`.
    CustomerDeleted(Customer),
    /// `customer.subscription.created`.
    SubscriptionCreated(Subscription),
    /// `customer.subscription.updated`.
    SubscriptionUpdated(Subscription),
    /// `customer.subscription.deleted`: it has ended; take the access away.
    SubscriptionEnded(Subscription),
    /// `customer.subscription.trial_will_end`: three days before.
    SubscriptionTrialWillEnd(Subscription),
    /// `invoice.created`.
    InvoiceCreated(Invoice),
    /// `invoice.finalized`.
    InvoiceFinalized(Invoice),
    /// `invoice.paid`: give or keep the access.
    InvoicePaid(Invoice),
    /// `invoice.payment_failed`.
    InvoicePaymentFailed(Invoice),
    /// `invoice.payment_action_required`: the bank wants the customer to confirm.
    InvoicePaymentActionRequired(Invoice),
    /// `payment_intent.succeeded`.
    PaymentSucceeded(PaymentIntent),
    /// `payment_intent.payment_failed`.
    PaymentFailed(PaymentIntent),
    /// `charge.refunded`: wholly or in part.
    ChargeRefunded(Charge),
    /// `charge.dispute.created`: the customer's bank takes the money back; answer before the deadline.
    DisputeCreated(Dispute),
    /// `payout.paid`.
    PayoutPaid(Payout),
    /// A thin event, of any type: it names its object and carries none of it.
    Thin(ThinEvent),
    /// Every other type.
    Unknown {
        /// The event's type.
        kind: String,
        /// The event's whole JSON.
        raw: Bytes,
    },
}

/// What an event says of a checkout session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckoutSession {
    /// The session.
    pub session: CheckoutSessionId,
    /// `payment`, `setup` or `subscription`.
    pub mode: String,
    /// `paid`, `unpaid` or `no_payment_required`. Only on the first is there money.
    pub payment_status: Option<String>,
    /// The customer, once there is one.
    pub customer: Option<CustomerId>,
    /// The subscription that was started.
    pub subscription: Option<SubscriptionId>,
    /// The payment that was made.
    pub payment_intent: Option<PaymentIntentId>,
    /// The setup that was made.
    pub setup_intent: Option<SetupIntentId>,
    /// The product's own reference.
    pub client_reference: Option<String>,
    /// The total, in the currency's smallest unit.
    pub amount_total: Option<i64>,
    /// The currency, in lower case.
    pub currency: Option<String>,
}

/// What an event says of a customer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Customer {
    /// The customer.
    pub customer: CustomerId,
    /// The e-mail address.
    pub email: Option<String>,
    /// The name.
    pub name: Option<String>,
}

/// What an event says of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscription {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// Its customer.
    pub customer: CustomerId,
    /// `incomplete`, `incomplete_expired`, `trialing`, `active`, `past_due`, `unpaid`, `canceled` or `paused`.
    pub status: String,
    /// Whether it ends with the current period.
    pub cancel_at_period_end: bool,
    /// When it will end, in seconds since 1970, if that is set.
    pub cancel_at: Option<i64>,
    /// When the current period ends: of the subscription before basil, of the last of its items to end since.
    pub current_period_end: Option<i64>,
    /// When the trial ends.
    pub trial_end: Option<i64>,
    /// The prices of its items, those an event carries (at most ten).
    pub prices: Vec<PriceId>,
    /// Its newest invoice.
    pub latest_invoice: Option<InvoiceId>,
}

/// What an event says of an invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invoice {
    /// The invoice.
    pub invoice: InvoiceId,
    /// Its customer.
    pub customer: Option<CustomerId>,
    /// Its subscription: `subscription` before basil, `parent.subscription_details.subscription` since.
    pub subscription: Option<SubscriptionId>,
    /// `draft`, `open`, `paid`, `uncollectible` or `void`.
    pub status: Option<String>,
    /// Why it was made (`subscription_create`, `subscription_cycle`, `manual` and others).
    pub billing_reason: Option<String>,
    /// What is due, in the currency's smallest unit.
    pub amount_due: i64,
    /// What has been paid.
    pub amount_paid: i64,
    /// The currency, in lower case.
    pub currency: String,
    /// How often payment has been tried.
    pub attempt_count: i64,
    /// When it will be tried next, in seconds since 1970.
    pub next_payment_attempt: Option<i64>,
    /// The page at Stripe where the customer can pay or confirm.
    pub hosted_invoice_url: Option<String>,
}

/// What an event says of a payment intent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PaymentIntent {
    /// The payment intent.
    pub payment_intent: PaymentIntentId,
    /// Its customer.
    pub customer: Option<CustomerId>,
    /// Its status.
    pub status: String,
    /// The amount, in the currency's smallest unit.
    pub amount: i64,
    /// What has been received.
    pub amount_received: i64,
    /// The currency, in lower case.
    pub currency: String,
    /// Why the last try failed, as codes: see [`crate::decline::Decline::of`] for what to tell the customer.
    pub failure: Option<Failure>,
}

/// Why a payment failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// Stripe's code (`card_declined`).
    pub code: Option<String>,
    /// The bank's reason. For engineers only.
    pub decline_code: Option<String>,
    /// The network's advice.
    pub advice_code: Option<String>,
}

/// What an event says of a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Charge {
    /// The charge.
    pub charge: ChargeId,
    /// Its customer.
    pub customer: Option<CustomerId>,
    /// The payment intent it belongs to.
    pub payment_intent: Option<PaymentIntentId>,
    /// The amount, in the currency's smallest unit.
    pub amount: i64,
    /// What has been given back in all.
    pub amount_refunded: i64,
    /// Whether all of it has been given back.
    pub refunded: bool,
    /// The currency, in lower case.
    pub currency: String,
}

/// What an event says of a dispute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dispute {
    /// The dispute.
    pub dispute: DisputeId,
    /// The charge.
    pub charge: Option<ChargeId>,
    /// The payment intent.
    pub payment_intent: Option<PaymentIntentId>,
    /// The amount, in the currency's smallest unit.
    pub amount: i64,
    /// The currency, in lower case.
    pub currency: String,
    /// The bank's reason.
    pub reason: Option<String>,
    /// Its status.
    pub status: String,
    /// When evidence is due at the latest, in seconds since 1970.
    pub evidence_due_by: Option<i64>,
}

/// What an event says of a payout.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Payout {
    /// The payout.
    pub payout: PayoutId,
    /// The amount, in the currency's smallest unit; negative when Stripe takes money back.
    pub amount: i64,
    /// The currency, in lower case.
    pub currency: String,
    /// When it arrives at the bank, in seconds since 1970.
    pub arrival_date: Option<i64>,
    /// Its status.
    pub status: String,
}

/// What an event says of itself, besides what the hub's envelope holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// Whether it is of live mode. A Connect platform's live endpoint is sent test events too.
    pub livemode: Option<bool>,
    /// The version its object is rendered in.
    pub api_version: Option<String>,
    /// The names of the fields that changed, for `*.updated`.
    pub changed: Vec<String>,
}

/// Reads what an event says of itself.
///
/// # Errors
/// [`ErrorKind::Decode`] when the payload is no event.
pub fn head(event: &Event) -> Result<Head> {
    let envelope = Envelope::read(&event.payload)?;
    let previous = envelope.data().and_then(|data| data.previous_attributes);
    let previous: Option<Value> = previous.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let changed = match previous {
        Some(Value::Object(fields)) => fields.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    };
    Ok(Head { livemode: envelope.livemode, api_version: envelope.api_version().map(ToOwned::to_owned), changed })
}

/// Parses an event whole, with async-stripe's types.
///
/// # Errors
/// [`ErrorKind::Decode`] when it was rendered in a version whose shape the generated types do not fit, which is no
/// sign of a fault: read it with [`TypedEvent::parse`] or fetch its object.
pub fn full(event: &Event) -> Result<stripe_webhook::Event> {
    /// async-stripe parses only what carries a signature. Ours was checked at the door, so the text is signed again
    /// for this one call, with a key that protects nothing and the time it is checked against.
    const KEY: &str = "already-verified";
    let text = std::str::from_utf8(&event.payload).map_err(|_| unreadable("stripe", "the event is not text"))?;
    let signature = stripe_webhook::Webhook::generate_test_header(text, KEY, Some(0));
    stripe_webhook::Webhook::construct_event_with_timestamp(text, &signature, KEY, 0).map_err(|_| {
        Error::new(ErrorKind::Decode, "the event's version does not fit the generated types")
            .during("stripe", "webhook")
    })
}

impl TypedEvent {
    /// Reads an event by its type.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when a field that every version has is missing or of another type.
    #[rustfmt::skip]
    pub fn parse(event: &Event) -> Result<Self> {
        let unknown = || Self::Unknown { kind: event.kind.clone(), raw: event.payload.clone() };
        let envelope = Envelope::read(&event.payload)?;
        if envelope.is_thin() {
            return ThinEvent::parse(event).map(Self::Thin);
        }
        let data = envelope.data().ok_or_else(|| unreadable("stripe", "the event carries no object"))?;
        let fields = |name: &'static str| Fields::read(data.object, name);
        Ok(match event.kind.as_str() {
            "checkout.session.completed" => Self::CheckoutSessionCompleted(fields("checkout.session")?.session()?),
            "checkout.session.async_payment_succeeded" => Self::CheckoutSessionAsyncPaymentSucceeded(fields("checkout.session")?.session()?),
            "checkout.session.expired" => Self::CheckoutSessionExpired(fields("checkout.session")?.session()?),
            "customer.created" => Self::CustomerCreated(fields("customer")?.customer()?),
            "customer.updated" => Self::CustomerUpdated(fields("customer")?.customer()?),
            "customer.deleted" => Self::CustomerDeleted(fields("customer")?.customer()?),
            "customer.subscription.created" => Self::SubscriptionCreated(fields("subscription")?.subscription()?),
            "customer.subscription.updated" => Self::SubscriptionUpdated(fields("subscription")?.subscription()?),
            "customer.subscription.deleted" => Self::SubscriptionEnded(fields("subscription")?.subscription()?),
            "customer.subscription.trial_will_end" => Self::SubscriptionTrialWillEnd(fields("subscription")?.subscription()?),
            "invoice.created" => Self::InvoiceCreated(fields("invoice")?.invoice()?),
            "invoice.finalized" => Self::InvoiceFinalized(fields("invoice")?.invoice()?),
            "invoice.paid" => Self::InvoicePaid(fields("invoice")?.invoice()?),
            "invoice.payment_failed" => Self::InvoicePaymentFailed(fields("invoice")?.invoice()?),
            "invoice.payment_action_required" => Self::InvoicePaymentActionRequired(fields("invoice")?.invoice()?),
            "payment_intent.succeeded" => Self::PaymentSucceeded(fields("payment_intent")?.payment_intent()?),
            "payment_intent.payment_failed" => Self::PaymentFailed(fields("payment_intent")?.payment_intent()?),
            "charge.refunded" => Self::ChargeRefunded(fields("charge")?.charge()?),
            "charge.dispute.created" => Self::DisputeCreated(fields("dispute")?.dispute()?),
            "payout.paid" => Self::PayoutPaid(fields("payout")?.payout()?),
            _ => unknown(),
        })
    }
}

/// The object of an event, read field by field.
struct Fields(Value);

impl Fields {
    fn read(object: &RawValue, name: &str) -> Result<Self> {
        if json::glance(object).object.as_deref() != Some(name) {
            return Err(missing());
        }
        serde_json::from_str(object.get()).map(Self).map_err(|_| missing())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.get(name)?.as_str().map(str::to_owned)
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.0.get(name)?.as_i64()
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Reads an id from a field that holds it, the expanded object or null.
    fn id<O: Object>(&self, path: &str) -> Option<Id<O>> {
        reference(self.0.pointer(path)?)
    }

    fn own_id<O: Object>(&self) -> Result<Id<O>> {
        self.id("/id").ok_or_else(missing)
    }

    fn session(&self) -> Result<CheckoutSession> {
        Ok(CheckoutSession {
            session: self.own_id()?,
            mode: self.text("mode").ok_or_else(missing)?,
            payment_status: self.text("payment_status"),
            customer: self.id("/customer"),
            subscription: self.id("/subscription"),
            payment_intent: self.id("/payment_intent"),
            setup_intent: self.id("/setup_intent"),
            client_reference: self.text("client_reference_id"),
            amount_total: self.number("amount_total"),
            currency: self.text("currency"),
        })
    }

    fn customer(&self) -> Result<Customer> {
        Ok(Customer { customer: self.own_id()?, email: self.text("email"), name: self.text("name") })
    }

    fn subscription(&self) -> Result<Subscription> {
        let items = self.0.pointer("/items/data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let ends = items.iter().filter_map(|item| item.get("current_period_end")?.as_i64());
        Ok(Subscription {
            subscription: self.own_id()?,
            customer: self.id("/customer").ok_or_else(missing)?,
            status: self.text("status").ok_or_else(missing)?,
            cancel_at_period_end: self.flag("cancel_at_period_end"),
            cancel_at: self.number("cancel_at"),
            current_period_end: self.number("current_period_end").or(ends.max()),
            trial_end: self.number("trial_end"),
            prices: items.iter().filter_map(|item| reference(item.get("price")?)).collect(),
            latest_invoice: self.id("/latest_invoice"),
        })
    }

    fn invoice(&self) -> Result<Invoice> {
        Ok(Invoice {
            invoice: self.own_id()?,
            customer: self.id("/customer"),
            subscription: self.id("/parent/subscription_details/subscription").or_else(|| self.id("/subscription")),
            status: self.text("status"),
            billing_reason: self.text("billing_reason"),
            amount_due: self.number("amount_due").ok_or_else(missing)?,
            amount_paid: self.number("amount_paid").ok_or_else(missing)?,
            currency: self.text("currency").ok_or_else(missing)?,
            attempt_count: self.number("attempt_count").unwrap_or(0),
            next_payment_attempt: self.number("next_payment_attempt"),
            hosted_invoice_url: self.text("hosted_invoice_url"),
        })
    }

    fn payment_intent(&self) -> Result<PaymentIntent> {
        let failure = self.0.get("last_payment_error").filter(|error| error.is_object()).map(|error| {
            let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
            Failure { code: text("code"), decline_code: text("decline_code"), advice_code: text("advice_code") }
        });
        Ok(PaymentIntent {
            payment_intent: self.own_id()?,
            customer: self.id("/customer"),
            status: self.text("status").ok_or_else(missing)?,
            amount: self.number("amount").ok_or_else(missing)?,
            amount_received: self.number("amount_received").unwrap_or(0),
            currency: self.text("currency").ok_or_else(missing)?,
            failure,
        })
    }

    fn charge(&self) -> Result<Charge> {
        Ok(Charge {
            charge: self.own_id()?,
            customer: self.id("/customer"),
            payment_intent: self.id("/payment_intent"),
            amount: self.number("amount").ok_or_else(missing)?,
            amount_refunded: self.number("amount_refunded").ok_or_else(missing)?,
            refunded: self.flag("refunded"),
            currency: self.text("currency").ok_or_else(missing)?,
        })
    }

    fn dispute(&self) -> Result<Dispute> {
        Ok(Dispute {
            dispute: self.own_id()?,
            charge: self.id("/charge"),
            payment_intent: self.id("/payment_intent"),
            amount: self.number("amount").ok_or_else(missing)?,
            currency: self.text("currency").ok_or_else(missing)?,
            reason: self.text("reason"),
            status: self.text("status").ok_or_else(missing)?,
            evidence_due_by: self.0.pointer("/evidence_details/due_by").and_then(Value::as_i64),
        })
    }

    fn payout(&self) -> Result<Payout> {
        Ok(Payout {
            payout: self.own_id()?,
            amount: self.number("amount").ok_or_else(missing)?,
            currency: self.text("currency").ok_or_else(missing)?,
            arrival_date: self.number("arrival_date"),
            status: self.text("status").ok_or_else(missing)?,
        })
    }
}

fn reference<O: Object>(value: &Value) -> Option<Id<O>> {
    let text = value.as_str().or_else(|| value.get("id")?.as_str())?;
    Id::parse(text).ok()
}

fn missing() -> Error {
    unreadable("stripe", "a field that every version of this event has is missing or of another type")
}

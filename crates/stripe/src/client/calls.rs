//! The calls most people want, as methods. What a write returns is read field by field from the answer's JSON, so
//! that a change of shape in another API version cannot hide that the write happened.

use std::collections::HashMap;

use palisade_core::{Error, ErrorKind, Result, Secret};
use serde::Deserialize;
use stripe_billing::subscription as billing;
use stripe_checkout::checkout_session as checkout;
use stripe_client_core::{RequestBuilder, StripeRequest};
use stripe_core::{customer, refund};
use stripe_shared::{CheckoutSessionMode, Customer};

use super::Stripe;

/// The version that moved the first payment's secret from `latest_invoice.payment_intent` to
/// `latest_invoice.confirmation_secret` (Stripe changelog, 2025-03-31.basil).
const BASIL: &str = "2025-03-31";

/// A customer to create.
#[derive(Clone, Debug, Default)]
pub struct NewCustomer {
    email: Option<String>,
    name: Option<String>,
    metadata: HashMap<String, String>,
}

impl NewCustomer {
    /// Begins a customer without any field.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the e-mail address; at most 512 characters.
    #[must_use]
    pub fn email(mut self, email: impl Into<String>) -> Self {
        self.email = Some(email.into());
        self
    }

    /// Sets the name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Adds a metadata pair; at most 50 pairs, keys of 40 and values of 500 characters.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    fn request(self) -> customer::CreateCustomer {
        let mut request = customer::CreateCustomer::new();
        if let Some(email) = self.email {
            request = request.email(email);
        }
        if let Some(name) = self.name {
            request = request.name(name);
        }
        if !self.metadata.is_empty() {
            request = request.metadata(self.metadata);
        }
        request
    }
}

/// A subscription to start.
#[derive(Clone, Debug)]
pub struct NewSubscription {
    customer: String,
    items: Vec<(String, u64)>,
    trial_days: Option<u32>,
    metadata: HashMap<String, String>,
}

impl NewSubscription {
    /// Begins a subscription of a customer.
    #[must_use]
    pub fn new(customer: impl Into<String>) -> Self {
        Self { customer: customer.into(), items: Vec::new(), trial_days: None, metadata: HashMap::new() }
    }

    /// Adds a price, once.
    #[must_use]
    pub fn price(mut self, price: impl Into<String>) -> Self {
        self.items.push((price.into(), 1));
        self
    }

    /// Adds a price with a quantity.
    #[must_use]
    pub fn price_times(mut self, price: impl Into<String>, quantity: u64) -> Self {
        self.items.push((price.into(), quantity));
        self
    }

    /// Begins with days free of charge.
    #[must_use]
    pub fn trial_days(mut self, days: u32) -> Self {
        self.trial_days = Some(days);
        self
    }

    /// Adds a metadata pair.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Writes the form in the way of an API version. As with [`NewCheckout`], outside of any future.
    fn request(self, api_version: &str) -> RequestBuilder {
        let items: Vec<_> = self
            .items
            .into_iter()
            .map(|(price, quantity)| {
                let mut item = billing::CreateSubscriptionItems::new();
                item.price = Some(price);
                item.quantity = (quantity != 1).then_some(quantity);
                item
            })
            .collect();
        let mut settings = billing::CreateSubscriptionPaymentSettings::new();
        settings.save_default_payment_method =
            Some(billing::CreateSubscriptionPaymentSettingsSaveDefaultPaymentMethod::OnSubscription);
        // Asking an old version for the new field, or a new one for the old, is refused by Stripe.
        let secret = if api_version < BASIL { "payment_intent" } else { "confirmation_secret" };
        let mut request = billing::CreateSubscription::new()
            .customer(self.customer)
            .items(items)
            .payment_behavior(billing::CreateSubscriptionPaymentBehavior::DefaultIncomplete)
            .payment_settings(settings)
            .expand(vec![format!("latest_invoice.{secret}"), "pending_setup_intent".to_owned()]);
        if let Some(days) = self.trial_days {
            request = request.trial_period_days(days);
        }
        if !self.metadata.is_empty() {
            request = request.metadata(self.metadata);
        }
        request.build()
    }
}

/// A subscription that was started and waits for its first payment to be confirmed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StartedSubscription {
    /// The subscription's id.
    pub subscription_id: String,
    /// Its status: `incomplete` until the first payment is confirmed (at most 23 hours), `trialing` or `active`
    /// where there is nothing to pay yet.
    pub status: String,
    /// What the browser confirms with Stripe.js; `None` when nothing is to be confirmed.
    pub confirmation: Option<Confirmation>,
}

/// What the browser confirms with Stripe.js.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: Stripe.js has one call for each")]
pub enum Confirmation {
    /// The first payment: `stripe.confirmPayment({ clientSecret })`.
    Payment {
        /// The secret for the browser of this customer only.
        client_secret: Secret,
    },
    /// A card for later, where nothing is due now: `stripe.confirmSetup({ clientSecret })`.
    Setup {
        /// The secret for the browser of this customer only.
        client_secret: Secret,
    },
}

/// What became of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriptionState {
    /// The subscription's id.
    pub id: String,
    /// Its status.
    pub status: String,
    /// Whether it ends with the current period.
    pub cancel_at_period_end: bool,
    /// When it ends, in seconds since 1970, if that is set.
    pub cancel_at: Option<i64>,
    /// When the current period ends, in seconds since 1970: of the subscription before 2025-03-31, of the last of its
    /// items to end since.
    pub current_period_end: Option<i64>,
}

/// A refund to make: all of a payment, or a part.
#[derive(Clone, Debug)]
pub struct NewRefund {
    request: refund::CreateRefund,
}

/// Why money is given back, as Stripe records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set at Stripe")]
pub enum RefundReason {
    /// The payment was made twice.
    Duplicate,
    /// The payment was fraudulent; Stripe adds card and e-mail address to the account's block lists.
    Fraudulent,
    /// The customer asked for it.
    RequestedByCustomer,
}

impl NewRefund {
    /// Refunds a payment intent.
    #[must_use]
    pub fn of_payment(payment_intent: impl Into<String>) -> Self {
        Self { request: refund::CreateRefund::new().payment_intent(payment_intent) }
    }

    /// Refunds a charge.
    #[must_use]
    pub fn of_charge(charge: impl Into<String>) -> Self {
        Self { request: refund::CreateRefund::new().charge(charge) }
    }

    /// Refunds a part only, in the currency's smallest unit.
    #[must_use]
    pub fn amount(mut self, amount: i64) -> Self {
        self.request = self.request.amount(amount);
        self
    }

    /// Gives the reason.
    #[must_use]
    pub fn reason(mut self, reason: RefundReason) -> Self {
        self.request = self.request.reason(match reason {
            RefundReason::Duplicate => refund::CreateRefundReason::Duplicate,
            RefundReason::Fraudulent => refund::CreateRefundReason::Fraudulent,
            RefundReason::RequestedByCustomer => refund::CreateRefundReason::RequestedByCustomer,
        });
        self
    }
}

/// A refund that was made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Refund {
    /// The refund's id.
    pub id: String,
    /// `pending`, `requires_action`, `succeeded`, `failed` or `canceled`; absent on some payment methods.
    pub status: Option<String>,
    /// The amount given back, in the currency's smallest unit.
    pub amount: i64,
    /// The currency, in lower case.
    pub currency: String,
}

/// A page at Stripe where a customer pays, subscribes or leaves a card.
#[derive(Clone, Debug)]
pub struct NewCheckout {
    mode: CheckoutSessionMode,
    success_url: String,
    cancel_url: Option<String>,
    currency: Option<stripe_types::Currency>,
    items: Vec<(String, u64)>,
    customer: Option<String>,
    customer_email: Option<String>,
    client_reference: Option<String>,
    metadata: HashMap<String, String>,
}

impl NewCheckout {
    fn new(mode: CheckoutSessionMode, success_url: impl Into<String>) -> Self {
        Self {
            mode,
            success_url: success_url.into(),
            cancel_url: None,
            currency: None,
            items: Vec::new(),
            customer: None,
            customer_email: None,
            client_reference: None,
            metadata: HashMap::new(),
        }
    }

    /// Begins a page where a customer pays once. `success_url` may hold `{CHECKOUT_SESSION_ID}`.
    #[must_use]
    pub fn payment(success_url: impl Into<String>) -> Self {
        Self::new(CheckoutSessionMode::Payment, success_url)
    }

    /// Begins a page where a customer subscribes.
    #[must_use]
    pub fn subscription(success_url: impl Into<String>) -> Self {
        Self::new(CheckoutSessionMode::Subscription, success_url)
    }

    /// Begins a page where a customer leaves a card for later, for payments in a currency (`usd`).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the currency is not three lower-case letters.
    pub fn setup(success_url: impl Into<String>, currency: &str) -> Result<Self> {
        let invalid = || {
            Error::new(ErrorKind::Invalid, "a currency is three lower-case letters")
                .during("stripe", "checkout.sessions.create")
        };
        if currency.len() != 3 || !currency.bytes().all(|c| c.is_ascii_lowercase()) {
            return Err(invalid());
        }
        let mut checkout = Self::new(CheckoutSessionMode::Setup, success_url);
        checkout.currency = Some(currency.parse().map_err(|_| invalid())?);
        Ok(checkout)
    }

    /// Adds a price with a quantity.
    #[must_use]
    pub fn price_times(mut self, price: impl Into<String>, quantity: u64) -> Self {
        self.items.push((price.into(), quantity));
        self
    }

    /// Adds a price, once.
    #[must_use]
    pub fn price(self, price: impl Into<String>) -> Self {
        self.price_times(price, 1)
    }

    /// Sets the customer.
    #[must_use]
    pub fn customer(mut self, customer: impl Into<String>) -> Self {
        self.customer = Some(customer.into());
        self
    }

    /// Fills in the e-mail address of a customer yet unknown.
    #[must_use]
    pub fn customer_email(mut self, email: impl Into<String>) -> Self {
        self.customer_email = Some(email.into());
        self
    }

    /// Sets where the customer lands who turns back.
    #[must_use]
    pub fn cancel_url(mut self, url: impl Into<String>) -> Self {
        self.cancel_url = Some(url.into());
        self
    }

    /// Sets the product's own reference (an order, a user), given back with the session's events.
    #[must_use]
    pub fn client_reference(mut self, reference: impl Into<String>) -> Self {
        self.client_reference = Some(reference.into());
        self
    }

    /// Adds a metadata pair.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Writes the form. The generated request is 18 KiB, so it must not live on in a future.
    fn request(self) -> RequestBuilder {
        let mut request = checkout::CreateCheckoutSession::new().mode(self.mode).success_url(self.success_url);
        if let Some(url) = self.cancel_url {
            request = request.cancel_url(url);
        }
        if let Some(currency) = self.currency {
            request = request.currency(currency);
        }
        if let Some(customer) = self.customer {
            request = request.customer(customer);
        }
        if let Some(email) = self.customer_email {
            request = request.customer_email(email);
        }
        if let Some(reference) = self.client_reference {
            request = request.client_reference_id(reference);
        }
        if !self.items.is_empty() {
            let items = self.items.into_iter().map(|(price, quantity)| {
                let mut item = checkout::CreateCheckoutSessionLineItems::new();
                item.price = Some(price);
                item.quantity = Some(quantity);
                item
            });
            request = request.line_items(items.collect::<Vec<_>>());
        }
        if !self.metadata.is_empty() {
            request = request.metadata(self.metadata);
        }
        request.build()
    }
}

/// A checkout page that was made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct CheckoutSession {
    /// The session's id.
    pub id: String,
    /// Where to send the customer, while it is open.
    pub url: Option<String>,
    /// `open`, `complete` or `expired`.
    pub status: Option<String>,
}

/// A field that holds an object when it was expanded, else its id.
#[derive(Deserialize)]
#[serde(untagged)]
enum Expanded<T> {
    Object(T),
    #[expect(dead_code, reason = "read so that an id is not an error")]
    Id(String),
}

impl<T> Expanded<T> {
    fn object(self) -> Option<T> {
        match self {
            Self::Object(object) => Some(object),
            Self::Id(_) => None,
        }
    }
}

#[derive(Deserialize)]
struct RawStarted {
    id: String,
    status: String,
    latest_invoice: Option<Expanded<RawInvoice>>,
    pending_setup_intent: Option<Expanded<RawSecret>>,
}

#[derive(Deserialize)]
struct RawInvoice {
    /// Since 2025-03-31.
    confirmation_secret: Option<RawSecret>,
    /// Before.
    payment_intent: Option<Expanded<RawSecret>>,
}

#[derive(Deserialize)]
struct RawSecret {
    client_secret: Option<String>,
    status: Option<String>,
}

impl RawSecret {
    /// Returns the secret, unless its intent is over.
    fn open(self) -> Option<Secret> {
        let over = matches!(self.status.as_deref(), Some("succeeded" | "canceled"));
        self.client_secret.filter(|secret| !over && !secret.is_empty()).map(Secret::from)
    }
}

impl From<RawStarted> for StartedSubscription {
    fn from(raw: RawStarted) -> Self {
        let payment = raw.latest_invoice.and_then(Expanded::object).and_then(|invoice| {
            let classic = invoice.payment_intent.and_then(Expanded::object);
            invoice.confirmation_secret.and_then(RawSecret::open).or_else(|| classic.and_then(RawSecret::open))
        });
        let setup = raw.pending_setup_intent.and_then(Expanded::object).and_then(RawSecret::open);
        let confirmation = match (payment, setup) {
            (Some(client_secret), _) => Some(Confirmation::Payment { client_secret }),
            (None, Some(client_secret)) => Some(Confirmation::Setup { client_secret }),
            (None, None) => None,
        };
        Self { subscription_id: raw.id, status: raw.status, confirmation }
    }
}

#[derive(Deserialize)]
struct RawState {
    id: String,
    status: String,
    #[serde(default)]
    cancel_at_period_end: bool,
    cancel_at: Option<i64>,
    current_period_end: Option<i64>,
    items: Option<RawItems>,
}

#[derive(Deserialize)]
struct RawItems {
    #[serde(default)]
    data: Vec<RawItem>,
}

#[derive(Deserialize)]
struct RawItem {
    current_period_end: Option<i64>,
}

impl From<RawState> for SubscriptionState {
    fn from(raw: RawState) -> Self {
        let of_items = raw.items.into_iter().flat_map(|items| items.data).filter_map(|item| item.current_period_end);
        Self {
            id: raw.id,
            status: raw.status,
            cancel_at_period_end: raw.cancel_at_period_end,
            cancel_at: raw.cancel_at,
            current_period_end: raw.current_period_end.or(of_items.max()),
        }
    }
}

impl Stripe {
    /// Creates a customer.
    ///
    /// # Errors
    /// As [`Stripe::send`].
    pub async fn create_customer(&self, new: NewCustomer, idempotency_key: Option<&str>) -> Result<Customer> {
        self.send(&new.request(), idempotency_key).await
    }

    /// Starts a subscription whose first payment the customer confirms in the browser: `default_incomplete`, and the
    /// card is kept for the following ones. Works in API versions before and since 2025-03-31.basil.
    ///
    /// # Errors
    /// The pipeline's; [`ErrorKind::Decode`] when the answer is no subscription.
    pub async fn start_subscription(
        &self,
        new: NewSubscription,
        idempotency_key: Option<&str>,
    ) -> Result<StartedSubscription> {
        let request = new.request(self.api_version());
        let started: RawStarted = self.ask(request, idempotency_key).await?;
        Ok(started.into())
    }

    /// Lets a subscription end with its current period.
    ///
    /// # Errors
    /// As [`Stripe::start_subscription`].
    pub async fn cancel_at_period_end(
        &self,
        subscription: &str,
        idempotency_key: Option<&str>,
    ) -> Result<SubscriptionState> {
        self.set_cancel_at_period_end(subscription, true, idempotency_key).await
    }

    /// Takes [`Stripe::cancel_at_period_end`] back, while the period lasts.
    ///
    /// # Errors
    /// As [`Stripe::start_subscription`].
    pub async fn undo_cancel(&self, subscription: &str, idempotency_key: Option<&str>) -> Result<SubscriptionState> {
        self.set_cancel_at_period_end(subscription, false, idempotency_key).await
    }

    async fn set_cancel_at_period_end(
        &self,
        subscription: &str,
        cancel: bool,
        idempotency_key: Option<&str>,
    ) -> Result<SubscriptionState> {
        let request = billing::UpdateSubscription::new(subscription).cancel_at_period_end(cancel).build();
        let state: RawState = self.ask(request, idempotency_key).await?;
        Ok(state.into())
    }

    /// Ends a subscription at once. Needs no idempotency key: ending it twice is ending it once.
    ///
    /// # Errors
    /// As [`Stripe::start_subscription`]; [`ErrorKind::NotFound`] when it has ended already.
    pub async fn cancel_now(&self, subscription: &str) -> Result<SubscriptionState> {
        let state: RawState = self.ask(billing::CancelSubscription::new(subscription).build(), None).await?;
        Ok(state.into())
    }

    /// Gives a payment back, all of it or a part.
    ///
    /// # Errors
    /// As [`Stripe::start_subscription`].
    pub async fn refund(&self, new: NewRefund, idempotency_key: Option<&str>) -> Result<Refund> {
        self.ask(new.request.build(), idempotency_key).await
    }

    /// Makes a page at Stripe where a customer pays, subscribes or leaves a card.
    ///
    /// # Errors
    /// As [`Stripe::start_subscription`].
    pub async fn checkout_session(&self, new: NewCheckout, idempotency_key: Option<&str>) -> Result<CheckoutSession> {
        self.ask(new.request(), idempotency_key).await
    }
}

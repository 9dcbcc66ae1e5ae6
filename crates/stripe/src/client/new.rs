//! What the client's methods are asked to make, written with async-stripe's requests.

use std::collections::HashMap;

use palisade_core::{Error, ErrorKind, Result};
use stripe_billing::subscription as billing;
use stripe_checkout::checkout_session as checkout;
use stripe_client_core::{RequestBuilder, StripeRequest};
use stripe_core::{customer, refund};
use stripe_shared::CheckoutSessionMode;

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

    pub(super) fn request(self) -> customer::CreateCustomer {
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
    pub(super) fn request(self, api_version: &str) -> RequestBuilder {
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

    pub(super) fn request(&self) -> RequestBuilder {
        self.request.build()
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
    pub(super) fn request(self) -> RequestBuilder {
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

//! The calls most people want, as methods. What a write returns is read field by field from the answer's JSON, so
//! that a change of shape in another API version cannot hide that the write happened.

use palisade_core::{Result, Secret};
use serde::Deserialize;
use stripe_billing::subscription as billing;
use stripe_client_core::StripeRequest;
use stripe_shared::Customer;

use super::Stripe;
use super::new::{NewCheckout, NewCustomer, NewRefund, NewSubscription};

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
    /// The pipeline's; [`palisade_core::ErrorKind::Decode`] when the answer is no subscription.
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
    /// As [`Stripe::start_subscription`]; [`palisade_core::ErrorKind::NotFound`] when it has ended already.
    pub async fn cancel_now(&self, subscription: &str) -> Result<SubscriptionState> {
        let state: RawState = self.ask(billing::CancelSubscription::new(subscription).build(), None).await?;
        Ok(state.into())
    }

    /// Gives a payment back, all of it or a part.
    ///
    /// # Errors
    /// As [`Stripe::start_subscription`].
    pub async fn refund(&self, new: NewRefund, idempotency_key: Option<&str>) -> Result<Refund> {
        self.ask(new.request(), idempotency_key).await
    }

    /// Makes a page at Stripe where a customer pays, subscribes or leaves a card.
    ///
    /// # Errors
    /// As [`Stripe::start_subscription`].
    pub async fn checkout_session(&self, new: NewCheckout, idempotency_key: Option<&str>) -> Result<CheckoutSession> {
        self.ask(new.request(), idempotency_key).await
    }
}

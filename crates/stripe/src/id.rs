//! Stripe's identifiers as types, so that a customer cannot stand where an invoice should.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::sync::Arc;

/// A type of Stripe object that has an id.
pub trait Object {
    /// What Stripe calls it in `object` fields.
    const NAME: &'static str;
    /// The prefixes its ids have, where they always have one. Customers, products and prices may have ids chosen by
    /// their maker, so none is demanded there.
    const PREFIXES: &'static [&'static str];
}

/// The id of an object.
pub struct Id<O>(Arc<str>, PhantomData<fn() -> O>);

/// Says that a text is no id of the type asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnId {
    object: &'static str,
}

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the text is not the id of a {}", self.object)
    }
}

impl std::error::Error for NotAnId {}

/// Stripe's ids have at most this many characters (Stripe documentation, object ids).
const BYTES_MAX: usize = 255;

impl<O: Object> Id<O> {
    /// Takes a text as this id. Lenient: only length, plain characters and, where they are certain, the prefix count.
    ///
    /// # Errors
    /// [`NotAnId`] when it cannot be one.
    pub fn parse(text: &str) -> Result<Self, NotAnId> {
        let plain = !text.is_empty() && text.len() <= BYTES_MAX && !text.chars().any(char::is_control);
        let prefixed = O::PREFIXES.is_empty() || O::PREFIXES.iter().any(|prefix| text.starts_with(prefix));
        if plain && prefixed { Ok(Self(text.into(), PhantomData)) } else { Err(NotAnId { object: O::NAME }) }
    }
}

impl<O> Id<O> {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<O> Clone for Id<O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}

impl<O> PartialEq for Id<O> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<O> Eq for Id<O> {}

impl<O> Hash for Id<O> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<O> fmt::Debug for Id<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl<O> fmt::Display for Id<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<O> AsRef<str> for Id<O> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<O> From<Id<O>> for String {
    fn from(id: Id<O>) -> Self {
        id.0.as_ref().to_owned()
    }
}

/// The objects' types; values of them do not exist.
pub mod object {
    use super::Object;

    /// A customer.
    #[derive(Debug)]
    #[expect(clippy::exhaustive_enums, reason = "a type without values")]
    pub enum Customer {}
    /// A subscription.
    #[derive(Debug)]
    #[expect(clippy::exhaustive_enums, reason = "a type without values")]
    pub enum Subscription {}
    /// An invoice.
    #[derive(Debug)]
    #[expect(clippy::exhaustive_enums, reason = "a type without values")]
    pub enum Invoice {}
    /// A price.
    #[derive(Debug)]
    #[expect(clippy::exhaustive_enums, reason = "a type without values")]
    pub enum Price {}
    /// A payment intent.
    #[derive(Debug)]
    #[expect(clippy::exhaustive_enums, reason = "a type without values")]
    pub enum PaymentIntent {}
    /// A setup intent.
    #[derive(Debug)]
    #[expect(clippy::exhaustive_enums, reason = "a type without values")]
    pub enum SetupIntent {}
    /// A charge.
    #[derive(Debug)]
    #[expect(clippy::exhaustive_enums, reason = "a type without values")]
    pub enum Charge {}
    /// A dispute.
    #[derive(Debug)]
    #[expect(clippy::exhaustive_enums, reason = "a type without values")]
    pub enum Dispute {}
    /// A payout.
    #[derive(Debug)]
    #[expect(clippy::exhaustive_enums, reason = "a type without values")]
    pub enum Payout {}
    /// A checkout session.
    #[derive(Debug)]
    #[expect(clippy::exhaustive_enums, reason = "a type without values")]
    pub enum CheckoutSession {}

    impl Object for Customer {
        const NAME: &'static str = "customer";
        const PREFIXES: &'static [&'static str] = &[];
    }
    impl Object for Subscription {
        const NAME: &'static str = "subscription";
        const PREFIXES: &'static [&'static str] = &["sub_"];
    }
    impl Object for Invoice {
        const NAME: &'static str = "invoice";
        const PREFIXES: &'static [&'static str] = &["in_"];
    }
    impl Object for Price {
        const NAME: &'static str = "price";
        const PREFIXES: &'static [&'static str] = &[];
    }
    impl Object for PaymentIntent {
        const NAME: &'static str = "payment_intent";
        const PREFIXES: &'static [&'static str] = &["pi_"];
    }
    impl Object for SetupIntent {
        const NAME: &'static str = "setup_intent";
        const PREFIXES: &'static [&'static str] = &["seti_"];
    }
    impl Object for Charge {
        const NAME: &'static str = "charge";
        const PREFIXES: &'static [&'static str] = &["ch_", "py_"];
    }
    impl Object for Dispute {
        const NAME: &'static str = "dispute";
        const PREFIXES: &'static [&'static str] = &["dp_", "du_", "pdp_"];
    }
    impl Object for Payout {
        const NAME: &'static str = "payout";
        const PREFIXES: &'static [&'static str] = &["po_", "tr_"];
    }
    impl Object for CheckoutSession {
        const NAME: &'static str = "checkout.session";
        const PREFIXES: &'static [&'static str] = &["cs_"];
    }
}

/// The id of a customer.
pub type CustomerId = Id<object::Customer>;
/// The id of a subscription.
pub type SubscriptionId = Id<object::Subscription>;
/// The id of an invoice.
pub type InvoiceId = Id<object::Invoice>;
/// The id of a price.
pub type PriceId = Id<object::Price>;
/// The id of a payment intent.
pub type PaymentIntentId = Id<object::PaymentIntent>;
/// The id of a setup intent.
pub type SetupIntentId = Id<object::SetupIntent>;
/// The id of a charge.
pub type ChargeId = Id<object::Charge>;
/// The id of a dispute.
pub type DisputeId = Id<object::Dispute>;
/// The id of a payout.
pub type PayoutId = Id<object::Payout>;
/// The id of a checkout session.
pub type CheckoutSessionId = Id<object::CheckoutSession>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_another_type_are_refused_where_prefixes_are_certain() {
        assert!(InvoiceId::parse("in_1").is_ok());
        assert!(InvoiceId::parse("sub_1").is_err());
        assert!(ChargeId::parse("py_1").is_ok());
        assert!(CustomerId::parse("our-own-17").is_ok());
        assert!(CustomerId::parse("").is_err());
        assert!(CustomerId::parse("a\nb").is_err());
        assert!(CustomerId::parse(&"x".repeat(256)).is_err());
    }
}

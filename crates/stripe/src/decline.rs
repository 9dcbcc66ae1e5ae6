//! Declined payments: what a customer may be told and whether another try makes sense. One table.
//!
//! Codes are those of Stripe's decline page (docs.stripe.com/declines/codes, 2026); the texts are ours. Lost, stolen
//! and suspected cards get the general text, so that a thief learns nothing.

/// Says when another try of a declined payment makes sense. Each try needs a new idempotency key: under the old one
/// Stripe answers with the stored decline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: callers decide on each")]
pub enum Retry {
    /// Never with this card.
    No,
    /// Later, in hours or days: the balance or limit may have changed.
    Later,
    /// After the customer has corrected what was typed.
    AfterFix,
    /// With another or a renewed card.
    NewCard,
    /// With the customer present, so that the bank can ask for confirmation.
    OnSession,
    /// At once, with growing pauses: the fault is a passing one.
    Backoff,
}

/// What to do about a declined payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decline {
    /// The text a customer may see.
    pub message: &'static str,
    /// When another try makes sense.
    pub retry: Retry,
}

const GENERAL: &str =
    "Your bank declined the payment without giving a reason. Please contact your bank or use another card.";
const FUNDS: &str = "The card's balance or limit does not cover this payment. Please use another card or try later.";
const EXPIRED: &str = "This card has expired. Please update it or use another card.";
const TYPED: &str = "One of the card's details seems to be mistyped. Please check them and enter them again.";
const CONFIRM: &str = "Your bank wants you to confirm this payment. Please try again and follow your bank's steps.";
const PASSING: &str = "The payment could not be processed just now. Please try again in a moment.";
const UNSUITED: &str = "This card cannot be used for this payment. Please use another card or ask your bank.";
const TWICE: &str = "The same payment was made a moment ago. Please check before paying again.";
const PIN: &str = "The card's PIN was not accepted. Please use another card.";
const TEST: &str = "This is a test card and cannot be used for a real payment.";

impl Decline {
    const fn new(message: &'static str, retry: Retry) -> Self {
        Self { message, retry }
    }

    /// Looks up a decline code, or an error code where there is none, with the network's advice code if one came.
    /// An unknown code gets the general text.
    #[must_use]
    pub fn of(code: &str, advice_code: Option<&str>) -> Self {
        let decline = Self::of_code(code);
        match advice_code {
            // The network forbids another try: that binds whatever the decline code would allow.
            Some("do_not_try_again") => Self { retry: Retry::No, ..decline },
            Some("confirm_card_data") if decline.is_general() && !is_suspected(code) => {
                Self::new(TYPED, Retry::AfterFix)
            }
            Some("try_again_later") if decline.retry == Retry::No && !is_suspected(code) => {
                Self { retry: Retry::Later, ..decline }
            }
            _ => decline,
        }
    }

    #[rustfmt::skip]
    fn of_code(code: &str) -> Self {
        match code {
            "insufficient_funds" | "card_velocity_exceeded" | "withdrawal_count_limit_exceeded" => Self::new(FUNDS, Retry::Later),
            "expired_card" => Self::new(EXPIRED, Retry::NewCard),
            "incorrect_cvc" | "invalid_cvc" | "incorrect_number" | "invalid_number" | "invalid_expiry_month"
            | "invalid_expiry_year" | "incorrect_zip" | "incorrect_address" | "invalid_account"
            | "new_account_information_available" => Self::new(TYPED, Retry::AfterFix),
            "authentication_required" | "authentication_not_handled" | "payment_intent_authentication_failure"
            | "invoice_payment_intent_requires_action" | "subscription_payment_intent_requires_action" => Self::new(CONFIRM, Retry::OnSession),
            "processing_error" | "issuer_not_available" | "reenter_transaction" | "try_again_later"
            | "approve_with_id" => Self::new(PASSING, Retry::Backoff),
            "card_not_supported" | "currency_not_supported" | "transaction_not_allowed" | "service_not_allowed"
            | "invalid_amount" => Self::new(UNSUITED, Retry::No),
            "duplicate_transaction" => Self::new(TWICE, Retry::No),
            "pin_try_exceeded" | "incorrect_pin" | "invalid_pin" | "offline_pin_required"
            | "online_or_offline_pin_required" => Self::new(PIN, Retry::NewCard),
            "testmode_decline" | "test_mode_live_card" | "live_mode_test_card" => Self::new(TEST, Retry::No),
            // do_not_honor, generic_decline, call_issuer, no_action_taken, not_permitted, restricted_card,
            // security_violation, revocation_of_authorization, stop_payment_order, do_not_try_again; lost_card,
            // stolen_card, pickup_card, fraudulent, merchant_blacklist; and every code yet unknown.
            _ => Self::new(GENERAL, Retry::No),
        }
    }

    /// Tells whether the customer gets the general text.
    #[must_use]
    pub fn is_general(&self) -> bool {
        self.message == GENERAL
    }
}

/// Codes behind which somebody suspects fraud: no advice code may give the customer another text for them.
fn is_suspected(code: &str) -> bool {
    matches!(code, "lost_card" | "stolen_card" | "pickup_card" | "fraudulent" | "merchant_blacklist")
}

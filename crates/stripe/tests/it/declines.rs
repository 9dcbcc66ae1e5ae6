//! Declined payments: the table, and what a customer may never learn.

use palisade_core::client::Verdict;
use palisade_stripe::decline::{Decline, Retry};
use palisade_stripe::error::{advice, detail};

use super::errors::classify;

fn declined(code: &str, decline_code: Option<&str>, advice_code: Option<&str>) -> palisade_core::Error {
    let optional =
        |name: &str, value: Option<&str>| value.map_or_else(String::new, |value| format!(r#","{name}":"{value}""#));
    let body = format!(
        r#"{{"error":{{"type":"card_error","code":"{code}","message":"Your card was declined."{}{}}}}}"#,
        optional("decline_code", decline_code),
        optional("advice_code", advice_code)
    );
    match classify(402, &[], body.as_bytes()) {
        Verdict::Failed { error, .. } => error,
        other @ (Verdict::Success | Verdict::Unauthorized(_) | Verdict::Throttled { .. }) => panic!("{other:?}"),
    }
}

/// The table of Stripe's decline page, code by code.
#[test]
fn each_decline_code_has_its_advice() {
    use Retry::{AfterFix, Backoff, Later, NewCard, No, OnSession};
    let table: &[(Retry, bool, &[&str])] = &[
        (Later, false, &["insufficient_funds", "card_velocity_exceeded", "withdrawal_count_limit_exceeded"]),
        (NewCard, false, &["expired_card", "pin_try_exceeded", "incorrect_pin", "invalid_pin", "offline_pin_required"]),
        (
            AfterFix,
            false,
            &[
                "incorrect_cvc",
                "invalid_cvc",
                "incorrect_number",
                "invalid_number",
                "invalid_expiry_month",
                "invalid_expiry_year",
                "incorrect_zip",
                "incorrect_address",
            ],
        ),
        (OnSession, false, &["authentication_required"]),
        (
            Backoff,
            false,
            &["processing_error", "issuer_not_available", "reenter_transaction", "try_again_later", "approve_with_id"],
        ),
        (
            No,
            false,
            &[
                "card_not_supported",
                "currency_not_supported",
                "transaction_not_allowed",
                "service_not_allowed",
                "duplicate_transaction",
                "testmode_decline",
            ],
        ),
        (
            No,
            true,
            &[
                "do_not_honor",
                "generic_decline",
                "call_issuer",
                "no_action_taken",
                "not_permitted",
                "restricted_card",
                "security_violation",
                "revocation_of_authorization",
                "revocation_of_all_authorizations",
                "stop_payment_order",
                "do_not_try_again",
            ],
        ),
        (No, true, &["lost_card", "stolen_card", "pickup_card", "fraudulent", "merchant_blacklist"]),
        (No, true, &["", "a_code_of_next_year"]),
    ];
    for (retry, general, codes) in table {
        for code in *codes {
            let decline = Decline::of(code, None);
            assert_eq!((decline.retry, decline.is_general()), (*retry, *general), "{code}");
            let error = declined("card_declined", Some(*code).filter(|code| !code.is_empty()), None);
            assert_eq!(advice(&error), Some(decline), "{code}");
            assert_eq!(error.user_message(), decline.message, "{code}");
            assert!(!error.is_retryable(), "the pipeline must not charge again by itself");
            assert_eq!(detail(&error).unwrap().decline_code.as_deref(), Some(*code).filter(|code| !code.is_empty()));
        }
    }
    assert_eq!(
        advice(&declined("expired_card", None, None)).unwrap().retry,
        NewCard,
        "codes without decline_code count"
    );
}

/// Fails when any advice code gives a suspected card another text than every other refused card.
#[test]
fn suspicion_is_never_told() {
    let general = Decline::of("generic_decline", None).message;
    for code in ["lost_card", "stolen_card", "pickup_card", "fraudulent", "merchant_blacklist"] {
        for advice in [None, Some("confirm_card_data"), Some("do_not_try_again"), Some("try_again_later"), Some("new")]
        {
            let error = declined("card_declined", Some(code), advice);
            assert_eq!(error.user_message(), general, "{code} {advice:?}");
            assert_eq!(palisade_stripe::error::advice(&error).unwrap().retry, Retry::No, "{code} {advice:?}");
            for word in ["lost", "stolen", "fraud", "suspect"] {
                assert!(!error.user_message().to_lowercase().contains(word), "{code}");
            }
        }
    }
}

#[test]
fn the_networks_advice_refines_the_code() {
    assert_eq!(Decline::of("insufficient_funds", Some("do_not_try_again")).retry, Retry::No);
    assert_eq!(Decline::of("generic_decline", Some("confirm_card_data")).retry, Retry::AfterFix);
    assert_eq!(Decline::of("generic_decline", Some("try_again_later")).retry, Retry::Later);
    assert_eq!(Decline::of("expired_card", Some("try_again_later")).retry, Retry::NewCard);
}

#[test]
fn other_errors_have_no_card_advice() {
    let Verdict::Failed { error, .. } = classify(500, &[], b"{}") else { panic!("a 500 fails") };
    assert_eq!(advice(&error), None);
}

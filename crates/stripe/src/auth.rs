//! What authenticates a Stripe account: a secret or restricted API key, sent as bearer.
//!
//! The kinds of key are told apart by their prefix (Stripe API reference, authentication; read 2026-11), so that the
//! wrong one is refused here, with a sentence that says which one is needed, instead of as a 401 later.

use palisade_core::auth::{Credential, Scheme};
use palisade_core::{Error, ErrorKind, Result, Secret};

/// Takes an API key as the credential of a connection.
///
/// ```
/// use palisade_stripe::auth::api_key;
///
/// assert!(api_key("sk_test_NotARealKey".into()).is_ok());
/// assert!(api_key("pk_test_NotARealKey".into()).is_err(), "a publishable key cannot call the API");
/// ```
///
/// # Errors
/// [`ErrorKind::Config`] for a publishable key, a signing secret, a text with blanks or line breaks, and anything
/// else that is no key of Stripe's. The message never holds the key.
pub fn api_key(key: Secret) -> Result<Scheme> {
    let text = key.expose();
    let wrong = |why: &'static str| Err(Error::new(ErrorKind::Config, why).during("stripe", "auth"));
    if text.is_empty() {
        return wrong("the API key is empty");
    }
    if text.bytes().any(|c| !c.is_ascii_graphic()) {
        return wrong("the API key holds a blank or line break: was something copied with it?");
    }
    match text.split_once('_').map_or("", |(prefix, _)| prefix) {
        "sk" | "rk" | "rkcs" => Ok(Scheme::Bearer(key)),
        "pk" => {
            wrong("this is a publishable key (pk_…): the hub needs the secret key (sk_…) or a restricted one (rk_…)")
        }
        "whsec" => {
            wrong("this is a webhook's signing secret (whsec_…): the connection needs an API key (sk_… or rk_…)")
        }
        _ => wrong("this is no Stripe API key: it begins with sk_ or rk_"),
    }
}

/// The class of keys that call live accounts.
pub const LIVE: &str = "live";
/// The class of keys that call sandboxes (test mode), whose limits are lower.
pub const SANDBOX: &str = "sandbox";

/// Tells by the prefix of its key whether a credential calls a sandbox or a live account.
#[must_use]
pub fn class(credential: &Credential) -> &'static str {
    let sandbox = ["sk_test_", "rk_test_", "rkcs_test_", "sk_org_test_"];
    if sandbox.iter().any(|prefix| credential.begins_with(prefix)) { SANDBOX } else { LIVE }
}

#[cfg(test)]
mod tests {
    //! Each wrong kind of key is refused, and none is told.
    use super::*;

    /// Fails when a sandbox's key is given a live account's limit.
    #[test]
    fn a_keys_prefix_tells_sandbox_from_live() {
        for (key, expected) in [
            ("sk_test_x", SANDBOX),
            ("rk_test_x", SANDBOX),
            ("rkcs_test_x", SANDBOX),
            ("sk_live_test_", LIVE),
            ("rk_live_x", LIVE),
            ("Bearer sk_test_", LIVE),
        ] {
            let credential = Credential::new(&Scheme::Bearer(key.into()), 1, None).unwrap();
            assert_eq!(class(&credential), expected, "{key}");
        }
        let basic = Scheme::Basic { user: "sk_test_x".to_owned(), password: "".into() };
        assert_eq!(class(&Credential::new(&basic, 1, None).unwrap()), LIVE);
    }

    #[test]
    fn only_secret_and_restricted_keys_are_taken_and_none_is_told() {
        for (text, taken) in [
            ("sk_test_NotARealKey0000000000000", true),
            ("sk_live_NotARealKey0000000000000", true),
            ("rk_live_NotARealKey0000000000000", true),
            ("rkcs_test_NotARealKey0000000000000", true),
            ("pk_live_NotARealKey0000000000000", false),
            ("whsec_NotARealKey0000000000000", false),
            ("sk_live_NotARealKey0000000000000\n", false),
            ("sk_live NotARealKey0000000000000", false),
            ("", false),
            ("NotARealKey0000000000000", false),
        ] {
            let said = match api_key(text.into()) {
                Ok(scheme) => {
                    assert!(taken, "{text:?}");
                    format!("{scheme:?}")
                }
                Err(error) => {
                    assert!(!taken, "{text:?}");
                    assert_eq!(error.kind(), ErrorKind::Config);
                    format!("{error} {error:?} {}", error.user_message())
                }
            };
            assert!(!said.contains("NotARealKey0000000000000"), "{said}");
        }
    }
}

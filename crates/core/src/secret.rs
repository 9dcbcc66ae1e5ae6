//! A secret that cannot be printed by accident and is wiped when it goes.

use std::fmt;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::webhook::hmac;

/// Holds a secret text: an API key, a signing secret, a token. `Debug` prints `Secret(…)`; there is no `Display`
/// and no serde support, so it cannot reach a log, an error or a page by derive.
#[derive(Clone)]
pub struct Secret {
    text: Zeroizing<Box<str>>,
    // Set up when first asked for: a delivery should not pay for the key again. Boxed, because few secrets sign.
    text_key: OnceLock<Box<hmac::Key>>,
    decoded_key: OnceLock<Option<Box<hmac::Key>>>,
}

impl Secret {
    /// Takes a text into keeping.
    #[must_use]
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self { text: Zeroizing::new(text.into()), text_key: OnceLock::new(), decoded_key: OnceLock::new() }
    }

    /// Gives the text to the one place that must send or compare it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Compares in constant time for equal lengths.
    #[must_use]
    pub fn matches(&self, other: &str) -> bool {
        self.text.as_bytes().ct_eq(other.as_bytes()).into()
    }

    /// Returns the HMAC key that is the text itself, as Stripe's and Slack's signing secrets are. Set up once.
    #[must_use]
    pub fn hmac_key(&self) -> &hmac::Key {
        self.text_key.get_or_init(|| Box::new(hmac::Key::new(self.text.as_bytes())))
    }

    /// Returns the HMAC key that the text holds in base64, after `whsec_` or alone, as Standard Webhooks has it. Set up
    /// once. `None` when it is no base64, or none at all.
    #[must_use]
    pub fn decoded_hmac_key(&self) -> Option<&hmac::Key> {
        let decode = || {
            let key = Zeroizing::new(STANDARD.decode(self.text.strip_prefix("whsec_").unwrap_or(&self.text)).ok()?);
            // Anyone could sign under an empty key.
            (!key.is_empty()).then(|| Box::new(hmac::Key::new(&key)))
        };
        self.decoded_key.get_or_init(decode).as_deref()
    }

    /// Tells whether the text is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_text_or_what_it_holds_in_base64() {
        let secret = Secret::new("whsec_a2V5");
        assert_eq!(secret.hmac_key().code(&[b"m"]), hmac::sha256(b"whsec_a2V5", &[b"m"]));
        for text in ["whsec_a2V5", "a2V5"] {
            let secret = Secret::new(text);
            let code = |secret: &Secret| secret.decoded_hmac_key().unwrap().code(&[b"m"]);
            assert_eq!(code(&secret), hmac::sha256(b"key", &[b"m"]), "{text}");
            // The second answer is the first one kept, and a clone has it too.
            assert_eq!(code(&secret), code(&secret.clone()), "{text}");
        }
    }

    /// Fails when an empty key is taken for one: everyone knows it.
    #[test]
    fn what_holds_no_key_signs_nothing() {
        for text in ["", "whsec_", "whsec_!", "whsec_a2V5=", "a b"] {
            assert!(Secret::new(text).decoded_hmac_key().is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_secret_prints_nothing_of_itself_or_its_keys() {
        let secret = Secret::new("whsec_a2V5");
        let _ = (secret.hmac_key(), secret.decoded_hmac_key());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}

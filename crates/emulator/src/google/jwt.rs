//! JSON Web Tokens with RS256 and nothing else: enough to be the signer and the judge of Google's.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A private key that signs.
#[derive(Debug)]
pub(crate) struct Signer {
    id: &'static str,
    pair: Option<KeyPair>,
}

impl Signer {
    /// Reads a PKCS#8 key; a text that is none signs nothing.
    pub(crate) fn new(id: &'static str, pem: &str) -> Self {
        Self { id, pair: der(pem).and_then(|der| KeyPair::from_pkcs8(&der).ok()) }
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "RS256", "kid": self.id, "typ": "JWT" });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let Some(pair) = &self.pair else { return signed };
        let mut signature = vec![0; pair.public_modulus_len()];
        // PKCS#1 v1.5 gives the same signature for the same text; the randomness only blinds the arithmetic.
        if pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).is_err() {
            return signed;
        }
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A token taken apart and not yet believed.
#[derive(Debug)]
pub(crate) struct Unverified {
    pub(crate) algorithm: String,
    pub(crate) key: Option<String>,
    pub(crate) claims: Value,
    signed: String,
    signature: Vec<u8>,
}

impl Unverified {
    /// Takes a token apart; `None` when it is not three parts of base64url with two JSON objects.
    pub(crate) fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (head, body, signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let object = |part: &str| -> Option<Value> {
            let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()?;
            value.is_object().then_some(value)
        };
        let (header, claims) = (object(head)?, object(body)?);
        let text = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            algorithm: text("alg").unwrap_or_default(),
            key: text("kid"),
            claims,
            signed: format!("{head}.{body}"),
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }

    /// Tells whether this public key made the signature, with RS256.
    pub(crate) fn is_signed_by(&self, public_pem: &str) -> bool {
        let Some(der) = der(public_pem).filter(|_| self.algorithm == "RS256") else { return false };
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der);
        key.verify(self.signed.as_bytes(), &self.signature).is_ok()
    }

    /// Gives a text claim.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// Gives a claim that counts seconds.
    pub(crate) fn seconds(&self, name: &str) -> Option<i64> {
        self.claims.get(name).and_then(Value::as_i64)
    }
}

/// Gives the bytes between the lines of a PEM text.
fn der(pem: &str) -> Option<Vec<u8>> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    STANDARD.decode(body).ok().filter(|der| !der.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: &str = include_str!("keys/service_account.pem");
    const PUBLIC: &str = include_str!("keys/service_account.pub.pem");

    #[test]
    fn a_signature_holds_for_its_text_and_key_alone() {
        let token = Signer::new("k1", PRIVATE).sign(&json!({ "iss": "a", "exp": 9 }));
        assert_eq!(token, Signer::new("k1", PRIVATE).sign(&json!({ "iss": "a", "exp": 9 })), "repeatable");
        let read = Unverified::read(&token).unwrap();
        assert!(read.is_signed_by(PUBLIC));
        assert_eq!((read.text("iss"), read.seconds("exp"), read.key.as_deref()), (Some("a"), Some(9), Some("k1")));
        let other = Signer::new("k1", PRIVATE).sign(&json!({ "iss": "b", "exp": 9 }));
        let (claims, signature) = (other.split('.').nth(1).unwrap(), token.split('.').nth(2).unwrap());
        let forged = format!("{}.{claims}.{signature}", token.split('.').next().unwrap());
        assert!(!Unverified::read(&forged).unwrap().is_signed_by(PUBLIC));
        let none = token.replacen(token.split('.').next().unwrap(), &URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), 1);
        assert!(!Unverified::read(&none).unwrap().is_signed_by(PUBLIC), "fails when alg is not checked");
        assert!(!read.is_signed_by("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----"));
    }

    #[test]
    fn what_is_no_token_is_not_read() {
        for text in ["", "a.b", "a.b.c", "e30.e30.!", "e30.e30.e30.e30", "W10.e30.e30"] {
            assert!(Unverified::read(text).is_none(), "{text}");
        }
    }
}

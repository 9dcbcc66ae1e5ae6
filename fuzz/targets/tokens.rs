//! Tokens of Google's pushes and the published keys they are checked with: arbitrary ones are refused, never a panic.
#![no_main]

use jsonwebtoken::jwk::JwkSet;
use libfuzzer_sys::fuzz_target;
use palisade_fuzz::{Cut, NOW};
use palisade_google::webhook::{Jwks, PushTrust, jwt};

fuzz_target!(|data: &[u8]| {
    let mut cut = Cut::new(data);
    let token = cut.text();
    let rest = cut.rest();
    // What JWKS are read with, and what they are read into.
    let _ = serde_json::from_slice::<JwkSet>(&rest);
    let Ok(keys) = Jwks::parse(&rest) else { return };
    let trust = PushTrust { audience: "hub".to_owned(), email: "push@example.com".to_owned(), topic: None };
    assert!(jwt::verify(&token, &[&trust], &keys, NOW).is_err(), "a token of nobody's was taken");
});

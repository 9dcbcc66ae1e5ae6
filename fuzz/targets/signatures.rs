//! Headers of signatures, and what is signed: arbitrary ones are refused, and never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_core::Secret;
use palisade_core::webhook::Verified;
use palisade_fuzz::{Cut, NOW, delivery, providers};

/// A live secret of each provider in the order of [`providers`]; nobody guesses what they sign.
const SECRETS: [&str; 5] = [
    "whsec_8f742231b10e8888abcd99yyyzzz85a5",
    "8f742231b10e8888abcd99yyyzzz85a5",
    "the key of the channels",
    "8f742231b10e8888abcd99yyyzzz85a5",
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcwHBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA==",
];

fuzz_target!(|data: &[u8]| {
    let mut cut = Cut::new(data);
    let at = usize::from(cut.byte()) % SECRETS.len();
    let url = format!("https://hub.example/webhooks/{}", cut.text());
    let headers = cut.headers();
    let provider = &providers()[at];
    let webhook = provider.webhook().expect("every adapter has webhooks");
    let secrets = [Secret::from(SECRETS[at])];
    let checked = Verified::check(webhook, delivery(url, headers, cut.rest()), &secrets, NOW);
    assert!(checked.is_err(), "{}: a signature of nobody's was taken", provider.manifest().name);
});

//! The story's own calls to Stripe: customers created through the typed client while it misbehaves. Each carries its
//! number, so that the provider's truth tells how often it really happened.
//!
//! One that was begun and whose process died is made again under the same idempotency key, as a product would: it happens
//! once.

use std::collections::BTreeMap;

use palisade_core::clock::SystemClock;
use palisade_core::{Clock, Result};
use palisade_emulator::stripe::Stripe as Emulator;
use palisade_stripe::Stripe;
use palisade_stripe::client::NewCustomer;

use super::notes::{Before, Notes, Said, patiently};

/// How many customers the story creates.
const WRITES: u32 = 60;
/// The metadata key that carries the number.
const NUMBER: &str = "story_write";

/// Makes the calls one after another; those that have said what became of them are not made again.
pub(super) async fn make(stripe: Stripe, notes: Notes, seed: u64) -> Result<()> {
    for number in 0..WRITES {
        let before = notes.before(number, SystemClock.now()).await?;
        if matches!(before, Before::Said(_)) {
            continue;
        }
        let said = create(&stripe, number, seed).await;
        // "Not done" speaks of this call only; the one whose process died may have been.
        let said = if before != Before::Nothing && said == Said::NotDone { Said::Unknown } else { said };
        notes.say(number, said).await?;
    }
    Ok(())
}

async fn create(stripe: &Stripe, number: u32, seed: u64) -> Said {
    let customer = NewCustomer::new().email(format!("story-{number}@example.com")).metadata(NUMBER, number.to_string());
    let key = format!("story-{seed}-{number}");
    match patiently(|| stripe.create_customer(customer.clone(), Some(&key))).await {
        Ok(_) => Said::Done,
        Err(error) => Said::of(error.outcome()),
    }
}

/// How often each of them really happened: by what was created rather than by what is left, for the story deletes
/// customers, too.
pub(super) fn happened(emulator: &Emulator) -> BTreeMap<u32, u64> {
    let mut happened = BTreeMap::new();
    for event in emulator.events().iter().filter(|event| event["type"] == "customer.created") {
        let number = event.pointer(&format!("/data/object/metadata/{NUMBER}")).and_then(|number| number.as_str());
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            *happened.entry(number).or_default() += 1;
        }
    }
    happened
}

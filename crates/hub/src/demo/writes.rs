//! The story's own calls: customers created through the typed client while the provider misbehaves. Each carries its
//! number, so that the provider's truth tells how often it really happened.

use std::collections::BTreeMap;

use palisade_core::Outcome;
use palisade_emulator::stripe::Stripe as Emulator;
use palisade_stripe::Stripe;
use palisade_stripe::client::NewCustomer;

/// How many customers the story creates.
const WRITES: u32 = 60;
/// The metadata key that carries the number.
const NUMBER: &str = "story_write";

/// What each write said of itself.
#[derive(Debug, Default)]
pub(super) struct Written {
    said: BTreeMap<String, Said>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Done,
    NotDone,
    Unknown,
}

/// Makes the calls one after another.
pub(super) async fn make(stripe: Stripe) -> Written {
    let mut written = Written::default();
    for number in 0..WRITES {
        let customer =
            NewCustomer::new().email(format!("story-{number}@example.com")).metadata(NUMBER, number.to_string());
        let said = match stripe.create_customer(customer, None).await {
            Ok(_) => Said::Done,
            Err(error) => match error.outcome() {
                Outcome::Unknown | Outcome::Processed => Said::Unknown,
                Outcome::NotSent | Outcome::Rejected => Said::NotDone,
            },
        };
        written.said.insert(number.to_string(), said);
    }
    written
}

impl Written {
    /// Compares with the provider's truth: how many writes happened once, and how many were told wrongly.
    pub(super) fn against(&self, emulator: &Emulator) -> (u64, u64, u64) {
        let mut happened: BTreeMap<String, u64> = BTreeMap::new();
        // By what was created rather than by what is left: the story deletes customers, too.
        for event in emulator.events().iter().filter(|event| event["type"] == "customer.created") {
            if let Some(number) = event.pointer(&format!("/data/object/metadata/{NUMBER}")).and_then(|n| n.as_str()) {
                *happened.entry(number.to_owned()).or_default() += 1;
            }
        }
        let (mut done, mut unknown, mut wrong) = (0, 0, 0);
        for (number, said) in &self.said {
            let times = happened.get(number).copied().unwrap_or(0);
            match said {
                Said::Done if times == 1 => done += 1,
                Said::Unknown if times <= 1 => unknown += 1,
                Said::NotDone if times == 0 => {}
                Said::Done | Said::Unknown | Said::NotDone => wrong += 1,
            }
        }
        (done, unknown, wrong)
    }
}

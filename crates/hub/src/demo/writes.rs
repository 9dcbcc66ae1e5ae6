//! The story's own calls: customers created through the typed client while the provider misbehaves. Each carries its
//! number, so that the provider's truth tells how often it really happened.
//!
//! What each call said is kept in a table of the product's own. One that was begun and whose process died is made
//! again under the same idempotency key, as a product would: it happens once.

use std::collections::BTreeMap;
use std::time::Duration;

use palisade_core::store::{Effect, Value};
use palisade_core::{ErrorKind, Outcome, Result};
use palisade_emulator::stripe::Stripe as Emulator;
use palisade_store::SqliteStore;
use palisade_stripe::Stripe;
use palisade_stripe::client::NewCustomer;
use tokio::time::sleep;

/// How many customers the story creates.
const WRITES: u32 = 60;
/// How often a write is tried that an open breaker refuses.
const REFUSALS_MAX: u32 = 20;
/// The most that lies between two of them.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// The metadata key that carries the number.
const NUMBER: &str = "story_write";

/// The product's table: a row stands from before its call is sent.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS story_write (number INTEGER PRIMARY KEY, said TEXT) STRICT";

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

impl Said {
    const ALL: [Self; 3] = [Self::Done, Self::NotDone, Self::Unknown];

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::NotDone => "not_done",
            Self::Unknown => "unknown",
        }
    }
}

/// Makes the calls one after another; those that have said what became of them are not made again.
pub(super) async fn make(stripe: Stripe, store: SqliteStore, seed: u64) -> Result<Written> {
    let mut written = Written::default();
    for number in 0..WRITES {
        let said = match before(&store, number).await? {
            Before::Said(said) => said,
            before @ (Before::Nothing | Before::Begun) => {
                let said = create(&stripe, number, seed).await;
                // "Not done" speaks of this call only; the one whose process died may have been.
                let said = if before == Before::Begun && said == Said::NotDone { Said::Unknown } else { said };
                let values = vec![Value::Integer(number.into()), Value::Text(said.name().to_owned())];
                run(&store, "UPDATE story_write SET said = ?2 WHERE number = ?1", values).await?;
                said
            }
        };
        written.said.insert(number.to_string(), said);
    }
    Ok(written)
}

/// What an earlier process left of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    /// It was about to be sent, or was sent.
    Begun,
    Said(Said),
}

/// Reads what is known of a write, and notes that it begins.
async fn before(store: &SqliteStore, number: u32) -> Result<Before> {
    let values = vec![Value::Integer(number.into())];
    let rows = store.query("SELECT said FROM story_write WHERE number = ?1", values.clone()).await?;
    match rows.first().and_then(|row| row.first()) {
        Some(Value::Text(text)) => {
            let said = Said::ALL.into_iter().find(|said| said.name() == text);
            Ok(said.map_or(Before::Begun, Before::Said))
        }
        Some(_) => Ok(Before::Begun),
        None => {
            run(store, "INSERT INTO story_write (number) VALUES (?1)", values).await?;
            Ok(Before::Nothing)
        }
    }
}

async fn run(store: &SqliteStore, sql: &str, values: Vec<Value>) -> Result<()> {
    store.execute(Effect { sql: sql.to_owned(), values }).await.map(drop)
}

async fn create(stripe: &Stripe, number: u32, seed: u64) -> Said {
    let customer = NewCustomer::new().email(format!("story-{number}@example.com")).metadata(NUMBER, number.to_string());
    let key = format!("story-{seed}-{number}");
    let mut refusals = 0;
    loop {
        let error = match stripe.create_customer(customer.clone(), Some(&key)).await {
            Ok(_) => return Said::Done,
            Err(error) => error,
        };
        match error.outcome() {
            Outcome::Unknown | Outcome::Processed => return Said::Unknown,
            // The provider is down and nothing left: a product tries again a little later.
            Outcome::NotSent if error.kind() == ErrorKind::CircuitOpen && refusals < REFUSALS_MAX => refusals += 1,
            Outcome::NotSent | Outcome::Rejected => return Said::NotDone,
        }
        sleep(error.retry_after().unwrap_or(REFUSED_PAUSE).min(REFUSED_PAUSE)).await;
    }
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

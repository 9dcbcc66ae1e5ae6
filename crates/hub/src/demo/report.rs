//! What the demo found, as a message: JSON for programs; [`super::show`] writes it for people.

use std::collections::BTreeMap;

use serde::Serialize;

/// Everything the demo measured and every promise it checked.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Report {
    /// Whether every promise held.
    pub held: bool,
    /// The seed that repeats this run.
    pub seed: u64,
    /// From where the story went on; nothing when it was told at a stretch.
    pub continued: Option<Continued>,
    /// How long the story took, in milliseconds.
    pub took_ms: u64,
    /// Each promise with what was seen.
    pub promises: Vec<Promise>,
    /// Each provider by its name.
    pub providers: BTreeMap<String, Side>,
    /// Accounts connected in a browser.
    pub accounts: Vec<Account>,
    /// The time Stripe was down.
    pub outage: Outage,
    /// The master keys after one was rotated.
    pub master_keys: MasterKeys,
    /// Pages read again because a worker died.
    pub pages_read_again: u64,
}

/// From where a story that was told before went on. Promises, records, events and effects are judged over all its
/// tellings; calls and deliveries are counted since this one began.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Continued {
    /// Processes that began to tell it before.
    pub starts: u32,
    /// Whether the last of them came to its end.
    pub told: bool,
    /// The step the last of them had come to, from 1.
    pub step: u32,
    /// How many steps there are.
    pub steps: u32,
    /// What happens in that step.
    pub what: &'static str,
    /// Events whose effects stood in the database already.
    pub handled: u64,
}

impl Continued {
    /// Says it in a sentence.
    pub(super) fn to_text(&self) -> String {
        let Self { step, steps, what, handled, .. } = self;
        if self.told {
            return format!("told before to its end: {handled} events were already handled");
        }
        format!("continued after a kill at step {step} of {steps} ({what}): {handled} events were already handled")
    }
}

impl Account {
    /// Says it in a sentence.
    pub(super) fn to_text(&self) -> String {
        match &self.account {
            Some(account) if self.connected => format!("{}: {account}", self.page),
            Some(_) | None => self.page.clone(),
        }
    }
}

impl Outage {
    /// Says it in a sentence.
    pub(super) fn to_text(&self) -> String {
        let Self { calls, arrived, refused, trips, .. } = self;
        let seconds = |ms: u64| ms as f64 / 1_000.0;
        let end = if self.closed {
            format!("closed again {:.1} s after the provider was back", seconds(self.closed_after_ms))
        } else {
            "did not close again".to_owned()
        };
        format!(
            "down for {:.1} s: {calls} calls, {arrived} requests arrived, {refused} calls refused here; the breaker opened \
             {} and {end}",
            seconds(self.down_ms),
            times(*trips),
        )
    }
}

impl MasterKeys {
    /// Says it in a sentence.
    pub(super) fn to_text(&self) -> String {
        let Self { data_keys, left, secrets, opened, .. } = self;
        format!(
            "{opened} of {secrets} secrets open with the new key alone; {data_keys} data keys re-wrapped, {left} left"
        )
    }
}

/// Writes how often.
fn times(n: u64) -> String {
    if n == 1 { "once".to_owned() } else { format!("{n} times") }
}

/// One provider, as the hub and the provider itself counted it.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Side {
    /// Outbound calls, as the hub counted them.
    pub calls: Calls,
    /// What the provider saw and did.
    pub provider: ProviderSide,
    /// Inbound deliveries, as the hub counted them.
    pub deliveries: Deliveries,
    /// Each stream against the provider's truth.
    pub streams: BTreeMap<String, StreamTruth>,
}

/// One promise and its evidence.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Promise {
    /// Whose calls, events and records it is about; the hub for what is of no one provider.
    pub provider: &'static str,
    /// What is promised.
    pub promise: &'static str,
    /// Whether it held.
    pub held: bool,
    /// What was seen.
    pub seen: String,
}

/// Outbound calls.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Calls {
    /// Calls made.
    pub calls: u64,
    /// Attempts sent.
    pub attempts: u64,
    /// Calls that were sent and failed in the end.
    pub failed: u64,
    /// Calls an open breaker refused here: nothing was sent.
    pub refused: u64,
    /// Waits for a limit or a `Retry-After`.
    pub rate_limit_waits: u64,
    /// Times the breaker opened.
    pub breaker_trips: u64,
}

/// An account that was connected in a browser, through the provider's page.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Account {
    /// The provider.
    pub provider: String,
    /// The account at the provider.
    pub account: Option<String>,
    /// Whether the browser came back to a page that says so, and the connection works.
    pub connected: bool,
    /// Whether it had been connected before, when the story was told last.
    pub reconnected: bool,
    /// What the last page said.
    pub page: String,
    /// Calls made with its token, most of them when the first one had expired.
    pub calls: u64,
    /// Those that were answered.
    pub answered: u64,
    /// What one of the others failed with.
    pub trouble: Option<String>,
    /// How often a refresh token came to the provider.
    pub renewals: u64,
    /// How often a spent refresh token came to the provider.
    pub replays: u64,
}

/// The time the provider was down.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Outage {
    /// How long, in milliseconds.
    pub down_ms: u64,
    /// Calls that ended meanwhile, of the product and of the sync.
    pub calls: u64,
    /// Requests that reached the provider meanwhile.
    pub arrived: u64,
    /// Calls that the open breaker refused.
    pub refused: u64,
    /// How often the breaker opened, until it was closed again.
    pub trips: u64,
    /// Whether probes found the provider back, so that the breaker closed.
    pub closed: bool,
    /// How long after the provider was back, in milliseconds.
    pub closed_after_ms: u64,
}

/// The master keys after one was rotated.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct MasterKeys {
    /// Master keys that were ever active.
    pub keys: u64,
    /// Data keys wrapped by the new one.
    pub data_keys: u64,
    /// Data keys left under an older one.
    pub left: u64,
    /// Secrets in the vault.
    pub secrets: u64,
    /// Secrets that open with the new key alone.
    pub opened: u64,
}

/// What the provider saw and did.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ProviderSide {
    /// Requests that arrived.
    pub requests: u64,
    /// Faults it threw, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Requests that came before a `Retry-After` had passed.
    pub early_after_retry_after: u64,
    /// Idempotency keys that came back with another body.
    pub keys_reused: u64,
    /// The most requests in one second.
    pub peak_per_second: u64,
}

/// Inbound deliveries and events.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Deliveries {
    /// Events that happened at the provider.
    pub happened: u64,
    /// Deliveries answered 2xx.
    pub accepted: u64,
    /// Of these, repeated ones that changed nothing.
    pub duplicate: u64,
    /// Deliveries refused for their signature or its time.
    pub rejected: u64,
    /// Deliveries the provider never sent.
    pub lost: u64,
    /// Events found missing and healed from the provider's list.
    pub healed: u64,
    /// Events handled.
    pub handled: u64,
    /// Effects the handler wrote to the same database.
    pub effects: u64,
    /// Events given up.
    pub dead: u64,
}

/// One stream against the provider's truth.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StreamTruth {
    /// Records at the provider.
    pub truth: u64,
    /// Live records here.
    pub stored: u64,
    /// Missing here, surplus here, or with other content.
    pub differ: u64,
    /// Pages of the full run.
    pub pages: u64,
    /// How often the full run was taken up again.
    pub resumed: u64,
}

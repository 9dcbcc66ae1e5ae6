//! What the demo found: a report as JSON for programs, as tables and a verdict for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{Cell, CellAlignment, Table};
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
    /// Accounts connected in a browser.
    pub accounts: Vec<Account>,
    /// The time the provider was down.
    pub outage: Outage,
    /// The master keys after one was rotated.
    pub master_keys: MasterKeys,
    /// Outbound calls, as the hub counted them.
    pub calls: Calls,
    /// What the provider saw and did.
    pub provider: ProviderSide,
    /// Inbound deliveries, as the hub counted them.
    pub deliveries: Deliveries,
    /// Each stream against the provider's truth.
    pub streams: BTreeMap<String, StreamTruth>,
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

/// One promise and its evidence.
#[derive(Clone, Debug, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Promise {
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
    /// Deliveries refused for their signature.
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

impl Report {
    /// Writes the report for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let c = &self.calls;
        let d = &self.deliveries;
        let p = &self.provider;
        let _ = writeln!(
            text,
            "{}",
            pairs(
                "Calls out",
                &[
                    ("calls", c.calls),
                    ("attempts", c.attempts),
                    ("failed in the end", c.failed),
                    ("refused here while the breaker was open", c.refused),
                    ("waits for a limit or Retry-After", c.rate_limit_waits),
                    ("breaker trips", c.breaker_trips),
                ]
            )
        );
        let mut thrown: Vec<(&str, u64)> = p.faults.iter().map(|(kind, n)| (kind.as_str(), *n)).collect();
        thrown.insert(0, ("requests that arrived", p.requests));
        thrown.push(("most in one second", p.peak_per_second));
        let _ = writeln!(text, "{}", pairs("What the provider threw", &thrown));
        let _ = writeln!(
            text,
            "{}",
            pairs(
                "Webhooks in",
                &[
                    ("events that happened", d.happened),
                    ("deliveries accepted", d.accepted),
                    ("  of these duplicates", d.duplicate),
                    ("deliveries rejected (forged)", d.rejected),
                    ("deliveries lost on the way", d.lost),
                    ("events healed from the list", d.healed),
                    ("events handled", d.handled),
                    ("effects written", d.effects),
                    ("dead letters", d.dead),
                ]
            )
        );
        let _ = writeln!(text, "{}", self.streams_table());
        let _ = writeln!(text, "{}", self.accounts_table());
        let k = &self.master_keys;
        let _ = writeln!(
            text,
            "{}",
            pairs(
                "Vault",
                &[
                    ("secrets re-wrapped under a new master key", k.opened),
                    ("secrets it does not open", k.secrets.saturating_sub(k.opened)),
                    ("data keys left under the old one", k.left),
                ]
            )
        );
        for promise in &self.promises {
            let mark = if promise.held { "✓" } else { "✗" };
            let _ = writeln!(text, "{mark} {}: {}", promise.promise, promise.seen);
        }
        if let Some(continued) = &self.continued {
            let sentence = continued.to_text();
            let _ = writeln!(
                text,
                "\nThe story was {sentence}.\nCalls and deliveries are counted since then, all else over the whole folder."
            );
        }
        let verdict = if self.held { "Every promise held." } else { "A PROMISE DID NOT HOLD." };
        let seconds = self.took_ms as f64 / 1_000.0;
        let _ = writeln!(text, "\n{verdict} {seconds:.1} s. Repeat with: palisade demo --seed {}", self.seed);
        text
    }

    fn accounts_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        table.set_header(["Accounts", "in the browser", "account", "calls", "answered", "renewed"]);
        for a in &self.accounts {
            let mut row = vec![Cell::new(&a.provider), Cell::new(&a.page)];
            row.push(Cell::new(a.account.as_deref().unwrap_or("–")));
            row.extend([a.calls, a.answered, a.renewals].map(number));
            table.add_row(row);
        }
        table
    }

    fn streams_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        table.set_header(["Records", "at the provider", "here", "differ", "pages", "resumed"]);
        for (name, s) in &self.streams {
            let mut row = vec![Cell::new(name)];
            row.extend([s.truth, s.stored, s.differ, s.pages, s.resumed].map(number));
            table.add_row(row);
        }
        table
    }
}

fn pairs(title: &str, rows: &[(&str, u64)]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    table.set_header([title, ""]);
    for (name, n) in rows {
        table.add_row([Cell::new(name), number(*n)]);
    }
    table
}

fn number(n: u64) -> Cell {
    Cell::new(n).set_alignment(CellAlignment::Right)
}

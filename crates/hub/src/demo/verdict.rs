//! Compares what the hub holds with the provider's truth, and says of each promise whether it held.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use palisade_core::Result;
use palisade_core::store::{EventState, RunMode, RunState};
use palisade_core::worker::WorkerSettings;

use super::consumer::Followed;
use super::counts::Counts;
use super::report::{Account, Continued, Deliveries, MasterKeys, Outage, Promise, ProviderSide, Report, StreamTruth};
use super::writes::Written;
use super::{Killed, Stage, Story};

/// What the story has seen.
pub(super) struct Seen<'a> {
    pub(super) story: &'a Story,
    pub(super) stage: &'a Stage,
    pub(super) continued: Option<Continued>,
    pub(super) copies: BTreeMap<String, Followed>,
    pub(super) written: Written,
    pub(super) accounts: Vec<Account>,
    pub(super) outage: Outage,
    pub(super) master_keys: MasterKeys,
    pub(super) killed: Killed,
    pub(super) stored_before_healing: u64,
    pub(super) quiet: bool,
}

/// Judges the story.
pub(super) async fn judge(seen: Seen<'_>, took: Duration) -> Result<Report> {
    let ledger = seen.stage.emulator.ledger();
    let streams = compare(&seen).await?;
    let (written, unknown, wrong) = seen.written.against(&seen.stage.emulator);
    let counts = Counts::of(&seen.stage.metrics);
    let calls = counts.calls();
    let deliveries = deliveries(&seen, &counts).await?;
    let provider = ProviderSide {
        requests: ledger.requests,
        faults: ledger.faults.iter().map(|(kind, n)| (kind.clone(), *n)).collect(),
        early_after_retry_after: ledger.early_after_retry_after,
        keys_reused: ledger.keys_reused,
        peak_per_second: ledger.peak_per_second,
    };
    let differ: u64 = streams.values().map(|s| s.differ).sum();
    let truth: u64 = streams.values().map(|s| s.truth).sum();
    let backwards: u64 = seen.copies.values().map(|followed| followed.backwards).sum();
    let entries: u64 = seen.copies.values().map(|followed| followed.entries).sum();
    let resumed = streams.get("customers").map_or(0, |s| s.resumed).saturating_sub(seen.killed.resumed);
    let inbox = held(&seen).await?;
    let acked = &ledger.webhooks.acked_events;
    let acked_missing = acked.difference(&inbox).count();
    let strangers = strangers(&seen, &inbox, ledger.events_created);
    let pages_read_again = pages_read_again(&seen, &streams);
    let mut promises = vec![
        Promise {
            promise: "Nothing acknowledged is lost",
            held: acked_missing == 0 && deliveries.dead == 0 && seen.quiet,
            seen: format!("{} events acknowledged, {acked_missing} of them missing", acked.len()),
        },
        Promise {
            promise: "An effect in the same database happens once",
            held: deliveries.effects == deliveries.handled && deliveries.handled == deliveries.happened,
            seen: format!(
                "{} events happened, {} handled, {} effects",
                deliveries.happened, deliveries.handled, deliveries.effects
            ),
        },
        Promise {
            promise: "Nothing forged gets in",
            held: ledger.webhooks.forged_accepted == 0
                && deliveries.rejected >= ledger.webhooks.forged
                && strangers == 0,
            seen: format!(
                "{} forged, {} accepted, {strangers} stored that the provider never made",
                ledger.webhooks.forged, ledger.webhooks.forged_accepted
            ),
        },
        Promise {
            promise: "The records equal the provider's",
            held: differ == 0 && seen.quiet,
            seen: format!("{truth} records, {differ} differ"),
        },
        Promise {
            promise: "The change feed has no gap and never goes backwards",
            held: backwards == 0 && differ == 0,
            seen: format!("{entries} entries followed live, {backwards} out of order"),
        },
        Promise {
            promise: "A killed worker's run goes on where it was",
            // A story so small that the run was over before anybody could be killed has nothing to show here.
            held: (resumed >= 1 || !seen.killed.running) && pages_read_again <= 1,
            seen: format!("taken up {resumed} times, {pages_read_again} pages read again"),
        },
        Promise {
            promise: "No attempt before Retry-After",
            held: provider.early_after_retry_after == 0,
            seen: format!("{} early", provider.early_after_retry_after),
        },
        Promise {
            promise: "No write is repeated that may have happened",
            held: wrong == 0 && provider.keys_reused == 0,
            seen: format!("{written} writes done once, {unknown} reported as unknown, {wrong} told wrongly"),
        },
    ];
    promises.extend([outage(&seen.outage), accounts(&seen.accounts), master_keys(&seen)]);
    Ok(Report {
        held: promises.iter().all(|promise| promise.held),
        seed: seen.story.seed,
        continued: seen.continued,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        promises,
        accounts: seen.accounts,
        outage: seen.outage,
        master_keys: seen.master_keys,
        calls,
        provider,
        deliveries,
        streams,
        pages_read_again,
    })
}

/// What a rested retry budget lets through whatever the load: its 100 tokens, at 5 a repeat.
const REPEATS_AT_REST: u64 = 20;

/// Whether the outage cost what the design allows, a quarter more than was asked for or a rested budget's few repeats,
/// and was over when it was over.
fn outage(outage: &Outage) -> Promise {
    let Outage { calls, arrived, refused, trips, closed, .. } = outage;
    Promise {
        promise: "An outage costs at most 1.25 times its load, or 20 repeats",
        held: *trips >= 1 && *refused >= 1 && *closed && *arrived <= calls + REPEATS_AT_REST.max(calls / 4),
        seen: outage.to_text(),
    }
}

fn accounts(accounts: &[Account]) -> Promise {
    let sum = |count: fn(&Account) -> u64| accounts.iter().map(count).sum::<u64>();
    let (calls, answered) = (sum(|account| account.calls), sum(|account| account.answered));
    let trouble = accounts.iter().find_map(|account| account.trouble.as_deref());
    Promise {
        promise: "An account is connected in a browser, and its expired token renewed once",
        held: answered == calls
            && accounts.iter().all(|account| account.connected && account.renewals == 1 && account.replays == 0),
        seen: format!(
            "{} of {} connected, {answered} of {calls} calls answered, {} renewals{}",
            sum(|account| u64::from(account.connected)),
            accounts.len(),
            sum(|account| account.renewals),
            trouble.map(|trouble| format!(" ({trouble})")).unwrap_or_default(),
        ),
    }
}

fn master_keys(seen: &Seen<'_>) -> Promise {
    let MasterKeys { keys, data_keys, left, secrets, opened } = &seen.master_keys;
    // Stripe's key, and a grant of each account.
    let expected = 1 + seen.accounts.len() as u64;
    Promise {
        promise: "A rotated master key leaves nothing under the old one",
        held: *keys >= 2 && *data_keys >= 1 && *left == 0 && opened == secrets && *secrets >= expected,
        seen: seen.master_keys.to_text(),
    }
}

/// The feed's copy of each stream against the provider's truth.
async fn compare(seen: &Seen<'_>) -> Result<BTreeMap<String, StreamTruth>> {
    let runs = seen.stage.hub.store().runs(None, 1_000).await?;
    let mut streams = BTreeMap::new();
    for key in super::keys() {
        let name = key.stream.as_str();
        let truth = seen.stage.emulator.truth(name);
        let empty = Followed::default();
        let here = &seen.copies.get(name).unwrap_or(&empty).copy;
        let missing_or_other = truth.iter().filter(|(id, value)| here.get(*id) != Some(value)).count();
        let surplus = here.keys().filter(|id| !truth.contains_key(*id)).count();
        let full: Vec<_> = runs
            .iter()
            .filter(|run| run.key == key && run.mode == RunMode::Full && run.state == RunState::Done)
            .collect();
        streams.insert(
            name.to_owned(),
            StreamTruth {
                truth: truth.len() as u64,
                stored: here.len() as u64,
                differ: (missing_or_other + surplus) as u64,
                pages: full.iter().map(|run| run.pages).sum(),
                resumed: full.iter().map(|run| u64::from(run.resumed)).sum(),
            },
        );
    }
    Ok(streams)
}

async fn deliveries(seen: &Seen<'_>, hub: &Counts) -> Result<Deliveries> {
    let ledger = seen.stage.emulator.ledger();
    let counts = seen.stage.hub.store().event_counts().await?;
    let count = |state: EventState| counts.get(&state).copied().unwrap_or(0);
    let stored: u64 = counts.values().sum();
    let effects = seen.stage.number("SELECT count(*) FROM effect").await?;
    let once = seen.stage.number("SELECT count(DISTINCT event) FROM effect").await?;
    Ok(Deliveries {
        happened: ledger.events_created,
        accepted: hub.delivered("accepted") + hub.delivered("duplicate"),
        duplicate: hub.delivered("duplicate"),
        rejected: hub.delivered("refused"),
        lost: ledger.webhooks.dropped,
        healed: stored.saturating_sub(seen.stored_before_healing),
        handled: count(EventState::Done),
        effects: if once == effects { effects } else { effects.max(once + 1) },
        dead: count(EventState::Dead),
    })
}

/// The ids of all events in the inbox.
async fn held(seen: &Seen<'_>) -> Result<BTreeSet<String>> {
    let mut held = BTreeSet::new();
    let mut before = None;
    loop {
        let page = seen.stage.hub.store().events(None, before, 1_000).await?;
        let Some(last) = page.last() else { return Ok(held) };
        before = Some(last.row);
        held.extend(page.into_iter().map(|event| event.event.id.as_str().to_owned()));
    }
}

/// Events in the inbox that never happened. Not told when the provider itself has forgotten some.
fn strangers(seen: &Seen<'_>, inbox: &BTreeSet<String>, happened: u64) -> usize {
    let made = seen.stage.emulator.event_ids();
    if made.len() as u64 == happened { inbox.difference(&made).count() } else { 0 }
}

/// Pages of the customers' full run beyond what listing everybody once takes. Customers created while it runs stand
/// before the first page and add none, those created before it began do: nobody knows from outside which are which, so
/// all of them are granted.
fn pages_read_again(seen: &Seen<'_>, streams: &BTreeMap<String, StreamTruth>) -> u64 {
    let page_size = u64::from(WorkerSettings::default().page_size);
    streams.get("customers").map_or(0, |customers| {
        let listed = customers.truth.max(seen.story.customers as u64);
        customers.pages.saturating_sub(listed.div_ceil(page_size))
    })
}

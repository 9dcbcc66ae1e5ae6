//! Compares what the hub holds with the providers' truth, and says of each promise at each provider whether it held.
//!
//! Here stands what is promised of every provider, and of the hub as a whole; what only one of them can show stands in
//! its part. Each promise says beside it what makes it fail.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use palisade_core::Result;
use palisade_core::store::{EventState, Run, RunMode, RunState, Value as Cell};
use palisade_core::worker::WorkerSettings;
use palisade_emulator::Ledger;

use super::cast::{Records, Role};
use super::consumer::{Copies, Followed};
use super::counts::Counts;
use super::google::Google;
use super::report::{
    Account, Continued, Deliveries, MasterKeys, Outage, Promise, ProviderSide, Report, Side, StreamTruth,
};
use super::slack::Slack;
use super::stripe::Killed;
use super::{RUNS, Stage, Story, writes};

/// Who promises what is of no one provider.
const HUB: &str = "Hub";

/// What the story has seen.
pub(super) struct Seen<'a> {
    pub(super) story: &'a Story,
    pub(super) stage: &'a Stage,
    pub(super) continued: Option<Continued>,
    pub(super) copies: Copies,
    pub(super) accounts: Vec<Account>,
    pub(super) outage: Outage,
    pub(super) master_keys: MasterKeys,
    pub(super) killed: Killed,
    /// How often each of Google's streams was read on because of a notification.
    pub(super) pushed: Vec<usize>,
    pub(super) stored_before_healing: u64,
    pub(super) quiet: bool,
}

/// What the inbox holds of one provider.
#[derive(Default)]
pub(super) struct Inbox {
    /// Ids in order of arrival.
    pub(super) arrived: Vec<String>,
    /// How many of each type.
    pub(super) kinds: BTreeMap<String, u64>,
    pub(super) pending: u64,
    pub(super) done: u64,
    pub(super) dead: u64,
    /// Effects of its events in the same database, and of how many different events they are.
    effects: (u64, u64),
}

/// What is known of one provider when all is quiet.
pub(super) struct Facts<'a> {
    role: &'a dyn Role,
    pub(super) inbox: &'a Inbox,
    pub(super) side: &'a Side,
    ledger: Ledger,
    copies: &'a Copies,
    /// Whether the story was not told at a stretch: what died with a process is known to nobody.
    pub(super) continued: bool,
    quiet: bool,
}

impl Facts<'_> {
    /// Words a promise of this provider.
    pub(super) fn promise(&self, promise: &'static str, held: bool, seen: String) -> Promise {
        Promise { provider: self.role.manifest().title, promise, held, seen }
    }

    /// The copy of a stream that the feed's consumer holds.
    pub(super) fn copy(&self, stream: &str) -> Option<&Records> {
        self.copies.get(&self.role.key(stream)).map(|followed| &followed.copy)
    }

    /// How many records of a stream differ from the truth.
    pub(super) fn differ(&self, stream: &str) -> u64 {
        self.side.streams.get(stream).map_or(u64::MAX, |stream| stream.differ)
    }

    fn sum(&self, of: fn(&StreamTruth) -> u64) -> u64 {
        self.side.streams.values().map(of).sum()
    }
}

/// Judges the story.
pub(super) async fn judge(seen: Seen<'_>, took: Duration) -> Result<Report> {
    let stage = seen.stage;
    let counts = Counts::of(&stage.metrics);
    let runs = stage.hub.store().runs(None, RUNS).await?;
    let inboxes = inboxes(stage).await?;
    let stored: usize = inboxes.values().map(|inbox| inbox.arrived.len()).sum();
    let healed = (stored as u64).saturating_sub(seen.stored_before_healing);
    let (nothing, mut providers, mut promises) = (Inbox::default(), BTreeMap::new(), Vec::new());
    let mut pages_read_again = 0;
    for role in stage.cast.roles() {
        let inbox = inboxes.get(role.name()).unwrap_or(&nothing);
        // Only Stripe has a list of what it sent.
        let healed = if role.name() == palisade_stripe::MANIFEST.name { healed } else { 0 };
        let side = side(&seen, role, inbox, healed, (&counts, &runs));
        let continued = seen.continued.is_some();
        let (ledger, quiet) = (role.ledger(), seen.quiet);
        let facts = Facts { role, inbox, side: &side, ledger, copies: &seen.copies, continued, quiet };
        promises.extend(common(&facts));
        if role.name() == palisade_stripe::MANIFEST.name {
            pages_read_again = again(&seen, &side);
            promises.extend(of_stripe(&facts, &seen, pages_read_again).await?);
        }
        match role.name() {
            "slack" => promises.extend(Slack::promises(&facts)),
            "google" => promises.extend(Google::promises(&facts, &seen.pushed)),
            "twilio" => promises.extend(stage.cast.twilio.promises(&facts, stage).await?),
            "sendgrid" => promises.extend(stage.cast.sendgrid.promises(&facts, stage).await?),
            _ => {}
        }
        providers.insert(role.name().to_owned(), side);
    }
    promises.extend([accounts(&seen.accounts), master_keys(&seen)]);
    Ok(Report {
        held: promises.iter().all(|promise| promise.held),
        seed: seen.story.seed,
        continued: seen.continued,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        promises,
        providers,
        accounts: seen.accounts,
        outage: seen.outage,
        master_keys: seen.master_keys,
        pages_read_again,
    })
}

/// What is promised of every provider.
fn common(facts: &Facts<'_>) -> Vec<Promise> {
    let Deliveries { happened, lost, healed, handled, effects, dead, rejected, .. } = facts.side.deliveries;
    let webhooks = &facts.ledger.webhooks;
    let acked = facts.role.acked();
    let inbox: BTreeSet<&String> = facts.inbox.arrived.iter().collect();
    let missing = acked.iter().filter(|id| !inbox.contains(id)).count();
    let (truth, differ) = (facts.sum(|s| s.truth), facts.sum(|s| s.differ));
    let followed = || facts.side.streams.keys().filter_map(|stream| facts.copies.get(&facts.role.key(stream)));
    let entries: u64 = followed().map(|followed| followed.entries).sum();
    let backwards: u64 = followed().map(|followed| followed.backwards).sum();
    let early = facts.side.provider.early_after_retry_after;
    vec![
        facts.promise(
            "Nothing acknowledged is lost",
            // Fails when a delivery is answered 2xx before its commit, when an event is given up, or never handled.
            missing == 0 && dead == 0 && facts.inbox.pending == 0 && facts.quiet,
            format!("{} acknowledged, {missing} of them missing, {dead} given up", acked.len()),
        ),
        facts.promise(
            "An effect in the same database happens once",
            // Fails when deduplication is off, or when an effect commits apart from its event's job. What happened and
            // never came is healed where a list tells of events; what died with a process is not counted.
            effects == handled && (handled == happened || handled + lost == happened + healed || facts.continued),
            format!("{happened} events happened, {lost} never came, {handled} handled, {effects} effects"),
        ),
        facts.promise(
            "Nothing forged or outdated gets in",
            // Fails when the signature is not checked, or its time is not.
            webhooks.forged_accepted == 0
                && webhooks.replayed_accepted == 0
                && rejected >= webhooks.forged + webhooks.replayed
                && strangers(facts) == 0,
            format!(
                "{} forged and {} outdated, {} accepted, {} stored that were never sent",
                webhooks.forged,
                webhooks.replayed,
                webhooks.forged_accepted + webhooks.replayed_accepted,
                strangers(facts)
            ),
        ),
        facts.promise(
            "The records equal the provider's",
            // Fails when a page, an event, a deletion or a run is passed over, or an older state overwrites a newer one.
            truth > 0 && differ == 0 && facts.quiet,
            format!("{truth} records, {differ} differ"),
        ),
        facts.promise(
            "The change feed has no gap and never goes backwards",
            // Fails when the feed's order is not the order of commits: the copies compared here are made of it alone.
            backwards == 0 && differ == 0,
            format!("{entries} entries followed live, {backwards} out of order"),
        ),
        facts.promise(
            "No attempt before Retry-After",
            // Fails when a 429 does not hold back what goes the same way.
            early == 0,
            format!("{early} early"),
        ),
    ]
}

/// Events in the inbox that were never sent. What is forged bears a name of its own everywhere.
fn strangers(facts: &Facts<'_>) -> usize {
    facts.inbox.arrived.iter().filter(|id| id.contains("FORGED")).count()
}

/// What only Stripe shows.
async fn of_stripe(facts: &Facts<'_>, seen: &Seen<'_>, again: u64) -> Result<Vec<Promise>> {
    let stripe = &seen.stage.cast.stripe;
    let (resumed, killed) = (facts.side.streams.get("customers").map_or(0, |s| s.resumed), &seen.killed);
    let resumed = resumed.saturating_sub(killed.resumed);
    let notes = seen.stage.notes(palisade_stripe::MANIFEST.name);
    let told = notes.against(&writes::happened(&stripe.emulator)).await?;
    let invented = invented(facts, seen);
    Ok(vec![
        facts.promise(
            "Every event that happened arrives or is healed, and none that did not",
            // Fails when a walk over the list of events passes one over, or an event is made up.
            facts.side.deliveries.handled == facts.side.deliveries.happened && invented == 0,
            format!("{} healed from the list, {invented} stored that Stripe never made", facts.side.deliveries.healed),
        ),
        facts.promise(
            "A killed worker's run goes on where it was",
            // Fails when a run begins anew, or is never taken up. A story so small that the run was over before anybody
            // could be killed has nothing to show here.
            (resumed >= 1 || !killed.running) && again <= 1,
            format!("taken up {resumed} times, {again} pages read again"),
        ),
        facts.promise(
            "No write is repeated that may have happened",
            // Fails when a write is repeated under another key, or told as done or not done when nobody knows.
            told.wrong == 0 && told.twice == 0 && facts.side.provider.keys_reused == 0,
            format!(
                "{} writes done once, {} reported as unknown, {} told wrongly",
                told.done, told.unknown, told.wrong
            ),
        ),
        outage(facts, &seen.outage),
    ])
}

/// Events in the inbox that never happened. Not told when Stripe itself has forgotten some.
fn invented(facts: &Facts<'_>, seen: &Seen<'_>) -> usize {
    let made = seen.stage.cast.stripe.emulator.event_ids();
    let known = made.len() as u64 == facts.side.deliveries.happened;
    if known { facts.inbox.arrived.iter().filter(|id| !made.contains(*id)).count() } else { 0 }
}

/// What a rested retry budget lets through whatever the load: its 100 tokens, at 5 a repeat.
const REPEATS_AT_REST: u64 = 20;

/// Whether the outage cost what the design allows, a quarter more than was asked for or a rested budget's few repeats,
/// and was over when it was over.
fn outage(facts: &Facts<'_>, outage: &Outage) -> Promise {
    let Outage { calls, arrived, refused, trips, closed, .. } = outage;
    let bounded = *arrived <= calls + REPEATS_AT_REST.max(calls / 4);
    facts.promise(
        "An outage costs at most 1.25 times its load, or 20 repeats",
        // Fails when there is no outage, when the breaker does not open, lets everything through or never closes, and
        // when every caller repeats on.
        *trips >= 1 && *refused >= 1 && *closed && *arrived >= 1 && bounded,
        outage.to_text(),
    )
}

fn accounts(accounts: &[Account]) -> Promise {
    let sum = |count: fn(&Account) -> u64| accounts.iter().map(count).sum::<u64>();
    let (calls, answered) = (sum(|account| account.calls), sum(|account| account.answered));
    let trouble = accounts.iter().find_map(|account| account.trouble.as_deref());
    Promise {
        provider: HUB,
        promise: "An account is connected in a browser, and its expired token renewed once",
        // Fails when Deny is pressed on a page, when an expired token is renewed never or once a caller, and when a spent
        // refresh token is sent again.
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
    // The keys of Stripe, Twilio and SendGrid, and a grant of each account.
    let expected = 3 + seen.accounts.len() as u64;
    Promise {
        provider: HUB,
        promise: "A rotated master key leaves nothing under the old one",
        // Fails when a row is left under the old key, when nothing was rotated, and when a secret does not open.
        held: *keys >= 2 && *data_keys >= 1 && *left == 0 && opened == secrets && *secrets >= expected,
        seen: seen.master_keys.to_text(),
    }
}

/// What was counted and compared of one provider.
fn side(seen: &Seen<'_>, role: &dyn Role, inbox: &Inbox, healed: u64, (counts, runs): (&Counts, &[Run])) -> Side {
    let (ledger, name) = (role.ledger(), role.name());
    let (effects, different) = inbox.effects;
    Side {
        calls: counts.calls(name, role.port()),
        provider: ProviderSide {
            requests: ledger.requests,
            faults: ledger.faults.iter().map(|(kind, n)| (kind.clone(), *n)).collect(),
            early_after_retry_after: ledger.early_after_retry_after,
            keys_reused: ledger.keys_reused,
            peak_per_second: ledger.peak_per_second,
        },
        deliveries: Deliveries {
            happened: role.happened(),
            accepted: counts.delivered(name, "accepted") + counts.delivered(name, "duplicate"),
            duplicate: counts.delivered(name, "duplicate"),
            rejected: counts.delivered(name, "refused"),
            lost: ledger.webhooks.dropped,
            healed,
            handled: inbox.done,
            effects: if different == effects { effects } else { effects.max(different + 1) },
            dead: inbox.dead,
        },
        streams: role
            .streams()
            .into_iter()
            .map(|stream| (stream.to_owned(), compare(seen, role, stream, runs)))
            .collect(),
    }
}

/// The feed's copy of a stream against the provider's truth.
fn compare(seen: &Seen<'_>, role: &dyn Role, stream: &str, runs: &[Run]) -> StreamTruth {
    let (key, truth, empty) = (role.key(stream), role.truth(stream), Followed::default());
    let here = &seen.copies.get(&key).unwrap_or(&empty).copy;
    let missing_or_other = truth.iter().filter(|(id, value)| here.get(*id) != Some(value)).count();
    let surplus = here.keys().filter(|id| !truth.contains_key(*id)).count();
    let full = || runs.iter().filter(|run| run.key == key && run.mode == RunMode::Full && run.state == RunState::Done);
    StreamTruth {
        truth: truth.len() as u64,
        stored: here.len() as u64,
        differ: (missing_or_other + surplus) as u64,
        pages: full().map(|run| run.pages).sum(),
        resumed: full().map(|run| u64::from(run.resumed)).sum(),
    }
}

/// What the inbox and the product's own table hold, by provider.
async fn inboxes(stage: &Stage) -> Result<BTreeMap<String, Inbox>> {
    let mut all: BTreeMap<String, Inbox> = BTreeMap::new();
    let mut before = None;
    loop {
        let page = stage.hub.store().events(None, before, 1_000).await?;
        for event in page.events {
            let inbox = all.entry(event.provider).or_default();
            match event.state {
                EventState::Pending => inbox.pending += 1,
                EventState::Done => inbox.done += 1,
                EventState::Dead => inbox.dead += 1,
                EventState::Ignored => {}
            }
            *inbox.kinds.entry(event.event.kind).or_default() += 1;
            inbox.arrived.push(event.event.id.as_str().to_owned());
        }
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    // The newest come first.
    all.values_mut().for_each(|inbox| inbox.arrived.reverse());
    let sql = "SELECT provider, count(*), count(DISTINCT event) FROM effect GROUP BY provider";
    for row in stage.store.query(sql, vec![]).await? {
        if let [Cell::Text(provider), Cell::Integer(effects), Cell::Integer(different)] = row.as_slice() {
            let inbox = all.entry(provider.clone()).or_default();
            inbox.effects = (effects.unsigned_abs(), different.unsigned_abs());
        }
    }
    Ok(all)
}

/// Pages of the customers' full run beyond what listing everybody once takes. Customers created while it runs stand
/// before the first page and add none, those created before it began do: nobody knows from outside which are which, so
/// all of them are granted.
fn again(seen: &Seen<'_>, side: &Side) -> u64 {
    let page_size = u64::from(WorkerSettings::default().page_size);
    side.streams.get("customers").map_or(0, |customers| {
        let listed = customers.truth.max(seen.story.customers as u64);
        customers.pages.saturating_sub(listed.div_ceil(page_size))
    })
}

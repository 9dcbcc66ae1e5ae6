//! `palisade destinations`: the URLs events are forwarded to, and what people do with them.
//!
//! To list, show, enable, disable, pause, resume and remove them takes no secret; to make, change keys, try and replay
//! takes the master key. A hub that serves learns of it within five seconds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use palisade_core::forward::{Changed, Replay};
use palisade_core::net::{Network, Reach};
use palisade_core::store::{
    DESTINATIONS_MAX, DestinationSpec, Destinations, Disabled, DisabledBy, EventRow, Filter, Order, StoredDestination,
};
use palisade_core::{Error, ErrorKind, Secret, Timestamp};
use serde_json::json;

use super::asked::{Ask, Moment, Named, age, check_span, kind, moment, more};
use super::out::{at, count, document, facts, short, table};
use super::place::{Opened, now, with_store};
use super::{Failure, given_up, say};
use crate::config::{SecretRef, process_variables};
use crate::routes::destinations::{DestinationOut, OVERLAP_MAX, REPLAY_LIMIT, REPLAY_LIMIT_MAX, told, usual};
use crate::time::rfc3339;

/// Characters of a reason in a table.
const REASON_CHARS: usize = 60;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade destinations list
  palisade destinations add billing https://app.example.com/hooks --type 'invoice.*' --provider stripe
  palisade destinations test billing
  palisade destinations replay billing --since 2h --dry-run
  palisade destinations pause billing
  palisade destinations rotate billing --overlap 24h";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists the destinations by name.
    List(Ask),
    /// Shows one.
    Show(Named),
    /// Makes one, and shows its signing key, once.
    Add(Box<Add>),
    /// Removes one. What waits for it is given up.
    Remove(Named),
    /// Enables one that is disabled.
    Enable(Named),
    /// Disables one: what comes due meanwhile is dead until it is replayed.
    Disable(Named),
    /// Pauses one: what is to be sent to it waits, and goes out when it is resumed.
    Pause(Named),
    /// Lets a paused one go on.
    Resume(Named),
    /// Gives one a new signing key, and shows it, once. The old one signs beside it for a while.
    Rotate {
        #[command(flatten)]
        named: Named,
        /// How long the old key signs beside the new one: 24h, 0s. As the configuration says otherwise.
        #[arg(long, value_name = "TIME", value_parser = overlap)]
        overlap: Option<Duration>,
        /// A file that holds the new key (whsec_…), instead of one that is drawn.
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Sends one a message of the type palisade.test, now.
    Test(Named),
    /// Lists the events that were given up for one, the oldest first.
    Dead(given_up::List),
    /// Sends again events that were given up for one.
    Resend(given_up::Which),
    /// Dismisses events that were given up for one.
    Dismiss(given_up::Which),
    /// Forwards again what one has missed.
    Replay {
        #[command(flatten)]
        named: Named,
        /// Events received within this time (2h, 7d), or since a moment (2026-01-31T12:00:00Z).
        #[arg(long, value_name = "WHEN", value_parser = moment)]
        since: Moment,
        /// Events received longer ago than this, or before a moment.
        #[arg(long, value_name = "WHEN", value_parser = moment)]
        until: Option<Moment>,
        /// Events before this row, where an earlier replay ended.
        #[arg(long, value_name = "NUMBER")]
        before: Option<i64>,
        /// How many events to look at.
        #[arg(long, value_name = "N", default_value_t = REPLAY_LIMIT,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(REPLAY_LIMIT_MAX)))]
        limit: u32,
        /// Changes nothing: says how many would be forwarded.
        #[arg(long)]
        dry_run: bool,
    },
}

/// A destination to make.
#[derive(Debug, Args)]
pub(super) struct Add {
    #[command(flatten)]
    named: Named,
    /// Where events are posted to.
    url: String,
    /// Which events: exact types, prefixes (invoice.*), or * for all. May be given several times.
    #[arg(long = "type", value_name = "TYPE", default_value = "*", value_parser = kind)]
    types: Vec<String>,
    /// Of this provider only.
    #[arg(long)]
    provider: Option<String>,
    /// Of this connection only.
    #[arg(long, value_name = "ID")]
    connection: Option<String>,
    /// Of this tenant only.
    #[arg(long)]
    tenant: Option<String>,
    /// Attempts under way at once.
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Time for one attempt: 15s.
    #[arg(long, value_name = "TIME", value_parser = age)]
    timeout: Option<Duration>,
    /// One more header, as NAME=VALUE. None that holds a secret. May be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Events of one ordering key one after another.
    #[arg(long)]
    by_key: bool,
    /// For development: private addresses too.
    #[arg(long)]
    allow_private: bool,
    /// For development: this network, whatever it is. May be given several times.
    #[arg(long = "allow-network", value_name = "NETWORK")]
    allow_networks: Vec<Network>,
    /// For development: plain http.
    #[arg(long)]
    allow_http: bool,
    /// A file that holds its signing key (whsec_…), instead of one that is drawn.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    pair.ok_or_else(|| "write it as NAME=VALUE".to_owned())
}

fn overlap(text: &str) -> Result<Duration, String> {
    let overlap = age(text)?;
    if overlap > OVERLAP_MAX { Err("30 days at most".to_owned()) } else { Ok(overlap) }
}

/// Reads a signing key that somebody made.
fn secret(file: Option<&Path>) -> Result<Option<Secret>, Failure> {
    let read = |file: &Path| SecretRef::File(file.to_owned()).read(Path::new(""), &process_variables);
    file.map(read).transpose().map_err(|problem| Failure::usage(format!("--secret-file: {problem}")))
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List(ask) => with_store(&ask.place, async |opened| list(opened, ask.json).await),
        Command::Show(named) => with_store(&named.ask.place, async |opened| show(opened, named).await),
        Command::Add(add) => {
            let secret = secret(add.secret_file.as_deref())?;
            with_store(&add.named.ask.place, async |opened| {
                let there = opened.store.destinations().await?;
                if there.len() >= DESTINATIONS_MAX as usize {
                    return Err(Failure::no("there are as many destinations as there can be: remove one"));
                }
                let made = opened.forwarder()?.create(&add.named.name, add.spec(), secret).await.map_err(as_flags)?;
                shown(opened, &made, add.named.ask.json)
            })
        }
        Command::Remove(named) => with_store(&named.ask.place, async |opened| remove(opened, named).await),
        Command::Enable(named) => with_store(&named.ask.place, async |opened| enable(opened, named, true).await),
        Command::Disable(named) => with_store(&named.ask.place, async |opened| enable(opened, named, false).await),
        Command::Pause(named) => with_store(&named.ask.place, async |opened| pause(opened, named, true).await),
        Command::Resume(named) => with_store(&named.ask.place, async |opened| pause(opened, named, false).await),
        Command::Rotate { named, overlap, secret_file } => {
            let secret = secret(secret_file.as_deref())?;
            with_store(&named.ask.place, async |opened| {
                let made = opened.forwarder()?.rotate(&named.name, secret, *overlap).await?;
                shown(opened, &made, named.ask.json)
            })
        }
        Command::Dead(asked) => given_up::list(asked),
        Command::Resend(asked) => given_up::resend(asked),
        Command::Dismiss(asked) => given_up::dismiss(asked),
        Command::Test(named) => with_store(&named.ask.place, async |opened| test(opened, named).await),
        Command::Replay { named, since, until, before, limit, dry_run } => {
            let now = now();
            check_span(Some(*since), *until, now)?;
            let until = until.map_or(Timestamp(i64::MAX), |until| until.at(now));
            let before = before.map(EventRow);
            let replay = Replay { since: since.at(now), until, before, limit: *limit, dry_run: *dry_run };
            with_store(&named.ask.place, async |opened| replay_in(opened, named, replay).await)
        }
    }
}

impl Add {
    fn spec(&self) -> DestinationSpec {
        let usual = usual();
        DestinationSpec {
            url: self.url.clone(),
            filter: Filter {
                provider: self.provider.clone(),
                connection: self.connection.clone().map(Into::into),
                tenant: self.tenant.clone().map(Into::into),
                types: self.types.clone(),
            },
            concurrency: self.concurrency.unwrap_or(usual.concurrency),
            timeout: self.timeout.unwrap_or(usual.timeout),
            headers: self.headers.clone(),
            order: if self.by_key { Order::ByKey } else { usual.order },
            reach: Reach { private: self.allow_private, networks: self.allow_networks.clone(), plain: self.allow_http },
        }
    }
}

/// Says what is wrong with a destination by the arguments that let it be.
fn as_flags(error: Error) -> Failure {
    if error.kind() != ErrorKind::Invalid {
        return error.into();
    }
    let words =
        [("allow_http", "--allow-http"), ("allow_private", "--allow-private"), ("allow_networks", "--allow-network")];
    let told = words.iter().fold(error.message().to_owned(), |text, (key, flag)| text.replace(key, flag));
    Failure::usage(told)
}

/// How a destination is told.
fn out<'a>(opened: &Opened, row: &'a StoredDestination) -> DestinationOut<'a> {
    DestinationOut::at(&opened.config.forwarding, now(), row)
}

fn state(opened: &Opened, row: &StoredDestination) -> &'static str {
    opened.config.forwarding.standing(row, now()).as_str()
}

/// Why it fails or is disabled.
fn why(row: &StoredDestination) -> String {
    let disabled = row.health.disabled.as_ref().map(|disabled| disabled.reason.clone());
    disabled.or_else(|| row.health.reason.clone()).unwrap_or_default()
}

async fn list(opened: &Opened, as_json: bool) -> Result<(), Failure> {
    let rows = opened.store.destinations().await?;
    let names = rows.iter().map(|row| row.name.clone()).collect();
    let counts = opened.store.forward_counts(names).await?;
    if as_json {
        let list: Vec<_> = rows.iter().map(|row| out(opened, row).counted(counts.get(&row.name))).collect();
        return document(&json!({ "destinations": list }));
    }
    let row = |one: &StoredDestination| {
        [
            one.name.clone(),
            state(opened, one).to_owned(),
            one.spec.url.clone(),
            one.spec.filter.types.join(" "),
            if one.configured { "configuration" } else { "by hand" }.to_owned(),
            one.health.failures.to_string(),
            counts.get(&one.name).map_or_else(String::new, |counts| counts.waiting.to_string()),
            counts.get(&one.name).map_or_else(String::new, |counts| counts.dead.to_string()),
            at(one.health.delivered_at),
            short(&why(one), REASON_CHARS),
        ]
    };
    let headings =
        ["destination", "state", "url", "types", "made", "failures", "waiting", "given up", "delivered", "why"];
    table(headings, rows.iter().map(row));
    Ok(())
}

async fn find(opened: &Opened, name: &str) -> Result<StoredDestination, Failure> {
    let rows = opened.store.destinations().await?;
    let found = rows.into_iter().find(|row| row.name == name);
    found.ok_or_else(|| Failure::no(format!("there is no destination {name}: `palisade destinations list` shows them")))
}

async fn show(opened: &Opened, named: &Named) -> Result<(), Failure> {
    let row = find(opened, &named.name).await?;
    if named.ask.json {
        let counts = opened.store.forward_counts(vec![row.name.clone()]).await?;
        return document(&out(opened, &row).counted(counts.get(&row.name)));
    }
    told_of(opened, &row);
    Ok(())
}

fn told_of(opened: &Opened, row: &StoredDestination) {
    let (spec, health) = (&row.spec, &row.health);
    let named = |id: Option<&str>| id.unwrap_or_default().to_owned();
    facts(&[
        ("destination", row.name.clone()),
        ("state", state(opened, row).to_owned()),
        ("why", why(row)),
        ("url", spec.url.clone()),
        ("types", spec.filter.types.join(" ")),
        ("provider", named(spec.filter.provider.as_deref())),
        ("connection", named(spec.filter.connection.as_ref().map(|id| id.as_str()))),
        ("tenant", named(spec.filter.tenant.as_ref().map(|id| id.as_str()))),
        ("at once", spec.concurrency.to_string()),
        ("order", if spec.order == Order::ByKey { "by key".to_owned() } else { String::new() }),
        ("made", if row.configured { "by the configuration".to_owned() } else { rfc3339(row.created_at) }),
        ("failures", if health.failures > 0 { health.failures.to_string() } else { String::new() }),
        ("failing since", at(health.failing_since)),
        ("delivered", at(health.delivered_at)),
        ("disabled", at(health.disabled.as_ref().map(|disabled| disabled.at))),
        ("paused", at(row.paused_at)),
    ]);
}

/// Shows one that was made or given a key, with the key.
fn shown(opened: &Opened, made: &Changed, as_json: bool) -> Result<(), Failure> {
    let secret = made.secret.as_ref().map(Secret::expose);
    if as_json {
        return document(&json!({ "destination": out(opened, &made.row), "secret": secret }));
    }
    told_of(opened, &made.row);
    if let Some(secret) = secret {
        say("");
        say(format!("signing key  {secret}"));
        say("it is shown now and never again: give it to the receiver");
    }
    Ok(())
}

async fn remove(opened: &Opened, named: &Named) -> Result<(), Failure> {
    let row = find(opened, &named.name).await?;
    if row.configured {
        return Err(Failure::no(format!(
            "{} stands in the configuration: remove it there and start again",
            named.name
        )));
    }
    opened.store.remove_destination(named.name.clone()).await?;
    if named.ask.json {
        return document(&json!({ "name": named.name, "removed": true }));
    }
    say(format!("removed {}", named.name));
    Ok(())
}

async fn enable(opened: &Opened, named: &Named, enabled: bool) -> Result<(), Failure> {
    find(opened, &named.name).await?;
    let disabled = Disabled { at: now(), by: DisabledBy::Person, reason: "somebody disabled it".to_owned() };
    let disabled = (!enabled).then_some(disabled);
    let changed = opened.store.disable_destination(named.name.clone(), disabled, None).await?;
    if named.ask.json {
        return document(&out(opened, &find(opened, &named.name).await?));
    }
    let name = &named.name;
    say(match (enabled, changed) {
        (true, true) => {
            format!("enabled {name}: `palisade destinations replay {name} --since …` sends what it missed")
        }
        (true, false) => format!("{name} was enabled already"),
        (false, true) => format!("disabled {name}"),
        (false, false) => format!("{name} was disabled already"),
    });
    Ok(())
}

async fn pause(opened: &Opened, named: &Named, paused: bool) -> Result<(), Failure> {
    find(opened, &named.name).await?;
    let changed = opened.store.pause_destination(named.name.clone(), paused.then(now)).await?;
    if named.ask.json {
        return document(&out(opened, &find(opened, &named.name).await?));
    }
    let name = &named.name;
    say(match (paused, changed) {
        (true, true) => format!("paused {name}: what is to be sent to it waits"),
        (true, false) => format!("{name} was paused already"),
        (false, true) => format!("resumed {name}: what waits is sent when a hub serves"),
        (false, false) => format!("{name} was not paused"),
    });
    Ok(())
}

async fn test(opened: &Opened, named: &Named) -> Result<(), Failure> {
    let tested = opened.forwarder()?.test(&named.name).await?;
    let (delivered, status, reason) = told(&tested.answer);
    let millis = u64::try_from(tested.took.as_millis()).unwrap_or(u64::MAX);
    if named.ask.json {
        document(&json!({ "delivered": delivered, "status": status, "reason": reason, "took_ms": millis }))?;
        return if delivered { Ok(()) } else { Err(Failure::negative()) };
    }
    if !delivered {
        return Err(Failure::no(format!("the test event did not arrive: {}", reason.unwrap_or("no answer"))));
    }
    say(format!("the test event arrived: the receiver answered {} after {millis} ms", status.unwrap_or_default()));
    Ok(())
}

async fn replay_in(opened: &Opened, named: &Named, replay: Replay) -> Result<(), Failure> {
    let done = opened.forwarder()?.replay(&named.name, replay).await?;
    let next = done.next_before.map(|row| row.0);
    if named.ask.json {
        return document(&json!({
            "dry_run": replay.dry_run, "looked_at": done.looked_at, "wanted": done.wanted, "next_before": next,
        }));
    }
    let (wanted, looked) = (count(done.wanted, "event", "events"), done.looked_at);
    say(if replay.dry_run {
        format!("would forward {wanted} of {looked} looked at; nothing was changed")
    } else {
        format!("{wanted} of {looked} looked at are forwarded when a hub serves")
    });
    more("--before", next);
    Ok(())
}

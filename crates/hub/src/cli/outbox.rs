//! `palisade outbox`: calls that are kept until they are made, and what somebody decides about them.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use palisade_core::ErrorKind;
use palisade_core::store::{CallId, CallState, Decided, Decision, Outbox, OutboxCall};
use serde_json::{Value, json};

use super::asked::{Ask, Numbered, Page, and_one, cut, more};
use super::out::{self, at, document, facts, short, table};
use super::place::{Opened, with_store};
use super::records::pretty;
use super::{Failure, say};
use crate::routes::outbox::{CallOut, found_out, refusal};
use crate::time::rfc3339;

/// Characters of a reason in a table.
const REASON_CHARS: usize = 80;

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade outbox list --state review
  palisade outbox show 12
  palisade outbox reconcile 12
  palisade outbox resolve 12 --happened
  palisade outbox retry 13 14";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum State {
    /// To be made, now or later.
    Waiting,
    /// On its way.
    Running,
    /// Made.
    Done,
    /// Not made, and given up.
    Failed,
    /// Nobody knows whether it was made.
    Review,
    /// Called back.
    Cancelled,
}

impl State {
    fn stored(self) -> CallState {
        match self {
            Self::Waiting => CallState::Waiting,
            Self::Running => CallState::Running,
            Self::Done => CallState::Done,
            Self::Failed => CallState::Failed,
            Self::Review => CallState::Review,
            Self::Cancelled => CallState::Cancelled,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists calls, newest first.
    List {
        /// In this state.
        #[arg(long)]
        state: Option<State>,
        #[command(flatten)]
        page: Page,
    },
    /// Shows one call with what it says and what was answered.
    Show(Numbered),
    /// Has calls made now: those that failed, or that wait.
    Retry(Chosen),
    /// Calls back calls that wait.
    Cancel(Chosen),
    /// Ends the review of calls with what somebody found at the provider.
    #[command(group = ArgGroup::new("found").required(true).args(["happened", "not_happened"]))]
    Resolve {
        #[command(flatten)]
        chosen: Chosen,
        /// They were made.
        #[arg(long)]
        happened: bool,
        /// They were not: they are made now.
        #[arg(long)]
        not_happened: bool,
    },
    /// Asks the provider whether a call in review was made, and ends the review where that is certain. It needs the
    /// secrets the configuration names.
    Reconcile(Numbered),
}

/// Calls somebody decides about.
#[derive(Debug, Args)]
pub(super) struct Chosen {
    /// Their numbers.
    #[arg(required = true, value_name = "NUMBER")]
    ids: Vec<i64>,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { state, page } => {
            let state = state.map(State::stored);
            with_store(&page.ask.place, async |opened| list(opened, state, page).await)
        }
        Command::Show(one) => with_store(&one.ask.place, async |opened| show(opened, one).await),
        Command::Retry(chosen) => decide(chosen, Decision::Retry),
        Command::Cancel(chosen) => decide(chosen, Decision::Cancel),
        Command::Resolve { chosen, happened, .. } => {
            decide(chosen, if *happened { Decision::Happened } else { Decision::NotHappened })
        }
        Command::Reconcile(one) => with_store(&one.ask.place, async |opened| reconcile(opened, one).await),
    }
}

async fn list(opened: &Opened, state: Option<CallState>, page: &Page) -> Result<(), Failure> {
    let mut calls = opened.store.outbox(state, page.before.map(CallId), and_one(page.limit)).await?;
    let next = cut(&mut calls, page.limit, |call| call.id);
    if page.ask.json {
        let counts = opened.store.outbox_counts().await?;
        let list: Vec<_> = calls.iter().map(CallOut::of).collect();
        return document(&json!({ "calls": list, "counts": counts, "next_before": next }));
    }
    let row = |one: &OutboxCall| {
        [
            one.id.to_string(),
            one.state.as_str().to_owned(),
            one.call.connection.to_string(),
            one.call.operation.clone(),
            one.attempts.to_string(),
            rfc3339(one.call.created_at),
            at(one.next_at),
            short(one.error.as_deref().unwrap_or_default(), REASON_CHARS),
        ]
    };
    table(["call", "state", "connection", "operation", "attempts", "kept", "next", "why"], calls.iter().map(row));
    more("--before", next);
    Ok(())
}

fn missing(id: i64) -> String {
    format!("there is no call {id} in the outbox")
}

async fn show(opened: &Opened, asked: &Numbered) -> Result<(), Failure> {
    let found = opened.store.outbox_call(CallId(asked.id)).await?;
    let one = found.ok_or_else(|| Failure::no(missing(asked.id)))?;
    if asked.ask.json {
        return document(&CallOut::whole(&one));
    }
    let call = &one.call;
    let answer = one.answer.as_ref();
    facts(&[
        ("call", one.id.to_string()),
        ("state", one.state.as_str().to_owned()),
        ("why", one.error.clone().unwrap_or_default()),
        ("connection", call.connection.to_string()),
        ("tenant", call.tenant.to_string()),
        ("provider", call.provider.clone()),
        ("operation", call.operation.clone()),
        ("a repeat is", call.replay.clone()),
        ("idempotency key", call.idempotency_key.clone()),
        ("unique", call.unique.clone().unwrap_or_default()),
        ("attempts", one.attempts.to_string()),
        ("kept", rfc3339(call.created_at)),
        ("due", rfc3339(call.run_at)),
        ("next attempt", at(one.next_at)),
        ("perhaps made since", at(one.sent_at)),
        ("ended", at(one.finished_at)),
        ("answer", answer.map_or_else(String::new, |answer| answer.status.to_string())),
        ("request id", answer.and_then(|answer| answer.request_id.clone()).unwrap_or_default()),
    ]);
    say("");
    say(format!("{} {}", out::clean(&call.request.method), out::clean(&call.request.target)));
    for (name, value) in &call.request.headers {
        say(out::clean(&format!("{name}: {value}")));
    }
    body(&call.request.body);
    if let Some(answer) = answer {
        say("");
        say(answer.status);
        for (name, value) in &answer.headers {
            say(out::clean(&format!("{name}: {value}")));
        }
        body(&answer.body);
    }
    Ok(())
}

fn body(body: &[u8]) {
    if !body.is_empty() {
        say("");
        say(pretty(body));
    }
}

/// Puts a decision about each call into effect; those for which it is none are named.
fn decide(chosen: &Chosen, decision: Decision) -> Result<(), Failure> {
    with_store(&chosen.ask.place, async |opened| {
        let worker = opened.worker()?;
        let (mut decided, mut refused): (Vec<Value>, Vec<(i64, String)>) = (Vec::new(), Vec::new());
        for &id in &chosen.ids {
            match worker.decide_call(CallId(id), decision).await? {
                Decided::Now(state) if chosen.ask.json => decided.push(json!({ "id": id, "state": state })),
                Decided::Now(state) => say(format!("call {id}: {}", state.as_str())),
                Decided::Refused(state) => refused.push((id, refusal(decision, state))),
                Decided::Missing => refused.push((id, missing(id))),
            }
        }
        if chosen.ask.json {
            let refused: Vec<_> = refused.iter().map(|(id, why)| json!({ "id": id, "why": why })).collect();
            document(&json!({ "calls": decided, "refused": refused }))?;
        }
        match refused.as_slice() {
            [] => Ok(()),
            [(id, why)] => Err(Failure::no(format!("call {id}: {why}"))),
            more => {
                let each: Vec<_> = more.iter().map(|(id, why)| format!("call {id}: {why}")).collect();
                Err(Failure::no(each.join("; ")))
            }
        }
    })
}

async fn reconcile(opened: &Opened, asked: &Numbered) -> Result<(), Failure> {
    let id = asked.id;
    let (found, state) = opened
        .with_hub(async |hub| {
            hub.reconcile_call(CallId(id)).await.map_err(|error| {
                if matches!(error.kind(), ErrorKind::Store | ErrorKind::Overloaded) {
                    return error.into();
                }
                Failure::no(format!("call {id}: {}", error.message()))
            })
        })
        .await?;
    let (word, why) = found_out(&found);
    if asked.ask.json {
        document(&json!({ "id": id, "found": word, "why": why, "state": state }))?;
    } else {
        let what = match word {
            "made" => "it was made",
            "not_made" => "it was not made: it is made now",
            "later" => "it is too early to say",
            _ => "the provider cannot say for certain",
        };
        let why = why.map_or_else(String::new, |why| format!(" ({why})"));
        say(format!("call {id}: {what}{why}; it stands as {}", state.as_str()));
    }
    if state == CallState::Review { Err(Failure::negative()) } else { Ok(()) }
}

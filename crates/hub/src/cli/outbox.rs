//! `palisade outbox`: calls that are kept until they are made, and what somebody decides about them.

use clap::{Args, Subcommand, ValueEnum};
use palisade_core::ErrorKind;
use palisade_core::store::{CallId, CallState, Decided, Decision, Outbox, OutboxCall};
use serde_json::{Value, json};

use super::out::{self, LIMIT_DEFAULT, at, document, facts, short, table};
use super::place::{Opened, Place, store_failure, with_store};
use super::records::pretty;
use super::{Failure, say};
use crate::routes::outbox::{CallOut, found_out, refusal};
use crate::time::rfc3339;

/// Characters of a reason in a table.
const REASON_CHARS: usize = 80;

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
        #[command(flatten)]
        place: Place,
        /// In this state.
        #[arg(long)]
        state: Option<State>,
        /// Those before this number.
        #[arg(long)]
        before: Option<i64>,
        /// How many at most.
        #[arg(long, default_value_t = LIMIT_DEFAULT, value_parser = out::limit())]
        limit: u32,
        /// One JSON document instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Shows one call with what it says and what was answered.
    Show {
        /// Its number.
        id: i64,
        #[command(flatten)]
        place: Place,
        /// One JSON document, as `GET /api/v1/outbox/{id}` writes it.
        #[arg(long)]
        json: bool,
    },
    /// Has calls made now: those that failed, or that wait.
    Retry(Chosen),
    /// Calls back calls that wait.
    Cancel(Chosen),
    /// Ends the review of calls with what somebody found at the provider.
    Resolve {
        #[command(flatten)]
        chosen: Chosen,
        /// They were made.
        #[arg(long, required_unless_present = "not_happened", conflicts_with = "not_happened")]
        happened: bool,
        /// They were not: they are made now.
        #[arg(long)]
        not_happened: bool,
    },
    /// Asks the provider whether a call in review was made, and ends the review where that is certain.
    Reconcile {
        /// Its number.
        id: i64,
        #[command(flatten)]
        place: Place,
        /// One JSON document.
        #[arg(long)]
        json: bool,
    },
}

/// Calls somebody decides about.
#[derive(Debug, Args)]
pub(super) struct Chosen {
    /// Their numbers.
    #[arg(required = true)]
    ids: Vec<i64>,
    #[command(flatten)]
    place: Place,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::List { place, state, before, limit, json } => {
            let state = state.map(State::stored);
            with_store(place, async |opened| list(opened, state, *before, *limit, *json).await)
        }
        Command::Show { id, place, json } => with_store(place, async |opened| show(opened, *id, *json).await),
        Command::Retry(chosen) => decide(chosen, Decision::Retry),
        Command::Cancel(chosen) => decide(chosen, Decision::Cancel),
        Command::Resolve { chosen, happened, .. } => {
            decide(chosen, if *happened { Decision::Happened } else { Decision::NotHappened })
        }
        Command::Reconcile { id, place, json } => with_store(place, async |opened| reconcile(opened, *id, *json).await),
    }
}

async fn list(
    opened: &Opened,
    state: Option<CallState>,
    before: Option<i64>,
    limit: u32,
    as_json: bool,
) -> Result<(), Failure> {
    let calls = opened.store.outbox(state, before.map(CallId), limit).await.map_err(|error| store_failure(&error))?;
    let next = calls.last().filter(|_| calls.len() == limit as usize).map(|call| call.id);
    if as_json {
        let counts = opened.store.outbox_counts().await.map_err(|error| store_failure(&error))?;
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
    if let Some(next) = next {
        say(format!("more: --before {next}"));
    }
    Ok(())
}

fn missing(id: i64) -> String {
    format!("there is no call {id} in the outbox")
}

async fn show(opened: &Opened, id: i64, as_json: bool) -> Result<(), Failure> {
    let found = opened.store.outbox_call(CallId(id)).await.map_err(|error| store_failure(&error))?;
    let one = found.ok_or_else(|| Failure::no(missing(id)))?;
    if as_json {
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
    with_store(&chosen.place, async |opened| {
        let worker = opened.worker()?;
        let (mut decided, mut refused): (Vec<Value>, Vec<(i64, String)>) = (Vec::new(), Vec::new());
        for &id in &chosen.ids {
            match worker.decide_call(CallId(id), decision).await.map_err(|error| store_failure(&error))? {
                Decided::Now(state) if chosen.json => decided.push(json!({ "id": id, "state": state })),
                Decided::Now(state) => say(format!("call {id}: {}", state.as_str())),
                Decided::Refused(state) => refused.push((id, refusal(decision, state))),
                Decided::Missing => refused.push((id, missing(id))),
            }
        }
        if chosen.json {
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

async fn reconcile(opened: &Opened, id: i64, as_json: bool) -> Result<(), Failure> {
    let (found, state) = opened
        .with_hub(async |hub| {
            hub.reconcile_call(CallId(id)).await.map_err(|error| {
                if matches!(error.kind(), ErrorKind::Store | ErrorKind::Overloaded) {
                    return store_failure(&error);
                }
                Failure::no(format!("call {id}: {}", error.message()))
            })
        })
        .await?;
    let (word, why) = found_out(&found);
    if as_json {
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

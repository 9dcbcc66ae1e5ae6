//! `palisade inbox status | pause | resume`: what the inbox keeps, and whose events are not handled for now.

use clap::Args;
use palisade_core::Timestamp;
use palisade_core::store::{EventState, Halt, Inbox};
use serde_json::json;

use super::asked::Ask;
use super::out::{document, facts, table};
use super::place::{Opened, now, with_store};
use super::{Failure, say};
use crate::builtin;
use crate::routes::inbox::{CAUSES_SHOWN, HaltOut};
use crate::time::rfc3339;

/// Whose events: everybody's where neither is named.
#[derive(Debug, Args)]
pub(super) struct Scope {
    /// Those of this provider only.
    #[arg(long, conflicts_with = "connection")]
    provider: Option<String>,
    /// Those of this connection only; `palisade connections pause` pauses its syncs too.
    #[arg(long, value_name = "ID")]
    connection: Option<String>,
    #[command(flatten)]
    ask: Ask,
}

/// Pauses the handling of events, or resumes it.
pub(super) fn turn(scope: &Scope, pause: bool) -> Result<(), Failure> {
    with_store(&scope.ask.place, async |opened| {
        let halt = halt_of(opened, scope).await?;
        let store = &opened.store;
        let turned = if pause { store.halt(halt.clone(), now()).await } else { store.resume(halt.clone()).await };
        let changed = turned?;
        if scope.ask.json {
            let word = if pause { "paused" } else { "resumed" };
            return document(&json!({ word: HaltOut::of(&halt), "changed": changed }));
        }
        let whose = whose(&halt);
        say(match (pause, changed) {
            (true, true) => format!("paused {whose}: deliveries are taken and kept, what is under way ends"),
            (true, false) => format!("{whose} were paused already"),
            (false, true) => format!("resumed {whose}"),
            (false, false) => format!("{whose} were not paused"),
        });
        Ok(())
    })
}

async fn halt_of(opened: &Opened, scope: &Scope) -> Result<Halt, Failure> {
    match (&scope.provider, &scope.connection) {
        (Some(name), _) => {
            let of_flow = opened.config.flows.iter().any(|flow| flow.provider == *name);
            if builtin::find(name).is_none() && !of_flow {
                return Err(Failure::no(format!("there is no provider {name} in this program or its configuration")));
            }
            Ok(Halt::Provider(name.clone()))
        }
        (None, Some(id)) => opened.connection(id).await.map(|connection| Halt::Connection(connection.id)),
        (None, None) => Ok(Halt::All),
    }
}

fn whose(halt: &Halt) -> String {
    match halt {
        Halt::All => "all events".to_owned(),
        Halt::Provider(name) => format!("the events of {name}"),
        Halt::Connection(id) => format!("the events of the connection {id}"),
    }
}

/// Tells what the inbox keeps and what of it is paused.
pub(super) fn status(ask: &Ask) -> Result<(), Failure> {
    with_store(&ask.place, async |opened| {
        let halts = opened.store.halts(CAUSES_SHOWN).await?;
        let counts = opened.store.event_counts().await?;
        let bytes = opened.store.inbox_bytes().await?;
        if ask.json {
            let halts: Vec<_> = halts.iter().map(HaltOut::since).collect();
            return document(&json!({ "paused": halts, "events": counts, "bytes": bytes }));
        }
        let of = |state| counts.get(&state).copied().unwrap_or(0).to_string();
        facts(&[
            ("pending", of(EventState::Pending)),
            ("done", of(EventState::Done)),
            ("ignored", of(EventState::Ignored)),
            ("dead", of(EventState::Dead)),
            ("bytes", bytes.to_string()),
        ]);
        if !halts.is_empty() {
            say("");
            let row = |(halt, at): &(Halt, Timestamp)| [whose(halt), rfc3339(*at)];
            table(["paused", "since"], halts.iter().map(row));
        }
        Ok(())
    })
}

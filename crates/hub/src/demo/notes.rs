//! The product's own notes of its calls: a row stands from before a call is sent, and says afterwards what the call said
//! of itself. A call that was begun by a process that died is told from one that was never made.

use std::collections::BTreeMap;
use std::time::Duration;

use palisade_core::store::{Effect, Value};
use palisade_core::{ErrorKind, Outcome, Result, Timestamp};
use palisade_store::SqliteStore;
use tokio::time::sleep;

/// How often a call is tried that an open breaker refuses.
const REFUSALS_MAX: u32 = 20;
/// The most that lies between two of them.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);

/// The product's table.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS story_call (provider TEXT NOT NULL, number INTEGER NOT NULL, \
                                begun INTEGER NOT NULL, said TEXT, PRIMARY KEY (provider, number)) STRICT";

/// What a call said of itself in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It happened.
    Done,
    /// Its fate was unknown; a look-up found that it happened.
    Found,
    /// Its fate was unknown; a look-up found nothing.
    Missing,
    /// It did not happen.
    NotDone,
    /// Its fate is unknown.
    Unknown,
}

impl Said {
    const ALL: [Self; 5] = [Self::Done, Self::Found, Self::Missing, Self::NotDone, Self::Unknown];

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Found => "found",
            Self::Missing => "missing",
            Self::NotDone => "not_done",
            Self::Unknown => "unknown",
        }
    }

    /// What an error says of its call.
    pub(super) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Unknown | Outcome::Processed => Self::Unknown,
            Outcome::NotSent | Outcome::Rejected => Self::NotDone,
        }
    }

    /// Tells whether it is true of a call that happened so many times.
    fn fits(self, times: u64) -> bool {
        match self {
            Self::Done | Self::Found => times == 1,
            Self::Missing | Self::NotDone => times == 0,
            Self::Unknown => times <= 1,
        }
    }
}

/// What an earlier process left of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing; it is noted now that the call begins.
    Nothing,
    /// It was about to be sent then, or was sent.
    Begun(Timestamp),
    /// It has said what became of it.
    Said(Said),
}

/// The notes of the calls to one provider.
#[derive(Clone)]
pub(super) struct Notes {
    store: SqliteStore,
    provider: &'static str,
}

impl Notes {
    /// Opens them.
    pub(super) fn of(provider: &'static str, store: SqliteStore) -> Self {
        Self { store, provider }
    }

    fn named(&self, number: u32) -> Vec<Value> {
        vec![Value::Text(self.provider.to_owned()), Value::Integer(number.into())]
    }

    /// Reads what is known of a call, and notes that it begins.
    pub(super) async fn before(&self, number: u32, now: Timestamp) -> Result<Before> {
        let sql = "SELECT begun, said FROM story_call WHERE provider = ?1 AND number = ?2";
        let rows = self.store.query(sql, self.named(number)).await?;
        let Some(row) = rows.first() else {
            let mut values = self.named(number);
            values.push(Value::Integer(now.millis()));
            self.write("INSERT INTO story_call (provider, number, begun) VALUES (?1, ?2, ?3)", values).await?;
            return Ok(Before::Nothing);
        };
        Ok(match row.as_slice() {
            [_, Value::Text(said)] => Before::Said(read(said)),
            [Value::Integer(begun), ..] => Before::Begun(Timestamp(*begun)),
            _ => Before::Nothing,
        })
    }

    /// Notes what a call said.
    pub(super) async fn say(&self, number: u32, said: Said) -> Result<()> {
        let mut values = self.named(number);
        values.push(Value::Text(said.name().to_owned()));
        self.write("UPDATE story_call SET said = ?3 WHERE provider = ?1 AND number = ?2", values).await
    }

    async fn write(&self, sql: &str, values: Vec<Value>) -> Result<()> {
        self.store.execute(Effect { sql: sql.to_owned(), values }).await.map(drop)
    }

    /// Reads all of them.
    pub(super) async fn all(&self) -> Result<BTreeMap<u32, Said>> {
        let sql = "SELECT number, coalesce(said, 'unknown') FROM story_call WHERE provider = ?1";
        let rows = self.store.query(sql, vec![Value::Text(self.provider.to_owned())]).await?;
        let of = |row: &Vec<Value>| match row.as_slice() {
            [Value::Integer(number), Value::Text(said)] => Some((u32::try_from(*number).ok()?, read(said))),
            _ => None,
        };
        Ok(rows.iter().filter_map(of).collect())
    }

    /// Compares them with how often each call really happened.
    pub(super) async fn against(&self, happened: &BTreeMap<u32, u64>) -> Result<Told> {
        let mut told = Told::default();
        for (number, said) in self.all().await? {
            let times = happened.get(&number).copied().unwrap_or(0);
            told.twice += u64::from(times > 1);
            if !said.fits(times) {
                told.wrong += 1;
                continue;
            }
            match said {
                Said::Done => told.done += 1,
                Said::Found => told.found += 1,
                Said::Missing => told.missing += 1,
                Said::NotDone => {}
                Said::Unknown => told.unknown += 1,
            }
        }
        Ok(told)
    }
}

/// How many calls said what, and how it was true.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) done: u64,
    pub(super) found: u64,
    pub(super) missing: u64,
    pub(super) unknown: u64,
    /// Those that said something else than what happened.
    pub(super) wrong: u64,
    /// Those that happened more than once.
    pub(super) twice: u64,
}

fn read(name: &str) -> Said {
    Said::ALL.into_iter().find(|said| said.name() == name).unwrap_or(Said::Unknown)
}

/// Makes a call as a product does: what an open breaker refuses has not left and is tried again a little later.
///
/// # Errors
/// The call's own, at the end.
pub(super) async fn patiently<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> Result<T> {
    for _ in 0..REFUSALS_MAX {
        match call().await {
            Err(error) if error.outcome() == Outcome::NotSent && error.kind() == ErrorKind::CircuitOpen => {
                sleep(error.retry_after().unwrap_or(REFUSED_PAUSE).min(REFUSED_PAUSE)).await;
            }
            other => return other,
        }
    }
    call().await
}

//! What happens at a provider by itself, one thing after another: a story that is told again goes on behind the last
//! thing that was noted.

use palisade_core::Result;
use palisade_core::store::{Effect, Value};
use palisade_store::SqliteStore;
use tokio::time::sleep;

use super::PACE;

/// How far the story came at each provider.
pub(super) const TABLE: &str =
    "CREATE TABLE IF NOT EXISTS happening (provider TEXT PRIMARY KEY, number INTEGER NOT NULL) STRICT";

/// The things of one provider.
pub(super) struct Happenings {
    store: SqliteStore,
    provider: &'static str,
}

impl Happenings {
    /// Opens the notes of them.
    pub(super) fn of(provider: &'static str, store: SqliteStore) -> Self {
        Self { store, provider }
    }

    /// Lets so many things happen, at a pace that leaves room for everything else. One whose note was lost with its
    /// process happens once more.
    pub(super) async fn play(self, all: u32, happen: impl Fn(u32)) -> Result<()> {
        let values = vec![Value::Text(self.provider.to_owned())];
        let rows = self.store.query("SELECT number FROM happening WHERE provider = ?1", values).await?;
        let first = match rows.first().and_then(|row| row.first()) {
            Some(Value::Integer(number)) => u32::try_from(*number).unwrap_or(0),
            _ => 0,
        };
        for number in first..all {
            happen(number);
            let values = vec![Value::Text(self.provider.to_owned()), Value::Integer((number + 1).into())];
            let sql = "INSERT INTO happening (provider, number) VALUES (?1, ?2) \
                       ON CONFLICT (provider) DO UPDATE SET number = excluded.number";
            self.store.execute(Effect { sql: sql.to_owned(), values }).await?;
            sleep(PACE).await;
        }
        Ok(())
    }
}

//! Durable stores behind the traits of [`palisade_core::store`]. Every store here and the in-memory model pass one
//! suite, step by step.
//!
//! | feature | store | for |
//! |---|---|---|
//! | `sqlite` (default) | [`SqliteStore`] | one machine: one file beside the program, any number of tasks, a few processes |
//!
//! ```
//! # async fn example() -> palisade_core::Result<()> {
//! use palisade_core::store::{Connections, Effect, Value};
//! use palisade_store::{SqliteConfig, SqliteStore};
//!
//! # let folder = tempfile::tempdir().map_err(|_| palisade_core::Error::new(palisade_core::ErrorKind::Store, "no folder"))?;
//! let store = SqliteStore::open(SqliteConfig::at(folder.path().join("palisade.db")))?;
//! assert_eq!(store.connection("acme".into()).await?, None);
//! // A product keeps its own tables in the same file, so that a handler's effect commits with its job.
//! store.execute(Effect { sql: "CREATE TABLE paid (invoice TEXT PRIMARY KEY)".into(), values: vec![] }).await?;
//! assert_eq!(store.query("SELECT count(*) FROM paid", vec![]).await?, [[Value::Integer(0)]]);
//! store.close().await?;
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example()).unwrap();
//! ```
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")
)]

#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "sqlite")]
pub use sqlite::{Examined, FREE_BYTES_MIN, SqliteConfig, SqliteStore};

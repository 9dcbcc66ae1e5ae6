//! The configured database, opened by commands that look into it or add work to it, whether a hub serves from it or not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use palisade_core::clock::SystemClock;
use palisade_core::store::{Connection, Connections, StreamKey};
use palisade_core::sync::{Source, StreamSpec};
use palisade_core::{Clock, ConnectionId, Error, Provider, StreamName, Timestamp};
use palisade_store::{Examined, SqliteStore};

use super::serve::{folder_of, load, open_store};
use super::{Failure, runtime};
use crate::builtin;
use crate::config::Config;

/// Where the configuration is.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The configuration file, which says where the database is.
    #[arg(long, default_value = "palisade.toml")]
    pub(super) config: PathBuf,
}

/// An open database and what its configuration says.
pub(super) struct Opened {
    pub(super) store: SqliteStore,
    pub(super) config: Config,
}

/// Runs a command over the configured database, on a runtime of its own, and closes it whatever became of the command.
pub(super) fn with_store(
    place: &Place,
    command: impl AsyncFnOnce(&Opened) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let config = load(&place.config)?;
    let path = folder_of(&place.config).join(&config.store.path);
    runtime()?.block_on(async {
        let opened = Opened { store: existing_store(&path).await?, config };
        let done = command(&opened).await;
        let closed = opened.store.close().await;
        done?;
        closed.map_err(|error| store_failure(&error))
    })
}

/// Opens a database that is there already and of this program's version: such a command neither makes nor upgrades one
/// under a running hub.
pub(super) async fn existing_store(path: &Path) -> Result<SqliteStore, Failure> {
    let shown = path.display().to_string();
    if !path.exists() {
        return Err(Failure::machine(format!("{shown} is not there yet: `palisade serve` makes it when it starts")));
    }
    let Examined { found, wanted, .. } = SqliteStore::examine_version(path).map_err(|error| store_failure(&error))?;
    if found != wanted {
        return Err(Failure::machine(format!(
            "{shown} has the schema version {found}, this program wants {wanted}: start the newer `palisade serve` once, \
             then try again"
        )));
    }
    open_store(path.to_owned(), palisade_store::FREE_BYTES_MIN).await
}

pub(super) fn store_failure(error: &Error) -> Failure {
    Failure::machine(format!("the database: {}", error.message()))
}

/// Reads the clock, for ages.
pub(super) fn now() -> Timestamp {
    SystemClock.now()
}

impl Opened {
    /// Reads a connection that must be there.
    pub(super) async fn connection(&self, id: &str) -> Result<Connection, Failure> {
        let found = self.store.connection(ConnectionId::new(id)).await.map_err(|error| store_failure(&error))?;
        found.ok_or_else(|| Failure::no(format!("there is no connection {id}: `palisade connections list` shows them")))
    }

    /// Makes the provider of a connection as a hub would have it.
    pub(super) fn provider(&self, name: &str) -> Result<Arc<dyn Provider>, Failure> {
        let found = builtin::BUILTIN.iter().find(|one| one.name == name);
        let found = found.ok_or_else(|| Failure::no(format!("{name} is not built into this program")))?;
        Ok((found.provider)(&self.config.apps))
    }

    /// Names a stream that its connection must have.
    pub(super) async fn stream(&self, connection: &str, stream: &str) -> Result<StreamKey, Failure> {
        let connection = self.connection(connection).await?;
        let provider = self.provider(&connection.provider)?;
        let names: Vec<&str> = specs(&*provider).iter().map(|spec| spec.name).collect();
        if names.contains(&stream) {
            return Ok(StreamKey { connection: connection.id, stream: StreamName::new(stream) });
        }
        let (provider, names) = (&connection.provider, names.join(", "));
        Err(Failure::no(format!("{provider} has no stream {stream}: it has {names}")))
    }
}

/// Returns the streams of a provider.
pub(super) fn specs(provider: &dyn Provider) -> &'static [StreamSpec] {
    provider.source().map_or(&[], Source::streams)
}

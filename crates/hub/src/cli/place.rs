//! The configured database, opened by commands that look into it or add work to it, whether a hub serves from it or not.
//!
//! Most of them need no secret. Those that seal or open something read the master key, and those that send read every
//! secret the configuration names, as a hub that serves does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use clap::Args;
use palisade_core::auth::vault::Vault;
use palisade_core::clock::SystemClock;
use palisade_core::forward::Forwarder;
use palisade_core::metrics::Metrics;
use palisade_core::random::SystemRandom;
use palisade_core::store::{Connection, Connections, StreamKey};
use palisade_core::sync::{Source, StreamSpec};
use palisade_core::transport::{GuardedTransport, SystemResolver};
use palisade_core::worker::Worker;
use palisade_core::{Clock, ConnectionId, Error, ErrorKind, Provider, StreamName, Timestamp, Transport};
use palisade_store::{Examined, SqliteStore};

use super::keys::holder;
use super::serve::{Secrets, assemble, folder_of, load, open_store, settings};
use super::{Failure, runtime};
use crate::config::{Config, process_variables};
use crate::hub::Hub;
use crate::routing::{self, Endpoint, To};
use crate::unreadable::{self, RejectUnreadable};
use crate::{builtin, chores};

/// Where the configuration is.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The configuration file, which says where the database is.
    #[arg(long, value_name = "FILE", default_value = "palisade.toml")]
    pub(super) config: PathBuf,
}

/// An open database and what its configuration says.
pub(super) struct Opened {
    pub(super) store: SqliteStore,
    pub(super) config: Config,
    /// Where relative paths of the configuration begin.
    folder: PathBuf,
}

/// Nothing is sent over it: what is to be sent is left to a hub that serves.
#[derive(Debug)]
struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn send(&self, _: http::Request<Bytes>) -> palisade_core::Result<http::Response<Bytes>> {
        Err(Error::new(ErrorKind::Config, "nothing is sent from here"))
    }
}

/// Runs a command over the configured database, on a runtime of its own, and closes it whatever became of the command.
pub(super) fn with_store(
    place: &Place,
    command: impl AsyncFnOnce(&Opened) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let config = load(&place.config)?;
    let folder = folder_of(&place.config).to_owned();
    let path = folder.join(&config.store.path);
    runtime()?.block_on(async {
        let opened = Opened { store: existing_store(&path).await?, config, folder };
        let done = command(&opened).await;
        let closed = opened.store.close().await;
        done?;
        Ok(closed?)
    })
}

/// Opens a database that is there already and of this program's version: such a command neither makes nor upgrades one
/// under a running hub.
pub(super) async fn existing_store(path: &Path) -> Result<SqliteStore, Failure> {
    let shown = path.display().to_string();
    if !path.exists() {
        return Err(Failure::machine(format!("{shown} is not there yet: `palisade serve` makes it when it starts")));
    }
    let Examined { found, wanted, .. } = SqliteStore::examine_version(path)?;
    if found != wanted {
        return Err(Failure::machine(format!(
            "{shown} has the schema version {found}, this program wants {wanted}: start the newer `palisade serve` once, \
             then try again"
        )));
    }
    open_store(path.to_owned(), palisade_store::FREE_BYTES_MIN).await
}

impl From<Error> for Failure {
    /// Says why what was asked for is not done: it is not there or stands otherwise, it is wrong, or the database
    /// refuses.
    fn from(error: Error) -> Self {
        let kind = error.kind();
        if matches!(kind, ErrorKind::NotFound | ErrorKind::Conflict) {
            return Self::no(error.message());
        }
        if matches!(kind, ErrorKind::Invalid | ErrorKind::Config) {
            return Self::usage(error.message());
        }
        Self::machine(format!("the database: {}", error.message()))
    }
}

/// Reads the clock, for ages.
pub(super) fn now() -> Timestamp {
    SystemClock.now()
}

impl Opened {
    /// Reads a connection that must be there.
    pub(super) async fn connection(&self, id: &str) -> Result<Connection, Failure> {
        let found = self.store.connection(ConnectionId::new(id)).await?;
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

impl Opened {
    /// Makes a worker that has this program's providers and the schedules of the configuration, to ask and to enqueue
    /// with. It needs no secret, and sends nothing.
    pub(super) fn worker(&self) -> Result<Worker, Failure> {
        let store = Arc::new(self.store.clone());
        let mut builder = Worker::builder(store, Arc::new(SystemClock), Arc::new(SystemRandom))
            .settings(settings(&self.config, None).worker)
            .told(routing::told(&self.endpoints()));
        for one in builtin::BUILTIN {
            builder = builder.provider((one.provider)(&self.config.apps), Arc::new(Nowhere)).on(
                one.name,
                unreadable::KIND,
                RejectUnreadable,
            );
        }
        Ok(chores::named(builder).build()?)
    }

    /// Returns the endpoints of the configuration, without their secrets.
    fn endpoints(&self) -> BTreeMap<String, Endpoint> {
        let endpoint = |one: &crate::config::Endpoint| Endpoint {
            name: one.name.clone(),
            provider: one.provider.clone(),
            secrets: Vec::new(),
            to: match &one.connection {
                Some(connection) => To::Connection(ConnectionId::new(connection.as_str())),
                None => To::Account(one.environment.clone()),
            },
            allow_from: None,
            formerly: one.formerly.clone(),
        };
        self.config.endpoints.iter().map(|one| (one.name.clone(), endpoint(one))).collect()
    }

    /// Makes what knows the destinations, with the master key of the configuration and no other secret.
    pub(super) fn forwarder(&self) -> Result<Forwarder, Failure> {
        let holder = holder(&self.config, &self.folder, &process_variables).map_err(Failure::usage)?;
        let store = Arc::new(self.store.clone());
        let vault = Vault::new(Arc::clone(&store) as _, holder.master_key(), Arc::new(SystemRandom));
        let transport = Arc::new(GuardedTransport::new(Arc::new(SystemResolver)));
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let settings = self.config.forwarding.clone();
        Ok(Forwarder::new(store, Arc::new(vault), transport, clock, random, settings, Metrics::default()))
    }

    /// Puts the hub of the configuration together, with every secret it names, to ask a provider something; heeds what
    /// providers asked to be left alone, and leaves written what its calls leave to be written.
    pub(super) async fn with_hub<T>(
        &self,
        command: impl AsyncFnOnce(&Hub) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let secrets = Secrets::read(&self.config, &self.folder, &process_variables);
        let secrets = secrets.map_err(|problems| Failure::usage(problems.join("\n")))?;
        let hub = assemble(&self.config, secrets, &self.store)?;
        hub.heed_pauses().await?;
        let done = command(&hub).await;
        hub.wind_up().await;
        done
    }
}

/// Returns the streams of a provider.
pub(super) fn specs(provider: &dyn Provider) -> &'static [StreamSpec] {
    provider.source().map_or(&[], Source::streams)
}

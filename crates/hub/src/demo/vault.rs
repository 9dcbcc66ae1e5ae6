//! A new master key while the hub serves, as `palisade keys rotate` makes one, and the proof that the old one is done
//! with.

use std::path::Path;
use std::sync::Arc;

use palisade_core::auth::CredentialSource;
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::vault::{LocalMasterKey, MasterKey, MasterKeyFile, Progress, Rotation, Vault};
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::{GrantState, MasterState, Store};
use palisade_core::{Error, ErrorKind, Random, Result};

use super::report::MasterKeys;

/// Data keys wrapped anew in one commit.
const BATCH: u32 = 500;
/// Connections looked at.
const CONNECTIONS: u32 = 100;

fn random() -> Arc<dyn Random> {
    Arc::new(SystemRandom)
}

/// Makes a new master key the active one and wraps every data key anew; goes on with a rotation that was stopped, and
/// does nothing where one is done. It reads the key file for itself, as another process would: the hub must find out.
pub(super) async fn rotate(store: Arc<dyn Store>, file: &Path) -> Result<()> {
    if MasterKeyFile::open(file, random())?.ids().len() == 1 {
        MasterKeyFile::add(file, &random())?;
    }
    let holder = MasterKeyFile::open(file, random())?;
    let newest = holder.id();
    let active = store.masters().await?.into_iter().find(|one| one.state == MasterState::Active);
    let rotation = Rotation::new(store as _, Arc::new(holder));
    if active.is_none_or(|one| one.id != newest) {
        rotation.activate(&newest).await?;
    }
    let mut progress = Progress::default();
    while !progress.over {
        rotation.step(&mut progress, BATCH).await?;
    }
    Ok(())
}

/// Counts what each master key wraps, and opens every secret with the newest key alone.
pub(super) async fn examine(store: &Arc<dyn Store>, file: &Path) -> Result<MasterKeys> {
    let mut seen = MasterKeys::default();
    for one in store.masters().await? {
        seen.keys += 1;
        *(if one.state == MasterState::Active { &mut seen.data_keys } else { &mut seen.left }) += one.data_keys;
    }
    let tokens = with_the_newest_alone(store, file)?;
    for connection in store.connections(None, CONNECTIONS).await? {
        if store.credential(connection.id.clone()).await?.is_some() {
            seen.secrets += 1;
            seen.opened += u64::from(tokens.credential(connection.id.clone()).await.is_ok());
        }
        for grant in store.grants(connection.id.clone()).await? {
            if grant.state == GrantState::Live {
                let source = tokens.grant(grant.key.name.as_str());
                seen.secrets += 1;
                seen.opened += u64::from(source.credential(connection.id.clone()).await.is_ok());
            }
        }
    }
    Ok(seen)
}

/// Makes a source of credentials that has nothing in memory and no other master key than the newest.
fn with_the_newest_alone(store: &Arc<dyn Store>, file: &Path) -> Result<Arc<TokenSource>> {
    let text = std::fs::read(file)
        .map_err(|error| Error::new(ErrorKind::Store, "the master key's file cannot be read").with_source(error))?;
    let newest = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let master = Arc::new(LocalMasterKey::parse(newest, random())?);
    let vault = Arc::new(Vault::new(Arc::clone(store) as _, master, random()));
    TokenSource::builder(Arc::clone(store), vault, Arc::new(SystemClock), random()).build()
}

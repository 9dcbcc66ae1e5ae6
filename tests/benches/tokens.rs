//! The contenders of `auth` for a token out of memory: a `TokenSource` that has it, and what nobody can do it without.

use std::future::Future;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::vault::{LocalMasterKey, Vault};
use palisade_core::auth::{Credential, CredentialSource, Scheme};
use palisade_core::clock::SystemClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{Connection, ConnectionState, Connections};
use palisade_core::{ConnectionId, Environment, Timestamp};

/// Names of the contenders, as the counting program knows them.
pub(crate) const NAMES: &[&str] = &["token-source", "token-swap"];

/// A connection's id of the usual length.
const CONNECTION: &str = "con_0123456789abcdef0123456789abcdef";

/// Makes what asks the named contender for a token `count` times.
pub(crate) async fn asker(name: &str) -> Box<dyn Fn(usize) -> Pin<Box<dyn Future<Output = ()>>>> {
    let token = Scheme::Bearer("sk_test_4eC39HqLyjWDarjtT1zdp7dc".into());
    match name {
        "token-source" => {
            let id = ConnectionId::new(CONNECTION);
            let source = source(&id, &token).await;
            Box::new(move |count| {
                let (source, id) = (Arc::clone(&source), id.clone());
                Box::pin(async move {
                    for _ in 0..count {
                        black_box(source.credential(id.clone()).await.unwrap());
                    }
                })
            })
        }
        "token-swap" => {
            let kept = Arc::new(ArcSwap::from_pointee(Credential::new(&token, 1, None).unwrap()));
            Box::new(move |count| {
                let kept = Arc::clone(&kept);
                Box::pin(async move {
                    for _ in 0..count {
                        black_box(Credential::clone(&black_box(&kept).load()));
                    }
                })
            })
        }
        other => panic!("{other} is no contender"),
    }
}

/// Makes a source that has a connection's token in memory.
async fn source(id: &ConnectionId, token: &Scheme) -> Arc<TokenSource> {
    let (store, random) = (Arc::new(MemoryStore::new()), Arc::new(SystemRandom));
    let master = LocalMasterKey::parse(LocalMasterKey::generate(&SystemRandom).as_bytes(), random.clone()).unwrap();
    let vault = Arc::new(Vault::new(store.clone(), Arc::new(master), random.clone()));
    let source = TokenSource::builder(store.clone(), vault, Arc::new(SystemClock), random).build().unwrap();
    let connection = Connection {
        id: id.clone(),
        tenant: "tenant-1".into(),
        provider: "example".to_owned(),
        environment: Environment::default(),
        account: None,
        base_url: None,
        state: ConnectionState::Active,
        created_at: Timestamp(0),
    };
    store.put_connection(connection).await.unwrap();
    source.keys().store_credential(id, token).await.unwrap();
    source.credential(id.clone()).await.unwrap();
    source
}

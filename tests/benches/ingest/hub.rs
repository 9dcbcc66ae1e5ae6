//! The hub's own router, as a product mounts it.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Bytes;
use palisade_core::auth::Scheme;
use palisade_core::auth::vault::LocalMasterKey;
use palisade_core::random::SystemRandom;
use palisade_core::{Error, ErrorKind, Secret, Transport};
use palisade_hub::{ConnectionConfig, EndpointConfig, Hub, ServeSettings, serve};
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_stripe::StripeProvider;
use tokio::sync::watch;

use super::load::SECRET;

/// Nothing is called here: only deliveries are received.
struct NoNetwork;

#[async_trait]
impl Transport for NoNetwork {
    async fn send(&self, _request: http::Request<Bytes>) -> palisade_core::Result<http::Response<Bytes>> {
        Err(Error::new(ErrorKind::Connect, "there is no network here"))
    }
}

/// Starts the hub's router on a free port, without workers; the answer is its address.
pub(super) async fn start(file: &Path) -> String {
    let store = SqliteStore::open(SqliteConfig::at(file)).expect("a store");
    let hub = Hub::builder()
        .provider(StripeProvider::new())
        .store(Arc::new(store))
        .transport(Arc::new(NoNetwork))
        .master_key(Arc::new(LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), Arc::new(SystemRandom)).unwrap()))
        .connection(ConnectionConfig {
            environment: Default::default(),
            id: "stripe".into(),
            tenant: "acme".into(),
            provider: "stripe".to_owned(),
            account: None,
            base_url: None,
            credential: Scheme::Bearer("sk_test_bench".into()).into(),
        })
        .endpoint(EndpointConfig {
            name: "stripe".to_owned(),
            provider: "stripe".to_owned(),
            connection: "stripe".into(),
            secrets: vec![Secret::new(SECRET)],
        })
        .build()
        .expect("a hub");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        let (_never, stop) = watch::channel(false);
        serve(listener, hub.router(), ServeSettings::default(), stop).await
    });
    address
}

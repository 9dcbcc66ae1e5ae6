//! Which connections are one account: by what is stored of them, however they were connected.

use std::sync::Arc;

use async_trait::async_trait;
use palisade_core::client::AccountSource;
use palisade_core::store::Store;
use palisade_core::{ConnectionId, Error, ErrorKind, Result};

/// Reads accounts from the rows of connections.
pub(crate) struct StoredAccounts(pub(crate) Arc<dyn Store>);

#[async_trait]
impl AccountSource for StoredAccounts {
    async fn account(&self, connection: ConnectionId) -> Result<Option<String>> {
        let row = self.0.connection(connection.clone()).await?;
        let row = row.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no connection {connection}")))?;
        // Another environment or address may know the same name for another account.
        let at = row.base_url.as_deref().unwrap_or_default();
        Ok(row.account.map(|account| format!("{account} {} {at}", row.environment)))
    }
}

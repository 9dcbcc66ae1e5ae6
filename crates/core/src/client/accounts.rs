//! Which connections are one account at the provider, and so count together against its limits.

use std::collections::HashMap;
use std::sync::Arc;

use crate::id::ConnectionId;

/// The accounts of connections that were given one. Whoever was given none is an account of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Accounts(Arc<HashMap<ConnectionId, ConnectionId>>);

impl Accounts {
    /// Notes a connection's account. Its name stands where a connection's id does; the blank keeps the two apart.
    pub(super) fn put(&mut self, connection: ConnectionId, account: &str) {
        Arc::make_mut(&mut self.0).insert(connection, ConnectionId::new(format!("account {account}")));
    }

    /// Returns what stands for the account of a connection.
    pub(super) fn of<'a>(&'a self, connection: &'a ConnectionId) -> &'a ConnectionId {
        self.0.get(connection).unwrap_or(connection)
    }
}

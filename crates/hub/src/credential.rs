//! What authenticates the connections of a configuration: keys, and service accounts whose tokens are asked for and
//! renewed as any other grant's.

use std::fmt;
use std::sync::Arc;

use palisade_core::auth::Scheme;
use palisade_core::auth::connect::ConfiguredGrant;
use palisade_core::auth::grant::Renewal;
use palisade_core::auth::jwt::{ServiceAccountConfig, ServiceAccountFlow, ServiceAccountKey};
use palisade_core::store::{Connection, GrantState};
use palisade_core::webhook::hmac;
use palisade_core::{ConnectionId, Result, Secret, Transport};

use crate::hub::{ConnectionConfig, Shared, wrong};

/// How the flows of service accounts begin: no flow of a browser is called so.
const FLOW: &str = "service-account:";
/// Characters of the digest in such a flow's name.
const DIGEST_CHARS: usize = 16;

/// What authenticates a connection of the configuration.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is put in place differently")]
pub enum ConnectionCredential {
    /// A key that does not expire.
    Key(Scheme),
    /// A service account, which signs for its tokens.
    ServiceAccount(Box<ServiceAccount>),
}

impl From<Scheme> for ConnectionCredential {
    fn from(key: Scheme) -> Self {
        Self::Key(key)
    }
}

impl From<ServiceAccount> for ConnectionCredential {
    fn from(account: ServiceAccount) -> Self {
        Self::ServiceAccount(Box::new(account))
    }
}

/// A service account of a provider.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; checked by the builder")]
pub struct ServiceAccount {
    /// Its key file (JSON), as the provider gave it.
    pub key: Secret,
    /// The user it acts for (domain-wide delegation).
    pub subject: Option<String>,
    /// The scopes of its tokens.
    pub scopes: Vec<String>,
    /// How it gets them.
    pub config: ServiceAccountConfig,
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount")
            .field("subject", &self.subject)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

impl ServiceAccount {
    /// Returns the name of its flow. It tells one account, key and user from another by what is public of them, so that
    /// an erased grant is not taken for another one; the key itself is compared where it is sealed.
    fn flow(&self, connection: &ConnectionId) -> Result<String> {
        let key = ServiceAccountKey::parse(&self.key)?;
        let public = [key.email(), key.key_id().unwrap_or_default(), self.subject.as_deref().unwrap_or_default()];
        // Each is counted in, so that the parts cannot be shifted among themselves.
        let counted: Vec<String> = public.iter().map(|part| format!("{}:{part}", part.len())).collect();
        let digest = hmac::sha256(b"palisade service account", &[counted.concat().as_bytes()]);
        let digest: String = hmac::to_lower_hex(&digest).chars().take(DIGEST_CHARS).collect();
        Ok(format!("{FLOW}{connection}:{digest}"))
    }

    fn grant(&self, connection: &ConnectionId) -> Result<ConfiguredGrant> {
        let renewal = Renewal::ServiceAccount { key: self.key.clone(), subject: self.subject.clone() };
        Ok(ConfiguredGrant { flow: self.flow(connection)?, renewal, scopes: self.scopes.clone() })
    }
}

/// The flow of one connection's service account.
pub(crate) struct AccountFlow {
    /// Its name.
    pub(crate) name: String,
    /// What renews its grant.
    pub(crate) flow: Arc<ServiceAccountFlow>,
    /// The connection's provider.
    pub(crate) provider: String,
    /// Another address than the provider's.
    pub(crate) base_url: Option<String>,
}

/// Makes the flows of the service accounts among the connections.
///
/// # Errors
/// [`palisade_core::ErrorKind::Config`] when a key cannot be used or a token address is no safe one.
pub(crate) fn account_flows(
    connections: &[ConnectionConfig],
    transport: &Arc<dyn Transport>,
) -> Result<Vec<AccountFlow>> {
    let mut flows = Vec::new();
    for connection in connections {
        let ConnectionCredential::ServiceAccount(account) = &connection.credential else { continue };
        if account.scopes.is_empty() {
            return Err(wrong(format!("the service account of connection {} needs scopes", connection.id)));
        }
        flows.push(AccountFlow {
            name: account.flow(&connection.id)?,
            flow: Arc::new(ServiceAccountFlow::new(account.config.clone(), Arc::clone(transport))?),
            provider: connection.provider.clone(),
            base_url: connection.base_url.clone(),
        });
    }
    Ok(flows)
}

impl Shared {
    /// Puts the credential of a configured connection in place, unless it is there already, or was until somebody
    /// disconnected the connection; with `anew` in any case. Returns whether another one was written. The connection's
    /// row is kept as it is given, but for the store's own changes.
    ///
    /// # Errors
    /// As [`palisade_core::auth::vault::VaultCredentials::store_if_changed`] and
    /// [`palisade_core::auth::connect::Connector::keep_configured`].
    pub(crate) async fn place_credential(
        &self,
        connection: &Connection,
        credential: &ConnectionCredential,
        anew: bool,
    ) -> Result<bool> {
        let id = &connection.id;
        match credential {
            ConnectionCredential::Key(key) => {
                let grants = self.store.grants(id.clone()).await?;
                let signed = |state: &GrantState| !matches!(state, GrantState::Erased { .. });
                let was_account = grants.iter().any(|grant| signed(&grant.state) && grant.flow.starts_with(FLOW));
                if was_account {
                    self.erase(connection).await?;
                }
                if was_account || anew {
                    self.tokens.keys().store_credential(id, key).await?;
                    self.tokens.forget(id);
                    return Ok(true);
                }
                self.tokens.keys().store_if_changed(id, key).await
            }
            ConnectionCredential::ServiceAccount(account) => {
                let stored = self.store.credential(id.clone()).await?;
                let was_key = stored.is_some_and(|stored| !stored.blob.is_empty());
                if was_key {
                    self.erase(connection).await?;
                }
                self.connector.keep_configured(connection, &account.grant(id)?, anew || was_key).await
            }
        }
    }

    /// Erases what authenticated a connection until now: its configuration has a credential of another kind. Two at once
    /// would leave open which one is used.
    async fn erase(&self, connection: &Connection) -> Result<()> {
        self.store.disconnect(connection.id.clone(), Vec::new(), self.clock.now()).await?;
        self.store.put_connection(connection.clone()).await?;
        self.tokens.forget(&connection.id);
        Ok(())
    }
}

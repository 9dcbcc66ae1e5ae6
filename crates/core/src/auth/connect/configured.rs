//! Grants whose credentials stand in a product's configuration: a service account's key. They are put in place when the
//! process starts, and the provider is asked for the first token when somebody needs it.

use std::time::Duration;

use super::Connector;
use super::desk::WRITES_MAX;
use crate::auth::grant::{GrantSecrets, MAIN, Renewal, Tokens};
use crate::auth::vault::Issued;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::store::{Connection, GrantKey, GrantState, NewGrant, StoredGrant};

/// A grant to put in place without asking the provider.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ConfiguredGrant {
    /// What renews it: the name of a flow that was added by [`super::ConnectorBuilder::flow`]. It must be another one for
    /// other credentials: an erased grant is told from a new one by it.
    pub flow: String,
    /// What gets the tokens.
    pub renewal: Renewal,
    /// The scopes to ask for.
    pub scopes: Vec<String>,
}

impl Connector {
    /// Writes a connection with its grant from the configuration, unless the very same is there already and in use, or
    /// was until the connection was disconnected: what somebody ended is not begun again by itself. With `anew` it is
    /// written in any case. One that is over is written again: the cause may be mended. Returns whether it was written.
    ///
    /// Doing it in several processes at once is lawful: one writes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such flow; [`ErrorKind::Config`] when the stored grant is sealed under
    /// another master key; [`ErrorKind::Conflict`] when others keep changing it; [`ErrorKind::Store`],
    /// [`ErrorKind::Overloaded`].
    pub async fn keep_configured(&self, connection: &Connection, grant: &ConfiguredGrant, anew: bool) -> Result<bool> {
        let inner = self.inner();
        let policy = self.flow(&grant.flow)?.policy();
        let key = GrantKey { connection: connection.id.clone(), name: MAIN.into() };
        for attempt in 0..WRITES_MAX {
            let old = inner.store.grant(key.clone()).await?;
            // Whoever lost against another writer compares: it may have written the very same.
            let compared = !anew || attempt > 0;
            if compared
                && let Some(old) = &old
                && self.is_kept(connection, old, grant).await?
            {
                return Ok(false);
            }
            let plain_key = inner.store.credential(connection.id.clone()).await?.map_or(0, |key| key.generation);
            let expected = old.map_or(0, |old| old.generation);
            let generation = expected.max(plain_key).saturating_add(1);
            // A token that expired long ago, whatever the clock says: the first call asks for one.
            let tokens = Tokens {
                name: key.name.clone(),
                access: Secret::new(""),
                renewal: grant.renewal.clone(),
                expires_in: Some(Duration::ZERO),
                requested: grant.scopes.clone(),
                granted: grant.scopes.clone(),
            };
            let issued = Issued { at: Timestamp(0), policy: &policy, random: inner.random.as_ref() };
            let generations = (expected, generation);
            let sealed = inner.vault.seal_tokens(&connection.tenant, &key, generations, &tokens, issued).await?;
            let requested = grant.scopes.clone();
            let new = NewGrant { name: key.name.clone(), flow: grant.flow.clone(), requested, tokens: sealed };
            if inner.store.connect(connection.clone(), vec![new]).await? {
                self.forget(&connection.id);
                return Ok(true);
            }
        }
        Err(Error::new(ErrorKind::Conflict, "the connection was changed by somebody else again and again"))
    }

    /// Tells whether a stored grant is the configured one.
    async fn is_kept(&self, connection: &Connection, old: &StoredGrant, grant: &ConfiguredGrant) -> Result<bool> {
        match old.state {
            GrantState::Erased { .. } => return Ok(old.flow == grant.flow),
            GrantState::Ending { .. } | GrantState::Dead { .. } => return Ok(false),
            GrantState::Live => {}
        }
        if old.flow != grant.flow || old.requested != grant.scopes {
            return Ok(false);
        }
        match self.inner().vault.open_grant(&connection.tenant, old).await {
            Ok(secrets) => {
                let kept = GrantSecrets { access: Secret::new(""), renewal: secrets.renewal };
                let wanted = GrantSecrets { access: Secret::new(""), renewal: grant.renewal.clone() };
                Ok(kept.to_plaintext() == wanted.to_plaintext())
            }
            Err(error) if error.kind() == ErrorKind::Config => Err(error),
            // One that does not open any more is replaced.
            Err(_) => Ok(false),
        }
    }
}

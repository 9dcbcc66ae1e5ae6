//! A browser on its way: what is kept of it, and the form it is sealed in.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::auth::oauth2::ScopeGroup;
use crate::auth::vault::{Place, Vault};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, TenantId};
use crate::secret::Secret;
use crate::store::{PendingRow, TokenHash};

/// A flow that has begun and is not finished. It holds the PKCE verifier: what is stored of it is sealed.
#[derive(Clone, Debug)]
pub struct PendingAuthorization {
    pub(super) flow: String,
    pub(super) tenant: TenantId,
    pub(super) connection: ConnectionId,
    pub(super) state: TokenHash,
    pub(super) browser: TokenHash,
    pub(super) verifier: Option<Secret>,
    pub(super) scopes: Vec<ScopeGroup>,
    pub(super) return_to: Option<String>,
    pub(super) expires_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Plain {
    flow: String,
    verifier: Option<String>,
    /// Parameter, grant, scopes.
    scopes: Vec<(String, String, Vec<String>)>,
    return_to: Option<String>,
}

impl PendingAuthorization {
    /// Returns the name of the flow.
    #[must_use]
    pub fn flow(&self) -> &str {
        &self.flow
    }

    /// Returns the connection that is made or renewed.
    #[must_use]
    pub fn connection(&self) -> &ConnectionId {
        &self.connection
    }

    /// Returns the tenant.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Returns what it is found by when the browser comes back.
    #[must_use]
    pub fn state(&self) -> TokenHash {
        self.state
    }

    /// Returns where the browser goes afterwards.
    #[must_use]
    pub fn return_to(&self) -> Option<&str> {
        self.return_to.as_deref()
    }

    /// Returns when it is too late.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Seals it for the store, bound to its state, so that no two rows can be swapped.
    ///
    /// # Errors
    /// As [`Vault::seal`].
    pub async fn seal(&self, vault: &Vault) -> Result<PendingRow> {
        let group =
            |group: &ScopeGroup| (group.parameter.clone(), group.grant.as_str().to_owned(), group.scopes.clone());
        let plain = Plain {
            flow: self.flow.clone(),
            verifier: self.verifier.as_ref().map(|verifier| verifier.expose().to_owned()),
            scopes: self.scopes.iter().map(group).collect(),
            return_to: self.return_to.clone(),
        };
        let bytes = Zeroizing::new(serde_json::to_vec(&plain).map_err(|error| {
            Error::new(ErrorKind::Store, "a pending authorisation cannot be written").with_source(error)
        })?);
        // The verifier's copy is wiped with the secret it becomes.
        drop(plain.verifier.map(Secret::from));
        let field = field(&self.state);
        let place = place(&self.tenant, &self.connection, &field);
        Ok(PendingRow {
            state: self.state,
            browser: self.browser,
            tenant: self.tenant.clone(),
            connection: self.connection.clone(),
            blob: vault.seal(place, &bytes).await?,
            expires_at: self.expires_at,
        })
    }

    /// Opens a row of the store.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub async fn open(row: PendingRow, vault: &Vault) -> Result<Self> {
        let field = field(&row.state);
        let bytes = vault.open(place(&row.tenant, &row.connection, &field), &row.blob).await?;
        let plain: Plain = serde_json::from_slice(&bytes)
            .map_err(|_| Error::new(ErrorKind::Decode, "an opened pending authorisation is not in a known form"))?;
        let group = |(parameter, grant, scopes): (String, String, Vec<String>)| ScopeGroup {
            parameter,
            grant: grant.into(),
            scopes,
        };
        Ok(Self {
            flow: plain.flow,
            tenant: row.tenant,
            connection: row.connection,
            state: row.state,
            browser: row.browser,
            verifier: plain.verifier.map(Secret::from),
            scopes: plain.scopes.into_iter().map(group).collect(),
            return_to: plain.return_to,
            expires_at: row.expires_at,
        })
    }
}

fn field(state: &TokenHash) -> String {
    use std::fmt::Write as _;
    state.0.iter().fold("pending/".to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn place<'a>(tenant: &'a TenantId, connection: &'a ConnectionId, field: &'a str) -> Place<'a> {
    Place { tenant, connection, field, generation: 0 }
}

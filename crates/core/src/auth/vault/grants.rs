//! The secrets of grants, sealed for their rows.

use std::time::Duration;

use super::{Place, Turn, Vault};
use crate::auth::flow::RenewalPolicy;
use crate::auth::grant::{GrantSecrets, Renewal, Tokens};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::TenantId;
use crate::random::Random;
use crate::store::{GrantKey, NewTokens, StoredGrant};

/// The share of its term by which a keep-alive may come sooner, so that grants of one day do not all come at once.
const KEEP_ALIVE_JITTER: f64 = 0.1;
/// A longer term is as good as none, and must not overflow.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

impl Vault {
    /// Opens the secrets of a stored grant.
    pub(in crate::auth) async fn open_grant(&self, tenant: &TenantId, grant: &StoredGrant) -> Result<GrantSecrets> {
        let field = field(&grant.key);
        let plain = self.open(place(tenant, &grant.key, &field, grant.generation), &grant.blob).await?;
        GrantSecrets::from_plaintext(&plain)
    }

    /// Seals tokens that follow the generation `expected`, for the generation `generation`.
    pub(in crate::auth) async fn seal_tokens(
        &self,
        tenant: &TenantId,
        key: &GrantKey,
        (expected, generation): (u64, u64),
        tokens: &Tokens,
        issued: Issued<'_>,
    ) -> Result<NewTokens> {
        let turn = self.take_turn(tenant).await?;
        self.seal_tokens_at(&turn, tenant, key, (expected, generation), tokens, issued)
    }

    /// As [`Vault::seal_tokens`], with a turn taken before.
    pub(in crate::auth) fn seal_tokens_at(
        &self,
        turn: &Turn,
        tenant: &TenantId,
        key: &GrantKey,
        (expected, generation): (u64, u64),
        tokens: &Tokens,
        issued: Issued<'_>,
    ) -> Result<NewTokens> {
        let secrets = GrantSecrets { access: tokens.access.clone(), renewal: tokens.renewal.clone() };
        let field = field(key);
        let blob = self.seal_at(turn, place(tenant, key, &field, generation), &secrets.to_plaintext())?;
        let term = match tokens.renewal {
            Renewal::RefreshToken(_) => issued.policy.keep_alive,
            Renewal::Never | Renewal::Client(_) | Renewal::ServiceAccount { .. } => None,
        };
        let sooner = 1.0 - KEEP_ALIVE_JITTER * issued.random.unit();
        Ok(NewTokens {
            expected,
            generation,
            blob,
            issued_at: issued.at,
            expires_at: tokens.expires_in.map(|life| issued.at.plus(life)),
            keep_alive_at: term.map(|term| issued.at.plus(term.min(KEEP_ALIVE_MAX).mul_f64(sooner))),
            granted: tokens.granted.clone(),
        })
    }
}

/// When tokens were issued, and how they are kept alive.
#[derive(Clone, Copy)]
pub(in crate::auth) struct Issued<'a> {
    pub(in crate::auth) at: Timestamp,
    pub(in crate::auth) policy: &'a RenewalPolicy,
    pub(in crate::auth) random: &'a dyn Random,
}

fn field(key: &GrantKey) -> String {
    format!("grant/{}", key.name)
}

fn place<'a>(tenant: &'a TenantId, key: &'a GrantKey, field: &'a str, generation: u64) -> Place<'a> {
    Place { tenant, connection: &key.connection, field, generation }
}

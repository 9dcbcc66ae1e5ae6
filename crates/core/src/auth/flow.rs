//! What gets, renews and revokes the grants of a provider: the seam between the token source and a provider's ways.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::grant::{Renewal, Tokens};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::store::Revocation;

/// Renews and revokes grants: OAuth 2.0 ([`super::oauth2::OAuth2Flow`]), a service account, or a way of one's own.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Flow: Send + Sync + fmt::Debug + 'static {
    /// Says how grants of this flow are renewed.
    fn policy(&self) -> RenewalPolicy;

    /// Asks the provider for the next tokens, once: the token source decides about repeating. Tokens whose
    /// [`Tokens::renewal`] is the one given keep it.
    ///
    /// # Errors
    /// What the provider's answer, or its absence, means for the grant.
    async fn renew(&self, asked: RenewalAsk) -> Result<Tokens, RenewalFailure>;

    /// Ends a grant at the provider. A token the provider does not know any more counts as confirmed.
    ///
    /// # Errors
    /// A passing failure: it may be tried again.
    async fn revoke(&self, asked: RevocationAsk) -> Result<Revocation, Error>;
}

/// How grants of a flow are renewed.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "settings; any value is valid")]
pub struct RenewalPolicy {
    /// Whether a refresh token may be sent again when the answer was lost. `false` where the provider gives a new one
    /// each time and revokes the old: then a lost answer is a lost grant, and it is said.
    pub refresh_reusable: bool,
    /// The share of its life after which a token is renewed, in `(0, 1)`; up to a tenth of the life sooner by jitter.
    pub renew_at: f64,
    /// How long a grant that nobody uses may lie before it is renewed, where providers let them die.
    pub keep_alive: Option<Duration>,
    /// How long one request may take. When it is over, the answer counts as lost.
    pub timeout: Duration,
}

impl Default for RenewalPolicy {
    /// Single-use refresh tokens, renewed at 80 % of their life, not kept alive, 60 s for a request.
    fn default() -> Self {
        Self { refresh_reusable: false, renew_at: 0.8, keep_alive: None, timeout: Duration::from_secs(60) }
    }
}

/// A grant to renew.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct RenewalAsk {
    /// The grant's name within its connection.
    pub name: crate::id::GrantName,
    /// What gets the next token.
    pub renewal: Renewal,
    /// The scopes that were asked for at the connect.
    pub requested: Vec<String>,
    /// The scopes that were granted so far; an answer that names none keeps them.
    pub granted: Vec<String>,
    /// The present moment.
    pub now: Timestamp,
}

/// A grant to revoke.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct RevocationAsk {
    /// The grant's name within its connection.
    pub name: crate::id::GrantName,
    /// Its secrets.
    pub secrets: super::grant::GrantSecrets,
    /// The account at the provider.
    pub account: Option<String>,
}

/// Why a renewal gave no tokens. Told apart by the codes of RFC 6749, section 5.2, alone.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the token source decides on each")]
pub enum RenewalFailure {
    /// The provider kept the grant as it was, or was not reached at all: try again later.
    Passing {
        /// What happened.
        error: Error,
        /// The wait the provider asks for.
        after: Option<Duration>,
    },
    /// `invalid_grant`: this refresh token is not accepted.
    Over(Error),
    /// The request may have reached the provider and no answer came.
    Lost(Error),
    /// Our own side is set up wrongly (`invalid_client`, `invalid_scope`): the grant is as good as it was, and trying
    /// again soon is of no use.
    Wrong(Error),
}

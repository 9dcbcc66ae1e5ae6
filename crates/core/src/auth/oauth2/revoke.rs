//! Ending a grant at the provider.

use super::reply::Asked;
use super::wire::{Endpoint, TokenError, bearer};
use super::{OAuth2Config, RevocationWay};
use crate::auth::flow::RevocationAsk;
use crate::auth::grant::Renewal;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::Revocation;

/// Asks the provider once.
///
/// # Errors
/// A passing failure.
pub(super) async fn revoke(config: &OAuth2Config, endpoint: &Endpoint, asked: RevocationAsk) -> Result<Revocation> {
    let access = &asked.secrets.access;
    let sent = match &config.revocation {
        RevocationWay::NotOffered => return Ok(Revocation::NotOffered),
        RevocationWay::Token(url) => {
            // Ending the refresh token ends the grant (RFC 7009, 2.1); an access token may end alone.
            let (token, hint) = match &asked.secrets.renewal {
                Renewal::RefreshToken(token) => (token, "refresh_token"),
                Renewal::Never | Renewal::Client(_) | Renewal::ServiceAccount { .. } => (access, "access_token"),
            };
            let form = [("token", token.expose()), ("token_type_hint", hint)];
            endpoint.post_as_client(Asked::Revocation, url, &form).await
        }
        RevocationWay::Bearer(url) => {
            let authorization = bearer(access).map_err(passing)?;
            endpoint.post(Asked::Revocation, url, &[], Some(authorization)).await
        }
        RevocationWay::Account { url, parameter } => {
            let Some(account) = &asked.account else { return Ok(Revocation::NotConfirmed) };
            endpoint.post_as_client(Asked::Revocation, url, &[(parameter.as_str(), account.as_str())]).await
        }
    };
    let normal = sent.map_err(passing)?;
    match config.dialect.revoked(&normal.reply) {
        Some(revocation) => Ok(revocation),
        None => Err(normal.into_refusal().into_error()),
    }
}

fn passing(error: TokenError) -> Error {
    match error {
        TokenError::Unanswered(error) => error,
        TokenError::Refused(refusal) => refusal.into_error(),
        TokenError::Unreadable => {
            Error::new(ErrorKind::Decode, "the answer to the revocation cannot be read").with_outcome(Outcome::Unknown)
        }
    }
}

//! Our credentials behind the seam Google's own crates ask for tokens.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use google_apis_common::GetToken;
use http::header::AUTHORIZATION;
use palisade_core::auth::CredentialSource;
use palisade_core::{ConnectionId, Error, ErrorKind};

type Given<'a> = Pin<Box<dyn Future<Output = Result<Option<String>, Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// Gives the valid access token of a connection to any library that asks through [`GetToken`].
///
/// For what does not run over the pipeline; over it the pipeline adds the token itself. The scopes asked for are not
/// looked at: a connection has those its owner granted. A failure is our own [`Error`], to be had by downcasting.
#[derive(Clone)]
pub struct ConnectionToken {
    source: Arc<dyn CredentialSource>,
    connection: ConnectionId,
}

impl ConnectionToken {
    /// Takes the source of credentials and the connection.
    #[must_use]
    pub fn new(source: Arc<dyn CredentialSource>, connection: impl Into<ConnectionId>) -> Self {
        Self { source, connection: connection.into() }
    }

    async fn token(&self) -> Result<String, Error> {
        let credential = self.source.credential(self.connection.clone()).await?;
        // A credential is made to be put on a request, which is where it is read from.
        let mut request = http::Request::new(());
        credential.apply(&mut request)?;
        let bearer =
            request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let token = bearer.map(str::to_owned);
        token.ok_or_else(|| Error::new(ErrorKind::Config, "the connection's credential is no access token"))
    }
}

impl fmt::Debug for ConnectionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionToken").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl GetToken for ConnectionToken {
    fn get_token<'a>(&'a self, _scopes: &'a [&str]) -> Given<'a> {
        Box::pin(async move { Ok(Some(self.token().await?)) })
    }
}

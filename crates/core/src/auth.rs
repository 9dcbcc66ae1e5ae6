//! What authenticates a connection, where it comes from, and the vault that seals it before any store sees it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, GrantName};
use crate::secret::Secret;

mod address;
mod audience;
pub mod connect;
pub mod flow;
pub mod grant;
pub(crate) mod hasher;
pub mod jwt;
pub mod oauth2;
#[cfg(test)]
mod testing;
pub mod token_source;
pub mod vault;

pub use audience::Audience;

/// A secret with the way it is sent. Serialised only inside the vault.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each way is applied in one place")]
pub enum Scheme {
    /// `Authorization: Bearer …`.
    Bearer(Secret),
    /// `Authorization: Basic …`.
    Basic {
        /// The user name or account id.
        user: String,
        /// The password or key.
        password: Secret,
    },
    /// A key in a header of the provider's own.
    Header {
        /// The header's name.
        name: String,
        /// The key.
        key: Secret,
    },
    /// A key in the query.
    Query {
        /// The parameter's name.
        name: String,
        /// The key.
        key: Secret,
    },
}

/// A credential ready to be put on a request, with the version a refresh compares against.
#[derive(Clone)]
pub struct Credential {
    placed: Placed,
    version: u64,
    expires_at: Option<Timestamp>,
    audience: Option<Audience>,
}

#[derive(Clone)]
enum Placed {
    Header(HeaderName, HeaderValue),
    Query(String, Secret),
}

impl Credential {
    /// Prepares a credential. `version` is the generation of what the store holds.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the secret cannot stand in a header (line breaks, control characters).
    pub fn new(scheme: &Scheme, version: u64, expires_at: Option<Timestamp>) -> Result<Self> {
        let header = |name: HeaderName, text: &str| -> Result<Placed> {
            let mut value = HeaderValue::from_str(text).map_err(|_| {
                Error::new(
                    ErrorKind::Config,
                    "the credential holds a character that cannot stand in a header: was a line break copied with it?",
                )
            })?;
            value.set_sensitive(true);
            Ok(Placed::Header(name, value))
        };
        let placed = match scheme {
            Scheme::Bearer(token) => header(AUTHORIZATION, &format!("Bearer {}", token.expose()))?,
            Scheme::Basic { user, password } => {
                let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
                header(AUTHORIZATION, &format!("Basic {pair}"))?
            }
            Scheme::Header { name, key } => {
                let name = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| Error::new(ErrorKind::Config, "the credential's header name is not one"))?;
                header(name, key.expose())?
            }
            Scheme::Query { name, key } => Placed::Query(name.clone(), key.clone()),
        };
        Ok(Self { placed, version, expires_at, audience: None })
    }

    /// Lets it be sent to these hosts only: those of its connection's environment.
    #[must_use]
    pub fn only_to(mut self, audience: Audience) -> Self {
        self.audience = Some(audience);
        self
    }

    /// Returns the hosts it may be sent to; `None`: wherever the client may go.
    #[must_use]
    pub fn audience(&self) -> Option<&Audience> {
        self.audience.as_ref()
    }

    /// Returns the version a refresh compares against.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns when it expires, if it does.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// Tells whether the key or token begins with a text that says what it is for (`sk_test_`). Never of
    /// [`Scheme::Basic`], where the secret is not the beginning of what is sent.
    #[must_use]
    pub fn begins_with(&self, prefix: &str) -> bool {
        match &self.placed {
            Placed::Header(name, value) => {
                let value = value.as_bytes();
                let text = if *name == AUTHORIZATION { value.strip_prefix(b"Bearer ") } else { Some(value) };
                text.is_some_and(|text| text.starts_with(prefix.as_bytes()))
            }
            Placed::Query(_, key) => key.expose().starts_with(prefix),
        }
    }

    /// Puts the credential on a request: replaces the header, or adds the query parameter percent-encoded.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the address cannot take a query.
    pub fn apply<B>(&self, request: &mut http::Request<B>) -> Result<()> {
        match &self.placed {
            Placed::Header(name, value) => {
                request.headers_mut().insert(name.clone(), value.clone());
                Ok(())
            }
            Placed::Query(name, key) => {
                let encode = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
                let uri = request.uri().to_string();
                let joint = if uri.contains('?') { '&' } else { '?' };
                let uri = format!("{uri}{joint}{}={}", encode(name), encode(key.expose()));
                *request.uri_mut() = uri
                    .parse()
                    .map_err(|_| Error::new(ErrorKind::Config, "the address cannot take a query parameter"))?;
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let placed = match &self.placed {
            Placed::Header(name, _) => name.as_str(),
            Placed::Query(name, _) => name,
        };
        write!(f, "Credential({placed}: …, version {})", self.version)
    }
}

/// Gives the valid credential of a connection.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait CredentialSource: Send + Sync + 'static {
    /// Returns the credential to use now.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`] when there is none or its owner must reconnect; [`ErrorKind::Store`] otherwise.
    async fn credential(&self, connection: ConnectionId) -> Result<Credential>;

    /// Replaces the credential after the provider refused version `seen`. When a newer one is already there it is
    /// returned without asking the provider: one flight serves all callers.
    ///
    /// # Errors
    /// [`ErrorKind::Auth`] when nothing newer can be had.
    async fn refresh(&self, connection: ConnectionId, seen: u64) -> Result<Credential>;

    /// Returns the source of another grant of the same connections (Slack's `user` beside its `bot`); `None` where
    /// connections have one credential only.
    fn of_grant(&self, name: GrantName) -> Option<Arc<dyn CredentialSource>> {
        let _ = name;
        None
    }
}

/// One fixed credential for every connection: for a product that uses a single crate with its own key.
#[derive(Clone, Debug)]
pub struct FixedCredential(Credential);

impl FixedCredential {
    /// Takes the scheme with its secret.
    ///
    /// # Errors
    /// As [`Credential::new`].
    pub fn new(scheme: &Scheme) -> Result<Self> {
        Credential::new(scheme, 1, None).map(Self)
    }
}

#[async_trait]
impl CredentialSource for FixedCredential {
    async fn credential(&self, _connection: ConnectionId) -> Result<Credential> {
        Ok(self.0.clone())
    }

    async fn refresh(&self, _connection: ConnectionId, _seen: u64) -> Result<Credential> {
        Err(Error::new(ErrorKind::Auth, "the provider refused the key: replace it")
            .with_outcome(crate::Outcome::Rejected))
    }
}

/// The scheme as the vault's plaintext. Never leaves this crate unsealed.
#[derive(Serialize, Deserialize)]
#[serde(tag = "scheme", rename_all = "snake_case")]
enum Plain {
    Bearer { token: String },
    Basic { user: String, password: String },
    Header { name: String, key: String },
    Query { name: String, key: String },
}

impl Scheme {
    /// Writes the scheme for sealing. The buffer is wiped when dropped.
    #[must_use]
    pub fn to_plaintext(&self) -> zeroize::Zeroizing<Vec<u8>> {
        let own = |secret: &Secret| secret.expose().to_owned();
        let plain = match self {
            Self::Bearer(token) => Plain::Bearer { token: own(token) },
            Self::Basic { user, password } => Plain::Basic { user: user.clone(), password: own(password) },
            Self::Header { name, key } => Plain::Header { name: name.clone(), key: own(key) },
            Self::Query { name, key } => Plain::Query { name: name.clone(), key: own(key) },
        };
        zeroize::Zeroizing::new(serde_json::to_vec(&plain).unwrap_or_default())
    }

    /// Reads an opened plaintext.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`] when it is not one of ours.
    pub fn from_plaintext(bytes: &[u8]) -> Result<Self> {
        let plain: Plain = serde_json::from_slice(bytes)
            .map_err(|_| Error::new(ErrorKind::Decode, "the opened credential is not in a known form"))?;
        Ok(match plain {
            Plain::Bearer { token } => Self::Bearer(token.into()),
            Plain::Basic { user, password } => Self::Basic { user, password: password.into() },
            Plain::Header { name, key } => Self::Header { name, key: key.into() },
            Plain::Query { name, key } => Self::Query { name, key: key.into() },
        })
    }
}

//! Tokens we sign ourselves: service accounts (RFC 7523, with and without a user to act for), self-signed tokens, and
//! bearers for calls from service to service.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::address::checked;
use super::flow::{Flow, RenewalAsk, RenewalFailure, RenewalPolicy, RevocationAsk};
use super::grant::{Renewal, Tokens};
use super::oauth2::{Asked, Endpoint, ScopeJoint, TokenError, read_tokens};
use super::{Credential, CredentialSource, Scheme};
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::id::ConnectionId;
use crate::secret::Secret;
use crate::store::Revocation;
use crate::transport::Transport;

/// How long what we sign lives: the longest that Google takes.
const LIFE: Duration = Duration::from_secs(3_600);
/// Signed as if so much earlier, for servers whose clock is behind ours.
const SKEW: Duration = Duration::from_secs(10);
/// A bearer that is refused within this time of its signing is not signed anew for it.
const FRESH: Duration = Duration::from_secs(10);
/// The grant type of an assertion (RFC 7523, 2.1).
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// A key that signs tokens. Wiped when dropped.
#[derive(Clone)]
pub struct SigningKey {
    key: EncodingKey,
    algorithm: Algorithm,
    id: Option<String>,
}

impl SigningKey {
    /// Takes an RSA private key in PEM (PKCS #8 or #1): RS256.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is none. Nothing of it is in the error.
    pub fn rsa(pem: &Secret) -> Result<Self> {
        let key = EncodingKey::from_rsa_pem(pem.expose().as_bytes());
        Self::checked(key.map_err(|_| no_key("an RSA private key in PEM"))?, Algorithm::RS256)
    }

    /// Takes an EC private key on P-256 in PEM (PKCS #8): ES256.
    ///
    /// # Errors
    /// As [`SigningKey::rsa`].
    pub fn ec(pem: &Secret) -> Result<Self> {
        let key = EncodingKey::from_ec_pem(pem.expose().as_bytes());
        Self::checked(key.map_err(|_| no_key("an EC private key in PEM"))?, Algorithm::ES256)
    }

    /// Takes a secret both sides know: HS256.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is shorter than the 256 bits RFC 7518, section 3.2, asks for.
    pub fn shared(secret: &Secret) -> Result<Self> {
        if secret.expose().len() < 32 {
            return Err(no_key("a shared secret of at least 32 bytes"));
        }
        Self::checked(EncodingKey::from_secret(secret.expose().as_bytes()), Algorithm::HS256)
    }

    /// Names the key in what it signs (`kid`).
    #[must_use]
    pub fn named(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Tries the key: what cannot sign is refused here and not at the first call.
    fn checked(key: EncodingKey, algorithm: Algorithm) -> Result<Self> {
        let key = Self { key, algorithm, id: None };
        key.sign(&Map::new())?;
        Ok(key)
    }

    fn sign(&self, claims: &impl Serialize) -> Result<Secret> {
        let header = Header { kid: self.id.clone(), ..Header::new(self.algorithm) };
        let token = jsonwebtoken::encode(&header, claims, &self.key);
        token.map(Secret::from).map_err(|_| no_key("a key that can sign"))
    }
}

fn no_key(wanted: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the signing key is not {wanted}"))
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?}, …)", self.algorithm)
    }
}

/// What a token says (RFC 7519, 4.1).
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(flatten)]
    more: &'a Map<String, Value>,
}

fn moments(now: Timestamp, life: Duration) -> (i64, i64) {
    let issued = now.minus(SKEW);
    (issued.seconds(), issued.plus(life).seconds())
}

// ------------------------------------------------------------------------------------------ service accounts

/// A service account's key file.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
}

/// The account and key of a service account's key file.
#[derive(Clone, Debug)]
pub struct ServiceAccountKey {
    email: String,
    key: SigningKey,
}

impl ServiceAccountKey {
    /// Reads a key file as Google gives it (JSON).
    ///
    /// # Errors
    /// [`ErrorKind::Config`] saying what is missing; nothing of the file is in the error.
    pub fn parse(json: &Secret) -> Result<Self> {
        let wrong = |why: &'static str| Error::new(ErrorKind::Config, why);
        let file: KeyFile = serde_json::from_str(json.expose())
            .map_err(|_| wrong("this is no service account's key file (JSON with client_email and private_key)"))?;
        let pem = Secret::from(file.private_key);
        if file.kind != "service_account" {
            return Err(wrong("the key file is of another kind than service_account"));
        }
        let key = SigningKey::rsa(&pem)?;
        let key = match file.private_key_id {
            Some(id) => key.named(id),
            None => key,
        };
        Ok(Self { email: file.client_email, key })
    }

    /// Returns the account's address.
    #[must_use]
    pub fn email(&self) -> &str {
        &self.email
    }

    /// Returns the key's id (`kid`), where the file names it.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.key.id.as_deref()
    }
}

/// How service accounts get their tokens at one provider.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "made by `ServiceAccountConfig::new` and changed field by field")]
pub struct ServiceAccountConfig {
    /// Where an assertion is traded. An address in a key file is never used: it is its giver's choice.
    pub token_url: String,
    /// Whom an assertion is for. Google wants its own token address here, wherever it is sent.
    pub audience: String,
    /// The audience of a token the API takes without a trade, where it does. Used when there is no user to act for.
    pub self_signed: Option<SelfSigned>,
    /// How long one request may take.
    pub timeout: Duration,
}

/// What a self-signed token names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the two ways there are")]
pub enum SelfSigned {
    /// The API it is for, in `aud`.
    Audience(String),
    /// The scopes, in `scope`.
    Scopes,
}

impl ServiceAccountConfig {
    /// Trades assertions at an address that is also their audience.
    #[must_use]
    pub fn new(token_url: &str) -> Self {
        let token_url = token_url.to_owned();
        Self { audience: token_url.clone(), token_url, self_signed: None, timeout: Duration::from_secs(30) }
    }
}

/// Service accounts of one provider: each grant has a key of its own, and signs for its tokens.
#[derive(Clone)]
pub struct ServiceAccountFlow {
    config: ServiceAccountConfig,
    endpoint: Endpoint,
}

impl ServiceAccountFlow {
    /// Checks the settings. `transport` is an innermost one, never a pipeline.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the address is neither `https` nor on this machine.
    pub fn new(config: ServiceAccountConfig, transport: Arc<dyn Transport>) -> Result<Self> {
        let token_url = checked(&config.token_url, "the token address of service accounts")?;
        let endpoint = Endpoint::anonymous(token_url, config.timeout, transport);
        Ok(Self { config, endpoint })
    }

    /// Signs what the API takes as it is.
    fn self_signed(&self, account: &ServiceAccountKey, way: &SelfSigned, asked: RenewalAsk) -> Result<Tokens> {
        let (iat, exp) = moments(asked.now, LIFE);
        let (aud, scope) = match way {
            SelfSigned::Audience(audience) => (Some(audience.as_str()), None),
            SelfSigned::Scopes => (None, Some(asked.requested.join(" "))),
        };
        let email = account.email();
        let more = Map::new();
        let claims = Claims { iss: email, sub: Some(email), aud, scope, iat, exp, jti: None, more: &more };
        Ok(Tokens {
            name: asked.name,
            access: account.key.sign(&claims)?,
            renewal: asked.renewal,
            expires_in: Some(LIFE - SKEW),
            granted: asked.requested.clone(),
            requested: asked.requested,
        })
    }

    async fn traded(
        &self,
        account: &ServiceAccountKey,
        subject: Option<&str>,
        asked: &RenewalAsk,
    ) -> Result<Value, TokenError> {
        let (iat, exp) = moments(asked.now, LIFE);
        let scope = (!asked.requested.is_empty()).then(|| asked.requested.join(" "));
        let aud = Some(self.config.audience.as_str());
        let more = Map::new();
        let claims = Claims { iss: account.email(), sub: subject, aud, scope, iat, exp, jti: None, more: &more };
        let assertion = account.key.sign(&claims).map_err(TokenError::Unanswered)?;
        let form = [("grant_type", GRANT_TYPE), ("assertion", assertion.expose())];
        self.endpoint.post(Asked::Credentials, &self.config.token_url, &form, None).await?.into_body()
    }
}

#[async_trait]
impl Flow for ServiceAccountFlow {
    fn policy(&self) -> RenewalPolicy {
        RenewalPolicy { refresh_reusable: true, timeout: self.config.timeout, ..RenewalPolicy::default() }
    }

    async fn renew(&self, asked: RenewalAsk) -> Result<Tokens, RenewalFailure> {
        let Renewal::ServiceAccount { key, subject } = &asked.renewal else {
            let error = Error::new(ErrorKind::Config, "the flow renews service accounts only");
            return Err(RenewalFailure::Wrong(error));
        };
        let account = ServiceAccountKey::parse(key).map_err(RenewalFailure::Wrong)?;
        if let (Some(way), None) = (&self.config.self_signed, subject) {
            return self.self_signed(&account, way, asked).map_err(RenewalFailure::Wrong);
        }
        let body = self.traded(&account, subject.as_deref(), &asked).await.map_err(TokenError::into_failure)?;
        let (name, requested) = (asked.name.clone(), asked.requested.clone());
        let tokens = read_tokens(name, body, ScopeJoint::Space, Some(LIFE), requested);
        let tokens = tokens.map_err(TokenError::into_failure)?;
        Ok(Tokens { renewal: asked.renewal, ..tokens })
    }

    /// A key is ended where it was made, and a token ends by itself within the hour.
    async fn revoke(&self, _asked: RevocationAsk) -> Result<Revocation, Error> {
        Ok(Revocation::NotOffered)
    }
}

impl fmt::Debug for ServiceAccountFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccountFlow").field("config", &self.config).finish_non_exhaustive()
    }
}

// ------------------------------------------------------------------------------------------ service to service

/// Signs a bearer for calls to another service of ours: one credential for every connection.
pub struct JwtBearer {
    key: SigningKey,
    issuer: String,
    subject: Option<String>,
    audience: String,
    claims: Map<String, Value>,
    life: Duration,
    clock: Arc<dyn Clock>,
    random: Arc<dyn crate::random::Random>,
    signed: AtomicU64,
    kept: ArcSwapOption<(Credential, Timestamp, Timestamp)>,
}

impl JwtBearer {
    /// Signs with a key, in the name of `issuer`, for `audience`. A token lives five minutes.
    #[must_use]
    pub fn new(
        key: SigningKey,
        issuer: &str,
        audience: &str,
        clock: Arc<dyn Clock>,
        random: Arc<dyn crate::random::Random>,
    ) -> Self {
        Self {
            key,
            issuer: issuer.to_owned(),
            subject: None,
            audience: audience.to_owned(),
            claims: Map::new(),
            life: Duration::from_secs(300),
            clock,
            random,
            signed: AtomicU64::new(0),
            kept: ArcSwapOption::empty(),
        }
    }

    /// Names whom it is about (`sub`).
    #[must_use]
    pub fn subject(mut self, subject: &str) -> Self {
        self.subject = Some(subject.to_owned());
        self
    }

    /// Adds a claim. Those this type writes itself cannot be set.
    #[must_use]
    pub fn claim(mut self, name: &str, value: Value) -> Self {
        if !matches!(name, "iss" | "sub" | "aud" | "iat" | "exp" | "jti" | "scope") {
            self.claims.insert(name.to_owned(), value);
        }
        self
    }

    /// Sets how long a token lives; at least a minute.
    #[must_use]
    pub fn life(mut self, life: Duration) -> Self {
        self.life = life.max(Duration::from_secs(60));
        self
    }

    fn sign(&self, now: Timestamp) -> Result<Credential> {
        let (iat, exp) = moments(now, self.life + SKEW);
        let jti = format!("{:016x}{:016x}", self.random.bits(), self.random.bits());
        let claims = Claims {
            iss: &self.issuer,
            sub: self.subject.as_deref(),
            aud: Some(&self.audience),
            scope: None,
            iat,
            exp,
            jti: Some(jti),
            more: &self.claims,
        };
        let version = self.signed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let token = Scheme::Bearer(self.key.sign(&claims)?);
        let credential = Credential::new(&token, version, Some(now.plus(self.life)))?;
        let until = now.plus(self.life.mul_f64(0.8));
        self.kept.store(Some(Arc::new((credential.clone(), now, until))));
        Ok(credential)
    }
}

#[async_trait]
impl CredentialSource for JwtBearer {
    async fn credential(&self, _connection: ConnectionId) -> Result<Credential> {
        let now = self.clock.now();
        if let Some(kept) = self.kept.load().as_deref()
            && (kept.1..kept.2).contains(&now)
        {
            return Ok(kept.0.clone());
        }
        self.sign(now)
    }

    async fn refresh(&self, _connection: ConnectionId, seen: u64) -> Result<Credential> {
        let now = self.clock.now();
        if let Some(kept) = self.kept.load().as_deref() {
            if kept.0.version() != seen && now < kept.2 {
                return Ok(kept.0.clone());
            }
            if now.since(kept.1) < FRESH {
                let why = "the other service refuses a token that was just signed: does it know the key?";
                return Err(Error::new(ErrorKind::Auth, why).with_outcome(Outcome::Rejected));
            }
        }
        self.sign(now)
    }
}

impl fmt::Debug for JwtBearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtBearer")
            .field("key", &self.key)
            .field("issuer", &self.issuer)
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

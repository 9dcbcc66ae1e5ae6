//! OAuth 2.0 as settings: what a provider's authorisation server is called, and the hooks for its own ways.
//!
//! The requests are those of the `oauth2` crate, sent over our own [`Transport`]. What providers do differently is of
//! two kinds: data in [`OAuth2Config`], and code behind [`Dialect`], which sees an answer as JSON before it is read and
//! brings it into the form of RFC 6749.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use oauth2::url::Url;
use serde_json::Value;

use super::address::checked;
use super::flow::{Flow, RenewalAsk, RenewalFailure, RenewalPolicy, RevocationAsk};
use super::grant::{MAIN, Renewal, Tokens};
use crate::error::{Error, ErrorKind, Result};
use crate::id::GrantName;
use crate::secret::Secret;
use crate::store::Revocation;
use crate::transport::Transport;

mod reply;
mod revoke;
mod wire;

#[cfg(test)]
pub(in crate::auth) mod tests;

pub use reply::{Asked, Reply};

pub(super) use reply::read as read_tokens;
pub(super) use wire::{Endpoint, TokenError};

/// Everything that differs between standard providers.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by `OAuth2Config::new` and changed field by field")]
pub struct OAuth2Config {
    /// The name of the flow: `provider`, or `provider/environment`. It stands on every grant.
    pub name: String,
    /// Where the browser is sent.
    pub authorize_url: String,
    /// Where codes and refresh tokens are traded.
    pub token_url: String,
    /// The API's base address for connections of this flow, where it is not the provider's usual one (a sandbox, an
    /// emulator).
    pub base_url: Option<String>,
    /// Where the browser comes back to, as registered at the provider.
    pub redirect_url: String,
    /// Whether the token request repeats the redirect address (RFC 6749, 4.1.3). Stripe does not take it.
    pub redirect_url_at_token: bool,
    /// Our id at the provider.
    pub client_id: String,
    /// Our secret at the provider; none for a public client.
    pub client_secret: Option<Secret>,
    /// How id and secret are sent.
    pub client_auth: ClientAuth,
    /// The scopes to ask for, by the parameter they are asked in. One group named `scope` unless the provider gives
    /// several grants at once.
    pub scopes: Vec<ScopeGroup>,
    /// What stands between scopes, in what we send and what we get.
    pub scope_joint: ScopeJoint,
    /// Whether a reconnect adds to what was granted before: what was asked for then still counts as asked.
    pub scopes_add_up: bool,
    /// More parameters of the authorize address (`access_type=offline`).
    pub authorize_params: Vec<(String, String)>,
    /// More parameters of the token request.
    pub token_params: Vec<(String, String)>,
    /// Whether the provider takes PKCE (S256).
    pub pkce: bool,
    /// The issuer that the callback must name (RFC 9207), where the provider names one.
    pub issuer: Option<String>,
    /// How long an access token lives when the provider does not say; `None`: until it is refused.
    pub lifetime: Option<Duration>,
    /// How grants are ended at the provider.
    pub revocation: RevocationWay,
    /// Where a long-lived token is traded for a rotating one, where the provider offers it (Slack).
    pub exchange_url: Option<String>,
    /// How grants are renewed.
    pub policy: RenewalPolicy,
    /// The provider's own ways.
    pub dialect: Arc<dyn Dialect>,
}

/// How the client shows who it is at the token endpoint.
#[derive(Clone)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is written in one place")]
pub enum ClientAuth {
    /// HTTP Basic, id and secret form-encoded first (RFC 6749, 2.3.1).
    Basic,
    /// `client_id` and `client_secret` in the body.
    Body,
    /// Another key as bearer, with `client_id` in the body (Stripe's platform key).
    Bearer(Secret),
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic => "Basic",
            Self::Body => "Body",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

/// What stands between scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the two ways there are")]
pub enum ScopeJoint {
    /// A blank (RFC 6749).
    Space,
    /// A comma (Slack).
    Comma,
}

/// Scopes asked for in one parameter, which come back as one grant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct ScopeGroup {
    /// The parameter of the authorize address.
    pub parameter: String,
    /// The name of the grant they come back in.
    pub grant: GrantName,
    /// The scopes.
    pub scopes: Vec<String>,
}

/// How a grant is ended at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is written in one place")]
pub enum RevocationWay {
    /// The provider has none.
    NotOffered,
    /// RFC 7009: the refresh token, or else the access token, posted as `token`.
    Token(String),
    /// Posted with the access token as bearer and no body (Slack's `auth.revoke`).
    Bearer(String),
    /// The account posted in a parameter, with the client's own authentication (Stripe's `deauthorize`).
    Account {
        /// The address.
        url: String,
        /// The parameter.
        parameter: String,
    },
}

impl OAuth2Config {
    /// Makes the settings of a standard provider: Basic, PKCE, scopes between blanks, single-use refresh tokens.
    #[must_use]
    pub fn new(name: &str, authorize_url: &str, token_url: &str, redirect_url: &str, client_id: &str) -> Self {
        Self {
            name: name.to_owned(),
            authorize_url: authorize_url.to_owned(),
            token_url: token_url.to_owned(),
            base_url: None,
            redirect_url: redirect_url.to_owned(),
            redirect_url_at_token: true,
            client_id: client_id.to_owned(),
            client_secret: None,
            client_auth: ClientAuth::Basic,
            scopes: Vec::new(),
            scope_joint: ScopeJoint::Space,
            scopes_add_up: false,
            authorize_params: Vec::new(),
            token_params: Vec::new(),
            pkce: true,
            issuer: None,
            lifetime: None,
            revocation: RevocationWay::NotOffered,
            exchange_url: None,
            policy: RenewalPolicy::default(),
            dialect: Arc::new(Standard),
        }
    }

    /// Sets the client's secret.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.client_secret = Some(secret);
        self
    }

    /// Sets the scopes to ask for in the parameter `scope`, for the grant [`MAIN`].
    #[must_use]
    pub fn scopes(mut self, scopes: &[&str]) -> Self {
        self.scopes = vec![ScopeGroup {
            parameter: "scope".to_owned(),
            grant: MAIN.into(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        }];
        self
    }

    /// Returns the scope groups for one connect: the settings' own, or the given scopes instead. A given scope belongs to
    /// the first group, unless another group's parameter and `=` stand before it (`user_scope=search:read`).
    #[must_use]
    pub fn scopes_for(&self, given: Option<&[String]>) -> Vec<ScopeGroup> {
        let Some(given) = given else { return self.scopes.clone() };
        let main = || ScopeGroup { parameter: "scope".to_owned(), grant: MAIN.into(), scopes: Vec::new() };
        let mut groups: Vec<ScopeGroup> = self.scopes.clone();
        groups.iter_mut().for_each(|group| group.scopes.clear());
        for scope in given {
            let named = scope.split_once('=').and_then(|(parameter, scope)| {
                let at = groups.iter().position(|group| group.parameter == parameter)?;
                Some((at, scope))
            });
            let (at, scope) = named.unwrap_or((0, scope));
            if groups.is_empty() {
                groups.push(main());
            }
            if let Some(group) = groups.get_mut(at) {
                group.scopes.push(scope.to_owned());
            }
        }
        groups.retain(|group| !group.scopes.is_empty());
        groups
    }
}

impl fmt::Debug for OAuth2Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth2Config")
            .field("name", &self.name)
            .field("token_url", &self.token_url)
            .field("client_auth", &self.client_auth)
            .field("scopes", &self.scopes)
            .field("policy", &self.policy)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

/// A provider's own ways. The defaults are RFC 6749. Pure: no socket, no clock.
pub trait Dialect: Send + Sync + fmt::Debug + 'static {
    /// Brings an answer into the form of RFC 6749: a failure with a status of 400 or more and a code of section 5.2 in
    /// `error`, a success with 200 and `access_token` at the top. The provider's own code goes into [`Reply::code`].
    fn normalise(&self, asked: Asked, reply: Reply) -> Reply {
        let _ = asked;
        reply
    }

    /// Takes the grants out of a successful, normalised answer, each a token answer of RFC 6749 by itself. The first is
    /// the one that is at the top. A renewal's answer is about the grant `renewed`.
    fn grants(&self, body: &Value, renewed: Option<&GrantName>) -> Vec<(GrantName, Value)> {
        vec![(renewed.cloned().unwrap_or_else(|| MAIN.into()), body.clone())]
    }

    /// Names the account in a successful, normalised answer: what a reconnect must be about again.
    fn account(&self, body: &Value) -> Option<String> {
        let _ = body;
        None
    }

    /// Reads the answer to a revocation. `None`: the provider failed, try again later.
    fn revoked(&self, reply: &Reply) -> Option<Revocation> {
        reply::revoked(reply)
    }
}

/// RFC 6749 to the letter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standard;

impl Dialect for Standard {}

/// The authorisation server of one provider in one environment.
#[derive(Clone)]
pub struct OAuth2Flow {
    config: Arc<OAuth2Config>,
    endpoint: Endpoint,
    authorize_url: Url,
    redirect_url: Url,
}

impl OAuth2Flow {
    /// Checks the settings. `transport` is an innermost one ([`crate::transport::HttpTransport`]), never a pipeline: it
    /// must hand every answer on and add no credential.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] naming the setting that cannot work.
    pub fn new(config: OAuth2Config, transport: Arc<dyn Transport>) -> Result<Self> {
        let at = |text: &str, what: &str| checked(text, &format!("the {what} of the flow {}", config.name));
        if config.name.is_empty() || config.client_id.is_empty() {
            return Err(Error::new(ErrorKind::Config, "a flow needs a name and a client id"));
        }
        if !(config.policy.renew_at > 0.0 && config.policy.renew_at < 1.0) {
            return Err(Error::new(ErrorKind::Config, "policy.renew_at must be between 0 and 1"));
        }
        let authorize_url = at(&config.authorize_url, "authorize address")?;
        let redirect_url = at(&config.redirect_url, "redirect address")?;
        let token_url = at(&config.token_url, "token address")?;
        match &config.revocation {
            RevocationWay::NotOffered => {}
            RevocationWay::Token(url) | RevocationWay::Bearer(url) | RevocationWay::Account { url, .. } => {
                at(url, "revocation address")?;
            }
        }
        if let Some(url) = &config.exchange_url {
            at(url, "exchange address")?;
        }
        let endpoint = Endpoint::new(&config, token_url, transport);
        Ok(Self { config: Arc::new(config), endpoint, authorize_url, redirect_url })
    }

    /// Returns the settings.
    #[must_use]
    pub fn config(&self) -> &OAuth2Config {
        &self.config
    }

    pub(super) fn authorize_url(&self) -> &Url {
        &self.authorize_url
    }

    pub(super) fn redirect_url(&self) -> &Url {
        &self.redirect_url
    }

    /// Trades a code for tokens. Returns them with the account.
    pub(super) async fn trade_code(
        &self,
        code: Secret,
        verifier: Option<Secret>,
        groups: &[ScopeGroup],
    ) -> std::result::Result<(Vec<Tokens>, Option<String>), TokenError> {
        let redirect = self.config.redirect_url_at_token.then_some(&self.redirect_url);
        let body = self.endpoint.trade_code(code, verifier, redirect).await?;
        let tokens = reply::tokens(&self.config, &body, None, groups)?;
        Ok((tokens, self.config.dialect.account(&body)))
    }

    /// Asks for tokens with the client's own credentials (RFC 6749, 4.4): those of the settings, or `client`.
    ///
    /// # Errors
    /// As [`Flow::renew`].
    pub async fn client_credentials(
        &self,
        client: Option<(String, Secret)>,
    ) -> std::result::Result<Tokens, RenewalFailure> {
        let scopes: Vec<String> = self.config.scopes.iter().flat_map(|group| group.scopes.clone()).collect();
        let ask = RenewalAsk {
            name: MAIN.into(),
            renewal: Renewal::Client(client),
            granted: scopes.clone(),
            requested: scopes,
            now: crate::clock::Timestamp::default(),
        };
        self.renew(ask).await
    }

    /// Trades a long-lived token for one that rotates, where the provider offers it ([`OAuth2Config::exchange_url`]).
    ///
    /// # Errors
    /// [`RenewalFailure::Wrong`] when the settings name no address for it; else as [`Flow::renew`].
    pub async fn exchange(&self, name: GrantName, long_lived: &Secret) -> std::result::Result<Tokens, RenewalFailure> {
        let Some(url) = &self.config.exchange_url else {
            let error = Error::new(ErrorKind::Config, "the flow offers no exchange of long-lived tokens");
            return Err(RenewalFailure::Wrong(error));
        };
        let body = self.endpoint.exchange(url, long_lived).await.map_err(TokenError::into_failure)?;
        let groups = self.config.scopes_for(None);
        let tokens = reply::tokens(&self.config, &body, Some(&name), &groups).map_err(TokenError::into_failure)?;
        reply::only(tokens).map_err(TokenError::into_failure)
    }
}

#[async_trait]
impl Flow for OAuth2Flow {
    fn policy(&self) -> RenewalPolicy {
        self.config.policy.clone()
    }

    async fn renew(&self, asked: RenewalAsk) -> std::result::Result<Tokens, RenewalFailure> {
        let body = match &asked.renewal {
            Renewal::RefreshToken(token) => self.endpoint.refresh(token.clone()).await,
            Renewal::Client(client) => {
                let scope = self.joined(&asked.requested);
                self.endpoint.client_credentials(client.clone(), scope).await
            }
            Renewal::Never | Renewal::ServiceAccount { .. } => {
                let error = Error::new(ErrorKind::Config, "the flow cannot renew a grant of this kind");
                return Err(RenewalFailure::Wrong(error));
            }
        };
        let body = body.map_err(TokenError::into_failure)?;
        reply::renewed(&self.config, &body, asked).map_err(TokenError::into_failure)
    }

    async fn revoke(&self, asked: RevocationAsk) -> Result<Revocation, Error> {
        revoke::revoke(&self.config, &self.endpoint, asked).await
    }
}

impl OAuth2Flow {
    fn joined(&self, scopes: &[String]) -> Option<String> {
        (!scopes.is_empty()).then(|| join(scopes, self.config.scope_joint))
    }
}

/// Writes scopes as one parameter.
pub(super) fn join(scopes: &[String], joint: ScopeJoint) -> String {
    scopes.join(match joint {
        ScopeJoint::Space => " ",
        ScopeJoint::Comma => ",",
    })
}

impl fmt::Debug for OAuth2Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth2Flow").field("config", &self.config).finish_non_exhaustive()
    }
}

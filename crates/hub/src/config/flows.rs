//! Reads `[[flow]]`: the ways accounts are connected in a browser, of providers that are built in and of any other that
//! speaks OAuth 2.0 to the letter.

use palisade_core::Environment;
use palisade_core::auth::oauth2::{ClientAuth, ScopeJoint};

use super::SecretRef;
use super::reader::Section;
use super::sections::{read_environment, read_url};

/// What the program can do, as the configuration file needs to know it.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Known<'a> {
    /// The adapters that are built in.
    pub providers: &'a [&'a str],
    /// Those of them that have a flow of their own.
    pub flows: &'a [&'a str],
    /// Those of them that have service accounts.
    pub service_accounts: &'a [&'a str],
    /// Those of them whose events name the account they belong to.
    pub accounts: &'a [&'a str],
    /// Those of them that list their events, with the stream whose runs find what changed in all others.
    pub walks: &'a [(&'a str, &'a str)],
}

/// A way to connect accounts of one provider in one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Flow {
    /// The provider.
    pub provider: String,
    /// The environment its connections belong to.
    pub environment: Environment,
    /// Our id at the provider.
    pub client_id: String,
    /// Our secret at the provider; none for a public client.
    pub client_secret: Option<SecretRef>,
    /// The scopes to ask for.
    pub scopes: Vec<String>,
    /// The scopes to ask for in the name of the person who connects, where the provider has both.
    pub user_scopes: Vec<String>,
    /// The address of the provider's API, and of its own flow, where it is not the usual one.
    pub base_url: Option<String>,
    /// Whether PKCE is used; `None`: as the provider has it.
    pub pkce: Option<bool>,
    /// The settings of a provider that has no flow of its own here.
    pub standard: Option<StandardFlow>,
}

/// The settings of an authorisation server that follows RFC 6749.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StandardFlow {
    /// Where the browser is sent.
    pub authorize_url: String,
    /// Where codes and refresh tokens are traded.
    pub token_url: String,
    /// Where grants are ended (RFC 7009).
    pub revoke_url: Option<String>,
    /// The issuer a callback must name (RFC 9207).
    pub issuer: Option<String>,
    /// What stands between scopes.
    pub scope_joint: ScopeJoint,
    /// Whether id and secret are sent in the body instead of as Basic.
    pub client_in_body: bool,
    /// Whether a refresh token may be sent again when its answer was lost.
    pub refresh_reusable: bool,
    /// More parameters of the authorize address.
    pub authorize_params: Vec<(String, String)>,
}

impl Flow {
    /// Returns its name: `slack`, or `slack/sandbox`.
    #[must_use]
    pub fn name(&self) -> String {
        self.environment.flow(&self.provider)
    }
}

impl StandardFlow {
    /// Says how the client shows who it is.
    #[must_use]
    pub fn client_auth(&self) -> ClientAuth {
        if self.client_in_body { ClientAuth::Body } else { ClientAuth::Basic }
    }
}

/// The keys of a flow of a provider that has none of its own.
const STANDARD: [&str; 8] = [
    "authorize_url",
    "token_url",
    "revoke_url",
    "issuer",
    "scope_joint",
    "client_auth",
    "refresh_reusable",
    "authorize_params",
];

pub(super) fn read_flow(mut section: Section<'_, '_>, known: Known<'_>, into: &mut Vec<Flow>) {
    let given = STANDARD.into_iter().filter(|key| section.has(key)).collect::<Vec<_>>();
    let provider = read_provider(&mut section, known, &given);
    let environment = read_environment(&mut section);
    let client_id = section.needed("client_id", "\"1111111111.2222222222\"");
    let has_secret = section.has("client_secret");
    let client_secret = section.secret("client_secret");
    let scopes = section.values("scopes", "a list of texts, for example [\"channels:read\"]");
    let user_scopes: Vec<String> = section.values("user_scopes", "a list of texts, for example [\"search:read\"]");
    let base_url = address(&mut section, "base_url");
    let pkce = section.flag("pkce");
    let own = provider.as_deref().is_some_and(|provider| known.flows.contains(&provider));
    if own && let Some(key) = given.first() {
        section.lacks(format!(
            "this provider has a flow of its own: leave {key} out of [[flow]]; base_url sends it to another address"
        ));
    }
    if provider.is_some() && !own && !user_scopes.is_empty() {
        section.lacks("user_scopes in [[flow]] is for providers that give two grants at once (slack): use scopes");
    }
    if own && !has_secret {
        section.lacks("[[flow]] needs client_secret = { env = \"NAME\" } or { file = \"path\" }");
    }
    let needs_standard = provider.is_some() && !own;
    let standard = read_standard(&mut section, needs_standard);
    let built_in = provider.as_deref().is_some_and(|provider| known.providers.contains(&provider));
    if needs_standard && !built_in && base_url.is_none() {
        section.lacks("a provider that is not built in needs base_url in [[flow]]: the address of its API");
    }
    let twice = provider.as_ref().zip(environment.as_ref()).is_some_and(|(provider, environment)| {
        into.iter().any(|other| other.provider == *provider && other.environment == *environment)
    });
    if twice {
        section.lacks("this flow stands twice: a provider has one in each environment");
    }
    section.finish();
    if let (Some(provider), Some(environment), Some((_, client_id))) = (provider, environment, client_id) {
        let standard = standard.filter(|_| !own);
        let flow =
            Flow { provider, environment, client_id, client_secret, scopes, user_scopes, base_url, pkce, standard };
        into.push(flow);
    }
}

/// Takes the provider: one that is built in, or any other whose addresses are given.
fn read_provider(section: &mut Section<'_, '_>, known: Known<'_>, given: &[&str]) -> Option<String> {
    let (offset, provider) = section.needed("provider", "\"slack\"")?;
    if known.providers.contains(&provider.as_str()) {
        return Some(provider);
    }
    let lawful = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if given.is_empty() || !provider.chars().all(lawful) {
        section.problem(
            offset,
            format!(
                "no such provider: this program has {}; any other one is written in small letters and needs \
                 authorize_url, token_url and base_url",
                known.providers.join(", ")
            ),
        );
        return None;
    }
    Some(provider)
}

fn read_standard(section: &mut Section<'_, '_>, needed: bool) -> Option<StandardFlow> {
    for key in ["authorize_url", "token_url"] {
        if needed && !section.has(key) {
            section.lacks(format!("[[flow]] of a provider without a flow of its own needs {key}"));
        }
    }
    let authorize_url = address(section, "authorize_url");
    let token_url = address(section, "token_url");
    let revoke_url = address(section, "revoke_url");
    let issuer = section.text("issuer").map(|(_, text)| text);
    let joints = [("space", ScopeJoint::Space), ("comma", ScopeJoint::Comma)];
    let scope_joint = section.word("scope_joint", &joints).map_or(ScopeJoint::Space, |(_, joint)| joint);
    let client_in_body = section.word("client_auth", &[("basic", false), ("body", true)]).is_some_and(|(_, body)| body);
    let refresh_reusable = section.flag("refresh_reusable").unwrap_or(false);
    let authorize_params = section.pairs("authorize_params");
    Some(StandardFlow {
        authorize_url: authorize_url?,
        token_url: token_url?,
        revoke_url,
        issuer,
        scope_joint,
        client_in_body,
        refresh_reusable,
        authorize_params,
    })
}

/// Takes an address that secrets are sent to.
fn address(section: &mut Section<'_, '_>, key: &'static str) -> Option<String> {
    let (offset, text) = section.text(key)?;
    let url = read_url(&text, false);
    if url.is_none() {
        section.problem(
            offset,
            format!("{key} in [[flow]] must be an https URL without a query (http only to a loopback address)"),
        );
    }
    url
}

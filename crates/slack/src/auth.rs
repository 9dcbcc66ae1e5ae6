//! What authenticates a Slack workspace: the token of a bot or of a person, sent as bearer, and the flow that gets one.
//!
//! Slack's secrets are told apart by their prefix (docs.slack.dev, tokens; read 2026-11), so that the wrong one is
//! refused here, with a sentence that says which one is needed, instead of as `invalid_auth` later.
//!
//! One installation may give two grants, [`BOT`] and [`USER`], each with a refresh token of its own where the app has
//! switched token rotation on (docs.slack.dev, installing with OAuth and using token rotation; @slack/oauth 4.0). A
//! refresh token is good for one use, so a renewal is sent once.

use std::sync::Arc;
use std::time::Duration;

use palisade_core::auth::Scheme;
use palisade_core::auth::oauth2::{
    Asked, Dialect, OAuth2Config, Reply, RevocationWay, ScopeGroup, ScopeJoint, Standard,
};
use palisade_core::id::GrantName;
use palisade_core::store::Revocation;
use palisade_core::{Error, ErrorKind, Result, Secret};
use serde_json::Value;

use crate::client::BASE_URL;
use crate::json::id;

/// The grant of the app's bot in a workspace.
pub const BOT: &str = "bot";
/// The grant of the person who installed the app.
pub const USER: &str = "user";
/// The flow's name, when there is one environment.
const FLOW: &str = "slack";
/// How long a refresh token of an app with PKCE may lie unused: Slack lets it die after 30 days.
const KEPT_ALIVE_EVERY: Duration = Duration::from_secs(10 * 86_400);

/// Takes a bot's or a person's token as the credential of a connection.
///
/// ```
/// use palisade_slack::auth::token;
///
/// assert!(token("xoxb-not-a-real-token".into()).is_ok());
/// assert!(token("xapp-not-a-real-token".into()).is_err(), "an app-level token calls no method of a workspace");
/// ```
///
/// # Errors
/// [`ErrorKind::Config`] for an app-level or refresh token, a webhook's address, a signing secret, a text with blanks
/// or line breaks, and anything else that is no token of Slack's. The message never holds the token.
pub fn token(token: Secret) -> Result<Scheme> {
    let text = token.expose();
    let wrong = |why: &'static str| Err(Error::new(ErrorKind::Config, why).during("slack", "auth"));
    if text.is_empty() {
        return wrong("the token is empty");
    }
    if text.bytes().any(|c| !c.is_ascii_graphic()) {
        return wrong("the token holds a blank or line break: was something copied with it?");
    }
    // A token that expires has the same kinds behind a prefix of its own.
    let kind = text.strip_prefix("xoxe.").unwrap_or(text);
    let begins = |prefix| kind.starts_with(prefix);
    if begins("xoxb-") || begins("xoxp-") {
        return Ok(Scheme::Bearer(token));
    }
    if begins("xapp-") {
        return wrong(
            "this is an app-level token (xapp-…): the connection needs the bot's (xoxb-…) or a person's (xoxp-…)",
        );
    }
    if begins("xoxe-") {
        return wrong("this is a refresh token (xoxe-…): connect the workspace instead, so that it can be renewed");
    }
    if begins("https://") {
        return wrong("this is an address: the connection needs the bot's token (xoxb-…)");
    }
    if text.len() == 32 && text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return wrong(
            "this looks like the app's signing secret, which belongs to the endpoint: the connection needs the bot's token (xoxb-…)",
        );
    }
    wrong("this is no Slack token: the bot's begins with xoxb-, a person's with xoxp-")
}

/// Makes the flow that installs an app: the bot's scopes, and those of the person who installs it, if any are needed.
///
/// The app's client id and secret are sent as Basic. Without PKCE: an app that switches it on cannot go back, and is a
/// public client from then on ([`with_pkce`]).
///
/// ```
/// let flow = palisade_slack::auth::oauth2(
///     "https://app.example/connect/slack/callback",
///     "1111111111.2222222222",
///     "client-secret".into(),
///     &["chat:write", "channels:read"],
///     &[],
/// );
/// assert_eq!(flow.token_url, "https://slack.com/api/oauth.v2.access");
/// ```
#[must_use]
pub fn oauth2(
    redirect_url: &str,
    client_id: &str,
    client_secret: Secret,
    bot_scopes: &[&str],
    user_scopes: &[&str],
) -> OAuth2Config {
    let mut flow = OAuth2Config::new(FLOW, "", "", redirect_url, client_id).secret(client_secret);
    let group = |parameter: &str, grant: &str, scopes: &[&str]| ScopeGroup {
        parameter: parameter.to_owned(),
        grant: grant.into(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    };
    flow.scopes = vec![group("scope", BOT, bot_scopes), group("user_scope", USER, user_scopes)];
    flow.scopes.retain(|group| !group.scopes.is_empty());
    flow.scope_joint = ScopeJoint::Comma;
    // A second installation adds its scopes to those of the first (docs.slack.dev, installing with OAuth).
    flow.scopes_add_up = true;
    flow.pkce = false;
    flow.dialect = Arc::new(SlackDialect);
    let mut flow = at(flow, BASE_URL);
    flow.base_url = None;
    flow
}

/// Sends a flow to another address: an emulator.
#[must_use]
pub fn at(mut flow: OAuth2Config, base_url: &str) -> OAuth2Config {
    let base_url = base_url.trim_end_matches('/');
    flow.authorize_url = format!("{base_url}/oauth/v2/authorize");
    flow.token_url = format!("{base_url}/api/oauth.v2.access");
    flow.exchange_url = Some(format!("{base_url}/api/oauth.v2.exchange"));
    flow.revocation = RevocationWay::Bearer(format!("{base_url}/api/auth.revoke"));
    flow.base_url = Some(base_url.to_owned());
    flow
}

/// Uses PKCE, for an app that has switched it on. Its refresh tokens die after 30 days, so grants nobody uses are
/// renewed every ten.
#[must_use]
pub fn with_pkce(mut flow: OAuth2Config) -> OAuth2Config {
    flow.pkce = true;
    flow.policy.keep_alive = Some(KEPT_ALIVE_EVERY);
    flow
}

/// Slack's own ways at its authorisation server: failures at 200, two tokens in one answer, organizations.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlackDialect;

impl Dialect for SlackDialect {
    fn normalise(&self, asked: Asked, reply: Reply) -> Reply {
        if reply.body.get("ok") == Some(&Value::Bool(false)) {
            let own = reply.body.get("error").and_then(Value::as_str).and_then(crate::error::short);
            let own = own.unwrap_or_else(|| "unknown_error".to_owned());
            return reply.failed(standard_code(&own), &own);
        }
        match asked {
            Asked::Code | Asked::Refresh | Asked::Credentials | Asked::Exchange => with_token_on_top(reply),
            Asked::Revocation => reply,
        }
    }

    fn grants(&self, body: &Value, renewed: Option<&GrantName>) -> Vec<(GrantName, Value)> {
        if let Some(name) = renewed {
            return vec![(name.clone(), body.clone())];
        }
        let is_user = body.get("token_type").and_then(Value::as_str) == Some("user");
        let mut grants = vec![(GrantName::new(if is_user { USER } else { BOT }), body.clone())];
        let user = body.get("authed_user").filter(|user| !is_user && has_token(user));
        grants.extend(user.map(|user| (GrantName::new(USER), user.clone())));
        grants
    }

    /// The workspace; the organization, where the app is installed for all of it.
    fn account(&self, body: &Value) -> Option<String> {
        let whole = body.get("is_enterprise_install").and_then(Value::as_bool).unwrap_or(false);
        let (team, enterprise) = (id(body, "team"), id(body, "enterprise"));
        if whole { enterprise } else { team.or(enterprise) }.map(str::to_owned)
    }

    fn revoked(&self, reply: &Reply) -> Option<Revocation> {
        if reply.body.get("revoked") == Some(&Value::Bool(false)) {
            return Some(Revocation::NotConfirmed);
        }
        Standard.revoked(reply)
    }
}

fn has_token(part: &Value) -> bool {
    part.get("access_token").is_some_and(Value::is_string)
}

/// What Slack's codes mean in RFC 6749, section 5.2 (docs.slack.dev, oauth.v2.access, oauth.v2.exchange, auth.revoke).
fn standard_code(own: &str) -> &'static str {
    match own {
        "invalid_code"
        | "code_already_used"
        | "code_expired"
        | "invalid_refresh_token"
        | "token_expired"
        | "token_revoked"
        | "invalid_auth"
        | "invalid_token"
        | "account_inactive"
        | "authorization_not_found"
        | "token_already_exchanged" => "invalid_grant",
        "invalid_client_id" | "bad_client_secret" => "invalid_client",
        "ratelimited"
        | "internal_error"
        | "fatal_error"
        | "service_unavailable"
        | "request_timeout"
        | "team_added_to_org"
        | "org_login_required" => "temporarily_unavailable",
        _ => "invalid_request",
    }
}

/// Where only a person installed the app, the token stands one level down.
fn with_token_on_top(mut reply: Reply) -> Reply {
    if has_token(&reply.body) {
        return reply;
    }
    let user = reply.body.get("authed_user").and_then(Value::as_object).cloned();
    if let (Some(body), Some(user)) = (reply.body.as_object_mut(), user)
        && user.contains_key("access_token")
    {
        body.extend(user);
        body.insert("token_type".to_owned(), USER.into());
    }
    reply
}

#[cfg(test)]
mod tests {
    //! Each wrong kind of secret is refused, and none is told.
    use super::*;

    #[test]
    fn only_tokens_of_bots_and_people_are_taken_and_none_is_told() {
        for (text, taken) in [
            ("xoxb-NotARealToken", true),
            ("xoxp-NotARealToken", true),
            ("xoxe.xoxb-1-NotARealToken", true),
            ("xoxe.xoxp-1-NotARealToken", true),
            ("xapp-1-NotARealToken", false),
            ("xoxe-1-NotARealToken", false),
            ("xoxc-NotARealToken", false),
            ("xoxb-NotARealToken\n", false),
            ("xoxb-Not ARealToken", false),
            ("https://hooks.slack.com/services/NotARealToken", false),
            ("0123456789abcdef0123456789abcdef", false),
            ("NotARealToken", false),
            ("", false),
        ] {
            let said = match token(text.into()) {
                Ok(scheme) => {
                    assert!(taken, "{text:?}");
                    format!("{scheme:?}")
                }
                Err(error) => {
                    assert!(!taken, "{text:?}");
                    assert_eq!(error.kind(), ErrorKind::Config);
                    format!("{error} {error:?} {}", error.user_message())
                }
            };
            assert!(!said.contains("NotARealToken") && !said.contains("0123456789abcdef"), "{said}");
        }
    }
}

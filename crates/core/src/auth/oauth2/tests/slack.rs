//! Slack's ways through the hooks: everything at 200, commas, a token inside a token, org installs, rotation.
//! Fixtures after the provider's documentation (docs.slack.dev, oauth.v2.access and using-token-rotation, 2026-11).

use serde_json::json;

use super::*;

/// The dialect as an adapter writes it.
#[derive(Debug)]
struct Slack;

impl Dialect for Slack {
    fn normalise(&self, asked: Asked, mut reply: Reply) -> Reply {
        if reply.body.get("ok") == Some(&Value::Bool(false)) {
            let own = reply.body.get("error").and_then(Value::as_str).unwrap_or("unknown").to_owned();
            let standard = match own.as_str() {
                "invalid_code"
                | "code_already_used"
                | "code_expired"
                | "invalid_refresh_token"
                | "token_expired"
                | "token_revoked"
                | "invalid_auth"
                | "account_inactive"
                | "authorization_not_found"
                | "invalid_token"
                | "token_already_exchanged" => "invalid_grant",
                "invalid_client_id" | "bad_client_secret" => "invalid_client",
                "internal_error" | "fatal_error" | "service_unavailable" | "ratelimited" | "request_timeout" => {
                    "temporarily_unavailable"
                }
                _ => "invalid_request",
            };
            return reply.failed(standard, &own);
        }
        // A user alone installed: the token stands one level down.
        if asked != Asked::Revocation
            && reply.body.get("access_token").is_none()
            && let Some(user) = reply.body.get("authed_user").cloned()
            && let (Some(body), Some(user)) = (reply.body.as_object_mut(), user.as_object())
        {
            for (name, value) in user {
                body.entry(name.clone()).or_insert_with(|| value.clone());
            }
            body.insert("token_type".to_owned(), "user".into());
        }
        reply
    }

    fn grants(&self, body: &Value, renewed: Option<&GrantName>) -> Vec<(GrantName, Value)> {
        if let Some(name) = renewed {
            return vec![(name.clone(), body.clone())];
        }
        let is_user = body.get("token_type").and_then(Value::as_str) == Some("user");
        let mut grants = vec![(if is_user { "user" } else { "bot" }.into(), body.clone())];
        let user = body.get("authed_user").filter(|user| user.get("access_token").is_some());
        grants.extend(user.filter(|_| !is_user).map(|user| ("user".into(), user.clone())));
        grants
    }

    fn account(&self, body: &Value) -> Option<String> {
        let id = |name: &str| body.get(name)?.get("id")?.as_str().map(str::to_owned);
        id("team").or_else(|| id("enterprise"))
    }
}

pub(in crate::auth) fn slack(name: &str) -> OAuth2Config {
    let url = "https://slack.com/api/oauth.v2.access";
    let mut config =
        OAuth2Config::new(name, "https://slack.com/oauth/v2/authorize", url, "https://app.example/slack", "1.2")
            .secret("slack-secret".into());
    let group = |parameter: &str, grant: &str, scopes: &[&str]| ScopeGroup {
        parameter: parameter.to_owned(),
        grant: grant.into(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    };
    config.scopes =
        vec![group("scope", "bot", &["chat:write", "users:read"]), group("user_scope", "user", &["search:read"])];
    config.scope_joint = ScopeJoint::Comma;
    config.revocation = RevocationWay::Bearer("https://slack.com/api/auth.revoke".to_owned());
    config.exchange_url = Some("https://slack.com/api/oauth.v2.exchange".to_owned());
    config.dialect = Arc::new(Slack);
    config
}

pub(in crate::auth) fn both() -> Value {
    json!({
        "ok": true, "access_token": "xoxe.xoxb-1", "token_type": "bot", "scope": "chat:write,users:read",
        "expires_in": 43200, "refresh_token": "xoxe-1-b1", "bot_user_id": "U0", "app_id": "A0",
        "team": {"id": "T1", "name": "Acme"}, "enterprise": null, "is_enterprise_install": false,
        "authed_user": {"id": "U1", "scope": "search:read", "access_token": "xoxe.xoxp-1", "token_type": "user",
            "expires_in": 43200, "refresh_token": "xoxe-1-u1"},
    })
}

async fn traded(body: Value) -> (Vec<Tokens>, Option<String>) {
    let (script, flow) = flow(slack("slack"));
    script.answer(200, body.to_string());
    let groups = flow.config().scopes.clone();
    flow.trade_code("code".into(), None, &groups).await.unwrap()
}

fn short(tokens: &[Tokens]) -> Vec<(&str, &str, String, String)> {
    let short = |one: &Tokens| (one.granted.join(" "), one.missing().join(" "));
    tokens
        .iter()
        .map(|one| {
            let (granted, missing) = short(one);
            (one.name.as_str(), one.access.expose(), granted, missing)
        })
        .collect()
}

/// Fails when a bot's and a user's token are mixed up, or one of them is lost.
#[tokio::test(start_paused = true)]
async fn one_answer_gives_the_bot_and_the_user() {
    let (tokens, account) = traded(both()).await;
    let text = |text: &str| text.to_owned();
    assert_eq!(
        short(&tokens),
        [
            ("bot", "xoxe.xoxb-1", text("chat:write users:read"), text("")),
            ("user", "xoxe.xoxp-1", text("search:read"), text(""))
        ]
    );
    assert_eq!(account.as_deref(), Some("T1"));
    assert!(tokens.iter().all(|one| one.expires_in == Some(Duration::from_secs(43_200))));
    let refresh: Vec<_> = tokens
        .iter()
        .map(|one| match &one.renewal {
            Renewal::RefreshToken(token) => token.expose(),
            Renewal::Never | Renewal::Client(_) | Renewal::ServiceAccount { .. } => "",
        })
        .collect();
    assert_eq!(refresh, ["xoxe-1-b1", "xoxe-1-u1"]);
}

#[tokio::test(start_paused = true)]
async fn a_bot_alone_a_user_alone_and_a_whole_organisation() {
    let text = |text: &str| text.to_owned();
    // Without rotation, and with a scope the workspace's admin left out.
    let bot = json!({"ok": true, "access_token": "xoxb-1", "token_type": "bot", "scope": "chat:write",
        "team": {"id": "T1"}, "authed_user": {"id": "U1"}});
    let (tokens, _) = traded(bot).await;
    assert_eq!(short(&tokens), [("bot", "xoxb-1", text("chat:write"), text("users:read"))]);
    assert!(matches!(tokens[0].renewal, Renewal::Never));
    let user = json!({"ok": true, "team": {"id": "T1"}, "authed_user":
        {"id": "U1", "scope": "search:read", "access_token": "xoxp-1", "token_type": "user"}});
    let (tokens, _) = traded(user).await;
    assert_eq!(short(&tokens), [("user", "xoxp-1", text("search:read"), text(""))]);
    let org = json!({"ok": true, "access_token": "xoxb-1", "token_type": "bot", "scope": "chat:write,users:read",
        "team": null, "enterprise": {"id": "E1"}, "is_enterprise_install": true, "authed_user": {"id": "U1"}});
    assert_eq!(traded(org).await.1.as_deref(), Some("E1"));
}

/// Fails when a failure at 200 is taken for a success, or its code is lost.
#[tokio::test(start_paused = true)]
async fn a_failure_at_200_is_told_by_its_code() {
    for (own, meaning) in [
        ("invalid_refresh_token", "over"),
        ("token_revoked", "over"),
        ("account_inactive", "over"),
        ("bad_client_secret", "wrong"),
        ("invalid_client_id", "wrong"),
        ("internal_error", "passing"),
        ("ratelimited", "passing"),
        ("something_new", "wrong"),
    ] {
        let (script, flow) = flow(slack("slack"));
        script.answer(200, json!({"ok": false, "error": own}).to_string());
        let failure = flow.renew(refresh_token()).await.unwrap_err();
        assert_eq!(told(&failure), (meaning, Some(own)), "{failure:?}");
    }
}

/// Fails when a rotated token is not the next one, or when it goes to the other grant.
#[tokio::test(start_paused = true)]
async fn a_renewal_is_about_its_own_grant() {
    let (script, flow) = flow(slack("slack"));
    let body = json!({"ok": true, "access_token": "xoxe.xoxp-2", "refresh_token": "xoxe-1-u2", "token_type": "user",
        "scope": "search:read", "expires_in": 43200, "team": {"id": "T1"}});
    script.answer(200, body.to_string());
    let asked = RenewalAsk { name: "user".into(), ..refresh_token() };
    let tokens = flow.renew(asked).await.unwrap();
    assert_eq!((tokens.name.as_str(), tokens.access.expose()), ("user", "xoxe.xoxp-2"));
    assert!(matches!(&tokens.renewal, Renewal::RefreshToken(token) if token.expose() == "xoxe-1-u2"));
}

#[tokio::test(start_paused = true)]
async fn a_long_lived_token_is_exchanged_and_a_token_revoked() {
    let (script, flow) = flow(slack("slack"));
    script
        .answer(200, json!({"ok": true, "access_token": "xoxe.xoxb-1", "refresh_token": "xoxe-1-b1", "expires_in": 43200, "token_type": "bot", "scope": "chat:write"}).to_string())
        .answer(200, json!({"ok": false, "error": "token_already_exchanged"}).to_string())
        .answer(200, json!({"ok": true, "revoked": true}).to_string())
        .answer(200, json!({"ok": false, "error": "token_revoked"}).to_string())
        .answer(200, json!({"ok": false, "error": "internal_error"}).to_string());
    let tokens = flow.exchange("bot".into(), &"xoxb-legacy".into()).await.unwrap();
    assert_eq!((tokens.name.as_str(), tokens.access.expose()), ("bot", "xoxe.xoxb-1"));
    let seen = script.last();
    assert_eq!(
        (seen.header("authorization"), seen.field("client_id").as_deref()),
        (Some("Bearer xoxb-legacy"), Some("1.2"))
    );
    assert_eq!(seen.field("client_secret").as_deref(), Some("slack-secret"));
    assert_eq!(told(&flow.exchange("bot".into(), &"x".into()).await.unwrap_err()).0, "over");
    let secrets = super::super::super::grant::GrantSecrets { access: "xoxb-1".into(), renewal: Renewal::Never };
    let asked = || RevocationAsk { name: "bot".into(), secrets: secrets.clone(), account: None };
    assert_eq!(flow.revoke(asked()).await.unwrap(), Revocation::Confirmed);
    assert_eq!(script.last().header("authorization"), Some("Bearer xoxb-1"));
    assert_eq!(flow.revoke(asked()).await.unwrap(), Revocation::Confirmed, "it is gone already");
    assert!(flow.revoke(asked()).await.is_err(), "try again later");
}

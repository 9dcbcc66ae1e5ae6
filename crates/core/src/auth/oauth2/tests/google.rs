//! Google's ways: all of them are data. Fixtures after developers.google.com, identity protocols, OAuth 2.0 (2026-11).

use serde_json::json;

use super::*;

pub(in crate::auth) fn google() -> OAuth2Config {
    let mut config = OAuth2Config::new(
        "google",
        "https://accounts.google.com/o/oauth2/v2/auth",
        "https://oauth2.googleapis.com/token",
        "https://app.example/google",
        "id.apps.googleusercontent.com",
    )
    .secret("GOCSPX-1".into())
    .scopes(&["https://www.googleapis.com/auth/gmail.send", "https://www.googleapis.com/auth/calendar"]);
    config.client_auth = ClientAuth::Body;
    config.authorize_params = [("access_type", "offline"), ("prompt", "consent"), ("include_granted_scopes", "true")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    config.scopes_add_up = true;
    config.revocation = RevocationWay::Token("https://oauth2.googleapis.com/revoke".to_owned());
    config.policy.refresh_reusable = true;
    config.policy.keep_alive = Some(Duration::from_secs(30 * 24 * 3_600));
    config
}

/// Fails when an unticked scope is not named as missing.
#[tokio::test(start_paused = true)]
async fn an_unticked_scope_is_missing() {
    let (script, flow) = flow(google());
    let body = json!({"access_token": "ya29.1", "expires_in": 3599, "refresh_token": "1//r", "token_type": "Bearer",
        "scope": "https://www.googleapis.com/auth/gmail.send openid", "id_token": "eyJ"});
    script.answer(200, body.to_string());
    let groups = flow.config().scopes.clone();
    let (tokens, account) = flow.trade_code("4/code".into(), Some("verifier".into()), &groups).await.unwrap();
    assert_eq!(tokens[0].missing(), ["https://www.googleapis.com/auth/calendar"]);
    assert_eq!((tokens[0].name.as_str(), account), (MAIN, None));
    let seen = script.last();
    assert_eq!(seen.field("code_verifier").as_deref(), Some("verifier"));
    assert_eq!(seen.field("redirect_uri").as_deref(), Some("https://app.example/google"));
    assert_eq!(
        (seen.field("code").as_deref(), seen.field("grant_type").as_deref()),
        (Some("4/code"), Some("authorization_code"))
    );
}

/// Fails when a refresh answer without a refresh token loses the one there is.
#[tokio::test(start_paused = true)]
async fn a_renewal_without_a_refresh_token_keeps_the_old_one() {
    let (script, flow) = flow(google());
    script.answer(200, json!({"access_token": "ya29.2", "expires_in": 3599, "token_type": "Bearer"}).to_string());
    let tokens = flow.renew(refresh_token()).await.unwrap();
    assert!(matches!(&tokens.renewal, Renewal::RefreshToken(token) if token.expose() == "rt-old"));
    assert_eq!((tokens.access.expose(), tokens.granted.join(" ").as_str()), ("ya29.2", "read"));
    assert!(flow.policy().refresh_reusable);
}

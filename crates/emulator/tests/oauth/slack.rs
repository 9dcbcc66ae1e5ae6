//! What only Slack has: 200 for everything, two holders, organisations, the exchange of old tokens, uninstalling.

use palisade_emulator::slack::{Slack, SlackConfig};

use super::support::{CLIENT, Emulator, SECRET, get_as, post, slack_config, text};

async fn method(slack: &Emulator, name: &str, body: &str, token: Option<&str>) -> super::support::Seen {
    let bearer = token.map(|token| format!("Bearer {token}"));
    post(&format!("{}/api/{name}", slack.base()), body.to_owned(), bearer.as_deref()).await
}

fn credentials() -> String {
    format!("client_id={CLIENT}&client_secret={}", SECRET.replace('%', "%25").replace('+', "%2B").replace(' ', "%20"))
}

#[tokio::test]
async fn a_reply_has_the_documented_shape() {
    let slack = Emulator::slack().await;
    let reply = slack.connected().await;
    let mut names: Vec<&str> = reply.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let expected = "access_token app_id authed_user bot_user_id enterprise expires_in is_enterprise_install ok refresh_token scope team token_type";
    assert_eq!(names.join(" "), expected);
    let mut names: Vec<&str> = reply["authed_user"].as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names.join(" "), "access_token expires_in id refresh_token scope token_type");
    assert_eq!((reply["team"]["name"].as_str(), reply["enterprise"]["name"].as_str()), (Some("Tea"), Some("Drinks")));
}

#[tokio::test]
async fn without_bot_scopes_there_is_no_bot_token() {
    let slack = Emulator::slack().await;
    let code = slack.code(&[("scope", "")]).await;
    let reply = slack.redeem(&code, &[]).await.json();
    assert!(reply["access_token"].is_null() && reply["bot_user_id"].is_null(), "{reply}");
    assert!(text(&reply["authed_user"], "access_token").starts_with("xoxe.xoxp-1-"));
    let code = slack.code(&[("user_scope", "")]).await;
    let reply = slack.redeem(&code, &[]).await.json();
    assert_eq!(reply["authed_user"].as_object().unwrap().len(), 1, "only the installer's id");
}

#[tokio::test]
async fn without_rotation_tokens_live_for_ever() {
    let slack = Emulator::Slack(Slack::start(SlackConfig { rotation: false, ..slack_config() }).await.unwrap());
    let reply = slack.connected().await;
    assert!(text(&reply, "access_token").starts_with("xoxb-"));
    assert!(text(&reply["authed_user"], "access_token").starts_with("xoxp-"));
    assert!(reply["refresh_token"].is_null() && reply["expires_in"].is_null());
    slack.advance(std::time::Duration::from_secs(400 * 24 * 3600));
    assert_eq!(slack.call(&text(&reply, "access_token")).await, "");
    let seen = method(&slack, "oauth.v2.exchange", &credentials(), Some(&text(&reply, "access_token"))).await;
    assert_eq!(slack.error(&seen), "token_rotation_not_enabled");
}

#[tokio::test]
async fn an_old_token_is_exchanged_once() {
    let slack = Emulator::slack().await;
    let Emulator::Slack(own) = &slack else { panic!() };
    let old = own.install_forever(&["chat:write"]);
    assert!(old.starts_with("xoxb-"));
    assert_eq!(slack.call(&old).await, "");
    let exchange = async |token: &str, body: &str| method(&slack, "oauth.v2.exchange", body, Some(token)).await;
    assert_eq!(slack.error(&exchange(&old, &format!("client_id={CLIENT}&client_secret=x")).await), "bad_client_secret");
    assert_eq!(slack.error(&exchange(&old, "client_id=nobody").await), "invalid_client_id");
    assert_eq!(slack.error(&exchange("xoxb-unknown", &credentials()).await), "invalid_token");
    let reply = exchange(&old, &credentials()).await.json();
    assert_eq!((text(&reply, "scope"), reply["expires_in"].as_u64()), ("chat:write".to_owned(), Some(43_200)));
    assert_eq!(slack.call(&old).await, "token_revoked");
    let fresh = text(&reply, "access_token");
    assert_eq!(slack.call(&fresh).await, "");
    assert_eq!(slack.error(&exchange(&old, &credentials()).await), "token_already_exchanged");
    assert_eq!(slack.error(&exchange(&fresh, &credentials()).await), "token_already_exchanged");
    assert_eq!(slack.error(&slack.refresh(&text(&reply, "refresh_token")).await), "");
}

#[tokio::test]
async fn auth_test_knows_whose_token_it_is() {
    let slack = Emulator::slack().await;
    let reply = slack.connected().await;
    let seen = method(&slack, "auth.test", "", Some(&text(&reply, "access_token"))).await;
    assert_eq!(seen.header("x-oauth-scopes"), "chat:write,channels:read");
    assert!(!seen.header("x-slack-req-id").is_empty());
    let bot = seen.json();
    assert_eq!((text(&bot, "team_id"), bot["user_id"].as_str()), ("T1".to_owned(), reply["bot_user_id"].as_str()));
    assert!(bot["bot_id"].is_string() && bot["expires_in"].as_i64().unwrap() > 43_000);
    let user = method(&slack, "auth.test", "", Some(&text(&reply["authed_user"], "access_token"))).await.json();
    assert_eq!((user["user_id"].as_str(), user["bot_id"].as_str()), (reply["authed_user"]["id"].as_str(), None));
    let by_argument = method(&slack, "auth.test", &format!("token={}", text(&reply, "access_token")), None).await;
    assert_eq!(by_argument.json()["ok"], true);
    let bearer = format!("Bearer {}", text(&reply, "access_token"));
    let by_get = get_as(&format!("{}/api/auth.test", slack.base()), &bearer).await;
    assert_eq!(by_get.json()["ok"], true);
    assert_eq!(slack.error(&method(&slack, "auth.test", "", None).await), "not_authed");
    assert_eq!(slack.error(&method(&slack, "no.such", "", None).await), "unknown_method");
}

#[tokio::test]
async fn revoking_and_uninstalling() {
    let slack = Emulator::slack().await;
    let reply = slack.connected().await;
    let (bot, user) = (text(&reply, "access_token"), text(&reply["authed_user"], "access_token"));
    assert_eq!(method(&slack, "auth.revoke", "test=1", Some(&bot)).await.json()["revoked"], false);
    assert_eq!(slack.call(&bot).await, "");
    assert_eq!(method(&slack, "auth.revoke", "", Some(&bot)).await.json()["revoked"], true);
    assert_eq!(slack.call(&bot).await, "token_revoked");
    assert_eq!(slack.error(&slack.refresh(&text(&reply, "refresh_token")).await), "invalid_refresh_token");
    assert_eq!(slack.error(&method(&slack, "auth.revoke", "", Some(&bot)).await), "token_revoked");
    assert_eq!(slack.call(&user).await, "", "the user's token is another one");

    let again = slack.connected().await;
    let elsewhere = {
        let mut form = slack.visit(&slack.ask()).await.form();
        assert!(form.choose("T2"));
        let code = slack.send(&form, "allow").await.back()["code"].clone();
        text(&slack.redeem(&code, &[]).await.json(), "access_token")
    };
    let fresh = text(&again, "access_token");
    assert_eq!(
        slack.error(&method(&slack, "apps.uninstall", "client_id=ca_app", Some(&fresh)).await),
        "bad_client_secret"
    );
    assert_eq!(slack.error(&method(&slack, "apps.uninstall", &credentials(), Some(&fresh)).await), "");
    for token in [&fresh, &user, &text(&again["authed_user"], "access_token")] {
        assert_eq!(slack.call(token).await, "token_revoked");
    }
    assert_eq!(slack.call(&elsewhere).await, "", "the other workspace keeps its app");
}

#[tokio::test]
async fn a_token_request_may_be_json_and_names_its_grant() {
    let slack = Emulator::slack().await;
    let grant = async |kind: &str| slack.error(&slack.token(&[("grant_type", kind)]).await);
    assert_eq!(grant("password").await, "invalid_grant_type");
    assert_eq!(grant("authorization_code").await, "invalid_code");
    assert_eq!(grant("refresh_token").await, "invalid_refresh_token");
    let code = slack.code(&[]).await;
    let body = serde_json::json!({ "client_id": CLIENT, "client_secret": SECRET, "code": code, "redirect_uri": super::support::BACK });
    let http = super::support::client();
    let url = format!("{}/api/oauth.v2.access", slack.base());
    let sent = http.post(url).header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
    let reply: serde_json::Value = serde_json::from_slice(&sent.bytes().await.unwrap()).unwrap();
    assert_eq!(reply["ok"], true, "{reply}");
}

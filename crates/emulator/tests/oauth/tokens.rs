//! Tokens: lives, rotation, replay, grace, families, revocation, and the count of every use.

use std::time::Duration;

use palisade_emulator::oauth::Refresh;

use super::support::{Emulator, MAIL, post, text};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_access_token_ends_and_the_api_says_so() {
    for provider in Emulator::all().await {
        let name = provider.name();
        provider.rules(|rules| rules.access_life = Some(HOUR));
        let reply = provider.connected().await;
        assert_eq!(reply["expires_in"], 3600, "{name}");
        let access = text(&reply, "access_token");
        assert_eq!(provider.call(&access).await, "", "{name}");
        provider.advance(HOUR);
        let word = if name == "slack" { "token_expired" } else { "401" };
        assert_eq!(provider.call(&access).await, word, "{name}");
        assert_ne!(provider.call("nonsense").await, "", "{name}");
        let refreshed = provider.refresh(&text(&reply, "refresh_token")).await.json();
        assert_eq!(provider.call(&text(&refreshed, "access_token")).await, "", "{name}");
        let uses = provider.oauth().uses(&access);
        assert_eq!((uses.arrived, uses.accepted, uses.refused), (2, 1, 1), "{name}");
    }
}

#[tokio::test]
async fn slack_tokens_rotate_once() {
    let slack = Emulator::slack().await;
    let reply = slack.connected().await;
    assert_eq!((reply["expires_in"].as_u64(), reply["token_type"].as_str()), (Some(43_200), Some("bot")));
    assert!(text(&reply, "access_token").starts_with("xoxe.xoxb-1-"));
    let first = text(&reply, "refresh_token");
    assert!(first.starts_with("xoxe-1-"));
    let next = slack.refresh(&first).await.json();
    let second = text(&next, "refresh_token");
    assert_ne!(first, second);
    assert_eq!(text(&next, "scope"), "chat:write,channels:read");
    assert_eq!(slack.error(&slack.refresh(&first).await), "invalid_refresh_token", "spent");
    assert_eq!(slack.error(&slack.refresh(&second).await), "", "a replay does not hurt the successor");
    let (spent, ledger) = (slack.oauth().uses(&first), slack.oauth().ledger());
    assert_eq!((spent.arrived, spent.judged, spent.accepted, spent.refused), (2, 2, 1, 1));
    assert_eq!((ledger.replays, ledger.single_use_arrived_max, ledger.single_use_accepted_max), (1, 2, 1));
    assert_eq!((ledger.refreshes, ledger.refreshes_accepted, ledger.refreshes_overlapping), (3, 2, 0));
}

#[tokio::test]
async fn bot_and_user_tokens_rotate_apart() {
    let slack = Emulator::slack().await;
    let reply = slack.connected().await;
    let user = &reply["authed_user"];
    assert_eq!((user["token_type"].as_str(), user["scope"].as_str()), (Some("user"), Some("users:read")));
    let next = slack.refresh(&text(user, "refresh_token")).await.json();
    assert_eq!((text(&next, "token_type"), text(&next, "scope")), ("user".to_owned(), "users:read".to_owned()));
    assert!(text(&next, "access_token").starts_with("xoxe.xoxp-1-"));
    assert_eq!(next["authed_user"]["id"], user["id"]);
    assert_eq!(slack.error(&slack.refresh(&text(&reply, "refresh_token")).await), "", "the bot's is unspent");
}

#[tokio::test]
async fn a_replay_can_revoke_the_family() {
    for provider in Emulator::all().await {
        let name = provider.name();
        provider.rules(|rules| {
            rules.refresh = Refresh::Rotating { grace: Duration::ZERO };
            rules.replay_revokes_family = true;
        });
        let first = text(&provider.connected().await, "refresh_token");
        let next = provider.refresh(&first).await.json();
        let (access, second) = (text(&next, "access_token"), text(&next, "refresh_token"));
        assert_eq!(provider.call(&access).await, "", "{name}");
        assert_ne!(provider.error(&provider.refresh(&first).await), "", "{name}");
        // Fails when only the spent token is refused and its descendants live on.
        assert_ne!(provider.error(&provider.refresh(&second).await), "", "{name}");
        assert_ne!(provider.call(&access).await, "", "{name}");
        assert_eq!(provider.oauth().ledger().families_revoked, 1, "{name}");
    }
}

#[tokio::test]
async fn a_grace_window_gives_the_same_successor() {
    for provider in Emulator::all().await {
        let name = provider.name();
        provider.rules(|rules| {
            rules.refresh = Refresh::Rotating { grace: Duration::from_secs(30) };
            rules.access_life = Some(HOUR);
        });
        let first = text(&provider.connected().await, "refresh_token");
        let next = provider.refresh(&first).await.json();
        provider.advance(Duration::from_secs(20));
        let again = provider.refresh(&first).await.json();
        assert_eq!(again["access_token"], next["access_token"], "{name}");
        assert_eq!(again["refresh_token"], next["refresh_token"], "{name}");
        assert!(again["expires_in"].as_u64().unwrap() <= 3580, "{name}: what is left of its life");
        assert_eq!(provider.oauth().ledger().grace_answers, 1, "{name}");
        // The successor's use closes the window, and so does time.
        let third = provider.refresh(&text(&next, "refresh_token")).await.json();
        assert_ne!(provider.error(&provider.refresh(&first).await), "", "{name}");
        provider.advance(Duration::from_secs(51));
        let second = text(&next, "refresh_token");
        assert_ne!(provider.error(&provider.refresh(&second).await), "", "{name}");
        assert_eq!(provider.error(&provider.refresh(&text(&third, "refresh_token")).await), "", "{name}");
    }
}

#[tokio::test]
async fn a_refresh_token_belongs_to_its_client() {
    for provider in [Emulator::slack().await, Emulator::google().await] {
        let token = text(&provider.connected().await, "refresh_token");
        let pairs = [
            ("client_id", "ca_other"),
            ("client_secret", super::support::SECRET),
            ("grant_type", "refresh_token"),
            ("refresh_token", &token),
        ];
        assert_ne!(provider.error(&provider.token_as(&pairs, None).await), "", "{}", provider.name());
        assert_eq!(provider.error(&provider.refresh(&token).await), "", "the other's try does not spend it");
    }
}

#[tokio::test]
async fn google_tokens_stay_and_narrow() {
    let google = Emulator::google().await;
    let reply = google.connected().await;
    let refresh = text(&reply, "refresh_token");
    assert_eq!((reply["expires_in"].as_u64(), reply["token_type"].as_str()), (Some(3599), Some("Bearer")));
    for _ in 0..3 {
        let next = google.refresh(&refresh).await.json();
        assert!(next["refresh_token"].is_null(), "a refresh gives no new refresh token");
        assert_eq!(next["scope"], reply["scope"]);
    }
    let with = async |scope: &str| {
        google.token(&[("grant_type", "refresh_token"), ("refresh_token", &refresh), ("scope", scope)]).await
    };
    assert_eq!(text(&with(MAIL).await.json(), "scope"), MAIL);
    assert_eq!(google.error(&with("https://www.googleapis.com/auth/drive").await), "invalid_scope");
    assert_eq!(google.oauth().ledger().single_use_arrived_max, 0, "nothing here is single-use");
}

#[tokio::test]
async fn google_gives_a_refresh_token_only_with_a_consent_that_was_shown() {
    let google = Emulator::google().await;
    google.connected().await;
    let hint = ("login_hint", "ada@example.com");
    // Consent covers it: no page, no refresh token.
    let back = google.visit(&google.ask_with(&[("prompt", ""), hint])).await.back();
    assert!(google.redeem(&back["code"], &[]).await.json()["refresh_token"].is_null());
    let silent = google.visit(&google.ask_with(&[("prompt", "none"), hint])).await.back();
    assert!(silent.contains_key("code"));
    // Nobody else's consent counts.
    assert_eq!(google.visit(&google.ask_with(&[("prompt", ""), ("login_hint", "bob@example.com")])).await.status, 200);
    for change in [("access_type", ""), ("access_type", "online")] {
        let code = google.code(&[change]).await;
        assert!(google.redeem(&code, &[]).await.json()["refresh_token"].is_null(), "{change:?}");
    }
    let more = google.ask_with(&[
        ("scope", "https://www.googleapis.com/auth/drive"),
        ("include_granted_scopes", "true"),
        ("prompt", ""),
    ]);
    let back = google.send(&google.visit(&more).await.form(), "allow").await.back();
    let reply = google.redeem(&back["code"], &[]).await.json();
    assert!(text(&reply, "scope").contains(MAIL) && text(&reply, "scope").contains("drive"), "scopes add up");
    assert!(reply["refresh_token"].is_string());
}

#[tokio::test]
async fn google_refresh_tokens_die_unused_and_in_excess() {
    let google = Emulator::google().await;
    google.rules(|rules| rules.refresh_live_max = Some(2));
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokens.push(text(&google.connected().await, "refresh_token"));
    }
    assert_eq!(google.error(&google.refresh(&tokens[0]).await), "invalid_grant", "the oldest died silently");
    assert_eq!(google.error(&google.refresh(&tokens[1]).await), "");
    google.advance(Duration::from_secs(179 * 24 * 3600));
    assert_eq!(google.error(&google.refresh(&tokens[1]).await), "", "used in time");
    google.advance(Duration::from_secs(2 * 24 * 3600));
    assert_eq!(google.error(&google.refresh(&tokens[2]).await), "invalid_grant", "unused for half a year");
    assert_eq!(google.error(&google.refresh(&tokens[1]).await), "");
    google.rules(|rules| rules.refresh_life = Some(Duration::from_secs(7 * 24 * 3600)));
    let testing = google.connected().await;
    assert_eq!(testing["refresh_token_expires_in"], 604_800);
    google.advance(Duration::from_secs(7 * 24 * 3600));
    assert_eq!(google.error(&google.refresh(&text(&testing, "refresh_token")).await), "invalid_grant");
}

#[tokio::test]
async fn google_revokes_the_whole_grant() {
    for by in ["access_token", "refresh_token"] {
        let google = Emulator::google().await;
        let (one, two) = (google.connected().await, google.connected().await);
        let revoke = async |token: &str| {
            post(&format!("{}/revoke", google.base()), format!("token={}", token.replace('/', "%2F")), None).await
        };
        assert_eq!(revoke(&text(&one, by)).await.status, 200);
        assert_eq!(google.error(&google.refresh(&text(&two, "refresh_token")).await), "invalid_grant", "{by}");
        assert_eq!(google.call(&text(&one, "access_token")).await, "401");
        let again = revoke(&text(&one, by)).await;
        assert_eq!((again.status, text(&again.json(), "error")), (400, "invalid_token".to_owned()));
        let page = google.visit(&google.ask_with(&[("prompt", ""), ("login_hint", "ada@example.com")])).await;
        assert_eq!(page.status, 200, "consent is asked for again");
    }
}

#[tokio::test]
async fn live_access_tokens_can_be_few() {
    let slack = Emulator::slack().await;
    slack.rules(|rules| rules.access_live_max = Some(2));
    let first = slack.connected().await;
    let second = slack.refresh(&text(&first, "refresh_token")).await.json();
    let third = slack.refresh(&text(&second, "refresh_token")).await.json();
    assert_eq!(slack.call(&text(&first, "access_token")).await, "token_revoked");
    for live in [&second, &third] {
        assert_eq!(slack.call(&text(live, "access_token")).await, "");
    }
}

#[tokio::test]
async fn a_users_removal_ends_everything() {
    for provider in Emulator::all().await {
        let reply = provider.connected().await;
        assert_eq!(provider.oauth().revoke_all(), 1);
        assert_ne!(provider.call(&text(&reply, "access_token")).await, "");
        assert_ne!(provider.error(&provider.refresh(&text(&reply, "refresh_token")).await), "");
    }
}

#[tokio::test]
async fn every_secret_is_listed() {
    for provider in Emulator::all().await {
        let reply = provider.connected().await;
        let secrets = provider.oauth().secrets();
        for name in ["access_token", "refresh_token"] {
            assert!(secrets.contains(&text(&reply, name)), "{} {name}", provider.name());
        }
        assert!(secrets.iter().any(|secret| secret == super::support::SECRET));
        assert!(!format!("{:?}", provider.oauth().client("ca_app")).contains(super::support::SECRET));
    }
}

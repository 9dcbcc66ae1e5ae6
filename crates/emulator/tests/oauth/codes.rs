//! Codes: once, in time, by the client, the redirect URI and the verifier they were made for.

use std::time::Duration;

use super::support::{CHALLENGE, CLIENT, Emulator, SECRET, VERIFIER, text};

#[tokio::test]
async fn a_code_works_once_and_its_replay_revokes_what_it_gave() {
    for provider in Emulator::all().await {
        let name = provider.name();
        let code = provider.code(&[]).await;
        let reply = provider.redeem(&code, &[]).await;
        assert_eq!(provider.error(&reply), "", "{name}");
        let access = text(&reply.json(), "access_token");
        assert_eq!(provider.call(&access).await, "", "{name}");

        let again = provider.redeem(&code, &[]).await;
        let word = if name == "slack" { "code_already_used" } else { "invalid_grant" };
        assert_eq!(provider.error(&again), word, "{name}");
        // Fails when a replayed code leaves the first one's tokens alone.
        assert_ne!(provider.call(&access).await, "", "{name}: the replay revokes the access token");
        if let Some(refresh) = reply.json()["refresh_token"].as_str() {
            assert_ne!(provider.error(&provider.refresh(refresh).await), "", "{name}: and the refresh token");
        }
        let uses = provider.oauth().uses(&code);
        assert_eq!((uses.arrived, uses.accepted, uses.refused), (2, 1, 1), "{name}");
    }
}

#[tokio::test]
async fn a_replay_may_be_harmless_where_the_rules_say_so() {
    for provider in Emulator::all().await {
        provider.rules(|rules| rules.code_replay_revokes = false);
        let code = provider.code(&[]).await;
        let access = text(&provider.redeem(&code, &[]).await.json(), "access_token");
        assert_ne!(provider.error(&provider.redeem(&code, &[]).await), "");
        assert_eq!(provider.call(&access).await, "", "{}", provider.name());
    }
}

#[tokio::test]
async fn a_code_ends() {
    for provider in Emulator::all().await {
        let name = provider.name();
        let word = if name == "slack" { "invalid_code" } else { "invalid_grant" };
        let life = provider.oauth().rules().code_life;
        let (late, early) = (provider.code(&[]).await, provider.code(&[]).await);
        provider.advance(life - Duration::from_secs(5));
        assert_eq!(provider.error(&provider.redeem(&early, &[]).await), "", "{name}");
        provider.advance(if name == "connect" { life } else { Duration::from_secs(5) });
        assert_eq!(provider.error(&provider.redeem(&late, &[]).await), word, "{name}");

        let ended = provider.code(&[]).await;
        assert!(provider.oauth().expire(&ended));
        assert_eq!(provider.error(&provider.redeem(&ended, &[]).await), word, "{name}");
        let mut dials = provider.oauth().dials();
        dials.codes_born_expired = true;
        provider.oauth().set_dials(dials);
        let stillborn = provider.code(&[]).await;
        assert_eq!(provider.error(&provider.redeem(&stillborn, &[]).await), word, "{name}");
        assert_eq!(provider.oauth().ledger().refusals["code_expired"], 3, "{name}");
    }
}

#[tokio::test]
async fn a_verifier_must_be_the_one_the_challenge_was_made_from() {
    let wrong = "x".repeat(43);
    // challenge, method, verifier, whether it is honoured
    let cases: [(&str, &str, &str, bool); 9] = [
        ("", "", "", true),
        (CHALLENGE, "S256", VERIFIER, true),
        (CHALLENGE, "S256", "", false),
        (CHALLENGE, "S256", &wrong, false),
        (CHALLENGE, "S256", CHALLENGE, false),
        (VERIFIER, "plain", VERIFIER, true),
        (VERIFIER, "", VERIFIER, true),
        (VERIFIER, "plain", &wrong, false),
        ("", "", VERIFIER, false),
    ];
    for provider in Emulator::all().await {
        for (challenge, method, verifier, good) in cases {
            let case = format!("{} {challenge} {method} {verifier}", provider.name());
            let code = provider.code(&[("code_challenge", challenge), ("code_challenge_method", method)]).await;
            let reply = provider.redeem(&code, &[("code_verifier", verifier)]).await;
            // Fails when the verifier is taken without a look at the challenge, or a challenge without a verifier.
            assert_eq!(provider.error(&reply).is_empty(), good, "{case}");
        }
    }
}

#[tokio::test]
async fn pkce_can_be_required() {
    use palisade_emulator::oauth::Pkce;
    for provider in [Emulator::slack().await, Emulator::google().await] {
        for (rule, challenge, method, good) in [
            (Pkce::Required, "", "", false),
            (Pkce::Required, VERIFIER, "plain", true),
            (Pkce::S256, VERIFIER, "plain", false),
            (Pkce::S256, CHALLENGE, "S256", true),
        ] {
            provider.rules(|rules| rules.pkce = rule);
            let asked = provider.ask_with(&[("code_challenge", challenge), ("code_challenge_method", method)]);
            let seen = provider.visit(&asked).await;
            assert_eq!(seen.status == 200, good, "{} {rule:?} {method}", provider.name());
        }
    }
}

#[tokio::test]
async fn the_token_request_repeats_the_redirect_uri() {
    for provider in [Emulator::slack().await, Emulator::google().await] {
        let word = if provider.name() == "slack" { "bad_redirect_uri" } else { "redirect_uri_mismatch" };
        for other in ["https://app.example/other", "http://127.0.0.1:9/callback", ""] {
            let code = provider.code(&[]).await;
            let reply = provider.redeem(&code, &[("redirect_uri", other)]).await;
            assert_eq!(provider.error(&reply), word, "{} {other}", provider.name());
        }
    }
}

#[tokio::test]
async fn a_code_belongs_to_its_client() {
    for provider in [Emulator::slack().await, Emulator::google().await] {
        let code = provider.code(&[]).await;
        let pairs = [
            ("client_id", "ca_other"),
            ("client_secret", SECRET),
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", super::support::BACK),
        ];
        assert_ne!(provider.error(&provider.token_as(&pairs, None).await), "");
        assert_eq!(provider.error(&provider.redeem(&code, &[]).await), "", "the other's try does not spend it");
    }
}

#[tokio::test]
async fn a_client_proves_itself_by_header_or_form() {
    use base64::Engine;
    let basic = |id: &str, secret: &str| {
        let one =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let pair = format!("{}:{}", one(id), one(secret));
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    };
    for provider in [Emulator::slack().await, Emulator::google().await] {
        let slack = provider.name() == "slack";
        let words = |slack_word: &'static str, other: &'static str| if slack { slack_word } else { other };
        let table = [
            (vec![("client_id", CLIENT), ("client_secret", SECRET)], None, ""),
            (vec![], Some(basic(CLIENT, SECRET)), ""),
            (vec![("client_id", CLIENT)], Some(basic(CLIENT, SECRET)), ""),
            (vec![("client_id", CLIENT)], None, words("bad_client_secret", "invalid_client")),
            (vec![("client_id", CLIENT), ("client_secret", "x")], None, words("bad_client_secret", "invalid_client")),
            (vec![], Some(basic(CLIENT, "x")), words("bad_client_secret", "invalid_client")),
            (vec![("client_id", "nobody"), ("client_secret", "x")], None, words("invalid_client_id", "invalid_client")),
            (vec![], None, words("invalid_client_id", "invalid_client")),
            (
                vec![("client_id", "ca_other")],
                Some(basic(CLIENT, SECRET)),
                words("invalid_arguments", "invalid_request"),
            ),
        ];
        for (mut pairs, header, word) in table {
            let code = provider.code(&[]).await;
            let case = format!("{} {pairs:?} {header:?}", provider.name());
            pairs.extend([
                ("grant_type", "authorization_code"),
                ("code", &code),
                ("redirect_uri", super::support::BACK),
            ]);
            let reply = provider.token_as(&pairs, header.as_deref()).await;
            assert_eq!(provider.error(&reply), word, "{case}");
            let spent = provider.oauth().uses(&code).accepted;
            assert_eq!(spent == 1, word.is_empty(), "{case}: a refused client spends no code");
        }
    }
}

#[tokio::test]
async fn everything_follows_from_the_seed() {
    for (one, two) in Emulator::all().await.into_iter().zip(Emulator::all().await) {
        let replies = [one.connected().await, two.connected().await];
        assert_eq!(replies[0]["access_token"], replies[1]["access_token"], "{}", one.name());
        assert_eq!(replies[0]["refresh_token"], replies[1]["refresh_token"], "{}", one.name());
    }
}

//! Authorisation pages: what is shown, what may be pressed, and where a browser is never sent.

use palisade_emulator::oauth::{Client, Consent, Dials};

use super::support::{BACK, CALENDAR, CLIENT, Emulator, MAIL, post, text};

#[tokio::test]
async fn the_page_says_who_asks_for_what() {
    for provider in Emulator::all().await {
        let page = provider.visit(&provider.ask()).await;
        assert!(page.text.contains("Tea &amp; &lt;Co&gt;"), "the app's name, escaped: {}", page.text);
        assert!(page.text.contains("http://127.0.0.1:9"), "where the browser will go");
        assert!(page.header("content-type").starts_with("text/html"));
        assert_eq!(page.header("cache-control"), "no-store");
        assert!(page.header("content-security-policy").contains("frame-ancestors 'none'"));
        assert!(page.text.contains("prefers-color-scheme:dark") && !page.text.contains("<script"));
        let form = page.form();
        assert!(!form.ticks().is_empty() && form.choices().len() > 1, "{}", provider.name());
    }
}

#[tokio::test]
async fn state_comes_back_as_it_went() {
    for provider in Emulator::all().await {
        for button in ["allow", "deny"] {
            let form = provider.visit(&provider.ask()).await.form();
            let back = provider.send(&form, button).await.back();
            assert_eq!(back["state"], "a b&c=d#é+%", "{} {button}", provider.name());
            assert_eq!(back.contains_key("code"), button == "allow");
            assert_eq!(back.get("error").map(String::as_str), (button == "deny").then_some("access_denied"));
            let iss = back.get("iss").map(String::as_str);
            assert_eq!(iss, (provider.name() == "google").then_some("https://accounts.google.com"));
        }
        assert_eq!(provider.oauth().ledger().denied, 1);
        let no_state = provider.visit(&provider.ask_with(&[("state", "")])).await.form();
        assert!(!provider.send(&no_state, "allow").await.back().contains_key("state"));
    }
}

#[tokio::test]
async fn nobody_is_sent_to_an_unregistered_address() {
    let uris = [
        "https://evil.example/",
        "http://127.0.0.1:9/callback",
        "http://127.0.0.1:9/callback?app=1&x=2",
        "http://127.0.0.1:9/callback?app=1/../evil",
        "http://127.0.0.1:10/callback?app=1",
        "HTTP://127.0.0.1:9/callback?app=1",
        "//evil.example",
        "javascript:alert(1)",
    ];
    for provider in Emulator::all().await {
        let mut asked: Vec<Vec<(String, String)>> =
            uris.iter().map(|uri| provider.ask_with(&[("redirect_uri", uri)])).collect();
        asked.push(provider.ask_with(&[("client_id", "nobody")]));
        asked.push(provider.ask_with(&[("client_id", "")]));
        for twice in ["client_id", "redirect_uri", "state"] {
            let mut pairs = provider.ask();
            pairs.push((twice.to_owned(), "https://evil.example/".to_owned()));
            asked.push(pairs);
        }
        for pairs in asked {
            for consent in [Consent::Ask, Consent::Allow, Consent::Deny] {
                provider.oauth().set_dials(Dials { consent, ..Dials::default() });
                let seen = provider.visit(&pairs).await;
                // Fails when a redirect is made before client and URI are checked.
                assert_eq!((seen.location, seen.status / 100), (None, 4), "{} {pairs:?}", provider.name());
                assert!(!seen.text.contains("<form") && seen.text.contains("<h1>"));
            }
        }
        provider.oauth().set_dials(Dials::default());
        let mut form = provider.visit(&provider.ask()).await.form();
        form.forge("redirect_uri", "https://evil.example/");
        let seen = provider.send(&form, "allow").await;
        assert_eq!((seen.location, seen.status / 100), (None, 4), "{}: a forged form", provider.name());
        assert_eq!(provider.oauth().ledger().codes_issued, 0);
    }
}

#[tokio::test]
async fn the_first_redirect_uri_stands_for_none_where_the_provider_allows_it() {
    for provider in Emulator::all().await {
        let seen = provider.visit(&provider.ask_with(&[("redirect_uri", "")])).await;
        if provider.name() == "google" {
            assert_eq!((seen.status, seen.location), (400, None));
            continue;
        }
        let code = provider.send(&seen.form(), "allow").await.back()["code"].clone();
        let reply = provider.redeem(&code, &[("redirect_uri", "")]).await;
        assert_eq!(provider.error(&reply), "", "{}", provider.name());
    }
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused() {
    let [slack, google, connect] = Emulator::all().await;
    // provider, what is changed, error word in the redirect; a page where there is none
    let cases: [(&Emulator, (&str, &str), Option<&str>); 13] = [
        (&slack, ("scope", "a\"b"), Some("invalid_scope")),
        (&slack, ("code_challenge_method", "S256"), Some("invalid_request")),
        (&slack, ("code_challenge", "short"), Some("invalid_request")),
        (&google, ("response_type", "token"), None),
        (&google, ("response_type", ""), None),
        (&google, ("scope", ""), None),
        (&google, ("scope", "not-a-google-scope"), None),
        (&google, ("code_challenge", "short"), None),
        (&google, ("prompt", "none"), Some("interaction_required")),
        (&connect, ("response_type", "token"), Some("unsupported_response_type")),
        (&connect, ("scope", "everything"), Some("invalid_scope")),
        (&connect, ("code_challenge", "short"), Some("invalid_request")),
        (&connect, ("response_type", ""), Some("unsupported_response_type")),
    ];
    for (provider, change, word) in cases {
        let seen = provider.visit(&provider.ask_with(&[change])).await;
        let case = format!("{} {change:?}", provider.name());
        match word {
            Some(word) => assert_eq!(seen.back()["error"], word, "{case}"),
            None => assert_eq!((seen.status, seen.location), (400, None), "{case}"),
        }
    }
    let nothing = slack.visit(&slack.ask_with(&[("scope", ""), ("user_scope", "")])).await;
    assert_eq!((nothing.status, nothing.location), (400, None));
    let narrow = Client { scopes: Some(vec!["chat:write".to_owned()]), ..super::support::app(CLIENT) };
    slack.oauth().register(narrow);
    assert_eq!(slack.visit(&slack.ask()).await.back()["error"], "invalid_scope", "channels:read is not registered");
}

#[tokio::test]
async fn a_form_that_says_nothing_known_changes_nothing() {
    for provider in Emulator::all().await {
        let form = provider.visit(&provider.ask()).await.form();
        let url = format!("{}{}", provider.base(), form.action);
        let body = form.press("allow").unwrap();
        for broken in
            [body.replace("decision=allow", "decision=maybe"), body.replace("decision=allow", ""), "%ff".to_owned()]
        {
            let seen = post(&url, broken, None).await;
            assert_eq!((seen.status, seen.location), (400, None), "{}", provider.name());
        }
        let mut strange = form.clone();
        let field = form.choices()[0].0.to_owned();
        strange.forge(&field, "T_nowhere");
        assert_eq!(provider.send(&strange, "allow").await.status, 400, "{}", provider.name());
        assert_eq!(provider.oauth().ledger().codes_issued, 0);
    }
}

#[tokio::test]
async fn dials_answer_without_a_page() {
    for provider in Emulator::all().await {
        provider.oauth().set_dials(Dials { consent: Consent::Allow, ..Dials::default() });
        let code = provider.visit(&provider.ask()).await.back()["code"].clone();
        assert_eq!(provider.error(&provider.redeem(&code, &[]).await), "");
        provider.oauth().set_dials(Dials { consent: Consent::Deny, ..Dials::default() });
        assert_eq!(provider.visit(&provider.ask()).await.back()["error"], "access_denied");
    }
}

#[tokio::test]
async fn google_grants_scope_by_scope() {
    let google = Emulator::google().await;
    let mut form = google.visit(&google.ask()).await.form();
    let ticks: Vec<(String, bool, bool)> =
        form.ticks().into_iter().map(|(scope, on, free)| (scope.to_owned(), on, free)).collect();
    let expected = [("openid", false), ("email", false), (MAIL, true), (CALENDAR, true)];
    assert_eq!(ticks, expected.map(|(scope, free)| (scope.to_owned(), true, free)));
    assert!(form.tick(CALENDAR, false));
    let back = google.send(&form, "allow").await.back();
    let scope = format!("openid https://www.googleapis.com/auth/userinfo.email {MAIL}");
    assert_eq!((back["scope"].as_str(), back["prompt"].as_str()), (scope.as_str(), "consent"));
    let reply = google.redeem(&back["code"], &[]).await.json();
    assert_eq!(text(&reply, "scope"), scope, "a partial grant");

    let mail_only = google.ask_with(&[("scope", MAIL)]);
    let mut none = google.visit(&mail_only).await.form();
    assert!(none.tick(MAIL, false));
    assert_eq!(google.send(&none, "allow").await.back()["error"], "access_denied", "nothing is left to grant");
    none.forge("grant", CALENDAR);
    assert_eq!(google.send(&none, "allow").await.status, 400, "what was not asked for cannot be granted");
}

#[tokio::test]
async fn withheld_scopes_are_missing_from_the_grant() {
    let [slack, google, _] = Emulator::all().await;
    let withhold = vec!["channels:read".to_owned(), CALENDAR.to_owned()];
    for provider in [&slack, &google] {
        provider.oauth().set_dials(Dials { withhold: withhold.clone(), ..Dials::default() });
    }
    assert_eq!(text(&slack.connected().await, "scope"), "chat:write");
    assert!(!text(&google.connected().await, "scope").contains("calendar"));
}

#[tokio::test]
async fn slack_shows_all_and_installs_where_chosen() {
    let slack = Emulator::slack().await;
    let mut form = slack.visit(&slack.ask_with(&[("team", "T2")])).await.form();
    assert!(form.ticks().iter().all(|(_, on, free)| *on && !*free), "all or nothing");
    assert_eq!(form.ticks().len(), 3);
    assert_eq!(form.choices(), [("team", "T1", false), ("team", "T2", true), ("team", "E1", false)]);
    for (place, team, org) in [("T1", Some("T1"), false), ("T2", Some("T2"), false), ("E1", None, true)] {
        assert!(form.choose(place));
        let code = slack.send(&form, "allow").await.back()["code"].clone();
        let reply = slack.redeem(&code, &[]).await.json();
        assert_eq!(reply["team"]["id"].as_str(), team, "{reply}");
        assert_eq!((reply["is_enterprise_install"].as_bool(), reply["team"].is_null()), (Some(org), org));
        assert_eq!(reply["enterprise"]["id"], "E1");
    }
}

#[tokio::test]
async fn connect_offers_accounts_and_a_new_one() {
    let connect = Emulator::connect().await;
    let mut form = connect.visit(&connect.ask()).await.form();
    assert_eq!(form.choices(), [("account", "acct_old", true), ("account", "new", false)]);
    let code = connect.send(&form, "allow").await.back()["code"].clone();
    assert_eq!(text(&connect.redeem(&code, &[]).await.json(), "stripe_user_id"), "acct_old");
    assert!(form.choose("new"));
    let code = connect.send(&form, "allow").await.back()["code"].clone();
    let made = text(&connect.redeem(&code, &[]).await.json(), "stripe_user_id");
    assert!(made.starts_with("acct_1"));
    let choices = connect.visit(&connect.ask()).await.form();
    assert!(choices.choices().iter().any(|(_, account, _)| *account == made), "the new one is offered from now on");
    let back = BACK.replace('?', "%3F").replace('=', "%3D");
    let express = format!("/express/oauth/authorize?client_id={CLIENT}&response_type=code&redirect_uri={back}");
    let express = super::support::get(&format!("{}{express}", connect.base())).await;
    assert_eq!(express.form().action, "/express/oauth/authorize");
}

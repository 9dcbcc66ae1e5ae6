//! Forged, replayed, late, in another browser, with another's code: each is refused, with words and a reason.

use super::*;

/// Bends a callback: the query and the cookies, of another flow under way and our own.
type Bend = fn(&Browser, &Browser) -> (String, Option<String>);

/// Fails when what a callback must prove is measured and not enforced: the cookie, or its value and not its name alone; a
/// parameter that stands there twice; a code beside an error.
#[tokio::test(start_paused = true)]
async fn a_callback_that_is_not_the_answer_is_refused() {
    use RefusedKind::{Malformed, OtherBrowser, UnknownState};
    let cases: [(&str, Bend, RefusedKind); 12] = [
        ("no state", |_, own| ("code=c".to_owned(), Some(own.cookie.clone())), UnknownState),
        (
            "a forged state",
            |_, own| (format!("code=c&state={}", "A".repeat(43)), Some(own.cookie.clone())),
            UnknownState,
        ),
        ("an empty state", |_, own| ("code=c&state=".to_owned(), Some(own.cookie.clone())), UnknownState),
        ("no cookies", |_, own| (own.back(), None), OtherBrowser),
        ("other cookies", |_, own| (own.back(), Some("theme=dark".to_owned())), OtherBrowser),
        ("the cookie of another flow", |other, own| (own.back(), Some(other.cookie.clone())), OtherBrowser),
        (
            "the name of the cookie with another value",
            |_, own| (own.back(), Some(format!("{}=x", own.cookie.split('=').next().unwrap()))),
            OtherBrowser,
        ),
        ("another's state in our browser", |other, own| (other.back(), Some(own.cookie.clone())), OtherBrowser),
        ("state twice", |_, own| (format!("{}&state=x", own.back()), Some(own.cookie.clone())), Malformed),
        ("code twice", |_, own| (format!("{}&code=x", own.back()), Some(own.cookie.clone())), Malformed),
        ("no answer", |_, own| (format!("state={}", own.state()), Some(own.cookie.clone())), Malformed),
        ("both", |_, own| (format!("{}&error=access_denied", own.back()), Some(own.cookie.clone())), Malformed),
    ];
    for (name, bend, kind) in cases {
        let desk = desk(config());
        let (other, own) = (desk.begin(acme()).await, desk.begin(acme()).await);
        let (query, cookies) = bend(&other, &own);
        let refused = desk.connector.finish("acme", &query, cookies.as_deref()).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{name}");
        assert!(desk.script.seen().is_empty(), "{name}: the code was sent on");
        assert!(desk.store.connections(None, 9).await.unwrap().is_empty(), "{name}");
    }
    let desk = desk(config());
    let long = format!("code={}", "x".repeat(20_000));
    let kind = async |flow: &str, query: &str| desk.connector.finish(flow, query, None).await.unwrap_err().kind();
    assert_eq!(kind("acme", &long).await, Malformed);
    assert_eq!(kind("none", "code=x&state=y").await, UnknownState);
}

/// Fails when a state works twice, also when its first use was refused; or when it works after ten minutes, to the
/// millisecond.
#[tokio::test(start_paused = true)]
async fn a_state_works_once_and_for_ten_minutes() {
    let desk = desk(config());
    let browser = desk.begin(acme()).await;
    desk.script.answer(200, ANSWER);
    let finish = async |browser: &Browser, cookies: Option<&str>| {
        desk.connector.finish("acme", &browser.back(), cookies).await.map_err(|refused| refused.kind())
    };
    finish(&browser, Some(&browser.cookie)).await.unwrap();
    assert_eq!(finish(&browser, Some(&browser.cookie)).await.unwrap_err(), RefusedKind::UnknownState, "a replay");
    let stolen = desk.begin(acme()).await;
    assert_eq!(finish(&stolen, None).await.unwrap_err(), RefusedKind::OtherBrowser);
    assert_eq!(finish(&stolen, Some(&stolen.cookie)).await.unwrap_err(), RefusedKind::UnknownState, "used up");
    let both = desk.begin(acme()).await;
    desk.script.answer(200, ANSWER);
    let (one, two) = tokio::join!(finish(&both, Some(&both.cookie)), finish(&both, Some(&both.cookie)));
    assert_eq!(u8::from(one.is_ok()) + u8::from(two.is_ok()), 1, "two at once");
    let in_time = desk.begin(acme()).await;
    tokio::time::advance(PENDING_LIFE - Duration::from_millis(1)).await;
    desk.script.answer(200, ANSWER);
    finish(&in_time, Some(&in_time.cookie)).await.unwrap();
    let late = desk.begin(acme()).await;
    tokio::time::advance(PENDING_LIFE).await;
    assert_eq!(finish(&late, Some(&late.cookie)).await.unwrap_err(), RefusedKind::Expired);
}

/// The check at the value, for a product that keeps pending flows itself: no store stands before it that finds nothing.
///
/// Fails when the state, the flow's name or the ten minutes are not compared, or when the wrong words are said.
#[tokio::test(start_paused = true)]
async fn a_pending_flow_takes_its_own_answer_alone() {
    use RefusedKind::{Expired, OtherBrowser, UnknownState};
    let script = Script::default();
    let flow = |name: &str| {
        let mut config = config();
        config.name = name.to_owned();
        OAuth2Flow::new(config, script.transport()).unwrap()
    };
    let (acme, sandbox) = (flow("acme"), flow("acme/sandbox"));
    let random = SeededRandom::new(7);
    let begun = || {
        let wanted = Wanted {
            tenant: "t".into(),
            connection: "c".into(),
            scopes: acme.config().scopes_for(None),
            return_to: None,
            params: Vec::new(),
        };
        let (departure, pending) = begin(&acme, wanted, START, &random);
        let url = departure.redirect_url.expose().to_owned();
        let state = url.split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let cookie = departure.set_cookie.expose().split(';').next().unwrap().to_owned();
        (pending, format!("code=c1&state={state}"), cookie)
    };
    let last = START.plus(PENDING_LIFE - Duration::from_millis(1));
    for (case, through, at, others_state, others_cookie, refused) in [
        ("its own answer, in time", &acme, last, false, false, None),
        ("another flow's state", &acme, last, true, false, Some(UnknownState)),
        ("no state that anybody was given", &acme, last, true, true, Some(UnknownState)),
        ("another environment's callback", &sandbox, last, false, false, Some(UnknownState)),
        ("too late", &acme, START.plus(PENDING_LIFE), false, false, Some(Expired)),
        ("another browser", &acme, last, false, true, Some(OtherBrowser)),
    ] {
        let (pending, own, cookie) = begun();
        let (_, other, other_cookie) = begun();
        let callback = Callback::parse(if others_state { &other } else { &own }).unwrap();
        let cookies = if others_cookie { &other_cookie } else { &cookie };
        let requests = script.seen().len();
        if refused.is_none() {
            script.answer(200, ANSWER);
        }
        let finished = finish(through, pending, &callback, Some(cookies), at).await;
        assert_eq!(finished.err(), refused, "{case}");
        assert_eq!(script.seen().len() - requests, usize::from(refused.is_none()), "{case}: the code was sent on");
    }
}

/// A code of another session, put into our own callback in our own browser: the provider refuses it by the verifier, which
/// must be the one of the browser it came back in.
///
/// Fails when a code is sent without a verifier, or with one that more than one flow has.
#[tokio::test(start_paused = true)]
async fn an_injected_code_goes_out_with_the_verifier_of_the_browser_it_came_in() {
    let desk = desk(config());
    let (victim, own) = (desk.begin(acme()).await, desk.begin(acme()).await);
    assert_ne!(victim.params["code_challenge"], own.params["code_challenge"]);
    desk.script.answer(400, r#"{"error":"invalid_grant"}"#);
    let injected = format!("code=of-the-victim&state={}", own.state());
    let refused = desk.connector.finish("acme", &injected, Some(&own.cookie)).await.unwrap_err();
    assert_eq!(refused.kind(), RefusedKind::CodeRefused);
    let seen = desk.script.last();
    assert_eq!(seen.field("code").as_deref(), Some("of-the-victim"));
    let verifier = PkceCodeVerifier::new(seen.field("code_verifier").unwrap());
    assert_eq!(PkceCodeChallenge::from_code_verifier_sha256(&verifier).as_str(), own.params["code_challenge"]);
    assert!(desk.store.connections(None, 9).await.unwrap().is_empty());
}

/// Fails when a row put in another's place still opens: its verifier would fit another's code. Also of one connection,
/// where the state alone binds it.
#[tokio::test(start_paused = true)]
async fn a_pending_row_cannot_be_swapped() {
    use crate::store::Authorizations;
    let desk = desk(config());
    // Of one connection: nothing but the state tells the rows apart.
    let first = desk.begin(acme()).await;
    desk.script.answer(200, ANSWER);
    desk.connector.finish("acme", &first.back(), Some(&first.cookie)).await.unwrap();
    let again = || ConnectAsk { connection: Some(first.connection.clone()), ..acme() };
    let (one, two) = (desk.begin(again()).await, desk.begin(again()).await);
    let state = |browser: &Browser| hash(&Secret::new(browser.state()));
    let first = desk.store.take_pending(state(&one)).await.unwrap().unwrap();
    let second = desk.store.take_pending(state(&two)).await.unwrap().unwrap();
    let swapped = crate::store::PendingRow { blob: second.blob, ..first };
    desk.store.put_pending(swapped).await.unwrap();
    let refused = desk.connector.finish("acme", &one.back(), Some(&one.cookie)).await.unwrap_err();
    assert_eq!(refused.kind(), RefusedKind::Failed);
    assert_eq!(refused.source_error().unwrap().kind(), ErrorKind::Decode);
    assert_eq!(desk.script.seen().len(), 1, "the code was sent on");
}

/// Fails when the issuer is not compared, or when a callback that names none passes where the provider names itself.
#[tokio::test(start_paused = true)]
async fn the_issuer_is_checked_where_the_provider_names_it() {
    for (named, iss, kind) in [
        (Some("https://id.example"), "&iss=https%3A%2F%2Fid.example", None),
        (Some("https://id.example"), "&iss=https%3A%2F%2Fid.example%2F", Some(RefusedKind::WrongIssuer)),
        (Some("https://id.example"), "&iss=https%3A%2F%2Fevil.example", Some(RefusedKind::WrongIssuer)),
        (Some("https://id.example"), "", Some(RefusedKind::WrongIssuer)),
        (None, "&iss=anything", None),
    ] {
        let mut config = config();
        config.issuer = named.map(str::to_owned);
        let desk = desk(config);
        let browser = desk.begin(acme()).await;
        desk.script.answer(200, ANSWER);
        let query = format!("{}{iss}", browser.back());
        let finished = desk.connector.finish("acme", &query, Some(&browser.cookie)).await;
        assert_eq!(finished.err().map(|refused| refused.kind()), kind, "{iss}");
        if kind.is_some() {
            assert!(desk.script.seen().is_empty(), "the code was sent on");
        }
    }
}

/// Fails when a denial or a provider's own trouble ends in the wrong words, or when either is believed before the browser
/// has shown its cookie.
#[tokio::test(start_paused = true)]
async fn what_the_provider_says_at_the_callback_becomes_words() {
    for (error, kind) in [
        ("access_denied", RefusedKind::Denied),
        ("consent_required", RefusedKind::Denied),
        ("temporarily_unavailable", RefusedKind::ProviderFailed),
        ("server_error", RefusedKind::ProviderFailed),
        ("invalid_scope", RefusedKind::Misconfigured),
        ("unauthorized_client", RefusedKind::Misconfigured),
        ("<script>", RefusedKind::Misconfigured),
    ] {
        let desk = desk(config());
        let browser = desk.begin(acme()).await;
        let query = format!("error={error}&error_description=secret+words&state={}", browser.state());
        let refused = desk.connector.finish("acme", &query, Some(&browser.cookie)).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{error}");
        assert_eq!(refused.return_to(), Some("https://app.example/settings/slack?tab=1"));
        assert!(refused.clear_cookie().unwrap().contains("Max-Age=0"));
        assert!(!format!("{refused:?} {refused}").contains("secret words"));
        let browser = desk.begin(acme()).await;
        let query = format!("error={error}&state={}", browser.state());
        let refused = desk.connector.finish("acme", &query, None).await.unwrap_err();
        assert_eq!(refused.kind(), RefusedKind::OtherBrowser);
    }
}

/// Fails when a code that gave no tokens ends in the wrong words, or in a connection.
#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_code_becomes_words() {
    let cut = |kind, outcome| Error::new(kind, "as planned").with_outcome(outcome);
    for (answer, kind) in [
        (Ok((400, r#"{"error":"invalid_grant"}"#)), RefusedKind::CodeRefused),
        (Ok((401, r#"{"error":"invalid_client"}"#)), RefusedKind::Misconfigured),
        (Ok((503, "")), RefusedKind::ProviderFailed),
        (Ok((200, "<html>")), RefusedKind::AnswerLost),
        (Ok((200, r#"{"access_token":"a","scope":""}"#)), RefusedKind::NothingGranted),
        (Err(Some(cut(ErrorKind::Transport, Outcome::Unknown))), RefusedKind::AnswerLost),
        (Err(Some(cut(ErrorKind::Connect, Outcome::NotSent))), RefusedKind::ProviderFailed),
        (Err(None), RefusedKind::AnswerLost),
    ] {
        let desk = desk(config());
        let browser = desk.begin(acme()).await;
        let case = format!("{answer:?}");
        match answer {
            Ok((status, body)) => drop(desk.script.answer(status, body)),
            Err(Some(error)) => drop(desk.script.fail(error)),
            Err(None) => {}
        }
        let refused = desk.connector.finish("acme", &browser.back(), Some(&browser.cookie)).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{case}");
        assert!(desk.store.connections(None, 9).await.unwrap().is_empty(), "{case}");
    }
}

/// Fails when a reconnect with another account mixes two accounts' data in one connection.
#[tokio::test(start_paused = true)]
async fn another_account_does_not_take_a_connections_place() {
    let desk = desk(slack("slack"));
    let ask = || ConnectAsk::new("slack", "t".into());
    let browser = desk.begin(ask()).await;
    desk.script.answer(200, both().to_string());
    desk.connector.finish("slack", &browser.back(), Some(&browser.cookie)).await.unwrap();
    let id = browser.connection;
    let browser = desk.begin(ConnectAsk { connection: Some(id.clone()), ..ask() }).await;
    let mut other = both();
    other["team"]["id"] = "T2".into();
    desk.script.answer(200, other.to_string());
    let refused = desk.connector.finish("slack", &browser.back(), Some(&browser.cookie)).await.unwrap_err();
    assert_eq!(refused.kind(), RefusedKind::OtherAccount);
    assert_eq!(desk.grant(&id, "bot").await.generation, 1, "nothing was kept");
    assert_eq!(desk.script.seen().len(), 2, "and nothing revoked: it could be another connection's grant");
    // A connection that went to another tenant meanwhile.
    let browser = desk.begin(ConnectAsk { connection: Some(id.clone()), ..ask() }).await;
    let moved = Connection { tenant: "other".into(), ..desk.connection(&id).await };
    desk.store.put_connection(moved).await.unwrap();
    desk.script.answer(200, both().to_string());
    let refused = desk.connector.finish("slack", &browser.back(), Some(&browser.cookie)).await.unwrap_err();
    assert_eq!(refused.kind(), RefusedKind::Gone);
}

/// Fails when a target outside the allow-list is taken (the hub's own test says the same of links and of `/connect`).
#[tokio::test(start_paused = true)]
async fn what_cannot_begin_says_why() {
    let desk = desk(config());
    for (ask, kind) in [
        (ConnectAsk::new("none", "t".into()), ErrorKind::NotFound),
        (ConnectAsk { connection: Some("none".into()), ..acme() }, ErrorKind::NotFound),
        (ConnectAsk { return_to: Some("//evil.example".to_owned()), ..acme() }, ErrorKind::Invalid),
        (ConnectAsk { return_to: Some("/settings".to_owned()), ..acme() }, ErrorKind::Invalid),
    ] {
        assert_eq!(desk.connector.begin(ask.clone()).await.unwrap_err().kind(), kind, "{ask:?}");
    }
    // On this machine a cookie may travel in plain.
    let mut local = config();
    local.redirect_url = "http://127.0.0.1:8080/callback".to_owned();
    let desk = self::desk(local);
    let begun = desk.connector.begin(acme()).await.unwrap();
    let cookie = begun.set_cookie.expose();
    assert!(cookie.starts_with("palisade-connect-") && !cookie.contains("Secure"), "{cookie}");
    assert!(cookie.contains("HttpOnly; SameSite=Lax"));
}

#[test]
fn every_refusal_has_words_and_a_reason_of_its_own() {
    use RefusedKind as Kind;
    let all = [
        Kind::Denied,
        Kind::UnknownState,
        Kind::Expired,
        Kind::OtherBrowser,
        Kind::WrongIssuer,
        Kind::Malformed,
        Kind::CodeRefused,
        Kind::ProviderFailed,
        Kind::AnswerLost,
        Kind::Misconfigured,
        Kind::NothingGranted,
        Kind::OtherAccount,
        Kind::LinkUsed,
        Kind::LinkExpired,
        Kind::Gone,
        Kind::Failed,
    ];
    let mut reasons = std::collections::BTreeSet::new();
    for kind in all {
        let refused = Refused::from(kind);
        assert!(reasons.insert(kind.as_str()), "{kind:?}");
        assert!(kind.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        let (title, happened, press) = (refused.title(), refused.happened(), refused.press());
        assert!(!title.is_empty() && happened.ends_with('.') && !press.is_empty(), "{kind:?}");
        for word in ["token", "OAuth", "state", "error", "null", "40", "50"] {
            assert!(!happened.contains(word), "{kind:?} says {word:?}: {happened}");
        }
        assert!((200..=599).contains(&kind.status()));
    }
}

/// Fails when a target that was taken off the allow-list meanwhile is gone to all the same.
#[tokio::test(start_paused = true)]
async fn a_target_is_looked_at_again_on_the_way_back() {
    let desk = desk(config());
    let browser = desk.begin(acme()).await;
    let random = Arc::new(SystemRandom);
    let master = LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), random.clone()).unwrap();
    let vault = Arc::new(Vault::new(desk.store.clone(), Arc::new(master), random.clone()));
    let flow = Arc::new(OAuth2Flow::new(config(), desk.script.transport()).unwrap());
    let clock = Arc::new(desk.clock);
    let stricter = Connector::builder(desk.store.clone(), vault, clock, random).browser_flow(flow).build().unwrap();
    desk.script.answer(200, ANSWER);
    let connected = stricter.finish("acme", &browser.back(), Some(&browser.cookie)).await.unwrap();
    assert_eq!(connected.return_to, None);
}

//! Installing an app: what goes out is what the official SDK sends, and the emulator's authorisation server agrees.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::connect::{Callback, Grant, Wanted, begin, finish};
use palisade_core::auth::flow::{Flow, RenewalAsk, RenewalFailure, RevocationAsk};
use palisade_core::auth::grant::{GrantSecrets, Renewal, Tokens};
use palisade_core::auth::oauth2::{OAuth2Config, OAuth2Flow};
use palisade_core::random::SeededRandom;
use palisade_core::store::Revocation;
use palisade_core::{Error, Result, Timestamp, Transport};
use palisade_emulator::oauth::{Client, Form};
use palisade_emulator::slack::{Slack as Emulator, SlackConfig, Workspace};
use palisade_slack::auth::{BOT, USER, at, oauth2, with_pkce};
use serde_json::{Value, json};

use super::fake::{answering, pairs};

const BACK: &str = "https://app.example/callback";
const NOW: Timestamp = Timestamp(1_767_225_600_000);

fn config(client: &str, secret: &str) -> OAuth2Config {
    oauth2(BACK, client, secret.into(), &["chat:write", "channels:read"], &["users:read"])
}

fn flow(config: OAuth2Config, transport: Arc<dyn Transport>) -> OAuth2Flow {
    OAuth2Flow::new(config, transport).unwrap()
}

fn wanted(flow: &OAuth2Flow) -> Wanted {
    Wanted {
        tenant: "tenant_1".into(),
        connection: "conn_1".into(),
        scopes: flow.config().scopes.clone(),
        return_to: None,
        params: Vec::new(),
    }
}

fn renewal(tokens: &Tokens) -> RenewalAsk {
    RenewalAsk {
        name: tokens.name.clone(),
        renewal: tokens.renewal.clone(),
        requested: tokens.requested.clone(),
        granted: tokens.granted.clone(),
        now: NOW,
    }
}

fn revocation(tokens: &Tokens) -> RevocationAsk {
    let secrets = GrantSecrets { access: tokens.access.clone(), renewal: tokens.renewal.clone() };
    RevocationAsk { name: tokens.name.clone(), secrets, account: None }
}

/// Compares what we sent with what slack_sdk sent; `more` is what RFC 6749 wants and slack_sdk leaves out.
#[track_caller]
fn golden(name: &str, request: &Request<Bytes>, more: &[(&str, &str)]) {
    let file: Value = serde_json::from_str(include_str!("../fixtures/sdk_wire.json")).unwrap();
    let wire = &file["requests"][name];
    assert_eq!(request.method().as_str(), wire["method"], "{name}");
    assert_eq!(request.uri().to_string(), format!("https://slack.com{}", wire["path"].as_str().unwrap()), "{name}");
    let mut expected = pairs(wire["body"].as_str().unwrap().as_bytes());
    expected.extend(more.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())));
    expected.sort();
    assert_eq!(pairs(request.body()), expected, "{name}");
    let authorization = request.headers()["authorization"].to_str().unwrap();
    assert_eq!(authorization, wire["headers"]["Authorization"].as_str().unwrap(), "{name}");
}

const TOKENS: &str = r#"{"ok":true,"access_token":"xoxe.xoxb-2","token_type":"bot","scope":"chat:write,channels:read",
    "expires_in":43200,"refresh_token":"xoxe-1-r2","team":{"id":"T1"},"enterprise":null,"authed_user":{"id":"U1"}}"#;

#[tokio::test(start_paused = true)]
async fn requests_are_those_of_the_official_sdk() {
    let fake = answering(&[TOKENS]);
    let own = oauth2("https://x/cb", "1.2", "s".into(), &["chat:write", "channels:read"], &[]);
    let flow = flow(own, fake.clone());
    let (departure, pending) = begin(&flow, wanted(&flow), NOW, &SeededRandom::new(1));
    let url = url::Url::parse(departure.redirect_url.expose()).unwrap();
    assert_eq!((url.host_str(), url.path()), (Some("slack.com"), "/oauth/v2/authorize"));
    let asked = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    assert_eq!(asked("scope").as_deref(), Some("chat:write,channels:read"));
    assert_eq!((asked("user_scope"), asked("code_challenge")), (None, None));
    let callback = Callback::parse(&format!("code=c&state={}", asked("state").unwrap())).unwrap();
    let cookie = departure.set_cookie.expose().split(';').next().unwrap().to_owned();
    let grant = finish(&flow, pending, &callback, Some(&cookie), NOW).await.unwrap();
    golden("oauth_v2_access_code", &fake.only(), &[("grant_type", "authorization_code")]);
    assert_eq!((grant.account.as_deref(), grant.tokens.len()), (Some("T1"), 1));

    let tokens = Tokens { renewal: Renewal::RefreshToken("xoxe-1-r".into()), ..grant.tokens[0].clone() };
    let fake = answering(&[TOKENS]);
    let renewed = self::flow(config("1.2", "s"), fake.clone()).renew(renewal(&tokens)).await.unwrap();
    golden("oauth_v2_access_refresh", &fake.only(), &[]);
    assert!(matches!(renewed.renewal, Renewal::RefreshToken(token) if token.expose() == "xoxe-1-r2"));

    let fake = answering(&[TOKENS]);
    let exchanged =
        self::flow(config("1.2", "s"), fake.clone()).exchange(BOT.into(), &"xoxb-old".into()).await.unwrap();
    golden("oauth_v2_exchange", &fake.only(), &[]);
    assert_eq!(exchanged.access.expose(), "xoxe.xoxb-2");

    let fake = answering(&[r#"{"ok":true,"revoked":true}"#]);
    let tokens = Tokens { access: "xoxb-1".into(), ..tokens };
    let revoked = self::flow(config("1.2", "s"), fake.clone()).revoke(revocation(&tokens)).await.unwrap();
    golden("auth_revoke", &fake.only(), &[]);
    assert_eq!(revoked, Revocation::Confirmed);
}

/// Fails when a failure at 200 passes for a token, or a code is given another meaning.
#[tokio::test(start_paused = true)]
async fn slacks_codes_say_what_becomes_of_the_grant() {
    let tokens = |renewal| Tokens {
        name: BOT.into(),
        access: "xoxe.xoxb-1".into(),
        renewal,
        expires_in: None,
        requested: Vec::new(),
        granted: Vec::new(),
    };
    for (code, meaning) in [
        ("invalid_refresh_token", "over"),
        ("token_revoked", "over"),
        ("account_inactive", "over"),
        ("bad_client_secret", "wrong"),
        ("invalid_client_id", "wrong"),
        ("invalid_grant_type", "wrong"),
        ("ratelimited", "passing"),
        ("internal_error", "passing"),
    ] {
        let fake = answering(&[&json!({"ok": false, "error": code}).to_string()]);
        let asked = renewal(&tokens(Renewal::RefreshToken("xoxe-1-r".into())));
        let failure = flow(config("1.2", "s"), fake).renew(asked).await.unwrap_err();
        let (told, error) = match failure {
            RenewalFailure::Over(error) => ("over", error),
            RenewalFailure::Wrong(error) => ("wrong", error),
            RenewalFailure::Passing { error, .. } => ("passing", error),
            RenewalFailure::Lost(error) => ("lost", error),
        };
        assert_eq!((told, error.code()), (meaning, Some(code)));
    }
    for (body, expected) in [
        (r#"{"ok":true,"revoked":false}"#, Some(Revocation::NotConfirmed)),
        (r#"{"ok":false,"error":"token_revoked"}"#, Some(Revocation::Confirmed)),
        (r#"{"ok":false,"error":"internal_error"}"#, None),
    ] {
        let fake = answering(&[body]);
        let revoked = flow(config("1.2", "s"), fake).revoke(revocation(&tokens(Renewal::Never))).await;
        assert_eq!(revoked.ok(), expected, "{body}");
    }
}

#[test]
fn an_app_with_pkce_keeps_its_grants_alive() {
    let flow = with_pkce(config("1.2", "s"));
    assert!(
        flow.pkce
            && flow.policy.keep_alive.unwrap() < Duration::from_secs(30 * 86_400)
            && !flow.policy.refresh_reusable
    );
    assert!(!format!("{:?}", config("1.2", "the-secret")).contains("the-secret"));
    let moved = at(config("1.2", "s"), "http://127.0.0.1:7/");
    assert_eq!(moved.exchange_url.as_deref(), Some("http://127.0.0.1:7/api/oauth.v2.exchange"));
    assert_eq!(moved.base_url.as_deref(), Some("http://127.0.0.1:7"));
}

/// The emulated Slack without a socket.
struct House(Emulator);

#[async_trait]
impl Transport for House {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        Ok(self.0.handle(request).await.expect("no fault is dialled"))
    }
}

fn emulator(rotation: bool) -> Emulator {
    let workspaces = vec![Workspace::new("T1", "Tea"), Workspace::new("T2", "Coffee")];
    let enterprise = Some(("E1".to_owned(), "Drinks".to_owned()));
    let client = Client {
        id: "1.2".to_owned(),
        secret: Some("s".to_owned()),
        redirect_uris: vec![BACK.to_owned()],
        ..Client::default()
    };
    let clients = vec![client];
    Emulator::offline(SlackConfig { seed: 7, clients, workspaces, enterprise, rotation, ..SlackConfig::default() })
}

/// Connects as a person does: opens the page, chooses a place, presses Allow.
async fn connect(emulator: &Emulator, flow: &OAuth2Flow, place: Option<&str>) -> Grant {
    let (departure, pending) = begin(flow, wanted(flow), NOW, &SeededRandom::new(3));
    let page = Request::get(departure.redirect_url.expose()).body(Bytes::new()).unwrap();
    let page = emulator.handle(page).await.unwrap();
    let mut form = Form::read(std::str::from_utf8(page.body()).unwrap()).expect("a form");
    if let Some(place) = place {
        assert!(form.choose(place), "{place} is offered");
    }
    let pressed = Request::post(format!("{}{}", emulator.base_url(), form.action))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(form.press("allow").unwrap()))
        .unwrap();
    let back = emulator.handle(pressed).await.unwrap();
    let back = url::Url::parse(back.headers()["location"].to_str().unwrap()).unwrap();
    let cookie = departure.set_cookie.expose().split(';').next().unwrap().to_owned();
    let callback = Callback::parse(back.query().unwrap()).unwrap();
    finish(flow, pending, &callback, Some(&cookie), NOW).await.unwrap()
}

fn installed(emulator: &Emulator) -> OAuth2Flow {
    let (id, secret) = emulator.client();
    flow(config(&id, &secret), Arc::new(House(emulator.clone())))
}

/// Fails when one of two grants is lost, renewed with the other's token, or an organization is taken for a workspace.
#[tokio::test]
async fn a_person_installs_the_app_and_its_grants_live_and_end() {
    let emulator = emulator(true);
    let flow = installed(&emulator);
    let grant = connect(&emulator, &flow, Some("T2")).await;
    assert_eq!(grant.account.as_deref(), Some("T2"));
    let names: Vec<_> = grant.tokens.iter().map(|tokens| tokens.name.as_str()).collect();
    assert_eq!(names, [BOT, USER]);
    let (bot, user) = (&grant.tokens[0], &grant.tokens[1]);
    assert!(bot.access.expose().starts_with("xoxe.xoxb-") && user.access.expose().starts_with("xoxe.xoxp-"));
    assert_eq!(
        (bot.granted.join(" "), user.granted.join(" ")),
        ("chat:write channels:read".into(), "users:read".into())
    );
    assert_eq!(bot.expires_in, Some(Duration::from_secs(43_200)));
    assert!(grant.missing().is_empty());

    for tokens in [bot, user] {
        let next = flow.renew(renewal(tokens)).await.unwrap();
        assert_eq!((&next.name, next.access.expose() == tokens.access.expose()), (&tokens.name, false));
        let used = flow.renew(renewal(tokens)).await.unwrap_err();
        assert!(matches!(used, RenewalFailure::Over(_)), "a refresh token is good for one use: {used:?}");
    }
    let fresh = connect(&emulator, &flow, Some("T2")).await;
    assert_eq!(flow.revoke(revocation(&fresh.tokens[0])).await.unwrap(), Revocation::Confirmed);
    assert_eq!(flow.revoke(revocation(&fresh.tokens[0])).await.unwrap(), Revocation::Confirmed, "it is gone already");

    let whole = connect(&emulator, &flow, Some("E1")).await;
    assert_eq!(whole.account.as_deref(), Some("E1"));
    let old = emulator.install_forever(&["chat:write"]);
    let exchanged = flow.exchange(BOT.into(), &old.as_str().into()).await.unwrap();
    assert!(matches!(exchanged.renewal, Renewal::RefreshToken(_)));
    assert!(matches!(flow.exchange(BOT.into(), &old.into()).await.unwrap_err(), RenewalFailure::Over(_)));
}

#[tokio::test]
async fn without_rotation_a_token_lives_until_it_is_revoked() {
    let emulator = emulator(false);
    let flow = installed(&emulator);
    let grant = connect(&emulator, &flow, None).await;
    assert!(grant.tokens.iter().all(|tokens| matches!(tokens.renewal, Renewal::Never) && tokens.expires_in.is_none()));
    assert!(grant.tokens[0].access.expose().starts_with("xoxb-"));
}

//! Connect's OAuth through core's flow: fixtures after Stripe's own answers, and the whole way against the emulator.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::auth::CredentialSource;
use palisade_core::auth::connect::{ConnectAsk, Connector, RefusedKind};
use palisade_core::auth::flow::{Flow, RenewalAsk, RenewalFailure, RevocationAsk};
use palisade_core::auth::grant::{GrantSecrets, MAIN, Renewal};
use palisade_core::auth::oauth2::OAuth2Flow;
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::vault::{LocalMasterKey, Vault};
use palisade_core::clock::TokioClock;
use palisade_core::random::SystemRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{ConnectionState, Connections, Revocation};
use palisade_core::{Error, ErrorKind, Result, Timestamp, Transport};
use palisade_emulator::oauth::{Client as PlatformClient, Consent, Dials};
use palisade_emulator::stripe::{Stripe as Emulator, StripeConfig};
use palisade_stripe::auth::{connect, connect_at};

const CALLBACK: &str = "https://app.example/auth/stripe/callback";
const KEY: &str = "sk_test_NotARealKey";

/// Answers once with what a test wants, and keeps the request.
#[derive(Default)]
struct Once(Mutex<Exchanged>);

/// The answer to give, and the request it was given to.
type Exchanged = (Option<(u16, &'static str)>, Option<Request<Bytes>>);

#[async_trait]
impl Transport for Once {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let mut once = self.0.lock().unwrap();
        let (status, body) = once.0.take().unwrap();
        once.1 = Some(request);
        Ok(Response::builder().status(status).body(body.into()).unwrap())
    }
}

fn answering(status: u16, body: &'static str) -> (Arc<Once>, OAuth2Flow) {
    let once = Arc::new(Once::default());
    once.0.lock().unwrap().0 = Some((status, body));
    let flow = OAuth2Flow::new(connect("ca_1", KEY.into(), CALLBACK).unwrap(), once.clone()).unwrap();
    (once, flow)
}

/// Fails when the platform does not show its key, or when a refresh loses what it does not repeat.
#[tokio::test(start_paused = true)]
async fn a_renewal_shows_the_platforms_key() {
    let body = r#"{"access_token":"sk_acct_2","livemode":false,"refresh_token":"rt_1","scope":"read_write",
        "stripe_publishable_key":"pk_1","stripe_user_id":"acct_1","token_type":"bearer"}"#;
    let (once, flow) = answering(200, body);
    let asked = RenewalAsk {
        name: MAIN.into(),
        renewal: Renewal::RefreshToken("rt_1".into()),
        requested: vec!["read_write".to_owned()],
        granted: Vec::new(),
        now: Timestamp(0),
    };
    let tokens = flow.renew(asked.clone()).await.unwrap();
    assert_eq!(
        (tokens.access.expose(), tokens.expires_in, tokens.granted.join(" ")),
        ("sk_acct_2", None, "read_write".to_owned())
    );
    let request = once.0.lock().unwrap().1.take().unwrap();
    assert_eq!(request.uri().to_string(), "https://connect.stripe.com/oauth/token");
    assert_eq!(request.headers()["authorization"], format!("Bearer {KEY}"));
    let form = String::from_utf8(request.into_body().to_vec()).unwrap();
    assert!(form.contains("grant_type=refresh_token") && form.contains("refresh_token=rt_1"), "{form}");
    assert!(!form.contains("redirect_uri") && !form.contains("client_secret") && !form.contains(KEY), "{form}");
    for (status, body, meaning) in [
        (400, r#"{"error":"invalid_grant","error_description":"Refresh token does not exist: rt_1"}"#, "over"),
        (
            401,
            r#"{"error":{"message":"Invalid API Key provided: sk_test_***","type":"invalid_request_error"}}"#,
            "wrong",
        ),
        (500, r#"{"error":{"type":"api_error"}}"#, "passing"),
        (503, "", "passing"),
    ] {
        let (_, flow) = answering(status, body);
        let failure = flow.renew(asked.clone()).await.unwrap_err();
        let told = match failure {
            RenewalFailure::Over(_) => "over",
            RenewalFailure::Wrong(_) => "wrong",
            RenewalFailure::Passing { .. } => "passing",
            RenewalFailure::Lost(_) => "lost",
        };
        assert_eq!(told, meaning, "{body}");
    }
}

/// Fails when a wrong client id is taken for a confirmed end.
#[tokio::test(start_paused = true)]
async fn an_account_that_is_not_connected_any_more_is_confirmed() {
    for (status, body, said) in [
        (200, r#"{"stripe_user_id":"acct_1"}"#, Some(Revocation::Confirmed)),
        (
            401,
            r#"{"error":"invalid_client","error_description":"This application is not connected to stripe account acct_1, or that account does not exist."}"#,
            Some(Revocation::Confirmed),
        ),
        (
            401,
            r#"{"error":"invalid_client","error_description":"No such application: ca_2"}"#,
            Some(Revocation::NotConfirmed),
        ),
        (429, "", None),
        (500, "", None),
    ] {
        let (once, flow) = answering(status, body);
        let secrets = GrantSecrets { access: "sk_acct_1".into(), renewal: Renewal::Never };
        let asked = RevocationAsk { name: MAIN.into(), secrets, account: Some("acct_1".to_owned()) };
        assert_eq!(flow.revoke(asked).await.ok(), said, "{body}");
        let request = once.0.lock().unwrap().1.take().unwrap();
        assert_eq!(request.uri().path(), "/oauth/deauthorize");
        let form = String::from_utf8(request.into_body().to_vec()).unwrap();
        assert_eq!(form, "stripe_user_id=acct_1&client_id=ca_1");
    }
}

#[test]
fn what_is_no_platform_is_refused_without_being_told() {
    for (id, key) in [("acct_1", KEY), ("", KEY), ("ca_1", "pk_test_NotARealKey"), ("ca_1", "whsec_NotARealKey")] {
        let error: Error = connect(id, key.into(), CALLBACK).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(!format!("{error:?}").contains("NotARealKey"), "{error:?}");
    }
    assert!(!format!("{:?}", connect("ca_1", KEY.into(), CALLBACK).unwrap()).contains("NotARealKey"));
}

struct Emulated(Emulator);

#[async_trait]
impl Transport for Emulated {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        Ok(self.0.handle(request).await.expect("no fault is dialled"))
    }
}

/// Sends the browser to the emulator, where somebody decides, and returns the query it comes back with.
async fn visit(emulator: &Emulator, url: &str, consent: Consent) -> String {
    emulator.oauth().set_dials(Dials { consent, ..Dials::default() });
    let request = Request::get(url).body(Bytes::new()).unwrap();
    let response = emulator.handle(request).await.unwrap();
    let location = response.headers()["location"].to_str().unwrap();
    assert!(location.starts_with(CALLBACK), "{location}");
    location.split_once('?').unwrap().1.to_owned()
}

/// The whole way: connect, use, deny, disconnect.
#[tokio::test(start_paused = true)]
async fn an_account_is_connected_used_and_disconnected() {
    let platform = PlatformClient {
        id: "ca_1".to_owned(),
        secret: Some(KEY.to_owned()),
        name: "Tea".to_owned(),
        redirect_uris: vec![CALLBACK.to_owned()],
        scopes: None,
    };
    let config = StripeConfig { platform, api_key: KEY.to_owned(), ..StripeConfig::default() };
    let emulator = Emulator::offline(config);
    let (store, random) = (Arc::new(MemoryStore::new()), Arc::new(SystemRandom));
    let clock = Arc::new(TokioClock::starting_at(Timestamp(1_700_000_000_000)));
    let master = LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), random.clone()).unwrap();
    let vault = Arc::new(Vault::new(store.clone(), Arc::new(master), random.clone()));
    let config = connect_at("http://127.0.0.1:12111", "ca_1", emulator.api_key().into(), CALLBACK).unwrap();
    let flow = Arc::new(OAuth2Flow::new(config, Arc::new(Emulated(emulator.clone()))).unwrap());
    let tokens = TokenSource::builder(store.clone(), vault.clone(), clock.clone(), random.clone())
        .flow("stripe", flow.clone())
        .build()
        .unwrap();
    let connector = Connector::builder(store.clone(), vault, clock, random)
        .browser_flow(flow)
        .token_source(tokens.clone())
        .build()
        .unwrap();
    let begin = async || {
        let begun = connector.begin(ConnectAsk::new("stripe", "t".into())).await.unwrap();
        let cookie = begun.set_cookie.expose().split(';').next().unwrap().to_owned();
        (begun.redirect_url.expose().to_owned(), cookie)
    };
    let (url, cookie) = begin().await;
    assert!(!url.contains("code_challenge"), "{url}");
    let query = visit(&emulator, &url, Consent::Deny).await;
    let denied = connector.finish("stripe", &query, Some(&cookie)).await.unwrap_err();
    assert_eq!(denied.kind(), RefusedKind::Denied);

    let (url, cookie) = begin().await;
    let query = visit(&emulator, &url, Consent::Allow).await;
    let connected = connector.finish("stripe", &query, Some(&cookie)).await.unwrap();
    let account = connected.connection.account.as_deref().unwrap_or_default();
    assert!(account.starts_with("acct_") && connected.missing.is_empty(), "{connected:?}");
    let id = connected.connection.id;
    let call = async || {
        let mut request = Request::get("http://127.0.0.1:12111/v1/customers").body(Bytes::new()).unwrap();
        tokens.credential(id.clone()).await.unwrap().apply(&mut request).unwrap();
        emulator.handle(request).await.unwrap().status().as_u16()
    };
    assert_eq!(call().await, 200);
    let fresh = tokens.credential(id.clone()).await.unwrap();
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert_eq!(tokens.refresh(id.clone(), fresh.version()).await.unwrap().version(), 2);
    assert_eq!(call().await, 200);
    let gone = connector.disconnect(&id).await.unwrap();
    assert_eq!(gone.revocations, [(MAIN.into(), Revocation::Confirmed)]);
    assert_eq!(store.connection(id.clone()).await.unwrap().unwrap().state, ConnectionState::Disconnected);
    assert_eq!(tokens.credential(id).await.unwrap_err().kind(), ErrorKind::Auth);
}

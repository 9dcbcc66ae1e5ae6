//! Tokens that expire and end, at the emulated Slack, under the real pipeline and token source.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use palisade_core::auth::connect::{ConnectAsk, Connector};
use palisade_core::auth::oauth2::OAuth2Flow;
use palisade_core::auth::token_source::TokenSource;
use palisade_core::auth::vault::{LocalMasterKey, Vault};
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{ConnectionState, Connections};
use palisade_core::{Client, Clock, ConnectionId, Error, ErrorKind, Outcome, Provider, Timestamp, Transport};
use palisade_emulator::oauth::{Client as App, Consent, Dials};
use palisade_emulator::slack::{Limits, Slack as Emulator, SlackConfig, Workspace};
use palisade_emulator::{Cut, Fault};
use palisade_slack::auth::{BOT, oauth2};
use palisade_slack::client::NewMessage;
use palisade_slack::{Slack, SlackProvider};

const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const BACK: &str = "https://app.example/callback";
const CALL: &str = "POST /api/auth.test";
const TOKEN: &str = "POST /api/oauth.v2.access";

/// The emulated Slack without a socket, for whatever host a request names.
struct House(Emulator);

#[async_trait]
impl Transport for House {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let broken = |why| Err(Error::new(ErrorKind::Transport, why).with_outcome(Outcome::Unknown));
        match self.0.handle(request).await {
            Ok(response) => Ok(response),
            Err(Cut::Reset) => broken("reset"),
            Err(Cut::CutBody { .. }) => broken("cut"),
            Err(Cut::Hang) => std::future::pending().await,
        }
    }
}

/// An app that a person has installed.
struct Installed {
    emulator: Emulator,
    slack: Slack,
    store: Arc<MemoryStore>,
    connection: ConnectionId,
}

impl Installed {
    async fn new() -> Self {
        let clock = Arc::new(TokioClock::starting_at(BEGIN));
        let time = clock.clone();
        let emulator = Emulator::offline(SlackConfig {
            seed: 7,
            workspaces: vec![Workspace::new("T1", "Tea")],
            clients: vec![App {
                id: "1.2".to_owned(),
                secret: Some("s".to_owned()),
                redirect_uris: vec![BACK.to_owned()],
                ..App::default()
            }],
            rotation: true,
            limits: Limits::none(),
            clock: Arc::new(move || UNIX_EPOCH + Duration::from_millis(time.now().millis().unsigned_abs())),
            ..SlackConfig::default()
        });
        emulator.oauth().set_dials(Dials { consent: Consent::Allow, ..Dials::default() });
        let transport: Arc<dyn Transport> = Arc::new(House(emulator.clone()));
        let config = oauth2(BACK, "1.2", "s".into(), &["chat:write", "channels:read"], &[]);
        let flow = Arc::new(OAuth2Flow::new(config, transport.clone()).unwrap());
        let (store, random) = (Arc::new(MemoryStore::new()), Arc::new(SeededRandom::new(7)));
        let master = LocalMasterKey::parse(&(0..32).collect::<Vec<u8>>(), random.clone()).unwrap();
        let vault = Arc::new(Vault::new(store.clone(), Arc::new(master), random.clone()));
        let tokens = TokenSource::builder(store.clone(), vault.clone(), clock.clone(), random.clone());
        let tokens = tokens.flow("slack", flow.clone()).build().unwrap();
        let connector = Connector::builder(store.clone(), vault, clock.clone(), random.clone());
        let connector = connector.browser_flow(flow).token_source(tokens.clone()).build().unwrap();
        let begun = connector.begin(ConnectAsk::new("slack", "tenant_1".into())).await.unwrap();
        let page = Request::get(begun.redirect_url.expose()).body(Bytes::new()).unwrap();
        let back = emulator.handle(page).await.unwrap();
        let back = url::Url::parse(back.headers()["location"].to_str().unwrap()).unwrap();
        let cookie = begun.set_cookie.expose().split(';').next().unwrap().to_owned();
        let connected = connector.finish("slack", back.query().unwrap(), Some(&cookie)).await.unwrap();
        let client = Client::builder(SlackProvider::new().profile(), transport, Arc::new(tokens.grant(BOT)));
        let client: Arc<dyn Transport> = Arc::new(client.clock(clock).random(random).build().unwrap());
        let slack = Slack::new(client, connected.connection.id.clone(), "tenant_1");
        Self { emulator, slack, store, connection: connected.connection.id }
    }

    /// Lets every access token expire at Slack, before its time and without a word, some while after it was issued: one
    /// that is refused at once is not renewed again and again.
    async fn expire(&self) {
        tokio::time::sleep(Duration::from_secs(1_800)).await;
        let oauth = self.emulator.oauth();
        let expired =
            oauth.secrets().iter().filter(|token| token.starts_with("xoxe.xoxb-") && oauth.expire(token)).count();
        assert!(expired > 0, "there was a token to expire");
    }

    fn calls(&self) -> u64 {
        self.emulator.ledger().requests_by_route.get(CALL).copied().unwrap_or(0)
    }

    async fn state(&self) -> ConnectionState {
        self.store.connection(self.connection.clone()).await.unwrap().unwrap().state
    }
}

/// Fails when a single-use refresh token is sent twice, or when somebody who needs the fresh token goes without.
#[tokio::test(start_paused = true)]
async fn a_token_that_expired_is_renewed_once_for_all_who_need_it() {
    let app = Installed::new().await;
    app.slack.identity().await.unwrap();
    for round in 1..=3 {
        app.expire().await;
        let answers = join_all((0..30).map(|_| app.slack.identity())).await;
        assert!(answers.iter().all(Result::is_ok), "round {round}: {answers:?}");
        let ledger = app.emulator.oauth().ledger();
        assert_eq!(ledger.refreshes_accepted, round);
        assert_eq!((ledger.refreshes, ledger.replays, ledger.single_use_arrived_max), (round, 0, 1));
    }
    assert!(app.calls() <= 1 + 3 * 60, "each call was repeated once at the most");
}

/// Fails when a token is used until Slack refuses it, though it said how long it lives.
#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_before_it_expires() {
    let app = Installed::new().await;
    for step in 1..=12_u64 {
        tokio::time::sleep(Duration::from_secs(5 * 3_600)).await;
        app.slack.identity().await.unwrap();
        assert_eq!(app.calls(), step, "no call was refused and sent again");
    }
    let ledger = app.emulator.oauth().ledger();
    assert!((4..=12).contains(&ledger.refreshes_accepted), "sixty hours of tokens of twelve: {ledger:?}");
    assert_eq!((ledger.refreshes, ledger.single_use_arrived_max), (ledger.refreshes_accepted, 1));
}

/// Fails when a message is lost or doubled because its token had expired: Slack did nothing with the refused one.
#[tokio::test(start_paused = true)]
async fn a_message_with_an_expired_token_is_sent_once() {
    let app = Installed::new().await;
    let channel = app.emulator.create_channel("tea", false, &[&app.emulator.bot_user()]);
    app.slack.post(&channel, &NewMessage::new("first")).await.unwrap();
    app.expire().await;
    app.slack.post(&channel, &NewMessage::new("second")).await.unwrap();
    assert_eq!(app.emulator.truth("messages").len(), 2);
    assert_eq!(app.emulator.ledger().requests_by_route["POST /api/chat.postMessage"], 3);
}

/// Fails when a dead grant is tried again and again, or when nobody is told that the workspace must be reconnected.
#[tokio::test(start_paused = true)]
async fn a_revoked_grant_asks_for_a_reconnect_and_is_left_alone() {
    let app = Installed::new().await;
    app.slack.identity().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1_800)).await;
    assert_eq!(app.emulator.oauth().revoke_all(), 1);
    let error = app.slack.identity().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Auth, "{error}");
    assert!(error.user_message().contains("reconnect"), "{}", error.user_message());
    assert!(matches!(app.state().await, ConnectionState::NeedsReconnect { .. }), "{:?}", app.state().await);
    let (calls, asked) = (app.calls(), app.emulator.ledger().requests_by_route[TOKEN]);
    for _ in 0..5 {
        assert_eq!(app.slack.identity().await.unwrap_err().kind(), ErrorKind::Auth);
    }
    assert_eq!((app.calls(), app.emulator.ledger().requests_by_route[TOKEN]), (calls, asked), "nothing more was sent");
}

/// Fails when a renewal whose answer was lost is sent again with the same token, or passes for a success.
#[tokio::test(start_paused = true)]
async fn a_renewal_whose_answer_was_lost_is_not_guessed_at() {
    for fault in [Fault::ResetAfter, Fault::CutBody, Fault::HangAfter] {
        let app = Installed::new().await;
        app.slack.identity().await.unwrap();
        app.expire().await;
        app.emulator.faults().next(TOKEN, [fault.clone()]);
        let error = app.slack.identity().await.unwrap_err();
        assert!(!error.user_message().is_empty(), "{fault:?}: {error}");
        let _ = app.slack.identity().await;
        let ledger = app.emulator.oauth().ledger();
        assert_eq!((ledger.refreshes_accepted, ledger.single_use_accepted_max), (1, 1), "{fault:?}");
        assert!(ledger.single_use_arrived_max <= 1, "{fault:?}: the spent token was shown again");
    }
}

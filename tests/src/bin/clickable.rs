//! A hub and two emulated providers to be clicked through: `clickable`. It prints where they are, and the admin token,
//! as JSON on its first line, and ends when its standard input closes.

use std::io::Write;
use std::sync::Arc;

use palisade_core::auth::oauth2::{OAuth2Config, RevocationWay};
use palisade_emulator::google::{Google, GoogleConfig};
use palisade_emulator::oauth::Client;
use palisade_emulator::slack::{Slack, SlackConfig};
use palisade_google::GoogleProvider;
use palisade_slack::SlackProvider;
use palisade_store::{SqliteConfig, SqliteStore};
use palisade_tests::entry::{self, ADMIN_TOKEN, Entry};
use palisade_tests::stage::Running;

const APP: &str = "the-app";
const SECRET: &str = "secret-of-the-app-to-be-clicked";

type Failed = Box<dyn std::error::Error>;

fn client(redirect: String) -> Client {
    Client {
        id: APP.to_owned(),
        secret: Some(SECRET.to_owned()),
        name: "Tea & Co".to_owned(),
        redirect_uris: vec![redirect],
        ..Client::default()
    }
}

fn google(base: &str, redirect: &str) -> OAuth2Config {
    let at = |path: &str| format!("{base}{path}");
    let mut flow = OAuth2Config::new("google", &at("/o/oauth2/v2/auth"), &at("/token"), redirect, APP)
        .secret(SECRET.into())
        .scopes(&[
            "openid",
            "https://www.googleapis.com/auth/gmail.readonly",
            "https://www.googleapis.com/auth/calendar.readonly",
        ]);
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    flow.authorize_params = vec![pair("access_type", "offline"), pair("prompt", "consent")];
    flow.policy.refresh_reusable = true;
    flow.revocation = RevocationWay::Token(at("/revoke"));
    flow.base_url = Some(base.to_owned());
    flow
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(SqliteConfig::at(folder.path().join("palisade.db")))?;
    let (listener, base) = entry::port().await;
    let (to_slack, to_google) = (entry::back(&base, "slack"), entry::back(&base, "google"));
    let slack = Slack::start(SlackConfig { clients: vec![client(to_slack.clone())], ..SlackConfig::default() }).await?;
    let googles = GoogleConfig { clients: vec![client(to_google.clone())], ..GoogleConfig::default() };
    let google_there = Google::start(googles).await?;
    let (slack_base, google_base) = (slack.base_url(), google_there.base_url());
    let scopes = ["chat:write", "channels:read"];
    let slack_flow = palisade_slack::auth::oauth2(&to_slack, APP, SECRET.into(), &scopes, &[]);
    let entry = Entry::at(listener, Arc::new(store.clone()), ADMIN_TOKEN, |hub| {
        hub.provider(SlackProvider::new().allowing(slack_base.as_str()))
            .provider(GoogleProvider::new().allowing(google_base.as_str()))
            .flow(palisade_slack::auth::at(slack_flow, &slack_base))
            .flow(google(&google_base, &to_google))
    });
    let running = Running::start(&entry.hub);
    let said = serde_json::json!({
        "hub": entry.base, "token": ADMIN_TOKEN, "slack": slack_base, "google": google_base,
    });
    writeln!(std::io::stdout(), "{said}")?;

    // Whoever started it is gone or wants an end.
    let _ = tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await;
    running.stop().await;
    entry.close().await;
    store.close().await?;
    Ok(())
}

//! Nobody is made to connect what somebody else began: callbacks that are no answer to this browser, at the hub's real
//! routes, against the emulated Slack and Google and their pages. The same cases run against a certified provider in
//! palisade-tests' binary `certified`.

use std::sync::Arc;

use palisade_core::auth::oauth2::OAuth2Config;
use palisade_core::store::memory::MemoryStore;
use palisade_emulator::google::{Google, GoogleConfig, Person};
use palisade_emulator::oauth::Client;
use palisade_emulator::slack::{Slack, SlackConfig, Workspace};
use palisade_google::GoogleProvider;
use palisade_slack::SlackProvider;
use palisade_tests::ear;
use palisade_tests::entry::{self, ADMIN_TOKEN, Entry};
use palisade_tests::refusals;

const APP: &str = "the-app";
const SECRET: &str = "secret-of-the-app";

fn client(redirect: &str) -> Client {
    Client {
        id: APP.to_owned(),
        secret: Some(SECRET.to_owned()),
        redirect_uris: vec![redirect.to_owned()],
        ..Client::default()
    }
}

/// Fails when a state is not looked up, works twice or after ten minutes, when the browser's cookie is measured and not
/// enforced, when a verifier is not sent, when a refusal has no page, or when the log does not say why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_answer_to_this_browser_is_refused_with_a_page_and_a_reason() {
    let ear = ear::listen().await;

    let (listener, base) = entry::port().await;
    let redirect = entry::back(&base, "slack/refused");
    let slack = Slack::start(SlackConfig {
        clients: vec![client(&redirect)],
        workspaces: vec![Workspace::new("T1", "Tea"), Workspace::new("T2", "Coffee")],
        ..SlackConfig::default()
    })
    .await
    .unwrap();
    let flow = palisade_slack::auth::oauth2(&redirect, APP, SECRET.into(), &["chat:write"], &["users:read"]);
    let mut flow = palisade_slack::auth::at(palisade_slack::auth::with_pkce(flow), &slack.base_url());
    flow.name = "slack/refused".to_owned();
    let hub = Entry::at(listener, Arc::new(MemoryStore::new()), ADMIN_TOKEN, |hub| {
        hub.provider(SlackProvider::new().allowing(slack.base_url())).flow(flow)
    });
    refusals::all(&hub, "slack/refused", &ear).await;
    // Codes of other sessions went to Slack, and were refused there by their verifier.
    assert!(slack.oauth().ledger().refusals["verifier_wrong"] > 0, "{:?}", slack.oauth().ledger());
    hub.close().await;
    slack.shutdown().await;

    let (listener, base) = entry::port().await;
    let redirect = entry::back(&base, "google/refused");
    let google = Google::start(GoogleConfig {
        clients: vec![client(&redirect)],
        people: vec![Person::new("ada@example.com", "Ada Lovelace"), Person::new("bob@example.com", "Bob")],
        ..GoogleConfig::default()
    })
    .await
    .unwrap();
    let at = |path: &str| format!("{}{path}", google.base_url());
    let (authorize, token) = (at("/o/oauth2/v2/auth"), at("/token"));
    let mut flow = OAuth2Config::new("google/refused", &authorize, &token, &redirect, APP)
        .secret(SECRET.into())
        .scopes(&["openid", "https://www.googleapis.com/auth/calendar.readonly"]);
    flow.authorize_params = vec![("prompt".to_owned(), "consent".to_owned())];
    let hub = Entry::at(listener, Arc::new(MemoryStore::new()), ADMIN_TOKEN, |hub| {
        hub.provider(GoogleProvider::new().allowing(google.base_url())).flow(flow)
    });
    refusals::all(&hub, "google/refused", &ear).await;
    assert!(google.oauth().ledger().refusals["verifier_wrong"] > 0, "{:?}", google.oauth().ledger());
    hub.close().await;
    google.shutdown().await;
}

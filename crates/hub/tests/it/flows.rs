//! Accounts connected by the binary with nothing but its configuration: by the pages of each provider as a person with a
//! browser walks them, and by a service account's key.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use palisade_emulator::google::{Google, GoogleConfig, ServiceAccount};
use palisade_emulator::oauth::{Client, Form};
use palisade_emulator::slack::{Slack, SlackConfig};
use palisade_emulator::stripe::{Stripe, StripeConfig};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::binary::{
    ADMIN, KEY, Running, ends, files, folder_with, get, has_no_secret, http, palisade, path_of, until,
};

const SECRET: &str = "canaryOfTheClientSecret";
const MAIL: &str = "https://www.googleapis.com/auth/gmail.readonly";
const CALENDAR: &str = "https://www.googleapis.com/auth/calendar.readonly";

/// A configuration with one flow, whose provider sends people back to port 9.
fn config(flow: &str) -> String {
    format!(
        r#"
[server]
listen = "127.0.0.1:0"
public_url = "http://127.0.0.1:9"
admin_token = {{ env = "TEST_ADMIN" }}
return_targets = ["https://app.example.com/done"]
shutdown_grace = "5s"
[vault]
master_key = {{ env = "TEST_MASTER" }}
[[flow]]
{flow}
"#
    )
}

fn slack_flow(base_url: &str) -> String {
    config(&format!(
        r#"provider = "slack"
environment = "sandbox"
client_id = "1.2"
client_secret = {{ env = "TEST_FLOW" }}
scopes = ["users:read", "channels:read", "channels:history"]
user_scopes = ["search:read"]
base_url = "{base_url}""#
    ))
}

fn google_flow(base_url: &str) -> String {
    config(&format!(
        r#"provider = "google"
client_id = "1.2"
client_secret = {{ env = "TEST_FLOW" }}
scopes = ["{MAIL}", "{CALENDAR}"]
base_url = "{base_url}""#
    ))
}

fn stripe_flow(base_url: &str) -> String {
    config(&format!(
        r#"provider = "stripe"
client_id = "ca_app"
client_secret = {{ env = "TEST_KEY" }}
base_url = "{base_url}""#
    ))
}

/// Any server that follows the standard: here the one of the emulated Google, under addresses of its own.
fn standard_flow(base_url: &str) -> String {
    config(&format!(
        r#"provider = "acme"
environment = "sandbox"
client_id = "1.2"
client_secret = {{ env = "TEST_FLOW" }}
scopes = ["openid", "{CALENDAR}"]
base_url = "{base_url}"
authorize_url = "{base_url}/o/oauth2/v2/auth"
token_url = "{base_url}/token"
revoke_url = "{base_url}/revoke"
client_auth = "body"
refresh_reusable = true
authorize_params = {{ access_type = "offline" }}"#
    ))
}

fn client(secret: &str, flow: &str) -> Client {
    Client {
        id: "1.2".to_owned(),
        secret: Some(secret.to_owned()),
        name: "Tea".to_owned(),
        redirect_uris: vec![format!("http://127.0.0.1:9/auth/{flow}/callback")],
        scopes: None,
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = palisade(arguments);
    command.env("TEST_FLOW", SECRET);
    command
}

fn post(address: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\nconnection: close");
    http(address, &format!("{head}\r\n{headers}\r\n{body}"))
}

#[track_caller]
fn header(answer: &str, name: &str) -> String {
    let line = answer.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("{name} in {answer}")).split_once(": ").unwrap().1.to_owned()
}

/// Connects an account as a person does: opens the link, presses Allow on the provider's page, comes back. Returns the
/// connection's id.
#[track_caller]
fn walk(address: &str, provider: &str, session: &str) -> String {
    let admin = format!("authorization: Bearer {ADMIN}\r\n");
    let made = post(address, "/api/v1/connect-sessions", &admin, session);
    assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    let link = made.split("http://127.0.0.1:9").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let begun = get(address, &link, "");
    let cookie = header(&begun, "set-cookie").split(';').next().unwrap().to_owned();
    let page = get(provider, header(&begun, "location").split_once(provider).unwrap().1, "");
    let form = Form::read(&page).unwrap_or_else(|| panic!("the provider asks: {page}"));
    let kind = "content-type: application/x-www-form-urlencoded\r\n";
    let allowed = post(provider, &form.action, kind, &form.press("allow").unwrap());
    let back = header(&allowed, "location").strip_prefix("http://127.0.0.1:9").unwrap().to_owned();
    let callback = format!("GET {back} HTTP/1.1\r\nhost: {address}\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n");
    let arrived = http(address, &callback);
    let to = header(&arrived, "location");
    let id = to.strip_prefix("https://app.example.com/done?connection=").unwrap_or_else(|| panic!("{arrived}"));
    id.replace("%5F", "_")
}

/// What a hub is configured with, what its link is asked for, and what is seen afterwards.
struct Case<'a> {
    flow: &'a str,
    config: String,
    base_url: String,
    session: &'a str,
    /// Facts of the connection.
    facts: &'a [&'a str],
    /// A stream, and what is found in it.
    synced: Option<(&'a str, &'a str)>,
}

#[track_caller]
fn check(case: &Case<'_>) {
    let folder = folder_with(&case.config);
    let path = path_of(&folder);
    let doctor = command(&["doctor", "--offline", "--config", &path]).output().unwrap();
    let callback = format!("register http://127.0.0.1:9/auth/{}/callback", case.flow);
    ends(&doctor, 0, &[&format!("flow {}", case.flow), &callback]);
    let running = Running::start(&mut command(&["serve", "--config", &path]));
    let address = running.address("url");
    let provider = case.base_url.strip_prefix("http://").unwrap();
    let id = walk(&address, provider, case.session);
    let list = get(&address, "/api/v1/connections", ADMIN);
    for fact in case.facts.iter().copied().chain([id.as_str(), r#""tenant":"acme""#]) {
        assert!(list.contains(fact), "{}: {fact} in {list}", case.flow);
    }
    if let Some((stream, word)) = case.synced {
        let records = || get(&address, &format!("/api/v1/records/{id}/{stream}"), ADMIN);
        until(&format!("{} of {}", stream, case.flow), || records().contains(word));
    }
    assert_eq!(running.stop(), Some(0));
    no_secret_in(&folder);
}

fn no_secret_in(folder: &TempDir) {
    for file in files(folder.path()).filter(|path| !path.ends_with("palisade.toml") && !path.ends_with("key.json")) {
        has_no_secret(&String::from_utf8_lossy(&fs::read(&file).unwrap()));
    }
}

// Fails when the binary cannot connect an account of a provider by its pages, or when what it lists does not come.
#[test]
fn an_account_of_each_provider_is_connected_through_its_page() {
    let runtime = Runtime::new().unwrap();
    let config = SlackConfig { clients: vec![client(SECRET, "slack/sandbox")], ..SlackConfig::default() };
    let slack = runtime.block_on(Slack::start(config)).unwrap();
    assert!(!slack.add_user("ada").is_empty());
    check(&Case {
        flow: "slack/sandbox",
        config: slack_flow(&slack.base_url()),
        base_url: slack.base_url(),
        session: r#"{"tenant":"acme","provider":"slack","environment":"sandbox","return_to":"https://app.example.com/done"}"#,
        facts: &[r#""provider":"slack""#, r#""environment":"sandbox""#, r#""account":"T0EMULATOR""#],
        synced: Some(("users", "ada")),
    });
    runtime.block_on(slack.shutdown());

    let clients = vec![client(SECRET, "google"), Client { id: "acme".to_owned(), ..client(SECRET, "acme/sandbox") }];
    let google = runtime.block_on(Google::start(GoogleConfig { clients, ..GoogleConfig::default() })).unwrap();
    google.populate("ada@example.com", 3, 3);
    let event = google.events("ada@example.com").into_keys().next().unwrap();
    let message = google.messages("ada@example.com").into_keys().next().unwrap();
    for synced in [("calendar_events", event.as_str()), ("messages", message.as_str())] {
        check(&Case {
            flow: "google",
            config: google_flow(&google.base_url()),
            base_url: google.base_url(),
            session: r#"{"tenant":"acme","provider":"google","return_to":"https://app.example.com/done"}"#,
            facts: &[r#""provider":"google""#, r#""account":"ada@example.com""#],
            synced: Some(synced),
        });
    }
    check(&Case {
        flow: "acme/sandbox",
        config: standard_flow(&google.base_url()).replace("client_id = \"1.2\"", "client_id = \"acme\""),
        base_url: google.base_url(),
        session: r#"{"tenant":"acme","provider":"acme","environment":"sandbox","return_to":"https://app.example.com/done"}"#,
        facts: &[r#""provider":"acme""#, r#""environment":"sandbox""#],
        synced: None,
    });
    runtime.block_on(google.shutdown());

    let platform = Client { id: "ca_app".to_owned(), ..client(KEY, "stripe") };
    let config = StripeConfig { platform, api_key: KEY.to_owned(), ..StripeConfig::default() };
    let stripe = runtime.block_on(Stripe::start(config)).unwrap();
    check(&Case {
        flow: "stripe",
        config: stripe_flow(stripe.base_url()),
        base_url: stripe.base_url().to_owned(),
        session: r#"{"tenant":"acme","provider":"stripe","return_to":"https://app.example.com/done"}"#,
        facts: &[r#""provider":"stripe""#, r#""account":"acct_"#],
        synced: None,
    });
    runtime.block_on(stripe.shutdown());
}

// Fails when a flow that cannot work is found out by the first person who presses the button.
#[test]
fn a_flow_that_cannot_work_is_told_before_anything_is_served() {
    let good = slack_flow("http://127.0.0.1:1");
    let cases: [(&str, String, &[&str]); 5] = [
        (
            "nothing to ask for",
            good.replace("scopes = [\"users:read\", \"channels:read\", \"channels:history\"]", "")
                .replace("user_scopes = [\"search:read\"]", ""),
            &["flow slack/sandbox", "asks for nothing"],
        ),
        ("nowhere to come back to", good.replace("public_url", "#public_url"), &["needs public_url"]),
        (
            "plain http from elsewhere",
            good.replace("http://127.0.0.1:9", "http://hub.example.com"),
            &["redirect address of the flow slack/sandbox", "https"],
        ),
        (
            "a wrong kind of key",
            good.replace("provider = \"slack\"", "provider = \"stripe\"")
                .replace("user_scopes = [\"search:read\"]", ""),
            &["flow stripe/sandbox", "no Stripe API key"],
        ),
        ("no such target", good.replace("https://app.example.com/done", "/done"), &["return_targets"]),
    ];
    for (_, text, words) in cases {
        let folder = folder_with(&text);
        let output = command(&["serve", "--config", &path_of(&folder)]).output().unwrap();
        ends(&output, 2, words);
    }
}

// Fails when a flow's secret that is not there is told by another sentence than where it is missing.
#[test]
fn a_flow_without_its_secret_names_it() {
    let folder = folder_with(&slack_flow("http://127.0.0.1:1"));
    let missing = palisade(&["serve", "--config", &path_of(&folder)]).output().unwrap();
    ends(&missing, 2, &["client_secret of flow slack/sandbox", "TEST_FLOW is not set"]);
}

fn account_config(base_url: &str) -> String {
    let connection = format!(
        r#"id = "calendar"
tenant = "acme"
provider = "google"
service_account = {{ file = "key.json" }}
subject = "ada@example.com"
scopes = ["{MAIL}", "{CALENDAR}"]
base_url = "{base_url}""#
    );
    let config = config("").replace("[[flow]]", "[[connection]]");
    config.trim_end().to_owned() + "\n" + &connection
}

fn key_file(folder: &TempDir, text: &str) {
    let path = folder.path().join("key.json");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

// Fails when a service account needs anything but its configuration, or when a wrong file is found out by the first call.
#[test]
fn a_service_account_syncs_by_its_configuration_and_a_wrong_file_is_told_by_the_doctor() {
    let runtime = Runtime::new().unwrap();
    let account =
        ServiceAccount { delegated: vec![MAIL.to_owned(), CALENDAR.to_owned()], ..ServiceAccount::built_in() };
    let config = GoogleConfig { service_accounts: vec![account], ..GoogleConfig::default() };
    let google = runtime.block_on(Google::start(config)).unwrap();
    google.populate("ada@example.com", 3, 3);
    let folder = folder_with(&account_config(&google.base_url()));
    let path = path_of(&folder);
    let doctor = |code: i32, words: &[&str]| {
        let output = palisade(&["doctor", "--offline", "--config", &path]).output().unwrap();
        ends(&output, code, words);
        assert!(!String::from_utf8_lossy(&output.stdout).contains("PRIVATE KEY"));
    };
    doctor(1, &["fail  secrets", "service_account of connection calendar", "key.json"]);
    let client = r#"{"web":{"client_id":"1.2","client_secret":"canaryOfTheClient"}}"#;
    for (wrong, says) in [("AIzaCanaryOfAKey", "API key"), (client, "[[flow]]"), ("{}", "another kind")] {
        key_file(&folder, wrong);
        doctor(1, &["fail  secrets", "service_account of connection calendar", says]);
    }
    key_file(&folder, &google.service_account_key().to_string());
    doctor(0, &["ok    service account of connection calendar", "its key can sign", "for ada@example.com", MAIL]);

    let running = Running::start(&mut palisade(&["serve", "--config", &path]));
    let address = running.address("url");
    let event = google.events("ada@example.com").into_keys().next().unwrap();
    let message = google.messages("ada@example.com").into_keys().next().unwrap();
    for (stream, id) in [("calendar_events", event), ("messages", message)] {
        let records = || get(&address, &format!("/api/v1/records/calendar/{stream}"), ADMIN);
        until(stream, || records().contains(&id));
    }
    until("it is in step", || get(&address, "/api/v1/connections/calendar", ADMIN).contains(r#""nobody""#));
    assert_eq!(running.stop(), Some(0));
    for file in files(folder.path()).filter(|path| !path.ends_with("key.json")) {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        assert!(!text.contains("PRIVATE KEY"), "{}", file.display());
    }
    runtime.block_on(google.shutdown());
}

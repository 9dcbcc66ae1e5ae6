//! A browser-like client and a token client over loopback, and the three providers as one table.

use std::collections::BTreeMap;
use std::time::Duration;

use palisade_emulator::google::{Google, GoogleConfig, Person, ServiceAccount};
use palisade_emulator::oauth::{Authority, Client, Form, Rules};
use palisade_emulator::slack::{Limits, Slack, SlackConfig, Workspace};
use palisade_emulator::stripe::{Stripe, StripeConfig};
use serde_json::Value;

/// Where the app's answers go; nobody listens there, the browser only reads where it would be sent.
pub(crate) const BACK: &str = "http://127.0.0.1:9/callback?app=1";
pub(crate) const SECRET: &str = "s3cret/+ %";
/// RFC 7636 appendix B.
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub(crate) const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
pub(crate) const MAIL: &str = "https://www.googleapis.com/auth/gmail.send";
pub(crate) const CALENDAR: &str = "https://www.googleapis.com/auth/calendar.events";

pub(crate) fn app(id: &str) -> Client {
    Client {
        id: id.to_owned(),
        secret: Some(SECRET.to_owned()),
        name: "Tea & <Co>".to_owned(),
        redirect_uris: vec![BACK.to_owned(), "https://app.example/other".to_owned()],
        scopes: None,
    }
}

/// A provider that listens, and what tells its OAuth from the others'.
pub(crate) enum Emulator {
    Slack(Slack),
    Google(Google),
    Connect(Stripe),
}

pub(crate) const CLIENT: &str = "ca_app";

impl Emulator {
    pub(crate) async fn slack() -> Self {
        Self::Slack(Slack::start(slack_config()).await.unwrap())
    }

    pub(crate) async fn google() -> Self {
        Self::Google(Google::start(google_config()).await.unwrap())
    }

    pub(crate) async fn connect() -> Self {
        let config = StripeConfig {
            seed: 7,
            platform: app(CLIENT),
            connected: vec!["acct_old".to_owned()],
            api_key: SECRET.to_owned(),
            ..StripeConfig::default()
        };
        Self::Connect(Stripe::start(config).await.unwrap())
    }

    pub(crate) async fn all() -> [Self; 3] {
        [Self::slack().await, Self::google().await, Self::connect().await]
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Slack(_) => "slack",
            Self::Google(_) => "google",
            Self::Connect(_) => "connect",
        }
    }

    pub(crate) fn base(&self) -> String {
        match self {
            Self::Slack(slack) => slack.base_url(),
            Self::Google(google) => google.base_url(),
            Self::Connect(stripe) => stripe.base_url().to_owned(),
        }
    }

    pub(crate) fn oauth(&self) -> Authority {
        match self {
            Self::Slack(slack) => slack.oauth(),
            Self::Google(google) => google.oauth(),
            Self::Connect(stripe) => stripe.oauth(),
        }
    }

    pub(crate) fn advance(&self, by: Duration) {
        match self {
            Self::Slack(slack) => slack.advance(by),
            Self::Google(google) => google.advance(by),
            Self::Connect(stripe) => stripe.clock_skew(by, true),
        }
    }

    pub(crate) fn rules(&self, change: impl FnOnce(&mut Rules)) {
        let mut rules = self.oauth().rules();
        change(&mut rules);
        self.oauth().set_rules(rules);
    }

    pub(crate) fn page(&self) -> &'static str {
        match self {
            Self::Slack(_) => "/oauth/v2/authorize",
            Self::Google(_) => "/o/oauth2/v2/auth",
            Self::Connect(_) => "/oauth/authorize",
        }
    }

    pub(crate) fn token_path(&self) -> &'static str {
        match self {
            Self::Slack(_) => "/api/oauth.v2.access",
            Self::Google(_) => "/token",
            Self::Connect(_) => "/oauth/token",
        }
    }

    /// An ordinary authorisation request with everything the provider wants.
    pub(crate) fn ask(&self) -> Vec<(String, String)> {
        let mut pairs = vec![("client_id", CLIENT), ("redirect_uri", BACK), ("state", "a b&c=d#é+%")];
        pairs.extend(match self {
            Self::Slack(_) => vec![("scope", "chat:write,channels:read"), ("user_scope", "users:read")],
            Self::Google(_) => vec![
                ("response_type", "code"),
                ("scope", "openid email https://www.googleapis.com/auth/gmail.send https://www.googleapis.com/auth/calendar.events"),
                ("access_type", "offline"),
                ("prompt", "consent"),
            ],
            Self::Connect(_) => vec![("response_type", "code"), ("scope", "read_write")],
        });
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Asks with some parameters set to another value, or left out when the value is empty.
    pub(crate) fn ask_with(&self, changes: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut pairs = self.ask();
        for (name, value) in changes {
            pairs.retain(|(known, _)| known != name);
            if !value.is_empty() {
                pairs.push(((*name).to_owned(), (*value).to_owned()));
            }
        }
        pairs
    }

    pub(crate) async fn visit(&self, pairs: &[(String, String)]) -> Seen {
        get(&format!("{}{}?{}", self.base(), self.page(), encode(pairs))).await
    }

    pub(crate) async fn send(&self, form: &Form, button: &str) -> Seen {
        post(&format!("{}{}", self.base(), form.action), form.press(button).unwrap(), None).await
    }

    /// Visits the page, presses Allow and gives the code.
    pub(crate) async fn code(&self, changes: &[(&str, &str)]) -> String {
        let page = self.visit(&self.ask_with(changes)).await;
        let answer = self.send(&page.form(), "allow").await;
        answer.back()["code"].clone()
    }

    /// Sends a token request with the app's credentials in the form.
    pub(crate) async fn token(&self, pairs: &[(&str, &str)]) -> Seen {
        let mut all = vec![("client_id", CLIENT), ("client_secret", SECRET)];
        if matches!(self, Self::Connect(_)) {
            all.remove(0);
        }
        all.extend_from_slice(pairs);
        self.token_as(&all, None).await
    }

    pub(crate) async fn token_as(&self, pairs: &[(&str, &str)], authorization: Option<&str>) -> Seen {
        let pairs: Vec<(String, String)> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        post(&format!("{}{}", self.base(), self.token_path()), encode(&pairs), authorization).await
    }

    /// Trades a code that was asked for with `ask`.
    pub(crate) async fn redeem(&self, code: &str, more: &[(&str, &str)]) -> Seen {
        let mut pairs = vec![("grant_type", "authorization_code"), ("code", code)];
        if !matches!(self, Self::Connect(_)) {
            pairs.push(("redirect_uri", BACK));
        }
        pairs.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        pairs.extend(more.iter().filter(|(_, value)| !value.is_empty()));
        self.token(&pairs).await
    }

    pub(crate) async fn refresh(&self, token: &str) -> Seen {
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    /// Connects: gives the whole token reply.
    pub(crate) async fn connected(&self) -> Value {
        let code = self.code(&[]).await;
        let reply = self.redeem(&code, &[]).await;
        assert_eq!(self.error(&reply), "", "{}", reply.text);
        reply.json()
    }

    /// Calls the API with an access token; gives the provider's word for what is wrong, or nothing.
    pub(crate) async fn call(&self, access: &str) -> String {
        let bearer = format!("Bearer {access}");
        match self {
            Self::Slack(_) => {
                let seen = post(&format!("{}/api/auth.test", self.base()), String::new(), Some(&bearer)).await;
                seen.json()["error"].as_str().unwrap_or_default().to_owned()
            }
            Self::Google(_) => status(&get_as(&format!("{}/oauth2/v3/userinfo", self.base()), &bearer).await),
            Self::Connect(_) => status(&get_as(&format!("{}/v1/account", self.base()), &bearer).await),
        }
    }

    /// Gives the error word of a token reply, or nothing for a good one.
    #[track_caller]
    pub(crate) fn error(&self, seen: &Seen) -> String {
        let json = seen.json();
        let word = json["error"].as_str().unwrap_or_default().to_owned();
        match self {
            Self::Slack(_) => {
                assert_eq!(seen.status, 200, "Slack answers 200 whatever happens: {}", seen.text);
                assert_eq!(json["ok"], word.is_empty(), "{json}");
            }
            Self::Google(_) | Self::Connect(_) => assert_eq!(seen.status == 200, word.is_empty(), "{json}"),
        }
        word
    }
}

fn status(seen: &Seen) -> String {
    if seen.status == 200 { String::new() } else { seen.status.to_string() }
}

pub(crate) fn slack_config() -> SlackConfig {
    SlackConfig {
        seed: 7,
        clients: vec![app(CLIENT), app("ca_other")],
        workspaces: vec![Workspace::new("T1", "Tea"), Workspace::new("T2", "Coffee")],
        enterprise: Some(("E1".to_owned(), "Drinks".to_owned())),
        limits: Limits::none(),
        ..SlackConfig::default()
    }
}

pub(crate) fn google_config() -> GoogleConfig {
    GoogleConfig {
        seed: 7,
        clients: vec![app(CLIENT), app("ca_other")],
        people: vec![Person::new("ada@example.com", "Ada Lovelace"), Person::new("bob@example.com", "Bob")],
        service_accounts: vec![ServiceAccount { delegated: vec![MAIL.to_owned()], ..ServiceAccount::built_in() }],
        ..GoogleConfig::default()
    }
}

/// What came back over the socket.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(crate) location: Option<String>,
    pub(crate) headers: reqwest::header::HeaderMap,
}

impl Seen {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    #[track_caller]
    pub(crate) fn form(&self) -> Form {
        assert_eq!(self.status, 200, "{}", self.text);
        Form::read(&self.text).unwrap_or_else(|| panic!("no form: {}", self.text))
    }

    /// The parameters of the redirect back to the app.
    #[track_caller]
    pub(crate) fn back(&self) -> BTreeMap<String, String> {
        let location = self.location.as_deref().unwrap_or_else(|| panic!("no redirect: {} {}", self.status, self.text));
        assert_eq!(self.status, 302);
        let rest = location.strip_prefix(BACK).unwrap_or_else(|| panic!("sent elsewhere: {location}"));
        let pairs = rest.trim_start_matches('&').split('&').map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(name, value)| (decode(name), decode(value))).collect()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned()
}

pub(crate) fn encode(pairs: &[(String, String)]) -> String {
    let one = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    pairs.iter().map(|(name, value)| format!("{}={}", one(name), one(value))).collect::<Vec<_>>().join("&")
}

/// One client for all tests, because making one reads every root certificate; it keeps no connection, because each
/// test has a runtime of its own.
pub(crate) fn client() -> reqwest::Client {
    static CLIENT: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
    let policy = reqwest::redirect::Policy::none();
    let make = || reqwest::Client::builder().no_proxy().redirect(policy).pool_max_idle_per_host(0).build().unwrap();
    CLIENT.get_or_init(make).clone()
}

pub(crate) async fn get(url: &str) -> Seen {
    seen(client().get(url).send().await.unwrap()).await
}

pub(crate) async fn get_as(url: &str, authorization: &str) -> Seen {
    seen(client().get(url).header("authorization", authorization).send().await.unwrap()).await
}

pub(crate) async fn post(url: &str, body: String, authorization: Option<&str>) -> Seen {
    let mut request = client().post(url).header("content-type", "application/x-www-form-urlencoded").body(body);
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    seen(request.send().await.unwrap()).await
}

async fn seen(response: reqwest::Response) -> Seen {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let location = headers.get("location").map(|value| value.to_str().unwrap().to_owned());
    let text = String::from_utf8(response.bytes().await.unwrap().to_vec()).unwrap();
    Seen { status, text, location, headers }
}

/// Gives a text field.
#[track_caller]
pub(crate) fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no {name} in {value}")).to_owned()
}

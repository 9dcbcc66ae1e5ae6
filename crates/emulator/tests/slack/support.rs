//! An installed app in memory: a token, a method, its answer; and a receiver that writes down what it is sent.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use palisade_emulator::oauth::{Client, Consent, Dials};
use palisade_emulator::slack::{Limits, Slack, SlackConfig, Workspace, signature};
use palisade_emulator::{Cut, Poster};
use serde_json::Value;

pub(crate) const ALL: &str = "chat:write,channels:read,groups:read,im:read,mpim:read,channels:history,groups:history,im:history,mpim:history,channels:join,im:write,users:read,users:read.email,team:read";
pub(crate) const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
pub(crate) const HOOK: &str = "http://app.invalid/slack/events";

/// What the receiver got, and what it answers: status, headers, body; nothing at all; or nothing in time.
#[derive(Clone, Default)]
pub(crate) struct Receiver {
    pub(crate) got: Arc<Mutex<Vec<Request<Bytes>>>>,
    answers: Arc<Mutex<Vec<Answer>>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Status(u16),
    StopRetrying,
    Body(String),
    Challenge,
    Refuse,
    Hang,
}

impl Receiver {
    /// Answers these first, and 200 after that.
    pub(crate) fn will(&self, answers: &[Answer]) {
        *self.answers.lock().unwrap() = answers.iter().rev().cloned().collect();
    }

    pub(crate) fn poster(&self) -> Poster {
        let own = self.clone();
        Arc::new(move |request| {
            let own = own.clone();
            Box::pin(async move {
                let body: Value = serde_json::from_slice(request.body()).unwrap_or(Value::Null);
                own.got.lock().unwrap().push(request);
                let answer = own.answers.lock().unwrap().pop().unwrap_or(Answer::Status(200));
                let with = |status: u16, body: String| Response::builder().status(status).body(Bytes::from(body)).ok();
                match answer {
                    Answer::Status(status) => with(status, String::new()),
                    Answer::Body(body) => with(200, body),
                    Answer::Challenge => with(200, body["challenge"].as_str().unwrap_or_default().to_owned()),
                    Answer::StopRetrying => {
                        Response::builder().status(500).header("x-slack-no-retry", "1").body(Bytes::new()).ok()
                    }
                    Answer::Refuse => None,
                    Answer::Hang => std::future::pending().await,
                }
            })
        })
    }

    /// Takes what came until now, as JSON.
    pub(crate) fn take(&self) -> Vec<Value> {
        let got = std::mem::take(&mut *self.got.lock().unwrap());
        got.iter().map(|request| serde_json::from_slice(request.body()).unwrap()).collect()
    }

    pub(crate) fn take_raw(&self) -> Vec<Request<Bytes>> {
        std::mem::take(&mut *self.got.lock().unwrap())
    }
}

/// Gives a header of a request.
pub(crate) fn header<'a>(request: &'a Request<Bytes>, name: &str) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Tells whether a request is signed with the app's secret.
pub(crate) fn is_signed(request: &Request<Bytes>) -> bool {
    let at: i64 = header(request, "x-slack-request-timestamp").parse().unwrap();
    header(request, "x-slack-signature") == signature(SECRET, at, request.body())
}

/// An app that is installed in the first workspace.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) slack: Slack,
    pub(crate) token: String,
    pub(crate) receiver: Receiver,
}

pub(crate) fn config(receiver: &Receiver) -> SlackConfig {
    let begun = tokio::time::Instant::now();
    let origin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_305_600);
    SlackConfig {
        seed: 7,
        clients: vec![Client {
            id: "1.2".to_owned(),
            secret: Some("s".to_owned()),
            redirect_uris: vec!["https://app.example/cb".to_owned()],
            ..Client::default()
        }],
        workspaces: vec![Workspace::new("T1", "Tea"), Workspace::new("T2", "Coffee")],
        signing_secret: SECRET.to_owned(),
        limits: Limits::none(),
        poster: Some(receiver.poster()),
        event_retries: [0, 60, 300].map(Duration::from_secs).to_vec(),
        clock: Arc::new(move || origin + begun.elapsed()),
        ..SlackConfig::default()
    }
}

impl App {
    pub(crate) async fn with(scopes: &str) -> Self {
        Self::of(config, scopes).await
    }

    pub(crate) async fn of(config: impl FnOnce(&Receiver) -> SlackConfig, scopes: &str) -> Self {
        let receiver = Receiver::default();
        let slack = Slack::offline(config(&receiver));
        let mut app = Self { slack, token: String::new(), receiver };
        app.token = app.install("scope", scopes, "access_token").await;
        app
    }

    /// Installs without a page; gives the token.
    pub(crate) async fn install(&self, kind: &str, scopes: &str, field: &str) -> String {
        self.slack.oauth().set_dials(Dials { consent: Consent::Allow, ..Dials::default() });
        let ask = format!("/oauth/v2/authorize?client_id=1.2&{kind}={}", scopes.replace(',', "%2C"));
        let answer = self.slack.handle(Request::get(ask).body(Bytes::new()).unwrap()).await.unwrap();
        let location = answer.headers()["location"].to_str().unwrap();
        let code = location.split("code=").nth(1).unwrap().split('&').next().unwrap();
        let reply =
            self.send("oauth.v2.access", &[("client_id", "1.2"), ("client_secret", "s"), ("code", code)], "").await;
        let reply: Value = serde_json::from_slice(reply.unwrap().body()).unwrap();
        let of = if kind == "user_scope" { &reply["authed_user"] } else { &reply };
        of[field].as_str().unwrap_or_else(|| panic!("no token: {reply}")).to_owned()
    }

    async fn send(&self, method: &str, args: &[(&str, &str)], token: &str) -> Result<Response<Bytes>, Cut> {
        let one =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let body: Vec<String> = args.iter().map(|(name, value)| format!("{}={}", one(name), one(value))).collect();
        let request = Request::post(format!("/api/{method}"))
            .header("content-type", "application/x-www-form-urlencoded")
            .header("authorization", format!("Bearer {token}"));
        self.slack.handle(request.body(Bytes::from(body.join("&"))).unwrap()).await
    }

    pub(crate) async fn raw(&self, method: &str, args: &[(&str, &str)]) -> Response<Bytes> {
        self.send(method, args, &self.token).await.unwrap()
    }

    /// Calls a method as the app's bot.
    pub(crate) async fn call(&self, method: &str, args: &[(&str, &str)]) -> Value {
        serde_json::from_slice(self.raw(method, args).await.body()).unwrap()
    }

    pub(crate) async fn call_as(&self, token: &str, method: &str, args: &[(&str, &str)]) -> Value {
        serde_json::from_slice(self.send(method, args, token).await.unwrap().body()).unwrap()
    }

    /// Calls a method that must succeed.
    #[track_caller]
    pub(crate) fn good(&self, method: &'static str, args: &[(&str, &str)]) -> impl Future<Output = Value> {
        let own: Vec<(String, String)> =
            args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (app, at) = (self.clone(), std::panic::Location::caller());
        async move {
            let args: Vec<(&str, &str)> = own.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let value = app.call(method, &args).await;
            assert_eq!(value["ok"], true, "{method} at {at}: {value}");
            value
        }
    }

    /// Calls a method that must fail; gives the error word.
    pub(crate) async fn bad(&self, method: &str, args: &[(&str, &str)]) -> String {
        let response = self.raw(method, args).await;
        assert_eq!(response.status(), 200);
        let value: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(value["ok"], false, "{method}: {value}");
        value["error"].as_str().unwrap().to_owned()
    }

    /// Makes a public channel that the bot is a member of.
    pub(crate) fn channel(&self, name: &str) -> String {
        self.slack.create_channel(name, false, &[&self.slack.bot_user(), "U1"])
    }

    /// Walks every page of a list; gives the rows and how many pages there were.
    pub(crate) async fn all(&self, method: &'static str, field: &str, args: &[(&str, &str)]) -> (Vec<Value>, usize) {
        let (mut rows, mut pages, mut cursor) = (Vec::new(), 0, String::new());
        loop {
            let mut args = args.to_vec();
            if !cursor.is_empty() {
                args.push(("cursor", &cursor));
            }
            let page = self.good(method, &args).await;
            rows.extend(page[field].as_array().unwrap().clone());
            pages += 1;
            assert!(pages < 1000, "it never ends");
            let next = page["response_metadata"]["next_cursor"].as_str().unwrap_or_default().to_owned();
            if next.is_empty() {
                return (rows, pages);
            }
            assert_ne!(next, cursor);
            cursor = next;
        }
    }
}

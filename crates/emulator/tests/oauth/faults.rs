//! What goes wrong at a token endpoint: slowness, answers lost before and after the change, limits, nonsense.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use palisade_emulator::google::{Google, GoogleConfig};
use palisade_emulator::oauth::{Authority, Consent, Dials, Refresh};
use palisade_emulator::slack::{Slack, SlackConfig};
use palisade_emulator::stripe::{Stripe, StripeConfig};
use palisade_emulator::{Clock, Cut, Fault, Faults, RetryAfter};
use serde_json::Value;

use super::support::{BACK, CLIENT, Emulator, SECRET, app, encode, google_config, slack_config, text};

/// A provider in memory, whose time of day follows tokio's paused clock.
#[derive(Clone)]
enum Quiet {
    Slack(Slack),
    Google(Google),
    Connect(Stripe),
}

fn clock() -> Clock {
    let (begun, origin) = (tokio::time::Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_305_600));
    std::sync::Arc::new(move || origin + begun.elapsed())
}

impl Quiet {
    fn all() -> [Self; 3] {
        let stripe = StripeConfig {
            seed: 7,
            platform: app(CLIENT),
            api_key: SECRET.to_owned(),
            clock: clock(),
            ..StripeConfig::default()
        };
        let all = [
            Self::Slack(Slack::offline(SlackConfig { clock: clock(), ..slack_config() })),
            Self::Google(Google::offline(GoogleConfig { clock: clock(), ..google_config() })),
            Self::Connect(Stripe::offline(stripe)),
        ];
        for provider in &all {
            provider.oauth().set_dials(Dials { consent: Consent::Allow, ..Dials::default() });
            let mut rules = provider.oauth().rules();
            rules.refresh = Refresh::Rotating { grace: Duration::ZERO };
            provider.oauth().set_rules(rules);
        }
        all
    }

    fn oauth(&self) -> Authority {
        match self {
            Self::Slack(slack) => slack.oauth(),
            Self::Google(google) => google.oauth(),
            Self::Connect(stripe) => stripe.oauth(),
        }
    }

    fn faults(&self) -> Faults {
        match self {
            Self::Slack(slack) => slack.faults(),
            Self::Google(google) => google.faults(),
            Self::Connect(stripe) => stripe.faults(),
        }
    }

    fn paths(&self) -> (&'static str, &'static str) {
        match self {
            Self::Slack(_) => ("/oauth/v2/authorize", "/api/oauth.v2.access"),
            Self::Google(_) => ("/o/oauth2/v2/auth", "/token"),
            Self::Connect(_) => ("/oauth/authorize", "/oauth/token"),
        }
    }

    fn route(&self) -> String {
        format!("POST {}", self.paths().1)
    }

    async fn handle(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Cut> {
        match self {
            Self::Slack(slack) => slack.handle(request).await,
            Self::Google(google) => google.handle(request).await,
            Self::Connect(stripe) => stripe.handle(request).await,
        }
    }

    async fn token(&self, pairs: &[(&str, &str)]) -> Result<Response<Bytes>, Cut> {
        let mut all = vec![("client_secret", SECRET)];
        if !matches!(self, Self::Connect(_)) {
            all.push(("client_id", CLIENT));
        }
        all.extend_from_slice(pairs);
        let all: Vec<(String, String)> =
            all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let request = Request::post(self.paths().1).header("content-type", "application/x-www-form-urlencoded");
        self.handle(request.body(Bytes::from(encode(&all))).unwrap()).await
    }

    async fn refresh(&self, token: &str) -> Result<Response<Bytes>, Cut> {
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    /// Connects without a page and gives the refresh token.
    async fn connected(&self) -> String {
        let query = format!(
            "client_id={CLIENT}&redirect_uri={}&response_type=code&access_type=offline&prompt=consent&scope={}",
            BACK.replace('?', "%3F").replace('=', "%3D"),
            if matches!(self, Self::Connect(_)) { "read_write" } else { "openid" },
        );
        let request = Request::get(format!("{}?{query}", self.paths().0)).body(Bytes::new()).unwrap();
        let answer = self.handle(request).await.unwrap();
        let location = answer.headers()["location"].to_str().unwrap();
        let code = location.split("code=").nth(1).unwrap().split('&').next().unwrap().replace("%2F", "/");
        let redirect = if matches!(self, Self::Connect(_)) { "" } else { BACK };
        let pairs = [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", redirect)];
        let reply = self.token(&pairs).await.unwrap();
        text(&json(&reply), "refresh_token")
    }

    fn is_good(&self, reply: &Response<Bytes>) -> bool {
        reply.status() == 200
            && serde_json::from_slice::<Value>(reply.body()).is_ok_and(|json| json["access_token"].is_string())
    }
}

fn json(reply: &Response<Bytes>) -> Value {
    serde_json::from_slice(reply.body()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_answer_lost_after_the_change_has_changed_everything() {
    let faults =
        [Fault::ResetAfter, Fault::HangAfter, Fault::CutBody, Fault::StatusAfter(502), Fault::Garbage, Fault::Html];
    for provider in Quiet::all() {
        for fault in &faults {
            let token = provider.connected().await;
            provider.faults().next(&provider.route(), [fault.clone()]);
            let answer = provider.refresh(&token).await;
            assert!(!answer.is_ok_and(|reply| provider.is_good(&reply)), "{fault:?} gives nothing usable");
            let uses = provider.oauth().uses(&token);
            // Fails when a lost answer is only pretended and the token is still good.
            assert_eq!((uses.arrived, uses.judged, uses.accepted), (1, 1, 1), "{fault:?}");
            let again = provider.refresh(&token).await.unwrap();
            assert!(!provider.is_good(&again), "{fault:?}: it was single-use and is spent");
        }
        assert_eq!(provider.oauth().ledger().replays, faults.len() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_lost_before_the_change_has_changed_nothing() {
    let faults = [
        Fault::ResetBefore,
        Fault::HangBefore,
        Fault::Status(503),
        Fault::Status(500),
        Fault::Throttle(RetryAfter::Seconds(7)),
        Fault::Refuse("invalid_client".to_owned()),
    ];
    for provider in Quiet::all() {
        for fault in &faults {
            let token = provider.connected().await;
            provider.faults().next(&provider.route(), [fault.clone()]);
            let answer = provider.refresh(&token).await;
            assert!(!answer.is_ok_and(|reply| provider.is_good(&reply)), "{fault:?}");
            let uses = provider.oauth().uses(&token);
            assert_eq!((uses.arrived, uses.judged, uses.accepted), (1, 0, 0), "{fault:?}");
            assert!(provider.is_good(&provider.refresh(&token).await.unwrap()), "{fault:?}: the token is unspent");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_endpoint_finishes_what_its_caller_gave_up() {
    let slow = Duration::from_secs(20);
    for provider in Quiet::all() {
        for fault in [Fault::Latency(slow), Fault::LatencyAfter(slow)] {
            let token = provider.connected().await;
            provider.faults().next(&provider.route(), [fault.clone()]);
            let given_up = tokio::time::timeout(Duration::from_secs(5), provider.refresh(&token)).await;
            assert!(given_up.is_err(), "{fault:?}");
            let early = provider.oauth().uses(&token).accepted;
            assert_eq!(early, u64::from(fault == Fault::LatencyAfter(slow)), "{fault:?}: before or after the change");
            tokio::time::sleep(slow).await;
            assert_eq!(provider.oauth().uses(&token).accepted, 1, "{fault:?}: the provider went on");
        }
        let token = provider.connected().await;
        provider.faults().next(&provider.route(), [Fault::Latency(slow)]);
        let begun = tokio::time::Instant::now();
        assert!(provider.is_good(&provider.refresh(&token).await.unwrap()));
        assert_eq!(begun.elapsed(), slow);
    }
}

#[tokio::test(start_paused = true)]
async fn refreshes_that_overlap_are_counted() {
    for provider in Quiet::all() {
        let token = provider.connected().await;
        provider.faults().next(&provider.route(), [Fault::Latency(Duration::from_secs(20)), Fault::Pass]);
        let (slow, own) = (provider.clone(), token.clone());
        let first = tokio::spawn(async move { slow.refresh(&own).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let second = provider.refresh(&token).await.unwrap();
        let first = first.await.unwrap().unwrap();
        assert!(provider.is_good(&second) && !provider.is_good(&first), "the quicker one spends the token");
        let ledger = provider.oauth().ledger();
        assert_eq!((ledger.refreshes_overlapping, ledger.single_use_arrived_max, ledger.replays), (1, 2, 1));
        let next = text(&json(&second), "refresh_token");
        assert!(provider.is_good(&provider.refresh(&next).await.unwrap()));
        assert_eq!(provider.oauth().ledger().refreshes_overlapping, 1, "one after the other does not overlap");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_and_refusals_look_like_the_providers() {
    for provider in Quiet::all() {
        let token = provider.connected().await;
        let next = |fault: Fault| provider.faults().next(&provider.route(), [fault]);
        next(Fault::Throttle(RetryAfter::Seconds(7)));
        let over = provider.refresh(&token).await.unwrap();
        assert_eq!((over.status().as_u16(), over.headers()["retry-after"].to_str().unwrap()), (429, "7"));
        next(Fault::Refuse("invalid_client".to_owned()));
        let refused = provider.refresh(&token).await.unwrap();
        let slack = matches!(provider, Quiet::Slack(_));
        assert_eq!(refused.status().as_u16(), if slack { 200 } else { 401 });
        assert_eq!(json(&refused)["error"], "invalid_client");
        next(Fault::Html);
        let page = provider.refresh(&token).await.unwrap();
        assert_eq!((page.status().as_u16(), page.headers()["content-type"].to_str().unwrap()), (200, "text/html"));
        let token = provider.connected().await;
        next(Fault::Garbage);
        let broken = provider.refresh(&token).await.unwrap();
        assert!(broken.headers()["content-type"].to_str().unwrap().starts_with("application/json"));
        assert!(serde_json::from_slice::<Value>(broken.body()).is_err());
        let declared: usize = broken.headers()["content-length"].to_str().unwrap().parse().unwrap();
        assert_eq!(declared, broken.body().len(), "whole as far as HTTP can tell");
    }
}

#[tokio::test]
async fn a_lost_answer_is_lost_on_the_socket_too() {
    for provider in [Emulator::slack().await, Emulator::google().await] {
        provider.rules(|rules| rules.refresh = Refresh::Rotating { grace: Duration::ZERO });
        let token = text(&provider.connected().await, "refresh_token");
        let faults = match &provider {
            Emulator::Slack(slack) => slack.faults(),
            Emulator::Google(google) => google.faults(),
            Emulator::Connect(stripe) => stripe.faults(),
        };
        faults.next(&format!("POST {}", provider.token_path()), [Fault::ResetAfter]);
        let body = format!(
            "client_id={CLIENT}&client_secret={}&grant_type=refresh_token&refresh_token={}",
            "s3cret%2F%2B%20%25",
            token.replace('/', "%2F")
        );
        let http = super::support::client();
        let sent = http.post(format!("{}{}", provider.base(), provider.token_path())).body(body).send().await;
        assert!(sent.is_err());
        assert_eq!(provider.oauth().uses(&token).accepted, 1);
        assert_ne!(provider.error(&provider.refresh(&token).await), "");
    }
}

#[tokio::test]
async fn the_control_plane_turns_the_authority() {
    for provider in Emulator::all().await {
        let url = |path: &str| format!("{}/_emulator/{path}", provider.base());
        let reply = provider.connected().await;
        let (access, refresh) = (text(&reply, "access_token"), text(&reply, "refresh_token"));
        let body = serde_json::json!({
            "client": { "id": "ca_late", "secret": "x", "name": "Late", "redirect_uris": ["https://late.example/cb"] },
            "dials": { "consent": "deny" }, "expire": [access], "uses": [refresh],
        });
        let turned = super::support::post(&url("oauth"), body.to_string(), None).await.json();
        assert_eq!((turned["expired"].as_u64(), turned["uses"][&refresh]["arrived"].as_u64()), (Some(1), Some(0)));
        assert_ne!(provider.call(&access).await, "");
        assert!(provider.oauth().client("ca_late").is_some());
        assert_eq!(provider.visit(&provider.ask()).await.back()["error"], "access_denied");
        let shown = super::support::get(&url("oauth")).await.json();
        assert_eq!(
            (shown["ledger"]["codes_redeemed"].as_u64(), shown["dials"]["consent"].as_str()),
            (Some(1), Some("deny"))
        );
        assert_eq!(super::support::post(&url("oauth"), "{".to_owned(), None).await.status, 400);
        assert!(super::support::get(&url("ledger")).await.json()["requests"].as_u64().unwrap() > 0);
        let clock = super::support::post(&url("clock"), "{\"skew_seconds\":60}".to_owned(), None).await;
        assert_eq!(clock.json()["ok"], true);
        assert_eq!(super::support::get(&url("nothing")).await.status / 100, 4);
    }
}

//! An account in memory: a form, its answer; and a receiver that writes down what it is sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use palisade_emulator::Cut;
use palisade_emulator::twilio::{Twilio, TwilioConfig};
use serde_json::Value;

pub(crate) use crate::slack::support::{Answer, Receiver, header};

pub(crate) const HOOK: &str = "https://app.invalid/twilio?a=1";
pub(crate) const FROM: &str = "+15005550006";
pub(crate) const TO: &str = "+15005550010";
/// Seconds since 1970 when the tests begin: 2026-01-01.
pub(crate) const BEGIN: u64 = 1_767_225_600;

pub(crate) struct Account {
    pub(crate) twilio: Twilio,
    pub(crate) receiver: Receiver,
}

impl Account {
    pub(crate) fn new() -> Self {
        Self::of(|config| config)
    }

    pub(crate) fn of(change: impl FnOnce(TwilioConfig) -> TwilioConfig) -> Self {
        let begun = tokio::time::Instant::now();
        let origin = SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN);
        let receiver = Receiver::default();
        let config = TwilioConfig {
            seed: 7,
            poster: Some(receiver.poster()),
            clock: Arc::new(move || origin + begun.elapsed()),
            ..TwilioConfig::default()
        };
        Self { twilio: Twilio::offline(change(config)), receiver }
    }

    /// Gives a path of the account.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/2010-04-01/Accounts/{}{rest}", self.twilio.account_sid())
    }

    pub(crate) async fn try_send(
        &self,
        method: &str,
        path: &str,
        form: &[(&str, &str)],
    ) -> Result<Response<Bytes>, Cut> {
        let body = encoded(form);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", basic(self.twilio.account_sid(), &self.twilio.auth_token()))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from(body))
            .unwrap();
        self.twilio.handle(request).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, form: &[(&str, &str)]) -> Response<Bytes> {
        self.try_send(method, path, form).await.unwrap()
    }

    /// Sends a request to a path of the account; gives status and body.
    pub(crate) async fn call(&self, method: &str, rest: &str, form: &[(&str, &str)]) -> (u16, Value) {
        let response = self.send(method, &self.path(rest), form).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap_or(Value::Null))
    }

    /// Sends a message that must be taken; gives its SID.
    pub(crate) async fn message(&self, form: &[(&str, &str)]) -> String {
        let (status, made) = self.call("POST", "/Messages.json", form).await;
        assert_eq!(status, 201, "{made}");
        made["sid"].as_str().unwrap().to_owned()
    }

    /// Sends a message that must be refused; gives status and code.
    pub(crate) async fn refused(&self, form: &[(&str, &str)]) -> (u16, u64) {
        let (status, why) = self.call("POST", "/Messages.json", form).await;
        assert_eq!(why["status"], status, "{why}");
        (status, why["code"].as_u64().unwrap())
    }

    /// Walks every page of a list from a path; gives the SIDs and how many pages there were.
    pub(crate) async fn walk(&self, first: String) -> (Vec<String>, usize) {
        let (mut sids, mut pages, mut path) = (Vec::new(), 0, first);
        loop {
            let response = self.send("GET", &path, &[]).await;
            assert_eq!(response.status(), 200);
            let page: Value = serde_json::from_slice(response.body()).unwrap();
            let rows = page["messages"].as_array().unwrap();
            sids.extend(rows.iter().map(|row| row["sid"].as_str().unwrap().to_owned()));
            pages += 1;
            assert!(pages < 1_000, "it never ends");
            match page["next_page_uri"].as_str() {
                Some(next) => path = next.to_owned(),
                None => return (sids, pages),
            }
        }
    }
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub(crate) fn encoded(form: &[(&str, &str)]) -> String {
    let one = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    form.iter().map(|(name, value)| format!("{}={}", one(name), one(value))).collect::<Vec<_>>().join("&")
}

/// Reads the form a delivery brought.
pub(crate) fn form(request: &Request<Bytes>) -> BTreeMap<String, String> {
    let text = std::str::from_utf8(request.body()).unwrap();
    let decode =
        |text: &str| percent_encoding::percent_decode_str(&text.replace('+', " ")).decode_utf8().unwrap().into_owned();
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decode(name), decode(value))).collect()
}

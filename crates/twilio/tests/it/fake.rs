//! A transport that answers from a list and keeps what it was sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::{Call, Error, ErrorKind, Transport};
use palisade_twilio::Twilio;
use palisade_twilio::sid::AccountSid;

pub(crate) const ACCOUNT: &str = "AC00000000000000000000000000000000";

#[derive(Default)]
pub(crate) struct Fake {
    answers: Mutex<VecDeque<Response<Bytes>>>,
    seen: Mutex<Vec<Request<Bytes>>>,
}

impl Fake {
    pub(crate) fn answering(bodies: &[&str]) -> Arc<Self> {
        let answers = bodies.iter().map(|body| answer(200, body)).collect();
        Arc::new(Self { answers: Mutex::new(answers), seen: Mutex::default() })
    }

    pub(crate) fn client(self: &Arc<Self>) -> Twilio {
        let account = AccountSid::parse(ACCOUNT).unwrap();
        Twilio::new(Arc::clone(self) as Arc<dyn Transport>, "conn_1", "tenant_1", account)
    }

    pub(crate) fn seen(&self) -> Vec<Request<Bytes>> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn only(&self) -> Request<Bytes> {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "one request was expected");
        seen.into_iter().next().unwrap()
    }
}

#[async_trait]
impl Transport for Fake {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        self.seen.lock().unwrap().push(request);
        let next = self.answers.lock().unwrap().pop_front();
        next.ok_or_else(|| Error::new(ErrorKind::Connect, "the fake has no further answer"))
    }
}

pub(crate) fn answer(status: u16, body: &str) -> Response<Bytes> {
    Response::builder()
        .status(status)
        .header("twilio-request-id", "RQ1")
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .unwrap()
}

pub(crate) fn call(request: &Request<Bytes>) -> &Call {
    request.extensions().get::<Call>().expect("every request carries its call")
}

/// The pairs of a form or query, decoded and sorted: two spellings of the same parameters are equal.
pub(crate) fn pairs(form: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8().unwrap().into_owned()
    };
    let mut pairs: Vec<_> = form
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    pairs.sort();
    pairs
}

/// A message as Twilio shows it.
pub(crate) fn message(sid: u32, more: &str) -> String {
    format!(
        r#"{{"sid":"SM{sid:032}","account_sid":"{ACCOUNT}","to":"+15005550006","from":"+15005550001","body":"hi","status":"queued","direction":"outbound-api","num_segments":"1","num_media":"0","date_created":"Thu, 01 Jan 2026 00:00:00 +0000","date_sent":null{more}}}"#
    )
}

//! A transport that answers from a list and keeps what it was sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::clock::ManualClock;
use palisade_core::random::SeededRandom;
use palisade_core::{Call, Error, ErrorKind, Timestamp, Transport};
use palisade_google::Google;

pub(crate) const NOW: Timestamp = Timestamp(1_767_225_610_000);

#[derive(Default)]
pub(crate) struct Fake {
    answers: Mutex<VecDeque<Result<Response<Bytes>, Error>>>,
    seen: Mutex<Vec<Request<Bytes>>>,
}

impl Fake {
    pub(crate) fn answering(bodies: &[&str]) -> Arc<Self> {
        Self::with(bodies.iter().map(|body| Ok(answer(200, body))).collect())
    }

    pub(crate) fn with(answers: Vec<Result<Response<Bytes>, Error>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into()), seen: Mutex::default() })
    }

    pub(crate) fn client(self: &Arc<Self>) -> Google {
        Google::new(Arc::clone(self) as Arc<dyn Transport>, "conn_1", "tenant_1")
            .clock(Arc::new(ManualClock::starting_at(NOW)))
            .random(Arc::new(SeededRandom::new(7)))
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
        next.unwrap_or_else(|| Err(Error::new(ErrorKind::Connect, "the fake has no further answer")))
    }
}

pub(crate) fn answer(status: u16, body: &str) -> Response<Bytes> {
    Response::builder().status(status).body(Bytes::copy_from_slice(body.as_bytes())).unwrap()
}

pub(crate) fn call(request: &Request<Bytes>) -> &Call {
    request.extensions().get::<Call>().expect("every request carries its call")
}

/// The pairs of a query, decoded and sorted: two spellings of the same parameters are equal.
pub(crate) fn pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8().unwrap().into_owned()
    };
    let mut pairs: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    pairs.sort();
    pairs
}

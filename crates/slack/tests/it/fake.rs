//! A transport that answers from a list and keeps what it was sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::{Call, Error, ErrorKind, Transport};
use palisade_slack::Slack;

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

    pub(crate) fn client(self: &Arc<Self>) -> Slack {
        Slack::new(Arc::clone(self) as Arc<dyn Transport>, "conn_1", "tenant_1")
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
        .header("x-slack-req-id", "req_1")
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .unwrap()
}

pub(crate) fn call(request: &Request<Bytes>) -> &Call {
    request.extensions().get::<Call>().expect("every request carries its call")
}

/// The pairs of a form, decoded and sorted: two spellings of the same parameters are equal.
pub(crate) fn pairs(form: &[u8]) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = url::form_urlencoded::parse(form).map(|(a, b)| (a.into_owned(), b.into_owned())).collect();
    pairs.sort();
    pairs
}

//! A transport that answers from a list and keeps what it was sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::{Call, Error, ErrorKind, Transport};
use palisade_sendgrid::SendGrid;
use serde_json::Value;

#[derive(Default)]
pub(crate) struct Fake {
    answers: Mutex<VecDeque<Response<Bytes>>>,
    seen: Mutex<Vec<Request<Bytes>>>,
}

impl Fake {
    pub(crate) fn answering(answers: impl IntoIterator<Item = Response<Bytes>>) -> Arc<Self> {
        Arc::new(Self { answers: Mutex::new(answers.into_iter().collect()), seen: Mutex::default() })
    }

    pub(crate) fn client(self: &Arc<Self>) -> SendGrid {
        SendGrid::new(Arc::clone(self) as Arc<dyn Transport>, "conn_1", "tenant_1")
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

pub(crate) fn accepted() -> Response<Bytes> {
    Response::builder().status(202).header("x-message-id", "14c5d75ce93").body(Bytes::new()).unwrap()
}

pub(crate) fn ok(body: &str) -> Response<Bytes> {
    Response::builder()
        .status(200)
        .header("date", "Thu, 01 Jan 2026 00:00:00 GMT")
        .body(Bytes::copy_from_slice(body.as_bytes()))
        .unwrap()
}

pub(crate) fn call(request: &Request<Bytes>) -> &Call {
    request.extensions().get::<Call>().expect("every request carries its call")
}

pub(crate) fn json(request: &Request<Bytes>) -> Value {
    serde_json::from_slice(request.body()).unwrap()
}

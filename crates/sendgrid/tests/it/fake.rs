//! The kit's fake transport with the typed client over it, and answers as SendGrid gives them.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use palisade_core::Transport;
use palisade_sendgrid::SendGrid;
pub(crate) use palisade_testkit::fake::{Fake, call};
use serde_json::Value;

pub(crate) fn answering(answers: impl IntoIterator<Item = Response<Bytes>>) -> Arc<Fake> {
    Fake::with(answers.into_iter().map(Ok))
}

pub(crate) trait Clients {
    fn client(&self) -> SendGrid;
}

impl Clients for Arc<Fake> {
    fn client(&self) -> SendGrid {
        SendGrid::new(Arc::clone(self) as Arc<dyn Transport>, "conn_1", "tenant_1")
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

pub(crate) fn json(request: &Request<Bytes>) -> Value {
    serde_json::from_slice(request.body()).unwrap()
}

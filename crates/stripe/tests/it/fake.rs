//! The kit's fake transport with the typed client over it.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use palisade_core::Transport;
use palisade_stripe::Stripe;
pub(crate) use palisade_testkit::fake::{Fake, call, pairs};

/// Answers with these bodies, each under a request id.
pub(crate) fn answering(bodies: &[&str]) -> Arc<Fake> {
    Fake::with(bodies.iter().map(|body| Ok(answer(200, body))))
}

pub(crate) trait Clients {
    fn client(&self) -> Stripe;
}

impl Clients for Arc<Fake> {
    fn client(&self) -> Stripe {
        Stripe::new(Arc::clone(self) as Arc<dyn Transport>, "conn_1", "tenant_1")
    }
}

pub(crate) fn answer(status: u16, body: &str) -> Response<Bytes> {
    let mut answer = palisade_testkit::fake::answer(status, body);
    let (name, id) = ("request-id", "req_1");
    answer.headers_mut().insert(name, id.parse().unwrap());
    answer
}

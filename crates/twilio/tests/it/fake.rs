//! The kit's fake transport with the typed client over it, and messages as Twilio shows them.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use palisade_core::Transport;
pub(crate) use palisade_testkit::fake::{Fake, call, pairs};
use palisade_twilio::Twilio;
use palisade_twilio::sid::AccountSid;

pub(crate) const ACCOUNT: &str = "AC00000000000000000000000000000000";

/// Answers with these bodies, each under a request id.
pub(crate) fn answering(bodies: &[&str]) -> Arc<Fake> {
    Fake::with(bodies.iter().map(|body| Ok(answer(200, body))))
}

pub(crate) trait Clients {
    fn client(&self) -> Twilio;
}

impl Clients for Arc<Fake> {
    fn client(&self) -> Twilio {
        let account = AccountSid::parse(ACCOUNT).unwrap();
        Twilio::new(Arc::clone(self) as Arc<dyn Transport>, "conn_1", "tenant_1", account)
    }
}

pub(crate) fn answer(status: u16, body: &str) -> Response<Bytes> {
    let mut answer = palisade_testkit::fake::answer(status, body);
    let (name, id) = ("twilio-request-id", "RQ1");
    answer.headers_mut().insert(name, id.parse().unwrap());
    answer
}

/// A message as Twilio shows it.
pub(crate) fn message(sid: u32, more: &str) -> String {
    format!(
        r#"{{"sid":"SM{sid:032}","account_sid":"{ACCOUNT}","to":"+15005550006","from":"+15005550001","body":"hi","status":"queued","direction":"outbound-api","num_segments":"1","num_media":"0","date_created":"Thu, 01 Jan 2026 00:00:00 +0000","date_sent":null{more}}}"#
    )
}

//! What the fuzz targets share: the five adapters, and a reader that cuts arbitrary bytes into what a target needs.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use palisade_core::sync::{Site, Span};
use palisade_core::webhook::{Parsed, RawDelivery, Refusal, Verified, Webhook};
use palisade_core::{Provider, Secret, Timestamp};

/// The present moment of every target.
pub const NOW: Timestamp = Timestamp(1_795_305_600_000);

/// All adapters.
#[must_use]
pub fn providers() -> [Box<dyn Provider>; 5] {
    [
        Box::new(palisade_stripe::StripeProvider::new()),
        Box::new(palisade_slack::SlackProvider::new()),
        Box::new(palisade_google::GoogleProvider::new()),
        Box::new(palisade_twilio::TwilioProvider::new()),
        Box::new(palisade_sendgrid::SendGridProvider::new()),
    ]
}

/// Cuts arbitrary bytes into parts. A part that is not there is empty.
#[derive(Debug)]
pub struct Cut<'a>(&'a [u8]);

impl<'a> Cut<'a> {
    /// Begins at the first byte.
    #[must_use]
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Takes one byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    /// Takes the bytes up to the next line's end, or up to a zero.
    pub fn line(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|byte| matches!(byte, b'\n' | 0)).unwrap_or(self.0.len());
        let (line, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        line
    }

    /// Takes a line as text; what is no text is replaced.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.line()).into_owned()
    }

    /// Takes lines `name: value` up to an empty one. What is no header is left out.
    pub fn headers(&mut self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                return headers;
            }
            let mut halves = line.splitn(2, |byte| *byte == b':');
            let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
            let name = HeaderName::from_bytes(name.trim_ascii());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.trim_ascii())) {
                headers.append(name, value);
            }
        }
    }

    /// Takes what is left.
    #[must_use]
    pub fn rest(self) -> Bytes {
        Bytes::copy_from_slice(self.0)
    }
}

/// Makes a delivery of headers and a body.
#[must_use]
pub fn delivery(url: String, headers: HeaderMap, body: Bytes) -> RawDelivery {
    RawDelivery { method: Method::POST, url, headers, body }
}

/// A provider's webhook whose signatures are always good: what comes behind the check is tried with any bytes.
pub struct Trusting<'a>(pub &'a dyn Webhook);

impl Webhook for Trusting<'_> {
    fn verify(&self, _: &RawDelivery, _: &[Secret], _: Timestamp) -> Result<(), Refusal> {
        Ok(())
    }

    fn events(&self, verified: &Verified) -> palisade_core::Result<Parsed> {
        self.0.events(verified)
    }
}

/// Where pages are read from.
#[must_use]
pub fn site(provider: &dyn Provider) -> Site {
    Site {
        base_url: provider.manifest().base_url.to_owned(),
        connection: "fuzz".into(),
        tenant: "fuzz".into(),
        account: Some("AC00000000000000000000000000000000".to_owned()),
        page_size: 10,
    }
}

/// Makes an answer of a status, headers and a body.
#[must_use]
pub fn answer(status: u16, headers: HeaderMap, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::OK);
    *response.headers_mut() = headers;
    response
}

/// When an answer's states were true.
#[must_use]
pub fn span() -> Span {
    Span::read(NOW, Duration::from_millis(50))
}

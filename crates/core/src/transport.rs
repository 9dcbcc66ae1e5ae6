//! The one seam: everything outbound, whoever writes the request, passes [`Transport`].

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;

#[cfg(feature = "http")]
mod http_transport;
#[cfg(feature = "http")]
pub use http_transport::{HttpTransport, HttpTransportBuilder};

/// Sends one HTTP request and returns the whole answer.
///
/// - Any status is `Ok`: what a status means is the pipeline's and the adapter's business.
/// - A transport sends once. It never repeats, never follows a redirect and adds no credential.
/// - What the pipeline must know of a call travels as one [`crate::Call`] in `request.extensions()`.
///
/// # Errors
/// [`crate::ErrorKind::Connect`] with [`crate::Outcome::NotSent`] when provably nothing reached the provider;
/// [`crate::ErrorKind::Transport`] or [`crate::ErrorKind::Timeout`] with [`crate::Outcome::Unknown`] otherwise;
/// [`crate::ErrorKind::BodyTooLarge`] when the answer exceeds the call's cap.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends `request`; see the trait for what an implementation promises.
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>>;
}

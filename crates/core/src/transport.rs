//! The one seam: everything outbound, whoever writes the request, passes [`Transport`].

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;

#[cfg(feature = "http")]
mod guarded;
#[cfg(feature = "http")]
mod http_transport;
#[cfg(feature = "http")]
pub use guarded::{GuardedTransport, Resolver, SystemResolver};
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
///
/// # Standing in for a provider
/// With the feature `mock`, mockall's `MockTransport` takes the place of the network in a product's own tests:
/// ```
/// # #[cfg(feature = "mock")]
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// use std::{sync::Arc, time::Duration};
/// use palisade_core::auth::{FixedCredential, Scheme};
/// use palisade_core::call::Bucket;
/// use palisade_core::client::{Profile, StatusClassifier};
/// use palisade_core::transport::MockTransport;
/// use palisade_core::{Call, Client, Operation, Replay, Transport};
///
/// static BUCKET: Bucket = Bucket { name: "all", units: 10, per: Duration::from_secs(1), burst: 10 };
/// static PING: Operation = Operation {
///     provider: "acme",
///     name: "ping",
///     url_template: "/ping",
///     replay: Replay::Safe,
///     bucket: &BUCKET,
///     also: &[],
///     cost: 1,
///     attempt_timeout: Duration::from_secs(10),
///     overall_timeout: Duration::from_secs(30),
///     body_bytes_max: 1024,
/// };
///
/// let mut provider = MockTransport::new();
/// provider
///     .expect_send()
///     .withf(|request| request.headers()["authorization"] == "Bearer key")
///     .times(1)
///     .returning(|_| Ok(http::Response::new("pong".into())));
/// let client = Client::builder(
///     Profile::new("acme", &["api.acme.test"], Arc::new(StatusClassifier)),
///     Arc::new(provider),
///     Arc::new(FixedCredential::new(&Scheme::Bearer("key".into())).unwrap()),
/// )
/// .build()
/// .unwrap();
/// let request = http::Request::get("https://api.acme.test/ping")
///     .extension(Call::new(&PING, "connection".into(), "tenant".into()))
///     .body(Default::default())
///     .unwrap();
/// assert_eq!(client.send(request).await.unwrap().body(), "pong");
/// # });
/// ```
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Sends `request`; see the trait for what an implementation promises.
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>>;

    /// Tells whether it asks the [`crate::call::Leave`] of a request before each attempt, as the pipeline does.
    fn asks_leave(&self) -> bool {
        false
    }
}

/// Marks a request (in its extensions) whose answer's body nobody wants: a transport may throw it away, so that neither a
/// long one nor one that never ends changes what the answer's head has said.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a mark; there is nothing more to say")]
pub struct DiscardBody;

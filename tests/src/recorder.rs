//! A transport that remembers what was sent: how a test learns the secrets that only travel between hub and provider.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use palisade_core::{Result, Transport};
use reqwest::Url;

/// Sends over another transport and remembers. Clones share what is remembered.
#[derive(Clone)]
pub struct Recorder<T> {
    inner: T,
    sent: Arc<Mutex<Vec<Sent>>>,
}

/// A request that was sent.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "only tests use it")]
pub struct Sent {
    /// The path.
    pub path: String,
    /// The `Authorization` header.
    pub authorization: String,
    /// The fields of the form.
    pub form: BTreeMap<String, String>,
}

impl fmt::Debug for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sent").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for Recorder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<T> Recorder<T> {
    /// Remembers what is sent over `inner`.
    #[must_use]
    pub fn over(inner: T) -> Self {
        Self { inner, sent: Arc::default() }
    }

    /// Returns what was sent to a path, in order.
    ///
    /// # Panics
    /// When a test panicked while it looked.
    #[must_use]
    pub fn sent(&self, path: &str) -> Vec<Sent> {
        self.sent.lock().expect("nobody panics").iter().filter(|sent| sent.path == path).cloned().collect()
    }

    /// Returns everything that was sent, in order.
    ///
    /// # Panics
    /// When a test panicked while it looked.
    #[must_use]
    pub fn all(&self) -> Vec<Sent> {
        self.sent.lock().expect("nobody panics").clone()
    }
}

#[async_trait]
impl<T: Transport + fmt::Debug> Transport for Recorder<T> {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let form = std::str::from_utf8(request.body()).unwrap_or_default();
        let form = Url::parse(&format!("http://form/?{form}")).expect("a query");
        let sent = Sent {
            path: request.uri().path().to_owned(),
            authorization: header.unwrap_or_default().to_owned(),
            form: form.query_pairs().into_owned().collect(),
        };
        self.sent.lock().expect("nobody panics").push(sent);
        self.inner.send(request).await
    }
}

//! Where an emulator's deliveries go in a test, and the clock both sides read.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use palisade_core::Timestamp;
use palisade_core::webhook::RawDelivery;
use palisade_emulator::stripe::WebhookSender;
use palisade_emulator::{Clock, Poster};
use tokio::time::Instant;

/// Takes what an emulator posts, acknowledges it, and keeps it as deliveries. Clones are the same box.
#[derive(Clone, Default)]
pub struct PostBox(Arc<Mutex<Vec<RawDelivery>>>);

impl PostBox {
    /// Makes an empty box.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns what an emulator posts with.
    #[must_use]
    pub fn poster(&self) -> Poster {
        let own = self.clone();
        Arc::new(move |request| {
            own.put(request);
            Box::pin(std::future::ready(Some(Response::new(Bytes::new()))))
        })
    }

    /// Returns what the Stripe emulator posts with.
    #[must_use]
    pub fn sender(&self) -> WebhookSender {
        let own = self.clone();
        Arc::new(move |request| {
            own.put(request);
            Box::pin(std::future::ready(Some(200)))
        })
    }

    /// Takes all that came, in order.
    #[must_use]
    pub fn take(&self) -> Vec<RawDelivery> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, request: Request<Bytes>) {
        let (parts, body) = request.into_parts();
        let raw = RawDelivery { method: parts.method, url: parts.uri.to_string(), headers: parts.headers, body };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(raw);
    }
}

impl fmt::Debug for PostBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("PostBox").field("waiting", &waiting).finish()
    }
}

/// Makes a clock for an emulator that stands at `start` now and moves with tokio's time.
#[must_use]
pub fn clock_from(start: Timestamp) -> Clock {
    let origin = Instant::now();
    let start = UNIX_EPOCH + Duration::from_millis(u64::try_from(start.millis()).unwrap_or(0));
    Arc::new(move || start + origin.elapsed())
}

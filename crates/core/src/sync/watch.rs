//! Push channels that a provider ends by itself: how one is asked for, and when the next is due.
//!
//! The data and the requests only; [`crate::worker`] does the sending, by a job for each channel. A channel is made anew
//! before it ends rather than prolonged, so for a while two of them tell the same; that is what events are deduplicated
//! and runs are merged for.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Site;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::StreamName;
use crate::secret::Secret;

/// Describes the push channel of one stream.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "adapters write tables of it")]
pub struct WatchSpec {
    /// The stream whose changes are told.
    pub stream: &'static str,
    /// The longest the provider lets a channel live.
    pub lives_max: Duration,
    /// How often a new one is asked for, well before the old one ends.
    pub renew_every: Duration,
}

/// What a channel is asked for with.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct WatchAsk {
    /// The stream.
    pub stream: StreamName,
    /// A new name for the channel: random, never used before.
    pub channel: String,
    /// The `https` URL notifications go to, where the provider posts to one of ours.
    pub address: String,
    /// The endpoint's secret, from which the channel's own token is derived.
    pub secret: Secret,
}

/// Where the notifications of a connection's channels may be posted to: an endpoint of ours, seen from outside.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct WatchPlace {
    /// Its URL.
    pub address: String,
    /// Its secrets, in the order they are configured.
    pub secrets: Vec<Secret>,
}

/// A channel the provider has opened. Nothing of it is secret: a channel's token is derived from the endpoint's secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Watch {
    /// The stream.
    pub stream: StreamName,
    /// The channel's name, where it has one.
    pub channel: Option<String>,
    /// The provider's name of what is watched; with the channel it ends it.
    pub resource: Option<String>,
    /// When the provider ends it.
    pub expires_at: Option<Timestamp>,
}

impl Watch {
    /// Returns when the next channel should be asked for: `spec.renew_every` after this one was opened, and at the
    /// latest at half its life, so that the other half is left for renewals that fail.
    #[must_use]
    pub fn renew_at(&self, spec: &WatchSpec, opened_at: Timestamp) -> Timestamp {
        let regular = opened_at.plus(spec.renew_every);
        match self.expires_at {
            Some(end) => regular.min(end.minus(end.since(opened_at) / 2)),
            None => regular,
        }
    }

    /// Tells whether it tells nothing any more.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// The push-channel side of an adapter. All pure: requests out, answers in.
pub trait Watcher: Send + Sync {
    /// Returns the streams that can be watched.
    fn watches(&self) -> &'static [WatchSpec];

    /// Picks the secret of an endpoint that a channel of this stream is opened with: the one its notifications are
    /// verified by. `None` when the endpoint has none that fits: what came would be refused, so nothing is opened. The
    /// first one unless an adapter knows better.
    fn secret<'s>(&self, stream: &StreamName, secrets: &'s [Secret]) -> Option<&'s Secret> {
        let _ = stream;
        secrets.first()
    }

    /// Makes the request for a new channel.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] for a stream that cannot be watched, or settings the provider would refuse.
    fn watch(&self, site: &Site, ask: &WatchAsk) -> Result<http::Request<Bytes>>;

    /// Reads the answer.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Decode`] when it is not what the provider documents.
    fn watched(&self, ask: &WatchAsk, response: &http::Response<Bytes>) -> Result<Watch>;

    /// Makes the request that ends a channel. That it is gone already is no failure. Where a channel has no name of its
    /// own ([`Watch::channel`]), the new one took the place of the old, and only the last one is ever ended.
    ///
    /// # Errors
    /// As [`Watcher::watch`].
    fn unwatch(&self, site: &Site, watch: &Watch) -> Result<http::Request<Bytes>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a channel that lives shorter than expected is renewed after its end.
    #[test]
    fn a_channel_is_renewed_before_it_ends_however_short_its_life() {
        let day = Duration::from_secs(86_400);
        let spec = WatchSpec { stream: "s", lives_max: day * 7, renew_every: day };
        let begin = Timestamp::from_seconds(1_000_000);
        let at =
            |expires_at| Watch { stream: "s".into(), channel: None, resource: None, expires_at }.renew_at(&spec, begin);
        assert_eq!(at(None), begin.plus(day));
        assert_eq!(at(Some(begin.plus(day * 7))), begin.plus(day));
        assert_eq!(at(Some(begin.plus(Duration::from_secs(3_600)))), begin.plus(Duration::from_secs(1_800)));
        assert_eq!(at(Some(begin.minus(day))), begin.minus(day), "one that is over is due at once");
    }
}

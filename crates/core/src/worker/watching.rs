//! Push channels as stored work: each has one job, which holds the open channel and comes when the next one is due.
//!
//! The next channel is opened before the one before it is ended, and both in an attempt of their own: a worker lost in
//! between leaves a channel nobody knows, which the provider ends by itself, and never a stream without one. What
//! happens to a stream while it has none is found by its scheduled runs.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::StreamName;
use crate::provider::Provider;
use crate::secret::Secret;
use crate::store::{Connection, ConnectionState, NewJob, RunMode, StreamKey, Work};
use crate::sync::watch::{Watch, WatchAsk, WatchPlace, WatchSpec, Watcher};
use crate::webhook::hmac::to_lower_hex;

use super::Inner;
use super::job::{Finish, Place, Stop};
use super::schedule::{SYNC_ATTEMPTS_MAX, When, owned, phase, stream_key};

/// The soonest renewal, for a provider that opens channels already over.
const RENEWAL_WAIT_MIN: Duration = Duration::from_secs(60);
/// Renewals come earlier by up to this part of their wait, so that those of a hub's connections do not stay together.
const SPREAD: u64 = 8;

/// How a stream's push channel stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct WatchStatus {
    /// The stream.
    pub stream: StreamName,
    /// The channel opened last; it may be over.
    pub open: Option<Watch>,
    /// When the next one is asked for; `None` when no job is there to do it.
    pub next_at: Option<Timestamp>,
    /// Why the last attempt to open one failed, while none succeeded after it; or that nobody asks for one any more.
    pub failing: Option<String>,
}

/// What is said of a channel whose job was given up or lost, until the look over all schedules makes another.
const NOBODY_ASKS: &str = "nobody asks for it any more, until the schedules are looked over within the hour";

/// A stream that can be watched, and where its notifications go.
struct Watched<'a> {
    watcher: &'a dyn Watcher,
    spec: &'static WatchSpec,
    address: String,
    secret: Secret,
}

fn unique(key: &StreamKey) -> String {
    format!("watch/{}/{}", key.connection, key.stream)
}

impl Inner {
    /// Returns the streams of a connection that are watched: those the provider tells of, where an endpoint takes it.
    fn watched<'a>(&self, provider: &'a dyn Provider, connection: &Connection) -> Vec<Watched<'a>> {
        let Some(watcher) = provider.watcher() else { return Vec::new() };
        let places = (self.watch_places)(connection);
        let placed = |spec: &'static WatchSpec| {
            let fit = |place: &WatchPlace| {
                let secret = watcher.secret(&spec.stream.into(), &place.secrets)?.clone();
                Some(Watched { watcher, spec, address: place.address.clone(), secret })
            };
            places.iter().find_map(fit)
        };
        watcher.watches().iter().filter_map(placed).collect()
    }

    fn watch_job(&self, key: StreamKey, open: Option<Watch>, run_at: Timestamp) -> NewJob {
        let unique = Some(unique(&key));
        let attempts_max = SYNC_ATTEMPTS_MAX;
        NewJob {
            work: Work::Watch { key, open },
            lane: None,
            group: None,
            tenant: None,
            unique,
            priority: 0,
            run_at,
            attempts_max,
        }
    }

    /// Makes the jobs of a connection's channels: all of them for now, or those that are missing.
    pub(super) async fn watch_jobs(&self, connection: &Connection, anew: bool) -> Result<Vec<NewJob>> {
        let now = self.clock.now();
        let statuses = self.watch_statuses(connection).await?;
        let due = statuses.into_iter().filter(|status| anew || status.next_at.is_none());
        Ok(due.map(|status| self.watch_job(stream_key(&connection.id, status.stream.as_str()), None, now)).collect())
    }

    /// Reads how a connection's channels stand.
    pub(super) async fn watch_statuses(&self, connection: &Connection) -> Result<Vec<WatchStatus>> {
        let Some(plugged) = self.providers.get(connection.provider.as_str()) else { return Ok(Vec::new()) };
        let watched = self.watched(plugged.provider.as_ref(), connection);
        if watched.is_empty() {
            return Ok(Vec::new());
        }
        let keys = watched.iter().map(|watched| unique(&stream_key(&connection.id, watched.spec.stream))).collect();
        let live = self.store.live_jobs(keys).await?;
        // Of another connection no channel is asked for, and nothing fails.
        let unasked = (connection.state == ConnectionState::Active).then_some(NOBODY_ASKS);
        let statuses = watched.iter().zip(live).map(|(watched, live)| {
            let stream = watched.spec.stream.into();
            let Some(live) = live else {
                let failing = unasked.map(str::to_owned);
                return WatchStatus { stream, open: None, next_at: None, failing };
            };
            let open = if let Work::Watch { open, .. } = live.work { open } else { None };
            WatchStatus { stream, open, next_at: Some(live.run_at), failing: live.reason }
        });
        Ok(statuses.collect())
    }

    /// Opens the next channel of a stream, ends the one before it, and leaves the job of the one after it.
    pub(super) async fn watch(&self, key: StreamKey, open: Option<Watch>) -> Result<Finish, Stop> {
        let place = self.place(&key.connection).await?;
        let provider = place.plugged.provider.as_ref();
        match place.connection.state {
            ConnectionState::Active => {}
            // Its turn comes again, in case it is active by then.
            ConnectionState::Paused | ConnectionState::NeedsReconnect { .. } => {
                let at = self.clock.now().plus(self.settings.run_wait_max());
                return Ok(Finish::followed_by(owned([self.watch_job(key, open, at)], &place.connection)));
            }
            // Its credential is gone: nobody can end the channel before the provider does.
            ConnectionState::Disconnected => return Ok(Finish::followed_by(Vec::new())),
        }
        let mut watched = self.watched(provider, &place.connection);
        watched.retain(|watched| watched.spec.stream == key.stream.as_str());
        let Some(watched) = watched.pop() else {
            // It is not watched any more: what is open tells somebody who does not listen.
            if let (Some(watcher), Some(open)) = (provider.watcher(), &open) {
                self.unwatch(&place, watcher, open).await;
            }
            return Ok(Finish::followed_by(Vec::new()));
        };
        let asked_at = self.clock.now();
        // Read before a channel is opened: one whose job cannot be written would tell for a week what nobody knows of.
        let mut follow = Vec::new();
        if open.as_ref().is_none_or(|before| before.is_over(asked_at)) {
            // Nobody told of what happened while no channel was open.
            let known = self.store.stream(key.clone()).await?;
            follow.extend(known.cursor.map(|_| self.sync_job(&key, RunMode::Incremental, When::Now)));
        }
        let next = match self.ask(&place, &watched).await {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(connection = %key.connection, stream = %key.stream, %error, "no push channel was opened");
                self.note_refusal(&key.connection, &error).await?;
                return Err(error.into());
            }
        };
        if let Some(before) = open.as_ref().filter(|before| before.channel.is_some() && before.channel != next.channel)
        {
            self.unwatch(&place, watched.watcher, before).await;
        }
        let at = renewal(&next, watched.spec, asked_at, phase(&key.connection));
        follow.push(self.watch_job(key, Some(next), at));
        Ok(Finish::followed_by(owned(follow, &place.connection)))
    }

    async fn ask(&self, place: &Place<'_>, watched: &Watched<'_>) -> Result<Watch> {
        let mut name = [0; 16];
        self.random.fill(&mut name);
        let ask = WatchAsk {
            stream: watched.spec.stream.into(),
            channel: to_lower_hex(&name),
            address: watched.address.clone(),
            secret: watched.secret.clone(),
        };
        let request = watched.watcher.watch(&place.site, &ask)?;
        let response = place.plugged.transport.send(request).await?;
        watched.watcher.watched(&ask, &response)
    }

    /// Ends a channel. One that cannot be ended ends by itself.
    async fn unwatch(&self, place: &Place<'_>, watcher: &dyn Watcher, open: &Watch) {
        if open.is_over(self.clock.now()) {
            return;
        }
        let ended = match watcher.unwatch(&place.site, open) {
            Ok(request) => place.plugged.transport.send(request).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::info!(connection = %place.connection.id, %error, "an old push channel could not be ended");
        }
    }
}

/// Returns when the channel after `open` is asked for.
fn renewal(open: &Watch, spec: &WatchSpec, opened_at: Timestamp, phase: u64) -> Timestamp {
    let wait = open.renew_at(spec, opened_at).since(opened_at);
    let most = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) / SPREAD;
    let earlier = Duration::from_millis(if most == 0 { 0 } else { phase % most });
    opened_at.plus(wait.saturating_sub(earlier).max(RENEWAL_WAIT_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a channel already over is asked for again at once, or connections that began together stay together.
    #[test]
    fn renewals_come_in_time_spread_and_never_in_a_tight_circle() {
        let hour = Duration::from_secs(3_600);
        let spec = WatchSpec { stream: "s", lives_max: hour * 48, renew_every: hour * 24 };
        let begin = Timestamp::from_seconds(1_000_000);
        let at = |life: Option<Duration>, phase| {
            let expires_at = life.map(|life| begin.plus(life));
            let open = Watch { stream: "s".into(), channel: None, resource: None, expires_at };
            renewal(&open, &spec, begin, phase).since(begin)
        };
        assert_eq!(at(None, 0), hour * 24);
        assert_eq!(at(Some(hour * 48), 0), hour * 24);
        assert_eq!(at(Some(hour * 2), 0), hour);
        assert_eq!(at(Some(Duration::ZERO), 7), RENEWAL_WAIT_MIN);
        for phase in [1, 12_345_678, u64::MAX] {
            let early = at(None, phase);
            assert!(early < hour * 24 && early > hour * 21, "{early:?}");
        }
        assert_ne!(at(None, 12_345_678), at(None, 4_999_999));
    }
}

//! Push channels over weeks: what a worker keeps open by itself, and what comes through.

use std::time::Duration;

use palisade_core::clock::Clock;
use palisade_core::store::Queue;
use palisade_core::sync::watch::WatchPlace;
use palisade_core::webhook::KeysWanted;
use palisade_core::worker::WorkerSettings;
use palisade_core::{Provider, Secret};
use palisade_emulator::google::{GoogleConfig, Subscription};
use palisade_google::{GoogleProvider, GoogleSource, GoogleWebhook};
use palisade_testkit::copy::take_in;
use palisade_testkit::{EmulatorTransport, PostBox};
use serde_json::json;

use super::emulated::{ADA, SCOPES, World, builder, client};

const TOPIC: &str = "projects/p/topics/gmail";
const HOOK: &str = "https://hooks.example/webhooks/google";
const ACCOUNT: &str = "push@p.iam.gserviceaccount.com";
const KEY: &str = "a key of 16 characters or more";

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

struct Renewed {
    world: World,
    posted: PostBox,
    provider: GoogleProvider,
    secrets: Vec<Secret>,
}

impl Renewed {
    /// A world whose copy is only brought up to date by what Google tells: no run comes by schedule.
    async fn new() -> Self {
        let posted = PostBox::new();
        let config = GoogleConfig { poster: Some(posted.poster()), ..GoogleConfig::default() };
        let mut world = World::with(config, 100, GoogleSource::new(), SCOPES);
        world.emulator.subscribe(Subscription {
            name: "projects/p/subscriptions/s".to_owned(),
            topic: TOPIC.to_owned(),
            url: HOOK.to_owned(),
            audience: HOOK.to_owned(),
            email: ACCOUNT.to_owned(),
        });
        let push = json!({ "audience": HOOK, "email": ACCOUNT, "topic": TOPIC });
        let secrets = vec![Secret::new(push.to_string()), KEY.into()];
        let place = WatchPlace { address: HOOK.to_owned(), secrets: secrets.clone() };
        let pipeline = client(&world.emulator, &world.door, &world.clock, SCOPES);
        let settings =
            WorkerSettings { incremental_every: DAY * 60, full_every: DAY * 60, ..WorkerSettings::default() };
        world.worker = builder(&world.store, &world.clock, pipeline, GoogleSource::new())
            .watch_places(move |_| vec![place.clone()])
            .settings(settings)
            .build()
            .unwrap();
        world.emulator.populate(ADA, 3, 3);
        world.connect().await;
        let webhook = GoogleWebhook::new().keys_at("https://www.googleapis.com/oauth2/v3/certs");
        let renewed = Self { world, posted, provider: GoogleProvider::new().verifying(webhook), secrets };
        renewed.work().await;
        renewed
    }

    /// Takes in what was posted, as the hub does, and works until nothing is due.
    async fn work(&self) {
        let worker = &self.world.worker;
        loop {
            self.world.emulator.drain_webhooks().await;
            let taken = self.take_in().await;
            let worked = worker.step(Queue::Events).await.unwrap() + worker.step(Queue::Background).await.unwrap();
            if taken + worked == 0 {
                return;
            }
        }
    }

    async fn take_in(&self) -> usize {
        let posted = self.posted.take();
        let now = self.world.clock.now();
        let count = posted.len();
        for raw in posted {
            let webhook = self.provider.webhook().unwrap();
            if let Some(keys) = webhook.published_keys(&raw).filter(|keys| keys.stale(now)) {
                let transport = EmulatorTransport::new(self.world.emulator.clone());
                keys.refresh(&transport, now, KeysWanted::Stale).await.unwrap();
            }
            let provider = &self.provider;
            take_in(self.world.store.as_ref(), &self.world.worker, provider, raw, &self.secrets, now).await;
        }
        count
    }

    #[track_caller]
    fn is_told(&self, hour: u64) {
        assert!(!self.world.emulator.channels().is_empty(), "hour {hour}: no channel to the calendar lives");
        assert!(self.world.emulator.watched(ADA), "hour {hour}: the mailbox is not watched");
    }

    fn asked(&self, route: &str) -> u64 {
        self.world.emulator.ledger().requests_by_route.get(route).copied().unwrap_or(0)
    }
}

/// Fails when a channel is renewed at its end instead of at half its life, when the one before it is ended first, when
/// the mailbox's own watch is ended after its renewal, or when old channels are left open.
#[tokio::test(start_paused = true)]
async fn over_three_weeks_no_moment_is_without_a_live_channel() {
    let renewed = Renewed::new().await;
    let emulator = &renewed.world.emulator;
    for hour in 0..21 * 24 {
        renewed.is_told(hour);
        tokio::time::advance(HOUR).await;
        // Before the worker has its turn: a channel that is renewed only now was missing until now.
        renewed.is_told(hour + 1);
        if hour % 5 == 0 {
            emulator.receive(ADA, &format!("news {hour}"), "x").unwrap();
            let day = json!({ "start": { "date": "2026-01-01" }, "end": { "date": "2026-01-02" } });
            emulator.event(ADA, Some(&format!("hour{hour}")), &day).unwrap();
        }
        renewed.work().await;
        assert_eq!(emulator.channels().len(), 1, "hour {hour}: the one before it was ended");
        if hour % 5 == 0 {
            renewed.world.is_in_step(&format!("hour {hour}")).await;
        }
    }
    let calendar = renewed.asked("POST /calendar/v3/calendars/{calendar}/events/watch");
    let mailbox = renewed.asked("POST /gmail/v1/users/{user}/watch");
    assert!((6..=8).contains(&calendar), "{calendar} channels in three weeks");
    assert!((21..=25).contains(&mailbox), "{mailbox} watches in three weeks");
    assert_eq!(renewed.asked("POST /gmail/v1/users/{user}/stop"), 0, "it would end the renewed watch too");
}

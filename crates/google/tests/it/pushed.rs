//! What Google posts by itself: verified with its published keys or the channel's token, and what it leads to.

use std::time::Duration;

use http::Request;
use palisade_core::clock::Clock;
use palisade_core::store::RunMode;
use palisade_core::sync::watch::{Watch, WatchAsk, Watcher};
use palisade_core::sync::{Site, Source};
use palisade_core::webhook::{Event, KeysWanted, Verified, Webhook};
use palisade_core::{Secret, Transport};
use palisade_emulator::WebhookFaults;
use palisade_emulator::google::{GoogleConfig, Subscription};
use palisade_google::sync::{EVENTS, MESSAGES};
use palisade_google::webhook::{CALENDAR_CHANGED, MAIL_CHANGED};
use palisade_google::{GoogleSource, GoogleWebhook};
use palisade_testkit::{EmulatorTransport, PostBox};
use serde_json::json;

use super::emulated::{ADA, SCOPES, World};

const TOPIC: &str = "projects/p/topics/gmail";
const HOOK: &str = "https://hooks.example/google";
const ACCOUNT: &str = "push@p.iam.gserviceaccount.com";
const KEY: &str = "a key of 16 characters or more";

fn subscription(url: &str, audience: &str, email: &str) -> Subscription {
    Subscription {
        name: format!("projects/p/subscriptions/{}", audience.len() + email.len()),
        topic: TOPIC.to_owned(),
        url: url.to_owned(),
        audience: audience.to_owned(),
        email: email.to_owned(),
    }
}

fn secrets() -> Vec<Secret> {
    vec![Secret::new(json!({ "audience": HOOK, "email": ACCOUNT }).to_string()), KEY.into()]
}

struct Pushed {
    world: World,
    posted: PostBox,
    webhook: GoogleWebhook,
    source: GoogleSource,
}

impl Pushed {
    async fn new(watch_life: Duration) -> Self {
        let posted = PostBox::new();
        let config = GoogleConfig { poster: Some(posted.poster()), watch_life, ..GoogleConfig::default() };
        let source = GoogleSource::new().notifying(TOPIC);
        let world = World::with(config, 100, source.clone(), SCOPES);
        world.emulator.subscribe(subscription(HOOK, HOOK, ACCOUNT));
        let webhook = GoogleWebhook::new().keys_at("https://www.googleapis.com/oauth2/v3/certs");
        Self { world, posted, webhook, source }
    }

    fn site(&self) -> Site {
        Site {
            base_url: "https://www.googleapis.com".into(),
            connection: "conn_1".into(),
            tenant: "tenant_1".into(),
            account: Some(ADA.to_owned()),
            page_size: 100,
        }
    }

    fn ask(&self, stream: &str, channel: &str) -> WatchAsk {
        WatchAsk { stream: stream.into(), channel: channel.into(), address: HOOK.into(), secret: KEY.into() }
    }

    async fn watch(&self, stream: &str, channel: &str) -> Watch {
        let ask = self.ask(stream, channel);
        let request = self.source.watch(&self.site(), &ask).unwrap();
        let response = self.send(request).await;
        self.source.watched(&ask, &response).unwrap()
    }

    async fn send(&self, mut request: Request<bytes::Bytes>) -> http::Response<bytes::Bytes> {
        let token = self.world.emulator.access_token(ADA, SCOPES);
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let response = self.world.door.send(request).await.unwrap();
        assert!(response.status().is_success(), "{response:?}");
        response
    }

    /// Takes what was posted, as the hub does: keys are fetched when they are missing.
    async fn events(&self) -> (Vec<Event>, usize) {
        self.world.emulator.drain_webhooks().await;
        let (mut taken, mut refused) = (Vec::new(), 0);
        for raw in self.posted.take() {
            let now = self.world.clock.now();
            if let Some(keys) = self.webhook.published_keys(&raw).filter(|keys| keys.stale(now)) {
                let transport = EmulatorTransport::new(self.world.emulator.clone());
                keys.refresh(&transport, now, KeysWanted::Stale).await.unwrap();
            }
            match Verified::check(&self.webhook, raw, &secrets(), now) {
                Ok(verified) => taken.extend(self.webhook.events(&verified).unwrap().events),
                Err(_) => refused += 1,
            }
        }
        (taken, refused)
    }

    fn kinds(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.kind.as_str()).collect()
    }
}

const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Fails when a true notification is refused, a forged or old one passes, or a repeated one is another event.
#[tokio::test(start_paused = true)]
async fn true_notifications_lead_to_the_stream_and_others_are_refused() {
    let pushed = Pushed::new(WEEK).await;
    pushed.watch(MESSAGES, "unused").await;
    pushed.watch(EVENTS, "channel-1").await;
    let (events, _) = pushed.events().await;
    assert_eq!(Pushed::kinds(&events), [MAIL_CHANGED], "the first of a mailbox; a channel's `sync` is none");
    assert_eq!(events[0].account.as_deref(), Some(ADA));

    let faults = WebhookFaults { duplicate: 1.0, forge: 1.0, replay: 1.0, ..WebhookFaults::default() };
    pushed.world.emulator.faults().webhooks(faults);
    tokio::time::advance(Duration::from_secs(2)).await;
    pushed.world.emulator.receive(ADA, "hi", "x").unwrap();
    let (events, refused) = pushed.events().await;
    assert_eq!((Pushed::kinds(&events), refused), (vec![MAIL_CHANGED; 2], 2), "one forged, one old");
    assert_eq!(events[0].id, events[1].id, "sent twice, one event");
    assert_eq!(pushed.source.due(&events[0]), [MESSAGES.into()]);

    pushed
        .world
        .emulator
        .event(ADA, None, &json!({ "start": { "date": "2026-01-01" }, "end": { "date": "2026-01-02" } }))
        .unwrap();
    let (events, refused) = pushed.events().await;
    assert_eq!((Pushed::kinds(&events), refused), (vec![CALENDAR_CHANGED; 2], 1));
    assert_eq!(events[0].account.as_deref(), Some(ADA));
    assert_eq!(pushed.source.due(&events[0]), [EVENTS.into()]);
    assert_eq!(pushed.world.emulator.ledger().webhooks.forged, 2);
}

/// Fails when a token of another audience or account passes: any Google account may be given any audience.
#[tokio::test(start_paused = true)]
async fn a_true_token_of_somebody_elses_subscription_is_refused() {
    let pushed = Pushed::new(WEEK).await;
    pushed.world.emulator.subscribe(subscription(HOOK, "https://other.example", ACCOUNT));
    pushed.world.emulator.subscribe(subscription(HOOK, HOOK, "eve@other.iam.gserviceaccount.com"));
    pushed.watch(MESSAGES, "unused").await;
    let (events, refused) = pushed.events().await;
    assert_eq!((events.len(), refused), (1, 2));
}

/// Fails when a watch is believed to outlive its end, or is not renewed before it.
#[tokio::test(start_paused = true)]
async fn a_watch_ends_by_itself_and_its_successor_tells_on() {
    let pushed = Pushed::new(Duration::from_secs(3_600)).await;
    let opened = pushed.world.clock.now();
    let mail = pushed.watch(MESSAGES, "unused").await;
    let calendar = pushed.watch(EVENTS, "channel-1").await;
    assert_eq!(mail.expires_at, Some(opened.plus(Duration::from_secs(3_600))));
    assert_eq!(calendar.expires_at, Some(opened.plus(WEEK)));
    for watch in [&mail, &calendar] {
        let spec = pushed.source.watches().iter().find(|spec| watch.stream == spec.stream.into()).unwrap();
        let due = watch.renew_at(spec, opened);
        assert!(due < watch.expires_at.unwrap() && due > opened, "{due:?}");
    }
    pushed.events().await;
    tokio::time::advance(Duration::from_secs(3_601)).await;
    pushed.world.emulator.receive(ADA, "hi", "x").unwrap();
    assert!(pushed.events().await.0.is_empty(), "the mailbox's watch is over");
    pushed.watch(MESSAGES, "unused").await;
    assert_eq!(Pushed::kinds(&pushed.events().await.0), [MAIL_CHANGED], "and begins again");

    // A calendar's second channel comes before the first one ends; for a while both tell.
    let whole_day = json!({ "start": { "date": "2026-01-01" }, "end": { "date": "2026-01-02" } });
    let second = pushed.watch(EVENTS, "channel-2").await;
    assert_eq!(second.resource, calendar.resource, "one resource, two channels");
    pushed.world.emulator.event(ADA, None, &whole_day).unwrap();
    let (events, refused) = pushed.events().await;
    assert_eq!((events.len(), refused), (2, 0));
    assert_ne!(events[0].id, events[1].id);
    pushed.send(pushed.source.unwatch(&pushed.site(), &calendar).unwrap()).await;
    assert_eq!(pushed.world.emulator.channels(), ["channel-2"]);
    pushed.world.emulator.event(ADA, None, &whole_day).unwrap();
    assert_eq!(pushed.events().await.0.len(), 1);
    tokio::time::advance(WEEK).await;
    pushed.world.emulator.event(ADA, None, &whole_day).unwrap();
    assert!(pushed.events().await.0.is_empty(), "it has ended by itself");
    pushed.send(pushed.source.unwatch(&pushed.site(), &mail).unwrap()).await;
}

/// Fails when the copy is not in step once a notification's run is over.
#[tokio::test(start_paused = true)]
async fn a_notification_brings_the_copy_up_to_date() {
    let pushed = Pushed::new(WEEK).await;
    let world = &pushed.world;
    world.connect().await;
    world.settle().await;
    pushed.watch(MESSAGES, "unused").await;
    pushed.watch(EVENTS, "channel-1").await;
    for seed in 0..6 {
        tokio::time::advance(Duration::from_secs(5)).await;
        world.emulator.mutate(ADA, 8, seed);
        for event in pushed.events().await.0 {
            for stream in pushed.source.due(&event) {
                world.worker.sync_now(&"conn_1".into(), &stream, RunMode::Incremental).await.unwrap();
            }
        }
        world.settle().await;
        world.is_in_step(&format!("seed {seed}")).await;
    }
}

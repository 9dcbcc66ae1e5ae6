//! Whole stories against the emulated Slack, in memory, under the real pipeline, worker and merge. Time is tokio's, paused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use http::{Request, Response};
use palisade_core::auth::{FixedCredential, Scheme};
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::memory::MemoryStore;
use palisade_core::store::{
    Connection, ConnectionState, Connections, Inbox, NewDelivery, NewEvent, Queue, Records, RunMode, StreamKey,
};
use palisade_core::webhook::{RawDelivery, Verified, Webhook};
use palisade_core::worker::{Handled, Worker, handler};
use palisade_core::{
    Client, Clock, ConnectionId, Error, ErrorKind, Outcome, Provider, Random, Secret, Timestamp, Transport,
};
use palisade_emulator::slack::{Limits, OF_READING, Seed, Slack as Emulator, SlackConfig, Workspace};
use palisade_emulator::{Cut, Fault};
use palisade_slack::client::NewMessage;
use palisade_slack::{HistoryRule, Slack, SlackProvider, SlackSource, SlackWebhook, TypedEvent, webhook};
use serde_json::{Value, json};

const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const HOOK: &str = "https://app.example/webhooks/slack";
const CONNECTION: &str = "conn_1";
const SCOPES: [&str; 12] = [
    "chat:write",
    "channels:read",
    "groups:read",
    "im:read",
    "mpim:read",
    "channels:history",
    "groups:history",
    "im:history",
    "im:write",
    "mpim:history",
    "users:read",
    "users:read.email",
];

/// The emulated Slack without a socket, for whatever host a request names.
struct House(Emulator);

#[async_trait]
impl Transport for House {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let broken = |why| Err(Error::new(ErrorKind::Transport, why).with_outcome(Outcome::Unknown));
        match self.0.handle(request).await {
            Ok(response) => Ok(response),
            Err(Cut::Reset) => broken("reset"),
            Err(Cut::CutBody { .. }) => broken("cut"),
            Err(Cut::Hang) => std::future::pending().await,
        }
    }
}

struct World {
    emulator: Emulator,
    slack: Slack,
    store: Arc<MemoryStore>,
    worker: Worker,
    clock: Arc<TokioClock>,
    /// What Slack posted and nobody took yet.
    posted: Arc<Mutex<Vec<RawDelivery>>>,
    /// The types of events handlers were given.
    handled: Arc<Mutex<Vec<String>>>,
    secret: Secret,
}

impl World {
    fn new(limits: Limits, source: SlackSource) -> Self {
        let clock = Arc::new(TokioClock::starting_at(BEGIN));
        let posted = Arc::new(Mutex::new(Vec::new()));
        let (time, mailbox) = (clock.clone(), posted.clone());
        let config = SlackConfig {
            seed: 7,
            workspaces: vec![Workspace::new("T1", "Tea")],
            limits,
            clock: Arc::new(move || UNIX_EPOCH + Duration::from_millis(time.now().millis().unsigned_abs())),
            poster: Some(Arc::new(move |request: Request<Bytes>| {
                let (parts, body) = request.into_parts();
                let raw =
                    RawDelivery { method: parts.method, url: parts.uri.to_string(), headers: parts.headers, body };
                mailbox.lock().unwrap().push(raw);
                Box::pin(async { Some(Response::new(Bytes::new())) })
            })),
            ..SlackConfig::default()
        };
        let secret = Secret::from(config.signing_secret.as_str());
        let emulator = Emulator::offline(config);
        let token = emulator.install_forever(&SCOPES);
        let provider = Arc::new(SlackProvider::new().copying(source));
        let random = Arc::new(SeededRandom::new(7));
        let client = Client::builder(
            provider.profile(),
            Arc::new(House(emulator.clone())),
            Arc::new(FixedCredential::new(&Scheme::Bearer(token.into())).unwrap()),
        )
        .clock(clock.clone())
        .random(random.clone())
        .build()
        .unwrap();
        let client: Arc<dyn Transport> = Arc::new(client);
        let (store, handled) = (Arc::new(MemoryStore::new()), Arc::new(Mutex::new(Vec::new())));
        let seen = handled.clone();
        let note = handler(move |event, _| {
            seen.lock().unwrap().push(event.event.kind.clone());
            Box::pin(async { Handled::Done })
        });
        let worker = Worker::builder(store.clone(), clock.clone(), random)
            .provider(provider, client.clone())
            .on("slack", "message", note)
            .build()
            .unwrap();
        let slack = Slack::new(client, CONNECTION, "tenant_1");
        Self { emulator, slack, store, worker, clock, posted, handled, secret }
    }

    /// A workspace with people and channels, copied once.
    async fn copied(source: SlackSource) -> Self {
        let world = Self::new(Limits::default(), source);
        world.emulator.populate(&Seed { users: 12, channels: 3, private_channels: 1, messages_per_channel: 15 });
        world.emulator.subscribe(HOOK, &["*"]);
        let connection = Connection {
            id: CONNECTION.into(),
            tenant: "tenant_1".into(),
            provider: "slack".into(),
            environment: Default::default(),
            account: Some("T1".into()),
            base_url: None,
            state: ConnectionState::Active,
            created_at: BEGIN,
        };
        world.store.put_connection(connection.clone()).await.unwrap();
        world.worker.connect(&connection).await.unwrap();
        world.settle().await;
        world
    }

    async fn settle(&self) {
        while self.worker.step(Queue::Events).await.unwrap() + self.worker.step(Queue::Background).await.unwrap() > 0 {}
    }

    /// Takes what Slack has posted until now.
    async fn mail(&self) -> Vec<RawDelivery> {
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::mem::take(&mut *self.posted.lock().unwrap())
    }

    fn verified(&self, raw: RawDelivery) -> Verified {
        Verified::check(&SlackWebhook, raw, std::slice::from_ref(&self.secret), self.clock.now()).unwrap()
    }

    /// Receives deliveries as the hub does.
    async fn receive(&self, deliveries: Vec<RawDelivery>) {
        for raw in deliveries {
            let verified = self.verified(raw);
            let parsed = SlackWebhook.events(&verified).unwrap();
            let events = parsed.events.into_iter().map(|event| NewEvent {
                subscription: SlackWebhook.subscription(&event),
                wanted: self.worker.wants("slack", &event.kind),
                priority: 0,
                id: event.id,
                kind: event.kind,
                account: event.account,
                created: event.created,
                ordering_key: event.ordering_key,
                payload: Some(event.payload),
            });
            let delivery = NewDelivery {
                endpoint: "slack".into(),
                connection: CONNECTION.into(),
                provider: "slack".into(),
                received_at: self.clock.now(),
                headers: Vec::new(),
                body: verified.body().clone(),
                events: events.collect(),
            };
            self.store.append(vec![delivery]).await.unwrap();
        }
        self.settle().await;
    }

    async fn run(&self, mode: RunMode) {
        for stream in ["users", "conversations", "messages"] {
            self.worker.sync_now(&ConnectionId::new(CONNECTION), &stream.into(), mode).await.unwrap();
        }
        self.settle().await;
    }

    async fn copy(&self, stream: &str) -> BTreeMap<String, Value> {
        let key = StreamKey { connection: CONNECTION.into(), stream: stream.into() };
        let feed = self.store.changes(key, 0, 10_000).await.unwrap();
        let live = feed.into_iter().filter_map(|entry| Some((entry.record.id.as_str().to_owned(), entry.record.data?)));
        live.map(|(id, data)| (id, serde_json::from_slice(&data).unwrap())).collect()
    }

    /// Compares the copy with the provider's own state, less what only shows who read it or counts a thread.
    async fn check_equal(&self, why: &str) {
        for stream in ["users", "conversations", "messages"] {
            let mut truth = self.emulator.truth(stream);
            for value in truth.values_mut() {
                let begins = stream == "messages" && value["thread_ts"] == value["ts"];
                let fields = value.as_object_mut().unwrap();
                fields.retain(|name, _| !(OF_READING.contains(&name.as_str()) || begins && name == "thread_ts"));
            }
            let copy = self.copy(stream).await;
            assert_eq!(copy.keys().collect::<Vec<_>>(), truth.keys().collect::<Vec<_>>(), "{why}: {stream}");
            for (id, value) in truth {
                assert_eq!(copy[&id], value, "{why}: {stream} {id}");
            }
        }
    }
}

/// Fails when an event's object and a list's are stored as different bytes, or a reordered or repeated delivery leaves
/// something of what happened out.
#[tokio::test(start_paused = true)]
async fn a_copy_equals_the_workspace_however_its_news_arrive() {
    for seed in 1..=3 {
        let world = World::copied(SlackSource::new()).await;
        world.check_equal("the first copy").await;
        let random = SeededRandom::new(seed);
        let mut dice = Dice(SeededRandom::new(seed));
        for round in 0..4 {
            for _ in 0..10 {
                world.emulator.random_mutation(&mut dice);
                tokio::time::sleep(Duration::from_millis((random.unit() * 900.0) as u64)).await;
            }
            let mut mail = world.mail().await;
            let again: Vec<_> = mail.iter().filter(|_| random.unit() < 0.2).cloned().collect();
            mail.extend(again);
            for at in (1..mail.len()).rev() {
                mail.swap(at, (random.unit() * (at + 1) as f64) as usize);
            }
            world.receive(mail).await;
            world.check_equal(&format!("seed {seed}, round {round}")).await;
            tokio::time::sleep(Duration::from_secs(90)).await;
        }
        for _ in 0..10 {
            world.emulator.random_mutation(&mut dice);
        }
        drop(world.mail().await);
        world.run(RunMode::Full).await;
        world.check_equal(&format!("seed {seed}, news that never came")).await;
        let ledger = world.emulator.ledger();
        assert_eq!(ledger.throttles, 0, "{:?}", ledger.throttles_by_reason);
    }
}

/// The emulator draws from `rand`'s generators; this one repeats by its seed.
struct Dice(SeededRandom);

impl rand::TryRng for Dice {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(to);
        Ok(())
    }
}

/// Fails when a channel that changes, moves or goes is not followed, or the app taken off is not noticed.
#[tokio::test(start_paused = true)]
async fn channels_are_followed_until_the_app_is_taken_off() {
    let world = World::copied(SlackSource::new()).await;
    let channels: Vec<String> = world.emulator.truth("conversations").into_keys().collect();
    let step = async |what: &str| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mail = world.mail().await;
        assert!(!mail.is_empty(), "{what}");
        world.receive(mail).await;
        world.check_equal(what).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    };
    assert!(world.emulator.rename_channel(&channels[0], "renamed"));
    step("renamed").await;
    assert!(world.emulator.archive_channel(&channels[1], true));
    step("archived").await;
    assert!(world.emulator.archive_channel(&channels[1], false));
    step("brought back").await;
    let person = world.emulator.add_user("Ada");
    step("somebody new").await;
    assert!(world.emulator.invite(&channels[0], &person));
    step("joined").await;
    assert!(world.emulator.deactivate_user(&person));
    step("deactivated").await;
    world.emulator.change_channel_id(&channels[0]).unwrap();
    step("another id").await;
    assert!(world.emulator.delete_channel(&channels[2]));
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.receive(world.mail().await).await;
    world.run(RunMode::Full).await;
    world.check_equal("deleted, with its messages").await;
}

/// Fails when our own message is given to a handler, or is missing in the copy.
#[tokio::test(start_paused = true)]
async fn our_own_messages_are_copied_and_not_handled() {
    let world = World::copied(SlackSource::new()).await;
    let channels: Vec<String> = world.emulator.truth("conversations").into_keys().collect();
    let channel = channels[0].as_str();
    let first = world.slack.post(channel, &NewMessage::new("from the app")).await.unwrap();
    world.slack.reply(&first, &NewMessage::new("and on")).await.unwrap();
    world.slack.update(channel, &first.ts, &NewMessage::new("better")).await.unwrap();
    let second = world.slack.post(channel, &NewMessage::new("not meant")).await.unwrap();
    world.slack.delete(channel, &second.ts).await.unwrap();
    world.receive(world.mail().await).await;
    assert_eq!(*world.handled.lock().unwrap(), [""; 0], "no handler answers itself");
    world.check_equal("our own").await;
    let person = world.emulator.truth("users").into_keys().find(|id| *id != world.emulator.bot_user()).unwrap();
    world.emulator.post(channel, &person, "from a person", None).unwrap();
    world.receive(world.mail().await).await;
    assert_eq!(*world.handled.lock().unwrap(), ["message"]);
    world.check_equal("somebody's").await;
}

#[tokio::test(start_paused = true)]
async fn the_calls_most_people_want_work() {
    let world = World::new(Limits::default(), SlackSource::new());
    world.emulator.populate(&Seed { users: 230, channels: 2, private_channels: 1, messages_per_channel: 25 });
    let slack = &world.slack;
    let identity = slack.identity().await.unwrap();
    assert_eq!((identity.team_id.as_deref(), identity.user_id), (Some("T1"), world.emulator.bot_user()));
    let users: Vec<_> = slack.users().try_collect().await.unwrap();
    assert_eq!(users.len(), world.emulator.truth("users").len());
    assert!(users.iter().all(|user| user.full().is_ok()));
    let all = "public_channel,private_channel,mpim,im";
    let conversations: Vec<_> = slack.conversations(all, true).try_collect().await.unwrap();
    assert_eq!(conversations.len(), 3);
    assert!(conversations.iter().all(|one| one.is_member && one.full().is_ok()));
    let channel = conversations[0].id.as_str();
    let history: Vec<_> = slack.history(channel, None, None).try_collect().await.unwrap();
    assert!(history.windows(2).all(|pair| pair[0].ts > pair[1].ts), "newest first");
    let root = history.iter().find(|message| message.reply_count > 0).unwrap();
    let replies: Vec<_> = slack.replies(channel, &root.ts).try_collect().await.unwrap();
    assert_eq!((replies[0].ts.as_str(), replies.len() as u64), (root.ts.as_str(), root.reply_count + 1));

    let at = world.clock.now().plus(Duration::from_secs(60));
    let scheduled = slack.schedule(channel, &NewMessage::new("later"), at).await.unwrap();
    assert_eq!(scheduled.post_at, at.seconds());
    slack.unschedule(channel, &scheduled.id).await.unwrap();
    let person = users.iter().find(|user| !user.is_bot).unwrap();
    let dm = slack.open_dm(&[&person.id]).await.unwrap();
    assert_eq!(slack.open_dm(&[&person.id]).await.unwrap(), dm, "opening it twice gives the same one");
    slack.post(&dm, &NewMessage::new("hello").block(json!({"type": "divider"}))).await.unwrap();

    for (channel, message, kind, code) in [
        ("C_NONE", NewMessage::new("x"), ErrorKind::NotFound, "channel_not_found"),
        (channel, NewMessage::new("x").in_thread("1.000000"), ErrorKind::NotFound, "thread_not_found"),
        (channel, NewMessage::new("x").block(json!({})), ErrorKind::Invalid, "invalid_blocks"),
        (channel, NewMessage::new("   "), ErrorKind::Invalid, "no_text"),
    ] {
        let error = slack.post(channel, &message).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, Some(code)), "{code}");
        assert!(error.request_id().is_some() && error.attempts() == 1);
    }
    assert!(world.emulator.archive_channel(channel, true));
    let archived = slack.post(channel, &NewMessage::new("x")).await.unwrap_err();
    assert_eq!((archived.kind(), archived.code()), (ErrorKind::Conflict, Some("is_archived")));
    let past = slack.schedule(&dm, &NewMessage::new("x"), Timestamp::from_seconds(1)).await.unwrap_err();
    assert_eq!((past.kind(), past.code()), (ErrorKind::Invalid, Some("time_in_past")));
    let again = slack.delete(&dm, "1.000000").await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
}

/// Fails when a message whose answer was lost is sent twice, or cannot be found again.
#[tokio::test(start_paused = true)]
async fn a_message_whose_answer_was_lost_is_looked_for() {
    for (fault, sent) in [
        (Fault::ResetAfter, true),
        (Fault::CutBody, true),
        (Fault::HangAfter, true),
        (Fault::Html, true),
        (Fault::StatusAfter(502), true),
        (Fault::ResetBefore, false),
        (Fault::Status(503), false),
    ] {
        let world = World::new(Limits::default(), SlackSource::new());
        world.emulator.populate(&Seed { users: 3, channels: 1, private_channels: 0, messages_per_channel: 5 });
        let channel = world.emulator.truth("conversations").into_keys().next().unwrap();
        let before = world.emulator.truth("messages").len();
        world.emulator.faults().next("*", [fault.clone()]);
        let since = world.clock.now().minus(Duration::from_secs(60));
        let message = NewMessage::new("once").client_msg_id("4b1c3a52-0000-4000-8000-000000000001");
        let error = world.slack.post(&channel, &message).await.unwrap_err();
        assert_eq!((error.outcome(), error.is_retryable()), (Outcome::Unknown, false), "{fault:?}");
        let found = world.slack.find_sent(&channel, "4b1c3a52-0000-4000-8000-000000000001", since).await.unwrap();
        assert_eq!(found.is_some(), sent, "{fault:?}");
        assert_eq!(world.emulator.truth("messages").len() - before, usize::from(sent), "{fault:?}");
    }
}

/// Fails when the pipeline lets more through than Slack takes, counted at Slack.
#[tokio::test(start_paused = true)]
async fn slack_never_has_to_say_that_it_is_too_much() {
    let world = World::new(Limits { channel_burst: 1, ..Limits::default() }, SlackSource::new());
    world.emulator.populate(&Seed { users: 30, channels: 6, private_channels: 0, messages_per_channel: 5 });
    let channels: Vec<String> = world.emulator.truth("conversations").into_keys().collect();
    let message = NewMessage::new("x");
    let posts = (0..180).map(|n| world.slack.post(&channels[n % channels.len()], &message));
    let lists = (0..15).map(|_| world.slack.users().try_collect::<Vec<_>>());
    let (posts, lists) = tokio::join!(join_all(posts), join_all(lists));
    assert!(posts.iter().all(Result::is_ok) && lists.iter().all(Result::is_ok));
    let ledger = world.emulator.ledger();
    assert_eq!(ledger.throttles, 0, "{:?}", ledger.throttles_by_reason);

    let world = World::new(Limits { outside_marketplace: true, ..Limits::default() }, SlackSource::new());
    world.emulator.populate(&Seed { users: 3, channels: 1, private_channels: 0, messages_per_channel: 40 });
    let channel = world.emulator.truth("conversations").into_keys().next().unwrap();
    let slack = world.slack.clone().reading(HistoryRule::Limited);
    let read: Vec<_> = slack.history(&channel, None, None).try_collect().await.unwrap();
    assert_eq!((read.len() > 15, world.emulator.ledger().throttles), (true, 0));
}

#[tokio::test(start_paused = true)]
async fn commands_and_buttons_are_answered() {
    let world = World::copied(SlackSource::new()).await;
    let channel = world.emulator.truth("conversations").into_keys().next().unwrap();
    let person = world.emulator.truth("users").into_keys().find(|id| *id != world.emulator.bot_user()).unwrap();
    world.emulator.command(HOOK, "/deploy", "now please", &person, &channel).await.unwrap();
    let posted = world.slack.post(&channel, &NewMessage::new("press")).await.unwrap();
    drop(world.mail().await.into_iter().filter(|raw| raw.body.starts_with(b"{")).collect::<Vec<_>>());
    world.emulator.press(HOOK, &channel, &posted.ts, &person, "go", "7").await.unwrap();
    let mail: Vec<_> = world.mail().await.into_iter().filter(|raw| !raw.body.starts_with(b"{")).collect();
    let event = SlackWebhook.events(&world.verified(mail[0].clone())).unwrap().events.remove(0);
    assert!(event.kind == "interaction.block_actions" && webhook::retry(&mail[0]).is_none());
    let TypedEvent::Interaction(pressed) = TypedEvent::parse(&event).unwrap() else { panic!("an interaction") };
    assert_eq!(pressed.actions, [("go".to_owned(), Some("7".to_owned()))]);

    world.emulator.command(HOOK, "/deploy", "now please", &person, &channel).await.unwrap();
    let mail = world.mail().await.remove(0);
    let event = SlackWebhook.events(&world.verified(mail)).unwrap().events.remove(0);
    assert_eq!(event.kind, "slash_command.deploy");
    let TypedEvent::SlashCommand(command) = TypedEvent::parse(&event).unwrap() else { panic!("a command") };
    assert_eq!(
        (command.command.as_str(), command.text.as_str(), command.user.as_str()),
        ("/deploy", "now please", &*person)
    );
    // Its address is the emulator's own, which a credential goes to only when it is told to.
    let address = command.response_url.unwrap();
    let elsewhere = world.slack.respond(&address, &NewMessage::new("on it"), true).await.unwrap_err();
    assert_eq!((elsewhere.kind(), elsewhere.outcome()), (ErrorKind::Config, Outcome::NotSent));
    let path = url::Url::parse(address.expose()).unwrap().path().to_owned();
    let at_slack = Secret::from(format!("https://hooks.slack.com{path}"));
    world.slack.respond(&at_slack, &NewMessage::new("on it"), true).await.unwrap();
    assert_eq!(world.emulator.responses()[0]["text"], "on it");
    let unknown = Secret::from("https://hooks.slack.com/commands/T1/none");
    let gone = world.slack.respond(&unknown, &NewMessage::new("x"), false).await.unwrap_err();
    assert_eq!((gone.kind(), gone.code()), (ErrorKind::NotFound, Some("expired_url")));
    assert!(gone.user_message().contains("too late"), "{}", gone.user_message());
    for _ in 0..4 {
        world.slack.respond(&at_slack, &NewMessage::new("again"), false).await.unwrap();
    }
    let used = world.slack.respond(&at_slack, &NewMessage::new("once more"), false).await.unwrap_err();
    assert_eq!((used.kind(), used.code()), (ErrorKind::Conflict, Some("used_url")), "it works five times");
}

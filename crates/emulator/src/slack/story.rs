//! The story methods: what people, admins and Slack itself do, without a request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::events::{Subscription, command_form};
use super::world::{Channel, Kind, Message, User, World, ts_parse, ts_text};
use super::{Limits, Slack, SlackProvider, shape};
use crate::control;
use crate::dice::Dice;
use crate::gate::House;
use crate::post::Parcel;

/// What a workspace is filled with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seed {
    /// People, beside the one who sits at the browser.
    pub users: usize,
    /// Public channels; the app's bot is a member of each.
    pub channels: usize,
    /// Private channels the bot is a member of.
    pub private_channels: usize,
    /// Messages in each channel, some of them answers in threads.
    pub messages_per_channel: usize,
}

impl Default for Seed {
    fn default() -> Self {
        Self { users: 20, channels: 5, private_channels: 1, messages_per_channel: 20 }
    }
}

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unverified {
    /// No answer came in time.
    NoAnswer,
    /// The answer's status.
    Status(u16),
    /// The answer does not repeat the challenge.
    Challenge,
}

impl Slack {
    fn act<T>(&self, work: impl FnOnce(&mut World, &str, i64) -> T) -> T {
        let (provider, house) = (&self.inner.provider, &self.inner.house);
        let team = provider.config.workspaces.first().map(|team| team.id.clone()).unwrap_or_default();
        let now = house.now();
        let out = {
            let mut world = provider.world();
            world.post_due(now);
            work(&mut world, &team, now)
        };
        provider.announce(house);
        self.inner.flush();
        out
    }

    /// Gives the app's bot user in the first workspace: a member of nothing until it is invited.
    #[must_use]
    pub fn bot_user(&self) -> String {
        let provider = &self.inner.provider;
        let team = provider.config.workspaces.first().map(|team| team.id.clone()).unwrap_or_default();
        provider.bot(&self.client().0, &team).0
    }

    /// Sets the limits.
    pub fn set_limits(&self, limits: Limits) {
        self.inner.provider.meter().limits = limits;
    }

    /// Sends events of these names to this address from now on, without a handshake. Names are such as
    /// `message.channels`, beginnings such as `message.*`, or `*`.
    pub fn subscribe(&self, url: &str, events: &[&str]) {
        let events = events.iter().map(|name| (*name).to_owned()).collect();
        self.inner.provider.set_subscription(Some(Subscription { url: url.to_owned(), events }));
    }

    /// Does the handshake (`url_verification`) with an address and subscribes it when it passes.
    ///
    /// # Errors
    /// Says how the address failed.
    pub async fn subscribe_verified(&self, url: &str, events: &[&str]) -> Result<(), Unverified> {
        let (provider, house) = (&self.inner.provider, &self.inner.house);
        let challenge = provider.world().dice.name("", 52);
        let body = json!({
            "token": "verification-token-is-deprecated", "challenge": challenge, "type": "url_verification",
        });
        let parcel = Parcel::json("", url, Bytes::from(body.to_string()));
        let answer = provider.ask(house, &parcel).await.ok_or(Unverified::NoAnswer)?;
        if !answer.status().is_success() {
            return Err(Unverified::Status(answer.status().as_u16()));
        }
        let text = String::from_utf8_lossy(answer.body());
        let said: Option<Value> = serde_json::from_str(&text).ok();
        let said = said.and_then(|said| said.get("challenge").and_then(Value::as_str).map(str::to_owned));
        if text.trim() != challenge && said.as_deref() != Some(&challenge) {
            return Err(Unverified::Challenge);
        }
        self.subscribe(url, events);
        Ok(())
    }

    /// Fills the first workspace; the same seed gives the same people, channels and messages. No event tells of it.
    pub fn populate(&self, seed: &Seed) {
        let bot = self.bot_user();
        self.act(|world, team, now| {
            fill(world, team, &bot, seed, now);
            world.happened.clear();
        });
    }

    /// Adds a person; gives their identifier.
    #[must_use]
    pub fn add_user(&self, name: &str) -> String {
        self.act(|world, team, now| {
            let id = world.id("U");
            world.join(team, &id, person(name, now), now);
            id
        })
    }

    /// Deactivates a person; tells whether there is one.
    #[must_use]
    pub fn deactivate_user(&self, user: &str) -> bool {
        self.act(|world, team, now| world.change_user(team, user, now, |user| user.deleted = true))
    }

    /// Makes a conversation with these members; gives its identifier.
    #[must_use]
    pub fn create_channel(&self, name: &str, private: bool, members: &[&str]) -> String {
        let members: BTreeSet<String> = members.iter().map(|member| (*member).to_owned()).collect();
        let kind = if private { Kind::Private } else { Kind::Public };
        self.act(|world, team, now| world.open(team, name, kind, members, now))
    }

    /// Brings somebody into a conversation; false when nothing changes.
    #[must_use]
    pub fn invite(&self, channel: &str, user: &str) -> bool {
        self.act(|world, team, now| world.invite(team, channel, user, now))
    }

    /// Renames a conversation; tells whether there is one.
    #[must_use]
    pub fn rename_channel(&self, channel: &str, name: &str) -> bool {
        self.act(|world, team, now| {
            world.change_channel(team, channel, now, |row, at| {
                let before = std::mem::replace(&mut row.name, name.to_owned());
                row.previous_names.insert(0, before);
                let event = json!({
                    "type": "channel_rename", "event_ts": at,
                    "channel": { "id": channel, "name": name, "created": row.created },
                });
                Some(("channel_rename", event))
            })
        })
    }

    /// Archives a conversation or brings it back; tells whether there is one.
    #[must_use]
    pub fn archive_channel(&self, channel: &str, archived: bool) -> bool {
        self.act(|world, team, now| {
            world.change_channel(team, channel, now, |row, at| {
                row.archived = archived;
                let kind = if archived { "channel_archive" } else { "channel_unarchive" };
                Some((kind, json!({ "type": kind, "channel": channel, "user": row.creator, "event_ts": at })))
            })
        })
    }

    /// Deletes a conversation with everything in it; tells whether there was one.
    #[must_use]
    pub fn delete_channel(&self, channel: &str) -> bool {
        self.act(|world, team, now| {
            let told = world.change_channel(team, channel, now, |row, at| {
                let kind = if row.kind == Kind::Public { "channel_deleted" } else { "group_deleted" };
                Some((kind, json!({ "type": kind, "channel": channel, "event_ts": at })))
            });
            told && world.team(team).channels.remove(channel).is_some()
        })
    }

    /// Gives a conversation another identifier, as when it becomes shared; gives the new one.
    #[must_use]
    pub fn change_channel_id(&self, channel: &str) -> Option<String> {
        self.act(|world, team, now| {
            let new = world.id("C");
            let told = world.change_channel(team, channel, now, |_, at| {
                let event = json!({
                    "type": "channel_id_changed", "old_channel_id": channel, "new_channel_id": new, "event_ts": at,
                });
                Some(("channel_id_changed", event))
            });
            let row: Channel = world.team(team).channels.remove(channel).filter(|_| told)?;
            world.team(team).channels.push(&new, row);
            Some(new)
        })
    }

    /// Posts a message as a person, in a thread when `thread` names its first message; gives its `ts`.
    #[must_use]
    pub fn post(&self, channel: &str, user: &str, text: &str, thread: Option<&str>) -> Option<String> {
        let thread = thread.and_then(ts_parse);
        let message = Message { thread, ..Message::plain(user, text) };
        self.act(|world, team, now| world.post(team, channel, message, now)).map(|message| ts_text(message.ts))
    }

    /// Changes a message as its author; tells whether there is one.
    #[must_use]
    pub fn edit(&self, channel: &str, ts: &str, text: &str) -> bool {
        let Some(ts) = ts_parse(ts) else { return false };
        self.act(|world, team, now| {
            let row = world.team(team).channels.get(channel).and_then(|row| row.messages.get(&ts));
            let Some(author) = row.map(|message| message.user.clone()) else { return false };
            world.edit(team, channel, ts, &author, now, |message| message.text = text.to_owned()).is_some()
        })
    }

    /// Takes a message back; tells whether there was one.
    #[must_use]
    pub fn erase(&self, channel: &str, ts: &str) -> bool {
        let Some(ts) = ts_parse(ts) else { return false };
        self.act(|world, team, now| world.erase(team, channel, ts, now).is_some())
    }

    /// Says that something happened, whatever it is.
    pub fn emit(&self, kind: &str, event: &Value) {
        self.act(|world, team, _| world.tell(team, kind, event.clone(), None));
    }

    /// Tells the app that it is being sent fewer events than there are (`app_rate_limited`); nothing without a
    /// subscription.
    pub fn rate_limit_events(&self) {
        let (provider, house) = (&self.inner.provider, &self.inner.house);
        let Some(subscription) = provider.subscription() else { return };
        let team = provider.config.workspaces.first().map(|team| team.id.clone()).unwrap_or_default();
        let minute = house.now() / 60_000 * 60;
        let body = json!({
            "token": "verification-token-is-deprecated", "type": "app_rate_limited", "team_id": team,
            "minute_rate_limited": minute, "api_app_id": provider.config.app_id,
        });
        house.post.leave([Parcel::json("app_rate_limited", &subscription.url, Bytes::from(body.to_string()))]);
        self.inner.flush();
    }

    /// Runs a slash command as a person: posts it to the app and gives the app's answer; nothing when none came in
    /// time.
    pub async fn command(
        &self,
        url: &str,
        command: &str,
        text: &str,
        user: &str,
        channel: &str,
    ) -> Option<Response<Bytes>> {
        let (provider, house) = (&self.inner.provider, &self.inner.house);
        let team = provider.config.workspaces.first().map(|team| team.id.clone()).unwrap_or_default();
        let respond = provider.response_url(house, &team, channel, None);
        let trigger = provider.world().dice.name("", 32);
        let body = command_form(&[
            ("token", "verification-token-is-deprecated"),
            ("team_id", &team),
            ("team_domain", "emulated"),
            ("channel_id", channel),
            ("channel_name", "emulated"),
            ("user_id", user),
            ("user_name", "emulated"),
            ("command", command),
            ("text", text),
            ("api_app_id", &provider.config.app_id),
            ("is_enterprise_install", "false"),
            ("response_url", &respond),
            ("trigger_id", &trigger),
        ]);
        let parcel = Parcel { form: true, ..Parcel::json("", url, body) };
        provider.ask(house, &parcel).await
    }

    /// Presses a button of a message as a person (`block_actions`): posts it to the app and gives the app's answer.
    pub async fn press(
        &self,
        url: &str,
        channel: &str,
        ts: &str,
        user: &str,
        action: &str,
        value: &str,
    ) -> Option<Response<Bytes>> {
        let (provider, house) = (&self.inner.provider, &self.inner.house);
        let team = provider.config.workspaces.first().map(|team| team.id.clone()).unwrap_or_default();
        let respond = provider.response_url(house, &team, channel, ts_parse(ts));
        let (message, trigger) = {
            let mut world = provider.world();
            let at = ts_parse(ts)?;
            let row = world.look(&team)?.channels.get(channel)?.messages.get(&at)?;
            (shape::message(&team, row, None), world.dice.name("", 32))
        };
        let payload = json!({
            "type": "block_actions", "user": { "id": user, "team_id": team }, "api_app_id": provider.config.app_id,
            "token": "verification-token-is-deprecated", "trigger_id": trigger,
            "container": { "type": "message", "message_ts": ts, "channel_id": channel, "is_ephemeral": false },
            "team": { "id": team, "domain": "emulated" }, "channel": { "id": channel, "name": "emulated" },
            "message": message, "response_url": respond,
            "actions": [{
                "type": "button", "action_id": action, "block_id": "b", "value": value,
                "action_ts": ts_text(u64::try_from(house.now()).unwrap_or(0) * 1000),
            }],
        });
        let body = command_form(&[("payload", &payload.to_string())]);
        let parcel = Parcel { form: true, ..Parcel::json("", url, body) };
        provider.ask(house, &parcel).await
    }

    /// Lists what was posted to `response_url`s.
    #[must_use]
    pub fn responses(&self) -> Vec<Value> {
        self.inner.provider.said().clone()
    }

    /// Gives the live rows of a stream as the bot sees them: `conversations`, `users` by identifier, `messages` (answers
    /// in threads too) by conversation and `ts`.
    #[must_use]
    pub fn truth(&self, stream: &str) -> BTreeMap<String, Value> {
        let bot = self.bot_user();
        self.act(|world, team, _| {
            let Some(row) = world.look(team) else { return BTreeMap::new() };
            let visible = row.channels.iter().filter(|(_, row)| row.kind == Kind::Public || row.members.contains(&bot));
            match stream {
                "users" => {
                    let users = row.users.iter();
                    users.map(|(id, user)| (id.to_owned(), shape::user(team, id, user, true))).collect()
                }
                "conversations" => {
                    visible.map(|(id, row)| (id.to_owned(), shape::channel(team, id, row, &bot))).collect()
                }
                "messages" => visible
                    .filter(|(_, row)| row.members.contains(&bot))
                    .flat_map(|(id, row)| {
                        row.messages.values().map(move |message| {
                            let thread = shape::thread(row, message.ts);
                            (format!("{id}:{}", ts_text(message.ts)), shape::message(team, message, thread.as_ref()))
                        })
                    })
                    .collect(),
                _ => BTreeMap::new(),
            }
        })
    }

    /// Changes something at random, as people do; gives what it was.
    pub fn random_mutation(&self, rng: &mut dyn Rng) -> &'static str {
        let mut dice = Dice(rng.next_u64());
        let bot = self.bot_user();
        self.act(|world, team, now| mutate(world, team, &bot, &mut dice, now)).unwrap_or("nothing")
    }

    /// Moves the clock on and posts what was scheduled meanwhile.
    pub fn pass(&self, by: Duration) {
        self.advance(by);
        self.act(|_, _, _| ());
    }
}

fn person(name: &str, now: i64) -> User {
    User {
        name: name.to_lowercase().replace(' ', "."),
        real_name: name.to_owned(),
        email: Some(format!("{}@example.com", name.to_lowercase().replace(' ', "."))),
        deleted: false,
        is_admin: false,
        is_bot: false,
        updated: now / 1000,
    }
}

fn fill(world: &mut World, team: &str, bot: &str, seed: &Seed, now: i64) {
    let mut people = Vec::with_capacity(seed.users);
    for number in 0..seed.users {
        let id = world.id("U");
        world.join(team, &id, person(&format!("Person {number}"), now), now);
        people.push(id);
    }
    if people.is_empty() {
        people.push(bot.to_owned());
    }
    for number in 0..seed.channels + seed.private_channels {
        let private = number >= seed.channels;
        let (name, kind) = if private {
            (format!("private-{number}"), Kind::Private)
        } else {
            (format!("channel-{number}"), Kind::Public)
        };
        let mut members: BTreeSet<String> = people.iter().take(10).cloned().collect();
        members.insert(bot.to_owned());
        let channel = world.open(team, &name, kind, members, now);
        let mut parent = None;
        for message in 0..seed.messages_per_channel {
            let at = world.dice.below(people.len() as u64) as usize;
            let author = people.get(at).cloned().unwrap_or_default();
            // Every fifth message begins a thread; the one after it answers.
            let thread = if message % 5 == 1 { parent } else { None };
            let text = format!("message {message} in {name}");
            let posted = world.post(team, &channel, Message { thread, ..Message::plain(&author, &text) }, now);
            parent = posted.filter(|_| message % 5 == 0).map(|posted| posted.ts);
        }
    }
}

fn mutate(world: &mut World, team: &str, bot: &str, dice: &mut Dice, now: i64) -> Option<&'static str> {
    let row = world.look(team)?;
    let pick = |count: usize, dice: &mut Dice| dice.below(count as u64) as usize;
    let open: Vec<&str> = row
        .channels
        .iter()
        .filter(|(_, row)| !row.archived && row.kind != Kind::Direct && row.members.contains(bot))
        .map(|(id, _)| id)
        .collect();
    let people: Vec<&str> =
        row.users.iter().filter(|(_, user)| !user.deleted && !user.is_bot).map(|(id, _)| id).collect();
    let channel = open.get(pick(open.len(), dice))?.to_string();
    let author = people.get(pick(people.len(), dice))?.to_string();
    let messages: Vec<(u64, bool)> =
        row.channels.get(&channel)?.messages.values().map(|message| (message.ts, message.tombstone)).collect();
    let message = messages.get(pick(messages.len(), dice)).filter(|(_, tombstone)| !tombstone).map(|(ts, _)| *ts);
    let word = dice.name("", 6);
    match (dice.below(10), message) {
        (0..=4, _) | (5..=8, None) => {
            world.post(team, &channel, Message::plain(&author, &format!("said {word}")), now)?;
            Some("message")
        }
        (5 | 6, Some(ts)) => {
            world.edit(team, &channel, ts, &author, now, |message| message.text = format!("meant {word}"))?;
            Some("message_changed")
        }
        (7, Some(ts)) => {
            world.erase(team, &channel, ts, now)?;
            Some("message_deleted")
        }
        (8, Some(ts)) => {
            let answer = Message { thread: Some(ts), ..Message::plain(&author, &format!("answered {word}")) };
            world.post(team, &channel, answer, now)?;
            Some("reply")
        }
        (_, _) => {
            world.change_user(team, &author, now, |user| user.real_name = format!("Person {word}"));
            Some("user_change")
        }
    }
}

/// What `POST /_emulator/mutate` and its like take.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ControlForm {
    url: Option<String>,
    events: Vec<String>,
    scopes: Vec<String>,
    random: u64,
    seed: u64,
    limits: Option<bool>,
}

/// How many random changes one request may ask for.
const MUTATIONS_MAX: u64 = 100_000;

/// Obeys what only Slack's control plane knows.
pub(crate) fn control(
    slack: &SlackProvider,
    house: &House,
    method: &str,
    path: &str,
    body: &Bytes,
) -> Option<Result<Value, String>> {
    let team = slack.config.workspaces.first().map(|team| team.id.clone()).unwrap_or_default();
    let client = slack.config.clients.first().map(|client| client.id.clone()).unwrap_or_default();
    let bot = slack.bot(&client, &team).0;
    let now = house.now();
    let done = || Ok(json!({ "ok": true }));
    let outcome = match (method, path) {
        ("POST", "/_emulator/populate") => control::read::<Seed>(body).and_then(|seed| {
            let mut world = slack.world();
            fill(&mut world, &team, &bot, &seed, now);
            world.happened.clear();
            done()
        }),
        ("POST", "/_emulator/subscribe") => control::read::<ControlForm>(body).and_then(|form| {
            let subscription = form.url.map(|url| Subscription { url, events: form.events });
            slack.set_subscription(subscription);
            done()
        }),
        ("POST", "/_emulator/limits") => control::read::<ControlForm>(body).and_then(|form| {
            slack.meter().limits.enforced = form.limits.unwrap_or(true);
            done()
        }),
        ("POST", "/_emulator/mutate") => control::read::<ControlForm>(body).map(|form| {
            let mut dice = Dice(form.seed);
            let changes: Vec<&str> = (0..form.random.min(MUTATIONS_MAX))
                .filter_map(|_| mutate(&mut slack.world(), &team, &bot, &mut dice, now))
                .collect();
            slack.announce(house);
            json!({ "changes": changes })
        }),
        ("POST", "/_emulator/token") => control::read::<ControlForm>(body).map(|form| {
            let scopes: Vec<&str> = form.scopes.iter().map(String::as_str).collect();
            json!({ "access_token": super::oauth::install_forever(slack, now, &scopes) })
        }),
        ("GET", "/_emulator/waiting") => Ok(json!({ "deliveries": house.post.len() })),
        _ => return None,
    };
    Some(outcome)
}

//! What Slack remembers: people, conversations and messages of each workspace, and what has just happened to them.
//!
//! No permission is checked here; that is the methods' business. Every change leaves the event that tells of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::shape;
use crate::dice::Dice;

/// Rows in order of creation; a removed row keeps its seat, so that a cursor that points at it goes on working.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ordered<T> {
    rows: BTreeMap<u64, (String, T)>,
    seats: HashMap<String, u64>,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), seats: HashMap::new() }
    }
}

impl<T> Ordered<T> {
    pub(crate) fn push(&mut self, id: &str, row: T) {
        let seat = self.seats.len() as u64;
        self.seats.insert(id.to_owned(), seat);
        self.rows.insert(seat, (id.to_owned(), row));
    }

    pub(crate) fn get(&self, id: &str) -> Option<&T> {
        self.rows.get(self.seats.get(id)?).map(|(_, row)| row)
    }

    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.rows.get_mut(self.seats.get(id)?).map(|(_, row)| row)
    }

    pub(crate) fn remove(&mut self, id: &str) -> Option<T> {
        self.rows.remove(self.seats.get(id)?).map(|(_, row)| row)
    }

    pub(crate) fn seat(&self, id: &str) -> Option<u64> {
        self.seats.get(id).copied()
    }

    /// Walks rows from a seat on.
    pub(crate) fn from(&self, seat: u64) -> impl Iterator<Item = (&str, &T)> {
        self.rows.range(seat..).map(|(_, (id, row))| (id.as_str(), row))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.from(0)
    }
}

/// A person or a bot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) real_name: String,
    pub(crate) email: Option<String>,
    pub(crate) deleted: bool,
    pub(crate) is_admin: bool,
    pub(crate) is_bot: bool,
    pub(crate) updated: i64,
}

/// What kind of conversation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Public,
    Private,
    Group,
    Direct,
}

impl Kind {
    /// Gives the name in `types`, the prefix of scopes, and `channel_type` of events.
    pub(crate) const fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Public => ("public_channel", "channels", "channel"),
            Self::Private => ("private_channel", "groups", "group"),
            Self::Group => ("mpim", "mpim", "mpim"),
            Self::Direct => ("im", "im", "im"),
        }
    }

    /// Lists all kinds.
    pub(crate) const ALL: [Self; 4] = [Self::Public, Self::Private, Self::Group, Self::Direct];
}

/// A conversation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Channel {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) created: i64,
    pub(crate) updated: i64,
    pub(crate) creator: String,
    pub(crate) archived: bool,
    pub(crate) topic: String,
    pub(crate) previous_names: Vec<String>,
    pub(crate) members: BTreeSet<String>,
    pub(crate) messages: BTreeMap<u64, Message>,
}

/// A message. Its `ts` is microseconds since 1970 and its identifier.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) ts: u64,
    pub(crate) user: String,
    pub(crate) bot: Option<String>,
    pub(crate) text: String,
    pub(crate) blocks: Option<Value>,
    pub(crate) thread: Option<u64>,
    pub(crate) broadcast: bool,
    pub(crate) edited: Option<(String, u64)>,
    pub(crate) client_msg_id: Option<String>,
    pub(crate) metadata: Option<Value>,
    /// Whether only its place is left, because answers hang from it.
    pub(crate) tombstone: bool,
}

impl Message {
    /// Makes a plain message; its `ts` is given when it is posted.
    pub(crate) fn plain(user: &str, text: &str) -> Self {
        Self {
            ts: 0,
            user: user.to_owned(),
            bot: None,
            text: text.to_owned(),
            blocks: None,
            thread: None,
            broadcast: false,
            edited: None,
            client_msg_id: None,
            metadata: None,
            tombstone: false,
        }
    }

    /// Tells whether `conversations.history` shows it: answers in a thread are apart, unless broadcast.
    pub(crate) fn is_on_top(&self) -> bool {
        self.broadcast || self.thread.is_none_or(|parent| parent == self.ts)
    }
}

/// A message that waits for its time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Scheduled {
    pub(crate) id: String,
    pub(crate) channel: String,
    pub(crate) at: i64,
    pub(crate) message: Message,
}

/// One workspace.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Team {
    pub(crate) name: String,
    pub(crate) users: Ordered<User>,
    pub(crate) channels: Ordered<Channel>,
    pub(crate) scheduled: Vec<Scheduled>,
}

/// Something an app may hear of.
#[derive(Debug, Clone)]
pub(crate) struct Happened {
    pub(crate) team: String,
    /// What an app subscribes to, such as `message.channels`.
    pub(crate) kind: String,
    pub(crate) event: Value,
    /// Who must be a member for the app to hear of it; nothing for everybody's news.
    pub(crate) members: Option<BTreeSet<String>>,
    /// Whether the app hears of it although it is no longer installed.
    pub(crate) parting: bool,
}

/// All workspaces.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct World {
    pub(crate) teams: BTreeMap<String, Team>,
    /// Not remembered: what nobody was told of yet dies with the process.
    #[serde(skip)]
    pub(crate) happened: Vec<Happened>,
    pub(crate) dice: Dice,
    last: u64,
}

impl World {
    /// Makes an empty world whose identifiers follow from the seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self { teams: BTreeMap::new(), happened: Vec::new(), dice: Dice(seed ^ 0x51AC_0000), last: 0 }
    }

    /// Gives a workspace, made empty when first asked for.
    pub(crate) fn team(&mut self, id: &str) -> &mut Team {
        self.teams.entry(id.to_owned()).or_default()
    }

    /// Gives a workspace to read.
    pub(crate) fn look(&self, id: &str) -> Option<&Team> {
        self.teams.get(id)
    }

    /// Makes an identifier: prefix and ten capital letters or digits.
    pub(crate) fn id(&mut self, prefix: &str) -> String {
        format!("{prefix}0{}", self.dice.name("", 9).to_ascii_uppercase())
    }

    /// Gives a `ts` that no message has, of this moment or just after the last one.
    pub(crate) fn stamp(&mut self, now: i64) -> u64 {
        let micros = u64::try_from(now).unwrap_or(0).saturating_mul(1000);
        self.last = micros.max(self.last.saturating_add(100));
        self.last
    }

    /// Adds a person or bot and says so.
    pub(crate) fn join(&mut self, team: &str, id: &str, user: User, now: i64) {
        self.team(team).users.push(id, user);
        self.tell_of_user(team, id, "team_join", now);
    }

    /// Changes a person and says so; tells whether there is one.
    pub(crate) fn change_user(&mut self, team: &str, id: &str, now: i64, change: impl FnOnce(&mut User)) -> bool {
        let Some(user) = self.team(team).users.get_mut(id) else { return false };
        change(user);
        user.updated = (now / 1000).max(user.updated);
        self.tell_of_user(team, id, "user_change", now);
        true
    }

    fn tell_of_user(&mut self, team: &str, id: &str, kind: &str, now: i64) {
        let at = self.stamp(now);
        let Some(user) = self.team(team).users.get(id) else { return };
        let event = json!({
            "type": kind, "user": shape::user(team, id, user, true), "cache_ts": now / 1000,
            "event_ts": ts_text(at),
        });
        self.tell(team, kind, event, None);
    }

    /// Leaves an event for those who may hear of it.
    pub(crate) fn tell(&mut self, team: &str, kind: &str, event: Value, members: Option<BTreeSet<String>>) {
        self.happened.push(Happened { team: team.to_owned(), kind: kind.to_owned(), event, members, parting: false });
    }

    /// Makes a conversation and says so.
    pub(crate) fn open(&mut self, team: &str, name: &str, kind: Kind, members: BTreeSet<String>, now: i64) -> String {
        let id = self.id(if kind == Kind::Direct { "D" } else { "C" });
        let creator = members.first().cloned().unwrap_or_default();
        let channel = Channel {
            name: name.to_owned(),
            kind,
            created: now / 1000,
            updated: now,
            creator: creator.clone(),
            archived: false,
            topic: String::new(),
            previous_names: Vec::new(),
            members: members.clone(),
            messages: BTreeMap::new(),
        };
        self.team(team).channels.push(&id, channel);
        let at = ts_text(self.stamp(now));
        let (kind_of_event, audience) = match kind {
            Kind::Public => ("channel_created", None),
            Kind::Private | Kind::Group => ("group_open", Some(members)),
            Kind::Direct => ("im_created", Some(members)),
        };
        let event = json!({
            "type": kind_of_event, "event_ts": at,
            "channel": { "id": id, "name": name, "created": now / 1000, "creator": creator, "context_team_id": team },
        });
        self.tell(team, kind_of_event, event, audience);
        id
    }

    /// Changes a conversation and leaves the event the change gives, if any; tells whether there is one.
    pub(crate) fn change_channel(
        &mut self,
        team: &str,
        id: &str,
        now: i64,
        change: impl FnOnce(&mut Channel, &str) -> Option<(&'static str, Value)>,
    ) -> bool {
        let at = ts_text(self.stamp(now));
        let Some(channel) = self.team(team).channels.get_mut(id) else { return false };
        channel.updated = channel.updated.max(now);
        let news = change(channel, &at);
        let audience = (channel.kind != Kind::Public).then(|| channel.members.clone());
        if let Some((kind, event)) = news {
            self.tell(team, kind, event, audience);
        }
        true
    }

    /// Brings somebody into a conversation and says so; false when nothing changes.
    pub(crate) fn invite(&mut self, team: &str, channel: &str, user: &str, now: i64) -> bool {
        let at = ts_text(self.stamp(now));
        let Some(row) = self.team(team).channels.get_mut(channel) else { return false };
        if !row.members.insert(user.to_owned()) {
            return false;
        }
        let (members, kind) = (row.members.clone(), row.kind.names().2);
        let event = json!({
            "type": "member_joined_channel", "user": user, "channel": channel, "team": team, "event_ts": at,
            "channel_type": if kind == "channel" { "C" } else { "G" },
        });
        self.tell(team, "member_joined_channel", event, Some(members));
        true
    }

    /// Posts a message and says so; nothing when there is no such conversation.
    pub(crate) fn post(&mut self, team: &str, channel: &str, mut message: Message, now: i64) -> Option<Message> {
        let ts = self.stamp(now);
        let row = self.team(team).channels.get_mut(channel)?;
        message.ts = ts;
        // An answer to an answer hangs from the first message of the thread: threads do not nest.
        let root = |parent: u64| row.messages.get(&parent).and_then(|message| message.thread).unwrap_or(parent);
        message.thread = message.thread.map(root);
        row.messages.insert(ts, message.clone());
        // The first answer makes its parent a thread.
        if let Some(parent) = message.thread.and_then(|parent| row.messages.get_mut(&parent)) {
            parent.thread = Some(parent.ts);
        }
        let (kind, members) = (row.kind, row.members.clone());
        let mut event = shape::message(team, &message, None);
        shape::merge(
            &mut event,
            json!({ "channel": channel, "channel_type": kind.names().2, "event_ts": ts_text(ts) }),
        );
        self.tell(team, message_kind(kind), event, Some(members));
        Some(message)
    }

    /// Changes a message and says so; nothing when there is none.
    pub(crate) fn edit(
        &mut self,
        team: &str,
        channel: &str,
        ts: u64,
        by: &str,
        now: i64,
        change: impl FnOnce(&mut Message),
    ) -> Option<Message> {
        let at = self.stamp(now);
        let row = self.team(team).channels.get_mut(channel)?;
        let message = row.messages.get_mut(&ts).filter(|message| !message.tombstone)?;
        let before = message.clone();
        change(message);
        message.edited = Some((by.to_owned(), at));
        let after = message.clone();
        let (kind, members) = (row.kind, row.members.clone());
        let event = json!({
            "type": "message", "subtype": "message_changed", "hidden": true, "channel": channel,
            "channel_type": kind.names().2, "ts": ts_text(at), "event_ts": ts_text(at),
            "message": shape::message(team, &after, None), "previous_message": shape::message(team, &before, None),
        });
        self.tell(team, message_kind(kind), event, Some(members));
        Some(after)
    }

    /// Takes a message away and says so. One that answers hang from leaves a tombstone, as at Slack.
    pub(crate) fn erase(&mut self, team: &str, channel: &str, ts: u64, now: i64) -> Option<Message> {
        let at = self.stamp(now);
        let row = self.team(team).channels.get_mut(channel)?;
        let gone = row.messages.get(&ts).filter(|message| !message.tombstone)?.clone();
        let answered = row.messages.values().any(|message| message.thread == Some(ts) && message.ts != ts);
        if answered {
            let tomb = Message {
                ts,
                thread: Some(ts),
                tombstone: true,
                ..Message::plain("USLACKBOT", "This message was deleted.")
            };
            row.messages.insert(ts, tomb);
        } else {
            row.messages.remove(&ts);
        }
        let (kind, members) = (row.kind, row.members.clone());
        let event = json!({
            "type": "message", "subtype": "message_deleted", "hidden": true, "channel": channel,
            "channel_type": kind.names().2, "ts": ts_text(at), "event_ts": ts_text(at), "deleted_ts": ts_text(ts),
            "previous_message": shape::message(team, &gone, None),
        });
        self.tell(team, message_kind(kind), event, Some(members));
        Some(gone)
    }

    /// Posts what was scheduled for now or earlier.
    pub(crate) fn post_due(&mut self, now: i64) {
        let mut due = Vec::new();
        for (team, row) in &mut self.teams {
            let (ripe, rest) =
                std::mem::take(&mut row.scheduled).into_iter().partition(|scheduled| scheduled.at * 1000 <= now);
            row.scheduled = rest;
            let ripe: Vec<Scheduled> = ripe;
            due.extend(ripe.into_iter().map(|scheduled| (team.clone(), scheduled)));
        }
        due.sort_by_key(|(_, scheduled)| scheduled.at);
        for (team, scheduled) in due {
            self.post(&team, &scheduled.channel, scheduled.message, scheduled.at * 1000);
        }
    }
}

/// Gives what an app subscribes to for messages of a kind of conversation.
fn message_kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Public => "message.channels",
        Kind::Private => "message.groups",
        Kind::Group => "message.mpim",
        Kind::Direct => "message.im",
    }
}

/// Writes a `ts`.
pub(crate) fn ts_text(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// Reads a `ts`, also a whole number of seconds or one with fewer digits after the point.
pub(crate) fn ts_parse(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || part.len() > 6 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: u64 = whole.parse().ok()?;
    let micros: u64 = format!("{part:0<6}").parse().ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ts_is_read_as_it_was_written() {
        for (text, micros) in [
            ("1700000000.000100", Some(1_700_000_000_000_100)),
            ("1700000000", Some(1_700_000_000_000_000)),
            ("0", Some(0)),
            ("1.5", Some(1_500_000)),
            ("", None),
            (".5", None),
            ("-1", None),
            ("1.0000001", None),
            ("99999999999999999999", None),
            ("1e9", None),
        ] {
            assert_eq!(ts_parse(text), micros, "{text}");
        }
        assert_eq!(ts_text(1_700_000_000_000_100), "1700000000.000100");
    }

    #[test]
    fn stamps_never_repeat_even_when_the_clock_goes_back() {
        let mut world = World::new(1);
        let stamps = [world.stamp(10_000), world.stamp(10_000), world.stamp(9_000), world.stamp(20_000)];
        assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]), "{stamps:?}");
    }

    #[test]
    fn a_removed_row_keeps_its_seat() {
        let mut rows = Ordered::default();
        ["a", "b", "c"].iter().for_each(|id| rows.push(id, ()));
        assert!(rows.remove("b").is_some());
        let after: Vec<&str> = rows.from(rows.seat("b").unwrap()).map(|(id, ())| id).collect();
        assert_eq!((after, rows.get("b").is_none()), (vec!["c"], true));
    }
}

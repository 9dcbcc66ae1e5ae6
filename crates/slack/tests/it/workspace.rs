//! A workspace in memory, as far as the adapter's own tests need one: lists with cursors, threads, and a count of what
//! was called when. Time is tokio's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use palisade_core::{Result, Transport};
use serde_json::{Value, json};
use tokio::time::Instant;

/// When its clock begins, some hours after its messages.
pub(crate) const BEGIN: i64 = 1_700_010_000;

/// When, which method, with what.
pub(crate) type Called = (Duration, String, Vec<(String, String)>);

#[derive(Clone)]
pub(crate) struct Workspace(Arc<Mutex<Inner>>);

struct Inner {
    began: Instant,
    users: Vec<Value>,
    /// Conversations with their messages by `ts`; replies stand among them with their thread.
    conversations: BTreeMap<String, BTreeMap<String, Value>>,
    /// Conversations the app has left.
    left: Vec<String>,
    /// What is answered next, whatever is asked.
    scripted: Vec<Response<Bytes>>,
    calls: Vec<Called>,
    empty_pages: bool,
}

impl Workspace {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            began: Instant::now(),
            users: Vec::new(),
            conversations: BTreeMap::new(),
            left: Vec::new(),
            scripted: Vec::new(),
            calls: Vec::new(),
            empty_pages: false,
        })))
    }

    /// Three people, five conversations, the first with a thread, the last empty.
    pub(crate) fn peopled() -> Self {
        let workspace = Self::new();
        {
            let mut inner = workspace.0.lock().unwrap();
            inner.users =
                (1..=9).map(|n| json!({"id": format!("U{n}"), "name": format!("u{n}"), "deleted": n == 2})).collect();
            for (name, messages) in [("C1", 9), ("C2", 4), ("C3", 1), ("C4", 7), ("C5", 0)] {
                let all = inner.conversations.entry(name.to_owned()).or_default();
                for n in 1..=messages {
                    let ts = format!("{}.000100", 1_700_000_000 + n * 100);
                    all.insert(
                        ts.clone(),
                        json!({"type": "message", "user": "U1", "text": format!("{name} {n}"), "ts": ts}),
                    );
                }
            }
        }
        for (root, first, replies) in [("1700000300.000100", 1_700_002_000, 5), ("1700000800.000100", 1_700_003_000, 2)]
        {
            for n in 0..replies {
                workspace.reply("C1", root, &format!("{}.000200", first + n), &format!("reply {n}"));
            }
        }
        workspace
    }

    pub(crate) fn say(&self, channel: &str, ts: &str, text: &str) {
        let message = json!({"type": "message", "user": "U1", "text": text, "ts": ts});
        self.0.lock().unwrap().conversations.entry(channel.to_owned()).or_default().insert(ts.to_owned(), message);
    }

    pub(crate) fn reply(&self, channel: &str, root: &str, ts: &str, text: &str) {
        let reply = json!({"type": "message", "user": "U2", "text": text, "ts": ts, "thread_ts": root});
        let mut inner = self.0.lock().unwrap();
        let messages = inner.conversations.get_mut(channel).unwrap();
        messages.insert(ts.to_owned(), reply);
        let count = messages.values().filter(|one| one["thread_ts"] == root && one["ts"] != root).count();
        let root = messages.get_mut(root).unwrap();
        root["thread_ts"] = root["ts"].clone();
        root["reply_count"] = json!(count);
        root["latest_reply"] = json!(ts);
    }

    pub(crate) fn edit(&self, channel: &str, ts: &str, text: &str) {
        let mut inner = self.0.lock().unwrap();
        let message = inner.conversations.get_mut(channel).unwrap().get_mut(ts).unwrap();
        message["text"] = json!(text);
        message["edited"] = json!({"user": "U1", "ts": "1700009999.000000"});
    }

    pub(crate) fn delete(&self, channel: &str, ts: &str) {
        self.0.lock().unwrap().conversations.get_mut(channel).unwrap().remove(ts);
    }

    pub(crate) fn rename(&self, old: &str, new: &str) {
        let mut inner = self.0.lock().unwrap();
        let messages = inner.conversations.remove(old).unwrap();
        inner.conversations.insert(new.to_owned(), messages);
    }

    pub(crate) fn leave(&self, channel: &str) {
        self.0.lock().unwrap().left.push(channel.to_owned());
    }

    /// Puts an empty page with a cursor before every full one.
    pub(crate) fn with_empty_pages(self) -> Self {
        self.0.lock().unwrap().empty_pages = true;
        self
    }

    /// Answers so, in this order, before anything else.
    pub(crate) fn script(&self, answers: impl IntoIterator<Item = Response<Bytes>>) {
        self.0.lock().unwrap().scripted.extend(answers);
    }

    /// The texts of all messages the app can read, by their record's id.
    pub(crate) fn truth(&self) -> BTreeMap<String, String> {
        let inner = self.0.lock().unwrap();
        let readable = inner.conversations.iter().filter(|(name, _)| !inner.left.contains(name));
        readable
            .flat_map(|(name, messages)| {
                messages.iter().map(move |(ts, one)| (format!("{name}:{ts}"), one["text"].as_str().unwrap().to_owned()))
            })
            .collect()
    }

    pub(crate) fn calls(&self) -> Vec<Called> {
        self.0.lock().unwrap().calls.clone()
    }

    /// The most calls of a method in any half-open minute, or of any other length.
    pub(crate) fn peak(&self, method: &str, within: Duration, matching: impl Fn(&[(String, String)]) -> bool) -> usize {
        let times: Vec<_> = self
            .calls()
            .into_iter()
            .filter(|(_, name, given)| name == method && matching(given))
            .map(|(at, ..)| at)
            .collect();
        times
            .iter()
            .map(|from| times.iter().filter(|at| **at >= *from && **at < *from + within).count())
            .max()
            .unwrap_or(0)
    }
}

impl Inner {
    fn answer(&mut self, method: &str, given: &[(String, String)]) -> Value {
        let argument = |name: &str| given.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let channel = argument("channel").unwrap_or_default().to_owned();
        match method {
            "users.list" => self.page("members", self.users.clone(), given),
            "conversations.list" => {
                let all = self.conversations.keys().map(|name| self.conversation(name)).collect();
                self.page("channels", all, given)
            }
            "users.conversations" => {
                // Conversations left a moment ago are still listed, as by a list that was read before.
                self.page("channels", self.conversations.keys().map(|name| json!({"id": name})).collect(), given)
            }
            "users.info" => match self.users.iter().find(|user| Some(user["id"].as_str().unwrap()) == argument("user"))
            {
                Some(user) => json!({"ok": true, "user": user}),
                None => json!({"ok": false, "error": "user_not_found"}),
            },
            "conversations.info" if self.conversations.contains_key(&channel) => {
                json!({"ok": true, "channel": self.conversation(&channel)})
            }
            "conversations.history" | "conversations.replies" if self.left.contains(&channel) => {
                json!({"ok": false, "error": "not_in_channel"})
            }
            "conversations.history" if self.conversations.contains_key(&channel) => {
                let own = |one: &&Value| one["thread_ts"].is_null() || one["thread_ts"] == one["ts"];
                let mut found: Vec<_> = self.within(&channel, given).into_iter().filter(|one| own(&one)).collect();
                found.reverse();
                self.page("messages", found, given)
            }
            "conversations.replies" if self.conversations.contains_key(&channel) => {
                let Some(asked) = argument("ts").and_then(|ts| self.conversations[&channel].get(ts)) else {
                    return json!({"ok": false, "error": "thread_not_found"});
                };
                let root = asked["thread_ts"].as_str().unwrap_or(asked["ts"].as_str().unwrap()).to_owned();
                let parent = self.conversations[&channel].get(&root).cloned();
                let of_thread = |one: &Value| one["thread_ts"] == root && one["ts"] != root;
                let replies = self.within(&channel, given).into_iter().filter(of_thread).collect();
                let mut page = self.page("messages", replies, given);
                page["messages"].as_array_mut().unwrap().splice(0..0, parent);
                page
            }
            "conversations.info" | "conversations.history" | "conversations.replies" => {
                json!({"ok": false, "error": "channel_not_found"})
            }
            _ => json!({"ok": true, "channel": channel, "ts": "1.000001"}),
        }
    }

    fn conversation(&self, name: &str) -> Value {
        json!({"id": name, "name": name.to_lowercase(), "is_archived": false, "num_members": 3, "is_member": !self.left.contains(&name.to_owned())})
    }

    /// The messages of a channel between two times, oldest first.
    fn within(&self, channel: &str, given: &[(String, String)]) -> Vec<Value> {
        let argument = |name: &str| given.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let inclusive = matches!(argument("inclusive"), Some("1"));
        let after = |ts: &str| argument("oldest").is_none_or(|oldest| ts > oldest || (inclusive && ts == oldest));
        let before = |ts: &str| argument("latest").is_none_or(|latest| ts < latest || (inclusive && ts == latest));
        let messages = self.conversations[channel].iter().filter(|(ts, _)| after(ts) && before(ts));
        messages.map(|(_, message)| message.clone()).collect()
    }

    fn page(&self, key: &str, items: Vec<Value>, given: &[(String, String)]) -> Value {
        let argument = |name: &str| given.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let limit: usize = argument("limit").map_or(100, |limit| limit.parse().unwrap());
        let (from, empty) = match argument("cursor").map(|cursor| cursor.split_once(':').unwrap()) {
            None => (0, self.empty_pages),
            Some((at, kind)) => (at.parse().unwrap(), self.empty_pages && kind == "next="),
        };
        if empty {
            return json!({"ok": true, key: [], "has_more": true, "response_metadata": {"next_cursor": format!("{from}:full=")}});
        }
        let rest: Vec<_> = items.iter().skip(from).take(limit).cloned().collect();
        let more = items.len() > from + rest.len();
        let cursor = if more { format!("{}:next=", from + rest.len()) } else { String::new() };
        json!({"ok": true, key: rest, "has_more": more, "response_metadata": {"next_cursor": cursor}})
    }
}

#[async_trait]
impl Transport for Workspace {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let mut inner = self.0.lock().unwrap();
        let method = request.uri().path().trim_start_matches("/api/").to_owned();
        let given = match serde_json::from_slice::<BTreeMap<String, Value>>(request.body()) {
            Ok(json) => {
                json.into_iter().map(|(name, value)| (name, value.as_str().unwrap_or_default().to_owned())).collect()
            }
            Err(_) => super::fake::pairs(request.body()),
        };
        let at = inner.began.elapsed();
        inner.calls.push((at, method.clone(), given.clone()));
        if !inner.scripted.is_empty() {
            return Ok(inner.scripted.remove(0));
        }
        let body = inner.answer(&method, &given).to_string();
        let date = UNIX_EPOCH + Duration::from_secs(BEGIN.unsigned_abs()) + at;
        Ok(Response::builder().header("date", httpdate::fmt_http_date(date)).body(body.into()).unwrap())
    }
}

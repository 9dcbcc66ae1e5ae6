//! One person's mail: messages in their order, what happened to them, and who is told.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::mime::{self, Part};
use super::search::Search;
use crate::dice::Dice;
use crate::google::refusal::Refusal;
use crate::google::service::{list, text};
use crate::memory;

/// Labels every mailbox has.
pub(crate) const SYSTEM: [&str; 10] =
    ["INBOX", "SPAM", "TRASH", "UNREAD", "STARRED", "IMPORTANT", "SENT", "DRAFT", "CATEGORY_PERSONAL", "CHAT"];
const SNIPPET_CHARS_MAX: usize = 200;
/// Records of history kept; the oldest are forgotten first.
const HISTORY_MAX: usize = 200_000;

/// One message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) thread: String,
    pub(crate) labels: BTreeSet<String>,
    #[serde(with = "memory::bytes")]
    pub(crate) raw: Bytes,
    #[serde(skip)]
    pub(crate) part: Part,
    /// Milliseconds since 1970.
    pub(crate) internal: i64,
    pub(crate) history: u64,
}

/// How much of a message is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    Minimal,
    Full,
    Raw,
    /// Only these headers, or all of them.
    Metadata(Vec<String>),
}

/// One thing that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    id: u64,
    at: i64,
    kind: Kind,
    message: Value,
    labels: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Added,
    Deleted,
    LabelsAdded,
    LabelsRemoved,
}

impl Kind {
    /// Its name as a filter, and as a field of a record.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Added => ("messageAdded", "messagesAdded"),
            Self::Deleted => ("messageDeleted", "messagesDeleted"),
            Self::LabelsAdded => ("labelAdded", "labelsAdded"),
            Self::LabelsRemoved => ("labelRemoved", "labelsRemoved"),
        }
    }
}

/// Who is told of changes, until when.
#[derive(Debug, Clone)]
pub(crate) struct Watching {
    pub(crate) topic: String,
    pub(crate) labels: Vec<String>,
    pub(crate) excluding: bool,
    pub(crate) expires: i64,
    /// When it was last told: more than once a second is dropped.
    pub(crate) told: Option<i64>,
}

/// Everything of one mailbox.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mailbox {
    pub(crate) email: String,
    /// By date and arrival: the order of lists, backwards.
    #[serde(with = "memory::pairs")]
    messages: BTreeMap<(i64, u64), Message>,
    places: HashMap<String, (i64, u64)>,
    arrivals: u64,
    pub(crate) newest: u64,
    /// A start before this one is answered 404.
    forgotten: u64,
    history: VecDeque<Record>,
    #[serde(skip)]
    pub(crate) watching: Option<Watching>,
    /// Own labels: identifier and name.
    pub(crate) labels: BTreeMap<String, String>,
    /// Tokens of pages from before this count are refused.
    pub(crate) page_epoch: u64,
}

/// A page of a list.
pub(crate) struct Query<'a> {
    pub(crate) search: Search<'a>,
    pub(crate) labels: Vec<&'a str>,
    pub(crate) spam_and_trash: bool,
    pub(crate) size: usize,
    pub(crate) token: Option<&'a str>,
}

impl Mailbox {
    pub(crate) fn new(email: &str, dice: &mut Dice) -> Self {
        let newest = 1_000 + dice.below(1_000);
        Self { email: email.to_owned(), newest, forgotten: newest, ..Self::default() }
    }

    /// Reads every message anew: only its bytes are remembered.
    pub(crate) fn read_anew(&mut self) {
        self.messages.values_mut().for_each(|message| message.part = Part::read(&message.raw));
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Message> {
        self.messages.get(self.places.get(id)?)
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn threads(&self) -> usize {
        self.messages.values().map(|message| message.thread.as_str()).collect::<BTreeSet<_>>().len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Message> {
        self.messages.values()
    }

    /// Counts what has a label, and what of it is unread.
    pub(crate) fn counts(&self, label: &str) -> (usize, usize) {
        let with = || self.messages.values().filter(|message| message.labels.contains(label));
        (with().count(), with().filter(|message| message.labels.contains("UNREAD")).count())
    }

    /// Ids rise by more than one, as Gmail's do.
    fn happens(&mut self, kind: Kind, id: &str, labels: Vec<String>, now: i64, dice: &mut Dice) {
        self.newest += 1 + dice.below(20);
        let newest = self.newest;
        let Some(message) = self.places.get(id).and_then(|place| self.messages.get_mut(place)) else { return };
        message.history = newest;
        let shown = json!({ "id": id, "threadId": message.thread, "labelIds": message.labels });
        self.history.push_back(Record { id: newest, at: now, kind, message: shown, labels });
        if self.history.len() > HISTORY_MAX
            && let Some(oldest) = self.history.pop_front()
        {
            self.forgotten = oldest.id;
        }
    }

    /// Puts a message in.
    pub(crate) fn add(
        &mut self,
        raw: Bytes,
        thread: Option<&str>,
        labels: &[&str],
        now: i64,
        dice: &mut Dice,
    ) -> String {
        let id = format!("{:016x}", dice.next());
        self.arrivals += 1;
        let place = (now, self.arrivals);
        let message = Message {
            id: id.clone(),
            thread: thread.unwrap_or(&id).to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            part: Part::read(&raw),
            raw,
            internal: now,
            history: 0,
        };
        self.messages.insert(place, message);
        self.places.insert(id.clone(), place);
        self.happens(Kind::Added, &id, Vec::new(), now, dice);
        id
    }

    /// Finds the conversation a message answers in: the same subject, and one of its ancestors is there.
    pub(crate) fn thread_of(&self, part: &Part) -> Option<&str> {
        let ancestors = [part.header("references"), part.header("in-reply-to")];
        let ancestors: Vec<&str> = ancestors.into_iter().flatten().flat_map(str::split_whitespace).collect();
        let known = |message: &&Message| {
            let own = message.part.header("message-id");
            own.is_some_and(|own| ancestors.contains(&own)) && subject(&message.part) == subject(part)
        };
        self.messages.values().find(known).map(|message| message.thread.as_str())
    }

    /// Gives the labels of the message that changed last.
    pub(crate) fn newest_labels(&self) -> Option<Vec<String>> {
        let labels = list(&self.history.back()?.message, "labelIds");
        Some(labels.filter_map(Value::as_str).map(str::to_owned).collect())
    }

    pub(crate) fn has_thread(&self, thread: &str) -> bool {
        self.messages.values().any(|message| message.thread == thread)
    }

    /// Adds and takes labels away; gives whether there is such a message.
    pub(crate) fn relabel(&mut self, id: &str, add: &[String], remove: &[String], now: i64, dice: &mut Dice) -> bool {
        let Some(message) = self.places.get(id).and_then(|place| self.messages.get_mut(place)) else { return false };
        let added: Vec<String> = add.iter().filter(|label| message.labels.insert((*label).clone())).cloned().collect();
        let removed: Vec<String> = remove.iter().filter(|label| message.labels.remove(*label)).cloned().collect();
        for (kind, labels) in [(Kind::LabelsAdded, added), (Kind::LabelsRemoved, removed)] {
            if !labels.is_empty() {
                self.happens(kind, id, labels, now, dice);
            }
        }
        true
    }

    /// Deletes a message for good.
    pub(crate) fn delete(&mut self, id: &str, now: i64, dice: &mut Dice) -> bool {
        if !self.places.contains_key(id) {
            return false;
        }
        self.happens(Kind::Deleted, id, Vec::new(), now, dice);
        if let Some(place) = self.places.remove(id) {
            self.messages.remove(&place);
        }
        true
    }

    /// Forgets the history until now: every start from before is answered 404.
    pub(crate) fn forget(&mut self) {
        self.newest += 1;
        self.forgotten = self.newest;
        self.history.clear();
    }

    /// Forgets what is older.
    pub(crate) fn forget_before(&mut self, at: i64) {
        while self.history.front().is_some_and(|record| record.at < at) {
            if let Some(oldest) = self.history.pop_front() {
                self.forgotten = oldest.id;
            }
        }
    }

    /// Gives a page of the list, newest first.
    pub(crate) fn list(&self, query: &Query<'_>, now: i64) -> Result<Value, Refusal> {
        let after = query.token.map(|token| self.read_token(token)).transpose()?;
        let hidden = ["SPAM", "TRASH"].map(|label| {
            let asked = query.spam_and_trash || query.search.looks_in(label) || query.labels.contains(&label);
            (label, !asked)
        });
        let fits = |message: &Message| {
            hidden.iter().all(|(label, hides)| !hides || !message.labels.contains(*label))
                && query.labels.iter().all(|label| message.labels.contains(*label))
                && query.search.finds(message, now)
        };
        let mut found = self.messages.iter().rev().filter(|(_, message)| fits(message));
        let total = self.messages.values().filter(|message| fits(message)).count();
        let mut page: Vec<(&(i64, u64), &Message)> = found
            .by_ref()
            .filter(|(place, _)| after.is_none_or(|after| **place < after))
            .take(query.size + 1)
            .collect();
        let more = page.len() > query.size;
        page.truncate(query.size);
        let mut out = Map::new();
        if !page.is_empty() {
            let rows = page.iter().map(|(_, message)| json!({ "id": message.id, "threadId": message.thread }));
            out.insert("messages".to_owned(), rows.collect());
        }
        if let Some((place, _)) = page.last().filter(|_| more) {
            out.insert("nextPageToken".to_owned(), json!(self.token(**place)));
        }
        out.insert("resultSizeEstimate".to_owned(), json!(total));
        Ok(Value::Object(out))
    }

    fn token(&self, (first, second): (i64, u64)) -> String {
        mime::encode(format!("{}/{first}/{second}", self.page_epoch).as_bytes())
    }

    fn read_token(&self, token: &str) -> Result<(i64, u64), Refusal> {
        let read = || {
            let text = String::from_utf8(mime::decode(token)?).ok()?;
            let mut parts = text.split('/');
            let (epoch, first, second) = (parts.next()?.parse::<u64>().ok()?, parts.next()?, parts.next()?);
            (epoch == self.page_epoch).then_some((first.parse().ok()?, second.parse().ok()?))
        };
        read().ok_or_else(|| Refusal::invalid("Invalid pageToken"))
    }

    /// Gives a page of what happened since a start, oldest first.
    pub(crate) fn since(
        &self,
        start: u64,
        kinds: &[&str],
        label: Option<&str>,
        size: usize,
        token: Option<&str>,
    ) -> Result<Value, Refusal> {
        if start < self.forgotten || start > self.newest {
            return Err(Refusal::missing());
        }
        let after = token.map(|token| self.read_token(token)).transpose()?.map_or(start, |(_, after)| after);
        let fits = |record: &&Record| {
            let of_label = |label: &str| {
                let now = self.get(text(&record.message, "id").unwrap_or_default());
                now.is_some_and(|message| message.labels.contains(label))
                    || list(&record.message, "labelIds").any(|one| one == label)
            };
            record.id > after
                && (kinds.is_empty() || kinds.contains(&record.kind.names().0))
                && label.is_none_or(of_label)
        };
        let mut page: Vec<&Record> = self.history.iter().filter(fits).take(size + 1).collect();
        let more = page.len() > size;
        page.truncate(size);
        let mut out = Map::new();
        if !page.is_empty() {
            out.insert("history".to_owned(), page.iter().map(|record| shown(record)).collect());
        }
        if let Some(last) = page.last().filter(|_| more) {
            out.insert("nextPageToken".to_owned(), json!(self.token((0, last.id))));
        }
        out.insert("historyId".to_owned(), json!(self.newest.to_string()));
        Ok(Value::Object(out))
    }

    /// Shows a message. An attachment's identifier is another one each time, as Gmail's is.
    pub(crate) fn show(&self, message: &Message, format: &Format, dice: &mut Dice) -> Value {
        let mut out = json!({
            "id": message.id, "threadId": message.thread, "labelIds": message.labels, "snippet": snippet(&message.part),
            "historyId": message.history.to_string(), "internalDate": message.internal.to_string(),
            "sizeEstimate": message.raw.len(),
        });
        let extra = match format {
            Format::Minimal => return out,
            Format::Raw => ("raw", json!(mime::encode(&message.raw))),
            Format::Full => ("payload", payload(&message.part, "", dice)),
            Format::Metadata(wanted) => {
                let named = |name: &str| wanted.is_empty() || wanted.iter().any(|one| one.eq_ignore_ascii_case(name));
                let of = message.part.headers.iter().filter(|(name, _)| named(name));
                let headers: Vec<Value> = of.map(|(name, value)| json!({ "name": name, "value": value })).collect();
                ("payload", json!({ "mimeType": message.part.mime_type, "headers": headers }))
            }
        };
        if let Some(out) = out.as_object_mut() {
            out.insert(extra.0.to_owned(), extra.1);
        }
        out
    }
}

fn shown(record: &Record) -> Value {
    let field = record.kind.names().1;
    let mut entry = json!({ "message": record.message });
    if let (Some(entry), false) = (entry.as_object_mut(), record.labels.is_empty()) {
        entry.insert("labelIds".to_owned(), json!(record.labels));
    }
    let brief = json!({ "id": text(&record.message, "id"), "threadId": text(&record.message, "threadId") });
    json!({ "id": record.id.to_string(), "messages": [brief], field: [entry] })
}

/// A subject without what answers put before it.
fn subject(part: &Part) -> String {
    let text = part.header("subject").unwrap_or_default().trim().to_lowercase();
    text.trim_start_matches("re:").trim().to_owned()
}

fn snippet(part: &Part) -> String {
    let text = part.text("text/plain").unwrap_or_default();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = words.chars().take(SNIPPET_CHARS_MAX).collect();
    cut.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn payload(part: &Part, id: &str, dice: &mut Dice) -> Value {
    let headers: Vec<Value> =
        part.headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let mut body = json!({ "size": part.content.len() });
    if let (Some(body), false) = (body.as_object_mut(), part.content.is_empty()) {
        if part.filename.is_empty() {
            body.insert("data".to_owned(), json!(mime::encode(&part.content)));
        } else {
            let name = mime::encode(format!("{id}/{:x}", dice.next()).as_bytes());
            body.insert("attachmentId".to_owned(), json!(format!("ANGjdJ{name}")));
        }
    }
    let mut out = json!({
        "partId": id, "mimeType": part.mime_type, "filename": part.filename, "headers": headers, "body": body,
    });
    if let (Some(out), false) = (out.as_object_mut(), part.parts.is_empty()) {
        let parts = part.parts.iter().enumerate().map(|(at, part)| {
            let id = if id.is_empty() { at.to_string() } else { format!("{id}.{at}") };
            payload(part, &id, dice)
        });
        out.insert("parts".to_owned(), parts.collect());
    }
    out
}

/// Finds the contents an attachment's identifier names.
pub(crate) fn attachment<'a>(part: &'a Part, name: &str) -> Option<&'a [u8]> {
    let text = String::from_utf8(mime::decode(name.strip_prefix("ANGjdJ")?)?).ok()?;
    let (path, _) = text.split_once('/')?;
    let mut at = part;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        at = at.parts.get(step.parse::<usize>().ok()?)?;
    }
    Some(&at.content)
}

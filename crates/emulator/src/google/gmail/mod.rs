//! Gmail: messages, labels, history, watches; the requests of one mailbox.

pub(crate) mod mailbox;
pub(crate) mod mime;
mod search;
mod send;

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use self::mailbox::{Format, Mailbox, Query, SYSTEM, Watching, attachment};
use self::search::Search;
use super::GoogleProvider;
use super::refusal::Refusal;
use super::service::{Service, body, done, empty, list, number, text};
use super::world::World;
use crate::gate;
use crate::params::Params;

const ALL: &str = "https://mail.google.com/";
const MODIFY: &str = "https://www.googleapis.com/auth/gmail.modify";
const READONLY: &str = "https://www.googleapis.com/auth/gmail.readonly";
const METADATA: &str = "https://www.googleapis.com/auth/gmail.metadata";
const COMPOSE: &str = "https://www.googleapis.com/auth/gmail.compose";
const SEND: &str = "https://www.googleapis.com/auth/gmail.send";
const LABELS: &str = "https://www.googleapis.com/auth/gmail.labels";

/// The scopes of what reads, what reads names and labels only, what changes, and what sends.
const READ: &[&str] = &[ALL, MODIFY, READONLY];
const LOOK: &[&str] = &[ALL, MODIFY, READONLY, METADATA];
const CHANGE: &[&str] = &[ALL, MODIFY];
const SENDS: &[&str] = &[ALL, MODIFY, COMPOSE, SEND];

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 500;
/// Ids one batch may name (Gmail API, batchModify).
const BATCH_MAX: usize = 1_000;

type Answer = Result<Response<Bytes>, Refusal>;

/// Answers a request to `/gmail/v1/users/{user}/…`; `rest` is what follows.
pub(super) fn answer(service: &Service<'_>, request: &Request<Bytes>, rest: &[&str]) -> Answer {
    let asked = Asked { service, request, query: service.query(request)? };
    let method = request.method();
    match (method, rest) {
        (&Method::GET, ["profile"]) => asked.profile(),
        (&Method::GET, ["messages"]) => asked.list(),
        (&Method::POST, ["messages", "send"]) => asked.send(),
        (&Method::POST, ["messages", "batchModify"]) => asked.batch_modify(),
        (&Method::POST, ["messages", "batchDelete"]) => asked.batch_delete(),
        (&Method::GET, ["messages", id]) => asked.get(id),
        (&Method::DELETE, ["messages", id]) => asked.delete(id),
        (&Method::POST, ["messages", id, "modify"]) => asked.modify(id),
        (&Method::POST, ["messages", id, "trash"]) => asked.relabel(id, &["TRASH"], &["INBOX"]),
        (&Method::POST, ["messages", id, "untrash"]) => asked.relabel(id, &[], &["TRASH"]),
        (&Method::GET, ["messages", id, "attachments", attachment]) => asked.attachment(id, attachment),
        (&Method::GET, ["labels"]) => asked.labels(),
        (&Method::POST, ["labels"]) => asked.new_label(),
        (&Method::GET, ["labels", id]) => asked.label(id),
        (&Method::GET, ["history"]) => asked.history(),
        (&Method::POST, ["watch"]) => asked.watch(),
        (&Method::POST, ["stop"]) => asked.stop(),
        _ => Err(Refusal::missing()),
    }
}

/// Answers a request to the upload route.
pub(super) fn upload(service: &Service<'_>, request: &Request<Bytes>, rest: &[&str]) -> Answer {
    let asked = Asked { service, request, query: service.query(request)? };
    match (request.method(), rest) {
        (&Method::POST, ["messages", "send"]) => asked.send(),
        _ => Err(Refusal::missing()),
    }
}

/// One request of one person.
struct Asked<'a> {
    service: &'a Service<'a>,
    request: &'a Request<Bytes>,
    query: Params,
}

impl Asked<'_> {
    /// Looks at the mailbox.
    fn read<T>(
        &self,
        scopes: &[&str],
        work: impl FnOnce(&mut Mailbox, &mut World) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.service.allow(scopes)?;
        let mut world = self.service.google.world();
        let mut mailbox = world.take_mailbox(&self.service.email()?)?;
        let out = work(&mut mailbox, &mut world);
        world.put_mailbox(mailbox);
        out
    }

    /// Changes the mailbox; who watches it is told.
    fn write<T>(
        &self,
        scopes: &[&str],
        work: impl FnOnce(&mut Mailbox, &mut World) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let out = self.read(scopes, work)?;
        self.service.tell_of_mail(&[self.service.email()?]);
        Ok(out)
    }

    fn profile(&self) -> Answer {
        let scopes = [ALL, MODIFY, READONLY, METADATA, COMPOSE];
        self.read(&scopes, |mailbox, _| {
            Ok(done(&json!({
                "emailAddress": mailbox.email, "messagesTotal": mailbox.len(), "threadsTotal": mailbox.threads(),
                "historyId": mailbox.newest.to_string(),
            })))
        })
    }

    /// Whether the token may see headers and labels only.
    fn is_metadata_only(&self) -> bool {
        !self.service.may(READ)
    }

    fn size(&self) -> Result<usize, Refusal> {
        number(&self.query, "maxResults", PAGE_DEFAULT, 1..=PAGE_MAX)
    }

    fn list(&self) -> Answer {
        let search = self.query.get("q");
        if search.is_some() && self.is_metadata_only() {
            return Err(Refusal::new(403, "forbidden", "Metadata scope does not support 'q' parameter"));
        }
        let query = Query {
            search: Search::read(search.unwrap_or_default()),
            labels: self.query.all("labelIds").collect(),
            spam_and_trash: self.query.get("includeSpamTrash") == Some("true"),
            size: self.size()?,
            token: self.query.get("pageToken"),
        };
        self.read(LOOK, |mailbox, _| Ok(done(&mailbox.list(&query, self.service.now())?)))
    }

    fn get(&self, id: &str) -> Answer {
        let format = match self.query.get("format").unwrap_or("full").to_ascii_lowercase().as_str() {
            "full" => Format::Full,
            "minimal" => Format::Minimal,
            "raw" => Format::Raw,
            "metadata" => Format::Metadata(self.query.all("metadataHeaders").map(str::to_owned).collect()),
            _ => return Err(Refusal::invalid("Invalid value for format")),
        };
        if matches!(format, Format::Full | Format::Raw) && self.service.may(LOOK) && self.is_metadata_only() {
            return Err(Refusal::new(403, "forbidden", "Metadata scope doesn't allow format FULL"));
        }
        self.read(LOOK, |mailbox, world| {
            let message = mailbox.get(id).ok_or_else(Refusal::missing)?;
            Ok(done(&mailbox.show(message, &format, &mut world.dice)))
        })
    }

    fn attachment(&self, id: &str, name: &str) -> Answer {
        self.read(READ, |mailbox, _| {
            let message = mailbox.get(id).ok_or_else(Refusal::missing)?;
            let content =
                attachment(&message.part, name).ok_or_else(|| Refusal::invalid("Invalid attachment token"))?;
            Ok(done(&json!({ "size": content.len(), "data": mime::encode(content) })))
        })
    }

    fn relabel(&self, id: &str, add: &[&str], remove: &[&str]) -> Answer {
        let own = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        self.change(id, &own(add), &own(remove))
    }

    fn modify(&self, id: &str) -> Answer {
        let body = body(self.request)?;
        self.change(id, &names(&body, "addLabelIds"), &names(&body, "removeLabelIds"))
    }

    fn change(&self, id: &str, add: &[String], remove: &[String]) -> Answer {
        self.write(CHANGE, |mailbox, world| {
            known(mailbox, add.iter().chain(remove))?;
            if !mailbox.relabel(id, add, remove, self.service.now(), &mut world.dice) {
                return Err(Refusal::missing());
            }
            let message = mailbox.get(id).ok_or_else(Refusal::missing)?;
            Ok(done(&json!({ "id": message.id, "threadId": message.thread, "labelIds": message.labels })))
        })
    }

    fn batch(&self) -> Result<(Value, Vec<String>), Refusal> {
        let body = body(self.request)?;
        let ids = names(&body, "ids");
        if ids.is_empty() || ids.len() > BATCH_MAX {
            return Err(Refusal::invalid("No message ids specified, or too many"));
        }
        Ok((body, ids))
    }

    fn batch_modify(&self) -> Answer {
        let (body, ids) = self.batch()?;
        let (add, remove) = (names(&body, "addLabelIds"), names(&body, "removeLabelIds"));
        self.write(CHANGE, |mailbox, world| {
            known(mailbox, add.iter().chain(&remove))?;
            for id in &ids {
                mailbox.relabel(id, &add, &remove, self.service.now(), &mut world.dice);
            }
            Ok(empty())
        })
    }

    fn batch_delete(&self) -> Answer {
        let (_, ids) = self.batch()?;
        self.write(&[ALL], |mailbox, world| {
            for id in &ids {
                mailbox.delete(id, self.service.now(), &mut world.dice);
            }
            Ok(empty())
        })
    }

    fn delete(&self, id: &str) -> Answer {
        self.write(&[ALL], |mailbox, world| {
            let there = mailbox.delete(id, self.service.now(), &mut world.dice);
            if there { Ok(empty()) } else { Err(Refusal::missing()) }
        })
    }

    fn labels(&self) -> Answer {
        let scopes = [ALL, LABELS, MODIFY, READONLY, METADATA];
        self.read(&scopes, |mailbox, _| {
            let system = SYSTEM.iter().map(|id| json!({ "id": id, "name": id, "type": "system" }));
            let own = mailbox.labels.iter().map(|(id, name)| json!({ "id": id, "name": name, "type": "user" }));
            Ok(done(&json!({ "labels": system.chain(own).collect::<Vec<_>>() })))
        })
    }

    fn label(&self, id: &str) -> Answer {
        let scopes = [ALL, LABELS, MODIFY, READONLY, METADATA];
        self.read(&scopes, |mailbox, _| {
            let system = SYSTEM.contains(&id);
            let name = mailbox.labels.get(id).map(String::as_str).or(system.then_some(id));
            let name = name.ok_or_else(Refusal::missing)?;
            let (total, unread) = mailbox.counts(id);
            Ok(done(&json!({
                "id": id, "name": name, "type": if system { "system" } else { "user" },
                "messagesTotal": total, "messagesUnread": unread,
            })))
        })
    }

    fn new_label(&self) -> Answer {
        let body = body(self.request)?;
        let name = text(&body, "name").filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Refusal::invalid("Invalid label name"))?;
        self.read(&[ALL, LABELS, MODIFY], |mailbox, _| {
            let taken = |known: &str| known.eq_ignore_ascii_case(name);
            if mailbox.labels.values().any(|known| taken(known)) || SYSTEM.iter().any(|known| taken(known)) {
                return Err(Refusal::new(409, "aborted", "Label name exists or conflicts"));
            }
            let id = format!("Label_{}", mailbox.labels.len() + 1);
            mailbox.labels.insert(id.clone(), name.to_owned());
            Ok(done(&json!({ "id": id, "name": name, "type": "user" })))
        })
    }

    fn history(&self) -> Answer {
        let start = self.query.get("startHistoryId").and_then(|start| start.parse().ok());
        let start = start.ok_or_else(|| Refusal::invalid("Missing or invalid startHistoryId"))?;
        let kinds: Vec<&str> = self.query.all("historyTypes").collect();
        let (label, token) = (self.query.get("labelId"), self.query.get("pageToken"));
        self.read(LOOK, |mailbox, _| {
            let life = self.service.google.config.history_life;
            let life = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
            mailbox.forget_before(self.service.now().saturating_sub(life));
            Ok(done(&mailbox.since(start, &kinds, label, self.size()?, token)?))
        })
    }

    fn watch(&self) -> Answer {
        let body = body(self.request)?;
        let topic = text(&body, "topicName").unwrap_or_default();
        let mut parts = topic.split('/');
        let right = parts.next() == Some("projects")
            && parts.next().is_some_and(|project| !project.is_empty())
            && parts.next() == Some("topics")
            && parts.next().is_some_and(|name| !name.is_empty())
            && parts.next().is_none();
        if !right {
            return Err(Refusal::invalid(format!("Invalid topicName does not match projects/*/topics/*: {topic}")));
        }
        let now = self.service.now();
        let life = i64::try_from(self.service.google.config.watch_life.as_millis()).unwrap_or(i64::MAX);
        let expires = now.saturating_add(life);
        let behavior = text(&body, "labelFilterBehavior").or_else(|| text(&body, "labelFilterAction"));
        let excluding = behavior.is_some_and(|behavior| behavior.eq_ignore_ascii_case("exclude"));
        let watched = self.read(LOOK, |mailbox, _| {
            let other = mailbox.watching.as_ref().is_some_and(|known| known.expires > now && known.topic != topic);
            if other {
                return Err(Refusal::invalid(
                    "Only one user push notification client allowed per developer (call /stop then try again)",
                ));
            }
            let labels = names(&body, "labelIds");
            mailbox.watching = Some(Watching { topic: topic.to_owned(), labels, excluding, expires, told: None });
            Ok(done(&json!({ "historyId": mailbox.newest.to_string(), "expiration": expires.to_string() })))
        })?;
        self.service.tell_of_mail(&[self.service.email()?]);
        Ok(watched)
    }

    fn stop(&self) -> Answer {
        self.read(LOOK, |mailbox, _| {
            mailbox.watching = None;
            Ok(empty())
        })
    }
}

fn names(body: &Value, field: &str) -> Vec<String> {
    list(body, field).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Refuses a label the mailbox does not have.
fn known<'a>(mailbox: &Mailbox, labels: impl Iterator<Item = &'a String>) -> Result<(), Refusal> {
    for label in labels {
        if !SYSTEM.contains(&label.as_str()) && !mailbox.labels.contains_key(label) {
            return Err(Refusal::invalid(format!("Invalid label: {label}")));
        }
    }
    Ok(())
}

/// Shows a mailbox whole, as reading each message would.
pub(super) fn truth(google: &GoogleProvider, email: &str, format: &Format) -> Vec<Value> {
    let mut world = google.world();
    let Ok(mailbox) = world.take_mailbox(email) else { return Vec::new() };
    let out = mailbox.iter().map(|message| mailbox.show(message, format, &mut world.dice)).collect();
    world.put_mailbox(mailbox);
    out
}

/// Answers what an empty body without a length is answered with in front of Google.
pub(super) fn length_required() -> Response<Bytes> {
    gate::front(411)
}

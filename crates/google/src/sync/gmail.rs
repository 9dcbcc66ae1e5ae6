//! A mailbox: listed once, then followed by its history.
//!
//! The history id is read *before* the first page, so that what happens while the pages are read is in the history that
//! is read afterwards. Lists and history name messages only; each is fetched. What history calls deleted is gone for
//! good (trash is a label), so it needs no fetch. Spam and trash are part of the copy, because history tells of them.
//!
//! Three positions: none yet (the profile is asked for the newest history id), `list:<history id>:<page token>`, and
//! `history:<history id>:<page token>`. A run's new id is kept only once its last page is in.

use bytes::Bytes;
use http::Request;
use palisade_core::sync::{BadRecord, Change, Cursor, Next, Page, Site, Span, State, bad};
use palisade_core::{RecordId, Result, StreamName};
use serde_json::Value;

use super::{MailDepth, cursor, decode, get, text};
use crate::client::address::segment;
use crate::operation;

/// The most Gmail puts on a page of ids or history (Gmail API reference).
pub(crate) const PAGE_MAX: u32 = 500;
const USER: &str = "/gmail/v1/users/me";

pub(super) fn request(site: &Site, at: Option<&Cursor>) -> Result<Request<Bytes>> {
    let Some(at) = at else {
        return get(site, &operation::PROFILE, &format!("{USER}/profile"), &[]);
    };
    let (word, [history, token]) = cursor::read(at)?;
    let limit = site.page_size.clamp(1, PAGE_MAX).to_string();
    let mut query = vec![("maxResults", limit.as_str())];
    if !token.is_empty() {
        query.push(("pageToken", &token));
    }
    match word {
        "list" => {
            query.push(("includeSpamTrash", "true"));
            get(site, &operation::MESSAGES_LIST, &format!("{USER}/messages"), &query)
        }
        "history" => {
            query.push(("startHistoryId", &history));
            get(site, &operation::HISTORY_LIST, &format!("{USER}/history"), &query)
        }
        _ => Err(decode("the cursor is not one of this adapter's")),
    }
}

pub(super) fn page(stream: &StreamName, at: Option<&Cursor>, value: &Value, span: Span) -> Result<Page> {
    let Some(at) = at else {
        let newest = history_id(value).ok_or_else(|| decode("the profile has no history id"))?;
        let next = Next::More(cursor::write("list", &[&newest.to_string(), ""]));
        // Gmail API reference, users.getProfile: "The total number of messages in the mailbox". The list's own
        // `resultSizeEstimate` is an estimate that is often far off.
        let total = value.get("messagesTotal").and_then(Value::as_u64);
        return Ok(Page { total, ..Page::of_changes(Vec::new(), next) });
    };
    let (word, [history, _]) = cursor::read(at)?;
    let token = text(value, "nextPageToken");
    let (read, newest) = match word {
        "list" => (listed(stream, value, span)?, history.clone()),
        "history" => {
            let start: u64 = history.parse().map_err(|_| decode("the cursor's history id is not a number"))?;
            let newest = history_id(value).ok_or_else(|| decode("the page of history has no history id"))?;
            // An answer from a machine that is behind must not take the position back.
            (happened(stream, value, span)?, newest.max(start).to_string())
        }
        _ => return Err(decode("the cursor is not one of this adapter's")),
    };
    let next = match token {
        Some(token) => Next::More(cursor::write(word, &[&history, token])),
        None => Next::Done { resume: Some(cursor::write("history", &[&newest, ""])) },
    };
    Ok(Page::of_records(read, next))
}

pub(super) fn fetch(site: &Site, id: &RecordId, depth: MailDepth) -> Result<Request<Bytes>> {
    let format = match depth {
        MailDepth::Headers => "metadata",
        MailDepth::Whole => "full",
    };
    get(site, &operation::MESSAGES_GET, &format!("{USER}/messages/{}", segment(id.as_str())?), &[("format", format)])
}

/// Gives the position before an expired token of a page: the beginning of the same list.
pub(super) fn step_back(at: &Cursor) -> Option<Cursor> {
    let (word, [history, token]) = cursor::read(at).ok()?;
    (!token.is_empty()).then(|| cursor::write(word, &[&history, ""]))
}

/// Leaves out the names of attachments: Gmail makes new ones for every answer, so that the same message would never be
/// the same bytes. Whoever wants one reads the message again.
pub(super) fn steady(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| *name != "attachmentId");
            Value::Object(kept.map(|(name, value)| (name.clone(), steady(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(steady).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn listed(stream: &StreamName, value: &Value, span: Span) -> Result<(Vec<Change>, Vec<BadRecord>)> {
    let messages = match value.get("messages") {
        Some(Value::Array(messages)) => messages.as_slice(),
        // An empty page has no `messages`; what is no page of messages at all must not look like one.
        None if value.get("resultSizeEstimate").is_some() || value.get("nextPageToken").is_some() => &[],
        Some(_) | None => return Err(decode("the page is not a list of messages")),
    };
    Ok(bad::sorted(messages.iter().map(|message| Ok(change(stream, id_of(message)?, span, State::Unclear)))))
}

/// Reads what happened, a message named once: deleted if it ever was, else to be fetched.
fn happened(stream: &StreamName, value: &Value, span: Span) -> Result<(Vec<Change>, Vec<BadRecord>)> {
    let records = match value.get("history") {
        Some(Value::Array(records)) => records.as_slice(),
        None => &[],
        Some(_) => return Err(decode("the page is not a list of history")),
    };
    let (mut changes, mut unnamed): (Vec<Change>, Vec<BadRecord>) = (Vec::new(), Vec::new());
    let mut places = std::collections::HashMap::new();
    for record in records {
        for (name, deletes) in
            [("messagesAdded", false), ("labelsAdded", false), ("labelsRemoved", false), ("messagesDeleted", true)]
        {
            for entry in record.get(name).and_then(Value::as_array).into_iter().flatten() {
                let id = match entry.get("message").map_or_else(|| id_of(entry), id_of) {
                    Ok(id) => id,
                    Err(bad) => {
                        unnamed.push(bad);
                        continue;
                    }
                };
                let place = *places.entry(id).or_insert_with(|| {
                    changes.push(change(stream, id, span, State::Unclear));
                    changes.len() - 1
                });
                if let Some(known) = changes.get_mut(place).filter(|_| deletes) {
                    known.state = State::Deleted;
                }
            }
        }
    }
    Ok((changes, unnamed))
}

fn id_of(message: &Value) -> Result<&str, BadRecord> {
    text(message, "id").ok_or_else(|| BadRecord::of_json(None, message, "a message has no id"))
}

fn history_id(value: &Value) -> Option<u64> {
    let id = value.get("historyId")?;
    id.as_u64().or_else(|| id.as_str()?.parse().ok())
}

fn change(stream: &StreamName, id: &str, span: Span, state: State) -> Change {
    Change { stream: stream.clone(), id: RecordId::new(id), span, state }
}

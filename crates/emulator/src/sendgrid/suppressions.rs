//! The lists of suppressed addresses: paged by offset, oldest first.

use bytes::Bytes;
use http::{Method, Response};
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::world::Entry;
use super::{SendGridProvider, empty};
use crate::gate::{self, House};
use crate::params::Params;

const PAGE_DEFAULT: usize = 500;
const PAGE_MAX: usize = 500;

impl SendGridProvider {
    /// Answers `/v3/suppression/{list}` and `/v3/suppression/{list}/{email}`.
    pub(super) fn suppression(
        &self,
        method: &Method,
        list: &str,
        rest: &[&str],
        query: &Params,
        body: &Bytes,
    ) -> Result<Response<Bytes>, Refusal> {
        let missing = || Refusal::new(404, "not found");
        let mut world = self.world();
        world.list(list).ok_or_else(missing)?;
        match (method, rest) {
            (&Method::GET, []) => {
                self.allowed("suppression.read")?;
                let entries = world.list(list).unwrap_or_default();
                page(entries, query).map(|page| gate::json(200, &page))
            }
            (&Method::GET, [email]) if list != "unsubscribes" => {
                self.allowed("suppression.read")?;
                let entries = world.list(list).unwrap_or_default();
                let found = entries.iter().filter(|entry| entry.email.eq_ignore_ascii_case(email));
                Ok(gate::json(200, &found.map(Entry::show).collect::<Value>()))
            }
            (&Method::DELETE, []) if list != "unsubscribes" => {
                self.allowed("suppression.delete")?;
                let form: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
                let emails = form.get("emails").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                if form.get("delete_all") == Some(&Value::Bool(true)) {
                    world.release_all(list);
                } else if emails.is_empty() {
                    return Err(Refusal::field("emails", "emails or delete_all is required"));
                }
                emails.iter().filter_map(Value::as_str).for_each(|email| {
                    world.release(list, email);
                });
                Ok(empty(204))
            }
            (&Method::DELETE, [email]) if list != "unsubscribes" => {
                self.allowed("suppression.delete")?;
                if world.release(list, email) { Ok(empty(204)) } else { Err(missing()) }
            }
            _ => Err(missing()),
        }
    }

    /// Answers `/v3/asm/suppressions/global` and the same with an address.
    pub(super) fn global(
        &self,
        house: &House,
        method: &Method,
        rest: &[&str],
        body: &Bytes,
    ) -> Result<Response<Bytes>, Refusal> {
        let mut world = self.world();
        match (method, rest) {
            (&Method::POST, []) => {
                let form: Value = serde_json::from_slice(body).map_err(|_| Refusal::new(400, "Bad Request"))?;
                let emails = form.get("recipient_emails").and_then(Value::as_array);
                let emails =
                    emails.ok_or_else(|| Refusal::field("recipient_emails", "recipient_emails is required"))?;
                for email in emails.iter().filter_map(Value::as_str) {
                    world.suppress("unsubscribes", entry(email, house.now() / 1_000));
                }
                Ok(gate::json(201, &json!({ "recipient_emails": emails })))
            }
            (&Method::GET, [email]) => {
                let list = world.list("unsubscribes").unwrap_or_default();
                let found = list.iter().find(|entry| entry.email.eq_ignore_ascii_case(email));
                let value = found.map_or_else(|| json!({}), |entry| json!({ "recipient_email": entry.email }));
                Ok(gate::json(200, &value))
            }
            (&Method::DELETE, [email]) => {
                self.allowed("suppression.delete")?;
                if world.release("unsubscribes", email) { Ok(empty(204)) } else { Err(Refusal::new(404, "not found")) }
            }
            _ => Err(Refusal::new(404, "not found")),
        }
    }
}

/// Makes an entry that says nothing but since when.
pub(super) fn entry(email: &str, created: i64) -> Entry {
    Entry { email: email.to_owned(), created, reason: None, status: None, ip: None }
}

fn page(entries: &[Entry], query: &Params) -> Result<Value, Refusal> {
    let number = |name: &'static str| -> Result<Option<i64>, Refusal> {
        let Some(text) = query.get(name) else { return Ok(None) };
        let value: Option<i64> = text.parse().ok().filter(|value| *value >= 0);
        value.map(Some).ok_or_else(|| Refusal::field(name, "must be a positive integer"))
    };
    let size = |value: Option<i64>, default: usize| value.map_or(default, |value| usize::try_from(value).unwrap_or(0));
    let (limit, offset) = (size(number("limit")?, PAGE_DEFAULT), size(number("offset")?, 0));
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(Refusal::field("limit", "limit must be between 1 and 500"));
    }
    let (start, end) = (number("start_time")?, number("end_time")?);
    let prefix = query.get("email").map(str::to_ascii_lowercase);
    let wanted = |entry: &&Entry| {
        start.is_none_or(|start| entry.created >= start)
            && end.is_none_or(|end| entry.created <= end)
            && prefix.as_ref().is_none_or(|prefix| entry.email.to_ascii_lowercase().starts_with(prefix.as_str()))
    };
    Ok(entries.iter().filter(wanted).skip(offset).take(limit).map(Entry::show).collect())
}

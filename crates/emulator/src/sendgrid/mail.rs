//! Mail send: checked as SendGrid checks it, taken, and told of by events. And the activity that finds it again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderValue, Response};
use serde_json::{Map, Value, json};

use super::refusal::Refusal;
use super::world::{Copy, Mail};
use super::{SendGridProvider, empty};
use crate::gate::{self, House};
use crate::params::Params;

const RECIPIENTS_MAX: usize = 1_000;
const CATEGORIES_MAX: usize = 10;
/// SendGrid says 30 MB.
const MAIL_BYTES_MAX: usize = 30 * 1024 * 1024;
/// How far ahead a mail may be scheduled, in seconds.
const AHEAD_MAX: i64 = 72 * 3_600;
const CUSTOM_ARGS_BYTES_MAX: usize = 10_000;

impl SendGridProvider {
    /// Takes a mail, or refuses it.
    pub(super) fn send(&self, house: &House, body: &Bytes, now: i64) -> Result<Response<Bytes>, Refusal> {
        if body.len() > MAIL_BYTES_MAX {
            // Not JSON: the server in front of the API answers.
            return Ok(gate::front(413));
        }
        let mail: Value = serde_json::from_slice(body).map_err(|_| Refusal::new(400, "Bad Request"))?;
        check(&mail, now / 1_000)?;
        let from = mail.pointer("/from/email").and_then(Value::as_str).unwrap_or_default();
        if !self.config.senders.is_empty() && !self.config.senders.iter().any(|known| known.eq_ignore_ascii_case(from))
        {
            let message = "The from address does not match a verified Sender Identity. Mail cannot be sent until this error is resolved. Visit https://sendgrid.com/docs/for-developers/sending-email/sender-identity/ to see the Sender Identity requirements";
            return Err(Refusal { status: 403, ..Refusal::field("from", message) });
        }
        if mail.pointer("/mail_settings/sandbox_mode/enable") == Some(&Value::Bool(true)) {
            return Ok(empty(200));
        }
        let mut world = self.world();
        if self.config.credits.is_some_and(|credits| world.sent >= credits) {
            return Err(Refusal::new(401, "Maximum credits exceeded"));
        }
        let id = world.name(22);
        let copies = copies(&mail, &id);
        let mut mail = Mail { id: id.clone(), body: mail, copies };
        let parcels = self.tell(&mut world, &mut mail, now);
        world.keep(mail);
        drop(world);
        house.book().ledger.events_created += parcels.1;
        house.post.leave(parcels.0);
        let mut response = empty(202);
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-message-id", id);
        }
        Ok(response)
    }

    /// Finds mails in the activity: by a custom argument, a recipient or a part of the id.
    pub(super) fn find(&self, query: &Params) -> Result<Value, Refusal> {
        let limit = query.get("limit").map_or(Ok(10), str::parse);
        let limit: usize = limit
            .ok()
            .filter(|limit| (1..=1_000).contains(limit))
            .ok_or_else(|| Refusal::new(400, "limit must be greater than 0 and less than or equal to 1000"))?;
        let query = query.get("query").ok_or_else(|| Refusal::new(400, "query is required"))?;
        let term = Term::read(query).ok_or_else(|| Refusal::new(400, "invalid syntax"))?;
        let world = self.world();
        let all = world.mails.iter().rev().flat_map(|mail| mail.copies.iter().map(move |copy| (mail, copy)));
        let found = all.filter(|(mail, copy)| term.fits(mail, copy)).take(limit);
        let found: Vec<Value> = found.map(|(mail, copy)| shown(mail, copy)).collect();
        Ok(json!({ "messages": found }))
    }
}

fn shown(mail: &Mail, copy: &Copy) -> Value {
    json!({
        "from_email": mail.body.pointer("/from/email"), "msg_id": copy.id, "subject": mail.body.get("subject"),
        "to_email": copy.to, "status": copy.status, "opens_count": 0, "clicks_count": 0,
        "last_event_time": "2026-01-01T00:00:00Z",
    })
}

/// What a query asks for; only the few forms that reconciling needs.
enum Term {
    Argument(String, String),
    To(String),
    Id(String),
}

impl Term {
    fn read(query: &str) -> Option<Self> {
        let query = query.trim();
        let query = query.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(query);
        if let Some((id, _)) = query.strip_prefix("msg_id LIKE ").and_then(|rest| rest.split_once('%')) {
            return Some(Self::Id(id.trim_start_matches(['\'', '"']).to_owned()));
        }
        let (name, value) = query.split_once('=')?;
        let value = value.trim().strip_prefix('"')?.strip_suffix('"')?.to_owned();
        match name.trim() {
            "to_email" => Some(Self::To(value)),
            name => {
                let name = name.strip_prefix("unique_args['")?.strip_suffix("']")?;
                Some(Self::Argument(name.to_owned(), value))
            }
        }
    }

    fn fits(&self, _mail: &Mail, copy: &Copy) -> bool {
        match self {
            Self::Argument(name, value) => copy.custom_args.get(name).and_then(Value::as_str) == Some(value),
            Self::To(email) => copy.to.eq_ignore_ascii_case(email),
            Self::Id(id) => copy.id.starts_with(id.as_str()),
        }
    }
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Makes one copy for each recipient; a personalization's custom arguments go before the mail's.
fn copies(mail: &Value, id: &str) -> Vec<Copy> {
    let mut copies = Vec::new();
    let args = |value: &Value| value.get("custom_args").and_then(Value::as_object).cloned().unwrap_or_default();
    let common: Map<String, Value> = args(mail);
    for personalization in array(mail, "personalizations") {
        let own: BTreeMap<String, Value> = common.clone().into_iter().chain(args(personalization)).collect();
        for name in ["to", "cc", "bcc"] {
            for recipient in array(personalization, name) {
                copies.push(Copy {
                    id: format!("{id}.recvd-emulator-{}", copies.len()),
                    to: text(recipient, "email").to_owned(),
                    custom_args: own.clone(),
                    status: "processed".into(),
                });
            }
        }
    }
    copies
}

/// Checks a mail as the API does; the first error counts.
fn check(mail: &Value, now: i64) -> Result<(), Refusal> {
    let personalizations = array(mail, "personalizations");
    if personalizations.is_empty() {
        return Err(Refusal::field(
            "personalizations",
            "The personalizations field is required and must have at least one personalization.",
        ));
    }
    address(mail.get("from"), "from.email")?;
    let mut count = 0;
    for (at, one) in personalizations.iter().enumerate() {
        if array(one, "to").is_empty() {
            let field = format!("personalizations.{at}.to");
            return Err(Refusal::field(
                &field,
                "The to array is required for all personalization objects, and must have at least one email object with a valid email address.",
            ));
        }
        let mut known = BTreeSet::new();
        for name in ["to", "cc", "bcc"] {
            for (index, recipient) in array(one, name).iter().enumerate() {
                address(Some(recipient), &format!("personalizations.{at}.{name}.{index}.email"))?;
                count += 1;
                if !known.insert(text(recipient, "email").to_ascii_lowercase()) {
                    return Err(Refusal::field(
                        "personalizations",
                        "Each email address in the personalization block should be unique between to, cc, and bcc. We found the first duplicate instance of an email address in the personalizations.",
                    ));
                }
            }
        }
    }
    if count > RECIPIENTS_MAX || personalizations.len() > RECIPIENTS_MAX {
        return Err(Refusal::field(
            "personalizations",
            "There is a limit of 1000 total recipients (to + cc + bcc) per request.",
        ));
    }
    content(mail, personalizations)?;
    for (name, at) in [("send_at", mail.get("send_at"))] {
        if at.and_then(Value::as_i64).is_some_and(|at| at > now + AHEAD_MAX) {
            return Err(Refusal::field(name, "The send_at time must be within 72 hours."));
        }
    }
    if mail.get("custom_args").is_some_and(|args| args.to_string().len() > CUSTOM_ARGS_BYTES_MAX) {
        return Err(Refusal::field("custom_args", "The custom_args may not exceed 10,000 bytes."));
    }
    if array(mail, "categories").len() > CATEGORIES_MAX {
        return Err(Refusal::field("categories", "There is a limit of 10 categories."));
    }
    Ok(())
}

fn content(mail: &Value, personalizations: &[Value]) -> Result<(), Refusal> {
    let template = text(mail, "template_id");
    let contents = array(mail, "content");
    if template.is_empty() {
        let subject = |value: &Value| !text(value, "subject").is_empty();
        if !subject(mail) && !personalizations.iter().all(subject) {
            return Err(Refusal::field(
                "subject",
                "The subject is required. You can get around this requirement if you use a template with a subject defined or if every personalization has a subject defined.",
            ));
        }
        if contents.is_empty() {
            return Err(Refusal::field(
                "content",
                "Unless a valid template_id is provided, the content parameter is required. There must be at least one defined content block.",
            ));
        }
    }
    for (at, one) in contents.iter().enumerate() {
        if text(one, "value").is_empty() {
            let field = format!("content.{at}.value");
            return Err(Refusal::field(&field, "The content value must be a string at least one character in length."));
        }
    }
    let plain = contents.iter().position(|one| text(one, "type") == "text/plain");
    if plain.is_some_and(|at| at > 0) {
        return Err(Refusal::field(
            "content",
            "If present, text/plain and text/html may only be provided once, and text/plain must come first.",
        ));
    }
    for (at, one) in array(mail, "attachments").iter().enumerate() {
        let content = text(one, "content");
        let plain = content.bytes().all(|c| c.is_ascii_alphanumeric() || b"+/=".contains(&c));
        if content.is_empty() || !plain || text(one, "filename").is_empty() {
            let field = format!("attachments.{at}.content");
            return Err(Refusal::field(&field, "The attachment content must be base64 encoded."));
        }
    }
    Ok(())
}

fn address(value: Option<&Value>, field: &str) -> Result<(), Refusal> {
    let email = value.map(|value| text(value, "email")).unwrap_or_default();
    let valid = email.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && domain.contains('.') && !email.contains([' ', '\r', '\n', ',', '<', '>'])
    });
    if valid { Ok(()) } else { Err(Refusal::field(field, "Does not contain a valid address.")) }
}

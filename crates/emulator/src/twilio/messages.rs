//! Messages: made, listed, shown, changed.

use std::ops::RangeInclusive;

use http::Uri;
use serde_json::{Value, json};

use super::TwilioProvider;
use super::refusal::Refusal;
use super::world::{Message, World};
use crate::gate::House;
use crate::params::{Params, encode_all};

/// The longest text (Twilio, error 21617).
const BODY_CHARS_MAX: usize = 1_600;
const MEDIA_MAX: usize = 10;
/// How far ahead a message may be scheduled, in seconds (Twilio, error 35114).
const AHEAD: RangeInclusive<i64> = 300..=3_024_000;
const VALIDITY: RangeInclusive<i64> = 1..=36_000;
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 1_000;
const DAY: i64 = 86_400_000;

/// Recipients that Twilio's test credentials refuse, with code and sentence (Twilio, test credentials).
const REFUSED: [(&str, u32, &str); 5] = [
    ("+15005550001", 21211, "is not a valid phone number."),
    ("+15005550002", 21612, "is not currently reachable using this 'From' number."),
    ("+15005550003", 21408, "is in a region that has not been enabled."),
    ("+15005550004", 21610, "has opted out: attempt to send to unsubscribed recipient."),
    ("+15005550009", 21614, "is not a mobile number."),
];

impl TwilioProvider {
    /// Makes a message and lets it go its way.
    pub(super) fn create(&self, house: &House, form: &Params, now: i64) -> Result<Value, Refusal> {
        let mut world = self.world();
        let message = self.check(&mut world, form, now)?;
        let shown = world.show(&message);
        let (sid, scheduled) = (message.sid.clone(), message.status == "scheduled");
        world.insert(message);
        let parcels = if scheduled || !self.config.delivers { Vec::new() } else { self.settle(&mut world, &sid, now) };
        drop(world);
        house.post.leave(parcels);
        Ok(shown)
    }

    fn check(&self, world: &mut World, form: &Params, now: i64) -> Result<Message, Refusal> {
        let to = form.get("To").ok_or_else(|| Refusal::invalid(21604, "A 'To' phone number is required."))?;
        let number = to.rsplit_once(':').map_or(to, |(_, number)| number);
        let is_number = number
            .strip_prefix('+')
            .is_some_and(|digits| (7..=15).contains(&digits.len()) && digits.bytes().all(|c| c.is_ascii_digit()));
        if !is_number {
            return Err(Refusal::invalid(21211, format!("The 'To' number {to} is not a valid phone number.")));
        }
        let service = form.get("MessagingServiceSid");
        let chosen = match service {
            Some(sid) => {
                let known = self.config.services.iter().find(|(known, _)| known == sid);
                Some(known.ok_or_else(|| Refusal::invalid(21705, "The Messaging Service Sid is invalid."))?.1.clone())
            }
            None => None,
        };
        let sender = match (form.get("From"), &chosen) {
            (Some(from), _) if self.config.senders.iter().any(|known| known == from) => from.to_owned(),
            (Some(from), _) => {
                let message = format!("The 'From' phone number {from} is not a valid, message-capable Twilio number.");
                return Err(Refusal::invalid(21606, message));
            }
            (None, Some(chosen)) => chosen.clone(),
            (None, None) => {
                return Err(Refusal::invalid(21603, "A 'From' or 'MessagingServiceSid' parameter is required."));
            }
        };
        self.content(form)?;
        let refused = REFUSED.iter().find(|(known, ..)| *known == number);
        if let Some((_, code, why)) = refused {
            return Err(Refusal::invalid(*code, format!("The 'To' number {to} {why}")));
        }
        if world.opted_out.contains(&(to.to_owned(), sender.clone())) {
            return Err(Refusal::invalid(21610, "Attempt to send to unsubscribed recipient"));
        }
        let status = match self.schedule(form, now)? {
            Some(_) if service.is_none() => {
                return Err(Refusal::invalid(35118, "MessagingServiceSid is required to schedule a message"));
            }
            Some(_) => "scheduled",
            None if service.is_some() => "accepted",
            None => "queued",
        };
        let media: Vec<String> = form.all("MediaUrl").map(str::to_owned).collect();
        Ok(Message {
            sid: world.id(if media.is_empty() { "SM" } else { "MM" }),
            to: to.to_owned(),
            from: service.is_none().then_some(sender),
            service: service.map(str::to_owned),
            // A template is rendered here, as far as one can without knowing it.
            body: form.get("Body").or(form.get("ContentVariables")).unwrap_or_default().to_owned(),
            media,
            status: status.to_owned(),
            direction: "outbound-api".into(),
            error_code: None,
            created: now,
            sent: None,
            updated: now,
            callback: form.get("StatusCallback").map(str::to_owned),
        })
    }

    fn content(&self, form: &Params) -> Result<(), Refusal> {
        let body = form.get("Body").unwrap_or_default();
        if body.chars().count() > BODY_CHARS_MAX {
            let message = "The concatenated message body exceeds the 1600 character limit.";
            return Err(Refusal::invalid(21617, message));
        }
        let media: Vec<&str> = form.all("MediaUrl").collect();
        if body.is_empty() && media.is_empty() && form.get("ContentSid").is_none() {
            return Err(Refusal::invalid(21619, "A text message body or media urls must be specified."));
        }
        if media.len() > MEDIA_MAX {
            return Err(Refusal::invalid(21623, "Number of media files exceeds allowed limit."));
        }
        let is_url = |text: &str| text.parse::<Uri>().is_ok_and(|uri| uri.scheme().is_some() && uri.host().is_some());
        if !media.iter().copied().all(is_url) {
            return Err(Refusal::invalid(21620, "Invalid media URL(s)."));
        }
        if form.get("StatusCallback").is_some_and(|url| !is_url(url.split('#').next().unwrap_or_default())) {
            return Err(Refusal::invalid(21609, "The 'StatusCallback' URL is not a valid URL."));
        }
        let validity = form.get("ValidityPeriod");
        if validity.is_some_and(|text| !text.parse().is_ok_and(|seconds: i64| VALIDITY.contains(&seconds))) {
            return Err(Refusal::invalid(20001, "The 'ValidityPeriod' is out of range."));
        }
        Ok(())
    }

    fn schedule(&self, form: &Params, now: i64) -> Result<Option<i64>, Refusal> {
        let Some(at) = form.get("SendAt") else { return Ok(None) };
        if form.get("ScheduleType") != Some("fixed") {
            return Err(Refusal::invalid(35111, "ScheduleType is required to schedule a message"));
        }
        let at = instant(at).ok_or_else(|| Refusal::invalid(35114, "SendAt is not a time"))?;
        if AHEAD.contains(&((at - now) / 1_000)) {
            return Ok(Some(at));
        }
        Err(Refusal::invalid(35114, "SendAt time must be between 300 seconds and 35 days in the future"))
    }

    pub(super) fn show(&self, sid: &str) -> Option<Value> {
        let world = self.world();
        world.message(sid).map(|message| world.show(message))
    }

    /// Empties a message's text, or calls a scheduled one back.
    pub(super) fn update(&self, sid: &str, form: &Params, now: i64) -> Result<Option<Value>, Refusal> {
        let mut world = self.world();
        let Some(message) = world.message_mut(sid) else { return Ok(None) };
        let redacts = form.iter().any(|(name, value)| name == "Body" && value.is_empty());
        match form.get("Status") {
            Some("canceled") if message.status == "scheduled" => "canceled".clone_into(&mut message.status),
            Some("canceled") => return Err(Refusal::invalid(30409, "Message is not in a cancelable state")),
            None if redacts => message.body.clear(),
            Some(_) | None => return Err(Refusal::invalid(20001, "Only Body= and Status=canceled can be set")),
        }
        message.updated = now;
        let message = message.clone();
        Ok(Some(world.show(&message)))
    }

    /// Lists messages, newest first; a page goes on behind the message its token names.
    pub(super) fn list(&self, query: &Params) -> Result<Value, Refusal> {
        let number = |name: &str, default: usize| match query.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| Refusal::invalid(20001, format!("Invalid {name}"))),
        };
        let (size, page) = (number("PageSize", PAGE_DEFAULT)?, number("Page", 0)?);
        if size > PAGE_MAX || size == 0 {
            return Err(Refusal::invalid(20007, "Page size too large"));
        }
        let world = self.world();
        let behind = match query.get("PageToken") {
            Some(token) => {
                let place = token.strip_prefix("PA").and_then(|sid| world.place(sid));
                Some(place.ok_or_else(|| Refusal::invalid(20006, "Invalid page token"))?)
            }
            None => None,
        };
        let window = window(query)?;
        let wanted = |message: &&Message| {
            query.get("To").is_none_or(|to| message.to == to)
                && query.get("From").is_none_or(|from| message.from.as_deref() == Some(from))
                && window.as_ref().is_none_or(|window| message.sent.is_some_and(|sent| window.contains(&sent)))
        };
        let older = world.messages.range(..behind.unwrap_or(u64::MAX)).rev().map(|(_, message)| message);
        let mut rest = older.filter(wanted);
        let shown: Vec<&Message> = rest.by_ref().take(size).collect();
        let more = rest.next().is_some();
        let path = format!("/2010-04-01/Accounts/{}/Messages.json", self.config.account_sid);
        let filters = query.iter().filter(|(name, _)| !matches!(*name, "Page" | "PageToken" | "PageSize"));
        let filters: Vec<(&str, &str)> = filters.collect();
        let uri = |page: usize, token: Option<String>| {
            let (size, page) = (size.to_string(), page.to_string());
            let own = [("PageSize", size.as_str()), ("Page", page.as_str())];
            let token = token.as_deref().map(|token| ("PageToken", token));
            format!("{path}?{}", encode_all(filters.iter().copied().chain(own).chain(token)))
        };
        let next = shown.last().filter(|_| more).map(|last| uri(page + 1, Some(format!("PA{}", last.sid))));
        let start = page * size;
        Ok(json!({
            "messages": shown.iter().map(|message| world.show(message)).collect::<Vec<_>>(),
            "page": page, "page_size": size, "start": start, "end": start + shown.len().saturating_sub(1),
            "first_page_uri": uri(0, None), "next_page_uri": next, "previous_page_uri": null, "uri": uri(page, None),
        }))
    }
}

/// Reads the bounds of `DateSent`: a day, or a moment; inclusive, as documented.
fn window(query: &Params) -> Result<Option<RangeInclusive<i64>>, Refusal> {
    let mut bounds = i64::MIN..=i64::MAX;
    let mut any = false;
    for (name, from, until) in [("DateSent", true, true), ("DateSent>", true, false), ("DateSent<", false, true)] {
        let Some(text) = query.get(name) else { continue };
        any = true;
        let (start, end) = match (instant(text), instant(&format!("{text}T00:00:00Z"))) {
            (Some(at), _) => (at, at + 999),
            (None, Some(day)) => (day, day + DAY - 1),
            (None, None) => return Err(Refusal::invalid(20001, "Invalid date value.")),
        };
        bounds = if from { start } else { *bounds.start() }..=if until { end } else { *bounds.end() };
    }
    Ok(any.then_some(bounds))
}

/// Reads `2026-01-01T00:00:00Z` as milliseconds since 1970.
fn instant(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| -> Option<[i64; 3]> {
        let parts: Vec<i64> = text.split(by).map(str::parse).collect::<Result<_, _>>().ok()?;
        parts.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time.split('.').next()?, ':')?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 (Howard Hinnant's algorithm).
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_days_are_read() {
        assert_eq!(instant("2026-01-01T00:00:00Z"), Some(1_767_225_600_000));
        assert_eq!(instant("2026-01-01T00:00:01.5Z"), Some(1_767_225_601_000));
        assert_eq!(instant("2026-01-01"), None);
        let bounds = |text: &str| window(&Params::parse(text.as_bytes()).unwrap());
        assert_eq!(bounds("a=1"), Ok(None));
        assert_eq!(bounds("DateSent=2026-01-01"), Ok(Some(1_767_225_600_000..=1_767_311_999_999)));
        assert_eq!(bounds("DateSent%3E=2026-01-01T00%3A00%3A00Z"), Ok(Some(1_767_225_600_000..=i64::MAX)));
        assert_eq!(bounds("DateSent%3C=2026-01-01"), Ok(Some(i64::MIN..=1_767_311_999_999)));
        assert!(bounds("DateSent=soon").is_err());
    }
}

//! Deliveries from Stripe: the signature over the exact bytes, and the events inside. Pure; time is an argument.
//!
//! Signature: `Stripe-Signature: t=<unix seconds>,v1=<hex>[,v1=<hex>…]`; the code is HMAC-SHA256 under the whole
//! `whsec_…` text of `<t>.<body>` (docs.stripe.com/webhooks, stripe-node 23, stripe-python 16). Where the official
//! SDKs disagree or are lax the stricter reading is taken: the window counts both ways, a second `t` is refused.

use std::borrow::Cow;

use http::HeaderName;
use palisade_core::webhook::standard::check_time;
use palisade_core::webhook::{
    Event, Parsed, RawDelivery, Refusal, Reply, Senders, TOLERANCE_SECONDS, Verified, Webhook, hmac, split, unreadable,
};
use palisade_core::{EventId, Result, Secret, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::json;

/// Where Stripe publishes what its webhooks come from (docs.stripe.com/ips). It tells of changes seven days ahead, by its
/// mailing list api-announce.
const SENDERS_SOURCE: &str = "https://stripe.com/files/ips/ips_webhooks.txt";
/// When that was read, as two mirrors of it agree.
const SENDERS_READ_ON: &str = "2026-05-15";
const SENDERS: &[&str] = &[
    "3.18.12.63",
    "3.69.109.8",
    "3.120.168.93",
    "3.130.192.231",
    "13.235.14.237",
    "13.235.122.149",
    "18.211.135.69",
    "35.154.171.200",
    "35.157.207.129",
    "52.15.183.38",
    "54.88.130.119",
    "54.88.130.237",
    "54.187.174.169",
    "54.187.205.235",
    "54.187.216.72",
];

/// The header with the signed time and one or more signatures.
pub static SIGNATURE: HeaderName = HeaderName::from_static("stripe-signature");
/// What a thin event calls itself. It names an object and carries none of it.
pub(crate) const THIN: &str = "v2.core.event";
/// Says that an account ended the grant of the platform.
const DEAUTHORIZED: &str = "account.application.deauthorized";
/// Stripe's ids and types are far shorter; longer ones would only fill rows.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Stripe's deliveries.
#[derive(Clone, Copy, Debug, Default)]
pub struct StripeWebhook;

/// Makes the value of the signature header for a body: for tests and for products that send themselves events.
#[must_use]
pub fn sign(secret: &Secret, at: Timestamp, body: &[u8]) -> String {
    let time = at.seconds().to_string();
    let code = secret.hmac_key().code(&[time.as_bytes(), b".", body]);
    format!("t={time},v1={}", hmac::to_lower_hex(&code))
}

impl Webhook for StripeWebhook {
    fn senders(&self) -> Senders {
        Senders::Published { networks: SENDERS, source: SENDERS_SOURCE, read_on: SENDERS_READ_ON }
    }

    fn verify(&self, delivery: &RawDelivery, secrets: &[Secret], now: Timestamp) -> Result<(), Refusal> {
        let [header] = delivery.header_bytes([&SIGNATURE])?;
        let (time, codes) = time_and_codes(header)?;
        check_time(time, now, TOLERANCE_SECONDS)?;
        for secret in secrets {
            let expected = secret.hmac_key().code(&[time, b".", &delivery.body]);
            let mut codes = split(codes, b',').filter_map(|part| part.strip_prefix(b"v1="));
            if codes.any(|code| hmac::matches_lower_hex(&expected, code)) {
                return Ok(());
            }
        }
        Err(Refusal::Mismatch)
    }

    /// Gives the one event of a delivery. Its ordering key is the id of the object it is about: all events of one
    /// subscription are handled in order of arrival, while a customer with many subscriptions holds up none of them.
    fn events(&self, verified: &Verified) -> Result<Parsed> {
        let event = event(verified.body(), verified.body().clone())?;
        Ok(Parsed { reply: Reply::ok(), events: vec![event] })
    }

    /// A platform has one URL for the accounts connected to it: each event names its account.
    fn names_account(&self) -> bool {
        true
    }

    /// A platform's live URL is told of the test mode of its accounts too (docs.stripe.com/connect/webhooks).
    fn of_sandbox(&self, payload: &bytes::Bytes) -> bool {
        Envelope::read(payload).is_ok_and(|envelope| envelope.livemode == Some(false))
    }

    fn may_end_grant(&self, kind: &str) -> bool {
        kind == DEAUTHORIZED
    }

    /// Sent to the platform when an account takes its access back (docs.stripe.com, types of events; read 2026-11).
    fn ends_grant(&self, event: &Event) -> bool {
        event.kind == DEAUTHORIZED
    }
}

/// Splits a signature header into its one time and what holds its signatures.
fn time_and_codes(header: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let mut time = None;
    let mut codes = None;
    let mut at = 0;
    for part in split(header, b',') {
        if let Some(signed_at) = part.strip_prefix(b"t=") {
            if time.replace(signed_at).is_some() {
                return Err(Refusal::Malformed("the signature header names more than one time"));
            }
        } else if part.starts_with(b"v1=") {
            codes = codes.or(header.get(at..));
        } else if !part.contains(&b'=') {
            return Err(Refusal::Malformed("the signature header is not a list of name=value parts"));
        }
        // v0 and schemes yet unknown prove nothing here.
        at += part.len() + 1;
    }
    let time = time.ok_or(Refusal::Malformed("the signature header names no time"))?;
    let codes = codes.ok_or(Refusal::Malformed("the signature header has no v1 signature"))?;
    Ok((time, codes))
}

/// An event as Stripe sends it, as far as it is the same for all types and versions. `D` is what is read of its `data`.
#[derive(Deserialize)]
#[serde(bound(deserialize = "D: Deserialize<'de>"))]
pub(crate) struct Envelope<'a, D = &'a RawValue> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    pub(crate) kind: Cow<'a, str>,
    #[serde(borrow)]
    object: Option<Text<'a>>,
    #[serde(borrow)]
    created: Option<&'a RawValue>,
    pub(crate) account: Option<String>,
    /// The account in thin events.
    pub(crate) context: Option<String>,
    #[serde(borrow)]
    api_version: Option<Text<'a>>,
    pub(crate) livemode: Option<bool>,
    pub(crate) data: Option<D>,
    /// The object of a thin event.
    pub(crate) related_object: Option<Related>,
}

/// A text that is copied only where it is escaped, also inside an `Option`.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The id of the object a snapshot event is about, read together with the event.
#[derive(Deserialize)]
struct About<'a> {
    #[serde(borrow)]
    object: Named<'a>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
}

/// The object a thin event is about.
#[derive(Deserialize)]
pub(crate) struct Related {
    /// Absent for a thing of which an account has one.
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// What stands under `data` of a snapshot event.
#[derive(Deserialize)]
pub(crate) struct Data<'a> {
    #[serde(borrow)]
    pub(crate) object: &'a RawValue,
    #[serde(borrow)]
    pub(crate) previous_attributes: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// Reads an event's JSON.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Decode`] when it is not an object with a short id and type.
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self> {
        let envelope: Self = serde_json::from_slice(payload)
            .map_err(|_| unreadable("stripe", "the event is not a JSON object with an id and a type"))?;
        envelope.named()
    }

    /// Returns the id of the object a snapshot event is about.
    fn subject(&self) -> Option<String> {
        json::glance(self.data()?.object).id.map(Cow::into_owned)
    }

    /// Returns what stands under `data`; nothing for a thin event.
    pub(crate) fn data(&self) -> Option<Data<'a>> {
        serde_json::from_str(self.data?.get()).ok()
    }
}

impl<D> Envelope<'_, D> {
    /// Checks that its id and type are such as Stripe's.
    fn named(self) -> Result<Self> {
        let fits = |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX;
        if !fits(&self.id) || !fits(&self.kind) {
            return Err(unreadable("stripe", "the event's id or type is empty or longer than any of Stripe's"));
        }
        Ok(self)
    }

    /// Tells whether the event names its object only.
    pub(crate) fn is_thin(&self) -> bool {
        self.object.as_ref().is_some_and(|object| object.0 == THIN)
    }

    /// Returns the API version it was rendered in.
    pub(crate) fn api_version(&self) -> Option<&str> {
        self.api_version.as_ref().map(|version| &*version.0)
    }

    /// Returns when it happened: whole seconds in snapshot events, RFC 3339 with fractions in thin ones.
    pub(crate) fn created(&self) -> Option<Timestamp> {
        let text = self.created?.get();
        match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            Some(text) => rfc3339(text),
            None => text.parse().ok().map(Timestamp::from_seconds),
        }
    }

    fn event(self, subject: Option<String>, payload: bytes::Bytes) -> Event {
        Event {
            id: EventId::new(&*self.id),
            created: self.created(),
            kind: self.kind.into_owned(),
            account: self.account.or(self.context),
            ordering_key: self.related_object.map_or(subject, |related| related.id),
            payload,
        }
    }
}

/// Reads one event's JSON into the envelope the drivers know; `payload` is the same JSON, shared. One pass over it does,
/// where its object has one id that is a text, or none.
///
/// # Errors
/// As [`Envelope::read`].
pub(crate) fn event(text: &[u8], payload: bytes::Bytes) -> Result<Event> {
    let at_once = std::str::from_utf8(text).ok().and_then(|text| serde_json::from_str(text).ok());
    if let Some(envelope) = at_once {
        let mut envelope: Envelope<'_, About<'_>> = Envelope::named(envelope)?;
        let subject = envelope.data.take().and_then(|data| data.object.id);
        return Ok(envelope.event(subject.map(|id| id.0.into_owned()), payload));
    }
    // An id that is a number, or one name twice, or no JSON at all: the slower look tells.
    let envelope = Envelope::read(text)?;
    let subject = envelope.subject();
    Ok(envelope.event(subject, payload))
}

/// Reads `2026-08-26T10:11:12.345Z`, the one form Stripe's v2 writes.
pub(crate) fn rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |text: &str, digits: usize, max: i64| -> Option<i64> {
        let plain = text.len() == digits && text.bytes().all(|c| c.is_ascii_digit());
        plain.then(|| text.parse().ok())?.filter(|value| *value <= max)
    };
    let mut date = date.split('-');
    let (year, month, day) =
        (number(date.next()?, 4, 9_999)?, number(date.next()?, 2, 12)?, number(date.next()?, 2, 31)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.split(':');
    let (hour, minute, second) =
        (number(time.next()?, 2, 23)?, number(time.next()?, 2, 59)?, number(time.next()?, 2, 60)?);
    if date.next().is_some()
        || time.next().is_some()
        || month < 1
        || day < 1
        || !fraction.bytes().all(|c| c.is_ascii_digit())
    {
        return None;
    }
    let millis = fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    // Days since 1970-01-01 of a proleptic Gregorian date (Howard Hinnant, days_from_civil).
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some(Timestamp((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000 + millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_times_are_read_in_their_one_form() {
        assert_eq!(rfc3339("1970-01-01T00:00:00Z"), Some(Timestamp(0)));
        assert_eq!(rfc3339("2026-01-01T00:00:00.5Z"), Some(Timestamp(1_767_225_600_500)));
        assert_eq!(rfc3339("2024-02-29T23:59:59.123456Z"), Some(Timestamp(1_709_251_199_123)));
        for bad in [
            "",
            "2026-01-01",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00+02:00",
            "26-1-1T0:0:0Z",
            "2026-01-01T00:00:00.x1Z",
        ] {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
    }
}

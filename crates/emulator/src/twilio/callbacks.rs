//! Status callbacks and inbound messages: forms, signed as Twilio signs them, tried again as the URL asks.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, HMAC_SHA256, Key, sign};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response};

use super::TwilioProvider;
use super::world::{Message, World};
use crate::params::{Params, encode_all};
use crate::post::{Failed, Parcel, Sort};

/// The algorithm of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// HMAC-SHA1, of the auth token.
    Sha1,
    /// HMAC-SHA256, of a shared key.
    Sha256,
}

/// Signs a form as Twilio does: base64 of the HMAC over the URL and the sorted parameters, each name with its value.
#[must_use]
pub fn signature(algorithm: Algorithm, key: &str, url: &str, form: &[u8]) -> String {
    let params = Params::parse(form).unwrap_or_default();
    let mut sorted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in params.iter() {
        sorted.entry(name).or_default().push(value);
    }
    let mut text = url.to_owned();
    for (name, mut values) in sorted {
        values.sort_unstable();
        values.dedup();
        for value in values {
            text.push_str(name);
            text.push_str(value);
        }
    }
    let algorithm = match algorithm {
        Algorithm::Sha1 => HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Algorithm::Sha256 => HMAC_SHA256,
    };
    STANDARD.encode(sign(&Key::new(algorithm, key.as_bytes()), text.as_bytes()))
}

impl TwilioProvider {
    /// Lets a message go its way to the end; gives the callbacks of each step, in order.
    pub(super) fn settle(&self, world: &mut World, sid: &str, now: i64) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        for status in ["queued", "sending", "sent", "delivered"] {
            parcels.extend(self.report(world, sid, status, None, now));
        }
        parcels
    }

    /// Sets a message's status; gives its callback.
    pub(super) fn report(
        &self,
        world: &mut World,
        sid: &str,
        status: &str,
        error_code: Option<u32>,
        now: i64,
    ) -> Option<Parcel> {
        let chosen = |service: &String| {
            self.config.services.iter().find(|(known, _)| known == service).map(|(_, sender)| sender.clone())
        };
        let message = world.message_mut(sid)?;
        if message.from.is_none() {
            message.from = message.service.as_ref().and_then(chosen);
        }
        status.clone_into(&mut message.status);
        message.error_code = error_code;
        message.updated = now;
        if message.sent.is_none() && matches!(status, "sent" | "delivered" | "undelivered" | "failed" | "read") {
            message.sent = Some(now);
        }
        let url = message.callback.clone()?;
        let body = form(&self.config.account_sid, message);
        Some(parcel(&format!("{sid}:{status}"), &url, body))
    }

    /// Makes the delivery of an inbound message, where there is an address for it.
    pub(super) fn announce(&self, world: &World, message: &Message, opt_out: Option<&str>) -> Option<Parcel> {
        let url = world.inbound_url.as_deref()?;
        let (count, parts) = (message.media.len().to_string(), "1".to_owned());
        let mut pairs: Vec<(String, String)> = [
            ("ToCountry", "US"),
            ("SmsMessageSid", &message.sid),
            ("NumMedia", &count),
            ("SmsSid", &message.sid),
            ("SmsStatus", "received"),
            ("Body", &message.body),
            ("To", &message.to),
            ("NumSegments", &parts),
            ("MessageSid", &message.sid),
            ("AccountSid", &self.config.account_sid),
            ("From", message.from.as_deref().unwrap_or_default()),
            ("ApiVersion", "2010-04-01"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        for (at, media) in message.media.iter().enumerate() {
            pairs.push((format!("MediaUrl{at}"), media.clone()));
            pairs.push((format!("MediaContentType{at}"), "image/jpeg".to_owned()));
        }
        pairs.extend(opt_out.map(|kind| ("OptOutType".to_owned(), kind.to_owned())));
        let body = encode_all(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        Some(parcel(&format!("{}:received", message.sid), url, body))
    }

    /// Signs a delivery. An old one is not replayed: nothing in the scheme tells old from new.
    pub(super) fn sealed(&self, parcel: &Parcel) -> Option<Request<Bytes>> {
        // The fragment says how to try again; it is neither sent nor signed.
        let url = parcel.url.split('#').next().unwrap_or_default();
        let (token, shared) = {
            let world = self.world();
            (world.token.clone(), world.shared_key.clone())
        };
        let (algorithm, key, settings) = match shared {
            Some((id, secret)) => (Algorithm::Sha256, secret, Some(format!("key={id},algorithm=HMAC_SHA256"))),
            None => (Algorithm::Sha1, token, None),
        };
        let key = match parcel.sort {
            Sort::True => key,
            Sort::Forged => "not_the_token".to_owned(),
            Sort::Replayed => return None,
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header("content-type", "application/x-www-form-urlencoded; charset=UTF-8")
            .header("user-agent", "TwilioProxy/1.1")
            .header("accept", "*/*")
            .header("x-twilio-signature", signature(algorithm, &key, url, &parcel.body))
            // All attempts of one delivery share it.
            .header("i-twilio-idempotency-token", &parcel.id);
        if let Some(settings) = settings {
            request = request.header("x-twilio-webhooks-signature-settings", settings);
        }
        request.body(parcel.body.clone()).ok()
    }

    /// Decides whether a delivery is tried again: once when nothing could be connected to, or as the fragment of its
    /// URL asks (`#rc=3&rp=all`; Twilio, webhooks connection overrides).
    pub(super) fn wait(&self, parcel: &Parcel, answer: Option<&Response<Bytes>>) -> Option<Duration> {
        let fragment = parcel.url.split_once('#').map_or("", |(_, fragment)| fragment);
        let asked = Params::parse(fragment.as_bytes()).unwrap_or_default();
        let count: usize = asked.get("rc").and_then(|count| count.parse().ok()).unwrap_or(1).min(5);
        let policy: Vec<&str> = asked.get("rp").unwrap_or("ct").split(',').collect();
        let named = match parcel.failed? {
            Failed::Connection => "ct",
            Failed::Timeout => "rt",
            Failed::Status if answer?.status().is_client_error() => "4xx",
            Failed::Status if answer?.status().is_server_error() => "5xx",
            Failed::Status => return None,
        };
        let again = policy.iter().any(|one| *one == named || *one == "all");
        (again && parcel.attempt < count).then_some(self.config.webhook_gap)
    }
}

fn parcel(id: &str, url: &str, body: String) -> Parcel {
    Parcel { form: true, ..Parcel::json(id, url, Bytes::from(body)) }
}

fn form(account: &str, message: &Message) -> String {
    let code = message.error_code.map(|code| code.to_string());
    let pairs = [
        ("ApiVersion", Some("2010-04-01")),
        ("MessageStatus", Some(message.status.as_str())),
        ("SmsSid", Some(&message.sid)),
        ("SmsStatus", Some(&message.status)),
        ("To", Some(&message.to)),
        ("From", message.from.as_deref()),
        ("MessageSid", Some(&message.sid)),
        ("AccountSid", Some(account)),
        ("MessagingServiceSid", message.service.as_deref()),
        ("ErrorCode", code.as_deref()),
    ];
    encode_all(pairs.into_iter().filter_map(|(name, value)| Some((name, value?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_matches_the_reference_of_the_official_sdks() {
        let form = b"CallSid=CA1234567890ABCDE&Digits=1234&From=%2B14158675309&To=%2B18005551212&Caller=%2B14158675309";
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        assert_eq!(signature(Algorithm::Sha1, "12345", url, form), "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
    }
}

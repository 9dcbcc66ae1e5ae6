//! What Google posts by itself: Gmail's notifications through Pub/Sub with a signed token, Calendar's through channels.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use super::gmail::mailbox::Mailbox;
use super::service::text;
use super::world::{Channel, World};
use super::{GoogleProvider, when};
use crate::gate::House;
use crate::params::encode;
use crate::post::{Parcel, Sort};

/// Acknowledgements of both (Pub/Sub, push subscriptions; Calendar, push notifications).
pub(super) const ACKNOWLEDGED: [u16; 5] = [102, 200, 201, 202, 204];
/// Pub/Sub tries again for seven days; the emulator gives up earlier.
const ATTEMPTS_MAX: usize = 40;
/// Attempts of a channel's notification.
const CHANNEL_ATTEMPTS_MAX: usize = 6;
const GAP_MIN: Duration = Duration::from_millis(100);
const GAP_MAX: Duration = Duration::from_secs(60);
const SECOND: i64 = 1_000;
/// How long the token of a push lives, in seconds.
const TOKEN_LIFE: i64 = 3_600;

impl GoogleProvider {
    /// Makes the notifications of mailboxes that changed: one a second each at the most, the others are dropped.
    pub(super) fn mail_parcels(&self, emails: &[String], now: i64) -> Vec<Parcel> {
        let mut world = self.world();
        let mut parcels = Vec::new();
        for email in emails {
            let Ok(mut mailbox) = world.take_mailbox(email) else { continue };
            if let Some(topic) = due(&mut mailbox, now) {
                let newest = mailbox.newest;
                parcels.extend(published(&mut world, email, newest, &topic, now));
            }
            world.put_mailbox(mailbox);
        }
        parcels
    }

    /// Makes the notifications of a calendar that changed, one for each channel that lives.
    pub(super) fn calendar_parcels(&self, calendar: &str, now: i64) -> Vec<Parcel> {
        let mut world = self.world();
        let World { channels, dice, .. } = &mut *world;
        let live = channels.values_mut().filter(|channel| channel.calendar == calendar && channel.expires > now);
        live.map(|channel| {
            // Numbers rise, and not always by one.
            channel.number += 1 + dice.below(3);
            notification(channel, "exists")
        })
        .collect()
    }

    /// Makes the request of a parcel, with a token or headers of this moment.
    pub(super) fn sealed(&self, house: &House, parcel: &Parcel) -> Option<Request<Bytes>> {
        if parcel.body.is_empty() { self.of_channel(parcel, house.now()) } else { self.of_topic(parcel, house.now()) }
    }

    fn of_topic(&self, parcel: &Parcel, now: i64) -> Option<Request<Bytes>> {
        let body: Value = serde_json::from_slice(&parcel.body).ok()?;
        let name = text(&body, "subscription")?;
        let subscription = self.world().subscriptions.iter().find(|known| known.name == name).cloned()?;
        let issued = match parcel.sort {
            // An old delivery carries its old token.
            Sort::Replayed => now / SECOND - 2 * TOKEN_LIFE,
            Sort::True | Sort::Forged => now / SECOND,
        };
        let claims = json!({
            "iss": "https://accounts.google.com", "aud": subscription.audience, "azp": "113774264463038321964",
            "email": subscription.email, "email_verified": true, "sub": "113774264463038321964",
            "iat": issued, "exp": issued + TOKEN_LIFE,
        });
        let signer = if parcel.sort == Sort::Forged { &self.forger } else { &self.signer };
        Request::builder()
            .method(Method::POST)
            .uri(&parcel.url)
            .header("content-type", "application/json")
            .header("user-agent", "CloudPubSub-Google")
            .header("accept", "application/json")
            .header("authorization", format!("Bearer {}", signer.sign(&claims)))
            .body(parcel.body.clone())
            .ok()
    }

    fn of_channel(&self, parcel: &Parcel, now: i64) -> Option<Request<Bytes>> {
        let mut parts = parcel.id.rsplitn(3, '/');
        let (state, number, id) = (parts.next()?, parts.next()?, parts.next()?);
        // A channel that was closed or has ended meanwhile tells nothing any more.
        let channel = self.world().channels.get(id).filter(|channel| channel.expires > now).cloned()?;
        let token = match parcel.sort {
            Sort::True => channel.token,
            Sort::Forged => Some("not-the-token".to_owned()),
            // Nothing tells an old notification from a new one.
            Sort::Replayed => return None,
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&parcel.url)
            .header("user-agent", "APIs-Google; (+https://developers.google.com/webmasters/APIs-Google.html)")
            .header("accept", "*/*")
            .header("content-length", "0")
            .header("x-goog-channel-id", &channel.id)
            .header("x-goog-channel-expiration", http_date(channel.expires))
            .header("x-goog-message-number", number)
            .header("x-goog-resource-id", &channel.resource)
            .header("x-goog-resource-state", state)
            .header("x-goog-resource-uri", resource_uri(&channel.calendar));
        if let Some(token) = token {
            request = request.header("x-goog-channel-token", token);
        }
        request.body(Bytes::new()).ok()
    }
}

/// Names the topic a mailbox's change is published to, where it is watched and was not told of within the second.
fn due(mailbox: &mut Mailbox, now: i64) -> Option<String> {
    let newest = mailbox.newest_labels();
    let watching = mailbox.watching.as_mut().filter(|watching| watching.expires > now)?;
    let wanted = watching.labels.is_empty()
        || newest.is_none_or(|labels| labels.iter().any(|label| watching.labels.contains(label)) != watching.excluding);
    // The first notification, that the watch has begun, comes whatever the labels are.
    let soon = watching.told.is_some_and(|told| now - told < SECOND);
    if soon || (watching.told.is_some() && !wanted) {
        return None;
    }
    watching.told = Some(now);
    Some(watching.topic.clone())
}

fn published(world: &mut World, email: &str, newest: u64, topic: &str, now: i64) -> Vec<Parcel> {
    let data = STANDARD.encode(json!({ "emailAddress": email, "historyId": newest }).to_string());
    world.published += 1;
    let id = (10_000_000_000_000_000 + world.published).to_string();
    let subscribed = world.subscriptions.iter().filter(|subscription| subscription.topic == topic);
    let parcel = |subscription: &super::Subscription| {
        let published = when::stamp(now);
        let body = json!({
            "message": {
                "data": data, "messageId": id, "message_id": id, "publishTime": published, "publish_time": published,
            },
            "subscription": subscription.name,
        });
        Parcel::json(&id, &subscription.url, Bytes::from(body.to_string()))
    };
    subscribed.map(parcel).collect()
}

/// Makes the delivery of a channel's notification; its headers are made when it leaves.
pub(super) fn notification(channel: &Channel, state: &str) -> Parcel {
    Parcel::json(&format!("{}/{}/{state}", channel.id, channel.number), &channel.address, Bytes::new())
}

/// Names what a channel watches.
pub(super) fn resource_uri(calendar: &str) -> String {
    format!("https://www.googleapis.com/calendar/v3/calendars/{}/events?alt=json", encode(calendar))
}

fn http_date(millis: i64) -> String {
    let after = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + after)
}

/// Gives the wait before a delivery is tried again. Pub/Sub doubles its gaps up to a minute; a channel's notification
/// is tried again after 500, 502, 503 and 504 and when nobody answers, and dropped after any other answer.
pub(super) fn wait(parcel: &Parcel, answer: Option<&Response<Bytes>>) -> Option<Duration> {
    let of_channel = parcel.body.is_empty();
    let passing = answer.is_none_or(|answer| matches!(answer.status().as_u16(), 500 | 502 | 503 | 504));
    if of_channel && !passing {
        return None;
    }
    let most = if of_channel { CHANNEL_ATTEMPTS_MAX } else { ATTEMPTS_MAX };
    let doubled = GAP_MIN.saturating_mul(1 << parcel.attempt.min(16));
    (parcel.attempt + 1 < most).then(|| doubled.min(GAP_MAX))
}

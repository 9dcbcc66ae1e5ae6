//! The story methods: what people, carriers and Twilio itself do, without a request; and the same as JSON for others.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::refusal::Refusal;
use super::world::Message;
use super::{Twilio, TwilioProvider};
use crate::control::read;
use crate::gate::House;
use crate::params::Params;
use crate::post::Parcel;

/// The words that opt out, in and ask for help (Twilio, support for opt-out keywords).
const STOP: [&str; 6] = ["STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT"];
const START: [&str; 3] = ["START", "YES", "UNSTOP"];
const HELP: [&str; 2] = ["HELP", "INFO"];
/// How far apart populated messages were made, in milliseconds.
const POPULATED_APART: i64 = 60_000;

#[derive(Deserialize)]
struct ReceiveForm {
    from: String,
    to: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    media: Vec<String>,
}

#[derive(Deserialize)]
struct ReportForm {
    sid: String,
    status: String,
    error_code: Option<u32>,
}

#[derive(Deserialize)]
struct KeysForm {
    auth_token: Option<String>,
    /// Id and secret; without it the token signs.
    shared_key: Option<(String, String)>,
}

#[derive(Deserialize)]
struct InboundForm {
    url: Option<String>,
}

#[derive(Deserialize)]
struct PopulateForm {
    messages: usize,
}

impl TwilioProvider {
    fn receive(&self, from: &str, to: &str, body: &str, media: &[&str], now: i64) -> (String, Option<Parcel>) {
        let mut world = self.world();
        let word = body.trim().to_ascii_uppercase();
        let pair = (from.to_owned(), to.to_owned());
        let opt_out = if STOP.contains(&word.as_str()) {
            world.opted_out.insert(pair);
            Some("STOP")
        } else if START.contains(&word.as_str()) {
            world.opted_out.remove(&pair);
            Some("START")
        } else if HELP.contains(&word.as_str()) {
            Some("HELP")
        } else {
            None
        };
        let message = Message {
            sid: world.id(if media.is_empty() { "SM" } else { "MM" }),
            to: to.to_owned(),
            from: Some(from.to_owned()),
            service: None,
            body: body.to_owned(),
            media: media.iter().map(|url| (*url).to_owned()).collect(),
            status: "received".to_owned(),
            direction: "inbound".into(),
            error_code: None,
            created: now,
            sent: Some(now),
            updated: now,
            callback: None,
        };
        let parcel = self.announce(&world, &message, opt_out);
        let sid = message.sid.clone();
        world.insert(message);
        (sid, parcel)
    }

    fn populate(&self, messages: usize, now: i64) {
        let mut world = self.world();
        let sender = self.config.senders.first().cloned();
        for at in 0..messages {
            let ago = POPULATED_APART.saturating_mul(i64::try_from(messages - at).unwrap_or(0));
            let made = now - ago;
            let sid = world.id("SM");
            world.insert(Message {
                sid,
                to: format!("+1555{at:07}"),
                from: sender.clone(),
                service: None,
                body: format!("Message {at}"),
                media: Vec::new(),
                status: "delivered".to_owned(),
                direction: "outbound-api".into(),
                error_code: None,
                created: made,
                sent: Some(made),
                updated: made,
                callback: None,
            });
        }
    }

    fn truth(&self) -> BTreeMap<String, Value> {
        let world = self.world();
        world.messages.values().map(|message| (message.sid.clone(), world.show(message))).collect()
    }

    /// Obeys the control plane.
    pub(super) fn obey(&self, house: &House, method: &str, path: &str, body: &Bytes) -> Option<Result<Value, String>> {
        let done = || json!({ "ok": true });
        Some(match (method, path) {
            ("GET", "/_emulator/truth") => Ok(json!(self.truth())),
            ("GET", "/_emulator/waiting") => Ok(json!({ "deliveries": house.post.len() })),
            ("POST", "/_emulator/receive") => read::<ReceiveForm>(body).map(|form| {
                let media: Vec<&str> = form.media.iter().map(String::as_str).collect();
                let (sid, parcel) = self.receive(&form.from, &form.to, &form.body, &media, house.now());
                house.post.leave(parcel);
                json!({ "sid": sid })
            }),
            ("POST", "/_emulator/report") => read::<ReportForm>(body).and_then(|form| {
                let mut world = self.world();
                world.message(&form.sid).ok_or("no such message")?;
                let parcel = self.report(&mut world, &form.sid, &form.status, form.error_code, house.now());
                drop(world);
                house.post.leave(parcel);
                Ok(done())
            }),
            ("POST", "/_emulator/keys") => read::<KeysForm>(body).map(|form| {
                let mut world = self.world();
                form.auth_token.iter().for_each(|token| world.set_token(token));
                world.shared_key = form.shared_key;
                done()
            }),
            ("POST", "/_emulator/inbound") => read::<InboundForm>(body).map(|form| {
                self.world().inbound_url = form.url;
                done()
            }),
            ("POST", "/_emulator/populate") => read::<PopulateForm>(body).map(|form| {
                self.populate(form.messages, house.now());
                done()
            }),
            _ => return None,
        })
    }
}

#[expect(clippy::must_use_candidate, reason = "a story method is called for what it does")]
impl Twilio {
    /// Gives the account's SID.
    #[must_use]
    pub fn account_sid(&self) -> &str {
        &self.inner.provider.config.account_sid
    }

    /// Gives the token that is accepted and signs now.
    #[must_use]
    pub fn auth_token(&self) -> String {
        self.inner.provider.world().token.clone()
    }

    /// Accepts this auth token and no other, and signs webhooks with it.
    pub fn set_auth_token(&self, token: &str) {
        self.inner.provider.world().set_token(token);
    }

    /// Signs webhooks with this shared key (id and secret) by HMAC-SHA256, or with the auth token again.
    pub fn set_shared_key(&self, key: Option<(&str, &str)>) {
        let own = |(id, secret): (&str, &str)| (id.to_owned(), secret.to_owned());
        self.inner.provider.world().shared_key = key.map(own);
    }

    /// Sets where inbound messages are posted.
    pub fn set_inbound_url(&self, url: Option<&str>) {
        self.inner.provider.world().inbound_url = url.map(str::to_owned);
    }

    /// Sends a message as a request with these parameters would; gives it as the answer shows it.
    ///
    /// # Errors
    /// Gives Twilio's refusal.
    pub fn send(&self, parameters: &[(&str, &str)]) -> Result<Value, Refusal> {
        let (provider, house) = (&self.inner.provider, &self.inner.house);
        let mut form = Params::default();
        parameters.iter().for_each(|(name, value)| form.push(name, *value));
        let sent = provider.create(house, &form, house.now());
        self.inner.flush();
        sent
    }

    /// Lets somebody write to the account. The words that opt out and in are heeded.
    pub fn receive(&self, from: &str, to: &str, body: &str, media: &[&str]) -> String {
        let house = &self.inner.house;
        let (sid, parcel) = self.inner.provider.receive(from, to, body, media, house.now());
        house.post.leave(parcel);
        self.inner.flush();
        sid
    }

    /// Lets the carrier report a message's status. Tells whether there is such a message.
    pub fn report(&self, sid: &str, status: &str, error_code: Option<u32>) -> bool {
        let house = &self.inner.house;
        let mut world = self.inner.provider.world();
        let known = world.message(sid).is_some();
        let parcel = self.inner.provider.report(&mut world, sid, status, error_code, house.now());
        drop(world);
        house.post.leave(parcel);
        self.inner.flush();
        known
    }

    /// Deletes a message's record, as somebody at the console would. Tells whether there was one.
    pub fn delete(&self, sid: &str) -> bool {
        let known = self.inner.provider.world().delete(sid).is_some();
        self.inner.flush();
        known
    }

    /// Begins with messages of the past, one a minute until now.
    pub fn populate(&self, messages: usize) {
        self.inner.provider.populate(messages, self.inner.house.now());
        self.inner.flush();
    }

    /// Gives all messages exactly as GET shows them.
    #[must_use]
    pub fn truth(&self) -> BTreeMap<String, Value> {
        self.inner.provider.truth()
    }
}

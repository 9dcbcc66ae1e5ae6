//! What the account remembers: messages in the order they were made, who opted out, which credentials are good.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem::take;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::TwilioConfig;
use crate::dice::Dice;

/// One message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) sid: String,
    pub(crate) to: String,
    /// Absent until a messaging service has chosen.
    pub(crate) from: Option<String>,
    pub(crate) service: Option<String>,
    pub(crate) body: String,
    pub(crate) media: Vec<String>,
    pub(crate) status: String,
    pub(crate) direction: Cow<'static, str>,
    pub(crate) error_code: Option<u32>,
    /// Milliseconds since 1970.
    pub(crate) created: i64,
    pub(crate) sent: Option<i64>,
    pub(crate) updated: i64,
    pub(crate) callback: Option<String>,
}

/// Everything of one account. What it is set up with is not remembered: whoever starts it gives it again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct World {
    dice: Dice,
    /// Names requests: their names change nothing that is remembered.
    #[serde(skip)]
    requests: Dice,
    #[serde(skip)]
    account: String,
    #[serde(skip)]
    credentials: HashMap<String, String>,
    /// By when they were made: the order of lists, backwards.
    pub(crate) messages: BTreeMap<u64, Message>,
    /// Where each message stands, those that were deleted too: a list goes on behind them.
    places: HashMap<String, u64>,
    sequence: u64,
    /// Who opted out of which sender: recipient and sender.
    pub(crate) opted_out: BTreeSet<(String, String)>,
    /// The token that signs webhooks.
    #[serde(skip)]
    pub(crate) token: String,
    /// The shared key that signs webhooks in its place: id and secret.
    #[serde(skip)]
    pub(crate) shared_key: Option<(String, String)>,
    #[serde(skip)]
    pub(crate) inbound_url: Option<String>,
}

impl World {
    pub(crate) fn new(config: &TwilioConfig) -> Self {
        let own = (config.account_sid.clone(), config.auth_token.clone());
        Self {
            dice: Dice(config.seed),
            requests: Dice(config.seed ^ 0x5E11_0000),
            account: config.account_sid.clone(),
            credentials: config.api_keys.iter().cloned().chain([own]).collect(),
            messages: BTreeMap::new(),
            places: HashMap::new(),
            sequence: 0,
            opted_out: BTreeSet::new(),
            token: config.auth_token.clone(),
            shared_key: config.shared_key.clone(),
            inbound_url: config.inbound_url.clone(),
        }
    }

    /// Takes up what an earlier process remembered.
    pub(crate) fn recall(&mut self, kept: Self) {
        *self = Self {
            requests: take(&mut self.requests),
            account: take(&mut self.account),
            credentials: take(&mut self.credentials),
            token: take(&mut self.token),
            shared_key: self.shared_key.take(),
            inbound_url: self.inbound_url.take(),
            ..kept
        };
    }

    /// Makes a SID: two letters and 32 hexadecimal digits.
    pub(crate) fn id(&mut self, prefix: &str) -> String {
        sid(&mut self.dice, prefix)
    }

    /// Makes the name of a request.
    pub(crate) fn request_id(&mut self) -> String {
        sid(&mut self.requests, "RQ")
    }

    pub(crate) fn accepts(&self, user: &str, password: &str) -> bool {
        self.credentials.get(user).is_some_and(|known| known == password)
    }

    /// Accepts this token of the account and no other, and signs with it.
    pub(crate) fn set_token(&mut self, token: &str) {
        self.credentials.insert(self.account.clone(), token.to_owned());
        token.clone_into(&mut self.token);
    }

    pub(crate) fn insert(&mut self, message: Message) {
        self.sequence += 1;
        self.places.insert(message.sid.clone(), self.sequence);
        self.messages.insert(self.sequence, message);
    }

    /// Gives where a message stands or stood.
    pub(crate) fn place(&self, sid: &str) -> Option<u64> {
        self.places.get(sid).copied()
    }

    pub(crate) fn message(&self, sid: &str) -> Option<&Message> {
        self.messages.get(self.places.get(sid)?)
    }

    pub(crate) fn message_mut(&mut self, sid: &str) -> Option<&mut Message> {
        self.messages.get_mut(self.places.get(sid)?)
    }

    pub(crate) fn delete(&mut self, sid: &str) -> Option<Message> {
        self.messages.remove(self.places.get(sid)?)
    }

    /// Shows a message as the API does.
    pub(crate) fn show(&self, message: &Message) -> Value {
        let uri = format!("/2010-04-01/Accounts/{}/Messages/{}", self.account, message.sid);
        let waits = message.service.is_some() && message.from.is_none();
        json!({
            "account_sid": self.account, "api_version": "2010-04-01", "body": message.body,
            "date_created": date(message.created), "date_sent": message.sent.map(date),
            "date_updated": date(message.updated), "direction": message.direction,
            "error_code": message.error_code, "error_message": null, "from": message.from,
            "messaging_service_sid": message.service, "num_media": message.media.len().to_string(),
            "num_segments": if waits { "0".to_owned() } else { segments(&message.body).to_string() },
            "price": null, "price_unit": "USD", "sid": message.sid, "status": message.status,
            "subresource_uris": { "media": format!("{uri}/Media.json") }, "to": message.to, "uri": format!("{uri}.json"),
        })
    }
}

fn sid(dice: &mut Dice, prefix: &str) -> String {
    format!("{prefix}{:016x}{:016x}", dice.next(), dice.next())
}

/// Writes RFC 2822 as the 2010 API does.
pub(crate) fn date(millis: i64) -> String {
    let after = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + after).replace("GMT", "+0000")
}

/// Counts the parts of a text: 160 characters of the GSM alphabet or 70 of any other, less when there are several.
fn segments(text: &str) -> usize {
    let count = text.chars().count().max(1);
    let (single, several) = if text.is_ascii() { (160, 153) } else { (70, 67) };
    if count <= single { 1 } else { count.div_ceil(several) }
}

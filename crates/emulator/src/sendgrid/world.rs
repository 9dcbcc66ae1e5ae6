//! What the account remembers: mails that were sent, and addresses that get none.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::mem::take;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::SendGridConfig;
use crate::dice::Dice;

/// Mails that are remembered, so that a long simulation stays bounded.
const MAILS_MAX: usize = 200_000;

/// A mail as it was taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mail {
    /// `X-Message-Id`.
    pub(crate) id: String,
    /// The request's body.
    pub(crate) body: Value,
    /// What went out to each recipient.
    pub(crate) copies: Vec<Copy>,
}

/// A mail on its way to one recipient.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Copy {
    /// `sg_message_id`.
    pub(crate) id: String,
    pub(crate) to: String,
    pub(crate) custom_args: BTreeMap<String, Value>,
    /// `processed`, `delivered` or `not_delivered`.
    pub(crate) status: Cow<'static, str>,
}

/// A suppressed address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) email: String,
    /// Seconds since 1970.
    pub(crate) created: i64,
    pub(crate) reason: Option<String>,
    pub(crate) status: Option<String>,
    pub(crate) ip: Option<String>,
}

impl Entry {
    pub(crate) fn show(&self) -> Value {
        let mut shown = json!({ "created": self.created, "email": self.email });
        if let Value::Object(fields) = &mut shown {
            for (name, value) in [("reason", &self.reason), ("status", &self.status), ("ip", &self.ip)] {
                if let Some(value) = value {
                    fields.insert(name.to_owned(), value.as_str().into());
                }
            }
        }
        shown
    }
}

/// The lists.
pub(crate) const LISTS: [&str; 5] = ["bounces", "blocks", "spam_reports", "unsubscribes", "invalid_emails"];

/// Everything of one account. What it is set up with is not remembered: whoever starts it gives it again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct World {
    dice: Dice,
    #[serde(skip)]
    pub(crate) api_key: String,
    pub(crate) mails: Vec<Mail>,
    pub(crate) sent: u64,
    /// By list; oldest first, as they are listed.
    lists: BTreeMap<Cow<'static, str>, Vec<Entry>>,
    #[serde(skip)]
    pub(crate) event_url: Option<String>,
    #[serde(skip)]
    pub(crate) inbound_url: Option<(String, bool)>,
}

impl World {
    pub(crate) fn new(config: &SendGridConfig) -> Self {
        Self {
            dice: Dice(config.seed),
            api_key: config.api_key.clone(),
            mails: Vec::new(),
            sent: 0,
            lists: LISTS.into_iter().map(|name| (name.into(), Vec::new())).collect(),
            event_url: config.event_url.clone(),
            inbound_url: config.inbound_url.clone(),
        }
    }

    /// Takes up what an earlier process remembered.
    pub(crate) fn recall(&mut self, kept: Self) {
        *self = Self {
            api_key: take(&mut self.api_key),
            event_url: self.event_url.take(),
            inbound_url: self.inbound_url.take(),
            ..kept
        };
    }

    /// Makes a name of letters and digits.
    pub(crate) fn name(&mut self, length: usize) -> String {
        self.dice.name("", length)
    }

    pub(crate) fn keep(&mut self, mail: Mail) {
        self.sent += 1;
        self.mails.push(mail);
        if self.mails.len() > MAILS_MAX {
            self.mails.drain(..MAILS_MAX / 2);
        }
    }

    pub(crate) fn list(&self, name: &str) -> Option<&[Entry]> {
        self.lists.get(name).map(Vec::as_slice)
    }

    /// Puts an address on a list; one that is on it is put on it anew.
    pub(crate) fn suppress(&mut self, name: &str, entry: Entry) {
        if let Some(list) = self.lists.get_mut(name) {
            list.retain(|known| !known.email.eq_ignore_ascii_case(&entry.email));
            let at = list.partition_point(|known| known.created <= entry.created);
            list.insert(at, entry);
        }
    }

    /// Takes an address off a list. Tells whether it was on it.
    pub(crate) fn release(&mut self, name: &str, email: &str) -> bool {
        let Some(list) = self.lists.get_mut(name) else { return false };
        let before = list.len();
        list.retain(|known| !known.email.eq_ignore_ascii_case(email));
        list.len() != before
    }

    /// Empties a list.
    pub(crate) fn release_all(&mut self, name: &str) {
        if let Some(list) = self.lists.get_mut(name) {
            list.clear();
        }
    }

    /// Gives why mail to an address is dropped (SendGrid, event webhook reference).
    pub(crate) fn dropped(&self, email: &str) -> Option<&'static str> {
        let reasons = [
            ("bounces", "Bounced Address"),
            ("invalid_emails", "Invalid"),
            ("spam_reports", "Spam Reporting Address"),
            ("unsubscribes", "Unsubscribed Address"),
        ];
        let on = |name: &str| {
            self.list(name).is_some_and(|list| list.iter().any(|one| one.email.eq_ignore_ascii_case(email)))
        };
        reasons.into_iter().find(|(name, _)| on(name)).map(|(_, reason)| reason)
    }
}

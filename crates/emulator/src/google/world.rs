//! Everything the emulated Google remembers beside its tokens: mailboxes, calendars, channels, subscriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use serde::{Deserialize, Serialize};

use super::GoogleConfig;
use super::calendar::store::Calendar;
use super::gmail::mailbox::Mailbox;
use super::quota::Meter;
use super::refusal::Refusal;
use crate::dice::Dice;

/// A Pub/Sub subscription that pushes with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its name, `projects/P/subscriptions/S`.
    pub name: String,
    /// What it subscribes to, `projects/P/topics/T`.
    pub topic: String,
    /// Where it pushes to.
    pub url: String,
    /// The `aud` of its tokens.
    pub audience: String,
    /// The service account its tokens are of.
    pub email: String,
}

/// A channel that tells of a calendar's changes.
#[derive(Debug, Clone)]
pub(crate) struct Channel {
    pub(crate) id: String,
    pub(crate) resource: String,
    pub(crate) calendar: String,
    pub(crate) address: String,
    pub(crate) token: Option<String>,
    pub(crate) expires: i64,
    /// The number of the newest notification.
    pub(crate) number: u64,
    /// Who opened it.
    pub(crate) owner: String,
}

/// The whole memory. Channels, subscriptions and watches are not remembered over the process: whoever wants to be told
/// asks anew.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct World {
    pub(crate) dice: Dice,
    #[serde(skip)]
    pub(crate) meter: Meter,
    pub(super) mailboxes: BTreeMap<String, Mailbox>,
    calendars: BTreeMap<String, Calendar>,
    #[serde(skip)]
    pub(crate) channels: BTreeMap<String, Channel>,
    /// Channels that were closed: their ids are not taken again.
    #[serde(skip)]
    pub(crate) closed: BTreeSet<String>,
    #[serde(skip)]
    pub(crate) subscriptions: Vec<Subscription>,
    /// Notifications published so far, for their identifiers.
    pub(crate) published: u64,
    /// Whether every page that goes on comes once empty before it comes full.
    #[serde(skip)]
    pub(crate) empty_pages: bool,
}

impl World {
    pub(crate) fn new(config: &GoogleConfig) -> Self {
        let mut dice = Dice(config.seed ^ 0x6006_1E00);
        let mailboxes =
            config.people.iter().map(|person| (person.email.clone(), Mailbox::new(&person.email, &mut dice)));
        let mailboxes = mailboxes.collect();
        let people = config.people.iter().map(|person| person.email.as_str());
        let accounts = config.service_accounts.iter().map(|account| account.email.as_str());
        let own = |email: &str| (email.to_owned(), Calendar::new(email, email));
        Self {
            calendars: people.chain(accounts).map(own).collect(),
            mailboxes,
            dice,
            meter: Meter::new(config.quotas.clone()),
            channels: BTreeMap::new(),
            closed: BTreeSet::new(),
            subscriptions: Vec::new(),
            published: 0,
            empty_pages: false,
        }
    }

    /// Takes up what an earlier process remembered.
    pub(crate) fn recall(&mut self, kept: Self) {
        *self = Self {
            meter: take(&mut self.meter),
            channels: take(&mut self.channels),
            closed: take(&mut self.closed),
            subscriptions: take(&mut self.subscriptions),
            empty_pages: self.empty_pages,
            ..kept
        };
        self.mailboxes.values_mut().for_each(Mailbox::read_anew);
    }

    /// Takes a mailbox out, to be put back: work on it needs the dice, too.
    pub(crate) fn take_mailbox(&mut self, email: &str) -> Result<Mailbox, Refusal> {
        self.mailboxes.remove(email).ok_or_else(Refusal::missing)
    }

    pub(crate) fn put_mailbox(&mut self, mailbox: Mailbox) {
        self.mailboxes.insert(mailbox.email.clone(), mailbox);
    }

    /// Gives a calendar.
    pub(crate) fn calendar(&mut self, id: &str) -> Option<&mut Calendar> {
        self.calendars.get_mut(id)
    }

    pub(crate) fn calendars(&self) -> impl Iterator<Item = &Calendar> {
        self.calendars.values()
    }

    /// Makes a calendar of somebody's beside the primary one; one that is there stays.
    pub(crate) fn add_calendar(&mut self, owner: &str, id: &str) {
        self.calendars.entry(id.to_owned()).or_insert_with(|| Calendar::new(id, owner));
    }
}

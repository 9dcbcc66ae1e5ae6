//! What the provider remembers: objects in list order, events, keys, accounts.
//!
//! An object is kept as its own JSON bytes in the newest shape, so a list page is a few copies and no parsing.
//! Facts that the public shape hides (which payment intent pays an invoice) stand beside it as links.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::Failure;
use super::thin;
pub(crate) use crate::dice::Dice;
use crate::oauth::Authority;

/// How long `/v1/events` reaches back, in seconds (Stripe API reference, events).
pub(crate) const EVENT_AGE_MAX: i64 = 30 * 24 * 3600;
/// How many events are kept at most, so that a long simulation stays bounded.
const EVENTS_MAX: usize = 500_000;

/// Kinds of object the emulator keeps; the discriminant indexes nothing, order is only for maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Customer,
    Product,
    Price,
    Subscription,
    Invoice,
    PaymentIntent,
    SetupIntent,
    PaymentMethod,
    Charge,
    Refund,
    Session,
    Endpoint,
}

impl Kind {
    /// Lists every kind, for look-ups by path or identifier.
    pub(crate) const ALL: [Self; 12] = [
        Self::Customer,
        Self::Product,
        Self::Price,
        Self::Subscription,
        Self::Invoice,
        Self::PaymentIntent,
        Self::SetupIntent,
        Self::PaymentMethod,
        Self::Charge,
        Self::Refund,
        Self::Session,
        Self::Endpoint,
    ];

    /// Gives path segment, `object`, word in "No such …" and identifier prefix.
    pub(crate) const fn facts(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Customer => ("customers", "customer", "customer", "cus_"),
            Self::Product => ("products", "product", "product", "prod_"),
            Self::Price => ("prices", "price", "price", "price_"),
            Self::Subscription => ("subscriptions", "subscription", "subscription", "sub_"),
            Self::Invoice => ("invoices", "invoice", "invoice", "in_"),
            Self::PaymentIntent => ("payment_intents", "payment_intent", "payment_intent", "pi_"),
            Self::SetupIntent => ("setup_intents", "setup_intent", "setupintent", "seti_"),
            Self::PaymentMethod => ("payment_methods", "payment_method", "PaymentMethod", "pm_"),
            Self::Charge => ("charges", "charge", "charge", "ch_"),
            Self::Refund => ("refunds", "refund", "refund", "re_"),
            Self::Session => ("checkout/sessions", "checkout.session", "checkout.session", "cs_"),
            Self::Endpoint => ("webhook_endpoints", "webhook_endpoint", "webhook endpoint", "we_"),
        }
    }

    /// Gives the path segment under `/v1/`.
    pub(crate) const fn path(self) -> &'static str {
        self.facts().0
    }

    /// Gives the word Stripe uses in "No such …".
    pub(crate) const fn noun(self) -> &'static str {
        self.facts().2
    }

    /// Finds the kind by its path segment.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.path() == path)
    }

    /// Finds the kind by an identifier's prefix.
    pub(crate) fn of_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| id.starts_with(kind.facts().3))
    }
}

/// Facts beside an object: names are field names or words of our own.
pub(crate) type Links = BTreeMap<Cow<'static, str>, String>;

/// One stored object.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) json: Bytes,
    pub(crate) links: Links,
}

impl Row {
    /// Parses the stored bytes; they were written by ourselves, so a failure shows as `null`.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or(Value::Null)
    }

    /// Gives one link.
    pub(crate) fn link(&self, name: &str) -> Option<&str> {
        self.links.get(name).map(String::as_str)
    }
}

/// Where an object stands in its list: creation second, then order of arrival.
pub(crate) type Place = (i64, u64);

/// All objects of one kind in one account.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: BTreeMap<Place, (Arc<str>, Row)>,
    places: HashMap<Arc<str>, Place>,
    deleted: HashMap<Arc<str>, Place>,
}

impl Table {
    /// Appends a new object.
    pub(crate) fn insert(&mut self, id: &str, place: Place, row: Row) {
        let id: Arc<str> = Arc::from(id);
        self.places.insert(id.clone(), place);
        self.rows.insert(place, (id, row));
    }

    /// Gives a live object.
    pub(crate) fn row(&self, id: &str) -> Option<&Row> {
        self.places.get(id).and_then(|place| self.rows.get(place)).map(|(_, row)| row)
    }

    /// Gives a live object to change.
    pub(crate) fn row_mut(&mut self, id: &str) -> Option<&mut Row> {
        self.places.get(id).and_then(|place| self.rows.get_mut(place)).map(|(_, row)| row)
    }

    /// Takes an object out and leaves a tombstone.
    pub(crate) fn remove(&mut self, id: &str) -> Option<Row> {
        let (id, place) = self.places.remove_entry(id)?;
        let (_, row) = self.rows.remove(&place)?;
        self.deleted.insert(id, place);
        Some(row)
    }

    /// Puts an object where it stood, as the journal says: alive, or as a tombstone when there is no row.
    pub(crate) fn restore(&mut self, id: &str, place: Place, row: Option<Row>) {
        let id: Arc<str> = Arc::from(id);
        match row {
            Some(row) => {
                self.places.insert(id.clone(), place);
                self.rows.insert(place, (id, row));
            }
            None => {
                self.places.remove(&id);
                self.rows.remove(&place);
                self.deleted.insert(id, place);
            }
        }
    }

    /// Tells whether the object existed once and is gone.
    pub(crate) fn was_deleted(&self, id: &str) -> bool {
        self.deleted.contains_key(id)
    }

    /// Gives where the object stands, or stood when `also_deleted`.
    pub(crate) fn place(&self, id: &str, also_deleted: bool) -> Option<Place> {
        self.places.get(id).or_else(|| self.deleted.get(id).filter(|_| also_deleted)).copied()
    }

    /// Counts live objects.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Walks live objects, oldest first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&Arc<str>, &Row)> {
        self.rows.values().map(|(id, row)| (id, row))
    }

    /// Gives the n-th live object in an arbitrary but stable order; used to choose one at random.
    pub(crate) fn nth_id(&self, at: usize) -> Option<Arc<str>> {
        self.rows.values().nth(at).map(|(id, _)| id.clone())
    }

    /// Walks live objects strictly between two places, oldest first.
    pub(crate) fn between(
        &self,
        older: Option<Place>,
        newer: Option<Place>,
    ) -> Box<dyn DoubleEndedIterator<Item = &Row> + '_> {
        if let (Some(older), Some(newer)) = (older, newer)
            && older >= newer
        {
            return Box::new(std::iter::empty());
        }
        let rows = self
            .rows
            .range((older.map_or(Bound::Unbounded, Bound::Excluded), newer.map_or(Bound::Unbounded, Bound::Excluded)));
        Box::new(rows.map(|(_, (_, row))| row))
    }
}

/// One event, its JSON cut around the count of pending webhooks so that an acknowledgement needs no parsing.
#[derive(Debug, Clone)]
pub(crate) struct EventRow {
    pub(crate) kind: Arc<str>,
    pub(crate) head: Bytes,
    pub(crate) pending: u32,
    pub(crate) tail: Bytes,
}

impl EventRow {
    /// Gives the event's JSON as it would be answered now.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(self.pending.to_string().as_bytes());
        out.extend_from_slice(&self.tail);
    }
}

/// All events of one account.
#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) rows: BTreeMap<Place, (Arc<str>, EventRow)>,
    pub(crate) places: HashMap<Arc<str>, Place>,
}

impl Events {
    /// Appends an event and drops what is over the bound.
    pub(crate) fn insert(&mut self, id: &str, place: Place, row: EventRow) {
        let id: Arc<str> = Arc::from(id);
        self.places.insert(id.clone(), place);
        self.rows.insert(place, (id, row));
        while self.rows.len() > EVENTS_MAX {
            self.drop_oldest();
        }
    }

    /// Drops events older than the retention.
    pub(crate) fn expire(&mut self, now: i64) {
        while self.rows.first_key_value().is_some_and(|((created, _), _)| *created < now - EVENT_AGE_MAX) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, (id, _))) = self.rows.pop_first() {
            self.places.remove(&id);
        }
    }

    /// Gives an event to change.
    pub(crate) fn row_mut(&mut self, id: &str) -> Option<&mut EventRow> {
        self.places.get(id).and_then(|place| self.rows.get_mut(place)).map(|(_, row)| row)
    }

    /// Gives one event's JSON.
    pub(crate) fn json(&self, id: &str) -> Option<Vec<u8>> {
        let (_, row) = self.rows.get(self.places.get(id)?)?;
        let mut out = Vec::with_capacity(row.head.len() + row.tail.len() + 4);
        row.write(&mut out);
        Some(out)
    }
}

/// Everything one account owns.
#[derive(Debug, Default)]
pub(crate) struct Account {
    tables: BTreeMap<Kind, Table>,
    pub(crate) events: Events,
    pub(crate) invoice_number: u64,
}

impl Account {
    /// Gives the table of a kind, empty when nothing was created.
    pub(crate) fn table(&mut self, kind: Kind) -> &mut Table {
        self.tables.entry(kind).or_default()
    }

    /// Gives a live object.
    pub(crate) fn row(&self, kind: Kind, id: &str) -> Option<&Row> {
        self.tables.get(&kind).and_then(|table| table.row(id))
    }

    /// Gives the table of a kind if anything was ever created.
    pub(crate) fn table_ref(&self, kind: Kind) -> Option<&Table> {
        self.tables.get(&kind)
    }

    /// Counts live objects of a kind.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.tables.get(&kind).map_or(0, Table::len)
    }
}

/// An address that asked for events.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) url: String,
    pub(crate) secrets: Vec<(String, Option<i64>)>,
    /// The version its events are rendered in, or [`thin::THIN`] for one that is sent notices.
    pub(crate) api_version: Option<String>,
    pub(crate) enabled_events: Vec<String>,
    pub(crate) connect: bool,
    pub(crate) enabled: bool,
}

impl Endpoint {
    /// Tells whether this endpoint wants the event of that account.
    pub(crate) fn wants(&self, account: &str, own: &str, kind: &str) -> bool {
        let scope = if self.connect { account != own } else { account == self.account };
        let thin = self.is_thin().then(|| thin::kind_of(kind));
        let kind = thin.as_deref().unwrap_or(kind);
        self.enabled && scope && self.enabled_events.iter().any(|pattern| matches_pattern(pattern, kind))
    }

    /// Tells whether it is sent notices (thin events) instead of snapshots.
    pub(crate) fn is_thin(&self) -> bool {
        self.api_version.as_deref() == Some(thin::THIN)
    }
}

/// Tells whether an event type matches `*`, `invoice.*` or an exact name.
pub(crate) fn matches_pattern(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => kind.starts_with(prefix),
        None => pattern == kind,
    }
}

/// A delivery to queue once the lock on the world is gone.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    pub(crate) endpoint: String,
    pub(crate) account: String,
    pub(crate) event: String,
    pub(crate) body: Bytes,
}

/// What one operation has changed: objects by name, events with what their receivers are sent.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) touched: BTreeSet<(String, Kind, String)>,
    pub(crate) announced: Vec<Announced>,
}

/// One event as it was announced.
#[derive(Debug, Clone)]
pub(crate) struct Announced {
    pub(crate) account: String,
    pub(crate) event: String,
    /// One body per API version.
    pub(crate) bodies: Vec<(String, String)>,
}

/// The whole provider.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) own: String,
    pub(crate) accounts: HashMap<String, Account>,
    pub(crate) connected: BTreeSet<String>,
    pub(crate) keys: HashSet<String>,
    pub(crate) expired_keys: HashSet<String>,
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    pub(crate) outbox: Vec<Dispatch>,
    /// What the operation under way has changed; kept only while a journal wants to know.
    pub(crate) trace: Option<Trace>,
    pub(crate) api_version: String,
    pub(crate) skew: i64,
    pub(crate) frozen: Option<i64>,
    pub(crate) cursors_survive_deletion: bool,
    pub(crate) events_created: u64,
    /// Connect's codes and tokens.
    pub(crate) oauth: Authority,
    sequence: u64,
    dice: u64,
    /// Of their own: how many requests come, and when, changes no object's identifier.
    request_dice: u64,
}

/// What sets the dice of requests apart from those of objects.
const REQUESTS: u64 = 0x7265_7175_6573_7473;

impl World {
    /// Makes an empty provider whose identifiers follow from the seed.
    pub(crate) fn new(seed: u64, own: String, api_version: String, oauth: Authority) -> Self {
        Self {
            own,
            accounts: HashMap::new(),
            connected: BTreeSet::new(),
            keys: HashSet::new(),
            expired_keys: HashSet::new(),
            endpoints: BTreeMap::new(),
            outbox: Vec::new(),
            trace: None,
            api_version,
            skew: 0,
            frozen: None,
            cursors_survive_deletion: false,
            events_created: 0,
            oauth,
            sequence: 0,
            dice: seed,
            request_dice: seed ^ REQUESTS,
        }
    }

    /// Gives an account's data, made empty when first asked for.
    pub(crate) fn account(&mut self, id: &str) -> &mut Account {
        if !self.accounts.contains_key(id) {
            self.accounts.insert(id.to_owned(), Account::default());
        }
        self.accounts.entry(id.to_owned()).or_default()
    }

    /// Addresses an event to every endpoint that wants it.
    pub(crate) fn addressed(&mut self, announced: &Announced) -> Vec<Dispatch> {
        let events = &self.account(&announced.account).events;
        let row = events.places.get(announced.event.as_str()).and_then(|place| events.rows.get(place));
        let Some(kind) = row.map(|(_, row)| row.kind.clone()) else { return Vec::new() };
        let wanting = self.endpoints.values().filter(|endpoint| endpoint.wants(&announced.account, &self.own, &kind));
        let dispatch = |endpoint: &Endpoint| {
            let version = endpoint.api_version.as_ref().unwrap_or(&self.api_version);
            let known = announced.bodies.iter().find(|(known, _)| known == version);
            // A destination that was not there then is not sent a snapshot in the place of a notice, nor the other way round.
            let mut snapshots =
                announced.bodies.iter().filter(|(version, _)| version != thin::THIN && !endpoint.is_thin());
            let (_, body) = known.or_else(|| snapshots.next_back())?;
            Some(Dispatch {
                endpoint: endpoint.id.clone(),
                account: announced.account.clone(),
                event: announced.event.clone(),
                body: Bytes::copy_from_slice(body.as_bytes()),
            })
        };
        wanting.filter_map(dispatch).collect()
    }

    /// Gives where identifiers and order of arrival stand.
    pub(crate) fn counters(&self) -> (u64, u64) {
        (self.dice, self.sequence)
    }

    /// Sets where identifiers and order of arrival stand.
    pub(crate) fn set_counters(&mut self, (dice, sequence): (u64, u64)) {
        (self.dice, self.sequence) = (dice, sequence);
        self.request_dice = dice ^ REQUESTS;
    }

    /// Counts up; the order of arrival of objects and events.
    pub(crate) fn tick(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Makes a new identifier: prefix and random letters that follow from the seed.
    pub(crate) fn id(&mut self, prefix: &str) -> String {
        let length = if prefix == "cus_" || prefix == "prod_" { 14 } else { 24 };
        roll(&mut self.dice, prefix, length)
    }

    /// Makes the identifier of a request.
    pub(crate) fn request_id(&mut self) -> String {
        roll(&mut self.request_dice, "req_", 14)
    }

    /// Finds a live object or says it is missing.
    pub(crate) fn find(&self, account: &str, kind: Kind, id: &str, param: &str, status: u16) -> Result<&Row, Failure> {
        self.accounts
            .get(account)
            .and_then(|account| account.row(kind, id))
            .ok_or_else(|| Failure::missing(status, kind.noun(), id, param))
    }
}

/// Throws dice for an identifier.
fn roll(dice: &mut u64, prefix: &str, length: usize) -> String {
    let mut thrown = Dice(*dice);
    let id = thrown.name(prefix, length);
    *dice = thrown.0;
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        Row { json: Bytes::copy_from_slice(text.as_bytes()), links: Links::new() }
    }

    #[test]
    fn a_table_keeps_list_order_and_tombstones() {
        let mut table = Table::default();
        table.insert("a", (10, 1), row("1"));
        table.insert("b", (10, 2), row("2"));
        table.insert("c", (9, 3), row("3"));
        let newest: Vec<_> = table.between(None, None).rev().map(|row| row.json.clone()).collect();
        assert_eq!(newest, ["2", "1", "3"]);
        assert!(table.remove("a").is_some());
        assert!(table.was_deleted("a"));
        assert_eq!(table.place("a", false), None);
        assert_eq!(table.place("a", true), Some((10, 1)));
        assert_eq!(table.between(Some((10, 1)), Some((10, 1))).count(), 0);
    }

    #[test]
    fn event_patterns_match_as_stripe_does() {
        assert!(matches_pattern("*", "invoice.paid"));
        assert!(matches_pattern("invoice.*", "invoice.paid"));
        assert!(!matches_pattern("invoice.paid", "invoice.created"));
    }
}

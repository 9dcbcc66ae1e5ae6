//! Fills an account with plausible data: the same seed gives the same identifiers and bytes.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Stripe;
use super::desk::{Desk, bytes_of};
use super::objects::{self, Bill};
use super::state::{Dice, Kind, Links};

/// How long before now the first populated object was made, in seconds: about 400 days.
const HISTORY: i64 = 400 * 86_400;

/// How many metadata entries a customer is padded with, and how long each may be; both below Stripe's own bounds.
const PADS_MAX: usize = 40;
const PAD_BYTES: usize = 400;

/// How much to fill in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seed {
    /// Customers.
    pub customers: usize,
    /// Products.
    pub products: usize,
    /// Monthly and yearly prices, spread over the products.
    pub prices: usize,
    /// Active subscriptions, each of a customer to a price, with a paid invoice.
    pub subscriptions: usize,
    /// Paid and open invoices in all; the subscriptions' first ones count.
    pub invoices: usize,
    /// Charges that belong to no invoice.
    pub charges: usize,
    /// Serialised size of each customer; metadata is added until it is reached. 0 leaves them as they are.
    pub customer_bytes: usize,
    /// Whether `/v1/events` gets a `*.created` event for each object. Webhooks are never sent for them.
    pub with_events: bool,
    /// Added to the emulator's seed, so that two fillings do not collide.
    pub salt: u64,
}

impl Stripe {
    /// Fills the account; no webhook is sent, and events are made only when asked for.
    pub fn populate(&self, seed: &Seed) {
        self.populate_on(&self.inner.config.account.clone(), seed);
    }

    /// Fills a connected account.
    pub fn populate_on(&self, account: &str, seed: &Seed) {
        let origin = self.inner.config.seed;
        self.at_desk(account, |desk| {
            if let Some(journal) = self.inner.journal.get() {
                journal.filled(account, desk.now, desk.world.counters(), seed);
            }
            fill(desk, seed, origin);
        });
    }
}

/// Fills the account at the desk. The same seed, origin and moment give the same bytes.
pub(crate) fn fill(desk: &mut Desk<'_>, seed: &Seed, origin: u64) {
    let endpoints = std::mem::take(&mut desk.world.endpoints);
    // The journal keeps how the account was filled rather than what with.
    let trace = desk.world.trace.take();
    let mut filling = Filling {
        dice: Dice(origin.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ seed.salt ^ 0x9090),
        at: desk.now - HISTORY,
        step: step(seed),
        seed,
        desk,
    };
    filling.run();
    desk.world.endpoints = endpoints;
    desk.world.trace = trace;
    desk.emitted.clear();
}

fn step(seed: &Seed) -> i64 {
    let total = seed.customers + seed.products + seed.prices + seed.subscriptions + seed.invoices + seed.charges;
    // Several objects share a second once there are many: ties are part of the picture.
    (HISTORY / i64::try_from(total + 1).unwrap_or(i64::MAX)).max(0)
}

struct Filling<'a, 'b> {
    dice: Dice,
    at: i64,
    step: i64,
    seed: &'a Seed,
    desk: &'a mut Desk<'b>,
}

impl Filling<'_, '_> {
    fn run(&mut self) {
        let now = self.desk.now;
        let products: Vec<String> = (0..self.seed.products).map(|at| self.product(at)).collect();
        let prices: Vec<Value> = (0..self.seed.prices).filter_map(|at| self.price(at, &products)).collect();
        let customers: Vec<String> = (0..self.seed.customers).map(|at| self.customer(at)).collect();
        let mut billed = 0;
        for _ in 0..self.seed.subscriptions {
            let (Some(customer), Some(price)) = (self.choose(&customers), choose(&mut self.dice, &prices).cloned())
            else {
                break;
            };
            self.subscription(&customer, &price, billed < self.seed.invoices, now);
            billed += 1;
        }
        for at in billed..self.seed.invoices {
            let Some(customer) = self.choose(&customers) else { break };
            self.invoice(&customer, at);
        }
        for _ in 0..self.seed.charges {
            self.charge(&customers);
        }
        self.desk.now = now;
    }

    fn tick(&mut self) -> i64 {
        self.at += self.step;
        self.desk.now = self.at;
        self.at
    }

    fn id(&mut self, prefix: &str) -> String {
        let length = if matches!(prefix, "cus_" | "prod_") { 14 } else { 24 };
        self.dice.name(prefix, length)
    }

    fn choose(&mut self, list: &[String]) -> Option<String> {
        choose(&mut self.dice, list).cloned()
    }

    fn store(&mut self, kind: Kind, value: &Value, links: Links, event: &str) {
        self.desk.insert(kind, value, links);
        if self.seed.with_events {
            self.desk.emit(event, kind, value, None);
        }
    }

    fn product(&mut self, at: usize) -> String {
        let (id, created) = (self.id("prod_"), self.tick());
        let mut product = objects::product(&id, &format!("Product {at}"), created);
        product["description"] = json!(format!("Populated product number {at}"));
        self.store(Kind::Product, &product, Links::new(), "product.created");
        id
    }

    fn price(&mut self, at: usize, products: &[String]) -> Option<Value> {
        let product = products.get(at % products.len().max(1))?.clone();
        let (id, created) = (self.id("price_1"), self.tick());
        let amount = i64::try_from(self.dice.below(200) + 5).unwrap_or(5) * 100;
        let interval = if at % 4 == 3 { "year" } else { "month" };
        let price = objects::price(&id, &product, "usd", amount, objects::recurring(interval, 1), created);
        self.store(Kind::Price, &price, Links::new(), "price.created");
        Some(price)
    }

    fn customer(&mut self, at: usize) -> String {
        let (id, created) = (self.id("cus_"), self.tick());
        let mut customer = objects::customer(&id, created);
        customer["email"] = json!(format!("customer{at}@example.com"));
        customer["name"] = json!(format!("Customer {at}"));
        customer["description"] = json!(self.dice.name("populated ", 12));
        let mut short = self.seed.customer_bytes.saturating_sub(bytes_of(&customer).len());
        for part in 0..PADS_MAX {
            // `"pad00":""` takes 10 bytes, and a comma from the second on.
            let cost = if part == 0 { 10 } else { 11 };
            if short <= cost {
                break;
            }
            let fill = (short - cost).min(PAD_BYTES);
            customer["metadata"][format!("pad{part:02}")] = json!(self.dice.name("", fill));
            short -= cost + fill;
        }
        self.store(Kind::Customer, &customer, Links::new(), "customer.created");
        id
    }

    fn subscription(&mut self, customer: &str, price: &Value, billed: bool, now: i64) {
        let (id, item_id, created) = (self.id("sub_1"), self.id("si_"), self.tick());
        let interval = price["recurring"]["interval"].as_str().unwrap_or("month").to_owned();
        let mut period = (created, super::desk::add_interval(created, &interval, 1));
        while period.1 <= now {
            period = (period.1, super::desk::add_interval(period.1, &interval, 1));
        }
        let item = objects::subscription_item(&item_id, &id, price, 1, period, created);
        let mut subscription = objects::subscription(&id, customer, "usd", vec![item.clone()], "active", created);
        if billed {
            let (invoice, line) = (self.id("in_1"), self.id("il_1"));
            let amount = price["unit_amount"].as_i64().unwrap_or_default();
            let line = objects::invoice_line(&line, &invoice, &item, amount, period);
            subscription["latest_invoice"] = json!(invoice);
            self.paid_invoice(&invoice, customer, Some(&id), vec![line], period);
        }
        self.store(Kind::Subscription, &subscription, Links::new(), "customer.subscription.created");
    }

    fn paid_invoice(
        &mut self,
        id: &str,
        customer: &str,
        subscription: Option<&str>,
        lines: Vec<Value>,
        period: (i64, i64),
    ) {
        let created = self.desk.now;
        let customer = self.desk.read(Kind::Customer, customer, "customer", 400).unwrap_or(Value::Null);
        let reason = if subscription.is_some() { "subscription_create" } else { "manual" };
        let bill = Bill { customer: &customer, subscription, reason, currency: "usd", lines, period };
        let mut invoice = objects::invoice(id, bill, created);
        self.desk.data().invoice_number += 1;
        invoice["number"] = json!(format!("EMU-{:06}", self.desk.data().invoice_number));
        invoice["status"] = json!("paid");
        invoice["attempted"] = json!(true);
        invoice["attempt_count"] = json!(1);
        invoice["amount_paid"] = invoice["amount_due"].clone();
        invoice["amount_remaining"] = json!(0);
        invoice["effective_at"] = json!(created);
        invoice["status_transitions"]["finalized_at"] = json!(created);
        invoice["status_transitions"]["paid_at"] = json!(created);
        invoice["hosted_invoice_url"] = json!(format!("https://invoice.stripe.com/i/{id}"));
        let mut links = Links::new();
        if let Some(subscription) = subscription {
            links.insert("subscription".into(), subscription.to_owned());
        }
        self.store(Kind::Invoice, &invoice, links, "invoice.created");
    }

    fn invoice(&mut self, customer: &str, at: usize) {
        let (id, line, item, created) = (self.id("in_1"), self.id("il_1"), self.id("ii_1"), self.tick());
        let amount = i64::try_from(self.dice.below(500) + 5).unwrap_or(5) * 100;
        let line = objects::invoice_item_line(&line, &id, &item, amount, "usd", &json!(format!("Work {at}")), created);
        self.paid_invoice(&id, customer, None, vec![line], (created, created));
    }

    fn charge(&mut self, customers: &[String]) {
        let (id, created) = (self.id("ch_3"), self.tick());
        let amount = i64::try_from(self.dice.below(500) + 5).unwrap_or(5) * 100;
        let customer = self.choose(customers).map_or(Value::Null, |id| json!(id));
        let charge = objects::charge(&id, Value::Null, amount, "usd", customer, Value::Null, created);
        self.store(Kind::Charge, &charge, Links::new(), "charge.succeeded");
    }
}

fn choose<'a, T>(dice: &mut Dice, list: &'a [T]) -> Option<&'a T> {
    list.get(usize::try_from(dice.below(list.len() as u64)).ok()?)
}

//! Changes made from the provider's side: what a dashboard user, a bank or time itself would do.

#![allow(
    clippy::indexing_slicing,
    reason = "reading a JSON value by name never panics, and writes go to objects made here"
)]

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use rand::Rng;
use serde_json::{Value, json};

use super::desk::{Desk, Origin};
use super::error::Failure;
use super::shape;
use super::state::{Dice, Kind, Links};
use super::{Stripe, billing, catalog, checkout, form, invoices, routes, thin};

impl Stripe {
    /// Works at the desk of an account, without socket, credential, faults or ledger.
    pub(crate) fn at_desk<T>(&self, account: &str, work: impl FnOnce(&mut Desk<'_>) -> T) -> T {
        let clock = self.inner.clock();
        let (result, outbox) = {
            let mut world = self.inner.world();
            let now = world.frozen.unwrap_or(clock + world.skew);
            let mut desk = Desk {
                account: account.to_owned(),
                now,
                era: shape::era(&world.api_version),
                origin: Origin::default(),
                emitted: Vec::new(),
                world: &mut world,
            };
            let result = work(&mut desk);
            self.inner.remember(&mut world, None);
            (result, std::mem::take(&mut world.outbox))
        };
        self.inner.dispatch(outbox);
        result
    }

    fn own(&self) -> String {
        self.inner.config.account.clone()
    }

    /// Does what a request would do, from the provider's side: `call("POST", "/v1/customers", &[("email", "a@b.c")])`.
    ///
    /// No key is needed, no fault strikes, no ledger counts; events and webhooks follow as always.
    ///
    /// # Errors
    /// Gives the refusal the request would have got.
    pub fn call(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Result<Value, Failure> {
        self.call_on(&self.own(), method, path, fields)
    }

    /// Does the same on a connected account.
    ///
    /// # Errors
    /// Gives the refusal the request would have got.
    pub fn call_on(&self, account: &str, method: &str, path: &str, fields: &[(&str, &str)]) -> Result<Value, Failure> {
        let params = form::from_pairs(fields)?;
        self.call_with(account, method, path, &params)
    }

    pub(crate) fn call_with(&self, account: &str, method: &str, path: &str, params: &Value) -> Result<Value, Failure> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| Failure::unknown_url(method, path))?;
        let bytes = self.at_desk(account, |desk| routes::run(desk, &method, path, params))?;
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Creates a customer: `customer.created`.
    ///
    /// # Errors
    /// Gives Stripe's refusal of the fields.
    pub fn create_customer(&self, fields: &[(&str, &str)]) -> Result<Value, Failure> {
        self.call("POST", "/v1/customers", fields)
    }

    /// Updates a customer: `customer.updated`, unless nothing changed.
    ///
    /// # Errors
    /// Gives Stripe's refusal: no such customer, bad field.
    pub fn update_customer(&self, id: &str, fields: &[(&str, &str)]) -> Result<Value, Failure> {
        self.call("POST", &format!("/v1/customers/{id}"), fields)
    }

    /// Deletes a customer: its subscriptions end, then `customer.deleted`.
    ///
    /// # Errors
    /// Gives Stripe's refusal: no such customer.
    pub fn delete_customer(&self, id: &str) -> Result<Value, Failure> {
        self.call("DELETE", &format!("/v1/customers/{id}"), &[])
    }

    /// Creates a subscription to one price, paid by a good card: customer, price.
    ///
    /// # Errors
    /// Gives Stripe's refusal: no such customer or price.
    pub fn create_subscription(&self, customer: &str, price: &str) -> Result<Value, Failure> {
        let fields = [("customer", customer), ("items[0][price]", price), ("default_payment_method", "pm_card_visa")];
        self.call("POST", "/v1/subscriptions", &fields)
    }

    /// Ends a subscription now: `customer.subscription.deleted`.
    ///
    /// # Errors
    /// Gives Stripe's refusal: no such subscription, or ended already.
    pub fn cancel_subscription(&self, id: &str) -> Result<Value, Failure> {
        self.call("DELETE", &format!("/v1/subscriptions/{id}"), &[])
    }

    /// Moves a subscription one period on: renewal with invoice, end, or expiry, as its state asks.
    ///
    /// # Errors
    /// Gives Stripe's refusal: no such subscription.
    pub fn advance_subscription(&self, id: &str) -> Result<Value, Failure> {
        self.at_desk(&self.own(), |desk| billing::advance(desk, id))
    }

    /// Pays an open invoice by a good card: `invoice.paid`.
    ///
    /// # Errors
    /// Gives Stripe's refusal: no such invoice, not open.
    pub fn pay_invoice(&self, id: &str) -> Result<Value, Failure> {
        self.call("POST", &format!("/v1/invoices/{id}/pay"), &[("payment_method", "pm_card_visa")])
    }

    /// Completes a checkout session as its buyer would: `checkout.session.completed`.
    ///
    /// # Errors
    /// Gives Stripe's refusal: no such session, not open.
    pub fn complete_checkout(&self, id: &str) -> Result<Value, Failure> {
        self.at_desk(&self.own(), |desk| checkout::complete_session(desk, id))
    }

    /// Deletes a price, which the API cannot but the dashboard can: `price.deleted`.
    ///
    /// # Errors
    /// Gives a refusal: no such price.
    pub fn delete_price(&self, id: &str) -> Result<Value, Failure> {
        self.at_desk(&self.own(), |desk| desk.delete(Kind::Price, id, "price.deleted"))
    }

    /// Adds a webhook endpoint with a secret of your choice; `None` as version means the account's default.
    #[allow(clippy::must_use_candidate, reason = "who never rolls the secret needs no identifier")]
    pub fn webhook_endpoint(
        &self,
        url: &str,
        secret: &str,
        api_version: Option<&str>,
        enabled_events: &[&str],
    ) -> String {
        let enabled = enabled_events.iter().map(|name| (*name).to_owned()).collect();
        let value =
            self.at_desk(&self.own(), |desk| catalog::add_endpoint(desk, url, secret, api_version, enabled, false));
        value["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Adds a destination that is sent notices of events (thin events, `v1.customer.updated`) with a secret of your choice.
    #[allow(clippy::must_use_candidate, reason = "nothing is asked of a destination afterwards")]
    pub fn event_destination(&self, url: &str, secret: &str, enabled_events: &[&str]) -> String {
        let enabled = enabled_events.iter().map(|name| (*name).to_owned()).collect();
        self.at_desk(&self.own(), |desk| thin::add_destination(desk, url, secret, enabled))
    }

    /// Adds an endpoint that hears of all connected accounts, and of none of the platform's own events.
    #[allow(clippy::must_use_candidate, reason = "who never rolls the secret needs no identifier")]
    pub fn connect_endpoint(
        &self,
        url: &str,
        secret: &str,
        api_version: Option<&str>,
        enabled_events: &[&str],
    ) -> String {
        let enabled = enabled_events.iter().map(|name| (*name).to_owned()).collect();
        let value =
            self.at_desk(&self.own(), |desk| catalog::add_endpoint(desk, url, secret, api_version, enabled, true));
        value["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Rolls an endpoint's secret: gives the new one; the old one signs beside it for `StripeConfig::secret_overlap`.
    #[must_use]
    pub fn roll_secret(&self, endpoint: &str) -> Option<String> {
        let until = self.inner.now() + i64::try_from(self.inner.config.secret_overlap.as_secs()).unwrap_or(i64::MAX);
        let mut world = self.inner.world();
        let secret = world.id("whsec_");
        let endpoint = world.endpoints.get_mut(endpoint)?;
        for (_, expires) in &mut endpoint.secrets {
            *expires = Some(expires.unwrap_or(until).min(until));
        }
        endpoint.secrets.push((secret.clone(), None));
        Some(secret)
    }

    /// Gives an event as it would be delivered now: the `Stripe-Signature` header and the exact body.
    ///
    /// The body is the account's default version; deliveries to endpoints of another version differ.
    #[must_use]
    pub fn signed(&self, endpoint: &str, event: &str) -> Option<(String, Vec<u8>)> {
        let now = self.inner.now();
        let mut world = self.inner.world();
        let endpoint = world.endpoints.get(endpoint)?.clone();
        let mut body = world.account(&endpoint.account).events.json(event)?;
        if endpoint.is_thin() {
            body = serde_json::to_vec_pretty(&thin::notice(&serde_json::from_slice(&body).ok()?)).ok()?;
        }
        Some((super::webhooks::header(&endpoint, now, &body), body))
    }

    /// Gives the provider's truth of a stream: live objects by identifier, exactly as GET shows them.
    ///
    /// Streams: `customers`, `products`, `prices`, `subscriptions` (ended ones too), `invoices`, `charges` and the
    /// other lists. Deleted objects are absent. An unknown stream is empty.
    #[must_use]
    pub fn truth(&self, stream: &str) -> BTreeMap<String, Value> {
        self.truth_on(&self.own(), stream)
    }

    /// Gives the truth of a connected account.
    #[must_use]
    pub fn truth_on(&self, account: &str, stream: &str) -> BTreeMap<String, Value> {
        let Some(kind) = Kind::of_path(stream) else { return BTreeMap::new() };
        let mut world = self.inner.world();
        let era = shape::era(&world.api_version);
        let account = world.account(account);
        let table = account.table_ref(kind);
        table
            .into_iter()
            .flat_map(|table| table.iter())
            .map(|(id, row)| (id.to_string(), shape::render(account, row, era)))
            .collect()
    }

    /// Gives the identifiers of all events of the last 30 days.
    #[must_use]
    pub fn event_ids(&self) -> BTreeSet<String> {
        let own = self.own();
        self.inner.world().account(&own).events.places.keys().map(|id| id.to_string()).collect()
    }

    /// Gives all events of the last 30 days, oldest first, as GET shows them.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        let own = self.own();
        let mut world = self.inner.world();
        let events = &world.account(&own).events;
        let written = events.rows.values().map(|(_, row)| {
            let mut out = Vec::new();
            row.write(&mut out);
            serde_json::from_slice(&out).unwrap_or(Value::Null)
        });
        written.collect()
    }

    /// Sends an event of any type about any object, for facts the emulator has no operation for
    /// (`payout.paid`, `charge.dispute.created`): gives the event's identifier. Nothing is stored but the event.
    #[allow(clippy::must_use_candidate, reason = "most stories do not look at the event again")]
    pub fn emit(&self, event: &str, object: &Value, previous_attributes: Option<Value>) -> String {
        self.at_desk(&self.own(), |desk| {
            desk.emit_row(event, object, &Links::new(), previous_attributes);
            desk.emitted.pop().unwrap_or_default()
        })
    }

    /// Makes one plausible change and gives the identifier of its last event.
    pub fn random_mutation(&self, rng: &mut impl Rng) -> String {
        let mut dice = Dice(rng.next_u64());
        self.at_desk(&self.own(), |desk| {
            for _ in 0..8 {
                let before = desk.emitted.len();
                if mutate(desk, &mut dice).is_some() && desk.emitted.len() > before {
                    break;
                }
            }
            if desk.emitted.is_empty() {
                let _ =
                    catalog::create_customer(desk, &json!({ "email": format!("{}@example.com", dice.name("n", 8)) }));
            }
            desk.emitted.last().cloned().unwrap_or_default()
        })
    }
}

/// Chooses a live object.
fn pick(desk: &mut Desk<'_>, kind: Kind, dice: &mut Dice) -> Option<String> {
    let count = desk.data().count(kind);
    let at = usize::try_from(dice.below(count as u64)).ok()?;
    desk.data().table(kind).nth_id(at).map(|id| id.to_string())
}

fn mutate(desk: &mut Desk<'_>, dice: &mut Dice) -> Option<()> {
    let word = dice.name("w", 6);
    match dice.below(100) {
        0..25 => {
            let fields =
                json!({ "email": format!("{word}@example.com"), "name": word, "metadata": { "plan": "basic" } });
            catalog::create_customer(desk, &fields).ok()?;
        }
        25..55 => {
            let id = pick(desk, Kind::Customer, dice)?;
            catalog::update_customer(desk, &id, &json!({ "name": word, "metadata": { "touched": word } })).ok()?;
        }
        55..62 => {
            let id = pick(desk, Kind::Customer, dice)?;
            catalog::delete_customer(desk, &id).ok()?;
        }
        62..66 => {
            catalog::create_product(desk, &json!({ "name": word })).ok()?;
        }
        66..71 => {
            let id = pick(desk, Kind::Product, dice)?;
            catalog::update_product(desk, &id, &json!({ "description": word })).ok()?;
        }
        71..73 => {
            let id = pick(desk, Kind::Product, dice)?;
            catalog::delete_product(desk, &id).ok()?;
        }
        73..76 => {
            let id = pick(desk, Kind::Product, dice)?;
            let amount = (dice.below(90) + 10) * 100;
            let fields = json!({ "product": id, "currency": "usd", "unit_amount": amount.to_string(), "recurring": { "interval": "month" } });
            catalog::create_price(desk, &fields).ok()?;
        }
        76..79 => {
            let id = pick(desk, Kind::Price, dice)?;
            catalog::update_price(desk, &id, &json!({ "nickname": word })).ok()?;
        }
        79..85 => {
            let (customer, price) = (pick(desk, Kind::Customer, dice)?, pick(desk, Kind::Price, dice)?);
            let fields = json!({ "customer": customer, "items": [{ "price": price }], "default_payment_method": "pm_card_visa" });
            billing::create(desk, &fields).ok()?;
        }
        85..89 => {
            let id = pick(desk, Kind::Subscription, dice)?;
            let on = dice.chance(0.5);
            billing::update(
                desk,
                &id,
                &json!({ "cancel_at_period_end": on.to_string(), "metadata": { "touched": word } }),
            )
            .ok()?;
        }
        89..92 => {
            let id = pick(desk, Kind::Subscription, dice)?;
            billing::cancel(desk, &id, &json!({})).ok()?;
        }
        92..97 => {
            let id = pick(desk, Kind::Subscription, dice)?;
            billing::advance(desk, &id).ok()?;
        }
        _ => {
            let id = pick(desk, Kind::Invoice, dice)?;
            if dice.chance(0.5) {
                invoices::update_invoice(desk, &id, &json!({ "description": word })).ok()?;
            } else {
                invoices::pay_invoice(desk, &id, &json!({ "payment_method": "pm_card_visa" })).ok()?;
            }
        }
    }
    Some(())
}

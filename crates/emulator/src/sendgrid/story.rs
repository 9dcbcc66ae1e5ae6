//! The story methods: what recipients and admins do, without a request; and the same as JSON for others.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::inbound::InboundMail;
use super::suppressions::entry;
use super::world::{Entry, LISTS};
use super::{Limits, SendGrid, SendGridProvider};
use crate::control::read;
use crate::gate::House;

/// How far apart populated addresses were added, in seconds.
const POPULATED_APART: i64 = 60;

#[derive(Deserialize)]
struct SuppressForm {
    list: String,
    email: String,
    #[serde(default)]
    release: bool,
}

#[derive(Deserialize)]
struct EndpointForm {
    event_url: Option<String>,
    inbound_url: Option<String>,
    #[serde(default)]
    inbound_signed: bool,
}

#[derive(Deserialize)]
struct KeysForm {
    api_key: String,
}

#[derive(Deserialize)]
struct PopulateForm {
    list: String,
    addresses: usize,
}

impl SendGridProvider {
    fn populate(&self, list: &str, addresses: usize, now: i64) {
        let mut world = self.world();
        for at in 0..addresses {
            let ago = POPULATED_APART.saturating_mul(i64::try_from(addresses - at).unwrap_or(0));
            let made = entry(&format!("p{at}@{list}.example.com"), now / 1_000 - ago);
            world.suppress(
                list,
                Entry { reason: Some("550 5.1.1".to_owned()), status: Some("5.1.1".to_owned()), ..made },
            );
        }
    }

    fn truth(&self, list: &str) -> BTreeMap<String, Value> {
        let world = self.world();
        let entries = world.list(list).unwrap_or_default();
        entries.iter().map(|entry| (entry.email.to_ascii_lowercase(), entry.show())).collect()
    }

    fn mails(&self) -> Vec<Value> {
        let world = self.world();
        world.mails.iter().map(|mail| json!({ "id": mail.id, "body": mail.body })).collect()
    }

    /// Obeys the control plane.
    pub(super) fn obey(&self, house: &House, method: &str, path: &str, body: &Bytes) -> Option<Result<Value, String>> {
        let done = || json!({ "ok": true });
        Some(match (method, path) {
            ("GET", "/_emulator/truth") => {
                Ok(LISTS.into_iter().map(|list| (list.to_owned(), json!(self.truth(list)))).collect())
            }
            ("GET", "/_emulator/mails") => Ok(json!(self.mails())),
            ("GET", "/_emulator/waiting") => Ok(json!({ "deliveries": house.post.len() })),
            ("GET", "/_emulator/public_key") => Ok(json!({ "public_key": self.signer.public_key() })),
            ("POST", "/_emulator/suppress") => read::<SuppressForm>(body).map(|form| {
                let mut world = self.world();
                if form.release {
                    world.release(&form.list, &form.email);
                } else {
                    world.suppress(&form.list, entry(&form.email, house.now() / 1_000));
                }
                done()
            }),
            ("POST", "/_emulator/populate") => read::<PopulateForm>(body).map(|form| {
                self.populate(&form.list, form.addresses, house.now());
                done()
            }),
            ("POST", "/_emulator/endpoints") => read::<EndpointForm>(body).map(|form| {
                let mut world = self.world();
                world.event_url = form.event_url;
                world.inbound_url = form.inbound_url.map(|url| (url, form.inbound_signed));
                done()
            }),
            ("POST", "/_emulator/inbound") => read::<InboundMail>(body).map(|mail| {
                let parcel = self.parse(&mut self.world(), &mail);
                house.post.leave(parcel);
                done()
            }),
            ("POST", "/_emulator/limits") => read::<Limits>(body).map(|limits| {
                self.meter().set(limits);
                done()
            }),
            ("POST", "/_emulator/keys") => read::<KeysForm>(body).map(|form| {
                self.world().api_key = form.api_key;
                done()
            }),
            _ => return None,
        })
    }
}

#[expect(clippy::must_use_candidate, reason = "a story method is called for what it does")]
impl SendGrid {
    /// Gives the key that is accepted now.
    #[must_use]
    pub fn api_key(&self) -> String {
        self.inner.provider.world().api_key.clone()
    }

    /// Accepts this key and no other.
    pub fn set_api_key(&self, key: &str) {
        key.clone_into(&mut self.inner.provider.world().api_key);
    }

    /// Gives the verification key of its webhooks as the settings show it.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.inner.provider.signer.public_key()
    }

    /// Sets what each endpoint takes in a period, and begins to count anew.
    pub fn set_limits(&self, limits: Limits) {
        self.inner.provider.meter().set(limits);
    }

    /// Sets where events are posted.
    pub fn set_event_url(&self, url: Option<&str>) {
        self.inner.provider.world().event_url = url.map(str::to_owned);
    }

    /// Sets where inbound mail is posted, and whether that is signed.
    pub fn set_inbound_url(&self, url: Option<&str>, signed: bool) {
        self.inner.provider.world().inbound_url = url.map(|url| (url.to_owned(), signed));
    }

    /// Lets somebody write to the account.
    pub fn receive(&self, mail: &InboundMail) {
        let parcel = self.inner.provider.parse(&mut self.inner.provider.world(), mail);
        self.inner.house.post.leave(parcel);
        self.inner.flush();
    }

    /// Posts one event of the given type for an address, as if a mail had brought it about.
    pub fn emit(&self, kind: &str, email: &str, more: &Value) {
        let (provider, house) = (&self.inner.provider, &self.inner.house);
        let mut world = provider.world();
        let mut event = json!({
            "email": email, "timestamp": house.now() / 1_000, "event": kind,
            "sg_event_id": world.name(22), "sg_message_id": format!("{}.recvd-emulator-0", world.name(22)),
        });
        if let (Value::Object(fields), Value::Object(more)) = (&mut event, more) {
            fields.extend(more.clone());
        }
        let parcel = SendGridProvider::batch(&world, &[event]);
        drop(world);
        house.book().ledger.events_created += 1;
        house.post.leave(parcel);
        self.inner.flush();
    }

    /// Puts an address on a list, or puts it on it anew. No event tells of it.
    pub fn suppress(&self, list: &str, email: &str) {
        let seconds = self.inner.house.now() / 1_000;
        self.inner.provider.world().suppress(list, entry(email, seconds));
        self.inner.flush();
    }

    /// Takes an address off a list. Tells whether it was on it.
    pub fn release(&self, list: &str, email: &str) -> bool {
        let known = self.inner.provider.world().release(list, email);
        self.inner.flush();
        known
    }

    /// Begins with addresses of the past on a list, one a minute until now.
    pub fn populate(&self, list: &str, addresses: usize) {
        self.inner.provider.populate(list, addresses, self.inner.house.now());
        self.inner.flush();
    }

    /// Gives a list's entries exactly as GET shows them, by address.
    #[must_use]
    pub fn truth(&self, list: &str) -> BTreeMap<String, Value> {
        self.inner.provider.truth(list)
    }

    /// Gives every mail that was taken: its id and its body.
    #[must_use]
    pub fn mails(&self) -> Vec<Value> {
        self.inner.provider.mails()
    }
}

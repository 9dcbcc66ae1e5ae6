//! The emulated Stripe as a stage of the kit.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use palisade_core::auth::Scheme;
use palisade_core::webhook::RawDelivery;
use palisade_core::{Secret, Transport};
use palisade_emulator::stripe::{Seed, Stripe as Emulator, StripeConfig};
use palisade_stripe::API_VERSION;
use palisade_testkit::conformance::{NOW, Stage};
use palisade_testkit::{EmulatorTransport, PostBox, clock_from};
use serde_json::Value;

const SECRET: &str = "whsec_of_the_stage";

pub(crate) struct StripeStage {
    emulator: Emulator,
    posted: PostBox,
}

impl StripeStage {
    pub(crate) fn new() -> Self {
        let posted = PostBox::new();
        let emulator = Emulator::offline(StripeConfig {
            clock: clock_from(NOW),
            api_version: API_VERSION.to_owned(),
            webhook_sender: Some(posted.sender()),
            ..StripeConfig::default()
        });
        emulator.populate(&Seed {
            customers: 12,
            products: 9,
            prices: 9,
            subscriptions: 9,
            invoices: 9,
            charges: 9,
            ..Seed::default()
        });
        emulator.webhook_endpoint("https://hooks.example.test/stripe", SECRET, None, &["*"]);
        Self { emulator, posted }
    }

    fn nth(&self, stream: &str, at: usize) -> String {
        let ids: Vec<String> = self.truth(stream).into_keys().collect();
        ids[at % ids.len()].clone()
    }

    fn call(&self, method: &str, path: &str, fields: &[(&str, &str)]) {
        self.emulator.call(method, path, fields).unwrap();
    }
}

impl Stage for StripeStage {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(EmulatorTransport::new(self.emulator.clone()))
    }

    fn credential(&self) -> Scheme {
        Scheme::Bearer(self.emulator.api_key().into())
    }

    fn truth(&self, stream: &str) -> BTreeMap<String, Value> {
        self.emulator.truth(stream)
    }

    fn change(&self, stream: &str, step: usize) {
        let word = format!("word {step}");
        let one = self.nth(stream, step);
        match (stream, step % 3) {
            ("customers", 0) => self.call("POST", "/v1/customers", &[("email", "new@x.example")]),
            ("customers", 2) => assert!(self.emulator.delete_customer(&one).is_ok()),
            ("products", 0) => self.call("POST", "/v1/products", &[("name", &word)]),
            ("subscriptions", 0) => {
                let (customer, price) = (self.nth("customers", step), self.nth("prices", step));
                self.emulator.create_subscription(&customer, &price).unwrap();
            }
            _ => self.call("POST", &format!("/v1/{stream}/{one}"), &[("metadata[touched]", &word)]),
        }
    }

    fn delete(&self, stream: &str, id: &str) -> bool {
        stream == "customers" && self.emulator.delete_customer(id).is_ok()
    }

    fn deliveries(&self) -> Pin<Box<dyn Future<Output = Vec<RawDelivery>> + Send + '_>> {
        Box::pin(async {
            self.emulator.drain_webhooks().await;
            self.posted.take()
        })
    }

    fn secrets(&self) -> Vec<Secret> {
        vec![SECRET.into()]
    }
}

//! The emulated Twilio as a stage of the kit.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use palisade_core::auth::Scheme;
use palisade_core::webhook::RawDelivery;
use palisade_core::{Secret, Transport};
use palisade_emulator::twilio::{Twilio as Emulator, TwilioConfig};
use palisade_testkit::conformance::{NOW, Stage};
use palisade_testkit::{EmulatorTransport, PostBox, clock_from};
use palisade_twilio::auth;
use palisade_twilio::sid::AccountSid;
use serde_json::Value;

const HOOK: &str = "https://hooks.example.test/webhooks/twilio?a=1";

pub(crate) struct TwilioStage {
    emulator: Emulator,
    posted: PostBox,
    last: Mutex<String>,
}

impl TwilioStage {
    pub(crate) fn new() -> Self {
        let posted = PostBox::new();
        let emulator = Emulator::offline(TwilioConfig {
            clock: clock_from(NOW),
            poster: Some(posted.poster()),
            inbound_url: Some(HOOK.to_owned()),
            ..TwilioConfig::default()
        });
        emulator.populate(15);
        Self { emulator, posted, last: Mutex::default() }
    }
}

impl Stage for TwilioStage {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(EmulatorTransport::new(self.emulator.clone()))
    }

    fn credential(&self) -> Scheme {
        let account = AccountSid::parse(self.emulator.account_sid()).unwrap();
        auth::auth_token(&account, Secret::from(self.emulator.auth_token())).unwrap()
    }

    fn account(&self) -> Option<String> {
        Some(self.emulator.account_sid().to_owned())
    }

    fn truth(&self, _stream: &str) -> BTreeMap<String, Value> {
        self.emulator.truth()
    }

    /// A message out, a message in, a late failure, one that is deleted.
    fn change(&self, _stream: &str, step: usize) {
        let mut last = self.last.lock().unwrap();
        match step % 4 {
            0 => {
                let (to, from) = (("To", "+15005550010"), ("From", "+15005550006"));
                let sent = self.emulator.send(&[to, from, ("Body", "x"), ("StatusCallback", HOOK)]).unwrap();
                *last = sent["sid"].as_str().unwrap().to_owned();
            }
            1 => drop(self.emulator.receive("+15005550010", "+15005550006", "hello", &[])),
            2 => assert!(self.emulator.report(&last, "undelivered", Some(30_003))),
            _ => assert!(self.emulator.delete(&last)),
        }
    }

    fn delete(&self, _stream: &str, id: &str) -> bool {
        self.emulator.delete(id)
    }

    fn deliveries(&self) -> Pin<Box<dyn Future<Output = Vec<RawDelivery>> + Send + '_>> {
        Box::pin(async {
            self.emulator.drain_webhooks().await;
            self.posted.take()
        })
    }

    fn secrets(&self) -> Vec<Secret> {
        vec![self.emulator.auth_token().into()]
    }
}

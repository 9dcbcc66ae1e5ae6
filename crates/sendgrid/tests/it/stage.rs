//! The emulated SendGrid as a stage of the kit.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use palisade_core::auth::Scheme;
use palisade_core::webhook::RawDelivery;
use palisade_core::{Secret, Transport};
use palisade_emulator::sendgrid::{SendGrid as Emulator, SendGridConfig};
use palisade_sendgrid::List;
use palisade_testkit::conformance::{NOW, Stage};
use palisade_testkit::{EmulatorTransport, PostBox, clock_from};
use serde_json::{Value, json};

pub(crate) struct SendGridStage {
    emulator: Emulator,
    posted: PostBox,
}

impl SendGridStage {
    pub(crate) fn new() -> Self {
        let posted = PostBox::new();
        let emulator = Emulator::offline(SendGridConfig {
            clock: clock_from(NOW),
            poster: Some(posted.poster()),
            event_url: Some("https://hooks.example.test/webhooks/sendgrid".to_owned()),
            ..SendGridConfig::default()
        });
        for list in List::ALL {
            emulator.populate(list.name(), 10);
        }
        Self { emulator, posted }
    }
}

impl Stage for SendGridStage {
    fn transport(&self) -> Arc<dyn Transport> {
        Arc::new(EmulatorTransport::new(self.emulator.clone()))
    }

    fn credential(&self) -> Scheme {
        Scheme::Bearer(self.emulator.api_key().into())
    }

    fn truth(&self, stream: &str) -> BTreeMap<String, Value> {
        self.emulator.truth(stream)
    }

    /// An address comes on the list, comes on it anew, and every third time one goes, which no event tells.
    fn change(&self, stream: &str, step: usize) {
        if step % 3 == 2 {
            let first = self.truth(stream).into_keys().next().unwrap();
            assert!(self.emulator.release(stream, &first));
            return;
        }
        let email = format!("new{}@x.example", step / 2);
        self.emulator.suppress(stream, &email);
        let (kind, more) = match stream {
            "bounces" => ("bounce", json!({ "type": "bounce" })),
            "blocks" => ("bounce", json!({ "type": "blocked" })),
            "spam_reports" => ("spamreport", json!({})),
            "unsubscribes" => ("unsubscribe", json!({})),
            _ => ("dropped", json!({ "reason": "Invalid" })),
        };
        self.emulator.emit(kind, &email, &more);
    }

    fn delete(&self, stream: &str, id: &str) -> bool {
        self.emulator.release(stream, id)
    }

    fn deliveries(&self) -> Pin<Box<dyn Future<Output = Vec<RawDelivery>> + Send + '_>> {
        Box::pin(async {
            self.emulator.drain_webhooks().await;
            self.posted.take()
        })
    }

    fn secrets(&self) -> Vec<Secret> {
        vec![self.emulator.public_key().into()]
    }
}

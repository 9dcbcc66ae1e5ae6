//! A provider of the simulation, seen alike, and Stripe.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use palisade_core::auth::Scheme;
use palisade_core::auth::oauth2::OAuth2Config;
use palisade_core::store::RunMode;
use palisade_core::{ConnectionId, Secret, TenantId, Transport};
use palisade_emulator::oauth::Authority;
use palisade_emulator::stripe::{self, Stripe, StripeConfig};
use palisade_emulator::{Clock, Faults, Ledger, Poster};
use palisade_hub::{ConnectionConfig, EndpointConfig, HubBuilder};
use palisade_stripe::StripeProvider;
use palisade_testkit::EmulatorTransport;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::verdict;

/// Live records by id, as the provider's API shows them.
pub(super) type Records = BTreeMap<String, Value>;

/// What a provider is made with.
pub(super) struct Making {
    pub(super) seed: u64,
    pub(super) clock: Clock,
    pub(super) poster: Poster,
}

/// A provider of the simulation with one connected account.
pub(super) trait Actor: Send + Sync {
    /// The provider's name, also its connection's, its tenant's and its endpoint's.
    fn name(&self) -> &'static str;

    /// Whether a request to a host is for it.
    fn answers(&self, host: &str) -> bool;

    /// The way to it without a socket.
    fn transport(&self) -> EmulatorTransport;

    /// Adds provider, connection and endpoint.
    fn plug(&self, hub: HubBuilder) -> HubBuilder;

    /// Lets one thing happen.
    fn happen(&self, dice: &mut StdRng);

    /// Does one write as the product would, named by a number: gives what became of it.
    fn write(&self, pipeline: Arc<dyn Transport>, number: u64) -> BoxFuture<'static, palisade_core::Result<()>>;

    /// How often each write was really done.
    fn done(&self) -> BTreeMap<u64, u64>;

    /// Whether what was done can disappear again by what happens at the provider.
    fn forgets(&self) -> bool {
        false
    }

    /// The streams that are compared at the end, and how each is read once more before: not at all where webhooks and
    /// walks tell everything, because a full run would hide what was merged wrongly.
    fn streams(&self) -> Vec<(&'static str, Option<RunMode>)>;

    /// Streams that are read once more but hold no records.
    fn walks(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// The truth of a stream.
    fn truth(&self, stream: &str) -> Records;

    /// What goes wrong at it.
    fn faults(&self) -> Faults;

    /// What it counted.
    fn ledger(&self) -> Ledger;

    /// The ids of acknowledged events, as the inbox knows them.
    fn acked(&self) -> BTreeSet<String> {
        self.ledger().webhooks.acked_events
    }

    /// Whether what is signed tells an old delivery from a new one.
    fn tells_old(&self) -> bool {
        true
    }

    /// Waits until no delivery of its is under way.
    fn drain(&self) -> BoxFuture<'_, ()>;

    /// What authenticates us or it, and may be shown nowhere.
    fn secrets(&self) -> Vec<String>;

    /// The most it counted at once of what it limits, and how much it says it allows.
    fn peaks(&self) -> Vec<Peak> {
        Vec::new()
    }

    /// How its account is connected, if by OAuth.
    fn flow(&self) -> Option<OAuth2Config> {
        None
    }

    /// Its authorisation server, if its account is connected by OAuth.
    fn authority(&self) -> Option<Authority> {
        None
    }

    /// Where single-use tokens are traded.
    fn token_path(&self) -> Option<&'static str> {
        None
    }
}

/// What was counted, its peak, and the most that is allowed.
pub(super) type Peak = (String, u64, u64);

/// Where an actor's deliveries go.
pub(super) fn hook(name: &str) -> String {
    format!("{}/webhooks/{name}", super::world::FRONT)
}

/// Makes the connection of an actor.
pub(super) fn connection(name: &str, account: Option<&str>, credential: Scheme) -> ConnectionConfig {
    ConnectionConfig {
        id: ConnectionId::new(name),
        tenant: TenantId::new(name),
        provider: name.to_owned(),
        environment: Default::default(),
        account: account.map(str::to_owned),
        base_url: None,
        credential: credential.into(),
    }
}

/// Makes the endpoint of an actor.
pub(super) fn endpoint(name: &str, secrets: Vec<Secret>) -> EndpointConfig {
    EndpointConfig { name: name.to_owned(), provider: name.to_owned(), connection: ConnectionId::new(name), secrets }
}

/// Reads the number of a write out of its text.
pub(super) fn number_of(text: &str) -> Option<u64> {
    text.strip_prefix("write-")?.parse().ok()
}

/// Writes a number into a text.
pub(super) fn text_of(number: u64) -> String {
    format!("write-{number}")
}

/// Counts numbers.
pub(super) fn counted(numbers: impl Iterator<Item = u64>) -> BTreeMap<u64, u64> {
    numbers.fold(BTreeMap::new(), |mut all, number| {
        *all.entry(number).or_default() += 1;
        all
    })
}

/// Stripe: customers and what they buy.
pub(super) struct Shop {
    emulator: Stripe,
}

const SHOP_SECRET: &str = "whsec_of_the_simulation";

impl Shop {
    pub(super) fn new(making: Making) -> Self {
        let Making { seed, clock, poster } = making;
        let emulator = Stripe::offline(StripeConfig {
            seed,
            clock,
            webhook_sender: Some(Arc::new(move |request| {
                let posted = poster(request);
                Box::pin(async move { Some(posted.await?.status().as_u16()) })
            })),
            ..StripeConfig::default()
        });
        let _ = emulator.webhook_endpoint(&hook("stripe"), SHOP_SECRET, None, &["*"]);
        emulator.populate(&stripe::Seed {
            customers: 60,
            products: 4,
            prices: 6,
            subscriptions: 10,
            invoices: 20,
            charges: 6,
            ..stripe::Seed::default()
        });
        Self { emulator }
    }
}

impl Actor for Shop {
    fn name(&self) -> &'static str {
        "stripe"
    }

    fn answers(&self, host: &str) -> bool {
        host.ends_with("stripe.com")
    }

    fn transport(&self) -> EmulatorTransport {
        EmulatorTransport::new(self.emulator.clone())
    }

    fn plug(&self, hub: HubBuilder) -> HubBuilder {
        let key = Scheme::Bearer(Secret::new(self.emulator.api_key()));
        hub.provider(StripeProvider::new())
            .connection(connection(self.name(), None, key))
            .endpoint(endpoint(self.name(), vec![Secret::new(SHOP_SECRET)]))
    }

    fn happen(&self, dice: &mut StdRng) {
        self.emulator.ties(dice.random_bool(0.3));
        self.emulator.random_mutation(dice);
        self.emulator.ties(false);
    }

    fn write(&self, pipeline: Arc<dyn Transport>, number: u64) -> BoxFuture<'static, palisade_core::Result<()>> {
        Box::pin(async move {
            let stripe = palisade_stripe::Stripe::new(pipeline, "stripe", "stripe");
            let new = palisade_stripe::client::NewCustomer::new().name(text_of(number));
            stripe.create_customer(new, None).await.map(drop)
        })
    }

    fn done(&self) -> BTreeMap<u64, u64> {
        let customers = self.emulator.truth("customers").into_values();
        counted(customers.filter_map(|one| number_of(one["name"].as_str()?)))
    }

    /// Customers are deleted and named anew.
    fn forgets(&self) -> bool {
        true
    }

    fn streams(&self) -> Vec<(&'static str, Option<RunMode>)> {
        verdict::record_streams().into_iter().map(|stream| (stream, None)).collect()
    }

    fn walks(&self) -> Vec<&'static str> {
        vec![palisade_stripe::sync::EVENTS]
    }

    fn truth(&self, stream: &str) -> Records {
        self.emulator.truth(stream)
    }

    fn faults(&self) -> Faults {
        self.emulator.faults()
    }

    fn ledger(&self) -> Ledger {
        self.emulator.ledger()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.emulator.drain_webhooks().await })
    }

    fn secrets(&self) -> Vec<String> {
        vec![self.emulator.api_key().to_owned(), SHOP_SECRET.to_owned()]
    }

    /// 25 requests a second in a sandbox (Stripe, rate limits, 2026), and what the way there presses into one second.
    fn peaks(&self) -> Vec<Peak> {
        vec![("requests a second".to_owned(), self.ledger().peak_per_second, 30)]
    }
}

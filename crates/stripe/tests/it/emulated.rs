//! Whole stories against the emulated Stripe, in memory. The pipeline is not part of them: a plain transport adds key
//! and idempotency key, sends once and lets the adapter's classifier read the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use palisade_core::client::{Classifier, Verdict};
use palisade_core::sync::{Change, Cursor, Next, Site, Source, Span, State};
use palisade_core::webhook::{Event, Verified, Webhook};
use palisade_core::{Call, Error, ErrorKind, RecordId, Replay, Secret, StreamName, Timestamp, Transport};
use palisade_emulator::stripe::{Seed, Stripe as Emulator, StripeConfig};
use palisade_stripe::client::{Confirmation, NewCheckout, NewCustomer, NewRefund, NewSubscription};
use palisade_stripe::decline::Retry;
use palisade_stripe::error::{StripeClassifier, advice};
use palisade_stripe::{Stripe, StripeSource, StripeWebhook, TypedEvent};
use stripe_core::customer::{ListCustomer, RetrieveCustomerReturned};
use stripe_core::payment_intent::CreatePaymentIntent;

use super::webhook::delivery;

const BEGIN: i64 = 1_767_225_600;

struct World {
    emulator: Emulator,
    now: Arc<AtomicI64>,
    keys: AtomicU64,
}

#[async_trait]
impl Transport for World {
    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, Error> {
        let call = request.extensions().get::<Call>().expect("every request carries its call").clone();
        let bearer = format!("Bearer {}", self.emulator.api_key());
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
        if let Replay::Keyed(header) = call.operation.replay {
            let made = format!("key-{}", self.keys.fetch_add(1, Ordering::Relaxed));
            let key = call.idempotency_key.as_deref().unwrap_or(&made);
            request
                .headers_mut()
                .insert(http::HeaderName::from_bytes(header.to_lowercase().as_bytes()).unwrap(), key.parse().unwrap());
        }
        let response = self.emulator.handle(request).await.expect("no fault is dialled");
        match StripeClassifier.classify(call.operation, &response) {
            Verdict::Success => Ok(response),
            Verdict::Unauthorized(error) | Verdict::Throttled { error, .. } | Verdict::Failed { error, .. } => {
                Err(error)
            }
        }
    }
}

impl World {
    fn new(api_version: &str) -> Arc<Self> {
        let now = Arc::new(AtomicI64::new(BEGIN));
        let read = Arc::clone(&now);
        let config = StripeConfig {
            seed: 7,
            api_version: api_version.to_owned(),
            clock: Arc::new(move || UNIX_EPOCH + Duration::from_secs(read.load(Ordering::Relaxed).unsigned_abs())),
            ..StripeConfig::default()
        };
        Arc::new(Self { emulator: Emulator::offline(config), now, keys: AtomicU64::new(0) })
    }

    fn pass(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::Relaxed);
    }

    fn client(self: &Arc<Self>) -> Stripe {
        let transport = Arc::clone(self) as Arc<dyn Transport>;
        Stripe::new(transport, "conn_1", "tenant_1").at(self.emulator.base_url()).unwrap()
    }

    fn price(&self, amount: &str) -> String {
        let fields = [
            ("currency", "usd"),
            ("unit_amount", amount),
            ("recurring[interval]", "month"),
            ("product_data[name]", "Plan"),
        ];
        self.emulator.call("POST", "/v1/prices", &fields).unwrap()["id"].as_str().unwrap().to_owned()
    }

    fn site(&self) -> Site {
        Site {
            base_url: self.emulator.base_url().to_owned(),
            connection: "conn_1".into(),
            tenant: "tenant_1".into(),
            account: None,
            page_size: 100,
        }
    }

    fn span(&self) -> Span {
        Span::second(Timestamp::from_seconds(self.now.load(Ordering::Relaxed)))
    }

    /// Runs a stream to its end.
    async fn run(
        &self,
        source: &StripeSource,
        stream: &str,
        cursor: Option<Cursor>,
    ) -> Result<(Vec<Change>, Vec<Event>, Option<Cursor>), Error> {
        let stream = StreamName::new(stream);
        let (mut cursor, mut changes, mut events) = (cursor, Vec::new(), Vec::new());
        loop {
            let response = self.send(source.request(&self.site(), &stream, cursor.as_ref())?).await?;
            let page = source.page(&stream, cursor.as_ref(), &response, self.span())?;
            changes.extend(page.changes);
            events.extend(page.events);
            match page.next {
                Next::More(next) => cursor = Some(next),
                Next::Done { resume } => return Ok((changes, events, resume)),
            }
        }
    }

    async fn fetch(&self, source: &StripeSource, stream: &str, id: &str) -> State {
        let (stream, id) = (StreamName::new(stream), RecordId::new(id));
        match self.send(source.fetch(&self.site(), &stream, &id).unwrap()).await {
            Ok(response) => source.fetched(&stream, &id, &response, self.span()).unwrap().state,
            Err(error) if error.kind() == ErrorKind::NotFound => State::Deleted,
            Err(error) => panic!("{error}"),
        }
    }
}

const STREAMS: [&str; 6] = ["customers", "products", "prices", "subscriptions", "invoices", "charges"];

#[tokio::test]
async fn a_subscription_is_sold_paid_refunded_and_ended() {
    for (version, spoken) in
        [("2026-09-30.endive", "2026-09-30.endive"), ("2022-11-15", "2022-11-15"), ("2022-11-15", "2025-03-31.basil")]
    {
        let world = World::new(version);
        let stripe = world.client().speaking(spoken).unwrap();
        let price = world.price("1500");
        let customer =
            world.client().create_customer(NewCustomer::new().email("ada@example.com"), Some("c1")).await.unwrap();
        let again =
            world.client().create_customer(NewCustomer::new().email("ada@example.com"), Some("c1")).await.unwrap();
        assert_eq!(customer.id, again.id, "the same key is the same customer");

        let started =
            stripe.start_subscription(NewSubscription::new(customer.id.as_str()).price(&price), None).await.unwrap();
        assert_eq!(started.status, "incomplete", "{spoken}");
        let Some(Confirmation::Payment { client_secret }) = &started.confirmation else {
            panic!("{spoken}: {started:?}")
        };
        assert!(client_secret.expose().starts_with("pi_"), "{spoken}");
        assert!(!format!("{started:?}").contains("_secret_"), "the secret is not printed");

        let trial = NewSubscription::new(customer.id.as_str()).price(&price).trial_days(7);
        let trial = stripe.start_subscription(trial, None).await.unwrap();
        assert_eq!(trial.status, "trialing", "{spoken}");
        assert!(matches!(trial.confirmation, Some(Confirmation::Setup { .. })), "{spoken}: {trial:?}");

        let state = stripe.cancel_at_period_end(&trial.subscription_id, None).await.unwrap();
        assert!(state.cancel_at_period_end && state.current_period_end.is_some(), "{spoken}");
        assert!(!stripe.undo_cancel(&trial.subscription_id, None).await.unwrap().cancel_at_period_end);
        assert_eq!(stripe.cancel_now(&trial.subscription_id).await.unwrap().status, "canceled");

        let paid = world.emulator.create_subscription(customer.id.as_str(), &price).unwrap();
        assert_eq!(paid["status"], "active");
        let charges = world.emulator.truth("charges");
        let charge = charges.keys().next().expect("a paid subscription leaves a charge");
        let part = stripe.refund(NewRefund::of_charge(charge).amount(500), None).await.unwrap();
        assert_eq!((part.amount, part.status.as_deref()), (500, Some("succeeded")));
        let rest = stripe.refund(NewRefund::of_charge(charge), None).await.unwrap();
        assert_eq!(rest.amount, 1_000, "what is left of it");

        let checkout = NewCheckout::subscription("https://x.example/ok").price(&price).customer(customer.id.as_str());
        let session = stripe.checkout_session(checkout, None).await.unwrap();
        assert!(session.id.starts_with("cs_") && session.url.is_some() && session.status.as_deref() == Some("open"));
    }
}

#[tokio::test]
async fn errors_of_the_provider_say_what_to_do() {
    let world = World::new("2026-09-30.endive");
    let stripe = world.client();
    let missing = stripe.retrieve_subscription("sub_none").await.unwrap_err();
    assert_eq!((missing.kind(), missing.code()), (ErrorKind::NotFound, Some("resource_missing")));
    assert!(missing.request_id().is_some());

    let declined = async |card: &str| {
        let pay = CreatePaymentIntent::new(500, stripe_types::Currency::USD).payment_method(card).confirm(true);
        stripe.send(&pay, None).await.unwrap_err()
    };
    for (card, retry) in [
        // The emulator gives the network's advice with it, as Stripe does for most general declines.
        ("pm_card_chargeDeclined", Retry::Later),
        ("pm_card_chargeDeclinedInsufficientFunds", Retry::Later),
        ("pm_card_chargeDeclinedExpiredCard", Retry::NewCard),
    ] {
        let error = declined(card).await;
        assert_eq!(
            (error.kind(), advice(&error).map(|advice| advice.retry)),
            (ErrorKind::Declined, Some(retry)),
            "{card}"
        );
        assert_eq!(error.operation(), Some("payment_intents.create"));
    }

    stripe.create_customer(NewCustomer::new().email("a@x.example"), Some("k")).await.unwrap();
    let other = stripe.create_customer(NewCustomer::new().email("b@x.example"), Some("k")).await.unwrap_err();
    assert_eq!((other.kind(), other.is_retryable()), (ErrorKind::Invalid, false));

    world.emulator.revoke_key();
    assert_eq!(stripe.retrieve_customer("cus_1").await.unwrap_err().kind(), ErrorKind::Auth);
    let elsewhere = world.client().for_account("acct_unknown").unwrap();
    assert_eq!(elsewhere.retrieve_customer("cus_1").await.unwrap_err().kind(), ErrorKind::Auth);
}

#[tokio::test]
async fn typed_lists_and_reads_work_on_what_the_provider_writes() {
    let world = World::new("2026-09-30.endive");
    world.emulator.populate(&Seed {
        customers: 230,
        products: 2,
        prices: 3,
        subscriptions: 12,
        invoices: 0,
        charges: 0,
        ..Seed::default()
    });
    let stripe = world.client();
    let customers: Vec<_> = stripe.list_customers(ListCustomer::new()).collect().await;
    assert!(customers.iter().all(Result::is_ok), "{:?}", customers.iter().find(|c| c.is_err()));
    assert_eq!(customers.len(), world.emulator.truth("customers").len());
    let subscriptions: Vec<_> =
        stripe.list_subscriptions(stripe_billing::subscription::ListSubscription::new()).collect().await;
    assert!(subscriptions.iter().all(Result::is_ok), "{:?}", subscriptions.iter().find(|c| c.is_err()));
    let invoices: Vec<_> = stripe.list_invoices(stripe_billing::invoice::ListInvoice::new()).collect().await;
    assert!(invoices.iter().all(Result::is_ok), "{:?}", invoices.iter().find(|c| c.is_err()));

    let customer = world.emulator.create_customer(&[("email", "x@y.example")]).unwrap();
    let id = customer["id"].as_str().unwrap();
    assert!(matches!(stripe.retrieve_customer(id).await.unwrap(), RetrieveCustomerReturned::Customer(_)));
    world.emulator.delete_customer(id).unwrap();
    assert!(matches!(stripe.retrieve_customer(id).await.unwrap(), RetrieveCustomerReturned::DeletedCustomer(_)));
    let events: Vec<_> = stripe.list_events(stripe_core::event::ListEvent::new()).take(5).collect().await;
    assert!(events.iter().all(Result::is_ok), "{:?}", events.iter().find(|c| c.is_err()));
}

/// Merges by the core's rule, fetching where it says so; a store in a map.
#[derive(Default)]
struct Copy {
    rows: BTreeMap<(String, String), (palisade_core::sync::merge::Stored, Option<Bytes>)>,
    fetched: usize,
}

impl Copy {
    async fn take(&mut self, world: &World, source: &StripeSource, change: Change, is_event: bool) {
        use palisade_core::sync::merge::{Incoming, Seen, Stored, Verdict, merge};
        use std::hash::{DefaultHasher, Hash, Hasher};
        let hash = |bytes: &Bytes| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            hasher.finish()
        };
        let key = (change.stream.as_str().to_owned(), change.id.as_str().to_owned());
        let stored = self.rows.get(&key).map(|row| row.0);
        let seen = match &change.state {
            State::Present(bytes) => Seen::Present { hash: hash(bytes) },
            State::Deleted => Seen::Deleted,
            State::Unclear => Seen::Unclear,
        };
        let read_since = (!is_event).then_some(u64::MAX);
        let incoming = Incoming { span: change.span, read_since, seen, forgotten_before: i64::MIN };
        let (span, state) = match merge(stored, incoming) {
            Verdict::Older | Verdict::Confirm => return,
            Verdict::Write => (change.span, change.state),
            Verdict::Fetch => {
                self.fetched += 1;
                (world.span(), world.fetch(source, &key.0, &key.1).await)
            }
        };
        let bytes = match state {
            State::Present(bytes) => Some(bytes),
            State::Deleted | State::Unclear => None,
        };
        let row = Stored { span, observed: 0, deleted: bytes.is_none(), hash: bytes.as_ref().map_or(0, hash) };
        self.rows.insert(key, (row, bytes));
    }

    #[track_caller]
    fn equals(&self, world: &World) {
        for stream in STREAMS {
            let truth = world.emulator.truth(stream);
            let ours: BTreeMap<_, serde_json::Value> = self
                .rows
                .iter()
                .filter(|((of, _), _)| of == stream)
                .filter_map(|((_, id), (_, bytes))| {
                    Some((id.clone(), serde_json::from_slice(bytes.as_ref()?).unwrap()))
                })
                .collect();
            assert_eq!(ours.keys().collect::<Vec<_>>(), truth.keys().collect::<Vec<_>>(), "{stream}");
            for (id, value) in truth {
                assert_eq!(ours[&id], value, "{stream} {id}");
            }
        }
    }
}

async fn full(world: &World, source: &StripeSource, copy: &mut Copy) {
    for stream in STREAMS {
        for change in world.run(source, stream, None).await.unwrap().0 {
            copy.take(world, source, change, false).await;
        }
    }
}

/// Fails when an event's object and a list's are stored as different bytes, when deletions are not applied, or when
/// the events' position is taken after the full sync.
#[tokio::test]
async fn a_copy_equals_the_provider_after_changes_and_deletions() {
    for version in ["2026-09-30.endive", "2022-11-15"] {
        let world = World::new(version);
        world.emulator.populate(&Seed {
            customers: 120,
            products: 3,
            prices: 4,
            subscriptions: 10,
            invoices: 0,
            charges: 0,
            ..Seed::default()
        });
        let source = StripeSource::new().speaking(version).unwrap();
        let mut copy = Copy::default();
        let mut cursor = world.run(&source, "events", None).await.unwrap().2;
        full(&world, &source, &mut copy).await;
        copy.equals(&world);

        let price = world.price("900");
        for round in 0..6 {
            let customer = world.emulator.create_customer(&[("email", "new@example.com")]).unwrap();
            let id = customer["id"].as_str().unwrap().to_owned();
            world.pass(round % 2);
            world.emulator.update_customer(&id, &[("name", "Ada"), ("metadata[round]", "x")]).unwrap();
            let subscription = world.emulator.create_subscription(&id, &price).unwrap();
            world.pass(61);
            if round % 3 == 0 {
                world.emulator.cancel_subscription(subscription["id"].as_str().unwrap()).unwrap();
                world.emulator.delete_customer(&id).unwrap();
            }
            let (_, events, resume) = world.run(&source, "events", cursor).await.unwrap();
            cursor = resume;
            for event in events {
                for change in source.apply(&event).unwrap() {
                    copy.take(&world, &source, change, true).await;
                }
            }
            copy.equals(&world);
        }
    }
}

/// Fails when the same object has other bytes in a list, in an event and by its id.
#[tokio::test]
async fn one_object_is_the_same_bytes_wherever_it_is_read() {
    let world = World::new("2026-09-30.endive");
    let source = StripeSource::new();
    let cursor = world.run(&source, "events", None).await.unwrap().2;
    let customer = world.emulator.create_customer(&[("email", "a b@x.example"), ("name", "\"A\\ \u{e9}\"")]).unwrap();
    let price = world.price("100");
    world.emulator.create_subscription(customer["id"].as_str().unwrap(), &price).unwrap();
    let (_, events, _) = world.run(&source, "events", cursor).await.unwrap();
    let mut newest = BTreeMap::new();
    for event in &events {
        for change in source.apply(event).unwrap() {
            newest.insert((change.stream.as_str().to_owned(), change.id.as_str().to_owned()), change.state);
        }
    }
    assert!(newest.len() >= 5, "{:?}", newest.keys());
    for stream in STREAMS {
        for change in world.run(&source, stream, None).await.unwrap().0 {
            let id = change.id.as_str();
            assert_eq!(world.fetch(&source, stream, id).await, change.state, "{stream} {id}: list and fetch");
            if let Some(state) = newest.get(&(stream.to_owned(), id.to_owned())) {
                assert_eq!(*state, change.state, "{stream} {id}: event and list");
            }
        }
    }
}

#[tokio::test]
async fn a_feed_that_was_away_too_long_says_so() {
    let world = World::new("2026-09-30.endive");
    let source = StripeSource::new();
    world.emulator.create_customer(&[("email", "a@x.example")]).unwrap();
    world.pass(3_600);
    let cursor = world.run(&source, "events", None).await.unwrap().2;
    assert!(cursor.as_ref().unwrap().as_str().starts_with("after:evt_"), "{cursor:?}");
    world.pass(31 * 86_400);
    world.emulator.create_customer(&[("email", "b@x.example")]).unwrap();
    assert_eq!(world.run(&source, "events", cursor).await.unwrap_err().kind(), ErrorKind::CursorExpired);
    let listed = world.run(&source, "customers", Some(Cursor::new("cus_deleted"))).await.unwrap_err();
    assert_eq!(listed.kind(), ErrorKind::CursorExpired, "a full sync whose place is gone starts over");
}

/// Stripe refuses to list behind a deleted object. The cursor knows the ids before it, so a run goes on.
///
/// Fails when a cursor holds the page's last id only.
#[tokio::test]
async fn a_run_goes_on_though_the_object_at_its_cursor_was_deleted() {
    let world = World::new("2026-09-30.endive");
    let source = StripeSource::new();
    for number in 0..9 {
        world.emulator.create_customer(&[("email", &format!("{number}@x.example"))]).unwrap();
        world.pass(1);
    }
    let stream = StreamName::new("customers");
    let site = Site { page_size: 4, ..world.site() };
    let response = world.send(source.request(&site, &stream, None).unwrap()).await.unwrap();
    let page = source.page(&stream, None, &response, world.span()).unwrap();
    let Next::More(mut cursor) = page.next else { panic!("there is more") };
    for change in page.changes.iter().rev().take(2) {
        world.emulator.delete_customer(change.id.as_str()).unwrap();
    }
    let mut steps = 0;
    while let Err(error) = world.send(source.request(&site, &stream, Some(&cursor)).unwrap()).await {
        assert_eq!(error.kind(), ErrorKind::CursorExpired);
        cursor = source.step_back(&stream, &cursor).expect("an id before it");
        steps += 1;
    }
    assert_eq!(steps, 2);
    let (rest, ..) = world.run(&source, "customers", Some(cursor)).await.unwrap();
    assert_eq!(rest.len(), 5, "every customer behind the page, each once");
    assert_eq!(source.step_back(&stream, &Cursor::new("cus_1")), None, "then the run starts over");
}

/// The emulator writes signatures with code of its own; the adapter reads them.
#[tokio::test]
async fn what_the_provider_signs_is_verified_applied_and_typed() {
    let world = World::new("2026-09-30.endive");
    let endpoint = world.emulator.webhook_endpoint("https://x.example/hook", "whsec_e2e", None, &["*"]);
    let customer = world.emulator.create_customer(&[("email", "a@x.example")]).unwrap();
    let price = world.price("700");
    world.emulator.create_subscription(customer["id"].as_str().unwrap(), &price).unwrap();
    let mut kinds = Vec::new();
    for event in world.emulator.events() {
        let (header, body) = world.emulator.signed(&endpoint, event["id"].as_str().unwrap()).unwrap();
        let secrets = [Secret::from("whsec_old"), Secret::from("whsec_e2e")];
        let now = Timestamp::from_seconds(world.now.load(Ordering::Relaxed));
        let verified = Verified::check(&StripeWebhook, delivery(&header, &body), &secrets, now).unwrap();
        let parsed = StripeWebhook.events(&verified).unwrap().events.remove(0);
        assert_eq!(parsed.kind, event["type"].as_str().unwrap());
        let typed = TypedEvent::parse(&parsed).unwrap();
        if !matches!(typed, TypedEvent::Unknown { .. }) {
            kinds.push(parsed.kind.clone());
        }
        StripeSource::new().apply(&parsed).unwrap();
    }
    for kind in ["customer.created", "customer.subscription.created", "invoice.paid", "payment_intent.succeeded"] {
        assert!(kinds.iter().any(|seen| seen == kind), "{kind} among {kinds:?}");
    }
}

/// A notice came: the event behind it says what changed, and where the object is.
#[tokio::test]
async fn a_thin_event_is_retrieved_and_leads_to_its_object() {
    let world = World::new("2026-09-30.endive");
    let destination = world.emulator.event_destination("https://x.example/thin", "whsec_thin", &["v1.customer.*"]);
    let customer = world.emulator.create_customer(&[("email", "a@x.example")]).unwrap();
    let id = customer["id"].as_str().unwrap();
    world.emulator.call("POST", &format!("/v1/customers/{id}"), &[("name", "Ada")]).unwrap();
    let snapshot = world.emulator.events().into_iter().find(|event| event["type"] == "customer.updated").unwrap();
    let (header, body) = world.emulator.signed(&destination, snapshot["id"].as_str().unwrap()).unwrap();
    let now = Timestamp::from_seconds(world.now.load(Ordering::Relaxed));
    let verified = Verified::check(&StripeWebhook, delivery(&header, &body), &["whsec_thin".into()], now).unwrap();
    let notice = StripeWebhook.events(&verified).unwrap().events.remove(0);
    let TypedEvent::Thin(read) = TypedEvent::parse(&notice).unwrap() else { panic!("{notice:?}") };
    assert_eq!((read.kind.as_str(), &read.changes, &read.snapshot_event), ("v1.customer.updated", &None, &None));

    let stripe = world.client();
    let whole = stripe.retrieve_thin_event(read.id.as_str(), None).await.unwrap();
    assert_eq!(whole.changes.as_ref().unwrap()["after"]["name"], "Ada");
    assert_eq!(whole.snapshot_event.as_ref().unwrap().as_str(), snapshot["id"].as_str().unwrap());
    assert_eq!(stripe.fetch_related_object(&whole).await.unwrap().unwrap()["name"], "Ada");
    for (id, kind) in [("evt_test_none", ErrorKind::NotFound), ("a/b", ErrorKind::Invalid), ("", ErrorKind::Invalid)] {
        assert_eq!(stripe.retrieve_thin_event(id, None).await.unwrap_err().kind(), kind, "{id}");
    }

    // As a hub does it: the event in the notice's place, then the record it names.
    let source = StripeSource::new();
    let request = source.complete(&world.site(), &notice).unwrap().expect("a thin event is fetched");
    let event = source.completed(&notice, &world.send(request).await.unwrap()).unwrap();
    assert_eq!(TypedEvent::parse(&event).unwrap(), TypedEvent::Thin(whole));
    let changes = source.apply(&event).unwrap();
    assert_eq!((changes.len(), &changes[0].state, changes[0].id.as_str()), (1, &State::Unclear, id));
    let State::Present(record) = world.fetch(&source, "customers", id).await else { panic!("it is there") };
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&record).unwrap()["name"], "Ada");
}

/// Fails when an event of a connected account is looked for in the platform's own, or its account is named twice.
#[test]
fn a_thin_event_is_fetched_for_the_account_it_names() {
    let thin = |account: Option<&str>| Event {
        id: "evt_1".into(),
        kind: "v1.customer.updated".to_owned(),
        account: account.map(str::to_owned),
        created: None,
        ordering_key: None,
        payload: r#"{"id":"evt_1","object":"v2.core.event","type":"v1.customer.updated"}"#.into(),
    };
    let site =
        |account: Option<&str>| Site { account: account.map(str::to_owned), ..World::new("2026-09-30.endive").site() };
    for (of_site, of_event, expected) in [
        (None, None, None),
        (None, Some("acct_e"), Some("acct_e")),
        (Some("acct_s"), None, Some("acct_s")),
        (Some("acct_s"), Some("acct_e"), Some("acct_e")),
    ] {
        let request = StripeSource::new().complete(&site(of_site), &thin(of_event)).unwrap().unwrap();
        assert!(request.uri().path().ends_with("/v2/core/events/evt_1"), "{}", request.uri());
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("stripe-context").as_deref(), expected, "{of_site:?} {of_event:?}");
        assert_eq!(header("stripe-account"), None);
    }
    let snapshot = Event { payload: r#"{"id":"evt_1","object":"event","type":"v1.x"}"#.into(), ..thin(None) };
    assert!(StripeSource::new().complete(&site(None), &snapshot).unwrap().is_none());
}

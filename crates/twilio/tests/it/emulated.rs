//! Whole stories against the emulated Twilio, under the real pipeline, in memory. Time is tokio's, paused: minutes of
//! backoff take milliseconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::join_all;
use palisade_core::auth::FixedCredential;
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::sync::{Change, Cursor, Next, Site, Source, Span, State};
use palisade_core::webhook::{RawDelivery, Verified, Webhook};
use palisade_core::{Client, Error, ErrorKind, Outcome, Provider, RecordId, Secret, Timestamp, Transport};
use palisade_emulator::twilio::{Twilio as Emulator, TwilioConfig};
use palisade_emulator::{Fault, RetryAfter, WebhookFaults};
use palisade_testkit::{EmulatorTransport, PostBox, clock_from};
use palisade_twilio::client::{ListMessages, NewMessage, Reconciled};
use palisade_twilio::sid::AccountSid;
use palisade_twilio::{MessageStatus, Twilio, TwilioProvider, TwilioSource, TwilioWebhook, auth};
use serde_json::Value;

const BEGIN: i64 = 1_767_225_600;
const SEND: &str = "POST /2010-04-01/Accounts/{sid}/Messages.json";
const LIST: &str = "GET /2010-04-01/Accounts/{sid}/Messages.json";

struct World {
    emulator: Emulator,
    client: Arc<Client>,
    twilio: Twilio,
}

impl World {
    fn new(config: TwilioConfig) -> Self {
        let emulator = Emulator::offline(TwilioConfig { clock: clock_from(now()), ..config });
        let account = AccountSid::parse(emulator.account_sid()).unwrap();
        let scheme = auth::auth_token(&account, Secret::from(emulator.auth_token())).unwrap();
        let transport = Arc::new(EmulatorTransport::new(emulator.clone()));
        let credential = Arc::new(FixedCredential::new(&scheme).unwrap());
        let client = Client::builder(TwilioProvider::new().profile(), transport, credential)
            .clock(Arc::new(TokioClock::starting_at(Timestamp::from_seconds(BEGIN))))
            .random(Arc::new(SeededRandom::new(7)))
            .build()
            .unwrap();
        let client = Arc::new(client);
        let twilio = Twilio::new(Arc::clone(&client) as Arc<dyn Transport>, "conn_1", "tenant_1", account);
        Self { emulator, client, twilio }
    }

    fn site(&self, page_size: u32) -> Site {
        Site {
            base_url: "https://api.twilio.com".into(),
            connection: "conn_1".into(),
            tenant: "tenant_1".into(),
            account: Some(self.emulator.account_sid().to_owned()),
            page_size,
        }
    }

    /// Reads one page and where it leads.
    async fn page(&self, page_size: u32, cursor: Option<&Cursor>) -> Result<(Vec<Change>, Next), Error> {
        let source = TwilioSource::new();
        let request = source.request(&self.site(page_size), &"messages".into(), cursor)?;
        let response = self.client.send(request).await?;
        let date = httpdate::parse_http_date(response.headers()["date"].to_str().unwrap()).unwrap();
        let page = source.page(&"messages".into(), cursor, &response, Span::second(date.into()))?;
        Ok((page.changes, page.next))
    }

    /// Runs the stream to its end; `after` is called behind each page.
    async fn run(&self, page_size: u32, from: Option<Cursor>, mut after: impl FnMut(usize)) -> (Vec<Change>, Cursor) {
        let (mut cursor, mut changes) = (from, Vec::new());
        for page in 1..10_000 {
            let (more, next) = self.page(page_size, cursor.as_ref()).await.unwrap();
            changes.extend(more);
            after(page);
            match next {
                Next::More(next) => {
                    assert_ne!(Some(&next), cursor.as_ref(), "the cursor advances");
                    cursor = Some(next);
                }
                Next::Done { resume } => return (changes, resume.unwrap()),
            }
        }
        panic!("the run did not end");
    }
}

/// The records as a store would have them, and how often each was given.
fn records(changes: &[Change]) -> (BTreeMap<String, Value>, BTreeMap<String, usize>) {
    let (mut records, mut counts) = (BTreeMap::new(), BTreeMap::new());
    for change in changes {
        let State::Present(json) = &change.state else { panic!("{change:?}") };
        records.insert(change.id.as_str().to_owned(), serde_json::from_slice(json).unwrap());
        *counts.entry(change.id.as_str().to_owned()).or_insert(0) += 1;
    }
    (records, counts)
}

fn text() -> NewMessage {
    NewMessage::text("+15005550010", "Your table is ready").from("+15005550006")
}

fn now() -> Timestamp {
    Timestamp::from_seconds(BEGIN)
}

/// Fails when a message that may have gone out is sent again, or when it is not found afterwards.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_an_unknown_outcome_and_the_message_is_found() {
    for fault in [
        Fault::ResetAfter,
        Fault::CutBody,
        Fault::HangAfter,
        Fault::StatusAfter(500),
        Fault::StatusAfter(503),
        Fault::Html,
        Fault::Garbage,
    ] {
        let world = World::new(TwilioConfig::default());
        world.emulator.faults().next(SEND, [fault.clone()]);
        let error = world.twilio.send(&text()).await.unwrap_err();
        assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "{fault:?}: {error}");
        assert!(!error.is_retryable(), "{fault:?}");
        let truth = world.emulator.truth();
        assert_eq!(truth.len(), 1, "{fault:?}: sent once");
        let Reconciled::Sent(found) = world.twilio.reconcile(&text(), now()).await.unwrap() else {
            panic!("{fault:?}")
        };
        assert_eq!(truth.keys().collect::<Vec<_>>(), [found.sid.as_str()], "{fault:?}");
    }
}

/// Fails when what provably did not happen is reported as sent, or when what may have is repeated.
#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_not_found_and_not_repeated_blindly() {
    for fault in [Fault::ResetBefore, Fault::HangBefore, Fault::Status(500), Fault::Status(503)] {
        let world = World::new(TwilioConfig::default());
        world.emulator.faults().next(SEND, [fault.clone()]);
        let error = world.twilio.send(&text()).await.unwrap_err();
        assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "{fault:?}");
        assert!(error.user_message().contains("check before trying again"));
        assert_eq!(world.emulator.truth().len(), 0);
        assert_eq!(world.twilio.reconcile(&text(), now()).await.unwrap(), Reconciled::NotFound, "{fault:?}");
    }
}

/// Fails when a throttle, which was never processed, is not repeated; or when it is too early.
#[tokio::test(start_paused = true)]
async fn a_throttle_is_waited_for_by_all_calls_of_the_account() {
    for hint in [RetryAfter::None, RetryAfter::Seconds(7), RetryAfter::Date(7)] {
        let world = World::new(TwilioConfig::default());
        world.emulator.faults().next(SEND, [Fault::Throttle(hint)]);
        world.twilio.send(&text()).await.unwrap();
        let account = world.twilio.account().await.unwrap();
        assert_eq!(account.status.as_deref(), Some("active"));
        let ledger = world.emulator.ledger();
        assert_eq!((world.emulator.truth().len(), ledger.throttles), (1, 1), "{hint:?}");
        assert_eq!(ledger.early_after_retry_after, 0, "{hint:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn reads_are_repeated_and_refusals_are_not() {
    let world = World::new(TwilioConfig::default());
    let sid = world.twilio.send(&text()).await.unwrap().sid;
    let one = "GET /2010-04-01/Accounts/{sid}/Messages/{sid}.json";
    world.emulator.faults().next(one, [Fault::ResetAfter, Fault::Status(503)]);
    let read = world.twilio.message(&sid).await.unwrap();
    assert_eq!((read.status, read.from.as_deref()), (MessageStatus::Delivered, Some("+15005550006")));
    assert_eq!(world.emulator.ledger().requests_by_route[one], 3);
    world.twilio.redact(&sid).await.unwrap();
    assert_eq!(world.twilio.message(&sid).await.unwrap().body.as_deref(), Some(""));
    world.twilio.delete(&sid).await.unwrap();
    assert_eq!(world.twilio.message(&sid).await.unwrap_err().kind(), ErrorKind::NotFound);
    world.emulator.set_auth_token("another");
    assert_eq!(world.twilio.account().await.unwrap_err().kind(), ErrorKind::Auth);
}

/// Each wrong input has one clear error with a sentence for the product's user.
#[tokio::test(start_paused = true)]
async fn what_twilio_refuses_is_told_in_plain_words() {
    let world = World::new(TwilioConfig::default());
    for (to, from, code, kind, said) in [
        ("bad", "+15005550006", "21211", ErrorKind::Invalid, "not a valid phone number"),
        ("+15005550002", "+15005550006", "21612", ErrorKind::Invalid, "another sender"),
        ("+15005550003", "+15005550006", "21408", ErrorKind::Permission, "country are not enabled"),
        ("+15005550004", "+15005550006", "21610", ErrorKind::Invalid, "opted out"),
        ("+15005550009", "+15005550006", "21614", ErrorKind::Invalid, "mobile number"),
        ("+15005550010", "+15005550099", "21606", ErrorKind::Invalid, "choose another one"),
    ] {
        let error = world.twilio.send(&NewMessage::text(to, "x").from(from)).await.unwrap_err();
        assert_eq!((error.code(), error.kind(), error.outcome()), (Some(code), kind, Outcome::Rejected), "{to}");
        assert!(error.user_message().contains(said), "{to}: {}", error.user_message());
    }
    world.emulator.receive("+15005550010", "+15005550006", "stop", &[]);
    let error = world.twilio.send(&text()).await.unwrap_err();
    assert_eq!(error.code(), Some("21610"), "somebody who opted out is not written to");
    world.emulator.receive("+15005550010", "+15005550006", "START", &[]);
    world.twilio.send(&text()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_list_gives_every_message_once_whatever_the_page_size() {
    let world = World::new(TwilioConfig::default());
    world.emulator.populate(23);
    let truth = world.emulator.truth();
    for size in [1, 2, 7, 23, 1_000] {
        let listed: Vec<_> =
            world.twilio.list_messages(&ListMessages::new().page_size(size)).try_collect().await.unwrap();
        let sids: Vec<_> = listed.iter().map(|message| message.sid.as_str().to_owned()).collect();
        assert_eq!(sids.len(), 23, "pages of {size}");
        assert!(sids.iter().all(|sid| truth.contains_key(sid)));
        assert!(listed.windows(2).all(|pair| pair[0].date_created >= pair[1].date_created), "newest first");
    }
    let until = Timestamp::from_seconds(BEGIN - 20 * 60);
    let old: Vec<_> = world.twilio.list_messages(&ListMessages::new().sent_until(until)).try_collect().await.unwrap();
    assert_eq!(old.len(), 4);
}

/// Fails when a run that was cut off behind any of its pages does not come to what an uninterrupted one comes to.
#[tokio::test(start_paused = true)]
async fn a_crash_after_any_page_changes_nothing() {
    let world = World::new(TwilioConfig::default());
    world.emulator.populate(9);
    for size in [1, 2, 7] {
        let pages = 9_u32.div_ceil(size);
        for crash in 0..pages {
            let (mut cursor, mut changes) = (None, Vec::new());
            for _ in 0..crash {
                let (more, next) = world.page(size, cursor.as_ref()).await.unwrap();
                changes.extend(more);
                let Next::More(next) = next else { panic!() };
                cursor = Some(Cursor::new(next.as_str()));
            }
            // A page that was read and not committed is read again.
            world.page(size, cursor.as_ref()).await.unwrap();
            let (rest, resume) = world.run(size, cursor, |_| {}).await;
            changes.extend(rest);
            assert_eq!(records(&changes).0, world.emulator.truth(), "pages of {size}, cut off behind {crash}");
            assert!(resume.as_str().starts_with("since:"));
        }
    }
}

/// Fails when a message made or deleted between two pages makes another one pass unseen.
#[tokio::test(start_paused = true)]
async fn what_comes_and_goes_between_two_pages_hides_nothing() {
    for size in [1, 2, 7] {
        let world = World::new(TwilioConfig::default());
        world.emulator.populate(12);
        let before = world.emulator.truth();
        let order: Vec<String> = {
            let listed: Vec<_> = world.twilio.list_messages(&ListMessages::new()).try_collect().await.unwrap();
            listed.iter().map(|message| message.sid.as_str().to_owned()).collect()
        };
        let (changes, _) = world
            .run(size, None, |page| {
                if page == 1 {
                    // The very message the next page begins behind, and one that was not read yet.
                    world.emulator.delete(&order[usize::try_from(size).unwrap() - 1]);
                    world.emulator.delete(&order[11]);
                    world.emulator.send(&[("To", "+15005550010"), ("From", "+15005550006"), ("Body", "x")]).unwrap();
                }
            })
            .await;
        let (records, _) = records(&changes);
        for sid in before.keys().filter(|sid| **sid != order[11]) {
            assert!(records.contains_key(sid), "{sid} was passed over in pages of {size}");
        }
    }
}

/// Fails when a status that changed after it was read is never read again.
#[tokio::test(start_paused = true)]
async fn a_later_run_reads_its_window_again() {
    let world = World::new(TwilioConfig { delivers: false, ..TwilioConfig::default() });
    let fields = |body: &'static str| [("To", "+15005550010"), ("From", "+15005550006"), ("Body", body)];
    let old = world.emulator.send(&fields("old")).unwrap()["sid"].as_str().unwrap().to_owned();
    world.emulator.report(&old, "sent", None);
    world.emulator.advance(Duration::from_secs(80 * 3_600));
    let new = world.emulator.send(&fields("new")).unwrap()["sid"].as_str().unwrap().to_owned();
    world.emulator.report(&new, "sent", None);
    let (all, resume) = world.run(7, None, |_| {}).await;
    assert_eq!(all.len(), 2);
    world.emulator.report(&new, "undelivered", Some(30_003));
    world.emulator.report(&old, "read", None);
    let (window, resume_again) = world.run(7, Some(resume.clone()), |_| {}).await;
    let (records, _) = records(&window);
    assert_eq!(records.keys().collect::<Vec<_>>(), [&new], "only what was sent within 72 hours");
    assert_eq!(records[&new]["status"], "undelivered");
    assert!(resume_again.as_str() >= resume.as_str());
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_over_throttles_and_failures() {
    let world = World::new(TwilioConfig::default());
    world.emulator.populate(9);
    let faults = [Fault::Throttle(RetryAfter::Seconds(3)), Fault::Status(503), Fault::ResetBefore, Fault::CutBody];
    world.emulator.faults().next(LIST, faults.into_iter().flat_map(|fault| [fault, Fault::Pass]));
    let (changes, _) = world.run(2, None, |_| {}).await;
    assert_eq!(records(&changes).0, world.emulator.truth());
    assert_eq!(world.emulator.ledger().early_after_retry_after, 0);
}

const HOOK: &str = "https://hooks.example.test/webhooks/twilio?a=1";

fn events(deliveries: Vec<RawDelivery>, secret: &str) -> (Vec<(String, String)>, usize) {
    let (mut taken, mut refused) = (Vec::new(), 0);
    for raw in deliveries {
        match Verified::check(&TwilioWebhook::new(), raw, &[Secret::from(secret)], now()) {
            Ok(verified) => {
                let parsed = TwilioWebhook::new().events(&verified).unwrap();
                taken.extend(parsed.events.into_iter().map(|event| (event.kind, event.id.as_str().to_owned())));
            }
            Err(_) => refused += 1,
        }
    }
    (taken, refused)
}

/// Fails when a forged delivery passes, when a true one does not, or when a repeated one is another event.
#[tokio::test(start_paused = true)]
async fn signed_callbacks_become_events_and_forged_ones_do_not() {
    for shared in [None, Some(("webhooks_sharedkey_01".to_owned(), "sk_shared".to_owned()))] {
        let inbox = PostBox::new();
        let config = TwilioConfig {
            poster: Some(inbox.poster()),
            shared_key: shared.clone(),
            inbound_url: Some(HOOK.to_owned()),
            ..TwilioConfig::default()
        };
        let world = World::new(config);
        let secret = shared.map_or_else(|| world.emulator.auth_token(), |(_, secret)| secret);
        let faults = WebhookFaults { duplicate: 1.0, forge: 1.0, replay: 1.0, ..WebhookFaults::default() };
        world.emulator.faults().webhooks(faults);
        let sent = world.twilio.send(&text().status_callback(format!("{HOOK}#rc=2&rp=all"))).await.unwrap();
        world.emulator.receive("+15005550010", "+15005550006", "Help", &["https://media.example/1"]);
        world.emulator.drain_webhooks().await;
        let (taken, refused) = events(inbox.take(), &secret);
        assert_eq!(refused, 5, "one forged beside each of the five");
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        taken.iter().for_each(|(kind, _)| *kinds.entry(kind.clone()).or_default() += 1);
        for kind in ["message.queued", "message.sending", "message.sent", "message.delivered", "message.received"] {
            assert_eq!(kinds.get(kind), Some(&2), "{kind}: sent twice by the dials");
        }
        assert_eq!(kinds.get("opt_out.help"), Some(&2));
        let ids: std::collections::BTreeSet<_> = taken.iter().map(|(_, id)| id).collect();
        assert_eq!(ids.len(), 6, "each event has one id however often it comes");
        assert!(ids.contains(&format!("{}:delivered", sent.sid)));
    }
}

/// Fails when a late report counts: the callbacks are mixed up, and the end is always the same.
#[tokio::test(start_paused = true)]
async fn callbacks_in_any_order_end_in_the_last_status() {
    for seed in 0..20 {
        let inbox = PostBox::new();
        let config = TwilioConfig { seed, poster: Some(inbox.poster()), ..TwilioConfig::default() };
        let world = World::new(config);
        world.emulator.faults().webhooks(WebhookFaults { reorder: 0.7, duplicate: 0.3, ..WebhookFaults::default() });
        let sent = world.twilio.send(&text().status_callback(HOOK)).await.unwrap();
        world.emulator.drain_webhooks().await;
        let mut known = sent.status;
        for (kind, _) in events(inbox.take(), &world.emulator.auth_token()).0 {
            let told = MessageStatus::of(kind.strip_prefix("message.").unwrap());
            if told.supersedes(&known) {
                known = told;
            }
        }
        assert_eq!(
            known,
            MessageStatus::Delivered,
            "seed {seed}: cargo test -p palisade-twilio callbacks_in_any_order"
        );
    }
}

/// Fails when a callback does not lead to the message as Twilio has it.
#[tokio::test(start_paused = true)]
async fn a_callback_has_its_message_fetched_as_it_is_listed() {
    let inbox = PostBox::new();
    let world = World::new(TwilioConfig { poster: Some(inbox.poster()), ..TwilioConfig::default() });
    let sent = world.twilio.send(&text().status_callback(HOOK)).await.unwrap();
    world.emulator.drain_webhooks().await;
    let source = TwilioSource::new();
    let raw = inbox.take().remove(0);
    let verified =
        Verified::check(&TwilioWebhook::new(), raw, &[Secret::from(world.emulator.auth_token())], now()).unwrap();
    let event = TwilioWebhook::new().events(&verified).unwrap().events.remove(0);
    let change = source.apply(&event).unwrap().remove(0);
    assert_eq!((change.id.as_str(), &change.state), (sent.sid.as_str(), &State::Unclear));
    let request = source.fetch(&world.site(1), &"messages".into(), &change.id).unwrap();
    let response = world.client.send(request).await.unwrap();
    let fetched = source.fetched(&"messages".into(), &change.id, &response, Span::exact(0)).unwrap();
    let (listed, _) = world.run(7, None, |_| {}).await;
    assert_eq!(fetched.state, listed[0].state, "the same bytes, so that the store sees no change");
    let gone = RecordId::new(format!("SM{:032}", 0));
    let request = source.fetch(&world.site(1), &"messages".into(), &gone).unwrap();
    assert_eq!(world.client.send(request).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Fails when the account's bound lets more through than it says, or when calls are held back without need.
#[tokio::test(start_paused = true)]
async fn an_account_is_drawn_at_its_bound_whatever_the_operations() {
    let world = World::new(TwilioConfig::default());
    let begin = tokio::time::Instant::now();
    let calls = (0..600).map(|n| {
        let world = &world;
        async move {
            match n % 2 {
                0 => world.twilio.account().await.map(|_| ()),
                _ => world.twilio.send(&text()).await.map(|_| ()),
            }
        }
    });
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    let took = begin.elapsed().as_secs_f64();
    assert!((4.5..=6.0).contains(&took), "600 calls at 100 a second after a burst of 100: {took}");
    assert_eq!(world.emulator.truth().len(), 300);
}

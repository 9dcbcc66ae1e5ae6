//! Whole stories against the emulated SendGrid, under the real pipeline, in memory. Time is tokio's, paused: minutes of
//! backoff take milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use http::{Request, Response};
use palisade_core::auth::FixedCredential;
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::sync::{Change, Cursor, Next, Site, Source, Span, State};
use palisade_core::webhook::{Event, RawDelivery, Verified, Webhook};
use palisade_core::{Client, Error, ErrorKind, Outcome, Provider, RecordId, Secret, StreamName, Timestamp, Transport};
use palisade_emulator::sendgrid::{InboundMail, Limits, SendGrid as Emulator, SendGridConfig};
use palisade_emulator::{Fault, RetryAfter, WebhookFaults};
use palisade_sendgrid::client::{Attachment, ListSuppressions, Personalization, Reconciled};
use palisade_sendgrid::event::Happened;
use palisade_sendgrid::{
    List, Mail, SendGrid, SendGridProvider, SendGridSource, SendGridWebhook, TypedEvent, auth, error,
};
use palisade_testkit::EmulatorTransport;
use serde_json::Value;

const BEGIN: i64 = 1_767_225_600;
const SEND: &str = "POST /v3/mail/send";
const SCOPES: &str = "GET /v3/scopes";
const BOUNCES: &str = "GET /v3/suppression/bounces";
const HOOK: &str = "https://hooks.example.test/webhooks/sendgrid";

struct World {
    emulator: Emulator,
    client: Arc<Client>,
    sendgrid: SendGrid,
    inbox: Inbox,
}

impl World {
    fn new(config: SendGridConfig) -> Self {
        let origin = tokio::time::Instant::now();
        let clock = move || UNIX_EPOCH + Duration::from_secs(BEGIN.unsigned_abs()) + origin.elapsed();
        let inbox = Inbox::default();
        let config = SendGridConfig { clock: Arc::new(clock), poster: Some(inbox.poster()), ..config };
        let emulator = Emulator::offline(config);
        let scheme = auth::api_key(Secret::from(emulator.api_key())).unwrap();
        let transport = Arc::new(EmulatorTransport::new(emulator.clone()));
        let credential = Arc::new(FixedCredential::new(&scheme).unwrap());
        let client = Client::builder(SendGridProvider::new().profile(), transport, credential)
            .clock(Arc::new(TokioClock::starting_at(Timestamp::from_seconds(BEGIN))))
            .random(Arc::new(SeededRandom::new(7)))
            .build()
            .unwrap();
        let client = Arc::new(client);
        let sendgrid = SendGrid::new(Arc::clone(&client) as Arc<dyn Transport>, "conn_1", "tenant_1");
        Self { emulator, client, sendgrid, inbox }
    }

    fn plain() -> Self {
        Self::new(SendGridConfig::default())
    }

    /// One whose events are posted.
    fn telling() -> Self {
        Self::new(SendGridConfig { event_url: Some(HOOK.to_owned()), ..SendGridConfig::default() })
    }

    fn site(page_size: u32) -> Site {
        Site {
            base_url: "https://api.sendgrid.com".into(),
            connection: "conn_1".into(),
            tenant: "tenant_1".into(),
            account: None,
            page_size,
        }
    }

    /// Reads one page and where it leads.
    async fn page(&self, list: List, size: u32, cursor: Option<&Cursor>) -> Result<(Vec<Change>, Next), Error> {
        let (source, stream) = (SendGridSource::new(), StreamName::new(list.name()));
        let request = source.request(&Self::site(size), &stream, cursor)?;
        let response = self.client.send(request).await?;
        let date = httpdate::parse_http_date(response.headers()["date"].to_str().unwrap()).unwrap();
        let page = source.page(&stream, cursor, &response, Span::second(date.into()))?;
        Ok((page.changes, page.next))
    }

    /// Runs a stream to its end; `after` is called behind each page.
    async fn run(
        &self,
        list: List,
        size: u32,
        from: Option<Cursor>,
        mut after: impl FnMut(usize),
    ) -> (Vec<Change>, Cursor) {
        let (mut cursor, mut changes) = (from, Vec::new());
        for page in 1..10_000 {
            let (more, next) = self.page(list, size, cursor.as_ref()).await.unwrap();
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

    /// Has an address fetched from its list.
    async fn fetch(&self, change: &Change) -> State {
        let source = SendGridSource::new();
        let request = source.fetch(&Self::site(1), &change.stream, &change.id).unwrap();
        let response = self.client.send(request).await.unwrap();
        source.fetched(&change.stream, &change.id, &response, Span::exact(0)).unwrap().state
    }

    /// Takes what was posted as events, in its order; tells how many deliveries were refused.
    async fn events(&self, secret: &str) -> (Vec<Event>, usize) {
        self.emulator.drain_webhooks().await;
        let (mut taken, mut refused) = (Vec::new(), 0);
        for raw in self.inbox.deliveries() {
            match Verified::check(&SendGridWebhook::new(), raw, &[Secret::from(secret)], now()) {
                Ok(verified) => taken.extend(SendGridWebhook::new().events(&verified).unwrap().events),
                Err(_) => refused += 1,
            }
        }
        (taken, refused)
    }
}

/// What the emulator posted.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<Vec<Request<Bytes>>>>);

impl Inbox {
    fn poster(&self) -> palisade_emulator::Poster {
        let own = self.clone();
        Arc::new(move |request| {
            own.0.lock().unwrap().push(request);
            Box::pin(std::future::ready(Some(Response::new(Bytes::new()))))
        })
    }

    fn deliveries(&self) -> Vec<RawDelivery> {
        let requests = std::mem::take(&mut *self.0.lock().unwrap());
        let raw = |request: Request<Bytes>| {
            let (parts, body) = request.into_parts();
            RawDelivery { method: parts.method, url: parts.uri.to_string(), headers: parts.headers, body }
        };
        requests.into_iter().map(raw).collect()
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

fn mail() -> Mail {
    to("ada@example.com")
}

fn to(recipient: &str) -> Mail {
    Mail::from("shop@example.com").to(recipient).subject("Your order").text("It is on its way")
}

fn now() -> Timestamp {
    Timestamp::from_seconds(BEGIN)
}

/// Fails when a mail that may have gone out is sent again, or when it is not found afterwards.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_an_unknown_outcome_and_the_mail_is_found() {
    for fault in [
        Fault::ResetAfter,
        Fault::HangAfter,
        Fault::StatusAfter(500),
        Fault::StatusAfter(503),
        Fault::Html,
        Fault::Garbage,
    ] {
        let world = World::plain();
        world.emulator.faults().next(SEND, [fault.clone()]);
        let error = world.sendgrid.send(&mail().reference("order-17")).await.unwrap_err();
        assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "{fault:?}: {error}");
        assert!(!error.is_retryable(), "{fault:?}");
        let mails = world.emulator.mails();
        assert_eq!(mails.len(), 1, "{fault:?}: sent once");
        let Reconciled::Sent(found) = world.sendgrid.reconcile("order-17").await.unwrap() else { panic!("{fault:?}") };
        assert_eq!((found.len(), found[0].to_email.as_deref()), (1, Some("ada@example.com")), "{fault:?}");
        assert!(found[0].msg_id.starts_with(mails[0]["id"].as_str().unwrap()), "{fault:?}");
        assert_eq!(world.sendgrid.reconcile("order-1").await.unwrap(), Reconciled::NotFound, "a part is not it");
    }
}

/// Fails when what did not happen is reported as sent, or when what may have is repeated.
#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_not_found_and_not_repeated_blindly() {
    for fault in [Fault::ResetBefore, Fault::HangBefore, Fault::Status(500), Fault::Status(503)] {
        let world = World::plain();
        world.emulator.faults().next(SEND, [fault.clone()]);
        let error = world.sendgrid.send(&mail().reference("order-17")).await.unwrap_err();
        assert_eq!((error.outcome(), error.attempts()), (Outcome::Unknown, 1), "{fault:?}");
        assert!(error.user_message().contains("check before trying again"), "{}", error.user_message());
        assert_eq!(world.emulator.mails().len(), 0);
        assert_eq!(world.sendgrid.reconcile("order-17").await.unwrap(), Reconciled::NotFound, "{fault:?}");
    }
}

/// Fails when a throttle, which was never processed, is not repeated; or when it is too early.
#[tokio::test(start_paused = true)]
async fn a_throttle_is_waited_for() {
    for hint in [RetryAfter::None, RetryAfter::Seconds(7), RetryAfter::Date(7)] {
        let world = World::plain();
        world.emulator.faults().next(SEND, [Fault::Throttle(hint)]);
        world.sendgrid.send(&mail()).await.unwrap();
        let ledger = world.emulator.ledger();
        assert_eq!((world.emulator.mails().len(), ledger.throttles), (1, 1), "{hint:?}");
        assert_eq!(ledger.early_after_retry_after, 0, "{hint:?}");
    }
}

/// Fails when the headers of answers are not heeded: the account takes a twentieth of what is assumed, and nobody is
/// ever told so by a 429.
#[tokio::test(start_paused = true)]
async fn limits_are_learned_before_they_are_met() {
    let limits = Limits { requests: 30, ..Limits::default() };
    let world = World::new(SendGridConfig { limits: limits.clone(), ..SendGridConfig::default() });
    let begin = tokio::time::Instant::now();
    for _ in 0..100 {
        world.sendgrid.scopes().await.unwrap();
    }
    let (took, ledger) = (begin.elapsed(), world.emulator.ledger());
    assert_eq!((ledger.throttles, ledger.requests_by_route[SCOPES]), (0, 100));
    let fair = Duration::from_secs(170)..=Duration::from_secs(250);
    assert!(fair.contains(&took), "100 calls at 30 a minute: {took:?}");
    // Without a word of it the 429s are met: what they refuse says so, was not done and may be tried later.
    let silent = World::new(SendGridConfig { limits: Limits { told: false, ..limits }, ..SendGridConfig::default() });
    let mut refused = 0;
    for _ in 0..150 {
        if let Err(error) = silent.sendgrid.scopes().await {
            assert_eq!((error.kind(), error.outcome()), (ErrorKind::Throttled, Outcome::Rejected), "{error}");
            assert!(error.is_retryable());
            refused += 1;
        }
    }
    assert!((1..=100).contains(&refused), "{refused} of 150: the waits of those bring the next minute");
}

/// Fails when calls that began before anything was known are lost, or when one endpoint's limit holds another's calls.
#[tokio::test(start_paused = true)]
async fn a_used_up_endpoint_delays_its_own_calls_and_loses_none() {
    let limits = Limits { requests: 30, ..Limits::default() };
    let world = World::new(SendGridConfig { limits, ..SendGridConfig::default() });
    let calls = join_all((0..100).map(|_| world.sendgrid.scopes()));
    let mails = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let begin = tokio::time::Instant::now();
        let sent = mail();
        assert!(join_all((0..50).map(|_| world.sendgrid.send(&sent))).await.iter().all(Result::is_ok));
        begin.elapsed()
    };
    let (calls, took) = tokio::join!(calls, mails);
    assert!(took < Duration::from_secs(5), "mails have a lane of their own: {took:?}");
    assert_eq!(world.emulator.mails().len(), 50);
    for error in calls.into_iter().filter_map(Result::err) {
        let nothing_done = matches!(error.outcome(), Outcome::Rejected | Outcome::NotSent);
        assert!(error.kind() == ErrorKind::Throttled && nothing_done, "{error}");
    }
    assert!(world.emulator.ledger().throttles <= 20, "only what was on its way: {}", world.emulator.ledger().throttles);
}

#[tokio::test(start_paused = true)]
async fn reads_are_repeated_and_refusals_are_not() {
    let world = World::plain();
    world.emulator.faults().next(SCOPES, [Fault::ResetAfter, Fault::Status(503)]);
    assert!(world.sendgrid.scopes().await.unwrap().contains(&"mail.send".to_owned()));
    assert_eq!(world.emulator.ledger().requests_by_route[SCOPES], 3);
    world.emulator.set_api_key("SG.another");
    assert_eq!(world.sendgrid.scopes().await.unwrap_err().kind(), ErrorKind::Auth);
    assert_eq!(world.emulator.ledger().requests_by_route[SCOPES], 4);
}

/// Each wrong input has one clear error with a sentence for the product's user.
#[tokio::test(start_paused = true)]
async fn what_sendgrid_refuses_is_told_in_plain_words() {
    let only = SendGridConfig { senders: vec!["other@example.com".into()], ..SendGridConfig::default() };
    let broke = SendGridConfig { credits: Some(0), ..SendGridConfig::default() };
    let reader = SendGridConfig { scopes: vec!["suppression.read".into()], ..SendGridConfig::default() };
    for (config, code, kind, said) in [
        (only, Some("sender_unverified"), ErrorKind::Permission, "verify it"),
        (broke, Some("credits_exceeded"), ErrorKind::Permission, "raise the plan"),
        (reader, None, ErrorKind::Permission, ""),
    ] {
        let world = World::new(config);
        let error = world.sendgrid.send(&mail()).await.unwrap_err();
        assert_eq!((error.code(), error.kind(), error.outcome()), (code, kind, Outcome::Rejected), "{error}");
        assert!(error.user_message().contains(said), "{}", error.user_message());
        assert_eq!((world.emulator.mails().len(), world.emulator.ledger().requests_by_route[SEND]), (0, 1));
    }
    let world = World::plain();
    // An address that passes every check of ours is found wrong there, and its field is told.
    world.emulator.faults().next(SEND, [Fault::Refuse("Does not contain a valid address.".into())]);
    let error = world.sendgrid.send(&mail()).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), (Some("address_invalid"), ErrorKind::Invalid));
    assert_eq!(error::detail(&error).unwrap().count, 1);
    let without = World::new(SendGridConfig { activity: false, ..SendGridConfig::default() });
    assert_eq!(without.sendgrid.reconcile("order-17").await.unwrap_err().kind(), ErrorKind::Permission);
}

/// Fails when a mail loses anything on its way, or when one that was only to be checked is sent.
#[tokio::test(start_paused = true)]
async fn a_mail_arrives_with_all_it_has() {
    let world = World::plain();
    let sent = Mail::from("shop@example.com")
        .personalized(Personalization::to("a@example.com").cc("b@example.com").value("name", "Ada"))
        .personalized(Personalization::to("c@example.com").bcc("d@example.com").value("name", "Bo"))
        .template("d-0123456789abcdef0123456789abcdef")
        .attach(Attachment::new("a.pdf", "application/pdf", &b"%PDF-\0\xff"[..]))
        .category("orders")
        .reference("order-18");
    let checked = world.sendgrid.send(&sent.clone().sandbox()).await.unwrap();
    assert_eq!((checked.sandbox, checked.message_id, world.emulator.mails().len()), (true, None, 0));
    let sent = world.sendgrid.send(&sent).await.unwrap();
    let [stored] = world.emulator.mails().try_into().unwrap();
    assert_eq!(stored["id"].as_str(), sent.message_id.as_deref());
    assert_eq!(stored["body"]["attachments"][0]["content"], "JVBERi0A/w==");
    assert_eq!(stored["body"]["personalizations"][1]["dynamic_template_data"]["name"], "Bo");
    let Reconciled::Sent(found) = world.sendgrid.reconcile("order-18").await.unwrap() else { panic!() };
    assert_eq!(found.len(), 4, "one for each recipient");
}

#[tokio::test(start_paused = true)]
async fn a_list_gives_every_address_once_whatever_the_page_size() {
    let world = World::plain();
    world.emulator.populate("bounces", 23);
    let truth = world.emulator.truth("bounces");
    for size in [1, 2, 7, 23, 499, 100_000] {
        let filter = ListSuppressions::of(List::Bounces).page_size(size);
        let listed: Vec<_> = world.sendgrid.list_suppressions(filter).try_collect().await.unwrap();
        let emails: BTreeSet<&String> = listed.iter().map(|one| &one.email).collect();
        assert_eq!((listed.len(), emails.len()), (23, 23), "pages of {size}");
        assert!(emails.iter().all(|email| truth.contains_key(*email)), "pages of {size}");
    }
    let since = Timestamp::from_seconds(BEGIN - 5 * 60);
    let filter = ListSuppressions::of(List::Bounces).since(since);
    let recent: Vec<_> = world.sendgrid.list_suppressions(filter).try_collect().await.unwrap();
    assert_eq!(recent.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn addresses_go_on_and_off_their_lists() {
    let world = World::plain();
    for list in List::ALL {
        world.emulator.suppress(list.name(), "Ada+x@example.com");
        let found = world.sendgrid.suppression(list, "ada+X@example.com").await.unwrap().unwrap();
        assert_eq!(found.created, Some(now()), "{list:?}");
        world.sendgrid.unsuppress(list, "ada+x@example.com").await.unwrap();
        assert_eq!(world.sendgrid.suppression(list, "ada+x@example.com").await.unwrap(), None, "{list:?}");
        let gone = world.sendgrid.unsuppress(list, "ada+x@example.com").await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "{list:?}");
    }
    world.sendgrid.unsubscribe(&["bo@example.com"]).await.unwrap();
    assert!(world.emulator.truth("unsubscribes").contains_key("bo@example.com"));
}

#[tokio::test(start_paused = true)]
async fn a_full_run_gives_every_address_once_whatever_the_list_and_page_size() {
    let world = World::plain();
    for (at, list) in List::ALL.into_iter().enumerate() {
        world.emulator.populate(list.name(), 15 + at);
        for size in [1, 2, 7, 15, 499, 1_000] {
            let (changes, _) = world.run(list, size, None, |_| {}).await;
            let (records, counts) = records(&changes);
            assert_eq!(records, world.emulator.truth(list.name()), "{list:?} in pages of {size}");
            assert!(counts.values().all(|count| *count == 1), "{list:?} in pages of {size}: {counts:?}");
        }
    }
}

/// Fails when a run that was cut off behind any of its pages does not come to what an uninterrupted one comes to.
#[tokio::test(start_paused = true)]
async fn a_crash_after_any_page_changes_nothing() {
    let world = World::plain();
    world.emulator.populate("bounces", 9);
    for size in [1, 2, 7] {
        for crash in 0.. {
            let (mut cursor, mut changes, mut ended) = (None, Vec::new(), false);
            for _ in 0..crash {
                let (more, next) = world.page(List::Bounces, size, cursor.as_ref()).await.unwrap();
                changes.extend(more);
                match next {
                    // Only the text of a cursor outlives the process.
                    Next::More(next) => cursor = Some(Cursor::new(next.as_str())),
                    Next::Done { .. } => ended = true,
                }
            }
            if ended {
                break;
            }
            // A page that was read and not committed is read again.
            world.page(List::Bounces, size, cursor.as_ref()).await.unwrap();
            let (rest, resume) = world.run(List::Bounces, size, cursor, |_| {}).await;
            changes.extend(rest);
            assert_eq!(records(&changes).0, world.emulator.truth("bounces"), "pages of {size}, cut off behind {crash}");
            assert!(resume.as_str().starts_with("since:"));
        }
    }
}

/// Fails when an address that is taken off between two pages makes another one pass unseen: SendGrid pages by offset.
#[tokio::test(start_paused = true)]
async fn what_comes_and_goes_between_two_pages_hides_nothing() {
    for size in [1, 2, 7] {
        for (gone, last) in [(vec![0], false), (vec![0, 1, 2], false), (vec![3], true), (vec![], true)] {
            let world = World::plain();
            world.emulator.populate("bounces", 12);
            let before = world.emulator.truth("bounces");
            let order: Vec<String> = before.keys().cloned().collect();
            let removed: Vec<String> = gone.iter().map(|at| order[*at].clone()).collect();
            let (changes, _) = world
                .run(List::Bounces, size, None, |page| {
                    if page == 2 {
                        removed.iter().for_each(|email| assert!(world.emulator.release("bounces", email)));
                        if last {
                            world.emulator.suppress("bounces", "new@example.com");
                        }
                    }
                })
                .await;
            let (records, _) = records(&changes);
            for email in before.keys().filter(|email| !removed.contains(email)) {
                assert!(records.contains_key(email), "{email} was passed over, pages of {size}, without {gone:?}");
            }
        }
    }
}

/// Fails when a later run misses what was added since, or reads everything again.
#[tokio::test(start_paused = true)]
async fn a_later_run_reads_what_was_added_since() {
    let world = World::plain();
    world.emulator.populate("bounces", 200);
    let (all, resume) = world.run(List::Bounces, 7, None, |_| {}).await;
    assert_eq!(all.len(), 200);
    // Added in the very second the first run ended.
    world.emulator.suppress("bounces", "same-second@example.com");
    world.emulator.advance(Duration::from_secs(7_200));
    world.emulator.suppress("bounces", "new@example.com");
    let (since, _) = world.run(List::Bounces, 7, Some(resume), |_| {}).await;
    let (records, counts) = records(&since);
    assert!(records.contains_key("new@example.com") && records.contains_key("same-second@example.com"));
    assert!((2..=70).contains(&records.len()), "an hour's overlap and no more: {}", records.len());
    assert!(counts.values().all(|count| *count == 1));
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_over_throttles_and_failures() {
    let world = World::plain();
    world.emulator.populate("bounces", 9);
    let faults = [Fault::Throttle(RetryAfter::Seconds(3)), Fault::Status(503), Fault::ResetBefore, Fault::CutBody];
    world.emulator.faults().next(BOUNCES, faults.into_iter().flat_map(|fault| [fault, Fault::Pass]));
    let (changes, _) = world.run(List::Bounces, 2, None, |_| {}).await;
    assert_eq!(records(&changes).0, world.emulator.truth("bounces"));
    assert_eq!(world.emulator.ledger().early_after_retry_after, 0);
}

/// Fails when a forged or an old delivery passes, when a true one does not, or when a repeated one is another event.
#[tokio::test(start_paused = true)]
async fn signed_batches_become_events_and_forged_and_old_ones_do_not() {
    let world = World::telling();
    let faults = WebhookFaults { duplicate: 1.0, forge: 1.0, replay: 1.0, ..WebhookFaults::default() };
    world.emulator.faults().webhooks(faults);
    let sent = world.sendgrid.send(&mail().reference("order-19").custom_arg("event", "mine")).await.unwrap();
    world.sendgrid.send(&to("click@example.com")).await.unwrap();
    let (taken, refused) = world.events(&world.emulator.public_key()).await;
    assert_eq!(refused, 4, "a forged and an old one beside each of the two");
    let mut by_id: BTreeMap<String, Vec<&Event>> = BTreeMap::new();
    taken.iter().for_each(|event| by_id.entry(event.id.as_str().to_owned()).or_default().push(event));
    assert_eq!(by_id.len(), 5, "processed and delivered twice, and a click");
    for events in by_id.values() {
        assert_eq!(events.len(), 2, "sent twice by the dials");
        assert_eq!((&events[0].payload, &events[0].kind), (&events[1].payload, &events[1].kind));
    }
    let TypedEvent::Mail(first) = TypedEvent::parse(&taken[0]).unwrap() else { panic!() };
    assert_eq!((&first.happened, first.reference.as_deref()), (&Happened::Processed, Some("order-19")));
    assert!(first.is_of(sent.message_id.as_deref().unwrap()));
    let (_, refused) = world.events("token:0123456789abcdef").await;
    assert_eq!(refused, 0, "nothing is left");
    world.sendgrid.send(&mail()).await.unwrap();
    let (taken, _) = world.events("token:0123456789abcdef").await;
    assert!(taken.is_empty(), "a token verifies no events");
}

/// Fails when an event does not lead to the entry as SendGrid lists it, or when one that changes no list does.
#[tokio::test(start_paused = true)]
async fn an_event_has_its_address_fetched_as_it_is_listed() {
    for (recipient, list) in [
        ("bounce@example.com", List::Bounces),
        ("block@example.com", List::Blocks),
        ("spam@example.com", List::SpamReports),
        ("unsubscribe@example.com", List::Unsubscribes),
        ("invalid@example.com", List::InvalidEmails),
    ] {
        let world = World::telling();
        world.sendgrid.send(&to(recipient)).await.unwrap();
        let source = SendGridSource::new();
        let (events, _) = world.events(&world.emulator.public_key()).await;
        let changes: Vec<Change> = events.iter().flat_map(|event| source.apply(event).unwrap()).collect();
        let [change] = changes.try_into().unwrap();
        assert_eq!((change.stream.as_str(), change.id.as_str()), (list.name(), recipient));
        assert_eq!(change.state, State::Unclear);
        let (listed, _) = world.run(list, 7, None, |_| {}).await;
        assert_eq!(world.fetch(&change).await, listed[0].state, "the same bytes, so that the store sees no change");
        world.emulator.release(list.name(), recipient);
        assert_eq!(world.fetch(&change).await, State::Deleted, "{list:?}");
        assert_eq!(change.id, RecordId::new(recipient));
    }
    let world = World::telling();
    world.emulator.suppress("bounces", "ada@example.com");
    for recipient in ["ada@example.com", "defer@example.com", "open@example.com"] {
        world.sendgrid.send(&to(recipient)).await.unwrap();
    }
    let (events, _) = world.events(&world.emulator.public_key()).await;
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "dropped").count(), 1, "{kinds:?}");
    for event in &events {
        assert!(SendGridSource::new().apply(event).unwrap().is_empty(), "{} changes no list", event.kind);
    }
}

/// Fails when inbound mail that nobody signed is taken without the endpoint's own word for it, or when signed mail is
/// not.
#[tokio::test(start_paused = true)]
async fn inbound_mail_is_signed_or_stands_at_a_secret_address() {
    let written = InboundMail {
        from: "Ada <ada@example.com>".to_owned(),
        to: "in@parse.example.com".to_owned(),
        subject: "Grüße".to_owned(),
        text: "Two lines\r\nand more".to_owned(),
        attachments: vec![("a \"b\".txt".to_owned(), "text/plain".to_owned(), "inside".to_owned())],
    };
    let world = World::plain();
    let key = world.emulator.public_key();
    let (right, wrong) = (format!("{HOOK}?token=0123456789abcdef"), format!("{HOOK}?token=0123456789abcdeF"));
    for (url, signed, secret, taken) in [
        (HOOK, true, key.as_str(), true),
        (HOOK, false, key.as_str(), false),
        (right.as_str(), false, "token:0123456789abcdef", true),
        (right.as_str(), false, key.as_str(), false),
        (wrong.as_str(), false, "token:0123456789abcdef", false),
        (HOOK, false, "token:0123456789abcdef", false),
    ] {
        world.emulator.set_inbound_url(Some(url), signed);
        world.emulator.receive(&written);
        let (events, refused) = world.events(secret).await;
        assert_eq!((events.len(), refused), (usize::from(taken), usize::from(!taken)), "{url}, signed: {signed}");
        for event in events {
            let TypedEvent::Inbound(mail) = TypedEvent::parse(&event).unwrap() else { panic!() };
            assert_eq!((mail.subject.as_str(), mail.text.as_deref()), ("Grüße", Some("Two lines\r\nand more")));
            assert_eq!(mail.envelope_to, ["in@parse.example.com"]);
            assert_eq!((mail.files.len(), &mail.files[0].content[..]), (1, &b"inside"[..]));
        }
    }
}

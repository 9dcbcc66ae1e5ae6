//! Three copies of one emulated account: one read whole at the end, one read on after every round, one told by
//! callbacks that come late, twice and in any order. Once all is quiet they are the same, and equal the account.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::RunMode;
use palisade_core::webhook::{Event, Verified, Webhook};
use palisade_core::{Random, Secret, Timestamp};
use palisade_emulator::Fault;
use palisade_emulator::twilio::{Twilio as Emulator, TwilioConfig};
use palisade_testkit::{AccountCopy, EmulatorTransport, PostBox, clock_from};
use palisade_twilio::sid::AccountSid;
use palisade_twilio::{TwilioProvider, TwilioWebhook, TypedEvent, auth};

use super::fake::ACCOUNT;

const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const HOOK: &str = "https://app.example/webhooks/twilio?a=1";
const FROM: &str = "+15005550006";
const LIST: &str = "GET /2010-04-01/Accounts/{sid}/Messages.json";

async fn copy(emulator: &Emulator, clock: &Arc<TokioClock>, seed: u64) -> AccountCopy {
    let account = AccountSid::parse(ACCOUNT).unwrap();
    let credential = auth::auth_token(&account, Secret::from(emulator.auth_token())).unwrap();
    let transport = Arc::new(EmulatorTransport::new(emulator.clone()));
    AccountCopy::of(TwilioProvider::new(), transport, &credential, Some(ACCOUNT), clock, seed).await
}

/// A message is sent, answered, or comes further on its way.
fn happen(emulator: &Emulator, random: &SeededRandom, under_way: &mut Vec<(String, usize)>) {
    const WAY: [&str; 3] = ["sending", "sent", "delivered"];
    let draw = |below: usize| (random.unit() * below as f64) as usize;
    match draw(6) {
        0 => drop(emulator.receive("+15005550010", FROM, "Hello", &[])),
        1 | 2 => {
            let fields = [("To", "+15005550010"), ("From", FROM), ("Body", "x"), ("StatusCallback", HOOK)];
            let sid = emulator.send(&fields).unwrap()["sid"].as_str().unwrap().to_owned();
            under_way.push((sid, 0));
        }
        _ if under_way.is_empty() => {}
        _ => {
            let at = draw(under_way.len());
            let (sid, step) = under_way[at].clone();
            assert!(emulator.report(&sid, WAY[step], None));
            if step + 1 < WAY.len() {
                under_way[at].1 += 1;
            } else {
                under_way.swap_remove(at);
            }
        }
    }
}

/// Fails when a run leaves something out, when a late callback takes a message back, or when the three disagree.
#[tokio::test(start_paused = true)]
async fn full_incremental_and_callbacks_come_to_the_same() {
    for seed in 1..=3 {
        let clock = Arc::new(TokioClock::starting_at(BEGIN));
        let posted = PostBox::new();
        let emulator = Emulator::offline(TwilioConfig {
            seed,
            account_sid: ACCOUNT.to_owned(),
            delivers: false,
            inbound_url: Some(HOOK.to_owned()),
            clock: clock_from(BEGIN),
            poster: Some(posted.poster()),
            ..TwilioConfig::default()
        });
        let secret = Secret::from(emulator.auth_token());
        let random = SeededRandom::new(seed);
        emulator.populate(30);
        let read_on = copy(&emulator, &clock, seed).await;
        let told = copy(&emulator, &clock, seed + 100).await;
        let whole = copy(&emulator, &clock, seed + 200).await;
        let mut under_way = Vec::new();
        let mut late = Vec::new();
        for round in 0..8 {
            for _ in 0..10 {
                happen(&emulator, &random, &mut under_way);
                tokio::time::sleep(Duration::from_millis((random.unit() * 9_000.0) as u64)).await;
            }
            if round % 2 == 1 {
                emulator.faults().next(LIST, [Fault::ResetAfter, Fault::Pass, Fault::Status(503), Fault::CutBody]);
            }
            read_on.run(RunMode::Incremental).await;
            emulator.drain_webhooks().await;
            late.append(&mut posted.take());
            // Half of what came is held back, some of it comes twice, and none of it in order.
            let again: Vec<_> = late.iter().filter(|_| random.unit() < 0.2).cloned().collect();
            late.extend(again);
            for at in (1..late.len()).rev() {
                late.swap(at, (random.unit() * (at + 1) as f64) as usize);
            }
            for raw in late.split_off(late.len() / 2) {
                told.receive(raw, &secret).await;
            }
        }
        while let Some((sid, step)) = under_way.pop() {
            for status in &["sending", "sent", "delivered"][step..] {
                assert!(emulator.report(&sid, status, None));
            }
        }
        emulator.drain_webhooks().await;
        late.append(&mut posted.take());
        for raw in late {
            told.receive(raw, &secret).await;
        }
        read_on.run(RunMode::Incremental).await;
        whole.run(RunMode::Full).await;
        let truth = emulator.truth();
        let repeat = format!("seed {seed}: cargo test -p palisade-twilio --test it full_incremental_and");
        assert!(truth.len() > 45, "{repeat}: something happened");
        assert_eq!(whole.records("messages").await, truth, "read whole, {repeat}");
        assert_eq!(read_on.records("messages").await, truth, "read on, {repeat}");
        assert_eq!(told.records("messages").await, truth, "told, {repeat}");
        let ledger = emulator.ledger();
        assert_eq!((ledger.throttles, ledger.early_after_retry_after), (0, 0), "{repeat}");
        // Nobody is told of a deletion: only a full run finds it.
        let gone = truth.keys().next().unwrap();
        assert!(emulator.delete(gone));
        whole.run(RunMode::Full).await;
        assert_eq!(whole.records("messages").await, emulator.truth(), "deleted, {repeat}");
    }
}

/// Fails when a run that meets a limit goes on before it may, or gives up.
#[tokio::test(start_paused = true)]
async fn a_copy_is_made_within_the_limits_it_meets() {
    let clock = Arc::new(TokioClock::starting_at(BEGIN));
    let config = TwilioConfig { account_sid: ACCOUNT.to_owned(), clock: clock_from(BEGIN), ..TwilioConfig::default() };
    let emulator = Emulator::offline(config);
    emulator.populate(2_500);
    let throttle = Fault::Throttle(palisade_emulator::RetryAfter::Seconds(9));
    emulator.faults().next(LIST, [Fault::Pass, throttle.clone(), throttle, Fault::Pass]);
    let copied = copy(&emulator, &clock, 7).await;
    assert_eq!(copied.records("messages").await, emulator.truth());
    let ledger = emulator.ledger();
    assert_eq!((ledger.throttles, ledger.early_after_retry_after), (2, 0));
}

/// Fails when no event is made of an inbound message whose webhook was lost, when it differs from that in what a handler
/// goes by, when the webhook, coming late, is handled a second time, or when handlers are told of what came to a number that
/// is answered elsewhere.
#[tokio::test(start_paused = true)]
async fn a_lost_inbound_message_reaches_the_handlers_once() {
    let clock = Arc::new(TokioClock::starting_at(BEGIN));
    let posted = PostBox::new();
    let emulator = Emulator::offline(TwilioConfig {
        account_sid: ACCOUNT.to_owned(),
        inbound_url: Some(HOOK.to_owned()),
        clock: clock_from(BEGIN),
        poster: Some(posted.poster()),
        ..TwilioConfig::default()
    });
    let secret = Secret::from(emulator.auth_token());
    let copied = copy(&emulator, &clock, 7).await;
    let received = async |to: &str, text: &str, media: &[&str]| {
        let sid = emulator.receive("+15005550010", to, text, media);
        emulator.drain_webhooks().await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        (sid, posted.take())
    };
    for raw in received(FROM, "heard", &[]).await.1 {
        copied.receive(raw, &secret).await;
    }
    copied.run(RunMode::Incremental).await;
    tokio::time::sleep(Duration::from_secs(60)).await;

    let (plain, mut late) = received(FROM, "lost", &[]).await;
    let (picture, more) = received(FROM, "look", &["https://api.twilio.example/1.png"]).await;
    late.extend(more);
    // Its webhook goes to another program.
    received("+15005550007", "not for us", &[]).await;
    copied.run(RunMode::Incremental).await;
    let made = copied.events().await.split_off(1);
    let names: Vec<_> = made.iter().map(|event| event.event.ordering_key.clone().unwrap()).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>(), [plain, picture].iter().collect());
    let [healed] = copied.healed().await[..] else { panic!("one run found them") };
    assert_eq!((healed.count, healed.records), (2, 0), "{healed:?}");
    for raw in late {
        let verified =
            Verified::check(&TwilioWebhook::new(), raw.clone(), std::slice::from_ref(&secret), BEGIN).unwrap();
        let sent = TwilioWebhook::new().events(&verified).unwrap().events.remove(0);
        let made = made.iter().find(|made| made.event.id == sent.id).unwrap();
        assert_eq!((&made.event.kind, &made.event.account), (&sent.kind, &sent.account));
        let inbound = |event: &Event| {
            let TypedEvent::MessageReceived(message) = TypedEvent::parse(event).unwrap() else { panic!("{event:?}") };
            message
        };
        let (made, sent) = (inbound(&made.event), inbound(&sent));
        assert_eq!(sent.media.len(), sent.media_count);
        // The list does not show where its media are.
        assert_eq!(made.media_count, sent.media_count);
        assert_eq!((made.message, made.from, made.to, made.body), (sent.message, sent.from, sent.to, sent.body));
        copied.receive(raw, &secret).await;
    }
    assert_eq!(copied.events().await.len(), 3, "nothing is handled twice");
}

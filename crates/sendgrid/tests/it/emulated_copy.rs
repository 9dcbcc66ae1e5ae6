//! Three copies of one emulated account's lists: one read whole at the end, one read on after every round, one told by
//! events that come late, twice and in any order. Once all is quiet they are the same, and equal the account.

use std::sync::Arc;
use std::time::Duration;

use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::store::RunMode;
use palisade_core::{Random, Secret, Timestamp};
use palisade_emulator::sendgrid::{SendGrid as Emulator, SendGridConfig};
use palisade_emulator::{Fault, RetryAfter};
use palisade_sendgrid::{List, Mail, SendGrid, SendGridProvider, auth};
use palisade_testkit::{AccountCopy, EmulatorTransport, PostBox, clock_from};

const BEGIN: Timestamp = Timestamp(1_767_225_600_000);
const HOOK: &str = "https://app.example/webhooks/sendgrid";

async fn copy(emulator: &Emulator, clock: &Arc<TokioClock>, seed: u64) -> AccountCopy {
    let credential = auth::api_key(Secret::from(emulator.api_key())).unwrap();
    let transport = Arc::new(EmulatorTransport::new(emulator.clone()));
    AccountCopy::of(SendGridProvider::new(), transport, &credential, None, clock, seed).await
}

async fn check(copy: &AccountCopy, list: List, emulator: &Emulator, why: &str) {
    assert_eq!(copy.records(list.name()).await, emulator.truth(list.name()), "{list:?}, {why}");
}

/// Fails when a run leaves an address out, when an event leads to another entry than the list has, or when the three
/// disagree.
#[tokio::test(start_paused = true)]
async fn full_incremental_and_events_come_to_the_same() {
    for seed in 1..=2 {
        let clock = Arc::new(TokioClock::starting_at(BEGIN));
        let posted = PostBox::new();
        let emulator = Emulator::offline(SendGridConfig {
            seed,
            event_url: Some(HOOK.to_owned()),
            clock: clock_from(BEGIN),
            poster: Some(posted.poster()),
            ..SendGridConfig::default()
        });
        let secret = Secret::from(emulator.public_key());
        let random = SeededRandom::new(seed);
        let draw = |below: usize| (random.unit() * below as f64) as usize;
        List::ALL.into_iter().for_each(|list| emulator.populate(list.name(), 20));
        let read_on = copy(&emulator, &clock, seed).await;
        let told = copy(&emulator, &clock, seed + 100).await;
        let whole = copy(&emulator, &clock, seed + 200).await;
        let sendgrid = SendGrid::new(read_on.client(), "conn_1", "tenant_1");
        let mut late = Vec::new();
        for round in 0..6 {
            for _ in 0..10 {
                let fate = ["bounce", "block", "spam", "unsubscribe", "invalid", "open", "ada"][draw(7)];
                // Some are written to again: a block begins anew each time.
                let recipient = format!("{fate}+{}@example.com", draw(12));
                let mail = Mail::from("shop@example.com").to(recipient.as_str()).subject("s").text("t");
                sendgrid.send(&mail).await.unwrap();
                tokio::time::sleep(Duration::from_millis((random.unit() * 9_000.0) as u64)).await;
            }
            if round % 2 == 1 {
                let route = format!("GET /v3/suppression/{}", List::ALL[draw(5)].name());
                emulator.faults().next(&route, [Fault::ResetAfter, Fault::Pass, Fault::Status(503), Fault::CutBody]);
            }
            read_on.run(RunMode::Incremental).await;
            emulator.drain_webhooks().await;
            late.append(&mut posted.take());
            // Half of what came is held back, some of it comes twice, and none of it in order.
            let again: Vec<_> = late.iter().filter(|_| random.unit() < 0.2).cloned().collect();
            late.extend(again);
            for at in (1..late.len()).rev() {
                late.swap(at, draw(at + 1));
            }
            for raw in late.split_off(late.len() / 2) {
                told.receive(raw, &secret).await;
            }
        }
        for raw in late {
            told.receive(raw, &secret).await;
        }
        read_on.run(RunMode::Incremental).await;
        whole.run(RunMode::Full).await;
        let repeat = format!("seed {seed}: cargo test -p palisade-sendgrid --test it full_incremental_and");
        for list in List::ALL {
            assert!(emulator.truth(list.name()).len() > 21, "{repeat}: something happened");
            check(&whole, list, &emulator, &format!("read whole, {repeat}")).await;
            check(&read_on, list, &emulator, &format!("read on, {repeat}")).await;
            check(&told, list, &emulator, &format!("told, {repeat}")).await;
        }
        // What an admin adds no event tells, and what he takes off no later run: a full one finds both.
        for list in List::ALL {
            emulator.suppress(list.name(), "added@example.com");
            let first = emulator.truth(list.name()).into_keys().find(|email| email != "added@example.com").unwrap();
            read_on.run(RunMode::Incremental).await;
            check(&read_on, list, &emulator, &format!("added, {repeat}")).await;
            assert!(emulator.release(list.name(), &first));
            whole.run(RunMode::Full).await;
            check(&whole, list, &emulator, &format!("taken off, {repeat}")).await;
        }
        assert_eq!(emulator.ledger().throttles, 0, "{repeat}");
    }
}

/// Fails when a run that meets a limit goes on before it may, or gives up.
#[tokio::test(start_paused = true)]
async fn a_copy_is_made_within_the_limits_it_meets() {
    let clock = Arc::new(TokioClock::starting_at(BEGIN));
    let emulator = Emulator::offline(SendGridConfig { clock: clock_from(BEGIN), ..SendGridConfig::default() });
    emulator.populate("bounces", 1_700);
    let throttle = Fault::Throttle(RetryAfter::Seconds(9));
    emulator.faults().next("GET /v3/suppression/bounces", [Fault::Pass, throttle.clone(), throttle, Fault::Pass]);
    let copied = copy(&emulator, &clock, 7).await;
    check(&copied, List::Bounces, &emulator, "with throttles on the way").await;
    let ledger = emulator.ledger();
    assert_eq!((ledger.throttles, ledger.early_after_retry_after), (2, 0));
}

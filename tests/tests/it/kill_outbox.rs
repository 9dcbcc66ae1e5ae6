//! Promise 8 against SIGKILL: a hub whose outbox sends text messages, of which a repetition is a second message, is
//! killed at seeded moments and started again on the same file. At the end the file is compared with the provider.

use std::collections::BTreeMap;
use std::time::Duration;

use palisade_emulator::RouteFaults;
use palisade_emulator::twilio::{Twilio, TwilioConfig};
use palisade_tests::seeds::{Repeat, seeds};
use palisade_tests::victims::{Victim, WITHIN, quiet_port, within};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::sleep;

const SENDER: &str = env!("CARGO_BIN_EXE_sender");
/// How often the hub is killed.
const KILLS: u32 = 6;
/// Messages asked for in each life.
const TEXTS: u32 = 8;

/// Asks for a message; tells whether it was acknowledged.
async fn ask(victim: &Victim, account: &str, text: &str) -> bool {
    let call = json!({
        "connection": "sms", "method": "POST", "path": format!("/2010-04-01/Accounts/{account}/Messages.json"),
        "body": { "form": { "To": "+15005550100", "From": "+15005550001", "Body": text } }, "unique": text,
    });
    let url = format!("http://{}/api/v1/calls", victim.address);
    let asked = reqwest::Client::new().post(url).body(call.to_string()).send().await;
    asked.is_ok_and(|answer| matches!(answer.status().as_u16(), 200 | 202))
}

async fn calls(victim: &Victim) -> Option<Vec<Value>> {
    victim.json("/api/v1/outbox?limit=1000").await?["calls"].as_array().cloned()
}

/// Fails when a departure is noted after the request, or not at all, or a claim forgets it: a message is sent twice; or
/// when a call is acknowledged before its commit: one is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_hub_sends_no_message_twice_and_forgets_none() {
    for seed in seeds(1..2) {
        let _repeat = Repeat::with("kill_outbox::a_killed_hub_sends_no_message_twice_and_forgets_none", seed);
        let mut dice = StdRng::seed_from_u64(seed);
        let config = TwilioConfig { seed, ..TwilioConfig::default() };
        let account = config.account_sid.clone();
        let emulator = Twilio::start(config).await.unwrap();
        // Answers take their time, before and after the message is made: there is something to be killed in.
        emulator.faults().set(RouteFaults {
            route: "*".to_owned(),
            latency: Some((Duration::from_millis(5), Duration::from_millis(60))),
            reset_after: 0.1,
            ..RouteFaults::default()
        });
        let base_url = emulator.base_url();
        let folder = tempfile::tempdir().unwrap();
        let listen = quiet_port(seed);
        let start = || Victim::start(SENDER, folder.path(), &base_url, listen, std::future::pending());
        let mut acknowledged = Vec::new();
        for life in 0..KILLS {
            let victim = start().await.unwrap();
            for n in 0..TEXTS {
                let text = format!("text-{life}/{n}");
                // The connection is put in place a moment after the hub listens.
                if within(WITHIN, async || ask(&victim, &account, &text).await).await {
                    acknowledged.push(text);
                }
            }
            sleep(Duration::from_micros(dice.random_range(0..150_000))).await;
            victim.kill().await;
        }
        let victim = start().await.unwrap();
        let at_rest = within(WITHIN, async || {
            let states = calls(&victim).await.unwrap_or_default();
            !states.is_empty() && states.iter().all(|call| call["state"] == "done" || call["state"] == "review")
        });
        assert!(at_rest.await, "the outbox comes to rest: {:?}", calls(&victim).await);
        let kept = calls(&victim).await.unwrap();
        let mut sent: BTreeMap<String, u32> = BTreeMap::new();
        for message in emulator.truth().values() {
            *sent.entry(message["body"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        assert!(sent.values().all(|times| *times == 1), "seed {seed}: sent twice: {sent:?}");
        let states: BTreeMap<&str, &str> =
            kept.iter().map(|call| (call["unique"].as_str().unwrap(), call["state"].as_str().unwrap())).collect();
        for text in &acknowledged {
            let state = states.get(text.as_str()).copied();
            assert!(state.is_some(), "seed {seed}: {text} was acknowledged and is not in the outbox");
            assert!(state != Some("done") || sent.contains_key(text), "seed {seed}: {text} is done and was not sent");
        }
        assert_eq!(states.len(), acknowledged.len());
        let done = states.values().filter(|state| **state == "done").count();
        println!("seed {seed}: {} messages, {done} done, {} in review", states.len(), states.len() - done);
        victim.stop().await;
        emulator.shutdown().await;
    }
}

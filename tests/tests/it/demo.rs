//! The demo's story in small: what the first command of the README tells a newcomer is true for more than one seed.

use palisade_hub::demo::{Progress, Report, Story, tell};
use palisade_tests::seeds::{Repeat, seeds};
use serde_json::json;

/// Fails when any promise the demo shows is broken; the report names it.
#[test]
fn a_small_demo_holds_every_promise() {
    for seed in seeds(11..13) {
        let _repeat = Repeat::with("demo::a_small_demo_holds_every_promise", seed);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let story = Story {
                seed,
                customers: 300,
                webhooks: 150,
                listen: ([127, 0, 0, 1], 0).into(),
                folder: folder.path().to_owned(),
            };
            let told = tell(&story, &Progress::silent()).await.unwrap();
            assert!(told.report.held, "{}", told.report.to_text());
            shows_every_provider(&told.report);
            shows_the_outage(&told.report);
            shows_accounts_and_keys(&told.report);
            told.end().await.unwrap();
        });
    }
}

/// Fails when a provider has no part in the story: no calls, no faults, no deliveries twice, none forged, no records, or
/// no line of its own in the verdict and the tables.
#[track_caller]
fn shows_every_provider(report: &Report) {
    let text = report.to_text();
    let names: Vec<&str> = report.providers.keys().map(String::as_str).collect();
    assert_eq!(names, ["google", "sendgrid", "slack", "stripe", "twilio"]);
    for (name, side) in &report.providers {
        let (calls, deliveries) = (&side.calls, &side.deliveries);
        assert!(calls.calls >= 10 && calls.attempts >= 10, "{name}: {calls:?}\n{text}");
        assert!(!side.provider.faults.is_empty(), "{name}\n{text}");
        assert!(deliveries.accepted >= 10 && deliveries.handled >= 10, "{name}: {deliveries:?}\n{text}");
        assert!(deliveries.rejected + deliveries.duplicate >= 1, "{name}: {deliveries:?}\n{text}");
        assert!(side.streams.values().map(|stream| stream.stored).sum::<u64>() >= 50, "{name}\n{text}");
        assert!(text.contains(&format!("│ {name}")), "{name}\n{text}");
    }
    let promised = |title: &str| report.promises.iter().filter(|promise| promise.provider == title).count();
    assert_eq!(["Stripe", "Slack", "Google", "Twilio", "SendGrid", "Hub"].map(promised), [10, 7, 8, 8, 7, 2], "{text}");
}

/// Fails when the provider is never down, when the breaker lets everything through or never closes again, and when an
/// outage multiplies its load: all of it as the provider counted it.
#[track_caller]
fn shows_the_outage(report: &Report) {
    let (outage, text) = (&report.outage, report.to_text());
    assert!(outage.trips >= 1 && outage.closed && outage.refused >= 1, "{text}");
    let stripe = &report.providers["stripe"];
    assert!(stripe.calls.breaker_trips >= outage.trips, "{text}");
    assert_eq!(stripe.provider.faults.get("outage"), Some(&outage.arrived), "{text}");
    assert!(outage.arrived >= 1 && outage.arrived * 4 <= outage.calls * 5, "{text}");
    assert!(stripe.calls.refused >= outage.refused, "{text}");
    assert!(text.contains("breaker trips"), "{text}");
}

/// Fails when a provider's page is answered with Deny, when an expired token is renewed never or twice, when a rotation
/// leaves a row under the old key, or when programs are told other facts than people.
#[track_caller]
fn shows_accounts_and_keys(report: &Report) {
    let text = report.to_text();
    let shown = serde_json::to_value(report).unwrap();
    let account = |provider: &str, account: &str| {
        json!({
            "provider": provider, "account": account, "connected": true, "reconnected": false,
            "page": format!("{provider} is connected"),
            "calls": 9, "answered": 9, "trouble": null, "renewals": 1, "replays": 0,
        })
    };
    assert_eq!(shown["accounts"], json!([account("Slack", "T0BIRCH"), account("Google", "ada@cedar.example")]));
    // A data key for each tenant: of the keys of Stripe, Twilio and SendGrid, of Slack's grant and of Google's.
    assert_eq!(shown["master_keys"], json!({ "keys": 2, "data_keys": 5, "left": 0, "secrets": 5, "opened": 5 }));
    for line in ["Slack is connected", "Google is connected", "secrets re-wrapped under a new master key   5"] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

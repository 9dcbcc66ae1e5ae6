//! Limits as an app meets them: 429 with a true `Retry-After`, lane by lane, and the ledger that saw it.

use std::time::Duration;

use palisade_emulator::slack::{Limits, SlackConfig};
use serde_json::Value;

use super::support::{ALL, App, config};

async fn limited(limits: Limits) -> App {
    App::of(|receiver| SlackConfig { limits, ..config(receiver) }, ALL).await
}

#[tokio::test(start_paused = true)]
async fn a_tier_holds_and_says_when_to_come_back() {
    let app = limited(Limits::default()).await;
    for _ in 0..20 {
        assert_eq!(app.raw("users.list", &[]).await.status(), 200);
    }
    let over = app.raw("users.list", &[]).await;
    assert_eq!(over.status(), 429);
    let body: Value = serde_json::from_slice(over.body()).unwrap();
    assert_eq!(body["error"], "ratelimited");
    let wait: u64 = over.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(app.raw("conversations.list", &[]).await.status(), 200, "another method has its own");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(app.raw("users.list", &[]).await.status(), 429);
    tokio::time::advance(Duration::from_secs(wait)).await;
    assert_eq!(app.raw("users.list", &[]).await.status(), 200);
    let ledger = app.slack.ledger();
    assert_eq!((ledger.throttles, ledger.early_after_retry_after), (2, 1), "the second came too early");
    assert_eq!(ledger.throttles_by_reason["tier"], 2);
    assert_eq!(ledger.peak_per_minute_by_lane["users.list T1"], 22);
}

#[tokio::test(start_paused = true)]
async fn a_channel_takes_one_message_a_second() {
    let app = limited(Limits::default()).await;
    let (tea, milk) = (app.channel("tea"), app.channel("milk"));
    let post = async |channel: &str| app.raw("chat.postMessage", &[("channel", channel), ("text", "x")]).await;
    for _ in 0..3 {
        assert_eq!(post(&tea).await.status(), 200);
    }
    let over = post(&tea).await;
    assert_eq!((over.status().as_u16(), over.headers()["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(post(&milk).await.status(), 200, "another channel is another lane");
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(post(&tea).await.status(), 200, "one a second passes for ever");
    }
    let ledger = app.slack.ledger();
    assert_eq!(ledger.early_after_retry_after, 0);
    assert_eq!(ledger.requests_by_lane[&format!("chat.postMessage T1 {tea}")], 14);
    assert_eq!(app.slack.truth("messages").len(), 14);
}

#[tokio::test(start_paused = true)]
async fn a_workspace_has_a_ceiling_over_its_channels() {
    let app = limited(Limits { workspace_posts: 5, ..Limits::default() }).await;
    let channels: Vec<String> = (0..6).map(|number| app.channel(&format!("c{number}"))).collect();
    let mut statuses = Vec::new();
    for channel in &channels {
        statuses.push(app.raw("chat.postMessage", &[("channel", channel), ("text", "x")]).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
    assert_eq!(app.slack.ledger().throttles_by_reason["workspace"], 1);
}

#[tokio::test(start_paused = true)]
async fn outside_the_marketplace_history_is_scarce() {
    let app = limited(Limits { outside_marketplace: true, ..Limits::default() }).await;
    let channel = app.channel("tea");
    for number in 0..20 {
        let _ = app.slack.post(&channel, "U1", &format!("m{number}"), None);
    }
    let page = app.good("conversations.history", &[("channel", &channel), ("limit", "100")]).await;
    assert_eq!((page["messages"].as_array().unwrap().len(), page["has_more"].as_bool()), (15, Some(true)));
    assert_eq!(app.raw("conversations.history", &[("channel", &channel)]).await.status(), 429);
    app.slack.set_limits(Limits::none());
    assert_eq!(app.raw("conversations.history", &[("channel", &channel)]).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_changes_nothing_and_costs_no_turn() {
    let app = limited(Limits { tiers: [1, 2, 2, 2], ..Limits::default() }).await;
    let channel = app.channel("tea");
    let post = app.good("chat.postMessage", &[("channel", &channel), ("text", "x")]).await;
    let ts = post["ts"].as_str().unwrap();
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses
            .push(app.raw("chat.update", &[("channel", &channel), ("ts", ts), ("text", "y")]).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 429, 429, 429]);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(app.raw("chat.update", &[("channel", &channel), ("ts", ts), ("text", "z")]).await.status(), 200);
}

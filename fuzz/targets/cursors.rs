//! Texts that consumers, configurations and senders hand in: cursors of the feed and schedules are refused or read, and
//! what was read is written as it came; signatures of Standard Webhooks of nobody's are refused; what a browser brings
//! back from a connect flow shows no code. Never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_core::auth::connect::Callback;
use palisade_core::schedule::{Schedule, phase};
use palisade_core::webhook::standard::StandardWebhook;
use palisade_core::webhook::{Verified, Webhook};
use palisade_core::{Secret, Timestamp};
use palisade_fuzz::{Cut, NOW, Trusting, delivery};
use palisade_hub::feed::FeedCursor;

/// A key of Standard Webhooks; nobody guesses what it signs.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fuzz_target!(|data: &[u8]| {
    let mut cut = Cut::new(data);
    match cut.byte() % 4 {
        0 => feed_cursor(&cut.text()),
        1 => schedule(cut),
        2 => standard_webhook(cut),
        _ => callback(&cut.text()),
    }
});

fn feed_cursor(text: &str) {
    let Ok(cursor) = text.parse::<FeedCursor>() else { return };
    assert_eq!(cursor.to_string(), text, "one place has two texts");
}

fn schedule(mut cut: Cut<'_>) {
    let hours = i64::from(cut.byte()) << 8 | i64::from(cut.byte());
    let now = Timestamp(NOW.millis() + hours * 3_600_000 + i64::from(cut.byte()));
    let text = cut.text();
    let Ok(schedule) = text.parse::<Schedule>() else { return };
    let written = schedule.to_string();
    assert_eq!(written.parse::<Schedule>().ok().as_ref(), Some(&schedule), "{text:?} is written as {written:?}");
    assert!(!schedule.words().is_empty(), "{written}: said without a word");
    let phase = phase(&text);
    if let Some(next) = schedule.next_after(now, phase) {
        assert!(next > now, "{written}: the tick after {now:?} is {next:?}");
        assert!(schedule.following(now, phase) >= next, "{written}: a run follows before its tick");
        let _ = schedule.leaves_out(next, now, phase);
    }
    assert!(schedule.late_at(now) > now, "{written}: late before its ticks came");
}

fn standard_webhook(mut cut: Cut<'_>) {
    let headers = cut.headers();
    let delivery = delivery("https://hub.example/webhooks/standard".to_owned(), headers, cut.rest());
    let secrets = [Secret::from(SECRET)];
    let checked = Verified::check(&StandardWebhook, delivery.clone(), &secrets, NOW);
    assert!(checked.is_err(), "a signature of nobody's was taken");
    if let Ok(verified) = Verified::check(&Trusting(&StandardWebhook), delivery, &secrets, NOW) {
        let _ = StandardWebhook.events(&verified);
    }
}

fn callback(query: &str) {
    let query = format!("{query}&code=c4n4ry-0f-th3-c0d3");
    let Ok(callback) = Callback::parse(&query) else { return };
    let _ = callback.state();
    assert!(!format!("{callback:?}").contains("c4n4ry"), "a code is shown");
}

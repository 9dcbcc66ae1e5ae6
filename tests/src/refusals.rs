//! What is no answer to this browser, sent to a hub's real routes: each is refused with a page and a reason in the log,
//! nothing is connected, and the next honest try still works.

use std::time::Duration;

use reqwest::Url;

use crate::browser::{Browser, Seen};
use crate::ear::Listening;
use crate::entry::Entry;

/// A browser that was sent back and has not arrived.
struct Attempt {
    browser: Browser,
    callback: String,
}

impl Attempt {
    async fn of(entry: &Entry, flow: &str, browser: &Browser) -> Self {
        let mut browser = browser.another();
        let callback = browser.allow(&entry.link(flow).await, &entry.back(flow)).await;
        Self { browser, callback }
    }

    /// Returns the callback with one parameter of another value.
    fn with(&self, name: &str, value: &str) -> String {
        let mut url: Url = self.callback.parse().expect("an address");
        let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        assert!(pairs.iter().any(|(known, _)| known == name), "{name} is not in the callback");
        url.query_pairs_mut().clear().extend_pairs(
            pairs.iter().map(|(known, old)| (known.as_str(), if known == name { value } else { old.as_str() })),
        );
        url.into()
    }

    fn parameter(&self, name: &str) -> String {
        let url: Url = self.callback.parse().expect("an address");
        let found = url.query_pairs().find(|(known, _)| known == name);
        found.expect("a parameter").1.into_owned()
    }
}

/// One way to bend a callback.
#[derive(Clone, Copy, Debug)]
enum Bend {
    ForgedState,
    Replayed,
    Expired,
    SwappedBrowser,
    NoCookies,
    SomebodyElsesCallback,
    InjectedCode,
}

/// Bend, status, words on the page, reason in the log.
const CASES: [(Bend, u16, &str, &str); 7] = [
    (Bend::ForgedState, 400, "belongs to no connection that is being made", "unknown_state"),
    (Bend::Replayed, 400, "opened twice", "unknown_state"),
    (Bend::Expired, 410, "within ten minutes", "expired"),
    (Bend::SwappedBrowser, 403, "started in another browser", "other_browser"),
    (Bend::NoCookies, 403, "cookies are blocked here", "other_browser"),
    (Bend::SomebodyElsesCallback, 403, "started in another browser", "other_browser"),
    (Bend::InjectedCode, 400, "did not accept its own answer", "code_refused"),
];

/// Bends callbacks of a flow, each in its way. Returns how many were refused.
///
/// # Panics
/// When one is not refused, or with another page or reason, or when it leaves a connection behind.
pub async fn all(entry: &Entry, flow: &str, ear: &Listening) -> usize {
    let fresh = Browser::new();
    for (bend, status, words, reason) in CASES {
        let mut own = Attempt::of(entry, flow, &fresh).await;
        let mut other = Attempt::of(entry, flow, &fresh).await;
        if matches!(bend, Bend::Replayed) {
            own.browser.get(&own.callback).await.shows(200, &["is connected"]);
        }
        let before = entry.connections().await.len();
        let _earlier = ear.since(flow);
        let page = bent(entry, bend, &mut own, &mut other).await;
        page.shows(status, &[words, "Nothing was connected"]);
        assert!(page.headers["content-type"].to_str().unwrap_or_default().starts_with("text/html"), "{bend:?}");
        assert_eq!(entry.connections().await.len(), before, "{bend:?}: something was connected");
        let log = ear.since(flow);
        let refused: Vec<&str> = log.lines().filter(|line| line.contains("a connection was refused")).collect();
        let [line] = refused.as_slice() else { panic!("{bend:?}: {refused:?}") };
        assert!(line.contains(&format!("reason={reason}")), "{bend:?}: {line}");
    }
    // And after all that an honest one still goes through.
    let honest = Attempt::of(entry, flow, &fresh).await;
    let Attempt { mut browser, callback } = honest;
    browser.get(&callback).await.shows(200, &["is connected"]);
    CASES.len()
}

async fn bent(entry: &Entry, bend: Bend, own: &mut Attempt, other: &mut Attempt) -> Seen {
    match bend {
        Bend::ForgedState => {
            let forged = own.with("state", &"A".repeat(43));
            own.browser.get(&forged).await
        }
        Bend::Replayed => own.browser.get(&own.callback).await,
        Bend::Expired => {
            entry.clock.advance(Duration::from_secs(600));
            own.browser.get(&own.callback).await
        }
        Bend::SwappedBrowser => other.browser.get(&own.callback).await,
        Bend::NoCookies => own.browser.another().get(&own.callback).await,
        Bend::SomebodyElsesCallback => own.browser.get(&other.callback).await,
        Bend::InjectedCode => {
            let stolen = own.with("code", &other.parameter("code"));
            own.browser.get(&stolen).await
        }
    }
}

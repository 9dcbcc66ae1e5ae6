//! Promises of limits and of secrets: what the provider counts, and what everybody may read.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;
use palisade_core::auth::Scheme;
use palisade_core::client::Observer;
use palisade_core::store::CallRecord;
use palisade_core::webhook::Verified;
use palisade_core::{Secret, Transport};
use serde_json::json;
use tokio::time::Instant;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;

use super::wire::{Step, Wire, client, locked, watched};
use super::{Broken, Cases, Checked, NOW, Subject, ensure};
use crate::fake::answer;

/// How long a burst lasts.
const BURST: Duration = Duration::from_secs(180);

/// Calls made at once in a burst.
const AT_ONCE: usize = 40;

/// Three minutes of more calls than a limit lets through: the provider counts no more than it publishes in any span of
/// its length, and at least 95 % of it in all.
///
/// # Errors
/// The first limit that is exceeded or left unused.
pub async fn a_burst_keeps_the_limit_and_uses_it(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    ensure(!subject.rates.is_empty(), || {
        "no limit is given: add the provider's published ones with `Subject::rate(Rate::new(…))`, or say with \
         `Subject::not_applicable` that it publishes none"
            .to_owned()
    })?;
    for rate in &subject.rates {
        let wire = Wire::ending_in([], Step::Answer(rate.answer.clone()));
        let client: Arc<dyn Transport> = Arc::new(client(subject, Arc::clone(&wire) as Arc<dyn Transport>)?);
        let (begin, mut number, mut made) = (Instant::now(), 0, 0);
        while begin.elapsed() < BURST {
            let calls = (number..number + AT_ONCE).map(|number| rate.run(Arc::clone(&client), number));
            let done = join_all(calls).await;
            let (good, bad): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_ok);
            made += good.len();
            number += AT_ONCE;
            // Refused for want of time: the limiter says how long; a real caller would not ask again at once.
            let wait =
                bad.iter().filter_map(|bad| bad.as_ref().err()).filter_map(palisade_core::Error::retry_after).max();
            match (wait, good.is_empty(), bad.first()) {
                (Some(wait), true, _) => tokio::time::sleep(wait.min(rate.per)).await,
                (None, true, Some(Err(error))) => {
                    return Err(Broken::new(format!("{}: the calls fail: {error}", rate.name)));
                }
                _ => {}
            }
        }
        let times: Vec<Instant> = wire.sent().iter().map(|sent| sent.at).collect();
        let (mut within, mut peak) = (VecDeque::new(), 0);
        for at in &times {
            within.push_back(*at);
            while within.front().is_some_and(|first| *at - *first >= rate.per) {
                within.pop_front();
            }
            peak = peak.max(within.len());
        }
        let cost = u64::from(rate.cost);
        let units = |calls: usize| u64::try_from(calls).unwrap_or(u64::MAX).saturating_mul(cost);
        ensure(units(peak) <= u64::from(rate.limit), || {
            format!(
                "{}: {} units in one span of {:?}, and {} are published",
                rate.name,
                units(peak),
                rate.per,
                rate.limit
            )
        })?;
        let in_time = times.iter().filter(|at| **at - begin < BURST).count();
        let spans = BURST.as_secs_f64() / rate.per.as_secs_f64();
        let (percent, why) = rate.percent;
        let wanted = f64::from(rate.limit) * spans * f64::from(percent) / 100.0;
        #[expect(clippy::cast_precision_loss, reason = "some thousands of calls")]
        let used = units(in_time) as f64;
        ensure(used >= wanted, || {
            format!(
                "{}: {used} units in three minutes ({made} calls), and {wanted} are {percent} % of what is there",
                rate.name
            )
        })?;
        if let Some(why) = why {
            cases.unable(format!("more than {percent} % of {}: {why}", rate.name));
        }
        cases.kept();
    }
    Ok(cases)
}

/// What must be printed nowhere.
const CANARY: &str = "canary7secret7of7this7test";

/// Keeps the records of finished calls as text.
#[derive(Default)]
struct Log(Mutex<String>);

impl Observer for Log {
    fn observe(&self, call: CallRecord) {
        locked(&self.0).push_str(&format!("{call:?}\n"));
    }
}

thread_local! {
    /// What this thread logs, while somebody listens: a test in simulated time runs on one.
    static HEARD: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Writes log lines down where somebody listens.
struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        HEARD.with_borrow_mut(|heard| heard.iter_mut().for_each(|heard| heard.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Begins to listen to what this thread logs, at trace level. `false` when the test has a subscriber of its own.
///
/// One for the whole process: what a thread's own would hear depends on which other one has met a line first.
fn listen() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    let ours = *OURS.get_or_init(|| {
        let layer = tracing_subscriber::fmt::layer()
            .with_span_events(FmtSpan::FULL)
            .with_writer(|| Lines)
            .with_ansi(false)
            .with_filter(dynamic_filter_fn(|_, _| HEARD.with_borrow(Option::is_some)));
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).is_ok()
    });
    HEARD.set(Some(Vec::new()));
    ours
}

/// No secret appears in an error or what stands behind it, a debug print, a call record, a refusal or a log line at
/// trace level, although the provider repeats it in every answer.
///
/// # Errors
/// The first place where one does.
pub async fn no_secret_is_printed(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    let listening = listen();
    let subject = &subject.with_credential(canary(&subject.credential));
    let clean = |place: &str, text: &str| {
        ensure(!text.contains(CANARY), || {
            let at = text.find(CANARY).unwrap_or_default();
            let around: String = text.chars().skip(at.saturating_sub(60)).take(60).collect();
            format!("{place}: prints the secret after `{around}`")
        })
    };
    clean("the provider's debug print", &format!("{:?} {subject:?}", subject.provider()))?;
    for sample in &subject.samples {
        // In sentences, as providers repeat what they were sent: a code of one word is the provider's own.
        let told = format!("the key {CANARY} is not known");
        let said =
            json!({ "error": { "message": told }, "message": told, "errors": [{ "message": told }] }).to_string();
        let mut ends: Vec<Step> = [400, 401, 403, 404, 409, 429, 500, 200]
            .into_iter()
            .flat_map(|status| [answer(status, &said), answer(status, format!("<html>{CANARY}"))])
            .map(|mut response| {
                if let Ok(value) = http::HeaderValue::from_str(CANARY) {
                    response.headers_mut().insert("set-cookie", value);
                }
                Step::Answer(response)
            })
            .collect();
        ends.extend([Step::Lost, Step::Refused, Step::Hang]);
        for end in ends {
            let wire = Wire::ending_in([], end);
            let log = Arc::new(Log::default());
            let client = watched(subject, wire, Some(Arc::clone(&log) as Arc<dyn Observer>))?;
            clean("the client's debug print", &format!("{client:?}"))?;
            if let Err(error) = sample.run(Arc::new(client)).await {
                let mut text = format!("{} {}", error.user_message(), error.code().unwrap_or_default());
                let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
                while let Some(error) = next {
                    text.push_str(&format!(" {error} {error:?} {error:#?}"));
                    next = error.source();
                }
                clean(sample.operation, &text)?;
            }
            clean("the call's record", &locked(&log.0))?;
            cases.kept();
        }
    }
    let provider = subject.provider();
    for hook in &subject.hooks {
        let Some(webhook) = provider.webhook() else { break };
        let [first, second] = hook.secrets.each_ref().map(Secret::expose);
        let mut forged = hook.sample();
        forged.headers.clear();
        for raw in [forged, hook.deliver(&hook.one, 1, NOW)] {
            if let Err(refusal) = Verified::check(webhook, raw, &hook.secrets[..1], NOW) {
                let text = format!("{refusal} {refusal:?}");
                ensure(!text.contains(first) && !text.contains(second), || {
                    format!("{}: a refusal shows the secret", hook.name())
                })?;
            }
        }
        cases.kept();
    }
    let heard = HEARD.take().map(|heard| String::from_utf8_lossy(&heard).into_owned()).unwrap_or_default();
    if !listening {
        cases.unable("log lines: the tests have a subscriber of their own");
    }
    ensure(!listening || subject.samples.is_empty() || !heard.is_empty(), || {
        "nothing was logged: the calls did not pass the pipeline".to_owned()
    })?;
    clean("a log line", &heard)?;
    Ok(cases)
}

/// The same way to send a credential, with the canary for a secret.
fn canary(scheme: &Scheme) -> Scheme {
    match scheme {
        Scheme::Bearer(_) => Scheme::Bearer(CANARY.into()),
        Scheme::Basic { user, .. } => Scheme::Basic { user: user.clone(), password: CANARY.into() },
        Scheme::Header { name, .. } => Scheme::Header { name: name.clone(), key: CANARY.into() },
        Scheme::Query { name, .. } => Scheme::Query { name: name.clone(), key: CANARY.into() },
    }
}

//! Promises of limits and of secrets: what the provider counts, and what everybody may read.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
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
use super::{Broken, Cases, Checked, Counted, NOW, Rate, Subject, ensure};
use crate::fake::answer;

/// How long a burst lasts.
const BURST: Duration = Duration::from_secs(180);

/// Calls made at once in a burst.
const AT_ONCE: usize = 40;

/// Lets everything through, and notes when.
struct Noting {
    inner: Arc<dyn Transport>,
    times: Mutex<Vec<Instant>>,
}

#[async_trait]
impl Transport for Noting {
    async fn send(&self, request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        locked(&self.times).push(Instant::now());
        self.inner.send(request).await
    }
}

impl Noting {
    /// Counts calls of a cost: the most in one span, wherever it begins, and all.
    fn counted(&self, per: Duration, cost: u64) -> Counted {
        let (mut within, mut peak, mut total) = (VecDeque::new(), 0, 0_u64);
        for at in locked(&self.times).iter() {
            within.push_back(*at);
            while within.front().is_some_and(|first| *at - *first >= per) {
                within.pop_front();
            }
            peak = peak.max(within.len() as u64);
            total += 1;
        }
        Counted { peak: peak.saturating_mul(cost), total: total.saturating_mul(cost), throttled: 0 }
    }
}

/// Three minutes of more calls than a limit lets through: the provider counts no more than it publishes in any span of
/// its length, and at least 95 % of it in all. Where an emulated provider counts for itself, by its own count too.
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
        let counting = rate.counting.as_ref().map(|make| make());
        let (inner, subject): (Arc<dyn Transport>, _) = match &counting {
            Some(counting) => (Arc::clone(&counting.transport), subject.with_credential(counting.credential.clone())),
            None => (Wire::ending_in([], Step::Answer(rate.answer.clone())), subject.clone()),
        };
        let noting = Arc::new(Noting { inner, times: Mutex::default() });
        let client: Arc<dyn Transport> = Arc::new(client(&subject, Arc::clone(&noting) as Arc<dyn Transport>)?);
        // What is under way at the end is dropped: what has not arrived by then does not count.
        if let Ok(failed) = tokio::time::timeout(BURST, calls_without_end(rate, &client)).await {
            return Err(failed);
        }
        let left = noting.counted(rate.per, u64::from(rate.cost));
        judge(rate, "as they left", left)?;
        if let Some(counting) = counting {
            let counted = (counting.counted)();
            judge(rate, "by the provider's own count", counted)?;
            ensure(counted.throttled == 0, || {
                format!("{}: the provider has refused {} requests", rate.name, counted.throttled)
            })?;
        }
        if let (percent, Some(why)) = rate.percent {
            cases.unable(format!("more than {percent} % of {}: {why}", rate.name));
        }
        cases.kept();
    }
    Ok(cases)
}

/// Makes more calls than the limit lets through, for as long as it is let. Returns when they fail.
async fn calls_without_end(rate: &Rate, client: &Arc<dyn Transport>) -> Broken {
    let mut number = 0;
    loop {
        let calls = (number..number + AT_ONCE).map(|number| rate.run(Arc::clone(client), number));
        let done = join_all(calls).await;
        number += AT_ONCE;
        let one_succeeded = done.iter().any(Result::is_ok);
        let failures: Vec<_> = done.into_iter().filter_map(Result::err).collect();
        if one_succeeded {
            continue;
        }
        // Refused for want of time: the limiter says how long; a real caller would not ask again at once.
        match (failures.iter().filter_map(palisade_core::Error::retry_after).max(), failures.first()) {
            (Some(wait), _) => tokio::time::sleep(wait.min(rate.per)).await,
            (None, Some(error)) => return Broken::new(format!("{}: the calls fail: {error}", rate.name)),
            (None, None) => return Broken::new(format!("{}: no calls were made", rate.name)),
        }
    }
}

/// Compares what was counted in three minutes with what is published.
fn judge(rate: &Rate, how: &str, counted: Counted) -> Result<(), Broken> {
    let Counted { peak, total, .. } = counted;
    let (limit, per) = (rate.limit, rate.per);
    ensure(peak <= u64::from(limit), || {
        format!("{}: {peak} units in one span of {per:?} {how}, and {limit} are published", rate.name)
    })?;
    let (percent, _) = rate.percent;
    let wanted = f64::from(limit) * BURST.as_secs_f64() / per.as_secs_f64() * f64::from(percent) / 100.0;
    #[expect(clippy::cast_precision_loss, reason = "some thousands of calls")]
    let enough = total as f64 >= wanted;
    ensure(enough, || {
        format!("{}: {total} units in three minutes {how}, and {wanted} are {percent} % of what is there", rate.name)
    })
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

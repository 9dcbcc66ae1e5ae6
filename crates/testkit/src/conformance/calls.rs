//! Promises of calls: what is sent, what answers mean, and what happens when something goes wrong on the way.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use palisade_core::client::Repeat;
use palisade_core::{Error, ErrorKind, Operation, Outcome, Replay, Transport};
use serde_json::{Value, json};

use super::noise::{Noise, said};
use super::sample::PERSON;
use super::wire::{Sent, Step, Wire, client};
use super::{Broken, Cases, Checked, NOW, Sample, Subject, ensure};
use crate::fake::{Said, answer, pairs};

/// The largest body any operation may accept, in bytes: what a mail with its attachments takes, with room.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How many answers of noise each operation is given.
const NOISE: u64 = 60;

/// What a page of a proxy looks like.
const PAGE: &str = "<!doctype html><html><title>502</title><body>Please sign in to the guest network</body></html>";

/// The samples that succeed.
fn samples(subject: &Subject) -> Result<Vec<&Sample>, Broken> {
    let samples: Vec<_> = subject.samples.iter().filter(|sample| !sample.refused).collect();
    ensure(!samples.is_empty(), || {
        "no call is given: add `Subject::call(Sample::new(operation, |transport| …).answered(200, …))`".to_owned()
    })?;
    match samples.iter().find(|sample| sample.answers.is_empty()) {
        Some(sample) => Err(Broken::new(format!("{}: add its true answer: `Sample::answered`", sample.operation))),
        None => Ok(samples),
    }
}

fn operation(subject: &Subject, name: &str) -> Result<&'static Operation, Broken> {
    subject.operations.iter().copied().find(|operation| operation.name == name).ok_or_else(|| {
        Broken::new(format!("{name}: no such operation: give the static table in `Subject::operations`"))
    })
}

fn answers(sample: &Sample) -> impl Iterator<Item = Step> {
    sample.answers.iter().cloned().map(Step::Answer)
}

/// Everything but the last answer, so that what follows happens to the request that counts.
fn before_last(sample: &Sample) -> impl Iterator<Item = Step> {
    answers(sample).take(sample.answers.len().saturating_sub(1))
}

/// Makes a call over the real pipeline and returns its result with what arrived.
async fn make(
    subject: &Subject,
    sample: &Sample,
    wire: Arc<Wire>,
) -> Result<(Result<String, Error>, Vec<Sent>), Broken> {
    let client = client(subject, Arc::clone(&wire) as Arc<dyn Transport>)?;
    let result = sample.run(Arc::new(client)).await;
    Ok((result, wire.sent()))
}

/// Every operation says what it is: the manifest's provider, a name of its own, a cap, timeouts and a limit that can
/// work; the manifest names https hosts only, and the pipeline knows them all.
///
/// # Errors
/// The first row that is not whole.
pub async fn operations_are_described(subject: &Subject) -> Checked {
    let provider = subject.provider();
    let (manifest, profile) = (provider.manifest(), provider.profile());
    let mut cases = Cases::default();
    ensure(!subject.operations.is_empty(), || {
        "no operation is given: pass the static table to `Subject::operations`".to_owned()
    })?;
    ensure(profile.provider == manifest.name, || "the profile has another name than the manifest".to_owned())?;
    let base = manifest.base_url.parse::<Uri>().ok();
    let base = base.filter(|base| base.scheme_str() == Some("https") && !manifest.base_url.ends_with('/'));
    let host = base.as_ref().and_then(Uri::host).unwrap_or_default();
    ensure(manifest.hosts.contains(&host), || {
        "the manifest's base URL is not https, ends in a slash, or its host is not among the hosts".to_owned()
    })?;
    for host in manifest.hosts {
        let known = profile.hosts.iter().any(|known| known == host);
        ensure(known, || format!("the profile does not know the manifest's host {host}: its calls would be refused"))?;
    }
    ensure(profile.hosts.iter().all(|host| manifest.hosts.contains(&host.as_str())), || {
        "the profile sends credentials to hosts the manifest does not name".to_owned()
    })?;
    let mut names = BTreeSet::new();
    for row in &subject.operations {
        let wrong = |what: &str| Broken::new(format!("{}: {what}", row.name));
        let rules = [
            (row.provider == manifest.name, "its provider is not the manifest's"),
            (!row.name.is_empty() && names.insert(row.name), "its name is empty, or stands twice"),
            (row.url_template.starts_with('/'), "its template is no path"),
            ((1..=BODY_BYTES_MAX).contains(&row.body_bytes_max), "its cap is nothing, or more than 64 MiB"),
            (!row.attempt_timeout.is_zero(), "an attempt has no time"),
            (row.attempt_timeout <= row.overall_timeout, "an attempt has more time than the call"),
            (row.cost >= 1, "it costs nothing"),
            (row.bucket.units >= 1 && !row.bucket.per.is_zero(), "its limit lets nothing through"),
            (row.cost <= row.bucket.burst.max(row.bucket.units), "it costs more than its limit ever gives"),
        ];
        if let Some((_, what)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(wrong(what));
        }
        if let Replay::Keyed(header) = row.replay {
            ensure(HeaderName::from_bytes(header.as_bytes()).is_ok(), || {
                format!("{}: its key's header {header} is none", row.name)
            })?;
        }
        cases.kept();
    }
    for sample in &subject.samples {
        operation(subject, sample.operation)?;
    }
    Ok(cases)
}

/// A call sends what the official SDK sends for it: method, path, parameters, headers and body.
///
/// # Errors
/// The first request that differs, with what of it.
pub async fn requests_are_those_of_the_official_sdk(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    let recorded: Vec<_> = subject.samples.iter().filter_map(|s| Some((s, s.recorded.as_ref()?))).collect();
    ensure(!recorded.is_empty(), || {
        "no recorded request is given: add one to a call with `Sample::recorded`, from what the official SDK sends, or \
         say with `Subject::not_applicable` that there is none"
            .to_owned()
    })?;
    for (sample, wire) in recorded {
        let (_, sent) = make(subject, sample, Wire::script(answers(sample))).await?;
        let last = sent.get(sample.answers.len().saturating_sub(1)).or(sent.last());
        let last = last.ok_or_else(|| Broken::new(format!("{}: nothing is sent", sample.operation)))?;
        same_request(sample, wire, &last.request).map_err(|why| Broken::new(format!("{}: {why}", sample.operation)))?;
        if let Some(why) = sample.why {
            cases.unable(format!("{} of {}: {why}", sample.differs.join(", "), sample.operation));
        }
        cases.kept();
    }
    Ok(cases)
}

/// Headers that say who sends, not what: they differ between any two clients.
const SENDERS_OWN: &[&str] =
    &["user-agent", "content-length", "accept-encoding", "connection", "host", "x-twilio-client", "accept-charset"];

fn same_request(sample: &Sample, wire: &Value, request: &Request<Bytes>) -> Result<(), String> {
    let text = |key: &str| wire.get(key).and_then(Value::as_str).unwrap_or_default();
    let differs = |name: &str| sample.differs.iter().any(|known| known.eq_ignore_ascii_case(name));
    let equal = |what: &str, ours: &str, theirs: &str| {
        if ours == theirs { Ok(()) } else { Err(format!("the {what} is `{ours}`, the SDK's is `{theirs}`")) }
    };
    equal("method", request.method().as_str(), text("method"))?;
    let (path, query) = text("path").split_once('?').unwrap_or((text("path"), ""));
    equal("path", request.uri().path(), path)?;
    let parameters =
        |form: &[u8]| -> Vec<(String, String)> { pairs(form).into_iter().filter(|(name, _)| !differs(name)).collect() };
    let show = |pairs: Vec<(String, String)>| format!("{pairs:?}");
    let ours = show(parameters(request.uri().query().unwrap_or_default().as_bytes()));
    equal("query", &ours, &show(parameters(query.as_bytes())))?;
    let body = text("body");
    let mut kind = String::new();
    for (name, value) in wire.get("headers").and_then(Value::as_object).into_iter().flatten() {
        let (name, theirs) = (name.to_ascii_lowercase(), value.as_str().unwrap_or_default());
        let ours = request.headers().get(&name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let plain = |value: &str| value.replace("; ", ";").to_ascii_lowercase();
        if name == "content-type" {
            kind = plain(theirs);
        }
        if SENDERS_OWN.contains(&name.as_str()) || differs(&name) {
            continue;
        }
        match name.as_str() {
            "authorization" => {
                let scheme = |value: &str| value.split(' ').next().unwrap_or_default().to_owned();
                equal("authorization's scheme", &scheme(ours), &scheme(theirs))?;
            }
            "idempotency-key" if ours.is_empty() => return Err("there is no idempotency key".to_owned()),
            "idempotency-key" => {}
            "accept" if theirs == "*/*" => {}
            "content-type" if body.is_empty() && request.body().is_empty() => {}
            "content-type" => equal("content type", &plain(ours), &plain(theirs))?,
            _ => equal(&format!("header {name}"), ours, theirs)?,
        }
    }
    if kind.contains("json") && !body.is_empty() {
        let read = |bytes: &[u8]| -> Result<String, String> {
            let mut value: Value = serde_json::from_slice(bytes).map_err(|_| "the body is no JSON".to_owned())?;
            if let Some(object) = value.as_object_mut() {
                object.retain(|name, _| !differs(name));
            }
            Ok(value.to_string())
        };
        return equal("body", &read(request.body())?, &read(body.as_bytes())?);
    }
    equal("body", &show(parameters(request.body())), &show(parameters(body.as_bytes())))
}

/// All attempts of a call are the same request with the same idempotency key, and two calls have two keys; what may
/// not be repeated is tried once, and its outcome is unknown.
///
/// # Errors
/// The first attempt that differs, is one too many, or is missing.
pub async fn every_attempt_carries_the_same_key(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    for sample in samples(subject)? {
        let row = operation(subject, sample.operation)?;
        for fault in [Step::Answer(answer(503, "")), Step::Lost, Step::Hang] {
            let script =
                before_last(sample).chain([fault.clone()]).chain(answers(sample).skip(sample.answers.len() - 1));
            let (result, sent) = make(subject, sample, Wire::script(script)).await?;
            let attempts = sent.get(sample.answers.len() - 1..).unwrap_or_default();
            let what = format!("{} after {}", sample.operation, shown(&fault));
            if row.replay == Replay::Never {
                ensure(attempts.len() == 1, || {
                    format!("{what}: sent {} times, and may be done twice", attempts.len())
                })?;
                let outcome = result.err().map(|error| error.outcome());
                ensure(outcome == Some(Outcome::Unknown), || {
                    format!("{what}: the outcome is {outcome:?}, not unknown")
                })?;
            } else {
                ensure(result.is_ok() && attempts.len() == 2, || {
                    format!("{what}: not repeated to its success although it may be ({} attempts)", attempts.len())
                })?;
                if let [first, second] = attempts {
                    same_attempt(row, first, second).map_err(|why| Broken::new(format!("{what}: {why}")))?;
                }
            }
            cases.kept();
        }
        if let Replay::Keyed(header) = row.replay {
            let wire = Wire::script(answers(sample).chain(answers(sample)));
            let client: Arc<dyn Transport> = Arc::new(client(subject, Arc::clone(&wire) as Arc<dyn Transport>)?);
            let made = (sample.run(Arc::clone(&client)).await.is_ok(), sample.run(client).await.is_ok());
            ensure(made == (true, true), || format!("{}: the true answer is an error", sample.operation))?;
            let keys: Vec<_> = wire.sent().iter().map(|sent| sent.request.headers().get(header).cloned()).collect();
            let (first, last) = (keys.first(), keys.last());
            ensure(first != last, || format!("{}: two calls share a key: the second does nothing", sample.operation))?;
        }
    }
    Ok(cases)
}

fn shown(step: &Step) -> String {
    match step {
        Step::Answer(response) => format!("status {}", response.status().as_u16()),
        Step::Refused => "a refused connection".to_owned(),
        Step::Lost => "a lost answer".to_owned(),
        Step::Hang => "a timeout".to_owned(),
    }
}

fn same_attempt(row: &Operation, first: &Sent, second: &Sent) -> Result<(), &'static str> {
    let (first, second) = (&first.request, &second.request);
    if (first.method(), first.uri(), first.body()) != (second.method(), second.uri(), second.body()) {
        return Err("the second attempt is another request");
    }
    if let Replay::Keyed(header) = row.replay {
        let key = |request: &Request<Bytes>| request.headers().get(header).cloned();
        match (key(first), key(second)) {
            (None, _) => return Err("there is no idempotency key"),
            (one, two) if one != two => return Err("the second attempt has another idempotency key"),
            _ => {}
        }
    }
    Ok(())
}

/// After a 429 a call is repeated no sooner than the provider says, in seconds or as a date, and not much later.
///
/// # Errors
/// The first call that comes back too early, too late, or never.
pub async fn retry_after_is_kept_in_both_forms(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    let wait = Duration::from_secs(7);
    let date = httpdate::fmt_http_date(NOW.plus(wait).to_system_time());
    for sample in samples(subject)? {
        let row = operation(subject, sample.operation)?;
        for hint in ["7", date.as_str()] {
            let mut throttled = subject.throttled.clone();
            if let Ok(value) = HeaderValue::from_str(hint) {
                throttled.headers_mut().insert("retry-after", value);
            }
            let script = [Step::Answer(throttled)].into_iter().chain(answers(sample));
            let (result, sent) = make(subject, sample, Wire::script(script)).await?;
            let what = format!("{} told to come back in `{hint}`", sample.operation);
            if let Err(error) = result {
                return Err(Broken::new(format!("{what}: fails: {error}")));
            }
            let [first, second, ..] = sent.as_slice() else {
                return Err(Broken::new(format!("{what}: not repeated")));
            };
            let waited = second.at - first.at;
            ensure(waited >= wait, || format!("{what}: came back after {waited:?}"))?;
            let refill = row.bucket.per.mul_f64(f64::from(row.cost) / f64::from(row.bucket.units.max(1)));
            ensure(waited <= wait.mul_f64(1.5) + refill, || format!("{what}: came back only after {waited:?}"))?;
            cases.kept();
        }
    }
    Ok(cases)
}

/// Each documented answer has its kind, its code, its outcome and its word on repeating; what a machine in between
/// answers has too; and none is told to a person as a number, nor shows what the body holds of them.
///
/// # Errors
/// The first answer that means something else.
pub async fn each_answer_has_its_meaning(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    ensure(!subject.meanings.is_empty(), || {
        "no answer is given: list the provider's documented errors in `Subject::meanings`".to_owned()
    })?;
    let profile = subject.provider().profile();
    let first = subject.operations.first().map(|row| row.name).unwrap_or_default();
    for meaning in &subject.meanings {
        let row = operation(subject, meaning.operation.unwrap_or(first))?;
        let (said, error) = Said::of(profile.classifier.classify(row, &meaning.answer));
        let body = String::from_utf8_lossy(meaning.answer.body()).into_owned();
        let what = format!("{} answered {} `{body:.120}`", row.name, meaning.answer.status().as_u16());
        let Some(error) = error else { return Err(Broken::new(format!("{what}: taken for a success"))) };
        let found = (said, error.kind(), error.outcome());
        let wanted = (meaning.said, meaning.kind, meaning.outcome);
        ensure(found == wanted, || format!("{what}: means {found:?} and should mean {wanted:?}"))?;
        if meaning.code.is_some() {
            ensure(error.code() == meaning.code.as_deref(), || {
                format!("{what}: has the code {:?} and should have {:?}", error.code(), meaning.code)
            })?;
        }
        told(&what, &error, meaning.answer.status().as_u16())?;
        cases.kept();
    }
    for row in &subject.operations {
        for (status, body) in [401, 403, 404, 408, 429, 500, 502, 503, 504, 302, 400]
            .into_iter()
            .flat_map(|status| ["", PAGE, "\u{0}\u{7}not json"].into_iter().map(move |body| (status, body)))
        {
            let (said, error) = Said::of(profile.classifier.classify(row, &answer(status, body)));
            let what = format!("{} answered {status} by a machine in between (`{body:.20}`)", row.name);
            let Some(error) = error else { return Err(Broken::new(format!("{what}: taken for a success"))) };
            let unsure = said == Said::Failed(Repeat::IfSafe) && error.outcome() == Outcome::Unknown;
            let right = match status {
                401 => error.kind() == ErrorKind::Auth,
                408 => error.kind() == ErrorKind::Timeout && unsure,
                429 => {
                    said == Said::Throttled
                        && error.kind() == ErrorKind::Throttled
                        && error.outcome() == Outcome::Rejected
                }
                500.. => error.kind() == ErrorKind::Provider && unsure,
                _ => !matches!(said, Said::Success | Said::Failed(Repeat::Always)),
            };
            ensure(right, || format!("{what}: means {said:?}, {:?}, {:?}", error.kind(), error.outcome()))?;
            told(&what, &error, status)?;
        }
    }
    Ok(cases)
}

/// Looks at what an error says of itself.
fn told(what: &str, error: &Error, status: u16) -> Result<(), Broken> {
    let message = error.user_message();
    ensure(!message.trim().is_empty() && !message.contains(&status.to_string()), || {
        format!("{what}: a person is told `{message}`")
    })?;
    let shown = format!("{error} {error:?} {message}");
    ensure(!shown.contains(PERSON), || format!("{what}: the error shows a piece of the body"))
}

/// A connection refused, broken, silent, or an answer cut, garbled, empty or too large is one error each, that says
/// what the provider may have done; a write that may have happened is never called rejected.
///
/// # Errors
/// The first failure that is told for something else.
pub async fn a_broken_exchange_is_told_for_what_it_is(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    for sample in samples(subject)? {
        let row = operation(subject, sample.operation)?;
        let retry = subject.provider().profile().retry;
        let Some(last) = sample.answers.last() else { continue };
        let with = |body: Bytes| {
            let mut response = last.clone();
            *response.body_mut() = body;
            Step::Answer(response)
        };
        let half = last.body().slice(..last.body().len() / 2);
        let huge = Bytes::from(vec![b' '; row.body_bytes_max + 1]);
        let mut ends = vec![
            ("a connection refused", Step::Refused, ErrorKind::Connect),
            ("a connection that breaks", Step::Lost, ErrorKind::Transport),
            ("a provider that never answers", Step::Hang, ErrorKind::Timeout),
            ("an answer that is too large", with(huge), ErrorKind::BodyTooLarge),
        ];
        if !last.body().is_empty() {
            ends.extend([
                ("an answer cut in its middle", with(half), ErrorKind::Decode),
                ("an empty answer", with(Bytes::new()), ErrorKind::Decode),
                ("a page where an answer was due", with(Bytes::from_static(PAGE.as_bytes())), ErrorKind::Decode),
                ("garbage", with(Bytes::from_static(b"\x00\xff\x17{\"")), ErrorKind::Decode),
            ]);
        }
        for (name, end, kind) in ends {
            let refused = matches!(end, Step::Refused);
            let lost = matches!(end, Step::Lost);
            let wire = Wire::ending_in(before_last(sample), end);
            let begin = tokio::time::Instant::now();
            let (result, sent) = make(subject, sample, wire).await?;
            let what = format!("{}: {name}", sample.operation);
            let error = match result {
                Ok(value) => return Err(Broken::new(format!("{what}: taken for a success: `{value:.120}`"))),
                Err(error) => error,
            };
            ensure(error.kind() == kind, || format!("{what}: is {:?} and not {kind:?}: {error}", error.kind()))?;
            let honest = match (refused, row.replay) {
                (true, _) => error.outcome() == Outcome::NotSent,
                (false, Replay::Safe) => true,
                (false, _) => matches!(error.outcome(), Outcome::Unknown | Outcome::Processed),
            };
            ensure(honest, || format!("{what}: the outcome is called {:?}", error.outcome()))?;
            let attempts = sent.len() + 1 - sample.answers.len().max(1);
            let once = row.replay == Replay::Never && !refused;
            ensure(!once || attempts == 1, || format!("{what}: sent {attempts} times, and may be done twice"))?;
            if refused || (lost && !once) {
                let wanted = usize::try_from(retry.attempts_max).unwrap_or(usize::MAX);
                ensure(attempts == wanted, || format!("{what}: tried {attempts} times, not {wanted}"))?;
            }
            let pages = u32::try_from(sample.answers.len()).unwrap_or(1);
            ensure(begin.elapsed() <= row.overall_timeout * pages, || format!("{what}: lasted {:?}", begin.elapsed()))?;
            told(&what, &error, last.status().as_u16())?;
            cases.kept();
        }
    }
    Ok(cases)
}

/// Fields nobody knew when the adapter was written hide nothing, in answers and in deliveries.
///
/// # Errors
/// The first answer or delivery that is refused for what it has more.
pub async fn unknown_fields_are_tolerated(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    for sample in samples(subject)? {
        let wider: Vec<Step> = sample
            .answers
            .iter()
            .map(|answer| {
                let mut response = answer.clone();
                if let Some(body) = widened(response.body()) {
                    *response.body_mut() = body;
                }
                Step::Answer(response)
            })
            .collect();
        for script in [answers(sample).collect(), wider] {
            let (result, _) = make(subject, sample, Wire::script(script)).await?;
            if let Err(error) = result {
                return Err(Broken::new(format!(
                    "{}: an answer of the provider is refused: {error}",
                    sample.operation
                )));
            }
        }
        cases.kept();
    }
    let provider = subject.provider();
    for hook in &subject.hooks {
        let (Some(webhook), Some(wider)) = (provider.webhook(), widened(&hook.one)) else { continue };
        let read = |content: &[u8]| -> Option<Vec<String>> {
            use palisade_core::webhook::Verified;
            let verified = Verified::check(webhook, hook.deliver(content, 0, NOW), &hook.secrets, NOW).ok()?;
            let parsed = webhook.events(&verified).ok()?;
            Some(parsed.events.iter().map(|event| format!("{} {}", event.id, event.kind)).collect())
        };
        let (plain, wide) = (read(&hook.one), read(&wider));
        ensure(plain.is_some() && plain == wide, || {
            format!("{}: with fields nobody knows it is {wide:?} and not {plain:?}", hook.name())
        })?;
        cases.kept();
    }
    Ok(cases)
}

/// Adds a field nobody knows to every object of a JSON text; not to empty ones, which may be maps of a person's own.
fn widened(text: &[u8]) -> Option<Bytes> {
    fn widen(value: &mut Value) {
        if let Some(array) = value.as_array_mut() {
            array.iter_mut().for_each(widen);
        }
        if let Some(object) = value.as_object_mut().filter(|object| !object.is_empty()) {
            object.values_mut().for_each(widen);
            object.insert("unheard_of_in_2026".to_owned(), json!({ "x": [1, null, { "y": "z" }] }));
        }
    }
    let mut value: Value =
        serde_json::from_slice(text).ok().filter(|value: &Value| value.is_object() || value.is_array())?;
    widen(&mut value);
    Some(Bytes::from(value.to_string()))
}

/// Every request goes over https to a host of the manifest with the credential; one to any other host, or without TLS,
/// is refused before it leaves.
///
/// # Errors
/// The first request that goes elsewhere.
pub async fn nothing_leaves_for_another_host(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    let manifest = subject.provider().manifest();
    let mut requests = Vec::new();
    for sample in samples(subject)? {
        let (_, sent) = make(subject, sample, Wire::script(answers(sample))).await?;
        ensure(!sent.is_empty(), || format!("{}: nothing is sent", sample.operation))?;
        requests.extend(sent.into_iter().map(|sent| (sample.operation, sent.request)));
    }
    for (name, request) in requests {
        let uri = request.uri();
        let known = uri.host().is_some_and(|host| manifest.hosts.contains(&host));
        ensure(known && uri.scheme_str() == Some("https") && uri.port().is_none(), || {
            format!("{name}: sent to {:?} over {:?}", uri.host(), uri.scheme_str())
        })?;
        for elsewhere in ["https://evil.example.test", "http://"] {
            let rest = uri.path_and_query().map_or("/", |rest| rest.as_str());
            let host = uri.host().unwrap_or_default();
            let to = if elsewhere == "http://" { format!("http://{host}{rest}") } else { format!("{elsewhere}{rest}") };
            let Ok(to) = to.parse::<Uri>() else { continue };
            let wire = Wire::ending_in([], Step::Answer(Response::new(Bytes::from_static(b"{}"))));
            let client = client(subject, Arc::clone(&wire) as Arc<dyn Transport>)?;
            let mut forged = request.clone();
            *forged.uri_mut() = to;
            let refused = client.send(forged).await.map(|_| ()).map_err(|error| error.kind());
            ensure(refused == Err(ErrorKind::Config) && wire.sent().is_empty(), || {
                format!("{name}: the pipeline would send it to {elsewhere}: {refused:?}")
            })?;
        }
        cases.kept();
    }
    Ok(cases)
}

/// Whatever an answer holds, it is classified: nothing panics.
///
/// # Errors
/// The first panic, with the seed that repeats it.
pub async fn arbitrary_answers_never_panic(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    let profile = subject.provider().profile();
    let mut bodies: Vec<&Bytes> = subject.samples.iter().flat_map(|s| &s.answers).map(Response::body).collect();
    bodies.extend(subject.meanings.iter().map(|meaning| meaning.answer.body()));
    ensure(!bodies.is_empty(), || "no answer is given: `Subject::call`, `Subject::meanings`".to_owned())?;
    for row in &subject.operations {
        for seed in 0..NOISE {
            let noise = Noise::new(seed);
            let good = bodies.get(noise.below(bodies.len())).copied().cloned().unwrap_or_default();
            let status = u16::try_from(100 + noise.below(899)).unwrap_or(200);
            let response = answer(status, noise.like(&good));
            catch_unwind(AssertUnwindSafe(|| Said::of(profile.classifier.classify(row, &response))))
                .map_err(|panic| Broken::new(format!("{}: seed {seed} panics: {}", row.name, said(&*panic))))?;
            cases.kept();
        }
    }
    Ok(cases)
}

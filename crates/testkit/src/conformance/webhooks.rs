//! Promises of deliveries.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use palisade_core::webhook::{Event, RawDelivery, Refusal, Verified, Webhook};
use palisade_core::{Provider, Secret, Timestamp};

use super::noise::{Noise, said};
use super::{Broken, Cases, Checked, Hook, NOW, Subject, ensure};

/// How many deliveries of noise each hook is given.
const NOISE: u64 = 600;

/// The bits that are changed, one after another: the lowest, the case of a letter, and out of ASCII.
const FLIPS: [u8; 4] = [0x01, 0x02, 0x20, 0x80];

fn webhook(provider: &Arc<dyn Provider>) -> Result<&dyn Webhook, Broken> {
    provider.webhook().ok_or_else(|| Broken::new("the adapter takes no webhooks"))
}

fn hooks(subject: &Subject) -> Result<&[Hook], Broken> {
    ensure(!subject.hooks.is_empty(), || {
        "no kind of delivery is given: add `Subject::hook(Hook::new(name, secrets, signer))`".to_owned()
    })?;
    Ok(&subject.hooks)
}

/// Judges a delivery with some of its hook's secrets.
fn judge(webhook: &dyn Webhook, raw: RawDelivery, secrets: &[Secret], now: Timestamp) -> Result<Verified, Refusal> {
    Verified::check(webhook, raw, secrets, now)
}

/// Fails unless the hook's own sample is taken: everything else would be refused for the wrong reason.
fn taken(webhook: &dyn Webhook, hook: &Hook) -> Result<(), Broken> {
    let [first, _] = &hook.secrets;
    match judge(webhook, hook.sample(), std::slice::from_ref(first), NOW) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Broken::new(format!("{}: the true delivery is refused: {refusal}", hook.name))),
    }
}

fn events(webhook: &dyn Webhook, hook: &Hook, raw: RawDelivery, now: Timestamp) -> Result<Vec<Event>, Broken> {
    let verified = judge(webhook, raw, &hook.secrets, now)
        .map_err(|refusal| Broken::new(format!("{}: a true delivery is refused: {refusal}", hook.name)))?;
    let parsed = webhook.events(&verified);
    let parsed = parsed.map_err(|error| Broken::new(format!("{}: a true delivery is not read: {error}", hook.name)))?;
    ensure((200..300).contains(&parsed.reply.status), || {
        format!("{}: a true delivery is answered {}", hook.name, parsed.reply.status)
    })?;
    Ok(parsed.events)
}

/// Every recorded delivery is taken or refused as the official SDKs do, in the stricter reading where they disagree.
///
/// # Errors
/// The first delivery that is judged otherwise.
pub async fn every_recorded_delivery_gets_its_verdict(subject: &Subject) -> Checked {
    let own = subject.provider();
    let mut cases = Cases::default();
    ensure(!subject.vectors.is_empty(), || {
        "no recorded delivery is given: add `Subject::vectors(Vector::file(include_str!(…)))`, from the provider's \
         documentation or its official SDK"
            .to_owned()
    })?;
    for wanted in [true, false] {
        ensure(subject.vectors.iter().any(|vector| vector.accepted == wanted), || {
            format!("no vector is {}: nothing is told apart", if wanted { "to be taken" } else { "to be refused" })
        })?;
    }
    for vector in &subject.vectors {
        let webhook = webhook(vector.by.as_ref().unwrap_or(&own))?;
        let judged = judge(webhook, vector.delivery.clone(), &vector.secrets, vector.now);
        ensure(judged.is_ok() == vector.accepted, || match (&judged, vector.accepted) {
            (Err(refusal), _) => format!("{}: refused ({refusal}), and should be taken", vector.name),
            (Ok(_), _) => format!("{}: taken, and should be refused", vector.name),
        })?;
        cases.kept();
    }
    Ok(cases)
}

/// Changing any single byte of body, signature, signed time or signed URL has the delivery refused, and so has cutting
/// it short.
///
/// # Errors
/// The first change that goes unnoticed.
pub async fn every_changed_byte_is_refused(subject: &Subject) -> Checked {
    let provider = subject.provider();
    let webhook = webhook(&provider)?;
    let mut cases = Cases::default();
    for hook in hooks(subject)? {
        taken(webhook, hook)?;
        let good = hook.sample();
        ensure(!hook.headers.is_empty(), || {
            format!("{}: no header carries the signature: name them in `Hook::signed_by`", hook.name)
        })?;
        let mut check = |raw: RawDelivery, what: &str, at: usize| -> Result<(), Broken> {
            if hook.alike.is_some_and(|alike| alike(&good, &raw)) {
                return Ok(());
            }
            let taken = judge(webhook, raw, &hook.secrets, NOW).is_ok();
            cases.kept();
            ensure(!taken, || format!("{}: taken although byte {at} of the {what} was changed", hook.name))
        };
        for name in &hook.headers {
            let Some(value) = good.headers.get(*name).map(|value| value.as_bytes().to_vec()) else {
                return Err(Broken::new(format!("{}: the sample has no header {name}", hook.name)));
            };
            for (at, value) in changed(&value) {
                let Ok(value) = HeaderValue::from_bytes(&value) else { continue };
                let mut raw = good.clone();
                raw.headers.insert(*name, value);
                check(raw, &format!("header {name}"), at)?;
            }
        }
        if hook.unsigned_body.is_none() {
            ensure(!good.body.is_empty(), || format!("{}: the sample has no body: `Hook::about`", hook.name))?;
            for (at, body) in changed(&good.body) {
                check(RawDelivery { body: body.into(), ..good.clone() }, "body", at)?;
            }
            let short = good.body.slice(..good.body.len() - 1);
            for (at, body) in [(0, good.body.slice(1..)), (short.len(), short), (0, bytes::Bytes::new())] {
                check(RawDelivery { body, ..good.clone() }, "body (cut)", at)?;
            }
        }
        if hook.url {
            for (at, url) in changed(good.url.as_bytes()) {
                let Ok(url) = String::from_utf8(url) else { continue };
                check(RawDelivery { url, ..good.clone() }, "URL", at)?;
            }
        }
    }
    for reason in subject.hooks.iter().filter_map(|hook| Some((hook.name, hook.unsigned_body?))) {
        cases.unable(format!("the body of {}: {}", reason.0, reason.1));
    }
    Ok(cases)
}

/// Gives every text that differs in one bit of one byte.
fn changed(text: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..text.len()).flat_map(move |at| {
        FLIPS.into_iter().map(move |flip| {
            let mut changed = text.to_vec();
            changed.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= flip);
            (at, changed)
        })
    })
}

/// Each header of the signature is needed, stands once, is found in whatever case it is written, and is not empty.
///
/// # Errors
/// The first header that may be missing, doubled or empty, or is not found.
pub async fn every_header_is_needed_once(subject: &Subject) -> Checked {
    let provider = subject.provider();
    let webhook = webhook(&provider)?;
    let mut cases = Cases::default();
    for hook in hooks(subject)? {
        taken(webhook, hook)?;
        let good = hook.sample();
        for name in &hook.headers {
            let value = good.headers.get(*name).cloned();
            let value = value.ok_or_else(|| Broken::new(format!("{}: the sample has no header {name}", hook.name)))?;
            let judged = |edit: &dyn Fn(&mut RawDelivery)| {
                let mut raw = good.clone();
                edit(&mut raw);
                judge(webhook, raw, &hook.secrets, NOW).map(|_| ())
            };
            let missing = judged(&|raw| drop(raw.headers.remove(*name)));
            ensure(matches!(missing, Err(Refusal::MissingHeader(_))), || {
                format!("{}: without {name} it is {missing:?} and not `MissingHeader`", hook.name)
            })?;
            let doubled = judged(&|raw| {
                raw.headers.append(*name, value.clone());
            });
            ensure(matches!(doubled, Err(Refusal::DuplicateHeader(_))), || {
                format!("{}: with {name} twice it is {doubled:?} and not `DuplicateHeader`", hook.name)
            })?;
            let empty = judged(&|raw| drop(raw.headers.insert(*name, HeaderValue::from_static(""))));
            ensure(empty.is_err(), || format!("{}: taken with an empty {name}", hook.name))?;
            let binary = judged(&|raw| {
                if let Ok(value) = HeaderValue::from_bytes(b"\xff\xfe") {
                    raw.headers.insert(*name, value);
                }
            });
            ensure(binary.is_err(), || format!("{}: taken with a {name} that is no text", hook.name))?;
            let odd: String =
                name.chars().enumerate().map(|(n, c)| if n % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect();
            let odd =
                HeaderName::from_bytes(odd.as_bytes()).map_err(|_| Broken::new(format!("{name} is no header")))?;
            let renamed = judged(&|raw| {
                raw.headers.remove(*name);
                raw.headers.insert(odd.clone(), value.clone());
            });
            ensure(renamed.is_ok(), || format!("{}: refused when {name} is written in another case", hook.name))?;
            cases.kept();
        }
    }
    Ok(cases)
}

/// A delivery is taken to the last second of its window, both ways, and refused one second beyond.
///
/// # Errors
/// The first edge that lies elsewhere.
pub async fn the_window_is_kept_to_the_second(subject: &Subject) -> Checked {
    let provider = subject.provider();
    let webhook = webhook(&provider)?;
    let mut cases = Cases::default();
    for hook in hooks(subject)? {
        let (after, before) = match hook.window {
            Some(Ok(window)) => window,
            Some(Err(reason)) => {
                cases.unable(format!("{}: {reason}", hook.name));
                continue;
            }
            None => {
                return Err(Broken::new(format!(
                    "{}: say how long a delivery is good: `Hook::window(after, before)`, or `Hook::without_window(why)`",
                    hook.name
                )));
            }
        };
        let [secret, _] = &hook.secrets;
        let verdict = |seconds: i64| {
            let now = Timestamp(NOW.millis() + seconds * 1_000);
            judge(webhook, hook.sample(), std::slice::from_ref(secret), now).map(|_| ())
        };
        for seconds in [0, after, -before] {
            ensure(verdict(seconds).is_ok(), || {
                format!("{}: refused {seconds} s after its time, which lies in the window", hook.name)
            })?;
        }
        let (late, early) = (verdict(after + 1), verdict(-before - 1));
        ensure(matches!(late, Err(Refusal::TooOld { .. })), || {
            format!("{}: {} s after its time it is {late:?} and not `TooOld`", hook.name, after + 1)
        })?;
        ensure(matches!(early, Err(Refusal::TooNew { .. })), || {
            format!("{}: {} s before its time it is {early:?} and not `TooNew`", hook.name, before + 1)
        })?;
        for far in [i64::MIN, i64::MAX] {
            ensure(judge(webhook, hook.sample(), std::slice::from_ref(secret), Timestamp(far)).is_err(), || {
                format!("{}: taken by a clock that reads {far}", hook.name)
            })?;
        }
        cases.kept();
    }
    Ok(cases)
}

/// While a secret is rotated, deliveries signed with either are taken, in whatever order the two are configured; with
/// the other one alone, none, or an empty one, they are refused.
///
/// # Errors
/// The first combination that is judged otherwise.
pub async fn two_secrets_live_at_once(subject: &Subject) -> Checked {
    let provider = subject.provider();
    let webhook = webhook(&provider)?;
    let mut cases = Cases::default();
    for hook in hooks(subject)? {
        let [first, second] = &hook.secrets;
        for secret in [first, second] {
            let usable = webhook.check_secret(secret);
            ensure(usable.is_ok(), || format!("{}: `check_secret` refuses a secret of the sample", hook.name))?;
        }
        for (by, own, other) in [(0, first, second), (1, second, first)] {
            let raw = hook.deliver(&hook.one, by, NOW);
            let verdict = |secrets: &[Secret]| judge(webhook, raw.clone(), secrets, NOW).map(|_| ());
            for both in [[own.clone(), other.clone()], [other.clone(), own.clone()]] {
                let both = verdict(&both);
                ensure(both.is_ok(), || format!("{}: with both secrets configured it is {both:?}", hook.name))?;
            }
            ensure(verdict(std::slice::from_ref(other)).is_err(), || {
                format!("{}: taken although only the other secret is configured", hook.name)
            })?;
            for none in [&[] as &[Secret], &[Secret::from("")], &[own.clone(), Secret::from("")]] {
                let none = verdict(none);
                ensure(none == Err(Refusal::NoSecret), || {
                    format!("{}: without a secret it is {none:?} and not `NoSecret`", hook.name)
                })?;
            }
            cases.kept();
        }
    }
    Ok(cases)
}

/// The same delivery gives the same events under the same keys, however often and whenever it is sent and signed anew;
/// another one gives others; and no key stands twice in one delivery.
///
/// # Errors
/// The first key that changes, or is not told apart.
pub async fn a_repeated_delivery_is_the_same_event(subject: &Subject) -> Checked {
    let mut cases = Cases::default();
    for hook in hooks(subject)? {
        let read = |content: &[u8], by: usize, at: Timestamp| -> Result<Vec<String>, Broken> {
            // Made anew each time: a key that lives in the process would not survive its end.
            let provider = subject.provider();
            let events = events(webhook(&provider)?, hook, hook.deliver(content, by, at), at)?;
            Ok(events.iter().map(|event| event.id.as_str().to_owned()).collect())
        };
        let one = read(&hook.one, 0, NOW)?;
        ensure(!one.is_empty(), || format!("{}: the sample holds no event: `Hook::about`", hook.name))?;
        ensure(one.iter().all(|id| !id.is_empty()), || format!("{}: an event has an empty key", hook.name))?;
        let distinct: BTreeSet<&String> = one.iter().collect();
        ensure(distinct.len() == one.len(), || format!("{}: two events of one delivery share a key", hook.name))?;
        let later = NOW.plus(Duration::from_secs(60));
        for (by, at) in [(0, NOW), (0, later), (1, NOW)] {
            let again = read(&hook.one, by, at)?;
            ensure(again == one, || {
                format!("{}: sent again its key is another: it would be handled twice", hook.name)
            })?;
            cases.kept();
        }
        let other = read(&hook.other, 0, NOW)?;
        ensure(!other.is_empty() && other.iter().all(|id| !distinct.contains(id)), || {
            format!("{}: two different events share a key: the second would be dropped", hook.name)
        })?;
        cases.kept();
    }
    Ok(cases)
}

/// A delivery that only asks whether somebody is there is answered as the provider wants, makes no event, and is refused
/// when it is forged.
///
/// # Errors
/// The first handshake that fails.
pub async fn a_handshake_is_answered_and_makes_no_event(subject: &Subject) -> Checked {
    let provider = subject.provider();
    let webhook = webhook(&provider)?;
    let mut cases = Cases::default();
    ensure(!subject.handshakes.is_empty(), || {
        "no handshake is given: add `Subject::handshake`, or say with `Subject::not_applicable` that there is none"
            .to_owned()
    })?;
    for handshake in &subject.handshakes {
        let verified = judge(webhook, handshake.delivery.clone(), std::slice::from_ref(&handshake.secret), NOW)
            .map_err(|refusal| Broken::new(format!("a handshake is refused: {refusal}")))?;
        let parsed =
            webhook.events(&verified).map_err(|error| Broken::new(format!("a handshake is not read: {error}")))?;
        ensure(parsed.events.is_empty(), || "a handshake makes an event".to_owned())?;
        ensure(parsed.reply.status == handshake.status, || {
            format!("a handshake is answered {} and not {}", parsed.reply.status, handshake.status)
        })?;
        ensure(parsed.reply.body == handshake.body, || "a handshake gets another body than it wants".to_owned())?;
        let html = parsed.reply.content_type.is_some_and(|kind| kind.contains("html"));
        ensure(!html, || "a handshake is answered with a page: what it echoes would run".to_owned())?;
        let forged = judge(webhook, handshake.delivery.clone(), &[Secret::from("another secret of 32 letters.")], NOW);
        ensure(forged.is_err(), || "a forged handshake is taken".to_owned())?;
        cases.kept();
    }
    Ok(cases)
}

/// Whatever bytes arrive, signed or not, are taken or refused, and read and applied or refused: nothing panics, and
/// nothing unsigned is taken.
///
/// # Errors
/// The first panic, with the seed that repeats it; the first delivery that is taken without a true signature.
pub async fn arbitrary_deliveries_never_panic(subject: &Subject) -> Checked {
    let provider = subject.provider();
    let webhook = webhook(&provider)?;
    let mut cases = Cases::default();
    for hook in hooks(subject)? {
        taken(webhook, hook)?;
        for seed in 0..NOISE {
            let tried = catch_unwind(AssertUnwindSafe(|| noise(&provider, webhook, hook, seed)));
            let tried =
                tried.map_err(|panic| Broken::new(format!("{}: seed {seed} panics: {}", hook.name, said(&*panic))))?;
            tried?;
            cases.kept();
        }
    }
    Ok(cases)
}

fn noise(provider: &Arc<dyn Provider>, webhook: &dyn Webhook, hook: &Hook, seed: u64) -> Result<(), Broken> {
    let noise = Noise::new(seed);
    let good = hook.sample();
    // Unsigned: noise in the headers.
    let mut raw = good.clone();
    for name in &hook.headers {
        let value = good.headers.get(*name).map(|value| noise.like(value.as_bytes())).unwrap_or_default();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&value)) {
            raw.headers.insert(name, value);
        }
    }
    let now = Timestamp(NOW.millis().saturating_add(i64::try_from(noise.below(9_000)).unwrap_or(0)));
    // What only adds to a signature leaves it good: several may stand in one header.
    let holds = |name: &str| {
        let of = |raw: &RawDelivery| raw.headers.get(name).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
        let (whole, changed) = (of(&good), of(&raw));
        let code = whole.split(|byte| !byte.is_ascii_alphanumeric()).max_by_key(|word| word.len()).unwrap_or_default();
        changed.windows(code.len().max(1)).any(|part| part == code)
    };
    let same = hook.headers.iter().all(|name| holds(name)) || hook.alike.is_some_and(|alike| alike(&good, &raw));
    let taken = judge(webhook, raw, &hook.secrets, now).is_ok();
    ensure(same || !taken, || format!("{}: seed {seed}: taken with noise for a signature", hook.name))?;
    // Signed: noise in the content.
    let content = noise.like(if seed.is_multiple_of(2) { &hook.one } else { &hook.other });
    let Ok(verified) = judge(webhook, hook.deliver(&content, 0, NOW), &hook.secrets, NOW) else { return Ok(()) };
    let Ok(parsed) = webhook.events(&verified) else { return Ok(()) };
    for event in &parsed.events {
        let _ = (webhook.may_end_grant(&event.kind), webhook.ends_grant(event));
        if let Some(source) = provider.source() {
            let _ = (source.concerns(&event.kind), source.apply(event).is_ok());
            let _ = (source.due(event), source.resyncs(event));
        }
    }
    Ok(())
}

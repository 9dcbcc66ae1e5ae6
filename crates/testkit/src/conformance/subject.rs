//! An adapter and what the suite must know to try it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use palisade_core::auth::Scheme;
use palisade_core::webhook::RawDelivery;
use palisade_core::{Operation, Provider, Secret, Timestamp};
use serde_json::Value;

use super::{Check, Group, Meaning, NOW, Rate, Sample, Stage, Stream};
use crate::fake::answer;

/// Makes an emulated provider.
pub(super) type MakeStage = Arc<dyn Fn() -> Box<dyn Stage> + Send + Sync>;

/// An adapter with samples of what it is given.
#[derive(Clone)]
pub struct Subject {
    make: Arc<dyn Fn() -> Arc<dyn Provider> + Send + Sync>,
    pub(super) credential: Scheme,
    pub(super) operations: Vec<&'static Operation>,
    pub(super) samples: Vec<Sample>,
    pub(super) meanings: Vec<Meaning>,
    pub(super) throttled: Response<Bytes>,
    pub(super) hooks: Vec<Hook>,
    pub(super) vectors: Vec<Vector>,
    pub(super) handshakes: Vec<Handshake>,
    pub(super) stage: Option<MakeStage>,
    pub(super) streams: Vec<Stream>,
    pub(super) rates: Vec<Rate>,
    excused: BTreeMap<&'static str, &'static str>,
}

impl Subject {
    /// Makes a subject of an adapter, made anew as often as asked, and the credential its calls carry.
    #[must_use]
    pub fn new<P: Provider>(make: impl Fn() -> P + Send + Sync + 'static, credential: Scheme) -> Self {
        Self {
            make: Arc::new(move || Arc::new(make())),
            credential,
            operations: Vec::new(),
            samples: Vec::new(),
            meanings: Vec::new(),
            throttled: answer(429, ""),
            hooks: Vec::new(),
            vectors: Vec::new(),
            handshakes: Vec::new(),
            stage: None,
            streams: Vec::new(),
            rates: Vec::new(),
            excused: BTreeMap::new(),
        }
    }

    /// Gives the static table of operations.
    #[must_use]
    pub fn operations(mut self, table: impl IntoIterator<Item = &'static Operation>) -> Self {
        self.operations.extend(table);
        self
    }

    /// Adds a call of the typed client.
    #[must_use]
    pub fn call(mut self, sample: Sample) -> Self {
        self.samples.push(sample);
        self
    }

    /// Adds documented answers with what they mean.
    #[must_use]
    pub fn meanings(mut self, meanings: impl IntoIterator<Item = Meaning>) -> Self {
        self.meanings.extend(meanings);
        self
    }

    /// Sets the answer of a provider whose limit is used up, without the header that says when to come back; a bare 429
    /// otherwise.
    #[must_use]
    pub fn throttled_by(mut self, response: Response<Bytes>) -> Self {
        self.throttled = response;
        self
    }

    /// Adds a kind of delivery.
    #[must_use]
    pub fn hook(mut self, hook: Hook) -> Self {
        self.hooks.push(hook);
        self
    }

    /// Adds recorded deliveries with their verdicts.
    #[must_use]
    pub fn vectors(mut self, vectors: impl IntoIterator<Item = Vector>) -> Self {
        self.vectors.extend(vectors);
        self
    }

    /// Adds a delivery that only asks whether somebody is there.
    #[must_use]
    pub fn handshake(mut self, handshake: Handshake) -> Self {
        self.handshakes.push(handshake);
        self
    }

    /// Gives what makes an emulated provider with data, for the streams.
    #[must_use]
    pub fn stage<S: Stage + 'static>(mut self, make: impl Fn() -> S + Send + Sync + 'static) -> Self {
        self.stage = Some(Arc::new(move || Box::new(make())));
        self
    }

    /// Adds a stream of records.
    #[must_use]
    pub fn stream(mut self, stream: Stream) -> Self {
        self.streams.push(stream);
        self
    }

    /// Adds a limit the provider publishes.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rates.push(rate);
        self
    }

    /// Says that a check, named as in [`super::CHECKS`], has no meaning for this adapter, and why. The table shows it.
    #[must_use]
    pub fn not_applicable(mut self, check: &'static str, reason: &'static str) -> Self {
        self.excused.insert(check, reason);
        self
    }

    /// Makes the adapter anew: nothing it may have kept in memory is there any more.
    #[must_use]
    pub fn provider(&self) -> Arc<dyn Provider> {
        (self.make)()
    }

    /// Returns the same subject with another credential.
    pub(super) fn with_credential(&self, credential: Scheme) -> Self {
        Self { credential, ..self.clone() }
    }

    pub(super) fn excused_names(&self) -> impl Iterator<Item = &str> {
        self.excused.keys().copied()
    }

    /// Says why a check is not run.
    pub(super) fn excuse(&self, check: &Check) -> Option<String> {
        if let Some(reason) = self.excused.get(check.name) {
            return Some((*reason).to_owned());
        }
        let provider = self.provider();
        match check.group {
            Group::Webhooks if provider.webhook().is_none() => Some("the adapter takes no webhooks".to_owned()),
            Group::Streams if provider.source().is_none() => Some("the adapter has no streams".to_owned()),
            Group::Calls | Group::Limits | Group::Secrets | Group::Streams | Group::Webhooks => None,
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("provider", &self.provider()).finish_non_exhaustive()
    }
}

/// What a delivery should be made of.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "arguments with names; any value is valid")]
pub struct Ask<'a> {
    /// What it says; its body, unless the scheme tells in another way.
    pub content: &'a [u8],
    /// Which of the hook's two secrets signs it: 0 or 1.
    pub secret: usize,
    /// When it is signed.
    pub at: Timestamp,
}

type Sign = dyn Fn(&Ask<'_>) -> RawDelivery + Send + Sync;

/// One kind of delivery, with a signer written without the adapter's own code where that is possible.
#[derive(Clone)]
pub struct Hook {
    pub(super) name: &'static str,
    pub(super) secrets: [Secret; 2],
    sign: Arc<Sign>,
    pub(super) one: Bytes,
    pub(super) other: Bytes,
    pub(super) headers: Vec<&'static str>,
    pub(super) url: bool,
    pub(super) unsigned_body: Option<&'static str>,
    pub(super) window: Option<Result<(i64, i64), &'static str>>,
    pub(super) alike: Option<fn(&RawDelivery, &RawDelivery) -> bool>,
}

impl Hook {
    /// Begins a kind of delivery with two secrets that may live at once and what makes a true delivery.
    #[must_use]
    pub fn new(
        name: &'static str,
        secrets: [Secret; 2],
        sign: impl Fn(&Ask<'_>) -> RawDelivery + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            secrets,
            sign: Arc::new(sign),
            one: Bytes::new(),
            other: Bytes::new(),
            headers: Vec::new(),
            url: false,
            unsigned_body: None,
            window: None,
            alike: None,
        }
    }

    /// Gives the contents of two deliveries about different events.
    #[must_use]
    pub fn about(mut self, one: impl Into<Bytes>, other: impl Into<Bytes>) -> Self {
        (self.one, self.other) = (one.into(), other.into());
        self
    }

    /// Names the headers that carry the signature and its time: needed, single, and of which each byte counts.
    #[must_use]
    pub fn signed_by(mut self, headers: &[&'static str]) -> Self {
        self.headers = headers.to_vec();
        self
    }

    /// Says that the URL is signed too.
    #[must_use]
    pub fn signing_url(mut self) -> Self {
        self.url = true;
        self
    }

    /// Says that the provider does not sign the body, and what protects it instead.
    #[must_use]
    pub fn not_signing_body(mut self, reason: &'static str) -> Self {
        self.unsigned_body = Some(reason);
        self
    }

    /// Gives the window: how many whole seconds after and before its signed time a delivery is still taken.
    #[must_use]
    pub fn window(mut self, after: i64, before: i64) -> Self {
        self.window = Some(Ok((after, before)));
        self
    }

    /// Says why there is no window.
    #[must_use]
    pub fn without_window(mut self, reason: &'static str) -> Self {
        self.window = Some(Err(reason));
        self
    }

    /// Tells changed deliveries that mean the same to the scheme: another spelling of the same parameters.
    #[must_use]
    pub fn alike(mut self, alike: fn(&RawDelivery, &RawDelivery) -> bool) -> Self {
        self.alike = Some(alike);
        self
    }

    /// Makes a true delivery.
    #[must_use]
    pub fn deliver(&self, content: &[u8], secret: usize, at: Timestamp) -> RawDelivery {
        (self.sign)(&Ask { content, secret, at })
    }

    /// Returns its name in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The first sample, signed now.
    pub(super) fn sample(&self) -> RawDelivery {
        self.deliver(&self.one, 0, NOW)
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A recorded delivery and whether the official SDKs take it. Where they disagree, the stricter reading.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Vector {
    /// Its name in messages.
    pub name: String,
    /// The delivery.
    pub delivery: RawDelivery,
    /// The secrets configured.
    pub secrets: Vec<Secret>,
    /// When it arrives.
    pub now: Timestamp,
    /// Whether it must be taken.
    pub accepted: bool,
    /// The adapter set up for it, where the subject's own is not (published keys).
    pub by: Option<Arc<dyn Provider>>,
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vector").field("name", &self.name).field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

impl Vector {
    /// Reads the vectors of a file's group: `name`, `headers`, `body_b64` or `body_utf8`, `url`, `method`, `now`, and
    /// `expect`: `ok`, `fail`, or `policy` where official SDKs disagree, which is refused. Secrets are read by `secrets`.
    ///
    /// # Panics
    /// When a vector is not one: a file that is read wrongly would prove nothing.
    #[must_use]
    pub fn read(group: &Value, secrets: impl Fn(&Value) -> Vec<Secret>) -> Vec<Self> {
        let all = group.get("vectors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        assert!(!all.is_empty(), "the group holds no vectors");
        all.iter()
            .map(|vector| {
                let text = |key: &str| vector.get(key).and_then(Value::as_str);
                let name = text("name").unwrap_or_default().to_owned();
                let expect = text("expect").unwrap_or_default();
                assert!(["ok", "fail", "policy"].contains(&expect), "{name}: `expect` is not a verdict");
                let body = match (text("body_b64").map(|body| STANDARD.decode(body)), text("body_utf8")) {
                    (Some(Ok(body)), _) => Bytes::from(body),
                    (None, Some(body)) => Bytes::copy_from_slice(body.as_bytes()),
                    _ => panic!("{name}: no body"),
                };
                let delivery = RawDelivery {
                    method: text("method").and_then(|method| method.parse().ok()).unwrap_or(Method::POST),
                    url: text("url").unwrap_or("https://hooks.example.test/hook").to_owned(),
                    headers: headers(&name, vector.get("headers")),
                    body,
                };
                let now = vector.get("now").and_then(Value::as_i64).map_or(NOW, Timestamp::from_seconds);
                Self { name, delivery, secrets: secrets(vector), now, accepted: expect == "ok", by: None }
            })
            .collect()
    }

    /// Reads the vectors of a file whose secrets are texts under `secret`.
    ///
    /// # Panics
    /// When the file is none of vectors.
    #[must_use]
    pub fn file(text: &str) -> Vec<Self> {
        let Ok(file) = serde_json::from_str::<Value>(text) else { panic!("the file is not JSON") };
        Self::read(&file, |vector| vec![Secret::from(vector.get("secret").and_then(Value::as_str).unwrap_or_default())])
    }

    /// Sets the adapter that judges it.
    #[must_use]
    pub fn judged_by(mut self, provider: Arc<dyn Provider>) -> Self {
        self.by = Some(provider);
        self
    }
}

fn headers(name: &str, recorded: Option<&Value>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (header, value) in recorded.and_then(Value::as_object).into_iter().flatten() {
        let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
        match (HeaderName::from_bytes(header.as_bytes()), value) {
            (Ok(header), Some(value)) => headers.append(header, value),
            _ => panic!("{name}: {header} is not a header"),
        };
    }
    headers
}

/// A delivery that only asks whether somebody is there, and the answer it wants.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Handshake {
    /// The delivery, signed at [`NOW`].
    pub delivery: RawDelivery,
    /// The secret it is signed with.
    pub secret: Secret,
    /// The status of the answer.
    pub status: u16,
    /// The body of the answer.
    pub body: &'static [u8],
}

//! A provider in a map, a store that fails and yields on demand, and a worker between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value as Json, json};

use super::super::*;
use crate::client::{Classifier, Profile, Verdict};
use crate::clock::TokioClock;
use crate::id::{EventId, RecordId};
use crate::provider::Manifest;
use crate::random::SeededRandom;
use crate::secret::Secret;
pub(super) use crate::store::faulty::{Fault, Faulty};
use crate::store::*;
use crate::sync::watch::{Watch, WatchAsk, WatchSpec, Watcher};
use crate::sync::{
    BadRecord, Change, Cursor, Missing, Next, Page, Site, Source, Span, State, StreamKind, StreamSpec, Told,
};
use crate::webhook::{Event, Parsed, RawDelivery, Refusal, Reply, Verified, Webhook};

pub(super) const START: Timestamp = Timestamp(1_700_000_000_000);
pub(super) const THINGS: &str = "things";
pub(super) const EVENTS: &str = "events";
/// The type of an event that may end the grant.
pub(super) const GOODBYE: &str = "goodbye";
/// The type of an event that says more happened than it tells.
pub(super) const MANY: &str = "thing.many";
/// The type of an event of which only a notice is delivered.
pub(super) const NOTICE: &str = "thing.noticed";
/// How long a push channel lives.
pub(super) const CHANNEL_LIFE: Duration = Duration::from_secs(7 * 86_400);

// ---------------------------------------------------------------------------------------------- the provider

/// What happened to a thing: when, which, and its value afterwards.
pub(super) type Happened = (Timestamp, String, Option<u64>);

#[derive(Default)]
pub(super) struct Truth {
    pub(super) things: BTreeMap<String, u64>,
    pub(super) log: Vec<Happened>,
    /// Every request's path and query.
    pub(super) requests: Vec<String>,
    /// What the next requests fail with.
    pub(super) failures: VecDeque<Error>,
    /// What every other request fails with.
    pub(super) every_other: Option<fn() -> Error>,
    /// Events older than this are not listed any more.
    pub(super) events_from: usize,
    pub(super) delay: Duration,
    pub(super) list_is_stuck: bool,
    pub(super) list_goes_round: bool,
    /// Pages of things bring nothing and lead on for ever.
    pub(super) list_is_empty: bool,
    /// Things that cannot be read, by whether they say their names.
    pub(super) broken: BTreeMap<String, bool>,
    /// Events of the list that cannot be read.
    pub(super) broken_events: Vec<u64>,
    /// Of which things a webhook should tell: when, and whether as a notice.
    pub(super) told: BTreeMap<String, (Timestamp, bool)>,
    /// Events can be made of things that a webhook should have told of.
    pub(super) makes_events: bool,
    /// The list of things shows their names only.
    pub(super) lists_names_only: bool,
    /// Things that are in no list, though they can be asked for.
    pub(super) unlisted: BTreeSet<String>,
    /// Things of which an answer of their own is too large.
    pub(super) too_large: BTreeSet<String>,
    pub(super) hang: bool,
    /// The push channels that were opened and not ended, with when they are over.
    pub(super) channels: BTreeMap<String, Timestamp>,
    pub(super) opens_no_channel: bool,
    /// The provider lists no events, only things.
    pub(super) lists_no_events: bool,
    /// The end of the list of things is a position to go on from: at its beginning.
    pub(super) things_have_position: bool,
    /// The adapter has left the things out.
    pub(super) lists_no_things: bool,
}

impl Truth {
    fn shown(&self, id: &str, value: u64) -> Json {
        match self.broken.get(id) {
            None => json!({ "id": id, "value": value }),
            Some(true) => json!({ "id": id, "bad": true }),
            Some(false) => json!({ "bad": true, "n": value }),
        }
    }
}

/// The provider, its adapter and the way to it in one.
#[derive(Clone)]
pub(crate) struct Fake {
    truth: Arc<Mutex<Truth>>,
    clock: Arc<TokioClock>,
}

impl fmt::Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fake")
    }
}

fn content(id: &str, value: u64) -> Bytes {
    Bytes::from(json!({ "id": id, "value": value }).to_string())
}

impl Fake {
    /// A provider of which nothing has happened.
    pub(crate) fn at(clock: Arc<TokioClock>) -> Self {
        Self { truth: Arc::default(), clock }
    }

    pub(super) fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().unwrap()
    }

    /// Changes a thing at the provider; returns the number of the event.
    pub(super) fn put(&self, id: &str, value: Option<u64>) -> usize {
        let at = self.clock.now();
        let mut truth = self.truth();
        match value {
            Some(value) => truth.things.insert(id.to_owned(), value),
            None => truth.things.remove(id),
        };
        truth.log.push((at, id.to_owned(), value));
        truth.log.len() - 1
    }

    pub(super) fn event(&self, n: usize) -> Event {
        let (at, id, value) = self.truth().log[n].clone();
        Event {
            id: EventId::new(format!("evt_{n}")),
            kind: if value.is_some() { "thing.updated" } else { "thing.deleted" }.to_owned(),
            account: None,
            // Whole seconds, as most providers have it.
            created: Some(Timestamp::from_seconds(at.seconds())),
            ordering_key: Some(id.clone()),
            payload: Bytes::from(json!({ "id": id, "value": value }).to_string()),
        }
    }

    fn answer(&self, path: &str, query: &BTreeMap<String, String>) -> Result<Json> {
        let mut truth = self.truth();
        if path == "/watch" && truth.opens_no_channel {
            return Err(Error::new(ErrorKind::Permission, "the topic is not ours"));
        }
        if path == "/watch" {
            let end = self.clock.now().plus(CHANNEL_LIFE);
            truth.channels.insert(query["channel"].clone(), end);
            return Ok(json!({ "ends": end.millis() }));
        }
        if path == "/unwatch" {
            let gone = truth.channels.remove(&query["channel"]);
            return gone.map(|_| json!({})).ok_or_else(|| Error::new(ErrorKind::NotFound, "no such channel"));
        }
        let limit: usize = query.get("limit").map_or(100, |limit| limit.parse().unwrap());
        let after = query.get("after").cloned().unwrap_or_default();
        if let Some(id) = path.strip_prefix("/things/") {
            if truth.too_large.contains(id) {
                return Err(Error::new(ErrorKind::BodyTooLarge, "the answer is too large"));
            }
            let value = truth.things.get(id).ok_or_else(|| Error::new(ErrorKind::NotFound, "no such thing"))?;
            return Ok(truth.shown(id, *value));
        }
        if let Some(id) = path.strip_prefix("/whole/") {
            return Ok(json!({ "id": id, "value": truth.things[id] }));
        }
        if path == "/things" && truth.list_is_empty {
            let next = after + "x";
            return Ok(json!({ "data": [], "more": true, "next": next }));
        }
        if path == "/things" {
            if truth.list_is_stuck && !after.is_empty() {
                return Ok(json!({ "data": [], "more": true, "next": after }));
            }
            if truth.list_goes_round && !after.is_empty() {
                let next = if after.ends_with('x') { after.trim_end_matches('x').to_owned() } else { after + "x" };
                return Ok(json!({ "data": [], "more": true, "next": next }));
            }
            let mut rest = truth.things.iter().filter(|(id, _)| **id > after && !truth.unlisted.contains(*id));
            let data: Vec<_> = rest.by_ref().take(limit).collect();
            let next = data.last().map(|(id, _)| (*id).clone());
            let data: Vec<_> = data.iter().map(|(id, value)| truth.shown(id, **value)).collect();
            let total = truth.things.len();
            return Ok(json!({ "data": data, "more": rest.next().is_some(), "next": next, "total": total }));
        }
        let newest = truth.log.len();
        if after.is_empty() {
            return Ok(json!({ "data": [], "more": false, "next": newest.to_string() }));
        }
        let from: usize = after.parse().unwrap();
        if from < truth.events_from {
            return Err(Error::new(ErrorKind::CursorExpired, "the position is too old"));
        }
        let to = newest.min(from + limit);
        Ok(json!({ "data": (from..to).collect::<Vec<_>>(), "more": to < newest, "next": to.to_string() }))
    }
}

#[async_trait]
impl Transport for Fake {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        let uri = request.uri().clone();
        let (failure, delay, hang) = {
            let mut truth = self.truth();
            truth.requests.push(uri.path_and_query().unwrap().to_string());
            let other = truth.every_other.filter(|_| truth.requests.len().is_multiple_of(2)).map(|make| make());
            (truth.failures.pop_front().or(other), truth.delay, truth.hang)
        };
        tokio::task::yield_now().await;
        if hang {
            std::future::pending::<()>().await;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        let query = uri.query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
        let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let body = self.answer(uri.path(), &query)?;
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        tokio::task::yield_now().await;
        let date = httpdate::fmt_http_date(self.clock.now().to_system_time());
        Ok(http::Response::builder().header("date", date).body(Bytes::from(body.to_string())).unwrap())
    }
}

#[derive(Debug)]
struct Everything;

impl Classifier for Everything {
    fn classify(&self, _: &'static crate::Operation, _: &http::Response<Bytes>) -> Verdict {
        Verdict::Success
    }
}

impl Provider for Fake {
    fn manifest(&self) -> &'static Manifest {
        static MANIFEST: Manifest = Manifest {
            name: "fake",
            title: "Fake",
            base_url: "http://fake.example/",
            hosts: &["fake.example"],
            api_version: None,
        };
        &MANIFEST
    }

    fn profile(&self) -> Profile {
        Profile::new("fake", &["fake.example"], Arc::new(Everything))
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(self)
    }

    fn webhook(&self) -> Option<&dyn Webhook> {
        Some(self)
    }

    fn watcher(&self) -> Option<&dyn Watcher> {
        Some(self)
    }
}

impl Watcher for Fake {
    fn watches(&self) -> &'static [WatchSpec] {
        &[WatchSpec { stream: EVENTS, lives_max: CHANNEL_LIFE, renew_every: CHANNEL_LIFE }]
    }

    fn watch(&self, site: &Site, ask: &WatchAsk) -> Result<http::Request<Bytes>> {
        assert_eq!((ask.address.as_str(), ask.secret.expose()), ("https://us.example/hook", "right"));
        Ok(http::Request::get(format!("{}/watch?channel={}", site.base_url, ask.channel)).body(Bytes::new()).unwrap())
    }

    fn watched(&self, ask: &WatchAsk, response: &http::Response<Bytes>) -> Result<Watch> {
        let body: Json = serde_json::from_slice(response.body()).unwrap();
        let expires_at = body["ends"].as_i64().map(Timestamp);
        Ok(Watch { stream: ask.stream.clone(), channel: Some(ask.channel.clone()), resource: None, expires_at })
    }

    fn unwatch(&self, site: &Site, watch: &Watch) -> Result<http::Request<Bytes>> {
        let channel = watch.channel.as_deref().unwrap();
        Ok(http::Request::get(format!("{}/unwatch?channel={channel}", site.base_url)).body(Bytes::new()).unwrap())
    }

    fn secret<'s>(&self, _: &StreamName, secrets: &'s [Secret]) -> Option<&'s Secret> {
        secrets.iter().find(|secret| secret.expose() == "right")
    }
}

impl Webhook for Fake {
    fn verify(&self, _: &RawDelivery, _: &[Secret], _: Timestamp) -> Result<(), Refusal> {
        Ok(())
    }

    fn events(&self, _: &Verified) -> Result<Parsed> {
        Ok(Parsed { reply: Reply::ok(), events: Vec::new() })
    }

    fn may_end_grant(&self, kind: &str) -> bool {
        kind == GOODBYE
    }

    fn ends_grant(&self, event: &Event) -> bool {
        event.kind == GOODBYE && event.payload == "all"
    }
}

impl Source for Fake {
    fn streams(&self) -> &'static [StreamSpec] {
        const STREAMS: &[StreamSpec] = &[
            StreamSpec { name: THINGS, kind: StreamKind::Records },
            StreamSpec { name: EVENTS, kind: StreamKind::Events },
        ];
        let truth = self.truth();
        match (truth.lists_no_things, truth.lists_no_events) {
            (true, _) => &STREAMS[1..],
            (false, true) => &STREAMS[..1],
            (false, false) => STREAMS,
        }
    }

    fn request(&self, site: &Site, stream: &StreamName, cursor: Option<&Cursor>) -> Result<http::Request<Bytes>> {
        let after = cursor.map_or("", Cursor::as_str);
        let uri = format!("{}/{stream}?limit={}&after={after}", site.base_url, site.page_size);
        Ok(http::Request::get(uri).body(Bytes::new()).unwrap())
    }

    fn page(
        &self,
        stream: &StreamName,
        _cursor: Option<&Cursor>,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Page> {
        let body: Json = serde_json::from_slice(response.body()).unwrap();
        let data = body["data"].as_array().unwrap();
        let next = body["next"].as_str().map(Cursor::new);
        let more = body["more"].as_bool().unwrap();
        let (mut changes, mut events, mut bad) = (Vec::new(), Vec::new(), Vec::new());
        for one in data {
            if one.as_u64().is_some_and(|n| self.truth().broken_events.contains(&n)) {
                bad.push(BadRecord::of_json(Some(&format!("evt_{one}")), one, "it is broken"));
            } else if stream.as_str() == EVENTS {
                events.push(self.event(usize::try_from(one.as_u64().unwrap()).unwrap()));
            } else if one["bad"] == true {
                bad.push(BadRecord::of_json(one["id"].as_str(), one, "it is broken"));
            } else {
                let listed = change(one, span);
                let names_only = self.truth().lists_names_only;
                changes.push(if names_only { Change { state: State::Unclear, ..listed } } else { listed });
            }
        }
        let resume = match stream.as_str() {
            EVENTS => next.clone(),
            _ => self.truth().things_have_position.then(|| Cursor::new("")),
        };
        let next = if more { Next::More(next.unwrap()) } else { Next::Done { resume } };
        Ok(Page { events, total: body["total"].as_u64(), ..Page::of_records((changes, bad), next) })
    }

    fn fetch(&self, site: &Site, stream: &StreamName, id: &RecordId) -> Result<http::Request<Bytes>> {
        Ok(http::Request::get(format!("{}/{stream}/{id}", site.base_url)).body(Bytes::new()).unwrap())
    }

    fn fetched(
        &self,
        _stream: &StreamName,
        _id: &RecordId,
        response: &http::Response<Bytes>,
        span: Span,
    ) -> Result<Change> {
        let body: Json = serde_json::from_slice(response.body()).unwrap();
        if body["bad"] == true {
            return Err(Error::new(ErrorKind::Decode, "it is broken"));
        }
        Ok(change(&body, span))
    }

    fn told(&self, change: &Change, _place: Option<&Bytes>) -> Option<Told> {
        let (at, is_notice) = *self.truth().told.get(change.id.as_str())?;
        Some(Told { at, by: "thing.updated".into(), is_notice })
    }

    fn event_of(&self, _site: &Site, missing: &Missing<'_>) -> Option<Event> {
        let id = missing.change.id.as_str();
        let n = {
            let truth = self.truth();
            truth.log.iter().rposition(|(_, of, _)| of == id).filter(|_| truth.makes_events)?
        };
        Some(self.event(n))
    }

    fn complete(&self, site: &Site, event: &Event) -> Result<Option<http::Request<Bytes>>> {
        let place = format!("{}/whole/{}", site.base_url, event.ordering_key.as_deref().unwrap_or_default());
        Ok((event.kind == NOTICE).then(|| http::Request::get(place).body(Bytes::new()).unwrap()))
    }

    fn completed(&self, event: &Event, response: &http::Response<Bytes>) -> Result<Event> {
        Ok(Event { payload: response.body().clone(), ..event.clone() })
    }

    fn concerns(&self, kind: &str) -> bool {
        kind.starts_with("thing.")
    }

    fn resyncs(&self, event: &Event) -> Vec<StreamName> {
        if event.kind == MANY { vec![THINGS.into()] } else { Vec::new() }
    }

    fn apply(&self, event: &Event) -> Result<Vec<Change>> {
        if event.kind == MANY {
            return Ok(Vec::new());
        }
        let body: Json = serde_json::from_slice(&event.payload)
            .map_err(|_| Error::new(ErrorKind::Decode, "the event is not JSON"))?;
        // Only a notice made of what a run found says nothing of its time.
        let Some(created) = event.created else { return Ok(Vec::new()) };
        let mut change = change(&body, Span::second(created));
        if event.kind == NOTICE && body.get("value").is_none() {
            change.state = State::Unclear;
        }
        Ok(vec![change])
    }
}

fn change(body: &Json, span: Span) -> Change {
    let id = body["id"].as_str().unwrap();
    let state = match body["value"].as_u64() {
        Some(value) => State::Present(content(id, value)),
        None => State::Deleted,
    };
    Change { stream: THINGS.into(), id: id.into(), span, state }
}

// ---------------------------------------------------------------------------------------------- the world

pub(super) struct World {
    pub(super) fake: Fake,
    pub(super) store: Arc<Faulty>,
    pub(super) clock: Arc<TokioClock>,
    pub(super) worker: Worker,
}

pub(super) fn settings() -> WorkerSettings {
    // Reading ahead is what more can go wrong with.
    WorkerSettings { page_size: 3, attempts_max: 4, read_ahead: true, ..WorkerSettings::default() }
}

impl World {
    /// A world with one connection, not yet synced.
    pub(super) async fn new() -> Self {
        Self::with(settings(), |builder| builder).await
    }

    pub(super) async fn with(settings: WorkerSettings, more: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Self {
        let clock = Arc::new(TokioClock::starting_at(START));
        let fake = Fake { truth: Arc::default(), clock: clock.clone() };
        let store = Arc::new(Faulty::default());
        let world = Self::worker(&fake, &store, &clock, settings, more);
        store.put_connection(connection("conn")).await.unwrap();
        Self { fake, store, clock, worker: world }
    }

    pub(super) fn worker(
        fake: &Fake,
        store: &Arc<Faulty>,
        clock: &Arc<TokioClock>,
        settings: WorkerSettings,
        more: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
    ) -> Worker {
        let random = Arc::new(SeededRandom::new(1));
        let builder = Worker::builder(store.clone(), clock.clone(), random).settings(settings);
        more(builder.provider(Arc::new(fake.clone()), Arc::new(fake.clone()))).build().unwrap()
    }

    /// Another worker on the same store, as in another process.
    pub(super) fn other(&self, more: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Worker {
        Self::worker(&self.fake, &self.store, &self.clock, settings(), more)
    }

    pub(super) async fn connect(&self) {
        self.worker.connect(&connection("conn")).await.unwrap();
    }

    /// Delivers events as a webhook does.
    pub(super) async fn deliver(&self, events: &[usize]) -> Vec<Appended> {
        let events = events.iter().map(|n| self.fake.event(*n)).collect();
        self.deliver_raw("conn", events).await
    }

    pub(super) async fn deliver_raw(&self, connection: &str, events: Vec<Event>) -> Vec<Appended> {
        let events = events.into_iter().map(|event| NewEvent {
            wanted: self.worker.wants("fake", &event.kind),
            priority: self.worker.priority(&event.kind),
            id: event.id,
            kind: event.kind,
            subscription: None,
            account: event.account,
            created: event.created,
            ordering_key: event.ordering_key,
            payload: Some(event.payload),
        });
        let delivery = NewDelivery {
            endpoint: connection.into(),
            connection: connection.into(),
            provider: "fake".to_owned(),
            received_at: self.clock.now(),
            headers: Vec::new(),
            body: Bytes::new(),
            events: events.collect(),
        };
        self.store.inner.append(vec![delivery]).await.unwrap().remove(0)
    }

    /// Works until nothing is due.
    pub(super) async fn quiet(&self) {
        for _ in 0..1_000 {
            let events = self.worker.step(Queue::Events).await.unwrap();
            if events + self.worker.step(Queue::Background).await.unwrap() == 0 {
                return;
            }
        }
        panic!("work without end");
    }

    pub(super) async fn wait(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    pub(super) async fn stream(&self, name: &str) -> StreamStatus {
        self.store.inner.stream(schedule::stream_key(&"conn".into(), name)).await.unwrap()
    }

    pub(super) async fn feed(&self) -> Vec<FeedEntry> {
        self.store.inner.changes(schedule::stream_key(&"conn".into(), THINGS), 0, u32::MAX).await.unwrap()
    }

    pub(super) async fn runs(&self) -> Vec<Run> {
        self.store.inner.runs(None, 1_000).await.unwrap()
    }

    pub(super) async fn state(&self) -> ConnectionState {
        self.store.inner.connection("conn".into()).await.unwrap().unwrap().state
    }

    pub(super) async fn event_states(&self) -> Vec<(EventState, Option<String>)> {
        let events = self.store.inner.events(None, None, u32::MAX).await.unwrap().events;
        events.into_iter().rev().map(|event| (event.state, event.reason)).collect()
    }

    /// What the store holds alive, as the provider would say it.
    pub(super) async fn held(&self) -> BTreeMap<String, Bytes> {
        let feed = self.feed().await;
        feed.into_iter().filter_map(|entry| Some((entry.record.id.to_string(), entry.record.data?))).collect()
    }

    #[track_caller]
    pub(super) fn check_equal(&self, held: &BTreeMap<String, Bytes>) {
        let truth = self.fake.truth();
        let expected: BTreeMap<_, _> =
            truth.things.iter().map(|(id, value)| (id.clone(), content(id, *value))).collect();
        assert_eq!(*held, expected, "the store is not the provider");
    }

    pub(super) fn requests(&self) -> usize {
        self.fake.truth().requests.len()
    }
}

pub(super) fn connection(id: &str) -> Connection {
    Connection {
        id: id.into(),
        tenant: "tenant".into(),
        provider: "fake".to_owned(),
        environment: Default::default(),
        account: None,
        base_url: None,
        state: ConnectionState::Active,
        created_at: START,
    }
}

/// Runs a future until it has yielded `times`, then drops it, as a killed process does. `None` when it was dropped.
pub(crate) async fn killed_after<T>(times: usize, work: impl Future<Output = T>) -> Option<T> {
    let patience = async {
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = patience => None,
    }
}

//! Promises of streams: what is read from the provider is what is there, whatever happens meanwhile.
//!
//! The pages are walked as core's driver walks them, by its rules on cursors, over the real pipeline; what a store would
//! add is proven by the store's own suite.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use palisade_core::auth::FixedCredential;
use palisade_core::clock::TokioClock;
use palisade_core::random::SeededRandom;
use palisade_core::sync::{Change, Cursor, Next, Page, Site, Source, Span, State, StreamKind};
use palisade_core::webhook::{Event, Verified};
use palisade_core::{Client, Error, ErrorKind, Provider, RecordId, StreamName, Timestamp, Transport};
use serde_json::Value;

use super::stage::{Stage, Stream};
use super::wire::locked;
use super::{Broken, Cases, Checked, NOW, Subject, ensure};

/// Pages after which a walk has no end.
const PAGES_MAX: usize = 2_000;

/// Changes made at the provider before it is quiet.
pub(super) const CHANGES: usize = 12;

/// What is done to requests on their way.
#[derive(Clone, Debug)]
pub(super) enum Twist {
    None,
    /// The page of this number is shown without its records.
    Empty(usize, fn(&Value) -> Value),
    /// The first page is answered for ever.
    Stuck,
    /// The request of this number is throttled for this long.
    Throttle(usize, Response<Bytes>, Duration),
    /// Every request is answered so.
    Answer(Response<Bytes>),
}

struct Twisted {
    inner: Arc<dyn Transport>,
    twist: Twist,
    requests: AtomicUsize,
    hidden: Mutex<Option<Response<Bytes>>>,
}

#[async_trait]
impl Transport for Twisted {
    async fn send(&self, request: Request<Bytes>) -> palisade_core::Result<Response<Bytes>> {
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        match &self.twist {
            Twist::Throttle(at, response, wait) if number == *at => {
                let mut response = response.clone();
                response.headers_mut().insert("retry-after", HeaderValue::from(wait.as_secs()));
                return Ok(response);
            }
            Twist::Answer(response) => return Ok(response.clone()),
            Twist::Stuck => {
                if let Some(first) = locked(&self.hidden).clone() {
                    return Ok(first);
                }
            }
            Twist::None | Twist::Throttle(..) | Twist::Empty(..) => {}
        }
        let response = self.inner.send(request).await?;
        match &self.twist {
            Twist::Stuck => *locked(&self.hidden) = Some(response.clone()),
            Twist::Empty(at, emptied) if number == *at => {
                *locked(&self.hidden) = Some(response.clone());
                if let Ok(page) = serde_json::from_slice(response.body()) {
                    return Ok(response.map(|_| Bytes::from(emptied(&page).to_string())));
                }
            }
            Twist::None | Twist::Empty(..) | Twist::Throttle(..) | Twist::Answer(_) => {}
        }
        Ok(response)
    }
}

/// One reader of one stage.
pub(super) struct World {
    pub(super) provider: Arc<dyn Provider>,
    client: Client,
    way: Arc<Twisted>,
    pub(super) site: Site,
    begun: tokio::time::Instant,
}

/// What a walk gave.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) changes: Vec<Change>,
    pub(super) events: Vec<Event>,
    /// Where each page was read, and how many changes came before it.
    places: Vec<(Option<Cursor>, usize)>,
    pub(super) resume: Option<Cursor>,
}

impl World {
    pub(super) fn new(subject: &Subject, stage: &dyn Stage, page_size: u32, twist: Twist) -> Result<Self, Broken> {
        let provider = subject.provider();
        let way = Arc::new(Twisted {
            inner: stage.transport(),
            twist,
            requests: AtomicUsize::new(0),
            hidden: Mutex::new(None),
        });
        let credential = FixedCredential::new(&stage.credential());
        let credential = credential.map_err(|error| Broken::new(format!("the stage's credential: {error}")))?;
        let transport = Arc::clone(&way) as Arc<dyn Transport>;
        let client = Client::builder(provider.profile(), transport, Arc::new(credential))
            .clock(Arc::new(TokioClock::starting_at(NOW)))
            .random(Arc::new(SeededRandom::new(7)))
            .build()
            .map_err(|error| Broken::new(format!("the profile makes no client: {error}")))?;
        let site = Site {
            base_url: provider.manifest().base_url.to_owned(),
            connection: "conn_1".into(),
            tenant: "tenant_1".into(),
            account: stage.account(),
            page_size,
        };
        Ok(Self { provider, client, way, site, begun: tokio::time::Instant::now() })
    }

    fn source(&self) -> Result<&dyn Source, Error> {
        self.provider.source().ok_or_else(|| Error::new(ErrorKind::Config, "the adapter has no streams"))
    }

    async fn page(&self, stream: &StreamName, cursor: Option<&Cursor>) -> Result<Page, Error> {
        let source = self.source()?;
        let response = self.client.send(source.request(&self.site, stream, cursor)?).await?;
        source.page(stream, cursor, &response, span(&response))
    }

    /// Walks to the end, with `after` called behind each page.
    pub(super) async fn walk(
        &self,
        stream: &str,
        from: Option<Cursor>,
        mut after: impl FnMut(usize, &[Change]),
    ) -> Result<Walked, Error> {
        let stream = StreamName::new(stream);
        let (mut cursor, mut walked, mut seen) = (from, Walked::default(), BTreeSet::new());
        for number in 0..PAGES_MAX {
            walked.places.push((cursor.clone(), walked.changes.len()));
            let page = match self.page(&stream, cursor.as_ref()).await {
                Err(error) if error.kind() == ErrorKind::CursorExpired => {
                    let source = self.source()?;
                    let back = cursor.as_ref().and_then(|cursor| source.step_back(&stream, cursor));
                    cursor = Some(back.ok_or(error)?);
                    continue;
                }
                page => page?,
            };
            after(number, &page.changes);
            walked.changes.extend(page.changes);
            walked.events.extend(page.events);
            match page.next {
                Next::More(next) => {
                    if !seen.insert(next.as_str().to_owned()) {
                        return Err(Error::new(ErrorKind::Decode, "the cursor does not advance"));
                    }
                    cursor = Some(next);
                }
                Next::Done { resume } => {
                    walked.resume = resume;
                    return Ok(walked);
                }
            }
        }
        Err(Error::new(ErrorKind::Timeout, "the walk has no end"))
    }

    /// Reads one record; `None` when it is gone.
    async fn fetch(&self, stream: &StreamName, id: &RecordId) -> Result<Option<Bytes>, Error> {
        let source = self.source()?;
        let change = match self.client.send(source.fetch(&self.site, stream, id)?).await {
            Ok(response) => source.fetched(stream, id, &response, span(&response))?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match change.state {
            State::Present(data) => Ok(Some(data)),
            State::Deleted => Ok(None),
            State::Unclear => Err(Error::new(ErrorKind::Decode, "a fetched record is unclear")),
        }
    }

    /// Makes a change whole: what is unclear is fetched.
    pub(super) async fn whole(&self, change: Change) -> Result<Change, Error> {
        if change.state != State::Unclear {
            return Ok(change);
        }
        let data = self.fetch(&change.stream, &change.id).await?;
        Ok(Change { state: data.map_or(State::Deleted, State::Present), ..change })
    }

    /// Keeps changes as they come: what is unclear is fetched.
    pub(super) async fn keep(&self, copy: &mut Copy, changes: Vec<Change>) -> Result<(), Error> {
        for change in changes {
            let change = self.whole(change).await?;
            let key = (change.stream.as_str().to_owned(), change.id.as_str().to_owned());
            match change.state {
                State::Present(data) => drop(copy.insert(key, data)),
                State::Deleted | State::Unclear => drop(copy.remove(&key)),
            }
        }
        Ok(())
    }

    /// Takes events as the hub does: applied, or runs of the streams they say are due.
    async fn apply(&self, copy: &mut Copy, since: &mut Resumes, events: &[Event]) -> Result<(), Error> {
        let source = self.source()?;
        for event in events {
            if source.concerns(&event.kind) {
                self.keep(copy, source.apply(event)?).await?;
            }
            for stream in source.due(event) {
                self.increment(copy, since, stream.as_str()).await?;
            }
            for stream in source.resyncs(event) {
                copy.retain(|(of, _), _| of != stream.as_str());
                let all = self.walk(stream.as_str(), None, |_, _| {}).await?;
                self.keep(copy, all.changes).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn increment(&self, copy: &mut Copy, since: &mut Resumes, stream: &str) -> Result<(), Error> {
        let from = since.get(stream).cloned().flatten();
        let more = self.walk(stream, from, |_, _| {}).await?;
        self.keep(copy, more.changes).await?;
        since.insert(stream.to_owned(), more.resume);
        Ok(())
    }
}

pub(super) type Copy = BTreeMap<(String, String), Bytes>;
pub(super) type Resumes = BTreeMap<String, Option<Cursor>>;

fn span(response: &Response<Bytes>) -> Span {
    let date = response.headers().get("date").and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
    Span::second(date.map_or(NOW, Timestamp::from))
}

/// Takes the events of what the provider has posted.
pub(super) async fn posted(world: &World, stage: &dyn Stage) -> Result<Vec<Event>, Broken> {
    let mut events = Vec::new();
    for raw in stage.deliveries().await {
        let webhook = world.provider.webhook().ok_or_else(|| Broken::new("deliveries come, and nobody takes them"))?;
        let now = NOW.plus(world.begun.elapsed());
        let verified = Verified::check(webhook, raw, &stage.secrets(), now)
            .map_err(|refusal| Broken::new(format!("a delivery of the stage is refused: {refusal}")))?;
        let parsed = webhook.events(&verified);
        events.extend(parsed.map_err(|error| Broken::new(format!("a delivery of the stage: {error}")))?.events);
    }
    Ok(events)
}

/// The streams of the subject and how its stage is made.
pub(super) fn streams(subject: &Subject) -> Result<(&super::subject::MakeStage, &[Stream]), Broken> {
    let known = subject.provider();
    let known = known.source().map(Source::streams).unwrap_or_default();
    let missing = known
        .iter()
        .filter(|spec| spec.kind == StreamKind::Records)
        .find(|spec| subject.streams.iter().all(|stream| stream.name != spec.name));
    match (&subject.stage, missing) {
        (Some(stage), None) => Ok((stage, &subject.streams)),
        (None, _) => Err(Broken::new(
            "no emulated provider is given: implement `Stage` over your emulator and hand it to `Subject::stage`",
        )),
        (_, Some(spec)) => {
            Err(Broken::new(format!("the stream {} is not tried: add it with `Subject::stream`", spec.name)))
        }
    }
}

fn told(stream: &Stream, what: &str, error: &Error) -> Broken {
    Broken::new(format!("{}: {what}: {error}", stream.name))
}

fn ids(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| change.id.as_str().to_owned()).collect()
}

/// Fails unless every record of the truth was seen; with `whole`, each once, as it is, and nothing else.
fn complete(stage: &dyn Stage, stream: &Stream, changes: &[Change], whole: bool, what: &str) -> Result<(), Broken> {
    let truth = stage.truth(stream.name);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    ids(changes).into_iter().for_each(|id| *counts.entry(id).or_default() += 1);
    let name = stream.name;
    if let Some(id) = truth.keys().find(|id| !counts.contains_key(*id)) {
        return Err(Broken::new(format!("{name}: {what}: {id} was passed over ({} of {})", counts.len(), truth.len())));
    }
    if !whole {
        return Ok(());
    }
    if let Some((id, count)) = counts.iter().find(|(_, count)| **count > 1) {
        return Err(Broken::new(format!("{name}: {what}: {id} was given {count} times")));
    }
    if let Some(id) = counts.keys().find(|id| !truth.contains_key(*id)) {
        return Err(Broken::new(format!("{name}: {what}: {id} is not at the provider")));
    }
    for change in changes {
        if let (State::Present(data), Some(wanted)) = (&change.state, truth.get(change.id.as_str())) {
            let found: Value = serde_json::from_slice(data).unwrap_or_default();
            ensure(found == *wanted, || format!("{name}: {what}: {} is {found} and not {wanted}", change.id))?;
        }
    }
    Ok(())
}

/// A full run gives every record once, as it is at the provider, with pages of 1, 2, 7 and as many as it allows.
///
/// # Errors
/// The first record that is missing, doubled or different.
pub async fn every_record_is_read_once(subject: &Subject) -> Checked {
    let (make, streams) = streams(subject)?;
    let mut cases = Cases::default();
    for stream in streams {
        let stage = make();
        ensure(stage.truth(stream.name).len() >= 8, || {
            format!("{}: the stage holds fewer than eight records: a page of seven would not be left", stream.name)
        })?;
        for size in [1, 2, 7, stream.page_size_max] {
            let world = World::new(subject, &*stage, size, Twist::None)?;
            let what = format!("pages of {size}");
            let walked = world.walk(stream.name, None, |_, _| {}).await;
            let walked = walked.map_err(|error| told(stream, &what, &error))?;
            complete(&*stage, stream, &walked.changes, true, &what)?;
            cases.kept();
        }
    }
    Ok(cases)
}

/// A page without records that leads on does not end the run.
///
/// # Errors
/// The first run that ends too early.
pub async fn an_empty_page_ends_nothing(subject: &Subject) -> Checked {
    let (make, streams) = streams(subject)?;
    let mut cases = Cases::default();
    for stream in streams {
        let emptied = match stream.emptied {
            Some(Ok(emptied)) => emptied,
            Some(Err(reason)) => {
                cases.unable(format!("{}: {reason}", stream.name));
                continue;
            }
            None => {
                return Err(Broken::new(format!(
                    "{}: say how a page looks whose records were filtered out: `Stream::emptied`, or `Stream::never_empty`",
                    stream.name
                )));
            }
        };
        let stage = make();
        let world = World::new(subject, &*stage, 2, Twist::Empty(1, emptied))?;
        let walked = world.walk(stream.name, None, |_, _| {}).await;
        let mut walked = walked.map_err(|error| told(stream, "with an empty page", &error))?;
        let hidden = locked(&world.way.hidden).clone();
        let hidden = hidden.ok_or_else(|| Broken::new(format!("{}: there was no second page", stream.name)))?;
        let cursor = walked.places.get(1).and_then(|(cursor, _)| cursor.clone());
        let page = world
            .source()
            .and_then(|source| source.page(&StreamName::new(stream.name), cursor.as_ref(), &hidden, span(&hidden)));
        let page = page.map_err(|error| told(stream, "the hidden page", &error))?;
        walked.changes.extend(page.changes);
        complete(&*stage, stream, &walked.changes, false, "with an empty page")?;
        cases.kept();
    }
    Ok(cases)
}

/// A run that dies after any page is taken up by another process at the page's cursor, and together they give what an
/// uninterrupted run gives.
///
/// # Errors
/// The first page after which something is lost or doubled.
pub async fn a_run_is_taken_up_after_any_page(subject: &Subject) -> Checked {
    let (make, streams) = streams(subject)?;
    let mut cases = Cases::default();
    for stream in streams {
        let stage = make();
        let whole = World::new(subject, &*stage, 3, Twist::None)?.walk(stream.name, None, |_, _| {}).await;
        let whole = whole.map_err(|error| told(stream, "a run", &error))?;
        for (page, (cursor, before)) in whole.places.iter().enumerate().skip(1) {
            // Another process: only the cursor's text is left.
            let cursor = cursor.as_ref().map(|cursor| Cursor::new(cursor.as_str()));
            let world = World::new(subject, &*stage, 3, Twist::None)?;
            let what = format!("taken up after page {page}");
            let rest = world.walk(stream.name, cursor, |_, _| {}).await;
            let rest = rest.map_err(|error| told(stream, &what, &error))?;
            let left = whole.changes.get(*before..).unwrap_or_default();
            ensure(ids(&rest.changes) == ids(left), || {
                format!("{}: {what}: {} records instead of {}", stream.name, rest.changes.len(), left.len())
            })?;
            cases.kept();
        }
        ensure(whole.places.len() > 2, || format!("{}: pages of 3 are one page", stream.name))?;
    }
    Ok(cases)
}

/// A provider that shows the same page for ever ends the run with an error, never as complete and never without end.
///
/// # Errors
/// The first stream that takes it for a list.
pub async fn a_cursor_that_does_not_advance_is_an_error(subject: &Subject) -> Checked {
    let (make, streams) = streams(subject)?;
    let mut cases = Cases::default();
    for stream in streams {
        let stage = make();
        let world = World::new(subject, &*stage, 2, Twist::Stuck)?;
        let walked = world.walk(stream.name, None, |_, _| {}).await;
        let requests = world.way.requests.load(Ordering::SeqCst);
        let kind = walked.map_err(|error| error.kind());
        ensure(matches!(kind, Err(ErrorKind::Decode)), || match kind {
            Ok(walked) => format!(
                "{}: the same page for ever is taken for a whole list of {} records",
                stream.name,
                walked.changes.len()
            ),
            Err(kind) => format!("{}: the same page for ever ends in {kind:?} after {requests} requests", stream.name),
        })?;
        ensure(requests < 100, || format!("{}: it takes {requests} requests to see it", stream.name))?;
        cases.kept();
    }
    Ok(cases)
}

/// A limit that is used up in the middle of a run is waited for, and nothing is lost by it.
///
/// # Errors
/// The first run that fails, comes back too early, or loses a record.
pub async fn a_throttle_in_mid_run_is_waited_for(subject: &Subject) -> Checked {
    let (make, streams) = streams(subject)?;
    let mut cases = Cases::default();
    let wait = Duration::from_secs(5);
    for stream in streams {
        let stage = make();
        let world = World::new(subject, &*stage, 3, Twist::Throttle(1, subject.throttled.clone(), wait))?;
        let begin = tokio::time::Instant::now();
        let walked = world.walk(stream.name, None, |_, _| {}).await;
        let walked = walked.map_err(|error| told(stream, "throttled in mid-run", &error))?;
        ensure(begin.elapsed() >= wait, || format!("{}: came back after {:?}", stream.name, begin.elapsed()))?;
        complete(&*stage, stream, &walked.changes, true, "throttled in mid-run")?;
        cases.kept();
    }
    Ok(cases)
}

/// A record that is deleted between two pages moves no other one out of sight.
///
/// # Errors
/// The first record that is passed over.
pub async fn a_deletion_between_pages_hides_nothing(subject: &Subject) -> Checked {
    let (make, streams) = streams(subject)?;
    let mut cases = Cases::default();
    for stream in streams {
        if let Some(reason) = stream.undeletable {
            cases.unable(format!("{}: {reason}", stream.name));
            continue;
        }
        for which in [0, usize::MAX] {
            let stage = make();
            let world = World::new(subject, &*stage, 2, Twist::None)?;
            let mut deleted = None;
            let walked = world
                .walk(stream.name, None, |page, changes| {
                    // The first page may hold nothing of its own (a list of conversations); the second time round the
                    // record at the cursor goes.
                    if deleted.is_none() && page < 3 {
                        let of = if which == 0 { changes.first() } else { changes.last() };
                        deleted = of.map(|change| stage.delete(stream.name, change.id.as_str()));
                    }
                })
                .await;
            let walked = walked.map_err(|error| told(stream, "a record deleted between pages", &error))?;
            ensure(deleted == Some(true), || {
                format!("{}: the stage deletes nothing: `Stream::keeps_all`?", stream.name)
            })?;
            complete(&*stage, stream, &walked.changes, false, "a record deleted between pages")?;
            cases.kept();
        }
    }
    Ok(cases)
}

/// A cursor the provider has forgotten is told as such, and a run from the beginning gives what is there.
///
/// # Errors
/// The first stream that takes it for another error, or for an empty page.
pub async fn an_expired_cursor_begins_anew(subject: &Subject) -> Checked {
    let (make, streams) = streams(subject)?;
    let mut cases = Cases::default();
    for stream in streams {
        let expired = match &stream.expired {
            Some(Ok(expired)) => expired.clone(),
            Some(Err(reason)) => {
                cases.unable(format!("{}: {reason}", stream.name));
                continue;
            }
            None => {
                return Err(Broken::new(format!(
                    "{}: give the answer to a cursor that is too old: `Stream::expired`, or `Stream::never_expires`",
                    stream.name
                )));
            }
        };
        let stage = make();
        let whole = World::new(subject, &*stage, 3, Twist::None)?.walk(stream.name, None, |_, _| {}).await;
        let whole = whole.map_err(|error| told(stream, "a run", &error))?;
        let resume = whole.resume.or_else(|| whole.places.last().and_then(|(cursor, _)| cursor.clone()));
        let world = World::new(subject, &*stage, 3, Twist::Answer(expired))?;
        let kind = world.walk(stream.name, resume, |_, _| {}).await.map(|_| ()).map_err(|error| error.kind());
        ensure(kind == Err(ErrorKind::CursorExpired), || {
            format!("{}: a cursor that is too old ends in {kind:?} and not in `CursorExpired`", stream.name)
        })?;
        let again = World::new(subject, &*stage, 3, Twist::None)?.walk(stream.name, None, |_, _| {}).await;
        let again = again.map_err(|error| told(stream, "a run from the beginning", &error))?;
        complete(&*stage, stream, &again.changes, true, "from the beginning")?;
        cases.kept();
    }
    Ok(cases)
}

/// Once the provider is quiet, a copy kept by deliveries, one kept by incremental runs and one made anew are the
/// provider's data.
///
/// # Errors
/// The first record in which one of them differs.
pub async fn full_incremental_and_events_agree(subject: &Subject) -> Checked {
    let (make, streams) = streams(subject)?;
    let mut cases = Cases::default();
    let stage = make();
    let world = World::new(subject, &*stage, 3, Twist::None)?;
    let source = world.provider.source().map(Source::streams).unwrap_or_default();
    let feeds: Vec<_> = source.iter().filter(|spec| spec.kind == StreamKind::Events).map(|spec| spec.name).collect();
    let (mut begun, mut since) = (Copy::new(), Resumes::new());
    let failed = |what: &str, error: &Error| Broken::new(format!("{what}: {error}"));
    for feed in &feeds {
        let first = world.walk(feed, None, |_, _| {}).await.map_err(|error| failed(feed, &error))?;
        since.insert((*feed).to_owned(), first.resume);
    }
    for stream in streams {
        world.increment(&mut begun, &mut since, stream.name).await.map_err(|error| told(stream, "a run", &error))?;
    }
    drop(stage.deliveries().await);
    let (mut by_events, mut by_runs) = (begun.clone(), begun);
    let mut runs = since.clone();
    for step in 0..CHANGES {
        for stream in streams {
            tokio::time::advance(Duration::from_secs(2)).await;
            stage.change(stream.name, step);
        }
        let events = posted(&world, &*stage).await?;
        let applied = world.apply(&mut by_events, &mut since, &events).await;
        applied.map_err(|error| failed("events", &error))?;
    }
    tokio::time::advance(Duration::from_secs(120)).await;
    for feed in &feeds {
        let from = runs.get(*feed).cloned().flatten();
        let missed = world.walk(feed, from, |_, _| {}).await.map_err(|error| failed(feed, &error))?;
        let applied = world.apply(&mut by_runs, &mut runs, &missed.events).await;
        applied.map_err(|error| failed(feed, &error))?;
    }
    for stream in streams {
        if stream.no_increment.is_none() && feeds.is_empty() {
            let more = world.increment(&mut by_runs, &mut runs, stream.name).await;
            more.map_err(|error| told(stream, "an incremental run", &error))?;
        }
        let mut anew = Copy::new();
        let full = world.walk(stream.name, None, |_, _| {}).await;
        let full = full.map_err(|error| told(stream, "a run from the beginning", &error))?;
        world.keep(&mut anew, full.changes).await.map_err(|error| told(stream, "a fetch", &error))?;
        equal(&*stage, stream, &anew, None, "made anew")?;
        for (copy, excuse, what) in [
            (&by_events, stream.no_events, "kept by deliveries"),
            (&by_runs, stream.no_increment, "kept by incremental runs"),
        ] {
            match excuse {
                Some(reason) => cases.unable(format!("{} {what}: {reason}", stream.name)),
                None => equal(&*stage, stream, copy, stream.untold, what)?,
            }
        }
        if let Some(reason) = stream.untold {
            cases.unable(format!("deletions of {}: {reason}", stream.name));
        }
        cases.kept();
    }
    Ok(cases)
}

/// Compares a copy with the provider; with an excuse, what was deleted may still be there.
fn equal(
    stage: &dyn Stage,
    stream: &Stream,
    copy: &Copy,
    untold: Option<&'static str>,
    what: &str,
) -> Result<(), Broken> {
    let truth = stage.truth(stream.name);
    let of_stream = copy.iter().filter(|((of, _), _)| of == stream.name);
    let copy: BTreeMap<&String, &Bytes> = of_stream.map(|((_, id), data)| (id, data)).collect();
    let name = stream.name;
    for (id, wanted) in &truth {
        let Some(data) = copy.get(id) else {
            return Err(Broken::new(format!("{name}: the copy {what} lacks {id}")));
        };
        let found: Value = serde_json::from_slice(data).unwrap_or_default();
        ensure(found == *wanted, || format!("{name}: in the copy {what} {id} is {found} and not {wanted}"))?;
    }
    let kept = copy.keys().find(|id| !truth.contains_key(**id));
    ensure(untold.is_some() || kept.is_none(), || {
        format!("{name}: the copy {what} still holds {}", kept.map_or("", |id| id.as_str()))
    })
}

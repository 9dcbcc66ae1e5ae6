//! Acme with one defect at a time: what each check must find.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use palisade_core::call::Bucket;
use palisade_core::client::{Classifier, Profile, Repeat, Verdict};
use palisade_core::sync::{Change, Cursor, Missing, Next, Page, Site, Source, Span, State, StreamSpec, Told};
use palisade_core::webhook::{Event, Parsed, RawDelivery, Refusal, Verified, Webhook};
use palisade_core::{
    Call, Error, ErrorKind, Manifest, Operation, Provider, RecordId, Replay, Result, Secret, StreamName, Timestamp,
    Transport,
};
use palisade_testkit::conformance::{Rate, Sample, Subject};
use serde_json::Value;

use super::subject::{self, PARCEL};
use crate::acme::client::{Acme, CREATE, LIST, Parcel, RETRIEVE, request};
use crate::acme::error::AcmeClassifier;
use crate::acme::sync::AcmeSource;
use crate::acme::webhook::AcmeWebhook;
use crate::acme::{AcmeProvider, MANIFEST};

/// One thing that is wrong. The name says what the adapter does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    NamesNoCap,
    NamesAnOperationTwice,
    SendsAnotherBody,
    SendsToAnotherPath,
    UsesOneKeyForAll,
    RepeatsByItself,
    TakesAThrottleForFinal,
    ComesBackOnItsOwnTime,
    ReadsForbiddenAsMissing,
    KeepsNoCode,
    BelievesAnyAnswer,
    CallsALostWriteRejected,
    RefusesUnknownFields,
    TrustsAnotherHost,
    PanicsOnOddAnswers,
    TakesEveryDelivery,
    ComparesWithoutCase,
    TrimsTheBody,
    TakesTheFirstOfTwoHeaders,
    IsASecondLate,
    TriesOneSecret,
    KeysByTheTime,
    KeysAllAlike,
    MakesAnEventOfAPing,
    PanicsOnOddBodies,
    DropsTheLastOfAPage,
    GivesARecordTwice,
    EndsAtAnEmptyPage,
    KeepsItsPlaceInMemory,
    CountsInItsCursor,
    TakesTheSamePageForTheEnd,
    PagesByOffset,
    ReadsAnOldCursorAsInvalid,
    ForgetsDeletions,
    BeginsTheNextRunTooLate,
    NamesTheMissedOtherwise,
    ListensForAnotherType,
    MakesNothingOfTheMissed,
    SendsTooFast,
    SendsTooSlowly,
    TellsTheBody,
}

/// Every defect with the check that must find it.
pub(crate) const DEFECTS: &[(Defect, &str)] = &[
    (Defect::NamesNoCap, "operations_are_described"),
    (Defect::NamesAnOperationTwice, "operations_are_described"),
    (Defect::SendsAnotherBody, "requests_are_those_of_the_official_sdk"),
    (Defect::SendsToAnotherPath, "requests_are_those_of_the_official_sdk"),
    (Defect::UsesOneKeyForAll, "every_attempt_carries_the_same_key"),
    (Defect::RepeatsByItself, "every_attempt_carries_the_same_key"),
    (Defect::TakesAThrottleForFinal, "retry_after_is_kept_in_both_forms"),
    (Defect::ComesBackOnItsOwnTime, "retry_after_is_kept_in_both_forms"),
    (Defect::ReadsForbiddenAsMissing, "each_answer_has_its_meaning"),
    (Defect::KeepsNoCode, "each_answer_has_its_meaning"),
    (Defect::BelievesAnyAnswer, "a_broken_exchange_is_told_for_what_it_is"),
    (Defect::CallsALostWriteRejected, "a_broken_exchange_is_told_for_what_it_is"),
    (Defect::RefusesUnknownFields, "unknown_fields_are_tolerated"),
    (Defect::TrustsAnotherHost, "nothing_leaves_for_another_host"),
    (Defect::PanicsOnOddAnswers, "arbitrary_answers_never_panic"),
    (Defect::TakesEveryDelivery, "every_recorded_delivery_gets_its_verdict"),
    (Defect::ComparesWithoutCase, "every_changed_byte_is_refused"),
    (Defect::TrimsTheBody, "every_changed_byte_is_refused"),
    (Defect::TakesTheFirstOfTwoHeaders, "every_header_is_needed_once"),
    (Defect::IsASecondLate, "the_window_is_kept_to_the_second"),
    (Defect::TriesOneSecret, "two_secrets_live_at_once"),
    (Defect::KeysByTheTime, "a_repeated_delivery_is_the_same_event"),
    (Defect::KeysAllAlike, "a_repeated_delivery_is_the_same_event"),
    (Defect::MakesAnEventOfAPing, "a_handshake_is_answered_and_makes_no_event"),
    (Defect::PanicsOnOddBodies, "arbitrary_deliveries_never_panic"),
    (Defect::DropsTheLastOfAPage, "every_record_is_read_once"),
    (Defect::GivesARecordTwice, "every_record_is_read_once"),
    (Defect::EndsAtAnEmptyPage, "an_empty_page_ends_nothing"),
    (Defect::KeepsItsPlaceInMemory, "a_run_is_taken_up_after_any_page"),
    (Defect::CountsInItsCursor, "a_cursor_that_does_not_advance_is_an_error"),
    (Defect::TakesTheSamePageForTheEnd, "a_cursor_that_does_not_advance_is_an_error"),
    (Defect::TakesAThrottleForFinal, "a_throttle_in_mid_run_is_waited_for"),
    (Defect::PagesByOffset, "a_deletion_between_pages_hides_nothing"),
    (Defect::ReadsAnOldCursorAsInvalid, "an_expired_cursor_begins_anew"),
    (Defect::ForgetsDeletions, "full_incremental_and_events_agree"),
    (Defect::BeginsTheNextRunTooLate, "full_incremental_and_events_agree"),
    (Defect::NamesTheMissedOtherwise, "a_missed_record_makes_its_webhooks_event"),
    (Defect::ListensForAnotherType, "a_missed_record_makes_its_webhooks_event"),
    (Defect::MakesNothingOfTheMissed, "a_missed_record_makes_its_webhooks_event"),
    (Defect::SendsTooFast, "a_burst_keeps_the_limit_and_uses_it"),
    (Defect::SendsTooSlowly, "a_burst_keeps_the_limit_and_uses_it"),
    (Defect::TellsTheBody, "no_secret_is_printed"),
];

/// Acme's subject with a defect.
pub(crate) fn broken(defect: Defect) -> Subject {
    let subject = subject::of(move || Broken::with(defect)).call(calling(defect)).rate(rated(defect));
    match defect {
        Defect::NamesNoCap => subject.operations([&NO_CAP]),
        Defect::NamesAnOperationTwice => subject.operations([&RETRIEVE]),
        _ => subject,
    }
}

const ANY: Operation = Operation {
    provider: "acme",
    name: "parcels.any",
    url_template: "/v1/parcels",
    replay: Replay::Safe,
    bucket: &FAST,
    also: &[],
    cost: 1,
    attempt_timeout: Duration::from_secs(30),
    overall_timeout: Duration::from_secs(90),
    body_bytes_max: 1024,
};
static NO_CAP: Operation = Operation { body_bytes_max: 0, ..ANY };
static FAST: Bucket = Bucket { name: "fast", units: 120, per: Duration::from_secs(60), burst: 20 };
static SLOW: Bucket = Bucket { name: "slow", units: 30, per: Duration::from_secs(60), burst: 3 };
static TOO_FAST: Operation = ANY;
static TOO_SLOW: Operation = Operation { bucket: &SLOW, ..ANY };

/// The call that creates a parcel, as an adapter with this defect makes it.
fn calling(defect: Defect) -> Sample {
    match defect {
        Defect::SendsAnotherBody => with(|acme, _| async move { acme.create("street 1").await }),
        Defect::SendsToAnotherPath => with(|_, transport| async move {
            let request =
                request(MANIFEST.base_url, &CREATE, Method::POST, "/v2/parcels", r#"{"to":"Street 1"}"#.into())?;
            sent(&transport, request).await
        }),
        Defect::UsesOneKeyForAll => with(|_, transport| async move {
            let mut request =
                request(MANIFEST.base_url, &CREATE, Method::POST, "/v1/parcels", r#"{"to":"Street 1"}"#.into())?;
            let call = request.extensions_mut().get_mut::<Call>().expect("a call");
            call.idempotency_key = Some("always the same".into());
            sent(&transport, request).await
        }),
        // A loop of its own around the pipeline's: each turn is a new call with a new key.
        Defect::RepeatsByItself => with(|acme, transport| async move {
            let mut request =
                request(MANIFEST.base_url, &CREATE, Method::POST, "/v1/parcels", r#"{"to":"Street 1"}"#.into())?;
            let call = request.extensions_mut().get_mut::<Call>().expect("a call");
            call.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(1));
            match sent(&transport, request).await {
                Ok(parcel) => Ok(parcel),
                Err(_) => acme.create("Street 1").await,
            }
        }),
        Defect::BelievesAnyAnswer => with(|acme, _| async move {
            let none = |error: Error| match error.kind() {
                ErrorKind::Decode => Ok(Parcel { id: String::new(), to: String::new() }),
                _ => Err(error),
            };
            acme.create("Street 1").await.or_else(none)
        }),
        Defect::CallsALostWriteRejected => with(|acme, _| async move {
            acme.create("Street 1").await.map_err(|error| error.with_outcome(palisade_core::Outcome::Rejected))
        }),
        Defect::RefusesUnknownFields => with(|_, transport| async move {
            let request =
                request(MANIFEST.base_url, &CREATE, Method::POST, "/v1/parcels", r#"{"to":"Street 1"}"#.into())?;
            let response = transport.send(request).await?;
            let value: Value = serde_json::from_slice(response.body()).unwrap_or_default();
            let known = value.as_object().is_some_and(|object| object.len() == 3);
            if known { parcel(&response) } else { Err(Error::new(ErrorKind::Decode, "an unknown field")) }
        }),
        _ => subject::create(),
    }
}

fn with<F>(run: impl Fn(Acme, Arc<dyn Transport>) -> F + Send + Sync + 'static) -> Sample
where
    F: Future<Output = Result<Parcel>> + Send + 'static,
{
    let sound = subject::create();
    sound.calling(move |transport: Arc<dyn Transport>| run(Acme::new(Arc::clone(&transport)), transport))
}

async fn sent(transport: &Arc<dyn Transport>, request: Request<Bytes>) -> Result<Parcel> {
    parcel(&transport.send(request).await?)
}

fn parcel(response: &Response<Bytes>) -> Result<Parcel> {
    let value: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    match (value["id"].as_str(), value["to"].as_str()) {
        (Some(id), Some(to)) => Ok(Parcel { id: id.to_owned(), to: to.to_owned() }),
        _ => {
            Err(Error::new(ErrorKind::Decode, "the answer is no parcel")
                .with_outcome(palisade_core::Outcome::Processed))
        }
    }
}

fn rated(defect: Defect) -> Rate {
    let operation = match defect {
        Defect::SendsTooFast => &TOO_FAST,
        Defect::SendsTooSlowly => &TOO_SLOW,
        _ => return subject::rate(),
    };
    Rate::new("an account", 60, Duration::from_secs(60), move |transport: Arc<dyn Transport>, _| async move {
        let request = request(MANIFEST.base_url, operation, Method::GET, "/v1/parcels/p001", String::new())?;
        sent(&transport, request).await.map(drop)
    })
    .answered(200, PARCEL)
}

/// The sound adapter with a defect put before it.
#[derive(Debug)]
struct Broken {
    defect: Defect,
    hook: BrokenHook,
    source: BrokenSource,
}

impl Broken {
    fn with(defect: Defect) -> Self {
        Self {
            defect,
            hook: BrokenHook(defect),
            source: BrokenSource { defect, places: Mutex::default(), count: AtomicU64::new(0) },
        }
    }
}

impl Provider for Broken {
    fn manifest(&self) -> &'static Manifest {
        AcmeProvider.manifest()
    }

    fn profile(&self) -> Profile {
        let mut profile = AcmeProvider.profile();
        if self.defect == Defect::TrustsAnotherHost {
            profile.hosts.push("evil.example.test".to_owned());
        }
        profile.classifier = Arc::new(BrokenClassifier(self.defect));
        profile
    }

    fn webhook(&self) -> Option<&dyn Webhook> {
        Some(&self.hook)
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(&self.source)
    }
}

struct BrokenClassifier(Defect);

impl Classifier for BrokenClassifier {
    fn classify(&self, operation: &'static Operation, response: &Response<Bytes>) -> Verdict {
        let status = response.status().as_u16();
        let verdict = AcmeClassifier.classify(operation, response);
        let failed = |kind: ErrorKind, repeat: Repeat| {
            let error = Error::new(kind, "acme refused the call").with_status(status);
            Verdict::Failed { error: error.with_outcome(palisade_core::Outcome::Rejected), repeat }
        };
        match (self.0, status, verdict) {
            (Defect::TakesAThrottleForFinal, 429, _) => failed(ErrorKind::Throttled, Repeat::Never),
            (Defect::ComesBackOnItsOwnTime, 429, Verdict::Throttled { error, .. }) => Verdict::Throttled {
                error,
                after: Some(Duration::from_secs(40)),
                scope: palisade_core::call::Scope::Account,
            },
            (Defect::ReadsForbiddenAsMissing, 403, _) => failed(ErrorKind::NotFound, Repeat::Never),
            (Defect::KeepsNoCode, 400, _) => failed(ErrorKind::Invalid, Repeat::Never),
            (Defect::ReadsAnOldCursorAsInvalid, 410, _) => failed(ErrorKind::Invalid, Repeat::Never),
            (Defect::BelievesAnyAnswer, 200..300, _) => Verdict::Success,
            (Defect::PanicsOnOddAnswers, _, verdict) => {
                assert!(std::str::from_utf8(response.body()).is_ok(), "an answer is text");
                verdict
            }
            (Defect::TellsTheBody, 400.., Verdict::Failed { error, repeat }) => {
                let text = String::from_utf8_lossy(response.body()).into_owned();
                let told = Error::new(error.kind(), text).with_status(status).with_outcome(error.outcome());
                Verdict::Failed { error: told, repeat }
            }
            (_, _, verdict) => verdict,
        }
    }
}

#[derive(Debug)]
struct BrokenHook(Defect);

impl Webhook for BrokenHook {
    fn verify(&self, delivery: &RawDelivery, secrets: &[Secret], now: Timestamp) -> std::result::Result<(), Refusal> {
        let mut raw = delivery.clone();
        let header = raw.headers.get("acme-signature").cloned();
        let (mut secrets, mut now) = (secrets, now);
        match self.0 {
            Defect::TakesEveryDelivery => return Ok(()),
            Defect::ComparesWithoutCase => {
                let lower = header.map(|value| value.as_bytes().to_ascii_lowercase());
                if let Some(lower) = lower.and_then(|value| HeaderValue::from_bytes(&value).ok()) {
                    raw.headers.insert("acme-signature", lower);
                }
            }
            // Deliveries are signed with what stands at their end; a proxy that adds a line break is "tolerated".
            Defect::TrimsTheBody => {
                let text = [raw.body.trim_ascii_end(), b" "].concat();
                raw.body = text.into();
            }
            Defect::TakesTheFirstOfTwoHeaders => {
                raw.headers.remove("acme-signature");
                header.into_iter().for_each(|value| drop(raw.headers.insert("acme-signature", value)));
            }
            Defect::IsASecondLate => now = Timestamp(now.millis() - 1_000),
            Defect::TriesOneSecret => secrets = &secrets[..1],
            _ => {}
        }
        AcmeWebhook.verify(&raw, secrets, now)
    }

    fn events(&self, verified: &Verified) -> Result<Parsed> {
        if self.0 == Defect::PanicsOnOddBodies {
            assert!(std::str::from_utf8(verified.body()).is_ok(), "a body is text");
        }
        let mut parsed = AcmeWebhook.events(verified)?;
        match self.0 {
            Defect::KeysByTheTime => {
                let at = verified.at().millis();
                parsed.events.iter_mut().for_each(|event| event.id = format!("{}:{at}", event.id).into());
            }
            Defect::KeysAllAlike => parsed.events.iter_mut().for_each(|event| event.id = "event".into()),
            Defect::MakesAnEventOfAPing if parsed.events.is_empty() => parsed.events.push(Event {
                id: "ping".into(),
                kind: "ping".to_owned(),
                account: None,
                created: None,
                ordering_key: None,
                payload: verified.body().clone(),
            }),
            _ => {}
        }
        Ok(parsed)
    }
}

#[derive(Debug)]
struct BrokenSource {
    defect: Defect,
    /// Cursors by number, where they are kept in memory.
    places: Mutex<Vec<Cursor>>,
    count: AtomicU64,
}

impl BrokenSource {
    /// Gives the sound adapter's cursor for one of ours.
    fn sound(&self, cursor: Option<&Cursor>) -> Result<Option<Cursor>> {
        let Some(cursor) = cursor else { return Ok(None) };
        match (self.defect, cursor.as_str().split_once('#')) {
            (Defect::KeepsItsPlaceInMemory, Some((_, number))) => {
                let place = number.parse::<usize>().ok().and_then(|at| self.places.lock().unwrap().get(at).cloned());
                place.map(Some).ok_or_else(|| Error::new(ErrorKind::Config, "the place is not known here"))
            }
            (_, Some((sound, _))) => Ok(Some(Cursor::new(sound))),
            (_, None) => Ok(Some(cursor.clone())),
        }
    }
}

impl Source for BrokenSource {
    fn streams(&self) -> &'static [StreamSpec] {
        AcmeSource.streams()
    }

    fn request(&self, site: &Site, stream: &StreamName, cursor: Option<&Cursor>) -> Result<Request<Bytes>> {
        if let (Defect::PagesByOffset, Some(cursor)) = (self.defect, cursor) {
            let offset = cursor.as_str().split_once('#').map_or("0", |(_, offset)| offset);
            let path = format!("/v1/parcels?limit={}&offset={offset}", site.page_size.clamp(1, 50));
            return request(&site.base_url, &LIST, Method::GET, &path, String::new());
        }
        AcmeSource.request(site, stream, self.sound(cursor)?.as_ref())
    }

    fn page(
        &self,
        stream: &StreamName,
        cursor: Option<&Cursor>,
        response: &Response<Bytes>,
        span: Span,
    ) -> Result<Page> {
        let sound = self.sound(cursor)?;
        let mut page = AcmeSource.page(stream, sound.as_ref(), response, span)?;
        match self.defect {
            Defect::DropsTheLastOfAPage if page.changes.len() == 7 => drop(page.changes.pop()),
            Defect::GivesARecordTwice => page.changes.extend(page.changes.last().cloned()),
            Defect::EndsAtAnEmptyPage if page.changes.is_empty() => page.next = Next::Done { resume: None },
            Defect::TakesTheSamePageForTheEnd if Some(&page.next) == sound.clone().map(Next::More).as_ref() => {
                page.next = Next::Done { resume: None };
            }
            Defect::BeginsTheNextRunTooLate => {
                if let Next::Done { resume } = &mut page.next {
                    *resume = Some(Cursor::new("since:1000000"));
                }
            }
            _ => {}
        }
        if let Next::More(next) = &mut page.next {
            match self.defect {
                Defect::KeepsItsPlaceInMemory => {
                    let mut places = self.places.lock().unwrap();
                    places.push(next.clone());
                    *next = Cursor::new(format!("place#{}", places.len() - 1));
                }
                Defect::CountsInItsCursor => {
                    *next = Cursor::new(format!("{}#{}", next.as_str(), self.count.fetch_add(1, Ordering::SeqCst)));
                }
                Defect::PagesByOffset => {
                    let read = cursor.and_then(|cursor| cursor.as_str().split_once('#')?.1.parse::<usize>().ok());
                    *next = Cursor::new(format!("since:0#{}", read.unwrap_or(0) + page.changes.len()));
                }
                _ => {}
            }
        }
        Ok(page)
    }

    fn fetch(&self, site: &Site, stream: &StreamName, id: &RecordId) -> Result<Request<Bytes>> {
        AcmeSource.fetch(site, stream, id)
    }

    fn fetched(&self, stream: &StreamName, id: &RecordId, response: &Response<Bytes>, span: Span) -> Result<Change> {
        AcmeSource.fetched(stream, id, response, span)
    }

    fn told(&self, change: &Change, place: Option<&Bytes>) -> Option<Told> {
        let told = AcmeSource.told(change, place)?;
        Some(if self.defect == Defect::ListensForAnotherType {
            Told { by: "parcel.moved".into(), ..told }
        } else {
            told
        })
    }

    fn event_of(&self, site: &Site, missing: &Missing<'_>) -> Option<Event> {
        let event = AcmeSource.event_of(site, missing)?;
        match self.defect {
            Defect::NamesTheMissedOtherwise => Some(Event { id: format!("healed:{}", event.id).into(), ..event }),
            Defect::MakesNothingOfTheMissed => None,
            _ => Some(event),
        }
    }

    fn concerns(&self, kind: &str) -> bool {
        AcmeSource.concerns(kind)
    }

    fn apply(&self, event: &Event) -> Result<Vec<Change>> {
        let mut changes = AcmeSource.apply(event)?;
        if self.defect == Defect::ForgetsDeletions {
            changes.retain(|change| change.state != State::Deleted);
        }
        Ok(changes)
    }
}

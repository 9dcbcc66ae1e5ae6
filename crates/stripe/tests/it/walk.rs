//! The walk over `/v1/events`, against a model of the list that makes events visible late and forgets old ones.

use std::collections::HashSet;

use palisade_core::random::{Random, SeededRandom};
use palisade_core::sync::{Cursor, Next, Source, Span};
use palisade_core::{ErrorKind, Timestamp};
use palisade_stripe::StripeSource;
use palisade_stripe::sync::cursor::OVERLAP_SECONDS;

use super::fake::pairs;
use super::sync::{ok, site};

const DAY: i64 = 86_400;
const KEPT: i64 = 30 * DAY;
/// How late events appear; the overlap must not be shorter.
const LAG_MAX: u64 = 60;

/// An account's events: `(created, number, visible from)`.
#[derive(Default)]
struct Model {
    events: Vec<(i64, u64, i64)>,
    now: i64,
}

impl Model {
    fn add(&mut self, lag: i64) -> u64 {
        let number = self.events.len() as u64;
        self.events.push((self.now, number, self.now + lag));
        number
    }

    /// Answers the request as Stripe does: newest first, `has_more` in the direction of the page.
    fn answer(&self, query: &str) -> Result<String, ErrorKind> {
        let params = pairs(query);
        let get = |name: &str| params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let since: i64 = get("created[gte]").map_or(i64::MIN, |text| text.parse().unwrap());
        let mut visible: Vec<_> = self
            .events
            .iter()
            .filter(|(created, _, visible)| *visible <= self.now && *created > self.now - KEPT)
            .map(|(created, number, _)| (*created, *number))
            .collect();
        visible.sort_unstable();
        let place = |id: &str| {
            let number: u64 = id.strip_prefix("evt_").unwrap().parse().unwrap();
            visible.iter().find(|(_, n)| *n == number).copied().ok_or(ErrorKind::CursorExpired)
        };
        let newer = get("ending_before").map(place).transpose()?;
        let older = get("starting_after").map(place).transpose()?;
        let limit: usize = get("limit").unwrap().parse().unwrap();
        let mut rows: Vec<_> = visible
            .iter()
            .filter(|row| row.0 >= since && newer.is_none_or(|at| **row > at) && older.is_none_or(|at| **row < at))
            .collect();
        let more = rows.len() > limit;
        if newer.is_some() {
            rows.truncate(limit);
        } else {
            rows.drain(..rows.len().saturating_sub(limit));
        }
        let data: Vec<_> = rows
            .iter()
            .rev()
            .map(|(created, number)| format!(r#"{{"id":"evt_{number}","type":"customer.updated","created":{created},"data":{{"object":{{"id":"cus_1","object":"customer"}}}}}}"#))
            .collect();
        Ok(format!(r#"{{"data":[{}],"has_more":{more}}}"#, data.join(",")))
    }

    /// Runs the adapter from `cursor` to the end; gives the numbers shown, the pages read and where to resume.
    fn run(&self, cursor: Option<Cursor>, page_size: u32) -> Result<(Vec<u64>, usize, Cursor), ErrorKind> {
        let (source, mut site) = (StripeSource::new(), site());
        site.page_size = page_size;
        let mut cursor = cursor;
        let mut shown = Vec::new();
        for pages in 1..10_000 {
            let request = source.request(&site, &"events".into(), cursor.as_ref()).unwrap();
            let body = self.answer(request.uri().query().unwrap())?;
            let span = Span::second(Timestamp::from_seconds(self.now));
            let page = source.page(&"events".into(), cursor.as_ref(), &ok(body), span).map_err(|e| e.kind())?;
            shown.extend(page.events.iter().map(|event| event.id.as_str()[4..].parse::<u64>().unwrap()));
            match page.next {
                Next::More(next) => {
                    assert_ne!(Some(&next), cursor.as_ref(), "a run must move");
                    cursor = Some(next);
                }
                Next::Done { resume } => return Ok((shown, pages, resume.expect("the feed always resumes"))),
            }
        }
        panic!("the run does not end");
    }
}

fn created(model: &Model, shown: &[u64]) -> Vec<i64> {
    shown.iter().map(|number| model.events[*number as usize].0).collect()
}

/// Fails when the overlap is zero (late events are lost), when a run resumes behind unread events, or when pages are
/// not reversed.
#[test]
fn every_event_is_shown_whatever_appears_late() {
    for seed in 0..300 {
        let random = SeededRandom::new(seed);
        let pick = |below: u64| random.bits() % below;
        let mut model = Model { now: 1_767_000_000, ..Model::default() };
        for _ in 0..pick(4) {
            model.add(0);
            model.now += pick(90) as i64;
        }
        let (none, _, mut cursor) = model.run(None, 5).unwrap();
        assert!(none.is_empty(), "the beginning is from now on");
        let begin = model.now;
        let mut seen = HashSet::new();
        for _ in 0..12 {
            for _ in 0..pick(if pick(5) == 0 { 60 } else { 6 }) {
                model.add(pick(LAG_MAX) as i64);
                model.now += if pick(3) == 0 { 0 } else { pick(40) as i64 };
            }
            model.now += [1, 900, DAY, 21 * DAY][pick(4) as usize];
            let (shown, _, resume) = model.run(Some(cursor.clone()), 1 + pick(7) as u32).unwrap();
            let times = created(&model, &shown);
            assert!(times.is_sorted(), "seed {seed}: oldest first: {times:?}");
            assert_eq!(shown.iter().collect::<HashSet<_>>().len(), shown.len(), "seed {seed}: a run repeats nothing");
            seen.extend(shown);
            cursor = resume;
        }
        model.now += 2 * OVERLAP_SECONDS;
        seen.extend(model.run(Some(cursor), 5).unwrap().0);
        for (created, number, _) in &model.events {
            assert!(
                *created <= begin || seen.contains(number),
                "seed {seed}: event {number} of {created} was lost; repeat: cargo test -p palisade-stripe every_event_is_shown"
            );
        }
    }
}

/// Fails when the resume position stands still under steady traffic: every run would read more.
#[test]
fn the_resume_position_advances_under_any_traffic() {
    let mut model = Model { now: 1_767_000_000, ..Model::default() };
    let mut cursor = model.run(None, 100).unwrap().2;
    let mut last = 0;
    for _ in 0..50 {
        for _ in 0..300 {
            model.add(0);
            if model.events.len().is_multiple_of(10) {
                model.now += 1;
            }
        }
        let (shown, pages, resume) = model.run(Some(cursor), 100).unwrap();
        assert!(shown.len() <= 300 + 10 * (OVERLAP_SECONDS as usize + 30), "{} events in one run", shown.len());
        assert!(pages <= 25, "{pages} pages");
        assert!(*shown.last().unwrap() > last);
        last = *shown.last().unwrap();
        cursor = resume;
    }
}

#[test]
fn a_quiet_account_needs_one_request_a_run_and_never_expires() {
    let mut model = Model { now: 1_767_000_000, ..Model::default() };
    model.add(0);
    model.now += 3_600;
    let mut cursor = model.run(None, 100).unwrap().2;
    assert_eq!(cursor, Cursor::new("after:evt_0@1767000000"));
    for _ in 0..100 {
        model.now += DAY;
        let (shown, pages, resume) = model.run(Some(cursor), 100).unwrap();
        assert_eq!((shown.len(), pages), (0, 1));
        cursor = resume;
    }
    let number = model.add(0);
    assert_eq!(model.run(Some(cursor), 100).unwrap().0, [number]);
}

/// Fails when a time position older than Stripe's memory is trusted: what is gone would go unnoticed.
#[test]
fn a_position_older_than_30_days_says_so() {
    let mut model = Model { now: 1_767_000_000, ..Model::default() };
    let by_time = model.run(None, 100).unwrap().2;
    assert!(by_time.as_str().starts_with("since:"), "{by_time:?}");
    model.add(0);
    model.now += 3_600;
    let by_event = model.run(Some(by_time.clone()), 100).unwrap().2;
    assert!(by_event.as_str().starts_with("after:"), "{by_event:?}");
    model.now += 31 * DAY;
    model.add(0);
    assert_eq!(model.run(Some(by_time), 100).unwrap_err(), ErrorKind::CursorExpired);
    assert_eq!(model.run(Some(by_event), 100).unwrap_err(), ErrorKind::CursorExpired, "as the classifier reads it");
}

#[test]
fn cursors_that_are_not_ours_are_refused() {
    let source = StripeSource::new();
    for text in [
        "",
        "evt_1",
        "after:",
        "after:evt_1",
        "after:@1",
        "after:evt_1@x",
        "since:",
        "since:x",
        "walk:evt_1",
        "walk::since:1",
        "walk:evt_1:x",
        "dive:1:",
        "dive:x:evt_1",
        "after:a b@1",
        "dive:1:a&b",
    ] {
        let request = source.request(&site(), &"events".into(), Some(&Cursor::new(text)));
        assert_eq!(request.unwrap_err().kind(), ErrorKind::Config, "{text}");
    }
    let huge = Cursor::new(format!("since:{}", i64::MIN / 1_000));
    let answer = ok(r#"{"data":[],"has_more":false}"#);
    let span = Span { earliest: i64::MIN, latest: i64::MAX };
    let ancient = source.page(&"events".into(), Some(&huge), &answer, span);
    assert!(ancient.is_ok(), "extreme numbers do not overflow: {ancient:?}");
    let span = Span { earliest: i64::MAX, latest: i64::MAX };
    let ancient = source.page(&"events".into(), Some(&huge), &answer, span);
    assert_eq!(ancient.unwrap_err().kind(), ErrorKind::CursorExpired);
}

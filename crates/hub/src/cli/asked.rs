//! Arguments that many commands take, each said once.

use std::fmt;

use clap::Args;
use clap::builder::RangedI64ValueParser;
use palisade_core::Timestamp;
use palisade_core::schedule::read_duration;
use palisade_core::store::{EventState, ReplayFilter};

use super::Failure;
use super::place::Place;
use super::say;
use crate::routes::inbox::{TYPE_HOW, is_type};
use crate::time::parse_rfc3339;

/// Rows of a list when nothing is said.
const LIMIT_DEFAULT: u32 = 50;
/// The most rows of a list.
const LIMIT_MAX: i64 = 1_000;

/// Where the configuration is, and for whom the answer is written.
#[derive(Debug, Args)]
pub(super) struct Ask {
    #[command(flatten)]
    pub(super) place: Place,
    /// Writes one JSON document on one line, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// A page of a list whose entries are numbered, newest first.
#[derive(Debug, Args)]
pub(super) struct Page {
    /// Those before this number, where the page before ended.
    #[arg(long, value_name = "NUMBER")]
    pub(super) before: Option<i64>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT, value_parser = limit())]
    pub(super) limit: u32,
    #[command(flatten)]
    pub(super) ask: Ask,
}

/// A page of a list by id.
#[derive(Debug, Args)]
pub(super) struct PageById {
    /// Those after this id, where the page before ended.
    #[arg(long, value_name = "ID")]
    pub(super) after: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT, value_parser = limit())]
    pub(super) limit: u32,
    #[command(flatten)]
    pub(super) ask: Ask,
}

/// One thing that has a number.
#[derive(Debug, Args)]
pub(super) struct Numbered {
    /// Its number, as the list shows it.
    #[arg(value_name = "NUMBER")]
    pub(super) id: i64,
    #[command(flatten)]
    pub(super) ask: Ask,
}

/// One thing that has a name or an id.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// Its name or id, as the list shows it.
    pub(super) name: String,
    #[command(flatten)]
    pub(super) ask: Ask,
}

/// A stream of a connection.
#[derive(Debug, Args)]
pub(super) struct OfStream {
    /// The connection, by its id.
    pub(super) connection: String,
    /// The stream, by its name.
    pub(super) stream: String,
    #[command(flatten)]
    pub(super) ask: Ask,
}

/// Which events, by what they are and when they came.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// Of this provider.
    #[arg(long)]
    provider: Option<String>,
    /// Of this connection.
    #[arg(long, value_name = "ID")]
    connection: Option<String>,
    /// Of this type, or of those that begin so: `invoice.*`.
    #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
    kind: Option<String>,
    /// Dead, or tried again, for this reason, word by word, as `palisade inbox dead --json` tells it.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Received within this time (2h, 7d), or since a moment (2026-01-31T12:00:00Z).
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<Moment>,
    /// Received longer ago than this, or before a moment.
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<Moment>,
}

impl Events {
    /// Tells whether nothing is said, so that all events are meant.
    pub(super) fn is_empty(&self) -> bool {
        let Self { provider, connection, kind, reason, since, until } = self;
        [provider, connection, kind, reason].iter().all(|text| text.is_none()) && since.is_none() && until.is_none()
    }

    /// Returns it as the store reads it.
    ///
    /// # Errors
    /// [`Failure`] where nothing lies in the time.
    pub(super) fn stored(&self, state: Option<EventState>, now: Timestamp) -> Result<ReplayFilter, Failure> {
        check_span(self.since, self.until, now)?;
        Ok(ReplayFilter {
            state,
            provider: self.provider.clone(),
            connection: self.connection.clone().map(Into::into),
            kind: self.kind.clone(),
            reason: self.reason.clone(),
            from: self.since.map(|since| since.at(now)),
            to: self.until.map(|until| until.at(now)),
        })
    }
}

/// Reads the limit of a list.
pub(super) fn limit() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=LIMIT_MAX)
}

/// How many entries are read to list so many and know whether there are more.
pub(super) fn and_one(limit: u32) -> u32 {
    limit.saturating_add(1)
}

/// Cuts what was read of a list to its page, and names where the next one begins; nothing where there is none.
pub(super) fn cut<T, N>(list: &mut Vec<T>, limit: u32, place: impl Fn(&T) -> N) -> Option<N> {
    let more = list.len() > limit as usize;
    list.truncate(limit as usize);
    list.last().filter(|_| more).map(place)
}

/// Tells people how to see the next page, where there is one.
pub(super) fn more(flag: &str, next: Option<impl fmt::Display>) {
    if let Some(next) = next {
        say(format!("more: {flag} {next}"));
    }
}

/// A moment somebody names: by how long ago it was, or as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    Ago(std::time::Duration),
    At(Timestamp),
}

impl Moment {
    /// Returns it as a point in time.
    pub(super) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(age) => now.minus(age),
            Self::At(at) => at,
        }
    }
}

/// Reads an age or a moment.
pub(super) fn moment(text: &str) -> Result<Moment, String> {
    let read = read_duration(text).map(Moment::Ago).or_else(|| parse_rfc3339(text).map(Moment::At));
    read.ok_or_else(|| "write it as an age (30m, 2h or 7d) or as a moment (2026-01-31T12:00:00Z)".to_owned())
}

/// Refuses a span of time in which nothing lies.
pub(super) fn check_span(since: Option<Moment>, until: Option<Moment>, now: Timestamp) -> Result<(), Failure> {
    match (since, until) {
        (Some(since), Some(until)) if since.at(now) > until.at(now) => {
            Err(Failure::usage("nothing lies in that time: --since names a later moment than --until"))
        }
        (_, _) => Ok(()),
    }
}

/// Reads a length of time.
pub(super) fn age(text: &str) -> Result<std::time::Duration, String> {
    read_duration(text).ok_or_else(|| "write it as 30m, 2h or 7d".to_owned())
}

/// Reads which types of events are meant.
pub(super) fn kind(text: &str) -> Result<String, String> {
    if is_type(text) { Ok(text.to_owned()) } else { Err(TYPE_HOW.to_owned()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    // Fails when the last page of a list says there are more, or one before it says there are none.
    #[test]
    fn a_page_says_where_the_next_begins_and_the_last_says_nothing() {
        #[track_caller]
        fn check(read: usize, limit: u32, rows: &[usize], next: Option<usize>) {
            let mut list: Vec<usize> = (1..=read).collect();
            assert_eq!(cut(&mut list, limit, |row| *row), next);
            assert_eq!(list, rows);
        }
        check(0, 2, &[], None);
        check(1, 2, &[1], None);
        check(2, 2, &[1, 2], None);
        check(3, 2, &[1, 2], Some(2));
        assert_eq!((and_one(2), and_one(u32::MAX)), (3, u32::MAX));
    }

    // Fails when an age is read as a moment, a zone is left out, or a span of time the wrong way round is taken.
    #[test]
    fn a_moment_is_an_age_or_a_date_with_its_time_and_zone() {
        let now = Timestamp::from_seconds(1_767_225_600);
        let hours = |n: u64| now.minus(Duration::from_secs(n * 3_600));
        for (text, expected) in [
            ("2h", Some(hours(2))),
            ("7d", Some(hours(7 * 24))),
            ("2025-12-31T23:00:00Z", Some(hours(1))),
            ("2026-01-01T00:00:00+02:00", Some(hours(2))),
            ("2025-12-31", None),
            ("2025-12-31T23:00:00", None),
            ("yesterday", None),
            ("-2h", None),
            ("", None),
        ] {
            assert_eq!(moment(text).ok().map(|moment| moment.at(now)), expected, "{text}");
        }
        let span = |since: &str, until: &str| check_span(moment(since).ok(), moment(until).ok(), now).is_ok();
        assert!(span("2h", "1h") && span("2h", "2h") && span("2h", "2025-12-31T23:00:00Z"));
        assert!(!span("1h", "2h") && !span("2025-12-31T23:00:00Z", "2h"));
        assert!(span("2h", "never"), "one alone is a span");
    }
}

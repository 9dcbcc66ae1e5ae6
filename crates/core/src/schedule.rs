//! When something comes again: every so often, or by a cron expression in a time zone. Pure: the moment is an argument.
//!
//! A schedule is written as one line of text, in the configuration, in the API and in the store:
//!
//! | text | meaning |
//! |---|---|
//! | `15m` | every 15 minutes (`ms`, `s`, `m`, `h`, `d`) |
//! | `0 3 * * *` | at 03:00 UTC every day: minute, hour, day of the month, month, day of the week |
//! | `0 3 * * * Europe/London` | at 03:00 as the clocks in London show it |
//! | `0 3 * * * Europe/London ~30m` | the same, each connection at a place of its own in the 30 minutes after 03:00 |
//! | `@daily ~1h skip` | at 00:00 UTC within an hour; what was missed is left out |
//!
//! Intervals are arithmetic: ticks lie one interval apart whatever clocks do, and connections are spread over the whole
//! of it. Where clocks are put forward, a time that does not exist comes right after the gap, once; where they are put
//! back, a fixed time comes once and a repeating one (`*/30`) through both hours.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

/// The shortest interval: what comes more often is no schedule.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// The longest text of a schedule, in bytes.
pub const TEXT_BYTES_MAX: usize = 200;

/// When something comes again, and what becomes of a time that was missed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a pair; any two are valid")]
pub struct Schedule {
    /// Its ticks.
    pub ticks: Ticks,
    /// What becomes of a tick at which nobody was there.
    pub catch_up: CatchUp,
}

/// The moments of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: each is decided on")]
pub enum Ticks {
    /// One interval apart, spread over the interval.
    Every(Duration),
    /// By a cron expression.
    Cron(Cron),
}

/// What becomes of ticks that passed while nobody was there (the hub was down, or everything was busy).
///
/// There is no policy that makes up for each of them: a run goes on where the last one ended, so one brings everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the worker decides on each")]
pub enum CatchUp {
    /// One run makes up for all of them, at once.
    #[default]
    Once,
    /// They are left out: the next run is that of the next tick.
    Skip,
}

/// A cron expression in a time zone. Made by reading a [`Schedule`].
#[derive(Clone)]
pub struct Cron {
    expression: String,
    zone: String,
    spread: Duration,
    #[cfg(feature = "cron")]
    parsed: std::sync::Arc<(croner::Cron, chrono_tz::Tz)>,
    #[cfg(not(feature = "cron"))]
    parsed: std::convert::Infallible,
}

impl Schedule {
    /// Makes the schedule of an interval; less than a second counts as one.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { ticks: Ticks::Every(interval.max(EVERY_MIN)), catch_up: CatchUp::default() }
    }

    /// Returns the first tick after `now`, for whoever has this `phase` ([`phase`]). `None` when there is none before the
    /// end of the calendar.
    #[must_use]
    pub fn next_after(&self, now: Timestamp, phase: u64) -> Option<Timestamp> {
        match &self.ticks {
            Ticks::Every(every) => Some(grid(now.millis().saturating_add(1), *every, phase)),
            Ticks::Cron(cron) => {
                let offset = offset(cron.spread, phase);
                let next = cron.next_after(Timestamp(now.millis().saturating_sub(offset)))?;
                Some(Timestamp(next.millis().saturating_add(offset)))
            }
        }
    }

    /// Returns the moment of the run after one that ends at `now`: the next tick, but for an interval the first that is
    /// at least half of it away, so that a run between two ticks is not followed by another at once.
    #[must_use]
    pub fn following(&self, now: Timestamp, phase: u64) -> Timestamp {
        let next = match &self.ticks {
            Ticks::Every(every) => Some(grid(now.millis().saturating_add(millis(*every) / 2), *every, phase)),
            Ticks::Cron(_) => self.next_after(now, phase),
        };
        next.unwrap_or(Timestamp(i64::MAX))
    }

    /// Tells whether a run that was due at `due` and begins at `now` is to be left out, because its tick was missed and
    /// the policy is [`CatchUp::Skip`]. Late by up to an hour is not missed, nor by up to half the time to the next tick.
    #[must_use]
    pub fn leaves_out(&self, due: Timestamp, now: Timestamp, phase: u64) -> bool {
        /// What is late by less was there, but busy.
        const LATE_MAX: Duration = Duration::from_secs(3_600);
        if self.catch_up == CatchUp::Once {
            return false;
        }
        let gap = self.next_after(due, phase).map_or(LATE_MAX, |next| next.since(due));
        now.since(due) > LATE_MAX.min(gap / 2)
    }

    /// Returns when what was done at `since` is late: when three ticks have come since, the last of them for everybody.
    /// Hours in which no tick lies make nothing late.
    #[must_use]
    pub fn late_at(&self, since: Timestamp) -> Timestamp {
        /// One may be missed without a word, and the next be under way.
        const TICKS_LATE: u32 = 3;
        match &self.ticks {
            Ticks::Every(every) => since.plus(every.saturating_mul(TICKS_LATE)),
            Ticks::Cron(cron) => {
                let third = (0..TICKS_LATE).try_fold(since, |at, _| cron.next_after(at));
                third.map_or(Timestamp(i64::MAX), |third| third.plus(cron.spread))
            }
        }
    }

    /// Says the schedule in words: "every 15 minutes", "at 03:00 (Europe/London), spread over 30 minutes".
    #[must_use]
    pub fn words(&self) -> String {
        let mut words = match &self.ticks {
            Ticks::Every(every) => format!("every {}", duration_words(*every)),
            Ticks::Cron(cron) => cron.words(),
        };
        if self.catch_up == CatchUp::Skip {
            words.push_str(", missed ones left out");
        }
        words
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(wrong("a schedule is at most 200 bytes long"));
        }
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let fields = match words.first() {
            None => return Err(wrong(HOW)),
            Some(first) if first.starts_with('@') => 1,
            Some(first) if read_duration(first).is_some() && words.get(1).is_none_or(|second| is_policy(second)) => 0,
            Some(_) => 5,
        };
        let Some((expression, rest)) = words.split_at_checked(fields) else { return Err(wrong(HOW)) };
        let (mut zone, mut spread, mut catch_up, mut every) = (None, None, None, None);
        for word in rest {
            let twice = if let Some(policy) = read_policy(word) {
                catch_up.replace(policy).is_some()
            } else if let Some(window) = word.strip_prefix('~') {
                let window = read_duration(window).filter(|window| *window <= SPREAD_MAX);
                let window = window.ok_or_else(|| wrong("what follows ~ is a time of at most 7d, for example ~30m"))?;
                spread.replace(window).is_some()
            } else if fields == 0 {
                every.replace(read_duration(word).ok_or_else(|| wrong(HOW))?).is_some()
            } else {
                zone.replace(*word).is_some()
            };
            if twice {
                return Err(wrong(HOW));
            }
        }
        let ticks = match every {
            Some(every) if (EVERY_MIN..=EVERY_MAX).contains(&every) && spread.is_none() => Ticks::Every(every),
            Some(_) if spread.is_some() => {
                return Err(wrong("an interval is spread over the whole of it: leave out what begins with ~"));
            }
            Some(_) => return Err(wrong("an interval lies between 1s and 3650d")),
            None => Ticks::Cron(Cron::read(expression.join(" "), zone.unwrap_or("UTC"), spread.unwrap_or_default())?),
        };
        let schedule = Self { ticks, catch_up: catch_up.unwrap_or_default() };
        // What is kept is the text that it is written as, with a zone where this one has none: it must be readable.
        if schedule.to_string().len() > TEXT_BYTES_MAX {
            return Err(wrong("a schedule and its time zone are at most 200 bytes long"));
        }
        Ok(schedule)
    }
}

/// The longest interval.
const EVERY_MAX: Duration = Duration::from_secs(3_650 * 86_400);
/// The widest window of a cron expression.
const SPREAD_MAX: Duration = Duration::from_secs(7 * 86_400);
/// How a schedule is written.
const HOW: &str = "a schedule is an interval (\"15m\") or a cron expression of five fields, perhaps with a time zone and a window \
     to spread over (\"0 3 * * * Europe/London ~30m\")";

fn wrong(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

fn read_policy(word: &str) -> Option<CatchUp> {
    match word {
        "once" => Some(CatchUp::Once),
        "skip" => Some(CatchUp::Skip),
        _ => None,
    }
}

fn is_policy(word: &str) -> bool {
    read_policy(word).is_some() || word.starts_with('~')
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ticks {
            Ticks::Every(every) => f.write_str(&duration_text(*every))?,
            Ticks::Cron(cron) => {
                write!(f, "{} {}", cron.expression, cron.zone)?;
                if !cron.spread.is_zero() {
                    write!(f, " ~{}", duration_text(cron.spread))?;
                }
            }
        }
        if self.catch_up == CatchUp::Skip { f.write_str(" skip") } else { Ok(()) }
    }
}

impl Cron {
    /// Returns the expression.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Returns the IANA name of its time zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// Returns the window its ticks are spread over; nothing when all come at once.
    #[must_use]
    pub fn spread(&self) -> Duration {
        self.spread
    }
}

#[cfg(feature = "cron")]
impl Cron {
    fn read(expression: String, zone: &str, spread: Duration) -> Result<Self> {
        use croner::parser::{CronParser, Seconds, Year};
        // The parser takes a field of empty items for one that never matches, and the search for it visits every hour.
        if expression.split_whitespace().any(|field| field.split(',').any(str::is_empty)) {
            return Err(wrong(format!("{expression}: an item of a list is empty")));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let pattern = parser.parse(&expression).map_err(|error| wrong(format!("{expression}: {error}")))?;
        let tz: chrono_tz::Tz = zone.parse().map_err(|_| {
            wrong(format!(
                "{zone} is no time zone: use an IANA name, for example Europe/London, or leave it out for UTC"
            ))
        })?;
        let cron = Self { expression, zone: tz.name().to_owned(), spread, parsed: std::sync::Arc::new((pattern, tz)) };
        // One that never comes is found here, once; leap years come within eight years of any moment.
        let since = Timestamp::from_seconds(1_700_000_000);
        match cron.search(since, false) {
            Some(_) => Ok(cron),
            None => Err(wrong(format!("{}: there is no such day", cron.expression))),
        }
    }

    fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        /// Clocks change on a quarter of an hour, and the longest gap is a day: a zone that changed sides of the date line
        /// left one out, and the search does not cross it.
        const QUARTER: i64 = 900_000;
        let quarters = now.millis().div_euclid(QUARTER);
        let beyond = || {
            (1..=100)
                .find_map(|step| self.search(Timestamp(quarters.saturating_add(step).saturating_mul(QUARTER)), true))
        };
        self.search(now, false).or_else(beyond)
    }

    fn search(&self, now: Timestamp, inclusive: bool) -> Option<Timestamp> {
        use chrono::TimeZone;
        let (pattern, tz) = &*self.parsed;
        let now = tz.timestamp_millis_opt(now.millis()).single()?;
        let next = pattern.find_next_occurrence(&now, inclusive).ok()?;
        // The search keeps what is below a second of where it began.
        Some(Timestamp::from_seconds(next.timestamp()))
    }

    fn words(&self) -> String {
        let said = self.parsed.0.describe();
        let said = said.trim_end_matches('.');
        let mut letters = said.chars();
        let first = letters.next().map(|letter| letter.to_ascii_lowercase());
        let said: String = first.into_iter().chain(letters).collect();
        // "at every 15 minutes" is how the describer puts a pattern that has no hour.
        let said = said.strip_prefix("at every").map_or(said.clone(), |rest| format!("every{rest}"));
        let spread = match self.spread {
            none if none.is_zero() => String::new(),
            window => {
                let (number, _, unit) = in_units(window);
                format!(", spread over {number} {unit}{}", if number == 1 { "" } else { "s" })
            }
        };
        format!("{said} ({}){spread}", self.zone)
    }
}

#[cfg(not(feature = "cron"))]
impl Cron {
    fn read(_: String, _: &str, _: Duration) -> Result<Self> {
        Err(wrong("cron expressions need palisade-core's feature cron: write an interval (\"15m\")"))
    }

    fn next_after(&self, _: Timestamp) -> Option<Timestamp> {
        match self.parsed {}
    }

    fn words(&self) -> String {
        match self.parsed {}
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        (&self.expression, &self.zone, self.spread) == (&other.expression, &other.zone, other.spread)
    }
}

impl Eq for Cron {}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({} {} ~{:?})", self.expression, self.zone, self.spread)
    }
}

/// Returns a number that is always the same for a name, to spread what has names over an interval (FNV-1a).
#[must_use]
pub fn phase(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// The place of a phase in a window, in milliseconds.
fn offset(window: Duration, phase: u64) -> i64 {
    i64::try_from(phase % millis(window).unsigned_abs()).unwrap_or(0)
}

/// Returns the first tick at or after `earliest`. Ticks lie one interval apart, shifted by the phase, so that a
/// connection's runs keep their place in the interval whatever happens in between.
fn grid(earliest: i64, every: Duration, phase: u64) -> Timestamp {
    let (shift, every) = (offset(every, phase), millis(every));
    let behind = earliest.saturating_sub(shift).rem_euclid(every);
    let wait = if behind == 0 { 0 } else { every - behind };
    Timestamp(earliest.saturating_add(wait))
}

/// Reads `"500ms"`, `"30s"`, `"15m"`, `"2h"`, `"7d"`.
#[must_use]
pub fn read_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        _ => None,
    }
}

/// A length of time in its largest whole unit, with that unit's letter and name.
fn in_units(duration: Duration) -> (u128, &'static str, &'static str) {
    let seconds = u128::from(duration.as_secs());
    if duration.subsec_millis() != 0 || seconds == 0 {
        return (duration.as_millis(), "ms", "millisecond");
    }
    match seconds {
        s if s % 86_400 == 0 => (s / 86_400, "d", "day"),
        s if s % 3_600 == 0 => (s / 3_600, "h", "hour"),
        s if s % 60 == 0 => (s / 60, "m", "minute"),
        s => (s, "s", "second"),
    }
}

fn duration_text(duration: Duration) -> String {
    let (number, letter, _) = in_units(duration);
    format!("{number}{letter}")
}

fn duration_words(duration: Duration) -> String {
    match in_units(duration) {
        (1, _, unit) => unit.to_owned(),
        (number, _, unit) => format!("{number} {unit}s"),
    }
}

#[cfg(test)]
mod tests;

//! A pure function from observations to a connection's state, who must act and what happens next.
//!
//! It reads nothing and remembers nothing: the hub gathers [`Observations`] and shows what [`health`] says of them, so
//! the page, the API and an alert can never disagree.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::store::{CallCounts, ConnectionState, Heard};

/// Errors of a hundred calls from which a connection is degraded.
const DEGRADED_PERCENT: u64 = 1;
/// Errors of a hundred calls from which it is down.
const DOWN_PERCENT: u64 = 10;
/// How many events an endpoint must have missed, over what time, to be called silent.
const SILENT: (u64, Duration) = (3, Duration::from_secs(60 * 60));
/// The same for one that was never heard: it may be subscribed to a few rare types only.
const NEVER_HEARD: (u64, Duration) = (20, Duration::from_secs(24 * 60 * 60));

/// What is known of a connection.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Observations {
    /// The present moment.
    pub now: Timestamp,
    /// Whether it works, as the store has it.
    pub state: ConnectionState,
    /// Whether its credential stands in the configuration: then it is the operator who replaces it.
    pub configured: bool,
    /// Its calls of the last 24 hours.
    pub calls: CallCounts,
    /// Its streams, without those that are not synced.
    pub streams: Vec<StreamObservation>,
    /// Streams whose newest run failed.
    pub runs_failed: u32,
    /// Runs that wait for somebody to look at their deletions.
    pub runs_in_review: u32,
    /// Runs under way that make no progress.
    pub runs_stalled: u32,
    /// Events given up.
    pub dead_letters: u64,
    /// Calls of the outbox that may have been made or not.
    pub calls_in_review: u64,
    /// How long its endpoints have been silent, where the provider's own list proves it ([`silence`]).
    pub endpoint_silent: Option<Duration>,
    /// Until when the provider asked to wait, or the breaker keeps calls back.
    pub held_until: Option<Timestamp>,
    /// The push channel that is worst off, of those that could not be renewed.
    pub watch_failing: Option<WatchFailing>,
}

/// A push channel that could not be opened or renewed at the last attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct WatchFailing {
    /// When the channel that is open ends; `None` when none is, or nobody knows.
    pub ends_at: Option<Timestamp>,
    /// Why, in one phrase.
    pub reason: String,
}

/// Returns how long an endpoint has been silent, where that is proven by the provider's own list of what it sent.
///
/// Silence alone proves nothing: an account may have nothing to tell for weeks. So an endpoint is silent only when
/// walks over the provider's list keep finding new events that never came to it:
/// - It was heard before: at least 3 events of types that used to come, found by walks at least an hour apart, and
///   nothing at all heard since before the first of them. (Types that never came may not be subscribed; events found
///   in one go may have happened while nobody listened here; one that arrives late is heard, and begins anew.)
/// - It was never heard: at least 20 events of types somebody here wants, found by walks at least a day apart.
///
/// What a run makes events of ([`crate::sync::Source::event_of`]) is such a list too. A provider without any never gives
/// proof, and its endpoints are never called silent. `heard` is what the store has of all endpoints of a connection.
#[must_use]
pub fn silence(heard: &[Heard], now: Timestamp) -> Option<Duration> {
    let last = heard.iter().filter_map(|one| one.heard_at).max();
    let known: BTreeSet<&str> =
        heard.iter().filter(|one| one.heard_at.is_some()).map(|one| one.kind.as_str()).collect();
    let missed = || {
        heard.iter().filter(|one| {
            one.found > 0 && one.found_from > last && (last.is_none() || known.contains(one.kind.as_str()))
        })
    };
    let (least, apart) = if last.is_some() { SILENT } else { NEVER_HEARD };
    let found = missed().fold(0_u64, |sum, one| sum.saturating_add(one.found));
    let from = missed().filter_map(|one| one.found_from).min()?;
    let to = missed().filter_map(|one| one.found_to).max()?;
    (found >= least && to.since(from) >= apart).then(|| now.since(last.unwrap_or(from)))
}

/// What is known of one stream.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct StreamObservation {
    /// When its last run ended well.
    pub fresh_at: Option<Timestamp>,
    /// From when on it is late, unless a run is under way ([`Schedule::late_at`](crate::schedule::Schedule::late_at));
    /// `None` where nobody says how often its runs come.
    pub late_at: Option<Timestamp>,
    /// Whether a run is under way.
    pub running: bool,
}

/// A connection's state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages show each")]
pub enum State {
    /// In step.
    Connected,
    /// On the way to its first complete copy.
    CatchingUp,
    /// Works, but its data is older than it should be.
    Delayed,
    /// Does not go on until somebody acts.
    NeedsAttention,
    /// Paused by somebody.
    Paused,
    /// Not connected.
    Disconnected,
}

/// How its calls go: by the error rate of the last 24 hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages show each")]
pub enum Status {
    /// Under 1 %, or no calls.
    Healthy,
    /// Under 10 %.
    Degraded,
    /// 10 % and more.
    Down,
}

/// Who must act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages show each")]
pub enum Actor {
    /// The user whose account it is.
    User,
    /// Whoever runs the product.
    Operator,
    /// The provider; waiting is all there is to do.
    Provider,
    /// Nobody.
    Nobody,
}

/// How a connection is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Health {
    /// The state in one word.
    pub state: State,
    /// How its calls go.
    pub status: Status,
    /// Who must act.
    pub who_acts: Actor,
    /// What that one should do, or what happens by itself; one sentence for people.
    pub next_step: String,
    /// The age of its oldest stream; `None` while one has never been complete, or there is none.
    pub freshness: Option<Duration>,
}

/// Judges a connection. What somebody must do comes before what passes, and that before what is merely late.
#[must_use]
pub fn health(seen: &Observations) -> Health {
    let status = status(seen.calls);
    let (state, who_acts, next_step) = verdict(seen, status);
    Health { state, status, who_acts, next_step, freshness: freshness(seen) }
}

fn verdict(seen: &Observations, status: Status) -> (State, Actor, String) {
    match &seen.state {
        ConnectionState::Disconnected => {
            return (State::Disconnected, Actor::User, "Connect the account to go on; its data is kept.".to_owned());
        }
        ConnectionState::Paused => {
            return (State::Paused, Actor::Operator, "Resume the connection; it goes on where it stopped.".to_owned());
        }
        ConnectionState::NeedsReconnect { reason } if seen.configured => {
            // What follows is advice to the account's owner, who has no part in it here.
            let cause = reason.split_once(": ").map_or(reason.as_str(), |(cause, _)| cause);
            let step = format!("Mend its credential in the configuration, then reconnect it: {cause}.");
            return (State::NeedsAttention, Actor::Operator, step);
        }
        ConnectionState::NeedsReconnect { reason } => {
            return (State::NeedsAttention, Actor::User, format!("Reconnect the account: {reason}."));
        }
        ConnectionState::Active => {}
    }
    let attention = |step: String| (State::NeedsAttention, Actor::Operator, step);
    if seen.runs_in_review > 0 {
        return attention("A sync would delete unusually many records. Look at the run and decide.".to_owned());
    }
    if seen.runs_failed > 0 {
        let streams = counted(u64::from(seen.runs_failed), "stream does", "streams do");
        return attention(format!("{streams} not sync. Look at the failed run; it is tried again by schedule."));
    }
    if seen.dead_letters > 0 {
        let events = counted(seen.dead_letters, "event was", "events were");
        return attention(format!("{events} given up. Look at the reason, then replay."));
    }
    if seen.calls_in_review > 0 {
        let calls = counted(seen.calls_in_review, "call of the outbox", "calls of the outbox");
        return attention(format!("{calls} may have been made or not. Find out at the service, then say so."));
    }
    if let Some(wait) = seen.held_until.map(|until| until.since(seen.now)).filter(|wait| *wait > Duration::ZERO) {
        let step = format!("The service asked us to wait. It goes on by itself in {}.", spoken(wait));
        return (State::Delayed, Actor::Provider, step);
    }
    if seen.runs_stalled > 0 && status != Status::Down {
        let runs = counted(u64::from(seen.runs_stalled), "sync makes", "syncs make");
        return attention(format!("{runs} no progress. Look at the run: it says what it waits for."));
    }
    if status == Status::Down {
        let step = "The service answers with errors. It goes on by itself when the service recovers.".to_owned();
        return (State::Delayed, Actor::Provider, step);
    }
    if seen.streams.iter().any(|stream| stream.fresh_at.is_none()) {
        let running = seen.streams.iter().any(|stream| stream.running);
        let step = if running { "The first sync is under way." } else { "The first sync is about to start." };
        return (State::CatchingUp, Actor::Nobody, step.to_owned());
    }
    if let Some(age) = seen.streams.iter().filter_map(|stream| lateness(stream, seen.now)).max() {
        let step = format!("The data is {} old and nothing is syncing it. Is a worker running?", spoken(age));
        return (State::Delayed, Actor::Operator, step);
    }
    if let Some(silent) = seen.endpoint_silent {
        let silent = spoken(silent);
        let step =
            format!("No webhook has come for {silent}. Check the endpoint at the service; syncs go on meanwhile.");
        return (State::Delayed, Actor::Operator, step);
    }
    if let Some(WatchFailing { ends_at, reason }) = &seen.watch_failing {
        return match ends_at.map(|end| end.since(seen.now)).filter(|left| *left > Duration::ZERO) {
            Some(left) => {
                let left = spoken(left);
                let step =
                    format!("Notifications end in {left} and could not be renewed: {reason}. It is tried again.");
                (State::Connected, Actor::Nobody, step)
            }
            None => {
                let step =
                    format!("The service does not notify us of changes: {reason}. Syncs go on by schedule meanwhile.");
                (State::Delayed, Actor::Operator, step)
            }
        };
    }
    (State::Connected, Actor::Nobody, "Everything is in step.".to_owned())
}

fn status(calls: CallCounts) -> Status {
    let errors = u128::from(calls.errors) * 100;
    let of = |percent: u64| u128::from(calls.calls) * u128::from(percent);
    if calls.calls == 0 || errors < of(DEGRADED_PERCENT) {
        Status::Healthy
    } else if errors < of(DOWN_PERCENT) {
        Status::Degraded
    } else {
        Status::Down
    }
}

fn freshness(seen: &Observations) -> Option<Duration> {
    let ages = seen.streams.iter().map(|stream| Some(seen.now.since(stream.fresh_at?)));
    ages.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Returns the age of a stream that is late and that nothing is working on.
fn lateness(stream: &StreamObservation, now: Timestamp) -> Option<Duration> {
    let age = now.since(stream.fresh_at?);
    let late = stream.late_at.is_some_and(|late| now > late);
    (!stream.running && late).then_some(age)
}

fn counted(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Says a time as people do: the largest unit, rounded up.
fn spoken(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    match seconds {
        0..=90 => counted(seconds, "second", "seconds"),
        91..=5_400 => counted(seconds.div_ceil(60), "minute", "minutes"),
        5_401..=129_600 => counted(seconds.div_ceil(3_600), "hour", "hours"),
        _ => counted(seconds.div_ceil(86_400), "day", "days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Schedule;

    const NOW: Timestamp = Timestamp(1_700_000_000_000);
    const QUARTER: Duration = Duration::from_secs(900);

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    fn stream(age: Option<Duration>, running: bool) -> StreamObservation {
        let fresh_at = age.map(|age| NOW.minus(age));
        StreamObservation { fresh_at, late_at: fresh_at.map(|at| Schedule::every(QUARTER).late_at(at)), running }
    }

    fn fine() -> Observations {
        Observations {
            now: NOW,
            state: ConnectionState::Active,
            configured: false,
            calls: CallCounts { calls: 1_000, errors: 2 },
            streams: vec![stream(Some(minutes(5)), false), stream(Some(minutes(14)), false)],
            runs_failed: 0,
            runs_in_review: 0,
            runs_stalled: 0,
            dead_letters: 0,
            calls_in_review: 0,
            endpoint_silent: None,
            held_until: None,
            watch_failing: None,
        }
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Observations), state: State, who: Actor, says: &str) {
        let mut seen = fine();
        change(&mut seen);
        let health = health(&seen);
        assert_eq!((health.state, health.who_acts), (state, who), "{health:?}");
        assert!(health.next_step.contains(says), "{health:?}");
        assert!(health.next_step.ends_with(['.', '?']) && health.next_step.starts_with(|c: char| !c.is_lowercase()));
    }

    #[test]
    fn each_observation_says_who_must_act() {
        use Actor::{Nobody, Operator, Provider, User};
        use State::{CatchingUp, Connected, Delayed, Disconnected, NeedsAttention, Paused};
        let revoked = || ConnectionState::NeedsReconnect { reason: "the key was revoked".to_owned() };
        check(|_| {}, Connected, Nobody, "in step");
        check(|seen| seen.streams.clear(), Connected, Nobody, "in step");
        check(|seen| seen.state = ConnectionState::Disconnected, Disconnected, User, "Connect");
        check(|seen| seen.state = ConnectionState::Paused, Paused, Operator, "Resume");
        check(|seen| seen.state = revoked(), NeedsAttention, User, "Reconnect the account: the key was revoked.");
        let ours = |seen: &mut Observations| {
            let reason = "the provider refused the key: replace it".to_owned();
            (seen.state, seen.configured) = (ConnectionState::NeedsReconnect { reason }, true);
        };
        check(ours, NeedsAttention, Operator, "then reconnect it: the provider refused the key.");
        check(|seen| seen.runs_in_review = 1, NeedsAttention, Operator, "delete");
        check(|seen| seen.runs_failed = 1, NeedsAttention, Operator, "1 stream does not sync");
        check(|seen| seen.dead_letters = 1, NeedsAttention, Operator, "1 event was given up");
        check(|seen| seen.dead_letters = 7, NeedsAttention, Operator, "7 events were given up");
        check(|seen| seen.held_until = Some(NOW.plus(minutes(2))), Delayed, Provider, "in 2 minutes");
        check(|seen| seen.held_until = Some(NOW), Connected, Nobody, "in step");
        check(|seen| seen.runs_stalled = 1, NeedsAttention, Operator, "1 sync makes no progress");
        let down = |seen: &mut Observations| (seen.runs_stalled, seen.calls.errors) = (1, 100);
        check(down, Delayed, Provider, "errors");
        check(|seen| seen.calls.errors = 100, Delayed, Provider, "errors");
        check(|seen| seen.calls.errors = 99, Connected, Nobody, "in step");
        check(|seen| seen.streams.push(stream(None, false)), CatchingUp, Nobody, "about to start");
        check(|seen| seen.streams.push(stream(None, true)), CatchingUp, Nobody, "under way");
        check(|seen| seen.streams.push(stream(Some(minutes(45)), false)), Connected, Nobody, "in step");
        check(|seen| seen.streams.push(stream(Some(minutes(46)), false)), Delayed, Operator, "46 minutes old");
        check(|seen| seen.streams.push(stream(Some(minutes(46)), true)), Connected, Nobody, "in step");
        check(|seen| seen.endpoint_silent = Some(minutes(600)), Delayed, Operator, "10 hours");
        let failing = |ends_at| Some(WatchFailing { ends_at, reason: "no right to it".to_owned() });
        check(|seen| seen.watch_failing = failing(None), Delayed, Operator, "notify us of changes: no right to it.");
        check(|seen| seen.watch_failing = failing(Some(NOW)), Delayed, Operator, "by schedule");
        check(|seen| seen.watch_failing = failing(Some(NOW.plus(minutes(2)))), Connected, Nobody, "end in 2 minutes");
    }

    /// Fails when silence is guessed: of an account with little to tell, of types that are not subscribed, of what
    /// happened while nobody listened, of what comes late.
    #[test]
    fn an_endpoint_is_silent_only_when_the_providers_list_proves_it() {
        const HOUR: u64 = 60;
        const DAY: u64 = 24 * HOUR;
        type Row = (&'static str, Option<u64>, u64, Option<(u64, u64)>);
        let check = |rows: &[Row], expected: Option<u64>| {
            // All times as minutes ago.
            let ago = |time: u64| NOW.minus(minutes(time));
            let heard: Vec<_> = rows
                .iter()
                .map(|(kind, heard_at, found, span)| Heard {
                    kind: (*kind).to_owned(),
                    heard_at: heard_at.map(ago),
                    found: *found,
                    found_from: span.map(|(from, _)| ago(from)),
                    found_to: span.map(|(_, to)| ago(to)),
                })
                .collect();
            assert_eq!(silence(&heard, NOW), expected.map(minutes), "{rows:?}");
        };
        check(&[], None);
        check(&[("x", Some(90 * DAY), 0, None)], None);
        check(&[("x", Some(3 * HOUR), 3, Some((2 * HOUR, HOUR)))], Some(3 * HOUR));
        check(&[("x", Some(3 * HOUR), 2, Some((2 * HOUR, HOUR)))], None);
        check(&[("x", Some(3 * HOUR), 500, Some((2 * HOUR, 2 * HOUR)))], None);
        check(&[("x", Some(3 * HOUR), 3, Some((2 * HOUR, HOUR + 1)))], None);
        // Another type came meanwhile, or the same one.
        check(&[("x", Some(3 * HOUR), 9, Some((2 * HOUR, 0))), ("y", Some(90), 0, None)], None);
        check(&[("x", Some(2 * HOUR), 9, Some((2 * HOUR, 0)))], None);
        // Two types together; and one that never came, which may not be subscribed.
        let y = ("y", Some(4 * HOUR), 1, Some((30, 30)));
        check(&[("x", Some(3 * HOUR), 2, Some((2 * HOUR, 2 * HOUR))), y], Some(3 * HOUR));
        check(&[("x", Some(3 * HOUR), 0, None), ("z", None, 900, Some((2 * HOUR, 0)))], None);
        // Two endpoints of a connection: the one finds, the other hears.
        check(&[("x", None, 3, Some((2 * HOUR, 0))), ("x", Some(3 * HOUR), 0, None)], Some(3 * HOUR));
        // Never heard.
        check(&[("x", None, 10, Some((2 * DAY, DAY))), ("y", None, 10, Some((3 * DAY, 0)))], Some(3 * DAY));
        check(&[("x", None, 19, Some((3 * DAY, 0)))], None);
        check(&[("x", None, 900, Some((DAY - 1, 0)))], None);
    }

    /// What somebody must do comes first. Fails when two of the checks are swapped.
    #[test]
    fn the_most_urgent_word_wins() {
        let all = |seen: &mut Observations| {
            seen.watch_failing = Some(WatchFailing { ends_at: None, reason: "refused".to_owned() });
            seen.endpoint_silent = Some(minutes(600));
            seen.streams.push(stream(Some(minutes(100)), false));
            seen.calls.errors = 900;
            seen.held_until = Some(NOW.plus(minutes(1)));
            seen.dead_letters = 1;
            seen.runs_failed = 1;
            seen.runs_in_review = 1;
            seen.state = ConnectionState::NeedsReconnect { reason: "revoked".to_owned() };
        };
        type Step = (fn(&mut Observations), &'static str);
        let steps: [Step; 10] = [
            (|_| {}, "Reconnect"),
            (|seen| seen.state = ConnectionState::Active, "delete"),
            (|seen| seen.runs_in_review = 0, "not sync"),
            (|seen| seen.runs_failed = 0, "given up"),
            (|seen| seen.dead_letters = 0, "asked us to wait"),
            (|seen| seen.held_until = None, "errors"),
            (|seen| seen.calls.errors = 0, "old"),
            (|seen| seen.streams.clear(), "No webhook"),
            (|seen| seen.endpoint_silent = None, "does not notify"),
            (|seen| seen.watch_failing = None, "in step"),
        ];
        let mut seen = fine();
        all(&mut seen);
        for (step, says) in steps {
            step(&mut seen);
            let health = health(&seen);
            assert!(health.next_step.contains(says), "{says}: {health:?}");
        }
    }

    #[test]
    fn the_error_rate_gives_the_status() {
        for (calls, errors, expected) in [
            (0, 0, Status::Healthy),
            (1, 0, Status::Healthy),
            (1, 1, Status::Down),
            (1_000, 9, Status::Healthy),
            (1_000, 10, Status::Degraded),
            (1_000, 99, Status::Degraded),
            (1_000, 100, Status::Down),
            (u64::MAX, u64::MAX / 200, Status::Healthy),
            (u64::MAX, u64::MAX, Status::Down),
        ] {
            assert_eq!(status(CallCounts { calls, errors }), expected, "{errors} of {calls}");
        }
    }

    #[test]
    fn freshness_is_the_oldest_streams_age() {
        let mut seen = fine();
        assert_eq!(health(&seen).freshness, Some(minutes(14)));
        seen.streams.push(stream(None, true));
        assert_eq!(health(&seen).freshness, None);
        seen.streams.clear();
        assert_eq!(health(&seen).freshness, None);
        // A clock that went backwards makes nothing older than new.
        seen.streams.push(StreamObservation { fresh_at: Some(NOW.plus(minutes(5))), late_at: None, running: false });
        assert_eq!(health(&seen).freshness, Some(Duration::ZERO));
    }

    #[test]
    fn times_are_said_as_people_do() {
        for (seconds, says) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (90, "90 seconds"),
            (91, "2 minutes"),
            (5_400, "90 minutes"),
            (5_401, "2 hours"),
            (129_601, "2 days"),
        ] {
            assert_eq!(spoken(Duration::from_secs(seconds)), says);
        }
        assert_eq!(spoken(Duration::from_millis(200)), "1 second");
        assert!(spoken(Duration::from_secs(u64::MAX)).ends_with("days"));
    }
}

//! Why a run stopped or waits: one word of a closed set, with who must act. Made of an error, kept with its run and
//! shown; no run ends without one but a complete one.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::health::Actor;
use crate::id::{RecordId, StreamName};

/// Why a run ended before its end, or why it waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "a closed set: pages and programs decide on each")]
pub enum Stop {
    /// The position is too old at the provider. A full run begins by itself.
    CursorExpired,
    /// The provider refused the credential. Nothing is read as deleted: the account is to be connected again.
    AuthRevoked,
    /// The credential is good and may not read this.
    ScopeMissing {
        /// What it lacks, where the provider names it.
        scope: Option<String>,
    },
    /// The provider asked to wait. The run goes on by itself.
    RateLimited {
        /// Until when, where it said so.
        until: Option<Timestamp>,
    },
    /// The provider does not answer, or answers with its own failure. The run goes on by itself.
    ProviderDown {
        /// When it is asked again, where that is known.
        until: Option<Timestamp>,
    },
    /// What came cannot be read. Single records that cannot be read are set aside and stop nothing
    /// ([`super::BadRecord`]); this is the answer as a whole, or too many of its records.
    BadData {
        /// The stream.
        stream: StreamName,
        /// The record, where it is one and it says its name.
        record: Option<RecordId>,
        /// What is wrong with it.
        why: String,
    },
    /// It made no progress: pages that bring nothing and a position that moves for ever, or one that does not move.
    Stalled {
        /// What was seen.
        why: String,
    },
    /// The provider, or the configuration, does not take the request as it is.
    Refused {
        /// What is wrong with it.
        why: String,
    },
    /// Our own side could not: the store, or a queue that was full. The run goes on by itself.
    Ours {
        /// What could not be done.
        why: String,
    },
    /// Records kept changing while they were read. The run goes on by itself.
    Unsettled,
    /// Somebody paused the stream.
    Paused,
    /// Another run took its place, its stream was reset or its deletions dismissed: it is over and nothing is wrong.
    Superseded,
}

impl Stop {
    /// Names the cause of an error that stopped a run of a stream.
    #[must_use]
    pub fn of(error: &Error, stream: &StreamName, now: Timestamp) -> Self {
        let why = || error.message().to_owned();
        let until = error.retry_after().map(|after| now.plus(after));
        match error.kind() {
            ErrorKind::CursorExpired => Self::CursorExpired,
            ErrorKind::Auth => Self::AuthRevoked,
            ErrorKind::Permission => Self::ScopeMissing { scope: error.scope().map(str::to_owned) },
            ErrorKind::Throttled => Self::RateLimited { until },
            ErrorKind::CircuitOpen
            | ErrorKind::Timeout
            | ErrorKind::Connect
            | ErrorKind::Transport
            | ErrorKind::Provider => Self::ProviderDown { until },
            ErrorKind::Decode | ErrorKind::BodyTooLarge => {
                Self::BadData { stream: stream.clone(), record: None, why: why() }
            }
            ErrorKind::Config | ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Declined => {
                Self::Refused { why: why() }
            }
            ErrorKind::Store | ErrorKind::Overloaded => Self::Ours { why: why() },
            ErrorKind::Conflict => Self::Unsettled,
            ErrorKind::LeaseLost | ErrorKind::Cancelled => Self::Superseded,
        }
    }

    /// Returns the cause as it is written in metrics and logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::CursorExpired => "cursor_expired",
            Self::AuthRevoked => "auth_revoked",
            Self::ScopeMissing { .. } => "scope_missing",
            Self::RateLimited { .. } => "rate_limited",
            Self::ProviderDown { .. } => "provider_down",
            Self::BadData { .. } => "bad_data",
            Self::Stalled { .. } => "stalled",
            Self::Refused { .. } => "refused",
            Self::Ours { .. } => "ours",
            Self::Unsettled => "unsettled",
            Self::Paused => "paused",
            Self::Superseded => "superseded",
        }
    }

    /// Tells who must act.
    #[must_use]
    pub fn who_acts(&self) -> Actor {
        match self {
            Self::AuthRevoked | Self::ScopeMissing { .. } => Actor::User,
            Self::RateLimited { .. } | Self::ProviderDown { .. } => Actor::Provider,
            Self::BadData { .. } | Self::Stalled { .. } | Self::Refused { .. } | Self::Ours { .. } | Self::Paused => {
                Actor::Operator
            }
            Self::CursorExpired | Self::Unsettled | Self::Superseded => Actor::Nobody,
        }
    }

    /// Returns when the run goes on, where it waits for a moment.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::RateLimited { until } | Self::ProviderDown { until } => *until,
            Self::CursorExpired
            | Self::AuthRevoked
            | Self::ScopeMissing { .. }
            | Self::BadData { .. }
            | Self::Stalled { .. }
            | Self::Refused { .. }
            | Self::Ours { .. }
            | Self::Unsettled
            | Self::Paused
            | Self::Superseded => None,
        }
    }

    /// Says in one sentence what happened and what comes next.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::CursorExpired => "The position was too old; everything is read anew by itself.".to_owned(),
            Self::AuthRevoked => "The provider refused the credential. Reconnect the account.".to_owned(),
            Self::ScopeMissing { scope: Some(scope) } => {
                format!("The permission {scope} is missing. Reconnect the account and accept it.")
            }
            Self::ScopeMissing { scope: None } => {
                "A permission is missing. Reconnect the account and accept it.".to_owned()
            }
            Self::RateLimited { .. } => "The provider asked to wait. It goes on by itself.".to_owned(),
            Self::ProviderDown { .. } => "The provider does not answer. It goes on by itself.".to_owned(),
            Self::BadData { record: Some(record), why, .. } => {
                format!("The record {record} and others could not be read: {why}. The adapter needs mending.")
            }
            Self::BadData { record: None, why, .. } => {
                format!("The answer could not be read: {why}. The adapter needs mending.")
            }
            Self::Stalled { why } => format!("It made no progress: {why}."),
            Self::Refused { why } => format!("The request was refused: {why}."),
            Self::Ours { why } => format!("Our own side could not: {why}. It goes on by itself."),
            Self::Unsettled => "Records kept changing while they were read. It goes on by itself.".to_owned(),
            Self::Paused => "The stream is paused. Resume it to go on.".to_owned(),
            Self::Superseded => "Another run took its place, or somebody ended it.".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    #[track_caller]
    fn check(error: Error, expected: Stop, who: Actor) {
        let stop = Stop::of(&error, &"things".into(), NOW);
        assert_eq!(stop, expected);
        assert_eq!(stop.who_acts(), who, "{stop:?}");
        let text = serde_json::to_string(&stop).unwrap();
        assert!(text.contains(&format!("\"cause\":\"{}\"", stop.as_str())), "{text}");
        assert_eq!(serde_json::from_str::<Stop>(&text).unwrap(), stop);
        assert!(stop.sentence().ends_with('.'), "{stop:?}");
    }

    /// Fails when a kind is taken for another's cause: above all a refusal for anything that passes, or for data.
    #[test]
    fn each_kind_of_error_is_one_cause_and_says_who_acts() {
        use Actor::{Nobody, Operator, Provider, User};
        let new = |kind| Error::new(kind, "why");
        let soon = Some(Duration::from_secs(2));
        let until = Some(Timestamp(3_000));
        let bad = Stop::BadData { stream: "things".into(), record: None, why: "why".to_owned() };
        let refused = Stop::Refused { why: "why".to_owned() };
        let ours = Stop::Ours { why: "why".to_owned() };
        check(new(ErrorKind::CursorExpired), Stop::CursorExpired, Nobody);
        check(new(ErrorKind::Auth), Stop::AuthRevoked, User);
        check(new(ErrorKind::Permission), Stop::ScopeMissing { scope: None }, User);
        let named = new(ErrorKind::Permission).with_scope("channels:history");
        check(named, Stop::ScopeMissing { scope: Some("channels:history".to_owned()) }, User);
        check(new(ErrorKind::Throttled).with_retry_after(soon), Stop::RateLimited { until }, Provider);
        for kind in
            [ErrorKind::CircuitOpen, ErrorKind::Timeout, ErrorKind::Connect, ErrorKind::Transport, ErrorKind::Provider]
        {
            check(new(kind), Stop::ProviderDown { until: None }, Provider);
        }
        check(new(ErrorKind::Provider).with_retry_after(soon), Stop::ProviderDown { until }, Provider);
        check(new(ErrorKind::Decode), bad.clone(), Operator);
        check(new(ErrorKind::BodyTooLarge), bad, Operator);
        for kind in [ErrorKind::Config, ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Declined] {
            check(new(kind), refused.clone(), Operator);
        }
        check(new(ErrorKind::Store), ours.clone(), Operator);
        check(new(ErrorKind::Overloaded), ours, Operator);
        check(new(ErrorKind::Conflict), Stop::Unsettled, Nobody);
        check(new(ErrorKind::Cancelled), Stop::Superseded, Nobody);
    }
}

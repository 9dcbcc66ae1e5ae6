//! The lists of addresses SendGrid does not write to, and why.

use palisade_core::Timestamp;
use serde::{Deserialize, Deserializer};

use crate::operation::{self, Suppressions};

/// A list of suppressed addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: SendGrid has these five")]
pub enum List {
    /// The recipient's server refused for good.
    Bounces,
    /// The recipient's server refused this time: the address itself may be fine.
    Blocks,
    /// The recipient marked a mail as spam.
    SpamReports,
    /// The recipient wants no mail of this account at all.
    Unsubscribes,
    /// The address is not one.
    InvalidEmails,
}

impl List {
    /// All lists.
    pub const ALL: [Self; 5] =
        [Self::Bounces, Self::Blocks, Self::SpamReports, Self::Unsubscribes, Self::InvalidEmails];

    /// Returns the list's name: its part of the path, and the name of its stream.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bounces => "bounces",
            Self::Blocks => "blocks",
            Self::SpamReports => "spam_reports",
            Self::Unsubscribes => "unsubscribes",
            Self::InvalidEmails => "invalid_emails",
        }
    }

    /// Finds a list by its name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|list| list.name() == name)
    }

    /// Returns the list's operations.
    #[must_use]
    pub(crate) fn operations(self) -> &'static Suppressions {
        match self {
            Self::Bounces => &operation::BOUNCES,
            Self::Blocks => &operation::BLOCKS,
            Self::SpamReports => &operation::SPAM_REPORTS,
            Self::Unsubscribes => &operation::UNSUBSCRIBES,
            Self::InvalidEmails => &operation::INVALID_EMAILS,
        }
    }
}

/// A suppressed address.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Suppression {
    /// The address.
    pub email: String,
    /// Since when, to the second.
    #[serde(default, deserialize_with = "seconds")]
    pub created: Option<Timestamp>,
    /// What the recipient's server said. Holds whatever the server wrote, addresses among it.
    #[serde(default)]
    pub reason: Option<String>,
    /// The server's enhanced status code (`5.1.1`).
    #[serde(default)]
    pub status: Option<String>,
    /// The address the mail was sent from, for spam reports.
    #[serde(default)]
    pub ip: Option<String>,
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let number: Option<serde_json::Number> = Option::deserialize(deserializer)?;
    #[expect(clippy::cast_possible_truncation, reason = "a float is cut to its whole seconds, and saturates")]
    let whole = |number: serde_json::Number| number.as_i64().or(number.as_f64().map(|seconds| seconds as i64));
    Ok(number.and_then(whole).map(Timestamp::from_seconds))
}

/// Writes an address as a record's id: SendGrid takes addresses that differ in case for the same.
pub(crate) fn id(email: &str) -> String {
    email.trim().to_ascii_lowercase()
}

//! A message's status, and which of two reports of it counts.
//!
//! Status callbacks come in any order: a `sent` may follow the `delivered` it came before (Twilio, outbound message
//! status in status callbacks). So a status is ranked, and a report counts only when it ranks above what is known.

use std::fmt;

/// How far a message has come (Twilio API reference, message status values, 2026-04).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageStatus {
    /// Kept until its time.
    Scheduled,
    /// Taken by a messaging service, which is choosing a sender.
    Accepted,
    /// Waiting for the sender's turn.
    Queued,
    /// On its way to the carrier.
    Sending,
    /// The carrier has it.
    Sent,
    /// It arrived at some of its recipients.
    PartiallyDelivered,
    /// The carrier says that it arrived.
    Delivered,
    /// The carrier says that it did not arrive.
    Undelivered,
    /// It could not be sent.
    Failed,
    /// It was called back before its time.
    Canceled,
    /// The recipient opened it (WhatsApp, RCS).
    Read,
    /// An inbound message is being taken.
    Receiving,
    /// An inbound message.
    Received,
    /// A status this crate does not know.
    Other(String),
}

impl MessageStatus {
    /// Reads Twilio's word.
    #[must_use]
    pub fn of(word: &str) -> Self {
        match word {
            "scheduled" => Self::Scheduled,
            "accepted" => Self::Accepted,
            "queued" => Self::Queued,
            "sending" => Self::Sending,
            "sent" => Self::Sent,
            "partially_delivered" => Self::PartiallyDelivered,
            "delivered" => Self::Delivered,
            "undelivered" => Self::Undelivered,
            "failed" => Self::Failed,
            "canceled" => Self::Canceled,
            "read" => Self::Read,
            "receiving" => Self::Receiving,
            "received" => Self::Received,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Returns Twilio's word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Accepted => "accepted",
            Self::Queued => "queued",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::PartiallyDelivered => "partially_delivered",
            Self::Delivered => "delivered",
            Self::Undelivered => "undelivered",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Read => "read",
            Self::Receiving => "receiving",
            Self::Received => "received",
            Self::Other(word) => word,
        }
    }

    /// Returns how far the status is along a message's way; a word this crate does not know ranks below all others.
    #[must_use]
    pub fn rank(&self) -> u8 {
        match self {
            Self::Other(_) => 0,
            Self::Scheduled => 1,
            Self::Accepted => 2,
            Self::Queued | Self::Receiving => 3,
            Self::Sending => 4,
            Self::Sent => 5,
            Self::PartiallyDelivered => 6,
            Self::Delivered | Self::Undelivered | Self::Failed | Self::Canceled | Self::Received => 7,
            Self::Read => 8,
        }
    }

    /// Tells whether a report of this status counts when `known` is known already: only one that is further along
    /// does, so whatever the order of arrival, the end is the same.
    ///
    /// ```
    /// use palisade_twilio::MessageStatus;
    ///
    /// assert!(MessageStatus::Delivered.supersedes(&MessageStatus::Sent));
    /// assert!(!MessageStatus::Sent.supersedes(&MessageStatus::Delivered), "it came late");
    /// ```
    #[must_use]
    pub fn supersedes(&self, known: &Self) -> bool {
        self.rank() > known.rank()
    }

    /// Tells whether nothing but `read` can follow.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.rank() >= Self::Delivered.rank()
    }
}

impl fmt::Display for MessageStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for MessageStatus {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of(&std::borrow::Cow::<'de, str>::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a late report overwrites a later state: every order of arrival ends in the same status.
    #[test]
    fn every_order_of_arrival_ends_alike() {
        let way = ["accepted", "queued", "sending", "sent", "delivered", "read"];
        let mut orders = vec![Vec::new()];
        for word in way {
            orders = orders
                .into_iter()
                .flat_map(|order: Vec<&str>| {
                    (0..=order.len()).map(move |at| {
                        let mut order = order.clone();
                        order.insert(at, word);
                        order
                    })
                })
                .collect();
        }
        assert_eq!(orders.len(), 720);
        for order in orders {
            let mut known = MessageStatus::Scheduled;
            for word in &order {
                let told = MessageStatus::of(word);
                if told.supersedes(&known) {
                    known = told;
                }
            }
            assert_eq!(known, MessageStatus::Read, "{order:?}");
        }
    }

    #[test]
    fn words_are_read_and_written_alike_and_unknown_ones_are_kept() {
        for word in ["scheduled", "accepted", "queued", "sending", "sent", "partially_delivered", "delivered"] {
            assert_eq!(MessageStatus::of(word).as_str(), word);
        }
        for word in ["undelivered", "failed", "canceled", "read", "receiving", "received", "beamed"] {
            assert_eq!(MessageStatus::of(word).as_str(), word);
        }
        assert!(!MessageStatus::of("beamed").supersedes(&MessageStatus::Scheduled));
        assert!(MessageStatus::Failed.is_final() && !MessageStatus::Sent.is_final());
    }
}

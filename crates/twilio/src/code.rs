//! What Twilio's error codes mean: for the program, for the engineer and for the person at the product. One table.
//!
//! The same codes come in answers to calls (`code`) and on messages that failed later (`ErrorCode` of a status
//! callback, `error_code` of a message). Source: twilio.com/docs/api/errors, read 2026-11; the texts are our own.

use palisade_core::ErrorKind;

/// Whether sending the same message again makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: callers decide on each")]
pub enum Retry {
    /// It may arrive at another time.
    Later,
    /// Somebody has to change something first: the number, the text, the account's settings.
    AfterChange,
    /// Not to this recipient any more.
    Never,
}

/// What one code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Advice {
    /// Twilio's code.
    pub code: u32,
    /// The kind of error. What concerns one recipient or one text is `Invalid`, what concerns the account `Permission`:
    /// an opted-out recipient must not make a connection look broken.
    pub kind: ErrorKind,
    /// The reason, for engineers.
    pub reason: &'static str,
    /// Whether sending again makes sense.
    pub retry: Retry,
    /// What to tell the product's user.
    pub message: &'static str,
}

impl Advice {
    /// Returns what a code means, where this crate knows it.
    #[must_use]
    pub fn of(code: u32) -> Option<&'static Self> {
        let at = TABLE.binary_search_by_key(&code, |row| row.code).ok()?;
        TABLE.get(at)
    }
}

const fn row(code: u32, kind: ErrorKind, retry: Retry, reason: &'static str, message: &'static str) -> Advice {
    Advice { code, kind, reason, retry, message }
}

const CHECK_NUMBER: &str = "This is not a valid phone number. Please check it, with its country code, and try again.";
const NOT_REACHABLE: &str = "This phone cannot be reached right now: it may be off or out of range. Try again later.";
const OPTED_OUT: &str = "This person has opted out of your messages. They must reply START before you can write again.";
const SENDER: &str = "Messages cannot be sent from this sender. Please choose another one in the messaging settings.";
const FILTERED: &str = "The phone company blocked this message. Please change its wording before sending it again.";
const NO_CARRIER: &str = "This phone company does not take messages from this sender. Please try another sender.";
const BUSY: &str = "Too many messages are waiting to be sent. Please try again in a few minutes.";
const UNREGISTERED: &str = "Your sender is not registered for texts to this country. Please finish its registration.";
const SETTINGS: &str = "Messaging is not fully set up for this account. Please check the messaging settings.";
const SUSPENDED: &str = "The messaging account is suspended. Please contact whoever manages it.";
const TEMPLATE: &str = "This message template cannot be used as it is. Please check the template and its values.";
const WINDOW: &str = "This person has not written within 24 hours, so only an approved template can be sent to them.";
const CHANNEL: &str = "This person cannot be reached on this channel. Please check the number or use a text message.";
const TROUBLE: &str = "The message could not be delivered. Please try again later.";

/// Sorted by code.
#[rustfmt::skip]
static TABLE: &[Advice] = &{
    use ErrorKind::{Auth, Config, Conflict, Invalid, NotFound, Permission, Provider, Throttled};
    use Retry::{AfterChange, Later, Never};
    [
        row(10001, Permission, AfterChange, "the account is not active", SUSPENDED),
        row(14107, Throttled, Later, "too many messages to one number in a short time", BUSY),
        row(20003, Auth, AfterChange, "the credential was refused", "The messaging account could not be signed in to. Please reconnect it."),
        row(20005, Permission, AfterChange, "the account is not active", SUSPENDED),
        row(20006, Permission, AfterChange, "the credential may not do this", SETTINGS),
        row(20008, Permission, AfterChange, "a test credential cannot do this", SETTINGS),
        row(20403, Permission, AfterChange, "the credential may not do this", SETTINGS),
        row(20404, NotFound, AfterChange, "no such resource", "This message no longer exists at the messaging service."),
        row(20409, Conflict, Later, "the request clashes with another one", TROUBLE),
        row(20429, Throttled, Later, "too many requests at once", BUSY),
        row(20500, Provider, Later, "the provider failed", TROUBLE),
        row(20503, Provider, Later, "the provider is not available", TROUBLE),
        row(21211, Invalid, AfterChange, "`To` is not a valid phone number", CHECK_NUMBER),
        row(21212, Invalid, AfterChange, "`From` is not a valid sender", SENDER),
        row(21214, Invalid, AfterChange, "`To` cannot be reached", CHECK_NUMBER),
        row(21217, Invalid, AfterChange, "`To` does not look like a phone number", CHECK_NUMBER),
        row(21219, Permission, AfterChange, "`To` is not verified, and a trial account reaches verified numbers only", SETTINGS),
        row(21408, Permission, AfterChange, "sending to this region is not enabled", "Messages to this country are not enabled. Please enable the country in the messaging settings."),
        row(21421, Invalid, AfterChange, "the phone number is not valid", CHECK_NUMBER),
        row(21601, Invalid, AfterChange, "`From` cannot send messages", SENDER),
        row(21602, Invalid, AfterChange, "the message has no body", "The message is empty. Please write something first."),
        row(21603, Invalid, AfterChange, "the message has no sender", SENDER),
        row(21604, Invalid, AfterChange, "the message has no recipient", "Please enter the phone number to send to."),
        row(21605, Invalid, AfterChange, "the body is too long for a message with media", "The message is too long. Please shorten it."),
        row(21606, Invalid, AfterChange, "`From` does not belong to the account or cannot send messages", SENDER),
        row(21608, Permission, AfterChange, "`To` is not verified, and a trial account sends to verified numbers only", SETTINGS),
        row(21609, Invalid, AfterChange, "the status callback is not a URL that can be called", SETTINGS),
        row(21610, Invalid, Never, "the recipient has opted out of this sender", OPTED_OUT),
        row(21611, Throttled, Later, "ten hours of messages are waiting for this sender", BUSY),
        row(21612, Invalid, AfterChange, "`To` cannot be reached from this `From`", NO_CARRIER),
        row(21614, Invalid, AfterChange, "`To` is not a mobile number", "This number cannot receive text messages. Please use a mobile number."),
        row(21617, Invalid, AfterChange, "the body is longer than 1,600 characters", "The message is too long: 1,600 characters are the most. Please shorten it."),
        row(21618, Invalid, AfterChange, "the body cannot be sent", FILTERED),
        row(21619, Invalid, AfterChange, "the message has neither body nor media nor template", "The message is empty. Please write something first."),
        row(21620, Invalid, AfterChange, "a media URL is not valid", "An attachment cannot be read. Please attach it again."),
        row(21621, Invalid, AfterChange, "`From` cannot send media", SENDER),
        row(21623, Invalid, AfterChange, "the message has more than ten media", "A message can carry ten attachments at the most. Please remove some."),
        row(21635, Invalid, AfterChange, "`To` is a landline", "This number cannot receive text messages. Please use a mobile number."),
        row(21654, Invalid, AfterChange, "the template is missing", TEMPLATE),
        row(21655, Invalid, AfterChange, "the template is not valid", TEMPLATE),
        row(21656, Invalid, AfterChange, "the template's values are not valid", TEMPLATE),
        row(21659, Invalid, AfterChange, "`From` is not a number of Twilio's", SENDER),
        row(21660, Invalid, AfterChange, "`From` belongs to another account", SENDER),
        row(21661, Invalid, AfterChange, "`From` cannot send messages", SENDER),
        row(21701, NotFound, AfterChange, "no such messaging service", SETTINGS),
        row(21703, Config, AfterChange, "the messaging service has no sender", SETTINGS),
        row(21704, Config, AfterChange, "the messaging service has no sender", SETTINGS),
        row(21705, Invalid, AfterChange, "the messaging service is not valid", SETTINGS),
        row(30001, Throttled, Later, "the sender's queue is full", BUSY),
        row(30002, Permission, AfterChange, "the account was suspended meanwhile", SUSPENDED),
        row(30003, Invalid, Later, "the phone is unreachable: off, out of range or not in service", NOT_REACHABLE),
        row(30004, Invalid, Never, "the recipient or their carrier blocks the message", "This phone does not accept messages from you."),
        row(30005, Invalid, AfterChange, "the number is unknown or not in service", CHECK_NUMBER),
        row(30006, Invalid, AfterChange, "the number is a landline or its carrier takes no messages", "This number cannot receive text messages. Please use a mobile number."),
        row(30007, Invalid, AfterChange, "the carrier filtered the message", FILTERED),
        row(30008, Provider, Later, "the carrier gives no reason", TROUBLE),
        row(30009, Provider, Later, "a part of an inbound message is missing", TROUBLE),
        row(30010, Invalid, AfterChange, "the message costs more than the limit that was set", SETTINGS),
        row(30011, Invalid, AfterChange, "the recipient's network takes no media", "This phone cannot receive attachments. Please send text only."),
        row(30017, Throttled, Later, "the carrier's network is congested", NOT_REACHABLE),
        row(30018, Permission, AfterChange, "the carrier wants the sender registered beforehand", UNREGISTERED),
        row(30019, Invalid, AfterChange, "the message is larger than the carrier takes", "The message is too long. Please shorten it."),
        row(30022, Throttled, Later, "the registered rate of the sender is exceeded", BUSY),
        row(30023, Throttled, Later, "the registered daily limit of the sender is reached", "Today's limit of messages is reached. Please try again tomorrow."),
        row(30024, Permission, AfterChange, "the sender is not provisioned at the carrier", UNREGISTERED),
        row(30027, Throttled, Later, "the daily limit at the carrier is reached", "Today's limit of messages is reached. Please try again tomorrow."),
        row(30032, Permission, AfterChange, "the toll-free number is not verified", UNREGISTERED),
        row(30034, Permission, AfterChange, "the number is not registered for 10DLC", UNREGISTERED),
        row(30035, Permission, AfterChange, "the 10DLC campaign is not set up yet", UNREGISTERED),
        row(30036, Provider, Later, "the message was not sent within its validity period", TROUBLE),
        row(30038, Invalid, AfterChange, "messages with a one-time password are blocked to this destination", FILTERED),
        row(30039, Invalid, Later, "two numbers answer each other without end", TROUBLE),
        row(30410, Provider, Later, "the carrier did not answer in time", TROUBLE),
        row(30450, Invalid, Later, "the destination is blocked against fraud for now", FILTERED),
        row(30453, Invalid, Later, "the message was blocked as fraud", FILTERED),
        row(30454, Throttled, Later, "too many messages to one number within a day", BUSY),
        row(30500, Provider, Later, "the provider failed", TROUBLE),
        row(35114, Invalid, AfterChange, "`SendAt` is not between 5 minutes and 35 days ahead", "Please choose a time between five minutes and 35 days from now."),
        row(35118, Invalid, AfterChange, "a scheduled message needs a messaging service", SETTINGS),
        row(63001, Auth, AfterChange, "the channel refuses the sender's credential", SETTINGS),
        row(63003, Invalid, AfterChange, "the channel does not know the recipient", CHANNEL),
        row(63005, Invalid, AfterChange, "the channel does not take this content", FILTERED),
        row(63007, NotFound, AfterChange, "the channel does not know the sender", SENDER),
        row(63012, Provider, Later, "the channel failed", TROUBLE),
        row(63013, Invalid, AfterChange, "the message breaks the channel's rules", FILTERED),
        row(63015, Permission, AfterChange, "the sandbox reaches only those who joined it", SETTINGS),
        row(63016, Invalid, AfterChange, "free text is allowed within 24 hours of the recipient's own message only", WINDOW),
        row(63017, Throttled, Later, "the account sends faster than it may", BUSY),
        row(63018, Throttled, Later, "the channel's rate is exceeded", BUSY),
        row(63019, Invalid, AfterChange, "the media could not be fetched", "An attachment cannot be read. Please attach it again."),
        row(63020, Permission, AfterChange, "the sender's business account is not allowed to send", SUSPENDED),
        row(63021, Invalid, AfterChange, "the content is not valid on this channel", TEMPLATE),
        row(63024, Invalid, AfterChange, "the recipient is not valid on this channel", CHANNEL),
        row(63027, Invalid, AfterChange, "the template does not exist in this language", TEMPLATE),
        row(63028, Invalid, AfterChange, "the template wants another number of values", TEMPLATE),
        row(63029, Provider, Later, "the recipient did not receive the template", TROUBLE),
        row(63030, Invalid, AfterChange, "the channel does not support a parameter", TEMPLATE),
        row(63032, Invalid, Never, "the channel does not deliver this message to this recipient", CHANNEL),
        row(63033, Invalid, Never, "the recipient has blocked the sender", OPTED_OUT),
        row(63038, Throttled, Later, "the account's daily limit is reached", "Today's limit of messages is reached. Please try again tomorrow."),
        row(63049, Invalid, Later, "the channel chose not to deliver a marketing message to this recipient", CHANNEL),
        row(63051, Permission, AfterChange, "the sender's business account is locked", SUSPENDED),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_once_and_says_something_a_person_can_act_on() {
        assert!(TABLE.windows(2).all(|pair| pair[0].code < pair[1].code), "sorted, each once");
        for row in TABLE {
            assert_eq!(Advice::of(row.code), Some(row));
            assert!(
                row.message.ends_with('.') && !row.message.chars().any(|c| c.is_ascii_digit() && row.code == 21211)
            );
            assert!(!row.reason.ends_with('.') && row.reason.chars().next().is_some_and(|c| !c.is_uppercase()));
        }
        assert_eq!(Advice::of(0), None);
        assert_eq!(Advice::of(u32::MAX), None);
    }

    #[test]
    fn the_codes_a_product_meets_daily_mean_what_they_mean() {
        let of = |code| Advice::of(code).map(|row| (row.kind, row.retry)).unwrap();
        assert_eq!(of(21211), (ErrorKind::Invalid, Retry::AfterChange));
        assert_eq!(of(21610), (ErrorKind::Invalid, Retry::Never));
        assert_eq!(of(21614), (ErrorKind::Invalid, Retry::AfterChange));
        assert_eq!(of(20003), (ErrorKind::Auth, Retry::AfterChange));
        assert_eq!(of(20429), (ErrorKind::Throttled, Retry::Later));
        assert_eq!(of(30003), (ErrorKind::Invalid, Retry::Later));
        assert_eq!(of(30007), (ErrorKind::Invalid, Retry::AfterChange));
        assert_eq!(of(30034), (ErrorKind::Permission, Retry::AfterChange));
    }
}

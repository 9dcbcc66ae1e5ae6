//! Reading Slack's JSON: what an object says of itself, and one spelling of equal objects.
//!
//! The same message comes from a list, from a thread and from an event, each time with a few fields that tell where it
//! was read rather than what it is. Those are left out of a record, and names are sorted, so that a record read twice is
//! the same bytes.

use bytes::Bytes;
use serde_json::Value;

/// Where a message was read or by whom, and what is counted from its replies, which are records of their own.
const OF_READING_A_MESSAGE: &[&str] = &[
    "channel",
    "channel_type",
    "event_ts",
    "hidden",
    "is_locked",
    "last_read",
    "latest_reply",
    "reply_count",
    "reply_users",
    "reply_users_count",
    "source_team",
    "subscribed",
    "suppress_notification",
    "unread_count",
    "user_team",
];
/// What a conversation's list and its details show of the reader rather than of the conversation.
const OF_READING_A_CONVERSATION: &[&str] =
    &["is_open", "last_read", "latest", "priority", "unread_count", "unread_count_display"];

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Conversation,
    Message,
    User,
}

/// Writes an object as a record.
pub(crate) fn record(kind: Kind, mut object: Value) -> Bytes {
    let left_out = match kind {
        Kind::Conversation => OF_READING_A_CONVERSATION,
        Kind::Message => OF_READING_A_MESSAGE,
        Kind::User => &[],
    };
    // Only its answers make a message the beginning of a thread, and the event of an answer does not carry it.
    let begins_thread =
        kind == Kind::Message && text(&object, "thread_ts").is_some_and(|at| text(&object, "ts") == Some(at));
    if let Value::Object(fields) = &mut object {
        fields.retain(|name, _| !(left_out.contains(&name.as_str()) || begins_thread && name == "thread_ts"));
    }
    // They are sorted anyway, unless some crate of the build asks serde_json to keep their order.
    object.sort_all_objects();
    Bytes::from(object.to_string())
}

/// Returns a field's text, if it is one and not empty.
pub(crate) fn text<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// Returns the id in a field that holds an id or an object with one.
pub(crate) fn id<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    text(object, name).or_else(|| text(object.get(name)?, "id"))
}

/// A message's time as Slack writes it, which is also its id: seconds, a point, and six digits that only tell messages
/// of one second apart. Kept as text; as a number it would lose its end.
pub(crate) fn is_ts(text: &str) -> bool {
    let digits = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
    text.split_once('.').is_some_and(|(seconds, fraction)| digits(seconds, 12) && digits(fraction, 9))
}

/// Returns the milliseconds of a `ts`.
pub(crate) fn ts_millis(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').filter(|_| is_ts(text))?;
    let millis = fraction.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    seconds.parse::<i64>().ok()?.checked_mul(1_000)?.checked_add(millis)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_the_same_bytes_wherever_it_was_read() {
        let from_history = json!({"type": "message", "user": "U1", "text": "x", "ts": "1.000001", "reply_count": 2, "subscribed": true});
        let from_event = json!({"ts": "1.000001", "channel": "C1", "text": "x", "user": "U1", "type": "message",
            "channel_type": "channel", "event_ts": "1.000001"});
        assert_eq!(record(Kind::Message, from_history), record(Kind::Message, from_event));
        let root = json!({"ts": "1.5", "thread_ts": "1.5", "text": "x"});
        assert_eq!(record(Kind::Message, root), record(Kind::Message, json!({"ts": "1.5", "text": "x"})));
        let answer = json!({"ts": "1.6", "thread_ts": "1.5"});
        assert_eq!(record(Kind::Message, answer), Bytes::from_static(br#"{"thread_ts":"1.5","ts":"1.6"}"#));
        let user = json!({"name": "a", "id": "U1", "channel": "kept"});
        assert_eq!(record(Kind::User, user), Bytes::from_static(br#"{"channel":"kept","id":"U1","name":"a"}"#));
        assert_eq!(record(Kind::Message, json!("odd")), Bytes::from_static(br#""odd""#));
    }

    #[test]
    fn times_are_read_to_the_millisecond_and_odd_ones_are_none() {
        for (text, expected) in [
            ("1767225600.000100", Some(1_767_225_600_000)),
            ("1767225600.123456", Some(1_767_225_600_123)),
            ("1.5", Some(1_500)),
            ("999999999999.999999999", Some(999_999_999_999_999)),
            ("1767225600", None),
            ("1767225600.", None),
            (".5", None),
            ("", None),
            ("-1.5", None),
            ("1e3.5", None),
            ("1.5&x=y", None),
            ("9999999999999.0", None),
        ] {
            assert_eq!(ts_millis(text), expected, "{text}");
        }
    }
}

//! Gmail's search box, as far as programs use it: places, addresses, subjects, ages, identifiers and words.

use super::mailbox::Message;
use super::mime::addresses;

const DAY: i64 = 86_400_000;

/// A search, read: every term must fit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Search<'a> {
    terms: Vec<(bool, &'a str, String)>,
}

impl<'a> Search<'a> {
    /// Reads `in:sent -from:ann@x.example "two words"`.
    pub(crate) fn read(text: &'a str) -> Self {
        let mut terms = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let wanted = !rest.starts_with('-');
            let term = rest.trim_start_matches('-');
            let quoted = term.split_once('"').filter(|(before, _)| !before.contains(char::is_whitespace));
            let (name, value, after) = match quoted {
                Some((before, inside)) => {
                    let (value, after) = inside.split_once('"').unwrap_or((inside, ""));
                    (before.trim_end_matches(':'), value, after)
                }
                None => {
                    let (word, after) = term.split_once(char::is_whitespace).unwrap_or((term, ""));
                    let (name, value) = word.split_once(':').unwrap_or(("", word));
                    (name, value, after)
                }
            };
            if !value.is_empty() {
                terms.push((wanted, name, value.to_lowercase()));
            }
            rest = after.trim_start();
        }
        Self { terms }
    }

    /// Tells whether it asks for a place that is hidden otherwise.
    pub(crate) fn looks_in(&self, label: &str) -> bool {
        let asks = |value: &str| value.eq_ignore_ascii_case(label) || value == "anywhere";
        self.terms.iter().any(|(wanted, name, value)| *wanted && matches!(*name, "in" | "label") && asks(value))
    }

    /// Tells whether a message is one of those looked for.
    pub(crate) fn finds(&self, message: &Message, now: i64) -> bool {
        self.terms.iter().all(|(wanted, name, value)| fits(message, name, value, now) == *wanted)
    }
}

fn fits(message: &Message, name: &str, value: &str, now: i64) -> bool {
    let header = |name: &str| message.part.header(name).unwrap_or_default();
    let has = |label: &str| message.labels.iter().any(|known| known.eq_ignore_ascii_case(label));
    let within = |text: &str| text.to_lowercase().contains(value);
    let age = |unit: i64, digits: &str| digits.parse::<i64>().map(|count| now - message.internal <= count * unit);
    match name {
        "in" | "label" => value == "anywhere" || has(value),
        "is" => match value {
            "read" => !has("UNREAD"),
            other => has(other),
        },
        "rfc822msgid" => {
            header("message-id").trim_matches(['<', '>']).eq_ignore_ascii_case(value.trim_matches(['<', '>']))
        }
        "from" => within(header("from")),
        "to" => addresses(header("to")).iter().any(|address| address.contains(value)),
        "subject" => within(header("subject")),
        "has" => value == "attachment" && message.part.parts.iter().any(|part| !part.filename.is_empty()),
        "newer_than" | "older_than" => {
            let (digits, unit) = value.split_at_checked(value.len().saturating_sub(1)).unwrap_or(("", ""));
            let days = match unit {
                "d" => 1,
                "m" => 30,
                _ => 365,
            };
            age(days * DAY, digits).is_ok_and(|newer| newer == (name == "newer_than"))
        }
        _ => within(header("subject")) || message.part.text("text/plain").is_some_and(|text| within(&text)),
    }
}

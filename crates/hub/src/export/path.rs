//! Paths into records, for columns of their own.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

/// The longest path, in steps.
const STEPS_MAX: usize = 32;

/// A column picked out of the records: names and numbers joined by dots, such as `address.city` or `items.0.id`.
///
/// Text is written as it is, numbers and truth values as they stand in the record, digit by digit; lists and objects as
/// JSON. What is missing or `null` is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    name: String,
}

/// What a column has in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Empty,
    Text(String),
    /// A number, `true`, `false`, or JSON of more.
    Literal(String),
}

impl Column {
    /// Reads a path.
    ///
    /// # Errors
    /// One phrase that says what is wrong.
    pub fn parse(path: &str) -> Result<Self, String> {
        if path.is_empty() || path.split('.').any(str::is_empty) {
            return Err("a column is names joined by dots: email, address.city, items.0.id".to_owned());
        }
        if path.split('.').count() > STEPS_MAX {
            return Err(format!("a column has at most {STEPS_MAX} steps"));
        }
        Ok(Self { name: path.to_owned() })
    }

    /// Returns its heading: the path.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Picks it out of a record's document.
    pub(super) fn pick(&self, document: &str) -> Cell {
        let Ok(mut at) = serde_json::from_str::<&RawValue>(document) else { return Cell::Empty };
        for step in self.name.split('.') {
            match self::step(at, step) {
                Some(next) => at = next,
                None => return Cell::Empty,
            }
        }
        let text = at.get();
        match text.as_bytes().first() {
            Some(b'n') | None => Cell::Empty,
            Some(b'"') => serde_json::from_str(text).map_or(Cell::Empty, Cell::Text),
            Some(_) => Cell::Literal(text.replace(['\n', '\r'], " ")),
        }
    }
}

/// Goes one step down.
fn step<'d>(at: &'d RawValue, step: &str) -> Option<&'d RawValue> {
    let text = at.get();
    match text.as_bytes().first()? {
        b'{' => {
            let mut object: HashMap<Cow<'d, str>, &'d RawValue> = serde_json::from_str(text).ok()?;
            object.remove(step)
        }
        b'[' => {
            let list: Vec<&'d RawValue> = serde_json::from_str(text).ok()?;
            list.get(step.parse::<usize>().ok()?).copied()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"email":"a\n\"b","n":12345678901234567890.10,"yes":true,"none":null,
        "a":{"b":{"c":"deep"},"é":"x"},"list":[{"id":"first"},{"id":"second"}]}"#;

    // Fails when a number is read and written again: its digits would change.
    #[test]
    fn a_column_is_picked_as_it_stands() {
        let text = |text: &str| Cell::Text(text.to_owned());
        let literal = |text: &str| Cell::Literal(text.to_owned());
        for (path, expected) in [
            ("email", text("a\n\"b")),
            ("n", literal("12345678901234567890.10")),
            ("yes", literal("true")),
            ("none", Cell::Empty),
            ("nothing", Cell::Empty),
            ("a.b.c", text("deep")),
            ("a.b", literal(r#"{"c":"deep"}"#)),
            ("a.é", text("x")),
            ("a.b.c.d", Cell::Empty),
            ("list.1.id", text("second")),
            ("list.2.id", Cell::Empty),
            ("list.x", Cell::Empty),
        ] {
            assert_eq!(Column::parse(path).unwrap().pick(DOCUMENT), expected, "{path}");
        }
        assert_eq!(Column::parse("a").unwrap().pick("no json"), Cell::Empty);
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(matches!(Column::parse("0.0.0").unwrap().pick(&deep), Cell::Literal(_)));
        for wrong in ["", ".", "a.", ".a", "a..b", &"a.".repeat(40)] {
            assert!(Column::parse(wrong).is_err(), "{wrong}");
        }
    }
}

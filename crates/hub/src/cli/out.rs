//! What commands write: tables for people, JSON for programs.
//!
//! A table has borders and the width of the terminal where it is one; through a pipe it has neither, so that `grep` and
//! `awk` read whole lines. Nothing is coloured. What others wrote (ids, reasons, bodies) cannot move the cursor.

use std::fmt;
use std::io::IsTerminal;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use palisade_core::Timestamp;
use serde::Serialize;

use super::{Failure, say};
use crate::time::rfc3339;

/// Writes rows under their headings.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let terminal = std::io::stdout().is_terminal();
    let mut table = Table::new();
    if terminal {
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(console::Term::stdout().size().1);
    } else {
        table.load_style(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table.set_header(headings);
    for row in rows {
        table.add_row(row.map(|cell| clean(&cell)));
    }
    // The padding of the last column is nobody's.
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    say(lines.join("\n"));
}

/// Writes facts of one thing, a line each.
pub(super) fn facts(facts: &[(&str, String)]) {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        say(format!("{name:width$}  {}", clean(value)));
    }
}

/// Writes one JSON document on one line.
pub(super) fn document(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|_| Failure::machine("the answer cannot be written as JSON"))?;
    // A provider's own JSON may stand on several lines; within a text of it a line's end is written as an escape.
    say(text.replace(['\r', '\n'], " "));
    Ok(())
}

/// Makes text harmless for a terminal: control characters, and those that turn the direction of writing, are replaced.
pub(super) fn clean(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

/// Returns the beginning of a text.
pub(super) fn short(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Writes a moment, or nothing.
pub(super) fn at(moment: Option<Timestamp>) -> String {
    moment.map_or_else(String::new, rfc3339)
}

/// Makes a progress bar on standard error, hidden where that is no terminal.
pub(super) fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Writes a value of a serialised enumeration as its word.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// Writes a number of things.
pub(super) fn count(number: u64, one: &str, many: &str) -> impl fmt::Display + use<> {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when an id or reason of somebody else can move the cursor or turn the line around.
    #[test]
    fn what_others_wrote_cannot_move_the_cursor() {
        for (text, expected) in [
            ("plain é 本", "plain é 本"),
            ("a\u{1b}[2Jb\n\tc\u{9b}", "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}"),
            ("\u{202e}gnp", "\u{fffd}gnp"),
        ] {
            assert_eq!(clean(text), expected);
        }
        assert_eq!((short("äöü", 3).as_str(), short("äöüß", 3).as_str()), ("äöü", "äöü…"));
    }
}

//! What commands write: tables for people, JSON for programs.
//!
//! On a terminal a table has borders, or is laid out so that nothing of it is cut; through a pipe it is plain lines with
//! every column, so that `grep` and `awk` read whole ones. Nothing is coloured. What others wrote (ids, reasons, bodies) cannot move the cursor.

use std::fmt;
use std::io::IsTerminal;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, TableStyle, Width, presets};
use console::measure_text_width;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use palisade_core::Timestamp;
use serde::Serialize;

use super::{Failure, say};
use crate::time::rfc3339;

/// The least width of a column that is folded.
const FOLDED_MIN: u16 = 24;

/// Writes rows under their headings.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let width = std::io::stdout().is_terminal().then(|| usize::from(console::Term::stdout().size().1));
    say(laid_out(&headings, &rows, width));
}

/// Lays rows out for a pipe, one a line; or for a terminal of a width, where nothing is cut: with borders where they fit,
/// with what does not fit of the last column under it, or else each row as lines of its own. A column in which nothing
/// stands is left out there.
fn laid_out(headings: &[&str], rows: &[Vec<String>], width: Option<usize>) -> String {
    let Some(width) = width else { return drawn(headings, rows, presets::NOTHING, None) };
    let says = |column: &usize| rows.iter().any(|row| row.get(*column).is_some_and(|cell| !cell.is_empty()));
    let kept: Vec<usize> = (0..headings.len()).filter(says).collect();
    let Some(last) = kept.len().checked_sub(1) else { return "nothing to list".to_owned() };
    let headings: Vec<&str> = kept.iter().filter_map(|column| headings.get(*column).copied()).collect();
    let of = |row: &Vec<String>| kept.iter().filter_map(|column| row.get(*column).cloned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(of).collect();
    let fits = |text: &String| text.lines().all(|line| measure_text_width(line) <= width);
    let whole = [presets::UTF8_FULL_CONDENSED, presets::NOTHING].map(|style| drawn(&headings, &rows, style, None));
    let folded = || drawn(&headings, &rows, presets::NOTHING, Some((last, width)));
    let found = whole.into_iter().find(&fits).or_else(|| Some(folded()).filter(fits));
    found.unwrap_or_else(|| rows.iter().map(|row| lines(&headings, row)).collect::<Vec<_>>().join("\n\n"))
}

/// Draws a table, with a column folded so that all of it has a width.
fn drawn(headings: &[&str], rows: &[Vec<String>], style: TableStyle, folded: Option<(usize, usize)>) -> String {
    let mut table = Table::new();
    table.load_style(style);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    for row in rows {
        table.add_row(row);
    }
    if let Some((column, width)) = folded {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
        for (number, one) in table.column_iter_mut().enumerate() {
            let least = ColumnConstraint::LowerBoundary(Width::Fixed(FOLDED_MIN));
            one.set_constraint(if number == column { least } else { ColumnConstraint::ContentWidth });
        }
    }
    // The padding of the last column is nobody's.
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Writes a row as lines of its own.
fn lines(headings: &[&str], row: &[String]) -> String {
    let width = headings.iter().map(|heading| heading.len()).max().unwrap_or(0);
    let said = headings.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
    said.map(|(heading, cell)| format!("{heading:width$}  {cell}")).collect::<Vec<_>>().join("\n")
}

/// Writes facts of one thing, a line each.
pub(super) fn facts(facts: &[(&str, String)]) {
    let names: Vec<&str> = facts.iter().map(|(name, _)| *name).collect();
    let values: Vec<String> = facts.iter().map(|(_, value)| clean(value)).collect();
    say(lines(&names, &values));
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

    // Fails when a terminal breaks an id or a moment in two, a wide table is written as a jumble, a column that says
    // nothing takes room, or a pipe is given anything else than one line for each row.
    #[test]
    fn a_table_is_laid_out_so_that_nothing_is_cut() {
        const REASON: &str = "the provider has no such customer any more";
        let headings = ["id", "state", "account", "ended", "reason"];
        let row = |id: &str| {
            ["evt_1Kee7KG9zSqq", "dead", "", "2026-11-23T02:38:47Z", REASON].map(|cell| cell.replace("evt_1", id))
        };
        let rows = [row("evt_1").to_vec(), row("evt_2").to_vec()];
        #[track_caller]
        fn check(text: &str, width: usize, lines: usize) {
            for word in ["evt_1Kee7KG9zSqq", "evt_2Kee7KG9zSqq", "2026-11-23T02:38:47Z"] {
                assert!(text.contains(word), "{word} is cut:\n{text}");
            }
            assert!(!text.contains("account"), "nothing stands in it:\n{text}");
            assert!(text.lines().all(|line| measure_text_width(line) <= width), "wider than {width}:\n{text}");
            assert_eq!(text.lines().count(), lines, "\n{text}");
        }
        let at = |width: usize| laid_out(&headings, &rows, Some(width));
        assert!(at(120).starts_with('┌') && at(120).contains(REASON));
        check(&at(120), 120, 6);
        assert!(at(95).starts_with(" id") && at(95).contains(REASON), "{}", at(95));
        check(&at(95), 95, 3);
        check(&at(80), 80, 5);
        let narrow = at(60);
        check(&narrow, 60, 9);
        assert!(
            narrow.starts_with("id      evt_1Kee7KG9zSqq\nstate   dead\nended   2026-11-23T02:38:47Z\nreason  the ")
        );
        let piped = laid_out(&headings, &rows, None);
        assert_eq!(piped.lines().count(), 3);
        assert!(piped.contains("account") && piped.contains(REASON), "{piped}");
        assert_eq!(laid_out(&headings, &[], Some(80)), "nothing to list");
        assert!(laid_out(&headings, &[], None).contains("reason"));
    }

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

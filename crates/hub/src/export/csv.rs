//! CSV, as RFC 4180 has it.

use std::io::{self, Write};

use csv::{ErrorKind, Terminator, Writer, WriterBuilder};
use palisade_core::store::FeedEntry;

use super::path::Cell;
use super::{BASE, Column, Options, Sheet, text_of};
use crate::time::rfc3339;

pub(super) struct Csv<W: Write> {
    out: Writer<W>,
    columns: Vec<Column>,
    guard: bool,
}

impl<W: Write> Csv<W> {
    pub(super) fn new(out: W, options: &Options) -> io::Result<Self> {
        let mut out = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
        let guard = options.guard_formulas;
        let headings = BASE.iter().copied().chain(options.columns.iter().map(Column::name));
        out.write_record(headings.map(|heading| guarded(heading.to_owned(), guard))).map_err(failed)?;
        Ok(Self { out, columns: options.columns.clone(), guard })
    }
}

/// Tells what the target said, so that a pipe that closed can be told apart.
fn failed(error: csv::Error) -> io::Error {
    let said = error.to_string();
    if let ErrorKind::Io(error) = error.into_kind() {
        return error;
    }
    io::Error::other(said)
}

/// Puts an apostrophe before text that a spreadsheet would run.
fn guarded(text: String, guard: bool) -> String {
    if guard && text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
}

impl<W: Write + Send> Sheet<W> for Csv<W> {
    fn page(&mut self, entries: &[FeedEntry]) -> io::Result<()> {
        for entry in entries {
            let record = &entry.record;
            let text = text_of(entry);
            let guard = self.guard;
            self.out.write_field(guarded(record.id.to_string(), guard)).map_err(failed)?;
            self.out.write_field(record.seq.to_string()).map_err(failed)?;
            self.out.write_field(rfc3339(record.changed_at)).map_err(failed)?;
            self.out.write_field(if record.data.is_none() { "true" } else { "false" }).map_err(failed)?;
            self.out.write_field(guarded(text.clone().unwrap_or_default(), guard)).map_err(failed)?;
            for column in &self.columns {
                let cell = text.as_deref().map_or(Cell::Empty, |text| column.pick(text));
                let cell = match cell {
                    Cell::Empty => String::new(),
                    Cell::Text(text) => guarded(text, guard),
                    Cell::Literal(text) => text,
                };
                self.out.write_field(cell).map_err(failed)?;
            }
            self.out.write_record(None::<&[u8]>).map_err(failed)?;
        }
        Ok(())
    }

    fn end(mut self: Box<Self>) -> io::Result<W> {
        self.out.flush()?;
        self.out.into_inner().map_err(|error| error.into_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when text of a provider's users can run in whoever opens the file, or a number is turned into text.
    #[test]
    fn text_that_would_run_in_a_spreadsheet_gets_an_apostrophe() {
        for (text, expected) in [
            ("=HYPERLINK(\"x\")", "'=HYPERLINK(\"x\")"),
            ("+1", "'+1"),
            ("-2+3", "'-2+3"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "'\t=1"),
            ("\r=1", "'\r=1"),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(guarded(text.to_owned(), true), expected);
            assert_eq!(guarded(text.to_owned(), false), text);
        }
    }
}

//! JSON Lines.

use std::io::{self, Write};

use palisade_core::store::FeedEntry;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::path::Cell;
use super::{Column, Options, Sheet, text_of};
use crate::time::rfc3339;

pub(super) struct JsonLines<W> {
    out: W,
    columns: Vec<Column>,
}

/// One line; the columns asked for stand beside the usual ones.
struct Line<'a> {
    entry: &'a FeedEntry,
    columns: &'a [Column],
}

/// A value in the text of a document, as it stands there.
#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    Null,
}

impl<'a> Value<'a> {
    /// Reads JSON; what is none is text.
    fn of(text: &'a str) -> Self {
        serde_json::from_str(text).map_or(Self::Text(text), Self::Json)
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = &self.entry.record;
        let text = text_of(self.entry);
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("id", record.id.as_str())?;
        line.serialize_entry("seq", &record.seq)?;
        line.serialize_entry("changed_at", &rfc3339(record.changed_at))?;
        line.serialize_entry("deleted", &record.data.is_none())?;
        line.serialize_entry("data", &text.as_deref().map_or(Value::Null, Value::of))?;
        for column in self.columns {
            let cell = text.as_deref().map_or(Cell::Empty, |text| column.pick(text));
            line.serialize_entry(
                column.name(),
                &match &cell {
                    Cell::Empty => Value::Null,
                    Cell::Text(text) => Value::Text(text),
                    Cell::Literal(text) => Value::of(text),
                },
            )?;
        }
        line.end()
    }
}

impl<W: Write> JsonLines<W> {
    pub(super) fn new(out: W, options: &Options) -> Self {
        Self { out, columns: options.columns.clone() }
    }
}

impl<W: Write + Send> Sheet<W> for JsonLines<W> {
    fn page(&mut self, entries: &[FeedEntry]) -> io::Result<()> {
        for entry in entries {
            let line = Line { entry, columns: &self.columns };
            serde_json::to_writer(&mut self.out, &line)?;
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn end(self: Box<Self>) -> io::Result<W> {
        Ok(self.out)
    }
}

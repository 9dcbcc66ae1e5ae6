//! JSON Lines.

use std::io::{self, Write};

use palisade_core::store::FeedEntry;
use serde::Serialize;
use serde_json::value::RawValue;

use super::path::Cell;
use super::{Column, Options, Sheet, text_of};
use crate::time::rfc3339;

pub(super) struct JsonLines<W> {
    out: W,
    columns: Vec<Column>,
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    seq: u64,
    changed_at: String,
    deleted: bool,
    /// The document; as text where it is no JSON.
    data: Data<'a>,
    #[serde(flatten)]
    columns: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Json(&'a RawValue),
    Text(&'a str),
    None,
}

impl<W: Write> JsonLines<W> {
    pub(super) fn new(out: W, options: &Options) -> Self {
        Self { out, columns: options.columns.clone() }
    }
}

impl<W: Write + Send> Sheet<W> for JsonLines<W> {
    fn page(&mut self, entries: &[FeedEntry]) -> io::Result<()> {
        for entry in entries {
            let record = &entry.record;
            let text = text_of(entry);
            let data = match &text {
                None => Data::None,
                Some(text) => serde_json::from_str(text).map_or(Data::Text(text), Data::Json),
            };
            let picked = self.columns.iter().map(|column| {
                let cell = text.as_deref().map_or(Cell::Empty, |text| column.pick(text));
                let value = match cell {
                    Cell::Empty => serde_json::Value::Null,
                    Cell::Text(text) => text.into(),
                    Cell::Literal(text) => serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)),
                };
                (column.name().to_owned(), value)
            });
            let line = Line {
                id: record.id.as_str(),
                seq: record.seq,
                changed_at: rfc3339(record.changed_at),
                deleted: record.data.is_none(),
                data,
                columns: picked.collect(),
            };
            serde_json::to_writer(&mut self.out, &line)?;
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn end(self: Box<Self>) -> io::Result<W> {
        Ok(self.out)
    }
}

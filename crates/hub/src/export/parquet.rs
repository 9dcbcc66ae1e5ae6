//! Parquet, by the crate's column writers: nothing of Arrow is needed for flat rows.
//!
//! `seq` and `changed_at` (milliseconds, UTC) are 64-bit integers, `deleted` is a truth value, the rest is UTF-8. A row group
//! is written when it has enough rows or bytes; that much is kept in memory.

use std::io::{self, Write};
use std::sync::Arc;

use palisade_core::store::FeedEntry;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;

use super::path::Cell;
use super::{About, Column, Options, Sheet, text_of};

/// Rows of a row group.
const ROWS_MAX: usize = 100_000;
/// Bytes of a row group.
const BYTES_MAX: usize = 32 << 20;

/// A column of texts, some of them missing.
#[derive(Default)]
struct Texts {
    values: Vec<ByteArray>,
    present: Vec<i16>,
}

impl Texts {
    /// Adds a text and returns its bytes.
    fn push(&mut self, text: Option<String>) -> usize {
        self.present.push(i16::from(text.is_some()));
        let text = text.map(String::into_bytes);
        let bytes = text.as_ref().map_or(0, Vec::len);
        self.values.extend(text.map(ByteArray::from));
        bytes
    }

    fn clear(&mut self) {
        self.values.clear();
        self.present.clear();
    }
}

pub(super) struct Parquet<W: Write + Send> {
    out: SerializedFileWriter<W>,
    columns: Vec<Column>,
    ids: Vec<ByteArray>,
    seqs: Vec<i64>,
    changed: Vec<i64>,
    deleted: Vec<bool>,
    data: Texts,
    picked: Vec<Texts>,
    bytes: usize,
}

fn failed(error: ParquetError) -> io::Error {
    // What the target says is under it: a pipe that closed is told apart by the caller.
    let said = error.to_string();
    if let ParquetError::External(source) = error {
        return source.downcast::<io::Error>().map_or_else(io::Error::other, |error| *error);
    }
    io::Error::other(said)
}

fn schema(columns: &[Column]) -> Result<Type, ParquetError> {
    let column = |name: &str, physical: Physical, logical: Option<LogicalType>, repetition: Repetition| {
        let column = Type::primitive_type_builder(name, physical).with_logical_type(logical);
        column.with_repetition(repetition).build().map(Arc::new)
    };
    let moment = LogicalType::timestamp(true, TimeUnit::MILLIS);
    let mut fields = vec![
        column("id", Physical::BYTE_ARRAY, Some(LogicalType::String), Repetition::REQUIRED)?,
        column("seq", Physical::INT64, None, Repetition::REQUIRED)?,
        column("changed_at", Physical::INT64, Some(moment), Repetition::REQUIRED)?,
        column("deleted", Physical::BOOLEAN, None, Repetition::REQUIRED)?,
        column("data", Physical::BYTE_ARRAY, Some(LogicalType::String), Repetition::OPTIONAL)?,
    ];
    for picked in columns {
        let text = Some(LogicalType::String);
        fields.push(column(picked.name(), Physical::BYTE_ARRAY, text, Repetition::OPTIONAL)?);
    }
    Type::group_type_builder("record").with_fields(fields).build()
}

impl<W: Write + Send> Parquet<W> {
    pub(super) fn new(out: W, options: &Options, about: &About) -> io::Result<Self> {
        let told = |key: &str, value: String| KeyValue::new(format!("palisade.{key}"), value);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("palisade ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(vec![
                told("connection", about.key.connection.to_string()),
                told("stream", about.key.stream.to_string()),
                told("head", about.head.to_string()),
                told("cursor", about.cursor.to_string()),
            ]))
            .build();
        let schema = Arc::new(schema(&options.columns).map_err(failed)?);
        let out = SerializedFileWriter::new(out, schema, Arc::new(properties)).map_err(failed)?;
        Ok(Self {
            out,
            columns: options.columns.clone(),
            ids: Vec::new(),
            seqs: Vec::new(),
            changed: Vec::new(),
            deleted: Vec::new(),
            data: Texts::default(),
            picked: options.columns.iter().map(|_| Texts::default()).collect(),
            bytes: 0,
        })
    }

    fn push(&mut self, entry: &FeedEntry) {
        let record = &entry.record;
        let text = text_of(entry);
        for (column, texts) in self.columns.iter().zip(&mut self.picked) {
            let cell = match text.as_deref().map_or(Cell::Empty, |text| column.pick(text)) {
                Cell::Empty => None,
                Cell::Text(text) | Cell::Literal(text) => Some(text),
            };
            self.bytes += texts.push(cell);
        }
        self.bytes += record.id.as_str().len() + self.data.push(text);
        self.ids.push(record.id.as_str().into());
        self.seqs.push(record.seq.cast_signed());
        self.changed.push(record.changed_at.millis());
        self.deleted.push(record.data.is_none());
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let mut group = self.out.next_row_group()?;
        put::<ByteArrayType, _>(&mut group, &self.ids, None)?;
        put::<Int64Type, _>(&mut group, &self.seqs, None)?;
        put::<Int64Type, _>(&mut group, &self.changed, None)?;
        put::<BoolType, _>(&mut group, &self.deleted, None)?;
        for texts in std::iter::once(&self.data).chain(&self.picked) {
            put::<ByteArrayType, _>(&mut group, &texts.values, Some(&texts.present))?;
        }
        group.close()?;
        self.ids.clear();
        self.seqs.clear();
        self.changed.clear();
        self.deleted.clear();
        self.data.clear();
        self.picked.iter_mut().for_each(Texts::clear);
        self.bytes = 0;
        Ok(())
    }
}

/// Writes the next column of a row group.
fn put<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    present: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let column = group.next_column()?;
    let mut column =
        column.ok_or_else(|| ParquetError::General("a row has more columns than the schema".to_owned()))?;
    column.typed::<T>().write_batch(values, present, None)?;
    column.close()
}

impl<W: Write + Send> Sheet<W> for Parquet<W> {
    fn page(&mut self, entries: &[FeedEntry]) -> io::Result<()> {
        for entry in entries {
            self.push(entry);
            if self.ids.len() >= ROWS_MAX || self.bytes >= BYTES_MAX {
                self.flush().map_err(failed)?;
            }
        }
        Ok(())
    }

    fn end(mut self: Box<Self>) -> io::Result<W> {
        self.flush().map_err(failed)?;
        self.out.into_inner().map_err(failed)
    }
}

//! Streams as files: JSON Lines, CSV and Parquet.
//!
//! **What an export is a picture of**: one snapshot, as of the feed's head when it began. Whatever is committed while
//! it is written is not in it. It says at which head it was taken and gives a cursor: whoever loads the file and then
//! follows the feed from that cursor has everything once. While it lasts it holds one of the store's readers, and a
//! database that is written to keeps its log for as long.
//!
//! Memory is bounded: a few pages of records, and for Parquet one row group. Columns are the same in every form: `id`,
//! `seq` (its number in the feed), `changed_at`, `deleted`, `data`, then those asked for.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use palisade_core::Error;
use palisade_core::store::{FeedEntry, Store, StreamKey};

use crate::feed::FeedCursor;

mod csv;
mod json_lines;
#[cfg(feature = "parquet")]
mod parquet;
mod path;

pub use path::Column;

/// Records read at once.
const PAGE: u32 = 1_000;
/// The columns of every export.
const BASE: [&str; 5] = ["id", "seq", "changed_at", "deleted", "data"];

/// The form of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One JSON document a line; `data` is embedded byte by byte, but for line breaks between its tokens.
    JsonLines,
    /// RFC 4180 with a heading; lines end in CR LF.
    Csv,
    /// Apache Parquet, version 1 pages, Snappy.
    #[cfg(feature = "parquet")]
    Parquet,
}

/// What is exported, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "options; checked before anything is written")]
pub struct Options {
    /// The form.
    pub format: Format,
    /// Columns picked out of the records, after the usual ones.
    pub columns: Vec<Column>,
    /// Whether deleted records are left out; otherwise they are rows without data.
    pub live_only: bool,
    /// CSV only: whether text that a spreadsheet would take for a formula (it begins with `=`, `+`, `-`, `@`, a tab or a
    /// carriage return) gets an apostrophe before it. Numbers stay as they are. Programs that read the file back want
    /// this off.
    pub guard_formulas: bool,
}

impl Options {
    /// Returns the options of a form: every record, no further columns, formulas guarded.
    #[must_use]
    pub fn of(format: Format) -> Self {
        Self { format, columns: Vec::new(), live_only: false, guard_formulas: true }
    }

    /// Checks that every column has a name of its own.
    ///
    /// # Errors
    /// One sentence that names the column.
    pub fn check(&self) -> Result<(), String> {
        for (number, column) in self.columns.iter().enumerate() {
            let name = column.name();
            if BASE.contains(&name) {
                return Err(format!("the column {name} is there already, and so is all of the record in data"));
            }
            if self.columns.iter().take(number).any(|other| other.name() == name) {
                return Err(format!("the column {name} is named twice"));
            }
        }
        Ok(())
    }
}

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct Exported {
    /// Rows written.
    pub records: u64,
    /// The feed's head of which it is a picture.
    pub head: u64,
    /// Where to follow the feed from, after loading it.
    pub cursor: FeedCursor,
}

/// Why an export failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExportError {
    /// The records could not be read.
    Store(Error),
    /// The target could not be written.
    Write(io::Error),
}

impl std::fmt::Display for ExportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Store(_) => "the records could not be read",
            Self::Write(_) => "the export could not be written",
        })
    }
}

impl std::error::Error for ExportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::Write(error) => Some(error),
        }
    }
}

impl From<Error> for ExportError {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

/// Writes pages of records in one form.
trait Sheet<W>: Send {
    /// Writes records. The first page, which there always is, also brings what precedes them.
    fn page(&mut self, entries: &[FeedEntry]) -> io::Result<()>;
    /// Writes what follows the last record, and gives the target back.
    fn end(self: Box<Self>) -> io::Result<W>;
}

fn sheet<W: Write + Send + 'static>(out: W, options: &Options, about: &About) -> io::Result<Box<dyn Sheet<W>>> {
    Ok(match options.format {
        Format::JsonLines => {
            let _ = about;
            Box::new(json_lines::JsonLines::new(out, options))
        }
        Format::Csv => Box::new(csv::Csv::new(out, options)?),
        #[cfg(feature = "parquet")]
        Format::Parquet => Box::new(parquet::Parquet::new(out, options, about)?),
    })
}

/// What an export is of, for forms that say so inside.
#[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "only Parquet says so inside"))]
struct About {
    key: StreamKey,
    head: u64,
    cursor: FeedCursor,
}

/// Exports a stream to a target. `progress` is told after every page how far in the feed it is and how many records are
/// written. The target is not flushed to a disk.
///
/// # Errors
/// [`ExportError`]; what was written by then is not whole.
pub async fn export<W: Write + Send + 'static>(
    store: &dyn Store,
    key: StreamKey,
    options: Options,
    out: W,
    progress: impl FnMut(u64, u64) + Send,
) -> Result<Exported, ExportError> {
    let (exported, mut out) = run(store, key, options, BufWriter::new(out), progress).await?;
    out.flush()?;
    Ok(exported)
}

async fn run<W: Write + Send + 'static>(
    store: &dyn Store,
    key: StreamKey,
    options: Options,
    out: W,
    mut progress: impl FnMut(u64, u64) + Send,
) -> Result<(Exported, W), ExportError> {
    let mut pages = store.scan(key.clone(), PAGE);
    let (mut out, mut sheet_of, mut records) = (Some(out), None, 0_u64);
    let mut exported = Exported { records: 0, head: 0, cursor: FeedCursor::behind(&key, 0) };
    while let Some(page) = pages.next().await {
        let page = page?;
        let sheet = match (sheet_of.take(), out.take()) {
            (Some(sheet), _) => sheet,
            (None, Some(out)) => {
                exported = Exported { records: 0, head: page.head, cursor: FeedCursor::behind(&key, page.head) };
                sheet(out, &options, &About { key: key.clone(), head: page.head, cursor: exported.cursor })?
            }
            (None, None) => break,
        };
        let mut entries = page.entries;
        let seq = entries.last().map_or(page.head, |entry| entry.record.seq);
        entries.retain(|entry| !options.live_only || entry.record.data.is_some());
        records += entries.len() as u64;
        sheet_of = Some(
            blocking(move || {
                let mut sheet = sheet;
                sheet.page(&entries)?;
                Ok(sheet)
            })
            .await?,
        );
        progress(if page.more { seq } else { page.head }, records);
    }
    let Some(sheet) = sheet_of else {
        return Err(io::Error::other("the store gave no page").into());
    };
    let out = blocking(move || sheet.end()).await?;
    Ok((Exported { records, ..exported }, out))
}

/// Runs what may wait for a disk or a pipe on a thread that may.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(run).await.map_err(|_| io::Error::other("the thread that writes died"))?
}

/// Tells whether what is at a path is written straight: all but a regular file, such as a pipe, a device, or a link
/// (`/dev/stdout`). It cannot be replaced, or must not be.
pub(crate) fn is_written_straight(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file())
}

/// Exports a stream to a file, as [`export`] does. The file is there whole and on the disk, or what was there before is;
/// only its owner may read it. What is there and no regular file (a pipe, a device, a link) stays and is written into as
/// the export goes on.
///
/// # Errors
/// [`ExportError`]; nothing is left behind, but for what was written into a pipe, a device or a link.
pub async fn export_file(
    store: &dyn Store,
    key: StreamKey,
    options: Options,
    path: &Path,
    progress: impl FnMut(u64, u64) + Send,
) -> Result<Exported, ExportError> {
    let target = path.to_owned();
    let open = move || {
        let straight = is_written_straight(&target);
        straight.then(|| std::fs::File::options().write(true).create(true).truncate(true).open(target)).transpose()
    };
    if let Some(straight) = blocking(open).await? {
        let (exported, out) = run(store, key, options, BufWriter::new(straight), progress).await?;
        blocking(move || out.into_inner().map(drop).map_err(io::IntoInnerError::into_error)).await?;
        return Ok(exported);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    let beside = folder.clone();
    // Beside the target, so that the renaming is one step.
    let file = blocking(move || tempfile::Builder::new().prefix(".palisade-export-").tempfile_in(beside)).await?;
    let (exported, out) = run(store, key, options, BufWriter::new(file), progress).await?;
    let path = path.to_owned();
    blocking(move || {
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        // The name is on the disk when its folder is.
        #[cfg(unix)]
        std::fs::File::open(&folder)?.sync_all()?;
        Ok(())
    })
    .await?;
    Ok(exported)
}

/// Returns a record's document as text on one line: its line breaks stand between tokens, where a space means the same.
fn text_of(entry: &FeedEntry) -> Option<String> {
    let data = entry.record.data.as_ref()?;
    let mut text = String::from_utf8_lossy(data).into_owned();
    if text.contains(['\n', '\r']) && serde_json::from_str::<&serde_json::value::RawValue>(text.trim()).is_ok() {
        text = text.trim().replace(['\n', '\r'], " ");
    }
    Some(text)
}

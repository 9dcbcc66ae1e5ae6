//! `palisade export`: a stream as a file, or on standard output.

use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use palisade_core::store::Records;
use serde_json::json;

use super::out::{bar, count};
use super::place::{Opened, Place, store_failure, with_store};
use super::{Failure, say};
use crate::export::{self, Column, ExportError, Exported, Format, Options};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum As {
    /// JSON Lines: one document a line.
    Jsonl,
    /// Comma-separated values.
    Csv,
    /// Apache Parquet.
    #[cfg(feature = "parquet")]
    Parquet,
}

impl As {
    fn format(self) -> Format {
        match self {
            Self::Jsonl => Format::JsonLines,
            Self::Csv => Format::Csv,
            #[cfg(feature = "parquet")]
            Self::Parquet => Format::Parquet,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The connection.
    connection: String,
    /// The stream.
    stream: String,
    #[command(flatten)]
    place: Place,
    /// The form.
    #[arg(long)]
    format: As,
    /// The file, or - for standard output. A file is there whole or not at all.
    #[arg(long)]
    out: PathBuf,
    /// More columns: paths into the records, such as email,address.city,items.0.id.
    #[arg(long, value_delimiter = ',', value_parser = Column::parse)]
    columns: Vec<Column>,
    /// Leaves deleted records out.
    #[arg(long)]
    live: bool,
    /// CSV: writes text that a spreadsheet would take for a formula as it is, instead of with a ' before it.
    #[arg(long)]
    unguarded: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let options = Options {
        format: arguments.format.format(),
        columns: arguments.columns.clone(),
        live_only: arguments.live,
        guard_formulas: !arguments.unguarded,
    };
    options.check().map_err(Failure::usage)?;
    with_store(&arguments.place, async |opened| write(opened, arguments, options).await)
}

async fn write(opened: &Opened, arguments: &Arguments, options: Options) -> Result<(), Failure> {
    let key = opened.stream(&arguments.connection, &arguments.stream).await?;
    let status = opened.store.stream(key.clone()).await.map_err(|error| store_failure(&error))?;
    let bar = bar(Some(status.head), "{bar:40} {percent}% {msg}, {eta} left");
    let moved = bar.clone();
    let progress = move |seq: u64, records: u64| {
        moved.set_position(seq);
        moved.set_message(count(records, "record", "records").to_string());
    };
    let written = if arguments.out == Path::new("-") {
        export::export(&opened.store, key, options, std::io::stdout(), progress).await
    } else {
        export::export_file(&opened.store, key, options, &arguments.out, progress).await
    };
    bar.finish_and_clear();
    match written {
        Ok(exported) => {
            tell(arguments, &exported);
            Ok(())
        }
        // A reader that went away has what it wanted.
        Err(ExportError::Write(error)) if error.kind() == IoErrorKind::BrokenPipe => Ok(()),
        Err(ExportError::Write(error)) => {
            Err(Failure::machine(format!("{} cannot be written: {error}", arguments.out.display())))
        }
        Err(ExportError::Store(error)) => Err(store_failure(&error)),
    }
}

/// Says what was written: beside the data on standard error, so that a pipe holds nothing else. What is written straight
/// may be standard output by another name.
fn tell(arguments: &Arguments, exported: &Exported) {
    let cursor = exported.cursor.to_string();
    let told = json!({ "records": exported.records, "head": exported.head, "cursor": cursor });
    if arguments.out == Path::new("-") || export::is_written_straight(&arguments.out) {
        let _ = writeln!(std::io::stderr().lock(), "{told}");
    } else {
        say(told);
    }
}

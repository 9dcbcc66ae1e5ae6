//! `palisade export`: a stream as a file, or on standard output.

use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use palisade_core::store::Records;
use serde_json::json;

use super::asked::Ask;
use super::out::{bar, count};
use super::place::{Opened, with_store};
use super::{Failure, say};
use crate::export::{self, Column, ExportError, Exported, Format, Options};

/// What the help shows.
pub(super) const EXAMPLES: &str = "\
Examples:
  palisade export acme-stripe customers --out customers.csv --columns email,address.city
  palisade export acme-stripe customers --out customers.parquet --json
  palisade export acme-stripe customers --format jsonl --out - | gzip > customers.jsonl.gz";

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
    /// Returns the form that the end of a file's name says.
    fn of(out: &Path) -> Option<Self> {
        let end = out.extension()?.to_str()?.to_ascii_lowercase();
        Self::value_variants().iter().copied().find(|form| form.is_called(&end))
    }

    fn is_called(self, end: &str) -> bool {
        self.to_possible_value().is_some_and(|value| value.matches(end, false))
    }

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
    /// The connection, by its id.
    connection: String,
    /// The stream, by its name; `palisade connections show` lists them.
    stream: String,
    /// The form; what the file's name ends with otherwise.
    #[arg(long)]
    format: Option<As>,
    /// The file, or - for standard output. A file is there whole or not at all.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// More columns: paths into the records, such as email,address.city,items.0.id.
    #[arg(long, value_name = "PATH", value_delimiter = ',', value_parser = Column::parse)]
    columns: Vec<Column>,
    /// Leaves deleted records out.
    #[arg(long)]
    live: bool,
    /// CSV: writes text that a spreadsheet would take for a formula as it is, instead of with a ' before it.
    #[arg(long)]
    unguarded: bool,
    #[command(flatten)]
    ask: Ask,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let form = arguments.format.or_else(|| As::of(&arguments.out));
    let form = form.ok_or_else(|| {
        Failure::usage("say in which form: --format, or a file whose name ends with .jsonl, .csv or .parquet")
    })?;
    let options = Options {
        format: form.format(),
        columns: arguments.columns.clone(),
        live_only: arguments.live,
        guard_formulas: !arguments.unguarded,
    };
    options.check().map_err(Failure::usage)?;
    with_store(&arguments.ask.place, async |opened| write(opened, arguments, options).await)
}

async fn write(opened: &Opened, arguments: &Arguments, options: Options) -> Result<(), Failure> {
    let key = opened.stream(&arguments.connection, &arguments.stream).await?;
    let status = opened.store.stream(key.clone()).await?;
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
            Err(Failure::machine(format!("{} cannot be written: {error}", shown(&arguments.out))))
        }
        Err(ExportError::Store(error)) => Err(error.into()),
    }
}

/// Says what was written: beside the data on standard error, so that a pipe holds nothing else. What is written straight
/// may be standard output by another name.
fn tell(arguments: &Arguments, exported: &Exported) {
    let cursor = exported.cursor.to_string();
    let told = if arguments.ask.json {
        json!({ "records": exported.records, "head": exported.head, "cursor": cursor }).to_string()
    } else {
        let records = count(exported.records, "record", "records");
        format!("wrote {records} to {}; the feed goes on from the cursor {cursor}", shown(&arguments.out))
    };
    if arguments.out == Path::new("-") || export::is_written_straight(&arguments.out) {
        let _ = writeln!(std::io::stderr().lock(), "{told}");
    } else {
        say(told);
    }
}

fn shown(out: &Path) -> String {
    if out == Path::new("-") { "standard output".to_owned() } else { out.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when a name's end is read as another form, or one that says nothing as any.
    #[test]
    fn the_end_of_a_files_name_says_its_form() {
        for (out, expected) in [
            ("customers.csv", Some(As::Csv)),
            ("a.csv/customers.JSONL", Some(As::Jsonl)),
            #[cfg(feature = "parquet")]
            ("/tmp/customers.parquet", Some(As::Parquet)),
            ("customers.csv.gz", None),
            ("customers", None),
            ("csv", None),
            ("-", None),
        ] {
            assert_eq!(As::of(Path::new(out)), expected, "{out}");
        }
    }
}

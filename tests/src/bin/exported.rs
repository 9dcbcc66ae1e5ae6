//! One stream exported in every form, to be judged by other readers: `exported`. It prints where the files are as JSON on
//! its first line, and ends when its standard input closes.

use std::io::Write;
use std::path::Path;

use palisade_core::Timestamp;
use palisade_core::store::{Merge, Records, StreamKey};
use palisade_core::sync::{Change, Span, State};
use palisade_hub::export::{Column, Format, Options, export_file};
use palisade_store::{SqliteConfig, SqliteStore};

/// Records; every tenth is deleted again. More than one row group of a Parquet file.
const RECORDS: usize = 120_000;

type Failed = Box<dyn std::error::Error>;

fn key() -> StreamKey {
    StreamKey { connection: "acme".into(), stream: "customers".into() }
}

/// Writes a record's document with what other readers stumble over: quotes, line breaks, other scripts, formulas, large
/// numbers.
fn document(number: usize) -> String {
    let name = match number % 5 {
        0 => r#"Ada \"L\", the \\first\\"#,
        1 => r"two\r\nlines\ttab",
        2 => "日本 é 🦀",
        3 => "=1+1",
        _ => "",
    };
    format!(
        "{{\"id\":\"cus_{number}\",\n  \"name\":\"{name}\",\"big\":9007199254740993,\"a\":{{\"b\":[{number},null]}}}}"
    )
}

async fn fill(store: &SqliteStore) -> Result<(), Failed> {
    for from in (0..RECORDS).step_by(1_000) {
        let change = |number: usize, state: State, at: i64| Change {
            stream: "customers".into(),
            id: format!("cus_{number}").into(),
            span: Span::exact(at),
            state,
        };
        let all = from..from + 1_000;
        let there = all.clone().map(|number| change(number, State::Present(document(number).into()), 1)).collect();
        let gone = all.filter(|number| number % 10 == 0).map(|number| change(number, State::Deleted, 2)).collect();
        for changes in [there, gone] {
            let now = Timestamp(1_767_225_600_123);
            store.merge(vec![Merge { key: key(), read_since: Some(0), changes }], now).await?;
        }
    }
    Ok(())
}

async fn write(store: &SqliteStore, folder: &Path, format: Format, name: &str) -> Result<String, Failed> {
    let columns = ["name", "a.b.0", "a.b.1", "big"].map(Column::parse).into_iter().collect::<Result<_, _>>()?;
    let path = folder.join(name);
    let options = Options { columns, guard_formulas: false, ..Options::of(format) };
    export_file(store, key(), options, &path, |_, _| {}).await?;
    Ok(path.display().to_string())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let store = SqliteStore::open(SqliteConfig::at(folder.path().join("palisade.db")))?;
    fill(&store).await?;
    let said = serde_json::json!({
        "records": RECORDS.to_string(),
        "parquet": write(&store, folder.path(), Format::Parquet, "customers.parquet").await?,
        "csv": write(&store, folder.path(), Format::Csv, "customers.csv").await?,
        "jsonl": write(&store, folder.path(), Format::JsonLines, "customers.jsonl").await?,
    });
    store.close().await?;
    let mut out = std::io::stdout();
    writeln!(out, "{said}")?;
    out.flush()?;
    // Whoever started it closes this when they are done.
    tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await?;
    Ok(())
}

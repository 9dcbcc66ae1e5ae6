//! Exports: each form read back by another reader than the one that wrote it, whole files or none, one snapshot.

use std::fs;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use palisade_core::ErrorKind;
use palisade_hub::export::{self, Column, ExportError, Format, Options};
use palisade_hub::feed::FeedCursor;
use palisade_store::SqliteStore;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use serde_json::Value;

use crate::binary::ends;
use crate::commands::{Place, key, merge};

const EXPORT: &[&str] = &["export", "acme-stripe", "customers"];

/// Bytes that several may look at.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn exported(store: &SqliteStore, options: Options) -> (export::Exported, Vec<u8>) {
    let out = Shared::default();
    let exported = export::export(store, key(), options, out.clone(), |_, _| {}).await.unwrap();
    let bytes = out.0.lock().unwrap().clone();
    (exported, bytes)
}

fn columns(paths: &[&str]) -> Vec<Column> {
    paths.iter().map(|path| Column::parse(path).unwrap()).collect()
}

// Fails when a line breaks inside a record, a number loses digits, or a deletion is left out.
#[tokio::test]
async fn json_lines_hold_one_record_each_as_it_stands() {
    let place = Place::filled().await;
    let output = place.run(&[EXPORT, &["--format", "jsonl", "--out", "-", "--columns", "email,n", "--json"]].concat());
    ends(&output, 0, &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[0]["id"], &lines[0]["seq"], &lines[0]["deleted"]), (&"cus_1".into(), &1.into(), &false.into()));
    assert_eq!(
        (&lines[0]["data"]["email"], &lines[0]["email"]),
        (&"=a@x".into(), &"=a@x".into()),
        "nothing is guarded"
    );
    assert_eq!(
        (&lines[1]["id"], &lines[1]["deleted"], &lines[1]["data"]),
        (&"cus_2".into(), &true.into(), &Value::Null)
    );
    assert!(text.contains(r#""data":{"id":"cus_3","n":1.10}"#), "digit by digit: {text}");
    assert_eq!(lines[0]["changed_at"], "2026-01-01T00:00:00Z");
    let told: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&told["records"], &told["head"]), (&3.into(), &4.into()), "beside the data");
    let live = place.run(&[EXPORT, &["--format", "jsonl", "--out", "-", "--live"]].concat());
    assert_eq!(String::from_utf8(live.stdout).unwrap().lines().count(), 2);
    let told = String::from_utf8(live.stderr).unwrap();
    assert!(told.starts_with("wrote 2 records to standard output; the feed goes on from the cursor "), "{told}");
}

// Fails when a cell breaks its row, or text that a spreadsheet runs is written bare.
#[tokio::test]
async fn csv_is_read_back_cell_by_cell() {
    let place = Place::new();
    let store = place.open();
    let odd = r#"{"email":"=1+1","note":"a,\"b\"\r\nc","n":-5,"list":[1,2],"gone":null}"#;
    merge(&store, &[("-cus", Some(odd), 1), ("cus_2", None, 1)]).await;
    let options = Options { columns: columns(&["email", "note", "n", "list.1", "gone"]), ..Options::of(Format::Csv) };
    let (exported, bytes) = exported(&store, options.clone()).await;
    assert_eq!((exported.records, exported.head), (2, 2));
    let mut reader = csv::Reader::from_reader(&bytes[..]);
    let headings = ["id", "seq", "changed_at", "deleted", "data", "email", "note", "n", "list.1", "gone"];
    assert_eq!(reader.headers().unwrap(), &headings[..]);
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let moment = "2026-01-01T00:00:00Z";
    assert_eq!(rows[0], vec!["'-cus", "1", moment, "false", odd, "'=1+1", "a,\"b\"\r\nc", "-5", "2", ""]);
    assert_eq!(rows[1], vec!["cus_2", "2", moment, "true", "", "", "", "", "", ""]);
    assert!(bytes.ends_with(b"\r\n"));
    let (_, bare) = self::exported(&store, Options { guard_formulas: false, ..options }).await;
    let rows: Vec<_> = csv::Reader::from_reader(&bare[..]).into_records().map(Result::unwrap).collect();
    assert_eq!((&rows[0][0], &rows[0][5]), ("-cus", "=1+1"));
    store.close().await.unwrap();
}

// Fails when a column of the file holds something else, or the file does not say of what it is a picture.
#[tokio::test]
async fn parquet_is_read_back_row_by_row() {
    let place = Place::filled().await;
    let path = place.folder.path().join("customers.parquet");
    let out = path.display().to_string();
    // The form is what the name ends with.
    let told = place.json(&[EXPORT, &["--out", &out, "--columns", "email,n"]].concat());
    assert_eq!((&told["records"], &told["head"]), (&3.into(), &4.into()));
    assert!(told["cursor"].as_str().unwrap().parse::<FeedCursor>().is_ok());
    let reader = SerializedFileReader::new(Bytes::from(fs::read(&path).unwrap())).unwrap();
    let told = reader.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let told = |key: &str| told.iter().find(|one| one.key == key).and_then(|one| one.value.clone()).unwrap();
    assert_eq!((told("palisade.stream"), told("palisade.head")), ("customers".to_owned(), "4".to_owned()));
    assert!(told("palisade.cursor").parse::<FeedCursor>().is_ok());
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 3);
    let ids: Vec<_> = rows.iter().map(|row| row.get_string(0).unwrap().as_str()).collect();
    assert_eq!(ids, ["cus_1", "cus_2", "cus_3"]);
    assert_eq!(
        (rows[0].get_long(1).unwrap(), rows[0].get_bool(3).unwrap(), rows[1].get_bool(3).unwrap()),
        (1, false, true)
    );
    assert_eq!(rows[0].get_timestamp_millis(2).unwrap(), 1_767_225_600_000);
    assert_eq!((rows[0].get_string(5).unwrap().as_str(), rows[2].get_string(6).unwrap().as_str()), ("=a@x", "1.10"));
    assert!(rows[1].get_string(4).is_err(), "a deleted record has no data");
}

// Fails when more than one row group is written wrongly, or an empty stream gives no file.
#[tokio::test]
async fn large_and_empty_streams_are_whole_files() {
    let place = Place::new();
    let store = place.open();
    for options in [Options::of(Format::JsonLines), Options::of(Format::Csv), Options::of(Format::Parquet)] {
        let (exported, bytes) = exported(&store, options.clone()).await;
        assert_eq!((exported.records, exported.head), (0, 0));
        match options.format {
            Format::JsonLines => assert!(bytes.is_empty()),
            Format::Csv => assert_eq!(bytes, b"id,seq,changed_at,deleted,data\r\n"),
            Format::Parquet | _ => {
                assert_eq!(SerializedFileReader::new(Bytes::from(bytes)).unwrap().metadata().num_row_groups(), 0);
            }
        }
    }
    // Three row groups of 32 MiB at most.
    let data = format!(r#"{{"filling":"{}"}}"#, "x".repeat(30_000));
    for batch in 0..25 {
        let ids: Vec<String> = (0..100).map(|n| format!("cus_{batch}_{n}")).collect();
        merge(&store, &ids.iter().map(|id| (id.as_str(), Some(data.as_str()), 1)).collect::<Vec<_>>()).await;
    }
    let (told, bytes) = exported(&store, Options::of(Format::Parquet)).await;
    assert_eq!(told.records, 2_500);
    let reader = SerializedFileReader::new(Bytes::from(bytes)).unwrap();
    assert_eq!((reader.metadata().num_row_groups(), reader.metadata().file_metadata().num_rows()), (3, 2_500));
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert!(rows.iter().all(|row| row.get_string(4).unwrap() == &data));
    let seqs: Vec<_> = rows.iter().map(|row| row.get_long(1).unwrap()).collect();
    assert!(seqs.is_sorted() && seqs[2_499] == 2_500);
    store.close().await.unwrap();
}

// Fails when what is committed while an export is written gets into it, or is not found behind its cursor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_and_the_feed_behind_it_are_everything_once() {
    let place = Place::filled().await;
    let store = place.open();
    let clock = Arc::new(palisade_core::clock::ManualClock::starting_at(crate::fixtures::NOW));
    let hub = crate::fixtures::builder(Arc::new(store.clone()), clock).build().unwrap();
    for batch in 0..10 {
        let ids: Vec<String> = (0..500).map(|n| format!("cus_{batch}_{n}")).collect();
        merge(&store, &ids.iter().map(|id| (id.as_str(), Some(r#"{"n":1}"#), 5)).collect::<Vec<_>>()).await;
    }
    let out = Shared::default();
    let (first, mut told) = tokio::sync::mpsc::unbounded_channel();
    let options = Options::of(Format::JsonLines);
    let progress = move |seq, records| {
        let _ = first.send((seq, records));
    };
    let writing = {
        let (store, out) = (store.clone(), out.clone());
        tokio::spawn(async move { export::export(&store, key(), options, out, progress).await.unwrap() })
    };
    told.recv().await.unwrap();
    merge(&store, &[("cus_9_499", Some(r#"{"n":2}"#), 6), ("cus_late", Some("{}"), 6), ("cus_0_0", None, 6)]).await;
    let exported = writing.await.unwrap();
    let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    assert_eq!((exported.records, text.lines().count()), (5_003, 5_003));
    assert!(!text.contains("cus_late") && text.contains(r#""id":"cus_9_499""#) && !text.contains(r#"{"n":2}"#));
    let behind = hub.changes_so_far(&"acme-stripe".into(), &"customers".into(), Some(exported.cursor));
    let behind: Vec<_> = futures_util::StreamExt::collect::<Vec<_>>(behind).await;
    let ids: Vec<_> = behind.into_iter().map(|change| change.unwrap().record.id.to_string()).collect();
    assert_eq!(ids, ["cus_9_499", "cus_late", "cus_0_0"]);
    store.close().await.unwrap();
}

// Fails when a failed export leaves a file, a piece of one, or takes the old one away.
#[tokio::test]
async fn a_file_is_there_whole_or_as_it_was() {
    let place = Place::filled().await;
    let out = place.folder.path().join("customers.csv");
    let text = out.display().to_string();
    let files = || {
        let mut names: Vec<_> = crate::binary::files(place.folder.path())
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .filter(|name| !name.starts_with("palisade."))
            .collect();
        names.sort();
        names
    };
    ends(&place.run(&[EXPORT, &["--out", &text]].concat()), 0, &["wrote 3 records to", "customers.csv", "cursor"]);
    let first = fs::read(&out).unwrap();
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o077, 0, "only its owner may read it");
    }
    ends(&place.run(&[EXPORT, &["--format", "csv", "--out", &text, "--live"]].concat()), 0, &[]);
    assert_ne!(fs::read(&out).unwrap(), first, "replaced");
    assert_eq!(files(), ["customers.csv"]);
    // A link to standard output is written into and stays; it holds nothing but the data.
    let link = place.folder.path().join("link");
    std::os::unix::fs::symlink("/dev/stdout", &link).unwrap();
    let through = place.run(&[EXPORT, &["--format", "csv", "--out", &link.display().to_string()]].concat());
    ends(&through, 0, &["the feed goes on from the cursor"]);
    assert_eq!(through.stdout, first);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    fs::remove_file(&link).unwrap();
    assert_eq!(files(), ["customers.csv"]);
    let nowhere = place.folder.path().join("nowhere/customers.csv").display().to_string();
    ends(&place.run(&[EXPORT, &["--format", "csv", "--out", &nowhere]].concat()), 3, &["cannot be written"]);
    let folder = place.folder.path().display().to_string();
    ends(&place.run(&[EXPORT, &["--format", "csv", "--out", &folder]].concat()), 3, &["cannot be written"]);
    for (more, code, word) in [
        (&["--columns", "email,email"][..], 2, "named twice"),
        (&["--columns", "id"], 2, "there already"),
        (&["--columns", "a..b"], 2, "joined by dots"),
        (&["--format", "xml"], 2, "jsonl"),
        (&["--out", "customers.xml"], 2, "say in which form"),
        (&["--out", "-"], 2, "say in which form"),
    ] {
        let out: &[&str] = if more[0] == "--out" { &[] } else { &["--out", &text] };
        ends(&place.run(&[EXPORT, out, more].concat()), code, &[word]);
    }
    let wrong = ["export", "acme-stripe", "nothing", "--format", "csv", "--out", &text];
    ends(&place.run(&wrong), 1, &["no stream nothing"]);
    assert_eq!(files(), ["customers.csv"]);

    // A store that is gone in the middle leaves nothing either.
    let store = place.open();
    store.close().await.unwrap();
    let target = place.folder.path().join("gone.csv");
    let failed = export::export_file(&store, key(), Options::of(Format::Csv), &target, |_, _| {}).await.unwrap_err();
    assert!(matches!(&failed, ExportError::Store(error) if error.kind() == ErrorKind::Store), "{failed:?}");
    assert_eq!(files(), ["customers.csv"]);
}

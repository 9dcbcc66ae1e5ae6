//! A reader of the change feed that is killed: what it writes, and the verdict over it.
//!
//! It asks a hub over HTTP for the changes of every stream, page by page. Each page goes into a journal as one line; then
//! the cursor behind it takes the place of the last one in a file of its own. Killed between the two, it reads that page
//! again, and nothing else may ever come again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use palisade_emulator::stripe::Stripe;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fuse::{Ending, Moment, Side};
use crate::verdict::{self, Copy};
use crate::victims::{Reader, WITHIN};

/// The place where a page is asked for.
pub const PAGE: &str = "page";
/// The place where a page is written down.
pub const JOURNAL: &str = "journal";
/// The place where the cursor behind it is kept.
pub const CURSOR: &str = "cursor";
/// The argument of a reader that ends when it has read everything.
pub const ONCE: &str = "--once";
/// The journal's name.
pub const JOURNAL_FILE: &str = "journal.jsonl";

/// What was counted of a journal.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "only tests use it")]
pub struct Counts {
    /// Pages whose cursor was kept.
    pub pages: u64,
    /// The changes in them.
    pub changes: u64,
    /// Pages read again because the reader died before it kept their cursor.
    pub again: u64,
}

/// One stream as the journal tells it.
#[derive(Debug, Default)]
struct Told {
    /// The cursor kept before the last page.
    before: Option<String>,
    /// The last page: counted once the next one begins behind it.
    last: Option<Line>,
    /// The greatest number of all pages before the last.
    seq: u64,
    copy: Copy,
    counts: Counts,
}

#[derive(Debug)]
struct Line {
    next: String,
    changes: Vec<Value>,
}

impl Told {
    fn read(&mut self, stream: &str, from: Option<String>, line: Line) {
        if self.last.as_ref().is_some_and(|last| from.as_deref() == Some(last.next.as_str())) {
            self.keep(stream);
        } else {
            assert_eq!(from, self.before, "{stream}: the reader went on from a cursor it never kept");
            self.counts.again += u64::from(self.last.is_some());
        }
        self.last = Some(line);
    }

    /// Takes the last page for read: the cursor behind it was kept.
    fn keep(&mut self, stream: &str) {
        let Some(Line { next, changes }) = self.last.take() else { return };
        self.counts.pages += 1;
        for change in changes {
            let (id, seq) = (change["id"].as_str().expect("an id"), change["seq"].as_u64().expect("a number"));
            assert!(seq > self.seq, "{stream}: {id} comes as {seq} after {}, which was read and kept", self.seq);
            self.seq = seq;
            self.counts.changes += 1;
            if change["change"] == "deleted" {
                self.copy.remove(id);
            } else {
                self.copy.insert(id.to_owned(), change["data"].clone());
            }
        }
        self.before = Some(next);
    }
}

/// Asserts that a journal repeats nothing behind a cursor that was kept, leaves out nothing, and ends in the truth.
///
/// # Panics
/// When it does not.
#[must_use]
pub fn judge(journal: &str, truth: impl Fn(&str) -> Copy) -> Counts {
    let mut streams: BTreeMap<String, Told> = BTreeMap::new();
    // What is no JSON is a line its writer was killed in: its cursor was never kept.
    for line in journal.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        assert!(line["refused"].is_null(), "the hub refused the reader: {line}");
        let stream = line["stream"].as_str().expect("a stream");
        let next = line["next"].as_str().expect("a cursor").to_owned();
        let changes = line["changes"].as_array().expect("changes").clone();
        let from = line["from"].as_str().map(str::to_owned);
        streams.entry(stream.to_owned()).or_default().read(stream, from, Line { next, changes });
    }
    let mut all = Counts::default();
    for stream in verdict::record_streams() {
        let mut told = streams.remove(stream).unwrap_or_default();
        told.keep(stream);
        verdict::assert_same(stream, "what the reader of the feed has", &told.copy, &truth(stream));
        all.pages += told.counts.pages;
        all.changes += told.counts.changes;
        all.again += told.counts.again;
    }
    all
}

/// Readers one after the other over one folder, each killed at a drawn moment.
#[derive(Debug)]
pub struct Readers {
    stop: watch::Sender<bool>,
    task: JoinHandle<u64>,
}

impl Readers {
    /// Begins with the first.
    #[must_use]
    pub fn start(binary: &'static str, folder: &Path, hub: std::net::SocketAddr, seed: u64) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let (folder, mut dice) = (folder.to_owned(), StdRng::seed_from_u64(seed));
        let task = tokio::spawn(async move {
            let mut killed = 0;
            while !*stopped.borrow() {
                let mut reader = Reader::start(binary, &folder, hub, &[moment(&mut dice).argument()]);
                // While the hub is dead no moment of its own may come.
                let bound = Duration::from_millis(dice.random_range(200..4_000));
                tokio::select! {
                    biased;
                    _ = stopped.changed() => {}
                    () = reader.is_killed_within(bound) => {}
                }
                drop(reader);
                killed += 1;
            }
            killed
        });
        Self { stop, task }
    }

    /// Kills the last one; returns how many were killed.
    ///
    /// # Panics
    /// When one of them failed.
    pub async fn stop(self) -> u64 {
        let _ = self.stop.send(true);
        self.task.await.expect("every reader was killed, none gave up")
    }
}

/// Draws a moment of a reader's life.
fn moment(dice: &mut StdRng) -> Moment {
    let places = [
        (PAGE, Side::Before),
        (PAGE, Side::After),
        (JOURNAL, Side::After),
        (CURSOR, Side::Before),
        (CURSOR, Side::After),
    ];
    let (place, side) = places[dice.random_range(0..places.len())];
    Moment { place: place.to_owned(), side, nth: dice.random_range(1..40), ending: Ending::Kill }
}

/// Lets a last reader read to the end, and judges what all of them have written.
///
/// # Panics
/// When it does not end, or the verdict is bad.
pub async fn read_to_the_end(binary: &str, folder: &Path, hub: std::net::SocketAddr, emulator: &Stripe) -> Counts {
    Reader::start(binary, folder, hub, &[ONCE.to_owned()]).ends_within(WITHIN).await;
    let journal = std::fs::read(folder.join(JOURNAL_FILE)).expect("a journal");
    judge(&String::from_utf8_lossy(&journal), |stream| emulator.truth(stream))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(from: Option<&str>, next: &str, changes: &[(&str, u64, &str)]) -> String {
        let changes: Vec<Value> = changes
            .iter()
            .map(|(id, seq, change)| json!({ "id": id, "seq": seq, "change": change, "data": { "id": id } }))
            .collect();
        json!({ "stream": "customers", "from": from, "next": next, "changes": changes }).to_string() + "\n"
    }

    fn truth(of: &'static [&'static str]) -> impl Fn(&str) -> Copy {
        move |stream| match stream {
            "customers" => of.iter().map(|id| ((*id).to_owned(), json!({ "id": id }))).collect(),
            _ => Copy::new(),
        }
    }

    #[test]
    fn a_page_read_again_before_its_cursor_was_kept_is_no_repetition() {
        let journal = line(None, "a", &[("x", 1, "added")])
            + "{\"stream\":\"cust"
            + "\n"
            + &line(Some("a"), "b", &[("y", 2, "added")])
            + &line(Some("a"), "c", &[("y", 2, "added"), ("x", 3, "deleted")]);
        let counts = judge(&journal, truth(&["y"]));
        assert_eq!((counts.pages, counts.changes, counts.again), (2, 3, 1));
    }

    #[test]
    #[should_panic(expected = "which was read and kept")]
    fn what_was_kept_and_comes_again_is_found() {
        let journal = line(None, "a", &[("x", 1, "added")]) + &line(Some("a"), "b", &[("x", 1, "added")]);
        let _ = judge(&journal, truth(&["x"]));
    }

    #[test]
    #[should_panic(expected = "a cursor it never kept")]
    fn a_leap_is_found() {
        let journal = line(None, "a", &[("x", 1, "added")]) + &line(Some("z"), "b", &[("y", 2, "added")]);
        let _ = judge(&journal, truth(&["x", "y"]));
    }

    #[test]
    #[should_panic(expected = "lacks [\"y\"]")]
    fn a_gap_is_found() {
        let _ = judge(&line(None, "a", &[("x", 1, "added")]), truth(&["x", "y"]));
    }

    #[test]
    #[should_panic(expected = "the hub refused the reader")]
    fn a_refusal_is_found() {
        let _ = judge("{\"refused\":410}\n", truth(&[]));
    }
}

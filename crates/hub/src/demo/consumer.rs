//! A consumer of the change feed: follows every stream from the beginning while the story runs, and keeps its own copy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use palisade_core::store::{ChangeKind, Store, StreamKey};
use palisade_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How often it looks at all streams.
const EVERY: Duration = Duration::from_millis(150);
/// Entries read at once.
const PAGE: u32 = 1_000;

/// What the consumer holds of one stream at the end.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// Live records by id, from the feed alone.
    pub(super) copy: BTreeMap<String, serde_json::Value>,
    /// Entries read.
    pub(super) entries: u64,
    /// Entries that did not come after the one before.
    pub(super) backwards: u64,
}

/// What it holds of every stream.
pub(super) type Copies = BTreeMap<StreamKey, Followed>;

/// A consumer at work.
#[derive(Debug)]
pub(super) struct Consumer {
    task: JoinHandle<Result<Copies>>,
    quiet: watch::Sender<bool>,
}

impl Consumer {
    /// Begins to follow the streams.
    pub(super) fn follow(store: Arc<dyn Store>, keys: Vec<StreamKey>) -> Self {
        let (quiet, last) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut all: BTreeMap<StreamKey, (u64, Followed)> = BTreeMap::new();
            loop {
                // Looked at before reading: what was committed before the word is read after it.
                let is_last = *last.borrow();
                for key in &keys {
                    let (cursor, followed) = all.entry(key.clone()).or_default();
                    read(&*store, key, cursor, followed).await?;
                }
                if is_last {
                    return Ok(all.into_iter().map(|(key, (_, followed))| (key, followed)).collect());
                }
                sleep(EVERY).await;
            }
        });
        Self { task, quiet }
    }

    /// Reads to the end of the feed and returns what it holds.
    pub(super) async fn finish(self) -> Result<Copies> {
        let _ = self.quiet.send(true);
        self.task.await.map_err(|_| Error::new(ErrorKind::Cancelled, "the feed's consumer was stopped"))?
    }
}

async fn read(store: &dyn Store, key: &StreamKey, cursor: &mut u64, followed: &mut Followed) -> Result<()> {
    loop {
        let entries = store.changes(key.clone(), *cursor, PAGE).await?;
        for entry in &entries {
            followed.entries += 1;
            if entry.record.seq <= *cursor {
                followed.backwards += 1;
            }
            *cursor = entry.record.seq;
            let id = entry.record.id.as_str().to_owned();
            match (&entry.kind, &entry.record.data) {
                (ChangeKind::Added | ChangeKind::Updated, Some(data)) => {
                    followed.copy.insert(id, serde_json::from_slice(data).unwrap_or_default());
                }
                (ChangeKind::Deleted, _) | (_, None) => {
                    followed.copy.remove(&id);
                }
            }
        }
        if entries.len() < PAGE as usize {
            return Ok(());
        }
    }
}

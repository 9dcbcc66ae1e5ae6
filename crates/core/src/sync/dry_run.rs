//! A dry run: reads pages and merges them against the store without writing anything.
//!
//! It says what a run would do now. Each page is compared with what is stored, not with what the pages before it would
//! have left: a record that stands on two pages counts twice.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::driver::Driver;
use super::merge::{Incoming, Seen, Verdict, content_hash, merge};
use super::{Change, Next, State, StreamKind};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RecordId;
use crate::store::{MergeCounts, RunMode, StreamKey};

/// The most pages one dry run reads.
pub const DRY_RUN_PAGES_MAX: u32 = 50;
/// Examples kept of each kind.
const EXAMPLES_MAX: usize = 5;

/// What a run would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a plain message; any value is valid")]
pub struct DryRun {
    /// Pages read.
    pub pages: u32,
    /// Whether the last page was read; otherwise the counts are of the first pages only.
    pub complete: bool,
    /// What the merges would do; `deleted` holds what the pages themselves call deleted.
    pub counts: MergeCounts,
    /// Records that would be fetched first, because the pages do not say enough of them.
    pub to_fetch: u64,
    /// Records that could not be read and would be set aside.
    pub bad: u64,
    /// Events that the pages hold ([`StreamKind::Events`]).
    pub events: u64,
    /// Live records that a full run would delete as not seen; `None` where that cannot be told: of an incremental run,
    /// and when not all pages were read.
    pub unseen: Option<u64>,
    /// Some records that would be added.
    pub added: Vec<RecordId>,
    /// Some records that would change.
    pub updated: Vec<RecordId>,
    /// Some records the pages call deleted.
    pub deleted: Vec<RecordId>,
    /// Some records that could not be read, with what is wrong with them.
    pub unreadable: Vec<String>,
}

impl Driver<'_> {
    /// Reads up to `pages_max` pages (at most [`DRY_RUN_PAGES_MAX`]) of a stream as a run of the mode would, and tells
    /// what that would do. Nothing is written.
    ///
    /// # Errors
    /// Those of the reading; [`ErrorKind::Decode`] for a position that does not advance.
    pub async fn dry_run(&self, key: &StreamKey, kind: StreamKind, mode: RunMode, pages_max: u32) -> Result<DryRun> {
        let status = self.store.stream(key.clone()).await?;
        let mut at = match (kind, mode) {
            (StreamKind::Records, RunMode::Full) => None,
            (StreamKind::Events, _) | (StreamKind::Records, RunMode::Incremental) => status.cursor.clone(),
        };
        let mut dry_run = DryRun::default();
        let mut seen: BTreeSet<RecordId> = BTreeSet::new();
        while dry_run.pages < pages_max.clamp(1, DRY_RUN_PAGES_MAX) {
            let read = self.read(key, at).await?;
            dry_run.pages += 1;
            dry_run.events += read.page.events.len() as u64;
            dry_run.bad += read.page.bad.len() as u64;
            for bad in read.page.bad {
                let name = bad.id.as_ref().map_or("a record without an id", |id| id.as_str());
                keep(&mut dry_run.unreadable, format!("{name}: {}", bad.why));
                seen.extend(bad.id);
            }
            self.weigh(key, read.status.commits, read.page.changes, &mut dry_run, &mut seen).await?;
            match read.page.next {
                Next::More(next) if read.cursor.as_ref() == Some(&next) => {
                    return Err(Error::new(ErrorKind::Decode, "the cursor does not advance"));
                }
                Next::More(next) => at = Some(next),
                Next::Done { .. } => {
                    dry_run.complete = true;
                    break;
                }
            }
        }
        if dry_run.complete && mode == RunMode::Full && kind == StreamKind::Records {
            dry_run.unseen = Some(status.records.saturating_sub(self.living(key, seen).await?));
        }
        Ok(dry_run)
    }

    /// Weighs a page's changes by the merge rule.
    async fn weigh(
        &self,
        key: &StreamKey,
        since: u64,
        changes: Vec<Change>,
        dry_run: &mut DryRun,
        seen: &mut BTreeSet<RecordId>,
    ) -> Result<()> {
        let ids = changes.iter().map(|change| change.id.clone()).collect();
        let stored = self.store.stored(key.clone(), ids).await?;
        for (change, stored) in changes.into_iter().zip(stored) {
            let says = match &change.state {
                State::Present(data) => Seen::Present { hash: content_hash(data) },
                State::Deleted => Seen::Deleted,
                State::Unclear => Seen::Unclear,
            };
            let lives = stored.is_some_and(|stored| !stored.deleted);
            let counts = &mut dry_run.counts;
            // Of what is read now nothing is forgotten.
            let forgotten_before = i64::MIN;
            let incoming = Incoming { span: change.span, read_since: Some(since), seen: says, forgotten_before };
            match merge(stored, incoming) {
                Verdict::Fetch => dry_run.to_fetch += 1,
                Verdict::Older => counts.older += 1,
                Verdict::Confirm => counts.unchanged += 1,
                Verdict::Write if says == Seen::Deleted => {
                    counts.deleted += 1;
                    keep(&mut dry_run.deleted, change.id.clone());
                }
                Verdict::Write if lives => {
                    counts.updated += 1;
                    keep(&mut dry_run.updated, change.id.clone());
                }
                Verdict::Write => {
                    counts.added += 1;
                    keep(&mut dry_run.added, change.id.clone());
                }
            }
            seen.insert(change.id);
        }
        Ok(())
    }

    /// Counts the records that live here.
    async fn living(&self, key: &StreamKey, ids: BTreeSet<RecordId>) -> Result<u64> {
        let stored = self.store.stored(key.clone(), ids.into_iter().collect()).await?;
        Ok(stored.iter().flatten().filter(|stored| !stored.deleted).count() as u64)
    }
}

fn keep<T>(examples: &mut Vec<T>, one: T) {
    if examples.len() < EXAMPLES_MAX {
        examples.push(one);
    }
}

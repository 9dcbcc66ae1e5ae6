//! The records of the model: streams, the merge of changes, the feed, runs.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ConnectionId, RecordId, StreamName};
use crate::store::{
    ACCOUNT_DISCONNECTED, BAD_DROPPED_AT_ONCE, BAD_KEPT_MAX, ChangeKind, FeedEntry, FeedPage, Merge, MergeCounts,
    Missed, PageCommit, Record, Run, RunEnd, RunFilter, RunId, RunMode, RunState, StoredBad, StreamKey, StreamStatus,
};
use crate::sync::merge::{Incoming, Seen, Stored, Verdict, content_hash, forgotten_before, merge, span_after};
use crate::sync::{BadRecord, Cursor, Span, State, Stop};

/// Streams and runs.
#[derive(Default)]
pub(super) struct RecordsModel {
    streams: BTreeMap<StreamKey, Stream>,
    runs: BTreeMap<RunId, RunRow>,
    runs_stored: i64,
    /// The run under way of each stream that has one.
    running: BTreeMap<StreamKey, RunId>,
    runs_of: BTreeMap<ConnectionId, BTreeSet<RunId>>,
}

#[derive(Default)]
struct Stream {
    status: StreamStatus,
    rows: BTreeMap<RecordId, Row>,
    feed: BTreeMap<u64, RecordId>,
    /// The greatest number of a tombstone removed.
    horizon: u64,
    /// What could not be read, by [`BadRecord::key`](crate::sync::BadRecord::key).
    bad: BTreeMap<String, StoredBad>,
}

#[derive(Clone)]
struct Row {
    span: Span,
    observed: u64,
    hash: u64,
    data: Option<Bytes>,
    seq: u64,
    /// The feed number at which it (last) came to life.
    appeared: u64,
    first_seen: Timestamp,
    changed_at: Timestamp,
}

struct RunRow {
    run: Run,
    /// The last name its end looked at, empty before the first; `None` until its deletions were found lawful.
    swept: Option<String>,
}

/// Merges worked out and not yet committed.
#[derive(Default)]
pub(super) struct Staged {
    streams: BTreeMap<StreamKey, StagedStream>,
    counts: MergeCounts,
    pub(super) fetch: Vec<(StreamKey, RecordId)>,
}

struct StagedStream {
    commits: u64,
    head: u64,
    rows: BTreeMap<RecordId, Row>,
}

/// Deletions up to this number are always lawful.
const GUARD_ROWS: u64 = 50;
/// Deletions up to one in this many live records are always lawful (20 %).
const GUARD_SHARE: u64 = 5;

impl Row {
    fn stored(&self) -> Stored {
        Stored { span: self.span, observed: self.observed, deleted: self.data.is_none(), hash: self.hash }
    }

    fn record(&self, id: &RecordId) -> Record {
        Record {
            id: id.clone(),
            data: self.data.clone(),
            seq: self.seq,
            first_seen: self.first_seen,
            changed_at: self.changed_at,
        }
    }
}

impl RecordsModel {
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn status(&self, key: &StreamKey) -> StreamStatus {
        self.streams.get(key).map(|stream| stream.status.clone()).unwrap_or_default()
    }

    pub(super) fn streams(&self, connection: &ConnectionId) -> Vec<(StreamName, StreamStatus)> {
        let first = StreamKey { connection: connection.clone(), stream: StreamName::new("") };
        let own = self.streams.range(first..).take_while(|(key, _)| key.connection == *connection);
        own.map(|(key, stream)| (key.stream.clone(), stream.status.clone())).collect()
    }

    /// Works out what merges do, each change against what the one before left.
    pub(super) fn stage(&self, merges: &[Merge], now: Timestamp) -> Staged {
        let mut staged = Staged::default();
        for one in merges {
            for change in &one.changes {
                self.stage_change(&mut staged, one, &change.id, change.span, &change.state, now);
            }
        }
        staged
    }

    fn stage_change(
        &self,
        staged: &mut Staged,
        merged: &Merge,
        id: &RecordId,
        span: Span,
        state: &State,
        now: Timestamp,
    ) {
        let stream = self.streams.get(&merged.key);
        let target = staged.streams.entry(merged.key.clone()).or_insert_with(|| {
            let (commits, head) = stream.map_or((0, 0), |stream| (stream.status.commits, stream.status.head));
            StagedStream { commits: commits + 1, head, rows: BTreeMap::new() }
        });
        let row = target.rows.get(id).or_else(|| stream.and_then(|stream| stream.rows.get(id))).cloned();
        let (seen, hash, data) = match state {
            State::Present(data) => {
                let hash = content_hash(data);
                (Seen::Present { hash }, hash, Some(data.clone()))
            }
            State::Deleted => (Seen::Deleted, 0, None),
            State::Unclear => (Seen::Unclear, 0, None),
        };
        let incoming = Incoming { span, read_since: merged.read_since, seen, forgotten_before: forgotten_before(now) };
        let stored = row.as_ref().map(Row::stored);
        let span = span_after(stored, incoming);
        match merge(stored, incoming) {
            Verdict::Fetch => {
                let named = (merged.key.clone(), id.clone());
                if !staged.fetch.contains(&named) {
                    staged.fetch.push(named);
                }
            }
            Verdict::Older => staged.counts.older += 1,
            Verdict::Confirm => {
                staged.counts.unchanged += 1;
                if let Some(row) = row {
                    target.rows.insert(id.clone(), Row { span, observed: target.commits, ..row });
                }
            }
            Verdict::Write => {
                target.head += 1;
                let seq = target.head;
                let lived = row.as_ref().is_some_and(|row| row.data.is_some());
                match (&data, lived) {
                    (None, _) => staged.counts.deleted += 1,
                    (Some(_), true) => staged.counts.updated += 1,
                    (Some(_), false) => staged.counts.added += 1,
                }
                let appeared = row.as_ref().filter(|_| lived).map_or(seq, |row| row.appeared);
                let first_seen = row.map_or(now, |row| row.first_seen);
                let observed = target.commits;
                let row = Row { span, observed, hash, data, seq, appeared, first_seen, changed_at: now };
                target.rows.insert(id.clone(), row);
            }
        }
    }

    pub(super) fn commit(&mut self, staged: Staged) -> MergeCounts {
        for (key, change) in staged.streams {
            let stream = self.streams.entry(key).or_default();
            stream.status.commits = change.commits;
            stream.status.head = change.head;
            for (id, row) in change.rows {
                stream.bad.remove(&format!("={id}"));
                stream.put(id, row);
            }
            stream.status.bad = stream.bad.len() as u64;
        }
        staged.counts
    }

    pub(super) fn start_run(&mut self, key: StreamKey, mode: RunMode, now: Timestamp) -> Run {
        if let Some(row) = self.running.get(&key).and_then(|id| self.runs.get_mut(id)) {
            if row.run.mode == mode {
                row.run.resumed += 1;
                return row.run.clone();
            }
            let head = self.streams.get(&key).map_or(0, |stream| stream.status.head);
            fail(&mut row.run, "a run of the other mode took its place", head, now);
        }
        let status = &self.streams.entry(key.clone()).or_default().status;
        self.runs_stored += 1;
        let run = Run {
            id: RunId(self.runs_stored),
            key,
            mode,
            state: RunState::Running,
            cursor: match mode {
                RunMode::Full => None,
                RunMode::Incremental => status.cursor.clone(),
            },
            pages: 0,
            counts: MergeCounts::default(),
            resumed: 0,
            started_at: now,
            progressed_at: now,
            finished_at: None,
            stop: None,
            began: status.commits,
            bad: 0,
            total: None,
            feed_from: Some(status.head),
            feed_to: None,
            missed: Missed::default(),
        };
        self.running.insert(run.key.clone(), run.id);
        self.runs_of.entry(run.key.connection.clone()).or_default().insert(run.id);
        self.runs.insert(run.id, RunRow { run: run.clone(), swept: None });
        run
    }

    /// Returns the stream of a running run.
    pub(super) fn running(&self, id: RunId) -> Result<StreamKey> {
        match self.runs.get(&id) {
            Some(row) if row.run.state == RunState::Running => Ok(row.run.key.clone()),
            Some(_) | None => Err(Error::new(ErrorKind::LeaseLost, "the run has ended by now")),
        }
    }

    /// Moves a run on by a page that was merged.
    pub(super) fn progress(&mut self, page: &PageCommit, counts: MergeCounts, missed: &[Timestamp]) {
        let Some(RunRow { run, swept }) = self.runs.get_mut(&page.run) else { return };
        *swept = None;
        run.cursor.clone_from(&page.next);
        run.pages += 1;
        run.counts += counts;
        run.progressed_at = page.now;
        run.stop = None;
        run.bad += page.bad.len() as u64;
        run.total = page.total.or(run.total);
        run.missed.join(page.missed);
        for created in missed {
            run.missed.add(*created);
        }
        let key = run.key.clone();
        self.set_aside(&key, page.run, &page.bad, page.now);
    }

    pub(super) fn set_aside(&mut self, key: &StreamKey, run: RunId, bad: &[BadRecord], now: Timestamp) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        for record in bad {
            let new = || StoredBad { record: record.clone(), run, times: 0, first_seen: now, last_seen: now };
            let kept = stream.bad.entry(record.key()).or_insert_with(new);
            (kept.record, kept.run, kept.last_seen) = (record.clone(), run, now);
            kept.times += 1;
        }
        let beyond = (stream.bad.len() as u64).saturating_sub(BAD_KEPT_MAX).min(BAD_DROPPED_AT_ONCE);
        let others = stream.bad.iter().filter(|(_, kept)| kept.run != run);
        let mut others: Vec<_> = others.map(|(name, kept)| (kept.last_seen, name.clone())).collect();
        others.sort_unstable();
        for (_, name) in others.into_iter().take(usize::try_from(beyond).unwrap_or(usize::MAX)) {
            stream.bad.remove(&name);
            stream.status.bad_older += 1;
        }
        stream.status.bad = stream.bad.len() as u64;
    }

    pub(super) fn prune_bad(&mut self, before: Timestamp, limit: u32) -> u64 {
        let needed = |run: RunId| {
            let state = self.runs.get(&run).map(|row| &row.run.state);
            matches!(state, Some(RunState::Running | RunState::Review { .. }))
        };
        let of_stream = |(key, stream): (&StreamKey, &Stream)| -> Vec<_> {
            let old = stream.bad.iter().filter(|(_, kept)| kept.last_seen < before && !needed(kept.run));
            old.map(|(name, kept)| (kept.last_seen, key.clone(), name.clone())).collect()
        };
        let mut old: Vec<_> = self.streams.iter().flat_map(of_stream).collect();
        old.sort_unstable();
        old.truncate(limit as usize);
        for (_, key, name) in &old {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.bad.remove(name);
            (stream.status.bad, stream.status.bad_older) = (stream.bad.len() as u64, 0);
        }
        old.len() as u64
    }

    pub(super) fn hold(&mut self, id: RunId, stop: Stop) {
        if let Some(RunRow { run, .. }) = self.runs.get_mut(&id) {
            run.stop = Some(stop);
        }
    }

    pub(super) fn run(&self, id: RunId) -> Option<Run> {
        self.runs.get(&id).map(|row| row.run.clone())
    }

    pub(super) fn unseen(&self, id: RunId, after: Option<&RecordId>, limit: u32) -> Vec<Record> {
        let Some(RunRow { run, .. }) = self.runs.get(&id).filter(|row| row.run.mode == RunMode::Full) else {
            return Vec::new();
        };
        let Some(stream) = self.streams.get(&run.key) else { return Vec::new() };
        let behind = stream.unseen(run).into_iter().filter(|id| after.is_none_or(|after| id > after));
        behind.take(limit as usize).filter_map(|id| stream.rows.get(&id).map(|row| row.record(&id))).collect()
    }

    pub(super) fn dismiss(&mut self, id: RunId, reason: &str, now: Timestamp) -> bool {
        let waits = |row: &&mut RunRow| matches!(row.run.state, RunState::Review { .. });
        let Some(row) = self.runs.get_mut(&id).filter(waits) else { return false };
        let head = self.streams.get(&row.run.key).map_or(0, |stream| stream.status.head);
        fail(&mut row.run, reason, head, now);
        true
    }

    /// Forgets when a connection's streams were last read well: nobody listened since it was disconnected.
    pub(super) fn forget_freshness(&mut self, connection: &ConnectionId) {
        let of = self.streams.iter_mut().filter(|(key, _)| key.connection == *connection);
        of.for_each(|(_, stream)| stream.status.fresh_at = None);
    }

    /// Ends all runs of a connection that is disconnected: those that wait for a review and those under way.
    pub(super) fn end_all(&mut self, of: &ConnectionId, now: Timestamp) {
        for id in self.runs_of.get(of).into_iter().flatten() {
            let Some(row) = self.runs.get_mut(id) else { continue };
            if matches!(row.run.state, RunState::Review { .. } | RunState::Running) {
                let head = self.streams.get(&row.run.key).map_or(0, |stream| stream.status.head);
                fail(&mut row.run, ACCOUNT_DISCONNECTED, head, now);
                self.running.remove(&row.run.key);
            }
        }
    }

    pub(super) fn healings(&self, connection: &ConnectionId, limit: u32) -> Vec<Run> {
        let mut runs = self.runs(Some(connection), u32::MAX);
        runs.retain(|run| run.missed.count > 0);
        runs.truncate(limit as usize);
        runs
    }

    pub(super) fn bad_records(&self, key: &StreamKey, limit: u32) -> Vec<StoredBad> {
        let mut list: Vec<_> = self.streams.get(key).into_iter().flat_map(|stream| &stream.bad).collect();
        list.sort_by_key(|(name, bad)| (bad.last_seen, (*name).clone()));
        list.into_iter().take(limit as usize).map(|(_, bad)| bad.clone()).collect()
    }

    pub(super) fn bad_to_retry(&self, key: &StreamKey, run: RunId, limit: u32) -> Vec<StoredBad> {
        let mut list = self.bad_records(key, u32::MAX);
        list.retain(|bad| bad.record.id.is_some() && bad.run != run);
        list.truncate(limit as usize);
        list
    }

    pub(super) fn pause(&mut self, key: StreamKey, since: Option<Timestamp>) {
        self.streams.entry(key).or_default().status.paused_at = since;
    }

    pub(super) fn reset(&mut self, key: &StreamKey, now: Timestamp) -> bool {
        if let Some(RunRow { run, .. }) = self.running.remove(key).and_then(|id| self.runs.get_mut(&id)) {
            let head = self.streams.get(key).map_or(0, |stream| stream.status.head);
            fail(run, "the stream was reset", head, now);
        }
        let Some(stream) = self.streams.get_mut(key) else { return false };
        stream.bad.clear();
        let kept = stream.status.clone();
        stream.status = StreamStatus { cursor: None, full_at: None, fresh_at: None, bad: 0, bad_older: 0, ..kept };
        true
    }

    pub(super) fn erase(&mut self, key: &StreamKey, limit: u32, now: Timestamp) -> u64 {
        let Some(stream) = self.streams.get_mut(key) else { return 0 };
        let live = stream.rows.iter().filter(|(_, row)| row.data.is_some());
        let ids: Vec<_> = live.take(limit as usize).map(|(id, _)| id.clone()).collect();
        let erased = ids.len() as u64;
        stream.delete(ids, None, now);
        erased
    }

    pub(super) fn stored(&self, key: &StreamKey, ids: &[RecordId]) -> Vec<Option<Stored>> {
        let rows = self.streams.get(key).map(|stream| &stream.rows);
        ids.iter().map(|id| rows?.get(id).map(Row::stored)).collect()
    }

    /// Fails the unfinished run of a stream whose job is dead.
    pub(super) fn fail_run(&mut self, key: &StreamKey, mode: RunMode, reason: String, now: Timestamp) {
        let running = self.running.get(key).and_then(|id| self.runs.get_mut(id));
        let Some(RunRow { run, .. }) = running.filter(|row| row.run.mode == mode) else { return };
        let stop = run.stop.take();
        let head = self.streams.get(key).map_or(0, |stream| stream.status.head);
        fail(run, reason, head, now);
        run.stop = stop;
        self.running.remove(key);
    }

    pub(super) fn end_run(&mut self, end: RunEnd) -> Result<Run> {
        let Some(row) = self.runs.get_mut(&end.run) else {
            return Err(Error::new(ErrorKind::LeaseLost, "there is no such run"));
        };
        let stream = self.streams.entry(row.run.key.clone()).or_default();
        match &end.state {
            RunState::Running | RunState::Review { .. } => {
                return Err(Error::new(ErrorKind::Invalid, "a run ends as done or failed"));
            }
            RunState::Failed { kind, .. } => {
                if *kind == ErrorKind::CursorExpired {
                    stream.status.cursor = None;
                }
                row.run.state = end.state;
            }
            RunState::Done => {
                let full = row.run.mode == RunMode::Full;
                let mut unseen = if full { stream.unseen(&row.run) } else { Vec::new() };
                let deletions = unseen.len() as u64;
                let many = deletions > GUARD_ROWS && deletions * GUARD_SHARE > stream.status.records;
                let nameless = stream.bad.values().any(|bad| bad.run == row.run.id && bad.record.id.is_none());
                let unsure = deletions > 0 && nameless;
                let judged = row.swept.is_some();
                row.run.state = if !judged && (many || unsure) && deletions > end.deletions_lawful() {
                    // All but the deletions is done: what comes later is read from there.
                    stream.resume_at(end.resume.as_ref());
                    RunState::Review { deletions }
                } else {
                    let place = row.swept.take().unwrap_or_default();
                    let at_once = end.at_once.max(1) as usize;
                    unseen.retain(|id| *id.as_str() > *place);
                    unseen.truncate(at_once);
                    let (found, last) = (unseen.len(), unseen.last().map(|id| id.as_str().to_owned()));
                    stream.delete(unseen, end.span, end.now);
                    row.run.counts.deleted += found as u64;
                    if found == at_once {
                        row.swept = last;
                        row.run.progressed_at = end.now;
                        return Ok(row.run.clone());
                    }
                    stream.resume_at(end.resume.as_ref());
                    stream.status.fresh_at = Some(end.now);
                    if full {
                        stream.status.full_at = Some(end.now);
                        stream.bad.retain(|_, bad| bad.run == row.run.id);
                        (stream.status.bad, stream.status.bad_older) = (stream.bad.len() as u64, 0);
                    }
                    RunState::Done
                };
            }
        }
        self.running.remove(&row.run.key);
        row.run.finished_at = Some(end.now);
        row.run.stop = end.stop.filter(|_| matches!(row.run.state, RunState::Failed { .. }));
        row.run.feed_to = Some(stream.status.head);
        Ok(row.run.clone())
    }

    pub(super) fn runs(&self, connection: Option<&ConnectionId>, limit: u32) -> Vec<Run> {
        self.find_runs(&RunFilter { connection: connection.cloned(), ..RunFilter::default() }, limit)
    }

    pub(super) fn find_runs(&self, filter: &RunFilter, limit: u32) -> Vec<Run> {
        let newest_first: Box<dyn Iterator<Item = &RunRow>> = match &filter.connection {
            Some(connection) => Box::new(self.of(connection).rev()),
            None => Box::new(self.runs.values().rev()),
        };
        let found = newest_first.map(|row| &row.run).filter(|run| filter.meets(run));
        found.take(limit as usize).cloned().collect()
    }

    /// Returns the runs of a connection, oldest first.
    fn of(&self, connection: &ConnectionId) -> impl DoubleEndedIterator<Item = &RunRow> {
        let ids = self.runs_of.get(connection).into_iter().flatten();
        ids.filter_map(|id| self.runs.get(id))
    }

    pub(super) fn live_runs(&self, limit: u32) -> Vec<Run> {
        let live = self.running.values().filter_map(|id| Some(self.runs.get(id)?.run.clone()));
        let mut live: Vec<Run> = live.collect();
        live.sort_by_key(|run| (run.progressed_at, run.id));
        live.truncate(limit as usize);
        live
    }

    pub(super) fn newest_runs(&self, connection: &ConnectionId) -> Vec<Run> {
        let own = self.of(connection).map(|row| &row.run);
        // The last one inserted is the newest.
        let newest: BTreeMap<_, _> = own.map(|run| ((run.key.stream.clone(), run.mode as u8), run)).collect();
        newest.into_values().cloned().collect()
    }

    pub(super) fn prune_runs(&mut self, before: Timestamp, limit: u32) -> u64 {
        // The last one inserted is the newest.
        let newest: BTreeMap<_, _> =
            self.runs.values().map(|row| ((row.run.key.clone(), row.run.mode as u8), row.run.id)).collect();
        let mut old: Vec<(Timestamp, RunId)> = Vec::new();
        for RunRow { run, .. } in self.runs.values() {
            let waits = matches!(run.state, RunState::Review { .. });
            let last = newest.get(&(run.key.clone(), run.mode as u8)) == Some(&run.id);
            if let Some(finished_at) = run.finished_at.filter(|at| *at < before && !waits && !last) {
                old.push((finished_at, run.id));
            }
        }
        old.sort_unstable();
        old.truncate(limit as usize);
        for (_, id) in &old {
            let Some(gone) = self.runs.remove(id) else { continue };
            if let Some(left) = self.runs_of.get_mut(&gone.run.key.connection) {
                left.remove(id);
            }
        }
        old.len() as u64
    }

    pub(super) fn record(&self, key: &StreamKey, id: &RecordId) -> Option<Record> {
        self.streams.get(key)?.rows.get(id).map(|row| row.record(id))
    }

    pub(super) fn changes(&self, key: &StreamKey, after: u64, limit: u32) -> Vec<FeedEntry> {
        let Some(stream) = self.streams.get(key) else { return Vec::new() };
        let Some(first) = after.checked_add(1) else { return Vec::new() };
        let entry = |id: &RecordId| {
            let row = stream.rows.get(id)?;
            let kind = match (&row.data, row.appeared == row.seq) {
                (None, _) => ChangeKind::Deleted,
                (Some(_), true) => ChangeKind::Added,
                (Some(_), false) => ChangeKind::Updated,
            };
            Some(FeedEntry { kind, record: row.record(id) })
        };
        stream.feed.range(first..).take(limit as usize).filter_map(|(_, id)| entry(id)).collect()
    }
}

impl RecordsModel {
    pub(super) fn feed(&self, key: &StreamKey, after: u64, limit: u32) -> FeedPage {
        let mut entries = self.changes(key, after, limit.saturating_add(1));
        let more = entries.len() > limit as usize;
        entries.truncate(limit as usize);
        let (head, horizon) = self.streams.get(key).map_or((0, 0), |stream| (stream.status.head, stream.horizon));
        FeedPage { entries, head, horizon, more }
    }

    pub(super) fn compact(&mut self, before: Timestamp, limit: u32) -> u64 {
        let gone = |row: &Row| row.data.is_none() && row.changed_at < before;
        let of_stream = |(key, stream): (&StreamKey, &Stream)| -> Vec<_> {
            let old = stream.rows.iter().filter(|(_, row)| gone(row));
            old.map(|(id, row)| (row.changed_at, key.clone(), row.seq, id.clone())).collect()
        };
        let mut old: Vec<_> = self.streams.iter().flat_map(of_stream).collect();
        old.sort_unstable();
        old.truncate(limit as usize);
        for (_, key, seq, id) in &old {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            stream.rows.remove(id);
            stream.feed.remove(seq);
            stream.horizon = stream.horizon.max(*seq);
        }
        old.len() as u64
    }
}

impl Stream {
    fn put(&mut self, id: RecordId, row: Row) {
        self.status.records += u64::from(row.data.is_some());
        let (seq, lives) = (row.seq, id.clone());
        if let Some(old) = self.rows.insert(id, row) {
            self.status.records -= u64::from(old.data.is_some());
            self.feed.remove(&old.seq);
        }
        self.feed.insert(seq, lives);
    }

    /// Keeps where the next run goes on, if a run tells.
    fn resume_at(&mut self, cursor: Option<&Cursor>) {
        if let Some(cursor) = cursor {
            self.status.cursor = Some(cursor.clone());
        }
    }

    /// Returns the live records that nothing wrote or confirmed since a run began and that it did not set aside, by id.
    fn unseen(&self, run: &Run) -> Vec<RecordId> {
        let aside = |id: &RecordId| self.bad.get(&format!("={id}")).is_some_and(|bad| bad.run == run.id);
        let unseen = self.rows.iter().filter(|(_, row)| row.data.is_some() && row.observed <= run.began);
        unseen.map(|(id, _)| id).filter(|id| !aside(id)).cloned().collect()
    }

    fn delete(&mut self, ids: Vec<RecordId>, read: Option<Span>, now: Timestamp) {
        if ids.is_empty() {
            return;
        }
        self.status.commits += 1;
        let observed = self.status.commits;
        for id in ids {
            let Some(row) = self.rows.get(&id).cloned() else { continue };
            self.status.head += 1;
            let seq = self.status.head;
            let latest = read.map_or(row.span.latest, |read| read.latest.max(row.span.latest));
            let span = Span { earliest: row.span.earliest, latest };
            let tombstone = Row { span, observed, hash: 0, data: None, seq, appeared: seq, changed_at: now, ..row };
            self.put(id, tombstone);
        }
    }
}

fn fail(run: &mut Run, reason: impl Into<String>, head: u64, now: Timestamp) {
    run.feed_to = Some(head);
    run.state = RunState::Failed { kind: ErrorKind::Cancelled, reason: reason.into() };
    run.stop = Some(Stop::Superseded);
    run.finished_at = Some(now);
}

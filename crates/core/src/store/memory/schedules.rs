//! The model of schedules and of how chores ended.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{MemoryStore, Model};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::ConnectionId;
use crate::store::schedules::{ChoreReport, HeldJob, Moved, Scheduled, ScheduledStream, Schedules, SetSchedule};
use crate::store::{Connection, Lease, RunMode, StreamKey};

#[derive(Default)]
pub(super) struct SchedulesModel {
    /// The text by stream and mode, full before incremental.
    set: BTreeMap<(StreamKey, bool), String>,
    reports: BTreeMap<String, ChoreReport>,
}

fn is_incremental(mode: RunMode) -> bool {
    match mode {
        RunMode::Full => false,
        RunMode::Incremental => true,
    }
}

impl Model {
    fn scheduled(&self, connection: &Connection) -> Scheduled {
        let changed_at = |key: StreamKey, head: u64| {
            let newest = self.records.changes(&key, head.checked_sub(1)?, 1);
            newest.first().map(|entry| entry.record.changed_at)
        };
        let streams = self.records.streams(&connection.id).into_iter().map(|(name, status)| {
            let key = StreamKey { connection: connection.id.clone(), stream: name.clone() };
            ScheduledStream { changed_at: changed_at(key, status.head), name, status }
        });
        let own = self.schedules.set.iter().filter(|((key, _), _)| key.connection == connection.id);
        let set = own.map(|((key, incremental), schedule)| SetSchedule {
            stream: key.stream.clone(),
            mode: if *incremental { RunMode::Incremental } else { RunMode::Full },
            schedule: schedule.clone(),
        });
        Scheduled { streams: streams.collect(), set: set.collect(), connection: connection.clone() }
    }
}

#[async_trait]
impl Schedules for MemoryStore {
    async fn scheduled(&self, connection: ConnectionId) -> Result<Option<Scheduled>> {
        let model = self.lock();
        Ok(model.connections.get(&connection).map(|connection| model.scheduled(connection)))
    }

    async fn scheduled_after(&self, after: Option<ConnectionId>, limit: u32) -> Result<Vec<Scheduled>> {
        let model = self.lock();
        let rest = model.connections.values().filter(|one| after.as_ref().is_none_or(|after| one.id > *after));
        Ok(rest.take(limit as usize).map(|connection| model.scheduled(connection)).collect())
    }

    async fn set_schedule(&self, key: StreamKey, mode: RunMode, schedule: Option<String>) -> Result<()> {
        let set = &mut self.lock().schedules.set;
        let place = (key, is_incremental(mode));
        match schedule {
            Some(schedule) => set.insert(place, schedule),
            None => set.remove(&place),
        };
        Ok(())
    }

    async fn move_job(&self, unique: String, to: Timestamp, now: Timestamp) -> Result<Moved> {
        let moved = self.lock().jobs.move_to(&unique, to, now);
        self.wake_all();
        Ok(moved)
    }

    async fn held_job(&self, lease: Lease) -> Result<Option<HeldJob>> {
        Ok(self.lock().jobs.held(lease))
    }

    async fn chore_ended(&self, report: ChoreReport) -> Result<()> {
        self.lock().schedules.reports.insert(report.name.clone(), report);
        Ok(())
    }

    async fn chore_reports(&self) -> Result<Vec<ChoreReport>> {
        Ok(self.lock().schedules.reports.values().cloned().collect())
    }
}

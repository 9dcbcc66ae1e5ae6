//! Promises of schedules: what is set, what moments depend on, which jobs move, how chores ended.

use std::time::Duration;

use bytes::Bytes;
use palisade_core::Timestamp;
use palisade_core::store::{
    ChoreReport, Claim, Connection, ConnectionState, HeldJob, JobEnd, Lease, Merge, Moved, NewJob, Queue, Room,
    RunMode, Scheduled, SetSchedule, Settlement, Store, StreamKey, Work,
};
use palisade_core::sync::{Change, Span, State};

use super::model::{CONNECTIONS, Model, both, told};
use super::{ok, same};

fn account(id: &str) -> Connection {
    Connection {
        id: id.into(),
        tenant: "t".into(),
        provider: "stripe".to_owned(),
        environment: Default::default(),
        account: None,
        base_url: None,
        state: ConnectionState::Active,
        created_at: Timestamp(1),
    }
}

fn key(connection: &str, stream: &str) -> StreamKey {
    StreamKey { connection: connection.into(), stream: stream.into() }
}

/// A connection is read with its streams, when the newest change of each was, and what was set for them; many are read by
/// id in pages. What is set is replaced and removed, and needs no connection.
pub async fn what_schedules_need_is_read_at_once(store: &dyn Store) {
    same(ok(store.scheduled("b".into()).await), None, "unknown");
    let set = async |stream: &str, mode, text: Option<&str>| {
        ok(store.set_schedule(key("b", stream), mode, text.map(str::to_owned)).await);
    };
    set("things", RunMode::Incremental, Some("1h")).await;
    set("things", RunMode::Full, Some("@weekly UTC é")).await;
    set("Notes", RunMode::Incremental, Some("5m")).await;
    set("gone", RunMode::Full, Some("5m")).await;
    set("gone", RunMode::Full, None).await;
    set("never", RunMode::Full, None).await;
    set("things", RunMode::Incremental, Some("2h")).await;
    for id in ["a", "b", "C"] {
        ok(store.put_connection(account(id)).await);
    }
    let change = |id: &str, at| {
        let span = Span::exact(at);
        Change { stream: "things".into(), id: id.into(), span, state: State::Present(Bytes::from_static(b"{}")) }
    };
    for (id, now) in [("x", 100), ("y", 200)] {
        let merge = Merge { key: key("b", "things"), read_since: None, changes: vec![change(id, now)] };
        ok(store.merge(vec![merge], Timestamp(now)).await);
    }
    let found = ok(store.scheduled("b".into()).await);
    let row = found.clone().unwrap_or_else(|| panic!("it is there"));
    same(row.connection, account("b"), "the connection");
    let streams: Vec<_> = row.streams.iter().map(|one| (one.name.as_str(), one.status.head, one.changed_at)).collect();
    same(streams, vec![("things", 2, Some(Timestamp(200)))], "its stream, with the newest change");
    let text =
        |stream: &str, mode, schedule: &str| SetSchedule { stream: stream.into(), mode, schedule: schedule.into() };
    let wanted = vec![
        text("Notes", RunMode::Incremental, "5m"),
        text("things", RunMode::Full, "@weekly UTC é"),
        text("things", RunMode::Incremental, "2h"),
    ];
    same(row.set, wanted, "what is set, by stream, full first");
    let ids = |rows: &[Scheduled]| rows.iter().map(|row| row.connection.id.to_string()).collect::<Vec<_>>();
    same(ids(&ok(store.scheduled_after(None, 9).await)), vec!["C".into(), "a".into(), "b".into()], "by id");
    same(ids(&ok(store.scheduled_after(None, 2).await)), vec!["C".into(), "a".into()], "in pages");
    same(ok(store.scheduled_after(Some("a".into()), 9).await).pop(), found, "the same of many");
}

fn job(work: Work, unique: &str, lane: Option<&str>, run_at: i64) -> NewJob {
    NewJob {
        work,
        lane: lane.map(str::to_owned),
        group: None,
        tenant: None,
        unique: Some(unique.to_owned()),
        priority: 0,
        run_at: Timestamp(run_at),
        attempts_max: 5,
    }
}

/// Only a job that waits, was never claimed and is not due is moved, earlier or later; one that runs keeps its lease and its
/// moment, and jobs of a lane that waited behind one that moved away are claimed before it.
pub async fn only_a_job_that_waits_for_its_moment_is_moved(store: &dyn Store) {
    let claim = async |now| {
        let claim = Claim {
            now: Timestamp(now),
            hold: Duration::from_secs(60),
            max: 9,
            queue: Queue::Background,
            room: Room::default(),
        };
        ok(store.claim(claim).await)
    };
    let run_at =
        async |unique: &str| ok(store.live_jobs(vec![unique.to_owned()]).await).pop().flatten().map(|live| live.run_at);
    let moves = async |to, now| ok(store.move_job("u".into(), Timestamp(to), Timestamp(now)).await);
    same(moves(5, 0).await, Moved::Missing, "no such job");
    ok(store.enqueue(vec![job(Work::Retention, "u", None, 1_000)]).await);
    same(moves(2_000, 0).await, Moved::Moved, "later");
    same(claim(1_999).await.len(), 0, "and not before");
    same(moves(500, 499).await, Moved::Moved, "earlier");
    same(run_at("u").await, Some(Timestamp(500)), "told so");
    same(moves(9_000, 500).await, Moved::Busy, "due: it runs now");
    same(run_at("u").await, Some(Timestamp(500)), "it stays");
    let held = claim(500).await;
    let lease = held.first().map_or_else(|| panic!("claimed"), |held| held.lease);
    same(moves(9_000, 0).await, Moved::Busy, "it runs");
    let wanted = HeldJob { unique: Some("u".into()), run_at: Timestamp(500), attempt: 1 };
    same(ok(store.held_job(lease).await), Some(wanted), "what is held is read");
    same(ok(store.held_job(Lease { fence: lease.fence + 1, ..lease }).await), None, "under its own fence only");
    let settle = |lease, end| {
        vec![Settlement {
            lease,
            end,
            now: Timestamp(600),
            effects: vec![],
            merges: vec![],
            follow: vec![],
            outbox: Default::default(),
        }]
    };
    let again = JobEnd::Retry { at: Timestamp(5_000), reason: "busy".to_owned() };
    ok(store.settle(settle(lease, again)).await);
    same(ok(store.held_job(lease).await), None, "no longer held");
    same(moves(9_000, 600).await, Moved::Busy, "it waits for another attempt");
    let lease = claim(5_000).await.first().map_or_else(|| panic!("claimed"), |held| held.lease);
    ok(store.settle(settle(lease, JobEnd::Done)).await);
    same(moves(9_000, 600).await, Moved::Missing, "it has ended");

    // A lane: the second is due after the first, so it waits behind it; then the first is moved away.
    let sync = |mode| Work::Sync { key: key("a", "things"), mode };
    let first = job(sync(RunMode::Full), "u", Some("l"), 10_000);
    let second = job(sync(RunMode::Incremental), "v", Some("l"), 20_000);
    ok(store.enqueue(vec![first, second]).await);
    same(moves(90_000, 6_000).await, Moved::Moved, "away");
    let works: Vec<Work> = claim(20_000).await.into_iter().map(|claimed| claimed.work).collect();
    same(works, vec![sync(RunMode::Incremental)], "the one behind it goes first");
}

/// How a chore ended last is kept, one report a chore, also when the clock was set back.
pub async fn the_last_end_of_a_chore_is_kept(store: &dyn Store) {
    let report = |name: &str, at, failed| ChoreReport {
        name: name.to_owned(),
        ended_at: Timestamp(at),
        took: Duration::from_millis(7),
        outcome: format!("é {at}"),
        failed,
    };
    same(ok(store.chore_reports().await), vec![], "none yet");
    for one in [report("b", 1, false), report("a", 2, false), report("b", 5, true), report("b", 3, false)] {
        ok(store.chore_ended(one).await);
    }
    same(
        ok(store.chore_reports().await),
        vec![report("a", 2, false), report("b", 3, false)],
        "the last of each, by name",
    );
}

/// One random operation on both stores.
impl Model {
    pub(super) async fn schedules(&mut self) -> Option<(String, String)> {
        let now = self.now();
        match self.below(4) {
            0 => {
                let of = self.key();
                let mode = if self.one_in(2) { RunMode::Full } else { RunMode::Incremental };
                let text = self.pick(&[None, Some("1h".to_owned()), Some("@daily UTC".to_owned())]).flatten();
                let answers = both!(self, store => told(&store.set_schedule(of.clone(), mode, text.clone()).await));
                self.note(format!("set {of:?} {mode:?} {text:?}"), answers)
            }
            1 => {
                let lease = self.lease();
                let answers = both!(self, store => told(&store.held_job(lease).await));
                self.note(format!("held {lease:?}"), answers)
            }
            2 => {
                let report = ChoreReport {
                    name: self.pick(&["one", "two"]).unwrap_or_default().to_owned(),
                    ended_at: self.near(),
                    took: Duration::from_millis(self.below(9)),
                    outcome: "done".to_owned(),
                    failed: self.one_in(2),
                };
                let answers = both!(self, store => told(&store.chore_ended(report.clone()).await));
                self.note(format!("{report:?}"), answers)
            }
            _ => {
                let (unique, to) = (self.pick(&["u1", "u2"]).unwrap_or_default(), self.near());
                let answers = both!(self, store => told(&store.move_job(unique.to_owned(), to, now).await));
                self.note(format!("move {unique} to {to:?}"), answers)
            }
        }
    }
}

/// Reads everything of schedules, as text.
pub(super) async fn read(store: &dyn Store, put: &mut impl FnMut(&str, String)) {
    put("schedules", told(&store.scheduled_after(None, u32::MAX).await));
    put("a page of schedules", told(&store.scheduled_after(Some("acme".into()), 1).await));
    for connection in CONNECTIONS {
        put("a schedule", told(&store.scheduled(connection.into()).await));
    }
    put("chores", told(&store.chore_reports().await));
}

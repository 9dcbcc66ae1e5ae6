//! Promises of destinations, and the part of the random comparison that is about them.

use std::time::Duration;

use palisade_core::Timestamp;
use palisade_core::net::Reach;
use palisade_core::store::{
    DeadForward, DestinationHealth, DestinationSpec, Disabled, DisabledBy, EventRow, Filter, JobEnd, NewDestination,
    NewEvent, NewJob, Order, Queue, SealedKey, Store, Work, forward_key,
};

use super::inbox::{delivery, event};
use super::jobs::{claim, end};
use super::model::{Model, both, told};
use super::{ok, same};

pub(super) fn new(name: &str, url: &str, keys: &[(u64, u8, Option<i64>)]) -> NewDestination {
    let key = |(version, byte, until): &(u64, u8, Option<i64>)| SealedKey {
        version: *version,
        blob: vec![*byte, 0, 159],
        until: until.map(Timestamp),
    };
    NewDestination {
        name: name.to_owned(),
        configured: name.starts_with('c'),
        spec: DestinationSpec {
            url: url.to_owned(),
            filter: Filter {
                provider: Some("stripe".to_owned()),
                connection: None,
                tenant: Some("é".into()),
                types: vec!["invoice.*".to_owned()],
            },
            concurrency: 3,
            timeout: Duration::from_millis(1_500),
            headers: vec![("x-a".to_owned(), "b".to_owned())],
            order: Order::ByKey,
            reach: Reach {
                private: true,
                networks: vec!["10.0.0.0/8".parse().unwrap_or_else(|_| unreachable!("a network"))],
                plain: false,
            },
        },
        keys: keys.iter().map(key).collect(),
    }
}

fn disabled(at: i64, by: DisabledBy) -> Disabled {
    Disabled { at: Timestamp(at), by, reason: "a reason".to_owned() }
}

/// A destination is kept in the place of the revision its writer has seen, whole with its keys; how it fares stays. All are
/// listed by name, the newest key first, and removed with their keys.
pub async fn a_destination_is_written_over_what_was_seen(store: &dyn Store) {
    let put = async |new: NewDestination, expected, now| ok(store.put_destination(new, expected, Timestamp(now)).await);
    let first = new("b", "https://one.example/", &[(1, 1, None)]);
    same(put(first.clone(), 1, 5).await, false, "there is none yet");
    same(put(first.clone(), 0, 5).await, true, "a new one");
    same(put(first.clone(), 0, 6).await, false, "the name is taken");
    ok(store.note_forward("b".to_owned(), Some("why".to_owned()), 1, Timestamp(7)).await);
    let second = new("b", "https://two.example/", &[(2, 7, Some(90)), (u64::MAX, 9, None), (3, 8, Some(-1))]);
    same(put(second.clone(), 1, 8).await, true, "over what was seen");
    same(put(second.clone(), 1, 9).await, false, "and not over what was not");
    same(put(new("c", "https://c.example/", &[]), 0, 10).await, true, "another");
    same(put(new("Z é", "https://z.example/", &[]), 0, 10).await, true, "another");
    let rows = ok(store.destinations().await);
    same(rows.iter().map(|row| row.name.as_str()).collect(), vec!["Z é", "b", "c"], "by name, byte by byte");
    let [_, row, other] = rows.as_slice() else { panic!("three destinations") };
    same(&row.spec, &second.spec, "what was written");
    same((row.revision, row.created_at, row.configured), (2, Timestamp(5), false), "made once, changed once");
    same((other.configured, other.revision), (true, 1), "each by itself");
    same(row.health.failures, 1, "how it fares stays");
    let keys: Vec<_> = row.keys.iter().map(|key| (key.version, key.blob.clone(), key.until)).collect();
    let wanted = vec![
        (u64::MAX, vec![9, 0, 159], None),
        (3, vec![8, 0, 159], Some(Timestamp(-1))),
        (2, vec![7, 0, 159], Some(Timestamp(90))),
    ];
    same(keys, wanted, "its keys as they are, the newest first; the old one went");
    same(ok(store.remove_destination("b".to_owned()).await), true, "removed");
    same(ok(store.remove_destination("b".to_owned()).await), false, "once");
    same(put(first, 0, 11).await, true, "the name is free");
    let rows = ok(store.destinations().await);
    let row = rows.iter().find(|row| row.name == "b");
    same(
        row.map(|row| (row.keys.len(), row.health.clone())),
        Some((1, DestinationHealth::default())),
        "all of it went",
    );
}

/// An event whose forward died is listed for its destination until it is forwarded again, dismissed or removed; the job that
/// died counts as dead as long. What waits is counted by its keys.
pub async fn what_was_given_up_for_a_destination_is_listed(store: &dyn Store) {
    let forward = |name: &str, row: i64| NewJob {
        work: Work::Forward { row: EventRow(row), destination: name.to_owned() },
        unique: Some(forward_key(name, EventRow(row))),
        ..super::jobs::job(10)
    };
    let unwanted = |n: i64| NewEvent { wanted: false, ..event(&format!("e{n}")) };
    ok(store.append(vec![delivery(5, (1..=4).map(unwanted).collect())]).await);
    let jobs = [("app", 1), ("app", 2), ("app", 3), ("app", 4), ("app", 99), ("app0", 1), ("ap", 1)];
    ok(store.enqueue(jobs.map(|(name, row)| forward(name, row)).to_vec()).await);
    let names = || ["app", "app0", "none"].map(str::to_owned).to_vec();
    let counts = async || {
        let counts = ok(store.forward_counts(names()).await);
        names().iter().map(|name| counts.get(name).map_or((9, 9), |one| (one.waiting, one.dead))).collect::<Vec<_>>()
    };
    let dead = async |name: &str, after: Option<i64>, limit: u32| {
        let dead = ok(store.dead_forwards(name.to_owned(), after.map(EventRow), limit).await);
        dead.into_iter().map(|one| one.row.0).collect::<Vec<_>>()
    };
    same(counts().await, vec![(5, 0), (1, 0), (0, 0)], "each by its own name");
    for job in claim(store, Queue::Forwards, 10).await {
        let Work::Forward { row: EventRow(row), .. } = job.work else { panic!("a forward") };
        let how = match row {
            4 => JobEnd::Done,
            3 => JobEnd::Release,
            _ => JobEnd::Dead { reason: "no".to_owned() },
        };
        end(store, job.lease, how, 20).await;
    }
    same(counts().await, vec![(1, 2), (0, 1), (0, 0)], "an event that is not there is given up by nobody");
    same(dead("app", None, 9).await, vec![1, 2], "lowest first");
    same((dead("app", Some(1), 9).await, dead("app", None, 1).await), (vec![2], vec![1]), "a page of them");
    let first = ok(store.dead_forwards("app0".to_owned(), None, 9).await);
    let wanted = DeadForward { row: EventRow(1), at: Timestamp(20), reason: "no".to_owned() };
    same(first, vec![wanted], "when and why");
    same(ok(store.job_counts().await).dead, 5, "and their jobs");

    ok(store.enqueue(vec![forward("app", 1)]).await);
    same((dead("app", None, 9).await, ok(store.job_counts().await).dead), (vec![2], 4), "it is forwarded again");
    let rows = [1, 2, 2, 7].map(EventRow).to_vec();
    same(ok(store.dismiss_forwards("app".to_owned(), rows).await), 1, "what is given up, once");
    same((dead("app", None, 9).await, ok(store.job_counts().await).dead), (Vec::new(), 3), "it was seen to");
    same(dead("app0", None, 9).await, vec![1], "the other destination's stays");
    ok(store.remove_destination("app".to_owned()).await);
    for job in claim(store, Queue::Forwards, 30).await {
        end(store, job.lease, JobEnd::Done, 30).await;
    }
    ok(store.prune_events(Timestamp(6), Timestamp(0), None, 9).await);
    same(counts().await, vec![(0, 0), (0, 0), (0, 0)], "what is given up of an event goes with it");
}

/// Failures are counted from the first on, a success ends them; what is disabled stays disabled until it is enabled, and
/// then has a clean slate.
pub async fn how_a_destination_fares_is_noted(store: &dyn Store) {
    let name = || "app".to_owned();
    let note = async |failed: Option<&str>, now| {
        ok(store.note_forward(name(), failed.map(str::to_owned), 1, Timestamp(now)).await)
    };
    same(note(Some("why"), 1).await, None, "there is none");
    same(ok(store.disable_destination(name(), None, None).await), false, "there is none");
    ok(store.put_destination(new("app", "https://a.example/", &[]), 0, Timestamp(0)).await);
    let Some(first) = note(Some("one"), 10).await else { panic!("it is there") };
    same(first.before, DestinationHealth::default(), "before");
    same(first.after.failing_since, Some(Timestamp(10)), "since the first");
    note(Some("two"), 20).await;
    let wanted = DestinationHealth {
        failures: 3,
        failing_since: Some(Timestamp(10)),
        failed_at: Some(Timestamp(15)),
        reason: Some("three".to_owned()),
        delivered_at: None,
        disabled: None,
    };
    same(note(Some("three"), 15).await.map(|noted| noted.after), Some(wanted), "the last one, whatever its time");
    let done = DestinationHealth { delivered_at: Some(Timestamp(30)), ..DestinationHealth::default() };
    same(note(None, 30).await.map(|noted| noted.after), Some(done.clone()), "a success ends them");
    let disable = async |with| ok(store.disable_destination(name(), with, None).await);
    same(disable(None).await, false, "it is enabled");
    same(disable(Some(disabled(40, DisabledBy::Failures))).await, true, "disabled");
    same(disable(Some(disabled(41, DisabledBy::Person))).await, false, "once");
    note(Some("late"), 42).await;
    note(None, 43).await;
    note(Some("late"), 44).await;
    let rows = ok(store.destinations().await);
    let health = rows.first().map(|row| row.health.clone()).unwrap_or_default();
    same(health.disabled, Some(disabled(40, DisabledBy::Failures)), "whatever is noted meanwhile");
    same(disable(None).await, true, "enabled");
    let rows = ok(store.destinations().await);
    let clean = DestinationHealth { delivered_at: Some(Timestamp(43)), ..DestinationHealth::default() };
    same(rows.first().map(|row| row.health.clone()), Some(clean), "with a clean slate");
}

/// What an old address of a destination answered says nothing of the new one; a person's word is about whatever it is.
pub async fn what_is_noted_of_a_destination_is_of_its_revision(store: &dyn Store) {
    let name = || "app".to_owned();
    let health = async || ok(store.destinations().await).first().map(|row| row.health.clone()).unwrap_or_default();
    ok(store.put_destination(new("app", "https://old.example/", &[]), 0, Timestamp(0)).await);
    ok(store.put_destination(new("app", "https://new.example/", &[]), 1, Timestamp(1)).await);
    same(ok(store.note_forward(name(), Some("why".to_owned()), 1, Timestamp(2)).await), None, "the old one failed");
    let gone = || Some(disabled(3, DisabledBy::Receiver));
    same(ok(store.disable_destination(name(), gone(), Some(1)).await), false, "the old one is gone");
    same(health().await, DestinationHealth::default(), "nothing was noted");
    ok(store.note_forward(name(), Some("why".to_owned()), 2, Timestamp(4)).await);
    same(ok(store.note_forward(name(), None, 1, Timestamp(5)).await), None, "the old one took it");
    same(health().await.failures, 1, "what the new one answered is noted");
    same(ok(store.disable_destination(name(), gone(), Some(2)).await), true, "the new one is gone");
    same(ok(store.disable_destination(name(), None, Some(1)).await), false, "enabled by who saw the old one");
    same(ok(store.disable_destination(name(), None, None).await), true, "enabled by a person");
}

/// A pause is kept whatever becomes of the destination, until somebody ends it or it is removed; it says nothing of how
/// the destination fares.
pub async fn a_destination_is_paused_until_somebody_resumes_it(store: &dyn Store) {
    let name = || "app".to_owned();
    let pause = async |at: Option<i64>| ok(store.pause_destination(name(), at.map(Timestamp)).await);
    let paused_at = async || ok(store.destinations().await).first().and_then(|row| row.paused_at);
    same((pause(Some(1)).await, pause(None).await), (false, false), "there is none");
    ok(store.put_destination(new("app", "https://a.example/", &[]), 0, Timestamp(0)).await);
    ok(store.put_destination(new("other", "https://o.example/", &[]), 0, Timestamp(0)).await);
    same((pause(None).await, paused_at().await), (false, None), "it is not paused");
    same((pause(Some(10)).await, pause(Some(20)).await), (true, false), "once");
    same(paused_at().await, Some(Timestamp(10)), "since the first word");
    ok(store.put_destination(new("app", "https://b.example/", &[]), 1, Timestamp(30)).await);
    ok(store.disable_destination(name(), Some(disabled(40, DisabledBy::Person)), None).await);
    ok(store.disable_destination(name(), None, None).await);
    ok(store.note_forward(name(), None, 2, Timestamp(50)).await);
    same(paused_at().await, Some(Timestamp(10)), "changed, disabled, enabled and heard of");
    let rows = ok(store.destinations().await);
    let fares = DestinationHealth { delivered_at: Some(Timestamp(50)), ..DestinationHealth::default() };
    same(rows.first().map(|row| (row.revision, row.health.clone())), Some((2, fares)), "a pause changes neither");
    same(rows.get(1).map(|row| row.paused_at), Some(None), "the other one goes on");
    same((pause(None).await, paused_at().await), (true, None), "resumed");
    ok(store.note_forward(name(), Some("why".to_owned()), 2, Timestamp(55)).await);
    pause(Some(60)).await;
    let failures = async || ok(store.destinations().await).first().map(|row| row.health.failures);
    same(failures().await, Some(1), "it failed");
    ok(store.disable_destination(name(), Some(disabled(61, DisabledBy::Person)), None).await);
    same(pause(None).await, true, "resumed, and disabled still");
    let fares = DestinationHealth {
        delivered_at: Some(Timestamp(50)),
        disabled: Some(disabled(61, DisabledBy::Person)),
        ..DestinationHealth::default()
    };
    let health = ok(store.destinations().await).first().map(|row| row.health.clone());
    same(health, Some(fares), "what failed before the pause counts no more");
    pause(Some(65)).await;
    ok(store.remove_destination(name()).await);
    ok(store.put_destination(new("app", "https://a.example/", &[]), 0, Timestamp(70)).await);
    same(paused_at().await, None, "one that is made anew is another one");
}

/// The revision a destination has, more often than not.
async fn revision(model: &Model, name: &str) -> u64 {
    if model.one_in(5) {
        return model.below(3);
    }
    let reference: &dyn Store = &*model.reference;
    let rows = reference.destinations().await.unwrap_or_default();
    rows.iter().find(|row| row.name == name).map_or(0, |row| row.revision)
}

/// One random operation.
pub(super) async fn step(model: &mut Model) -> Option<(String, String)> {
    let name = model.pick(&["app", "conf"]).unwrap_or_default().to_owned();
    let now = model.near();
    let (what, answers) = match model.below(7) {
        0..=1 => {
            let expected = revision(model, &name).await;
            let until = model.one_in(2).then(|| model.near().millis());
            let versions: &[(u64, u8, Option<i64>)] = &[(model.below(3), 1, until), (7, 2, None)];
            let new = new(&name, "https://app.example/", versions);
            let answers = both!(model, store => told(&store.put_destination(new.clone(), expected, now).await));
            (format!("put_destination {name} {expected}"), answers)
        }
        2..=3 => {
            let failed = model.one_in(2).then(|| "why".to_owned());
            let of = revision(model, &name).await;
            let answers = both!(model, store => told(&store.note_forward(name.clone(), failed.clone(), of, now).await));
            (format!("note_forward {name} {failed:?} of {of} {now:?}"), answers)
        }
        4 => {
            let with = model.one_in(2).then(|| disabled(now.millis(), DisabledBy::Person));
            let of = if model.one_in(2) { Some(revision(model, &name).await) } else { None };
            let answers = both!(model, store => told(&store.disable_destination(name.clone(), with.clone(), of).await));
            (format!("disable_destination {name} {with:?} of {of:?}"), answers)
        }
        5 => {
            let at = model.one_in(2).then_some(now);
            let answers = both!(model, store => told(&store.pause_destination(name.clone(), at).await));
            (format!("pause_destination {name} {at:?}"), answers)
        }
        _ => {
            let answers = both!(model, store => told(&store.remove_destination(name.clone()).await));
            (format!("remove_destination {name}"), answers)
        }
    };
    model.note(what, answers)
}

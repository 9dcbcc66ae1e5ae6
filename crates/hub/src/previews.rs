//! What a replay would do, event by event, before it is done: the records it would change, and in which fields.
//!
//! Each event is looked at by itself, against what is stored now: of two that change one record, each shows its own
//! difference.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use palisade_core::store::{EventRow, ReplayFilter, Store, StoredEvent};
use palisade_core::worker::{Preview, PreviewChange, RecordPreview, Worker};
use palisade_core::{Result, Timestamp};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::hub::Hub;
use crate::routes::api::{EventOut, raw};

/// The most events of one preview.
pub const PREVIEWED_MAX: u32 = 100;
/// Rows counted of a filter, and looked through for the first that meet it, in one answer: a second or two of reading.
pub(crate) const COUNTED_MAX: u64 = 100_000;
/// Rows looked at at once.
const AT_ONCE: u32 = 500;
/// Fields named of one record.
const FIELDS_MAX: usize = 20;

/// What a replay by filter would do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Previews {
    /// How many events it would take, from where it was asked to begin.
    pub events: u64,
    /// Whether all rows were looked at for that number.
    pub complete: bool,
    /// The first of them, in the order they would be handled.
    pub list: Vec<Previewed>,
    /// The row behind which the next ones are; `None` when these are all.
    pub next: Option<EventRow>,
}

/// How far a preview goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Behind which row it begins.
    pub(crate) after: EventRow,
    /// Rows looked at for the number of events, and for the first of them.
    pub(crate) rows: u64,
    /// After which no further event is begun.
    pub(crate) patience: Option<Duration>,
}

impl Reach {
    /// All there is, however long it takes.
    pub(crate) const ALL: Self = Self { after: EventRow(0), rows: u64::MAX, patience: None };
}

/// One event with what handling it would do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Previewed {
    /// The event.
    pub event: StoredEvent,
    /// What handling it would do.
    pub preview: Preview,
}

/// What the previewed events would do, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Records added.
    pub added: u64,
    /// Records changed.
    pub updated: u64,
    /// Records deleted.
    pub deleted: u64,
    /// Records that are as they would be.
    pub unchanged: u64,
    /// Records whose copy is newer than the event.
    pub older: u64,
    /// Records that would be fetched from the provider first.
    pub fetched: u64,
    /// Events that would come again or be dead.
    pub refused: u64,
}

impl Previews {
    /// Adds up what the previewed events would do.
    #[must_use]
    pub fn totals(&self) -> Totals {
        totals(&self.list)
    }
}

/// Adds up what events would do.
pub(crate) fn totals(list: &[Previewed]) -> Totals {
    let mut totals = Totals::default();
    for one in list {
        totals.refused += u64::from(one.preview.refusal.is_some());
        for record in &one.preview.records {
            *match record.change {
                PreviewChange::Added => &mut totals.added,
                PreviewChange::Updated => &mut totals.updated,
                PreviewChange::Deleted => &mut totals.deleted,
                PreviewChange::Unchanged => &mut totals.unchanged,
                PreviewChange::Older => &mut totals.older,
                PreviewChange::Fetched => &mut totals.fetched,
            } += 1;
        }
    }
    totals
}

impl Hub {
    /// Runs the first events that meet a filter (up to `limit`, and [`PREVIEWED_MAX`]) through this program's streams and
    /// handlers without keeping anything, and counts them all (up to 100,000 rows): what would a replay do? See
    /// [`Worker::preview`] for what handlers may do meanwhile.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Store`], [`palisade_core::ErrorKind::Overloaded`].
    pub async fn preview(&self, filter: &ReplayFilter, limit: u32) -> Result<Previews> {
        self.preview_after(filter, EventRow(0), limit).await
    }

    /// As [`Hub::preview`], of the events behind a row: [`Previews::next`] of those before.
    ///
    /// # Errors
    /// As [`Hub::preview`].
    pub async fn preview_after(&self, filter: &ReplayFilter, after: EventRow, limit: u32) -> Result<Previews> {
        let shared = &self.shared;
        let reach = Reach { after, rows: COUNTED_MAX, patience: None };
        previews(&*shared.store, &shared.worker, filter, limit, shared.clock.now(), reach).await
    }
}

/// As [`Hub::preview`], as far as it is to go.
pub(crate) async fn previews(
    store: &dyn Store,
    worker: &Worker,
    filter: &ReplayFilter,
    limit: u32,
    now: Timestamp,
    reach: Reach,
) -> Result<Previews> {
    let began = Instant::now();
    let is_over = || reach.patience.is_some_and(|patience| began.elapsed() >= patience);
    let limit = limit.min(PREVIEWED_MAX) as usize;
    let counted = worker.count_replay(filter, reach.after, reach.rows).await?;
    let (events, complete) = (counted.events, counted.next.is_none());
    let (mut list, mut after, mut looked) = (Vec::new(), reach.after, 0);
    let next = 'list: loop {
        let step = store.replay_some(filter.clone(), after, AT_ONCE, true, now).await?;
        for row in step.met {
            // An answer comes on by one event at least, or going on behind it would lead nowhere.
            if list.len() == limit || (after > reach.after && is_over()) {
                break 'list Some(after);
            }
            if let (Some(event), Some(preview)) = (store.event(row).await?, worker.preview(row).await?) {
                list.push(Previewed { event, preview });
            }
            after = row;
        }
        looked += u64::from(AT_ONCE);
        let Some(next) = step.next else { break None };
        after = next;
        if list.len() == limit || looked >= reach.rows || is_over() {
            break Some(after);
        }
    };
    // How many there are is known, and so whether these are all.
    let all = complete && list.len() as u64 == events;
    Ok(Previews { events, complete, list, next: next.filter(|_| !all) })
}

/// Previews events by their rows, in the order given; a row without an event is left out.
pub(crate) async fn of_rows(store: &dyn Store, worker: &Worker, rows: &[EventRow]) -> Result<Vec<Previewed>> {
    let mut list = Vec::with_capacity(rows.len());
    for row in rows {
        let event = store.event(*row).await?;
        let event = event.filter(StoredEvent::may_be_replayed);
        if let (Some(event), Some(preview)) = (event, worker.preview(*row).await?) {
            list.push(Previewed { event, preview });
        }
    }
    Ok(list)
}

/// Names the fields in which a record would differ, as paths (`email`, `address.city`); no more than twenty.
pub(crate) fn changed_fields(record: &RecordPreview) -> Vec<String> {
    let read = |data: &Option<Bytes>| data.as_ref().and_then(|data| serde_json::from_slice::<Value>(data).ok());
    let mut fields = Vec::new();
    if let (Some(before), Some(after)) = (read(&record.before), read(&record.after)) {
        differ(&before, &after, &mut String::new(), &mut fields);
    }
    fields
}

/// Collects the paths at which two values differ. The parser bounds how deep they are.
fn differ(before: &Value, after: &Value, path: &mut String, into: &mut Vec<String>) {
    if before == after || into.len() >= FIELDS_MAX {
        return;
    }
    let (Value::Object(before), Value::Object(after)) = (before, after) else {
        into.push(path.clone());
        return;
    };
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let length = path.len();
        if length > 0 {
            path.push('.');
        }
        path.push_str(key);
        match (before.get(key), after.get(key)) {
            (Some(before), Some(after)) => differ(before, after, path, into),
            _ if into.len() < FIELDS_MAX => into.push(path.clone()),
            _ => {}
        }
        path.truncate(length);
    }
}

/// What would become of a record, as it is told outside.
#[derive(Serialize)]
pub(crate) struct RecordOut<'a> {
    stream: &'a str,
    id: &'a str,
    change: PreviewChange,
    /// The fields in which it would differ.
    changed: Vec<String>,
    before: Option<&'a RawValue>,
    after: Option<&'a RawValue>,
}

impl<'a> RecordOut<'a> {
    fn of(record: &'a RecordPreview) -> Self {
        Self {
            stream: record.stream.as_str(),
            id: record.id.as_str(),
            change: record.change,
            changed: changed_fields(record),
            before: record.before.as_ref().and_then(raw),
            after: record.after.as_ref().and_then(raw),
        }
    }
}

/// What handling an event would do, as it is told outside.
#[derive(Serialize)]
pub(crate) struct PreviewOut<'a> {
    records: Vec<RecordOut<'a>>,
    effects: &'a [String],
    calls: &'a [String],
    refusal: Option<&'a str>,
}

impl<'a> PreviewOut<'a> {
    pub(crate) fn of(preview: &'a Preview) -> Self {
        let Preview { records, effects, calls, refusal } = preview;
        Self { records: records.iter().map(RecordOut::of).collect(), effects, calls, refusal: refusal.as_deref() }
    }
}

/// Events with what handling them would do, as they are told outside; records as they came.
#[derive(Serialize)]
pub(crate) struct PreviewsOut<'a> {
    events: u64,
    complete: bool,
    /// The row to go on behind.
    next: Option<EventRow>,
    previewed: usize,
    totals: Totals,
    previews: Vec<PreviewedOut<'a>>,
}

impl<'a> PreviewsOut<'a> {
    pub(crate) fn of(found: &'a Previews) -> Self {
        let Previews { events, complete, list, next } = found;
        let previews = list.iter().map(PreviewedOut::of).collect();
        let (events, complete, next) = (*events, *complete, *next);
        Self { events, complete, next, previewed: list.len(), totals: totals(list), previews }
    }
}

/// An event with what handling it would do, as it is told outside.
#[derive(Serialize)]
pub(crate) struct PreviewedOut<'a> {
    #[serde(flatten)]
    event: EventOut<'a>,
    preview: PreviewOut<'a>,
}

impl<'a> PreviewedOut<'a> {
    pub(crate) fn of(one: &'a Previewed) -> Self {
        Self { event: EventOut::of(&one.event), preview: PreviewOut::of(&one.preview) }
    }
}

#[cfg(test)]
mod tests {
    use palisade_core::store::memory::MemoryStore;
    use palisade_core::store::{Inbox, NewDelivery, NewEvent};

    use super::*;

    // Fails when what is added up is counted under another word.
    #[tokio::test]
    async fn what_events_would_do_is_added_up_by_word() {
        use PreviewChange::{Added, Deleted, Fetched, Older, Unchanged, Updated};
        let record = |change| RecordPreview {
            stream: "customers".into(),
            id: "cus_1".into(),
            change,
            before: None,
            after: None,
        };
        let store = MemoryStore::new();
        let event = NewEvent {
            subscription: None,
            id: "evt_1".into(),
            kind: "invoice.paid".to_owned(),
            account: None,
            created: None,
            ordering_key: None,
            payload: None,
            wanted: true,
            priority: 0,
        };
        let delivery = NewDelivery {
            endpoint: "hook".into(),
            connection: "acme".into(),
            provider: "stripe".to_owned(),
            received_at: Timestamp(0),
            headers: Vec::new(),
            body: Bytes::new(),
            events: vec![event],
        };
        store.append(vec![delivery]).await.unwrap();
        let event = store.event(EventRow(1)).await.unwrap().unwrap();
        let times = [(Added, 1), (Updated, 2), (Deleted, 3), (Unchanged, 4), (Older, 5), (Fetched, 6)];
        let records = times.iter().flat_map(|(change, times)| (0..*times).map(|_| record(*change))).collect();
        let preview =
            Preview { records, effects: Vec::new(), calls: Vec::new(), refusal: Some("no such plan".to_owned()) };
        let told = totals(&[Previewed { event, preview }]);
        let wanted = Totals { added: 1, updated: 2, deleted: 3, unchanged: 4, older: 5, fetched: 6, refused: 1 };
        assert_eq!(told, wanted);
    }

    // Fails when a field that differs is not named by its path, one that is the same is, or names have no bound.
    #[test]
    fn the_fields_that_differ_are_named_by_their_paths() {
        #[track_caller]
        fn check(before: &str, after: &str, expected: &[&str]) {
            let text = |text: &str| (!text.is_empty()).then(|| Bytes::from(text.to_owned()));
            let record = RecordPreview {
                stream: "customers".into(),
                id: "cus_1".into(),
                change: PreviewChange::Updated,
                before: text(before),
                after: text(after),
            };
            assert_eq!(changed_fields(&record), expected);
        }
        check(r#"{"a":1,"b":{"c":2,"d":3}}"#, r#"{"b":{"d":4,"c":2},"a":1}"#, &["b.d"]);
        check(r#"{"a":1,"gone":null}"#, r#"{"a":1,"new":[1]}"#, &["gone", "new"]);
        check(r#"{"a":[1,2]}"#, r#"{"a":[1,3]}"#, &["a"]);
        check(r#"{"a":{"b":1}}"#, r#"{"a":7}"#, &["a"]);
        check("{}", "{}", &[]);
        check("", "{}", &[]);
        check("no json", "{}", &[]);
        let many = |n: i32| {
            let fields: Vec<String> = (0..50).map(|i| format!(r#""f{i}":{n}"#)).collect();
            format!("{{{}}}", fields.join(","))
        };
        let record = RecordPreview {
            stream: "customers".into(),
            id: "cus_1".into(),
            change: PreviewChange::Updated,
            before: Some(many(1).into()),
            after: Some(many(2).into()),
        };
        assert_eq!(changed_fields(&record).len(), FIELDS_MAX);
    }
}

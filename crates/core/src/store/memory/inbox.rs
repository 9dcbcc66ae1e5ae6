//! The inbox of the model: deliveries, events, their dedupe keys and states.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::id::{ConnectionId, EndpointId, EventId};
use crate::store::{
    Appended, CAUSES_MAX, DISMISSED, DeadLetters, EVENT_ATTEMPTS_MAX, EVENT_BYTES, EventPage, EventRow, EventState,
    HEARD_EVERY_MS, HEARD_KINDS_MAX, Heard, NewDelivery, NewEvent, NewJob, OTHER_CAUSES, PRUNE_BYTES, PRUNE_LOOKED,
    PrunePlace, PruneStep, ReplayFilter, ReplayStep, StoredEvent, Work,
};
use crate::webhook::Event;

/// Deliveries and events.
#[derive(Default)]
pub(super) struct InboxModel {
    deliveries: HashMap<u64, Kept>,
    deliveries_stored: u64,
    events: BTreeMap<EventRow, Row>,
    events_stored: i64,
    keys: HashMap<(EndpointId, EventId), EventRow>,
    /// Events of which only the name is left.
    named: BTreeMap<(Timestamp, EventRow), (EndpointId, EventId)>,
    heard: BTreeMap<EndpointId, BTreeMap<String, Heard>>,
    causes: BTreeMap<(String, String, String), DeadLetters>,
    /// How many events there are of each state that any has, and how many bytes all of them keep.
    counts: BTreeMap<EventState, u64>,
    bytes: u64,
}

struct Kept {
    endpoint: EndpointId,
    connection: ConnectionId,
    provider: String,
    received_at: Timestamp,
    body: Bytes,
    headers_bytes: u64,
    events: u64,
}

struct Row {
    delivery: u64,
    event: NewEvent,
    state: EventState,
    reason: Option<String>,
}

impl Kept {
    fn bytes(&self) -> u64 {
        self.body.len() as u64 + self.headers_bytes
    }
}

/// What an event keeps besides its delivery.
fn event_bytes(event: &NewEvent) -> u64 {
    EVENT_BYTES + event.payload.as_ref().map_or(0, Bytes::len) as u64
}

impl InboxModel {
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Stores a delivery; gives the answers and the jobs to add. A delivery of duplicates only is not kept.
    pub(super) fn append(&mut self, delivery: NewDelivery) -> (Vec<Appended>, Vec<NewJob>) {
        let number = self.deliveries_stored + 1;
        let mut jobs = Vec::new();
        let mut new = 0;
        let mut appended = Vec::with_capacity(delivery.events.len());
        for event in delivery.events {
            let key = (delivery.endpoint.clone(), event.id.clone());
            let duplicate = self.keys.contains_key(&key);
            self.note(&delivery.endpoint, &event, delivery.received_at, delivery.body.is_empty(), duplicate);
            if let Some(row) = self.keys.get(&key) {
                appended.push(Appended::Duplicate(*row));
                continue;
            }
            self.events_stored += 1;
            let row = EventRow(self.events_stored);
            let state = if event.wanted { EventState::Pending } else { EventState::Ignored };
            if event.wanted {
                let key = event.ordering_key.as_deref();
                let job = event_job(row, &delivery.provider, &delivery.connection, key, delivery.received_at);
                jobs.push(NewJob { priority: event.priority, ..job });
            }
            self.keys.insert(key, row);
            self.count(state, 1);
            self.bytes += event_bytes(&event);
            self.events.insert(row, Row { delivery: number, event, state, reason: None });
            new += 1;
            appended.push(Appended::New(row));
        }
        if new > 0 {
            self.deliveries_stored = number;
            let NewDelivery { endpoint, connection, provider, received_at, body, headers, .. } = delivery;
            let json =
                if headers.is_empty() { String::new() } else { serde_json::to_string(&headers).unwrap_or_default() };
            let headers_bytes = json.len() as u64;
            let kept = Kept { endpoint, connection, provider, received_at, body, headers_bytes, events: new };
            self.bytes += kept.bytes();
            self.deliveries.insert(number, kept);
        }
        (appended, jobs)
    }

    fn count(&mut self, state: EventState, by: i64) {
        let counted = self.counts.entry(state).or_default();
        *counted = counted.saturating_add_signed(by);
        if *counted == 0 {
            self.counts.remove(&state);
        }
    }

    /// Takes out of deliveries what is here under another of their connection's endpoints; returns how many those were.
    pub(super) fn leave_out(&self, deliveries: &mut [NewDelivery], endpoints: &[EndpointId]) -> u64 {
        let mut left_out = 0;
        for delivery in deliveries {
            let NewDelivery { endpoint, events, .. } = delivery;
            let others: Vec<_> = endpoints.iter().filter(|other| *other != endpoint).collect();
            let all = events.len();
            events.retain(|event| {
                !others.iter().any(|other| self.keys.contains_key(&((*other).clone(), event.id.clone())))
            });
            left_out += (all - events.len()) as u64;
        }
        left_out
    }

    /// Notes how an event came.
    fn note(&mut self, endpoint: &EndpointId, event: &NewEvent, at: Timestamp, walked: bool, duplicate: bool) {
        if walked && (duplicate || !event.wanted) {
            return;
        }
        let kinds = self.heard.entry(endpoint.clone()).or_default();
        if kinds.len() >= HEARD_KINDS_MAX && !kinds.contains_key(event.heard_as()) {
            return;
        }
        let last = kinds.values().filter_map(|one| one.heard_at).max();
        let new =
            || Heard { kind: event.heard_as().to_owned(), heard_at: None, found: 0, found_from: None, found_to: None };
        let one = kinds.entry(event.heard_as().to_owned()).or_insert_with(new);
        if !walked {
            let moves = |heard: Timestamp| {
                at.0.saturating_sub(heard.0) >= HEARD_EVERY_MS || (at > heard && one.found_to >= Some(heard))
            };
            if one.heard_at.is_none_or(moves) {
                one.heard_at = Some(at);
            }
            return;
        }
        if one.found == 0 || one.found_from <= last {
            (one.found, one.found_from) = (0, Some(at));
        }
        one.found += 1;
        one.found_to = Some(at);
    }

    pub(super) fn heard(&self, endpoint: &EndpointId) -> Vec<Heard> {
        self.heard.get(endpoint).map(|kinds| kinds.values().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn event(&self, row: EventRow) -> Option<StoredEvent> {
        let stored = self.events.get(&row)?;
        let delivery = self.deliveries.get(&stored.delivery)?;
        let event = stored.event.clone();
        Some(StoredEvent {
            row,
            endpoint: delivery.endpoint.clone(),
            connection: delivery.connection.clone(),
            provider: delivery.provider.clone(),
            event: Event {
                id: event.id,
                kind: event.kind,
                account: event.account,
                created: event.created,
                ordering_key: event.ordering_key,
                payload: event.payload.unwrap_or_else(|| delivery.body.clone()),
            },
            received_at: delivery.received_at,
            state: stored.state,
            reason: stored.reason.clone(),
        })
    }

    /// Returns an event without its payload.
    pub(super) fn head(&self, row: EventRow) -> Option<StoredEvent> {
        let mut event = self.event(row)?;
        event.event.payload = Bytes::new();
        Some(event)
    }

    pub(super) fn events(&self, state: Option<EventState>, before: Option<EventRow>, limit: u32) -> EventPage {
        let end = EventRow(self.events_stored + 1);
        let before = before.map_or(end, |before| before.min(end));
        let lowest = EventPage::lowest(state, before, self.counts.get(&EventState::Pending).copied().unwrap_or(0));
        let walked = self.events.range(lowest.min(before)..before).rev();
        let found = walked.filter(|(_, stored)| state.is_none_or(|state| stored.state == state));
        let found = found.take(limit as usize).filter_map(|(row, _)| self.head(*row)).collect();
        let below = self.events.range(..lowest).next_back().map(|(row, _)| *row);
        EventPage::of(found, limit, below)
    }

    pub(super) fn replay(&mut self, row: EventRow, now: Timestamp) -> Option<NewJob> {
        if !self.event(row)?.may_be_replayed() {
            return None;
        }
        let stored = self.events.get_mut(&row)?;
        let was = std::mem::replace(&mut stored.state, EventState::Pending);
        let delivery = self.deliveries.get(&stored.delivery)?;
        let job = event_job(row, &delivery.provider, &delivery.connection, stored.event.ordering_key.as_deref(), now);
        if was == EventState::Dead {
            let cause =
                (delivery.provider.clone(), stored.event.kind.clone(), stored.reason.clone().unwrap_or_default());
            self.count_cause(cause, -1, now);
        }
        self.count(was, -1);
        self.count(EventState::Pending, 1);
        Some(job)
    }

    /// Dismisses a dead event.
    pub(super) fn dismiss(&mut self, row: EventRow, now: Timestamp) -> bool {
        let Some(dead) = self.event(row).filter(|event| event.state == EventState::Dead) else { return false };
        let reason = format!("{DISMISSED}{}", dead.reason.unwrap_or_default());
        self.set_state(row, EventState::Ignored, Some(reason), now);
        true
    }

    /// Finds what meets a filter among the next `looked` rows that are of its state.
    pub(super) fn replayable(&self, filter: &ReplayFilter, after: EventRow, looked: u32) -> ReplayStep {
        if filter.state == Some(EventState::Pending) {
            return ReplayStep { met: Vec::new(), next: None };
        }
        let of_state = |state: EventState| match filter.state {
            Some(wanted) => state == wanted,
            None => matches!(state, EventState::Dead | EventState::Done),
        };
        let received_at = |stored: &Row| self.deliveries.get(&stored.delivery).map(|delivery| delivery.received_at);
        let first = |row: EventRow| -> Result<_, Infallible> {
            let found = self.events.range(row..).next();
            Ok(found.and_then(|(row, stored)| Some((*row, received_at(stored)?))))
        };
        let Ok(rows) = filter.rows(after, EventRow(self.events_stored), first);
        let walked = self.events.iter().filter(|(row, _)| **row > rows.after && **row <= rows.last);
        let found = walked.filter(|(_, stored)| of_state(stored.state)).map(|(row, _)| *row);
        let found: Vec<EventRow> = found.take(looked as usize).collect();
        let next = rows.next(&found, looked);
        let meets = |row: &EventRow| self.event(*row).is_some_and(|event| filter.meets(&event));
        ReplayStep { met: found.into_iter().filter(meets).collect(), next }
    }

    /// Returns the connection of an event.
    pub(super) fn connection(&self, row: EventRow) -> Option<ConnectionId> {
        let stored = self.events.get(&row)?;
        Some(self.deliveries.get(&stored.delivery)?.connection.clone())
    }

    pub(super) fn set_state(&mut self, row: EventRow, state: EventState, reason: Option<String>, now: Timestamp) {
        let Some(stored) = self.events.get_mut(&row) else { return };
        let (was, before) = (stored.state, stored.reason.clone().unwrap_or_default());
        (stored.state, stored.reason) = (state, reason.clone());
        let Some(delivery) = self.deliveries.get(&stored.delivery) else { return };
        let cause = |reason: String| (delivery.provider.clone(), stored.event.kind.clone(), reason);
        let (old, new) = (cause(before), cause(reason.unwrap_or_default()));
        if was == EventState::Dead {
            self.count_cause(old, -1, now);
        }
        if state == EventState::Dead {
            self.count_cause(new, 1, now);
        }
        self.count(was, -1);
        self.count(state, 1);
    }

    /// Counts a dead event under its cause, or no more; without room for the cause under that of all others.
    fn count_cause(&mut self, cause: (String, String, String), by: i64, now: Timestamp) {
        let other = (String::new(), String::new(), OTHER_CAUSES.to_owned());
        let known = self.causes.contains_key(&cause);
        let apart = self.causes.len() - usize::from(self.causes.contains_key(&other));
        let key = if known || (by > 0 && apart < CAUSES_MAX) { cause } else { other };
        let (provider, kind, reason) = key.clone();
        let new = DeadLetters { provider, kind, reason, events: 0, first_at: now, last_at: now };
        let counted = self.causes.entry(key.clone()).or_insert(new);
        counted.events = counted.events.saturating_add_signed(by);
        if by > 0 {
            counted.last_at = now;
        }
        if counted.events == 0 {
            self.causes.remove(&key);
        }
    }

    pub(super) fn dead_letters(&self, limit: u32) -> Vec<DeadLetters> {
        let mut causes: Vec<DeadLetters> = self.causes.values().cloned().collect();
        causes.sort_by_key(|one| std::cmp::Reverse(one.events));
        causes.truncate(limit as usize);
        causes
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes finished events but those that are `needed` still, as long as there is more than there may be.
    pub(super) fn prune_to(
        &mut self,
        bytes_max: u64,
        forget: Timestamp,
        (after, limit): (Option<PrunePlace>, u32),
        (destinations, needed): (usize, impl Fn(EventRow) -> bool),
    ) -> PruneStep {
        if self.bytes() <= bytes_max {
            return PruneStep { gone: 0, next: None };
        }
        let (old, next) = self.oldest(None, after, limit, (destinations, needed));
        self.remove_some(&old, next, forget, |kept| kept <= bytes_max)
    }

    pub(super) fn counts(&self) -> BTreeMap<EventState, u64> {
        self.counts.clone()
    }

    pub(super) fn dead_counts(&self, connections: &[ConnectionId]) -> BTreeMap<ConnectionId, u64> {
        let mut counts = BTreeMap::new();
        if !self.counts.contains_key(&EventState::Dead) {
            return counts;
        }
        for stored in self.events.values().filter(|stored| stored.state == EventState::Dead) {
            let Some(Kept { connection, .. }) = self.deliveries.get(&stored.delivery) else { continue };
            if connections.contains(connection) {
                *counts.entry(connection.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// Removes old finished events but those that are `needed` still.
    pub(super) fn prune(
        &mut self,
        before: Timestamp,
        forget: Timestamp,
        (after, limit): (Option<PrunePlace>, u32),
        (destinations, needed): (usize, impl Fn(EventRow) -> bool),
    ) -> PruneStep {
        let (old, next) = self.oldest(Some(before), after, limit, (destinations, needed));
        self.remove_some(&old, next, forget, |_| false)
    }

    /// Removes events until what is kept is `enough`, or as much as one step may went.
    fn remove_some(
        &mut self,
        old: &[PrunePlace],
        next: Option<PrunePlace>,
        forget: Timestamp,
        enough: impl Fn(u64) -> bool,
    ) -> PruneStep {
        let kept = self.bytes();
        for (gone, place) in (1..).zip(old) {
            self.remove(*place, forget);
            if enough(self.bytes()) {
                return PruneStep { gone, next: None };
            }
            if kept - self.bytes() > PRUNE_BYTES && gone < old.len() as u64 {
                return PruneStep { gone, next: Some(*place) };
            }
        }
        PruneStep { gone: old.len() as u64, next }
    }

    pub(super) fn forget(&mut self, before: Timestamp, limit: u32) -> u64 {
        let old: Vec<_> = self.named.keys().copied().filter(|(at, _)| *at < before).take(limit as usize).collect();
        for place in &old {
            if let Some(key) = self.named.remove(place) {
                self.keys.remove(&key);
            }
        }
        old.len() as u64
    }

    /// Finds the finished events that were received first, before a moment if given, among as many as are looked at, and
    /// the last one looked at if there may be more behind it.
    fn oldest(
        &self,
        before: Option<Timestamp>,
        after: Option<PrunePlace>,
        limit: u32,
        (destinations, needed): (usize, impl Fn(EventRow) -> bool),
    ) -> (Vec<PrunePlace>, Option<PrunePlace>) {
        let finished = |stored: &&Row| matches!(stored.state, EventState::Done | EventState::Ignored);
        let received = |stored: &Row| self.deliveries.get(&stored.delivery).map(|delivery| delivery.received_at);
        let finished = self.events.iter().filter(|(_, stored)| finished(stored));
        let place = |(row, stored): (&EventRow, &Row)| Some(PrunePlace { received_at: received(stored)?, row: *row });
        let mut places: Vec<PrunePlace> = finished.filter_map(place).collect();
        places.retain(|place| before.is_none_or(|before| place.received_at < before) && Some(*place) > after);
        places.sort_unstable();
        let (limit, looks) = (limit as usize, limit as usize * PRUNE_LOOKED as usize);
        let looks = looks / (1 + destinations);
        let mut old = Vec::new();
        for (looked, place) in places.iter().enumerate() {
            if (looked >= looks && looked > 0) || old.len() == limit {
                return (old, looked.checked_sub(1).and_then(|last| places.get(last)).copied());
            }
            if !needed(place.row) {
                old.push(*place);
            }
        }
        (old, None)
    }

    fn remove(&mut self, place: PrunePlace, forget: Timestamp) {
        let Some(stored) = self.events.remove(&place.row) else { return };
        self.count(stored.state, -1);
        self.bytes -= event_bytes(&stored.event);
        let Some(delivery) = self.deliveries.get_mut(&stored.delivery) else { return };
        let key = (delivery.endpoint.clone(), stored.event.id);
        if place.received_at < forget {
            self.keys.remove(&key);
        } else {
            self.named.insert((place.received_at, place.row), key);
        }
        delivery.events -= 1;
        if delivery.events == 0 {
            self.bytes -= delivery.bytes();
            self.deliveries.remove(&stored.delivery);
        }
    }
}

fn event_job(
    row: EventRow,
    provider: &str,
    connection: &ConnectionId,
    ordering_key: Option<&str>,
    run_at: Timestamp,
) -> NewJob {
    NewJob {
        work: Work::Event { row },
        lane: ordering_key.map(|key| format!("event/{connection}/{key}")),
        group: Some(provider.to_owned()),
        tenant: Some(connection.as_str().into()),
        unique: None,
        priority: 0,
        run_at,
        attempts_max: EVENT_ATTEMPTS_MAX,
    }
}

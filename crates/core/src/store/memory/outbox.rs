//! The outbox of the model.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::id::ConnectionId;
use crate::store::outbox::{decide, key_of_decision};
use crate::store::{CallId, CallResult, CallState, Decided, Decision, Enqueued, KeptCall, NewJob, OutboxCall};

/// All calls.
#[derive(Default)]
pub(super) struct OutboxModel {
    calls: BTreeMap<CallId, OutboxCall>,
    stored: i64,
    unique: HashMap<(ConnectionId, String), CallId>,
}

/// Another call stands under the unique key of one.
pub(super) struct Clash {
    pub(super) at: usize,
    pub(super) known: CallId,
}

fn unique(call: &KeptCall) -> Option<(ConnectionId, String)> {
    Some((call.connection.clone(), call.unique.clone()?))
}

/// The job of a call, and the moment it is let into line by.
type DueJob = (NewJob, Timestamp);

impl OutboxModel {
    /// Keeps calls and gives their jobs, each with the moment it is added at; all of them or none.
    pub(super) fn add(&mut self, calls: Vec<KeptCall>) -> Result<(Vec<Enqueued>, Vec<DueJob>), Clash> {
        let mut fresh: HashMap<(ConnectionId, String), Vec<u8>> = HashMap::new();
        for (at, call) in calls.iter().enumerate() {
            let Some(key) = unique(call) else { continue };
            let known = self.unique.get(&key).and_then(|id| self.calls.get(id));
            if let Some(known) = known.filter(|known| known.call.content != call.content) {
                return Err(Clash { at, known: known.id });
            }
            let content = fresh.entry(key.clone()).or_insert_with(|| call.content.clone());
            if *content != call.content {
                // The number the first of the two would have had.
                let before = calls.iter().take(at).position(|one| unique(one).as_ref() == Some(&key)).unwrap_or(0);
                return Err(Clash { at, known: CallId(self.stored + self.new_before(&calls, before) + 1) });
            }
        }
        let (mut enqueued, mut jobs) = (Vec::with_capacity(calls.len()), Vec::new());
        for call in calls {
            let key = unique(&call);
            if let Some(known) = key.as_ref().and_then(|key| self.unique.get(key)) {
                enqueued.push(Enqueued::Known(*known));
                continue;
            }
            self.stored += 1;
            let id = CallId(self.stored);
            if let Some(key) = key {
                self.unique.insert(key, id);
            }
            jobs.push((call.job(id, call.run_at), call.created_at));
            let call = OutboxCall {
                id,
                next_at: Some(call.run_at),
                call,
                state: CallState::Waiting,
                attempts: 0,
                sent_at: None,
                finished_at: None,
                error: None,
                answer: None,
            };
            self.calls.insert(id, call);
            enqueued.push(Enqueued::New(id));
        }
        Ok((enqueued, jobs))
    }

    /// Counts the calls before one of a batch that are not known yet.
    fn new_before(&self, calls: &[KeptCall], before: usize) -> i64 {
        let mut seen = Vec::new();
        let mut new = 0;
        for call in calls.iter().take(before) {
            match unique(call) {
                Some(key) if self.unique.contains_key(&key) || seen.contains(&key) => continue,
                Some(key) => seen.push(key),
                None => {}
            }
            new += 1;
        }
        new
    }

    pub(super) fn depart(&mut self, id: CallId, now: Timestamp) -> bool {
        let Some(call) = self.live(id) else { return false };
        call.state = CallState::Running;
        call.next_at = None;
        call.sent_at.get_or_insert(now);
        true
    }

    fn live(&mut self, id: CallId) -> Option<&mut OutboxCall> {
        let live = |call: &&mut OutboxCall| matches!(call.state, CallState::Waiting | CallState::Running);
        self.calls.get_mut(&id).filter(live)
    }

    pub(super) fn settle(&mut self, result: CallResult, now: Timestamp) {
        let Some(call) = self.live(result.call) else { return };
        call.state = result.state;
        call.attempts = result.attempts;
        call.next_at = result.next_at;
        call.sent_at = result.sent_at;
        call.error = result.error;
        call.answer = result.answer;
        call.finished_at = result.state.is_final().then_some(now);
    }

    /// Ends a call whose job died without telling what became of it.
    pub(super) fn job_died(&mut self, id: CallId, reason: String, now: Timestamp) {
        let Some(call) = self.live(id) else { return };
        call.state = if call.sent_at.is_some() { CallState::Review } else { CallState::Failed };
        call.finished_at = call.state.is_final().then_some(now);
        call.next_at = None;
        call.error = Some(reason);
    }

    /// Tells whether a call waits.
    pub(super) fn is_waiting(&self, id: CallId) -> bool {
        self.calls.get(&id).is_some_and(|call| call.state == CallState::Waiting)
    }

    pub(super) fn one(&self, id: CallId) -> Option<OutboxCall> {
        self.calls.get(&id).cloned()
    }

    pub(super) fn list(&self, state: Option<CallState>, before: Option<CallId>, limit: u32) -> Vec<OutboxCall> {
        let newest_first = self.calls.values().rev();
        newest_first
            .filter(|call| before.is_none_or(|before| call.id < before))
            .filter(|call| state.is_none_or(|state| call.state == state))
            .take(limit as usize)
            .cloned()
            .map(|mut call| {
                call.call.request.body = Bytes::new();
                if let Some(answer) = &mut call.answer {
                    answer.body = Bytes::new();
                }
                call
            })
            .collect()
    }

    pub(super) fn counts(&self) -> BTreeMap<CallState, u64> {
        let mut counts = BTreeMap::new();
        for call in self.calls.values() {
            *counts.entry(call.state).or_default() += 1;
        }
        counts
    }

    pub(super) fn reviews(&self, connections: &[ConnectionId]) -> BTreeMap<ConnectionId, u64> {
        let mut counts = BTreeMap::new();
        for call in self.calls.values().filter(|call| call.state == CallState::Review) {
            if connections.contains(&call.call.connection) {
                *counts.entry(call.call.connection.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// Puts a decision into effect; gives the job to add.
    pub(super) fn decide(&mut self, id: CallId, decision: Decision, now: Timestamp) -> (Decided, Option<NewJob>) {
        let Some(call) = self.calls.get_mut(&id) else { return (Decided::Missing, None) };
        let Some((state, why)) = decide(call.state, call.sent_at.is_some(), decision) else {
            return (Decided::Refused(call.state), None);
        };
        let waited = call.state == CallState::Waiting;
        let key = key_of_decision(call.state, call.sent_at.is_some(), decision, &call.call.idempotency_key);
        if let Some(key) = key {
            call.call.idempotency_key = key;
        }
        call.state = state;
        call.finished_at = state.is_final().then_some(now);
        if let Some(why) = why {
            call.error = Some(why.to_owned());
        }
        call.next_at = (state == CallState::Waiting).then(|| call.next_at.map_or(now, |at| at.min(now)));
        if state != CallState::Waiting {
            return (Decided::Now(state), None);
        }
        call.call.run_at = call.call.run_at.min(now);
        if !waited {
            call.call.run_at = now;
            call.attempts = 0;
        }
        if decision == Decision::NotHappened {
            call.sent_at = None;
        }
        (Decided::Now(state), Some(call.call.job(id, now)))
    }

    pub(super) fn prune(&mut self, before: Timestamp, limit: u32) -> u64 {
        let old = |call: &&OutboxCall| call.state.is_final() && call.finished_at.is_some_and(|at| at < before);
        let mut gone: Vec<_> = self.calls.values().filter(old).map(|call| (call.finished_at, call.id)).collect();
        gone.sort_unstable();
        gone.truncate(limit as usize);
        for (_, id) in &gone {
            if let Some(key) = self.calls.remove(id).and_then(|call| unique(&call.call)) {
                self.unique.remove(&key);
            }
        }
        gone.len() as u64
    }
}

//! What is checked in the simulation: while everything goes on, and when it has come to rest.

use std::collections::{BTreeMap, BTreeSet};

use palisade_core::store::{ChangeKind, EventState, Inbox, Jobs, Records as _, StoredEvent, StreamKey};
use palisade_core::{ConnectionId, RecordId, StreamName};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;

use super::Report;
use super::actor::Records;
use super::world::World;
use super::{errands, tokens};
use crate::stage::EFFECT;
use crate::verdict::assert_same;

/// Entries read at once: small, so that the seams between reads are part of every check.
const PAGE: u32 = 17;

/// A consumer of one stream's feed, which keeps what it has read from time to time and dies in between.
struct Consumer {
    key: StreamKey,
    at: u64,
    copy: Records,
    kept: (u64, Records),
    /// The number each record had last: it never goes backwards.
    newest: BTreeMap<String, u64>,
}

/// Watches over the promises.
pub(super) struct Judge {
    consumers: Vec<Consumer>,
    /// How often the limits of all providers were compared with what came: what one process keeps to, and several in sum.
    pub(super) limits: (u64, u64),
}

impl Judge {
    pub(super) fn new(world: &World) -> Self {
        let keys = world.actors.iter().flat_map(|actor| {
            let connection = ConnectionId::new(actor.name());
            actor
                .streams()
                .into_iter()
                .map(move |(stream, _)| StreamKey { connection: connection.clone(), stream: StreamName::new(stream) })
        });
        let consumer =
            |key| Consumer { key, at: 0, copy: Records::new(), kept: (0, Records::new()), newest: BTreeMap::new() };
        Self { consumers: keys.map(consumer).collect(), limits: (0, 0) }
    }

    /// Lets the consumers read on, keep what they have, or die.
    pub(super) async fn follow(&mut self, world: &World, dice: &mut StdRng, report: &mut Report) {
        for consumer in &mut self.consumers {
            if dice.random_bool(0.5) {
                consumer.read(world, report).await;
            }
            if dice.random_bool(0.2) {
                consumer.kept = (consumer.at, consumer.copy.clone());
            }
            if dice.random_bool(0.02) {
                (consumer.at, consumer.copy) = consumer.kept.clone();
                report.consumers_killed += 1;
            }
        }
    }

    /// Checks what must hold at any moment.
    ///
    /// # Panics
    /// When it does not.
    pub(super) async fn check(&mut self, world: &World) {
        let acked: Vec<(&str, BTreeSet<String>)> =
            world.actors.iter().map(|actor| (actor.name(), actor.acked())).collect();
        let events = all_events(world).await;
        for (provider, acked) in acked {
            let of_provider = events.iter().filter(|event| event.provider == provider);
            let held: BTreeSet<&str> = of_provider.map(|event| event.event.id.as_str()).collect();
            let lost: Vec<_> = acked.iter().filter(|id| !held.contains(id.as_str())).collect();
            assert!(lost.is_empty(), "{provider}: acknowledged and lost: {lost:?}");
        }
        let (effects, done) = (world.effects(EFFECT), done(&events));
        assert_eq!(effects, done, "effects in the store (left), events handled (right)");
        for actor in &world.actors {
            let (ledger, name) = (actor.ledger(), actor.name());
            assert_eq!(ledger.webhooks.forged_accepted, 0, "{name}: forged deliveries were accepted");
            assert_eq!(ledger.keys_reused, 0, "{name}: an idempotency key was used for another request");
            if actor.tells_old() {
                assert_eq!(ledger.webhooks.replayed_accepted, 0, "{name}: old deliveries were accepted");
            }
            // A short pause is known to the process that was asked for it, and forgotten with it.
            if world.started == 1 {
                assert_eq!(ledger.early_after_retry_after, 0, "{name}: attempts before the end of a Retry-After");
            }
            // Each process has a budget of its own.
            for (what, peak, most) in actor.peaks() {
                let most = most * world.started;
                assert!(peak <= most, "{name}: {peak} of {what} came at once, where {most} are allowed");
            }
        }
        let compared = if world.started == 1 { &mut self.limits.0 } else { &mut self.limits.1 };
        *compared += 1;
        tokens::check(world);
        errands::check(world).await;
        let dead: Vec<_> = events.iter().filter(|event| event.state == EventState::Dead).collect();
        assert!(dead.is_empty(), "dead letters: {dead:?}");
        let jobs = world.store().job_counts().await.expect("counts");
        // What is to be forwarded to a destination that wants no more is dead, and forwarded anew later.
        assert!(jobs.dead == 0 || world.receiver.gone_times() > 0, "{} jobs that are no event's are dead", jobs.dead);
    }

    /// Checks what must hold once everything has come to rest.
    ///
    /// # Panics
    /// When it does not.
    pub(super) async fn close(&mut self, world: &World, report: &mut Report) {
        for event in all_events(world).await {
            let handled = matches!(event.state, EventState::Done | EventState::Ignored);
            assert!(handled, "{} {} is {:?}: {:?}", event.provider, event.event.id, event.state, event.reason);
        }
        for consumer in &mut self.consumers {
            consumer.read(world, report).await;
            let Consumer { key, copy, at, .. } = consumer;
            let actor = world.actors.iter().find(|actor| actor.name() == key.connection.as_str()).expect("an actor");
            let truth = actor.truth(key.stream.as_str());
            let name = format!("{} {}", key.connection, key.stream);
            assert_same(&name, "the consumer's copy", copy, &truth);
            let status = world.store().stream(key.clone()).await.expect("a stream");
            assert_eq!((status.records, status.head), (truth.len() as u64, *at), "{name}: records and head");
            for (id, value) in &truth {
                let record = world.store().record(key.clone(), RecordId::new(id.as_str())).await.expect("a record");
                let data = record.and_then(|record| record.data).expect("a live record has data");
                assert_eq!(&serde_json::from_slice::<Value>(&data).expect("JSON"), value, "{name} {id}");
                report.records += 1;
            }
        }
    }
}

impl Consumer {
    async fn read(&mut self, world: &World, report: &mut Report) {
        loop {
            let entries = world.store().changes(self.key.clone(), self.at, PAGE).await.expect("the feed");
            if entries.is_empty() {
                return;
            }
            for entry in entries {
                let (id, seq) = (entry.record.id.as_str().to_owned(), entry.record.seq);
                assert!(seq > self.at, "{:?}: the feed shows {id} as {seq} after {}", self.key, self.at);
                self.at = seq;
                report.entries += 1;
                // After a death it reads again what it had not kept, and never something older.
                let newest = self.newest.entry(id.clone()).or_default();
                assert!(seq >= *newest, "{:?}: the feed goes backwards for {id}", self.key);
                *newest = seq;
                match (entry.kind, entry.record.data) {
                    (ChangeKind::Deleted, None) => drop(self.copy.remove(&id)),
                    (ChangeKind::Added | ChangeKind::Updated, Some(data)) => {
                        self.copy.insert(id, serde_json::from_slice(&data).expect("a record is JSON"));
                    }
                    (kind, data) => panic!("{:?}: {id} is {kind:?} with data: {}", self.key, data.is_some()),
                }
            }
        }
    }
}

/// Reads all events, newest first.
pub(super) async fn all_events(world: &World) -> Vec<StoredEvent> {
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let page = world.store().events(None, before, 500).await.expect("events");
        all.extend(page.events);
        before = page.next;
        if before.is_none() {
            return all;
        }
    }
}

/// The events that are settled as handled, each once.
fn done(events: &[StoredEvent]) -> Vec<String> {
    let done = events.iter().filter(|event| event.state == EventState::Done);
    let mut done: Vec<String> = done.map(|event| format!("{} {}", event.provider, event.event.id)).collect();
    done.sort_unstable();
    done
}

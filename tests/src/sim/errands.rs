//! What the product of the simulation leaves to the outbox: calls with a write of its own in the same transaction, put
//! there by the product itself and by handlers of events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palisade_core::store::{CallState, Effect, Outbox, OutboxCall};
use palisade_core::worker::{NewCall, draft};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::Report;
use super::actor::Actor;
use super::world::World;

/// The statement beside each call.
pub(super) const ERRAND: &str = "INSERT INTO errand (number) VALUES (?1)";
/// The first number: those below are the product's own writes.
const FIRST: u64 = 1_000_000;

/// The numbers of what was left to the outbox.
#[derive(Default)]
struct Book {
    /// By number: at which provider.
    asked: BTreeMap<u64, usize>,
    /// The numbers of what handlers ask for, by event: the same in every attempt.
    of_events: BTreeMap<String, u64>,
}

impl Book {
    fn number(&mut self, at: usize) -> u64 {
        let number = FIRST + self.asked.len() as u64;
        self.asked.insert(number, at);
        number
    }
}

/// What was left to the outbox.
pub(super) struct Errands {
    actors: Vec<Arc<dyn Actor>>,
    book: Mutex<Book>,
}

fn name_of(number: u64) -> String {
    format!("errand-{number}")
}

/// The write of the product's own beside a call.
fn beside(number: u64) -> Effect {
    Effect { sql: ERRAND.to_owned(), values: vec![name_of(number).into()] }
}

impl Errands {
    pub(super) fn new(actors: Vec<Arc<dyn Actor>>) -> Arc<Self> {
        Arc::new(Self { actors, book: Mutex::default() })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(&self, number: u64, at: usize) -> NewCall {
        let actor = Arc::clone(&self.actors[at]);
        let call = draft(|pipeline| actor.write(pipeline, number)).await.expect("a write can be written down");
        call.unique(name_of(number))
    }

    /// Makes what a handler leaves to the outbox: an effect and a call.
    pub(super) async fn of_event(&self, event: &str) -> (Effect, NewCall) {
        let (number, at) = {
            let mut book = self.book();
            let at = book.of_events.len() % self.actors.len();
            let known = book.of_events.get(event).copied();
            let number = known.unwrap_or_else(|| book.number(at));
            book.of_events.insert(event.to_owned(), number);
            (number, book.asked[&number])
        };
        (beside(number), self.call(number, at).await)
    }

    /// Leaves some calls to the outbox, each by one of the processes, and dies with it.
    pub(super) fn work(self: &Arc<Self>, world: &World, dice: &mut StdRng, under_way: &mut JoinSet<()>) {
        while let Some(ended) = under_way.try_join_next() {
            ended.expect("an errand does not panic");
        }
        for _ in 0..dice.random_range(0..3) {
            let at = dice.random_range(0..self.actors.len());
            let number = self.book().number(at);
            let (hub, mut dead) = world.hub(dice.random_range(0..world.processes.len()));
            let errands = Arc::clone(self);
            under_way.spawn(async move {
                let call = errands.call(number, at).await;
                // A full disk refuses it, and then nothing was written: the check at the end knows.
                tokio::select! {
                    biased;
                    _ = hub.transaction(vec![beside(number)], vec![call]) => {}
                    _ = dead.wait_for(|dead| *dead) => {}
                }
            });
        }
    }
}

/// Reads all calls of the outbox.
pub(super) async fn all_calls(world: &World) -> Vec<OutboxCall> {
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let page = world.store().outbox(None, before, 500).await.expect("the outbox");
        let Some(last) = page.last() else { return all };
        before = Some(last.id);
        all.extend(page);
    }
}

/// Returns how many calls wait or are on their way.
pub(super) async fn pending(world: &World) -> u64 {
    let counts = world.store().outbox_counts().await.expect("counts");
    [CallState::Waiting, CallState::Running].iter().filter_map(|state| counts.get(state)).sum()
}

/// Asks the providers about the calls in review, as an operator would.
pub(super) async fn reconcile(world: &World) {
    for call in all_calls(world).await.iter().filter(|call| call.state == CallState::Review) {
        // Where it cannot be asked, or is not sure, the call stays in review.
        let _ = world.processes[0].hub.reconcile_call(call.id).await;
    }
}

/// Checks that each call stands there if and only if what was written beside it does.
///
/// # Panics
/// When it does not.
pub(super) async fn check(world: &World) {
    let unique = |call: OutboxCall| call.call.unique.expect("every call here has a name");
    let effects = world.effects(ERRAND);
    let mut calls: Vec<String> = all_calls(world).await.into_iter().map(unique).collect();
    calls.sort_unstable();
    assert_eq!(effects, calls, "effects in the store (left), calls in the outbox (right)");
}

/// Checks each call against what its provider did.
///
/// # Panics
/// When one was done twice, not as it says, under two keys, or came to nothing.
pub(super) async fn close(world: &World, report: &mut Report) {
    let done: Vec<BTreeMap<u64, u64>> = world.actors.iter().map(|actor| actor.done()).collect();
    let keys = world.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (number, keys) in &keys {
        assert!(keys.len() == 1, "write {number} left under several keys: {keys:?}");
    }
    for call in all_calls(world).await {
        let (name, state) = (call.call.unique.as_deref().unwrap_or_default(), call.state);
        let number: u64 = name.strip_prefix("errand-").and_then(|number| number.parse().ok()).expect("a number");
        let at = world.errands.book().asked[&number];
        let (actor, times) = (&world.actors[at], done[at].get(&number).copied().unwrap_or(0));
        let lawful = match state {
            CallState::Done => times == 1 || times == 0 && actor.forgets(),
            CallState::Review => times <= 1,
            // Nobody called one back, and patience and attempts outlast every outage here.
            CallState::Waiting | CallState::Running | CallState::Failed | CallState::Cancelled => false,
        };
        assert!(lawful, "{} {name} is {state:?} ({:?}) and was done {times} times: {call:?}", actor.name(), call.error);
        if let Some(left) = keys.get(&number) {
            assert!(left.contains(&call.call.idempotency_key), "{name} left under another key than it was kept with");
        }
        report.calls += 1;
        report.reviews += u64::from(state == CallState::Review);
    }
}

//! A semaphore that is fair between tenants: the places go round the tenants that wait, one each, so that a tenant
//! with a hundred times the calls does not delay another's. Interactive callers go before background work, which
//! still gets every eighth place.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::call::Priority;
use crate::id::TenantId;

/// One place in this many goes to background work even while interactive callers wait: it is slowed, not starved.
const BACKGROUND_TURN: u32 = 8;

/// Places with fair turns. Without waiters, taking and giving back a place are single atomic steps.
#[derive(Debug)]
pub(super) struct Turnstile {
    free: AtomicUsize,
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
}

/// A place. Given back when dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Turnstile);

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    since_background: u32,
    interactive: Ring,
    background: Ring,
}

/// Waiters by tenant, and the tenants in the order of their next turn.
#[derive(Debug, Default)]
struct Ring {
    tenants: HashMap<TenantId, VecDeque<Waiter>>,
    order: VecDeque<TenantId>,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    grant: oneshot::Sender<()>,
}

/// A caller in the queue. Dropped, it leaves the queue, or gives back a place it was given but never saw.
struct Waiting<'a, 't> {
    turnstile: &'a Turnstile,
    tenant: &'t TenantId,
    priority: Priority,
    number: u64,
    granted: oneshot::Receiver<()>,
    done: bool,
}

impl Turnstile {
    pub(super) fn new(places: usize) -> Self {
        Self { free: AtomicUsize::new(places), waiting: AtomicUsize::new(0), queue: Mutex::default() }
    }

    /// Takes a place at once, if there is one and nobody waits.
    pub(super) fn try_enter(&self) -> Option<Place<'_>> {
        if self.waiting.load(SeqCst) == 0 && self.take() { Some(Place(self)) } else { None }
    }

    /// Takes a place, waiting for a fair turn. Dropping the future leaves the queue.
    pub(super) async fn enter(&self, tenant: &TenantId, priority: Priority) -> Place<'_> {
        if let Some(place) = self.try_enter() {
            return place;
        }
        let mut waiting = self.join(tenant, priority);
        // The sender is dropped only after it has granted: an error cannot happen while this waiter is queued.
        let _ = (&mut waiting.granted).await;
        waiting.done = true;
        Place(self)
    }

    /// Returns how many callers wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// Tells whether nobody is in and nobody waits, for a turnstile of one place.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.load(SeqCst) == 0 && self.free.load(SeqCst) > 0
    }

    /// Tells whether every place is taken.
    pub(super) fn is_taken(&self) -> bool {
        self.free.load(SeqCst) == 0
    }

    /// Returns how many turns come before that of a new waiter of `tenant`, as things stand.
    pub(super) fn ahead(&self, tenant: &TenantId, priority: Priority) -> usize {
        let queue = self.lock();
        let ring = queue.ring_of(priority);
        let own = ring.tenants.get(tenant).map_or(0, VecDeque::len);
        ring.tenants.iter().map(|(other, waiters)| if other == tenant { own } else { waiters.len().min(own + 1) }).sum()
    }

    fn join<'a, 't>(&'a self, tenant: &'t TenantId, priority: Priority) -> Waiting<'a, 't> {
        let (grant, granted) = oneshot::channel();
        let mut queue = self.lock();
        let number = queue.next;
        queue.next += 1;
        queue.ring(priority).push(tenant, Waiter { number, grant });
        self.waiting.fetch_add(1, SeqCst);
        // A place may have come free between the first look and the queue: whoever gave it back did not see us.
        self.dispatch(&mut queue);
        Waiting { turnstile: self, tenant, priority, number, granted, done: false }
    }

    fn give_back(&self) {
        self.free.fetch_add(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            self.dispatch(&mut self.lock());
        }
    }

    /// Hands free places to waiters, in turn.
    fn dispatch(&self, queue: &mut Queue) {
        while self.waiting.load(SeqCst) > 0 && self.take() {
            let Some(waiter) = queue.pop() else {
                self.free.fetch_add(1, SeqCst);
                return;
            };
            self.waiting.fetch_sub(1, SeqCst);
            if waiter.grant.send(()).is_err() {
                self.free.fetch_add(1, SeqCst);
            }
        }
    }

    fn take(&self) -> bool {
        self.free.fetch_update(SeqCst, SeqCst, |free| free.checked_sub(1)).is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Drop for Waiting<'_, '_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut queue = self.turnstile.lock();
        if queue.ring(self.priority).remove(self.tenant, self.number) {
            self.turnstile.waiting.fetch_sub(1, SeqCst);
        } else if self.granted.try_recv().is_ok() {
            drop(queue);
            self.turnstile.give_back();
        }
    }
}

impl Queue {
    fn ring(&mut self, priority: Priority) -> &mut Ring {
        match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Background => &mut self.background,
        }
    }

    fn ring_of(&self, priority: Priority) -> &Ring {
        match priority {
            Priority::Interactive => &self.interactive,
            Priority::Background => &self.background,
        }
    }

    fn pop(&mut self) -> Option<Waiter> {
        let background_first = self.since_background + 1 >= BACKGROUND_TURN || self.interactive.order.is_empty();
        if background_first && let Some(waiter) = self.background.pop() {
            self.since_background = 0;
            return Some(waiter);
        }
        self.since_background = self.since_background.saturating_add(1);
        self.interactive.pop()
    }
}

impl Ring {
    fn push(&mut self, tenant: &TenantId, waiter: Waiter) {
        if let Some(waiters) = self.tenants.get_mut(tenant) {
            waiters.push_back(waiter);
        } else {
            self.tenants.insert(tenant.clone(), VecDeque::from([waiter]));
            self.order.push_back(tenant.clone());
        }
    }

    fn pop(&mut self) -> Option<Waiter> {
        let tenant = self.order.pop_front()?;
        let waiters = self.tenants.get_mut(&tenant)?;
        let waiter = waiters.pop_front();
        if waiters.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            self.order.push_back(tenant);
        }
        waiter
    }

    fn remove(&mut self, tenant: &TenantId, number: u64) -> bool {
        let Some(waiters) = self.tenants.get_mut(tenant) else { return false };
        let before = waiters.len();
        waiters.retain(|waiter| waiter.number != number);
        let removed = waiters.len() < before;
        if waiters.is_empty() {
            self.tenants.remove(tenant);
            self.order.retain(|other| other != tenant);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::random::{Random, SeededRandom};

    fn idle(turnstile: &Turnstile, places: usize) {
        assert_eq!(turnstile.free.load(SeqCst), places);
        assert_eq!(turnstile.waiting(), 0);
        let queue = turnstile.lock();
        assert!(queue.interactive.order.is_empty() && queue.background.order.is_empty());
        assert!(queue.interactive.tenants.is_empty() && queue.background.tenants.is_empty());
    }

    /// Starts the callers one after another while the only place is taken; returns the order they were served in.
    async fn served(callers: &[(&'static str, Priority)]) -> Vec<&'static str> {
        let turnstile = Arc::new(Turnstile::new(1));
        let order = Arc::new(Mutex::new(Vec::new()));
        let holder = turnstile.try_enter().unwrap();
        let mut tasks = Vec::new();
        for (tenant, priority) in callers.iter().copied() {
            let (turnstile, order) = (Arc::clone(&turnstile), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let id = TenantId::from(tenant);
                let _place = turnstile.enter(&id, priority).await;
                order.lock().unwrap().push(tenant);
                sleep(Duration::from_millis(1)).await;
            }));
            tokio::task::yield_now().await;
        }
        drop(holder);
        for task in tasks {
            task.await.unwrap();
        }
        idle(&turnstile, 1);
        Arc::try_unwrap(order).unwrap().into_inner().unwrap()
    }

    // Fails when the queue is first come, first served.
    #[tokio::test(start_paused = true)]
    async fn places_go_round_the_tenants() {
        let mut callers = vec![("big", Priority::Interactive); 100];
        callers.push(("small", Priority::Interactive));
        callers.push(("tiny", Priority::Interactive));
        let order = served(&callers).await;
        assert_eq!(order.iter().position(|t| *t == "small"), Some(1));
        assert_eq!(order.iter().position(|t| *t == "tiny"), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn interactive_goes_first_and_background_is_not_starved() {
        let mut callers = vec![("sync", Priority::Background); 3];
        callers.extend([("person", Priority::Interactive); 20]);
        let order = served(&callers).await;
        let at: Vec<_> = order.iter().enumerate().filter(|(_, t)| **t == "sync").map(|(at, _)| at).collect();
        assert_eq!(at, [7, 15, 22]);
    }

    // Fails when a cancelled waiter keeps its place in the queue, or a grant it never saw is lost.
    #[tokio::test(start_paused = true)]
    async fn cancelled_waiters_leak_nothing() {
        for seed in 0..50 {
            let random = Arc::new(SeededRandom::new(seed));
            let turnstile = Arc::new(Turnstile::new(3));
            let tasks: Vec<_> = (0..200)
                .map(|n| {
                    let (turnstile, random) = (Arc::clone(&turnstile), Arc::clone(&random));
                    tokio::spawn(async move {
                        let tenant = TenantId::from(format!("t{}", n % 7));
                        let priority = if n % 3 == 0 { Priority::Background } else { Priority::Interactive };
                        let patience = Duration::from_millis(random.bits() % 20);
                        let hold = Duration::from_millis(random.bits() % 3);
                        let _ = tokio::time::timeout(patience, async {
                            let _place = turnstile.enter(&tenant, priority).await;
                            sleep(hold).await;
                        })
                        .await;
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            idle(&turnstile, 3);
        }
    }

    #[test]
    fn a_grant_to_a_caller_that_went_away_is_given_back() {
        let turnstile = Turnstile::new(1);
        let tenant = TenantId::from("t");
        let holder = turnstile.try_enter().unwrap();
        let waiting = turnstile.join(&tenant, Priority::Interactive);
        assert_eq!(turnstile.ahead(&tenant, Priority::Interactive), 1);
        assert_eq!(turnstile.ahead(&TenantId::from("u"), Priority::Interactive), 1);
        drop(holder);
        drop(waiting);
        idle(&turnstile, 1);
    }
}

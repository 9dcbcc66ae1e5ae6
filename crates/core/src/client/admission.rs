//! How many calls may be inside the pipeline at once. Beyond it a call is refused at once instead of waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::TenantId;

/// Callers are counted by tenant once an eighth of the room is taken: below it nobody can crowd out anybody.
const COUNTED_FROM: usize = 8;
/// Once half of the room is taken, a tenant that holds a quarter gets no more of it.
const CROWDED_FROM: usize = 2;
const SHARE: usize = 4;

/// The bounded room of a client.
#[derive(Debug)]
pub(super) struct Admission {
    max: usize,
    inside: AtomicUsize,
    tenants: Mutex<HashMap<TenantId, usize>>,
}

/// One admitted call; leaves when dropped.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    admission: &'a Admission,
    counted: Option<TenantId>,
}

impl Admission {
    pub(super) fn new(max: usize) -> Self {
        Self { max, inside: AtomicUsize::new(0), tenants: Mutex::default() }
    }

    /// Lets a call in, or `None` when there is no room for it.
    pub(super) fn enter(&self, tenant: &TenantId) -> Option<Slot<'_>> {
        let inside = self.inside.fetch_add(1, Relaxed);
        let mut slot = Slot { admission: self, counted: None };
        if inside >= self.max {
            return None;
        }
        if inside >= self.max / COUNTED_FROM && self.max >= COUNTED_FROM {
            let mut tenants = self.lock();
            let held = tenants.entry(tenant.clone()).or_default();
            if inside >= self.max / CROWDED_FROM && *held >= self.max / SHARE {
                return None;
            }
            *held += 1;
            slot.counted = Some(tenant.clone());
        }
        Some(slot)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.admission.inside.fetch_sub(1, Relaxed);
        if let Some(tenant) = &self.counted {
            let mut tenants = self.admission.lock();
            if let Some(held) = tenants.get_mut(tenant) {
                *held -= 1;
                if *held == 0 {
                    tenants.remove(tenant);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when a refused or finished call keeps its place.
    #[test]
    fn the_room_is_bounded_and_given_back() {
        let admission = Admission::new(3);
        let tenant = TenantId::from("t");
        let slots: Vec<_> = (0..10).map_while(|_| admission.enter(&tenant)).collect();
        assert_eq!(slots.len(), 3);
        drop(slots);
        assert_eq!(admission.inside.load(Relaxed), 0);
        assert!(admission.enter(&tenant).is_some());
    }

    // Fails when one tenant may fill the room.
    #[test]
    fn one_tenant_leaves_room_for_the_others() {
        let admission = Admission::new(1_000);
        let (big, small) = (TenantId::from("big"), TenantId::from("small"));
        let mut slots: Vec<_> = (0..5_000).filter_map(|_| admission.enter(&big)).collect();
        assert_eq!(slots.len(), 500);
        slots.extend((0..200).filter_map(|_| admission.enter(&small)));
        assert_eq!(slots.len(), 700);
        drop(slots);
        assert!(admission.lock().is_empty());
    }
}

//! Room in memory for deliveries' bodies while they arrive: whoever posts has proven nothing yet.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of a body that are read without asking for room: nearly every delivery is smaller, and the number of connections
/// bounds them.
const FREE_BYTES: usize = 64 << 10;

/// Room there is at least, in bytes.
const ROOM_BYTES: usize = 64 << 20;

/// Bodies of the largest size that find room side by side.
const LARGEST: usize = 4;

/// A unit of room, in bytes.
const UNIT: usize = 64 << 10;

/// The room of all deliveries together.
#[derive(Debug)]
pub(crate) struct Rooms(Semaphore);

impl Rooms {
    /// Makes room for bodies of up to `body_bytes_max` bytes.
    pub(crate) fn new(body_bytes_max: usize) -> Self {
        Self(Semaphore::new(ROOM_BYTES.max(body_bytes_max.saturating_mul(LARGEST)) / UNIT))
    }

    /// Begins a body.
    pub(super) const fn begin(&self) -> Room<'_> {
        Room { all: &self.0, held: None, units: 0 }
    }
}

/// The room of one delivery, until it is dropped.
#[derive(Debug)]
pub(super) struct Room<'r> {
    all: &'r Semaphore,
    held: Option<SemaphorePermit<'r>>,
    units: u32,
}

impl Room<'_> {
    /// Takes what a body of so many bytes needs; tells whether there was room.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let wanted = u32::try_from(bytes.saturating_sub(FREE_BYTES).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let Some(more) = wanted.checked_sub(self.units).filter(|more| *more > 0) else { return true };
        let Ok(taken) = self.all.try_acquire_many(more) else { return false };
        self.units = wanted;
        match &mut self.held {
            Some(held) => held.merge(taken),
            None => self.held = Some(taken),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a body grows without room, takes room twice, or does not give it back.
    #[test]
    fn bodies_share_the_room_and_give_it_back() {
        let rooms = Rooms::new(1 << 20);
        let mut bodies: Vec<Room<'_>> = Vec::new();
        for _ in 0..64 {
            let mut body = rooms.begin();
            assert!(body.grow(512 << 10) && body.grow((1 << 20) + FREE_BYTES) && body.grow(9));
            bodies.push(body);
        }
        let mut late = rooms.begin();
        assert!(late.grow(FREE_BYTES), "a small one asks for none");
        assert!(!late.grow(FREE_BYTES + 1), "all is taken");
        bodies.pop();
        assert!(late.grow(1 << 20), "what is given back is there");
    }

    /// Fails when a hub that takes large bodies cannot take one.
    #[test]
    fn the_largest_body_finds_room() {
        let rooms = Rooms::new(64 << 20);
        let mut bodies: Vec<Room<'_>> = (0..4).map(|_| rooms.begin()).collect();
        assert!(bodies.iter_mut().all(|body| body.grow(64 << 20)));
    }
}

//! Until when a connection's calls are held back, for people to see. The lanes themselves decide; this is only the
//! book of the pauses they were given, written when one is asked for and read when somebody looks.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::ConnectionId;

/// Beyond this many entries those that are over are forgotten, and beyond it no more are kept.
const KEPT_MAX: usize = 4_096;

/// The pauses under way, by what stands for the account of a connection. Times are nanoseconds on the engine's own
/// monotonic scale.
#[derive(Debug, Default)]
pub(super) struct Held {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    all: u64,
    connections: HashMap<ConnectionId, u64>,
}

impl Held {
    /// Notes a pause of a limit of an account, or of all.
    pub(super) fn note(&self, account: Option<&ConnectionId>, until: u64, now: u64) {
        let mut book = self.lock();
        let Some(connection) = account else {
            book.all = book.all.max(until);
            return;
        };
        if book.connections.len() >= KEPT_MAX && !book.connections.contains_key(connection) {
            book.connections.retain(|_, until| *until > now);
            if book.connections.len() >= KEPT_MAX {
                return;
            }
        }
        let kept = book.connections.entry(connection.clone()).or_default();
        *kept = until.max(*kept);
    }

    /// Returns the end of the longest pause that any limit of the account has; 0 or a past moment for none.
    pub(super) fn until(&self, account: &ConnectionId) -> u64 {
        let book = self.lock();
        book.connections.get(account).copied().unwrap_or(0).max(book.all)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when a pause shrinks, or the book grows without end.
    #[test]
    fn the_longest_pause_is_told_and_the_book_is_bounded() {
        let held = Held::default();
        let id = |n: usize| ConnectionId::from(format!("c{n}"));
        held.note(Some(&id(0)), 50, 0);
        held.note(Some(&id(0)), 20, 0);
        assert_eq!([held.until(&id(0)), held.until(&id(1))], [50, 0]);
        held.note(None, 30, 0);
        assert_eq!([held.until(&id(0)), held.until(&id(1))], [50, 30]);
        for n in 0..3 * KEPT_MAX {
            held.note(Some(&id(n)), 1_000 + n as u64, 0);
        }
        assert_eq!(held.lock().connections.len(), KEPT_MAX);
        assert_eq!([held.until(&id(9)), held.until(&id(2 * KEPT_MAX))], [1_009, 30], "what holds is not forgotten");
        held.note(Some(&id(2 * KEPT_MAX)), 90_000, 80_000);
        assert_eq!((held.until(&id(2 * KEPT_MAX)), held.lock().connections.len()), (90_000, 1));
    }
}

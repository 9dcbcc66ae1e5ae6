//! The retry budget of a host: an outage must not multiply its own load.
//!
//! A bucket of tokens. Every success gives one back, every repeat takes several, and a slow refill by time lets a
//! host with little traffic repeat now and then. With the default of 100 tokens and 5 a repeat, a total outage of 500
//! calls costs 20 repeats and what the refill gives: far under a quarter more.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a repeat costs, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// After a timeout: it held a connection for seconds.
    Timeout = 10,
    /// After any other failure, or a throttle without a hint.
    Failure = 5,
    /// After a throttle with a hint: the server itself says when to come back.
    Hinted = 0,
}

/// Time refills up to this many tokens, and no further: enough for four repeats after a rest.
const REFILL_MAX: u64 = 20 * SCALE;
/// One token per five seconds.
const REFILL_NANOS_PER_TOKEN: u64 = 5_000_000_000;
/// Tokens are counted in thousandths, so that the refill is smooth.
const SCALE: u64 = 1_000;

/// The budget of one host. Times are nanoseconds on the engine's own monotonic scale.
#[derive(Debug)]
pub(super) struct Budget {
    max: u64,
    tokens: AtomicU64,
    refilled_at: AtomicU64,
}

impl Budget {
    pub(super) fn new(tokens: u32) -> Self {
        let max = u64::from(tokens) * SCALE;
        Self { max, tokens: AtomicU64::new(max), refilled_at: AtomicU64::new(0) }
    }

    /// Gives one token back for a success.
    pub(super) fn deposit(&self) {
        if self.tokens.load(Relaxed) < self.max {
            self.add(SCALE, self.max);
        }
    }

    /// Takes the cost of a repeat, or nothing and `false` when there are too few tokens.
    pub(super) fn withdraw(&self, cost: Cost, now: u64) -> bool {
        self.refill(now);
        let cost = cost as u64 * SCALE;
        self.tokens.fetch_update(Relaxed, Relaxed, |tokens| tokens.checked_sub(cost)).is_ok()
    }

    fn refill(&self, now: u64) {
        let last = self.refilled_at.load(Relaxed);
        let earned = now.saturating_sub(last) / (REFILL_NANOS_PER_TOKEN / SCALE);
        // Whoever moves the mark earns the time between; a loser of the race finds it moved and earns nothing.
        let mark = last + earned * (REFILL_NANOS_PER_TOKEN / SCALE);
        if earned > 0 && self.refilled_at.compare_exchange(last, mark, Relaxed, Relaxed).is_ok() {
            self.add(earned, REFILL_MAX.min(self.max));
        }
    }

    /// Adds up to `limit`; tokens above it stay.
    fn add(&self, tokens: u64, limit: u64) {
        let grown = |now: u64| (now < limit).then(|| now.saturating_add(tokens).min(limit));
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, grown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn drained() -> Budget {
        let budget = Budget::new(100);
        for _ in 0..20 {
            assert!(budget.withdraw(Cost::Failure, 0));
        }
        assert!(!budget.withdraw(Cost::Failure, 0));
        budget
    }

    #[test]
    fn a_repeat_costs_five_a_timeout_ten_and_a_hinted_throttle_nothing() {
        let budget = Budget::new(20);
        assert!(budget.withdraw(Cost::Timeout, 0));
        assert!(budget.withdraw(Cost::Failure, 0));
        assert!(!budget.withdraw(Cost::Timeout, 0));
        assert!(budget.withdraw(Cost::Failure, 0));
        assert!(budget.withdraw(Cost::Hinted, 0));
    }

    #[test]
    fn five_successes_pay_for_one_repeat() {
        let budget = drained();
        (0..4).for_each(|_| budget.deposit());
        assert!(!budget.withdraw(Cost::Failure, 0));
        budget.deposit();
        assert!(budget.withdraw(Cost::Failure, 0));
        (0..1_000).for_each(|_| budget.deposit());
        assert_eq!((0..100).filter(|_| budget.withdraw(Cost::Failure, 0)).count(), 20);
    }

    // Fails when time refills without its bound, or the clock going backwards gives tokens.
    #[test]
    fn rest_refills_slowly_and_only_a_little() {
        let budget = drained();
        assert!(!budget.withdraw(Cost::Failure, 24 * SECOND));
        assert!(budget.withdraw(Cost::Failure, 25 * SECOND));
        assert_eq!((0..100).filter(|_| budget.withdraw(Cost::Failure, 1_000_000 * SECOND)).count(), 4);
        assert!(!budget.withdraw(Cost::Failure, 0));
        assert!(!budget.withdraw(Cost::Failure, u64::MAX - 1) || budget.tokens.load(Relaxed) <= REFILL_MAX);
    }

    #[test]
    fn a_budget_of_nothing_never_repeats() {
        let budget = Budget::new(0);
        budget.deposit();
        assert!(!budget.withdraw(Cost::Failure, u64::MAX));
    }
}

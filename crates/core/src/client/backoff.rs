//! How long to wait before the next attempt: full jitter, with a server's hint as a floor.

use std::time::Duration;

use super::RetrySettings;

/// The share of a server's hint that may be added to it, so that the callers it turned away do not return at once.
const HINT_JITTER: f64 = 0.1;

/// Returns the wait before the attempt that follows `failures` failed ones (at least 1). `unit` is in `[0, 1)`.
///
/// Without a hint it is full jitter: evenly between nothing and `base · 2^(failures - 1)`, at most `max`. A hint is
/// only ever lengthened (by at most a tenth), never shortened, whatever `max` says.
pub(super) fn delay(
    settings: &RetrySettings,
    throttled: bool,
    failures: u32,
    hint: Option<Duration>,
    unit: f64,
) -> Duration {
    let base = if throttled { settings.throttled_base } else { settings.base };
    let doubled = base.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let jittered = doubled.min(settings.max).mul_f64(unit);
    match hint {
        Some(hint) => jittered.max(lengthened(hint, unit)),
        None => jittered,
    }
}

/// Lengthens a duration by up to a tenth.
pub(super) fn lengthened(duration: Duration, unit: f64) -> Duration {
    duration.saturating_add(duration.mul_f64(unit * HINT_JITTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bounds_double_up_to_the_longest() {
        let settings = RetrySettings::default();
        let top = |failures, throttled| delay(&settings, throttled, failures, None, 1.0);
        assert_eq!(top(1, false), Duration::from_millis(100));
        assert_eq!(top(2, false), Duration::from_millis(200));
        assert_eq!(top(3, false), Duration::from_millis(400));
        assert_eq!(top(1, true), Duration::from_secs(1));
        assert_eq!(top(40, false), Duration::from_secs(20));
        assert_eq!(top(u32::MAX, true), Duration::from_secs(20));
        assert_eq!(delay(&settings, false, 5, None, 0.0), Duration::ZERO);
    }

    proptest! {
        // Fails when jitter is taken from a hint, or a hint is cut to `max`.
        #[test]
        fn a_hint_is_a_floor_and_grows_by_at_most_a_tenth(
            millis in 0_u64..100_000_000, failures in 0_u32..50, unit in 0.0_f64..1.0, throttled: bool,
        ) {
            let settings = RetrySettings::default();
            let hint = Duration::from_millis(millis);
            let waited = delay(&settings, throttled, failures, Some(hint), unit);
            prop_assert!(waited >= hint);
            prop_assert!(waited <= hint.mul_f64(1.1).max(settings.max) + Duration::from_micros(1));
        }
    }
}

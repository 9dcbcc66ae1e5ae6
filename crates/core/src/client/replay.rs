//! The replay rule: whether a failed attempt may be repeated. One table, pure, without any other consideration.

use crate::call::Replay;

/// What is known about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Nothing reached the provider (name, connect, TLS).
    NotSent,
    /// The provider answered and says it did nothing (429, its own word on repeating).
    NotProcessed,
    /// The provider may have acted: timeout after sending, reset, cut body, 5xx.
    Ambiguous,
    /// The answer is final, whatever the operation.
    Final,
}

/// Tells whether an attempt may be repeated without the risk of doing the work twice.
pub(super) fn may_repeat(replay: Replay, evidence: Evidence) -> bool {
    match (evidence, replay) {
        (Evidence::NotSent | Evidence::NotProcessed, _) => true,
        (Evidence::Ambiguous, Replay::Safe | Replay::Idempotent | Replay::Keyed(_)) => true,
        (Evidence::Ambiguous, Replay::Never) => false,
        (Evidence::Final, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails when any cell of the table changes.
    #[test]
    fn the_table_is_as_written_in_the_design() {
        let rows = [
            (Evidence::NotSent, [true, true, true, true]),
            (Evidence::NotProcessed, [true, true, true, true]),
            (Evidence::Ambiguous, [true, true, true, false]),
            (Evidence::Final, [false, false, false, false]),
        ];
        let columns = [Replay::Safe, Replay::Idempotent, Replay::Keyed("idempotency-key"), Replay::Never];
        for (evidence, expected) in rows {
            for (replay, expected) in columns.into_iter().zip(expected) {
                assert_eq!(may_repeat(replay, evidence), expected, "{replay:?} {evidence:?}");
            }
        }
    }
}

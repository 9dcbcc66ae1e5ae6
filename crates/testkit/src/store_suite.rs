//! What every store must do, as plain functions: each doc line is the promise, each takes an empty store. And
//! [`model()`]: random sequences of operations compared step by step with the in-memory reference.
//!
//! ```no_run
//! # use palisade_testkit::store_suite::{self, StoreUnderTest};
//! # async fn example(subject: &dyn StoreUnderTest) {
//! store_suite::run_all(subject).await;
//! store_suite::model(subject, 7, 200, "cargo test -p my-store model").await;
//! # }
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use palisade_core::Result;
use palisade_core::store::Store;

mod destinations;
mod grants;
mod inbox;
mod jobs;
mod keys;
mod model;
mod outbox;
mod records;
mod rest;
mod schedules;
mod secrets;

pub use destinations::{
    a_destination_is_paused_until_somebody_resumes_it, a_destination_is_written_over_what_was_seen,
    how_a_destination_fares_is_noted, what_is_noted_of_a_destination_is_of_its_revision,
    what_was_given_up_for_a_destination_is_listed,
};
pub use grants::{
    a_connect_is_whole_or_nothing, a_disconnect_erases_and_refuses_late_writers, a_grant_is_held_by_one,
    a_grant_rests_after_a_failure, a_lost_hold_writes_nothing_and_its_intent_is_found,
    a_refusal_of_what_was_replaced_marks_nothing, a_renewal_compares_the_generation,
    an_end_names_its_generation_and_marks_the_connection, grants_are_due_in_order, what_is_taken_is_taken_once,
};
pub use inbox::{
    a_body_is_kept_for_every_event, a_dead_event_is_dismissed, a_list_goes_past_a_bounded_number_of_rows,
    a_name_outlives_its_event, a_repeated_event_is_stored_once, a_replay_goes_past_a_bounded_number_of_rows,
    a_replayed_event_gets_a_fresh_job, a_step_of_pruning_is_bounded_in_bytes, an_event_stays_until_it_is_forwarded,
    an_events_priority_goes_before_its_turn, an_ignored_event_is_replayed_when_asked_for,
    an_unwanted_event_is_kept_without_a_job, dead_events_are_counted_by_cause, dead_events_are_counted_by_connection,
    events_are_listed_newest_first, events_are_replayed_by_filter, only_finished_events_are_pruned,
    the_inbox_is_pruned_to_its_bytes, what_is_heard_is_noted_by_type,
};
pub use jobs::{
    a_claim_gives_the_most_urgent_due_jobs, a_connection_in_use_again_is_halted_no_more,
    a_crowd_enters_the_line_in_steps, a_dead_sync_fails_its_run, a_failed_effect_undoes_its_settlement_alone,
    a_group_without_room_holds_up_no_other, a_job_that_could_not_be_tried_keeps_its_place, a_late_worker_is_refused,
    a_live_job_is_read_by_its_key, a_lost_worker_costs_one_attempt, a_unique_key_is_one_job_and_is_pulled_forward,
    enqueued_work_wakes_a_waiter, events_take_the_turns_of_their_tenant, finished_jobs_are_pruned,
    halted_events_wait_and_go_on_in_order, jobs_of_a_lane_run_one_by_one_in_order, tenants_take_turns,
    the_oldest_due_job_is_told, the_state_of_an_event_follows_its_job, two_claims_never_hold_the_same_job,
};
pub use keys::{
    a_master_key_is_retired_when_nothing_needs_it, data_keys_left_are_walked_in_order,
    only_the_active_master_key_wraps, seals_are_set_aside_once, the_first_master_key_is_the_one_in_use,
    two_processes_agree_on_a_data_key,
};
pub use model::model;
pub use outbox::{
    a_certain_refusal_is_retried_under_a_new_key, a_dead_job_leaves_its_call_decided, a_decision_follows_the_rule,
    a_decision_is_not_lost_with_the_end_of_a_job, a_departure_is_noted_under_the_lease,
    a_due_call_stands_in_line_at_once, a_kept_call_has_its_job, a_result_comes_with_its_settlement,
    a_unique_key_is_one_call_of_a_connection, a_unique_key_is_one_call_under_concurrency,
    calls_and_effects_are_one_commit, calls_are_listed_and_pruned, calls_of_a_settlement_are_kept_with_it,
};
pub use records::{
    a_disconnect_ends_the_runs_of_its_connection, a_full_run_deletes_what_it_did_not_see,
    a_page_is_committed_whole_or_not_at_all, a_run_is_taken_up_where_it_was, a_run_tells_why_it_waits_or_ended,
    a_stream_is_paused_and_reset, a_whole_reading_of_the_feed_is_one_snapshot, an_old_cursor_is_forgotten,
    an_old_event_of_an_unknown_record_is_fetched, changes_that_cannot_be_ordered_are_named,
    deletions_are_judged_before_the_first_of_them, many_deletions_wait_for_a_review,
    missed_events_are_kept_with_their_run, old_runs_are_removed_but_for_the_newest,
    old_tombstones_are_removed_and_leave_a_horizon, the_end_of_a_full_run_goes_in_steps,
    the_feed_has_no_gap_under_concurrent_commits, the_feed_shows_each_record_once_with_its_latest_state,
    what_cannot_be_read_is_set_aside, what_is_set_aside_is_bounded, what_was_asked_for_in_vain_waits_behind_the_others,
    what_was_set_aside_long_ago_is_pruned, whoever_waits_for_a_change_is_woken,
};
pub use rest::{
    a_credential_is_written_by_one_of_many, a_state_is_changed_where_it_was_seen, calls_are_counted_by_the_hour,
    connections_are_kept_and_listed_by_id, counts_of_calls_are_rolled_up_into_days,
    pauses_are_kept_to_their_latest_end_in_bounded_number, the_connections_of_an_account_are_found,
};
pub use schedules::{
    only_a_job_that_waits_for_its_moment_is_moved, the_last_end_of_a_chore_is_kept, what_schedules_need_is_read_at_once,
};

/// The statement of an effect that succeeds: adds its number to the subject's own table.
pub const EFFECT_GOOD: &str = "INSERT INTO suite_effect (number) VALUES (?1)";
/// The statement of an effect that fails.
pub const EFFECT_BAD: &str = "INSERT INTO suite_no_such_table (number) VALUES (?1)";

/// Makes stores to test.
#[async_trait]
pub trait StoreUnderTest: Send + Sync {
    /// Makes an empty store, with a table `suite_effect (number INTEGER)` if it executes effects. [`EFFECT_BAD`] must
    /// fail in it.
    async fn fresh(&self) -> Arc<dyn Store>;

    /// Ends the store as a crash would and opens what is left of it. A store that keeps nothing gives itself.
    async fn reopened(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        store
    }

    /// Counts the rows of `suite_effect` in the newest store; `None` when effects are not executed.
    async fn effects(&self) -> Option<u64> {
        None
    }
}

/// Runs every check on a fresh store each.
///
/// # Panics
/// When a promise is broken.
pub async fn run_all(subject: &dyn StoreUnderTest) {
    macro_rules! run {
        ($($check:ident),* $(,)?) => { $( $check(&*subject.fresh().await).await; )* };
    }
    run!(
        a_repeated_event_is_stored_once,
        an_events_priority_goes_before_its_turn,
        a_body_is_kept_for_every_event,
        an_unwanted_event_is_kept_without_a_job,
        an_ignored_event_is_replayed_when_asked_for,
        a_dead_event_is_dismissed,
        events_are_listed_newest_first,
        a_list_goes_past_a_bounded_number_of_rows,
        a_replayed_event_gets_a_fresh_job,
        dead_events_are_counted_by_connection,
        dead_events_are_counted_by_cause,
        events_are_replayed_by_filter,
        a_replay_goes_past_a_bounded_number_of_rows,
        the_inbox_is_pruned_to_its_bytes,
        only_finished_events_are_pruned,
        an_event_stays_until_it_is_forwarded,
        a_name_outlives_its_event,
        a_step_of_pruning_is_bounded_in_bytes,
        what_is_heard_is_noted_by_type,
        a_claim_gives_the_most_urgent_due_jobs,
        tenants_take_turns,
        events_take_the_turns_of_their_tenant,
        a_group_without_room_holds_up_no_other,
        a_crowd_enters_the_line_in_steps,
        halted_events_wait_and_go_on_in_order,
        a_connection_in_use_again_is_halted_no_more,
        the_oldest_due_job_is_told,
        a_live_job_is_read_by_its_key,
        a_lost_worker_costs_one_attempt,
        a_late_worker_is_refused,
        jobs_of_a_lane_run_one_by_one_in_order,
        a_job_that_could_not_be_tried_keeps_its_place,
        a_unique_key_is_one_job_and_is_pulled_forward,
        the_state_of_an_event_follows_its_job,
        a_failed_effect_undoes_its_settlement_alone,
        a_dead_sync_fails_its_run,
        finished_jobs_are_pruned,
        the_feed_shows_each_record_once_with_its_latest_state,
        changes_that_cannot_be_ordered_are_named,
        a_page_is_committed_whole_or_not_at_all,
        a_run_is_taken_up_where_it_was,
        a_full_run_deletes_what_it_did_not_see,
        many_deletions_wait_for_a_review,
        the_end_of_a_full_run_goes_in_steps,
        deletions_are_judged_before_the_first_of_them,
        an_old_cursor_is_forgotten,
        an_old_event_of_an_unknown_record_is_fetched,
        a_whole_reading_of_the_feed_is_one_snapshot,
        old_tombstones_are_removed_and_leave_a_horizon,
        a_run_tells_why_it_waits_or_ended,
        what_cannot_be_read_is_set_aside,
        what_was_asked_for_in_vain_waits_behind_the_others,
        what_is_set_aside_is_bounded,
        what_was_set_aside_long_ago_is_pruned,
        a_stream_is_paused_and_reset,
        missed_events_are_kept_with_their_run,
        old_runs_are_removed_but_for_the_newest,
        a_disconnect_ends_the_runs_of_its_connection,
        connections_are_kept_and_listed_by_id,
        a_state_is_changed_where_it_was_seen,
        the_connections_of_an_account_are_found,
        two_processes_agree_on_a_data_key,
        the_first_master_key_is_the_one_in_use,
        only_the_active_master_key_wraps,
        a_master_key_is_retired_when_nothing_needs_it,
        data_keys_left_are_walked_in_order,
        a_connect_is_whole_or_nothing,
        a_lost_hold_writes_nothing_and_its_intent_is_found,
        a_grant_rests_after_a_failure,
        a_renewal_compares_the_generation,
        a_refusal_of_what_was_replaced_marks_nothing,
        an_end_names_its_generation_and_marks_the_connection,
        a_disconnect_erases_and_refuses_late_writers,
        grants_are_due_in_order,
        calls_are_counted_by_the_hour,
        counts_of_calls_are_rolled_up_into_days,
        pauses_are_kept_to_their_latest_end_in_bounded_number,
        what_schedules_need_is_read_at_once,
        only_a_job_that_waits_for_its_moment_is_moved,
        the_last_end_of_a_chore_is_kept,
        a_destination_is_written_over_what_was_seen,
        how_a_destination_fares_is_noted,
        a_destination_is_paused_until_somebody_resumes_it,
        what_is_noted_of_a_destination_is_of_its_revision,
        what_was_given_up_for_a_destination_is_listed,
        a_kept_call_has_its_job,
        calls_and_effects_are_one_commit,
        a_unique_key_is_one_call_of_a_connection,
        a_departure_is_noted_under_the_lease,
        a_result_comes_with_its_settlement,
        a_dead_job_leaves_its_call_decided,
        a_decision_follows_the_rule,
        a_certain_refusal_is_retried_under_a_new_key,
        a_decision_is_not_lost_with_the_end_of_a_job,
        a_due_call_stands_in_line_at_once,
        calls_are_listed_and_pruned,
        calls_of_a_settlement_are_kept_with_it,
    );
    two_claims_never_hold_the_same_job(subject.fresh().await).await;
    enqueued_work_wakes_a_waiter(subject.fresh().await).await;
    a_credential_is_written_by_one_of_many(subject.fresh().await).await;
    seals_are_set_aside_once(subject.fresh().await).await;
    a_unique_key_is_one_call_under_concurrency(subject.fresh().await).await;
    a_grant_is_held_by_one(subject.fresh().await).await;
    what_is_taken_is_taken_once(subject.fresh().await).await;
    the_feed_has_no_gap_under_concurrent_commits(subject.fresh().await).await;
    whoever_waits_for_a_change_is_woken(subject.fresh().await).await;
}

/// Unwraps a store's answer in a check.
#[track_caller]
fn ok<T>(answer: Result<T>) -> T {
    match answer {
        Ok(value) => value,
        Err(error) => panic!("the store failed: {error}"),
    }
}

#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: T, promise: &str) {
    assert_eq!(found, wanted, "{promise}");
}

/// Counts how often each value stands.
fn tally<T: Ord>(values: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
}

fn distinct<T: Ord>(values: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    values.into_iter().collect()
}

//! What every adapter must do, as plain functions: each doc line is the promise, each takes a [`Subject`].
//!
//! A subject is an adapter with samples: calls with true answers, deliveries with a signer, an emulated provider. It is
//! filled in beside the adapter, in this workspace or outside of it:
//!
//! ```no_run
//! use palisade_testkit::conformance::{self, Subject};
//!
//! async fn keeps_every_promise_of_the_kit(subject: Subject) {
//!     conformance::prove(&subject, option_env!("CARGO_TARGET_TMPDIR")).await;
//! }
//! ```
//!
//! In a test that is one line under `#[tokio::test(start_paused = true)]`: time is tokio's, and nothing here waits.
//!
//! What cannot be tried says why: [`Subject::not_applicable`], and what a sample says of itself. A check that had
//! nothing to try is broken, never kept.

use std::collections::BTreeSet;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use futures_util::FutureExt;
use palisade_core::Timestamp;

mod calls;
mod limits;
mod missed;
mod noise;
mod report;
mod sample;
mod stage;
mod subject;
mod sync;
mod webhooks;
mod wire;

pub use calls::{
    a_broken_exchange_is_told_for_what_it_is, arbitrary_answers_never_panic, each_answer_has_its_meaning,
    every_attempt_carries_the_same_key, nothing_leaves_for_another_host, operations_are_described,
    requests_are_those_of_the_official_sdk, retry_after_is_kept_in_both_forms, unknown_fields_are_tolerated,
};
pub use limits::{a_burst_keeps_the_limit_and_uses_it, no_secret_is_printed};
pub use missed::a_missed_record_makes_its_webhooks_event;
pub use report::{Report, Row, Verdict};
pub use sample::{Meaning, PERSON, Sample};
pub use stage::{Counted, Counting, Rate, Stage, Stream};
pub use subject::{Ask, Handshake, Hook, Subject, Vector};
pub use sync::{
    a_cursor_that_does_not_advance_is_an_error, a_deletion_between_pages_hides_nothing,
    a_run_is_taken_up_after_any_page, a_throttle_in_mid_run_is_waited_for, an_empty_page_ends_nothing,
    an_expired_cursor_begins_anew, every_record_is_read_once, full_incremental_and_events_agree,
};
pub use webhooks::{
    a_handshake_is_answered_and_makes_no_event, a_repeated_delivery_is_the_same_event,
    arbitrary_deliveries_never_panic, every_changed_byte_is_refused, every_header_is_needed_once,
    every_recorded_delivery_gets_its_verdict, the_window_is_kept_to_the_second, two_secrets_live_at_once,
};

/// The moment everything begins at: 2026-01-01T00:00:00Z.
pub const NOW: Timestamp = Timestamp(1_767_225_600_000);

/// What is wrong with an adapter, or missing in its subject, in words for its author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(String);

impl Broken {
    /// Says what is wrong.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

impl From<String> for Broken {
    fn from(why: String) -> Self {
        Self(why)
    }
}

/// What a check tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cases {
    tried: usize,
    unable: BTreeSet<String>,
}

impl Cases {
    /// Counts one case that was as it should be.
    pub(crate) fn kept(&mut self) {
        self.tried += 1;
    }

    /// Notes why a part could not be tried.
    pub(crate) fn unable(&mut self, reason: impl Into<String>) {
        self.unable.insert(reason.into());
    }

    /// Returns how many cases were tried.
    #[must_use]
    pub fn tried(&self) -> usize {
        self.tried
    }

    /// Returns why parts could not be tried.
    pub fn unable_to(&self) -> impl Iterator<Item = &str> {
        self.unable.iter().map(String::as_str)
    }
}

/// What a check came to: the cases that were all as promised, or the first that was not.
pub type Checked = Result<Cases, Broken>;

/// Fails a check unless something holds.
pub(crate) fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(why())) }
}

/// Which part of an adapter a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Group {
    /// What is sent and what answers mean.
    Calls,
    /// Deliveries.
    Webhooks,
    /// What is read and kept in step.
    Streams,
    /// What the provider counts.
    Limits,
    /// What nobody may read.
    Secrets,
}

impl Group {
    /// Returns the group as it stands in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Webhooks => "webhooks",
            Self::Streams => "streams",
            Self::Limits => "limits",
            Self::Secrets => "secrets",
        }
    }
}

type Run = for<'a> fn(&'a Subject) -> Pin<Box<dyn Future<Output = Checked> + 'a>>;

/// One check of the suite.
#[derive(Clone, Copy)]
pub struct Check {
    /// What it is about.
    pub group: Group,
    /// Its function's name: the promise in short.
    pub name: &'static str,
    run: Run,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("group", &self.group).field("name", &self.name).finish_non_exhaustive()
    }
}

macro_rules! checks {
    ($($group:ident { $($name:ident),* $(,)? })*) => {
        /// Every check, in the order of the table.
        pub static CHECKS: &[Check] = &[
            $($(Check { group: Group::$group, name: stringify!($name), run: |subject| Box::pin($name(subject)) },)*)*
        ];
    };
}

checks! {
    Calls {
        operations_are_described,
        requests_are_those_of_the_official_sdk,
        every_attempt_carries_the_same_key,
        retry_after_is_kept_in_both_forms,
        each_answer_has_its_meaning,
        a_broken_exchange_is_told_for_what_it_is,
        unknown_fields_are_tolerated,
        nothing_leaves_for_another_host,
        arbitrary_answers_never_panic,
    }
    Webhooks {
        every_recorded_delivery_gets_its_verdict,
        every_changed_byte_is_refused,
        every_header_is_needed_once,
        the_window_is_kept_to_the_second,
        two_secrets_live_at_once,
        a_repeated_delivery_is_the_same_event,
        a_handshake_is_answered_and_makes_no_event,
        arbitrary_deliveries_never_panic,
    }
    Streams {
        every_record_is_read_once,
        an_empty_page_ends_nothing,
        a_run_is_taken_up_after_any_page,
        a_cursor_that_does_not_advance_is_an_error,
        a_throttle_in_mid_run_is_waited_for,
        a_deletion_between_pages_hides_nothing,
        an_expired_cursor_begins_anew,
        full_incremental_and_events_agree,
        a_missed_record_makes_its_webhooks_event,
    }
    Limits {
        a_burst_keeps_the_limit_and_uses_it,
    }
    Secrets {
        no_secret_is_printed,
    }
}

impl Check {
    /// Runs the check. A panic of the adapter is a broken promise, not an end of the suite.
    pub async fn run(&self, subject: &Subject) -> Verdict {
        if let Some(reason) = subject.excuse(self) {
            return Verdict::NotApplicable(reason);
        }
        match AssertUnwindSafe((self.run)(subject)).catch_unwind().await {
            Ok(Ok(cases)) if cases.tried > 0 => Verdict::Kept { cases: cases.tried, except: cases.unable },
            Ok(Ok(cases)) if !cases.unable.is_empty() => {
                Verdict::NotApplicable(cases.unable.into_iter().collect::<Vec<_>>().join("; "))
            }
            Ok(Ok(_)) => Verdict::Broken("nothing could be tried: the subject has no sample for it".to_owned()),
            Ok(Err(Broken(why))) => Verdict::Broken(why),
            Err(panic) => Verdict::Broken(format!("it panicked: {}", noise::said(&*panic))),
        }
    }
}

/// Runs every check and returns what came of it.
pub async fn run_all(subject: &Subject) -> Report {
    let mut report = Report::new(subject);
    if let Some(name) = subject.excused_names().find(|name| CHECKS.iter().all(|check| check.name != *name)) {
        report.add(Row::unknown(name));
    }
    for check in CHECKS {
        report.add(Row::new(check, check.run(subject).await));
    }
    report
}

/// Runs every check, leaves the report as `conformance/<adapter>.json` in `folder` for `cargo xtask conformance`, and
/// returns it.
///
/// # Panics
/// When a promise is broken: with all that is broken, each with what to do about it.
#[expect(clippy::print_stdout, reason = "what was tried is what a run of the test is read for")]
pub async fn prove(subject: &Subject, folder: Option<&str>) -> Report {
    let report = run_all(subject).await;
    if let Some(Err(error)) = folder.map(|folder| report.write(folder)) {
        panic!("the report cannot be written: {error}");
    }
    println!("{report}");
    let broken = report.broken().count();
    assert!(broken == 0, "{broken} promises are broken:\n{report}");
    report
}

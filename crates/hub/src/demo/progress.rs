//! The moving line of the demo, on standard error, so that `--json` stays clean on standard output.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// One line that says what is going on, and a few that stay.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    /// Whether the lines that stay are written.
    tells: bool,
}

impl Progress {
    /// Draws on standard error; where that is not a terminal, only what stays is written.
    #[must_use]
    pub fn on_terminal() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), began: Instant::now(), tells: true };
        }
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} [{bar:28}] {msg}") {
            bar.set_style(style.progress_chars("━╸ "));
        }
        Self { bar, began: Instant::now(), tells: true }
    }

    /// Draws nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self { bar: ProgressBar::hidden(), began: Instant::now(), tells: false }
    }

    /// Begins a chapter: a line that stays, and the moving one.
    pub(super) fn chapter(&self, number: u32, of: u32, what: &'static str) {
        self.note(&format!("{:6.1} s  {number:>2}/{of} {what}", self.began.elapsed().as_secs_f64()));
        self.bar.set_message(what);
        self.bar.tick();
    }

    /// Tells what came of a chapter.
    pub(super) fn found(&self, what: &str) {
        self.note(&format!("{:16}{what}", ""));
    }

    /// Writes a line that stays.
    pub(crate) fn note(&self, line: &str) {
        if self.tells {
            // A reader that went away is not our failure.
            self.bar.suspend(|| drop(writeln!(std::io::stderr().lock(), "{line}")));
        }
        tracing::info!(line, "demo");
    }

    pub(super) fn customers(&self, stored: u64, all: u64) {
        self.bar.set_length(all);
        self.bar.set_position(stored);
        self.bar.set_message(format!("full sync: {stored} of {all} customers"));
    }

    pub(super) fn events(&self, happened: u64, all: u64) {
        if self.bar.position() >= self.bar.length().unwrap_or(0) {
            self.bar.set_length(all);
            self.bar.set_position(happened);
            self.bar.set_message(format!("{happened} of {all} events happened at the provider"));
        }
        self.bar.tick();
    }

    pub(super) fn pending(&self, stored: u64, pending: u64) {
        self.bar.set_length(stored);
        self.bar.set_position(stored.saturating_sub(pending));
        self.bar.set_message(format!("{pending} events to handle"));
    }

    pub(super) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

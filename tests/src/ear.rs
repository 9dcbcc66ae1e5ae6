//! Hears everything that is logged by anybody in the process while it listens: our own spans and events at every
//! level, those of hyper and tokio, and what reqwest and rustls say through `log`.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

static LISTENS: AtomicBool = AtomicBool::new(false);
static HEARD: Mutex<String> = Mutex::new(String::new());
static INSTALL: Once = Once::new();

/// Begins to listen, when whoever listens already has heard enough: there is one ear per process.
///
/// # Panics
/// When something else listens to the process's log already.
pub async fn listen() -> Listening {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let turn = TURN.lock().await;
    INSTALL.call_once(|| {
        tracing::subscriber::set_global_default(Ear).expect("nobody else listens");
        log::set_logger(&EAR).expect("nobody else listens");
        log::set_max_level(log::LevelFilter::Trace);
    });
    lock().clear();
    LISTENS.store(true, Ordering::SeqCst);
    tracing::callsite::rebuild_interest_cache();
    Listening { told: AtomicUsize::new(0), _turn: turn }
}

/// What is heard until this is dropped.
#[derive(Debug)]
pub struct Listening {
    told: AtomicUsize,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

impl Listening {
    /// Returns everything that was heard.
    #[must_use]
    pub fn heard(self) -> String {
        LISTENS.store(false, Ordering::SeqCst);
        std::mem::take(&mut *lock())
    }

    /// Returns the lines with a word that were heard since this was called last.
    pub fn since(&self, word: &str) -> String {
        let heard = lock();
        let from = self.told.swap(heard.len(), Ordering::SeqCst);
        heard[from..].lines().filter(|line| line.contains(word)).fold(String::new(), |all, line| all + line + "\n")
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENS.store(false, Ordering::SeqCst);
        lock().clear();
    }
}

fn lock() -> MutexGuard<'static, String> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Ear;
static EAR: Ear = Ear;

fn note(level: &str, target: &str, write: impl FnOnce(&mut String)) {
    let mut heard = lock();
    let _ = write!(heard, "{level} {target}");
    write(&mut heard);
    heard.push('\n');
}

/// Writes down what a span or an event says.
pub(crate) struct Words<'a>(pub(crate) &'a mut String);

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {field}={value}");
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // Both forms, and every source: whoever formats the error must find nothing.
        let mut error = Some(value);
        while let Some(one) = error {
            let _ = write!(self.0, " {field}={one} {one:?}");
            error = one.source();
        }
    }
}

impl Subscriber for Ear {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        LISTENS.load(Ordering::Relaxed)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let metadata = span.metadata();
        note(metadata.level().as_str(), metadata.target(), |heard| {
            let _ = write!(heard, " span {}", metadata.name());
            span.record(&mut Words(heard));
        });
        Id::from_u64(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _span: &Id, values: &Record<'_>) {
        note(Level::TRACE.as_str(), "recorded", |heard| values.record(&mut Words(heard)));
    }

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        note(metadata.level().as_str(), metadata.target(), |heard| event.record(&mut Words(heard)));
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}

    fn register_callsite(&self, _metadata: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        tracing::subscriber::Interest::sometimes()
    }
}

impl log::Log for Ear {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        LISTENS.load(Ordering::Relaxed)
    }

    fn log(&self, record: &log::Record<'_>) {
        if log::Log::enabled(self, record.metadata()) {
            note(record.level().as_str(), record.target(), |heard| {
                let _ = write!(heard, " {}", record.args());
            });
        }
    }

    fn flush(&self) {}
}

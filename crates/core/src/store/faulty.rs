//! The in-memory store with faults: for tests of what stands on a store.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::layered::{LayeredStore, StoreLayer};
use super::memory::MemoryStore;
use crate::error::{Error, ErrorKind, Result};

/// When a call of the store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Before it does anything.
    Before,
    /// After it is done: the caller cannot know.
    After,
    /// Before it does anything, by the call's own fault: again it would fail again.
    Refused,
}

type FaultHook = Box<dyn FnMut(&str) -> Option<Fault> + Send>;
type DelayHook = Box<dyn FnMut(&str) -> Duration + Send>;

/// The in-memory store with faults.
pub(crate) type Faulty = LayeredStore<MemoryStore, Faults>;

/// Faults and delays of a store, and a yield around every call, so that a future may be dropped there.
#[derive(Default)]
pub(crate) struct Faults {
    faults: Mutex<Option<FaultHook>>,
    yields: AtomicBool,
    delays: Mutex<Option<DelayHook>>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

impl Faults {
    pub(crate) fn yielding(&self) {
        self.yields.store(true, Ordering::SeqCst);
    }

    pub(crate) fn failing(&self, hook: impl FnMut(&str) -> Option<Fault> + Send + 'static) {
        *self.faults.lock().unwrap() = Some(Box::new(hook));
    }

    /// Lets every call take a while, before and after it is done.
    pub(crate) fn slowed(&self, hook: impl FnMut(&str) -> Duration + Send + 'static) {
        *self.delays.lock().unwrap() = Some(Box::new(hook));
    }

    async fn delay(&self, name: &str) {
        let delay = self.delays.lock().unwrap().as_mut().map(|hook| hook(name));
        if let Some(delay) = delay.filter(|delay| !delay.is_zero()) {
            tokio::time::sleep(delay).await;
        }
    }

    pub(crate) fn healed(&self) {
        *self.faults.lock().unwrap() = None;
    }
}

impl StoreLayer for Faults {
    async fn around<T: Send>(&self, name: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let broken = || Err(Error::new(ErrorKind::Store, "the disk is gone"));
        let fault = self.faults.lock().unwrap().as_mut().and_then(|hook| hook(name));
        if self.yields.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        self.delay(name).await;
        if fault == Some(Fault::Before) {
            return broken();
        }
        if fault == Some(Fault::Refused) {
            return broken().map_err(|error| error.with_retryable(false));
        }
        let result = call.await;
        self.delay(name).await;
        if self.yields.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        if fault == Some(Fault::After) { broken() } else { result }
    }
}

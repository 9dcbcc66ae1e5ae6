//! What a product registers for events, what it is given, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use crate::error::Error;
use crate::store::{Effect, StoredEvent, Value};
use crate::sync::Site;
use crate::transport::Transport;

use super::NewCall;
use super::job::Stop;

/// Handles events. A handler may be called again for the same event (a worker died, another handler of the event
/// asked for a repeat): writes to the same database belong into [`Context::effect`] and then happen exactly once;
/// everything else uses [`Context::idempotency_key`] and happens at least once.
///
/// It runs inside the worker's task: it must not block the thread, and it is dropped at its timeout.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles one event.
    async fn handle(&self, event: &StoredEvent, context: &mut Context) -> Handled;
}

#[async_trait]
impl<F> Handler for F
where
    F: for<'a> Fn(&'a StoredEvent, &'a mut Context) -> BoxFuture<'a, Handled> + Send + Sync + 'static,
{
    async fn handle(&self, event: &StoredEvent, context: &mut Context) -> Handled {
        self(event, context).await
    }
}

#[async_trait]
impl Handler for Arc<dyn Handler> {
    async fn handle(&self, event: &StoredEvent, context: &mut Context) -> Handled {
        self.as_ref().handle(event, context).await
    }
}

/// Makes a handler of a closure, so that the compiler knows what it is given:
///
/// ```
/// use palisade_core::worker::{Handled, handler};
///
/// let paid = handler(|event, context| {
///     Box::pin(async move {
///         context.effect("INSERT INTO paid (event) VALUES (?1)", vec![event.event.id.as_str().into()]);
///         Handled::Done
///     })
/// });
/// # let _: Box<dyn palisade_core::worker::Handler> = Box::new(paid);
/// ```
#[must_use]
pub fn handler<F>(f: F) -> F
where
    F: for<'a> Fn(&'a StoredEvent, &'a mut Context) -> BoxFuture<'a, Handled> + Send + Sync + 'static,
{
    f
}

/// What a handler made of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a closed set: the worker decides on each")]
pub enum Handled {
    /// Handled: its effects are committed with the event's job.
    Done,
    /// Not now: the event comes again, its effects of this attempt do not happen.
    Retry {
        /// After this time; `None` leaves it to the worker's schedule.
        after: Option<Duration>,
        /// Why, in one phrase without payload.
        reason: String,
    },
    /// Not now, for nothing could be tried (the provider is away, a limit): the event comes again without an attempt, its
    /// effects do not happen. Made of an error of a call by [`Handled::from`].
    Wait {
        /// No sooner than this.
        after: Option<Duration>,
        /// Why, in one phrase without payload.
        reason: String,
    },
    /// Never: the event is dead, kept for replay, its effects do not happen.
    Reject {
        /// Why, in one phrase without payload.
        reason: String,
    },
}

impl From<Error> for Handled {
    /// Lets an event whose call failed come again: without an attempt where the provider is away or everybody is to come
    /// later, else as one that was tried. So no outage makes a dead letter of it, and an event that always fails does
    /// not live for ever.
    fn from(error: Error) -> Self {
        match Stop::from(error) {
            Stop::Dead(reason) => Self::Reject { reason },
            Stop::Retry { after, reason } => Self::Retry { after, reason },
            Stop::Wait { after, reason } => Self::Wait { after, reason },
        }
    }
}

/// What a handler is given besides the event.
pub struct Context {
    pub(super) attempt: u32,
    pub(super) key: String,
    pub(super) effects: Vec<Effect>,
    pub(super) preview: bool,
    pub(super) calls: Vec<NewCall>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) site: Site,
}

impl Context {
    /// Adds a write to the same database, committed if and only if the event is settled as done.
    pub fn effect(&mut self, sql: impl Into<String>, values: Vec<Value>) {
        self.effects.push(Effect { sql: sql.into(), values });
    }

    /// Adds a call to the outbox, committed if and only if the event is settled as done. Under one name an event has one
    /// call, also when it is replayed: unless the call has a unique key of its own it gets that of the event and name.
    /// A call that cannot be made (its connection is unknown, say) makes a dead letter of the event.
    pub fn enqueue(&mut self, name: &str, mut call: NewCall) {
        if call.unique.is_none() {
            call.unique = Some(self.idempotency_key(name));
        }
        self.calls.push(call);
    }

    /// Returns a key that is the same in every attempt and replay of this event under the same name, and differs
    /// for every other event and name. Pass it to a provider's idempotency header.
    #[must_use]
    pub fn idempotency_key(&self, name: &str) -> String {
        // The name is length-prefixed through its hex form's fixed width, so that no two pairs give one text.
        let digest = {
            use sha2::Digest;
            let mut hash = sha2::Sha256::new();
            for part in [self.key.as_str(), name] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part.as_bytes());
            }
            hash.finalize()
        };
        let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("palisade-{hex}")
    }

    /// Returns which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Tells whether this is a preview: effects are shown and not written, calls through [`Context::transport`] are
    /// refused, and what else the handler does outside should be left out.
    #[must_use]
    pub fn is_preview(&self) -> bool {
        self.preview
    }

    /// Returns the pipeline to the event's provider.
    #[must_use]
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Returns where and for whom calls of this event's connection go.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("attempt", &self.attempt)
            .field("effects", &self.effects.len())
            .field("site", &self.site)
            .finish_non_exhaustive()
    }
}

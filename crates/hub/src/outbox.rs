//! The outbox of a hub, for the product that embeds it: calls kept in the product's own transaction and made later.

use palisade_core::Result;
use palisade_core::store::{CallId, Decided, Decision, Effect, Enqueued, OutboxCall};
use palisade_core::worker::NewCall;

use crate::hub::Hub;

impl Hub {
    /// Puts a call into the outbox, durably: it is made by whichever hub of this database is free, under the provider's
    /// limits, with one idempotency key for all attempts, and never again blindly when it may have happened. To be told
    /// what came of it see [`Hub::call_result`].
    ///
    /// # Errors
    /// As [`Hub::transaction`].
    pub async fn enqueue(&self, call: NewCall) -> Result<Enqueued> {
        let enqueued = self.transaction(Vec::new(), vec![call]).await?;
        let none = || palisade_core::Error::new(palisade_core::ErrorKind::Store, "the store kept no call");
        enqueued.into_iter().next().ok_or_else(none)
    }

    /// Writes to the product's own tables and puts calls into the outbox in one durable commit: the order is stored if
    /// and only if its mail will be sent. One answer per call, in order.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Invalid`] when an effect fails or a call cannot be what it says;
    /// [`palisade_core::ErrorKind::NotFound`] for a connection nobody knows; [`palisade_core::ErrorKind::Conflict`]
    /// when another call stands under a unique key; [`palisade_core::ErrorKind::Store`],
    /// [`palisade_core::ErrorKind::Overloaded`]. Nothing was written.
    pub async fn transaction(&self, effects: Vec<Effect>, calls: Vec<NewCall>) -> Result<Vec<Enqueued>> {
        self.shared.worker.enqueue_calls(effects, calls).await
    }

    /// Reads a call of the outbox.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Store`].
    pub async fn call(&self, id: CallId) -> Result<Option<OutboxCall>> {
        self.shared.worker.outbox_call(id).await
    }

    /// Waits until a call of the outbox is done, failed, called back or in review, and returns it; `None` when there is
    /// none. It waits as long as the call does: put a timeout around it.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Store`].
    pub async fn call_result(&self, id: CallId) -> Result<Option<OutboxCall>> {
        self.shared.worker.call_result(id).await
    }

    /// Asks the provider whether a call in review was made, where it can be asked (Twilio's messages, SendGrid's mails
    /// with a reference), and ends the review where that is certain.
    ///
    /// # Errors
    /// As [`palisade_core::worker::Worker::reconcile_call`].
    pub async fn reconcile_call(&self, id: CallId) -> Result<(palisade_core::Found, palisade_core::store::CallState)> {
        self.shared.worker.reconcile_call(id).await
    }

    /// Puts somebody's decision about a call into effect: made again, called back, or what a review found.
    ///
    /// # Errors
    /// [`palisade_core::ErrorKind::Store`], [`palisade_core::ErrorKind::Overloaded`].
    pub async fn decide_call(&self, id: CallId, decision: Decision) -> Result<Decided> {
        self.shared.worker.decide_call(id, decision).await
    }
}

//! Handlers that are given an event as a type of its own.

use std::any::type_name;
use std::marker::PhantomData;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::{Context, Handled, Handler};
use crate::error::Result;
use crate::store::StoredEvent;
use crate::webhook::Event;

/// An event of one provider and type. Adapters have one for each of the events most products handle
/// (`palisade_stripe::event::InvoicePaid`); a product may add its own.
pub trait Typed: Sized + Send + 'static {
    /// The provider.
    const PROVIDER: &'static str;
    /// The provider's type, as a handler is registered for: exact, or a prefix (`call.*`) that it parses all of.
    const KIND: &'static str;

    /// Reads the event.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`](crate::ErrorKind::Decode) when a field it cannot do without is missing.
    fn parse(event: &Event) -> Result<Self>;
}

/// Makes a handler of a closure that is given the event as its type. An event that cannot be read is rejected: it is a
/// dead letter whose reason says so, to be replayed once the type reads it. It is not tried again, as it would never be
/// another, and never panics.
///
/// ```
/// use palisade_core::store::Value;
/// use palisade_core::worker::{Handled, Typed, typed};
/// use palisade_core::{Result, webhook::Event};
///
/// struct Paid(Vec<u8>);
///
/// impl Typed for Paid {
///     const PROVIDER: &'static str = "acme";
///     const KIND: &'static str = "invoice.paid";
///     fn parse(event: &Event) -> Result<Self> {
///         Ok(Self(event.payload.to_vec()))
///     }
/// }
///
/// let paid = typed(|Paid(body), event, context| {
///     Box::pin(async move {
///         context.effect("INSERT INTO paid VALUES (?1, ?2)", vec![event.event.id.as_str().into(), Value::Blob(body)]);
///         Handled::Done
///     })
/// });
/// # let _: Box<dyn palisade_core::worker::Handler> = Box::new(paid);
/// ```
#[must_use]
pub fn typed<E, F>(f: F) -> TypedHandler<E, F>
where
    E: Typed,
    F: for<'a> Fn(E, &'a StoredEvent, &'a mut Context) -> BoxFuture<'a, Handled> + Send + Sync + 'static,
{
    TypedHandler { f, event: PhantomData }
}

/// The handler [`typed`] makes.
pub struct TypedHandler<E, F> {
    f: F,
    event: PhantomData<fn(E)>,
}

impl<E: Typed, F> std::fmt::Debug for TypedHandler<E, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TypedHandler").field("kind", &E::KIND).finish_non_exhaustive()
    }
}

#[async_trait]
impl<E, F> Handler for TypedHandler<E, F>
where
    E: Typed,
    F: for<'a> Fn(E, &'a StoredEvent, &'a mut Context) -> BoxFuture<'a, Handled> + Send + Sync + 'static,
{
    async fn handle(&self, event: &StoredEvent, context: &mut Context) -> Handled {
        match E::parse(&event.event) {
            Ok(read) => (self.f)(read, event, context).await,
            Err(error) => {
                let name = type_name::<E>().rsplit("::").next().unwrap_or_default();
                Handled::Reject { reason: format!("the event cannot be read as {name}: {}", error.message()) }
            }
        }
    }
}

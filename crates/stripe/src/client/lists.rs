//! Reading objects with async-stripe's types: one by its id, or all of a list as a stream that pages by itself.
//!
//! A stream asks for the next page when the last one is used up, by the id it ended with, and ends with the first
//! error. async-stripe's `List::into_paginator` is not used: it forgets the filters and limit of the first request.

use futures_util::{Stream, TryStreamExt};
use palisade_core::{Error, Result};
use stripe_billing::invoice::{ListInvoice, RetrieveInvoice};
use stripe_billing::subscription::{ListSubscription, RetrieveSubscription};
use stripe_core::customer::{ListCustomer, RetrieveCustomer, RetrieveCustomerReturned};
use stripe_core::event::{ListEvent, RetrieveEvent};
use stripe_shared::{Customer, Event, Invoice, Subscription};

use super::Stripe;

/// The largest page Stripe gives (Stripe API reference, pagination).
const PAGE: i64 = 100;

impl Stripe {
    /// Lists customers, newest first, with the request's filters; pages of 100.
    pub fn list_customers(
        &self,
        request: ListCustomer,
    ) -> impl Stream<Item = Result<Customer>> + Send + Unpin + use<'_> {
        request.limit(PAGE).paginate().stream(self).map_err(Error::from)
    }

    /// Lists subscriptions, newest first. Ended ones are left out unless the request asks for `status=all`.
    pub fn list_subscriptions(
        &self,
        request: ListSubscription,
    ) -> impl Stream<Item = Result<Subscription>> + Send + Unpin + use<'_> {
        request.limit(PAGE).paginate().stream(self).map_err(Error::from)
    }

    /// Lists invoices, newest first.
    pub fn list_invoices(&self, request: ListInvoice) -> impl Stream<Item = Result<Invoice>> + Send + Unpin + use<'_> {
        request.limit(PAGE).paginate().stream(self).map_err(Error::from)
    }

    /// Lists events of the last 30 days, newest first.
    pub fn list_events(&self, request: ListEvent) -> impl Stream<Item = Result<Event>> + Send + Unpin + use<'_> {
        request.limit(PAGE).paginate().stream(self).map_err(Error::from)
    }

    /// Reads a customer; a deleted one is an answer of its own.
    ///
    /// # Errors
    /// As [`Stripe::send`]; [`palisade_core::ErrorKind::NotFound`] when there never was one.
    pub async fn retrieve_customer(&self, id: &str) -> Result<RetrieveCustomerReturned> {
        self.send(&RetrieveCustomer::new(id), None).await
    }

    /// Reads a subscription; ended ones stay readable.
    ///
    /// # Errors
    /// As [`Stripe::send`]; [`palisade_core::ErrorKind::NotFound`] when there is none.
    pub async fn retrieve_subscription(&self, id: &str) -> Result<Subscription> {
        self.send(&RetrieveSubscription::new(id), None).await
    }

    /// Reads an invoice.
    ///
    /// # Errors
    /// As [`Stripe::send`]; [`palisade_core::ErrorKind::NotFound`] when there is none.
    pub async fn retrieve_invoice(&self, id: &str) -> Result<Invoice> {
        self.send(&RetrieveInvoice::new(id), None).await
    }

    /// Reads an event of the last 30 days.
    ///
    /// # Errors
    /// As [`Stripe::send`]; [`palisade_core::ErrorKind::NotFound`] when it is older or never was.
    pub async fn retrieve_event(&self, id: &str) -> Result<Event> {
        self.send(&RetrieveEvent::new(id), None).await
    }
}

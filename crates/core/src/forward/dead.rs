//! What was given up for a destination: counted, listed, sent again, dismissed.

use std::collections::BTreeMap;

use super::Forwarder;
use crate::error::{Error, ErrorKind, Result};
use crate::id::TenantId;
use crate::store::{DeadForward, Destinations, EventRow, ForwardCounts};

/// How many are sent again or dismissed by one call.
pub const DEAD_AT_ONCE: u32 = 10_000;
/// How many are looked at in one step.
const LOOKED_AT_ONCE: u32 = 200;

/// What was sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resent {
    /// How many wait to be sent now.
    pub events: u64,
    /// How many are still given up, as far as they are counted.
    pub left: u64,
}

/// Reads the next of what was given up: of the rows named, or of all.
async fn next<S: Destinations + ?Sized>(
    store: &S,
    name: &str,
    rows: &mut Option<Vec<EventRow>>,
    after: Option<EventRow>,
) -> Result<Vec<DeadForward>> {
    let Some(rows) = rows else { return store.dead_forwards(name.to_owned(), after, LOOKED_AT_ONCE).await };
    let mut found = Vec::new();
    let rest = rows.split_off(rows.len().min(LOOKED_AT_ONCE as usize));
    for row in std::mem::replace(rows, rest) {
        let behind = Some(EventRow(row.0.saturating_sub(1)));
        let one = store.dead_forwards(name.to_owned(), behind, 1).await?;
        found.extend(one.into_iter().filter(|one| one.row == row));
    }
    Ok(found)
}

/// Dismisses events that were given up for a destination: these, or up to [`DEAD_AT_ONCE`] of all. Returns how many there
/// were.
///
/// # Errors
/// [`ErrorKind::Store`], [`ErrorKind::Overloaded`]: those dismissed stay so.
pub async fn dismiss_dead<S: Destinations + ?Sized>(store: &S, name: &str, rows: Option<Vec<EventRow>>) -> Result<u64> {
    if let Some(rows) = rows {
        return store.dismiss_forwards(name.to_owned(), rows).await;
    }
    let mut dismissed = 0;
    while dismissed < u64::from(DEAD_AT_ONCE) {
        let page = store.dead_forwards(name.to_owned(), None, LOOKED_AT_ONCE).await?;
        if page.is_empty() {
            break;
        }
        let rows = page.iter().map(|one| one.row).collect();
        dismissed += store.dismiss_forwards(name.to_owned(), rows).await?;
    }
    Ok(dismissed)
}

impl Forwarder {
    /// Counts what waits for each of the destinations, and what was given up.
    ///
    /// # Errors
    /// [`ErrorKind::Store`].
    pub async fn counts(&self, names: Vec<String>) -> Result<BTreeMap<String, ForwardCounts>> {
        self.inner.store.forward_counts(names).await
    }

    /// Lists up to `limit` events behind `after` that were given up for a destination, lowest row first.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Store`].
    pub async fn dead(&self, name: &str, after: Option<EventRow>, limit: u32) -> Result<Vec<DeadForward>> {
        self.destination(name).await?;
        self.inner.store.dead_forwards(name.to_owned(), after, limit).await
    }

    /// Sends again what was given up for a destination, on the whole schedule: these events, in the order given, or up to
    /// [`DEAD_AT_ONCE`] of all, lowest row first. Whether they fit its filter by now is not asked. A row that was not given
    /// up is passed over.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] when the destination is disabled; [`ErrorKind::Store`],
    /// [`ErrorKind::Overloaded`]: what was not taken up yet is still given up.
    pub async fn resend(&self, name: &str, rows: Option<Vec<EventRow>>) -> Result<Resent> {
        let inner = &self.inner;
        let live = inner.live_of(name).await?;
        if live.row.health.disabled.is_some() {
            return Err(Error::new(ErrorKind::Conflict, "the destination is disabled: enable it first"));
        }
        inner.wake(name);
        let (mut rows, mut after, mut events) = (rows, None, 0);
        while events < u64::from(DEAD_AT_ONCE) {
            let page = next(inner.store.as_ref(), name, &mut rows, after).await?;
            after = page.last().map(|last| last.row);
            if page.is_empty() && rows.as_ref().is_none_or(Vec::is_empty) {
                break;
            }
            let mut jobs = Vec::with_capacity(page.len());
            for one in page {
                let Some(event) = inner.store.event(one.row).await? else { continue };
                let known = inner.store.connection(event.connection.clone()).await?;
                // As the inbox does where none is known.
                let tenant = known.map_or_else(|| TenantId::new(event.connection.as_str()), |known| known.tenant);
                jobs.push(live.job(&event, &tenant, inner.clock.now()));
            }
            events += jobs.len() as u64;
            inner.store.enqueue(jobs).await?;
        }
        let counts = inner.store.forward_counts(vec![name.to_owned()]).await?;
        let left = counts.get(name).map_or(0, |counts| counts.dead);
        tracing::info!(destination = name, events, left, "events that were given up are sent again");
        Ok(Resent { events, left })
    }

    /// Dismisses events that were given up for a destination, as [`dismiss_dead`].
    ///
    /// # Errors
    /// As [`dismiss_dead`]; [`ErrorKind::NotFound`].
    pub async fn dismiss(&self, name: &str, rows: Option<Vec<EventRow>>) -> Result<u64> {
        self.destination(name).await?;
        let events = dismiss_dead(self.inner.store.as_ref(), name, rows).await?;
        tracing::info!(destination = name, events, "events that were given up were dismissed");
        Ok(events)
    }
}

//! The authorisations under way of the model.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::{Authorizations, PendingRow, SessionRow, TokenHash};

#[derive(Default)]
pub(super) struct AuthorizationsModel {
    pending: BTreeMap<TokenHash, PendingRow>,
    sessions: BTreeMap<TokenHash, SessionRow>,
}

/// Removes the first `limit` that expired before `before`, by expiry and token.
fn prune<T>(rows: &mut BTreeMap<TokenHash, T>, expiry: impl Fn(&T) -> Timestamp, before: Timestamp, limit: u32) -> u64 {
    let mut old: Vec<_> =
        rows.iter().map(|(token, row)| (expiry(row), *token)).filter(|(at, _)| *at < before).collect();
    old.sort_unstable();
    old.truncate(limit as usize);
    for (_, token) in &old {
        rows.remove(token);
    }
    old.len() as u64
}

#[async_trait]
impl Authorizations for MemoryStore {
    async fn put_pending(&self, row: PendingRow) -> Result<bool> {
        let pending = &mut self.lock().authorizations.pending;
        if pending.contains_key(&row.state) {
            return Ok(false);
        }
        pending.insert(row.state, row);
        Ok(true)
    }

    async fn take_pending(&self, state: TokenHash) -> Result<Option<PendingRow>> {
        Ok(self.lock().authorizations.pending.remove(&state))
    }

    async fn put_session(&self, row: SessionRow) -> Result<bool> {
        let sessions = &mut self.lock().authorizations.sessions;
        if sessions.contains_key(&row.token) {
            return Ok(false);
        }
        sessions.insert(row.token, row);
        Ok(true)
    }

    async fn take_session(&self, token: TokenHash) -> Result<Option<SessionRow>> {
        Ok(self.lock().authorizations.sessions.remove(&token))
    }

    async fn prune_authorizations(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let model = &mut self.lock().authorizations;
        let pending = prune(&mut model.pending, |row| row.expires_at, before, limit);
        Ok(pending + prune(&mut model.sessions, |row| row.expires_at, before, limit))
    }
}

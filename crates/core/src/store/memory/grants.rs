//! The grants of the model.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;

use super::{MemoryStore, Model};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{ConnectionId, GrantName};
use crate::store::{
    Connection, ConnectionState, EndReason, GrantClaim, GrantKey, GrantLease, GrantState, Grants, NewGrant, NewTokens,
    Revocation, StoredGrant,
};

/// All grants, by connection and name.
pub(super) type GrantsModel = BTreeMap<GrantKey, StoredGrant>;

impl StoredGrant {
    fn take(&mut self, tokens: NewTokens) {
        self.generation = tokens.generation;
        self.blob = tokens.blob;
        self.issued_at = tokens.issued_at;
        self.expires_at = tokens.expires_at;
        self.keep_alive_at = tokens.keep_alive_at;
        self.granted = tokens.granted;
        self.state = GrantState::Live;
        self.let_go();
        self.rest_until = None;
        self.failures = 0;
    }

    fn let_go(&mut self) {
        self.held_until = None;
        self.intent = None;
    }

    fn is_over(&self) -> bool {
        matches!(self.state, GrantState::Ending { .. } | GrantState::Dead { .. })
    }
}

impl Model {
    fn connect(&mut self, connection: Connection, grants: Vec<NewGrant>) -> bool {
        let key = |name: &GrantName| GrantKey { connection: connection.id.clone(), name: name.clone() };
        let stored = |key: &GrantKey| self.grants.get(key).map_or(0, |grant| grant.generation);
        if grants.iter().any(|new| stored(&key(&new.name)) != new.tokens.expected) {
            return false;
        }
        for new in grants {
            let key = key(&new.name);
            let fence = self.grants.get(&key).map_or(0, |grant| grant.fence);
            let mut grant = StoredGrant {
                key: key.clone(),
                flow: new.flow,
                generation: 0,
                blob: Vec::new(),
                state: GrantState::Live,
                issued_at: Timestamp(0),
                expires_at: None,
                keep_alive_at: None,
                requested: new.requested,
                granted: Vec::new(),
                held_until: None,
                fence,
                intent: None,
                rest_until: None,
                failures: 0,
            };
            grant.take(new.tokens);
            self.grants.insert(key, grant);
        }
        self.put_connection(connection);
        true
    }

    fn claim_grant(&mut self, key: GrantKey, generation: u64, now: Timestamp, until: Timestamp) -> GrantClaim {
        let live = |grant: &&mut StoredGrant| grant.state == GrantState::Live && grant.generation == generation;
        let Some(grant) = self.grants.get_mut(&key).filter(live) else { return GrantClaim::Moved };
        if let Some(until) = grant.held_until.filter(|until| *until > now) {
            return GrantClaim::Busy { until };
        }
        if let Some(until) = grant.rest_until.filter(|until| *until > now) {
            return GrantClaim::Resting { until };
        }
        grant.held_until = Some(until);
        grant.fence += 1;
        GrantClaim::Held { lease: GrantLease { key, fence: grant.fence }, intent: grant.intent }
    }

    fn held(&mut self, lease: &GrantLease) -> Option<&mut StoredGrant> {
        self.grants.get_mut(&lease.key).filter(|grant| grant.fence == lease.fence && grant.held_until.is_some())
    }

    fn renew_grant(&mut self, key: &GrantKey, tokens: NewTokens) -> bool {
        let kept = |grant: &&mut StoredGrant| {
            grant.generation == tokens.expected && !matches!(grant.state, GrantState::Erased { .. })
        };
        let Some(grant) = self.grants.get_mut(key).filter(kept) else { return false };
        let was_over = grant.is_over();
        grant.take(tokens);
        let of_it = self.grants.iter().filter(|(other, _)| other.connection == key.connection);
        if was_over
            && !of_it.into_iter().any(|(_, grant)| grant.is_over())
            && let Some(connection) = self.connections.get_mut(&key.connection)
            && matches!(connection.state, ConnectionState::NeedsReconnect { .. })
        {
            connection.state = ConnectionState::Active;
        }
        true
    }

    fn end_grant(&mut self, key: &GrantKey, generation: u64, reason: EndReason, serves: bool) -> bool {
        let Some(grant) = self.grants.get_mut(key).filter(|grant| grant.generation == generation) else { return false };
        match (&grant.state, serves) {
            (GrantState::Live, true) => grant.state = GrantState::Ending { reason },
            (GrantState::Live | GrantState::Ending { .. }, false) => grant.state = GrantState::Dead { reason },
            (GrantState::Ending { .. }, true) | (GrantState::Dead { .. } | GrantState::Erased { .. }, _) => {}
        }
        grant.let_go();
        if grant.is_over()
            && let Some(connection) = self.connections.get_mut(&key.connection)
            && connection.state == ConnectionState::Active
        {
            connection.state = ConnectionState::NeedsReconnect { reason: reason.phrase().to_owned() };
        }
        true
    }

    fn disconnect(&mut self, id: &ConnectionId, revocations: &HashMap<GrantName, Revocation>, now: Timestamp) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        connection.state = ConnectionState::Disconnected;
        self.records.end_all(id, now);
        self.records.forget_freshness(id);
        for (key, grant) in self.grants.iter_mut().filter(|(key, _)| key.connection == *id) {
            if matches!(grant.state, GrantState::Erased { .. }) {
                continue;
            }
            let revocation = revocations.get(&key.name).copied().unwrap_or(Revocation::NotOffered);
            grant.state = GrantState::Erased { at: now, revocation };
            grant.generation += 1;
            grant.blob = Vec::new();
            grant.keep_alive_at = None;
            grant.let_go();
        }
        if let Some(kept) = self.credentials.get_mut(id).filter(|kept| !kept.blob.is_empty()) {
            kept.generation += 1;
            kept.blob = Vec::new();
        }
        true
    }

    fn grants_due(&self, now: Timestamp, limit: u32) -> Vec<GrantKey> {
        let due = |grant: &&StoredGrant| {
            grant.state == GrantState::Live
                && grant.keep_alive_at.is_some_and(|at| at <= now)
                && grant.rest_until.is_none_or(|until| until <= now)
        };
        let mut due: Vec<_> = self.grants.values().filter(due).map(|grant| (grant.keep_alive_at, &grant.key)).collect();
        due.sort_unstable();
        due.into_iter().take(limit as usize).map(|(_, key)| key.clone()).collect()
    }
}

#[async_trait]
impl Grants for MemoryStore {
    async fn connect(&self, connection: Connection, grants: Vec<NewGrant>) -> Result<bool> {
        Ok(self.lock().connect(connection, grants))
    }

    async fn grant(&self, key: GrantKey) -> Result<Option<StoredGrant>> {
        Ok(self.lock().grants.get(&key).cloned())
    }

    async fn grants(&self, connection: ConnectionId) -> Result<Vec<StoredGrant>> {
        let model = self.lock();
        Ok(model.grants.values().filter(|grant| grant.key.connection == connection).cloned().collect())
    }

    async fn claim_grant(
        &self,
        key: GrantKey,
        generation: u64,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<GrantClaim> {
        Ok(self.lock().claim_grant(key, generation, now, until))
    }

    async fn extend_grant(&self, lease: GrantLease, until: Timestamp) -> Result<bool> {
        Ok(self.lock().held(&lease).map(|grant| grant.held_until = Some(until)).is_some())
    }

    async fn note_intent(&self, lease: GrantLease, at: Option<Timestamp>) -> Result<bool> {
        Ok(self.lock().held(&lease).map(|grant| grant.intent = at).is_some())
    }

    async fn renew_grant(&self, key: GrantKey, tokens: NewTokens) -> Result<bool> {
        Ok(self.lock().renew_grant(&key, tokens))
    }

    async fn release_grant(&self, lease: GrantLease, rest_until: Option<Timestamp>) -> Result<bool> {
        let mut model = self.lock();
        let Some(grant) = model.held(&lease) else { return Ok(false) };
        grant.let_go();
        if rest_until.is_some() {
            grant.rest_until = rest_until;
            grant.failures = grant.failures.saturating_add(1);
        }
        Ok(true)
    }

    async fn end_grant(&self, key: GrantKey, generation: u64, reason: EndReason, serves: bool) -> Result<bool> {
        Ok(self.lock().end_grant(&key, generation, reason, serves))
    }

    async fn disconnect(
        &self,
        connection: ConnectionId,
        revocations: Vec<(GrantName, Revocation)>,
        now: Timestamp,
    ) -> Result<bool> {
        Ok(self.lock().disconnect(&connection, &revocations.into_iter().collect(), now))
    }

    async fn grants_due(&self, now: Timestamp, limit: u32) -> Result<Vec<GrantKey>> {
        Ok(self.lock().grants_due(now, limit))
    }
}

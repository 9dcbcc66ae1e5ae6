//! The part of the random comparison that is about keys, grants and authorisations under way.

use palisade_core::store::{
    Connection, ConnectionState, EndReason, GrantClaim, GrantKey, GrantLease, NewGrant, NewTokens, PendingRow,
    Revocation, Rewrapped, SessionRow, Store, TokenHash, WrappedKey,
};
use palisade_core::{GrantName, Timestamp};

use super::model::{CONNECTIONS, Model, both, told};

const NAMES: [&str; 2] = ["bot", "main"];
const TENANTS: [&str; 2] = ["t", "é"];
const MASTERS: [&str; 3] = ["m0", "m1", "m2"];

/// Both answers to one operation, as text.
type Answers = Option<(String, String)>;

pub(super) async fn step(model: &mut Model) -> Answers {
    match model.below(10) {
        0..=3 => grants(model).await,
        4..=5 => holds(model).await,
        6..=7 => keys(model).await,
        _ => authorizations(model).await,
    }
}

fn grant(model: &Model) -> GrantKey {
    let connection = model.pick(&CONNECTIONS).unwrap_or_default();
    GrantKey { connection: connection.into(), name: model.pick(&NAMES).unwrap_or_default().into() }
}

fn reason(model: &Model) -> EndReason {
    model.pick(&[EndReason::Refused, EndReason::MaybeLost, EndReason::NotRenewable]).unwrap_or(EndReason::Refused)
}

/// Mostly the generation that is stored, so that most writes go through.
async fn generation(model: &Model, key: &GrantKey) -> u64 {
    let reference: &dyn Store = &*model.reference;
    let stored = reference.grant(key.clone()).await.ok().flatten().map_or(0, |grant| grant.generation);
    if model.one_in(5) { model.below(4) } else { stored }
}

async fn tokens(model: &Model, key: &GrantKey) -> NewTokens {
    let expected = generation(model, key).await;
    NewTokens {
        expected,
        generation: expected + 1 + model.below(2),
        blob: vec![0xff, u8::try_from(model.below(200)).unwrap_or(0)],
        issued_at: model.now(),
        expires_at: model.one_in(2).then(|| model.near()),
        keep_alive_at: model.one_in(2).then(|| model.near()),
        granted: if model.one_in(2) { vec!["a".to_owned(), "é".to_owned()] } else { Vec::new() },
    }
}

async fn grants(model: &mut Model) -> Answers {
    let key = grant(model);
    let now = model.now();
    match model.below(5) {
        0 => {
            let states = [ConnectionState::Active, ConnectionState::Paused];
            let connection = Connection {
                id: key.connection.clone(),
                tenant: "t".into(),
                provider: "slack".to_owned(),
                environment: Default::default(),
                account: None,
                base_url: None,
                state: model.pick(&states).unwrap_or(ConnectionState::Active),
                created_at: now,
            };
            let mut new = Vec::new();
            for name in NAMES {
                if model.one_in(2) {
                    let key = GrantKey { name: name.into(), ..key.clone() };
                    let tokens = tokens(model, &key).await;
                    new.push(NewGrant { name: key.name, flow: "slack".to_owned(), requested: Vec::new(), tokens });
                }
            }
            let answers = both!(model, store => told(&store.connect(connection.clone(), new.clone()).await));
            model.note(format!("connect {connection:?} {new:?}"), answers)
        }
        1 => {
            let tokens = tokens(model, &key).await;
            let answers = both!(model, store => told(&store.renew_grant(key.clone(), tokens.clone()).await));
            model.note(format!("renew {key:?} {tokens:?}"), answers)
        }
        2 => {
            let (generation, reason, serves) = (generation(model, &key).await, reason(model), model.one_in(2));
            let answers = both!(model, store => told(&store.end_grant(key.clone(), generation, reason, serves).await));
            model.note(format!("end {key:?} {generation} {reason:?} {serves}"), answers)
        }
        3 if model.one_in(3) => {
            let said: Vec<(GrantName, Revocation)> =
                if model.one_in(2) { vec![(key.name.clone(), Revocation::Confirmed)] } else { Vec::new() };
            let id = key.connection.clone();
            let answers = both!(model, store => told(&store.disconnect(id.clone(), said.clone(), now).await));
            model.note(format!("disconnect {id} {said:?}"), answers)
        }
        3 => {
            let (seen, id) = (generation(model, &key).await, key.connection.clone());
            let answers =
                both!(model, store => told(&store.refuse_credential(id.clone(), seen, "refused".to_owned()).await));
            model.note(format!("refuse {id} {seen}"), answers)
        }
        _ => {
            let generation = generation(model, &key).await;
            let until = model.near();
            let (wanted, found) = both!(model, store => store.claim_grant(key.clone(), generation, now, until).await);
            if let Ok(GrantClaim::Held { lease, .. }) = &found {
                model.holds.push(lease.clone());
            }
            model.note(format!("claim {key:?} {generation} {until:?}"), (told(&wanted), told(&found)))
        }
    }
}

async fn holds(model: &mut Model) -> Answers {
    let newest = model.holds.iter().rev().take(2).cloned().collect::<Vec<_>>();
    let lease = model.pick(&newest).unwrap_or(GrantLease { key: grant(model), fence: 1 });
    let at = model.near();
    match model.below(3) {
        0 => {
            let answers = both!(model, store => told(&store.extend_grant(lease.clone(), at).await));
            model.note(format!("extend {lease:?} {at:?}"), answers)
        }
        1 => {
            let at = model.one_in(2).then_some(at);
            let answers = both!(model, store => told(&store.note_intent(lease.clone(), at).await));
            model.note(format!("intent {lease:?} {at:?}"), answers)
        }
        _ => {
            let at = model.one_in(2).then_some(at);
            let answers = both!(model, store => told(&store.release_grant(lease.clone(), at).await));
            model.note(format!("release {lease:?} {at:?}"), answers)
        }
    }
}

async fn keys(model: &mut Model) -> Answers {
    let tenant = model.pick(&TENANTS).unwrap_or_default();
    let master = model.pick(&MASTERS).unwrap_or_default().to_owned();
    let id = model.pick(&[1, 2, 3, u64::MAX, i64::MAX as u64 + 1]).unwrap_or(1);
    let key = WrappedKey { id, master: master.clone(), wrapped: vec![1, 2, 3] };
    match model.below(8) {
        0..=2 => {
            let answers = both!(model, store => told(&store.add_data_key(tenant.into(), key.clone()).await));
            model.note(format!("add_data_key {tenant} {key:?}"), answers)
        }
        3 => {
            let count = u32::try_from(model.below(5)).unwrap_or(0);
            let answers = both!(model, store => told(&store.reserve_seals(tenant.into(), id, count, 9).await));
            model.note(format!("reserve {tenant} {id} {count}"), answers)
        }
        4 => {
            let answers = both!(model, store => told(&store.active_master(master.clone()).await));
            model.note(format!("active_master {master}"), answers)
        }
        5 => {
            let answers = both!(model, store => told(&store.activate_master(master.clone()).await));
            model.note(format!("activate {master}"), answers)
        }
        6 => {
            let answers = both!(model, store => told(&store.retire_master(master.clone()).await));
            model.note(format!("retire {master}"), answers)
        }
        _ => {
            let from = model.pick(&MASTERS).unwrap_or_default().to_owned();
            let anew = vec![Rewrapped { tenant: tenant.into(), from, key }];
            let answers = both!(model, store => told(&store.rewrap(anew.clone()).await));
            model.note(format!("rewrap {anew:?}"), answers)
        }
    }
}

async fn authorizations(model: &mut Model) -> Answers {
    let hash = TokenHash([u8::try_from(model.below(4)).unwrap_or(0); 32]);
    match model.below(5) {
        0 => {
            let row = PendingRow {
                state: hash,
                browser: TokenHash([9; 32]),
                tenant: "t".into(),
                connection: "acme".into(),
                blob: vec![7],
                expires_at: model.near(),
            };
            let answers = both!(model, store => told(&store.put_pending(row.clone()).await));
            model.note(format!("{row:?}"), answers)
        }
        1 => {
            let row = SessionRow {
                token: hash,
                tenant: "t".into(),
                flow: "slack".to_owned(),
                connection: model.one_in(2).then(|| "acme".into()),
                scopes: model.one_in(2).then(|| vec!["a".to_owned()]),
                return_to: None,
                expires_at: model.near(),
            };
            let answers = both!(model, store => told(&store.put_session(row.clone()).await));
            model.note(format!("{row:?}"), answers)
        }
        2 => {
            let answers = both!(model, store => told(&store.take_pending(hash).await));
            model.note(format!("take_pending {hash:?}"), answers)
        }
        3 => {
            let answers = both!(model, store => told(&store.take_session(hash).await));
            model.note(format!("take_session {hash:?}"), answers)
        }
        _ => {
            let (before, limit) = (model.near(), u32::try_from(model.below(3)).unwrap_or(0));
            let answers = both!(model, store => told(&store.prune_authorizations(before, limit).await));
            model.note(format!("prune_authorizations {before:?} {limit}"), answers)
        }
    }
}

/// Everything of it that can be read.
pub(super) async fn read(store: &dyn Store, connection: &str, put: &mut impl FnMut(&str, String)) {
    for tenant in TENANTS {
        put("data keys", told(&store.data_keys(tenant.into()).await));
    }
    put("masters", told(&store.masters().await));
    put("left", told(&store.data_keys_not_under("m1".to_owned(), None, u32::MAX).await));
    put("more left", told(&store.data_keys_not_under("m1".to_owned(), Some(("t".into(), 1)), 2).await));
    put("grants", told(&store.grants(connection.into()).await));
    let one = GrantKey { connection: connection.into(), name: "main".into() };
    put("a grant", told(&store.grant(one).await));
    put("due", told(&store.grants_due(Timestamp(1_005_000), u32::MAX).await));
}

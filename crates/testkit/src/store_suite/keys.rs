//! Promises of data keys and the register of master keys.

use std::collections::BTreeSet;
use std::sync::Arc;

use palisade_core::store::{MasterState, MasterStatus, Retirement, Rewrapped, Store, WrappedKey};
use palisade_core::{ErrorKind, TenantId};

use super::{ok, same};

fn key(id: u64, master: &str) -> WrappedKey {
    WrappedKey { id, master: master.to_owned(), wrapped: format!("{id} by {master}").into_bytes() }
}

async fn add(store: &dyn Store, tenant: &str, key: WrappedKey) -> WrappedKey {
    ok(store.add_data_key(tenant.into(), key).await)
}

/// A data key is added if the tenant has none with its number; everybody is given the newest afterwards.
pub async fn two_processes_agree_on_a_data_key(store: &dyn Store) {
    let key = |id, wrapped: &[u8]| WrappedKey { id, master: "m1".to_owned(), wrapped: wrapped.to_vec() };
    same(ok(store.add_data_key("t".into(), key(1, b"first")).await), key(1, b"first"), "the first");
    same(ok(store.add_data_key("t".into(), key(1, b"second")).await), key(1, b"first"), "the same number again");
    same(ok(store.add_data_key("t".into(), key(u64::MAX, b"big")).await), key(u64::MAX, b"big"), "a higher number");
    same(ok(store.add_data_key("t".into(), key(2, b"late")).await), key(u64::MAX, b"big"), "the newest is the highest");
    let keys = ok(store.data_keys("t".into()).await);
    same(keys.iter().map(|key| key.id).collect(), vec![u64::MAX, 2, 1], "newest first");
    same(ok(store.data_keys("other".into()).await), Vec::new(), "another tenant has its own");
}

/// Seals are set aside once each, whoever asks, up to the bound and not beyond.
pub async fn seals_are_set_aside_once(store: Arc<dyn Store>) {
    add(&*store, "t", key(1, "m1")).await;
    add(&*store, "t", key(2, "m1")).await;
    let mut takers = Vec::new();
    for _ in 0..12 {
        let store = Arc::clone(&store);
        takers.push(tokio::spawn(async move { ok(store.reserve_seals("t".into(), 1, 7, 60).await) }));
    }
    let mut firsts = BTreeSet::new();
    for taker in takers {
        firsts.extend(taker.await.unwrap_or_default());
    }
    let wanted: BTreeSet<u32> = (0..8).map(|block| block * 7).collect();
    same(firsts, wanted, "eight blocks of seven in sixty, none twice");
    same(ok(store.reserve_seals("t".into(), 1, 4, 60).await), Some(56), "what is left");
    same(ok(store.reserve_seals("t".into(), 1, 1, 60).await), None, "and not more");
    same(ok(store.reserve_seals("t".into(), 2, 1, 60).await), Some(0), "another key has its own");
    same(ok(store.reserve_seals("t".into(), 9, 1, 60).await), None, "no such key");
    same(ok(store.reserve_seals("u".into(), 1, 1, 60).await), None, "no such tenant");
    same(ok(store.reserve_seals("t".into(), 2, u32::MAX, u32::MAX).await), None, "no overflow");
}

/// The first master key asked for becomes the active one, unless data keys are there: then the one that wraps most.
pub async fn the_first_master_key_is_the_one_in_use(store: &dyn Store) {
    for (tenant, id, master) in
        [("a", 1, "few"), ("b", 1, "more"), ("b", 2, "more"), ("c", 1, "same"), ("c", 2, "same")]
    {
        add(store, tenant, key(id, master)).await;
    }
    same(ok(store.active_master("new".to_owned()).await), "more".to_owned(), "the one that wraps most");
    same(ok(store.active_master("new".to_owned()).await), "more".to_owned(), "and it stays");
}

/// Only the active master key wraps: another is refused in the commit that would store it, also for a new wrapping.
pub async fn only_the_active_master_key_wraps(store: &dyn Store) {
    same(ok(store.active_master("m1".to_owned()).await), "m1".to_owned(), "the one given");
    add(store, "t", key(1, "m1")).await;
    let kind = |answer: palisade_core::Result<WrappedKey>| answer.err().map(|error| error.kind());
    same(kind(store.add_data_key("t".into(), key(2, "m2")).await), Some(ErrorKind::Conflict), "another is refused");
    ok(store.activate_master("m2".to_owned()).await);
    same(kind(store.add_data_key("t".into(), key(2, "m1")).await), Some(ErrorKind::Conflict), "the old one too");
    same(ok(store.data_keys("t".into()).await), vec![key(1, "m1")], "nothing was written");
    let anew = |tenant: &str, id, from: &str, to: &str| Rewrapped {
        tenant: tenant.into(),
        from: from.to_owned(),
        key: key(id, to),
    };
    let refused = store.rewrap(vec![anew("t", 1, "m1", "m2"), anew("t", 1, "m1", "m1")]).await;
    same(refused.err().map(|error| error.kind()), Some(ErrorKind::Conflict), "all or none");
    same(ok(store.data_keys("t".into()).await), vec![key(1, "m1")], "nothing was written");
    let mixed = vec![anew("t", 1, "m0", "m2"), anew("t", 9, "m1", "m2"), anew("u", 1, "m1", "m2")];
    same(ok(store.rewrap(mixed).await), 0, "each only if it is still what it was");
    same(ok(store.rewrap(vec![anew("t", 1, "m1", "m2")]).await), 1, "wrapped anew");
    same(ok(store.data_keys("t".into()).await), vec![key(1, "m2")], "and read so");
    same(ok(store.rewrap(vec![anew("t", 1, "m1", "m2")]).await), 0, "once");
    same(ok(store.reserve_seals("t".into(), 1, 1, 9).await), Some(0), "its seals are its own");
    ok(store.rewrap(Vec::new()).await);
}

/// A master key is retired when nothing needs it, and not before; the list names every key with what it wraps.
pub async fn a_master_key_is_retired_when_nothing_needs_it(store: &dyn Store) {
    add(store, "t", key(1, "m1")).await;
    add(store, "t", key(2, "m1")).await;
    same(ok(store.active_master("m2".to_owned()).await), "m1".to_owned(), "the one in use");
    let status = |id: &str, state, data_keys| MasterStatus { id: id.to_owned(), state, data_keys };
    let retire = async |id: &str| ok(store.retire_master(id.to_owned()).await);
    same(retire("m2").await, Retirement::Unknown, "unknown");
    same(retire("m1").await, Retirement::Active, "active");
    ok(store.activate_master("m2".to_owned()).await);
    same(retire("m1").await, Retirement::Needed(2), "needed");
    let listed = vec![status("m1", MasterState::Old, 2), status("m2", MasterState::Active, 0)];
    same(ok(store.masters().await), listed, "listed by name");
    for id in [1, 2] {
        let anew = Rewrapped { tenant: "t".into(), from: "m1".to_owned(), key: key(id, "m2") };
        ok(store.rewrap(vec![anew]).await);
    }
    same(retire("m1").await, Retirement::Done, "done");
    same(retire("m1").await, Retirement::Done, "and again");
    let listed = vec![status("m1", MasterState::Retired, 0), status("m2", MasterState::Active, 2)];
    same(ok(store.masters().await), listed, "listed by name");
    ok(store.activate_master("m1".to_owned()).await);
    let listed = vec![status("m1", MasterState::Active, 0), status("m2", MasterState::Old, 2)];
    same(ok(store.masters().await), listed, "a retired key may come back");
}

/// The data keys left to wrap are walked in order, in pages, each once.
pub async fn data_keys_left_are_walked_in_order(store: &dyn Store) {
    for tenant in ["b", "a", "é", "Z"] {
        for id in [2, 1, u64::MAX] {
            add(store, tenant, key(id, "old")).await;
        }
    }
    ok(store.activate_master("new".to_owned()).await);
    add(store, "a", key(3, "new")).await;
    let mut after: Option<(TenantId, u64)> = None;
    let mut seen = Vec::new();
    loop {
        let page = ok(store.data_keys_not_under("new".to_owned(), after.clone(), 5).await);
        assert!(page.len() <= 5, "bounded");
        let Some((tenant, last)) = page.last() else { break };
        after = Some((tenant.clone(), last.id));
        seen.extend(page.into_iter().map(|(tenant, key)| (tenant.as_str().to_owned(), key.id.cast_signed())));
    }
    let wanted: Vec<_> =
        ["Z", "a", "b", "é"].iter().flat_map(|tenant| [-1, 1, 2].map(|id| ((*tenant).to_owned(), id))).collect();
    same(seen, wanted, "by tenant and number");
}

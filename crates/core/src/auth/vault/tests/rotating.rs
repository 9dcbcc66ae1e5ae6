//! Rotation: stopped anywhere and gone on with, under traffic, and what an old backup needs.

use super::*;
use crate::auth::vault::master::{LocalMasterKey, MasterKeyRing};
use crate::random::SeededRandom;
use crate::store::{MasterState, Retirement};

fn key(of: u8) -> PlainKey {
    Zeroizing::new(std::array::from_fn(|n| n as u8 ^ of))
}

fn local(of: u8) -> LocalMasterKey {
    LocalMasterKey::new(&key(of), Arc::new(SystemRandom)).unwrap()
}

fn ring(of: &[u8]) -> Arc<MasterKeyRing> {
    Arc::new(MasterKeyRing::new(of.iter().map(|of| local(*of))).unwrap())
}

fn vault_with(store: &Arc<MemoryStore>, of: &[u8]) -> Vault {
    Vault::new(store.clone(), ring(of), Arc::new(SystemRandom))
}

fn tenant(n: usize) -> TenantId {
    TenantId::new(format!("tenant-{n}"))
}

async fn sealed(store: &Arc<MemoryStore>, of: &[u8], tenants: std::ops::Range<usize>) -> Vec<(TenantId, Vec<u8>)> {
    let vault = vault_with(store, of);
    let connection = ConnectionId::new("conn-1");
    let mut blobs = Vec::new();
    for n in tenants {
        let tenant = tenant(n);
        let blob = vault.seal(place(&tenant, &connection), SECRET).await.unwrap();
        blobs.push((tenant, blob));
    }
    blobs
}

async fn opens(vault: &Vault, blobs: &[(TenantId, Vec<u8>)]) -> bool {
    let connection = ConnectionId::new("conn-1");
    for (tenant, blob) in blobs {
        match vault.open(place(tenant, &connection), blob).await {
            Ok(plain) => assert_eq!(plain.as_slice(), SECRET),
            Err(_) => return false,
        }
    }
    true
}

/// Fails when a rotation that is stopped after any step forgets a row, when a row under the old key is added behind
/// it, or when retiring does not look.
#[tokio::test]
async fn a_rotation_stopped_at_any_row_and_gone_on_with_ends_with_none_under_the_old_key() {
    for seed in 0..20 {
        let random = SeededRandom::new(seed);
        let repeat = format!("seed {seed}: cargo test -p palisade-core a_rotation_stopped_at_any_row");
        let store = Arc::new(MemoryStore::new());
        let mut blobs = sealed(&store, &[1], 0..25).await;
        // A process that knows both keys works all the time, and so does one that was never told of the new one.
        let (knows, knows_not) = (vault_with(&store, &[2, 1]), vault_with(&store, &[1]));
        let rotation = || Rotation::new(store.clone(), ring(&[2, 1]));
        rotation().activate(&local(2).id()).await.unwrap();
        assert_eq!(rotation().left().await.unwrap(), 25);
        let mut more = 25;
        let mut rounds = 0;
        while rotation().left().await.unwrap() > 0 {
            assert_ne!(rotation().retire(&local(1).id()).await.unwrap(), Retirement::Done, "{repeat}");
            // This one is stopped after some steps, wherever it is.
            let mut progress = Progress::default();
            for _ in 0..random.bits() % 4 {
                rotation().step(&mut progress, 1 + (random.bits() % 5) as u32).await.unwrap();
                let (tenant, connection) = (tenant(more), ConnectionId::new("conn-1"));
                let blob = knows.seal(place(&tenant, &connection), SECRET).await.unwrap();
                blobs.push((tenant.clone(), blob));
                let late = TenantId::new(format!("late-{more}"));
                let refused = knows_not.seal(place(&late, &connection), SECRET).await.unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Config, "{repeat}");
                assert!(refused.message().contains(&local(2).id()), "{refused}");
                more += 1;
            }
            assert_eq!((progress.stuck, progress.moved), (0, 0), "{repeat}");
            rounds += 1;
            assert!(rounds < 200, "{repeat}");
        }
        assert_eq!(rotation().retire(&local(1).id()).await.unwrap(), Retirement::Done, "{repeat}");
        // The new key alone opens everything; the old one alone nothing.
        assert!(opens(&vault_with(&store, &[2]), &blobs).await, "{repeat}");
        assert!(!opens(&vault_with(&store, &[1]), &blobs[..1]).await, "{repeat}");
        assert!(opens(&knows, &blobs).await, "{repeat}");
    }
}

/// Fails when a rotation touches what an older backup holds.
#[tokio::test]
async fn an_old_backup_opens_with_the_old_key() {
    let store = Arc::new(MemoryStore::new());
    let blobs = sealed(&store, &[1], 0..3).await;
    let backup = Arc::new(MemoryStore::new());
    for n in 0..3 {
        for key in store.data_keys(tenant(n)).await.unwrap() {
            backup.add_data_key(tenant(n), key).await.unwrap();
        }
    }
    let rotation = Rotation::new(store.clone(), ring(&[2, 1]));
    rotation.activate(&local(2).id()).await.unwrap();
    rotation.step(&mut Progress::default(), 10).await.unwrap();
    assert!(opens(&vault_with(&store, &[2]), &blobs).await);
    assert!(opens(&vault_with(&backup, &[1]), &blobs).await);
    // And with both keys given, it goes on with the old one: the register is part of the backup.
    assert!(opens(&vault_with(&backup, &[2, 1]), &blobs).await);
    assert_eq!(backup.active_master(local(2).id()).await.unwrap(), local(1).id());
}

/// Fails when one bad row stops the rest, or when it is hidden.
#[tokio::test]
async fn a_row_that_does_not_open_is_named_and_keeps_its_key_from_being_retired() {
    let store = Arc::new(MemoryStore::new());
    sealed(&store, &[1], 0..4).await;
    let broken = WrappedKey { id: 9, master: local(1).id(), wrapped: vec![1; 61] };
    store.add_data_key(tenant(1), broken).await.unwrap();
    let foreign = WrappedKey { id: 1, master: "kms-1".to_owned(), wrapped: vec![1; 61] };
    let other = Arc::new(MemoryStore::new());
    other.add_data_key(tenant(0), foreign).await.unwrap();

    let rotation = Rotation::new(store.clone(), ring(&[2, 1]));
    rotation.activate(&local(2).id()).await.unwrap();
    let mut progress = Progress::default();
    while !progress.over {
        rotation.step(&mut progress, 2).await.unwrap();
    }
    assert_eq!((progress.done, progress.stuck, progress.first_stuck.len()), (4, 1, 1));
    assert_eq!((progress.first_stuck[0].tenant.clone(), progress.first_stuck[0].id), (tenant(1), 9));
    assert_eq!(rotation.retire(&local(1).id()).await.unwrap(), Retirement::Needed(1));
    assert_eq!(rotation.retire(&local(2).id()).await.unwrap(), Retirement::Active);
    assert_eq!(rotation.retire("local-0").await.unwrap(), Retirement::Unknown);
    let status = rotation.status().await.unwrap();
    let mut states: Vec<_> = status.iter().map(|one| (one.id.clone(), one.state, one.data_keys)).collect();
    states.sort_by_key(|(_, _, keys)| *keys);
    assert_eq!(states, [(local(1).id(), MasterState::Old, 1), (local(2).id(), MasterState::Active, 4)]);
    // A store sealed under a key nobody gives says so, and does not take another instead.
    let without = vault_with(&other, &[1]).seal(place(&tenant(5), &"conn-1".into()), SECRET).await.unwrap_err();
    assert!(without.message().contains("kms-1"), "{without}");
}

/// Fails when a key that the holder does not have becomes the one that wraps: nothing could be sealed any more.
#[tokio::test]
async fn a_key_nobody_holds_never_becomes_active() {
    let store = Arc::new(MemoryStore::new());
    sealed(&store, &[1], 0..1).await;
    let rotation = Rotation::new(store.clone(), ring(&[1]));
    assert_eq!(rotation.activate(&local(2).id()).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(store.active_master(String::new()).await.unwrap(), local(1).id());
    let mut progress = Progress::default();
    rotation.step(&mut progress, 10).await.unwrap();
    assert!(progress.over && progress.done == 0, "nothing is left to do");
}

/// Fails when a data key is wrapped by a key that stopped being active between the asking and the writing.
#[tokio::test]
async fn two_rotations_at_once_do_each_row_once() {
    let store = Arc::new(MemoryStore::new());
    let blobs = sealed(&store, &[1], 0..30).await;
    let rotation = Rotation::new(store.clone(), ring(&[3, 2, 1]));
    rotation.activate(&local(2).id()).await.unwrap();
    let (mut one, mut two) = (Progress::default(), Progress::default());
    while !(one.over && two.over) {
        rotation.step(&mut one, 4).await.unwrap();
        rotation.step(&mut two, 7).await.unwrap();
    }
    assert_eq!((one.done + two.done, one.moved + two.moved), (30, 0));
    // Another key becomes active in the middle: the next step wraps by that one.
    rotation.activate(&local(3).id()).await.unwrap();
    let mut three = Progress::default();
    rotation.step(&mut three, 10).await.unwrap();
    rotation.activate(&local(2).id()).await.unwrap();
    while !three.over {
        rotation.step(&mut three, 10).await.unwrap();
    }
    let mut rest = Progress::default();
    while !rest.over {
        rotation.step(&mut rest, 10).await.unwrap();
    }
    assert_eq!(rotation.left().await.unwrap(), 0);
    assert!(opens(&vault_with(&store, &[2]), &blobs).await);
}

/// Has another master key made active while the first data key is wrapped, as a rotation by another process does.
struct Overtaken {
    ring: Arc<MasterKeyRing>,
    store: Arc<MemoryStore>,
    wrapped: AtomicU8,
}

impl fmt::Debug for Overtaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overtaken")
    }
}

#[async_trait::async_trait]
impl MasterKey for Overtaken {
    fn id(&self) -> String {
        self.ring.id()
    }

    async fn wrap(&self, master: &str, key: &PlainKey, aad: &[u8]) -> Result<Vec<u8>> {
        let wrapped = self.ring.wrap(master, key, aad).await?;
        if self.wrapped.fetch_add(1, Ordering::SeqCst) == 0 {
            self.store.activate_master(local(2).id()).await?;
        }
        Ok(wrapped)
    }

    async fn unwrap(&self, master: &str, wrapped: &[u8], aad: &[u8]) -> Result<PlainKey> {
        self.ring.unwrap(master, wrapped, aad).await
    }
}

/// Fails when a new data key that a rotation overtakes is an error, or stays under the old key.
#[tokio::test]
async fn a_data_key_that_a_rotation_overtakes_is_wrapped_again() {
    let store = Arc::new(MemoryStore::new());
    let master = Overtaken { ring: ring(&[1, 2]), store: store.clone(), wrapped: AtomicU8::new(0) };
    let vault = Vault::new(store.clone(), Arc::new(master), Arc::new(SystemRandom));
    let (tenant, connection) = names();
    let blob = vault.seal(place(&tenant, &connection), SECRET).await.unwrap();
    let keys = store.data_keys(tenant.clone()).await.unwrap();
    assert_eq!(keys.iter().map(|key| key.master.clone()).collect::<Vec<_>>(), [local(2).id()]);
    assert!(opens(&vault_with(&store, &[2]), &[(tenant, blob)]).await);
}

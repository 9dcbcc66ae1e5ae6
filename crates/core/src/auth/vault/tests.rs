//! The formats, what they bind, and where a credential comes from.

use std::sync::atomic::{AtomicU8, Ordering};

use zeroize::Zeroizing;

use super::credentials::{CREDENTIAL_KEPT, CREDENTIALS_KEPT_MAX};
use super::*;
use crate::auth::{Credential, CredentialSource, Scheme};
use crate::clock::Timestamp;
use crate::error::Outcome;
use crate::random::SystemRandom;
use crate::store::memory::MemoryStore;
use crate::store::{Connection, ConnectionState, Connections, SealedCredential};

mod keys;
mod rotating;

/// The master key of the vectors: bytes 0 to 31.
const MASTER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
// Computed with Python's `cryptography` (OpenSSL) from the format in this file's head.
const MASTER_ID: &str = "local-d2b0f139ffd5d0df";
const WRAPPED: &str = "01111111111111111111111111e405f2d8d06945c504124b6d315462c9976af6d26d48ea1251a6e579a8e241d1dafac42c0c09e6cb8db62011849c11e6";
const BLOB: &str = "010000000000000001000000002222222222222222a972cad9c4875b73a8ea7eef1fe103183fbc602975d405cbf043c2c4821337578c9ac6f9a839efae9254223a081ca44bbe6ed45f8f8cde";
/// As written before the nonces were numbered: all of it random.
const BLOB_OLD: &str = "0100000000000000012222222222222222222222221aa58c8740363f969483cd8855a63a4b104349f66fbbcad94a0e1fb8319a9068a1726cf77d08782e41c5ad070263b251b5cac7ba0af63c";
const SECRET: &[u8] = br#"{"scheme":"bearer","token":"sk_test_1"}"#;

/// Gives the data key of the vectors (100, 101, …), then nonces of 0x11, 0x22.
#[derive(Debug, Default)]
struct Scripted(AtomicU8);

impl Random for Scripted {
    fn bits(&self) -> u64 {
        unreachable!("only `fill` is used")
    }

    fn fill(&self, buffer: &mut [u8]) {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => buffer.iter_mut().zip(100..).for_each(|(to, from)| *to = from),
            n => buffer.fill(n * 0x11),
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn place<'a>(tenant: &'a TenantId, connection: &'a ConnectionId) -> Place<'a> {
    Place { tenant, connection, field: "credential", generation: 7 }
}

fn names() -> (TenantId, ConnectionId) {
    ("tenant-1".into(), "conn-1".into())
}

fn list(items: &[&[u8]]) -> List {
    let mut list = List::default();
    items.iter().for_each(|item| list.item(item));
    list
}

fn vault(store: &Arc<MemoryStore>) -> Vault {
    let random = Arc::new(SystemRandom);
    let master = LocalMasterKey::parse(MASTER.as_bytes(), random.clone()).unwrap();
    Vault::new(store.clone(), Arc::new(master), random)
}

/// Fails when a byte of the formats changes: rows sealed by an older version would not open.
#[tokio::test]
async fn the_formats_are_fixed() {
    let store = Arc::new(MemoryStore::new());
    let random = Arc::new(Scripted::default());
    let master = LocalMasterKey::parse(MASTER.as_bytes(), random.clone()).unwrap();
    assert_eq!(master.id(), MASTER_ID);
    let sealing = Vault::new(store.clone(), Arc::new(master), random);
    let (tenant, connection) = names();
    let blob = sealing.seal(place(&tenant, &connection), SECRET).await.unwrap();
    let key = store.data_keys(tenant.clone()).await.unwrap().remove(0);
    assert_eq!(key, WrappedKey { id: 1, master: MASTER_ID.to_owned(), wrapped: unhex(WRAPPED) });
    assert_eq!(blob, unhex(BLOB));
    // Another process opens it, and what was sealed by an older one.
    for blob in [blob, unhex(BLOB_OLD)] {
        let opened = vault(&store).open(place(&tenant, &connection), &blob).await.unwrap();
        assert_eq!(opened.as_slice(), SECRET);
    }
}

/// Fails when any part is left out of the associated data, or a length of the list.
#[tokio::test]
async fn a_blob_opens_in_its_own_place_only() {
    let store = Arc::new(MemoryStore::new());
    let vault = vault(&store);
    let (tenant, connection) = names();
    let (other_tenant, other_connection) = (TenantId::new("tenant-2"), ConnectionId::new("conn-2"));
    let (long_tenant, short_connection) = (TenantId::new("tenant-1c"), ConnectionId::new("onn-1"));
    let own = place(&tenant, &connection);
    let blob = vault.seal(own, SECRET).await.unwrap();
    for tenant in [&other_tenant, &long_tenant] {
        // The other tenants have a key with the same number, and even the very same key.
        vault.seal(place(tenant, &connection), SECRET).await.unwrap();
    }
    for moved in [
        Place { tenant: &other_tenant, ..own },
        Place { connection: &other_connection, ..own },
        Place { tenant: &long_tenant, connection: &short_connection, ..own },
        Place { field: "refresh", ..own },
        Place { generation: 8, ..own },
        Place { generation: 0, ..own },
    ] {
        let error = vault.open(moved, &blob).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{moved:?}");
    }
    // Items that run into each other under one key.
    let key = aead(&Zeroizing::new([9; KEY_BYTES])).unwrap();
    let mut sealed = Vec::new();
    seal_onto(&mut sealed, &key, [7; NONCE_LEN], list(&[b"ab", b"c"]).as_ref(), SECRET).unwrap();
    assert!(open_sealed(&key, list(&[b"a", b"bc"]).as_ref(), &sealed).is_none());
    assert!(open_sealed(&key, list(&[b"ab", b"c"]).as_ref(), &sealed).is_some());
}

/// Fails when names that do not fit on the stack are written in another form than those that do.
#[test]
fn associated_data_is_the_same_list_at_any_length() {
    for length in [0, 1, 150, 184, 185, 188, 189, 400, 10_000] {
        let long = vec![b'x'; length];
        let wanted = [&(length as u32).to_be_bytes()[..], &long, &[0, 0, 0, 1], b"y"].concat();
        assert_eq!(list(&[&long, b"y"]).as_ref(), wanted, "{length}");
    }
}

/// Fails when the version or another byte of a blob is not looked at, or a blob that is too short panics.
#[tokio::test]
async fn a_flipped_bit_or_a_cut_anywhere_does_not_open() {
    let store = Arc::new(MemoryStore::new());
    let vault = vault(&store);
    let (tenant, connection) = names();
    let own = place(&tenant, &connection);
    let blob = vault.seal(own, SECRET).await.unwrap();
    for at in 0..blob.len() {
        for bit in 0..8 {
            let mut flipped = blob.clone();
            flipped[at] ^= 1 << bit;
            assert_eq!(vault.open(own, &flipped).await.unwrap_err().kind(), ErrorKind::Decode, "byte {at}, bit {bit}");
        }
        assert_eq!(vault.open(own, &blob[..at]).await.unwrap_err().kind(), ErrorKind::Decode, "cut at {at}");
    }
    let longer = [blob.as_slice(), &[0]].concat();
    assert_eq!(vault.open(own, &longer).await.unwrap_err().kind(), ErrorKind::Decode);
}

/// Fails when tenant, number or master key is left out of a data key's associated data.
#[tokio::test]
async fn a_wrapped_key_opens_in_its_own_place_only() {
    let random = Arc::new(SystemRandom);
    let master = LocalMasterKey::parse(MASTER.as_bytes(), random.clone()).unwrap();
    let tenant = TenantId::new("tenant-1");
    let aad = data_key_aad(&tenant, 1, MASTER_ID);
    let wrapped = unhex(WRAPPED);
    let key = master.unwrap(MASTER_ID, &wrapped, aad.as_ref()).await.unwrap();
    assert_eq!(key[..4], [100, 101, 102, 103]);
    for wrong in [
        data_key_aad(&TenantId::new("tenant-2"), 1, MASTER_ID),
        data_key_aad(&tenant, 2, MASTER_ID),
        data_key_aad(&tenant, 1, "local-0"),
    ] {
        assert_eq!(master.unwrap(MASTER_ID, &wrapped, wrong.as_ref()).await.unwrap_err().kind(), ErrorKind::Config);
    }
    for at in 0..wrapped.len() {
        let mut flipped = wrapped.clone();
        flipped[at] ^= 1;
        assert!(master.unwrap(MASTER_ID, &flipped, aad.as_ref()).await.is_err(), "byte {at}");
        assert!(master.unwrap(MASTER_ID, &wrapped[..at], aad.as_ref()).await.is_err(), "cut at {at}");
    }
    // Another master key is told by its name.
    let other = LocalMasterKey::new(&Zeroizing::new(std::array::from_fn(|n| n as u8 + 1)), random).unwrap();
    let error = other.unwrap(MASTER_ID, &wrapped, aad.as_ref()).await.unwrap_err();
    assert!(error.message().contains(MASTER_ID) && error.message().contains(&other.id()), "{error}");
}

/// Fails when whoever comes second goes on with the key it made and not with the stored one.
#[tokio::test]
async fn two_processes_agree_on_one_data_key() {
    let store = Arc::new(MemoryStore::new());
    let (one, two) = (vault(&store), vault(&store));
    let (tenant, connection) = names();
    let own = place(&tenant, &connection);
    // Both found none and made one.
    let (first, second) = (one.make_key(&tenant, 1).await.unwrap(), two.make_key(&tenant, 1).await.unwrap());
    assert_eq!(first, second);
    let blob = two.seal(own, SECRET).await.unwrap();
    assert_eq!(one.open(own, &blob).await.unwrap().as_slice(), SECRET);
    assert_eq!(store.data_keys(tenant.clone()).await.unwrap().len(), 1);
}

/// Fails when `Debug` shows a key or a token, or does not name the master key.
#[tokio::test]
async fn nothing_secret_is_printed() {
    let store = Arc::new(MemoryStore::new());
    let vault = Arc::new(vault(&store));
    let (tenant, connection) = names();
    vault.seal(place(&tenant, &connection), SECRET).await.unwrap();
    let credentials = VaultCredentials::new(vault.clone(), store.clone());
    let printed = format!("{vault:?} {credentials:?} {:?}", vault.master);
    assert_eq!(printed.matches(MASTER_ID).count(), 3);
    for secret in ["sk_test", "000102", "0, 1, 2", "100, 101"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

// ------------------------------------------------------------------------------------------ credentials

async fn connected(state: ConnectionState) -> (Arc<MemoryStore>, VaultCredentials) {
    let store = Arc::new(MemoryStore::new());
    store
        .put_connection(Connection {
            id: "conn-1".into(),
            tenant: "tenant-1".into(),
            provider: "fake".to_owned(),
            environment: Default::default(),
            account: None,
            base_url: None,
            state,
            created_at: Timestamp(0),
        })
        .await
        .unwrap();
    let credentials = VaultCredentials::new(Arc::new(vault(&store)), store.clone());
    (store, credentials)
}

fn bearer(token: &str) -> Scheme {
    Scheme::Bearer(token.into())
}

async fn sent(credentials: &VaultCredentials) -> String {
    let credential = credentials.credential("conn-1".into()).await.unwrap();
    let mut request = http::Request::get("https://api.example/").body(()).unwrap();
    credential.apply(&mut request).unwrap();
    request.headers()["authorization"].to_str().unwrap().to_owned()
}

/// Fails when a key is stored in plain or without its generation, or a replaced one is used beyond `CREDENTIAL_KEPT`.
#[tokio::test(start_paused = true)]
async fn a_stored_credential_is_sealed_and_given_back() {
    let (store, credentials) = connected(ConnectionState::Active).await;
    let id = ConnectionId::new("conn-1");
    assert_eq!(credentials.store_credential(&id, &bearer("sk_test_1")).await.unwrap(), 1);
    assert_eq!(sent(&credentials).await, "Bearer sk_test_1");
    let row = store.credential(id.clone()).await.unwrap().unwrap();
    assert!(!String::from_utf8_lossy(&row.blob).contains("sk_test"));
    // A new one replaces it at once here, and in another process after a minute.
    let other = VaultCredentials::new(Arc::new(vault(&store)), store.clone());
    assert_eq!(sent(&other).await, "Bearer sk_test_1");
    assert_eq!(credentials.store_credential(&id, &bearer("sk_test_2")).await.unwrap(), 2);
    assert_eq!(sent(&credentials).await, "Bearer sk_test_2");
    assert_eq!(sent(&other).await, "Bearer sk_test_1");
    tokio::time::sleep(CREDENTIAL_KEPT).await;
    assert_eq!(sent(&other).await, "Bearer sk_test_2");
    // A row copied from an older generation does not open.
    store.put_credential(id.clone(), 2, SealedCredential { generation: 3, ..row }).await.unwrap();
    credentials.forget(&id);
    assert_eq!(credentials.credential(id).await.unwrap_err().kind(), ErrorKind::Decode);
}

/// Fails when an erased key counts as one, or when what is stored after it could be swapped for what was before.
#[tokio::test(start_paused = true)]
async fn an_erased_key_is_none_and_its_generation_is_not_used_again() {
    use crate::store::Grants;
    let (store, credentials) = connected(ConnectionState::Active).await;
    let id = ConnectionId::new("conn-1");
    credentials.store_credential(&id, &bearer("old")).await.unwrap();
    let old = store.credential(id.clone()).await.unwrap().unwrap();
    assert!(store.disconnect(id.clone(), Vec::new(), Timestamp(0)).await.unwrap());
    credentials.forget(&id);
    assert_eq!(credentials.credential(id.clone()).await.unwrap_err().kind(), ErrorKind::Auth);
    let mut row = store.connection(id.clone()).await.unwrap().unwrap();
    row.state = ConnectionState::Active;
    store.put_connection(row).await.unwrap();
    let nothing = credentials.credential(id.clone()).await.unwrap_err();
    assert!(nothing.message().contains("connect it"), "{nothing}");
    assert_eq!(credentials.store_credential(&id, &bearer("new")).await.unwrap(), old.generation + 2);
}

/// Fails when a refused key is tried again, when a replaced one is not found, or when the connection is not marked.
#[tokio::test(start_paused = true)]
async fn a_refused_key_is_read_again_and_else_the_owner_must_reconnect() {
    let (store, credentials) = connected(ConnectionState::Active).await;
    let id = ConnectionId::new("conn-1");
    credentials.store_credential(&id, &bearer("old")).await.unwrap();
    let seen = credentials.credential(id.clone()).await.unwrap().version();
    // Another process replaces it.
    let other = VaultCredentials::new(Arc::new(vault(&store)), store.clone());
    other.store_credential(&id, &bearer("new")).await.unwrap();
    assert_eq!(credentials.refresh(id.clone(), seen).await.unwrap().version(), 2);
    assert_eq!(sent(&credentials).await, "Bearer new");
    let refused = credentials.refresh(id.clone(), 2).await.unwrap_err();
    assert_eq!((refused.kind(), refused.outcome()), (ErrorKind::Auth, Outcome::Rejected));
    let state = store.connection(id.clone()).await.unwrap().unwrap().state;
    assert!(matches!(state, ConnectionState::NeedsReconnect { .. }), "{state:?}");
    assert_eq!(credentials.credential(id).await.unwrap_err().kind(), ErrorKind::Auth);
}

/// Fails when a connection's state is not looked at before its key is given, or a key that cannot be sent is stored.
#[tokio::test(start_paused = true)]
async fn without_a_working_connection_there_is_no_credential() {
    let id = ConnectionId::new("conn-1");
    for state in [ConnectionState::Disconnected, ConnectionState::NeedsReconnect { reason: "revoked".to_owned() }] {
        let (_, credentials) = connected(state).await;
        credentials.store_credential(&id, &bearer("sk")).await.unwrap();
        assert_eq!(credentials.credential(id.clone()).await.unwrap_err().kind(), ErrorKind::Auth);
    }
    let (store, credentials) = connected(ConnectionState::Active).await;
    assert_eq!(credentials.credential(id.clone()).await.unwrap_err().kind(), ErrorKind::Auth);
    assert_eq!(credentials.credential("nobody".into()).await.unwrap_err().kind(), ErrorKind::Auth);
    let nobody = credentials.store_credential(&"nobody".into(), &bearer("sk")).await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
    let broken = credentials.store_credential(&id, &bearer("sk\nline")).await.unwrap_err();
    assert_eq!(broken.kind(), ErrorKind::Config);
    assert_eq!(store.credential(id).await.unwrap(), None, "what cannot be sent is not kept");
}

/// Fails when opened keys are kept for every connection or tenant there ever was.
#[tokio::test(start_paused = true)]
async fn what_is_kept_in_memory_is_bounded() {
    let (_, credentials) = connected(ConnectionState::Active).await;
    let one = Credential::new(&bearer("sk"), 1, None).unwrap();
    for n in 0..CREDENTIALS_KEPT_MAX + 10 {
        credentials.keep(&ConnectionId::new(format!("conn-{n}")), &one);
    }
    assert_eq!(credentials.lock().len(), CREDENTIALS_KEPT_MAX);
    let key = Arc::new(aead(&Zeroizing::new([9; KEY_BYTES])).unwrap());
    for n in 0..TENANTS_KEPT_MAX + 10 {
        credentials.vault.keep(&TenantId::new(format!("tenant-{n}")), |keys| {
            keys.opened.insert(1, key.clone());
        });
    }
    assert_eq!(credentials.vault.lock().len(), TENANTS_KEPT_MAX);
}

/// Fails when what a person ended is begun again by itself, when a new key is not told from the old one, or when the
/// digest of a key stands in its row in plain.
#[tokio::test(start_paused = true)]
async fn an_erased_key_is_told_from_another_one() {
    use crate::store::Grants;
    let (store, credentials) = connected(ConnectionState::Active).await;
    let id = ConnectionId::new("conn-1");
    let keep = async |key: &str| credentials.store_if_changed(&id, &bearer(key)).await.unwrap();
    let erase = async || assert!(store.disconnect(id.clone(), Vec::new(), Timestamp(0)).await.unwrap());
    let row = async || store.credential(id.clone()).await.unwrap().unwrap();
    assert!(keep("old").await && !keep("old").await);
    assert!(!row().await.mark.windows(32).any(|part| part == credentials::mark(&bearer("old"))));
    erase().await;
    erase().await;
    assert!(!keep("old").await && row().await.blob.is_empty(), "the same key: it stays erased");
    assert!(keep("new").await && !row().await.blob.is_empty());
    erase().await;
    assert!(!keep("new").await && keep("old").await);
    // A row of a version that wrote no mark gets one, quietly; an erased one of it stays erased.
    let unmarked = async |blob: &[u8]| {
        let now = row().await;
        let bare = SealedCredential { generation: now.generation + 1, blob: blob.to_vec(), mark: Vec::new() };
        assert!(store.put_credential(id.clone(), now.generation, bare).await.unwrap());
    };
    unmarked(&[]).await;
    assert!(!keep("any").await && row().await.blob.is_empty());
    credentials.store_credential(&id, &bearer("old")).await.unwrap();
    let now = row().await;
    let bare = SealedCredential { mark: Vec::new(), ..now.clone() };
    assert!(store.put_credential(id.clone(), now.generation, bare).await.unwrap());
    assert!(!keep("old").await && !row().await.mark.is_empty());
}

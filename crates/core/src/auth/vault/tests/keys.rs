//! Master keys as text and as files, and the numbers of the seals.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::auth::vault::master::{LocalMasterKey, MasterKeyFile, MasterKeyRing};

#[test]
fn a_master_key_is_read_from_bytes_hex_or_base64() {
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let raw: Vec<u8> = (0..32).collect();
    let base64 = STANDARD.encode(&raw);
    let high = STANDARD.encode([0xfb; 31].iter().chain(&[0xff]).copied().collect::<Vec<u8>>());
    let safe = high.replace('+', "-").replace('/', "_");
    let id = |given: &[u8]| LocalMasterKey::parse(given, random.clone()).map(|key| key.id());
    for given in [
        raw.clone(),
        MASTER.as_bytes().to_vec(),
        MASTER.to_uppercase().into_bytes(),
        format!("  {MASTER}\r\n").into_bytes(),
        base64.clone().into_bytes(),
        format!("{}\n", base64.trim_end_matches('=')).into_bytes(),
    ] {
        assert_eq!(id(&given).unwrap(), MASTER_ID, "{:?}", String::from_utf8_lossy(&given));
    }
    assert_eq!(id(safe.as_bytes()).unwrap(), id(high.as_bytes()).unwrap());
    for wrong in [
        &b""[..],
        b"\n",
        b"secret",
        &raw[..31],
        &[0; 33],
        &[0; 32],
        &[0xff; 32],
        b"0123456789abcdef0123456789abcdef",
        "gg0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f".as_bytes(),
        "é00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1".as_bytes(),
        STANDARD.encode(&raw[..31]).as_bytes(),
        STANDARD.encode([1; 33]).as_bytes(),
    ] {
        let error = id(wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{:?}", String::from_utf8_lossy(wrong));
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

fn random() -> Arc<dyn Random> {
    Arc::new(SystemRandom)
}

/// Fails when the first key is not the one to begin with, when a key is lost, or when one counts twice.
#[tokio::test]
async fn a_ring_is_read_from_lines_or_a_list_newest_first() {
    let (new, old) = (LocalMasterKey::generate(&SystemRandom), MASTER);
    let new_id = LocalMasterKey::parse(new.as_bytes(), random()).unwrap().id();
    for text in [
        format!("{}\n{old}\n", new.as_str()),
        format!("# kept since 2026\r\n{}\r\n\r\n# old\r\n{old}\r\n{old}", new.as_str()),
        format!(" {} , {old},", new.as_str()),
    ] {
        let ring = MasterKeyRing::parse(text.as_bytes(), &random()).unwrap();
        assert_eq!((ring.id(), ring.ids()), (new_id.clone(), vec![new_id.as_str(), MASTER_ID]), "{text}");
        let key = Zeroizing::new([7; KEY_BYTES]);
        for id in [new_id.as_str(), MASTER_ID] {
            let wrapped = ring.wrap(id, &key, b"place").await.unwrap();
            assert_eq!(ring.unwrap(id, &wrapped, b"place").await.unwrap(), key);
        }
        let unknown = ring.wrap("local-0", &key, b"").await.unwrap_err();
        assert!(unknown.message().contains("local-0") && unknown.message().contains(MASTER_ID), "{unknown}");
        assert!(!format!("{ring:?}").contains(new.as_str()));
    }
    let many: Vec<_> = (0..33).map(|_| LocalMasterKey::generate(&SystemRandom).as_str().to_owned()).collect();
    for wrong in ["", "# nothing\n", "secret", &format!("{old}\nsecret"), &many.join(",")] {
        assert_eq!(MasterKeyRing::parse(wrong.as_bytes(), &random()).unwrap_err().kind(), ErrorKind::Config, "{wrong}");
    }
}

struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("palisade-keys-{:016x}", SystemRandom.bits()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Fails when a new key is not in front, when an old one is lost, or when a running process must be started again to
/// hear of it.
#[tokio::test]
async fn a_key_file_grows_and_is_read_again_when_a_key_is_missing() {
    let folder = Folder::new();
    let path = folder.0.join("master.key");
    let first = MasterKeyFile::init(&path, &random()).unwrap();
    assert_eq!(MasterKeyFile::init(&path, &random()).unwrap_err().kind(), ErrorKind::Config, "never overwritten");
    let running = MasterKeyFile::open(&path, random()).unwrap();
    let second = MasterKeyFile::add(&path, &random()).unwrap();
    assert_eq!(running.id(), first, "nothing asked for the new one yet");
    let key = Zeroizing::new([7; KEY_BYTES]);
    let wrapped = running.wrap(&second, &key, b"place").await.unwrap();
    assert_eq!(running.unwrap(&second, &wrapped, b"place").await.unwrap(), key);
    assert_eq!(running.id(), second);
    assert!(running.wrap(&first, &key, b"").await.is_ok(), "the old one still opens");
    assert!(running.wrap("local-0", &key, b"").await.unwrap_err().message().contains(&second));
    let left: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["master.key"], "nothing is left beside it");
    // A file of raw bytes grows too.
    let raw = folder.0.join("raw.key");
    let bytes: Vec<u8> = (0..32).collect();
    write_private(&raw, &bytes);
    let added = MasterKeyFile::add(&raw, &random()).unwrap();
    let ring = MasterKeyRing::parse(&std::fs::read(&raw).unwrap(), &random()).unwrap();
    assert_eq!(ring.ids(), [added.as_str(), MASTER_ID]);
}

fn write_private(path: &std::path::Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Fails when a file others can read is used, or when its content is told.
#[cfg(unix)]
#[test]
fn a_key_file_that_others_can_reach_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let path = folder.0.join("master.key");
    MasterKeyFile::init(&path, &random()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for (mode, taken) in
        [(0o600, true), (0o400, true), (0o440, true), (0o640, true), (0o660, false), (0o604, false), (0o644, false)]
    {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let opened = MasterKeyFile::open(&path, random());
        assert_eq!(opened.is_ok(), taken, "{mode:o}");
        if let Err(error) = opened {
            assert!(error.message().contains("chmod 600"), "{error}");
        }
    }
    for (name, content) in [("short", "c2hvcnQ=".to_owned()), ("empty", String::new()), ("long", "x".repeat(70_000))] {
        let path = folder.0.join(name);
        write_private(&path, content.as_bytes());
        let error = MasterKeyFile::open(&path, random()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(name) && !error.to_string().contains("c2hv"), "{error}");
    }
    assert_eq!(MasterKeyFile::open(folder.0.join("none"), random()).unwrap_err().kind(), ErrorKind::Config);
}

// ------------------------------------------------------------------------------------------ numbers of seals

fn number_of(blob: &[u8]) -> (u64, u32) {
    (u64::from_be_bytes(blob[1..9].try_into().unwrap()), u32::from_be_bytes(blob[9..13].try_into().unwrap()))
}

/// Fails when two processes are given the same number, or when a key seals more often than its bound, whoever uses it.
#[tokio::test]
async fn no_number_is_given_twice_and_the_bound_counts_all_processes() {
    let store = Arc::new(MemoryStore::new());
    let mut processes: Vec<_> = (0..4).map(|_| vault(&store)).collect();
    for process in &mut processes {
        (process.seals_max, process.seals_block) = (10, 3);
    }
    let (tenant, connection) = names();
    let own = place(&tenant, &connection);
    let mut blobs = Vec::new();
    for turn in 0..60 {
        // A process ends now and then, and another begins with nothing in memory.
        if turn % 17 == 16 {
            processes[turn % 4] = vault(&store);
            (processes[turn % 4].seals_max, processes[turn % 4].seals_block) = (10, 3);
        }
        blobs.push(processes[turn % 4].seal(own, SECRET).await.unwrap());
    }
    let numbers: BTreeSet<_> = blobs.iter().map(|blob| number_of(blob)).collect();
    assert_eq!(numbers.len(), 60, "no number twice");
    assert!(numbers.iter().all(|(_, number)| *number < 10), "{numbers:?}");
    let nonces: BTreeSet<_> = blobs.iter().map(|blob| &blob[9..21]).collect();
    assert_eq!(nonces.len(), 60, "no nonce twice");
    for blob in &blobs {
        assert_eq!(vault(&store).open(own, blob).await.unwrap().as_slice(), SECRET);
    }
    let newest = numbers.last().unwrap().0;
    assert!((7..=12).contains(&newest), "{newest} keys for 60 seals of 9 or 10 each, less what ended processes left");
}

/// Fails when a number is used before it is set aside.
#[tokio::test]
async fn nothing_is_sealed_when_no_number_can_be_set_aside() {
    let store = Arc::new(MemoryStore::new());
    let mut sealing = vault(&store);
    (sealing.seals_max, sealing.seals_block) = (2, 9);
    let (tenant, connection) = names();
    let own = place(&tenant, &connection);
    let numbers = async |vault: &Vault| number_of(&vault.seal(own, SECRET).await.unwrap());
    assert_eq!(numbers(&sealing).await, (1, 0));
    assert_eq!(numbers(&sealing).await, (1, 1));
    assert_eq!(numbers(&sealing).await, (2, 0), "a block is never larger than a key's bound");
    // The highest number there can be has no successor.
    let master = store.active_master(String::new()).await.unwrap();
    store.add_data_key(tenant.clone(), WrappedKey { id: u64::MAX, master, wrapped: Vec::new() }).await.unwrap();
    store.reserve_seals(tenant.clone(), u64::MAX, 2, 2).await.unwrap();
    sealing.turn(&tenant);
    assert_eq!(sealing.seal(own, SECRET).await.unwrap_err().kind(), ErrorKind::Store);
}

/// Fails when the random half is left out: a store put back to a backup gives the same numbers again.
#[tokio::test]
async fn a_store_put_back_to_a_backup_gives_no_nonce_twice() {
    let nonces = async || {
        // The same key, the same numbers.
        let store = Arc::new(MemoryStore::new());
        let wrapped = unhex(WRAPPED);
        let key = WrappedKey { id: 1, master: MASTER_ID.to_owned(), wrapped };
        store.add_data_key("tenant-1".into(), key).await.unwrap();
        let (tenant, connection) = names();
        let mut nonces = Vec::new();
        for _ in 0..9 {
            nonces.push(vault(&store).seal(place(&tenant, &connection), SECRET).await.unwrap()[9..21].to_vec());
        }
        nonces
    };
    let (before, after) = (nonces().await, nonces().await);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before[..4], after[..4]);
        assert_ne!(before[4..], after[4..]);
    }
}

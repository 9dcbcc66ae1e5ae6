//! Master keys: what wraps data keys, held in memory, in a file, or by somebody else behind [`MasterKey`].

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_lc_rs::aead::{LessSafeKey, NONCE_LEN};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use zeroize::Zeroizing;

use super::{VERSION, aead, open_sealed, seal_onto};
use crate::error::{Error, ErrorKind, Result};
use crate::random::Random;

/// The length of every key, in bytes.
pub const KEY_BYTES: usize = 32;
/// The most keys in a ring or a file: a rotation adds one, and old ones go when nothing needs them.
const KEYS_MAX: usize = 32;
/// The largest key file read, in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A key in plain, wiped when dropped.
pub type PlainKey = Zeroizing<[u8; KEY_BYTES]>;

/// Wraps data keys. A master key serves all tenants; it never leaves its holder. Which of a holder's keys wraps is
/// decided by the register in the store ([`crate::store::Keys::active_master`]).
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait MasterKey: Send + Sync + fmt::Debug + 'static {
    /// Returns the name of the key to begin with where the register has none.
    fn id(&self) -> String;

    /// Wraps a data key by the master key `master`, bound to `aad`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the holder does not have that master key or cannot wrap.
    async fn wrap(&self, master: &str, key: &PlainKey, aad: &[u8]) -> Result<Vec<u8>>;

    /// Opens a data key that the master key `master` wrapped, bound to `aad`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the holder does not have that master key, or it does not open with it.
    async fn unwrap(&self, master: &str, wrapped: &[u8], aad: &[u8]) -> Result<PlainKey>;
}

/// One master key in this process's memory.
pub struct LocalMasterKey {
    id: String,
    key: LessSafeKey,
    random: Arc<dyn Random>,
}

impl LocalMasterKey {
    /// Takes 32 random bytes. The key's name is made of a hash of it, so that a wrong key is told as such.
    ///
    /// `random` must be fit for nonces ([`crate::random::SystemRandom`]).
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when all bytes are the same: that is a placeholder, not a key.
    pub fn new(bytes: &PlainKey, random: Arc<dyn Random>) -> Result<Self> {
        if bytes.iter().all(|byte| Some(byte) == bytes.first()) {
            return Err(Error::new(ErrorKind::Config, "the master key is one byte repeated: make a random one"));
        }
        let name = {
            use sha2::Digest;
            let mut hash = sha2::Sha256::new();
            hash.update(b"palisade.master-key.id.v1");
            hash.update(bytes.as_slice());
            hash.finalize()
        };
        let name: String = name.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { id: format!("local-{name}"), key: aead(bytes)?, random })
    }

    /// Reads a key as it stands in a file or variable: 32 raw bytes, or their hex or base64 (standard or URL-safe,
    /// padded or not), with white space around it.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it is none of these; the text is not in the error.
    pub fn parse(given: &[u8], random: Arc<dyn Random>) -> Result<Self> {
        let key = key_of(given).ok_or_else(|| {
            Error::new(ErrorKind::Config, "the master key must be 32 bytes, or the hex or base64 of 32 bytes")
        })?;
        Self::new(&key, random)
    }

    /// Makes a new random key, as the text that [`LocalMasterKey::parse`] reads. `random` must be fit for keys.
    #[must_use]
    pub fn generate(random: &dyn Random) -> Zeroizing<String> {
        let mut key = PlainKey::default();
        random.fill(key.as_mut_slice());
        Zeroizing::new(STANDARD.encode(key.as_slice()))
    }
}

fn key_of(given: &[u8]) -> Option<PlainKey> {
    if let Ok(raw) = <[u8; KEY_BYTES]>::try_from(given) {
        let raw = Zeroizing::new(raw);
        // 32 characters are a password or the hex of half a key: random bytes are never all printable.
        let is_text = raw.iter().all(u8::is_ascii_graphic);
        return (!is_text).then_some(raw);
    }
    let text = std::str::from_utf8(given).ok()?.trim();
    let bytes = Zeroizing::new(if text.len() == 2 * KEY_BYTES {
        let pairs = text.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect::<Option<_>>()?
    } else {
        let text = Zeroizing::new(format!("{}=", text.trim_end_matches('=')));
        STANDARD.decode(text.as_bytes()).or_else(|_| URL_SAFE.decode(text.as_bytes())).ok()?
    });
    Some(Zeroizing::new(<[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok()?))
}

#[async_trait]
impl MasterKey for LocalMasterKey {
    fn id(&self) -> String {
        self.id.clone()
    }

    async fn wrap(&self, master: &str, key: &PlainKey, aad: &[u8]) -> Result<Vec<u8>> {
        if master != self.id {
            return Err(not_given(master, &[self.id.as_str()]));
        }
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce);
        let mut wrapped = vec![VERSION];
        seal_onto(&mut wrapped, &self.key, nonce, aad, key.as_slice())?;
        Ok(wrapped)
    }

    async fn unwrap(&self, master: &str, wrapped: &[u8], aad: &[u8]) -> Result<PlainKey> {
        if master != self.id {
            return Err(not_given(master, &[self.id.as_str()]));
        }
        let opened = match wrapped.split_first() {
            Some((&VERSION, sealed)) => open_sealed(&self.key, aad, sealed),
            Some(_) | None => None,
        };
        let key = opened.and_then(|plain| <[u8; KEY_BYTES]>::try_from(plain.as_slice()).ok()).map(Zeroizing::new);
        key.ok_or_else(|| Error::new(ErrorKind::Config, "a data key does not open: its row was changed or moved"))
    }
}

fn not_given(master: &str, given: &[&str]) -> Error {
    let given = given.join(", ");
    Error::new(
        ErrorKind::Config,
        format!("the data is sealed under the master key {master}, and the one given is {given}: give both"),
    )
}

impl fmt::Debug for LocalMasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalMasterKey({})", self.id)
    }
}

/// Several master keys in this process's memory: the newest first, and old ones that still open.
pub struct MasterKeyRing {
    keys: Vec<LocalMasterKey>,
}

impl MasterKeyRing {
    /// Takes the keys, newest first. The same key twice counts once.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when there is none, or more than 32.
    pub fn new(keys: impl IntoIterator<Item = LocalMasterKey>) -> Result<Self> {
        let mut kept: Vec<LocalMasterKey> = Vec::new();
        for key in keys {
            if kept.iter().all(|known| known.id != key.id) {
                kept.push(key);
            }
        }
        match kept.len() {
            0 => Err(Error::new(ErrorKind::Config, "there is no master key: make one")),
            1..=KEYS_MAX => Ok(Self { keys: kept }),
            _ => Err(Error::new(ErrorKind::Config, format!("there are more than {KEYS_MAX} master keys: retire some"))),
        }
    }

    /// Reads keys as they stand in a file or variable: one as [`LocalMasterKey::parse`] takes it, or several as text,
    /// on lines of their own or between commas, newest first. Lines that begin with `#` are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] as [`LocalMasterKey::parse`] and [`MasterKeyRing::new`].
    pub fn parse(given: &[u8], random: &Arc<dyn Random>) -> Result<Self> {
        if let Some(key) = key_of(given) {
            return Self::new([LocalMasterKey::new(&key, Arc::clone(random))?]);
        }
        let text = std::str::from_utf8(given).map_err(|_| {
            Error::new(ErrorKind::Config, "the master key must be 32 bytes, or the hex or base64 of 32 bytes")
        })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
        let keys = lines.flat_map(|line| line.split(',')).map(str::trim).filter(|key| !key.is_empty());
        let keys: Vec<_> =
            keys.map(|key| LocalMasterKey::parse(key.as_bytes(), Arc::clone(random))).collect::<Result<_>>()?;
        Self::new(keys)
    }

    /// Returns the names of the keys, newest first.
    #[must_use]
    pub fn ids(&self) -> Vec<&str> {
        self.keys.iter().map(|key| key.id.as_str()).collect()
    }

    fn holds(&self, master: &str) -> bool {
        self.keys.iter().any(|key| key.id == master)
    }

    fn key(&self, master: &str) -> Result<&LocalMasterKey> {
        self.keys.iter().find(|key| key.id == master).ok_or_else(|| not_given(master, &self.ids()))
    }
}

#[async_trait]
impl MasterKey for MasterKeyRing {
    fn id(&self) -> String {
        self.keys.first().map(|key| key.id.clone()).unwrap_or_default()
    }

    async fn wrap(&self, master: &str, key: &PlainKey, aad: &[u8]) -> Result<Vec<u8>> {
        self.key(master)?.wrap(master, key, aad).await
    }

    async fn unwrap(&self, master: &str, wrapped: &[u8], aad: &[u8]) -> Result<PlainKey> {
        self.key(master)?.unwrap(master, wrapped, aad).await
    }
}

impl fmt::Debug for MasterKeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKeyRing({})", self.ids().join(", "))
    }
}

/// Master keys in a file of their own, newest first. When a key is asked for that the file did not have, it is read
/// again: a rotation by another process reaches a running one without a restart.
pub struct MasterKeyFile {
    path: PathBuf,
    random: Arc<dyn Random>,
    ring: Mutex<Arc<MasterKeyRing>>,
}

impl MasterKeyFile {
    /// Reads the file. `random` must be fit for nonces.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it cannot be read, its group can change it or others can read it, or as
    /// [`MasterKeyRing::parse`]. The text says what to do, never what stands in the file.
    pub fn open(path: impl Into<PathBuf>, random: Arc<dyn Random>) -> Result<Self> {
        let path = path.into();
        let ring = Mutex::new(Arc::new(read(&path, &random)?));
        Ok(Self { path, random, ring })
    }

    /// Makes a key file with one new key, for the owner only. Returns the key's name.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the file is there already, or cannot be written.
    pub fn init(path: &Path, random: &Arc<dyn Random>) -> Result<String> {
        let key = LocalMasterKey::generate(random.as_ref());
        let id = LocalMasterKey::parse(key.as_bytes(), Arc::clone(random))?.id();
        let text = Zeroizing::new(format!("{}\n", key.as_str()));
        write_new(path, text.as_bytes()).map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                return refused(path, "is there already: it is not touched");
            }
            refused(path, &format!("cannot be written ({})", error.kind()))
        })?;
        Ok(id)
    }

    /// Adds a new key in front of those in the file; the old ones stay. The file is replaced in one step. Returns the
    /// new key's name.
    ///
    /// # Errors
    /// As [`MasterKeyFile::open`]; [`ErrorKind::Config`] when the file cannot be replaced.
    pub fn add(path: &Path, random: &Arc<dyn Random>) -> Result<String> {
        let old = read_text(path)?;
        let ring = MasterKeyRing::parse(&old, random)?;
        if ring.keys.len() >= KEYS_MAX {
            return Err(refused(path, &format!("holds {KEYS_MAX} keys already: retire some and take them out")));
        }
        let key = LocalMasterKey::generate(random.as_ref());
        let id = LocalMasterKey::parse(key.as_bytes(), Arc::clone(random))?.id();
        let mut text = Zeroizing::new(Vec::with_capacity(key.len() + 1 + old.len().max(64) + 1));
        text.extend_from_slice(key.as_bytes());
        text.push(b'\n');
        match <[u8; KEY_BYTES]>::try_from(old.as_slice()) {
            // One key as raw bytes: it cannot stand among lines as it is.
            Ok(raw) => {
                let raw = Zeroizing::new(raw);
                text.extend_from_slice(Zeroizing::new(STANDARD.encode(raw.as_slice())).as_bytes());
                text.push(b'\n');
            }
            Err(_) => text.extend_from_slice(&old),
        }
        let beside = path.with_extension(format!("new-{:08x}", random.bits() & 0xffff_ffff));
        let failed = |error: std::io::Error| refused(path, &format!("cannot be replaced ({})", error.kind()));
        write_new(&beside, &text).map_err(failed)?;
        std::fs::rename(&beside, path).map_err(failed)?;
        Ok(id)
    }

    /// Returns the names of the keys it has read, newest first.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.ring().ids().into_iter().map(str::to_owned).collect()
    }

    fn ring(&self) -> Arc<MasterKeyRing> {
        Arc::clone(&self.ring.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a ring with that key: the one in memory, or what stands in the file by now.
    fn with(&self, master: &str) -> Result<Arc<MasterKeyRing>> {
        let ring = self.ring();
        if ring.holds(master) {
            return Ok(ring);
        }
        let fresh = Arc::new(read(&self.path, &self.random)?);
        *self.ring.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
        Ok(fresh)
    }
}

#[async_trait]
impl MasterKey for MasterKeyFile {
    fn id(&self) -> String {
        self.ring().id()
    }

    async fn wrap(&self, master: &str, key: &PlainKey, aad: &[u8]) -> Result<Vec<u8>> {
        self.with(master)?.wrap(master, key, aad).await
    }

    async fn unwrap(&self, master: &str, wrapped: &[u8], aad: &[u8]) -> Result<PlainKey> {
        self.with(master)?.unwrap(master, wrapped, aad).await
    }
}

impl fmt::Debug for MasterKeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKeyFile({}: {})", self.path.display(), self.ring().ids().join(", "))
    }
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("the key file {} {why}", path.display()))
}

fn read(path: &Path, random: &Arc<dyn Random>) -> Result<MasterKeyRing> {
    MasterKeyRing::parse(&read_text(path)?, random)
        .map_err(|error| refused(path, &format!("is of no use: {}", error.message())))
}

fn read_text(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: std::io::Error| refused(path, &format!("cannot be read ({}): check the path", error.kind()));
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    check_mode(path, &about)?;
    if about.len() > FILE_BYTES_MAX {
        return Err(refused(path, "is too large for one: is it the right file?"));
    }
    // Read in one piece, so that no buffer is left behind unwiped. A file that is changed meanwhile is replaced whole.
    let mut text = Zeroizing::new(vec![0; usize::try_from(about.len()).unwrap_or(0)]);
    file.read_exact(&mut text).map_err(failed)?;
    Ok(text)
}

/// Refuses a file that others than its owner and group can read, or that its group can change.
#[cfg(unix)]
fn check_mode(path: &Path, about: &std::fs::Metadata) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o027 != 0 {
        let why = format!("has mode {mode:04o}, so others can reach it: chmod 600 {}", path.display());
        return Err(refused(path, &why));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_path: &Path, _about: &std::fs::Metadata) -> Result<()> {
    Ok(())
}

/// Writes a file that must not be there yet, for its owner only, down to the disk.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

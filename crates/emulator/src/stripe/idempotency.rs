//! Remembers the first result of each idempotency key (Stripe API reference, idempotent requests).

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;

use super::error::Failure;

/// How long a key is kept, in seconds.
const AGE_MAX: i64 = 24 * 3600;
/// How many keys are kept at most; the oldest go first.
const KEYS_MAX: usize = 200_000;
/// Longest key Stripe accepts.
const KEY_MAX: usize = 255;

/// A result as it was first given.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    pub(crate) request: String,
}

#[derive(Debug)]
struct Entry {
    fingerprint: u64,
    result: Option<Stored>,
}

/// What to do with a request that carries a key.
#[derive(Debug)]
pub(crate) enum Claim {
    /// Nobody used the key: run, then settle or release.
    Run,
    /// Give the first result again.
    Replay(Stored),
}

/// All keys of all accounts.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    entries: HashMap<(String, String), Entry>,
    order: VecDeque<(i64, (String, String))>,
}

/// Digests what must be equal when a key is used again.
pub(crate) fn fingerprint(method: &str, path: &str, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (method, path, body).hash(&mut hasher);
    hasher.finish()
}

impl Keys {
    /// Claims a key for a request.
    ///
    /// # Errors
    /// 400 when the key is too long or was used with other parameters, 409 while its first request still runs.
    pub(crate) fn claim(&mut self, account: &str, key: &str, fingerprint: u64, now: i64) -> Result<Claim, Failure> {
        if key.len() > KEY_MAX {
            return Err(
                Failure::invalid("Idempotency-Key must be at most 255 characters.").with("type", "idempotency_error")
            );
        }
        self.prune(now);
        let name = (account.to_owned(), key.to_owned());
        if let Some(entry) = self.entries.get(&name) {
            if entry.fingerprint != fingerprint {
                let message = "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using a key other than '".to_owned()
                    + key
                    + "' if you meant to execute a different request.";
                return Err(Failure::new(400, "idempotency_error", message));
            }
            return match &entry.result {
                Some(stored) => Ok(Claim::Replay(stored.clone())),
                None => Err(Failure::new(
                    409,
                    "invalid_request_error",
                    format!("There is currently another in-progress request using this Idempotent Key (that probably means you submitted twice, and the other request is still going through): {key}. Please try again later."),
                )
                .code("idempotency_key_in_use")),
            };
        }
        self.order.push_back((now, name.clone()));
        self.entries.insert(name, Entry { fingerprint, result: None });
        Ok(Claim::Run)
    }

    /// Puts the result of a key's first request back, as the journal says.
    pub(crate) fn restore(&mut self, account: String, key: String, fingerprint: u64, at: i64, stored: Stored) {
        let name = (account, key);
        self.order.push_back((at, name.clone()));
        self.entries.insert(name, Entry { fingerprint, result: Some(stored) });
    }

    /// Keeps the result of a key's first request.
    pub(crate) fn settle(&mut self, account: &str, key: &str, stored: Stored) {
        if let Some(entry) = self.entries.get_mut(&(account.to_owned(), key.to_owned())) {
            entry.result = Some(stored);
        }
    }

    /// Forgets a key whose request never began.
    pub(crate) fn release(&mut self, account: &str, key: &str) {
        let name = (account.to_owned(), key.to_owned());
        if self.entries.remove(&name).is_some()
            && let Some(at) = self.order.iter().rposition(|(_, known)| *known == name)
        {
            self.order.remove(at);
        }
    }

    fn prune(&mut self, now: i64) {
        while self.order.front().is_some_and(|(at, _)| *at < now - AGE_MAX) || self.order.len() > KEYS_MAX {
            if let Some((_, name)) = self.order.pop_front() {
                self.entries.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(status: u16) -> Stored {
        Stored { status, body: Bytes::from_static(b"{}"), request: "req_1".to_owned() }
    }

    #[test]
    fn a_key_runs_once_and_then_replays() {
        let mut keys = Keys::default();
        assert!(matches!(keys.claim("", "k", 1, 0), Ok(Claim::Run)));
        assert_eq!(keys.claim("", "k", 1, 0).err().map(|failure| failure.status), Some(409));
        assert_eq!(keys.claim("", "k", 2, 0).err().map(|failure| failure.status), Some(400));
        keys.settle("", "k", stored(500));
        assert!(matches!(keys.claim("", "k", 1, 0), Ok(Claim::Replay(Stored { status: 500, .. }))));
        assert!(matches!(keys.claim("acct_1", "k", 1, 0), Ok(Claim::Run)));
        assert!(matches!(keys.claim("", "k", 9, AGE_MAX + 1), Ok(Claim::Run)), "pruned after a day");
        assert!(keys.claim("", &"x".repeat(256), 1, 0).is_err());
    }

    #[test]
    fn a_released_key_is_new_again() {
        let mut keys = Keys::default();
        assert!(matches!(keys.claim("", "k", 1, 0), Ok(Claim::Run)));
        keys.release("", "k");
        assert!(matches!(keys.claim("", "k", 2, 0), Ok(Claim::Run)));
    }
}
